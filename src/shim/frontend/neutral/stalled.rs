//! A shim that lives and does not answer, because it is stopped, hangs, or waits for a disk. Commands report it after a
//! while; `delete --force` ends it.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;

use crate::{Code, Refusal};
use windlass_client::{Client, Error};
use windlass_sys::poll::{self, Deadline};
use windlass_sys::{process, waiting};

/// How long a command waits for a shim. The loop waits neither for the runtime nor for clients, so milliseconds are
/// usual.
pub(super) const ANSWER_TIME: Duration = Duration::from_secs(5);

/// How long a killed shim may take to end. A page of it may have to be read from a slow disk.
const END: Duration = Duration::from_secs(10);

/// Whether a call has failed because its time was up.
pub(super) fn is_stalled(error: &Error) -> bool {
    matches!(error, Error::Lost(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// The message about the shim at the other end, or about one that lets nobody in.
pub(super) fn describe(client: Option<&Client>) -> String {
    let process = client.and_then(|client| waiting::describe(client.shim_pid().ok()?));
    format!("the shim does not answer{}", process.map_or(String::new(), |process| format!(": {}", process.text)))
}

/// The message for a call that has failed.
pub(super) fn explain(client: Option<&Client>, error: &Error) -> String {
    if is_stalled(error) { describe(client) } else { error.to_string() }
}

/// Kills the shim at the other end, whose socket is at `socket`, and waits until it has ended.
pub(super) fn kill(client: &Client, socket: &Path) -> Result<(), Refusal> {
    let unknown = |error: Error| Refusal::new(Code::Kernel, format!("cannot find the process of the shim: {error}"));
    let pidfd = match process::open_pid(client.shim_pid().map_err(unknown)?) {
        Err(failed) if failed.errno == Errno::ESRCH => return Ok(()),
        other => other?,
    };
    // While a process listens there, the number is not another process's. One that lets nobody in listens.
    match Client::open(socket) {
        Err(error) if !is_stalled(&error) => return Ok(()),
        _ => {}
    }
    match process::send_signal(pidfd.as_fd(), libc::SIGKILL) {
        Err(failed) if failed.errno == Errno::ESRCH => return Ok(()),
        other => other?,
    }
    match poll::readable(pidfd.as_fd(), Deadline::after(END))? {
        true => Ok(()),
        false => Err(Refusal::new(Code::TimedOut, format!("{} after SIGKILL", describe(Some(client))))),
    }
}
