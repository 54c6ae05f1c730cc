//! `events`: resource usage at intervals, and an OOM kill when it happens. Each event is a line of JSON with the keys
//! of runc's `types/events.go`.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use serde_json::{Map, Value, json};

use windlass_args as args;
use windlass_base::error::{Error, Kind, Result};
use windlass_base::namespaces::Namespaces;
use windlass_cgroup::{Cgroup, WatchEvent};
use windlass_store::Container;
use windlass_sys::{fd, process};

use super::session::Session;

type Object = Map<String, Value>;

pub(super) fn events(id: &str, interval: Duration, stats: bool, session: &mut Session<'_>) -> Result<()> {
    let container = session.store()?.load(id)?;
    if interval.is_zero() {
        return Err(Error::usage("duration interval must be greater than 0"));
    }
    let Some(init) = container.open_init()? else {
        return Err(Error::new(Kind::WrongStatus, format!("container with id {id} is not running")));
    };
    let missing = || {
        Error::new(Kind::Unsupported, "the container has no cgroup of version 2, which counts what it uses")
            .with_hint("cgroup2 must be mounted when the container is created")
    };
    let cgroup = container.cgroup()?.ok_or_else(missing)?;
    if stats {
        return print(id, "stats", Some(all_stats(&container, init.as_fd(), &cgroup)?));
    }
    let mut watch = cgroup.watch_oom()?;
    let mut next = Instant::now() + interval;
    loop {
        let left = next.saturating_duration_since(Instant::now());
        match watch.wait_beside(Some(init.as_fd()), left)? {
            WatchEvent::OomKills(_) => print(id, "oom", None)?,
            WatchEvent::Empty | WatchEvent::OtherReadable => return Ok(()),
            WatchEvent::Timeout if Instant::now() < next => {}
            WatchEvent::Timeout => {
                print(id, "stats", Some(all_stats(&container, init.as_fd(), &cgroup)?))?;
                next = Instant::now() + interval;
            }
        }
    }
}

fn print(id: &str, kind: &str, data: Option<Object>) -> Result<()> {
    // Some callers find the type by its position in the line, so the order of the keys is fixed.
    let data = data.map_or_else(String::new, |data| format!(",\"data\":{}", Value::from(data)));
    args::print(&format!("{{\"type\":{},\"id\":{}{data}}}\n", json!(kind), json!(id)))
}

fn all_stats(container: &Container, init: BorrowedFd<'_>, cgroup: &Cgroup) -> Result<Object> {
    let mut stats = cgroup.stats()?;
    stats.insert("intel_rdt".into(), resource_control(container.state.resctrl.as_deref().map(Path::new)).into());
    // Without a network namespace of its own, the counters would include other processes.
    let own = container.state.namespaces.contains(Namespaces::NET);
    let text = if own { network_statistics(container, init) } else { None };
    stats.insert(
        "network_interfaces".into(),
        text.map_or(Value::Null, |text| interfaces(&String::from_utf8_lossy(&text)).into()),
    );
    Ok(stats)
}

fn network_statistics(container: &Container, init: BorrowedFd<'_>) -> Option<Vec<u8>> {
    let file = process::open_of(container.init?.pid, init, "net/dev", OFlag::O_RDONLY).ok()?;
    fd::read_all(file, fd::DOCUMENT).ok()
}

/// The table of `/proc/PID/net/dev` (proc_pid_net(5)), without the loopback device. `None` becomes `null`, which
/// is how Go writes an empty list.
///
/// The container may name its interfaces, and a name may have a space that is not ASCII. For the crate procfs it ends
/// the name, so that the whole table is refused.
fn interfaces(text: &str) -> Option<Vec<Value>> {
    let rows = text.lines().filter_map(|line| {
        let (name, numbers) = line.split_once(':')?;
        let numbers: Vec<u64> = numbers.split_ascii_whitespace().filter_map(|number| number.parse().ok()).collect();
        // Eight columns are about received packets, eight about sent ones.
        let [rx @ .., _, _, _, _] = numbers.get(..8)? else { return None };
        let [tx @ .., _, _, _, _] = numbers.get(8..16)? else { return None };
        (name.trim() != "lo").then(|| {
            json!({
                "Name": name.trim(),
                "RxBytes": rx[0], "RxPackets": rx[1], "RxErrors": rx[2], "RxDropped": rx[3],
                "TxBytes": tx[0], "TxPackets": tx[1], "TxErrors": tx[2], "TxDropped": tx[3],
            })
        })
    });
    Some(rows.collect()).filter(|rows: &Vec<Value>| !rows.is_empty())
}

