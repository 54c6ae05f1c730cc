//! An attached client, which reads a copy of the output as fast as it likes, and may leave.

use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use nix::errno::Errno;

use super::output::Stream;
use super::world::SECOND;
use windlass_sys::{kernel, socket, stream};

/// Bytes of the head of a frame: the stream, and the length.
const HEAD: usize = 5;

/// How long it may take nothing before the shim leaves it behind.
const PATIENCE: u64 = 2 * SECOND;

/// A client of [`crate::Framing::Stream`].
#[derive(Debug)]
pub(super) struct Client {
    socket: Option<OwnedFd>,
    /// The streams, and the position of the next byte of each.
    streams: Vec<(Rc<Stream>, u64)>,
    unread: Vec<u8>,
    /// When it has last read, and whether it never stood still for long before.
    read: u64,
    steady: bool,
}

impl Client {
    /// Its side of a pair of sockets, and where each stream stands.
    pub(super) fn new(socket: OwnedFd, streams: Vec<(Rc<Stream>, u64)>) -> Client {
        let _ = stream::never_block(socket.as_fd());
        Client { socket: Some(socket), streams, unread: Vec::new(), read: kernel::now(), steady: true }
    }

    /// Whether it has neither left nor been left.
    pub(super) fn is_open(&self) -> bool {
        self.socket.is_some()
    }

    pub(super) fn leave(&mut self) {
        self.socket = None;
    }

    /// Reads at most so much. What is wrong with it is a fault. Returns whether something came.
    pub(super) fn read(&mut self, most: u64) -> bool {
        let Some(socket) = &self.socket else { return false };
        let now = kernel::now();
        self.steady &= now < self.read + PATIENCE;
        self.read = now;
        let mut buffer = vec![0; most as usize];
        match socket::receive_now(socket.as_fd(), &mut buffer) {
            Ok(n @ 1..) => {
                self.unread.extend_from_slice(&buffer[..n]);
                self.frames();
                return true;
            }
            Err(Errno::EAGAIN) => {}
            Ok(0) | Err(_) => self.ends(),
        }
        false
    }

    fn frames(&mut self) {
        while let Some(head) = self.unread.first_chunk::<HEAD>() {
            let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
            let which = usize::from(head[0]);
            if self.unread.len() < HEAD + length {
                return;
            }
            let frame: Vec<u8> = self.unread.drain(..HEAD + length).skip(HEAD).collect();
            let Some((stream, at)) = which.checked_sub(1).and_then(|which| self.streams.get_mut(which)) else {
                return kernel::fault(format!("a client gets a frame of stream {which}"));
            };
            if let Some(wrong) = frame.iter().zip(*at..).find(|(byte, at)| **byte != stream.byte(*at)) {
                return kernel::fault(format!("a client gets {wrong:?} of {stream:?}"));
            }
            *at += frame.len() as u64;
        }
    }

    /// The shim has closed the connection: after the end of the process, or because this client stood still.
    fn ends(&mut self) {
        self.socket = None;
        if !self.steady {
            return;
        }
        // Where another process has the pipe open, nobody waits for what it writes.
        let lacks =
            |(stream, at): &&(Rc<Stream>, u64)| !stream.held.get() && !stream.lost.get() && *at != stream.written.get();
        if let Some((stream, at)) = self.streams.iter().find(lacks) {
            kernel::fault(format!("a client that goes on reading has {at} bytes of {stream:?}"));
        }
    }
}
