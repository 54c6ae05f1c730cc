//! Sockets.

use std::os::fd::OwnedFd;

use nix::errno::Errno;

pub use windlass_sys::socket::*;

use super::{Result, SyscallError};

/// Two ends of a stream.
pub fn stream_pair() -> Result<(OwnedFd, OwnedFd)> {
    let made = std::os::unix::net::UnixStream::pair().map_err(|error| SyscallError {
        call: "socketpair()".into(),
        errno: Errno::from_raw(error.raw_os_error().unwrap_or_default()),
    })?;
    Ok((made.0.into(), made.1.into()))
}
