//! From a configuration to what will be done, before anything is done.
//!
//! Pure: no system calls, no files, no clock, no environment. Whatever must be looked at (is the
//! source a directory? does the path exist?) is an intention here and is looked at by the step
//! itself, through a descriptor, when its turn comes.
//!
//! A [`Plan`] has four parts: the [`Topology`] (which processes and namespaces), where mounts come
//! from ([`Source`]), the cgroup, and the [`Step`]s of init in order.
//! `exec` gets a plan of the same steps.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod blame;
mod builder;
mod capabilities;
pub mod cgroup;
mod check;
#[cfg(feature = "oci-spec")]
pub mod convert;
mod create;
pub mod device_rules;
mod devices;
pub mod exec;
pub mod explain;
mod hooks;
mod host;
mod inputs;
mod mount;
pub mod mount_options;
mod mounts;
mod options;
mod path;
mod process;
mod program;
mod resctrl;
mod rootfs;
mod scheduling;
mod seccomp;
mod step;
mod texts;
mod topology;
pub mod unit;

pub use blame::innermost;
pub use check::{Findings, check};
pub use create::{Plan, create};
pub use devices::BOUND;
pub use host::{Host, Maps, map_text};
pub use mount::{Idmap, Mount, MountKind, Node, Resolution, Source, SourceId, may_cover};
pub use options::Options;
pub use path::RootPath;
pub use program::{DEFAULT_PATH, Program};
pub use scheduling::{MEMORY_FLAGS, MEMORY_MODES};
pub use step::{Action, Identity, Pivot, ProcessCapabilities, Seccomp, Step};
pub use topology::{Join, Joiner, Topology};
#[doc(inline)]
pub use windlass_base::{capability::CapabilitySet, error, spec};

#[cfg(doctest)]
#[doc = include_str!("README.md")]
struct Readme;
