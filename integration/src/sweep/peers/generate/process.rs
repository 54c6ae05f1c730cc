//! The process: ids, environment, capabilities, limits.

use super::super::rng::Rng;
use super::Ground;
use crate::kit::bundle::put;
use serde_json::{Value, json};

/// Adds `process` without its arguments, which the observer adds.
pub fn add(rng: &mut Rng, spec: &mut Value, ground: &Ground) {
    let uid = rng.pick(&[0, 0, 0, 1000, 65_534, 4242]);
    let gid = rng.pick(&[0, 0, 1000, 5, 4242]);
    spec["process"] = json!({"user": {"uid": uid, "gid": gid}, "args": []});
    if rng.chance(30) {
        spec["process"]["user"]["additionalGids"] = json!(rng.some(&[0, 5, 10, 44, 1000, 65_533], 40));
    }
    if rng.chance(40) {
        spec["process"]["user"]["umask"] = rng.pick(&[0, 0o2, 0o22, 0o27, 0o77, 0o777]).into();
    }
    spec["process"]["cwd"] = rng.pick(&["/", "/", "/tmp", "/root", "/usr", "/made/by/the/runtime", "/link"]).into();
    environment(rng, spec);
    if rng.chance(50) {
        spec["process"]["noNewPrivileges"] = rng.chance(70).into();
    }
    if rng.chance(85) {
        capabilities(rng, spec, ground);
    }
    if rng.chance(35) {
        limits(rng, spec, ground);
    }
    if rng.chance(25) {
        spec["process"]["oomScoreAdj"] = rng.pick(&[0, 1, 500, 1000]).into();
    }
    rare(rng, spec);
}

fn environment(rng: &mut Rng, spec: &mut Value) {
    const POOL: &[&str] = &[
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME=/home/somebody",
        "HOME=",
        "TERM=xterm",
        "EMPTY=",
        "TWICE=1",
        "TWICE=2",
        "SPACES= a  b ",
        "EQUALS==a=b",
        "UTF8=é日本",
        "LINES=a\nb",
        "lower=case",
        "USER=nobody",
    ];
    if rng.chance(90) {
        spec["process"]["env"] = json!(rng.some(POOL, 35));
    }
}

fn capabilities(rng: &mut Rng, spec: &mut Value, ground: &Ground) {
    let percent = rng.pick(&[10, 30, 60, 100]);
    let bounding = rng.some(&ground.capabilities, percent);
    let (of_bounding, of_permitted) = (rng.pick(&[50, 100]), rng.pick(&[50, 100]));
    let permitted = rng.some(&bounding, of_bounding);
    let effective = rng.some(&permitted, of_permitted);
    let mut sets = json!({"bounding": bounding, "permitted": permitted, "effective": effective});
    if rng.chance(40) {
        let inheritable = rng.some(&permitted, 60);
        if rng.chance(60) {
            sets["ambient"] = json!(rng.some(&inheritable, 60));
        }
        sets["inheritable"] = inheritable.into();
    }
    if rng.chance(10) {
        let absent = rng.pick(&["bounding", "permitted", "effective"]);
        if let Some(map) = sets.as_object_mut() {
            map.remove(absent);
            // The inheritable and the ambient set need the removed set, so they go too.
            map.remove("inheritable");
            map.remove("ambient");
            if absent == "permitted" {
                map.remove("effective");
            }
        }
    }
    spec["process"]["capabilities"] = sets;
}

/// Limits that are no higher than this machine's, and high enough for a program to run.
fn limits(rng: &mut Rng, spec: &mut Value, ground: &Ground) {
    for (name, most) in &ground.limits {
        let least = match name.as_str() {
            "RLIMIT_NOFILE" => 64,
            "RLIMIT_NPROC" => 2000,
            "RLIMIT_STACK" => 1 << 20,
            "RLIMIT_CPU" => 1000,
            "RLIMIT_AS" | "RLIMIT_DATA" | "RLIMIT_FSIZE" => 1 << 32,
            "RLIMIT_RTTIME" => 10_000_000,
            "RLIMIT_MSGQUEUE" => 819_200,
            "RLIMIT_SIGPENDING" => 100,
            _ => 0,
        };
        if *most < least || !rng.chance(20) {
            continue;
        }
        let more = [least, least + 1, least.saturating_mul(2), *most];
        let hard = (rng.pick(&more)).clamp(least, *most);
        let soft = (rng.pick(&more)).clamp(least, hard);
        put(spec, "/process/rlimits/-", json!({"type": name, "soft": soft, "hard": hard}));
    }
}

/// Members that most runtimes in use do not know yet.
fn rare(rng: &mut Rng, spec: &mut Value) {
    if rng.chance(3) {
        spec["process"]["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 5});
    }
    if rng.chance(3) {
        spec["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 6});
    }
    if rng.chance(3) {
        spec["linux"]["personality"] = json!({"domain": rng.pick(&["LINUX", "LINUX32"])});
    }
    if rng.chance(2) {
        spec["linux"]["memoryPolicy"] = json!({"mode": "MPOL_PREFERRED", "nodes": "0"});
    }
}
