//! One ttrpc connection, from either side: bytes in and out, frames between.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;

use super::ttrpc::{self, HEAD, Kind, LONGEST};
use super::wire::Message;
use crate::Interest;
use crate::Poll;
use windlass_sys::{Result, socket};

/// With so many bytes unsent nothing more is read: who does not take answers gets no more.
const FULL: usize = 1 << 20;

/// Bytes read at once. From the stack, so that an idle connection holds no memory.
const READ: usize = 4096;

/// A connection.
#[derive(Debug)]
pub struct Connection {
    key: u64,
    socket: OwnedFd,
    unread: Vec<u8>,
    unsent: Vec<u8>,
    watched: Interest,
}

/// The connection is of no use any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed;

impl Connection {
    /// Watches a socket that never blocks.
    pub fn new(socket: OwnedFd, key: u64, poll: &Poll) -> Result<Connection> {
        poll.watch(&socket, key, Interest::Read)?;
        Ok(Connection { key, socket, unread: Vec::new(), unsent: Vec::new(), watched: Interest::Read })
    }

    /// Reads once; whole frames are then there for [`Connection::take`].
    pub fn read(&mut self) -> std::result::Result<(), Closed> {
        let mut buffer = [0; READ];
        loop {
            match socket::receive_now(self.socket.as_fd(), &mut buffer) {
                Ok(0) => return Err(Closed),
                Ok(n) => self.unread.extend_from_slice(&buffer[..n]),
                Err(Errno::EAGAIN | Errno::EINTR) => return Ok(()),
                Err(_) => return Err(Closed),
            }
            // One frame's worth at a time; the others have their turn meanwhile.
            if self.unread.len() >= HEAD + LONGEST {
                return Ok(());
            }
        }
    }

    /// The next whole frame: its stream, its kind and its message.
    pub fn take<M: Message>(&mut self) -> std::result::Result<Option<(u32, Kind, M)>, Closed> {
        let Some((frame, length)) = ttrpc::next_frame(&self.unread).map_err(|_| Closed)? else {
            if self.unread.is_empty() {
                self.unread = Vec::new();
            }
            return Ok(None);
        };
        let taken = (frame.stream, frame.kind, M::decode(frame.body).map_err(|_| Closed)?);
        self.unread.drain(..length);
        Ok(Some(taken))
    }

    /// Sends a message, or as much of it as the socket takes now.
    pub fn send(
        &mut self,
        stream: u32,
        kind: Kind,
        message: &impl Message,
        poll: &Poll,
    ) -> std::result::Result<(), Closed> {
        ttrpc::put_frame(&mut self.unsent, stream, kind, message);
        self.flush(poll)
    }

    /// Sends what is left.
    pub fn flush(&mut self, poll: &Poll) -> std::result::Result<(), Closed> {
        let mut done = 0;
        while done < self.unsent.len() {
            match socket::send_now(self.socket.as_fd(), &self.unsent[done..]) {
                Ok(n) => done += n,
                Err(Errno::EAGAIN | Errno::EINTR) => break,
                Err(_) => return Err(Closed),
            }
        }
        self.unsent.drain(..done);
        if self.unsent.is_empty() {
            self.unsent = Vec::new();
        }
        let wanted = match self.unsent.len() {
            0 => Interest::Read,
            n if n < FULL => Interest::Both,
            _ => Interest::Write,
        };
        if wanted != self.watched {
            poll.change(&self.socket, self.key, wanted).map_err(|_| Closed)?;
            self.watched = wanted;
        }
        Ok(())
    }

    /// Whether all is sent.
    pub fn is_flushed(&self) -> bool {
        self.unsent.is_empty()
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
    fn frames_come_out_however_they_are_cut() {
        let (mut connection, theirs, _poll) = pair();
        let request = Request { service: "s".into(), method: "m".into(), ..Request::default() };
        let mut bytes = Vec::new();
        ttrpc::put_frame(&mut bytes, 1, Kind::Request, &request);
        ttrpc::put_frame(&mut bytes, 3, Kind::Request, &request);
        let mut taken = Vec::new();
        for byte in bytes {
            socket::send_now(theirs.as_fd(), &[byte]).expect("sent");
            connection.read().expect("open");
            taken.extend(connection.take::<Request>().expect("a frame"));
        }
        assert_eq!(taken, [(1, Kind::Request, request.clone()), (3, Kind::Request, request)]);
        drop(theirs);
        assert_eq!(connection.read(), Err(Closed));
    }

    #[test]
    fn a_frame_that_is_none_closes() {
        for bad in [&b"\xff\xff\xff\xff\0\0\0\x01\x01\0"[..], b"\0\0\0\x01\0\0\0\x01\x01\0\x0b"] {
            let (mut connection, theirs, _poll) = pair();
            socket::send_now(theirs.as_fd(), bad).expect("sent");
            connection.read().expect("open");
            assert_eq!(connection.take::<Request>(), Err(Closed), "{bad:?}");
        }
    }

    #[test]
    fn who_does_not_read_is_not_waited_for() {
        let (mut connection, theirs, poll) = pair();
        let request = Request { payload: vec![7; 1 << 20], ..Request::default() };
        for stream in 0..2 {
            connection.send(stream, Kind::Response, &request, &poll).expect("queued");
        }
        assert!(!connection.is_flushed());
        assert_eq!(connection.watched, Interest::Write);
        let mut buffer = vec![0; 1 << 16];
        while !connection.is_flushed() {
            socket::receive_now(theirs.as_fd(), &mut buffer).expect("received");
            connection.flush(&poll).expect("open");
        }
        assert_eq!(connection.watched, Interest::Read);
    }
}
