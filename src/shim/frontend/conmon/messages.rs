//! Our own messages: to standard error as long as we have one, and to syslog if asked.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};

use crate::frontend::complaint::complain;
use windlass_base::error::printable;
use windlass_sys::socket;

/// How grave a message is; the least grave that is said is chosen by `--log-level`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl Level {
    /// Of its name; warnings and errors if none is given.
    pub(super) fn parse(name: Option<&OsStr>) -> Result<Level, String> {
        let Some(name) = name else { return Ok(Level::Warn) };
        match name.to_string_lossy().to_ascii_lowercase().as_str() {
            "error" | "fatal" | "panic" => Ok(Level::Error),
            "warn" | "warning" => Ok(Level::Warn),
            "info" => Ok(Level::Info),
            "debug" => Ok(Level::Debug),
            "trace" => Ok(Level::Trace),
            _ => Err(format!("No such log level {name:?}")),
        }
    }
}

/// syslog(3): the facility user, and the severity of each level.
const FACILITY: u8 = 1 << 3;
const SEVERITY: [u8; 5] = [3, 4, 6, 7, 7];

/// Where syslog listens.
const SYSLOG: &str = "/dev/log";

/// Who says it, and to whom.
#[derive(Debug)]
pub(super) struct Messages {
    level: Level,
    syslog: Option<OwnedFd>,
    /// The container's id, shortened.
    id: String,
}

impl Messages {
    /// Messages of at least this level, about this container.
    pub(super) fn new(level: Level, syslog: bool, id: &str) -> Messages {
        // Without a socket there is no syslog, and nobody to tell of it.
        let syslog = if syslog { socket::datagram().ok() } else { None };
        Messages { level, syslog, id: id.chars().take(20).collect() }
    }

    /// Says it; nobody listening is no reason to fail.
    pub(super) fn say(&self, level: Level, text: &str) {
        if level > self.level {
            return;
        }
        let name = format!("{level:?}").to_lowercase();
        complain(&format!("conmon {} <{name}>", self.id), text);
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
