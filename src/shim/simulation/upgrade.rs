//! An upgrade in place: the shim is written down, forgotten, and read back.

use crate::Supervisor;
use crate::frontend::upgradable::Upgradable;
use crate::image::format::{Content, Context, Encoder, Fields};
use crate::image::supervisor;
use crate::upgrade::field;
use windlass_sys::handover::{self, Inherited};

/// Replaces a shim by its image. Does nothing while an event is pending.
pub(super) fn upgrade<F: Upgradable>(core: &mut Supervisor, mut front: Option<&mut F>) -> Result<(), String> {
    if !core.events.is_empty() || !core.deferred.is_empty() {
        return Ok(());
    }
    let mut to = Encoder::default();
    let start = to.begin(field::CORE, true);
    supervisor::save(core, &mut to);
    to.end(start);
    front.iter().for_each(|front| to.put(field::FRONT, true, &**front));
    let (body, descriptors) = to.finish();
    let (inherited, missing) = Inherited::of(&descriptors, &forgotten(core));
    if !missing.is_empty() {
        return Err(format!("the image has descriptors that are not open: {missing:?}"));
    }
    let text = |failed: windlass_sys::SyscallError| failed.to_string();
    let mut new = Supervisor::new().map_err(text)?;
    let context = Context::of(inherited);
    let mut fields = Fields::of(Content::of(&body, &context), "the image");
    fields.take_one(field::CORE).into_iter().for_each(|content| supervisor::restore(&mut new, content));
    if let Some(front) = &mut front {
        // execve(2) would have closed its descriptors already, so it must not be dropped.
        std::mem::forget(std::mem::replace(*front, fields.get(field::FRONT)));
    }
    fields.end();
    context.finish().map_err(|fault| fault.to_string())?;
    supervisor::watch(&mut new).map_err(text)?;
    if let Some(front) = front {
        front.watch_again(&mut new).map_err(text)?;
    }
    new.rescan_watches();
    std::mem::forget(std::mem::replace(core, new));
    Ok(())
}

/// Kills the shim: its descriptors are closed, and nothing else happens. A new supervisor replaces it; the caller must
/// forget the front end.
pub(super) fn kill<F: Upgradable>(core: &mut Supervisor, front: Option<&F>) -> Result<(), String> {
    let mut to = Encoder::default();
    let start = to.begin(field::CORE, true);
    supervisor::save(core, &mut to);
    to.end(start);
    front.iter().for_each(|front| to.put(field::FRONT, true, *front));
    let (_, mut descriptors) = to.finish();
    descriptors.extend(forgotten(core));
    drop(Inherited::of(&[], &descriptors));
    let new = Supervisor::new().map_err(|failed| failed.to_string())?;
    std::mem::forget(std::mem::replace(core, new));
    Ok(())
}

/// The descriptors that execve(2) closes, although the shim goes on.
fn forgotten(core: &mut Supervisor) -> Vec<u32> {
    // Spare descriptors are in no image; the next program has its own.
    core.spare.release();
    let mut closed = vec![handover::number(core.poll.fd()), handover::number(core.reaper.fd())];
    closed.extend(core.poll.notifier_fd().map(handover::number));
    closed
}
