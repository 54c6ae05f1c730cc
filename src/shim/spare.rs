//! Descriptors that are kept for when there are no others: the end of a process is recorded even then.

use std::os::fd::{BorrowedFd, OwnedFd};

/// What recording an end takes at most: copies of the two logs, and the pidfd of the child that writes.
const KEPT: usize = 3;

/// The descriptors.
#[derive(Debug, Default)]
pub(super) struct Spare(Vec<OwnedFd>);

impl Spare {
    /// Fills up the spare descriptors with copies of `any`, as far as there are free ones.
    pub(super) fn keep(&mut self, any: BorrowedFd<'_>) {
        let missing = KEPT.saturating_sub(self.0.len());
        self.0.extend((0..missing).map_while(|_| any.try_clone_to_owned().ok()));
    }

    /// Gives them back to the process. False: there were none.
    pub(super) fn release(&mut self) -> bool {
        !std::mem::take(&mut self.0).is_empty()
    }
}
