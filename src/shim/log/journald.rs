//! systemd's journal, by its native protocol: each entry is a datagram of fields. An entry that is too long for a
//! datagram is sent as a sealed memory file.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::stream::Stream;
use crate::stdio::JournalFields;
use windlass_sys::stream::find;
use windlass_sys::{Result, clock, socket, stream};

/// The socket of journald.
pub(crate) const SOCKET: &str = "/run/systemd/journal/socket";

/// The severities of syslog(3): informational, and error.
const PRIORITY: [u8; 2] = [b'6', b'3'];

#[derive(Debug)]
pub(crate) struct Journald {
    pub(crate) socket: OwnedFd,
    pub(crate) path: &'static str,
    /// The encoded fields that all entries have.
    pub(crate) fields: Vec<u8>,
    pub(crate) partial: bool,
    /// For each stream, the priority of a partial line, which its continuation gets too.
    pub(crate) cut: [Option<u8>; 2],
    /// Until this moment the shim does not wait for a full queue of the journal.
    pub(crate) no_wait_until: Option<Instant>,
    pub(crate) dropped: u64,
}

/// How long the shim waits for room in the journal's queue, in milliseconds: a burst of output may be longer than the
/// queue.
const QUEUE_TIMEOUT: u32 = 100;
/// For how long it does not wait again after a wait in vain: the loop serves other processes too.
const NO_WAIT: Duration = Duration::from_secs(2);

impl Journald {
    pub(super) fn open(journal: &JournalFields) -> Result<Journald> {
        Journald::at(SOCKET, journal)
    }

    fn at(path: &'static str, journal: &JournalFields) -> Result<Journald> {
        let socket = socket::datagram()?;
        socket::set_send_timeout(socket.as_fd(), QUEUE_TIMEOUT)?;
        let (fields, partial) = (fields(journal), journal.partial);
        Ok(Journald { socket, path, fields, partial, cut: [None; 2], no_wait_until: None, dropped: 0 })
    }

    pub(super) fn write(&mut self, stream: Stream, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (line, cut, next) = match find(b'\n', rest) {
                Some(end) => (&rest[..end], false, end + 1),
                None => (rest, true, rest.len()),
            };
            let before = &mut self.cut[stream as usize];
            let (priority, message) = match before.take() {
                Some(priority) => (priority, line),
                None => priority(stream, line),
            };
            *before = cut.then_some(priority);
            self.send(&entry(&self.fields, priority, message, cut && self.partial), line.len());
            rest = &rest[next..];
        }
    }

    fn send(&mut self, entry: &[u8], length: usize) {
        let sent = match self.post(entry, None) {
            Err(Errno::EMSGSIZE | Errno::ENOBUFS) => match stream::sealed(c"journal", entry) {
                Ok(file) => self.post(b"", Some(file.as_fd())),
                Err(failed) => Err(failed.errno),
            },
            other => other,
        };
        if sent.is_err() {
            self.dropped += length as u64;
        }
    }

    fn post(&mut self, bytes: &[u8], file: Option<BorrowedFd<'_>>) -> nix::Result<usize> {
        match socket::send_datagram_to(self.socket.as_fd(), self.path, bytes, file) {
            Err(Errno::EAGAIN) if self.no_wait_until.is_none_or(|until| until <= clock::now()) => {
                let sent = socket::send_datagram_blocking(self.socket.as_fd(), self.path, bytes, file);
                self.no_wait_until = (sent == Err(Errno::EAGAIN)).then(|| clock::now() + NO_WAIT);
                sent
            }
            other => other,
        }
    }
}

fn fields(journal: &JournalFields) -> Vec<u8> {
    let mut out = Vec::new();
    let short: String = journal.id.chars().take(12).collect();
    field(&mut out, "CONTAINER_ID", short.as_bytes());
    field(&mut out, "CONTAINER_ID_FULL", journal.id.as_bytes());
    field(&mut out, "CONTAINER_NAME", journal.name.as_bytes());
    if !journal.tag.is_empty() {
        field(&mut out, "CONTAINER_TAG", journal.tag.as_bytes());
    }
    let identifier = if journal.tag.is_empty() { &short } else { &journal.tag };
    field(&mut out, "SYSLOG_IDENTIFIER", identifier.as_bytes());
    for label in &journal.labels {
        if let Some((key, value)) = label.split_once('=') {
            field(&mut out, key, value.as_bytes());
        }
    }
    out
}

