//! Device nodes that the runtime makes for a container with a user namespace, in which nobody can make any.
//!
//! `linux.devices` are paths in the container. The host may have the device under another name, or no node for
//! it, and the container must have it all the same (config-linux.md, "Devices"). So the runtime makes such a node in a tmpfs of its own that is attached nowhere, and init binds it as it binds those of
//! the host. The device rules of the container's cgroup hold for it as for any other.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;

use windlass_base::mount::MountAttributes;
use windlass_plan::{Node, Source, Topology};
use windlass_sys::mount::{self, Filesystem};
use windlass_sys::{Result, fd, sched};

/// Whether a source is a device, and there is nothing at its path.
pub(super) fn is_missing(source: &Source, found: &Result<OwnedFd>) -> bool {
    source.device.is_some() && matches!(found, Err(failed) if failed.errno == Errno::ENOENT)
}

/// A mount of the node itself, with the owner and the mode that it is to have. `found` is returned if it cannot be
/// made: the runtime may make no devices, the kernel is older than 6.15 and copies nothing from a filesystem that is
/// attached nowhere, or the owner is not mapped in the user namespace.
pub(super) fn made(source: &Source, topology: &Topology, found: Result<OwnedFd>) -> Result<OwnedFd> {
    let owner = |node: &Node| topology.host_uid(node.uid).zip(topology.host_gid(node.gid));
    match source.device.as_ref().and_then(|node| Some((node, owner(node)?))) {
        Some((node, (uid, gid))) => make(node, uid, gid).or(found),
        None => found,
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
