//! Where one stream of output goes, apart from logs and attached clients.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::notifier::{Change, Watch};
use super::poll::Poll;
use super::stdio::Output;
use windlass_sys::stream::{self, Moved};
use windlass_sys::{Result, fd};

/// Time between two looks at a fifo. It is needed where inotify is not available, and for a reader that uses
/// splice(2), of which older kernels report nothing.
const AGAIN: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_millis(20);

/// What a sink has taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// This many bytes.
    Bytes(usize),
    /// Nothing, because it is full; after a splice(2) also because there was nothing to take.
    Later,
    /// Nothing, because it has no reader at the moment.
    Alone,
    /// Nothing, and it never will again.
    Gone,
}

#[derive(Debug)]
pub(super) enum Sink {
    None,
    /// A pipe of the front end; its reader never comes back.
    Pipe(OwnedFd),
    /// A fifo: readers go and come back.
    Fifo(Fifo),
    /// Appended to.
    File(OwnedFd),
}

/// The write end of a fifo. No read end is held, so that the kernel tells when nobody reads (EPIPE,
/// EPOLLERR). What is in the fifo stays there as long as this end is open (fifo(7), pipe(7)).
#[derive(Debug)]
pub(super) struct Fifo {
    end: OwnedFd,
    /// Whether it has no reader, as far as we know.
    alone: bool,
    /// Whether it ever had a reader.
    pub(super) met: bool,
    watch: Option<Watch>,
    look_at: Option<Instant>,
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
                let (end, met) = open_fifo(&path)?;
                let is_fifo = fd::stat(end.as_fd())?.st_mode & libc::S_IFMT == libc::S_IFIFO;
                if !is_fifo {
                    return Ok(Sink::File(end));
                }
                Sink::Fifo(Fifo { end, alone: false, met, watch: None, look_at: None })
            }
            Output::File(path) => {
                // Without blocking, so that a fifo without a reader is ENXIO and not waited for.
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

    /// Whether nobody reads it at the moment; looks.
    pub(super) fn is_alone(&mut self) -> bool {
        self.fifo().is_some_and(Fifo::is_alone)
    }

    /// Gives it bytes.
    pub(super) fn write(&mut self, bytes: &[u8], poll: &Poll) -> Taken {
        match self.pipe().map(|pipe| stream::write(pipe, bytes)) {
            None => Taken::Gone,
            Some(result) => self.taken(result.map_err(|failed| failed.errno), poll),
        }
    }

    /// Gives it bytes of another pipe, which keeps what is not taken.
    pub(super) fn splice(&mut self, source: BorrowedFd<'_>, most: usize, poll: &Poll) -> Taken {
        match self.pipe().map(|pipe| stream::splice(source, pipe, most)) {
            None => Taken::Gone,
            Some(result) => self.taken(result.map_err(|failed| failed.errno), poll),
        }
    }

    fn taken(&mut self, result: std::result::Result<Moved, Errno>, poll: &Poll) -> Taken {
        match (result, self.fifo()) {
            (Ok(Moved::Bytes(n)), fifo) => {
                fifo.into_iter().for_each(|fifo| fifo.met = true);
                Taken::Bytes(n)
            }
            (Ok(Moved::Later | Moved::End), _) => Taken::Later,
            (Err(Errno::EPIPE), Some(fifo)) => {
                if fifo.wait_for_a_reader(poll) {
                    Taken::Alone
                } else {
                    Taken::Later
                }
            }
            (Err(_), _) => Taken::Gone,
        }
    }

    /// When it is to be looked at by itself.
    pub(super) fn look_at(&self) -> Option<Instant> {
        match self {
            Sink::Fifo(fifo) => fifo.look_at,
            _ => None,
        }
    }

    /// Nothing more will come. A fifo is closed when a reader has taken everything in it.
    pub(super) fn end(&mut self, poll: &Poll) {
        if self.fifo().is_none_or(|fifo| fifo.is_done(poll)) {
            *self = Sink::None;
        }
    }
}

impl Fifo {
    /// Whether it has asked to be told of a reader.
    pub(super) fn waits(&self) -> bool {
        self.alone || self.watch.is_some()
    }

    fn is_alone(&mut self) -> bool {
        if self.alone && stream::has_reader(self.end.as_fd()) {
            (self.alone, self.met) = (false, true);
            (self.watch, self.look_at) = (None, None);
        }
        self.alone
    }

    /// Asks to be told of a reader. False: one has just come.
    fn wait_for_a_reader(&mut self, poll: &Poll) -> bool {
        self.watch(poll, None);
        self.alone = true;
        self.is_alone()
    }

    fn watch(&mut self, poll: &Poll, look_again: Option<Duration>) {
        if self.watch.is_none() {
            // Without inotify the fifo is looked at again after a while.
            self.watch = poll.notify(&stream::path_of(self.end.as_fd()), Change::Reader).ok();
        }
        let pause = if self.watch.is_some() { look_again } else { Some(look_again.map_or(AGAIN, |_| SOON)) };
        self.look_at = pause.map(|pause| Instant::now() + pause);
    }

    /// Whether there is a reader, and nothing is left for it to read; else asks to be told.
    fn is_done(&mut self, poll: &Poll) -> bool {
        if self.is_alone() {
            return false;
        }
        if !stream::has_reader(self.end.as_fd()) && self.wait_for_a_reader(poll) {
            return false;
        }
        self.met = true;
        if stream::waiting(self.end.as_fd()) == 0 {
            return true;
        }
        self.watch(poll, Some(AGAIN));
        // The reader may have taken it before the watch was there.
        stream::waiting(self.end.as_fd()) == 0
    }
}

/// The write end of the fifo at `path`, and whether it has a reader. A file in its place is
/// appended to.
fn open_fifo(path: &Path) -> Result<(OwnedFd, bool)> {
    let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_APPEND;
    match fd::open(path, flags) {
        // A fifo can be opened for writing without waiting only if it has a reader, so we are one for a moment.
        Err(failed) if failed.errno == Errno::ENXIO => {
            let both = fd::open(path, OFlag::O_RDWR | OFlag::O_NONBLOCK)?;
            Ok((fd::reopen(both.as_fd(), flags)?, false))
        }
        other => Ok((other?, true)),
    }
}
