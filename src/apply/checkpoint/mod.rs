//! The runtime's part of `checkpoint`, top to bottom.
//!
//! The container is frozen before CRIU is asked. Its elements are collected then, when nothing changes any more. A
//! failure leaves the container as it was found.

mod check;
mod directories;
mod elements;
mod failure;
mod lost;
pub(crate) mod process;
mod sidecar;

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nix::fcntl::OFlag;

use windlass_base::error::{Diagnostic, Error, Kind, Origin, Result, WithContext};
use windlass_base::namespaces::Namespaces;
use windlass_cgroup::AnyCgroup;
use windlass_criu::flags::Flags;
use windlass_criu::message::{Options, Pair, Request, Type};
use windlass_criu::session::{Next, Outcome, Session, number};
use windlass_plan::Plan;
use windlass_store::{Container, Status};
use windlass_sys::pipe;
use windlass_sys::poll::{self, Deadline};
use windlass_sys::process::Child;
use windlass_sys::{fd, socket};

pub use check::{CheckpointObstacle, Loss, check};
pub use directories::Directories;
pub(crate) use failure::{Log, error as failure};
pub(crate) use sidecar::read as read_streams;

use super::delete;
use super::timing::StepTimer;
use elements::Elements;

/// The parameters of `checkpoint`.
pub struct CheckpointRequest<'a> {
    /// The flags for CRIU.
    pub flags: &'a Flags,
    /// The plan of the container's configuration.
    pub plan: &'a Plan,
    /// The directories of the images and of the log.
    pub directories: &'a Directories,
    /// Path of CRIU.
    pub program: &'a Path,
    /// The PATH that CRIU gets: it runs tar(1) and others.
    pub path: &'a OsStr,
    /// A file with options of CRIU, which override `flags`.
    pub config_file: &'a str,
    /// Gets one NUL byte when the page server listens.
    pub status: Option<OwnedFd>,
    /// Whether each step is logged with its duration.
    pub debug: bool,
}

/// The name of the log of a dump.
const LOG: &str = "dump.log";
/// The name of an external network namespace in the images, as runc has it.
pub(crate) const EXTERNAL_NET: &str = "extRootNetNS";
/// The name of an external PID namespace.
pub(crate) const EXTERNAL_PID: &str = "extRootPidNS";

/// The hint for a frozen cgroup in the container: CRIU would wait for its processes for ever.
const THAW_INNER: &str = "write 0 to its cgroup.freeze first";

/// How long CRIU may take to undo a dump.
const UNDO: Duration = Duration::from_secs(10);

/// Why a checkpoint has failed.
#[derive(Debug)]
pub struct CheckpointError {
    /// The failure.
    pub error: Error,
    /// Whether CRIU has failed at the dump: `check` may name what it could not dump.
    pub in_dump: bool,
}

impl From<Error> for CheckpointError {
    fn from(error: Error) -> CheckpointError {
        CheckpointError { error, in_dump: false }
    }
}

/// Dumps a container. Without `--leave-running` and `--pre-dump` it is removed after that.
pub fn checkpoint(
    container: &mut Container,
    request: CheckpointRequest<'_>,
) -> Result<Vec<Diagnostic>, CheckpointError> {
    let mut timer = StepTimer::start(request.debug);
    container.lock()?;
    let status = container.status()?;
    if !matches!(status, Status::Running | Status::Paused) {
        let msg = format!("Container cannot be checkpointed in {status} state");
        return Err(Error::new(Kind::WrongStatus, msg).into());
    }
    let (Some(pidfd), Some(init)) = (container.open_init()?, container.init) else {
        return Err(Error::new(Kind::WrongStatus, "Container cannot be checkpointed in stopped state").into());
    };
    let group = group_of(container)?;
    // Declared before `criu`, so that CRIU has ended when these are dropped.
    let (incomplete, mut frozen) = (request.directories.begin()?, Frozen::default());
    let mut criu = Criu::start(request.program, request.path)?;
    let Some(version) = criu.session.version()? else {
        return Err(criu.error(&Outcome::Died, "VERSION", &request).into());
    };
    ::log::debug!("runtime: CRIU {version} at {:?}", request.program);
    if request.flags.pre_dump || request.flags.lazy_pages {
        check_features(&mut criu.session, request.flags)?;
    }
    timer.done("start CRIU");
    if let Some(group) = group.as_ref().filter(|_| status == Status::Running) {
        frozen.freeze(group)?;
    }
    if let Some(inner) = group.as_ref().map_or(Ok(None), AnyCgroup::frozen_below)? {
        let msg = format!("cannot checkpoint: the container has frozen its cgroup {inner}");
        return Err(Error::new(Kind::WrongStatus, msg).with_hint(THAW_INNER).into());
    }
    timer.done("freeze the container");
    let pids = group.as_ref().map_or(Ok(vec![init.pid]), AnyCgroup::pids)?;
    let elements = elements::look(init.pid, pidfd.as_fd(), &pids, request.plan)?;
    let warnings: Vec<Diagnostic> = lost::executed(init.pid, &pids).into_iter().map(lost::remark).collect();
    let message = request.message(container, init.pid, &elements)?;
    timer.done("look at what it has");
    let outcome = criu.session.perform(&message, &mut |step, _| {
        timer.done(&format!("wait for CRIU up to {}", step.name));
        match step.name.as_str() {
            "status-ready" => request.page_server_listens()?,
            "post-dump" if !request.flags.pre_dump => {
                sidecar::write(request.directories.images.as_fd(), &elements.stdio)?;
            }
            _ => {}
        }
        Ok(Next::GoOn)
    })?;
    timer.done("wait for CRIU's end");
    if !matches!(outcome, Outcome::Done) {
        return Err(criu.dump_error(&outcome, &request));
    }
    incomplete.keep();
    drop(criu);
    if request.flags.leave_running || request.flags.pre_dump {
        frozen.thaw()?;
        timer.done("thaw the container");
        return Ok(warnings);
    }
    // The container's processes are dead, and CRIU leaves their cgroup frozen.
    frozen.forget();
    let removed = delete::destroy(container)?;
    timer.done("remove the container");
    Ok(warnings.into_iter().chain(removed).collect())
}

