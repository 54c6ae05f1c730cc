//! The supervisor's contract of the exit: reaped, OOM looked up, drained, written, told.

use std::os::fd::AsFd;
use std::time::{Duration, Instant, SystemTime};

use super::exit::{self, Record, Writing};
use super::key::{Kind, key};
use super::process::{Ending, Process};
use super::streams::Streams;
use super::supervisor::Supervisor;
use super::{Event, ExitStatus, Interest, Phase, Reply};
use crate::sys::process::{self, Child, Exit};

/// How long attached clients may take to read what was written before the end, as long as they
/// do read.
const CLIENTS: Duration = Duration::from_secs(10);

/// The same for the only reader of an exec, whom nobody but itself is kept waiting by.
const ONLY_READER: Duration = Duration::from_secs(60 * 60);

/// How long the parent of an adopted process may take to reap it.
const PARENT: Duration = Duration::from_secs(5);

/// A record that cannot be written is tried so often, so far apart. Then the end is told without
/// one: an engine that waits for ever is no better off, and the disk may never get better.
const TRIES: u32 = 5;
const AGAIN: Duration = Duration::from_secs(1);

impl Supervisor {
    /// The pidfd is readable: the process has ended.
    pub(super) fn process_ended(&mut self, serial: u32) {
        let Some(at) = self.by_serial(serial) else { return };
        let process = &self.processes[at];
        if process.exit.is_some() {
            return;
        }
        let exit = match reap(process) {
            Reaped::NotYet => return,
            Reaped::ByItsParent => return self.wait_for_its_parent(at),
            Reaped::Ended(exit) => exit,
        };
        let id = process.new.id.clone();
        if let Some(known) = self.containers.iter().position(|known| known.container.id == id.container) {
            self.look_for_oom(known);
        }
        let known = self.known(&id.container);
        let oom_killed = known.is_some_and(|known| known.oom_killed);
        let drain = known.map_or(Duration::ZERO, |known| known.container.drain);
        let now = Instant::now();
        self.held.clear();
        let process = &mut self.processes[at];
        let alone = process.streams.as_ref().is_some_and(Streams::has_one_reader);
        let clients = if self.patient && alone && !process.is_init() { ONLY_READER } else { CLIENTS };
        let exit = process.instead.or(exit);
        process.exit = Some(ExitStatus { exit, oom_killed, at: SystemTime::now() });
        process.ending = Ending::Draining { until: now + drain, clients: now + clients.max(drain) };
        if let Some(pidfd) = &process.pidfd {
            self.poll.forget(pidfd);
        }
        process.pidfd = None;
        if let Some(streams) = &mut process.streams {
            streams.process_ended(&self.poll, &mut self.scratch);
        }
        if id.exec.is_none() {
            self.hurry(&id.container);
            self.kill_the_rest(&id);
        }
        self.drained(serial);
    }

    /// What is being started in a container whose init has ended cannot succeed any more, and holds
    /// back the telling of the end: it gets the short time.
    fn hurry(&mut self, container: &str) {
        use super::call::What;
        let Some(short) = self.known(container).map(|known| known.container.timeouts.short) else { return };
        let soon = Instant::now() + short;
        for call in self.calls.iter_mut().filter(|call| &*call.process.container == container) {
            if matches!(call.what, What::Start | What::Exec) {
                call.deadline = call.deadline.min(soon);
            }
        }
    }

    /// The pidfd hangs up when the parent has reaped; a parent that does not is not waited for.
    fn wait_for_its_parent(&mut self, at: usize) {
        let process = &mut self.processes[at];
        if let (Ending::Alive, Some(pidfd)) = (&process.ending, &process.pidfd) {
            let _ = self.poll.change(pidfd, key(Kind::Process, process.serial, 0), Interest::Nothing);
            process.ending = Ending::Unreaped(Instant::now() + PARENT);
        }
    }

    /// Writes the record if the output has been read, or was waited for long enough.
    pub(super) fn drained(&mut self, serial: u32) {
        let Some(at) = self.by_serial(serial) else { return };
        let now = Instant::now();
        let process = &mut self.processes[at];
        let ready = match &process.ending {
            Ending::Draining { until, clients } => match &process.streams {
                None => true,
                Some(streams) => {
                    let read = streams.is_read() || (*until <= now && !streams.is_held_back());
                    (read && streams.are_clients_idle()) || *clients <= now
                }
            },
            Ending::Failed(again) => *again <= now,
            _ => false,
        };
        if !ready {
            return;
        }
        if let Some(streams) = &mut process.streams {
            streams.end_sinks(&self.poll, &mut self.scratch);
        }
        self.write_record(at);
    }

