//! `containerd.task.v2` and `v3` (api/runtime/task): the same messages under two names.

use super::{Any, Mount, Timestamp};
use crate::frontend::containerd::wire::message;

message! {
    /// `CreateTaskRequest`.
    Create {
        /// The container's id.
        1 id: String,
        /// The bundle's directory.
        2 bundle: String,
        /// What to mount at the bundle's `rootfs`, in this order.
        3 rootfs: Vec<Mount>,
        /// Whether it has a terminal.
        4 terminal: bool,
        /// A path or URI, as the next two.
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
    /// The request of the methods that name a process: `Start`, `Delete`, `State`, `Wait`; those
    /// that name a container have the first field alone: `Pids`, `Pause`, `Resume`, `Stats`,
    /// `Connect`, `Shutdown`.
    Name {
        /// The container's id.
        1 id: String,
        /// The exec's id; empty for init.
        2 exec_id: String,
    }
    /// `CreateTaskResponse` and `StartResponse`.
    Pid {
        /// The process id.
        1 pid: u32,
    }
    /// `DeleteResponse`.
    Deleted {
        /// The process id it had.
        1 pid: u32,
        /// How it ended, as a shell has it.
        2 exit_status: u32,
        /// When.
        3 exited_at: Option<Timestamp>,
    }
    /// `ExecProcessRequest`.
    Exec {
        /// The container's id.
        1 id: String,
        /// The new process's id.
        2 exec_id: String,
        /// Whether it has a terminal.
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
        /// The container's id.
        1 id: String,
        /// The exec's id; empty for init.
        2 exec_id: String,
        /// Characters per line.
        3 width: u32,
        /// Lines.
        4 height: u32,
    }
    /// `StateResponse`.
    State {
        /// The container's id.
        1 id: String,
        /// Its bundle.
        2 bundle: String,
        /// The process id.
        3 pid: u32,
        /// `Status` of containerd.v1.types: see [`status`].
        4 status: i32,
        /// As it was given.
        5 stdin: String,
        /// As it was given.
        6 stdout: String,
        /// As it was given.
        7 stderr: String,
        /// Whether it has a terminal.
        8 terminal: bool,
        /// How it ended.
        9 exit_status: u32,
        /// When.
        10 exited_at: Option<Timestamp>,
        /// The exec's id.
        11 exec_id: String,
    }
    /// `KillRequest`.
    Kill {
        /// The container's id.
        1 id: String,
        /// The exec's id; empty for init.
        2 exec_id: String,
        /// The number of the signal.
        3 signal: u32,
        /// Whether every process of the container gets it.
        4 all: bool,
    }
    /// `CloseIORequest`.
    CloseIo {
        /// The container's id.
        1 id: String,
        /// The exec's id; empty for init.
        2 exec_id: String,
        /// Whether its input is closed.
        3 stdin: bool,
    }
    /// `PidsResponse`.
    Pids {
        /// All processes of the container.
        1 processes: Vec<ProcessInfo>,
    }
    /// `ProcessInfo` of containerd.v1.types.
    ProcessInfo {
        /// The process id.
        1 pid: u32,
        /// [`ProcessDetails`] for an exec.
        2 info: Option<Any>,
    }
    /// `ProcessDetails` of containerd.runc.v1.
    ProcessDetails {
        /// The exec's id.
        1 exec_id: String,
    }
    /// `CheckpointTaskRequest`.
    Checkpoint {
        /// The container's id.
        1 id: String,
        /// The directory for the images.
        2 path: String,
        /// [`super::options::Checkpoint`].
        3 options: Option<Any>,
    }
    /// `UpdateTaskRequest`.
    Update {
        /// The container's id.
        1 id: String,
        /// The OCI resources, as JSON.
        2 resources: Option<Any>,
    }
    /// `WaitResponse`.
    Exited {
        /// How it ended.
        1 exit_status: u32,
        /// When.
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
        /// Init's, or 0.
        2 task_pid: u32,
        /// The shim's version.
        3 version: String,
    }
}

/// `containerd.v1.types.Status`.
pub mod status {
    /// It waits for start.
    pub const CREATED: i32 = 1;
    /// It runs.
    pub const RUNNING: i32 = 2;
    /// It has ended.
    pub const STOPPED: i32 = 3;
    /// It is frozen.
    pub const PAUSED: i32 = 4;
}
