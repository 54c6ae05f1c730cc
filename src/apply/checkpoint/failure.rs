//! Describes why CRIU failed, from its answer and its log.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use nix::fcntl::OFlag;

use windlass_base::error::{Error, Kind};
use windlass_criu::log::{self, Cause};
use windlass_criu::message::Response;
use windlass_criu::session::Outcome;
use windlass_sys::fd;

/// Most bytes of a log that are read, from its end.
const TAIL: usize = 1 << 20;

/// Where a log is.
pub(crate) struct Log<'a> {
    /// Its directory.
    pub work: BorrowedFd<'a>,
    /// The path of the directory.
    pub work_path: &'a Path,
    /// Its name.
    pub name: &'a str,
}

/// The error for an outcome other than success. `what` is `DUMP` or `RESTORE`. `stderr` is what CRIU wrote to its
/// standard error.
pub(crate) fn error(outcome: &Outcome, what: &str, log: &Log<'_>, stderr: &str) -> Error {
    let path = log.work_path.join(log.name);
    let (errno, reported) = match outcome {
        Outcome::Failed(Response { errno, error, .. }) => (errno.unwrap_or(0), error.trim()),
        _ => (0, ""),
    };
    let died = matches!(outcome, Outcome::Died);
    let text = read(log).unwrap_or_default();
    let cause = log::cause(&text).or_else(|| log::cause(stderr));
    let why = match &cause {
        Some(Cause { text, known: Some(known), .. }) => format!("{} ({text})", known.means),
        Some(Cause { text, .. }) => text.clone(),
        None if died && !stderr.is_empty() => last_line(stderr).to_string(),
        None if died && text.is_empty() => "CRIU ended without an answer".into(),
        None if died => format!("CRIU ended without an answer after {:?}", last_line(&text)),
        None => reported.into(),
    };
    let msg = format!("criu failed: type {what} errno {errno}: {why}; log file: {}", path.display());
    let mut error = Error::new(if died { Kind::Protocol } else { Kind::Unsupported }, msg);
    if let Some(cause) = &cause {
        error = error.with_step(format!("CRIU: {}, line {} of its log", cause.place, cause.line));
        if let Some(known) = cause.known {
            error = error.with_hint(known.hint);
        }
    }
    if died && stderr.contains("kerndat") {
        error = error.with_hint("this CRIU is too old for this kernel: install a newer one, or name one by --criu");
    }
    error
}

fn last_line(text: &str) -> &str {
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default().trim()
}

fn read(log: &Log<'_>) -> Option<String> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = fd::openat(log.work, log.name, flags, 0).ok()?;
    let length = usize::try_from(fd::stat(file.as_fd()).ok()?.st_size).ok()?;
    let text = fd::read_part(file.as_fd(), length.saturating_sub(TAIL), TAIL).ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}
