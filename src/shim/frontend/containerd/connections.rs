//! The table of containerd's connections, over which calls come in and answers go out.

use std::os::fd::OwnedFd;

use super::answer::{Answer, Outcome};
use super::connection::Connection;
use super::frames::Closed;
use super::ttrpc::{FrameKind, Request, Response};
use crate::table::Table;
use crate::{Poll, Ready};
use windlass_sys::Result;

/// A call that is to be answered: a stream of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    pub(super) connection: u64,
    pub(super) stream: u32,
}

impl Caller {
    /// The call on a stream of a connection.
    pub(super) fn new(connection: u64, stream: u32) -> Caller {
        Caller { connection, stream }
    }
}

/// The next frame of a connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NextFrame {
    /// A call.
    Call(Caller, Request),
    /// There is no whole frame now.
    Nothing,
    /// The client speaks another protocol.
    Malformed,
}

/// The connections, by the serial numbers of their keys.
#[derive(Debug, Default)]
pub(super) struct Connections(pub(super) Table<u64, Box<Connection>>);

impl Connections {
    /// Adds a client's socket, which does not block, and watches it.
    pub(super) fn insert(&mut self, serial: u64, key: u64, socket: OwnedFd, poll: &Poll) -> Result<()> {
        self.0.insert(serial, Box::new(Connection::new(socket, key, poll)?));
        Ok(())
    }

    /// Sends and receives as much as possible.
    pub(super) fn ready(&mut self, serial: u64, ready: Ready, poll: &Poll) -> std::result::Result<(), Closed> {
        let Some(connection) = self.0.get_mut(&serial) else { return Ok(()) };
        let flushed = if ready.write { connection.flush(poll) } else { Ok(()) };
        let read = if ready.read || ready.hangup { connection.read() } else { Ok(()) };
        flushed.and(read)
    }

    /// The next frame that was received.
    pub(super) fn next(&mut self, serial: u64) -> NextFrame {
        let Some(connection) = self.0.get_mut(&serial) else { return NextFrame::Nothing };
        match connection.take::<Request>() {
            // Streams of clients have odd numbers.
            Ok(Some((stream, FrameKind::Request, request))) if stream % 2 == 1 => {
                NextFrame::Call(Caller::new(serial, stream), request)
            }
            Ok(None) => NextFrame::Nothing,
            Ok(Some(_)) | Err(Closed) => NextFrame::Malformed,
        }
    }

    /// Closes a connection.
    pub(super) fn close(&mut self, serial: u64) {
        self.0.remove(&serial);
    }

    /// Answers a call. A caller that has left gets no answer, and a connection that fails is closed.
    pub(super) fn answer(&mut self, caller: Caller, outcome: Outcome, poll: &Poll) {
        self.put(caller, outcome);
        self.flush(caller.connection, poll);
    }

    /// Queues the answer to a call, for [`Connections::flush`].
    pub(super) fn put(&mut self, caller: Caller, outcome: Outcome) {
        let response = match outcome {
            Ok(Answer::Later) => return,
            Ok(Answer::Now(payload)) => Response { status: None, payload },
            Err(status) => Response { status: Some(status), payload: Vec::new() },
        };
        if let Some(connection) = self.0.get_mut(&caller.connection) {
            connection.frames.put(caller.stream, FrameKind::Response, &response);
        }
    }

    /// Sends the answers of a connection, or as much of them as it takes now.
    pub(super) fn flush(&mut self, serial: u64, poll: &Poll) {
        if self.0.get_mut(&serial).is_some_and(|connection| connection.flush(poll).is_err()) {
            self.close(serial);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether all answers are sent.
    pub(super) fn are_flushed(&self) -> bool {
        self.0.values().all(|connection| connection.is_flushed())
    }
}
