//! Waiting for a process in the foreground, with signals, stdio and orphans.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags};
use nix::sys::signalfd::SignalFd;

use windlass_base::error::{Diagnostic, Error, Result, WithContext};
use windlass_sys::poll::{self, Deadline};
use windlass_sys::process::{self, Child, Exit};
use windlass_sys::signals;

use super::notify::Notify;
use super::relay::{Port, Relay};

/// How often we check whether we are in the terminal's foreground again. A shell that moves a running job to the
/// foreground sends it no signal.
const BACKGROUND: Duration = Duration::from_millis(500);

/// A queue of signals for [`wait`], so that none is lost: neither the SIGCHLD of a process that ends at once, nor a
/// signal that is to be forwarded to it.
pub struct Foreground(SignalFd);

impl Foreground {
    /// Begins to collect signals. A child forked from here on must unblock its signals.
    pub fn begin() -> Result<Foreground> {
        signals::collect().map(Foreground).with_context(|| "cannot collect signals")
    }

    /// The next signal in the queue.
    fn next(&self) -> Result<Option<i32>> {
        let read = self.0.read_signal().map(|info| info.map(|info| info.ssi_signo as i32));
        read.map_err(|errno| Error::from(windlass_sys::SyscallError { call: "read(signalfd)".into(), errno }))
    }
}

/// The meaning of a descriptor for poll(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Polled {
    Child,
    Signals,
    Notify,
    Relay(Port),
}

/// The descriptors of one call of poll(2), with their meanings.
#[derive(Default)]
struct PollSet<'a> {
    polled: Vec<Polled>,
    fds: Vec<PollFd<'a>>,
}

impl<'a> PollSet<'a> {
    fn ask(&mut self, polled: Polled, fd: BorrowedFd<'a>, flags: PollFlags) {
        self.polled.push(polled);
        self.fds.push(PollFd::new(fd, flags));
    }

    /// Waits for the first report. The list is empty when the deadline has passed.
    fn wait(mut self, deadline: Deadline) -> Result<Vec<(Polled, PollFlags)>> {
        poll::poll(&mut self.fds, deadline).with_context(|| "cannot wait")?;
        let reported = self.fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        Ok(self.polled.into_iter().zip(reported).filter(|(_, flags)| !flags.is_empty()).collect())
    }
}

/// Waits for the child's end. Meanwhile forwards signals to it and its readiness to the host, relays its stdio, and
/// reaps orphans. All its output is delivered before this returns; losses are added to `warnings`.
pub fn wait(
    foreground: &Foreground,
    child: &Child,
    relay: Option<Relay>,
    notify: Option<&Notify>,
    warnings: &mut Vec<Diagnostic>,
) -> Result<Exit> {
    let mut relay = relay.unwrap_or_default();
    let mut notified = false;
    loop {
        let mut poll_set = PollSet::default();
        poll_set.ask(Polled::Child, child.pidfd.as_fd(), PollFlags::POLLIN);
        poll_set.ask(Polled::Signals, foreground.0.as_fd(), PollFlags::POLLIN);
        if let Some(notify) = notify {
            poll_set.ask(Polled::Notify, notify.fd(), PollFlags::POLLIN);
        }
        relay.interests().for_each(|(port, fd, flags)| poll_set.ask(Polled::Relay(port), fd, flags));
        let deadline = if relay.is_in_background() { Deadline::after(BACKGROUND) } else { Deadline::NEVER };
        let mut ended = false;
        for (polled, reported) in poll_set.wait(deadline)? {
            match polled {
                Polled::Child => ended = true,
                Polled::Signals => forward(foreground, child, &mut relay)?,
                Polled::Notify => {
                    if let Some(notify) = notify
                        // The socket is read for as long as the container lives, so that it never closes on its
                        // processes.
                        && notify.is_ready()?
                        && !std::mem::replace(&mut notified, true)
                    {
                        // The main process of the service is this one, which lives as long as the container.
                        notify.forward(std::process::id() as i32)?;
                    }
                }
                Polled::Relay(port) => relay.handle_ready(port, reported),
            }
        }
        relay.handle_terminal()?;
        if ended && let Some(exit) = child.try_wait().with_context(|| "cannot reap the process")? {
            let losses = deliver(foreground, relay)?;
            warnings.extend(losses);
            process::reap_others();
            return Ok(exit);
        }
    }
}

/// Delivers what the process left in its pipes or its terminal, however slow the reader is. SIGHUP, SIGINT,
/// SIGQUIT and SIGTERM end the delivery.
fn deliver(foreground: &Foreground, mut relay: Relay) -> Result<Vec<Diagnostic>> {
    relay.end();
    while relay.is_delivering() {
        let mut poll_set = PollSet::default();
        poll_set.ask(Polled::Signals, foreground.0.as_fd(), PollFlags::POLLIN);
        relay.interests().for_each(|(port, fd, flags)| poll_set.ask(Polled::Relay(port), fd, flags));
        for (polled, reported) in poll_set.wait(Deadline::NEVER)? {
            match polled {
                Polled::Signals => {
                    while let Some(signal) = foreground.next()? {
                        if matches!(signal, libc::SIGHUP | libc::SIGINT | libc::SIGQUIT | libc::SIGTERM) {
                            return Ok(relay.losses());
                        }
                    }
                }
                Polled::Relay(port) => relay.handle_ready(port, reported),
                Polled::Child | Polled::Notify => {}
            }
        }
    }
    Ok(relay.losses())
}

fn forward(foreground: &Foreground, child: &Child, relay: &mut Relay) -> Result<()> {
    while let Some(signal) = foreground.next()? {
        match signal {
            libc::SIGCHLD => process::reap_except(child.pid),
            // These signals are meant for us.
            libc::SIGURG | libc::SIGPIPE | libc::SIGXFSZ => {}
            libc::SIGWINCH => relay.resize(),
            signal => {
                // If the child has ended meanwhile, the loop finds out next.
                let _ = process::send_signal(child.pidfd.as_fd(), signal);
            }
        }
    }
    Ok(())
}
