//! Signals: blocking them for the parent's loop, and giving a child the defaults back.

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::{Called, Result};

/// Blocks every signal and gives a descriptor that reads them.
pub fn collect() -> Result<SignalFd> {
    let all = SigSet::all();
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&all), None).called(|| "rt_sigprocmask(SIG_SETMASK, all)".into())?;
    SignalFd::with_flags(&all, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).called(|| "signalfd4(all)".into())
}

/// No signal blocked, for a process about to execve(2).
pub fn unblock() -> Result<()> {
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
        .called(|| "rt_sigprocmask(SIG_SETMASK, none)".into())
}

/// Gives SIGPIPE its default action back: Rust's runtime ignores it, and an ignored signal
/// stays ignored over execve(2), where the container's programs would find it so.
pub fn default_sigpipe() -> Result<()> {
    let action = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: the default action runs no code of ours.
    unsafe { sigaction(Signal::SIGPIPE, &action) }.called(|| "rt_sigaction(SIGPIPE, SIG_DFL)".into()).map(drop)
}
