//! Reading cgroup files as the host sees them.

use super::container::Container;
use super::machine::text;
use super::stop::{Context, Verdict, fail};
use std::path::{Path, PathBuf};

/// The directory of a process's cgroup.
pub fn of_pid(pid: i32) -> Verdict<PathBuf> {
    let table = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).context("/proc/PID/cgroup")?;
    let path = table.lines().find_map(|line| line.strip_prefix("0::/"));
    match path {
        Some(path) => Ok(Path::new("/sys/fs/cgroup").join(path)),
        None => fail(format!("no cgroup2 line in {table:?}")),
    }
}

/// The directory of a running container's cgroup.
pub fn of(container: &Container) -> Verdict<PathBuf> {
    of_pid(container.pid()?)
}

/// Fails unless a cgroup file holds this text.
pub fn holds(dir: &Path, file: &str, expected: &str) -> Verdict {
    let found = text(dir.join(file));
    if found == expected { Ok(()) } else { fail(format!("{file} holds {found:?}, expected {expected:?}")) }
}

/// A `key value` line of a flat keyed file.
pub fn entry(dir: &Path, file: &str, key: &str) -> String {
    let content = text(dir.join(file));
    let value = content.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    value.unwrap_or_default().to_owned()
}
