//! The properties of reading any bytes as a file of a container: the property test on stable and the fuzz target on
//! nightly call the same function.

use super::process_stat::parse_stat;
use super::record::{annotations, cgroup_in, compose, is_state, parse, parse_copy};

/// A state file, its copy, and /proc/PID/stat. The parts of a file follow each other, and a record that was read is
/// written unchanged.
pub fn record(bytes: &[u8]) {
    let _ = (parse_copy(bytes), cgroup_in(bytes), is_state(bytes), annotations(bytes));
    let _ = parse_stat(&String::from_utf8_lossy(bytes));
    let Ok(Some(head)) = parse(bytes) else { return };
    let layout = head.layout;
    assert!(layout.init() < layout.exit() && layout.exit() < layout.config() && layout.config() <= bytes.len());
    assert!(layout.config() <= layout.annotations());
    let (text, _) = compose(&head.state, b"{}", true);
    let again = parse(&text).expect("readable").expect("complete");
    let mut state = head.state;
    // Since version 2 the annotations are behind the lines.
    state.annotations.clear();
    assert_eq!(format!("{state:?}"), format!("{:?}", again.state));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::Index;

    const STATE: &str = r#"{"version":2,"id":"a","ociVersion":"1.2.0","bundle":"/b","rootfs":"/b/r","owner":"root","created":"now","cgroup":"/c"}"#;

    fn file() -> Vec<u8> {
        let state = serde_json::from_str(STATE).expect("valid");
        super::compose(&state, br#"{"hooks":{}}"#, true).0
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn damaged_files(edits in prop::collection::vec((any::<Index>(), any::<u8>()), 0..4), end in any::<Index>()) {
            let mut text = file();
            for (at, byte) in edits {
                let at = at.index(text.len());
                text[at] = byte;
            }
            super::record(&text);
            super::record(&text[..end.index(text.len())]);
        }

        #[test]
        fn any_lengths(config in any::<usize>(), annotations in any::<usize>()) {
            let lengths = format!("{{\"config\":{config},\"annotations\":{annotations},\"post\":true}}\n");
            let mut text = file();
            let at = text.windows(9).position(|window| window == b"{\"config\"").expect("the fourth line");
            text[at..at + lengths.len()].copy_from_slice(lengths.as_bytes());
            super::record(&text);
        }
    }

    #[test]
    fn lengths_at_the_end_of_the_numbers() {
        let lengths = format!("{{\"config\":{},\"annotations\":1,\"post\":true}}\n", usize::MAX);
        let mut text = file();
        let at = text.windows(9).position(|window| window == b"{\"config\"").expect("the fourth line");
        text[at..at + lengths.len()].copy_from_slice(lengths.as_bytes());
        super::record(&text);
    }
}
