//! Container ids, which become names of files.

use std::path::Path;

use crate::error::{Error, Kind, Result};

/// Refuses an id that is not one: letters, digits and `_+-.`, and not `.` or `..`.
pub fn check_id(id: &str) -> Result<()> {
    let valid = !id.is_empty()
        && id.len() <= 1024
        && !matches!(id, "." | "..")
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'+' | b'-' | b'.'));
    if valid { Ok(()) } else { Err(Error::new(Kind::Usage, format!("invalid container ID format: {id:?}"))) }
}

/// The id as the name of a file. Only for ids that passed [`check_id`].
pub fn id_path(id: &str) -> &Path {
    Path::new(id)
}
