//! Starting programs, which the world plays.

use std::ffi::{CStr, CString};
use std::os::fd::BorrowedFd;

pub use windlass_sys::spawn::*;

use super::kernel;
use super::kernel::Child;
use super::{Result, fd};

/// A program to start, as in the real one.
pub struct Spawn<'a> {
    pub path: &'a CStr,
    pub arguments: &'a [CString],
    pub environment: Environment<'a>,
    pub stdio: [BorrowedFd<'a>; 3],
    pub preserve: &'a [i32],
    pub extra: &'a [BorrowedFd<'a>],
    pub directory: Option<&'a CStr>,
    pub oom_score_adj: Option<&'a str>,
    pub die_with_parent: bool,
    pub session: bool,
    pub listen_pid: bool,
}

impl Spawn<'_> {
    /// Starts it, unless the world has it fail.
    pub fn start(&self) -> Result<Child> {
        let words = self.arguments.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        let [input, output, errors] = self.stdio;
        let stdio = [fd::duplicate(input)?, fd::duplicate(output)?, fd::duplicate(errors)?];
        kernel::spawn(words, stdio)
    }
}
