//! Encodes the numbers in the files of a cgroup as fields of a message.

use std::os::fd::AsFd;
use std::path::Path;

use nix::fcntl::OFlag;

pub(super) use windlass_base::protobuf::put_bytes;
use windlass_base::protobuf::{put_fixed64, put_number};
use windlass_sys::{directory, fd};

/// How containerd shows "no limit".
const UNLIMITED: u64 = u64::MAX;

pub(super) fn text(directory: &Path, name: &str) -> Option<String> {
    std::fs::read_to_string(directory.join(name)).ok()
}

pub(super) fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    if text == "max" { Some(UNLIMITED) } else { text.parse().ok() }
}

/// Appends the number in a file with a single value.
pub(super) fn put_file(out: &mut Vec<u8>, field: u32, directory: &Path, name: &str) {
    if let Some(value) = text(directory, name).as_deref().and_then(number) {
        put(out, field, value);
    }
}

/// Appends a number unless it is zero.
pub(super) fn put(out: &mut Vec<u8>, field: u32, value: u64) {
    if value != 0 {
        put_number(out, field, value);
    }
}

/// Appends the values of lines `name value`. The fields have the numbers from `first` on, in the order of `names`; an
/// empty name skips a number.
pub(super) fn put_flat(out: &mut Vec<u8>, first: u32, names: &[&str], text: &str, scale: u64) {
    for (field, name) in (first..).zip(names) {
        let line = text.lines().filter_map(|line| line.split_once(' ')).find(|(key, _)| key == name);
        if let Some(value) = line.and_then(|(_, value)| number(value)) {
            put(out, field, value.saturating_mul(scale));
        }
    }
}

/// Appends a fraction unless it is zero.
pub(super) fn put_double(out: &mut Vec<u8>, field: u32, value: f64) {
    if value != 0.0 {
        put_fixed64(out, field, value.to_bits());
    }
}

/// The sizes of huge pages that a directory has files for: `hugetlb.2MB.SUFFIX`. The files of reservations,
/// `hugetlb.2MB.rsvd.SUFFIX`, are of the same size.
pub(super) fn hugepages(path: &Path, suffix: &str) -> Vec<String> {
    let opened = fd::open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY);
    // A directory that cannot be read has no sizes: the cgroup may have been removed.
    let names = opened.and_then(|opened| directory::names(opened.as_fd())).unwrap_or_default();
    let mut sizes: Vec<String> = names
        .iter()
        .filter_map(|name| {
            let size = name.to_str()?.strip_prefix("hugetlb.")?.strip_suffix(suffix)?;
            (!size.contains('.')).then(|| size.to_owned())
        })
        .collect();
    sizes.sort();
    sizes
}
