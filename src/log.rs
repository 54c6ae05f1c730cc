//! Messages, in the file of `--log` and on standard error.
//!
//! Callers read both. podman parses the whole log of a failed command as one JSON object, so a failure is exactly
//! one line there, with the warnings inside. conmon gives the runtime the container's own standard error, so with a
//! log a command that succeeds writes nothing there, unless it is a terminal.
//!
//! The log is opened for appending and each line is one write, so the lines of commands that share a log do not mix.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use log::LevelFilter;
use nix::fcntl::OFlag;
use serde::Serialize;

use crate::cli::options::{Global, LogFormat};
use windlass_base::error::{Diagnostic, Error, Kind, Origin, Result, WithContext, printable};
use windlass_base::hint;
use windlass_base::rfc3339;
use windlass_sys::fd;
use windlass_sys::poll::Deadline;

/// The time that a line waits for the reader of a full FIFO. Then it is lost.
const READER_TIME: Duration = Duration::from_secs(10);

/// The destination of messages.
#[derive(Debug)]
pub(crate) struct Log {
    file: Option<File>,
    /// Whether the log is standard error.
    is_stderr: bool,
    format: LogFormat,
    level: LevelFilter,
    /// Whether a line could not be written in its time.
    is_lost: AtomicBool,
}

impl Log {
    /// Opens the file of `--log`, if it was given.
    pub(crate) fn open(global: &Global) -> Result<Log> {
        let mut log = Log::stderr(global);
        let Some(path) = &global.log else { return Ok(log) };
        if path == Path::new("/dev/stderr") {
            // If standard error is a socket it cannot be opened by name.
            log.is_stderr = true;
            return Ok(log);
        }
        // A FIFO without a reader is an error: the open does not wait.
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o644)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(path)
            .with_context(|| format!("cannot open the log {path:?}"))
            .map_err(|error| error.with_origin(Origin::Flag("--log".into())))?;
        log.is_stderr = same_file(file.as_fd(), io::stderr().as_fd());
        log.file = Some(file);
        Ok(log)
    }

    /// A log without a file, to report that the file cannot be opened.
    pub(crate) fn stderr(global: &Global) -> Log {
        let is_stderr = global.log_format == LogFormat::Json && global.log.is_none();
        Log {
            file: None,
            is_stderr,
            format: global.log_format,
            level: global.log_level,
            is_lost: AtomicBool::new(false),
        }
    }

    /// Whether debug lines are logged.
    pub(crate) fn debugs(&self) -> bool {
        self.level >= LevelFilter::Debug
    }

    /// Reports a failed command, with the warnings so far.
    pub(crate) fn fail(&self, error: &Error, warnings: &[Diagnostic]) {
        let now = SystemTime::now();
        if self.file.is_some() || self.is_stderr {
            match self.format {
                LogFormat::Json => self.line(&json_failure(error, warnings, now)),
                LogFormat::Text => {
                    warnings.iter().for_each(|warning| self.line(&text_warning(warning, now)));
                    self.line(&text_failure(error, now));
                }
            }
        }
        if !self.is_stderr {
            // Scripts look for the word `error`, which is in the `level=error` of other runtimes.
            let prefix = if self.file.is_none() { "error: " } else { "" };
            to_stderr(&format!("{prefix}{}", as_text(error, warnings)));
        }
    }

    /// Reports the warnings of a successful command.
    pub(crate) fn warn(&self, warnings: &[Diagnostic]) {
        if self.level < LevelFilter::Warn {
            return;
        }
        let now = SystemTime::now();
        for warning in warnings {
            if self.file.is_some() || self.is_stderr {
                match self.format {
                    LogFormat::Json => self.line(&json_warning(warning, now)),
                    LogFormat::Text => self.line(&text_warning(warning, now)),
                }
            }
            // With a log, standard error may be the container's.
            if !self.is_stderr && (self.file.is_none() || io::stderr().is_terminal()) {
                to_stderr(&format!("warning: {}\n", printable(&located(warning))));
            }
        }
    }

    /// Writes a debug line.
    pub(crate) fn debug(&self, message: &str) {
        if !self.debugs() {
            return;
        }
        let now = SystemTime::now();
        match self.format {
            LogFormat::Json => self.line(&json(&JsonLine::new("debug", message, now))),
            LogFormat::Text => self.line(&text("debug", message, now, &[])),
        }
    }

    /// Makes this log the logger of the `log` crate until the process ends.
    pub(crate) fn install(self) -> &'static Log {
        let log: &'static Log = Box::leak(Box::new(self));
        if log.debugs() && log::set_logger(log).is_ok() {
            log::set_max_level(log.level);
        }
        log
    }

    /// Writes one line. An error is ignored: there is nowhere to report it, and the command itself can go on.
    fn line(&self, line: &str) {
        let _ = match &self.file {
            // If one line got no reader in time, the next lines do not wait.
            Some(_) if self.is_lost.load(Ordering::Relaxed) => false,
            Some(file) => fd::write_all(file.as_fd(), line.as_bytes(), Deadline::after(READER_TIME))
                .inspect_err(|_| self.is_lost.store(true, Ordering::Relaxed))
                .is_ok(),
            None => io::stderr().write_all(line.as_bytes()).is_ok(),
        };
    }
}

