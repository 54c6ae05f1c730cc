//! Standard output.

use std::io::Write;

use windlass_base::error::{Result, WithContext};

/// Writes to standard output. `println!` would panic on a closed pipe.
pub fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).with_context(|| "cannot write to standard output")
}
