//! The files that the restored processes hold, as the kernel has them while CRIU still holds the processes. The result
//! does not depend on how we read the images, nor on links that lead elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::fcntl::OFlag;

use windlass_base::error::{Diagnostic, Result, WithContext};
use windlass_base::mountinfo::Mounted;
use windlass_base::namespaces::KINDS;
use windlass_sys::mount::{self, Location};
use windlass_sys::{directory, fd, process};

use super::descendants::has_ended;

const CONTEXT: &str = "cannot look at the files of the restored processes";

/// The names of files that are on no mount of any namespace: memory, and the rings of io_setup(2).
const UNMOUNTED: [&[u8]; 5] = [b"/memfd:", b"/dev/zero ", b"/SYSV", b"/anon_hugepage ", b"/[aio] "];

/// The files that processes may hold.
pub(super) struct Allowed {
    /// The mounts of their namespaces, by their ids.
    pub mounts: BTreeMap<u32, Mounted>,
    /// The mounts of the host, with their devices.
    hosts: BTreeMap<u32, String>,
    /// The files that CRIU was given, by device and inode.
    passed: BTreeSet<(u64, u64)>,
    /// The namespaces of the processes, as their links name them.
    namespaces: BTreeSet<OsString>,
    /// Who may get the signals of files: the processes and their groups. `None` if no other process is in reach.
    owners: Option<BTreeSet<i32>>,
    /// The numbers of their tasks in a PID namespace in which other processes are in reach.
    tasks: BTreeSet<u32>,
}

impl Allowed {
    /// Begins without mounts of the processes. `hosts` are those of the host. `passed` are files that CRIU was given,
    /// by device and inode. `alone` is whether the processes have a PID namespace of their own.
    pub(super) fn new(hosts: &[Mounted], passed: &BTreeSet<(u64, u64)>, alone: bool) -> Allowed {
        Allowed {
            mounts: BTreeMap::new(),
            hosts: hosts.iter().map(|mount| (mount.id, mount.device.clone())).collect(),
            passed: passed.clone(),
            namespaces: BTreeSet::new(),
            owners: (!alone).then(BTreeSet::new),
            tasks: BTreeSet::new(),
        }
    }

    /// Finds the files of the processes that are from elsewhere.
    pub(super) fn foreign(mut self, pids: &[i32]) -> Result<Vec<Diagnostic>> {
        for pid in pids {
            for (_, name, _) in KINDS {
                self.namespaces.extend(std::fs::read_link(format!("/proc/{pid}/ns/{name}")).map(Into::into));
            }
            if let Some(owners) = &mut self.owners {
                let tasks = tasks(*pid)?;
                for task in &tasks {
                    self.tasks.extend(inner_number(*pid, *task)?);
                }
                owners.extend(tasks);
                owners.extend(process::group_of(*pid).map(|group| -group));
            }
        }
        let mut faults = Vec::new();
        for pid in pids {
            let found = self.foreign_of(*pid)?;
            faults.extend(found.map(|link| {
                let msg = format!("process {pid} holds {}, which is not the container's", link.display());
                Diagnostic { pointer: "/mounts".into(), msg }
            }));
        }
        Ok(faults)
    }

    /// The first file of a process that is from elsewhere.
    fn foreign_of(&self, pid: i32) -> Result<Option<OsString>> {
        for list in ["", "fd", "map_files"] {
            let dir = fd::open(format!("/proc/{pid}/{list}"), OFlag::O_RDONLY | OFlag::O_DIRECTORY);
            let dir = match dir {
                Err(failed) if failed.errno == Errno::ENOENT && has_ended(pid) => return Ok(None),
                other => other.with_context(|| CONTEXT)?,
            };
            let names = match list {
                "" => ["exe", "cwd", "root"].map(OsString::from).to_vec(),
                _ => directory::names(dir.as_fd()).with_context(|| CONTEXT)?,
            };
            for name in names {
                if let (Some(owners), "fd") = (&self.owners, list)
                    && self.signals_others(pid, &name, owners)?
                {
                    return Ok(Some("a file whose signals another process gets".into()));
                }
                if let Some(link) = self.foreign_link(dir.as_fd(), &name)? {
                    return Ok(Some(link));
                }
            }
        }
        Ok(None)
    }

    /// Whether a process outside gets the signals of a descriptor.
    fn signals_others(&self, pid: i32, name: &OsStr, owners: &BTreeSet<i32>) -> Result<bool> {
        let Some(number) = name.to_str().and_then(|name| name.parse().ok()) else { return Ok(false) };
        let file = process::open_pid(pid).and_then(|process| process::pidfd_getfd(process.as_fd(), number));
        let file = file.with_context(|| CONTEXT)?;
        let owner = fd::owner(file.as_fd());
        if owner == 0 || owners.contains(&owner) {
            return Ok(false);
        }
        let stat = fd::stat(file.as_fd()).with_context(|| CONTEXT)?;
        Ok(!self.passed.contains(&(stat.st_dev, stat.st_ino)))
    }

