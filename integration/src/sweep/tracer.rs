//! Runs a command under ptrace(2): records the system calls of its processes, and acts at one of them.
//!
//! Each process is traced until it executes a program that is not under test. The tracing thread does nothing
//! else. When it ends, the kernel detaches all tracees, so a container lives on.

use super::calls;
use super::point::{Action, Point};
use crate::kit::stop::{Context, Verdict, fail};
use crate::sys::{self, CallStop};
use nix::errno::Errno;
use nix::sys::pthread::{Pthread, pthread_kill, pthread_self};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// A system call of a recording.
#[derive(Clone, Debug)]
pub struct Call {
    /// The point of the call.
    pub point: Point,
    /// The error that it returned without an injection.
    pub error: Option<i32>,
}

/// The recording of a command.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// All calls in their order.
    pub calls: Vec<Call>,
    /// Whether the point was reached and acted on.
    pub reached: bool,
    /// The program of each process that has executed one that is not under test.
    pub executed: BTreeMap<String, String>,
}

impl Trace {
    /// Leaves out the calls that one of the others does not have: whether they are made is chance.
    pub fn keep_common(&mut self, others: &[Trace]) {
        let points = |trace: &Trace| trace.calls.iter().map(|call| call.point.clone()).collect::<BTreeSet<_>>();
        let others: Vec<_> = others.iter().map(points).collect();
        self.calls.retain(|call| others.iter().all(|points| points.contains(&call.point)));
    }
}

/// The command to trace, and the point.
pub struct Request {
    /// The command, with its stdio.
    pub command: Command,
    /// An existing process that takes part, with its name.
    pub partner: Option<(Pid, &'static str)>,
    /// Device and inode of each program under test.
    pub programs: Vec<(u64, u64)>,
    /// The point, and the action there. `None` only records.
    pub at: Option<(Point, Action)>,
}

/// Device and inode of a program.
pub fn identity(program: &Path) -> Verdict<(u64, u64)> {
    let meta = std::fs::metadata(program).context(program.display())?;
    Ok((meta.dev(), meta.ino()))
}

/// A command that is being traced.
pub struct Session {
    stop: Arc<AtomicBool>,
    tracer: Arc<Mutex<Option<Pthread>>>,
    thread: Option<JoinHandle<Verdict<Trace>>>,
    ended: Receiver<i32>,
    main: Pid,
}

impl Session {
    /// Starts the command.
    pub fn start(request: Request) -> Verdict<Session> {
        let (send_pid, pid) = channel();
        let (send_end, ended) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let tracer = Arc::new(Mutex::new(None));
        let (stop_seen, own) = (stop.clone(), tracer.clone());
        let thread = thread::spawn(move || {
            *own.lock().unwrap_or_else(PoisonError::into_inner) = Some(pthread_self());
            let done = trace(request, &send_pid, send_end, &stop_seen);
            // From here on the thread cannot be interrupted.
            *own.lock().unwrap_or_else(PoisonError::into_inner) = None;
            done
        });
        let mut session = Session { stop, tracer, thread: Some(thread), ended, main: Pid::from_raw(0) };
        match pid.recv() {
            Ok(pid) => session.main = pid,
            Err(_) => return session.finish().and_then(|_| fail("the traced command has not started")),
        }
        Ok(session)
    }

    /// Waits for the end of the command: its exit code, or the signal as a negative number. `None` at the time limit.
    pub fn wait(&self, limit: Duration) -> Option<i32> {
        self.ended.recv_timeout(limit).ok()
    }

    /// Detaches all tracees and ends the thread.
    pub fn finish(&mut self) -> Verdict<Trace> {
        let Some(thread) = self.thread.take() else {
            return fail("the trace was taken already");
        };
        self.stop.store(true, Ordering::SeqCst);
        while !thread.is_finished() {
            if let Some(tracer) = *self.tracer.lock().unwrap_or_else(PoisonError::into_inner) {
                // Repeated, because the signal may arrive before the thread waits.
                let _ = pthread_kill(tracer, Signal::SIGUSR1);
            }
            thread::sleep(Duration::from_micros(200));
        }
        thread.join().unwrap_or_else(|_| fail("the tracer panicked"))
    }

