//! The relay between the caller's stdio and the terminal or pipes of a process in the foreground.
//!
//! Init makes the terminal or the pipes, so that they belong to the container's user, and sends our
//! ends over a socket. The process does not get the caller's stdio, whose owner does not change.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use nix::poll::PollFlags;
use nix::sys::termios::{OutputFlags, SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

use windlass_base::error::{Diagnostic, Error, Kind, Result, WithContext};
use windlass_sys::SyscallError;
use windlass_sys::stdio::{self, CallerStream};
use windlass_sys::terminal;
use windlass_sys::{socket, stream};

use super::channel::{Channel, End, Side};

/// The message that comes with a terminal's master end over the console socket.
pub(crate) const TERMINAL: &[u8] = b"/dev/ptmx";

/// The messages that come with our end of the pipe that init has at 0, 1 or 2.
pub(crate) const PIPES: [&[u8]; 3] = [b"stdin", b"stdout", b"stderr"];

/// The message after the last pipe.
pub(crate) const NO_MORE: &[u8] = b"no more";

/// One end of one channel, which is polled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    channel: usize,
    side: Side,
}

/// Copies between our stdio and that of a process, in both directions.
#[derive(Default)]
pub struct Relay {
    channels: Vec<Channel>,
    /// A terminal's master end.
    master: Option<Rc<OwnedFd>>,
    own: OwnTerminal,
}

impl Relay {
    /// Receives what init made and sent into `socket`: a terminal, or pipes. Returns `None` if no relay is needed.
    pub fn receive(socket: &OwnedFd) -> Result<Option<Relay>> {
        let mut relay = Relay::default();
        loop {
            let mut message = [0; 16];
            let (length, fd) = socket::receive(socket.as_fd(), &mut message)
                .with_context(|| "cannot receive the stdio of the process")?;
            let message = &message[..length];
            let number = PIPES.iter().position(|known| *known == message);
            match (fd, number) {
                (None, _) if message == NO_MORE => break,
                (Some(pipe), Some(number)) => {
                    stream::never_block(pipe.as_fd()).with_context(|| "cannot relay the stdio of the process")?;
                    relay.add_channel(number as i32, End::Pipe(pipe))?;
                }
                (Some(master), _) if message == TERMINAL => {
                    stream::never_block(master.as_fd()).with_context(|| "cannot make the terminal non-blocking")?;
                    relay.add_terminal(master)?;
                    break;
                }
                _ => return Err(Error::new(Kind::Protocol, "init sent something else than its stdio")),
            }
        }
        Ok((!relay.channels.is_empty()).then_some(relay))
    }

    /// Adds a channel between our stdin, stdout or stderr and our end. If nothing is open at that number, our end
    /// is closed: the process reads end of file, or writes to a closed pipe.
    fn add_channel(&mut self, number: i32, end: End) -> Result<()> {
        let found = CallerStream::open(number, number != 0)
            .with_context(|| format!("cannot look at what is open at {number}"))?;
        if let Some(callers) = found.map(End::Callers) {
            self.channels.push(if number == 0 { Channel::new(callers, end) } else { Channel::new(end, callers) });
        }
        Ok(())
    }

    fn add_terminal(&mut self, master: OwnedFd) -> Result<()> {
        // Our output may be a file or a pipe, where lines end with a line feed alone.
        if let Ok(mut attributes) = tcgetattr(&master) {
            attributes.output_flags.remove(OutputFlags::ONLCR);
            let _ = tcsetattr(&master, SetArg::TCSANOW, &attributes);
        }
        let master = Rc::new(master);
        self.add_channel(0, End::Terminal(master.clone()))?;
        self.add_channel(1, End::Terminal(master.clone()))?;
        self.master = Some(master);
        self.own = OwnTerminal::find();
        self.own.handle_ready()?;
        self.resize();
        Ok(())
    }

    /// Takes over the size of our own terminal, if we have one.
    pub fn resize(&mut self) {
        if let (Some(master), Ok((rows, columns))) = (&self.master, terminal::size(stdio::input())) {
            // 0x0 means that the size is unknown.
            if (rows, columns) != (0, 0) {
                let _ = terminal::set_size(master.as_fd(), rows, columns);
            }
        }
    }

    /// Whether other processes are in the foreground of our terminal. No event reports the end of that.
    pub fn is_in_background(&self) -> bool {
        self.own.is_pending() || self.channels.iter().any(Channel::is_in_background)
    }

    /// The events to poll(2) for.
    pub fn interests(&self) -> impl Iterator<Item = (Port, BorrowedFd<'_>, PollFlags)> {
        self.channels.iter().enumerate().flat_map(|(channel, each)| {
            each.interests().map(move |(side, fd, flags)| (Port { channel, side }, fd, flags))
        })
    }

    /// Moves what can be moved after poll(2) has reported events of a port.
    pub fn handle_ready(&mut self, port: Port, reported: PollFlags) {
        self.channels[port.channel].handle_ready(port.side, reported);
    }

    /// Makes our terminal raw as soon as we are in its foreground.
    pub fn handle_terminal(&mut self) -> Result<()> {
        self.own.handle_ready()
    }

    /// Handles the end of the process: delivers its output, and waits for nothing else.
    pub fn end(&mut self) {
        self.channels.iter_mut().for_each(Channel::end);
    }

    /// Which bytes were lost, and why.
    pub fn losses(&self) -> Vec<Diagnostic> {
        let failures = self.channels.iter().filter_map(Channel::failure);
        let msg = |failed: &SyscallError| format!("cannot pass on all that was written or read: {failed}");
        failures.map(|failed| Diagnostic { pointer: String::new(), msg: msg(failed) }).collect()
    }

    /// Whether there is something to deliver after [`Relay::end`].
    pub fn is_delivering(&self) -> bool {
        !self.channels.iter().all(Channel::is_done)
    }
}

/// The terminal that is our standard input, raw while we relay it to a process's terminal.
#[derive(Default)]
struct OwnTerminal {
    exists: bool,
    saved: Option<Termios>,
}

impl OwnTerminal {
    fn find() -> OwnTerminal {
        OwnTerminal { exists: nix::unistd::isatty(stdio::input()).unwrap_or(false), saved: None }
    }

    /// Whether the terminal is not raw yet.
    fn is_pending(&self) -> bool {
        self.exists && self.saved.is_none()
    }

    fn handle_ready(&mut self) -> Result<()> {
        if !self.is_pending() || stdio::is_in_background(stdio::input()) {
            return Ok(());
        }
        let context = || "cannot make the terminal raw";
        let attributes = tcgetattr(stdio::input()).map_err(std::io::Error::from).with_context(context)?;
        let mut raw = attributes.clone();
        cfmakeraw(&mut raw);
        // Our terminal adds the carriage returns, since the container's no longer does.
        raw.output_flags.insert(OutputFlags::OPOST);
        tcsetattr(stdio::input(), SetArg::TCSANOW, &raw).map_err(std::io::Error::from).with_context(context)?;
        self.saved = Some(attributes);
        Ok(())
    }
}

impl Drop for OwnTerminal {
    fn drop(&mut self) {
        if let Some(saved) = &self.saved {
            let _ = tcsetattr(stdio::input(), SetArg::TCSANOW, saved);
        }
    }
}
