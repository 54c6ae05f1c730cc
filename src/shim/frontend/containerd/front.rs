//! The lasting shim in its loop: it handles descriptors, the supervisor's events, and deadlines.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Instant;

use nix::fcntl::OFlag;

use super::arguments::{Arguments, TTRPC_ADDRESS};
use super::connections::NextFrame;
use super::error::Error;
use super::image;
use super::key::{self, FrontKind, key};
use super::log;
use super::message::event::{TaskExec, TaskExit, TaskNamed, TaskStart, Topic};
use super::server::Server;
use crate::frontend::control::Controlled;
use crate::frontend::created::CreatedName;
use crate::frontend::listener::Listener;
use crate::frontend::upgradable::{self, Mode, Upgradable};
use crate::image::format::table;
use crate::{Event, Ready, Supervisor};
use windlass_sys::{clock, descriptors, fd, stream};

/// Serves until containerd does not need the shim any more.
pub(super) fn main(arguments: &Arguments) -> Result<(), Error> {
    let bundle = std::env::current_dir().unwrap_or_default();
    let served = Supervisor::new().and_then(|core| {
        let front = ContainerdFront::new(arguments, bundle.clone(), &core)?;
        let front = Controlled::new(front, &core);
        serve(core, front)
    });
    // Standard error is the null device.
    std::process::exit(served.inspect_err(|failed| log::warn(&bundle, &format!("the shim has ended: {failed}")))?)
}

/// Serves, and removes the socket.
pub(super) fn serve(mut core: Supervisor, mut front: Controlled<ContainerdFront>) -> windlass_sys::Result<i32> {
    let status = upgradable::serve(&mut core, &mut front)?;
    // The next shim of the same container may already listen there.
    if let Some((path, socket)) = &front.front.socket {
        socket.remove_path(path);
    }
    Ok(status)
}

/// The shim, with the parts that only the loop uses.
#[derive(Debug)]
pub(crate) struct ContainerdFront {
    pub(super) server: Server,
    pub(super) listener: Listener,
    /// The bundle for which the shim was started, where its log is.
    pub(super) bundle: PathBuf,
    /// The path of the listener's socket, and the file that was made there.
    pub(super) socket: Option<(PathBuf, CreatedName)>,
    /// Whether there was ever a task.
    pub(super) used: bool,
}

impl ContainerdFront {
    /// Takes the listener, which is standard input.
    fn new(arguments: &Arguments, bundle: PathBuf, core: &Supervisor) -> windlass_sys::Result<ContainerdFront> {
        // A working directory that stays, even if the bundle is removed.
        let _ = std::env::set_current_dir("/");
        let listener = fd::duplicate(std::io::stdin().as_fd())?;
        stream::never_block(listener.as_fd())?;
        let null = fd::open("/dev/null", OFlag::O_RDWR)?;
        descriptors::install_at(null.as_fd(), 0)?;
        let events = std::env::var(TTRPC_ADDRESS).unwrap_or_else(|_| format!("{}.ttrpc", arguments.address));
        let socket =
            CreatedName::inspect(fd::CWD, &arguments.socket).ok().map(|made| (arguments.socket.clone().into(), made));
        Ok(ContainerdFront { socket, ..ContainerdFront::on(listener, bundle, &arguments.namespace, &events, core)? })
    }

    /// A front end that listens on `listener` and sends its events to `events`.
    pub(super) fn on(
        listener: OwnedFd,
        bundle: PathBuf,
        namespace: &str,
        events: &str,
        core: &Supervisor,
    ) -> windlass_sys::Result<ContainerdFront> {
        let mut listener = Listener::new(listener, key(FrontKind::Listener, 0));
        listener.watch(&core.poll)?;
        let server = Server::new(namespace, events, clock::now());
        Ok(ContainerdFront { server, listener, bundle, socket: None, used: false })
    }

    fn accept(&mut self, core: &Supervisor) {
        let bundle = &self.bundle;
        let refused = |uid: Option<u32>| log::warn(bundle, &format!("a connection of user {uid:?} was refused"));
        for peer in self.listener.clients(&core.poll, usize::MAX, refused) {
            self.server.connect(peer, core);
        }
    }

