//! The procfs through which init writes: sysctls, security labels.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, ResolveFlag};

use windlass_base::abi::PROC_SUPER_MAGIC;
use windlass_base::mount::MountAttributes;
use windlass_sys::mount::Filesystem;
use windlass_sys::{Result, SyscallError, fd};

/// A procfs of our own: an unattached mount, so that neither the container's mounts nor its processes can replace its
/// files (CVE-2019-16884, CVE-2025-52881). It is mounted when it is first used.
pub(crate) struct Procfs {
    held: Option<OwnedFd>,
    /// Whether the caller's procfs stands in if the kernel refuses a new one, as it does to some user namespaces.
    callers_allowed: bool,
}

impl Procfs {
    /// A procfs that is not mounted yet. The caller's may stand in until [`Procfs::refuse_callers`].
    pub(crate) fn new() -> Procfs {
        Procfs { held: None, callers_allowed: true }
    }

    /// Refuses the caller's procfs: from now on `/proc` is another.
    pub(crate) fn refuse_callers(&mut self) {
        self.callers_allowed = false;
    }

    /// Its root, mounted at the first use.
    pub(crate) fn open(&mut self) -> Result<BorrowedFd<'_>> {
        if self.held.is_none() {
            let attributes = MountAttributes::NOSUID | MountAttributes::NOEXEC | MountAttributes::NODEV;
            match Filesystem::open("proc").and_then(|procfs| procfs.mount(attributes)) {
                Err(failed) if failed.errno == Errno::EPERM && self.callers_allowed => self.hold_callers()?,
                other => self.held = Some(other?),
            }
        }
        Ok(self.held.as_ref().expect("just made").as_fd())
    }

    /// Uses the caller's procfs. A process that opens a file in it sees its own namespaces, not those of the process
    /// that mounted it.
    pub(crate) fn hold_callers(&mut self) -> Result<()> {
        self.held = Some(root_of("/proc")?);
        Ok(())
    }

    /// Closes it.
    pub(crate) fn close(&mut self) {
        self.held = None;
    }

    /// Writes to a file of it, never through a link that leads out or to a mount in it.
    pub(crate) fn write(&mut self, path: &str, value: &[u8]) -> Result<()> {
        let file = fd::openat2(self.open()?, path, OFlag::O_WRONLY, 0, WITHIN)?;
        fd::write_once(file.as_fd(), value)
    }
}

/// Lookups never leave a procfs by a link or a mount. `self` is a link of procfs itself.
const WITHIN: ResolveFlag =
    ResolveFlag::RESOLVE_BENEATH.union(ResolveFlag::RESOLVE_NO_MAGICLINKS).union(ResolveFlag::RESOLVE_NO_XDEV);

/// Reads a file of at most 16 bytes from the procfs at `/proc`, which may be the container's. Fails if `/proc` is no
/// procfs.
pub(crate) fn read_mounted(path: &str) -> Result<Vec<u8>> {
    fd::read_all(fd::openat2(root_of("/proc")?.as_fd(), path, OFlag::O_RDONLY, 0, WITHIN)?, 16)
}

/// `PROC_ROOT_INO` (linux/proc_fs.h).
const PROC_ROOT: u64 = 1;

/// The procfs at `path`, which must be the root of one (`O_PATH`).
fn root_of(path: &str) -> Result<OwnedFd> {
    let found = fd::open(path, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
    if fd::filesystem(found.as_fd())? != PROC_SUPER_MAGIC || fd::stat(found.as_fd())?.st_ino != PROC_ROOT {
        return Err(SyscallError {
            call: format!("open({path:?}), which is not a procfs").into(),
            errno: Errno::ENOTSUP,
        });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::root_of;

    #[test]
    fn only_the_root_of_a_procfs_is_taken_for_one() {
        assert!(root_of("/proc").is_ok());
        for path in ["/", "/proc/self", "/proc/sys", "/proc/self/root", "/dev/null", "/nothing"] {
            assert!(root_of(path).is_err(), "{path}");
        }
    }
}
