//! Plans what the runtime does to make a container, before it does anything.
//!
//! Planning is pure: it uses no system call, no file, no clock and no environment. Questions about the file system (is
//! the source a directory? does the path exist?) are answered by the step itself, through a descriptor, when it is
//! carried out.
//!
//! A [`Plan`] has four parts: the [`Topology`] (processes and namespaces), the mounts of the host that are copied
//! ([`Source`]), the cgroup, and the [`Step`]s of init in order. The plan of `exec` consists of the same steps.
#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![warn(unreachable_pub)]

mod blame;
mod builder;
mod capabilities;
pub mod cgroup;
mod check;
pub mod checkpoint;
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
pub mod limit_audit;
mod mount;
pub mod mount_audit;
pub mod mount_options;
mod mounts;
mod options;
mod path;
mod process;
mod program;
mod resctrl;
pub mod restore;
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
pub use step::{Action, Identity, JoinId, Pivot, ProcessCapabilities, ResourceLimit, Seccomp, Step};
pub use topology::{Join, Joiner, Topology};
#[doc(inline)]
pub use windlass_base::{capability::CapabilitySet, error, spec};

#[cfg(doctest)]
#[doc = include_str!("README.md")]
struct Readme;
