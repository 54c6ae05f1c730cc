//! Terminals, which sockets play: they have no size and no modes.

use std::os::fd::BorrowedFd;

pub use windlass_sys::terminal::*;

use super::Result;

/// A terminal of any size is the same.
pub fn set_size(_terminal: BorrowedFd<'_>, _rows: u16, _columns: u16) -> Result<()> {
    Ok(())
}

/// A socket changes no byte.
pub fn set_onlcr(_terminal: BorrowedFd<'_>) -> Result<()> {
    Ok(())
}
