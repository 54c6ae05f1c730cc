//! One run of the runtime's binary.

use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Instant;

use super::{ProcessId, WaitToken};
use crate::sys::process::Child;
use crate::sys::spawn::Spawn;
use crate::sys::{Result, stream};

/// What is being run, and so what its end means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// `create` or `restore`.
    Create,
    /// `start`.
    Start,
    /// `exec --detach`.
    Exec,
    /// `kill`.
    Kill,
    /// `delete`.
    Delete,
    /// Another verb, with the phase that its success brings.
    Other(Option<super::Phase>),
}

/// A call that waits for its turn: the calls of one process run one after the other.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) what: What,
    pub(super) process: ProcessId,
    pub(super) words: Vec<OsString>,
    pub(super) token: WaitToken,
}

/// A call that runs.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) serial: u32,
    pub(super) what: What,
    pub(super) process: ProcessId,
    pub(super) token: WaitToken,
    pub(super) child: Child,
    /// Its standard output, where that is not the container's.
    pub(super) output: Option<OwnedFd>,
    pub(super) errors: Option<OwnedFd>,
    pub(super) printed: Vec<u8>,
    pub(super) complained: Vec<u8>,
    pub(super) deadline: Instant,
    pub(super) timed_out: bool,
    /// Length of the runtime's log before this call.
    pub(super) said_before: u64,
}

/// What the runtime's child gets besides its words.
pub(super) struct Settings<'a> {
    pub(super) binary: &'a Path,
    pub(super) words: &'a [OsString],
    pub(super) stdio: [BorrowedFd<'a>; 3],
    pub(super) preserve: &'a [i32],
    pub(super) oom_score_adj: Option<&'a str>,
    pub(super) listen_pid: bool,
}

/// Starts the runtime.
pub(super) fn start(settings: &Settings<'_>) -> Result<Child> {
    let path = text(settings.binary.as_os_str());
    let arguments: Vec<CString> =
        std::iter::once(path.clone()).chain(settings.words.iter().map(|word| text(word))).collect();
    // What we need of the C library is no business of the runtime's.
    let environment: Vec<CString> = environment().filter(|entry| entry.as_bytes() != LEAN.as_bytes()).collect();
    Spawn {
        path: &path,
        arguments: &arguments,
        environment: &environment,
        stdio: settings.stdio,
        preserve: settings.preserve,
        extra: &[],
        directory: None,
        oom_score_adj: settings.oom_score_adj,
        die_with_parent: true,
        session: false,
        listen_pid: settings.listen_pid,
    }
    .start()
}

/// For the environment of a server. glibc's allocator (malloc(3), tunables(7)) keeps freed pieces
/// of every size at hand for a thread, which pins the pages that they are in: after a thousand
/// execs that was 60 kB of 90, and it is 4 without.
const LEAN: &str = "GLIBC_TUNABLES=glibc.malloc.tcache_count=0";

/// Our environment, as execve(2) takes it.
pub(super) fn environment() -> impl Iterator<Item = CString> {
    std::env::vars_os().map(|(mut key, value)| {
        key.push("=");
        key.push(value);
        text(&key)
    })
}

/// The environment of a server: ours, and `LEAN` unless the user tunes the allocator.
pub fn server_environment() -> Vec<CString> {
    let tuned = std::env::var_os("GLIBC_TUNABLES").is_some();
    environment().chain((!tuned).then(|| text(LEAN.as_ref()))).collect()
}

/// Words come from argv, files and sockets; a NUL in one ends it, as it would for the kernel.
pub(super) fn text(word: &OsStr) -> CString {
    let bytes = word.as_bytes();
    let end = stream::find(0, bytes).unwrap_or(bytes.len());
    CString::new(&bytes[..end]).expect("it was cut at its first NUL")
}
