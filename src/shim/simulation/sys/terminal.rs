//! Terminals, simulated by sockets: they have no size and no modes.

use std::os::fd::BorrowedFd;

pub use windlass_sys::terminal::*;

use super::Result;

/// Does nothing: a simulated terminal has no size.
pub fn set_size(_terminal: BorrowedFd<'_>, _rows: u16, _columns: u16) -> Result<()> {
    Ok(())
}

/// Does nothing: a socket changes no byte.
pub fn set_onlcr(_terminal: BorrowedFd<'_>) -> Result<()> {
    Ok(())
}
