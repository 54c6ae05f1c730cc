//! Limits whose controllers are in hierarchies of version 1 (feature `cgroup-v1`).
//!
//! Only the setters of cgroups-rs are used: its `apply` drops errors, and its `delete` moves processes to the root. The
//! settings for which it has no setter (burst, idle, reserved huge pages) are written here. A cgroup is made in each
//! hierarchy that a limit needs, and without cgroup2 in the freezer's. For device rules see [`super::Devices`].

use cgroups_rs::fs::blkio::BlkIoController;
use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::cpuset::CpuSetController;
use cgroups_rs::fs::error::{Error as FsError, Result as FsResult};
use cgroups_rs::fs::hierarchies::V1 as Mounted;
use cgroups_rs::fs::hugetlb::HugeTlbController;
use cgroups_rs::fs::memory::MemController;
use cgroups_rs::fs::net_cls::NetClsController;
use cgroups_rs::fs::net_prio::NetPrioController;
use cgroups_rs::fs::pid::PidController;
use cgroups_rs::fs::rdma::RdmaController;
use cgroups_rs::fs::{Cgroup as FsCgroup, ControllIdentifier, Controller, MaxValue, Subsystem};
use nix::errno::Errno;

use super::Cgroups;
use crate::directory::Directory;
use crate::hierarchy::{Hierarchy, HierarchyV1};
use crate::remove::{Kill, remove};
use windlass_base::error::{Diagnostic, Error, Kind, Origin, Result};
use windlass_base::spec::{BlockIo, Cpu, Memory, Resources};
use windlass_plan::cgroup::{Limits as Planned, limits as plan};
use windlass_sys::SyscallError;

/// The limits of a configuration that hierarchies of version 1 apply.
pub struct Limits {
    settings: Vec<Setting>,
    /// A controller of each hierarchy in which a cgroup is needed now.
    controllers: Vec<String>,
    /// The paths of these cgroups.
    needed: Vec<String>,
    /// See [`Limits::paths`].
    paths: Vec<String>,
    /// The path below the root of each hierarchy.
    path: String,
}

impl Limits {
    /// Moves the limits out of `planned` whose controllers are in hierarchies of version 1, and removes the `warnings`
    /// about settings that exist in these. Nothing is made yet.
    ///
    /// Returns `None` if this host has no such hierarchy.
    pub fn take(
        hierarchy: &Hierarchy,
        path: &str,
        resources: &Resources,
        planned: &mut Planned,
        warnings: &mut Vec<Diagnostic>,
    ) -> Result<Option<Limits>> {
        let settings = take(hierarchy, resources, planned, warnings)?;
        let mut controllers: Vec<String> = settings.iter().map(|setting| setting.controller.to_owned()).collect();
        if hierarchy.unified().is_none() {
            controllers.push("freezer".into());
        }
        controllers.sort();
        controllers.dedup();
        controllers.retain(|name| hierarchy.v1_of(name).is_some());
        // A host that mounts cgroup2 here has no hierarchy of version 1, so mountinfo need not be read.
        if controllers.is_empty() && hierarchy.unified() == Some("/sys/fs/cgroup") {
            return Ok(None);
        }
        let path = path.trim_matches('/').to_owned();
        let mut needed: Vec<String> =
            controllers.iter().filter_map(|name| hierarchy.v1_of(name)).map(|v1| full_path(v1, &path)).collect();
        needed.dedup();
        let all = hierarchy.v1().iter().map(|v1| full_path(v1, &path));
        let paths: Vec<String> = all.filter(|path| needed.contains(path) || !exists(path)).collect();
        Ok(Some(Limits { settings, controllers, needed, paths, path }).filter(|limits| !limits.paths.is_empty()))
    }

    /// The paths of the container's cgroups: those that it needs now, and those that an update may make later.
    pub fn paths(&self) -> &[String] {
        &self.paths
    }

    /// Refuses cgroups that have processes, which are not the container's, and frozen ones.
    pub fn refuse_in_use(&self) -> Result<()> {
        super::refuse_in_use(&self.needed)
    }

    /// Refuses an update that needs a cgroup outside of `own`.
    pub fn refuse_others(&self, own: &[String]) -> Result<()> {
        let Some(other) = self.needed.iter().find(|path| !own.contains(path)) else { return Ok(()) };
        let pointer = self.settings.first().map_or("/linux/cgroupsPath", |setting| &setting.pointer);
        let msg = format!("cannot update: the container has no cgroup of its own at {other:?}");
        Err(Error::new(Kind::Unsupported, msg).with_origin(Origin::config(pointer.to_owned())))
    }

