//! The statistics of a cgroup for `events`, with the keys of runc's `types/events.go`.
//!
//! Zero is left out if the key is optional in runc. If a file does not exist, because its controller is not enabled,
//! its numbers are left out or zero. runc does not have `memory.peak`, `memory.events`, `cpu.burst`, the effective
//! `cpuset`, `rdma` and `misc`.

use serde_json::{Map, Value, json};

use super::directory::{Directory, if_there, number_after};
use super::pressure::{Pressure, Waiting};
use super::v2::Cgroup;
use windlass_base::error::{Result, WithContext};
use windlass_sys as sys;

type Object = Map<String, Value>;

/// The number for "no limit" in runc's output: Go's `math.MaxUint64`.
const UNLIMITED: u64 = u64::MAX;

impl Cgroup {
    /// The `data` of a `stats` event, without `intel_rdt` and `network_interfaces`, which do not come from a cgroup.
    pub fn stats(&self) -> Result<Object> {
        collect(&self.directory).with_context(|| self.cannot("read the statistics of"))
    }
}

fn collect(at: &Directory) -> sys::Result<Object> {
    let mut stats = Object::new();
    stats.insert("cpu".into(), cpu(at)?.into());
    stats.insert("cpuset".into(), cpuset(at)?.into());
    stats.insert("memory".into(), memory(at)?.into());
    stats.insert("pids".into(), pids(at)?.into());
    stats.insert("blkio".into(), block_io(at)?.into());
    stats.insert("hugetlb".into(), hugepages(at)?.into());
    for name in ["rdma", "misc"] {
        if let Some(current) = read(at, &format!("{name}.current"))? {
            let limit = read(at, &format!("{name}.max"))?.unwrap_or_default();
            stats.insert(name.into(), json!({"current": keyed(&current), "limit": keyed(&limit)}));
        }
    }
    Ok(stats)
}

fn read(at: &Directory, name: &str) -> sys::Result<Option<String>> {
    if_there(at.read_all(name))
}

/// The number in a file that holds one; `max` is [`UNLIMITED`].
fn number(at: &Directory, name: &str) -> sys::Result<Option<u64>> {
    Ok(read(at, name)?.and_then(|text| parse(text.trim())))
}

fn parse(text: &str) -> Option<u64> {
    if text == "max" { Some(UNLIMITED) } else { text.parse().ok() }
}

/// Inserts a number, unless it is zero.
fn put(object: &mut Object, key: &str, value: u64) {
    if value != 0 {
        object.insert(key.into(), value.into());
    }
}

/// The object of a text of lines `key number`.
fn flat(text: &str) -> Object {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(key, value)| Some((key.to_owned(), parse(value.trim())?.into())))
        .collect()
}

/// The object of a text of lines `name key=number …` or `name number`; its values are objects or numbers.
fn keyed(text: &str) -> Object {
    let mut out = Object::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let Some(name) = words.next() else { continue };
        let mut inner = Object::new();
        for word in words {
            match word.split_once('=') {
                Some((key, value)) => put_or_zero(&mut inner, key, value),
                None => put_or_zero(&mut out, name, word),
            }
        }
        if !inner.is_empty() {
            out.insert(name.to_owned(), inner.into());
        }
    }
    out
}

fn put_or_zero(object: &mut Object, key: &str, value: &str) {
    if let Some(value) = parse(value) {
        object.insert(key.to_owned(), value.into());
    }
}

fn cpu(at: &Directory) -> sys::Result<Object> {
    let stat = read(at, "cpu.stat")?.unwrap_or_default();
    let nanoseconds = |key| number_after(&stat, key).unwrap_or(0).saturating_mul(1000);
    let plain = |key| number_after(&stat, key).unwrap_or(0);
    let mut usage = Object::new();
    put(&mut usage, "total", nanoseconds("usage_usec"));
    usage.insert("kernel".into(), nanoseconds("system_usec").into());
    usage.insert("user".into(), nanoseconds("user_usec").into());
    let mut throttling = Object::new();
    put(&mut throttling, "periods", plain("nr_periods"));
    put(&mut throttling, "throttledPeriods", plain("nr_throttled"));
    put(&mut throttling, "throttledTime", nanoseconds("throttled_usec"));
    let mut burst = Object::new();
    put(&mut burst, "periods", plain("nr_bursts"));
    put(&mut burst, "time", nanoseconds("burst_usec"));
    let mut cpu = Object::from_iter([("usage".into(), usage.into()), ("throttling".into(), throttling.into())]);
    if !burst.is_empty() {
        cpu.insert("burst".into(), burst.into());
    }
    pressure(at, "cpu.pressure", &mut cpu)?;
    Ok(cpu)
}

