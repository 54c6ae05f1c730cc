//! The flags of mounts, as mount(2) and mount_setattr(2) take them.

pub use nix::mount::MsFlags;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

bitflags::bitflags! {
    /// `MOUNT_ATTR_*` of mount_setattr(2) and fsmount(2).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct MountAttributes: u64 {
        /// The mount is read-only.
        const RDONLY = 0x1;
        /// Set-user-id bits and file capabilities are ignored.
        const NOSUID = 0x2;
        /// Device files cannot be opened.
        const NODEV = 0x4;
        /// Files cannot be executed.
        const NOEXEC = 0x8;
        /// The field of the access time policy; it is a number and not a set of flags.
        const ATIME = 0x70;
        /// Policy: access times are not updated.
        const NOATIME = 0x10;
        /// Policy: access times are updated at each access.
        const STRICTATIME = 0x20;
        /// Access times of directories are not updated.
        const NODIRATIME = 0x80;
        /// Ids are mapped by a user namespace.
        const IDMAP = 0x10_0000;
        /// Symbolic links are not followed.
        const NOSYMFOLLOW = 0x20_0000;
    }
}

impl Serialize for MountAttributes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.bits())
    }
}

impl<'de> Deserialize<'de> for MountAttributes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<MountAttributes, D::Error> {
        u64::deserialize(deserializer).map(MountAttributes::from_bits_retain)
    }
}

/// A propagation type (mount_namespaces(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// The mount neither sends nor receives events.
    Private,
    /// The mount receives events, and sends none.
    Slave,
    /// The mount sends and receives events.
    Shared,
    /// The mount is private and cannot be bind mounted.
    Unbindable,
}

impl Propagation {
    /// Its flag for mount(2) and mount_setattr(2).
    pub const fn flag(self) -> MsFlags {
        match self {
            Propagation::Private => MsFlags::MS_PRIVATE,
            Propagation::Slave => MsFlags::MS_SLAVE,
            Propagation::Shared => MsFlags::MS_SHARED,
            Propagation::Unbindable => MsFlags::MS_UNBINDABLE,
        }
    }
}

/// A change of the propagation type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PropagationChange {
    /// The new type.
    pub to: Propagation,
    /// Whether all mounts below change as well (`MS_REC`, `AT_RECURSIVE`).
    pub recursive: bool,
}

impl PropagationChange {
    /// A change of one mount.
    pub const fn of_mount(to: Propagation) -> PropagationChange {
        PropagationChange { to, recursive: false }
    }

    /// A change of a mount and all below it.
    pub const fn of_tree(to: Propagation) -> PropagationChange {
        PropagationChange { to, recursive: true }
    }

    /// The flags for mount(2).
    pub const fn flags(self) -> MsFlags {
        if self.recursive { self.to.flag().union(MsFlags::MS_REC) } else { self.to.flag() }
    }
}
