//! One stream of output, from its pipe or terminal to where it goes.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::client::Client;
use super::log::{Logger, SCRATCH, Stream};
use super::poll::{Interest, Poll};
use super::runtime::KEPT;
use super::stdio::Output;
use crate::sys::region::Region;
use crate::sys::stream::{self, Moved};
use crate::sys::{Result, fd};

/// Bytes read at once: what a pipe holds.
const READ: usize = 64 * 1024;

/// What pipes hold by default, and while much is spliced through them: then three processes have
/// fewer turns on the same bytes. Not always, for the kernel counts the sizes of all pipes of a
/// user (`pipe-user-pages-soft`, pipe(7)), and root's are those of many containers.
const NARROW: usize = 64 * 1024;
const WIDE: usize = 1024 * 1024;

/// So much without a pause is much.
const MUCH: usize = 4 * 1024 * 1024;

/// Bytes spliced at once, and reads done in a row, before the others get their turn.
const SPLICE: usize = 1024 * 1024;
const TURNS: usize = 8;

/// The same when the process has ended: enough for all that a pipe can hold.
const LAST_TURNS: usize = 64;

/// Memory for reading and for putting lines together, shared by all streams and given back when
/// nothing moves.
#[derive(Debug)]
pub(super) struct Scratch {
    input: Region,
    output: Region,
}

impl Scratch {
    pub(super) fn new() -> Result<Scratch> {
        Ok(Scratch { input: Region::new(READ)?, output: Region::new(SCRATCH)? })
    }

    /// For putting lines together.
    pub(super) fn output(&mut self) -> &mut [u8] {
        self.output.bytes()
    }

    pub(super) fn release(&mut self) {
        self.input.release();
        self.output.release();
    }
}

#[derive(Debug)]
enum Sink {
    None,
    /// A pipe or fifo: lossless.
    Pipe(OwnedFd),
    /// Appended to.
    File(OwnedFd),
    /// Ended: its content stays readable as long as this is held.
    Kept(#[allow(dead_code)] OwnedFd),
}

/// What the reading of the source waits for: it is not watched meanwhile, because a hang-up
/// cannot be masked and would wake us for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waits {
    No,
    /// The sink is full: the process waits in its write until somebody reads.
    Sink,
    /// A client is full.
    Clients,
}

/// One stream of output.
#[derive(Debug)]
pub(super) struct Outlet {
    stream: Stream,
    source: Option<OwnedFd>,
    source_key: u64,
    terminal: bool,
    sink: Sink,
    sink_key: u64,
    /// Read, but not taken by a lossless sink.
    pending: Vec<u8>,
    /// Held back while the runtime may still complain on this stream.
    held: Option<Vec<u8>>,
    pub(super) complaint: Vec<u8>,
    waits: Waits,
    /// The terminal has nobody on its other side at the moment.
    pub(super) hung_up: bool,
    dropped: u64,
    /// Bytes spliced since the last pause.
    spliced: usize,
}

/// What an outlet shares with the other one of its process.
pub(super) struct Around<'a> {
    pub(super) logs: &'a mut Vec<Logger>,
    pub(super) clients: &'a mut Vec<Client>,
    pub(super) poll: &'a Poll,
    pub(super) scratch: &'a mut Scratch,
    /// Whether the process still lives: then a terminal's hang-up may be only for now.
    pub(super) alive: bool,
}

fn sink_of(output: Output) -> Result<Sink> {
    Ok(match output {
        Output::None | Output::Attach | Output::Inherit => Sink::None,
        Output::Fd(pipe) => {
            stream::never_block(pipe.as_fd())?;
            Sink::Pipe(pipe)
        }
        // Open for reading too: an engine that dies is no broken pipe.
        Output::Fifo(path) => {
            let file = fd::open(&path, OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_APPEND)?;
            let is_fifo = fd::stat(file.as_fd())?.st_mode & libc::S_IFMT == libc::S_IFIFO;
            if is_fifo { Sink::Pipe(file) } else { Sink::File(file) }
        }
        Output::File(path) => {
            // A fifo without a reader is an error then, and not waited for.
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_APPEND | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
            Sink::File(fd::openat(fd::CWD, &path, flags, 0o600)?)
        }
    })
}

impl Outlet {
    pub(super) fn new(stream: Stream, output: Output, source_key: u64, sink_key: u64) -> Result<Outlet> {
        Ok(Outlet {
            stream,
            source: None,
            source_key,
            terminal: false,
            sink: sink_of(output)?,
            sink_key,
            pending: Vec::new(),
            held: None,
            complaint: Vec::new(),
            waits: Waits::No,
            hung_up: false,
            dropped: 0,
            spliced: 0,
        })
    }

