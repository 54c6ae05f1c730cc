//! The lasting shim: a listener, connections, jobs and loggers in the one loop.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;

use super::arguments::{Arguments, TTRPC_ADDRESS};
use super::connection::{Closed, Connection};
use super::job::Job;
use super::log;
use super::logger::Logger;
use super::message::event::{TaskExec, TaskExit, TaskNamed, TaskStart, Topic};
use super::outbox::Outbox;
use super::service::{Answer, Outcome, Then};
use super::task::{After, Task};
use super::ttrpc::{Kind, Request, Response};
use crate::Event;
use crate::Front;
use crate::ProcessId;
use crate::Ready;
use crate::Supervisor;
use crate::WaitToken;
use crate::frontend::listener::Listener;
use crate::frontend::made::Made;
use crate::serve;
use windlass_sys::{fd, stream};

/// How long events that are not acknowledged hold up the end of a shim without containers.
const FLUSH: Duration = Duration::from_secs(3);

/// How long a shim waits for its first connection, and after its last container for `Shutdown`.
const ALONE: Duration = Duration::from_secs(30);

/// What a descriptor is for: the upper bits of its key; the lower have a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// The listener.
    Listener = 1,
    /// A client.
    Connection,
    /// The connection for events.
    Outbox,
    /// A child at work.
    Job,
    /// A child that takes output.
    Logger,
}

const SERIAL: u32 = 48;

/// Who waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    connection: u64,
    stream: u32,
}

/// The shim of one container or one pod.
#[derive(Debug)]
pub struct Server {
    /// containerd's namespace.
    pub namespace: String,
    /// The containers.
    pub tasks: Vec<Task>,
    /// Who waits for replies of the supervisor.
    pub pending: Vec<(WaitToken, Caller, Then)>,
    /// Children at work.
    pub jobs: Vec<Job<(Caller, After)>>,
    /// Children that take output.
    pub loggers: Vec<Logger>,
    /// Events that are not acknowledged.
    pub outbox: Outbox,
    /// The bundle that we were started for, where our log is.
    bundle: PathBuf,
    listener: Listener,
    connections: Vec<(u64, Connection)>,
    serial: u64,
    leaving: Option<Instant>,
    alone: Option<Instant>,
    /// Whether there was ever a container.
    used: bool,
}

/// Serves until containerd says that it is enough.
pub fn main(arguments: &Arguments) -> Result<(), String> {
    let failed = |failed: windlass_base::error::Failed| failed.to_string();
    let mut core = Supervisor::new().map_err(failed)?;
    let mut server = Server::new(arguments, &mut core).map_err(failed)?;
    let socket = Made::look(fd::CWD, &arguments.socket);
    let status = serve(&mut core, &mut server).map_err(failed)?;
    // The next shim of the same container may listen there by now.
    if let Ok(socket) = socket {
        socket.remove_path(arguments.socket.as_ref());
    }
    std::process::exit(status)
}

impl Server {
    fn new(arguments: &Arguments, core: &mut Supervisor) -> windlass_sys::Result<Server> {
        let bundle = std::env::current_dir().unwrap_or_default();
        // A working directory that stays, whatever becomes of the bundle.
        let _ = std::env::set_current_dir("/");
        let listener = fd::duplicate(std::io::stdin().as_fd())?;
        stream::never_block(listener.as_fd())?;
        let null = fd::open("/dev/null", OFlag::O_RDWR)?;
        fd::install_at(null.as_fd(), 0)?;
        let listener = Listener::new(listener, key(Key::Listener, 0));
        listener.watch(&core.poll)?;
        let events = std::env::var(TTRPC_ADDRESS).unwrap_or_else(|_| format!("{}.ttrpc", arguments.address));
        Ok(Server {
            namespace: arguments.namespace.clone(),
            tasks: Vec::new(),
            pending: Vec::new(),
            jobs: Vec::new(),
            loggers: Vec::new(),
            outbox: Outbox::new(&events, &arguments.namespace, key(Key::Outbox, 0)),
            bundle,
            listener,
            connections: Vec::new(),
            serial: 0,
            leaving: None,
            alone: Some(Instant::now() + ALONE),
            used: false,
        })
    }

