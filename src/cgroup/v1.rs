//! The cgroups of one container in hierarchies of version 1: entered, frozen, killed, removed.
//!
//! They are made for limits alone where there is a cgroup2, which knows the processes; where
//! there is none, they are all that knows them. The devices hierarchy is for the device rules of
//! hosts without cgroup2, in every build ([`Devices`]); all other limits are the part of the feature
//! `cgroup-v1` ([`Share`]). What was made can be used and cleared away by every build.

mod devices;
#[cfg(feature = "cgroup-v1")]
mod limits;
#[cfg(not(feature = "cgroup-v1"))]
mod none;

pub use devices::{Devices, refuse as refuse_devices};
#[cfg(feature = "cgroup-v1")]
pub use limits::Share;
#[cfg(not(feature = "cgroup-v1"))]
pub use none::Share;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::Kill;
use super::directory::{Directory, if_there, number_after, read_file};
use super::freezer::{WITHIN, not_stopped};
use super::hierarchy::{Hierarchy, V1, asked_by_path};
use super::processes::{kill_each, pids_of};
use windlass_base::error::{Doing, Error, Kind, Result};
use windlass_plan::cgroup::{MemoryCheck, MemoryInForce};
use windlass_sys::{Failed, process};

/// The cgroups of one container in the hierarchies of version 1.
#[derive(Debug, Default)]
pub struct Cgroup {
    directories: Vec<Directory>,
}

/// The open doors of some cgroups, for a process that goes in by itself.
#[derive(Debug, Default)]
pub struct Doors(Vec<(String, OwnedFd)>);

impl Doors {
    /// Moves this process in. Who may do that was decided when the doors were opened.
    pub fn enter(&self) -> Result<()> {
        self.0.iter().try_for_each(|(path, door)| {
            windlass_sys::fd::write_once(door.as_fd(), b"0").doing(|| format!("cannot move into cgroup {path:?}"))
        })
    }
}

impl Cgroup {
    /// Those of the directories that exist.
    pub fn open(places: &[String]) -> Result<Cgroup> {
        let mut directories = Vec::new();
        for place in places {
            let opened = if_there(Directory::open(place)).doing(|| format!("cannot open cgroup {place:?}"))?;
            directories.extend(opened);
        }
        Ok(Cgroup { directories })
    }

    /// Where a new process of a container belongs: in `places`. Where one of them was removed behind init's back,
    /// the cgroup that init is in takes its place. None may be left out, since the process would stay in the
    /// caller's cgroup, without the rules and limits of the container.
    pub fn for_exec(places: &[String], init_pid: i32, init: BorrowedFd<'_>) -> Result<Cgroup> {
        let mut cgroup = Cgroup::open(places)?;
        let there: Vec<String> = cgroup.directories.iter().map(|directory| directory.path.clone()).collect();
        if there.len() == places.len() {
            return Ok(cgroup);
        }
        let file = format!("/proc/{init_pid}/cgroup");
        let text = read_file(&file).doing(|| format!("cannot read {file}"))?;
        process::still_there(init).doing(|| "the container's init has ended")?;
        let gone: Vec<&String> = places.iter().filter(|place| !there.contains(place)).collect();
        cgroup.add(Cgroup::beside(&gone, &text)?);
        Ok(cgroup)
    }

    /// Those that the caller is in, in the hierarchies of these cgroups.
    pub fn of_caller(&self) -> Result<Cgroup> {
        let text = read_file("/proc/self/cgroup").doing(|| "cannot read /proc/self/cgroup")?;
        let places: Vec<&String> = self.directories.iter().map(|directory| &directory.path).collect();
        Cgroup::beside(&places, &text)
    }

    /// Of each hierarchy in which `places` are, the cgroup that `text`, a /proc/PID/cgroup, has of it.
    fn beside(places: &[&String], text: &str) -> Result<Cgroup> {
        let mut cgroup = Cgroup::default();
        if places.is_empty() {
            return Ok(cgroup);
        }
        let hierarchy = Hierarchy::find()?;
        for place in places {
            let mounted = hierarchy.v1().iter().find(|v1| place.starts_with(&format!("{}/", v1.mount)));
            let Some(path) = mounted.and_then(|v1| Some(format!("{}{}", v1.mount, line_of(text, v1)?))) else {
                return Err(Error::new(Kind::Kernel, format!("the container's cgroup {place:?} is gone")));
            };
            cgroup.directories.push(Directory::open(&path).doing(|| format!("cannot open cgroup {path:?}"))?);
        }
        Ok(cgroup)
    }

