//! The files that a process has open or in its memory, looked at by `/proc`.

use std::collections::BTreeSet;
use std::fs::Metadata;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use windlass_base::mountinfo::{self, Mounted};
use windlass_criu::flags::Flags;
use windlass_plan::RootPath;
use windlass_store::process_stat;
use windlass_sys::{attributes, directory, fd, mount as mounts};

use super::super::elements;
use super::apart::Reporter;
use super::judge::{self, CheckpointObstacle, Descriptor, Sockets, finding};
use super::settings::document;
use crate::resolve;

/// The kinds of namespaces, by their names in `/proc/PID/ns`.
const NAMESPACES: [&str; 8] = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];

/// The magic number of the filesystem of huge pages (statfs(2)).
const HUGETLBFS: i64 = 0x9584_58f6;

/// Names in `maps` of memory that CRIU makes anew, or that is judged by a descriptor.
const ANEW: [&str; 4] = ["/memfd:", "/dev/zero", "/SYSV", "/[aio]"];

/// The mounts and namespaces of the container's processes, and the standard streams of init.
pub(crate) struct Known {
    init: i32,
    /// The ids of the mounts.
    mounts: BTreeSet<u32>,
    /// The texts of the namespaces' links.
    namespaces: BTreeSet<PathBuf>,
    /// The keys of init's standard streams.
    streams: [String; 3],
}

impl Known {
    /// Looks at all processes. A mount namespace is listed through the first process in it, which for init's is init.
    pub(crate) fn of(init: i32, pids: &[i32], streams: [String; 3]) -> Known {
        let (mut mounts, mut namespaces) = (BTreeSet::new(), BTreeSet::new());
        for pid in std::iter::once(&init).chain(pids) {
            for name in NAMESPACES {
                let Some(link) = namespace(*pid, name) else { continue };
                if namespaces.insert(link) && name == "mnt" {
                    let text = fd::document(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
                    mounts.extend(mountinfo::parse(&text).iter().map(|mount| mount.id));
                }
            }
        }
        Known { init, mounts, namespaces, streams }
    }

    /// The root directory that the paths of a process start from: that of its mount namespace.
    fn root(&self, pid: i32) -> Option<OwnedFd> {
        let shared = namespace(pid, "mnt") == namespace(self.init, "mnt");
        let pid = if shared { self.init } else { pid };
        fd::open(format!("/proc/{pid}/root"), OFlag::O_PATH | OFlag::O_DIRECTORY).ok()
    }
}

/// The name of a process in messages.
pub(crate) fn named(pid: i32) -> String {
    let name = process_stat(pid).ok().flatten().map(|stat| stat.name).unwrap_or_default();
    format!("process {pid} ({name})")
}

/// The text of a link in `/proc/PID/ns`.
pub(crate) fn namespace(pid: i32, name: &str) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/ns/{name}")).ok()
}

/// Whether a mount of message queues has a queue, which CRIU does not dump.
pub(crate) fn has_queue(init: i32, mount: &Mounted) -> bool {
    let names = || {
        let root = fd::open(format!("/proc/{init}/root"), OFlag::O_PATH | OFlag::O_DIRECTORY).ok()?;
        let found = resolve::find_if_exists(root.as_fd(), &RootPath::new(&mount.point)?, resolve::IN_ROOT).ok()??;
        // Another mount may cover it, and must not be opened: a process of the container may serve it.
        mounts::id_of(found.as_fd()).ok().filter(|id| *id == mount.id)?;
        directory::names(fd::reopen(found.as_fd(), OFlag::O_RDONLY | OFlag::O_DIRECTORY).ok()?.as_fd()).ok()
    };
    mount.kind == "mqueue" && names().is_some_and(|names| !names.is_empty())
}

