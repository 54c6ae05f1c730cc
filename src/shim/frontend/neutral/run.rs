//! `run` and `adopt`: start a server and print its report.

use std::ffi::{CString, OsStr};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::OFlag;
use serde_json::{Value, json};

use super::container_dir::{ContainerConfig, ContainerDir, VERSION};
use super::wire;
use crate::frontend::stderr::{NAME, print_error};
use crate::refusal::{Refusal, Result};
use crate::server_environment;
use crate::{Code, Runtime};
use windlass_args::Matches;
use windlass_base::spec::Outline;
use windlass_sys::pipe;
use windlass_sys::poll::{self, Deadline};
use windlass_sys::process::Child;
use windlass_sys::spawn::{self, Environment, Spawn};
use windlass_sys::{descriptors, fd};

/// Default of `--drain`, in milliseconds.
const DRAIN: u64 = 10_000;

/// The default limits of a log in the container's directory.
const BOUND: &str = ",max=8m,files=1";
const FILES: &str = ",files=1";

/// Runs `run`. Returns the exit status.
pub(super) fn run(state: &Path, matches: &Matches) -> i32 {
    let result = config(state, matches).and_then(|config| {
        let dir = ContainerDir::of(state, &config.id)?;
        dir.make()?;
        let begun = dir.write_config(&config).and_then(|()| begin("run", &dir));
        // Without a server, nothing was created.
        let server = begun.inspect_err(|_| dir.remove())?;
        server.report(&dir)
    });
    print(result)
}

/// Runs `adopt`. Returns the exit status.
pub(super) fn adopt(state: &Path, id: &str) -> i32 {
    print(ContainerDir::of(state, id).and_then(|dir| {
        dir.config()?;
        begin("adopt", &dir)?.report(&dir)
    }))
}

fn print(result: Result<Value>) -> i32 {
    let line = result.unwrap_or_else(|refusal| json!({"v": 1, "error": wire::error(&refusal)}));
    if let Err(error) = writeln!(std::io::stdout(), "{line}") {
        print_error(NAME, &format!("the answer cannot be printed: {error}: {line}"));
        return 1;
    }
    i32::from(!line["error"].is_null())
}

fn invalid(text: impl Into<String>) -> Refusal {
    Refusal::new(Code::Invalid, text)
}

/// The configuration that the arguments ask for.
fn config(state: &Path, matches: &Matches) -> Result<ContainerConfig> {
    let text = |name: &str| matches.text(name).map_err(|error| invalid(error.to_string()));
    let texts = |name: &str| matches.texts(name).map_err(|error| invalid(error.to_string()));
    let id = text("id")?.ok_or_else(|| invalid("run needs --id"))?;
    windlass_base::id::check_id(&id).map_err(|error| invalid(error.to_string()))?;
    let bundle = absolute(&matches.path("bundle").unwrap_or_else(|| ".".into()))?;
    let runtime = match matches.path("runtime") {
        Some(name) => Runtime::lookup(&name).ok_or_else(|| invalid(format!("no runtime {name:?} in PATH")))?,
        None => Runtime::find().ok_or_else(|| invalid("no runtime: neither windlass nor runc is in PATH"))?,
    };
    let runtime = absolute(&runtime)?;
    is_program(&runtime)?;
    let mut runtime_args = texts("runtime-arg")?;
    // Absolute, because the server and later commands have other working directories.
    let root = text("root")?.map(absolute_text).transpose()?;
    if let Some(root) = &root {
        runtime_args.extend(["--root".to_owned(), root.clone()]);
    }
    let (tty, keep) = (matches.switch("tty"), matches.switch("keep-on-shim-death"));
    if tty && keep {
        return Err(invalid("a terminal cannot outlive the shim: --tty and --keep-on-shim-death exclude each other"));
    }
    let outline = fd::document(bundle.join("config.json"))
        .map_err(|error| invalid(format!("{:?}: {error}", bundle.join("config.json"))))
        .and_then(|text| Outline::read(&text).map_err(|error| invalid(format!("config.json: {error}"))))?;
    let mut logs = texts("log")?;
    if logs.is_empty() {
        logs.push("k8s".into());
    }
    for log in &mut logs {
        *log = placed(log, &absolute(state)?.join(&id))?;
    }
    let drain = matches.number::<f64>("drain").map_err(|error| invalid(error.to_string()))?;
    Ok(ContainerConfig {
        v: VERSION,
        runtime_exit: Some(runtime_exit(root.as_deref(), &id)),
        id,
        bundle,
        runtime,
        runtime_args,
        create_args: texts("create-arg")?,
        restore: matches.path("restore").map(|images| absolute(&images)).transpose()?,
        tty,
        stdin: matches.switch("stdin"),
        logs,
        drain_ms: drain.map_or(DRAIN, |seconds| (seconds.clamp(0.0, 86_400.0) * 1000.0) as u64),
        keep,
        create_only: matches.switch("create-only"),
        kill_on_exit: outline.shares_pids(),
        owner: outline.owner(),
    })
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|error| invalid(format!("{path:?}: {error}")))
}

fn absolute_text(path: String) -> Result<String> {
    let path = absolute(path.as_ref())?.into_os_string();
    path.into_string().map_err(|path| invalid(format!("{path:?} is not UTF-8")))
}

