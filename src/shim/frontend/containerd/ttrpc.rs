//! Frames of ttrpc, protocol version 1 (<https://github.com/containerd/ttrpc/blob/main/PROTOCOL.md>).
//!
//! A frame is a header of ten bytes and a message. Only unary calls are supported, because containerd uses no others
//! with a shim.

use super::message::Status;
use windlass_base::protobuf::{Message, message};

/// Longest message of a frame, in bytes. A connection that announces a longer one is closed.
pub const LONGEST: usize = 4 << 20;

/// Length of a frame's header, in bytes.
pub const HEAD: usize = 10;

/// The type of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// A call: [`Request`].
    Request,
    /// The answer to a call: [`Response`].
    Response,
    /// Data of a stream.
    Data,
}

/// A frame whose message is not decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The number of the call. It is odd if the client began the call.
    pub stream: u32,
    /// The type of the frame.
    pub kind: FrameKind,
    /// The message.
    pub body: &'a [u8],
}

/// Why bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidFrame;

/// The first frame in `bytes`, and its length in bytes. `None`: it is incomplete.
pub fn next_frame(bytes: &[u8]) -> Result<Option<(Frame<'_>, usize)>, InvalidFrame> {
    let Some((head, rest)) = bytes.split_first_chunk::<HEAD>() else { return Ok(None) };
    let [a, b, c, d, e, f, g, h, kind, _flags] = *head;
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    let stream = u32::from_be_bytes([e, f, g, h]);
    let kind = match kind {
        1 => FrameKind::Request,
        2 => FrameKind::Response,
        3 => FrameKind::Data,
        _ => return Err(InvalidFrame),
    };
    if length > LONGEST {
        return Err(InvalidFrame);
    }
    let Some(body) = rest.get(..length) else { return Ok(None) };
    Ok(Some((Frame { stream, kind, body }, HEAD + length)))
}

/// Appends a frame.
pub(crate) fn put_frame(out: &mut Vec<u8>, stream: u32, kind: FrameKind, message: &impl Message) {
    let at = out.len();
    let kind = match kind {
        FrameKind::Request => 1,
        FrameKind::Response => 2,
        FrameKind::Data => 3,
    };
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(&[kind, 0]);
    message.write_to(out);
    let length = (out.len() - at - HEAD) as u32;
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

message! {
    /// A call.
    Request {
        /// `package.Service`.
        1 service: String,
        /// The method's name.
        2 method: String,
        /// The argument, a message.
        3 payload: Vec<u8>,
        /// The caller's timeout in nanoseconds; 0 is none.
        4 timeout: i64,
    }
    /// An answer.
    Response {
        /// The error, or none.
        1 status: Option<Status>,
        /// The result, a message.
        2 payload: Vec<u8>,
    }
}

/// The codes of [`Status`] that callers distinguish (google/rpc/code.proto).
pub mod code {
    /// Anything else.
    pub const UNKNOWN: i32 = 2;
    /// The request is invalid.
    pub const INVALID_ARGUMENT: i32 = 3;
    /// A timeout has expired.
    pub const DEADLINE_EXCEEDED: i32 = 4;
    /// The container or process does not exist.
    pub const NOT_FOUND: i32 = 5;
    /// The container or process exists already.
    pub const ALREADY_EXISTS: i32 = 6;
    /// The state of the container or process does not allow it.
    pub const FAILED_PRECONDITION: i32 = 9;
    /// The service or method does not exist.
    pub const UNIMPLEMENTED: i32 = 12;
    /// A system call has failed.
    pub const INTERNAL: i32 = 13;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_taken_when_it_is_whole() {
        let mut bytes = Vec::new();
        let request = Request { service: "s".into(), method: "m".into(), ..Request::default() };
        put_frame(&mut bytes, 1, FrameKind::Request, &request);
        assert_eq!(bytes, b"\0\0\0\x06\0\0\0\x01\x01\0\x0a\x01s\x12\x01m");
        put_frame(&mut bytes, 3, FrameKind::Response, &Response::default());
        for length in 0..16 {
            assert_eq!(next_frame(&bytes[..length]), Ok(None));
        }
        let (frame, length) = next_frame(&bytes).expect("frames").expect("whole");
        assert_eq!((frame.stream, frame.kind, length), (1, FrameKind::Request, 16));
        assert_eq!(Request::decode(frame.body), Ok(request));
        let (frame, length) = next_frame(&bytes[16..]).expect("frames").expect("whole");
        assert_eq!((frame.stream, frame.kind, frame.body.len(), length), (3, FrameKind::Response, 0, 10));
    }

    #[test]
    fn too_long_or_of_no_kind_is_no_frame() {
        assert_eq!(next_frame(&[0, 0x40, 0, 0, 0, 0, 0, 1, 1, 0]), Ok(None));
        assert_eq!(next_frame(&[0, 0x40, 0, 1, 0, 0, 0, 1, 1, 0]), Err(InvalidFrame));
        assert_eq!(next_frame(&[0, 0, 0, 0, 0, 0, 0, 1, 9, 0]), Err(InvalidFrame));
    }
}