/// Looks at all files of a process.
pub(crate) fn look(
    pid: i32,
    known: &Known,
    sockets: &Sockets,
    flags: &Flags,
    reporter: &Reporter,
    findings: &mut Vec<CheckpointObstacle>,
) {
    let root = known.root(pid);
    let hidden = |link: &Path, found: &Metadata, same_device: bool| {
        root.as_ref().and_then(|root| is_hidden(root, link, found, same_device)).unwrap_or(false)
    };
    for (name, what) in [("cwd", "current"), ("root", "root")] {
        let own = format!("/proc/{pid}/{name}");
        let owner = format!("the {what} directory of {}", named(pid));
        reporter.at(&owner, findings);
        let (Ok(link), Ok(found)) = (std::fs::read_link(&own), std::fs::metadata(&own)) else { continue };
        let directory = Descriptor { hidden: hidden(&link, &found, true), ..seen(&link, &found) };
        findings.extend(judge::descriptor(&owner, &directory, sockets, flags));
    }
    reporter.at(&format!("the memory of {}", named(pid)), findings);
    of_memory(pid, &hidden, flags, findings);
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
        let number = entry.file_name().to_string_lossy().into_owned();
        let owner = format!("descriptor {number} of {}", named(pid));
        reporter.at(&owner, findings);
        let (Ok(link), Ok(found)) = (std::fs::read_link(entry.path()), std::fs::metadata(entry.path())) else {
            continue;
        };
        let info = fd::read_small(fd::CWD, format!("/proc/{pid}/fdinfo/{number}")).unwrap_or_default();
        let mount = mounts::id_in(&info);
        let key = mount.map(|mount| elements::file_key(mount, found.ino()));
        let text = link.to_string_lossy();
        let kind = text.split_once(":[").map_or("", |(kind, _)| kind);
        let file = Descriptor {
            huge: text.starts_with("/memfd:")
                && fd::open(entry.path(), OFlag::O_PATH)
                    .and_then(|file| fd::filesystem(file.as_fd()))
                    .is_ok_and(|kind| kind == HUGETLBFS),
            // The attributes of other files may be on a filesystem that never answers.
            protocol: if found.file_type().is_socket() { protocol_of(&entry.path()) } else { String::new() },
            foreign: link.is_absolute() && mount.is_some_and(|mount| !known.mounts.contains(&mount))
                || NAMESPACES.contains(&kind) && !known.namespaces.contains(&link),
            hidden: (found.is_file() || found.is_dir()) && hidden(&link, &found, true),
            replaced: key.is_some_and(|key| known.streams.contains(&key)),
            info: String::from_utf8_lossy(&info).into_owned(),
            ..seen(&link, &found)
        };
        findings.extend(judge::descriptor(&owner, &file, sockets, flags));
    }
}

/// The files in the memory of a process, each once.
fn of_memory(
    pid: i32,
    hidden: &dyn Fn(&Path, &Metadata, bool) -> bool,
    flags: &Flags,
    findings: &mut Vec<CheckpointObstacle>,
) {
    let maps = document(pid, "maps");
    let mut known = BTreeSet::new();
    for line in maps.lines() {
        let mut columns = line.split_whitespace();
        let (Some(range), Some(path)) = (columns.next(), columns.nth(4)) else { continue };
        if !known.insert(line.splitn(4, ' ').last()) || ANEW.iter().any(|anew| path.starts_with(anew)) {
            continue;
        }
        if ["anon_inode:", "/secretmem", "[uprobes]", "/anon_hugepage"].iter().any(|it| path.starts_with(it)) {
            findings.push(finding(format!("{} has {path} in its memory", named(pid)), "CRIU cannot dump it"));
            continue;
        }
        // `maps` fills addresses up with zeros, and `map_files` does not.
        let ends: Vec<&str> = range.split('-').map(|end| end.trim_start_matches('0')).collect();
        let file = format!("/proc/{pid}/map_files/{}", ends.join("-"));
        let (Ok(link), Ok(found)) = (std::fs::read_link(&file), std::fs::metadata(&file)) else { continue };
        // An overlay may show the device of a layer here.
        let file = Descriptor { hidden: found.is_file() && hidden(&link, &found, false), ..seen(&link, &found) };
        let owner = format!("the memory {range} of {}", named(pid));
        findings.extend(judge::descriptor(&owner, &file, &Sockets::default(), flags));
    }
}

/// A file as far as its link and its attributes tell.
fn seen(link: &Path, found: &Metadata) -> Descriptor {
    Descriptor {
        link: link.to_string_lossy().into_owned(),
        mode: found.mode(),
        device: (libc::major(found.rdev()), libc::minor(found.rdev())),
        names: found.nlink(),
        size: found.blocks() * 512,
        ..Descriptor::default()
    }
}

/// Whether the path of an open file leads to another file. Files of procfs are left out, since they depend on the
/// reader.
fn is_hidden(root: &OwnedFd, link: &Path, found: &Metadata, same_device: bool) -> Option<bool> {
    let path = link.to_str().filter(|link| link.starts_with('/') && !link.starts_with("/proc/"))?;
    let path = RootPath::new(path).filter(|_| !path.ends_with(" (deleted)"))?;
    let Some(shown) = resolve::find_if_exists(root.as_fd(), &path, resolve::IN_ROOT).ok()? else {
        return Some(true);
    };
    let shown = fd::stat(shown.as_fd()).ok()?;
    Some(shown.st_ino != found.ino() || same_device && shown.st_dev != found.dev())
}

/// The protocol of a socket by its name in `/proc/PID/fd`; nothing for other files.
pub(crate) fn protocol_of(path: &Path) -> String {
    let name = attributes::read(&path.to_string_lossy(), "system.sockprotoname").unwrap_or_default();
    String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned()
}
