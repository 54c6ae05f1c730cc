//! One cgroup of version 2: made, entered, limited, killed, removed.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, fchownat};

use super::directory::{Directory, if_there, number_after, read_file};
use super::hierarchy::{Hierarchy, asked_by_path, unified_line};
use super::processes::{kill_each, pids_of};
use super::{controllers, freezer};
use windlass_base::error::{Doing, Error, Kind, Origin, Result};
use windlass_plan::cgroup::{Absent, MemoryCheck, MemoryInForce, Need, Write};
use windlass_sys::{Called, Failed, fd, tree};

/// A cgroup, held open.
#[derive(Debug)]
pub struct Cgroup {
    pub(super) directory: Directory,
    made: bool,
}

/// Whether what is left in a cgroup is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kill {
    /// Kill it.
    Yes,
    /// Leave it; a cgroup with processes is an error.
    No,
}

/// How long the processes of a removed cgroup may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(10);

impl Cgroup {
    /// Makes the cgroup `path` (below the root of the hierarchy) and enables the controllers
    /// that it needs in its ancestors. What was made is removed again if that fails.
    ///
    /// A cgroup that exists is used if it is empty and not frozen, else refused.
    pub fn create(hierarchy: &Hierarchy, path: &str, needs: &[Need]) -> Result<Cgroup> {
        let Some(root) = hierarchy.root() else {
            controllers::refuse(hierarchy, needs)?;
            return Err(Error::new(Kind::Unsupported, "cannot make a cgroup: no cgroup2 file system is mounted")
                .origin(asked_by_path())
                .hint(controllers::MOUNT));
        };
        let path = path.trim_start_matches('/');
        let mut made = Vec::new();
        let result = make(root, path, &mut made).and_then(|()| {
            let directory = root.open_below(path).doing(|| format!("cannot open cgroup {:?}", root.path_of(path)))?;
            // Directly below the root nothing can be frozen from above.
            if made.is_empty() || path.contains('/') {
                refuse_in_use(&directory, !made.is_empty())?;
            }
            controllers::enable(hierarchy, root, &directory, path, needs)?;
            Ok(Cgroup { directory, made: !made.is_empty() })
        });
        if result.is_err() {
            // Best effort: the error that brought us here is the one to report.
            made.iter().rev().for_each(|path| drop(remove_empty(path)));
        }
        result
    }

    /// Opens a cgroup by its path in the file system.
    pub fn open(path: &str) -> Result<Cgroup> {
        let directory = Directory::open(path).doing(|| format!("cannot open cgroup {path:?}"))?;
        Ok(Cgroup { directory, made: false })
    }

    /// Opens the cgroup of a scope that has just been started for us.
    pub fn of_scope(path: &str) -> Result<Cgroup> {
        Ok(Cgroup { made: true, ..Cgroup::open(path)? })
    }

    /// Opens the cgroup that a process is in.
    pub fn of_process(hierarchy: &Hierarchy, pid: i32) -> Result<Option<Cgroup>> {
        let Some(root) = hierarchy.root() else { return Ok(None) };
        let file = format!("/proc/{pid}/cgroup");
        let text = read_file(&file).doing(|| format!("cannot read {file}"))?;
        let Some(path) = unified_line(&text) else { return Ok(None) };
        let path = path.trim_start_matches('/');
        let directory = root.open_below(path).doing(|| format!("cannot open cgroup {:?}", root.path_of(path)))?;
        Ok(Some(Cgroup { directory, made: false }))
    }

    /// Opens a sub-cgroup; `path` is relative and stays below this one.
    pub fn open_below(&self, path: &str) -> Result<Cgroup> {
        if path.split('/').any(|component| component == "..") || path.contains(['\n', '\0']) {
            return Err(Error::usage(format!("{path} is not a sub cgroup path")));
        }
        let path = path.trim_matches('/');
        // runc's words, which name the file that it writes to.
        let what = || {
            format!("cannot open the cgroup for adding pid to cgroups: {}/cgroup.procs", self.directory.path_of(path))
        };
        let directory = self.directory.open_below(path).doing(what)?;
        Ok(Cgroup { directory, made: false })
    }

    /// Its path in the file system.
    pub fn path(&self) -> &str {
        &self.directory.path
    }

    /// Whether [`Self::create`] made it, or found it.
    pub fn made(&self) -> bool {
        self.made
    }

    /// For `CLONE_INTO_CGROUP`.
    pub fn dir_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Moves a process in.
    pub fn join(&self, pid: i32) -> Result<()> {
        self.directory
            .write("cgroup.procs", &pid.to_string())
            .doing(|| format!("cannot move a process: adding pid {pid} to cgroups: {}/cgroup.procs", self.path()))
    }

