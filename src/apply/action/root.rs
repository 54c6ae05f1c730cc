//! The root filesystem becomes `/`.

use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::fcntl::OFlag;

use crate::context::Context;
use windlass_base::error::{Doing, Error, Kind, Result};
use windlass_base::mount::{MountAttributes, Propagation, PropagationChange};
use windlass_base::namespaces::Namespaces;
use windlass_plan::{Pivot, RootPath, SourceId};
use windlass_sys::mount::{self, Attributes};
use windlass_sys::{fd, process, signals};

/// Attaches the copy of the root filesystem over its own place, so that it is a mount of our
/// namespace, and remembers it as the root of every lookup.
pub(super) fn attach(source: Option<SourceId>, path: &str, cx: &mut Context<'_>) -> Result<()> {
    cx.mounts_are_callers = source.is_none();
    cx.root = Some(match source {
        None => fd::open(path, OFlag::O_PATH | OFlag::O_DIRECTORY)
            .doing(|| format!("cannot open the root filesystem {path:?}"))?,
        Some(source) => {
            let root = cx.take_source(source)?;
            cx.sources.attach_root(root.as_fd(), path, &cx.sync)?;
            root
        }
    });
    Ok(())
}

pub(super) fn pivot(how: Pivot, cx: &mut Context<'_>) -> Result<()> {
    for fd in [cx.directory.take().map(|kept| kept.fd), cx.empty.take(), cx.null.take()].into_iter().flatten() {
        cx.spend(fd);
    }
    cx.close_spent();
    windlass_sys::hide_fd_paths();
    let root = cx.root()?;
    mount::change_directory(root).doing(|| "cannot enter the root filesystem")?;
    match how {
        Pivot::PivotRoot => {
            // Both roots end up stacked at `/`; the old one is on top and is let go.
            mount::pivot_to_current().doing(|| "cannot pivot the root")?;
            mount::detach(".").doing(|| "cannot detach the old root")?;
        }
        Pivot::Move => {
            leave_the_hosts_kernel_files()?;
            mount::move_current_to_root().doing(|| "cannot move the root filesystem over /")?;
            mount::chroot_to_current().doing(|| "cannot chroot into the root filesystem")?;
        }
        Pivot::Chroot => mount::chroot_to_current().doing(|| "cannot chroot into the root filesystem")?,
    }
    cx.callers_root = false;
    // The root and the current directory are what they were: the root filesystem, by now `/`.
    Ok(())
}

/// Leaves the runtime's mount namespace for a new one, in which the root filesystem is set up.
pub(super) fn leave_mounts(cx: &mut Context<'_>) -> Result<()> {
    let doing = || "cannot leave the runtime's mount namespace";
    cx.mounts = Some(fd::open("/proc/self/ns/mnt", OFlag::O_RDONLY).doing(doing)?);
    process::unshare(Namespaces::MOUNT).doing(doing)
}

/// Goes back, with a copy of all mounts of the root filesystem as the new root. The copy is in no mount namespace,
/// so the caller's tree does not have it and there is nothing to unmount: the kernel frees it with the last
/// process that uses it (open_tree(2), `OPEN_TREE_CLONE`).
pub(super) fn return_to_mounts(cx: &mut Context<'_>) -> Result<()> {
    let doing = || "cannot return to the runtime's mount namespace";
    let missing = || Error::new(Kind::Protocol, "the plan returns to a mount namespace that it has not left");
    let mounts = cx.mounts.take().ok_or_else(missing)?;
    let root = mount::clone_tree(cx.root()?, "", true).doing(|| "cannot copy the root filesystem")?;
    process::setns(mounts.as_fd(), Namespaces::MOUNT)
        .and_then(|()| mount::change_directory(root.as_fd()))
        .and_then(|()| mount::chroot_to_current())
        .doing(doing)?;
    cx.root = Some(root);
    Ok(())
}

/// Takes the host's procfs and sysfs out of our mount namespace. What is moved over stays mounted, out
/// of sight, and the kernel lets a user namespace mount anew what is there without covers: a procfs
/// without the masked paths.
fn leave_the_hosts_kernel_files() -> Result<()> {
    let root = std::env::current_dir().doing(|| "cannot tell where the root filesystem is")?;
    let mounts = fd::open("/proc/thread-self/mountinfo", OFlag::O_RDONLY)
        .and_then(|file| fd::read_all(file, fd::DOCUMENT))
        .doing(|| "cannot read mountinfo")?;
    let points = mount::points(&mounts);
    let hosts: Vec<_> = points.iter().filter(|(point, _)| !point.starts_with(&root)).collect();
    for (point, _) in &hosts {
        // The host is not to see it; one that cannot be reached has nothing that could be let go.
        let _ = mount::propagate(point, PropagationChange::of_mount(Propagation::Slave));
    }
    for (point, _) in hosts.iter().rev().filter(|(_, kind)| matches!(*kind, b"proc" | b"sysfs")) {
        match mount::detach(point) {
            // Covered by a later one and gone with it, or out of sight.
            Err(failed) if failed.errno == Errno::ENOENT => {}
            // One that came with the mount namespace of another user namespace is locked.
            Err(failed) if matches!(failed.errno, Errno::EINVAL | Errno::EPERM) => {
                mount::cover(point).doing(|| format!("cannot cover the host's {point:?}"))?;
            }
            other => other.doing(|| format!("cannot let go of the host's {point:?}"))?,
        }
    }
    Ok(())
}

/// Makes the root read-only, or a mount that was left writable until now.
pub(super) fn readonly(path: &RootPath, cx: &mut Context<'_>) -> Result<()> {
    let attributes = Attributes { set: MountAttributes::RDONLY, ..Attributes::default() };
    let doing = || format!("cannot make {path} read-only");
    if path.is_root() {
        return mount::set_attributes(cx.root()?, attributes, false, None).doing(doing);
    }
    // By descriptor, because a later mount may cover its path.
    let at = cx.late_readonly.iter().position(|(waiting, _)| waiting == path);
    let missing = || Error::new(Kind::Protocol, "the plan makes a mount read-only that it does not have");
    let (_, mount) = cx.late_readonly.remove(at.ok_or_else(missing)?);
    mount::set_attributes(mount.as_fd(), attributes, false, None).doing(doing)
}

/// No signal is blocked and none ignored that the caller did not ignore.
pub(super) fn reset_signals() -> windlass_sys::Result<()> {
    signals::default_sigpipe()?;
    signals::unblock()
}
