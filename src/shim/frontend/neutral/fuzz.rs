//! Any log of events that a shim finds must be usable: the property test on stable and the fuzz target on nightly
//! call the same function.

use super::event_log::EventLog;
use std::sync::atomic::{AtomicU32, Ordering};

/// Opens a log of events that another shim has left, damaged or not. New events follow, and compacting keeps the
/// events that are not acknowledged.
pub fn event_log(bytes: &[u8]) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("windlass-fuzz-events-{}-{number}", std::process::id()));
    std::fs::write(&path, bytes).expect("written");
    let opened = EventLog::open(path.clone());
    if let Ok(mut log) = opened {
        let last = log.last();
        assert!(log.acknowledged() <= last);
        log.append("\"type\":\"started\"");
        assert_eq!(log.last(), last + 1);
        let before = read(&log);
        log.compact().expect("compacted");
        // Events have growing numbers. If they do not, a subscriber sees only a part of them.
        assert!(read(&log) == before || !is_growing(bytes));
        log.acknowledge(last + 1);
        log.compact().expect("compacted");
        assert!(read(&log).is_empty());
        let again = EventLog::open(path.clone()).expect("opened");
        assert_eq!((again.last(), again.acknowledged()), (last + 1, last + 1));
    }
    std::fs::remove_file(path).expect("removed");
}

fn is_growing(bytes: &[u8]) -> bool {
    let number = |line: &[u8]| serde_json::from_slice::<serde_json::Value>(line).ok()?["event"].as_u64();
    let numbers: Vec<u64> = bytes.split(|byte| *byte == b'\n').filter_map(number).collect();
    numbers.is_sorted_by(|one, next| one < next)
}

/// The events of a subscriber that has acknowledged none, without those of deleted execs.
fn read(log: &EventLog) -> Vec<String> {
    let (mut cursor, mut events) = (log.cursor(None), Vec::new());
    loop {
        match log.read(&mut cursor) {
            Ok(text) if !text.is_empty() => {
                let lines = String::from_utf8_lossy(&text).into_owned();
                events.extend(lines.lines().filter(|line| !line.contains("exec")).map(str::to_owned));
            }
            _ => return events,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::{Index, select};

    const LINES: &[&str] = &[
        "{\"event\":1,\"type\":\"created\"}\n",
        "{\"event\":2,\"type\":\"started\",\"exec\":\"e\"}\n",
        "{\"event\":3,\"type\":\"deleted\",\"exec\":\"e\"}\n",
        "{\"acknowledged\":2}\n",
        "{\"acknowledged\":4,\"event\":9}\n",
        "{\"event\":18446744073709551614,\"type\":\"oom\"}\n",
        "{\"event\":7,\"type\":\"exi",
        "null\n",
        "\n",
    ];

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_lines(
            lines in prop::collection::vec(select(LINES.to_vec()), 0..8),
            at in any::<Index>(),
            byte in any::<u8>(),
            damaged in any::<bool>(),
        ) {
            let mut text = lines.concat().into_bytes();
            if damaged && !text.is_empty() {
                let at = at.index(text.len());
                text[at] = byte;
            }
            super::event_log(&text);
        }
    }
}
