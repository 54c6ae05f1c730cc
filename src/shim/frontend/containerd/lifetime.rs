//! How long a shim stays, as a state machine.
//!
//! A shim ends after `Shutdown`, as soon as its last events and answers are sent. A shim that is left over, because
//! containerd died at the wrong moment, ends by itself.

use std::time::{Duration, Instant};

/// How long events that are not acknowledged delay the end of a shim without tasks.
const FLUSH: Duration = Duration::from_secs(3);

/// How long a shim waits for its first connection, and after its last task for `Shutdown`.
const IDLE_TIME: Duration = Duration::from_secs(30);

/// How long the shim stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lifetime {
    /// The shim has work: a task, a job or an event, or a first connection.
    InUse,
    /// The shim has no work, and ends at this moment.
    Idle(Instant),
    /// The shim ends when everything is sent, or at this moment.
    Leaving(Instant),
    /// The shim ends as soon as nothing is in progress.
    Over,
}

impl Lifetime {
    /// The lifetime of a shim that was just started.
    pub(super) fn new(now: Instant) -> Lifetime {
        Lifetime::Idle(now + IDLE_TIME)
    }

    /// Notes whether the shim has nothing to do.
    pub(super) fn look(&mut self, idle: bool, now: Instant) {
        match (idle, *self) {
            (true, Lifetime::InUse) => *self = Lifetime::Idle(now + IDLE_TIME),
            (false, Lifetime::Idle(_)) => *self = Lifetime::InUse,
            _ => {}
        }
    }

    /// Ends the shim soon, because containerd does not need it any more.
    pub(super) fn leave(&mut self, now: Instant) {
        *self = Lifetime::Leaving(now + FLUSH);
    }

    /// Keeps the shim, because containerd needs it after all.
    pub(super) fn stay(&mut self) {
        *self = Lifetime::InUse;
    }

    /// When time alone changes the lifetime.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match *self {
            Lifetime::InUse | Lifetime::Over => None,
            Lifetime::Idle(at) | Lifetime::Leaving(at) => Some(at),
        }
    }

    /// Handles a deadline that has passed.
    pub(super) fn due(&mut self, now: Instant) {
        match *self {
            Lifetime::Idle(at) if now >= at => self.leave(now),
            // Work may still be in progress, and a moment that has passed does not wait for it.
            Lifetime::Leaving(until) if now >= until => *self = Lifetime::Over,
            _ => {}
        }
    }

    /// Whether the lifetime is over. `all_sent`: everything is sent.
    pub(super) fn is_over(&self, all_sent: bool, now: Instant) -> bool {
        match *self {
            Lifetime::Leaving(until) => all_sent || now >= until,
            Lifetime::Over => true,
            Lifetime::InUse | Lifetime::Idle(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::format::read_back;

    #[test]
    fn a_shim_that_nobody_uses_leaves() {
        let now = Instant::now();
        let mut lifetime = Lifetime::new(now);
        lifetime.look(true, now);
        lifetime.due(now);
        assert_eq!((lifetime.deadline(), lifetime.is_over(true, now)), (Some(now + IDLE_TIME), false));
        lifetime.look(false, now);
        assert_eq!(lifetime.deadline(), None);
        lifetime.look(true, now);
        lifetime.due(now + IDLE_TIME);
        assert!(lifetime.is_over(true, now + IDLE_TIME) && !lifetime.is_over(false, now + IDLE_TIME));
        assert!(lifetime.is_over(false, now + IDLE_TIME + FLUSH));
    }

    /// Otherwise the loop would spin as long as a call of the runtime lasts.
    #[test]
    fn a_shim_that_is_still_busy_at_its_end_waits_for_no_moment_that_has_passed() {
        let now = Instant::now();
        let mut lifetime = Lifetime::new(now);
        lifetime.leave(now);
        lifetime.due(now + FLUSH);
        assert_eq!((lifetime.deadline(), lifetime.is_over(false, now + FLUSH)), (None, true));
    }

    #[test]
    fn a_task_that_comes_late_keeps_it() {
        let now = Instant::now();
        let mut lifetime = Lifetime::new(now);
        lifetime.leave(now);
        // Neither a look nor time changes that the shim leaves.
        lifetime.look(false, now);
        lifetime.look(true, now);
        assert!(lifetime.is_over(true, now));
        assert_eq!(read_back(&lifetime), lifetime);
        lifetime.stay();
        assert!(!lifetime.is_over(true, now + FLUSH));
    }
}