    /// Makes the cgroups that are needed now and applies the limits. If that fails, what was made is removed again.
    pub fn make(&self) -> Result<Cgroups> {
        if self.controllers.is_empty() {
            return Cgroups::open(&[]);
        }
        let made: Vec<&String> = self.needed.iter().filter(|path| !exists(path)).collect();
        let cgroup =
            FsCgroup::load_with_specified_controllers(Box::new(Mounted::new()), &self.path, self.controllers.clone());
        let result = apply(&cgroup, &self.settings).and_then(|()| Cgroups::open(&self.needed));
        if result.is_err() {
            // Best effort: the first error is the one to report.
            made.iter().for_each(|path| drop(remove(path, Kill::No)));
        }
        result
    }
}

fn full_path(v1: &HierarchyV1, path: &str) -> String {
    format!("{}/{path}", v1.mount)
}

fn exists(path: &str) -> bool {
    std::path::Path::new(path).exists()
}

fn apply(cgroup: &FsCgroup, settings: &[Setting]) -> Result<()> {
    cgroup.create().map_err(|error| explain(error, "make the cgroups", "/linux/cgroupsPath"))?;
    settings.iter().try_for_each(|setting| {
        let what = format!("apply {}", setting.pointer.trim_start_matches("/linux/resources/").replace('/', "."));
        (setting.write)(cgroup).map_err(|error| explain(error, &what, &setting.pointer))
    })
}

/// One setting and how it is written.
struct Setting {
    controller: &'static str,
    pointer: String,
    write: Box<Apply>,
}

type Apply = dyn Fn(&FsCgroup) -> std::result::Result<(), Refused>;

/// The reason why a setting could not be written.
enum Refused {
    Library(FsError),
    Failed(SyscallError),
}

impl From<FsError> for Refused {
    fn from(error: FsError) -> Refused {
        Refused::Library(error)
    }
}

impl From<SyscallError> for Refused {
    fn from(failed: SyscallError) -> Refused {
        Refused::Failed(failed)
    }
}

fn take(
    hierarchy: &Hierarchy,
    resources: &Resources,
    planned: &mut Planned,
    warnings: &mut Vec<Diagnostic>,
) -> Result<Vec<Setting>> {
    let unified = planned.writes.iter().find(|write| {
        write.pointer.starts_with("/linux/resources/unified/") && hierarchy.v1_of(&write.controller).is_some()
    });
    if let Some(write) = unified {
        return Err(Error::new(
            Kind::Unsupported,
            format!(
                "unified resource {:?} can't be set: controller {:?} is mounted as cgroup v1",
                write.file, write.controller
            ),
        )
        .with_origin(Origin::config(write.pointer.clone())));
    }
    let pids = planned.writes.iter().find(|write| write.file == "pids.max").map(|write| write.value.clone());
    planned.writes.retain(|write| hierarchy.v1_of(&write.controller).is_none());
    let mut settings = Settings(Vec::new());
    settings.all(resources, pids);
    settings.0.retain(|setting| hierarchy.v1_of(setting.controller).is_some());
    warnings.retain(|warning| !settings.0.iter().any(|setting| setting.pointer == warning.pointer));
    Ok(settings.0)
}

struct Settings(Vec<Setting>);

impl Settings {
    /// Adds a setting. `write` receives the controller of cgroups-rs.
    fn add<C, E>(
        &mut self,
        controller: &'static str,
        pointer: &str,
        write: impl Fn(&C) -> std::result::Result<(), E> + 'static,
    ) where
        C: Controller + ControllIdentifier + 'static,
        for<'a> &'a C: From<&'a Subsystem>,
        E: Into<Refused> + 'static,
    {
        let write = move |cgroup: &FsCgroup| match cgroup.controller_of::<C>() {
            Some(controller) => write(controller).map_err(E::into),
            // The hierarchy was unmounted meanwhile: every setting in the list is of a mounted controller.
            None => Err(SyscallError { call: format!("find {controller}").into(), errno: Errno::ENODEV }.into()),
        };
        let pointer = format!("/linux/resources/{pointer}");
        self.0.push(Setting { controller, pointer, write: Box::new(write) });
    }

