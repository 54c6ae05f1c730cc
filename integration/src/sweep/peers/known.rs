//! Known differences from peers, each with its conditions, its reason, and the line of the documentation for users.

use super::observe::Observation;
use crate::kit::runtime::RuntimeKind;
use serde_json::Value;

/// The list. Each entry has the peer (`*` for any), the fields, and conditions: the values (`ours`, `theirs`), the
/// error of the runtime that refused (`says`), which elements the sample has and lacks (`has`, `lacks`).
/// `reason` is for maintainers. `line` is for users: a part of the line in docs/compatibility.md.
const LIST: &str = include_str!("known.json");

/// A field in which two runtimes differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    pub field: String,
    /// The value with windlass; `-` if there is no such field.
    pub ours: String,
    /// The value with the peer.
    pub theirs: String,
}

/// The fields in which they differ. If either has refused the sample, the refusal is the only field.
pub fn differences(ours: &Observation, theirs: &Observation) -> Vec<Difference> {
    let accepted = |seen: &Observation| seen.fields.get("accepted").cloned().unwrap_or_default();
    let only = accepted(ours) != "yes" || accepted(theirs) != "yes";
    let keys: std::collections::BTreeSet<&String> = ours.fields.keys().chain(theirs.fields.keys()).collect();
    let value = |seen: &Observation, key: &String| seen.fields.get(key).map_or("-", String::as_str).to_owned();
    keys.into_iter()
        .filter(|key| !only || ["accepted", "mounts-of-the-caller"].contains(&key.as_str()))
        .map(|key| Difference { field: key.clone(), ours: value(ours, key), theirs: value(theirs, key) })
        .filter(|difference| difference.ours != difference.theirs)
        .collect()
}

/// The list of known differences.
pub struct Known {
    entries: Vec<Value>,
    used: Vec<bool>,
}

impl Known {
    /// The built-in list.
    pub fn list() -> Result<Known, String> {
        let entries: Vec<Value> = serde_json::from_str(LIST).map_err(|error| format!("known.json: {error}"))?;
        Ok(Known { used: vec![false; entries.len()], entries })
    }

    /// Whether the list explains this difference from `peer` for this sample. `said` is the error of the runtime that
    /// refused.
    pub fn explains(&mut self, peer: RuntimeKind, difference: &Difference, sample: &Value, said: &str) -> bool {
        let matching = |entry: &Value| applies(entry, peer, difference, sample, said);
        let found = self.entries.iter().position(matching);
        if let Some(at) = found {
            self.used[at] = true;
        }
        found.is_some()
    }

    /// The reasons of entries that have not explained any difference.
    pub fn unused(&self) -> Vec<String> {
        let unused = self.entries.iter().zip(&self.used).filter(|(_, used)| !**used);
        unused.map(|(entry, _)| format!("{} {}: {}", entry["peer"], entry["field"], entry["reason"])).collect()
    }
}

fn applies(entry: &Value, peer: RuntimeKind, difference: &Difference, sample: &Value, said: &str) -> bool {
    let text = |name: &str| entry[name].as_str();
    let fits = |name: &str, value: &str| text(name).is_none_or(|pattern| glob(pattern, value));
    let each = |name: &str| entry[name].as_array().into_iter().flatten().filter_map(Value::as_str);
    fits("peer", peer.name())
        && one_of(&entry["field"]).any(|pattern| glob(pattern, &difference.field))
        && fits("ours", &difference.ours)
        && fits("theirs", &difference.theirs)
        && text("says").is_none_or(|part| said.contains(part))
        && each("has").all(|condition| has(sample, condition))
        && !each("lacks").any(|condition| has(sample, condition))
}

/// The text, or the texts of a list.
fn one_of(value: &Value) -> impl Iterator<Item = &str> {
    value.as_str().into_iter().chain(value.as_array().into_iter().flatten().filter_map(Value::as_str))
}

/// Whether a document has an element. `*` stands for any member, and `/mounts/*/options/*=ro` compares the value too.
fn has(document: &Value, condition: &str) -> bool {
    let (pointer, wanted) = condition.split_once('=').map_or((condition, None), |(p, w)| (p, Some(w)));
    let tokens: Vec<&str> = pointer.split('/').skip(1).collect();
    below(document, &tokens, wanted)
}

