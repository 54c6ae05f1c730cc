//! The payload: prints the facts that a process can find out about its container, as one JSON object.
//! The kernel's answers are printed as they are. The observer decides which ones can be compared.

use crate::sys;
use nix::errno::Errno;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use serde_json::{Map, Value, json};
use std::fs::{self, Metadata, OpenOptions};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Files below /proc that are reported unchanged.
const FILES: &[&str] = &[
    "self/status",
    "self/limits",
    "self/mountinfo",
    "self/cgroup",
    "self/oom_score_adj",
    "self/personality",
    "self/timerslack_ns",
    "self/setgroups",
    "self/uid_map",
    "self/gid_map",
    "self/timens_offsets",
    "self/coredump_filter",
    "self/stat",
    "self/comm",
    "self/net/if_inet6",
    "self/net/dev",
];

/// Sysctls that configurations set, or that differ between namespaces.
const SYSCTLS: &[&str] = &[
    "kernel/hostname",
    "kernel/domainname",
    "kernel/msgmax",
    "kernel/shmmni",
    "fs/mqueue/msg_max",
    "net/ipv4/ip_forward",
    "net/ipv4/ping_group_range",
    "net/ipv4/ip_unprivileged_port_start",
    "net/ipv4/conf/lo/forwarding",
    "net/core/somaxconn",
];

/// Prints the report. `request` names the observer's tests.
pub fn main(request: &str) -> String {
    let request: Value = serde_json::from_str(request).unwrap_or_default();
    let mut report = Map::new();
    for file in FILES {
        report.insert(format!("file/{file}"), read(&Path::new("/proc").join(file)).into());
    }
    for name in SYSCTLS {
        report.insert(format!("sysctl/{name}"), read(&Path::new("/proc/sys").join(name)).trim().into());
    }
    for kind in ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"] {
        let link = fs::read_link(format!("/proc/self/ns/{kind}")).map(|link| link.display().to_string());
        report.insert(format!("ns/{kind}"), link.unwrap_or_else(|e| shown(&e)).into());
    }
    report.insert(
        "environ".to_owned(),
        json!(read(Path::new("/proc/self/environ")).split_terminator('\0').collect::<Vec<_>>()),
    );
    report.insert(
        "cwd".to_owned(),
        std::env::current_dir().map_or_else(|e| shown(&e), |dir| dir.display().to_string()).into(),
    );
    descriptors(&mut report);
    attributes(&mut report);
    calls(&mut report, &request["calls"]);
    devices(&mut report);
    let mut left = 3000;
    walk(&mut report, Path::new("/"), &mut left);
    for path in request["masked"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        report.insert(format!("masked{path}"), content(Path::new(path)).into());
    }
    for path in request["readonly"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        report.insert(format!("readonly{path}"), writable(Path::new(path)).into());
    }
    cgroup(&mut report);
    Value::Object(report).to_string()
}

fn read(path: &Path) -> String {
    fs::read(path).map_or_else(|e| shown(&e), |bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// The errno's name, in brackets.
fn shown(error: &std::io::Error) -> String {
    format!("<{:?}>", error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw))
}

fn descriptors(report: &mut Map<String, Value>) {
    for entry in fs::read_dir("/proc/self/fd").into_iter().flatten().flatten() {
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        let text = target.display().to_string();
        if text.starts_with("/proc/") && text.ends_with("/fd") {
            continue;
        }
        let number = entry.file_name().to_string_lossy().into_owned();
        let info = read(&Path::new("/proc/self/fdinfo").join(&number));
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap_or_default().trim().to_owned();
        report.insert(format!("fd/{number}"), format!("{text} {flags}").into());
    }
}

/// Properties that only calls report: prctl(2), sched_getattr(2) and others.
fn attributes(report: &mut Map<String, Value>) {
    let scheduler = sys::sched_getattr().map_or_else(
        |e| format!("{e:?}"),
        |a| format!("policy={} nice={} priority={} flags={}", a.policy, a.nice, a.priority, a.flags),
    );
    report.insert("attribute/scheduler".to_owned(), scheduler.into());
    let memory = sys::get_mempolicy().map_or_else(|e| format!("{e:?}"), |(mode, nodes)| format!("{mode} {nodes:#x}"));
    report.insert("attribute/mempolicy".to_owned(), memory.into());
    let death = nix::sys::prctl::get_pdeathsig().map_or_else(|e| format!("{e:?}"), |signal| format!("{signal:?}"));
    report.insert("attribute/pdeathsig".to_owned(), death.into());
    report.insert("attribute/sigpipe-at-start".to_owned(), sys::sigpipe_at_start().into());
    report.insert("attribute/keyring".to_owned(), sys::session_keyring().unwrap_or_else(|e| format!("{e:?}")).into());
    let process = libc::SYS_prctl;
    let asked = [
        ("dumpable", process, [i64::from(libc::PR_GET_DUMPABLE), 0, 0]),
        ("keepcaps", process, [i64::from(libc::PR_GET_KEEPCAPS), 0, 0]),
        ("securebits", process, [i64::from(libc::PR_GET_SECUREBITS), 0, 0]),
        ("thp-disable", process, [i64::from(libc::PR_GET_THP_DISABLE), 0, 0]),
        ("timing", process, [i64::from(libc::PR_GET_TIMING), 0, 0]),
        ("mce-kill", process, [i64::from(libc::PR_MCE_KILL_GET), 0, 0]),
        // IOPRIO_WHO_PROCESS: this process.
        ("ioprio", libc::SYS_ioprio_get, [1, 0, 0]),
    ];
    for (name, number, [a, b, c]) in asked {
        let value =
            sys::syscall(number, [a, b, c, 0, 0, 0]).map_or_else(|e| format!("{e:?}"), |value| value.to_string());
        report.insert(format!("attribute/{name}"), value.into());
    }
}

/// Makes each of these calls, `[NUMBER, ARG...]`, in its own child, because the call may kill it.
fn calls(report: &mut Map<String, Value>, calls: &Value) {
    for call in calls.as_array().into_iter().flatten() {
        let words: Vec<u64> = call.as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
        let mut args = [0; 6];
        let given = words.iter().skip(1).map(|word| word.cast_signed());
        args.iter_mut().zip(given).for_each(|(arg, value)| *arg = value);
        let number = words.first().map_or(-1, |number| number.cast_signed());
        report.insert(format!("call/{words:?}"), sys::syscall_in_child(number, args).into());
    }
}

/// Which devices can be made, and which of those made can be opened.
fn devices(report: &mut Map<String, Value>) {
    let tried = [
        (SFlag::S_IFCHR, 1, 3),
        (SFlag::S_IFCHR, 1, 5),
        (SFlag::S_IFCHR, 1, 9),
        (SFlag::S_IFCHR, 5, 1),
        (SFlag::S_IFCHR, 10, 229),
        (SFlag::S_IFBLK, 7, 0),
    ];
    let node = PathBuf::from("/dev/probe-node");
    for (kind, major, minor) in tried {
        let letter = if kind == SFlag::S_IFCHR { 'c' } else { 'b' };
        let made = mknod(&node, kind, Mode::from_bits_truncate(0o666), makedev(major, minor));
        let mut text = made.map_or_else(|e| format!("<{e:?}>"), |()| "made".to_owned());
        if made.is_ok() {
            text += &opened(&node);
            let _ = fs::remove_file(&node);
        }
        report.insert(format!("device/{letter} {major}:{minor}"), text.into());
    }
}

/// The result of opening a node for reading and for writing.
fn opened(path: &Path) -> String {
    let open = |read: bool| {
        let opened =
            OpenOptions::new().read(read).write(!read).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path);
        opened.map_or_else(|e| shown(&e), |_| "ok".to_owned())
    };
    format!(" read {} write {}", open(true), open(false))
}

