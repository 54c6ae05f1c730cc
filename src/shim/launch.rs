//! The supervisor runs the runtime: the calls that follow from requests, and the outcomes of calls.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::call::{Call, Operation, Planned};
use super::calls::{CallEnvironment, Descriptors};
use super::console::Console;
use super::key::{Kind, key};
use super::life::{self, Command, Parent};
use super::pipe::{captured, null};
use super::refusal::{Refusal, Result};
use super::streams::Streams;
use super::supervisor::Supervisor;
use super::{Code, Container, Interest, NewProcess, Phase, ProcessId, Reply, Stdio, WaitToken};
use windlass_sys::fd;
use windlass_sys::process::{self, Exit};

impl Supervisor {
    /// Carries out the command that a request has led to.
    pub(super) fn command(&mut self, serial: u32, command: Command) -> Result<Reply> {
        let managed = self
            .processes
            .get_mut(serial)
            .ok_or_else(|| Refusal::new(Code::NotFound, "the process was deleted meanwhile"))?;
        let id = managed.process.id.clone();
        match command {
            Command::Launch { stdin_closed } => {
                let launched = self.launch(serial, stdin_closed);
                if let (Err(refusal), Some(managed)) = (&launched, self.processes.get_mut(serial)) {
                    let effects = managed.process.not_launched(refusal);
                    self.carry_out(serial, effects);
                }
                launched.map(Reply::Pending)
            }
            Command::Start => self.plan(Operation::Start, &id, &["start".into()]),
            Command::Delete { force } => {
                let force = force.then(|| "--force".into());
                self.plan(Operation::Delete, &id, &std::iter::once("delete".into()).chain(force).collect::<Vec<_>>())
            }
            Command::Kill { signal, all } => {
                let token = self.next_token();
                self.plan_kill(&id, signal, all, token)
            }
            Command::Signal(signal) => {
                let pidfd = managed.pidfd.as_ref().ok_or_else(life::finished)?;
                match process::send_signal(pidfd.as_fd(), signal) {
                    Ok(()) => Ok(Reply::Done),
                    Err(failed) if failed.errno == nix::errno::Errno::ESRCH => Err(life::finished()),
                    Err(failed) => Err(failed.into()),
                }
            }
            Command::Forget => {
                if !managed.is_wanted() {
                    return self.forget(serial).ok_or_else(|| life::not_found(id.name()));
                }
                let token = self.next_token();
                if let Some(managed) = self.processes.get_mut(serial) {
                    managed.process.answer_when_forgotten(token);
                }
                self.forget_unless_read(serial);
                Ok(Reply::Pending(token))
            }
        }
    }

    /// Runs any verb of the runtime for a whole container.
    pub(super) fn call(
        &mut self,
        container: std::rc::Rc<str>,
        arguments: &[OsString],
        then: Option<Phase>,
    ) -> Result<Reply> {
        let operation = match arguments.first() {
            Some(verb) if verb == "checkpoint" => Operation::Checkpoint,
            _ => Operation::Other(then),
        };
        self.plan(operation, &ProcessId { container, exec: None }, arguments)
    }

    /// Plans a verb, which runs in its turn.
    fn plan(&mut self, operation: Operation, id: &ProcessId, verb: &[OsString]) -> Result<Reply> {
        let arguments = self.containers.find(&id.container)?.container.runtime.verb(verb, &id.container);
        let token = self.next_token();
        self.plan_call(operation, id, arguments, token)
    }

    /// Runs `kill [--all] ID SIGNAL`, where the id is not the last argument.
    pub(super) fn plan_kill(&mut self, id: &ProcessId, signal: i32, all: bool, token: WaitToken) -> Result<Reply> {
        let mut arguments = self.containers.find(&id.container)?.container.runtime.global.clone();
        arguments.push("kill".into());
        arguments.extend(all.then(|| "--all".into()));
        arguments.extend([(*id.container).into(), signal.to_string().into()]);
        self.plan_call(Operation::Kill, id, arguments, token)
    }

    fn plan_call(
        &mut self,
        operation: Operation,
        id: &ProcessId,
        arguments: Vec<OsString>,
        token: WaitToken,
    ) -> Result<Reply> {
        self.calls.plan(Planned { operation, process: id.clone(), arguments, token });
        self.next_calls();
        Ok(Reply::Pending(token))
    }

    /// Starts the calls whose turn it is.
    pub(super) fn next_calls(&mut self) {
        while let Some(planned) = self.calls.next() {
            if let Err(refusal) = self.start_captured(&planned) {
                self.answer(planned.token, Err(refusal));
            }
        }
    }

    /// Starts a call whose output the shim reads.
    fn start_captured(&mut self, planned: &Planned) -> Result<()> {
        let nothing = null()?;
        let (output, output_end) = captured()?;
        let (errors, errors_end) = captured()?;
        let stdio = [nothing.as_fd(), output_end.as_fd(), errors_end.as_fd()];
        self.start_call(planned, Descriptors { stdio, preserve: &[], output: Some(output), errors: Some(errors) })
    }

