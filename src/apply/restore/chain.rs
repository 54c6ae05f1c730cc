//! The directories of the images: the dump's own, and those of its parent dumps, which hold the memory that has not
//! changed since.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use nix::fcntl::OFlag;

use windlass_base::error::{Error, Result, WithContext};
use windlass_sys::{directory, fd};

use super::claims::refuse;

/// The directory of the parent dump, or the link to it.
pub(crate) const PARENT: &str = "parent";
/// The socket of the process that fetches memory (`criu lazy-pages`).
pub(super) const LAZY_PAGES: &str = "lazy-pages.socket";
/// Most entries of a directory.
const ENTRIES: usize = 1 << 20;
/// Most directories.
const LONGEST: usize = 64;

/// Opens and checks the directories, the dump's own first. CRIU opens images by name, so each must be an ordinary file.
pub(crate) fn open(dir: BorrowedFd<'_>) -> Result<Vec<OwnedFd>> {
    let mut last = fd::duplicate(dir).with_context(|| "cannot keep the directory of the images")?;
    let mut all = Vec::new();
    while check(last.as_fd())? {
        if all.len() == LONGEST {
            return Err(too_long());
        }
        let before = before(last.as_fd())?;
        all.push(std::mem::replace(&mut last, before));
    }
    all.push(last);
    Ok(all)
}

/// Opens the directories without a check, as CRIU does for images that are trusted: a link may lead anywhere.
pub(crate) fn follow(dir: BorrowedFd<'_>) -> Result<Vec<OwnedFd>> {
    let context = || "cannot open the images of the dump before";
    let mut all = vec![fd::duplicate(dir).with_context(|| "cannot keep the directory of the images")?];
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
    while let Some(last) = all.last()
        && let Some(before) = fd::openat_if_exists(last.as_fd(), Path::new(PARENT), flags).with_context(context)?
    {
        if all.len() > LONGEST {
            return Err(too_long());
        }
        all.push(before);
    }
    Ok(all)
}

fn too_long() -> Error {
    refuse(PARENT, "leads through too many directories")
}

/// Checks the entries of a directory. Returns whether it names an earlier dump.
fn check(dir: BorrowedFd<'_>) -> Result<bool> {
    let names = directory::names(dir).with_context(|| "cannot read the directory of the images")?;
    if names.len() > ENTRIES {
        return Err(refuse("the directory", "has too many entries"));
    }
    let mut has_parent = false;
    for name in names {
        let shown = name.to_string_lossy();
        let stat = fd::stat_at(dir, &name).with_context(|| format!("cannot look at {shown} in the images"))?;
        match stat.st_mode & libc::S_IFMT {
            _ if shown == PARENT => has_parent = true,
            libc::S_IFREG if stat.st_nlink != 1 => return Err(refuse(&shown, "has another name")),
            // A user who may write to it could change it between this check and CRIU.
            libc::S_IFREG => fd::why_untrusted(&stat).map_or(Ok(()), |why| Err(refuse(&shown, &why)))?,
            // CRIU opens only a directory that `parent` names.
            libc::S_IFDIR => {}
            // Only CRIU connects to it, and for --lazy-pages.
            libc::S_IFSOCK if shown == LAZY_PAGES => {}
            _ => return Err(refuse(&shown, "is not an ordinary file")),
        }
    }
    Ok(has_parent)
}

