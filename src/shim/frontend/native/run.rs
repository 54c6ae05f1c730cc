//! `run` and `adopt`: the short-lived process that begins a server and repeats what it reports.

use std::ffi::{CString, OsStr};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use serde_json::{Value, json};

use super::home::{Facts, Home, VERSION};
use super::wire;
use crate::cli::Matches;
use crate::shim::{Code, Refusal, Runtime, server_environment};
use crate::sys::spawn::Spawn;
use crate::sys::{fd, socket};

type Result<T> = std::result::Result<T, Refusal>;

/// Milliseconds for which output is waited for, if nothing else is asked for.
const DRAIN: u64 = 10_000;

/// `run`: prints one line.
pub fn run(state: &Path, matches: &Matches) -> i32 {
    let result = facts(state, matches).and_then(|facts| {
        let home = Home::of(state, &facts.id)?;
        home.make()?;
        let begun = home.write_facts(&facts).and_then(|()| serve("run", &home));
        begun.inspect_err(|_| home.remove())
    });
    print(result)
}

/// `adopt`: prints one line.
pub fn adopt(state: &Path, id: &str) -> i32 {
    print(Home::of(state, id).and_then(|home| {
        home.facts()?;
        serve("adopt", &home)
    }))
}

fn print(result: Result<Value>) -> i32 {
    let line = result.unwrap_or_else(|refusal| json!({"v": 1, "error": wire::error(&refusal)}));
    println!("{line}");
    i32::from(!line["error"].is_null())
}

fn invalid(text: impl Into<String>) -> Refusal {
    Refusal::new(Code::Invalid, text)
}

fn facts(state: &Path, matches: &Matches) -> Result<Facts> {
    let text = |name: &str| matches.text(name).map_err(|error| invalid(error.to_string()));
    let texts = |name: &str| matches.texts(name).map_err(|error| invalid(error.to_string()));
    let id = text("id")?.ok_or_else(|| invalid("run needs --id"))?;
    crate::container::check_id(&id).map_err(|error| invalid(error.to_string()))?;
    let bundle = absolute(&matches.path("bundle").unwrap_or_else(|| ".".into()))?;
    let runtime = match matches.path("runtime") {
        Some(name) => Runtime::lookup(&name).ok_or_else(|| invalid(format!("no runtime {name:?} in PATH")))?,
        None => Runtime::find().ok_or_else(|| invalid("no runtime: neither windlass nor runc is in PATH"))?,
    };
    let runtime = absolute(&runtime)?;
    let mut runtime_args = texts("runtime-arg")?;
    let root = text("root")?;
    if let Some(root) = &root {
        runtime_args.extend(["--root".to_owned(), root.clone()]);
    }
    let (tty, keep) = (matches.switch("tty"), matches.switch("keep-on-shim-death"));
    if tty && keep {
        return Err(invalid("a terminal cannot outlive the shim: --tty and --keep-on-shim-death exclude each other"));
    }
    let config: Value = std::fs::read(bundle.join("config.json"))
        .map_err(|error| invalid(format!("{:?}: {error}", bundle.join("config.json"))))
        .and_then(|text| serde_json::from_slice(&text).map_err(|error| invalid(format!("config.json: {error}"))))?;
    let mut logs = texts("log")?;
    if logs.is_empty() {
        logs.push("k8s".into());
    }
    for log in &mut logs {
        *log = placed(log, &absolute(state)?.join(&id))?;
    }
    let drain = matches.number::<f64>("drain").map_err(|error| invalid(error.to_string()))?;
    Ok(Facts {
        v: VERSION,
        runtime_exit: runtime_exit(&runtime, root.as_deref(), &id),
        id,
        bundle,
        runtime,
        runtime_args,
        create_args: texts("create-arg")?,
        tty,
        stdin: matches.switch("stdin"),
        logs,
        drain_ms: drain.map_or(DRAIN, |seconds| (seconds.clamp(0.0, 86_400.0) * 1000.0) as u64),
        keep,
        create_only: matches.switch("create-only"),
        kill_on_exit: !namespaces(&config).any(|(kind, path)| kind == "pid" && path.is_none()),
        owner: owner(&config),
    })
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|error| invalid(format!("{path:?}: {error}")))
}

