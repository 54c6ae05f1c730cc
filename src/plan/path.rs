//! Paths below the container's root.

use std::fmt;
use std::path::{Component, Path, PathBuf};

/// A path below the container's root, without `.`, `..` and doubled slashes, relative to it; the root itself is `.`.
/// Only the kernel resolves it, against a descriptor of the root. It is never joined to a path of the host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RootPath(PathBuf);

impl RootPath {
    /// Parses a text of the configuration. `..` is removed lexically and cannot lead above the root; engines clean
    /// paths in the same way. Returns `None` for a NUL byte.
    pub fn new(text: &str) -> Option<RootPath> {
        if text.contains('\0') {
            return None;
        }
        let mut path = PathBuf::new();
        for component in Path::new(text).components() {
            match component {
                Component::Normal(name) => path.push(name),
                Component::ParentDir => {
                    path.pop();
                }
                _ => {}
            }
        }
        if path.as_os_str().is_empty() {
            path.push(".");
        }
        Some(RootPath(path))
    }

    /// The path relative to the root.
    pub fn as_path(&self) -> &Path {
        &self.0
    }

    /// The part of this path below `other`, if it is below that.
    pub fn without(&self, other: &RootPath) -> Option<RootPath> {
        let rest = self.0.strip_prefix(&other.0).ok()?;
        Some(RootPath(if rest.as_os_str().is_empty() { ".".into() } else { rest.into() }))
    }

    /// Whether this is the root itself.
    pub fn is_root(&self) -> bool {
        self.0.as_os_str() == "."
    }

    /// Whether this is `other` or below it; both as written in a configuration.
    pub fn is_below(&self, other: &str) -> bool {
        self.0.starts_with(other.trim_start_matches('/'))
    }

    /// Whether this is `other`, as written in a configuration.
    pub fn is(&self, other: &str) -> bool {
        self.0 == Path::new(other.trim_start_matches('/'))
    }
}

impl fmt::Display for RootPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() { f.write_str("/") } else { write!(f, "/{}", self.0.display()) }
    }
}

#[cfg(test)]
mod tests {
    use super::RootPath;

    #[test]
    fn nothing_leads_above_the_root() {
        for (text, want) in [("/a/../../b//c/.", "/b/c"), ("../..", "/"), ("", "/"), ("x", "/x")] {
            assert_eq!(RootPath::new(text).expect("no NUL").to_string(), want);
        }
        assert_eq!(RootPath::new("/a\0b"), None);
    }

    #[test]
    fn a_path_without_its_beginning() {
        let path = |text| RootPath::new(text).expect("no NUL");
        let root = path("/srv/box/rootfs");
        assert_eq!(path("/srv/box/./rootfs//mnt/x").without(&root), Some(path("/mnt/x")));
        assert_eq!(path("/srv/box/rootfs").without(&root), Some(path("/")));
        assert_eq!(path("/srv/box/rootfs2/mnt").without(&root), None);
        assert_eq!(path("/mnt").without(&root), None);
    }

    #[test]
    fn names_that_begin_alike_are_not_below() {
        let path = RootPath::new("/devices/x").expect("no NUL");
        assert!(!path.is_below("/dev") && path.is_below("/devices"));
    }
}
