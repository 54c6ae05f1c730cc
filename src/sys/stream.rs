//! Moving bytes between descriptors: reading, writing, splicing.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags};

use super::{Called, Result, SyscallError, check};

/// The result of moving bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// This many bytes were moved, at least one.
    Bytes(usize),
    /// The source has ended.
    End,
    /// Nothing can be moved at the moment.
    Later,
}

/// What a call that moves bytes has returned; EAGAIN and EINTR are [`Moved::Later`].
pub(super) fn moved(returned: nix::Result<usize>, call: impl FnOnce() -> String) -> Result<Moved> {
    match returned {
        Ok(0) => Ok(Moved::End),
        Ok(n) => Ok(Moved::Bytes(n)),
        Err(Errno::EAGAIN | Errno::EINTR) => Ok(Moved::Later),
        Err(errno) => Err(SyscallError { call: call().into(), errno }),
    }
}

/// Makes a call again that a signal has interrupted: who reads what an ended process has left reads it once.
fn uninterrupted(mut call: impl FnMut() -> nix::Result<usize>) -> nix::Result<usize> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            other => return other,
        }
    }
}

/// read(2).
pub fn read(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<Moved> {
    moved(uninterrupted(|| nix::unistd::read(fd, buffer)), || format!("read({})", fd.as_raw_fd()))
}

/// write(2). A pipe without a reader is `EPIPE`; SIGPIPE is ignored by Rust's runtime.
pub fn write(fd: BorrowedFd<'_>, bytes: &[u8]) -> Result<Moved> {
    if bytes.is_empty() {
        return Ok(Moved::Later);
    }
    moved(uninterrupted(|| nix::unistd::write(fd, bytes)), || {
        format!("write({}, {} bytes)", fd.as_raw_fd(), bytes.len())
    })
}

/// splice(2) of at most `length` bytes, without waiting.
pub fn splice(from: BorrowedFd<'_>, to: BorrowedFd<'_>, length: usize) -> Result<Moved> {
    let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
    moved(nix::fcntl::splice(from, None, to, None, length, flags), || {
        format!("splice({}, {})", from.as_raw_fd(), to.as_raw_fd())
    })
}

/// `FIONREAD`: bytes that wait to be read.
pub fn waiting(fd: BorrowedFd<'_>) -> usize {
    let mut n: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int, which outlives the call.
    let returned = unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, &raw mut n) };
    if returned == 0 { n.max(0) as usize } else { 0 }
}

/// `O_NONBLOCK` on.
pub fn never_block(fd: BorrowedFd<'_>) -> Result<()> {
    let flags = nix::fcntl::fcntl(fd, FcntlArg::F_GETFL).called(|| format!("fcntl({}, F_GETFL)", fd.as_raw_fd()))?;
    let flags = OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK;
    nix::fcntl::fcntl(fd, FcntlArg::F_SETFL(flags))
        .called(|| format!("fcntl({}, F_SETFL, O_NONBLOCK)", fd.as_raw_fd()))
        .map(drop)
}

/// The same for an end of a pipe that was just made, which has no other such flag.
pub fn never_block_new(pipe: BorrowedFd<'_>) -> Result<()> {
    nix::fcntl::fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
        .called(|| format!("fcntl({}, F_SETFL, O_NONBLOCK)", pipe.as_raw_fd()))
        .map(drop)
}

/// Makes each write(2) go to the end of the file (`O_APPEND`).
pub fn always_append(file: BorrowedFd<'_>) -> Result<()> {
    nix::fcntl::fcntl(file, FcntlArg::F_SETFL(OFlag::O_APPEND))
        .called(|| format!("fcntl({}, F_SETFL, O_APPEND)", file.as_raw_fd()))
        .map(drop)
}

/// Sets the capacity of a pipe (`F_SETPIPE_SZ`, fcntl(2)). The pipe takes memory only as it is filled.
pub fn set_capacity(pipe: BorrowedFd<'_>, bytes: usize) {
    // The kernel refuses a capacity beyond its limits, or below what is in the pipe, which then stays as it is.
    let _ = nix::fcntl::fcntl(pipe, FcntlArg::F_SETPIPE_SZ(bytes as libc::c_int));
}

