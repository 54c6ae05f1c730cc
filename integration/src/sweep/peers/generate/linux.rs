//! The rest of `linux`: devices, device rules, limits, sysctls, hidden paths.

use super::super::rng::Rng;
use super::{Ground, is_new};
use crate::kit::bundle::put;
use serde_json::{Map, Value, json};

/// Adds these members.
pub fn add(rng: &mut Rng, spec: &mut Value, ground: &Ground) {
    if rng.chance(30) {
        devices(rng, spec);
    }
    if rng.chance(60) {
        rules(rng, spec);
    }
    resources(rng, spec, ground);
    if rng.chance(35) {
        sysctls(rng, spec);
    }
    if rng.chance(60) {
        let pool = [
            "/proc/kcore",
            "/proc/keys",
            "/proc/timer_list",
            "/proc/scsi",
            "/proc/acpi",
            "/sys/firmware",
            "/etc/hostname",
            "/usr",
            "/not/there",
        ];
        spec["linux"]["maskedPaths"] = json!(rng.some(&pool, 40));
    }
    if rng.chance(60) {
        let pool = [
            "/proc/sys",
            "/proc/bus",
            "/proc/fs",
            "/proc/irq",
            "/proc/sysrq-trigger",
            "/tmp",
            "/etc/passwd",
            "/missing",
        ];
        spec["linux"]["readonlyPaths"] = json!(rng.some(&pool, 40));
    }
    if rng.chance(30) {
        let all = ["private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable"];
        spec["linux"]["rootfsPropagation"] = (rng.pick(&all)).into();
    }
    if rng.chance(50) {
        spec["linux"]["cgroupsPath"] = rng.pick(&["/peers/container", "/peers", "peers/deep/er"]).into();
    }
}

/// Device nodes. In a user namespace they are bound from the host, so the host must have them.
fn devices(rng: &mut Rng, spec: &mut Value) {
    let everywhere = [
        json!({"path": "/dev/full", "type": "c", "major": 1, "minor": 7}),
        json!({"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o666, "uid": 0, "gid": 0}),
    ];
    let made = [
        json!({"path": "/dev/own-null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 1000, "gid": 5}),
        json!({"path": "/dev/sub/dir/zero", "type": "c", "major": 1, "minor": 5}),
        json!({"path": "/dev/own-fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o600}),
        json!({"path": "/dev/own-loop", "type": "b", "major": 7, "minor": 0, "gid": 44}),
        json!({"path": "/dev/own-pipe", "type": "p", "fileMode": 0o622}),
        json!({"path": "/dev/unbuffered", "type": "u", "major": 1, "minor": 9, "fileMode": 0o444}),
        json!({"path": "/elsewhere/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o4777}),
    ];
    let mut list = rng.some(&everywhere, 20);
    if !is_new(spec, "user") {
        list.extend(rng.some(&made, 35));
    }
    spec["linux"]["devices"] = list.into();
}

fn rules(rng: &mut Rng, spec: &mut Value) {
    let first = json!({"allow": rng.chance(15), "access": "rwm"});
    let pool = [
        json!({"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"}),
        json!({"allow": true, "type": "c", "major": 1, "access": "r"}),
        json!({"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"}),
        json!({"allow": true, "type": "b", "major": 7, "minor": 0, "access": "m"}),
        json!({"allow": true, "type": "c", "access": "m"}),
        json!({"allow": true, "type": "b", "access": "m"}),
        json!({"allow": true, "type": "c", "major": 5, "minor": 1, "access": "rwm"}),
        json!({"allow": false, "type": "c", "major": 1, "minor": 9, "access": "rwm"}),
        json!({"allow": false, "type": "c", "major": 10, "minor": 229, "access": "w"}),
    ];
    let mut list = vec![first];
    list.extend(rng.some(&pool, 30));
    put(spec, "/linux/resources/devices", list.into());
}

/// Limits of the controllers that this machine has.
fn resources(rng: &mut Rng, spec: &mut Value, ground: &Ground) {
    let has = |name: &str| ground.controllers.iter().any(|controller| controller == name);
    if has("hugetlb") && rng.chance(25) {
        let limit = rng.pick(&[0_u64, 2 << 20, 64 << 20]);
        put(spec, "/linux/resources/hugepageLimits/-", json!({"pageSize": "2MB", "limit": limit}));
    }
    if has("pids") && rng.chance(40) {
        put(spec, "/linux/resources/pids/limit", rng.pick(&[-1, 50, 1000]).into());
    }
    if has("memory") && rng.chance(40) {
        put(spec, "/linux/resources/memory/limit", (256_u64 << 20).into());
        if rng.chance(40) {
            put(spec, "/linux/resources/memory/swap", rng.pick(&[256_i64 << 20, 512 << 20, -1]).into());
        }
        if rng.chance(30) {
            put(spec, "/linux/resources/memory/reservation", (64_u64 << 20).into());
        }
    }
    if has("cpu") && rng.chance(40) {
        put(spec, "/linux/resources/cpu/quota", rng.pick(&[50_000, -1]).into());
        if rng.chance(60) {
            put(spec, "/linux/resources/cpu/period", 100_000.into());
        }
        if rng.chance(40) {
            put(spec, "/linux/resources/cpu/shares", rng.pick(&[2, 512, 1024, 262_144]).into());
        }
    }
}

fn sysctls(rng: &mut Rng, spec: &mut Value) {
    let mut pool = Vec::new();
    if is_new(spec, "network") {
        pool.extend([
            ("net.ipv4.ip_forward", "1"),
            ("net.ipv4.ping_group_range", "0 0"),
            ("net.core.somaxconn", "77"),
            ("net/ipv4/conf/lo/forwarding", "1"),
        ]);
    }
    if is_new(spec, "ipc") {
        pool.extend([("kernel.msgmax", "4096"), ("kernel.shmmni", "17"), ("fs.mqueue.msg_max", "5")]);
    }
    let chosen = rng.some(&pool, 40);
    let map: Map<String, Value> = chosen.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
    spec["linux"]["sysctl"] = map.into();
}
