//! How a case ends when it does not pass.

use std::fmt::Display;

/// Why a case stopped.
#[derive(Debug)]
pub enum Stop {
    /// The runtime did something else than it must.
    Fail(String),
    /// The case cannot be judged on this machine, and why.
    Skip(String),
}

/// The result of a case and of most helpers.
pub type Verdict<T = ()> = Result<T, Stop>;

impl<E: std::error::Error> From<E> for Stop {
    fn from(error: E) -> Stop {
        Stop::Fail(error.to_string())
    }
}

/// Adds the current action to an error.
pub trait Context<T> {
    /// Prefixes the error with `what`.
    fn context(self, what: impl Display) -> Verdict<T>;
}

impl<T, E: Display> Context<T> for Result<T, E> {
    fn context(self, what: impl Display) -> Verdict<T> {
        self.map_err(|error| Stop::Fail(format!("{what}: {error}")))
    }
}

/// A failure with this text.
pub fn fail<T>(message: impl Display) -> Verdict<T> {
    Err(Stop::Fail(message.to_string()))
}

/// A skip with this reason.
pub fn skip<T>(reason: impl Display) -> Verdict<T> {
    Err(Stop::Skip(reason.to_string()))
}

impl Display for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Stop::Fail(text) | Stop::Skip(text) => f.write_str(text),
        }
    }
}
