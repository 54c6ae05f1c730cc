//! A value of D-Bus, and its text form in annotations.
//!
//! Annotations `org.systemd.property.NAME` hold values in the text form of GVariant
//! (<https://docs.gtk.org/glib/gvariant-text-format.html>). The part that unit properties need is
//! read: booleans, numbers with or without a type, strings, arrays and tuples.

use std::fmt;

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `y`.
    Byte(u8),
    /// `b`.
    Bool(bool),
    /// `n`.
    I16(i16),
    /// `q`.
    U16(u16),
    /// `i`.
    I32(i32),
    /// `u`.
    U32(u32),
    /// `x`.
    I64(i64),
    /// `t`.
    U64(u64),
    /// `d`.
    Double(f64),
    /// `s`.
    Text(String),
    /// `o`.
    Path(String),
    /// `g`.
    Signature(String),
    /// `h`: the index of a descriptor that goes with the message.
    Fd(u32),
    /// `a`, with the signature of its elements.
    Array(String, Vec<Value>),
    /// `(...)`.
    Struct(Vec<Value>),
    /// `v`.
    Variant(Box<Value>),
}

impl Value {
    /// A string.
    pub fn text(text: impl Into<String>) -> Value {
        Value::Text(text.into())
    }

    /// Its type.
    pub fn signature(&self) -> String {
        match self {
            Value::Array(of, _) => format!("a{of}"),
            Value::Struct(fields) => format!("({})", fields.iter().map(Value::signature).collect::<String>()),
            other => other.code().to_string(),
        }
    }

    fn code(&self) -> char {
        match self {
            Value::Byte(_) => 'y',
            Value::Bool(_) => 'b',
            Value::I16(_) => 'n',
            Value::U16(_) => 'q',
            Value::I32(_) => 'i',
            Value::U32(_) => 'u',
            Value::I64(_) => 'x',
            Value::U64(_) => 't',
            Value::Double(_) => 'd',
            Value::Text(_) => 's',
            Value::Path(_) => 'o',
            Value::Signature(_) => 'g',
            Value::Fd(_) => 'h',
            Value::Array(..) => 'a',
            Value::Struct(_) => '(',
            Value::Variant(_) => 'v',
        }
    }

    /// Reads the text form. Returns `None` if the text is not in that form, has a type that is not listed here, or is
    /// longer or more deeply nested than D-Bus allows.
    pub fn parse(text: &str) -> Option<Value> {
        let mut reader = Parser { rest: text.trim(), depth: 0 };
        let value = reader.value(None)?;
        // A tuple may have a type longer than a signature can be.
        (reader.rest.trim().is_empty() && complete(&value.signature()).is_some()).then_some(value)
    }
}

/// Whether each type of a signature is complete.
fn is_signature(mut text: &str) -> bool {
    let mut valid = text.len() <= LONGEST_SIGNATURE;
    while valid && !text.is_empty() {
        match complete(text) {
            Some(length) => text = &text[length..],
            None => valid = false,
        }
    }
    valid
}

/// Writes the text form, but with strings quoted as in Rust.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, values: &[Value]| {
            values.iter().enumerate().try_for_each(|(index, value)| {
                let comma = if index == 0 { "" } else { ", " };
                write!(f, "{comma}{value}")
            })
        };
        match self {
            Value::Byte(n) => n.fmt(f),
            Value::Bool(b) => b.fmt(f),
            Value::I16(n) => n.fmt(f),
            Value::U16(n) => n.fmt(f),
            Value::I32(n) => n.fmt(f),
            Value::U32(n) | Value::Fd(n) => n.fmt(f),
            Value::I64(n) => n.fmt(f),
            // systemd calls this number infinity.
            Value::U64(u64::MAX) => f.write_str("infinity"),
            Value::U64(n) => n.fmt(f),
            Value::Double(n) => n.fmt(f),
            Value::Text(text) | Value::Path(text) | Value::Signature(text) => write!(f, "{text:?}"),
            Value::Array(_, values) => {
                f.write_str("[")?;
                list(f, values)?;
                f.write_str("]")
            }
            Value::Struct(values) => {
                f.write_str("(")?;
                list(f, values)?;
                f.write_str(")")
            }
            Value::Variant(value) => value.fmt(f),
        }
    }
}

/// Types by the names that stand before a value.
const NAMED: &[(&str, char)] = &[
    ("boolean", 'b'),
    ("byte", 'y'),
    ("int16", 'n'),
    ("uint16", 'q'),
    ("int32", 'i'),
    ("uint32", 'u'),
    ("int64", 'x'),
    ("uint64", 't'),
    ("double", 'd'),
    ("string", 's'),
    ("objectpath", 'o'),
    ("signature", 'g'),
];

/// The limit of nesting; no property nests so deeply.
const DEEPEST: usize = 8;

struct Parser<'a> {
    rest: &'a str,
    depth: usize,
}

