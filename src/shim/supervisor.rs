//! The supervisor: the tables of containers, processes and calls; requests in, events out.
//!
//! The states of processes change in `life`; the supervisor passes on what has happened
//! and carries out what follows (`effects`, `launch`). Nothing here waits, with two exceptions, both
//! for want of memory or processes: the loop writes an exit record itself if no child can be made, and waits for the
//! child that writes one if it cannot be watched. A call of the runtime is started and its end is an
//! event of the loop (`turn`), so [`Supervisor::state`] and [`Request::Wait`] are answered while a runtime hangs.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::calls::Calls;
use super::containers::Containers;
use super::key::{Kind, key};
use super::life::INIT_ENDED;
use super::notifier::Watch;
use super::processes::Processes;
use super::reaper::{Orphans, Reaper};
use super::refusal::{Refusal, Result};
use super::scratch::Scratch;
use super::spare::Spare;
use super::streams::Streams;
use super::upgrade_request::Upgrade;
use super::{
    Code, Container, Event, ExitFile, Framing, Interest, Poll, ProcessId, ProcessState, Ready, Reply, Request,
    WaitToken,
};
use windlass_sys::clock;
use windlass_sys::process::{self, Exit};

/// Everything that the shim keeps.
pub struct Supervisor {
    /// The epoll instance of the loop, for the descriptors of the front end too.
    pub poll: Poll,
    /// The `oom_score_adj` of every runtime: the shim's own value before it protected itself.
    pub oom_score_adj: Option<String>,
    /// Whether `LISTEN_PID` is set to the process id of the runtime.
    pub listen_pid: bool,
    /// Whether an attached client that is the only reader of a process may read at any speed, as the reader of a pipe
    /// may.
    pub wait_for_only_reader: bool,
    /// Descriptors that stay open as long as a process runs, for example reserved ports. They are closed when the first
    /// process has ended, before its end is recorded.
    pub reserved_descriptors: Vec<OwnedFd>,
    /// For recording an end.
    pub(super) spare: Spare,
    /// The signals of the shim, which are blocked and read from a descriptor; see [`Event::Signal`].
    pub(super) reaper: Reaper,
    pub(super) scratch: Scratch,
    pub(super) containers: Containers,
    pub(super) processes: Processes,
    pub(super) calls: Calls,
    pub(super) events: VecDeque<Event>,
    /// Children of the front end. Only the front end reaps them.
    pub(super) children: Vec<i32>,
    /// What is known of orphans that are to be reaped.
    pub(super) orphans: Orphans,
    pub(super) directory: Option<Watch>,
    /// The descriptors of the core that were ready when the front end had its turn.
    pub(super) deferred: Vec<(u64, Ready)>,
    /// The last serial number and the last token.
    pub(super) serial: u32,
    pub(super) token: u64,
    /// Number of upgrades in this process.
    pub(super) upgrades: u64,
    /// The upgrade that was requested.
    pub(super) upgrade: Option<Box<Upgrade>>,
    /// How long the loop stood still for the last upgrade.
    pub(super) upgrade_pause: Duration,
    /// When an event last happened. `None`: memory was freed since.
    pub(super) last_activity: Option<Instant>,
}

/// A process id, and the id of the exec whose first process it is.
pub(crate) type NamedPid = (i32, Option<Rc<str>>);

impl Supervisor {
    /// Blocks the signals, becomes the parent of orphans, and raises the limit of open files to the hard
    /// limit.
    pub fn new() -> windlass_sys::Result<Supervisor> {
        let (poll, reaper) = (Poll::new()?, Reaper::new()?);
        // A process needs seven descriptors, and there may be hundreds of execs at once.
        windlass_sys::spawn::raise_descriptor_limit();
        poll.watch(reaper.fd(), key(Kind::Signals, 0, 0), Interest::Read)?;
        let mut spare = Spare::default();
        spare.keep(reaper.fd());
        Ok(Supervisor {
            poll,
            oom_score_adj: None,
            listen_pid: false,
            wait_for_only_reader: false,
            reserved_descriptors: Vec::new(),
            spare,
            reaper,
            scratch: Scratch::new()?,
            containers: Containers::default(),
            processes: Processes::default(),
            calls: Calls::default(),
            events: VecDeque::new(),
            children: Vec::new(),
            orphans: Orphans::None,
            directory: None,
            deferred: Vec::new(),
            serial: 0,
            token: 0,
            upgrades: 0,
            upgrade: None,
            upgrade_pause: Duration::ZERO,
            last_activity: Some(clock::now()),
        })
    }