/// The `intel_rdt` statistics: the schemata of the container's group and of the machine's root group.
fn resource_control(group: Option<&Path>) -> Object {
    let mut out = Object::new();
    let Some((group, root)) = group.and_then(|group| Some((group, group.parent()?))) else { return out };
    let schemas = |out: &mut Object, directory: &Path, suffix: &str| {
        let text = std::fs::read_to_string(directory.join("schemata")).unwrap_or_default();
        for (start, key) in [("L3:", "l3_cache_schema"), ("MB:", "mem_bw_schema")] {
            if let Some(line) = text.lines().map(str::trim).find(|line| line.starts_with(start)) {
                out.insert(format!("{key}{suffix}"), line.into());
            }
        }
    };
    schemas(&mut out, root, "_root");
    schemas(&mut out, group, "");
    let about = |resource: &str, names: &[&str]| -> Object {
        let read = |name: &str| std::fs::read_to_string(root.join("info").join(resource).join(name)).ok();
        let value = |name: &str, text: &str| match name {
            "cbm_mask" => Value::from(text),
            _ => text.parse::<u64>().map_or(Value::Null, Value::from),
        };
        names.iter().filter_map(|name| Some(((*name).to_owned(), value(name, read(name)?.trim())))).collect()
    };
    for (key, resource, names) in [
        ("l3_cache_info", "L3", ["cbm_mask", "min_cbm_bits", "num_closids"].as_slice()),
        ("mem_bw_info", "MB", &["bandwidth_gran", "delay_linear", "min_bandwidth", "num_closids"]),
    ] {
        let about = about(resource, names);
        if !about.is_empty() {
            out.insert(key.into(), about.into());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_have_the_keys_of_runc_and_no_loopback() {
        let text = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:    7       1    0    0    0     0          0         0        7       1    0    0    0     0       0          0
  eth0:10 2    3    4    5     6          7         8       11      12   13   14   15    16      17         18
";
        let expected = json!([{
            "Name": "eth0", "RxBytes": 10, "RxPackets": 2, "RxErrors": 3, "RxDropped": 4,
            "TxBytes": 11, "TxPackets": 12, "TxErrors": 13, "TxDropped": 14,
        }]);
        assert_eq!(Value::from(interfaces(text)), expected);
        let hostile = text.replace("    lo:", " a\u{2003}b:");
        assert_eq!(Value::from(interfaces(&hostile))[1], expected[0], "a name hides no other interface");
        assert_eq!(Value::from(interfaces("  lo: 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n")), Value::Null);
    }

    #[test]
    fn resource_control_tells_the_schemas_of_the_group_and_of_the_root() {
        let root = std::env::temp_dir().join(format!("windlass-resctrl-{}", std::process::id()));
        for (name, text) in [
            ("schemata", "    L3:0=fff\n    MB:0=100\n"),
            ("c1/schemata", "L3:0=f\nMB:0=20\n"),
            ("info/L3/cbm_mask", "fff\n"),
            ("info/L3/num_closids", "16\n"),
        ] {
            std::fs::create_dir_all(root.join(name).parent().expect("below the root")).expect("directories");
            std::fs::write(root.join(name), text).expect("file");
        }
        let statistics = resource_control(Some(&root.join("c1")));
        std::fs::remove_dir_all(&root).expect("remove");
        let expected = json!({
            "l3_cache_schema_root": "L3:0=fff", "mem_bw_schema_root": "MB:0=100",
            "l3_cache_schema": "L3:0=f", "mem_bw_schema": "MB:0=20",
            "l3_cache_info": {"cbm_mask": "fff", "num_closids": 16},
        });
        assert_eq!(Value::from(statistics), expected);
        assert_eq!(resource_control(None), Object::new());
    }
}