/// The capacity of a pipe (`F_GETPIPE_SZ`, fcntl(2)) in bytes; 0 for anything that is not a pipe.
pub fn capacity(pipe: BorrowedFd<'_>) -> usize {
    nix::fcntl::fcntl(pipe, FcntlArg::F_GETPIPE_SZ).map_or(0, |bytes| bytes.max(0) as usize)
}

/// Whether the pipe that `write_end` belongs to has a reader: poll(2) says `POLLERR` without one.
pub fn has_reader(write_end: BorrowedFd<'_>) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut ends = [PollFd::new(write_end, PollFlags::empty())];
    let ready = poll(&mut ends, PollTimeout::ZERO);
    !(ready == Ok(1) && ends[0].revents().is_some_and(|events| events.contains(PollFlags::POLLERR)))
}

/// Whether a pipe has no writer and nothing in it (poll(2): `POLLHUP` without `POLLIN`).
pub fn has_ended(read_end: BorrowedFd<'_>) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut ends = [PollFd::new(read_end, PollFlags::POLLIN)];
    let ready = poll(&mut ends, PollTimeout::ZERO);
    ready == Ok(1) && ends[0].revents().is_some_and(|events| !events.contains(PollFlags::POLLIN))
}

/// The name by which the file of a descriptor can be opened.
pub fn path_of(fd: BorrowedFd<'_>) -> std::path::PathBuf {
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into()
}

/// The index of the first `byte`. It is not the C library's memchr(3): musl's compares eight bytes at a time, which
/// made logging a twelfth slower.
pub fn find(byte: u8, bytes: &[u8]) -> Option<usize> {
    memchr::memchr(byte, bytes)
}

/// Raw output becomes `\r\n` at line ends (`ONLCR`), as callers of a container's terminal expect.
pub fn set_onlcr(terminal: BorrowedFd<'_>) -> Result<()> {
    let mut settings = nix::sys::termios::tcgetattr(terminal).called(|| "ioctl(TCGETS)".into())?;
    settings.output_flags |= nix::sys::termios::OutputFlags::ONLCR;
    nix::sys::termios::tcsetattr(terminal, nix::sys::termios::SetArg::TCSANOW, &settings)
        .called(|| "ioctl(TCSETS)".into())
}

/// An anonymous file with these bytes, sealed so that nobody can change or execute it. Its name is for people.
pub fn sealed(name: &std::ffi::CStr, bytes: &[u8]) -> Result<OwnedFd> {
    use nix::sys::memfd::{MFdFlags, memfd_create};
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    // memfd_create(2), Linux 6.3; before it is EINVAL.
    let never_executed = MFdFlags::from_bits_retain(0x8);
    let file = memfd_create(name, flags | never_executed)
        .or_else(|errno| if errno == Errno::EINVAL { memfd_create(name, flags) } else { Err(errno) })
        .called(|| "memfd_create()".into())?;
    super::fd::write_all(file.as_fd(), bytes, super::poll::Deadline::NEVER)?;
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE | libc::F_SEAL_SEAL;
    // SAFETY: the call takes no pointers.
    let returned = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) };
    check(returned.into(), || "fcntl(F_ADD_SEALS)".into())?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn an_empty_pipe_is_later_and_a_closed_one_the_end() {
        let (read_end, write_end) = super::super::socket::pipe().expect("pipe");
        never_block(read_end.as_fd()).expect("fcntl");
        let mut buffer = [0; 8];
        assert_eq!(read(read_end.as_fd(), &mut buffer), Ok(Moved::Later));
        assert_eq!(write(write_end.as_fd(), b"abc"), Ok(Moved::Bytes(3)));
        assert_eq!(waiting(read_end.as_fd()), 3);
        assert!(!has_ended(read_end.as_fd()));
        assert_eq!(read(read_end.as_fd(), &mut buffer), Ok(Moved::Bytes(3)));
        assert!(!has_ended(read_end.as_fd()));
        drop(write_end);
        assert!(has_ended(read_end.as_fd()));
        assert_eq!(read(read_end.as_fd(), &mut buffer), Ok(Moved::End));
    }

    #[test]
    fn the_first_of_several_is_found() {
        assert_eq!(find(b'\n', b"ab\ncd\n"), Some(2));
        assert_eq!(find(b'\n', b"abcd"), None);
        assert_eq!(find(b'\n', b""), None);
    }
}
