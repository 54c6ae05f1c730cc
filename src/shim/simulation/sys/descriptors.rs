//! Descriptors. A forked child waits for the world as soon as it holds no more than it needs.

use std::os::fd::{AsFd, BorrowedFd};

pub use windlass_sys::descriptors::*;

use super::kernel;

/// As the real one. Then the child waits.
pub fn close_all_but(first: i32, kept: &[BorrowedFd<'_>]) {
    let gate = kernel::take_gate();
    let kept: Vec<BorrowedFd<'_>> = kept.iter().copied().chain(gate.iter().map(AsFd::as_fd)).collect();
    windlass_sys::descriptors::close_all_but(first, &kept);
    kernel::wait_at(gate);
}
