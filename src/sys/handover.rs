//! Descriptors that stay open while this process executes another program in its own place (execve(2)).
//!
//! Every descriptor of ours is close-on-exec. Those that the next program continues to use are listed by their numbers,
//! which stay the same.

use std::ffi::{CString, c_char};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::FdFlag;

use super::{Called, Result, SyscallError, check, descriptors, fd_name};

/// The number of a descriptor, by which the next program finds it.
pub fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd() as u32
}

/// A copy of a descriptor, close-on-exec, under a number that a program's own descriptors do not replace when it is
/// started ([`super::spawn::Spawn`] has up to four after stdio).
pub fn aside(fd: BorrowedFd<'_>) -> Result<OwnedFd> {
    const FIRST: RawFd = 16;
    let copied = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(FIRST));
    copied
        .called(|| format!("fcntl({}, F_DUPFD_CLOEXEC, {FIRST})", fd_name(fd)))
        .map(|raw| super::owned::from_raw(raw.into()))
}

/// Executes the file behind `program` in place of this program, with the descriptors `kept` and 0, 1 and 2
/// (execveat(2)). Returns only if that fails; nothing has changed then.
pub fn execute(program: BorrowedFd<'_>, arguments: &[CString], environment: &[CString], kept: &[u32]) -> SyscallError {
    let pointers = |list: &[CString]| -> Vec<*const c_char> {
        list.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (argv, envp) = (pointers(arguments), pointers(environment));
    let failed = match set_all(kept, FdFlag::empty()) {
        Err(failed) => failed,
        Ok(()) => {
            // SAFETY: the path is an empty string and NUL-terminated; both lists are arrays of pointers to such
            // strings that end in a null pointer; all of it outlives the call.
            unsafe {
                let flags = libc::AT_EMPTY_PATH as usize;
                let empty = c"".as_ptr();
                libc::syscall(libc::SYS_execveat, program.as_raw_fd(), empty, argv.as_ptr(), envp.as_ptr(), flags)
            };
            // The errno is read before the text is made: naming a descriptor makes a call of its own.
            let errno = Errno::last();
            SyscallError { call: format!("execveat({}, AT_EMPTY_PATH)", fd_name(program)).into(), errno }
        }
    };
    // The call cannot fail for descriptors that it has worked for before.
    kept.iter().for_each(|fd| drop(set(*fd, FdFlag::FD_CLOEXEC)));
    failed
}

fn set_all(kept: &[u32], flags: FdFlag) -> Result<()> {
    kept.iter().try_for_each(|fd| set(*fd, flags))
}

fn set(number: u32, flags: FdFlag) -> Result<()> {
    // SAFETY: F_SETFD changes a flag of the number and takes no pointer; one that is not open is EBADF.
    let returned = unsafe { libc::fcntl(number as RawFd, libc::F_SETFD, flags.bits()) };
    check(returned.into(), || format!("fcntl({number}, F_SETFD)")).map(drop)
}

/// The descriptors that another program has left to this one. Each is taken by its owner.
#[derive(Debug)]
pub struct Inherited {
    numbers: Vec<u32>,
}

impl Inherited {
    /// Takes the listed descriptors, which are close-on-exec from now on, and closes every other one from 3 on. Also
    /// returns the listed descriptors that are not open.
    ///
    /// This is only for the beginning of a program, when no descriptor has an owner yet.
    pub fn new(listed: &[u32]) -> (Inherited, Vec<u32>) {
        let mut numbers: Vec<u32> = listed.to_vec();
        numbers.sort_unstable();
        numbers.dedup();
        let is_open = |number: u32| match set(number, FdFlag::FD_CLOEXEC) {
            Err(failed) => failed.errno != Errno::EBADF,
            Ok(()) => true,
        };
        let (numbers, missing): (Vec<u32>, Vec<u32>) =
            numbers.into_iter().partition(|&number| number > 2 && is_open(number));
        // SAFETY: they are open, as just seen, and nothing in this program closes one before the call is over.
        let borrow = |number: &u32| unsafe { BorrowedFd::borrow_raw(*number as RawFd) };
        descriptors::close_all_but(3, &numbers.iter().map(borrow).collect::<Vec<_>>());
        (Inherited { numbers }, missing)
    }

    /// Takes a descriptor out.
    pub fn take(&mut self, number: u32) -> Option<OwnedFd> {
        let at = self.numbers.binary_search(&number).ok()?;
        self.numbers.remove(at);
        // SAFETY: it is open, as `new` has seen, has no other owner, since it is taken out here, and was not one of
        // this program's when it began.
        Some(unsafe { OwnedFd::from_raw_fd(number as RawFd) })
    }

    /// Closes the descriptors that nobody has taken, and returns their numbers.
    pub fn close_rest(&mut self) -> Vec<u32> {
        let rest = std::mem::take(&mut self.numbers);
        // SAFETY: as in `take`.
        rest.iter().for_each(|&number| drop(unsafe { OwnedFd::from_raw_fd(number as RawFd) }));
        rest
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use nix::fcntl::FcntlArg;

    use super::*;

    #[test]
    fn a_copy_that_is_aside_is_above_the_descriptors_of_a_program() {
        let socket = super::super::socket::datagram().expect("a socket");
        let copy = aside(socket.as_fd()).expect("a copy");
        assert!(number(copy.as_fd()) >= 16);
        let flags = nix::fcntl::fcntl(&copy, FcntlArg::F_GETFD).expect("it is open");
        assert!(FdFlag::from_bits_retain(flags).contains(FdFlag::FD_CLOEXEC));
    }

    #[test]
    fn a_program_that_cannot_be_executed_changes_nothing() {
        let text = super::super::stream::sealed(c"x", b"neither a program nor a script").expect("a file");
        let kept = super::super::socket::datagram().expect("a socket");
        let failed = execute(text.as_fd(), &[c"x".into()], &[], &[number(kept.as_fd())]);
        assert!(matches!(failed.errno, Errno::ENOEXEC | Errno::EACCES), "{failed}");
        let flags = nix::fcntl::fcntl(&kept, FcntlArg::F_GETFD).expect("it is open");
        assert!(FdFlag::from_bits_retain(flags).contains(FdFlag::FD_CLOEXEC));
    }

    #[test]
    fn a_list_with_a_descriptor_that_is_not_open_is_refused_and_the_others_are_restored() {
        let program = super::super::fd::open("/proc/self/exe", nix::fcntl::OFlag::O_PATH).expect("a program");
        let kept = super::super::socket::datagram().expect("a socket");
        let failed = execute(program.as_fd(), &[], &[], &[number(kept.as_fd()), 900_000]);
        assert_eq!(failed.errno, Errno::EBADF);
        let flags = nix::fcntl::fcntl(&kept, FcntlArg::F_GETFD).expect("it is open");
        assert!(FdFlag::from_bits_retain(flags).contains(FdFlag::FD_CLOEXEC));
    }
}
