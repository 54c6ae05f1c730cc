//! The limits of version 1 in a build without the feature `cgroup-v1`: there are none. A limit that needs
//! version 1 is refused where the limits of version 2 are applied.

use super::Cgroups;
use crate::Hierarchy;
use windlass_base::error::{Diagnostic, Result};
use windlass_base::spec::Resources;
use windlass_plan::cgroup::Limits as Planned;

/// The limits of a configuration that hierarchies of version 1 apply. This build has none.
pub enum Limits {}

impl Limits {
    /// Returns `None`.
    pub fn take(
        _: &Hierarchy,
        _: &str,
        _: &Resources,
        _: &mut Planned,
        _: &mut Vec<Diagnostic>,
    ) -> Result<Option<Limits>> {
        Ok(None)
    }

    /// The paths of the container's cgroups.
    pub fn paths(&self) -> &[String] {
        match *self {}
    }

    /// Refuses cgroups that have processes, and frozen ones.
    pub fn refuse_in_use(&self) -> Result<()> {
        match *self {}
    }

    /// Refuses an update that needs a cgroup outside of `own`.
    pub fn refuse_others(&self, _: &[String]) -> Result<()> {
        match *self {}
    }

    /// Makes the cgroups.
    pub fn make(&self) -> Result<Cgroups> {
        match *self {}
    }
}
