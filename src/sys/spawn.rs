//! Starting a program without copying our memory: clone(2) with `CLONE_VM|CLONE_VFORK`, as in
//! posix_spawn(3), but with a pidfd, a parent-death signal and the settings that a shim needs.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;

use super::process::Child;
use super::{Result, SyscallError};

/// A program to start.
pub struct Spawn<'a> {
    /// Its path.
    pub path: &'a CStr,
    /// Its arguments, with its name as the first.
    pub arguments: &'a [CString],
    /// Its environment.
    pub environment: Environment<'a>,
    /// Its standard input, output and error.
    pub stdio: [BorrowedFd<'a>; 3],
    /// Numbers of open descriptors that it gets under the same numbers.
    pub preserve: &'a [RawFd],
    /// Descriptors of ours that it gets as 3, 4, ...; not together with `preserve`.
    pub extra: &'a [BorrowedFd<'a>],
    /// Its working directory, if it is not ours.
    pub directory: Option<&'a CStr>,
    /// The text for `/proc/self/oom_score_adj`; errors are ignored.
    pub oom_score_adj: Option<&'a str>,
    /// Whether it is killed when we die.
    pub die_with_parent: bool,
    /// Whether it leads a session of its own.
    pub session: bool,
    /// Whether the first `LISTEN_PID=` of the environment gets its process id.
    pub listen_pid: bool,
}

/// The environment of a program to start.
pub enum Environment<'a> {
    /// These entries.
    Given(&'a [CString]),
    /// Our own environment, without this entry. Nothing may change it meanwhile.
    OursWithout(&'a CStr),
}

impl Environment<'_> {
    /// The entries.
    fn pointers(&self) -> Vec<*const c_char> {
        unsafe extern "C" {
            static environ: *const *const c_char;
        }
        let without = match self {
            Environment::Given(entries) => return entries.iter().map(|entry| entry.as_ptr()).collect(),
            Environment::OursWithout(without) => without,
        };
        let mut pointers = Vec::with_capacity(64);
        // SAFETY: the C library keeps the address of the list there.
        let mut place = unsafe { environ };
        while !place.is_null() {
            // SAFETY: the list ends with null, beyond which this does not go.
            let entry = unsafe { *place };
            if entry.is_null() {
                break;
            }
            // SAFETY: an entry ends with NUL.
            if unsafe { CStr::from_ptr(entry) } != *without {
                pointers.push(entry);
            }
            place = place.wrapping_add(1);
        }
        pointers
    }
}

thread_local! {
    /// The stack of the last child, for the next.
    static KEPT: std::cell::Cell<Option<super::region::Region>> = const { std::cell::Cell::new(None) };
}

/// Frees the stack that is kept for the next program.
pub fn forget_stack() {
    KEPT.take();
}

/// The size of the child's stack in bytes, for the few calls until it executes.
const STACK: usize = 32 * 1024;

/// The data of the child, in the memory that it shares with us while we wait.
struct Shared {
    path: *const c_char,
    arguments: *const *const c_char,
    environment: *const *const c_char,
    stdio: [c_int; 3],
    preserve: *const c_int,
    preserved: usize,
    extra: *const c_int,
    extras: usize,
    directory: *const c_char,
    oom_score_adj: Option<(*const u8, usize)>,
    die_with_parent: bool,
    session: bool,
    listen_pid: *mut u8,
    signals: u64,
    errno: c_int,
}

/// Our soft limit of descriptors before it was raised; 0 if it was not raised.
static DESCRIPTORS: AtomicU64 = AtomicU64::new(0);

/// Raises our soft limit of open descriptors to the hard limit. Programs that are started later get the old one back,
/// because those that use select(2) cannot handle more.
pub fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() {
        DESCRIPTORS.store(soft, Ordering::Relaxed);
    }
}

/// The soft limit of open descriptors for programs that are started from now on; 0 means our own.
pub fn descriptor_limit() -> u64 {
    DESCRIPTORS.load(Ordering::Relaxed)
}

