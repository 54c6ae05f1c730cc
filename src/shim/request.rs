//! What a front end asks for, and what it is told.

use std::ffi::OsString;
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use super::{ExitStatus, NewProcess, Phase, ProcessId, Refusal};

/// Names a request whose answer comes later: [`Event::Finished`] carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WaitToken(pub u64);

/// What a front end can ask for. State is not among them: [`Supervisor::state`] answers at once.
#[derive(Debug)]
pub enum Request {
    /// Runs `R create` (or `restore`) for a container made known by [`Supervisor::open`].
    /// Finishes with [`Reply::Pid`].
    Create(NewProcess),
    /// Makes an exec known; nothing runs yet. Answered at once with [`Reply::Done`]. Init too can
    /// be made known so, where a protocol restores a checkpoint only at the start.
    AddExec(NewProcess),
    /// `R start` for init (`R create` or `restore` if nothing runs yet), `R exec --detach` for an exec. Finishes with [`Reply::Pid`].
    Start(ProcessId),
    /// A signal. To init by `R kill [--all]`, which finishes later; to an exec through its
    /// pidfd, answered at once.
    Kill {
        /// To whom.
        process: ProcessId,
        /// The number.
        signal: i32,
        /// Whether to every process of the container.
        all: bool,
    },
    /// Any other verb: `R ARGUMENTS... ID` where `arguments` are without the id. Finishes with
    /// [`Reply::Output`], or with the runtime's own message.
    Call {
        /// The container.
        container: Rc<str>,
        /// For example `["pause"]` or `["update", "--resources", "/path"]`.
        arguments: Vec<OsString>,
        /// The phase of init once it has succeeded: pause and resume change it.
        then: Option<Phase>,
    },
    /// The size of the terminal.
    Resize {
        /// Whose.
        process: ProcessId,
        /// Lines.
        rows: u16,
        /// Characters per line.
        columns: u16,
    },
    /// No more input than what is on its way: the process reads end of file.
    CloseStdin(ProcessId),
    /// Opens the log files anew, by their names.
    ReopenLogs(ProcessId),
    /// Finishes with [`Reply::Exited`]; at once if it has ended and that is on disk.
    Wait(ProcessId),
    /// Forgets a process that has ended or never started. For init runs `R delete` first.
    /// Finishes with [`Reply::Deleted`]. `force` also ends one that still runs (`R delete --force`).
    Delete {
        /// Which.
        process: ProcessId,
        /// Whether one that runs is killed.
        force: bool,
    },
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It is done.
    Done,
    /// It is done, and this is the process.
    Pid(i32),
    /// What the runtime wrote on its standard output.
    Output(Vec<u8>),
    /// How the process ended.
    Exited(ExitStatus),
    /// It is gone; how it had ended, if it had ever run.
    Deleted {
        /// Its process id; 0 if it never ran.
        pid: i32,
        /// How it ended.
        status: Option<ExitStatus>,
    },
    /// The answer comes as [`Event::Finished`] with this token.
    Pending(WaitToken),
}

/// What a front end is told. Of one process always in the order created, started, exited;
/// the exits of execs before that of init.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// `create` has succeeded.
    Created {
        /// Init.
        process: ProcessId,
        /// Its process id.
        pid: i32,
    },
    /// `start` or `exec` has succeeded.
    Started {
        /// Which.
        process: ProcessId,
        /// Its process id.
        pid: i32,
    },
    /// It ended, and that is on disk.
    Exited {
        /// Which.
        process: ProcessId,
        /// Its process id.
        pid: i32,
        /// How.
        status: ExitStatus,
    },
    /// The kernel killed processes of the container's cgroup for want of memory.
    OutOfMemory {
        /// Which container.
        container: Rc<str>,
    },
    /// The later answer to a request.
    Finished {
        /// What [`Reply::Pending`] gave.
        token: WaitToken,
        /// The answer.
        result: Result<Reply, Refusal>,
    },
    /// Something was removed from the directory that the front end has asked to watch.
    Removal,
    /// The shim itself got SIGTERM, SIGINT, SIGQUIT, SIGHUP or SIGUSR1.
    Signal(i32),
}
