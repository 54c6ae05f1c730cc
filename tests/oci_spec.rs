//! Our reading of `config.json` against the oci-spec crate's: what it reads, we read too, with the
//! same values. Why ours exists stands in `windlass::spec`.
//!
//! oci-spec's document is written out again and read with ours. Both of our readings, of the text
//! as it was and of what oci-spec made of it, must then be the same.

mod support;

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::Value;
use windlass::spec::Spec;

/// Elements that oci-spec reads and does not write.
const NOT_WRITTEN: &[&str] = &["/linux/intelRdt/enableCMT", "/linux/intelRdt/enableMBM"];

/// Our reading, in a form that can be compared: the seccomp profile is kept as text, which says
/// the same in many ways, so it is compared as a value of its own.
fn ours(text: &str) -> Result<(String, Value), windlass::error::Error> {
    let mut spec: Spec = windlass::spec::parse(text.as_bytes(), "config.json")?;
    forget_what_oci_spec_does_not_keep(&mut spec);
    let mut profile = Value::Null;
    if let Some(text) = spec.linux.as_mut().and_then(|linux| linux.seccomp.take()) {
        let parsed: windlass_seccomp::Profile = serde_json::from_str(text.get())
            .map_err(|error| windlass::error::Error::usage(format!("seccomp: {error}")))?;
        profile = format!("{parsed:#?}").into();
    }
    Ok((format!("{spec:#?}"), profile))
}

/// Makes two readings comparable.
fn forget_what_oci_spec_does_not_keep(spec: &mut Spec) {
    if let Some(rdt) = spec.linux.as_mut().and_then(|linux| linux.intel_rdt.as_mut()) {
        (rdt.enable_cmt, rdt.enable_mbm) = (false, false);
    }
    // Its capabilities are sets.
    if let Some(sets) = spec.process.as_mut().and_then(|process| process.capabilities.as_mut()) {
        let sets =
            [&mut sets.bounding, &mut sets.effective, &mut sets.inheritable, &mut sets.permitted, &mut sets.ambient];
        for names in sets.into_iter().flatten() {
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

fn compare(document: &Value) -> Result<bool, String> {
    let text = document.to_string();
    // serde takes a list for a structure; the specification does not.
    let Ok(theirs) = through_oci_spec(&text) else { return Ok(false) };
    if !document.is_object() {
        return Ok(false);
    }
    let (spec, profile) = ours(&text).map_err(|error| format!("we cannot read what oci-spec reads: {error}"))?;
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

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

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
