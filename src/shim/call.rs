//! One run of the runtime's binary.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Instant;

use super::gone;
use super::key::Kind;
use super::pipe::collect;
use super::{Code, Phase, ProcessId, Refusal, Runtime, WaitToken};
use windlass_sys::process::{Child, Exit};
use windlass_sys::spawn::{self, Environment, Spawn};
use windlass_sys::{Result, stream};

/// The operation of the runtime, which determines the effect of a call's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
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
    /// `checkpoint`, which may end the container.
    Checkpoint,
    /// Another verb. The phase is that of init after the verb has succeeded.
    Other(Option<Phase>),
}

/// A call to be made.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) operation: Operation,
    /// The process that the call is for.
    pub(super) process: ProcessId,
    /// The arguments after the name of the program.
    pub(super) arguments: Vec<OsString>,
    /// The request that the call answers.
    pub(super) token: WaitToken,
}

/// A call that runs.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) operation: Operation,
    pub(super) process: ProcessId,
    pub(super) token: WaitToken,
    pub(super) child: Child,
    /// The pipes of standard output and error, unless they are the container's.
    pub(super) output: Option<OwnedFd>,
    pub(super) errors: Option<OwnedFd>,
    /// Bytes read from standard output.
    pub(super) stdout: Vec<u8>,
    /// Bytes read from standard error.
    pub(super) stderr: Vec<u8>,
    /// When the call is killed.
    pub(super) deadline: Instant,
    pub(super) timed_out: bool,
    /// Length of the runtime's log before the call.
    pub(super) log_length: u64,
    /// Whether the pidfd could not be watched. Then SIGCHLD reports the end.
    pub(super) unwatched: bool,
}

impl Call {
    /// Reads from one of the pipes.
    pub(super) fn read(&mut self, kind: Kind) {
        let (pipe, kept) = match kind {
            Kind::CallOutput => (&mut self.output, &mut self.stdout),
            _ => (&mut self.errors, &mut self.stderr),
        };
        if pipe.as_ref().is_some_and(|open| collect(open.as_fd(), kept)) {
            *pipe = None;
        }
    }

    /// Why the call has failed. `stderr` is its standard error.
    pub(super) fn refusal(&self, exit: Exit, stderr: &[u8], runtime: Option<&Runtime>) -> Refusal {
        if self.timed_out {
            return Refusal::new(Code::TimedOut, "the runtime took too long and was killed");
        }
        let text = runtime.map(|runtime| runtime.error_message(stderr, self.log_length));
        let text = text.filter(|text| !text.is_empty()).unwrap_or_else(|| format!("the runtime ended with {exit}"));
        let gone = matches!(self.operation, Operation::Kill | Operation::Delete) && gone::is_target(&text);
        Refusal::new(if gone { Code::NotFound } else { Code::Runtime }, text)
    }
}

/// How the runtime's process is made.
pub(super) struct SpawnOptions<'a> {
    pub(super) binary: &'a Path,
    pub(super) arguments: &'a [OsString],
    pub(super) stdio: [BorrowedFd<'a>; 3],
    /// Numbers of descriptors that the runtime inherits.
    pub(super) preserve: &'a [i32],
    pub(super) oom_score_adj: Option<&'a str>,
    /// Whether `LISTEN_PID` is set to the runtime's process id.
    pub(super) listen_pid: bool,
}

/// Starts the runtime.
pub(super) fn start(options: &SpawnOptions<'_>) -> Result<Child> {
    let path = text(options.binary.as_os_str());
    let arguments: Vec<CString> =
        std::iter::once(path.clone()).chain(options.arguments.iter().map(|word| text(word))).collect();
    spawn::start(&Spawn {
        path: &path,
        arguments: &arguments,
        // The allocator's setting is for the shim alone.
        environment: Environment::OursWithout(LEAN),
        stdio: options.stdio,
        preserve: options.preserve,
        extra: &[],
        directory: None,
        oom_score_adj: options.oom_score_adj,
        die_with_parent: true,
        session: false,
        listen_pid: options.listen_pid,
    })
}

/// A setting of glibc's allocator (malloc(3), tunables(7)) for a server. By default the allocator keeps
/// freed pieces of every size for each thread, and they keep the pages that they are in. After a thousand
/// execs that was 60 kB of 90 kB; with this setting it is 4 kB.
const LEAN: &CStr = c"GLIBC_TUNABLES=glibc.malloc.tcache_count=0";

/// The environment of the shim, as execve(2) takes it.
pub(super) fn environment() -> impl Iterator<Item = CString> {
    std::env::vars_os().map(|(mut key, value)| {
        key.push("=");
        key.push(value);
        text(&key)
    })
}

/// The environment of a server: the shim's, and `LEAN` unless the user tunes the allocator.
pub fn server_environment() -> Vec<CString> {
    let tuned = std::env::var_os("GLIBC_TUNABLES").is_some();
    environment().chain((!tuned).then(|| LEAN.to_owned())).collect()
}

/// A string for the kernel. A word from argv, a file or a socket that has a NUL ends there.
pub(super) fn text(word: &OsStr) -> CString {
    let bytes = word.as_bytes();
    let end = stream::find(0, bytes).unwrap_or(bytes.len());
    CString::new(&bytes[..end]).expect("it was cut at its first NUL")
}
