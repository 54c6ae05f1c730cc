//! The external mounts of the images, made ready in the mount namespace in which CRIU will run.
//!
//! The namespace's mounts are slaves of the host's, so the host sees none of this, and it ends with CRIU. In it, a
//! tmpfs covers the state root. The root filesystem is attached there, and each bind mount at its place below it, so
//! that the mount points are made as `create` makes them, in the same order. A mount inside a filesystem that CRIU
//! makes itself has no such place, and is attached beside the root filesystem.
//!
//! Where the host has the same mount, CRIU gets the path on the host. CRIU joins mounts to a peer group through one of
//! their sources, whose mount must contain the others (move_mount(2), `MOVE_MOUNT_SET_GROUP`).
//!
//! CRIU copies each mount alone. If the container has a user namespace, the kernel refuses that where another mount is
//! on it (mount_namespaces(7)). So such a mount is copied once more here, without the mounts on it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};

use windlass_base::error::{Error, Kind, Origin, Result, WithContext};
use windlass_base::mount::{MountAttributes, Propagation, PropagationChange};
use windlass_base::mountinfo::{self, Mounted};
use windlass_base::namespaces::Namespaces;
use windlass_plan::checkpoint::NULL;
use windlass_plan::mount_audit::Place;
use windlass_plan::restore::{RESTRICTING, required_of};
use windlass_plan::{Action, MountKind, Plan, RootPath, Source, SourceId};
use windlass_sys::mount::{self, Attributes, Filesystem, clone_tree};
use windlass_sys::{fd, process};

use crate::context::Context;
use crate::device;
use crate::resolve::{self, Make};

/// Where the root filesystem is, and where CRIU finds each external mount.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stage {
    /// The path of the root filesystem.
    pub root: String,
    /// The device and root of that mount.
    pub rootfs: Place,
    /// The external mounts.
    pub sources: Vec<External>,
}

/// Where CRIU finds an external mount.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct External {
    /// Its name in the images, which is its mount point except for masked files.
    pub name: String,
    /// Its path.
    pub source: String,
    /// Its device and root.
    pub is: Place,
    /// The flags that it must have.
    pub flags: MountAttributes,
}

/// The directory of the root filesystem.
const ROOT: &str = "root";

/// The type of the filesystem of cgroups.
pub(super) const CGROUPS: &str = "cgroup2";

/// A stage that is being made.
struct Staging<'a> {
    /// The directory that the tmpfs covers.
    place: &'a Path,
    dir: OwnedFd,
    root: OwnedFd,
    attached: Vec<Attached>,
}

/// A mount that was attached.
struct Attached {
    /// Its name in the images.
    name: String,
    /// Its place.
    place: PathBuf,
    /// The path of the same mount on the host.
    outside: Option<PathBuf>,
    flags: Flags,
}

/// The flags that the configuration asks for.
#[derive(Clone, Copy, Debug, Default)]
struct Flags {
    /// The flags of the mount itself.
    own: MountAttributes,
    /// The flags of the mounts below it.
    below: MountAttributes,
}

/// A mount to be attached.
struct Copy {
    mount: OwnedFd,
    outside: Option<PathBuf>,
    flags: Flags,
}

