//! Why an action of the shim has failed. containerd shows the text.

use std::fmt;
use std::path::PathBuf;

use windlass_base::error::SyscallError;

/// A failure, by its cause.
#[derive(Debug)]
pub enum Error {
    /// A kernel call has failed.
    Kernel(SyscallError),
    /// Another failure, with its context.
    Context(String, Box<Error>),
    /// A file or stream cannot be read or written: its name.
    Io(String, std::io::Error),
    /// A file is not the expected JSON document.
    Document(PathBuf, serde_json::Error),
    /// The request is invalid, or not possible.
    Invalid(String),
    /// Another program has failed: its message.
    Program(String),
    /// A child of the shim has failed: its message.
    Child(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Kernel(failed) => write!(f, "{failed}"),
            Error::Context(what, error) => write!(f, "{what}: {error}"),
            Error::Io(name, error) => write!(f, "{name}: {error}"),
            Error::Document(path, error) => write!(f, "{}: {error}", path.display()),
            Error::Invalid(text) | Error::Program(text) | Error::Child(text) => f.write_str(text),
        }
    }
}

impl Error {
    /// Adds the current action of the shim.
    pub fn context(self, what: impl Into<String>) -> Error {
        Error::Context(what.into(), Box::new(self))
    }
}

impl From<SyscallError> for Error {
    fn from(failed: SyscallError) -> Error {
        Error::Kernel(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_failed_and_why() {
        let full = std::io::Error::from_raw_os_error(libc::ENOSPC);
        let error = Error::Io("standard output".into(), full).context("cannot start");
        assert_eq!(error.to_string(), "cannot start: standard output: No space left on device (os error 28)");
        assert_eq!(Error::Invalid("no".into()).to_string(), "no");
    }
}
