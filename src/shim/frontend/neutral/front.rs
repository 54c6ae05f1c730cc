//! The front end of the server: it supervises the container and answers on `shim.sock`.
//!
//! [`super::run`] executes this program again as the server, so that the memory needed for the start is not kept. The
//! server reports the result of the start in one line on its standard output.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use serde_json::{Value, json};

use super::adopt::adopt;
use super::connection::Connection;
use super::container_dir::{ContainerConfig, ContainerDir};
use super::event_log::EventLog;
use super::report::Report;
use super::wire::{self, exit_members};
use crate::frontend::listener::Listener;
use crate::frontend::stderr::{NAME, print_error};
use crate::frontend::upgradable;
use crate::gone;
use crate::refusal::{Refusal, Result};
use crate::stdio::{Output, Spooling, Stdin, Stdio};
use crate::{
    Code, Container, Event, ExitFile, Front, NewProcess, Phase, ProcessId, Ready, Reply, Request, Runtime, Supervisor,
    Timeouts, WaitToken,
};
use windlass_sys::{clock, fd, socket};

/// The listener's key. The keys of connections follow.
const LISTENER: u64 = 1;

/// How long the server waits at its end for clients to read their answers.
const FLUSH_TIME: Duration = Duration::from_secs(2);

/// How many descriptors a call of the runtime needs.
const SPARE: usize = 8;

/// The pause before events are written to a full disk again.
const RETRY_WRITE: Duration = Duration::from_secs(1);

/// A request to the core whose answer is pending, and its purpose.
#[derive(Debug)]
pub(super) enum PendingRequest {
    /// The create of `run`: on success the container is started, or with --create-only reported.
    Create,
    /// The start of `run`: the result is reported.
    Start,
    /// The delete of a container whose directory was removed: the shim ends.
    RemoveOrphan,
    /// The delete of a container that could not be started, for this reason.
    RollBack(Refusal),
    /// A request of a client, which gets the answer.
    Client { key: u64, seq: u64, what: ClientRequest },
}

/// The kind of a client's request, as far as the answer depends on it.
#[derive(Debug)]
pub(super) enum ClientRequest {
    /// Answered with the core's reply.
    Plain,
    /// Start of an exec. A client that is `attached` has its answer already.
    Exec { exec: Rc<str>, attached: bool },
    /// Wait for an exec or init.
    Wait { exec: Option<Rc<str>> },
    /// Delete init.
    Delete,
    /// A checkpoint of the container, into this directory.
    Checkpoint { images: String },
}

/// The front end of the engine-neutral protocol.
#[derive(Debug)]
pub(crate) struct NeutralFront {
    pub(super) dir: ContainerDir,
    pub(super) config: ContainerConfig,
    pub(super) event_log: EventLog,
    pub(super) connections: Vec<Connection>,
    pub(super) pending: Vec<(WaitToken, PendingRequest)>,
    /// Execs that could not be started and are not deleted yet.
    pub(super) failed: Vec<(Rc<str>, Refusal)>,
    pub(super) execs: u64,
    /// Whether an earlier shim has created the container.
    pub(super) adopted: bool,
    pub(super) next_key: u64,
    pub(super) listener: Listener,
    /// Whether clients above the limit are turned away at the next accept. They wait for one turn of the loop, in which
    /// others may have hung up.
    pub(super) turn_away_next: bool,
    /// The lock on `shim.lock`, held until the shim ends.
    pub(super) lock: OwnedFd,
    /// The shim ends. Clients may read their answers until then, and this is the exit status.
    pub(super) finishing: Option<(Instant, i32)>,
    /// When the events that the disk had no room for are written again.
    pub(super) retry_write_at: Option<Instant>,
    /// Clients with more requests than were served in their turn.
    pub(super) unserved: Vec<u64>,
    /// Descriptors in reserve. They are closed before a failed container is removed, because the runtime needs
    /// descriptors for that.
    pub(super) spare: Vec<OwnedFd>,
    /// Whether the container's directory was removed.
    pub(super) dir_gone: bool,
}

