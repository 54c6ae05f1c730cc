//! Doing what was planned: thin, in one order, and the only place that touches the kernel.
//!
//! `create.rs` is the runtime's story and `init.rs` the child's; `exec.rs` is the story of a second
//! process. `launch.rs` owns what either has made until it is committed, and holds the conversation.
#![doc(hidden)]
#![forbid(unsafe_code)]

mod action;
mod caller;
mod cgroup;
mod channel;
mod context;
mod create;
mod delete;
mod device;
mod exec;
mod hooks;
mod inherit;
mod init;
mod kill;
mod laps;
mod launch;
mod listener;
mod namespaces;
mod netdevice;
pub mod notify;
mod relay;
mod resctrl;
mod resolve;
mod sources;
mod start;
pub mod sync;
mod wait;

pub use caller::Caller;
pub use cgroup::{Place, Undelegated};
pub use create::{Create, Creation, create};
pub use delete::{delete, destroy, finish};
pub use exec::{Entry, Exec, exec};
pub use hooks::{run as run_hooks, run_poststop, state_for};
pub use inherit::{Inherit, User, Wanted};
pub use kill::kill;
pub use laps::Laps;
pub use launch::{Handler, Launch};
pub use netdevice::move_all as move_network_devices;
pub use relay::Relay;
pub use resctrl::update_resctrl;
pub use start::{poststart, start};
pub use wait::{Foreground, wait};
