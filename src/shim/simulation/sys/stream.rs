//! Moving bytes. A forked child that fills a pipe has done so as far as it can when the loop looks at it.

use std::os::fd::BorrowedFd;

pub use windlass_sys::stream::*;

use super::{Result, kernel};

/// As the real one.
pub fn read(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<Moved> {
    kernel::call();
    kernel::settle();
    windlass_sys::stream::read(fd, buffer)
}

/// As the real one.
pub fn write(fd: BorrowedFd<'_>, bytes: &[u8]) -> Result<Moved> {
    kernel::call();
    windlass_sys::stream::write(fd, bytes)
}

/// As the real one.
pub fn splice(from: BorrowedFd<'_>, to: BorrowedFd<'_>, length: usize) -> Result<Moved> {
    kernel::call();
    kernel::settle();
    windlass_sys::stream::splice(from, to, length)
}

/// As the real one.
pub fn waiting(fd: BorrowedFd<'_>) -> usize {
    kernel::settle();
    windlass_sys::stream::waiting(fd)
}
