//! The state machine of the containers and their processes: requests in, events out.
//!
//! Nothing here waits: a call of the runtime is started and its end is an event of the loop, so
//! [`Supervisor::state`] and [`Request::Wait`] are answered while a runtime hangs.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::call::{Call, Waiting, What};
use super::key::{self, Kind, key};
use super::notifier::Watch;
use super::oom::{self, OomWatch};
use super::outlet::Scratch;
use super::process::{Ending, Process};
use super::reaper::{Reaper, reap_orphans};
use super::{
    Code, Container, Event, Framing, Interest, Phase, Poll, ProcessId, ProcessState, Ready, Refusal, Reply, Request,
    WaitToken,
};
use crate::sys::Result;

/// How long a terminal that was hung up is left alone.
const HUNG_UP: Duration = Duration::from_millis(100);

/// When nothing has happened for so long, memory is given back.
const IDLE: Duration = Duration::from_millis(500);

/// A container and what is watched of it.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) container: Container,
    pub(super) oom: Option<OomWatch>,
    pub(super) oom_killed: bool,
    pub(super) cgroup: Option<PathBuf>,
}

/// Everything that the shim keeps.
pub struct Supervisor {
    /// The loop's epoll instance, for the front end's own descriptors too.
    pub poll: Poll,
    /// Written to `oom_score_adj` of every runtime: what was ours before we protected ourselves.
    pub oom_score_adj: Option<String>,
    /// Whether `LISTEN_PID` is set to the runtime's process id.
    pub listen_pid: bool,
    /// Whether an attached client that is the only reader of a process may take its time, as the
    /// reader of a pipe may.
    pub patient: bool,
    /// What is held open as long as a process runs, for example ports that are reserved for it:
    /// closed when the first process has ended, before that is written down.
    pub held: Vec<OwnedFd>,
    /// Gets SIGTERM, SIGINT and SIGQUIT by the front end's choice; see [`Event::Signal`].
    reaper: Reaper,
    pub(super) scratch: Scratch,
    pub(super) containers: Vec<Known>,
    pub(super) processes: Vec<Process>,
    pub(super) calls: Vec<Call>,
    pub(super) waiting: Vec<Waiting>,
    pub(super) events: VecDeque<Event>,
    /// Children of the front end's own, which only it reaps.
    children: Vec<i32>,
    orphans: bool,
    pub(super) directory: Option<Watch>,
    /// What was ready for the core when the front end had its turn.
    later: Vec<(u64, Ready)>,
    serial: u32,
    token: u64,
    /// When something last happened, if memory was not given back since.
    stirred: Option<Instant>,
}

/// A process id, and the exec's id where it is one of ours.
pub type NamedPid = (i32, Option<Rc<str>>);

impl Supervisor {
    /// Blocks the signals, becomes the parent of orphans, and may open as many files as the hard limit allows.
    pub fn new() -> Result<Supervisor> {
        let (poll, reaper) = (Poll::new()?, Reaper::new()?);
        // Each process takes seven, and a storm of execs may have hundreds.
        crate::sys::spawn::raise_descriptor_limit();
        poll.watch(reaper.fd(), key(Kind::Signals, 0, 0), Interest::Read)?;
        Ok(Supervisor {
            poll,
            oom_score_adj: None,
            listen_pid: false,
            patient: false,
            held: Vec::new(),
            reaper,
            scratch: Scratch::new()?,
            containers: Vec::new(),
            processes: Vec::new(),
            calls: Vec::new(),
            waiting: Vec::new(),
            events: VecDeque::new(),
            children: Vec::new(),
            orphans: false,
            directory: None,
            later: Vec::new(),
            serial: 0,
            token: 0,
            stirred: Some(Instant::now()),
        })
    }

    /// Makes a container known; nothing runs. The id must not be taken.
    pub fn open(&mut self, container: Container) -> std::result::Result<(), Refusal> {
        if self.known(&container.id).is_some() {
            return Err(Refusal::new(Code::AlreadyExists, format!("container {:?} already exists", container.id)));
        }
        self.containers.push(Known { container, oom: None, oom_killed: false, cgroup: None });
        Ok(())
    }

