//! Exit pins: the kernel keeps the exit status of init until the container is deleted.
//!
//! A pidfd that is mounted on a file gives the exit status of its process after any process has reaped it, and without
//! a process or descriptor of ours (`PIDFD_GET_INFO`, Linux 6.15). The mounts are in a namespace of their own
//! ([`super::exit_namespace`]), where each has the name of its process.

use std::os::fd::BorrowedFd;

use windlass_base::error::{Result, WithContext};
use windlass_sys::process::{Exit, SingleThreaded};
use windlass_sys::{directory, fd, pidfd_mount};

use super::exit_namespace::{Visit, enter_or_make};
use super::state::InitProcess;

/// The pin of a container's init.
pub(crate) struct ExitPin {
    /// The process id and the start time, which no other process has, and [`suffix`].
    name: String,
}

impl ExitPin {
    /// The pin of `init`, which may exist or not. `root` is the state root of its container.
    pub(crate) fn of(root: BorrowedFd<'_>, id: &str, init: &InitProcess) -> ExitPin {
        ExitPin { name: format!("{}-{}{}", init.pid, init.start_time, suffix(root, id)) }
    }

    /// Makes the pin. This process is in another mount namespace afterwards, with another root.
    pub(crate) fn make(&self, pidfd: BorrowedFd<'_>, proof: &SingleThreaded) -> Result<()> {
        enter_or_make(proof)?;
        pidfd_mount::add(&self.name, pidfd).with_context(|| "cannot keep the exit status in the kernel")
    }

    /// Reads how the process ended. Returns `None` if it has not been reaped, or if there is no pin.
    pub(crate) fn read(&self) -> Result<Option<Exit>> {
        let Some(_visit) = Visit::begin()? else { return Ok(None) };
        pidfd_mount::exit(&self.name).with_context(|| "cannot read the exit status that the kernel keeps")
    }

    /// Removes the pin, if it exists.
    pub(crate) fn remove(&self) -> Result<()> {
        let Some(_visit) = Visit::begin()? else { return Ok(()) };
        pidfd_mount::remove(&self.name).with_context(cannot_remove)
    }
}

fn cannot_remove() -> &'static str {
    "cannot remove the exit status that the kernel keeps"
}

/// Removes the pins of a container whose record is lost.
pub(crate) fn remove_lost(root: BorrowedFd<'_>, id: &str) -> Result<()> {
    let suffix = suffix(root, id);
    let Some(_visit) = Visit::begin()? else { return Ok(()) };
    let names = directory::names(fd::CWD).with_context(cannot_remove)?;
    let mut lost = names.iter().filter_map(|name| name.to_str()).filter(|name| name.ends_with(&suffix));
    lost.try_for_each(pidfd_mount::remove).with_context(cannot_remove)
}

/// The end of the names of all pins of a container. Ids may be as long as names of files, so it is a hash: FNV-1a of
/// the state root and the id.
fn suffix(root: BorrowedFd<'_>, id: &str) -> String {
    let (device, inode) = fd::stat(root).map_or((0, 0), |stat| (stat.st_dev, stat.st_ino));
    let bytes = device.to_ne_bytes().into_iter().chain(inode.to_ne_bytes()).chain(id.bytes());
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    format!("-{hash:016x}")
}
