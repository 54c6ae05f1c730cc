//! The pause of a listening socket after accept(2) has failed.
//!
//! If accept(2) fails for want of descriptors or memory (EMFILE, ENFILE, ENOBUFS, ENOMEM), the client stays in the
//! queue and the socket stays readable. The socket is then not watched for a while, so that the loop does not spin.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::poll::{Interest, Poll};
use windlass_sys::clock;

/// How long the socket is not watched.
pub(super) const PAUSE: Duration = Duration::from_millis(200);

/// Begins the pause of a socket that is watched under `key`: it ends at `again`.
pub(super) fn begin(again: &mut Option<Instant>, socket: &impl AsFd, key: u64, poll: &Poll) {
    // If this fails too, the next turn tries again.
    let muted = poll.change(socket, key, Interest::Nothing);
    *again = muted.is_ok().then(|| clock::now() + PAUSE);
}

/// Watches the socket again, if the pause is over.
pub(super) fn end(again: &mut Option<Instant>, socket: &impl AsFd, key: u64, now: Instant, poll: &Poll) {
    if again.is_some_and(|again| again <= now) {
        // The socket may never have been watched, because the first attempt failed.
        let watched = poll.change(socket, key, Interest::Read).or_else(|_| poll.watch(socket, key, Interest::Read));
        *again = watched.is_err().then(|| now + PAUSE);
    }
}
