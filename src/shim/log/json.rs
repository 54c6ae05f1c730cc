//! Docker's format `json-file`: one object per line, `{"log":"text\n","stream":"stdout","time":"..."}`. If the text
//! has no newline at its end, the next entry of the stream continues it.

use std::time::SystemTime;

use super::file::FileLog;
use super::stream::Stream;
use windlass_sys::stream::find;

/// Longest text of one entry in bytes. dockerd uses the same, and readers have buffers for it.
const TEXT: usize = 16 * 1024;

/// The length of the longest escape of a byte: `\u0000`.
const WIDEST: usize = 6;

/// A log, and for each stream the beginning of a character that is incomplete.
#[derive(Debug)]
pub(crate) struct JsonLog {
    pub(crate) file: FileLog,
    pub(crate) begun: [Vec<u8>; 2],
}

impl JsonLog {
    pub(super) fn new(file: FileLog) -> JsonLog {
        JsonLog { file, begun: [Vec::new(), Vec::new()] }
    }

    /// Writes the bytes of one read.
    pub(super) fn write(&mut self, stream: Stream, bytes: &[u8], scratch: &mut [u8], now: SystemTime) {
        let begun = &mut self.begun[stream as usize];
        let mut joined = std::mem::take(begun);
        let bytes = if joined.is_empty() {
            bytes
        } else {
            joined.extend_from_slice(bytes);
            &joined
        };
        let whole = bytes.len() - unfinished(bytes);
        *begun = bytes[whole..].to_vec();
        entries(&mut self.file, stream, &bytes[..whole], scratch, now);
    }

    /// Writes incomplete characters, which are not UTF-8.
    pub(super) fn end(&mut self, scratch: &mut [u8], now: SystemTime) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let begun = std::mem::take(&mut self.begun[stream as usize]);
            entries(&mut self.file, stream, &begun, scratch, now);
        }
    }
}

fn entries(log: &mut FileLog, stream: Stream, bytes: &[u8], scratch: &mut [u8], now: SystemTime) {
    let name = if stream == Stream::Stdout { "stdout" } else { "stderr" };
    let tail = format!("\",\"stream\":\"{name}\",\"time\":\"{}\"}}\n", windlass_base::rfc3339::nanoseconds(now));
    let head = b"{\"log\":\"";
    let longest = ((scratch.len() - head.len() - tail.len()) / WIDEST).min(TEXT);
    let (mut rest, mut used) = (bytes, 0);
    while !rest.is_empty() {
        let length = find(b'\n', rest).map_or(rest.len(), |end| end + 1);
        let text = cut(&rest[..length], longest);
        let most = head.len() + text.len() * WIDEST + tail.len();
        if used + most > scratch.len() {
            log.append(&scratch[..used]);
            used = 0;
        }
        let begin = used;
        used = put(scratch, used, head);
        used = escape(scratch, used, text);
        used = put(scratch, used, tail.as_bytes());
        if begin > 0 && used as u64 > log.room() {
            // The earlier entries fill the file, and this one is the first of the next file.
            log.append(&scratch[..begin]);
            scratch.copy_within(begin..used, 0);
            used -= begin;
        }
        rest = &rest[text.len()..];
    }
    log.append(&scratch[..used]);
}

/// At most `longest` bytes, cut between characters.
fn cut(text: &[u8], longest: usize) -> &[u8] {
    if text.len() <= longest {
        return text;
    }
    let end = longest - unfinished(&text[..longest]);
    &text[..if end == 0 { longest } else { end }]
}

/// The number of bytes at the end that are an incomplete character of UTF-8.
fn unfinished(bytes: &[u8]) -> usize {
    let last = &bytes[bytes.len().saturating_sub(3)..];
    (1..=last.len())
        .find(|&n| {
            let tail = &last[last.len() - n..];
            std::str::from_utf8(tail).is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
        })
        .unwrap_or(0)
}

