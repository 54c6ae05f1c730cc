//! Container ids, which become names of files.

use std::path::Path;

use crate::error::{Error, Kind, Result};

/// Refuses an invalid id: an id has letters, digits and `_+-.`, and is not `.` or `..`.
pub fn check_id(id: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '+' | '-' | '.');
    let wrong = |why: String| {
        let error = Error::new(Kind::Usage, format!("invalid container ID format: {id:?}{why}"));
        Err(error.with_hint("an id may contain only letters, digits and . _ + -"))
    };
    match id.chars().find(|c| !allowed(*c)) {
        // The message is the one of runc and crun.
        Some(c) => wrong(format!(": invalid character `{}` in the ID", c.escape_debug())),
        None if id.is_empty() || id.len() > 1024 || matches!(id, "." | "..") => wrong(String::new()),
        None => Ok(()),
    }
}

/// The id as the name of a file. Only for ids that passed [`check_id`].
pub fn id_path(id: &str) -> &Path {
    Path::new(id)
}

#[cfg(test)]
mod tests {
    use super::check_id;

    #[test]
    fn an_id_has_at_most_1024_characters_of_a_few_kinds() {
        for id in ["a", "a_b+c-d.e", "...", &"x".repeat(1024)] {
            assert!(check_id(id).is_ok(), "{id}");
        }
        for id in ["", ".", "..", "a/b", "a b", "ä", "@a", &"x".repeat(1025)] {
            let error = check_id(id).expect_err(id);
            assert!(error.hint().is_some_and(|hint| hint.contains("only letters")), "{id}");
        }
    }
}
