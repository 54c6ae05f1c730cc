//! Follows a command and its children from one lookup of a path to the next, with ptrace.
//!
//! A lookup is a system call with a path in its arguments that is not empty. Lookups are counted
//! for each process separately, so the count does not depend on how processes alternate.

use super::ran::Ran;
use super::runtime::{self, Capture};
use super::stop::{Context, Verdict, fail};
use crate::sys::{CallStop, call_stop};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// After this time the command is killed and counts as hung.
const LIMIT: Duration = Duration::from_secs(120);

/// A system call that looks paths up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// The number of the process, from 0 in the order of their creation.
    pub process: usize,
    /// Which lookup of that process, from 0.
    pub index: usize,
    /// `SYS_*`.
    pub call: i64,
    /// The paths.
    pub paths: Vec<String>,
}

/// Receives the lookups, each while its process is stopped.
pub trait Watcher {
    /// A lookup is about to be made.
    fn before(&mut self, lookup: &Lookup);
    /// A lookup was made and has returned this value.
    fn after(&mut self, pid: Pid, lookup: &Lookup, value: i64);
    /// A child has executed a program other than the command's. It is not followed any more.
    fn executed(&mut self, pid: Pid);
}

/// The command to follow.
pub struct Followed<'a> {
    /// The command.
    pub command: &'a Command,
    /// The runtime's program. A child that executes another one is no longer followed.
    pub own: &'a Path,
    /// Another process to follow, which is not a child of the command.
    pub other: Option<Pid>,
    /// The file for its output.
    pub capture: &'a Capture,
}

/// Runs a command to its end.
pub fn follow(what: &Followed<'_>, watcher: &mut (dyn Watcher + Send)) -> Verdict<Ran> {
    // The tracer is a separate thread: when it ends, the kernel detaches every tracee that is
    // still alive, such as a container's init.
    let traced = thread::scope(|scope| scope.spawn(|| trace(what, watcher)).join());
    traced.unwrap_or_else(|_| fail("the tracer panicked"))
}

/// A shell that stops itself and then executes the command.
fn stopped(command: &Command, capture: &Capture) -> Verdict<Command> {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", "kill -STOP $$; exec \"$@\"", "sh"]).arg(command.get_program()).args(command.get_args());
    if let Some(dir) = command.get_current_dir() {
        shell.current_dir(dir);
    }
    shell.stdin(Stdio::null());
    capture.attach(&mut shell)?;
    Ok(shell)
}

fn trace(what: &Followed<'_>, watcher: &mut dyn Watcher) -> Verdict<Ran> {
    let program = fs::metadata(what.own).context(what.own.display())?;
    let own = (program.dev(), program.ino());
    let start = Instant::now();
    let child = stopped(what.command, what.capture)?.spawn().context("traced command")?;
    let main = Pid::from_raw(child.id().cast_signed());
    waitpid(main, Some(WaitPidFlag::WUNTRACED)).context("waiting for the stopped shell")?;
    let options = Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEEXEC;
    ptrace::seize(main, options).context("PTRACE_SEIZE")?;
    if let Some(other) = what.other {
        ptrace::seize(other, options).context("PTRACE_SEIZE")?;
        ptrace::interrupt(other).context("PTRACE_INTERRUPT")?;
    }
    kill(main, Signal::SIGCONT).context("SIGCONT")?;
    let (ended, limit) = mpsc::channel::<()>();
    let watchdog = thread::spawn(move || {
        let hung = limit.recv_timeout(LIMIT) == Err(mpsc::RecvTimeoutError::Timeout);
        if hung {
            let _ = kill(main, Signal::SIGKILL);
        }
        hung
    });
    let mut tracer = Tracer { main, own, started: false, processes: BTreeMap::new(), watcher };
    let code = loop {
        match waitpid(None::<Pid>, Some(WaitPidFlag::__WALL)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == main => break code,
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == main => break -(signal as i32),
            Ok(status) => tracer.take(status),
            Err(nix::Error::EINTR) => {}
            Err(error) => return fail(format!("waitpid: {error}")),
        }
    };
    drop(ended);
    let (stdout, stderr) = what.capture.read();
    let ran = Ran { command: runtime::shown(what.command), code, stdout, stderr, took: start.elapsed() };
    if watchdog.join().unwrap_or(true) { ran.wrong(&format!("an end within {LIMIT:?}")) } else { Ok(ran) }
}

