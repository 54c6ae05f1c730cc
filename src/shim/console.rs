//! The pseudoterminal that the runtime sends over the console socket.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use crate::sys::{Result, fd, socket, stream};

/// The socket on which a runtime is expected to send the master end.
#[derive(Debug)]
pub struct Console {
    listener: OwnedFd,
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
        Ok(Console { listener, directory, name, path })
    }

    /// For `--console-socket`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Becomes readable when the runtime connects.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// Takes the master end. `None`: nobody has connected, or who did has sent none.
    pub fn receive(&self) -> Result<Option<OwnedFd>> {
        let Some(peer) = socket::accept_now(self.listener.as_fd())? else { return Ok(None) };
        // The runtime connects and sends at once; half a second is for a machine under load.
        socket::give_up_after(peer.as_fd(), 500)?;
        let mut name = [0; 4096];
        let (_, master) = socket::receive(peer.as_fd(), &mut name)?;
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
