//! The configurations that are measured.

use serde_json::{Value, json};

/// A profile as engines write it.
const PROFILE: &str = include_str!("../../../seccomp/tests/data/engine.json");

/// The capabilities that engines give a container's root by default.
const CAPABILITIES: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// The first id of the host that belongs to the container of C.
pub const FIRST_ID: u32 = 100_000;

/// A: the output of `runc spec`, with a program that ends at once.
pub fn a() -> Value {
    let mut spec = crate::kit::spec::default();
    spec["root"]["readonly"] = json!(true);
    spec["process"]["env"] = json!(["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"]);
    spec["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}]);
    if let Some(mounts) = spec["mounts"].as_array_mut() {
        let options = ["nosuid", "noexec", "nodev"];
        mounts.push(json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": options}));
        let options = ["nosuid", "noexec", "nodev", "relatime", "ro"];
        mounts.push(json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": options}));
    }
    spec["linux"]["resources"] = json!({"devices": [{"allow": false, "access": "rwm"}]});
    spec["linux"]["maskedPaths"] = json!([
        "/proc/acpi",
        "/proc/asound",
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/timer_list",
        "/proc/timer_stats",
        "/proc/sched_debug",
        "/sys/firmware",
        "/proc/scsi"
    ]);
    spec
}

/// B: A with an engine's capabilities and seccomp profile.
pub fn b() -> Value {
    let mut spec = a();
    spec["process"]["capabilities"] = crate::kit::spec::capabilities(CAPABILITIES);
    let mut profile: Value = serde_json::from_str(PROFILE).expect("the profile of the seccomp tests is JSON");
    if let Some(rules) = profile["syscalls"].as_array_mut() {
        // Engines allow these too, and runtimes call them after the filter is installed.
        let names = ["accept4", "prctl", "setgid", "setgroups", "setresgid", "setresuid", "setuid"];
        rules.push(json!({"names": names, "action": "SCMP_ACT_ALLOW"}));
    }
    spec["linux"]["seccomp"] = profile;
    spec
}

/// C: A in a user namespace.
pub fn c() -> Value {
    let mut spec = a();
    if let Some(namespaces) = spec["linux"]["namespaces"].as_array_mut() {
        namespaces.push(json!({"type": "user"}));
    }
    let ids = json!([{"containerID": 0, "hostID": FIRST_ID, "size": 65536}]);
    spec["linux"]["uidMappings"] = ids.clone();
    spec["linux"]["gidMappings"] = ids;
    spec
}
