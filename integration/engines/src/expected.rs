//! What is known to fail, on whom, and why.

/// On which columns of a row a case failed.
#[derive(Debug, PartialEq, Eq)]
pub enum Who<'r> {
    /// On every one.
    All,
    /// On these.
    Only(Vec<&'r String>),
}

/// A known failure.
pub struct Known {
    /// The full name of the case.
    pub case: &'static str,
    /// `all`, for what is the engine's or the machine's own; or the beginning of the columns.
    pub on: &'static str,
    /// Why.
    pub reason: &'static str,
}

impl Known {
    /// Whether a failure on these columns is the known one.
    pub fn covers(&self, who: &Who) -> bool {
        match who {
            Who::All => self.on == "all",
            Who::Only(labels) => labels.iter().all(|label| label.starts_with(self.on)),
        }
    }
}

/// What is known about a case.
pub fn about(case: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|known| known.case == case)
}

/// Seen with the engines of Debian 12 and runc 1.1.5.
pub const KNOWN: &[Known] = &[];
