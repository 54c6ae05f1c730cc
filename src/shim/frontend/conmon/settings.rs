//! The settings that the command line gives the supervisor.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::AccessFlags;

use super::arguments::Arguments;
use super::error::Error;
use super::logs::Logs;
use super::messages::Level;
use super::pipes::NumberKey;
use crate::{Container, ExitFile, Making, NewProcess, Output, ProcessId, Runtime, Stdin, Stdio, Timeouts};

/// The timeout of a call of the runtime. It is long, because the caller has its own timeout and kills the shim.
const CALL: Duration = Duration::from_secs(24 * 60 * 60);

/// The default directory of CRI-O's attach sockets.
const SOCKETS: &str = "/var/run/crio";

/// The settings of one shim.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) container: Container,
    pub(super) key: NumberKey,
    pub(super) attach_first: bool,
    pub(super) passthrough: bool,
    /// Whether the shim does not fork, and so stays the caller's child.
    pub(super) stay: bool,
    pub(super) pid_file: Option<PathBuf>,
    pub(super) endpoints: Option<EndpointPaths>,
    /// The socket of the service manager.
    pub(super) notify_socket: Option<String>,
    pub(super) timeout: Option<Duration>,
    pub(super) exit: Option<ExitCommand>,
    pub(super) listen_pid: bool,
    pub(super) level: Level,
    pub(super) syslog: bool,
}

/// The places of the attach socket and the control fifos.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct EndpointPaths {
    pub(super) bundle: PathBuf,
    /// A link to the bundle with a short name, for the socket's address.
    pub(super) link: Option<PathBuf>,
}

/// The command that runs after everything else.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ExitCommand {
    pub(super) program: OsString,
    pub(super) arguments: Vec<OsString>,
    pub(super) delay: Duration,
}

fn seconds(number: Option<i64>) -> Option<Duration> {
    number.and_then(|n| u64::try_from(n).ok()).filter(|&n| n > 0).map(Duration::from_secs)
}

impl Settings {
    /// Checks the arguments. Returns the settings and the process to create.
    pub(super) fn from_arguments(arguments: Arguments) -> Result<(Settings, NewProcess), Error> {
        let Required { cid, binary } = Required::check(&arguments)?;
        let level = Level::parse(arguments.log_level.as_deref())?;
        let logs = Logs::of(&arguments)?;
        let here = std::env::current_dir()
            .map_err(|error| Error::Invalid(format!("Failed to get working directory: {error}")))?;
        let given = arguments.bundle.as_ref().map(|bundle| here.join(bundle));
        // With the log driver passthrough there is no stdio to attach to.
        let attachable = (given.is_some() || !arguments.exec) && !logs.passthrough;
        let bundle = given.unwrap_or_else(|| here.clone());
        let passthrough = logs.passthrough;
        let persist = arguments.persist_dir.as_ref().map(|directory| here.join(directory));
        let id = cid.to_string_lossy();
        let process = NewProcess {
            id: if arguments.exec { ProcessId::of(&id, "exec") } else { ProcessId::init(&id) },
            stdio: stdio(&arguments, logs),
            pid_file: match &arguments.container_pidfile {
                Some(file) => here.join(file),
                None => here.join(joined("pidfile-", &cid)),
            },
            process_file: arguments.exec_process_spec.as_ref().map(PathBuf::from),
            making: match (arguments.exec, arguments.restore.is_some()) {
                (true, _) => Making::Exec,
                (false, true) => Making::Restore,
                (false, false) => Making::Create,
            },
            arguments: runtime_arguments(&arguments, &bundle),
            preserve_fds: (3..).take(preserved(&arguments.runtime_opts) as usize).collect(),
            exit_files: exit_files(&arguments, &here, persist.as_deref()),
        };
        let runtime = Runtime { binary: here.join(binary), global: global(&arguments), log: None };
        let settings = Settings {
            container: container(&id, runtime, &bundle, persist),
            key: match (arguments.api_version, arguments.exec) {
                (true, _) => NumberKey::Data,
                (false, false) => NumberKey::Pid,
                (false, true) => NumberKey::ExitCode,
            },
            attach_first: arguments.exec && arguments.exec_attach,
            passthrough,
            stay: arguments.sync,
            pid_file: arguments.conmon_pidfile.as_ref().map(|file| here.join(file)),
            endpoints: attachable.then(|| EndpointPaths { link: link(&arguments), bundle }),
            notify_socket: arguments.sdnotify_socket.as_ref().map(|path| path.to_string_lossy().into_owned()),
            timeout: seconds(arguments.timeout),
            exit: arguments.exit_command.map(|program| ExitCommand {
                program,
                arguments: arguments.exit_command_args,
                delay: seconds(arguments.exit_delay).unwrap_or_default(),
            }),
            listen_pid: arguments.replace_listen_pid,
            level,
            syslog: arguments.syslog,
        };
        Ok((settings, process))
    }
}

/// The values of the required options.
struct Required {
    cid: OsString,
    binary: PathBuf,
}