    fn all(&mut self, resources: &Resources, pids: Option<String>) {
        resources.memory.iter().for_each(|memory| self.memory(memory));
        resources.cpu.iter().for_each(|cpu| self.cpu(cpu));
        resources.block_io.iter().for_each(|io| self.block_io(io));
        if let Some(limit) = pids {
            self.add("pids", "pids/limit", move |pids: &PidController| {
                pids.set_pid_max(limit.parse().map_or(MaxValue::Max, MaxValue::Value))
            });
        }
        for (index, limit) in resources.hugepage_limits.iter().enumerate() {
            let (size, limit) = (limit.page_size.clone(), limit.limit);
            self.add("hugetlb", &format!("hugepageLimits/{index}/limit"), move |pages: &HugeTlbController| {
                pages.set_limit_in_bytes(&size, limit).map_err(Refused::from)?;
                direct(
                    pages.path(),
                    &format!("hugetlb.{size}.rsvd.limit_in_bytes"),
                    &limit.to_string(),
                    Missing::Ignored,
                )
            });
        }
        // The text of rdma.max is the same in both versions.
        let rdma = Resources { rdma: resources.rdma.clone(), ..Resources::default() };
        for write in plan(&rdma, None, &mut Vec::new(), &mut Vec::new()).writes {
            let pointer = write.pointer.trim_start_matches("/linux/resources/");
            self.add("rdma", pointer, move |rdma: &RdmaController| rdma.set_max(&write.value));
        }
        let Some(network) = &resources.network else { return };
        if let Some(id) = network.class_id.filter(|id| *id != 0) {
            self.add("net_cls", "network/classID", move |net: &NetClsController| net.set_class(id.into()));
        }
        let priorities = network.priorities.clone();
        if !priorities.is_empty() {
            self.add("net_prio", "network/priorities", move |net: &NetPrioController| {
                priorities.iter().try_for_each(|one| net.set_if_prio(&one.name, one.priority.into()))
            });
        }
    }

    fn memory(&mut self, memory: &Memory) {
        let of = |value: Option<i64>| value.filter(|value| *value != 0);
        let (limit, both) = (of(memory.limit), of(memory.swap));
        // As for version 2, unlimited memory means unlimited swap.
        let both = if limit == Some(-1) { both.or(Some(-1)) } else { both };
        if let Some(limit) = limit {
            self.add("memory", "memory/limit", move |memory: &MemController| match (memory.set_limit(limit), both) {
                // The kernel refuses a memory limit above the limit of the sum. A greater limit is written after the
                // new sum.
                (Err(_), Some(both)) => memory.set_memswap_limit(both).and_then(|()| memory.set_limit(limit)),
                (result, _) => result,
            });
        }
        if let Some(both) = both {
            let pointer = if memory.swap.unwrap_or(0) == 0 { "memory/limit" } else { "memory/swap" };
            self.add("memory", pointer, move |memory: &MemController| match memory.set_memswap_limit(both) {
                // Without swap accounting there is no file, and so no limit.
                Err(_) if both == -1 => Ok(()),
                result => result,
            });
        }
        if let Some(soft) = of(memory.reservation) {
            self.add("memory", "memory/reservation", move |memory: &MemController| memory.set_soft_limit(soft));
        }
        if let Some(swappiness) = memory.swappiness {
            self.add("memory", "memory/swappiness", move |memory: &MemController| memory.set_swappiness(swappiness));
        }
        if memory.disable_oom_killer == Some(true) {
            self.add("memory", "memory/disableOOMKiller", |memory: &MemController| memory.disable_oom_killer());
        }
    }

    fn cpu(&mut self, cpu: &Cpu) {
        if let Some(idle) = cpu.idle {
            self.add("cpu", "cpu/idle", move |cpu: &CpuController| {
                let missing = if idle == 0 { Missing::Ignored } else { Missing::Fails };
                direct(cpu.path(), "cpu.idle", &idle.to_string(), missing)
            });
        }
        if let Some(shares) = cpu.shares.filter(|shares| *shares != 0 && cpu.idle != Some(1)) {
            self.add("cpu", "cpu/shares", move |cpu: &CpuController| cpu.set_shares(shares));
        }
        if let Some(period) = cpu.period.filter(|period| *period != 0) {
            self.add("cpu", "cpu/period", move |cpu: &CpuController| cpu.set_cfs_period(period));
        }
        if let Some(quota) = cpu.quota.filter(|quota| *quota != 0) {
            self.add("cpu", "cpu/quota", move |cpu: &CpuController| cpu.set_cfs_quota(quota));
        }
        if let Some(burst) = cpu.burst {
            self.add("cpu", "cpu/burst", move |cpu: &CpuController| {
                let missing = if burst == 0 { Missing::Ignored } else { Missing::Fails };
                direct(cpu.path(), "cpu.cfs_burst_us", &burst.to_string(), missing)
            });
        }
        if let Some(period) = cpu.realtime_period.filter(|period| *period != 0) {
            self.add("cpu", "cpu/realtimePeriod", move |cpu: &CpuController| cpu.set_rt_period_us(period));
        }
        if let Some(runtime) = cpu.realtime_runtime.filter(|runtime| *runtime != 0) {
            self.add("cpu", "cpu/realtimeRuntime", move |cpu: &CpuController| cpu.set_rt_runtime(runtime));
        }
        let (cpus, mems) = (cpu.cpus.clone(), cpu.mems.clone());
        if !cpus.is_empty() {
            self.add("cpuset", "cpu/cpus", move |set: &CpuSetController| set.set_cpus(&cpus));
        }
        if !mems.is_empty() {
            self.add("cpuset", "cpu/mems", move |set: &CpuSetController| set.set_mems(&mems));
        }
    }