impl log::Log for Log {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= self.level
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            self.debug(&record.args().to_string());
        }
    }

    fn flush(&self) {}
}

fn same_file(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> bool {
    let (Ok(one), Ok(other)) = (nix::sys::stat::fstat(one), nix::sys::stat::fstat(other)) else { return false };
    (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}

fn to_stderr(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

/// One line of the JSON log. Callers read level, msg and time; the other keys are in docs/compatibility.md.
#[derive(Serialize)]
struct JsonLine<'a> {
    level: &'static str,
    msg: &'a str,
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<Kind>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pointer: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flag: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    call: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    errno: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
    #[serde(skip_serializing_if = "<[Diagnostic]>::is_empty")]
    warnings: &'a [Diagnostic],
    #[serde(skip_serializing_if = "<[Diagnostic]>::is_empty")]
    faults: &'a [Diagnostic],
}

impl<'a> JsonLine<'a> {
    fn new(level: &'static str, msg: &'a str, now: SystemTime) -> JsonLine<'a> {
        JsonLine {
            level,
            msg,
            time: rfc3339::seconds(now),
            kind: None,
            pointer: None,
            flag: None,
            reason: None,
            step: None,
            call: None,
            errno: None,
            hint: None,
            warnings: &[],
            faults: &[],
        }
    }
}

fn json(line: &JsonLine<'_>) -> String {
    serde_json::to_string(line).expect("a struct of strings always serialises") + "\n"
}

fn json_failure(error: &Error, warnings: &[Diagnostic], now: SystemTime) -> String {
    let mut line = JsonLine::new("error", error.message(), now);
    match error.origin() {
        Some(Origin::Config(pointer)) => line.pointer = Some(pointer),
        Some(Origin::Flag(flag)) => line.flag = Some(flag),
        Some(Origin::Default(reason)) => line.reason = Some(reason),
        None => {}
    }
    line.kind = Some(error.kind());
    line.step = error.step();
    line.call = error.call();
    line.errno = error.errno().map(|errno| format!("{errno:?}"));
    line.hint = hint_of(error);
    line.warnings = warnings;
    line.faults = error.all_faults();
    json(&line)
}

fn json_warning(warning: &Diagnostic, now: SystemTime) -> String {
    let mut line = JsonLine::new("warning", &warning.msg, now);
    line.pointer = Some(&warning.pointer);
    json(&line)
}

fn text(level: &str, message: &str, now: SystemTime, more: &[(&str, String)]) -> String {
    let mut out = format!("time=\"{}\" level={level} msg={message:?}", rfc3339::seconds(now));
    for (key, value) in more {
        let plain = value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._/@^+".contains(&byte));
        match plain && !value.is_empty() {
            true => write!(out, " {key}={value}"),
            false => write!(out, " {key}={value:?}"),
        }
        .expect("a String takes everything");
    }
    out + "\n"
}

fn text_failure(error: &Error, now: SystemTime) -> String {
    let kind = serde_json::to_value(error.kind()).expect("a unit variant serialises");
    let mut more = vec![("kind", kind.as_str().unwrap_or_default().to_owned())];
    more.extend(error.origin().map(|origin| match origin {
        Origin::Config(pointer) => ("pointer", pointer.to_string()),
        Origin::Flag(flag) => ("flag", flag.to_string()),
        Origin::Default(reason) => ("reason", reason.to_string()),
    }));
    more.extend(error.step().map(|step| ("step", step.to_owned())));
    more.extend(error.call().map(|call| ("call", call.to_owned())));
    more.extend(error.errno().map(|errno| ("errno", format!("{errno:?}"))));
    more.extend(hint_of(error).map(|hint| ("hint", hint.to_owned())));
    more.extend(error.all_faults().iter().skip(1).map(|fault| ("fault", located(fault))));
    text("error", error.message(), now, &more)
}

fn text_warning(warning: &Diagnostic, now: SystemTime) -> String {
    text("warning", &warning.msg, now, &[("pointer", warning.pointer.clone())])
}

/// The text for standard error. Callers match the first line; the details stand below it.
fn as_text(error: &Error, warnings: &[Diagnostic]) -> String {
    let mut out = format!("{error}\n");
    let mut row = |name: &str, text: &str| {
        writeln!(out, "  {name:<10} {}", printable(text)).expect("a String takes everything");
    };
    match error.origin() {
        Some(Origin::Config(pointer)) => row("asked by", format!("config.json {pointer}").trim_end()),
        Some(Origin::Flag(flag)) => row("asked by", flag),
        Some(Origin::Default(reason)) => row("because", reason),
        None => {}
    }
    if let Some(call) = error.call() {
        row("call", call);
    }
    if let Some(step) = error.step() {
        row("where", step);
    }
    if let Some(hint) = hint_of(error) {
        row("hint", hint);
    }
    error.all_faults().iter().skip(1).for_each(|fault| row("also", &located(fault)));
    warnings.iter().for_each(|warning| row("warning", &located(warning)));
    out
}

fn hint_of(error: &Error) -> Option<&str> {
    error.hint().or_else(|| hint::for_error(error))
}

fn located(fault: &Diagnostic) -> String {
    match fault.pointer.as_str() {
        "" => fault.msg.clone(),
        pointer => format!("{} ({pointer})", fault.msg),
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use nix::errno::Errno;

    use super::*;
    use windlass_base::error::SyscallError;

    fn bind() -> Error {
        SyscallError { call: "open_tree(AT_FDCWD, \"/no\", OPEN_TREE_CLONE)".into(), errno: Errno::ENOENT }
            .context("cannot bind \"/no\" on \"/data\"")
            .with_origin(Origin::config("/mounts/7/source"))
            .with_step("parent, for init step 7 of 61")
            .with_hint("make it first")
    }

    fn warning() -> Diagnostic {
        Diagnostic { pointer: "/process/capabilities/bounding/3".into(), msg: "unknown capability \"CAP_X\"".into() }
    }

    #[test]
    fn a_failure_is_one_json_line_with_the_warnings_inside() {
        let line = json_failure(&bind(), &[warning()], UNIX_EPOCH);
        assert_eq!(line.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        let expected = serde_json::json!({
            "level": "error",
            "msg": "cannot bind \"/no\" on \"/data\": no such file or directory",
            "time": "1970-01-01T00:00:00Z",
            "kind": "kernel",
            "pointer": "/mounts/7/source",
            "step": "parent, for init step 7 of 61",
            "call": "open_tree(AT_FDCWD, \"/no\", OPEN_TREE_CLONE) = ENOENT",
            "errno": "ENOENT",
            "hint": "make it first",
            "warnings": [{"pointer": "/process/capabilities/bounding/3", "msg": "unknown capability \"CAP_X\""}],
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn a_bare_failure_has_only_what_callers_read_and_its_kind() {
        let line = json_failure(&Error::new(Kind::NotFound, "container does not exist"), &[], UNIX_EPOCH);
        assert_eq!(
            line,
            "{\"level\":\"error\",\"msg\":\"container does not exist\",\"time\":\"1970-01-01T00:00:00Z\",\"kind\":\"not-found\"}\n"
        );
    }

    #[test]
    fn a_line_feed_in_a_message_does_not_make_two_lines() {
        let error = Error::new(Kind::Hook, "hook said:\n\"no\"\n");
        assert_eq!(json_failure(&error, &[], UNIX_EPOCH).matches('\n').count(), 1);
        assert_eq!(text_failure(&error, UNIX_EPOCH).matches('\n').count(), 1);
    }

    #[test]
    fn all_faults_are_in_the_line() {
        let faults = vec![
            Diagnostic { pointer: "/a".into(), msg: "one".into() },
            Diagnostic { pointer: "/b".into(), msg: "two".into() },
        ];
        let value: serde_json::Value =
            serde_json::from_str(&json_failure(&Error::faults(faults.clone()), &[], UNIX_EPOCH)).expect("JSON");
        assert_eq!(value["msg"], "one");
        assert_eq!(value["faults"], serde_json::to_value(&faults).expect("plain data"));
        assert_eq!(as_text(&Error::faults(faults), &[]), "one\n  asked by   config.json /a\n  also       two (/b)\n");
    }

    #[test]
    fn people_read_the_message_first_and_the_rest_indented() {
        assert_eq!(
            as_text(&bind(), &[warning()]),
            "cannot bind \"/no\" on \"/data\": no such file or directory\n  \
               asked by   config.json /mounts/7/source\n  \
               call       open_tree(AT_FDCWD, \"/no\", OPEN_TREE_CLONE) = ENOENT\n  \
               where      parent, for init step 7 of 61\n  \
               hint       make it first\n  \
               warning    unknown capability \"CAP_X\" (/process/capabilities/bounding/3)\n"
        );
    }

    #[test]
    fn nothing_in_a_failure_begins_a_line_or_reaches_a_terminal_raw() {
        let evil = "x\n\u{1b}[31mtime=\"1\" level=error";
        let fault = Diagnostic { pointer: format!("/annotations/{evil}"), msg: evil.into() };
        let error = SyscallError { call: format!("open({evil})").into(), errno: Errno::ENOENT }
            .context(evil)
            .with_origin(Origin::Flag(evil.to_string().into()))
            .with_step(evil)
            .with_hint(evil);
        let text = as_text(&error, &[fault]);
        assert_eq!(text.lines().count(), 6, "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
    }

    #[test]
    fn the_text_format_quotes_what_needs_it() {
        let error = Error::usage("flag needs an argument: -root")
            .with_origin(Origin::Flag("--root".into()))
            .with_hint("a \"b\"");
        assert_eq!(
            text_failure(&error, UNIX_EPOCH),
            "time=\"1970-01-01T00:00:00Z\" level=error msg=\"flag needs an argument: -root\" kind=usage flag=--root hint=\"a \\\"b\\\"\"\n"
        );
    }

    fn scratch(name: &str) -> std::path::PathBuf {
        std::env::temp_dir().join(format!("windlass-log-{}-{name}", std::process::id()))
    }

    fn global(path: &Path, format: LogFormat, level: LevelFilter) -> Global {
        let environment = windlass_args::Environment { euid: 0, runtime_dir: None, borrowed_root: false };
        let mut global = Global::default_for("windlass", &environment);
        global.log = Some(path.to_owned());
        global.log_format = format;
        global.log_level = level;
        global
    }

    #[test]
    fn two_commands_append_to_one_log() {
        let path = scratch("append");
        let global = global(&path, LogFormat::Json, LevelFilter::Info);
        let (one, two) = (Log::open(&global).expect("writable"), Log::open(&global).expect("writable"));
        one.fail(&Error::new(Kind::NotFound, "one"), &[]);
        two.fail(&Error::new(Kind::NotFound, "two"), &[warning()]);
        one.debug("not wanted");
        let text = std::fs::read_to_string(&path).expect("written");
        std::fs::remove_file(&path).expect("there");
        let messages: Vec<_> = text
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON")["msg"].clone())
            .collect();
        assert_eq!(messages, ["one", "two"]);
    }

    #[test]
    fn a_log_that_cannot_be_opened_names_the_flag() {
        let error = Log::open(&global(Path::new("/nonexistent/dir/log"), LogFormat::Json, LevelFilter::Info))
            .expect_err("no such directory");
        assert_eq!(error.message(), "cannot open the log \"/nonexistent/dir/log\": no such file or directory");
        assert_eq!(error.origin(), Some(&Origin::Flag("--log".into())));
    }
}
