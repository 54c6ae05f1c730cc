//! The call of the runtime: inherited properties, and flags.

use super::super::rng::Rng;
use super::CALLER;
use crate::kit::bundle::put;
use serde_json::{Value, json};

/// Adds the member [`CALLER`].
pub fn add(rng: &mut Rng, spec: &mut Value) {
    let set = |spec: &mut Value, name: &str, value: Value| put(spec, &format!("/{CALLER}/{name}"), value);
    if rng.chance(30) {
        set(spec, "umask", rng.pick(&["000", "027", "077"]).into());
    }
    if rng.chance(20) {
        let signals = rng.some(&["HUP", "INT", "QUIT", "PIPE", "USR1", "TERM"], 35);
        set(spec, "ignored", json!(signals));
    }
    if rng.chance(8) {
        set(spec, "nice", (rng.below(19) + 1).into());
    }
    if rng.chance(6) {
        set(spec, "cpus", "0".into());
    }
    if rng.chance(10) {
        set(spec, "descriptors", (rng.below(3) + 1).into());
    }
    let mut flags = Vec::new();
    if rng.chance(10) {
        flags.push("--no-new-keyring");
    }
    if rng.chance(8) {
        flags.push("--no-pivot");
    }
    if spec[CALLER]["descriptors"].is_u64() && rng.chance(70) {
        flags.push("--preserve-fds=1");
    }
    if !flags.is_empty() {
        put(spec, &format!("/{CALLER}/flags"), json!(flags));
    }
}
