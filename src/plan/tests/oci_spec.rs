//! Compares our reading of `config.json` with the oci-spec crate's: we read all that it reads, with the same values.
//! `windlass_base::spec` tells why ours exists.
//!
//! oci-spec's document is written out again and read with ours. Both of our readings, of the text
//! as it was and of what oci-spec made of it, must then be the same.

#![cfg(feature = "oci-spec")]

mod support;

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::Value;
use windlass_base::spec::Spec;
use windlass_plan::convert::{from_oci_spec, to_oci_spec};
use windlass_plan::{CapabilitySet, Host, Options, check, create};

/// Elements of specifications before 1.3 that neither keeps.
const NOT_WRITTEN: &[&str] = &["/linux/intelRdt/enableCMT", "/linux/intelRdt/enableMBM"];

/// Documents that only we refuse. Derived parsers read a list as an object, member by member, and oci-spec has defaults
/// for members that the specification requires.
const STRICTER: &[&str] = &["sequence, expected an object", "missing field"];

/// Our reading, in a form that can be compared: the seccomp profile is kept as text, which has many forms, so it is
/// compared as a separate value.
fn ours(text: &str) -> Result<(String, Value), windlass_base::error::Error> {
    let mut spec: Spec = windlass_base::spec::parse(text.as_bytes(), "config.json")?;
    forget_what_oci_spec_does_not_keep(&mut spec);
    let mut profile = Value::Null;
    if let Some(text) = spec.linux.as_mut().and_then(|linux| linux.seccomp.take()) {
        let parsed: windlass_seccomp::Profile = serde_json::from_str(text.get())
            .map_err(|error| windlass_base::error::Error::usage(format!("seccomp: {error}")))?;
        profile = format!("{parsed:#?}").into();
    }
    Ok((format!("{spec:#?}"), profile))
}

/// Makes two readings comparable.
fn forget_what_oci_spec_does_not_keep(spec: &mut Spec) {
    // In oci-spec no limit of tasks is a limit of 0, which means something else since runtime-spec 1.3.
    if let Some(pids) = spec.linux.as_mut().and_then(|linux| linux.resources.as_mut()?.pids.as_mut()) {
        pids.limit.get_or_insert(0);
    }
    // In oci-spec a fifo has numbers.
    for device in spec.linux.iter_mut().flat_map(|linux| &mut linux.devices) {
        device.major.get_or_insert(0);
        device.minor.get_or_insert(0);
    }
    // In oci-spec a priority without a class is best effort; the specification requires the class.
    if let Some(priority) = spec.process.as_mut().and_then(|process| process.io_priority.as_mut())
        && priority.class.is_empty()
    {
        priority.class = "IOPRIO_CLASS_BE".into();
    }
    // In oci-spec capabilities are sets, of names in any case.
    if let Some(sets) = spec.process.as_mut().and_then(|process| process.capabilities.as_mut()) {
        let sets =
            [&mut sets.bounding, &mut sets.effective, &mut sets.inheritable, &mut sets.permitted, &mut sets.ambient];
        for names in sets.into_iter().flatten() {
            names.iter_mut().for_each(|name| name.make_ascii_uppercase());
            names.sort();
            names.dedup();
        }
    }
}

/// The document as oci-spec understands it, if it does.
fn through_oci_spec(text: &str) -> Result<String, serde_json::Error> {
    let spec: oci_spec::runtime::Spec = serde_json::from_str(text)?;
    serde_json::to_string(&spec)
}

/// Whether a limit of huge pages is negative: oci-spec has signed limits, the specification (uint64) unsigned ones.
fn has_a_negative_size(document: &Value) -> bool {
    let limits = document.pointer("/linux/resources/hugepageLimits").and_then(Value::as_array);
    limits.into_iter().flatten().any(|limit| limit["limit"].as_i64().is_some_and(i64::is_negative))
}

fn compare(document: &Value) -> Result<bool, String> {
    let text = document.to_string();
    let Ok(theirs) = through_oci_spec(&text) else { return Ok(false) };
    if !document.is_object() || has_a_negative_size(document) {
        return Ok(false);
    }
    let (spec, profile) = match ours(&text) {
        Err(error) if STRICTER.iter().any(|words| error.message().contains(words)) => return Ok(false),
        other => other.map_err(|error| format!("we cannot read what oci-spec reads: {error}"))?,
    };
    let (their_spec, their_profile) =
        ours(&theirs).map_err(|error| format!("we cannot read what it wrote: {error}"))?;
    if profile != their_profile {
        return Err(format!("the seccomp profiles differ:\n{profile:#}\n{their_profile:#}"));
    }
    let differs = |(a, b): &(&str, &str)| a != b;
    match spec.lines().zip(their_spec.lines()).find(differs) {
        None if spec.lines().count() == their_spec.lines().count() => Ok(true),
        None => Err("one has more lines".into()),
        Some((a, b)) => Err(format!("ours {a:?}, oci-spec's {b:?}")),
    }
}

