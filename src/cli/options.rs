//! The options of each verb.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use log::LevelFilter;

use super::checkpoint::{Checkpoint, RestoreOptions};
use super::update::Update;
use super::values::{self as of_exec, SubCgroup};
use windlass_args::{Environment, Matches, values};
use windlass_base::error::{Error, Result};
use windlass_plan::exec::Request;

/// Exit code of an `exec` that could not run its program.
pub const EXIT_EXEC: u8 = 255;

/// The flags before the verb.
#[derive(Clone, Debug)]
pub struct Global {
    /// The directory with the state of the containers.
    pub root: PathBuf,
    /// A file that messages are appended to, besides standard error.
    pub log: Option<PathBuf>,
    pub log_format: LogFormat,
    /// The least severe level that is logged.
    pub log_level: LevelFilter,
    /// Log every step with its duration. Set if and only if `log_level` is debug or below.
    pub debug: bool,
    /// Treat warnings as errors.
    pub strict: bool,
    pub cgroup_manager: CgroupManager,
    /// Whether to use only delegated cgroups. `None`: only if the user has no privileges.
    pub rootless: Option<bool>,
    /// The path or name of CRIU; `None` for `criu`.
    pub criu: Option<OsString>,
    /// The name in messages: `runc` if the program is called by that name, else `windlass`.
    pub name: &'static str,
}

/// Format of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// `time="…" level=… msg="…"`.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// The creator of the container's cgroup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CgroupManager {
    /// The runtime writes to the cgroup filesystem.
    #[default]
    Cgroupfs,
    /// systemd makes a scope; it is asked over D-Bus.
    Systemd,
    /// The container stays in the caller's cgroup.
    Disabled,
}

/// Format of a listing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// A table, or another text for people.
    #[default]
    Table,
    /// JSON, for programs.
    Json,
}

/// One command.
#[derive(Clone, Debug)]
pub enum Command {
    /// Create a container.
    Create(Create),
    /// Run the program of a created container.
    Start { id: String },
    /// Create a container and start it.
    Run(Run),
    /// Run another program in a container.
    Exec(Box<Exec>),
    /// Send a signal.
    Kill {
        id: String,
        signal: i32,
        /// Send it to every process of the container.
        all: bool,
    },
    /// Remove a container.
    Delete {
        id: String,
        /// Kill it first, and succeed if there is no such container.
        force: bool,
    },
    /// Print the state.
    State { id: String },
    /// List containers.
    List {
        format: Format,
        /// Ids only.
        quiet: bool,
    },
    /// List processes.
    Ps {
        id: String,
        format: Format,
        /// Arguments of ps(1); empty: `-ef`.
        args: Vec<OsString>,
    },
    /// Suspend all processes.
    Pause { id: String },
    /// Resume all processes.
    Resume { id: String },
    /// Change limits.
    Update(Box<Update>),
    /// Print usage and events.
    Events {
        id: String,
        /// Time between two lines.
        interval: Duration,
        /// Print one line and exit.
        stats: bool,
    },
    /// Write a config.json.
    Spec {
        bundle: PathBuf,
        /// For a user without privileges.
        rootless: bool,
    },
    /// Write the processes to disk.
    Checkpoint(Box<Checkpoint>),
    /// Make a container from them again.
    Restore(Box<Restore>),
    /// Print what the runtime can do.
    Features,
    /// Print the plan of create.
    Explain(Explain),
    /// Check a bundle.
    Check { bundle: PathBuf, config: Option<PathBuf>, format: Format },
    /// Check this host.
    Doctor { json: bool },
    /// Print a text (help, the version) and exit 0.
    Print(String),
}

/// Options of `create`.
#[derive(Clone, Debug, Default)]
pub struct Create {
    pub id: String,
    pub bundle: PathBuf,
    /// A file to read in place of the bundle's config.json.
    pub config: Option<PathBuf>,
    /// Socket that gets the terminal's master end.
    pub console_socket: Option<PathBuf>,
    /// Socket that gets a pidfd of the container's process.
    pub pidfd_socket: Option<PathBuf>,
    /// File that gets the process id.
    pub pid_file: Option<PathBuf>,
    /// Move the root over `/` instead of pivoting.
    pub no_pivot: bool,
    /// Keep the caller's session keyring.
    pub no_new_keyring: bool,
    /// Descriptors to pass besides 0, 1, 2 and those of `LISTEN_FDS`.
    pub preserve_fds: u32,
}

/// Options of `run`.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// The options that it shares with `create`.
    pub create: Create,
    /// Do not wait for the end.
    pub detach: bool,
    /// Do not delete the container afterwards.
    pub keep: bool,
    /// Do not become the subreaper of orphaned processes.
    pub no_subreaper: bool,
}

/// Options of `restore`.
#[derive(Clone, Debug, Default)]
pub struct Restore {
    /// The options that it shares with `run`.
    pub run: Run,
    /// The images and how they are restored.
    pub images: RestoreOptions,
}

