//! Losses of a dump that are no error for CRIU.

use std::collections::BTreeMap;

use windlass_base::error::Diagnostic;
use windlass_sys::{fd, status};

/// The processes of `pids` that do not descend from init: `exec` has made them. CRIU leaves them out.
pub(crate) fn executed(init: i32, pids: &[i32]) -> Vec<i32> {
    let parents: BTreeMap<i32, i32> = pids.iter().filter_map(|pid| Some((*pid, status::of(*pid)?.ppid))).collect();
    let is_below = |pid: i32| {
        let mut at = Some(pid);
        while let Some(pid) = at.filter(|pid| *pid != init) {
            at = parents.get(&pid).copied();
        }
        at == Some(init)
    };
    parents.keys().copied().filter(|pid| !is_below(*pid)).collect()
}

/// The warning that such a process is lost.
pub(crate) fn remark(pid: i32) -> Diagnostic {
    let name = fd::read_small(fd::CWD, format!("/proc/{pid}/comm")).unwrap_or_default();
    let name = String::from_utf8_lossy(&name);
    let name = name.trim_end();
    let msg = format!(
        "process {pid} ({name}) is not in the images: exec has made it, and only what init has started is dumped"
    );
    Diagnostic { pointer: String::new(), msg }
}
