//! The connections and descriptors between the caller and the process of `create`, `run` and `exec`.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::fcntl::OFlag;

use windlass_base::error::{Error, Origin, Result, WithContext};
use windlass_sys::process::Child;
use windlass_sys::{fd, socket};

use super::inherit::Inherit;

/// The descriptors that the caller passes to the process, and the places where the process is reported to the caller.
#[derive(Default)]
pub struct Caller<'a> {
    /// A connection that gets the terminal's master end.
    pub console_socket: Option<OwnedFd>,
    /// A connection that gets a pidfd of the process.
    pub pidfd_socket: Option<OwnedFd>,
    /// Absolute path of a file that gets the process id.
    pub pid_file: Option<&'a Path>,
    /// How many descriptors to pass after 0, 1 and 2.
    pub preserve_fds: u32,
    /// The inheritance from the caller.
    pub inherit: Inherit,
}

impl Caller<'_> {
    /// Sends the pidfd, makes the container's user the owner of pipes among stdio, and writes the pid file.
    pub(super) fn report(&self, child: &Child) -> Result<()> {
        self.inherit.give(child);
        if let Some(socket) = &self.pidfd_socket {
            socket::send(socket.as_fd(), b"pidfd", &[child.pidfd.as_fd()])
                .with_context(|| "cannot send the pidfd")
                .map_err(|error| error.with_origin(Origin::Flag("--pidfd-socket".into())))?;
        }
        self.pid_file.map_or(Ok(()), |path| write_pid_file(path, child.pid))
    }
}

/// Sets `oom_score_adj`, if the configuration asks for it at `pointer`.
pub(super) fn set_oom_score_adj(child: &Child, adj: Option<i64>, pointer: &'static str) -> Result<()> {
    let Some(adj) = adj else { return Ok(()) };
    fd::openat(fd::CWD, format!("/proc/{}/oom_score_adj", child.pid), OFlag::O_WRONLY, 0)
        .and_then(|file| fd::write_once(file.as_fd(), adj.to_string().as_bytes()))
        .with_context(|| format!("cannot set oom_score_adj to {adj}"))
        .map_err(|error| error.with_origin(Origin::config(pointer)))
}

fn write_pid_file(path: &Path, pid: i32) -> Result<()> {
    fd::write_pid(path, pid)
        .with_context(|| format!("cannot write the pid file {path:?}"))
        .map_err(|error: Error| error.with_origin(Origin::Flag("--pid-file".into())))
}
