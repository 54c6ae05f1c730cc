//! `--log-path`: the log driver and the file.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::arguments::Arguments;
use super::error::Error;
use crate::stdio::{JournalFields, Log, LogFile};

/// Characters of the short id in the journal, by which a user distinguishes containers.
const SHORT_ID: usize = 12;

/// The targets of the output besides the attached clients.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Logs {
    pub(super) logs: Vec<Log>,
    /// Whether the process has the stdio of the shim's caller.
    pub(super) passthrough: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Driver<'a> {
    File(&'a Path),
    Journald,
    Nothing,
    Passthrough,
}

impl Logs {
    /// Combines all `--log-path` options.
    pub(super) fn of(arguments: &Arguments) -> Result<Logs, Error> {
        if arguments.log_path.is_empty() {
            return Err(Error::Missing("Log driver", "--log-path"));
        }
        check_max_files(arguments)?;
        let mut all = Logs::default();
        for word in &arguments.log_path {
            match driver(word)? {
                Driver::File(path) => all.logs.push(Log::K8s(file(path, arguments))),
                Driver::Journald => all.logs.push(Log::Journald(journal(arguments)?)),
                Driver::Nothing => {}
                Driver::Passthrough => all.passthrough = true,
            }
        }
        let journald = all.logs.iter().any(|log| matches!(log, Log::Journald(_)));
        if !journald && (arguments.log_tag.is_some() || !arguments.log_label.is_empty()) {
            // k8s-file stands for every other driver in conmon's words.
            let option = if arguments.log_tag.is_some() { "--log-tag" } else { "--log-label" };
            return Err(invalid(format!("k8s-file doesn't support {option}: it is only for the log driver journald")));
        }
        if all.passthrough && (arguments.terminal || !all.logs.is_empty()) {
            return Err(invalid("the log driver passthrough goes with no terminal and no other log"));
        }
        Ok(all)
    }
}

fn invalid(text: impl Into<String>) -> Error {
    Error::Invalid(text.into())
}

fn driver(word: &OsStr) -> Result<Driver<'_>, Error> {
    let bytes = word.as_bytes();
    let (name, path) = match bytes.iter().position(|&byte| byte == b':') {
        Some(at) => (&bytes[..at], Some(&bytes[at + 1..])),
        None => (bytes, None),
    };
    let path = path.map(OsStr::from_bytes).filter(|path| !path.is_empty()).map(Path::new);
    match (name, path) {
        (b"none" | b"off" | b"null", _) => Ok(Driver::Nothing),
        (b"passthrough", _) => Ok(Driver::Passthrough),
        (b"journald", _) => Ok(Driver::Journald),
        (b"k8s-file", path) => path.map(Driver::File).ok_or_else(|| invalid("k8s-file requires a filename")),
        (b"", Some(path)) => Ok(Driver::File(path)),
        (b"", None) => Err(invalid("log-path must not be empty")),
        (_, None) if bytes.len() == name.len() => Ok(Driver::File(Path::new(word))),
        _ => Err(invalid(format!("No such log driver {}", String::from_utf8_lossy(name)))),
    }
}

/// The bounds are conmon's.
fn check_max_files(arguments: &Arguments) -> Result<(), Error> {
    let text = match arguments.log_max_files {
        Some(..0) => "log-max-files must be non-negative",
        Some(1001..) => "log-max-files cannot exceed 1000",
        Some(0) if arguments.log_rotate => "log-max-files must be at least 1 when log-rotate is enabled",
        _ => return Ok(()),
    };
    Err(invalid(text))
}

/// Zero and negative numbers mean no limit.
fn limit(bytes: Option<i64>) -> Option<u64> {
    bytes.and_then(|bytes| u64::try_from(bytes).ok()).filter(|&bytes| bytes > 0)
}

fn file(path: &Path, arguments: &Arguments) -> LogFile {
    let kept = arguments.log_max_files.map_or(1, |n| u32::try_from(n).unwrap_or(1).max(1));
    LogFile {
        path: path.into(),
        below: arguments.log_allowlist_dir.iter().map(PathBuf::from).collect(),
        max_size: limit(arguments.log_size_max),
        max_files: if arguments.log_rotate { kept } else { 0 },
        max_total: limit(arguments.log_global_size_max),
        sync: !arguments.no_sync_log,
    }
}

/// The journal drops a field with another name.
fn check_label(label: &str) -> Result<(), Error> {
    let (name, _) = label.split_once('=').unwrap_or_default();
    if name.is_empty() {
        let text = format!("Container labels must be in format LABEL=VALUE (no LABEL present in {label:?})");
        return Err(invalid(text));
    }
    if !name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_') {
        let text = "Container label names must contain only uppercase letters, numbers and underscore";
        return Err(invalid(format!("{text} (in {label:?})")));
    }
    Ok(())
}