    /// Forgets a container without touching it.
    pub fn close(&mut self, container: &str) {
        while let Some(at) = self.processes.iter().position(|process| &*process.new.id.container == container) {
            self.remove(at);
        }
        if let Some(at) = self.containers.iter().position(|known| &*known.container.id == container) {
            self.containers.remove(at);
        }
    }

    /// Does what is asked, or begins to: never blocks.
    pub fn request(&mut self, request: Request) -> std::result::Result<Reply, Refusal> {
        match request {
            Request::Create(process) => self.create(process),
            Request::AddExec(process) => self.add(process),
            Request::Start(process) => self.start(&process),
            Request::Kill { process, signal, all } => self.kill(&process, signal, all),
            Request::Call { container, arguments, then } => {
                let init = ProcessId { container, exec: None };
                self.call_verb(&init, What::Other(then), &arguments)
            }
            Request::Resize { process, rows, columns } => match self.streams(&process)?.resize(rows, columns) {
                Ok(true) => Ok(Reply::Done),
                Ok(false) => Err(Refusal::new(Code::WrongPhase, "the process has no terminal")),
                Err(failed) => Err(failed.into()),
            },
            Request::CloseStdin(process) => {
                let at = self.find(&process)?;
                match &mut self.processes[at].streams {
                    Some(streams) => streams.close_stdin(&self.poll),
                    None => self.processes[at].stdin_closed = true,
                }
                Ok(Reply::Done)
            }
            Request::ReopenLogs(process) => {
                let at = self.find(&process)?;
                if let Some(streams) = &mut self.processes[at].streams {
                    streams.reopen_logs();
                }
                Ok(Reply::Done)
            }
            Request::Wait(process) => {
                let at = self.find(&process)?;
                let token = self.next_token();
                let process = &mut self.processes[at];
                match process.exit {
                    Some(status) if process.is_told() => Ok(Reply::Exited(status)),
                    None if process.is_told() => Err(Refusal::new(Code::WrongPhase, "the process never ran")),
                    _ => {
                        process.waiters.push(token);
                        Ok(Reply::Pending(token))
                    }
                }
            }
            Request::Delete { process, force } => self.delete(&process, force),
        }
    }

    fn streams(&mut self, process: &ProcessId) -> std::result::Result<&mut super::streams::Streams, Refusal> {
        let at = self.find(process)?;
        let process = &mut self.processes[at];
        process.streams.as_mut().ok_or_else(|| Refusal::new(Code::WrongPhase, "the process is not started"))
    }

    /// What is known of a process; at once, whatever runs.
    pub fn state(&self, process: &ProcessId) -> Option<ProcessState> {
        self.find(process).ok().map(|at| self.processes[at].state())
    }

    /// The containers that are known.
    pub fn containers(&self) -> impl Iterator<Item = &Container> {
        self.containers.iter().map(|known| &known.container)
    }

    /// The processes of a container that are known, init first.
    pub fn processes(&self, container: &str) -> Vec<ProcessId> {
        let mut ids: Vec<ProcessId> = self
            .processes
            .iter()
            .map(|process| process.new.id.clone())
            .filter(|id| &*id.container == container)
            .collect();
        ids.sort_by_key(|id| id.exec.is_some());
        ids
    }

    /// All process ids in the container's cgroup, with the exec that each is the first of.
    pub fn pids(&self, container: &str) -> std::result::Result<Vec<NamedPid>, Refusal> {
        let known = self.known(container).ok_or_else(|| not_found(container))?;
        let mut pids = known.cgroup.as_deref().map(oom::members).unwrap_or_default();
        let ours = self.processes.iter().filter(|process| &*process.new.id.container == container);
        let ours: Vec<&Process> = ours.filter(|process| process.pid != 0 && process.is_alive()).collect();
        for process in &ours {
            if !pids.contains(&process.pid) {
                pids.push(process.pid);
            }
        }
        let exec = |pid| ours.iter().find(|process| process.pid == pid).and_then(|process| process.new.id.exec.clone());
        Ok(pids.into_iter().map(|pid| (pid, exec(pid))).collect())
    }

