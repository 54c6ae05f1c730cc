//! The verbs `list` and `upgrade`, for all shims of this host, whatever their protocols.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use serde_json::{Value, json};

use super::container_dir::{self, ContainerDir};
use super::dead;
use super::stalled::{self, ANSWER_TIME, is_stalled};
use super::verbs::Failure;
use crate::frontend::control;
use crate::frontend::stderr::{NAME, print_error};
use crate::refusal::Result;
use windlass_args::Matches;
use windlass_client::{Client, Error};
use windlass_sys::{directory, fd};

/// How long an upgrade may take. It may have to read the program from a disk.
const UPGRADE_TIME: Duration = Duration::from_secs(30);

/// Pause between two shims, so that an upgrade of a thousand leaves the machine to others.
const PAUSE: Duration = Duration::from_millis(10);

/// The way to ask a shim.
enum Shim {
    /// The shim of a container in the engine-neutral mode.
    Neutral(String, ContainerDir),
    /// The shim of another protocol, by its control socket.
    Other(PathBuf),
}

impl Shim {
    fn connect(&self) -> Result<Client, Error> {
        let mut client = match self {
            Shim::Neutral(_, dir) => Client::open(&dir.path("shim.sock"))?,
            Shim::Other(socket) => Client::open(socket)?,
        };
        // A stopped shim must not hide the others.
        client.set_liveness_timeout(ANSWER_TIME)?;
        Ok(client)
    }

    /// The shim's description, with the ids of its containers.
    fn hello(&self, client: &mut Client) -> Result<Value, Error> {
        let mut hello = client.call("hello", json!({}))?;
        if let Shim::Neutral(id, _) = self {
            hello["ids"] = json!([id]);
        }
        hello["id"] = hello["ids"][0].clone();
        Ok(hello)
    }

    /// What it says of itself, and the status of its container in the engine-neutral mode.
    fn describe(&self, client: &mut Client) -> Result<(Value, Value), Error> {
        let hello = self.hello(client)?;
        let status = match self {
            Shim::Neutral(..) => client.call("status", json!({}))?,
            Shim::Other(_) => json!({}),
        };
        Ok((hello, status))
    }

    fn name(&self) -> String {
        match self {
            Shim::Neutral(id, _) => id.clone(),
            Shim::Other(socket) => socket.display().to_string(),
        }
    }
}

/// All shims whose directories are trusted. Sockets of dead shims are removed.
fn all(state: &Path) -> Result<Vec<Shim>, Failure> {
    let mut shims = Vec::new();
    for (id, dir) in container_dir::all(state)? {
        match dir.check() {
            Ok(()) => shims.push(Shim::Neutral(id, dir)),
            Err(refusal) => print_error(NAME, &format!("{id}: {refusal}")),
        }
    }
    let controls = state.join(control::DIRECTORY);
    let opened = match fd::open(&controls, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW) {
        Err(failed) if failed.errno == Errno::ENOENT => return Ok(shims),
        other => other.map_err(|failed| Failure(failed.to_string()))?,
    };
    let stat = fd::stat(opened.as_fd()).map_err(|failed| Failure(failed.to_string()))?;
    if let Some(why) = fd::why_untrusted(&stat) {
        print_error(NAME, &format!("{controls:?} {why}"));
        return Ok(shims);
    }
    control::sweep(opened.as_fd(), &controls, usize::MAX);
    let mut names = directory::names(opened.as_fd()).map_err(|failed| Failure(failed.to_string()))?;
    names.sort();
    shims.extend(names.iter().map(|name| Shim::Other(controls.join(name))));
    Ok(shims)
}

/// Proportional memory of a process in kB (proc_pid_smaps(5)); null if it cannot be read.
fn memory(pid: &Value) -> Value {
    let text = fd::document(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let number = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    number.map_or(Value::Null, Value::from)
}

/// `list`: a line for each shim.
pub(super) fn list(state: &Path) -> Result<i32, Failure> {
    for shim in all(state)? {
        match line(&shim) {
            Ok(line) => writeln!(io::stdout(), "{line}")?,
            Err(Failure(message)) => print_error(NAME, &format!("{}: {message}", shim.name())),
        }
    }
    Ok(0)
}

fn line(shim: &Shim) -> Result<Value, Failure> {
    let (asked, client) = match shim.connect() {
        Ok(mut client) => (shim.describe(&mut client), Some(client)),
        Err(error) => (Err(error), None),
    };
    let (hello, mut line) = match (asked, shim) {
        // The shim lives, so its records are incomplete.
        (Err(error), _) if is_stalled(&error) => return Err(Failure(stalled::describe(client.as_ref()))),
        (Err(_), Shim::Neutral(_, dir)) => (json!({"mode": "neutral"}), dead::status(dir)?),
        (asked, _) => asked?,
    };
    line["memory_kb"] = memory(&hello["shim_pid"]);
    for (name, value) in hello.as_object().into_iter().flatten().filter(|(name, _)| *name != "v") {
        line[name] = value.clone();
    }
    Ok(line)
}

/// `upgrade`: a line for each shim that has become another program. The status is 1 if a shim has refused.
pub(super) fn upgrade(state: &Path, matches: &Matches) -> Result<i32, Failure> {
    let id = matches.operands.first().and_then(|word| word.to_str());
    if id.is_some() == matches.switch("all") {
        return Err(Failure("upgrade needs a container, or --all".into()));
    }
    // This very program, even if its file was replaced meanwhile.
    let program = matches.path("binary").unwrap_or_else(|| "/proc/self/exe".into());
    let opened = fd::open(&program, OFlag::O_PATH).map_err(|failed| Failure(failed.to_string()))?;
    let (mut found, mut refused) = (0, 0);
    for shim in all(state)? {
        match upgrade_one(&shim, id, &opened) {
            Ok(None) => continue,
            Ok(Some(line)) => writeln!(io::stdout(), "{line}")?,
            Err(error) => {
                refused += 1;
                print_error(NAME, &format!("{}: {error}", shim.name()));
            }
        }
        found += 1;
        std::thread::sleep(PAUSE);
    }
    match id {
        Some(id) if found == 0 => Err(Failure(format!("no shim has a container {id:?}"))),
        _ => Ok(i32::from(refused > 0)),
    }
}

/// Upgrades one shim. Returns `None` if it has another container, or has ended.
fn upgrade_one(shim: &Shim, id: Option<&str>, program: &OwnedFd) -> Result<Option<Value>, Error> {
    let mut client = match (shim, shim.connect()) {
        // A new shim may adopt its container.
        (Shim::Neutral(..), Err(Error::Lost(_))) if id.is_none() => return Ok(None),
        (Shim::Neutral(of, _), Err(_)) if id != Some(of) => return Ok(None),
        (_, connected) => connected?,
    };
    let before = shim.hello(&mut client)?;
    let has = |id: &str| before["ids"].as_array().is_some_and(|ids| ids.iter().any(|of| of == id));
    if id.is_some_and(|id| !has(id)) {
        return Ok(None);
    }
    client.set_timeout(UPGRADE_TIME)?;
    client.upgrade(program.as_fd())?;
    let mut after = shim.hello(&mut client)?;
    after["was"] = before["version"].clone();
    Ok(Some(after))
}
