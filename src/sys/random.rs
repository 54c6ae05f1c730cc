//! Random numbers.

use super::{Result, check};

/// A suffix for names that nobody can guess: `.` and sixteen hexadecimal digits (getrandom(2)).
pub fn random_suffix() -> Result<String> {
    let mut bytes = [0u8; 8];
    // SAFETY: the length given is that of the buffer, which outlives the call. Up to 256 bytes come whole.
    let returned = unsafe { libc::syscall(libc::SYS_getrandom, bytes.as_mut_ptr(), bytes.len(), 0) };
    check(returned, || "getrandom(8)".into())?;
    Ok(format!(".{:016x}", u64::from_ne_bytes(bytes)))
}