/// The priority of a line and its text: a line may begin with its priority (sd-daemon(3)).
fn priority(stream: Stream, line: &[u8]) -> (u8, &[u8]) {
    match line {
        [b'<', digit @ b'0'..=b'7', b'>', rest @ ..] => (*digit, rest),
        _ => (PRIORITY[usize::from(stream == Stream::Stderr)], line),
    }
}

fn entry(fields: &[u8], priority: u8, message: &[u8], partial: bool) -> Vec<u8> {
    let mut out = fields.to_vec();
    field(&mut out, "PRIORITY", &[priority]);
    if partial {
        field(&mut out, "CONTAINER_PARTIAL_MESSAGE", b"true");
    }
    field(&mut out, "MESSAGE", message);
    out
}

/// Appends a field: `KEY=value` if the value is one line, otherwise the key, the length (little-endian) and the value.
fn field(out: &mut Vec<u8>, key: &str, value: &[u8]) {
    out.extend_from_slice(key.as_bytes());
    if find(b'\n', value).is_none() {
        out.push(b'=');
    } else {
        out.push(b'\n');
        out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    }
    out.extend_from_slice(value);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_the_fields_that_podman_reads() {
        let journal = JournalFields {
            id: "0123456789abcdef".into(),
            name: "web".into(),
            tag: "t".into(),
            labels: vec!["KEY=a\nb".into()],
            partial: true,
        };
        let text = entry(&fields(&journal), b'3', b"hello", true);
        let mut expected = b"CONTAINER_ID=0123456789ab\nCONTAINER_ID_FULL=0123456789abcdef\nCONTAINER_NAME=web\nCONTAINER_TAG=t\nSYSLOG_IDENTIFIER=t\nKEY\n\x03\0\0\0\0\0\0\0a\nb\n".to_vec();
        expected.extend_from_slice(b"PRIORITY=3\nCONTAINER_PARTIAL_MESSAGE=true\nMESSAGE=hello\n");
        assert_eq!(text, expected);
    }

    #[test]
    fn a_line_may_say_its_priority() {
        assert_eq!(priority(Stream::Stdout, b"<4>careful"), (b'4', &b"careful"[..]));
        assert_eq!(priority(Stream::Stderr, b"<9>x"), (b'3', &b"<9>x"[..]));
    }

    /// A journal that reads, in a thread, until it is told to stop.
    fn journal(name: &str) -> (Journald, std::os::unix::net::UnixDatagram) {
        let path = std::env::temp_dir().join(format!("windlass-journal-{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let reader = std::os::unix::net::UnixDatagram::bind(&path).expect("a socket");
        let path = path.into_os_string().into_string().expect("text").leak();
        (Journald::at(path, &JournalFields::default()).expect("a log"), reader)
    }

    fn message(entry: &[u8]) -> String {
        let text = String::from_utf8_lossy(entry);
        text.lines()
            .filter(|line| line.starts_with("PRIORITY") || line.starts_with("MESSAGE"))
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn the_rest_of_a_line_that_was_cut_is_as_it_was_written() {
        let (mut log, reader) = journal("cut");
        log.write(Stream::Stdout, b"<3>bad ");
        log.write(Stream::Stderr, b"<5>x\n");
        log.write(Stream::Stdout, b"<4>news\n<4>more\n");
        let mut buffer = [0; 4096];
        let read: Vec<String> = (0..4)
            .map(|_| {
                let n = reader.recv(&mut buffer).expect("an entry");
                message(&buffer[..n])
            })
            .collect();
        let expected = [
            "PRIORITY=3 MESSAGE=bad ",
            "PRIORITY=5 MESSAGE=x",
            "PRIORITY=3 MESSAGE=<4>news",
            "PRIORITY=4 MESSAGE=more",
        ];
        assert_eq!(read, expected);
    }

    #[test]
    fn a_burst_longer_than_the_queue_is_not_cut() {
        const LINES: usize = 2000;
        let (mut log, reader) = journal("burst");
        let counter = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            (0..LINES).take_while(|_| reader.recv(&mut buffer).is_ok()).count()
        });
        log.write(Stream::Stdout, &b"line\n".repeat(LINES));
        assert_eq!(log.dropped, 0);
        assert_eq!(counter.join().expect("counted"), LINES);
    }

    #[test]
    fn a_journal_that_does_not_read_is_not_waited_for_again_and_again() {
        let (mut log, _reader) = journal("stopped");
        let begun = Instant::now();
        log.write(Stream::Stdout, &b"line\n".repeat(5000));
        assert!(log.dropped > 0);
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    }
}
