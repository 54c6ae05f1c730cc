//! Making, finding, signalling and reaping processes.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::CloneFlags;

use windlass_base::namespaces::Namespaces;

use super::{Called, Result, SyscallError, check, fd, fd_name, flag_names, socket};

/// Proof that this process has one thread. `fork` needs it, because the child of a process with several threads may
/// find the allocator locked for ever. setns(2) into a user or mount namespace needs it too.
pub struct SingleThreaded(());

impl SingleThreaded {
    /// Fails with `EBUSY` in a process with several threads.
    pub fn check() -> Result<SingleThreaded> {
        // unshare(CLONE_THREAD) succeeds, and changes nothing, in a process with one thread, and fails in one with
        // several (unshare(2)). It costs a twentieth of reading /proc/self/task.
        nix::sched::unshare(CloneFlags::CLONE_THREAD)
            .map(|()| SingleThreaded(()))
            .map_err(|errno| if errno == Errno::EINVAL { Errno::EBUSY } else { errno })
            .called(|| "unshare(CLONE_THREAD)".into())
    }
}

/// The side of a clone that returns.
pub enum Forked {
    /// The new process.
    Child,
    /// The old process.
    Parent(Child),
}

/// A child process and the descriptor that names it for as long as it is held. Its number is its own until it is
/// reaped, and only its owner reaps a [`Child`]. So it may be looked up in `/proc` by that number; for other processes
/// see [`open_of`].
#[derive(Debug)]
pub struct Child {
    /// Its id in our PID namespace.
    pub pid: i32,
    /// Its pidfd.
    pub pidfd: OwnedFd,
}

/// linux/sched.h; libc's constant is too narrow.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// `struct clone_args` of linux/sched.h, which libc does not have for every architecture.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// clone3(2) with the semantics of fork: the child gets a copy of the memory and goes on here.
///
/// With `cgroup` the child starts in that cgroup (`CLONE_INTO_CGROUP`, Linux 5.7).
pub fn fork(flags: CloneFlags, cgroup: Option<BorrowedFd<'_>>, _proof: &SingleThreaded) -> Result<Forked> {
    let mut pidfd: libc::c_int = -1;
    let mut args = CloneArgs {
        flags: flags.bits() as u32 as u64 | libc::CLONE_PIDFD as u64,
        pidfd: (&raw mut pidfd) as u64,
        exit_signal: if flags.contains(CloneFlags::CLONE_PARENT) { 0 } else { libc::SIGCHLD as u64 },
        ..CloneArgs::default()
    };
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: no stack is given, so the child goes on with a copy of ours, like fork's child;
    // the caller has one thread (`_proof`), so no lock of the copy is held by anyone else;
    // `args` and `pidfd` outlive the call.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) };
    let pid = check(pid, || {
        format!("clone3({}{})", flag_names(&flags), if cgroup.is_some() { "|CLONE_INTO_CGROUP" } else { "" })
    })?;
    if pid == 0 {
        return Ok(Forked::Child);
    }
    // SAFETY: the kernel stored a new descriptor there, which nobody else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Forked::Parent(Child { pid: pid as i32, pidfd }))
}

