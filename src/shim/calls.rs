//! The supervisor's calls of the runtime: starting them, in their turn, and what their end means.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use super::call::{self, Call, Settings, Waiting, What};
use super::console::Console;
use super::key::{Kind, key};
use super::pipe::{captured, collect, null};
use super::process::{Ending, Process};
use super::streams::Streams;
use super::supervisor::{Supervisor, not_found};
use super::{Code, Event, Interest, Phase, ProcessId, Refusal, Reply, Stdio, WaitToken};
use crate::sys::fd;
use crate::sys::process::{self, Exit};

type Result<T> = std::result::Result<T, Refusal>;

/// The token of a call that nobody asked for.
const NOBODY: WaitToken = WaitToken(0);

impl Supervisor {
    /// `create` or `exec` of the process at `at`: its stdio is opened and given to the runtime.
    pub(super) fn launch(&mut self, at: usize, what: What) -> Result<WaitToken> {
        let serial = self.processes[at].serial;
        let id = self.processes[at].new.id.clone();
        let known = self.known(&id.container).ok_or_else(|| not_found(&id.container))?;
        let (runtime, bundle) = (known.container.runtime.clone(), known.container.bundle.clone());
        let process = &mut self.processes[at];
        let emptied = Stdio { terminal: process.new.stdio.terminal, ..Stdio::default() };
        let stdio = std::mem::replace(&mut process.new.stdio, emptied);
        let (streams, ends) = Streams::open(stdio, serial, &self.poll)?;
        let mut words = match what {
            What::Create => runtime.create(&bundle, &process.new),
            _ => runtime.exec(&process.new),
        };
        if streams.terminal {
            let directory = process.new.pid_file.parent().unwrap_or(&bundle);
            let console = Console::listen(directory, serial)?;
            self.poll.watch(console.fd(), key(Kind::Console, serial, 0), Interest::Read)?;
            words.extend(["--console-socket".into(), console.path().into()]);
            process.console = Some(console);
        }
        words.push((*id.container).into());
        let streams = process.streams.insert(streams);
        if process.stdin_closed {
            streams.close_stdin(&self.poll);
        }
        let preserve = std::mem::take(&mut process.new.preserve_fds);
        // A file left by another process must not be taken for ours.
        let _ = std::fs::remove_file(&process.new.pid_file);
        let token = self.next_token();
        let stdio = ends.each_ref().map(|end| end.as_fd());
        self.spawn(what, id, token, &words, stdio, &preserve, (None, None))?;
        Ok(token)
    }

    /// Any verb, when it is its turn.
    pub(super) fn call_verb(&mut self, id: &ProcessId, what: What, arguments: &[OsString]) -> Result<Reply> {
        let known = self.known(&id.container).ok_or_else(|| not_found(&id.container))?;
        let words = known.container.runtime.verb(arguments, &id.container);
        let token = self.next_token();
        self.waiting.push(Waiting { what, process: id.clone(), words, token });
        self.next_calls();
        Ok(Reply::Pending(token))
    }

    /// Starts the calls whose turn it is: one at a time for each process. A kill overtakes all
    /// but a create, for what hangs may have to be killed.
    pub(super) fn next_calls(&mut self) {
        let mut at = 0;
        while at < self.waiting.len() {
            let next = &self.waiting[at];
            let blocked = self.calls.iter().any(|call| {
                call.process == next.process
                    && (next.what != What::Kill || call.what == What::Create)
                    && (call.what != What::Kill || next.what == What::Delete)
            }) || (next.what != What::Kill
                && self.waiting[..at].iter().any(|earlier| earlier.process == next.process));
            if blocked {
                at += 1;
                continue;
            }
            let next = self.waiting.remove(at);
            if let Err(refusal) = self.begin(&next) {
                self.finish(next.token, Err(refusal));
            }
        }
    }

    fn begin(&mut self, next: &Waiting) -> Result<()> {
        let nothing = null()?;
        let (output_read, output_write) = captured()?;
        let (errors_read, errors_write) = captured()?;
        let stdio = [nothing.as_fd(), output_write.as_fd(), errors_write.as_fd()];
        let pipes = (Some(output_read), Some(errors_read));
        self.spawn(next.what, next.process.clone(), next.token, &next.words, stdio, &[], pipes)
    }

