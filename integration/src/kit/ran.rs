//! The outcome of one command, with assertions that show all of it on failure.

use super::stop::{Context, Stop, Verdict, fail};
use serde_json::Value;
use std::time::Duration;

/// A command that has ended.
#[derive(Clone, Debug)]
pub struct Ran {
    /// The words of the command line.
    pub command: String,
    /// The exit code, or minus the signal number.
    pub code: i32,
    /// Everything written to stdout so far.
    pub stdout: String,
    /// Everything written to stderr so far.
    pub stderr: String,
    /// Wall time.
    pub took: Duration,
}

impl Ran {
    /// The exit code must be 0.
    pub fn ok(self) -> Verdict<Ran> {
        self.code_is(0)
    }

    /// The exit code must be another than 0, and no signal.
    pub fn fails(self) -> Verdict<Ran> {
        if self.code > 0 { Ok(self) } else { self.wrong("an exit code above 0") }
    }

    /// The exit code must be exactly this.
    pub fn code_is(self, code: i32) -> Verdict<Ran> {
        if self.code == code { Ok(self) } else { self.wrong(&format!("exit code {code}")) }
    }

    /// Standard output must be exactly this.
    pub fn stdout_is(self, text: &str) -> Verdict<Ran> {
        if self.stdout == text { Ok(self) } else { self.wrong(&format!("stdout {text:?}")) }
    }

    /// Standard output must contain this.
    pub fn stdout_has(self, text: &str) -> Verdict<Ran> {
        if self.stdout.contains(text) { Ok(self) } else { self.wrong(&format!("{text:?} in stdout")) }
    }

    /// Standard output must not contain this.
    pub fn stdout_lacks(self, text: &str) -> Verdict<Ran> {
        if self.stdout.contains(text) { self.wrong(&format!("no {text:?} in stdout")) } else { Ok(self) }
    }

    /// Standard error must contain this.
    pub fn stderr_has(self, text: &str) -> Verdict<Ran> {
        if self.stderr.contains(text) { Ok(self) } else { self.wrong(&format!("{text:?} in stderr")) }
    }

    /// Standard error must contain one of these.
    pub fn stderr_has_any(self, texts: &[&str]) -> Verdict<Ran> {
        if texts.iter().any(|text| self.stderr.contains(text)) {
            Ok(self)
        } else {
            self.wrong(&format!("one of {texts:?} in stderr"))
        }
    }

    /// Standard output, read as JSON.
    pub fn json(&self) -> Verdict<Value> {
        serde_json::from_str(&self.stdout).context(format!("JSON expected from {self}"))
    }

    /// The lines of standard output.
    pub fn lines(&self) -> Vec<&str> {
        self.stdout.lines().collect()
    }

    /// Fails with all that is known about the command.
    pub fn wrong<T>(&self, expected: &str) -> Verdict<T> {
        fail(format!("expected {expected}\n{self}"))
    }

    /// Fails unless `holds`.
    pub fn check(self, holds: bool, expected: &str) -> Verdict<Ran> {
        if holds { Ok(self) } else { self.wrong(expected) }
    }
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "command: {}\nexit: {}", self.command, self.code)?;
        for (name, text) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            if !text.is_empty() {
                let end = text.char_indices().nth(1500).map_or(text.len(), |(at, _)| at);
                write!(f, "\n{name}: {}", text[..end].trim_end())?;
            }
        }
        Ok(())
    }
}

impl From<Ran> for Stop {
    fn from(ran: Ran) -> Stop {
        Stop::Fail(ran.to_string())
    }
}
