//! The command line of both programs: tables of flags and verbs, the parser that reads words by them, the values
//! of flags, and help texts.
#![doc(hidden)]
#![forbid(unsafe_code)]
#![warn(unreachable_pub)]

mod environment;
mod flag;
pub mod help;
mod matches;
mod output;
pub mod values;

pub use environment::Environment;
pub use flag::{Flag, HELP, ID, ONE, Operands, Takes, Verb, flag};
pub use matches::{Matches, Words, count};
pub use output::print;
