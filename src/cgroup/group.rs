//! The processes of a container, whichever version of cgroups knows them.

use super::v1;
use super::v2::Cgroup;
use windlass_base::error::Result;

/// The cgroup that holds all processes of a container.
#[derive(Debug)]
pub enum Group {
    /// Version 2, wherever it is mounted.
    Unified(Cgroup),
    /// Version 1, on hosts without version 2.
    V1(v1::Cgroup),
}

impl Group {
    /// The processes in it and below.
    pub fn pids(&self) -> Result<Vec<i32>> {
        match self {
            Group::Unified(cgroup) => cgroup.pids(true),
            Group::V1(cgroup) => cgroup.pids(),
        }
    }

    /// Kills every process, frozen or not. Does not wait for them to be gone.
    pub fn kill(&self) -> Result<()> {
        match self {
            Group::Unified(cgroup) => cgroup.kill(),
            Group::V1(cgroup) => cgroup.kill(),
        }
    }

    /// Stops every process, and waits until they have stopped.
    pub fn freeze(&self) -> Result<()> {
        match self {
            Group::Unified(cgroup) => cgroup.freeze(),
            Group::V1(cgroup) => cgroup.freeze(),
        }
    }

    /// Lets the processes go on, and waits until they can.
    pub fn thaw(&self) -> Result<()> {
        match self {
            Group::Unified(cgroup) => cgroup.thaw(),
            Group::V1(cgroup) => cgroup.thaw(),
        }
    }

    /// Thaws it if it is frozen, without waiting: what was killed dies, and is not awaited here.
    pub fn let_go(&self) -> Result<()> {
        match self {
            Group::Unified(cgroup) => cgroup.let_go(),
            Group::V1(cgroup) => cgroup.let_go(),
        }
    }

    /// Whether it was told to be frozen, itself and not by an ancestor.
    pub fn is_frozen(&self) -> Result<bool> {
        match self {
            Group::Unified(cgroup) => cgroup.is_frozen(),
            Group::V1(cgroup) => cgroup.is_frozen(),
        }
    }

    /// Whether only an ancestor keeps it frozen: it cannot be thawed, and whoever enters it stops.
    pub fn is_frozen_from_above(&self) -> Result<bool> {
        match self {
            Group::Unified(cgroup) => cgroup.is_frozen_from_above(),
            Group::V1(cgroup) => cgroup.is_frozen_from_above(),
        }
    }
}
