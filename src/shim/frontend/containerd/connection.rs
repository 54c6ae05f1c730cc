//! One ttrpc connection of a client or a server: a socket in the loop, and its [`Frames`].

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;

use super::frames::{Closed, Frames, Waits};
use super::ttrpc::FrameKind;
use crate::{Interest, Poll};
use windlass_base::protobuf::Message;
use windlass_sys::{Result, socket};

/// Bytes read at once. The buffer is on the stack, so that an idle connection holds no memory.
const READ: usize = 4096;

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) key: u64,
    pub(super) socket: OwnedFd,
    pub(super) frames: Frames,
    pub(super) watched: Waits,
}

impl Connection {
    /// Watches a socket that does not block.
    pub(super) fn new(socket: OwnedFd, key: u64, poll: &Poll) -> Result<Connection> {
        poll.watch(&socket, key, interest(Waits::Idle))?;
        Ok(Connection { key, socket, frames: Frames::default(), watched: Waits::Idle })
    }

    /// Reads the bytes that have arrived, at most about one long frame. [`Connection::take`] then returns the whole
    /// frames.
    pub(super) fn read(&mut self) -> std::result::Result<(), Closed> {
        let mut buffer = [0; READ];
        loop {
            match socket::receive_now(self.socket.as_fd(), &mut buffer) {
                Ok(0) => return Err(Closed),
                // A read of fewer bytes than asked for has emptied the socket. The loop reports later bytes.
                Ok(n) if self.frames.received(&buffer[..n]) || n < READ => return Ok(()),
                Ok(_) => {}
                Err(Errno::EAGAIN | Errno::EINTR) => return Ok(()),
                Err(_) => return Err(Closed),
            }
        }
    }

    /// The next whole frame: its stream, its kind and its message.
    pub(super) fn take<M: Message>(&mut self) -> std::result::Result<Option<(u32, FrameKind, M)>, Closed> {
        self.frames.take()
    }

    /// Sends a message, or as much of it as the socket takes now.
    pub(super) fn send(
        &mut self,
        stream: u32,
        kind: FrameKind,
        message: &impl Message,
        poll: &Poll,
    ) -> std::result::Result<(), Closed> {
        self.frames.put(stream, kind, message);
        self.flush(poll)
    }

    /// Sends the rest.
    pub(super) fn flush(&mut self, poll: &Poll) -> std::result::Result<(), Closed> {
        let mut done = 0;
        while done < self.frames.unsent().len() {
            match socket::send_now(self.socket.as_fd(), &self.frames.unsent()[done..]) {
                Ok(n) => done += n,
                Err(Errno::EAGAIN | Errno::EINTR) => break,
                Err(_) => return Err(Closed),
            }
        }
        self.frames.sent(done);
        let waits = self.frames.waits();
        if waits != self.watched {
            poll.change(&self.socket, self.key, interest(waits)).map_err(|_| Closed)?;
            self.watched = waits;
        }
        Ok(())
    }

    /// Whether everything is sent.
    pub(super) fn is_flushed(&self) -> bool {
        self.frames.waits() == Waits::Idle
    }
}

pub(super) fn interest(waits: Waits) -> Interest {
    match waits {
        Waits::Idle => Interest::Read,
        Waits::Sending => Interest::Both,
        Waits::Full => Interest::Write,
    }
}

#[cfg(test)]
mod tests {
    use super::super::ttrpc::Request;
    use super::*;

    fn pair() -> (Connection, OwnedFd, Poll) {
        let poll = Poll::new().expect("epoll");
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a pair");
        ours.set_nonblocking(true).expect("set");
        (Connection::new(ours.into(), 7, &poll).expect("watched"), theirs.into(), poll)
    }

    #[test]
    fn the_end_of_the_other_side_closes_it() {
        let (mut connection, theirs, _poll) = pair();
        connection.read().expect("it is open");
        drop(theirs);
        assert_eq!(connection.read(), Err(Closed));
    }

    #[test]
    fn who_does_not_read_is_not_waited_for() {
        let (mut connection, theirs, poll) = pair();
        let request = Request { payload: vec![7; 1 << 20], ..Request::default() };
        for stream in 0..2 {
            connection.send(stream, FrameKind::Response, &request, &poll).expect("queued");
        }
        assert!(!connection.is_flushed());
        assert_eq!(connection.watched, Waits::Full);
        let mut buffer = vec![0; 1 << 16];
        while !connection.is_flushed() {
            socket::receive_now(theirs.as_fd(), &mut buffer).expect("received");
            connection.flush(&poll).expect("open");
        }
        assert_eq!(connection.watched, Waits::Idle);
    }
}