    /// Makes a container known; nothing runs. The id must be free.
    pub fn open(&mut self, container: Container) -> Result<()> {
        self.containers.insert(container)
    }

    /// Forgets a container without touching it.
    pub fn close(&mut self, container: &str) {
        for serial in self.processes.serials(|managed| &*managed.process.id.container == container) {
            self.remove(serial);
        }
        self.containers.remove(container);
    }

    /// Carries out the request, or begins to. Never blocks.
    pub fn request(&mut self, request: Request) -> Result<Reply> {
        match request {
            Request::Create(new) => self.create(new),
            Request::AddExec(new) => self.add(new),
            Request::Start(process) => self.start(&process),
            Request::Kill { process, signal, all } => {
                let managed = self.processes.find(&process)?;
                self.command(managed.serial, managed.process.kill(signal, all)?)
            }
            Request::Call { container, arguments, then } => self.call(container, &arguments, then),
            Request::Resize { process, rows, columns } => match self.streams(&process)?.resize(rows, columns)? {
                true => Ok(Reply::Done),
                false => Err(Refusal::new(Code::WrongPhase, "the process has no terminal")),
            },
            Request::CloseStdin(process) => {
                let managed = self.processes.find_mut(&process)?;
                if let (false, Some(streams)) = (managed.process.close_stdin(), &mut managed.streams) {
                    streams.close_stdin(&self.poll);
                }
                Ok(Reply::Done)
            }
            Request::ReopenLogs(process) => {
                self.processes.find_mut(&process)?.streams.iter_mut().for_each(Streams::reopen_logs);
                Ok(Reply::Done)
            }
            Request::Wait(process) => {
                let token = self.next_token();
                self.processes.find_mut(&process)?.process.wait(token)
            }
            Request::Delete { process, force } => {
                let managed = self.processes.find(&process)?;
                self.command(managed.serial, managed.process.delete(force)?)
            }
        }
    }

    fn create(&mut self, new: super::NewProcess) -> Result<Reply> {
        let id = new.id.clone();
        self.add(new)?;
        let started = self.start(&id);
        if let (Err(_), Some(serial)) = (&started, self.processes.serial(&id)) {
            self.remove(serial);
        }
        started
    }

    /// Makes a process known.
    pub(super) fn add(&mut self, new: super::NewProcess) -> Result<Reply> {
        self.containers.find(&new.id.container)?;
        if self.processes.serial(&new.id).is_some() {
            return Err(Refusal::new(Code::AlreadyExists, format!("id {} already exists", new.id.name())));
        }
        if !new.id.is_init() && self.processes.has_init_ended(&new.id.container) {
            return Err(Refusal::new(Code::WrongPhase, INIT_ENDED));
        }
        let serial = self.next_serial();
        self.processes.insert(serial, new);
        Ok(Reply::Done)
    }

    fn start(&mut self, id: &ProcessId) -> Result<Reply> {
        let init_ended = self.processes.has_init_ended(&id.container);
        let busy = self.calls.of(id).is_some();
        let managed = self.processes.find_mut(id)?;
        let (serial, command) = (managed.serial, managed.process.start(busy, init_ended)?);
        self.command(serial, command)
    }

    fn streams(&mut self, process: &ProcessId) -> Result<&mut Streams> {
        let streams = self.processes.find_mut(process)?.streams.as_mut();
        streams.ok_or_else(|| Refusal::new(Code::WrongPhase, "the process is not started"))
    }

    /// The state of a process, at once.
    pub fn state(&self, process: &ProcessId) -> Option<ProcessState> {
        self.processes.find(process).ok().map(|managed| managed.state())
    }

    /// The exit files of a process that are still to be written, or could not be: all of them before it has ended.
    pub fn unwritten(&self, process: &ProcessId) -> &[ExitFile] {
        self.processes.find(process).map(|managed| &managed.new.exit_files[..]).unwrap_or_default()
    }

