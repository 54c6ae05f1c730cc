//! Reaping: our own by their pidfds, orphans that nobody waits for by SIGCHLD.
//!
//! A process that is known is reaped through its pidfd and nothing else, so its process id can
//! not be taken by another before we are done with it. What is left is orphans: processes of
//! containers whose parents died. While a `create` or an `exec` runs, an orphan may be the very
//! process whose id the runtime is about to tell, so orphans wait until none runs.

use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signalfd::SignalFd;

use windlass_sys::{Result, process, signals};

/// The signals of the shim itself.
#[derive(Debug)]
pub struct Reaper {
    signals: SignalFd,
}

impl Reaper {
    /// Blocks every signal, and becomes the parent of orphans.
    pub fn new() -> Result<Reaper> {
        let signals = signals::collect()?;
        process::become_subreaper()?;
        Ok(Reaper { signals })
    }

    /// Readable when a signal is there.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.signals.as_fd()
    }

    /// The number of the next signal that is there, if there is one.
    pub fn next_signal(&self) -> Option<i32> {
        self.signals.read_signal().ok().flatten().map(|info| info.ssi_signo as i32)
    }
}

/// Reaps ended children that are not `known`. False: a known one that the kernel names first hides
/// others, which are to be looked for again when that one has been reaped.
pub fn reap_orphans(known: impl Fn(i32) -> bool) -> bool {
    while let Some(pid) = process::ended_child() {
        if known(pid) || !process::reap(pid) {
            return false;
        }
    }
    true
}
