//! The terminal of a process in the foreground: between its master end and our stdio.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::PollFlags;
use nix::sys::termios::{OutputFlags, SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

use crate::error::{Doing, Result};
use crate::sys::{fd, socket};

/// As much as may wait for a process that does not read.
const LONGEST_QUEUE: usize = 64 * 1024;

/// Copies between a terminal's master end and our stdio. Our own terminal is raw meanwhile.
pub struct Relay {
    master: OwnedFd,
    saved: Option<Termios>,
    queue: VecDeque<u8>,
    input_open: bool,
}

fn stdin() -> BorrowedFd<'static> {
    fd::borrow_inherited(0).unwrap_or(fd::CWD)
}

impl Relay {
    /// Receives the master end from `socket`, which init sent it to.
    pub fn receive(socket: &OwnedFd) -> Result<Option<Relay>> {
        let (_, master) = socket::receive(socket.as_fd(), &mut [0; 64]).doing(|| "cannot receive the terminal")?;
        let Some(master) = master else { return Ok(None) };
        fcntl(&master, FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK))
            .map_err(std::io::Error::from)
            .doing(|| "cannot make the terminal non-blocking")?;
        // What we print may go to a file or a pipe, where a line ends with a line feed alone.
        if let Ok(mut attributes) = tcgetattr(&master) {
            attributes.output_flags.remove(OutputFlags::ONLCR);
            let _ = tcsetattr(&master, SetArg::TCSANOW, &attributes);
        }
        let mut relay = Relay { master, saved: None, queue: VecDeque::new(), input_open: true };
        relay.resize();
        if let Ok(attributes) = tcgetattr(stdin()) {
            let mut raw = attributes.clone();
            cfmakeraw(&mut raw);
            // The carriage returns that the container's terminal no longer adds.
            raw.output_flags.insert(OutputFlags::OPOST);
            tcsetattr(stdin(), SetArg::TCSANOW, &raw)
                .map_err(std::io::Error::from)
                .doing(|| "cannot make the terminal raw")?;
            relay.saved = Some(attributes);
        }
        Ok(Some(relay))
    }

    /// Takes over the size of our own terminal, if we have one.
    pub fn resize(&mut self) {
        if let Ok((rows, columns)) = socket::terminal_size(stdin()) {
            // A terminal without a size has none to take over.
            if (rows, columns) != (0, 0) {
                let _ = socket::set_terminal_size(self.master.as_fd(), rows, columns);
            }
        }
    }

    /// What to wait for: the master end, and our standard input while there is room.
    pub fn wanted(&self) -> [(BorrowedFd<'_>, PollFlags); 2] {
        let write = if self.queue.is_empty() { PollFlags::empty() } else { PollFlags::POLLOUT };
        let read =
            if self.input_open && self.queue.len() < LONGEST_QUEUE { PollFlags::POLLIN } else { PollFlags::empty() };
        // An input without interest must not be polled at all: a closed one would never let us sleep.
        let input = if read.is_empty() { self.master.as_fd() } else { stdin() };
        [(self.master.as_fd(), PollFlags::POLLIN | write), (input, read)]
    }

    /// Moves what there is to move; `false` when the terminal is closed at the other end.
    pub fn pump(&mut self, input_ready: bool) -> bool {
        if input_ready && self.input_open {
            let mut buffer = [0; 4096];
            match nix::unistd::read(stdin(), &mut buffer) {
                Ok(0) => self.input_open = false,
                Ok(n) => self.queue.extend(&buffer[..n]),
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(_) => self.input_open = false,
            }
        }
        while !self.queue.is_empty() {
            match nix::unistd::write(&self.master, self.queue.as_slices().0) {
                Ok(n) => drop(self.queue.drain(..n)),
                Err(_) => break,
            }
        }
        self.drain()
    }

    /// Copies what the process has printed; `false` when there will be no more.
    pub fn drain(&mut self) -> bool {
        let mut buffer = [0; 4096];
        loop {
            match nix::unistd::read(&self.master, &mut buffer) {
                Ok(0) => return false,
                Ok(n) => {
                    let mut rest = &buffer[..n];
                    while let (Some(stdout), false) = (fd::borrow_inherited(1), rest.is_empty()) {
                        match nix::unistd::write(stdout, rest) {
                            Ok(n) => rest = &rest[n..],
                            Err(Errno::EINTR) => {}
                            // Nobody reads any more; the process need not stop for that.
                            Err(_) => break,
                        }
                    }
                }
                Err(Errno::EAGAIN) => return true,
                Err(Errno::EINTR) => {}
                Err(_) => return false,
            }
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(saved) = &self.saved {
            let _ = tcsetattr(stdin(), SetArg::TCSANOW, saved);
        }
    }
}
