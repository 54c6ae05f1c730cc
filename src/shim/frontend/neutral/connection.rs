//! The connection of one client, which never blocks.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;

use super::event_log::Cursor;
use crate::{Interest, Poll};
use windlass_sys::{Result, socket};

/// Longest line that a client may send, in bytes. An OCI process with a large environment fits.
pub(super) const LINE: usize = 256 * 1024;

/// Bytes of unsent output from which on no more requests of a client are read.
const WAITING: usize = 64 * 1024;

/// A connected client.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) key: u64,
    pub(crate) socket: OwnedFd,
    pub(crate) input: Vec<u8>,
    /// Length of the beginning of `input` that has no newline.
    pub(crate) searched: usize,
    pub(crate) output: Vec<u8>,
    pub(crate) watched: Interest,
    /// The client has closed its sending side.
    pub(crate) half_closed: bool,
    /// The connection is closed when its output is sent.
    pub(crate) closing: bool,
    /// The position in the events, if the client has subscribed.
    pub(crate) cursor: Option<Cursor>,
    /// The last descriptor that the client has passed.
    pub(crate) passed: Option<OwnedFd>,
}

/// The result of [`Connection::receive`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NextLine {
    /// A line, without its newline.
    Line(Vec<u8>),
    /// No complete line has arrived yet.
    Nothing,
    /// The client has closed the connection, or sent a line that is too long.
    Gone,
}

impl Connection {
    /// Watches a new client.
    pub(crate) fn new(key: u64, socket: OwnedFd, poll: &Poll) -> Result<Connection> {
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
            passed: None,
        })
    }

    /// Reads the next line, if it is complete.
    pub(crate) fn receive(&mut self) -> NextLine {
        if !self.has_room() {
            return NextLine::Nothing;
        }
        if let Some(line) = self.line() {
            return NextLine::Line(line);
        }
        if self.half_closed {
            return NextLine::Nothing;
        }
        let mut piece = [0; 4096];
        loop {
            let received = socket::receive_passed(self.socket.as_fd(), &mut piece).map(|(n, passed)| {
                self.passed = passed.or(self.passed.take());
                n
            });
            match received {
                Ok(0) => {
                    self.half_closed = true;
                    return NextLine::Nothing;
                }
                Ok(n) => {
                    self.input.extend_from_slice(&piece[..n]);
                    if let Some(line) = self.line() {
                        return NextLine::Line(line);
                    }
                    if self.input.len() > LINE {
                        return NextLine::Gone;
                    }
                }
                Err(Errno::EAGAIN | Errno::EINTR) => return NextLine::Nothing,
                Err(_) => return NextLine::Gone,
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

    /// Whether input was received that has not been returned yet.
    pub(crate) fn has_more(&self) -> bool {
        !self.input.is_empty()
    }

    /// Whether [`Connection::receive`] would return a line without reading.
    pub(crate) fn has_line(&self) -> bool {
        self.has_room() && !self.closing && windlass_sys::stream::find(b'\n', &self.input[self.searched..]).is_some()
    }

    /// Whether the output buffer has room for events.
    pub(crate) fn has_room(&self) -> bool {
        self.output.len() < WAITING
    }

    /// Whether all output is sent.
    pub(crate) fn is_idle(&self) -> bool {
        self.output.is_empty()
    }

    /// Sends bytes, or buffers them. Returns false if the client has closed the connection.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> bool {
        self.output.extend_from_slice(bytes);
        self.flush()
    }

    /// Sends buffered output. Returns false if the client has closed the connection.
    pub(crate) fn flush(&mut self) -> bool {
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

    /// Watches for input and output as needed.
    pub(crate) fn watch(&mut self, poll: &Poll) {
        let read = !self.half_closed && !self.closing && self.has_room();
        let wanted = Interest::of(read, !self.output.is_empty());
        if wanted != self.watched && poll.change(&self.socket, self.key, wanted).is_ok() {
            self.watched = wanted;
        }
    }

    /// Stops watching, and returns the socket.
    pub(crate) fn into_socket(self, poll: &Poll) -> OwnedFd {
        poll.forget(&self.socket);
        self.socket
    }
}
