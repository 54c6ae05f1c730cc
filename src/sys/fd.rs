//! Files by descriptor: opening, examining, reading, writing, replacing.

use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag};
use nix::sys::stat::{FileStat, Mode};
use nix::unistd::UnlinkatFlags;

use windlass_base::abi::PROC_SUPER_MAGIC;

use super::call::unless_missing;
use super::poll::Deadline;
use super::{Called, Result, SyscallError, fd_name, flag_names};

/// The current directory, for the `*at` calls.
pub const CWD: BorrowedFd<'static> = nix::fcntl::AT_FDCWD;

/// openat(2). `O_CLOEXEC` and `O_NOCTTY` are always added.
pub fn openat(dir: BorrowedFd<'_>, path: impl AsRef<Path>, flags: OFlag, mode: u32) -> Result<OwnedFd> {
    fn inner(dir: BorrowedFd<'_>, path: &Path, flags: OFlag, mode: u32) -> Result<OwnedFd> {
        nix::fcntl::openat(dir, path, flags | OFlag::O_CLOEXEC | OFlag::O_NOCTTY, Mode::from_bits_truncate(mode))
            .called(|| format!("openat({}, {path:?}, {})", fd_name(dir), flag_names(&flags)))
    }
    inner(dir, path.as_ref(), flags, mode)
}

/// openat(2) without a mode; `None` if the file does not exist.
pub fn openat_if_exists(dir: BorrowedFd<'_>, path: &Path, flags: OFlag) -> Result<Option<OwnedFd>> {
    let opened = nix::fcntl::openat(dir, path, flags | OFlag::O_CLOEXEC | OFlag::O_NOCTTY, Mode::empty());
    unless_missing(opened, || format!("openat({}, {path:?}, {})", fd_name(dir), flag_names(&flags)))
}

/// Opens an absolute path of the host, or one relative to the current directory.
pub fn open(path: impl AsRef<Path>, flags: OFlag) -> Result<OwnedFd> {
    openat(CWD, path, flags, 0)
}

/// openat2(2): the kernel resolves `path` within the limits of `resolve`.
///
/// `EAGAIN` (a rename raced with the lookup) is tried again, a bounded number of times.
pub fn openat2(
    dir: BorrowedFd<'_>,
    path: impl AsRef<Path>,
    flags: OFlag,
    mode: u32,
    resolve: ResolveFlag,
) -> Result<OwnedFd> {
    fn inner(dir: BorrowedFd<'_>, path: &Path, flags: OFlag, mode: u32, resolve: ResolveFlag) -> Result<OwnedFd> {
        resolved(dir, path, flags, mode, resolve).called(|| openat2_text(dir, path, flags, resolve))
    }
    inner(dir, path.as_ref(), flags, mode, resolve)
}

/// openat2(2); `None` if the file does not exist.
pub fn openat2_if_exists(
    dir: BorrowedFd<'_>,
    path: &Path,
    flags: OFlag,
    resolve: ResolveFlag,
) -> Result<Option<OwnedFd>> {
    unless_missing(resolved(dir, path, flags, 0, resolve), || openat2_text(dir, path, flags, resolve))
}

fn resolved(dir: BorrowedFd<'_>, path: &Path, flags: OFlag, mode: u32, resolve: ResolveFlag) -> nix::Result<OwnedFd> {
    let terminal = if flags.contains(OFlag::O_PATH) { OFlag::empty() } else { OFlag::O_NOCTTY };
    let how =
        OpenHow::new().flags(flags | OFlag::O_CLOEXEC | terminal).mode(Mode::from_bits_truncate(mode)).resolve(resolve);
    let mut tries = 0;
    loop {
        match nix::fcntl::openat2(dir, path, how) {
            Err(nix::errno::Errno::EAGAIN) if tries < 128 => tries += 1,
            other => return other,
        }
    }
}

fn openat2_text(dir: BorrowedFd<'_>, path: &Path, flags: OFlag, resolve: ResolveFlag) -> String {
    format!("openat2({}, {path:?}, {}, {})", fd_name(dir), flag_names(&flags), flag_names(&resolve))
}

