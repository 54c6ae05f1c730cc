//! OOM kills in a container.
//!
//! In cgroup v2 inotify reports changes of the counter. In cgroup v1 the counter is read when a process has ended.

use std::path::PathBuf;

use super::notifier::{Change, Watch};
use super::poll::Poll;
use windlass_cgroup::membership::{Membership, oom_kills};

/// The counter of OOM kills of a container's cgroup.
#[derive(Debug)]
pub(crate) struct OomWatch {
    pub(super) file: PathBuf,
    pub(super) reported: u64,
    pub(super) watch: Option<Watch>,
}

impl OomWatch {
    /// The counter of a cgroup. Returns `None` without a memory controller.
    pub(super) fn of(membership: &Membership) -> Option<OomWatch> {
        let file = membership.oom_file()?;
        let reported = oom_kills(&file)?;
        Some(OomWatch { file, reported, watch: None })
    }

    /// Reports changes from now on. In cgroup v1 the kernel reports none.
    pub(super) fn notify(&mut self, poll: &Poll) {
        self.watch = poll.notify(&self.file, Change::Content).ok();
    }

    /// Number of processes that were killed since the last call.
    pub(super) fn new_kills(&mut self) -> u64 {
        let now = oom_kills(&self.file).unwrap_or(self.reported);
        let new_kills = now.saturating_sub(self.reported);
        self.reported = self.reported.max(now);
        new_kills
    }
}
