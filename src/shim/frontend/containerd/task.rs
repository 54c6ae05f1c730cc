//! How tasks and execs come and go: the work before the supervisor has one (mounts, loggers), and the work after it
//! (unmounting).

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::OFlag;

use super::answer::{Answer, Outcome, done, now, refused};
use super::connections::Caller;
use super::error::Error;
use super::job::{Job, JobKind, JobResult, PidNamespace, Prepared};
use super::key::{FrontKind, key};
use super::logger::{self, BinaryLogger};
use super::message::event::{TaskDelete, TaskEvent, TaskExec, TaskIo, Topic};
use super::message::options::Options;
use super::message::task::{Create, Deleted, Exec, Pid};
use super::message::{Mount, Status};
use super::pending::Continuation;
use super::server::Server;
use super::tasks::{Task, TaskStage, process_file};
use super::ttrpc::code;
use super::{bundle, mounts, spooling, stdio};
use crate::command;
use crate::table::Table;
use crate::{
    Container, ExitFile, ExitStatus, HOLD, Interest, Making, NewProcess, Phase, Poll, ProcessId, Reply, Request,
    Runtime, Spooling, Stdio, Supervisor, Timeouts,
};
use windlass_sys::fd;
use windlass_sys::poll::Deadline;

/// How long output is read after a process has ended, when another process still holds its pipe open.
const DRAIN: Duration = Duration::from_secs(10);

/// A logger that is starting, and the descriptor on which it reports that it is ready.
type Awaited = (stdio::Program, OwnedFd);

impl Server {
    /// `Create`: a child mounts the root filesystem first.
    pub(super) fn create(&mut self, core: &mut Supervisor, caller: Caller, request: Create) -> Outcome {
        self.tasks.refuse_taken(&request.id)?;
        if !Path::new(&request.bundle).is_absolute() || request.id.is_empty() || request.id.contains('/') {
            return Err(invalid(format!("container {:?}, bundle {:?}", request.id, request.bundle)));
        }
        let options = Options::read(request.options.as_ref()).map_err(invalid)?;
        let directory = PathBuf::from(&request.bundle);
        // Engines look for these words when the runtime cannot be run.
        let runtime = bundle::runtime(&options, &self.namespace, Some(bundle::log_file(&directory)))
            .map_err(|error| refused(code::UNKNOWN, format!("OCI runtime create failed: {error}")))?;
        let io =
            TaskIo { stdin: request.stdin, stdout: request.stdout, stderr: request.stderr, terminal: request.terminal };
        let owner = (options.io_uid, options.io_gid);
        let id = ProcessId::init(&request.id);
        let (stdio, logger) = self.stdio(core, &id, &io, owner)?;
        let process = NewProcess {
            id: id.clone(),
            stdio,
            pid_file: bundle::pid_file(&directory),
            process_file: None,
            making: if request.checkpoint.is_empty() { Making::Create } else { Making::Restore },
            arguments: arguments(&options, &request.checkpoint, &directory),
            preserve_fds: Vec::new(),
            exit_files: exit_files(&directory, &bundle::root(&options, &self.namespace), &id.container),
        };
        let restores = process.making == Making::Restore;
        let task = Task {
            id: id.container.clone(),
            bundle: directory.clone(),
            io,
            checkpoint: request.checkpoint,
            owner,
            spooling: Spooling::default(),
            runtime: runtime.clone(),
            stage: TaskStage::Preparing { rootfs: request.rootfs.clone() },
            execs: Table::default(),
        };
        let ready = logger.as_ref().map(|(_, ready)| ready);
        let work = || {
            let mut prepared = prepare(&directory, &request.rootfs, &options, &runtime, logger.as_ref())?;
            prepared.holds = restores && can_hold(&runtime.binary);
            Ok(prepared)
        };
        let start = |key, poll: &Poll| Job::start(key, poll, ready, work);
        self.begin(core, caller, start, |job| JobKind::Prepare(job, Box::new(process)))?;
        self.tasks.insert(task);
        self.lifetime.stay();
        Ok(Answer::Later)
    }

