//! Sockets, of which some are played for terminals: they have no size and no modes.

use std::os::fd::{BorrowedFd, OwnedFd};

use nix::errno::Errno;

pub use windlass_sys::socket::*;

use super::{Result, SyscallError};

/// A terminal of any size is the same.
pub fn set_terminal_size(_terminal: BorrowedFd<'_>, _rows: u16, _columns: u16) -> Result<()> {
    Ok(())
}

/// Two ends of a stream.
pub fn stream_pair() -> Result<(OwnedFd, OwnedFd)> {
    let made = std::os::unix::net::UnixStream::pair().map_err(|error| SyscallError {
        call: "socketpair()".into(),
        errno: Errno::from_raw(error.raw_os_error().unwrap_or_default()),
    })?;
    Ok((made.0.into(), made.1.into()))
}
