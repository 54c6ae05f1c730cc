//! One stream of output on its way from a pipe or terminal to logs, clients and the sink.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use nix::errno::Errno;

use super::client::Client;
use super::key::{Kind, key};
use super::log::{Logger, Stream};
use super::pipe::KEPT;
use super::poll::{Interest, Poll};
use super::pump::{Backlog, Flow, Hold, LITTLE, MoveResult, Reading, Source, Step, Stop};
use super::scratch::{READ, Scratch};
use super::sink::{Sink, Taken};
use super::spool::{Progress, Spool};
use super::stdio::{Output, Spooling};
use windlass_sys::pipe;
use windlass_sys::stream::{self, Moved};
use windlass_sys::{Result, SyscallError};

/// Capacity of pipes: by default, and while much is spliced through them. In wide pipes, writer, shim and
/// reader take fewer turns for the same bytes. Pipes are not always wide, because the kernel limits the sum of
/// the pipe sizes of a user (`pipe-user-pages-soft`, pipe(7)), and root has the pipes of many containers.
const NARROW: usize = 64 * 1024;
const WIDE: usize = 1024 * 1024;

/// Bytes spliced at once, and reads in a row, before other descriptors have their turn.
const SPLICE: usize = 1024 * 1024;
const TURNS: usize = 8;

/// Reads in a row after the process has ended: enough for all that a pipe can hold.
const LAST_TURNS: usize = 64;

/// Failed reads in a row before the source is given up. Its process then dies by SIGPIPE.
const READ_ATTEMPTS: usize = 3;

/// Bytes that are taken from the process while its fifo has no reader and no output is kept: as many as the fifo
/// itself holds.
const ROOM: usize = 64 * 1024;

/// One stream of output, standard output or standard error.
#[derive(Debug)]
pub(super) struct Outlet {
    pub(super) stream: Stream,
    /// `None` before the runtime has sent the terminal, and after the end.
    pub(super) source: Option<Source>,
    pub(super) source_key: u64,
    pub(super) sink: Sink,
    pub(super) sink_key: u64,
    /// Whether epoll(7) reports room in the sink.
    pub(super) sink_watched: bool,
    /// Bytes that were read, and that the sink has not taken yet.
    pub(super) pending: Vec<u8>,
    /// Bytes that were read after `pending`, while the sink had no reader.
    pub(super) spool: Option<Box<Spool>>,
    /// What the bytes in `pending` and `spool` wait for.
    pub(super) backlog: Backlog,
    pub(super) hold: Hold,
    /// Whether the process has ended and its output was drained. A reader that comes gets the rest.
    pub(super) over: bool,
    pub(super) dropped: u64,
    /// Why output was lost, until that is reported.
    pub(super) warning: Option<String>,
    pub(super) flow: Flow,
}

/// State that the outlets of a process share.
pub(super) struct OutletContext<'a> {
    pub(super) logs: &'a mut Vec<Logger>,
    pub(super) clients: &'a mut Vec<Client>,
    pub(super) poll: &'a Poll,
    pub(super) scratch: &'a mut Scratch,
    /// Whether the process lives. If it does, a terminal that was hung up may be opened again.
    pub(super) alive: bool,
    /// Whether epoll(7) has told of a hang-up and of nothing to read. Only read(2) tells whether that is the end.
    pub(super) seems_ended: bool,
}

impl Outlet {
    pub(super) fn new(stream: Stream, output: Output, spooling: &Spooling, serial: u32) -> Result<Outlet> {
        let sub = stream as u16;
        let mut sink = Sink::open(output)?;
        let keeps = sink.fifo().is_some() && spooling.max > 0;
        Ok(Outlet {
            stream,
            source: None,
            source_key: key(Kind::Source, serial, sub),
            sink,
            sink_key: key(Kind::Sink, serial, sub),
            sink_watched: false,
            pending: Vec::new(),
            spool: keeps.then(|| Box::new(Spool::new(spooling.clone(), key(Kind::Spool, serial, sub)))),
            backlog: Backlog::None,
            hold: Hold::Released { message: Vec::new() },
            over: false,
            dropped: 0,
            warning: None,
            flow: Flow::default(),
        })
    }

    /// Reads from this pipe or terminal.
    pub(super) fn read_from(&mut self, fd: OwnedFd, terminal: bool, poll: &Poll) -> Result<()> {
        poll.watch(&fd, self.source_key, Interest::Read)?;
        self.source = Some(Source { fd, terminal, reading: Reading::Watched });
        Ok(())
    }

