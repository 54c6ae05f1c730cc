//! Names that the shim has made in directories of its caller, and removes at its end.

use std::os::fd::BorrowedFd;
use std::path::Path;

use nix::sys::stat::FileStat;

use windlass_sys::{Result, fd};

/// The file that a name had when it was made.
///
/// The name may have another file later: the exit file of a container has the name of its link if the caller uses one
/// directory for both. Only the shim's file is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CreatedName {
    pub(super) kind: u32,
    pub(super) device: u64,
    pub(super) inode: u64,
}

impl CreatedName {
    /// Inspects a name that was just made.
    pub(super) fn inspect(directory: BorrowedFd<'_>, name: impl AsRef<Path>) -> Result<CreatedName> {
        fd::stat_at(directory, name).map(|stat| CreatedName::of(&stat))
    }

    fn of(stat: &FileStat) -> CreatedName {
        CreatedName { kind: stat.st_mode & libc::S_IFMT, device: stat.st_dev, inode: stat.st_ino }
    }

    /// Removes the name, if it still has the same file.
    pub(super) fn remove(self, directory: BorrowedFd<'_>, name: impl AsRef<Path>) {
        if CreatedName::inspect(directory, &name) == Ok(self) {
            let _ = fd::unlinkat(directory, name);
        }
    }

    /// [`CreatedName::remove`] by a path.
    pub(super) fn remove_path(self, path: &Path) {
        self.remove(fd::CWD, path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_removed_only_while_it_is_ours() {
        let dir = std::env::temp_dir().join(format!("windlass-made-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let path = dir.join("name");
        std::os::unix::fs::symlink("/", &path).expect("a link");
        let made = CreatedName::inspect(fd::CWD, &path).expect("it is there");
        std::fs::write(dir.join("other"), "3").expect("written");
        std::fs::rename(dir.join("other"), &path).expect("put over it");
        made.remove_path(&path);
        assert_eq!(std::fs::read_to_string(&path).expect("it stays"), "3");
        CreatedName::inspect(fd::CWD, &path).expect("it is there").remove_path(&path);
        assert!(!path.exists());
        made.remove_path(&path);
        std::fs::remove_dir_all(dir).expect("removed");
    }
}