    #[allow(clippy::too_many_arguments)] // What a process is started with is what it is.
    fn spawn(
        &mut self,
        what: What,
        process: ProcessId,
        token: WaitToken,
        words: &[OsString],
        stdio: [std::os::fd::BorrowedFd<'_>; 3],
        preserve: &[i32],
        (output, errors): (Option<OwnedFd>, Option<OwnedFd>),
    ) -> Result<()> {
        let serial = self.next_serial();
        let known = self.known(&process.container).ok_or_else(|| not_found(&process.container))?;
        let (runtime, timeouts) = (&known.container.runtime, known.container.timeouts);
        // Another call that runs may have written why it fails.
        let alone = !self.calls.iter().any(|call| call.process.container == process.container);
        let said_before = runtime.errors_so_far(alone);
        let settings = Settings {
            binary: &runtime.binary,
            words,
            stdio,
            preserve,
            oom_score_adj: self.oom_score_adj.as_deref(),
            listen_pid: self.listen_pid,
        };
        let child = call::start(&settings)
            .map_err(|failed| Refusal::new(Code::Runtime, format!("cannot run {:?}: {failed}", runtime.binary)))?;
        let pipes = [(&output, Kind::CallOutput), (&errors, Kind::CallErrors)];
        let watched = pipes
            .into_iter()
            .filter_map(|(pipe, kind)| Some((pipe.as_ref()?.as_fd(), kind)))
            .chain([(child.pidfd.as_fd(), Kind::Call)])
            .try_for_each(|(fd, kind)| self.poll.watch(fd, key(kind, serial, 0), Interest::Read));
        if let Err(failed) = watched {
            child.end();
            return Err(failed.into());
        }
        let short = matches!(what, What::Kill | What::Delete);
        self.calls.push(Call {
            serial,
            what,
            process,
            token,
            child,
            output,
            errors,
            printed: Vec::new(),
            complained: Vec::new(),
            deadline: Instant::now() + if short { timeouts.short } else { timeouts.long },
            timed_out: false,
            said_before,
        });
        Ok(())
    }

    /// A running call has written something.
    pub(super) fn call_printed(&mut self, serial: u32, kind: Kind) {
        let Some(call) = self.calls.iter_mut().find(|call| call.serial == serial) else { return };
        let (pipe, kept) = match kind {
            Kind::CallOutput => (&mut call.output, &mut call.printed),
            _ => (&mut call.errors, &mut call.complained),
        };
        if pipe.as_ref().is_some_and(|open| collect(open.as_fd(), kept)) {
            *pipe = None;
        }
    }

    /// Kills the calls that take too long.
    pub(super) fn calls_due(&mut self, now: Instant) {
        for call in self.calls.iter_mut().filter(|call| !call.timed_out && call.deadline <= now) {
            call.timed_out = true;
            call.child.kill();
        }
    }

    /// The runtime has sent a terminal.
    pub(super) fn console_ready(&mut self, serial: u32) {
        let Some(at) = self.by_serial(serial) else { return };
        let process = &mut self.processes[at];
        let Some(console) = &mut process.console else { return };
        let Ok(Some(master)) = console.receive(&self.poll, key(Kind::Console, serial, 0)) else { return };
        process.console = None;
        if let Some(streams) = &mut process.streams {
            // A terminal that cannot be watched is one without output; the call's end tells more.
            let _ = streams.console(master, &self.poll);
        }
    }

    /// A call has ended.
    pub(super) fn call_ended(&mut self, serial: u32) {
        let Some(at) = self.calls.iter().position(|call| call.serial == serial) else { return };
        let exit = match self.calls[at].child.try_wait() {
            Ok(None) => return,
            Ok(Some(exit)) => exit,
            Err(_) => Exit::Code(255),
        };
        self.call_printed(serial, Kind::CallOutput);
        self.call_printed(serial, Kind::CallErrors);
        let call = self.calls.remove(at);
        let result = self.complete(&call, exit);
        // A delete that had to kill is answered when the end is told.
        if !matches!(result, Ok(Reply::Pending(_))) {
            self.finish(call.token, result);
        }
        self.tell(&call.process.container);
        self.next_calls();
    }

    pub(super) fn finish(&mut self, token: WaitToken, result: Result<Reply>) {
        if token != NOBODY {
            self.events.push_back(Event::Finished { token, result });
        }
    }

    fn complete(&mut self, call: &Call, exit: Exit) -> Result<Reply> {
        let failed = exit != Exit::Code(0);
        let mut complained = call.complained.clone();
        if matches!(call.what, What::Create | What::Exec)
            && let Ok(at) = self.find(&call.process)
        {
            let serial = self.processes[at].serial;
            self.console_ready(serial);
            if let Some(streams) = &mut self.processes[at].streams {
                complained = streams.runtime_done(failed, &self.poll, &mut self.scratch);
            }
            self.processes[at].console = None;
        }
        if failed {
            let refusal = self.complaint(call, exit, &complained);
            return self.failed(call, refusal);
        }
        match call.what {
            What::Create | What::Exec => self.made(call).or_else(|refusal| self.failed(call, refusal)),
            What::Start => self.started(&call.process),
            What::Kill => Ok(Reply::Done),
            What::Delete => self.deleted(call),
            What::Other(then) => {
                // One that has ended meanwhile stays so.
                if let (Some(phase), Ok(at)) = (then, self.find(&call.process))
                    && self.processes[at].is_alive()
                {
                    self.processes[at].phase = phase;
                }
                Ok(Reply::Output(call.printed.clone()))
            }
        }
    }

    fn complaint(&self, call: &Call, exit: Exit, complained: &[u8]) -> Refusal {
        if call.timed_out {
            return Refusal::new(Code::TimedOut, "the runtime took too long and was killed");
        }
        let text = self
            .known(&call.process.container)
            .map(|known| known.container.runtime.complaint(complained, call.said_before));
        let text = text.filter(|text| !text.is_empty()).unwrap_or_else(|| format!("the runtime ended with {exit}"));
        // Phrases of runc that engines wait for when they kill what may be gone.
        const GONE: [&str; 4] =
            ["process already finished", "container not running", "no such process", "does not exist"];
        let gone = matches!(call.what, What::Kill | What::Delete) && GONE.iter().any(|phrase| text.contains(phrase));
        Refusal::new(if gone { Code::NotFound } else { Code::Runtime }, text)
    }

    fn failed(&mut self, call: &Call, refusal: Refusal) -> Result<Reply> {
        match call.what {
            What::Create => {
                // Nobody knows of it any more; what a runtime left behind is the caller's to delete.
                if let Ok(at) = self.find(&call.process) {
                    self.remove(at);
                }
            }
            What::Exec => {
                if let Ok(at) = self.find(&call.process) {
                    self.never_ran(at, &refusal);
                }
            }
            // Gone already is as deleted as it can be.
            What::Delete if refusal.code == Code::NotFound => return self.deleted(call),
            _ => {}
        }
        Err(refusal)
    }

    /// An exec could not be started, and cannot be tried again: its stdio is used up.
    pub(super) fn never_ran(&mut self, at: usize, refusal: &Refusal) {
        let process = &mut self.processes[at];
        process.phase = Phase::Stopped;
        process.streams = None;
        process.console = None;
        process.ending = Ending::Told;
        for token in std::mem::take(&mut process.waiters) {
            self.finish(token, Err(refusal.clone()));
        }
    }

    /// The runtime has made a process, and has written its id down.
    fn made(&mut self, call: &Call) -> Result<Reply> {
        let at = self.find(&call.process)?;
        let file = &self.processes[at].new.pid_file;
        let text = fd::read_small(fd::CWD, file)?;
        let pid: i32 = std::str::from_utf8(&text)
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .filter(|&pid| pid > 0)
            .ok_or_else(|| Refusal::new(Code::Runtime, format!("no process id in {file:?}")))?;
        // It is a child of ours and not reaped, so the id is still its own.
        let pidfd = process::open_pid(pid)?;
        self.own(at, pid, pidfd)?;
        let id = call.process.clone();
        if call.what == What::Exec {
            self.processes[at].phase = Phase::Running;
            self.end_late_comer(at);
            self.events.push_back(Event::Started { process: id, pid });
            return Ok(Reply::Pid(pid));
        }
        self.watch_memory(&id.container, pid);
        self.processes[at].phase = Phase::Created;
        self.events.push_back(Event::Created { process: id.clone(), pid });
        if self.processes[at].new.verb == "restore" {
            self.processes[at].phase = Phase::Running;
            self.events.push_back(Event::Started { process: id, pid });
        }
        Ok(Reply::Pid(pid))
    }

    /// Takes over a process that a shim made that has died. Its pidfd must have been compared
    /// with what the runtime says of it. `phase` is what the runtime says, too.
    pub fn adopt(&mut self, new: super::NewProcess, pid: i32, pidfd: OwnedFd, phase: Phase) -> Result<()> {
        let id = new.id.clone();
        self.add(new)?;
        let at = self.find(&id)?;
        let process = &mut self.processes[at];
        let terminal = process.new.stdio.terminal;
        let stdio = std::mem::replace(&mut process.new.stdio, Stdio { terminal, ..Stdio::default() });
        // The ends for the process are closed again: it has its own.
        let (mut streams, _) = Streams::open(stdio, process.serial, &self.poll)?;
        streams.runtime_done(false, &self.poll, &mut self.scratch);
        process.streams = Some(streams);
        process.phase = phase;
        self.own(at, pid, pidfd)?;
        self.watch_memory(&id.container, pid);
        Ok(())
    }

    /// Watches a process from now on.
    pub(super) fn own(&mut self, at: usize, pid: i32, pidfd: OwnedFd) -> Result<()> {
        let process = &mut self.processes[at];
        process.child = process::is_child(pidfd.as_fd());
        if let Err(failed) = self.poll.watch(&pidfd, key(Kind::Process, process.serial, 0), Interest::Read) {
            // An exec that nobody supervises. A container is deleted by whoever asked for it.
            if process.child && !process.is_init() {
                let _ = process::send_signal(pidfd.as_fd(), libc::SIGKILL);
            }
            return Err(failed.into());
        }
        process.pid = pid;
        process.pidfd = Some(pidfd);
        Ok(())
    }

    fn started(&mut self, id: &ProcessId) -> Result<Reply> {
        let at = self.find(id)?;
        let process = &mut self.processes[at];
        process.phase = Phase::Running;
        self.events.push_back(Event::Started { process: id.clone(), pid: process.pid });
        Ok(Reply::Pid(process.pid))
    }

    pub(super) fn kill(&mut self, id: &ProcessId, signal: i32, all: bool) -> Result<Reply> {
        let at = self.find(id)?;
        let process = &self.processes[at];
        let finished = || Refusal::new(Code::NotFound, "process already finished");
        if process.is_init() && (all || process.is_alive()) {
            let mut words: Vec<OsString> = vec!["kill".into()];
            if all {
                words.push("--all".into());
            }
            return self.call_kill(id, words, signal);
        }
        if !process.is_alive() || process.phase == Phase::Stopped {
            return Err(finished());
        }
        let Some(pidfd) = &process.pidfd else {
            return Err(Refusal::new(Code::WrongPhase, "the process is not started"));
        };
        match process::send_signal(pidfd.as_fd(), signal) {
            Ok(()) => Ok(Reply::Done),
            Err(failed) if failed.errno == nix::errno::Errno::ESRCH => Err(finished()),
            Err(failed) => Err(failed.into()),
        }
    }

    /// Sends a signal at once and past the runtime: to the process itself, with `group` to its
    /// whole process group; or to the runtime while that is making it.
    pub fn signal(&self, id: &ProcessId, signal: i32, group: bool) -> Result<()> {
        let process = &self.processes[self.find(id)?];
        let Some(pidfd) = &process.pidfd else {
            let call = self.calls.iter().find(|call| call.process == *id);
            let call = call.ok_or_else(|| Refusal::new(Code::NotFound, "no such process"))?;
            return Ok(process::send_signal(call.child.pidfd.as_fd(), signal)?);
        };
        // It is not reaped, so its id is its own; a group that is ours too is not its alone.
        match group.then(|| process::group_of(process.pid)).flatten() {
            Some(group) => Ok(process::signal_group(group, signal)?),
            None => Ok(process::send_signal(pidfd.as_fd(), signal)?),
        }
    }

    /// From now on the process's end is told as this, however it ends: the front end ends it for a
    /// reason of its own.
    pub fn report_as(&mut self, id: &ProcessId, exit: Exit) {
        if let Ok(at) = self.find(id) {
            self.processes[at].instead = Some(exit);
        }
    }

    /// `R kill [--all] ID SIGNAL`: the id is not the last word here.
    fn call_kill(&mut self, id: &ProcessId, mut words: Vec<OsString>, signal: i32) -> Result<Reply> {
        let known = self.known(&id.container).ok_or_else(|| not_found(&id.container))?;
        words.push((*id.container).into());
        let mut all = known.container.runtime.global.clone();
        all.extend(words);
        all.push(signal.to_string().into());
        let token = self.next_token();
        self.waiting.push(Waiting { what: What::Kill, process: id.clone(), words: all, token });
        self.next_calls();
        Ok(Reply::Pending(token))
    }

    /// Kills an exec that has joined after what init left behind was killed.
    fn end_late_comer(&self, at: usize) {
        let process = &self.processes[at];
        let container = &process.new.id.container;
        let alone = self.known(container).is_some_and(|known| known.container.kill_on_exit)
            && self.find(&ProcessId::init(container)).is_ok_and(|init| !self.processes[init].is_alive());
        if let (true, Some(pidfd)) = (alone, &process.pidfd) {
            // One that has ended by itself is as good.
            let _ = process::send_signal(pidfd.as_fd(), libc::SIGKILL);
        }
    }

    /// Kills what init leaves behind in a PID namespace that is not its own.
    pub(super) fn kill_the_rest(&mut self, id: &ProcessId) {
        let Some(known) = self.known(&id.container).filter(|known| known.container.kill_on_exit) else { return };
        let mut words = known.container.runtime.global.clone();
        words.extend(["kill".into(), "--all".into(), (*id.container).into(), "9".into()]);
        self.waiting.push(Waiting { what: What::Kill, process: id.clone(), words, token: NOBODY });
        self.next_calls();
    }

    pub(super) fn delete(&mut self, id: &ProcessId, force: bool) -> Result<Reply> {
        let at = self.find(id)?;
        let process = &self.processes[at];
        let made = process.pid != 0;
        if !process.is_init() {
            let starting = self.calls.iter().any(|call| call.process == *id);
            if starting || (made && !process.is_told()) {
                return Err(Refusal::new(Code::WrongPhase, "cannot delete a running process"));
            }
            let token = self.next_token();
            return Ok(if self.is_being_read(at, &[token]) { Reply::Pending(token) } else { self.forget(id) });
        }
        let ended = !made || process.is_told();
        if !(ended || force || process.phase == Phase::Created) {
            return Err(Refusal::new(Code::WrongPhase, "cannot delete a running container"));
        }
        let mut words: Vec<OsString> = vec!["delete".into()];
        if !ended || force {
            words.push("--force".into());
        }
        self.call_verb(id, What::Delete, &words)
    }

    /// Whether a reader is about to take the output of a process that is being deleted. Then the deletion is
    /// answered when the reader has it, or at the latest after the time for draining.
    pub(super) fn is_being_read(&mut self, at: usize, tokens: &[WaitToken]) -> bool {
        let drain = self.known(&self.processes[at].new.id.container).map(|known| known.container.drain);
        let process = &mut self.processes[at];
        if !process.is_wanted() {
            return false;
        }
        process.read_until.get_or_insert(Instant::now() + drain.unwrap_or_default());
        process.deleting.extend(tokens);
        true
    }

    /// Forgets the processes whose reader has got everything, or took too long.
    pub(super) fn readers_due(&mut self, now: Instant) {
        let over = |process: &mut Process| process.read_until.is_some_and(|until| until <= now || !process.is_wanted());
        while let Some(at) = self.processes.iter_mut().position(over) {
            let process = &mut self.processes[at];
            let (id, tokens) = (process.new.id.clone(), std::mem::take(&mut process.deleting));
            let reply = self.forget(&id);
            tokens.into_iter().for_each(|token| self.finish(token, Ok(reply.clone())));
        }
    }

    fn deleted(&mut self, call: &Call) -> Result<Reply> {
        let at = self.find(&call.process)?;
        let process = &mut self.processes[at];
        if process.is_pending() {
            // It was killed just now: its end comes first.
            process.deleting.push(call.token);
            return Ok(Reply::Pending(call.token));
        }
        if self.is_being_read(at, &[call.token]) {
            return Ok(Reply::Pending(call.token));
        }
        Ok(self.forget(&call.process))
    }

    /// Forgets a process, and with init its container.
    pub(super) fn forget(&mut self, id: &ProcessId) -> Reply {
        let Ok(at) = self.find(id) else { return Reply::Deleted { pid: 0, status: None } };
        let mut process = self.remove(at);
        if let Some(streams) = &mut process.streams {
            streams.finish();
        }
        let _ = std::fs::remove_file(&process.new.pid_file);
        if id.exec.is_none() {
            self.close(&id.container);
        }
        Reply::Deleted { pid: process.pid, status: process.exit }
    }
}
