//! The platform-neutral part of `config.json` (runtime-spec config.md).

use std::collections::BTreeMap;

use serde::Deserialize;

use super::linux::{IdMapping, Linux};

/// The whole of `config.json`.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(feature = "serialize", derive(serde::Serialize))]
#[serde(rename_all = "camelCase", default)]
pub struct Spec {
    /// Version of the specification that the bundle follows.
    #[serde(deserialize_with = "super::nullable")]
    pub oci_version: String,
    /// The container process; needed by `start`.
    pub process: Option<Process>,
    /// The root filesystem.
    pub root: Option<Root>,
    /// Hostname in the container's UTS namespace.
    #[serde(deserialize_with = "super::nullable")]
    pub hostname: String,
    /// Domainname in the container's UTS namespace.
    #[serde(deserialize_with = "super::nullable")]
    pub domainname: String,
    /// Mounts below the root, in order.
    #[serde(deserialize_with = "super::nullable")]
    pub mounts: Vec<Mount>,
    /// Programs to run in the course of the container's life.
    pub hooks: Option<Hooks>,
    /// Free metadata; part of the state.
    #[serde(deserialize_with = "super::nullable")]
    pub annotations: BTreeMap<String, String>,
    /// The part that is specific to Linux.
    pub linux: Option<Linux>,
}

/// The container's root filesystem.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(feature = "serialize", derive(serde::Serialize))]
#[serde(rename_all = "camelCase", default)]
pub struct Root {
    /// Absolute, or relative to the bundle.
    #[serde(deserialize_with = "super::nullable")]
    pub path: String,
    /// Read-only inside the container.
    #[serde(deserialize_with = "super::nullable")]
    pub readonly: bool,
}

/// One mount.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(feature = "serialize", derive(serde::Serialize))]
#[serde(rename_all = "camelCase", default)]
pub struct Mount {
    /// Absolute path in the container.
    #[serde(deserialize_with = "super::nullable")]
    pub destination: String,
    /// Filesystem type; ignored for bind mounts.
    #[serde(rename = "type", deserialize_with = "super::nullable")]
    pub kind: String,
    /// Device, name, or for bind mounts a path (relative to the bundle).
    #[serde(deserialize_with = "super::nullable")]
    pub source: String,
    /// Options as fstab has them, and those of runtime-spec.
    #[serde(deserialize_with = "super::nullable")]
    pub options: Vec<String>,
    /// User id mapping of an idmapped mount.
    #[serde(deserialize_with = "super::nullable")]
    pub uid_mappings: Vec<IdMapping>,
    /// Group id mapping of an idmapped mount.
    #[serde(deserialize_with = "super::nullable")]
    pub gid_mappings: Vec<IdMapping>,
}

impl Mount {
    /// Whether it is a bind mount, by its type or its options.
    pub fn is_bind(&self) -> bool {
        self.kind == "bind" || self.options.iter().any(|option| option == "bind" || option == "rbind")
    }
}

/// A process in the container.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(feature = "serialize", derive(serde::Serialize))]
#[serde(rename_all = "camelCase", default)]
pub struct Process {
    /// Whether it gets a terminal.
    #[serde(deserialize_with = "super::nullable")]
    pub terminal: bool,
    /// Size of that terminal, in characters.
    pub console_size: Option<ConsoleSize>,
    /// Its ids.
    #[serde(deserialize_with = "super::nullable")]
    pub user: User,
    /// The program and its arguments.
    #[serde(deserialize_with = "super::nullable")]
    pub args: Vec<String>,
    /// Windows only.
    #[serde(deserialize_with = "super::nullable")]
    pub command_line: String,
    /// Its environment, `KEY=value`.
    #[serde(deserialize_with = "super::nullable")]
    pub env: Vec<String>,
    /// Its working directory, absolute.
    #[serde(deserialize_with = "super::nullable")]
    pub cwd: String,
    /// Its capability sets.
    pub capabilities: Option<Capabilities>,
    /// Its resource limits.
    #[serde(deserialize_with = "super::nullable")]
    pub rlimits: Vec<Rlimit>,
    /// Whether `PR_SET_NO_NEW_PRIVS` is set.
    #[serde(deserialize_with = "super::nullable")]
    pub no_new_privileges: bool,
    /// Name of its AppArmor profile.
    #[serde(deserialize_with = "super::nullable")]
    pub apparmor_profile: String,
    /// Its `/proc/self/oom_score_adj`, -1000 to 1000.
    pub oom_score_adj: Option<i64>,
    /// Its scheduling policy.
    pub scheduler: Option<Scheduler>,
    /// Its SELinux label.
    #[serde(deserialize_with = "super::nullable")]
    pub selinux_label: String,
    /// Its I/O priority.
    #[serde(rename = "ioPriority")]
    pub io_priority: Option<IoPriority>,
    /// CPU affinity of an exec'd process.
    #[serde(rename = "execCPUAffinity")]
    pub exec_cpu_affinity: Option<CpuAffinity>,
}

/// Size of a terminal in characters.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(feature = "serialize", derive(serde::Serialize))]
#[serde(rename_all = "camelCase", default)]
pub struct ConsoleSize {
    /// Rows.
    #[serde(deserialize_with = "super::nullable")]
    pub height: u64,
    /// Columns.
    #[serde(deserialize_with = "super::nullable")]
    pub width: u64,
}

