//! The external mounts of a dump: CRIU cannot make them itself, and each has a name by which the restore finds it
//! again.

use windlass_base::mountinfo::Mounted;

/// The mounts of the configuration, by their ids in mountinfo.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Declared {
    /// Copies of mounts of the host: bind mounts and device nodes.
    pub bound: Vec<u32>,
    /// Mounts of cgroup2, which are made anew in the cgroup of the restored container.
    pub cgroups: Vec<u32>,
    /// Masked files.
    pub masked: Vec<u32>,
}

/// A mount that the restore gets from outside the images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalMount {
    /// Its mount point in the container.
    pub point: String,
    /// Its name in the images.
    pub name: String,
    /// The type of its filesystem.
    pub kind: String,
    /// Whether the configuration has the mount. Otherwise the restore does not know its source.
    pub declared: bool,
}

/// The name of every masked file.
pub const NULL: &str = "/dev/null";

/// Filesystems that CRIU makes anew and fills again. An overlay is not here, since CRIU would look up its layers at
/// their paths on the host, and neither is binfmt_misc, which is shared with the host.
const REBUILT: &[&str] = &["proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup2"];

/// The mounts of a container that must be declared external. Any other mount is of a filesystem that CRIU makes anew,
/// or a part of one, or of the root filesystem.
pub fn external_mounts(mounts: &[Mounted], declared: &Declared) -> Vec<ExternalMount> {
    let outside = |mount: &Mounted| {
        [&declared.bound, &declared.cgroups, &declared.masked].iter().any(|ids| ids.contains(&mount.id))
    };
    let inside: Vec<&Mounted> = mounts.iter().filter(|mount| is_origin(mount) && !outside(mount)).collect();
    let is_rebuilt = |mount: &Mounted| {
        inside.iter().any(|origin| origin.device == mount.device && is_below(&mount.root, &origin.root))
    };
    mounts
        .iter()
        .filter(|mount| mount.point != "/" && (outside(mount) || !is_rebuilt(mount)))
        .map(|mount| {
            let name = if declared.masked.contains(&mount.id) { NULL } else { &mount.point };
            ExternalMount {
                point: mount.point.clone(),
                name: name.into(),
                kind: mount.kind.clone(),
                declared: outside(mount),
            }
        })
        .collect()
}

/// Whether CRIU can make other mounts as parts of this one.
fn is_origin(mount: &Mounted) -> bool {
    mount.point == "/" || mount.root == "/" && REBUILT.contains(&mount.kind.as_str())
}

/// Whether a path is `other` or below it.
pub fn is_below(path: &str, other: &str) -> bool {
    let other = other.trim_end_matches('/');
    path.strip_prefix(other).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use windlass_base::mountinfo;

    use super::*;

    const MOUNTS: &[u8] = b"10 1 8:1 /b/rootfs / rw - ext4 /dev/vda rw\n\
        11 10 0:20 / /proc rw - proc proc rw\n\
        12 10 0:21 / /dev rw - tmpfs tmpfs rw\n\
        13 12 0:22 / /dev/pts rw - devpts devpts rw\n\
        14 12 0:22 /0 /dev/console rw - devpts devpts rw\n\
        15 10 8:1 /b/data /data rw - ext4 /dev/vda rw\n\
        16 15 0:30 / /data/sub rw - tmpfs tmpfs rw\n\
        17 10 8:1 /b/rootfs/etc /copy rw - ext4 /dev/vda rw\n\
        18 11 0:20 /sys /proc/sys ro - proc proc rw\n\
        19 11 0:5 /null /proc/kcore rw master:2 - devtmpfs udev rw\n\
        20 10 0:40 / /shm rw - tmpfs shm rw\n\
        21 10 0:25 / /sys/fs/cgroup ro - cgroup2 cgroup rw\n\
        22 10 8:1 /gpu /usr/lib/gpu ro - ext4 /dev/vda rw\n\
        23 10 8:2 / /disk rw - xfs /dev/vdb rw\n\
        24 10 0:50 / /layers rw - overlay overlay rw,lowerdir=/a:/b\n";

    #[test]
    fn each_mount_is_rebuilt_or_external() {
        let mounts = mountinfo::parse(MOUNTS);
        let declared = Declared { bound: vec![15, 16, 20], cgroups: vec![21], masked: vec![19] };
        let found = external_mounts(&mounts, &declared);
        let found: Vec<_> = found.iter().map(|it| (it.point.as_str(), it.name.as_str())).collect();
        let expected = [
            ("/data", "/data"),
            ("/data/sub", "/data/sub"),
            ("/proc/kcore", "/dev/null"),
            ("/shm", "/shm"),
            ("/sys/fs/cgroup", "/sys/fs/cgroup"),
            ("/usr/lib/gpu", "/usr/lib/gpu"),
            ("/disk", "/disk"),
            ("/layers", "/layers"),
        ];
        assert_eq!(found, expected);
        let unknown = external_mounts(&mounts, &declared).into_iter().filter(|it| !it.declared).map(|it| it.point);
        assert_eq!(unknown.collect::<Vec<_>>(), ["/usr/lib/gpu", "/disk", "/layers"]);
    }

    #[test]
    fn a_tmpfs_of_the_container_is_its_own_and_one_of_the_host_is_not() {
        let mounts = mountinfo::parse(MOUNTS);
        let declared = Declared { bound: vec![15], ..Declared::default() };
        let external = |point: &str| external_mounts(&mounts, &declared).iter().any(|it| it.point == point);
        assert!(!external("/data/sub") && !external("/shm") && !external("/dev/console") && !external("/copy"));
        assert!(external("/proc/kcore"), "the device is the host's");
    }
}
