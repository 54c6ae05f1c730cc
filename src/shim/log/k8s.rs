//! The CRI's log format: one entry `2006-01-02T15:04:05.000000000+00:00 stdout F text` per line. The tag is `P` in
//! place of `F` if the line is partial: the next entry continues it.

use std::time::{SystemTime, UNIX_EPOCH};

use super::file::FileLog;
use super::stream::Stream;
use windlass_sys::stream::find;

/// Length of the text before the output: the time (35), the stream and its spaces (8), the tag and its space (2).
const PREFIX: usize = 45;

/// Longest text of one entry in bytes, as in containerd's CRI plugin. The kubelet and podman read entries of any
/// length, but collectors of logs have buffers: Fluent Bit's has 32 KiB, and a longer line ends its reading of the
/// file.
const TEXT: usize = 16 * 1024;

/// Writes the bytes of one read. All its entries have the time of the read.
pub(super) fn write(log: &mut FileLog, stream: Stream, bytes: &[u8], scratch: &mut [u8], now: SystemTime) {
    let mut prefix = [0u8; PREFIX];
    write_prefix(&mut prefix, stream, now);
    let (mut rest, mut used) = (bytes, 0);
    while !rest.is_empty() {
        let (line, tag, next) = match find(b'\n', &rest[..rest.len().min(TEXT + 1)]) {
            Some(end) => (&rest[..end], b'F', end + 1),
            None => (&rest[..rest.len().min(TEXT)], b'P', rest.len().min(TEXT)),
        };
        // A read is at most half as long as the buffer, so that each line fits into it.
        let length = PREFIX + line.len() + 1;
        let over = used as u64 + length as u64 > log.room();
        if used + length > scratch.len() || (over && used > 0) {
            log.append(&scratch[..used]);
            used = 0;
        }
        let entry = &mut scratch[used..used + length];
        entry[..PREFIX].copy_from_slice(&prefix);
        entry[PREFIX - 2] = tag;
        copy(&mut entry[PREFIX..length - 1], line);
        entry[length - 1] = b'\n';
        used += length;
        rest = &rest[next..];
    }
    log.append(&scratch[..used]);
}

/// Copies a line. Most lines are short, and musl's memcpy(3) is slow for these. Pieces of a constant size are copied
/// without a call; the last piece may overlap the one before.
fn copy(to: &mut [u8], line: &[u8]) {
    const PIECE: usize = 16;
    let (Some(last), 1..=256) = (line.len().checked_sub(PIECE), line.len()) else { return to.copy_from_slice(line) };
    let mut at = 0;
    while at < last {
        to[at..at + PIECE].copy_from_slice(&line[at..at + PIECE]);
        // Without black_box the compiler replaces the loop by a call of memcpy(3).
        at = std::hint::black_box(at + PIECE);
    }
    to[last..last + PIECE].copy_from_slice(&line[last..last + PIECE]);
}

fn write_prefix(prefix: &mut [u8; PREFIX], stream: Stream, now: SystemTime) {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let whole = windlass_base::rfc3339::seconds(UNIX_EPOCH + std::time::Duration::from_secs(since.as_secs()));
    // 20 characters up to the year 9999, of which the last is `Z`.
    let name = if stream == Stream::Stdout { "stdout" } else { "stderr" };
    let text = format!("{}.{:09}+00:00 {name} F ", whole.trim_end_matches('Z'), since.subsec_nanos());
    let n = text.len().min(PREFIX);
    prefix[..n].copy_from_slice(&text.as_bytes()[..n]);
}

/// An entry, parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Line<'a> {
    /// When the text was read. The times of one log sort as text.
    pub time: &'a str,
    pub stream: Stream,
    /// Whether the line goes on in the next entry.
    pub partial: bool,
    /// The text, without the end of the line.
    pub text: &'a [u8],
}

