//! Mounts the root filesystem on the bundle's `rootfs`. containerd gives the mounts, with options as in fstab(5).
//!
//! This runs in a child of the shim, because a mount may wait for a disk or a server.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, ResolveFlag};
use nix::mount::{MntFlags, MsFlags};

use super::error::Error;
use super::idmapped::{self, Ids};
use super::message::Mount;
use windlass_sys::{Result, SyscallError, fd, mount};

/// Longest text of options in bytes: a page without the final NUL (mount(2)).
const LONGEST: usize = 4095;

/// The parsed options of a mount.
#[derive(Debug, PartialEq, Eq)]
struct MountOptions {
    flags: MsFlags,
    propagation: Vec<MsFlags>,
    data: Vec<String>,
    loop_device: bool,
    ids: Option<Ids>,
}

/// Options that set (true) or clear (false) flags.
const FLAGS: &[(&str, bool, MsFlags)] = &[
    ("async", false, MsFlags::MS_SYNCHRONOUS),
    ("atime", false, MsFlags::MS_NOATIME),
    ("bind", true, MsFlags::MS_BIND),
    ("defaults", true, MsFlags::empty()),
    ("dev", false, MsFlags::MS_NODEV),
    ("diratime", false, MsFlags::MS_NODIRATIME),
    ("dirsync", true, MsFlags::MS_DIRSYNC),
    ("exec", false, MsFlags::MS_NOEXEC),
    ("mand", true, MsFlags::MS_MANDLOCK),
    ("noatime", true, MsFlags::MS_NOATIME),
    ("nodev", true, MsFlags::MS_NODEV),
    ("nodiratime", true, MsFlags::MS_NODIRATIME),
    ("noexec", true, MsFlags::MS_NOEXEC),
    ("nomand", false, MsFlags::MS_MANDLOCK),
    ("norelatime", false, MsFlags::MS_RELATIME),
    ("nostrictatime", false, MsFlags::MS_STRICTATIME),
    ("nosuid", true, MsFlags::MS_NOSUID),
    ("rbind", true, MsFlags::MS_BIND.union(MsFlags::MS_REC)),
    ("relatime", true, MsFlags::MS_RELATIME),
    ("remount", true, MsFlags::MS_REMOUNT),
    ("ro", true, MsFlags::MS_RDONLY),
    ("rw", false, MsFlags::MS_RDONLY),
    ("strictatime", true, MsFlags::MS_STRICTATIME),
    ("suid", false, MsFlags::MS_NOSUID),
    ("sync", true, MsFlags::MS_SYNCHRONOUS),
];

const PROPAGATION: &[(&str, MsFlags)] = &[
    ("private", MsFlags::MS_PRIVATE),
    ("rprivate", MsFlags::MS_PRIVATE.union(MsFlags::MS_REC)),
    ("shared", MsFlags::MS_SHARED),
    ("rshared", MsFlags::MS_SHARED.union(MsFlags::MS_REC)),
    ("slave", MsFlags::MS_SLAVE),
    ("rslave", MsFlags::MS_SLAVE.union(MsFlags::MS_REC)),
    ("unbindable", MsFlags::MS_UNBINDABLE),
    ("runbindable", MsFlags::MS_UNBINDABLE.union(MsFlags::MS_REC)),
];

