#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![warn(unreachable_pub)]

mod arch;
mod compile;
mod emit;
mod instruction;
mod multiplex;
mod profile;
mod program;
mod resolve;
mod table;
mod words;

pub use arch::Arch;
pub use compile::{Filter, Problem, compile};
pub use instruction::{BpfProgram, sock_filter};
pub use profile::{Arg, Profile, Rule};
pub use program::{Data, Program};
pub use words::{actions, architectures, flags, operators};
