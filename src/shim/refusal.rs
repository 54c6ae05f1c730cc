//! Why a request is refused.

use std::fmt;

/// Why a request is refused; a front end maps the code to its protocol's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// No such container or process.
    NotFound,
    /// The id is taken.
    AlreadyExists,
    /// Not in this phase.
    WrongPhase,
    /// The request makes no sense.
    Invalid,
    /// The runtime failed; the message is its own.
    Runtime,
    /// The runtime was killed because it took too long.
    TimedOut,
    /// A call of the kernel failed.
    Kernel,
}

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For the front end.
    pub code: Code,
    /// For people.
    pub message: String,
}

impl Refusal {
    /// A refusal with its reason.
    pub fn new(code: Code, message: impl Into<String>) -> Refusal {
        Refusal { code, message: message.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<windlass_base::error::Failed> for Refusal {
    fn from(failed: windlass_base::error::Failed) -> Refusal {
        Refusal::new(Code::Kernel, failed.to_string())
    }
}