    fn start_call(&mut self, planned: &Planned, descriptors: Descriptors<'_>) -> Result<()> {
        let serial = self.next_serial();
        let container = &self.containers.find(&planned.process.container)?.container;
        let oom_score_adj = self.oom_score_adj.as_deref();
        let environment = CallEnvironment { oom_score_adj, listen_pid: self.listen_pid, poll: &self.poll };
        self.calls.start(serial, planned, descriptors, container, &environment)
    }

    /// Opens the stdio of a process and runs `create` or `exec` with it.
    fn launch(&mut self, serial: u32, stdin_closed: bool) -> Result<WaitToken> {
        let token = self.next_token();
        let gone = || Refusal::new(Code::NotFound, "the process was deleted meanwhile");
        let managed = self.processes.get_mut(serial).ok_or_else(gone)?;
        let id = managed.process.id.clone();
        let container = &self.containers.find(&id.container)?.container;
        let (streams, ends) = Streams::open(take_stdio(&mut managed.new), stdin_closed, serial, &self.poll)?;
        let (operation, mut arguments) = creating_call(container, &managed.new);
        if streams.terminal {
            let directory = managed.new.pid_file.parent().unwrap_or(&container.bundle);
            let console = Console::listen(directory, serial)?;
            self.poll.watch(console.fd(), key(Kind::Console, serial, 0), Interest::Read)?;
            arguments.extend(["--console-socket".into(), console.path().into()]);
            managed.console = Some(console);
        }
        arguments.push((*id.container).into());
        managed.streams = Some(streams);
        let preserve = std::mem::take(&mut managed.new.preserve_fds);
        // A stale file must not be taken for the one that this call writes.
        let _ = std::fs::remove_file(&managed.new.pid_file);
        let stdio: [BorrowedFd<'_>; 3] = ends.each_ref().map(|end| end.as_fd());
        let planned = Planned { operation, process: id, arguments, token };
        self.start_call(&planned, Descriptors { stdio, preserve: &preserve, output: None, errors: None })?;
        Ok(token)
    }

    /// Checks whether the runtime has sent the terminal.
    pub(super) fn console_ready(&mut self, serial: u32) {
        let Some(managed) = self.processes.get_mut(serial) else { return };
        let Some(console) = &mut managed.console else { return };
        let Ok(Some(master)) = console.receive(&self.poll, key(Kind::Console, serial, 0)) else { return };
        managed.console = None;
        if let Some(streams) = &mut managed.streams {
            // A terminal that cannot be watched has no output. The end of the call reports more.
            let _ = streams.console(master, &self.poll);
        }
    }

    /// Checks whether a call has ended.
    pub(super) fn call_ready(&mut self, serial: u32) {
        let Some((call, exit)) = self.calls.ended(serial) else { return };
        let result = self.complete(&call, exit);
        // A deletion is answered later, when the process is forgotten.
        if !matches!(result, Ok(Reply::Pending(_))) {
            self.answer(call.token, result);
        }
        self.report_ends_in_order(&call.process.container);
        self.next_calls();
    }

    fn complete(&mut self, call: &Call, exit: Exit) -> Result<Reply> {
        let failed = exit != Exit::Code(0);
        let stderr = match call.operation {
            Operation::Create | Operation::Exec => self.runtime_done(&call.process, failed),
            _ => None,
        };
        if failed {
            let stderr = stderr.as_ref().unwrap_or(&call.stderr);
            let runtime = self.containers.get(&call.process.container).map(|container| &container.container.runtime);
            let refusal = call.refusal(exit, stderr, runtime);
            return self.failed(call, refusal);
        }
        match call.operation {
            Operation::Create | Operation::Exec => {
                self.made(&call.process).or_else(|refusal| self.failed(call, refusal))
            }
            Operation::Start => {
                let managed = self.processes.find_mut(&call.process)?;
                let serial = managed.serial;
                // The runtime sends the terminal of a held container only at its start.
                self.console_ready(serial);
                let managed = self.processes.find_mut(&call.process)?;
                managed.console = None;
                let (serial, pid, effects) = (managed.serial, managed.process.pid(), managed.process.started());
                self.carry_out(serial, effects);
                Ok(Reply::Pid(pid))
            }
            Operation::Kill | Operation::Checkpoint => Ok(Reply::Done),
            Operation::Delete => self.deleted(call),
            Operation::Other(then) => {
                if let (Some(phase), Ok(managed)) = (then, self.processes.find_mut(&call.process)) {
                    managed.process.set_phase(phase);
                }
                Ok(Reply::Output(call.stdout.clone()))
            }
        }
    }

    /// Ends the call that makes a process. If it has `failed`, returns its messages on the process's standard error.
    fn runtime_done(&mut self, id: &ProcessId, failed: bool) -> Option<Vec<u8>> {
        let serial = self.processes.serial(id)?;
        self.console_ready(serial);
        let managed = self.processes.get_mut(serial)?;
        if failed || !managed.new.is_held() {
            managed.console = None;
        }
        managed.streams.as_mut().map(|streams| streams.runtime_done(failed, &self.poll, &mut self.scratch))
    }

    fn failed(&mut self, call: &Call, refusal: Refusal) -> Result<Reply> {
        match call.operation {
            // The remains of a failed create are deleted by the engine that asked for the container.
            Operation::Create | Operation::Exec => {
                if let Ok(managed) = self.processes.find_mut(&call.process) {
                    let (serial, effects) = (managed.serial, managed.process.not_made(&refusal));
                    self.carry_out(serial, effects);
                }
            }
            // The runtime does not know the container any more, so it is deleted.
            Operation::Delete if refusal.code == Code::NotFound => return self.deleted(call),
            _ => {}
        }
        Err(refusal)
    }

    fn deleted(&mut self, call: &Call) -> Result<Reply> {
        let managed = self.processes.find_mut(&call.process)?;
        let (serial, effects) = (managed.serial, managed.process.deleted(call.token));
        self.carry_out(serial, effects);
        Ok(Reply::Pending(call.token))
    }

    /// Takes over a process that the runtime has made, whose id is in the file.
    fn made(&mut self, id: &ProcessId) -> Result<Reply> {
        let managed = self.processes.find(id)?;
        let (serial, file, runs) = (managed.serial, &managed.new.pid_file, managed.new.runs_when_made());
        let pid = read_pid(file)?;
        // The process is a child of the shim and not reaped, so the id is still its own.
        let parent = self.own(serial, pid, process::open_pid(pid)?)?;
        let unwanted = match (id.is_init(), self.containers.get_mut(&id.container)) {
            (_, None) => false,
            (true, Some(container)) => {
                container.watch_memory(pid, &self.poll);
                false
            }
            (false, Some(container)) => {
                container.container.kill_on_exit && self.processes.has_init_ended(&id.container)
            }
        };
        if let Some(managed) = self.processes.get_mut(serial) {
            let effects = managed.process.made(pid, parent, runs, unwanted);
            self.carry_out(serial, effects);
        }
        Ok(Reply::Pid(pid))
    }

    /// Takes over a process whose shim has died. The caller must have compared the pidfd with the runtime's answer
    /// about the container. `phase` is from that answer.
    pub fn adopt(&mut self, new: NewProcess, pid: i32, pidfd: OwnedFd, phase: Phase) -> Result<()> {
        let id = new.id.clone();
        self.add(new)?;
        let managed = self.processes.find_mut(&id)?;
        let serial = managed.serial;
        // The ends for the process are closed again, because the process has its own.
        let (mut streams, _) = Streams::open(take_stdio(&mut managed.new), false, serial, &self.poll)?;
        streams.runtime_done(false, &self.poll, &mut self.scratch);
        managed.streams = Some(streams);
        let parent = self.own(serial, pid, pidfd)?;
        self.processes.find_mut(&id)?.process.adopted(pid, parent, phase);
        if let Some(container) = self.containers.get_mut(&id.container) {
            container.watch_memory(pid, &self.poll);
        }
        Ok(())
    }

    /// Watches a process from now on. Returns its parent.
    fn own(&mut self, serial: u32, pid: i32, pidfd: OwnedFd) -> Result<Parent> {
        let managed = self.processes.get_mut(serial).ok_or_else(|| life::not_found(&pid.to_string()))?;
        let parent = if process::is_child(pidfd.as_fd()) { Parent::Shim } else { Parent::Other };
        if let Err(failed) = self.poll.watch(&pidfd, key(Kind::Process, serial, 0), Interest::Read) {
            // An exec that cannot be supervised is ended. A container is deleted by the engine that asked for it.
            if parent == Parent::Shim && !managed.process.id.is_init() {
                let _ = process::send_signal(pidfd.as_fd(), libc::SIGKILL);
            }
            return Err(failed.into());
        }
        managed.pidfd = Some(pidfd);
        Ok(parent)
    }
}

/// Takes the stdio out of a description, except for whether it is a terminal.
fn take_stdio(new: &mut NewProcess) -> Stdio {
    let emptied = Stdio { terminal: new.stdio.terminal, ..Stdio::default() };
    std::mem::replace(&mut new.stdio, emptied)
}

/// The call that makes a process, and its arguments without the console socket and the id.
fn creating_call(container: &Container, new: &NewProcess) -> (Operation, Vec<OsString>) {
    match new.id.is_init() {
        true => (Operation::Create, container.runtime.create(&container.bundle, new)),
        false => (Operation::Exec, container.runtime.exec(new)),
    }
}

/// The process id that the runtime has written to a file.
fn read_pid(file: &std::path::Path) -> Result<i32> {
    let text = fd::read_small(fd::CWD, file)?;
    let pid = std::str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok()).filter(|&pid| pid > 0);
    pid.ok_or_else(|| Refusal::new(Code::Runtime, format!("no process id in {file:?}")))
}
