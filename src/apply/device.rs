//! Device nodes that the runtime makes for a container with a user namespace, in which nobody can make any.
//!
//! `linux.devices` are paths in the container. The host may have the device under another name, or no node for it, and
//! the container must have it all the same (config-linux.md, "Devices"). So the runtime makes such a node in an
//! unattached tmpfs of its own, and init binds it as it binds nodes of the host. The device rules of the container's
//! cgroup hold for it as for any other.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;

use windlass_base::error::{Error, Kind, WithContext};
use windlass_base::mount::MountAttributes;
use windlass_plan::checkpoint::NULL;
use windlass_plan::{Node, Source, Topology};
use windlass_sys::mount::{self, Filesystem};
use windlass_sys::{Result, fd, sched, stdio};

/// Copies the mount of the host's null device, which masks files. The device is verified, since the container gets it.
pub(crate) fn null() -> windlass_base::error::Result<OwnedFd> {
    let null = mount::clone_tree(fd::CWD, NULL, false).with_context(|| "cannot copy /dev/null")?;
    match stdio::is_null(&fd::stat(null.as_fd()).with_context(|| "cannot look at /dev/null")?) {
        true => Ok(null),
        false => Err(Error::new(Kind::Unsupported, "the host's /dev/null is not the null device")),
    }
}

/// Whether a source is a device, and there is nothing at its path.
pub(super) fn is_missing(source: &Source, found: &Result<OwnedFd>) -> bool {
    source.device.is_some() && matches!(found, Err(failed) if failed.errno == Errno::ENOENT)
}

/// Makes a mount of a new node, with its owner and mode. Returns `found` if that is impossible: the runtime may make no
/// devices, the kernel is older than 6.15 and copies nothing from an unattached filesystem, or the owner is not mapped
/// in the user namespace. Any other failure is returned itself.
pub(super) fn made(source: &Source, topology: &Topology, found: Result<OwnedFd>) -> Result<OwnedFd> {
    let owner = |node: &Node| topology.host_uid(node.uid).zip(topology.host_gid(node.gid));
    match source.device.as_ref().and_then(|node| Some((node, owner(node)?))) {
        Some((node, (uid, gid))) => answer(make(node, uid, gid), found),
        None => found,
    }
}

fn answer(made: Result<OwnedFd>, found: Result<OwnedFd>) -> Result<OwnedFd> {
    match made {
        Err(failed) if matches!(failed.errno, Errno::EPERM | Errno::EINVAL) => found,
        other => other,
    }
}

fn make(node: &Node, uid: u32, gid: u32) -> Result<OwnedFd> {
    const NAME: &str = "node";
    let filesystem = Filesystem::open("tmpfs")?;
    let tmpfs = filesystem.mount(MountAttributes::NOSUID | MountAttributes::NOEXEC)?;
    let umask = sched::umask(0);
    let made = fd::mknodat(tmpfs.as_fd(), NAME, node.mode, libc::makedev(node.major, node.minor));
    sched::umask(umask);
    made?;
    fd::chown_at(tmpfs.as_fd(), NAME, uid, gid)?;
    mount::clone_tree(tmpfs.as_fd(), NAME, false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_sys::SyscallError;

    #[test]
    fn a_node_that_could_be_made_and_was_not_says_why() {
        let failed = |errno| Err(SyscallError { call: "mknodat(3, \"node\")".into(), errno });
        let reported = |errno| answer(failed(errno), failed(Errno::ENOENT)).map(drop).map_err(|failed| failed.errno);
        for errno in [Errno::EPERM, Errno::EINVAL] {
            assert_eq!(reported(errno), Err(Errno::ENOENT));
        }
        for errno in [Errno::ENOSPC, Errno::ENOMEM, Errno::EMFILE] {
            assert_eq!(reported(errno), Err(errno));
        }
    }
}