/// clone(2) of a sibling: a copy of this process whose parent is this process's parent. It is not clone3(2), because
/// seccomp filters cannot read the arguments of clone3(2), and so refuse it.
pub fn fork_sibling(_proof: &SingleThreaded) -> Result<Forked> {
    let mut pidfd: libc::c_int = -1;
    let flags = (libc::CLONE_PARENT | libc::CLONE_PIDFD) as libc::c_long;
    // s390x takes the stack before the flags.
    let (first, second) = if cfg!(target_arch = "s390x") { (0, flags) } else { (flags, 0) };
    // SAFETY: no stack is given, so the child goes on with a copy of ours, like fork's child; the
    // caller has one thread (`_proof`), so no lock of the copy is held by anyone else; the third
    // argument is where the pidfd goes on every architecture, and outlives the call; the last two,
    // whose order differs, are null.
    let pid = unsafe { libc::syscall(libc::SYS_clone, first, second, &raw mut pidfd, 0, 0) };
    let pid = check(pid, || "clone(CLONE_PARENT|CLONE_PIDFD)".into())?;
    if pid == 0 {
        return Ok(Forked::Child);
    }
    // SAFETY: the kernel stored a new descriptor there, which nobody else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Forked::Parent(Child { pid: pid as i32, pidfd }))
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It exited with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

impl Exit {
    /// How a process ended, by its wait status (wait(2)).
    pub fn of_status(status: i32) -> Exit {
        match status & 0x7f {
            0 => Exit::Code(status >> 8 & 0xff),
            signal => Exit::Signal(signal),
        }
    }

    /// The exit code; `None` if a signal ended it.
    pub fn code(self) -> Option<i32> {
        if let Exit::Code(code) = self { Some(code) } else { None }
    }

    /// The signal that ended it, if one did.
    pub fn signal(self) -> Option<i32> {
        if let Exit::Signal(signal) = self { Some(signal) } else { None }
    }

    /// The status a shell reports: 128 and the signal for a death by signal.
    pub fn status(self) -> i32 {
        match self {
            Exit::Code(code) => code,
            Exit::Signal(signal) => 128 + signal,
        }
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exit status {code}"),
            Exit::Signal(signal) => match nix::sys::signal::Signal::try_from(*signal) {
                Ok(name) => write!(f, "signal {signal} ({name})"),
                Err(_) => write!(f, "signal {signal}"),
            },
        }
    }
}

impl Child {
    /// Waits for the child's end and reaps it.
    pub fn wait(&self) -> Result<Exit> {
        loop {
            match wait_for(libc::P_PIDFD, self.pidfd.as_raw_fd(), 0) {
                Ok(Some((_, exit))) => return Ok(exit),
                Ok(None) => {}
                Err(errno) => {
                    return Err(SyscallError { call: format!("waitid(P_PIDFD, {})", self.pid).into(), errno });
                }
            }
        }
    }

    /// Reaps the child if it has ended.
    pub fn try_wait(&self) -> Result<Option<Exit>> {
        try_wait(self.pidfd.as_fd())
    }

    /// Whether both its id and its pidfd are of a child of this process that was not reaped. waitid(2) fails with
    /// ECHILD for any other process.
    pub fn is_ours(&self) -> bool {
        let names = [(libc::P_PIDFD, self.pidfd.as_raw_fd()), (libc::P_PID, self.pid)];
        names.into_iter().all(|(which, id)| wait_for(which, id, libc::WNOHANG | libc::WNOWAIT).is_ok())
    }

    /// Kills the child, if it has not ended yet.
    pub fn kill(&self) {
        let _ = send_signal(self.pidfd.as_fd(), libc::SIGKILL);
    }

    /// Kills the child and reaps it.
    pub fn end(&self) {
        self.kill();
        let _ = self.wait();
    }
}

/// Reaps the child behind `pidfd` if it has ended.
pub fn try_wait(pidfd: BorrowedFd<'_>) -> Result<Option<Exit>> {
    wait_for(libc::P_PIDFD, pidfd.as_raw_fd(), libc::WNOHANG)
        .called(|| format!("waitid(P_PIDFD, {})", fd_name(pidfd)))
        .map(|ended| ended.map(|(_, exit)| exit))
}

/// Calls waitid(2), again after a signal, and returns which process ended, and how. nix has no names for real-time
/// signals, and so fails for them.
fn wait_for(which: libc::idtype_t, id: RawFd, flags: libc::c_int) -> nix::Result<Option<(i32, Exit)>> {
    // SAFETY: all zeroes is a valid siginfo_t.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let flags = flags | libc::WEXITED | libc::__WALL;
    loop {
        // SAFETY: the call writes one siginfo_t, which outlives it.
        let returned = unsafe { libc::waitid(which, id as libc::id_t, &raw mut info, flags) };
        match Errno::result(returned) {
            Err(Errno::EINTR) => {}
            other => break other.map(drop)?,
        }
    }
    // SAFETY: waitid filled in what it does for SIGCHLD, or left it zero.
    let pid = unsafe { info.si_pid() };
    // SAFETY: as before.
    let status = unsafe { info.si_status() };
    let exit = if info.si_code == libc::CLD_EXITED { Exit::Code(status) } else { Exit::Signal(status) };
    Ok((pid != 0).then_some((pid, exit)))
}

