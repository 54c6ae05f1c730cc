//! The kernel calls without a safe wrapper, and the only unsafe code here.

use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Receives a message from `socket`, with the file descriptors in it.
pub fn receive_with_fds(socket: &UnixStream) -> nix::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut data = vec![0; 65536];
    let mut space = nix::cmsg_space!([i32; 16]);
    let (length, raw) = {
        let mut parts = [IoSliceMut::new(&mut data)];
        let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
        let mut raw = Vec::new();
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(fds) = control {
                raw.extend(fds);
            }
        }
        (message.bytes, raw)
    };
    data.truncate(length);
    // SAFETY: the kernel has just installed these descriptors for us, and nothing else knows them.
    let fds = raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).collect();
    Ok((data, fds))
}

/// Any system call with integer arguments.
///
/// Cases pass numbers, never pointers into this process that the kernel would
/// write through.
pub fn syscall(number: i64, args: [i64; 6]) -> nix::Result<i64> {
    let [a, b, c, d, e, f] = args;
    // SAFETY: integer arguments only; a call that takes a pointer gets null or
    // an address that is not mapped, for which the kernel returns EFAULT.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    Errno::result(result)
}

/// Waits for the end of a child. Returns its status as wait4(2) gives it, and the processor time of the child and of
/// its waited-for children.
pub fn wait_with_times(pid: u32) -> nix::Result<(i32, Duration)> {
    let (mut status, mut usage) = (0, std::mem::MaybeUninit::<libc::rusage>::zeroed());
    // SAFETY: both places are of the types that wait4 writes, and outlive the call.
    Errno::result(unsafe { libc::wait4(pid.cast_signed(), &raw mut status, 0, usage.as_mut_ptr()) })?;
    // SAFETY: zeroed memory is a valid rusage, and the kernel has filled it in.
    let usage = unsafe { usage.assume_init() };
    let time = |t: libc::timeval| Duration::from_secs(t.tv_sec as u64) + Duration::from_micros(t.tv_usec as u64);
    Ok((status, time(usage.ru_utime) + time(usage.ru_stime)))
}

/// `struct seccomp_notif`, `linux/seccomp.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Notification {
    /// Cookie that the response must carry.
    pub id: u64,
    /// The caller.
    pub pid: u32,
    flags: u32,
    /// The number of the system call.
    pub nr: i32,
    arch: u32,
    instruction_pointer: u64,
    /// The arguments.
    pub args: [u64; 6],
}

/// `struct seccomp_notif_resp`, `linux/seccomp.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Response {
    /// The cookie of the notification.
    pub id: u64,
    /// The value that the system call returns.
    pub val: i64,
    /// Or minus the errno.
    pub error: i32,
    /// `SECCOMP_USER_NOTIF_FLAG_*`.
    pub flags: u32,
}

mod ioctls {
    nix::ioctl_write_ptr_bad!(tiocswinsz, libc::TIOCSWINSZ, libc::winsize);
    nix::ioctl_readwrite!(seccomp_notif_recv, b'!', 0, super::Notification);
    nix::ioctl_readwrite!(seccomp_notif_send, b'!', 1, super::Response);
}

/// Gives a terminal its size, `ioctl_tty(2)`; the programs at it get SIGWINCH.
pub fn set_window_size(terminal: &impl AsRawFd, rows: u16, columns: u16) -> nix::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the struct is the one that this request reads, and outlives the call.
    unsafe { ioctls::tiocswinsz(terminal.as_raw_fd(), &raw const size) }?;
    Ok(())
}

/// Waits for the next notification of a seccomp listener.
pub fn seccomp_receive(listener: &OwnedFd) -> nix::Result<Notification> {
    let mut notification = Notification::default();
    // SAFETY: the struct has the size that the request number encodes, and outlives the call.
    unsafe { ioctls::seccomp_notif_recv(listener.as_raw_fd(), &raw mut notification) }?;
    Ok(notification)
}

/// Answers a notification.
pub fn seccomp_respond(listener: &OwnedFd, mut response: Response) -> nix::Result<()> {
    // SAFETY: as above.
    unsafe { ioctls::seccomp_notif_send(listener.as_raw_fd(), &raw mut response) }?;
    Ok(())
}

/// `struct sched_attr`, its first version, `linux/sched/types.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct SchedAttr {
    size: u32,
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// For `SCHED_OTHER` and `SCHED_BATCH`.
    pub nice: i32,
    /// For `SCHED_FIFO` and `SCHED_RR`.
    pub priority: u32,
    /// Nanoseconds, for `SCHED_DEADLINE`.
    pub runtime: u64,
    /// Nanoseconds, for `SCHED_DEADLINE`.
    pub deadline: u64,
    /// Nanoseconds, for `SCHED_DEADLINE`.
    pub period: u64,
}

/// The scheduling attributes of this process.
pub fn sched_getattr() -> nix::Result<SchedAttr> {
    let mut attributes = SchedAttr::default();
    let size = size_of::<SchedAttr>();
    // SAFETY: the kernel writes at most `size` bytes to a struct of that size.
    let result = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) };
    Errno::result(result).map(|_| attributes)
}

