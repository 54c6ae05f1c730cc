//! An attached client, which gets a copy of the output and sends input. A client that reads slowly holds the
//! process back, as a pipe would. A client that takes less than 8 KiB, as its socket counts them, in two seconds while
//! others wait for it is dropped, so that it cannot stop the logs.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::log::Stream;
use super::poll::{Interest, Poll};
use super::stdio::Framing;
use windlass_sys::clock;
use windlass_sys::socket;

/// While this many bytes wait for a client, no more output is read from the process.
const FULL: usize = 64 * 1024;

/// The time in which a client must take [`ENOUGH`] while others wait for it.
const STALL_TIMEOUT: Duration = Duration::from_secs(2);

/// Bytes that a client must take within [`STALL_TIMEOUT`], as its socket counts them (SIOCOUTQ): with the memory that
/// the kernel needs for each packet or write, and of those that were read as a whole. A client that takes less holds
/// the process and the others back too much.
const ENOUGH: usize = PACKET;

/// If the loop looks at a client this long after the client's time was over, the client is not dropped yet: the whole
/// machine was busy.
const LATE: Duration = Duration::from_millis(500);

/// Bytes of output in one packet: the size of the buffers of conmon's callers.
const PACKET: usize = 8192;

/// Longest input in one packet or frame, in bytes.
pub(super) const INPUT: usize = 32 * 1024;

/// Bytes of the head of a frame of [`Framing::Stream`]: its type, and the length in four bytes.
const FRAME_HEAD: usize = 5;

/// The last frame of [`Framing::Marked`]: it has no data.
const END: [u8; FRAME_HEAD] = [3, 0, 0, 0, 0];

#[derive(Debug)]
pub(super) struct Client {
    pub(super) number: u16,
    pub(super) key: u64,
    pub(super) socket: OwnedFd,
    pub(super) framing: Framing,
    pub(super) queue: VecDeque<Box<[u8]>>,
    pub(super) queued: usize,
    /// Bytes of the first frame in the queue that are sent.
    pub(super) sent: usize,
    /// Whether others wait for the client.
    pub(super) is_awaited: bool,
    /// When they began to wait, and how many bytes would be in the client's socket now if it had taken none since its
    /// time began.
    pub(super) since: (Instant, usize),
    /// How long others have waited before, since its time began. If that is nothing, its time begins when they wait.
    pub(super) waited: Duration,
    pub(super) reading: bool,
    pub(super) unread: Vec<u8>,
    pub(super) watched: Interest,
    /// Whether nothing more is sent: the end of the output was, or the client takes none.
    pub(super) ended: bool,
}

/// The outcome of receiving from a client.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FromClient {
    /// Bytes for the process.
    Input(Vec<u8>),
    /// The end of the input. The client still gets output.
    CloseInput,
    /// The client sends nothing more. This does not end the input, and the client still gets output.
    Silent,
    /// Nothing at the moment.
    Nothing,
    /// The client has left, or has broken the protocol.
    Gone,
}

