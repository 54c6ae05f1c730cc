//! The sources of mounts: bind mounts, device nodes, the root filesystem, and binds in place of mounts that
//! the kernel refuses.
//!
//! Init takes each one when its turn comes, in its own mount namespace. So an earlier mount may have made a source, and
//! the kernel's safeguards between user namespaces hold: a mount namespace of another user namespace has its flags
//! locked and its shared mounts made slaves (mount_namespaces(7)). A copy that was taken in the host's mount namespace
//! and moved across would have neither.
//!
//! If the user of a user namespace may not reach a source, init asks the runtime, which copies the source with its own
//! credentials in init's mount namespace.

use std::borrow::Cow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;

use windlass_base::error::{Error, Kind, Origin, Result, WithContext};
use windlass_base::mount::{MountAttributes, PropagationChange};
use windlass_base::namespaces::Namespaces;
use windlass_plan::{Idmap, Plan, Source, SourceId, map_text};
use windlass_sys::mount::{self, Attributes};
use windlass_sys::mount_view::MountView;
use windlass_sys::process::{self, Child, SingleThreaded};
use windlass_sys::{SyscallError, fd};

use super::device;
use super::sync::{InitSync, SourceSet};

/// The state of a source.
enum Slot {
    Waiting,
    /// Copied before its turn, when it still was a peer of the host's mount.
    Early(OwnedFd),
    /// Copied by the runtime, together with a source before it.
    Held(OwnedFd),
    Gone,
}

/// The sources of a plan, in init.
pub(crate) struct Sources<'a> {
    plan: &'a [Source],
    slots: Vec<Slot>,
    idmaps: Idmaps,
    bundle: &'a Path,
    root: PathBuf,
    /// Whether the current directory is the bundle's.
    in_bundle: bool,
    user_namespace: bool,
    init_asks: bool,
}

