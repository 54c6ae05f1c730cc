//! The task service: a method's message becomes a request to the supervisor, and its reply a message.

use std::ffi::OsString;

use super::answer::{Answer, Outcome, done, now, refused};
use super::connections::Caller;
use super::message::Any;
use super::message::event::{TaskCheckpointed, TaskNamed, Topic};
use super::message::options;
use super::message::task::{
    Checkpoint, CloseIo, Connected, Create, Exec, Exited, Kill, Name, Pid, Pids, ProcessDetails, ProcessInfo,
    ResizePty, State, Stats, Update, status,
};
use super::pending::{Continuation, RuntimeVerb};
use super::server::Server;
use super::stats;
use super::ttrpc::{self, code};
use crate::{Phase, ProcessId, Refusal, Reply, Request, Supervisor};
use windlass_base::protobuf::Message;
use windlass_sys::clock;
use windlass_sys::fd::Durability;

/// The names of the service: version 3 is version 2 under another name.
const SERVICES: [&str; 2] = ["containerd.task.v2.Task", "containerd.task.v3.Task"];

impl Server {
    /// Handles a call of a client.
    pub(super) fn call(&mut self, core: &mut Supervisor, caller: Caller, request: &ttrpc::Request) -> Outcome {
        if !SERVICES.contains(&request.service.as_str()) {
            return Err(refused(code::UNIMPLEMENTED, format!("service {:?} is not implemented", request.service)));
        }
        let payload = &request.payload[..];
        match request.method.as_str() {
            "Create" => self.create(core, caller, Create::decode(payload)?),
            "Start" => self.start(core, caller, &Name::decode(payload)?),
            "Delete" => self.delete(core, caller, &Name::decode(payload)?),
            "State" => self.state(core, Name::decode(payload)?),
            "Wait" => {
                let process = self.tasks.process(&Name::decode(payload)?)?;
                let asked = core.request(Request::Wait(process));
                self.answer_or_note(core, caller, Continuation::Wait, asked)
            }
            "Exec" => self.exec(core, caller, Exec::decode(payload)?),
            "Kill" => self.kill(core, caller, Kill::decode(payload)?),
            "Pids" => self.pids(core, &Name::decode(payload)?),
            "Pause" => self.pause(core, caller, Name::decode(payload)?, true),
            "Resume" => self.pause(core, caller, Name::decode(payload)?, false),
            "ResizePty" => self.resize(core, ResizePty::decode(payload)?),
            "CloseIO" => self.close_io(core, CloseIo::decode(payload)?),
            "Update" => self.update(core, caller, Update::decode(payload)?),
            "Checkpoint" => self.checkpoint(core, caller, Checkpoint::decode(payload)?),
            "Stats" => self.stats(core, &Name::decode(payload)?),
            "Connect" => connect(core, &Name::decode(payload)?),
            "Shutdown" => {
                if self.tasks.is_empty() {
                    self.lifetime.leave(clock::now());
                }
                done()
            }
            other => Err(refused(code::UNIMPLEMENTED, format!("method {other:?} is not implemented"))),
        }
    }

    /// Notes that the caller waits for a later reply, or handles a reply that has come at once.
    fn answer_or_note(
        &mut self,
        core: &mut Supervisor,
        caller: Caller,
        then: Continuation,
        asked: Result<Reply, Refusal>,
    ) -> Outcome {
        match self.pending.note(caller, then, asked) {
            None => Ok(Answer::Later),
            Some((then, reply)) => self.finished(core, caller, then, reply),
        }
    }

    /// Handles a reply of the supervisor.
    pub(super) fn finished(
        &mut self,
        core: &mut Supervisor,
        caller: Caller,
        then: Continuation,
        result: Result<Reply, Refusal>,
    ) -> Outcome {
        let result = result.map_err(|refusal| then.refused(refusal));
        match then {
            Continuation::Create(id) => self.create_done(core, caller, &id, result),
            Continuation::Start(id) => {
                if let (Some(exec), Ok(task)) = (&id.exec, self.tasks.find(&id.container)) {
                    let _ = std::fs::remove_file(task.process_file(exec));
                }
                match result? {
                    Reply::Pid(pid) => now(&Pid { pid: pid as u32 }),
                    _ => done(),
                }
            }
            Continuation::Wait => match result? {
                Reply::Exited(status) => {
                    now(&Exited { exit_status: status.code() as u32, exited_at: Some(status.at.into()) })
                }
                _ => done(),
            },
            Continuation::Delete(id) => match result? {
                Reply::Deleted { pid, status } => self.deleted(core, caller, &id, pid, status),
                _ => done(),
            },
            Continuation::Verb { event, file, .. } => {
                if let Some(file) = file {
                    let _ = std::fs::remove_file(file);
                }
                result?;
                if let Some(event) = event {
                    self.outbox.push(event, &core.poll);
                }
                done()
            }
            Continuation::Checkpoint { event, .. } => {
                result?;
                self.outbox.push(event, &core.poll);
                done()
            }
        }
    }