/// Duplicates a descriptor, close-on-exec.
pub fn duplicate(fd: BorrowedFd<'_>) -> Result<OwnedFd> {
    fd.try_clone_to_owned().called(|| format!("fcntl({}, F_DUPFD_CLOEXEC)", fd_name(fd)))
}

/// fstat(2).
pub fn stat(fd: BorrowedFd<'_>) -> Result<FileStat> {
    nix::sys::stat::fstat(fd).called(|| format!("fstat({})", fd_name(fd)))
}

/// fstatat(2) without following a final link.
pub fn stat_at(dir: BorrowedFd<'_>, name: impl AsRef<Path>) -> Result<FileStat> {
    fn inner(dir: BorrowedFd<'_>, name: &Path) -> Result<FileStat> {
        nix::sys::stat::fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)
            .called(|| format!("fstatat({}, {name:?})", fd_name(dir)))
    }
    inner(dir, name.as_ref())
}

/// Whether a file, a link or anything else has this name.
pub fn exists_at(dir: BorrowedFd<'_>, name: &Path) -> Result<bool> {
    let found = nix::sys::stat::fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW);
    Ok(unless_missing(found, || format!("fstatat({}, {name:?})", fd_name(dir)))?.is_some())
}

/// The reason not to trust the content of a file or directory: its owner is neither this process's user nor root, or
/// others may write to it. Returns `None` if it can be trusted.
pub fn why_untrusted(stat: &FileStat) -> Option<String> {
    let user = nix::unistd::geteuid().as_raw();
    if stat.st_uid != user && stat.st_uid != 0 {
        Some(format!("belongs to user {}, not to {user}", stat.st_uid))
    } else if stat.st_mode & 0o022 != 0 {
        Some(format!("can be written by others: its mode is {:04o}", stat.st_mode & 0o7777))
    } else {
        None
    }
}

/// Who gets the signals of a file: a process or thread, a group with its sign reversed, or 0 (fcntl(2), `F_GETOWN`).
pub fn owner(fd: BorrowedFd<'_>) -> i32 {
    nix::errno::Errno::clear();
    // SAFETY: the call takes no argument.
    let owner = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETOWN) };
    // The call fails only for a descriptor that is a mere path. Otherwise the owner is the group of process 1.
    if owner == -1 && nix::errno::Errno::last() == nix::errno::Errno::EBADF { 0 } else { owner }
}

/// The path of the file that `fd` refers to, as this process sees it (proc_pid_fd(5)).
pub fn path_of(fd: BorrowedFd<'_>) -> Result<std::path::PathBuf> {
    nix::fcntl::readlink(format!("/proc/self/fd/{}", fd.as_raw_fd()).as_str())
        .called(|| format!("readlink({})", fd_name(fd)))
        .map(Into::into)
}

/// The path by which the file of a descriptor can be opened, `/proc/self/fd/N` (proc_pid_fd(5)).
pub fn proc_path(fd: BorrowedFd<'_>) -> std::path::PathBuf {
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into()
}

/// Whether the file is a directory.
pub fn is_dir(stat: &FileStat) -> bool {
    stat.st_mode & libc::S_IFMT == libc::S_IFDIR
}

/// The magic number of the filesystem that `fd` is on (statfs(2), `f_type`).
pub fn filesystem(fd: BorrowedFd<'_>) -> Result<i64> {
    nix::sys::statfs::fstatfs(fd)
        .map(|s| {
            #[allow(clippy::unnecessary_cast)] // The type differs between architectures.
            let magic = s.filesystem_type().0 as i64;
            magic
        })
        .called(|| format!("fstatfs({})", fd_name(fd)))
}

/// The longest document that is read (a configuration, a process, limits), in bytes. Other runtimes have no bound.
pub const DOCUMENT: usize = 64 << 20;

