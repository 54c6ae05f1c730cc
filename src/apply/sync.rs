//! The protocol between the runtime and init, over one pair of message sockets.
//!
//! ```text
//! init                                runtime
//!   Place ---------------------------> put the first process into the cgroup (some `exec`s)
//!       <------------------------- go on
//!   Spawned(pid) + pidfd ------------>           (only with an intermediate process)
//!   MapIds --------------------------> write uid_map, gid_map
//!       <------------------------- go on
//!   Sources(which) ------------------> copy mounts in init's mount namespace
//!       <------------------------- go on + a mount each, of the first ones
//!   RootDirectory -------------------> open it in init's mount namespace
//!       <------------------------- go on + its descriptor
//!   Scope ---------------------------> wait for systemd, set the limits
//!       <------------------------- go on
//!   NetDevices ----------------------> move interfaces
//!       <------------------------- go on
//!   RuntimeHooks --------------------> run prestart and createRuntime hooks
//!       <------------------------- go on
//!   Listener(fd number) -------------> pidfd_getfd, hand the listener on
//!       <------------------------- go on
//!   Ready ---------------------------> write the pid file, record the process
//!       <------------------------- go on (create: wait for `start`; run: execute)
//!   Failed(error), Log(line)           at any time, never answered
//! ```
//!
//! The end of the stream before Ready means that init died. After Ready it means that the program was executed, or that
//! init died; `ended_unexecuted` tells which.
//!
//! A new question is a variant of [`Question`], its letter in [`decode`], a method of [`InitSync`], and an arm in the
//! handlers of `Launch`.
//!
//! Init sends its messages with write(2) alone. A filter with a listener must not notify of write(2)
//! (`plan` refuses it), and any other call could wait for an agent that does not listen yet.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};

use windlass_base::error::{Error, Kind, Result, WithContext};
use windlass_plan::SourceId;
use windlass_sys::poll::{self, Deadline};
use windlass_sys::socket;

/// A message of init.
#[derive(Debug)]
pub enum Message {
    /// The first process, which is init or the intermediate one, asks to be put into the container's cgroup.
    Place,
    /// The intermediate process has made init: its process id and its pidfd.
    Spawned(i32, OwnedFd),
    /// Init asks for something, and waits for the answer.
    Ask(Question),
    /// All is prepared, and init waits for the start barrier.
    Ready,
    /// A step failed.
    Failed(Error),
    /// A line for the debug log.
    Log(String),
    /// The other end is closed.
    End,
}

/// A request of init to the runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Write the id maps.
    MapIds,
    /// Copy these sources of mounts in init's mount namespace: init's user may not reach them.
    Sources(SourceSet),
    /// Open the directory of the root filesystem there.
    RootDirectory,
    /// Have systemd move init into its scope, and set the limits that systemd does not set.
    Scope,
    /// Move the network interfaces in.
    NetDevices,
    /// Run the hooks that run in the runtime's namespaces.
    RuntimeHooks,
    /// Hand on the seccomp listener, which is at this descriptor number.
    Listener(i32),
}

impl Question {
    /// The runtime's action for the request, for the debug log.
    pub fn what(self) -> &'static str {
        match self {
            Question::MapIds => "write the id maps",
            Question::Sources(_) => "copy mounts that init's user may not reach",
            Question::RootDirectory => "open the root filesystem's directory",
            Question::Scope => "have systemd place it",
            Question::NetDevices => "move network devices in",
            Question::RuntimeHooks => "run the prestart and createRuntime hooks",
            Question::Listener(_) => "hand on the seccomp listener",
        }
    }
}

/// A choice of a plan's sources: one, and any of the 63 after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceSet {
    first: u32,
    /// Bit N stands for the source at `first + N`; bit 0 is always set.
    more: u64,
}

impl SourceSet {
    /// Chooses `first`, and all of `others` that are among the 63 after it.
    pub fn new(first: SourceId, others: impl IntoIterator<Item = SourceId>) -> SourceSet {
        let first = first.index();
        let near = others.into_iter().filter_map(|other| other.index().checked_sub(first)).filter(|by| *by < 64);
        SourceSet { first: first as u32, more: near.fold(1, |all, by| all | 1 << by) }
    }

    /// The sources, in order.
    pub fn sources(self) -> impl Iterator<Item = SourceId> {
        (0..64).filter(move |by| self.more >> by & 1 != 0).map(move |by| SourceId::new(self.first as usize + by))
    }
}

/// The longest message: an error with all its faults, cut where it is sent.
const LONGEST: usize = 8 * 1024;

/// Init's end of the pair.
pub struct InitSync(OwnedFd);

impl InitSync {
    /// Takes init's end of the pair.
    pub fn new(socket: OwnedFd) -> InitSync {
        InitSync(socket)
    }

