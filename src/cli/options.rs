//! What the command line asks for, as types.

use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use log::LevelFilter;
use nix::fcntl::OFlag;

use super::update::Update;
use super::values::{self as of_exec, SubCgroup};
use windlass_args::{Environment, Matches, values};
use windlass_base::error::{Doing, Error, Result};
use windlass_plan::exec::Request;
use windlass_sys::fd;

/// What stands before the verb.
#[derive(Clone, Debug)]
pub struct Global {
    /// Directory of the containers' state.
    pub root: PathBuf,
    /// Where messages go besides standard error.
    pub log: Option<PathBuf>,
    /// How they are written there.
    pub log_format: LogFormat,
    /// Least severe message to log.
    pub log_level: LevelFilter,
    /// Log every step with its duration; the same as `log_level` being debug or below.
    pub debug: bool,
    /// What would be ignored with a warning is an error.
    pub strict: bool,
    /// Who makes the cgroup.
    pub cgroup_manager: CgroupManager,
    /// Tolerate missing cgroup permissions; `None`: find out.
    pub rootless: Option<bool>,
    /// The name this program goes by: `windlass`, or `runc` where it is installed under it.
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

/// Who makes the cgroup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CgroupManager {
    /// The runtime, by writes to the cgroup filesystem.
    #[default]
    Cgroupfs,
    /// systemd, over D-Bus.
    Systemd,
    /// Nobody: the container stays in the caller's cgroup.
    Disabled,
}

/// Format of a listing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// One command.
#[derive(Clone, Debug)]
pub enum Command {
    /// Make a container.
    Create(Create),
    /// Run the program of a created container.
    Start {
        /// The container.
        id: String,
    },
    /// Create and start.
    Run(Run),
    /// Run another program in a container.
    Exec(Box<Exec>),
    /// Send a signal.
    Kill {
        /// The container.
        id: String,
        /// Number of the signal.
        signal: i32,
        /// To every process.
        all: bool,
    },
    /// Remove a container.
    Delete {
        /// The container.
        id: String,
        /// Kill it first; a missing container is no error.
        force: bool,
    },
    /// Print the state.
    State {
        /// The container.
        id: String,
    },
    /// List containers.
    List {
        /// Table or JSON.
        format: Format,
        /// Ids only.
        quiet: bool,
    },
    /// List processes.
    Ps {
        /// The container.
        id: String,
        /// Table or JSON.
        format: Format,
        /// Arguments of ps(1); empty: `-ef`.
        args: Vec<OsString>,
    },
    /// Freeze.
    Pause {
        /// The container.
        id: String,
    },
    /// Thaw.
    Resume {
        /// The container.
        id: String,
    },
    /// Change limits.
    Update(Box<Update>),
    /// Print usage and events.
    Events {
        /// The container.
        id: String,
        /// Time between two lines.
        interval: Duration,
        /// One line only.
        stats: bool,
    },
    /// Write a config.json.
    Spec {
        /// Directory to write into.
        bundle: PathBuf,
        /// For a user without privileges.
        rootless: bool,
    },
    /// Print what the runtime can do.
    Features,
    /// Print the plan of create.
    Explain(Explain),
    /// Judge a bundle.
    Check {
        /// The bundle.
        bundle: PathBuf,
        /// In place of its config.json.
        config: Option<PathBuf>,
        /// Text or JSON: `Table` is text.
        format: Format,
    },
    /// Say what this host can do.
    Doctor {
        /// As JSON.
        json: bool,
    },
    /// Print a text (help, the version) and exit 0.
    Print(String),
}

/// Options of `create`.
#[derive(Clone, Debug, Default)]
pub struct Create {
    /// The container.
    pub id: String,
    /// The bundle.
    pub bundle: PathBuf,
    /// In place of its config.json; relative to the working directory.
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
    /// What it shares with `create`.
    pub create: Create,
    /// Do not wait.
    pub detach: bool,
    /// Do not delete the container afterwards.
    pub keep: bool,
    /// Do not adopt orphans.
    pub no_subreaper: bool,
}

/// Options of `exec`.
#[derive(Clone, Debug, Default)]
pub struct Exec {
    /// The container.
    pub id: String,
    /// What the flags say of the process.
    pub request: Request,
    /// A file with the whole process; the flags that describe a process have no effect then.
    pub process: Option<PathBuf>,
    /// Socket that gets the terminal's master end.
    pub console_socket: Option<PathBuf>,
    /// Socket that gets a pidfd of the process.
    pub pidfd_socket: Option<PathBuf>,
    /// File that gets the process id.
    pub pid_file: Option<PathBuf>,
    /// Do not wait.
    pub detach: bool,
    /// Descriptors to pass besides 0, 1, 2 and those of `LISTEN_FDS`.
    pub preserve_fds: u32,
    /// Cgroups below the container's.
    pub cgroup: Vec<SubCgroup>,
    /// Even if the container is paused.
    pub ignore_paused: bool,
}