    fn resize(&self, core: &mut Supervisor, request: ResizePty) -> Outcome {
        let ResizePty { id, exec_id, width, height } = request;
        let process = self.tasks.process(&Name { id, exec_id })?;
        let (rows, columns) = (u16::try_from(height), u16::try_from(width));
        let (Ok(rows), Ok(columns)) = (rows, columns) else {
            return Err(refused(code::INVALID_ARGUMENT, format!("a terminal of {width}x{height}")));
        };
        // Without a terminal there is nothing to set, and callers do not check first.
        if core.state(&process).is_none_or(|state| state.terminal) {
            core.request(Request::Resize { process, rows, columns })?;
        }
        done()
    }

    fn close_io(&self, core: &mut Supervisor, request: CloseIo) -> Outcome {
        let CloseIo { id, exec_id, stdin } = request;
        let process = self.tasks.process(&Name { id, exec_id })?;
        if stdin {
            core.request(Request::CloseStdin(process))?;
        }
        done()
    }

    fn start(&mut self, core: &mut Supervisor, caller: Caller, name: &Name) -> Outcome {
        let process = self.tasks.process(name)?;
        let asked = core.request(Request::Start(process.clone()));
        self.answer_or_note(core, caller, Continuation::Start(process), asked)
    }

    fn delete(&mut self, core: &mut Supervisor, caller: Caller, name: &Name) -> Outcome {
        let process = self.tasks.process(name)?;
        let asked = core.request(Request::Delete { process: process.clone(), force: false });
        self.answer_or_note(core, caller, Continuation::Delete(process), asked)
    }

    fn state(&self, core: &Supervisor, name: Name) -> Outcome {
        let process = self.tasks.process(&name)?;
        let task = self.tasks.find(&name.id)?;
        let io = task.io(&process).clone();
        let state = core.state(&process).ok_or_else(|| refused(code::NOT_FOUND, "the process does not exist"))?;
        let status = match state.phase {
            Phase::Added | Phase::Created => status::CREATED,
            Phase::Running => status::RUNNING,
            Phase::Paused => status::PAUSED,
            Phase::Stopped => status::STOPPED,
        };
        now(&State {
            id: name.id,
            bundle: task.bundle.to_string_lossy().into_owned(),
            pid: state.pid as u32,
            status,
            stdin: io.stdin,
            stdout: io.stdout,
            stderr: io.stderr,
            terminal: io.terminal,
            exit_status: state.exit.map_or(0, |exit| exit.code() as u32),
            exited_at: state.exit.map(|exit| exit.at.into()),
            exec_id: name.exec_id,
        })
    }

    fn kill(&mut self, core: &mut Supervisor, caller: Caller, request: Kill) -> Outcome {
        let process = self.tasks.process(&Name { id: request.id, exec_id: request.exec_id })?;
        let signal = i32::try_from(request.signal).unwrap_or(-1);
        let asked = core.request(Request::Kill { process, signal, all: request.all });
        let then = Continuation::Verb { verb: RuntimeVerb::Kill, event: None, file: None };
        self.answer_or_note(core, caller, then, asked)
    }

    fn pids(&self, core: &Supervisor, name: &Name) -> Outcome {
        self.tasks.find(&name.id)?;
        let processes = core.pids(&name.id)?.into_iter().map(|(pid, exec)| ProcessInfo {
            pid: pid as u32,
            info: exec.map(|exec| Any {
                type_url: "containerd.runc.v1.ProcessDetails".into(),
                value: ProcessDetails { exec_id: exec.as_ref().into() }.encode(),
            }),
        });
        now(&Pids { processes: processes.collect() })
    }

    /// Runs a verb of the runtime on a whole container.
    fn verb(
        &mut self,
        core: &mut Supervisor,
        caller: Caller,
        id: &str,
        (arguments, phase): (Vec<OsString>, Option<Phase>),
        then: Continuation,
    ) -> Outcome {
        let asked = core.request(Request::Call { container: id.into(), arguments, then: phase });
        self.answer_or_note(core, caller, then, asked)
    }

