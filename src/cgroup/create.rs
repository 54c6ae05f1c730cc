//! Making a cgroup.

use nix::errno::Errno;
use nix::sys::stat::Mode;

use super::cgroups_path::from_cgroups_path;
use super::controllers;
use super::directory::{Directory, number_after};
use super::hierarchy::Hierarchy;
use super::processes::pids_of;
use super::remove::remove_empty;
use super::v2::Cgroup;
use windlass_base::error::{Error, Kind, Result, WithContext};
use windlass_plan::cgroup::Need;
use windlass_sys::Called;

impl Cgroup {
    /// Makes the cgroup `path` (below the root of the hierarchy) and enables the controllers in `needs` in its
    /// ancestors. If that fails, what was made is removed again.
    ///
    /// A cgroup that exists is used if it is empty and not frozen, and refused otherwise.
    pub fn create(hierarchy: &Hierarchy, path: &str, needs: &[Need]) -> Result<Cgroup> {
        let Some(root) = hierarchy.root() else {
            controllers::require_cgroup2(hierarchy, needs)?;
            return Err(Error::new(Kind::Unsupported, "cannot make a cgroup: no cgroup2 file system is mounted")
                .with_origin(from_cgroups_path())
                .with_hint(controllers::MOUNT));
        };
        let path = path.trim_start_matches('/');
        let mut made = Vec::new();
        let result = make(root, path, &mut made).and_then(|()| {
            let directory =
                root.open_below(path).with_context(|| format!("cannot open cgroup {:?}", root.path_of(path)))?;
            // The root cannot be frozen, so nothing freezes a new cgroup directly below it.
            if made.is_empty() || path.contains('/') {
                refuse_in_use(&directory, !made.is_empty())?;
            }
            controllers::enable(hierarchy, root, &directory, path, needs)?;
            Ok(Cgroup { directory, created: !made.is_empty() })
        });
        if result.is_err() {
            // Best effort: the first error is the one to report.
            made.iter().rev().for_each(|path| drop(remove_empty(path)));
        }
        result
    }
}

/// Makes a directory and its missing ancestors. `made` receives the whole path of each directory that was made.
pub(super) fn make(root: &Directory, path: &str, made: &mut Vec<String>) -> Result<()> {
    let mkdir = |path: &str, made: &mut Vec<String>| {
        let result = nix::sys::stat::mkdirat(root, path, Mode::from_bits_truncate(0o755));
        if result.is_ok() {
            made.push(root.path_of(path));
        }
        result
    };
    // The container's user may read its own limits, whatever the umask of the runtime's caller.
    let umask = windlass_sys::sched::umask(0);
    let result = match mkdir(path, made) {
        Err(Errno::ENOENT) => path
            .match_indices('/')
            .map(|(end, _)| &path[..end])
            .chain([path])
            .try_for_each(|ancestor| mkdir(ancestor, made).or_else(exists)),
        result => result.or_else(exists),
    };
    windlass_sys::sched::umask(umask);
    result
        .called(|| format!("mkdir({:?}, 0755)", root.path_of(path)))
        .with_context(|| format!("cannot make cgroup {:?}", root.path_of(path)))
        .map_err(|error| {
            let errno = error.errno();
            let error = error.with_origin(from_cgroups_path());
            match errno {
                Some(Errno::EROFS) => error.with_hint("the cgroup file system is mounted read-only"),
                Some(Errno::EAGAIN) => {
                    error.with_hint("an ancestor's cgroup.max.descendants or cgroup.max.depth is reached")
                }
                _ => error,
            }
        })
}

fn exists(errno: Errno) -> nix::Result<()> {
    if errno == Errno::EEXIST { Ok(()) } else { Err(errno) }
}

/// Refuses a cgroup in which init would never run, because it or an ancestor is frozen, and an existing cgroup with
/// processes, which are not the container's.
fn refuse_in_use(directory: &Directory, made: bool) -> Result<()> {
    let refuse = |msg: String| Error::new(Kind::WrongStatus, msg).with_origin(from_cgroups_path());
    let events = directory
        .read("cgroup.events")
        .with_context(|| format!("cannot read the state of cgroup {:?}", directory.path))?;
    if !made && number_after(&events, "populated") == Some(1) {
        let pids = pids_of(directory, true).with_context(|| format!("cannot list cgroup {:?}", directory.path))?;
        return Err(refuse(format!("container's cgroup is not empty: {} process(es) found", pids.len())));
    }
    if number_after(&events, "frozen") == Some(1) {
        let error = refuse("container's cgroup unexpectedly frozen".into());
        return Err(if made { error.with_hint("an ancestor of it is frozen: see cgroup.freeze there") } else { error });
    }
    Ok(())
}
