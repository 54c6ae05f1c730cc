//! Coming into namespaces, and what belongs to them.

use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::sched::CloneFlags;

use crate::apply::context::Context;
use crate::error::{Doing, Error, Kind, Result};
use crate::plan::explain::kind_names;
use crate::sys::{credentials, process};

pub(super) fn map_ids(cx: &Context<'_>) -> Result<()> {
    cx.sync.map_ids()?;
    // At the latest now: see init::begin.
    process::hide().doing(|| "cannot hide init")
}

pub(super) fn become_root(uid: u32, gid: u32) -> Result<()> {
    // The supplementary groups are the caller's still; they go with the container user's own.
    credentials::set_ids(uid, gid).doing(|| "cannot become root of the user namespace")
}

pub(super) fn join(index: usize, cx: &mut Context<'_>) -> Result<()> {
    let missing = || Error::new(Kind::Protocol, "the plan joins a namespace that was not opened");
    let namespace = cx.joins.get_mut(index).and_then(Option::take).ok_or_else(missing)?;
    // What kind it is was checked when it was opened.
    process::enter(namespace.as_fd(), CloneFlags::empty()).doing(|| "cannot join the namespace")
}

pub(super) fn unshare(kinds: u64) -> Result<()> {
    process::unshare(CloneFlags::from_bits_retain(kinds as i32))
        .doing(|| format!("cannot unshare the {} namespace", kind_names(kinds)))
}

pub(super) fn session_keyring(name: &str) -> Result<()> {
    match credentials::join_session_keyring(name) {
        // A kernel without keyrings has none to protect.
        Err(failed) if failed.errno == Errno::ENOSYS => Ok(()),
        other => other.doing(|| "cannot make a session keyring").map_err(|error| match error.errno() {
            Some(Errno::EDQUOT) => {
                error.hint("the user's quota of keys is used up: raise kernel.keys.maxkeys, or use --no-new-keyring")
            }
            _ => error,
        }),
    }
}