impl<'a> Parser<'a> {
    /// Reads one value; `wanted` is the type before it, or the element type of its array.
    fn value(&mut self, wanted: Option<&str>) -> Option<Value> {
        self.rest = self.rest.trim_start();
        match self.rest.chars().next()? {
            '@' => {
                let (signature, rest) = self.rest[1..].split_once(char::is_whitespace)?;
                let whole = complete(signature)? == signature.len();
                self.rest = rest;
                if whole { self.nested(|reader| reader.value(Some(signature))) } else { None }
            }
            '[' => self.nested(|reader| reader.array(wanted)),
            '(' => self.nested(|reader| reader.tuple(wanted)),
            '\'' | '"' => {
                let text = self.quoted()?;
                match wanted.unwrap_or("s") {
                    "s" => Some(Value::Text(text)),
                    "o" if text.starts_with('/') => Some(Value::Path(text)),
                    "g" if is_signature(&text) => Some(Value::Signature(text)),
                    _ => None,
                }
            }
            _ => {
                let end = self.rest.find([' ', ',', ']', ')', '\t']).unwrap_or(self.rest.len());
                let (word, rest) = self.rest.split_at(end);
                self.rest = rest;
                match NAMED.iter().find(|row| row.0 == word) {
                    Some((_, code)) if wanted.is_none_or(|wanted| wanted == code.to_string()) => {
                        self.nested(|reader| reader.value(Some(&code.to_string())))
                    }
                    Some(_) => None,
                    None => scalar(word, wanted),
                }
            }
        }
    }

    fn nested(&mut self, read: impl FnOnce(&mut Parser<'a>) -> Option<Value>) -> Option<Value> {
        self.depth += 1;
        let value = if self.depth > DEEPEST { None } else { read(self) };
        self.depth -= 1;
        value
    }

    fn array(&mut self, wanted: Option<&str>) -> Option<Value> {
        let mut of = match wanted {
            Some(wanted) => Some(wanted.strip_prefix('a')?.to_owned()),
            None => None,
        };
        let mut values = Vec::new();
        self.rest = self.rest[1..].trim_start();
        while !self.rest.starts_with(']') {
            let value = self.value(of.as_deref())?;
            let signature = value.signature();
            // All elements have the type of the first.
            if of.get_or_insert_with(|| signature.clone()) != &signature {
                return None;
            }
            values.push(value);
            self.separator(']')?;
        }
        self.rest = &self.rest[1..];
        // An empty array does not show its type.
        Some(Value::Array(of?, values))
    }

    fn tuple(&mut self, wanted: Option<&str>) -> Option<Value> {
        let mut left = match wanted {
            Some(wanted) => Some(wanted.strip_prefix('(')?.strip_suffix(')')?),
            None => None,
        };
        let mut values = Vec::new();
        self.rest = self.rest[1..].trim_start();
        while !self.rest.starts_with(')') {
            let next = match left {
                Some(fields) => {
                    let (first, rest) = fields.split_at(complete(fields)?);
                    left = Some(rest);
                    Some(first)
                }
                None => None,
            };
            values.push(self.value(next)?);
            self.separator(')')?;
        }
        self.rest = &self.rest[1..];
        (left.is_none_or(str::is_empty) && !values.is_empty()).then_some(Value::Struct(values))
    }

    /// Reads a comma, or the end of the list.
    fn separator(&mut self, close: char) -> Option<()> {
        self.rest = self.rest.trim_start();
        match self.rest.strip_prefix(',') {
            Some(rest) => {
                self.rest = rest.trim_start();
                Some(())
            }
            None => self.rest.starts_with(close).then_some(()),
        }
    }

    fn quoted(&mut self) -> Option<String> {
        let quote = self.rest.chars().next()?;
        let mut text = String::new();
        let mut chars = self.rest[1..].char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                c if c == quote => {
                    self.rest = &self.rest[1 + at + 1..];
                    return Some(text);
                }
                '\\' => text.push(match chars.next()?.1 {
                    'n' => '\n',
                    't' => '\t',
                    other => other,
                }),
                '\0' => return None,
                c => text.push(c),
            }
        }
        None
    }
}

fn scalar(word: &str, wanted: Option<&str>) -> Option<Value> {
    let wanted = wanted.unwrap_or(match word {
        "true" | "false" => "b",
        word if word.contains('.') => "d",
        _ => "i",
    });
    match wanted {
        "b" => word.parse().ok().map(Value::Bool),
        "y" => integer(word).map(Value::Byte),
        "n" => integer(word).map(Value::I16),
        "q" => integer(word).map(Value::U16),
        "i" => integer(word).map(Value::I32),
        "u" => integer(word).map(Value::U32),
        "x" => integer(word).map(Value::I64),
        "t" => integer(word).map(Value::U64),
        "d" => word.parse().ok().map(Value::Double),
        _ => None,
    }
}

/// Decimal, or hexadecimal with 0x.
fn integer<N: TryFrom<i128>>(word: &str) -> Option<N> {
    let (sign, digits) = match word.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, word.strip_prefix('+').unwrap_or(word)),
    };
    let number = match digits.strip_prefix("0x") {
        Some(digits) => i128::from(u64::from_str_radix(digits, 16).ok()?),
        None => i128::from(digits.parse::<u64>().ok()?),
    };
    N::try_from(sign * number).ok()
}

