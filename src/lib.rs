//! The program `windlass`, an OCI container runtime: its command line, its verbs, its log and `doctor`. The work is
//! done by the crates below `src`; docs/architecture.md has the map.
#![doc(hidden)]
#![forbid(unsafe_code)]

pub mod cli;
mod doctor;
mod log;
pub mod verb;