/// Every entry of the root filesystem with type, mode and owner. Entries of the kernel are left out.
fn walk(report: &mut Map<String, Value>, dir: &Path, left: &mut usize) {
    const NOT: &[&str] = &["/proc", "/sys", "/lib", "/lib64", "/usr/lib", "/helper", "/dev/mqueue"];
    let mut names: Vec<_> = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    names.sort();
    for path in names {
        if *left == 0 || NOT.iter().any(|not| path == Path::new(not)) {
            continue;
        }
        *left -= 1;
        let Ok(found) = fs::symlink_metadata(&path) else { continue };
        report.insert(format!("entry{}", path.display()), entry(&path, &found).into());
        if found.is_dir() {
            walk(report, &path, left);
        }
    }
}

fn entry(path: &Path, found: &Metadata) -> String {
    let kind = found.file_type();
    let owner = format!("{:04o} {}:{}", found.mode() & 0o7777, found.uid(), found.gid());
    let number = || format!("{}:{}", nix::sys::stat::major(found.rdev()), nix::sys::stat::minor(found.rdev()));
    if kind.is_symlink() {
        // The link to a descriptor of this process differs with its id.
        return format!("link to {}", fs::read_link(path).map_or_else(|e| shown(&e), |to| to.display().to_string()));
    }
    match () {
        () if kind.is_dir() => format!("directory {owner}"),
        () if kind.is_char_device() => format!("char {} {owner}{}", number(), opened(path)),
        () if kind.is_block_device() => format!("block {} {owner}{}", number(), opened(path)),
        () if kind.is_fifo() => format!("fifo {owner}"),
        () if kind.is_socket() => format!("socket {owner}"),
        () => format!("file {owner} {}", found.len()),
    }
}

/// The content of a path that may be hidden.
fn content(path: &Path) -> String {
    match fs::symlink_metadata(path) {
        Err(error) => shown(&error),
        Ok(found) if found.is_dir() => {
            let list = fs::read_dir(path).map(|list| if list.count() == 0 { "empty directory" } else { "directory" });
            list.map_or_else(|e| shown(&e), str::to_owned)
        }
        Ok(_) => {
            let mut bytes = [0; 16];
            let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
            let read = opened.and_then(|mut file| std::io::Read::read(&mut file, &mut bytes));
            read.map_or_else(|e| shown(&e), |count| if count == 0 { "empty" } else { "content" }.to_owned())
        }
    }
}

/// Whether a path can be written to. The function writes nothing.
fn writable(path: &Path) -> String {
    if fs::metadata(path).is_ok_and(|found| found.is_dir()) {
        let file = path.join("probe-file");
        let made = OpenOptions::new().write(true).create_new(true).open(&file);
        let text = made.map_or_else(|e| shown(&e), |_| "writable".to_owned());
        let _ = fs::remove_file(&file);
        return text;
    }
    OpenOptions::new().append(true).open(path).map_or_else(|e| shown(&e), |_| "writable".to_owned())
}

/// The files of the mounted cgroup, without those that change by themselves.
fn cgroup(report: &mut Map<String, Value>) {
    const CHANGING: &[&str] =
        &["stat", "events", "current", "pressure", "procs", "threads", "peak", "local", "numa_stat", "freeze", "kill"];
    for entry in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let last = name.rsplit('.').next().unwrap_or_default();
        if CHANGING.contains(&last) || entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        report.insert(format!("cgroup/{name}"), read(&entry.path()).trim_end().into());
    }
}
