//! The messages of `containerd.task.v2` and `v3` (api/runtime/task), which are the same.

use super::{Any, Mount, Timestamp};
use windlass_base::protobuf::message;

message! {
    /// `CreateTaskRequest`.
    Create {
        1 id: String,
        /// The bundle's directory.
        2 bundle: String,
        /// The mounts of the bundle's `rootfs`, in order.
        3 rootfs: Vec<Mount>,
        4 terminal: bool,
        /// A path or URI, as for `stdout` and `stderr`.
        5 stdin: String,
        /// Where output goes.
        6 stdout: String,
        /// Where errors go.
        7 stderr: String,
        /// The directory of a checkpoint to restore.
        8 checkpoint: String,
        /// See [`super::options`].
        10 options: Option<Any>,
    }
    /// The request of `Start`, `Delete`, `State` and `Wait`. The requests of `Pids`, `Pause`, `Resume`, `Stats`,
    /// `Connect` and `Shutdown` have the first field only.
    Name {
        1 id: String,
        /// The exec's id; empty for init.
        2 exec_id: String,
    }
    /// `CreateTaskResponse` and `StartResponse`.
    Pid {
        1 pid: u32,
    }
    /// `DeleteResponse`.
    Deleted {
        /// The process id of the deleted process.
        1 pid: u32,
        /// The exit status, as a shell gives it.
        2 exit_status: u32,
        3 exited_at: Option<Timestamp>,
    }
    /// `ExecProcessRequest`.
    Exec {
        1 id: String,
        /// The new process's id.
        2 exec_id: String,
        3 terminal: bool,
        /// As with [`Create`].
        4 stdin: String,
        /// Where output goes.
        5 stdout: String,
        /// Where errors go.
        6 stderr: String,
        /// The OCI process, as JSON.
        7 spec: Option<Any>,
    }
    /// `ResizePtyRequest`.
    ResizePty {
        1 id: String,
        /// The exec's id; empty for init.
        2 exec_id: String,
        3 width: u32,
        4 height: u32,
    }
    /// `StateResponse`.
    State {
        1 id: String,
        2 bundle: String,
        3 pid: u32,
        /// `Status` of containerd.v1.types: see [`status`].
        4 status: i32,
        5 stdin: String,
        6 stdout: String,
        7 stderr: String,
        8 terminal: bool,
        /// The exit status, as a shell gives it.
        9 exit_status: u32,
        10 exited_at: Option<Timestamp>,
        11 exec_id: String,
    }
    /// `KillRequest`.
    Kill {
        1 id: String,
        /// The exec's id; empty for init.
        2 exec_id: String,
        /// The number of the signal.
        3 signal: u32,
        /// Whether every process of the container gets the signal.
        4 all: bool,
    }
    /// `CloseIORequest`.
    CloseIo {
        1 id: String,
        /// The exec's id; empty for init.
        2 exec_id: String,
        /// Whether standard input is closed.
        3 stdin: bool,
    }
    /// `PidsResponse`.
    Pids {
        /// All processes of the container.
        1 processes: Vec<ProcessInfo>,
    }
    /// `ProcessInfo` of containerd.v1.types.
    ProcessInfo {
        1 pid: u32,
        /// [`ProcessDetails`] for an exec.
        2 info: Option<Any>,
    }
    /// `ProcessDetails` of containerd.runc.v1.
    ProcessDetails {
        1 exec_id: String,
    }
    /// `CheckpointTaskRequest`.
    Checkpoint {
        1 id: String,
        /// The directory for the images.
        2 path: String,
        /// [`super::options::Checkpoint`].
        3 options: Option<Any>,
    }
    /// `UpdateTaskRequest`.
    Update {
        1 id: String,
        /// The OCI resources, as JSON.
        2 resources: Option<Any>,
    }
    /// `WaitResponse`.
    Exited {
        /// The exit status, as a shell gives it.
        1 exit_status: u32,
        2 exited_at: Option<Timestamp>,
    }
    /// `StatsResponse`.
    Stats {
        /// See `crate::frontend::containerd::stats`.
        1 stats: Option<Any>,
    }
    /// `ConnectResponse`.
    Connected {
        /// The shim's process id.
        1 shim_pid: u32,
        /// The process id of init, or 0.
        2 task_pid: u32,
        3 version: String,
    }
}

/// `containerd.v1.types.Status`.
pub mod status {
    /// Created, not started.
    pub const CREATED: i32 = 1;
    pub const RUNNING: i32 = 2;
    pub const STOPPED: i32 = 3;
    /// Frozen by `Pause`.
    pub const PAUSED: i32 = 4;
}
