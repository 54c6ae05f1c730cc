//! The containers of this shim as containerd knows them, and how they come and go: what has to
//! be done before the supervisor has one (mounts, loggers) and after (unmounting).

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use super::job::Job;
use super::logger::{self, Logger};
use super::message::event::{TaskCreate, TaskDelete, TaskExec, TaskIo, Told, Topic};
use super::message::options::Options;
use super::message::task::{Create, Deleted, Exec, Pid};
use super::message::{Empty, Mount};
use super::server::{Caller, Key, Server};
use super::service::{Answer, Fault, Outcome, Then, fault};
use super::ttrpc::code;
use super::wire::Message;
use super::{bundle, mounts, stdio};
use crate::Container;
use crate::ExitFile;
use crate::ExitStatus;
use crate::NewProcess;
use crate::Phase;
use crate::ProcessId;
use crate::Reply;
use crate::Request;
use crate::Runtime;
use crate::Stdio;
use crate::Supervisor;
use crate::Timeouts;

/// How long output is waited for after an end, when another process still holds the pipe.
const DRAIN: Duration = Duration::from_secs(10);

/// A container.
#[derive(Debug)]
pub struct Task {
    /// Its id.
    pub id: Rc<str>,
    /// Its bundle.
    pub bundle: PathBuf,
    /// What its stdio was said to be.
    pub io: TaskIo,
    /// The checkpoint that it is restored from when it is started; or nothing.
    pub checkpoint: String,
    /// Owner of the pipes.
    pub owner: (u32, u32),
    /// Whether the supervisor has it, so that containerd may ask for it.
    pub known: bool,
    /// Its other processes.
    pub execs: Vec<(Rc<str>, TaskIo)>,
    rootfs: Vec<Mount>,
    runtime: Runtime,
}

/// What is to be done when a job has ended.
#[derive(Debug)]
pub enum After {
    /// The root filesystem is mounted, the logger ready.
    Create(NewProcess),
    /// The logger is ready.
    Exec(NewProcess),
    /// The root filesystem is unmounted: that was all.
    Unmounted(Outcome, Option<Told>),
}

impl Server {
    /// `Create`: mounts first, in a child.
    pub fn create(&mut self, core: &mut Supervisor, caller: Caller, request: Create) -> Outcome {
        if self.tasks.iter().any(|task| *task.id == *request.id) {
            return Err(fault(code::ALREADY_EXISTS, format!("container {:?} already exists", request.id)));
        }
        let invalid = |text: String| fault(code::INVALID_ARGUMENT, text);
        if !Path::new(&request.bundle).is_absolute() || request.id.is_empty() || request.id.contains('/') {
            return Err(invalid(format!("container {:?}, bundle {:?}", request.id, request.bundle)));
        }
        let options = Options::read(request.options.as_ref()).map_err(invalid)?;
        let directory = PathBuf::from(&request.bundle);
        // As any failure to run it: engines look for these words.
        let runtime = bundle::runtime(&options, &self.namespace, &directory)
            .map_err(|text| fault(code::UNKNOWN, format!("OCI runtime create failed: {text}")))?;
        let io =
            TaskIo { stdin: request.stdin, stdout: request.stdout, stderr: request.stderr, terminal: request.terminal };
        let owner = (options.io_uid, options.io_gid);
        let id = ProcessId::init(&request.id);
        let (stdio, logger) = self.stdio(core, &id, &io, owner).map_err(invalid)?;
        let process = NewProcess {
            id: id.clone(),
            stdio,
            pid_file: bundle::pid_file(&directory),
            process_file: None,
            verb: if request.checkpoint.is_empty() { "create" } else { "restore" },
            arguments: arguments(&options, &request.checkpoint, &directory),
            preserve_fds: Vec::new(),
            exit_files: exit_files(&directory, &bundle::root(&options, &self.namespace), &id.container),
        };
        let task = Task {
            id: id.container.clone(),
            bundle: directory.clone(),
            io,
            checkpoint: request.checkpoint,
            owner,
            known: false,
            execs: Vec::new(),
            rootfs: request.rootfs,
            runtime: runtime.clone(),
        };
        let rootfs = task.rootfs.clone();
        let ready = logger.as_ref().map(|(_, ready)| ready);
        let work = || {
            let root = bundle::rootfs(&directory);
            let done = mounts::mount_all(&root, &rootfs).and_then(|()| {
                let _ = std::fs::remove_file(bundle::exit_file(&directory));
                bundle::remember(&directory, &options, &runtime)?;
                if let Some((program, ready)) = &logger {
                    logger::wait(ready, &program.path, program.speaks)?;
                }
                bundle::Config::read(&directory).map(|config| config.shares_pids())
            });
            if done.is_err() {
                let _ = mounts::unmount_all(&root);
            }
            done
        };
        let key = self.next_key(Key::Job);
        let job = Job::start(key, &core.poll, ready, (caller, After::Create(process)), work);
        let job = job.map_err(|failed| fault(code::INTERNAL, failed.to_string()))?;
        core.keep_child(job.child.pid);
        self.jobs.push(job);
        self.tasks.push(task);
        self.stay();
        Ok(Answer::Later)
    }

