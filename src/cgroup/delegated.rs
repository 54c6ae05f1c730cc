//! The places where an ordinary user, or root of a user namespace, may make a cgroup.
//!
//! The user must be permitted to write to the parent of the new cgroup, and to `cgroup.procs` of the nearest common
//! ancestor of the new cgroup and the process's cgroup (cgroups(7), "Cgroups delegation").

use std::path::Path;

use nix::unistd::{AccessFlags, access};

use super::cgroups_path::{own_cgroup, path_for};
use super::controllers;
use super::directory::Directory;
use super::hierarchy::Hierarchy;
use super::v2::Cgroup;
use windlass_base::error::{Error, Kind, Origin, Result, WithContext};
use windlass_plan::cgroup::Need;
use windlass_sys::attributes;

/// A place where the container's cgroup may be made.
#[derive(Debug, PartialEq, Eq)]
pub struct Location {
    /// Its path below the root of the hierarchy.
    pub path: String,
    /// Whether it is below the runtime's own cgroup, which must then have no processes if the new cgroup is to have
    /// controllers ([`leave_own_cgroup`]).
    pub below_own: bool,
}

/// Finds the location: an absolute `cgroupsPath`, or else a sibling or a child of the runtime's own cgroup. The child
/// is preferred if systemd has delegated exactly the own cgroup. Returns `None` if nothing is delegated.
pub fn find(hierarchy: &Hierarchy, cgroups_path: &str, id: &str) -> Result<Option<Location>> {
    let Some(root) = hierarchy.root() else { return Ok(None) };
    let own = own_cgroup()?;
    if cgroups_path.starts_with('/') {
        let path = path_for(cgroups_path, id, "/")?;
        return Ok(may_use(root, &own, &path).then_some(Location { path, below_own: false }));
    }
    let sibling = Location { path: path_for(cgroups_path, id, &own)?, below_own: false };
    let child = Location { path: path_for(cgroups_path, id, &format!("{own}/."))?, below_own: true };
    let both = if is_delegated(root, &own) { [child, sibling] } else { [sibling, child] };
    Ok(both.into_iter().find(|location| may_use(root, &own, &location.path)))
}

/// Whether systemd has marked the cgroup as delegated. The user instances of versions 252 and 257 do not mark their
/// cgroups.
fn is_delegated(root: &Directory, own: &str) -> bool {
    attributes::read(&root.path_of(own.trim_start_matches('/')), "user.delegate").is_some_and(|value| value == b"1")
}

fn may_use(root: &Directory, own: &str, path: &str) -> bool {
    let full = |path: &str| root.path_of(path.trim_matches('/'));
    let writable = |path: &str| access(Path::new(path), AccessFlags::W_OK).is_ok();
    let above = ancestors(path).map(full).find(|path| Path::new(path).is_dir());
    above.is_some_and(|above| writable(&above)) && writable(&format!("{}/cgroup.procs", full(common(own, path))))
}

/// The cgroups above a path, the nearest first. The root is the empty path.
fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    path.rmatch_indices('/').map(|(at, _)| &path[..at])
}

/// The nearest common ancestor of `own` and the parent of `path`.
fn common<'a>(own: &str, path: &'a str) -> &'a str {
    let own = own.trim_end_matches('/');
    let is_above = |above: &&str| own == *above || own.starts_with(&format!("{above}/"));
    ancestors(path).find(is_above).unwrap_or("")
}

/// Moves the runtime out of its own cgroup into a new one below it, if it is alone there: a cgroup that enables
/// controllers for its children must have no processes itself.
pub fn leave_own_cgroup() -> Result<()> {
    let hierarchy = Hierarchy::find()?;
    let Some(root) = hierarchy.root() else { return Ok(()) };
    let own = root.path_of(own_cgroup()?.trim_matches('/'));
    let pid = std::process::id().cast_signed();
    // With other processes in it, the error of the kernel when controllers are enabled is the one to report.
    if Cgroup::open(&own)?.pids(false)? == [pid] {
        let leaf = format!("{own}/windlass");
        match std::fs::create_dir(&leaf) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            other => other.with_context(|| format!("cannot make cgroup {leaf:?}"))?,
        }
        Cgroup::open(&leaf)?.add_process(pid)?;
    }
    Ok(())
}

/// The error for a limit if no cgroup is delegated.
pub fn not_delegated(need: &Need) -> Error {
    let own = own_cgroup().unwrap_or_default();
    let msg = format!(
        "cannot apply {}: no cgroup with the controller {} is delegated to this user from {own:?}",
        controllers::name_of(&need.pointer),
        need.controller
    );
    Error::new(Kind::Unsupported, msg).with_origin(Origin::config(need.pointer.clone())).with_hint(
        "run it as `systemd-run --user --scope -p Delegate=yes windlass ...`, or let systemd make the cgroup (--systemd-cgroup); \
         `windlass doctor` says what is delegated",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_cgroup_above_both_is_found() {
        for (own, path, above) in [
            ("/a/b", "/a/c", "/a"),
            ("/a/b", "/a/b/c", "/a/b"),
            ("/a/b", "/x", ""),
            ("/", "/x/y", ""),
            ("/a/bc", "/a/b/c", "/a"),
            ("/user.slice/s.scope", "/user.slice/user@1.service/x", "/user.slice"),
        ] {
            assert_eq!(common(own, path), above, "{own} {path}");
        }
    }

    #[test]
    fn ancestors_end_at_the_root() {
        assert_eq!(ancestors("/a/b/c").collect::<Vec<_>>(), ["/a/b", "/a", ""]);
    }
}
