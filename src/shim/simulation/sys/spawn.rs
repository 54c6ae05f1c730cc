//! Starting programs, which the world simulates.

pub use windlass_sys::spawn::*;

use super::kernel;
use super::kernel::Child;
use super::{Result, fd};

/// Starts a program, unless the world makes that fail.
pub fn start(program: &Spawn<'_>) -> Result<Child> {
    let words = program.arguments.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let [input, output, errors] = program.stdio;
    let stdio = [fd::duplicate(input)?, fd::duplicate(output)?, fd::duplicate(errors)?];
    kernel::call();
    let child = kernel::spawn(words, stdio)?;
    kernel::call();
    Ok(child)
}