impl MountOptions {
    fn of(mount: &Mount) -> std::result::Result<MountOptions, Error> {
        let mapped = |option: &str| option.starts_with("uidmap=") || option.starts_with("gidmap=");
        let ids = |name| {
            let value = mount.options.iter().find_map(|option| option.strip_prefix(name));
            value
                .map(|value| {
                    idmapped::map(value).ok_or_else(|| Error::Invalid(format!("invalid mount option {name}{value}")))
                })
                .transpose()
        };
        let ids = match (ids("uidmap=")?, ids("gidmap=")?) {
            (None, None) => None,
            (Some(users), Some(groups)) => Some(Ids { users, groups }),
            // With only one of them, the other ids would map to nobody.
            _ => return Err(Error::Invalid("uidmap and gidmap go together in the options of a mount".into())),
        };
        let mut options = MountOptions {
            flags: MsFlags::empty(),
            propagation: Vec::new(),
            data: Vec::new(),
            loop_device: false,
            ids,
        };
        for option in mount.options.iter().filter(|option| !mapped(option)).flat_map(|option| separate(option)) {
            if let Some((_, on, flag)) = FLAGS.iter().find(|(name, ..)| *name == option) {
                options.flags.set(*flag, *on);
            } else if let Some((_, flag)) = PROPAGATION.iter().find(|(name, _)| *name == option) {
                options.propagation.push(*flag);
            } else if option == "loop" {
                options.loop_device = true;
            } else if mapped(option) {
                // Commas separate the ranges of this option, so it cannot be told from the options after it. A mount
                // without it would have the wrong owners.
                return Err(Error::Invalid(format!("mount option {option:?} must not be joined to others")));
            } else {
                options.data.push(option.to_owned());
            }
        }
        if mount.kind == "bind" {
            options.flags |= MsFlags::MS_BIND;
        }
        Ok(options)
    }
}

/// Splits a text with several options. As in fstab(5), a path cannot have a comma.
fn separate(option: &str) -> impl Iterator<Item = &str> {
    // An option of a filesystem may have a comma in quotes, so a text with quotes is not split.
    let whole = option.contains('"');
    option.split(move |c| c == ',' && !whole).filter(|option| !option.is_empty())
}

/// Mounts all mounts on `root`, in order.
pub(super) fn mount_all(root: &Path, mounts: &[Mount]) -> std::result::Result<(), Error> {
    if mounts.is_empty() {
        return Ok(());
    }
    match std::fs::create_dir(root) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(Error::Io(format!("mkdir {}", root.display()), error));
        }
        _ => {}
    }
    for mount in mounts {
        let mut options = MountOptions::of(mount)?;
        let mounted = match options.ids.take() {
            None => mount_one(root, mount, options).map_err(Error::from),
            Some(ids) => mount_idmapped(root, mount, options, &ids),
        };
        let what = || format!("mount rootfs: type {:?}, source {:?}", mount.kind, mount.source);
        mounted.map_err(|error| error.context(what()))?;
    }
    Ok(())
}

/// Opens the target of a mount, on top of the mounts made so far.
fn target(root: &Path, mount: &Mount) -> Result<OwnedFd> {
    let root = fd::open(root, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW)?;
    match mount.target.trim_start_matches('/') {
        "" => Ok(root),
        // RESOLVE_IN_ROOT, so that a link in an image cannot lead outside of the image.
        below => fd::openat2(root.as_fd(), below, OFlag::O_PATH, 0, ResolveFlag::RESOLVE_IN_ROOT),
    }
}

fn mount_idmapped(root: &Path, mount: &Mount, mut options: MountOptions, ids: &Ids) -> std::result::Result<(), Error> {
    let propagation = std::mem::take(&mut options.propagation);
    let lower = options.data.iter().find_map(|option| option.strip_prefix("lowerdir=")).map(str::to_owned);
    if lower.is_none() && mount.kind == "overlay" {
        return Err(Error::Invalid("an overlay with uidmap has no lowerdir".into()));
    }
    let made = idmapped::make(ids, lower.as_deref(), || target(root, mount), || mount_one(root, mount, options))?;
    let attach = || {
        mount::attach(made.as_fd(), target(root, mount)?.as_fd())?;
        propagate(root, mount, propagation)
    };
    Ok(attach()?)
}

fn propagate(root: &Path, mount: &Mount, propagation: Vec<MsFlags>) -> Result<()> {
    for flags in propagation {
        mount::mount_old("", target(root, mount)?.as_fd(), "", flags, "")?;
    }
    Ok(())
}

