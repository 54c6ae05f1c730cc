//! The simulated kernel: the time, the processes, and the world.

use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;

use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::signal::{Signal, kill};

use windlass_sys::pipe;
use windlass_sys::process::{Exit, SingleThreaded};
use windlass_sys::{Result, SyscallError, fd, stream};

/// The world around the shim.
pub trait World {
    /// When the world acts next, in nanoseconds since the beginning.
    fn next(&self) -> Option<u64>;
    /// Carries out the actions that are due.
    fn act(&mut self);
    /// Why the program cannot be started: an error, or `None`.
    fn refuses(&mut self) -> Option<Errno>;
}

/// The side of a clone.
pub enum Forked {
    /// The new process.
    Child,
    /// The calling process.
    Parent(Child),
}

/// A child.
#[derive(Debug)]
pub struct Child {
    /// The simulated process id.
    pub pid: i32,
    /// The simulated pidfd.
    pub pidfd: OwnedFd,
}

impl Child {
    /// A fault: the loop must not wait for a child.
    pub fn wait(&self) -> Result<Exit> {
        fault(format!("the loop waits for the child {}", self.pid));
        self.try_wait().map(|exit| exit.unwrap_or(Exit::Code(255)))
    }

    /// Reaps the child if it has ended.
    pub fn try_wait(&self) -> Result<Option<Exit>> {
        reap_by(self.pidfd.as_fd())
    }

    /// Kills the child.
    pub fn kill(&self) {
        signal_by(self.pidfd.as_fd(), libc::SIGKILL);
    }

    /// Kills the child, and reaps it at once.
    pub fn end(&self) {
        end(self.pid, Exit::Signal(libc::SIGKILL));
        let _ = self.try_wait();
    }
}

/// How a waiting forked child is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// The child goes on.
    Go,
    /// The child goes on, and finds the disk full.
    FullDisk,
    /// The child is killed.
    Killed,
}

/// A program that the shim has started.
#[derive(Debug)]
pub struct Started {
    pub pid: i32,
    pub words: Vec<String>,
    pub stdio: [OwnedFd; 3],
}

/// A forked child: a real process, and the pipe at which it waits.
#[derive(Debug)]
struct Fork {
    real: windlass_sys::process::Child,
    gate: Option<OwnedFd>,
}

#[derive(Debug)]
struct Process {
    pid: i32,
    /// The inode of the pidfd, which is the read end of a pipe.
    inode: u64,
    pidfd: OwnedFd,
    /// The write end, while the process lives.
    alive: Option<OwnedFd>,
    exit: Option<Exit>,
    fork: Option<Fork>,
    /// Whether the process is the child of another one, which reaps it at once.
    is_foreign: bool,
}

#[derive(Default)]
struct Kernel {
    processes: Vec<Process>,
    pids: i32,
    started: Vec<Started>,
    forked: Vec<i32>,
    signals: Vec<(i32, i32)>,
}

thread_local! {
    static NOW: Cell<u64> = const { Cell::new(0) };
    static STILL: Cell<u32> = const { Cell::new(0) };
    static TURNS: Cell<u32> = const { Cell::new(0) };
    static GATE: RefCell<Option<OwnedFd>> = const { RefCell::new(None) };
    static FULL: Cell<bool> = const { Cell::new(false) };
    /// The number of calls until the shim is killed, and whether the world acts: its calls are not counted.
    static KILL: Cell<Option<u64>> = const { Cell::new(None) };
    static IN_WORLD: Cell<bool> = const { Cell::new(false) };
    static FAULT: RefCell<Option<String>> = const { RefCell::new(None) };
    static KERNEL: RefCell<Kernel> = RefCell::default();
    static WORLD: RefCell<Option<Rc<RefCell<dyn World>>>> = const { RefCell::new(None) };
}

/// The duration of a turn of the loop, in nanoseconds.
const TURN: u64 = 20_000;

/// More turns in a row without waiting are an endless loop.
const TURNS_AT_MOST: u32 = 200_000;

fn with<T>(act: impl FnOnce(&mut Kernel) -> T) -> T {
    KERNEL.with_borrow_mut(act)
}