    /// The known processes of a container: init first, then the execs in the order of their addition.
    pub fn processes(&self, container: &str) -> Vec<ProcessId> {
        let mut ids: Vec<ProcessId> = self.processes.of(container).map(|managed| managed.process.id.clone()).collect();
        ids.sort_by_key(|id| id.exec.is_some());
        ids
    }

    /// The ids of all processes in the cgroup of a container. The first process of an exec has the exec's id too.
    pub fn pids(&self, container: &str) -> Result<Vec<NamedPid>> {
        let cgroup = self.containers.find(container)?.cgroup.as_deref();
        let mut pids = cgroup.map(windlass_cgroup::membership::members).unwrap_or_default();
        let alive = self.processes.of(container).filter(|managed| managed.process.is_alive());
        let ours: Vec<NamedPid> = alive
            .map(|managed| (managed.process.pid(), managed.process.id.exec.clone()))
            .filter(|(pid, _)| *pid != 0)
            .collect();
        for (pid, _) in &ours {
            if !pids.contains(pid) {
                pids.push(*pid);
            }
        }
        let exec = |pid| ours.iter().find(|(of, _)| *of == pid).and_then(|(_, exec)| exec.clone());
        Ok(pids.into_iter().map(|pid| (pid, exec(pid))).collect())
    }

    /// The directory of a container's cgroup, once it is created. It is in the unified hierarchy, or on a host of
    /// version 1 in one that has its processes.
    pub fn cgroup(&self, container: &str) -> Option<&Path> {
        self.containers.get(container).and_then(|container| container.cgroup.as_deref())
    }

    /// The ids of the containers that are known.
    pub fn container_ids(&self) -> Vec<&str> {
        self.containers.iter().map(|container| &*container.container.id).collect()
    }

    /// Attaches a client to the stdio of a process. The core owns the socket from now on.
    pub fn attach(&mut self, process: &ProcessId, client: OwnedFd, framing: Framing) -> Result<()> {
        match &mut self.processes.find_mut(process)?.streams {
            Some(streams) => Ok(streams.attach(client, framing, &self.poll)?),
            None => Err(Refusal::new(Code::WrongPhase, "the process is not started")),
        }
    }

    /// How many clients are attached to the processes of a container.
    pub fn attached(&self, container: &str) -> usize {
        self.processes.of(container).filter_map(|managed| managed.streams.as_ref()).map(Streams::attached).sum()
    }

    /// Sends a signal at once and without the runtime: to the process, with `group` to its process group, or to the
    /// runtime while that makes the process.
    pub fn signal(&self, id: &ProcessId, signal: i32, group: bool) -> Result<()> {
        let managed = self.processes.find(id)?;
        let Some(pidfd) = &managed.pidfd else {
            let call = self.calls.of(id).ok_or_else(|| Refusal::new(Code::NotFound, "no such process"))?;
            return Ok(process::send_signal(call.child.pidfd.as_fd(), signal)?);
        };
        // The process is not reaped, so its id is still its own. `group_of` excludes the shim's own group.
        match group.then(|| process::group_of(managed.process.pid())).flatten() {
            Some(group) => Ok(process::signal_group(group, signal)?),
            None => Ok(process::send_signal(pidfd.as_fd(), signal)?),
        }
    }

    /// Has the end of a process reported as `exit`, whatever the real one is, because the front end ends it for its own
    /// reason.
    pub fn report_as(&mut self, id: &ProcessId, exit: Exit) {
        if let Ok(managed) = self.processes.find_mut(id) {
            managed.process.report_as(exit);
        }
    }

    /// The next event for the front end.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Notes a child of the front end: the core does not reap it.
    pub fn keep_child(&mut self, pid: i32) {
        self.children.push(pid);
    }

    /// The front end has reaped its child.
    pub fn forget_child(&mut self, pid: i32) {
        self.children.retain(|&child| child != pid);
    }

    /// Whether calls of the runtime run, output is drained, or an exit is being recorded.
    pub fn is_busy(&self) -> bool {
        !self.calls.is_idle() || self.processes.iter().any(|managed| managed.process.is_ending())
    }

    pub(super) fn next_serial(&mut self) -> u32 {
        self.serial = self.serial.wrapping_add(1);
        self.serial
    }

    pub(super) fn next_token(&mut self) -> WaitToken {
        self.token += 1;
        WaitToken(self.token)
    }
}
