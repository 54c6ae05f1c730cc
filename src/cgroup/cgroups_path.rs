//! The path of a container's cgroup, from `linux.cgroupsPath`.

use windlass_base::error::{Error, Origin, Result, WithContext};

use super::directory::read_file;

/// The path of the container's cgroup below the root of the hierarchy, if the runtime makes the cgroup.
///
/// /proc/self/cgroup is read only if the path depends on it.
pub fn path(cgroups_path: &str, id: &str) -> Result<String> {
    match cgroups_path.starts_with('/') {
        true => path_for(cgroups_path, id, "/"),
        false => path_for(cgroups_path, id, &own_cgroup()?),
    }
}

/// The path of this process's cgroup of version 2, below the root of the hierarchy.
pub fn own_cgroup() -> Result<String> {
    let text = read_file("/proc/self/cgroup").with_context(|| "cannot read /proc/self/cgroup")?;
    Ok(unified_path(&text).unwrap_or("/").to_owned())
}

/// Whether this process has cgroups in hierarchies of version 1 as well.
pub fn has_version_1() -> Result<bool> {
    let text = read_file("/proc/self/cgroup").with_context(|| "cannot read /proc/self/cgroup")?;
    Ok(text.lines().any(|line| !line.starts_with("0::")))
}

/// The path in the line `0::path` of a /proc/PID/cgroup: the cgroup of version 2.
pub(super) fn unified_path(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::"))
}

/// The path of a container's cgroup below the root of the hierarchy, with a leading slash.
///
/// An absolute `cgroups_path` begins at that root. A relative path, or the id if there is none, begins at the parent of
/// `own`, the cgroup of the runtime: `own` has processes, so no cgroup below it could have controllers. systemd manages
/// system.slice; a runtime in one of its services uses a slice below machine.slice, as runc does.
///
/// `..` removes the component before it, as text, and never leads above the beginning of the path. The length of a
/// component is left to the kernel, since cgroup file systems do not have the usual limit of 255 bytes.
pub(crate) fn path_for(cgroups_path: &str, id: &str, own: &str) -> Result<String> {
    let refuse =
        |why: &str| Err(Error::config("/linux/cgroupsPath", format!("invalid cgroupsPath {cgroups_path:?}: {why}")));
    if cgroups_path.contains(['\n', '\0']) {
        return refuse("it has a control character");
    }
    let wanted = if cgroups_path.is_empty() { id } else { cgroups_path };
    let parent = if wanted.starts_with('/') {
        ""
    } else {
        match own.rsplit_once('/').map_or("", |(parent, _)| parent) {
            "/system.slice" => "/machine.slice/machine-windlass.slice",
            // The parent is outside of this cgroup namespace, where no cgroup can be made.
            parent if parent.starts_with("/..") => "",
            parent => parent,
        }
    };
    let mut path = String::with_capacity(parent.len() + wanted.len() + 1);
    for component in parent.split('/').filter(|component| !matches!(*component, "" | ".")) {
        path.push('/');
        path.push_str(component);
    }
    let base = path.len();
    for component in wanted.split('/') {
        match component {
            "" | "." => {}
            ".." => path.truncate(path[base..].rfind('/').map_or(base, |slash| base + slash)),
            _ => {
                path.push('/');
                path.push_str(component);
            }
        }
    }
    match path.len() > base {
        true => Ok(path),
        false if base == 0 => refuse("it is the root of the hierarchy"),
        false => refuse("it names no cgroup of the container's own"),
    }
}

/// The origin of errors about the cgroup's path.
pub(super) fn from_cgroups_path() -> Origin {
    Origin::config("/linux/cgroupsPath")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absolute_path_is_meant_from_the_root() {
        assert_eq!(path_for("/a/b", "id", "/x/y").expect("valid"), "/a/b");
        assert_eq!(path_for("//a/./b/", "id", "/x/y").expect("valid"), "/a/b");
    }

    #[test]
    fn a_relative_path_or_none_goes_beside_the_runtime() {
        assert_eq!(path_for("", "id", "/user.slice/session-1.scope").expect("valid"), "/user.slice/id");
        assert_eq!(path_for("a/b", "id", "/user.slice/session-1.scope").expect("valid"), "/user.slice/a/b");
        assert_eq!(path_for("", "id", "/").expect("valid"), "/id");
        assert_eq!(path_for("", "id", "/shell").expect("valid"), "/id");
        assert_eq!(path_for("", "id", "/../../x").expect("valid"), "/id");
        assert_eq!(
            path_for("", "id", "/system.slice/containerd.service").expect("valid"),
            "/machine.slice/machine-windlass.slice/id"
        );
    }

    #[test]
    fn a_path_cannot_leave_its_place() {
        for (path, stays) in [("/a/../b", "/b"), ("/../../b", "/b"), ("../../b", "/x/b"), ("a/b/../../../c", "/x/c")] {
            assert_eq!(path_for(path, "id", "/x/y").expect(path), stays, "{path}");
        }
        for path in ["..", "a/..", "/", "//", "/a/..", "/a\nb", "/a\0b"] {
            let error = path_for(path, "id", "/x/y").expect_err(path);
            assert_eq!(error.origin(), Some(&from_cgroups_path()), "{path}");
        }
    }

    #[test]
    fn the_kernel_says_how_long_a_component_may_be() {
        let long = format!("/{}", "x".repeat(300));
        assert_eq!(path_for(&long, "id", "/x/y").expect("valid"), long);
    }
}
