//! The names of system calls. For a multiplexing call, the request is part of the name.

macro_rules! names {
    ($($name:ident $number:ident),* $(,)?) => {
        const NAMES: &[(i64, &str)] = &[$((libc::$number, stringify!($name))),*];
    };
}

names! {
    accept SYS_accept, accept4 SYS_accept4, access SYS_access, add_key SYS_add_key, arch_prctl SYS_arch_prctl,
    bind SYS_bind, bpf SYS_bpf, brk SYS_brk, capget SYS_capget, capset SYS_capset, chdir SYS_chdir, chmod SYS_chmod,
    chown SYS_chown, chroot SYS_chroot, clock_gettime SYS_clock_gettime, clock_nanosleep SYS_clock_nanosleep,
    clone SYS_clone, clone3 SYS_clone3, close SYS_close, close_range SYS_close_range, connect SYS_connect,
    copy_file_range SYS_copy_file_range, creat SYS_creat, dup SYS_dup, dup2 SYS_dup2, dup3 SYS_dup3,
    epoll_create1 SYS_epoll_create1, epoll_ctl SYS_epoll_ctl, epoll_pwait SYS_epoll_pwait,
    epoll_pwait2 SYS_epoll_pwait2, epoll_wait SYS_epoll_wait, eventfd2 SYS_eventfd2, execve SYS_execve,
    execveat SYS_execveat, exit SYS_exit, exit_group SYS_exit_group, faccessat SYS_faccessat,
    faccessat2 SYS_faccessat2, fadvise64 SYS_fadvise64, fallocate SYS_fallocate, fchdir SYS_fchdir,
    fchmod SYS_fchmod, fchmodat SYS_fchmodat, fchmodat2 SYS_fchmodat2, fchown SYS_fchown, fchownat SYS_fchownat, fcntl SYS_fcntl,
    fdatasync SYS_fdatasync, fgetxattr SYS_fgetxattr, flistxattr SYS_flistxattr, flock SYS_flock, fork SYS_fork,
    fremovexattr SYS_fremovexattr, fsconfig SYS_fsconfig, fsetxattr SYS_fsetxattr, fsmount SYS_fsmount,
    fsopen SYS_fsopen, fspick SYS_fspick, fstat SYS_fstat, fstatfs SYS_fstatfs, fsync SYS_fsync,
    ftruncate SYS_ftruncate, futex SYS_futex, getcwd SYS_getcwd, getdents SYS_getdents, getdents64 SYS_getdents64,
    getegid SYS_getegid, geteuid SYS_geteuid, getgid SYS_getgid, getgroups SYS_getgroups,
    getpeername SYS_getpeername, getpgid SYS_getpgid, getpid SYS_getpid, getppid SYS_getppid,
    getpriority SYS_getpriority, getrandom SYS_getrandom, getresgid SYS_getresgid, getresuid SYS_getresuid,
    getrlimit SYS_getrlimit, getrusage SYS_getrusage, getsid SYS_getsid, getsockname SYS_getsockname,
    getsockopt SYS_getsockopt, gettid SYS_gettid, gettimeofday SYS_gettimeofday, getuid SYS_getuid,
    getxattr SYS_getxattr, inotify_add_watch SYS_inotify_add_watch, inotify_init1 SYS_inotify_init1,
    inotify_rm_watch SYS_inotify_rm_watch, ioctl SYS_ioctl, ioprio_get SYS_ioprio_get, ioprio_set SYS_ioprio_set,
    kcmp SYS_kcmp, keyctl SYS_keyctl, kill SYS_kill, lchown SYS_lchown, lgetxattr SYS_lgetxattr, link SYS_link,
    linkat SYS_linkat, listen SYS_listen, listxattr SYS_listxattr, lseek SYS_lseek, lsetxattr SYS_lsetxattr,
    lstat SYS_lstat, madvise SYS_madvise, membarrier SYS_membarrier, memfd_create SYS_memfd_create,
    mincore SYS_mincore, mkdir SYS_mkdir, mkdirat SYS_mkdirat, mknod SYS_mknod, mknodat SYS_mknodat, mmap SYS_mmap,
    mount SYS_mount, mount_setattr SYS_mount_setattr, move_mount SYS_move_mount, mprotect SYS_mprotect,
    mremap SYS_mremap, munmap SYS_munmap, name_to_handle_at SYS_name_to_handle_at, nanosleep SYS_nanosleep,
    newfstatat SYS_newfstatat, open SYS_open, open_tree SYS_open_tree, openat SYS_openat, openat2 SYS_openat2,
    pause SYS_pause, perf_event_open SYS_perf_event_open, personality SYS_personality,
    pidfd_getfd SYS_pidfd_getfd, pidfd_open SYS_pidfd_open, pidfd_send_signal SYS_pidfd_send_signal, pipe SYS_pipe,
    pipe2 SYS_pipe2, pivot_root SYS_pivot_root, poll SYS_poll, ppoll SYS_ppoll, prctl SYS_prctl,
    pread64 SYS_pread64, preadv SYS_preadv, prlimit64 SYS_prlimit64, process_mrelease SYS_process_mrelease,
    pselect6 SYS_pselect6, pwrite64 SYS_pwrite64, pwritev SYS_pwritev, read SYS_read, readlink SYS_readlink,
    readlinkat SYS_readlinkat, readv SYS_readv, recvfrom SYS_recvfrom, recvmmsg SYS_recvmmsg, recvmsg SYS_recvmsg,
    removexattr SYS_removexattr, rename SYS_rename, renameat SYS_renameat, renameat2 SYS_renameat2, rmdir SYS_rmdir,
    rseq SYS_rseq, rt_sigaction SYS_rt_sigaction, rt_sigpending SYS_rt_sigpending,
    rt_sigprocmask SYS_rt_sigprocmask, rt_sigqueueinfo SYS_rt_sigqueueinfo, rt_sigreturn SYS_rt_sigreturn,
    rt_sigsuspend SYS_rt_sigsuspend, rt_sigtimedwait SYS_rt_sigtimedwait, sched_getaffinity SYS_sched_getaffinity,
    sched_getattr SYS_sched_getattr, sched_getparam SYS_sched_getparam, sched_getscheduler SYS_sched_getscheduler,
    sched_setaffinity SYS_sched_setaffinity, sched_setattr SYS_sched_setattr,
    sched_setscheduler SYS_sched_setscheduler, sched_yield SYS_sched_yield, seccomp SYS_seccomp,
    sendfile SYS_sendfile, sendmmsg SYS_sendmmsg, sendmsg SYS_sendmsg, sendto SYS_sendto,
    set_mempolicy SYS_set_mempolicy, set_robust_list SYS_set_robust_list, set_tid_address SYS_set_tid_address,
    setdomainname SYS_setdomainname, setfsgid SYS_setfsgid, setfsuid SYS_setfsuid, setgid SYS_setgid,
    setgroups SYS_setgroups, sethostname SYS_sethostname, setns SYS_setns, setpgid SYS_setpgid,
    setpriority SYS_setpriority, setregid SYS_setregid, setresgid SYS_setresgid, setresuid SYS_setresuid,
    setreuid SYS_setreuid, setrlimit SYS_setrlimit, setsid SYS_setsid, setsockopt SYS_setsockopt,
    setuid SYS_setuid, setxattr SYS_setxattr, shutdown SYS_shutdown, sigaltstack SYS_sigaltstack,
    signalfd4 SYS_signalfd4, socket SYS_socket, socketpair SYS_socketpair, splice SYS_splice, stat SYS_stat,
    statfs SYS_statfs, statx SYS_statx, symlink SYS_symlink, symlinkat SYS_symlinkat,
    sync_file_range SYS_sync_file_range, syncfs SYS_syncfs, sysinfo SYS_sysinfo, tee SYS_tee, tgkill SYS_tgkill,
    timer_create SYS_timer_create, timer_settime SYS_timer_settime, timerfd_create SYS_timerfd_create,
    timerfd_gettime SYS_timerfd_gettime, timerfd_settime SYS_timerfd_settime, times SYS_times, tkill SYS_tkill,
    truncate SYS_truncate, umask SYS_umask, umount2 SYS_umount2, uname SYS_uname, unlink SYS_unlink,
    unlinkat SYS_unlinkat, unshare SYS_unshare, utimensat SYS_utimensat, vfork SYS_vfork, vmsplice SYS_vmsplice,
    wait4 SYS_wait4, waitid SYS_waitid, write SYS_write, writev SYS_writev,
}

