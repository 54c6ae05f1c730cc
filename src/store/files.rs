//! The files of a container in the state root: their names, their permitted owners, and their removal.

use std::os::fd::BorrowedFd;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::stat::FileStat;

use windlass_base::error::{Error, Kind, Result, WithContext};
use windlass_base::id::id_path;
use windlass_sys::{fd, tree};

/// Refuses a file or directory that belongs to a user other than the caller and root, or that others may write to.
pub(crate) fn check_owner(file: BorrowedFd<'_>, what: impl Fn() -> String) -> Result<FileStat> {
    let stat = fd::stat(file).with_context(|| format!("cannot look at {}", what()))?;
    let Some(wrong) = fd::why_untrusted(&stat) else { return Ok(stat) };
    let error = Error::new(Kind::PermissionDenied, format!("{} {wrong}", what()));
    Err(error
        .with_hint("what is in it decides which processes are killed and which hooks run: use a directory of your own"))
}

/// The extended attribute with a copy of the first line. If the content of the file is lost, `delete --force` learns
/// from it what to kill and remove.
pub(crate) const COPY: &str = "windlass.state";
/// The mode bit of a written state on a file system without extended attributes.
pub(crate) const MARK: u32 = 0o100;

/// Removes all files of a container in the state root. The state is removed last.
pub(crate) fn remove(root: BorrowedFd<'_>, id: &str, inode: u64) -> Result<()> {
    let cannot = |what: &str| format!("cannot remove {what} of {id:?}");
    fd::unlink_if_exists(root, Path::new(&start_socket(inode))).with_context(|| cannot("the start socket"))?;
    let directory = notify_directory(id);
    match fd::rmdir_if_exists(root, Path::new(&directory)) {
        // The directory has the socket of an unfinished start.
        Err(failed) if failed.errno == Errno::ENOTEMPTY => {
            tree::remove(root, &directory, tree::Files::Unlink).with_context(|| cannot("the notify socket"))?;
        }
        // The id is too long for such a directory, so there is none.
        Err(failed) if failed.errno == Errno::ENAMETOOLONG => {}
        other => other.with_context(|| cannot("the directory of the notify socket"))?,
    }
    fd::unlink_if_exists(root, id_path(id)).with_context(|| cannot("the state"))
}

/// The name of the socket on which init waits for `start`. It has the inode of the state, which is unique while the
/// state exists, and not the id, which may be too long for the address of a socket.
pub(crate) fn start_socket(inode: u64) -> String {
    format!("@start-{inode}")
}

/// The name of the directory of a container's notify socket. It cannot be an id, which has no `@`.
pub fn notify_directory(id: &str) -> String {
    format!("{id}@notify")
}

/// Whether the file has a name.
pub(crate) fn is_linked(file: BorrowedFd<'_>) -> Result<bool> {
    Ok(fd::stat(file).with_context(|| "cannot look at the container's state")?.st_nlink > 0)
}
