//! The container's word that it is ready, passed on to the host's service manager (sd_notify(3)).
//!
//! Where the runtime has `NOTIFY_SOCKET` in its environment, the container gets a socket of its
//! own in its place, as from runc: a directory of the state root is bound at `/run/notify`, `create`
//! makes it, and `start` listens in it. Of what the container sends only one thing counts, a line
//! `READY=1`, and what the host is told is the runtime's own text: `READY=1`, the container's
//! process as `MAINPID=`, and `BARRIER=1`, which returns when all of that was read. Descriptors
//! from the container are closed unseen, which also ends a barrier of its own.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags};

use windlass_base::error::{Doing, Error, Kind, Origin, Result};
use windlass_base::mount::{MountAttributes, MsFlags, Propagation, PropagationChange};
use windlass_plan::{Action, Mount, Plan, RootPath, Source, Step, Target, What};
use windlass_store::notify_directory;
use windlass_sys::poll::{self, Deadline};
use windlass_sys::{fd, socket};

/// The variable that names the socket, for us and for the container.
const VARIABLE: &str = "NOTIFY_SOCKET";
/// The socket in it.
const SOCKET: &str = "notify.sock";
/// Where the directory is in the container.
const INSIDE: &str = "/run/notify";
/// The longest message that counts, in bytes; the service manager's own limit is a page too.
const LONGEST: usize = 4096;
/// How many messages are read in one go.
const BATCH: usize = 64;
/// Seconds that a message to the host may wait for room.
const PATIENCE: u32 = 10;
/// How long to wait for the host to have read everything, as in runc.
const BARRIER: Duration = Duration::from_secs(30);

/// How long the socket stays open after the container's word.
const AFTERWARDS: Duration = Duration::from_millis(20);

/// The host's socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host(String);

impl Host {
    /// From the runtime's own environment; `None` where it is not set, or empty.
    pub fn from_environment() -> Result<Option<Host>> {
        match std::env::var_os(VARIABLE) {
            Some(value) if !value.is_empty() => Host::parse(&value.to_string_lossy()).map(Some),
            _ => Ok(None),
        }
    }

    /// An absolute path, or `@` and an abstract name.
    fn parse(text: &str) -> Result<Host> {
        if text.len() > 1 && text.starts_with(['/', '@']) {
            return Ok(Host(text.into()));
        }
        let msg = format!("{VARIABLE}={text} is neither an absolute path nor an abstract socket");
        Err(Error::new(Kind::Unsupported, msg).origin(reason()).hint("unset NOTIFY_SOCKET for the runtime"))
    }
}

fn reason() -> Origin {
    Origin::Default("NOTIFY_SOCKET is set".into())
}

/// Adds the mount at `/run/notify` to a plan, after those of the configuration, one of which may
/// be `/run`. `state_root` is the absolute directory of all containers' states. `false`: the
/// container has no mounts of its own, so that it cannot be given the socket.
pub fn plan_mount(plan: &mut Plan, state_root: &Path) -> bool {
    let own_mounts = plan.init.iter().any(|step| matches!(step.action, Action::Rootfs { source: Some(_), .. }));
    let is_mount = |step: &Step| matches!(step.action, Action::Mount(_) | Action::Rootfs { .. });
    let Some(last) = plan.init.iter().rposition(is_mount).filter(|_| own_mounts) else { return false };
    let source = plan.add_source(Source {
        path: state_root.join(notify_directory(&plan.id)).to_string_lossy().into_owned(),
        target: INSIDE.into(),
        // Connecting to a socket needs no writable mount.
        set: MountAttributes::RDONLY | MountAttributes::NOSUID | MountAttributes::NODEV | MountAttributes::NOEXEC,
        propagation: vec![PropagationChange::of_mount(Propagation::Private)],
        ..Source::default()
    });
    let mount = Mount {
        destination: RootPath::new(INSIDE).expect("no NUL"),
        target: Target::Any,
        what: What::Bind(source),
        set: MountAttributes::empty(),
        propagation: Vec::new(),
        old_flags: MsFlags::empty(),
        copy_up: false,
        late_readonly: false,
        labelled: false,
    };
    plan.init.insert(last + 1, Step { origin: reason(), action: Action::Mount(mount) });
    true
}

/// Tells the container's process of the socket, in place of what the configuration may say.
pub fn set_variable(environment: &mut Vec<String>) {
    environment.retain(|entry| entry.split_once('=').is_none_or(|(name, _)| name != VARIABLE));
    environment.push(format!("{VARIABLE}={INSIDE}/{SOCKET}"));
}

/// Makes the directory that the plan binds, in the state root. For `create`, before the sources of
/// the plan are opened.
pub fn prepare(root: BorrowedFd<'_>, id: &str) -> Result<()> {
    let directory = notify_directory(id);
    fd::mkdirat(root, &directory, 0o755)
        // Whatever the umask: the container's user must get through.
        .and_then(|()| fd::chmod_at(root, &directory, 0o755))
        .doing(|| "cannot make the directory of the notify socket")
        .map_err(|error| error.origin(reason()))
}

/// Why waiting for the container ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was ready, and the host knows.
    Ready,
    /// It ended first.
    Ended,
}

/// The two sockets.
#[derive(Debug)]
pub struct Notify {
    container: OwnedFd,
    host: Option<OwnedFd>,
}

