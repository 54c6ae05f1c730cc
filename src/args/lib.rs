//! Command lines as both programs read them: tables of flags and verbs, the words that were given, what values
//! mean, and help.
#![doc(hidden)]
#![forbid(unsafe_code)]

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
