//! Memory for reading and for assembling lines.

use super::log::SCRATCH;
use windlass_sys::Result;
use windlass_sys::region::Region;

/// Bytes read at once: the capacity of a pipe.
pub(super) const READ: usize = 64 * 1024;

/// The memory. All streams share it, and it is freed when nothing moves.
#[derive(Debug)]
pub(super) struct Scratch {
    input: Region,
    output: Region,
}

impl Scratch {
    pub(super) fn new() -> Result<Scratch> {
        Ok(Scratch { input: Region::new(READ)?, output: Region::new(SCRATCH)? })
    }

    /// Memory for reading.
    pub(super) fn input(&mut self) -> &mut [u8] {
        self.input.bytes()
    }

    /// Memory for assembling lines.
    pub(super) fn output(&mut self) -> &mut [u8] {
        self.output.bytes()
    }

    /// The first `n` bytes that were read, and the memory for assembling lines.
    pub(super) fn read_and_output(&mut self, n: usize) -> (&[u8], &mut [u8]) {
        (&self.input.bytes()[..n], self.output.bytes())
    }

    pub(super) fn release(&mut self) {
        self.input.release();
        self.output.release();
    }
}
