//! Owners of descriptors that raw calls return.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// The owner of a descriptor that a raw call has just returned.
pub(super) fn from_raw(raw: libc::c_long) -> OwnedFd {
    // SAFETY: the kernel just returned this descriptor to us and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(raw as RawFd) }
}
