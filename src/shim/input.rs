//! Input on its way to a process.

use std::os::fd::{AsFd, OwnedFd};

use windlass_sys::Result;
use windlass_sys::stream::{self, Moved};

/// Input on its way to the process.
#[derive(Debug)]
pub(super) struct Input {
    /// The pipe or the terminal that the process reads.
    pub(super) sink: OwnedFd,
    pub(super) terminal: bool,
    pub(super) fifo: Option<OwnedFd>,
    pub(super) pending: Vec<u8>,
    /// Whether the pipe is full. The shim then watches it until it has room.
    pub(super) blocked: bool,
    pub(super) close_when_empty: bool,
}

/// Copies input: to a terminal, because older kernels cannot splice to one, and where the end is looked for.
pub(super) fn copy(fifo: &OwnedFd, sink: &OwnedFd, pending: &mut Vec<u8>) -> Result<Moved> {
    let mut buffer = [0; 4096];
    let moved = stream::read(fifo.as_fd(), &mut buffer)?;
    if let Moved::Bytes(n) = moved {
        pending.extend_from_slice(&buffer[..n]);
        write_all(sink, pending)?;
    }
    Ok(moved)
}

/// Writes `pending`. Returns false if a part of it has to wait.
pub(super) fn write_all(sink: &OwnedFd, pending: &mut Vec<u8>) -> Result<bool> {
    while !pending.is_empty() {
        match stream::write(sink.as_fd(), pending)? {
            Moved::Bytes(n) => drop(pending.drain(..n)),
            Moved::Later | Moved::End => return Ok(false),
        }
    }
    *pending = Vec::new();
    Ok(true)
}