    /// The container's cgroup as a directory, once it is created: of the unified hierarchy, or,
    /// on a host of version 1, of one that has its processes.
    pub fn cgroup(&self, container: &str) -> Option<&Path> {
        self.known(container).and_then(|known| known.cgroup.as_deref())
    }

    /// Gives a client a process's stdio; the core owns the socket from now on.
    pub fn attach(
        &mut self,
        process: &ProcessId,
        client: OwnedFd,
        framing: Framing,
    ) -> std::result::Result<(), Refusal> {
        let at = self.find(process)?;
        match &mut self.processes[at].streams {
            Some(streams) => Ok(streams.attach(client, framing, &self.poll)?),
            None => Err(Refusal::new(Code::WrongPhase, "the process is not started")),
        }
    }

    /// How many clients are attached to the processes of a container.
    pub fn attached(&self, container: &str) -> usize {
        let here = self.processes.iter().filter(|process| &*process.new.id.container == container);
        here.filter_map(|process| process.streams.as_ref()).map(|streams| streams.attached()).sum()
    }

    /// The next thing to be told.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// A child of the front end's own: the core does not reap it.
    pub fn keep_child(&mut self, pid: i32) {
        self.children.push(pid);
    }

    /// The front end has reaped its child.
    pub fn forget_child(&mut self, pid: i32) {
        self.children.retain(|&child| child != pid);
    }

    /// Whether calls of the runtime, or records, are under way.
    pub fn is_busy(&self) -> bool {
        !self.calls.is_empty()
            || self
                .processes
                .iter()
                .any(|process| matches!(process.ending, Ending::Draining { .. } | Ending::Writing(_)))
    }

    /// One turn of the loop: waits for the descriptors (no longer than until `deadline`, or the
    /// core's own), does the core's part, and returns the front end's.
    ///
    /// What is there for the front end at the same time comes first, and the core's at the beginning
    /// of the next turn: a client that has connected before the process began to write gets all that
    /// it writes.
    pub fn turn(&mut self, deadline: Option<Instant>) -> Result<Vec<(u64, Ready)>> {
        for (key, ready) in std::mem::take(&mut self.later) {
            self.take(key, ready);
        }
        let mut found = Vec::new();
        if self.events.is_empty() {
            let deadline = deadline.into_iter().chain(self.deadline()).min();
            self.poll.wait(deadline, &mut found)?;
        }
        if !found.is_empty() {
            self.stirred = Some(Instant::now());
        }
        let (theirs, ours): (Vec<_>, Vec<_>) = found.into_iter().partition(|&(key, _)| key::is_of_front_end(key));
        if theirs.is_empty() {
            ours.into_iter().for_each(|(key, ready)| self.take(key, ready));
        } else {
            self.later = ours;
        }
        self.due(Instant::now());
        Ok(theirs)
    }

    /// Does the core's part for one descriptor.
    fn take(&mut self, key: u64, ready: Ready) {
        if let Some((kind, serial, sub)) = key::parts(key) {
            self.ready(kind, serial, sub, ready);
        }
    }

    fn ready(&mut self, kind: Kind, serial: u32, sub: u16, ready: Ready) {
        match kind {
            Kind::Signals => self.signals(),
            Kind::Process => self.process_ended(serial),
            Kind::Record => self.record_written(serial),
            Kind::Call => self.call_ended(serial),
            Kind::CallOutput | Kind::CallErrors => self.call_printed(serial, kind),
            Kind::Console => self.console_ready(serial),
            Kind::News => self.news(),
            Kind::Source | Kind::Sink | Kind::InputFifo | Kind::InputSink | Kind::Client => {
                let Some(process) = self.processes.iter_mut().find(|process| process.serial == serial) else { return };
                let alive = process.is_alive();
                if let Some(streams) = &mut process.streams {
                    streams.ready(kind, sub, ready, &self.poll, &mut self.scratch, alive);
                }
                if !alive {
                    self.drained(serial);
                }
            }
        }
    }

