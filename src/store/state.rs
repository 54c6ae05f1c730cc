//! The state of a container, as it is on disk and as it is found.
//!
//! What is on disk ([`super::record`]) is written once and never changed: the state before anything
//! is made, so that whatever is made can be found and cleared away; the process when init stands;
//! how it ended by whoever learns it. Whether the container is created, running, paused or stopped
//! is never stored: it is read off the process and the cgroup.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use windlass_base::namespaces::Namespaces;

/// Version of the layout of the state. A runtime reads its own and every older one.
pub const VERSION: u32 = 2;

/// What was decided before anything was made.
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
    /// Annotations of its configuration, in create. They are not written to this line, which every command
    /// reads; only version 1 has them here. See `Container::annotations`.
    #[serde(default, skip_serializing)]
    pub annotations: BTreeMap<String, String>,
    /// The scope of systemd that is its cgroup, if one is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<Unit>,
    /// Directories in hierarchies of cgroup version 1 that are its own. Those that do not exist
    /// were not needed so far.
    #[serde(default, rename = "cgroupV1", skip_serializing_if = "Vec::is_empty")]
    pub cgroup_v1: Vec<String>,
    /// Namespaces (`CLONE_NEW*`) that it has for itself.
    #[serde(default)]
    pub namespaces: Namespaces,
    /// Name of the user who made it.
    pub owner: String,
    /// When, RFC 3339.
    pub created: String,
    /// Directory of the resource control group that delete removes: one that we made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intel_rdt: Option<String>,
    /// Directory of the resource control group that it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resctrl: Option<String>,
    /// Whether the root was moved or chrooted to, so that exec must follow it there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub chroot: bool,
    /// Whether exec leaves the session keyring alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_new_keyring: bool,
    /// The end of the session keyring's name, which nobody can guess.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub keyring: String,
}

impl State {
    /// The state of a container of which only the cgroup is known any more.
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
        }
    }
}

/// A scope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// For example `docker-1234.scope`.
    pub name: String,
    /// Of the user's instance of systemd, not the system's.
    pub user: bool,
}

/// The process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Init {
    /// Process id in the runtime's PID namespace.
    pub pid: i32,
    /// When it started, in clock ticks since the host's boot: with the pid it names the process for good.
    pub start_time: u64,
}

/// Where the container is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// `create` is at work.
    Creating,
    /// It waits for `start`.
    Created,
    /// Its program runs.
    Running,
    /// It is frozen.
    Paused,
    /// Its process has ended.
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