    /// Reaps a command that was still running, after all processes were killed.
    pub fn collect(&self) {
        let _ = waitpid(self.main, Some(WaitPidFlag::__WALL));
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.thread.is_some() {
            let _ = self.finish();
        }
    }
}

/// A shell that stops itself and then executes the program with its arguments.
pub fn stopped(program: &Path) -> Command {
    stopped_with(program, "")
}

/// The stopped command with redirections.
pub fn stopped_with(program: &Path, redirections: &str) -> Command {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", &format!("kill -STOP $$; exec \"$@\" {redirections}"), "sh"]).arg(program);
    shell
}

fn trace(mut request: Request, pid: &Sender<Pid>, ended: Sender<i32>, stop: &AtomicBool) -> Verdict<Trace> {
    let options = Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEEXEC;
    let child = request.command.spawn().context("the traced command")?;
    let main = Pid::from_raw(child.id().cast_signed());
    waitpid(main, Some(WaitPidFlag::WUNTRACED)).context("waiting for the stopped shell")?;
    ptrace::seize(main, options).context("PTRACE_SEIZE")?;
    let mut tracer = Tracer::new(main, request.programs, request.at, ended);
    if let Some((partner, name)) = request.partner {
        ptrace::seize(partner, options).context(format!("PTRACE_SEIZE of {name}"))?;
        ptrace::interrupt(partner).context("PTRACE_INTERRUPT")?;
        tracer.admit(partner, name.to_owned());
    }
    kill(main, Signal::SIGCONT).context("SIGCONT")?;
    let _ = pid.send(main);
    while !stop.load(Ordering::SeqCst) {
        match waitpid(None::<Pid>, Some(WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD)) {
            Ok(status) => tracer.take(status),
            Err(Errno::EINTR) => {}
            Err(Errno::ECHILD) => break,
            Err(error) => return fail(format!("waitpid: {error}")),
        }
    }
    Ok(tracer.seen)
}

/// A tracee.
struct Tracee {
    name: String,
    children: u32,
    /// The call that it is in.
    pending: Option<Pending>,
    counts: BTreeMap<String, u32>,
}

enum Pending {
    /// The index of the call in the recording.
    Listed(usize),
    /// The call is not made and returns this.
    Replaced(Errno),
}

struct Tracer {
    main: Pid,
    programs: Vec<(u64, u64)>,
    at: Option<(Point, Action)>,
    ended: Sender<i32>,
    /// Whether the shell has executed the command.
    started: bool,
    tracees: BTreeMap<Pid, Tracee>,
    /// Children whose first stop came before their parent's.
    early: BTreeSet<Pid>,
    seen: Trace,
}

impl Tracer {
    fn new(main: Pid, programs: Vec<(u64, u64)>, at: Option<(Point, Action)>, ended: Sender<i32>) -> Tracer {
        let (tracees, early) = (BTreeMap::new(), BTreeSet::new());
        let mut tracer = Tracer { main, programs, at, ended, started: false, tracees, early, seen: Trace::default() };
        tracer.admit(main, "main".to_owned());
        tracer
    }

    fn admit(&mut self, pid: Pid, name: String) {
        self.tracees.insert(pid, Tracee { name, children: 0, pending: None, counts: BTreeMap::new() });
    }

    /// A process need not stop at its calls before it executes a program, or after the action.
    fn resume(&self, pid: Pid, signal: Option<Signal>) {
        let _ = if self.seen.reached || (pid == self.main && !self.started) {
            ptrace::cont(pid, signal)
        } else {
            ptrace::syscall(pid, signal)
        };
    }

    fn take(&mut self, status: WaitStatus) {
        match status {
            WaitStatus::Exited(pid, code) => self.gone(pid, code),
            WaitStatus::Signaled(pid, signal, _) => self.gone(pid, -(signal as i32)),
            WaitStatus::PtraceSyscall(pid) => self.at_call(pid),
            WaitStatus::PtraceEvent(pid, _, event) => self.at_event(pid, event),
            WaitStatus::Stopped(pid, signal) => self.resume(pid, Some(signal)),
            _ => {}
        }
    }

    fn gone(&mut self, pid: Pid, code: i32) {
        self.tracees.remove(&pid);
        if pid == self.main {
            let _ = self.ended.send(code);
        }
    }

    fn at_event(&mut self, pid: Pid, event: i32) {
        match event {
            libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK | libc::PTRACE_EVENT_CLONE => self.born(pid),
            libc::PTRACE_EVENT_EXEC if !self.executes_what_is_tested(pid) => {
                self.tracees.remove(&pid);
                let _ = ptrace::detach(pid, None);
                return;
            }
            libc::PTRACE_EVENT_EXEC => self.started |= pid == self.main,
            libc::PTRACE_EVENT_STOP if !self.tracees.contains_key(&pid) => {
                self.early.insert(pid);
                return;
            }
            _ => {}
        }
        self.resume(pid, None);
    }

