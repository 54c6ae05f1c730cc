//! The calls of containerd that wait for a later reply of the supervisor.

use std::path::PathBuf;

use super::connections::Caller;
use super::message::Status;
use super::message::event::TaskEvent;
use crate::table::Table;
use crate::{Code, ProcessId, Refusal, Reply, WaitToken};

/// The call that a reply belongs to, and the step after the reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Continuation {
    /// `Create`.
    Create(ProcessId),
    /// `Start`.
    Start(ProcessId),
    /// `Wait`.
    Wait,
    /// `Delete`.
    Delete(ProcessId),
    /// A verb of the runtime without a result of its own.
    Verb {
        /// The verb.
        verb: RuntimeVerb,
        /// The event that is sent when it has succeeded.
        event: Option<TaskEvent>,
        /// A file that is removed after the call.
        file: Option<PathBuf>,
    },
    /// `Checkpoint`.
    Checkpoint {
        /// The event that is sent when it has succeeded.
        event: TaskEvent,
        /// CRIU's log.
        log: PathBuf,
    },
}

impl Continuation {
    /// The text that engines expect before the runtime's message.
    fn prefix(&self) -> Option<&'static str> {
        match self {
            Continuation::Create(_) => Some("OCI runtime create failed"),
            Continuation::Start(ProcessId { exec: Some(_), .. }) => Some("OCI runtime exec failed"),
            Continuation::Start(_) => Some("OCI runtime start failed"),
            Continuation::Delete(_) => Some("OCI runtime delete failed"),
            Continuation::Verb { verb, .. } => Some(verb.prefix()),
            Continuation::Checkpoint { .. } => Some("OCI runtime checkpoint failed"),
            Continuation::Wait => None,
        }
    }

    /// The refusal in the words of containerd's own shim.
    pub(super) fn refused(&self, refusal: Refusal) -> Status {
        let prefix = self.prefix().filter(|_| refusal.code == Code::Runtime);
        let mut status = Status::from(refusal);
        if let Some(prefix) = prefix {
            status.message = format!("{prefix}: {}", status.message);
        }
        if let Continuation::Checkpoint { log, .. } = self {
            status.message = format!("{} path= {}", status.message, log.display());
        }
        status
    }
}

/// A verb of the runtime without a result of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RuntimeVerb {
    /// `kill`.
    Kill,
    /// `pause`.
    Pause,
    /// `resume`.
    Resume,
    /// `update`.
    Update,
}

impl RuntimeVerb {
    fn prefix(self) -> &'static str {
        match self {
            RuntimeVerb::Kill => "OCI runtime kill failed",
            RuntimeVerb::Pause => "OCI runtime pause failed",
            RuntimeVerb::Resume => "OCI runtime resume failed",
            RuntimeVerb::Update => "OCI runtime update failed",
        }
    }
}

/// The calls, by the token of the reply that they wait for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PendingCalls(pub(super) Table<WaitToken, (Caller, Continuation)>);

impl PendingCalls {
    /// Notes the caller of a request. Returns the reply if it has come at once.
    pub(super) fn note(
        &mut self,
        caller: Caller,
        then: Continuation,
        asked: Result<Reply, Refusal>,
    ) -> Option<(Continuation, Result<Reply, Refusal>)> {
        match asked {
            Ok(Reply::Pending(token)) => {
                self.0.insert(token, (caller, then));
                None
            }
            reply => Some((then, reply)),
        }
    }

    /// Takes out the call that a reply belongs to.
    pub(super) fn take(&mut self, token: WaitToken) -> Option<(Caller, Continuation)> {
        self.0.remove(&token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frontend::containerd::message::event::{TaskNamed, Topic};
    use crate::image::format::read_back;

    #[test]
    fn a_reply_finds_its_call_once() {
        let mut pending = PendingCalls::default();
        let caller = Caller::new(1, 3);
        assert_eq!(pending.note(caller, Continuation::Wait, Ok(Reply::Pending(WaitToken(7)))), None);
        assert_eq!(
            pending.note(caller, Continuation::Wait, Ok(Reply::Done)),
            Some((Continuation::Wait, Ok(Reply::Done)))
        );
        assert_eq!(read_back(&pending), pending);
        assert_eq!(pending.take(WaitToken(8)), None);
        assert_eq!(pending.take(WaitToken(7)), Some((caller, Continuation::Wait)));
        assert_eq!(pending.take(WaitToken(7)), None);
    }

    #[test]
    fn the_words_before_a_message_of_the_runtime_are_those_of_the_call() {
        let refused = |then: &Continuation, code| then.refused(Refusal::new(code, "no")).message;
        assert_eq!(
            refused(&Continuation::Create(ProcessId::init("c")), Code::Runtime),
            "OCI runtime create failed: no"
        );
        assert_eq!(refused(&Continuation::Start(ProcessId::init("c")), Code::Runtime), "OCI runtime start failed: no");
        assert_eq!(
            refused(&Continuation::Start(ProcessId::of("c", "e")), Code::Runtime),
            "OCI runtime exec failed: no"
        );
        assert_eq!(refused(&Continuation::Delete(ProcessId::init("c")), Code::NotFound), "no");
        assert_eq!(refused(&Continuation::Wait, Code::Runtime), "no");
        let event = Topic::Checkpointed.with(&TaskNamed::default());
        let checkpoint = Continuation::Checkpoint { event, log: "/b/criu-work/dump.log".into() };
        let message = "OCI runtime checkpoint failed: no path= /b/criu-work/dump.log";
        assert_eq!(refused(&checkpoint, Code::Runtime), message);
    }
}
