//! Making the root filesystem `/`.

use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::fcntl::OFlag;

use crate::context::{Context, MountNamespace};
use windlass_base::error::{Error, Kind, Result, WithContext};
use windlass_base::mount::{MountAttributes, Propagation, PropagationChange};
use windlass_base::namespaces::Namespaces;
use windlass_plan::{Pivot, RootPath, SourceId};
use windlass_sys::mount::{self, Attributes};
use windlass_sys::{fd, process, signals};

/// Attaches the copy of the root filesystem over its own place, so that it is a mount of our
/// namespace, and remembers it as the root of every lookup.
pub(super) fn attach(source: Option<SourceId>, path: &str, cx: &mut Context<'_>) -> Result<()> {
    cx.root = Some(match source {
        None => {
            cx.mounts = MountNamespace::Callers;
            fd::open(path, OFlag::O_PATH | OFlag::O_DIRECTORY)
                .with_context(|| format!("cannot open the root filesystem {path:?}"))?
        }
        Some(source) => {
            let root = cx.take_source(source)?;
            cx.sources.attach_root(root.as_fd(), path, &cx.sync)?;
            root
        }
    });
    Ok(())
}

pub(super) fn pivot(how: Pivot, cx: &mut Context<'_>) -> Result<()> {
    for fd in
        [cx.directory.take().map(|kept| kept.fd), cx.masks.directory.take(), cx.masks.file.take()].into_iter().flatten()
    {
        cx.close_later(fd);
    }
    cx.close_now();
    windlass_sys::hide_fd_paths();
    let root = cx.root()?;
    mount::change_directory(root).with_context(|| "cannot enter the root filesystem")?;
    match how {
        Pivot::PivotRoot => {
            // Both roots are now stacked at `/`, with the old one on top, which is detached.
            mount::pivot_to_current().with_context(|| "cannot pivot the root")?;
            mount::detach(".").with_context(|| "cannot detach the old root")?;
        }
        Pivot::Move => {
            detach_host_procfs_and_sysfs()?;
            mount::move_current_to_root().with_context(|| "cannot move the root filesystem over /")?;
            mount::chroot_to_current().with_context(|| "cannot chroot into the root filesystem")?;
        }
        Pivot::Chroot => mount::chroot_to_current().with_context(|| "cannot chroot into the root filesystem")?,
    }
    cx.procfs.refuse_callers();
    // `cx.root` and the current directory still are the root filesystem, which is now `/`.
    Ok(())
}

/// Sets the propagation of the mount at `/`, which `what` names, and of all mounts below it.
pub(super) fn propagate(change: PropagationChange, what: &str) -> Result<()> {
    mount::propagate_root(change).with_context(|| format!("cannot set the propagation of {what}"))
}

/// Leaves the runtime's mount namespace for a new one, in which the root filesystem is set up.
pub(super) fn leave_mounts(cx: &mut Context<'_>) -> Result<()> {
    let context = || "cannot leave the runtime's mount namespace";
    cx.mounts = MountNamespace::Temporary(fd::open("/proc/self/ns/mnt", OFlag::O_RDONLY).with_context(context)?);
    process::unshare(Namespaces::MOUNT).with_context(context)
}

/// Returns to the runtime's mount namespace, with a copy of all mounts of the root filesystem as the new root. The
/// copy is in no mount namespace, so the caller does not see it, and the kernel frees it with the last process that
/// uses it (open_tree(2), `OPEN_TREE_CLONE`).
pub(super) fn return_to_mounts(cx: &mut Context<'_>) -> Result<()> {
    let context = || "cannot return to the runtime's mount namespace";
    let missing = || Error::new(Kind::Protocol, "the plan returns to a mount namespace that it has not left");
    let MountNamespace::Temporary(runtime) = std::mem::replace(&mut cx.mounts, MountNamespace::Callers) else {
        return Err(missing());
    };
    let root = mount::clone_tree(cx.root()?, "", true).with_context(|| "cannot copy the root filesystem")?;
    process::setns(runtime.as_fd(), Namespaces::MOUNT)
        .and_then(|()| mount::change_directory(root.as_fd()))
        .and_then(|()| mount::chroot_to_current())
        .with_context(context)?;
    cx.root = Some(root);
    Ok(())
}

/// Detaches the host's procfs and sysfs from our mount namespace, before the root filesystem is moved over them.
/// There they would stay mounted, unmasked, and the kernel lets a user namespace mount a new procfs if an unmasked
/// one is mounted: the container could mount one without the masked paths.
fn detach_host_procfs_and_sysfs() -> Result<()> {
    let root = std::env::current_dir().with_context(|| "cannot find out where the root filesystem is")?;
    let mounts = fd::document("/proc/thread-self/mountinfo").with_context(|| "cannot read mountinfo")?;
    let points = mount::points(&mounts);
    let hosts: Vec<_> = points.iter().filter(|(point, _)| !point.starts_with(&root)).collect();
    for (point, _) in &hosts {
        // The host must not see the unmounting. A mount that is out of reach cannot be detached below either.
        let _ = mount::propagate(point, PropagationChange::of_mount(Propagation::Slave));
    }
    for (point, _) in hosts.iter().rev().filter(|(_, kind)| matches!(*kind, b"proc" | b"sysfs")) {
        match mount::detach(point) {
            // The mount was below one that is detached by now, or is out of reach.
            Err(failed) if failed.errno == Errno::ENOENT => {}
            // The mounts of another user namespace's mount namespace are locked.
            Err(failed) if matches!(failed.errno, Errno::EINVAL | Errno::EPERM) => {
                mount::cover(point).with_context(|| format!("cannot cover the host's {point:?}"))?;
            }
            other => other.with_context(|| format!("cannot detach the host's {point:?}"))?,
        }
    }
    Ok(())
}

/// Makes the root read-only, or a mount that was left writable until now.
pub(super) fn readonly(path: &RootPath, cx: &mut Context<'_>) -> Result<()> {
    let attributes = Attributes { set: MountAttributes::RDONLY, ..Attributes::default() };
    let context = || format!("cannot make {path} read-only");
    if path.is_root() {
        return mount::set_attributes(cx.root()?, attributes, false, None).with_context(context);
    }
    // The mount is changed by its descriptor, since a later mount may cover the path.
    let at = cx.late_readonly.iter().position(|(waiting, _)| waiting == path);
    let missing = || Error::new(Kind::Protocol, "the plan makes a mount read-only that it does not have");
    let (_, mount) = cx.late_readonly.remove(at.ok_or_else(missing)?);
    mount::set_attributes(mount.as_fd(), attributes, false, None).with_context(context)
}

/// Unblocks all signals, and gives SIGPIPE its default action.
pub(super) fn reset_signals() -> windlass_sys::Result<()> {
    signals::default_sigpipe()?;
    signals::unblock()
}
