//! What is told without being asked for: `containerd.events`, sent with `Forward` of
//! `containerd.services.events.ttrpc.v1.Events`.

use serde::{Deserialize, Serialize};

use super::{Any, Mount, Timestamp};
use crate::frontend::containerd::wire::{Message, message};

message! {
    /// `ForwardRequest`.
    Forward {
        /// The event.
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
        /// The event.
        4 event: Option<Any>,
    }
    /// `TaskCreate`.
    TaskCreate {
        /// The container's id.
        1 container_id: String,
        /// Its bundle.
        2 bundle: String,
        /// What was mounted.
        3 rootfs: Vec<Mount>,
        /// Its stdio.
        4 io: Option<TaskIo>,
        /// What it was restored from.
        5 checkpoint: String,
        /// Its process id.
        6 pid: u32,
    }
    /// `TaskIO`.
    TaskIo {
        /// Input.
        1 stdin: String,
        /// Output.
        2 stdout: String,
        /// Errors.
        3 stderr: String,
        /// Whether it has a terminal.
        4 terminal: bool,
    }
    /// `TaskStart`.
    TaskStart {
        /// The container's id.
        1 container_id: String,
        /// Its process id.
        2 pid: u32,
    }
    /// `TaskExit`.
    TaskExit {
        /// The container's id.
        1 container_id: String,
        /// The exec's id, or again the container's.
        2 id: String,
        /// The process id.
        3 pid: u32,
        /// How it ended.
        4 exit_status: u32,
        /// When.
        5 exited_at: Option<Timestamp>,
    }
    /// `TaskDelete`.
    TaskDelete {
        /// The container's id.
        1 container_id: String,
        /// Its process id.
        2 pid: u32,
        /// How it had ended.
        3 exit_status: u32,
        /// When.
        4 exited_at: Option<Timestamp>,
    }
    /// `TaskOOM`, `TaskPaused` and `TaskResumed`.
    TaskNamed {
        /// The container's id.
        1 container_id: String,
    }
    /// `TaskExecAdded` and, with a process id, `TaskExecStarted`.
    TaskExec {
        /// The container's id.
        1 container_id: String,
        /// The exec's id.
        2 exec_id: String,
        /// Its process id.
        3 pid: u32,
    }
    /// `TaskCheckpointed`.
    TaskCheckpointed {
        /// The container's id.
        1 container_id: String,
        /// The directory of the images.
        2 checkpoint: String,
    }
}

/// An event of a task, as it is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskEvent {
    /// Its topic.
    pub topic: Topic,
    /// The message, with its name.
    pub message: Any,
}

/// The events that there are: the end of the topic and the message's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

    /// Its name: `/tasks/...`.
    pub fn name(self) -> &'static str {
        self.names().0
    }

    /// The event with this message.
    pub fn with(self, message: &impl Message) -> TaskEvent {
        TaskEvent { topic: self, message: Any { type_url: self.names().1.into(), value: message.encode() } }
    }
}
