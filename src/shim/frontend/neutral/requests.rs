//! The operations that clients may request of the server.

use std::ffi::OsString;
use std::rc::Rc;

use serde_json::{Value, json};

use super::connection::{Connection, NextLine};
use super::front::{ClientRequest, NeutralFront, PendingRequest};
use super::wire::{self, PROTOCOL, WireRequest, answer, exit_members};
use crate::frontend::upgradable::{self, Mode};
use crate::refusal::{Refusal, Result};
use crate::{Code, ExitFile, Framing, Making, NewProcess, Phase, ProcessId, Ready, Reply, Request, Supervisor};
use windlass_sys::fd;

/// When and how a request is answered.
enum Response {
    /// Answered at once.
    Answer(Value),
    /// Answered when the core has answered.
    Later,
    /// Answered at once; then the connection carries the stdio of this process.
    Attach(ProcessId, Framing),
}

/// How many requests of one client are served in a turn of the loop.
const TURN: usize = 16;

impl NeutralFront {
    pub(super) fn client_ready(&mut self, key: u64, ready: Ready, core: &mut Supervisor) {
        if ready.write && self.connection(key).is_some_and(|connection| !connection.flush()) {
            return self.drop_client(key);
        }
        // Bounded, because a client may send requests without a pause, and others must be served.
        for _ in 0..TURN {
            let Some(connection) = self.connection(key).filter(|connection| !connection.closing) else { break };
            match connection.receive() {
                NextLine::Line(line) => self.line(key, &line, core),
                NextLine::Gone => return self.drop_client(key),
                NextLine::Nothing => break,
            }
        }
        if ready.hangup {
            return self.drop_client(key);
        }
        // epoll reports data in the socket again, but not lines that were already received.
        if self.connection(key).is_some_and(|connection| connection.has_line()) && !self.unserved.contains(&key) {
            self.unserved.push(key);
        }
        let closes = self.connection(key).is_some_and(|connection| connection.closing && connection.is_idle());
        if closes || self.is_over(key) {
            return self.drop_client(key);
        }
        if let Some(connection) = self.connection(key) {
            connection.watch(&core.poll);
        }
    }

    fn connection(&mut self, key: u64) -> Option<&mut Connection> {
        self.connections.iter_mut().find(|connection| connection.key == key)
    }

    fn drop_client(&mut self, key: u64) {
        self.connections.retain(|connection| connection.key != key);
    }

    fn send(&mut self, key: u64, line: &[u8]) {
        if self.connection(key).is_some_and(|connection| !connection.send(line)) {
            self.drop_client(key);
        }
    }

