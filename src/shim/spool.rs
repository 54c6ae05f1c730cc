//! Output that waits for the reader of a fifo: the newest in memory, and older output in a file.
//!
//! The oldest bytes are in the fifo itself. Those in the file follow, and then those in memory. While a spool has any,
//! new output is put behind them, so that the order stays. A byte leaves the spool when the kernel has taken it into
//! the fifo.
//!
//! The loop never waits for the disk. Children write to the file and read from it (`disk`); a disk that is slow
//! holds the process back when the memory is full.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::poll::{Interest, Poll};
use super::sink::{Sink, Taken};
use super::stdio::{Spooling, WhenFull};
use windlass_sys::pipe;
use windlass_sys::{clock, stream};

mod disk;

/// Bytes that are kept in memory before the file is used, and how many more while a child writes them to it.
const MEMORY: usize = 1024 * 1024;
const HEADROOM: usize = 512 * 1024;

/// Fewest bytes that are dropped at once if there is only memory.
const PIECE: usize = 64 * 1024;

/// After how many failed reads the content of the file counts as lost, and the pause between two reads. A child that
/// reads may be killed, or cannot be made, for want of memory.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_secs(1);

/// The outcome of writing the oldest bytes to the sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Some bytes were taken.
    Moved,
    /// The sink is full.
    Full,
    /// The child that reads the file has not written any bytes yet.
    Waits,
    /// The sink has no reader.
    NoReader,
    /// The sink will never take anything again.
    Gone,
}

/// A child that writes the oldest bytes in memory to the file.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) answer: OwnedFd,
    pub(super) bytes: usize,
    /// How many of these bytes the sink has taken from the memory meanwhile.
    pub(super) taken: usize,
}

/// A child that reads the file, from its oldest byte on, and the pipe that it writes to.
#[derive(Debug)]
pub(super) struct Feeder {
    pub(super) pipe: OwnedFd,
    pub(super) until: u64,
    pub(super) has_moved: bool,
    pub(super) is_watched: bool,
}

/// The output that waits.
#[derive(Debug)]
pub(super) struct Spool {
    pub(super) settings: Spooling,
    /// The key of the children.
    pub(super) key: u64,
    pub(super) memory: VecDeque<u8>,
    pub(super) file: Option<OwnedFd>,
    /// The positions of the oldest byte in the file, and of the byte after the newest. Modulo the largest size of the
    /// file they are offsets in it.
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) writer: Option<Writer>,
    pub(super) feeder: Option<Feeder>,
    /// Whether the file could not be written. The next attempt is made after the spool was empty.
    pub(super) has_failed: bool,
    /// Bytes that were dropped at the present beginning of the spool, and not yet reported to the reader.
    pub(super) lost: u64,
    /// Bytes that were dropped in all.
    pub(super) dropped: u64,
    /// Bytes of new output that are accepted while a reader is attached: half of what the reader takes. So a process
    /// that writes faster than its reader reads cannot keep the spool from becoming empty.
    pub(super) credit: usize,
    pub(super) warning: Option<String>,
    /// Failed reads of the file in a row, and the time of the next attempt.
    pub(super) failures: u32,
    pub(super) again: Option<Instant>,
}

impl Spool {
    pub(super) fn new(settings: Spooling, key: u64) -> Spool {
        Spool {
            settings,
            key,
            memory: VecDeque::new(),
            file: None,
            start: 0,
            end: 0,
            writer: None,
            feeder: None,
            has_failed: false,
            lost: 0,
            dropped: 0,
            credit: 0,
            warning: None,
            failures: 0,
            again: None,
        }
    }