/// Mode and first 64 nodes of the memory policy of this process.
pub fn get_mempolicy() -> nix::Result<(i32, u64)> {
    let (mut mode, mut nodes) = (0_i32, [0_u64; 16]);
    // SAFETY: the mask has the 1024 bits announced, mode is an int.
    let result = unsafe { libc::syscall(libc::SYS_get_mempolicy, &raw mut mode, &raw mut nodes, 1024, 0, 0) };
    Errno::result(result).map(|_| (mode, nodes[0]))
}

/// The instructions of a filter (bpf(2)): loads a word of `struct seccomp_data`.
fn load(offset: u32) -> libc::sock_filter {
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, offset)
}

/// Skips `jt` instructions if the word is `value`, and `jf` if not.
fn equals(value: u32, jt: u8, jf: u8) -> libc::sock_filter {
    instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, jt, jf, value)
}

/// Ends with an action.
fn answer(action: u32) -> libc::sock_filter {
    instruction(libc::BPF_RET | libc::BPF_K, 0, 0, action)
}

fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt, jf, k }
}

/// Makes a command and its children get `errno` from every ioctl(2) with this request.
pub fn refuse_ioctl(command: &mut std::process::Command, request: u32, errno: u32) {
    // The fields of struct seccomp_data: the number, and the low half of the second argument.
    let program = [
        load(0),
        equals(libc::SYS_ioctl as u32, 0, 3),
        load(24),
        equals(request, 0, 1),
        answer(libc::SECCOMP_RET_ERRNO | errno),
        answer(libc::SECCOMP_RET_ALLOW),
    ];
    filter(command, program);
}

/// Makes a command and its children believe that they have set RLIMIT_MEMLOCK. Root may not raise it without
/// CAP_SYS_RESOURCE, and crun fails then, although a kernel since 5.11 needs no such limit for a device filter.
pub fn pretend_memlock(command: &mut std::process::Command) {
    // The number, the low half of the second argument of prlimit(2), and both halves of the third, which is null if the
    // limit is only read.
    let program = [
        load(0),
        equals(libc::SYS_prlimit64 as u32, 0, 7),
        load(24),
        equals(libc::RLIMIT_MEMLOCK, 0, 5),
        load(32),
        equals(0, 0, 2),
        load(36),
        equals(0, 1, 0),
        answer(libc::SECCOMP_RET_ERRNO),
        answer(libc::SECCOMP_RET_ALLOW),
    ];
    filter(command, program);
}

/// Installs a filter in a command before it is executed.
fn filter<const N: usize>(command: &mut std::process::Command, program: [libc::sock_filter; N]) {
    let install = move || {
        let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
        // SAFETY: the kernel copies the program, which outlives the call.
        let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
        Errno::result(result).map(drop).map_err(Into::into)
    };
    // SAFETY: the closure makes one system call and allocates nothing.
    unsafe { std::os::unix::process::CommandExt::pre_exec(command, install) };
}

/// Makes a command and all its descendants get `errno` from every system call with one of these numbers.
pub fn refuse_calls(command: &mut std::process::Command, numbers: &[u32], errno: u32) {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const EQUALS: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    // The field of struct seccomp_data: the number.
    let mut program = vec![step(LOAD, 0, 0, 0)];
    for &number in numbers {
        program.push(step(EQUALS, 0, 1, number));
        program.push(step(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | errno));
    }
    program.push(step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW));
    let install = move || {
        let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
        // SAFETY: the kernel copies the program, which outlives the call.
        let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
        Errno::result(result).map(drop).map_err(Into::into)
    };
    // SAFETY: the closure makes one system call and allocates nothing.
    unsafe { std::os::unix::process::CommandExt::pre_exec(command, install) };
}

/// pidfd_open(2).
pub fn open_pid(pid: u32) -> std::io::Result<OwnedFd> {
    // SAFETY: the call takes no pointers.
    let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    // SAFETY: the kernel has just made it, if the call succeeded.
    Ok(unsafe { OwnedFd::from_raw_fd(Errno::result(pidfd)? as i32) })
}

/// Mounts a pidfd on a new file, as an exit pin is made.
pub fn pin_pidfd(pidfd: &OwnedFd, path: &str) -> std::io::Result<()> {
    std::fs::File::create_new(path)?;
    let path = std::ffi::CString::new(path)?;
    let (empty, flags) = (c"".as_ptr(), libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_EMPTY_PATH as u32);
    // SAFETY: the empty path is static.
    let tree = unsafe { libc::syscall(libc::SYS_open_tree, pidfd.as_raw_fd(), empty, flags) };
    // SAFETY: the kernel has just made it, if the call succeeded.
    let tree = unsafe { OwnedFd::from_raw_fd(Errno::result(tree)? as i32) };
    let (from, to) = (tree.as_raw_fd(), path.as_ptr());
    // SAFETY: both paths are NUL-terminated and outlive the call.
    let moved =
        unsafe { libc::syscall(libc::SYS_move_mount, from, empty, libc::AT_FDCWD, to, libc::MOVE_MOUNT_F_EMPTY_PATH) };
    Ok(Errno::result(moved).map(drop)?)
}