impl Client {
    pub(super) fn new(
        number: u16,
        key: u64,
        socket: OwnedFd,
        framing: Framing,
        poll: &Poll,
    ) -> windlass_sys::Result<Client> {
        windlass_sys::stream::never_block(socket.as_fd())?;
        poll.watch(&socket, key, Interest::Read)?;
        Ok(Client {
            number,
            key,
            socket,
            framing,
            queue: VecDeque::new(),
            queued: 0,
            sent: 0,
            is_awaited: false,
            since: (clock::now(), 0),
            waited: Duration::ZERO,
            reading: true,
            unread: Vec::new(),
            watched: Interest::Read,
            ended: false,
        })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Sends or queues output, if the client takes it. What a client that has left sent before is still received.
    pub(super) fn give(&mut self, stream: Stream, bytes: &[u8], poll: &Poll) {
        for piece in bytes.chunks(PACKET) {
            if !self.ended {
                self.send(self.frame(stream, piece));
            }
        }
        self.watch(poll);
    }

    /// Tells the client that no more output comes, once, if it has asked for that.
    pub(super) fn end(&mut self, poll: &Poll) {
        if self.framing == Framing::Marked && !std::mem::replace(&mut self.ended, true) {
            self.send(END.into());
            self.watch(poll);
        }
    }

    /// Disconnects the client. It gets the end of the output before, if no output waits for it.
    pub(super) fn leave(mut self, poll: &Poll) {
        self.end(poll);
        poll.forget(self.fd());
    }

    /// Sends or queues a frame.
    fn send(&mut self, frame: Vec<u8>) {
        if self.queue.is_empty() {
            match socket::send_now(self.socket.as_fd(), &frame) {
                Ok(n) if n == frame.len() => return,
                Ok(n) => self.sent = n,
                Err(Errno::EAGAIN | Errno::EINTR | Errno::ENOBUFS) => self.sent = 0,
                Err(_) => return self.stop_sending(),
            }
        }
        self.queued += frame.len();
        self.queue.push_back(frame.into());
    }

    /// The client takes no output any more. If it has left, epoll(7) reports that, and it is removed when all that it
    /// sent before was received.
    fn stop_sending(&mut self) {
        self.ended = true;
        (self.queue, self.queued, self.sent) = (VecDeque::new(), 0, 0);
    }

    fn frame(&self, stream: Stream, piece: &[u8]) -> Vec<u8> {
        let mut frame = Vec::with_capacity(FRAME_HEAD + piece.len());
        match self.framing {
            Framing::Packet => frame.push(if stream == Stream::Stdout { 2 } else { 3 }),
            Framing::Stream | Framing::Marked => {
                frame.push(if stream == Stream::Stdout { 1 } else { 2 });
                frame.extend_from_slice(&(piece.len() as u32).to_be_bytes());
            }
        }
        frame.extend_from_slice(piece);
        frame
    }

    /// Sends the queue.
    pub(super) fn flush(&mut self, poll: &Poll) {
        let before = self.unread_by_it();
        while let Some(frame) = self.queue.front() {
            match socket::send_now(self.socket.as_fd(), &frame[self.sent..]) {
                Ok(n) if self.sent + n < frame.len() => self.sent += n,
                Ok(_) => {
                    self.queued -= frame.len();
                    self.sent = 0;
                    self.queue.pop_front();
                }
                Err(Errno::EAGAIN | Errno::EINTR | Errno::ENOBUFS) => break,
                Err(_) => self.stop_sending(),
            }
        }
        // What it takes while this runs does not count, which is little.
        self.since.1 += self.unread_by_it().saturating_sub(before);
        self.watch(poll);
    }

    fn unread_by_it(&self) -> usize {
        socket::unread_by_peer(self.socket.as_fd())
    }

    /// Others wait for the client from `now` on. Unless they have before, its time begins.
    fn begin(&mut self, now: Instant) {
        self.is_awaited = true;
        self.since = (now, if self.waited.is_zero() { self.unread_by_it() } else { self.since.1 });
    }

    /// Nobody waits for the client any more.
    fn pause(&mut self, now: Instant) {
        if std::mem::take(&mut self.is_awaited) {
            self.waited += now.saturating_duration_since(self.since.0);
        }
        if self.is_idle() || self.waited > STALL_TIMEOUT + LATE {
            self.waited = Duration::ZERO;
        }
    }

    /// Whether the queue is empty.
    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether so many bytes wait for the client that no more output is read.
    pub(super) fn is_full(&self) -> bool {
        self.queued >= FULL
    }

    /// Whether the client holds others back. At the end of the process the shim waits for every client that has not
    /// taken the rest; before that, only for clients that are full.
    pub(super) fn holds_back(&self, at_end: bool) -> bool {
        self.is_full() || (at_end && !self.is_idle())
    }

    /// When the client is dropped for not reading. `None`: nobody waits for it.
    pub(super) fn stall_ends(&self, at_end: bool) -> Option<Instant> {
        // If others have begun to wait just now, that is to be noted at once.
        let end = || if self.is_awaited { self.time_ends() } else { clock::now() };
        self.holds_back(at_end).then(end)
    }

    /// When its time is over, if others go on waiting.
    fn time_ends(&self) -> Instant {
        self.since.0 + STALL_TIMEOUT.saturating_sub(self.waited)
    }

    /// Whether the client has to be dropped. It stays, and has its time again, if it has taken enough, or all that its
    /// socket had. `awaited`: others wait for it. Only while they do, its time runs.
    pub(super) fn is_stalled(&mut self, awaited: bool, now: Instant) -> bool {
        match (self.is_awaited, awaited) {
            (_, false) => self.pause(now),
            (false, true) => self.begin(now),
            (true, true) => {}
        }
        if !awaited || self.time_ends() > now {
            return false;
        }
        let unread = self.unread_by_it();
        let stays = unread == 0 || self.since.1.saturating_sub(unread) >= ENOUGH || now > self.time_ends() + LATE;
        if stays {
            self.waited = Duration::ZERO;
            self.begin(now);
        }
        !stays
    }

    /// Watches the socket for input, or stops that while the process does not take earlier input.
    pub(super) fn listen(&mut self, wanted: bool, poll: &Poll) {
        self.reading = wanted;
        self.watch(poll);
    }

    fn watch(&mut self, poll: &Poll) {
        let wanted = Interest::of(self.reading, !self.queue.is_empty());
        if wanted != self.watched && poll.change(&self.socket, self.key, wanted).is_ok() {
            self.watched = wanted;
        }
    }

    /// Receives once.
    pub(super) fn receive(&mut self) -> FromClient {
        if self.framing != Framing::Packet
            && let Some(frame) = self.next_frame()
        {
            return frame;
        }
        let mut buffer = vec![0; INPUT];
        let mut received = socket::receive_now(self.socket.as_fd(), &mut buffer);
        if received == Err(Errno::ECONNRESET) {
            // Once: the client has left without reading its output. What it sent is behind this error.
            received = socket::receive_now(self.socket.as_fd(), &mut buffer);
        }
        match received {
            Err(Errno::EAGAIN | Errno::EINTR) => FromClient::Nothing,
            Err(_) => FromClient::Gone,
            // On a packet socket an empty packet and the end look the same. If it is the end, the next send
            // fails.
            Ok(0) if self.framing == Framing::Packet => FromClient::CloseInput,
            Ok(0) => FromClient::Silent,
            Ok(n) => {
                buffer.truncate(n);
                if self.framing == Framing::Packet {
                    return FromClient::Input(buffer);
                }
                self.unread.extend_from_slice(&buffer);
                self.next_frame().unwrap_or(FromClient::Nothing)
            }
        }
    }

    /// Whether the received bytes may hold another frame.
    pub(super) fn has_unread(&self) -> bool {
        !self.unread.is_empty()
    }

    fn next_frame(&mut self) -> Option<FromClient> {
        let (kind, length) = match self.unread[..] {
            [kind, a, b, c, d, ..] => (kind, u32::from_be_bytes([a, b, c, d]) as usize),
            _ => return None,
        };
        if kind != 0 || length > INPUT {
            return Some(FromClient::Gone);
        }
        if self.unread.len() < FRAME_HEAD + length {
            return None;
        }
        let rest = self.unread.split_off(FRAME_HEAD + length);
        let mut frame = std::mem::replace(&mut self.unread, rest);
        frame.drain(..FRAME_HEAD);
        Some(if frame.is_empty() { FromClient::CloseInput } else { FromClient::Input(frame) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(framing: Framing) -> (Client, OwnedFd, Poll) {
        let poll = Poll::new().expect("epoll");
        let (ours, theirs) = match framing {
            Framing::Packet => socket::pair().expect("a pair"),
            Framing::Stream | Framing::Marked => {
                let (a, b) = std::os::unix::net::UnixStream::pair().expect("a pair");
                (a.into(), b.into())
            }
        };
        (Client::new(0, 1, ours, framing, &poll).expect("a client"), theirs, poll)
    }

    #[test]
    fn a_client_that_does_not_read_is_full_and_then_stalled() {
        for framing in [Framing::Packet, Framing::Stream, Framing::Marked] {
            let (mut client, theirs, poll) = client(framing);
            let mut given = 0;
            while !client.is_full() && given < 10_000 {
                client.give(Stream::Stdout, &[b'x'; 4096], &poll);
                assert_eq!(client.stall_ends(true).is_some(), !client.is_idle());
                given += 1;
            }
            assert!((8..9_000).contains(&given), "{given}");
            assert!(!client.is_stalled(client.holds_back(false), clock::now()));
            let ends = client.stall_ends(false).expect("it is full");
            assert!(ends > Instant::now());
            let mut buffer = [0; 9000];
            while socket::receive_now(theirs.as_fd(), &mut buffer).is_ok() {
                client.flush(&poll);
            }
            assert!(client.is_idle() && !client.is_full());
            assert_eq!((client.stall_ends(false), client.stall_ends(true)), (None, None));
        }
    }

    #[test]
    fn a_client_has_its_time_from_when_somebody_waits_for_it() {
        for quiet in [STALL_TIMEOUT / 2, STALL_TIMEOUT + LATE / 2, 5 * STALL_TIMEOUT] {
            let (mut client, _theirs, poll) = client(Framing::Stream);
            while client.is_idle() {
                client.give(Stream::Stdout, &[b'x'; 4096], &poll);
            }
            assert!(!client.is_full());
            // The client has not read for long, but nobody waited for it. Now its process ends.
            let begun = clock::now();
            assert!(!client.is_stalled(client.holds_back(false), begun));
            let now = begun + quiet;
            assert!(!client.is_stalled(client.holds_back(true), now));
            assert_eq!(client.stall_ends(true), Some(now + STALL_TIMEOUT));
            // The loop comes so late that the machine must have been busy.
            assert!(!client.is_stalled(true, now + 3 * STALL_TIMEOUT));
            assert!(client.is_stalled(true, now + 4 * STALL_TIMEOUT));
        }
    }

    #[test]
    fn only_the_time_counts_in_which_somebody_waits() {
        let (mut client, theirs, poll) = client(Framing::Stream);
        let fill = |client: &mut Client| {
            while !client.is_full() {
                client.give(Stream::Stdout, &[b'x'; 4096], &poll);
            }
        };
        let (mut now, mut buffer) = (clock::now(), [0; 9000]);
        // It takes all before anybody has waited for two seconds, and has its whole time again.
        for waits in [19, 20] {
            for _ in 0..waits {
                fill(&mut client);
                assert!(!client.is_stalled(true, now));
                now += STALL_TIMEOUT / 20;
                assert!(!client.is_stalled(false, now));
                now += STALL_TIMEOUT + LATE / 2;
            }
            if waits == 19 {
                while socket::receive_now(theirs.as_fd(), &mut buffer).is_ok() {
                    client.flush(&poll);
                }
                assert!(!client.is_stalled(false, now));
            }
        }
        fill(&mut client);
        assert!(client.is_stalled(true, now), "others have waited for two seconds altogether");
    }

    #[test]
    fn a_client_that_has_read_everything_is_not_stalled() {
        let (mut client, theirs, poll) = client(Framing::Stream);
        while !client.is_full() {
            client.give(Stream::Stdout, &[b'x'; 4096], &poll);
        }
        // The client has read everything before the first look at its socket, and the loop has not sent more.
        let mut buffer = [0; 9000];
        while socket::receive_now(theirs.as_fd(), &mut buffer).is_ok() {}
        let now = clock::now();
        assert!(!client.is_stalled(true, now));
        assert!(!client.is_stalled(true, now + STALL_TIMEOUT));
    }

    #[test]
    fn a_client_is_judged_by_what_it_takes() {
        // How many packets it takes each second, and whether it stays.
        for (packets, stays) in [(0, false), (1, false), (20, true)] {
            let (mut client, theirs, poll) = client(Framing::Packet);
            let mut buffer = [0; 9000];
            let begun = clock::now();
            for second in 0..6 {
                while !client.is_full() {
                    client.give(Stream::Stdout, &[b'x'; 1024], &poll);
                }
                if client.is_stalled(client.holds_back(false), begun + Duration::from_secs(second)) {
                    assert!(!stays, "{packets} packets were enough");
                    break;
                }
                assert!(second < 2 || stays, "{packets} packets were not enough");
                for _ in 0..packets {
                    let _ = socket::receive_now(theirs.as_fd(), &mut buffer);
                }
                client.flush(&poll);
            }
        }
    }

    #[test]
    fn the_end_is_the_last_frame_and_told_once_and_only_who_has_asked() {
        for framing in [Framing::Packet, Framing::Stream, Framing::Marked] {
            let (mut client, theirs, poll) = client(framing);
            for _ in 0..2 {
                client.end(&poll);
            }
            let mut buffer = [0; 16];
            let found = socket::receive_now(theirs.as_fd(), &mut buffer);
            let expected = if framing == Framing::Marked { Ok(FRAME_HEAD) } else { Err(Errno::EAGAIN) };
            assert_eq!(found, expected);
            assert!(found.is_err() || buffer[..FRAME_HEAD] == END);
        }
    }

    #[test]
    fn frames_are_received_however_they_are_cut() {
        let (mut client, theirs, _poll) = client(Framing::Stream);
        let mut received = Vec::new();
        for byte in [0, 0, 0, 0, 2, b'h', b'i', 0, 0, 0, 0, 0] {
            socket::send_now(theirs.as_fd(), &[byte]).expect("sent");
            received.extend(Some(client.receive()).filter(|received| *received != FromClient::Nothing));
        }
        assert_eq!(received, [FromClient::Input(b"hi".into()), FromClient::CloseInput]);
    }

    #[test]
    fn a_frame_that_is_none_ends_the_connection() {
        for bad in [[1, 0, 0, 0, 1], [0, 0xff, 0xff, 0xff, 0xff]] {
            let (mut client, theirs, _poll) = client(Framing::Stream);
            socket::send_now(theirs.as_fd(), &bad).expect("sent");
            assert_eq!(client.receive(), FromClient::Gone);
        }
    }
}