impl<'a> Sources<'a> {
    /// The sources of a plan. `bundle` is absolute.
    pub(crate) fn new(plan: &'a Plan, bundle: &'a Path, idmaps: Idmaps) -> Sources<'a> {
        Sources {
            plan: &plan.sources,
            slots: plan.sources.iter().map(|_| Slot::Waiting).collect(),
            idmaps,
            bundle,
            root: bundle.join(&plan.root),
            // setns(2) into a mount namespace changes the current directory to its root.
            in_bundle: !plan.topology.joins(Namespaces::MOUNT),
            user_namespace: plan.topology.user_namespace(),
            init_asks: plan.init_asks_for_sources,
        }
    }

    /// No sources: `exec` mounts nothing.
    pub(crate) fn none() -> Sources<'static> {
        Sources {
            plan: &[],
            slots: Vec::new(),
            idmaps: Idmaps::default(),
            bundle: Path::new("/"),
            root: PathBuf::new(),
            in_bundle: true,
            user_namespace: false,
            init_asks: false,
        }
    }

    /// Prepares for a process with the runtime's own credentials, which never asks the runtime.
    pub(crate) fn with_own_credentials(&mut self) {
        self.init_asks = false;
    }

    /// The descriptors that later steps need.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.idmaps.namespaces.iter().map(OwnedFd::as_fd)
    }

    /// A path of the configuration; a relative path begins at the bundle.
    pub(crate) fn path<'p>(&self, path: &'p str) -> Cow<'p, Path> {
        let path = Path::new(path);
        if self.in_bundle || path.is_absolute() { path.into() } else { self.bundle.join(path).into() }
    }

    /// Copies a source before its turn, if it exists by then: an earlier mount may be about to make it.
    pub(crate) fn take_early(&mut self, id: SourceId) -> Result<()> {
        let source = self.get(id)?;
        match mount::clone_tree(fd::CWD, self.path(&source.path), source.recursive) {
            Err(failed) if failed.errno == Errno::ENOENT => Ok(()),
            other => {
                self.slots[id.index()] = Slot::Early(self.judge(other, source)?);
                Ok(())
            }
        }
    }

    /// Takes an unattached copy of a source, with its attributes. It can be taken once.
    pub(crate) fn take(&mut self, id: SourceId, sync: &InitSync) -> Result<OwnedFd> {
        let source = self.get(id)?;
        let copy = match std::mem::replace(&mut self.slots[id.index()], Slot::Gone) {
            Slot::Gone => return Err(Error::new(Kind::Protocol, "the plan uses a source twice")),
            // mountinfo lists mounts in the order in which they were made, and programs take it for the order of the
            // configuration. So this mount is made now, if the kernel copies unattached mounts (Linux 6.15).
            Slot::Early(copy) => mount::clone_tree(copy.as_fd(), "", source.recursive).unwrap_or(copy),
            Slot::Held(copy) => copy,
            // Only the host's root may map the ids of a mount.
            Slot::Waiting if self.init_asks && source.idmap.is_some() => self.ask(id, sync)?,
            Slot::Waiting => match mount::clone_tree(fd::CWD, self.path(&source.path), source.recursive) {
                Err(failed) if failed.errno == Errno::EACCES && self.init_asks => self.ask(id, sync)?,
                other if self.init_asks && device::is_missing(source, &other) => self.ask(id, sync)?,
                other => self.judge(other, source)?,
            },
        };
        set_attributes(source, copy.as_fd())?;
        if let Some(idmap) = source.idmap.as_ref().filter(|_| !self.init_asks) {
            map(source, idmap, copy.as_fd(), self.idmaps.of(id)?)?;
        }
        Ok(copy)
    }

    fn get(&self, id: SourceId) -> Result<&'a Source> {
        self.plan
            .get(id.index())
            .ok_or_else(|| Error::new(Kind::Protocol, "the plan uses a source that it does not have"))
    }

    fn judge(&self, copied: windlass_sys::Result<OwnedFd>, source: &Source) -> Result<OwnedFd> {
        copied.map_err(|failed| refused(failed, source, self.user_namespace))
    }

    /// Asks the runtime for a source, and in the same message for those after it, since a message and its answer cost
    /// as much as several mounts. Sources below the root are left out: an earlier mount may cover or make them.
    fn ask(&mut self, id: SourceId, sync: &InitSync) -> Result<OwnedFd> {
        let early = |at: usize| {
            let source = &self.plan[at];
            matches!(self.slots[at], Slot::Waiting) && !source.fallback && !below(self.bundle, &source.path, &self.root)
        };
        let others = (id.index() + 1..self.plan.len()).filter(|at| early(*at)).map(SourceId::new);
        let wanted = SourceSet::new(id, others);
        let mut copies = sync.sources(wanted)?.into_iter();
        let missing_copy = || Error::new(Kind::Protocol, "the runtime has sent no copy of a mount");
        let first = copies.next().ok_or_else(missing_copy)?;
        // A source that the runtime could not copy is asked for again in its turn.
        for (other, copy) in wanted.sources().skip(1).zip(copies) {
            self.slots[other.index()] = Slot::Held(copy);
        }
        Ok(first)
    }

    /// Attaches the root filesystem over its own place, so that it is a mount of our namespace.
    pub(crate) fn attach_root(&self, root: BorrowedFd<'_>, path: &str, sync: &InitSync) -> Result<()> {
        let attached = match mount::attach_over(root, self.path(path)) {
            Err(failed) if failed.errno == Errno::EACCES && self.init_asks => {
                mount::attach(root, sync.root_directory()?.as_fd())
            }
            other => other,
        };
        attached.with_context(|| format!("cannot attach the root filesystem to its place {path:?}"))
    }
}

/// Whether `path` is `root` or lies below it, by their text alone. A relative path begins at the bundle.
fn below(bundle: &Path, path: &str, root: &Path) -> bool {
    bundle.join(path).components().collect::<PathBuf>().starts_with(root.components().collect::<PathBuf>())
}