/// Bytes of the longest signature (D-Bus specification, "Valid Signatures"): its length is sent as one byte.
const LONGEST_SIGNATURE: usize = 255;

/// The limit of nested arrays, and of nested structs (D-Bus specification, "Valid Signatures").
const DEEPEST_SIGNATURE: usize = 32;

/// The length of the first complete type of a signature. `None` if there is no complete type, or if the
/// signature is longer or more deeply nested than D-Bus allows.
pub fn complete(signature: &str) -> Option<usize> {
    if signature.len() > LONGEST_SIGNATURE { None } else { complete_below(signature, 0, 0) }
}

fn complete_below(signature: &str, arrays: usize, structs: usize) -> Option<usize> {
    if arrays > DEEPEST_SIGNATURE || structs > DEEPEST_SIGNATURE {
        return None;
    }
    match signature.chars().next()? {
        'a' => complete_below(&signature[1..], arrays + 1, structs).map(|length| 1 + length),
        '(' => {
            let mut at = 1;
            while !signature[at..].starts_with(')') {
                at += complete_below(&signature[at..], arrays, structs + 1)?;
            }
            (at > 1).then_some(at + 1)
        }
        // An entry of a dictionary stands in an array only; the reader of the array checks that.
        '{' => {
            let key = 1 + complete_below(&signature[1..], arrays, structs + 1)?;
            let value = key + complete_below(&signature[key..], arrays, structs + 1)?;
            signature[value..].starts_with('}').then_some(value + 1)
        }
        c if "ybnqiuxtdsoghv".contains(c) => Some(1),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array(of: &str, values: Vec<Value>) -> Option<Value> {
        Some(Value::Array(of.into(), values))
    }

    #[test]
    fn the_text_form_is_read() {
        assert_eq!(Value::parse("true"), Some(Value::Bool(true)));
        assert_eq!(Value::parse(" 5 "), Some(Value::I32(5)));
        assert_eq!(Value::parse("uint64 5000000"), Some(Value::U64(5_000_000)));
        assert_eq!(Value::parse("@t 0x10"), Some(Value::U64(16)));
        assert_eq!(Value::parse("-1.5"), Some(Value::Double(-1.5)));
        assert_eq!(Value::parse("'it\\'s'"), Some(Value::text("it's")));
        assert_eq!(Value::parse("\"a, b\""), Some(Value::text("a, b")));
        assert_eq!(Value::parse("['a', 'b',]"), array("s", vec![Value::text("a"), Value::text("b")]));
        assert_eq!(Value::parse("@as []"), array("s", vec![]));
        assert_eq!(Value::parse("@au [1, 2]"), array("u", vec![Value::U32(1), Value::U32(2)]));
        let pair = Value::Struct(vec![Value::text("/dev/x"), Value::U64(1)]);
        assert_eq!(Value::parse("@a(st) [('/dev/x', 1)]"), array("(st)", vec![pair]));
    }

    #[test]
    fn what_is_no_value_is_refused() {
        for text in [
            "",
            "x",
            "'open",
            "[1, 'a']",
            "[",
            "[]",
            "(",
            "()",
            "1 2",
            "byte 256",
            "-1x",
            "uint32 -1",
            "@q 'a'",
            "@a 1",
            "@(s 1",
            "int32 uint32 5",
            "'a' 'b'",
            "[1 2]",
            "{'a': 1}",
            "@s(",
        ] {
            assert_eq!(Value::parse(text), None, "{text}");
        }
        assert_eq!(Value::parse(&"[".repeat(10_000)), None);
    }

    #[test]
    fn a_type_that_d_bus_cannot_carry_is_refused() {
        let tuple = |fields: usize| format!("({})", vec!["true"; fields].join(", "));
        assert_eq!(Value::parse(&tuple(253)).expect("255 bytes").signature().len(), 255);
        assert_eq!(Value::parse(&tuple(254)), None);
        assert!(Value::parse(&format!("@{}s []", "a".repeat(32))).is_some());
        assert_eq!(Value::parse(&format!("@{}s []", "a".repeat(33))), None);
        assert_eq!(Value::parse(&format!("@{} []", "a".repeat(1 << 20))), None);
        assert!(Value::parse(&format!("signature '{}'", "s".repeat(255))).is_some());
        for text in ["s".repeat(256), "(".into(), "z".into()] {
            assert_eq!(Value::parse(&format!("signature '{text}'")), None, "{text}");
        }
        for prefix in ["@i ", "int32 "] {
            assert_eq!(Value::parse(&(prefix.repeat(1 << 20) + "1")), None, "{prefix}");
        }
    }

    #[test]
    fn a_value_knows_its_type() {
        for text in ["uint64 1", "@a(ss) [('a', 'b')]", "@ay [byte 1]", "(true, 'x')"] {
            let value = Value::parse(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(complete(&value.signature()), Some(value.signature().len()), "{text}");
        }
        assert_eq!(complete("a{sv}i"), Some(5));
        assert_eq!(complete("(s"), None);
    }
}
