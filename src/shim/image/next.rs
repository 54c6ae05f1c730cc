//! The supervisor's last fields as a later version might have them, for tests: one field is gone, one is new, and one
//! is essential if it is used, which it is for containers with certain ids.

use super::format::{Encoder, Fields};
use crate::Supervisor;

pub(super) fn save(core: &Supervisor, to: &mut Encoder) {
    to.put(14, false, &core.upgrades);
    let needed = core.container_ids().iter().any(|id| id.starts_with("essential"));
    to.put(15, true, &needed);
}

pub(super) fn restore(core: &mut Supervisor, fields: &mut Fields<'_>) {
    fields.take(13);
    core.upgrades = fields.get::<u64>(14) + 1;
    let _: bool = fields.get(15);
}
