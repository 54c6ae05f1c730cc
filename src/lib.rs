//! windlass: an OCI container runtime.
#![forbid(unsafe_code)]

pub mod cli;
pub mod doctor;
pub mod log;
pub mod verb;