/// Reads a file from its position to its end, with one read(2) if it is a regular file of the size that it reports.
/// Fails with EFBIG for more than `limit` bytes, as from a device without an end.
pub fn read_all(fd: OwnedFd, limit: usize) -> Result<Vec<u8>> {
    let stat = stat(fd.as_fd())?;
    let regular = stat.st_mode & libc::S_IFMT == libc::S_IFREG;
    let size = usize::try_from(stat.st_size).unwrap_or(0);
    let too_long = || SyscallError {
        call: format!("read({}): more than {limit} bytes", fd_name(&fd)).into(),
        errno: nix::errno::Errno::EFBIG,
    };
    if size > limit {
        return Err(too_long());
    }
    let (mut text, mut length) = (vec![0; size + 1], 0);
    loop {
        match nix::unistd::read(&fd, &mut text[length..]) {
            Err(nix::errno::Errno::EINTR) => continue,
            Ok(0) => break,
            other => length += other.called(|| format!("read({})", fd_name(&fd)))?,
        }
        // There was room for one more byte. Files of procfs have no size and are read on.
        if regular && size > 0 && length == size {
            break;
        }
        if length > limit {
            return Err(too_long());
        }
        if length == text.len() {
            text.resize((2 * length).max(READ), 0);
        }
    }
    text.truncate(length);
    Ok(text)
}

/// The document at `path`, a file that is not ours: see [`read_all`] and [`DOCUMENT`].
pub fn document(path: impl AsRef<Path>) -> Result<Vec<u8>> {
    document_at(path.as_ref())
}

fn document_at(path: &Path) -> Result<Vec<u8>> {
    read_all(open(path, OFlag::O_RDONLY)?, DOCUMENT)
}

/// How much of a file without a size is read at once, in bytes.
const READ: usize = 16 * 1024;

/// Reads a small file of the kernel or of our own, usually with one read(2): a read of such a file that fills less than
/// the buffer has reached the end. A final link is not followed.
pub fn read_small(dir: BorrowedFd<'_>, name: impl AsRef<Path>) -> Result<Vec<u8>> {
    read_small_at(dir, name.as_ref())
}

fn read_small_at(dir: BorrowedFd<'_>, name: &Path) -> Result<Vec<u8>> {
    let fd = openat(dir, name, OFlag::O_RDONLY | OFlag::O_NOFOLLOW, 0)?;
    let mut text = Vec::new();
    loop {
        // The buffer is on the stack, because most of it is not used, and `list` reads hundreds of files.
        let mut buffer = [0; 4096];
        let n = nix::unistd::read(&fd, &mut buffer).called(|| format!("read({name:?})"))?;
        text.extend_from_slice(&buffer[..n]);
        if n < buffer.len() {
            return Ok(text);
        }
    }
}

/// Reads the beginning of a regular file: its first line and `more` bytes after it, or less if the file is
/// shorter. One read is usually enough; the time is linear in the length of the line.
pub fn read_head(fd: BorrowedFd<'_>, more: usize) -> Result<Vec<u8>> {
    let mut text = vec![0; 4096];
    let (mut length, mut end) = (0, None);
    loop {
        let n = pread(fd, &mut text[length..], length)?;
        let new = &text[length..length + n];
        end = end.or_else(|| new.iter().position(|byte| *byte == b'\n').map(|at| length + at + 1));
        length += n;
        if n == 0 || end.is_some_and(|end| length >= end + more) {
            text.truncate(length);
            return Ok(text);
        }
        if length == text.len() {
            text.resize(2 * length, 0);
        }
    }
}

/// Reads `length` bytes of a regular file from `offset` on, or less if the file ends before.
pub fn read_part(fd: BorrowedFd<'_>, offset: usize, length: usize) -> Result<Vec<u8>> {
    let size = usize::try_from(stat(fd)?.st_size).unwrap_or(0);
    let (mut text, mut done) = (vec![0; length.min(size.saturating_sub(offset))], 0);
    while done < text.len() {
        match pread(fd, &mut text[done..], offset + done)? {
            0 => break,
            n => done += n,
        }
    }
    text.truncate(done);
    Ok(text)
}

fn pread(fd: BorrowedFd<'_>, buffer: &mut [u8], offset: usize) -> Result<usize> {
    loop {
        match nix::sys::uio::pread(fd, buffer, offset as libc::off_t) {
            Err(nix::errno::Errno::EINTR) => {}
            other => return other.called(|| format!("pread({}, at {offset})", fd_name(fd))),
        }
    }
}

/// Opens the same file again with other flags, through `/proc/self/fd`.
pub fn reopen(fd: BorrowedFd<'_>, flags: OFlag) -> Result<OwnedFd> {
    open(format!("/proc/self/fd/{}", fd.as_raw_fd()), flags)
}