struct Tracer<'w> {
    main: Pid,
    own: (u64, u64),
    /// Whether the shell has executed the command. Earlier calls do not count.
    started: bool,
    processes: BTreeMap<Pid, Process>,
    watcher: &'w mut dyn Watcher,
}

/// A process of the command.
struct Process {
    number: usize,
    lookups: usize,
    /// The lookup that it is making.
    inside: Option<Lookup>,
}

impl Tracer<'_> {
    fn take(&mut self, status: WaitStatus) {
        match status {
            WaitStatus::PtraceSyscall(pid) => {
                self.syscall_stop(pid);
                let _ = ptrace::syscall(pid, None);
            }
            WaitStatus::PtraceEvent(pid, _, libc::PTRACE_EVENT_EXEC) => self.executed(pid),
            // The stop of a new child, and the stops of its parent.
            WaitStatus::PtraceEvent(pid, ..) => {
                self.process(pid);
                let _ = ptrace::syscall(pid, None);
            }
            WaitStatus::Stopped(pid, signal) => {
                let _ = ptrace::syscall(pid, Some(signal).filter(|s| *s != Signal::SIGTRAP));
            }
            _ => {}
        }
    }

    fn process(&mut self, pid: Pid) -> &mut Process {
        let number = self.processes.len();
        self.processes.entry(pid).or_insert(Process { number, lookups: 0, inside: None })
    }

    fn executed(&mut self, pid: Pid) {
        let is_own = fs::metadata(format!("/proc/{pid}/exe")).is_ok_and(|exe| (exe.dev(), exe.ino()) == self.own);
        self.started |= pid == self.main;
        if is_own || pid == self.main {
            self.process(pid).inside = None;
            let _ = ptrace::syscall(pid, None);
        } else {
            self.watcher.executed(pid);
            let _ = ptrace::detach(pid, None);
        }
    }

    fn syscall_stop(&mut self, pid: Pid) {
        if !self.started {
            return;
        }
        match call_stop(pid) {
            Ok(CallStop::Entry(number, args)) => {
                let paths = paths(pid, number, &args);
                let process = self.process(pid);
                process.inside = None;
                if paths.is_empty() {
                    return;
                }
                let lookup = Lookup { process: process.number, index: process.lookups, call: number, paths };
                process.lookups += 1;
                process.inside = Some(lookup.clone());
                self.watcher.before(&lookup);
            }
            Ok(CallStop::Exit(value)) => {
                if let Some(lookup) = self.process(pid).inside.take() {
                    self.watcher.after(pid, &lookup, value);
                }
            }
            _ => {}
        }
    }
}

/// fchmodat2(2) has the same number on every processor. The crate libc lacks it for some.
const FCHMODAT2: i64 = 452;

