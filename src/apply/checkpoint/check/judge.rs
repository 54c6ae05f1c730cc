//! Judges what of a container cannot be dumped or is lost, by what was seen of its processes.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use windlass_criu::flags::Flags;

/// Something that a dump cannot store, or cannot store unchanged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointObstacle {
    /// The description, which names the process.
    pub what: String,
    /// The consequence.
    pub loss: Loss,
    /// The remedy.
    pub help: Cow<'static, str>,
    /// JSON Pointer of what asks for it, if it comes from the configuration.
    pub pointer: String,
}

/// The consequence of something that a dump cannot store unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Loss {
    /// The dump fails.
    Dump,
    /// The images cannot be restored.
    Restore,
    /// Only this is lost, and all else is restored.
    Part,
}

/// An open file of a process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Descriptor {
    /// The text of its link in `/proc/PID/fd`.
    pub link: String,
    /// Type and mode.
    pub mode: u32,
    /// The device, if it is one: major and minor number.
    pub device: (u32, u32),
    /// The number of its hard links.
    pub names: u64,
    /// Bytes on the disk.
    pub size: u64,
    /// Whether it consists of huge pages.
    pub huge: bool,
    /// The protocol of a socket, as the kernel names it.
    pub protocol: String,
    /// Whether it is on a mount, or is a namespace, that no process of the container has.
    pub foreign: bool,
    /// Whether its path leads to another file, for example because a mount covers it.
    pub hidden: bool,
    /// Whether it is one of init's standard streams, which the restore replaces.
    pub replaced: bool,
    /// The text of `/proc/PID/fdinfo`; empty for memory.
    pub info: String,
}

impl Descriptor {
    /// A field of `info`.
    fn field(&self, name: &str) -> Option<&str> {
        self.info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim))
    }

    fn has_flag(&self, flag: i32) -> bool {
        self.field("flags").and_then(|flags| i32::from_str_radix(flags, 8).ok()).is_some_and(|flags| flags & flag != 0)
    }
}

/// A reason why a TCP socket needs a flag, or cannot be dumped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tcp {
    /// It is a connection.
    Open,
    /// It is a connection that the other end has begun to open.
    Early,
    /// It listens, and no process has accepted the connections in its queue.
    Queue,
}

/// The sockets of the container's network namespace.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sockets {
    /// TCP sockets that cannot be dumped as they are, by inode.
    pub connections: BTreeMap<u64, Tcp>,
    /// Unix sockets with the inode that each is connected to.
    pub peers: BTreeMap<u32, u32>,
    /// Netlink sockets with unread messages.
    pub unread: BTreeSet<u64>,
    /// Whether CRIU cannot dump sockets of the network on this kernel.
    pub too_new: bool,
    /// The sockets that the container's processes have open.
    pub own: BTreeSet<u64>,
}

/// Files without a name that CRIU knows.
const ANONYMOUS: &[&str] =
    &["[eventfd]", "[eventpoll]", "[signalfd]", "[timerfd]", "inotify", "[inotify]", "[fanotify]", "[pidfd]"];

/// The protocols of the network that CRIU knows, as the kernel names them.
pub(crate) const NETWORK: [&str; 9] =
    ["TCP", "TCPv6", "UDP", "UDPv6", "UDP-Lite", "UDPLITEv6", "RAW", "RAWv6", "PACKET"];

/// The other protocols that CRIU knows.
const LOCAL: [&str; 3] = ["UNIX", "UNIX-STREAM", "NETLINK"];

/// The largest unlinked file that goes into the images, in bytes.
const GHOST: u64 = 1 << 20;

/// A finding that makes a dump fail.
pub(crate) fn finding(what: String, help: &'static str) -> CheckpointObstacle {
    CheckpointObstacle { what, loss: Loss::Dump, help: help.into(), pointer: String::new() }
}

fn fails(what: String, help: &'static str) -> Option<CheckpointObstacle> {
    Some(finding(what, help))
}