/// Makes one write(2). A short write is an error, because the kernel's files accept a value whole or not at all.
pub fn write_once(fd: BorrowedFd<'_>, bytes: &[u8]) -> Result<()> {
    let shown = || format!("write({}, {:?})", fd_name(fd), String::from_utf8_lossy(&bytes[..bytes.len().min(80)]));
    match nix::unistd::write(fd, bytes).called(shown)? {
        n if n == bytes.len() => Ok(()),
        _ => Err(SyscallError { call: shown().into(), errno: nix::errno::Errno::EIO }),
    }
}

/// Writes all of `bytes`. If `fd` is non-blocking and full, this waits for room until the deadline, and then fails
/// with ETIMEDOUT. A blocking descriptor may wait beyond the deadline.
pub fn write_all(fd: BorrowedFd<'_>, bytes: &[u8], deadline: Deadline) -> Result<()> {
    let call = || format!("write({}, {} bytes)", fd_name(fd), bytes.len());
    let mut rest = bytes;
    while !rest.is_empty() {
        match nix::unistd::write(fd, rest) {
            Ok(n) => rest = &rest[n..],
            Err(nix::errno::Errno::EINTR) => {}
            Err(nix::errno::Errno::EAGAIN) => {
                if !super::poll::writable(fd, deadline)? {
                    return Err(SyscallError { call: call().into(), errno: nix::errno::Errno::ETIMEDOUT });
                }
            }
            Err(errno) => return Err(SyscallError { call: call().into(), errno }),
        }
    }
    Ok(())
}

/// Makes the file `name`, to be written and read; the name must be free.
pub fn make_new(dir: BorrowedFd<'_>, name: impl AsRef<Path>, mode: u32) -> Result<OwnedFd> {
    openat(dir, name, OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW, mode)
}

/// pwrite(2) of all bytes. A full disk or a limit that keeps some from being written is an error.
pub fn write_at(fd: BorrowedFd<'_>, bytes: &[u8], offset: usize) -> Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        let (rest, at) = (&bytes[done..], offset + done);
        let shown = || format!("pwrite({}, {} bytes at {at})", fd_name(fd), rest.len());
        match nix::sys::uio::pwrite(fd, rest, at as libc::off_t) {
            Err(nix::errno::Errno::EINTR) => {}
            Ok(0) => return Err(SyscallError { call: shown().into(), errno: nix::errno::Errno::EIO }),
            other => done += other.called(shown)?,
        }
    }
    Ok(())
}

/// The guarantee of [`replace`] when the power fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// There is none: after a crash of the machine the file may be old, new or empty.
    Cached,
    /// The file and its directory are on the disk when the call returns.
    Synced,
}

/// Replaces the file `name` by one with `text` in it, so that a reader sees the old or the new. The new file is written
/// beside its name, as `.NAME.PID`, and renamed; on failure nothing of it stays. If another user has taken that name
/// and keeps it, which a sticky directory allows, the name ends in a random number.
pub fn replace(dir: BorrowedFd<'_>, name: &Path, mode: u32, text: &[u8], durability: Durability) -> Result<()> {
    replace_open(dir, name, mode, text, durability).map(drop)
}

/// Like [`replace`], and returns the new file, open for reading and writing with the position at its end.
pub fn replace_open(
    dir: BorrowedFd<'_>,
    name: &Path,
    mode: u32,
    text: &[u8],
    durability: Durability,
) -> Result<OwnedFd> {
    // The name of a file has at most 255 bytes.
    let stem = name.file_name().unwrap_or(name.as_os_str()).as_bytes();
    let beside = |end: &str| {
        let mut temporary = OsString::from(".");
        temporary.push(std::ffi::OsStr::from_bytes(&stem[..stem.len().min(220)]));
        temporary.push(end);
        name.with_file_name(temporary)
    };
    let mut temporary = beside(&format!(".{}", std::process::id()));
    let file = match make_new(dir, &temporary, mode) {
        Err(failed) if failed.errno == nix::errno::Errno::EEXIST => {
            // A killed process with our number left the file behind, or it is another user's.
            if unlinkat(dir, &temporary).is_err() {
                temporary = beside(&super::random::random_suffix()?);
            }
            make_new(dir, &temporary, mode)?
        }
        other => other?,
    };
    let sync = |file: &OwnedFd| match durability {
        Durability::Cached => Ok(()),
        Durability::Synced => nix::unistd::fsync(file).called(|| format!("fsync({})", fd_name(file))),
    };
    let written = write_all(file.as_fd(), text, Deadline::NEVER).and_then(|()| sync(&file)).and_then(|()| {
        nix::fcntl::renameat(dir, &temporary, dir, name).called(|| format!("renameat({temporary:?}, {name:?})"))
    });
    if written.is_err() {
        let _ = unlinkat(dir, &temporary);
    }
    written?;
    if durability == Durability::Synced {
        let parent = name.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        sync(&openat(dir, parent, OFlag::O_RDONLY | OFlag::O_DIRECTORY, 0)?)?;
    }
    Ok(file)
}