    fn pause(&mut self, core: &mut Supervisor, caller: Caller, name: Name, pause: bool) -> Outcome {
        self.tasks.find(&name.id)?;
        let (verb, word, topic, phase) = match pause {
            true => (RuntimeVerb::Pause, "pause", Topic::Paused, Phase::Paused),
            false => (RuntimeVerb::Resume, "resume", Topic::Resumed, Phase::Running),
        };
        let event = Some(topic.with(&TaskNamed { container_id: name.id.clone() }));
        let then = Continuation::Verb { verb, event, file: None };
        self.verb(core, caller, &name.id, (vec![word.into()], Some(phase)), then)
    }

    fn update(&mut self, core: &mut Supervisor, caller: Caller, request: Update) -> Outcome {
        let bundle = self.tasks.find(&request.id)?.bundle.clone();
        let resources = request.resources.map(|any| any.value).unwrap_or_default();
        let file = bundle.join(format!("update-{}.json", self.serials.next()));
        crate::exit::put(&file, &resources, Durability::Cached)?;
        let arguments = vec!["update".into(), "--resources".into(), file.clone().into_os_string()];
        let then = Continuation::Verb { verb: RuntimeVerb::Update, event: None, file: Some(file) };
        self.verb(core, caller, &request.id, (arguments, None), then)
    }

    fn checkpoint(&mut self, core: &mut Supervisor, caller: Caller, request: Checkpoint) -> Outcome {
        let bundle = self.tasks.find(&request.id)?.bundle.clone();
        let phase = core.state(&ProcessId::init(&request.id)).map(|init| init.phase);
        if matches!(phase, Some(Phase::Added | Phase::Created)) {
            return Err(refused(code::UNKNOWN, "cannot checkpoint a task in created state"));
        }
        let options = request.options.map(|any| options::Checkpoint::decode(&any.value)).transpose()?;
        let options = options.unwrap_or_default();
        let path = if request.path.is_empty() { options.image_path.clone() } else { request.path };
        let work = match options.work_path.as_str() {
            "" => bundle.join("criu-work"),
            path => path.into(),
        };
        let mut arguments: Vec<OsString> = vec!["checkpoint".into(), "--image-path".into(), path.clone().into()];
        let log = work.join("dump.log");
        arguments.extend(["--work-path".into(), work.into_os_string()]);
        if !options.parent_path.is_empty() {
            arguments.extend(["--parent-path".into(), options.parent_path.into()]);
        }
        for (wanted, word) in [
            (!options.exit, "--leave-running"),
            (options.open_tcp, "--tcp-established"),
            (options.external_unix_sockets, "--ext-unix-sk"),
            (options.terminal, "--shell-job"),
            (options.file_locks, "--file-locks"),
        ] {
            arguments.extend(wanted.then(|| OsString::from(word)));
        }
        options.empty_namespaces.iter().for_each(|kind| arguments.extend(["--empty-ns".into(), kind.into()]));
        if !options.cgroups_mode.is_empty() {
            arguments.extend(["--manage-cgroups-mode".into(), options.cgroups_mode.into()]);
        }
        let event = TaskCheckpointed { container_id: request.id.clone(), checkpoint: path };
        let event = Topic::Checkpointed.with(&event);
        let then = Continuation::Checkpoint { event, log };
        self.verb(core, caller, &request.id, (arguments, None), then)
    }

    fn stats(&self, core: &Supervisor, name: &Name) -> Outcome {
        self.tasks.find(&name.id)?;
        let init = core.state(&ProcessId::init(&name.id)).filter(|init| init.pid != 0);
        let (Some(cgroup), Some(init)) = (core.cgroup(&name.id), init) else {
            return Err(refused(code::NOT_FOUND, "cgroup does not exist"));
        };
        now(&Stats { stats: Some(stats::read(cgroup, init.pid)) })
    }
}

/// `Connect`, which containerd also calls before there is a task.
fn connect(core: &Supervisor, name: &Name) -> Outcome {
    let init = core.state(&ProcessId::init(&name.id));
    now(&Connected {
        shim_pid: std::process::id(),
        task_pid: init.map_or(0, |init| init.pid as u32),
        version: env!("CARGO_PKG_VERSION").into(),
    })
}