/// Enters a new mount namespace and makes the mounts of the plan ready below `place`. `cgroup` is the path of the
/// container's cgroup in the filesystem.
pub(crate) fn stage(
    plan: &Plan,
    bundle: &Path,
    place: &Path,
    cgroup: Option<&str>,
    cx: &mut Context<'_>,
) -> Result<Stage> {
    process::unshare(Namespaces::MOUNT).with_context(|| "cannot make a mount namespace for CRIU")?;
    let slave = PropagationChange { to: Propagation::Slave, recursive: true };
    mount::propagate_root(slave).with_context(|| "cannot make the mounts slaves")?;
    let root = root_source(plan)?;
    let copy = cx.take_source(root).map_err(|error| error.with_origin(Origin::config("/root/path")))?;
    // Every source is taken before the tmpfs can hide it.
    let mut copies = Vec::new();
    for step in &plan.init {
        if let Some(id) = source_of(&step.action) {
            let copy = cx.take_source(id).map_err(|error| error.with_origin(step.origin.clone()))?;
            let source = plan.source(id);
            let below = source.map_or(MountAttributes::empty(), |source| source.set_all) & RESTRICTING;
            let [own_map, below_map] = mapped(source);
            let flags = Flags { own: required_of(source) | own_map, below: below | below_map };
            copies.push(Copy { mount: copy, outside: outside(plan, id, bundle, place), flags });
        }
    }
    let null = device::null()?;
    let own = own_cgroup(plan, cgroup)?;
    let mut staging = Staging::begin(place, copy)?;
    staging.attach_beside(NULL.into(), Copy { mount: null, outside: Some(NULL.into()), flags: Flags::default() })?;
    let mut covered: Vec<&RootPath> = Vec::new();
    let mut copies = copies.into_iter();
    for step in &plan.init {
        let done = match &step.action {
            Action::Mount(mount) => match &mount.what {
                MountKind::Bind(_) => {
                    let copy = copies.next().ok_or_else(missing_source)?;
                    match covered.iter().any(|other| mount.destination.without(other).is_some()) {
                        true => staging.attach_beside(mount.destination.to_string(), copy),
                        false => staging.attach_inside(&mount.destination, copy),
                    }
                }
                MountKind::New { kind, .. } => {
                    covered.push(&mount.destination);
                    match &own {
                        Some(own) if kind == CGROUPS => {
                            let copy = clone_tree(own.as_fd(), "", false);
                            let copy = copy.with_context(|| "cannot copy the mount of the cgroup")?;
                            staging.attach_beside(
                                mount.destination.to_string(),
                                Copy {
                                    mount: copy,
                                    outside: None,
                                    flags: Flags { own: mount.set, ..Flags::default() },
                                },
                            )
                        }
                        _ => Ok(()),
                    }
                }
            },
            Action::Node(node) if node.source.is_some() => {
                staging.attach_beside(node.path.to_string(), copies.next().ok_or_else(missing_source)?)
            }
            _ => Ok(()),
        };
        done.map_err(|error| error.with_origin(step.origin.clone()))?;
    }
    staging.end(plan.topology.new.contains(Namespaces::USER))
}

/// The directory of the container's cgroup, if the container gets a cgroup namespace.
fn own_cgroup(plan: &Plan, cgroup: Option<&str>) -> Result<Option<OwnedFd>> {
    match cgroup.filter(|_| plan.topology.new.contains(Namespaces::CGROUP)) {
        // Before Linux 6.15 an unattached copy cannot be copied again.
        Some(path) => {
            fd::open(path, OFlag::O_PATH | OFlag::O_DIRECTORY).with_context(|| "cannot open the cgroup").map(Some)
        }
        None => Ok(None),
    }
}

/// The path of a source on the host, if CRIU can take it there: its ids are not mapped, the tmpfs does not cover it,
/// and root of the container can reach it: in a user namespace, CRIU takes the source with the rights of that user.
fn outside(plan: &Plan, id: SourceId, bundle: &Path, place: &Path) -> Option<PathBuf> {
    let source = plan.source(id).filter(|source| source.idmap.is_none())?;
    let path = std::fs::canonicalize(bundle.join(&source.path)).ok()?;
    let open = |dir: &Path| std::fs::metadata(dir).is_ok_and(|dir| dir.permissions().mode() & SEARCHED_BY_OTHERS != 0);
    let reached = !plan.topology.new.contains(Namespaces::USER) || path.ancestors().skip(1).all(open);
    (reached && !path.starts_with(place)).then_some(path)
}

/// The mode bit of a directory that everybody may search.
const SEARCHED_BY_OTHERS: u32 = 0o001;

