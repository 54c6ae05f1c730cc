//! The log must give back any output of a container: the property test on stable and the fuzz target on nightly call
//! the same function.

use super::stream::Stream;
use super::{Logger, SCRATCH, k8s};
use crate::stdio::{Log, LogFile};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// Logs output in pieces, and checks that a reader of the log gets what was written. Before each piece is a byte: bits
/// 0 to 3 are its length, bit 6 makes that 16 times as long, and bit 7 is its stream.
pub fn written(bytes: &[u8]) {
    let pieces = pieces(bytes);
    let text = logged(Log::K8s, &pieces);
    let mut read = [Vec::new(), Vec::new()];
    for entry in text.split(|byte| *byte == b'\n').filter(|entry| !entry.is_empty()) {
        let line = k8s::parse(entry).expect("an entry");
        let to = &mut read[line.stream as usize];
        to.extend_from_slice(line.text);
        to.extend(if line.partial { None } else { Some(b'\n') });
    }
    assert_eq!(read, output(&pieces));
    let text = logged(Log::Json, &pieces);
    let mut read = [String::new(), String::new()];
    for entry in text.split(|byte| *byte == b'\n').filter(|entry| !entry.is_empty()) {
        let entry: serde_json::Value = serde_json::from_slice(entry).expect("an object a line");
        let to = &mut read[usize::from(entry["stream"] == "stderr")];
        to.push_str(entry["log"].as_str().expect("a text"));
    }
    // Invalid UTF-8 is replaced. How many bytes one U+FFFD stands for is undefined.
    let known = |text: &str| text.chars().filter(|char| *char != char::REPLACEMENT_CHARACTER).collect::<String>();
    let wanted = output(&pieces).map(|bytes| known(&String::from_utf8_lossy(&bytes)));
    assert_eq!(read.map(|text| known(&text)), wanted);
}

fn pieces(bytes: &[u8]) -> Vec<(Stream, &[u8])> {
    let (mut rest, mut pieces) = (bytes, Vec::new());
    while let Some((first, after)) = rest.split_first() {
        let length = usize::from(first & 15) * if first & 64 == 0 { 1 } else { 16 };
        let (piece, next) = after.split_at(length.min(after.len()));
        pieces.push((if first & 128 == 0 { Stream::Stdout } else { Stream::Stderr }, piece));
        rest = next;
    }
    pieces
}

/// The whole output of each stream.
fn output(pieces: &[(Stream, &[u8])]) -> [Vec<u8>; 2] {
    let mut output = [Vec::new(), Vec::new()];
    pieces.iter().for_each(|(stream, piece)| output[*stream as usize].extend_from_slice(piece));
    output
}

fn logged(kind: fn(LogFile) -> Log, pieces: &[(Stream, &[u8])]) -> Vec<u8> {
    let path = place("log");
    let mut logger = Logger::open(&kind(LogFile { path: path.clone(), ..LogFile::default() })).expect("a log");
    let mut scratch = vec![0; SCRATCH];
    pieces.iter().for_each(|(stream, piece)| logger.write(*stream, piece, &mut scratch));
    logger.end(&mut scratch);
    let text = std::fs::read(&path).expect("read");
    std::fs::remove_file(&path).expect("removed");
    text
}

/// A file that no other test uses.
fn place(name: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("windlass-fuzz-{name}-{}-{number}", std::process::id()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_output(bytes in prop::collection::vec(prop_oneof![3 => any::<u8>(), 1 => Just(b'\n'), 1 => Just(0xe2)], 0..400)) {
            super::written(&bytes);
        }

        #[test]
        fn characters_cut_anywhere(text in "[a-zé日\u{10000}\n]{0,60}", sizes in prop::collection::vec(1..6_u8, 0..60)) {
            let (mut rest, mut bytes) = (text.as_bytes(), Vec::new());
            for size in sizes {
                let (piece, next) = rest.split_at(usize::from(size).min(rest.len()));
                bytes.push(size);
                bytes.extend_from_slice(piece);
                // The last piece fills what its length announces, so that no length is taken for text.
                bytes.resize(bytes.len() + usize::from(size) - piece.len(), b'.');
                rest = next;
            }
            super::written(&bytes);
        }
    }
}
