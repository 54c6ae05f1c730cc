//! Descriptors. A forked child waits for the world as soon as it has closed all that it does not need.

use std::os::fd::{AsFd, BorrowedFd};

pub use windlass_sys::descriptors::*;

use super::kernel;

/// Closes as the real call does. Then the child waits for the world.
pub fn close_all_but(first: i32, kept: &[BorrowedFd<'_>]) {
    let gate = kernel::take_gate();
    let kept: Vec<BorrowedFd<'_>> = kept.iter().copied().chain(gate.iter().map(AsFd::as_fd)).collect();
    windlass_sys::descriptors::close_all_but(first, &kept);
    kernel::wait_at(gate);
}