/// Runs the server: `run DIR` or `adopt DIR`.
pub(super) fn main(words: &[OsString]) -> i32 {
    let result = (|| {
        let usage = || Refusal::new(Code::Invalid, "usage: @serve run|adopt DIR");
        let [mode, dir] = words else { return Err(usage()) };
        let adopted = match mode.to_str() {
            Some("run") => false,
            Some("adopt") => true,
            _ => return Err(usage()),
        };
        let dir = ContainerDir::at(dir.into()).enter()?;
        let begun = NeutralFront::start(dir.clone(), adopted);
        // Nothing was created, so the id is free again.
        let (mut core, mut front) = begun.inspect_err(|refusal| {
            if !(adopted || matches!(refusal.code, Code::AlreadyExists | Code::NotFound)) {
                dir.remove()
            }
        })?;
        Ok(upgradable::serve(&mut core, &mut front)?)
    })();
    result.unwrap_or_else(|refusal| {
        Report::fail(&refusal);
        1
    })
}

impl NeutralFront {
    fn start(dir: ContainerDir, adopted: bool) -> Result<(Supervisor, NeutralFront)> {
        let mut core = Supervisor::new()?;
        let mut front = NeutralFront::new(dir, adopted, &core)?;
        front.begin(&mut core)?;
        Ok((core, front))
    }

