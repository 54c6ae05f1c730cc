//! The shim as containerd starts it: its task service, with a container and two execs, and its events.

use super::super::stage::{LIMIT, Payload, Stage};
use super::super::stdio::Stdio;
use super::super::tracer::{self, Session};
use super::ttrpc::{Client, Events, Fields, Message};
use super::{Fact, ended, kept_fifo, until};
use crate::kit::machine::text;
use crate::kit::runtime;
use crate::kit::stop::{Context, Verdict};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::Value;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// containerd's namespace. The runtime's state root `ROOT/NAMESPACE` is that of the stage.
const NAMESPACE: &str = "state";

/// containerd's state directory, in which a shim has its socket.
fn state(stage: &Stage) -> PathBuf {
    stage.root().join("shims")
}

fn bundle(stage: &Stage, id: &str) -> PathBuf {
    state(stage).join("io.containerd.runtime.v2.task").join(NAMESPACE).join(id)
}

fn address(stage: &Stage) -> PathBuf {
    stage.dir.join("containerd.sock")
}

fn shim(stage: &Stage, command: &mut Command, id: &str) {
    command.args(["containerd", "-namespace", NAMESPACE, "-id", id, "-address"]).arg(address(stage));
    command.current_dir(bundle(stage, id)).env_remove("TTRPC_ADDRESS");
}

/// Makes a bundle as containerd does. Returns the arguments of `start`.
pub fn prepare(stage: &Stage, id: &str) -> Verdict<Command> {
    let (dir, life) = (bundle(stage, id), stage.bundle(Payload::Life));
    fs::create_dir_all(&dir).context(dir.display())?;
    let mut config: serde_json::Value = serde_json::from_str(&text(life.join("config.json"))).context("config.json")?;
    config["root"]["path"] = life.join("rootfs").display().to_string().into();
    fs::write(dir.join("config.json"), config.to_string())?;
    for name in ["in", "out", "exec.out"] {
        let fifo = stage.dir.join(name);
        let _ = fs::remove_file(&fifo);
        mkfifo(&fifo, Mode::from_bits_truncate(0o600)).context("mkfifo")?;
    }
    kept_fifo(&dir.join("log"))?;
    let mut command = tracer::stopped(&stage.shim);
    shim(stage, &mut command, id);
    command.arg("start");
    Ok(command)
}

/// Reads an output at once, as containerd does: a shim waits for a slow reader.
struct Reader {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<Vec<u8>>,
}

impl Reader {
    /// Opens the fifo, before the shim writes to it.
    fn open(stage: &Stage, name: &str) -> Option<Reader> {
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let mut fifo = File::from(open(&stage.dir.join(name), flags, Mode::empty()).ok()?);
        let is_over = Arc::new(AtomicBool::new(false));
        let seen = is_over.clone();
        let thread = std::thread::spawn(move || {
            let mut out = Vec::new();
            loop {
                // Asked before the read, so that everything that was written by then is read.
                let is_over = seen.load(Ordering::SeqCst);
                out.extend(available(&mut fifo));
                if is_over {
                    return out;
                }
                std::thread::sleep(LOOK);
            }
        });
        Some(Reader { is_over, thread })
    }
}

/// The time between two looks at an output.
const LOOK: Duration = Duration::from_millis(1);

/// The bytes that can be read without waiting.
fn available(file: &mut File) -> Vec<u8> {
    let mut out = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = file.read(&mut buffer) {
        out.extend_from_slice(&buffer[..count]);
    }
    out
}

/// The output up to its end. It does not wait, because the end of the process was reported already.
fn told(reader: Option<Reader>) -> String {
    let Some(reader) = reader else { return "error no fifo".to_owned() };
    reader.is_over.store(true, Ordering::SeqCst);
    let out = reader.thread.join().unwrap_or_default();
    format!("ok {}", String::from_utf8_lossy(&out))
}

/// The shim's log.
fn logged(fifo: Option<File>) -> String {
    fifo.map_or_else(
        || "error no fifo".to_owned(),
        |mut fifo| String::from_utf8_lossy(&available(&mut fifo)).into_owned(),
    )
}

fn named(id: &str, exec: &str) -> Fields {
    let name = Fields::default().bytes(1, id);
    if exec.is_empty() { name } else { name.bytes(2, exec) }
}

fn create(stage: &Stage, id: &str) -> Fields {
    let path = |name: &str| stage.dir.join(name).display().to_string();
    let options =
        Fields::default().bytes(6, stage.runtime.display().to_string()).bytes(7, stage.dir.display().to_string());
    let any = Fields::default().bytes(1, "containerd.runc.v1.Options").bytes(2, &options);
    let create = Fields::default().bytes(1, id).bytes(2, bundle(stage, id).display().to_string());
    create.bytes(5, path("in")).bytes(6, path("out")).bytes(10, &any)
}

