//! A seccomp agent: takes a listener from the runtime and answers with an errno.

use super::console::FdSocket;
use super::stop::{Context, Verdict, fail};
use crate::sys::{self, Response};
use serde_json::Value;
use std::os::fd::OwnedFd;

/// The message of the runtime: the container process state, and the listener.
pub struct Listener {
    /// `ContainerProcessState`.
    pub state: Value,
    /// The seccomp descriptor.
    pub fd: OwnedFd,
}

/// Receives the state and the descriptor named `seccompFd` in it.
pub fn receive(socket: &FdSocket) -> Verdict<Listener> {
    let (message, mut fds) = socket.receive()?;
    let state: Value = serde_json::from_slice(&message).context("container process state")?;
    let names = state["fds"].as_array().cloned().unwrap_or_default();
    let at = names.iter().position(|name| name == "seccompFd");
    match at.filter(|at| *at < fds.len()) {
        Some(at) => Ok(Listener { fd: fds.swap_remove(at), state }),
        None => fail(format!("no seccompFd among {} descriptors of {state}", fds.len())),
    }
}

impl Listener {
    /// Answers the next notification with this errno. Returns the number of the call.
    pub fn refuse_next(&self, errno: i32) -> Verdict<i32> {
        super::console::wait_readable(&self.fd, std::time::Duration::from_secs(60))?;
        let notification = sys::seccomp_receive(&self.fd).context("SECCOMP_IOCTL_NOTIF_RECV")?;
        let response = Response { id: notification.id, error: -errno, ..Response::default() };
        sys::seccomp_respond(&self.fd, response).context("SECCOMP_IOCTL_NOTIF_SEND")?;
        Ok(notification.nr)
    }
}
