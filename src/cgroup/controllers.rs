//! Enabling controllers, and the errors for those that cannot be enabled.

use nix::errno::Errno;

use super::directory::Directory;
use super::hierarchy::Hierarchy;
use windlass_base::error::{Error, Kind, Origin, Result, WithContext};
use windlass_plan::cgroup::Need;
use windlass_sys::SyscallError;

pub(super) const SUBTREE_CONTROL: &str = "cgroup.subtree_control";

/// The hint if no cgroup2 is mounted.
pub(super) const MOUNT: &str = "mount -t cgroup2 none /sys/fs/cgroup/unified";

/// Enables the controllers in `needs` for the cgroup `path` below `root`, open as `leaf`, and all others if possible.
/// Nothing is written for a controller that the cgroup has.
pub(super) fn enable(
    hierarchy: &Hierarchy,
    root: &Directory,
    leaf: &Directory,
    path: &str,
    needs: &[Need],
) -> Result<()> {
    let missing = if needs.is_empty() { Vec::new() } else { lacking(leaf, needs)? };
    if !missing.is_empty() {
        enable_needed(hierarchy, root, path, &missing)?;
    }
    enable_others(root, leaf, path);
    Ok(())
}

/// Every cgroup above the one at `path`, the root first.
fn ancestors(path: &str) -> Vec<&str> {
    let mut ancestors = vec![""];
    ancestors.extend(path.match_indices('/').map(|(end, _)| &path[..end]));
    ancestors
}

/// Enables every other controller of the root, as far as the ancestors permit. Without its controller a resource
/// is not counted for `events`, and has no file that `update` could write.
fn enable_others(root: &Directory, leaf: &Directory, path: &str) {
    let read = |cgroup: &Directory, file: &str| cgroup.read(file).unwrap_or_default();
    let all = read(root, "cgroup.controllers");
    if all.trim().is_empty() {
        return;
    }
    let has = read(leaf, "cgroup.controllers");
    let missing = absent(&all, &has);
    if missing.is_empty() {
        return;
    }
    for name in ancestors(path) {
        let Ok(ancestor) = root.open_below(name) else { return };
        let enabled = read(&ancestor, SUBTREE_CONTROL);
        // One write for each: if one controller is refused, the whole write is.
        for controller in absent(&missing.join(" "), &enabled) {
            let _ = ancestor.write(SUBTREE_CONTROL, &format!("+{controller}"));
        }
    }
}

/// The words of `all` that are not in `has`.
fn absent<'a>(all: &'a str, has: &str) -> Vec<&'a str> {
    all.split_ascii_whitespace().filter(|name| !has.split_ascii_whitespace().any(|one| one == *name)).collect()
}

/// Enables the controllers in `missing`, downwards from the nearest ancestor that has them all.
fn enable_needed(hierarchy: &Hierarchy, root: &Directory, path: &str, missing: &[Need]) -> Result<()> {
    let mut below = Vec::new();
    for name in ancestors(path).iter().rev() {
        let ancestor = root.open_below(name).with_context(|| format!("cannot open cgroup {:?}", root.path_of(name)))?;
        let lacking = lacking(&ancestor, missing)?;
        if let (Some(need), true) = (lacking.first(), name.is_empty()) {
            return Err(unavailable(hierarchy, &need.controller, &need.pointer));
        }
        below.push(ancestor);
        if lacking.is_empty() {
            break;
        }
    }
    let value = missing.iter().map(|need| format!("+{}", need.controller)).collect::<Vec<_>>().join(" ");
    for ancestor in below.iter().rev() {
        ancestor.write(SUBTREE_CONTROL, &value).map_err(|failed| cannot_enable(ancestor, missing, failed))?;
    }
    Ok(())
}

