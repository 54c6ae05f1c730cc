//! What the caller of `create`, `run` and `exec` passes: a terminal, descriptors, connections.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use crate::apply::Relay;
use crate::error::{Doing, Error, Kind, Origin, Result};
use crate::sys::{fd, socket};

/// A connection to the socket that `flag` names.
pub(super) fn connect(path: Option<&PathBuf>, flag: &'static str) -> Result<Option<OwnedFd>> {
    let origin = |error: Error| error.origin(Origin::Flag(flag.into()));
    path.map(|path| socket::connect(path).doing(|| format!("cannot connect to {path:?}")).map_err(origin)).transpose()
}

/// The way of the terminal's master end, out of the process.
pub(super) struct Terminal {
    /// The process's end.
    socket: Option<OwnedFd>,
    /// Ours, where the terminal is relayed.
    ours: Option<OwnedFd>,
}

impl Terminal {
    /// How the terminal of a process is asked for must fit how it is started: detached, it goes to
    /// the connection of `--console-socket`; otherwise we relay it.
    pub(super) fn plan(wanted: bool, detached: bool, socket: Option<OwnedFd>) -> Result<Terminal> {
        check(wanted, detached, socket.is_some())?;
        if !wanted || detached {
            return Ok(Terminal { socket, ours: None });
        }
        let (ours, theirs) = socket::pair().doing(|| "cannot make a pair of sockets")?;
        Ok(Terminal { socket: Some(theirs), ours: Some(ours) })
    }

    /// For the process, which sends the master end there.
    pub(super) fn take_socket(&mut self) -> Option<OwnedFd> {
        self.socket.take()
    }

    /// Takes the terminal over, once the process is ready.
    pub(super) fn relay(&self) -> Result<Option<Relay>> {
        self.ours.as_ref().map_or(Ok(None), Relay::receive)
    }
}

fn check(terminal: bool, detached: bool, socket: bool) -> Result<()> {
    if terminal && detached && !socket {
        return Err(Error::new(Kind::Usage, "cannot allocate tty if runc will detach without setting console socket")
            .origin(Origin::config("/process/terminal"))
            .hint("pass --console-socket, or set process.terminal to false"));
    }
    if socket && !(terminal && detached) {
        return Err(Error::new(Kind::Usage, "cannot use console socket if runc will not detach or allocate tty")
            .origin(Origin::Flag("--console-socket".into())));
    }
    Ok(())
}

/// Descriptors to pass on, and what tells the process of them (sd_listen_fds(3)).
pub(super) fn passed_fds(preserve: u32) -> Result<(u32, Vec<String>)> {
    let listen =
        std::env::var("LISTEN_FDS").ok().and_then(|n| n.parse::<u32>().ok()).filter(|n| *n > 0 && *n < 1 << 16);
    let total = preserve.saturating_add(listen.unwrap_or(0));
    let raw = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
    for number in 3..raw(3 + total) {
        if fd::borrow_inherited(number).is_none() {
            let msg = format!("unable to preserve file descriptor {number}: it is not open");
            return Err(Error::new(Kind::Usage, msg).origin(Origin::Flag("--preserve-fds".into())));
        }
    }
    let environment = listen.map_or(Vec::new(), |n| vec![format!("LISTEN_FDS={n}"), "LISTEN_PID=1".into()]);
    Ok((total, environment))
}
