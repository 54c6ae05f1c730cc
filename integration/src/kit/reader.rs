//! An independent reader of cgroup v2: the crate cgroups-rs, which shares no code with any runtime here.

use super::stop::Verdict;
use std::path::Path;

/// Reads back 100 MiB of memory, half a CPU of 100 ms and 50 pids.
#[cfg(feature = "reader")]
pub fn check(id: &str, dir: &Path) -> Verdict {
    use crate::ensure_eq;
    use cgroups_rs::fs::hierarchies;
    use cgroups_rs::fs::{Cgroup, cpu::CpuController, memory::MemController, pid::PidController};

    let relative = dir.strip_prefix("/sys/fs/cgroup").unwrap_or(dir);
    let cgroup = Cgroup::load(hierarchies::auto(), relative);
    let missing = |what: &str| super::Stop::Fail(format!("the reader finds no {what} controller for {id}"));
    let memory: &MemController = cgroup.controller_of().ok_or_else(|| missing("memory"))?;
    ensure_eq!(memory.memory_stat().limit_in_bytes, 104_857_600, "memory limit");
    let pids: &PidController = cgroup.controller_of().ok_or_else(|| missing("pids"))?;
    let limit = pids.get_pid_max()?;
    ensure_eq!(limit.to_string(), "50", "pids limit");
    let cpu: &CpuController = cgroup.controller_of().ok_or_else(|| missing("cpu"))?;
    ensure_eq!(cpu.shares()?, 100, "cpu weight");
    ensure_eq!(cpu.cfs_quota()?, 50_000, "cpu quota");
    ensure_eq!(cpu.cfs_period()?, 100_000, "cpu period");
    ensure_eq!(cgroup.procs().len(), 1, "processes");
    Ok(())
}

/// Without the feature nothing is read.
#[cfg(not(feature = "reader"))]
pub fn check(_id: &str, _dir: &Path) -> Verdict {
    super::stop::skip("built without the feature `reader`")
}
