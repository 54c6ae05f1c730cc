//! The restored processes as a tree: init and its descendants.

use windlass_base::error::{Result, WithContext};

const CONTEXT: &str = "cannot look at the restored processes";

/// A process and its descendants.
pub(crate) fn with_descendants(first: i32) -> Result<Vec<i32>> {
    let mut pids = vec![first];
    let mut at = 0;
    while let Some(pid) = pids.get(at) {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).with_context(|| CONTEXT)?;
        for task in tasks {
            let children = task.and_then(|task| std::fs::read_to_string(task.path().join("children")));
            pids.extend(
                children.with_context(|| CONTEXT)?.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok()),
            );
        }
        at += 1;
    }
    Ok(pids)
}

/// Whether a process is a zombie, which has no namespaces any more. If other threads of it live, it has not ended.
pub(crate) fn has_ended(pid: i32) -> bool {
    windlass_store::process_stat(pid).is_ok_and(|stat| stat.is_some_and(|stat| stat.has_ended()))
}
