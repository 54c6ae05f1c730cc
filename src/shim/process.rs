//! Processes from the view of a front end: their descriptions and their states.

use std::ffi::OsString;
use std::path::PathBuf;

use super::{ExitFile, ExitStatus, ProcessId, Stdio};

/// A process to be made.
#[derive(Debug)]
pub struct NewProcess {
    pub id: ProcessId,
    pub stdio: Stdio,
    /// The file to which the runtime writes the process id.
    pub pid_file: PathBuf,
    /// For an exec: the file with the OCI process.
    pub process_file: Option<PathBuf>,
    pub making: Making,
    /// More arguments after the verb: `--no-pivot`, `--image-path D`.
    pub arguments: Vec<OsString>,
    /// Numbers of inherited descriptors that the runtime passes on to the process.
    pub preserve_fds: Vec<i32>,
    /// Files that are written, synced and renamed before the end is reported.
    pub exit_files: Vec<ExitFile>,
}

/// How the runtime makes a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Making {
    /// `create`: init of a new container.
    Create,
    /// `restore`: init of a container from a checkpoint.
    Restore,
    /// `exec`: another process in a container.
    Exec,
}

impl Making {
    /// The runtime's verb.
    pub(super) fn verb(self) -> &'static str {
        match self {
            Making::Create => "create",
            Making::Restore => "restore",
            Making::Exec => "exec",
        }
    }
}

/// The flag with which `restore` makes init and leaves the rest to `start`. Only windlass has it.
pub const HOLD: &str = "--hold";

impl NewProcess {
    /// Whether the process runs as soon as the runtime has made it: an exec, and a container from a checkpoint whose
    /// runtime cannot hold it until `start`.
    pub(super) fn runs_when_made(&self) -> bool {
        !self.id.is_init() || (self.making != Making::Create && !self.is_held())
    }

    /// Whether the process comes from a checkpoint and waits for `start`.
    pub(super) fn is_held(&self) -> bool {
        self.making == Making::Restore && self.arguments.iter().any(|word| word == HOLD)
    }
}

/// The phases of a process's life that a front end sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The process is known, but the runtime has not made it.
    Added,
    /// Init waits for `start`.
    Created,
    /// The process runs.
    Running,
    /// The container is frozen.
    Paused,
    /// The process has ended, and that was recorded, or could not be.
    Stopped,
}

/// The answer of [`super::Supervisor::state`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessState {
    pub phase: Phase,
    /// The process id; 0 before there is one.
    pub pid: i32,
    /// Whether the process has a terminal.
    pub terminal: bool,
    /// How the process ended, once it is stopped.
    pub exit: Option<ExitStatus>,
    /// Bytes of output that could not be written to a log or a fifo.
    pub dropped: u64,
    /// Bytes of output that wait for the reader of a fifo.
    pub unsent: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_runtime_that_holds_leaves_a_restored_container_to_start() {
        let process = |making, arguments: &[&str]| NewProcess {
            id: ProcessId::init("c"),
            stdio: Stdio::default(),
            pid_file: PathBuf::new(),
            process_file: None,
            making,
            arguments: arguments.iter().map(OsString::from).collect(),
            preserve_fds: Vec::new(),
            exit_files: Vec::new(),
        };
        let runs = |making, arguments| process(making, arguments).runs_when_made();
        assert_eq!([runs(Making::Create, &[]), runs(Making::Exec, &[HOLD])], [false, true]);
        let restored = |arguments| runs(Making::Restore, arguments);
        assert_eq!([restored(&["--detach"]), restored(&["--detach", HOLD])], [true, false]);
    }
}