impl Required {
    /// Checks the options in conmon's order, so that the same mistake has the same message.
    fn check(arguments: &Arguments) -> Result<Required, Error> {
        let cid = arguments.cid.clone().ok_or(Error::Missing("Container ID", "--cid"))?;
        check_contradictions(arguments)?;
        // The old interface of exec had none.
        if arguments.cuuid.is_none() && (!arguments.exec || arguments.api_version) {
            return Err(Error::Missing("Container UUID", "--cuuid"));
        }
        let binary = arguments.runtime.as_ref().ok_or(Error::Missing("Runtime path", "--runtime"))?;
        let binary = PathBuf::from(binary);
        nix::unistd::access(&binary, AccessFlags::X_OK).map_err(|errno| {
            Error::Invalid(format!("Runtime path {} is not valid: {}", binary.display(), errno.desc()))
        })?;
        if arguments.exec && arguments.exec_process_spec.is_none() {
            return Err(Error::Missing("Exec process spec path", "--exec-process-spec"));
        }
        if arguments.seccomp_notify_socket.is_some() || arguments.seccomp_notify_plugins.is_some() {
            return Err(Error::Invalid("seccomp notification is not supported".into()));
        }
        Ok(Required { cid, binary })
    }
}

fn check_contradictions(arguments: &Arguments) -> Result<(), Error> {
    let why = match arguments {
        Arguments { exec: true, restore: Some(_), .. } => "Cannot use 'exec' and 'restore' at the same time",
        Arguments { exec: false, exec_attach: true, .. } => "Attach can only be specified with exec",
        Arguments { exec_attach: true, api_version: false, .. } => {
            "Attach can only be specified for a non-legacy exec session"
        }
        _ => return Ok(()),
    };
    Err(Error::Invalid(why.into()))
}

fn container(id: &str, runtime: Runtime, bundle: &Path, persist: Option<PathBuf>) -> Container {
    Container {
        id: id.into(),
        runtime,
        timeouts: Timeouts { long: CALL, short: CALL },
        // Output that is in the pipes when the process ends is moved. The shim does not wait for another process that
        // still holds the pipes.
        drain: Duration::ZERO,
        kill_on_exit: false,
        oom_files: std::iter::once(bundle.join("oom")).chain(persist.map(|dir| dir.join("oom"))).collect(),
        sync: true,
        bundle: bundle.to_owned(),
    }
}

fn joined(prefix: &str, word: &OsStr) -> OsString {
    let mut all = OsString::from(prefix);
    all.push(word);
    all
}

fn stdio(arguments: &Arguments, logs: Logs) -> Stdio {
    let out = || if logs.passthrough { Output::Inherit } else { Output::Attach };
    Stdio {
        terminal: arguments.terminal,
        stdin: match logs.passthrough {
            true => Stdin::Inherit,
            false if arguments.stdin || arguments.terminal => Stdin::Attach { leave_open: arguments.leave_stdin_open },
            false => Stdin::Null,
        },
        stdout: out(),
        stderr: out(),
        logs: logs.logs,
        ..Stdio::default()
    }
}

/// The runtime's arguments before its verb.
fn global(arguments: &Arguments) -> Vec<OsString> {
    let systemd = arguments.systemd_cgroup.then(|| "--systemd-cgroup".into());
    systemd.into_iter().chain(arguments.runtime_args.iter().cloned()).collect()
}

/// The runtime's arguments after its verb, without those that the supervisor adds.
fn runtime_arguments(arguments: &Arguments, bundle: &Path) -> Vec<OsString> {
    let mut flags: Vec<OsString> = Vec::new();
    if !arguments.exec {
        flags.extend(arguments.no_pivot.then(|| "--no-pivot".into()));
        flags.extend(arguments.no_new_keyring.then(|| "--no-new-keyring".into()));
        if let Some(checkpoint) = &arguments.restore {
            // A restored container runs at once. With --detach the runtime does not wait for its end.
            flags.extend(["--detach".into(), "--image-path".into(), checkpoint.clone()]);
            flags.extend(["--work-path".into(), bundle.into()]);
        }
    }
    flags.extend(arguments.runtime_opts.iter().cloned());
    flags
}

/// How many descriptors from 3 on may be passed on to the runtime: those of `--preserve-fds`, and those of socket
/// activation, which the runtime finds itself. Some of them may not be open.
fn preserved(options: &[OsString]) -> u32 {
    let number = |word: &OsStr| word.to_str().and_then(|text| text.parse().ok());
    let asked = options.iter().enumerate().filter_map(|(at, word)| match word.as_bytes() {
        b"--preserve-fds" => options.get(at + 1).and_then(|next| number(next)),
        word => word.strip_prefix(b"--preserve-fds=").and_then(|rest| number(OsStr::from_bytes(rest))),
    });
    let activated = std::env::var_os("LISTEN_FDS").and_then(|text| number(&text));
    asked.chain(activated).max().unwrap_or(0)
}

fn exit_files(arguments: &Arguments, here: &Path, persist: Option<&Path>) -> Vec<ExitFile> {
    let named = arguments.exit_dir.iter().zip(&arguments.cid).map(|(directory, cid)| here.join(directory).join(cid));
    named.chain(persist.map(|directory| directory.join("exit"))).map(ExitFile::Decimal).collect()
}

fn link(arguments: &Arguments) -> Option<PathBuf> {
    if arguments.full_attach {
        return None;
    }
    let directory = arguments.socket_dir_path.as_ref().map_or(Path::new(SOCKETS), Path::new);
    arguments.cuuid.as_ref().map(|cuuid| directory.join(cuuid))
}

#[cfg(test)]
#[path = "settings/tests.rs"]
mod tests;