/// Makes a user namespace in a process that has no other task.
pub fn make_user_namespace() -> std::io::Result<()> {
    use std::os::unix::process::CommandExt;
    let mut command = std::process::Command::new("/proc/self/exe");
    command.arg("--list").stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
    let unshare = || nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER).map_err(Into::into);
    // SAFETY: the child of the fork makes one system call.
    unsafe { command.pre_exec(unshare) }.status().map(drop)
}

/// The system call at which a traced process is stopped.
#[derive(Clone, Copy, Debug)]
pub enum CallStop {
    /// The process is about to make this call.
    Entry(i64, [u64; 6]),
    /// The call has returned this.
    Exit(i64),
    /// The process is not stopped at a system call.
    Other,
}

/// The stop of a traced process (`PTRACE_GET_SYSCALL_INFO`).
pub fn call_stop(pid: nix::unistd::Pid) -> nix::Result<CallStop> {
    let info = nix::sys::ptrace::syscall_info(pid)?;
    Ok(match info.op {
        libc::PTRACE_SYSCALL_INFO_ENTRY => {
            // SAFETY: the kernel fills this member in for an entry.
            let entry = unsafe { info.u.entry };
            CallStop::Entry(entry.nr.cast_signed(), entry.args)
        }
        libc::PTRACE_SYSCALL_INFO_EXIT => {
            // SAFETY: the kernel fills this member in for an exit.
            let exit = unsafe { info.u.exit };
            CallStop::Exit(exit.sval)
        }
        _ => CallStop::Other,
    })
}

extern "C" fn nothing(_: libc::c_int) {}

/// Makes SIGUSR1 interrupt blocking calls, and do nothing else.
pub fn make_usr1_interrupt() -> nix::Result<()> {
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
    let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing.
    unsafe { sigaction(Signal::SIGUSR1, &action) }.map(drop)
}

/// The disposition of SIGPIPE when this program was executed. The standard library ignores it before `main`.
static SIGPIPE_AT_START: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(b'?');

/// The C library calls this before the standard library starts.
#[used]
// SAFETY: the section holds pointers to functions that take no argument that they must look at.
#[unsafe(link_section = ".init_array")]
static NOTE_SIGPIPE: extern "C" fn() = note_sigpipe;

extern "C" fn note_sigpipe() {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: asks only, and writes to a place of the right type.
    unsafe { libc::sigaction(libc::SIGPIPE, std::ptr::null(), action.as_mut_ptr()) };
    // SAFETY: zeroed memory is a valid sigaction.
    let action = unsafe { action.assume_init() };
    let ignored = action.sa_sigaction == libc::SIG_IGN;
    SIGPIPE_AT_START.store(if ignored { b'i' } else { b'd' }, std::sync::atomic::Ordering::Relaxed);
}

/// The disposition of SIGPIPE when this program was executed: `default` or `ignored`.
pub fn sigpipe_at_start() -> &'static str {
    match SIGPIPE_AT_START.load(std::sync::atomic::Ordering::Relaxed) {
        b'd' => "default",
        b'i' => "ignored",
        _ => "unknown",
    }
}

/// The description of the session keyring (keyctl(2), KEYCTL_DESCRIBE).
pub fn session_keyring() -> nix::Result<String> {
    let mut text = [0_u8; 256];
    let (pointer, size) = (text.as_mut_ptr(), text.len());
    // SAFETY: the kernel writes at most `size` bytes to an array of that size.
    let result = unsafe {
        libc::syscall(libc::SYS_keyctl, libc::KEYCTL_DESCRIBE, libc::KEY_SPEC_SESSION_KEYRING, pointer, size, 0)
    };
    let length = usize::try_from(Errno::result(result)?).unwrap_or(0).min(size);
    Ok(String::from_utf8_lossy(&text[..length]).trim_end_matches('\0').to_owned())
}

/// The result of a system call in a child of its own: `ok`, the errno, or the signal that ended the child.
pub fn syscall_in_child(number: i64, args: [i64; 6]) -> String {
    // SAFETY: the child makes one system call and ends.
    match unsafe { nix::unistd::fork() } {
        Ok(nix::unistd::ForkResult::Child) => {
            let code = syscall(number, args).map_or_else(|errno| errno as i32, |_| 0);
            // SAFETY: ends the process at once.
            unsafe { libc::_exit(code) }
        }
        Ok(nix::unistd::ForkResult::Parent { child }) => match nix::sys::wait::waitpid(child, None) {
            Ok(nix::sys::wait::WaitStatus::Exited(_, 0)) => "ok".to_owned(),
            Ok(nix::sys::wait::WaitStatus::Exited(_, errno)) => format!("{:?}", Errno::from_raw(errno)),
            Ok(nix::sys::wait::WaitStatus::Signaled(_, signal, _)) => format!("{signal:?}"),
            other => format!("{other:?}"),
        },
        Err(errno) => format!("fork: {errno:?}"),
    }
}