fn mount_one(root: &Path, mount: &Mount, options: MountOptions) -> Result<()> {
    let target = || target(root, mount);
    let mut data = options.data.join(",");
    if data.len() > LONGEST {
        let (common, short) = shortened(&options.data);
        mount::change_directory(fd::open(common, OFlag::O_PATH | OFlag::O_DIRECTORY)?.as_fd())?;
        data = short;
    }
    let device = options.loop_device.then(|| {
        let read_only = options.flags.contains(MsFlags::MS_RDONLY);
        mount::loop_device(mount.source.as_ref(), read_only)
    });
    let device = device.transpose()?;
    let source = device.as_ref().map_or(mount.source.as_str(), |(path, _)| path.as_str());
    let bind = options.flags.contains(MsFlags::MS_BIND);
    let binding = MsFlags::MS_BIND | MsFlags::MS_REC;
    let first = if bind { options.flags & binding } else { options.flags };
    mount::mount_old(source, target()?.as_fd(), &mount.kind, first, &data)?;
    if bind && !(options.flags - binding).is_empty() {
        // The kernel ignores flags when it makes a bind mount. A remount sets them.
        let flags = (options.flags - MsFlags::MS_REC) | MsFlags::MS_REMOUNT;
        mount::mount_old("", target()?.as_fd(), "", flags, &data)?;
    }
    propagate(root, mount, options.propagation)
}

/// Shortens options: the lower directories of an overlay become relative to their common directory. Returns that
/// directory, which must be the working directory, and the options.
fn shortened(options: &[String]) -> (&str, String) {
    let lower = options.iter().find_map(|option| option.strip_prefix("lowerdir=")).unwrap_or_default();
    let common = common_directory(lower.split(':'));
    if common.is_empty() {
        return ("/", options.join(","));
    }
    let relative: Vec<&str> = lower.split(':').map(|path| &path[common.len() + 1..]).collect();
    let short = |option: &String| match option.strip_prefix("lowerdir=") {
        Some(_) => format!("lowerdir={}", relative.join(":")),
        None => option.clone(),
    };
    (common, options.iter().map(short).collect::<Vec<_>>().join(","))
}

/// The longest directory that has all paths below it, without a final slash.
fn common_directory<'a>(paths: impl Iterator<Item = &'a str>) -> &'a str {
    let mut common: Option<&str> = None;
    for path in paths {
        let Some(before) = common else {
            common = Some(path.rsplit_once('/').map_or("", |(directory, _)| directory));
            continue;
        };
        let same = before.bytes().zip(path.bytes()).take_while(|(a, b)| a == b).count();
        let whole = same == before.len() && path.as_bytes().get(same) == Some(&b'/');
        let end = if whole { same } else { before[..same].rfind('/').unwrap_or(0) };
        common = Some(&before[..end]);
    }
    common.unwrap_or_default()
}

