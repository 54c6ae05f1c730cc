//! tmpcopyup: a tmpfs that starts with what was at its destination.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, ResolveFlag};
use nix::sys::stat::{FileStat, UtimensatFlags, futimens, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Whence, lseek};

use windlass_sys::tree::{Step, Walk};
use windlass_sys::{Called, Result, SyscallError, attributes, fd};

/// The attributes that the top of the tmpfs takes over from the directory that it covers. The mount's own options
/// override it.
pub(super) struct Top {
    /// Its owner and group.
    pub owner: bool,
    /// Its mode.
    pub mode: bool,
}

const DIRECTORY: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW);

/// Copies the content of the directory `from` into `to`, with modes, owners, times and extended
/// attributes. No link is followed, so nothing outside the two directories is read or written. No other process
/// may have `to`.
pub(super) fn copy_up(from: BorrowedFd<'_>, to: BorrowedFd<'_>, top: &Top) -> Result<()> {
    let stat = fd::stat(from)?;
    let mut walk = Walk::of(from)?;
    let mut copy = fd::openat(to, ".", DIRECTORY, 0)?;
    // The stat of each directory from the top to where the walk is, taken before it was read.
    let mut stats: Vec<FileStat> = Vec::new();
    while let Some(step) = walk.step()? {
        match step {
            Step::Down(name) => {
                stats.push(fd::stat(walk.dir())?);
                copy = make_directory(copy.as_fd(), &name)?;
            }
            Step::Covered(name, _) => {
                // The directory itself is copied, and not the mount on it.
                let stat = fd::stat_at(walk.dir(), &name)?;
                finish(make_directory(copy.as_fd(), &name)?.as_fd(), &stat, None)?;
            }
            Step::Other(name) => copy_file(walk.dir(), copy.as_fd(), &name)?,
            Step::Up => {
                let Some(stat) = stats.pop() else { continue };
                finish(copy.as_fd(), &stat, Some(walk.dir()))?;
                copy = fd::openat(copy.as_fd(), "..", DIRECTORY, 0)?;
            }
        }
    }
    if top.owner {
        own(to, OsStr::new(""), &stat)?;
    }
    attributes::copy(fd::openat(from, ".", DIRECTORY, 0)?.as_fd(), copy.as_fd())?;
    if top.mode { fd::chmod(copy.as_fd(), stat.st_mode & 0o7777) } else { Ok(()) }
}

fn make_directory(parent: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd> {
    fd::mkdirat(parent, name, 0o700)?;
    fd::openat(parent, name, DIRECTORY, 0)
}

/// Gives a copy the original's owner, attributes, mode and times, once its content is complete. The attributes come
/// after the owner, since a change of the owner removes file capabilities (`security.capability`).
fn finish(copy: BorrowedFd<'_>, stat: &FileStat, original: Option<BorrowedFd<'_>>) -> Result<()> {
    own(copy, OsStr::new(""), stat)?;
    original.map_or(Ok(()), |original| attributes::copy(original, copy))?;
    fd::chmod(copy, stat.st_mode & 0o7777)?;
    let [accessed, changed] = times(stat);
    futimens(copy, &accessed, &changed).called(|| "futimens".into())
}

/// Copies a file that is not a directory.
fn copy_file(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
    let stat = fd::stat_at(from, name)?;
    match stat.st_mode & libc::S_IFMT {
        libc::S_IFREG => return copy_regular(from, to, name),
        libc::S_IFDIR => return Err(another(name)),
        libc::S_IFLNK => {
            let target = fd::readlinkat(from, name)?;
            nix::unistd::symlinkat(target.as_os_str(), to, name).called(|| format!("symlinkat({name:?})"))?;
        }
        _ => fd::mknodat(to, name, stat.st_mode, stat.st_rdev)?,
    }
    own(to, name, &stat)?;
    if stat.st_mode & libc::S_IFMT != libc::S_IFLNK {
        fd::chmod_at(to, name, stat.st_mode & 0o7777)?;
    }
    let [accessed, changed] = times(&stat);
    utimensat(to, name, &accessed, &changed, UtimensatFlags::NoFollowSymlink).called(|| format!("utimensat({name:?})"))
}

fn copy_regular(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
    let inside = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV;
    let source = fd::openat2(from, name, OFlag::O_RDONLY | OFlag::O_NONBLOCK, 0, inside)?;
    let stat = opened(source.as_fd(), name, libc::S_IFREG)?;
    let copy = fd::make_new(to, name, 0o600)?;
    let (mut source, mut copy) = (File::from(source), File::from(copy));
    copy_content(&mut source, &mut copy).called(|| format!("copy({name:?})"))?;
    finish(copy.as_fd(), &stat, Some(source.as_fd()))
}

/// Copies the data and keeps the holes (lseek(2), `SEEK_DATA`): an image may have a file of terabytes without any data.
fn copy_content(source: &mut File, copy: &mut File) -> std::io::Result<()> {
    let mut end = 0;
    loop {
        let data = match lseek(&*source, end, Whence::SeekData) {
            // No data follows.
            Err(Errno::ENXIO) => return copy.set_len(source.seek(SeekFrom::End(0))?),
            found => found?,
        };
        let hole = lseek(&*source, data, Whence::SeekHole)?;
        // Somebody else may serve the filesystem, and its answers must not keep us here for ever.
        if data < end || hole <= data {
            return Err(Errno::EIO.into());
        }
        end = hole;
        lseek(&*source, data, Whence::SeekSet)?;
        lseek(&*copy, data, Whence::SeekSet)?;
        std::io::copy(&mut source.take((end - data).unsigned_abs()), copy)?;
    }
}

/// The stat of an opened file, which must have the type that was listed: somebody may have replaced the file since.
/// Owner and mode are copied from this stat.
fn opened(file: BorrowedFd<'_>, name: &OsStr, kind: libc::mode_t) -> Result<FileStat> {
    let stat = fd::stat(file)?;
    if stat.st_mode & libc::S_IFMT == kind { Ok(stat) } else { Err(another(name)) }
}

fn another(name: &OsStr) -> SyscallError {
    SyscallError { call: format!("openat2({name:?}), another file by now").into(), errno: Errno::ESTALE }
}

fn own(dir: BorrowedFd<'_>, name: &OsStr, stat: &FileStat) -> Result<()> {
    fd::chown_at(dir, name, stat.st_uid, stat.st_gid)
}

fn times(stat: &FileStat) -> [TimeSpec; 2] {
    [TimeSpec::new(stat.st_atime, stat.st_atime_nsec), TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec)]
}

#[cfg(test)]
mod tests;
