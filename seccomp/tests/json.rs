//! Reading profiles from JSON: tolerated documents, borrowed strings, and no panics.

mod support;

use std::borrow::Cow;

use proptest::prelude::*;
use windlass_seccomp::{Arch, Profile, Program, compile};

const SAMPLE: &str = include_str!("data/engine.json");

#[test]
fn null_is_like_absent() {
    let nulls = r#"{"defaultAction": null, "defaultErrnoRet": null, "architectures": null,
        "flags": null, "listenerPath": null, "listenerMetadata": null, "syscalls": null}"#;
    let profile: Profile<'_> = serde_json::from_str(nulls).unwrap();
    assert_eq!(profile, serde_json::from_str("{}").unwrap());
    assert!(profile.is_empty());
    let rule = r#"{"syscalls": [{"names": null, "action": null, "errnoRet": null, "args": null},
        {"args": [{"index": null, "value": null, "valueTwo": null, "op": null}]}]}"#;
    let profile: Profile<'_> = serde_json::from_str(rule).unwrap();
    assert_eq!(profile, serde_json::from_str(r#"{"syscalls": [{}, {"args": [{}]}]}"#).unwrap());
    assert!(!profile.is_empty());
}

#[test]
fn unknown_fields_are_ignored() {
    let text = r#"{"defaultAction": "SCMP_ACT_ALLOW", "x": {"y": [1]}, "syscalls": [{"comment": ""}]}"#;
    let profile: Profile<'_> = serde_json::from_str(text).unwrap();
    assert_eq!(profile.syscalls.len(), 1);
}

#[test]
fn empty_flags_differ_from_absent_ones() {
    let profile: Profile<'_> = serde_json::from_str(r#"{"flags": []}"#).unwrap();
    assert_eq!(profile.flags, Some(vec![]));
}

#[test]
fn values_keep_all_64_bits() {
    let text = r#"{"syscalls": [{"args": [{"value": 18446744073709551615, "valueTwo": 9223372036854775809}]}]}"#;
    let profile: Profile<'_> = serde_json::from_str(text).unwrap();
    let arg = &profile.syscalls[0].args[0];
    assert_eq!((arg.value, arg.value_two), (u64::MAX, 1 << 63 | 1));
}

#[test]
fn strings_borrow_from_the_text_unless_escaped() {
    let text = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read", "wri\u0074e"]}]}"#;
    let profile: Profile<'_> = serde_json::from_str(text).unwrap();
    assert!(matches!(profile.default_action, Cow::Borrowed("SCMP_ACT_ALLOW")));
    let names = &profile.syscalls[0].names;
    assert!(matches!(names[0], Cow::Borrowed("read")));
    assert!(matches!(&names[1], Cow::Owned(name) if name == "write"));
}

/// The body of the fuzz target: any bytes, for any architecture.
fn takes_any_bytes(bytes: &[u8], native: Arch) {
    let Ok(profile) = serde_json::from_slice::<Profile<'_>>(bytes) else {
        return;
    };
    match compile(&profile, native) {
        Ok(filter) => assert!((1..=Program::MAX_LEN).contains(&filter.program.len())),
        Err(problems) => {
            assert!(!problems.is_empty());
            // A member that a profile does not have may be no UTF-8: it is skipped, and not read.
            let Ok(json) = serde_json::from_slice::<serde_json::Value>(bytes) else {
                return;
            };
            for problem in problems {
                // The pointer leads to the fault, or to the object that lacks something.
                let parent = problem.pointer.rsplit_once('/').unwrap().0;
                assert!(json.pointer(parent).is_some(), "{problem}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        takes_any_bytes(&bytes, Arch::X86_64);
    }

    #[test]
    fn no_change_of_a_good_profile_makes_it_panic(
        changes in prop::collection::vec((0..SAMPLE.len(), any::<u8>()), 1..8),
        (from, length) in (0..SAMPLE.len(), 0..400_usize),
        arch in prop::sample::select(&Arch::ALL[..]),
    ) {
        let mut bytes = SAMPLE.as_bytes().to_vec();
        takes_any_bytes(&bytes, arch);
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        takes_any_bytes(&bytes, arch);
        bytes.drain(from..(from + length).min(SAMPLE.len()));
        takes_any_bytes(&bytes, arch);
    }

    #[test]
    fn no_words_in_a_wrong_place_make_it_panic(
        words in prop::collection::vec(word(), 12),
        numbers in prop::collection::vec(any::<u32>(), 4),
        arch in prop::sample::select(&Arch::ALL[..]),
    ) {
        let json = serde_json::json!({
            "defaultAction": words[0], "defaultErrnoRet": numbers[0],
            "architectures": [words[1], words[2]], "flags": [words[3]],
            "listenerPath": words[4], "listenerMetadata": words[5],
            "syscalls": [
                {"names": [words[6], words[7]], "action": words[8], "errnoRet": numbers[1] % 5000,
                 "args": [{"index": numbers[2] % 8, "value": numbers[3], "op": words[9]}]},
                {"names": [words[10]], "action": words[11]},
            ],
        });
        takes_any_bytes(json.to_string().as_bytes(), arch);
    }
}

fn word() -> impl Strategy<Value = String> {
    let known: Vec<&str> = windlass_seccomp::actions()
        .chain(windlass_seccomp::operators())
        .chain(windlass_seccomp::architectures())
        .chain(windlass_seccomp::flags())
        .chain(support::NAMES)
        .chain(["", "SCMP_ACT_", "scmp_act_allow"])
        .collect();
    prop::sample::select(known).prop_map(str::to_owned)
}
