//! Idmapped root filesystems, whose files belong to the users of a user namespace. containerd 2 asks for them with the
//! options `uidmap=` and `gidmap=`, for pods with a user namespace. Otherwise it would have to copy the image.
//!
//! A bind mount is idmapped itself (mount_setattr(2), Linux 5.12). For an overlay the lower directories are idmapped,
//! and the upper one is not (Linux 5.19). A child makes the mount in its own mount namespace: there an idmapped copy
//! covers each lower directory, and the overlay uses the copies. The host gets only the result.

use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::OFlag;
use nix::mount::MsFlags;
use nix::sched::CloneFlags;

use super::error::Error;
use windlass_sys::mount::Attributes;
use windlass_sys::process::{self, Forked, SingleThreaded};
use windlass_sys::{Result, fd, mount, socket};

/// Longest error message of the child, in bytes.
const LONGEST: usize = 1024;

/// The id mappings, as in user_namespaces(7).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ids {
    /// `uid_map`.
    pub users: String,
    /// `gid_map`.
    pub groups: String,
}

/// Parses the value of an option: ranges `inside:outside:count`, separated by commas.
pub(super) fn map(value: &str) -> Option<String> {
    let line = |range: &str| {
        let numbers: Option<Vec<u32>> = range.split(':').map(|number| number.parse().ok()).collect();
        match numbers?.as_slice() {
            [inside, outside, count] => Some(format!("{inside} {outside} {count}\n")),
            _ => None,
        }
    };
    value.split(',').map(line).collect()
}

/// Makes a detached, idmapped mount. `mount_it` mounts it on the directory that `target` opens. `lower` are the lower
/// directories if it is an overlay.
pub(super) fn make(
    ids: &Ids,
    lower: Option<&str>,
    target: impl Fn() -> Result<OwnedFd>,
    mount_it: impl FnOnce() -> Result<()>,
) -> std::result::Result<OwnedFd, Error> {
    let proof = SingleThreaded::check()?;
    let users = process::user_namespace(&ids.users, &ids.groups, &proof)?;
    let (ours, theirs) = socket::pair()?;
    match process::fork(CloneFlags::CLONE_NEWNS, None, &proof)? {
        Forked::Child => {
            drop(ours);
            let mapped = |copy: &OwnedFd, below: bool| {
                mount::set_attributes(copy.as_fd(), Attributes::default(), below, Some(users.as_fd()))
            };
            let made = || -> Result<OwnedFd> {
                let root = fd::open("/", OFlag::O_PATH | OFlag::O_DIRECTORY)?;
                mount::mount_old("", root.as_fd(), "", MsFlags::MS_REC | MsFlags::MS_PRIVATE, "")?;
                for path in lower.into_iter().flat_map(|lower| lower.split(':')).filter(|path| !path.is_empty()) {
                    let copy = mount::clone_tree(fd::CWD, path, false)?;
                    mapped(&copy, false)?;
                    mount::attach_over(copy.as_fd(), path)?;
                }
                mount_it()?;
                // Recursive, because a recursive bind mount has other mounts below it.
                let copy = mount::clone_tree(target()?.as_fd(), "", true)?;
                if lower.is_none() {
                    mapped(&copy, true)?;
                }
                Ok(copy)
            };
            let sent = match made() {
                Ok(copy) => socket::send(theirs.as_fd(), b"made", &[copy.as_fd()]),
                Err(failed) => {
                    let text = failed.to_string();
                    socket::send(theirs.as_fd(), &text.as_bytes()[..text.len().min(LONGEST)], &[])
                }
            };
            process::exit_now(u8::from(sent.is_err()).into())
        }
        Forked::Parent(child) => {
            drop(theirs);
            let mut text = [0; LONGEST];
            let received = socket::receive(ours.as_fd(), &mut text);
            child.wait()?;
            match received? {
                (_, Some(copy)) => Ok(copy),
                (0, None) => Err(Error::Child("the child that was to make it has died".into())),
                (length, None) => Err(Error::Child(String::from_utf8_lossy(&text[..length]).into_owned())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_three_numbers() {
        assert_eq!(map("0:300000:65536").as_deref(), Some("0 300000 65536\n"));
        assert_eq!(map("0:1000:1,1:100000:9").as_deref(), Some("0 1000 1\n1 100000 9\n"));
        for wrong in ["", "0:1", "0:1:2:3", "0:1:x", "0:1:2,", "0:-1:2"] {
            assert_eq!(map(wrong), None, "{wrong}");
        }
    }
}
