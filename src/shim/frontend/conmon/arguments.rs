//! conmon's command line, by the rules of GLib's option parser.
//!
//! An option is `--name VALUE`, `--name=VALUE` or `-b VALUE`, but not `-bVALUE`. Flags may be grouped (`-it`). A value
//! may be empty or begin with a dash. Operands are ignored, because podman writes `--api-version 1` although the
//! option is a flag.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::error::Error;

/// The parsed command line.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Arguments {
    pub(super) help: bool,
    pub(super) version: bool,
    pub(super) api_version: bool,
    pub(super) bundle: Option<OsString>,
    pub(super) cid: Option<OsString>,
    pub(super) cuuid: Option<OsString>,
    pub(super) name: Option<OsString>,
    pub(super) runtime: Option<OsString>,
    pub(super) runtime_args: Vec<OsString>,
    pub(super) runtime_opts: Vec<OsString>,
    pub(super) systemd_cgroup: bool,
    pub(super) no_pivot: bool,
    pub(super) no_new_keyring: bool,
    pub(super) conmon_pidfile: Option<OsString>,
    pub(super) container_pidfile: Option<OsString>,
    pub(super) exec: bool,
    pub(super) exec_attach: bool,
    pub(super) exec_process_spec: Option<OsString>,
    pub(super) restore: Option<OsString>,
    pub(super) terminal: bool,
    pub(super) stdin: bool,
    pub(super) leave_stdin_open: bool,
    pub(super) full_attach: bool,
    pub(super) socket_dir_path: Option<OsString>,
    pub(super) log_path: Vec<OsString>,
    pub(super) log_level: Option<OsString>,
    pub(super) log_size_max: Option<i64>,
    pub(super) log_global_size_max: Option<i64>,
    pub(super) log_rotate: bool,
    pub(super) log_max_files: Option<i64>,
    pub(super) log_allowlist_dir: Vec<OsString>,
    pub(super) log_tag: Option<OsString>,
    pub(super) log_label: Vec<OsString>,
    pub(super) no_container_partial_message: bool,
    pub(super) no_sync_log: bool,
    pub(super) syslog: bool,
    pub(super) exit_dir: Option<OsString>,
    pub(super) persist_dir: Option<OsString>,
    pub(super) exit_command: Option<OsString>,
    pub(super) exit_command_args: Vec<OsString>,
    pub(super) exit_delay: Option<i64>,
    pub(super) timeout: Option<i64>,
    pub(super) sdnotify_socket: Option<OsString>,
    pub(super) seccomp_notify_socket: Option<OsString>,
    pub(super) seccomp_notify_plugins: Option<OsString>,
    pub(super) sync: bool,
    pub(super) replace_listen_pid: bool,
}

/// The field that an option's value is stored in.
enum OptionField {
    Flag(fn(&mut Arguments) -> &mut bool),
    Text(fn(&mut Arguments) -> &mut Option<OsString>),
    List(fn(&mut Arguments) -> &mut Vec<OsString>),
    Number(fn(&mut Arguments) -> &mut Option<i64>),
}

struct OptionEntry {
    long: &'static str,
    short: u8,
    value: OptionField,
    help: &'static str,
}

/// The value of [`OptionEntry::short`] for an option without a short name.
const NONE: u8 = 0;

const fn flag(long: &'static str, short: u8, to: fn(&mut Arguments) -> &mut bool, help: &'static str) -> OptionEntry {
    OptionEntry { long, short, value: OptionField::Flag(to), help }
}

const fn text(
    long: &'static str,
    short: u8,
    to: fn(&mut Arguments) -> &mut Option<OsString>,
    help: &'static str,
) -> OptionEntry {
    OptionEntry { long, short, value: OptionField::Text(to), help }
}

const fn list(
    long: &'static str,
    short: u8,
    to: fn(&mut Arguments) -> &mut Vec<OsString>,
    help: &'static str,
) -> OptionEntry {
    OptionEntry { long, short, value: OptionField::List(to), help }
}

const fn number(
    long: &'static str,
    short: u8,
    to: fn(&mut Arguments) -> &mut Option<i64>,
    help: &'static str,
) -> OptionEntry {
    OptionEntry { long, short, value: OptionField::Number(to), help }
}

