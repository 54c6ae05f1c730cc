//! A pidfd that is mounted on a file (Linux 6.14). It tells how its process ended, even after the process was reaped
//! and every descriptor of it is closed (Linux 6.15).
//!
//! Names are names of files in the current directory.

use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::process::{Exit, exit_of_other};
use super::{Result, fd, mount};

/// Makes the file `name` and mounts the pidfd on it.
pub fn add(name: &str, pidfd: BorrowedFd<'_>) -> Result<()> {
    let tree = mount::clone_tree(pidfd, "", false)?;
    fd::mknodat(fd::CWD, name, libc::S_IFREG | 0o600, 0)?;
    mount::attach_at(tree.as_fd(), fd::CWD, name)
}

/// How the process ended. Returns `None` if it was not reaped yet, or if there is no such mount.
///
/// # Errors
///
/// A want of descriptors or memory, so that nothing is known.
pub fn exit(name: &str) -> Result<Option<Exit>> {
    let exit = fd::openat(fd::CWD, name, OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK, 0)
        .and_then(|file| exit_of_other(file.as_fd()));
    match exit {
        Err(failed) if !failed.is_shortage() => Ok(None),
        other => other,
    }
}

/// Removes mount and file, as far as they exist.
pub fn remove(name: &str) -> Result<()> {
    let unless = |done: Result<()>, absent: &[Errno]| match done {
        Err(failed) if absent.contains(&failed.errno) => Ok(()),
        other => other,
    };
    // EINVAL means that there is no mount.
    unless(mount::detach(name), &[Errno::EINVAL, Errno::ENOENT])?;
    unless(fd::unlinkat(fd::CWD, name), &[Errno::ENOENT])
}