/// Reaps every child that has ended, as a subreaper must; returns how many.
pub fn reap_others() -> usize {
    std::iter::from_fn(|| wait_for(libc::P_ALL, 0, libc::WNOHANG).ok().flatten()).count()
}

/// pidfd_open(2). A process that does not exist is always `ESRCH`. Older kernels (6.12) answer `EINVAL` while a process
/// group or a session still has its number.
pub fn open_pid(pid: i32) -> Result<OwnedFd> {
    // SAFETY: the call takes no pointers.
    let returned = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let opened = check(returned, || format!("pidfd_open({pid})")).map(super::owned::from_raw);
    opened.map_err(|failed| match failed.errno {
        Errno::EINVAL if pid > 0 => SyscallError { errno: Errno::ESRCH, ..failed },
        _ => failed,
    })
}

/// Opens `name` in the `/proc` directory of the process behind `pidfd`, whose number is `pid`. Fails with ESRCH if the
/// process was reaped meanwhile, since the number may be another's.
pub fn open_of(pid: i32, pidfd: BorrowedFd<'_>, name: &str, flags: OFlag) -> Result<OwnedFd> {
    let opened = fd::open(format!("/proc/{pid}/{name}"), flags);
    still_there(pidfd)?;
    opened
}

/// Fails with ESRCH if the process behind `pidfd` was reaped. Until then no other process can have its number.
pub fn still_there(pidfd: BorrowedFd<'_>) -> Result<()> {
    match send_signal(pidfd, 0) {
        // The process exists, and belongs to another user.
        Err(failed) if failed.errno == Errno::EPERM => Ok(()),
        other => other,
    }
}

/// pidfd_send_signal(2).
pub fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<()> {
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo is allowed and means the same as kill(2) would send.
    let returned = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, none, 0) };
    check(returned, || format!("pidfd_send_signal({}, {signal})", fd_name(pidfd))).map(drop)
}

/// The process group of `pid`, unless it is our own.
pub fn group_of(pid: i32) -> Option<i32> {
    let group = nix::unistd::getpgid(Some(nix::unistd::Pid::from_raw(pid))).ok()?;
    (group.as_raw() > 1 && group != nix::unistd::getpgrp()).then_some(group.as_raw())
}

/// killpg(3).
pub fn signal_group(group: i32, signal: i32) -> Result<()> {
    // SAFETY: the call takes no pointers.
    let returned = unsafe { libc::killpg(group, signal) };
    check(returned.into(), || format!("killpg({group}, {signal})")).map(drop)
}

/// A copy of the descriptor `raw` of another process; pidfd_getfd(2), Linux 5.6.
pub fn pidfd_getfd(pidfd: BorrowedFd<'_>, raw: i32) -> Result<OwnedFd> {
    // SAFETY: the call takes no pointers.
    let returned = unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), raw, 0) };
    check(returned, || format!("pidfd_getfd({}, {raw})", fd_name(pidfd))).map(super::owned::from_raw)
}

/// setns(2). `kinds` is the kind of namespace that the descriptor must have; for a pidfd it may be several.
pub fn setns(fd: BorrowedFd<'_>, kinds: Namespaces) -> Result<()> {
    let flags = kinds.into();
    nix::sched::setns(fd, flags).called(|| format!("setns({}, {})", fd_name(fd), flag_names(&flags)))
}

