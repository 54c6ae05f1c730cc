//! The system calls of windlass, and its only unsafe code. (`main!` expands to unsafe code in the programs: see
//! [`start`].)
//!
//! Calls that nix has are made through nix. These modules add the calls that nix lacks, and give every call one form of
//! error: [`SyscallError`], the call as strace would print it and the errno. Each unsafe block names the invariant that
//! it relies on.
#![doc(hidden)]
#![allow(unsafe_code)]
#![warn(unreachable_pub)]

pub mod attributes;
pub mod block_cache;
pub mod bpf;
mod call;
pub mod clock;
pub mod credentials;
pub mod deferred;
pub mod descriptors;
pub mod diag;
pub mod directory;
pub mod epoll;
pub mod exeseal;
pub mod fd;
pub mod handover;
pub mod heap;
pub mod lock;
pub mod mount;
pub mod mount_view;
pub mod netlink;
pub mod own_status;
mod owned;
pub mod pidfd_mount;
pub mod pipe;
pub mod poll;
pub mod probe;
pub mod process;
pub mod progress;
pub mod random;
pub mod region;
pub mod sched;
pub mod signals;
pub mod socket;
pub mod spawn;
pub mod start;
pub mod status;
pub mod stdio;
pub mod stream;
pub mod terminal;
pub mod tree;
pub mod trusted_path;
pub mod waiting;

pub use call::{Called, Result, hide_fd_paths};
pub(crate) use call::{check, fd_name, flag_names};
pub use windlass_base::error::SyscallError;