fn refused(failed: SyscallError, source: &Source, user_namespace: bool) -> Error {
    let covered = failed.errno == Errno::EINVAL && !source.recursive && user_namespace;
    let error = failed
        .context(format!("cannot mount {:?} on {:?}", source.path, source.target))
        .with_origin(Origin::Config(source.pointer.clone().into()));
    match covered {
        true => error.with_hint(
            "a directory with mounts below it can only be bound together with them in a user namespace: use rbind",
        ),
        false => error,
    }
}

/// Sets the attributes of a copy.
fn set_attributes(source: &Source, copy: BorrowedFd<'_>) -> Result<()> {
    let context = || format!("cannot set the attributes of {:?} for {:?}", source.path, source.target);
    let change = |attributes: Attributes, all: bool| mount::set_attributes(copy, attributes, all, None);
    let mut propagation = source.propagation.iter().peekable();
    let none = MountAttributes::empty();
    for (set, clear, reset, all) in
        [(source.set, source.clear, source.reset, false), (source.set_all, source.clear_all, none, true)]
    {
        if (set | clear | reset).is_empty() {
            continue;
        }
        // One call sets attributes and propagation.
        let propagation = propagation.next_if(|change| change.recursive == all).map(|change| change.to);
        let attributes = Attributes { set, clear: clear | reset, propagation };
        match change(attributes, all) {
            // Some flags are locked, because the mount comes from another user namespace (mount_namespaces(7)). They
            // stay, and only flags that an option names are an error. `nosymfollow` is never locked.
            Err(failed) if failed.errno == Errno::EPERM && !reset.is_empty() => {
                change(Attributes { clear: clear | reset & MountAttributes::NOSYMFOLLOW, ..attributes }, all)
                    .with_context(context)?;
            }
            other => other.with_context(context)?,
        }
    }
    let change = |attributes: Attributes, all: bool| change(attributes, all).with_context(context);
    propagation.try_for_each(|PropagationChange { to, recursive }| {
        change(Attributes { propagation: Some(*to), ..Attributes::default() }, *recursive)
    })
}

fn map(source: &Source, idmap: &Idmap, copy: BorrowedFd<'_>, namespace: BorrowedFd<'_>) -> Result<()> {
    mount::set_attributes(copy, Attributes::default(), idmap.recursive, Some(namespace))
        .with_context(|| format!("cannot map the ids of {:?} for {:?}", source.path, source.target))
}

/// The user namespaces by which the ids of mounts are mapped. Mounts with the same mappings share one.
#[derive(Default)]
pub(crate) struct Idmaps {
    namespaces: Vec<OwnedFd>,
    /// For each source with mappings the index of its namespace.
    of: Vec<(SourceId, usize)>,
}

impl Idmaps {
    /// Makes the namespaces that the sources need. `joined` is the user namespace that the container joins.
    pub(crate) fn make(sources: &[Source], joined: Option<BorrowedFd<'_>>, proof: &SingleThreaded) -> Result<Idmaps> {
        let mut out = Idmaps::default();
        let mut known: Vec<&Idmap> = Vec::new();
        for (index, source) in sources.iter().enumerate() {
            let Some(idmap) = &source.idmap else { continue };
            let same = |other: &&Idmap| other.uids == idmap.uids && other.gids == idmap.gids;
            let at = match known.iter().position(same) {
                Some(at) => at,
                None => {
                    let made = match joined.filter(|_| idmap.uids.is_empty()) {
                        Some(joined) => fd::duplicate(joined),
                        None => process::user_namespace(&map_text(&idmap.uids), &map_text(&idmap.gids), proof),
                    };
                    let made = made.with_context(|| "cannot make a user namespace for an idmapped mount");
                    out.namespaces.push(made.map_err(|error| named(error, source))?);
                    known.push(idmap);
                    known.len() - 1
                }
            };
            out.of.push((SourceId::new(index), at));
        }
        Ok(out)
    }