#[test]
fn what_oci_spec_reads_we_read_with_the_same_values() {
    let mut compared = 0;
    for document in support::seeds() {
        match compare(&document) {
            Ok(done) => compared += usize::from(done),
            Err(difference) => panic!("{difference}\nin {document:#}"),
        }
    }
    assert!(compared >= 25, "only {compared} documents could be compared");
}

/// The pointers of a document with `*` for every index.
fn shapes(document: &Value) -> BTreeSet<String> {
    let star = |part: &str| if part.parse::<usize>().is_ok() { "*".to_string() } else { part.to_string() };
    let shape = |pointer: &String| pointer.split('/').map(star).collect::<Vec<_>>().join("/");
    support::places(document).iter().map(shape).collect()
}

#[test]
fn the_full_document_has_every_element_that_oci_spec_writes() {
    let full = &support::seeds()[0];
    let written: Value =
        serde_json::from_str(&through_oci_spec(&full.to_string()).expect("it reads it")).expect("JSON");
    let (full, written) = (shapes(full), shapes(&written));
    let lost: Vec<&String> = full.difference(&written).collect();
    assert_eq!(lost, NOT_WRITTEN);
}

/// The cases are the same each time: a newly met habit of oci-spec is no fault of the change that is being tested. To
/// look for one: `PROPTEST_RNG_SEED=7 cargo test -p windlass-plan --test oci_spec`.
fn config() -> ProptestConfig {
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) };
    match std::env::var_os("PROPTEST_RNG_SEED") {
        Some(_) => config,
        None => ProptestConfig { rng_seed: RngSeed::Fixed(1), ..config },
    }
}

/// A small configuration that oci-spec can hold, with `process` and `linux` as given.
fn config_with(process: &str, linux: &str) -> Spec {
    let text = format!(
        r#"{{"ociVersion": "1.2.0", "root": {{"path": "rootfs"}},
            "process": {{"args": ["sh"], "cwd": "/", "user": {{"uid": 0, "gid": 0}} {process}}},
            "linux": {{"namespaces": [{{"type": "mount"}}] {linux}}}}}"#
    );
    windlass_base::spec::parse(text.as_bytes(), "config.json").expect("a valid document")
}

#[test]
fn a_configuration_comes_back_from_oci_spec_as_it_was() {
    let mut converted = 0;
    for document in support::seeds() {
        let Ok(text) = through_oci_spec(&document.to_string()) else { continue };
        let theirs: oci_spec::runtime::Spec = serde_json::from_str(&text).expect("its own document");
        let Ok(spec) = from_oci_spec(&theirs) else { continue };
        let again = to_oci_spec(&spec).unwrap_or_else(|error| panic!("{error}\nin {document:#}"));
        let (was, is) = (format!("{spec:#?}"), format!("{:#?}", from_oci_spec(&again).expect("read")));
        let changed = was.lines().zip(is.lines()).find(|(was, is)| was != is);
        assert_eq!(changed, None);
        converted += 1;
    }
    assert!(converted >= 25, "only {converted} documents could be converted");
}

#[test]
fn what_oci_spec_cannot_hold_is_named() {
    for (process, linux, pointer) in [
        ("", r#", "resources": {"pids": {}}"#, "/linux/resources/pids/limit"),
        (r#", "ioPriority": {"priority": 3}"#, "", "/process/ioPriority/class"),
        (r#", "capabilities": {"bounding": ["CAP_FLY"]}"#, "", "/process/capabilities/bounding/0"),
        (r#", "rlimits": [{"type": "RLIMIT_FLY", "hard": 1, "soft": 1}]"#, "", "/process/rlimits/0/type"),
        ("", r#", "devices": [{"path": "/dev/pipe", "type": "p"}]"#, "/linux/devices/0/major"),
    ] {
        let faults = to_oci_spec(&config_with(process, linux)).expect_err(pointer).into_faults();
        assert!(faults.iter().any(|fault| fault.pointer == pointer), "{pointer} is not among {faults:?}");
    }
    // In oci-spec capabilities are sets, which have no order.
    let spec = config_with(r#", "capabilities": {"bounding": ["CAP_KILL", "CAP_CHOWN", "CAP_FOWNER"]}"#, "");
    to_oci_spec(&spec).expect("it holds the names");
}

#[test]
fn what_came_from_oci_spec_is_planned_and_checked() {
    let theirs = oci_spec::runtime::Spec::default();
    let spec = from_oci_spec(&theirs).expect("its default is a whole configuration");
    let options =
        Options { host: Host { capabilities: CapabilitySet::all(), ..Host::default() }, ..Options::default() };
    assert_eq!(check(&spec, &options).errors, []);
    let plan = create("box", &spec, &options).expect("it can be planned");
    assert!(plan.text(&[]).contains("pivot the root"), "{}", plan.text(&[]));
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn edited_documents_are_read_alike(seed in any::<proptest::sample::Index>(), edits in support::edits()) {
        let seeds = support::seeds();
        let mut document = seeds[seed.index(seeds.len())].clone();
        support::apply(&mut document, &edits);
        if let Err(difference) = compare(&document) {
            return Err(TestCaseError::fail(difference));
        }
    }
}
