//! Statistics of cgroup v2.

use std::path::Path;

use windlass_cgroup::Pressure;

use super::field::{hugepages, number, put, put_bytes, put_double, put_file, put_flat, text};

/// An empty name stands for a field that is not in the file.
const CPU: &[&str] = &[
    "usage_usec",
    "user_usec",
    "system_usec",
    "nr_periods",
    "nr_throttled",
    "throttled_usec",
    "",
    "nr_bursts",
    "burst_usec",
];

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

const EVENTS: &[&str] = &["low", "high", "max", "oom", "oom_kill", "oom_group_kill"];

const IO: &[&str] = &["rbytes", "wbytes", "rios", "wios"];

/// The fields with the pressure in the messages of the CPU, of memory and of I/O.
const CPU_PRESSURE: u32 = 7;
const MEMORY_PRESSURE: u32 = 38;
const IO_PRESSURE: u32 = 2;

/// `io.containerd.cgroups.v2.Metrics`.
///
/// The messages pids, cpu, memory, rdma and io are written even without their controllers, because containerd and the
/// kubelet do not check whether they exist. The message of memory events is written even if all counts are zero, which
/// shows that they are counted.
pub(super) fn metrics(at: &Path) -> Vec<u8> {
    let mut out = Vec::new();
    let mut pids = Vec::new();
    put_file(&mut pids, 1, at, "pids.current");
    put_file(&mut pids, 2, at, "pids.max");
    put_bytes(&mut out, 1, &pids);
    let mut cpu = Vec::new();
    put_flat(&mut cpu, 1, CPU, &text(at, "cpu.stat").unwrap_or_default(), 1);
    put_pressure(&mut cpu, CPU_PRESSURE, at, "cpu.pressure");
    put_bytes(&mut out, 2, &cpu);
    let mut memory = Vec::new();
    put_flat(&mut memory, 1, MEMORY, &text(at, "memory.stat").unwrap_or_default(), 1);
    for (field, name) in (32..).zip(MEMORY_FILES) {
        put_file(&mut memory, field, at, name);
    }
    put_pressure(&mut memory, MEMORY_PRESSURE, at, "memory.pressure");
    put_bytes(&mut out, 4, &memory);
    put_bytes(&mut out, 5, &rdma(at));
    let mut io = io(&text(at, "io.stat").unwrap_or_default());
    put_pressure(&mut io, IO_PRESSURE, at, "io.pressure");
    put_bytes(&mut out, 6, &io);
    for size in hugepages(at, ".current") {
        let mut pages = Vec::new();
        put_file(&mut pages, 1, at, &format!("hugetlb.{size}.current"));
        put_file(&mut pages, 2, at, &format!("hugetlb.{size}.max"));
        put_bytes(&mut pages, 3, size.as_bytes());
        let events = text(at, &format!("hugetlb.{size}.events")).unwrap_or_default();
        put_flat(&mut pages, 4, &["max"], &events, 1);
        put_bytes(&mut out, 7, &pages);
    }
    if let Some(text) = text(at, "memory.events") {
        let mut events = Vec::new();
        put_flat(&mut events, 1, EVENTS, &text, 1);
        put_bytes(&mut out, 8, &events);
    }
    out
}

/// Appends pressure stall information (Documentation/accounting/psi.rst): the times in which some and in which all
/// processes waited. The field is left out if the kernel has none (`CONFIG_PSI`, `psi=0`).
fn put_pressure(out: &mut Vec<u8>, field: u32, at: &Path, name: &str) {
    let Some(text) = text(at, name) else { return };
    let Pressure { some, full } = Pressure::parse(&text);
    let mut pressure = Vec::new();
    for (field, waiting) in [(1, some), (2, full)] {
        let Some(waiting) = waiting else { continue };
        let mut data = Vec::new();
        for (field, average) in (1..).zip(waiting.averages) {
            put_double(&mut data, field, average);
        }
        put(&mut data, 4, waiting.total);
        put_bytes(&mut pressure, field, &data);
    }
    put_bytes(out, field, &pressure);
}

/// Encodes lines `major:minor rbytes=1 wbytes=2 ...`.
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

