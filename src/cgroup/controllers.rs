//! Controllers: enabling them, those that limits need first, and telling why a limit cannot be applied.

use nix::errno::Errno;

use super::directory::Directory;
use super::hierarchy::Hierarchy;
use super::v2::Cgroup;
use windlass_base::error::{Doing, Error, Kind, Origin, Result, describe};
use windlass_plan::cgroup::{Absent, Need, Write};
use windlass_sys::Failed;

/// Enables what `needs` names for the cgroup `path` below `root`, open as `leaf`, and whatever else
/// there is. Only what the cgroup lacks is touched.
pub(super) fn enable(
    hierarchy: &Hierarchy,
    root: &Directory,
    leaf: &Directory,
    path: &str,
    needs: &[Need],
) -> Result<()> {
    let missing = if needs.is_empty() { Vec::new() } else { lacking(leaf, needs)? };
    if !missing.is_empty() {
        enable_missing(hierarchy, root, path, &missing)?;
    }
    offer_the_rest(root, leaf, path);
    Ok(())
}

/// Every cgroup above the one at `path`, the root first.
fn ancestors(path: &str) -> Vec<&str> {
    let mut ancestors = vec![""];
    ancestors.extend(path.match_indices('/').map(|(end, _)| &path[..end]));
    ancestors
}

/// Enables all else that the root has, as far as the ancestors let us: without a controller nothing
/// is counted for `events`, and `update` has no limit to change.
fn offer_the_rest(root: &Directory, leaf: &Directory, path: &str) {
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
        let enabled = read(&ancestor, SUBTREE);
        // One by one: one that cannot be enabled here takes no other along.
        for controller in absent(&missing.join(" "), &enabled) {
            let _ = ancestor.write(SUBTREE, &format!("+{controller}"));
        }
    }
}

/// The words of `all` that `has` does not have.
fn absent<'a>(all: &'a str, has: &str) -> Vec<&'a str> {
    all.split_ascii_whitespace().filter(|name| !has.split_ascii_whitespace().any(|one| one == *name)).collect()
}

/// Enables what limits need, from the nearest ancestor that has it.
fn enable_missing(hierarchy: &Hierarchy, root: &Directory, path: &str, missing: &[Need]) -> Result<()> {
    let mut below = Vec::new();
    for name in ancestors(path).iter().rev() {
        let ancestor = root.open_below(name).doing(|| format!("cannot open cgroup {:?}", root.path_of(name)))?;
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
        ancestor.write(SUBTREE, &value).map_err(|failed| cannot_enable(ancestor, missing, failed))?;
    }
    Ok(())
}

const SUBTREE: &str = "cgroup.subtree_control";

/// Those of `needs` that a cgroup does not have.
fn lacking(cgroup: &Directory, needs: &[Need]) -> Result<Vec<Need>> {
    let file = "cgroup.controllers";
    let has = cgroup.read(file).doing(|| format!("cannot read {:?}", cgroup.path_of(file)))?;
    Ok(needs.iter().filter(|need| !has.split_ascii_whitespace().any(|one| one == need.controller)).cloned().collect())
}

/// The way to a cgroup2 for those who have none.
pub(super) const MOUNT: &str = "mount -t cgroup2 none /sys/fs/cgroup/unified";

/// Refuses the first of `needs` where no cgroup2 is mounted, and says where its controller is.
pub fn refuse(hierarchy: &Hierarchy, needs: &[Need]) -> Result<()> {
    match needs.iter().find(|need| hierarchy.v1_of(&need.controller).is_some()).or(needs.first()) {
        Some(need) if hierarchy.unified().is_none() => Err(unavailable(hierarchy, &need.controller, &need.pointer)),
        _ => Ok(()),
    }
}

/// The controller is not in cgroup2 at all.
fn unavailable(hierarchy: &Hierarchy, controller: &str, pointer: &str) -> Error {
    let error = |why: String| {
        Error::new(Kind::Unsupported, format!("cannot apply {}: {why}", name_of(pointer)))
            .origin(Origin::config(pointer.to_owned()))
    };
    match hierarchy.v1_of(controller) {
        Some(v1) => error(format!("the {controller} controller is mounted as cgroup v1 at {:?}", v1.mount)).hint(
            "a windlass built with the feature cgroup-v1 applies it; or boot with cgroup_no_v1=all to have all controllers in cgroup v2",
        ),
        None if hierarchy.unified().is_none() => error("no cgroup2 file system is mounted".into()).hint(MOUNT),
        None => error(format!(
            "controller \"{controller}\" not available: the requested cgroup controller `{controller}` is not available"
        ))
        .hint(format!(
            "{}/cgroup.controllers does not list it: the kernel lacks it, or disables it on its command line, or this cgroup was not delegated with it",
            hierarchy.unified().unwrap_or_default()
        )),
    }
}