    /// Holds the output back, because the runtime writes to this stream too until its call has ended.
    pub(super) fn hold_back(&mut self) {
        self.hold = Hold::Held(Vec::new());
    }

    /// Ends [`Outlet::hold_back`], because the call of the runtime has ended. If it has `failed`, the held output is
    /// its error message, otherwise output of the process.
    pub(super) fn release(&mut self, failed: bool, context: &mut OutletContext<'_>) {
        let Hold::Held(held) = &mut self.hold else { return };
        let held = std::mem::take(held);
        self.hold = Hold::Released { message: Vec::new() };
        if failed {
            self.hold = Hold::Released { message: held };
        } else {
            self.deliver(&held, context);
            // Only a pump watches for what the rest waits for.
            if self.backlog != Backlog::None {
                self.pump(context);
            }
        }
    }

    /// The error message of the runtime, once.
    pub(super) fn take_message(&mut self) -> Vec<u8> {
        match &mut self.hold {
            Hold::Held(_) => Vec::new(),
            Hold::Released { message } => std::mem::take(message),
        }
    }

    /// Whether everything was read, and written to the sink. A fifo need not have taken it, because its reader may be
    /// away or come late; see [`Outlet::is_taken`].
    pub(super) fn is_drained(&self) -> bool {
        self.source.is_none() && (self.pending.is_empty() || matches!(self.sink, Sink::Fifo(_)))
    }

    /// Whether no reader is still taking the rest. The shim does not wait for a reader that is away or stands still.
    pub(super) fn is_taken(&self) -> bool {
        self.source.is_some() || !matches!(&self.sink, Sink::Fifo(fifo) if fifo.is_being_read())
    }