/// The controllers of `needs` that a cgroup does not have.
fn lacking(cgroup: &Directory, needs: &[Need]) -> Result<Vec<Need>> {
    let file = "cgroup.controllers";
    let has = cgroup.read(file).with_context(|| format!("cannot read {:?}", cgroup.path_of(file)))?;
    Ok(needs.iter().filter(|need| !has.split_ascii_whitespace().any(|one| one == need.controller)).cloned().collect())
}

/// Refuses `needs` on a host without cgroup2. The error tells where a controller is.
pub fn require_cgroup2(hierarchy: &Hierarchy, needs: &[Need]) -> Result<()> {
    match needs.iter().find(|need| hierarchy.v1_of(&need.controller).is_some()).or(needs.first()) {
        Some(need) if hierarchy.unified().is_none() => Err(unavailable(hierarchy, &need.controller, &need.pointer)),
        _ => Ok(()),
    }
}

/// The error for a controller that cgroup2 does not have.
pub(super) fn unavailable(hierarchy: &Hierarchy, controller: &str, pointer: &str) -> Error {
    let error = |why: String| {
        Error::new(Kind::Unsupported, format!("cannot apply {}: {why}", name_of(pointer)))
            .with_origin(Origin::config(pointer.to_owned()))
    };
    match hierarchy.v1_of(controller) {
        Some(v1) => error(format!("the {controller} controller is mounted as cgroup v1 at {:?}", v1.mount)).with_hint(
            "a windlass built with the feature cgroup-v1 applies it; or boot with cgroup_no_v1=all to have all controllers in cgroup v2",
        ),
        None if hierarchy.unified().is_none() => error("no cgroup2 file system is mounted".into()).with_hint(MOUNT),
        None => error(format!(
            "controller \"{controller}\" not available: the requested cgroup controller `{controller}` is not available"
        ))
        .with_hint(format!(
            "{}/cgroup.controllers does not list it: the kernel lacks it, or disables it on its command line, or this cgroup was not delegated with it",
            hierarchy.unified().unwrap_or_default()
        )),
    }
}

fn cannot_enable(ancestor: &Directory, needs: &[Need], failed: SyscallError) -> Error {
    let names = needs.iter().map(|need| &*need.controller).collect::<Vec<_>>().join(", ");
    let (file, errno) = (ancestor.path_of(SUBTREE_CONTROL), failed.errno);
    let error = failed
        .context(format!("cannot enable the controller {names} in {file:?}"))
        .with_origin(Origin::config(needs[0].pointer.clone()));
    match errno {
        Errno::EBUSY => error.with_hint(format!(
            "{:?} has processes of its own, so its sub-cgroups cannot have controllers: move them to a sub-cgroup, or set linux.cgroupsPath to a place elsewhere",
            ancestor.path
        )),
        Errno::EACCES | Errno::EPERM | Errno::EROFS => {
            error.with_hint(format!(
                "{:?} is not this user's to write to, or mounted read-only; {}",
                ancestor.path,
                delegation_hint(&names)
            ))
        }
        Errno::ENOENT => error.with_hint(
            "this controller is not in cgroup.controllers of the parent: enable it there, or it belongs to a cgroup v1 hierarchy",
        ),
        Errno::EOPNOTSUPP => error.with_hint(format!("{:?} is a cgroup of threads", ancestor.path)),
        _ => error,
    }
}

/// The hint how systemd is made to delegate controllers to users.
pub(super) fn delegation_hint(controllers: &str) -> String {
    format!(
        "to delegate it to users: `systemctl edit user@.service`, there \"[Service]\" and \"Delegate=cpu cpuset io memory pids\" \
         (with {controllers} in it), then log in anew"
    )
}

/// A limit's name in messages: `memory.limit` for `/linux/resources/memory/limit`, and runc's name for an
/// element of `unified`.
pub(super) fn name_of(pointer: &str) -> String {
    let inner = pointer.strip_prefix("/linux/resources/").unwrap_or(pointer);
    match inner.strip_prefix("unified/") {
        Some(file) => format!("unified resource {file:?}"),
        None => inner.replace('/', "."),
    }
}
