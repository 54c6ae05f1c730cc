//! The Linux part of `config.json` (runtime-spec config-linux.md).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The part that is specific to Linux.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(feature = "serialize", derive(serde::Serialize))]
#[serde(rename_all = "camelCase", default)]
pub struct Linux {
    /// Device nodes to make.
    #[serde(deserialize_with = "super::nullable")]
    pub devices: Vec<Device>,
    /// User ids of a new user namespace.
    #[serde(deserialize_with = "super::nullable")]
    pub uid_mappings: Vec<IdMapping>,
    /// Group ids of a new user namespace.
    #[serde(deserialize_with = "super::nullable")]
    pub gid_mappings: Vec<IdMapping>,
    /// Kernel parameters.
    #[serde(deserialize_with = "super::nullable")]
    pub sysctl: BTreeMap<String, String>,
    /// Path of the cgroup; absolute: below the cgroup root, relative: the runtime's choice.
    #[serde(deserialize_with = "super::nullable")]
    pub cgroups_path: String,
    /// Limits.
    pub resources: Option<Resources>,
    /// Propagation of the root mount.
    #[serde(deserialize_with = "super::nullable")]
    pub rootfs_propagation: String,
    /// The seccomp profile, read by windlass-seccomp.
    pub seccomp: Option<Box<serde_json::value::RawValue>>,
    /// Namespaces to create or join.
    #[serde(deserialize_with = "super::nullable")]
    pub namespaces: Vec<Namespace>,
    /// Paths to hide.
    #[serde(deserialize_with = "super::nullable")]
    pub masked_paths: Vec<String>,
    /// Paths to make read-only.
    #[serde(deserialize_with = "super::nullable")]
    pub readonly_paths: Vec<String>,
    /// SELinux context of the mounts.
    #[serde(deserialize_with = "super::nullable")]
    pub mount_label: String,
    /// Cache and memory bandwidth allocation.
    pub intel_rdt: Option<IntelRdt>,
    /// Execution domain.
    pub personality: Option<Personality>,
    /// Clock offsets of a new time namespace.
    #[serde(deserialize_with = "super::nullable")]
    pub time_offsets: BTreeMap<String, TimeOffset>,
    /// Host interfaces to move into the container, by name.
    #[serde(deserialize_with = "super::nullable")]
    pub net_devices: BTreeMap<String, NetDevice>,
    /// NUMA memory policy.
    pub memory_policy: Option<MemoryPolicy>,
}

/// A range of ids.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct IdMapping {
    /// First id inside.
    #[serde(rename = "containerID", deserialize_with = "super::nullable")]
    pub container_id: u32,
    /// First id outside.
    #[serde(rename = "hostID", deserialize_with = "super::nullable")]
    pub host_id: u32,
    /// Number of ids.
    #[serde(deserialize_with = "super::nullable")]
    pub size: u32,
}

impl IdMapping {
    /// The id outside for one inside; `None` if the range does not have it.
    pub fn to_host(&self, id: u32) -> Option<u32> {
        let offset = id.checked_sub(self.container_id).filter(|offset| *offset < self.size)?;
        self.host_id.checked_add(offset)
    }

    /// The id inside for one outside; `None` if the range does not have it.
    pub fn to_container(&self, id: u32) -> Option<u32> {
        let offset = id.checked_sub(self.host_id).filter(|offset| *offset < self.size)?;
        self.container_id.checked_add(offset)
    }

    /// The lines of a `/proc/PID/uid_map` or `gid_map` (user_namespaces(7)).
    pub fn parse_lines(text: &[u8]) -> Vec<IdMapping> {
        let mapping = |line: &str| {
            let mut numbers = line.split_whitespace().map(|word| word.parse().ok());
            let mut next = || numbers.next().flatten();
            Some(IdMapping { container_id: next()?, host_id: next()?, size: next()? })
        };
        String::from_utf8_lossy(text).lines().filter_map(mapping).collect()
    }
}

/// A namespace to create, or to join where a path is given.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(feature = "serialize", derive(serde::Serialize))]
#[serde(rename_all = "camelCase", default)]
pub struct Namespace {
    /// `pid`, `network`, `ipc`, `uts`, `mount`, `user`, `cgroup`, `time`.
    #[serde(rename = "type", deserialize_with = "super::nullable")]
    pub kind: String,
    /// Absolute path of the namespace file.
    #[serde(deserialize_with = "super::nullable")]
    pub path: String,
}

/// A device node.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(feature = "serialize", derive(serde::Serialize))]
#[serde(rename_all = "camelCase", default)]
pub struct Device {
    /// `c`, `b`, `u` or `p`.
    #[serde(rename = "type", deserialize_with = "super::nullable")]
    pub kind: String,
    /// Absolute path in the container.
    #[serde(deserialize_with = "super::nullable")]
    pub path: String,
    /// Major number; needed unless it is a fifo.
    pub major: Option<i64>,
    /// Minor number.
    pub minor: Option<i64>,
    /// Permission bits.
    pub file_mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
}

