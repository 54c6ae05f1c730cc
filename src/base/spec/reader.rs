//! A deserializer around serde_json's that knows its place in the document.
//!
//! The place is needed for three things that serde_json does not do:
//!
//!  - A failure names the innermost element that was being read.
//!  - A list in the place of an object is refused. Derived parsers would read its elements as members.
//!  - A member whose name differs from a known one in case alone is noted. Go's decoder accepts
//!    it, so such documents exist.
//!
//! The place is a chain of values on the stack and names are borrowed, so nothing is allocated
//! until there is something to report.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Unexpected, Visitor};

use super::pointer::escape;

/// The reader's place: an element, and those around it.
pub(super) struct Place<'a> {
    parent: Option<&'a Place<'a>>,
    segment: Segment<'a>,
}

enum Segment<'a> {
    Root,
    Member(&'a str),
    Index(usize),
}

impl Place<'_> {
    pub(super) const ROOT: Place<'static> = Place { parent: None, segment: Segment::Root };

    pub(super) fn pointer(&self) -> String {
        let mut out = self.parent.map(Place::pointer).unwrap_or_default();
        match &self.segment {
            Segment::Root => {}
            Segment::Member(name) => {
                out.push('/');
                out.push_str(&escape(name));
            }
            Segment::Index(index) => out.push_str(&format!("/{index}")),
        }
        out
    }
}

/// A member with a name that is almost a known one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Misspelt {
    pub pointer: String,
    pub known: &'static str,
}

/// The notes of the reader.
#[derive(Default)]
pub(super) struct Notes {
    /// The place of the failure.
    pub failed_at: Cell<Option<String>>,
    pub misspelt: RefCell<Vec<Misspelt>>,
}

impl Notes {
    /// Keeps the first place that is reported, which is the innermost.
    fn failed(&self, place: &Place<'_>) {
        let known = self.failed_at.take();
        self.failed_at.set(Some(known.unwrap_or_else(|| place.pointer())));
    }
}

/// Reads a whole document.
pub(super) fn document<'de, T: Deserialize<'de>>(text: &'de [u8], notes: &Notes) -> serde_json::Result<T> {
    let mut json = serde_json::Deserializer::from_slice(text);
    let value = T::deserialize(Reader { inner: &mut json, place: &Place::ROOT, notes })?;
    json.end()?;
    Ok(value)
}

struct Reader<'a, D> {
    inner: D,
    place: &'a Place<'a>,
    notes: &'a Notes,
}

impl<'a, D> Reader<'a, D> {
    fn around<V>(place: &'a Place<'a>, notes: &'a Notes, visitor: V) -> Around<'a, V> {
        Around { visitor, place, notes, members: None }
    }
}

/// Forwards values without elements to serde_json.
macro_rules! as_ever {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.inner.$method(visitor)
        })*
    };
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Reader<'_, D> {
    type Error = D::Error;

    as_ever! {
        deserialize_any deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_i128 deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128
        deserialize_f32 deserialize_f64 deserialize_char deserialize_str deserialize_string deserialize_bytes
        deserialize_byte_buf deserialize_unit deserialize_identifier deserialize_ignored_any
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_option(Self::around(self.place, self.notes, visitor))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_seq(Self::around(self.place, self.notes, visitor))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_map(Self::around(self.place, self.notes, visitor))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        members: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let around = Around { members: Some(members), ..Self::around(self.place, self.notes, visitor) };
        self.inner.deserialize_struct(name, members, around)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_unit_struct(name, visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, D::Error> {
        // serde_json's `RawValue` comes as a newtype.
        self.inner.deserialize_newtype_struct(name, visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_tuple(len, visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.inner.deserialize_tuple_struct(name, len, visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.inner.deserialize_enum(name, variants, visitor)
    }
}

/// A visitor whose elements are read with their places.
struct Around<'a, V> {
    visitor: V,
    place: &'a Place<'a>,
    notes: &'a Notes,
    /// The names that an object may have; `None` for a map of free names.
    members: Option<&'static [&'static str]>,
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Around<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.members {
            Some(_) => f.write_str("an object"),
            None => self.visitor.expecting(f),
        }
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_none()
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.visitor.visit_some(Reader { inner, place: self.place, notes: self.notes })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        if self.members.is_some() {
            return Err(A::Error::invalid_type(Unexpected::Seq, &self));
        }
        self.visitor.visit_seq(Elements { inner, place: self.place, notes: self.notes, next: 0 })
    }

    fn visit_map<A: MapAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        let Around { visitor, place, notes, members } = self;
        visitor.visit_map(Members { inner, place, notes, members, name: Cow::Borrowed("") })
    }
}

struct Elements<'a, A> {
    inner: A,
    place: &'a Place<'a>,
    notes: &'a Notes,
    next: usize,
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Elements<'_, A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        let place = Place { parent: Some(self.place), segment: Segment::Index(self.next) };
        let element = self.inner.next_element_seed(At { seed, place: &place, notes: self.notes });
        self.next += 1;
        element.inspect_err(|_| self.notes.failed(&place))
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

