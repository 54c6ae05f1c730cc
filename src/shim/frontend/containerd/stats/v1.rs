//! Statistics of cgroup v1, which has a directory for each hierarchy.

use std::path::{Path, PathBuf};

use super::field::{hugepages, number, put, put_bytes, put_file, put_flat, text};
use windlass_cgroup::membership::Membership;

const MEMORY: &[&str] = &[
    "cache",
    "rss",
    "rss_huge",
    "mapped_file",
    "dirty",
    "writeback",
    "pgpgin",
    "pgpgout",
    "pgfault",
    "pgmajfault",
    "inactive_anon",
    "active_anon",
    "inactive_file",
    "active_file",
    "unevictable",
    "hierarchical_memory_limit",
    "hierarchical_memsw_limit",
    "total_cache",
    "total_rss",
    "total_rss_huge",
    "total_mapped_file",
    "total_dirty",
    "total_writeback",
    "total_pgpgin",
    "total_pgpgout",
    "total_pgfault",
    "total_pgmajfault",
    "total_inactive_anon",
    "total_active_anon",
    "total_inactive_file",
    "total_active_file",
    "total_unevictable",
];

/// The directory of a process in each hierarchy, by the controllers.
#[derive(Debug)]
pub(super) struct Places(Vec<(String, PathBuf)>);

impl Places {
    /// The directories of the process `pid`.
    pub(super) fn of(pid: i32) -> Places {
        // Without the file, for example of a process that has ended, there are no numbers.
        let membership = Membership::of(pid).unwrap_or_else(|_| Membership::parse(""));
        Places::below(Path::new("/sys/fs/cgroup"), &membership)
    }

    fn below(root: &Path, membership: &Membership) -> Places {
        Places(membership.v1(root).map(|(controllers, dir)| (controllers.to_owned(), dir)).collect())
    }

    fn get(&self, controller: &str) -> Option<&Path> {
        self.0.iter().find(|(names, _)| names.split(',').any(|name| name == controller)).map(|(_, path)| path.as_path())
    }
}

/// The numbers of `cpuacct.stat` are in hundredths of a second (`USER_HZ`, time(7)).
const TICK: u64 = 10_000_000;

/// `io.containerd.cgroups.v1.Metrics`.
pub(super) fn metrics(places: &Places) -> Vec<u8> {
    let mut out = Vec::new();
    if let Some(at) = places.get("hugetlb") {
        for size in hugepages(at, ".usage_in_bytes") {
            let mut pages = Vec::new();
            for (field, name) in [(1, "usage_in_bytes"), (2, "max_usage_in_bytes"), (3, "failcnt")] {
                put_file(&mut pages, field, at, &format!("hugetlb.{size}.{name}"));
            }
            put_bytes(&mut pages, 4, size.as_bytes());
            put_bytes(&mut out, 1, &pages);
        }
    }
    if let Some(at) = places.get("pids") {
        let mut pids = Vec::new();
        put_file(&mut pids, 1, at, "pids.current");
        // containerd leaves the field out if there is no limit.
        let limit = text(at, "pids.max").filter(|text| text.trim() != "max");
        put(&mut pids, 2, limit.as_deref().and_then(number).unwrap_or(0));
        put_bytes(&mut out, 2, &pids);
    }
    put_bytes(&mut out, 3, &cpu(places));
    if let Some(at) = places.get("memory") {
        put_bytes(&mut out, 4, &memory(at));
        if let Some(control) = text(at, "memory.oom_control") {
            let mut oom = Vec::new();
            put_flat(&mut oom, 1, &["oom_kill_disable", "under_oom", "oom_kill"], &control, 1);
            put_bytes(&mut out, 9, &oom);
        }
    }
    if let Some(at) = places.get("blkio") {
        let mut blkio = Vec::new();
        for (field, name) in [(1, "io_service_bytes"), (2, "io_serviced")] {
            let plain = text(at, &format!("blkio.{name}_recursive")).filter(|text| text.lines().count() > 1);
            // If the I/O scheduler does not count, the numbers of the throttling are used.
            let counted = plain.or_else(|| text(at, &format!("blkio.throttle.{name}_recursive")));
            entries(&mut blkio, field, &counted.unwrap_or_default());
        }
        put_bytes(&mut out, 5, &blkio);
    }
    out
}

fn cpu(places: &Places) -> Vec<u8> {
    let mut out = Vec::new();
    if let Some(at) = places.get("cpuacct") {
        let mut usage = Vec::new();
        put_file(&mut usage, 1, at, "cpuacct.usage");
        put_flat(&mut usage, 2, &["system", "user"], &text(at, "cpuacct.stat").unwrap_or_default(), TICK);
        let each: Vec<u64> = text(at, "cpuacct.usage_percpu")
            .unwrap_or_default()
            .split_ascii_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
        windlass_base::protobuf::Field::write(&each, 4, &mut usage);
        put_bytes(&mut out, 1, &usage);
    }
    if let Some(at) = places.get("cpu") {
        let mut throttling = Vec::new();
        let stat = text(at, "cpu.stat").unwrap_or_default();
        put_flat(&mut throttling, 1, &["nr_periods", "nr_throttled", "throttled_time"], &stat, 1);
        put_bytes(&mut out, 2, &throttling);
    }
    out
}

