//! A listening socket that accepts clients of the shim's own user and root only.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use crate::pause;
use crate::{Interest, Poll};
use windlass_sys::{Result, clock, socket};

/// How many clients are accepted in a turn of the loop.
const TURN: usize = 16;

/// The socket.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) socket: OwnedFd,
    pub(super) key: u64,
    pub(super) again: Option<Instant>,
}

impl Listener {
    /// A listener that accepts no client before [`Listener::watch`].
    pub(super) fn new(socket: OwnedFd, key: u64) -> Listener {
        Listener { socket, key, again: None }
    }

    /// Watches for clients from now on. If it cannot be watched, [`Listener::due`] tries again.
    pub(super) fn watch(&mut self, poll: &Poll) -> Result<()> {
        let watched = poll.watch(&self.socket, self.key, Interest::Read);
        self.again = watched.is_err().then(|| clock::now() + pause::PAUSE);
        watched
    }

    /// Watches for clients as the previous program did.
    pub(super) fn watch_again(&self, poll: &Poll) -> Result<()> {
        let interest = if self.again.is_some() { Interest::Nothing } else { Interest::Read };
        poll.watch(&self.socket, self.key, interest)
    }

    /// Accepts clients, at most `most`; more may be waiting. A client that is neither the own user nor root is closed,
    /// and its user id given to `stranger`.
    pub(super) fn clients(&mut self, poll: &Poll, most: usize, mut stranger: impl FnMut(Option<u32>)) -> Vec<OwnedFd> {
        let mut clients = Vec::new();
        for _ in 0..TURN.min(most) {
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
                    pause::begin(&mut self.again, &self.socket, self.key, poll);
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
        pause::end(&mut self.again, &self.socket, self.key, now, poll);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pause::PAUSE;

    #[test]
    fn a_socket_that_could_not_be_watched_is_watched_later() {
        let (socket, other) = socket::pair().expect("a pair");
        socket::send(other.as_fd(), b"x", &[]).expect("it is readable");
        let poll = Poll::new().expect("epoll");
        let mut listener = Listener::new(socket, 7);
        // The state after a watch that has failed.
        let begun = Instant::now();
        listener.again = Some(begun);
        listener.due(begun, &poll);
        assert_eq!(listener.deadline(), None);
        let mut found = Vec::new();
        poll.wait(Some(begun), &mut found).expect("waited");
        assert_eq!(found.first().map(|(key, _)| *key), Some(7));
        // If the socket cannot be watched now either, there is another attempt.
        assert!(listener.watch(&poll).is_err(), "it is watched already");
        assert!(listener.deadline().is_some_and(|again| again > begun));
    }

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
                assert!(listener.clients(&poll, usize::MAX, |_| ()).is_empty());
            }
            listener.due(Instant::now(), &poll);
            turns += 1;
        }
        assert!((2..20).contains(&turns), "{turns}");
    }
}