/// Options of `exec`.
#[derive(Clone, Debug, Default)]
pub struct Exec {
    pub id: String,
    /// The flags that describe the process.
    pub request: Request,
    /// A file with the whole process, which replaces the flags that describe it.
    pub process: Option<PathBuf>,
    /// Socket that gets the terminal's master end.
    pub console_socket: Option<PathBuf>,
    /// Socket that gets a pidfd of the process.
    pub pidfd_socket: Option<PathBuf>,
    /// File that gets the process id.
    pub pid_file: Option<PathBuf>,
    /// Do not wait for the end.
    pub detach: bool,
    /// Descriptors to pass besides 0, 1, 2 and those of `LISTEN_FDS`.
    pub preserve_fds: u32,
    /// The cgroups below the container's that the process starts in.
    pub cgroup: Vec<SubCgroup>,
    /// Allow it in a paused container.
    pub ignore_paused: bool,
}

/// Options of `explain`.
#[derive(Clone, Debug, Default)]
pub struct Explain {
    /// The id to plan for; `None` for the name of the bundle's directory.
    pub id: Option<String>,
    pub bundle: PathBuf,
    /// A file to read in place of the bundle's config.json.
    pub config: Option<PathBuf>,
    pub format: Format,
    pub no_pivot: bool,
    pub no_new_keyring: bool,
    /// The directory of images whose restore is explained, in place of create.
    pub images: Option<PathBuf>,
}

impl Global {
    /// The defaults.
    pub fn default_for(name: &'static str, environment: &Environment) -> Global {
        Global {
            root: environment.root(),
            log: None,
            log_format: LogFormat::Text,
            log_level: LevelFilter::Info,
            debug: false,
            strict: false,
            cgroup_manager: CgroupManager::Cgroupfs,
            rootless: None,
            criu: None,
            name,
        }
    }

    /// Sets the options that flags give.
    pub(super) fn read(&mut self, matches: &Matches) {
        if let Some(root) = matches.path("root") {
            self.root = root;
        }
        self.log = matches.path("log");
        if matches.is("log-format", "json") {
            self.log_format = LogFormat::Json;
        }
        self.log_level = [
            ("error", LevelFilter::Error),
            ("warning", LevelFilter::Warn),
            ("info", LevelFilter::Info),
            ("debug", LevelFilter::Debug),
        ]
        .into_iter()
        .find(|(word, _)| matches.is("log-level", word))
        .map_or(self.log_level, |(_, level)| level);
        self.read_debug(matches);
        self.strict = matches.switch("strict");
        if matches.switch("systemd-cgroup") || matches.is("cgroup-manager", "systemd") {
            self.cgroup_manager = CgroupManager::Systemd;
        }
        if matches.is("cgroup-manager", "disabled") {
            self.cgroup_manager = CgroupManager::Disabled;
        }
        self.criu = matches.path("criu").map(PathBuf::into_os_string);
        self.rootless =
            ["true", "false"].into_iter().find(|word| matches.is("rootless", word)).map(|word| word == "true");
    }
}

impl Global {
    /// Sets `--debug`, which may also stand after the verb.
    pub(super) fn read_debug(&mut self, matches: &Matches) {
        if matches.switch("debug") {
            self.log_level = LevelFilter::Debug;
        }
        self.debug = self.log_level >= LevelFilter::Debug;
    }
}

/// The command of a verb whose words were read without an error, or the error and the exit code.
pub(super) fn command(verb: &str, matches: &Matches) -> Result<Command, (Error, u8)> {
    // Callers expect 255 if the options of an exec contradict each other, and 1 for a wrong flag.
    let exit = if verb == "exec" { EXIT_EXEC } else { 1 };
    options_of(verb, matches).map_err(|error| (error, exit))
}

/// The panic message for a verb that [`options_of`] does not read. A test makes sure that there is none.
const UNREAD: &str = "no options are read for the verb ";

