//! One client of the protocol: lines in, lines out, never waited for.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;

use super::journal::Cursor;
use crate::Interest;
use crate::Poll;
use windlass_sys::{Result, socket};

/// Longest line that a client may send: an OCI process with a large environment fits.
pub const LINE: usize = 256 * 1024;

/// Bytes that wait to be read by a client before it is not listened to any more.
const WAITING: usize = 64 * 1024;

/// A connected client.
#[derive(Debug)]
pub struct Connection {
    /// Its key.
    pub key: u64,
    socket: OwnedFd,
    input: Vec<u8>,
    /// Bytes of the input that have no newline.
    searched: usize,
    output: Vec<u8>,
    watched: Interest,
    /// It has said all that it will.
    pub half_closed: bool,
    /// It is closed when its output is sent.
    pub closing: bool,
    /// Where it is in the events, if it wants them.
    pub cursor: Option<Cursor>,
}

/// ClientRequest came of reading.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// A whole line, without its end.
    Line(Vec<u8>),
    /// Nothing more now.
    Nothing,
    /// It has left, or sent too long a line.
    Gone,
}

impl Connection {
    /// Listens to a new client.
    pub fn new(key: u64, socket: OwnedFd, poll: &Poll) -> Result<Connection> {
        poll.watch(&socket, key, Interest::Read)?;
        Ok(Connection {
            key,
            socket,
            input: Vec::new(),
            searched: 0,
            output: Vec::new(),
            watched: Interest::Read,
            half_closed: false,
            closing: false,
            cursor: None,
        })
    }

    /// The next line, if it is there.
    pub fn receive(&mut self) -> Received {
        if !self.has_room() {
            return Received::Nothing;
        }
        if let Some(line) = self.line() {
            return Received::Line(line);
        }
        if self.half_closed {
            return Received::Nothing;
        }
        let mut piece = [0; 4096];
        loop {
            match socket::receive_now(self.socket.as_fd(), &mut piece) {
                Ok(0) => {
                    self.half_closed = true;
                    return Received::Nothing;
                }
                Ok(n) => {
                    self.input.extend_from_slice(&piece[..n]);
                    if let Some(line) = self.line() {
                        return Received::Line(line);
                    }
                    if self.input.len() > LINE {
                        return Received::Gone;
                    }
                }
                Err(Errno::EAGAIN | Errno::EINTR) => return Received::Nothing,
                Err(_) => return Received::Gone,
            }
        }
    }

    fn line(&mut self) -> Option<Vec<u8>> {
        let Some(at) = windlass_sys::stream::find(b'\n', &self.input[self.searched..]) else {
            self.searched = self.input.len();
            return None;
        };
        let rest = self.input.split_off(self.searched + at + 1);
        let mut line = std::mem::replace(&mut self.input, rest);
        line.pop();
        self.searched = 0;
        Some(line)
    }

    /// Whether more was received than was heard.
    pub fn has_more(&self) -> bool {
        !self.input.is_empty()
    }

    /// Whether a line waits that [`Connection::receive`] would give.
    pub fn has_line(&self) -> bool {
        self.has_room() && !self.closing && windlass_sys::stream::find(b'\n', &self.input[self.searched..]).is_some()
    }

    /// Whether there is room for events.
    pub fn has_room(&self) -> bool {
        self.output.len() < WAITING
    }

    /// Whether everything was sent.
    pub fn is_idle(&self) -> bool {
        self.output.is_empty()
    }

    /// Sends bytes, or keeps them until they can be sent. False: the client has left.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        self.output.extend_from_slice(bytes);
        self.flush()
    }

    /// Sends what waits. False: the client has left.
    pub fn flush(&mut self) -> bool {
        let mut sent = 0;
        while sent < self.output.len() {
            match socket::send_now(self.socket.as_fd(), &self.output[sent..]) {
                Ok(n) => sent += n,
                Err(Errno::EAGAIN | Errno::EINTR | Errno::ENOBUFS) => break,
                Err(_) => return false,
            }
        }
        self.output.drain(..sent);
        if self.output.is_empty() {
            self.output = Vec::new();
        }
        true
    }

    /// Watches for what is wanted now.
    pub fn watch(&mut self, poll: &Poll) {
        let read = !self.half_closed && !self.closing && self.has_room();
        let wanted = match (read, self.output.is_empty()) {
            (true, true) => Interest::Read,
            (true, false) => Interest::Both,
            (false, false) => Interest::Write,
            (false, true) => Interest::Nothing,
        };
        if wanted != self.watched && poll.change(&self.socket, self.key, wanted).is_ok() {
            self.watched = wanted;
        }
    }

    /// Gives the socket away.
    pub fn into_socket(self, poll: &Poll) -> OwnedFd {
        poll.forget(&self.socket);
        self.socket
    }
}