    fn foreign_link(&self, dir: BorrowedFd<'_>, name: &OsStr) -> Result<Option<OsString>> {
        let link = match fd::readlinkat(dir, name) {
            // A process that has ended has no files.
            Err(failed) if failed.errno == Errno::ENOENT => return Ok(None),
            other => other.with_context(|| CONTEXT)?,
        };
        let text = link.as_bytes();
        // Pipes, sockets and the like have no path.
        if !text.starts_with(b"/") && !text.starts_with(b"(") {
            let is_namespace = KINDS.iter().any(|(_, kind, _)| text.starts_with(format!("{kind}:[").as_bytes()));
            return Ok((is_namespace && !self.namespaces.contains(&link)).then_some(link));
        }
        let Location { mount, device, inode } = mount::locate(dir, name).with_context(|| CONTEXT)?;
        let unmounted = UNMOUNTED.iter().any(|begin| text.starts_with(begin)) && text.ends_with(b" (deleted)");
        let known = match self.mounts.get(&mount) {
            Some(mount) => !self.is_of_another(mount, text),
            None => unmounted && !self.hosts.contains_key(&mount),
        };
        Ok((!known && !self.passed.contains(&(device, inode))).then_some(link))
    }

    /// Whether a path in procfs is that of a file of another process. For some of these files the kernel compares the
    /// two processes only when the file is opened, which CRIU does as root: its memory, for one.
    fn is_of_another(&self, mount: &Mounted, path: &[u8]) -> bool {
        let in_reach = self.owners.is_some() || self.hosts.values().any(|device| *device == mount.device);
        if mount.kind != "proc" || !in_reach {
            return false;
        }
        let rest = path.strip_prefix(mount.point.trim_end_matches('/').as_bytes()).unwrap_or(path);
        let inner = [mount.root.as_bytes(), rest].join(&b'/');
        let mut names = inner.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
        let number = names.next().and_then(|name| std::str::from_utf8(name).ok()?.parse().ok());
        number.is_some_and(|number: u32| !self.tasks.contains(&number)) && names.next().is_some()
    }
}

/// The number of a task in its own PID namespace.
fn inner_number(pid: i32, task: i32) -> Result<Option<u32>> {
    let status = fd::read_small(fd::CWD, format!("/proc/{pid}/task/{task}/status")).with_context(|| CONTEXT)?;
    let status = String::from_utf8_lossy(&status);
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    Ok(numbers.and_then(|numbers| numbers.split_whitespace().last()?.parse().ok()))
}

/// The tasks of a process.
fn tasks(pid: i32) -> Result<Vec<i32>> {
    let tasks = fd::open(format!("/proc/{pid}/task"), OFlag::O_RDONLY | OFlag::O_DIRECTORY);
    let names = tasks.and_then(|dir| directory::names(dir.as_fd())).with_context(|| CONTEXT)?;
    Ok(names.iter().filter_map(|name| name.to_str()?.parse().ok()).collect())
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use windlass_base::mountinfo;

    use super::*;

    #[test]
    fn what_is_on_no_mount_of_the_processes_is_foreign() {
        // It takes CAP_CHECKPOINT_RESTORE to look at mapped files.
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let text = fd::document("/proc/self/mountinfo").expect("procfs");
        let own = mountinfo::parse(&text);
        let mut child = Command::new("sleep")
            .arg("60")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("run");
        let judged = |mounts: &[Mounted]| {
            let mounts = mounts.iter().map(|mount| (mount.id, mount.clone())).collect();
            let allowed = Allowed { mounts, ..Allowed::new(&own, &BTreeSet::new(), true) };
            allowed.foreign(&[child.id() as i32]).expect("procfs")
        };
        let (all, none) = (judged(&own), judged(&[]));
        child.kill().and_then(|()| child.wait()).expect("ended");
        assert!(all.is_empty(), "{all:?}");
        assert!(none.iter().any(|fault| fault.msg.contains("which is not the container's")), "{none:?}");
    }

    #[test]
    fn files_of_other_processes_are_foreign_where_these_are_in_reach() {
        let mount = |device: &str, root: &str| Mounted {
            device: device.into(),
            root: root.into(),
            point: "/proc".into(),
            kind: "proc".into(),
            ..Mounted::default()
        };
        let hosts = mount("0:5", "/");
        let shared =
            Allowed { tasks: [7].into(), ..Allowed::new(std::slice::from_ref(&hosts), &BTreeSet::new(), false) };
        let alone = Allowed::new(std::slice::from_ref(&hosts), &BTreeSet::new(), true);
        let own = mount("0:6", "/");
        for path in ["/proc/7/mem", "/proc/8", "/proc/stat", "/proc/sys/kernel/7"] {
            assert!(!shared.is_of_another(&own, path.as_bytes()), "{path}");
        }
        assert!(shared.is_of_another(&own, b"/proc/8/mem"));
        assert!(shared.is_of_another(&mount("0:6", "/8"), b"/proc/mem"));
        assert!(!alone.is_of_another(&own, b"/proc/8/mem"));
        assert!(alone.is_of_another(&hosts, b"/proc/8/mem"));
    }
}
