//! One error type for the whole runtime.
//!
//! Every failure answers the same questions: what was being done (the first line, in the wording that engines match),
//! which element of the configuration or which flag asked for it, at which step, by which call, with which errno, and,
//! if known, what to do about it.
//!
//! Errors cross a process boundary (init reports to the runtime over a socket), so the type is
//! plain data and survives serialisation whole.

use std::borrow::Cow;
use std::fmt;

pub use nix::errno::Errno;
use serde::{Deserialize, Serialize};

/// The result of anything that can fail in the runtime.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The kind of an error, for callers to branch on. The names are stable; they are the `kind` key of the JSON log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The configuration breaks the specification or contradicts itself.
    InvalidConfig,
    /// The configuration is valid, but this host or this build cannot do it.
    Unsupported,
    /// The command line is wrong.
    Usage,
    /// The container (or another named thing) does not exist.
    NotFound,
    /// The container id is taken.
    AlreadyExists,
    /// The container is not in a state that allows the operation.
    WrongStatus,
    /// The program to run does not exist in the container.
    ExecutableNotFound,
    /// The program to run may not be executed, the caller may not do this, or a file is not trusted.
    PermissionDenied,
    /// A hook failed.
    Hook,
    /// A system call failed.
    Kernel,
    /// systemd refused, or could not be reached.
    Systemd,
    /// The two halves of the runtime did not understand each other, or one of them died. Also a fault of windlass
    /// itself, such as a plan that uses a source twice.
    Protocol,
    /// A file of the runtime's own is damaged or of an unknown version.
    State,
}

/// The origin of the action that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// An element of `config.json`, as a JSON Pointer (RFC 6901).
    Config(Cow<'static, str>),
    /// A command-line flag.
    Flag(Cow<'static, str>),
    /// The runtime does it for every container, for the reason given.
    Default(Cow<'static, str>),
}

impl Origin {
    /// An element of `config.json`.
    pub fn config(pointer: impl Into<Cow<'static, str>>) -> Origin {
        Origin::Config(pointer.into())
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Config(pointer) => f.write_str(pointer),
            Origin::Flag(flag) => f.write_str(flag),
            Origin::Default(why) => write!(f, "({why})"),
        }
    }
}

/// A system call that failed: the call as strace would print it, and its errno.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyscallError {
    /// For example `openat2([5]</run/rootfs>, "etc/passwd", O_PATH, RESOLVE_IN_ROOT)`.
    pub call: Cow<'static, str>,
    /// The errno that the kernel returned.
    pub errno: Errno,
}

impl SyscallError {
    /// Whether the call failed only because descriptors or memory were short.
    pub fn is_shortage(&self) -> bool {
        matches!(self.errno, Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM)
    }

    /// Adds what was being done, as the user reads it.
    pub fn context(self, what: impl fmt::Display) -> Error {
        self.in_words(&what)
    }

    /// The function is not generic, so that there is one copy of it.
    fn in_words(self, what: &dyn fmt::Display) -> Error {
        Error::new(Kind::Kernel, format!("{what}: {}", describe(self.errno))).caused_by(self)
    }
}

impl fmt::Display for SyscallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.call, describe(self.errno))
    }
}

/// The errno's text in lower case, as Go's callers expect it (`no such file or directory`).
pub fn describe(errno: Errno) -> String {
    errno.desc().to_ascii_lowercase()
}

/// Adds to a failed call what was being done, as the user reads it. The words are those of the crate anyhow.
pub trait WithContext<T> {
    /// `what` is evaluated only on failure.
    fn with_context<D: fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T>;
}

impl<T> WithContext<T> for std::result::Result<T, SyscallError> {
    fn with_context<D: fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|failed| failed.context(what()))
    }
}

impl<T> WithContext<T> for std::io::Result<T> {
    fn with_context<D: fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|error| io_error(&error, &what()))
    }
}

fn io_error(error: &std::io::Error, what: &dyn fmt::Display) -> Error {
    match error.raw_os_error() {
        Some(raw) => {
            let mut out = Error::new(Kind::Kernel, format!("{what}: {}", describe(Errno::from_raw(raw))));
            out.0.errno = Some(raw);
            out
        }
        None => Error::new(Kind::Kernel, format!("{what}: {error}")),
    }
}

/// One remark about a configuration: a fault, which makes it invalid, or a warning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// JSON Pointer into `config.json`.
    pub pointer: String,
    /// The fault, in the wording that engines match, if there is one.
    pub msg: String,
}

