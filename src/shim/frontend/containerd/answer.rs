//! Answers to the calls of containerd, and errors with its codes.

use super::message::{Empty, Status};
use super::ttrpc::code;
use crate::{Code, Refusal};
use windlass_base::protobuf::{Malformed, Message};

/// The answer to a call, if it is known at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// An answer with this message.
    Now(Vec<u8>),
    /// An answer when a call or a job has ended.
    Later,
}

/// The result of a call.
pub(super) type Outcome = Result<Answer, Status>;

/// An error.
pub(super) fn refused(code: i32, message: impl Into<String>) -> Status {
    Status { code, message: message.into() }
}

/// An answer at once, with this message.
pub(super) fn now(message: &impl Message) -> Outcome {
    Ok(Answer::Now(message.encode()))
}

/// An answer at once, without a result.
pub(super) fn done() -> Outcome {
    now(&Empty {})
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Status {
        let code = match refusal.code {
            Code::NotFound => code::NOT_FOUND,
            Code::AlreadyExists => code::ALREADY_EXISTS,
            Code::WrongPhase => code::FAILED_PRECONDITION,
            Code::Invalid => code::INVALID_ARGUMENT,
            Code::Runtime => code::UNKNOWN,
            Code::TimedOut => code::DEADLINE_EXCEEDED,
            Code::Kernel => code::INTERNAL,
        };
        refused(code, refusal.message)
    }
}

impl From<Malformed> for Status {
    fn from(_: Malformed) -> Status {
        refused(code::INVALID_ARGUMENT, "malformed request")
    }
}

impl From<windlass_base::error::SyscallError> for Status {
    fn from(failed: windlass_base::error::SyscallError) -> Status {
        refused(code::INTERNAL, failed.to_string())
    }
}