    /// The socket.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn write(&self, bytes: &[u8]) -> Result<()> {
        windlass_sys::fd::write_once(self.0.as_fd(), bytes).with_context(|| "cannot send to the runtime")
    }

    fn ask(&self, bytes: &[u8]) -> Result<()> {
        self.write(bytes)?;
        let mut answer = [0; 1];
        loop {
            match nix::unistd::read(&self.0, &mut answer) {
                Err(Errno::EINTR) => {}
                Err(errno) => {
                    let failed = windlass_sys::SyscallError { call: "read(the runtime's answer)".into(), errno };
                    return Err(failed.context("cannot receive from the runtime"));
                }
                Ok(1) => return Ok(()),
                // The runtime died and has not recorded the container, so it must not go on.
                Ok(_) => windlass_sys::process::exit_now(1),
            }
        }
    }

    /// Waits until this process, the first, is in the container's cgroup.
    pub fn place(&self) -> Result<()> {
        self.ask(b"A")
    }

    /// Waits until the id maps are written.
    pub fn map_ids(&self) -> Result<()> {
        self.ask(b"M")
    }

    /// Waits for copies of these sources. The first is always among them; others are missing if the runtime could not
    /// copy them.
    pub fn sources(&self, wanted: SourceSet) -> Result<Vec<OwnedFd>> {
        let mut bytes = [b'B'; 13];
        bytes[1..5].copy_from_slice(&wanted.first.to_ne_bytes());
        bytes[5..].copy_from_slice(&wanted.more.to_ne_bytes());
        self.ask_for_descriptors(&bytes)
    }

    /// Waits for the directory of the root filesystem.
    pub fn root_directory(&self) -> Result<OwnedFd> {
        let missing_descriptor = || Error::new(Kind::Protocol, "the runtime has sent no directory");
        self.ask_for_descriptors(b"D")?.pop().ok_or_else(missing_descriptor)
    }

    fn ask_for_descriptors(&self, bytes: &[u8]) -> Result<Vec<OwnedFd>> {
        self.write(bytes)?;
        match socket::receive_all(self.0.as_fd(), &mut [0; 1]).with_context(|| "cannot receive from the runtime")? {
            (0, _) => windlass_sys::process::exit_now(1),
            (_, fds) => Ok(fds),
        }
    }

    /// Waits until systemd has moved this process into its scope.
    pub fn scope(&self) -> Result<()> {
        self.ask(b"C")
    }

    /// Waits until the network interfaces are moved in.
    pub fn net_devices(&self) -> Result<()> {
        self.ask(b"N")
    }

    /// Waits until the runtime's hooks have run.
    pub fn runtime_hooks(&self) -> Result<()> {
        self.ask(b"H")
    }

    /// Waits until the runtime has sent the listener `fd` to its agent.
    pub fn listener(&self, fd: BorrowedFd<'_>) -> Result<()> {
        let mut bytes = [b'S', 0, 0, 0, 0];
        bytes[1..].copy_from_slice(&fd.as_raw_fd().to_ne_bytes());
        self.ask(&bytes)
    }

    /// Waits until the runtime has recorded this process.
    pub fn ready(&self) -> Result<()> {
        self.ask(b"R")
    }

    /// Reports a failure. If even that fails, nothing is left to do.
    pub fn failed(&self, error: &Error) {
        let _ = self.write(&encode_failure(error));
    }

    /// Sends a line for the debug log.
    pub fn log(&self, line: &str) {
        let mut bytes = vec![b'L'];
        bytes.extend(line.bytes().take(LONGEST - 1));
        let _ = self.write(&bytes);
    }

    /// Names init, from the intermediate process.
    pub fn spawned(&self, pid: i32, pidfd: BorrowedFd<'_>) -> Result<()> {
        let mut bytes = [b'P', 0, 0, 0, 0];
        bytes[1..].copy_from_slice(&pid.to_ne_bytes());
        socket::send(self.0.as_fd(), &bytes, &[pidfd]).with_context(|| "cannot send to the runtime")
    }
}

/// A failure as a message, for the pair of sockets and for the start socket.
pub fn encode_failure(error: &Error) -> Vec<u8> {
    let encode = |error: &Error| {
        let mut bytes = vec![b'F'];
        serde_json::to_writer(&mut bytes, error).expect("plain data");
        bytes
    };
    let mut bytes = encode(error);
    // One character can take six bytes of JSON, and there are several texts.
    let mut chars = LONGEST / 2;
    while bytes.len() > LONGEST && chars > 0 {
        bytes = encode(&error.shortened(chars));
        chars /= 2;
    }
    bytes
}