/// A failure and everything known about it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Error(Box<Inner>);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Inner {
    kind: Kind,
    message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    origin: Option<Origin>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    step: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    call: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    errno: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    faults: Vec<Diagnostic>,
}

impl Error {
    /// A failure of `kind`; `message` is its first line.
    pub fn new(kind: Kind, message: impl Into<String>) -> Error {
        Error(Box::new(Inner {
            kind,
            message: message.into(),
            origin: None,
            step: None,
            call: None,
            errno: None,
            hint: None,
            faults: Vec::new(),
        }))
    }

    /// An error in `config.json` at `pointer`.
    pub fn config(pointer: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Error {
        Error::new(Kind::InvalidConfig, message).with_origin(Origin::config(pointer))
    }

    /// An error in the command line.
    pub fn usage(message: impl Into<String>) -> Error {
        Error::new(Kind::Usage, message)
    }

    /// Several faults of one configuration; the first gives the message. `faults` is not empty.
    pub fn faults(faults: Vec<Diagnostic>) -> Error {
        let first = faults
            .first()
            .cloned()
            .unwrap_or(Diagnostic { pointer: String::new(), msg: "invalid configuration".into() });
        let mut error = Error::config(first.pointer, first.msg);
        if faults.len() > 1 {
            error.0.faults = faults;
        }
        error
    }

    /// Records the call and the errno.
    pub fn caused_by(mut self, failed: SyscallError) -> Error {
        self.0.call = Some(format!("{} = {:?}", failed.call, failed.errno));
        self.0.errno = Some(failed.errno as i32);
        self
    }

    /// Records the origin, unless something nearer to the cause already did.
    pub fn with_origin(mut self, origin: Origin) -> Error {
        self.0.origin.get_or_insert(origin);
        self
    }

    /// Replaces the origin, when the cause is known more exactly than at the time of the failure.
    pub fn blame(mut self, origin: Origin) -> Error {
        self.0.origin = Some(origin);
        self
    }

    /// Adds other faults of the configuration, besides the one that made it fail.
    pub fn and_faults(mut self, others: Vec<Diagnostic>) -> Error {
        let own = match (&self.0.origin, self.0.faults.is_empty()) {
            (Some(Origin::Config(pointer)), true) => {
                Diagnostic { pointer: pointer.to_string(), msg: self.0.message.clone() }
            }
            (Some(Origin::Config(_)), false) => {
                self.0.faults.extend(others);
                return self;
            }
            _ => return self,
        };
        if !others.is_empty() {
            self.0.faults = std::iter::once(own).chain(others).collect();
        }
        self
    }

    /// Records the step, unless something nearer to the cause already did.
    pub fn with_step(mut self, step: impl Into<String>) -> Error {
        self.0.step.get_or_insert_with(|| step.into());
        self
    }

    /// Records a hint, unless there is one already.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Error {
        self.0.hint.get_or_insert_with(|| hint.into());
        self
    }

    /// Changes the kind.
    pub fn with_kind(mut self, kind: Kind) -> Error {
        self.0.kind = kind;
        self
    }

    /// Puts a text before the message.
    pub fn prefixed(mut self, prefix: impl fmt::Display) -> Error {
        self.0.message = format!("{prefix}: {}", self.0.message);
        self
    }

    /// A copy with no text longer than `chars` characters, and with few of its faults.
    pub fn shortened(&self, chars: usize) -> Error {
        let cut = |text: &str| match text.char_indices().nth(chars) {
            Some((at, _)) => format!("{}…", &text[..at]),
            None => text.to_string(),
        };
        let origin = |origin: &Origin| match origin {
            Origin::Config(text) => Origin::Config(cut(text).into()),
            Origin::Flag(text) => Origin::Flag(cut(text).into()),
            Origin::Default(text) => Origin::Default(cut(text).into()),
        };
        let fault = |fault: &Diagnostic| Diagnostic { pointer: cut(&fault.pointer), msg: cut(&fault.msg) };
        Error(Box::new(Inner {
            kind: self.0.kind,
            message: cut(&self.0.message),
            origin: self.0.origin.as_ref().map(origin),
            step: self.0.step.as_deref().map(cut),
            call: self.0.call.as_deref().map(cut),
            errno: self.0.errno,
            hint: self.0.hint.as_deref().map(cut),
            faults: self.0.faults.iter().take(chars / 64).map(fault).collect(),
        }))
    }