/// Limits and rules of the cgroup.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(feature = "serialize", derive(serde::Serialize))]
#[serde(rename_all = "camelCase", default)]
pub struct Resources {
    /// Device access, first to last.
    #[serde(deserialize_with = "super::nullable")]
    pub devices: Vec<DeviceRule>,
    /// Memory.
    pub memory: Option<Memory>,
    /// CPU time and cpusets.
    pub cpu: Option<Cpu>,
    /// Number of tasks.
    pub pids: Option<Pids>,
    /// Block I/O.
    #[serde(rename = "blockIO")]
    pub block_io: Option<BlockIo>,
    /// Huge pages.
    #[serde(deserialize_with = "super::nullable")]
    pub hugepage_limits: Vec<HugepageLimit>,
    /// cgroup v1 only.
    pub network: Option<Network>,
    /// RDMA, by device.
    #[serde(deserialize_with = "super::nullable")]
    pub rdma: BTreeMap<String, Rdma>,
    /// cgroup v2 files and what to write.
    #[serde(deserialize_with = "super::nullable")]
    pub unified: BTreeMap<String, String>,
}

/// One rule of device access.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(feature = "serialize", derive(serde::Serialize))]
#[serde(rename_all = "camelCase", default)]
pub struct DeviceRule {
    /// Whether it allows or denies.
    #[serde(deserialize_with = "super::nullable")]
    pub allow: bool,
    /// `a`, `c` or `b`; absent: all.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Major number; absent or -1: all.
    pub major: Option<i64>,
    /// Minor number; absent or -1: all.
    pub minor: Option<i64>,
    /// Letters of `rwm`; absent: all.
    pub access: Option<String>,
}

/// Memory limits, bytes; -1: no limit.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(feature = "serialize", derive(serde::Serialize))]
#[serde(rename_all = "camelCase", default)]
pub struct Memory {
    /// Limit.
    pub limit: Option<i64>,
    /// Soft limit.
    pub reservation: Option<i64>,
    /// Memory and swap together.
    pub swap: Option<i64>,
    /// cgroup v1 only.
    pub kernel: Option<i64>,
    /// cgroup v1 only.
    #[serde(rename = "kernelTCP")]
    pub kernel_tcp: Option<i64>,
    /// cgroup v1 only.
    pub swappiness: Option<u64>,
    /// cgroup v1 only.
    #[serde(rename = "disableOOMKiller")]
    pub disable_oom_killer: Option<bool>,
    /// cgroup v1 only.
    pub use_hierarchy: Option<bool>,
    /// Whether a limit below the present usage is refused.
    pub check_before_update: Option<bool>,
}

/// CPU limits.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(feature = "serialize", derive(serde::Serialize))]
#[serde(rename_all = "camelCase", default)]
pub struct Cpu {
    /// Relative weight, 2 to 262144.
    pub shares: Option<u64>,
    /// Time per period, us.
    pub quota: Option<i64>,
    /// Time that may be saved up, us.
    pub burst: Option<u64>,
    /// Period, us.
    pub period: Option<u64>,
    /// cgroup v1 only.
    pub realtime_runtime: Option<i64>,
    /// cgroup v1 only.
    pub realtime_period: Option<u64>,
    /// CPU list.
    #[serde(deserialize_with = "super::nullable")]
    pub cpus: String,
    /// Memory node list.
    #[serde(deserialize_with = "super::nullable")]
    pub mems: String,
    /// 1: SCHED_IDLE.
    pub idle: Option<i64>,
}

/// Limit of tasks.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(feature = "serialize", derive(serde::Serialize))]
#[serde(rename_all = "camelCase", default)]
pub struct Pids {
    /// Number; -1: no limit.
    pub limit: Option<i64>,
}

/// Block I/O limits.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(feature = "serialize", derive(serde::Serialize))]
#[serde(rename_all = "camelCase", default)]
pub struct BlockIo {
    /// 10 to 1000.
    pub weight: Option<u16>,
    /// cgroup v1 only.
    pub leaf_weight: Option<u16>,
    /// Weights by device.
    #[serde(deserialize_with = "super::nullable")]
    pub weight_device: Vec<WeightDevice>,
    /// Bytes read per second.
    #[serde(deserialize_with = "super::nullable")]
    pub throttle_read_bps_device: Vec<ThrottleDevice>,
    /// Bytes written per second.
    #[serde(deserialize_with = "super::nullable")]
    pub throttle_write_bps_device: Vec<ThrottleDevice>,
    /// Reads per second.
    #[serde(rename = "throttleReadIOPSDevice", deserialize_with = "super::nullable")]
    pub throttle_read_iops_device: Vec<ThrottleDevice>,
    /// Writes per second.
    #[serde(rename = "throttleWriteIOPSDevice", deserialize_with = "super::nullable")]
    pub throttle_write_iops_device: Vec<ThrottleDevice>,
}

