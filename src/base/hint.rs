//! Advice on errors: a table from errno, call and origin to what to do.
//!
//! There is a row only if the cause is certain, or if the hint can name the few possible causes. The first row that
//! matches wins, so special cases come before general ones. Where more is known when the error is made, the hint is
//! given there ([`Error::with_hint`]), and this table is not asked.

use nix::errno::Errno;

use crate::error::{Error, Kind, Origin};

/// One piece of advice and when it applies; an empty or absent condition holds always.
struct Row {
    errno: Option<Errno>,
    kind: Option<Kind>,
    /// Names of the failed call.
    calls: &'static [&'static str],
    /// The origin: a JSON Pointer in which `*` stands for one segment and a final `**` for any number, or a flag.
    origin: &'static str,
    /// A part of the message: a fault of the configuration carries nothing else but its pointer.
    says: &'static str,
    hint: &'static str,
}

/// A part of the fault for a kernel parameter whose namespace is the host's.
pub const NOT_IN_THE_HOSTS: &str = "is not allowed in the hosts";

const ANY: Row = Row { errno: None, kind: None, calls: &[], origin: "", says: "", hint: "" };

const fn on(errno: Errno, calls: &'static [&'static str], origin: &'static str, hint: &'static str) -> Row {
    Row { errno: Some(errno), calls, origin, hint, ..ANY }
}

/// The advice for this error, if there is any.
pub fn for_error(error: &Error) -> Option<&'static str> {
    ROWS.iter().find(|row| matches(row, error)).map(|row| row.hint)
}

fn matches(row: &Row, error: &Error) -> bool {
    let call = error.call().and_then(|call| call.split('(').next());
    let origin = match error.origin() {
        Some(Origin::Config(text) | Origin::Flag(text)) => text.as_ref(),
        Some(Origin::Default(_)) | None => "",
    };
    row.errno.is_none_or(|errno| error.errno() == Some(errno))
        && row.kind.is_none_or(|kind| error.kind() == kind)
        && (row.calls.is_empty() || call.is_some_and(|call| row.calls.contains(&call)))
        && (row.origin.is_empty() || below(row.origin, origin))
        && error.message().contains(row.says)
}

fn below(pattern: &str, pointer: &str) -> bool {
    let mut segments = pointer.split('/');
    for wanted in pattern.split('/') {
        match (wanted, segments.next()) {
            ("**", _) => return true,
            (_, None) => return false,
            ("*", Some(_)) => {}
            (wanted, Some(segment)) if wanted == segment => {}
            _ => return false,
        }
    }
    segments.next().is_none()
}

const RANGES: &str = "ranges of a mapping must not overlap; at most 340, in less text than a page of memory";

