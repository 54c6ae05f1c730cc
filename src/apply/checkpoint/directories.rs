//! The directories of a dump: that of the images, and that of the log.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use windlass_base::error::{Error, Kind, Origin, Result, WithContext};
use windlass_sys::fd;

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

/// Images hold the memory of processes, so only their owner may read them.
const MODE: u32 = 0o700;

impl Directories {
    /// Those of a dump, made where they are missing. `work`: none means that of the images.
    pub fn make(images: &Path, work: Option<&Path>) -> Result<Directories> {
        make(images, "--image-path")?;
        Directories::open(images, work)
    }

    /// Those of a restore. That of the log is made where it is missing.
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

    /// Checks that the images of the dump before, which `parent` names, are a directory.
    pub fn check_parent(&self, parent: &str) -> Result<()> {
        let refuse = |why: &str| {
            let origin = Origin::Flag("--parent-path".into());
            Err(Error::usage(why.to_string()).origin(origin))
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
        .map_err(|error| error.origin(Origin::Flag(flag.into())))
}

/// Opens a directory. One that others may write to is refused, since they could exchange what is in it.
fn open(path: &Path, flag: &'static str) -> Result<OwnedFd> {
    let origin = |error: Error| error.origin(Origin::Flag(flag.into()));
    let context = || format!("cannot open the directory {path:?}");
    let dir = fd::open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY).with_context(context).map_err(origin)?;
    let stat = fd::stat(dir.as_fd()).with_context(context).map_err(origin)?;
    match fd::distrust(&stat) {
        None => Ok(dir),
        Some(why) => {
            let error = Error::new(Kind::PermissionDenied, format!("the directory {path:?} {why}"));
            Err(origin(
                error.hint("images hold the memory of processes: use a directory that nobody else may write to"),
            ))
        }
    }
}
