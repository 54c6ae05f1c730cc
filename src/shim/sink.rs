//! The target of one stream of output, apart from logs and attached clients.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::notifier::{Change, Watch};
use super::poll::Poll;
use super::stdio::Output;
use windlass_sys::pipe;
use windlass_sys::stream::{self, Moved};
use windlass_sys::{Result, clock, fd};

/// Time between two looks at a fifo. Looking is needed where inotify is not available, and for readers that use
/// splice(2), which older kernels do not report.
const AGAIN: Duration = Duration::from_secs(1);
/// The same while a reader is about to take the rest.
const SOON: Duration = Duration::from_millis(20);

/// How long a reader may take nothing before the end of the process is reported without it.
const PATIENCE: Duration = Duration::from_secs(2);

/// The outcome of writing to a sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// The sink has taken this many bytes.
    Bytes(usize),
    /// The sink is full. After a splice(2) also: the source was empty.
    Later,
    /// The sink has no reader at the moment.
    NoReader,
    /// The sink will never take anything again.
    Gone,
}

#[derive(Debug)]
pub(super) enum Sink {
    None,
    /// A pipe of the front end. A reader that has left does not come back.
    Pipe(OwnedFd),
    /// A fifo. Readers may leave and come back.
    Fifo(Fifo),
    /// A file, which is appended to.
    File(OwnedFd),
}

/// The write end of a fifo. The shim holds no read end, so the kernel reports when there is no reader (EPIPE,
/// EPOLLERR). The content of the fifo stays as long as this end is open (fifo(7), pipe(7)).
#[derive(Debug)]
pub(super) struct Fifo {
    pub(super) end: OwnedFd,
    /// Whether the fifo had no reader at the last look.
    pub(super) without_reader: bool,
    /// Whether the fifo ever had a reader.
    pub(super) had_reader: bool,
    /// Whether nothing was ever written to it.
    pub(super) untouched: bool,
    pub(super) watch: Option<Watch>,
    pub(super) next_retry: Option<Instant>,
    /// Bytes that the reader had not taken at the last look after the end of the process.
    pub(super) left: u64,
    /// Since when `left` is unchanged.
    pub(super) since: Option<Instant>,
}

impl Sink {
    pub(super) fn open(output: Output) -> Result<Sink> {
        Ok(match output {
            Output::None | Output::Attach | Output::Inherit => Sink::None,
            Output::Fd(pipe) => {
                stream::never_block(pipe.as_fd())?;
                Sink::Pipe(pipe)
            }
            Output::Fifo(path) => {
                let (end, had_reader) = open_fifo(&path)?;
                let is_fifo = fd::stat(end.as_fd())?.st_mode & libc::S_IFMT == libc::S_IFIFO;
                if !is_fifo {
                    return Ok(Sink::File(end));
                }
                Sink::Fifo(Fifo {
                    end,
                    without_reader: false,
                    had_reader,
                    untouched: true,
                    watch: None,
                    next_retry: None,
                    left: 0,
                    since: None,
                })
            }
            Output::File(path) => {
                // O_NONBLOCK makes a fifo without a reader an error (ENXIO); otherwise the open would wait.
                let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_APPEND | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
                Sink::File(fd::openat(fd::CWD, &path, flags, 0o600)?)
            }
        })
    }

    /// The descriptor of a pipe or a fifo.
    pub(super) fn pipe(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Sink::Pipe(end) | Sink::Fifo(Fifo { end, .. }) => Some(end.as_fd()),
            Sink::None | Sink::File(_) => None,
        }
    }

    pub(super) fn fifo(&mut self) -> Option<&mut Fifo> {
        match self {
            Sink::Fifo(fifo) => Some(fifo),
            _ => None,
        }
    }

    /// Checks whether the sink is a fifo without a reader.
    pub(super) fn lacks_reader(&mut self) -> bool {
        self.fifo().is_some_and(Fifo::lacks_reader)
    }

    /// Writes bytes to the sink.
    pub(super) fn write(&mut self, bytes: &[u8], poll: &Poll) -> Taken {
        match self.pipe().map(|pipe| stream::write(pipe, bytes)) {
            None => Taken::Gone,
            Some(result) => self.taken(result.map_err(|failed| failed.errno), poll),
        }
    }

    /// Moves bytes to the sink from another pipe, which keeps the rest.
    pub(super) fn splice(&mut self, source: BorrowedFd<'_>, most: usize, poll: &Poll) -> Taken {
        match self.pipe().map(|pipe| stream::splice(source, pipe, most)) {
            None => Taken::Gone,
            Some(result) => self.taken(result.map_err(|failed| failed.errno), poll),
        }
    }

    fn taken(&mut self, result: std::result::Result<Moved, Errno>, poll: &Poll) -> Taken {
        match (result, self.fifo()) {
            (Ok(Moved::Bytes(n)), fifo) => {
                fifo.into_iter().for_each(|fifo| (fifo.had_reader, fifo.untouched) = (true, false));
                Taken::Bytes(n)
            }
            (Ok(Moved::Later | Moved::End), _) => Taken::Later,
            (Err(Errno::EPIPE), Some(fifo)) => {
                if fifo.wait_for_a_reader(poll) {
                    Taken::NoReader
                } else {
                    Taken::Later
                }
            }
            (Err(_), _) => Taken::Gone,
        }
    }

    /// When to look at the sink although nothing is reported.
    pub(super) fn next_retry(&self) -> Option<Instant> {
        match self {
            Sink::Fifo(fifo) => fifo.next_retry,
            _ => None,
        }
    }

    /// Ends the sink. A fifo is closed when a reader has taken its content.
    pub(super) fn end(&mut self, poll: &Poll) {
        if self.fifo().is_none_or(|fifo| fifo.is_done(poll)) {
            *self = Sink::None;
        }
    }
}