fn cannot_enable(ancestor: &Directory, needs: &[Need], failed: Failed) -> Error {
    let names = needs.iter().map(|need| &*need.controller).collect::<Vec<_>>().join(", ");
    let (file, errno) = (ancestor.path_of(SUBTREE), failed.errno);
    let error = failed
        .doing(format!("cannot enable the controller {names} in {file:?}"))
        .origin(Origin::config(needs[0].pointer.clone()));
    match errno {
        Errno::EBUSY => error.hint(format!(
            "{:?} has processes of its own, so its sub-cgroups cannot have controllers: move them to a sub-cgroup, or set linux.cgroupsPath to a place elsewhere",
            ancestor.path
        )),
        Errno::EACCES | Errno::EPERM | Errno::EROFS => {
            error.hint(format!(
                "{:?} is not this user's to write to, or mounted read-only; {}",
                ancestor.path,
                super::delegated::advice(&names)
            ))
        }
        Errno::EOPNOTSUPP => error.hint(format!("{:?} is a cgroup of threads", ancestor.path)),
        _ => error,
    }
}

/// Why a limit could not be written.
pub(super) fn explain(cgroup: &Cgroup, write: &Write, failed: Failed) -> Error {
    let errno = failed.errno;
    let (file, value) = match &write.absent {
        Absent::Instead { file, value } if failed.call.contains(&**file) => (file, value),
        _ => (&write.file, &write.value),
    };
    if errno == Errno::ENOENT {
        return missing_file(cgroup, write, file).failed(failed);
    }
    let unified = write.pointer.starts_with("/linux/resources/unified/");
    let message = if unified {
        format!("unable to set unified resource {file:?}: {}", describe(errno))
    } else {
        format!("cannot set {file} to {value:?}: {}", describe(errno))
    };
    let mut error = Error::new(Kind::Kernel, message).failed(failed).origin(Origin::config(write.pointer.clone()));
    for (name, number, hint) in HINTS {
        if file.starts_with(name) && *number == errno {
            error = error.hint(*hint);
        }
    }
    error
}

const HINTS: &[(&str, Errno, &str)] = &[
    ("cpu.weight", Errno::EINVAL, "a cgroup with cpu.idle 1 has no weight"),
    ("cpu.max.burst", Errno::EINVAL, "the burst must not exceed the quota"),
    (
        "cpu.max",
        Errno::EINVAL,
        "quota and period are at least 1000 us, the period at most 1 s, the burst at most the quota",
    ),
    ("cpuset.", Errno::ENOSPC, "the cgroup would have processes, but no CPU or no memory node"),
    ("cpuset.", Errno::EINVAL, "a list like 0-3,5 of numbers that this machine has"),
    ("cpuset.", Errno::ERANGE, "a list like 0-3,5 of numbers that this machine has"),
    ("io.", Errno::ENODEV, "there is no block device with this number"),
    ("io.", Errno::EOPNOTSUPP, "the scheduler of this block device has no weights"),
    ("rdma.max", Errno::ENODEV, "there is no RDMA device with this name"),
];

fn missing_file(cgroup: &Cgroup, write: &Write, file: &str) -> Error {
    let controller = &*write.controller;
    let has = cgroup.directory.read("cgroup.controllers").unwrap_or_default();
    let pointer = &write.pointer;
    if controller == "cgroup" || has.split_ascii_whitespace().any(|one| one == controller) {
        return Error::new(
            Kind::Unsupported,
            format!("cannot apply {}: no file {file:?}: {}", name_of(pointer), describe(Errno::ENOENT)),
        )
        .origin(Origin::config(pointer.clone()))
        .hint(format!("this kernel's {controller} has no such setting"));
    }
    // Only now is it worth looking where the controller is.
    if let Ok(hierarchy) = Hierarchy::find()
        && hierarchy.v1_of(controller).is_some()
    {
        return unavailable(&hierarchy, controller, pointer);
    }
    let parent = cgroup.path().rsplit_once('/').map_or("", |(parent, _)| parent);
    Error::new(
        Kind::Unsupported,
        format!("cannot apply {}: controller \"{controller}\" not available in {:?}", name_of(pointer), cgroup.path()),
    )
    .origin(Origin::config(pointer.clone()))
    // What a user's systemd does not have it cannot give on.
    .hint(match cgroup.path().contains("/user@") {
        true => super::delegated::advice(controller),
        false => format!("it would be enabled by: echo +{controller} > {parent}/{SUBTREE}"),
    })
}

/// The words for a limit: `memory.limit` for `/linux/resources/memory/limit`, and for an
/// element of `unified` what runc calls it.
pub(super) fn name_of(pointer: &str) -> String {
    let inner = pointer.strip_prefix("/linux/resources/").unwrap_or(pointer);
    match inner.strip_prefix("unified/") {
        Some(file) => format!("unified resource {file:?}"),
        None => inner.replace('/', "."),
    }
}
