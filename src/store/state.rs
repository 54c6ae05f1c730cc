//! The state of a container.
//!
//! Each part on disk ([`super::record`]) is written once; only a shim may write the exit over that of another command.
//! The [`State`] is written before anything is made, so that whatever is made can be found and removed. The
//! [`InitProcess`] is written when init has started, and the exit by the first command that learns it. The [`Status`]
//! is not stored: it is read from the process and the cgroup.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use windlass_base::namespaces::Namespaces;

/// The version of the layout on disk. A runtime reads its own and every older one.
pub const VERSION: u32 = 2;

/// The decisions of create, before anything is made.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// Version of the layout.
    pub version: u32,
    /// The container's id.
    pub id: String,
    /// Path of its cgroup in the file system, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    /// ociVersion of its configuration.
    pub oci_version: String,
    /// Absolute path of the bundle.
    pub bundle: String,
    /// Absolute path of the root filesystem.
    pub rootfs: String,
    /// Annotations of its configuration. Only create and version 1 of the layout have them here; version 2 keeps them
    /// out of the line that every command reads. See `Container::annotations`.
    #[serde(default, skip_serializing)]
    pub annotations: BTreeMap<String, String>,
    /// The scope of systemd whose cgroup it has, if systemd made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<SystemdUnit>,
    /// Paths of its cgroups in hierarchies of version 1. A missing cgroup was not needed so far.
    #[serde(default, rename = "cgroupV1", skip_serializing_if = "Vec::is_empty")]
    pub cgroup_v1: Vec<String>,
    /// The namespaces (`CLONE_NEW*`) that it does not share with the caller.
    #[serde(default)]
    pub namespaces: Namespaces,
    /// Name of the user who made it.
    pub owner: String,
    /// The time at which it was made, in RFC 3339.
    pub created: String,
    /// Directory of the resource control group that delete removes, since create made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intel_rdt: Option<String>,
    /// Directory of the resource control group that it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resctrl: Option<String>,
    /// Whether exec must chroot to the container's root: create has not pivoted into it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub chroot: bool,
    /// Whether exec leaves the session keyring alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_new_keyring: bool,
    /// The random part of the session keyring's name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub keyring: String,
    /// Whether `restore --hold` made the container. Before `start` its init runs CRIU's program, and its root is not
    /// its own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub held: bool,
}

impl State {
    /// The state of a container of which only the cgroup is known.
    pub(super) fn of_cgroup(id: &str, cgroup: String) -> State {
        State {
            version: VERSION,
            id: id.into(),
            cgroup: Some(cgroup),
            oci_version: String::new(),
            bundle: String::new(),
            rootfs: String::new(),
            annotations: BTreeMap::new(),
            unit: None,
            cgroup_v1: Vec::new(),
            namespaces: Namespaces::empty(),
            owner: String::new(),
            created: String::new(),
            intel_rdt: None,
            resctrl: None,
            chroot: false,
            no_new_keyring: false,
            keyring: String::new(),
            held: false,
        }
    }
}

/// A unit of systemd.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SystemdUnit {
    /// Its name, for example `docker-1234.scope`.
    pub name: String,
    /// Whether the user's instance of systemd manages it, and not the system's.
    pub user: bool,
}

/// The container's init.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InitProcess {
    /// Process id in the runtime's PID namespace.
    pub pid: i32,
    /// The time at which it started, in clock ticks since the host's boot. No other process has this pid and start
    /// time.
    pub start_time: u64,
}

/// The status of a container (runtime.md, "State").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// `create` has not finished.
    Creating,
    /// Init waits for `start`.
    Created,
    /// Its program runs.
    Running,
    /// Its cgroup is frozen.
    Paused,
    /// Init has ended.
    Stopped,
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Status::Creating => "creating",
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        })
    }
}