/// Unmounts everything on `root` and below it. Succeeds if nothing is mounted.
pub(super) fn unmount_all(root: &Path) -> std::result::Result<(), Error> {
    // Several mounts may be stacked on `root`, but not this many.
    for _ in 0..64 {
        match nix::mount::umount2(root, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::EINVAL | Errno::ENOENT) => return Ok(()),
            Err(errno) => return Err(SyscallError { call: format!("umount {}", root.display()).into(), errno }.into()),
        }
    }
    Err(Error::Invalid(format!("umount {}: mounted too often", root.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(kind: &str, options: &[&str]) -> Mount {
        Mount { kind: kind.into(), options: options.iter().map(|text| text.to_string()).collect(), ..Mount::default() }
    }

    #[test]
    fn options_are_flags_or_data() {
        let overlay = mount("overlay", &["lowerdir=/a:/b", "upperdir=/u", "ro,nodev", "rw", "index=off"]);
        let options = MountOptions::of(&overlay).expect("parsed");
        assert_eq!(options.flags, MsFlags::MS_NODEV);
        assert_eq!(options.data, ["lowerdir=/a:/b", "upperdir=/u", "index=off"]);
        let bind = MountOptions::of(&mount("bind", &["rbind", "ro", "rslave"])).expect("parsed");
        assert_eq!(bind.flags, MsFlags::MS_BIND | MsFlags::MS_REC | MsFlags::MS_RDONLY);
        assert_eq!(bind.propagation, [MsFlags::MS_SLAVE | MsFlags::MS_REC]);
        assert!(MountOptions::of(&mount("ext4", &["loop"])).expect("parsed").loop_device);
        let mapped = MountOptions::of(&mount("overlay", &["uidmap=0:7:1,1:9:2", "gidmap=0:8:3", "lowerdir=/a"]));
        let mapped = mapped.expect("parsed");
        let (users, groups) = ("0 7 1\n1 9 2\n".into(), "0 8 3\n".into());
        assert_eq!(mapped.ids, Some(Ids { users, groups }));
        assert_eq!(mapped.data, ["lowerdir=/a"]);
        for wrong in [&["uidmap=0:1000:1"][..], &["uidmap=0:1", "gidmap=0:1:1"], &["ro,uidmap=0:1:1"]] {
            assert!(MountOptions::of(&mount("overlay", wrong)).is_err(), "{wrong:?}");
        }
    }

    /// mount(2) ignores the flags when it makes a bind mount.
    #[test]
    fn a_bind_mount_has_the_flags_that_it_was_given() {
        use nix::sched::{CloneFlags, unshare};
        let tried = std::thread::spawn(|| {
            // Of this thread alone.
            if unshare(CloneFlags::CLONE_NEWNS).is_err() {
                return eprintln!("NOT RUN: a mount namespace needs root");
            }
            mount::propagate_root(windlass_base::mount::PropagationChange::of_tree(
                windlass_base::mount::Propagation::Private,
            ))
            .expect("private");
            let dir = std::env::temp_dir().join(format!("windlass-bind-{}", std::process::id()));
            std::fs::create_dir_all(dir.join("source")).expect("a directory");
            let source = dir.join("source").display().to_string();
            let root = dir.join("rootfs");
            for (options, flags) in [(&["rbind", "ro", "nosuid"][..], "ro,nosuid"), (&["bind", "nodev"], "rw,nodev")] {
                let bind = Mount { source: source.clone(), ..mount("bind", options) };
                mount_all(&root, &[bind]).expect("mounted");
                let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").expect("procfs");
                let point = root.display().to_string();
                let line = mounts.lines().find(|line| line.split(' ').nth(4) == Some(&point)).expect("a mount");
                assert!(line.split(' ').nth(5).is_some_and(|found| found.starts_with(flags)), "{flags}: {line}");
                unmount_all(&root).expect("unmounted");
            }
            std::fs::remove_dir_all(&dir).expect("removed");
        });
        tried.join().expect("as asked");
    }

    #[test]
    fn the_common_directory_ends_at_a_slash() {
        let common = |paths: &[&'static str]| common_directory(paths.iter().copied());
        assert_eq!(common(&["/a/snapshots/12/fs", "/a/snapshots/1/fs"]), "/a/snapshots");
        assert_eq!(common(&["/a/b", "/a/b/c"]), "/a");
        assert_eq!(common(&["/a/b/c", "/a/b/d"]), "/a/b");
        assert_eq!(common(&["/x/y", "/z/y"]), "");
        assert_eq!(common(&["relative"]), "");
    }

    #[test]
    fn long_options_are_shortened() {
        let options = ["lowerdir=/s/0/fs:/s/1/fs".to_string(), "upperdir=/u".into()];
        assert_eq!(shortened(&options), ("/s", "lowerdir=0/fs:1/fs,upperdir=/u".into()));
        assert_eq!(shortened(&options[1..]), ("/", "upperdir=/u".into()));
    }

    #[test]
    fn what_is_not_mounted_needs_no_unmounting() {
        assert_eq!(unmount_all(Path::new("/nonexistent")).ok(), Some(()));
    }
}
