//! The pseudoterminal that the runtime sends over the console socket.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::poll::{Interest, Poll};
use crate::sys::{Result, fd, socket, stream};

/// The socket on which a runtime is expected to send the master end.
#[derive(Debug)]
pub struct Console {
    listener: OwnedFd,
    /// The runtime's connection, on which nothing has come yet.
    peer: Option<OwnedFd>,
    directory: OwnedFd,
    name: String,
    path: PathBuf,
}

/// sockaddr_un holds this many bytes of a path, without the final NUL.
const PATH_MAX: usize = 107;

impl Console {
    /// Listens below `directory`, or below the temporary one where that path is too long for an
    /// address: runtimes connect to the path as they are given it.
    pub fn listen(directory: &Path, serial: u32) -> Result<Console> {
        let name = format!("console.{}.{serial}", std::process::id());
        let fits = directory.as_os_str().len() + 1 + name.len() <= PATH_MAX;
        let directory = if fits { directory.to_path_buf() } else { std::env::temp_dir() };
        let path = directory.join(&name);
        let directory = fd::open(&directory, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
        // Left behind by a shim of the same process id that was killed.
        let _ = fd::unlinkat(directory.as_fd(), &name);
        let listener = socket::listen_stream_at(directory.as_fd(), &name, 0o600)?;
        Ok(Console { listener, peer: None, directory, name, path })
    }

    /// For `--console-socket`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Becomes readable when the runtime connects.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// Takes the master end. `None`: nobody has connected, or who did has sent none yet. runc connects
    /// long before it makes the terminal: its connection is watched under `key` until then.
    pub fn receive(&mut self, poll: &Poll, key: u64) -> Result<Option<OwnedFd>> {
        let peer = match self.peer.take() {
            Some(peer) => peer,
            None => {
                let Some(peer) = socket::accept_now(self.listener.as_fd())? else { return Ok(None) };
                poll.watch(&peer, key, Interest::Read)?;
                peer
            }
        };
        let mut name = [0; 4096];
        let master = match socket::receive(peer.as_fd(), &mut name) {
            Err(failed) if failed.errno == Errno::EAGAIN => {
                self.peer = Some(peer);
                return Ok(None);
            }
            received => received?.1,
        };
        if let Some(master) = &master {
            stream::never_block(master.as_fd())?;
            stream::set_onlcr(master.as_fd())?;
        }
        Ok(master)
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = fd::unlinkat(self.directory.as_fd(), &self.name);
    }
}
