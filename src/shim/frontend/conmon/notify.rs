//! Relays the container's sd_notify(3) messages to the host's service manager.
//!
//! The container has a socket of its own, `notify/notify.sock` in the bundle. Only messages about its own state are
//! relayed, and no process ids or descriptors.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::fcntl::OFlag;

use windlass_sys::{Result, fd, socket};

/// Longest message in bytes.
const LONGEST: usize = 4096;

/// How many messages are relayed in a turn of the loop.
const BATCH: usize = 64;

/// The relayed lines: these exactly, and those with these prefixes.
const WHOLE: [&[u8]; 5] = [b"READY=1", b"RELOADING=1", b"STOPPING=1", b"WATCHDOG=1", b"WATCHDOG=trigger"];
const BEGINNINGS: [&[u8]; 4] = [b"STATUS=", b"ERRNO=", b"BUSERROR=", b"MONOTONIC_USEC="];

/// The container's socket, and the socket to the service manager.
#[derive(Debug)]
pub(super) struct NotifyRelay {
    pub(super) inside: OwnedFd,
    pub(super) sender: OwnedFd,
    pub(super) manager: String,
}

impl NotifyRelay {
    /// Opens the socket in the bundle. Messages are relayed to the socket `manager`.
    pub(super) fn open(bundle: &Path, manager: &str) -> Result<NotifyRelay> {
        let bundle = fd::open(bundle, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
        // The caller may have made the directory, as the source of a mount.
        let _ = fd::mkdirat(bundle.as_fd(), "notify", 0o700);
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
        let directory = fd::openat(bundle.as_fd(), "notify", flags, 0)?;
        let inside = socket::bind_datagram_at(directory.as_fd(), "notify.sock")?;
        Ok(NotifyRelay { inside, sender: socket::datagram()?, manager: manager.into() })
    }

    /// Relays the messages that have arrived.
    pub(super) fn relay(&self) {
        let mut buffer = [0; LONGEST];
        for _ in 0..BATCH {
            let Ok(Some(length)) = socket::receive_datagram(self.inside.as_fd(), &mut buffer) else { return };
            // A message that is too long is dropped.
            let Some(message) = buffer.get(..length) else { continue };
            let relayed = filter(message);
            if !relayed.is_empty() {
                // If the service manager is gone or does not read, the message is lost.
                let _ = socket::send_datagram_to(self.sender.as_fd(), &self.manager, &relayed, None);
            }
        }
    }
}

fn filter(message: &[u8]) -> Vec<u8> {
    let may = |line: &&[u8]| WHOLE.contains(line) || BEGINNINGS.iter().any(|beginning| line.starts_with(beginning));
    let mut relayed = message.split(|&byte| byte == b'\n').filter(may).collect::<Vec<_>>().join(&b'\n');
    if !relayed.is_empty() {
        relayed.push(b'\n');
    }
    relayed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_speaks_for_itself_only() {
        let message = b"READY=1\nMAINPID=1\nSTATUS=up and running\nREADY=10\nFDSTORE=1\nWATCHDOG=trigger\nWATCHDOG_USEC=1\nERRNO=2";
        assert_eq!(filter(message), b"READY=1\nSTATUS=up and running\nWATCHDOG=trigger\nERRNO=2\n");
        assert_eq!(filter(b"MAINPID=1"), b"");
    }
}
