//! One turn of the supervisor's loop: it handles ready descriptors and deadlines.

use std::time::{Duration, Instant};

use super::console::Console;
use super::key::{self, Kind};
use super::life::Life;
use super::processes::ManagedProcess;
use super::reaper::{Orphans, reap_orphans};
use super::streams::Streams;
use super::supervisor::Supervisor;
use super::{Event, Ready};
use windlass_sys::Result;
use windlass_sys::clock;

/// The pause before a terminal that was hung up is looked at again, and before input that waits for descriptors or
/// memory is.
const RETRY: Duration = Duration::from_millis(100);

/// When nothing has happened for this long, memory is freed.
const IDLE: Duration = Duration::from_millis(500);

impl Supervisor {
    /// Waits until a descriptor is ready, but not longer than until `deadline` or the core's own. Handles the
    /// descriptors of the core, and returns those of the front end that are ready.
    ///
    /// If the front end has ready descriptors, those of the core wait for the beginning of the next turn. So a client
    /// that has connected before a process began to write gets all its output.
    pub fn turn(&mut self, deadline: Option<Instant>) -> Result<Vec<(u64, Ready)>> {
        for (key, ready) in std::mem::take(&mut self.deferred) {
            self.ready(key, ready);
        }
        let mut found = Vec::new();
        if self.events.is_empty() {
            let deadline = deadline.into_iter().chain(self.deadline()).min();
            self.poll.wait(deadline, &mut found)?;
        }
        if !found.is_empty() {
            self.last_activity = Some(clock::now());
        }
        let (theirs, ours): (Vec<_>, Vec<_>) = found.into_iter().partition(|&(key, _)| key::is_of_front_end(key));
        if theirs.is_empty() {
            ours.into_iter().for_each(|(key, ready)| self.ready(key, ready));
        } else {
            self.deferred = ours;
        }
        self.due(clock::now());
        Ok(theirs)
    }

    fn ready(&mut self, key: u64, ready: Ready) {
        let Some((kind, serial, sub)) = key::parts(key) else { return };
        match kind {
            Kind::Signals => self.signals(),
            Kind::Process => self.process_ready(serial),
            Kind::Record => self.record_ready(serial),
            Kind::Call => self.call_ready(serial),
            Kind::CallOutput | Kind::CallErrors => self.calls.read_output(serial, kind),
            Kind::Console => self.console_ready(serial),
            Kind::Inotify => self.inotify_ready(),
            Kind::ImageCheck => self.image_check_ready(clock::now()),
            Kind::Source | Kind::Sink | Kind::InputFifo | Kind::InputSink | Kind::Client | Kind::Spool => {
                let Some(managed) = self.processes.get_mut(serial) else { return };
                let alive = managed.process.is_alive();
                if let Some(streams) = &mut managed.streams {
                    streams.ready(kind, sub, ready, &self.poll, &mut self.scratch, alive);
                    if let Some(why) = streams.take_warning() {
                        self.events.push_back(Event::Warning(format!("{}: {why}", managed.process.id.name())));
                    }
                }
                if !alive {
                    self.continue_drain(serial);
                }
            }
        }
    }

    fn signals(&mut self) {
        // One signal at a time: the descriptor stays readable while others are pending.
        if let Some(signal) = self.reaper.next_signal() {
            match signal {
                libc::SIGCHLD => {
                    self.orphans = Orphans::Perhaps;
                    self.calls.unwatched().into_iter().for_each(|serial| self.call_ready(serial));
                }
                libc::SIGTERM | libc::SIGINT | libc::SIGQUIT | libc::SIGHUP | libc::SIGUSR1 => {
                    self.events.push_back(Event::Signal(signal));
                }
                _ => {}
            }
        }
    }

    /// When the core itself has something to do.
    fn deadline(&self) -> Option<Instant> {
        let now = clock::now();
        let processes = self.processes.iter().filter_map(|managed| {
            let streams = managed.streams.as_ref().and_then(|streams| self.streams_deadline(managed, streams, now));
            let console = managed.console.as_ref().and_then(Console::deadline);
            streams.into_iter().chain(managed.process.deadline(now)).chain(console).min()
        });
        let idle = self.last_activity.map(|at| at + IDLE);
        let upgrade = self.upgrade.as_ref().and_then(|upgrade| upgrade.deadline());
        processes.chain(self.calls.deadline()).chain(upgrade).chain(idle).min()
    }

    fn streams_deadline(&self, managed: &ManagedProcess, streams: &Streams, now: Instant) -> Option<Instant> {
        let waits = self.wait_for_only_reader && streams.has_one_reader();
        let client = if waits { None } else { streams.stall_ends(managed.process.is_alive()) };
        let retry = (streams.is_hung_up() || streams.is_input_short()).then(|| now + RETRY);
        client.into_iter().chain(retry).chain(streams.next_retry()).min()
    }

    fn due(&mut self, now: Instant) {
        self.calls.kill_late(now);
        self.image_check_ready(now);
        self.streams_due(now);
        for managed in self.processes.iter_mut() {
            if let Some(console) = &mut managed.console {
                console.due(now, &self.poll, key::key(Kind::Console, managed.serial, 0));
            }
        }
        for serial in self.processes.serials(|managed| managed.process.deadline(now).is_some()) {
            self.process_due(serial, now);
        }
        let hidden = match self.orphans {
            Orphans::None => true,
            Orphans::Perhaps => false,
            Orphans::Behind(pid) => self.is_known(pid),
        };
        if !hidden && !self.calls.is_making() {
            self.orphans = reap_orphans(|pid| self.is_known(pid));
        }
        if self.last_activity.is_some_and(|at| now >= at + IDLE) {
            self.last_activity = None;
            self.processes.iter_mut().filter_map(|managed| managed.streams.as_mut()).for_each(Streams::narrow_pipes);
            self.scratch.release();
            windlass_sys::spawn::forget_stack();
            windlass_sys::block_cache::release();
            windlass_sys::region::release_unused();
        }
    }

    /// Drops the clients that do not read, and looks again at what could not be watched, and at terminals and fifos,
    /// whose changes the kernel may not report.
    fn streams_due(&mut self, now: Instant) {
        for managed in self.processes.iter_mut() {
            let alive = managed.process.is_alive();
            let Some(streams) = &mut managed.streams else { continue };
            let waits = !(self.wait_for_only_reader && streams.has_one_reader());
            streams.drop_stalled(waits, now, &self.poll, &mut self.scratch, alive);
            streams.retry_input(&self.poll);
            if alive && streams.is_hung_up() {
                streams.retry_hung_up(&self.poll, &mut self.scratch);
            }
        }
        let waits =
            |managed: &ManagedProcess| managed.streams.as_ref().is_some_and(|streams| streams.next_retry().is_some());
        if self.processes.iter().any(waits) {
            self.poll_fifo_readers(Some(now));
        }
    }

    fn process_due(&mut self, serial: u32, now: Instant) {
        let Some(managed) = self.processes.get(serial) else { return };
        match managed.process.life {
            Life::Draining { .. } | Life::Retrying { .. } => self.continue_drain(serial),
            Life::Alive { .. } if managed.process.deadline(now).is_some_and(|at| at <= now) => {
                self.process_ready(serial);
            }
            Life::Leaving { .. } => self.forget_unless_read(serial),
            _ => {}
        }
    }

    /// Whether a child is reaped by the front end, or through its pidfd.
    fn is_known(&self, pid: i32) -> bool {
        self.children.contains(&pid)
            || self.calls.has_child(pid)
            || self.processes.iter().any(|managed| managed.has_child(pid))
    }
}
