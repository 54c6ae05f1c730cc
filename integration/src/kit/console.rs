//! The receiving end of `--console-socket` and its kin.

use super::stop::{Context, Verdict, fail};
use crate::sys;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// A listening socket that expects one message with one descriptor.
pub struct FdSocket {
    listener: UnixListener,
    /// Where it listens.
    pub path: PathBuf,
}

impl FdSocket {
    /// Listens at a path that must not exist.
    pub fn new(path: PathBuf) -> Verdict<FdSocket> {
        let listener = UnixListener::bind(&path).context(path.display())?;
        Ok(FdSocket { listener, path })
    }

    /// The path as an option value.
    pub fn arg(&self) -> &str {
        self.path.to_str().unwrap_or_default()
    }

    /// Accepts a connection, failing after five seconds.
    pub fn accept(&self) -> Verdict<UnixStream> {
        wait_readable(&self.listener, Duration::from_secs(60))?;
        Ok(self.listener.accept().context("accept")?.0)
    }

    /// The message and the descriptors that came with it.
    pub fn receive(&self) -> Verdict<(Vec<u8>, Vec<OwnedFd>)> {
        let stream = self.accept()?;
        wait_readable(&stream, Duration::from_secs(60))?;
        sys::receive_with_fds(&stream).context("recvmsg")
    }

    /// The master side of the terminal that the runtime sends.
    pub fn terminal(&self) -> Verdict<Terminal> {
        let (_, mut fds) = self.receive()?;
        match (fds.pop(), fds.is_empty()) {
            (Some(fd), true) => Ok(Terminal::new(fd)),
            (_, _) => fail("the console socket must carry exactly one descriptor"),
        }
    }
}

/// How long text at a terminal is waited for.
const LIMIT: Duration = Duration::from_secs(120);

/// Waits until `fd` can be read.
pub fn wait_readable(fd: &impl AsFd, limit: Duration) -> Verdict {
    let mut set = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
    match poll(&mut set, limit).context("poll")? {
        0 => fail("nothing came over the socket"),
        _ => Ok(()),
    }
}

/// Starts a command at its own terminal, as the leader of its session, which is notified of a new size.
pub fn start_at_terminal(command: &Command, rows: u16, columns: u16) -> Verdict<(Child, Terminal)> {
    let ours = nix::pty::openpty(None, None).context("openpty")?;
    let terminal = Terminal::new(ours.master);
    terminal.resize(rows, columns)?;
    let mut leader = Command::new("setsid");
    leader.arg("--ctty").arg("--wait").arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => leader.env(name, value),
            None => leader.env_remove(name),
        };
    }
    command.get_current_dir().map(|dir| leader.current_dir(dir));
    leader.stdin(ours.slave.try_clone()?).stdout(ours.slave.try_clone()?).stderr(ours.slave);
    Ok((leader.spawn().context("setsid")?, terminal))
}

/// The master side of a pseudoterminal.
pub struct Terminal {
    master: File,
    seen: String,
}

impl Terminal {
    /// The terminal of this master side.
    pub fn new(master: OwnedFd) -> Terminal {
        Terminal { master: master.into(), seen: String::new() }
    }

    /// Gives it another size.
    pub fn resize(&self, rows: u16, columns: u16) -> Verdict {
        sys::set_window_size(&self.master, rows, columns).context("TIOCSWINSZ")
    }

    /// Whether a reader gets each byte as it comes.
    pub fn is_raw(&self) -> bool {
        let canonical = nix::sys::termios::LocalFlags::ICANON;
        nix::sys::termios::tcgetattr(&self.master).is_ok_and(|now| !now.local_flags.contains(canonical))
    }

    /// Its settings.
    pub fn attributes(&self) -> Verdict<nix::sys::termios::Termios> {
        nix::sys::termios::tcgetattr(&self.master).context("tcgetattr")
    }

    /// Types into the terminal.
    pub fn write(&mut self, text: &str) -> Verdict {
        self.master.write_all(text.as_bytes()).context("terminal")
    }

    /// Reads until `text` has come, at most half a minute.
    pub fn read_until(&mut self, text: &str) -> Verdict<String> {
        let start = Instant::now();
        let mut buffer = [0; 4096];
        while !self.seen.contains(text) {
            if start.elapsed() > LIMIT || wait_readable(&self.master, LIMIT).is_err() {
                return fail(format!("the terminal showed {:?}, expected {text:?}", self.seen));
            }
            match self.master.read(&mut buffer) {
                Ok(count) if count > 0 => self.seen.push_str(&String::from_utf8_lossy(&buffer[..count])),
                _ => {
                    return fail(format!("the terminal ended after {:?}, expected {text:?}", self.seen));
                }
            }
        }
        Ok(self.seen.clone())
    }
}