    /// The stdio of a process. If it goes to a logger, the logger is started.
    fn stdio(
        &mut self,
        core: &mut Supervisor,
        process: &ProcessId,
        io: &TaskIo,
        owner: (u32, u32),
    ) -> Result<(Stdio, Option<Awaited>), Status> {
        let parsed = stdio::stdio(io.terminal, (&io.stdin, &io.stdout, &io.stderr), owner);
        let (mut stdio, program) = parsed.map_err(invalid)?;
        let Some(program) = program else { return Ok((stdio, None)) };
        let started = BinaryLogger::start(&program, process, &self.namespace);
        let (logger, (pipes, ready)) =
            started.map_err(|failed| invalid(format!("{}: {failed}", program.path.display())))?;
        let serial = self.serials.next();
        core.keep_child(logger.child.pid);
        let watched = core.poll.watch(&logger.child.pidfd, key(FrontKind::Logger, serial), Interest::Read);
        self.loggers.insert(serial, logger);
        watched.map_err(invalid)?;
        stdio::into_pipes(&mut stdio, pipes);
        Ok((stdio, Some((program, ready))))
    }

    /// Checks whether a job has ended.
    pub(super) fn job_ended(&mut self, core: &mut Supervisor, serial: u64) {
        let Some((pid, caller, ended)) = self.jobs.ended(serial) else { return };
        core.forget_child(pid);
        let outcome = match ended {
            JobResult::Prepared(process, result) => self.prepared(core, caller, *process, result),
            JobResult::LoggerReady(process, Ok(())) => self.add(core, *process),
            JobResult::LoggerReady(process, Err(error)) => {
                self.forget_exec(&process.id, false);
                Err(unknown(error))
            }
            JobResult::Unmounted(outcome, event, result) => {
                if let Some(event) = event {
                    self.outbox.push(event, &core.poll);
                }
                match result {
                    Ok(()) => outcome,
                    // An earlier failure is the better reason.
                    Err(error) => outcome.and(Err(unknown(error))),
                }
            }
        };
        self.answer(caller, outcome, core);
    }

    /// Requests the runtime's `create`, because everything is ready for it.
    fn prepared(
        &mut self,
        core: &mut Supervisor,
        caller: Caller,
        mut process: NewProcess,
        result: Result<Prepared, Error>,
    ) -> Outcome {
        let id = process.id.clone();
        let Some(task) = self.tasks.get_mut(&id.container) else { return Ok(Answer::Later) };
        let container = match result {
            Ok(Prepared { namespace, holds, spooling }) => {
                process.arguments.extend(holds.then(|| HOLD.into()));
                process.stdio.spooling = spooling.clone();
                task.spooling = spooling;
                container(task, namespace)
            }
            Err(error) => {
                // The child has undone its mounts.
                self.forget_task(&id);
                return Err(unknown(error));
            }
        };
        let later = process.making == Making::Restore && process.arguments.last().is_none_or(|word| word != HOLD);
        let asked = core.open(container).and_then(|()| {
            // A runtime other than windlass restores a checkpoint at `Start`; until then there is no process.
            core.request(if later { Request::AddExec(process) } else { Request::Create(process) })
        });
        if later && asked.is_ok() {
            self.created(core, &id.container, 0);
            return now(&Pid { pid: 0 });
        }
        match self.pending.note(caller, Continuation::Create(id.clone()), asked) {
            None => Ok(Answer::Later),
            Some((then, reply)) => self.create_done(core, caller, &id, reply.map_err(|refusal| then.refused(refusal))),
        }
    }

    /// Handles the end of the runtime's `create`.
    pub(super) fn create_done(
        &mut self,
        core: &mut Supervisor,
        caller: Caller,
        id: &ProcessId,
        result: Result<Reply, Status>,
    ) -> Outcome {
        match result {
            Ok(Reply::Pid(pid)) => now(&Pid { pid: pid as u32 }),
            Ok(_) => done(),
            Err(status) => {
                core.close(&id.container);
                self.unmount(core, caller, id, Err(status), None)
            }
        }
    }

