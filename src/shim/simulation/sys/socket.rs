//! Sockets.

use std::os::fd::{BorrowedFd, OwnedFd};

use nix::errno::Errno;

pub use windlass_sys::socket::*;

use super::{Result, SyscallError, kernel};

/// The real call, at which the shim may be killed.
pub fn send_now(socket: BorrowedFd<'_>, bytes: &[u8]) -> nix::Result<usize> {
    kernel::call();
    windlass_sys::socket::send_now(socket, bytes)
}

/// The real call, at which the shim may be killed.
pub fn receive_now(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> nix::Result<usize> {
    kernel::call();
    windlass_sys::socket::receive_now(socket, buffer)
}

/// The real call, at which the shim may be killed.
pub fn receive_passed(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> nix::Result<(usize, Option<OwnedFd>)> {
    kernel::call();
    windlass_sys::socket::receive_passed(socket, buffer)
}

/// The real call, at which the shim may be killed.
pub fn accept_now(socket: BorrowedFd<'_>) -> Result<Option<OwnedFd>> {
    kernel::call();
    windlass_sys::socket::accept_now(socket)
}

/// Two ends of a stream.
pub fn stream_pair() -> Result<(OwnedFd, OwnedFd)> {
    let made = std::os::unix::net::UnixStream::pair().map_err(|error| SyscallError {
        call: "socketpair()".into(),
        errno: Errno::from_raw(error.raw_os_error().unwrap_or_default()),
    })?;
    Ok((made.0.into(), made.1.into()))
}
