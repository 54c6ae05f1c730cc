//! One cgroup of version 2.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::unistd::{Gid, Uid, fchownat};

use super::cgroups_path::unified_path;
use super::directory::{Directory, if_there, number_after, read_file};
use super::events;
use super::hierarchy::Hierarchy;
use super::processes::pids_of;
use windlass_base::error::{Error, Origin, Result, WithContext};
use windlass_plan::cgroup::{MemoryCheck, MemoryInForce};
use windlass_sys::Called;

/// An open cgroup.
#[derive(Debug)]
pub struct Cgroup {
    pub(super) directory: Directory,
    pub(super) created: bool,
}

impl Cgroup {
    /// Opens a cgroup by its path in the file system.
    pub fn open(path: &str) -> Result<Cgroup> {
        let directory = Directory::open(path).with_context(|| format!("cannot open cgroup {path:?}"))?;
        Ok(Cgroup { directory, created: false })
    }

    /// Opens the cgroup of a scope that systemd has just started for the container.
    pub fn of_scope(path: &str) -> Result<Cgroup> {
        Ok(Cgroup { created: true, ..Cgroup::open(path)? })
    }

    /// Opens the cgroup of a process. Returns `None` if it has none of version 2.
    pub fn of_process(hierarchy: &Hierarchy, pid: i32) -> Result<Option<Cgroup>> {
        let Some(root) = hierarchy.root() else { return Ok(None) };
        let file = format!("/proc/{pid}/cgroup");
        let text = read_file(&file).with_context(|| format!("cannot read {file}"))?;
        let Some(path) = unified_path(&text) else { return Ok(None) };
        let path = path.trim_start_matches('/');
        let directory =
            root.open_below(path).with_context(|| format!("cannot open cgroup {:?}", root.path_of(path)))?;
        Ok(Some(Cgroup { directory, created: false }))
    }

    /// Opens a sub-cgroup. `path` is relative, without `..`.
    pub fn open_below(&self, path: &str) -> Result<Cgroup> {
        if path.split('/').any(|component| component == "..") || path.contains(['\n', '\0']) {
            return Err(Error::usage(format!("{path} is not a sub cgroup path")));
        }
        let path = path.trim_matches('/');
        // The words are those of runc's message.
        let what = || {
            format!("cannot open the cgroup for adding pid to cgroups: {}/cgroup.procs", self.directory.path_of(path))
        };
        let directory = self.directory.open_below(path).with_context(what)?;
        Ok(Cgroup { directory, created: false })
    }

    /// Its path in the file system.
    pub fn path(&self) -> &str {
        &self.directory.path
    }

    /// Whether the cgroup was created for the container, and not found.
    pub fn was_created(&self) -> bool {
        self.created
    }

    /// Its directory, for `CLONE_INTO_CGROUP`.
    pub fn dir_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Moves a process into the cgroup.
    pub fn add_process(&self, pid: i32) -> Result<()> {
        self.directory.write("cgroup.procs", &pid.to_string()).with_context(|| {
            format!("cannot move a process: adding pid {pid} to cgroups: {}/cgroup.procs", self.path())
        })
    }

    /// Refuses limits below the present usage (`checkBeforeUpdate`). Succeeds if the usage cannot be read.
    pub fn check_memory(&self, check: &MemoryCheck) -> Result<()> {
        let usage = self.directory.read("memory.current").ok().and_then(|text| text.trim().parse::<u64>().ok());
        check.compare([usage, usage])
    }

    /// Its memory limits.
    pub fn memory_in_force(&self) -> MemoryInForce {
        let bytes = |file: &str| self.directory.read(file).ok()?.trim().parse().ok();
        MemoryInForce { limit: bytes("memory.max"), swap: bytes("memory.swap.max") }
    }

    /// The quota of `cpu.max` in microseconds; `None` without a limit.
    pub fn cpu_quota(&self) -> Option<i64> {
        self.directory.read("cpu.max").ok()?.split(' ').next()?.parse().ok()
    }

    /// Whether a process is in the cgroup or below.
    pub fn is_populated(&self) -> Result<bool> {
        let events =
            if_there(self.directory.read("cgroup.events")).with_context(|| self.cannot("read the state of"))?;
        Ok(events.is_some_and(|events| number_after(&events, "populated") == Some(1)))
    }

    /// Waits until no process is in the cgroup or below. Returns false if the time is over.
    pub fn wait_until_empty(&self, within: Duration) -> Result<bool> {
        let empty = &mut |events: &str| number_after(events, "populated") == Some(0);
        events::wait_until(&self.directory, within, empty).with_context(|| self.cannot("watch"))
    }

    /// Its processes, and with `recursive` those of its sub-cgroups.
    pub fn pids(&self, recursive: bool) -> Result<Vec<i32>> {
        pids_of(&self.directory, recursive).with_context(|| self.cannot("list the processes of"))
    }

    /// The number of processes in it and below that the OOM killer has killed; `None` without a memory controller.
    pub fn oom_kills(&self) -> Option<u64> {
        number_after(&self.directory.read("memory.events").ok()?, "oom_kill")
    }

    /// Delegates the cgroup to a user of the host: changes the owner of the directory and of the files in
    /// `/sys/kernel/cgroup/delegate`, or of the three files that were delegated before Linux 4.15 had this list.
    pub fn delegate(&self, uid: u32, gid: Option<u32>) -> Result<()> {
        let list = std::fs::read_to_string("/sys/kernel/cgroup/delegate")
            .unwrap_or_else(|_| "cgroup.procs\ncgroup.subtree_control\ncgroup.threads\n".into());
        for name in std::iter::once(".").chain(list.lines()) {
            let (owner, group) = (Some(Uid::from_raw(uid)), gid.map(Gid::from_raw));
            let flags = nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW;
            let chown = fchownat(&self.directory, name, owner, group, flags)
                .called(|| format!("fchownat({:?}, {uid})", self.directory.path_of(name)));
            if_there(chown)
                .with_context(|| format!("cannot give cgroup {:?} to user {uid}", self.path()))
                .map_err(|error| error.with_origin(Origin::Default("the container's root owns its cgroup".into())))?;
        }
        Ok(())
    }

    pub(super) fn cannot(&self, what: &str) -> String {
        format!("cannot {what} cgroup {:?}", self.path())
    }
}
