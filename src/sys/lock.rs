//! Locks of open files (flock(2)).

use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;

use super::poll::Deadline;
use super::{Result, check, fd_name};

/// Takes the exclusive lock. Without `wait` a held lock is `EWOULDBLOCK`.
pub fn exclusive(fd: BorrowedFd<'_>, wait: bool) -> Result<()> {
    let operation = libc::LOCK_EX | if wait { 0 } else { libc::LOCK_NB };
    // SAFETY: flock takes no pointers; the descriptor is borrowed and so open.
    let returned = unsafe { libc::flock(fd.as_raw_fd(), operation) };
    check(returned.into(), || format!("flock({}, LOCK_EX)", fd_name(fd))).map(drop)
}

/// How often a lock that another holds is tried again.
const AGAIN: Duration = Duration::from_millis(2);

/// Takes the exclusive lock, and waits until `deadline` at most. Returns false if another still holds it.
pub fn exclusive_until(fd: BorrowedFd<'_>, deadline: Deadline) -> Result<bool> {
    loop {
        match exclusive(fd, false) {
            Err(failed) if failed.errno == Errno::EWOULDBLOCK && deadline.has_passed() => return Ok(false),
            Err(failed) if failed.errno == Errno::EWOULDBLOCK => std::thread::sleep(AGAIN),
            other => return other.map(|()| true),
        }
    }
}

/// Whether another open file description holds the lock. If this one holds it, the answer is wrong and the lock is
/// lost.
pub fn is_held(fd: BorrowedFd<'_>) -> bool {
    // A shared lock, so that two processes that ask at once do not see each other's.
    // SAFETY: flock takes no pointers; the descriptor is borrowed and so open.
    let taken = unsafe { libc::flock(fd.as_raw_fd(), libc::LOCK_SH | libc::LOCK_NB) };
    if taken == 0 {
        release(fd);
    }
    taken != 0
}

/// Releases the lock of [`exclusive`].
pub fn release(fd: BorrowedFd<'_>) {
    // SAFETY: flock takes no pointers; the descriptor is borrowed and so open. Giving up a lock
    // that is not held is no error.
    unsafe { libc::flock(fd.as_raw_fd(), libc::LOCK_UN) };
}