    /// Makes a container known to containerd, which gets the event.
    pub(super) fn created(&mut self, core: &Supervisor, id: &str, pid: i32) {
        if let Some(event) = self.tasks.created(id, pid as u32) {
            self.outbox.push(Topic::Create.with(&event), &core.poll);
        }
    }

    /// `Exec`: makes an exec known, when its logger is ready.
    pub(super) fn exec(&mut self, core: &mut Supervisor, caller: Caller, request: Exec) -> Outcome {
        let task = self.tasks.find(&request.id)?;
        let (directory, owner, spooling) = (task.bundle.clone(), task.owner, task.spooling.clone());
        refuse_exec(task, core, &request)?;
        let spec = request.spec.map(|any| any.value).unwrap_or_default();
        let spec = with_terminal(spec, request.terminal).map_err(invalid)?;
        let io =
            TaskIo { stdin: request.stdin, stdout: request.stdout, stderr: request.stderr, terminal: request.terminal };
        let id = ProcessId::of(&request.id, &request.exec_id);
        let (mut stdio, logger) = self.stdio(core, &id, &io, owner)?;
        stdio.spooling = spooling;
        let file = process_file(&directory, &request.exec_id);
        // Only a runtime that this shim starts later reads the file, so it need not appear as a whole.
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_NOFOLLOW;
        let written = fd::openat(fd::CWD, &file, flags, 0o600)?;
        fd::write_all(written.as_fd(), &spec, Deadline::NEVER)?;
        drop(written);
        let process = NewProcess {
            id: id.clone(),
            stdio,
            pid_file: directory.join(format!("exec-{}.pid", request.exec_id)),
            process_file: Some(file),
            making: Making::Exec,
            arguments: Vec::new(),
            preserve_fds: Vec::new(),
            // Nobody reads the record of an exec: `delete` of a dead shim's container asks for that of init alone.
            exit_files: Vec::new(),
        };
        self.tasks.add_exec(&id, io);
        let Some((program, ready)) = logger else { return self.add(core, process) };
        let work = || logger::wait(&ready, &program.path, program.speaks);
        let start = |key, poll: &Poll| Job::start(key, poll, Some(&ready), work);
        self.begin(core, caller, start, |job| JobKind::AwaitLogger(job, Box::new(process)))?;
        Ok(Answer::Later)
    }

    fn add(&mut self, core: &mut Supervisor, process: NewProcess) -> Outcome {
        let id = process.id.clone();
        if let Err(refusal) = core.request(Request::AddExec(process)) {
            self.forget_exec(&id, false);
            return Err(refusal.into());
        }
        let event = TaskExec {
            container_id: id.container.as_ref().into(),
            exec_id: id.exec.as_deref().unwrap_or_default().into(),
            pid: 0,
        };
        self.outbox.push(Topic::ExecAdded.with(&event), &core.poll);
        done()
    }