/// Parses an entry, which is given without its newline.
pub(crate) fn parse(entry: &[u8]) -> Option<Line<'_>> {
    let mut words = entry.splitn(4, |&byte| byte == b' ');
    let time = std::str::from_utf8(words.next()?).ok()?;
    let stream = match words.next()? {
        b"stdout" => Stream::Stdout,
        b"stderr" => Stream::Stderr,
        _ => return None,
    };
    // The CRI allows more tags after a colon.
    let partial = match words.next()?.split(|&byte| byte == b':').next()? {
        b"F" => false,
        b"P" => true,
        _ => return None,
    };
    Some(Line { time, stream, partial, text: words.next()? })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::stdio::LogFile;

    fn logged(name: &str, pieces: &[&[u8]], max_size: Option<u64>) -> Vec<u8> {
        let path = std::env::temp_dir().join(format!("windlass-k8s-{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let mut log = FileLog::open(&LogFile { path: path.clone(), max_size, ..LogFile::default() }).expect("a log");
        let longest = pieces.iter().map(|piece| piece.len()).max().unwrap_or_default();
        let mut scratch = vec![0; (2 * longest).max(256)];
        let now = UNIX_EPOCH + Duration::new(1_700_000_000, 5);
        for piece in pieces {
            write(&mut log, Stream::Stderr, piece, &mut scratch, now);
        }
        let text = std::fs::read(&path).expect("read");
        std::fs::remove_file(&path).expect("removed");
        text
    }

    #[test]
    fn lines_of_all_lengths_are_copied_whole() {
        let line: Vec<u8> = (0..300).map(|n| n as u8).collect();
        for length in 0..=line.len() {
            let mut to = vec![0xee; length];
            copy(&mut to, &line[..length]);
            assert_eq!(to, line[..length], "{length}");
        }
    }

    #[test]
    fn a_cut_line_is_tagged_as_one() {
        let text = logged("cut", &[b"one\ntw", b"o\n"], None);
        let at = "2023-11-14T22:13:20.000000005+00:00 stderr";
        assert_eq!(text, format!("{at} F one\n{at} P tw\n{at} F o\n").into_bytes());
    }

    #[test]
    fn a_long_line_is_cut_into_entries_that_readers_have_room_for() {
        for (length, entries) in [(TEXT - 1, vec![TEXT - 1]), (TEXT, vec![TEXT]), (TEXT + 1, vec![TEXT, 1])] {
            let line = [&vec![b'x'; length][..], b"\nnext\n"].concat();
            let text = logged(&format!("long-{length}"), &[&line], None);
            let lines: Vec<Line<'_>> = text.split(|&byte| byte == b'\n').filter_map(parse).collect();
            let (next, long) = lines.split_last().expect("entries");
            assert_eq!(next.text, b"next");
            assert_eq!(long.iter().map(|line| line.text.len()).collect::<Vec<_>>(), entries, "{length}");
            assert!(long.iter().rev().skip(1).all(|line| line.partial) && !long[long.len() - 1].partial);
        }
        let text = logged("endless", &[&vec![b'x'; 3 * TEXT + 5]], None);
        let lines: Vec<Line<'_>> = text.split(|&byte| byte == b'\n').filter_map(parse).collect();
        assert_eq!(lines.iter().map(|line| line.text.len()).collect::<Vec<_>>(), [TEXT, TEXT, TEXT, 5]);
        assert!(lines.iter().all(|line| line.partial));
    }

    #[test]
    fn lines_read_back_give_the_bytes_written() {
        // Every split of the text into two reads, with a scratch memory that holds two lines.
        let whole = b"first\n\nthird line\n\xff\x00bytes\nlast without end";
        for cut in 0..=whole.len() {
            let text = logged("split", &[&whole[..cut], &whole[cut..]], None);
            let mut back = Vec::new();
            for entry in text.split(|&byte| byte == b'\n').filter(|entry| !entry.is_empty()) {
                let line = parse(entry).expect("an entry");
                back.extend_from_slice(line.text);
                if !line.partial {
                    back.push(b'\n');
                }
            }
            assert_eq!(back, whole, "cut at {cut}");
        }
    }

    #[test]
    fn a_full_log_begins_anew_between_lines() {
        let text = logged("full", &[b"aaaa\nbbbb\ncccc\n"], Some(110));
        assert_eq!(text.split_inclusive(|&byte| byte == b'\n').count(), 1);
        assert!(text.ends_with(b" F cccc\n"), "{text:?}");
    }

    #[test]
    fn what_is_no_entry_is_none() {
        for text in ["", "x", "t stdout", "t stdout F", "t stdin F x", "t stdout Q x"] {
            assert_eq!(parse(text.as_bytes()), None, "{text:?}");
        }
    }
}
