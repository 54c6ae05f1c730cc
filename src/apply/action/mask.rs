//! Masking paths and making them read-only: by descriptor, before the container runs.

use std::os::fd::{AsFd, OwnedFd};

use crate::context::Context;
use crate::device;
use crate::resolve;
use windlass_base::error::{Result, WithContext};
use windlass_base::mount::MountAttributes;
use windlass_plan::RootPath;
use windlass_sys::mount::{self, Attributes, Filesystem};
use windlass_sys::{self as sys, fd};

pub(super) fn readonly(path: &RootPath, cx: &mut Context<'_>) -> Result<()> {
    let context = || format!("cannot make {path} read-only");
    let found = resolve::find_if_exists(cx.root()?, path, resolve::IN_ROOT).with_context(context)?;
    let Some(target) = found else { return Ok(()) };
    let copy = mount::clone_tree(target.as_fd(), "", true).with_context(context)?;
    let attributes = Attributes { set: MountAttributes::RDONLY, ..Attributes::default() };
    mount::set_attributes(copy.as_fd(), attributes, true, None).with_context(context)?;
    mount::attach(copy.as_fd(), target.as_fd()).with_context(context)?;
    cx.close_later(copy);
    cx.close_later(target);
    Ok(())
}

pub(super) fn mask(path: &RootPath, cx: &mut Context<'_>) -> Result<()> {
    let context = || format!("cannot mask {path}");
    let found = resolve::find_if_exists(cx.root()?, path, resolve::IN_ROOT).with_context(context)?;
    let Some(target) = found else { return Ok(()) };
    let stat = fd::stat(target.as_fd()).with_context(context)?;
    // The first use attaches the mount itself, each later one a copy of it.
    let kept = if fd::is_dir(&stat) { &mut cx.masks.directory } else { &mut cx.masks.file };
    let cover = match kept {
        Some(first) => mount::clone_tree(first.as_fd(), "", false).with_context(context)?,
        None if fd::is_dir(&stat) => {
            empty_directory().with_context(|| "cannot make the empty directory that masks directories")?
        }
        None => device::null()?,
    };
    mount::attach(cover.as_fd(), target.as_fd()).with_context(context)?;
    match kept {
        Some(_) => cx.close_later(cover),
        None => *kept = Some(cover),
    }
    cx.close_later(target);
    Ok(())
}

/// Makes a directory that stays empty: a read-only tmpfs without room for a file. All masks use one.
fn empty_directory() -> sys::Result<OwnedFd> {
    let tmpfs = Filesystem::open("tmpfs")?;
    tmpfs.set("nr_blocks", Some("1"))?;
    tmpfs.set("nr_inodes", Some("1"))?;
    tmpfs.mount(MountAttributes::RDONLY | MountAttributes::NOSUID | MountAttributes::NODEV | MountAttributes::NOEXEC)
}
