//! A listening socket in the loop, whose clients are our own user and root.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::Interest;
use crate::Poll;
use windlass_sys::{Result, socket};

/// How long clients wait for the next look where one could not be let in.
const PAUSE: Duration = Duration::from_millis(200);

/// How many are let in before the others have their turn.
const TURN: usize = 16;

/// The socket.
///
/// A client that cannot be let in, for want of descriptors or memory (accept(2): EMFILE, ENFILE, ENOBUFS, ENOMEM),
/// stays in the queue, and the socket stays readable: it is not watched for a while then, or the loop would turn
/// without a pause.
#[derive(Debug)]
pub(super) struct Listener {
    socket: OwnedFd,
    key: u64,
    again: Option<Instant>,
}

impl Listener {
    /// Nobody is let in before [`Listener::watch`].
    pub(super) fn new(socket: OwnedFd, key: u64) -> Listener {
        Listener { socket, key, again: None }
    }

    /// Watches for clients from now on.
    pub(super) fn watch(&self, poll: &Poll) -> Result<()> {
        poll.watch(&self.socket, self.key, Interest::Read)
    }

    /// The next clients, of which more may wait. One that is neither our own user nor root is closed, and its user
    /// given to `stranger`.
    pub(super) fn clients(&mut self, poll: &Poll, mut stranger: impl FnMut(Option<u32>)) -> Vec<OwnedFd> {
        let mut clients = Vec::new();
        for _ in 0..TURN {
            match socket::accept_now(self.socket.as_fd()) {
                Ok(None) => break,
                Ok(Some(client)) => {
                    let uid = socket::peer_uid(client.as_fd()).ok();
                    match uid.is_some_and(|uid| uid == 0 || uid == nix::unistd::geteuid().as_raw()) {
                        true => clients.push(client),
                        false => stranger(uid),
                    }
                }
                Err(_) => {
                    // If even that fails, the next turn tries again.
                    let muted = poll.change(&self.socket, self.key, Interest::Nothing);
                    self.again = muted.is_ok().then(|| Instant::now() + PAUSE);
                    break;
                }
            }
        }
        clients
    }

    /// When [`Listener::due`] has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.again
    }

    /// Watches again, if the pause is over.
    pub(super) fn due(&mut self, now: Instant, poll: &Poll) {
        if self.again.is_some_and(|again| again <= now) {
            let watched = poll.change(&self.socket, self.key, Interest::Read);
            self.again = watched.is_err().then(|| now + PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_cannot_be_let_in_is_not_looked_at_all_the_time() {
        // A socket that does not listen: accept(2) fails and goes on to fail.
        let (socket, _other) = socket::pair().expect("a pair");
        windlass_sys::stream::never_block(socket.as_fd()).expect("set");
        socket::send(_other.as_fd(), b"x", &[]).expect("it is readable");
        let poll = Poll::new().expect("epoll");
        let mut listener = Listener::new(socket, 7);
        listener.watch(&poll).expect("watched");
        let mut turns = 0;
        let end = Instant::now() + PAUSE * 2;
        while Instant::now() < end {
            let mut found = Vec::new();
            poll.wait(Some(listener.deadline().unwrap_or(end).min(end)), &mut found).expect("waited");
            if !found.is_empty() {
                assert!(listener.clients(&poll, |_| ()).is_empty());
            }
            listener.due(Instant::now(), &poll);
            turns += 1;
        }
        assert!((2..20).contains(&turns), "{turns}");
    }
}
