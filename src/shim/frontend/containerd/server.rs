//! The lasting shim: its tables, and the operations that all its calls need.

use std::os::fd::OwnedFd;
use std::time::Instant;

use super::answer::Outcome;
use super::connections::{Caller, Connections};
use super::job::{Job, JobKind, Jobs};
use super::key::{FrontKind, Serials, key};
use super::lifetime::Lifetime;
use super::logger::Loggers;
use super::message::Status;
use super::outbox::Outbox;
use super::pending::PendingCalls;
use super::tasks::Tasks;
use crate::{Poll, ProcessId, Supervisor};
use windlass_sys::clock;

/// The shim of one container, or of one pod.
#[derive(Debug)]
pub(super) struct Server {
    /// containerd's namespace.
    pub namespace: String,
    /// The containers.
    pub tasks: Tasks,
    /// The calls that wait for replies of the supervisor.
    pub pending: PendingCalls,
    /// The children at work.
    pub jobs: Jobs,
    /// The programs that take output.
    pub loggers: Loggers,
    /// The events that are not acknowledged.
    pub outbox: Outbox,
    /// The connections of containerd.
    pub connections: Connections,
    pub lifetime: Lifetime,
    /// The serial numbers of descriptors and files.
    pub serials: Serials,
}

impl Server {
    /// A shim without tasks, which sends its events to a socket.
    pub(super) fn new(namespace: &str, events: &str, now: Instant) -> Server {
        Server {
            namespace: namespace.into(),
            tasks: Tasks::default(),
            pending: PendingCalls::default(),
            jobs: Jobs::default(),
            loggers: Loggers::default(),
            outbox: Outbox::new(events, namespace, key(FrontKind::Outbox, 0)),
            connections: Connections::default(),
            lifetime: Lifetime::new(now),
            serials: Serials::default(),
        }
    }

    /// Starts a job whose end answers the caller. `start` gets the key of the job; `then` is the step after its end.
    pub(super) fn begin<T>(
        &mut self,
        core: &mut Supervisor,
        caller: Caller,
        start: impl FnOnce(u64, &Poll) -> windlass_sys::Result<Job<T>>,
        then: impl FnOnce(Job<T>) -> JobKind,
    ) -> Result<(), Status> {
        let serial = self.serials.next();
        let job = start(key(FrontKind::Job, serial), &core.poll)?;
        let pid = self.jobs.insert(serial, caller, then(job));
        core.keep_child(pid);
        Ok(())
    }

    /// Answers a call.
    pub(super) fn answer(&mut self, caller: Caller, outcome: Outcome, core: &Supervisor) {
        self.connections.answer(caller, outcome, &core.poll);
    }

    /// Adds a connection of containerd.
    pub(super) fn connect(&mut self, socket: OwnedFd, core: &Supervisor) {
        let serial = self.serials.next();
        // A connection that cannot be watched is closed, and containerd tries again.
        let _ = self.connections.insert(serial, key(FrontKind::Connection, serial), socket, &core.poll);
    }

    /// Removes a logger that has ended.
    pub(super) fn logger_ended(&mut self, serial: u64, core: &mut Supervisor) {
        if let Some(pid) = self.loggers.ended(serial) {
            core.forget_child(pid);
        }
    }

    /// Forgets a task, and ends its loggers.
    pub(super) fn forget_task(&mut self, id: &ProcessId) {
        self.tasks.remove(&id.container);
        self.loggers.end(|process| process.container == id.container, clock::now());
    }

    /// Forgets an exec, and ends its logger. If it `ran`, its start has removed the file of its OCI process; otherwise
    /// that is done here.
    pub(super) fn forget_exec(&mut self, id: &ProcessId, ran: bool) {
        if let Some(file) = self.tasks.remove_exec(id).filter(|_| !ran) {
            let _ = std::fs::remove_file(file);
        }
        self.loggers.end(|process| process == id, clock::now());
    }
}
