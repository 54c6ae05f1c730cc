//! Paths below the container's root, resolved by the kernel.
//!
//! The root filesystem is hostile: any component may be a link to anywhere, and may change at any time. openat2(2)
//! with `RESOLVE_IN_ROOT` keeps every lookup below the root descriptor. Missing components are made one at a
//! time, each below a descriptor that is already held.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, ResolveFlag};

use windlass_plan::RootPath;
use windlass_sys::{Result, fd};

/// Links are followed within the root; links of procfs that jump elsewhere are not.
pub(crate) const IN_ROOT: ResolveFlag = ResolveFlag::RESOLVE_IN_ROOT.union(ResolveFlag::RESOLVE_NO_MAGICLINKS);

/// Links are not followed at all.
pub(crate) const NO_LINKS: ResolveFlag = IN_ROOT.union(ResolveFlag::RESOLVE_NO_SYMLINKS);

/// The kind of file that a missing last component becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Make {
    /// A directory, mode 0755.
    Directory,
    /// An empty file, mode 0644.
    File,
}

/// Finds a path (`O_PATH`).
pub(crate) fn find(root: BorrowedFd<'_>, path: &RootPath, resolve: ResolveFlag) -> Result<OwnedFd> {
    fd::openat2(root, path.as_path(), OFlag::O_PATH, 0, resolve)
}

/// Finds a path, or `None` if it does not exist.
pub(crate) fn find_if_exists(root: BorrowedFd<'_>, path: &RootPath, resolve: ResolveFlag) -> Result<Option<OwnedFd>> {
    fd::openat2_if_exists(root, path.as_path(), OFlag::O_PATH, resolve)
}

/// Finds a path, or makes what is missing of it.
pub(crate) fn find_or_make(root: BorrowedFd<'_>, path: &RootPath, make: Make, resolve: ResolveFlag) -> Result<OwnedFd> {
    match find_if_exists(root, path, resolve)? {
        Some(found) => Ok(found),
        None => make_missing(root, path.as_path(), make, resolve, &mut LINKS.clone()),
    }
}

/// Finds a directory below the root, or makes what is missing of it. `path` has only names.
pub(crate) fn directory(root: BorrowedFd<'_>, path: &Path, resolve: ResolveFlag) -> Result<OwnedFd> {
    make_missing(root, path, Make::Directory, resolve, &mut LINKS.clone())
}

/// Most dangling links that are followed, as for the kernel (path_resolution(7)).
const LINKS: u32 = 40;

/// Makes what is missing of a path. For a dangling link, as `/etc/resolv.conf` of images often is, its target is
/// made. The kernel resolves the target anew, within the root.
fn make_missing(
    root: BorrowedFd<'_>,
    path: &Path,
    make: Make,
    resolve: ResolveFlag,
    links: &mut u32,
) -> Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let flags = if make == Make::Directory { OFlag::O_PATH | OFlag::O_DIRECTORY } else { OFlag::O_PATH };
    if let Some(found) = fd::openat2_if_exists(root, path, flags, resolve)? {
        return Ok(found);
    }
    // The root itself cannot be made: this fails.
    let Some(name) = path.file_name() else { return fd::openat2(root, path, flags, 0, resolve) };
    let above = path.parent().unwrap_or(Path::new(""));
    let parent = make_missing(root, above, Make::Directory, resolve, links)?;
    let followed = *links > 0 && !resolve.contains(ResolveFlag::RESOLVE_NO_SYMLINKS);
    if followed && let Ok(target) = fd::readlinkat(parent.as_fd(), name) {
        *links -= 1;
        return make_missing(root, &above.join(target), make, resolve, links);
    }
    make_in(parent.as_fd(), name, make)
}

/// Makes `name`, which did not exist a moment ago, and opens it. A link that somebody has made there meanwhile is
/// not followed.
fn make_in(parent: BorrowedFd<'_>, name: &OsStr, make: Make) -> Result<OwnedFd> {
    let made = match make {
        Make::Directory => fd::mkdirat(parent, name, 0o755),
        Make::File => {
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW;
            fd::openat(parent, name, flags, 0o644).map(drop)
        }
    };
    match made {
        Err(failed) if failed.errno == Errno::EEXIST => {}
        other => other?,
    }
    let flags = if make == Make::Directory { OFlag::O_PATH | OFlag::O_DIRECTORY } else { OFlag::O_PATH };
    fd::openat2(
        parent,
        name,
        flags | OFlag::O_NOFOLLOW,
        0,
        ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS,
    )
}