/// Judges an open file. `owner` names it.
pub(crate) fn descriptor(
    owner: &str,
    file: &Descriptor,
    sockets: &Sockets,
    flags: &Flags,
) -> Option<CheckpointObstacle> {
    let link = &file.link;
    if file.field("lock").is_some() && !flags.file_locks {
        return fails(format!("{owner} holds a lock of {link}"), "pass --file-locks");
    }
    if let Some(inode) = link.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')?.parse().ok()) {
        return socket(owner, inode, &file.protocol, sockets, flags);
    }
    if let Some(kind) = link.strip_prefix("anon_inode:") {
        return match ANONYMOUS.contains(&kind) {
            true => watcher(owner, file),
            false => fails(format!("{owner} is {link}"), "CRIU cannot dump such a file"),
        };
    }
    if let Some(found) = odd(owner, file) {
        return Some(found);
    }
    if link.starts_with("/secretmem") {
        return fails(format!("{owner} is secret memory"), "CRIU cannot dump it");
    }
    if file.huge {
        return fails(format!("{owner} is memory of huge pages"), "CRIU cannot dump it here");
    }
    if link.starts_with("pipe:[") || link.starts_with("/memfd:") || file.replaced {
        return None;
    }
    let device = matches!(file.mode & 0o170_000, 0o020_000 | 0o060_000);
    let (major, minor) = file.device;
    if device && (136..=143).contains(&major) && file.foreign {
        let help = "pass --shell-job";
        return if flags.shell_job { None } else { fails(format!("{owner} is a terminal from outside: {link}"), help) };
    }
    if file.foreign {
        return fails(format!("{owner} is on a mount that the container has not: {link}"), "close the file first");
    }
    if file.hidden {
        return fails(format!("{owner} is not what its path shows: {link}"), "close it, or unmount what covers it");
    }
    // CRIU dumps memory devices, terminals and tun.
    if device && !(matches!(major, 1 | 5) || (136..=143).contains(&major) || (major, minor) == (10, 200)) {
        return fails(format!("{owner} is the device {major}:{minor} ({link})"), "CRIU cannot dump an open device");
    }
    if !link.ends_with(" (deleted)") {
        return None;
    }
    match file.names {
        0 if file.size > GHOST => {
            let what = format!("{owner} is an unlinked file of {} bytes: {link}", file.size);
            fails(what, "raise ghost-limit in the file of CRIU's options, or close the file")
        }
        0 => None,
        _ if flags.link_remap => None,
        _ => fails(format!("{owner} is an unlinked file that has another name: {link}"), "pass --link-remap"),
    }
}

/// Judges the clock of a timer, or a watch.
fn watcher(owner: &str, file: &Descriptor) -> Option<CheckpointObstacle> {
    // The clocks of wall and monotonic time (clock_gettime(2)).
    if let Some(clock) = file.field("clockid").filter(|clock| !matches!(*clock, "0" | "1")) {
        return fails(
            format!("{owner} is a timer of clock {clock}"),
            "CRIU knows those of CLOCK_REALTIME and _MONOTONIC",
        );
    }
    // The file cannot be opened by its handle (exportfs, FILEID_INO64_GEN).
    match file.info.contains("fhandle-type:81") {
        true => fails(format!("{owner} watches a file of a file system without handles"), "remove the watch first"),
        false => None,
    }
}

/// Judges a file that was opened in a way that CRIU does not know.
fn odd(owner: &str, file: &Descriptor) -> Option<CheckpointObstacle> {
    let link = &file.link;
    if link.starts_with("pipe:[") && file.has_flag(libc::O_DIRECT) {
        return fails(format!("{owner} is a pipe of packets (O_DIRECT)"), "use a pipe without it");
    }
    if file.has_flag(libc::O_PATH) && matches!(file.mode & libc::S_IFMT, libc::S_IFIFO | libc::S_IFSOCK) {
        return fails(format!("{owner} names {link} by O_PATH, a FIFO or a socket"), "close it first");
    }
    if !link.starts_with('/') && file.foreign {
        return fails(format!("{owner} is {link}, which no process of the container is in"), "close it first");
    }
    None
}

