//! The elements of a container that come from outside, found in its processes while they are frozen.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::OFlag;

use windlass_base::error::{Result, WithContext};
use windlass_base::mountinfo::{self, Mounted};
use windlass_plan::checkpoint::{Declared, ExternalMount, external_mounts};
use windlass_plan::{Action, MountKind, Plan, RootPath};
use windlass_sys::mount;
use windlass_sys::{fd, process, stdio};

use crate::resolve;

/// The elements of a container that a dump needs to know.
pub(crate) struct Elements {
    /// All mounts.
    pub mounted: Vec<Mounted>,
    /// The mounts that come from outside.
    pub mounts: Vec<ExternalMount>,
    /// The standard streams of init.
    pub stdio: [Stream; 3],
}

/// One of the standard streams of init.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stream {
    /// The text of its link in `/proc/PID/fd`, as `descriptors.json` has it.
    pub link: String,
    /// The key by which the restore puts another descriptor in its place; empty if CRIU opens the file itself.
    pub key: String,
    /// Whether it is a file that must be declared external under that key.
    pub declared: bool,
}

/// Looks at init, and at all `pids` of the container for pipes among them. `plan` is made from the container's
/// configuration.
pub(crate) fn look(pid: i32, pidfd: BorrowedFd<'_>, pids: &[i32], plan: &Plan) -> Result<Elements> {
    let context = || "cannot look at the container's init";
    let mountinfo = process::open_of(pid, pidfd, "mountinfo", OFlag::O_RDONLY)
        .and_then(|file| fd::read_all(file, fd::DOCUMENT))
        .with_context(context)?;
    let mounts = mountinfo::parse(&mountinfo);
    let root = process::open_of(pid, pidfd, "root", OFlag::O_PATH).with_context(context)?;
    let declared = declared(root.as_fd(), plan, &mounts);
    let stdio = [0, 1, 2].map(|number| stream(pid, number, &mounts, pids));
    process::still_there(pidfd).with_context(context)?;
    Ok(Elements { mounts: external_mounts(&mounts, &declared), mounted: mounts, stdio })
}

/// Finds the mounts of the plan among `mounts`. A destination is resolved as init resolved it.
fn declared(root: BorrowedFd<'_>, plan: &Plan, mounts: &[Mounted]) -> Declared {
    let find = |path: &RootPath| resolve::find(root, path, resolve::IN_ROOT).ok();
    let id = |found: OwnedFd| mount::id_of(found.as_fd()).ok();
    let by_id: BTreeMap<u32, &Mounted> = mounts.iter().map(|mount| (mount.id, mount)).collect();
    let (mut declared, mut tops, mut made) = (Declared::default(), Vec::new(), Vec::new());
    for step in &plan.init {
        match &step.action {
            Action::Mount(mount) => {
                let Some(found) = find(&mount.destination).and_then(id) else { continue };
                match &mount.what {
                    MountKind::Bind(_) => tops.push(found),
                    MountKind::New { kind, .. } if kind == "cgroup2" => declared.cgroups.push(found),
                    // The host's mount may stand in for a new one.
                    MountKind::New { fallback: Some(_), .. } => {}
                    MountKind::New { .. } => made.push(found),
                }
            }
            Action::Node(node) => {
                let bound = find(&node.path).and_then(id).filter(|id| {
                    let point = by_id.get(id).map(|mount| mount.point.as_str());
                    point == Some(node.path.to_string().as_str())
                });
                tops.extend(bound);
            }
            Action::Mask(path) => {
                let Some(found) = find(path) else { continue };
                if fd::stat(found.as_fd()).is_ok_and(|stat| stdio::is_null(&stat)) {
                    declared.masked.extend(id(found));
                }
            }
            _ => {}
        }
    }
    // A recursive bind mount brings the mounts below it.
    let is_bound = |mount: &Mounted| {
        let mut at = Some(mount);
        while let Some(mount) = at.filter(|mount| !made.contains(&mount.id)) {
            if tops.contains(&mount.id) {
                return true;
            }
            at = by_id.get(&mount.parent).copied().filter(|parent| parent.id != mount.id);
        }
        false
    };
    declared.bound = mounts.iter().filter(|mount| is_bound(mount)).map(|mount| mount.id).collect();
    declared
}

fn stream(pid: i32, number: u32, mounts: &[Mounted], pids: &[i32]) -> Stream {
    let path = format!("/proc/{pid}/fd/{number}");
    let link = std::fs::read_link(&path).map(|link| link.to_string_lossy().into_owned()).unwrap_or_default();
    if link.starts_with("pipe:[") {
        // The container may have put a pipe of its own there, which must not be replaced by one of the caller.
        return match is_between(pids, &link) {
            true => Stream::default(),
            false => Stream { key: link.clone(), link, declared: false },
        };
    }
    let mount = fd::read_small(fd::CWD, format!("/proc/{pid}/fdinfo/{number}")).ok().and_then(|it| mount::id_in(&it));
    let inode = std::fs::metadata(&path).ok();
    let (Some(mount), Some(found)) = (mount, inode) else { return Stream { link, ..Stream::default() } };
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let kind = found.file_type();
    let foreign = !mounts.iter().any(|known| known.id == mount);
    // A terminal has a part of its own in the images, and a socket cannot be replaced by its inode.
    let replaced = foreign && !kind.is_socket() && !is_terminal(&found);
    let key = if replaced { file_key(mount, found.ino()) } else { String::new() };
    Stream { link, key, declared: replaced }
}

/// The name of an open file in the images, by its mount and its inode.
pub(crate) fn file_key(mount: u32, inode: u64) -> String {
    format!("file[{mount:x}:{inode:x}]")
}

/// Whether the processes have both ends of a pipe.
fn is_between(pids: &[i32], pipe: &str) -> bool {
    use std::os::unix::fs::MetadataExt;
    let mut ends = 0;
    for pid in pids {
        for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
            let is_it = std::fs::read_link(entry.path()).is_ok_and(|link| link.as_os_str() == pipe);
            // The mode of the link tells how the pipe was opened (proc_pid_fd(5)).
            if let (true, Ok(link)) = (is_it, std::fs::symlink_metadata(entry.path())) {
                ends |= link.mode() & 0o600;
            }
        }
    }
    ends == 0o600
}

fn is_terminal(found: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    // The major numbers of pseudoterminals, and of consoles and /dev/tty (devices.txt).
    let major = libc::major(found.rdev());
    found.file_type().is_char_device() && ((136..=143).contains(&major) || matches!(major, 4 | 5))
}