    /// The kind of the error.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The first line.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The origin, if it is known.
    pub fn origin(&self) -> Option<&Origin> {
        self.0.origin.as_ref()
    }

    /// The step, if it is known.
    pub fn step(&self) -> Option<&str> {
        self.0.step.as_deref()
    }

    /// The failed call with its errno, as strace would print them.
    pub fn call(&self) -> Option<&str> {
        self.0.call.as_deref()
    }

    /// The errno, if a call failed.
    pub fn errno(&self) -> Option<Errno> {
        self.0.errno.map(Errno::from_raw)
    }

    /// The hint, if there is one.
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// All faults of the configuration, if more than one is known.
    pub fn all_faults(&self) -> &[Diagnostic] {
        &self.0.faults
    }
}

impl Error {
    /// All faults of the configuration, at least one: the error itself if it has no others.
    pub fn into_faults(self) -> Vec<Diagnostic> {
        if !self.0.faults.is_empty() {
            return self.0.faults;
        }
        let pointer = match self.0.origin {
            Some(Origin::Config(pointer)) => pointer.into_owned(),
            _ => String::new(),
        };
        vec![Diagnostic { pointer, msg: self.0.message }]
    }
}

impl From<SyscallError> for Error {
    fn from(failed: SyscallError) -> Error {
        Error::new(Kind::Kernel, failed.to_string()).caused_by(failed)
    }
}

/// Shows the first line in a printable form: see [`printable`].
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable(&self.0.message))
    }
}

/// Text for a terminal and for readers of lines. A configuration or an image may put anything into a
/// path, an argument or a name; a line feed would begin a line that looks like another message, and an
/// escape sequence would be obeyed. Such characters are shown as Rust writes them, `\n` and `\u{1b}`.
pub fn printable(text: &str) -> Cow<'_, str> {
    // Line and paragraph separators, and characters that change the direction of the text, are escaped as well.
    let shown = |c: char| {
        !c.is_control() && !matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if text.chars().all(shown) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if shown(c) { out.push(c) } else { out.extend(c.escape_default()) }
    }
    Cow::Owned(out)
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_origin_and_step_win() {
        let error =
            Error::config("/mounts/7/source", "x").with_origin(Origin::config("/mounts")).with_step("a").with_step("b");
        assert_eq!(error.origin(), Some(&Origin::config("/mounts/7/source")));
        assert_eq!(error.step(), Some("a"));
    }

    #[test]
    fn a_failed_call_is_worded_in_lower_case() {
        let failed = SyscallError { call: "open(\"/x\")".into(), errno: Errno::ENOENT };
        let error = failed.context("cannot open \"/x\"");
        assert_eq!(error.message(), "cannot open \"/x\": no such file or directory");
        assert_eq!(error.call(), Some("open(\"/x\") = ENOENT"));
        assert_eq!(error.errno(), Some(Errno::ENOENT));
    }

    #[test]
    fn what_a_terminal_would_obey_is_shown_as_an_escape() {
        assert_eq!(printable("plain \u{e9} \"quoted\" \\n"), "plain \u{e9} \"quoted\" \\n");
        assert_eq!(printable("a\nb\r\t\u{1b}[2J\u{7f}\u{9b}\u{202e}"), "a\\nb\\r\\t\\u{1b}[2J\\u{7f}\\u{9b}\\u{202e}");
        let error = Error::usage("no such file: \"x\ntime=0 level=error\"");
        assert_eq!(error.to_string(), "no such file: \"x\\ntime=0 level=error\"");
        assert_eq!(error.message(), "no such file: \"x\ntime=0 level=error\"", "the log has its own quoting");
    }

    #[test]
    fn a_shortened_error_keeps_what_fits() {
        let error = Error::config("/a", "é".repeat(9)).with_hint("short").with_step("long step");
        let short = error.shortened(5);
        assert_eq!(short.message(), "ééééé…");
        assert_eq!((short.hint(), short.step()), (Some("short"), Some("long …")));
        assert_eq!(short.origin(), error.origin());
    }

    #[test]
    fn an_error_survives_the_process_boundary() {
        let error = Error::faults(vec![
            Diagnostic { pointer: "/a".into(), msg: "one".into() },
            Diagnostic { pointer: "/b".into(), msg: "two".into() },
        ])
        .with_hint("mend it");
        let text = serde_json::to_string(&error).expect("plain data");
        assert_eq!(serde_json::from_str::<Error>(&text).expect("round trip"), error);
    }
}
