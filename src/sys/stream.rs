//! Moving bytes between descriptors: reading, writing, splicing.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags};

use super::{Called, Result, SyscallError, check, fd_name};

/// The result of moving bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// The number of bytes that were moved, at least one.
    Bytes(usize),
    /// The source has ended.
    End,
    /// Nothing can be moved at the moment.
    Later,
}

/// Converts the result of a call that moves bytes; EAGAIN and EINTR become [`Moved::Later`].
pub(super) fn moved(returned: nix::Result<usize>, call: impl FnOnce() -> String) -> Result<Moved> {
    match returned {
        Ok(0) => Ok(Moved::End),
        Ok(n) => Ok(Moved::Bytes(n)),
        Err(Errno::EAGAIN | Errno::EINTR) => Ok(Moved::Later),
        Err(errno) => Err(SyscallError { call: call().into(), errno }),
    }
}

/// Repeats a call that a signal has interrupted. Output that an ended process has left is read only once.
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
    moved(uninterrupted(|| nix::unistd::read(fd, buffer)), || format!("read({})", fd_name(fd)))
}

/// write(2). A pipe without a reader is `EPIPE`; SIGPIPE is ignored by Rust's runtime.
pub fn write(fd: BorrowedFd<'_>, bytes: &[u8]) -> Result<Moved> {
    if bytes.is_empty() {
        return Ok(Moved::Later);
    }
    moved(uninterrupted(|| nix::unistd::write(fd, bytes)), || format!("write({}, {} bytes)", fd_name(fd), bytes.len()))
}

/// splice(2) of at most `length` bytes, without waiting.
pub fn splice(from: BorrowedFd<'_>, to: BorrowedFd<'_>, length: usize) -> Result<Moved> {
    let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
    moved(nix::fcntl::splice(from, None, to, None, length, flags), || {
        format!("splice({}, {})", fd_name(from), fd_name(to))
    })
}

/// `FIONREAD`: bytes that wait to be read.
pub fn waiting(fd: BorrowedFd<'_>) -> usize {
    let mut n: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int, which outlives the call.
    let returned = unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, &raw mut n) };
    if returned == 0 { n.max(0) as usize } else { 0 }
}

/// Sets `O_NONBLOCK`.
pub fn never_block(fd: BorrowedFd<'_>) -> Result<()> {
    let flags = nix::fcntl::fcntl(fd, FcntlArg::F_GETFL).called(|| format!("fcntl({}, F_GETFL)", fd_name(fd)))?;
    let flags = OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK;
    nix::fcntl::fcntl(fd, FcntlArg::F_SETFL(flags))
        .called(|| format!("fcntl({}, F_SETFL, O_NONBLOCK)", fd_name(fd)))
        .map(drop)
}

/// Makes each write(2) go to the end of the file (`O_APPEND`).
pub fn always_append(file: BorrowedFd<'_>) -> Result<()> {
    nix::fcntl::fcntl(file, FcntlArg::F_SETFL(OFlag::O_APPEND))
        .called(|| format!("fcntl({}, F_SETFL, O_APPEND)", fd_name(file)))
        .map(drop)
}

/// The index of the first `byte`. It is not the C library's memchr(3): musl's compares eight bytes at a time, which
/// made logging a twelfth slower.
pub fn find(byte: u8, bytes: &[u8]) -> Option<usize> {
    memchr::memchr(byte, bytes)
}

/// An anonymous file with these bytes, sealed so that nobody can change or execute it. Its name is for people.
pub fn sealed(name: &std::ffi::CStr, bytes: &[u8]) -> Result<OwnedFd> {
    use nix::sys::memfd::{MFdFlags, memfd_create};
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    // `MFD_NOEXEC_SEAL` (memfd_create(2)); EINVAL before Linux 6.3.
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
        let (read_end, write_end) = super::super::pipe::new().expect("pipe");
        never_block(read_end.as_fd()).expect("fcntl");
        let mut buffer = [0; 8];
        assert_eq!(read(read_end.as_fd(), &mut buffer), Ok(Moved::Later));
        assert_eq!(write(write_end.as_fd(), b"abc"), Ok(Moved::Bytes(3)));
        assert_eq!(waiting(read_end.as_fd()), 3);
        assert!(!super::super::pipe::has_ended(read_end.as_fd()));
        assert_eq!(read(read_end.as_fd(), &mut buffer), Ok(Moved::Bytes(3)));
        assert!(!super::super::pipe::has_ended(read_end.as_fd()));
        drop(write_end);
        assert!(super::super::pipe::has_ended(read_end.as_fd()));
        assert_eq!(read(read_end.as_fd(), &mut buffer), Ok(Moved::End));
    }

    #[test]
    fn the_first_of_several_is_found() {
        assert_eq!(find(b'\n', b"ab\ncd\n"), Some(2));
        assert_eq!(find(b'\n', b"abcd"), None);
        assert_eq!(find(b'\n', b""), None);
    }
}