fn socket(owner: &str, inode: u64, protocol: &str, sockets: &Sockets, flags: &Flags) -> Option<CheckpointObstacle> {
    if sockets.too_new && NETWORK.contains(&protocol) {
        let what = format!("{owner} is a socket ({protocol}), which this CRIU cannot dump on this kernel");
        return fails(what, "use CRIU 4.2 or later");
    }
    if sockets.unread.contains(&inode) {
        return fails(format!("{owner} is a netlink socket with messages that nobody has read"), "read them first");
    }
    if let Some(connection) = sockets.connections.get(&inode) {
        return match connection {
            Tcp::Open if flags.tcp_established => None,
            Tcp::Open => fails(format!("{owner} is an open TCP connection"), "pass --tcp-established"),
            Tcp::Early => fails(format!("{owner} is a TCP connection that is not open yet"), "wait until it is open"),
            // The flag leaves these connections out.
            Tcp::Queue if flags.tcp_skip_in_flight => None,
            Tcp::Queue => fails(
                format!("{owner} listens, and has TCP connections that no process has accepted"),
                "pass --tcp-skip-in-flight, which loses them",
            ),
        };
    }
    let peer = u32::try_from(inode).ok().and_then(|inode| sockets.peers.get(&inode));
    match peer {
        Some(0) => None,
        Some(peer) if sockets.own.contains(&(*peer).into()) => None,
        Some(_) => {
            let what = format!("{owner} is a unix socket that is connected to a process outside");
            fails(what, "close it first; --ext-unix-sk is for datagram sockets")
        }
        None if NETWORK.contains(&protocol) || LOCAL.contains(&protocol) => None,
        None => fails(format!("{owner} is a socket of a kind that CRIU does not know ({protocol})"), "close it first"),
    }
}

/// The TCP sockets in a table of `/proc/PID/net` that are more than bound, or waiting for connections.
pub(crate) fn connections(table: &str) -> BTreeMap<u64, Tcp> {
    let connection = |line: &str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let inode = columns.get(9)?.parse::<u64>().ok().filter(|inode| *inode != 0)?;
        // 0A listens, and its receive queue is the number of these connections; 07 is closed; 02 has sent its SYN, which
        // CRIU takes for an open one; 03 and 0C have got one (linux/tcp_states.h).
        let (_, received) = columns.get(4)?.split_once(':')?;
        match *columns.get(3)? {
            "0A" if received.bytes().all(|digit| digit == b'0') => None,
            "0A" => Some((inode, Tcp::Queue)),
            "07" => None,
            "03" | "0C" => Some((inode, Tcp::Early)),
            _ => Some((inode, Tcp::Open)),
        }
    };
    table.lines().skip(1).filter_map(connection).collect()
}