/// Completes a `--log`: without a path, the log is in the container's directory. A relative path becomes absolute.
fn placed(log: &str, dir: &Path) -> Result<String> {
    let (format, rest) = log.split_once(':').unwrap_or((log, ""));
    if !["k8s", "json", "raw"].contains(&format) {
        super::container_dir::log(log, "")?;
        return Ok(log.to_owned());
    }
    let (path, settings) =
        rest.split_once(',').map_or((rest, String::new()), |(path, more)| (path, format!(",{more}")));
    // The container's directory is usually on a tmpfs, whose space other programs need too.
    let bound = if path.is_empty() && !settings.contains(",max=") { BOUND } else { "" };
    let path = if path.is_empty() { dir.join("log") } else { absolute(path.as_ref())? };
    let settings =
        format!("{settings}{}", if settings.contains(",files=") { bound.trim_end_matches(FILES) } else { bound });
    let placed = format!("{format}:{}{settings}", path.display());
    super::container_dir::log(&placed, "")?;
    Ok(placed)
}

/// The state file of windlass, into which the exit is written. Its path depends on the state root and not on the name
/// of the runtime's binary. A file of another runtime is not changed.
fn runtime_exit(root: Option<&str>, id: &str) -> PathBuf {
    root.map_or_else(|| windlass_args::Environment::current().root(), PathBuf::from).join(id)
}

fn is_program(path: &Path) -> Result<()> {
    let no_program = |why: String| invalid(format!("the runtime {path:?} cannot be executed: {why}"));
    if !std::fs::metadata(path).map_err(|error| no_program(error.to_string()))?.is_file() {
        return Err(no_program("not a regular file".into()));
    }
    nix::unistd::access(path, nix::unistd::AccessFlags::X_OK).map_err(|errno| no_program(errno.desc().into()))
}

/// How long a server that has closed its report may take to end.
const END: Duration = Duration::from_secs(1);

/// A server whose report is awaited.
struct StartedServer {
    child: Child,
    report: OwnedFd,
}

/// Starts the server.
fn begin(mode: &str, dir: &ContainerDir) -> Result<StartedServer> {
    let (report, report_write) = pipe::new()?;
    let null = fd::open("/dev/null", OFlag::O_RDWR)?;
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_APPEND | OFlag::O_NOFOLLOW;
    let errors = fd::openat(fd::CWD, dir.file("shim.err"), flags, 0o600)?;
    let word = |text: &OsStr| CString::new(text.as_bytes()).map_err(|_| invalid("a path with a zero byte"));
    let dir = absolute(dir.as_path())?;
    let arguments = [c"windlass-shim".into(), c"@serve".into(), word(mode.as_ref())?, word(dir.as_os_str())?];
    // The server must not hold descriptors of the engine.
    descriptors::close_from_on_exec(3)?;
    // This very program, even if its file was replaced meanwhile.
    let child = spawn::start(&Spawn {
        path: c"/proc/self/exe",
        arguments: &arguments,
        environment: Environment::Given(&server_environment()),
        stdio: [null.as_fd(), report_write.as_fd(), errors.as_fd()],
        preserve: &[],
        extra: &[],
        directory: Some(c"/"),
        oom_score_adj: None,
        die_with_parent: false,
        session: true,
        listen_pid: false,
    })?;
    Ok(StartedServer { child, report })
}

impl StartedServer {
    /// Reads the report, which is one line. A server without a report may have created a container, so the directory
    /// stays, and `delete` removes both. Such a server is not waited for: it may live as long as the container.
    fn report(self, dir: &ContainerDir) -> Result<Value> {
        let mut line = String::new();
        let read = BufReader::new(std::fs::File::from(self.report)).take(1 << 20).read_line(&mut line);
        let why = match (read, serde_json::from_str(&line)) {
            (Ok(_), Ok(value)) => return Ok(value),
            (Err(error), _) => format!("the report of the shim cannot be read: {error}"),
            (Ok(_), Err(_)) if poll::readable(self.child.pidfd.as_fd(), Deadline::after(END)).unwrap_or(false) => {
                format!("the shim ended with {} before it reported", self.child.wait()?)
            }
            (Ok(_), Err(_)) => "the shim could not report".into(),
        };
        let stderr = fd::document(dir.file("shim.err")).unwrap_or_default();
        let stderr = String::from_utf8_lossy(&stderr);
        let (stderr, dir) = (stderr.trim(), dir.as_path());
        Err(Refusal::new(Code::Kernel, format!("{why}: {stderr} (see {dir:?}, and delete it)")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_in_the_container_s_directory_has_a_bound() {
        let placed = |log: &str| placed(log, "/run/c".as_ref()).expect("a log");
        assert_eq!(placed("k8s"), "k8s:/run/c/log,max=8m,files=1");
        assert_eq!(placed("raw:,files=3"), "raw:/run/c/log,files=3,max=8m");
        assert_eq!(placed("json:,max=1g"), "json:/run/c/log,max=1g");
        assert_eq!(placed("k8s:/var/log/c"), "k8s:/var/log/c");
        assert_eq!(placed("none"), "none");
    }

    #[test]
    fn the_runtime_s_record_goes_by_its_root_and_not_by_its_name() {
        assert_eq!(runtime_exit(Some("/r"), "c"), PathBuf::from("/r/c"));
    }
}
