//! systemd's journal, in its native protocol: a datagram of fields per entry; one that is too
//! long for a datagram goes as a sealed memory file.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;

use super::Stream;
use crate::shim::stdio::Journal;
use crate::sys::stream::find;
use crate::sys::{Result, socket, stream};

/// Where journald listens.
const SOCKET: &str = "/run/systemd/journal/socket";

/// syslog's numbers: informational, and error.
const PRIORITY: [u8; 2] = [b'6', b'3'];

#[derive(Debug)]
pub(in crate::shim) struct Journald {
    socket: OwnedFd,
    /// The fields that every entry has, as they are sent.
    fields: Vec<u8>,
    partial: bool,
    pub(super) dropped: u64,
}

impl Journald {
    pub(super) fn open(journal: &Journal) -> Result<Journald> {
        let socket = socket::datagram()?;
        Ok(Journald { socket, fields: fields(journal), partial: journal.partial, dropped: 0 })
    }

    pub(super) fn write(&mut self, stream: Stream, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (line, cut, next) = match find(b'\n', rest) {
                Some(end) => (&rest[..end], false, end + 1),
                None => (rest, true, rest.len()),
            };
            self.send(&entry(&self.fields, stream, line, cut && self.partial), line.len());
            rest = &rest[next..];
        }
    }

    fn send(&mut self, entry: &[u8], length: usize) {
        let sent = match socket::send_datagram_to(self.socket.as_fd(), SOCKET, entry, None) {
            Err(Errno::EMSGSIZE | Errno::ENOBUFS) => match stream::sealed(entry) {
                Ok(file) => socket::send_datagram_to(self.socket.as_fd(), SOCKET, b"", Some(file.as_fd())),
                Err(failed) => Err(failed.errno),
            },
            other => other,
        };
        if sent.is_err() {
            self.dropped += length as u64;
        }
    }
}

fn fields(journal: &Journal) -> Vec<u8> {
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

fn entry(fields: &[u8], stream: Stream, line: &[u8], partial: bool) -> Vec<u8> {
    let mut priority = PRIORITY[usize::from(stream == Stream::Stderr)];
    let mut message = line;
    // sd-daemon(3): a line may say its own priority.
    if let [b'<', digit @ b'0'..=b'7', b'>', rest @ ..] = line {
        (priority, message) = (*digit, rest);
    }
    let mut out = fields.to_vec();
    field(&mut out, "PRIORITY", &[priority]);
    if partial {
        field(&mut out, "CONTAINER_PARTIAL_MESSAGE", b"true");
    }
    field(&mut out, "MESSAGE", message);
    out
}

/// `KEY=value` where the value has one line; else the key, the length (little-endian), the value.
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
        let journal = Journal {
            id: "0123456789abcdef".into(),
            name: "web".into(),
            tag: "t".into(),
            labels: vec!["KEY=a\nb".into()],
            partial: true,
        };
        let text = entry(&fields(&journal), Stream::Stderr, b"hello", true);
        let mut expected = b"CONTAINER_ID=0123456789ab\nCONTAINER_ID_FULL=0123456789abcdef\nCONTAINER_NAME=web\nCONTAINER_TAG=t\nSYSLOG_IDENTIFIER=t\nKEY\n\x03\0\0\0\0\0\0\0a\nb\n".to_vec();
        expected.extend_from_slice(b"PRIORITY=3\nCONTAINER_PARTIAL_MESSAGE=true\nMESSAGE=hello\n");
        assert_eq!(text, expected);
    }

    #[test]
    fn a_line_may_say_its_priority() {
        assert_eq!(entry(b"", Stream::Stdout, b"<4>careful", false), b"PRIORITY=4\nMESSAGE=careful\n");
        assert_eq!(entry(b"", Stream::Stdout, b"<9>x", false), b"PRIORITY=6\nMESSAGE=<9>x\n");
    }
}
