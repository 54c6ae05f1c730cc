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

    /// The priority of a message in syslog(3). `None`: messages of this level are not written.
    fn priority(&self, level: Level) -> Option<u8> {
        (level <= self.level).then_some(FACILITY | SEVERITY[level as usize])
    }

    /// Writes a message. Errors are ignored, because nothing is left to report them on.
    pub(super) fn log(&self, level: Level, text: &str) {
        let Some(priority) = self.priority(level) else { return };
        let name = level.name();
        print_error(&format!("conmon {} <{name}>", self.id), text);
        if let Some(socket) = &self.syslog {
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
        for (level, names) in [
            (Level::Error, &["error", "fatal", "panic"][..]),
            (Level::Warn, &["warn", "warning"]),
            (Level::Info, &["info"]),
            (Level::Debug, &["debug"]),
            (Level::Trace, &["trace"]),
        ] {
            assert_eq!(level.name(), names[0]);
            assert!(names.iter().all(|name| Level::parse(Some(name.as_ref())) == Ok(level)), "{names:?}");
        }
    }

    #[test]
    fn a_message_is_written_up_to_the_level_and_with_its_severity() {
        let all = [Level::Error, Level::Warn, Level::Info, Level::Debug, Level::Trace];
        // The facility is 1 (user), in bits 3 and up.
        let priorities = [Some(8 + 3), Some(8 + 4), Some(8 + 6), Some(8 + 7), Some(8 + 7)];
        for (number, level) in all.into_iter().enumerate() {
            let messages = Messages::new(level, false, "0765");
            let mut expected = priorities;
            expected[number + 1..].fill(None);
            assert_eq!(all.map(|level| messages.priority(level)), expected);
        }
    }

    #[test]
    fn of_a_long_id_the_beginning_is_shown() {
        assert_eq!(Messages::new(Level::Warn, false, &"x".repeat(64)).id, "x".repeat(20));
    }
}
