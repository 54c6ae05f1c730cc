//! From a place in a JSON text to the JSON Pointer of the element there.
//!
//! serde_json reports a line and a column. Walking the text up to there costs nothing until
//! something is wrong, and spares a second deserializer in the binary.

/// The JSON Pointer (RFC 6901) of the value that ends at, or contains, the 1-based `line` and
/// `column`. Empty for the whole document.
pub fn at(text: &[u8], line: usize, column: usize) -> String {
    let start = text.split_inclusive(|b| *b == b'\n').take(line.saturating_sub(1)).map(<[u8]>::len).sum::<usize>();
    let end = (start + column).min(text.len());
    let mut path: Vec<Segment> = Vec::new();
    let mut i = 0;
    while i < end {
        match text[i] {
            b'{' => path.push(Segment::Key(String::new())),
            b'[' => path.push(Segment::Index(0)),
            b'}' | b']' if i + 1 < end => {
                path.pop();
            }
            b',' if i + 1 < end => {
                if let Some(Segment::Index(n)) = path.last_mut() {
                    *n += 1;
                }
            }
            b'"' => {
                let (string, after) = string_at(text, i);
                let colon = text[after..]
                    .iter()
                    .position(|b| !b.is_ascii_whitespace())
                    .is_some_and(|skip| text[after + skip] == b':');
                if colon && let Some(Segment::Key(key)) = path.last_mut() {
                    *key = string;
                }
                i = after;
                continue;
            }
            _ => {}
        }
        i += 1;
    }
    path.iter().fold(String::new(), |mut pointer, segment| {
        match segment {
            Segment::Key(key) if key.is_empty() => {}
            Segment::Key(key) => {
                pointer.push('/');
                pointer.push_str(&escape(key));
            }
            Segment::Index(n) => pointer.push_str(&format!("/{n}")),
        }
        pointer
    })
}

/// A key as a segment of a JSON Pointer.
pub fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

enum Segment {
    Key(String),
    Index(usize),
}

/// The string that starts with the quote at `from`, and the index after its closing quote.
fn string_at(text: &[u8], from: usize) -> (String, usize) {
    let mut i = from + 1;
    while i < text.len() && text[i] != b'"' {
        i += if text[i] == b'\\' { 2 } else { 1 };
    }
    let end = i.min(text.len());
    (String::from_utf8_lossy(&text[from + 1..end]).into_owned(), (end + 1).min(text.len()))
}

#[cfg(test)]
mod tests {
    use super::at;

    fn pointer_of_failure<T: serde::de::DeserializeOwned>(text: &str) -> String {
        let Err(error) = serde_json::from_str::<T>(text) else { panic!("{text} must not parse") };
        at(text.as_bytes(), error.line(), error.column())
    }

    #[derive(serde::Deserialize)]
    #[allow(dead_code)]
    struct Outer {
        a: Vec<Inner>,
        m: std::collections::BTreeMap<String, u32>,
    }

    #[derive(serde::Deserialize)]
    #[allow(dead_code)]
    struct Inner {
        n: u32,
    }

    #[test]
    fn a_wrong_type_is_found_in_lists_and_maps() {
        assert_eq!(pointer_of_failure::<Outer>("{\"a\":[{\"n\":1},\n {\"n\":\"x\"}],\"m\":{}}"), "/a/1/n");
        assert_eq!(pointer_of_failure::<Outer>("{\"a\":[],\"m\":{\"k/y\":\"x\"}}"), "/m/k~1y");
        assert_eq!(pointer_of_failure::<Outer>("3"), "");
    }

    #[test]
    fn no_text_makes_it_panic() {
        for text in ["", "\"", "{\"a", "[[[", "}}}", "{\"a\\", ",,,"] {
            for line in 0..3 {
                for column in 0..9 {
                    at(text.as_bytes(), line, column);
                }
            }
        }
    }
}