    pub(super) fn new(dir: ContainerDir, adopted: bool, core: &Supervisor) -> Result<NeutralFront> {
        let lock = dir.lock_for_life()?;
        let config = dir.config()?;
        let here = fd::open(".", OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
        // A killed shim leaves its socket behind.
        let _ = fd::unlinkat(here.as_fd(), "shim.sock");
        let listener = socket::listen_stream_at(here.as_fd(), "shim.sock", 0o600)?;
        let mut listener = Listener::new(listener, LISTENER);
        listener.watch(&core.poll)?;
        let event_log = EventLog::open(dir.file("events.log"))?;
        Ok(NeutralFront {
            dir,
            config,
            event_log,
            connections: Vec::new(),
            pending: Vec::new(),
            failed: Vec::new(),
            execs: 0,
            adopted,
            next_key: LISTENER + 1,
            listener,
            turn_away_next: false,
            lock,
            finishing: None,
            retry_write_at: None,
            unserved: Vec::new(),
            spare: Vec::new(),
            dir_gone: false,
        })
    }

    pub(super) fn init(&self) -> ProcessId {
        ProcessId::init(&self.config.id)
    }

    pub(super) fn exec(&self, exec: Option<&str>) -> ProcessId {
        ProcessId::of(&self.config.id, exec.unwrap_or_default())
    }

    pub(super) fn begin(&mut self, core: &mut Supervisor) -> Result<()> {
        let process = self.open(core)?;
        if self.adopted {
            return adopt(&self.dir, &self.config, process, core);
        }
        self.dir.reserve()?;
        let null = fd::open("/dev/null", OFlag::O_RDWR)?;
        self.spare = (0..SPARE).map(|_| fd::duplicate(null.as_fd())).collect::<windlass_sys::Result<_>>()?;
        self.request(core, Request::Create(process), PendingRequest::Create)
    }

    /// Makes the container known to the core. Returns its init, which is to be made or adopted.
    pub(super) fn open(&mut self, core: &mut Supervisor) -> Result<NewProcess> {
        core.open(Container {
            id: self.config.id.as_str().into(),
            bundle: self.config.bundle.clone(),
            runtime: Runtime {
                binary: self.config.runtime.clone(),
                global: self.config.runtime_args.iter().map(OsString::from).collect(),
                log: None,
            },
            timeouts: Timeouts::default(),
            drain: Duration::from_millis(self.config.drain_ms),
            kill_on_exit: self.config.kill_on_exit,
            oom_files: Vec::new(),
            sync: true,
        })?;
        let mut exit_files = vec![ExitFile::Record(self.dir.file("exit.json"))];
        exit_files.extend(self.config.runtime_exit.clone().map(ExitFile::RuntimeState));
        let (making, arguments) = self.config.create();
        let process = NewProcess {
            id: self.init(),
            stdio: self.stdio(self.config.tty, self.config.stdin, self.config.logs()?, "init"),
            pid_file: self.dir.path("pid"),
            process_file: None,
            making,
            arguments,
            preserve_fds: Vec::new(),
            exit_files,
        };
        core.watch_directory(".".as_ref());
        Ok(process)
    }

    pub(super) fn stdio(&self, terminal: bool, stdin: bool, logs: Vec<crate::Log>, name: &str) -> Stdio {
        Stdio {
            terminal,
            stdin: if stdin { Stdin::Attach { leave_open: false } } else { Stdin::Null },
            stdout: Output::Attach,
            stderr: Output::Attach,
            spooling: Spooling::default(),
            logs,
            owner: self.config.owner,
            fifos: (self.config.keep && name == "init").then(|| (".".into(), name.into())),
        }
    }

    /// Sends a request to the core.
    pub(super) fn request(&mut self, core: &mut Supervisor, request: Request, purpose: PendingRequest) -> Result<()> {
        let reply = core.request(request);
        self.remember(reply, purpose, core)
    }

    /// Remembers the purpose of a request whose answer comes later, or handles the answer.
    pub(super) fn remember(
        &mut self,
        reply: Result<Reply>,
        purpose: PendingRequest,
        core: &mut Supervisor,
    ) -> Result<()> {
        match reply? {
            Reply::Pending(token) => self.pending.push((token, purpose)),
            reply => self.answered(purpose, Ok(reply), core),
        }
        Ok(())
    }

    /// Handles an answer of the core.
    fn answered(&mut self, purpose: PendingRequest, result: Result<Reply>, core: &mut Supervisor) {
        match purpose {
            PendingRequest::Create => match result {
                Ok(_) if self.config.create_only => self.report(core),
                Ok(_) => {
                    if let Err(refusal) = self.request(core, Request::Start(self.init()), PendingRequest::Start) {
                        self.roll_back(refusal, core);
                    }
                }
                Err(refusal) => self.create_failed(refusal, core),
            },
            PendingRequest::Start => match result {
                Ok(_) => self.report(core),
                Err(refusal) => self.roll_back(refusal, core),
            },
            PendingRequest::RemoveOrphan => self.finish(0),
            PendingRequest::RollBack(refusal) => match result {
                // If the container does not exist, it is gone too.
                Err(more) if !gone::is_container(&more.message) => self.keep_record(&refusal, &more),
                _ => self.abandon(&refusal),
            },
            PendingRequest::Client { key, seq, what } => self.answer_client(key, seq, what, result, core),
        }
    }

    /// Handles a failed create. A runtime that fails removes the container, but a runtime that is killed, or whose
    /// success is not noticed, does not. Only the file with the process id proves that the container is this one and
    /// not another of the same id.
    fn create_failed(&mut self, refusal: Refusal, core: &mut Supervisor) {
        self.spare.clear();
        if self.dir.file("pid").exists() {
            return self.roll_back(refusal, core);
        }
        match refusal.code {
            Code::TimedOut => {
                self.keep_record(&refusal, &Refusal::new(Code::TimedOut, "it may have made a part of the container"));
            }
            _ => self.abandon(&refusal),
        }
    }

    /// Removes a container that was created. If the core does not know it, the runtime is called directly.
    fn roll_back(&mut self, refusal: Refusal, core: &mut Supervisor) {
        self.spare.clear();
        let arguments = vec!["delete".into(), "--force".into()];
        let request = match core.state(&self.init()) {
            Some(_) => Request::Delete { process: self.init(), force: true },
            None => Request::Call { container: self.init().container, arguments, then: None },
        };
        if let Err(more) = self.request(core, request, PendingRequest::RollBack(refusal.clone())) {
            self.keep_record(&refusal, &more);
        }
    }

    /// Ends, but keeps the directory of a container that could not be removed, so that a later `delete` can.
    fn keep_record(&mut self, refusal: &Refusal, more: &Refusal) {
        let id = &self.config.id;
        let message = format!("{refusal}; the container could not be removed: {more}; \"delete --force {id}\" does");
        Report::fail(&Refusal::new(refusal.code, message));
        self.finish(1);
    }

    /// Whether the container's directory was removed or replaced.
    fn is_dir_gone(&self) -> bool {
        let of = |stat: nix::sys::stat::FileStat| (stat.st_dev, stat.st_ino);
        let (ours, there) = (fd::stat(self.lock.as_fd()), fd::stat_at(fd::CWD, self.dir.path("shim.lock")));
        ours.map(of) != there.map(of) || !self.dir.path("shim.json").exists()
    }

    /// Removes an ended container whose directory was removed, since no client can reach the shim any more. While the
    /// container runs, its output is still moved.
    fn finish_without_dir(&mut self, core: &mut Supervisor) {
        let over = core.state(&self.init()).is_none_or(|state| state.phase == Phase::Stopped);
        if self.dir_gone && over && self.finishing.is_none() {
            let request = Request::Delete { process: self.init(), force: true };
            if self.request(core, request, PendingRequest::RemoveOrphan).is_err() {
                self.finish(0);
            }
        }
    }

    /// Reports that there is no container, and ends.
    fn abandon(&mut self, refusal: &Refusal) {
        self.dir.remove();
        Report::fail(refusal);
        self.finish(1);
    }

    /// Reports the container to the process that started the server.
    fn report(&mut self, core: &Supervisor) {
        self.spare.clear();
        let state = core.state(&self.init());
        Report::write(&json!({
            "v": 1,
            "id": self.config.id,
            "pid": state.as_ref().map_or(0, |state| state.pid),
            "shim_pid": std::process::id(),
            "socket": self.dir.path("shim.sock"),
            "state": state.map_or("stopped", |state| wire::phase_name(state.phase)),
        }));
    }

    /// Ends when all clients have read their answers, or after [`FLUSH_TIME`].
    pub(super) fn finish(&mut self, status: i32) {
        self.finishing = Some((clock::now() + FLUSH_TIME, status));
        self.connections.iter_mut().for_each(|connection| connection.closing = true);
    }

    /// Accepts clients. Above the limit they are turned away, but not before clients that have already left are no
    /// longer counted: their hang-ups are handled in this turn or at the beginning of the next.
    fn accept(&mut self, core: &Supervisor) {
        /// The limit of clients, because each needs a descriptor. Engines have fewer.
        const CLIENTS: usize = 64;
        let room = CLIENTS.saturating_sub(self.connections.len() + core.attached(&self.config.id));
        self.turn_away_next = room == 0 && !self.turn_away_next;
        if self.turn_away_next {
            return;
        }
        let most = if room == 0 { usize::MAX } else { room };
        for client in self.listener.clients(&core.poll, most, |_| ()).into_iter().take(room) {
            self.next_key += 1;
            self.connections.extend(Connection::new(self.next_key, client, &core.poll));
        }
    }

    /// Sends subscribers the next events, as far as their buffers have room.
    fn serve_subscribers(&mut self, core: &Supervisor) {
        let event_log = &self.event_log;
        self.connections.retain_mut(|connection| {
            while let Some(mut cursor) = connection.cursor.filter(|_| connection.has_room()) {
                let events = event_log.read(&mut cursor).unwrap_or_default();
                connection.cursor = Some(cursor);
                if events.is_empty() {
                    break;
                }
                if !connection.send(&events) {
                    return false;
                }
            }
            connection.watch(&core.poll);
            true
        });
    }

    pub(super) fn record(&mut self, kind: &str, process: Option<&ProcessId>, members: Value) {
        let exec = process.and_then(|process| process.exec.as_deref());
        let line = wire::event_members(kind, &self.config.id, exec, &members);
        self.event_log.append(&line);
        self.write_pending();
    }

    fn write_pending(&mut self) {
        self.retry_write_at = (!self.event_log.write_pending()).then(|| clock::now() + RETRY_WRITE);
    }

    /// Records that an exec or the container was deleted.
    pub(super) fn record_deleted(&mut self, process: &ProcessId) {
        self.record("deleted", Some(process), json!({}));
    }
}

impl Front for NeutralFront {
    fn ready(&mut self, key: u64, ready: Ready, core: &mut Supervisor) {
        if key == LISTENER {
            return self.accept(core);
        }
        self.client_ready(key, ready, core);
        self.serve_subscribers(core);
    }

