//! Waiting for a change of `cgroup.events`.

use std::os::fd::AsFd;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags};
use nix::sys::uio::pread;

use super::directory::{Directory, if_there};
use windlass_sys::poll::{self, Deadline};
use windlass_sys::{Called, Result};

/// The content that `cgroup.events` would have for a removed cgroup.
const REMOVED: &str = "populated 0\nfrozen 0\n";

/// Waits until `holds` is true of the text of `cgroup.events`. Returns false if the time is over.
pub(super) fn wait_until(directory: &Directory, within: Duration, holds: &mut dyn FnMut(&str) -> bool) -> Result<bool> {
    let Some(fd) = if_there(directory.open_file("cgroup.events", OFlag::O_RDONLY))? else { return Ok(holds(REMOVED)) };
    let deadline = Deadline::after(within);
    let (mut buffer, mut over) = ([0; 512], false);
    loop {
        // A read arms the next wake-up, so it comes before each poll.
        let read = pread(&fd, &mut buffer, 0).called(|| format!("pread({:?})", directory.path_of("cgroup.events")));
        let Some(length) = if_there(read)? else { return Ok(holds(REMOVED)) };
        if holds(&String::from_utf8_lossy(&buffer[..length])) {
            return Ok(true);
        }
        if over {
            return Ok(false);
        }
        over = !poll::poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLPRI)], deadline)?;
    }
}