struct Members<'a, 'de, A> {
    inner: A,
    place: &'a Place<'a>,
    notes: &'a Notes,
    members: Option<&'static [&'static str]>,
    name: Cow<'de, str>,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Members<'_, 'de, A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        let key = self.inner.next_key_seed(Name { inner: seed, name: &mut self.name });
        let key = key.inspect_err(|_| self.notes.failed(self.place))?;
        if let (Some(members), Some(_)) = (self.members, &key)
            && !members.contains(&&*self.name)
            && let Some(known) = members.iter().find(|known| known.eq_ignore_ascii_case(&self.name))
        {
            let pointer = Place { parent: Some(self.place), segment: Segment::Member(&self.name) }.pointer();
            self.notes.misspelt.borrow_mut().push(Misspelt { pointer, known });
        }
        Ok(key)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        let place = Place { parent: Some(self.place), segment: Segment::Member(&self.name) };
        let value = self.inner.next_value_seed(At { seed, place: &place, notes: self.notes });
        value.inspect_err(|_| self.notes.failed(&place))
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

/// The value of an element.
struct At<'a, S> {
    seed: S,
    place: &'a Place<'a>,
    notes: &'a Notes,
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for At<'_, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, inner: D) -> Result<S::Value, D::Error> {
        self.seed.deserialize(Reader { inner, place: self.place, notes: self.notes })
    }
}

/// A seed, deserializer and visitor that keeps the name of a member.
struct Name<'a, 'de, T> {
    inner: T,
    name: &'a mut Cow<'de, str>,
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Name<'_, 'de, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, inner: D) -> Result<S::Value, D::Error> {
        self.inner.deserialize(Name { inner, name: self.name })
    }
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Name<'_, 'de, D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_any(Name { inner: visitor, name: self.name })
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Name<'_, 'de, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(f)
    }

    fn visit_borrowed_str<E: serde::de::Error>(self, name: &'de str) -> Result<V::Value, E> {
        *self.name = Cow::Borrowed(name);
        self.inner.visit_borrowed_str(name)
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<V::Value, E> {
        *self.name = Cow::Owned(name.to_owned());
        self.inner.visit_str(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[derive(Debug, Default, serde::Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    #[allow(dead_code)]
    struct Outer {
        list: Vec<Inner>,
        map: BTreeMap<String, Inner>,
        some: Option<Inner>,
        raw: Option<Box<serde_json::value::RawValue>>,
    }

    #[derive(Debug, Default, serde::Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Inner {
        max_size: u32,
    }

    fn failed_at(text: &str) -> (String, String) {
        let notes = Notes::default();
        let error = document::<Outer>(text.as_bytes(), &notes).expect_err(text);
        (notes.failed_at.take().unwrap_or_default(), error.to_string())
    }

    #[test]
    fn a_failure_is_at_the_innermost_element() {
        for (text, at) in [
            (r#"{"list": [{"maxSize": 1}, {"maxSize": "x"}]}"#, "/list/1/maxSize"),
            (r#"{"map": {"k/y~": {"maxSize": -1}}}"#, "/map/k~1y~0/maxSize"),
            (r#"{"map": {"a\u0062": 3}}"#, "/map/ab"),
            (r#"{"some": {"maxSize": 4294967296}}"#, "/some/maxSize"),
            (r#"{"some": "x"}"#, "/some"),
            (r#"{"list": [{}, nul]}"#, "/list/1"),
            ("3", ""),
        ] {
            assert_eq!(failed_at(text).0, at, "{text}");
        }
    }

    #[test]
    fn a_list_is_no_object() {
        for (text, at) in [
            ("[]", ""),
            (r#"{"some": []}"#, "/some"),
            (r#"{"some": [3]}"#, "/some"),
            (r#"{"list": [[3]]}"#, "/list/0"),
            (r#"{"map": {"x": [3]}}"#, "/map/x"),
            (r#"{"map": []}"#, "/map"),
        ] {
            let (pointer, says) = failed_at(text);
            assert_eq!(pointer, at, "{text}");
            assert!(says.contains("sequence, expected"), "{says}");
        }
    }

    #[test]
    fn names_that_differ_in_case_alone_are_noted() {
        let text = r#"{"List": [], "map": {"MaxSize": {"maxsize": 1, "other": 2}}, "raw": {"LIST": 1}, "some": {"maxSize": 7}}"#;
        let notes = Notes::default();
        let outer: Outer = document(text.as_bytes(), &notes).expect("valid");
        assert_eq!(outer.some.map(|inner| inner.max_size), Some(7));
        assert_eq!(outer.raw.map(|raw| raw.get().to_owned()).as_deref(), Some(r#"{"LIST": 1}"#));
        let misspelt = |pointer: &str, known| Misspelt { pointer: pointer.into(), known };
        assert_eq!(*notes.misspelt.borrow(), [misspelt("/List", "list"), misspelt("/map/MaxSize/maxsize", "maxSize")]);
    }
}
