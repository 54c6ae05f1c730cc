//! The requests of a front end, their answers, and the events that a front end gets.

use std::ffi::OsString;
use std::rc::Rc;

use super::{ExitStatus, NewProcess, Phase, ProcessId, Refusal};

/// Names a request whose answer comes later: [`Event::Finished`] carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WaitToken(pub u64);

/// A request. The state of a process needs none: [`super::Supervisor::state`] returns it at once.
///
/// `R` is the runtime with its global arguments.
#[derive(Debug)]
pub enum Request {
    /// Runs `R create` (or `restore`) for a container that [`super::Supervisor::open`] has made known. The later
    /// answer is [`Reply::Pid`].
    Create(NewProcess),
    /// Makes an exec known; nothing runs yet. It is answered at once with [`Reply::Done`]. A protocol that restores a
    /// checkpoint only at the start makes init known in the same way.
    AddExec(NewProcess),
    /// Runs `R start` for init (`R create` or `restore` if nothing runs yet), and `R exec --detach` for an exec. The
    /// later answer is [`Reply::Pid`].
    Start(ProcessId),
    /// Sends a signal: to init by `R kill [--all]`, which is answered later, to an exec through its pidfd, which is
    /// answered at once.
    Kill {
        /// The process that gets it.
        process: ProcessId,
        /// The number of the signal.
        signal: i32,
        /// Whether every process of the container gets it.
        all: bool,
    },
    /// Runs any other verb: `R ARGUMENTS... ID`. The later answer is [`Reply::Output`], or the message of the
    /// runtime.
    Call {
        /// The container.
        container: Rc<str>,
        /// The verb and its arguments without the id, for example `["update", "--resources", "/path"]`.
        arguments: Vec<OsString>,
        /// The phase of init when the verb has succeeded; `None` for verbs that do not change it.
        then: Option<Phase>,
    },
    /// Sets the size of the terminal.
    Resize {
        /// The process with the terminal.
        process: ProcessId,
        /// Lines.
        rows: u16,
        /// Characters per line.
        columns: u16,
    },
    /// Ends the input: the process reads the bytes that were sent before, and then the end of file.
    CloseStdin(ProcessId),
    /// Opens the log files again, by their names.
    ReopenLogs(ProcessId),
    /// Waits for the end. The answer is [`Reply::Exited`]. It comes at once if the end was reported.
    Wait(ProcessId),
    /// Forgets a process that has ended or was never started. For init it runs `R delete` first. The answer is
    /// [`Reply::Deleted`].
    Delete {
        /// The process.
        process: ProcessId,
        /// Whether a container that runs is killed (`R delete --force`).
        force: bool,
    },
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The request is done.
    Done,
    /// The request is done, and this is the process id.
    Pid(i32),
    /// The request is done, and this is the standard output of the runtime.
    Output(Vec<u8>),
    /// How the process ended.
    Exited(ExitStatus),
    /// The process is forgotten.
    Deleted {
        /// The process id; 0 if the process never ran.
        pid: i32,
        /// How the process had ended, if it had ever run.
        status: Option<ExitStatus>,
    },
    /// The answer comes as [`Event::Finished`] with this token.
    Pending(WaitToken),
}

/// An event for the front end. The events of one process come in the order created, started, exited. The exits of execs
/// come before the exit of init.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// `create` has succeeded.
    Created {
        /// Init.
        process: ProcessId,
        /// The process id of init.
        pid: i32,
    },
    /// `start` or `exec` has succeeded.
    Started {
        /// The process.
        process: ProcessId,
        /// The process id.
        pid: i32,
    },
    /// The exit files of a process could not all be written. There is another try, or the end is reported without them.
    /// [`super::Supervisor::unwritten`] has those that are still to be written.
    Unrecorded {
        /// The process.
        process: ProcessId,
        /// What is not written, for an administrator.
        message: String,
    },
    /// A process has ended. Its exit files are on disk, except for those of [`super::Supervisor::unwritten`].
    Exited {
        /// The process.
        process: ProcessId,
        /// The process id.
        pid: i32,
        /// How the process ended.
        status: ExitStatus,
    },
    /// The kernel has killed processes of a container's cgroup for want of memory.
    OutOfMemory {
        /// Which container.
        container: Rc<str>,
    },
    /// The later answer of a request.
    Finished {
        /// The token in [`Reply::Pending`].
        token: WaitToken,
        /// The answer.
        result: Result<Reply, Refusal>,
    },
    /// A fact that an administrator should know.
    Warning(String),
    /// An entry was removed from the directory that the front end has had watched.
    Removal,
    /// The shim itself has received SIGTERM, SIGINT, SIGQUIT, SIGHUP or SIGUSR1.
    Signal(i32),
}
