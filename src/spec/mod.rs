//! The runtime specification's `config.json` as data.
//!
//! Why not oci-spec's types on this path: an unknown capability, rlimit or enum value makes
//! its parser fail where the specification asks for a warning or where we want the pointer of
//! the faulty element; its parser of `execCPUAffinity` compiles a regular expression (0.5 ms);
//! and it adds 1.6 MB to the binary. These structs keep what was written, as text where the
//! set of values is open, and planning judges it. `tests/oci_spec.rs` holds them against
//! oci-spec: what it reads from a full config, we read too.
//!
//! Unknown properties are ignored and `null` counts as absent, as the specification and Go's
//! callers have it.

mod config;
mod linux;
mod pointer;
mod version;

use crate::error::{Error, Kind, Result};
pub use config::*;
pub use linux::*;
use serde::Deserialize;
use serde::de::Deserializer;
pub use version::Version;

/// Reads a JSON document; a failure names the element by its JSON Pointer.
///
/// `what` names the document in the message, for example `config.json`.
pub fn parse<'a, T: Deserialize<'a>>(text: &'a [u8], what: &str) -> Result<T> {
    // Derived parsers take a list for a structure, field by field; nobody means that.
    if text.iter().find(|byte| !byte.is_ascii_whitespace()).is_some_and(|byte| *byte == b'[') {
        return Err(Error::config("", format!("cannot parse {what}: it is a list and not an object")));
    }
    serde_json::from_slice(text).map_err(|error| {
        let pointer = pointer::at(text, error.line(), error.column());
        let shown = if pointer.is_empty() { "the document" } else { pointer.as_str() };
        Error::new(Kind::InvalidConfig, format!("cannot parse {what}: {shown}: {error}"))
            .origin(crate::error::Origin::config(pointer.clone()))
    })
}

/// `null` reads as the default, as Go reads it.
pub(crate) fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    d: D,
) -> std::result::Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

pub use pointer::{at as pointer_at, escape};

impl Hooks {
    /// All hooks with the name of their point in the lifecycle, in its order.
    pub fn all(&self) -> [(&'static str, &[Hook]); 6] {
        [
            ("prestart", &self.prestart),
            ("createRuntime", &self.create_runtime),
            ("createContainer", &self.create_container),
            ("startContainer", &self.start_container),
            ("poststart", &self.poststart),
            ("poststop", &self.poststop),
        ]
    }
}