    /// Takes the directories of `other` as well.
    pub fn add(&mut self, other: Cgroup) {
        self.directories.extend(other.directories);
    }

    /// Whether there is none at all.
    pub fn is_nothing(&self) -> bool {
        self.directories.is_empty()
    }

    /// Opens what a process writes to in order to go in.
    pub fn doors(&self) -> Result<Doors> {
        let open = |directory: &Directory| {
            let door = directory.open_file("cgroup.procs", OFlag::O_WRONLY);
            door.map(|door| (directory.path.clone(), door))
                .doing(|| format!("cannot enter cgroup {:?}", directory.path))
        };
        self.directories.iter().map(open).collect::<Result<_>>().map(Doors)
    }

    /// Moves a process in; that it has ended is no error.
    pub fn join(&self, pid: i32) -> Result<()> {
        self.directories.iter().try_for_each(|directory| enter(directory, pid).map(drop))
    }

    /// Moves in those of `pids` that are not in it or below. Whether there were any.
    pub fn bring_in(&self, pids: &[i32]) -> Result<bool> {
        let mut any = false;
        for directory in &self.directories {
            let inside = pids_of(directory, true).doing(|| cannot_list(directory))?;
            for pid in pids.iter().filter(|pid| !inside.contains(pid)) {
                any |= enter(directory, *pid)?;
            }
        }
        Ok(any)
    }

    /// The processes that are in any of them or below.
    pub fn pids(&self) -> Result<Vec<i32>> {
        let mut pids = Vec::new();
        for directory in &self.directories {
            pids.extend(pids_of(directory, true).doing(|| cannot_list(directory))?);
        }
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// Kills every process. Does not wait for them to be gone.
    pub fn kill(&self) -> Result<()> {
        // Frozen, the processes cannot fork away from the list; but frozen ones do not die.
        let frozen = self.freezer().is_some() && self.freeze().is_ok();
        let mut known = Vec::new();
        for _ in 0..KILL_ROUNDS {
            let mut pids = self.pids()?;
            pids.retain(|pid| !known.contains(pid));
            if pids.is_empty() {
                break;
            }
            kill_each(&pids).doing(|| "cannot kill")?;
            known.extend(pids);
            if frozen {
                break;
            }
        }
        self.let_go()
    }

    fn freezer(&self) -> Option<&Directory> {
        self.directories.iter().find(|directory| if_there(directory.read("freezer.state")).is_ok_and(|it| it.is_some()))
    }

    fn freezer_or_error(&self) -> Result<&Directory> {
        self.freezer().ok_or_else(|| {
            Error::new(Kind::Unsupported, "the container has no cgroup that can be frozen")
                .hint("it needs cgroup2, or the freezer of cgroup v1, mounted when the container is created")
        })
    }

    /// Stops every process, and waits until they have stopped. If they do not, those that have
    /// are let go again.
    pub fn freeze(&self) -> Result<()> {
        let freezer = self.freezer_or_error()?;
        let deadline = Instant::now() + WITHIN;
        loop {
            // Again and again: what was forked meanwhile may have missed the first one.
            freezer.write("freezer.state", "FROZEN").doing(|| format!("cannot freeze cgroup {:?}", freezer.path))?;
            if state(freezer)? == "FROZEN" {
                return Ok(());
            }
            if Instant::now() >= deadline {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let running = not_stopped(&self.pids()?);
        self.let_go()?;
        let within = WITHIN.as_secs();
        Err(Error::new(Kind::Kernel, format!("cannot freeze cgroup {:?} within {within} s: {running}", freezer.path)))
    }

    /// Lets the processes go on.
    pub fn thaw(&self) -> Result<()> {
        let freezer = self.freezer_or_error()?;
        self.let_go()?;
        if state(freezer)? == "THAWED" {
            return Ok(());
        }
        Err(Error::new(Kind::Kernel, format!("cannot thaw cgroup {:?}: an ancestor is frozen", freezer.path))
            .hint("see freezer.state there"))
    }

    /// Thaws without a look at what came of it.
    pub fn let_go(&self) -> Result<()> {
        let Some(freezer) = self.freezer() else { return Ok(()) };
        if_there(freezer.write("freezer.state", "THAWED"))
            .map(drop)
            .doing(|| format!("cannot thaw cgroup {:?}", freezer.path))
    }

    /// Whether it was told to be frozen, itself and not by an ancestor.
    pub fn is_frozen(&self) -> Result<bool> {
        let Some(freezer) = self.freezer() else { return Ok(false) };
        let text = if_there(freezer.read("freezer.self_freezing"))
            .doing(|| format!("cannot read the state of cgroup {:?}", freezer.path))?;
        Ok(text.is_some_and(|text| text.trim() == "1"))
    }

    /// Whether only an ancestor keeps it frozen.
    pub fn is_frozen_from_above(&self) -> Result<bool> {
        match self.freezer() {
            Some(freezer) => Ok(state(freezer)? != "THAWED" && !self.is_frozen()?),
            None => Ok(false),
        }
    }

    /// How many processes the kernel killed in it for want of memory; `None` without the memory
    /// controller.
    pub fn oom_kills(&self) -> Option<u64> {
        let read = |directory: &Directory| directory.read("memory.oom_control").ok();
        number_after(&self.directories.iter().find_map(read)?, "oom_kill")
    }

    /// Its limit of memory. Swap is left out: version 1 has one limit for memory and swap together, which an
    /// update of memory alone does not change.
    pub fn memory_in_force(&self) -> MemoryInForce {
        let read = |directory: &Directory| directory.read("memory.limit_in_bytes").ok();
        let limit = self.directories.iter().find_map(read).and_then(|text| text.trim().parse::<u64>().ok());
        MemoryInForce { limit: limit.filter(|limit| *limit < NO_LIMIT), swap: None }
    }

    /// Refuses limits that are below what is in use (`checkBeforeUpdate`).
    pub fn check_memory(&self, check: &MemoryCheck) -> Result<()> {
        let read = |name: &str| {
            let text = self.directories.iter().find_map(|directory| directory.read(name).ok())?;
            text.trim().parse::<u64>().ok()
        };
        let usage = [read("memory.memsw.usage_in_bytes"), read("memory.usage_in_bytes")];
        check.compare(usage)
    }
}

/// The path of a hierarchy in a /proc/PID/cgroup: `4:cpu,cpuacct:/path`.
fn line_of<'a>(text: &'a str, v1: &V1) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        controllers.split(',').any(|name| v1.controllers.iter().any(|one| one == name)).then_some(path)
    })
}

