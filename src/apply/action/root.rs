//! The root filesystem becomes `/`.

use std::os::fd::AsFd;

use nix::fcntl::OFlag;

use crate::apply::context::Context;
use crate::apply::resolve;
use crate::error::{Doing, Result};
use crate::plan::{Pivot, RootPath};
use crate::sys::mount::{self, Attributes};
use crate::sys::{fd, signals};

/// Attaches the copy of the root filesystem over its own place, so that it is a mount of our
/// namespace, and remembers it as the root of every lookup.
pub(super) fn attach(source: Option<usize>, path: &str, cx: &mut Context<'_>) -> Result<()> {
    // Opened here and not by the runtime: the place must be one of our mount namespace.
    let place = fd::open(path, OFlag::O_PATH | OFlag::O_DIRECTORY)
        .doing(|| format!("cannot open the root filesystem {path:?}"))?;
    let Some(source) = source else {
        cx.root = Some(place);
        return Ok(());
    };
    let root = cx.take_source(source)?;
    mount::attach(root.as_fd(), place.as_fd()).doing(|| "cannot attach the root filesystem")?;
    cx.root = Some(root);
    Ok(())
}

pub(super) fn pivot(how: Pivot, cx: &mut Context<'_>) -> Result<()> {
    let root = cx.root()?;
    mount::change_directory(root).doing(|| "cannot enter the root filesystem")?;
    match how {
        Pivot::PivotRoot => {
            // Both roots end up stacked at `/`; the old one is on top and is let go.
            mount::pivot_to_current().doing(|| "cannot pivot the root")?;
            mount::detach_current().doing(|| "cannot detach the old root")?;
        }
        Pivot::Move => {
            mount::move_current_to_root().doing(|| "cannot move the root filesystem over /")?;
            mount::chroot_to_current().doing(|| "cannot chroot into the root filesystem")?;
        }
        Pivot::Chroot => mount::chroot_to_current().doing(|| "cannot chroot into the root filesystem")?,
    }
    // The descriptor of the old root filesystem's parent must not outlive the pivot.
    let root = fd::open("/", OFlag::O_PATH | OFlag::O_DIRECTORY).doing(|| "cannot open the new root")?;
    cx.root = Some(root);
    cx.node_directory = None;
    cx.empty = None;
    mount::change_directory(cx.root()?).doing(|| "cannot enter the new root")
}

pub(super) fn readonly(path: &RootPath, cx: &mut Context<'_>) -> Result<()> {
    let target = resolve::find(cx.root()?, path, resolve::IN_ROOT).doing(|| format!("cannot find {path}"))?;
    let attributes = Attributes { set: crate::abi::attr::RDONLY, ..Attributes::default() };
    mount::set_attributes(target.as_fd(), attributes, false, None).doing(|| format!("cannot make {path} read-only"))
}

/// No signal is blocked and none ignored that the caller did not ignore.
pub(super) fn reset_signals() -> crate::sys::Result<()> {
    signals::default_sigpipe()?;
    signals::unblock()
}
