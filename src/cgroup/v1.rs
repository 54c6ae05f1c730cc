//! The cgroups of one container in hierarchies of version 1.
//!
//! On a host with cgroup2 they carry limits only; the cgroup of version 2 tracks the processes. On a host without
//! it they track the processes too. Every build makes a cgroup in the devices hierarchy for the device rules of
//! hosts without cgroup2 ([`Devices`]). Only the feature `cgroup-v1` applies the other limits ([`Limits`]). Every
//! build enters and removes what any build has made.

mod devices;
#[cfg(feature = "cgroup-v1")]
mod limits;
#[cfg(not(feature = "cgroup-v1"))]
mod no_limits;

pub use devices::{Devices, unavailable as devices_unavailable};
#[cfg(feature = "cgroup-v1")]
pub use limits::Limits;
#[cfg(not(feature = "cgroup-v1"))]
pub use no_limits::Limits;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::Signal;

use super::cgroups_path::from_cgroups_path;
use super::directory::{Directory, if_there, number_after, read_file};
use super::freezer::{TIMEOUT, not_frozen};
use super::hierarchy::{Hierarchy, HierarchyV1};
use super::processes::{pids_of, signal_each};
use super::remove::{self, Kill};
use windlass_base::error::{Error, Kind, Result, WithContext};
use windlass_plan::cgroup::{MemoryCheck, MemoryInForce};
use windlass_sys::{SyscallError, process};

/// The cgroups of one container, at most one in each hierarchy of version 1.
#[derive(Debug, Default)]
pub struct Cgroups {
    directories: Vec<Directory>,
}

/// The open `cgroup.procs` of some cgroups, with their paths, for a process that moves itself.
#[derive(Debug, Default)]
pub struct Procs(Vec<(String, OwnedFd)>);

impl Procs {
    /// Moves this process into the cgroups. The kernel checked the permission when the files were opened.
    pub fn join(&self) -> Result<()> {
        self.0.iter().try_for_each(|(path, procs)| {
            windlass_sys::fd::write_once(procs.as_fd(), b"0")
                .with_context(|| format!("cannot move into cgroup {path:?}"))
        })
    }
}

impl Cgroups {
    /// Opens the directories that exist.
    pub fn open(paths: &[String]) -> Result<Cgroups> {
        let mut directories = Vec::new();
        for path in paths {
            let opened = if_there(Directory::open(path)).with_context(|| format!("cannot open cgroup {path:?}"))?;
            directories.extend(opened);
        }
        Ok(Cgroups { directories })
    }

    /// Opens the cgroups for a new process of a container: those at `paths`. If one was removed while init ran, the
    /// cgroup of init in its hierarchy takes its place. No hierarchy is left out: the process would stay in the
    /// caller's cgroup there, without the device rules and limits of the container.
    pub fn for_exec(paths: &[String], init_pid: i32, init: BorrowedFd<'_>) -> Result<Cgroups> {
        let mut cgroups = Cgroups::open(paths)?;
        let there: Vec<String> = cgroups.directories.iter().map(|directory| directory.path.clone()).collect();
        if there.len() == paths.len() {
            return Ok(cgroups);
        }
        let file = format!("/proc/{init_pid}/cgroup");
        let text = read_file(&file).with_context(|| format!("cannot read {file}"))?;
        process::still_there(init).with_context(|| "the container's init has ended")?;
        let removed: Vec<&String> = paths.iter().filter(|path| !there.contains(path)).collect();
        cgroups.add(Cgroups::of_hierarchies(&removed, &text)?);
        Ok(cgroups)
    }

    /// Opens the cgroups of this process in the hierarchies of these cgroups.
    pub fn of_caller(&self) -> Result<Cgroups> {
        let text = read_file("/proc/self/cgroup").with_context(|| "cannot read /proc/self/cgroup")?;
        let paths: Vec<&String> = self.directories.iter().map(|directory| &directory.path).collect();
        Cgroups::of_hierarchies(&paths, &text)
    }

    /// Opens, for the hierarchy of each of `paths`, the cgroup that `proc_cgroup`, a /proc/PID/cgroup, names.
    fn of_hierarchies(paths: &[&String], proc_cgroup: &str) -> Result<Cgroups> {
        let mut cgroups = Cgroups::default();
        if paths.is_empty() {
            return Ok(cgroups);
        }
        let hierarchy = Hierarchy::find()?;
        for removed in paths {
            let mounted = hierarchy.v1().iter().find(|v1| removed.starts_with(&format!("{}/", v1.mount)));
            let Some(path) = mounted.and_then(|v1| Some(format!("{}{}", v1.mount, path_in(proc_cgroup, v1)?))) else {
                return Err(Error::new(Kind::Kernel, format!("the container's cgroup {removed:?} is gone")));
            };
            cgroups.directories.push(Directory::open(&path).with_context(|| format!("cannot open cgroup {path:?}"))?);
        }
        Ok(cgroups)
    }

