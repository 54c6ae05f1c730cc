//! One direction of a relay: from a source, through a bounded queue, to a sink.
//!
//! A channel names the events that it waits for, and handles those that poll(2) reports. A read or write that
//! might block is done only after poll(2) has reported that it will not.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use nix::errno::Errno;
use nix::poll::PollFlags;

use windlass_sys::SyscallError;
use windlass_sys::stdio::CallerStream;
use windlass_sys::stream::{self, Moved};

/// Most bytes that are queued while the sink takes none.
const ROOM: usize = 64 * 1024;

/// Splices at least this many bytes; fewer are copied.
///
/// A spliced piece takes a slot of the pipe for itself, however short it is, while copied pieces share slots.
/// A caller may begin to read only when we have ended, so whatever fits into its pipe directly must also fit
/// when it comes through ours. A piece as large as a whole pipe would not have fitted in either case.
const SPLICED: usize = 64 * 1024;

/// Most pieces that are moved in one go.
const PIECES: usize = 64;

/// An upper bound of the output that the kernel buffers for a terminal: 8 KiB in transit (drivers/tty/pty.c) and
/// 4 KiB that wait to be read (n_tty.c).
const TERMINAL_KEEPS: usize = 64 * 1024;

/// One end of a channel.
#[derive(Debug)]
pub(crate) enum End {
    /// The caller's descriptor at 0, 1 or 2.
    Callers(CallerStream),
    /// An end of a pipe of our own; it never waits.
    Pipe(OwnedFd),
    /// The master end of a terminal of our own, which both directions share; it never waits.
    Terminal(Rc<OwnedFd>),
}

impl End {
    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            End::Callers(inherited) => inherited.fd(),
            End::Pipe(pipe) => pipe.as_fd(),
            End::Terminal(master) => master.as_fd(),
        }
    }

    fn never_waits(&self) -> bool {
        match self {
            End::Callers(inherited) => inherited.never_waits(),
            End::Pipe(_) | End::Terminal(_) => true,
        }
    }

    fn spliced(&self) -> Option<BorrowedFd<'_>> {
        match self {
            End::Callers(inherited) => inherited.spliced(),
            End::Pipe(pipe) => Some(pipe.as_fd()),
            End::Terminal(_) => None,
        }
    }

    /// Whether poll(2) reports that a sink has lost its reader for good. A terminal that no process has open may be
    /// opened again.
    fn tells_when_unread(&self) -> bool {
        match self {
            End::Callers(inherited) => inherited.has_another_end(),
            End::Pipe(_) => true,
            End::Terminal(_) => false,
        }
    }

    fn read(&self, buffer: &mut [u8]) -> windlass_sys::Result<Moved> {
        match self {
            End::Callers(inherited) => inherited.read(buffer),
            End::Pipe(pipe) => stream::read(pipe.as_fd(), buffer),
            End::Terminal(master) => stream::read(master.as_fd(), buffer),
        }
    }

    fn write(&self, bytes: &[u8]) -> windlass_sys::Result<Moved> {
        match self {
            End::Callers(inherited) => inherited.write(bytes),
            End::Pipe(pipe) => stream::write(pipe.as_fd(), bytes),
            End::Terminal(master) => stream::write(master.as_fd(), bytes),
        }
    }
}

/// Which end of a channel poll(2) was asked of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The end that bytes come from.
    Source,
    /// The end that bytes go to.
    Sink,
}

/// One direction of a relay.
#[derive(Debug)]
pub(crate) struct Channel {
    /// `None` if it has ended, or if the sink is closed.
    source: Option<End>,
    /// `None` if it is closed.
    sink: Option<End>,
    queue: VecDeque<u8>,
    /// How many bytes are still taken from the source, once the process has ended.
    left: Option<usize>,
    /// Why bytes were lost, if they were.
    failed: Option<SyscallError>,
}

impl Channel {
    /// A channel with nothing in it.
    pub(crate) fn new(source: End, sink: End) -> Channel {
        Channel { source: Some(source), sink: Some(sink), queue: VecDeque::new(), left: None, failed: None }
    }

    /// Whether the source is the caller's terminal while other processes are in its foreground. poll(2) is not
    /// asked for it then, since it would report whatever is typed again and again.
    pub(crate) fn is_in_background(&self) -> bool {
        matches!(&self.source, Some(End::Callers(inherited)) if inherited.is_in_background())
    }

