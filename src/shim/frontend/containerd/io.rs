//! The standard input and output of the actions that containerd runs.

use std::io::{Read, Write};

use super::ttrpc;

/// All of standard input, which containerd ends.
pub fn input() -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    std::io::stdin()
        .take(ttrpc::LONGEST as u64)
        .read_to_end(&mut bytes)
        .map_err(|error| format!("standard input: {error}"))?;
    Ok(bytes)
}

/// Prints an answer.
pub fn print(bytes: &[u8]) -> Result<(), String> {
    let mut out = std::io::stdout();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|error| format!("standard output: {error}"))
}
