//! Kinds of namespaces (namespaces(7)).

use nix::sched::CloneFlags;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

bitflags::bitflags! {
    /// `CLONE_NEW*` of clone3(2), unshare(2) and setns(2). It is serialised as a number.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Namespaces: u64 {
        /// `CLONE_NEWTIME`.
        const TIME = 0x80;
        /// `CLONE_NEWNS`.
        const MOUNT = 0x2_0000;
        /// `CLONE_NEWCGROUP`.
        const CGROUP = 0x200_0000;
        /// `CLONE_NEWUTS`.
        const UTS = 0x400_0000;
        /// `CLONE_NEWIPC`.
        const IPC = 0x800_0000;
        /// `CLONE_NEWUSER`.
        const USER = 0x1000_0000;
        /// `CLONE_NEWPID`.
        const PID = 0x2000_0000;
        /// `CLONE_NEWNET`.
        const NET = 0x4000_0000;
    }
}

/// The kinds, with their name in `linux.namespaces` of config.json and the name of the file in `/proc/PID/ns`.
pub const KINDS: &[(&str, &str, Namespaces)] = &[
    ("cgroup", "cgroup", Namespaces::CGROUP),
    ("ipc", "ipc", Namespaces::IPC),
    ("mount", "mnt", Namespaces::MOUNT),
    ("network", "net", Namespaces::NET),
    ("pid", "pid", Namespaces::PID),
    ("time", "time", Namespaces::TIME),
    ("user", "user", Namespaces::USER),
    ("uts", "uts", Namespaces::UTS),
];

impl Namespaces {
    /// The name of this kind's file in `/proc/PID/ns`.
    pub fn proc_name(self) -> &'static str {
        KINDS.iter().find(|row| row.2 == self).map_or("", |row| row.1)
    }
}

impl From<Namespaces> for CloneFlags {
    fn from(kinds: Namespaces) -> CloneFlags {
        CloneFlags::from_bits_retain(kinds.bits() as i32)
    }
}

impl Serialize for Namespaces {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.bits())
    }
}

impl<'de> Deserialize<'de> for Namespaces {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Namespaces, D::Error> {
        u64::deserialize(deserializer).map(Namespaces::from_bits_retain)
    }
}