/// Sets the world.
pub fn set_world(world: Rc<RefCell<dyn World>>) {
    WORLD.set(Some(world));
}

fn world<T>(act: impl FnOnce(&mut dyn World) -> T) -> Option<T> {
    let world = WORLD.with_borrow(|world| world.clone())?;
    let mut world = world.borrow_mut();
    let before = IN_WORLD.replace(true);
    let result = act(&mut *world);
    IN_WORLD.set(before);
    Some(result)
}

/// The panic by which the shim is killed at a call.
#[derive(Debug)]
pub struct Killed;

/// Runs a part of the shim, and kills it at the call number `after`. Returns `None` if it was killed.
pub fn unless_killed<T>(after: Option<u64>, act: impl FnOnce() -> T) -> Option<T> {
    KILL.set(after);
    let result = catch_unwind(AssertUnwindSafe(act));
    KILL.set(None);
    match result {
        Ok(result) => Some(result),
        Err(thrown) if thrown.is::<Killed>() => None,
        Err(thrown) => resume_unwind(thrown),
    }
}

/// Advances the time by `time` without running the shim, while the world goes on.
pub fn starve(time: u64) {
    NOW.set(NOW.get() + time);
    act();
}

/// Counts a call of the shim.
pub(super) fn call() {
    if IN_WORLD.get() {
        return;
    }
    match KILL.get() {
        None => {}
        Some(0) => {
            KILL.set(None);
            resume_unwind(Box::new(Killed));
        }
        Some(left) => KILL.set(Some(left - 1)),
    }
}

/// The time in nanoseconds since the beginning.
pub fn now() -> u64 {
    NOW.get()
}

/// Notes a violated rule. Only the first is kept.
pub fn fault(text: String) {
    FAULT.with_borrow_mut(|fault| {
        fault.get_or_insert(text);
    });
}

/// The first violated rule.
pub fn take_fault() -> Option<String> {
    FAULT.take()
}

pub(super) fn is_disk_full() -> bool {
    FULL.get()
}

/// Advances the time by a turn of the loop. `what` describes the turn, if the loop does not end.
pub(super) fn busy(what: impl FnOnce() -> Vec<String>) {
    NOW.set(NOW.get() + TURN);
    TURNS.set(TURNS.get() + 1);
    if TURNS.get() > TURNS_AT_MOST {
        fault(format!("the loop turns without an end: {:?}", what()));
    }
}

/// Advances the time until the world acts. Returns false if the deadline came first.
pub(super) fn idle(deadline: Option<u64>) -> bool {
    TURNS.set(0);
    let before = now();
    let waits = wait_until(deadline);
    STILL.set(if now() > before { 0 } else { STILL.get() + 1 });
    if STILL.get() > TURNS_AT_MOST {
        fault("the loop waits again and again until a moment that has passed".into());
    }
    waits
}

fn wait_until(deadline: Option<u64>) -> bool {
    let next = world(|world| world.next()).flatten();
    match (next, deadline) {
        (Some(next), deadline) if deadline.is_none_or(|deadline| next < deadline) => {
            NOW.set(NOW.get().max(next));
            true
        }
        (_, Some(deadline)) => {
            NOW.set(NOW.get().max(deadline));
            false
        }
        (_, None) => {
            fault("the loop waits, and nothing will ever happen".into());
            false
        }
    }
}

/// Lets the world act, if its time has come.
pub(super) fn act() {
    while world(|world| world.next()).flatten().is_some_and(|next| next <= now()) {
        world(|world| world.act());
        settle();
    }
}

/// A process that belongs to the world. Returns its id.
pub fn make() -> i32 {
    with(|kernel| kernel.make(None))
}

impl Kernel {
    fn make(&mut self, fork: Option<Fork>) -> i32 {
        let (pidfd, alive) = pipe::new().expect("a pipe");
        self.pids += 1;
        let (pid, inode) = (self.pids + 1000, fd::stat(pidfd.as_fd()).expect("fstat").st_ino);
        self.processes.push(Process { pid, inode, pidfd, alive: Some(alive), exit: None, fork, is_foreign: false });
        pid
    }

