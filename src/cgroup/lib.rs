//! The container's cgroup: made, limited, frozen, killed, measured and removed.
//!
//! Everything is a few reads and writes below the directory descriptor of one cgroup of
//! version 2, wherever cgroup2 is mounted. `plan::cgroup` decides what is written. Controllers
//! that sit in a hierarchy of version 1 are left alone and named in the error of a limit that
//! needs them; the feature `cgroup-v1` applies such limits.
//!
//! In the ancestors the controllers that limits need are enabled, or it is an error. All other
//! controllers are enabled as well where that is possible, so that `events` has their numbers and an
//! `update` finds its file. They stay enabled afterwards, since a neighbour may need them by then. No
//! other file of an ancestor is written.
#![doc(hidden)]
#![forbid(unsafe_code)]

mod controllers;
pub mod delegated;
mod devices;
mod directory;
mod freezer;
mod group;
mod hierarchy;
pub mod membership;
mod oom;
mod processes;
mod stats;
mod systemd;
pub mod v1;
mod v2;

pub use controllers::refuse;
pub use devices::Filters;
pub use freezer::is_frozen;
pub use group::Group;
pub use hierarchy::{Hierarchy, V1, options_of_cgroup2, own_cgroup, path_for};
pub use oom::{Happened, OomWatch};
pub use systemd::Systemd;
pub use v2::{Cgroup, Kill, remove};

use windlass_base::error::{Error, Kind, Result};
use windlass_sys::waiting;

/// Who makes and removes cgroups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Manager {
    /// The runtime itself, in the file system.
    #[default]
    Cgroupfs,
    /// systemd, as a transient scope.
    Systemd,
}

/// The path of the container's cgroup below the root of the hierarchy, where the runtime makes it.
///
/// Reads /proc/self/cgroup only where the answer depends on it.
pub fn path(cgroups_path: &str, id: &str) -> Result<String> {
    match cgroups_path.starts_with('/') {
        true => path_for(cgroups_path, id, "/"),
        false => path_for(cgroups_path, id, &own_cgroup()?),
    }
}

/// A cgroup that cannot be removed.
fn still_in(path: &str, pids: &[i32]) -> Error {
    Error::new(Kind::Kernel, format!("cannot remove cgroup {path:?}: still in it: {}", waiting::describe_all(pids)))
        .hint(waiting::HINT)
}
