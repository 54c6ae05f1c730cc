//! Any arguments of conmon mode must be parsed or refused: the property test on stable and the fuzz target on nightly
//! call the same function.

use super::arguments::Arguments;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

/// Parses words that end with NUL bytes. A refusal has a text.
pub fn arguments(bytes: &[u8]) {
    let words = bytes.split(|byte| *byte == 0).map(|word| OsString::from_vec(word.to_vec())).collect();
    if let Err(error) = Arguments::parse(words) {
        assert!(!error.to_string().is_empty());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_words(words in prop::collection::vec(word(), 0..12)) {
            super::arguments(&words.join(&0));
        }
    }

    fn word() -> impl Strategy<Value = Vec<u8>> {
        let known =
            ["--cid", "-c", "--log-path=k8s-file:/x", "-l", "--exit-command-arg", "--timeout", "-T", "--", "-ti", "-"];
        prop_oneof![
            3 => prop::sample::select(known.to_vec()).prop_map(|word| word.as_bytes().to_vec()),
            1 => any::<i64>().prop_map(|number| number.to_string().into_bytes()),
            1 => prop::collection::vec(any::<u8>(), 0..6),
        ]
    }
}
