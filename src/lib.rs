//! windlass: an OCI container runtime.
#![deny(unsafe_code)]

pub mod abi;
pub mod apply;
pub mod args;
pub mod cgroup;
pub mod cli;
pub mod container;
pub mod dbus;
pub mod doctor;
pub mod error;
pub mod exit_record;
pub mod hint;
pub mod id;
pub mod log;
pub mod plan;
pub mod rfc3339;
pub mod shim;
pub mod spec;
pub mod sys;
pub mod variant;
pub mod verb;