    /// The events to poll(2) for.
    pub(crate) fn interests(&self) -> impl Iterator<Item = (Side, BorrowedFd<'_>, PollFlags)> {
        let wanted = self.queue.len() < ROOM && !self.is_in_background();
        let source = self.source.as_ref().filter(|_| wanted).map(|end| (Side::Source, end.fd(), PollFlags::POLLIN));
        let sink = self.sink.as_ref().and_then(|end| match self.queue.is_empty() {
            false => Some((Side::Sink, end.fd(), PollFlags::POLLOUT)),
            // POLLERR and POLLHUP come without being asked for.
            true if self.source.is_some() && end.tells_when_unread() => {
                Some((Side::Sink, end.fd(), PollFlags::empty()))
            }
            true => None,
        });
        source.into_iter().chain(sink)
    }

    /// Moves what can be moved after poll(2) has reported events of one end.
    pub(crate) fn handle_ready(&mut self, side: Side, reported: PollFlags) {
        match side {
            Side::Source => self.fill(),
            // A terminal that no process has open still takes input as long as it has room, although poll(2)
            // always reports POLLHUP for it.
            Side::Sink if reported.contains(PollFlags::POLLHUP) => self.close_sink(),
            Side::Sink if !self.queue.is_empty() => self.flush(true),
            Side::Sink if reported.intersects(PollFlags::POLLERR | PollFlags::POLLNVAL) => self.close_sink(),
            Side::Sink => {}
        }
    }

    /// Reads what the source has, up to the room in the queue. A source that fills as fast as it is read is read on
    /// after the next report, so that signals and other channels get their turn.
    fn fill(&mut self) {
        let mut buffer = [0; 16 * 1024];
        let (mut reported, mut pieces) = (true, 0);
        while let Some(source) = &self.source {
            // Reads after the end of the process have a bound of their own.
            if self.left.is_none() && pieces == PIECES {
                return;
            }
            pieces += 1;
            let room = (ROOM - self.queue.len()).min(self.left.unwrap_or(usize::MAX));
            // A source that may block is read once for each report of poll(2).
            if room == 0 || !(reported || source.never_waits()) {
                return;
            }
            reported = false;
            let moved = match self.splice() {
                Some(moved) => moved,
                None => {
                    let length = room.min(buffer.len());
                    let moved = source.read(&mut buffer[..length]).unwrap_or_else(|failed| {
                        // EIO is the end of a terminal that no process has open.
                        if !(matches!(source, End::Terminal(_)) && failed.errno == Errno::EIO) {
                            self.failed.get_or_insert(failed);
                        }
                        Moved::End
                    });
                    if let Moved::Bytes(n) = moved {
                        self.queue.extend(&buffer[..n]);
                    }
                    moved
                }
            };
            match moved {
                Moved::Bytes(n) => self.left = self.left.map(|left| left.saturating_sub(n)),
                // The source is empty. If the process has ended, nothing more is waited for.
                Moved::Later => self.left = self.left.map(|_| 0),
                Moved::End => self.source = None,
            }
            if self.left == Some(0) {
                self.source = None;
            }
            self.flush(false);
            if moved == Moved::Later {
                return;
            }
        }
    }

    /// Moves a pipe's content by splice(2). Returns `None` if that is impossible here, or not worth it.
    fn splice(&self) -> Option<Moved> {
        let (source, sink) = (self.source.as_ref()?.spliced()?, self.sink.as_ref()?.spliced()?);
        if !self.queue.is_empty() || stream::waiting(source) < SPLICED {
            return None;
        }
        match stream::splice(source, sink, SPLICED.min(self.left.unwrap_or(usize::MAX))) {
            Ok(Moved::Bytes(n)) => Some(Moved::Bytes(n)),
            // The sink is full, or cannot be spliced to: the bytes go through the queue.
            _ => None,
        }
    }

    /// Writes what is queued. `reported`: poll(2) has reported room in the sink.
    fn flush(&mut self, mut reported: bool) {
        while let (Some(sink), false) = (&self.sink, self.queue.is_empty()) {
            if !(reported || sink.never_waits()) {
                return;
            }
            reported = false;
            match sink.write(self.queue.as_slices().0) {
                Ok(Moved::Bytes(n)) => drop(self.queue.drain(..n)),
                Ok(Moved::Later | Moved::End) => return,
                Err(failed) => {
                    // A reader that has closed its end wants no more.
                    if !matches!(failed.errno, Errno::EPIPE | Errno::ECONNRESET) {
                        self.failed.get_or_insert(failed);
                    }
                    return self.close_sink();
                }
            }
        }
        if self.sink.is_none() {
            self.queue.clear();
        } else if self.source.is_none() {
            // Everything is delivered. Closing a pipe of ours tells its reader of the end.
            self.sink = None;
        }
    }

