//! A second reading of a document that could not be read. It finds the readable parts, and all faults of the others.
//!
//! This reading follows only a failure, so it may be slow.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::pointer::escape;
use crate::error::{Diagnostic, Error, Result};

/// Most faults that are reported: more than anybody reads.
const MOST: usize = 100;

/// A document of which the readable part was kept.
pub struct Mended {
    /// The readable part. An element that cannot be read is `null`, which counts as absent.
    pub text: Vec<u8>,
    /// Elements that cannot be read.
    pub faults: Vec<Diagnostic>,
    /// Elements that are wrong but whose meaning is clear.
    pub warnings: Vec<Diagnostic>,
}

/// Mends `text`, named `what` in messages, until `fault` finds none.
///
/// Fails if the text is not JSON, or if no element of it can be read.
pub fn mend(text: &[u8], what: &str, fault: &dyn Fn(&[u8]) -> Option<Diagnostic>) -> Result<Mended> {
    let (text, replaced) = without_lone_surrogates(text);
    let mut warnings = Vec::new();
    let mut json = serde_json::Deserializer::from_slice(&text);
    let tree = Tree { pointer: String::new(), warnings: &mut warnings }.deserialize(&mut json);
    let mut document = tree.and_then(|tree| json.end().map(|()| tree)).map_err(|error| {
        let pointer = fault(&text).map(|fault| fault.pointer).unwrap_or_default();
        let msg = format!("{} at line {} column {}", words(what, &pointer, &error), error.line(), error.column());
        Error::config(pointer, msg)
    })?;
    if replaced > 0 {
        let msg = format!("{replaced} escapes are half of a surrogate pair (\\ud800 to \\udfff): taken for U+FFFD");
        warnings.push(Diagnostic { pointer: String::new(), msg });
    }
    let mut faults: Vec<Diagnostic> = Vec::new();
    let mut tried: BTreeMap<String, usize> = BTreeMap::new();
    loop {
        let text = document.to_string().into_bytes();
        let Some(found) = fault(&text) else { return Ok(Mended { text, faults, warnings }) };
        // An element of a list cannot be null, so other values are tried.
        let stand_ins = [Value::Null, Value::Object(Default::default()), Value::String(String::new()), Value::from(0)];
        let attempt = tried.entry(found.pointer.clone()).or_default();
        let stand_in = stand_ins.get(*attempt).filter(|_| !found.pointer.is_empty() && faults.len() < MOST);
        let element = element_mut(&mut document, &found.pointer);
        *attempt += 1;
        if *attempt == 1 {
            faults.push(found);
        }
        match (stand_in, element) {
            (Some(stand_in), Some(element)) => *element = stand_in.clone(),
            _ => return Err(Error::faults(faults)),
        }
    }
}

/// The element at a pointer; a member that is missing is added.
fn element_mut<'a>(document: &'a mut Value, pointer: &str) -> Option<&'a mut Value> {
    if document.pointer(pointer).is_some() {
        return document.pointer_mut(pointer);
    }
    let (parent, name) = pointer.rsplit_once('/')?;
    Some(document.pointer_mut(parent)?.as_object_mut()?.entry(name).or_insert(Value::Null))
}

/// serde_json's message without its line and column, which may be those of a text that was mended here. The
/// pointer tells the place.
pub(crate) fn words(what: &str, pointer: &str, error: &serde_json::Error) -> String {
    let shown = if pointer.is_empty() { "the document" } else { pointer };
    let text = error.to_string();
    let reason = text.rsplit_once(" at line ").map_or(text.as_str(), |(reason, _)| reason);
    format!("cannot parse {what}: {shown}: {reason}")
}

/// Replaces each escape of a surrogate without its other half by `\ufffd`, as other decoders read it, and counts
/// them. The length stays the same, and with it lines and columns.
fn without_lone_surrogates(text: &[u8]) -> (Vec<u8>, usize) {
    let mut out = text.to_vec();
    let unit = |text: &[u8], at: usize| -> Option<u16> {
        let digits = text.get(at..at + 6)?.strip_prefix(b"\\u")?;
        u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    let (mut at, mut replaced) = (0, 0);
    while at < out.len() {
        if out[at] != b'\\' {
            at += 1;
            continue;
        }
        match (unit(&out, at), unit(&out, at + 6)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => at += 12,
            (Some(0xd800..=0xdfff), _) => {
                out[at + 2..at + 6].copy_from_slice(b"fffd");
                replaced += 1;
                at += 6;
            }
            _ => at += 2,
        }
    }
    (out, replaced)
}

/// Reads any document; of a member that stands twice the last counts, as for every decoder that
/// accepts it.
struct Tree<'a> {
    pointer: String,
    warnings: &'a mut Vec<Diagnostic>,
}

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let mut out = Vec::new();
        loop {
            let pointer = format!("{}/{}", self.pointer, out.len());
            match elements.next_element_seed(Tree { pointer, warnings: &mut *self.warnings })? {
                Some(element) => out.push(element),
                None => return Ok(Value::Array(out)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut out = serde_json::Map::new();
        while let Some(name) = members.next_key::<String>()? {
            let pointer = format!("{}/{}", self.pointer, escape(&name));
            let value = members.next_value_seed(Tree { pointer: pointer.clone(), warnings: &mut *self.warnings })?;
            if out.insert(name, value).is_some() {
                self.warnings.push(Diagnostic { pointer, msg: "this member stands twice: the last one counts".into() });
            }
        }
        Ok(Value::Object(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_surrogate_pair_is_replaced_and_a_whole_one_is_not() {
        for (text, want, replaced) in [
            (r#""\ud83d\ude00""#, r#""\ud83d\ude00""#, 0),
            (r#""\ud83d""#, r#""\ufffd""#, 1),
            (r#""\udc00\ud83dx""#, r#""\ufffd\ufffdx""#, 2),
            (r#""\\ud83d""#, r#""\\ud83d""#, 0),
            (r#""\u12"#, r#""\u12"#, 0),
            ("\\", "\\", 0),
        ] {
            let (out, count) = without_lone_surrogates(text.as_bytes());
            assert_eq!((String::from_utf8_lossy(&out).as_ref(), count), (want, replaced));
        }
    }
}