#[rustfmt::skip]
const ENTRIES: &[OptionEntry] = &[
    flag("help", b'h', |a| &mut a.help, "Show this help"),
    flag("version", NONE, |a| &mut a.version, "Print the version"),
    flag("api-version", NONE, |a| &mut a.api_version, "Answer on the sync pipe in the form that podman reads"),
    text("bundle", b'b', |a| &mut a.bundle, "Directory of the OCI bundle"),
    text("cid", b'c', |a| &mut a.cid, "Id of the container"),
    text("cuuid", b'u', |a| &mut a.cuuid, "Full id of the container, or of the exec session"),
    text("name", b'n', |a| &mut a.name, "Name of the container"),
    text("runtime", b'r', |a| &mut a.runtime, "Path of the OCI runtime"),
    list("runtime-arg", NONE, |a| &mut a.runtime_args, "Argument for the runtime before its command; may be repeated"),
    list("runtime-opt", NONE, |a| &mut a.runtime_opts, "Argument for the runtime after its command; may be repeated"),
    flag("systemd-cgroup", b's', |a| &mut a.systemd_cgroup, "Give the runtime --systemd-cgroup"),
    flag("no-pivot", NONE, |a| &mut a.no_pivot, "Give the runtime --no-pivot"),
    flag("no-new-keyring", NONE, |a| &mut a.no_new_keyring, "Give the runtime --no-new-keyring"),
    text("conmon-pidfile", b'P', |a| &mut a.conmon_pidfile, "File for the process id of conmon"),
    text("container-pidfile", b'p', |a| &mut a.container_pidfile, "File for the process id of the container"),
    text("pidfile", NONE, |a| &mut a.container_pidfile, "Old name of --container-pidfile"),
    flag("exec", b'e', |a| &mut a.exec, "Run a process in a running container"),
    flag("exec-attach", NONE, |a| &mut a.exec_attach, "Start the process of --exec when the caller has attached"),
    text("exec-process-spec", NONE, |a| &mut a.exec_process_spec, "File with the OCI process of --exec"),
    text("restore", NONE, |a| &mut a.restore, "Directory of a checkpoint to restore"),
    list("restore-arg", NONE, |a| &mut a.runtime_opts, "Old name of --runtime-opt"),
    flag("terminal", b't', |a| &mut a.terminal, "Give the process a terminal"),
    flag("stdin", b'i', |a| &mut a.stdin, "Give the process a pipe as its standard input"),
    flag("leave-stdin-open", NONE, |a| &mut a.leave_stdin_open, "Keep standard input open when an attached client's input ends"),
    flag("full-attach", NONE, |a| &mut a.full_attach, "Make no link to the attach socket: it is in the bundle only"),
    text("socket-dir-path", NONE, |a| &mut a.socket_dir_path, "Directory for links to attach sockets"),
    list("log-path", b'l', |a| &mut a.log_path, "Log: DRIVER:PATH, DRIVER or PATH; may be repeated"),
    text("log-level", NONE, |a| &mut a.log_level, "Lowest level of conmon's own messages: error, warn, info, debug, trace"),
    number("log-size-max", NONE, |a| &mut a.log_size_max, "Size in bytes at which the log is truncated or rotated"),
    number("log-global-size-max", NONE, |a| &mut a.log_global_size_max, "Bytes in all after which logging stops"),
    flag("log-rotate", NONE, |a| &mut a.log_rotate, "Rotate the log: keep full files as LOG.1, LOG.2, ..."),
    number("log-max-files", NONE, |a| &mut a.log_max_files, "Number of full files that are kept"),
    list("log-allowlist-dir", NONE, |a| &mut a.log_allowlist_dir, "Directory that logs must be below; may be repeated"),
    text("log-tag", NONE, |a| &mut a.log_tag, "Tag of the entries in the journal"),
    list("log-label", NONE, |a| &mut a.log_label, "KEY=VALUE for the entries in the journal; may be repeated"),
    flag("no-container-partial-message", NONE, |a| &mut a.no_container_partial_message, "Do not mark partial lines in the journal"),
    flag("no-sync-log", NONE, |a| &mut a.no_sync_log, "Do not sync logs at the end"),
    flag("syslog", NONE, |a| &mut a.syslog, "Send conmon's own messages to syslog too"),
    text("exit-dir", NONE, |a| &mut a.exit_dir, "Directory for the file with the exit status, whose name is the container's id"),
    text("persist-dir", b'0', |a| &mut a.persist_dir, "Directory for the files exit and oom"),
    text("exit-command", NONE, |a| &mut a.exit_command, "Program to run when the container has ended"),
    list("exit-command-arg", NONE, |a| &mut a.exit_command_args, "Argument of the exit command; may be repeated"),
    number("exit-delay", NONE, |a| &mut a.exit_delay, "Seconds to wait before the exit command"),
    number("timeout", b'T', |a| &mut a.timeout, "Seconds after which the process is killed"),
    text("sdnotify-socket", NONE, |a| &mut a.sdnotify_socket, "Socket to which the container's sd_notify messages are relayed"),
    text("seccomp-notify-socket", NONE, |a| &mut a.seccomp_notify_socket, "Not supported"),
    text("seccomp-notify-plugins", NONE, |a| &mut a.seccomp_notify_plugins, "Not supported"),
    flag("sync", NONE, |a| &mut a.sync, "Do not fork: stay the caller's child"),
    flag("replace-listen-pid", NONE, |a| &mut a.replace_listen_pid, "Set LISTEN_PID to the runtime's process id"),
];

