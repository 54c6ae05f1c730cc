//! The program `windlass`, an OCI container runtime: its command line, its verbs, its log and `doctor`. The crates
//! below `src` do the work; docs/architecture.md has the map.
#![doc(hidden)]
#![forbid(unsafe_code)]
#![warn(unreachable_pub)]

pub mod cli;
mod doctor;
mod log;
pub mod verb;
