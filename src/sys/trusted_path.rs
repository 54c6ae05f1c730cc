//! Paths to directories that no other user has redirected by a link.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, ResolveFlag};

use windlass_base::abi::PROC_SUPER_MAGIC;

use super::{Called, Result, SyscallError, fd};

/// Opens a directory by its path. Fails with `EACCES` if a link in the path, or behind another link, belongs to another
/// user and is in a directory that everybody may write to. The kernel does the same for sticky directories, unless
/// fs.protected_symlinks is off (proc_sys_fs(5)).
///
/// A path without links to a directory that exists takes one call.
pub fn open(path: &Path) -> Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
    fd::openat2(fd::CWD, path, flags, 0, ResolveFlag::RESOLVE_NO_SYMLINKS).or_else(|_| {
        // The path has a link, or nothing exists there, or openat2(2) is not allowed here. The directory is opened
        // before the path is checked: if the checked path leads to the same directory, no other user's link led there.
        let opened = fd::open(path, flags);
        let changed = || {
            let call = format!("open({path:?}): the path changed while it was checked");
            Err(SyscallError { call: call.into(), errno: Errno::ESTALE })
        };
        match resolve(path, ForeignLinks::InWorldWritable)? {
            Resolved::Found(device, inode) => {
                let opened = opened?;
                let found = fd::stat(opened.as_fd())?;
                if (found.st_dev, found.st_ino) == (device, inode) { Ok(opened) } else { changed() }
            }
            Resolved::Missing if opened.is_ok() => changed(),
            Resolved::Missing => opened,
            Resolved::Refused { at, owner } => {
                let call = format!("open({path:?}) by way of {at:?} of user {owner}");
                Err(SyscallError { call: call.into(), errno: Errno::EACCES })
            }
        }
    })
}

/// Which entries of users other than the caller and root are refused in a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForeignLinks {
    /// Links, and directories, in a directory that everybody may write to, unless its owner made them. Directories
    /// count because one may have been a link a moment before.
    InWorldWritable,
    /// Links in any directory.
    Anywhere,
}

/// Where a path leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolved {
    /// To the file with this device and inode.
    Found(u64, u64),
    /// To nothing: a part of it is missing.
    Missing,
    /// Through an entry that is refused.
    Refused {
        /// The path of the entry, without links.
        at: PathBuf,
        /// The user to whom it belongs.
        owner: u32,
    },
}

/// Most links that are followed, as by the kernel (path_resolution(7)); with more it is `ELOOP`.
const LINKS: usize = 40;

/// Resolves a path as the kernel does, and checks each entry of it, also of the paths that links lead to.
pub fn resolve(path: &Path, refused: ForeignLinks) -> Result<Resolved> {
    let look = |path: &Path| path.symlink_metadata();
    let words = |path: &Path| -> Vec<_> { path.components().rev().map(|word| word.as_os_str().to_owned()).collect() };
    let user = nix::unistd::geteuid().as_raw();
    let mut left = words(path);
    let mut at = if path.is_absolute() { "/".into() } else { std::env::current_dir().called(|| "getcwd()".into())? };
    let (mut links, mut magic) = (0, false);
    while let Some(word) = left.pop() {
        magic = false;
        match word.as_encoded_bytes() {
            b"/" => at = "/".into(),
            b"." => {}
            b".." => drop(at.pop()),
            _ => {
                let next = at.join(&word);
                let found = match look(&next) {
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Resolved::Missing),
                    other => other.called(|| format!("lstat({next:?})"))?,
                };
                let foreign = ![user, 0].contains(&found.uid());
                let is_refused = match refused {
                    ForeignLinks::InWorldWritable if foreign => {
                        let above = at.metadata().called(|| format!("stat({at:?})"))?;
                        above.mode() & 0o002 != 0 && above.uid() != found.uid()
                    }
                    ForeignLinks::InWorldWritable => false,
                    ForeignLinks::Anywhere => foreign && found.is_symlink(),
                };
                if is_refused {
                    return Ok(Resolved::Refused { at: next, owner: found.uid() });
                }
                if !found.is_symlink() {
                    at = next;
                    continue;
                }
                links += 1;
                if links > LINKS {
                    return Err(SyscallError { call: format!("open({path:?})").into(), errno: Errno::ELOOP });
                }
                // The text of a magic link does not tell where it leads (proc_pid_fd(5)).
                magic = is_procfs(&at)?;
                match magic {
                    true => at = next,
                    false => left.extend(words(&next.read_link().called(|| format!("readlink({next:?})"))?)),
                }
            }
        }
    }
    let reached = if magic { at.metadata() } else { look(&at) };
    reached.called(|| format!("stat({at:?})")).map(|reached| Resolved::Found(reached.dev(), reached.ino()))
}

fn is_procfs(path: &Path) -> Result<bool> {
    let opened = fd::open(path, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
    Ok(fd::filesystem(opened.as_fd())? == PROC_SUPER_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, lchown, symlink};

    #[test]
    fn a_link_of_another_user_is_not_followed_where_everybody_may_write() {
        let base = std::env::temp_dir().join(format!("windlass-trusted-path-{}", std::process::id()));
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
            // Root's link leads through it.
            let behind = base.join("behind");
            symlink(Path::new("common/../common/link"), &behind).expect("a link");
            assert_eq!(open(&behind.join("state")).expect_err("behind one's own").errno, Errno::EACCES);
            assert_eq!(open(&behind.join("missing")).expect_err("nor to make one").errno, Errno::EACCES);
            std::fs::set_permissions(&common, PermissionsExt::from_mode(0o755)).expect("the mode");
            open(&state).expect("the directory's owner has allowed it");
            open(&behind.join("state")).expect("here as well");
            let found = resolve(&behind, ForeignLinks::Anywhere).expect("walked");
            assert!(matches!(found, Resolved::Refused { at, owner: 65534 } if at.ends_with("common/link")));
        }
        std::fs::remove_dir_all(base).expect("removed");
    }

    #[test]
    fn a_path_leads_where_the_kernel_goes() {
        let base = std::env::temp_dir().join(format!("windlass-resolve-{}", std::process::id()));
        std::fs::create_dir_all(base.join("a/b")).expect("a directory");
        symlink("b/..", base.join("a/up")).expect("a link");
        symlink("up/../a/up/b", base.join("a/far")).expect("a link");
        symlink("round", base.join("round")).expect("a link");
        let opened = fd::open(base.join("a"), OFlag::O_RDONLY | OFlag::O_DIRECTORY).expect("it is there");
        let by_number = fd::proc_path(opened.as_fd());
        let paths = ["a", "a/.", "a/up", "a/up/b", "a/far", "a/b/../far/", "a/far/.."].map(|path| base.join(path));
        for path in
            paths.into_iter().chain([by_number.clone(), by_number.join("b"), "/".into(), ".".into(), "../.".into()])
        {
            let found = path.metadata().expect("the kernel finds it");
            assert_eq!(
                resolve(&path, ForeignLinks::InWorldWritable),
                Ok(Resolved::Found(found.dev(), found.ino())),
                "{path:?}"
            );
            open(&path).expect("a directory");
        }
        assert_eq!(resolve(&base.join("a/far/c"), ForeignLinks::Anywhere), Ok(Resolved::Missing));
        assert_eq!(resolve(&base.join("round"), ForeignLinks::Anywhere).expect_err("a circle").errno, Errno::ELOOP);
        std::fs::remove_dir_all(base).expect("removed");
    }
}
