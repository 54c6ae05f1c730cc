//! The runtime: its binary, its arguments, and its messages.

use std::ffi::OsString;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::NewProcess;
use super::pipe::KEPT;

/// How long a call may take before it is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Any call but these of `short`.
    pub long: Duration,
    /// A call of kill or delete.
    pub short: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts { long: Duration::from_secs(120), short: Duration::from_secs(10) }
    }
}

/// The runtime's binary and the arguments before its verb.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runtime {
    /// Absolute path.
    pub binary: PathBuf,
    /// `--root R`, `--log F --log-format json`, `--systemd-cgroup` and the like.
    pub global: Vec<OsString>,
    /// The file of `--log`, if there is one. The last error in it is the message of a failed call. A long file is
    /// emptied before a call, unless another call runs.
    pub log: Option<PathBuf>,
}

impl Runtime {
    /// The default: `windlass` beside the binary of the shim, or in PATH; otherwise `runc` in PATH.
    pub fn find() -> Option<PathBuf> {
        let beside = std::env::current_exe().ok().and_then(|exe| exe.parent().map(|dir| dir.join("windlass")));
        beside
            .filter(|path| path.is_file())
            .or_else(|| Runtime::lookup("windlass".as_ref()))
            .or_else(|| Runtime::lookup("runc".as_ref()))
    }

    /// Finds a program as a shell does: a name with a slash is a path, any other is looked up in PATH.
    pub fn lookup(name: &Path) -> Option<PathBuf> {
        if name.as_os_str().as_encoded_bytes().contains(&b'/') {
            return Some(name.into());
        }
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).map(|dir| dir.join(name)).find(|path| path.is_file())
    }
}

impl Runtime {
    /// `create` or `restore`, without the console socket and the id.
    pub(super) fn create(&self, bundle: &Path, process: &NewProcess) -> Vec<OsString> {
        let mut arguments = self.global.clone();
        arguments.extend([process.making.verb().into(), "--bundle".into(), bundle.into()]);
        arguments.extend(["--pid-file".into(), process.pid_file.clone().into_os_string()]);
        arguments.extend(process.arguments.iter().cloned());
        arguments
    }

    /// `exec --detach`, without the console socket and the id.
    pub(super) fn exec(&self, process: &NewProcess) -> Vec<OsString> {
        let mut arguments = self.global.clone();
        arguments.extend(["exec".into(), "--pid-file".into(), process.pid_file.clone().into_os_string()]);
        if let Some(file) = &process.process_file {
            arguments.extend(["--process".into(), file.clone().into_os_string()]);
        }
        arguments.push("--detach".into());
        arguments.extend(process.arguments.iter().cloned());
        arguments
    }

    /// Any other verb.
    pub(super) fn verb(&self, verb: &[OsString], id: &str) -> Vec<OsString> {
        let mut arguments = self.global.clone();
        arguments.extend(verb.iter().cloned());
        arguments.push(id.into());
        arguments
    }

    /// The length of the file of `--log` before a call, so that an old error is not taken for a new one. With
    /// `empty` a long file is truncated first, which is right only if no other call may still log an error.
    pub(super) fn log_length_before_call(&self, empty: bool) -> u64 {
        let Some(log) = &self.log else { return 0 };
        let length = std::fs::metadata(log).map_or(0, |log| log.len());
        if !empty || length <= KEPT as u64 {
            return length;
        }
        let emptied = std::fs::OpenOptions::new().write(true).truncate(true).open(log);
        if emptied.is_ok() { 0 } else { length }
    }

    /// Why a call has failed: the last error in the log after the first `log_length` bytes, otherwise the standard
    /// error of the call.
    pub(super) fn error_message(&self, stderr: &[u8], log_length: u64) -> String {
        let logged = self.log.as_ref().and_then(|log| {
            let file = windlass_sys::fd::open(log, nix::fcntl::OFlag::O_RDONLY).ok()?;
            let mut file = std::fs::File::from(file);
            // The file is shorter if it was truncated meanwhile.
            let from = log_length.min(file.metadata().ok()?.len());
            file.seek(std::io::SeekFrom::Start(from)).ok()?;
            let mut text = Vec::new();
            file.take(KEPT as u64).read_to_end(&mut text).ok()?;
            last_error(&text)
        });
        logged.unwrap_or_else(|| String::from_utf8_lossy(stderr).trim().to_string())
    }
}

/// The `msg` of the last line of level `error` (or worse) in a log of JSON lines.
fn last_error(text: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct LogRecord {
        level: String,
        msg: String,
    }
    text.split(|&byte| byte == b'\n')
        .rev()
        .filter_map(|line| serde_json::from_slice::<LogRecord>(line).ok())
        .find(|line| matches!(line.level.as_str(), "error" | "fatal" | "panic"))
        .map(|line| line.msg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_of_the_log_is_the_message() {
        let log = b"{\"level\":\"error\",\"msg\":\"one\"}\n{\"level\":\"error\",\"msg\":\"two\"}\n{\"level\":\"warning\",\"msg\":\"w\"}\nnot json\n";
        assert_eq!(last_error(log).as_deref(), Some("two"));
        assert_eq!(last_error(b""), None);
    }

    #[test]
    fn a_name_with_a_slash_is_a_path() {
        assert_eq!(Runtime::lookup(Path::new("./x")), Some("./x".into()));
        assert_eq!(Runtime::lookup(Path::new("surely-there-is-no-such-program")), None);
    }
}
