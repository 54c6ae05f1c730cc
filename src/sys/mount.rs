//! The mount calls of Linux 5.2 and 5.12, which take descriptors instead of paths, and the older calls that they do
//! not replace.

use std::ffi::{CString, OsString};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use nix::mount::MsFlags;

use super::fd::CWD;
use super::owned::from_raw;
use super::{Called, Result, SyscallError, check, fd_name};

use windlass_base::mount::{MountAttributes, Propagation, PropagationChange};
use windlass_base::mountinfo;

fn cstring(text: impl Into<Vec<u8>>, call: &str) -> Result<CString> {
    CString::new(text).map_err(|_| SyscallError {
        call: format!("{call}: a NUL byte in an argument").into(),
        errno: nix::errno::Errno::EINVAL,
    })
}

fn path_cstring(path: &Path, call: &str) -> Result<CString> {
    use std::os::unix::ffi::OsStrExt;
    cstring(path.as_os_str().as_bytes(), call)
}

/// The id in mountinfo of the mount that `fd` was opened on (proc_pid_fdinfo(5), Linux 3.15).
pub fn id_of(fd: BorrowedFd<'_>) -> Result<u32> {
    let text = super::fd::read_small(CWD, format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))?;
    id_in(&text).ok_or_else(|| SyscallError {
        call: format!("fdinfo({})", fd_name(fd)).into(),
        errno: nix::errno::Errno::ENODATA,
    })
}

/// The id of the mount in a `/proc/PID/fdinfo/N`.
pub fn id_in(fdinfo: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(fdinfo).ok()?;
    text.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim().parse().ok()
}

/// Where a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// The id of its mount in mountinfo.
    pub mount: u32,
    /// The device of its filesystem.
    pub device: u64,
    /// Its inode.
    pub inode: u64,
}

/// The location of a file, which is not opened. A link is followed, also one of procfs (statx(2), Linux 5.8).
pub fn locate(dir: BorrowedFd<'_>, name: impl AsRef<Path>) -> Result<Location> {
    fn inner(dir: BorrowedFd<'_>, name: &Path) -> Result<Location> {
        let path = path_cstring(name, "statx")?;
        let call = || format!("statx({}, {name:?})", fd_name(dir));
        let mut found = std::mem::MaybeUninit::<libc::statx>::zeroed();
        let flags = libc::AT_NO_AUTOMOUNT | libc::AT_STATX_DONT_SYNC;
        let mask = libc::STATX_INO | libc::STATX_MNT_ID;
        // SAFETY: the path ends with NUL, and the kernel writes the whole structure.
        let returned = unsafe { libc::statx(dir.as_raw_fd(), path.as_ptr(), flags, mask, found.as_mut_ptr()) };
        check(returned.into(), call)?;
        // SAFETY: all zeros are a valid value, and the kernel has written another.
        let found = unsafe { found.assume_init() };
        if found.stx_mask & libc::STATX_MNT_ID == 0 {
            return Err(SyscallError { call: call().into(), errno: nix::errno::Errno::ENODATA });
        }
        Ok(Location {
            mount: found.stx_mnt_id as u32,
            device: libc::makedev(found.stx_dev_major, found.stx_dev_minor),
            inode: found.stx_ino,
        })
    }
    inner(dir, name.as_ref())
}

/// The flags of the mount that `fd` is on (statfs(2), `f_flags`), but only the restrictions among [`MountAttributes`].
pub fn flags_of(fd: BorrowedFd<'_>) -> Result<MountAttributes> {
    nix::sys::statfs::fstatfs(fd)
        .map(|s| {
            #[allow(clippy::unnecessary_cast)] // The type differs between architectures.
            let bits = s.flags().bits() as u64;
            // `ST_RDONLY`, `ST_NOSUID`, `ST_NODEV` and `ST_NOEXEC` are the same bits as the attributes.
            MountAttributes::from_bits_truncate(bits & 0xf)
        })
        .called(|| format!("fstatfs({})", fd_name(fd)))
}

/// An unattached copy of the mount (with `recursive`: the tree of mounts) at `path`; open_tree(2).
///
/// With an empty path, `dir` itself is copied.
pub fn clone_tree(dir: BorrowedFd<'_>, path: impl AsRef<Path>, recursive: bool) -> Result<OwnedFd> {
    fn inner(dir: BorrowedFd<'_>, path: &Path, recursive: bool) -> Result<OwnedFd> {
        let name = path_cstring(path, "open_tree")?;
        let mut flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
        if recursive {
            flags |= libc::AT_RECURSIVE as libc::c_uint;
        }
        if path.as_os_str().is_empty() {
            flags |= libc::AT_EMPTY_PATH as libc::c_uint;
        }
        // SAFETY: `name` is NUL-terminated and outlives the call.
        let returned = unsafe { libc::syscall(libc::SYS_open_tree, dir.as_raw_fd(), name.as_ptr(), flags) };
        check(returned, || {
            let recursive = if recursive { "|AT_RECURSIVE" } else { "" };
            format!("open_tree({}, {path:?}, OPEN_TREE_CLONE{recursive})", fd_name(dir))
        })
        .map(from_raw)
    }
    inner(dir, path.as_ref(), recursive)
}

