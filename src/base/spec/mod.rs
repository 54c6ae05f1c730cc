//! The runtime specification's `config.json` as data.
//!
//! oci-spec's types are not used on this path: an unknown capability, rlimit or enum value makes its parser fail where
//! the specification asks for a warning or where we want the pointer of the faulty element; its parser of
//! `execCPUAffinity` compiles a regular expression (0.5 ms); and it adds 1.6 MB to the binary. These structs keep what
//! was written, as text where the set of values is open, and planning validates it. `tests/oci_spec.rs` compares them
//! with oci-spec: all that oci-spec reads of a full configuration is read here, too.
//!
//! Unknown properties are ignored and `null` counts as absent, as in the specification and in Go.

mod config;
mod lenient;
mod linux;
mod outline;
mod pointer;
mod reader;
mod version;

use crate::error::{Diagnostic, Error, Result};
pub use config::*;
pub use linux::*;
pub use outline::Outline;
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer};
pub use version::Version;

/// A document that was read.
#[derive(Clone, Debug)]
pub struct Read<T> {
    /// Its content; elements that cannot be read are absent.
    pub value: T,
    /// The elements that cannot be read, each by its JSON Pointer. If there are any, the document must not be acted
    /// upon.
    pub faults: Vec<Diagnostic>,
    /// Elements that are wrong but whose meaning is clear, and names that are probably misspelt.
    pub warnings: Vec<Diagnostic>,
}

/// Reads a JSON document, and finds all faults of its types at once.
///
/// `what` names the document in messages, for example `config.json`. It is an error if the text is
/// not a JSON object.
pub fn read(text: &[u8], what: &str) -> Result<Read<Spec>> {
    read_as(text, what)
}

/// Reads the document of `exec --process`, as [`read`] does.
pub fn read_process(text: &[u8], what: &str) -> Result<Read<Process>> {
    read_as(text, what)
}

/// Reads the document of `update --resources`, as [`read`] does.
pub fn read_resources(text: &[u8], what: &str) -> Result<Read<Resources>> {
    read_as(text, what)
}

/// The function is private, since another crate that names a type would get a copy of all code that reads it.
fn read_as<T: DeserializeOwned>(text: &[u8], what: &str) -> Result<Read<T>> {
    if let Ok((value, warnings)) = strict(text) {
        return Ok(Read { value, faults: Vec::new(), warnings });
    }
    let Mended { text, faults, mut warnings } = lenient::mend(text, what, &|text| fault_of::<T>(text, what))?;
    let (value, misspelt) = strict(&text).map_err(|failed| Error::faults(vec![failed.fault(what)]))?;
    warnings.extend(misspelt);
    Ok(Read { value, faults, warnings })
}

/// Reads a JSON document, and fails if it has a fault.
pub fn parse(text: &[u8], what: &str) -> Result<Spec> {
    let read = read(text, what)?;
    match read.faults.is_empty() {
        true => Ok(read.value),
        false => Err(Error::faults(read.faults)),
    }
}

/// The first element that cannot be read.
pub fn fault_of<'a, T: Deserialize<'a>>(text: &'a [u8], what: &str) -> Option<Diagnostic> {
    strict::<T>(text).err().map(|failed| failed.fault(what))
}

/// A value that borrows from its text, and the names in it that are probably misspelt.
pub fn borrow<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Option<(T, Vec<Diagnostic>)> {
    strict(text).ok()
}

/// The reason why a document could not be read.
struct ParseError {
    pointer: String,
    error: serde_json::Error,
}

impl ParseError {
    /// The pointer of the element that was being read, or of the member that it lacks.
    fn new(mut pointer: String, error: serde_json::Error) -> ParseError {
        let text = error.to_string();
        if let Some(name) = text.strip_prefix("missing field `").and_then(|rest| rest.split('`').next()) {
            pointer.push('/');
            pointer.push_str(name);
        }
        ParseError { pointer, error }
    }

    fn fault(&self, what: &str) -> Diagnostic {
        Diagnostic { pointer: self.pointer.clone(), msg: lenient::words(what, &self.pointer, &self.error) }
    }
}

fn strict<'a, T: Deserialize<'a>>(text: &'a [u8]) -> std::result::Result<(T, Vec<Diagnostic>), ParseError> {
    let notes = reader::Notes::default();
    let value = reader::document(text, &notes)
        .map_err(|error| ParseError::new(notes.failed_at.take().unwrap_or_default(), error))?;
    let warning = |reader::Misspelt { pointer, known }| Diagnostic {
        pointer,
        msg: format!("this member is ignored: names are case-sensitive, and the specification's is {known:?}"),
    };
    Ok((value, notes.misspelt.into_inner().into_iter().map(warning).collect()))
}

/// `null` reads as the default, as Go reads it.
pub(crate) fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    d: D,
) -> std::result::Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

pub use lenient::{Mended, mend};
pub use pointer::escape;

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
