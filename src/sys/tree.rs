//! Walking through and removing trees of directories of any depth, while others may change them.
//!
//! A walk holds one descriptor, of the directory that it is in, and every step is relative to it. So neither the length
//! of a path nor the limit of descriptors bounds the depth. A step down never follows a link and never crosses a mount.
//! A step up opens `..` and checks that it is the directory from which the walk came. If a directory was moved
//! meanwhile, the walk ends with ESTALE and has touched nothing outside the tree.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, ResolveFlag};

use super::directory::Entries;
use super::{Result, SyscallError, fd, fd_name};

const DIRECTORY: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW);

/// The identity of a directory while it exists: device and inode.
type Identity = (u64, u64);

fn identity(dir: BorrowedFd<'_>) -> Result<Identity> {
    fd::stat(dir).map(|stat| (stat.st_dev, stat.st_ino))
}

/// A directory above the present one.
struct Level {
    identity: Identity,
    /// The position of the entry after the one that was entered.
    next: i64,
}

/// The place of a walk.
struct Cursor {
    at: Entries<OwnedFd>,
    identity: Identity,
    above: Vec<Level>,
}

impl Cursor {
    fn new(top: OwnedFd) -> Result<Cursor> {
        Ok(Cursor { identity: identity(top.as_fd())?, at: Entries::of(top), above: Vec::new() })
    }

    fn dir(&self) -> BorrowedFd<'_> {
        self.at.dir()
    }

    /// Enters the directory `name`; `next` is the position of the entry after it.
    fn down(&mut self, name: &OsStr, next: i64) -> Result<()> {
        let inside = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV;
        let below = fd::openat2(self.dir(), name, DIRECTORY, 0, inside)?;
        let above = std::mem::replace(&mut self.identity, identity(below.as_fd())?);
        self.above.push(Level { identity: above, next });
        self.at = Entries::of(below);
        Ok(())
    }

    /// Goes back to the directory above, and returns the position of its next entry. `None` at the top.
    fn up(&mut self) -> Result<Option<i64>> {
        let Some(level) = self.above.pop() else { return Ok(None) };
        let above = fd::openat(self.dir(), "..", DIRECTORY, 0)?;
        if identity(above.as_fd())? != level.identity {
            let call = format!("openat({}, \"..\"): the directory was moved", fd_name(self.dir()));
            return Err(SyscallError { call: call.into(), errno: Errno::ESTALE });
        }
        self.at = Entries::of(above);
        self.identity = level.identity;
        Ok(Some(level.next))
    }
}

/// The result of one step of a [`Walk`].
#[derive(Debug)]
pub enum Step {
    /// The walk has entered the directory of this name.
    Down(OsString),
    /// This is not a directory, or was not one any more when it was to be entered.
    Other(OsString),
    /// Another filesystem is mounted on this directory, which is not entered.
    Covered(OsString, SyscallError),
    /// The present directory has no more entries; the walk leaves it next.
    Up,
}

/// A walk over a tree that others may change meanwhile. It uses 24 bytes of memory for each level of depth.
pub struct Walk {
    cursor: Cursor,
    leaves: bool,
    ended: bool,
}

impl Walk {
    /// The walk over everything below `top`.
    pub fn of(top: BorrowedFd<'_>) -> Result<Walk> {
        Ok(Walk { cursor: Cursor::new(fd::openat(top, ".", DIRECTORY, 0)?)?, leaves: false, ended: false })
    }

    /// The directory that the walk is in.
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.cursor.dir()
    }

    /// The depth of the walk below the top.
    pub fn depth(&self) -> usize {
        self.cursor.above.len()
    }

    /// Makes one step. The last is the [`Step::Up`] of the top; after it this returns `None`.
    pub fn step(&mut self) -> Result<Option<Step>> {
        if std::mem::take(&mut self.leaves) {
            match self.cursor.up()? {
                Some(next) => self.cursor.at.seek(next)?,
                None => self.ended = true,
            }
        }
        if self.ended {
            return Ok(None);
        }
        let Some(entry) = self.cursor.at.next().transpose()? else {
            self.leaves = true;
            return Ok(Some(Step::Up));
        };
        if entry.is_dir == Some(false) {
            return Ok(Some(Step::Other(entry.name)));
        }
        match self.cursor.down(&entry.name, entry.next) {
            Ok(()) => Ok(Some(Step::Down(entry.name))),
            Err(failed) if failed.errno == Errno::EXDEV => Ok(Some(Step::Covered(entry.name, failed))),
            Err(failed) if matches!(failed.errno, Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => {
                Ok(Some(Step::Other(entry.name)))
            }
            Err(failed) => Err(failed),
        }
    }
}

