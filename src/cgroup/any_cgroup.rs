//! The cgroup of a container, of either version.

use super::v1;
use super::v2::Cgroup;
use windlass_base::error::Result;

/// The cgroup that holds all processes of a container, of either version.
#[derive(Debug)]
pub enum AnyCgroup {
    /// Version 2.
    Unified(Cgroup),
    /// Version 1, on hosts without version 2.
    V1(v1::Cgroups),
}

impl AnyCgroup {
    /// The processes in the cgroup and below.
    pub fn pids(&self) -> Result<Vec<i32>> {
        match self {
            AnyCgroup::Unified(cgroup) => cgroup.pids(true),
            AnyCgroup::V1(cgroups) => cgroups.pids(),
        }
    }

    /// Kills every process, frozen or not, but for those of [`AnyCgroup::kill_leaderless`]. Does not wait until they
    /// have ended.
    pub fn kill(&self) -> Result<()> {
        match self {
            AnyCgroup::Unified(cgroup) => cgroup.kill(),
            AnyCgroup::V1(cgroups) => cgroups.kill(),
        }
    }

    /// Kills the processes whose main thread has ended while others run.
    pub fn kill_leaderless(&self) -> Result<()> {
        match self {
            AnyCgroup::Unified(cgroup) => cgroup.kill_leaderless(),
            // Here `kill` signals each process.
            AnyCgroup::V1(_) => Ok(()),
        }
    }

    /// Freezes every process, and waits until they are frozen.
    pub fn freeze(&self) -> Result<()> {
        match self {
            AnyCgroup::Unified(cgroup) => cgroup.freeze(),
            AnyCgroup::V1(cgroups) => cgroups.freeze(),
        }
    }

    /// Thaws every process, and waits until they run.
    pub fn thaw(&self) -> Result<()> {
        match self {
            AnyCgroup::Unified(cgroup) => cgroup.thaw(),
            AnyCgroup::V1(cgroups) => cgroups.thaw(),
        }
    }

    /// Thaws the cgroup if it is frozen, and does not wait.
    pub fn thaw_nowait(&self) -> Result<()> {
        match self {
            AnyCgroup::Unified(cgroup) => cgroup.thaw_nowait(),
            AnyCgroup::V1(cgroups) => cgroups.thaw_nowait(),
        }
    }

    /// Whether the cgroup was frozen itself, and not only by an ancestor.
    pub fn is_frozen(&self) -> Result<bool> {
        match self {
            AnyCgroup::Unified(cgroup) => cgroup.is_frozen(),
            AnyCgroup::V1(cgroups) => cgroups.is_frozen(),
        }
    }

    /// A sub-cgroup with processes that is frozen by itself. Version 1 has none: there sub-cgroups freeze with their
    /// parent.
    pub fn frozen_below(&self) -> Result<Option<String>> {
        match self {
            AnyCgroup::Unified(cgroup) => cgroup.frozen_below(),
            AnyCgroup::V1(_) => Ok(None),
        }
    }

    /// Whether the cgroup is frozen only by an ancestor. Then it cannot be thawed, and every process that enters it
    /// freezes.
    pub fn is_frozen_by_ancestor(&self) -> Result<bool> {
        match self {
            AnyCgroup::Unified(cgroup) => cgroup.is_frozen_by_ancestor(),
            AnyCgroup::V1(cgroups) => cgroups.is_frozen_by_ancestor(),
        }
    }
}
