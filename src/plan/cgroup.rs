//! Converts `linux.resources` to writes into the files of a cgroup v2.
//!
//! The specification speaks of cgroup v1; its fields are converted as runc converts them. Zero means unset wherever it
//! does for runc (engines send zeros for what their user did not ask), -1 means no limit. A limit that exists in v1
//! only cannot be applied and is a warning, unless its value changes nothing.
//!
//! The order of the writes is a part of the plan, see [`limits`].

use std::borrow::Cow;

use crate::device_rules::{self, DeviceProgram};
use windlass_base::error::{Diagnostic, Error, Result};
use windlass_base::spec::{BlockIo, Cpu, HugepageLimit, Memory, Rdma, Resources, ThrottleDevice, Version, escape};

/// All that is to be done to the container's cgroup.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limits {
    /// The writes, in the order in which they are carried out.
    pub writes: Vec<Write>,
    /// The program that decides which devices may be used; `None` if all may.
    pub devices: Option<DeviceProgram>,
    /// The limits to compare with the memory in use before an update is written.
    pub memory_check: Option<MemoryCheck>,
}

/// One write(2) to one file of the cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The controller that makes the file appear; `cgroup` for the files of every cgroup.
    pub controller: Cow<'static, str>,
    /// The name of the file.
    pub file: Cow<'static, str>,
    /// The value to write.
    pub value: String,
    /// JSON Pointer of what asks for it.
    pub pointer: String,
    /// The consequence if the file does not exist.
    pub absent: Absent,
}

/// The consequence if a file does not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Absent {
    /// The limit cannot be applied.
    Fails,
    /// There is none: the kernel behaves in the same way without the file. Such a write does not make the runtime
    /// enable a controller.
    Harmless,
    /// Another file of the same controller is written instead.
    Instead {
        /// The name of the other file.
        file: Cow<'static, str>,
        /// The value to write to it.
        value: String,
    },
}

/// A controller that must be enabled for the cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// The name in `cgroup.controllers`.
    pub controller: Cow<'static, str>,
    /// JSON Pointer of the first limit that needs it.
    pub pointer: String,
}

/// `checkBeforeUpdate`: limits below what is in use are refused instead of killing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryCheck {
    /// The new memory limit, bytes.
    pub limit: Option<u64>,
    /// The new limit of memory and swap together, bytes.
    pub swap: Option<u64>,
}

impl MemoryCheck {
    /// Compares the limits with the memory in use: of memory and swap together, and of memory. Unknown values are not
    /// compared.
    pub fn compare(&self, usage: [Option<u64>; 2]) -> Result<()> {
        for (name, limit, usage, element) in
            [("memory+swap", self.swap, usage[0], "swap"), ("memory", self.limit, usage[1], "limit")]
        {
            if let (Some(limit), Some(usage)) = (limit, usage)
                && limit <= usage
            {
                let pointer = format!("{RESOURCES}/memory/{element}");
                return Err(Error::config(pointer, format!("rejecting {name} limit {limit} <= usage {usage}")));
            }
        }
        Ok(())
    }
}

impl Limits {
    /// The controllers that the writes need, each once.
    pub fn needs(&self) -> Vec<Need> {
        let mut needs: Vec<Need> = Vec::new();
        for write in &self.writes {
            let wanted = write.absent != Absent::Harmless && write.controller != "cgroup";
            if wanted && !needs.iter().any(|need| need.controller == write.controller) {
                needs.push(Need { controller: write.controller.clone(), pointer: write.pointer.clone() });
            }
        }
        needs
    }
}

/// The limits of memory that a cgroup has, in bytes; `None` for no limit or an unknown one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryInForce {
    /// The limit of memory.
    pub limit: Option<u64>,
    /// The limit of swap alone, as in version 2.
    pub swap: Option<u64>,
}

