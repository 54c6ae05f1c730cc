//! Moving bytes. A child that fills a pipe has written all it can when the loop looks at the pipe.

use std::os::fd::BorrowedFd;

pub use windlass_sys::stream::*;

use super::{Result, kernel};

/// The real call, at which the shim may be killed.
pub fn read(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<Moved> {
    kernel::call();
    kernel::settle();
    windlass_sys::stream::read(fd, buffer)
}

/// The real call, at which the shim may be killed.
pub fn write(fd: BorrowedFd<'_>, bytes: &[u8]) -> Result<Moved> {
    kernel::call();
    windlass_sys::stream::write(fd, bytes)
}

/// The real call, at which the shim may be killed.
pub fn splice(from: BorrowedFd<'_>, to: BorrowedFd<'_>, length: usize) -> Result<Moved> {
    kernel::call();
    kernel::settle();
    windlass_sys::stream::splice(from, to, length)
}

/// The real call, after all released children have written.
pub fn waiting(fd: BorrowedFd<'_>) -> usize {
    kernel::settle();
    windlass_sys::stream::waiting(fd)
}
