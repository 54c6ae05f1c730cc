//! Compares `checkpoint --check` with CRIU: processes that cannot be dumped or restored are named beforehand, and
//! processes that come back are not.

use crate::chapter;
use crate::kit::Need::{Criu, Slow, Windlass};
use crate::kit::criu::{Images, start};
use crate::kit::machine::text;
use crate::kit::stop::{Context, skip};
use crate::kit::wait::eventually;
use crate::kit::{T, Verdict};
use crate::{ensure, ensure_eq};
use serde_json::json;
use std::fs;

chapter! { "checkpoint_check":
    ways_of_opening_and_waiting_are_named_that_do_not_come_back [Windlass, Criu, Slow],
    descriptors_and_memory_are_named_that_do_not_come_back [Windlass, Criu, Slow],
    mounts_and_namespaces_are_named_that_do_not_come_back [Windlass, Criu, Slow],
    what_comes_back_is_not_named [Windlass, Criu, Slow],
    what_is_lost_is_named [Windlass, Criu, Slow],
    files_of_the_container_are_not_opened [Windlass],
}

/// The action of a container's init: calls (see `@payload hold`), or a shell script.
enum Does {
    Calls(String),
    Script(&'static str),
}

use Does::{Calls, Script};

/// A name, the action of init, and words that `--check` must print if it does not come back.
type Row = (&'static str, Does, &'static str);

/// Words of `@payload hold`.
fn calls(words: &[&str]) -> Does {
    Calls(words.join(" "))
}

/// A call by its number.
fn call(number: i64, arguments: &str) -> String {
    format!("{number},{arguments}")
}

/// Opens a file that is made if it is not there.
fn open(path: &str) -> String {
    call(libc::SYS_openat, &format!("-100,'{path},{},384", libc::O_RDWR | libc::O_CREAT))
}

fn mmap(length: u32, protection: i32, flags: i32, file: &str) -> String {
    call(libc::SYS_mmap, &format!("0,{length},{protection},{flags},{file},0"))
}

fn close(file: &str) -> String {
    call(libc::SYS_close, file)
}

fn unlink(path: &str) -> String {
    call(libc::SYS_unlinkat, &format!("-100,'{path},0"))
}

fn link(path: &str, new: &str) -> String {
    call(libc::SYS_linkat, &format!("-100,'{path},-100,'{new},0"))
}

fn socket(family: i32, kind: i32, protocol: i32) -> Does {
    Calls(call(libc::SYS_socket, &format!("{family},{kind},{protocol}")))
}

/// A device node that is opened.
fn device(major: u32, minor: u32) -> Does {
    let node = call(libc::SYS_mknodat, &format!("-100,'/node,{},{}", libc::S_IFCHR | 0o600, major << 8 | minor));
    calls(&[&node, &call(libc::SYS_openat, &format!("-100,'/node,{},0", libc::O_RDWR))])
}

/// A lock by fcntl(2).
fn lock(command: i32) -> Does {
    calls(&[&open("/l"), &call(libc::SYS_fcntl, &format!("=0,{command},#1"))])
}

/// A child with a namespace of its own.
fn nested(flag: i32) -> Does {
    calls(&["in-child", &call(libc::SYS_unshare, &flag.to_string())])
}

/// Descriptors and sockets that CRIU does not take.
fn descriptors() -> Vec<Row> {
    let rw = libc::PROT_READ | libc::PROT_WRITE;
    let shared = libc::MAP_SHARED;
    let ring = call(libc::SYS_io_uring_setup, "8,#");
    let secret = call(libc::SYS_memfd_secret, "0");
    vec![
        ("io_uring", calls(&[&ring]), "is anon_inode:[io_uring]"),
        (
            "io_uring in memory",
            calls(&[&ring, &mmap(4096, rw, shared, "=0"), &close("=0")]),
            "has anon_inode:[io_uring] in its memory",
        ),
        ("a map of BPF", calls(&[&call(libc::SYS_bpf, "0,#2:4:4:1,72")]), "is anon_inode:bpf-map"),
        ("secret memory", calls(&[&secret]), "is secret memory"),
        (
            "secret memory that is mapped",
            calls(&[&secret, &call(libc::SYS_ftruncate, "=0,4096"), &mmap(4096, rw, shared, "=0"), &close("=0")]),
            "has /secretmem in its memory",
        ),
        ("userfaultfd", calls(&[&call(libc::SYS_userfaultfd, "0")]), "is anon_inode:[userfaultfd]"),
        ("perf", calls(&[&call(libc::SYS_perf_event_open, "#1:128:1,0,-1,-1,0")]), "is anon_inode:[perf_event]"),
        ("a ruleset of Landlock", calls(&[&call(libc::SYS_landlock_create_ruleset, "#128:0,8,0")]), "landlock-ruleset"),
        ("vsock", socket(libc::AF_VSOCK, 1, 0), "a socket of a kind that CRIU does not know"),
        ("AF_ALG", socket(libc::AF_ALG, 5, 0), "a socket of a kind that CRIU does not know"),
        ("XDP", socket(libc::AF_XDP, 3, 0), "a socket of a kind that CRIU does not know"),
        ("MPTCP", socket(libc::AF_INET, 1, 262), "a socket of a kind that CRIU does not know"),
        ("TCP", socket(libc::AF_INET, 1, 0), "this CRIU cannot dump on this kernel"),
        ("UDP over IPv6", socket(libc::AF_INET6, 2, 0), "this CRIU cannot dump on this kernel"),
        ("raw IP", socket(libc::AF_INET, 3, 1), "this CRIU cannot dump on this kernel"),
        ("packets", socket(libc::AF_PACKET, 3, 0), "this CRIU cannot dump on this kernel"),
        (
            "a server",
            Script("nc -ll -p 99 -e cat & sleep 0.3; : >/ready; sleep 1000"),
            "this CRIU cannot dump on this kernel",
        ),
    ]
}

/// Files, locks and memory that it does not take.
fn files() -> Vec<Row> {
    let (ro, rw) = (libc::PROT_READ, libc::PROT_READ | libc::PROT_WRITE);
    let shared = libc::MAP_SHARED;
    let large = call(libc::SYS_fallocate, "=0,0,0,3145728");
    vec![
        ("fsopen", calls(&[&call(libc::SYS_fsopen, "'tmpfs,0")]), "is anon_inode:[fscontext]"),
        (
            "a detached mount",
            calls(&[&call(libc::SYS_open_tree, "-100,'/,1")]),
            "on a mount that the container has not",
        ),
        (
            "a message queue",
            calls(&[&call(libc::SYS_mq_open, &format!("'q,{},384,0", libc::O_RDWR | libc::O_CREAT))]),
            "on a mount that the container has not",
        ),
        ("huge pages", calls(&[&call(libc::SYS_memfd_create, "'x,4")]), "is memory of huge pages"),
        ("fuse", device(10, 229), "is the device 10:229"),
        ("loop-control", device(10, 237), "is the device 10:237"),
        ("KVM", device(10, 232), "is the device 10:232"),
        ("a large unlinked file", calls(&[&open("/g"), &large, &unlink("/g")]), "is an unlinked file of"),
        (
            "a large unlinked file in memory",
            calls(&[&open("/g"), &large, &mmap(3 << 20, ro, shared, "=0"), &close("=0"), &unlink("/g")]),
            "is an unlinked file of",
        ),
        ("an unlinked file with a name", calls(&[&open("/g"), &link("/g", "/h"), &unlink("/g")]), "pass --link-remap"),
        (
            "the same in memory",
            calls(&[
                &open("/g"),
                &large,
                &mmap(4096, ro, libc::MAP_PRIVATE, "=0"),
                &close("=0"),
                &link("/g", "/h"),
                &unlink("/g"),
            ]),
            "pass --link-remap",
        ),
        (
            "a program that was replaced",
            Script("cp /bin/busybox /sleep; /sleep 1000 & sleep 0.2; ln /sleep /x; rm /sleep; : >/ready; sleep 1000"),
            "was replaced",
        ),
        ("flock", calls(&[&open("/l"), &call(libc::SYS_flock, "=0,2")]), "pass --file-locks"),
        ("a lock of POSIX", lock(libc::F_SETLK), "pass --file-locks"),
        ("a lock of the open file", lock(libc::F_OFD_SETLK), "pass --file-locks"),
        ("a lease", calls(&[&open("/l"), &call(libc::SYS_fcntl, "=0,1024,1")]), "pass --file-locks"),
        ("a traced child", calls(&["with-child", &call(libc::SYS_ptrace, "16902,=0,0,0")]), "is traced"),
        // The real user id alone is another.
        ("a process of another user", Calls(call(libc::SYS_setreuid, "1000,0")), "cannot be read"),
        (
            "guard pages",
            calls(&[
                &mmap(8192, rw, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, "-1"),
                &call(libc::SYS_madvise, "=0,4096,102"),
            ]),
            "cannot be told",
        ),
    ]
}

/// Files that were opened in a way that it does not take.
fn ways() -> Vec<Row> {
    let path_of = |path: &str| call(libc::SYS_openat, &format!("-100,'{path},{}", libc::O_PATH));
    let watched = |path: &str| {
        let watch = call(libc::SYS_inotify_add_watch, &format!("=0,'{path},256"));
        calls(&[&call(libc::SYS_inotify_init1, "0"), &watch])
    };
    vec![
        (
            "netlink with messages",
            calls(&[&call(libc::SYS_socket, "16,3,0"), &call(libc::SYS_sendto, "=0,#20:19660818:1:0:17,20,0,0,0")]),
            "messages that nobody has read",
        ),
        (
            "a queue that nobody has open",
            calls(&[&call(libc::SYS_mq_open, &format!("'q,{},384,0", libc::O_RDWR | libc::O_CREAT)), &close("=0")]),
            "has message queues",
        ),
        ("a pipe of packets", calls(&[&call(libc::SYS_pipe2, "#,16384")]), "is a pipe of packets"),
        (
            "O_PATH of a fifo",
            calls(&[&call(libc::SYS_mknodat, &format!("-100,'/f,{},0", libc::S_IFIFO | 0o600)), &path_of("/f")]),
            "by O_PATH",
        ),
        (
            "O_PATH of a socket",
            // The address is a family and the path /sn.
            calls(&[&call(libc::SYS_socket, "1,1,0"), &call(libc::SYS_bind, "=0,#1932460033:110,5"), &path_of("/sn")]),
            "by O_PATH",
        ),
        (
            "a namespace without processes",
            Script(
                "unshare -u sleep 1000 & p=$!; sleep 0.3; exec 9</proc/$p/ns/uts; kill $p; wait $p; : >/ready; sleep 1000",
            ),
            "no process of the container is in",
        ),
        // CLONE_VM, CLONE_VFORK and SIGCHLD: not every processor has the call vfork(2).
        ("vfork", calls(&["in-child", &call(libc::SYS_clone, "16657,0,0,0,0")]), "cannot be stopped"),
        ("a watch in procfs", watched("/proc/self"), "without handles"),
        ("a timer of boot time", calls(&[&call(libc::SYS_timerfd_create, "9,0")]), "is a timer of clock 9"),
    ]
}

/// Memory whose content differs from its path, and processes that wait.
fn covered_and_waiting() -> Vec<Row> {
    let (ro, rw) = (libc::PROT_READ, libc::PROT_READ | libc::PROT_WRITE);
    let anonymous = |length: u32, flags: i32| mmap(length, rw, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags, "-1");
    let counters = call(libc::SYS_perf_event_open, "#1:128:1:0,0,-1,-1,0");
    let array = call(libc::SYS_bpf, "0,#2:4:4096:1:1024,72");
    let covered = "is not what its path shows";
    vec![
        (
            "memory of huge pages",
            calls(&[&anonymous(2 << 20, libc::MAP_HUGETLB | libc::MAP_NORESERVE)]),
            "has /anon_hugepage in its memory",
        ),
        (
            "perf in memory",
            calls(&[&counters, &mmap(8192, rw, libc::MAP_SHARED, "=0"), &close("=0")]),
            "has anon_inode:[perf_event] in its memory",
        ),
        (
            "a map of BPF in memory",
            calls(&[&array, &mmap(4096, rw, libc::MAP_SHARED, "=0"), &close("=0")]),
            "has anon_inode:bpf-map in its memory",
        ),
        (
            "a program below another mount",
            Script("mount --bind /etc/passwd /bin/busybox; : >/ready; read x; sleep 1000"),
            covered,
        ),
        (
            "memory below another mount",
            calls(&[
                &open("/g"),
                &call(libc::SYS_fallocate, "=0,0,0,4096"),
                &mmap(4096, ro, libc::MAP_SHARED, "=0"),
                &close("=0"),
                &call(libc::SYS_mount, "'/etc/passwd,'/g,0,4096,0"),
            ]),
            covered,
        ),
        (
            "a frozen cgroup",
            Script(
                "c=/sys/fs/cgroup/in; mkdir $c; sleep 1000 & echo $! >$c/cgroup.procs; echo 1 >$c/cgroup.freeze; \
                : >/ready; sleep 1000",
            ),
            "has frozen its cgroup",
        ),
        (
            "a current directory in a cgroup that is gone",
            Script("mkdir /sys/fs/cgroup/in; cd /sys/fs/cgroup/in; rmdir /sys/fs/cgroup/in; : >/ready; sleep 1000"),
            "has another name",
        ),
    ]
}

/// Mounts and namespaces that do not come back.
fn mounted() -> Vec<Row> {
    let mount = |kind: &'static str| {
        calls(&[&call(libc::SYS_mkdirat, "-100,'/m,448"), &call(libc::SYS_mount, &format!("'x,'/m,'{kind},0,0"))])
    };
    let foreign = "comes from outside and is not in config.json";
    vec![
        (
            "a bind mount of what is gone",
            Script("echo >/src; echo >/mnt/f; mount --bind /src /mnt/f; rm /src; : >/ready; sleep 1000"),
            "the source of the mount /mnt/f was removed",
        ),
        ("an overlay", Script("mount -t overlay overlay -o lowerdir=/etc:/bin /mnt && : >/ready; sleep 1000"), foreign),
        ("ramfs", mount("ramfs"), foreign),
        ("bpf", mount("bpf"), foreign),
        ("debugfs", mount("debugfs"), foreign),
        ("hugetlbfs", mount("hugetlbfs"), foreign),
        ("devtmpfs", mount("devtmpfs"), foreign),
        ("securityfs", mount("securityfs"), foreign),
        (
            "a path that is read-only no more",
            Script("mount -o remount,bind,rw /proc/sys && : >/ready; sleep 1000"),
            "lacks flags",
        ),
        (
            "a file of a mount that is gone",
            Script("mount -t tmpfs t /mnt; echo x >/mnt/f; exec 9</mnt/f; umount -l /mnt; : >/ready; sleep 1000"),
            "on a mount that the container has not",
        ),
        (
            "a file below another mount",
            Script("mkdir -p /mnt; echo x >/mnt/f; exec 9</mnt/f; mount -t tmpfs t /mnt; : >/ready; sleep 1000"),
            "is not what its path shows",
        ),
        (
            "a current directory below another mount",
            Script("mkdir -p /mnt; cd /mnt; mount -t tmpfs t /mnt; : >/ready; sleep 1000"),
            "is not what its path shows",
        ),
        ("uts", nested(libc::CLONE_NEWUTS), "a namespace of its own (uts)"),
        ("ipc", nested(libc::CLONE_NEWIPC), "a namespace of its own (ipc)"),
        ("net", nested(libc::CLONE_NEWNET), "a namespace of its own (net)"),
        ("user", nested(libc::CLONE_NEWUSER), "a namespace of its own (user)"),
        ("cgroup", nested(libc::CLONE_NEWCGROUP), "a namespace of its own (cgroup)"),
        ("pid", nested(libc::CLONE_NEWPID), "a namespace of its own (pid_for_children)"),
        ("time", nested(libc::CLONE_NEWTIME), "a namespace of its own (time_for_children)"),
    ]
}

