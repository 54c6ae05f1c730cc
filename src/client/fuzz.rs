//! Any bytes from a shim must be read or refused: the property test on stable and the fuzz target on nightly call the
//! same function.

use super::{Client, Frame};
use std::io::Write;
use std::os::unix::net::UnixStream;

/// Reads the output of an attached process. Reading ends, and no frame is longer than the bytes that were sent.
pub fn frames(bytes: &[u8]) {
    let (mut sender, receiver) = UnixStream::pair().expect("a pair of sockets");
    let mut client = Client { sends_end_frame: true, ..Client::over(receiver, "".as_ref()) };
    // At most the capacity of the socket, as nobody reads meanwhile.
    let bytes = &bytes[..bytes.len().min(32 * 1024)];
    sender.write_all(bytes).expect("it fits");
    drop(sender);
    let mut read = 0;
    while let Ok(Some(Frame::Stdout(data) | Frame::Stderr(data))) = client.frame() {
        read += 5 + data.len();
        assert!(read <= bytes.len());
    }
}

/// Reads the answers and events of a shim, as lines.
pub fn lines(bytes: &[u8]) {
    let (mut sender, receiver) = UnixStream::pair().expect("a pair of sockets");
    let mut client = Client { sends_end_frame: true, ..Client::over(receiver, "".as_ref()) };
    sender.write_all(&bytes[..bytes.len().min(32 * 1024)]).expect("it fits");
    sender.shutdown(std::net::Shutdown::Write).expect("it is open");
    // An invalid line ends one call, and not the next.
    for _ in 0..=bytes.iter().filter(|byte| **byte == b'\n').count() {
        let _ = client.event();
    }
    assert!(client.call("status", serde_json::json!({})).is_err(), "an answer to what was asked after the end");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_frames(frames in prop::collection::vec((any::<u8>(), any::<u16>(), prop::collection::vec(any::<u8>(), 0..9)), 0..9)) {
            let mut bytes = Vec::new();
            for (kind, length, data) in frames {
                // Half of the frames have their true length.
                let length = if length % 2 == 0 { data.len() as u32 } else { u32::from(length) << (length % 17) };
                bytes.push(kind);
                bytes.extend(length.to_be_bytes());
                bytes.extend(data);
            }
            super::frames(&bytes);
        }

        #[test]
        fn any_lines(lines in prop::collection::vec(prop::sample::select(LINES.to_vec()), 0..6), rest in "\\PC{0,20}") {
            super::lines((lines.concat() + &rest).as_bytes());
        }
    }

    const LINES: &[&str] = &[
        "{\"event\":1,\"type\":\"exited\"}\n",
        "{\"seq\":1,\"ok\":{}}\n",
        "{\"seq\":1,\"error\":{\"code\":\"x\"}}\n",
        "{\"seq\":1,\"error\":7}\n",
        "[]\n",
        "\n",
        "{\"event\":",
        "\"\\ud800\"\n",
    ];
}