/// Whether the ids of a source and of the mounts below it are mapped.
fn mapped(source: Option<&Source>) -> [MountAttributes; 2] {
    let idmap = source.and_then(|source| source.idmap.as_ref());
    let flag = |is: bool| if is { MountAttributes::IDMAP } else { MountAttributes::empty() };
    [flag(idmap.is_some()), flag(idmap.is_some_and(|idmap| idmap.recursive))]
}

fn missing_source() -> Error {
    Error::new(Kind::Protocol, "a mount of the plan has no source")
}

fn source_of(action: &Action) -> Option<SourceId> {
    match action {
        Action::Mount(mount) => match &mount.what {
            MountKind::Bind(id) => Some(*id),
            MountKind::New { .. } => None,
        },
        Action::Node(node) => node.source,
        _ => None,
    }
}

fn root_source(plan: &Plan) -> Result<SourceId> {
    let found = plan.init.iter().find_map(|step| match &step.action {
        Action::Rootfs { source, .. } => *source,
        _ => None,
    });
    let missing = || Error::config("/linux/namespaces", "only a container with a mount namespace can be restored");
    found.ok_or_else(missing)
}

impl<'a> Staging<'a> {
    fn begin(place: &'a Path, root: OwnedFd) -> Result<Staging<'a>> {
        let context = || "cannot make the place where CRIU finds the mounts";
        let tmpfs =
            Filesystem::open("tmpfs").and_then(|tmpfs| tmpfs.mount(MountAttributes::empty())).with_context(context)?;
        mount::attach_over(tmpfs.as_fd(), place).with_context(context)?;
        let dir = fd::open(place, OFlag::O_RDONLY | OFlag::O_DIRECTORY).with_context(context)?;
        fd::mkdirat(dir.as_fd(), ROOT, 0o700).with_context(context)?;
        // CRIU makes this mount the root, so no mount may propagate from it to its source.
        let private = Attributes { propagation: Some(Propagation::Private), ..Attributes::default() };
        mount::set_attributes(root.as_fd(), private, false, None).with_context(context)?;
        mount::attach_at(root.as_fd(), dir.as_fd(), ROOT).with_context(context)?;
        let root = fd::openat(dir.as_fd(), ROOT, OFlag::O_PATH | OFlag::O_DIRECTORY, 0).with_context(context)?;
        Ok(Staging { place, dir, root, attached: Vec::new() })
    }

    /// Attaches a mount beside the root filesystem.
    fn attach_beside(&mut self, name: String, copy: Copy) -> Result<()> {
        let context = || format!("cannot make {name} ready for CRIU");
        let file = self.attached.len().to_string();
        self.attach(copy.mount.as_fd(), &file).with_context(context)?;
        let Copy { outside, flags, .. } = copy;
        self.attached.push(Attached { name, place: self.place.join(file), outside, flags });
        Ok(())
    }

    /// Attaches a mount at its place below the root filesystem. Links are resolved as when it was mounted first.
    fn attach_inside(&mut self, destination: &RootPath, copy: Copy) -> Result<()> {
        let context = || format!("cannot make {destination} ready for CRIU");
        let make = if is_directory(copy.mount.as_fd()).with_context(context)? { Make::Directory } else { Make::File };
        let target =
            resolve::find_or_make(self.root.as_fd(), destination, make, resolve::IN_ROOT).with_context(context)?;
        let path = fd::path_of(target.as_fd()).with_context(context)?;
        let inside = path.strip_prefix(self.place.join(ROOT)).map(|inside| Path::new("/").join(inside));
        let inside =
            inside.map_err(|_| Error::new(Kind::PermissionDenied, format!("{path:?} is not below the root")))?;
        mount::attach(copy.mount.as_fd(), target.as_fd()).with_context(context)?;
        let (name, Copy { outside, flags, .. }) = (inside.to_string_lossy().into_owned(), copy);
        self.attached.push(Attached { name, place: path, outside, flags });
        Ok(())
    }

    /// Adds the mounts below the attached ones, which came along with them. `alone`: CRIU gets no mount with another
    /// one below it.
    fn end(self, alone: bool) -> Result<Stage> {
        let text = fd::document("/proc/self/mountinfo");
        let mounted = mountinfo::parse(&text.with_context(|| "cannot read the mounts")?);
        let root = self.place.join(ROOT);
        let rootfs = mounted.iter().rfind(|mount| Path::new(&mount.point) == root).map(place_of).unwrap_or_default();
        let own = [Attached { name: String::new(), place: root.clone(), outside: None, flags: Flags::default() }];
        let external = |of: &Attached, mount: Option<&Mounted>, name: String, rest: &Path| {
            let path = of.outside.as_ref().unwrap_or(&of.place);
            let (path, flags) = match rest.as_os_str().is_empty() {
                true => (path.clone(), of.flags.own),
                false => (path.join(rest), of.flags.below),
            };
            // The container's own cgroup is known by its path.
            let is = mount.filter(|mount| mount.kind != CGROUPS || of.outside.is_some());
            let is = is.map(place_of).unwrap_or_default();
            External { name, source: path.to_string_lossy().into_owned(), is, flags }
        };
        let of_place = |of: &Attached| mounted.iter().rfind(|mount| Path::new(&mount.point) == of.place);
        let attached = self.attached.iter();
        let mut sources: Vec<External> =
            attached.map(|of| external(of, of_place(of), of.name.clone(), Path::new(""))).collect();
        for mount in &mounted {
            let point = Path::new(&mount.point);
            // The nearest mount above it counts.
            let above = self.attached.iter().chain(&own).filter(|of| point.starts_with(&of.place));
            let Some(of) = above.max_by_key(|of| of.place.as_os_str().len()) else { continue };
            if let Some(rest) = point.strip_prefix(&of.place).ok().filter(|rest| !rest.as_os_str().is_empty()) {
                sources.push(external(of, Some(mount), format!("{}/{}", of.name, rest.display()), rest));
            }
        }
        let mut stage = Stage { root: root.to_string_lossy().into_owned(), rootfs, sources };
        let sources = std::iter::once(&mut stage.root).chain(stage.sources.iter_mut().map(|it| &mut it.source));
        for (number, source) in sources.enumerate().filter(|_| alone) {
            if mounted.iter().any(|mount| mount.point != *source && Path::new(&mount.point).starts_with(&*source)) {
                *source = self.copy_alone(source, &format!("alone{number}"))?;
            }
        }
        Ok(stage)
    }

    /// Attaches a copy of the mount at `path` beside the root filesystem, without the mounts below it. Returns its
    /// path.
    fn copy_alone(&self, path: &str, file: &str) -> Result<String> {
        let context = || format!("cannot make {path} ready for CRIU");
        let from = fd::open(path, OFlag::O_PATH).with_context(context)?;
        let copy = clone_tree(from.as_fd(), "", false).with_context(context)?;
        self.attach(copy.as_fd(), file).with_context(context)?;
        Ok(self.place.join(file).to_string_lossy().into_owned())
    }

    /// Attaches a mount under this name beside the root filesystem.
    fn attach(&self, mount: BorrowedFd<'_>, file: &str) -> windlass_sys::Result<()> {
        match is_directory(mount)? {
            true => fd::mkdirat(self.dir.as_fd(), file, 0o700)?,
            false => drop(fd::make_new(self.dir.as_fd(), file, 0o600)?),
        }
        mount::attach_at(mount, self.dir.as_fd(), file)
    }
}

/// The device and root of a mount. The root of a cgroup mount depends on the cgroup namespace of the reader
/// (cgroup_namespaces(7)).
fn place_of(mount: &Mounted) -> Place {
    let root = if mount.kind == CGROUPS { "/" } else { &mount.root };
    Place { device: mount.device.clone(), root: root.into() }
}

fn is_directory(mount: BorrowedFd<'_>) -> windlass_sys::Result<bool> {
    fd::stat(mount).map(|stat| fd::is_dir(&stat))
}