const ROWS: &[Row] = &[
    // The program.
    on(
        Errno::ENOEXEC,
        &["execve", "execveat"],
        "",
        "the file is neither a program for this machine's architecture nor a script that begins with #!",
    ),
    on(
        Errno::ENOENT,
        &["access"],
        "",
        "the path is one inside the container, where a symbolic link may lead to nothing",
    ),
    on(
        Errno::EACCES,
        &["access"],
        "",
        "the file lacks the x bit, or a directory on the way may not be searched, by the user of the process",
    ),
    on(Errno::EISDIR, &["access"], "", "the first of the arguments is the program, and this is a directory"),
    on(
        Errno::ENOENT,
        &["execve", "execveat"],
        "",
        "if the file exists, its interpreter is missing in the container: the program after #! or the dynamic loader (`file` names it)",
    ),
    on(
        Errno::EACCES,
        &["execve", "execveat"],
        "",
        "the file is a directory, lacks the x bit for this user, lies on a mount with noexec, or a security module forbids it",
    ),
    on(
        Errno::EPERM,
        &["execve", "execveat"],
        "",
        "a security module or the file's capabilities forbid it to this user",
    ),
    on(
        Errno::E2BIG,
        &["execve", "execveat"],
        "",
        "arguments and environment together exceed the limit that follows from RLIMIT_STACK",
    ),
    on(
        Errno::ENOENT,
        &[],
        "/process/cwd",
        "cwd is a path inside the container; a read-only root filesystem must have it already",
    ),
    on(Errno::ENOTDIR, &[], "/process/cwd", "cwd is a path inside the container, and a part of it is not a directory"),
    on(Errno::EACCES, &[], "/process/cwd", "the user of the process may not search this directory"),
    // The bundle and other files of the caller.
    on(Errno::ENOENT, &[], "--bundle", "a bundle is a directory with a config.json and the root filesystem"),
    on(Errno::ENOENT, &[], "--pid-file", "the directory of the file must exist"),
    on(Errno::ENOENT, &[], "--log", "the directory of the file must exist"),
    on(Errno::EACCES, &["openat2"], "/process/terminal", "the devpts on /dev/pts is that of another user namespace"),
    on(Errno::ENXIO, &[], "--log", "it is a FIFO that nobody reads, or a socket"),
    // Containers.
    Row {
        kind: Some(Kind::AlreadyExists),
        hint: "`list` shows the containers, `delete` removes one that has stopped",
        ..ANY
    },
    // The root filesystem and mounts.
    on(Errno::ENOENT, &[], "/root/path", "root.path is relative to the bundle's directory unless it begins with /"),
    on(
        Errno::EINVAL,
        &["pivot_root"],
        "",
        "a root filesystem on the initial ramdisk cannot be pivoted away from: use --no-pivot",
    ),
    on(
        Errno::ENOENT,
        &["open_tree", "openat", "openat2"],
        "/mounts/*/source",
        "the source of a bind mount must exist before create; the runtime does not make it",
    ),
    on(
        Errno::ENOENT,
        &["open_tree"],
        "/mounts/**",
        "the source of a bind mount must exist before create; the runtime does not make it",
    ),
    on(
        Errno::ENODEV,
        &["fsopen", "mount"],
        "/mounts/**",
        "the kernel does not know this filesystem type: see /proc/filesystems, its module may have to be loaded on the host",
    ),
    on(
        Errno::EINVAL,
        &["mount_setattr", "open_tree_attr"],
        "/mounts/*/uidMappings",
        "this filesystem cannot be mounted with mapped ids by this kernel, or the mount has a mapping already",
    ),
    on(
        Errno::EPERM,
        &["mount_setattr"],
        "/mounts/**",
        "in a user namespace, attributes that the source mount has (nosuid, nodev, noexec, ro, noatime) cannot be taken away",
    ),
    on(
        Errno::ENOTDIR,
        &["move_mount"],
        "/mounts/**",
        "a directory can only be mounted on a directory, and a file only on a file",
    ),
    on(
        Errno::ENOSPC,
        &["move_mount", "mount", "open_tree", "fsmount"],
        "",
        "the mount namespace is full: the limit is /proc/sys/fs/mount-max",
    ),
    on(
        Errno::EINVAL,
        &["fsconfig", "mount"],
        "/mounts/**",
        "the filesystem refuses one of its options; the kernel log (dmesg) may say which",
    ),
    on(Errno::ELOOP, &["openat2"], "", "a symbolic link stands where the runtime will not follow one"),
    on(Errno::EXDEV, &["openat2"], "", "the path leads out of the container's root filesystem"),
    // Devices.
    on(
        Errno::EPERM,
        &["mknodat"],
        "",
        "making device nodes needs CAP_MKNOD outside of user namespaces: bind mount the host's node instead",
    ),
    on(
        Errno::EPERM,
        &["bpf"],
        "",
        "device rules are an eBPF program: loading it needs CAP_BPF (CAP_SYS_ADMIN before Linux 5.8) outside of user namespaces",
    ),
    // Namespaces and ids.
    on(
        Errno::ENOSPC,
        &["clone3", "unshare"],
        "",
        "a limit on namespaces is reached: see /proc/sys/user/max_*_namespaces",
    ),
    on(
        Errno::EAGAIN,
        &["clone3", "fork", "clone", "execve", "execveat"],
        "",
        "a limit on processes is reached: pids.max of the cgroup or one above it, RLIMIT_NPROC, or kernel.pid_max",
    ),
    on(
        Errno::EBUSY,
        &["clone3"],
        "",
        "a cgroup whose controllers are enabled for its children cannot hold processes itself: choose a cgroupsPath below it",
    ),
    on(
        Errno::EPERM,
        &["clone3", "unshare"],
        "",
        "new namespaces need CAP_SYS_ADMIN, or a new user namespace where the system allows those to ordinary users",
    ),
    on(
        Errno::ENOENT,
        &[],
        "/linux/namespaces/*/path",
        "a namespace lives as long as a process in it or a bind mount of its file: the path does not exist any more, or never did",
    ),
    on(
        Errno::ENOENT,
        &[],
        "/linux/namespaces/*",
        "a namespace lives as long as a process in it or a bind mount of its file: the path does not exist any more, or never did",
    ),
    on(
        Errno::EINVAL,
        &["setns"],
        "",
        "the file is a namespace of another type than the configuration says, or the user namespace that the runtime is in already",
    ),
    on(
        Errno::EPERM,
        &[],
        "/linux/uidMappings",
        "the ids outside must be the caller's own, or it needs CAP_SETUID over them (newuidmap and /etc/subuid otherwise)",
    ),
    on(
        Errno::EPERM,
        &[],
        "/linux/gidMappings",
        "the ids outside must be the caller's own, or it needs CAP_SETGID over them (newgidmap and /etc/subgid otherwise)",
    ),
    on(Errno::EINVAL, &[], "/linux/uidMappings", RANGES),
    on(Errno::EINVAL, &[], "/linux/gidMappings", RANGES),
    on(
        Errno::ERANGE,
        &[],
        "/linux/timeOffsets/**",
        "a clock with its offset must be neither negative nor beyond 146 years",
    ),
    on(
        Errno::EINVAL,
        &["setresuid", "setresgid", "setgroups"],
        "",
        "the id is not mapped in the container's user namespace (linux.uidMappings, linux.gidMappings)",
    ),
    // Kernel parameters.
    Row {
        kind: Some(Kind::InvalidConfig),
        origin: "/linux/sysctl/**",
        says: NOT_IN_THE_HOSTS,
        hint: "give the container a namespace of its own for it (linux.namespaces), or set it on the host",
        ..ANY
    },
    on(
        Errno::ENOENT,
        &[],
        "/linux/sysctl/**",
        "this kernel has no such parameter; some appear only when their module is loaded on the host",
    ),
    on(Errno::EINVAL, &[], "/linux/sysctl/**", "the kernel refuses this value for this parameter"),
    on(
        Errno::EACCES,
        &[],
        "/linux/sysctl/**",
        "this parameter can only be set by root of the user namespace that owns the network or IPC namespace",
    ),
    // Limits and properties of the process.
    on(
        Errno::EPERM,
        &["prlimit64", "setrlimit", "prlimit"],
        "",
        "raising a hard limit needs CAP_SYS_RESOURCE, and RLIMIT_NOFILE cannot exceed /proc/sys/fs/nr_open even with it",
    ),
    on(Errno::EINVAL, &["prlimit64", "setrlimit", "prlimit"], "", "the soft limit must not exceed the hard limit"),
    on(
        Errno::EACCES,
        &[],
        "/process/oomScoreAdj",
        "lowering oom_score_adj below the caller's own needs CAP_SYS_RESOURCE",
    ),
    on(
        Errno::EPERM,
        &["sched_setattr"],
        "",
        "realtime and deadline policies and negative nice values need CAP_SYS_NICE, and a kernel with \
         CONFIG_RT_GROUP_SCHED refuses realtime ones below the cpu controller of cgroup v2",
    ),
    on(Errno::EBUSY, &["sched_setattr"], "", "the deadline's share of CPU time is not available"),
    on(Errno::EPERM, &["ioprio_set"], "", "the realtime I/O class needs CAP_SYS_ADMIN or CAP_SYS_NICE"),
    on(Errno::EINVAL, &["sched_setaffinity"], "", "none of these CPUs is online and in the cpuset of the cgroup"),
    on(
        Errno::EDQUOT,
        &["keyctl", "add_key"],
        "",
        "the user's quota of keys is used up (/proc/sys/kernel/keys): raise it, or use --no-new-keyring",
    ),
    // Security modules and seccomp.
    on(
        Errno::ENOENT,
        &[],
        "/process/apparmorProfile",
        "the profile is not loaded: aa-status lists those that are, apparmor_parser -r loads one",
    ),
    on(Errno::EINVAL, &[], "/process/selinuxLabel", "the loaded SELinux policy does not know this label"),
    on(
        Errno::EACCES,
        &["seccomp"],
        "",
        "without noNewPrivileges, loading a filter needs CAP_SYS_ADMIN in the container's user namespace",
    ),
    on(Errno::EBUSY, &["seccomp"], "", "the process has a filter with a listener already"),
    on(
        Errno::EINVAL,
        &["seccomp"],
        "",
        "this kernel does not know one of the filter's flags or actions: `features` lists those that it does",
    ),
    // cgroups.
    on(
        Errno::EBUSY,
        &[],
        "/linux/cgroupsPath",
        "a cgroup that holds processes cannot enable controllers for its children: move them to a leaf first",
    ),
    on(
        Errno::ENOENT,
        &[],
        "/linux/resources/unified/*",
        "there is no such file in the cgroup: the controller is not enabled, or this kernel does not have it",
    ),
    on(
        Errno::EINVAL,
        &[],
        "/linux/resources/cpu/cpus",
        "the list is malformed or names CPUs that this machine does not have (/sys/devices/system/cpu/possible)",
    ),
    on(
        Errno::EINVAL,
        &[],
        "/linux/resources/cpu/quota",
        "quota and period must be at least 1000 us each, and the period at most 1000000 us",
    ),
    on(
        Errno::ENODEV,
        &[],
        "/linux/resources/blockIO/**",
        "io limits take whole disks: major and minor of a partition or of a missing device are refused",
    ),
    on(
        Errno::EROFS,
        &[],
        "/linux/cgroupsPath",
        "the cgroup filesystem is read-only here, as it is inside most containers",
    ),
    // Network devices.
    on(
        Errno::ENODEV,
        &[],
        "/linux/netDevices/*",
        "the network namespace of the runtime has no interface of this name (ip link lists them)",
    ),
    on(
        Errno::EEXIST,
        &[],
        "/linux/netDevices/*",
        "the container's network namespace has an interface of that name already",
    ),
    on(
        Errno::EINVAL,
        &[],
        "/linux/netDevices/*",
        "an interface that is bound to its namespace (lo, some tunnels and bridges) cannot be moved",
    ),
    // Hooks and sockets.
    on(
        Errno::ENOENT,
        &[],
        "/hooks/**",
        "the path of a hook is absolute; createContainer and the hooks before it run in the host's filesystem, startContainer in the container's",
    ),
    on(
        Errno::ECONNREFUSED,
        &[],
        "--console-socket",
        "no process listens on this socket: the caller must listen before it starts the runtime",
    ),
    on(
        Errno::ENOENT,
        &[],
        "--console-socket",
        "the caller must make the socket and listen before it starts the runtime",
    ),
    on(
        Errno::ECONNREFUSED,
        &[],
        "--pidfd-socket",
        "no process listens on this socket: the caller must listen before it starts the runtime",
    ),
    on(Errno::ENOENT, &[], "--pidfd-socket", "the caller must make the socket and listen before it starts the runtime"),
    // Old kernels, and filters around the runtime that answer ENOSYS.
    on(Errno::ENOSYS, &["clone3"], "", "clone3 came with Linux 5.3; a seccomp filter around the runtime may hide it"),
    on(
        Errno::ENOSYS,
        &["open_tree", "move_mount", "fsopen", "fsconfig", "fsmount", "fspick"],
        "",
        "the calls for mounting by descriptor came with Linux 5.2; a seccomp filter around the runtime may hide them",
    ),
    on(Errno::ENOSYS, &["openat2"], "", "openat2 came with Linux 5.6; a seccomp filter around the runtime may hide it"),
    on(
        Errno::ENOSYS,
        &["pidfd_open"],
        "",
        "pidfd_open came with Linux 5.3; a seccomp filter around the runtime may hide it",
    ),
    on(
        Errno::ENOSYS,
        &["mount_setattr"],
        "",
        "mount_setattr came with Linux 5.12; idmapped mounts and recursive attributes need it",
    ),
    on(Errno::ENOSYS, &["close_range"], "", "close_range came with Linux 5.9"),
    on(Errno::ENOSYS, &["set_mempolicy"], "", "this kernel is built without NUMA support"),
    on(Errno::ENOSYS, &["seccomp"], "", "this kernel is built without CONFIG_SECCOMP_FILTER"),
    // Descriptors.
    on(Errno::EMFILE, &[], "", "the runtime's own limit of open files (RLIMIT_NOFILE) is reached"),
    on(Errno::ENFILE, &[], "", "the system's limit of open files is reached (fs.file-max)"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::SyscallError;

    fn failed(call: &'static str, errno: Errno, pointer: &'static str) -> Error {
        SyscallError { call: call.into(), errno }.context("it").with_origin(Origin::config(pointer))
    }

    #[test]
    fn a_missing_bind_source_is_the_callers_to_make() {
        let error = failed("open_tree(-100, \"/no\", OPEN_TREE_CLONE)", Errno::ENOENT, "/mounts/7/source");
        assert!(for_error(&error).is_some_and(|hint| hint.contains("must exist before create")));
    }

    #[test]
    fn another_errno_call_or_origin_gets_no_such_hint() {
        let is_about_bind = |error| for_error(&error).is_some_and(|hint| hint.contains("must exist before create"));
        assert!(!is_about_bind(failed("open_tree()", Errno::EACCES, "/mounts/7/source")));
        assert!(!is_about_bind(failed("open_tree()", Errno::ENOENT, "/linux/maskedPaths/3")));
        assert!(!is_about_bind(failed("write()", Errno::ENOENT, "/mounts/7/source")));
    }

    #[test]
    fn what_is_not_known_gets_no_hint() {
        assert_eq!(for_error(&failed("fchdir(3)", Errno::EIO, "/process/cwd")), None);
        assert_eq!(for_error(&Error::new(Kind::NotFound, "container does not exist")), None);
        assert_eq!(for_error(&Error::usage("flag needs an argument: -root")), None);
    }

    #[test]
    fn a_filesystem_may_refuse_its_options() {
        let tmpfs = failed("fsconfig(tmpfs, FSCONFIG_SET_STRING, \"size\", \"x\")", Errno::EINVAL, "/mounts/2");
        assert!(for_error(&tmpfs).is_some_and(|hint| hint.contains("one of its options")));
    }

    #[test]
    fn only_a_parameter_of_the_hosts_namespace_needs_one_of_its_own() {
        let fault = |msg: &str| for_error(&Error::config("/linux/sysctl/net.x", msg));
        let hosts = fault(&format!("sysctl \"net.x\" {NOT_IN_THE_HOSTS} network namespace"));
        assert!(hosts.is_some_and(|hint| hint.contains("namespace of its own")));
        assert_eq!(fault("sysctl \"net.x\" is not valid"), None);
    }

    #[test]
    fn a_program_that_does_not_run_gets_the_reason() {
        for (errno, word) in
            [(Errno::ENOEXEC, "architecture"), (Errno::ENOENT, "interpreter"), (Errno::EACCES, "noexec")]
        {
            let error = failed("execve(\"/x\", [\"x\"])", errno, "/process/args");
            assert!(for_error(&error).is_some_and(|hint| hint.contains(word)), "{errno}");
        }
    }

    #[test]
    fn an_old_kernel_is_named_by_the_version_that_is_needed() {
        for (call, version) in
            [("clone3(0)", "5.3"), ("openat2(3)", "5.6"), ("mount_setattr(3)", "5.12"), ("fsopen(\"proc\")", "5.2")]
        {
            assert!(for_error(&failed(call, Errno::ENOSYS, "")).is_some_and(|hint| hint.contains(version)), "{call}");
        }
    }

    #[test]
    fn limits_and_parameters_name_where_they_are_set() {
        for (call, errno, pointer, word) in [
            ("prlimit64(0, 7, {1, 2})", Errno::EPERM, "/process/rlimits/0", "CAP_SYS_RESOURCE"),
            ("clone3(CLONE_NEWUSER)", Errno::ENOSPC, "", "max_*_namespaces"),
            ("clone3(CLONE_NEWPID|CLONE_INTO_CGROUP)", Errno::EBUSY, "", "cgroupsPath"),
            ("openat2(5, \"net/x\")", Errno::ENOENT, "/linux/sysctl/net.x", "no such parameter"),
            ("sendto(3)", Errno::ENODEV, "/linux/netDevices/eth9", "ip link"),
            ("keyctl(KEYCTL_JOIN_SESSION_KEYRING, \"_ses.x\")", Errno::EDQUOT, "", "--no-new-keyring"),
            ("openat2(5, \"attr/exec\")", Errno::ENOENT, "/process/apparmorProfile", "apparmor_parser"),
        ] {
            let hint = for_error(&failed(call, errno, pointer));
            assert!(hint.is_some_and(|hint| hint.contains(word)), "{call} {errno}: {hint:?}");
        }
    }

    #[test]
    fn a_flag_can_be_the_cause() {
        let error = SyscallError { call: "connect(\"/s\")".into(), errno: Errno::ECONNREFUSED }
            .context("cannot send the terminal")
            .with_origin(Origin::Flag("--console-socket".into()));
        assert!(for_error(&error).is_some_and(|hint| hint.contains("no process listens")));
    }

    #[test]
    fn a_pattern_matches_whole_segments() {
        assert!(below("/mounts/*/source", "/mounts/7/source"));
        assert!(!below("/mounts/*/source", "/mounts/7"));
        assert!(!below("/mounts/*", "/mounts/7/source"));
        assert!(below("/mounts/**", "/mounts/7/options/2"));
        assert!(!below("/mounts/**", "/mountsx/7"));
        assert!(below("--console-socket", "--console-socket"));
    }

    #[test]
    fn every_row_can_be_reached_and_is_a_single_line() {
        for (index, row) in ROWS.iter().enumerate() {
            assert!(!row.hint.is_empty() && !row.hint.contains('\n') && !row.hint.ends_with('.'), "{}", row.hint);
            let pointer = row.origin.replace("**", "x").replace('*', "0");
            let call = row.calls.first().copied().unwrap_or("write");
            let kind = row.kind.unwrap_or(Kind::Kernel);
            let errno = row.errno.unwrap_or(Errno::EIO);
            let origin = if pointer.starts_with("--") { Origin::Flag(pointer.into()) } else { Origin::config(pointer) };
            let error = SyscallError { call: format!("{call}()").into(), errno }
                .context(row.says)
                .with_kind(kind)
                .with_origin(origin);
            let first = ROWS.iter().position(|row| matches(row, &error));
            assert_eq!(first, Some(index), "hidden by an earlier row: {}", row.hint);
        }
    }
}