    /// The sink's reader is gone. A pipe of ours is closed, so that its writer gets SIGPIPE as if it wrote to the
    /// sink itself. A terminal is still read, so that its writers do not block.
    fn close_sink(&mut self) {
        self.sink = None;
        self.queue.clear();
        if !matches!(self.source, Some(End::Terminal(_))) {
            self.source = None;
        }
    }

    /// Handles the end of the process: delivers what the source holds now, and nothing that comes later.
    pub(crate) fn end(&mut self) {
        self.left = match &self.source {
            Some(End::Pipe(pipe)) => Some(stream::waiting(pipe.as_fd())),
            // FIONREAD does not count the bytes that are still on their way to the master.
            Some(End::Terminal(_)) => Some(TERMINAL_KEEPS),
            Some(End::Callers(_)) | None => Some(0),
        };
        match &self.sink {
            // No process reads it any more.
            Some(End::Pipe(_) | End::Terminal(_)) => {
                self.source = None;
                self.close_sink();
            }
            _ if self.left == Some(0) => self.source = None,
            _ => self.fill(),
        }
    }

    /// Why bytes were lost, if they were.
    pub(crate) fn failure(&self) -> Option<&SyscallError> {
        self.failed.as_ref()
    }

    /// Whether nothing more will be delivered.
    pub(crate) fn is_done(&self) -> bool {
        self.queue.is_empty() && self.source.is_none()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    use nix::poll::{PollFd, PollTimeout, poll};

    use super::*;
    use windlass_sys::pipe;

    /// Polls once, as the wait for a process does. Returns false if nothing was reported in time.
    fn round(channel: &mut Channel, milliseconds: u16) -> bool {
        let (sides, mut fds): (Vec<_>, Vec<_>) =
            channel.interests().map(|(side, fd, flags)| (side, PollFd::new(fd, flags))).unzip();
        let reported = poll(&mut fds, PollTimeout::from(milliseconds)).expect("poll");
        let flags: Vec<_> = fds.iter().map(|fd| fd.revents().expect("known flags")).collect();
        for (side, flags) in sides.into_iter().zip(flags).filter(|(_, flags)| !flags.is_empty()) {
            channel.handle_ready(side, flags);
        }
        reported > 0
    }

    fn pipe() -> (OwnedFd, OwnedFd) {
        let (read_end, write_end) = pipe::new().expect("pipe");
        (read_end, write_end)
    }

    fn ours(fd: OwnedFd) -> End {
        stream::never_block(fd.as_fd()).expect("fcntl");
        End::Pipe(fd)
    }

    fn callers(fd: &OwnedFd, write: bool) -> End {
        End::Callers(CallerStream::open(fd.as_raw_fd(), write).expect("looked at").expect("it is open"))
    }

    fn fill(pipe: &OwnedFd, bytes: usize) {
        assert_eq!(nix::unistd::write(pipe, &vec![b'x'; bytes]), Ok(bytes));
    }

    #[test]
    fn what_is_lost_is_told_and_a_reader_that_has_gone_loses_nothing() {
        let (source, mut writer) = pipe();
        let full = OwnedFd::from(std::fs::File::options().write(true).open("/dev/full").expect("the device"));
        let mut channel = Channel::new(ours(source), callers(&full, true));
        std::io::Write::write_all(&mut std::fs::File::from(writer.try_clone().expect("dup")), b"lost").expect("room");
        while !channel.is_done() && channel.failure().is_none() {
            round(&mut channel, 1000);
        }
        assert_eq!(channel.failure().map(|failed| failed.errno), Some(Errno::ENOSPC));

        let (source, other) = pipe();
        writer = other;
        let (read_end, sink) = pipe();
        let mut channel = Channel::new(ours(source), callers(&sink, true));
        drop(read_end);
        std::io::Write::write_all(&mut std::fs::File::from(writer), b"unwanted").expect("room");
        while !channel.is_done() {
            round(&mut channel, 1000);
        }
        assert!(channel.failure().is_none());
    }

    /// The sink gets the same bytes in the same order, whatever its kind and however much comes at once.
    #[test]
    fn a_sink_that_is_full_gets_everything_in_the_end() {
        for nonblocking in [false, true] {
            let (source, writer) = pipe();
            let (reader, sink) = pipe();
            if nonblocking {
                stream::never_block(sink.as_fd()).expect("fcntl");
            }
            pipe::set_capacity(writer.as_fd(), 1 << 20);
            let sent: Vec<u8> = (0..700_000u32).map(|n| (n % 251) as u8).collect();
            assert_eq!(nix::unistd::write(&writer, &sent), Ok(sent.len()));
            drop(writer);
            let mut channel = Channel::new(ours(source), callers(&sink, true));
            let flags = |fd: &OwnedFd| OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL).expect("fcntl"));
            assert_eq!(flags(&sink).contains(OFlag::O_NONBLOCK), nonblocking, "the caller's flags are the caller's");
            let mut got = Vec::new();
            while !channel.is_done() {
                if !round(&mut channel, 0) {
                    let mut buffer = vec![0; 5000];
                    let n = nix::unistd::read(&reader, &mut buffer).expect("read");
                    got.extend_from_slice(&buffer[..n]);
                }
            }
            drop(channel);
            drop(sink);
            std::io::Read::read_to_end(&mut std::fs::File::from(reader), &mut got).expect("read");
            assert!(got == sent, "{} bytes of {} came", got.len(), sent.len());
        }
    }

    #[test]
    fn short_pieces_share_the_slots_of_the_callers_pipe() {
        let (source, writer) = pipe();
        let (_reader, sink) = pipe();
        let mut channel = Channel::new(ours(source), callers(&sink, true));
        for _ in 0..100 {
            fill(&writer, 40);
            assert!(round(&mut channel, 0));
        }
        channel.end();
        assert!(channel.is_done(), "a caller that reads later must not be waited for");
    }

    #[test]
    fn a_reader_that_has_gone_closes_the_pipe_of_the_writer() {
        let (source, writer) = pipe();
        let (reader, sink) = pipe();
        let mut channel = Channel::new(ours(source), callers(&sink, true));
        drop(reader);
        // The channel ends although the writer does nothing.
        assert!(round(&mut channel, 1000));
        assert_eq!(nix::unistd::write(&writer, b"x"), Err(nix::errno::Errno::EPIPE));
        assert!(channel.is_done());
    }

    #[test]
    fn after_the_end_what_stands_in_the_pipe_is_delivered_and_nobody_else_waited_for() {
        let (source, writer) = pipe();
        let (reader, sink) = pipe();
        fill(&sink, 65536);
        let mut channel = Channel::new(ours(source), callers(&sink, true));
        fill(&writer, 1000);
        channel.end();
        assert!(!channel.is_done());
        // Another process holds the pipe and goes on writing.
        let _ = nix::unistd::write(&writer, &[b'y'; 1000]);
        let mut got = vec![0; 1 << 17];
        assert_eq!(nix::unistd::read(&reader, &mut got), Ok(65536));
        assert!(round(&mut channel, 1000) && channel.is_done());
        assert_eq!(nix::unistd::read(&reader, &mut got), Ok(1000));
    }

    #[test]
    fn the_end_of_the_input_closes_the_pipe_and_a_program_that_reads_no_more_leaves_the_rest() {
        let (input, writer) = pipe();
        let (reader, sink) = pipe();
        let mut channel = Channel::new(callers(&input, false), ours(sink));
        fill(&writer, 10);
        drop(writer);
        while round(&mut channel, 0) {}
        assert!(channel.is_done());
        assert_eq!(nix::unistd::read(&reader, &mut [0; 64]), Ok(10));
        assert_eq!(nix::unistd::read(&reader, &mut [0; 64]), Ok(0));

        let (input, writer) = pipe();
        let (reader, sink) = pipe();
        let mut channel = Channel::new(callers(&input, false), ours(sink));
        drop(reader);
        assert!(round(&mut channel, 1000));
        fill(&writer, 10);
        assert!(!round(&mut channel, 0));
        assert_eq!(stream::waiting(input.as_fd()), 10);
    }

    /// A terminal that has ended reports POLLHUP to a process that waits for room in it. Our input has not ended by
    /// that.
    #[test]
    fn a_terminal_that_has_ended_is_not_taken_for_input() {
        let pty = nix::pty::openpty(None, None).expect("openpty");
        let mut raw = nix::sys::termios::tcgetattr(&pty.slave).expect("tcgetattr");
        nix::sys::termios::cfmakeraw(&mut raw);
        nix::sys::termios::tcsetattr(&pty.slave, nix::sys::termios::SetArg::TCSANOW, &raw).expect("tcsetattr");
        stream::never_block(pty.master.as_fd()).expect("fcntl");
        let (input, writer) = pipe();
        let mut channel = Channel::new(callers(&input, false), End::Terminal(Rc::new(pty.master)));
        // The terminal takes less than this while nothing is read from it.
        fill(&writer, 40_000);
        while round(&mut channel, 0) {}
        assert!(!channel.queue.is_empty());
        drop(pty.slave);
        for _ in 0..3 {
            round(&mut channel, 0);
        }
        assert!(channel.is_done());
    }
}