fn memory(at: &Path) -> Vec<u8> {
    let mut out = Vec::new();
    put_flat(&mut out, 1, MEMORY, &text(at, "memory.stat").unwrap_or_default(), 1);
    for (field, kind) in [(33, ""), (34, "memsw."), (35, "kmem."), (36, "kmem.tcp.")] {
        let (mut entry, mut counted) = (Vec::new(), false);
        for (field, name) in [(1, "limit_in_bytes"), (2, "usage_in_bytes"), (3, "max_usage_in_bytes"), (4, "failcnt")] {
            let value = text(at, &format!("memory.{kind}{name}"));
            counted |= value.is_some();
            put(&mut entry, field, value.as_deref().and_then(number).unwrap_or(0));
        }
        // The files of swap and kernel memory exist only if the kernel is configured for it.
        if counted {
            put_bytes(&mut out, field, &entry);
        }
    }
    out
}

/// Appends lines `8:0 Read 512`. The last line, `Total 512`, has no device and is skipped.
fn entries(out: &mut Vec<u8>, field: u32, text: &str) {
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(device), Some(operation), Some(value)) = (words.next(), words.next(), words.next()) else { continue };
        let Some((major, minor)) = device.split_once(':') else { continue };
        let mut entry = Vec::new();
        put_bytes(&mut entry, 1, operation.as_bytes());
        put(&mut entry, 3, number(major).unwrap_or(0));
        put(&mut entry, 4, number(minor).unwrap_or(0));
        put(&mut entry, 5, number(value).unwrap_or(0));
        put_bytes(out, field, &entry);
    }
}

#[cfg(test)]
mod tests {
    use containerd_shim_protos::cgroups::metrics::Metrics;
    use containerd_shim_protos::protobuf::Message;

    use super::*;

    #[test]
    fn the_files_of_the_controllers_are_the_message() {
        let root = std::env::temp_dir().join(format!("windlass-metrics1-{}", std::process::id()));
        for (name, text) in [
            ("cpu,cpuacct/c/cpuacct.usage", "1000\n"),
            ("cpu,cpuacct/c/cpuacct.stat", "user 2\nsystem 3\n"),
            ("cpu,cpuacct/c/cpuacct.usage_percpu", "600 400 \n"),
            ("cpu,cpuacct/c/cpu.stat", "nr_periods 1\nnr_throttled 2\nthrottled_time 3\n"),
            ("memory/c/memory.stat", "cache 1\ntotal_unevictable 32\n"),
            ("memory/c/memory.usage_in_bytes", "5\n"),
            ("memory/c/memory.limit_in_bytes", "9\n"),
            ("memory/c/memory.memsw.failcnt", "4\n"),
            ("memory/c/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 7\n"),
            ("pids/c/pids.current", "3\n"),
            ("pids/c/pids.max", "max\n"),
            ("blkio/c/blkio.throttle.io_service_bytes_recursive", "8:0 Read 512\n8:0 Total 512\nTotal 512\n"),
            ("hugetlb/c/hugetlb.2MB.usage_in_bytes", "2\n"),
        ] {
            std::fs::create_dir_all(root.join(name).parent().expect("below")).expect("made");
            std::fs::write(root.join(name), text).expect("written");
        }
        let lines = "5:cpu,cpuacct:/c\n4:memory:/c\n3:pids:/c\n2:blkio:/c\n1:hugetlb:/c\n0::/c\n";
        let bytes = metrics(&Places::below(&root, &Membership::parse(lines)));
        let read = Metrics::parse_from_bytes(&bytes).expect("the oracle reads it");
        let usage = read.cpu().usage();
        assert_eq!((usage.total(), usage.kernel(), usage.user()), (1000, 30_000_000, 20_000_000));
        assert_eq!(usage.per_cpu(), [600, 400]);
        assert_eq!(read.cpu().throttling().throttled_time(), 3);
        let memory = read.memory();
        assert_eq!((memory.cache(), memory.total_unevictable()), (1, 32));
        assert_eq!((memory.usage().usage(), memory.usage().limit(), memory.swap().failcnt()), (5, 9, 4));
        assert_eq!(read.memory_oom_control().oom_kill(), 7);
        assert_eq!((read.pids().current(), read.pids().limit()), (3, 0));
        let block = read.blkio().io_service_bytes_recursive();
        assert_eq!((block.len(), block[0].op(), block[0].major(), block[0].value()), (2, "Read", 8, 512));
        assert_eq!((read.hugetlb()[0].usage(), read.hugetlb()[0].pagesize()), (2, "2MB"));
        std::fs::remove_dir_all(root).expect("removed");
    }
}
