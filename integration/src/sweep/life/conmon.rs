//! The shim in the role of conmon, for a container and for an exec, as podman calls it.

use super::super::stage::{LIMIT, Payload, Stage};
use super::super::stdio::Stdio;
use super::super::tracer::{self, Session};
use super::{Fact, ended, kept_fifo, log, until};
use crate::kit::machine::text;
use crate::kit::stop::{Context, Verdict};
use nix::fcntl::{OFlag, open};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt};
use nix::sys::stat::Mode;
use nix::sys::time::TimeVal;
use serde_json::Value;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::Command;

/// The files of one life. Each life has new ones.
const FILES: &[&str] = &["life.log", "ends", "sync", "conmon.pid", "container.pid", "process.json"];

fn command(stage: &Stage, id: &str) -> Verdict<Command> {
    for name in FILES {
        let _ = fs::remove_file(stage.dir.join(name));
    }
    let (exits, persist) = (stage.dir.join("exits"), stage.dir.join("persist"));
    for dir in [&exits, &persist] {
        let _ = fs::remove_dir_all(dir);
        fs::create_dir_all(dir).context(dir.display())?;
    }
    kept_fifo(&stage.dir.join("sync"))?;
    let bundle = stage.bundle(Payload::Life);
    for name in ["attach", "ctl", "winsz"] {
        let _ = fs::remove_file(bundle.join(name));
    }
    let mut command = tracer::stopped_with(&stage.shim, &format!("3<>{}", stage.dir.join("sync").display()));
    command.env("_OCI_SYNCPIPE", "3").current_dir(&stage.dir);
    command.args(["conmon", "--api-version", "-c", id, "-u", id, "-n", "life", "--full-attach", "-i", "-r"]);
    command.arg(&stage.runtime).arg(format!("--runtime-arg=--root={}", stage.root().display()));
    command.arg("-b").arg(bundle).arg("-p").arg(stage.dir.join("container.pid"));
    command.arg("--conmon-pidfile").arg(stage.dir.join("conmon.pid"));
    command.arg("--exit-dir").arg(exits).arg("-l").arg(format!("k8s-file:{}", stage.dir.join("life.log").display()));
    let script = format!("echo ended >> {}", stage.dir.join("ends").display());
    for word in ["-c", &script] {
        command.arg("--exit-command-arg").arg(word);
    }
    command.arg("--exit-command").arg("/bin/sh");
    Ok(command)
}

/// The life with a container.
pub fn prepare(stage: &Stage, id: &str) -> Verdict<Command> {
    command(stage, id)
}

/// The life with an exec in a running container.
pub fn prepare_exec(stage: &Stage, id: &str) -> Verdict<Command> {
    let bundle = stage.bundle(Payload::Sleep).display().to_string();
    stage.run(&["create", "--bundle", &bundle, id])?.ok()?;
    stage.run(&["start", id])?.ok()?;
    let mut command = command(stage, id)?;
    let process = r#"{"args":["/bin/sh","-c","read -r line; echo got $line; exit 3"],"cwd":"/","user":{"uid":0,"gid":0},
        "env":["PATH=/bin"]}"#;
    let file = stage.dir.join("process.json");
    fs::write(&file, process)?;
    command.args(["-e", "--exec-process-spec"]).arg(file);
    Ok(command)
}

/// The answers on the sync pipe.
struct Sync {
    pipe: Option<File>,
    unread: String,
}

impl Sync {
    fn open(stage: &Stage) -> Sync {
        let pipe = open(&stage.dir.join("sync"), OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC, Mode::empty());
        Sync { pipe: pipe.ok().map(File::from), unread: String::new() }
    }

