//! Simulated processes, and forks that wait for the world.

use std::os::fd::{BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sched::CloneFlags;

pub use super::kernel::{Child, Forked};
pub use windlass_sys::process::*;
use windlass_sys::{Result, SyscallError};

use super::kernel;

fn gone(call: &'static str, errno: Errno) -> SyscallError {
    SyscallError { call: call.into(), errno }
}

/// fork(2). The child waits until the world releases it.
pub fn fork(_flags: CloneFlags, _cgroup: Option<BorrowedFd<'_>>, proof: &SingleThreaded) -> Result<Forked> {
    kernel::call();
    let forked = kernel::fork(proof)?;
    // The child is never killed at a call.
    kernel::call();
    Ok(forked)
}

/// Reaps the child behind `pidfd` if it has ended.
pub fn try_wait(pidfd: BorrowedFd<'_>) -> Result<Option<Exit>> {
    kernel::call();
    let found = kernel::reap_by(pidfd);
    kernel::call();
    found
}

/// pidfd_open(2).
pub fn open_pid(pid: i32) -> Result<OwnedFd> {
    kernel::open_pid(pid).ok_or_else(|| gone("pidfd_open()", Errno::ESRCH))
}

/// pidfd_send_signal(2).
pub fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<()> {
    kernel::call();
    if kernel::signal_by(pidfd, signal) { Ok(()) } else { Err(gone("pidfd_send_signal()", Errno::ESRCH)) }
}

/// Simulated processes have no groups.
pub fn group_of(_pid: i32) -> Option<i32> {
    None
}

/// Simulated processes have no groups.
pub fn signal_group(_group: i32, _signal: i32) -> Result<()> {
    Err(gone("kill()", Errno::ESRCH))
}

/// Whether the process is a child that was not reaped.
pub fn is_child(pidfd: BorrowedFd<'_>) -> bool {
    kernel::is_child(pidfd)
}

/// The oldest child that has ended and is not reaped.
pub fn ended_child() -> Option<i32> {
    kernel::ended_child()
}

/// Reaps a child that has ended.
pub fn reap(pid: i32) -> bool {
    kernel::reap(pid)
}

/// How the child of another process has ended.
pub fn exit_of_other(pidfd: BorrowedFd<'_>) -> Result<Option<Exit>> {
    Ok(kernel::exit_of_other(pidfd))
}

/// The shim is already the parent of all simulated processes.
pub fn become_subreaper() -> Result<()> {
    Ok(())
}