    fn event(&mut self, event: Event, core: &mut Supervisor) {
        match event {
            Event::Created { process, pid } => self.record("created", Some(&process), json!({"pid": pid})),
            Event::Started { process, pid } => self.record("started", Some(&process), json!({"pid": pid})),
            Event::Exited { process, pid, status } => {
                let mut members = exit_members(&status);
                members["pid"] = pid.into();
                self.record("exited", Some(&process), members);
                self.finish_without_dir(core);
            }
            // Written once, because a container that runs out of memory repeatedly would fill the disk.
            Event::OutOfMemory { .. } => {
                self.event_log.append_once(&wire::event_members("oom", &self.config.id, None, &json!({})));
                self.write_pending();
            }
            Event::Removal => {
                self.dir_gone = self.is_dir_gone();
                self.finish_without_dir(core);
            }
            Event::Finished { token, result } => {
                let purpose = self.pending.extract_if(.., |(of, _)| *of == token).next();
                if let Some((_, purpose)) = purpose {
                    self.answered(purpose, result, core);
                }
            }
            Event::Signal(libc::SIGHUP) => {
                let _ = core.request(Request::ReopenLogs(self.init()));
            }
            Event::Signal(signal) if signal != libc::SIGUSR1 => {
                // The shim passes the signal on and stays, because it must report the end of the container.
                let _ = core.request(Request::Kill { process: self.init(), signal, all: false });
            }
            Event::Unrecorded { message, .. } => print_error(NAME, &message),
            // Engines read no fifos in this mode, so no output is kept for them.
            Event::Signal(_) | Event::Warning(_) => {}
        }
        self.serve_subscribers(core);
    }

    fn deadline(&self) -> Option<Instant> {
        let more = (!self.unserved.is_empty()).then(clock::now);
        self.finishing
            .map(|(until, _)| until)
            .into_iter()
            .chain(more)
            .chain(self.retry_write_at)
            .chain(self.listener.deadline())
            .min()
    }

    fn due(&mut self, now: Instant, core: &mut Supervisor) {
        self.listener.due(now, &core.poll);
        let more = std::mem::take(&mut self.unserved);
        if !more.is_empty() {
            let ready = Ready { read: true, write: false, hangup: false };
            more.into_iter().for_each(|key| self.client_ready(key, ready, core));
            self.serve_subscribers(core);
        }
        if self.retry_write_at.is_some_and(|at| at <= now) {
            self.retry_write_at = (!self.event_log.write_pending()).then(|| now + RETRY_WRITE);
            self.serve_subscribers(core);
        }
    }

    fn finished(&self, core: &Supervisor) -> Option<i32> {
        let (until, status) = self.finishing?;
        // Processes that outlive init in a shared PID namespace may still be killed.
        let all_sent = !core.is_busy() && self.connections.iter().all(Connection::is_idle);
        (all_sent || until <= clock::now()).then_some(status)
    }
}
