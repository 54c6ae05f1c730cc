//! Pipes to the programs that the core runs.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::OFlag;

use windlass_sys::pipe;
use windlass_sys::stream::{self, Moved};
use windlass_sys::{Result, fd};

/// Bytes of a program's output that are kept. Further bytes are read and dropped.
pub(super) const KEPT: usize = 64 * 1024;

/// The null device.
pub(super) fn null() -> Result<OwnedFd> {
    fd::open("/dev/null", OFlag::O_RDWR)
}

/// A pipe whose read end does not block: read end, write end.
pub(super) fn captured() -> Result<(OwnedFd, OwnedFd)> {
    let (read_end, write_end) = pipe::new()?;
    pipe::never_block(read_end.as_fd())?;
    Ok((read_end, write_end))
}

/// Reads what is in a pipe and appends it to `kept`, up to [`KEPT`] bytes in all. Returns whether the
/// pipe has reached its end.
pub(super) fn collect(pipe: BorrowedFd<'_>, kept: &mut Vec<u8>) -> bool {
    let mut buffer = [0; 4096];
    // Bounded, so that a program that writes without a pause does not stop the loop.
    for _ in 0..64 {
        match stream::read(pipe, &mut buffer) {
            Ok(Moved::Bytes(n)) => {
                let room = KEPT.saturating_sub(kept.len());
                kept.extend_from_slice(&buffer[..n.min(room)]);
                // A read of fewer bytes than asked for has emptied the pipe.
                if n < buffer.len() {
                    return false;
                }
            }
            Ok(Moved::Later) => return false,
            Ok(Moved::End) | Err(_) => return true,
        }
    }
    false
}

#[cfg(test)]
mod tests;
