//! Standard input, output and error of the caller, which are used without changing them.
//!
//! The caller, and others to whom it gave them, share the open files behind 0, 1 and 2. `O_NONBLOCK` belongs to the
//! open file, so setting it would change it for all of them.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::MsgFlags;
use nix::sys::stat::FileStat;

use super::stream::{self, Moved, moved};
use super::{Called, Result, SyscallError, descriptors, fd, fd_name};

/// PIPEFS_MAGIC (linux/magic.h): the filesystem of pipes that have no name.
const PIPEFS_MAGIC: i64 = 0x5049_5045;

/// The id that the kernel shows in a user namespace for users that are not mapped there (user_namespaces(7),
/// overflowuid).
pub const OVERFLOW_ID: u32 = 65534;

/// Bytes that can be written without waiting to a pipe that poll(2) reports writable (pipe(7), PIPE_BUF).
const ATOMIC: usize = 4096;

/// The kind of a file, as far as reading and writing it differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Pipe,
    Terminal,
    Socket,
    File,
    /// A file that is opened for appending, which splice(2) refuses.
    Appended,
    Other,
}

/// One of 0, 1 and 2, to read from or to write to.
///
/// Use [`CallerStream::fd`], the caller's own descriptor, to ask poll(2) whether it is ready.
#[derive(Debug)]
pub struct CallerStream {
    caller: BorrowedFd<'static>,
    /// The same pipe or terminal, opened again so that it never blocks. It is not for poll(2), which never reports the
    /// end of a FIFO that was opened after its last writer had gone.
    ours: Option<OwnedFd>,
    kind: Kind,
}

impl CallerStream {
    /// Opens `number` for reading or writing; returns `None` if nothing is open there.
    pub fn open(number: RawFd, write: bool) -> Result<Option<CallerStream>> {
        let Some(caller) = descriptors::borrow_inherited(number) else { return Ok(None) };
        let flags = fcntl(caller, FcntlArg::F_GETFL).called(|| format!("fcntl({number}, F_GETFL)"))?;
        let flags = OFlag::from_bits_retain(flags);
        let kind = match fd::stat(caller)?.st_mode & libc::S_IFMT {
            libc::S_IFIFO => Kind::Pipe,
            libc::S_IFSOCK => Kind::Socket,
            libc::S_IFREG if flags.contains(OFlag::O_APPEND) => Kind::Appended,
            libc::S_IFREG => Kind::File,
            libc::S_IFCHR if nix::unistd::isatty(caller).unwrap_or(false) => Kind::Terminal,
            _ => Kind::Other,
        };
        let (only, mode) = match write {
            true => (OFlag::O_RDONLY, OFlag::O_WRONLY),
            false => (OFlag::O_WRONLY, OFlag::O_RDONLY),
        };
        // The caller's descriptor must allow the direction; opening the file again does not widen that.
        let allowed = flags & OFlag::O_ACCMODE != only;
        let ours = match kind {
            Kind::Pipe | Kind::Terminal if allowed => fd::reopen(caller, mode | OFlag::O_NONBLOCK).ok(),
            _ => None,
        };
        Ok(Some(CallerStream { caller, ours, kind }))
    }

    /// The caller's descriptor, for poll(2).
    pub fn fd(&self) -> BorrowedFd<'static> {
        self.caller
    }

    /// Whether reading and writing never wait, even without asking poll(2) before.
    pub fn never_waits(&self) -> bool {
        self.ours.is_some() || matches!(self.kind, Kind::Socket | Kind::File | Kind::Appended)
    }

    /// Whether poll(2) reports that its other end was closed.
    pub fn has_another_end(&self) -> bool {
        matches!(self.kind, Kind::Pipe | Kind::Terminal | Kind::Socket)
    }

    /// A descriptor for splice(2), if that never waits.
    pub fn spliced(&self) -> Option<BorrowedFd<'_>> {
        match self.kind {
            Kind::Pipe => self.ours.as_ref().map(AsFd::as_fd),
            Kind::File => Some(self.caller),
            _ => None,
        }
    }

    /// Whether it is a terminal with other processes in its foreground, see [`is_in_background`].
    pub fn is_in_background(&self) -> bool {
        self.kind == Kind::Terminal && is_in_background(self.caller)
    }

    /// read(2).
    pub fn read(&self, buffer: &mut [u8]) -> Result<Moved> {
        if self.kind == Kind::Socket {
            let received = nix::sys::socket::recv(self.caller.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT);
            return moved(received, || format!("recv({})", fd_name(self.caller)));
        }
        match stream::read(self.ours.as_ref().map_or(self.caller, AsFd::as_fd), buffer) {
            Err(SyscallError { errno: Errno::EIO, .. }) if self.is_in_background() => Ok(Moved::Later),
            other => other,
        }
    }

    /// write(2). A pipe without a reader is `EPIPE`, never a signal: SIGPIPE is ignored.
    pub fn write(&self, bytes: &[u8]) -> Result<Moved> {
        if self.kind == Kind::Socket {
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            let sent = nix::sys::socket::send(self.caller.as_raw_fd(), bytes, flags);
            return moved(sent, || format!("send({})", fd_name(self.caller)));
        }
        match &self.ours {
            Some(ours) => stream::write(ours.as_fd(), bytes),
            None if self.never_waits() => stream::write(self.caller, bytes),
            None => stream::write(self.caller, &bytes[..bytes.len().min(ATOMIC)]),
        }
    }
}