/// A limit of memory above this means none. Where there is no limit, version 1 shows the greatest number of
/// whole pages below 2^63, which depends on the size of a page.
const NO_LIMIT: u64 = 1 << 62;

/// Refuses directories of somebody else: only those that are empty and not frozen may be used.
fn refuse_in_use(places: &[String]) -> Result<()> {
    let there = Cgroup::open(places)?;
    let refuse = |msg: String| Err(Error::new(Kind::WrongStatus, msg).origin(asked_by_path()));
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

/// False: the process has ended.
fn enter(directory: &Directory, pid: i32) -> Result<bool> {
    match directory.write("cgroup.procs", &pid.to_string()) {
        Err(Failed { errno: Errno::ESRCH, .. }) => Ok(false),
        result => result.map(|()| true).doing(|| format!("cannot move process {pid} into cgroup {:?}", directory.path)),
    }
}

/// Each round finds only what was forked during the one before.
const KILL_ROUNDS: usize = 100;

fn state(freezer: &Directory) -> Result<String> {
    let text = if_there(freezer.read("freezer.state"))
        .doing(|| format!("cannot read the state of cgroup {:?}", freezer.path))?;
    // One that is gone holds nothing back.
    Ok(text.map_or("THAWED".into(), |text| text.trim().to_owned()))
}

/// Removes these cgroups with those below. With [`Kill::Yes`] the processes in them are killed.
pub fn remove(places: &[String], kill: Kill) -> Result<()> {
    if places.is_empty() {
        return Ok(());
    }
    let cgroup = Cgroup::open(places)?;
    if kill == Kill::Yes && !cgroup.pids()?.is_empty() {
        cgroup.kill()?;
    }
    for directory in &cgroup.directories {
        wait_until_empty(directory)?;
        super::remove(&directory.path, Kill::No)?;
    }
    Ok(())
}

/// Version 1 tells nobody when the last process is gone.
fn wait_until_empty(directory: &Directory) -> Result<()> {
    let deadline = Instant::now() + WITHIN;
    loop {
        let pids = pids_of(directory, true).doing(|| cannot_list(directory))?;
        if pids.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(super::still_in(&directory.path, &pids));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
