//! The runtime's `state` of a container whose shim is dead.

use serde::Deserialize;

use crate::{ExitStatus, Phase};
use windlass_sys::clock;
use windlass_sys::process::Exit;

/// The members of the answer that are used. Only windlass reports how a container ended.
#[derive(Debug, Deserialize)]
pub(crate) struct RuntimeState {
    status: String,
    /// The process id of init; 0 if it has ended.
    #[serde(default)]
    pub(crate) pid: i32,
    exit: Option<Ended>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ended {
    code: Option<i32>,
    signal: Option<String>,
    #[serde(default)]
    oom_killed: bool,
}

impl RuntimeState {
    /// Reads the answer.
    pub(crate) fn parse(text: &[u8]) -> Option<RuntimeState> {
        serde_json::from_slice(text).ok()
    }

    /// The phase. `None`: the container is being made, or the status is the runtime's own.
    pub(crate) fn phase(&self) -> Option<Phase> {
        match self.status.as_str() {
            "created" => Some(Phase::Created),
            "running" => Some(Phase::Running),
            "paused" => Some(Phase::Paused),
            "stopped" => Some(Phase::Stopped),
            _ => None,
        }
    }

    /// Whether the container has a process, or is being created.
    pub(crate) fn is_alive(&self) -> bool {
        self.status == "creating" || self.phase().is_some_and(|phase| phase != Phase::Stopped)
    }

    /// How init ended, if the runtime knows. The time is now: other runtimes do not tell when.
    pub(crate) fn end(&self) -> Option<ExitStatus> {
        let ended = self.exit.as_ref().filter(|_| !self.is_alive())?;
        let signal = |name: &String| windlass_args::values::signal(name).ok();
        let exit = ended.code.map(Exit::Code).or_else(|| ended.signal.as_ref().and_then(signal).map(Exit::Signal))?;
        Some(ExitStatus { exit: Some(exit), oom_killed: ended.oom_killed, at: clock::wall() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(text: &str) -> Option<Option<Exit>> {
        RuntimeState::parse(text.as_bytes())?.end().map(|status| status.exit)
    }

    #[test]
    fn the_end_is_read_where_the_runtime_says_it() {
        assert_eq!(end(r#"{"status":"stopped","exit":{"code":3,"oomKilled":false}}"#), Some(Some(Exit::Code(3))));
        assert_eq!(end(r#"{"status":"stopped","exit":{"signal":"SIGTERM"}}"#), Some(Some(Exit::Signal(15))));
        assert_eq!(end(r#"{"status":"stopped","exit":{"signal":"40"}}"#), Some(Some(Exit::Signal(40))));
        assert_eq!(end(r#"{"status":"stopped","exit":{"oomKilled":true}}"#), None, "only that memory was short");
        assert_eq!(end(r#"{"status":"running","exit":{"code":3}}"#), None);
        assert_eq!(end(r#"{"status":"stopped","pid":0}"#), None, "another runtime");
    }

    #[test]
    fn a_container_in_the_making_is_alive() {
        let alive = |status: &str| RuntimeState::parse(format!(r#"{{"status":"{status}"}}"#).as_bytes());
        let alive = |status: &str| alive(status).map(|state| (state.is_alive(), state.phase()));
        assert_eq!(alive("creating"), Some((true, None)));
        assert_eq!(alive("paused"), Some((true, Some(Phase::Paused))));
        assert_eq!(alive("stopped"), Some((false, Some(Phase::Stopped))));
    }
}