/// A call that multiplexes, the index of the argument that selects, and the names of its values.
type Requests = (&'static str, usize, &'static [(u64, &'static str)]);

const REQUESTS: &[Requests] = &[
    (
        "fcntl",
        1,
        &[
            (0, "F_DUPFD"),
            (1, "F_GETFD"),
            (2, "F_SETFD"),
            (3, "F_GETFL"),
            (4, "F_SETFL"),
            (5, "F_GETLK"),
            (6, "F_SETLK"),
            (7, "F_SETLKW"),
            (1030, "F_DUPFD_CLOEXEC"),
            (1031, "F_SETPIPE_SZ"),
            (1032, "F_GETPIPE_SZ"),
            (1033, "F_ADD_SEALS"),
        ],
    ),
    (
        "prctl",
        0,
        &[
            (1, "PR_SET_PDEATHSIG"),
            (4, "PR_SET_DUMPABLE"),
            (8, "PR_SET_KEEPCAPS"),
            (15, "PR_SET_NAME"),
            (16, "PR_GET_NAME"),
            (22, "PR_SET_SECCOMP"),
            (23, "PR_CAPBSET_READ"),
            (24, "PR_CAPBSET_DROP"),
            (28, "PR_SET_SECUREBITS"),
            (36, "PR_SET_CHILD_SUBREAPER"),
            (38, "PR_SET_NO_NEW_PRIVS"),
            (47, "PR_CAP_AMBIENT"),
        ],
    ),
    (
        "ioctl",
        1,
        &[
            (0x5401, "TCGETS"),
            (0x5402, "TCSETS"),
            (0x5403, "TCSETSW"),
            (0x540e, "TIOCSCTTY"),
            (0x5413, "TIOCGWINSZ"),
            (0x5414, "TIOCSWINSZ"),
            (0x541b, "FIONREAD"),
            (0x540f, "TIOCGPGRP"),
            (0x5421, "FIONBIO"),
            (0x5441, "TIOCGPTPEER"),
            (0x8913, "SIOCGIFFLAGS"),
            (0x8914, "SIOCSIFFLAGS"),
            (0x4004_5431, "TIOCSPTLCK"),
            (0x8004_5430, "TIOCGPTN"),
        ],
    ),
];

/// `openat`, or `fcntl:F_GETFD`. An unknown call is shown as its number.
pub fn name(number: i64, arguments: &[u64; 6]) -> String {
    let Some((_, name)) = NAMES.iter().find(|(known, _)| *known == number) else {
        return format!("call{number}");
    };
    let Some((_, at, requests)) = REQUESTS.iter().find(|(call, _, _)| call == name) else {
        return (*name).to_owned();
    };
    let request = arguments[*at] & 0xffff_ffff;
    match requests.iter().find(|(value, _)| *value == request) {
        Some((_, word)) => format!("{name}:{word}"),
        None => format!("{name}:{request}"),
    }
}

/// The call without the request.
pub fn base(name: &str) -> &str {
    name.split(':').next().unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::{NAMES, base, name};

    #[test]
    fn requests_tell_calls_apart() {
        assert_eq!(name(libc::SYS_fcntl, &[3, 1, 0, 0, 0, 0]), "fcntl:F_GETFD");
        assert_eq!(name(libc::SYS_prctl, &[24, 3, 0, 0, 0, 0]), "prctl:PR_CAPBSET_DROP");
        assert_eq!(name(libc::SYS_openat, &[1, 2, 3, 4, 5, 6]), "openat");
        assert_eq!(name(999, &[0; 6]), "call999");
        assert_eq!(base("fcntl:F_GETFD"), "fcntl");
    }

    #[test]
    fn each_number_has_one_name() {
        let mut numbers: Vec<i64> = NAMES.iter().map(|(number, _)| *number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), NAMES.len());
    }
}