/// Inserts the pressure stall information, if the kernel has it and it is not switched off.
fn pressure(at: &Directory, file: &str, into: &mut Object) -> sys::Result<()> {
    let text = match read(at, file) {
        Ok(Some(text)) => text,
        Ok(None) => return Ok(()),
        // The kernel was started with psi=0.
        Err(failed) if failed.errno == nix::errno::Errno::EOPNOTSUPP => return Ok(()),
        Err(failed) => return Err(failed),
    };
    let Pressure { some, full } = Pressure::parse(&text);
    let psi: Object = [("some", some), ("full", full)]
        .into_iter()
        .filter_map(|(name, waiting)| {
            let Waiting { averages: [avg10, avg60, avg300], total } = waiting?;
            Some((name.to_owned(), json!({"avg10": avg10, "avg60": avg60, "avg300": avg300, "total": total})))
        })
        .collect();
    if !psi.is_empty() {
        into.insert("psi".into(), psi.into());
    }
    Ok(())
}

/// The numbers of the cpuset. Most keys exist in version 1 only; they are zero, as in runc.
fn cpuset(at: &Directory) -> sys::Result<Object> {
    let mut out = Object::new();
    for (key, file) in [("cpus", "cpuset.cpus.effective"), ("mems", "cpuset.mems.effective")] {
        if let Some(list) = read(at, file)? {
            out.insert(key.into(), numbers_of_list(list.trim()).into());
        }
    }
    for key in [
        "cpu_exclusive",
        "mem_hardwall",
        "mem_exclusive",
        "memory_migrate",
        "memory_spread_page",
        "memory_spread_slab",
        "memory_pressure",
        "sched_load_balance",
        "sched_relax_domain_level",
    ] {
        out.insert(key.into(), 0.into());
    }
    Ok(out)
}

/// The numbers of a list: of `0-2,5`, these are 0, 1, 2, 5.
fn numbers_of_list(list: &str) -> Vec<u16> {
    list.split(',')
        .filter_map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            Some(first.parse::<u16>().ok()?..=last.parse::<u16>().ok()?)
        })
        .flatten()
        .collect()
}

fn memory(at: &Directory) -> sys::Result<Object> {
    let entry = |usage: u64, limit: u64, peak: u64, failures: u64| {
        let mut entry = Object::from_iter([("limit".into(), limit.into()), ("failcnt".into(), failures.into())]);
        put(&mut entry, "usage", usage);
        put(&mut entry, "max", peak);
        Value::from(entry)
    };
    let raw = flat(&read(at, "memory.stat")?.unwrap_or_default());
    let events = flat(&read(at, "memory.events")?.unwrap_or_default());
    let event = |key: &str| events.get(key).and_then(Value::as_u64).unwrap_or(0);
    let usage = number(at, "memory.current")?.unwrap_or(0);
    let limit = number(at, "memory.max")?.unwrap_or(0);
    let peak = number(at, "memory.peak")?.unwrap_or(0);
    // Callers expect the sum of memory and swap, as version 1 counts.
    let swap = match number(at, "memory.swap.current")? {
        Some(swap) => {
            let swap_limit = number(at, "memory.swap.max")?.unwrap_or(0);
            entry(swap.saturating_add(usage), swap_limit.saturating_add(limit), 0, 0)
        }
        None => entry(usage, limit, 0, 0),
    };
    let mut out = Object::new();
    put(&mut out, "cache", raw.get("file").and_then(Value::as_u64).unwrap_or(0));
    put(&mut out, "peak", peak);
    out.insert("usage".into(), entry(usage, limit, peak, event("max")));
    out.insert("swap".into(), swap);
    out.insert("kernel".into(), entry(0, 0, 0, 0));
    out.insert("kernelTCP".into(), entry(0, 0, 0, 0));
    for (key, object) in [("raw", raw), ("events", events)] {
        if !object.is_empty() {
            out.insert(key.into(), object.into());
        }
    }
    pressure(at, "memory.pressure", &mut out)?;
    Ok(out)
}