/// Completes an update that gives only one of `limit` and `swap`. The specification's `swap` is memory and
/// swap together, while cgroup v2 has a file for each.
///
/// A new `limit` alone leaves the sum of memory and swap unchanged, or raises it to the limit; a container that may not
/// swap still may not. A new `swap` alone keeps the limit of memory. Returns whether `limit` was filled in.
pub fn complete_memory(memory: &mut Memory, stands: MemoryInForce) -> bool {
    match (memory.limit.unwrap_or(0), memory.swap.unwrap_or(0), stands) {
        (limit @ 1.., 0, MemoryInForce { limit: Some(old), swap: Some(swap @ 1..) }) => {
            memory.swap = i64::try_from(old.saturating_add(swap)).ok().map(|both| both.max(limit));
            false
        }
        (0, 1.., MemoryInForce { limit: Some(old), .. }) => {
            memory.limit = i64::try_from(old).ok();
            true
        }
        _ => false,
    }
}

/// Plans the writes for `resources`.
///
/// Order: swap before memory, since lowering `memory.max` makes the kernel reclaim at once, which uses the new room for
/// swap; idle before weight, since an idle cgroup has no weight; `unified` last, since it may name files that are
/// written before.
///
/// `version` is the version of the container's configuration, also for an update.
pub fn limits(
    resources: &Resources,
    version: Option<Version>,
    faults: &mut Vec<Diagnostic>,
    warnings: &mut Vec<Diagnostic>,
) -> Limits {
    let mut out = Writes { writes: Vec::new(), faults, warnings };
    out.pids(resources, version);
    let memory_check = resources.memory.as_ref().and_then(|memory| out.memory(memory));
    if let Some(block_io) = &resources.block_io {
        out.block_io(block_io);
    }
    if let Some(cpu) = &resources.cpu {
        out.cpu(cpu);
    }
    out.hugepages(&resources.hugepage_limits);
    for (device, limit) in &resources.rdma {
        out.rdma(device, limit);
    }
    out.network(resources);
    for (file, value) in &resources.unified {
        out.unified(file, value);
    }
    let writes = out.writes;
    Limits { writes, devices: device_rules::program(&resources.devices, faults, warnings), memory_check }
}

/// The `cpu.weight` for `cpu.shares` of cgroup v1: a curve through 2 → 1, 1024 → 100 and
/// 262144 → 10000, the two ends and the two defaults (opencontainers/cgroups v0.0.6; older
/// runtimes drew a straight line through the ends, which gave the default a weight of 39).
fn weight_of_shares(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let log = (shares as f64).log2();
            10f64.powf((log * log + 125.0 * log) / 612.0 - 7.0 / 34.0).ceil() as u64
        }
    }
}

/// The weight of `io.weight` (1 to 10000) for a weight of `blkio` (10 to 1000), linear.
fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight).max(10) - 10) * 9999 / 990
}

const RESOURCES: &str = "/linux/resources";

struct Writes<'a> {
    writes: Vec<Write>,
    faults: &'a mut Vec<Diagnostic>,
    warnings: &'a mut Vec<Diagnostic>,
}

