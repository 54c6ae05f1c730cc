//! An upgrade in place: the supervisor is written down, forgotten, and read back.

use crate::Supervisor;
use crate::image::format::{Content, Context, Encoder};
use crate::image::supervisor;
use windlass_sys::handover::{self, Inherited};

/// Puts a supervisor that was read back in the place of one. Does nothing while something waits to be told.
pub(super) fn upgrade(core: &mut Supervisor) -> Result<(), String> {
    if !core.events.is_empty() || !core.later.is_empty() {
        return Ok(());
    }
    // They are kept in no image; the next program has its own.
    core.spare.release();
    let mut to = Encoder::default();
    supervisor::save(core, &mut to);
    let (body, descriptors) = to.finish();
    // What the kernel forgets with a program.
    let mut closed = vec![handover::number(core.poll.fd()), handover::number(core.reaper.fd())];
    closed.extend(core.poll.notifier_fd().map(handover::number));
    let (inherited, missing) = Inherited::of(&descriptors, &closed);
    if !missing.is_empty() {
        return Err(format!("the image has descriptors that are not open: {missing:?}"));
    }
    let mut new = Supervisor::new().map_err(|failed| failed.to_string())?;
    let context = Context::of(inherited);
    supervisor::restore(&mut new, Content::of(&body, &context));
    context.finish()?;
    supervisor::watch(&mut new).map_err(|failed| failed.to_string())?;
    new.look_at_everything();
    // Its descriptors are closed already, by execve(2) as it were, and it has no other end.
    std::mem::forget(std::mem::replace(core, new));
    Ok(())
}
