//! Why a request is refused.

use std::fmt;

/// The kind of a refusal, which a front end translates to a code of its protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// There is no such container or process.
    NotFound,
    /// The id is taken.
    AlreadyExists,
    /// The process is not in the phase that the request needs.
    WrongPhase,
    /// The request makes no sense.
    Invalid,
    /// The runtime has failed, and the message is the runtime's.
    Runtime,
    /// The runtime, or the check of a program, was killed because it took too long.
    TimedOut,
    /// A system call has failed.
    Kernel,
}

pub(crate) type Result<T, E = Refusal> = std::result::Result<T, E>;

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For programs.
    pub code: Code,
    /// For people.
    pub message: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(code: Code, message: impl Into<String>) -> Refusal {
        Refusal { code, message: message.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<windlass_base::error::SyscallError> for Refusal {
    fn from(failed: windlass_base::error::SyscallError) -> Refusal {
        Refusal::new(Code::Kernel, failed.to_string())
    }
}
