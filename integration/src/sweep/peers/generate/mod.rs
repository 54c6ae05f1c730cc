//! Random valid configurations. They use only elements that the specification allows and this machine has, so that a
//! refusal is a result, too.
//!
//! A sample is a configuration with one more member, [`CALLER`]: the actions of the runtime's caller before the call.

mod caller;
mod linux;
mod mounts;
mod namespaces;
mod process;
mod seccomp;

pub use seccomp::{ARGUMENTS, CALLS};

use super::rng::Rng;
use crate::kit::machine;
use serde_json::{Value, json};
use std::path::PathBuf;

/// The member that describes the caller. It is removed before the configuration is written.
pub const CALLER: &str = "@caller";

/// The features of this machine.
pub struct Ground {
    /// The directory with the sources of mounts (`world.rs`).
    pub sources: PathBuf,
    /// Names of the capabilities that root has.
    pub capabilities: Vec<String>,
    /// The names of resource limits, with the hard limits of this process.
    pub limits: Vec<(String, u64)>,
    /// The controllers that a cgroup can have.
    pub controllers: Vec<String>,
}

impl Ground {
    /// Examines this machine. The sources of mounts are in this directory.
    pub fn here(sources: PathBuf) -> Ground {
        let controllers = machine::text("/sys/fs/cgroup/cgroup.controllers");
        Ground {
            sources,
            capabilities: machine::bounding_capabilities(),
            limits: limits(&machine::text("/proc/self/limits")),
            controllers: controllers.split_whitespace().map(str::to_owned).collect(),
        }
    }
}

/// The sample of a seed.
pub fn sample(seed: u64, ground: &Ground) -> Value {
    let mut rng = Rng::new(seed);
    let mut spec = json!({"ociVersion": "1.0.2", "root": {"path": "rootfs"}, "linux": {}});
    if rng.chance(20) {
        spec["root"]["readonly"] = rng.chance(80).into();
    }
    if rng.chance(15) {
        spec["annotations"] = json!({"org.example.key": "value", "org.example.empty": ""});
    }
    namespaces::add(&mut rng, &mut spec, ground);
    process::add(&mut rng, &mut spec, ground);
    mounts::add(&mut rng, &mut spec, ground);
    linux::add(&mut rng, &mut spec, ground);
    if rng.chance(35) {
        seccomp::add(&mut rng, &mut spec);
    }
    caller::add(&mut rng, &mut spec);
    spec
}

/// Whether a shrunk sample may be run. Without a mount namespace of its own, the container would change the mounts of
/// this program.
pub fn is_sound(spec: &Value) -> bool {
    is_new(spec, "mount")
}

/// Whether the configuration asks for a new namespace of this type.
fn is_new(spec: &Value, kind: &str) -> bool {
    spec["linux"]["namespaces"]
        .as_array()
        .is_some_and(|list| list.iter().any(|ns| ns["type"] == kind && ns["path"].is_null()))
}

/// Names and hard limits from /proc/self/limits. A resource without a line is unlimited.
fn limits(text: &str) -> Vec<(String, u64)> {
    const LINES: &[(&str, &str)] = &[
        ("Max core file size", "RLIMIT_CORE"),
        ("Max cpu time", "RLIMIT_CPU"),
        ("Max data size", "RLIMIT_DATA"),
        ("Max file size", "RLIMIT_FSIZE"),
        ("Max file locks", "RLIMIT_LOCKS"),
        ("Max msgqueue size", "RLIMIT_MSGQUEUE"),
        ("Max nice priority", "RLIMIT_NICE"),
        ("Max open files", "RLIMIT_NOFILE"),
        ("Max processes", "RLIMIT_NPROC"),
        ("Max resident set", "RLIMIT_RSS"),
        ("Max realtime priority", "RLIMIT_RTPRIO"),
        ("Max realtime timeout", "RLIMIT_RTTIME"),
        ("Max pending signals", "RLIMIT_SIGPENDING"),
        ("Max stack size", "RLIMIT_STACK"),
        ("Max address space", "RLIMIT_AS"),
    ];
    let hard = |line: &str| line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).unwrap_or(u64::MAX);
    let found = |(label, name): &(&str, &str)| {
        let line = text.lines().find_map(|line| line.strip_prefix(label))?;
        Some(((*name).to_owned(), hard(line)))
    };
    LINES.iter().filter_map(found).collect()
}

#[cfg(test)]
mod tests {
    use super::{Ground, limits, sample};

    fn ground() -> Ground {
        Ground {
            sources: "/src".into(),
            capabilities: vec!["CAP_KILL".to_owned(), "CAP_CHOWN".to_owned()],
            limits: vec![("RLIMIT_NOFILE".to_owned(), 4096)],
            controllers: vec!["hugetlb".to_owned()],
        }
    }

    #[test]
    fn a_seed_gives_the_same_sample() {
        assert_eq!(sample(7, &ground()), sample(7, &ground()));
        assert_ne!(sample(7, &ground()), sample(8, &ground()));
    }

    #[test]
    fn every_kind_of_element_comes_up() {
        let all: Vec<_> = (0..500).map(|seed| sample(seed, &ground())).collect();
        for pointer in [
            "/process/user/additionalGids/0",
            "/process/user/umask",
            "/process/capabilities/ambient/0",
            "/process/rlimits/0",
            "/process/oomScoreAdj",
            "/root/readonly",
            "/hostname",
            "/linux/uidMappings/0",
            "/linux/devices/0",
            "/linux/resources/devices/0",
            "/linux/resources/hugepageLimits/0",
            "/linux/seccomp/syscalls/0",
            "/linux/sysctl",
            "/linux/maskedPaths/0",
            "/linux/readonlyPaths/0",
            "/linux/rootfsPropagation",
            "/linux/cgroupsPath",
            "/@caller/umask",
        ] {
            assert!(all.iter().any(|spec| spec.pointer(pointer).is_some()), "{pointer}");
            assert!(all.iter().any(|spec| spec.pointer(pointer).is_none()), "{pointer}");
        }
    }

    #[test]
    fn hard_limits_are_read() {
        let text = "Limit  Soft Limit  Hard Limit  Units\nMax open files  1024  4096  files\nMax cpu time  unlimited  unlimited  seconds\n";
        assert_eq!(limits(text), [("RLIMIT_CPU".to_owned(), u64::MAX), ("RLIMIT_NOFILE".to_owned(), 4096)]);
    }
}
