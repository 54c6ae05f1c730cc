//! The images as the processes of a user namespace may read them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::CloneFlags;

use windlass_base::error::{Result, WithContext};
use windlass_base::namespaces::Namespaces;
use windlass_plan::{Plan, map_text};
use windlass_sys::mount::{self, Attributes};
use windlass_sys::pipe;
use windlass_sys::process::{self, Child, Forked, SingleThreaded};
use windlass_sys::{descriptors, fd};

/// The directory of the images as the processes of a user namespace may read it, which restore themselves.
///
/// They begin as the host's root, before the ids are mapped, and then become the user of the namespace. So there is a
/// copy of the mount that nobody else sees, in which the images belong to that user, and their group is the host's
/// root, which may search the directory for as long as the restore takes.
pub struct SeenImages {
    /// The copy.
    pub copy: OwnedFd,
    /// The process that gives the directory its mode back, if that is changed meanwhile.
    guardian: Option<Guardian>,
}

/// A process that waits for the end of this one, however that comes, and then sets the mode of the directory as it was.
struct Guardian {
    /// It waits for the end of this pipe.
    held: Option<OwnedFd>,
    child: Child,
}

/// The group may search a directory.
const GROUP_SEARCH: u32 = 0o010;

const CONTEXT: &str = "cannot show the images to the user namespace";

impl SeenImages {
    pub fn new(plan: &Plan, images: BorrowedFd<'_>, proof: &SingleThreaded) -> Result<Option<SeenImages>> {
        if !plan.topology.new.contains(Namespaces::USER) {
            return Ok(None);
        }
        let context = || CONTEXT;
        let same = format!("0 0 {}\n", u32::MAX);
        let namespace =
            process::user_namespace(&map_text(&plan.topology.uid_mappings), &same, proof).with_context(context)?;
        let copy = mount::clone_tree(images, "", false).with_context(context)?;
        let set = mount::set_attributes(copy.as_fd(), Attributes::default(), false, Some(namespace.as_fd()));
        set.with_context(context)
            .map_err(|error| error.hint("the filesystem of the images must support idmapped mounts"))?;
        let mode = fd::stat(images).with_context(context)?.st_mode & 0o7777;
        let guardian = match mode & GROUP_SEARCH {
            0 => Some(Guardian::start(images, mode, proof)?),
            _ => None,
        };
        let seen = SeenImages {
            copy: fd::openat(copy.as_fd(), ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY, 0).with_context(context)?,
            guardian,
        };
        if seen.guardian.is_some() {
            fd::chmod(images, mode | GROUP_SEARCH).with_context(context)?;
        }
        Ok(Some(seen))
    }

    /// What must stay open until it is dropped.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let held = self.guardian.as_ref().and_then(|guardian| guardian.held.as_ref());
        [self.copy.as_fd()].into_iter().chain(held.map(AsFd::as_fd))
    }
}

impl Guardian {
    fn start(images: BorrowedFd<'_>, mode: u32, proof: &SingleThreaded) -> Result<Guardian> {
        let (end, held) = pipe::new().with_context(|| CONTEXT)?;
        match process::fork(CloneFlags::empty(), None, proof).with_context(|| CONTEXT)? {
            Forked::Parent(child) => Ok(Guardian { held: Some(held), child }),
            Forked::Child => {
                drop(held);
                // The log's descriptor goes as well.
                ::log::set_max_level(::log::LevelFilter::Off);
                descriptors::close_all_but(descriptors::first_not_preserved(0), &[images, end.as_fd()]);
                // The caller's signals are not for it.
                let _ = nix::unistd::setsid();
                while let Err(Errno::EINTR) = nix::unistd::read(&end, &mut [0]) {}
                process::exit_now(i32::from(fd::chmod(images, mode).is_err()))
            }
        }
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        self.held = None;
        // It may be the child of another process, or one that we are a copy of has the pipe open.
        if self.child.is_ours() {
            let _ = self.child.wait();
        }
    }
}
