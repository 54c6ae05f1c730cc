//! The endpoints for clients: the attach socket, and two fifos for control messages.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use super::settings;
use crate::frontend::created::CreatedName;
use crate::frontend::listener::Listener;
use windlass_sys::stream::{self, Moved};
use windlass_sys::{Called, Result, fd, socket};

/// Longest line of a fifo in bytes, and how many reads of a fifo are done in a turn of the loop.
const LINE: usize = 200;
const MOST: usize = 64;

/// The open endpoints.
#[derive(Debug)]
pub(super) struct Endpoints {
    pub(super) attach: Listener,
    pub(super) control: LineFifo,
    pub(super) size: LineFifo,
    pub(super) bundle: OwnedFd,
    pub(super) socket: CreatedName,
    pub(super) link: Option<(PathBuf, CreatedName)>,
}

/// A fifo of lines. It is open for writing too, so that it does not end when a writer closes it.
#[derive(Debug)]
pub(super) struct LineFifo {
    pub(super) fd: OwnedFd,
    pub(super) unread: Vec<u8>,
}

/// The request in a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ControlMessage {
    /// Rows and columns.
    Resize(u16, u16),
    ReopenLogs,
}

impl Endpoints {
    /// Makes and opens all endpoints. The socket will be watched under `key`.
    pub(super) fn open(place: &settings::EndpointPaths, key: u64) -> Result<Endpoints> {
        let bundle = fd::open(&place.bundle, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
        let link = place.link.as_ref().map(|link| {
            let _ = fd::unlinkat(fd::CWD, link);
            nix::unistd::symlinkat(&place.bundle, fd::CWD, link).called(|| format!("symlink({link:?})"))?;
            CreatedName::inspect(fd::CWD, link).map(|made| (link.clone(), made))
        });
        let link = link.transpose()?;
        // A killed conmon leaves its socket behind.
        let _ = fd::unlinkat(bundle.as_fd(), "attach");
        let attach = socket::listen_at(bundle.as_fd(), "attach")?;
        let socket = CreatedName::inspect(bundle.as_fd(), "attach")?;
        fd::chmod_at(bundle.as_fd(), "attach", 0o700)?;
        stream::never_block(attach.as_fd())?;
        Ok(Endpoints {
            attach: Listener::new(attach, key),
            control: LineFifo::open(&bundle, "ctl")?,
            size: LineFifo::open(&bundle, "winsz")?,
            bundle,
            socket,
            link,
        })
    }
}

impl Drop for Endpoints {
    fn drop(&mut self) {
        // The caller may have removed the bundle already, or the exit file may have the name of the link.
        self.socket.remove(self.bundle.as_fd(), "attach");
        if let Some((link, made)) = &self.link {
            made.remove_path(link);
        }
    }
}

impl LineFifo {
    fn open(directory: &OwnedFd, name: &str) -> Result<LineFifo> {
        match nix::unistd::mkfifoat(directory, name, Mode::from_bits_truncate(0o660)) {
            Err(Errno::EEXIST) => Ok(()),
            other => other.called(|| format!("mkfifo({name:?})")),
        }?;
        let flags = OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW;
        Ok(LineFifo { fd: fd::openat(directory.as_fd(), name, flags, 0)?, unread: Vec::new() })
    }

    /// The messages that have arrived. `read` parses a line.
    pub(super) fn receive(&mut self, read: impl Fn(&str) -> Option<ControlMessage>) -> Vec<ControlMessage> {
        let mut received = Vec::new();
        let mut buffer = [0; LINE];
        // Bounded, because a client may write without a pause, and others must be served.
        for _ in 0..MOST {
            let Ok(Moved::Bytes(n)) = stream::read(self.fd.as_fd(), &mut buffer) else { break };
            self.unread.extend_from_slice(&buffer[..n]);
            while let Some(end) = stream::find(b'\n', &self.unread) {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                received.extend(std::str::from_utf8(&line).ok().and_then(&read));
            }
            if self.unread.len() > LINE {
                self.unread = Vec::new();
            }
        }
        received
    }
}

/// Parses a line of `ctl`: a type and two numbers. What follows them has no meaning, as with conmon.
pub(super) fn parse_control(line: &str) -> Option<ControlMessage> {
    match numbers(line, 3)?[..] {
        [1, rows, columns] => Some(ControlMessage::Resize(rows, columns)),
        [2, ..] => Some(ControlMessage::ReopenLogs),
        _ => None,
    }
}

/// Parses a line of `winsz`: rows and columns.
pub(super) fn parse_size(line: &str) -> Option<ControlMessage> {
    match numbers(line, 2)?[..] {
        [rows, columns] => Some(ControlMessage::Resize(rows, columns)),
        _ => None,
    }
}

fn numbers(line: &str, most: usize) -> Option<Vec<u16>> {
    line.split_ascii_whitespace().take(most).map(|word| word.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_callers_write_them() {
        assert_eq!(parse_control("1 24 80\n"), Some(ControlMessage::Resize(24, 80)));
        assert_eq!(parse_control("1 24 80 3 x\n"), Some(ControlMessage::Resize(24, 80)));
        assert_eq!(parse_control("2 0 0\n"), Some(ControlMessage::ReopenLogs));
        assert_eq!(parse_size("24 80\n"), Some(ControlMessage::Resize(24, 80)));
        for bad in ["", "1 24\n", "1 -1 80\n", "1 70000 80\n", "1 0x10 80\n", "1 1.5 80\n", "3 0 0\n", "x\n"] {
            assert_eq!(parse_control(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_line_may_come_in_pieces_and_a_writer_may_leave() {
        let directory = std::env::temp_dir().join(format!("windlass-endpoints-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        let endpoints = Endpoints::open(&settings::EndpointPaths { bundle: directory.clone(), link: None }, 1);
        let mut endpoints = endpoints.expect("endpoints");
        let write = |text: &str| {
            let fifo = std::fs::OpenOptions::new().write(true).open(directory.join("ctl"));
            std::io::Write::write_all(&mut fifo.expect("the fifo"), text.as_bytes()).expect("written");
        };
        write("1 24");
        assert_eq!(endpoints.control.receive(parse_control), []);
        write(" 80\n2 0 0\nrubbish\n");
        assert_eq!(
            endpoints.control.receive(parse_control),
            [ControlMessage::Resize(24, 80), ControlMessage::ReopenLogs]
        );
        write(&"x".repeat(1000));
        assert_eq!(endpoints.control.receive(parse_control), []);
        assert!(endpoints.control.unread.len() <= LINE, "what never ends is forgotten");
        drop(endpoints);
        std::fs::remove_dir_all(&directory).expect("removed");
    }
}