fn pids(at: &Directory) -> sys::Result<Object> {
    let mut out = Object::new();
    match number(at, "pids.current")? {
        Some(current) => {
            put(&mut out, "current", current);
            // Without a limit, the key is left out.
            put(&mut out, "limit", number(at, "pids.max")?.filter(|limit| *limit != UNLIMITED).unwrap_or(0));
        }
        None => {
            let list = match read(at, "cgroup.procs") {
                Err(failed) if failed.errno == nix::errno::Errno::EOPNOTSUPP => read(at, "cgroup.threads")?,
                list => list?,
            };
            put(&mut out, "current", list.unwrap_or_default().lines().count() as u64);
        }
    }
    Ok(out)
}

fn block_io(at: &Directory) -> sys::Result<Object> {
    let (mut bytes, mut operations) = (Vec::new(), Vec::new());
    for line in read(at, "io.stat")?.unwrap_or_default().lines() {
        let mut words = line.split_ascii_whitespace();
        let Some((major, minor)) = words.next().and_then(|device| device.split_once(':')) else { continue };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let (table, operation) = match key {
                "rbytes" => (&mut bytes, "Read"),
                "wbytes" => (&mut bytes, "Write"),
                "rios" => (&mut operations, "Read"),
                "wios" => (&mut operations, "Write"),
                _ => continue,
            };
            let mut entry = Object::from_iter([("op".into(), operation.into())]);
            for (key, text) in [("major", major), ("minor", minor), ("value", value)] {
                put(&mut entry, key, text.parse().unwrap_or(0));
            }
            table.push(Value::from(entry));
        }
    }
    let mut out = Object::new();
    for (key, entries) in [("ioServiceBytesRecursive", bytes), ("ioServicedRecursive", operations)] {
        if !entries.is_empty() {
            out.insert(key.into(), entries.into());
        }
    }
    pressure(at, "io.pressure", &mut out)?;
    Ok(out)
}

