//! Becoming the container's user.

use nix::errno::Errno;

use crate::context::Context;
use crate::procfs;
use windlass_base::capability::CapabilitySet;
use windlass_base::error::{Error, Kind, Result, WithContext};
use windlass_plan::{Identity, ProcessCapabilities};
use windlass_sys::credentials::{self, CapabilitySets};

use super::execute::die_with_runtime;
use super::stdio;

/// Sets the bounding set, groups, ids, then the other sets: in this order each is still allowed.
pub(super) fn assume(identity: &Identity, cx: &mut Context<'_>) -> Result<()> {
    let sets = &identity.capabilities;
    credentials::bound_capabilities(sets.bounding).with_context(|| "cannot drop capabilities from the bounding set")?;
    let stdio = std::mem::take(&mut cx.stdio);
    stdio::give(&stdio, identity.uid);
    // Root keeps its capabilities anyway.
    let keeps = identity.uid != 0;
    if keeps {
        credentials::keep_capabilities(true).with_context(|| "cannot keep capabilities")?;
    }
    match credentials::set_groups(&identity.groups) {
        // The kernel denies setgroups(2) in user namespaces that ordinary users make, because membership in a group
        // may take permissions away (user_namespaces(7)). The groups of a caller without CAP_SETGID stay; others were
        // left before the namespace was entered.
        Err(failed) if failed.errno == Errno::EPERM && identity.groups.is_empty() && setgroups_denied() => {}
        other => other.with_context(|| "cannot set the supplementary groups")?,
    }
    credentials::set_ids(identity.uid, identity.gid)
        .with_context(|| format!("cannot become user {}:{}", identity.uid, identity.gid))?;
    die_with_runtime(cx)?;
    if keeps {
        credentials::keep_capabilities(false).with_context(|| "cannot stop keeping capabilities")?;
    }
    stdio::replace(&stdio)?;
    let wanted = kernel_sets(sets);
    let more = identity.until_filtered;
    let now = CapabilitySets { effective: wanted.effective | more, permitted: wanted.permitted | more, ..wanted };
    credentials::set_capabilities(now).with_context(|| "unable to apply caps")?;
    // An ambient capability must be permitted and inheritable; the kernel refuses others.
    let refused = credentials::set_ambient(sets.ambient).with_context(|| "cannot set the ambient capabilities")?;
    if !(refused & wanted.permitted & wanted.inheritable).is_empty() {
        let msg = format!("cannot raise the ambient capabilities {refused:#x}");
        return Err(Error::new(Kind::Kernel, msg));
    }
    Ok(())
}

/// Reduces the capabilities to these. The kernel itself removes from the ambient set what is no longer permitted.
pub(super) fn reduce(sets: &ProcessCapabilities) -> Result<()> {
    credentials::set_capabilities(kernel_sets(sets)).with_context(|| "unable to apply caps")
}

fn kernel_sets(sets: &ProcessCapabilities) -> CapabilitySets {
    CapabilitySets { effective: sets.effective, permitted: sets.permitted, inheritable: sets.inheritable }
}

/// Whether setgroups(2), which was refused, is denied in this user namespace. Otherwise CAP_SETGID is enough. The file
/// tells it too, but a process of `exec` may see the /proc of a PID namespace that it is not in.
fn setgroups_denied() -> bool {
    let allowed = procfs::read_mounted("self/setgroups").is_ok_and(|text| text.starts_with(b"allow"));
    !allowed && credentials::capabilities().is_ok_and(|sets| sets.effective.contains(CapabilitySet::SETGID))
}

/// The profile takes effect at execve(2) (`/proc/PID/attr/apparmor/exec`).
pub(super) fn apparmor(profile: &str, cx: &mut Context<'_>) -> Result<()> {
    let value = format!("exec {profile}");
    let written = match cx.procfs.write("self/attr/apparmor/exec", value.as_bytes()) {
        Err(failed) if failed.errno == Errno::ENOENT => cx.procfs.write("self/attr/exec", value.as_bytes()),
        other => other,
    };
    written
        .with_context(|| format!("unable to apply apparmor profile: apparmor failed to apply profile {profile:?}"))
        .map_err(|error| match error.errno() {
            Some(Errno::EINVAL | Errno::ENOENT) => error
                .with_hint("AppArmor is not enabled in this kernel, or the profile is not loaded (apparmor_parser -r)"),
            _ => error,
        })
}

/// Sets an SELinux label (`/proc/PID/attr`): `exec` takes effect at execve(2), and the label of new keys, `keycreate`,
/// ends there.
pub(super) fn label(attribute: &str, label: &str, cx: &mut Context<'_>) -> Result<()> {
    cx.procfs
        .write(&format!("self/attr/{attribute}"), label.as_bytes())
        .with_context(|| format!("cannot set the SELinux label {label:?}"))
        .map_err(|error| {
            error.with_hint("SELinux is not enabled in this kernel, or its policy does not know the label")
        })
}
