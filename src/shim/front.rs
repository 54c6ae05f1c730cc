//! Front ends, and the loop that serves them.

use std::time::Instant;

use super::{Event, Ready, Supervisor};
use windlass_sys::clock;

/// A front end, which translates a protocol.
///
/// A front end watches its own descriptors with [`super::Poll::watch`] on `core.poll`, under keys of its choice below
/// 2^56. The loop calls it back. It must not block.
pub trait Front {
    /// Handles a descriptor that is ready, watched under `key`.
    fn ready(&mut self, key: u64, ready: Ready, core: &mut Supervisor);
    /// Handles an event of the core.
    fn event(&mut self, event: Event, core: &mut Supervisor);
    /// When [`Front::due`] is to be called next.
    fn deadline(&self) -> Option<Instant> {
        None
    }
    /// Called when the deadline has passed.
    fn due(&mut self, now: Instant, core: &mut Supervisor) {
        let _ = (now, core);
    }
    /// The exit status of the shim, if it is to end.
    fn finished(&self, core: &Supervisor) -> Option<i32>;
}

/// Runs the loop until the front end has finished.
pub fn serve(core: &mut Supervisor, front: &mut impl Front) -> windlass_sys::Result<i32> {
    run(core, front, |_, _| ())
}

/// Runs the loop, and calls `at_top` before each turn, when no event is pending.
pub(crate) fn run<F: Front>(
    core: &mut Supervisor,
    front: &mut F,
    at_top: impl Fn(&mut Supervisor, &F),
) -> windlass_sys::Result<i32> {
    loop {
        while let Some(event) = core.next_event() {
            front.event(event, core);
        }
        if let Some(status) = front.finished(core) {
            return Ok(status);
        }
        at_top(core, front);
        for (key, ready) in core.turn(front.deadline())? {
            front.ready(key, ready, core);
        }
        let now = clock::now();
        if front.deadline().is_some_and(|deadline| deadline <= now) {
            front.due(now, core);
        }
    }
}