/// Huge pages by their size. Reserved pages are counted if the kernel counts them (Linux 5.7), since a limit is applied
/// to a reservation first; otherwise pages in use are.
fn hugepages(at: &Directory) -> sys::Result<Object> {
    let mut out = Object::new();
    let is_limit = |name: &str| name.starts_with("hugetlb.") && name.ends_with(".max") && !name.contains(".rsvd");
    for name in if_there(at.names(|_, name| is_limit(name)))?.unwrap_or_default() {
        let Some(prefix) = name.strip_suffix(".max") else { continue };
        let size = prefix.trim_start_matches("hugetlb.");
        let current = match number(at, &format!("{prefix}.rsvd.current"))? {
            Some(reserved) => reserved,
            None => number(at, &format!("{prefix}.current"))?.unwrap_or(0),
        };
        let events = read(at, &format!("{prefix}.events"))?.unwrap_or_default();
        let mut entry = Object::from_iter([("failcnt".into(), number_after(&events, "max").unwrap_or(0).into())]);
        put(&mut entry, "usage", current);
        out.insert(size.to_owned(), entry.into());
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory of ordinary files in place of a cgroup.
    struct Files(std::path::PathBuf);

    impl Files {
        fn new(name: &str, files: &[(&str, &str)]) -> Files {
            let path = std::env::temp_dir().join(format!("windlass-stats-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).expect("temporary directory");
            for (name, text) in files {
                std::fs::write(path.join(name), text).expect("file");
            }
            Files(path)
        }

        fn stats(&self) -> Value {
            let directory = Directory::open(self.0.to_str().expect("utf-8")).expect("open");
            collect(&directory).expect("stats").into()
        }
    }

    impl Drop for Files {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn all_controllers_are_reported_with_the_keys_of_runc() {
        let files = Files::new(
            "all",
            &[
                (
                    "cpu.stat",
                    "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_periods 5\nnr_throttled 2\nthrottled_usec 7\n",
                ),
                (
                    "cpu.pressure",
                    "some avg10=1.50 avg60=0.00 avg300=0.00 total=12\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
                ),
                ("memory.stat", "anon 4\nfile 6\n"),
                ("memory.current", "100\n"),
                ("memory.max", "200\n"),
                ("memory.peak", "150\n"),
                ("memory.swap.current", "11\n"),
                ("memory.swap.max", "max\n"),
                ("memory.events", "low 0\nhigh 0\nmax 3\noom 1\noom_kill 1\n"),
                ("pids.current", "2\n"),
                ("pids.max", "max\n"),
                ("io.stat", "8:0 rbytes=10 wbytes=0 rios=3 wios=4 dbytes=5 dios=6\n"),
                ("hugetlb.2MB.max", "max\n"),
                ("hugetlb.2MB.current", "0\n"),
                ("hugetlb.2MB.rsvd.max", "max\n"),
                ("hugetlb.2MB.rsvd.current", "2097152\n"),
                ("hugetlb.2MB.events", "max 9\n"),
                ("cpuset.cpus.effective", "0-1,3\n"),
                ("rdma.current", "mlx5_1 hca_handle=2 hca_object=20\n"),
                ("rdma.max", "mlx5_1 hca_handle=max hca_object=max\n"),
                ("misc.current", "sev 1\n"),
            ],
        );
        let stats = files.stats();
        assert_eq!(stats["cpu"]["usage"], json!({"total": 30000, "kernel": 10000, "user": 20000}));
        assert_eq!(stats["cpu"]["throttling"], json!({"periods": 5, "throttledPeriods": 2, "throttledTime": 7000}));
        assert_eq!(stats["cpu"]["psi"]["some"], json!({"avg10": 1.5, "avg60": 0.0, "avg300": 0.0, "total": 12}));
        assert_eq!(stats["cpuset"]["cpus"], json!([0, 1, 3]));
        assert_eq!(stats["cpuset"]["cpu_exclusive"], 0);
        assert_eq!(stats["memory"]["cache"], 6);
        assert_eq!(stats["memory"]["usage"], json!({"usage": 100, "limit": 200, "max": 150, "failcnt": 3}));
        assert_eq!(stats["memory"]["swap"], json!({"usage": 111, "limit": u64::MAX, "failcnt": 0}));
        assert_eq!(stats["memory"]["kernel"], json!({"limit": 0, "failcnt": 0}));
        assert_eq!(stats["memory"]["raw"], json!({"anon": 4, "file": 6}));
        assert_eq!(stats["memory"]["events"]["oom_kill"], 1);
        assert_eq!(stats["memory"]["peak"], 150);
        assert_eq!(stats["pids"], json!({"current": 2}));
        assert_eq!(
            stats["blkio"]["ioServiceBytesRecursive"],
            json!([{"major": 8, "op": "Read", "value": 10}, {"major": 8, "op": "Write"}])
        );
        assert_eq!(stats["blkio"]["ioServicedRecursive"][1], json!({"major": 8, "op": "Write", "value": 4}));
        assert_eq!(stats["hugetlb"], json!({"2MB": {"usage": 2097152, "failcnt": 9}}));
        assert_eq!(stats["rdma"]["current"], json!({"mlx5_1": {"hca_handle": 2, "hca_object": 20}}));
        assert_eq!(stats["misc"]["current"], json!({"sev": 1}));
    }

    #[test]
    fn a_cgroup_without_controllers_has_all_keys_that_callers_read() {
        let stats = Files::new("none", &[("cgroup.procs", "1\n2\n")]).stats();
        assert_eq!(stats["pids"], json!({"current": 2}));
        assert_eq!(stats["memory"]["usage"], json!({"limit": 0, "failcnt": 0}));
        assert_eq!(stats["cpu"]["usage"], json!({"kernel": 0, "user": 0}));
        assert_eq!(stats["hugetlb"], json!({}));
        assert_eq!(stats["blkio"], json!({}));
    }
}
