//! What `Stats` answers: the numbers of a container's cgroup, in the message of the version of
//! cgroups that the host has (containerd/cgroups: `cgroup2/stats/metrics.proto`,
//! `cgroup1/stats/metrics.proto`).
//!
//! The numbers are read from their files and written as fields at once. A file that is not
//! there, because its controller is not enabled, leaves its numbers out.

mod v1;
mod v2;

use std::path::Path;

use super::message::Any;
use super::wire::{put_bytes, put_fixed64, put_number};

/// The magic number of cgroup2 (linux/magic.h).
const CGROUP2: i64 = 0x6367_7270;

/// How containerd shows "no limit".
const UNLIMITED: u64 = u64::MAX;

/// The numbers of the container whose init is `pid` and whose cgroup is `cgroup`.
pub fn read(cgroup: &Path, pid: i32) -> Any {
    use crate::sys::fd;
    use nix::fcntl::OFlag;
    use std::os::fd::AsFd;
    // As containerd decides it: by what is mounted at the usual place.
    let root = fd::open("/sys/fs/cgroup", OFlag::O_PATH | OFlag::O_DIRECTORY);
    if root.and_then(|root| fd::filesystem(root.as_fd())).is_ok_and(|magic| magic == CGROUP2) {
        Any { type_url: "io.containerd.cgroups.v2.Metrics".into(), value: v2::metrics(cgroup) }
    } else {
        Any { type_url: "io.containerd.cgroups.v1.Metrics".into(), value: v1::metrics(&v1::Places::of(pid)) }
    }
}

fn text(directory: &Path, name: &str) -> Option<String> {
    std::fs::read_to_string(directory.join(name)).ok()
}

fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    if text == "max" { Some(UNLIMITED) } else { text.parse().ok() }
}

/// Appends the number in a file of one.
fn put_file(out: &mut Vec<u8>, field: u32, directory: &Path, name: &str) {
    if let Some(value) = text(directory, name).as_deref().and_then(number) {
        put(out, field, value);
    }
}

/// Appends a number that is not zero.
fn put(out: &mut Vec<u8>, field: u32, value: u64) {
    if value != 0 {
        put_number(out, field, value);
    }
}

/// Appends the numbers of lines `name value`, by the names that the table has. The field of the
/// first is `first`; an empty name leaves a field out.
fn put_flat(out: &mut Vec<u8>, first: u32, names: &[&str], text: &str, scale: u64) {
    for (field, name) in (first..).zip(names) {
        let line = text.lines().filter_map(|line| line.split_once(' ')).find(|(key, _)| key == name);
        if let Some(value) = line.and_then(|(_, value)| number(value)) {
            put(out, field, value.saturating_mul(scale));
        }
    }
}

/// Appends a fraction that is not zero.
fn put_double(out: &mut Vec<u8>, field: u32, value: f64) {
    if value != 0.0 {
        put_fixed64(out, field, value.to_bits());
    }
}

/// The sizes of huge pages that a directory has files for: `hugetlb.2MB.SUFFIX`.
fn hugepages(directory: &Path, suffix: &str) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut sizes: Vec<String> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            Some(name.strip_prefix("hugetlb.")?.strip_suffix(suffix)?.to_owned())
        })
        .collect();
    sizes.sort();
    sizes
}