/// Opens the directory of the parent dump. CRIU follows the link, so it must not lead far: only to a directory beside
/// the images or among them.
fn before(dir: BorrowedFd<'_>) -> Result<OwnedFd> {
    let context = || "cannot open the images of the dump before";
    let is_link = fd::stat_at(dir, PARENT).with_context(context)?.st_mode & libc::S_IFMT == libc::S_IFLNK;
    let path = if is_link { fd::readlinkat(dir, PARENT).with_context(context)?.into_vec() } else { PARENT.into() };
    let path = String::from_utf8_lossy(&path);
    let (beside, name) = path.strip_prefix("../").map_or((false, &*path), |name| (true, name));
    let name = name.trim_end_matches('/');
    if ["", ".", ".."].contains(&name) || name.contains('/') {
        return Err(refuse(PARENT, "is not a relative link to a directory beside or among the images"));
    }
    let mut trusted = Vec::new();
    if beside {
        let mut holder = fd::stat_at(dir, "..").with_context(context)?;
        // In a sticky directory, users can exchange only what they own.
        holder.st_mode &= if holder.st_mode & libc::S_ISVTX == 0 { !0 } else { !0o022 };
        trusted.push(holder);
    }
    let path = if beside { format!("../{name}") } else { name.into() };
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
    let before = fd::openat(dir, path, flags, 0).with_context(context)?;
    trusted.push(fd::stat(before.as_fd()).with_context(context)?);
    match trusted.iter().find_map(fd::why_untrusted) {
        Some(why) => Err(refuse("the directory of the dump before", &why)),
        None => Ok(before),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::PathBuf;

    use super::*;

    /// A directory of this test alone, with images and, beside them, those of a parent dump.
    fn directories(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("windlass-chain-{name}-{}", std::process::id()));
        for dir in ["images", "before", "images/inner"] {
            fs::create_dir_all(path.join(dir)).expect("made");
            fs::set_permissions(path.join(dir), fs::Permissions::from_mode(0o700)).expect("mode");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("mode");
        path
    }

    fn chain(path: &Path) -> std::result::Result<usize, String> {
        let dir = fd::open(path.join("images"), OFlag::O_RDONLY | OFlag::O_DIRECTORY).expect("open");
        open(dir.as_fd()).map(|all| all.len()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_dump_before_is_beside_or_among_the_images() {
        let path = directories("where");
        let parent = path.join("images/parent");
        assert_eq!(chain(&path), Ok(1));
        for link in ["../before", "../before/", "inner"] {
            let _ = fs::remove_file(&parent);
            symlink(link, &parent).expect("link");
            assert_eq!(chain(&path), Ok(2), "{link}");
        }
        symlink("../before", path.join("images/inner/parent")).expect("link");
        assert!(chain(&path).is_err(), "images/before is not there");
        for link in ["/", "..", ".", "../..", "../images/../before", "inner/x", "../inner/../before", "../none"] {
            fs::remove_file(&parent).expect("removed");
            symlink(link, &parent).expect("link");
            assert!(chain(&path).is_err(), "{link}");
        }
        fs::remove_dir_all(&path).expect("removed");
    }

    #[test]
    fn nobody_else_can_exchange_a_dump_before() {
        let path = directories("whose");
        symlink("../before", path.join("images/parent")).expect("link");
        for (holder, before, good) in [(0o1777, 0o700, true), (0o777, 0o700, false), (0o700, 0o720, false)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(holder)).expect("mode");
            fs::set_permissions(path.join("before"), fs::Permissions::from_mode(before)).expect("mode");
            assert_eq!(chain(&path).is_ok(), good, "{holder:o} {before:o}");
        }
        fs::remove_dir_all(&path).expect("removed");
    }

    #[test]
    fn nobody_else_can_change_an_image() {
        let path = directories("file");
        let image = path.join("images/pages-1.img");
        fs::write(&image, "").expect("written");
        for (mode, good) in [(0o600, true), (0o644, true), (0o620, false), (0o602, false)] {
            fs::set_permissions(&image, fs::Permissions::from_mode(mode)).expect("mode");
            assert_eq!(
                chain(&path).map_err(|error| error.contains("pages-1.img can be written")),
                match good {
                    true => Ok(1),
                    false => Err(true),
                }
            );
        }
        fs::set_permissions(&image, fs::Permissions::from_mode(0o600)).expect("mode");
        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::chown(&image, Some(1000), None).expect("owner");
            let error = chain(&path).expect_err("of another user");
            assert!(error.contains("pages-1.img belongs to user 1000"), "{error}");
        }
        fs::remove_dir_all(&path).expect("removed");
    }

    #[test]
    fn trusted_links_lead_anywhere_to_an_end() {
        let path = directories("trusted");
        let dir = fd::open(path.join("images"), OFlag::O_RDONLY | OFlag::O_DIRECTORY).expect("open");
        let follow = || super::follow(dir.as_fd()).map(|all| all.len()).map_err(|error| error.to_string());
        assert_eq!(follow(), Ok(1));
        symlink(path.join("before"), path.join("images/parent")).expect("link");
        assert_eq!(follow(), Ok(2));
        symlink(".", path.join("before/parent")).expect("link");
        assert!(follow().is_err_and(|error| error.contains("too many")));
        fs::remove_file(path.join("before/parent")).expect("removed");
        fs::write(path.join("before/parent"), "").expect("written");
        assert_eq!(follow(), Ok(2), "a file is no dump before");
        fs::remove_dir_all(&path).expect("removed");
    }

    #[test]
    fn what_a_dump_before_has_are_ordinary_files() {
        let path = directories("what");
        symlink("../before", path.join("images/parent")).expect("link");
        symlink("../../../etc/shadow", path.join("before/pages-1.img")).expect("link");
        let error = chain(&path).expect_err("a link");
        assert!(error.contains("pages-1.img is not an ordinary file"), "{error}");
        fs::remove_file(path.join("before/pages-1.img")).expect("removed");
        symlink("../images", path.join("before/parent")).expect("link");
        let error = chain(&path).expect_err("no end");
        assert!(error.contains("too many"), "{error}");
        fs::remove_dir_all(&path).expect("removed");
    }
}