/// Sets the limit of [`descriptor_limit`], which the previous program in this process had before it raised its own.
pub fn set_descriptor_limit(limit: u64) {
    DESCRIPTORS.store(limit, Ordering::Relaxed);
}

/// `LISTEN_PID=` and room for a process id.
const LISTEN_PID: &[u8] = b"LISTEN_PID=";

/// Starts a program. Returns the error if execve(2) fails in the child.
pub fn start(program: &Spawn<'_>) -> Result<Child> {
    program.start()
}

impl Spawn<'_> {
    fn start(&self) -> Result<Child> {
        let mut listen = [0u8; 24];
        listen[..LISTEN_PID.len()].copy_from_slice(LISTEN_PID);
        let arguments: Vec<*const c_char> =
            self.arguments.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect();
        let mut environment = self.environment.pointers();
        let mut listen_pid = std::ptr::null_mut();
        // SAFETY: an entry ends with NUL.
        let starts = |entry: &*const c_char| unsafe { CStr::from_ptr(*entry) }.to_bytes().starts_with(LISTEN_PID);
        let place = environment.iter().position(starts);
        environment.push(std::ptr::null());
        if let (true, Some(place)) = (self.listen_pid, place) {
            environment[place] = listen.as_ptr().cast();
            listen_pid = listen[LISTEN_PID.len()..].as_mut_ptr();
        }
        let extra: Vec<c_int> = self.extra.iter().map(AsRawFd::as_raw_fd).collect();
        let mut shared = Shared {
            path: self.path.as_ptr(),
            arguments: arguments.as_ptr(),
            environment: environment.as_ptr(),
            stdio: self.stdio.map(|fd| fd.as_raw_fd()),
            preserve: self.preserve.as_ptr(),
            preserved: self.preserve.len(),
            extra: extra.as_ptr(),
            extras: extra.len(),
            directory: self.directory.map_or(std::ptr::null(), CStr::as_ptr),
            oom_score_adj: self.oom_score_adj.map(|text| (text.as_ptr(), text.len())),
            die_with_parent: self.die_with_parent,
            session: self.session,
            listen_pid,
            signals: super::signals::to_reset(),
            errno: 0,
        };
        let stack = KEPT.take().map_or_else(|| super::region::Region::new(STACK), Ok)?;
        let mut pidfd: c_int = -1;
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
        // SAFETY: the stack is STACK bytes of our own that outlive the call, because CLONE_VFORK
        // stops us until the child executes or exits; `shared` and all that it points to do too;
        // `child` only makes system calls, so it leaves no lock and no allocation behind.
        let pid = unsafe {
            libc::clone(child, stack.end().cast(), flags, (&raw mut shared).cast::<c_void>(), &raw mut pidfd)
        };
        let errno_of_clone = Errno::last();
        KEPT.set(Some(stack));
        if pid == -1 {
            return Err(SyscallError { call: "clone(CLONE_VM|CLONE_VFORK|CLONE_PIDFD)".into(), errno: errno_of_clone });
        }
        // SAFETY: the kernel stored a new descriptor there, which nobody else owns.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        let child = Child { pid, pidfd };
        // The compiler cannot know that another process wrote to it.
        let errno = std::hint::black_box(&shared).errno;
        if errno != 0 {
            let _ = child.wait();
            return Err(SyscallError {
                call: format!("execve({:?})", self.path).into(),
                errno: Errno::from_raw(errno),
            });
        }
        Ok(child)
    }
}

/// The child, on its own stack in our memory. Returns only on failure, which ends the process.
extern "C" fn child(shared: *mut c_void) -> c_int {
    // SAFETY: the parent passed a Shared that lives until we execute or exit, and it is stopped,
    // so this is the only reference.
    let shared = unsafe { &mut *shared.cast::<Shared>() };
    shared.errno = match prepare(shared) {
        Ok(()) => {
            // SAFETY: the three are as execve asks: NUL-terminated, and lists that end in null.
            unsafe { libc::execve(shared.path, shared.arguments, shared.environment) };
            Errno::last_raw()
        }
        Err(errno) => errno as c_int,
    };
    127
}

