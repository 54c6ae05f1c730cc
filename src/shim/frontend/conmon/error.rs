//! Why a conmon ends before it has a container.

use std::fmt;

use windlass_base::error::SyscallError;

/// A failure, by its cause. Callers log the text, which is conmon's if conmon fails too.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Error {
    /// The command line cannot be parsed.
    Parse(String),
    /// A required option is missing: what it sets, and its name.
    Missing(&'static str, &'static str),
    /// The options are parsed, but their values are invalid or contradict each other.
    Invalid(String),
    /// The log cannot be opened.
    Log(SyscallError),
    /// A kernel call has failed.
    Kernel(SyscallError),
    /// The output of `--help` or `--version` cannot be written.
    Print(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Parse(text) => write!(f, "option parsing failed: {text}"),
            Error::Missing(what, option) => write!(f, "{what} not provided. Use {option}"),
            Error::Invalid(text) | Error::Print(text) => f.write_str(text),
            Error::Log(failed) => write!(f, "Failed to open log file: {failed}"),
            Error::Kernel(failed) => write!(f, "{failed}"),
        }
    }
}

impl From<SyscallError> for Error {
    fn from(failed: SyscallError) -> Error {
        Error::Kernel(failed)
    }
}