    fn write_record(&mut self, at: usize) {
        let process = &self.processes[at];
        let Some(status) = process.exit else { return };
        let known = self.known(&process.new.id.container);
        let logs = process.streams.as_ref().map(|streams| streams.logs_to_sync()).unwrap_or_default();
        let oom_files = known.map(|known| &known.container.oom_files[..]).unwrap_or_default();
        if process.new.exit_files.is_empty() && logs.is_empty() && (oom_files.is_empty() || !status.oom_killed) {
            self.written(at);
            return;
        }
        let dropped = process.streams.as_ref().map_or(0, |streams| streams.dropped());
        let record = Record::of(&process.new.id, process.pid, &status, dropped);
        let writing = Writing {
            files: &process.new.exit_files,
            oom_files: if process.is_init() { oom_files } else { &[] },
            record: &record,
            code: status.code(),
            sync: known.is_none_or(|known| known.container.sync),
            logs: &logs,
        };
        match exit::write_in_child(&writing) {
            Ok(child) => self.watch_record(at, child),
            // No process can be made at the moment: a pause of the loop is the lesser evil.
            Err(_) => match exit::write(&writing) {
                Ok(()) => self.written(at),
                Err(_) => self.not_written(at),
            },
        }
    }

    fn watch_record(&mut self, at: usize, child: Child) {
        let process = &mut self.processes[at];
        // Watching fails only for want of memory; the next turn then tries to write again.
        if self.poll.watch(&child.pidfd, key(Kind::Record, process.serial, 0), Interest::Read).is_err() {
            let _ = child.wait();
            return self.not_written(at);
        }
        process.ending = Ending::Writing(child);
    }

    /// The child that writes the record has ended.
    pub(super) fn record_written(&mut self, serial: u32) {
        let Some(at) = self.by_serial(serial) else { return };
        let Ending::Writing(child) = &self.processes[at].ending else { return };
        match child.try_wait() {
            Ok(None) => {}
            Ok(Some(Exit::Code(0))) => self.written(at),
            Ok(Some(_)) | Err(_) => self.not_written(at),
        }
    }

    fn not_written(&mut self, at: usize) {
        let process = &mut self.processes[at];
        process.failures += 1;
        if process.failures >= TRIES {
            return self.written(at);
        }
        process.ending = Ending::Failed(Instant::now() + AGAIN);
    }

    fn written(&mut self, at: usize) {
        self.processes[at].ending = Ending::Written;
        let container = self.processes[at].new.id.container.clone();
        self.tell(&container);
    }

    /// Tells the ends that are on disk and whose turn it is: not before the start was answered,
    /// and init's after those of all execs.
    pub(super) fn tell(&mut self, container: &str) {
        while let Some(at) = self.next_told(container) {
            let process = &mut self.processes[at];
            let Some(status) = process.exit else { return };
            process.ending = Ending::Told;
            process.phase = Phase::Stopped;
            if let Some(streams) = &mut process.streams {
                streams.let_go(&self.poll, &mut self.scratch);
            }
            let (id, pid) = (process.new.id.clone(), process.pid);
            let waiters = std::mem::take(&mut process.waiters);
            let deleting = std::mem::take(&mut process.deleting);
            self.events.push_back(Event::Exited { process: id.clone(), pid, status });
            for token in waiters {
                self.finish(token, Ok(Reply::Exited(status)));
            }
            if !deleting.is_empty() && !self.is_being_read(at, &deleting) {
                let reply = self.forget(&id);
                deleting.into_iter().for_each(|token| self.finish(token, Ok(reply.clone())));
            }
        }
    }

    fn next_told(&self, container: &str) -> Option<usize> {
        let here = |process: &Process| &*process.new.id.container == container;
        let execs_pending =
            self.processes.iter().any(|process| here(process) && !process.is_init() && process.is_pending())
                || self.calls.iter().any(|call| {
                    &*call.process.container == container
                        && call.process.exec.is_some()
                        && call.what == super::call::What::Exec
                });
        self.processes.iter().position(|process| {
            use super::call::What;
            here(process)
                && matches!(process.ending, Ending::Written)
                && !(process.is_init() && execs_pending)
                && !self.calls.iter().any(|call| {
                    call.process == process.new.id && matches!(call.what, What::Create | What::Start | What::Exec)
                })
        })
    }
}

/// What came of reaping.
enum Reaped {
    /// It has not ended.
    NotYet,
    /// It has, but the kernel tells others how only when its own parent has reaped it.
    ByItsParent,
    /// It has; `None` where nobody can say how.
    Ended(Option<Exit>),
}

fn reap(process: &Process) -> Reaped {
    let Some(pidfd) = process.pidfd.as_ref() else { return Reaped::NotYet };
    if process.child {
        return match process::try_wait(pidfd.as_fd()) {
            Ok(None) => Reaped::NotYet,
            Ok(Some(exit)) => Reaped::Ended(Some(exit)),
            Err(_) => Reaped::Ended(None),
        };
    }
    // Adopted: another process is its parent, and only newer kernels tell us.
    match process::exit_of_other(pidfd.as_fd()) {
        Ok(Some(exit)) => Reaped::Ended(Some(exit)),
        Ok(None) if !matches!(process.ending, Ending::Unreaped(until) if until <= Instant::now()) => {
            Reaped::ByItsParent
        }
        Ok(None) | Err(_) => Reaped::Ended(None),
    }
}