    /// The stdio of a process; where it goes to a program, that is started.
    fn stdio(
        &mut self,
        core: &mut Supervisor,
        process: &ProcessId,
        io: &TaskIo,
        owner: (u32, u32),
    ) -> Result<(Stdio, Option<(stdio::Program, std::os::fd::OwnedFd)>), String> {
        let (mut stdio, program) = stdio::stdio(io.terminal, (&io.stdin, &io.stdout, &io.stderr), owner)?;
        let Some(program) = program else { return Ok((stdio, None)) };
        let (serial, key) = self.next_key(Key::Logger);
        let started = Logger::start(&program, process, &self.namespace, serial);
        let (logger, (pipes, ready)) = started.map_err(|failed| format!("{}: {failed}", program.path.display()))?;
        core.keep_child(logger.child.pid);
        let watched = core.poll.watch(&logger.child.pidfd, key, crate::Interest::Read);
        self.loggers.push(logger);
        watched.map_err(|failed| failed.to_string())?;
        stdio::into_pipes(&mut stdio, pipes);
        Ok((stdio, Some((program, ready))))
    }

    /// A job has ended.
    pub fn job_ended(&mut self, core: &mut Supervisor, serial: u64) {
        let Some(at) = self.jobs.iter().position(|job| job.serial == serial) else { return };
        let Some(result) = self.jobs[at].result() else { return };
        let job = self.jobs.remove(at);
        core.forget_child(job.child.pid);
        let (caller, after) = job.then;
        let outcome = match after {
            After::Create(process) => self.mounted(core, caller, process, result),
            After::Exec(process) => match result {
                Ok(_) => self.add(core, process),
                Err(text) => {
                    self.forget_exec(&process.id);
                    Err(fault(code::UNKNOWN, text))
                }
            },
            After::Unmounted(outcome, told) => {
                if let Some(told) = told {
                    self.outbox.push(told, &core.poll);
                }
                match result {
                    Ok(_) => outcome,
                    Err(text) => outcome.and(Err(fault(code::UNKNOWN, text))),
                }
            }
        };
        self.answer(caller, outcome, core);
    }

    /// Everything is ready for `R create`.
    fn mounted(
        &mut self,
        core: &mut Supervisor,
        caller: Caller,
        process: NewProcess,
        result: Result<bool, String>,
    ) -> Outcome {
        let id = process.id.clone();
        let Some(at) = self.tasks.iter().position(|task| task.id == id.container) else { return Ok(Answer::Later) };
        let shares_pids = match result {
            Ok(shares_pids) => shares_pids,
            Err(text) => {
                // What it had mounted it has unmounted.
                self.forget_task(&id);
                return Err(fault(code::UNKNOWN, text));
            }
        };
        let task = &mut self.tasks[at];
        let container = Container {
            id: task.id.clone(),
            bundle: task.bundle.clone(),
            runtime: task.runtime.clone(),
            timeouts: Timeouts::default(),
            drain: DRAIN,
            kill_on_exit: shares_pids,
            oom_files: Vec::new(),
            sync: true,
        };
        let restore = process.verb == "restore";
        let asked = core.open(container).and_then(|()| {
            // A checkpoint is restored by `Start`; until then there is no process.
            core.request(if restore { Request::AddExec(process) } else { Request::Create(process) })
        });
        match asked {
            Ok(reply) if restore => {
                self.created(core, &id.container, 0);
                drop(reply);
                Ok(Answer::Now(Pid { pid: 0 }.encode()))
            }
            asked => self.asked(core, caller, Then::Create(id), asked),
        }
    }

    /// `R create` is done: the reply.
    pub fn create_done(
        &mut self,
        core: &mut Supervisor,
        caller: Caller,
        id: &ProcessId,
        result: Result<Reply, Fault>,
    ) -> Outcome {
        match result {
            Ok(Reply::Pid(pid)) => Ok(Answer::Now(Pid { pid: pid as u32 }.encode())),
            Ok(_) => Ok(Answer::Now(Vec::new())),
            Err(fault) => {
                core.close(&id.container);
                self.unmount(core, caller, id, Err(fault), None)
            }
        }
    }

