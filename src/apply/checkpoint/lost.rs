//! What a dump loses without a word of CRIU.

use std::collections::BTreeMap;

use windlass_base::error::Diagnostic;
use windlass_sys::fd;

/// The processes of `pids` that are not below init: those that `exec` has made. CRIU leaves them out.
pub fn executed(init: i32, pids: &[i32]) -> Vec<Diagnostic> {
    let parents: BTreeMap<i32, i32> = pids.iter().filter_map(|pid| Some((*pid, parent(*pid)?))).collect();
    let is_below = |pid: i32| {
        let mut at = Some(pid);
        while let Some(pid) = at.filter(|pid| *pid != init) {
            at = parents.get(&pid).copied();
        }
        at == Some(init)
    };
    let outside = parents.keys().filter(|pid| !is_below(**pid));
    let text = |pid: &i32| {
        let name = fd::read_small(fd::CWD, format!("/proc/{pid}/comm")).unwrap_or_default();
        let msg = format!(
            "process {pid} ({}) is not in the images: exec has made it, and only what init has started is dumped",
            String::from_utf8_lossy(&name).trim_end()
        );
        Diagnostic { pointer: String::new(), msg }
    };
    outside.map(text).collect()
}

fn parent(pid: i32) -> Option<i32> {
    let text = fd::read_small(fd::CWD, format!("/proc/{pid}/status")).ok()?;
    let text = String::from_utf8_lossy(&text);
    text.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}
