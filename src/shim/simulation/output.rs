//! Streams of output: what a process writes must reach its reader.

use std::cell::Cell;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;

use nix::fcntl::OFlag;

use super::random::Random;
use super::world::SECOND;
use windlass_sys::stream::Moved;
use windlass_sys::{fd, kernel, stream};

/// The byte at a position of a stream: never a newline, because it is a letter.
fn byte(key: u64, at: u64) -> u8 {
    let mixed = (at / 8 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ key.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    b'a' + ((mixed >> (8 * (at % 8))) as u8) % 26
}

/// A stream, as its writer and its reader share it.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) key: u64,
    pub(super) fifo: PathBuf,
    /// Bytes that the process has written, and bytes that a reader has read or that a mark has counted.
    pub(super) written: Cell<u64>,
    pub(super) got: Cell<u64>,
    /// Whether the oldest bytes may be dropped.
    pub(super) drops: bool,
    /// Whether the shim was killed, and bytes of the stream with it.
    pub(super) lost: Cell<bool>,
    /// Whether another process, which outlives this one, has the pipe open.
    pub(super) held: Cell<bool>,
    /// Since when a reader is attached that has never paused for two seconds, and when it has last taken bytes.
    pub(super) attended: Cell<Option<(u64, u64)>>,
}

impl Stream {
    pub(super) fn new(key: u64, fifo: PathBuf, drops: bool) -> Stream {
        Stream {
            key,
            fifo,
            written: Cell::new(0),
            got: Cell::new(0),
            drops,
            lost: Cell::new(false),
            held: Cell::new(false),
            attended: Cell::new(None),
        }
    }

    /// The byte at a position.
    pub(super) fn byte(&self, at: u64) -> u8 {
        byte(self.key, at)
    }

    /// The position of these bytes.
    pub(super) fn find(&self, bytes: &[u8]) -> Option<u64> {
        let last = self.written.get().checked_sub(bytes.len() as u64)?;
        (0..=last).find(|at| bytes.iter().zip(*at..).all(|(found, at)| *found == self.byte(at)))
    }

    /// Checks a reported end, which was at `ended`. A reader that was attached all the time, and went on reading, has
    /// everything.
    pub(super) fn is_told(&self, ended: u64) -> Result<(), String> {
        let now = kernel::now();
        // Others may have the pipe open; the shim waits for no process longer than ten seconds.
        let soon = now < ended + 9 * SECOND;
        let Some((since, last)) = self.attended.get().filter(|_| soon && !is_whole(self)) else { return Ok(()) };
        // The shim notices a reader within a second.
        if since + SECOND + SECOND / 10 < ended && now < last + SECOND {
            return Err(format!("the end is told, and a reader that goes on has not read everything: {self:?}"));
        }
        Ok(())
    }
}

/// The writing side.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) end: OwnedFd,
    pub(super) left: u64,
    pub(super) stream: Rc<Stream>,
}

impl Writer {
    /// Writes at most `most` bytes, if the pipe takes them. Returns whether it took any.
    pub(super) fn write(&mut self, most: u64) -> bool {
        let at = self.stream.written.get();
        let bytes: Vec<u8> = (at..at + most.min(self.left)).map(|at| byte(self.stream.key, at)).collect();
        match stream::write(self.end.as_fd(), &bytes) {
            Ok(Moved::Bytes(n)) => {
                self.left -= n as u64;
                self.stream.written.set(at + n as u64);
                true
            }
            Ok(_) => self.left == 0,
            Err(_) => {
                self.left = 0;
                true
            }
        }
    }
}

/// The reading side: an engine that comes and goes.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) stream: Rc<Stream>,
    end: Option<OwnedFd>,
    mark: Vec<u8>,
}

impl Reader {
    pub(super) fn new(stream: Rc<Stream>) -> Reader {
        Reader { stream, end: None, mark: Vec::new() }
    }

    pub(super) fn is_open(&self) -> bool {
        self.end.is_some()
    }

