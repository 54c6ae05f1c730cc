//! Answers to the calls of containerd, and refusals in its codes.

use super::message::{Empty, Status};
use super::ttrpc::code;
use super::wire::{Malformed, Message};
use crate::{Code, Refusal};

/// An answer, if it is there already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The message.
    Now(Vec<u8>),
    /// It comes when something has ended.
    Later,
}

/// A refusal in containerd's codes.
pub type Fault = Status;

/// What comes of a call.
pub type Outcome = Result<Answer, Fault>;

/// A refusal.
pub fn fault(code: i32, message: impl Into<String>) -> Fault {
    Fault { code, message: message.into() }
}

/// An answer with a message.
pub fn now(message: &impl Message) -> Outcome {
    Ok(Answer::Now(message.encode()))
}

/// The answer of a call that has no result.
pub fn done() -> Outcome {
    now(&Empty {})
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Fault {
        let code = match refusal.code {
            Code::NotFound => code::NOT_FOUND,
            Code::AlreadyExists => code::ALREADY_EXISTS,
            Code::WrongPhase => code::FAILED_PRECONDITION,
            Code::Invalid => code::INVALID_ARGUMENT,
            Code::Runtime => code::UNKNOWN,
            Code::TimedOut => code::DEADLINE_EXCEEDED,
            Code::Kernel => code::INTERNAL,
        };
        fault(code, refusal.message)
    }
}

impl From<Malformed> for Fault {
    fn from(_: Malformed) -> Fault {
        fault(code::INVALID_ARGUMENT, "malformed request")
    }
}

impl From<windlass_base::error::Failed> for Fault {
    fn from(failed: windlass_base::error::Failed) -> Fault {
        fault(code::INTERNAL, failed.to_string())
    }
}