/// Processes that come back although a check might doubt it.
fn whole_too() -> Vec<Row> {
    vec![
        ("asynchronous I/O", calls(&[&call(libc::SYS_io_setup, "8,#")]), ""),
        (
            "another root",
            Script(
                "cp -a /bin /mnt/; chroot /mnt /bin/sh -c 'exec 9<>/g; sleep 1000' & sleep 0.5; : >/ready; sleep 1000",
            ),
            "",
        ),
        ("a mount namespace", Script("unshare -m sleep 1000 & sleep 0.3; : >/ready; sleep 1000"), ""),
        ("a kernel parameter", Script("exec 9</proc/sys/kernel/pid_max; : >/ready; sleep 1000"), ""),
        (
            "a process that is gone in procfs",
            Script("sleep 1000 & p=$!; exec 9</proc/$p/status; kill $p; wait $p; : >/ready; sleep 1000"),
            "",
        ),
        ("a namespace", Script("exec 9</proc/self/ns/uts; : >/ready; sleep 1000"), ""),
    ]
}

/// Processes that come back unchanged.
fn whole() -> Vec<Row> {
    let (rw, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
    vec![
        ("nothing", calls(&[]), ""),
        ("netlink", socket(libc::AF_NETLINK, 3, 0), ""),
        ("a unix socket", socket(libc::AF_UNIX, 1, 0), ""),
        ("a pair of unix sockets", calls(&[&call(libc::SYS_socketpair, "1,1,0,#")]), ""),
        ("a pipe", calls(&[&call(libc::SYS_pipe2, "#,0")]), ""),
        ("eventfd", calls(&[&call(libc::SYS_eventfd2, "0,0")]), ""),
        ("epoll", calls(&[&call(libc::SYS_epoll_create1, "0")]), ""),
        ("signalfd", calls(&[&call(libc::SYS_signalfd4, "-1,#,8,0")]), ""),
        ("timerfd", calls(&[&call(libc::SYS_timerfd_create, "1,0")]), ""),
        (
            "inotify",
            calls(&[&call(libc::SYS_inotify_init1, "0"), &call(libc::SYS_inotify_add_watch, "=0,'/tmp,256")]),
            "",
        ),
        (
            "a file in memory",
            calls(&[&call(libc::SYS_memfd_create, "'x,2"), &call(libc::SYS_ftruncate, "=0,8192")]),
            "",
        ),
        ("an unlinked file", calls(&[&open("/g"), &unlink("/g")]), ""),
        (
            "a large unlinked file without content",
            calls(&[&open("/g"), &call(libc::SYS_ftruncate, "=0,3145728"), &unlink("/g")]),
            "",
        ),
        ("shared memory", calls(&[&mmap(4096, rw, shared | libc::MAP_ANONYMOUS, "-1")]), ""),
        ("shared memory of System V", calls(&[&call(sysv::SHMGET, "0,4096,384"), &call(sysv::SHMAT, "=0,0,0")]), ""),
        ("a message queue of System V", calls(&[&call(sysv::MSGGET, "0,384")]), ""),
        ("a stopped child", calls(&["with-child", &call(libc::SYS_kill, "=0,19")]), ""),
        ("a child", calls(&["with-child"]), ""),
        ("O_PATH", calls(&[&call(libc::SYS_openat, &format!("-100,'/etc,{}", libc::O_PATH))]), ""),
        ("a file of procfs", calls(&[&call(libc::SYS_openat, "-100,'/proc/self/status,0")]), ""),
        ("a fifo", Script("mkfifo /f; exec 9<>/f; : >/ready; sleep 1000"), ""),
        ("a tmpfs", Script("mount -t tmpfs t /mnt && : >/ready; sleep 1000"), ""),
        ("a bind mount", Script("mount --bind /etc /mnt && : >/ready; sleep 1000"), ""),
        ("a directory that is gone", Script("mkdir /d; cd /d; rmdir /d; : >/ready; sleep 1000"), ""),
    ]
}

/// Calls of System V's IPC.
#[cfg(not(target_arch = "s390x"))]
mod sysv {
    pub use libc::{SYS_msgget as MSGGET, SYS_shmat as SHMAT, SYS_shmget as SHMGET};
}
/// Linux 5.1 gave s390x these calls; the crate libc has only the one that they replace.
#[cfg(target_arch = "s390x")]
mod sysv {
    pub const SHMGET: i64 = 395;
    pub const SHMAT: i64 = 397;
    pub const MSGGET: i64 = 399;
}

/// Linux 6.11.
const MAP_DROPPABLE: i32 = 8;
/// Linux 6.10, of every architecture.
const SYS_MSEAL: i64 = 462;

/// Settings that the images do not have.
fn settings() -> Vec<Row> {
    let prctl = |arguments: &str| Calls(call(libc::SYS_prctl, arguments));
    vec![
        ("CPUs", Calls(call(libc::SYS_sched_setaffinity, "0,8,#1")), "loses the CPUs that it may use"),
        ("I/O priority", Calls(call(libc::SYS_ioprio_set, "1,0,16390")), "loses its I/O priority"),
        ("timer slack", prctl("29,123456"), "loses its timer slack"),
        ("personality", Calls(call(libc::SYS_personality, "262144")), "loses its personality"),
        ("memory policy", Calls(call(libc::SYS_set_mempolicy, "2,#1,8")), "loses its memory policy"),
        ("equal pages", prctl("67,1,0,0,0"), "loses that its equal pages are merged"),
        (
            "core dumps",
            Script("echo 0x7f >/proc/self/coredump_filter; : >/ready; sleep 1000; :"),
            "loses what its core dumps have",
        ),
        (
            "tracefs",
            calls(&[&call(libc::SYS_mkdirat, "-100,'/m,448"), &call(libc::SYS_mount, "'x,'/m,'tracefs,0,0")]),
            "the mount /m (tracefs)",
        ),
        ("links in a mount", Calls(call(libc::SYS_mount, "'t,'/mnt,'tmpfs,256,0")), "the mount /mnt loses nosymfollow"),
        (
            "memory that may be dropped",
            Calls(mmap(8192, libc::PROT_READ | libc::PROT_WRITE, MAP_DROPPABLE | libc::MAP_ANONYMOUS, "-1")),
            "loses that its memory may be dropped",
        ),
        (
            "sealed memory",
            calls(&[
                &mmap(8192, libc::PROT_READ, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, "-1"),
                &call(SYS_MSEAL, "=0,4096,0"),
            ]),
            "loses the seals of its memory",
        ),
    ]
}

/// The result of a row.
struct Seen {
    /// Whether the process came back, according to CRIU.
    back: bool,
    /// The output of `--check`.
    said: String,
    /// The exit code of `--check`.
    code: i32,
}

/// Starts the container of a row and dumps it. Returns `None` if it cannot be made here.
fn look(t: &T, does: &Does) -> Verdict<Option<Seen>> {
    let bundle = t.bundle()?.privileged().set("/linux/resources/devices", json!([{"allow": true, "access": "rwm"}]));
    let covered = json!(["/proc/sys"]);
    let bundle = bundle.set("/linux/readonlyPaths", covered).set("/root/readonly", json!(false));
    let bundle = bundle.mount(json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"}));
    fs::create_dir_all(bundle.rootfs().join("mnt")).context("mnt")?;
    let bundle = match does {
        Script(script) => bundle.sh(script),
        Calls(words) => {
            let words: Vec<&str> =
                ["/helper", "@payload", "hold"].into_iter().chain(words.split_whitespace()).collect();
            bundle.helper()?.args(&words)
        }
    };
    let container = start(t, &bundle)?;
    let ready = bundle.rootfs().join("ready");
    eventually("it is ready", || ready.exists().then_some(()))?;
    if !text(&ready).is_empty() {
        container.verb("delete", &["--force"], &[])?.ok()?;
        return Ok(None);
    }
    let images = Images::new(t);
    let mut command = images.command();
    command.args(["checkpoint", "--check", &container.id]);
    let checked = t.finish(command)?;
    let dumped = images.try_dump(&container, &[])?.code == 0;
    let back = dumped && {
        let (ran, restored) = images.try_restore(&bundle, &[])?;
        restored.verb("delete", &["--force"], &[])?;
        ran.code == 0
    };
    container.verb("delete", &["--force"], &[])?;
    Ok(Some(Seen { back, said: checked.stdout, code: checked.code }))
}

/// An open may wait at a FIFO, or act on a device that the container's device filter would refuse. The names of these
/// files resemble those of files that the check inspects.
fn files_of_the_container_are_not_opened(t: &T) -> Verdict {
    if std::process::Command::new("strace").arg("-V").output().is_err() {
        return skip("strace is not installed");
    }
    let file = |name: &str, kind: u32, device: u32, flags: i32| {
        let node = call(libc::SYS_mknodat, &format!("-100,'{name},{},{device}", kind | 0o600));
        format!("{node} {}", call(libc::SYS_openat, &format!("-100,'{name},{flags},0")))
    };
    let fifo = file("/memfd:fifo", libc::S_IFIFO, 0, libc::O_RDONLY | libc::O_NONBLOCK);
    let null = file("/memfd:null", libc::S_IFCHR, 1 << 8 | 3, libc::O_RDWR);
    let words = format!("/helper @payload hold {fifo} {null}");
    let bundle = t.bundle()?.privileged().set("/root/readonly", json!(false)).helper()?;
    let bundle = bundle.args(&words.split_whitespace().collect::<Vec<_>>());
    let container = start(t, &bundle)?;
    let ready = bundle.rootfs().join("ready");
    eventually("it is ready", || ready.exists().then_some(()))?;
    ensure_eq!(text(&ready), String::new(), "what could not be opened");
    let checked = t.command();
    let log = t.path("opened");
    let mut traced = std::process::Command::new("strace");
    traced.args(["-f", "-e", "trace=open,openat,openat2", "-o"]).arg(&log);
    traced.arg(checked.get_program()).args(checked.get_args()).args(["checkpoint", "--check", &container.id]);
    t.finish(traced)?;
    let calls = text(&log);
    let of_files: Vec<&str> = calls.lines().filter(|line| line.contains("/fd/")).collect();
    ensure!(of_files.len() >= 2, "the check has not looked at both: {calls}");
    let opened: Vec<&&str> = of_files.iter().filter(|line| !line.contains("O_PATH")).collect();
    ensure!(opened.is_empty(), "opened: {opened:?}");
    Ok(())
}

/// How many rows could be made, how many of these do not come back, and which of those were not named.
fn compare(t: &T, rows: &[Row]) -> Verdict<(usize, Vec<&'static str>, Vec<&'static str>)> {
    let (mut made, mut lost, mut missed) = (0, Vec::new(), Vec::new());
    for (name, does, words) in rows {
        let Some(seen) = look(t, does).context(name)? else { continue };
        made += 1;
        if seen.back {
            let quiet = seen.said == "nothing was found that a dump would not take\n";
            ensure!(seen.code == 0 && (quiet || !words.is_empty()), "{name} comes back, and is named: {}", seen.said);
            continue;
        }
        lost.push(*name);
        if seen.code != 1 || !seen.said.contains(words) {
            missed.push(*name);
        }
    }
    Ok((made, lost, missed))
}

/// 19 of 20 processes that do not come back must be named.
fn nearly_all_are_named(t: &T, rows: &[Row], least: usize) -> Verdict {
    let (_, lost, missed) = compare(t, rows)?;
    let lost = lost.len();
    if lost < least {
        return skip(format!("only {lost} of these containers can be made here"));
    }
    ensure!(missed.len() * 20 <= lost, "of {lost} that do not come back these were not named: {missed:?}");
    Ok(())
}

fn descriptors_and_memory_are_named_that_do_not_come_back(t: &T) -> Verdict {
    let rows: Vec<Row> = descriptors().into_iter().chain(files()).collect();
    nearly_all_are_named(t, &rows, 20)
}

fn ways_of_opening_and_waiting_are_named_that_do_not_come_back(t: &T) -> Verdict {
    let rows: Vec<Row> = ways().into_iter().chain(covered_and_waiting()).collect();
    nearly_all_are_named(t, &rows, 10)
}

fn mounts_and_namespaces_are_named_that_do_not_come_back(t: &T) -> Verdict {
    nearly_all_are_named(t, &mounted(), 14)
}

fn what_comes_back_is_not_named(t: &T) -> Verdict {
    let rows: Vec<Row> = whole().into_iter().chain(whole_too()).collect();
    let (made, lost, _) = compare(t, &rows)?;
    ensure!(made >= 20, "only {made} of these containers can be made here");
    ensure!(lost.is_empty(), "these containers did not come back: {lost:?}");
    Ok(())
}

fn what_is_lost_is_named(t: &T) -> Verdict {
    let mut made = 0;
    for (name, does, words) in settings() {
        let Some(seen) = look(t, &does).context(name)? else { continue };
        made += 1;
        ensure!(seen.back, "{name}: it did not come back");
        ensure!(seen.code == 0 && seen.said.contains(words), "{name} is not named: {}", seen.said);
    }
    ensure!(made >= 6, "only {made} of these containers can be made here");
    Ok(())
}