fn journal(arguments: &Arguments) -> Result<JournalFields, Error> {
    let text = |word: &Option<std::ffi::OsString>| {
        word.as_ref().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default()
    };
    let labels: Vec<String> = arguments.log_label.iter().map(|label| label.to_string_lossy().into_owned()).collect();
    for label in &labels {
        check_label(label)?;
    }
    if arguments.cid.as_ref().is_none_or(|id| id.len() <= SHORT_ID) {
        return Err(invalid(format!("Container ID must be longer than {SHORT_ID} characters")));
    }
    Ok(JournalFields {
        id: text(&arguments.cuuid),
        name: text(&arguments.name),
        tag: text(&arguments.log_tag),
        labels,
        partial: !arguments.no_container_partial_message,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logs(words: &[&str]) -> Result<Logs, Error> {
        let words = ["-c", "0123456789abc", "-u", "0123", "-n", "web"].iter().chain(words).map(Into::into).collect();
        Logs::of(&Arguments::parse(words).expect("options"))
    }

    #[test]
    fn drivers_are_told_from_paths_as_conmon_does() {
        let file = |path: &'static str| Ok(Driver::File(Path::new(path)));
        assert_eq!(driver("k8s-file:/a:b".as_ref()), file("/a:b"));
        // podman writes this format too when it is asked for json-file, and then asks for k8s-file.
        assert_eq!(driver("json-file:/a".as_ref()), Err(invalid("No such log driver json-file")));
        assert_eq!(driver("/var/log/x".as_ref()), file("/var/log/x"));
        assert_eq!(driver(":none".as_ref()), file("none"));
        assert_eq!(driver("journald:".as_ref()), Ok(Driver::Journald));
        for none in ["none", "off", "null"] {
            assert_eq!(driver(none.as_ref()), Ok(Driver::Nothing));
        }
        for bad in ["k8s-file", "k8s-file:", "", ":", "moon:/x", "moon:"] {
            assert!(driver(bad.as_ref()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn limits_and_rotation_are_the_files() {
        let made = logs(&["-l", "/x", "--log-size-max", "10", "--log-rotate", "--log-max-files=3", "--no-sync-log"]);
        let file = LogFile { path: "/x".into(), max_size: Some(10), max_files: 3, ..LogFile::default() };
        assert_eq!(made, Ok(Logs { logs: vec![Log::K8s(file)], passthrough: false }));
        let made = logs(&["-l", "/x", "--log-size-max", "-1", "--log-max-files=3", "--log-global-size-max", "9"]);
        let file = LogFile { path: "/x".into(), max_total: Some(9), sync: true, ..LogFile::default() };
        assert_eq!(made, Ok(Logs { logs: vec![Log::K8s(file)], passthrough: false }));
        let made = logs(&["-l", "/x/y", "--log-allowlist-dir", "/x", "--log-allowlist-dir=/z"]);
        let below = vec!["/x".into(), "/z".into()];
        let file = LogFile { path: "/x/y".into(), below, sync: true, ..LogFile::default() };
        assert_eq!(made, Ok(Logs { logs: vec![Log::K8s(file)], passthrough: false }));
        for (number, rotate, text) in [
            ("-1", false, "log-max-files must be non-negative"),
            ("1001", true, "log-max-files cannot exceed 1000"),
            ("0", true, "log-max-files must be at least 1 when log-rotate is enabled"),
        ] {
            let number = format!("--log-max-files={number}");
            let words: &[&str] = if rotate { &["-l", "/x", "--log-rotate", &number] } else { &["-l", "/x", &number] };
            assert_eq!(logs(words).map_err(|error| error.to_string()), Err(text.to_owned()));
        }
        assert!(logs(&["-l", "/x", "--log-max-files=0"]).is_ok(), "there is nothing to keep without rotation");
    }

    #[test]
    fn the_journal_has_the_names() {
        let made = logs(&["-l", "journald", "--log-tag", "t", "--log-label", "A=b=c"]).expect("a journal");
        let journal = JournalFields {
            id: "0123".into(),
            name: "web".into(),
            tag: "t".into(),
            labels: vec!["A=b=c".into()],
            partial: true,
        };
        assert_eq!(made.logs, [Log::Journald(journal)]);
        let refused = |label: &str| logs(&["-l", "journald", "--log-label", label]).expect_err(label).to_string();
        for label in ["A", "=b", ""] {
            assert!(refused(label).starts_with("Container labels must be in format LABEL=VALUE"), "{label:?}");
        }
        for label in ["a=b", "A%=b", "A B=c"] {
            assert!(refused(label).starts_with("Container label names must contain only uppercase"), "{label:?}");
        }
        assert!(logs(&["-l", "journald", "-c", "0123456789ab"]).is_err(), "a short id is a name for several");
        for (option, value) in [("--log-label", "A=b"), ("--log-tag", "t")] {
            let error = logs(&["-l", "/x", option, value]).expect_err("labels and tags are the journal's");
            assert!(error.to_string().starts_with(&format!("k8s-file doesn't support {option}")), "{error}");
        }
    }

    #[test]
    fn passthrough_stands_alone() {
        assert_eq!(logs(&["-l", "passthrough"]).map(|logs| logs.passthrough), Ok(true));
        assert!(logs(&["-l", "passthrough", "-t"]).is_err());
        assert!(logs(&["-l", "passthrough", "-l", "/x"]).is_err());
        assert!(logs(&[]).is_err(), "a log path is needed");
    }
}
