//! The front end: a conmon has one process, whose start and end it reports to the caller.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Instant;

use super::endpoints::{self, ControlMessage, Endpoints};
use super::messages::{Level, Messages};
use super::notify::NotifyRelay;
use super::pipes::Pipes;
use super::settings::Settings;
use crate::{
    Event, ExitFile, ExitStatus, Framing, Interest, NewProcess, ProcessId, Ready, Refusal, Reply, Request, Supervisor,
    WaitToken,
};
use windlass_base::exit_record;
use windlass_sys::fd::Durability;
use windlass_sys::process::Exit;
use windlass_sys::{clock, descriptors};

/// The keys of the descriptors.
pub(super) const START: u64 = 1;
pub(super) const ATTACH: u64 = 2;
pub(super) const CONTROL: u64 = 3;
pub(super) const SIZE: u64 = 4;
pub(super) const NOTIFY: u64 = 5;

/// The exit status and the message by which callers recognize a timeout.
const TIMED_OUT: i32 = -1;
const TIMED_OUT_MESSAGE: &str = "command timed out";

/// The next deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Nothing,
    /// When the process is killed.
    Timeout(Instant),
    /// When the shim ends, and its exit status.
    Leave(Instant, i32),
}

/// The front end.
#[derive(Debug)]
pub(crate) struct ConmonFront {
    pub(super) settings: Rc<Settings>,
    pub(super) messages: Rc<Messages>,
    pub(super) pipes: Pipes,
    pub(super) id: ProcessId,
    /// The process, until it is launched.
    pub(super) process: Option<NewProcess>,
    pub(super) preserved: BTreeMap<i32, OwnedFd>,
    pub(super) endpoints: Option<Endpoints>,
    pub(super) relay: Option<NotifyRelay>,
    pub(super) launched: Option<WaitToken>,
    /// The control messages before the launch: the last of each kind.
    pub(super) early: Vec<ControlMessage>,
    pub(super) timed_out: bool,
    pub(super) next: Next,
}

impl ConmonFront {
    /// `preserved` are the descriptors that the process inherits.
    pub(super) fn new(
        settings: Rc<Settings>,
        messages: Rc<Messages>,
        pipes: Pipes,
        process: NewProcess,
        preserved: BTreeMap<i32, OwnedFd>,
    ) -> ConmonFront {
        ConmonFront {
            settings,
            messages,
            pipes,
            id: process.id.clone(),
            process: Some(process),
            preserved,
            endpoints: None,
            relay: None,
            launched: None,
            early: Vec::new(),
            timed_out: false,
            next: Next::Nothing,
        }
    }

    /// Opens the endpoints and launches the process, or waits for the caller to attach first.
    pub(super) fn begin(&mut self, core: &mut Supervisor) {
        if let Err(refusal) = self.open(core) {
            return self.failed(&refusal, core);
        }
        self.pipes.report_attachable();
        let start = self.pipes.start.as_ref().filter(|_| self.settings.attach_first);
        match start.map(|start| core.poll.watch(start, START, Interest::Read)) {
            Some(Ok(())) => {}
            Some(Err(failed)) => self.failed(&failed.into(), core),
            None => self.launch(core),
        }
    }

    fn open(&mut self, core: &mut Supervisor) -> Result<(), Refusal> {
        core.open(self.settings.container.clone())?;
        if let Some(place) = &self.settings.endpoints {
            let endpoints = Endpoints::open(place, ATTACH)?;
            core.poll.watch(&endpoints.control.fd, CONTROL, Interest::Read)?;
            core.poll.watch(&endpoints.size.fd, SIZE, Interest::Read)?;
            self.endpoints = Some(endpoints);
        }
        if let Some(manager) = &self.settings.notify_socket {
            let relay = NotifyRelay::open(&self.settings.container.bundle, manager)?;
            core.poll.watch(&relay.inside, NOTIFY, Interest::Read)?;
            self.relay = Some(relay);
        }
        Ok(())
    }

    /// The file that lists the exit files that this shim has not written; `windlass delete` writes them if the shim
    /// dies, or could not write them.
    fn pending_exit_list(&self) -> Option<PathBuf> {
        self.id.is_init().then(|| self.settings.container.bundle.join(exit_record::UNWRITTEN))
    }

