//! Terminals (pty(7), ioctl_tty(2)).

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use super::{Called, Result, check};

/// Opens the other end of the pseudoterminal `master`, in one step so that no path is trusted (`TIOCGPTPEER`, Linux
/// 4.13).
pub fn peer(master: BorrowedFd<'_>) -> Result<OwnedFd> {
    let unlock: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int, which outlives the call.
    let returned = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlock) };
    check(returned.into(), || "ioctl(TIOCSPTLCK, 0)".into())?;
    // SAFETY: TIOCGPTPEER takes flags by value and returns a new descriptor.
    let returned =
        unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC) };
    let raw = check(returned.into(), || "ioctl(TIOCGPTPEER)".into())?;
    Ok(super::owned::from_raw(raw))
}

/// Sets the size of a terminal in characters.
pub fn set_size(terminal: BorrowedFd<'_>, rows: u16, columns: u16) -> Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize, which outlives the call.
    let returned = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    check(returned.into(), || format!("ioctl(TIOCSWINSZ, {rows}x{columns})")).map(drop)
}

/// The size of a terminal in characters: rows and columns.
pub fn size(terminal: BorrowedFd<'_>) -> Result<(u16, u16)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one winsize, which outlives the call.
    let returned = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    check(returned.into(), || "ioctl(TIOCGWINSZ)".into())?;
    Ok((size.ws_row, size.ws_col))
}

/// Makes this terminal the controlling one of our session, whose leader we are.
pub fn take(terminal: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: TIOCSCTTY takes a number by value.
    let returned = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) };
    check(returned.into(), || "ioctl(TIOCSCTTY)".into()).map(drop)
}

/// Raw output becomes `\r\n` at line ends (`ONLCR`), as callers of a container's terminal expect.
pub fn set_onlcr(terminal: BorrowedFd<'_>) -> Result<()> {
    let mut settings = nix::sys::termios::tcgetattr(terminal).called(|| "ioctl(TCGETS)".into())?;
    settings.output_flags |= nix::sys::termios::OutputFlags::ONLCR;
    nix::sys::termios::tcsetattr(terminal, nix::sys::termios::SetArg::TCSANOW, &settings)
        .called(|| "ioctl(TCSETS)".into())
}