fn prepare(shared: &mut Shared) -> nix::Result<()> {
    if shared.die_with_parent {
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    }
    if shared.session {
        // This fails only for a group leader, which a new process is not.
        let _ = nix::unistd::setsid();
    }
    if let Some((text, length)) = shared.oom_score_adj {
        write_oom_score(text, length);
    }
    if !shared.listen_pid.is_null() {
        write_number(shared.listen_pid, nix::unistd::getpid().as_raw() as u32);
    }
    if !shared.directory.is_null() {
        // SAFETY: the pointer is not null, so it is the caller's NUL-terminated path.
        Errno::result(unsafe { libc::chdir(shared.directory) })?;
    }
    for (target, source) in shared.stdio.into_iter().enumerate() {
        let target = target as c_int;
        let returned = if source == target {
            // SAFETY: takes no pointers.
            unsafe { libc::fcntl(target, libc::F_SETFD, 0) }
        } else {
            // SAFETY: takes no pointers; the table of descriptors is ours alone, for CLONE_FILES
            // was not given.
            unsafe { libc::dup2(source, target) }
        };
        Errno::result(returned)?;
    }
    lower_descriptor_limit();
    // SAFETY: the caller's list has this length and outlives us.
    for &preserved in unsafe { std::slice::from_raw_parts(shared.preserve, shared.preserved) } {
        // SAFETY: takes no pointers; one that is not open is EBADF and none of our business.
        unsafe { libc::fcntl(preserved, libc::F_SETFD, 0) };
    }
    // SAFETY: the caller's list has this length and outlives us.
    place(unsafe { std::slice::from_raw_parts(shared.extra, shared.extras) })?;
    super::signals::begin_clean(shared.signals)
}

/// Puts copies of these descriptors at 3, 4, ..., to be inherited by the program that this process executes next.
/// Descriptors there are replaced, so no owner of another descriptor may be used afterwards.
pub fn pass(extra: &[BorrowedFd<'_>]) -> Result<()> {
    let raw: Vec<c_int> = extra.iter().map(AsRawFd::as_raw_fd).collect();
    place(&raw).map_err(|errno| SyscallError { call: format!("dup2({raw:?}, 3...)").into(), errno })
}

/// Most descriptors in [`Spawn::extra`] and for [`pass`]; more are `EINVAL`. A restoring CRIU gets six: its socket, a
/// network and a PID namespace, and three streams.
const EXTRAS: usize = 6;

/// Puts descriptors at 3, 4, ... They are first copied to higher numbers, since one may stand at the number of another.
fn place(extra: &[c_int]) -> nix::Result<()> {
    if extra.len() > EXTRAS {
        return Err(Errno::EINVAL);
    }
    let mut copies = [-1; EXTRAS];
    for (copy, &source) in copies.iter_mut().zip(extra) {
        // SAFETY: takes no pointers; the table of descriptors is ours alone.
        *copy = Errno::result(unsafe { libc::fcntl(source, libc::F_DUPFD_CLOEXEC, 3 + EXTRAS as c_int) })?;
    }
    for (target, copy) in (3..).zip(copies).take(extra.len()) {
        // SAFETY: as above; a descriptor that is replaced here is not meant for this program.
        Errno::result(unsafe { libc::dup2(copy, target) })?;
    }
    Ok(())
}

fn lower_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let soft = DESCRIPTORS.load(Ordering::Relaxed);
    if let (1.., Ok((_, hard))) = (soft, getrlimit(Resource::RLIMIT_NOFILE)) {
        // Lowering a limit is always allowed.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, soft, hard);
    }
}

fn write_oom_score(text: *const u8, length: usize) {
    // SAFETY: the path is NUL-terminated.
    let fd = unsafe { libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) };
    if fd >= 0 {
        // SAFETY: the caller's text has this length.
        unsafe { libc::write(fd, text.cast(), length) };
        // SAFETY: the descriptor was opened here.
        unsafe { libc::close(fd) };
    }
}

