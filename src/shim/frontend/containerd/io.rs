//! Standard input and output of the actions.

use std::io::{Read, Write};

use super::error::Error;
use super::ttrpc;

/// Reads standard input to its end.
pub(super) fn input() -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    std::io::stdin()
        .take(ttrpc::LONGEST as u64)
        .read_to_end(&mut bytes)
        .map_err(|error| Error::Io("standard input".into(), error))?;
    Ok(bytes)
}

/// Prints an answer.
pub(super) fn print(bytes: &[u8]) -> Result<(), Error> {
    let mut out = std::io::stdout();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|error| Error::Io("standard output".into(), error))
}
