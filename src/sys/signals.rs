//! Signals: blocking them for the parent's loop, and giving a child the defaults back.

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::{Called, Result};

/// Blocks every signal and gives a descriptor that reads them.
///
/// SIGCHLD gets its default action: who started us may have ignored it, and then the kernel reaps
/// our children itself and their status is lost.
pub fn collect() -> Result<SignalFd> {
    default_action(Signal::SIGCHLD)?;
    let all = SigSet::all();
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&all), None).called(|| "rt_sigprocmask(SIG_SETMASK, all)".into())?;
    SignalFd::with_flags(&all, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).called(|| "signalfd4(all)".into())
}

/// No signal blocked, for a process about to execve(2).
pub fn unblock() -> Result<()> {
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
        .called(|| "rt_sigprocmask(SIG_SETMASK, none)".into())
}

/// Lets the signals by which people end a process end this one while it waits. The first process
/// of a PID namespace gets none that it has no handler for (pid_namespaces(7)); execve(2) forgets
/// the handlers.
pub fn end_when_asked() -> Result<()> {
    extern "C" fn end(signal: libc::c_int) {
        // SAFETY: _exit(2) may be called from a handler (signal-safety(7)) and touches no memory.
        unsafe { libc::_exit(128 + signal) }
    }
    let action = SigAction::new(SigHandler::Handler(end), SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM] {
        // SAFETY: the handler calls nothing but _exit(2).
        unsafe { sigaction(signal, &action) }.called(|| format!("rt_sigaction({signal})"))?;
    }
    Ok(())
}

/// Gives SIGPIPE its default action back: Rust's runtime ignores it, and an ignored signal
/// stays ignored over execve(2), where the container's programs would find it so.
pub fn default_sigpipe() -> Result<()> {
    default_action(Signal::SIGPIPE)
}

/// Ignores SIGPIPE again: a pipe that nobody reads is an error and no death.
pub fn ignore_sigpipe() -> Result<()> {
    set(Signal::SIGPIPE, SigHandler::SigIgn)
}

fn default_action(signal: Signal) -> Result<()> {
    set(signal, SigHandler::SigDfl)
}

/// Sets an action that runs no code: `SIG_DFL` or `SIG_IGN`.
fn set(signal: Signal, handler: SigHandler) -> Result<()> {
    let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
    // SAFETY: neither action runs code of ours.
    unsafe { sigaction(signal, &action) }.called(|| format!("rt_sigaction({signal}, {handler:?})")).map(drop)
}
