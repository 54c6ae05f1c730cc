//! Waiting for a process in the foreground: its signals, its terminal, its orphans.

use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signalfd::SignalFd;

use crate::error::{Doing, Error, Result};
use crate::sys::process::{self, Child, Exit};
use crate::sys::signals;

use super::notify::Notify;
use super::relay::Relay;

/// Signals are collected from here on, so that none that comes before the wait is lost: a
/// process that ends at once is noticed, and a signal that was meant for it is passed on.
pub struct Foreground(SignalFd);

impl Foreground {
    /// Begins to collect. A child forked from here on must unblock its signals.
    pub fn begin() -> Result<Foreground> {
        signals::collect().map(Foreground).doing(|| "cannot collect signals")
    }
}

/// Waits for the child's end; signals to us go to it, its word that it is ready goes to the host,
/// and orphans are reaped on the way.
pub fn wait(foreground: &Foreground, child: &Child, mut relay: Option<Relay>, notify: Option<&Notify>) -> Result<Exit> {
    let mut told = false;
    loop {
        let mut fds = vec![
            PollFd::new(child.pidfd.as_fd(), PollFlags::POLLIN),
            PollFd::new(foreground.0.as_fd(), PollFlags::POLLIN),
        ];
        if let Some(relay) = &relay {
            fds.extend(relay.wanted().map(|(fd, flags)| PollFd::new(fd, flags)));
        }
        if let Some(notify) = notify {
            fds.push(PollFd::new(notify.fd(), PollFlags::POLLIN));
        }
        match nix::poll::poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            other => other.map_err(std::io::Error::from).doing(|| "cannot wait")?,
        };
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        drop(fds);
        // Read to the end of the container's life, so that nobody in it finds the socket closed.
        if let (Some(notify), Some(true)) = (notify, ready.last())
            && notify.is_ready()?
            && !std::mem::replace(&mut told, true)
        {
            // The service's process is this one: it stays for as long as the container does.
            notify.forward(std::process::id() as i32)?;
        }
        if ready[1] {
            forward(foreground, child, relay.as_mut())?;
        }
        if let Some(open) = &mut relay
            && (ready[2] || ready[3])
            && !open.pump(ready[3])
        {
            // The last process has closed it: only the exit is left to wait for.
            relay = None;
        }
        if ready[0]
            && let Some(exit) = child.try_wait().doing(|| "cannot reap the process")?
        {
            if let Some(relay) = &mut relay {
                relay.drain();
            }
            process::reap_others();
            return Ok(exit);
        }
    }
}

fn forward(foreground: &Foreground, child: &Child, mut relay: Option<&mut Relay>) -> Result<()> {
    let read = || {
        foreground
            .0
            .read_signal()
            .map_err(|errno| Error::from(crate::sys::Failed { call: "read(signalfd)".into(), errno }))
    };
    while let Some(info) = read()? {
        match info.ssi_signo as i32 {
            libc::SIGCHLD => process::reap_except(child.pid),
            // Our own; the process has no use for them.
            libc::SIGURG | libc::SIGPIPE => {}
            libc::SIGWINCH => {
                if let Some(relay) = &mut relay {
                    relay.resize();
                }
            }
            signal => {
                // It may have ended meanwhile; the loop sees that next.
                let _ = process::send_signal(child.pidfd.as_fd(), signal);
            }
        }
    }
    Ok(())
}
