//! Pipes. A child that fills a pipe has written all it can when the loop looks at the pipe.

use std::os::fd::BorrowedFd;

pub use windlass_sys::pipe::*;

use super::kernel;

/// The real call, after all released children have written.
pub fn has_ended(read_end: BorrowedFd<'_>) -> bool {
    kernel::settle();
    windlass_sys::pipe::has_ended(read_end)
}