impl Writes<'_> {
    /// Adds a limit; `max` and the other values of a fresh cgroup are harmless if the file is missing.
    fn write(&mut self, pointer: &str, file: impl Into<Cow<'static, str>>, value: String) {
        let file = file.into();
        let harmless = value == "max"
            || matches!((&*file, &*value), ("cpu.weight", "100") | ("cpu.idle", "0") | ("cpu.max", "max 100000"));
        self.push(pointer, file, value, if harmless { Absent::Harmless } else { Absent::Fails });
    }

    fn push(&mut self, pointer: &str, file: Cow<'static, str>, value: String, absent: Absent) {
        let controller = match &file {
            Cow::Borrowed(name) => Cow::Borrowed(controller_of(name)),
            Cow::Owned(name) => Cow::Owned(controller_of(name).to_owned()),
        };
        self.writes.push(Write { controller, file, value, pointer: format!("{RESOURCES}{pointer}"), absent });
    }

    fn fault(&mut self, pointer: &str, msg: impl Into<String>) {
        self.faults.push(Diagnostic { pointer: format!("{RESOURCES}{pointer}"), msg: msg.into() });
    }

    fn warn(&mut self, pointer: &str, msg: impl Into<String>) {
        self.warnings.push(Diagnostic { pointer: format!("{RESOURCES}{pointer}"), msg: msg.into() });
    }

    fn only_v1(&mut self, pointer: &str, unlike_default: bool) {
        if unlike_default {
            let name = pointer.rsplit('/').next().unwrap_or(pointer);
            self.warn(pointer, format!("{name} is ignored: cgroup v2 has no such setting"));
        }
    }

    /// Adds the limit of tasks. Before 1.3 the specification does not define 0, and engines use it for "no limit".
    /// Since 1.3 it is a limit.
    fn pids(&mut self, resources: &Resources, version: Option<Version>) {
        let Some(limit) = resources.pids.as_ref().and_then(|pids| pids.limit) else { return };
        let zero_limits = version.is_some_and(|version| version >= Version::PIDS_LIMIT_OF_ZERO);
        let value = match limit {
            // With 0 the kernel would refuse the container's own process, so 1 is the least.
            0 if zero_limits => {
                self.warn("/pids/limit", "a pids.limit of 0 is a limit since runtime-spec 1.3: nothing can fork");
                "1".to_owned()
            }
            1.. => limit.to_string(),
            0 | -1 => "max".to_owned(),
            _ => {
                self.warn("/pids/limit", format!("pids.limit {limit} is taken for -1, no limit"));
                "max".to_owned()
            }
        };
        self.write("/pids/limit", "pids.max", value);
    }

    fn memory(&mut self, memory: &Memory) -> Option<MemoryCheck> {
        self.only_v1("/memory/kernel", memory.kernel.is_some_and(|value| value > 0));
        self.only_v1("/memory/kernelTCP", memory.kernel_tcp.is_some_and(|value| value > 0));
        self.only_v1("/memory/swappiness", memory.swappiness.is_some_and(|value| value > 0));
        self.only_v1("/memory/disableOOMKiller", memory.disable_oom_killer == Some(true));
        let limit = self.bytes("/memory/limit", memory.limit)?;
        let reservation = self.bytes("/memory/reservation", memory.reservation)?;
        let both = self.bytes("/memory/swap", memory.swap)?;
        let swap = match (limit, both) {
            // Without a limit of memory, and with none given for swap, both are unlimited, as on v1.
            (Bytes::Unlimited, Bytes::Unset) | (_, Bytes::Unlimited) => Bytes::Unlimited,
            (_, Bytes::Unset) => Bytes::Unset,
            (Bytes::Unlimited, both) => both,
            (Bytes::Unset, _) => {
                self.fault("/memory/swap", "unable to set swap limit without memory limit");
                return None;
            }
            (Bytes::Number(limit), Bytes::Number(both)) if both < limit => {
                self.fault("/memory/swap", "memory+swap limit should be >= memory limit");
                return None;
            }
            (Bytes::Number(limit), Bytes::Number(both)) => Bytes::Number(both - limit),
        };
        if let Some(value) = swap.value() {
            // Without swap accounting there is no file. runc accepts a limit of "none" then, and engines rely on it:
            // they send it with every memory limit.
            let absent = if matches!(&*value, "0" | "max") { Absent::Harmless } else { Absent::Fails };
            let asked = if both == Bytes::Unset { "/memory/limit" } else { "/memory/swap" };
            self.push(asked, "memory.swap.max".into(), value, absent);
        }
        if let Some(value) = limit.value() {
            self.write("/memory/limit", "memory.max", value);
        }
        if let Some(value) = reservation.value() {
            self.write("/memory/reservation", "memory.low", value);
        }
        let check = MemoryCheck { limit: limit.number(), swap: both.number() };
        let asked = memory.check_before_update == Some(true) && (check.limit.is_some() || check.swap.is_some());
        asked.then_some(check)
    }

    fn bytes(&mut self, pointer: &str, value: Option<i64>) -> Option<Bytes> {
        match value.unwrap_or(0) {
            0 => Some(Bytes::Unset),
            -1 => Some(Bytes::Unlimited),
            value => match u64::try_from(value) {
                Ok(number) => Some(Bytes::Number(number)),
                Err(_) => {
                    self.fault(pointer, format!("invalid memory value: {value}"));
                    None
                }
            },
        }
    }

    fn cpu(&mut self, cpu: &Cpu) {
        self.only_v1("/cpu/realtimeRuntime", cpu.realtime_runtime.is_some_and(|value| value != 0));
        self.only_v1("/cpu/realtimePeriod", cpu.realtime_period.is_some_and(|value| value != 0));
        if let Some(idle) = cpu.idle {
            self.write("/cpu/idle", "cpu.idle", idle.to_string());
        }
        match cpu.shares.unwrap_or(0) {
            0 => {}
            _ if cpu.idle == Some(1) => {
                self.warn("/cpu/shares", "shares is ignored: a cgroup with cpu.idle 1 has no weight")
            }
            shares => self.write("/cpu/shares", "cpu.weight", weight_of_shares(shares).to_string()),
        }
        let (quota, period) = (cpu.quota.unwrap_or(0), cpu.period.unwrap_or(0));
        let value = match (quota, period) {
            (0, 0) => None,
            (1.., 0) => Some(quota.to_string()),
            (1.., period) => Some(format!("{quota} {period}")),
            (_, 0) => Some("max".to_owned()),
            (_, period) => Some(format!("max {period}")),
        };
        if let Some(value) = value {
            self.write(if quota == 0 { "/cpu/period" } else { "/cpu/quota" }, "cpu.max", value);
        }
        if let Some(burst) = cpu.burst {
            let absent = if burst == 0 { Absent::Harmless } else { Absent::Fails };
            self.push("/cpu/burst", "cpu.max.burst".into(), burst.to_string(), absent);
        }
        self.list("/cpu/cpus", "cpuset.cpus", &cpu.cpus);
        self.list("/cpu/mems", "cpuset.mems", &cpu.mems);
    }

    /// Adds a list of numbers. The kernel has more forms than ranges (`0-31:2/4`, `all`), so only characters that occur
    /// in no form are refused.
    fn list(&mut self, pointer: &str, file: &'static str, list: &str) {
        let list = list.trim();
        let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, ',' | '-' | ':' | '/' | ' ');
        match list {
            "" => {}
            _ if list.chars().all(known) => self.write(pointer, file, list.to_owned()),
            _ => self.fault(pointer, format!("invalid list {list:?}")),
        }
    }

    fn block_io(&mut self, io: &BlockIo) {
        self.only_v1("/blockIO/leafWeight", io.leaf_weight.is_some_and(|weight| weight != 0));
        if let Some(weight) = io.weight {
            self.io_weight("/blockIO/weight", None, weight);
        }
        for (index, device) in io.weight_device.iter().enumerate() {
            let pointer = format!("/blockIO/weightDevice/{index}");
            self.only_v1(&format!("{pointer}/leafWeight"), device.leaf_weight.is_some_and(|weight| weight != 0));
            if let Some(weight) = device.weight {
                self.io_weight(&format!("{pointer}/weight"), Some((device.major, device.minor)), weight);
            }
        }
        self.throttle("throttleReadBpsDevice", "rbps", &io.throttle_read_bps_device);
        self.throttle("throttleWriteBpsDevice", "wbps", &io.throttle_write_bps_device);
        self.throttle("throttleReadIOPSDevice", "riops", &io.throttle_read_iops_device);
        self.throttle("throttleWriteIOPSDevice", "wiops", &io.throttle_write_iops_device);
    }

    /// Adds a weight. BFQ takes the number unchanged, the cost model of `io.weight` on its own scale.
    fn io_weight(&mut self, pointer: &str, device: Option<(i64, i64)>, weight: u16) {
        match weight {
            0 => return,
            10..=1000 => {}
            _ => return self.fault(pointer, format!("blockIO weight {weight} is not between 10 and 1000")),
        }
        let of = |weight: u64| match device {
            Some((major, minor)) => format!("{major}:{minor} {weight}"),
            None => weight.to_string(),
        };
        let instead = Absent::Instead { file: "io.weight".into(), value: of(io_weight(weight)) };
        self.push(pointer, "io.bfq.weight".into(), of(weight.into()), instead);
    }

    fn throttle(&mut self, name: &str, key: &str, devices: &[ThrottleDevice]) {
        for (index, ThrottleDevice { major, minor, rate }) in devices.iter().enumerate() {
            let pointer = format!("/blockIO/{name}/{index}/rate");
            // In v1 0 takes a limit away; the kernel refuses it here.
            match rate {
                0 => {
                    let value = format!("{major}:{minor} {key}=max");
                    self.push(&pointer, "io.max".into(), value, Absent::Harmless);
                }
                rate => self.write(&pointer, "io.max", format!("{major}:{minor} {key}={rate}")),
            }
        }
    }

    fn hugepages(&mut self, limits: &[HugepageLimit]) {
        for (index, HugepageLimit { page_size, limit }) in limits.iter().enumerate() {
            let pointer = format!("/hugepageLimits/{index}");
            let number = page_size.strip_suffix("KB").or(page_size.strip_suffix("MB")).or(page_size.strip_suffix("GB"));
            if !number.is_some_and(|n| !n.is_empty() && !n.starts_with('0') && n.bytes().all(|b| b.is_ascii_digit())) {
                self.fault(&format!("{pointer}/pageSize"), format!("invalid huge page size {page_size:?}"));
                continue;
            }
            let pointer = format!("{pointer}/limit");
            self.write(&pointer, format!("hugetlb.{page_size}.max"), limit.to_string());
            // Reservations are counted since Linux 5.7. Without this limit a process can map
            // more than it may touch, and dies of SIGBUS later.
            self.push(&pointer, format!("hugetlb.{page_size}.rsvd.max").into(), limit.to_string(), Absent::Harmless);
        }
    }

    fn rdma(&mut self, device: &str, limit: &Rdma) {
        let pointer = format!("/rdma/{}", escape(device));
        if device.is_empty() || device.contains(char::is_whitespace) {
            return self.fault(&pointer, format!("invalid RDMA device {device:?}"));
        }
        let mut value = device.to_owned();
        for (key, number) in [("hca_handle", limit.hca_handles), ("hca_object", limit.hca_objects)] {
            match number {
                None => {}
                Some(u32::MAX) => value.push_str(&format!(" {key}=max")),
                Some(number) => value.push_str(&format!(" {key}={number}")),
            }
        }
        if value.len() == device.len() {
            return self.fault(&pointer, "at least one of hcaHandles and hcaObjects must be given");
        }
        self.write(&pointer, "rdma.max", value);
    }

    fn network(&mut self, resources: &Resources) {
        let Some(network) = &resources.network else { return };
        self.only_v1("/network/classID", network.class_id.is_some_and(|id| id != 0));
        self.only_v1("/network/priorities", !network.priorities.is_empty());
    }

    fn unified(&mut self, file: &str, value: &str) {
        let pointer = format!("/unified/{}", escape(file));
        if file.contains('/') {
            return self.fault(&pointer, format!("unified resource {file:?} must be a file name (no slashes)"));
        }
        let (controller, name) = file.split_once('.').unwrap_or_default();
        if controller.is_empty() || name.is_empty() || file.contains(['\0', '\n']) {
            let msg = format!(
                "unified resource {file:?} must be in the form CONTROLLER.PARAMETER: \
                 the specified key has not the form CONTROLLER.VALUE `{file}`"
            );
            return self.fault(&pointer, msg);
        }
        if ACTS_ON_PROCESSES.contains(&file) {
            return self.fault(&pointer, format!("unified resource {file:?} acts on processes, it is not a limit"));
        }
        // The kernel takes one setting per write, so each line is one.
        for line in value.lines() {
            self.push(&pointer, file.to_owned().into(), line.to_owned(), Absent::Fails);
        }
    }
}

/// Writing to these files moves, freezes or kills processes, which only the runtime itself may do.
const ACTS_ON_PROCESSES: &[&str] = &["cgroup.procs", "cgroup.threads", "cgroup.freeze", "cgroup.kill", "cgroup.type"];

fn controller_of(file: &str) -> &str {
    file.split_once('.').map_or(file, |(controller, _)| controller)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Bytes {
    Unset,
    Unlimited,
    Number(u64),
}

impl Bytes {
    fn value(self) -> Option<String> {
        match self {
            Bytes::Unset => None,
            Bytes::Unlimited => Some("max".into()),
            Bytes::Number(number) => Some(number.to_string()),
        }
    }

    fn number(self) -> Option<u64> {
        if let Bytes::Number(number) = self { Some(number) } else { None }
    }
}

#[cfg(test)]
mod tests;