/// A log without a path is put into the container's directory; a relative one is made absolute.
fn placed(log: &str, dir: &Path) -> Result<String> {
    let (format, rest) = log.split_once(':').unwrap_or((log, ""));
    if !["k8s", "json", "raw"].contains(&format) {
        super::home::log(log, "")?;
        return Ok(log.to_owned());
    }
    let (path, settings) =
        rest.split_once(',').map_or((rest, String::new()), |(path, more)| (path, format!(",{more}")));
    let path = if path.is_empty() { dir.join("log") } else { absolute(path.as_ref())? };
    let placed = format!("{format}:{}{settings}", path.display());
    super::home::log(&placed, "")?;
    Ok(placed)
}

/// Where windlass keeps how this container ended; other runtimes keep nothing of the kind.
fn runtime_exit(runtime: &Path, root: Option<&str>, id: &str) -> Option<PathBuf> {
    let windlass = runtime.file_name().is_some_and(|name| name == "windlass");
    let root = root.map_or_else(|| crate::cli::Environment::current().root(), PathBuf::from);
    windlass.then(|| root.join(id))
}

fn namespaces(config: &Value) -> impl Iterator<Item = (&str, Option<&str>)> {
    let list = config["linux"]["namespaces"].as_array().into_iter().flatten();
    list.filter_map(|namespace| Some((namespace["type"].as_str()?, namespace["path"].as_str())))
}

/// Whose the pipes must be, so that the user of the container can open `/dev/stdout`.
fn owner(config: &Value) -> Option<(u32, u32)> {
    let on_host = |id: &str, mappings: &str| {
        let inside = config["process"]["user"][id].as_u64().unwrap_or(0);
        if !namespaces(config).any(|(kind, _)| kind == "user") {
            return u32::try_from(inside).ok();
        }
        config["linux"][mappings].as_array()?.iter().find_map(|mapping| {
            let [from, to, size] = ["containerID", "hostID", "size"].map(|name| mapping[name].as_u64().unwrap_or(0));
            (from..from + size).contains(&inside).then(|| u32::try_from(to + inside - from).ok())?
        })
    };
    Some((on_host("uid", "uidMappings")?, on_host("gid", "gidMappings")?))
}

/// Begins the server, and gives the line that it reports.
fn serve(mode: &str, home: &Home) -> Result<Value> {
    let (report, report_write) = socket::pipe()?;
    let null = fd::open("/dev/null", OFlag::O_RDWR)?;
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_APPEND | OFlag::O_NOFOLLOW;
    let errors = fd::openat(fd::CWD, home.file("shim.err"), flags, 0o600)?;
    let word = |text: &OsStr| CString::new(text.as_bytes()).map_err(|_| invalid("a path with a zero byte"));
    let dir = absolute(home.dir())?;
    let arguments = [c"windlass-shim".into(), c"@serve".into(), word(mode.as_ref())?, word(dir.as_os_str())?];
    // Whatever the engine had open is not the server's to hold.
    fd::close_from_on_exec(3)?;
    // The same program, even if its file was replaced meanwhile.
    let child = Spawn {
        path: c"/proc/self/exe",
        arguments: &arguments,
        environment: &server_environment(),
        stdio: [null.as_fd(), report_write.as_fd(), errors.as_fd()],
        preserve: &[],
        extra: &[],
        directory: Some(c"/"),
        oom_score_adj: None,
        die_with_parent: false,
        session: true,
        listen_pid: false,
    }
    .start()?;
    drop(report_write);
    let mut line = String::new();
    let read = std::fs::File::from(report).take(1 << 20).read_to_string(&mut line);
    if let (Ok(_), Ok(value)) = (read, serde_json::from_str(&line)) {
        return Ok(value);
    }
    let end = child.wait()?;
    let said = std::fs::read_to_string(home.file("shim.err")).unwrap_or_default();
    Err(Refusal::new(Code::Kernel, format!("the shim ended with {end} before it reported: {}", said.trim())))
}
