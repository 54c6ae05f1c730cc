//! The outcome of a case, and the line that passes it out of a harness.

use serde_json::{Value, json};

/// Marks the lines that carry an [`Event`].
const MARK: &str = "@event ";

/// How a case ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaseOutcome {
    /// As expected.
    Pass,
    /// Not as expected.
    Fail,
    /// The case could not be judged.
    Skip,
    /// The case has not run: this harness lacks a feature that another may have.
    Defer,
}

const OUTCOMES: [(CaseOutcome, &str); 4] = [
    (CaseOutcome::Pass, "pass"),
    (CaseOutcome::Fail, "FAIL"),
    (CaseOutcome::Skip, "skip"),
    (CaseOutcome::Defer, "defer"),
];

impl CaseOutcome {
    /// The word for it in reports.
    pub fn name(self) -> &'static str {
        OUTCOMES.iter().find(|(outcome, _)| *outcome == self).map_or("", |(_, name)| name)
    }

    /// The outcome with this name.
    pub fn named(name: &str) -> Option<CaseOutcome> {
        OUTCOMES.iter().find(|(_, known)| *known == name).map(|(outcome, _)| *outcome)
    }
}

/// A case on a runtime.
#[derive(Clone, Debug)]
pub struct Event {
    /// The name of the case.
    pub case: String,
    /// `runc`, `crun`, `windlass`, …
    pub runtime: String,
    /// Whether this is the peer of a comparison.
    pub peer: bool,
    /// How it ended.
    pub outcome: CaseOutcome,
    /// Milliseconds it took.
    pub ms: u64,
    /// Why it failed or was skipped.
    pub text: String,
}

impl Event {
    /// The line that passes the event out of a harness.
    pub fn to_line(&self) -> String {
        let value = json!([self.case, self.runtime, self.peer, self.outcome.name(), self.ms, self.text]);
        format!("{MARK}{value}")
    }

    /// The event of such a line.
    pub fn from_line(line: &str) -> Option<Event> {
        let value: Value = serde_json::from_str(line.strip_prefix(MARK)?).ok()?;
        let text = |at: usize| value[at].as_str().map(str::to_owned);
        Some(Event {
            case: text(0)?,
            runtime: text(1)?,
            peer: value[2].as_bool()?,
            outcome: CaseOutcome::named(value[3].as_str()?)?,
            ms: value[4].as_u64()?,
            text: text(5)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{CaseOutcome, Event};

    #[test]
    fn an_event_survives_its_line() {
        let event = Event {
            case: "a::b".to_owned(),
            runtime: "runc".to_owned(),
            peer: true,
            outcome: CaseOutcome::Fail,
            ms: 12,
            text: "two\nlines \"quoted\"".to_owned(),
        };
        let line = event.to_line();
        assert!(!line.contains('\n'));
        let back = Event::from_line(&line).expect("our own line");
        assert_eq!((back.case, back.outcome, back.ms, back.text), (event.case, event.outcome, event.ms, event.text));
    }

    #[test]
    fn other_lines_are_no_events() {
        assert!(Event::from_line("Linux version 6.1").is_none());
        assert!(Event::from_line("@event [1,2]").is_none());
    }
}
