//! Entering another mount namespace and returning.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::{Result, fd, mount, process};
use windlass_base::namespaces::Namespaces;

/// The mount namespace, root and current directory of this process: setns(2) into another mount namespace changes
/// all three.
pub struct MountView {
    namespace: OwnedFd,
    root: OwnedFd,
    /// `None` if no path that begins here can be looked up anyway.
    directory: Option<OwnedFd>,
}

impl MountView {
    /// Holds the present namespace, root and directory.
    pub fn hold() -> Result<MountView> {
        let directory = fd::open(".", OFlag::O_PATH)?;
        Ok(MountView { directory: Some(directory), ..MountView::without_directory()? })
    }

    /// Like [`MountView::hold`], for a caller that uses no relative path afterwards. If this user may not search the
    /// current directory, such as one in a FUSE mount of another user, it is the root after the return.
    pub fn hold_for_absolute_paths() -> Result<MountView> {
        let directory = match fd::open(".", OFlag::O_PATH) {
            Err(failed) if failed.errno == Errno::EACCES => None,
            other => Some(other?),
        };
        Ok(MountView { directory, ..MountView::without_directory()? })
    }

    fn without_directory() -> Result<MountView> {
        Ok(MountView {
            namespace: fd::open("/proc/self/ns/mnt", OFlag::O_RDONLY)?,
            root: fd::open("/", OFlag::O_PATH)?,
            directory: None,
        })
    }

    /// Returns to them. If that fails, ends this process, which would otherwise go on in a file system that it must not
    /// trust. `other` names the mount namespace that it is in, for the message.
    pub fn restore(&self, other: &str) {
        let back = process::setns(self.namespace.as_fd(), Namespaces::MOUNT)
            .and_then(|()| mount::change_directory(self.root.as_fd()))
            .and_then(|()| mount::chroot_to_current())
            .and_then(|()| self.directory.as_ref().map_or(Ok(()), |it| mount::change_directory(it.as_fd())));
        if let Err(failed) = back {
            process::cannot_leave(&format!("{other} mount"), &failed);
        }
    }
}
