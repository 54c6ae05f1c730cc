//! How long a shim stays, as a state machine.
//!
//! A shim ends after `Shutdown`, as soon as its last events and answers are sent. A shim that is of no use,
//! because containerd died at the wrong moment, ends by itself.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::serialized;

/// How long events that are not acknowledged delay the end of a shim without tasks.
const FLUSH: Duration = Duration::from_secs(3);

/// How long a shim waits for its first connection, and after its last task for `Shutdown`.
const ALONE: Duration = Duration::from_secs(30);

/// How long the shim stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Lifetime {
    /// It has something to do.
    InUse,
    /// It has nothing to do, and ends at this moment.
    Alone(#[serde(with = "serialized::moment")] Instant),
    /// It ends when everything is sent, or at this moment.
    Leaving(#[serde(with = "serialized::moment")] Instant),
    /// It ends as soon as nothing is under way.
    Over,
}

impl Lifetime {
    /// That of a shim that was just started.
    pub(super) fn new(now: Instant) -> Lifetime {
        Lifetime::Alone(now + ALONE)
    }

    /// There is nothing to do (any more), or there is.
    pub(super) fn look(&mut self, alone: bool, now: Instant) {
        match (alone, *self) {
            (true, Lifetime::InUse) => *self = Lifetime::Alone(now + ALONE),
            (false, Lifetime::Alone(_)) => *self = Lifetime::InUse,
            _ => {}
        }
    }

    /// containerd needs it no more.
    pub(super) fn leave(&mut self, now: Instant) {
        *self = Lifetime::Leaving(now + FLUSH);
    }

    /// containerd needs it after all.
    pub(super) fn stay(&mut self) {
        *self = Lifetime::InUse;
    }

    /// When time alone changes it.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match *self {
            Lifetime::InUse | Lifetime::Over => None,
            Lifetime::Alone(at) | Lifetime::Leaving(at) => Some(at),
        }
    }

    /// Time has passed.
    pub(super) fn due(&mut self, now: Instant) {
        match *self {
            Lifetime::Alone(at) if now >= at => self.leave(now),
            // Something may still be under way, and is not waited for by a moment that has passed.
            Lifetime::Leaving(until) if now >= until => *self = Lifetime::Over,
            _ => {}
        }
    }

    /// Whether it is over. `all_sent`: everything is sent.
    pub(super) fn is_over(&self, all_sent: bool, now: Instant) -> bool {
        match *self {
            Lifetime::Leaving(until) => all_sent || now >= until,
            Lifetime::Over => true,
            Lifetime::InUse | Lifetime::Alone(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shim_that_nobody_uses_leaves() {
        let now = Instant::now();
        let mut lifetime = Lifetime::new(now);
        lifetime.look(true, now);
        lifetime.due(now);
        assert_eq!((lifetime.deadline(), lifetime.is_over(true, now)), (Some(now + ALONE), false));
        lifetime.look(false, now);
        assert_eq!(lifetime.deadline(), None);
        lifetime.look(true, now);
        lifetime.due(now + ALONE);
        assert!(lifetime.is_over(true, now + ALONE) && !lifetime.is_over(false, now + ALONE));
        assert!(lifetime.is_over(false, now + ALONE + FLUSH));
    }

    /// The loop would turn without a pause as long as a call of the runtime lasts.
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
        // Neither looking nor waiting changes that it leaves.
        lifetime.look(false, now);
        lifetime.look(true, now);
        assert!(lifetime.is_over(true, now));
        let text = serde_json::to_vec(&lifetime).expect("plain data");
        assert_eq!(serde_json::from_slice::<Lifetime>(&text).expect("what was written"), lifetime);
        lifetime.stay();
        assert!(!lifetime.is_over(true, now + FLUSH));
    }
}
