//! An attached client, which reads a copy of the output at any speed, and may leave.

use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use nix::errno::Errno;

use super::output::Stream;
use super::world::SECOND;
use crate::Framing;
use windlass_sys::{kernel, socket, stream};

/// Bytes of the head of a frame: the stream, and the length.
const HEAD: usize = 5;

/// The shim disconnects a client that takes too little in two seconds. A client that takes [`ENOUGH`] in each second
/// does so in any two.
const PATIENCE: u64 = SECOND;

/// Bytes that are enough, however they are cut into frames: the kernel counts a frame when all of it was read.
const ENOUGH: usize = 32 * 1024;

/// Bytes by which a reader finds its position in a stream.
const FINGERPRINT: usize = 24;

/// The streams of a process, and the position of the next byte of each. `None`: the position is not known yet.
pub(super) type Attached = Vec<(Rc<Stream>, Option<u64>)>;

#[derive(Debug)]
pub(super) struct Client {
    socket: Option<OwnedFd>,
    framing: Framing,
    streams: Attached,
    unread: Vec<u8>,
    /// The first bytes of each stream, until they determine the position.
    first: [Vec<u8>; 2],
    /// Whether the client has got the end of the output.
    told: bool,
    /// When the client had last taken enough or all, and how many bytes it has taken since.
    since: (u64, usize),
    /// Whether it has never paused for long.
    steady: bool,
}

impl Client {
    /// Takes the client's end of a socket pair, the bytes that were read and when, and the position in each stream.
    pub(super) fn new(
        socket: OwnedFd,
        framing: Framing,
        (unread, before): (Vec<u8>, u64),
        streams: Attached,
    ) -> Client {
        let _ = stream::never_block(socket.as_fd());
        let (first, since) = (Default::default(), (kernel::now(), 0));
        let steady = since.0 < before + PATIENCE;
        let mut client = Client { socket: Some(socket), framing, streams, unread, first, told: false, since, steady };
        client.frames();
        client
    }

    /// Whether the connection is open on both sides.
    pub(super) fn is_open(&self) -> bool {
        self.socket.is_some()
    }

    pub(super) fn leave(&mut self) {
        self.socket = None;
    }

    /// Reads at most `most` bytes, and reports a fault in them. Returns whether any bytes came.
    pub(super) fn read(&mut self, most: u64) -> bool {
        let Some(socket) = &self.socket else { return false };
        self.steady &= kernel::now() < self.since.0 + PATIENCE;
        // A packet is read as a whole or truncated.
        let most = if self.framing == Framing::Packet { most.max(8193) } else { most };
        let mut buffer = vec![0; most as usize];
        let received = socket::receive_now(socket.as_fd(), &mut buffer);
        let taken = self.since.1 + received.unwrap_or(0);
        self.since = if received.is_err() || taken >= ENOUGH { (kernel::now(), 0) } else { (self.since.0, taken) };
        match received {
            Ok(n @ 1..) if self.framing == Framing::Packet => {
                self.output(usize::from(buffer[0]).wrapping_sub(2), &buffer[1..n]);
                return true;
            }
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
            if self.told {
                return kernel::fault(format!("a client gets {} bytes after the end", frame.len()));
            }
            match which {
                3 if self.framing == Framing::Marked => self.told = true,
                _ => self.output(which.wrapping_sub(1), &frame),
            }
        }
    }

    fn output(&mut self, which: usize, bytes: &[u8]) {
        let Some((stream, at)) = self.streams.get_mut(which) else {
            return kernel::fault(format!("a client gets a frame of stream {which}"));
        };
        let Some(at) = at else {
            let first = &mut self.first[which];
            first.extend_from_slice(bytes);
            if first.len() >= FINGERPRINT {
                match stream.find(&first[..FINGERPRINT]) {
                    Some(found) => *at = Some(found),
                    None => return kernel::fault(format!("a client gets what is not in {stream:?}")),
                }
                let first = std::mem::take(first);
                return self.output(which, &first);
            }
            return;
        };
        if let Some(wrong) = bytes.iter().zip(*at..).find(|(byte, at)| **byte != stream.byte(*at)) {
            return kernel::fault(format!("a client gets {wrong:?} of {stream:?}"));
        }
        *at += bytes.len() as u64;
    }

    /// The shim has closed the connection: after the end of the process, or because this client has paused.
    fn ends(&mut self) {
        self.socket = None;
        if !self.steady && !self.told {
            return;
        }
        // If another process has the pipe open, the shim does not wait for its output.
        let lacks = |(stream, at): &&(Rc<Stream>, Option<u64>)| {
            !stream.held.get() && !stream.lost.get() && at.is_some_and(|at| at != stream.written.get())
        };
        if let Some((stream, at)) = self.streams.iter().find(lacks) {
            let whose = if self.told { "is told the end" } else { "goes on reading" };
            kernel::fault(format!("a client that {whose} has {at:?} bytes of {stream:?}"));
        }
    }
}