/// The arguments of the calls that are paths to be looked up.
const PATHS: &[(i64, &[usize])] = &[
    (libc::SYS_openat, &[1]),
    (libc::SYS_openat2, &[1]),
    (libc::SYS_open_tree, &[1]),
    (libc::SYS_move_mount, &[1, 3]),
    (libc::SYS_mount, &[0, 1]),
    (libc::SYS_mount_setattr, &[1]),
    (libc::SYS_umount2, &[0]),
    (libc::SYS_pivot_root, &[0, 1]),
    (libc::SYS_chroot, &[0]),
    (libc::SYS_chdir, &[0]),
    (libc::SYS_mkdirat, &[1]),
    (libc::SYS_mknodat, &[1]),
    (libc::SYS_symlinkat, &[2]),
    (libc::SYS_linkat, &[1, 3]),
    (libc::SYS_unlinkat, &[1]),
    (libc::SYS_renameat2, &[1, 3]),
    (libc::SYS_readlinkat, &[1]),
    (libc::SYS_newfstatat, &[1]),
    (libc::SYS_statx, &[1]),
    (libc::SYS_statfs, &[0]),
    (libc::SYS_faccessat, &[1]),
    (libc::SYS_faccessat2, &[1]),
    (libc::SYS_fchmodat, &[1]),
    (FCHMODAT2, &[1]),
    (libc::SYS_fchownat, &[1]),
    (libc::SYS_utimensat, &[1]),
    (libc::SYS_truncate, &[0]),
    (libc::SYS_setxattr, &[0]),
    (libc::SYS_lsetxattr, &[0]),
    (libc::SYS_getxattr, &[0]),
    (libc::SYS_lgetxattr, &[0]),
    (libc::SYS_listxattr, &[0]),
    (libc::SYS_llistxattr, &[0]),
    (libc::SYS_inotify_add_watch, &[1]),
    (libc::SYS_execve, &[0]),
    (libc::SYS_execveat, &[1]),
];

/// Calls that only this processor still has.
#[cfg(target_arch = "x86_64")]
const OLD_PATHS: &[(i64, &[usize])] = &[
    (libc::SYS_open, &[0]),
    (libc::SYS_creat, &[0]),
    (libc::SYS_stat, &[0]),
    (libc::SYS_lstat, &[0]),
    (libc::SYS_access, &[0]),
    (libc::SYS_mkdir, &[0]),
    (libc::SYS_mknod, &[0]),
    (libc::SYS_rmdir, &[0]),
    (libc::SYS_unlink, &[0]),
    (libc::SYS_rename, &[0, 1]),
    (libc::SYS_renameat, &[1, 3]),
    (libc::SYS_link, &[0, 1]),
    (libc::SYS_symlink, &[1]),
    (libc::SYS_readlink, &[0]),
    (libc::SYS_chmod, &[0]),
    (libc::SYS_chown, &[0]),
    (libc::SYS_lchown, &[0]),
];
#[cfg(not(target_arch = "x86_64"))]
const OLD_PATHS: &[(i64, &[usize])] = &[];

/// Calls that return a descriptor of the file that they look up.
pub fn opens(call: i64) -> bool {
    #[cfg(target_arch = "x86_64")]
    if [libc::SYS_open, libc::SYS_creat].contains(&call) {
        return true;
    }
    [libc::SYS_openat, libc::SYS_openat2, libc::SYS_open_tree].contains(&call)
}

/// The paths of a call that are not empty.
fn paths(pid: Pid, call: i64, args: &[u64; 6]) -> Vec<String> {
    let Some((_, at)) = PATHS.iter().chain(OLD_PATHS).find(|(number, _)| *number == call) else {
        return Vec::new();
    };
    let Ok(memory) = File::open(format!("/proc/{pid}/mem")) else {
        return Vec::new();
    };
    at.iter().filter_map(|&at| string(&memory, args[at])).filter(|path| !path.is_empty()).collect()
}

/// The string at an address of a process, up to 4096 bytes.
fn string(memory: &File, address: u64) -> Option<String> {
    const PAGE: u64 = 4096;
    let mut bytes = Vec::new();
    // Memory after the end of the string may be unmapped, so no read crosses a page.
    let mut here = address;
    while address != 0 && bytes.len() < 4096 {
        let mut part = vec![0; (PAGE - here % PAGE) as usize];
        let read = memory.read_at(&mut part, here).ok().filter(|&read| read > 0)?;
        if let Some(end) = part[..read].iter().position(|&byte| byte == 0) {
            bytes.extend(&part[..end]);
            return Some(String::from_utf8_lossy(&bytes).into_owned());
        }
        bytes.extend(&part[..read]);
        here += read as u64;
    }
    None
}
