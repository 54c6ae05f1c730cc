//! A build without the feature `cgroup-v1`: nothing is for version 1, and what needs it is
//! refused where it is applied.

use super::Cgroup;
use crate::Hierarchy;
use windlass_base::error::{Fault, Result};
use windlass_base::spec::Resources;
use windlass_plan::cgroup::Limits;

/// What of a configuration is for hierarchies of version 1: there is no such thing.
pub enum Share {}

impl Share {
    /// Always `None`.
    pub fn take(_: &Hierarchy, _: &str, _: &Resources, _: &mut Limits, _: &mut Vec<Fault>) -> Result<Option<Share>> {
        Ok(None)
    }

    /// The directories that are the container's.
    pub fn places(&self) -> &[String] {
        match *self {}
    }

    /// Refuses cgroups of somebody else.
    pub fn refuse_in_use(&self) -> Result<()> {
        match *self {}
    }

    /// Refuses an update that would need a cgroup which is not one of `own`.
    pub fn refuse_others(&self, _: &[String]) -> Result<()> {
        match *self {}
    }

    /// Makes the cgroups.
    pub fn make(&self) -> Result<Cgroup> {
        match *self {}
    }
}
