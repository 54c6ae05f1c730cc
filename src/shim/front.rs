//! What a protocol has to implement, and the loop that serves it.

use std::time::Instant;

use super::{Event, Ready, Supervisor};

/// A protocol. It watches its own descriptors with [`Poll::watch`] on `core.poll`, under keys of
/// its own choosing (below 2^56), and is called back from the one loop. It must not block.
pub trait Front {
    /// A descriptor watched under `key` is ready.
    fn ready(&mut self, key: u64, ready: Ready, core: &mut Supervisor);
    /// Something happened.
    fn event(&mut self, event: Event, core: &mut Supervisor);
    /// When [`Front::due`] wants to be called next.
    fn deadline(&self) -> Option<Instant> {
        None
    }
    /// The deadline has passed.
    fn due(&mut self, now: Instant, core: &mut Supervisor) {
        let _ = (now, core);
    }
    /// `Some` ends the loop, and is the status to exit with.
    fn finished(&self, core: &Supervisor) -> Option<i32>;
}

/// Runs the loop until the front end has finished.
pub fn serve(core: &mut Supervisor, front: &mut impl Front) -> windlass_sys::Result<i32> {
    loop {
        while let Some(event) = core.next_event() {
            front.event(event, core);
        }
        if let Some(status) = front.finished(core) {
            return Ok(status);
        }
        for (key, ready) in core.turn(front.deadline())? {
            front.ready(key, ready, core);
        }
        let now = Instant::now();
        if front.deadline().is_some_and(|deadline| deadline <= now) {
            front.due(now, core);
        }
    }
}
