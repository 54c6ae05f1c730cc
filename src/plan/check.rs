//! Checks a configuration without making anything.

use windlass_base::error::Diagnostic;
use windlass_base::spec::Spec;

use crate::create::create;
use crate::options::Options;

/// The errors and warnings of planning a configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// The reasons for which `create` would refuse it.
    pub errors: Vec<Diagnostic>,
    /// The elements that `create` would ignore.
    pub warnings: Vec<Diagnostic>,
}

/// Plans the configuration without looking at the host, and returns the errors and warnings.
pub fn check(spec: &Spec, options: &Options) -> Findings {
    match create("check", spec, options) {
        Ok(plan) => Findings { errors: Vec::new(), warnings: plan.warnings },
        Err(error) => Findings { errors: error.into_faults(), warnings: Vec::new() },
    }
}
