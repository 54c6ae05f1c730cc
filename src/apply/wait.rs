//! Waiting for a process in the foreground: its signals, its stdio, its orphans.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags};
use nix::sys::signalfd::SignalFd;

use windlass_base::error::{Doing, Error, Result};
use windlass_sys::poll::{self, Deadline};
use windlass_sys::process::{self, Child, Exit};
use windlass_sys::signals;

use super::notify::Notify;
use super::relay::{Port, Relay};

/// How often a terminal is looked at while other processes are in its foreground. A shell that
/// makes a running job its foreground job sends it no signal.
const BACKGROUND: Duration = Duration::from_millis(500);

/// Signals are collected from here on, so that none that comes before the wait is lost: a
/// process that ends at once is noticed, and a signal that was meant for it is passed on.
pub struct Foreground(SignalFd);

impl Foreground {
    /// Begins to collect. A child forked from here on must unblock its signals.
    pub fn begin() -> Result<Foreground> {
        signals::collect().map(Foreground).doing(|| "cannot collect signals")
    }

    /// The next signal that has come.
    fn next(&self) -> Result<Option<i32>> {
        let read = self.0.read_signal().map(|info| info.map(|info| info.ssi_signo as i32));
        read.map_err(|errno| Error::from(windlass_sys::Failed { call: "read(signalfd)".into(), errno }))
    }
}

/// What a descriptor given to poll(2) stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Child,
    Signals,
    Notify,
    Relay(Port),
}

/// One call of poll(2), whose reports go back to whoever asked for the descriptor.
#[derive(Default)]
struct Question<'a> {
    who: Vec<Who>,
    fds: Vec<PollFd<'a>>,
}

impl<'a> Question<'a> {
    fn ask(&mut self, who: Who, fd: BorrowedFd<'a>, flags: PollFlags) {
        self.who.push(who);
        self.fds.push(PollFd::new(fd, flags));
    }

    /// Waits for the first report. The list is empty when the deadline has passed.
    fn wait(mut self, deadline: Deadline) -> Result<Vec<(Who, PollFlags)>> {
        poll::poll(&mut self.fds, deadline).doing(|| "cannot wait")?;
        let reported = self.fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        Ok(self.who.into_iter().zip(reported).filter(|(_, flags)| !flags.is_empty()).collect())
    }
}

/// Waits for the child's end; signals to us go to it, its word that it is ready goes to the host,
/// and orphans are reaped on the way. What it has printed is delivered before this returns.
pub fn wait(foreground: &Foreground, child: &Child, relay: Option<Relay>, notify: Option<&Notify>) -> Result<Exit> {
    let mut relay = relay.unwrap_or_default();
    let mut told = false;
    loop {
        let mut question = Question::default();
        question.ask(Who::Child, child.pidfd.as_fd(), PollFlags::POLLIN);
        question.ask(Who::Signals, foreground.0.as_fd(), PollFlags::POLLIN);
        if let Some(notify) = notify {
            question.ask(Who::Notify, notify.fd(), PollFlags::POLLIN);
        }
        relay.interests().for_each(|(port, fd, flags)| question.ask(Who::Relay(port), fd, flags));
        let deadline = if relay.is_in_background() { Deadline::after(BACKGROUND) } else { Deadline::NEVER };
        let mut ended = false;
        for (who, reported) in question.wait(deadline)? {
            match who {
                Who::Child => ended = true,
                Who::Signals => forward(foreground, child, &mut relay)?,
                Who::Notify => {
                    if let Some(notify) = notify
                        // Read to the end of the container's life, so that nobody in it finds the
                        // socket closed.
                        && notify.is_ready()?
                        && !std::mem::replace(&mut told, true)
                    {
                        // The service's process is this one: it stays for as long as the container does.
                        notify.forward(std::process::id() as i32)?;
                    }
                }
                Who::Relay(port) => relay.attend(port, reported),
            }
        }
        relay.attend_terminal()?;
        if ended && let Some(exit) = child.try_wait().doing(|| "cannot reap the process")? {
            deliver(foreground, relay)?;
            process::reap_others();
            return Ok(exit);
        }
    }
}

/// Delivers what the process left in its pipes or its terminal, however slow the reader is. SIGHUP, SIGINT,
/// SIGQUIT and SIGTERM end the delivery.
fn deliver(foreground: &Foreground, mut relay: Relay) -> Result<()> {
    relay.end();
    while relay.is_delivering() {
        let mut question = Question::default();
        question.ask(Who::Signals, foreground.0.as_fd(), PollFlags::POLLIN);
        relay.interests().for_each(|(port, fd, flags)| question.ask(Who::Relay(port), fd, flags));
        for (who, reported) in question.wait(Deadline::NEVER)? {
            match who {
                Who::Signals => {
                    while let Some(signal) = foreground.next()? {
                        if matches!(signal, libc::SIGHUP | libc::SIGINT | libc::SIGQUIT | libc::SIGTERM) {
                            return Ok(());
                        }
                    }
                }
                Who::Relay(port) => relay.attend(port, reported),
                Who::Child | Who::Notify => {}
            }
        }
    }
    Ok(())
}

fn forward(foreground: &Foreground, child: &Child, relay: &mut Relay) -> Result<()> {
    while let Some(signal) = foreground.next()? {
        match signal {
            libc::SIGCHLD => process::reap_except(child.pid),
            // Our own; the process has no use for them.
            libc::SIGURG | libc::SIGPIPE => {}
            libc::SIGWINCH => relay.resize(),
            signal => {
                // It may have ended meanwhile; the loop sees that next.
                let _ = process::send_signal(child.pidfd.as_fd(), signal);
            }
        }
    }
    Ok(())
}
