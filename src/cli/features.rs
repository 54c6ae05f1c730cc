//! The `features` document (runtime-spec features.md and features-linux.md).
//!
//! Engines use recursive read-only and idmapped mounts only with runtimes that list them here. So the lists come from
//! the tables by which config.json is read.

use std::collections::BTreeMap;

use serde::Serialize;

/// The oldest version of the specification that a config.json may name.
pub const OCI_VERSION_MIN: &str = "1.0.0";
/// The newest version.
pub const OCI_VERSION_MAX: &str = "1.3.0";

/// Annotations with this prefix set any property of the container's unit. One of these can power the host off
/// (`SuccessAction=`, CVE-2024-3154), so engines are told that they are unsafe.
const UNIT_PROPERTIES: &str = "org.systemd.property.";

/// The features of the other crates and the kernel.
pub struct Supported<'a> {
    /// Mount options that the runtime interprets; the others go to the filesystem.
    pub mount_options: Vec<&'a str>,
    /// Modes of `linux.memoryPolicy`.
    pub memory_policy_modes: Vec<&'a str>,
    /// Flags of `linux.memoryPolicy`.
    pub memory_policy_flags: Vec<&'a str>,
    /// Whether this build has the feature `cgroup-v1`.
    pub cgroup_v1: bool,
    /// Whether seccomp(2) of this kernel accepts these `SECCOMP_FILTER_FLAG_*`.
    pub kernel_takes: fn(u32) -> bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Features<'a> {
    oci_version_min: &'static str,
    oci_version_max: &'static str,
    hooks: [&'static str; 6],
    mount_options: Vec<&'a str>,
    linux: Linux<'a>,
    annotations: BTreeMap<&'static str, &'static str>,
    potentially_unsafe_config_annotations: [&'static str; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Linux<'a> {
    namespaces: [&'static str; 8],
    capabilities: Vec<String>,
    cgroup: Cgroup,
    seccomp: Seccomp,
    apparmor: Enabled,
    selinux: Enabled,
    intel_rdt: IntelRdt,
    memory_policy: MemoryPolicy<'a>,
    mount_extensions: MountExtensions,
    net_devices: Enabled,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Cgroup {
    v1: bool,
    v2: bool,
    systemd: bool,
    systemd_user: bool,
    rdma: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Seccomp {
    enabled: bool,
    actions: Vec<&'static str>,
    operators: Vec<&'static str>,
    archs: Vec<&'static str>,
    known_flags: Vec<&'static str>,
    supported_flags: Vec<&'static str>,
}

#[derive(Serialize)]
struct Enabled {
    enabled: bool,
}

#[derive(Serialize)]
struct IntelRdt {
    enabled: bool,
    schemata: bool,
    monitoring: bool,
}

#[derive(Serialize)]
struct MemoryPolicy<'a> {
    modes: Vec<&'a str>,
    flags: Vec<&'a str>,
}

#[derive(Serialize)]
struct MountExtensions {
    idmap: Enabled,
}

/// The document as indented JSON, with a line feed at its end.
pub fn document(supported: &Supported<'_>) -> String {
    let features = Features {
        oci_version_min: OCI_VERSION_MIN,
        oci_version_max: OCI_VERSION_MAX,
        hooks: ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        mount_options: sorted(supported.mount_options.clone()),
        linux: Linux {
            namespaces: ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            capabilities: sorted(caps::all().iter().map(ToString::to_string).collect()),
            cgroup: Cgroup { v1: supported.cgroup_v1, v2: true, systemd: true, systemd_user: true, rdma: true },
            seccomp: seccomp(supported.kernel_takes),
            apparmor: Enabled { enabled: true },
            selinux: Enabled { enabled: true },
            intel_rdt: IntelRdt { enabled: true, schemata: true, monitoring: true },
            memory_policy: MemoryPolicy {
                modes: sorted(supported.memory_policy_modes.clone()),
                flags: sorted(supported.memory_policy_flags.clone()),
            },
            mount_extensions: MountExtensions { idmap: Enabled { enabled: true } },
            net_devices: Enabled { enabled: true },
        },
        annotations: BTreeMap::from([
            ("org.opencontainers.runc.checkpoint.enabled", "true"),
            ("run.oci.crun.checkpoint.enabled", "true"),
            ("run.windlass.commit", option_env!("WINDLASS_COMMIT").unwrap_or("unknown")),
            ("run.windlass.version", env!("CARGO_PKG_VERSION")),
        ]),
        potentially_unsafe_config_annotations: [UNIT_PROPERTIES],
    };
    serde_json::to_string_pretty(&features).expect("structs of strings always serialise") + "\n"
}

fn seccomp(kernel_takes: fn(u32) -> bool) -> Seccomp {
    let flags: Vec<_> = windlass_seccomp::flags().collect();
    Seccomp {
        enabled: true,
        actions: windlass_seccomp::actions().collect(),
        operators: windlass_seccomp::operators().collect(),
        archs: sorted(windlass_seccomp::architectures().collect()),
        supported_flags: flags.iter().copied().filter(|flag| bits(flag).is_some_and(kernel_takes)).collect(),
        known_flags: flags,
    }
}

/// The bits by which to try a flag. `WAIT_KILLABLE_RECV` is only accepted together with a listener.
fn bits(flag: &str) -> Option<u32> {
    let bits = match flag {
        "SECCOMP_FILTER_FLAG_TSYNC" => libc::SECCOMP_FILTER_FLAG_TSYNC,
        "SECCOMP_FILTER_FLAG_LOG" => libc::SECCOMP_FILTER_FLAG_LOG,
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
        "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" => {
            libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV | libc::SECCOMP_FILTER_FLAG_NEW_LISTENER
        }
        _ => return None,
    };
    u32::try_from(bits).ok()
}

fn sorted<T: Ord>(mut list: Vec<T>) -> Vec<T> {
    list.sort_unstable();
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(kernel_takes: fn(u32) -> bool) -> serde_json::Value {
        let supported = Supported {
            mount_options: vec!["ro", "rro", "bind"],
            memory_policy_modes: vec!["MPOL_LOCAL", "MPOL_BIND"],
            memory_policy_flags: vec!["MPOL_F_STATIC_NODES"],
            cgroup_v1: false,
            kernel_takes,
        };
        serde_json::from_str(&document(&supported)).expect("JSON")
    }

    #[test]
    fn what_engines_look_for_is_there() {
        let value = value(|_| true);
        assert_eq!(value["ociVersionMin"], "1.0.0");
        assert_eq!(value["ociVersionMax"], "1.3.0");
        assert_eq!(value["mountOptions"], serde_json::json!(["bind", "ro", "rro"]));
        assert_eq!(value["linux"]["mountExtensions"]["idmap"]["enabled"], true);
        assert_eq!(value["linux"]["cgroup"]["v2"], true);
        assert_eq!(value["linux"]["cgroup"]["systemd"], true);
        assert_eq!(value["potentiallyUnsafeConfigAnnotations"], serde_json::json!(["org.systemd.property."]));
        assert_eq!(value["linux"]["intelRdt"]["monitoring"], true);
        assert_eq!(value["linux"]["memoryPolicy"]["modes"], serde_json::json!(["MPOL_BIND", "MPOL_LOCAL"]));
        assert_eq!(value["linux"]["netDevices"]["enabled"], true);
        assert_eq!(value["annotations"]["org.opencontainers.runc.checkpoint.enabled"], "true");
        assert_eq!(value["annotations"]["run.oci.crun.checkpoint.enabled"], "true");
    }

    #[test]
    fn every_capability_has_its_prefix_and_they_are_sorted() {
        let value = value(|_| true);
        let names: Vec<_> = value["linux"]["capabilities"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|name| name.as_str())
            .collect();
        assert_eq!(names.len(), 41);
        assert!(names.is_sorted() && names.iter().all(|name| name.starts_with("CAP_")));
        assert!(names.contains(&"CAP_CHECKPOINT_RESTORE"));
    }

    #[test]
    fn a_flag_that_the_kernel_refuses_is_known_but_not_supported() {
        let value = value(|flags| flags == 1 << 1);
        let seccomp = &value["linux"]["seccomp"];
        assert_eq!(seccomp["supportedFlags"], serde_json::json!(["SECCOMP_FILTER_FLAG_LOG"]));
        assert_eq!(seccomp["knownFlags"].as_array().expect("a list").len(), 4);
        assert_eq!(seccomp["actions"].as_array().expect("a list").len(), 9);
        assert_eq!(seccomp["operators"].as_array().expect("a list").len(), 7);
        assert!(seccomp["archs"].as_array().expect("a list").len() > 20);
    }

    #[test]
    fn every_known_flag_can_be_tried() {
        assert!(windlass_seccomp::flags().all(|flag| bits(flag).is_some()));
    }
}