impl Notify {
    /// Listens in the directory that `prepare` made in the state root. For `start` and `run`, before init
    /// gets the word. `None`: `create` did not make it.
    pub fn listen(root: BorrowedFd<'_>, id: &str, host: &Host) -> Result<Option<Notify>> {
        let connect = || {
            let host = socket::connect_datagram(&host.0, PATIENCE)
                .doing(|| format!("cannot reach the service manager at {:?}", host.0));
            host.map(Some).map_err(|error| error.origin(reason()))
        };
        Notify::listen_and(root, id, connect)
    }

    /// The same where the host does not listen: nothing is passed on.
    pub fn listen_for_nobody(root: BorrowedFd<'_>, id: &str) -> Result<Option<Notify>> {
        Notify::listen_and(root, id, || Ok(None))
    }

    fn listen_and(
        root: BorrowedFd<'_>,
        id: &str,
        connect: impl FnOnce() -> Result<Option<OwnedFd>>,
    ) -> Result<Option<Notify>> {
        let origin = |error: Error| error.origin(reason());
        let directory =
            match fd::openat(root, notify_directory(id), OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW, 0) {
                Err(failed) if failed.errno == Errno::ENOENT => return Ok(None),
                other => other.doing(|| "cannot open the directory of the notify socket").map_err(origin)?,
            };
        let host = connect()?;
        let container = socket::bind_datagram_at(directory.as_fd(), SOCKET)
            .doing(|| "cannot make the notify socket")
            .map_err(origin)?;
        Ok(Some(Notify { container, host }))
    }

    /// To poll(2) for `POLLIN`, before [`Notify::is_ready`].
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.container.as_fd()
    }

    /// Reads what the container has sent, never waiting and never without end, and says whether
    /// that it is ready is among it.
    pub fn is_ready(&self) -> Result<bool> {
        let mut buffer = [0; LONGEST];
        for _ in 0..BATCH {
            let doing = || "cannot read from the notify socket";
            let Some(length) = socket::receive_datagram(self.fd(), &mut buffer).doing(doing)? else { break };
            // One that was cut off does not count.
            if buffer.get(..length).is_some_and(says_ready) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Tells the host that the service is ready and that `main_pid` is its main process.
    pub fn forward(&self, main_pid: i32) -> Result<()> {
        let Some(host) = &self.host else { return Ok(()) };
        let send = |text: &str| socket::send(host.as_fd(), text.as_bytes(), &[]);
        send("READY=1\n")
            .doing(|| "cannot tell the service manager that the container is ready")
            .map_err(|e| e.origin(reason()))?;
        if let Err(failed) = send(&format!("MAINPID={main_pid}\n")) {
            ::log::warn!("cannot tell the service manager the container's process: {failed}");
        }
        Ok(())
    }

    /// Waits until the host has read all that it was sent. A process that exits before that may
    /// not be found in its service any more when its message is read. Failures are only logged.
    pub fn wait_until_read(&self) {
        match self.barrier(BARRIER) {
            Ok(true) => {}
            Ok(false) => ::log::warn!("the service manager did not answer within {} s", BARRIER.as_secs()),
            Err(failed) => ::log::warn!("cannot wait for the service manager: {failed}"),
        }
    }

    /// Sends the end of a pipe along, which its receiver closes when it is through; `false` when
    /// it does not within `limit`.
    fn barrier(&self, limit: Duration) -> windlass_sys::Result<bool> {
        let Some(host) = &self.host else { return Ok(true) };
        let (read, write) = socket::pipe()?;
        socket::send(host.as_fd(), b"BARRIER=1", &[write.as_fd()])?;
        drop(write);
        // Without asked-for events only the hang-up is reported.
        poll::poll(&mut [PollFd::new(read.as_fd(), PollFlags::empty())], Deadline::after(limit))
    }

    /// Waits a moment for what follows the word at once: systemd-notify(1) sends a barrier of its
    /// own and fails where nobody listens any more. It ends when this process closes the socket.
    fn hear_out(&self) {
        let _ = poll::readable(self.fd(), Deadline::after(AFTERWARDS));
    }

    /// Waits until the container says that it is ready, or its init (`pidfd`) ends, and passes
    /// that on: what a `start` and a detached `run` end with. There is no limit in time, as a
    /// service may take its time to get ready; the service manager has one of its own.
    pub fn wait_and_forward(&self, pidfd: BorrowedFd<'_>, main_pid: i32) -> Result<Outcome> {
        loop {
            let mut fds = [self.fd(), pidfd].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            poll::poll(&mut fds, Deadline::NEVER).doing(|| "cannot wait for the container to be ready")?;
            let ready = fds.map(|fd| fd.any().unwrap_or(true));
            // In this order: a program may say that it is ready and be through at once.
            if ready[0] && self.is_ready()? {
                self.forward(main_pid)?;
                self.wait_until_read();
                self.hear_out();
                return Ok(Outcome::Ready);
            }
            // What others still send is not waited for.
            if ready[1] {
                return Ok(Outcome::Ended);
            }
        }
    }
}

/// Whether a message, which is lines of `NAME=value`, has the one that counts.
fn says_ready(message: &[u8]) -> bool {
    message.split(|byte| *byte == b'\n').any(|line| line == b"READY=1")
}

#[cfg(test)]
mod tests;