    /// Adds the cgroups of `other`.
    pub fn add(&mut self, other: Cgroups) {
        self.directories.extend(other.directories);
    }

    /// Whether there is no cgroup.
    pub fn is_empty(&self) -> bool {
        self.directories.is_empty()
    }

    /// Opens each `cgroup.procs`, for a process that moves itself.
    pub fn open_procs(&self) -> Result<Procs> {
        let open = |directory: &Directory| {
            let procs = directory.open_file("cgroup.procs", OFlag::O_WRONLY);
            procs
                .map(|procs| (directory.path.clone(), procs))
                .with_context(|| format!("cannot enter cgroup {:?}", directory.path))
        };
        self.directories.iter().map(open).collect::<Result<_>>().map(Procs)
    }

    /// Moves a process into all of them. Succeeds if the process has ended.
    pub fn add_process(&self, pid: i32) -> Result<()> {
        self.directories.iter().try_for_each(|directory| add_process(directory, pid).map(drop))
    }

    /// Moves the processes of `pids` into the cgroups, unless they are in them or below. Returns true if a process was
    /// moved.
    pub fn add_missing(&self, pids: &[i32]) -> Result<bool> {
        let mut moved = false;
        for directory in &self.directories {
            let inside = pids_of(directory, true).with_context(|| cannot_list(directory))?;
            for pid in pids.iter().filter(|pid| !inside.contains(pid)) {
                moved |= add_process(directory, *pid)?;
            }
        }
        Ok(moved)
    }

    /// The processes in any of them or below.
    pub fn pids(&self) -> Result<Vec<i32>> {
        let mut pids = Vec::new();
        for directory in &self.directories {
            pids.extend(pids_of(directory, true).with_context(|| cannot_list(directory))?);
        }
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// Kills every process. Does not wait until they have ended.
    pub fn kill(&self) -> Result<()> {
        // Freezing keeps the processes from forking and so evading the list. They die when they are thawed.
        let frozen = self.freezer().is_some() && self.freeze().is_ok();
        let mut known = Vec::new();
        for _ in 0..KILL_ROUNDS {
            let mut pids = self.pids()?;
            pids.retain(|pid| !known.contains(pid));
            if pids.is_empty() {
                break;
            }
            signal_each(&pids, Signal::SIGKILL as i32, &|| self.pids())?;
            known.extend(pids);
            if frozen {
                break;
            }
        }
        self.thaw_nowait()
    }

    fn freezer(&self) -> Option<&Directory> {
        self.directories.iter().find(|directory| if_there(directory.read("freezer.state")).is_ok_and(|it| it.is_some()))
    }

    fn freezer_or_error(&self) -> Result<&Directory> {
        self.freezer().ok_or_else(|| {
            Error::new(Kind::Unsupported, "the container has no cgroup that can be frozen")
                .with_hint("it needs cgroup2, or the freezer of cgroup v1, mounted when the container is created")
        })
    }

    /// Freezes every process, and waits until they are frozen. If they do not freeze in time, all are thawed again.
    pub fn freeze(&self) -> Result<()> {
        let freezer = self.freezer_or_error()?;
        let deadline = Instant::now() + TIMEOUT;
        loop {
            // The state is written each time, since a process that was forked meanwhile may have escaped the last
            // write.
            freezer
                .write("freezer.state", "FROZEN")
                .with_context(|| format!("cannot freeze cgroup {:?}", freezer.path))?;
            if state(freezer)? == "FROZEN" {
                return Ok(());
            }
            if Instant::now() >= deadline {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let running = not_frozen(&self.pids()?);
        self.thaw_nowait()?;
        let within = TIMEOUT.as_secs();
        Err(Error::new(Kind::Kernel, format!("cannot freeze cgroup {:?} within {within} s: {running}", freezer.path)))
    }

    /// Thaws every process.
    pub fn thaw(&self) -> Result<()> {
        let freezer = self.freezer_or_error()?;
        self.thaw_nowait()?;
        if state(freezer)? == "THAWED" {
            return Ok(());
        }
        Err(Error::new(Kind::Kernel, format!("cannot thaw cgroup {:?}: an ancestor is frozen", freezer.path))
            .with_hint("see freezer.state there"))
    }

    /// Thaws every process if there is a freezer, without looking at the outcome.
    pub fn thaw_nowait(&self) -> Result<()> {
        let Some(freezer) = self.freezer() else { return Ok(()) };
        if_there(freezer.write("freezer.state", "THAWED"))
            .map(drop)
            .with_context(|| format!("cannot thaw cgroup {:?}", freezer.path))
    }

    /// Whether the cgroup was frozen itself, and not only by an ancestor.
    pub fn is_frozen(&self) -> Result<bool> {
        let Some(freezer) = self.freezer() else { return Ok(false) };
        let text = if_there(freezer.read("freezer.self_freezing"))
            .with_context(|| format!("cannot read the state of cgroup {:?}", freezer.path))?;
        Ok(text.is_some_and(|text| text.trim() == "1"))
    }

    /// Whether the cgroup is frozen only by an ancestor.
    pub fn is_frozen_by_ancestor(&self) -> Result<bool> {
        match self.freezer() {
            Some(freezer) => Ok(state(freezer)? != "THAWED" && !self.is_frozen()?),
            None => Ok(false),
        }
    }

    /// The number of processes that the OOM killer has killed; `None` without a memory controller.
    pub fn oom_kills(&self) -> Option<u64> {
        let read = |directory: &Directory| directory.read("memory.oom_control").ok();
        number_after(&self.directories.iter().find_map(read)?, "oom_kill")
    }

    /// The memory limit. The limit of swap is left out: version 1 limits the sum of memory and swap, which an update of
    /// memory alone does not change.
    pub fn memory_in_force(&self) -> MemoryInForce {
        let read = |directory: &Directory| directory.read("memory.limit_in_bytes").ok();
        let limit = self.directories.iter().find_map(read).and_then(|text| text.trim().parse::<u64>().ok());
        MemoryInForce { limit: limit.filter(|limit| *limit < NO_LIMIT), swap: None }
    }

    /// Refuses limits below the present usage (`checkBeforeUpdate`). Succeeds if the usage cannot be read.
    pub fn check_memory(&self, check: &MemoryCheck) -> Result<()> {
        let read = |name: &str| {
            let text = self.directories.iter().find_map(|directory| directory.read(name).ok())?;
            text.trim().parse::<u64>().ok()
        };
        let usage = [read("memory.memsw.usage_in_bytes"), read("memory.usage_in_bytes")];
        check.compare(usage)
    }
}

/// The path of a hierarchy in a /proc/PID/cgroup, whose lines are like `4:cpu,cpuacct:/path`.
fn path_in<'a>(text: &'a str, v1: &HierarchyV1) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        controllers.split(',').any(|name| v1.controllers.iter().any(|one| one == name)).then_some(path)
    })
}