    /// The next answer. If none comes, `hangs` while conmon lives and `closed` once it has ended.
    fn next(&mut self, conmon: &Path) -> Result<Value, String> {
        let line = until(LIMIT, || {
            // Asked before the pipe is read, because after conmon's end the pipe has all its output.
            let is_gone = is_gone(conmon);
            let mut buffer = [0; 4096];
            if let Some(Ok(count)) = self.pipe.as_mut().map(|pipe| pipe.read(&mut buffer)) {
                self.unread.push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
            match self.unread.find('\n') {
                Some(end) => Some(Some(self.unread.drain(..=end).collect::<String>())),
                // Without a reader, conmon would not write.
                None => is_gone.then_some(None),
            }
        });
        match line {
            Some(Some(line)) => serde_json::from_str(&line).map_err(|error| format!("error {error}")),
            Some(None) => Err("closed".to_owned()),
            None => Err("hangs".to_owned()),
        }
    }
}

/// Whether the process of a pid file has ended, or the file does not exist.
fn is_gone(file: &Path) -> bool {
    let pid = text(file);
    let stat = text(format!("/proc/{pid}/stat"));
    pid.is_empty() || stat.is_empty() || stat.contains(") Z ")
}

fn attach(path: &Path) -> nix::Result<OwnedFd> {
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
    connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    let limit = TimeVal::new(i64::try_from(LIMIT.as_secs()).unwrap_or(30), 0);
    setsockopt(&socket, sockopt::ReceiveTimeout, &limit)?;
    Ok(socket)
}

/// All messages up to the end. Each begins with the number of its stream.
fn drain(socket: OwnedFd) -> String {
    let mut socket = File::from(socket);
    let mut out = String::from("ok ");
    let mut buffer = [0; 16384];
    loop {
        match socket.read(&mut buffer) {
            Ok(0) => return out,
            Ok(count) => out.push_str(&String::from_utf8_lossy(&buffer[1..count])),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return "hangs".to_owned(),
            Err(error) => return format!("closed: {error}"),
        }
    }
}

/// Attaches, sends input, and waits for the exit file and the exit command.
pub fn live(stage: &Stage, id: &str, session: &Session, stdio: &Stdio) -> Vec<Fact> {
    lives(stage, id, session, stdio, true)
}

/// The life of an exec, whose exit code is also sent on the sync pipe.
pub fn live_exec(stage: &Stage, id: &str, session: &Session, stdio: &Stdio) -> Vec<Fact> {
    lives(stage, id, session, stdio, false)
}

fn lives(stage: &Stage, id: &str, session: &Session, stdio: &Stdio, container: bool) -> Vec<Fact> {
    let mut sync = Sync::open(stage);
    let conmon = stage.dir.join("conmon.pid");
    let run = ended(session, stdio);
    let mut facts = vec![("run".to_owned(), run.clone())];
    let first = if run.starts_with("hangs") { Err(run) } else { sync.next(&conmon) };
    let pid = first.as_ref().ok().and_then(|answer| answer["data"].as_i64()).filter(|pid| *pid > 0);
    facts.push((
        "sync".to_owned(),
        match (&first, pid) {
            (Err(trouble), _) => trouble.clone(),
            (Ok(_), Some(_)) => "ok".to_owned(),
            (Ok(answer), None) => format!("error {answer}"),
        },
    ));
    if pid.is_none() {
        facts.push(("shim's errors".to_owned(), stdio.errors()));
        return facts;
    }
    let attached = attach(&stage.bundle(Payload::Life).join("attach"));
    if container {
        let started =
            stage.run(&["start", id]).map_or_else(|stop| format!("error {stop}"), |ran| format!("ok {}", ran.code));
        facts.push(("start".to_owned(), started));
    }
    let fed = attached.map_err(|errno| format!("closed: {errno}")).and_then(|socket| {
        let mut file = File::from(socket.try_clone().map_err(|error| error.to_string())?);
        file.write_all(b"go\n").map_err(|error| format!("closed: {error}"))?;
        Ok(drain(socket))
    });
    let is_fed = fed.as_ref().is_ok_and(|told| told.starts_with("ok"));
    facts.push(("attach".to_owned(), fed.unwrap_or_else(|trouble| trouble)));
    if !is_fed {
        facts.push(("killed".to_owned(), "yes".to_owned()));
        let _ = stage.run(&["kill", "--all", id, "KILL"]);
    }
    facts.extend(ends(stage, id, &conmon, (!container).then_some(&mut sync)));
    facts.push(("shim's errors".to_owned(), stdio.errors()));
    facts
}

/// The reports of the end: exit file, second answer (exec only), end of conmon, exit command, log.
fn ends(stage: &Stage, id: &str, conmon: &Path, sync: Option<&mut Sync>) -> Vec<Fact> {
    let mut facts = Vec::new();
    let mut add = |name: &str, value: String| facts.push((name.to_owned(), value));
    let file = stage.dir.join("exits").join(id);
    let exit = until(LIMIT, || match fs::read_to_string(&file) {
        Ok(text) => Some(format!("ok {text}")),
        Err(_) => is_gone(conmon).then(|| "closed".to_owned()),
    });
    add("record", exit.unwrap_or_else(|| "hangs".to_owned()));
    if let Some(sync) = sync {
        let code = |answer: &Value| answer["exit_code"].as_i64().or(answer["data"].as_i64()).unwrap_or(-1);
        let second = sync.next(conmon);
        add("exit", second.map_or_else(|trouble| trouble, |answer| format!("ok {}", code(&answer))));
    }
    let left = until(LIMIT, || is_gone(conmon).then_some(()));
    add("conmon ends", left.map_or("hangs", |()| "ok").to_owned());
    add("exit command", text(stage.dir.join("ends")));
    add("log", log(stage));
    facts
}

/// Removes the container with the runtime, as podman does.
pub fn delete(stage: &Stage, id: &str) -> Option<String> {
    stage.delete(id)
}