impl Fifo {
    /// Whether the fifo waits until it has a reader, or its reader reads.
    pub(super) fn waits(&self) -> bool {
        self.without_reader || self.watch.is_some()
    }

    fn lacks_reader(&mut self) -> bool {
        if self.without_reader && pipe::has_reader(self.end.as_fd()) {
            (self.without_reader, self.had_reader) = (false, true);
            (self.watch, self.next_retry) = (None, None);
        }
        self.without_reader
    }

    /// Waits for a reader. Returns false if a reader has just come.
    fn wait_for_a_reader(&mut self, poll: &Poll) -> bool {
        self.watch(poll, None);
        self.without_reader = true;
        self.lacks_reader()
    }

    /// Watches again what the previous program watched. The caller looks for changes that were missed.
    pub(super) fn watch_again(&mut self, poll: &Poll) {
        if self.watch.take().is_some() {
            let retry_after = self.next_retry.map(|_| AGAIN);
            self.watch(poll, retry_after);
        }
    }

    fn watch(&mut self, poll: &Poll, retry_after: Option<Duration>) {
        if self.watch.is_none() {
            // Without inotify the shim looks at the fifo again after a while.
            self.watch = poll.notify(&fd::proc_path(self.end.as_fd()), Change::Reader).ok();
        }
        let pause = if self.watch.is_some() { retry_after } else { Some(retry_after.map_or(AGAIN, |_| SOON)) };
        self.next_retry = pause.map(|pause| clock::now() + pause);
    }

    /// Whether a reader still takes bytes.
    pub(super) fn is_being_read(&self) -> bool {
        !self.without_reader && self.since.is_none_or(|since| clock::now() < since + PATIENCE)
    }

    /// Notes after the end of the process whether the reader goes on. `unsent` bytes are not in the fifo yet.
    pub(super) fn note_unread(&mut self, unsent: u64) {
        let (now, left) = (clock::now(), unsent + stream::waiting(self.end.as_fd()) as u64);
        if self.since.is_none() || left != self.left {
            (self.left, self.since) = (left, Some(now));
        }
        // Otherwise the outlet sets the next look itself.
        if unsent > 0 && !self.without_reader {
            self.next_retry = self.since.map(|since| since + PATIENCE).filter(|at| *at > now);
        }
    }

    /// Whether a reader has read everything. If not, the fifo is watched for that.
    fn is_done(&mut self, poll: &Poll) -> bool {
        if self.lacks_reader() {
            return false;
        }
        if !pipe::has_reader(self.end.as_fd()) && self.wait_for_a_reader(poll) {
            return false;
        }
        self.had_reader = true;
        if self.untouched || stream::waiting(self.end.as_fd()) == 0 {
            return true;
        }
        self.watch(poll, Some(AGAIN));
        // The reader may have read it all before the watch existed.
        stream::waiting(self.end.as_fd()) == 0
    }
}

/// The write end of the fifo at `path`, and whether it has a reader. If the path is that of a regular file, the file is
/// opened for appending.
fn open_fifo(path: &Path) -> Result<(OwnedFd, bool)> {
    let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_APPEND;
    match fd::open(path, flags) {
        // A fifo can be opened for writing without waiting only if it has a reader. So the shim is one for a moment.
        Err(failed) if failed.errno == Errno::ENXIO => {
            let both = fd::open(path, OFlag::O_RDWR | OFlag::O_NONBLOCK)?;
            Ok((fd::reopen(both.as_fd(), flags)?, false))
        }
        other => Ok((other?, true)),
    }
}