    pub(super) fn open(&mut self) {
        if self.end.is_none() {
            self.end = fd::open(&self.stream.fifo, OFlag::O_RDONLY | OFlag::O_NONBLOCK).ok();
            self.stream.attended.set(self.end.is_some().then(|| (kernel::now(), kernel::now())));
        }
    }

    pub(super) fn close(&mut self) {
        self.end = None;
        self.stream.attended.set(None);
    }

    /// Reads at most `most` bytes. Returns how many came.
    pub(super) fn read(&mut self, most: u64) -> u64 {
        let Some(end) = &self.end else { return 0 };
        let mut bytes = vec![0; most as usize];
        let Ok(Moved::Bytes(n)) = stream::read(end.as_fd(), &mut bytes) else { return 0 };
        bytes[..n].iter().for_each(|byte| self.take(*byte));
        let now = kernel::now();
        let steady = |(since, last)| if now < last + 2 * SECOND { (since, now) } else { (now, now) };
        self.stream.attended.set(self.stream.attended.get().map(steady));
        n as u64
    }

    fn take(&mut self, found: u8) {
        if self.stream.lost.get() {
            return;
        }
        let at = self.stream.got.get();
        if self.mark.is_empty() && found != b'\n' {
            if found != byte(self.stream.key, at) || at >= self.stream.written.get() {
                let right = byte(self.stream.key, at) as char;
                let written = self.stream.written.get();
                let name = self.stream.fifo.file_name();
                kernel::fault(format!(
                    "byte {at} of {name:?} is {:?}, not {right:?}; {written} were written",
                    found as char
                ));
            }
            return self.stream.got.set(at + 1);
        }
        self.mark.push(found);
        if self.mark.len() > 1 && found == b'\n' {
            let text = String::from_utf8_lossy(&self.mark).into_owned();
            let lost = text.split_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok());
            match lost.filter(|lost| *lost > 0 && self.stream.drops && text.starts_with("\n[windlass-shim: ")) {
                Some(lost) => self.stream.got.set(at + lost),
                None => kernel::fault(format!("{text:?} is in the output {:?}", self.stream.fifo)),
            }
            self.mark.clear();
        }
    }
}

/// How many bytes a reader takes at once.
pub(super) fn portion(random: &mut Random) -> u64 {
    1 + random.any_size(256 * 1024)
}

/// Most bytes that a killed shim may have read and not written.
const UNWRITTEN: u64 = 256 * 1024;

/// How many bytes of each stream are in a log of the format `k8s`. The log must be the beginning of the stream, except
/// for the bytes that were lost with a killed shim.
pub(super) fn logged(log: &std::path::Path, streams: &[Rc<Stream>]) -> Result<Vec<u64>, String> {
    let mut lengths = vec![0; streams.len()];
    for entry in std::fs::read(log).unwrap_or_default().split(|&byte| byte == b'\n') {
        let mut words = entry.splitn(4, |&byte| byte == b' ');
        let (Some(_), Some(name), Some(_), Some(text)) = (words.next(), words.next(), words.next(), words.next())
        else {
            continue;
        };
        let which = usize::from(name == b"stderr");
        let stream = streams.get(which).ok_or_else(|| format!("there is an entry of stream {which} in the log"))?;
        let at = &mut lengths[which];
        if let Some(same) = text.iter().zip(*at..).position(|(byte, at)| *byte != stream.byte(at)) {
            let (from, rest) = (*at + same as u64, &text[same..]);
            let fits = |gap: &u64| rest.iter().zip(from + gap..).all(|(byte, at)| *byte == stream.byte(at));
            let gap = if stream.lost.get() { (1..=UNWRITTEN).find(fits) } else { None };
            let wrong = || format!("byte {from} in the log of {stream:?} is {:?}", char::from(rest[0]));
            *at += gap.ok_or_else(wrong)?;
        }
        *at += text.len() as u64;
    }
    Ok(lengths)
}

/// Whether every byte was read, or the rest was lost with a shim.
pub(super) fn is_whole(stream: &Stream) -> bool {
    stream.lost.get() || stream.got.get() == stream.written.get()
}