    /// Writes the limits, in their order.
    ///
    /// A quota below the burst that is still in force is refused by the kernel; it is written
    /// again after the new burst.
    pub fn apply(&self, writes: &[Write]) -> Result<()> {
        let mut again = Vec::new();
        for (index, write) in writes.iter().enumerate() {
            match self.put(write) {
                Ok(()) => {}
                Err(Failed { errno: Errno::EINVAL, .. })
                    if write.file == "cpu.max" && writes[index..].iter().any(|later| later.file == "cpu.max.burst") =>
                {
                    again.push(write);
                }
                Err(failed) => return Err(controllers::explain(self, write, failed)),
            }
        }
        for write in again {
            self.put(write).map_err(|failed| controllers::explain(self, write, failed))?;
        }
        Ok(())
    }

    fn put(&self, write: &Write) -> windlass_sys::Result<()> {
        match (self.directory.write(&write.file, &write.value), &write.absent) {
            (Err(Failed { errno: Errno::ENOENT, .. }), Absent::Harmless) => Ok(()),
            (Err(Failed { errno: Errno::ENOENT, .. }), Absent::Instead { file, value }) => {
                self.directory.write(file, value)
            }
            (result, _) => result,
        }
    }

    /// Refuses limits that are below what is in use (`checkBeforeUpdate`). What cannot be read
    /// is not checked.
    pub fn check_memory(&self, check: &MemoryCheck) -> Result<()> {
        let usage = self.directory.read("memory.current").ok().and_then(|text| text.trim().parse::<u64>().ok());
        check.compare([usage, usage])
    }

    /// Its limits of memory.
    pub fn memory_in_force(&self) -> MemoryInForce {
        let bytes = |file: &str| self.directory.read(file).ok()?.trim().parse().ok();
        MemoryInForce { limit: bytes("memory.max"), swap: bytes("memory.swap.max") }
    }

    /// The quota of `cpu.max` in microseconds, if there is one.
    pub fn cpu_quota(&self) -> Option<i64> {
        self.directory.read("cpu.max").ok()?.split(' ').next()?.parse().ok()
    }

    /// Whether there is a process in it or below.
    pub fn is_populated(&self) -> Result<bool> {
        let events = if_there(self.directory.read("cgroup.events")).doing(|| self.cannot("read the state of"))?;
        Ok(events.is_some_and(|events| number_after(&events, "populated") == Some(1)))
    }

    /// Waits until there is no process in it or below; false if that took too long.
    pub fn wait_until_empty(&self, within: Duration) -> Result<bool> {
        let empty = |events: &str| number_after(events, "populated") == Some(0);
        freezer::wait_until(&self.directory, within, empty).doing(|| self.cannot("watch"))
    }

    /// Its processes, and with `recursive` those of its sub-cgroups.
    pub fn pids(&self, recursive: bool) -> Result<Vec<i32>> {
        pids_of(&self.directory, recursive).doing(|| self.cannot("list the processes of"))
    }

    /// Kills every process in it and below. Does not wait for them to be gone.
    pub fn kill(&self) -> Result<()> {
        match self.directory.write("cgroup.kill", "1") {
            // Before Linux 5.14, and in a cgroup of threads.
            Err(Failed { errno: Errno::ENOENT | Errno::EOPNOTSUPP, .. }) => self.kill_listed(),
            // Removed meanwhile: systemd clears an empty scope away by itself.
            Err(Failed { errno: Errno::ENODEV, .. }) => Ok(()),
            result => result.doing(|| self.cannot("kill the processes of")),
        }
    }

    /// Frozen, the processes cannot fork away from the list; a fatal signal gets through.
    fn kill_listed(&self) -> Result<()> {
        let frozen = self.freeze();
        kill_each(&self.pids(true)?).doing(|| self.cannot("kill the processes of"))?;
        if frozen.is_ok() { self.thaw() } else { Ok(()) }
    }

    /// Removes it with all its sub-cgroups. That it is gone already is no error.
    pub fn remove(self, kill: Kill) -> Result<()> {
        let path = self.directory.path.clone();
        drop(self);
        remove(&path, kill)
    }

    /// How many processes the kernel killed in it and below for want of memory; `None` without
    /// the memory controller.
    pub fn oom_kills(&self) -> Option<u64> {
        number_after(&self.directory.read("memory.events").ok()?, "oom_kill")
    }

    /// Gives it to a user of the host: the directory and the files that the kernel lists as
    /// meant for that (`/sys/kernel/cgroup/delegate`, and the three of Linux 4.15 before).
    pub fn delegate(&self, uid: u32, gid: Option<u32>) -> Result<()> {
        let list = std::fs::read_to_string("/sys/kernel/cgroup/delegate")
            .unwrap_or_else(|_| "cgroup.procs\ncgroup.subtree_control\ncgroup.threads\n".into());
        for name in std::iter::once(".").chain(list.lines()) {
            let (owner, group) = (Some(Uid::from_raw(uid)), gid.map(Gid::from_raw));
            let flags = nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW;
            let chown = fchownat(&self.directory, name, owner, group, flags)
                .called(|| format!("fchownat({:?}, {uid})", self.directory.path_of(name)));
            if_there(chown)
                .doing(|| format!("cannot give cgroup {:?} to user {uid}", self.path()))
                .map_err(|error| error.origin(Origin::Default("the container's root owns its cgroup".into())))?;
        }
        Ok(())
    }

