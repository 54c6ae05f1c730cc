//! The control socket of a shim whose protocol has none: a front end around another.
//!
//! The socket is `@control/PID` in the directory of shims. It has the requests `hello` and `upgrade` of the
//! engine-neutral protocol. Everything else works without it, so the shim goes on if the socket cannot be made.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use serde_json::{Value as Json, json};

use super::created::CreatedName;
use super::listener::Listener;
use super::neutral::connection::{Connection, NextLine};
use super::neutral::wire::{WireRequest, answer};
use super::upgradable::{self, Mode, Upgradable};
use crate::image::format::{Content, Encoder, Value, table};
use crate::image::watching::all;
use crate::{Code, Event, Front, Ready, Refusal, Reply, Supervisor, WaitToken};
use windlass_sys::{fd, socket};

/// The directory of the sockets, in the directory of shims. No container has this name, since no id has an `@`.
pub(super) const DIRECTORY: &str = "@control";

/// The key of the listener, above those of the front ends. The keys of its clients follow.
const LISTENER: u64 = 1 << 55;

/// Most clients at once.
const CLIENTS: usize = 16;

/// How many sockets of other shims a starting shim checks, to remove those of killed shims.
const FEW: usize = 4;

/// How many sockets a command checks that cleans up after one shim. Usually the socket of that shim is among them.
pub(super) const MANY: usize = 256;

/// How many requests of one client are served in a turn of the loop.
const TURN: usize = 16;

/// A front end with a control socket.
#[derive(Debug)]
pub(super) struct Controlled<F> {
    pub(super) front: F,
    control: Option<Control>,
}

/// The socket and its clients.
#[derive(Debug)]
struct Control {
    path: PathBuf,
    made: CreatedName,
    listener: Listener,
    clients: Vec<ControlClient>,
    next_key: u64,
}

#[derive(Debug)]
struct ControlClient {
    connection: Connection,
    /// The upgrade that the client waits for, and the number of the request.
    waits: Option<(WaitToken, u64)>,
}

table! {
    Control { 1 path, 2 made, 3 listener, 4 clients, 5 next_key }
    ControlClient { 1 connection, 2 waits }
}

impl Control {
    fn open() -> windlass_sys::Result<Control> {
        let directory = windlass_args::Environment::current().shims().join(DIRECTORY);
        let _ = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory);
        let opened = fd::open(&directory, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW)?;
        if let Some(why) = fd::why_untrusted(&fd::stat(opened.as_fd())?) {
            let call = format!("{directory:?} {why}").into();
            return Err(windlass_sys::SyscallError { call, errno: Errno::EPERM });
        }
        sweep(opened.as_fd(), &directory, FEW);
        let name = std::process::id().to_string();
        let listening = match socket::listen_stream_at(opened.as_fd(), &name, 0o600) {
            // A shim with the same process id has left the socket. A shim in another PID namespace may live.
            Err(failed) if failed.errno == Errno::EADDRINUSE && !is_live(&directory.join(&name)) => {
                fd::unlinkat(opened.as_fd(), &name)?;
                socket::listen_stream_at(opened.as_fd(), &name, 0o600)
            }
            other => other,
        };
        let made = CreatedName::inspect(opened.as_fd(), &name);
        let listener = Listener::new(listening?, LISTENER);
        Ok(Control { path: directory.join(name), made: made?, listener, clients: Vec::new(), next_key: LISTENER + 1 })
    }

    fn ready(&mut self, mode: Mode, key: u64, ready: Ready, core: &mut Supervisor) {
        if key == LISTENER {
            for client in self.listener.clients(&core.poll, usize::MAX, |_| ()) {
                self.next_key += 1;
                if self.clients.len() < CLIENTS
                    && let Ok(connection) = Connection::new(self.next_key, client, &core.poll)
                {
                    self.clients.push(ControlClient { connection, waits: None });
                }
            }
            return;
        }
        let Some(at) = self.clients.iter().position(|client| client.connection.key == key) else { return };
        if !self.clients[at].ready(mode, ready, core) {
            self.clients.remove(at);
        }
    }

    /// Whether the event was an answer for a client.
    fn finished(&mut self, event: &Event, core: &Supervisor) -> bool {
        let Event::Finished { token: of, result } = event else { return false };
        let waits = |client: &ControlClient| client.waits.is_some_and(|(token, _)| token == *of);
        let Some(at) = self.clients.iter().position(waits) else { return false };
        let client = &mut self.clients[at];
        if let Some((_, seq)) = client.waits.take() {
            let result = result.as_ref().map(|_| json!({})).map_err(Refusal::clone);
            if !client.connection.send(&answer(seq, result)) {
                self.clients.remove(at);
                return true;
            }
        }
        client.connection.watch(&core.poll);
        true
    }
}

impl ControlClient {
    /// Serves a client. Returns false if it has left.
    fn ready(&mut self, mode: Mode, ready: Ready, core: &mut Supervisor) -> bool {
        if ready.write && !self.connection.flush() {
            return false;
        }
        for _ in 0..TURN {
            match self.connection.receive() {
                NextLine::Line(line) => {
                    if !self.line(mode, &line, core) {
                        return false;
                    }
                }
                NextLine::Nothing => break,
                NextLine::Gone => return false,
            }
        }
        if ready.hangup || (self.connection.half_closed && self.waits.is_none() && self.connection.is_idle()) {
            return false;
        }
        self.connection.watch(&core.poll);
        true
    }

