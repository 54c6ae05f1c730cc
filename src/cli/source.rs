//! The document of `update --resources`: its place and its text.

use std::os::fd::AsFd;
use std::path::PathBuf;

use nix::fcntl::OFlag;

use windlass_base::error::{Result, WithContext};
use windlass_sys::fd;

/// A document that a flag names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Standard input (`-`).
    Stdin,
    /// A file.
    File(PathBuf),
}

impl Source {
    /// The whole document, up to [`fd::DOCUMENT`] bytes.
    pub fn read(&self) -> Result<Vec<u8>> {
        let opened = match self {
            Source::Stdin => fd::duplicate(std::io::stdin().as_fd()),
            Source::File(path) => fd::open(path, OFlag::O_RDONLY),
        };
        opened.and_then(|file| fd::read_all(file, fd::DOCUMENT)).with_context(|| match self {
            Source::Stdin => "cannot read standard input".to_string(),
            Source::File(path) => format!("cannot read {path:?}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_without_an_end_is_refused() {
        let failed = Source::File("/dev/zero".into()).read().expect_err("no end");
        assert_eq!(failed.errno(), Some(nix::errno::Errno::EFBIG));
        assert_eq!(failed.message(), "cannot read \"/dev/zero\": file too large");
        let missing = Source::File("/no/such".into()).read().expect_err("missing");
        assert_eq!(missing.message(), "cannot read \"/no/such\": no such file or directory");
    }
}
