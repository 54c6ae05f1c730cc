//! The supervisor in an image.

use super::format::{Content, Encoder, Fields, put_each};
use super::watching::{self, all};
use crate::Supervisor;
use crate::containers::ManagedContainer;
use crate::processes::ManagedProcess;
use crate::reaper::Orphans;
use windlass_sys::{Result, spawn};

#[cfg(feature = "next-image")]
use super::next as last;

/// The fields that differ in another format.
#[cfg(not(feature = "next-image"))]
mod last {
    use super::{Encoder, Fields, Supervisor};

    pub(super) fn save(core: &Supervisor, to: &mut Encoder) {
        to.put(13, false, &core.upgrades);
    }

    pub(super) fn restore(core: &mut Supervisor, fields: &mut Fields<'_>) {
        core.upgrades = fields.get::<u64>(13) + 1;
    }
}

/// Writes the supervisor down. No event may be pending: the loop is at its top.
pub(crate) fn save(core: &Supervisor, to: &mut Encoder) {
    to.put(1, true, &core.oom_score_adj);
    to.put(2, true, &core.listen_pid);
    to.put(3, true, &core.wait_for_only_reader);
    to.put(4, true, &core.reserved_descriptors);
    put_each(core.containers.iter(), 5, true, to);
    put_each(core.processes.iter(), 6, true, to);
    to.put(7, true, &core.calls);
    to.put(8, true, &core.children);
    to.put(9, true, &core.directory);
    to.put(10, true, &core.serial);
    to.put(11, true, &core.token);
    to.put(12, true, &spawn::descriptor_limit());
    last::save(core, to);
}

/// Reads the supervisor back into a new one. [`watch`] then watches its descriptors again.
pub(crate) fn restore(core: &mut Supervisor, content: Content<'_>) {
    let mut fields = Fields::of(content, "Supervisor");
    core.oom_score_adj = fields.get(1);
    core.listen_pid = fields.get(2);
    core.wait_for_only_reader = fields.get(3);
    core.reserved_descriptors = fields.get(4);
    fields.get::<Vec<Box<ManagedContainer>>>(5).into_iter().for_each(|container| core.containers.put(container));
    fields.get::<Vec<Box<ManagedProcess>>>(6).into_iter().for_each(|process| core.processes.put(process));
    core.calls = fields.get(7);
    core.children = fields.get(8);
    core.directory = fields.get(9);
    core.serial = fields.get(10);
    core.token = fields.get(11);
    spawn::set_descriptor_limit(fields.get(12));
    last::restore(core, &mut fields);
    fields.end();
    // Children that died meanwhile may have left orphans.
    core.orphans = Orphans::Perhaps;
}

/// Watches everything again that the previous program watched. After a failure the rest is watched all the same.
pub(crate) fn watch(core: &mut Supervisor) -> Result<()> {
    for container in core.containers.iter_mut() {
        watching::container(container, &core.poll);
    }
    let processes = all(core.processes.iter_mut().map(|process| watching::process(process, &core.poll)));
    let calls = watching::calls(&core.calls, &core.poll);
    if core.directory.take().is_some() {
        core.watch_directory(".".as_ref());
    }
    processes.and(calls)
}