/// The version of CRIU, as [`windlass_criu::message::Version::number`].
pub fn criu_version(program: &Path, path: &OsStr) -> Result<i32> {
    let mut criu = Criu::start(program, path)?;
    let version = criu.session.version()?;
    version
        .map(|version| version.number())
        .ok_or_else(|| Error::new(Kind::Unsupported, "CRIU does not tell its version"))
}

/// The cgroup of a container that can be dumped. Below a frozen ancestor, CRIU would wait for the processes for ever.
fn group_of(container: &Container) -> Result<Option<AnyCgroup>> {
    let group = container.any_cgroup()?;
    if let Some(group) = &group
        && group.is_frozen_by_ancestor()?
    {
        let msg = "cannot checkpoint: an ancestor of the container's cgroup is frozen";
        return Err(Error::new(Kind::WrongStatus, msg)
            .with_hint("thaw the ancestor first: see cgroup.freeze in the parents of the container's cgroup"));
    }
    Ok(group)
}

fn check_features(session: &mut Session, flags: &Flags) -> Result<()> {
    let features = session.features()?;
    for (asked, there, name, flag, option) in [
        (flags.pre_dump, features.mem_track, "MemTrack", "--pre-dump", "CONFIG_MEM_SOFT_DIRTY"),
        (flags.lazy_pages, features.lazy_pages, "LazyPages", "--lazy-pages", "CONFIG_USERFAULTFD"),
    ] {
        if asked && there != Some(true) {
            return Err(Error::new(Kind::Unsupported, format!("criu is missing features: [{name}]"))
                .with_origin(Origin::Flag(flag.into()))
                .with_hint(format!("the kernel needs {option} for this")));
        }
    }
    Ok(())
}

impl CheckpointRequest<'_> {
    fn message(&self, container: &Container, pid: i32, elements: &Elements) -> Result<Request> {
        let topology = &self.plan.topology;
        let mut external = Vec::new();
        for (kind, key) in [(Namespaces::NET, EXTERNAL_NET), (Namespaces::PID, EXTERNAL_PID)] {
            if topology.joins(kind) {
                let name = kind.proc_name();
                let inode = std::fs::metadata(format!("/proc/{pid}/ns/{name}"));
                let inode = inode.map(|found| std::os::unix::fs::MetadataExt::ino(&found));
                external
                    .push(format!("{name}[{}]:{key}", inode.with_context(|| "cannot look at the namespaces of init")?));
            }
        }
        let streams = elements.stdio.iter().filter(|stream| stream.declared).map(|stream| stream.key.clone());
        external.extend(streams);
        external.sort_unstable();
        external.dedup();
        let pairs = elements.mounts.iter();
        let options = Options {
            images_dir_fd: Some(number(self.directories.images.as_fd())),
            work_dir_fd: Some(number(self.directories.work.as_fd())),
            log_file: LOG.into(),
            pid: Some(pid),
            root: container.state.rootfs.clone(),
            leave_running: Some(self.flags.leave_running || self.flags.pre_dump),
            parent_img: self.flags.parent.clone().unwrap_or_default(),
            track_mem: (self.flags.pre_dump || self.flags.parent.is_some()).then_some(true),
            external_mounts: pairs.map(|it| Pair { key: it.point.clone(), value: it.name.clone() }).collect(),
            external,
            // The engine or the restore makes the content of a private network namespace anew.
            empty_namespaces: (!topology.joins(Namespaces::NET)).then_some(libc::CLONE_NEWNET),
            freeze_cgroup: container.state.cgroup.clone().unwrap_or_default(),
            config_file: self.config_file.into(),
            ..self.flags.options()
        };
        let kind = if self.flags.pre_dump { Type::SinglePreDump } else { Type::Dump };
        Ok(Request { kind: Some(kind as i32), options: Some(options), ..Request::default() })
    }

    fn page_server_listens(&self) -> Result<()> {
        let Some(status) = &self.status else { return Ok(()) };
        fd::write_once(status.as_fd(), b"\0")
            .with_context(|| "cannot report that the page server listens")
            .map_err(|error| error.with_origin(Origin::Flag("--status-fd".into())))
    }
}

