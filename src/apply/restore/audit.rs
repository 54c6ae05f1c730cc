//! Compares the restored processes with the configuration before they run. The kernel is asked, so the result does not
//! depend on how we read the images.
//!
//! At the last notification every task has its final ids, capabilities and filters, and is stopped by CRIU. From then
//! on the container's cgroup is frozen, so the tasks do not run when CRIU detaches from them. CRIU itself has left that
//! cgroup before.

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use windlass_base::error::{Diagnostic, Error, Kind, Result};
use windlass_cgroup::{Cgroup, Hierarchy, signal_each};
use windlass_criu::session::Work;
use windlass_plan::Plan;

use super::descendants::{has_ended, with_descendants};
use crate::tasks::Tasks;

/// Moves CRIU into the runtime's cgroup, once init exists: CRIU forks no other process of the container. The kernel
/// waits for a grace period of RCU, some milliseconds, so CRIU does not wait for it.
pub(crate) fn move_criu(criu: i32) -> Work {
    Box::new(move || {
        let own = Cgroup::of_process(&Hierarchy::find()?, std::process::id() as i32)?;
        let own = own.ok_or_else(|| Error::new(Kind::Kernel, "the runtime has no cgroup for CRIU"))?;
        match own.add_process(criu) {
            // What ended CRIU is the error.
            Err(error) if error.errno() == Some(Errno::ESRCH) => Ok(()),
            other => other,
        }
    })
}

/// Freezes the container's cgroup. Does not wait, since the tasks are stopped. Init and its descendants must be in the
/// cgroup: CRIU puts them into others if it manages cgroups. A process outside is killed, because it would run.
pub(crate) fn hold(cgroup: &Cgroup, init: i32) -> Result<()> {
    let members = cgroup.pids(true)?;
    let outside = |pid: &i32| !members.contains(pid) && !has_ended(*pid);
    let outside: Vec<i32> = with_descendants(init)?.into_iter().filter(outside).collect();
    if let Some(first) = outside.first() {
        let msg = format!("process {first} of the images is outside the container's cgroup");
        if signal_each(&outside, libc::SIGKILL, &|| with_descendants(init)).is_err() {
            // This takes no descriptor. CRIU holds the processes, so their numbers are theirs.
            for pid in &outside {
                let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
            }
        }
        return Err(refused(vec![Diagnostic { pointer: "/linux/cgroupsPath".into(), msg }]));
    }
    cgroup.begin_freeze()
}

/// Compares the tasks of a frozen cgroup with the configuration. `label` is `--lsm-profile`.
pub(crate) fn audit(cgroup: &Cgroup, plan: &Plan, label: &str) -> Result<()> {
    let mut tasks = Tasks::new(plan, label)?;
    cgroup.pids(true)?.into_iter().try_for_each(|pid| tasks.look(pid))?;
    let faults = tasks.contradictions();
    match faults.is_empty() {
        true => Ok(()),
        false => Err(refused(faults)),
    }
}

/// The error for restored processes that contradict the configuration.
pub(crate) fn refused(faults: Vec<Diagnostic>) -> Error {
    Error::faults(faults).prefixed("the restored processes contradict config.json")
}