/// Makes a user namespace with these maps (user_namespaces(7)), for mounts. It is made for a child that does nothing,
/// and outlives that child.
pub fn user_namespace(uid_map: &str, gid_map: &str, proof: &SingleThreaded) -> Result<OwnedFd> {
    let (ours, theirs) = socket::pair()?;
    let child = match fork(CloneFlags::CLONE_NEWUSER, None, proof)? {
        Forked::Parent(child) => child,
        Forked::Child => {
            drop(ours);
            // Waits until the parent has opened the namespace, or has died.
            let _ = socket::receive(theirs.as_fd(), &mut [0; 1]);
            exit_now(0)
        }
    };
    drop(theirs);
    let path = |name: &str| format!("/proc/{}/{name}", child.pid);
    let write = |name, map: &str| {
        let file = fd::openat(fd::CWD, path(name), OFlag::O_WRONLY, 0)?;
        fd::write_once(file.as_fd(), map.as_bytes())
    };
    let made = write("uid_map", uid_map)
        .and_then(|()| write("gid_map", gid_map))
        .and_then(|()| fd::open(path("ns/user"), OFlag::O_RDONLY));
    drop(ours);
    child.wait()?;
    made
}

/// unshare(2).
pub fn unshare(kinds: Namespaces) -> Result<()> {
    let flags = kinds.into();
    nix::sched::unshare(flags).called(|| format!("unshare({})", flag_names(&flags)))
}

/// `PR_SET_CHILD_SUBREAPER`: orphans below us become our children.
pub fn become_subreaper() -> Result<()> {
    nix::sys::prctl::set_child_subreaper(true).called(|| "prctl(PR_SET_CHILD_SUBREAPER, 1)".into())
}

/// Undoes [`become_subreaper`], for processes that are started from now on.
pub fn resign_as_subreaper() -> Result<()> {
    nix::sys::prctl::set_child_subreaper(false).called(|| "prctl(PR_SET_CHILD_SUBREAPER, 0)".into())
}

/// `PR_SET_DUMPABLE` 0: nobody without CAP_SYS_PTRACE over our user namespace may look into this
/// process through /proc or ptrace(2). execve(2) sets it anew.
pub fn set_nondumpable() -> Result<()> {
    nix::sys::prctl::set_dumpable(false).called(|| "prctl(PR_SET_DUMPABLE, 0)".into())
}

/// `PR_SET_NAME`: the name in `ps`.
pub fn set_comm(name: &std::ffi::CStr) {
    // The name only helps people who read `ps`, so a failure is ignored.
    let _ = nix::sys::prctl::set_name(name);
}

/// `PR_SET_PDEATHSIG`.
pub fn die_with_parent() -> Result<()> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)
        .called(|| "prctl(PR_SET_PDEATHSIG, SIGKILL)".into())
}

/// Undoes [`die_with_parent`].
pub fn outlive_parent() -> Result<()> {
    nix::sys::prctl::set_pdeathsig(None).called(|| "prctl(PR_SET_PDEATHSIG, 0)".into())
}

/// Reports that this process cannot leave a namespace of the container's, and ends it: it must not go on there.
pub fn cannot_leave(which: &str, failed: &SyscallError) -> ! {
    eprintln!("cannot leave {which} namespace: {failed}");
    exit_now(1)
}

/// Ends this process at once, running no exit handlers, as the child of a fork must. Safe in a signal handler.
///
/// If a seccomp filter refuses that, abort(3) ends it: by SIGABRT, or by a fault of the processor if the filter refuses
/// signals too. _exit(2) of the C library would try for ever.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: exit_group takes no pointers.
    unsafe { libc::syscall(libc::SYS_exit_group, status) };
    std::process::abort()
}

/// A program to execute, in the form that execve(2) takes. Executing it allocates nothing, since that could need a call
/// which a seccomp filter refuses.
pub struct Execution {
    path: CString,
    args: Strings,
    env: Strings,
}

impl Execution {
    /// Texts with a NUL byte cannot be passed and are left out.
    pub fn new(path: CString, args: &[String], env: &[String]) -> Execution {
        Execution { path, args: Strings::new(args), env: Strings::new(env) }
    }