fn write_number(at: *mut u8, number: u32) {
    let mut digits = [0u8; 10];
    let mut n = 0;
    let mut rest = number;
    while rest > 0 || n == 0 {
        digits[n] = b'0' + (rest % 10) as u8;
        rest /= 10;
        n += 1;
    }
    for (i, digit) in digits[..n].iter().rev().enumerate() {
        // SAFETY: the caller gives room for ten digits and a NUL, zeroed.
        let place = unsafe { at.add(i) };
        // SAFETY: the place is within that room.
        unsafe { place.write(*digit) };
    }
}

/// A program for the standard library to start, which begins as under a service manager: the default action for
/// every signal, none blocked, and all CPUs of its cpuset. So it inherits neither the signals that our caller
/// ignored nor the CPUs that our caller was bound to. It is searched in PATH if it has no slash.
pub fn command(program: impl AsRef<std::ffi::OsStr>) -> std::process::Command {
    use std::os::unix::process::CommandExt;
    let mut command = std::process::Command::new(program);
    let signals = super::signals::to_reset();
    let prepare = move || {
        // A process that may not use all CPUs keeps its own.
        let _ = super::sched::all_cpus(0);
        super::signals::begin_clean(signals).map_err(Into::into)
    };
    // SAFETY: the child of the fork makes system calls alone: it allocates nothing and takes no lock.
    unsafe { command.pre_exec(prepare) };
    command
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use nix::fcntl::OFlag;
    use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};

    use super::super::process::Exit;
    use super::super::{fd, pipe};
    use super::*;

    /// To the kernel the parent is the thread that has made the process.
    #[test]
    fn a_program_dies_with_its_parent_if_that_was_asked_for() {
        let null = fd::open("/dev/null", OFlag::O_RDWR).expect("/dev/null");
        let begun = |die_with_parent| {
            let program = Spawn {
                path: c"/bin/sleep",
                arguments: &[c"sleep", c"1000"].map(CStr::to_owned),
                environment: Environment::Given(&[]),
                stdio: [null.as_fd(); 3],
                preserve: &[],
                extra: &[],
                directory: None,
                oom_score_adj: None,
                die_with_parent,
                session: true,
                listen_pid: false,
            };
            std::thread::scope(|scope| scope.spawn(|| start(&program).expect("started")).join()).expect("no panic")
        };
        let (dies, stays) = (begun(true), begun(false));
        assert_eq!(dies.wait(), Ok(Exit::Signal(libc::SIGKILL)));
        assert_eq!(stays.try_wait(), Ok(None));
        stays.kill();
        stays.wait().expect("its end");
    }

    #[test]
    fn a_program_begins_with_every_signal_unblocked_and_none_ignored() {
        let (output, theirs) = pipe::new().expect("a pipe");
        let null = fd::open("/dev/null", OFlag::O_RDWR).expect("/dev/null");
        // Of this thread alone. Rust's runtime ignores SIGPIPE.
        let blocked = SigSet::from(Signal::SIGUSR2);
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&blocked), None).expect("blocked");
        let child = start(&Spawn {
            path: c"/bin/grep",
            arguments: &[c"grep", c"Sig[BI]", c"/proc/self/status"].map(CStr::to_owned),
            environment: Environment::Given(&[]),
            stdio: [null.as_fd(), theirs.as_fd(), null.as_fd()],
            preserve: &[],
            extra: &[],
            directory: None,
            oom_score_adj: None,
            die_with_parent: true,
            session: true,
            listen_pid: false,
        })
        .expect("started");
        sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&blocked), None).expect("unblocked");
        drop(theirs);
        let text = fd::read_all(output, fd::DOCUMENT).expect("read");
        child.wait().expect("its end");
        let none = "0".repeat(16);
        assert_eq!(String::from_utf8_lossy(&text), format!("SigBlk:\t{none}\nSigIgn:\t{none}\n"));
    }
}
