//! The context of every verb: the global flags, the store of containers, and the warnings.

use crate::cli::Global;
use windlass_base::error::{Diagnostic, Error, Result};
use windlass_store::Store;

use super::passed_fds::PassedFds;

/// One run of the program.
pub(super) struct Session<'a> {
    /// The flags before the verb.
    pub global: &'a Global,
    /// Whether init reports each step.
    pub debug: bool,
    /// Descriptors that the caller passes to the process.
    pub passed: PassedFds,
    /// Warnings so far. A failure reports them with its error, a success at the end.
    pub warnings: Vec<Diagnostic>,
}

impl Session<'_> {
    pub(super) fn store(&self) -> Result<Store> {
        Store::open(&self.global.root)
    }

    /// Adds warnings; with `--strict` the first is an error.
    pub(super) fn warn(&mut self, warnings: Vec<Diagnostic>) -> Result<()> {
        if self.global.strict && !warnings.is_empty() {
            return Err(Error::faults(warnings));
        }
        self.warnings.extend(warnings);
        Ok(())
    }
}
