//! CRIU as a child.

use std::ffi::{CString, OsStr};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use windlass_base::error::{Error, Result, WithContext};
use windlass_sys::process::Child;
use windlass_sys::spawn::{self, Environment, Spawn};

/// Starts CRIU with `path` as its PATH, in a session of its own. It gets `descriptors` from 3 on, and outlives us.
pub(crate) fn start(
    program: &Path,
    arguments: &[&str],
    path: &OsStr,
    stdio: [BorrowedFd<'_>; 3],
    descriptors: &[BorrowedFd<'_>],
) -> Result<Child> {
    let text = |bytes: &[u8]| CString::new(bytes).map_err(|_| Error::usage("a NUL byte in a path"));
    let words = ["criu"].iter().chain(arguments).map(|word| text(word.as_bytes()));
    spawn::start(&Spawn {
        path: &text(program.as_os_str().as_bytes())?,
        arguments: &words.collect::<Result<Vec<_>>>()?,
        environment: Environment::Given(&[text(&[b"PATH=", path.as_bytes()].concat())?]),
        stdio,
        preserve: &[],
        extra: descriptors,
        directory: None,
        oom_score_adj: None,
        die_with_parent: false,
        session: true,
        listen_pid: false,
    })
    .with_context(|| "cannot start CRIU")
}