    fn of(&mut self, pid: i32) -> Option<&mut Process> {
        self.processes.iter_mut().find(|process| process.pid == pid)
    }

    fn by(&mut self, pidfd: BorrowedFd<'_>) -> Option<&mut Process> {
        let inode = fd::stat(pidfd).ok()?.st_ino;
        self.processes.iter_mut().find(|process| process.inode == inode)
    }

    fn child(&mut self, pid: i32) -> Child {
        let process = self.of(pid).expect("it was just made");
        Child { pid, pidfd: fd::duplicate(process.pidfd.as_fd()).expect("a descriptor") }
    }

    fn reap(&mut self, pid: i32) -> Option<Exit> {
        let at = self.processes.iter().position(|process| process.pid == pid && process.exit.is_some())?;
        self.processes.remove(at).exit
    }
}

pub(super) fn spawn(words: Vec<String>, stdio: [OwnedFd; 3]) -> Result<Child> {
    if let Some(errno) = world(|world| world.refuses()).flatten() {
        return Err(SyscallError { call: "execve()".into(), errno });
    }
    Ok(with(|kernel| {
        let pid = kernel.make(None);
        kernel.started.push(Started { pid, words, stdio });
        kernel.child(pid)
    }))
}

pub(super) fn fork(proof: &SingleThreaded) -> Result<Forked> {
    if let Some(errno) = world(|world| world.refuses()).flatten() {
        return Err(SyscallError { call: "clone3()".into(), errno });
    }
    let (gate, release) = pipe::new()?;
    match windlass_sys::process::fork(CloneFlags::empty(), None, proof)? {
        windlass_sys::process::Forked::Child => {
            drop(release);
            // The child does not act in the world.
            WORLD.set(None);
            KILL.set(None);
            with(|kernel| *kernel = Kernel::default());
            GATE.set(Some(gate));
            Ok(Forked::Child)
        }
        windlass_sys::process::Forked::Parent(real) => Ok(Forked::Parent(with(|kernel| {
            // Before the child waits, it has closed all that it does not need.
            stands(&real);
            let pid = kernel.make(Some(Fork { real, gate: Some(release) }));
            kernel.forked.push(pid);
            kernel.child(pid)
        }))),
    }
}

/// The pipe at which this forked child waits.
pub(super) fn take_gate() -> Option<OwnedFd> {
    GATE.take()
}

/// Waits until the world releases this child.
pub(super) fn wait_at(gate: Option<OwnedFd>) {
    let Some(gate) = gate else { return };
    let mut word = [0];
    match windlass_sys::stream::read(gate.as_fd(), &mut word) {
        Ok(stream::Moved::Bytes(1)) => FULL.set(word[0] == b'f'),
        _ => windlass_sys::process::exit_now(255),
    }
}

/// The programs that were started since the last call.
pub fn take_started() -> Vec<Started> {
    with(|kernel| std::mem::take(&mut kernel.started))
}

/// The children that were forked since the last call. They wait for [`release`].
pub fn take_forked() -> Vec<i32> {
    with(|kernel| std::mem::take(&mut kernel.forked))
}

/// Whether the take functions below and above have anything to return.
pub fn has_news() -> bool {
    with(|kernel| !(kernel.started.is_empty() && kernel.forked.is_empty() && kernel.signals.is_empty()))
}

/// The signals that were sent since the last call: process id and number.
pub fn take_signals() -> Vec<(i32, i32)> {
    with(|kernel| std::mem::take(&mut kernel.signals))
}

/// Releases a forked child.
pub fn release(pid: i32, how: Release) {
    with(|kernel| {
        let Some(Process { fork: Some(fork), .. }) = kernel.of(pid) else { return };
        let Some(gate) = fork.gate.take() else { return };
        match how {
            Release::Go => drop(stream::write(gate.as_fd(), b"g")),
            Release::FullDisk => drop(stream::write(gate.as_fd(), b"f")),
            Release::Killed => fork.real.kill(),
        }
    });
    settle();
}

