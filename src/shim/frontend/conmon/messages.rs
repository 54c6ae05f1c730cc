//! The shim's own messages: on standard error while it is open, and with `--syslog` in syslog(3).

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};

use super::error::Error;
use crate::frontend::stderr::print_error;
use windlass_base::error::printable;
use windlass_sys::socket;

/// The severity of a message. `--log-level` is the lowest severity that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl Level {
    /// Parses the name. The default is [`Level::Warn`].
    pub(super) fn parse(name: Option<&OsStr>) -> Result<Level, Error> {
        let Some(name) = name else { return Ok(Level::Warn) };
        match name.to_string_lossy().to_ascii_lowercase().as_str() {
            "error" | "fatal" | "panic" => Ok(Level::Error),
            "warn" | "warning" => Ok(Level::Warn),
            "info" => Ok(Level::Info),
            "debug" => Ok(Level::Debug),
            "trace" => Ok(Level::Trace),
            _ => Err(Error::Invalid(format!("No such log level {name:?}"))),
        }
    }
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
            Level::Trace => "trace",
        }
    }
}

/// syslog(3): the facility user, and the severity of each level.
const FACILITY: u8 = 1 << 3;
const SEVERITY: [u8; 5] = [3, 4, 6, 7, 7];

/// The socket of syslog.
const SYSLOG: &str = "/dev/log";

/// The targets of messages.
#[derive(Debug)]
pub(super) struct Messages {
    pub(super) level: Level,
    pub(super) syslog: Option<OwnedFd>,
    /// The first characters of the container's id.
    pub(super) id: String,
}

impl Messages {
    /// Writes messages of at least `level`, about the container `id`.
    pub(super) fn new(level: Level, syslog: bool, id: &str) -> Messages {
        // Without a socket there is no syslog, and nowhere to report that.
        let syslog = if syslog { socket::datagram().ok() } else { None };
        Messages { level, syslog, id: id.chars().take(20).collect() }
    }

    /// Writes a message. Errors are ignored, because nothing is left to report them on.
    pub(super) fn log(&self, level: Level, text: &str) {
        if level > self.level {
            return;
        }
        let name = level.name();
        print_error(&format!("conmon {} <{name}>", self.id), text);
        if let Some(socket) = &self.syslog {
            let priority = FACILITY | SEVERITY[level as usize];
            let line =
                format!("<{priority}>conmon[{}]: conmon {} <{name}>: {}", std::process::id(), self.id, printable(text));
            let _ = socket::send_datagram_to(socket.as_fd(), SYSLOG, line.as_bytes(), None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_those_that_callers_pass() {
        assert_eq!(Level::parse(None), Ok(Level::Warn));
        assert_eq!(Level::parse(Some("warning".as_ref())), Ok(Level::Warn));
        assert_eq!(Level::parse(Some("DEBUG".as_ref())), Ok(Level::Debug));
        assert!(Level::parse(Some("loud".as_ref())).is_err());
        assert!(Level::Error < Level::Trace);
    }
}