    /// Writes that list, and removes it if nothing is left to write: a file that is listed is written once more. Without
    /// the list, the status is lost with this shim.
    fn write_pending_exit_list(&self, files: &[ExitFile]) {
        let Some(list) = self.pending_exit_list() else { return };
        if files.is_empty() {
            let _ = std::fs::remove_file(list);
            return;
        }
        let paths: Vec<&PathBuf> = files.iter().map(ExitFile::path).collect();
        let written = serde_json::to_vec(&paths).map(|text| crate::exit::put(&list, &text, Durability::Cached));
        if let Ok(Err(failed)) = written {
            self.messages.log(Level::Warn, &format!("the list of exit files to write is not up to date: {failed}"));
        }
    }

    fn launch(&mut self, core: &mut Supervisor) {
        let Some(process) = self.process.take() else { return };
        self.write_pending_exit_list(&process.exit_files);
        let requested = match &self.id.exec {
            None => core.request(Request::Create(process)),
            Some(_) => {
                core.request(Request::AddExec(process)).and_then(|_| core.request(Request::Start(self.id.clone())))
            }
        };
        // Clients that have connected earlier are accepted from now on.
        let attach = self.endpoints.as_mut().map(|endpoints| endpoints.attach.watch(&core.poll));
        if let Some(Err(failed)) = attach {
            self.messages.log(Level::Warn, &format!("nobody can attach yet: {failed}"));
        }
        match requested {
            Ok(Reply::Pending(token)) => self.launched = Some(token),
            Ok(_) => {}
            Err(refusal) => return self.failed(&refusal, core),
        }
        std::mem::take(&mut self.early).into_iter().for_each(|message| self.control(message, core));
    }

    fn failed(&mut self, refusal: &Refusal, core: &mut Supervisor) {
        self.messages.log(Level::Error, &format!("Failed to create container: {refusal}"));
        self.pipes.report(-1, Some(&refusal.message));
        self.write_pending_exit_list(&[]);
        self.finish(1, core);
    }

    fn created(&mut self, pid: i32, core: &mut Supervisor) {
        // The process has its own copies. The shim must not keep a pipe among them open.
        self.preserved.clear();
        if self.settings.passthrough
            && let Err(failed) = stdio_to_null()
        {
            self.messages.log(Level::Warn, &format!("our standard output stays open: {failed}"));
        }
        if !self.pipes.report_pid(pid, self.id.exec.is_some()) && self.id.exec.is_none() {
            // No caller knows the container, so no caller would start or remove it.
            self.messages.log(Level::Warn, "the caller has left before the container was made: killing it");
            let _ = core.signal(&self.id, libc::SIGKILL, true);
        }
        if let Some(timeout) = self.settings.timeout {
            self.next = Next::Timeout(clock::now() + timeout);
        }
    }

    fn exited(&mut self, status: &ExitStatus, core: &mut Supervisor) {
        let code = status.code();
        self.write_pending_exit_list(core.unwritten(&self.id));
        self.messages.log(Level::Info, &format!("exited with status {code}"));
        if self.id.exec.is_some() {
            self.pipes.report(code, self.timed_out.then_some(TIMED_OUT_MESSAGE));
        }
        self.finish(code, core);
    }

    /// Closes the endpoints, and ends the shim when the delay of the exit command is over.
    fn finish(&mut self, status: i32, core: &mut Supervisor) {
        self.endpoints = None;
        self.relay = None;
        core.close(&self.settings.container.id);
        let delay = self.settings.exit.as_ref().map(|exit| exit.delay).unwrap_or_default();
        self.next = Next::Leave(clock::now() + delay, status);
    }

    fn control(&mut self, message: ControlMessage, core: &mut Supervisor) {
        if self.process.is_some() {
            return keep_last(&mut self.early, message);
        }
        let process = self.id.clone();
        let asked = core.request(match message {
            ControlMessage::Resize(rows, columns) => Request::Resize { process, rows, columns },
            ControlMessage::ReopenLogs => Request::ReopenLogs(process),
        });
        if let Err(refusal) = asked {
            self.messages.log(Level::Info, &format!("{message:?}: {refusal}"));
        }
    }

