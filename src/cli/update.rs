//! `update`: the limits of its flags and of its JSON document, merged.

use std::ffi::OsStr;

use super::source::Source;
use windlass_args::{Matches, values};
use windlass_base::error::{Diagnostic, Error, Result};
use windlass_base::spec::{BlockIo, Cpu, Memory, Pids, Resources};

/// Options of `update`; `None` for a flag that was not given.
#[derive(Clone, Debug, Default)]
pub struct Update {
    pub id: String,
    /// A document like `linux.resources`.
    pub resources: Option<Source>,
    /// Bytes; -1: no limit.
    pub memory: Option<i64>,
    /// Bytes; -1: no limit.
    pub memory_reservation: Option<i64>,
    /// Bytes; -1: no limit.
    pub memory_swap: Option<i64>,
    /// Microseconds; -1: no limit.
    pub cpu_quota: Option<i64>,
    /// Microseconds.
    pub cpu_period: Option<u64>,
    /// Microseconds.
    pub cpu_burst: Option<u64>,
    /// Relative weight.
    pub cpu_share: Option<u64>,
    /// 1: SCHED_IDLE.
    pub cpu_idle: Option<i64>,
    /// Microseconds.
    pub cpu_rt_period: Option<u64>,
    /// Microseconds.
    pub cpu_rt_runtime: Option<i64>,
    /// CPU list.
    pub cpuset_cpus: Option<String>,
    /// Memory node list.
    pub cpuset_mems: Option<String>,
    /// Number of tasks; -1: no limit.
    pub pids_limit: Option<i64>,
    /// Relative weight.
    pub blkio_weight: Option<u16>,
    /// Obsolete; a warning at most.
    pub kernel_memory: Option<i64>,
    /// Obsolete; a warning at most.
    pub kernel_memory_tcp: Option<i64>,
    /// L3 lines of the schemata file.
    pub l3_cache_schema: Option<String>,
    /// MB lines of the schemata file.
    pub mem_bw_schema: Option<String>,
}

impl Update {
    pub(super) fn read(id: String, matches: &Matches) -> Result<Update> {
        let bytes = |flag| matches.parsed(flag, values::bytes);
        Ok(Update {
            id,
            resources: matches
                .path("resources")
                .map(|path| if path.as_os_str() == OsStr::new("-") { Source::Stdin } else { Source::File(path) }),
            memory: bytes("memory")?,
            memory_reservation: bytes("memory-reservation")?,
            memory_swap: bytes("memory-swap")?,
            cpu_quota: matches.number("cpu-quota")?,
            cpu_period: matches.number("cpu-period")?,
            cpu_burst: matches.number("cpu-burst")?,
            cpu_share: matches.number("cpu-share")?,
            cpu_idle: matches.number("cpu-idle")?,
            cpu_rt_period: matches.number("cpu-rt-period")?,
            cpu_rt_runtime: matches.number("cpu-rt-runtime")?,
            cpuset_cpus: matches.text("cpuset-cpus")?,
            cpuset_mems: matches.text("cpuset-mems")?,
            pids_limit: matches.number("pids-limit")?,
            blkio_weight: matches.number("blkio-weight")?,
            kernel_memory: bytes("kernel-memory")?,
            kernel_memory_tcp: bytes("kernel-memory-tcp")?,
            l3_cache_schema: matches.text("l3-cache-schema")?,
            mem_bw_schema: matches.text("mem-bw-schema")?,
        })
    }

    /// The limits to set: the document's, overridden by the flags. A limit that is absent in the result is not changed.
    ///
    /// `document` is the text of [`Update::resources`]. Warnings about it are added to `warnings`.
    pub fn to_resources(&self, document: Option<&[u8]>, warnings: &mut Vec<Diagnostic>) -> Result<Resources> {
        let mut resources = Resources::default();
        if let Some(text) = document {
            let read = windlass_base::spec::read_resources(text, "resources")?;
            if !read.faults.is_empty() {
                return Err(Error::faults(read.faults));
            }
            warnings.extend(read.warnings);
            resources = read.value;
        }
        self.override_memory(&mut resources);
        self.override_cpu(&mut resources);
        if self.pids_limit.is_some() {
            resources.pids.get_or_insert_with(Pids::default).limit = self.pids_limit;
        }
        if self.blkio_weight.is_some() {
            resources.block_io.get_or_insert_with(BlockIo::default).weight = self.blkio_weight;
        }
        Ok(resources)
    }

    fn override_memory(&self, resources: &mut Resources) {
        let given =
            [self.memory, self.memory_reservation, self.memory_swap, self.kernel_memory, self.kernel_memory_tcp];
        if given.iter().all(Option::is_none) {
            return;
        }
        let memory = resources.memory.get_or_insert_with(Memory::default);
        memory.limit = self.memory.or(memory.limit);
        memory.reservation = self.memory_reservation.or(memory.reservation);
        memory.swap = self.memory_swap.or(memory.swap);
        memory.kernel = self.kernel_memory.or(memory.kernel);
        memory.kernel_tcp = self.kernel_memory_tcp.or(memory.kernel_tcp);
    }

    fn override_cpu(&self, resources: &mut Resources) {
        let before = resources.cpu.is_some();
        let mut cpu = resources.cpu.take().unwrap_or_default();
        cpu.shares = self.cpu_share.or(cpu.shares);
        cpu.quota = self.cpu_quota.or(cpu.quota);
        cpu.burst = self.cpu_burst.or(cpu.burst);
        cpu.period = self.cpu_period.or(cpu.period);
        cpu.idle = self.cpu_idle.or(cpu.idle);
        cpu.realtime_period = self.cpu_rt_period.or(cpu.realtime_period);
        cpu.realtime_runtime = self.cpu_rt_runtime.or(cpu.realtime_runtime);
        if let Some(cpus) = &self.cpuset_cpus {
            cpu.cpus.clone_from(cpus);
        }
        if let Some(mems) = &self.cpuset_mems {
            cpu.mems.clone_from(mems);
        }
        resources.cpu = (before || !is_empty(&cpu)).then_some(cpu);
    }
}

fn is_empty(cpu: &Cpu) -> bool {
    let Cpu { shares, quota, burst, period, realtime_runtime, realtime_period, cpus, mems, idle } = cpu;
    (shares, quota, burst, period) == (&None, &None, &None, &None)
        && (realtime_runtime, realtime_period, idle) == (&None, &None, &None)
        && cpus.is_empty()
        && mems.is_empty()
}