/// Encodes lines `device hca_handle=1 hca_object=max`, of the current use and of the limits.
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
            ("cpu.stat", "usage_usec 10\nuser_usec 7\nsystem_usec 3\nnr_throttled 2\nnr_bursts 4\nburst_usec 6\n"),
            ("cpu.pressure", "some avg10=1.50 avg60=0.25 avg300=0.00 total=77\n"),
            (
                "memory.pressure",
                "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\nfull avg10=2.00 avg60=0.00 avg300=0.50 total=9\n",
            ),
            (
                "io.pressure",
                "some avg10=0.00 avg60=3.00 avg300=0.00 total=1\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
            ),
            ("memory.stat", "anon 1\nfile 2\npgfault 18\nthp_collapse_alloc 31\nnew_one 5\n"),
            ("memory.current", "32\n"),
            ("memory.max", "33\n"),
            ("memory.swap.max", "35\n"),
            ("memory.peak", "36\n"),
            ("memory.events", "low 0\noom 4\noom_kill 5\noom_group_kill 6\n"),
            ("io.stat", "8:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n"),
            ("hugetlb.2MB.current", "9\n"),
            ("hugetlb.2MB.rsvd.current", "1\n"),
            ("hugetlb.2MB.max", "max\n"),
            ("hugetlb.2MB.events", "max 8\n"),
            ("rdma.current", "mlx4_0 hca_handle=2 hca_object=2000\n"),
        ] {
            std::fs::write(dir.join(name), text).expect("written");
        }
        let read = Metrics::parse_from_bytes(&metrics(&dir)).expect("the oracle reads it");
        assert_eq!((read.pids().current(), read.pids().limit()), (3, u64::MAX));
        let cpu = read.cpu();
        assert_eq!((cpu.usage_usec(), cpu.user_usec(), cpu.system_usec(), cpu.nr_throttled()), (10, 7, 3, 2));
        assert_eq!((cpu.nr_bursts(), cpu.burst_usec()), (4, 6));
        let some = cpu.psi().some();
        assert_eq!((some.avg10(), some.avg60(), some.avg300(), some.total()), (1.5, 0.25, 0.0, 77));
        let memory = read.memory();
        assert_eq!(
            (memory.psi().full().avg10(), memory.psi().full().avg300(), memory.psi().full().total()),
            (2.0, 0.5, 9)
        );
        assert_eq!((read.io().psi().some().avg60(), read.io().psi().some().total()), (3.0, 1));
        assert!(read.io().psi().has_full() && read.memory().psi().has_some(), "no pressure is a number too");
        assert_eq!((memory.anon(), memory.file(), memory.pgfault(), memory.thp_collapse_alloc()), (1, 2, 18, 31));
        assert_eq!((memory.usage(), memory.usage_limit(), memory.swap_limit()), (32, 33, 35));
        assert_eq!((read.memory_events().oom(), read.memory_events().oom_kill()), (4, 5));
        assert_eq!(read.memory_events().oom_group_kill(), 6);
        let io = &read.io().usage()[0];
        assert_eq!((io.major(), io.minor(), io.rbytes(), io.wios()), (8, 16, 1, 4));
        assert_eq!(read.hugetlb().len(), 1, "reservations are no other size");
        let huge = &read.hugetlb()[0];
        assert_eq!((huge.current(), huge.max(), huge.pagesize()), (9, u64::MAX, "2MB"));
        assert_eq!(huge.failcnt(), 8);
        let rdma = &read.rdma().current()[0];
        assert_eq!((rdma.device(), rdma.hca_handles(), rdma.hca_objects()), ("mlx4_0", 2, 2000));
        std::fs::remove_dir_all(dir).expect("removed");
    }

    #[test]
    fn zeros_and_missing_controllers_are_messages_all_the_same() {
        let dir = std::env::temp_dir().join(format!("windlass-metrics2-none-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let read = Metrics::parse_from_bytes(&metrics(&dir)).expect("the oracle reads it");
        assert!(read.has_pids() && read.has_cpu() && read.has_memory() && read.has_rdma() && read.has_io());
        assert!(!read.has_memory_events(), "nobody counts them");
        assert!(!read.cpu().has_psi() && !read.memory().has_psi() && !read.io().has_psi());
        std::fs::write(dir.join("memory.events"), "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\n").expect("written");
        let read = Metrics::parse_from_bytes(&metrics(&dir)).expect("the oracle reads it");
        assert!(read.has_memory_events(), "there were none");
        std::fs::remove_dir_all(dir).expect("removed");
    }
}
