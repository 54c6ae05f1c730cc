//! Input on its way to a process.

use std::os::fd::{AsFd, OwnedFd};

use super::key::{Kind, key};
use super::poll::{Interest, Poll};
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
    /// Whether the end of the input was requested and is still to be made: `pending` is written first, and a fifo has to
    /// be opened again.
    pub(super) close_when_empty: bool,
    /// Whether epoll(7) has refused to watch what is awaited, so that it has to be tried again.
    pub(super) unwatched: bool,
}

impl Input {
    pub(super) fn new(sink: OwnedFd, terminal: bool, fifo: Option<OwnedFd>) -> Input {
        let (pending, blocked, close_when_empty, unwatched) = (Vec::new(), false, false, false);
        Input { sink, terminal, fifo, pending, blocked, close_when_empty, unwatched }
    }

    /// Watches what is awaited: room in the pipe, or more in the fifo.
    pub(super) fn watch(&mut self, serial: u32, poll: &Poll) -> Result<()> {
        let watched = match &self.fifo {
            _ if self.blocked => poll.watch(&self.sink, key(Kind::InputSink, serial, 0), Interest::Write),
            Some(fifo) => poll.watch(fifo, key(Kind::InputFifo, serial, 0), Interest::Read),
            None => Ok(()),
        };
        self.unwatched = watched.is_err();
        watched
    }

    /// Whether something has to be tried again for want of descriptors or memory.
    pub(super) fn is_short(&self) -> bool {
        self.unwatched || (self.close_when_empty && self.fifo.is_some())
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::poll::Ready;
    use crate::scratch::Scratch;
    use crate::streams::Streams;
    use crate::{Stdin, Stdio};
    use nix::fcntl::OFlag;
    use windlass_sys::fd;

    /// epoll(7) refuses for want of memory what is to be watched when the pipe becomes full, and when it has room again.
    #[test]
    fn input_that_cannot_be_watched_is_not_forgotten() {
        let path = std::env::temp_dir().join(format!("windlass-input-{}", std::process::id()));
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o600)).expect("a fifo");
        let (poll, refusing) = (Poll::new().expect("epoll"), Poll::over(crate::pipe::null().expect("a descriptor")));
        let stdio = Stdio { stdin: Stdin::Fifo(path.clone()), ..Stdio::default() };
        let (mut streams, [stdin, ..]) = Streams::open(stdio, false, 1, &poll).expect("open");
        let mut scratch = Scratch::new().expect("scratch");
        let writer = fd::open(&path, OFlag::O_WRONLY | OFlag::O_NONBLOCK).expect("a writer");
        stream::never_block(stdin.as_fd()).expect("set");
        let input = |streams: &Streams| streams.input.as_ref().map(|input| (input.blocked, input.is_short()));
        let ready = Ready { read: true, write: true, hangup: false };
        let (mut given, mut taken, mut buffer) = (0, 0, [0; 4096]);
        while input(&streams) == Some((false, false)) {
            if let Moved::Bytes(n) = stream::write(writer.as_fd(), &buffer).expect("written") {
                given += n;
            }
            streams.ready(Kind::InputFifo, 0, ready, &refusing, &mut scratch, true);
        }
        // The instance that refuses has not forgotten it either.
        poll.forget(streams.input.as_ref().and_then(|input| input.fifo.as_ref()).expect("a fifo"));
        assert_eq!(input(&streams), Some((true, true)));
        streams.retry_input(&refusing);
        assert_eq!(input(&streams), Some((true, true)));
        streams.retry_input(&poll);
        assert_eq!(input(&streams), Some((true, false)));
        let mut read = || {
            while let Moved::Bytes(n) = stream::read(stdin.as_fd(), &mut buffer).expect("read") {
                taken += n;
            }
            taken
        };
        read();
        streams.ready(Kind::InputSink, 0, ready, &refusing, &mut scratch, true);
        assert_eq!(input(&streams), Some((false, true)));
        streams.retry_input(&poll);
        assert_eq!(input(&streams), Some((false, false)));
        let mut found = Vec::new();
        poll.wait(Some(windlass_sys::clock::now()), &mut found).expect("waited");
        let keys: Vec<u64> = found.iter().map(|(key, _)| *key).collect();
        assert!(keys.contains(&key(Kind::InputFifo, 1, 0)), "{keys:?}");
        while read() < given {
            streams.ready(Kind::InputFifo, 0, ready, &poll, &mut scratch, true);
        }
        std::fs::remove_file(&path).expect("removed");
    }
}
