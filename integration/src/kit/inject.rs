//! Kills one process of a command at a chosen system call, with ptrace.
//!
//! System calls are counted over the command and all its descendants, in the
//! order in which the tracer sees them, so that a sweep over the count reaches
//! the parent and the children alike.

use super::stop::{Context, Verdict, fail};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// The outcome of an injection.
#[derive(Clone, Copy, Debug)]
pub struct Injection {
    /// System calls seen.
    pub calls: u32,
    /// Whether the chosen call was reached and the process killed.
    pub killed: bool,
}

/// The cost of a command and its children.
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    /// System calls, of each child up to the program that it executes.
    pub calls: u32,
    /// The most memory that the command itself had, in KiB.
    pub peak_kib: u64,
    /// The private memory at the end in KiB, without the program in the page cache.
    pub private_kib: u64,
}

/// Runs `command` and counts.
pub fn count(command: Command) -> Verdict<Counted> {
    let tracer = thread::spawn(move || trace(command, u32::MAX)).join();
    match tracer {
        Ok(done) => done.map(|tracer| Counted {
            calls: tracer.own_calls,
            peak_kib: tracer.peak_kib,
            private_kib: tracer.private_kib,
        }),
        Err(_) => fail("the tracer panicked"),
    }
}

/// Runs `command`, and kills the process that makes system call number `at` (from 1);
/// with `u32::MAX` it only counts. Returns when the command itself has ended.
pub fn kill_at(command: Command, at: u32) -> Verdict<Injection> {
    // The tracer is a separate thread: when it ends, the kernel detaches every tracee that is still alive, such as a
    // container's init.
    let tracer = thread::spawn(move || trace(command, at));
    match tracer.join() {
        Ok(done) => done.map(|tracer| Injection { calls: tracer.calls, killed: tracer.killed }),
        Err(_) => fail("the tracer panicked"),
    }
}

/// A shell that stops itself and then executes the command.
fn stopped(command: &Command) -> Command {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", "kill -STOP $$; exec \"$@\"", "sh"]).arg(command.get_program()).args(command.get_args());
    if let Some(dir) = command.get_current_dir() {
        shell.current_dir(dir);
    }
    shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    shell
}

fn trace(command: Command, at: u32) -> Verdict<Tracer> {
    let child = stopped(&command).spawn().context("traced command")?;
    let main = Pid::from_raw(child.id().cast_signed());
    waitpid(main, Some(WaitPidFlag::WUNTRACED)).context("waiting for the stopped shell")?;
    // Without a kill, the counters of a process are read in the stop at its end.
    let last_look = if at == u32::MAX { Options::PTRACE_O_TRACEEXIT } else { Options::empty() };
    let options = last_look
        | Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEEXEC;
    ptrace::seize(main, options).context("PTRACE_SEIZE")?;
    kill(main, Signal::SIGCONT).context("SIGCONT")?;
    let mut tracer = Tracer {
        main,
        at,
        calls: 0,
        own_calls: 0,
        peak_kib: 0,
        private_kib: 0,
        killed: false,
        started: false,
        entered: Vec::new(),
        executed: Vec::new(),
    };
    let start = Instant::now();
    loop {
        match waitpid(None::<Pid>, Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => {
                if start.elapsed() > Duration::from_secs(120) {
                    let _ = kill(main, Signal::SIGKILL);
                    return fail(format!("hung after system call {} with the kill at {at}", tracer.calls));
                }
                thread::sleep(Duration::from_micros(50));
            }
            Ok(status) => {
                if tracer.take(status) {
                    return Ok(tracer);
                }
            }
            Err(nix::Error::ECHILD) => return Ok(tracer),
            Err(error) => return fail(format!("waitpid: {error}")),
        }
    }
}

struct Tracer {
    main: Pid,
    at: u32,
    calls: u32,
    /// The calls without those of programs that children have executed.
    own_calls: u32,
    peak_kib: u64,
    private_kib: u64,
    killed: bool,
    /// Whether the shell has executed the command. Earlier calls do not count.
    started: bool,
    /// Threads that are inside a system call.
    entered: Vec<Pid>,
    /// Children that have executed a program.
    executed: Vec<Pid>,
}

impl Tracer {
    /// Handles one stop. Returns true when the command itself has ended.
    fn take(&mut self, status: WaitStatus) -> bool {
        match status {
            WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, _, _) => {
                self.entered.retain(|other| *other != pid);
                return pid == self.main;
            }
            WaitStatus::PtraceSyscall(pid) => self.syscall_stop(pid),
            WaitStatus::PtraceEvent(pid, signal, event) => {
                self.started |= event == libc::PTRACE_EVENT_EXEC;
                if event == libc::PTRACE_EVENT_EXEC && pid != self.main {
                    self.executed.push(pid);
                }
                if event == libc::PTRACE_EVENT_EXIT && pid == self.main {
                    self.peak_kib = status_kib(pid, "VmHWM:");
                    self.private_kib = status_kib(pid, "RssAnon:");
                }
                // A group stop must not be undone by a signal; PTRACE_EVENT_STOP reports it.
                let _ = signal;
                let _ = ptrace::syscall(pid, None);
            }
            WaitStatus::Stopped(pid, signal) => {
                let _ = ptrace::syscall(pid, Some(signal).filter(|s| *s != Signal::SIGTRAP));
            }
            _ => {}
        }
        false
    }

    fn syscall_stop(&mut self, pid: Pid) {
        let leaving = self.entered.iter().position(|other| *other == pid);
        if let Some(at) = leaving {
            self.entered.swap_remove(at);
        } else {
            self.entered.push(pid);
            self.calls += u32::from(self.started);
            self.own_calls += u32::from(self.started && !self.executed.contains(&pid));
            if self.calls == self.at && !self.killed && self.started {
                self.killed = true;
                let _ = kill(pid, Signal::SIGKILL);
                return;
            }
        }
        let _ = ptrace::syscall(pid, None);
    }
}

/// A line of `/proc/PID/status`, of a process that is about to end.
fn status_kib(pid: Pid, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok()).unwrap_or(0)
}
