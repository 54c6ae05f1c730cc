//! Why an action of the shim has failed. containerd shows the text as the reason.

use std::fmt;
use std::path::PathBuf;

use windlass_base::error::Failed;

/// A failure, by its cause.
#[derive(Debug)]
pub enum Error {
    /// A call of the kernel has failed.
    Kernel(Failed),
    /// The same, with what it was for.
    Doing(String, Box<Error>),
    /// A file or a stream could not be read or written; its name.
    Io(String, std::io::Error),
    /// A file is not the JSON document that it should be.
    Document(PathBuf, serde_json::Error),
    /// What was asked makes no sense or is not possible here.
    Invalid(String),
    /// Another program has failed: its own words.
    Program(String),
    /// A child of the shim has failed: its own words.
    Child(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Kernel(failed) => write!(f, "{failed}"),
            Error::Doing(what, error) => write!(f, "{what}: {error}"),
            Error::Io(name, error) => write!(f, "{name}: {error}"),
            Error::Document(path, error) => write!(f, "{}: {error}", path.display()),
            Error::Invalid(text) | Error::Program(text) | Error::Child(text) => f.write_str(text),
        }
    }
}

impl Error {
    /// The same failure, with what the shim was doing before it.
    pub fn while_doing(self, what: impl Into<String>) -> Error {
        Error::Doing(what.into(), Box::new(self))
    }
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Error {
        Error::Kernel(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_failed_and_why() {
        let full = std::io::Error::from_raw_os_error(libc::ENOSPC);
        let error = Error::Io("standard output".into(), full).while_doing("cannot start");
        assert_eq!(error.to_string(), "cannot start: standard output: No space left on device (os error 28)");
        assert_eq!(Error::Invalid("no".into()).to_string(), "no");
    }
}
