//! Standard output.

use std::io::Write;

use windlass_base::error::{Doing, Result};

/// Writes to standard output. `println!` would panic on a closed pipe.
pub fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).doing(|| "cannot write to standard output")
}