/// Ends a process.
pub fn end(pid: i32, exit: Exit) {
    let told = with(|kernel| {
        let process = kernel.of(pid).filter(|process| process.exit.is_none())?;
        if let Some(fork) = &process.fork {
            fork.real.end();
        }
        process.exit = Some(exit);
        process.alive = None;
        Some(())
    });
    if told.is_some() {
        let _ = kill(nix::unistd::getpid(), Signal::SIGCHLD);
    }
}

/// Waits until every released child sleeps or has ended.
pub fn settle() {
    let running: Vec<i32> = with(|kernel| {
        let runs = |process: &&Process| {
            process.exit.is_none() && process.fork.as_ref().is_some_and(|fork| fork.gate.is_none())
        };
        kernel.processes.iter().filter(runs).map(|process| process.pid).collect()
    });
    for pid in running {
        let ended = with(|kernel| {
            let fork = kernel.of(pid).and_then(|process| process.fork.as_ref())?;
            stands(&fork.real)
        });
        if let Some(exit) = ended {
            end(pid, exit);
        }
    }
}

/// Waits until a real child sleeps or has ended. Returns its exit in the second case.
fn stands(child: &windlass_sys::process::Child) -> Option<Exit> {
    loop {
        if let Ok(Some(exit)) = child.try_wait() {
            return Some(exit);
        }
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.pid)).unwrap_or_default();
        let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
        if state == Some('S') {
            return None;
        }
        std::thread::yield_now();
    }
}

/// Whether the process exists and has not ended.
pub fn is_alive(pid: i32) -> bool {
    with(|kernel| kernel.of(pid).is_some_and(|process| process.exit.is_none()))
}

/// Gives the children of a killed shim to another process.
pub fn orphan_all() {
    with(|kernel| kernel.processes.iter_mut().for_each(|process| process.is_foreign = true));
}

/// How the child of another process has ended.
pub(super) fn exit_of_other(pidfd: BorrowedFd<'_>) -> Option<Exit> {
    with(|kernel| kernel.by(pidfd).and_then(|process| process.exit))
}

/// Forgets all processes, as another process would reap them after the end of the shim.
pub fn forget() {
    with(|kernel| kernel.processes.clear());
}

/// The processes: ids, and whether each has ended.
pub fn processes() -> Vec<(i32, bool)> {
    let there = |process: &&Process| !(process.is_foreign && process.exit.is_some());
    with(|kernel| kernel.processes.iter().filter(there).map(|process| (process.pid, process.exit.is_some())).collect())
}

pub(super) fn reap_by(pidfd: BorrowedFd<'_>) -> Result<Option<Exit>> {
    with(|kernel| {
        let gone = || SyscallError { call: "waitid(P_PIDFD)".into(), errno: Errno::ECHILD };
        let process = kernel.by(pidfd).ok_or_else(gone)?;
        if process.is_foreign {
            return Err(gone());
        }
        let (pid, exit) = (process.pid, process.exit);
        kernel.reap(pid);
        Ok(exit)
    })
}

pub(super) fn open_pid(pid: i32) -> Option<OwnedFd> {
    with(|kernel| kernel.of(pid).and_then(|process| fd::duplicate(process.pidfd.as_fd()).ok()))
}

pub(super) fn signal_by(pidfd: BorrowedFd<'_>, signal: i32) -> bool {
    with(|kernel| {
        let Some(process) = kernel.by(pidfd).filter(|process| process.exit.is_none()) else { return false };
        let pid = process.pid;
        kernel.signals.push((pid, signal));
        true
    })
}

pub(super) fn is_child(pidfd: BorrowedFd<'_>) -> bool {
    with(|kernel| kernel.by(pidfd).is_some_and(|process| !process.is_foreign))
}

pub(super) fn ended_child() -> Option<i32> {
    let ended = |process: &&Process| process.exit.is_some() && !process.is_foreign;
    with(|kernel| kernel.processes.iter().find(ended).map(|process| process.pid))
}

pub(super) fn reap(pid: i32) -> bool {
    with(|kernel| kernel.reap(pid)).is_some()
}
