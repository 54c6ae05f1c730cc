//! Pipes (pipe(7)).

use std::os::fd::{BorrowedFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag};

use super::{Called, Result, fd_name};

/// A pipe, close-on-exec.
pub fn new() -> Result<(OwnedFd, OwnedFd)> {
    nix::unistd::pipe2(OFlag::O_CLOEXEC).called(|| "pipe2(O_CLOEXEC)".into())
}

/// Sets `O_NONBLOCK` on an end of a new pipe, which has no other such flag.
pub fn never_block(pipe: BorrowedFd<'_>) -> Result<()> {
    nix::fcntl::fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
        .called(|| format!("fcntl({}, F_SETFL, O_NONBLOCK)", fd_name(pipe)))
        .map(drop)
}

/// Sets the capacity of a pipe (`F_SETPIPE_SZ`, fcntl(2)). The pipe takes memory only as it is filled.
pub fn set_capacity(pipe: BorrowedFd<'_>, bytes: usize) {
    // The kernel refuses a capacity beyond its limits, or below the content of the pipe. Then the capacity does not
    // change.
    let _ = nix::fcntl::fcntl(pipe, FcntlArg::F_SETPIPE_SZ(bytes as libc::c_int));
}

/// The capacity of a pipe (`F_GETPIPE_SZ`, fcntl(2)) in bytes; 0 for anything that is not a pipe.
pub fn capacity(pipe: BorrowedFd<'_>) -> usize {
    nix::fcntl::fcntl(pipe, FcntlArg::F_GETPIPE_SZ).map_or(0, |bytes| bytes.max(0) as usize)
}

/// Whether the pipe of `write_end` has a reader: poll(2) reports `POLLERR` without one.
pub fn has_reader(write_end: BorrowedFd<'_>) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut ends = [PollFd::new(write_end, PollFlags::empty())];
    let ready = poll(&mut ends, PollTimeout::ZERO);
    !(ready == Ok(1) && ends[0].revents().is_some_and(|events| events.contains(PollFlags::POLLERR)))
}

/// Whether a pipe has no writer and is empty (poll(2): `POLLHUP` without `POLLIN`).
pub fn has_ended(read_end: BorrowedFd<'_>) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut ends = [PollFd::new(read_end, PollFlags::POLLIN)];
    let ready = poll(&mut ends, PollTimeout::ZERO);
    ready == Ok(1) && ends[0].revents().is_some_and(|events| !events.contains(PollFlags::POLLIN))
}
