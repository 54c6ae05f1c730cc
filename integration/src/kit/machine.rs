//! The kernel's report about this machine, its processes and their capabilities.

use std::fs;
use std::path::Path;

/// The text of a file, trimmed at the end; empty when it cannot be read.
pub fn text(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).map(|text| text.trim_end().to_owned()).unwrap_or_default()
}

/// The mount that keeps the namespace of windlass's exit pins. The first container makes it, and nothing removes it.
pub const EXIT_NAMESPACE: &str = "/run/windlass/@exits/ns";

/// The directory of that mount.
pub const EXIT_DIRECTORY: &str = "/run/windlass/@exits";

/// `/proc/self/mountinfo` without [`EXIT_NAMESPACE`] and its directory, which is a mount if others follow `/run`.
pub fn mounts() -> String {
    mounts_of("self")
}

/// The mounts of another process.
pub fn mounts_of(pid: impl std::fmt::Display) -> String {
    let all = text(format!("/proc/{pid}/mountinfo"));
    let of_pins = |line: &str| line.split(' ').nth(4).is_some_and(|point| point.starts_with(EXIT_DIRECTORY));
    let mine = all.lines().filter(|line| !of_pins(line));
    mine.map(|line| format!("{line}\n")).collect()
}

/// Runs `work` in the namespace of the exit pins, whose root directory has them. `None` without such a namespace.
pub fn among_exit_pins<T: Send>(work: impl FnOnce() -> T + Send) -> Option<T> {
    use nix::sched::{CloneFlags, setns, unshare};
    let namespace = fs::File::open(EXIT_NAMESPACE).ok()?;
    let inside = || {
        // Only a thread with a root directory of its own may change its mount namespace.
        unshare(CloneFlags::CLONE_FS).and_then(|()| setns(namespace, CloneFlags::CLONE_NEWNS)).ok()?;
        Some(work())
    };
    std::thread::scope(|scope| scope.spawn(inside).join().ok().flatten())
}

/// The names of the exit pins.
pub fn exit_pins() -> Vec<String> {
    let names = || fs::read_dir("/").into_iter().flatten().flatten();
    among_exit_pins(|| names().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
        .unwrap_or_default()
}

/// A field of a `Name: value` file such as `/proc/PID/status`.
pub fn field(text: &str, name: &str) -> String {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_default().trim().to_owned()
}

/// Major and minor version of the running kernel.
pub fn kernel() -> (u32, u32) {
    let release = text("/proc/sys/kernel/osrelease");
    let mut numbers = release.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Names of the capabilities in the bounding set of this process.
pub fn bounding_capabilities() -> Vec<String> {
    let status = text("/proc/self/status");
    let mask = u64::from_str_radix(&field(&status, "CapBnd"), 16).unwrap_or(0);
    let known = CAPABILITIES.iter().enumerate().filter(|(bit, _)| mask & (1 << bit) != 0);
    known.map(|(_, name)| format!("CAP_{name}")).collect()
}

/// Capability names in the order of their numbers, `linux/capability.h`.
pub const CAPABILITIES: &[&str] = &[
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Whether processes have cgroups in hierarchies of version 1 too.
pub fn has_version_1() -> bool {
    text("/proc/self/cgroup").lines().any(|line| !line.starts_with("0::"))
}
