//! Loggers: programs that read the output of a process (`binary://`). Descriptors 3 and 4 are the pipes of standard
//! output and standard error. Descriptor 5 reports that the logger is ready.
//!
//! A logger ends when both pipes have ended. If it does not, it gets SIGTERM two seconds after its process is deleted,
//! and SIGKILL twelve seconds later.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};

use super::error::Error;
use super::stdio::Program;
use crate::ProcessId;
use crate::table::Table;
use windlass_sys::pipe;
use windlass_sys::poll::{Deadline, poll};
use windlass_sys::process::{self, Child};
use windlass_sys::spawn::{self, Environment, Spawn};
use windlass_sys::{Result, fd};

/// How long a logger may run after its process is deleted, and then after SIGTERM.
const GRACE: Duration = Duration::from_secs(2);
const TERM: Duration = Duration::from_secs(12);

/// How long a logger may take until it is ready.
const READY: Duration = Duration::from_secs(60);

/// A running logger.
#[derive(Debug)]
pub(super) struct BinaryLogger {
    /// The process whose output it reads.
    pub(super) process: ProcessId,
    /// The logger's own process.
    pub child: Child,
    /// The time of the next signal, and its number. `None` before the process is deleted, and after SIGKILL.
    pub(super) end: Option<(Instant, i32)>,
}

/// The write ends of the pipes for the output, and the pipe that reports that the logger is ready.
pub(super) type Ends = ([OwnedFd; 2], OwnedFd);

impl BinaryLogger {
    /// Starts a logger.
    pub(super) fn start(program: &Program, process: &ProcessId, namespace: &str) -> Result<(BinaryLogger, Ends)> {
        let (out_read, out_write) = pipe::new()?;
        let (err_read, err_write) = pipe::new()?;
        let (ready_read, ready_write) = pipe::new()?;
        let null = fd::open("/dev/null", nix::fcntl::OFlag::O_RDWR)?;
        let text = |text: &[u8]| CString::new(text).unwrap_or_default();
        let path = text(program.path.as_os_str().as_encoded_bytes());
        let arguments: Vec<CString> =
            std::iter::once(path.clone()).chain(program.arguments.iter().map(|word| text(word.as_bytes()))).collect();
        let environment = [
            text(format!("CONTAINER_ID={}", process.exec.as_deref().unwrap_or(&process.container)).as_bytes()),
            text(format!("CONTAINER_NAMESPACE={namespace}").as_bytes()),
        ];
        let child = spawn::start(&Spawn {
            path: &path,
            arguments: &arguments,
            environment: Environment::Given(&environment),
            stdio: [null.as_fd(), null.as_fd(), null.as_fd()],
            preserve: &[],
            extra: &[out_read.as_fd(), err_read.as_fd(), ready_write.as_fd()],
            directory: None,
            oom_score_adj: None,
            die_with_parent: false,
            session: false,
            listen_pid: false,
        })?;
        let logger = BinaryLogger { process: process.clone(), child, end: None };
        Ok((logger, ([out_write, err_write], ready_read)))
    }

    /// Schedules the signals, because the process is deleted.
    fn end(&mut self, now: Instant) {
        self.end = Some((now + GRACE, libc::SIGTERM));
    }

    /// Sends the signal that is due.
    fn due(&mut self, now: Instant) {
        let Some((at, signal)) = self.end.filter(|(at, _)| *at <= now) else { return };
        // An error means that the logger has ended. It is reaped when its pidfd is ready.
        let _ = process::send_signal(self.child.pidfd.as_fd(), signal);
        self.end = (signal != libc::SIGKILL).then_some((at + TERM, libc::SIGKILL));
    }
}

/// The loggers, by the serial numbers of their keys.
#[derive(Debug, Default)]
pub(super) struct Loggers(pub(super) Table<u64, Box<BinaryLogger>>);

impl Loggers {
    /// Adds a logger.
    pub(super) fn insert(&mut self, serial: u64, logger: BinaryLogger) {
        self.0.insert(serial, Box::new(logger));
    }

    /// Removes a logger that has ended. Returns its process id, or `None` if it has not ended.
    pub(super) fn ended(&mut self, serial: u64) -> Option<i32> {
        if self.0.get(&serial)?.child.try_wait().is_ok_and(|exit| exit.is_none()) {
            return None;
        }
        self.0.remove(&serial).map(|logger| logger.child.pid)
    }

    /// Schedules the end of the loggers whose processes are deleted.
    pub(super) fn end(&mut self, of: impl Fn(&ProcessId) -> bool, now: Instant) {
        self.0.values_mut().filter(|logger| of(&logger.process)).for_each(|logger| logger.end(now));
    }

    /// When [`Loggers::due`] is to be called.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.0.values().filter_map(|logger| logger.end.map(|(at, _)| at)).min()
    }

    /// Sends the signals that are due.
    pub(super) fn due(&mut self, now: Instant) {
        self.0.values_mut().for_each(|logger| logger.due(now));
    }
}

/// Waits until the logger is ready. Called in a child of the shim.
pub(super) fn wait(ready: &OwnedFd, program: &Path, speaks: bool) -> std::result::Result<(), Error> {
    let mut fds = [PollFd::new(ready.as_fd(), PollFlags::POLLIN)];
    if !poll(&mut fds, Deadline::after(READY))? {
        return Err(Error::Program(format!("the logger {} does not become ready", program.display())));
    }
    let mut byte = [0];
    match nix::unistd::read(ready, &mut byte) {
        Ok(0) if speaks => Err(Error::Program(format!("the logger {} ended before it was ready", program.display()))),
        _ => Ok(()),
    }
}