    /// The next number, and with it the key of a descriptor.
    pub fn next_key(&mut self, kind: Key) -> (u64, u64) {
        self.serial += 1;
        (self.serial, key(kind, self.serial))
    }

    /// Ends the shim when what it has to say is said.
    pub fn leave(&mut self) {
        self.leaving = Some(Instant::now() + FLUSH);
    }

    /// There is a container after all.
    pub fn stay(&mut self) {
        self.leaving = None;
    }

    fn accept(&mut self, core: &Supervisor) {
        let bundle = self.bundle.clone();
        let refused = |uid: Option<u32>| log::warn(&bundle, &format!("a connection of user {uid:?} was refused"));
        while let Some(peer) = self.listener.next(&core.poll, refused) {
            let (serial, key) = self.next_key(Key::Connection);
            if let Ok(connection) = Connection::new(peer, key, &core.poll) {
                self.connections.push((serial, connection));
            }
        }
    }

    fn connection_ready(&mut self, serial: u64, ready: Ready, core: &mut Supervisor) {
        let Some(at) = self.connections.iter().position(|(number, _)| *number == serial) else { return };
        let connection = &mut self.connections[at].1;
        let flushed = if ready.write { connection.flush(&core.poll) } else { Ok(()) };
        let read = if ready.read || ready.hangup { connection.read() } else { Ok(()) };
        // What was sent before the end is still answered, or at least done.
        loop {
            let Some((_, connection)) = self.connections.iter_mut().find(|(number, _)| *number == serial) else {
                return;
            };
            match connection.take::<Request>() {
                Ok(Some((stream, Kind::Request, request))) if stream % 2 == 1 => {
                    let caller = Caller { connection: serial, stream };
                    let outcome = self.call(core, caller, &request);
                    self.answer(caller, outcome, core);
                }
                Ok(None) => break,
                // Not a client's to send: it speaks another protocol than we.
                Ok(Some(_)) | Err(Closed) => {
                    log::warn(&self.bundle, "a connection with malformed frames was closed");
                    return self.hang_up(serial);
                }
            }
        }
        if flushed.is_err() || read.is_err() {
            self.hang_up(serial);
        }
    }

    fn hang_up(&mut self, serial: u64) {
        self.connections.retain(|(number, _)| *number != serial);
    }

    /// Sends an answer that is there.
    pub fn answer(&mut self, caller: Caller, outcome: Outcome, core: &Supervisor) {
        let response = match outcome {
            Ok(Answer::Later) => return,
            Ok(Answer::Now(payload)) => Response { status: None, payload },
            Err(status) => Response { status: Some(status), payload: Vec::new() },
        };
        // Who has left does not want it any more.
        let connection = self.connections.iter_mut().find(|(number, _)| *number == caller.connection);
        let Some((_, connection)) = connection else { return };
        if connection.send(caller.stream, Kind::Response, &response, &core.poll).is_err() {
            self.hang_up(caller.connection);
        }
    }

    fn logger_ended(&mut self, serial: u64, core: &mut Supervisor) {
        let Some(at) = self.loggers.iter().position(|logger| logger.serial == serial) else { return };
        if self.loggers[at].child.try_wait().is_ok_and(|exit| exit.is_none()) {
            return;
        }
        let logger = self.loggers.remove(at);
        core.forget_child(logger.child.pid);
    }

    /// Loggers of processes that are gone are to end.
    pub fn end_loggers(&mut self, of: impl Fn(&ProcessId) -> bool) {
        let now = Instant::now();
        self.loggers.iter_mut().filter(|logger| of(&logger.process)).for_each(|logger| logger.end(now));
    }