    /// Bytes that could not be passed on.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped + self.spool.as_ref().map_or(0, |spool| spool.dropped())
    }

    /// Bytes that were read and wait for a reader. Those in the fifo are not among them.
    pub(super) fn unsent(&self) -> u64 {
        self.pending.len() as u64 + self.spool.as_ref().map_or(0, |spool| spool.len())
    }

    /// Why output is lost or cannot be kept, once.
    pub(super) fn take_warning(&mut self) -> Option<String> {
        self.warning.take().or_else(|| self.spool.as_mut().and_then(|spool| spool.take_warning()))
    }

    /// Moves as much as possible.
    pub(super) fn pump(&mut self, context: &mut OutletContext<'_>) {
        self.spool.iter_mut().for_each(|spool| spool.check_writer());
        let stop = self.move_all(context);
        // If a reader has just come, the watch for it has ended, and the room in the sink is watched in its place.
        let lacks_reader = self.backlog.needs_reader() && self.sink.lacks_reader();
        let (reading, room) = stop.waits(self.backlog, lacks_reader);
        self.watch(reading, room, context.poll);
        // After the last byte the reader gets the end.
        let ended = self.over || !context.alive;
        if ended && self.source.is_none() && matches!(self.hold, Hold::Released { .. }) {
            let unsent = self.unsent();
            if unsent == 0 {
                self.sink.end(context.poll);
            }
            self.sink.fifo().into_iter().for_each(|fifo| fifo.note_unread(unsent));
        }
    }

    /// Moves bytes until there is a reason to stop.
    fn move_all(&mut self, context: &mut OutletContext<'_>) -> Stop {
        let mut stop = Stop::Turn;
        for _ in 0..if context.alive { TURNS } else { LAST_TURNS } {
            stop = Stop::Turn;
            let flushed = self.flush(context.poll);
            let room = if flushed { READ } else { self.room(context.alive) };
            let client_full = context.clients.iter().any(Client::is_full);
            if let Some(stop) = Stop::before(room, client_full, self.source.is_some()) {
                return stop;
            }
            let moved = self.move_some(room.min(READ), context);
            match Step::after(moved, context.alive, self.is_terminal()) {
                Step::Again => {}
                Step::Copy => {
                    stop = Stop::Behind;
                    if !matches!(self.copy(READ, context), Ok(Moved::Bytes(_))) {
                        return stop;
                    }
                }
                Step::Stop(stop) => {
                    if stop == Stop::Ended {
                        self.close_source(context.poll);
                    }
                    return stop;
                }
            }
        }
        stop
    }

    fn is_terminal(&self) -> bool {
        self.source.as_ref().is_some_and(|source| source.terminal)
    }

    /// How many bytes may be read while others wait already. With a slow reader there is no room, so the process is
    /// held back. While a fifo has no reader, the room is that of the spool, or [`ROOM`] without one. After the end of
    /// the process, the room grows by the whole content of its pipe, and by one byte, because only a read(2) of at
    /// least one byte finds the end.
    fn room(&mut self, alive: bool) -> usize {
        if self.sink.fifo().is_none() {
            return 0;
        }
        let rest = self.source.as_ref().filter(|_| !alive);
        let rest = rest.map(|source| KEPT + pipe::capacity(source.fd.as_fd()).max(ROOM) + 1);
        let (lacks_reader, keeps) = (self.sink.lacks_reader(), self.keeps());
        match (&mut self.spool, rest) {
            (Some(spool), Some(rest)) if keeps => spool.last_room(rest),
            // A reader that is attached gets the waiting bytes in large pieces.
            (Some(spool), None) if keeps => Some(spool.room(lacks_reader)).filter(|room| *room >= LITTLE).unwrap_or(0),
            (_, Some(rest)) => (ROOM + rest).saturating_sub(self.pending.len()),
            (_, None) if lacks_reader => ROOM.saturating_sub(self.pending.len()),
            _ => 0,
        }
    }

    /// Whether the next bytes that are read go to the spool.
    fn keeps(&mut self) -> bool {
        self.spool.as_ref().is_some_and(|spool| !spool.is_empty() || self.sink.lacks_reader())
    }

    /// Continues reading if that has waited for clients.
    pub(super) fn resume(&mut self, context: &mut OutletContext<'_>) {
        if self.is_held_back() {
            self.pump(context);
        }
    }

    /// Whether the outlet waits until its fifo has a reader, or its reader reads.
    pub(super) fn waits_for_a_reader(&mut self) -> bool {
        self.sink.fifo().is_some_and(|fifo| fifo.waits())
    }

    /// When to look at the sink although nothing is reported.
    pub(super) fn next_retry(&self) -> Option<Instant> {
        let spool = self.spool.as_ref().and_then(|spool| spool.next_retry());
        self.sink.next_retry().into_iter().chain(spool).min()
    }

    /// Counts bytes that were moved. If they are many, the pipes become wide.
    fn count(&mut self, n: usize) {
        if self.flow.count(n) {
            self.set_capacity(WIDE);
        }
    }

    /// Narrows the pipes after a pause.
    pub(super) fn narrow_pipes(&mut self) {
        if self.flow.pause() {
            self.set_capacity(NARROW);
        }
    }

    fn set_capacity(&self, bytes: usize) {
        if let (Some(source), Some(sink)) = (&self.source, self.sink.pipe()) {
            pipe::set_capacity(source.fd.as_fd(), bytes);
            pipe::set_capacity(sink, bytes);
        }
    }

    /// Moves some bytes from the source: by a splice, if the sink alone gets them.
    fn move_some(&mut self, limit: usize, context: &mut OutletContext<'_>) -> MoveResult {
        let released = matches!(self.hold, Hold::Released { .. });
        let direct = context.logs.is_empty() && context.clients.is_empty() && released && !self.is_terminal();
        let nothing_waits = self.pending.is_empty() && self.spool.as_ref().is_none_or(|spool| spool.is_empty());
        if let (true, true, Some(source)) = (direct, nothing_waits, &self.source)
            && self.sink.pipe().is_some()
            && !self.sink.lacks_reader()
            && !context.seems_ended
            && (self.flow.last_move >= NARROW || stream::waiting(source.fd.as_fd()) >= LITTLE)
        {
            match self.sink.splice(source.fd.as_fd(), SPLICE, context.poll) {
                Taken::Bytes(n) => {
                    self.count(n);
                    return MoveResult::Bytes(n);
                }
                Taken::Later if stream::waiting(source.fd.as_fd()) > 0 => return MoveResult::Full,
                // Only read(2) distinguishes an empty pipe from one that has ended.
                Taken::Later | Taken::NoReader => {}
                Taken::Gone => self.sink = Sink::None,
            }
        }
        self.flow.last_move = 0;
        match self.copy(limit, context) {
            Ok(Moved::Bytes(n)) => {
                if direct {
                    self.count(n);
                }
                MoveResult::Bytes(n)
            }
            Ok(Moved::Later) => MoveResult::Nothing,
            Ok(Moved::End) => MoveResult::End,
            Err(failed) => {
                self.lose(&failed);
                MoveResult::End
            }
        }
    }

    fn copy(&mut self, limit: usize, context: &mut OutletContext<'_>) -> Result<Moved> {
        let Some(source) = &self.source else { return Ok(Moved::End) };
        let buffer = &mut context.scratch.input()[..limit];
        let mut moved = stream::read(source.fd.as_fd(), buffer);
        for _ in 1..READ_ATTEMPTS {
            if moved.is_ok() || self.has_hung_up(&moved) {
                break;
            }
            moved = stream::read(source.fd.as_fd(), buffer);
        }
        if let Ok(Moved::Bytes(n)) = moved {
            self.route(n, context);
        }
        moved
    }

    /// Whether the read failed because no process has the other side of the terminal open. That is no fault.
    fn has_hung_up(&self, read: &Result<Moved>) -> bool {
        self.is_terminal() && read.as_ref().is_err_and(|failed| failed.errno == Errno::EIO)
    }

    /// Gives up a source that cannot be read. Counts the bytes that are lost with it, at least, and reports them.
    fn lose(&mut self, failed: &SyscallError) {
        if self.has_hung_up(&Err(failed.clone())) {
            return;
        }
        let lost = self.source.as_ref().map_or(0, |source| stream::waiting(source.fd.as_fd())).max(1);
        self.dropped += lost as u64;
        self.warning = Some(format!("its output cannot be read: at least {lost} bytes are lost: {failed}"));
    }

    /// Passes on the first `n` bytes of the scratch memory.
    fn route(&mut self, n: usize, context: &mut OutletContext<'_>) {
        let (bytes, output) = context.scratch.read_and_output(n);
        if let Hold::Held(held) = &mut self.hold {
            held.extend_from_slice(bytes);
            if held.len() > KEPT {
                let all = std::mem::take(held);
                self.hold = Hold::Released { message: all[..KEPT].to_vec() };
                self.deliver(&all, context);
            }
            return;
        }
        context.logs.iter_mut().for_each(|log| log.write(self.stream, bytes, output));
        copy_to_clients(self.stream, bytes, context.clients, context.poll);
        self.pass_on(bytes, context.poll);
    }

    /// Passes on bytes that are not in the scratch memory.
    fn deliver(&mut self, bytes: &[u8], context: &mut OutletContext<'_>) {
        for piece in bytes.chunks(READ) {
            let output = context.scratch.output();
            context.logs.iter_mut().for_each(|log| log.write(self.stream, piece, output));
            copy_to_clients(self.stream, piece, context.clients, context.poll);
            self.pass_on(piece, context.poll);
        }
    }

    fn pass_on(&mut self, bytes: &[u8], poll: &Poll) {
        match &self.sink {
            Sink::None => {}
            Sink::Pipe(_) | Sink::Fifo(_) => {
                if self.keeps() {
                    let lacks_reader = self.sink.lacks_reader();
                    self.spool.iter_mut().for_each(|spool| spool.push(bytes, lacks_reader, poll));
                } else {
                    self.pending.extend_from_slice(bytes);
                }
                self.flush(poll);
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

    /// Writes the bytes that wait. Returns false if a part of them has to wait longer.
    fn flush(&mut self, poll: &Poll) -> bool {
        loop {
            self.backlog = if self.flush_pending(poll) { Backlog::None } else { Backlog::Room };
            let nothing_pends = self.backlog == Backlog::None;
            let Some(spool) = self.spool.as_mut().filter(|spool| nothing_pends && !spool.is_empty()) else {
                return nothing_pends;
            };
            if self.sink.lacks_reader() {
                spool.pause();
                self.backlog = Backlog::Reader;
                return false;
            }
            if let Some(mark) = spool.mark() {
                self.pending = mark;
                continue;
            }
            match spool.deliver(&mut self.sink, poll) {
                Progress::Moved => {}
                Progress::Gone => {
                    self.dropped += spool.clear();
                    self.sink = Sink::None;
                    return true;
                }
                Progress::Full => self.backlog = Backlog::Room,
                Progress::NoReader => self.backlog = Backlog::Reader,
                Progress::Waits => self.backlog = Backlog::File,
            }
            if self.backlog != Backlog::None {
                return false;
            }
        }
    }

    /// Writes `pending`. Returns false if a part of it has to wait.
    fn flush_pending(&mut self, poll: &Poll) -> bool {
        let mut done = 0;
        while done < self.pending.len() && !self.sink.lacks_reader() {
            match self.sink.write(&self.pending[done..], poll) {
                Taken::Bytes(n) => done += n,
                Taken::Later | Taken::NoReader => break,
                Taken::Gone => {
                    self.dropped += (self.pending.len() - done) as u64;
                    self.sink = Sink::None;
                    done = self.pending.len();
                }
            }
        }
        self.pending.drain(..done);
        if self.pending.is_empty() {
            // Free the memory, because readers seldom stall.
            self.pending = Vec::new();
        }
        self.pending.is_empty()
    }

    /// Watches the source for bytes and the sink for room, or stops that. It must stop before a close, because a child
    /// that writes to a disk may have a copy, whose hang-up would be reported all the time.
    fn watch(&mut self, reading: Reading, sink: bool, poll: &Poll) {
        if let Some(source) = &mut self.source {
            let (before, now) = (source.reading == Reading::Watched, reading == Reading::Watched);
            source.reading = reading;
            if now && !before && poll.watch(&source.fd, self.source_key, Interest::Read).is_err() {
                source.reading = Reading::Paused;
            }
            if before && !now {
                poll.forget(&source.fd);
            }
        }
        if let (Some(fd), true) = (self.sink.pipe(), sink != self.sink_watched) {
            self.sink_watched = sink;
            if sink {
                self.sink_watched = poll.watch(fd, self.sink_key, Interest::Write).is_ok();
            } else {
                poll.forget(fd);
            }
        }
    }

    /// Whether there is a sink besides logs and clients.
    pub(super) fn has_sink(&self) -> bool {
        !matches!(self.sink, Sink::None)
    }

    /// Whether reading waits for a client that is full.
    pub(super) fn is_held_back(&self) -> bool {
        self.source.as_ref().is_some_and(|source| source.reading == Reading::AwaitsClients)
    }

    fn close_source(&mut self, poll: &Poll) {
        self.watch(Reading::Paused, self.sink_watched, poll);
        self.source = None;
    }

    /// Whether no process has the other side of the terminal open at the moment.
    pub(super) fn is_hung_up(&self) -> bool {
        self.source.as_ref().is_some_and(|source| source.reading == Reading::HungUp)
    }

    /// Reads a terminal that was hung up again.
    pub(super) fn retry_hung_up(&mut self, context: &mut OutletContext<'_>) {
        if self.is_hung_up() {
            self.pump(context);
        }
    }

    /// Closes source and sink. Bytes that were not taken are dropped.
    pub(super) fn finish(&mut self, poll: &Poll) {
        self.watch(Reading::Paused, false, poll);
        self.source = None;
        self.dropped += self.pending.len() as u64 + self.spool.as_mut().map_or(0, |spool| spool.clear());
        self.pending = Vec::new();
        self.sink = Sink::None;
    }

    /// Ends an outlet that was drained. A reader of the sink gets the rest, and then the end.
    pub(super) fn end(&mut self, context: &mut OutletContext<'_>) {
        self.over = true;
        if self.source.is_none() {
            self.pump(context);
        }
    }

    /// Whether a reader of the fifo is about to take output. With `late`, a reader that has not come yet counts too.
    pub(super) fn is_wanted(&mut self, late: bool) -> bool {
        let lacks_reader = self.sink.lacks_reader();
        let unsent = self.unsent() > 0;
        self.sink.fifo().is_some_and(|fifo| unsent && if lacks_reader { late && !fifo.had_reader } else { true })
    }
}

/// Gives every client a copy.
fn copy_to_clients(stream: Stream, bytes: &[u8], clients: &mut [Client], poll: &Poll) {
    clients.iter_mut().for_each(|client| client.give(stream, bytes, poll));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_that_cannot_be_read_is_counted_and_told() {
        let mut outlet = Outlet::new(Stream::Stdout, Output::None, &Spooling::default(), 1).expect("an outlet");
        // read(2) fails with EISDIR, whoever reads.
        let fd = windlass_sys::fd::open("/", nix::fcntl::OFlag::O_DIRECTORY).expect("a directory");
        outlet.source = Some(Source { fd, terminal: false, reading: Reading::Paused });
        let (poll, mut scratch) = (Poll::new().expect("epoll"), Scratch::new().expect("memory"));
        let (logs, clients) = (&mut Vec::new(), &mut Vec::new());
        let mut context =
            OutletContext { logs, clients, poll: &poll, scratch: &mut scratch, alive: true, seems_ended: false };
        assert!(matches!(outlet.move_some(READ, &mut context), MoveResult::End));
        assert!(outlet.dropped() > 0);
        assert!(outlet.take_warning().is_some_and(|why| why.contains("cannot be read")));
        assert_eq!(outlet.take_warning(), None);
    }
}
