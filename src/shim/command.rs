//! A run of the runtime outside the loop, for callers that have nothing to do until it ends: the verbs of a dead
//! shim's container, and containerd's `delete` and `-info`.
//!
//! A run is bounded in time and in the length of its output. The loop runs the runtime without ever waiting
//! (`Supervisor::request`).

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags};

use super::call::{self, SpawnOptions};
use super::pipe::{self, KEPT};
use super::{Code, Refusal};
use windlass_sys::fd::DOCUMENT;
use windlass_sys::poll::{self, Deadline};
use windlass_sys::process::{Child, Exit};
use windlass_sys::stream::{self, Moved};

/// How long a call of the runtime may take in the commands and actions, unless its caller has less time.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(30);

/// The outcome of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finished {
    /// How it ended.
    pub exit: Exit,
    pub stdout: Vec<u8>,
    /// The beginning of its standard error.
    pub stderr: Vec<u8>,
}

impl Finished {
    pub(crate) fn success(&self) -> bool {
        self.exit == Exit::Code(0)
    }

    /// Why the run failed: the runtime's own message.
    pub(crate) fn message(&self) -> String {
        let text = String::from_utf8_lossy(&self.stderr).trim().to_owned();
        if text.is_empty() { format!("the runtime ended with {}", self.exit) } else { text }
    }
}

/// Runs `binary` to its end. [`Code::TimedOut`] if that does not come before the deadline, and [`Code::Runtime`] if
/// it cannot be started or prints more than a document may have ([`DOCUMENT`]); it is killed in both cases.
///
/// Only the end of the runtime itself is waited for, since processes that it leaves behind may hold its output open.
pub(crate) fn run(binary: &Path, arguments: &[OsString], deadline: Deadline) -> Result<Finished, Refusal> {
    run_bounded(binary, arguments, deadline, DOCUMENT)
}

fn run_bounded(binary: &Path, arguments: &[OsString], deadline: Deadline, most: usize) -> Result<Finished, Refusal> {
    let nothing = pipe::null()?;
    let (stdout, stdout_end) = pipe::captured()?;
    let (stderr, stderr_end) = pipe::captured()?;
    let options = SpawnOptions {
        binary,
        arguments,
        stdio: [nothing.as_fd(), stdout_end.as_fd(), stderr_end.as_fd()],
        preserve: &[],
        oom_score_adj: None,
        listen_pid: false,
    };
    let child = call::start(&options)
        .map_err(|failed| Refusal::new(Code::Runtime, format!("cannot run {binary:?}: {failed}")))?;
    drop((stdout_end, stderr_end));
    let run = Run { child, stdout: Pipe::new(stdout, most), stderr: Pipe::new(stderr, KEPT) };
    run.finish(binary, deadline)
}

/// An output pipe, of whose bytes no more than `most` are kept.
struct Pipe {
    end: Option<OwnedFd>,
    kept: Vec<u8>,
    most: usize,
    is_cut: bool,
}

impl Pipe {
    fn new(end: OwnedFd, most: usize) -> Pipe {
        Pipe { end: Some(end), kept: Vec::new(), most, is_cut: false }
    }

    /// Reads what is in the pipe, but at most its capacity: a runtime that never stops writing must not keep the shim
    /// from looking at the clock.
    fn read(&mut self) {
        let mut buffer = [0; 4096];
        for _ in 0..16 {
            let Some(end) = &self.end else { return };
            match stream::read(end.as_fd(), &mut buffer) {
                Ok(Moved::Bytes(n)) => {
                    let room = n.min(self.most - self.kept.len());
                    self.kept.extend_from_slice(&buffer[..room]);
                    self.is_cut |= room < n;
                }
                Ok(Moved::Later) => return,
                Ok(Moved::End) | Err(_) => self.end = None,
            }
        }
    }
}

struct Run {
    child: Child,
    stdout: Pipe,
    stderr: Pipe,
}

impl Run {
    fn finish(mut self, binary: &Path, deadline: Deadline) -> Result<Finished, Refusal> {
        let result = self.communicate(binary, deadline);
        if result.is_err() {
            self.child.end();
        }
        let exit = result?;
        Ok(Finished { exit, stdout: self.stdout.kept, stderr: self.stderr.kept })
    }

    fn communicate(&mut self, binary: &Path, deadline: Deadline) -> Result<Exit, Refusal> {
        loop {
            let pidfd = self.child.pidfd.as_fd();
            let ends = [&self.stdout, &self.stderr].into_iter().filter_map(|pipe| pipe.end.as_ref());
            let mut fds: Vec<PollFd<'_>> =
                [pidfd].into_iter().chain(ends.map(AsFd::as_fd)).map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
            let in_time = poll::poll(&mut fds, deadline)? && !deadline.has_passed();
            // Asked before the pipes are read, so that they hold all its output.
            let exit = self.child.try_wait()?;
            self.stdout.read();
            self.stderr.read();
            if self.stdout.is_cut {
                let message = format!("{binary:?} prints more than {} bytes and was killed", self.stdout.most);
                return Err(Refusal::new(Code::Runtime, message));
            }
            if let Some(exit) = exit {
                return Ok(exit);
            }
            if !in_time {
                return Err(Refusal::new(Code::TimedOut, format!("{binary:?} took too long and was killed")));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn shell(script: &str, deadline: Deadline) -> Result<Finished, Refusal> {
        run_bounded("/bin/sh".as_ref(), &["-c".into(), script.into()], deadline, 1 << 20)
    }

    fn soon() -> Deadline {
        Deadline::after(Duration::from_millis(200))
    }

    #[test]
    fn a_run_gives_what_it_printed_and_how_it_ended() {
        let finished = shell("echo out; echo err >&2; exit 3", Deadline::NEVER).expect("it ran");
        assert_eq!((&*finished.stdout, &*finished.stderr), (&b"out\n"[..], &b"err\n"[..]));
        assert_eq!((finished.exit, finished.message()), (Exit::Code(3), "err".into()));
        assert!(!finished.success());
        let silent = shell("kill -9 $$", Deadline::NEVER).expect("it ran");
        assert_eq!(silent.message(), "the runtime ended with signal 9 (SIGKILL)");
        let long = shell("head -c 900000 /dev/zero", Deadline::NEVER).expect("it ran");
        assert_eq!(long.stdout.len(), 900_000, "more than a pipe holds");
    }

    #[test]
    fn a_run_that_hangs_is_killed_at_the_deadline() {
        let start = Instant::now();
        for script in ["exec sleep 1000", "while :; do echo more >&2; done"] {
            assert_eq!(shell(script, soon()).expect_err("it hangs").code, Code::TimedOut, "{script}");
        }
        assert!(start.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn a_run_that_prints_without_end_is_killed() {
        let refusal = shell("exec cat /dev/zero", Deadline::NEVER).expect_err("too much");
        assert_eq!(refusal.code, Code::Runtime, "{refusal}");
    }

    #[test]
    fn who_holds_the_output_longer_is_not_waited_for() {
        let start = Instant::now();
        let finished = shell("sleep 30 & echo here", Deadline::after(Duration::from_secs(20))).expect("it ran");
        assert_eq!(finished.stdout, b"here\n");
        assert!(start.elapsed() < Duration::from_secs(20));
    }
}