/// The output of `--help`.
pub(super) fn help() -> String {
    let mut out = String::from("Usage:\n  conmon [OPTION…] - windlass-shim in the role of conmon\n\nOptions:\n");
    for entry in ENTRIES {
        let short = if entry.short == NONE { String::new() } else { format!("-{}, ", char::from(entry.short)) };
        out += &format!("  {:<32}{}\n", format!("{short}--{}", entry.long), entry.help);
    }
    out
}

impl Arguments {
    /// Parses the arguments after the program's name.
    pub(super) fn parse(words: Vec<OsString>) -> Result<Arguments, Error> {
        let mut arguments = Arguments::default();
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            match word.as_bytes() {
                b"--" => break,
                [b'-', b'-', long @ ..] => arguments.long(long, &mut words)?,
                [b'-', group @ ..] if !group.is_empty() => arguments.group(group, &mut words)?,
                _ => {}
            }
        }
        Ok(arguments)
    }

    fn long(&mut self, word: &[u8], words: &mut impl Iterator<Item = OsString>) -> Result<(), Error> {
        let (name, value) = match word.iter().position(|&byte| byte == b'=') {
            Some(at) => (&word[..at], Some(OsString::from_vec(word[at + 1..].to_vec()))),
            None => (word, None),
        };
        let shown = || format!("--{}", String::from_utf8_lossy(name));
        let entry = ENTRIES.iter().find(|entry| entry.long.as_bytes() == name);
        match entry {
            Some(OptionEntry { value: OptionField::Flag(_), .. }) if value.is_some() => {
                Err(Error::Parse(format!("{} takes no value", shown())))
            }
            Some(entry) => self.take(entry, value, words),
            None => Err(Error::Parse(format!("Unknown option {}", shown()))),
        }
    }

    fn group(&mut self, letters: &[u8], words: &mut impl Iterator<Item = OsString>) -> Result<(), Error> {
        let mut valued = false;
        for &letter in letters {
            let shown = char::from(letter);
            let entry = ENTRIES.iter().find(|entry| entry.short == letter && letter != NONE);
            let entry = entry.ok_or_else(|| Error::Parse(format!("Unknown option -{shown}")))?;
            if !matches!(entry.value, OptionField::Flag(_)) && std::mem::replace(&mut valued, true) {
                let text = format!("Error parsing option -{shown}: one value for two options");
                return Err(Error::Parse(text));
            }
            self.take(entry, None, words)?;
        }
        Ok(())
    }

    fn take(
        &mut self,
        entry: &OptionEntry,
        given: Option<OsString>,
        words: &mut impl Iterator<Item = OsString>,
    ) -> Result<(), Error> {
        if let OptionField::Flag(to) = entry.value {
            *to(self) = true;
            return Ok(());
        }
        let missing = || Error::Parse(format!("Missing argument for --{}", entry.long));
        let value = given.or_else(|| words.next()).ok_or_else(missing)?;
        match entry.value {
            OptionField::Flag(_) => {}
            OptionField::Text(to) => *to(self) = Some(value),
            OptionField::List(to) => to(self).push(value),
            OptionField::Number(to) => *to(self) = Some(integer(&value, entry.long)?),
        }
        Ok(())
    }
}

fn integer(value: &OsStr, name: &str) -> Result<i64, Error> {
    let parsed = value.to_str().and_then(|text| text.trim().parse().ok());
    parsed.ok_or_else(|| Error::Parse(format!("Cannot parse integer value {value:?} for --{name}")))
}

#[cfg(test)]
#[path = "arguments/tests.rs"]
mod tests;