    fn signals(&mut self) {
        while let Some(signal) = self.reaper.next_signal() {
            match signal {
                libc::SIGCHLD => self.orphans = true,
                libc::SIGTERM | libc::SIGINT | libc::SIGQUIT | libc::SIGHUP | libc::SIGUSR1 => {
                    self.events.push_back(Event::Signal(signal));
                }
                _ => {}
            }
        }
    }

    /// When the core itself has something to do.
    fn deadline(&self) -> Option<Instant> {
        let calls = self.calls.iter().filter(|call| !call.timed_out).map(|call| call.deadline);
        let endings = self.processes.iter().filter_map(|process| match &process.ending {
            Ending::Draining { until, clients } => Some(if *until > Instant::now() { *until } else { *clients }),
            Ending::Failed(at) | Ending::Unreaped(at) => Some(*at),
            _ => None,
        });
        let patience = self.processes.iter().filter_map(|process| {
            let streams = process.streams.as_ref().filter(|streams| !(self.patient && streams.has_one_reader()))?;
            streams.patience_ends(process.is_alive())
        });
        let hung_up = self.processes.iter().any(|process| process.streams.as_ref().is_some_and(|s| s.is_hung_up()));
        let hung_up = hung_up.then(|| Instant::now() + HUNG_UP);
        let idle = self.stirred.map(|at| at + IDLE);
        let readers = self.processes.iter().filter_map(|process| process.streams.as_ref()?.look_at());
        let reading = self.processes.iter().filter_map(|process| process.read_until);
        calls.chain(readers).chain(reading).chain(endings).chain(patience).chain(hung_up).chain(idle).min()
    }

    fn due(&mut self, now: Instant) {
        self.calls_due(now);
        for process in &mut self.processes {
            let alive = process.is_alive();
            let streams = process.streams.as_mut();
            if let Some(streams) = streams.filter(|streams| !(self.patient && streams.has_one_reader())) {
                streams.lose_patience(now, &self.poll, &mut self.scratch, alive);
            }
        }
        let serials: Vec<u32> = self
            .processes
            .iter()
            .filter(|process| matches!(process.ending, Ending::Draining { .. } | Ending::Failed(_)))
            .map(|process| process.serial)
            .collect();
        serials.into_iter().for_each(|serial| self.drained(serial));
        let unreaped: Vec<u32> = self
            .processes
            .iter()
            .filter(|process| matches!(process.ending, Ending::Unreaped(until) if until <= now))
            .map(|process| process.serial)
            .collect();
        unreaped.into_iter().for_each(|serial| self.process_ended(serial));
        for process in &mut self.processes {
            let alive = process.is_alive();
            if let Some(streams) = process.streams.as_mut().filter(|streams| alive && streams.is_hung_up()) {
                streams.look_again(&self.poll, &mut self.scratch);
            }
        }
        if self.processes.iter().any(|process| process.streams.as_ref().is_some_and(|s| s.look_at().is_some())) {
            self.look_for_readers(Some(now));
        }
        self.readers_due(now);
        if self.orphans && !self.calls.iter().any(|call| matches!(call.what, What::Create | What::Exec)) {
            self.orphans = !self.reap_orphans();
        }
        if self.stirred.is_some_and(|at| now >= at + IDLE) {
            self.stirred = None;
            self.processes.iter_mut().filter_map(|process| process.streams.as_mut()).for_each(|s| s.rest());
            self.scratch.release();
            crate::sys::region::give_back();
        }
    }

    fn reap_orphans(&self) -> bool {
        reap_orphans(|pid| {
            self.children.contains(&pid)
                || self.calls.iter().any(|call| call.child.pid == pid)
                || self.processes.iter().any(|process| {
                    (process.pid == pid && process.is_alive())
                        || matches!(&process.ending, Ending::Writing(child) if child.pid == pid)
                })
        })
    }