/// Calls `each` for the directory `top` and for every directory below it, parents first, with the depth below
/// `top`. Directories that others remove meanwhile are left out.
pub fn visit(top: BorrowedFd<'_>, mut each: impl FnMut(BorrowedFd<'_>, usize) -> Result<()>) -> Result<()> {
    let mut walk = Walk::of(top)?;
    each(walk.dir(), 0)?;
    while let Some(step) = walk.step()? {
        match step {
            Step::Down(_) => each(walk.dir(), walk.depth())?,
            Step::Covered(_, failed) => return Err(failed),
            Step::Other(_) | Step::Up => {}
        }
    }
    Ok(())
}

/// The treatment of files by [`remove`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Files {
    /// They are unlinked.
    Unlink,
    /// They are left alone, as in a cgroup, whose files vanish with their directory.
    Leave,
}

/// Most levels of depth that a removal remembers. In a deeper tree the highest levels are forgotten, and the walk
/// starts again at the top when it needs them. This bounds its memory to 384 KiB.
const DEEPEST: usize = 16 * 1024;

/// Removes the directory `name` of `dir` and everything in it. Fails with ENOENT if `name` does not exist, and with
/// ELOOP or ENOTDIR if it is a link. Below it, others may remove entries first.
pub fn remove(dir: BorrowedFd<'_>, name: impl AsRef<Path>, files: Files) -> Result<()> {
    remove_with(dir, name, files, |dir, name, _| fd::rmdirat(dir, name))
}

/// [`remove`] with `rmdir` in place of unlinkat(2), for directories that cannot be removed at once.
///
/// The last argument of `rmdir` says whether the walk has removed all directories in this one. If so, an error
/// ends the walk. If not, `rmdir` must not wait, and ENOTEMPTY, EEXIST or EBUSY make the walk enter it.
pub fn remove_with(
    dir: BorrowedFd<'_>,
    name: impl AsRef<Path>,
    files: Files,
    rmdir: impl FnMut(BorrowedFd<'_>, &Path, bool) -> Result<()>,
) -> Result<()> {
    remove_within(DEEPEST, dir, name.as_ref(), files, rmdir)
}

fn remove_within(
    deepest: usize,
    dir: BorrowedFd<'_>,
    top: &Path,
    files: Files,
    mut rmdir: impl FnMut(BorrowedFd<'_>, &Path, bool) -> Result<()>,
) -> Result<()> {
    let open = || fd::openat(dir, top, DIRECTORY, 0).and_then(Cursor::new);
    let mut cursor = open()?;
    let mut forgotten = false;
    // The directory that the walk has just come up from.
    let mut emptied: Option<Identity> = None;
    loop {
        let Some(entry) = cursor.at.next().transpose()? else {
            emptied = Some(cursor.identity);
            if cursor.up()?.is_none() {
                if !forgotten {
                    return rmdir(dir, top, true);
                }
                (cursor, forgotten, emptied) = (open()?, false, None);
            }
            continue;
        };
        let name: &Path = entry.name.as_ref();
        if !is_directory(cursor.dir(), name, entry.is_dir, files)? {
            continue;
        }
        let was_emptied = match emptied {
            None => false,
            Some(emptied) => match fd::stat_at(cursor.dir(), name) {
                Err(failed) if failed.errno == Errno::ENOENT => continue,
                stat => stat.map(|stat| (stat.st_dev, stat.st_ino))? == emptied,
            },
        };
        match rmdir(cursor.dir(), name, was_emptied) {
            Err(failed) if failed.errno == Errno::ENOENT => {}
            Err(SyscallError { errno: Errno::ENOTEMPTY | Errno::EEXIST | Errno::EBUSY, .. }) if !was_emptied => {
                match cursor.down(&entry.name, 0) {
                    Err(failed) if failed.errno != Errno::ENOENT => return Err(failed),
                    _ => emptied = None,
                }
                if cursor.above.len() > deepest {
                    cursor.above.clear();
                    forgotten = true;
                }
            }
            other => other?,
        }
        if was_emptied {
            emptied = None;
        }
    }
}

/// Whether an entry is a directory; any other file is removed or left here.
fn is_directory(dir: BorrowedFd<'_>, name: &Path, known: Option<bool>, files: Files) -> Result<bool> {
    match (known, files) {
        (Some(true), _) => Ok(true),
        (Some(false), Files::Leave) => Ok(false),
        (None, Files::Leave) => Ok(fd::stat_at(dir, name).is_ok_and(|stat| fd::is_dir(&stat))),
        (_, Files::Unlink) => match fd::unlinkat(dir, name) {
            Err(failed) if failed.errno == Errno::EISDIR => Ok(true),
            Err(failed) if failed.errno != Errno::ENOENT => Err(failed),
            _ => Ok(false),
        },
    }
}

#[cfg(test)]
mod tests;
