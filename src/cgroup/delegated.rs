//! Where an ordinary user, or root of a user namespace, may make a cgroup.
//!
//! Two permissions are needed (cgroups(7), "Cgroups delegation"): to write to the directory above
//! the new cgroup, and, to move a process there, to `cgroup.procs` of the nearest cgroup that is
//! above both where it is and where it goes.

use std::path::Path;

use nix::unistd::{AccessFlags, access};

use super::directory::Directory;
use super::hierarchy::{Hierarchy, own_cgroup, path_for};
use super::v2::Cgroup;
use windlass_base::error::{Doing, Error, Kind, Origin, Result};
use windlass_plan::cgroup::Need;
use windlass_sys::fd;

/// A place for the container's cgroup.
#[derive(Debug, PartialEq, Eq)]
pub struct Place {
    /// Below the root of the hierarchy.
    pub path: String,
    /// Whether it is below the runtime's own cgroup, which then must not hold processes if the new
    /// one is to have controllers.
    pub inside: bool,
}

/// Finds a place: what `cgroupsPath` names, or beside the runtime's own cgroup, or below it. The
/// last comes first where systemd has delegated exactly this cgroup. `None`: nothing is delegated.
pub fn find(hierarchy: &Hierarchy, cgroups_path: &str, id: &str) -> Result<Option<Place>> {
    let Some(root) = hierarchy.root() else { return Ok(None) };
    let own = own_cgroup()?;
    if cgroups_path.starts_with('/') {
        let path = path_for(cgroups_path, id, "/")?;
        return Ok(may_use(root, &own, &path).then_some(Place { path, inside: false }));
    }
    let beside = Place { path: path_for(cgroups_path, id, &own)?, inside: false };
    let inside = Place { path: path_for(cgroups_path, id, &format!("{own}/."))?, inside: true };
    let both = if is_delegated(root, &own) { [inside, beside] } else { [beside, inside] };
    Ok(both.into_iter().find(|place| may_use(root, &own, &place.path)))
}

/// systemd marks what it has delegated; a user's instance of 252 and 257 was not seen to.
fn is_delegated(root: &Directory, own: &str) -> bool {
    fd::attribute(&root.path_of(own.trim_start_matches('/')), "user.delegate").is_some_and(|value| value == b"1")
}

fn may_use(root: &Directory, own: &str, path: &str) -> bool {
    let full = |path: &str| root.path_of(path.trim_matches('/'));
    let writable = |path: &str| access(Path::new(path), AccessFlags::W_OK).is_ok();
    let above = ancestors(path).map(full).find(|path| Path::new(path).is_dir());
    above.is_some_and(|above| writable(&above)) && writable(&format!("{}/cgroup.procs", full(common(own, path))))
}

/// The cgroups above a path, the nearest first; the root is empty.
fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    path.rmatch_indices('/').map(|(at, _)| &path[..at])
}

/// The nearest cgroup that is above both, or one of them.
fn common<'a>(own: &str, path: &'a str) -> &'a str {
    let own = own.trim_end_matches('/');
    let is_above = |above: &&str| own == *above || own.starts_with(&format!("{above}/"));
    ancestors(path).find(is_above).unwrap_or("")
}

/// Moves the runtime out of its own cgroup into one below it, if nobody else is there: a cgroup that
/// gives controllers to those below it may have no processes itself.
pub fn make_room() -> Result<()> {
    let hierarchy = Hierarchy::find()?;
    let Some(root) = hierarchy.root() else { return Ok(()) };
    let own = root.path_of(own_cgroup()?.trim_matches('/'));
    let pid = std::process::id().cast_signed();
    // With others in it the kernel refuses the controllers, and says so better than we could.
    if Cgroup::open(&own)?.pids(false)? == [pid] {
        let leaf = format!("{own}/windlass");
        match std::fs::create_dir(&leaf) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            other => other.doing(|| format!("cannot make cgroup {leaf:?}"))?,
        }
        Cgroup::open(&leaf)?.join(pid)?;
    }
    Ok(())
}

/// A limit was asked for and there is no cgroup to put it on.
pub fn refuse(need: &Need) -> Error {
    let own = own_cgroup().unwrap_or_default();
    let msg = format!(
        "cannot apply {}: no cgroup with the controller {} is delegated to this user from {own:?}",
        super::controllers::name_of(&need.pointer),
        need.controller
    );
    Error::new(Kind::Unsupported, msg).origin(Origin::config(need.pointer.clone())).hint(
        "run it as `systemd-run --user --scope -p Delegate=yes windlass ...`, or let systemd make the cgroup (--systemd-cgroup); \
         `windlass doctor` says what is delegated",
    )
}

/// What makes systemd give a user more controllers.
pub(super) fn advice(controllers: &str) -> String {
    format!(
        "to delegate it to users: `systemctl edit user@.service`, there \"[Service]\" and \"Delegate=cpu cpuset io memory pids\" \
         (with {controllers} in it), then log in anew"
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