    /// execve(2); returns only if it failed.
    pub fn execute(&self) -> SyscallError {
        // SAFETY: the path is NUL-terminated, and both lists are arrays of pointers to such texts that
        // end in a null pointer; all of it outlives the call.
        unsafe { libc::execve(self.path.as_ptr(), self.args.pointers.as_ptr(), self.env.pointers.as_ptr()) };
        let errno = Errno::last();
        SyscallError { call: format!("execve({:?}, {:?})", self.path, self.args.texts).into(), errno }
    }
}

/// Texts, and pointers to them with a null pointer at the end. The texts are on the heap, so the
/// pointers hold wherever this is moved.
struct Strings {
    texts: Vec<CString>,
    pointers: Vec<*const libc::c_char>,
}

impl Strings {
    fn new(list: &[String]) -> Strings {
        let texts: Vec<_> = list.iter().filter_map(|text| CString::new(text.as_str()).ok()).collect();
        let pointers = texts.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect();
        Strings { texts, pointers }
    }
}

/// chdir(2).
pub fn change_directory(path: &std::path::Path) -> Result<()> {
    nix::unistd::chdir(path).called(|| format!("chdir({path:?})"))
}

/// The system call getcwd(2): the C library may return another path if the kernel returns `(unreachable)`. Returns the
/// length without the final NUL.
pub fn working_directory(buffer: &mut [u8]) -> Result<usize> {
    // SAFETY: the length given is that of the buffer, which outlives the call.
    let returned = unsafe { libc::syscall(libc::SYS_getcwd, buffer.as_mut_ptr(), buffer.len()) };
    check(returned, || "getcwd()".into()).map(|n| (n as usize).saturating_sub(1))
}

/// `NS_GET_NSTYPE` (ioctl_ns(2)): the `CLONE_NEW*` of a namespace's descriptor.
pub fn namespace_kind(namespace: BorrowedFd<'_>) -> Result<Namespaces> {
    const NS_GET_NSTYPE: u64 = 0xb703;
    // SAFETY: NS_GET_NSTYPE takes no argument.
    let returned = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_NSTYPE as _) };
    check(returned.into(), || format!("ioctl({}, NS_GET_NSTYPE)", fd_name(namespace)))
        .map(|kind| Namespaces::from_bits_retain(kind as u64))
}

/// `NS_GET_USERNS` (ioctl_ns(2)): the user namespace that owns a namespace.
pub fn owner_of(namespace: BorrowedFd<'_>) -> Result<OwnedFd> {
    const NS_GET_USERNS: u64 = 0xb701;
    // SAFETY: NS_GET_USERNS takes no argument.
    let returned = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_USERNS as _) };
    let number = check(returned.into(), || format!("ioctl({}, NS_GET_USERNS)", fd_name(namespace)))?;
    // SAFETY: the kernel has just made this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(number as RawFd) })
}

/// `NS_GET_MNTNS_ID` (Linux 6.10): the id of a mount namespace.
pub fn mount_namespace_id(namespace: BorrowedFd<'_>) -> Result<u64> {
    // _IOR(0xb7, 5, u64)
    const NS_GET_MNTNS_ID: u64 = 2 << 30 | 8 << 16 | 0xb7 << 8 | 5;
    let mut id = 0u64;
    // SAFETY: the ioctl writes 64 bits, which outlive it.
    let returned = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_MNTNS_ID as _, &raw mut id) };
    check(returned.into(), || format!("ioctl({}, NS_GET_MNTNS_ID)", fd_name(namespace))).map(|_| id)
}

/// Reaps the children that have ended, except `kept`, whose status the caller still needs.
pub fn reap_except(kept: i32) {
    while let Some(pid) = ended_child() {
        // The kernel returns the oldest child first, so children after `kept` stay until `kept` is reaped.
        if pid == kept || !reap(pid) {
            break;
        }
    }
}

/// Whether the process behind `pidfd` is a child of ours, which we must reap.
pub fn is_child(pidfd: BorrowedFd<'_>) -> bool {
    wait_for(libc::P_PIDFD, pidfd.as_raw_fd(), libc::WNOHANG | libc::WNOWAIT).is_ok()
}