/// Standard input.
pub fn input() -> BorrowedFd<'static> {
    descriptors::borrow_inherited(0).unwrap_or(fd::CWD)
}

/// Whether a terminal is our controlling one and we are not in its foreground: then reading it fails with EIO, or stops
/// us by SIGTTIN (termios(3), "Job control").
pub fn is_in_background(terminal: BorrowedFd<'_>) -> bool {
    nix::unistd::tcgetpgrp(terminal).is_ok_and(|group| group != nix::unistd::getpgrp())
}

/// Whether a file is the null device.
pub fn is_null(stat: &FileStat) -> bool {
    stat.st_mode & libc::S_IFMT == libc::S_IFCHR && stat.st_rdev == libc::makedev(1, 3)
}

/// Whether a file is a pipe without a name, which nobody else can open by a path of the filesystem.
pub fn is_anonymous_pipe(fd: BorrowedFd<'_>, stat: &FileStat) -> bool {
    stat.st_mode & libc::S_IFMT == libc::S_IFIFO && fd::filesystem(fd).is_ok_and(|magic| magic == PIPEFS_MAGIC)
}

/// Whether two descriptors are the same open file, with one position and one set of flags: kcmp(2),
/// `KCMP_FILE`.
///
/// If kcmp(2) is not available (a kernel without it, an outer seccomp profile), two descriptors count as the same if it
/// makes no difference: the same file, opened in the same way and at the same position.
pub fn same_open_file(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> bool {
    const KCMP_FILE: libc::c_int = 0;
    let (pid, one_raw, other_raw) = (std::process::id(), one.as_raw_fd(), other.as_raw_fd());
    // SAFETY: kcmp takes no pointers; both descriptors are borrowed and so open.
    match unsafe { libc::syscall(libc::SYS_kcmp, pid, pid, KCMP_FILE, one_raw, other_raw) } {
        -1 => opened_alike(one, other),
        order => order == 0,
    }
}

fn opened_alike(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> bool {
    let known = |fd: BorrowedFd<'_>| {
        let stat = fd::stat(fd).ok()?;
        let flags = fcntl(fd, FcntlArg::F_GETFL).ok()?;
        // A pipe, a terminal and a socket have no position.
        let at = nix::unistd::lseek(fd, 0, nix::unistd::Whence::SeekCur).unwrap_or(0);
        Some((stat.st_dev, stat.st_ino, flags, at))
    };
    matches!((known(one), known(other)), (Some(one), Some(other)) if one == other)
}

/// Gives a file to another user; the group stays. fchown(2).
pub fn give_to(fd: BorrowedFd<'_>, uid: u32) -> Result<()> {
    nix::unistd::fchown(fd, Some(uid.into()), None).called(|| format!("fchown({}, {uid}, -1)", fd_name(fd)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipe;

    fn file(flags: OFlag) -> OwnedFd {
        let path = std::env::temp_dir().join(format!("windlass-stdio-{}", std::process::id()));
        fd::openat(fd::CWD, path, flags | OFlag::O_CREAT, 0o600).expect("a file")
    }

    #[test]
    fn copies_of_a_descriptor_are_one_open_file_and_two_openings_are_not() {
        let (one, other) = (file(OFlag::O_WRONLY), file(OFlag::O_WRONLY));
        let copy = one.try_clone().expect("dup");
        assert!(same_open_file(one.as_fd(), copy.as_fd()));
        assert!(!same_open_file(one.as_fd(), other.as_fd()));
        assert!(opened_alike(one.as_fd(), copy.as_fd()));
        nix::unistd::write(&one, b"x").expect("write");
        assert!(!opened_alike(one.as_fd(), other.as_fd()), "they are at different positions");
        assert!(!opened_alike(one.as_fd(), file(OFlag::O_RDWR).as_fd()), "and are opened differently");
        std::fs::remove_file(std::env::temp_dir().join(format!("windlass-stdio-{}", std::process::id()))).expect("rm");
    }

    #[test]
    fn only_a_pipe_without_a_name_is_anonymous() {
        let (read_end, _write_end) = pipe::new().expect("pipe");
        assert!(is_anonymous_pipe(read_end.as_fd(), &fd::stat(read_end.as_fd()).expect("fstat")));
        let path = std::env::temp_dir().join(format!("windlass-fifo-{}", std::process::id()));
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
        let fifo = fd::open(&path, OFlag::O_RDWR).expect("open");
        std::fs::remove_file(&path).expect("rm");
        assert!(!is_anonymous_pipe(fifo.as_fd(), &fd::stat(fifo.as_fd()).expect("fstat")));
        let null = fd::open("/dev/null", OFlag::O_RDWR).expect("open");
        let stat = fd::stat(null.as_fd()).expect("fstat");
        assert!(is_null(&stat) && !is_anonymous_pipe(null.as_fd(), &stat));
    }
}