    /// A shim that is of no use any more, because containerd died at the wrong moment, must not
    /// stay for ever.
    fn look_around(&mut self) {
        self.used |= !self.tasks.is_empty();
        let idle = self.tasks.is_empty() && self.outbox.is_empty() && self.jobs.is_empty();
        let alone = idle && (self.used || self.connections.is_empty());
        match (alone, self.alone) {
            (true, None) => self.alone = Some(Instant::now() + ALONE),
            (false, Some(_)) => self.alone = None,
            _ => {}
        }
    }
}

fn key(kind: Key, serial: u64) -> u64 {
    (kind as u64) << SERIAL | serial
}

impl Front for Server {
    fn ready(&mut self, key: u64, ready: Ready, core: &mut Supervisor) {
        let serial = key & ((1 << SERIAL) - 1);
        match key >> SERIAL {
            kind if kind == Key::Listener as u64 => self.accept(core),
            kind if kind == Key::Connection as u64 => self.connection_ready(serial, ready, core),
            kind if kind == Key::Outbox as u64 => {
                if let Some(complaint) = self.outbox.ready(ready, &core.poll) {
                    log::warn(&self.bundle, &complaint);
                }
            }
            kind if kind == Key::Job as u64 => self.job_ended(core, serial),
            _ => self.logger_ended(serial, core),
        }
        self.look_around();
    }

    fn event(&mut self, event: Event, core: &mut Supervisor) {
        let told = match event {
            Event::Created { process, pid } => return self.created(core, &process.container, pid),
            Event::Started { process, pid } => {
                let (container_id, pid) = (process.container.as_ref().into(), pid as u32);
                match process.exec {
                    None => Topic::Start.with(&TaskStart { container_id, pid }),
                    Some(exec) => {
                        Topic::ExecStarted.with(&TaskExec { container_id, exec_id: exec.as_ref().into(), pid })
                    }
                }
            }
            Event::Exited { process, pid, status } => Topic::Exit.with(&TaskExit {
                container_id: process.container.as_ref().into(),
                id: process.exec.as_ref().unwrap_or(&process.container).as_ref().into(),
                pid: pid as u32,
                exit_status: status.code() as u32,
                exited_at: Some(status.at.into()),
            }),
            Event::OutOfMemory { container } => Topic::Oom.with(&TaskNamed { container_id: container.as_ref().into() }),
            Event::Finished { token, result } => {
                let Some(at) = self.pending.iter().position(|(pending, ..)| *pending == token) else { return };
                let (_, caller, then) = self.pending.swap_remove(at);
                let outcome = self.finished(core, caller, then, result);
                return self.answer(caller, outcome, core);
            }
            Event::Signal(libc::SIGTERM | libc::SIGINT | libc::SIGQUIT) if self.tasks.is_empty() => {
                return self.leave();
            }
            // Whoever stops all processes of a service does not mean the parents of containers.
            Event::Signal(_) | Event::Removal => return,
        };
        self.outbox.push(told, &core.poll);
    }

    fn deadline(&self) -> Option<Instant> {
        let loggers = self.loggers.iter().filter_map(Logger::deadline);
        loggers
            .chain(self.outbox.deadline())
            .chain(self.listener.deadline())
            .chain(self.leaving)
            .chain(self.alone)
            .min()
    }

    fn due(&mut self, now: Instant, core: &mut Supervisor) {
        self.listener.due(now, &core.poll);
        self.outbox.next(now, &core.poll);
        self.loggers.iter_mut().for_each(|logger| logger.due(now));
        if self.alone.is_some_and(|alone| now >= alone) {
            self.leave();
            self.alone = None;
        }
    }

    fn finished(&self, core: &Supervisor) -> Option<i32> {
        let until = self.leaving.filter(|_| self.tasks.is_empty() && !core.is_busy())?;
        let said = self.outbox.is_empty() && self.connections.iter().all(|(_, connection)| connection.is_flushed());
        (said || Instant::now() >= until).then_some(0)
    }
}
