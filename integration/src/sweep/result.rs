//! The lines that a worker prints: the outcome of each injection, and the size of the recording.

use super::oracle::Outcome;
use serde_json::{Value, json};

/// The mark at the beginning of each line.
const MARK: &str = "@sweep ";

/// A line of the results.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// The run without an injection: its calls, those that cannot fail, and all points.
    Recorded { scenario: String, calls: u64, infallible: u64, points: u64 },
    /// An injection: `SCENARIO POINT ACTION`, its outcome, an explanation, and the milliseconds that it took.
    Injected { key: String, outcome: String, text: String, took: u64 },
    /// A scenario that could not be swept, and why.
    Broken { scenario: String, text: String },
}

/// The names of outcomes other than a fault.
pub const TOLERATED: &str = "tolerated";
/// Gone another way, as the row of the text says.
pub const ANSWERED: &str = "answered";
/// Failed, with the name of the call.
pub const FAILED: &str = "failed";
/// Failed, without the name of the call.
pub const UNNAMED: &str = "failed without the call's name";
/// Killed, and everything could be removed.
pub const KILLED: &str = "killed";
/// Not made in that run.
pub const UNREACHED: &str = "not reached";

impl Line {
    /// The line of an outcome, which took this many milliseconds.
    pub fn of(key: String, outcome: Outcome, took: u64) -> Line {
        let (outcome, text) = match outcome {
            Outcome::Tolerated => (TOLERATED, String::new()),
            Outcome::Answered(row) => (ANSWERED, row),
            Outcome::Failed(true) => (FAILED, String::new()),
            Outcome::Failed(false) => (UNNAMED, String::new()),
            Outcome::Killed => (KILLED, String::new()),
            Outcome::Unreached => (UNREACHED, String::new()),
            Outcome::Fault(kind, text) => (kind, text),
        };
        Line::Injected { key, outcome: outcome.to_owned(), text, took }
    }

    /// Whether the line is a fault.
    pub fn is_fault(&self) -> bool {
        match self {
            Line::Injected { outcome, .. } => {
                ![TOLERATED, ANSWERED, FAILED, UNNAMED, KILLED, UNREACHED].contains(&outcome.as_str())
            }
            Line::Broken { .. } => true,
            Line::Recorded { .. } => false,
        }
    }

    /// The scenario that it is about.
    pub fn scenario(&self) -> &str {
        match self {
            Line::Recorded { scenario, .. } | Line::Broken { scenario, .. } => scenario,
            Line::Injected { key, .. } => key.split(' ').next().unwrap_or_default(),
        }
    }
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let value = match self {
            Line::Recorded { scenario, calls, infallible, points } => {
                json!(["recorded", scenario, calls, infallible, points])
            }
            Line::Injected { key, outcome, text, took } => json!(["injected", key, outcome, text, took]),
            Line::Broken { scenario, text } => json!(["broken", scenario, text]),
        };
        write!(f, "{MARK}{value}")
    }
}

/// The line of a text, if it is one.
pub fn parse(text: &str) -> Option<Line> {
    let value: Value = serde_json::from_str(text.strip_prefix(MARK)?).ok()?;
    let word = |at: usize| value[at].as_str().map(str::to_owned);
    Some(match value[0].as_str()? {
        "recorded" => Line::Recorded {
            scenario: word(1)?,
            calls: value[2].as_u64()?,
            infallible: value[3].as_u64()?,
            points: value[4].as_u64()?,
        },
        "injected" => Line::Injected {
            key: word(1)?,
            outcome: word(2)?,
            text: word(3)?,
            took: value[4].as_u64().unwrap_or_default(),
        },
        "broken" => Line::Broken { scenario: word(1)?, text: word(2)? },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::{Line, parse};
    use crate::sweep::oracle::Outcome;

    #[test]
    fn a_line_survives_its_text() {
        let lines = [
            Line::Recorded { scenario: "run/plain".to_owned(), calls: 320, infallible: 40, points: 900 },
            Line::of("run/plain main/openat#1 EMFILE".to_owned(), Outcome::Fault("hangs", "two\nlines".to_owned()), 7),
            Line::Broken { scenario: "run/plain".to_owned(), text: "no".to_owned() },
        ];
        for line in lines {
            assert!(!line.to_string().contains('\n'));
            assert_eq!(parse(&line.to_string()), Some(line));
        }
        assert_eq!(parse("anything"), None);
    }

    #[test]
    fn faults_are_told_apart() {
        let line = |outcome| Line::of("run/plain p a".to_owned(), outcome, 0);
        assert!(line(Outcome::Fault("hangs", String::new())).is_fault());
        let answered = Outcome::Answered("row".to_owned());
        for outcome in [Outcome::Tolerated, answered, Outcome::Failed(false), Outcome::Killed, Outcome::Unreached] {
            assert!(!line(outcome).is_fault());
        }
        assert_eq!(line(Outcome::Killed).scenario(), "run/plain");
    }
}
