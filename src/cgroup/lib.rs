//! Makes, limits, freezes, kills, measures and removes the cgroup of a container.
//!
//! A [`Cgroup`] opens its files below its directory descriptor, wherever cgroup2 is mounted. Where a path is enough
//! (the status of a container, its ancestors, what a shim reads), files are opened by path. `plan::cgroup` decides what
//! is written. A limit whose controller is in a hierarchy of version 1 is an error, unless the feature `cgroup-v1` is
//! built in.
//!
//! In the ancestors of the cgroup, the controllers that limits need are enabled; a failure is an error. All other
//! controllers are enabled where that is possible, so that `events` has their numbers and `update` finds their files.
//! They stay enabled afterwards, since a neighbour may need them by then. Nothing else of an ancestor is written.
#![doc(hidden)]
#![forbid(unsafe_code)]
#![warn(unreachable_pub)]

mod any_cgroup;
mod cgroups_path;
mod controllers;
mod create;
pub mod delegated;
mod devices;
mod directory;
mod events;
mod freezer;
#[cfg(any(test, fuzzing))]
pub mod fuzz;

mod hierarchy;
mod limits;
mod manager;
pub mod membership;
mod oom;
mod pressure;
mod processes;
mod remove;
mod stats;
mod systemd;
pub mod v1;
mod v2;

pub use any_cgroup::AnyCgroup;
pub use cgroups_path::{has_version_1, own_cgroup, path};
pub use controllers::require_cgroup2;
pub use devices::Filters;
pub use freezer::is_frozen;
pub use hierarchy::{Hierarchy, HierarchyV1, is_of_cgroup2, options_of_cgroup2, sets_options};
pub use manager::Manager;
pub use oom::{OomWatch, WatchEvent};
pub use pressure::{Pressure, Waiting};
pub use processes::signal_each;
pub use remove::{Kill, remove, remove_unused};
pub use systemd::Systemd;
pub use v2::Cgroup;
