//! Waiting: the world acts while the loop does.

use std::time::Instant;

use nix::sys::epoll::{Epoll, EpollEvent, EpollTimeout};

use super::{clock, kernel};

/// Waits as the real call does, in simulated time.
pub fn wait(epoll: &Epoll, events: &mut [EpollEvent], deadline: Option<Instant>) -> nix::Result<usize> {
    let deadline = deadline.map(clock::since_begin);
    kernel::call();
    loop {
        kernel::settle();
        kernel::act();
        let n = epoll.wait(events, EpollTimeout::ZERO)?;
        if n > 0 {
            kernel::busy(|| {
                events[..n].iter().map(|event| format!("{:x} {:?}", event.data(), event.events())).collect()
            });
            return Ok(n);
        }
        if !kernel::idle(deadline) {
            return Ok(0);
        }
    }
}