/// Options of `explain`.
#[derive(Clone, Debug, Default)]
pub struct Explain {
    /// Name to plan for; `None`: the name of the bundle's directory.
    pub id: Option<String>,
    /// The bundle.
    pub bundle: PathBuf,
    /// In place of its config.json.
    pub config: Option<PathBuf>,
    /// Text or JSON: `Table` is text.
    pub format: Format,
    /// As for create.
    pub no_pivot: bool,
    /// As for create.
    pub no_new_keyring: bool,
}

/// A document that a flag names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Standard input (`-`).
    Stdin,
    /// A file.
    File(PathBuf),
}

impl Source {
    /// The whole document, up to [`fd::DOCUMENT`] bytes.
    pub fn read(&self) -> Result<Vec<u8>> {
        let opened = match self {
            Source::Stdin => fd::duplicate(std::io::stdin().as_fd()),
            Source::File(path) => fd::open(path, OFlag::O_RDONLY),
        };
        opened.and_then(|file| fd::read_all(file, fd::DOCUMENT)).doing(|| match self {
            Source::Stdin => "cannot read standard input".to_string(),
            Source::File(path) => format!("cannot read {path:?}"),
        })
    }
}

impl Global {
    /// What holds when no flag is given.
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
            name,
        }
    }

    /// Takes over what the flags say.
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
        self.rootless = match () {
            () if matches.is("rootless", "true") => Some(true),
            () if matches.is("rootless", "false") => Some(false),
            () => None,
        };
    }
}

impl Global {
    /// Takes over `--debug`, which may stand after the verb too.
    pub(super) fn read_debug(&mut self, matches: &Matches) {
        if matches.switch("debug") {
            self.log_level = LevelFilter::Debug;
        }
        self.debug = self.log_level >= LevelFilter::Debug;
    }
}

/// The command of a verb that was read without a fault.
pub(super) fn command(verb: &str, matches: &Matches) -> Result<Command> {
    let id = || values::container_id(matches.operands.first().map_or(OsStr::new(""), OsString::as_os_str));
    Ok(match verb {
        "create" => Command::Create(create(id()?, matches)?),
        "start" => Command::Start { id: id()? },
        "run" => Command::Run(Run {
            create: create(id()?, matches)?,
            detach: matches.switch("detach"),
            keep: matches.switch("keep"),
            no_subreaper: matches.switch("no-subreaper"),
        }),
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
        "features" => Command::Features,
        "doctor" => Command::Doctor { json: matches.switch("json") },
        "explain" => Command::Explain(Explain {
            id: matches.operands.first().map(|word| values::container_id(word)).transpose()?,
            bundle: bundle(matches),
            config: matches.path("config"),
            format: format(matches),
            no_pivot: matches.switch("no-pivot"),
            no_new_keyring: matches.switch("no-new-keyring"),
        }),
        "check" => Command::Check { bundle: bundle(matches), config: matches.path("config"), format: format(matches) },
        other => return Err(Error::usage(format!("No help topic for '{other}'"))),
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
        preserve_fds: matches.number("preserve-fds")?.unwrap_or(0),
    })
}

fn exec(id: String, matches: &Matches) -> Result<Exec> {
    let request = Request {
        args: matches.operands[1..].iter().map(argument).collect::<Result<_>>()?,
        tty: matches.switch("tty"),
        cwd: matches.text("cwd")?,
        env: matches.texts("env")?,
        user: match matches.texts("user")?.last() {
            // Empty is no user, and not the default one either.
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
        preserve_fds: matches.number("preserve-fds")?.unwrap_or(0),
        cgroup: matches.texts("cgroup")?.iter().map(|text| of_exec::sub_cgroup(text)).collect::<Result<_>>()?,
        ignore_paused: matches.switch("ignore-paused"),
    };
    match (&exec.process, exec.request.args.is_empty()) {
        (None, true) => Err(Error::usage("exec args cannot be empty")),
        _ => Ok(exec),
    }
}

/// config.json could not hold it either: JSON is UTF-8.
fn argument(word: &OsString) -> Result<String> {
    let utf8 = word.to_str().map(str::to_owned);
    utf8.ok_or_else(|| Error::usage(format!("exec: argument {:?} is not UTF-8", word.to_string_lossy())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_without_an_end_is_refused() {
        let failed = Source::File("/dev/zero".into()).read().expect_err("no end");
        assert_eq!(failed.errno(), Some(nix::errno::Errno::EFBIG));
        assert_eq!(failed.message(), "cannot read \"/dev/zero\": file too large");
        let missing = Source::File("/no/such".into()).read().expect_err("missing");
        assert_eq!(missing.message(), "cannot read \"/no/such\": no such file or directory");
    }
}