    /// The supervisor has the container: containerd may ask for it, and is told.
    pub fn created(&mut self, core: &Supervisor, id: &str, pid: i32) {
        let Some(task) = self.tasks.iter_mut().find(|task| *task.id == *id && !task.known) else { return };
        task.known = true;
        let event = TaskCreate {
            container_id: id.into(),
            bundle: task.bundle.to_string_lossy().into_owned(),
            rootfs: std::mem::take(&mut task.rootfs),
            io: Some(task.io.clone()),
            checkpoint: task.checkpoint.clone(),
            pid: pid as u32,
        };
        self.outbox.push(Topic::Create.with(&event), &core.poll);
    }

    /// `Exec`: makes it known, when its logger is ready.
    pub fn exec(&mut self, core: &mut Supervisor, caller: Caller, request: Exec) -> Outcome {
        let task = self.task(&request.id)?;
        let (directory, owner) = (task.bundle.clone(), task.owner);
        if task.execs.iter().any(|(id, _)| **id == *request.exec_id) {
            return Err(fault(code::ALREADY_EXISTS, format!("id {} already exists", request.exec_id)));
        }
        // In the words and with the code of containerd's own shim, which callers look for.
        match core.state(&ProcessId::init(&request.id)).map(|init| init.phase) {
            Some(Phase::Stopped) => return Err(fault(code::UNKNOWN, "cannot exec in a stopped state")),
            Some(Phase::Paused) => return Err(fault(code::UNKNOWN, "cannot exec in a paused state")),
            _ => {}
        }
        let invalid = |text: String| fault(code::INVALID_ARGUMENT, text);
        // The id is part of the names of files.
        if request.exec_id.is_empty() || request.exec_id.contains(['/', '\0']) || request.exec_id.len() > 200 {
            return Err(invalid(format!("exec id {:?}", request.exec_id)));
        }
        let spec = request.spec.map(|any| any.value).unwrap_or_default();
        let spec = with_terminal(spec, request.terminal).map_err(invalid)?;
        let io =
            TaskIo { stdin: request.stdin, stdout: request.stdout, stderr: request.stderr, terminal: request.terminal };
        let id = ProcessId::of(&request.id, &request.exec_id);
        let (stdio, logger) = self.stdio(core, &id, &io, owner).map_err(invalid)?;
        let file = process_file(&directory, &request.exec_id);
        crate::exit::put(&file, &spec, false).map_err(|failed| fault(code::INTERNAL, failed.to_string()))?;
        let process = NewProcess {
            id: id.clone(),
            stdio,
            pid_file: directory.join(format!("exec-{}.pid", request.exec_id)),
            process_file: Some(file),
            verb: "exec",
            arguments: Vec::new(),
            preserve_fds: Vec::new(),
            // Who would ask for it is gone with us.
            exit_files: Vec::new(),
        };
        let known = self.tasks.iter_mut().find(|task| task.id == id.container);
        if let (Some(task), Some(exec)) = (known, &id.exec) {
            task.execs.push((exec.clone(), io));
        }
        let Some((program, ready)) = logger else { return self.add(core, process) };
        let key = self.next_key(Key::Job);
        let job = Job::start(key, &core.poll, Some(&ready), (caller, After::Exec(process)), || {
            logger::wait(&ready, &program.path, program.speaks).map(|()| false)
        });
        let job = job.map_err(|failed| fault(code::INTERNAL, failed.to_string()))?;
        core.keep_child(job.child.pid);
        self.jobs.push(job);
        Ok(Answer::Later)
    }

    fn add(&mut self, core: &mut Supervisor, process: NewProcess) -> Outcome {
        let id = process.id.clone();
        if let Err(refusal) = core.request(Request::AddExec(process)) {
            self.forget_exec(&id);
            return Err(refusal.into());
        }
        let event = TaskExec {
            container_id: id.container.as_ref().into(),
            exec_id: id.exec.as_deref().unwrap_or_default().into(),
            pid: 0,
        };
        self.outbox.push(Topic::ExecAdded.with(&event), &core.poll);
        Ok(Answer::Now(Empty {}.encode()))
    }

    /// The supervisor has forgotten a process: so do we, and for init unmount.
    pub fn deleted(
        &mut self,
        core: &mut Supervisor,
        caller: Caller,
        id: &ProcessId,
        pid: i32,
        status: Option<ExitStatus>,
    ) -> Outcome {
        let deleted = Deleted {
            pid: pid as u32,
            exit_status: status.map_or(0, |status| status.code() as u32),
            exited_at: status.map(|status| status.at.into()),
        };
        let answer = Ok(Answer::Now(deleted.encode()));
        if id.exec.is_some() {
            self.forget_exec(id);
            return answer;
        }
        let event = TaskDelete {
            container_id: id.container.as_ref().into(),
            pid: deleted.pid,
            exit_status: deleted.exit_status,
            exited_at: deleted.exited_at,
        };
        self.unmount(core, caller, id, answer, Some(Topic::Delete.with(&event)))
    }