fn options_of(verb: &str, matches: &Matches) -> Result<Command> {
    let id = || values::container_id(matches.operands.first().map_or(OsStr::new(""), OsString::as_os_str));
    Ok(match verb {
        "create" => Command::Create(Create { preserve_fds: preserve_fds(matches)?, ..create(id()?, matches)? }),
        "start" => Command::Start { id: id()? },
        "run" => {
            let mut run = run(id()?, matches)?;
            run.create.preserve_fds = preserve_fds(matches)?;
            Command::Run(run)
        }
        "restore" => {
            Command::Restore(Box::new(Restore { run: run(id()?, matches)?, images: RestoreOptions::read(matches)? }))
        }
        "exec" => Command::Exec(Box::new(exec(id()?, matches)?)),
        "kill" => Command::Kill { id: id()?, signal: signal(matches.operands.get(1))?, all: matches.switch("all") },
        "delete" => Command::Delete { id: id()?, force: matches.switch("force") },
        "state" => Command::State { id: id()? },
        "list" => Command::List { format: format(matches), quiet: matches.switch("quiet") },
        "ps" => Command::Ps { id: id()?, format: format(matches), args: matches.operands[1..].to_vec() },
        "pause" => Command::Pause { id: id()? },
        "resume" => Command::Resume { id: id()? },
        "update" => Command::Update(Box::new(Update::read(id()?, matches)?)),
        "events" => Command::Events {
            id: id()?,
            interval: matches.parsed("interval", values::duration)?.unwrap_or(Duration::from_secs(5)),
            stats: matches.switch("stats"),
        },
        "spec" => Command::Spec { bundle: bundle(matches), rootless: matches.switch("rootless") },
        "checkpoint" => Command::Checkpoint(Box::new(Checkpoint::read(id()?, matches)?)),
        "features" => Command::Features,
        "doctor" => Command::Doctor { json: matches.switch("json") },
        "explain" => Command::Explain(Explain {
            id: matches.operands.first().map(|word| values::container_id(word)).transpose()?,
            bundle: bundle(matches),
            config: matches.path("config"),
            format: format(matches),
            no_pivot: matches.switch("no-pivot"),
            no_new_keyring: matches.switch("no-new-keyring"),
            images: matches.switch("restore").then(|| super::checkpoint::images(matches)),
        }),
        "check" => Command::Check { bundle: bundle(matches), config: matches.path("config"), format: format(matches) },
        other => return Err(Error::usage(format!("{UNREAD}{other}"))),
    })
}

fn bundle(matches: &Matches) -> PathBuf {
    matches.path("bundle").unwrap_or_else(|| PathBuf::from("."))
}

fn format(matches: &Matches) -> Format {
    if matches.is("format", "json") { Format::Json } else { Format::Table }
}

fn signal(word: Option<&OsString>) -> Result<i32> {
    word.map_or(Ok(libc::SIGTERM), |word| values::signal(&word.to_string_lossy()))
}

fn create(id: String, matches: &Matches) -> Result<Create> {
    Ok(Create {
        id,
        bundle: bundle(matches),
        config: matches.path("config"),
        console_socket: matches.path("console-socket"),
        pidfd_socket: matches.path("pidfd-socket"),
        pid_file: matches.path("pid-file"),
        no_pivot: matches.switch("no-pivot"),
        no_new_keyring: matches.switch("no-new-keyring"),
        preserve_fds: 0,
    })
}

fn preserve_fds(matches: &Matches) -> Result<u32> {
    Ok(matches.number("preserve-fds")?.unwrap_or(0))
}

fn run(id: String, matches: &Matches) -> Result<Run> {
    Ok(Run {
        create: create(id, matches)?,
        detach: matches.switch("detach"),
        keep: matches.switch("keep"),
        no_subreaper: matches.switch("no-subreaper"),
    })
}

fn exec(id: String, matches: &Matches) -> Result<Exec> {
    let request = Request {
        args: matches.operands[1..].iter().map(argument).collect::<Result<_>>()?,
        tty: matches.switch("tty"),
        cwd: matches.text("cwd")?,
        env: matches.texts("env")?,
        user: match matches.texts("user")?.last() {
            // An empty user is an error, not the default user.
            Some(text) => Some(of_exec::user(text)?),
            None => None,
        },
        additional_gids: matches.numbers("additional-gids")?,
        process_label: matches.text("process-label")?,
        apparmor: matches.text("apparmor")?,
        no_new_privs: matches.maybe_switch("no-new-privs"),
        caps: matches.texts("cap")?,
    };
    let exec = Exec {
        id,
        request,
        process: matches.path("process"),
        console_socket: matches.path("console-socket"),
        pidfd_socket: matches.path("pidfd-socket"),
        pid_file: matches.path("pid-file"),
        detach: matches.switch("detach"),
        preserve_fds: preserve_fds(matches)?,
        cgroup: matches.texts("cgroup")?.iter().map(|text| of_exec::sub_cgroup(text)).collect::<Result<_>>()?,
        ignore_paused: matches.switch("ignore-paused"),
    };
    match (&exec.process, exec.request.args.is_empty()) {
        (None, true) => Err(Error::usage("exec args cannot be empty")),
        _ => Ok(exec),
    }
}

/// An argument of the program. It must be UTF-8, as in config.json.
fn argument(word: &OsString) -> Result<String> {
    let utf8 = word.to_str().map(str::to_owned);
    utf8.ok_or_else(|| Error::usage(format!("exec: argument {:?} is not UTF-8", word.to_string_lossy())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_options_of_every_verb_of_the_table_are_read() {
        let unread = |verb: &str| options_of(verb, &Matches::default()).is_err_and(|e| e.message().starts_with(UNREAD));
        for verb in crate::cli::table::VERBS {
            assert!(!unread(verb.name), "{} is in the table, and its options are not read", verb.name);
        }
        assert!(unread("other"));
    }
}
