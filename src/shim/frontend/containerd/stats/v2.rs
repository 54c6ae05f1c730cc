//! Version 2: one directory.

use std::path::Path;

use super::{hugepages, number, put, put_bytes, put_file, put_flat, put_message, text};

const CPU: &[&str] = &["usage_usec", "user_usec", "system_usec", "nr_periods", "nr_throttled", "throttled_usec"];

const MEMORY: &[&str] = &[
    "anon",
    "file",
    "kernel_stack",
    "slab",
    "sock",
    "shmem",
    "file_mapped",
    "file_dirty",
    "file_writeback",
    "anon_thp",
    "inactive_anon",
    "active_anon",
    "inactive_file",
    "active_file",
    "unevictable",
    "slab_reclaimable",
    "slab_unreclaimable",
    "pgfault",
    "pgmajfault",
    "workingset_refault",
    "workingset_activate",
    "workingset_nodereclaim",
    "pgrefill",
    "pgscan",
    "pgsteal",
    "pgactivate",
    "pgdeactivate",
    "pglazyfree",
    "pglazyfreed",
    "thp_fault_alloc",
    "thp_collapse_alloc",
];

const MEMORY_FILES: &[&str] =
    &["memory.current", "memory.max", "memory.swap.current", "memory.swap.max", "memory.peak", "memory.swap.peak"];

const EVENTS: &[&str] = &["low", "high", "max", "oom", "oom_kill"];

const IO: &[&str] = &["rbytes", "wbytes", "rios", "wios"];

/// `io.containerd.cgroups.v2.Metrics`.
pub fn metrics(at: &Path) -> Vec<u8> {
    let mut out = Vec::new();
    let mut pids = Vec::new();
    put_file(&mut pids, 1, at, "pids.current");
    put_file(&mut pids, 2, at, "pids.max");
    put_message(&mut out, 1, &pids);
    let mut cpu = Vec::new();
    put_flat(&mut cpu, 1, CPU, &text(at, "cpu.stat").unwrap_or_default(), 1);
    put_message(&mut out, 2, &cpu);
    let mut memory = Vec::new();
    put_flat(&mut memory, 1, MEMORY, &text(at, "memory.stat").unwrap_or_default(), 1);
    for (field, name) in (32..).zip(MEMORY_FILES) {
        put_file(&mut memory, field, at, name);
    }
    put_message(&mut out, 4, &memory);
    put_message(&mut out, 5, &rdma(at));
    put_message(&mut out, 6, &io(&text(at, "io.stat").unwrap_or_default()));
    for size in hugepages(at, ".current") {
        let mut pages = Vec::new();
        put_file(&mut pages, 1, at, &format!("hugetlb.{size}.current"));
        put_file(&mut pages, 2, at, &format!("hugetlb.{size}.max"));
        put_bytes(&mut pages, 3, size.as_bytes());
        put_bytes(&mut out, 7, &pages);
    }
    let mut events = Vec::new();
    put_flat(&mut events, 1, EVENTS, &text(at, "memory.events").unwrap_or_default(), 1);
    put_message(&mut out, 8, &events);
    out
}

/// Lines `major:minor rbytes=1 wbytes=2 ...`.
fn io(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for line in text.lines() {
        let Some((device, rest)) = line.split_once(' ') else { continue };
        let Some((major, minor)) = device.split_once(':') else { continue };
        let mut entry = Vec::new();
        put(&mut entry, 1, number(major).unwrap_or(0));
        put(&mut entry, 2, number(minor).unwrap_or(0));
        put_pairs(&mut entry, 3, IO, rest);
        put_bytes(&mut out, 1, &entry);
    }
    out
}

/// Lines `device hca_handle=1 hca_object=max`, of use and of limits.
fn rdma(at: &Path) -> Vec<u8> {
    let mut out = Vec::new();
    for (field, name) in [(1, "rdma.current"), (2, "rdma.max")] {
        for line in text(at, name).unwrap_or_default().lines() {
            let Some((device, rest)) = line.split_once(' ') else { continue };
            let mut entry = Vec::new();
            put_bytes(&mut entry, 1, device.as_bytes());
            put_pairs(&mut entry, 2, &["hca_handle", "hca_object"], &rest.replace("max", &u32::MAX.to_string()));
            put_bytes(&mut out, field, &entry);
        }
    }
    out
}

fn put_pairs(out: &mut Vec<u8>, first: u32, names: &[&str], text: &str) {
    put_flat(out, first, names, &text.replace(' ', "\n").replace('=', " "), 1);
}

#[cfg(test)]
mod tests {
    use containerd_shim_protos::cgroups_v2::metrics::Metrics;
    use containerd_shim_protos::protobuf::Message;

    use super::*;

    #[test]
    fn the_files_of_a_cgroup_are_the_message() {
        let dir = std::env::temp_dir().join(format!("windlass-metrics2-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        for (name, text) in [
            ("pids.current", "3\n"),
            ("pids.max", "max\n"),
            ("cpu.stat", "usage_usec 10\nuser_usec 7\nsystem_usec 3\nnr_throttled 2\n"),
            ("memory.stat", "anon 1\nfile 2\npgfault 18\nthp_collapse_alloc 31\nnew_one 5\n"),
            ("memory.current", "32\n"),
            ("memory.max", "33\n"),
            ("memory.swap.max", "35\n"),
            ("memory.peak", "36\n"),
            ("memory.events", "low 0\noom 4\noom_kill 5\n"),
            ("io.stat", "8:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n"),
            ("hugetlb.2MB.current", "9\n"),
            ("hugetlb.2MB.max", "max\n"),
            ("rdma.current", "mlx4_0 hca_handle=2 hca_object=2000\n"),
        ] {
            std::fs::write(dir.join(name), text).expect("written");
        }
        let read = Metrics::parse_from_bytes(&metrics(&dir)).expect("the oracle reads it");
        assert_eq!((read.pids().current(), read.pids().limit()), (3, u64::MAX));
        let cpu = read.cpu();
        assert_eq!((cpu.usage_usec(), cpu.user_usec(), cpu.system_usec(), cpu.nr_throttled()), (10, 7, 3, 2));
        let memory = read.memory();
        assert_eq!((memory.anon(), memory.file(), memory.pgfault(), memory.thp_collapse_alloc()), (1, 2, 18, 31));
        assert_eq!((memory.usage(), memory.usage_limit(), memory.swap_limit()), (32, 33, 35));
        assert_eq!((read.memory_events().oom(), read.memory_events().oom_kill()), (4, 5));
        let io = &read.io().usage()[0];
        assert_eq!((io.major(), io.minor(), io.rbytes(), io.wios()), (8, 16, 1, 4));
        let huge = &read.hugetlb()[0];
        assert_eq!((huge.current(), huge.max(), huge.pagesize()), (9, u64::MAX, "2MB"));
        let rdma = &read.rdma().current()[0];
        assert_eq!((rdma.device(), rdma.hca_handles(), rdma.hca_objects()), ("mlx4_0", 2, 2000));
        std::fs::remove_dir_all(dir).expect("removed");
    }
}