    fn born(&mut self, parent: Pid) {
        let Ok(child) = ptrace::getevent(parent) else {
            return;
        };
        let child = Pid::from_raw(child as i32);
        let name = self.tracees.get_mut(&parent).map(|tracee| {
            tracee.children += 1;
            format!("{}.{}", tracee.name, tracee.children)
        });
        self.admit(child, name.unwrap_or_default());
        if self.early.remove(&child) {
            self.resume(child, None);
        }
    }

    fn executes_what_is_tested(&mut self, pid: Pid) -> bool {
        let link = format!("/proc/{pid}/exe");
        if identity(Path::new(&link)).is_ok_and(|identity| self.programs.contains(&identity)) {
            return true;
        }
        let program = std::fs::read_link(link).unwrap_or_default();
        let name = self.tracees.get(&pid).map(|tracee| tracee.name.clone()).unwrap_or_default();
        self.seen.executed.insert(name, program.display().to_string());
        false
    }

    fn at_call(&mut self, pid: Pid) {
        match sys::call_stop(pid) {
            Ok(CallStop::Entry(number, arguments)) if !self.seen.reached => {
                let name = named(pid, number, &arguments);
                if self.enters(pid, name) {
                    return;
                }
            }
            Ok(CallStop::Exit(value)) => self.leaves(pid, value),
            _ => {}
        }
        self.resume(pid, None);
    }

    /// Records a call, or acts at it. Returns true if the process has ended.
    fn enters(&mut self, pid: Pid, call: String) -> bool {
        let Some(tracee) = self.tracees.get_mut(&pid) else {
            return false;
        };
        let nth = tracee.counts.entry(call.clone()).or_insert(0);
        *nth += 1;
        let point = Point { process: tracee.name.clone(), call, nth: *nth };
        let action = self.at.as_ref().filter(|(at, _)| *at == point).map(|(_, action)| *action);
        tracee.pending = Some(match action {
            Some(Action::Fail(errno)) => Pending::Replaced(errno),
            _ => Pending::Listed(self.seen.calls.len()),
        });
        self.seen.calls.push(Call { point, error: None });
        match action {
            Some(Action::Kill) => {
                let _ = kill(pid, Signal::SIGKILL);
                self.seen.reached = true;
                true
            }
            Some(Action::Fail(_)) => {
                let _ = change(pid, |registers| registers.orig_rax = u64::MAX);
                false
            }
            None => false,
        }
    }

    fn leaves(&mut self, pid: Pid, value: i64) {
        match self.tracees.get_mut(&pid).and_then(|tracee| tracee.pending.take()) {
            Some(Pending::Replaced(errno)) => {
                let value = -i64::from(errno as i32);
                let done = change(pid, |registers| registers.rax = value.cast_unsigned());
                self.seen.reached = done.is_ok();
            }
            Some(Pending::Listed(at)) if (-4095..0).contains(&value) => {
                self.seen.calls[at].error = i32::try_from(-value).ok();
            }
            _ => {}
        }
    }
}

/// The name of a call, for read(2) and write(2) with the type of the file, which determines the possible errors.
fn named(pid: Pid, number: i64, arguments: &[u64; 6]) -> String {
    let name = calls::name(number, arguments);
    if name != "read" && name != "write" {
        return name;
    }
    let Ok(meta) = std::fs::metadata(format!("/proc/{pid}/fd/{}", arguments[0])) else { return name };
    let kind = meta.file_type();
    if kind.is_fifo() {
        name + ":pipe"
    } else if kind.is_socket() {
        name + ":socket"
    } else if kind.is_char_device() && is_terminal(meta.rdev()) {
        name + ":terminal"
    } else {
        name
    }
}

/// A pseudoterminal: `/dev/ptmx` and `/dev/pts` (Documentation/admin-guide/devices.txt).
fn is_terminal(device: u64) -> bool {
    let (major, minor) = (libc::major(device), libc::minor(device));
    (major, minor) == (5, 2) || (128..144).contains(&major)
}

/// Changes the registers of a stopped process.
fn change(pid: Pid, how: impl FnOnce(&mut libc::user_regs_struct)) -> nix::Result<()> {
    let mut registers = ptrace::getregs(pid)?;
    how(&mut registers);
    ptrace::setregs(pid, registers)
}