    /// Forgets a process that the supervisor has forgotten. For init, the root filesystem is unmounted.
    pub(super) fn deleted(
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
        let answer = now(&deleted);
        if !id.is_init() {
            self.forget_exec(id, pid != 0);
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
        event: Option<TaskEvent>,
    ) -> Outcome {
        let Some(task) = self.tasks.get(&id.container) else { return outcome };
        let root = bundle::rootfs(&task.bundle);
        self.forget_task(id);
        let start = |key, poll: &Poll| Job::start(key, poll, None, || mounts::unmount_all(&root));
        self.begin(core, caller, start, |job| JobKind::Unmount(job, outcome, event))?;
        Ok(Answer::Later)
    }
}

fn invalid(why: impl std::fmt::Display) -> Status {
    refused(code::INVALID_ARGUMENT, why.to_string())
}

fn unknown(error: Error) -> Status {
    refused(code::UNKNOWN, error.to_string())
}

/// Mounts the root filesystem and waits for the logger; in a child of the shim. If a step fails, the mounts are undone.
fn prepare(
    directory: &Path,
    rootfs: &[Mount],
    options: &Options,
    runtime: &Runtime,
    logger: Option<&Awaited>,
) -> Result<Prepared, Error> {
    let root = bundle::rootfs(directory);
    let done = mounts::mount_all(&root, rootfs).and_then(|()| {
        let _ = std::fs::remove_file(bundle::exit_file(directory));
        bundle::remember(directory, options, runtime)?;
        if let Some((program, ready)) = logger {
            logger::wait(ready, &program.path, program.speaks)?;
        }
        let config = bundle::config(directory)?;
        let namespace = if config.shares_pids() { PidNamespace::Shared } else { PidNamespace::Own };
        Ok(Prepared { namespace, holds: false, spooling: spooling::of(options, &config, directory)? })
    });
    if done.is_err() {
        let _ = mounts::unmount_all(&root);
    }
    done
}

/// Whether a runtime has the flag with which a restored container waits for `start`.
fn can_hold(runtime: &Path) -> bool {
    let flags = ["restore", HOLD, "--help"].map(OsString::from);
    command::run(runtime, &flags, Deadline::after(command::TIMEOUT)).is_ok_and(|finished| finished.success())
}

/// The supervisor's description of a task.
fn container(task: &Task, namespace: PidNamespace) -> Container {
    Container {
        id: task.id.clone(),
        bundle: task.bundle.clone(),
        runtime: task.runtime.clone(),
        timeouts: Timeouts::default(),
        drain: DRAIN,
        kill_on_exit: namespace == PidNamespace::Shared,
        oom_files: Vec::new(),
        sync: true,
    }
}

/// Refuses an exec that cannot be made, in the words and with the codes of containerd's own shim, which
/// callers look for.
fn refuse_exec(task: &Task, core: &Supervisor, request: &Exec) -> Result<(), Status> {
    if task.execs.get(&*request.exec_id).is_some() {
        return Err(refused(code::ALREADY_EXISTS, format!("id {} already exists", request.exec_id)));
    }
    match core.state(&ProcessId::init(&request.id)).map(|init| init.phase) {
        Some(Phase::Stopped) => return Err(refused(code::UNKNOWN, "cannot exec in a stopped state")),
        Some(Phase::Paused) => return Err(refused(code::UNKNOWN, "cannot exec in a paused state")),
        _ => {}
    }
    // The id is part of the names of files.
    if request.exec_id.is_empty() || request.exec_id.contains(['/', '\0']) || request.exec_id.len() > 200 {
        return Err(invalid(format!("exec id {:?}", request.exec_id)));
    }
    Ok(())
}

/// The OCI process, with the terminal setting of the request, for which the stdio is made.
fn with_terminal(spec: Vec<u8>, terminal: bool) -> Result<Vec<u8>, Error> {
    #[derive(serde::Deserialize)]
    struct Process {
        #[serde(default)]
        terminal: bool,
    }
    let malformed = |error: serde_json::Error| Error::Invalid(format!("the process of the exec: {error}"));
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
    let mut flags: Vec<OsString> = Vec::new();
    if options.no_pivot_root {
        flags.push("--no-pivot".into());
    }
    if checkpoint.is_empty() {
        if options.no_new_keyring {
            flags.push("--no-new-keyring".into());
        }
        return flags;
    }
    let work = match options.criu_work_path.as_str() {
        "" => bundle.join("work"),
        path => path.into(),
    };
    flags.extend(["--detach".into(), "--image-path".into(), checkpoint.into(), "--work-path".into()]);
    flags.push(work.into());
    flags
}

/// The files that record the end: one for `delete`, and for windlass its own state, which is a file below the runtime's
/// root. Other runtimes have a directory there, and nothing is written then.
fn exit_files(bundle: &Path, root: &Path, id: &str) -> Vec<ExitFile> {
    vec![ExitFile::Record(bundle::exit_file(bundle)), ExitFile::RuntimeState(root.join(id))]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_terminal_is_that_of_the_request() {
        let spec = br#"{"args":["sh"],"terminal":false}"#.to_vec();
        assert_eq!(with_terminal(spec.clone(), false).expect("an object"), spec);
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
        let flags = ["--no-pivot", "--detach", "--image-path", "/c", "--work-path", "/b/work"];
        assert_eq!(arguments(&options, "/c", bundle), flags);
    }
}
