//! The process that becomes CRIU. It makes the mounts ready and executes CRIU, from which the restored processes
//! inherit what the images do not have.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::fcntl::OFlag;

use windlass_base::error::{Error, Origin, Result, WithContext};
use windlass_base::namespaces::Namespaces;
use windlass_plan::{Action, Plan};
use windlass_sys::process::Execution;
use windlass_sys::{fd, process, sched, signals, socket, spawn};

use super::seen_images;
use super::stage::{Stage, stage};
use crate::action::{apply, replace_for};
use crate::context::Context;

/// The inputs of the process besides the context.
pub(crate) struct CriuLaunch<'a> {
    /// The plan of the configuration.
    pub plan: &'a Plan,
    /// Absolute path of the bundle.
    pub bundle: &'a Path,
    /// Path of CRIU.
    pub program: &'a Path,
    /// The PATH that CRIU gets.
    pub path: &'a OsStr,
    /// Copies of the mounts of the images, made by [`copies`].
    ///
    /// [`copies`]: super::seen_images::copies
    pub images: &'a [OwnedFd],
    /// CRIU's end of the conversation.
    pub socket: &'a OwnedFd,
    /// The directory of the log.
    pub log: LogDirectory<'a>,
    /// The directory that a tmpfs covers, to hold the mounts.
    pub place: &'a Path,
    /// The container's cgroup in the file system.
    pub cgroup: Option<&'a str>,
    /// Whether CRIU is to be in the container's cgroup namespace. Otherwise it manages cgroups itself.
    pub in_cgroup_namespace: bool,
    /// Namespaces that CRIU gets as descriptors, from 4 on.
    pub passed: &'a [OwnedFd],
    /// Whether copies of the standard streams follow these: with `--shell-job` CRIU needs 0 itself.
    pub streams_apart: bool,
}

/// The directory of the log.
pub(crate) struct LogDirectory<'a> {
    /// Its path.
    pub path: &'a Path,
    /// Its device and inode, from [`identity`].
    pub identity: (u64, u64),
}

/// Prepares this process and executes CRIU. Returns only a failure. The process is not killed when the runtime dies:
/// CRIU must then undo the restore itself, because the processes that it has made do not end with it.
pub(crate) fn become_criu(work: &CriuLaunch<'_>, cx: &mut Context<'_>) -> Result<()> {
    let _ = nix::unistd::setsid();
    if work.plan.unit.is_some() {
        cx.sync.scope()?;
    }
    for step in &work.plan.init {
        // The restored processes inherit from CRIU what the images do not have.
        let inherited = matches!(
            &step.action,
            Action::KeyLabel(_)
                | Action::SessionKeyring(_)
                | Action::IoPriority(_)
                | Action::MemoryPolicy(..)
                | Action::Affinity(_)
                | Action::Personality(_)
        );
        if inherited {
            apply(&step.action, cx).map_err(|error| error.with_origin(step.origin.clone()))?;
        }
    }
    if work.in_cgroup_namespace && work.plan.topology.new.contains(Namespaces::CGROUP) {
        process::unshare(Namespaces::CGROUP).with_context(|| "cannot make the cgroup namespace")?;
    }
    cx.sources.with_own_credentials();
    let stage = stage(work.plan, work.bundle, work.place, work.cgroup, cx)?;
    let images = match work.images {
        [] => None,
        copies => Some(seen_images::show(work.place, copies)?),
    };
    let log = match work.in_cgroup_namespace {
        true => None,
        false => Some(here(&work.log)?),
    };
    tell(&stage, &[images, log], work.socket)?;
    let uid = work.plan.init.iter().find_map(|step| match &step.action {
        Action::Identity(identity) => work.plan.topology.host_uid(identity.uid),
        _ => None,
    });
    replace_for(&cx.stdio, uid.unwrap_or(0))?;
    // The files that CRIU writes hold the memory of the container.
    sched::umask(0o077);
    signals::default_sigpipe().and_then(|()| signals::unblock()).with_context(|| "cannot reset the signals")?;
    let text = |bytes: &[u8]| CString::new(bytes).map_err(|_| Error::usage("a NUL byte in a path"));
    let environment = format!("PATH={}", work.path.to_string_lossy());
    let arguments = ["criu", "swrk", "3"].map(String::from);
    let execution = Execution::new(text(work.program.as_os_str().as_bytes())?, &arguments, &[environment]);
    let (input, output, error) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let streams = [input.as_fd(), output.as_fd(), error.as_fd()].into_iter().filter(|_| work.streams_apart);
    let streams =
        streams.map(fd::duplicate).collect::<Result<Vec<_>, _>>().with_context(|| "cannot pass descriptors to CRIU")?;
    let passed: Vec<_> =
        std::iter::once(work.socket.as_fd()).chain(work.passed.iter().chain(&streams).map(AsFd::as_fd)).collect();
    spawn::pass(&passed).with_context(|| "cannot pass descriptors to CRIU")?;
    let failed = execution.execute();
    Err(failed.context(format!("cannot execute {:?}", work.program)))
}

/// Opens the log's directory in CRIU's mount namespace. If CRIU manages cgroups, it mounts their hierarchies there.
fn here(log: &LogDirectory<'_>) -> Result<OwnedFd> {
    let LogDirectory { path, .. } = log;
    let context = || "cannot open the directory of the log for CRIU";
    let opened = fd::open(*path, OFlag::O_RDONLY | OFlag::O_DIRECTORY).with_context(context)?;
    match identity(opened.as_fd()).with_context(context)? == log.identity {
        true => Ok(opened),
        false => Err(Error::usage(format!("CRIU cannot manage cgroups with the log in {path:?}"))
            .with_origin(Origin::Flag("--work-path".into()))
            .with_hint("name a directory outside the state root by --work-path")),
    }
}

/// The device and the inode of a file.
pub(crate) fn identity(file: BorrowedFd<'_>) -> windlass_sys::Result<(u64, u64)> {
    fd::stat(file).map(|stat| (stat.st_dev, stat.st_ino))
}

/// Sends the runtime the stage, and the directories that CRIU is to read and to work in.
fn tell(stage: &Stage, directories: &[Option<OwnedFd>], to: &OwnedFd) -> Result<()> {
    let text = serde_json::to_vec(stage).expect("texts");
    let directories: Vec<_> = directories.iter().flatten().map(AsFd::as_fd).collect();
    socket::send(to.as_fd(), &text, &directories).with_context(|| "cannot send to the runtime")
}