    pub(super) fn cannot(&self, what: &str) -> String {
        format!("cannot {what} cgroup {:?}", self.path())
    }
}

/// Makes a directory and its missing ancestors; `made` gets the whole paths of those made.
pub(super) fn make(root: &Directory, path: &str, made: &mut Vec<String>) -> Result<()> {
    let mkdir = |path: &str, made: &mut Vec<String>| {
        let result = nix::sys::stat::mkdirat(root, path, Mode::from_bits_truncate(0o755));
        if result.is_ok() {
            made.push(root.path_of(path));
        }
        result
    };
    let result = match mkdir(path, made) {
        Err(Errno::ENOENT) => path
            .match_indices('/')
            .map(|(end, _)| &path[..end])
            .chain([path])
            .try_for_each(|ancestor| mkdir(ancestor, made).or_else(exists)),
        result => result.or_else(exists),
    };
    result
        .called(|| format!("mkdir({:?}, 0755)", root.path_of(path)))
        .doing(|| format!("cannot make cgroup {:?}", root.path_of(path)))
        .map_err(|error| {
            let errno = error.errno();
            let error = error.origin(asked_by_path());
            match errno {
                Some(Errno::EROFS) => error.hint("the cgroup file system is mounted read-only"),
                Some(Errno::EAGAIN) => {
                    error.hint("an ancestor's cgroup.max.descendants or cgroup.max.depth is reached")
                }
                _ => error,
            }
        })
}

fn exists(errno: Errno) -> nix::Result<()> {
    if errno == Errno::EEXIST { Ok(()) } else { Err(errno) }
}

/// A cgroup that was there may only be used if nothing in it would be touched by that. In one
/// that is frozen, also by an ancestor, init would never run.
fn refuse_in_use(directory: &Directory, made: bool) -> Result<()> {
    let refuse = |msg: String| Error::new(Kind::WrongStatus, msg).origin(asked_by_path());
    let events =
        directory.read("cgroup.events").doing(|| format!("cannot read the state of cgroup {:?}", directory.path))?;
    if !made && number_after(&events, "populated") == Some(1) {
        let pids = pids_of(directory, true).doing(|| format!("cannot list cgroup {:?}", directory.path))?;
        return Err(refuse(format!("container's cgroup is not empty: {} process(es) found", pids.len())));
    }
    if number_after(&events, "frozen") == Some(1) {
        let error = refuse("container's cgroup unexpectedly frozen".into());
        return Err(if made { error.hint("an ancestor of it is frozen: see cgroup.freeze there") } else { error });
    }
    Ok(())
}

/// Removes the cgroup at `path` in the file system with all its sub-cgroups. That it is gone
/// already is no error.
///
/// One system call where it is empty. Processes that are on their way out are awaited through
/// cgroup.events. A process in it that makes cgroups meanwhile is killed with the others; one outside can
/// delay the removal a few times.
pub fn remove(path: &str, kill: Kill) -> Result<()> {
    match remove_empty(path) {
        Err(Failed { errno: Errno::EBUSY, .. }) => {}
        result => return result.doing(|| format!("cannot remove cgroup {path:?}")),
    }
    let Some(directory) = if_there(Directory::open(path)).doing(|| format!("cannot open cgroup {path:?}"))? else {
        return Ok(());
    };
    let cgroup = Cgroup { directory, made: false };
    for round in 1.. {
        if kill == Kill::Yes {
            cgroup.kill()?;
            cgroup.let_go()?;
        }
        if !cgroup.wait_until_empty(GONE_WITHIN)? {
            return Err(super::still_in(path, &cgroup.pids(true)?));
        }
        match remove_tree(path) {
            Err(Failed { errno: Errno::EBUSY, .. }) if round < ROUNDS => {}
            result => return result.doing(|| format!("cannot remove cgroup {path:?}")),
        }
    }
    Ok(())
}

const ROUNDS: u32 = 3;

/// Those below first. The kernel takes a cgroup apart asynchronously: just after its last process
/// is gone it may still be busy.
fn remove_tree(path: &str) -> windlass_sys::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(1);
    let removed = tree::remove_with(fd::CWD, path, tree::Files::Leave, |dir, name, alone| {
        let mut pause = Duration::from_micros(200);
        loop {
            match fd::rmdirat(dir, name) {
                Err(Failed { errno: Errno::EBUSY, .. }) if alone && Instant::now() < deadline => {
                    std::thread::sleep(pause);
                    pause *= 2;
                }
                result => return result,
            }
        }
    });
    if_there(removed).map(drop)
}

pub(super) fn remove_empty(path: &str) -> windlass_sys::Result<()> {
    if_there(fd::rmdirat(fd::CWD, path)).map(drop)
}
