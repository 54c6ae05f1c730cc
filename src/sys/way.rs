//! The way to a directory, which other users may have redirected.

use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, ResolveFlag};

use super::{Called, Result, SyscallError, fd};

/// Opens a directory by its path. Fails with `EACCES` if a link on the way belongs to another user and is in a
/// directory in which everybody may write. The kernel does the same for sticky directories, unless
/// fs.protected_symlinks is off (proc_sys_fs(5)).
///
/// A path without links to a directory that exists takes one call.
pub fn open(path: &Path) -> Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
    fd::openat2(fd::CWD, path, flags, 0, ResolveFlag::RESOLVE_NO_SYMLINKS).or_else(|_| {
        // The path has a link, or nothing exists there, or openat2(2) is not allowed here. The directory is opened
        // first: a link that is examined afterwards cannot have been another user's a moment before, unless it was
        // removed.
        let opened = fd::open(path, flags);
        match check(path)? {
            Way::Whole => opened,
            Way::Missing if opened.is_ok() => {
                let call = format!("open({path:?}), whose way was changed meanwhile");
                Err(SyscallError { call: call.into(), errno: Errno::ESTALE })
            }
            Way::Missing => opened,
        }
    })
}

/// Whether a part of a path was missing.
enum Way {
    Whole,
    Missing,
}

/// Refuses directories of others as well, since such a directory could have been a link a moment before.
fn check(path: &Path) -> Result<Way> {
    let user = nix::unistd::geteuid().as_raw();
    let mut parts: Vec<&Path> = path.ancestors().collect();
    parts.reverse();
    let mut above = (0, 0);
    for part in parts {
        let name = if part.as_os_str().is_empty() { Path::new(".") } else { part };
        let call = || format!("lstat({name:?})");
        let found = match name.symlink_metadata() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Way::Missing),
            found => found.called(call)?,
        };
        let (mode, owner) = above;
        if mode & 0o002 != 0 && ![user, 0, owner].contains(&found.uid()) {
            let call = format!("open({path:?}) by way of {name:?} of user {}", found.uid());
            return Err(SyscallError { call: call.into(), errno: Errno::EACCES });
        }
        let led = if found.is_symlink() { name.metadata().called(call)? } else { found };
        above = (led.mode(), led.uid());
    }
    Ok(Way::Whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, lchown, symlink};

    #[test]
    fn a_link_of_another_user_is_not_followed_where_everybody_may_write() {
        let base = std::env::temp_dir().join(format!("windlass-way-{}", std::process::id()));
        let (common, ours) = (base.join("common"), base.join("ours"));
        std::fs::create_dir_all(&common).expect("a directory");
        std::fs::create_dir_all(ours.join("state")).expect("a directory");
        let link = common.join("link");
        symlink(&ours, &link).expect("a link");
        let state = link.join("state");
        std::fs::set_permissions(&common, PermissionsExt::from_mode(0o777)).expect("the mode");
        open(&state).expect("one's own link");
        open(&ours.join("state")).expect("no link");
        assert_eq!(open(&link.join("missing")).expect_err("missing").errno, Errno::ENOENT);
        if nix::unistd::geteuid().is_root() {
            lchown(&link, Some(65534), Some(65534)).expect("the owner");
            assert_eq!(open(&link.join("missing")).expect_err("nor to make one").errno, Errno::EACCES);
            let refused = open(&state).expect_err("another's link");
            assert_eq!(refused.errno, Errno::EACCES);
            assert!(refused.call.ends_with("/common/link\" of user 65534"), "{}", refused.call);
            std::fs::set_permissions(&common, PermissionsExt::from_mode(0o755)).expect("the mode");
            open(&state).expect("the directory's owner has allowed it");
        }
        std::fs::remove_dir_all(base).expect("removed");
    }
}
