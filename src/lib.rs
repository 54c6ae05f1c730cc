//! windlass: an OCI container runtime.
#![doc(hidden)]
#![forbid(unsafe_code)]

pub mod cli;
pub mod doctor;
pub mod log;
pub mod verb;