/// The runtime's end of the pair.
pub struct RuntimeSync {
    socket: OwnedFd,
    buffer: Vec<u8>,
    /// A pidfd of the intermediate process, until it has named the process that it makes.
    intermediate: Option<OwnedFd>,
    /// A message that the new process sent before it was named.
    early: Option<Message>,
}

impl RuntimeSync {
    /// Takes the runtime's end of the pair.
    pub fn new(socket: OwnedFd) -> RuntimeSync {
        RuntimeSync { socket, buffer: Vec::new(), intermediate: None, early: None }
    }

    /// Adds an intermediate process, which sends over the same socket as the process that it makes. Requests of the new
    /// process wait until it is named; earlier, they would act on the intermediate process. `intermediate` is a pidfd:
    /// if that process dies before it has named the new one, the new one keeps the socket open, and only the pidfd
    /// reports the death.
    pub fn with_intermediate(mut self, intermediate: Option<OwnedFd>) -> RuntimeSync {
        self.intermediate = intermediate;
        self
    }

    /// The next message.
    pub fn receive(&mut self) -> Result<Message> {
        if self.intermediate.is_none()
            && let Some(message) = self.early.take()
        {
            return Ok(message);
        }
        loop {
            if let Some(intermediate) = &self.intermediate
                && died_silently(intermediate.as_fd(), self.socket.as_fd())?
            {
                return Ok(Message::End);
            }
            match self.read()? {
                // There is at most one: a process that asks waits for the answer.
                message @ (Message::Ask(_) | Message::Ready) if self.intermediate.is_some() => {
                    self.early = Some(message)
                }
                Message::Spawned(..) if self.intermediate.take().is_none() => {
                    return Err(Error::new(
                        Kind::Protocol,
                        "a process names another one, but there is no intermediate process",
                    ));
                }
                message => return Ok(message),
            }
        }
    }

    fn read(&mut self) -> Result<Message> {
        self.buffer.resize(LONGEST, 0);
        let (n, fd) =
            socket::receive(self.socket.as_fd(), &mut self.buffer).with_context(|| "cannot receive from init")?;
        decode(&self.buffer[..n], fd)
    }

    /// Lets init go on.
    pub fn go_on(&self) -> Result<()> {
        self.answer(&[])
    }

    /// Answers a question; descriptors go along.
    pub fn answer(&self, fds: &[OwnedFd]) -> Result<()> {
        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(OwnedFd::as_fd).collect();
        match socket::send(self.socket.as_fd(), b"+", &fds) {
            // Init died; the next message is the end.
            Err(failed) if failed.errno == Errno::EPIPE => Ok(()),
            other => other.with_context(|| "cannot send to init"),
        }
    }
}

/// Waits until there is a message or the intermediate process has ended. Returns true if it has ended and no message is
/// left to read.
fn died_silently(intermediate: BorrowedFd<'_>, socket: BorrowedFd<'_>) -> Result<bool> {
    let mut fds = [socket, intermediate].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
    poll::poll(&mut fds, Deadline::NEVER).with_context(|| "cannot wait for init")?;
    Ok(!fds[0].any().unwrap_or(true))
}

/// Reads one message.
pub fn decode(bytes: &[u8], fd: Option<OwnedFd>) -> Result<Message> {
    let unexpected = || Error::new(Kind::Protocol, "init sent a message that is not one");
    let number = || bytes.get(1..5).and_then(|n| n.try_into().ok()).map(i32::from_ne_bytes).ok_or_else(unexpected);
    Ok(match bytes.first() {
        None => Message::End,
        Some(b'P') => Message::Spawned(number()?, fd.ok_or_else(unexpected)?),
        Some(b'A') => Message::Place,
        Some(b'M') => Message::Ask(Question::MapIds),
        Some(b'B') => {
            let more = bytes.get(5..13).and_then(|n| n.try_into().ok()).map(u64::from_ne_bytes);
            let more = more.filter(|more| more & 1 != 0).ok_or_else(unexpected)?;
            Message::Ask(Question::Sources(SourceSet { first: number()?.cast_unsigned(), more }))
        }
        Some(b'D') => Message::Ask(Question::RootDirectory),
        Some(b'C') => Message::Ask(Question::Scope),
        Some(b'N') => Message::Ask(Question::NetDevices),
        Some(b'H') => Message::Ask(Question::RuntimeHooks),
        Some(b'S') => Message::Ask(Question::Listener(number()?)),
        Some(b'R') => Message::Ready,
        Some(b'F') => Message::Failed(serde_json::from_slice(&bytes[1..]).map_err(|_| unexpected())?),
        Some(b'L') => Message::Log(String::from_utf8_lossy(&bytes[1..]).into_owned()),
        Some(_) => return Err(unexpected()),
    })
}
