//! Namespaces: new ones, joined ones, and the mappings of a user namespace.

use super::super::rng::Rng;
use super::{Ground, is_new};
use crate::kit::bundle::put;
use serde_json::{Value, json};

/// The id of the host for root of a user namespace.
const FIRST_ID: u64 = 100_000;

/// Adds the namespaces, and the members that require them.
pub fn add(rng: &mut Rng, spec: &mut Value, ground: &Ground) {
    let mut list = vec![json!({"type": "mount"})];
    for (kind, file, percent) in
        [("pid", "", 85), ("network", "net", 85), ("ipc", "ipc", 80), ("uts", "uts", 80), ("cgroup", "", 65)]
    {
        if !rng.chance(percent) {
            continue;
        }
        if !file.is_empty() && rng.chance(7) {
            list.push(json!({"type": kind, "path": ground.sources.join("ns").join(file)}));
        } else {
            list.push(json!({"type": kind}));
        }
    }
    let user = rng.chance(25);
    if user {
        list.push(json!({"type": "user"}));
    }
    if rng.chance(3) {
        list.push(json!({"type": "time"}));
        put(spec, "/linux/timeOffsets", json!({"boottime": {"secs": 100, "nanosecs": 5}}));
    }
    spec["linux"]["namespaces"] = list.into();
    if user {
        mappings(rng, spec);
    }
    if is_new(spec, "uts") && rng.chance(70) {
        spec["hostname"] = rng.pick(&["inside", "a", "name.with.dots"]).into();
        if rng.chance(10) {
            spec["domainname"] = "domain.example".into();
        }
    }
}

fn mappings(rng: &mut Rng, spec: &mut Value) {
    let map = |inside: u64, outside: u64, size: u64| json!({"containerID": inside, "hostID": outside, "size": size});
    let lists = match rng.below(3) {
        0 => vec![map(0, FIRST_ID, 65_536)],
        1 => vec![map(0, FIRST_ID, 1000), map(1000, FIRST_ID + 5000, 64_536)],
        _ => vec![map(0, FIRST_ID, 70_000)],
    };
    spec["linux"]["uidMappings"] = lists.clone().into();
    spec["linux"]["gidMappings"] = lists.into();
}
