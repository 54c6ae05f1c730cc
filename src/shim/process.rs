//! Containers and the processes in them, as a front end describes them and as they are found.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Instant;

use super::console::Console;
use super::streams::Streams;
use super::{ExitFile, ExitStatus, ProcessId, Stdio, WaitToken};
use crate::sys::process::{Child, Exit};

/// A process to be made.
#[derive(Debug)]
pub struct NewProcess {
    /// Which.
    pub id: ProcessId,
    /// Its stdio.
    pub stdio: Stdio,
    /// Where the runtime writes its process id.
    pub pid_file: PathBuf,
    /// For an exec: the file with its OCI process.
    pub process_file: Option<PathBuf>,
    /// `create`, or `restore` for a container from a checkpoint.
    pub verb: &'static str,
    /// More arguments behind the verb: `--no-pivot`, `--image-path D`.
    pub arguments: Vec<OsString>,
    /// Numbers of the user's descriptors, which the runtime passes on.
    pub preserve_fds: Vec<i32>,
    /// Files to be written, synced and renamed before anyone is told of its end.
    pub exit_files: Vec<ExitFile>,
}

/// Where a process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Known, but the runtime has not made it: an exec that was added, a create that runs.
    Added,
    /// Init waits for start.
    Created,
    /// It runs.
    Running,
    /// Its container is frozen.
    Paused,
    /// It has ended, and that is on disk.
    Stopped,
}

/// What [`super::Supervisor::state`] answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessState {
    /// Where it is.
    pub phase: Phase,
    /// Its process id; 0 before there is one.
    pub pid: i32,
    /// Whether it has a terminal.
    pub terminal: bool,
    /// How it ended.
    pub exit: Option<ExitStatus>,
    /// Bytes of its output that could not be written to a log or a fifo.
    pub dropped: u64,
}

/// How far the telling of a process's end has come. The order is the contract.
#[derive(Debug)]
pub(super) enum Ending {
    /// It has not ended, as far as we know.
    Alive,
    /// An adopted one has ended, and its own parent has so long to reap it.
    Unreaped(Instant),
    /// Reaped; its output is read to the end, but not for ever.
    Draining {
        /// Until when output is waited for.
        until: Instant,
        /// Until when attached clients are waited for.
        clients: Instant,
    },
    /// A child of ours writes the record.
    Writing(Child),
    /// That child has failed; it is tried again.
    Failed(Instant),
    /// On disk, and may be told when its turn comes.
    Written,
    /// Everybody knows.
    Told,
}

/// A process that is known.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) serial: u32,
    /// As it was described; its stdio is taken out when it is opened.
    pub(super) new: NewProcess,
    pub(super) phase: Phase,
    pub(super) pid: i32,
    pub(super) pidfd: Option<OwnedFd>,
    /// Whether it is a child of ours, so that its end is ours to reap.
    pub(super) child: bool,
    pub(super) streams: Option<Streams>,
    pub(super) console: Option<Console>,
    pub(super) exit: Option<ExitStatus>,
    /// What is told in place of how it ended.
    pub(super) instead: Option<Exit>,
    pub(super) ending: Ending,
    /// How often writing its record has failed.
    pub(super) failures: u32,
    pub(super) waiters: Vec<WaitToken>,
    /// The runtime has deleted it; the answers wait for its end to be told.
    pub(super) deleting: Vec<WaitToken>,
    /// Until when a deletion waits for the reader of its output.
    pub(super) read_until: Option<Instant>,
    /// It is to get no input, which was said before its stdio was opened.
    pub(super) stdin_closed: bool,
}

impl Process {
    pub(super) fn new(serial: u32, new: NewProcess) -> Process {
        Process {
            serial,
            new,
            phase: Phase::Added,
            pid: 0,
            pidfd: None,
            child: true,
            streams: None,
            console: None,
            exit: None,
            instead: None,
            ending: Ending::Alive,
            failures: 0,
            waiters: Vec::new(),
            deleting: Vec::new(),
            read_until: None,
            stdin_closed: false,
        }
    }

    pub(super) fn is_init(&self) -> bool {
        self.new.id.exec.is_none()
    }

    /// Whether a reader is about to take the output that is left. Engines open the fifos of an exec while it is
    /// being started, and stop trying when it is deleted. So a late reader is waited for.
    pub(super) fn is_wanted(&mut self) -> bool {
        let late = !self.is_init();
        self.streams.as_mut().is_some_and(|streams| streams.are_wanted(late))
    }

    pub(super) fn is_told(&self) -> bool {
        matches!(self.ending, Ending::Told)
    }

    /// Whether it was made and its end is not told.
    pub(super) fn is_pending(&self) -> bool {
        self.pid != 0 && !self.is_told()
    }

    /// Whether it has not been reaped.
    pub(super) fn is_alive(&self) -> bool {
        self.exit.is_none()
    }

    pub(super) fn state(&self) -> ProcessState {
        ProcessState {
            phase: self.phase,
            pid: self.pid,
            terminal: self.streams.as_ref().map_or(self.new.stdio.terminal, |streams| streams.terminal),
            exit: self.exit.filter(|_| self.is_told()),
            dropped: self.streams.as_ref().map_or(0, Streams::dropped),
        }
    }
}
