//! The events of tasks (`containerd.events`), which a shim sends to containerd with `Forward` of
//! `containerd.services.events.ttrpc.v1.Events`.

use super::{Any, Mount, Timestamp};
use windlass_base::protobuf::{Message, message};

message! {
    /// `ForwardRequest`.
    Forward {
        1 envelope: Option<Envelope>,
    }
    /// `containerd.types.Envelope`.
    Envelope {
        /// When it happened. It stays the same when the event is sent again.
        1 timestamp: Option<Timestamp>,
        /// containerd's namespace.
        2 namespace: String,
        /// `/tasks/...`.
        3 topic: String,
        4 event: Option<Any>,
    }
    /// `TaskCreate`.
    TaskCreate {
        1 container_id: String,
        2 bundle: String,
        /// The mounts of the root filesystem.
        3 rootfs: Vec<Mount>,
        /// The stdio of init.
        4 io: Option<TaskIo>,
        /// The checkpoint that the container was restored from.
        5 checkpoint: String,
        6 pid: u32,
    }
    /// `TaskIO`.
    TaskIo {
        1 stdin: String,
        2 stdout: String,
        3 stderr: String,
        4 terminal: bool,
    }
    /// `TaskStart`.
    TaskStart {
        1 container_id: String,
        2 pid: u32,
    }
    /// `TaskExit`.
    TaskExit {
        1 container_id: String,
        /// The exec's id; for init, the container's id.
        2 id: String,
        3 pid: u32,
        /// The exit status.
        4 exit_status: u32,
        5 exited_at: Option<Timestamp>,
    }
    /// `TaskDelete`.
    TaskDelete {
        1 container_id: String,
        2 pid: u32,
        /// The exit status.
        3 exit_status: u32,
        4 exited_at: Option<Timestamp>,
    }
    /// `TaskOOM`, `TaskPaused` and `TaskResumed`.
    TaskNamed {
        1 container_id: String,
    }
    /// `TaskExecAdded` and, with a process id, `TaskExecStarted`.
    TaskExec {
        1 container_id: String,
        2 exec_id: String,
        3 pid: u32,
    }
    /// `TaskCheckpointed`.
    TaskCheckpointed {
        1 container_id: String,
        /// The directory of the images.
        2 checkpoint: String,
    }
}

/// An event with its topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskEvent {
    pub topic: Topic,
    /// The message, with its name.
    pub message: Any,
}

/// The kinds of events. Each has a topic and a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// [`TaskCreate`].
    Create,
    /// [`TaskStart`].
    Start,
    /// [`TaskExit`].
    Exit,
    /// [`TaskDelete`].
    Delete,
    /// [`TaskNamed`].
    Oom,
    /// [`TaskNamed`].
    Paused,
    /// [`TaskNamed`].
    Resumed,
    /// [`TaskExec`].
    ExecAdded,
    /// [`TaskExec`].
    ExecStarted,
    /// [`TaskCheckpointed`].
    Checkpointed,
}

impl Topic {
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Topic::Create => ("/tasks/create", "containerd.events.TaskCreate"),
            Topic::Start => ("/tasks/start", "containerd.events.TaskStart"),
            Topic::Exit => ("/tasks/exit", "containerd.events.TaskExit"),
            Topic::Delete => ("/tasks/delete", "containerd.events.TaskDelete"),
            Topic::Oom => ("/tasks/oom", "containerd.events.TaskOOM"),
            Topic::Paused => ("/tasks/paused", "containerd.events.TaskPaused"),
            Topic::Resumed => ("/tasks/resumed", "containerd.events.TaskResumed"),
            Topic::ExecAdded => ("/tasks/exec-added", "containerd.events.TaskExecAdded"),
            Topic::ExecStarted => ("/tasks/exec-started", "containerd.events.TaskExecStarted"),
            Topic::Checkpointed => ("/tasks/checkpointed", "containerd.events.TaskCheckpointed"),
        }
    }

    /// The topic's name: `/tasks/...`.
    pub fn name(self) -> &'static str {
        self.names().0
    }

    /// The event with this message.
    pub fn with(self, message: &impl Message) -> TaskEvent {
        TaskEvent { topic: self, message: Any { type_url: self.names().1.into(), value: message.encode() } }
    }
}
