//! Carries out what was planned. It makes processes, mounts and namespaces; cgroups and the state root it changes
//! through the crates `cgroup` and `store`.
//!
//! `create.rs` is the runtime's part of a new container, top to bottom, `init.rs` the part of the container's first
//! process, and `exec.rs` the runtime's part of a further process. `launch.rs` owns what they have made until it is
//! committed, and answers the new process meanwhile.
#![doc(hidden)]
#![forbid(unsafe_code)]
#![warn(unreachable_pub)]

mod action;
mod caller;
mod cgroup;
mod channel;
mod checkpoint;
mod context;
mod create;
mod delete;
mod device;
mod exec;
mod hooks;
mod inherit;
mod init;
mod kill;
mod launch;
mod listener;
mod namespaces;
mod netdevice;
pub mod notify;
mod procfs;
mod relay;
mod resctrl;
mod resolve;
mod restore;
mod sources;
mod start;
pub mod sync;
mod tasks;
mod timing;
mod wait;

pub use caller::Caller;
pub use cgroup::{CgroupPlacement, Delegation};
pub use checkpoint::{
    CheckpointError, CheckpointObstacle, CheckpointRequest, Directories, Loss, check, checkpoint, criu_version,
};
pub use create::{CreateRequest, NewContainer, Purpose, create};
pub use delete::{delete, destroy, finish};
pub use exec::{ExecRequest, NewProcess, because_stopped, exec};
pub use inherit::{Inherit, StdioMode, User};
pub use kill::kill;
pub use launch::{Handler, Launch};
pub use netdevice::move_all as move_network_devices;
pub use relay::Relay;
pub use resctrl::update_resctrl;
pub use restore::{RestoreRequest, read_images, restore};
pub use start::{poststart, start};
pub use timing::StepTimer;
pub use wait::{Foreground, wait};
