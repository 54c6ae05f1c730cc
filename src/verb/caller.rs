//! The stdio of a process, and the connections of the caller that `create`, `run` and `exec` need for it.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use windlass_apply::{Inherit, Relay, StdioMode, User};
use windlass_base::error::{Error, Kind, Origin, Result, WithContext};
use windlass_plan::Host;
use windlass_sys::socket;

/// Connects to the socket whose path `flag` was given.
pub(super) fn connect(path: Option<&PathBuf>, flag: &'static str) -> Result<Option<OwnedFd>> {
    let origin = |error: Error| error.with_origin(Origin::Flag(flag.into()));
    path.map(|path| socket::connect(path).with_context(|| format!("cannot connect to {path:?}")).map_err(origin))
        .transpose()
}

/// The connection over which the process sends the master end of its terminal, or its ends of pipes.
pub(super) struct Stdio {
    terminal: bool,
    /// The process's end.
    socket: Option<OwnedFd>,
    /// Our end, if we relay stdio.
    relayed: Option<OwnedFd>,
}

impl Stdio {
    /// The master end of a detached process goes to `socket`, the connection of `--console-socket`. In the
    /// foreground we relay the terminal.
    pub(super) fn plan(terminal: bool, detached: bool, socket: Option<OwnedFd>) -> Result<Stdio> {
        check_console_socket(terminal, detached, socket.is_some())?;
        if !terminal || detached {
            return Ok(Stdio { terminal, socket, relayed: None });
        }
        let (ours, theirs) = socket::pair().with_context(|| "cannot make a pair of sockets")?;
        Ok(Stdio { terminal, socket: Some(theirs), relayed: Some(ours) })
    }

    /// Decides how the process gets our stdio. In the foreground we relay streams that it must not have itself.
    pub(super) fn inherit(&mut self, user: User, host: &Host, detached: bool) -> Result<Inherit> {
        let wanted = match (self.terminal, detached) {
            (true, _) => StdioMode::Terminal,
            (false, true) => StdioMode::Detached,
            (false, false) => StdioMode::Foreground,
        };
        let mut inherit = Inherit::plan(user, host, wanted)?;
        self.relayed = self.relayed.take().or(inherit.relayed());
        Ok(inherit)
    }

    /// The process's end.
    pub(super) fn take_socket(&mut self) -> Option<OwnedFd> {
        self.socket.take()
    }

    /// Receives the streams to relay, once the process is ready.
    pub(super) fn relay(&self) -> Result<Option<Relay>> {
        self.relayed.as_ref().map_or(Ok(None), Relay::receive)
    }
}

fn check_console_socket(terminal: bool, detached: bool, socket: bool) -> Result<()> {
    if terminal && detached && !socket {
        return Err(Error::new(Kind::Usage, "cannot allocate tty if runc will detach without setting console socket")
            .with_origin(Origin::config("/process/terminal"))
            .with_hint("pass --console-socket, or set process.terminal to false"));
    }
    if socket && !(terminal && detached) {
        return Err(Error::new(Kind::Usage, "cannot use console socket if runc will not detach or allocate tty")
            .with_origin(Origin::Flag("--console-socket".into())));
    }
    Ok(())
}
