//! Answers to the calls of containerd, and errors with its codes.

use super::message::{Empty, Status};
use super::ttrpc::code;
use super::wire::{Malformed, Message};
use crate::{Code, Refusal};

/// The answer to a call, if it is known at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The message.
    Now(Vec<u8>),
    /// The answer is sent when something has ended.
    Later,
}

/// An error with a code of containerd.
pub(super) type Fault = Status;

/// The result of a call.
pub(super) type Outcome = Result<Answer, Fault>;

/// An error.
pub(super) fn fault(code: i32, message: impl Into<String>) -> Fault {
    Fault { code, message: message.into() }
}

/// An answer at once, with this message.
pub(super) fn now(message: &impl Message) -> Outcome {
    Ok(Answer::Now(message.encode()))
}

/// An answer at once, without a result.
pub(super) fn done() -> Outcome {
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
