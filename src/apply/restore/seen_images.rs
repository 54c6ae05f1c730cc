//! The images in a form that the processes of a user namespace may read: they restore themselves.
//!
//! They begin as the host's root, whose id the namespace does not map, and read the offsets of the clocks. Then they
//! become the user of the namespace, and read the rest. Only the host's root may search the directory of the images. So
//! CRIU gets another one in its own mount namespace, with a link to each image in an idmapped copy of the mount, in
//! which the images belong to that user. The directory itself is not changed.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::fcntl::OFlag;

use windlass_base::error::{Result, WithContext};
use windlass_base::namespaces::Namespaces;
use windlass_plan::{Plan, map_text};
use windlass_sys::mount::{self, Attributes};
use windlass_sys::process::{self, SingleThreaded};
use windlass_sys::{directory, fd};

use super::chain::{self, PARENT};
use super::claims::{bounded, refuse};

const CONTEXT: &str = "cannot show the images to the user namespace";
/// The prefix of the images with the offsets of the clocks, one for each time namespace.
const CLOCKS: &str = "timens-";
/// Most such images in a directory. CRIU writes one.
const MOST_CLOCKS: usize = 16;
/// Most bytes of such an image.
const CLOCKS_SIZE: usize = 4096;

/// Unattached copies of the mounts of the images and of the parent dumps; none without a user namespace. Images that
/// are not trusted are checked first.
pub(crate) fn copies(
    plan: &Plan,
    images: BorrowedFd<'_>,
    trusted: bool,
    proof: &SingleThreaded,
) -> Result<Vec<OwnedFd>> {
    if !plan.topology.new.contains(Namespaces::USER) {
        return Ok(Vec::new());
    }
    let chain = if trusted { chain::follow(images)? } else { chain::open(images)? };
    let context = || CONTEXT;
    let same = format!("0 0 {}\n", u32::MAX);
    let namespace =
        process::user_namespace(&map_text(&plan.topology.uid_mappings), &same, proof).with_context(context)?;
    let shown = |dir: &OwnedFd| {
        let copy = mount::clone_tree(dir.as_fd(), "", false).with_context(context)?;
        let set = mount::set_attributes(copy.as_fd(), Attributes::default(), false, Some(namespace.as_fd()));
        set.with_context(context)
            .map_err(|error| error.with_hint("the filesystem of the images must support idmapped mounts"))?;
        Ok(copy)
    };
    chain.iter().map(shown).collect()
}

/// Makes the directories in `place`, which belongs to this mount namespace alone. Returns the first, for CRIU.
pub(crate) fn show(place: &Path, copies: &[OwnedFd]) -> Result<OwnedFd> {
    let context = || CONTEXT;
    let place = fd::open(place, OFlag::O_RDONLY | OFlag::O_DIRECTORY).with_context(context)?;
    let place = place.as_fd();
    for (level, copy) in copies.iter().enumerate() {
        let (files, links) = (format!("files{level}"), links(level));
        for (name, mode) in [(&files, 0o700), (&links, 0o755)] {
            fd::mkdirat(place, name, mode).and_then(|()| fd::chmod_at(place, name, mode)).with_context(context)?;
        }
        mount::attach_at(copy.as_fd(), place, &files).with_context(context)?;
        let links = open(place, &links)?;
        let from = open(place, &files)?;
        let mut clocks = 0;
        for name in directory::names(from.as_fd()).with_context(context)? {
            let name = name.to_string_lossy();
            if name == PARENT {
                let next = format!("../{}", self::links(level + 1));
                fd::symlinkat(&next, links.as_fd(), PARENT).with_context(context)?;
            } else if name.starts_with(CLOCKS) {
                clocks += 1;
                if clocks > MOST_CLOCKS {
                    return Err(refuse(&name, "is one of too many with offsets of clocks"));
                }
                let text = bounded(from.as_fd(), &name, CLOCKS_SIZE)?.unwrap_or_default();
                let file = fd::make_new(links.as_fd(), &*name, 0o600).with_context(context)?;
                fd::chmod(file.as_fd(), 0o644)
                    .and_then(|()| fd::write_once(file.as_fd(), &text))
                    .with_context(context)?;
            } else {
                fd::symlinkat(&format!("../{files}/{name}"), links.as_fd(), &*name).with_context(context)?;
            }
        }
    }
    open(place, &links(0))
}

/// The name of the directory of links.
fn links(level: usize) -> String {
    format!("images{level}")
}

fn open(dir: BorrowedFd<'_>, name: &str) -> Result<OwnedFd> {
    fd::openat(dir, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY, 0).with_context(|| CONTEXT)
}
