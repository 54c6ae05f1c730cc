//! Where the cgroups of this host are.

use std::cell::OnceCell;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

use super::directory::{Directory, read_file};
use windlass_base::error::{Doing, Error, Origin, Result};
use windlass_sys::mount::unescape;

/// What is mounted where. Looked up once per command.
#[derive(Debug)]
pub struct Hierarchy {
    unified: Option<Directory>,
    /// Looked up when asked for: only limits that cgroup2 cannot apply do.
    v1: OnceCell<Vec<V1>>,
}

/// A mounted hierarchy of cgroup version 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct V1 {
    /// For example `cpu`, `cpuacct`; a named hierarchy without controllers is not kept.
    pub controllers: Vec<String>,
    /// Where it is mounted.
    pub mount: String,
}

/// Where cgroup2 is on hosts of version 2, and on those that systemd set up for both.
const USUAL: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

impl Hierarchy {
    /// Finds the cgroup2 mount.
    ///
    /// Two or three system calls where it is mounted at a usual place; only otherwise is
    /// mountinfo read, which takes the kernel long on hosts with thousands of mounts.
    pub fn find() -> Result<Hierarchy> {
        let is_unified = |path: &&str| statfs(*path).is_ok_and(|fs| fs.filesystem_type() == CGROUP2_SUPER_MAGIC);
        if let Some(mount) = USUAL.into_iter().find(is_unified) {
            return Ok(Hierarchy { unified: Some(open(mount)?), v1: OnceCell::new() });
        }
        let (unified, v1) =
            parse(&read_file("/proc/thread-self/mountinfo").doing(|| "cannot read /proc/thread-self/mountinfo")?);
        let unified = unified.map(|mount| open(&mount)).transpose()?;
        Ok(Hierarchy { unified, v1: OnceCell::from(v1) })
    }

    /// Where cgroup2 is mounted, if it is.
    pub fn unified(&self) -> Option<&str> {
        self.unified.as_ref().map(|root| root.path.as_str())
    }

    /// The root directory of cgroup2.
    pub fn root_fd(&self) -> Option<BorrowedFd<'_>> {
        self.unified.as_ref().map(AsFd::as_fd)
    }

    /// The mounted hierarchies of version 1; none where that cannot be found out.
    pub fn v1(&self) -> &[V1] {
        self.v1.get_or_init(|| read_file("/proc/thread-self/mountinfo").map(|text| parse(&text).1).unwrap_or_default())
    }

    /// The hierarchy of version 1 that holds a controller, named as in version 2.
    pub fn v1_of(&self, controller: &str) -> Option<&V1> {
        let name = if controller == "io" { "blkio" } else { controller };
        self.v1().iter().find(|v1| v1.controllers.iter().any(|c| c == name))
    }

    pub(super) fn root(&self) -> Option<&Directory> {
        self.unified.as_ref()
    }
}

fn open(mount: &str) -> Result<Directory> {
    Directory::open(mount).doing(|| format!("cannot open the cgroup root {mount:?}"))
}

/// The cgroup2 mount, if any, and those of version 1. Of several that with the whole tree.
fn parse(mountinfo: &str) -> (Option<String>, Vec<V1>) {
    let (mut unified, mut whole, mut v1) = (None, false, Vec::new());
    for line in mountinfo.lines() {
        // id parent major:minor root mount options [tags] - type source superoptions
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let mut right = right.split(' ');
        let mut left = left.split(' ').skip(3);
        let (Some(root), Some(mount)) = (left.next(), left.next()) else { continue };
        match right.next() {
            Some("cgroup2") if unified.is_none() || (!whole && root == "/") => {
                (unified, whole) = (Some(plain(mount)), root == "/");
            }
            Some("cgroup") => {
                let controllers: Vec<String> = right
                    .nth(1)
                    .into_iter()
                    .flat_map(|options| options.split(','))
                    .filter(|option| CONTROLLERS_V1.contains(option))
                    .map(str::to_owned)
                    .collect();
                if !controllers.is_empty() {
                    v1.push(V1 { controllers, mount: plain(mount) });
                }
            }
            _ => {}
        }
    }
    (unified, v1)
}