/// Attaches an unattached mount on the file or directory `target`; move_mount(2).
pub fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<()> {
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: both paths are static and NUL-terminated.
    let returned = unsafe {
        libc::syscall(libc::SYS_move_mount, mount.as_raw_fd(), c"".as_ptr(), target.as_raw_fd(), c"".as_ptr(), flags)
    };
    check(returned, || format!("move_mount({}, \"\", {}, \"\")", fd_name(mount), fd_name(target))).map(drop)
}

/// Attaches an unattached mount on `name` in `dir`; a link of that name is not followed.
pub fn attach_at(mount: BorrowedFd<'_>, dir: BorrowedFd<'_>, name: impl AsRef<Path>) -> Result<()> {
    attach_by_path(mount, dir, name.as_ref(), 0)
}

/// Attaches an unattached mount at a path of the host; a final link is followed.
pub fn attach_over(mount: BorrowedFd<'_>, path: impl AsRef<Path>) -> Result<()> {
    attach_by_path(mount, CWD, path.as_ref(), libc::MOVE_MOUNT_T_SYMLINKS)
}

fn attach_by_path(mount: BorrowedFd<'_>, dir: BorrowedFd<'_>, path: &Path, flags: libc::c_uint) -> Result<()> {
    let name = path_cstring(path, "move_mount")?;
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | flags;
    // SAFETY: both paths are NUL-terminated and outlive the call.
    let returned = unsafe {
        libc::syscall(libc::SYS_move_mount, mount.as_raw_fd(), c"".as_ptr(), dir.as_raw_fd(), name.as_ptr(), flags)
    };
    check(returned, || format!("move_mount({}, \"\", {}, {path:?})", fd_name(mount), fd_name(dir))).map(drop)
}

/// The changes for mount_setattr(2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Attributes to set.
    pub set: MountAttributes,
    /// Attributes to clear.
    pub clear: MountAttributes,
    /// The new propagation type, unless the mount keeps its own.
    pub propagation: Option<Propagation>,
}

