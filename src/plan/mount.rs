//! Mounts, their sources, and device nodes.

use windlass_base::mount::{MountAttributes, MsFlags, PropagationChange};
use windlass_base::spec::IdMapping;

use crate::path::RootPath;

/// Names one of [`Plan::sources`](crate::Plan::sources).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourceId(usize);

impl SourceId {
    /// The source at this index.
    pub const fn new(index: usize) -> SourceId {
        SourceId(index)
    }

    /// Its index.
    pub const fn index(self) -> usize {
        self.0
    }
}

/// A mount that is copied, in the container's mount namespace, to be attached elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// Its path before the root is changed, from the bundle.
    pub path: String,
    /// JSON Pointer of the element that names it.
    pub pointer: String,
    /// Its name for the user, in messages.
    pub target: String,
    /// Whether all mounts below it are copied as well.
    pub recursive: bool,
    /// Attributes of the mount to set and clear.
    pub set: MountAttributes,
    /// Attributes to clear.
    pub clear: MountAttributes,
    /// Attributes to clear unless the kernel has locked them.
    pub reset: MountAttributes,
    /// Attributes to set on the mount and all below it.
    pub set_all: MountAttributes,
    /// Attributes to clear on the mount and all below it.
    pub clear_all: MountAttributes,
    /// Propagations, in order.
    pub propagation: Vec<PropagationChange>,
    /// Ids to map.
    pub idmap: Option<Idmap>,
    /// The device node at the path; if it is missing, it is made where that is possible.
    pub device: Option<Box<Node>>,
    /// Whether it may be missing, because it only stands in for a new filesystem.
    pub fallback: bool,
}

/// The source of a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountKind {
    /// A copy of a mount of the host, from [`crate::Plan::sources`].
    Bind(SourceId),
    /// A new filesystem.
    New {
        /// Its type.
        kind: String,
        /// Its source.
        source: String,
        /// Its options.
        data: Vec<(String, Option<String>)>,
        /// The host's mount, from [`crate::Plan::sources`]: bound if the kernel refuses a new one.
        fallback: Option<SourceId>,
    },
}

/// How the destination is resolved (openat2(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// `RESOLVE_IN_ROOT`: symbolic links are followed within the root.
    InRoot,
    /// `RESOLVE_NO_SYMLINKS`: for proc and sysfs, which later steps trust.
    NoSymlinks,
}

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The mount point.
    pub destination: RootPath,
    /// How the destination is resolved; missing components are made.
    pub resolution: Resolution,
    /// The source of the mount.
    pub what: MountKind,
    /// Attributes of a new filesystem's mount.
    pub set: MountAttributes,
    /// Propagations of a new filesystem's mount.
    pub propagation: Vec<PropagationChange>,
    /// Flags that only mount(2) takes.
    pub old_flags: MsFlags,
    /// Whether it starts with a copy of the destination's content.
    pub copy_up: bool,
    /// Whether it is writable until a later [`Action::Readonly`](crate::Action::Readonly).
    pub late_readonly: bool,
    /// Whether its option `context` is `linux.mountLabel`.
    pub labelled: bool,
    /// `linux.mountLabel` for the root directory of a filesystem that takes no option `context`.
    pub root_label: Option<String>,
}

/// The ids of an idmapped mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idmap {
    /// User ids; if empty, the joined user namespace's.
    pub uids: Vec<IdMapping>,
    /// Group ids.
    pub gids: Vec<IdMapping>,
    /// Whether everything below is mapped as well.
    pub recursive: bool,
}

/// A device node to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its path.
    pub path: RootPath,
    /// File type and permission bits.
    pub mode: u32,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// The host's node, which is bound in a user namespace because none can be made there.
    pub source: Option<SourceId>,
}

/// The paths below `/proc` that may be mounted on, as for runc and the images that need it.
const BELOW_PROC: &[&str] = &[
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/net/dev",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/uptime",
];

/// Whether something may be mounted on this path of a procfs.
pub fn may_cover(path: &RootPath) -> bool {
    BELOW_PROC.iter().any(|allowed| path.is(allowed))
}
