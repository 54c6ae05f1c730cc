//! Conversions between the configuration of the crate oci-spec and the one that planning takes (feature `oci-spec`).
//!
//! Both describe the same JSON document, and both conversions go through it: one side writes it and the other side
//! reads it. An element whose meaning would change is an error, named by its JSON Pointer.

use oci_spec::runtime as oci;
use serde_json::Value;
use windlass_base::error::{Diagnostic, Error, Kind, Result};
use windlass_base::spec::{self, Spec};

/// The name of oci-spec's document in messages.
const THEIRS: &str = "the document of oci-spec";

/// Converts to the configuration that planning takes.
///
/// oci-spec has already lost the difference between an absent `pids.limit` and one of 0, which is a limit since version
/// 1.3 of the specification: a caller that wants no limit must remove `pids`.
///
/// # Errors
/// Each member that cannot be read, by its JSON Pointer. Members that are for other systems than Linux are ignored.
pub fn from_oci_spec(theirs: &oci::Spec) -> Result<Spec> {
    let text = serde_json::to_vec(theirs).map_err(|error| unreadable(THEIRS, &error))?;
    let mut spec = spec::parse(&text, THEIRS)?;
    if let Some(sets) = spec.process.as_mut().and_then(|process| process.capabilities.as_mut()) {
        let sets =
            [&mut sets.bounding, &mut sets.effective, &mut sets.inheritable, &mut sets.permitted, &mut sets.ambient];
        // Sets have no order, but the same configuration must give the same plan and messages.
        sets.into_iter().flatten().for_each(|names| names.sort());
    }
    Ok(spec)
}

/// Converts to the configuration of oci-spec. Its capabilities are sets: the order of names is lost, which has no
/// meaning.
///
/// # Errors
/// Each member that oci-spec cannot hold, by its JSON Pointer: a name that it does not know (a capability, a limit),
/// an absent `pids.limit`, which would become 0, an `ioPriority` without its class, a fifo without device numbers.
pub fn to_oci_spec(ours: &Spec) -> Result<oci::Spec> {
    let document = document(ours)?;
    let text = document.to_string();
    let theirs: oci::Spec = serde_json::from_str(&text).map_err(|error| {
        match spec::fault_of::<oci::Spec>(text.as_bytes(), "the configuration") {
            Some(fault) => Error::faults(vec![fault]),
            None => unreadable("the configuration", &error),
        }
    })?;
    let returned = self::document(&from_oci_spec(&theirs)?)?;
    let mut changed = Vec::new();
    differences(String::new(), &comparable(document), &comparable(returned), &mut changed);
    match changed.is_empty() {
        true => Ok(theirs),
        false => Err(Error::faults(changed)),
    }
}

fn unreadable(what: &str, error: &serde_json::Error) -> Error {
    Error::new(Kind::InvalidConfig, format!("cannot convert {what}: {error}"))
}

/// The document of a configuration, without the members that are absent.
fn document(spec: &Spec) -> Result<Value> {
    // The conversion goes through the text, since the seccomp profile is kept as text.
    let text = serde_json::to_vec(spec).map_err(|error| unreadable("the configuration", &error))?;
    let mut document = serde_json::from_slice(&text).map_err(|error| unreadable("the configuration", &error))?;
    remove_absent(&mut document);
    Ok(document)
}

/// Members whose own members are values by name: among these an empty text is a value.
const MAPS: &[&str] = &["annotations", "sysctl", "unified"];

/// A configuration keeps an absent text as an empty one.
fn remove_absent(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, member| !member.is_null() && *member != "");
            members
                .iter_mut()
                .filter(|(name, _)| !MAPS.contains(&name.as_str()))
                .for_each(|(_, member)| remove_absent(member));
        }
        Value::Array(elements) => elements.iter_mut().for_each(remove_absent),
        _ => {}
    }
}

/// The document in a form that is the same for documents of the same meaning.
fn comparable(mut document: Value) -> Value {
    let sets = document.pointer_mut("/process/capabilities").and_then(Value::as_object_mut);
    for names in sets.into_iter().flat_map(|sets| sets.values_mut()).filter_map(Value::as_array_mut) {
        let mut known: Vec<String> = names.iter().filter_map(Value::as_str).map(str::to_ascii_uppercase).collect();
        known.sort();
        known.dedup();
        *names = known.into_iter().map(Value::String).collect();
    }
    if let Some(profile) = document.pointer_mut("/linux/seccomp") {
        let text = profile.to_string();
        if let Ok(parsed) = serde_json::from_str::<windlass_seccomp::Profile<'_>>(&text) {
            *profile = format!("{parsed:?}").into();
        }
    }
    document
}

/// The innermost elements that differ.
fn differences(pointer: String, ours: &Value, theirs: &Value, out: &mut Vec<Diagnostic>) {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            let names: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for name in names {
                let below = format!("{pointer}/{}", spec::escape(name));
                differences(
                    below,
                    &a.get(name).cloned().unwrap_or_default(),
                    &b.get(name).cloned().unwrap_or_default(),
                    out,
                );
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (ours, theirs)) in a.iter().zip(b).enumerate() {
                differences(format!("{pointer}/{index}"), ours, theirs, out);
            }
        }
        _ if ours == theirs => {}
        (_, Value::Null) => {
            out.push(Diagnostic { pointer, msg: "oci-spec cannot hold this value: it would be lost".into() })
        }
        (Value::Null, _) => {
            out.push(Diagnostic {
                pointer,
                msg: format!("oci-spec cannot hold its absence: it would become {theirs}"),
            });
        }
        _ => {
            out.push(Diagnostic { pointer, msg: format!("oci-spec cannot hold this value: it would become {theirs}") })
        }
    }
}