/// Weight of one device.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(feature = "serialize", derive(serde::Serialize))]
#[serde(rename_all = "camelCase")]
pub struct WeightDevice {
    /// Major number.
    pub major: i64,
    /// Minor number.
    pub minor: i64,
    /// Weight.
    #[serde(default)]
    pub weight: Option<u16>,
    /// cgroup v1 only.
    #[serde(default)]
    pub leaf_weight: Option<u16>,
}

/// Rate of one device.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(feature = "serialize", derive(serde::Serialize))]
#[serde(rename_all = "camelCase")]
pub struct ThrottleDevice {
    /// Major number.
    pub major: i64,
    /// Minor number.
    pub minor: i64,
    /// Rate.
    pub rate: u64,
}

/// Limit of one huge page size.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(feature = "serialize", derive(serde::Serialize))]
#[serde(rename_all = "camelCase")]
pub struct HugepageLimit {
    /// For example `2MB`.
    pub page_size: String,
    /// Bytes.
    pub limit: u64,
}

/// cgroup v1 network classes.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(feature = "serialize", derive(serde::Serialize))]
#[serde(rename_all = "camelCase", default)]
pub struct Network {
    /// Class.
    #[serde(rename = "classID")]
    pub class_id: Option<u32>,
    /// Priorities.
    #[serde(deserialize_with = "super::nullable")]
    pub priorities: Vec<InterfacePriority>,
}

/// Priority of one interface.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(feature = "serialize", derive(serde::Serialize))]
#[serde(rename_all = "camelCase", default)]
pub struct InterfacePriority {
    /// Interface.
    #[serde(deserialize_with = "super::nullable")]
    pub name: String,
    /// Priority.
    #[serde(deserialize_with = "super::nullable")]
    pub priority: u32,
}

/// RDMA limits of one device.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(feature = "serialize", derive(serde::Serialize))]
#[serde(rename_all = "camelCase", default)]
pub struct Rdma {
    /// Handles.
    pub hca_handles: Option<u32>,
    /// Objects.
    pub hca_objects: Option<u32>,
}

/// Cache and memory bandwidth allocation (resctrl).
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(feature = "serialize", derive(serde::Serialize))]
#[serde(rename_all = "camelCase", default)]
pub struct IntelRdt {
    /// Class of service; absent: the container id.
    #[serde(rename = "closID", deserialize_with = "super::nullable")]
    pub clos_id: String,
    /// Lines of the schemata file.
    #[serde(deserialize_with = "super::nullable")]
    pub schemata: Vec<String>,
    /// L3 lines.
    #[serde(deserialize_with = "super::nullable")]
    pub l3_cache_schema: String,
    /// MB lines.
    #[serde(deserialize_with = "super::nullable")]
    pub mem_bw_schema: String,
    /// Whether to make a monitoring group.
    #[serde(deserialize_with = "super::nullable")]
    pub enable_monitoring: bool,
}

/// Execution domain.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(feature = "serialize", derive(serde::Serialize))]
#[serde(rename_all = "camelCase", default)]
pub struct Personality {
    /// `LINUX` or `LINUX32`.
    #[serde(deserialize_with = "super::nullable")]
    pub domain: String,
    /// No flag is defined.
    #[serde(deserialize_with = "super::nullable")]
    pub flags: Vec<String>,
}

/// Offset of one clock.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[cfg_attr(feature = "serialize", derive(serde::Serialize))]
#[serde(rename_all = "camelCase", default)]
pub struct TimeOffset {
    /// Seconds.
    #[serde(deserialize_with = "super::nullable")]
    pub secs: i64,
    /// Nanoseconds.
    #[serde(deserialize_with = "super::nullable")]
    pub nanosecs: u32,
}

/// An interface to move.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(feature = "serialize", derive(serde::Serialize))]
#[serde(rename_all = "camelCase", default)]
pub struct NetDevice {
    /// Name inside; absent: unchanged.
    #[serde(deserialize_with = "super::nullable")]
    pub name: String,
}

/// Arguments of set_mempolicy(2).
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(feature = "serialize", derive(serde::Serialize))]
#[serde(rename_all = "camelCase", default)]
pub struct MemoryPolicy {
    /// `MPOL_*`.
    #[serde(deserialize_with = "super::nullable")]
    pub mode: String,
    /// Node list.
    #[serde(deserialize_with = "super::nullable")]
    pub nodes: String,
    /// `MPOL_F_*`.
    #[serde(deserialize_with = "super::nullable")]
    pub flags: Vec<String>,
}
