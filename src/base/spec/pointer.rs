//! JSON Pointers (RFC 6901).

/// A name as a segment of a pointer.
pub fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}
