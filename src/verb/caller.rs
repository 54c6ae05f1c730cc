//! What the caller of `create`, `run` and `exec` passes: a terminal, descriptors, connections.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use windlass_apply::{Inherit, Relay, User, Wanted};
use windlass_base::error::{Doing, Error, Kind, Origin, Result};
use windlass_plan::Host;
use windlass_sys::socket;

/// A connection to the socket that `flag` names.
pub(super) fn connect(path: Option<&PathBuf>, flag: &'static str) -> Result<Option<OwnedFd>> {
    let origin = |error: Error| error.origin(Origin::Flag(flag.into()));
    path.map(|path| socket::connect(path).doing(|| format!("cannot connect to {path:?}")).map_err(origin)).transpose()
}

/// The connection over which the process sends a terminal's master end, or its ends of pipes.
pub(super) struct Stdio {
    /// Whether it gets a terminal.
    wanted: bool,
    /// The process's end.
    socket: Option<OwnedFd>,
    /// Ours, where stdio is relayed.
    ours: Option<OwnedFd>,
}

impl Stdio {
    /// How the terminal of a process is asked for must fit how it is started: detached, it goes to
    /// the connection of `--console-socket`; otherwise we relay it.
    pub(super) fn plan(wanted: bool, detached: bool, socket: Option<OwnedFd>) -> Result<Stdio> {
        check(wanted, detached, socket.is_some())?;
        if !wanted || detached {
            return Ok(Stdio { wanted, socket, ours: None });
        }
        let (ours, theirs) = socket::pair().doing(|| "cannot make a pair of sockets")?;
        Ok(Stdio { wanted, socket: Some(theirs), ours: Some(ours) })
    }

    /// What becomes of our stdio if the process gets no terminal. In the foreground we relay what the process must
    /// not have itself.
    pub(super) fn inherit(&mut self, user: User, host: &Host, detached: bool) -> Result<Inherit> {
        let wanted = match (self.wanted, detached) {
            (true, _) => Wanted::Terminal,
            (false, true) => Wanted::Detached,
            (false, false) => Wanted::Foreground,
        };
        let mut inherit = Inherit::plan(user, host, wanted)?;
        self.ours = self.ours.take().or(inherit.relayed());
        Ok(inherit)
    }

    /// For the process, which sends the master end there.
    pub(super) fn take_socket(&mut self) -> Option<OwnedFd> {
        self.socket.take()
    }

    /// Takes it over, once the process is ready.
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
