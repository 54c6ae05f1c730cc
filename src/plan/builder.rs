//! A plan while it is being made.

use windlass_base::error::{Diagnostic, Error, Origin, Result};

use crate::mount::{Source, SourceId};
use crate::step::{Action, Step};

/// The steps so far, and the faults found while making them.
#[derive(Default)]
pub(crate) struct PlanBuilder {
    pub steps: Vec<Step>,
    pub sources: Vec<Source>,
    pub faults: Vec<Diagnostic>,
    pub warnings: Vec<Diagnostic>,
}

impl PlanBuilder {
    pub(crate) fn step(&mut self, origin: Origin, action: Action) {
        self.steps.push(Step { origin, action });
    }

    pub(crate) fn config(&mut self, pointer: impl Into<String>, action: Action) {
        self.step(Origin::Config(pointer.into().into()), action);
    }

    pub(crate) fn always(&mut self, why: &'static str, action: Action) {
        self.step(Origin::Default(why.into()), action);
    }

    pub(crate) fn fault(&mut self, pointer: impl Into<String>, msg: impl Into<String>) {
        self.faults.push(Diagnostic { pointer: pointer.into(), msg: msg.into() });
    }

    pub(crate) fn warn(&mut self, pointer: impl Into<String>, msg: impl Into<String>) {
        self.warnings.push(Diagnostic { pointer: pointer.into(), msg: msg.into() });
    }

    pub(crate) fn source(&mut self, source: Source) -> SourceId {
        self.sources.push(source);
        SourceId::new(self.sources.len() - 1)
    }

    pub(crate) fn build<T>(self, make: impl FnOnce(PlanBuilder) -> T) -> Result<T> {
        if self.faults.is_empty() {
            return Ok(make(self));
        }
        // Some messages quote the configuration, and a terminal or a log cannot show a NUL.
        let readable = |fault: Diagnostic| Diagnostic { msg: fault.msg.replace('\0', "\\0"), ..fault };
        Err(Error::faults(self.faults.into_iter().map(readable).collect()))
    }
}

/// The message for a name that is unknown or missing.
pub(crate) fn unknown(what: &str, word: &str) -> String {
    if word.is_empty() { format!("{what} is missing") } else { format!("unknown {what} {word:?}") }
}