/// The netlink sockets that hold messages, by a text of `/proc/net/netlink`.
pub(crate) fn unread(table: &str) -> BTreeSet<u64> {
    let inode = |line: &str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        columns.last()?.parse().ok().filter(|_| columns.get(4) != Some(&"0"))
    };
    table.lines().skip(1).filter_map(inode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(link: &str) -> Descriptor {
        Descriptor { link: link.into(), mode: 0o100_644, names: 1, ..Descriptor::default() }
    }

    #[test]
    fn files_that_can_be_dumped_are_not_named() {
        let null = Descriptor { mode: 0o020_666, device: (1, 3), ..file("/dev/null") };
        let tty = Descriptor { mode: 0o020_620, device: (136, 0), ..file("/dev/pts/0") };
        let ghost = Descriptor { names: 0, size: 100, ..file("/tmp/x (deleted)") };
        let memory = Descriptor { names: 0, size: 1 << 30, ..file("/memfd:x (deleted)") };
        let stream = Descriptor { foreign: true, replaced: true, ..file("/var/log/x") };
        let timer = Descriptor { info: "flags:\t02\nclockid: 1".into(), ..file("anon_inode:[timerfd]") };
        let plain = ["/etc/passwd", "pipe:[7]", "anon_inode:[eventpoll]", "anon_inode:inotify", "uts:[7]"].map(file);
        for file in plain.into_iter().chain([null, tty, ghost, memory, stream, timer]) {
            assert_eq!(descriptor("it", &file, &Sockets::default(), &Flags::default()), None, "{file:?}");
        }
    }

    #[test]
    fn files_that_cannot_be_dumped_are_named_unless_a_flag_allows_them() {
        let all = Flags { file_locks: true, link_remap: true, shell_job: true, ..Flags::default() };
        let cases = [
            (Descriptor { info: "lock:\t1: POSIX".into(), ..file("/x") }, "--file-locks", true),
            (Descriptor { info: "flags:\t040001".into(), ..file("pipe:[7]") }, "pipe", false),
            (Descriptor { info: "flags:\t012000000".into(), mode: 0o010_644, ..file("/f") }, "close", false),
            (Descriptor { foreign: true, ..file("uts:[4026531838]") }, "close", false),
            (Descriptor { info: "clockid: 7".into(), ..file("anon_inode:[timerfd]") }, "CLOCK_REALTIME", false),
            (Descriptor { info: "inotify wd:1 fhandle-type:81".into(), ..file("anon_inode:inotify") }, "watch", false),
            (Descriptor { names: 2, ..file("/x (deleted)") }, "--link-remap", true),
            (Descriptor { names: 0, size: 2 << 20, ..file("/x (deleted)") }, "ghost-limit", false),
            (
                Descriptor { foreign: true, mode: 0o020_620, device: (136, 1), ..file("/dev/pts/1") },
                "--shell-job",
                true,
            ),
            (Descriptor { foreign: true, ..file("/x") }, "close", false),
            (Descriptor { mode: 0o020_666, device: (10, 229), ..file("/dev/fuse") }, "device", false),
            (file("anon_inode:[io_uring]"), "CRIU", false),
            (file("anon_inode:bpf-map"), "CRIU", false),
            (file("/secretmem (deleted)"), "CRIU", false),
            (Descriptor { hidden: true, ..file("/mnt/x") }, "covers", false),
            (Descriptor { huge: true, ..file("/memfd:x (deleted)") }, "CRIU", false),
        ];
        for (file, help, allowed) in cases {
            let found = descriptor("it", &file, &Sockets::default(), &Flags::default()).expect("named");
            assert!(found.loss == Loss::Dump && found.help.contains(help), "{found:?}");
            assert_eq!(descriptor("it", &file, &Sockets::default(), &all).is_none(), allowed, "{file:?}");
        }
    }

    #[test]
    fn sockets_are_judged_by_what_they_are_connected_to() {
        let tcp = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 11 1\n\
            1: 0100007F:0016 0100007F:8000 01 00000000:00000000 00:00000000 00000000     0        0 12 1\n\
            2: 0100007F:0016 0100007F:8001 02 00000000:00000000 00:00000000 00000000     0        0 13 1\n\
            3: 0100007F:0016 0100007F:8002 06 00000000:00000000 00:00000000 00000000     0        0 0 3\n\
            4: 0100007F:0016 0100007F:8003 03 00000000:00000000 00:00000000 00000000     0        0 14 1\n\
            5: 0100007F:0050 00000000:0000 0A 00000000:00000002 00:00000000 00000000     0        0 15 1\n";
        let mut known = Sockets { connections: connections(tcp), ..Sockets::default() };
        known.peers = BTreeMap::from([(20, 21), (21, 20), (22, 99), (23, 0)]);
        known.own = BTreeSet::from([11, 12, 13, 14, 15, 20, 21, 22, 23]);
        let of =
            |inode: u32, protocol: &str| Descriptor { protocol: protocol.into(), ..file(&format!("socket:[{inode}]")) };
        let found = |inode: u32, flags: &Flags| descriptor("it", &of(inode, "TCP"), &known, flags);
        let none = Flags::default();
        for inode in [11, 20, 21, 23] {
            assert_eq!(found(inode, &none), None, "{inode}");
        }
        let established = Flags { tcp_established: true, ..Flags::default() };
        let skips = Flags { tcp_skip_in_flight: true, ..Flags::default() };
        for inode in [12, 13] {
            assert_eq!(found(inode, &skips).expect("open").help, "pass --tcp-established");
            assert_eq!(found(inode, &established), None);
        }
        assert!(found(14, &skips).is_some() && found(14, &established).is_some(), "no flag helps");
        assert!(found(15, &established).expect("waiting").help.contains("--tcp-skip-in-flight"));
        assert_eq!(found(15, &skips), None);
        assert!(found(22, &none).expect("outside").what.contains("a process outside"));
        for (protocol, takes) in [("UNIX", true), ("NETLINK", true), ("UDPv6", true), ("ALG", false), ("", false)] {
            assert_eq!(descriptor("it", &of(50, protocol), &known, &none).is_none(), takes, "{protocol}");
        }
        known.unread =
            unread("sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode\n0 0 1 0 768 0 0 2 0 51\n0 0 1 0 0 0 0 2 0 52");
        assert_eq!(descriptor("it", &of(51, "NETLINK"), &known, &none).expect("full").help, "read them first");
        assert_eq!(descriptor("it", &of(52, "NETLINK"), &known, &none), None);
        known.too_new = true;
        for (protocol, takes) in [("UNIX", true), ("NETLINK", true), ("UDP", false), ("TCP", false), ("PACKET", false)]
        {
            assert_eq!(descriptor("it", &of(50, protocol), &known, &none).is_none(), takes, "{protocol}");
        }
    }
}
