//! The supervisor carries out the consequences of the end of a process: reaping it, draining its output, recording the
//! exit, reporting it, and forgetting the process.

use std::os::fd::AsFd;

use super::calls::NO_REQUEST;
use super::exit::{self, Record, Writing};
use super::key::{Kind, key};
use super::life::{self, CLIENT_READ_TIME, DescriptorEffect, Effect, ONLY_READER_TIME, Reaped, Reaping};
use super::processes::ManagedProcess;
use super::streams::Streams;
use super::supervisor::Supervisor;
use super::{Container, Event, Interest, ProcessId, Refusal, Reply, WaitToken};
use windlass_sys::clock;
use windlass_sys::fd::Durability;
use windlass_sys::process;

impl Supervisor {
    /// Carries out the effects of a transition.
    pub(super) fn carry_out(&mut self, serial: u32, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Notify(event) => self.events.push_back(event),
                Effect::Answer(token, result) => self.answer(token, result),
                Effect::Record => self.record(serial),
                Effect::ForgetUnlessRead => self.forget_unless_read(serial),
                Effect::Remove => self.remove(serial),
                Effect::Forget => drop(self.forget(serial)),
                Effect::ReportInOrder => {
                    if let Some(id) = self.processes.id(serial) {
                        self.report_ends_in_order(&id.container);
                    }
                }
                Effect::EndContainer => {
                    if let Some(id) = self.processes.id(serial) {
                        self.end_container(&id);
                    }
                }
                Effect::Descriptors(effect) => self.use_descriptors(serial, effect),
            }
        }
    }

    /// The effects on the descriptors of a process.
    fn use_descriptors(&mut self, serial: u32, effect: DescriptorEffect) {
        let Some(managed) = self.processes.get_mut(serial) else { return };
        match effect {
            DescriptorEffect::Kill => {
                // A process that has ended by itself needs no signal.
                let _ = managed.pidfd.as_ref().map(|pidfd| process::send_signal(pidfd.as_fd(), libc::SIGKILL));
            }
            DescriptorEffect::AwaitParent => {
                let changed = |pidfd| self.poll.change(pidfd, key(Kind::Process, serial, 0), Interest::Nothing);
                // If this fails, the pidfd is looked at repeatedly until the time is over.
                let _ = managed.pidfd.as_ref().map(changed);
            }
            DescriptorEffect::Drain => {
                self.reserved_descriptors.clear();
                if let Some(pidfd) = managed.pidfd.take() {
                    self.poll.forget(&pidfd);
                }
                if let Some(streams) = &mut managed.streams {
                    streams.process_ended(&self.poll, &mut self.scratch);
                }
            }
            DescriptorEffect::Disconnect => {
                if let Some(streams) = &mut managed.streams {
                    streams.disconnect(&self.poll, &mut self.scratch);
                }
            }
            DescriptorEffect::CloseStdio => {
                managed.streams = None;
                managed.console = None;
            }
        }
    }

    /// Answers a request that waits.
    pub(super) fn answer(&mut self, token: WaitToken, result: Result<Reply, Refusal>) {
        if token != NO_REQUEST {
            self.events.push_back(Event::Finished { token, result });
        }
    }

    /// Checks whether a process has ended: its pidfd is readable, or the time of its parent is over.
    pub(super) fn process_ready(&mut self, serial: u32) {
        let Some(managed) = self.processes.get(serial) else { return };
        let found = managed.reap();
        if found == Reaped::NotYet {
            return;
        }
        let reaping = self.reaping(serial);
        let Some(managed) = self.processes.get_mut(serial) else { return };
        let effects = managed.process.reaped(found, &reaping);
        if !effects.is_empty() {
            self.carry_out(serial, effects);
            self.continue_drain(serial);
        }
    }

    fn reaping(&mut self, serial: u32) -> Reaping {
        let mut reaping = Reaping {
            now: clock::now(),
            at: clock::wall(),
            oom_killed: false,
            drain: std::time::Duration::ZERO,
            clients: CLIENT_READ_TIME,
        };
        let Some(managed) = self.processes.get(serial) else { return reaping };
        let alone = managed.streams.as_ref().is_some_and(Streams::has_one_reader);
        if self.wait_for_only_reader && alone && !managed.process.id.is_init() {
            reaping.clients = ONLY_READER_TIME;
        }
        if let Some(container) = self.containers.get_mut(&managed.process.id.container) {
            if container.look_for_oom() {
                self.events.push_back(Event::OutOfMemory { container: container.container.id.clone() });
            }
            reaping.oom_killed = container.oom_killed;
            reaping.drain = container.container.drain;
        }
        reaping
    }

    /// Kills the other processes of a container whose init has ended, unless the end of its PID namespace does that.
    fn end_container(&mut self, init: &ProcessId) {
        let Some(container) = self.containers.get(&init.container) else { return };
        let Container { timeouts, kill_on_exit, .. } = container.container;
        self.calls.shorten_deadlines(&init.container, clock::now() + timeouts.short);
        if kill_on_exit {
            // This fails only if the container is unknown.
            let _ = self.plan_kill(init, libc::SIGKILL, true, NO_REQUEST);
        }
    }

    /// Goes on with a process that has ended, if its output was read or the time for that is over.
    pub(super) fn continue_drain(&mut self, serial: u32) {
        let Some(managed) = self.processes.get_mut(serial) else { return };
        managed.streams.iter_mut().for_each(|streams| streams.end_clients(&self.poll));
        let output = managed.output();
        let effects = managed.process.drained(output, clock::now());
        self.carry_out(serial, effects);
    }

    fn record(&mut self, serial: u32) {
        let Some(managed) = self.processes.get_mut(serial) else { return };
        if let Some(streams) = &mut managed.streams {
            streams.end_sinks(&self.poll, &mut self.scratch);
        }
        let mut unwritten = self.write_record(serial);
        if unwritten.is_some_and(|unwritten| unwritten != 0) && self.spare.release() {
            unwritten = self.write_record(serial);
        }
        if let Some(unwritten) = unwritten {
            self.recorded(serial, unwritten);
        }
    }

    /// Writes the exit record, or has a child write it. Returns what was not written as [`exit::write`] does; `None`: the
    /// child is not done.
    fn write_record(&mut self, serial: u32) -> Option<u8> {
        let managed = self.processes.get_mut(serial)?;
        let ManagedProcess { process, new, streams, .. } = &*managed;
        let status = process.status()?;
        let container = self.containers.get(&process.id.container).map(|container| &container.container);
        let logs = streams.as_ref().map(Streams::logs_to_sync).unwrap_or_default();
        let oom_files = container.map(|container| &container.oom_files[..]).unwrap_or_default();
        if new.exit_files.is_empty() && logs.is_empty() && (oom_files.is_empty() || !status.oom_killed) {
            return Some(0);
        }
        let bytes = streams.as_ref().map_or((0, 0), |streams| (streams.dropped(), streams.unsent()));
        let record = Record::of(&process.id, process.pid(), &status, bytes);
        let writing = Writing {
            files: &new.exit_files,
            is_told: managed.is_told,
            oom_files: if process.id.is_init() { oom_files } else { &[] },
            record: &record,
            code: status.code(),
            durability: match container {
                Some(container) if !container.sync => Durability::Cached,
                _ => Durability::Synced,
            },
            logs: &logs,
        };
        let unwritten = match exit::write_in_child(&writing) {
            Ok(child) => match self.poll.watch(&child.pidfd, key(Kind::Record, serial, 0), Interest::Read) {
                Ok(()) => {
                    managed.recorder = Some(child);
                    return None;
                }
                // Watching fails only for want of memory. The loop stands still until the child has ended.
                Err(_) => exit::unwritten_by(child.wait()),
            },
            // No process can be made at the moment, so the loop writes the record itself, and stands still meanwhile.
            Err(_) => exit::write(&writing),
        };
        managed.keep_unwritten(unwritten);
        Some(unwritten)
    }

    /// Checks whether the child that writes a record has ended.
    pub(super) fn record_ready(&mut self, serial: u32) {
        let Some(managed) = self.processes.get_mut(serial) else { return };
        let Some(child) = &managed.recorder else { return };
        let ended = child.try_wait();
        let Some(ended) = ended.transpose() else { return };
        let unwritten = exit::unwritten_by(ended);
        managed.keep_unwritten(unwritten);
        managed.recorder = None;
        self.recorded(serial, unwritten);
    }

    fn recorded(&mut self, serial: u32, unwritten: u8) {
        self.spare.keep(self.reaper.fd());
        let Some(managed) = self.processes.get_mut(serial) else { return };
        if unwritten != 0 {
            let (process, files) = (managed.process.id.clone(), &managed.new.exit_files);
            let message = format!("{}: {}", process.name(), exit::describe_unwritten(files));
            self.events.push_back(Event::Unrecorded { process, message });
        }
        let effects = managed.process.recorded(unwritten == 0, clock::now());
        self.carry_out(serial, effects);
    }

    /// Reports the ends of a container's processes in their order.
    pub(super) fn report_ends_in_order(&mut self, container: &str) {
        loop {
            let processes = self.processes.of(container).map(|managed| (managed.serial, &managed.process));
            let next = life::next_to_report(processes, self.calls.is_starting(container));
            let Some(managed) = next.and_then(|serial| self.processes.get_mut(serial)) else { return };
            let (serial, effects) = (managed.serial, managed.process.report());
            self.carry_out(serial, effects);
        }
    }

    /// Forgets a process that is deleted, unless a reader is about to take its output.
    pub(super) fn forget_unless_read(&mut self, serial: u32) {
        let Some(managed) = self.processes.get_mut(serial) else { return };
        let now = clock::now();
        let drain = self.containers.get(&managed.process.id.container).map(|container| container.container.drain);
        let wanted = managed.is_wanted();
        let effects = managed.process.leave(wanted, now + drain.unwrap_or_default(), now);
        self.carry_out(serial, effects);
    }

    /// Takes a process out of the table, and refuses the requests that wait for it.
    pub(super) fn remove(&mut self, serial: u32) {
        if let Some(mut managed) = self.processes.remove(serial) {
            let effects = managed.process.closed();
            self.carry_out(serial, effects);
        }
    }

    /// Takes a deleted process out of the table, and with init its container.
    pub(super) fn forget(&mut self, serial: u32) -> Option<Reply> {
        let mut managed = self.processes.remove(serial)?;
        let reply = managed.process.deletion();
        if let Some(streams) = &mut managed.streams {
            streams.finish(&self.poll);
        }
        let _ = std::fs::remove_file(&managed.new.pid_file);
        let effects = managed.process.forgotten();
        if managed.process.id.is_init() {
            self.close(&managed.process.id.container);
        }
        self.carry_out(serial, effects);
        Some(reply)
    }
}