    /// Watches the children again, in a new program.
    pub(super) fn watch_again(&mut self, poll: &Poll) -> windlass_sys::Result<()> {
        if let Some(writer) = &self.writer {
            poll.watch(&writer.answer, self.key, Interest::Read)?;
        }
        match self.feeder.as_ref().filter(|feeder| feeder.is_watched) {
            Some(feeder) => poll.watch(&feeder.pipe, self.key, Interest::Read),
            None => Ok(()),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0 && self.lost == 0
    }

    /// Number of bytes that wait.
    pub(super) fn len(&self) -> u64 {
        self.end - self.start + self.memory.len() as u64
    }

    /// Number of bytes that were dropped.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Why the file cannot be used. Returned once.
    pub(super) fn take_warning(&mut self) -> Option<String> {
        self.warning.take()
    }

    fn room_in_file(&self) -> u64 {
        self.settings.max - (self.end - self.start)
    }

    fn drops(&self) -> bool {
        self.settings.full == WhenFull::DropOldest
    }

    /// Whether a child writes the memory to the file, or can.
    fn can_spill(&self) -> bool {
        !self.has_failed && (self.writer.is_some() || self.room_in_file() > 0 || self.drops())
    }

    /// How many more bytes fit. `lacks_reader`: the sink has none.
    pub(super) fn room(&mut self, lacks_reader: bool) -> usize {
        let most = if self.can_spill() { MEMORY + HEADROOM } else { MEMORY };
        let room = most.saturating_sub(self.memory.len());
        if !lacks_reader {
            return room.min(self.credit);
        }
        self.credit = 0;
        // A child may be writing these bytes, so they cannot be dropped before it has ended.
        if self.drops() && self.writer.is_none() { MEMORY } else { room }
    }

    /// The room for the last `rest` bytes of a process that has ended: all of them fit.
    pub(super) fn last_room(&self, rest: usize) -> usize {
        (MEMORY + HEADROOM + rest).saturating_sub(self.memory.len())
    }

    /// Takes new output. `lacks_reader`: the sink has none.
    pub(super) fn push(&mut self, bytes: &[u8], lacks_reader: bool, poll: &Poll) {
        if self.memory.capacity() == 0 {
            self.memory.reserve_exact(MEMORY + HEADROOM);
        }
        self.credit = self.credit.saturating_sub(bytes.len());
        if lacks_reader && self.drops() && !self.can_spill() && self.memory.len() + bytes.len() > MEMORY {
            self.drop_from_memory(bytes.len());
        }
        self.memory.extend(bytes);
        if self.memory.len() >= MEMORY {
            self.spill(lacks_reader, poll);
        }
    }

    fn drop_from_memory(&mut self, bytes: usize) {
        if self.start == self.end && self.writer.is_none() {
            let n = bytes.max(PIECE).min(self.memory.len());
            self.memory.drain(..n);
            self.forget(n as u64);
        } else {
            self.drop_from_file(self.end - self.start);
        }
    }

    fn drop_from_file(&mut self, bytes: u64) {
        let n = bytes.min(self.end - self.start);
        self.start += n;
        self.forget(n);
    }

    fn forget(&mut self, bytes: u64) {
        self.lost += bytes;
        self.dropped += bytes;
    }

    /// Has the memory written to the file by a child.
    fn spill(&mut self, lacks_reader: bool, poll: &Poll) {
        if self.has_failed || self.writer.is_some() {
            return;
        }
        let wanted = self.memory.len() as u64;
        if lacks_reader && self.drops() && self.room_in_file() < wanted {
            self.drop_from_file(wanted - self.room_in_file());
        }
        let bytes = wanted.min(self.room_in_file()) as usize;
        if bytes == 0 {
            return;
        }
        let (one, two) = self.memory.as_slices();
        let pieces = disk::pieces(self.end, self.settings.max, [one, two], bytes);
        let started = disk::save(&self.settings.directory, self.file.as_ref(), &pieces)
            .and_then(|answer| poll.watch(&answer, self.key, Interest::Read).map(|()| answer));
        match started {
            Ok(answer) => self.writer = Some(Writer { answer, bytes, taken: 0 }),
            Err(failed) => self.fail(failed.errno),
        }
    }

    fn fail(&mut self, errno: Errno) {
        self.has_failed = true;
        let why = format!("output that nobody reads cannot be kept in {:?}: {}", self.settings.directory, errno.desc());
        self.warning = Some(why);
    }

    /// Checks whether the child that writes has ended.
    pub(super) fn check_writer(&mut self) {
        let Some(Writer { answer, .. }) = &self.writer else { return };
        let Some(result) = disk::answer(answer.as_fd()) else { return };
        let Some(Writer { bytes, taken, .. }) = self.writer.take() else { return };
        match result {
            Ok(made) => {
                self.file = self.file.take().or(made);
                self.memory.drain(..bytes - taken);
                self.end += bytes as u64;
                self.start += taken as u64;
            }
            Err(errno) => self.fail(errno),
        }
        self.settle();
    }

    /// Frees memory and file if nothing waits.
    fn settle(&mut self) {
        if !self.is_empty() || self.writer.is_some() {
            return;
        }
        (self.memory, self.feeder) = (VecDeque::new(), None);
        (self.has_failed, self.credit, self.failures, self.again) = (false, 0, 0, None);
        self.file.take().into_iter().for_each(disk::close);
    }

    /// The line by which the reader learns that bytes are missing.
    pub(super) fn mark(&mut self) -> Option<Vec<u8>> {
        let lost = std::mem::take(&mut self.lost);
        (lost > 0).then(|| format!("\n[windlass-shim: {lost} bytes of output were dropped here]\n").into_bytes())
    }

    /// Gives the oldest bytes to the sink.
    pub(super) fn deliver(&mut self, sink: &mut Sink, poll: &Poll) -> Progress {
        let progress = if self.start < self.end {
            self.deliver_file(sink, poll)
        } else {
            // The pipe of the child has ended, and epoll would report that again and again.
            self.feeder = None;
            self.deliver_memory(sink, poll)
        };
        if progress == Progress::NoReader {
            self.pause();
        }
        self.settle();
        progress
    }

    fn deliver_memory(&mut self, sink: &mut Sink, poll: &Poll) -> Progress {
        let (oldest, _) = self.memory.as_slices();
        match sink.write(oldest, poll) {
            Taken::Bytes(n) => {
                self.memory.drain(..n);
                self.credit += n / 2;
                // The file was empty, so these are the first bytes of those that a child may be writing to it.
                if let Some(writer) = &mut self.writer {
                    writer.taken += n.min(writer.bytes - writer.taken);
                }
                Progress::Moved
            }
            Taken::Later => Progress::Full,
            Taken::NoReader => Progress::NoReader,
            Taken::Gone => Progress::Gone,
        }
    }

    fn deliver_file(&mut self, sink: &mut Sink, poll: &Poll) -> Progress {
        if self.again.is_some_and(|at| at > clock::now()) {
            return Progress::Waits;
        }
        self.again = None;
        let Some(feeder) = self.feeder.as_mut() else { return self.feed() };
        let taken = sink.splice(feeder.pipe.as_fd(), (self.end - self.start) as usize, poll);
        match taken {
            Taken::Bytes(n) => {
                self.start += n as u64;
                self.credit += n / 2;
                feeder.has_moved = true;
                Progress::Moved
            }
            Taken::Later if stream::waiting(feeder.pipe.as_fd()) > 0 => {
                feeder.watch(false, self.key, poll);
                Progress::Full
            }
            Taken::Later if pipe::has_ended(feeder.pipe.as_fd()) => {
                let (arrived, moved) = (feeder.until <= self.start, feeder.has_moved);
                self.feeder = None;
                if arrived || moved {
                    self.failures = 0;
                    return Progress::Moved;
                }
                self.read_in_vain()
            }
            Taken::Later => {
                feeder.watch(true, self.key, poll);
                Progress::Waits
            }
            Taken::NoReader => Progress::NoReader,
            Taken::Gone => Progress::Gone,
        }
    }

    /// Starts a child that reads the file.
    fn feed(&mut self) -> Progress {
        let ranges = disk::ranges(self.start, self.end, self.settings.max);
        match self.file.as_ref().map(|file| disk::feed(file.as_fd(), &ranges)) {
            Some(Ok(pipe)) => {
                self.feeder = Some(Feeder { pipe, until: self.end, has_moved: false, is_watched: false });
                Progress::Moved
            }
            // The shim cannot make a process or pipe at the moment. That is no fault of the file.
            Some(Err(_)) => self.wait(),
            None => self.read_in_vain(),
        }
    }

    /// Schedules another attempt.
    fn wait(&mut self) -> Progress {
        self.again = Some(clock::now() + PAUSE);
        Progress::Waits
    }

    /// Counts a failed read of the file, and gives the content up after [`TRIES`] of them.
    fn read_in_vain(&mut self) -> Progress {
        self.failures += 1;
        if self.failures < TRIES {
            return self.wait();
        }
        self.failures = 0;
        self.drop_from_file(self.end - self.start);
        self.fail(Errno::EIO);
        Progress::Moved
    }

    /// Stops reading the file while the sink has no reader. The file keeps all that was not delivered.
    pub(super) fn pause(&mut self) {
        (self.feeder, self.again) = (None, None);
    }

    /// When to try again although nothing is reported.
    pub(super) fn next_retry(&self) -> Option<Instant> {
        self.again
    }

    /// Discards everything. Returns how many bytes waited.
    pub(super) fn clear(&mut self) -> u64 {
        let left = self.len();
        (self.memory, self.start, self.lost) = (VecDeque::new(), self.end, 0);
        self.writer = None;
        self.pause();
        self.settle();
        left
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.file.take().into_iter().for_each(disk::close);
    }
}

impl Feeder {
    /// Watches the pipe for bytes, or stops that.
    fn watch(&mut self, wanted: bool, key: u64, poll: &Poll) {
        if wanted == self.is_watched {
            return;
        }
        self.is_watched = wanted;
        if wanted {
            self.is_watched = poll.watch(&self.pipe, key, Interest::Read).is_ok();
        } else {
            poll.forget(&self.pipe);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Output;

    /// This program has threads, so no child can be forked here.
    #[test]
    fn a_file_that_cannot_be_read_now_is_read_later() {
        let directory = std::env::temp_dir().join(format!("windlass-spooled-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        let (path, fifo) = (directory.join("file"), directory.join("fifo"));
        std::fs::write(&path, "kept").expect("written");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o600)).expect("a fifo");
        let poll = Poll::new().expect("epoll");
        let flags = nix::fcntl::OFlag::O_RDONLY | nix::fcntl::OFlag::O_NONBLOCK;
        let _reader = windlass_sys::fd::open(&fifo, flags).expect("a reader");
        let mut sink = Sink::open(Output::Fifo(fifo)).expect("a sink");
        let mut spool = Spool::new(Spooling { max: 10, ..Spooling::default() }, 1);
        (spool.file, spool.end) = (Some(std::fs::File::open(&path).expect("a file").into()), 4);
        // The content is never given up for want of a process.
        for _ in 0..2 * TRIES {
            spool.again = None;
            assert_eq!(spool.deliver(&mut sink, &poll), Progress::Waits);
            assert_eq!((spool.len(), spool.dropped()), (4, 0));
        }
        assert!(spool.next_retry().is_some_and(|at| at > clock::now()));
        spool.pause();
        assert_eq!(spool.next_retry(), None, "nothing is tried while there is no reader");
        std::fs::remove_dir_all(&directory).expect("removed");
    }
}