    /// Unmounts the root filesystem in a child, then answers.
    fn unmount(
        &mut self,
        core: &mut Supervisor,
        caller: Caller,
        id: &ProcessId,
        outcome: Outcome,
        told: Option<Told>,
    ) -> Outcome {
        let Some(at) = self.tasks.iter().position(|task| task.id == id.container) else { return outcome };
        let root = bundle::rootfs(&self.tasks[at].bundle);
        self.forget_task(id);
        let key = self.next_key(Key::Job);
        let after = (caller, After::Unmounted(outcome, told));
        let job = Job::start(key, &core.poll, None, after, || mounts::unmount_all(&root).map(|()| false));
        let job = job.map_err(|failed| fault(code::INTERNAL, failed.to_string()))?;
        core.keep_child(job.child.pid);
        self.jobs.push(job);
        Ok(Answer::Later)
    }

    fn forget_task(&mut self, id: &ProcessId) {
        self.tasks.retain(|task| task.id != id.container);
        self.end_loggers(|process| process.container == id.container);
    }

    fn forget_exec(&mut self, id: &ProcessId) {
        if let Some(task) = self.tasks.iter_mut().find(|task| task.id == id.container) {
            task.execs.retain(|(exec, _)| Some(exec) != id.exec.as_ref());
            if let Some(exec) = &id.exec {
                let _ = std::fs::remove_file(process_file(&task.bundle, exec));
            }
        }
        self.end_loggers(|process| process == id);
    }
}

/// The file with an exec's OCI process.
pub fn process_file(bundle: &Path, exec: &str) -> PathBuf {
    bundle.join(format!("exec-{exec}.json"))
}

/// The OCI process, with the terminal that the request has: it is what the stdio is made for.
fn with_terminal(spec: Vec<u8>, terminal: bool) -> Result<Vec<u8>, String> {
    #[derive(serde::Deserialize)]
    struct Process {
        #[serde(default)]
        terminal: bool,
    }
    let malformed = |error: serde_json::Error| format!("the process of the exec: {error}");
    let process: Process = serde_json::from_slice(&spec).map_err(malformed)?;
    if process.terminal == terminal {
        return Ok(spec);
    }
    let mut process: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&spec).map_err(malformed)?;
    process.insert("terminal".into(), terminal.into());
    serde_json::to_vec(&process).map_err(malformed)
}

/// The arguments of `create` or `restore`.
fn arguments(options: &Options, checkpoint: &str, bundle: &Path) -> Vec<OsString> {
    let mut words: Vec<OsString> = Vec::new();
    if options.no_pivot_root {
        words.push("--no-pivot".into());
    }
    if checkpoint.is_empty() {
        if options.no_new_keyring {
            words.push("--no-new-keyring".into());
        }
        return words;
    }
    let work = match options.criu_work_path.as_str() {
        "" => bundle.join("criu-work"),
        path => path.into(),
    };
    words.extend(["--detach".into(), "--image-path".into(), checkpoint.into(), "--work-path".into()]);
    words.push(work.into());
    words
}

/// Where the end is written down: for `delete`, and for windlass in its own state, which is a file below
/// the runtime's root. Other runtimes have a directory there, and nothing is written then.
fn exit_files(bundle: &Path, root: &Path, id: &str) -> Vec<ExitFile> {
    vec![ExitFile::Record(bundle::exit_file(bundle)), ExitFile::RuntimeState(root.join(id))]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_terminal_is_that_of_the_request() {
        let spec = br#"{"args":["sh"],"terminal":false}"#.to_vec();
        assert_eq!(with_terminal(spec.clone(), false).as_deref(), Ok(&spec[..]));
        let changed = with_terminal(spec, true).expect("an object");
        assert_eq!(changed, br#"{"args":["sh"],"terminal":true}"#);
        assert!(with_terminal(b"[]".to_vec(), true).is_err());
        assert!(with_terminal(Vec::new(), false).is_err());
    }

    #[test]
    fn a_checkpoint_is_restored_from_its_directory() {
        let options = Options { no_pivot_root: true, no_new_keyring: true, ..Options::default() };
        let bundle = Path::new("/b");
        assert_eq!(arguments(&options, "", bundle), ["--no-pivot", "--no-new-keyring"]);
        let words = ["--no-pivot", "--detach", "--image-path", "/c", "--work-path", "/b/criu-work"];
        assert_eq!(arguments(&options, "/c", bundle), words);
    }
}