/// A greater memory limit means none. Version 1 shows "no limit" as the greatest number of whole pages below 2^63
/// bytes, which depends on the page size.
const NO_LIMIT: u64 = 1 << 62;

/// Refuses cgroups that have processes, which are not the container's, and frozen ones.
fn refuse_in_use(paths: &[String]) -> Result<()> {
    let there = Cgroups::open(paths)?;
    let refuse = |msg: String| Err(Error::new(Kind::WrongStatus, msg).with_origin(from_cgroups_path()));
    match there.pids()? {
        pids if !pids.is_empty() => {
            refuse(format!("container's cgroup is not empty: {} process(es) found", pids.len()))
        }
        _ if there.is_frozen()? => refuse("container's cgroup unexpectedly frozen".into()),
        _ => Ok(()),
    }
}

fn cannot_list(directory: &Directory) -> String {
    format!("cannot list the processes of cgroup {:?}", directory.path)
}

/// Moves a process into a cgroup. Returns false if it has ended.
fn add_process(directory: &Directory, pid: i32) -> Result<bool> {
    match directory.write("cgroup.procs", &pid.to_string()) {
        Err(SyscallError { errno: Errno::ESRCH, .. }) => Ok(false),
        result => {
            result.map(|()| true).with_context(|| format!("cannot move process {pid} into cgroup {:?}", directory.path))
        }
    }
}

/// Most rounds of killing. Each finds the processes that were forked during the one before.
const KILL_ROUNDS: usize = 100;

fn state(freezer: &Directory) -> Result<String> {
    let text = if_there(freezer.read("freezer.state"))
        .with_context(|| format!("cannot read the state of cgroup {:?}", freezer.path))?;
    // A cgroup that was removed freezes nothing.
    Ok(text.map_or("THAWED".into(), |text| text.trim().to_owned()))
}

/// Removes the cgroups at `paths` with all below them.
pub fn remove(paths: &[String], kill: Kill) -> Result<()> {
    if paths.is_empty() {
        return Ok(());
    }
    let cgroups = Cgroups::open(paths)?;
    if kill == Kill::Yes && !cgroups.pids()?.is_empty() {
        cgroups.kill()?;
    }
    for directory in &cgroups.directories {
        wait_until_empty(directory)?;
        remove::remove(&directory.path, Kill::No)?;
    }
    Ok(())
}

/// Waits until no process is in a cgroup or below. It polls, since version 1 does not report the last exit.
fn wait_until_empty(directory: &Directory) -> Result<()> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let pids = pids_of(directory, true).with_context(|| cannot_list(directory))?;
        if pids.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(remove::still_in(&directory.path, &pids));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