fn exec(stage: &Stage, id: &str, exec: &str, script: &str, out: Option<&str>) -> Fields {
    let process = serde_json::json!({"args": ["/bin/sh", "-c", script], "cwd": "/", "user": {"uid": 0, "gid": 0},
        "env": ["PATH=/bin"]});
    let any = Fields::default().bytes(1, "types.containerd.io/opencontainers/runtime-spec/1/Process");
    let request = named(id, exec).bytes(7, any.bytes(2, process.to_string()));
    match out {
        Some(name) => request.bytes(5, stage.dir.join(name).display().to_string()),
        None => request,
    }
}

/// A shim, and the observations of it.
struct Talk {
    socket: PathBuf,
    facts: Vec<Fact>,
}

impl Talk {
    fn call(&self, method: &str, payload: &Fields) -> Result<Vec<u8>, String> {
        let mut client = Client::connect(&self.socket)?;
        client.ask(method, payload)?;
        client.answer()
    }

    /// Makes a call. `plain` turns the answer into a fact.
    fn does(&mut self, name: &str, method: &str, payload: &Fields, plain: fn(Message<'_>) -> String) -> bool {
        let answer = self.call(method, payload);
        self.add(name, answer, plain)
    }

    fn add(&mut self, name: &str, answer: Result<Vec<u8>, String>, plain: fn(Message<'_>) -> String) -> bool {
        let is_ok = answer.is_ok();
        let value = answer.map_or_else(|trouble| trouble, |answer| format!("ok {}", plain(Message(&answer))));
        self.facts.push((name.to_owned(), value.trim_end().to_owned()));
        is_ok
    }
}

fn nothing(_: Message<'_>) -> String {
    String::new()
}

/// `WaitResponse`.
fn waited(answer: Message<'_>) -> String {
    answer.number(1).to_string()
}

/// `DeleteResponse`.
fn deleted(answer: Message<'_>) -> String {
    answer.number(2).to_string()
}

/// `StateResponse`.
fn status(answer: Message<'_>) -> String {
    answer.number(4).to_string()
}

/// Creates a task, runs one exec and kills another, sends input, waits for the ends, deletes, and shuts down.
pub fn live(stage: &Stage, id: &str, session: &Session, stdio: &Stdio) -> Vec<Fact> {
    // The socket for events is the name of containerd's own socket with `.ttrpc` appended.
    let events = Events::listen(&stage.dir.join("containerd.sock.ttrpc"));
    let (out, exec_out) = (Reader::open(stage, "out"), Reader::open(stage, "exec.out"));
    let input = open(&stage.dir.join("in"), OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC, Mode::empty());
    let log = open(&bundle(stage, id).join("log"), OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC, Mode::empty());
    let run = ended(session, stdio);
    let Some(path) = run.strip_prefix("ok unix://") else {
        drop((told(out), told(exec_out)));
        return vec![("run".to_owned(), run)];
    };
    let mut talk = Talk { socket: path.trim().into(), facts: vec![("run".to_owned(), "ok".to_owned())] };
    let connected = talk.call("Connect", &named(id, ""));
    let pid = connected.as_ref().map_or(0, |answer| Message(answer).number(1));
    talk.add("connect", connected, nothing);
    if talk.does("create", "Create", &create(stage, id), nothing) {
        runs(stage, id, &mut talk, input.ok().map(File::from));
    }
    // A task that has failed is deleted, too: a shim that still has a task does not shut down.
    if !talk.does("delete", "Delete", &named(id, ""), deleted) {
        talk.does("delete again", "Delete", &named(id, ""), deleted);
    }
    talk.facts.push(("out".to_owned(), told(out)));
    talk.facts.push(("exec out".to_owned(), told(exec_out)));
    // A client that was refused connects again.
    let _ = talk.call("Shutdown", &named(id, "")).or_else(|_| talk.call("Shutdown", &named(id, "")));
    let left = until(LIMIT, || is_gone(pid).then_some(()));
    talk.facts.push(("shim ends".to_owned(), left.map_or("hangs", |()| "ok").to_owned()));
    let seen = events.map(|events| events.taken()).unwrap_or_default();
    talk.facts
        .push(("events".to_owned(), seen.iter().map(|envelope| event(id, envelope)).collect::<Vec<_>>().join("\n")));
    talk.facts.push(("shim's errors".to_owned(), format!("{}ok {}", stdio.errors(), logged(log.ok().map(File::from)))));
    talk.facts
}

/// The calls from the start of init to its end.
fn runs(stage: &Stage, id: &str, talk: &mut Talk, input: Option<File>) {
    let name = named(id, "");
    let mut waiter = Client::connect(&talk.socket);
    let asked = waiter.as_mut().map_err(|trouble| trouble.clone()).and_then(|waiter| waiter.ask("Wait", &name));
    let mut is_fed = talk.does("start", "Start", &name, nothing);
    if is_fed {
        execs(stage, id, talk);
        talk.does("state", "State", &name, status);
        // By default, this signal is ignored.
        talk.does("kill", "Kill", &named(id, "").number(3, 28), nothing);
        is_fed = input.is_some_and(|mut input| input.write_all(b"go\n").is_ok());
    }
    let mut ends = asked.and_then(|()| if is_fed { waiter?.answer() } else { Err("not fed".to_owned()) });
    if ends.is_err() && is_fed {
        // A client that was refused connects again.
        ends = talk.call("Wait", &name);
    }
    if ends.is_err() {
        talk.facts.push(("killed".to_owned(), "yes".to_owned()));
        if talk.call("Kill", &named(id, "").number(3, 9).number(4, 1)).is_err() {
            let _ = stage.run(&["kill", id, "KILL"]);
        }
        ends = talk.call("Wait", &name);
    }
    talk.add("wait", ends, waited);
    talk.facts.push(("record".to_owned(), recorded(&bundle(stage, id))));
}

/// The status in the exit record of a bundle.
fn recorded(bundle: &Path) -> String {
    let record: Value = serde_json::from_str(&text(bundle.join("exit.json"))).unwrap_or_default();
    let status = record["code"].as_u64().or(record["signal"].as_u64().map(|signal| 128 + signal));
    status.map_or_else(String::new, |status| format!("ok {status}"))
}

fn execs(stage: &Stage, id: &str, talk: &mut Talk) {
    let first = exec(stage, id, "e1", "echo in exec; exit 3", Some("exec.out"));
    if talk.does("exec", "Exec", &first, nothing) {
        talk.does("exec start", "Start", &named(id, "e1"), nothing)
            .then(|| talk.does("exec wait", "Wait", &named(id, "e1"), waited));
        talk.does("exec delete", "Delete", &named(id, "e1"), deleted);
    }
    if talk.does("exec 2", "Exec", &exec(stage, id, "e2", "exec sleep 1000", None), nothing) {
        if talk.does("exec 2 start", "Start", &named(id, "e2"), nothing) {
            let kill = talk.does("exec 2 kill", "Kill", &named(id, "e2").number(3, 9), nothing);
            kill.then(|| talk.does("exec 2 wait", "Wait", &named(id, "e2"), waited));
        }
        talk.does("exec 2 delete", "Delete", &named(id, "e2"), deleted);
    }
}

fn is_gone(pid: u64) -> bool {
    let stat = text(format!("/proc/{pid}/stat"));
    stat.is_empty() || stat.contains(") Z ")
}

/// An event as text, without differences between runs.
fn event(container: &str, envelope: &[u8]) -> String {
    let (topic, event) = (Message(envelope).text(3), Message(Message(envelope).bytes(4)).bytes(2).to_vec());
    if topic == "/tasks/exit" {
        let id = Message(&event).text(2);
        let whose = if id == container { "init" } else { &id };
        return format!("exited {whose} {}", Message(&event).number(4));
    }
    topic
}

/// Removes a container whose shim has ended or does not answer, as containerd does: the shim's `delete`, then the
/// bundle.
pub fn delete(stage: &Stage, id: &str) -> Option<String> {
    let dir = bundle(stage, id);
    let done = if dir.exists() { delete_rest(stage, id, &dir) } else { None };
    // Leftovers in the bundle are noticed.
    let above = dir.ancestors().skip(1).take(2).map(Path::to_owned);
    for empty in above.chain([state(stage).join("s")]) {
        let _ = fs::remove_dir(empty);
    }
    done
}

fn delete_rest(stage: &Stage, id: &str, dir: &Path) -> Option<String> {
    let mut command = Command::new(&stage.shim);
    shim(stage, &mut command, id);
    command.arg("-bundle").arg(dir).arg("delete").stdin(std::process::Stdio::null());
    let done = runtime::run_within(LIMIT, command, &stage.dir);
    let failed = match done {
        Ok((ran, capture)) => {
            let _ = (fs::remove_file(capture.stdout), fs::remove_file(capture.stderr));
            (ran.code != 0).then(|| ran.to_string())
        }
        Err(stop) => Some(stop.to_string()),
    };
    // containerd removes the bundle itself. A container that was never created has nothing else.
    if failed.is_none() || !is_known(stage, id) {
        let _ = fs::remove_dir_all(dir);
        return None;
    }
    failed
}

fn is_known(stage: &Stage, id: &str) -> bool {
    Path::new(&stage.root()).join(id).exists()
}
