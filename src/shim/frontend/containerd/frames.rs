//! The bytes of a ttrpc connection, as a state machine: received bytes that are not a whole frame yet, and bytes that
//! were not sent yet.

use super::ttrpc::{self, FrameKind};
use windlass_base::protobuf::Message;

/// With this many unsent bytes, nothing more is read: a client that does not take answers gets no more.
const FULL: usize = 1 << 20;

/// Bytes after which whole frames are taken before more is read, so that a client that never stops gets only its turn.
const TURN: usize = 16 * 1024;

/// The connection cannot be used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Closed;

/// The bytes that wait in both directions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Frames {
    pub(super) unread: Vec<u8>,
    pub(super) unsent: Vec<u8>,
}

/// How much waits to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waits {
    /// Nothing to send.
    Idle,
    /// Bytes to send; more is received meanwhile.
    Sending,
    /// So many bytes to send that nothing is received.
    Full,
}

impl Frames {
    /// Takes bytes that were received. Returns true if they are enough for one turn, so that other connections come
    /// next.
    pub(super) fn received(&mut self, bytes: &[u8]) -> bool {
        self.unread.extend_from_slice(bytes);
        self.unread.len() >= TURN && !matches!(ttrpc::next_frame(&self.unread), Ok(None))
    }

    /// Takes out the next whole frame: its stream, its kind and its message.
    pub(super) fn take<M: Message>(&mut self) -> Result<Option<(u32, FrameKind, M)>, Closed> {
        let Some((frame, length)) = ttrpc::next_frame(&self.unread).map_err(|_| Closed)? else {
            if self.unread.is_empty() {
                // An idle connection holds no memory.
                self.unread = Vec::new();
            }
            return Ok(None);
        };
        let taken = (frame.stream, frame.kind, M::decode(frame.body).map_err(|_| Closed)?);
        self.unread.drain(..length);
        Ok(Some(taken))
    }

    /// Adds a frame to the unsent bytes.
    pub(super) fn put(&mut self, stream: u32, kind: FrameKind, message: &impl Message) {
        ttrpc::put_frame(&mut self.unsent, stream, kind, message);
    }

    /// The bytes to be sent.
    pub(super) fn unsent(&self) -> &[u8] {
        &self.unsent
    }

    /// Takes out bytes that were sent.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.unsent.drain(..bytes);
        if self.unsent.is_empty() {
            self.unsent = Vec::new();
        }
    }

    /// How much waits to be sent.
    pub(super) fn waits(&self) -> Waits {
        match self.unsent.len() {
            0 => Waits::Idle,
            n if n < FULL => Waits::Sending,
            _ => Waits::Full,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ttrpc::Request;
    use super::*;
    use crate::image::format::read_back;

    fn request() -> Request {
        Request { service: "s".into(), method: "m".into(), ..Request::default() }
    }

    #[test]
    fn frames_come_out_however_they_are_cut() {
        let mut other = Frames::default();
        other.put(1, FrameKind::Request, &request());
        other.put(3, FrameKind::Request, &request());
        let mut frames = Frames::default();
        let mut taken = Vec::new();
        for byte in other.unsent() {
            assert!(!frames.received(&[*byte]));
            // Half a frame can be written down and read back.
            frames = read_back(&frames);
            taken.extend(frames.take::<Request>().expect("a frame"));
        }
        assert_eq!(taken, [(1, FrameKind::Request, request()), (3, FrameKind::Request, request())]);
        assert_eq!(frames, Frames::default());
    }

    #[test]
    fn a_frame_that_is_none_closes() {
        for bad in [&b"\xff\xff\xff\xff\0\0\0\x01\x01\0"[..], b"\0\0\0\x01\0\0\0\x01\x01\0\x0b"] {
            let mut frames = Frames::default();
            frames.received(bad);
            assert_eq!(frames.take::<Request>(), Err(Closed), "{bad:?}");
        }
    }

    #[test]
    fn nothing_is_read_while_much_is_unsent() {
        let mut frames = Frames::default();
        assert_eq!(frames.waits(), Waits::Idle);
        frames.put(1, FrameKind::Response, &request());
        assert_eq!(frames.waits(), Waits::Sending);
        frames.put(3, FrameKind::Response, &Request { payload: vec![7; FULL], ..Request::default() });
        assert_eq!(frames.waits(), Waits::Full);
        frames.sent(frames.unsent().len() - 1);
        assert_eq!(frames.waits(), Waits::Sending);
        frames.sent(1);
        assert_eq!(frames.waits(), Waits::Idle);
    }

    #[test]
    fn a_client_that_never_stops_has_its_turn() {
        let mut many = Vec::new();
        while many.len() < TURN {
            ttrpc::put_frame(&mut many, 1, FrameKind::Request, &request());
        }
        assert!(Frames::default().received(&many), "whole frames are taken before more is read");
        let mut long = Vec::new();
        ttrpc::put_frame(
            &mut long,
            1,
            FrameKind::Request,
            &Request { payload: vec![7; 2 * TURN], ..Request::default() },
        );
        assert!(!Frames::default().received(&long[..long.len() - 1]), "one that is not whole is read on");
        assert!(Frames::default().received(&vec![0; TURN]), "what is no frame closes the connection");
    }
}