    /// Reads from here on.
    pub(super) fn read_from(&mut self, source: OwnedFd, terminal: bool, poll: &Poll) -> Result<()> {
        poll.watch(&source, self.source_key, Interest::Read)?;
        self.source = Some(source);
        self.terminal = terminal;
        Ok(())
    }

    /// Holds back what comes, for the runtime writes here too until its call has ended.
    pub(super) fn hold(&mut self) {
        self.held = Some(Vec::new());
    }

    /// The runtime is done: what was held is the process's, or, if it failed, its complaint.
    pub(super) fn unhold(&mut self, failed: bool, around: &mut Around<'_>) {
        let Some(held) = self.held.take() else { return };
        if failed {
            self.complaint = held;
        } else {
            self.deliver(&held, around);
        }
    }

    /// Whether all was read and all was taken.
    pub(super) fn is_drained(&self) -> bool {
        self.source.is_none() && self.pending.is_empty()
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Moves what there is to move.
    pub(super) fn pump(&mut self, around: &mut Around<'_>) {
        for _ in 0..if around.alive { TURNS } else { LAST_TURNS } {
            if !self.flush() {
                return self.wait_for(Waits::Sink, around.poll);
            }
            if around.clients.iter().any(Client::is_full) {
                return self.wait_for(Waits::Clients, around.poll);
            }
            self.wait_for(Waits::No, around.poll);
            let Some(source) = &self.source else { return };
            let direct = around.logs.is_empty() && around.clients.is_empty() && self.held.is_none() && !self.terminal;
            let moved = match &self.sink {
                Sink::Pipe(pipe) if direct => match stream::splice(source.as_fd(), pipe.as_fd(), SPLICE) {
                    Ok(Moved::Later) if stream::waiting(source.as_fd()) > 0 => {
                        return self.wait_for(Waits::Sink, around.poll);
                    }
                    // The sink may be full, and then only read(2) tells nothing from the end.
                    Ok(Moved::Later) => self.copy(around),
                    Ok(Moved::Bytes(n)) => {
                        self.count(n);
                        Ok(Moved::Bytes(n))
                    }
                    Ok(moved) => Ok(moved),
                    Err(failed) if failed.errno == Errno::EPIPE => {
                        self.sink = Sink::None;
                        continue;
                    }
                    Err(_) => self.copy(around),
                },
                _ => self.copy(around),
            };
            match moved {
                Ok(Moved::Bytes(_)) => {}
                Ok(Moved::Later) => return,
                Ok(Moved::End) | Err(_) => return self.end_of_source(around),
            }
        }
    }

    /// Goes on where it has waited for clients, if none is full any more.
    pub(super) fn resume(&mut self, around: &mut Around<'_>) {
        if self.waits == Waits::Clients {
            self.pump(around);
        }
    }

    /// Takes note of what was spliced; much of it makes the pipes wide.
    fn count(&mut self, n: usize) {
        let before = self.spliced;
        self.spliced = before.saturating_add(n);
        if before < MUCH && self.spliced >= MUCH {
            self.set_capacity(WIDE);
        }
    }

    /// Nothing has moved for a while.
    pub(super) fn rest(&mut self) {
        if std::mem::take(&mut self.spliced) >= MUCH {
            self.set_capacity(NARROW);
        }
    }

    fn set_capacity(&self, bytes: usize) {
        if let (Some(source), Sink::Pipe(sink)) = (&self.source, &self.sink) {
            stream::set_capacity(source.as_fd(), bytes);
            stream::set_capacity(sink.as_fd(), bytes);
        }
    }

    fn copy(&mut self, around: &mut Around<'_>) -> Result<Moved> {
        let Some(source) = &self.source else { return Ok(Moved::End) };
        let moved = stream::read(source.as_fd(), around.scratch.input.bytes())?;
        if let Moved::Bytes(n) = moved {
            self.route(n, around);
        }
        Ok(moved)
    }

    /// Sends on the `n` bytes in the scratch memory.
    fn route(&mut self, n: usize, around: &mut Around<'_>) {
        let Scratch { input, output, .. } = &mut *around.scratch;
        let bytes = &input.bytes()[..n];
        if let Some(held) = &mut self.held {
            held.extend_from_slice(bytes);
            if held.len() > KEPT {
                let all = self.held.take().unwrap_or_default();
                self.complaint = all[..KEPT].to_vec();
                self.deliver(&all, around);
            }
            return;
        }
        let output = output.bytes();
        around.logs.iter_mut().for_each(|log| log.write(self.stream, bytes, output));
        give(self.stream, bytes, around.clients, around.poll);
        self.pass_on(bytes);
    }

    /// Sends on bytes that are not in the scratch memory.
    fn deliver(&mut self, bytes: &[u8], around: &mut Around<'_>) {
        for piece in bytes.chunks(READ) {
            let output = around.scratch.output.bytes();
            around.logs.iter_mut().for_each(|log| log.write(self.stream, piece, output));
            give(self.stream, piece, around.clients, around.poll);
            self.pass_on(piece);
        }
    }

    fn pass_on(&mut self, bytes: &[u8]) {
        match &self.sink {
            Sink::None | Sink::Kept(_) => {}
            Sink::Pipe(_) => {
                self.pending.extend_from_slice(bytes);
                self.flush();
            }
            Sink::File(file) => {
                let mut done = 0;
                while let Ok(Moved::Bytes(n)) = stream::write(file.as_fd(), &bytes[done..]) {
                    done += n;
                }
                self.dropped += (bytes.len() - done) as u64;
            }
        }
    }

    /// Writes what is pending. False: the sink takes no more now.
    fn flush(&mut self) -> bool {
        let mut done = 0;
        let mut broken = false;
        if let Sink::Pipe(pipe) = &self.sink {
            while done < self.pending.len() {
                match stream::write(pipe.as_fd(), &self.pending[done..]) {
                    Ok(Moved::Bytes(n)) => done += n,
                    Ok(_) => break,
                    Err(_) => {
                        broken = true;
                        break;
                    }
                }
            }
        }
        if broken {
            self.dropped += (self.pending.len() - done) as u64;
            self.sink = Sink::None;
            done = self.pending.len();
        }
        self.pending.drain(..done);
        if self.pending.is_empty() {
            // Give the memory back: a stalled reader is the exception.
            self.pending = Vec::new();
        }
        self.pending.is_empty()
    }

    fn wait_for(&mut self, what: Waits, poll: &Poll) {
        if self.waits == what {
            return;
        }
        if let Sink::Pipe(pipe) = &self.sink {
            if what == Waits::Sink && poll.watch(pipe, self.sink_key, Interest::Write).is_err() {
                return;
            }
            if self.waits == Waits::Sink {
                poll.forget(pipe);
            }
        }
        let before = std::mem::replace(&mut self.waits, what);
        if let Some(source) = &self.source {
            if before == Waits::No {
                poll.forget(source);
            } else if what == Waits::No {
                let _ = poll.watch(source, self.source_key, Interest::Read);
            }
        }
    }

    /// Whether there is a reader besides logs and clients.
    pub(super) fn has_sink(&self) -> bool {
        !matches!(self.sink, Sink::None)
    }

    /// Whether a client that is full is waited for.
    pub(super) fn is_held_back(&self) -> bool {
        self.waits == Waits::Clients && self.source.is_some()
    }

    fn end_of_source(&mut self, around: &mut Around<'_>) {
        if self.terminal && around.alive {
            // Nobody has the other side open; somebody may open it again.
            if let (false, Some(source)) = (self.hung_up, &self.source) {
                around.poll.forget(source);
                self.hung_up = true;
            }
            return;
        }
        self.source = None;
    }

    /// Looks at a terminal again that was hung up.
    pub(super) fn look_again(&mut self, around: &mut Around<'_>) {
        if std::mem::take(&mut self.hung_up) {
            if let (Waits::No, Some(source)) = (self.waits, &self.source) {
                let _ = around.poll.watch(source, self.source_key, Interest::Read);
            }
            self.pump(around);
        }
    }

    /// No more is read. A reader of the fifo gets its end, and what is in it stays readable.
    pub(super) fn finish(&mut self) {
        self.source = None;
        self.waits = Waits::No;
        self.dropped += self.pending.len() as u64;
        self.pending = Vec::new();
        self.end_sink();
    }

    /// Tells the reader of the fifo that it was all.
    pub(super) fn end_sink(&mut self) {
        self.sink = match std::mem::replace(&mut self.sink, Sink::None) {
            Sink::Pipe(pipe) => match fd::reopen(pipe.as_fd(), OFlag::O_RDONLY | OFlag::O_NONBLOCK) {
                Ok(reader) => Sink::Kept(reader),
                // The write end of a front end's pipe: its reader keeps what is in it.
                Err(_) => Sink::None,
            },
            Sink::Kept(kept) => Sink::Kept(kept),
            Sink::None | Sink::File(_) => Sink::None,
        };
    }
}

/// Gives every client its copy; those that have left are dropped.
fn give(stream: Stream, bytes: &[u8], clients: &mut Vec<Client>, poll: &Poll) {
    clients.retain_mut(|client| client.give(stream, bytes, poll));
}
