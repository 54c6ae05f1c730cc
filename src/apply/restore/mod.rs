//! The runtime's part of `restore`, top to bottom: as for `create`, but CRIU makes init.
//!
//! CRIU is started in the container's cgroup, in its cgroup namespace, and in a mount namespace that has the
//! container's mounts ready. Init is made as a child of the runtime, so one `Launch` owns all that is made, as for
//! `create`.

mod audit;
mod cgroups;
pub(super) mod chain;
mod child;
pub(super) mod claims;
mod conversation;
mod descendants;
mod files;
mod held;
mod hold;
mod lazy_pages;
mod mounts;
mod pages;
mod seen_images;
mod shared;
mod stage;

pub use conversation::RestoreRequest;

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;

use windlass_base::error::{Error, Kind, Origin, Result, WithContext};
use windlass_base::namespaces::Namespaces;
use windlass_criu::session::Session;
use windlass_plan::Plan;
use windlass_plan::restore::Claims;
use windlass_sys::process::SingleThreaded;
use windlass_sys::{fd, socket};

use super::checkpoint::read_streams;
use super::create::{CreateRequest, NewContainer};
use super::launch::Launch;
use super::namespaces::open_joins;
use super::sources::Idmaps;
use super::timing::StepTimer;
use conversation::{Progress, Restoring};

/// How long CRIU may take to undo a restore.
const UNDO: Duration = Duration::from_secs(10);

/// Makes a container whose processes come from images. If it waits for `start`, only init is made, in its namespaces,
/// and a keeper stays that restores the rest. On a failure, here or before the launch is committed, nothing remains and
/// the poststop hooks have run.
pub fn restore<'a>(
    request: CreateRequest<'a>,
    images: &RestoreRequest<'_>,
    proof: &'a SingleThreaded,
) -> Result<Launch<NewContainer<'a>>> {
    let plan = request.plan;
    refuse(plan)?;
    refuse_file(images.config_file)?;
    if images.flags.manages_cgroups() {
        refuse_version_1()?;
    }
    let streams = read_streams(images.directories.images.as_fd())?;
    let debug = request.debug;
    let mut timer = StepTimer::start(debug);
    let mut creation = NewContainer::begin(request, proof, &mut timer)?;
    let joins = open_joins(&plan.topology.joined)?;
    creation.idmaps = Idmaps::make(&plan.sources, None, proof)?;
    let (ours, theirs) = socket::pair().with_context(|| "cannot make the pair of sockets")?;
    let copies = seen_images::copies(plan, images.directories.images.as_fd(), images.trusted, proof)?;
    let mut restoring = Restoring {
        images,
        copies,
        seen: None,
        plan,
        streams,
        passed: passed(),
        joins,
        paths: files::Paths::default(),
        parameters: None,
        stage: None,
        log: None,
        progress: Progress::Begun,
        criu_is_outside: false,
        pages: None,
        timer,
    };
    let mut launch = restoring.start(creation, theirs, debug, proof)?;
    let mut session = Session::new(ours);
    let done = launch.until_executed().and_then(|()| restoring.converse(&mut session, &mut launch));
    match done {
        Ok(Progress::Held) => hold::leave(restoring, session, launch, UNDO, proof),
        other => {
            // CRIU must undo what it has made before anything else is removed. The guard of lazy pages has a copy of
            // our end, so to drop it would not be enough.
            session.close();
            launch.end_predecessor(UNDO);
            other.map(|_| launch)
        }
    }
}

/// The files that CRIU gets as its standard streams, by device and inode.
fn passed() -> BTreeSet<(u64, u64)> {
    let (input, output, error) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let stats = [input.as_fd(), output.as_fd(), error.as_fd()].map(fd::stat);
    stats.into_iter().flatten().map(|stat| (stat.st_dev, stat.st_ino)).collect()
}

/// Reads what the images in a directory claim.
pub fn read_images(dir: BorrowedFd<'_>) -> Result<Claims> {
    chain::open(dir)?;
    claims::read(dir)
}

/// Refuses hosts with cgroup v1: CRIU would make cgroups in its hierarchies too, which nobody removes or thaws.
fn refuse_version_1() -> Result<()> {
    if !windlass_cgroup::has_version_1()? {
        return Ok(());
    }
    let why = "this host has cgroups of version 1, and only those of version 2 can be restored";
    let error = Error::new(Kind::Unsupported, why).with_origin(Origin::Flag("--manage-cgroups-mode".into()));
    Err(error.with_hint("without the flag, or with `ignore`, all processes are in the container's cgroup afterwards"))
}

/// Refuses CRIU's file of options if it asks for cgroups: it overrides the flags, by which the cgroups of the images
/// are judged. CRIU accepts abbreviated options (getopt_long(3)).
fn refuse_file(path: &str) -> Result<()> {
    let text = match fd::document(path) {
        Err(failed) if failed.errno == Errno::ENOENT => return Ok(()),
        other => other.with_context(|| "cannot read CRIU's file of options")?,
    };
    let asks = |line: &str| {
        let word = line
            .trim_start()
            .split(|c: char| c.is_ascii_whitespace() || c == '\x0b' || c == '=')
            .next()
            .unwrap_or_default();
        word.len() > 1 && "manage-cgroups".starts_with(word)
    };
    match String::from_utf8_lossy(&text).lines().any(asks) {
        true => Err(Error::usage(format!("{path} asks CRIU for cgroups (manage-cgroups)"))
            .with_hint("only the flag --manage-cgroups-mode can, since the cgroups of the images are judged by it")),
        false => Ok(()),
    }
}

/// Refuses configurations that CRIU cannot restore, whatever the images contain.
fn refuse(plan: &Plan) -> Result<()> {
    for join in &plan.topology.joined {
        let why = match join.kind {
            Namespaces::MOUNT => "a container that joins a mount namespace cannot be restored",
            Namespaces::USER => "a container that joins a user namespace cannot be restored",
            Namespaces::CGROUP => "a container that joins a cgroup namespace cannot be restored",
            _ => continue,
        };
        return Err(Error::config(join.pointer.clone(), why).with_kind(Kind::Unsupported));
    }
    Ok(())
}
