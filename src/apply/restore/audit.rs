//! What the restored processes are, read from the kernel before they run: the images are compared with the
//! configuration by our own reading of them, and this does not depend on it.
//!
//! At the last notification every task has its final ids, capabilities and filters, and is stopped by CRIU. From there
//! on the container's cgroup is frozen, so that CRIU lets go of tasks that do not run.

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use windlass_base::error::{Diagnostic, Error, Kind, Result};
use windlass_cgroup::{Cgroup, Hierarchy};
use windlass_plan::Plan;

use super::descendants::{has_ended, with_descendants};
use crate::tasks::Tasks;

/// Moves CRIU out of the container's cgroup, which it shares until its end, and freezes the cgroup. Does not wait: the
/// tasks are stopped. Init and all that descend from it must be in it: CRIU puts them into other cgroups if it manages
/// them. Those that are not are killed, because they would run.
pub fn hold(cgroup: &Cgroup, criu: i32, init: i32) -> Result<()> {
    let members = cgroup.pids(true)?;
    let outside = |pid: &i32| !members.contains(pid) && !has_ended(*pid);
    let outside: Vec<i32> = with_descendants(init)?.into_iter().filter(outside).collect();
    if let Some(first) = outside.first() {
        let msg = format!("process {first} of the images is outside the container's cgroup");
        for pid in outside {
            let _ = nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        return Err(refused(vec![Diagnostic { pointer: "/linux/cgroupsPath".into(), msg }]));
    }
    let own = Cgroup::of_process(&Hierarchy::find()?, std::process::id() as i32)?;
    let own = own.ok_or_else(|| Error::new(Kind::Kernel, "the runtime has no cgroup for CRIU"))?;
    own.join(criu)?;
    cgroup.begin_freeze()
}

/// Compares the tasks of a frozen cgroup with the configuration. `label` is `--lsm-profile`.
pub fn audit(cgroup: &Cgroup, plan: &Plan, label: &str) -> Result<()> {
    let mut tasks = Tasks::new(plan, label)?;
    cgroup.pids(true)?.into_iter().try_for_each(|pid| tasks.look(pid))?;
    let faults = tasks.contradictions();
    match faults.is_empty() {
        true => Ok(()),
        false => Err(refused(faults)),
    }
}

/// The error for what contradicts the configuration.
pub fn refused(faults: Vec<Diagnostic>) -> Error {
    Error::faults(faults).prefixed("the restored processes contradict config.json")
}
