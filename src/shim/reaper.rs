//! Reaping of orphans, and the signals of the shim.
//!
//! A process that the core knows is reaped through its pidfd only, so its process id cannot be reused before the
//! core is done with it. The other children are orphans: processes of containers whose parents have died. SIGCHLD
//! reports them. While a `create` or an `exec` runs, an orphan may be the process whose id the runtime is about to
//! write, so orphans are reaped only while none runs.

use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signalfd::SignalFd;

use windlass_sys::{Result, process, signals};

/// The signals of the shim itself.
#[derive(Debug)]
pub(crate) struct Reaper {
    signals: SignalFd,
}

impl Reaper {
    /// Blocks every signal, and becomes the parent of orphans.
    pub(crate) fn new() -> Result<Reaper> {
        let signals = signals::collect()?;
        process::become_subreaper()?;
        Ok(Reaper { signals })
    }

    /// Readable when a signal is pending.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.signals.as_fd()
    }

    /// The number of the next pending signal.
    pub(crate) fn next_signal(&self) -> Option<i32> {
        self.signals.read_signal().ok().flatten().map(|info| info.ssi_signo as i32)
    }
}

/// What is known of orphans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Orphans {
    /// There are none.
    None,
    /// There may be some.
    Perhaps,
    /// There may be some behind this child, which is known and has ended. The kernel names it first until it is reaped.
    Behind(i32),
}

/// Reaps the ended children that are not `known`.
pub(crate) fn reap_orphans(known: impl Fn(i32) -> bool) -> Orphans {
    while let Some(pid) = process::ended_child() {
        if known(pid) {
            return Orphans::Behind(pid);
        }
        if !process::reap(pid) {
            return Orphans::Perhaps;
        }
    }
    Orphans::None
}