    pub(super) fn next_serial(&mut self) -> u32 {
        self.serial = self.serial.wrapping_add(1);
        self.serial
    }

    pub(super) fn next_token(&mut self) -> WaitToken {
        self.token += 1;
        WaitToken(self.token)
    }

    pub(super) fn known(&self, container: &str) -> Option<&Known> {
        self.containers.iter().find(|known| &*known.container.id == container)
    }

    pub(super) fn find(&self, id: &ProcessId) -> std::result::Result<usize, Refusal> {
        let found = self.processes.iter().position(|process| process.new.id == *id);
        found.ok_or_else(|| not_found(id.exec.as_deref().unwrap_or(&id.container)))
    }

    pub(super) fn by_serial(&self, serial: u32) -> Option<usize> {
        self.processes.iter().position(|process| process.serial == serial)
    }

    pub(super) fn add(&mut self, process: super::NewProcess) -> std::result::Result<Reply, Refusal> {
        let container = process.id.container.clone();
        if self.known(&container).is_none() {
            return Err(not_found(&container));
        }
        if self.find(&process.id).is_ok() {
            let name = process.id.exec.as_deref().unwrap_or(&container);
            return Err(Refusal::new(Code::AlreadyExists, format!("id {name} already exists")));
        }
        if process.id.exec.is_some() {
            self.refuse_after_the_end(&container)?;
        }
        let serial = self.next_serial();
        self.processes.push(Process::new(serial, process));
        Ok(Reply::Done)
    }

    /// No exec is made known or started when init has ended.
    fn refuse_after_the_end(&self, container: &str) -> std::result::Result<(), Refusal> {
        let init = self.find(&ProcessId::init(container));
        if init.is_ok_and(|init| !self.processes[init].is_alive()) {
            return Err(Refusal::new(Code::WrongPhase, "container not running: its init has ended"));
        }
        Ok(())
    }

    /// Takes a process out; who still waits for it is told that it is gone.
    pub(super) fn remove(&mut self, at: usize) -> Process {
        let mut process = self.processes.remove(at);
        let gone = not_found(process.new.id.exec.as_deref().unwrap_or(&process.new.id.container));
        for token in process.waiters.drain(..).chain(process.deleting.drain(..)) {
            self.events.push_back(Event::Finished { token, result: Err(gone.clone()) });
        }
        process
    }

    fn create(&mut self, process: super::NewProcess) -> std::result::Result<Reply, Refusal> {
        let id = process.id.clone();
        self.add(process)?;
        let launched = self.find(&id).and_then(|at| self.launch(at, What::Create));
        if let (Err(_), Ok(at)) = (&launched, self.find(&id)) {
            self.remove(at);
        }
        launched.map(Reply::Pending)
    }

    fn start(&mut self, id: &ProcessId) -> std::result::Result<Reply, Refusal> {
        let at = self.find(id)?;
        let process = &self.processes[at];
        if process.is_init() {
            if process.phase == Phase::Added && !self.calls.iter().any(|call| call.process == *id) {
                return self.launch(at, What::Create).map(Reply::Pending);
            }
            if process.phase != Phase::Created || !process.is_alive() {
                return Err(Refusal::new(Code::WrongPhase, "the container is not in the phase created"));
            }
            return self.call_verb(id, What::Start, &["start".into()]);
        }
        if process.phase != Phase::Added || self.calls.iter().any(|call| call.process == *id) {
            return Err(Refusal::new(Code::WrongPhase, "the process is already started"));
        }
        self.refuse_after_the_end(&id.container)?;
        let launched = self.launch(at, What::Exec);
        if let Err(refusal) = &launched {
            self.never_ran(at, refusal);
        }
        launched.map(Reply::Pending)
    }
}

pub(super) fn not_found(what: &str) -> Refusal {
    Refusal::new(Code::NotFound, format!("{what:?} does not exist"))
}