/// The oldest child of ours that has ended and is not reaped yet.
pub fn ended_child() -> Option<i32> {
    wait_for(libc::P_ALL, 0, libc::WNOHANG | libc::WNOWAIT).ok().flatten().map(|(pid, _)| pid)
}

/// Reaps the child `pid`, which has ended.
pub fn reap(pid: i32) -> bool {
    wait_for(libc::P_PID, pid, libc::WNOHANG).is_ok()
}

/// `PIDFD_GET_INFO` (ioctl_pidfd, Linux 6.15 for the exit): how the process behind a pidfd ended, whoever its parent
/// is. Returns `None` while it runs, and fails with `ENOTTY` if the kernel cannot tell.
pub fn exit_of_other(pidfd: BorrowedFd<'_>) -> Result<Option<Exit>> {
    /// uapi/linux/pidfd.h, the first published size of `struct pidfd_info`, which has the exit.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        mask: u64,
        cgroup: u64,
        ids: [u32; 11],
        exit_code: i32,
    }
    const PIDFD_INFO_EXIT: u64 = 1 << 3;
    // _IOWR(0xFF, 11, struct of 64 bytes)
    const PIDFD_GET_INFO: u64 = 3 << 30 | 64 << 16 | 0xff << 8 | 11;
    const { assert!(size_of::<Info>() == 64) };
    let mut info = Info { mask: PIDFD_INFO_EXIT, ..Info::default() };
    // SAFETY: the ioctl reads and writes the 64 bytes that its number says, which outlive it.
    let returned = unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO as _, &raw mut info) };
    check(returned.into(), || format!("ioctl({}, PIDFD_GET_INFO)", fd_name(pidfd)))?;
    Ok((info.mask & PIDFD_INFO_EXIT != 0).then_some(Exit::of_status(info.exit_code)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_whose_group_lives_on_does_not_exist() {
        use std::os::unix::process::CommandExt;
        let mut leader = std::process::Command::new("sh");
        let mut leader = leader.args(["-c", "sleep 60 >&- 2>&- &"]).process_group(0).spawn().expect("sh");
        let pid = leader.id() as i32;
        leader.wait().expect("ended");
        let opened = open_pid(pid).expect_err("it was reaped");
        nix::sys::signal::killpg(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).expect("alive");
        assert_eq!(opened.errno, Errno::ESRCH);
    }

    /// wait(2): the code in the second byte, the signal in seven bits of the first, whose eighth tells of a core dump.
    #[test]
    fn a_wait_status_has_the_whole_code_or_the_signal() {
        for (status, exit) in [
            (0, Exit::Code(0)),
            (0x0100, Exit::Code(1)),
            (0x8000, Exit::Code(128)),
            (0xff00, Exit::Code(255)),
            (9, Exit::Signal(9)),
            (0x8b, Exit::Signal(11)),
            (64, Exit::Signal(64)),
        ] {
            assert_eq!(Exit::of_status(status), exit, "{status:#x}");
        }
    }

    #[test]
    fn nothing_is_opened_by_the_number_of_a_process_that_was_reaped() {
        let mut child = std::process::Command::new("/bin/sleep").arg("1000").spawn().expect("sleep");
        let number = child.id() as i32;
        let pidfd = open_pid(number).expect("a pidfd");
        assert!(open_of(number, pidfd.as_fd(), "root", OFlag::O_PATH).is_ok());
        child.kill().expect("kill");
        let _ = wait_for(libc::P_PID, number, libc::WNOWAIT);
        // No other process has the number yet.
        assert!(open_of(number, pidfd.as_fd(), "stat", OFlag::O_RDONLY).is_ok());
        child.wait().expect("wait");
        // This process stands for another one that got the number.
        let another = std::process::id() as i32;
        let opened = open_of(another, pidfd.as_fd(), "root", OFlag::O_PATH);
        assert_eq!(opened.map(drop).map_err(|failed| failed.errno), Err(Errno::ESRCH));
    }
}