    fn of(&self, source: SourceId) -> Result<BorrowedFd<'_>> {
        let missing = || Error::new(Kind::Protocol, "the plan maps the ids of a mount that it does not have");
        let at = self.of.iter().find(|(index, _)| *index == source).map(|(_, at)| *at);
        at.and_then(|at| self.namespaces.get(at)).map(OwnedFd::as_fd).ok_or_else(missing)
    }
}

fn named(error: Error, source: &Source) -> Error {
    error.with_origin(Origin::Config(source.pointer.clone().into())).with_step(format!("runtime: {source}"))
}

/// In the runtime: copies the wanted sources in init's mount namespace. Fails if the first cannot be copied; a later
/// failure ends the list.
pub(crate) fn copy_for(
    init: &Child,
    wanted: SourceSet,
    plan: &Plan,
    bundle: &Path,
    idmaps: &Idmaps,
    proof: &SingleThreaded,
) -> Result<Vec<OwnedFd>> {
    let visit = Visit::to(init, proof)?;
    let mut out = Vec::new();
    for id in wanted.sources() {
        let Some(source) = plan.source(id) else { break };
        let copied = match mount::clone_tree(fd::CWD, bundle.join(&source.path), source.recursive) {
            other if device::is_missing(source, &other) => device::made(source, &plan.topology, other),
            other => other,
        };
        let copied = copied.map_err(|failed| refused(failed, source, true)).and_then(|copy| match &source.idmap {
            Some(idmap) => map(source, idmap, copy.as_fd(), idmaps.of(id)?).map(|()| copy),
            None => Ok(copy),
        });
        match copied {
            Ok(copy) => out.push(copy),
            Err(error) if out.is_empty() => return Err(named(error, source)),
            Err(_) => break,
        }
    }
    drop(visit);
    Ok(out)
}

/// In the runtime: opens the directory of the root filesystem in init's mount namespace.
pub(crate) fn open_root_for(init: &Child, plan: &Plan, bundle: &Path, proof: &SingleThreaded) -> Result<OwnedFd> {
    let _visit = Visit::to(init, proof)?;
    fd::open(bundle.join(&plan.root), OFlag::O_PATH | OFlag::O_DIRECTORY)
        .with_context(|| format!("cannot open the root filesystem {:?}", plan.root))
        .map_err(|error| error.with_origin(Origin::config("/root/path")))
}

/// Holds the runtime's mount namespace, root and current directory.
pub(super) fn hold_view() -> Result<MountView> {
    MountView::hold().with_context(|| "cannot hold the runtime's own mount namespace")
}

/// The owner of the mount namespace that the runtime is in meanwhile, for [`MountView::restore`].
pub(super) const CONTAINERS_NAMESPACE: &str = "the container's";

/// While this exists, the runtime is in init's mount namespace, with init's root directory.
struct Visit(MountView);

impl Visit {
    fn to(init: &Child, _proof: &SingleThreaded) -> Result<Visit> {
        let context = || "cannot enter the container's mount namespace";
        let root = process::open_of(init.pid, init.pidfd.as_fd(), "root", OFlag::O_PATH).with_context(context)?;
        let visit = Visit(hold_view()?);
        process::setns(init.pidfd.as_fd(), Namespaces::MOUNT).with_context(context)?;
        mount::change_directory(root.as_fd()).and_then(|()| mount::chroot_to_current()).with_context(context)?;
        Ok(visit)
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.0.restore(CONTAINERS_NAMESPACE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_below_the_root_is_told_by_its_path() {
        let bundle = Path::new("/srv/box");
        let root = bundle.join("rootfs");
        for path in ["rootfs", "rootfs/a", "./rootfs//a", "/srv/box/rootfs/a", "/srv/box/./rootfs"] {
            assert!(below(bundle, path, &root), "{path}");
        }
        for path in ["rootfs2", "data", "/srv/box", "/srv/box/rootfs.d/a", "/rootfs"] {
            assert!(!below(bundle, path, &root), "{path}");
        }
        assert!(below(bundle, "/etc", Path::new("/")));
    }
}
