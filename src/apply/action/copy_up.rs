//! tmpcopyup: a tmpfs that starts with what was at its destination.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, ResolveFlag};
use nix::sys::stat::{FileStat, UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;

use crate::sys::{Called, Failed, Result, attributes, directory, fd};

/// What the top of the tmpfs takes over from the directory below it. What the mount's own options
/// say of it stays.
pub(super) struct Top {
    /// Its owner and group.
    pub owner: bool,
    /// Its mode.
    pub mode: bool,
}

/// Copies the content of the directory `from` into `to`, with modes, owners, times and extended
/// attributes. Nothing is followed and nothing leaves either directory.
pub(super) fn copy_up(from: BorrowedFd<'_>, to: BorrowedFd<'_>, top: &Top) -> Result<()> {
    let stat = fd::stat(from)?;
    copy_directory(from, to)?;
    if top.owner {
        own(to, OsStr::new(""), &stat)?;
    }
    let open = |dir| fd::openat(dir, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY, 0);
    let copy = open(to)?;
    attributes::copy(open(from)?.as_fd(), copy.as_fd())?;
    if !top.mode {
        return Ok(());
    }
    nix::sys::stat::fchmod(copy, mode(&stat)).called(|| "fchmod(tmpfs root)".into())
}

fn copy_directory(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    for name in directory::names(from)? {
        copy(from, to, &name)?;
    }
    Ok(())
}

fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
    let mut stat = fd::stat_at(from, name)?;
    let inside = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV;
    match stat.st_mode & libc::S_IFMT {
        libc::S_IFDIR => {
            fd::mkdirat(to, name, 0o700)?;
            let below = match fd::openat2(from, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY, 0, inside) {
                // Another filesystem is mounted there: the directory is copied, not what covers it.
                Err(Failed { errno: nix::errno::Errno::EXDEV, .. }) => None,
                other => Some(other?),
            };
            let copy = fd::openat(to, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW, 0)?;
            if let Some(below) = below {
                stat = opened(below.as_fd(), name, libc::S_IFDIR)?;
                copy_directory(below.as_fd(), copy.as_fd())?;
                own(to, name, &stat)?;
                attributes::copy(below.as_fd(), copy.as_fd())?;
            }
        }
        libc::S_IFREG => {
            let source = fd::openat2(from, name, OFlag::O_RDONLY | OFlag::O_NONBLOCK, 0, inside)?;
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW;
            let copy = fd::openat(to, name, flags, 0o600)?;
            stat = opened(source.as_fd(), name, libc::S_IFREG)?;
            let (mut source, mut copy) = (File::from(source), File::from(copy));
            std::io::copy(&mut source, &mut copy).called(|| format!("copy({name:?})"))?;
            // Before the attributes, since a change of the owner removes file capabilities (`security.capability`).
            own(to, name, &stat)?;
            attributes::copy(source.as_fd(), copy.as_fd())?;
        }
        libc::S_IFLNK => {
            let target = fd::readlinkat(from, name)?;
            nix::unistd::symlinkat(target.as_os_str(), to, name).called(|| format!("symlinkat({name:?})"))?;
        }
        _ => fd::mknodat(to, name, stat.st_mode, stat.st_rdev)?,
    }
    if !matches!(stat.st_mode & libc::S_IFMT, libc::S_IFREG | libc::S_IFDIR) {
        own(to, name, &stat)?;
    }
    if stat.st_mode & libc::S_IFMT != libc::S_IFLNK {
        nix::sys::stat::fchmodat(to, name, mode(&stat), nix::sys::stat::FchmodatFlags::FollowSymlink)
            .called(|| format!("fchmodat({name:?})"))?;
    }
    let (accessed, changed) =
        (TimeSpec::new(stat.st_atime, stat.st_atime_nsec), TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec));
    utimensat(to, name, &accessed, &changed, UtimensatFlags::NoFollowSymlink).called(|| format!("utimensat({name:?})"))
}

/// Looks at a file again after it was opened, because somebody may have replaced it since it was listed. Owner
/// and mode come from what was opened, and it must be of the type that was listed.
fn opened(file: BorrowedFd<'_>, name: &OsStr, kind: libc::mode_t) -> Result<FileStat> {
    let stat = fd::stat(file)?;
    match stat.st_mode & libc::S_IFMT == kind {
        true => Ok(stat),
        false => Err(Failed { call: format!("openat2({name:?}), another file by now").into(), errno: Errno::ESTALE }),
    }
}

fn own(dir: BorrowedFd<'_>, name: &OsStr, stat: &FileStat) -> Result<()> {
    fd::chown_at(dir, name, stat.st_uid, stat.st_gid)
}

fn mode(stat: &FileStat) -> nix::sys::stat::Mode {
    nix::sys::stat::Mode::from_bits_truncate(stat.st_mode & 0o7777)
}