fn below(value: &Value, tokens: &[&str], wanted: Option<&str>) -> bool {
    let Some((token, rest)) = tokens.split_first() else {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        return wanted.is_none_or(|wanted| glob(wanted, &text));
    };
    match value {
        Value::Object(map) if *token == "*" => map.values().any(|value| below(value, rest, wanted)),
        Value::Object(map) => map.get(&token.replace("~1", "/")).is_some_and(|value| below(value, rest, wanted)),
        Value::Array(list) if *token == "*" => list.iter().any(|value| below(value, rest, wanted)),
        Value::Array(list) => token.parse().is_ok_and(|at: usize| list.get(at).is_some_and(|v| below(v, rest, wanted))),
        _ => false,
    }
}

/// Whether the text matches the pattern, in which `*` stands for any text.
pub fn glob(pattern: &str, text: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == text };
    text.strip_prefix(start)
        .is_some_and(|text| text.char_indices().map(|(at, _)| at).chain([text.len()]).any(|at| glob(rest, &text[at..])))
}

#[cfg(test)]
mod tests {
    use super::{Difference, Known, LIST, differences, glob, has};
    use crate::kit::runtime::RuntimeKind;
    use crate::sweep::peers::observe::Observation;
    use serde_json::{Value, json};
    use std::collections::BTreeMap;

    fn seen(fields: &[(&str, &str)]) -> Observation {
        let fields: BTreeMap<_, _> = fields.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Observation { fields, said: String::new() }
    }

    #[test]
    fn every_known_difference_has_a_reason_and_a_line_that_users_can_read() {
        let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/compatibility.md");
        let document = std::fs::read_to_string(document).expect("the document is there");
        let entries: Vec<Value> = serde_json::from_str(LIST).expect("a list");
        for entry in &entries {
            for member in ["peer", "reason", "line"] {
                assert!(entry[member].is_string(), "{member} of {entry}");
            }
            let line = entry["line"].as_str().expect("a text");
            assert!(document.lines().any(|text| text.contains(line)), "no line with {line:?} in docs/compatibility.md");
        }
    }

    #[test]
    fn an_entry_explains_what_fits_all_that_it_says() {
        let mut known = Known {
            entries: vec![json!({"peer": "runc", "field": "a*", "ours": "1", "has": ["/x/*=y"], "lacks": ["/z"]})],
            used: vec![false],
        };
        let difference =
            |field: &str| Difference { field: field.to_owned(), ours: "1".to_owned(), theirs: "2".to_owned() };
        let sample = json!({"x": ["n", "y"]});
        assert!(!known.explains(RuntimeKind::Crun, &difference("ab"), &sample, ""));
        assert!(!known.explains(RuntimeKind::Runc, &difference("b"), &sample, ""));
        assert!(!known.explains(RuntimeKind::Runc, &difference("ab"), &json!({"x": ["y"], "z": null}), ""));
        assert_eq!(known.unused().len(), 1);
        assert!(known.explains(RuntimeKind::Runc, &difference("ab"), &sample, ""));
        assert!(known.unused().is_empty());
    }

    #[test]
    fn a_refusal_is_the_only_difference() {
        let ours = seen(&[("accepted", "yes"), ("cwd", "/")]);
        let found = differences(&ours, &seen(&[("accepted", "no")]));
        assert_eq!(found.iter().map(|d| d.field.as_str()).collect::<Vec<_>>(), ["accepted"]);
        assert!(differences(&seen(&[("accepted", "no")]), &seen(&[("accepted", "no")])).is_empty());
    }

    #[test]
    fn fields_that_one_lacks_are_differences() {
        let found = differences(&seen(&[("accepted", "yes"), ("a", "1")]), &seen(&[("accepted", "yes")]));
        assert_eq!(found, [Difference { field: "a".to_owned(), ours: "1".to_owned(), theirs: "-".to_owned() }]);
    }

    #[test]
    fn patterns_and_pointers() {
        assert!(glob("mount/* options", "mount/a b options") && !glob("mount/* options", "mount/a root"));
        assert!(glob("*", "") && !glob("a", "ab"));
        let document = json!({"mounts": [{"options": ["ro"]}], "n": 3});
        assert!(has(&document, "/mounts/*/options/*=ro") && !has(&document, "/mounts/*/options/*=rw"));
        assert!(has(&document, "/n=3") && has(&document, "/mounts/0") && !has(&document, "/mounts/1"));
    }
}
