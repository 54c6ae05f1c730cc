//! The cgroup hierarchies that are mounted on this host.

use std::cell::OnceCell;

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

use super::directory::{Directory, read_file};
use windlass_base::error::{Result, WithContext};
use windlass_base::mountinfo::{self, Line};

/// The mounted hierarchies. A command looks them up once.
#[derive(Debug)]
pub struct Hierarchy {
    unified: Option<Directory>,
    /// The hierarchies of version 1, found on demand, since only limits that cgroup2 cannot apply need them.
    v1: OnceCell<Vec<HierarchyV1>>,
}

/// A mounted hierarchy of cgroup version 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HierarchyV1 {
    /// Its controllers, for example `cpu` and `cpuacct`. There is at least one.
    pub controllers: Vec<String>,
    /// Its mount point.
    pub mount: String,
}

/// Where systemd mounts cgroup2: with version 2 alone, and in hybrid mode.
const USUAL: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

impl Hierarchy {
    /// Finds the cgroup2 mount.
    ///
    /// This takes two or three system calls if it is mounted at a usual place. Otherwise mountinfo is read, which takes
    /// the kernel long on hosts with thousands of mounts.
    pub fn find() -> Result<Hierarchy> {
        let is_unified = |path: &&str| statfs(*path).is_ok_and(|fs| fs.filesystem_type() == CGROUP2_SUPER_MAGIC);
        if let Some(mount) = USUAL.into_iter().find(is_unified) {
            return Ok(Hierarchy { unified: Some(open(mount)?), v1: OnceCell::new() });
        }
        let (unified, v1) = parse(
            &read_file("/proc/thread-self/mountinfo").with_context(|| "cannot read /proc/thread-self/mountinfo")?,
        );
        let unified = unified.map(|mount| open(&mount)).transpose()?;
        Ok(Hierarchy { unified, v1: OnceCell::from(v1) })
    }

    /// The mount point of cgroup2, if there is one.
    pub fn unified(&self) -> Option<&str> {
        self.unified.as_ref().map(|root| root.path.as_str())
    }

    /// The mounted hierarchies of version 1; none if mountinfo cannot be read.
    pub fn v1(&self) -> &[HierarchyV1] {
        self.v1.get_or_init(|| read_file("/proc/thread-self/mountinfo").map(|text| parse(&text).1).unwrap_or_default())
    }

    /// The hierarchy of version 1 with a controller, which is named as in version 2.
    pub fn v1_of(&self, controller: &str) -> Option<&HierarchyV1> {
        let name = if controller == "io" { "blkio" } else { controller };
        self.v1().iter().find(|v1| v1.controllers.iter().any(|c| c == name))
    }

    pub(super) fn root(&self) -> Option<&Directory> {
        self.unified.as_ref()
    }
}

fn open(mount: &str) -> Result<Directory> {
    Directory::open(mount).with_context(|| format!("cannot open the cgroup root {mount:?}"))
}

/// The cgroup2 mount, if any, and the hierarchies of version 1. Of several cgroup2 mounts, the first with the whole
/// tree is preferred.
pub(super) fn parse(text: &str) -> (Option<String>, Vec<HierarchyV1>) {
    let (mut unified, mut whole, mut v1) = (None, false, Vec::new());
    for line in mountinfo::lines(text.as_bytes()) {
        match line.kind {
            b"cgroup2" if unified.is_none() || (!whole && line.root == b"/") => {
                (unified, whole) = (Some(mountinfo::text(line.point)), line.root == b"/");
            }
            b"cgroup" => {
                let controllers: Vec<String> =
                    options(&line).filter(|option| CONTROLLERS_V1.contains(&option.as_str())).collect();
                if !controllers.is_empty() {
                    v1.push(HierarchyV1 { controllers, mount: mountinfo::text(line.point) });
                }
            }
            _ => {}
        }
    }
    (unified, v1)
}

fn options<'a>(line: &Line<'a>) -> impl Iterator<Item = String> + use<'a> {
    line.options.split(|byte| *byte == b',').map(|option| String::from_utf8_lossy(option).into_owned())
}

/// The options of the cgroup2 superblock. They hold for the whole host, and each mount from the initial cgroup
/// namespace sets them anew (cgroup-v2.rst, "Mounting"): a mount with these options changes nothing.
///
/// In another cgroup namespace there are none: mounts from there set nothing, so mountinfo is not read.
pub fn options_of_cgroup2() -> Result<Vec<String>> {
    if !sets_options() {
        return Ok(Vec::new());
    }
    let text = read_file("/proc/thread-self/mountinfo").with_context(|| "cannot read /proc/thread-self/mountinfo")?;
    Ok(superblock_options(&text))
}

/// Whether a mount of cgroup2 made here sets its options for the whole host.
pub fn sets_options() -> bool {
    // The inode of the initial namespace is fixed (linux/proc_ns.h).
    let initial = std::path::Path::new("cgroup:[4026531835]");
    std::fs::read_link("/proc/self/ns/cgroup").map_or(true, |namespace| namespace == initial)
}

/// Whether an option is one of cgroup2 itself, and not of every file system or of security modules.
pub fn is_of_cgroup2(option: &str) -> bool {
    !matches!(option, "" | "rw" | "ro" | "seclabel") && !option.contains('=')
}

pub(super) fn superblock_options(text: &str) -> Vec<String> {
    let found = mountinfo::lines(text.as_bytes()).find(|line| line.kind == b"cgroup2");
    found.iter().flat_map(options).filter(|option| is_of_cgroup2(option)).collect()
}

/// The mount options of version 1 that name controllers. Other options are `rw`, `name=systemd`, `xattr`.
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