/// The options of the cgroup2 superblock, by which a mount leaves them as they are: those for all of the host
/// count that the last mount from the first cgroup namespace had (cgroup-v2.rst, "Mounting").
///
/// None where this process is in another cgroup namespace: its mounts set nothing, and mountinfo is long.
pub fn options_of_cgroup2() -> Result<Vec<String>> {
    // The inode of the first namespace is fixed (linux/proc_ns.h).
    let first = std::path::Path::new("cgroup:[4026531835]");
    if std::fs::read_link("/proc/self/ns/cgroup").is_ok_and(|namespace| namespace != first) {
        return Ok(Vec::new());
    }
    let text = read_file("/proc/thread-self/mountinfo").doing(|| "cannot read /proc/thread-self/mountinfo")?;
    Ok(superblock_options(&text))
}

fn superblock_options(mountinfo: &str) -> Vec<String> {
    let mut fields = mountinfo.lines().filter_map(|line| Some(line.split_once(" - ")?.1.split(' ')));
    let options = fields.find_map(|mut fields| (fields.next() == Some("cgroup2")).then(|| fields.nth(1)));
    let options = options.flatten().into_iter().flat_map(|options| options.split(','));
    // Not those of every filesystem, and those of security modules.
    options
        .filter(|option| !matches!(*option, "rw" | "ro" | "seclabel") && !option.contains('='))
        .map(str::to_owned)
        .collect()
}

fn plain(mount: &str) -> String {
    String::from_utf8_lossy(&unescape(mount.as_bytes())).into_owned()
}

/// The other options of a v1 mount are no controllers (`rw`, `name=systemd`, `xattr`).
const CONTROLLERS_V1: &[&str] = &[
    "blkio",
    "cpu",
    "cpuacct",
    "cpuset",
    "devices",
    "freezer",
    "hugetlb",
    "memory",
    "misc",
    "net_cls",
    "net_prio",
    "perf_event",
    "pids",
    "rdma",
];

/// The cgroup2 path of this process.
pub fn own_cgroup() -> Result<String> {
    let text = read_file("/proc/self/cgroup").doing(|| "cannot read /proc/self/cgroup")?;
    Ok(unified_line(&text).unwrap_or("/").to_owned())
}

/// The path in the line `0::path` of a /proc/PID/cgroup.
pub(super) fn unified_line(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::"))
}

/// The path of a container's cgroup below the root of the hierarchy, with a leading slash.
///
/// An absolute `cgroups_path` is meant from that root. A relative one, and the id where there
/// is none, goes beside `own`, the cgroup of the runtime: that one has processes, so none below
/// it could have controllers. Beside a system service would be systemd's ground; there a slice
/// for machines is used, as runc does.
///
/// `..` removes the component before it, as text, and never leads above where the path begins. The kernel
/// judges the length of a component: in a cgroup file system the limit of 255 bytes does not hold.
pub fn path_for(cgroups_path: &str, id: &str, own: &str) -> Result<String> {
    let refuse =
        |why: &str| Err(Error::config("/linux/cgroupsPath", format!("invalid cgroupsPath {cgroups_path:?}: {why}")));
    if cgroups_path.contains(['\n', '\0']) {
        return refuse("it has a control character");
    }
    let wanted = if cgroups_path.is_empty() { id } else { cgroups_path };
    let parent = if wanted.starts_with('/') {
        ""
    } else {
        match own.rsplit_once('/').map_or("", |(parent, _)| parent) {
            "/system.slice" => "/machine.slice/machine-windlass.slice",
            // Above the root of our cgroup namespace nothing can be made.
            parent if parent.starts_with("/..") => "",
            parent => parent,
        }
    };
    let mut path = String::with_capacity(parent.len() + wanted.len() + 1);
    for component in parent.split('/').filter(|component| !matches!(*component, "" | ".")) {
        path.push('/');
        path.push_str(component);
    }
    let base = path.len();
    for component in wanted.split('/') {
        match component {
            "" | "." => {}
            ".." => path.truncate(path[base..].rfind('/').map_or(base, |slash| base + slash)),
            _ => {
                path.push('/');
                path.push_str(component);
            }
        }
    }
    match path.len() > base {
        true => Ok(path),
        false if base == 0 => refuse("it is the root of the hierarchy"),
        false => refuse("it names no cgroup of the container's own"),
    }
}