    fn signal(&self, signal: i32, core: &mut Supervisor) {
        let done = match signal {
            libc::SIGHUP => core.request(Request::ReopenLogs(self.id.clone())).map(drop),
            libc::SIGTERM | libc::SIGINT | libc::SIGQUIT => core.signal(&self.id, signal, false),
            _ => Ok(()),
        };
        if let Err(refusal) = done {
            self.messages.log(Level::Info, &format!("signal {signal}: {refusal}"));
        }
    }
}

impl crate::Front for ConmonFront {
    fn ready(&mut self, key: u64, _ready: Ready, core: &mut Supervisor) {
        let received = match (key, &mut self.endpoints) {
            (START, _) => {
                // A byte or the end: the caller has attached, or it will not.
                if let Some(start) = self.pipes.start.take() {
                    core.poll.forget(&start);
                }
                self.launch(core);
                Vec::new()
            }
            (ATTACH, Some(endpoints)) => {
                for client in endpoints.attach.clients(&core.poll, usize::MAX, |_| ()) {
                    if let Err(refusal) = core.attach(&self.id, client, Framing::Packet) {
                        self.messages.log(Level::Info, &format!("attach: {refusal}"));
                    }
                }
                Vec::new()
            }
            (CONTROL, Some(endpoints)) => endpoints.control.receive(endpoints::parse_control),
            (SIZE, Some(endpoints)) => endpoints.size.receive(endpoints::parse_size),
            (NOTIFY, _) => {
                if let Some(relay) = &self.relay {
                    relay.relay();
                }
                Vec::new()
            }
            _ => Vec::new(),
        };
        received.into_iter().for_each(|message| self.control(message, core));
    }

    fn event(&mut self, event: Event, core: &mut Supervisor) {
        match event {
            Event::Finished { token, result } if self.launched == Some(token) => match result {
                Ok(Reply::Pid(pid)) => self.created(pid, core),
                Ok(_) => {}
                Err(refusal) => self.failed(&refusal, core),
            },
            Event::Unrecorded { process, message } => {
                self.messages.log(Level::Warn, &message);
                self.write_pending_exit_list(core.unwritten(&process));
            }
            Event::Exited { process, status, .. } if process == self.id => self.exited(&status, core),
            Event::Warning(text) => self.messages.log(Level::Warn, &text),
            Event::Signal(signal) => self.signal(signal, core),
            _ => {}
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let next = match self.next {
            Next::Nothing => None,
            Next::Timeout(at) | Next::Leave(at, _) => Some(at),
        };
        let attach = self.endpoints.as_ref().and_then(|endpoints| endpoints.attach.deadline());
        next.into_iter().chain(attach).min()
    }

    fn due(&mut self, now: Instant, core: &mut Supervisor) {
        if let Some(endpoints) = &mut self.endpoints {
            endpoints.attach.due(now, &core.poll);
        }
        if let Next::Timeout(at) = self.next
            && at <= now
        {
            self.next = Next::Nothing;
            self.timed_out = true;
            core.report_as(&self.id, Exit::Code(TIMED_OUT));
            if let Err(refusal) = core.signal(&self.id, libc::SIGKILL, true) {
                self.messages.log(Level::Warn, &format!("cannot kill what timed out: {refusal}"));
            }
        }
    }

    fn finished(&self, _core: &Supervisor) -> Option<i32> {
        match self.next {
            Next::Leave(at, status) if at <= clock::now() => Some(status),
            _ => None,
        }
    }
}

/// Adds a message, in place of an earlier one of its kind.
fn keep_last(early: &mut Vec<ControlMessage>, message: ControlMessage) {
    early.retain(|earlier| std::mem::discriminant(earlier) != std::mem::discriminant(&message));
    early.push(message);
}

/// Replaces the standard descriptors by the null device.
pub(super) fn stdio_to_null() -> windlass_sys::Result<()> {
    let null = crate::pipe::null()?;
    (0..=2).try_for_each(|standard| descriptors::install_at(null.as_fd(), standard))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_early_messages_the_last_of_each_kind_is_kept() {
        let mut early = Vec::new();
        for message in [ControlMessage::Resize(1, 2), ControlMessage::ReopenLogs, ControlMessage::Resize(24, 80)] {
            keep_last(&mut early, message);
        }
        assert_eq!(early, [ControlMessage::ReopenLogs, ControlMessage::Resize(24, 80)]);
    }
}