/// Writes a process id to a file as engines read it: digits alone, whole or not at all. A device or a FIFO gets the
/// digits and stays: a file in the place of /dev/null would break the host. The same holds for a link to one of them,
/// and for a link through procfs, which /dev/stdout is: a file that it leads to gets the digits at its end. Any other
/// link is replaced, not followed.
pub fn write_pid(path: &Path, pid: i32) -> Result<()> {
    let text = pid.to_string();
    let kind_of = |stat: FileStat| stat.st_mode & libc::S_IFMT;
    let is_special = |kind| matches!(kind, libc::S_IFCHR | libc::S_IFBLK | libc::S_IFIFO);
    let written_to = match stat_at(CWD, path).map(kind_of) {
        Ok(kind) if is_special(kind) => Some(OFlag::O_NOFOLLOW),
        Ok(libc::S_IFLNK) => {
            let leads_to_special = nix::sys::stat::stat(path).is_ok_and(|stat| is_special(kind_of(stat)));
            (leads_to_special || leads_through_procfs(path)?).then_some(OFlag::O_APPEND)
        }
        _ => None,
    };
    if let Some(follow) = written_to {
        let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | follow;
        return write_once(openat(CWD, path, flags, 0)?.as_fd(), text.as_bytes());
    }
    replace(CWD, path, 0o644, text.as_bytes(), Durability::Cached)
}

/// Whether a symbolic link is one of procfs, or leads to one: /proc/self/fd/1, /dev/fd/1, /dev/stdout.
fn leads_through_procfs(link: &Path) -> Result<bool> {
    let opened = openat(CWD, link, OFlag::O_PATH | OFlag::O_NOFOLLOW, 0)?;
    Ok(filesystem(opened.as_fd())? == PROC_SUPER_MAGIC || Path::new(&readlinkat(CWD, link)?).starts_with("/proc"))
}

/// unlinkat(2) of a file.
pub fn unlinkat(dir: BorrowedFd<'_>, name: impl AsRef<Path>) -> Result<()> {
    let name = name.as_ref();
    removed(dir, name, UnlinkatFlags::NoRemoveDir).called(|| removal(dir, name, UnlinkatFlags::NoRemoveDir))
}

/// unlinkat(2) of a directory.
pub fn rmdirat(dir: BorrowedFd<'_>, name: impl AsRef<Path>) -> Result<()> {
    let name = name.as_ref();
    removed(dir, name, UnlinkatFlags::RemoveDir).called(|| removal(dir, name, UnlinkatFlags::RemoveDir))
}

/// unlinkat(2) of a file that may be missing.
pub fn unlink_if_exists(dir: BorrowedFd<'_>, name: &Path) -> Result<()> {
    removed_if_exists(dir, name, UnlinkatFlags::NoRemoveDir)
}

/// unlinkat(2) of a directory that may be missing.
pub fn rmdir_if_exists(dir: BorrowedFd<'_>, name: &Path) -> Result<()> {
    removed_if_exists(dir, name, UnlinkatFlags::RemoveDir)
}

fn removed_if_exists(dir: BorrowedFd<'_>, name: &Path, flag: UnlinkatFlags) -> Result<()> {
    unless_missing(removed(dir, name, flag), || removal(dir, name, flag)).map(drop)
}

fn removed(dir: BorrowedFd<'_>, name: &Path, flag: UnlinkatFlags) -> nix::Result<()> {
    nix::unistd::unlinkat(dir, name, flag)
}

