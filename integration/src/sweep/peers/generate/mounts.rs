//! Mounts: the usual ones of containers, in variations, and others at random places.

use super::super::rng::Rng;
use super::{Ground, is_new};
use serde_json::{Value, json};

/// Adds `mounts`.
pub fn add(rng: &mut Rng, spec: &mut Value, ground: &Ground) {
    let mut list = usual(rng, spec);
    for _ in 0..rng.pick(&[0, 0, 1, 2, 4]) {
        list.push(if rng.chance(50) { filesystem(rng) } else { bind(rng, ground) });
    }
    spec["mounts"] = list.into();
}

/// The mounts that images expect. The payload needs /proc.
fn usual(rng: &mut Rng, spec: &Value) -> Vec<Value> {
    let mut list = vec![json!({"destination": "/proc", "type": "proc", "source": "proc"})];
    if rng.chance(50) {
        list[0]["options"] = json!(rng.some(&["nosuid", "noexec", "nodev"], 80));
    }
    if rng.chance(85) {
        let options = ["nosuid", "strictatime", "mode=755", "size=65536k"];
        list.push(
            json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": rng.some(&options, 85)}),
        );
        if rng.chance(80) {
            list.push(json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]}));
        }
        if rng.chance(80) {
            list.push(json!({"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
                "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]}));
        }
        if is_new(spec, "ipc") && rng.chance(60) {
            list.push(json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
                "options": ["nosuid", "noexec", "nodev"]}));
        }
    }
    // A user namespace may not mount the sysfs of a network namespace that it does not own.
    if (!is_new(spec, "user") || is_new(spec, "network")) && rng.chance(80) {
        let mut options = vec!["nosuid", "noexec", "nodev"];
        options.extend(rng.chance(70).then_some("ro"));
        list.push(json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": options}));
        if (!is_new(spec, "user") || is_new(spec, "cgroup")) && rng.chance(60) {
            let mut options = vec!["nosuid", "noexec", "nodev"];
            options.extend(rng.chance(10).then_some("relatime"));
            options.extend(rng.chance(60).then_some("ro"));
            list.push(
                json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": options}),
            );
        }
    }
    list
}

/// Directories: some are in the image, some are not, some are reached through links.
const DIRECTORIES: &[&str] = &[
    "/mnt",
    "/mnt/a",
    "/mnt/a/b",
    "/new",
    "/new/deep/one",
    "/tmp",
    "/link/x",
    "/abs/y",
    "/run",
    "/usr/../opt",
    "/etc",
];

/// Files, chosen in the same way.
const FILES: &[&str] = &["/etc/hostname", "/etc/new.conf", "/file", "/new/file", "/link/file", "/filelink"];

fn filesystem(rng: &mut Rng) -> Value {
    let mut options: Vec<&str> = rng.some(FLAGS, 12);
    options.extend(rng.some(&["size=1m", "mode=700", "mode=1777", "uid=7", "gid=5", "nr_inodes=100"], 20));
    propagation(rng, &mut options);
    json!({"destination": rng.pick(DIRECTORIES), "type": "tmpfs", "source": rng.pick(&["tmpfs", "name"]), "options": options})
}

const FLAGS: &[&str] = &[
    "ro",
    "rw",
    "nosuid",
    "suid",
    "nodev",
    "dev",
    "noexec",
    "exec",
    "noatime",
    "relatime",
    "strictatime",
    "nodiratime",
    "sync",
    "dirsync",
];

fn bind(rng: &mut Rng, ground: &Ground) -> Value {
    let file = rng.chance(35);
    let source = if file { "file" } else { rng.pick(&["dir", "dir/sub", "ro", "shared"]) };
    let mut options = vec![rng.pick(&["bind", "rbind"])];
    options.extend(rng.some(&["ro", "rw", "nosuid", "nodev", "noexec", "exec", "noatime"], 15));
    if rng.chance(3) {
        options.push(rng.pick(&["rro", "rnosuid", "rnoexec"]));
    }
    propagation(rng, &mut options);
    let destination = rng.pick(if file { FILES } else { DIRECTORIES });
    let mut mount = json!({"destination": destination, "source": ground.sources.join(source), "options": options});
    if rng.chance(80) {
        mount["type"] = rng.pick(&["bind", "none"]).into();
    }
    mount
}

fn propagation(rng: &mut Rng, options: &mut Vec<&'static str>) {
    if rng.chance(20) {
        options.push(rng.pick(&["private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable"]));
    }
}