/// The origin of everything about where the cgroup is.
pub(super) fn asked_by_path() -> Origin {
    Origin::config("/linux/cgroupsPath")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_options_of_the_superblock_are_those_of_cgroup2() {
        let mountinfo = "24 1 0:22 / /sys rw,nosuid - sysfs sysfs rw,seclabel\n\
            33 24 0:28 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,seclabel,nsdelegate,memory_recursiveprot\n";
        assert_eq!(superblock_options(mountinfo), ["nsdelegate", "memory_recursiveprot"]);
        assert!(superblock_options("33 24 0:28 / /c rw - cgroup2 cgroup rw\n").is_empty());
        assert!(superblock_options("").is_empty());
    }

    #[test]
    fn an_absolute_path_is_meant_from_the_root() {
        assert_eq!(path_for("/a/b", "id", "/x/y").expect("valid"), "/a/b");
        assert_eq!(path_for("//a/./b/", "id", "/x/y").expect("valid"), "/a/b");
    }

    #[test]
    fn a_relative_path_or_none_goes_beside_the_runtime() {
        assert_eq!(path_for("", "id", "/user.slice/session-1.scope").expect("valid"), "/user.slice/id");
        assert_eq!(path_for("a/b", "id", "/user.slice/session-1.scope").expect("valid"), "/user.slice/a/b");
        assert_eq!(path_for("", "id", "/").expect("valid"), "/id");
        assert_eq!(path_for("", "id", "/shell").expect("valid"), "/id");
        assert_eq!(path_for("", "id", "/../../x").expect("valid"), "/id");
        assert_eq!(
            path_for("", "id", "/system.slice/containerd.service").expect("valid"),
            "/machine.slice/machine-windlass.slice/id"
        );
    }

    #[test]
    fn a_path_cannot_leave_its_place() {
        for (path, stays) in [("/a/../b", "/b"), ("/../../b", "/b"), ("../../b", "/x/b"), ("a/b/../../../c", "/x/c")] {
            assert_eq!(path_for(path, "id", "/x/y").expect(path), stays, "{path}");
        }
        for path in ["..", "a/..", "/", "//", "/a/..", "/a\nb", "/a\0b"] {
            let error = path_for(path, "id", "/x/y").expect_err(path);
            assert_eq!(error.asked_by(), Some(&asked_by_path()), "{path}");
        }
    }

    #[test]
    fn the_kernel_says_how_long_a_component_may_be() {
        let long = format!("/{}", "x".repeat(300));
        assert_eq!(path_for(&long, "id", "/x/y").expect("valid"), long);
    }

    #[test]
    fn a_hybrid_host_has_both() {
        let text = "\
25 1 0:23 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
26 25 0:24 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
27 25 0:25 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
28 25 0:26 / /sys/fs/cgroup/uni\\040fied rw,relatime - cgroup2 cgroup2 rw
29 25 0:27 / /sys/fs/cgroup/blkio rw,relatime - cgroup cgroup rw,blkio\n";
        let (unified, v1) = parse(text);
        assert_eq!(unified.as_deref(), Some("/sys/fs/cgroup/uni fied"));
        assert_eq!(v1.len(), 2);
        assert_eq!(v1[0].controllers, ["cpu", "cpuacct"]);
        let hierarchy = Hierarchy { unified: None, v1: OnceCell::from(v1) };
        assert_eq!(hierarchy.v1_of("io").expect("blkio").mount, "/sys/fs/cgroup/blkio");
        assert_eq!(hierarchy.v1_of("memory"), None);
    }

    #[test]
    fn the_mount_with_the_whole_tree_is_preferred() {
        let line = |root: &str, mount: &str| format!("28 25 0:26 {root} {mount} rw - cgroup2 none rw\n");
        let (unified, _) = parse(&(line("/docker/x", "/a") + &line("/", "/b") + &line("/", "/c")));
        assert_eq!(unified.as_deref(), Some("/b"));
        let (unified, _) = parse(&line("/docker/x", "/a"));
        assert_eq!(unified.as_deref(), Some("/a"));
        assert_eq!(parse("nonsense\n 1 2 - \n").0, None);
    }
}
