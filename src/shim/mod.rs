//! The shim: it stays with a container when the runtime and the engine have left, keeps the
//! stdio open, and tells how the container ended to whoever asks, whenever they come back.
//!
//! One thread and one epoll loop ([`poll`]). The core ([`supervisor`]) knows no protocol: it runs
//! the runtime's binary ([`runtime`]), moves bytes ([`stdio`], [`log`]), reaps ([`reaper`]) and
//! writes the exit down ([`exit`]). A front end translates a protocol to [`Request`]s and
//! [`Event`]s; it implements [`Front`] and is served by [`serve`]. Nothing here links code of
//! the runtime that acts: a failing `create` cannot take the stdio down with it.
//!
//! ```text
//!  engine <--> front end --Request--> supervisor --spawn--> runtime binary
//!                        <--Reply---             <-pidfd--- container's processes
//!                        <--Event---             <-splice-> pipes, ptys, fifos, logs
//! ```
//!
//! The contract of the exit, in order: reaped, OOM looked up, output drained (bounded), record
//! written and synced and renamed, and only then anybody is told.

mod call;
mod calls;
mod client;
pub mod console;
mod ending;
pub mod exit;
pub mod frontend;
pub mod log;
mod news;
mod notifier;
pub mod oom;
mod outlet;
pub mod poll;
pub mod process;
pub mod reaper;
pub mod runtime;
mod sink;
pub mod stdio;
mod streams;
pub mod supervisor;

use std::fmt;
use std::rc::Rc;
use std::time::Instant;

pub use call::server_environment;
pub use exit::{ExitFile, ExitStatus};
pub use poll::{Interest, Poll, Ready};
pub use process::{Container, NewProcess, Phase, ProcessState};
pub use runtime::{Runtime, Timeouts};
pub use stdio::{Framing, Log, Output, Stdin, Stdio};
pub use supervisor::Supervisor;

/// Which process: a container's init, or an exec in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProcessId {
    /// The container's id.
    pub container: Rc<str>,
    /// The exec's id; `None` for init.
    pub exec: Option<Rc<str>>,
}

impl ProcessId {
    /// The container's init.
    pub fn init(container: &str) -> ProcessId {
        ProcessId { container: container.into(), exec: None }
    }

    /// An exec. The empty id, which protocols use for it, means init.
    pub fn of(container: &str, exec: &str) -> ProcessId {
        ProcessId { container: container.into(), exec: (!exec.is_empty()).then(|| exec.into()) }
    }
}

/// What an answer that comes later is told by: [`Event::Finished`] carries it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
        arguments: Vec<std::ffi::OsString>,
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

/// Why a request is refused; a front end maps the code to its protocol's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// No such container or process.
    NotFound,
    /// The id is taken.
    AlreadyExists,
    /// Not in this phase.
    WrongPhase,
    /// The request makes no sense.
    Invalid,
    /// The runtime failed; the message is its own.
    Runtime,
    /// The runtime was killed because it took too long.
    TimedOut,
    /// A call of the kernel failed.
    Kernel,
}

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For the front end.
    pub code: Code,
    /// For people.
    pub message: String,
}

impl Refusal {
    /// A refusal with its reason.
    pub fn new(code: Code, message: impl Into<String>) -> Refusal {
        Refusal { code, message: message.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<crate::error::Failed> for Refusal {
    fn from(failed: crate::error::Failed) -> Refusal {
        Refusal::new(Code::Kernel, failed.to_string())
    }
}

/// A protocol. It watches its own descriptors with [`Poll::watch`] on `core.poll`, under keys of
/// its own choosing (below 2^56), and is called back from the one loop. It must not block.
pub trait Front {
    /// A descriptor watched under `key` is ready.
    fn ready(&mut self, key: u64, ready: Ready, core: &mut Supervisor);
    /// Something happened.
    fn event(&mut self, event: Event, core: &mut Supervisor);
    /// When [`Front::due`] wants to be called next.
    fn deadline(&self) -> Option<Instant> {
        None
    }
    /// The deadline has passed.
    fn due(&mut self, now: Instant, core: &mut Supervisor) {
        let _ = (now, core);
    }
    /// `Some` ends the loop, and is the status to exit with.
    fn finished(&self, core: &Supervisor) -> Option<i32>;
}

/// Runs the loop until the front end has finished.
pub fn serve(core: &mut Supervisor, front: &mut impl Front) -> crate::sys::Result<i32> {
    loop {
        while let Some(event) = core.next_event() {
            front.event(event, core);
        }
        if let Some(status) = front.finished(core) {
            return Ok(status);
        }
        for (key, ready) in core.turn(front.deadline())? {
            front.ready(key, ready, core);
        }
        let now = Instant::now();
        if front.deadline().is_some_and(|deadline| deadline <= now) {
            front.due(now, core);
        }
    }
}