    fn line(&mut self, key: u64, line: &[u8], core: &mut Supervisor) {
        let request: WireRequest<'_> = match serde_json::from_slice(line) {
            Ok(request) => request,
            Err(error) => {
                self.send(key, &answer(0, Err(Refusal::new(Code::Invalid, format!("malformed: {error}")))));
                if let Some(connection) = self.connection(key) {
                    connection.closing = true;
                }
                return;
            }
        };
        let seq = request.seq;
        match self.serve(key, &request, core) {
            Ok(Response::Answer(value)) => self.send(key, &answer(seq, Ok(value))),
            Ok(Response::Later) => {}
            Ok(Response::Attach(process, framing)) => self.hand_over(key, seq, &process, framing, core),
            Err(refusal) => self.send(key, &answer(seq, Err(refusal))),
        }
    }

    fn serve(&mut self, key: u64, line: &WireRequest<'_>, core: &mut Supervisor) -> Result<Response> {
        let process = self.exec(line.exec.as_deref());
        let plain = |request| (request, ClientRequest::Plain);
        let (request, what) = match line.op {
            "hello" => {
                let mut description = upgradable::describe(Mode::Neutral, core);
                description["v"] = PROTOCOL.into();
                description["id"] = self.config.id.as_str().into();
                return Ok(Response::Answer(description));
            }
            "status" => return self.status(core).map(Response::Answer),
            "subscribe" => {
                let cursor = self.event_log.cursor(line.from);
                if let Some(connection) = self.connection(key) {
                    connection.cursor = Some(cursor);
                }
                return Ok(Response::Answer(json!({"last": self.event_log.last()})));
            }
            "ack" => {
                let event = line.event.ok_or_else(|| Refusal::new(Code::Invalid, "ack needs an event"))?;
                self.event_log.acknowledge(event);
                return Ok(Response::Answer(json!({"acknowledged": self.event_log.acknowledged()})));
            }
            "upgrade" => {
                let passed = self.connection(key).and_then(|connection| connection.passed.take());
                let reply = upgradable::request_upgrade(passed, core);
                self.remember(reply, PendingRequest::Client { key, seq: line.seq, what: ClientRequest::Plain }, core)?;
                return Ok(Response::Later);
            }
            "attach" => return Ok(Response::Attach(process, framing(line))),
            "exec" => return self.start_exec(key, line, core),
            "shutdown" => return self.shut_down(core),
            "start" => plain(Request::Start(process)),
            "kill" => {
                let signal = line.signal.as_ref().map_or(Ok(libc::SIGTERM), wire::Signal::number)?;
                plain(Request::Kill { process, signal, all: line.all })
            }
            "resize" => plain(Request::Resize { process, rows: line.rows, columns: line.columns }),
            "close-stdin" => plain(Request::CloseStdin(process)),
            "reopen-logs" => plain(Request::ReopenLogs(process)),
            "pause" | "resume" => {
                let then = if line.op == "pause" { Phase::Paused } else { Phase::Running };
                plain(Request::Call { container: process.container, arguments: vec![line.op.into()], then: Some(then) })
            }
            "checkpoint" => {
                let images = line.image_path.clone();
                let arguments = checkpoint(line)?;
                let request = Request::Call { container: process.container, arguments, then: None };
                (request, ClientRequest::Checkpoint { images })
            }
            "wait" => {
                self.refuse_failed(&process)?;
                let exec = process.exec.clone();
                (Request::Wait(process), ClientRequest::Wait { exec })
            }
            "delete" => return self.delete(key, line, process, core),
            other => return Err(Refusal::new(Code::Invalid, format!("there is no operation {other:?}"))),
        };
        self.request(core, request, PendingRequest::Client { key, seq: line.seq, what })?;
        Ok(Response::Later)
    }

    /// Refuses to wait for an exec that could not be started.
    fn refuse_failed(&self, process: &ProcessId) -> Result<()> {
        match self.failed.iter().find(|(exec, _)| process.exec.as_ref() == Some(exec)) {
            Some((_, refusal)) => Err(refusal.clone()),
            None => Ok(()),
        }
    }

    fn status(&self, core: &Supervisor) -> Result<Value> {
        let state = core.state(&self.init());
        let execs: Vec<Value> = core
            .processes(&self.config.id)
            .iter()
            .filter_map(|id| Some((id.exec.as_deref()?, core.state(id)?)))
            .map(|(exec, state)| {
                let ended = state.exit.as_ref().map(exit_members);
                json!({"exec": exec, "pid": state.pid, "state": wire::phase_name(state.phase), "exit": ended})
            })
            .collect();
        let exit = state.as_ref().and_then(|state| state.exit);
        Ok(json!({
            "id": self.config.id,
            "state": state.as_ref().map_or("stopped", |state| wire::phase_name(state.phase)),
            "pid": state.as_ref().map_or(0, |state| state.pid),
            "shim_pid": std::process::id(),
            "exit": exit.as_ref().map(exit_members),
            "bundle": self.config.bundle,
            "tty": self.config.tty,
            "logs": self.config.logs,
            "dropped_bytes": state.as_ref().map_or(0, |state| state.dropped),
            "unsent_bytes": state.as_ref().map_or(0, |state| state.unsent),
            "execs": execs,
            "last_event": self.event_log.last(),
            "acknowledged": self.event_log.acknowledged(),
            "adopted": self.adopted,
        }))
    }

    fn start_exec(&mut self, key: u64, line: &WireRequest<'_>, core: &mut Supervisor) -> Result<Response> {
        let invalid = |text: &str| Refusal::new(Code::Invalid, text.to_string());
        let document = line.process.ok_or_else(|| invalid("exec needs a process"))?;
        let exec: Rc<str> = match line.exec.as_deref() {
            Some(exec) => {
                windlass_base::id::check_id(exec).map_err(|_| invalid("an exec's id is like a container's"))?;
                if exec.len() > 128 {
                    return Err(invalid("an exec's id is at most 128 bytes long"));
                }
                exec.into()
            }
            None => {
                self.execs += 1;
                format!("exec-{}", self.execs).into()
            }
        };
        let id = ProcessId { container: self.init().container, exec: Some(exec.clone()) };
        if self.failed.iter().any(|(failed, _)| *failed == exec) {
            return Err(Refusal::new(Code::AlreadyExists, format!("exec {exec} is to be deleted first")));
        }
        let logs = line.log.iter().filter_map(|text| super::container_dir::log(text, &self.config.id).transpose());
        let logs = logs.collect::<Result<Vec<_>>>()?;
        let process_file = self.dir.exec_path(&exec, "process.json");
        let exit_file = self.dir.exec_file(&exec, "exit.json");
        // The shim of before may have recorded the end of another exec of this name.
        if self.adopted && core.state(&id).is_none() {
            fd::unlink_if_exists(fd::CWD, &exit_file)?;
        }
        core.request(Request::AddExec(NewProcess {
            id: id.clone(),
            stdio: self.stdio(line.tty, line.stdin, logs, &exec),
            pid_file: self.dir.exec_path(&exec, "pid"),
            process_file: Some(process_file.clone()),
            making: Making::Exec,
            arguments: if line.tty { vec!["--tty".into()] } else { Vec::new() },
            preserve_fds: Vec::new(),
            exit_files: vec![ExitFile::Record(exit_file)],
        }))?;
        let what = ClientRequest::Exec { exec: exec.clone(), attached: line.attach };
        let purpose = PendingRequest::Client { key, seq: line.seq, what };
        let started = fd::replace(fd::CWD, &process_file, 0o600, document.get().as_bytes(), fd::Durability::Cached)
            .map_err(Refusal::from)
            .and_then(|()| self.request(core, Request::Start(id.clone()), purpose));
        if let Err(refusal) = started {
            self.forget_exec(&id, core);
            return Err(refusal);
        }
        Ok(if line.attach { Response::Attach(id, framing(line)) } else { Response::Later })
    }

    fn forget_exec(&mut self, id: &ProcessId, core: &mut Supervisor) {
        let _ = core.request(Request::Delete { process: id.clone(), force: false });
        if let Some(exec) = &id.exec {
            let _ = fd::unlinkat(fd::CWD, self.dir.exec_file(exec, "exit.json"));
            let _ = fd::unlinkat(fd::CWD, self.dir.exec_file(exec, "process.json"));
        }
    }

    /// Answers, and gives the socket to the core.
    fn hand_over(&mut self, key: u64, seq: u64, process: &ProcessId, framing: Framing, core: &mut Supervisor) {
        let Some(has_more) = self.connection(key).map(|connection| connection.has_more()) else { return };
        let refusal = match core.state(process) {
            None => Some(Refusal::new(Code::NotFound, format!("{:?} does not exist", process.exec))),
            Some(state) if state.phase == Phase::Stopped => Some(Refusal::new(Code::WrongPhase, "it has ended")),
            _ if has_more => Some(Refusal::new(Code::Invalid, "nothing may follow an attach before its answer")),
            _ => None,
        };
        if let Some(refusal) = refusal {
            return self.send(key, &answer(seq, Err(refusal)));
        }
        let mut taken = self.connections.extract_if(.., |connection| connection.key == key);
        let Some(mut connection) = taken.next() else { return };
        drop(taken);
        let value = json!({"exec": process.exec.as_deref(), "end": framing == Framing::Marked});
        // Only if all answers were sent: the client could not tell frames between them.
        if connection.send(&answer(seq, Ok(value))) && connection.is_idle() {
            // This fails only for want of memory. The client then reads the end of the connection.
            let _ = core.attach(process, connection.into_socket(&core.poll), framing);
        }
    }

    fn delete(
        &mut self,
        key: u64,
        line: &WireRequest<'_>,
        process: ProcessId,
        core: &mut Supervisor,
    ) -> Result<Response> {
        if process.exec.is_none() {
            let what = ClientRequest::Delete;
            let request = Request::Delete { process, force: line.force };
            self.request(core, request, PendingRequest::Client { key, seq: line.seq, what })?;
            return Ok(Response::Later);
        }
        if self.failed.extract_if(.., |(exec, _)| process.exec.as_ref() == Some(exec)).next().is_some() {
            return Ok(Response::Answer(json!({"pid": 0, "exit": null})));
        }
        let Reply::Deleted { pid, status } =
            core.request(Request::Delete { process: process.clone(), force: false })?
        else {
            return Err(Refusal::new(Code::WrongPhase, "the exec is being started"));
        };
        self.forget_exec(&process, core);
        self.record_deleted(&process);
        Ok(Response::Answer(json!({"pid": pid, "exit": status.as_ref().map(exit_members)})))
    }

    /// Ends the shim. A running container must have been created with --keep-on-shim-death.
    fn shut_down(&mut self, core: &Supervisor) -> Result<Response> {
        let alive = core.state(&self.init()).is_some_and(|state| state.phase != Phase::Stopped);
        if alive && !self.config.keep {
            return Err(Refusal::new(Code::WrongPhase, "the container has not ended, and would not outlive the shim"));
        }
        if alive && core.is_busy() {
            return Err(Refusal::new(Code::WrongPhase, "the runtime is at work"));
        }
        self.finish(0);
        Ok(Response::Answer(json!({})))
    }

    pub(super) fn answer_client(
        &mut self,
        key: u64,
        seq: u64,
        what: ClientRequest,
        result: Result<Reply>,
        core: &mut Supervisor,
    ) {
        let value = match (what, result) {
            (ClientRequest::Exec { exec, attached }, result) => {
                let _ = fd::unlinkat(fd::CWD, self.dir.exec_file(&exec, "process.json"));
                if let Err(refusal) = &result {
                    self.exec_failed(&exec, refusal, attached, core);
                }
                if attached {
                    return;
                }
                result.map(|reply| json!({"exec": &*exec, "pid": if let Reply::Pid(pid) = reply { pid } else { 0 }}))
            }
            (ClientRequest::Delete, Ok(Reply::Deleted { pid, status })) => {
                self.record_deleted(&self.init());
                let value = json!({"pid": pid, "exit": status.as_ref().map(exit_members)});
                self.dir.remove();
                self.send(key, &answer(seq, Ok(value)));
                return self.finish(0);
            }
            (ClientRequest::Checkpoint { images }, Ok(_)) => {
                self.record("checkpointed", Some(&self.init()), json!({"image_path": images}));
                Ok(json!({}))
            }
            (_, Ok(Reply::Pid(pid))) => Ok(json!({"pid": pid})),
            (_, Ok(Reply::Exited(status))) => Ok(exit_members(&status)),
            (_, Ok(_)) => Ok(json!({})),
            (_, Err(refusal)) => Err(refusal),
        };
        self.send(key, &answer(seq, value));
        if self.is_over(key) {
            self.drop_client(key);
        }
    }

    /// Whether the client has closed its side of a connection, and has all its answers.
    fn is_over(&self, key: u64) -> bool {
        let waits =
            |(_, of): &(_, PendingRequest)| matches!(of, PendingRequest::Client { key: client, .. } if *client == key);
        let connection = self.connections.iter().find(|connection| connection.key == key);
        connection.is_some_and(|it| it.half_closed && it.cursor.is_none() && it.is_idle())
            && !self.pending.iter().any(waits)
    }

    /// Answers the clients that wait for the exec with the reason. With `keep`, later requests about the exec get it
    /// too, because a client that was attached has already had its answer.
    fn exec_failed(&mut self, exec: &Rc<str>, refusal: &Refusal, keep: bool, core: &mut Supervisor) {
        let of_it = |purpose: &PendingRequest| match purpose {
            PendingRequest::Client { what: ClientRequest::Wait { exec: of }, .. } => of.as_ref() == Some(exec),
            _ => false,
        };
        let waiting: Vec<_> = self.pending.extract_if(.., |(_, purpose)| of_it(purpose)).collect();
        for (_, purpose) in waiting {
            if let PendingRequest::Client { key, seq, .. } = purpose {
                self.send(key, &answer(seq, Err(refusal.clone())));
            }
        }
        let id = self.exec(Some(exec));
        self.forget_exec(&id, core);
        if keep {
            self.failed.push((exec.clone(), refusal.clone()));
        }
    }
}

/// The frames that the client has asked for.
fn framing(line: &WireRequest<'_>) -> Framing {
    if line.end { Framing::Marked } else { Framing::Stream }
}

/// The runtime's `checkpoint` and its arguments, without the id.
fn checkpoint(line: &WireRequest<'_>) -> Result<Vec<OsString>> {
    if !line.image_path.starts_with('/') {
        return Err(Refusal::new(Code::Invalid, "checkpoint needs image_path, an absolute path"));
    }
    let mut words: Vec<OsString> = vec!["checkpoint".into(), "--image-path".into(), line.image_path.clone().into()];
    if !line.work_path.is_empty() {
        words.extend(["--work-path".into(), line.work_path.clone().into()]);
    }
    words.extend(line.leave_running.then(|| "--leave-running".into()));
    words.extend(line.arguments.iter().map(OsString::from));
    Ok(words)
}