    fn line(&mut self, mode: Mode, line: &[u8], core: &mut Supervisor) -> bool {
        let Ok(request) = serde_json::from_slice::<WireRequest<'_>>(line) else { return false };
        let seq = request.seq;
        let result = match request.op {
            "hello" => Ok(hello(mode, core)),
            "upgrade" => match upgradable::request_upgrade(self.connection.passed.take(), core) {
                Ok(Reply::Pending(token)) => {
                    self.waits = Some((token, seq));
                    return true;
                }
                Ok(_) => Ok(json!({})),
                Err(refusal) => Err(refusal),
            },
            other => Err(Refusal::new(Code::Invalid, format!("there is no operation {other:?}"))),
        };
        self.connection.send(&answer(seq, result))
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.made.remove_path(&self.path);
    }
}

/// Removes the sockets of killed shims from the directory. Checks at most `most` names.
pub(super) fn sweep(opened: BorrowedFd<'_>, directory: &Path, most: usize) {
    let names = windlass_sys::directory::names(opened).unwrap_or_default();
    for name in names.iter().take(most) {
        // A shim in another PID namespace may live, and a shim that is just starting listens soon.
        if has_ended(name) && !is_live(&directory.join(name)) {
            let _ = fd::unlinkat(opened, name);
        }
    }
}

/// Removes the sockets of killed shims from the usual directory.
pub(super) fn sweep_all() {
    let directory = windlass_args::Environment::current().shims().join(DIRECTORY);
    if let Ok(opened) = fd::open(&directory, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW) {
        sweep(opened.as_fd(), &directory, MANY);
    }
}

/// Whether the process with this number has ended. A killed shim stays a zombie until its parent reaps it.
fn has_ended(pid: &OsStr) -> bool {
    let stat = pid.to_str().and_then(|pid| pid.parse().ok()).map(windlass_store::process_stat);
    stat.is_some_and(|stat| stat.is_ok_and(|stat| stat.is_none_or(|stat| stat.has_ended())))
}

/// Whether a shim listens at the path.
fn is_live(path: &Path) -> bool {
    !matches!(socket::connect_now(path), Err(failed) if matches!(failed.errno, Errno::ECONNREFUSED | Errno::ENOENT))
}

fn hello(mode: Mode, core: &Supervisor) -> Json {
    let mut hello = upgradable::describe(mode, core);
    hello["ids"] = core.container_ids().into();
    hello
}

impl<F: Upgradable> Controlled<F> {
    /// Opens the socket.
    pub(super) fn new(front: F, core: &Supervisor) -> Controlled<F> {
        let opened = Control::open().and_then(|mut control| control.listener.watch(&core.poll).map(|()| control));
        let control = opened.map_err(|failed| front.log(&format!("there is no control socket: {failed}"))).ok();
        Controlled { front, control }
    }
}

impl<F: Upgradable> Front for Controlled<F> {
    fn ready(&mut self, key: u64, ready: Ready, core: &mut Supervisor) {
        match &mut self.control {
            Some(control) if key >= LISTENER => control.ready(F::MODE, key, ready, core),
            _ => self.front.ready(key, ready, core),
        }
    }

    fn event(&mut self, event: Event, core: &mut Supervisor) {
        if !self.control.as_mut().is_some_and(|control| control.finished(&event, core)) {
            self.front.event(event, core);
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let control = self.control.as_ref().and_then(|control| control.listener.deadline());
        self.front.deadline().into_iter().chain(control).min()
    }

    fn due(&mut self, now: Instant, core: &mut Supervisor) {
        if let Some(control) = &mut self.control {
            control.listener.due(now, &core.poll);
        }
        if self.front.deadline().is_some_and(|deadline| deadline <= now) {
            self.front.due(now, core);
        }
    }

    fn finished(&self, core: &Supervisor) -> Option<i32> {
        self.front.finished(core)
    }
}

impl<F: Upgradable> Value for Controlled<F> {
    fn write(&self, to: &mut Encoder) {
        to.put(1, true, &self.front);
        to.put(2, true, &self.control);
    }

    fn read(content: Content<'_>) -> Controlled<F> {
        let mut fields = crate::image::format::Fields::of(content, "Controlled");
        let controlled = Controlled { front: fields.get(1), control: fields.get(2) };
        fields.end();
        controlled
    }
}

impl<F: Upgradable> Upgradable for Controlled<F> {
    const MODE: Mode = F::MODE;

    fn watch_again(&mut self, core: &mut Supervisor) -> windlass_sys::Result<()> {
        let control = self.control.iter().flat_map(|control| {
            let clients = control.clients.iter().map(|client| client.connection.watch_again(&core.poll));
            std::iter::once(control.listener.watch_again(&core.poll)).chain(clients)
        });
        all(control).and(self.front.watch_again(core))
    }

    fn log(&self, text: &str) {
        self.front.log(text);
    }
}