    fn connection_ready(&mut self, serial: u64, ready: Ready, core: &mut Supervisor) {
        let open = self.server.connections.ready(serial, ready, &core.poll);
        // The calls that arrived before the end are carried out, and answered if that is still possible. Calls that
        // arrived together are answered together.
        loop {
            match self.server.connections.next(serial) {
                NextFrame::Call(caller, request) => {
                    let outcome = self.server.call(core, caller, &request);
                    self.server.connections.put(caller, outcome);
                }
                NextFrame::Nothing => break,
                NextFrame::Malformed => {
                    self.server.connections.flush(serial, &core.poll);
                    log::warn(&self.bundle, "a connection with malformed frames was closed");
                    return self.server.connections.close(serial);
                }
            }
        }
        self.server.connections.flush(serial, &core.poll);
        if open.is_err() {
            self.server.connections.close(serial);
        }
    }

    /// Updates the lifetime. A shim must not stay for ever because containerd died at the wrong moment.
    fn update_lifetime(&mut self) {
        let server = &mut self.server;
        self.used |= !server.tasks.is_empty();
        let idle = server.tasks.is_empty() && server.outbox.is_empty() && server.jobs.is_empty();
        server.lifetime.look(idle && (self.used || server.connections.is_empty()), clock::now());
    }

    /// Sends containerd the event that corresponds to an event of the supervisor.
    fn publish(&mut self, event: Event, core: &Supervisor) {
        let event = match event {
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
                id: process.name().into(),
                pid: pid as u32,
                exit_status: status.code() as u32,
                exited_at: Some(status.at.into()),
            }),
            Event::OutOfMemory { container } => Topic::Oom.with(&TaskNamed { container_id: container.as_ref().into() }),
            _ => return,
        };
        self.server.outbox.push(event, &core.poll);
    }
}

impl crate::Front for ContainerdFront {
    fn ready(&mut self, key: u64, ready: Ready, core: &mut Supervisor) {
        match key::parts(key) {
            Some((FrontKind::Listener, _)) => self.accept(core),
            Some((FrontKind::Connection, serial)) => self.connection_ready(serial, ready, core),
            Some((FrontKind::Outbox, _)) => {
                if let Some(complaint) = self.server.outbox.ready(ready, &core.poll) {
                    log::warn(&self.bundle, &complaint);
                }
            }
            Some((FrontKind::Job, serial)) => self.server.job_ended(core, serial),
            Some((FrontKind::Logger, serial)) => self.server.logger_ended(serial, core),
            None => {}
        }
        self.update_lifetime();
    }

    fn event(&mut self, event: Event, core: &mut Supervisor) {
        match event {
            Event::Created { process, pid } => self.server.created(core, &process.container, pid),
            Event::Finished { token, result } => {
                let Some((caller, then)) = self.server.pending.take(token) else { return };
                let outcome = self.server.finished(core, caller, then, result);
                self.server.answer(caller, outcome, core);
            }
            Event::Signal(libc::SIGTERM | libc::SIGINT | libc::SIGQUIT) if self.server.tasks.is_empty() => {
                self.server.lifetime.leave(clock::now());
            }
            // A service manager that stops all processes of a service does not intend to stop the shims.
            Event::Signal(_) | Event::Removal => {}
            Event::Warning(text) | Event::Unrecorded { message: text, .. } => log::warn(&self.bundle, &text),
            Event::Started { .. } | Event::Exited { .. } | Event::OutOfMemory { .. } => self.publish(event, core),
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let server = &self.server;
        let deadlines = [server.loggers.deadline(), server.outbox.deadline(), self.listener.deadline()];
        deadlines.into_iter().flatten().chain(server.lifetime.deadline()).min()
    }

    fn due(&mut self, now: Instant, core: &mut Supervisor) {
        self.listener.due(now, &core.poll);
        self.server.outbox.next(now, &core.poll);
        self.server.loggers.due(now);
        self.server.lifetime.due(now);
    }

    fn finished(&self, core: &Supervisor) -> Option<i32> {
        let server = &self.server;
        if !server.tasks.is_empty() || core.is_busy() {
            return None;
        }
        let all_sent = server.outbox.is_empty() && server.connections.are_flushed();
        server.lifetime.is_over(all_sent, clock::now()).then_some(0)
    }
}

table! { ContainerdFront { 1 server, 2 listener, 3 bundle, 4 used, 5 socket } }

impl Upgradable for ContainerdFront {
    const MODE: Mode = Mode::Containerd;

    fn watch_again(&mut self, core: &mut Supervisor) -> windlass_sys::Result<()> {
        self.listener.watch_again(&core.poll).and(image::watch_again(&self.server, &core.poll))
    }

    fn log(&self, text: &str) {
        log::warn(&self.bundle, text);
    }
}
