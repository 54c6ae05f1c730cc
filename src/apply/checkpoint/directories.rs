//! The directories of a dump: of the images and of the log.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::stat::FileStat;

use windlass_base::error::{Error, Kind, Origin, Result, WithContext};
use windlass_sys::trusted_path::{self, ForeignLinks, Resolved};
use windlass_sys::{directory, fd};

use crate::restore::chain::PARENT;

/// The two directories, opened once.
pub struct Directories {
    /// The images.
    pub images: OwnedFd,
    /// The path of the images, for messages.
    pub images_path: PathBuf,
    /// The log and the statistics.
    pub work: OwnedFd,
    /// The path of the log, for messages.
    pub work_path: PathBuf,
}

/// The images of a dump that is not complete yet: dropping this removes those that it has made. A restore would take
/// what a failed dump leaves for images of the next one to the same directory.
pub(super) struct Incomplete<'a> {
    images: BorrowedFd<'a>,
    before: Vec<OsString>,
}

impl Incomplete<'_> {
    /// Keeps the images.
    pub(super) fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Incomplete<'_> {
    fn drop(&mut self) {
        for name in directory::names(self.images).unwrap_or_default() {
            let is_image = Path::new(&name).extension() == Some(OsStr::new("img")) || name == PARENT;
            if is_image && !self.before.contains(&name) {
                let _ = fd::unlinkat(self.images, &name);
            }
        }
    }
}

/// Images hold the memory of processes, so only their owner may read them.
const MODE: u32 = 0o700;

impl Directories {
    /// Opens the directories of a dump, and makes those that are missing. Without `work`, the log goes to the images.
    pub fn make(images: &Path, work: Option<&Path>) -> Result<Directories> {
        make(images, "--image-path")?;
        Directories::open(images, work)
    }

    /// Opens the directories of a restore. The log's is made if it is missing.
    pub fn open(images: &Path, work: Option<&Path>) -> Result<Directories> {
        let opened = open(images, "--image-path")?;
        let work_path = work.unwrap_or(images);
        if work.is_some() {
            make(work_path, "--work-path")?;
        }
        Ok(Directories {
            images: opened,
            images_path: images.into(),
            work: open(work_path, "--work-path")?,
            work_path: work_path.into(),
        })
    }

    /// Begins a dump.
    pub(super) fn begin(&self) -> Result<Incomplete<'_>> {
        let images = self.images.as_fd();
        let before = directory::names(images).with_context(|| "cannot list the images")?;
        Ok(Incomplete { images, before })
    }

    /// Checks that the images of the parent dump, which `parent` names, are a directory.
    pub fn check_parent(&self, parent: &str) -> Result<()> {
        let refuse = |why: &str| {
            let origin = Origin::Flag("--parent-path".into());
            Err(Error::usage(why.to_string()).with_origin(origin))
        };
        if parent.starts_with('/') {
            return refuse("--parent-path must be relative");
        }
        match fd::openat(self.images.as_fd(), parent, OFlag::O_PATH | OFlag::O_DIRECTORY, 0) {
            Ok(_) => Ok(()),
            Err(failed) => {
                let why = windlass_base::error::describe(failed.errno);
                refuse(&format!("invalid --parent-path: {parent:?}: {why}"))
            }
        }
    }
}

fn make(path: &Path, flag: &'static str) -> Result<()> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(MODE).create(path);
    made.with_context(|| format!("cannot make the directory {path:?}"))
        .map_err(|error| error.with_origin(Origin::Flag(flag.into())))
}

/// Opens a directory. Refuses it if others may write to it, since they could exchange its entries.
fn open(path: &Path, flag: &'static str) -> Result<OwnedFd> {
    let origin = |error: Error| error.with_origin(Origin::Flag(flag.into()));
    let context = || format!("cannot open the directory {path:?}");
    let dir = fd::open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY).with_context(context).map_err(origin)?;
    let stat = fd::stat(dir.as_fd()).with_context(context).map_err(origin)?;
    check_links(path, &stat).map_err(origin)?;
    match fd::why_untrusted(&stat) {
        None => Ok(dir),
        Some(why) => {
            let error = Error::new(Kind::PermissionDenied, format!("the directory {path:?} {why}"));
            Err(origin(
                error.with_hint("images hold the memory of processes: use a directory that nobody else may write to"),
            ))
        }
    }
}

/// Refuses a link of another user on the way to a directory that was opened as `found`: they could have led us
/// anywhere.
fn check_links(path: &Path, found: &FileStat) -> Result<()> {
    let (at, why) = match trusted_path::resolve(path, ForeignLinks::Anywhere)
        .with_context(|| format!("cannot look at {path:?}"))?
    {
        Resolved::Found(device, inode) if (device, inode) == (found.st_dev, found.st_ino) => return Ok(()),
        Resolved::Refused { at, owner } => (at, format!("is a link that belongs to user {owner}")),
        _ => (path.into(), "was exchanged meanwhile".into()),
    };
    let msg = format!("the directory {path:?} is reached by {at:?}, which {why}");
    Err(Error::new(Kind::PermissionDenied, msg).with_hint("name the directory itself, not a link of another user"))
}
