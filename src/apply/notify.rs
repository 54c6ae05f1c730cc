//! Forwarding the container's readiness to the host's service manager (sd_notify(3)).
//!
//! If the runtime has `NOTIFY_SOCKET` in its environment, the container gets a socket of its own instead, as
//! from runc: `create` makes a directory in the state root, which is bound at `/run/notify`, and `start`
//! listens in it. Of what the container sends, only a line `READY=1` counts. The runtime then sends its own
//! messages to the service manager: `READY=1`, the container's process as `MAINPID=`, and `BARRIER=1`, which returns
//! when the service manager has read the others. Descriptors that the container sends are closed, which also ends a
//! barrier that the container has sent.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags};

use windlass_base::error::{Error, Kind, Origin, Result, WithContext};
use windlass_base::mount::{MountAttributes, MsFlags, Propagation, PropagationChange};
use windlass_plan::{Action, Mount, MountKind, Plan, Resolution, RootPath, Source, Step};
use windlass_store::notify_directory;
use windlass_sys::pipe;
use windlass_sys::poll::{self, Deadline};
use windlass_sys::{fd, socket};

/// The variable that names the socket, in our environment and in the container's.
const VARIABLE: &str = "NOTIFY_SOCKET";
/// The name of the socket in its directory.
const SOCKET: &str = "notify.sock";
/// The path of the directory in the container.
const INSIDE: &str = "/run/notify";
/// The longest message that counts, in bytes; the service manager's own limit is a page too.
const LONGEST: usize = 4096;
/// How many messages are read in one go.
const BATCH: usize = 64;
/// Seconds that a message to the service manager may wait for room.
const SEND_TIMEOUT: u32 = 10;
/// How long to wait until the service manager has read everything, as in runc.
const BARRIER: Duration = Duration::from_secs(30);

/// How long the socket stays open after the container has reported that it is ready.
const LINGER: Duration = Duration::from_millis(20);

/// The socket of the host's service manager.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceManager(String);

impl ServiceManager {
    /// Reads the runtime's environment; `None` if the variable is not set or is empty.
    pub fn from_environment() -> Result<Option<ServiceManager>> {
        match std::env::var_os(VARIABLE) {
            Some(value) if !value.is_empty() => ServiceManager::parse(&value.to_string_lossy()).map(Some),
            _ => Ok(None),
        }
    }

    /// Parses an absolute path, or `@` and an abstract name.
    fn parse(text: &str) -> Result<ServiceManager> {
        if text.len() > 1 && text.starts_with(['/', '@']) {
            return Ok(ServiceManager(text.into()));
        }
        let msg = format!("{VARIABLE}={text} is neither an absolute path nor an abstract socket");
        Err(Error::new(Kind::Unsupported, msg).with_origin(reason()).with_hint("unset NOTIFY_SOCKET for the runtime"))
    }
}

fn reason() -> Origin {
    Origin::Default("NOTIFY_SOCKET is set".into())
}

/// Adds the mount at `/run/notify` to a plan, after the mounts of the configuration, one of which may be `/run`.
/// `state_root` is the absolute directory of all containers' states. Returns false if the container has no mounts of
/// its own, so that it cannot be given the socket.
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
        resolution: Resolution::InRoot,
        what: MountKind::Bind(source),
        set: MountAttributes::empty(),
        propagation: Vec::new(),
        old_flags: MsFlags::empty(),
        copy_up: false,
        late_readonly: false,
        labelled: false,
        root_label: None,
    };
    plan.init.insert(last + 1, Step { origin: reason(), action: Action::Mount(mount) });
    true
}

/// Sets the container's `NOTIFY_SOCKET`, whatever the configuration says.
pub fn set_variable(environment: &mut Vec<String>) {
    environment.retain(|entry| entry.split_once('=').is_none_or(|(name, _)| name != VARIABLE));
    environment.push(format!("{VARIABLE}={INSIDE}/{SOCKET}"));
}

/// Makes the directory that the plan binds, in the state root. For `create`, before the sources of
/// the plan are opened.
pub fn prepare(root: BorrowedFd<'_>, id: &str) -> Result<()> {
    let directory = notify_directory(id);
    fd::mkdirat(root, &directory, 0o755)
        // The container's user must be able to search it, whatever the umask is.
        .and_then(|()| fd::chmod_at(root, &directory, 0o755))
        .with_context(|| "cannot make the directory of the notify socket")
        .map_err(|error| error.with_origin(reason()))
}

/// Why waiting for the container ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// The container was ready, and the service manager was told.
    Ready,
    /// The container ended first.
    Ended,
}

/// The socket on which the container reports, and the one to the service manager. Without the latter, nothing is
/// forwarded.
#[derive(Debug)]
pub struct Notify {
    container: OwnedFd,
    manager: Option<OwnedFd>,
}