/// Changes the attributes of the mount that `mount` is the root of; mount_setattr(2), Linux 5.12.
pub fn set_attributes(
    mount: BorrowedFd<'_>,
    attributes: Attributes,
    recursive: bool,
    idmap: Option<BorrowedFd<'_>>,
) -> Result<()> {
    let attr = libc::mount_attr {
        attr_set: attributes.set.bits() | if idmap.is_some() { MountAttributes::IDMAP.bits() } else { 0 },
        attr_clr: attributes.clear.bits(),
        propagation: attributes.propagation.map_or(0, |propagation| propagation.flag().bits()),
        userns_fd: idmap.map_or(0, |fd| fd.as_raw_fd() as u64),
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: `attr` is a live mount_attr and the size given is its size; the kernel only reads it.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    check(returned, || {
        format!(
            "mount_setattr({}, \"\", {}, set={:#x} clr={:#x} propagation={:#x})",
            fd_name(mount),
            if recursive { "AT_EMPTY_PATH|AT_RECURSIVE" } else { "AT_EMPTY_PATH" },
            attr.attr_set,
            attr.attr_clr,
            attr.propagation
        )
    })
    .map(drop)
}

/// A filesystem that is being configured; fsopen(2).
pub struct Filesystem {
    context: OwnedFd,
    kind: String,
}

impl Filesystem {
    /// A new instance of the filesystem `kind`.
    pub fn open(kind: &str) -> Result<Filesystem> {
        let name = cstring(kind, "fsopen")?;
        // SAFETY: `name` is NUL-terminated and outlives the call.
        let returned = unsafe { libc::syscall(libc::SYS_fsopen, name.as_ptr(), libc::FSOPEN_CLOEXEC) };
        let context = check(returned, || format!("fsopen({kind:?})")).map(from_raw)?;
        Ok(Filesystem { context, kind: kind.into() })
    }

    /// Sets an option: `key` alone, or `key=value`.
    pub fn set(&self, key: &str, value: Option<&str>) -> Result<()> {
        let name = cstring(key, "fsconfig")?;
        let text = value.map(|value| cstring(value, "fsconfig")).transpose()?;
        let command = if text.is_some() { libc::FSCONFIG_SET_STRING } else { libc::FSCONFIG_SET_FLAG };
        let pointer = text.as_ref().map_or(std::ptr::null(), |text| text.as_ptr());
        // SAFETY: `name` and, where not null, `pointer` are NUL-terminated and outlive the call.
        let returned =
            unsafe { libc::syscall(libc::SYS_fsconfig, self.context.as_raw_fd(), command, name.as_ptr(), pointer, 0) };
        check(returned, || match value {
            Some(value) => format!("fsconfig({}, FSCONFIG_SET_STRING, {key:?}, {value:?})", self.kind),
            None => format!("fsconfig({}, FSCONFIG_SET_FLAG, {key:?})", self.kind),
        })
        .map(drop)
    }

    /// Makes the superblock and an unattached mount of it.
    pub fn mount(&self, attributes: MountAttributes) -> Result<OwnedFd> {
        let null = std::ptr::null::<libc::c_char>();
        // SAFETY: FSCONFIG_CMD_CREATE takes no key and no value.
        let returned = unsafe {
            libc::syscall(libc::SYS_fsconfig, self.context.as_raw_fd(), libc::FSCONFIG_CMD_CREATE, null, null, 0)
        };
        check(returned, || format!("fsconfig({}, FSCONFIG_CMD_CREATE)", self.kind))?;
        // SAFETY: the call takes no pointers.
        let returned = unsafe {
            libc::syscall(libc::SYS_fsmount, self.context.as_raw_fd(), libc::FSMOUNT_CLOEXEC, attributes.bits())
        };
        check(returned, || format!("fsmount({}, {attributes:#x})", self.kind)).map(from_raw)
    }

    /// The descriptor of the configuration, so that the caller can choose when to close it.
    pub fn into_fd(self) -> OwnedFd {
        self.context
    }

    /// The filesystem's own message on the last failure, if there is one (read(2) of the context).
    pub fn complaint(&self) -> Option<String> {
        let mut buffer = [0; 256];
        let n = nix::unistd::read(&self.context, &mut buffer).ok()?;
        let text = String::from_utf8_lossy(&buffer[..n]);
        Some(text.trim_start_matches(['e', 'w', 'i', ' ']).trim().to_string())
    }
}

/// mount(2), for options longer than the 255 bytes of fsconfig(2), and for flags that fsconfig does not have. `target`
/// is reached through `/proc/self/fd`.
pub fn mount_old(source: &str, target: BorrowedFd<'_>, kind: &str, flags: MsFlags, data: &str) -> Result<()> {
    let path = format!("/proc/self/fd/{}", target.as_raw_fd());
    nix::mount::mount(Some(source), path.as_str(), Some(kind), flags, Some(data))
        .called(|| format!("mount({source:?}, {path:?}, {kind:?}, {flags:#x}, {data:?})"))
}

/// Makes a block device of the file `source` by the loop driver (loop(4); `LOOP_CONFIGURE`, Linux 5.8). Returns its
/// path, and the descriptor that keeps it until it is mounted. The last unmounting frees it.
pub fn loop_device(source: &Path, read_only: bool) -> Result<(String, OwnedFd)> {
    use nix::fcntl::OFlag;
    let mode = if read_only { OFlag::O_RDONLY } else { OFlag::O_RDWR };
    let file = super::fd::open(source, mode)?;
    let control = super::fd::open("/dev/loop-control", OFlag::O_RDWR)?;
    // SAFETY: all zeroes is a valid loop_config, which is plain numbers.
    let mut config: LoopConfig = unsafe { std::mem::zeroed() };
    config.fd = file.as_raw_fd() as u32;
    config.info.flags = LO_FLAGS_AUTOCLEAR | if read_only { LO_FLAGS_READ_ONLY } else { 0 };
    let mut tries = 0;
    loop {
        // SAFETY: LOOP_CTL_GET_FREE takes no argument.
        let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE as _) };
        let number = check(number.into(), || "ioctl(LOOP_CTL_GET_FREE)".into())?;
        let path = format!("/dev/loop{number}");
        let device = super::fd::open(&path, mode)?;
        // SAFETY: LOOP_CONFIGURE reads one loop_config, which outlives the call.
        let returned = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE as _, &raw const config) };
        match check(returned.into(), || format!("ioctl({path:?}, LOOP_CONFIGURE, {source:?})")) {
            // Another process was given the same device, and has configured it first.
            Err(failed) if failed.errno == nix::errno::Errno::EBUSY && tries < 64 => tries += 1,
            Err(failed) => return Err(failed),
            Ok(_) => return Ok((path, device)),
        }
    }
}

const LOOP_CTL_GET_FREE: u64 = 0x4c82;
const LOOP_CONFIGURE: u64 = 0x4c0a;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;

/// uapi/linux/loop.h, `struct loop_config`.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

