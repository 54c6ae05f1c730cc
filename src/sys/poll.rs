//! Waiting for descriptors: poll(2) with a deadline.
//!
//! A poll that a signal interrupts goes on with the time that is left, so callers never see EINTR.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};

use super::{Result, SyscallError};

/// The moment at which waiting ends.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Option<Instant>);

impl Deadline {
    /// No deadline: the wait ends only with an event.
    pub const NEVER: Deadline = Deadline(None);

    /// The deadline after this time from now.
    pub fn after(time: Duration) -> Deadline {
        // A time beyond what the clock can count never comes.
        Deadline(Instant::now().checked_add(time))
    }

    /// The deadline at this moment.
    pub fn at(moment: Instant) -> Deadline {
        Deadline(Some(moment))
    }

    /// Whether the deadline has passed.
    pub fn has_passed(self) -> bool {
        self.left().is_some_and(|left| left.is_zero())
    }

    /// The time until the deadline; `None` if there is none.
    pub fn left(self) -> Option<Duration> {
        self.0.map(|moment| moment.saturating_duration_since(Instant::now()))
    }

    /// The time for poll(2): in milliseconds, rounded up so that poll(2) does not return before the deadline.
    fn timeout(self) -> PollTimeout {
        self.left().map_or(PollTimeout::NONE, |left| {
            PollTimeout::try_from(left + Duration::from_nanos(999_999)).unwrap_or(PollTimeout::MAX)
        })
    }
}

/// Polls until one of `fds` has an event, which it then holds (`PollFd::revents`). Returns false if the deadline has
/// passed. The descriptors are polled at least once, also after the deadline.
pub fn poll(fds: &mut [PollFd<'_>], deadline: Deadline) -> Result<bool> {
    loop {
        match nix::poll::poll(fds, deadline.timeout()) {
            Ok(0) if deadline.has_passed() => return Ok(false),
            // A signal has interrupted the call, or the deadline is further away than one call can wait.
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(errno) => return Err(SyscallError { call: "poll()".into(), errno }),
        }
    }
}

/// Waits until `fd` can be read, has ended or has failed. Returns false if the deadline has passed before. A pidfd can
/// be read when its process has ended.
pub fn readable(fd: BorrowedFd<'_>, deadline: Deadline) -> Result<bool> {
    poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], deadline)
}

/// Waits until `fd` accepts bytes or has lost its reader. Returns false if the deadline has passed before.
pub fn writable(fd: BorrowedFd<'_>, deadline: Deadline) -> Result<bool> {
    poll(&mut [PollFd::new(fd, PollFlags::POLLOUT)], deadline)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::pipe;

    #[test]
    fn a_wait_ends_with_an_event_or_at_its_deadline() {
        let (read_end, write_end) = pipe::new().expect("pipe");
        let start = Instant::now();
        assert_eq!(readable(read_end.as_fd(), Deadline::after(Duration::from_millis(20))), Ok(false));
        assert!(start.elapsed() >= Duration::from_millis(20), "not before the deadline");
        assert_eq!(writable(write_end.as_fd(), Deadline::NEVER), Ok(true));
        drop(write_end);
        assert_eq!(readable(read_end.as_fd(), Deadline::NEVER), Ok(true), "the end is an event");
    }

    #[test]
    fn after_the_deadline_it_is_still_seen_what_is_there() {
        let (read_end, write_end) = pipe::new().expect("pipe");
        let past = Deadline::after(Duration::ZERO);
        assert_eq!(readable(read_end.as_fd(), past), Ok(false));
        drop(write_end);
        assert_eq!(readable(read_end.as_fd(), past), Ok(true));
    }

    #[test]
    fn a_deadline_may_be_beyond_every_clock() {
        assert_eq!(Deadline::after(Duration::MAX).left(), None);
        assert!(!Deadline::after(Duration::from_secs(1 << 40)).has_passed());
        assert!(Deadline::after(Duration::from_secs(1 << 40)).timeout() == PollTimeout::MAX);
    }

    #[test]
    fn a_signal_does_not_end_a_wait() {
        // SIGURG is ignored by default; a handler without SA_RESTART makes poll(2) return EINTR.
        extern "C" fn nothing(_: libc::c_int) {}
        let action = nix::sys::signal::SigAction::new(
            nix::sys::signal::SigHandler::Handler(nothing),
            nix::sys::signal::SaFlags::empty(),
            nix::sys::signal::SigSet::empty(),
        );
        // SAFETY: the handler does nothing, which is safe at any moment.
        unsafe { nix::sys::signal::sigaction(nix::sys::signal::Signal::SIGURG, &action) }.expect("sigaction");
        let (read_end, _write_end) = pipe::new().expect("pipe");
        // SAFETY: the call takes nothing and cannot fail.
        let thread = unsafe { libc::pthread_self() };
        let sender = std::thread::spawn(move || {
            for _ in 0..5 {
                std::thread::sleep(Duration::from_millis(5));
                // SAFETY: the thread outlives this one, which it joins.
                assert_eq!(unsafe { libc::pthread_kill(thread, libc::SIGURG) }, 0);
            }
        });
        let start = Instant::now();
        assert_eq!(readable(read_end.as_fd(), Deadline::after(Duration::from_millis(60))), Ok(false));
        assert!(start.elapsed() >= Duration::from_millis(60));
        sender.join().expect("sent");
    }
}
