//! Killing the processes of a cgroup, and removing it.

use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::Signal;

use super::directory::{Directory, if_there};
use super::processes::signal_each;
use super::v2::Cgroup;
use windlass_base::error::{Error, Kind, Result, WithContext};
use windlass_sys::poll::Deadline;
use windlass_sys::{SyscallError, fd, tree, waiting};

/// The treatment of processes in a cgroup that is to be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kill {
    /// They are killed.
    Yes,
    /// They stay, and the cgroup is not removed, which is an error.
    No,
}

/// How long killed processes may take to end.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait for them before they are killed again.
const ROUND: Duration = Duration::from_millis(100);

impl Cgroup {
    /// Kills every process in it and below, but for those of [`Cgroup::kill_leaderless`]. Does not wait until they have
    /// ended.
    pub fn kill(&self) -> Result<()> {
        match self.directory.write("cgroup.kill", "1") {
            // The file is missing before Linux 5.14, and a threaded cgroup refuses it.
            Err(SyscallError { errno: Errno::ENOENT | Errno::EOPNOTSUPP, .. }) => self.kill_listed(),
            // The cgroup was removed meanwhile: systemd removes an empty scope by itself.
            Err(SyscallError { errno: Errno::ENODEV, .. }) => Ok(()),
            result => result.with_context(|| self.cannot("kill the processes of")),
        }
    }

    /// Kills the processes whose main thread has ended while others run. `cgroup.kill` signals the main thread alone
    /// (cgroup_kill in kernel/cgroup/cgroup.c), which does not reach the others then.
    pub fn kill_leaderless(&self) -> Result<()> {
        self.kill_by_pidfds(waiting::is_leaderless)
    }

    /// Kills those of its processes and of the processes below for which `chosen` holds.
    fn kill_by_pidfds(&self, chosen: fn(i32) -> bool) -> Result<()> {
        let mut pids = self.pids(true)?;
        pids.retain(|pid| chosen(*pid));
        signal_each(&pids, Signal::SIGKILL as i32, &|| self.pids(true))
            .map_err(|error| error.prefixed(self.cannot("kill the processes of")))
    }

    /// Kills the listed processes while the cgroup is frozen, since a running process could fork and so evade
    /// the list. A fatal signal reaches a frozen process.
    fn kill_listed(&self) -> Result<()> {
        let frozen = self.freeze();
        let killed = self.kill_by_pidfds(|_| true);
        let thawed = if frozen.is_ok() { self.thaw() } else { Ok(()) };
        killed.and(thawed)
    }

    /// Kills every process in it and below, and waits for their end. Returns whether all have ended in time.
    fn kill_and_wait(&self) -> Result<bool> {
        let deadline = Deadline::after(TIMEOUT);
        while !deadline.has_passed() {
            self.kill()?;
            self.thaw_nowait()?;
            if self.wait_until_empty(ROUND)? {
                return Ok(true);
            }
            self.kill_leaderless()?;
        }
        Ok(false)
    }

    /// Removes the cgroup with all its sub-cgroups. Succeeds if it does not exist any more.
    pub fn remove(self, kill: Kill) -> Result<()> {
        let path = self.directory.path.clone();
        drop(self);
        remove(&path, kill)
    }
}

/// Removes the cgroup at `path` in the file system with all its sub-cgroups. Succeeds if it does not exist any more.
///
/// An empty cgroup takes one system call. Otherwise this waits until its processes have ended. A process in it
/// that makes cgroups meanwhile is killed with the others; a process outside can delay the removal a few times.
pub fn remove(path: &str, kill: Kill) -> Result<()> {
    if remove_unused(path)? {
        return Ok(());
    }
    let Some(directory) = if_there(Directory::open(path)).with_context(|| format!("cannot open cgroup {path:?}"))?
    else {
        return Ok(());
    };
    let cgroup = Cgroup { directory, created: false };
    for attempt in 1.. {
        let is_empty = match kill {
            Kill::Yes => cgroup.kill_and_wait()?,
            Kill::No => cgroup.wait_until_empty(TIMEOUT)?,
        };
        if !is_empty {
            return Err(still_in(path, &cgroup.pids(true)?));
        }
        match remove_tree(path) {
            Err(SyscallError { errno: Errno::EBUSY, .. }) if attempt < ATTEMPTS => {}
            result => return result.with_context(|| format!("cannot remove cgroup {path:?}")),
        }
    }
    Ok(())
}

const ATTEMPTS: u32 = 3;

/// The error for a cgroup that cannot be removed because of these processes.
pub(super) fn still_in(path: &str, pids: &[i32]) -> Error {
    Error::new(Kind::Kernel, format!("cannot remove cgroup {path:?}: still in it: {}", waiting::describe_all(pids)))
        .with_hint(waiting::HINT)
}

/// Removes an empty cgroup after its sub-cgroups. The kernel takes a cgroup apart asynchronously, so it may
/// still be busy just after its last process has ended.
fn remove_tree(path: &str) -> windlass_sys::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(1);
    let removed = tree::remove_with(fd::CWD, path, tree::Files::Leave, |dir, name, alone| {
        let mut pause = Duration::from_micros(200);
        loop {
            match fd::rmdirat(dir, name) {
                Err(SyscallError { errno: Errno::EBUSY, .. }) if alone && Instant::now() < deadline => {
                    std::thread::sleep(pause);
                    pause *= 2;
                }
                result => return result,
            }
        }
    });
    if_there(removed).map(drop)
}

/// Removes a cgroup without processes and sub-cgroups. Returns false if it has some.
pub fn remove_unused(path: &str) -> Result<bool> {
    match remove_empty(path) {
        Err(SyscallError { errno: Errno::EBUSY, .. }) => Ok(false),
        result => result.map(|()| true).with_context(|| format!("cannot remove cgroup {path:?}")),
    }
}

pub(super) fn remove_empty(path: &str) -> windlass_sys::Result<()> {
    if_there(fd::rmdirat(fd::CWD, path)).map(drop)
}