impl Notify {
    /// Listens in the directory that `prepare` made in the state root. For `start` and `run`, before init opens the
    /// start barrier. Returns `None` if `create` did not make it.
    pub fn listen(root: BorrowedFd<'_>, id: &str, manager: &ServiceManager) -> Result<Option<Notify>> {
        let connect = || {
            let connected = socket::connect_datagram(&manager.0, SEND_TIMEOUT)
                .with_context(|| format!("cannot reach the service manager at {:?}", manager.0));
            connected.map(Some).map_err(|error| error.with_origin(reason()))
        };
        Notify::listen_and(root, id, connect)
    }

    /// Listens although no service manager does: nothing is forwarded.
    pub fn listen_without_forwarding(root: BorrowedFd<'_>, id: &str) -> Result<Option<Notify>> {
        Notify::listen_and(root, id, || Ok(None))
    }

    fn listen_and(
        root: BorrowedFd<'_>,
        id: &str,
        connect: impl FnOnce() -> Result<Option<OwnedFd>>,
    ) -> Result<Option<Notify>> {
        let origin = |error: Error| error.with_origin(reason());
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
        let found = fd::openat_if_exists(root, Path::new(&notify_directory(id)), flags);
        let found = found.with_context(|| "cannot open the directory of the notify socket").map_err(origin)?;
        let Some(directory) = found else { return Ok(None) };
        let manager = connect()?;
        let container = socket::bind_datagram_at(directory.as_fd(), SOCKET)
            .with_context(|| "cannot make the notify socket")
            .map_err(origin)?;
        Ok(Some(Notify { container, manager }))
    }

    /// The descriptor to poll(2) for `POLLIN`, before [`Notify::is_ready`].
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.container.as_fd()
    }

    /// Reads what the container has sent, without waiting and at most a batch of messages. Returns whether the
    /// container is ready.
    pub fn is_ready(&self) -> Result<bool> {
        let mut buffer = [0; LONGEST];
        for _ in 0..BATCH {
            let context = || "cannot read from the notify socket";
            let Some(length) = socket::receive_datagram(self.fd(), &mut buffer).with_context(context)? else { break };
            // A message that was cut off does not count.
            if buffer.get(..length).is_some_and(says_ready) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Tells the service manager that the service is ready and that `main_pid` is its main process.
    pub fn forward(&self, main_pid: i32) -> Result<()> {
        let Some(manager) = &self.manager else { return Ok(()) };
        let send = |text: &str| socket::send(manager.as_fd(), text.as_bytes(), &[]);
        send("READY=1\n")
            .with_context(|| "cannot tell the service manager that the container is ready")
            .map_err(|e| e.with_origin(reason()))?;
        if let Err(failed) = send(&format!("MAINPID={main_pid}\n")) {
            ::log::warn!("cannot tell the service manager the container's process: {failed}");
        }
        Ok(())
    }

    /// Waits until the service manager has read everything. It looks for the sender of a message when it reads it, so a
    /// process that exits earlier is not found. Failures are only logged.
    pub fn wait_until_read(&self) {
        match self.barrier(BARRIER) {
            Ok(true) => {}
            Ok(false) => ::log::warn!("the service manager did not answer within {} s", BARRIER.as_secs()),
            Err(failed) => ::log::warn!("cannot wait for the service manager: {failed}"),
        }
    }

    /// Sends the end of a pipe, which the receiver closes when it has read everything before it. Returns false if that
    /// takes longer than `limit`.
    fn barrier(&self, limit: Duration) -> windlass_sys::Result<bool> {
        let Some(manager) = &self.manager else { return Ok(true) };
        let (read, write) = pipe::new()?;
        socket::send(manager.as_fd(), b"BARRIER=1", &[write.as_fd()])?;
        drop(write);
        // poll(2) reports the hang-up without being asked for any event.
        poll::poll(&mut [PollFd::new(read.as_fd(), PollFlags::empty())], Deadline::after(limit))
    }

    /// Keeps the socket open for a moment: systemd-notify(1) sends a barrier after its message, and fails if
    /// nobody listens any more. The barrier ends when this process closes the socket.
    fn linger(&self) {
        let _ = poll::readable(self.fd(), Deadline::after(LINGER));
    }

    /// Waits until the container is ready and tells the service manager, or until its init (`pidfd`) ends. A `start`
    /// and a detached `run` end with this. There is no time limit, because the service manager has one.
    pub fn wait_and_forward(&self, pidfd: BorrowedFd<'_>, main_pid: i32) -> Result<Readiness> {
        loop {
            let mut fds = [self.fd(), pidfd].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            poll::poll(&mut fds, Deadline::NEVER).with_context(|| "cannot wait for the container to be ready")?;
            let ready = fds.map(|fd| fd.any().unwrap_or(true));
            // Readiness comes first: a program may report that it is ready and end at once.
            if ready[0] && self.is_ready()? {
                self.forward(main_pid)?;
                self.wait_until_read();
                self.linger();
                return Ok(Readiness::Ready);
            }
            // Other processes of the container may still send something, which is not waited for.
            if ready[1] {
                return Ok(Readiness::Ended);
            }
        }
    }
}

/// Whether a message, which has lines `NAME=value`, has the line `READY=1`.
fn says_ready(message: &[u8]) -> bool {
    message.split(|byte| *byte == b'\n').any(|line| line == b"READY=1")
}

#[cfg(test)]
mod tests;