/// A cgroup that we have frozen. Dropping it thaws it.
#[derive(Default)]
struct Frozen<'a>(Option<&'a AnyCgroup>);

impl<'a> Frozen<'a> {
    fn freeze(&mut self, group: &'a AnyCgroup) -> Result<()> {
        self.0 = Some(group);
        group.freeze()
    }

    fn thaw(&mut self) -> Result<()> {
        // If the thaw fails, the drop tries it once more.
        self.0.map_or(Ok(()), AnyCgroup::thaw)?;
        self.forget();
        Ok(())
    }

    fn forget(&mut self) {
        self.0 = None;
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _ = group.thaw_nowait();
        }
    }
}

/// CRIU as a child. It outlives us: killed in the middle of a dump, it would leave its code in the container's
/// processes. If we die, it undoes the dump.
struct Criu {
    session: Session,
    child: Child,
    /// The read end of its standard error.
    stderr: OwnedFd,
}

/// Most bytes that are read of CRIU's standard error; its log goes to a file.
const STDERR: usize = 16 * 1024;

impl Criu {
    fn start(program: &Path, path: &OsStr) -> Result<Criu> {
        let (ours, theirs) = socket::pair().with_context(|| "cannot make the pair of sockets")?;
        let (stderr, stderr_end) = pipe::new().with_context(|| "cannot make a pipe")?;
        // The pipe is read at the end. If it is full, further output is lost and CRIU goes on.
        pipe::never_block(stderr_end.as_fd()).with_context(|| "cannot make a pipe")?;
        let null = fd::open("/dev/null", OFlag::O_RDWR).with_context(|| "cannot open /dev/null")?;
        let stdio = [null.as_fd(), null.as_fd(), stderr_end.as_fd()];
        let child = process::start(program, &["swrk", "3"], path, stdio, &[theirs.as_fd()])?;
        Ok(Criu { session: Session::new(ours), child, stderr })
    }

    /// The error for an outcome other than success.
    fn error(&self, outcome: &Outcome, what: &str, request: &CheckpointRequest<'_>) -> Error {
        let stderr = if matches!(outcome, Outcome::Died) { self.read_stderr() } else { String::new() };
        let Directories { work, work_path, .. } = request.directories;
        failure(outcome, what, &Log { work: work.as_fd(), work_path, name: LOG }, &stderr)
    }

    /// The error for a dump or pre-dump with an outcome other than success.
    fn dump_error(&self, outcome: &Outcome, request: &CheckpointRequest<'_>) -> CheckpointError {
        let what = if request.flags.pre_dump { "PRE_DUMP" } else { "DUMP" };
        CheckpointError { error: self.error(outcome, what, request), in_dump: !request.flags.pre_dump }
    }

    fn read_stderr(&self) -> String {
        let mut text = vec![0; STDERR];
        let there = poll::readable(self.stderr.as_fd(), Deadline::after(Duration::from_secs(1)));
        let n = if there.unwrap_or(false) { nix::unistd::read(&self.stderr, &mut text).unwrap_or(0) } else { 0 };
        String::from_utf8_lossy(&text[..n]).into_owned()
    }
}

/// Ends the conversation, and waits until CRIU has undone the dump.
impl Drop for Criu {
    fn drop(&mut self) {
        self.session.close();
        // A CRIU that hangs is left alone: killed, it would leave its code in the container's processes.
        if poll::readable(self.child.pidfd.as_fd(), Deadline::after(UNDO)).unwrap_or(true) {
            let _ = self.child.wait();
        }
    }
}
