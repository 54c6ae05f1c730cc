//! A listening socket that accepts clients of the shim's own user and root only.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::Interest;
use crate::Poll;
use windlass_sys::{Result, socket};

/// How long the socket is not watched after accept(2) has failed.
const PAUSE: Duration = Duration::from_millis(200);

/// How many clients are accepted in a turn of the loop.
const TURN: usize = 16;

/// The socket.
///
/// If accept(2) fails for want of descriptors or memory (EMFILE, ENFILE, ENOBUFS, ENOMEM), the client stays in the
/// queue and the socket stays readable. The socket is not watched for a while then, so that the loop does not turn
/// without a pause.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) socket: OwnedFd,
    pub(super) key: u64,
    pub(super) again: Option<Instant>,
}

impl Listener {
    /// Accepts no client before [`Listener::watch`].
    pub(super) fn new(socket: OwnedFd, key: u64) -> Listener {
        Listener { socket, key, again: None }
    }

    /// Watches for clients from now on.
    pub(super) fn watch(&self, poll: &Poll) -> Result<()> {
        poll.watch(&self.socket, self.key, Interest::Read)
    }

    /// Watches for clients as in the program before.
    pub(super) fn watch_again(&self, poll: &Poll) -> Result<()> {
        let interest = if self.again.is_some() { Interest::Nothing } else { Interest::Read };
        poll.watch(&self.socket, self.key, interest)
    }

    /// Accepts clients; more may be waiting. A client that is neither the own user nor root is closed, and its user id
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
                    // If this fails too, the next turn tries again.
                    let muted = poll.change(&self.socket, self.key, Interest::Nothing);
                    self.again = muted.is_ok().then(|| Instant::now() + PAUSE);
                    break;
                }
            }
        }
        clients
    }

    /// When [`Listener::due`] is to be called.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.again
    }

    /// Watches the socket again, if the pause is over.
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
        // accept(2) always fails on a socket that does not listen.
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