    fn block_io(&mut self, io: &BlockIo) {
        let asked = |weight: Option<u16>| weight.filter(|weight| *weight != 0).map(u64::from);
        if let Some(weight) = asked(io.weight) {
            self.add("blkio", "blockIO/weight", move |io: &BlkIoController| io.set_weight(weight));
        }
        if let Some(weight) = asked(io.leaf_weight) {
            self.add("blkio", "blockIO/leafWeight", move |io: &BlkIoController| io.set_leaf_weight(weight));
        }
        for (index, device) in io.weight_device.iter().enumerate() {
            let (major, minor) = (device.major as u64, device.minor as u64);
            let pointer = |name: &str| format!("blockIO/weightDevice/{index}/{name}");
            if let Some(weight) = asked(device.weight) {
                self.add("blkio", &pointer("weight"), move |io: &BlkIoController| {
                    io.set_weight_for_device(major, minor, weight)
                });
            }
            if let Some(weight) = asked(device.leaf_weight) {
                self.add("blkio", &pointer("leafWeight"), move |io: &BlkIoController| {
                    io.set_leaf_weight_for_device(major, minor, weight)
                });
            }
        }
        type Throttle = fn(&BlkIoController, u64, u64, u64) -> FsResult<()>;
        let throttles: [(&str, _, Throttle); 4] = [
            ("ReadBps", &io.throttle_read_bps_device, BlkIoController::throttle_read_bps_for_device),
            ("WriteBps", &io.throttle_write_bps_device, BlkIoController::throttle_write_bps_for_device),
            ("ReadIOPS", &io.throttle_read_iops_device, BlkIoController::throttle_read_iops_for_device),
            ("WriteIOPS", &io.throttle_write_iops_device, BlkIoController::throttle_write_iops_for_device),
        ];
        for (name, devices, throttle) in throttles {
            for (index, device) in devices.iter().enumerate() {
                let (major, minor, rate) = (device.major as u64, device.minor as u64, device.rate);
                let pointer = format!("blockIO/throttle{name}Device/{index}/rate");
                self.add("blkio", &pointer, move |io: &BlkIoController| throttle(io, major, minor, rate));
            }
        }
    }
}

/// The consequence if the file does not exist.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    Fails,
    Ignored,
}

/// Writes a file for which cgroups-rs has no setter.
fn direct(directory: &std::path::Path, file: &str, value: &str, missing: Missing) -> std::result::Result<(), Refused> {
    match Directory::open(&directory.to_string_lossy())?.write(file, value) {
        Err(SyscallError { errno: Errno::ENOENT, .. }) if missing == Missing::Ignored => Ok(()),
        result => Ok(result?),
    }
}

fn explain(refused: impl Into<Refused>, what: &str, pointer: &str) -> Error {
    let what = format!("cannot {what} in cgroup v1");
    let error = match refused.into() {
        Refused::Failed(failed) => failed.context(what),
        Refused::Library(error) => {
            let cause = std::error::Error::source(&error).and_then(|cause| cause.downcast_ref::<std::io::Error>());
            match cause.and_then(std::io::Error::raw_os_error) {
                Some(raw) => {
                    SyscallError { call: error.kind().to_string().into(), errno: Errno::from_raw(raw) }.context(what)
                }
                None => Error::new(Kind::Kernel, format!("{what}: {error}")),
            }
        }
    };
    error.with_origin(Origin::config(pointer.to_owned()))
}