fn removal(dir: BorrowedFd<'_>, name: &Path, flag: UnlinkatFlags) -> String {
    let directory = if matches!(flag, UnlinkatFlags::RemoveDir) { ", AT_REMOVEDIR" } else { "" };
    format!("unlinkat({}, {name:?}{directory})", fd_name(dir))
}

/// mkdirat(2).
pub fn mkdirat(dir: BorrowedFd<'_>, name: impl AsRef<Path>, mode: u32) -> Result<()> {
    fn inner(dir: BorrowedFd<'_>, name: &Path, mode: u32) -> Result<()> {
        nix::sys::stat::mkdirat(dir, name, Mode::from_bits_truncate(mode))
            .called(|| format!("mkdirat({}, {name:?}, {mode:#o})", fd_name(dir)))
    }
    inner(dir, name.as_ref(), mode)
}

/// mknodat(2); `mode` has the file type, `device` is makedev(3).
pub fn mknodat(dir: BorrowedFd<'_>, name: impl AsRef<Path>, mode: u32, device: u64) -> Result<()> {
    fn inner(dir: BorrowedFd<'_>, name: &Path, mode: u32, device: u64) -> Result<()> {
        let kind = nix::sys::stat::SFlag::from_bits_truncate(mode & libc::S_IFMT);
        nix::sys::stat::mknodat(dir, name, kind, Mode::from_bits_truncate(mode), device)
            .called(|| format!("mknodat({}, {name:?}, {mode:#o}, {device:#x})", fd_name(dir)))
    }
    inner(dir, name.as_ref(), mode, device)
}

/// symlinkat(2).
pub fn symlinkat(target: &str, dir: BorrowedFd<'_>, name: impl AsRef<Path>) -> Result<()> {
    fn inner(target: &str, dir: BorrowedFd<'_>, name: &Path) -> Result<()> {
        nix::unistd::symlinkat(target, dir, name)
            .called(|| format!("symlinkat({target:?}, {}, {name:?})", fd_name(dir)))
    }
    inner(target, dir, name.as_ref())
}

/// readlinkat(2).
pub fn readlinkat(dir: BorrowedFd<'_>, name: impl AsRef<Path>) -> Result<OsString> {
    fn inner(dir: BorrowedFd<'_>, name: &Path) -> Result<OsString> {
        nix::fcntl::readlinkat(dir, name).called(|| format!("readlinkat({}, {name:?})", fd_name(dir)))
    }
    inner(dir, name.as_ref())
}

/// fchmodat(2) on the name itself; a link is `EOPNOTSUPP`.
pub fn chmod_at(dir: BorrowedFd<'_>, name: impl AsRef<Path>, mode: u32) -> Result<()> {
    fn inner(dir: BorrowedFd<'_>, name: &Path, mode: u32) -> Result<()> {
        let flags = nix::sys::stat::FchmodatFlags::NoFollowSymlink;
        nix::sys::stat::fchmodat(dir, name, Mode::from_bits_truncate(mode), flags)
            .called(|| format!("fchmodat({}, {name:?}, {mode:#o})", fd_name(dir)))
    }
    inner(dir, name.as_ref(), mode)
}

/// fchmod(2).
pub fn chmod(fd: BorrowedFd<'_>, mode: u32) -> Result<()> {
    nix::sys::stat::fchmod(fd, Mode::from_bits_truncate(mode)).called(|| format!("fchmod({}, {mode:#o})", fd_name(fd)))
}

/// fchownat(2) on the name itself, and not on the target of a link.
pub fn chown_at(dir: BorrowedFd<'_>, name: impl AsRef<Path>, uid: u32, gid: u32) -> Result<()> {
    fn inner(dir: BorrowedFd<'_>, name: &Path, uid: u32, gid: u32) -> Result<()> {
        let flags = if name.as_os_str().is_empty() { AtFlags::AT_EMPTY_PATH } else { AtFlags::AT_SYMLINK_NOFOLLOW };
        nix::unistd::fchownat(dir, name, Some(uid.into()), Some(gid.into()), flags)
            .called(|| format!("fchownat({}, {name:?}, {uid}, {gid})", fd_name(dir)))
    }
    inner(dir, name.as_ref(), uid, gid)
}

#[cfg(test)]
mod tests;
