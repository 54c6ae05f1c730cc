//! The mounts of restored processes as the kernel shows them, compared with the configuration.
//!
//! The claims of images are compared before (`restore`). But CRIU makes mounts by paths, which links in the images and
//! in the root filesystem may lead elsewhere, and mounts may hide each other. So the mounts are read from the kernel
//! before the processes run.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use windlass_base::error::{Diagnostic, Origin};
use windlass_base::mount::MountAttributes;
use windlass_base::mountinfo::Mounted;
use windlass_base::namespaces::Namespaces;

use crate::checkpoint::is_below;
use crate::create::Plan;
use crate::mount::MountKind;
use crate::path::RootPath;
use crate::restore::{OWN, RESTRICTING, may_mount, pointer_of, required};
use crate::step::Action;

/// A file or directory in a filesystem, as mountinfo names both (proc_pid_mountinfo(5)).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The device of the filesystem.
    pub device: String,
    /// The path in it.
    pub root: String,
}

impl Place {
    fn has(&self, mount: &Mounted) -> bool {
        self.device == mount.device && is_below(&mount.root, &self.root)
    }
}

/// The allowed sources of a container's mounts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// The root filesystem.
    pub rootfs: Place,
    /// The external mounts of the configuration, with the flags that each must have.
    pub external: Vec<(Place, MountAttributes)>,
    /// The devices of all filesystems that are mounted on the host.
    pub hosts: BTreeSet<String>,
    /// The container's cgroup below the root of the hierarchy, with a leading slash.
    pub cgroup: Option<String>,
}

/// Finds the mounts of a process that come from elsewhere. New filesystems are the container's own.
pub fn foreign_mounts(plan: &Plan, sources: &Sources, mounts: &[Mounted]) -> Vec<Diagnostic> {
    let foreign = mounts.iter().filter(|mount| !is_known(plan, sources, mount));
    foreign
        .map(|mount| {
            let Mounted { point, kind, device, root, .. } = mount;
            let pointer = pointer_of(plan, point).unwrap_or_else(|| "/mounts".into());
            Diagnostic { pointer, msg: format!("{root:?} of the {kind} {device} is mounted on {point}") }
        })
        .collect()
}

fn is_known(plan: &Plan, sources: &Sources, mount: &Mounted) -> bool {
    let (flags, free) = (flags_of(&mount.flags), may_mount(plan));
    // A process that may mount can change flags, but not mapped ids.
    let always = if free { MountAttributes::IDMAP } else { MountAttributes::all() };
    let has = |place: &Place, needed: MountAttributes| place.has(mount) && flags.contains(needed & always);
    if has(&sources.rootfs, required(plan, "/")) || sources.external.iter().any(|(place, needed)| has(place, *needed)) {
        return true;
    }
    let kind = mount.kind.as_str();
    if !sources.hosts.contains(&mount.device) {
        return OWN.contains(&kind);
    }
    // The kernel has one such filesystem for each namespace, so with a shared namespace it is the host's.
    let is_shared = match kind {
        "proc" => !plan.topology.new.contains(Namespaces::PID),
        "sysfs" => !plan.topology.new.contains(Namespaces::NET),
        "mqueue" => !plan.topology.new.contains(Namespaces::IPC),
        "cgroup2" if plan.topology.new.contains(Namespaces::CGROUP) => {
            sources.cgroup.as_ref().is_some_and(|cgroup| is_below(&mount.root, cgroup))
        }
        "cgroup2" => true,
        _ => false,
    };
    is_shared && (free || makes(plan, kind))
}

/// Whether the configuration has a new mount of this type.
fn makes(plan: &Plan, wanted: &str) -> bool {
    plan.init.iter().any(|step| match &step.action {
        Action::Mount(mount) => matches!(&mount.what, MountKind::New { kind, .. } if kind == wanted),
        _ => false,
    })
}

/// The flags that mountinfo has as words.
pub fn flags_of(options: &str) -> MountAttributes {
    let known = [
        ("ro", MountAttributes::RDONLY),
        ("nosuid", MountAttributes::NOSUID),
        ("nodev", MountAttributes::NODEV),
        ("noexec", MountAttributes::NOEXEC),
        ("idmapped", MountAttributes::IDMAP),
    ];
    let has = |word: &str| options.split(',').any(|option| option == word);
    known.into_iter().filter(|(word, _)| has(word)).map(|(_, flag)| flag).collect()
}

/// The content that a path must show to the processes of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// The path. A path that does not exist shows nothing.
    pub path: RootPath,
    /// The required content.
    pub shows: Shows,
    /// Whether a mount of the host is mounted there, as the root filesystem is.
    pub external: bool,
    /// The element of the configuration that demands it.
    pub pointer: String,
}

/// The content of a [`View`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shows {
    /// A mount with these flags.
    Flags(MountAttributes),
    /// The null device, or an empty directory.
    Nothing,
}

/// The flags of a [`View`]: those that images are judged by, and one that they do not have.
const SHOWN: MountAttributes = RESTRICTING.union(MountAttributes::NOSYMFOLLOW);

/// The views of a container, unless its processes may mount and have changed them (`may_mount`).
pub fn views(plan: &Plan) -> Vec<View> {
    let mut views: Vec<View> = Vec::new();
    let root = || RootPath::new("/").expect("no NUL");
    for step in &plan.init {
        let (path, shows) = match &step.action {
            Action::Mount(mount) => {
                // The mount hides what lies below it.
                views.retain(|view| view.path.without(&mount.destination).is_none());
                let flags = match &mount.what {
                    MountKind::Bind(id) => plan.source(*id).map_or(MountAttributes::empty(), |it| it.set | it.set_all),
                    MountKind::New { .. } => mount.set,
                };
                (mount.destination.clone(), Shows::Flags(flags))
            }
            Action::Rootfs { source: Some(id), .. } => {
                let flags = |source: &crate::mount::Source| source.set | source.set_all;
                (root(), Shows::Flags(plan.source(*id).map_or(MountAttributes::empty(), flags)))
            }
            Action::Readonly(path) | Action::ReadonlyPath(path) => {
                (path.clone(), Shows::Flags(MountAttributes::RDONLY))
            }
            Action::Mask(path) => (path.clone(), Shows::Nothing),
            _ => continue,
        };
        let shows = match shows {
            Shows::Flags(flags) if (flags & SHOWN).is_empty() => continue,
            Shows::Flags(flags) => Shows::Flags(flags & SHOWN),
            Shows::Nothing => Shows::Nothing,
        };
        let pointer = match &step.origin {
            Origin::Config(pointer) => pointer.to_string(),
            _ => "/mounts".into(),
        };
        let is_bind = matches!(&step.action, Action::Mount(mount) if matches!(mount.what, MountKind::Bind(_)));
        let external = is_bind || path.is_root();
        views.push(View { path, shows, external, pointer });
    }
    views
}
