//! Replaces the sweeps on processors whose registers the tracer does not know, with the same names.

use crate::args::Args;
use std::process::ExitCode;

/// No sweep exists here.
pub const MODES: &[&str] = &[];

/// The message for the user.
pub fn main(_args: &Args) -> ExitCode {
    eprintln!("sweeps run on x86_64 alone: their tracer does not know the registers of this processor");
    ExitCode::FAILURE
}

/// A process of a sweep.
pub mod worker {
    use std::process::ExitCode;

    /// Fails, because no sweep exists here.
    pub fn main(_words: &[String]) -> ExitCode {
        ExitCode::from(125)
    }
}

/// Random configurations beside other runtimes.
pub mod peers {
    pub use super::worker::main;

    /// The payload's observation of its container.
    pub mod probe {
        /// Nothing.
        pub fn main(_request: &str) -> String {
            String::new()
        }
    }
}
