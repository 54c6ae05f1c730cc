//! epoll(7): the place where a loop waits.

use std::time::Instant;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollTimeout};

use super::clock;

/// Waits until a descriptor is ready or the deadline has passed. Returns the number of events, which is 0 after a
/// signal, too.
pub fn wait(epoll: &Epoll, events: &mut [EpollEvent], deadline: Option<Instant>) -> nix::Result<usize> {
    let timeout = match deadline {
        None => EpollTimeout::NONE,
        // The time is rounded up: a deadline within a millisecond must not become a busy loop.
        Some(at) => {
            let left = at.saturating_duration_since(clock::now());
            let milliseconds = if left.is_zero() { 0 } else { left.as_millis().min(3_600_000) as i32 + 1 };
            EpollTimeout::try_from(milliseconds).unwrap_or(EpollTimeout::ZERO)
        }
    };
    match epoll.wait(events, timeout) {
        Err(Errno::EINTR) => Ok(0),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nix::sys::epoll::EpollCreateFlags;

    use super::*;

    #[test]
    fn a_deadline_is_not_passed_over_and_not_anticipated() {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("epoll");
        let mut events = [EpollEvent::empty(); 1];
        let deadline = clock::now() + Duration::from_micros(300);
        assert_eq!(wait(&epoll, &mut events, Some(deadline)), Ok(0));
        assert!(clock::now() >= deadline);
        assert_eq!(wait(&epoll, &mut events, Some(deadline)), Ok(0));
    }
}
