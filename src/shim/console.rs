//! The pseudoterminal that the runtime sends over the console socket.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::pause;
use super::poll::{Interest, Poll};
use windlass_sys::terminal;
use windlass_sys::{Called, Result, fd, socket, stream};

/// The socket on which a runtime is expected to send the master end.
#[derive(Debug)]
pub(crate) struct Console {
    pub(super) listener: OwnedFd,
    /// The connection of the runtime, which has sent nothing yet.
    pub(super) peer: Option<OwnedFd>,
    pub(super) directory: OwnedFd,
    pub(super) name: String,
    pub(super) path: PathBuf,
    /// The directory of the socket, if it was made for it.
    pub(super) private: Option<PathBuf>,
    /// When the socket is watched again after accept(2) has failed.
    pub(super) again: Option<Instant>,
}

/// The longest path in a sockaddr_un (unix(7)), in bytes, without the final NUL.
const PATH_MAX: usize = 107;

impl Console {
    /// Listens in `directory`. If the path is too long for an address, the socket is in a directory of its own in
    /// the temporary directory, because runtimes connect to the path as it is.
    pub(crate) fn listen(directory: &Path, serial: u32) -> Result<Console> {
        let name = format!("console.{}.{serial}", std::process::id());
        let fits = |directory: &Path| directory.as_os_str().len() + 1 + name.len() <= PATH_MAX;
        // Other users write to the temporary directory too, and could make a file whose name they can guess.
        let private = if fits(directory) { None } else { Some(private_directory(fits)?) };
        let directory = private.as_deref().unwrap_or(directory);
        let path = directory.join(&name);
        let made = fd::open(directory, OFlag::O_RDONLY | OFlag::O_DIRECTORY).and_then(|directory| {
            // A killed shim with the same process id may have left a socket behind.
            let _ = fd::unlinkat(directory.as_fd(), &name);
            let listener = socket::listen_stream_at(directory.as_fd(), &name, 0o600)?;
            Ok((directory, listener))
        });
        match made {
            Ok((directory, listener)) => {
                Ok(Console { listener, peer: None, directory, name, path, private, again: None })
            }
            Err(failed) => {
                private.into_iter().for_each(|private| drop(std::fs::remove_dir(private)));
                Err(failed)
            }
        }
    }

    /// The path for `--console-socket`.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Becomes readable when the runtime connects.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// Receives the master end. `None`: the runtime has not connected, or has not sent it yet. runc connects long
    /// before it makes the terminal, so its connection is watched under `key` until then.
    pub(crate) fn receive(&mut self, poll: &Poll, key: u64) -> Result<Option<OwnedFd>> {
        let peer = match self.peer.take() {
            Some(peer) => peer,
            None => {
                let accepted = socket::accept_now(self.listener.as_fd());
                let accepted = accepted.inspect_err(|_| pause::begin(&mut self.again, &self.listener, key, poll));
                let Some(peer) = accepted? else { return Ok(None) };
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
            terminal::set_onlcr(master.as_fd())?;
        }
        Ok(master)
    }

    /// When [`Console::due`] is to be called.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.again
    }

    /// Watches the socket again under `key`, if the pause after a failed accept(2) is over.
    pub(super) fn due(&mut self, now: Instant, poll: &Poll, key: u64) {
        pause::end(&mut self.again, &self.listener, key, now, poll);
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = fd::unlinkat(self.directory.as_fd(), &self.name);
        if let Some(private) = &self.private {
            let _ = std::fs::remove_dir(private);
        }
    }
}

/// A new directory of mode 0700 with a name that nobody can guess, in `TMPDIR`, or in `/tmp` if the path of that is
/// too long.
fn private_directory(fits: impl Fn(&Path) -> bool) -> Result<PathBuf> {
    let template = |parent: &Path| parent.join("windlass-console.XXXXXX");
    let template = Some(template(&std::env::temp_dir())).filter(|path| fits(path)).unwrap_or(template("/tmp".as_ref()));
    nix::unistd::mkdtemp(&template).called(|| format!("mkdtemp({template:?})"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::pause::PAUSE;

    #[test]
    fn a_long_path_is_replaced_by_a_directory_of_our_own() {
        let long = std::env::temp_dir().join("x".repeat(120));
        let console = Console::listen(&long, 7).expect("a socket");
        let parent = console.path().parent().expect("a directory").to_path_buf();
        let metadata = std::fs::metadata(&parent).expect("it is there");
        assert_eq!(metadata.mode() & 0o7777, 0o700);
        assert_ne!(parent, std::env::temp_dir());
        assert!(console.path().as_os_str().len() <= PATH_MAX);
        socket::connect(console.path()).expect("it listens");
        drop(console);
        assert!(!parent.exists());
    }

    #[test]
    fn a_runtime_that_cannot_be_let_in_does_not_keep_the_loop_turning() {
        let mut console = Console::listen(&std::env::temp_dir(), 8).expect("a socket");
        // accept(2) always fails on a socket that does not listen.
        let (socket, other) = socket::pair().expect("a pair");
        stream::never_block(socket.as_fd()).expect("set");
        socket::send(other.as_fd(), b"x", &[]).expect("it is readable");
        let listener = std::mem::replace(&mut console.listener, socket);
        let poll = Poll::new().expect("epoll");
        poll.watch(console.fd(), 7, Interest::Read).expect("watched");
        let mut turns = 0;
        let end = Instant::now() + PAUSE * 2;
        while Instant::now() < end {
            let mut found = Vec::new();
            poll.wait(Some(console.deadline().unwrap_or(end).min(end)), &mut found).expect("waited");
            if !found.is_empty() {
                assert!(console.receive(&poll, 7).is_err());
            }
            console.due(Instant::now(), &poll, 7);
            turns += 1;
        }
        assert!((2..20).contains(&turns), "{turns}");
        drop(listener);
    }
}
