//! Files on a disk that may be full.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;

pub use windlass_sys::fd::*;
use windlass_sys::{Result, SyscallError};

use super::kernel;

fn room(call: &'static str) -> Result<()> {
    kernel::call();
    match kernel::is_disk_full() {
        true => Err(SyscallError { call: call.into(), errno: Errno::ENOSPC }),
        false => Ok(()),
    }
}

/// The real call, at which the shim may be killed.
pub fn open(path: impl AsRef<Path>, flags: OFlag) -> Result<OwnedFd> {
    kernel::call();
    windlass_sys::fd::open(path, flags)
}

/// The real call, at which the shim may be killed.
pub fn openat(dir: BorrowedFd<'_>, path: impl AsRef<Path>, flags: OFlag, mode: u32) -> Result<OwnedFd> {
    kernel::call();
    windlass_sys::fd::openat(dir, path, flags, mode)
}

/// The real call, at which the shim may be killed.
pub fn unlinkat(dir: BorrowedFd<'_>, name: impl AsRef<Path>) -> Result<()> {
    kernel::call();
    windlass_sys::fd::unlinkat(dir, name)
}

/// The real call, on a disk that may be full.
pub fn replace(dir: BorrowedFd<'_>, name: &Path, mode: u32, text: &[u8], durability: Durability) -> Result<()> {
    room("replace").and_then(|()| windlass_sys::fd::replace(dir, name, mode, text, durability))
}

/// The real call, on a disk that may be full.
pub fn write_at(fd: BorrowedFd<'_>, bytes: &[u8], offset: usize) -> Result<()> {
    room("pwrite").and_then(|()| windlass_sys::fd::write_at(fd, bytes, offset))
}