/// Ids of a process.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(feature = "serialize", derive(serde::Serialize))]
#[serde(rename_all = "camelCase", default)]
pub struct User {
    /// User id in the container's user namespace.
    #[serde(deserialize_with = "super::nullable")]
    pub uid: u32,
    /// Group id in the container's user namespace.
    #[serde(deserialize_with = "super::nullable")]
    pub gid: u32,
    /// File mode creation mask; 0022 when absent.
    pub umask: Option<u32>,
    /// Supplementary groups.
    #[serde(deserialize_with = "super::nullable")]
    pub additional_gids: Vec<u32>,
    /// Windows only.
    #[serde(deserialize_with = "super::nullable")]
    pub username: String,
}

/// The five capability sets, by name.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(feature = "serialize", derive(serde::Serialize))]
#[serde(rename_all = "camelCase", default)]
pub struct Capabilities {
    /// Bounding set.
    pub bounding: Option<Vec<String>>,
    /// Effective set.
    pub effective: Option<Vec<String>>,
    /// Inheritable set.
    pub inheritable: Option<Vec<String>>,
    /// Permitted set.
    pub permitted: Option<Vec<String>>,
    /// Ambient set.
    pub ambient: Option<Vec<String>>,
}

/// One resource limit.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(feature = "serialize", derive(serde::Serialize))]
#[serde(rename_all = "camelCase")]
pub struct Rlimit {
    /// `RLIMIT_*`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Ceiling.
    pub hard: u64,
    /// Value in force.
    pub soft: u64,
}

/// Arguments of sched_setattr(2).
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(feature = "serialize", derive(serde::Serialize))]
#[serde(rename_all = "camelCase", default)]
pub struct Scheduler {
    /// `SCHED_*`.
    #[serde(deserialize_with = "super::nullable")]
    pub policy: String,
    /// Nice value, for OTHER and BATCH.
    #[serde(deserialize_with = "super::nullable")]
    pub nice: i32,
    /// Static priority, for FIFO and RR.
    #[serde(deserialize_with = "super::nullable")]
    pub priority: i32,
    /// `SCHED_FLAG_*`.
    #[serde(deserialize_with = "super::nullable")]
    pub flags: Vec<String>,
    /// DEADLINE: runtime, ns.
    #[serde(deserialize_with = "super::nullable")]
    pub runtime: u64,
    /// DEADLINE: relative deadline, ns.
    #[serde(deserialize_with = "super::nullable")]
    pub deadline: u64,
    /// DEADLINE: period, ns.
    #[serde(deserialize_with = "super::nullable")]
    pub period: u64,
}

/// Arguments of ioprio_set(2).
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(feature = "serialize", derive(serde::Serialize))]
#[serde(rename_all = "camelCase", default)]
pub struct IoPriority {
    /// `IOPRIO_CLASS_*`.
    #[serde(deserialize_with = "super::nullable")]
    pub class: String,
    /// 0 (highest) to 7.
    #[serde(deserialize_with = "super::nullable")]
    pub priority: i64,
}

/// CPU lists of an exec'd process.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(feature = "serialize", derive(serde::Serialize))]
#[serde(rename_all = "camelCase", default)]
pub struct CpuAffinity {
    /// The CPUs while the runtime is still at work.
    #[serde(deserialize_with = "super::nullable")]
    pub initial: String,
    /// The CPUs when the process starts.
    #[serde(rename = "final", deserialize_with = "super::nullable")]
    pub last: String,
}

/// Hooks by point in the lifecycle.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(feature = "serialize", derive(serde::Serialize))]
#[serde(rename_all = "camelCase", default)]
pub struct Hooks {
    /// Deprecated; as createRuntime.
    #[serde(deserialize_with = "super::nullable")]
    pub prestart: Vec<Hook>,
    /// Run when the namespaces exist, in the runtime's.
    #[serde(deserialize_with = "super::nullable")]
    pub create_runtime: Vec<Hook>,
    /// Run before pivot_root, in the container's namespaces.
    #[serde(deserialize_with = "super::nullable")]
    pub create_container: Vec<Hook>,
    /// Run before the process starts, in the container.
    #[serde(deserialize_with = "super::nullable")]
    pub start_container: Vec<Hook>,
    /// Run after the process started, in the runtime's namespaces.
    #[serde(deserialize_with = "super::nullable")]
    pub poststart: Vec<Hook>,
    /// Run after the container is deleted, in the runtime's namespaces.
    #[serde(deserialize_with = "super::nullable")]
    pub poststop: Vec<Hook>,
}

/// One program to run.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(feature = "serialize", derive(serde::Serialize))]
#[serde(rename_all = "camelCase", default)]
pub struct Hook {
    /// Absolute path.
    #[serde(deserialize_with = "super::nullable")]
    pub path: String,
    /// Arguments, the program's name first.
    #[serde(deserialize_with = "super::nullable")]
    pub args: Vec<String>,
    /// Environment, `KEY=value`.
    #[serde(deserialize_with = "super::nullable")]
    pub env: Vec<String>,
    /// Seconds until it is killed; more than 0.
    pub timeout: Option<i64>,
}
