//! The images as the processes of a user namespace may read them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::OFlag;

use windlass_base::error::{Result, WithContext};
use windlass_base::namespaces::Namespaces;
use windlass_plan::{Plan, map_text};
use windlass_sys::fd;
use windlass_sys::mount::{self, Attributes};
use windlass_sys::process::{self, SingleThreaded};

/// The directory of the images as the processes of a user namespace may read it, which restore themselves.
///
/// They begin as the host's root, before the ids are mapped, and then become the user of the namespace. So there is a
/// copy of the mount that nobody else sees, in which the images belong to that user, and their group is the host's
/// root, which may search the directory for as long as the restore takes.
pub struct SeenImages {
    /// The copy.
    pub copy: OwnedFd,
    /// The directory on the host and its mode, if that is changed meanwhile.
    changed: Option<(OwnedFd, u32)>,
}

/// The group may search a directory.
const GROUP_SEARCH: u32 = 0o010;

impl SeenImages {
    pub fn new(plan: &Plan, images: BorrowedFd<'_>, proof: &SingleThreaded) -> Result<Option<SeenImages>> {
        if !plan.topology.new.contains(Namespaces::USER) {
            return Ok(None);
        }
        let context = || "cannot show the images to the user namespace";
        let same = format!("0 0 {}\n", u32::MAX);
        let namespace =
            process::user_namespace(&map_text(&plan.topology.uid_mappings), &same, proof).with_context(context)?;
        let copy = mount::clone_tree(images, "", false).with_context(context)?;
        let set = mount::set_attributes(copy.as_fd(), Attributes::default(), false, Some(namespace.as_fd()));
        set.with_context(context)
            .map_err(|error| error.hint("the filesystem of the images must support idmapped mounts"))?;
        let mode = fd::stat(images).with_context(context)?.st_mode & 0o7777;
        let changed = match mode & GROUP_SEARCH {
            0 => Some((fd::duplicate(images).with_context(context)?, mode)),
            _ => None,
        };
        let seen = SeenImages {
            copy: fd::openat(copy.as_fd(), ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY, 0).with_context(context)?,
            changed,
        };
        if let Some((images, mode)) = &seen.changed {
            fd::chmod(images.as_fd(), mode | GROUP_SEARCH).with_context(context)?;
        }
        Ok(Some(seen))
    }

    /// What must stay open until it is dropped.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [self.copy.as_fd()].into_iter().chain(self.changed.iter().map(|(images, _)| images.as_fd()))
    }
}

impl Drop for SeenImages {
    fn drop(&mut self) {
        if let Some((images, mode)) = &self.changed {
            let _ = fd::chmod(images.as_fd(), *mode);
        }
    }
}