/// uapi/linux/loop.h, `struct loop_info64`.
#[repr(C)]
struct LoopInfo {
    numbers: [u64; 5],
    number: u32,
    encrypt: [u32; 2],
    flags: u32,
    names: [u8; 64 + 64 + 32],
    init: [u64; 2],
}

const _: () = assert!(size_of::<LoopConfig>() == 304);

/// Changes the propagation of the mount at `/`.
pub fn propagate_root(change: PropagationChange) -> Result<()> {
    propagate("/", change)
}

/// Changes the propagation of the mount at `path`.
pub fn propagate(path: impl AsRef<Path>, change: PropagationChange) -> Result<()> {
    fn inner(path: &Path, flags: MsFlags) -> Result<()> {
        nix::mount::mount(None::<&str>, path, None::<&str>, flags, None::<&str>)
            .called(|| format!("mount(NULL, {path:?}, NULL, {flags:#x})"))
    }
    inner(path.as_ref(), change.flags())
}

/// Stacks the old root on the mount at the current directory, which becomes the root (pivot_root(2)).
pub fn pivot_to_current() -> Result<()> {
    nix::unistd::pivot_root(".", ".").called(|| "pivot_root(\".\", \".\")".into())
}

/// Detaches the topmost mount at `path` (umount2(2), `MNT_DETACH`).
pub fn detach(path: impl AsRef<Path>) -> Result<()> {
    fn inner(path: &Path) -> Result<()> {
        nix::mount::umount2(path, nix::mount::MntFlags::MNT_DETACH).called(|| format!("umount2({path:?}, MNT_DETACH)"))
    }
    inner(path.as_ref())
}

/// Covers `path` with an empty directory that cannot be written to.
pub fn cover(path: impl AsRef<Path>) -> Result<()> {
    fn inner(path: &Path) -> Result<()> {
        let none = None::<&str>;
        nix::mount::mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::MS_RDONLY, none)
            .called(|| format!("mount(\"tmpfs\", {path:?}, \"tmpfs\", MS_RDONLY)"))
    }
    inner(path.as_ref())
}

/// Every mount point and the type of its filesystem, in the order of the mounts, from
/// `/proc/PID/mountinfo` (proc_pid_mountinfo(5)). A name may have any byte.
pub fn points(text: &[u8]) -> Vec<(PathBuf, &[u8])> {
    let point = |line: mountinfo::Line<'_>| OsString::from_vec(mountinfo::unescape(line.point)).into();
    mountinfo::lines(text).map(|line| (point(line), line.kind)).collect()
}

/// Moves the mount at the current directory to `/` (`MS_MOVE`), for `--no-pivot`.
pub fn move_current_to_root() -> Result<()> {
    nix::mount::mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)
        .called(|| "mount(\".\", \"/\", NULL, MS_MOVE)".into())
}

/// chroot(2) to the current directory.
pub fn chroot_to_current() -> Result<()> {
    nix::unistd::chroot(".").called(|| "chroot(\".\")".into())
}

/// fchdir(2).
pub fn change_directory(fd: BorrowedFd<'_>) -> Result<()> {
    nix::unistd::fchdir(fd).called(|| format!("fchdir({})", fd_name(fd)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use std::os::fd::AsFd;

    use super::{id_of, locate, points};
    use crate::fd::{CWD, open, proc_path, stat};

    #[test]
    fn a_file_is_located_through_a_link_without_opening_it() {
        let file = open("/proc/self/mountinfo", nix::fcntl::OFlag::O_PATH).expect("procfs");
        let found = locate(CWD, proc_path(file.as_fd())).expect("open");
        let stat = stat(file.as_fd()).expect("open");
        assert_eq!(found.mount, id_of(file.as_fd()).expect("procfs"));
        assert_eq!((found.device, found.inode), (stat.st_dev, stat.st_ino));
    }

    #[test]
    fn mount_points_have_their_types() {
        let text = b"22 1 0:21 / /proc rw shared:5 - proc proc rw\n\
            23 1 0:22 / /a\\040b rw - sysfs sysfs rw\n\
            24 1 8:1 /proc /x rw - ext4 proc rw\n\
            25 1 8:1 / /caf\xe9\\9 rw - tmpfs tmpfs rw\nnonsense\n";
        let found = points(text);
        let found: Vec<(&[u8], &[u8])> =
            found.iter().map(|(point, kind)| (point.as_os_str().as_bytes(), *kind)).collect();
        let expected: [(&[u8], &[u8]); 4] =
            [(b"/proc", b"proc"), (b"/a b", b"sysfs"), (b"/x", b"ext4"), (b"/caf\xe9\\9", b"tmpfs")];
        assert_eq!(found, expected);
    }
}
