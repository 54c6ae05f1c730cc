//! What the restored processes are, read from the kernel before they run: the images are compared with the
//! configuration by our own reading of them, and this does not depend on it.
//!
//! At the last notification every task has its final ids, capabilities and filters, and is stopped by CRIU. From there
//! on the container's cgroup is frozen, so that CRIU lets go of tasks that do not run.

use std::rc::Rc;

use nix::fcntl::OFlag;

use windlass_base::capability::CapabilitySet;
use windlass_base::error::{Diagnostic, Error, Kind, Result, WithContext};
use windlass_base::namespaces::Namespaces;
use windlass_base::spec::IdMapping;
use windlass_cgroup::{Cgroup, Hierarchy};
use windlass_plan::Plan;
use windlass_plan::limit_audit;
use windlass_plan::restore::{Claims, Thread, one_of_each, task_contradictions};
use windlass_sys::{directory, fd, sched};

/// Moves CRIU out of the container's cgroup, which it shares until its end, and freezes the cgroup. Does not wait: the
/// tasks are stopped.
pub fn hold(cgroup: &Cgroup, criu: i32) -> Result<()> {
    let own = Cgroup::of_process(&Hierarchy::find()?, std::process::id() as i32)?;
    let own = own.ok_or_else(|| Error::new(Kind::Kernel, "the runtime has no cgroup for CRIU"))?;
    own.join(criu)?;
    cgroup.begin_freeze()
}

/// Compares the tasks of a frozen cgroup with the configuration.
pub fn audit(cgroup: &Cgroup, plan: &Plan) -> Result<()> {
    let (mut claims, mut raised) = (Claims::default(), Vec::new());
    for pid in cgroup.pids(true)? {
        claims.processes += 1;
        claims.namespaces.push(namespaces(pid)?);
        let oom = [oom_score_adj(&pid.to_string())?, oom_score_adj("self")?];
        raised.extend(limit_audit::raised(plan, oom, &|number| sched::hard_limit_of(pid, number).ok()));
        let tasks = fd::open(format!("/proc/{pid}/task"), OFlag::O_RDONLY | OFlag::O_DIRECTORY);
        let tasks = tasks.and_then(|dir| directory::names(std::os::fd::AsFd::as_fd(&dir)));
        for tid in tasks.with_context(|| "cannot look at the restored processes")? {
            let status = fd::read_small(fd::CWD, format!("/proc/{pid}/task/{}/status", tid.display()));
            let status = status.with_context(|| "cannot look at the restored processes")?;
            claims.threads.push(thread(&String::from_utf8_lossy(&status), plan)?);
        }
    }
    let mut faults = task_contradictions(plan, &claims);
    faults.extend(one_of_each(raised));
    match faults.is_empty() {
        true => Ok(()),
        false => Err(refused(faults)),
    }
}

/// The error for what contradicts the configuration.
pub fn refused(faults: Vec<Diagnostic>) -> Error {
    Error::faults(faults).before("the restored processes contradict config.json")
}

fn oom_score_adj(process: &str) -> Result<i64> {
    let text = fd::read_small(fd::CWD, format!("/proc/{process}/oom_score_adj"));
    let text = text.with_context(|| "cannot look at the restored processes")?;
    let number = std::str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok());
    number.ok_or_else(|| Error::new(Kind::Kernel, "oom_score_adj of a restored process is no number"))
}

/// The kinds of namespaces that a process does not share with the runtime.
fn namespaces(pid: i32) -> Result<Namespaces> {
    let mut kinds = Namespaces::empty();
    for (name, kind) in [
        ("pid", Namespaces::PID),
        ("net", Namespaces::NET),
        ("ipc", Namespaces::IPC),
        ("uts", Namespaces::UTS),
        ("mnt", Namespaces::MOUNT),
        ("user", Namespaces::USER),
        ("cgroup", Namespaces::CGROUP),
    ] {
        let link = |of: &str| std::fs::read_link(format!("/proc/{of}/ns/{name}"));
        let theirs = link(&pid.to_string()).with_context(|| "cannot look at the restored processes")?;
        if link("self").is_ok_and(|own| own != theirs) {
            kinds |= kind;
        }
    }
    Ok(kinds)
}

/// A task by its `/proc/PID/task/TID/status` (proc_pid_status(5)).
fn thread(status: &str, plan: &Plan) -> Result<Thread> {
    let damaged = || Error::new(Kind::Kernel, "the status of a restored process has not what it must have");
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim).ok_or_else(damaged);
    let ids = |name: &str, maps: &[IdMapping]| -> Result<[u32; 4]> {
        let words: Vec<u32> = field(name)?.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let words: [u32; 4] = words.try_into().map_err(|_| damaged())?;
        Ok(words.map(|id| inside(id, maps, plan.topology.user_namespace())))
    };
    let mut capabilities = 0;
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        capabilities |= u64::from_str_radix(field(set)?, 16).map_err(|_| damaged())?;
    }
    Ok(Thread {
        tid: field("Pid:")?.parse().map_err(|_| damaged())?,
        uids: ids("Uid:", &plan.topology.uid_mappings)?,
        gids: ids("Gid:", &plan.topology.gid_mappings)?,
        capabilities: CapabilitySet::from_bits_retain(capabilities),
        no_new_privileges: field("NoNewPrivs:")? == "1",
        filtered: field("Seccomp:")? == "2",
        filters: Rc::default(),
    })
}

/// The id in the container for one of the host; `u32::MAX` if it is not mapped.
fn inside(id: u32, maps: &[IdMapping], mapped: bool) -> u32 {
    if !mapped {
        return id;
    }
    let mapping = maps.iter().find(|mapping| id >= mapping.host_id && id - mapping.host_id < mapping.size);
    mapping.map_or(u32::MAX, |mapping| mapping.container_id + (id - mapping.host_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_that_of_the_container_or_none() {
        let maps = [IdMapping { container_id: 5, host_id: 100_000, size: 10 }];
        assert_eq!([100_000, 100_009, 100_010, 0].map(|id| inside(id, &maps, true)), [5, 14, u32::MAX, u32::MAX]);
        assert_eq!(inside(7, &maps, false), 7);
    }
}