fn put(scratch: &mut [u8], at: usize, bytes: &[u8]) -> usize {
    scratch[at..at + bytes.len()].copy_from_slice(bytes);
    at + bytes.len()
}

/// Escapes text for a JSON string. Invalid UTF-8 becomes the replacement character.
fn escape(scratch: &mut [u8], mut at: usize, text: &[u8]) -> usize {
    for chunk in text.utf8_chunks() {
        let mut plain = 0;
        let valid = chunk.valid().as_bytes();
        for (index, &byte) in valid.iter().enumerate() {
            let escaped: &[u8] = match byte {
                b'"' => b"\\\"",
                b'\\' => b"\\\\",
                b'\n' => b"\\n",
                b'\r' => b"\\r",
                b'\t' => b"\\t",
                0..=0x1f => &[b'\\', b'u', b'0', b'0', b'0' + (byte >> 4), b"0123456789abcdef"[usize::from(byte & 15)]],
                _ => continue,
            };
            at = put(scratch, at, &valid[plain..index]);
            at = put(scratch, at, escaped);
            plain = index + 1;
        }
        at = put(scratch, at, &valid[plain..]);
        if !chunk.invalid().is_empty() {
            at = put(scratch, at, "\u{fffd}".as_bytes());
        }
    }
    at
}

/// An entry, parsed.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
pub(crate) struct Entry {
    /// The text, with its newline if it is the end of a line.
    pub log: String,
    /// `stdout` or `stderr`.
    pub stream: String,
    /// When it was read.
    pub time: String,
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::stdio::LogFile;

    fn logged(name: &str, pieces: &[&[u8]], scratch: usize, max_size: Option<u64>) -> String {
        let path = std::env::temp_dir().join(format!("windlass-json-{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let file = FileLog::open(&LogFile { path: path.clone(), max_size, ..LogFile::default() }).expect("a log");
        let mut log = JsonLog::new(file);
        let mut scratch = vec![0; scratch];
        let now = UNIX_EPOCH + Duration::new(1_700_000_000, 5);
        for piece in pieces {
            log.write(Stream::Stdout, piece, &mut scratch, now);
        }
        log.end(&mut scratch, now);
        let text = std::fs::read_to_string(&path).expect("read");
        std::fs::remove_file(&path).expect("removed");
        text
    }

    fn read_back(text: &str) -> String {
        text.lines().map(|line| serde_json::from_str::<Entry>(line).expect("an entry").log).collect()
    }

    #[test]
    fn an_entry_is_what_docker_reads() {
        let text = logged("docker", &[b"say \"hi\"\tnow\x01\n"], 4096, None);
        let expected = r#"{"log":"say \"hi\"\tnow\u0001\n","stream":"stdout","time":"2023-11-14T22:13:20.000000005Z"}"#;
        assert_eq!(text, format!("{expected}\n"));
    }

    #[test]
    fn every_split_and_every_size_of_memory_gives_the_text_back() {
        let whole = "plain\n\ngrüße – 世界 🚢\nlast without end €".as_bytes();
        for cut in 0..=whole.len() {
            for scratch in [150, 300, 4096] {
                let text = logged("split", &[&whole[..cut], &whole[cut..]], scratch, None);
                assert_eq!(read_back(&text).as_bytes(), whole, "cut at {cut}, {scratch}");
            }
        }
    }

    #[test]
    fn what_is_not_utf8_is_marked_and_the_rest_kept() {
        let text = logged("bytes", &[b"a\xffb\xc3", b"\n\xe2\x82"], 4096, None);
        assert_eq!(read_back(&text), "a\u{fffd}b\u{fffd}\n\u{fffd}");
    }

    #[test]
    fn a_full_log_begins_anew_between_entries() {
        let text = logged("full", &[b"aaaa\nbbbb\ncccc\n"], 4096, Some(150));
        assert_eq!(read_back(&text), "cccc\n");
    }
}
