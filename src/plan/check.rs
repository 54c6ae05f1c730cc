//! What is wrong with a configuration, without making anything.

use windlass_base::error::Diagnostic;
use windlass_base::spec::Spec;

use crate::create::create;
use crate::options::Options;

/// What planning has to say about a configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Why `create` would refuse it.
    pub errors: Vec<Diagnostic>,
    /// What `create` would ignore.
    pub warnings: Vec<Diagnostic>,
}

/// Finds all that can be found without looking at the host.
pub fn check(spec: &Spec, options: &Options) -> Findings {
    match create("check", spec, options) {
        Ok(plan) => Findings { errors: Vec::new(), warnings: plan.warnings },
        Err(error) => Findings { errors: error.into_faults(), warnings: Vec::new() },
    }
}
