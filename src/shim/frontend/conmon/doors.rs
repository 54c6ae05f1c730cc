//! Where others come in: the attach socket, and the fifos that say the terminal's size.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use super::settings;
use crate::frontend::listener::Listener;
use crate::frontend::made::Made;
use windlass_sys::stream::{self, Moved};
use windlass_sys::{Called, Result, fd, socket};

/// Longest line of a fifo, and how often one is read before the others have their turn.
const LINE: usize = 200;
const MOST: usize = 64;

/// The open doors.
#[derive(Debug)]
pub(super) struct Doors {
    pub(super) attach: Listener,
    pub(super) control: Fifo,
    pub(super) size: Fifo,
    bundle: OwnedFd,
    socket: Made,
    link: Option<(PathBuf, Made)>,
}

/// A fifo of lines; held open for writing too, so that a writer that leaves is no end.
#[derive(Debug)]
pub(super) struct Fifo {
    pub(super) fd: OwnedFd,
    unread: Vec<u8>,
}

/// What a line asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// Rows and columns.
    Resize(u16, u16),
    ReopenLogs,
}

impl Doors {
    /// Makes and opens all of them. The socket will be watched under `key`.
    pub(super) fn open(place: &settings::Doors, key: u64) -> Result<Doors> {
        let bundle = fd::open(&place.bundle, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
        let link = place.link.as_ref().map(|link| {
            let _ = fd::unlinkat(fd::CWD, link);
            nix::unistd::symlinkat(&place.bundle, fd::CWD, link).called(|| format!("symlink({link:?})"))?;
            Made::look(fd::CWD, link).map(|made| (link.clone(), made))
        });
        let link = link.transpose()?;
        // Left behind by one that was killed.
        let _ = fd::unlinkat(bundle.as_fd(), "attach");
        let attach = socket::listen_at(bundle.as_fd(), "attach")?;
        let socket = Made::look(bundle.as_fd(), "attach")?;
        fd::chmod_at(bundle.as_fd(), "attach", 0o700)?;
        stream::never_block(attach.as_fd())?;
        Ok(Doors {
            attach: Listener::new(attach, key),
            control: Fifo::open(&bundle, "ctl")?,
            size: Fifo::open(&bundle, "winsz")?,
            bundle,
            socket,
            link,
        })
    }
}

impl Drop for Doors {
    fn drop(&mut self) {
        // The caller may have removed the bundle already, or may have put the exit file at this name.
        self.socket.remove(self.bundle.as_fd(), "attach");
        if let Some((link, made)) = &self.link {
            made.remove_path(link);
        }
    }
}

impl Fifo {
    fn open(directory: &OwnedFd, name: &str) -> Result<Fifo> {
        match nix::unistd::mkfifoat(directory, name, Mode::from_bits_truncate(0o660)) {
            Err(Errno::EEXIST) => Ok(()),
            other => other.called(|| format!("mkfifo({name:?})")),
        }?;
        let flags = OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW;
        Ok(Fifo { fd: fd::openat(directory.as_fd(), name, flags, 0)?, unread: Vec::new() })
    }

    /// The wishes that have arrived; `read` reads a line.
    pub(super) fn wishes(&mut self, read: impl Fn(&str) -> Option<Wish>) -> Vec<Wish> {
        let mut wishes = Vec::new();
        let mut buffer = [0; LINE];
        // A writer that never stops must not keep the loop from the others.
        for _ in 0..MOST {
            let Ok(Moved::Bytes(n)) = stream::read(self.fd.as_fd(), &mut buffer) else { break };
            self.unread.extend_from_slice(&buffer[..n]);
            while let Some(end) = stream::find(b'\n', &self.unread) {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                wishes.extend(std::str::from_utf8(&line).ok().and_then(&read));
            }
            if self.unread.len() > LINE {
                self.unread = Vec::new();
            }
        }
        wishes
    }
}

/// A line of `ctl`: a type and two numbers.
pub(super) fn control(line: &str) -> Option<Wish> {
    match numbers(line)?[..] {
        [1, rows, columns] => Some(Wish::Resize(rows, columns)),
        [2, ..] => Some(Wish::ReopenLogs),
        _ => None,
    }
}

/// A line of `winsz`: two numbers.
pub(super) fn size(line: &str) -> Option<Wish> {
    match numbers(line)?[..] {
        [rows, columns] => Some(Wish::Resize(rows, columns)),
        _ => None,
    }
}

fn numbers(line: &str) -> Option<Vec<u16>> {
    line.split_ascii_whitespace().map(|word| word.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_callers_write_them() {
        assert_eq!(control("1 24 80\n"), Some(Wish::Resize(24, 80)));
        assert_eq!(control("2 0 0\n"), Some(Wish::ReopenLogs));
        assert_eq!(size("24 80\n"), Some(Wish::Resize(24, 80)));
        for bad in ["", "1 24\n", "1 -1 80\n", "1 70000 80\n", "3 0 0\n", "x\n"] {
            assert_eq!(control(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_line_may_come_in_pieces_and_a_writer_may_leave() {
        let directory = std::env::temp_dir().join(format!("windlass-doors-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        let doors = Doors::open(&settings::Doors { bundle: directory.clone(), link: None }, 1);
        let mut doors = doors.expect("doors");
        let write = |text: &str| {
            let fifo = std::fs::OpenOptions::new().write(true).open(directory.join("ctl"));
            std::io::Write::write_all(&mut fifo.expect("the fifo"), text.as_bytes()).expect("written");
        };
        write("1 24");
        assert_eq!(doors.control.wishes(control), []);
        write(" 80\n2 0 0\nrubbish\n");
        assert_eq!(doors.control.wishes(control), [Wish::Resize(24, 80), Wish::ReopenLogs]);
        write(&"x".repeat(1000));
        assert_eq!(doors.control.wishes(control), []);
        assert!(doors.control.unread.len() <= LINE, "what never ends is forgotten");
        drop(doors);
        std::fs::remove_dir_all(&directory).expect("removed");
    }
}
