//! Spare descriptors, so that the end of a process is recorded even when no other descriptor is free.

use std::os::fd::{BorrowedFd, OwnedFd};

/// Descriptors that recording an end takes at most: copies of the two logs, and the pidfd of the child that writes.
const KEPT: usize = 3;

/// The spare descriptors.
#[derive(Debug, Default)]
pub(super) struct Spare(Vec<OwnedFd>);

impl Spare {
    /// Adds copies of `any` until there are enough spare descriptors, if the limit allows that.
    pub(super) fn keep(&mut self, any: BorrowedFd<'_>) {
        let missing = KEPT.saturating_sub(self.0.len());
        self.0.extend((0..missing).map_while(|_| any.try_clone_to_owned().ok()));
    }

    /// Closes the spare descriptors for other use. Returns false if there were none.
    pub(super) fn release(&mut self) -> bool {
        !std::mem::take(&mut self.0).is_empty()
    }
}
