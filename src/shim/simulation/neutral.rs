//! Clients of the engine-neutral protocol, which send any request at any time, die, come back, and compare the shim's
//! reports with the world.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde_json::{Value, json};

use super::client::{Attached, Client};
use super::life::{self, Clients};
use super::output::{self, Stream};
use super::plan::Plan;
use super::random::Random;
use super::requests::{self, Requests};
use super::world::{Daemon, Happens, SECOND, SimulatedWorld};
use crate::exit::Record;
use crate::frontend::neutral::{self, RunRequest};
use crate::{Framing, Phase, Supervisor};
use windlass_sys::process::Exit;
use windlass_sys::{kernel, socket, stream};

/// A request that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Call {
    op: &'static str,
    exec: String,
}

/// A connection.
#[derive(Debug)]
struct Line {
    socket: OwnedFd,
    unread: Vec<u8>,
    unsent: Vec<u8>,
    calls: BTreeMap<u64, Call>,
    /// When it was last read.
    read: u64,
    /// The number of the next event, after the first has come.
    next: Option<u64>,
    subscribed: bool,
}

/// The events and answers about a process.
#[derive(Debug, Default)]
struct Observed {
    started: bool,
    exited: Option<Value>,
    /// The deletion was requested, which removes the files.
    given_up: bool,
    deleted: bool,
    /// The process was an exec of a dead shim. Only the events that this shim had written are reported.
    lost: bool,
}

/// All clients.
pub(super) struct Neutral {
    plan: Plan,
    random: Random,
    directory: PathBuf,
    lines: Vec<Line>,
    seq: u64,
    names: u64,
    left: u64,
    /// The events of this container, by number, and the last event of a dead shim.
    events: Vec<String>,
    dead: u64,
    told: BTreeMap<String, Observed>,
    streams: BTreeMap<String, Vec<Rc<Stream>>>,
    /// The processes whose logs were found complete.
    whole: Vec<String>,
    /// The deletion of the container was requested.
    ends: bool,
}

/// The name of init's streams: its pid file is `pid`.
const INIT: &str = "pid";

/// Runs a plan. An error describes the fault.
pub(super) fn run(plan: &Plan, directory: &Path) -> Result<(), String> {
    let clients = Neutral {
        plan: plan.clone(),
        random: Random::new(plan.seed ^ 0xae),
        directory: directory.into(),
        lines: Vec::new(),
        seq: 0,
        names: 0,
        left: plan.requests,
        events: Vec::new(),
        dead: 0,
        told: BTreeMap::new(),
        streams: BTreeMap::new(),
        whole: Vec::new(),
        ends: false,
    };
    life::live(plan, directory, clients)
}

impl Clients for Neutral {
    type Front = neutral::NeutralFront;

    fn begin(
        &mut self,
        outside: &RefCell<SimulatedWorld>,
        core: &mut Supervisor,
    ) -> Result<neutral::NeutralFront, String> {
        loop {
            let wanted = self.wanted(outside);
            match neutral::begin(&self.directory, wanted, core) {
                Ok(served) => return Ok(served),
                // A `run` that fails early leaves nothing.
                Err(refusal) if self.directory.join("c").exists() => return Err(refusal.to_string()),
                Err(_) => *core = Supervisor::new().map_err(|failed| failed.to_string())?,
            }
        }
    }

    fn is_over(&self) -> bool {
        self.left == 0
    }

    fn left(&mut self, status: i32, _outside: &SimulatedWorld) -> Result<(), String> {
        let there = self.directory.join("c").exists();
        match status {
            0 if there => Err("the shim has ended, and its container's directory is there".into()),
            0 if !self.ends => Err("the shim ends by itself".into()),
            _ => Ok(()),
        }
    }

    fn killed(
        &mut self,
        init: Option<i32>,
        outside: &SimulatedWorld,
        core: &mut Supervisor,
    ) -> Result<Option<neutral::NeutralFront>, String> {
        self.lines.clear();
        self.streams.values().flatten().for_each(|stream| stream.lost.set(true));
        let record = Record::read(&self.directory.join("c/exit.json"));
        let told = self.told.get("").and_then(|told| told.exited.clone());
        match (&told, &record) {
            (Some(told), Some(record)) => same(told, record)?,
            (Some(told), None) if outside.failures < 5 && !self.ends => {
                return Err(format!("{told} was told, and there is no record"));
            }
            _ => {}
        }
        let keep = neutral::keeps(&self.directory);
        let Some(init) = init.filter(|_| keep && record.is_none() && !self.ends) else { return Ok(None) };
        self.told.iter_mut().filter(|(name, _)| !name.is_empty()).for_each(|(_, told)| told.lost = true);
        self.dead = neutral::last_event(&self.directory);
        let phase = if outside.runs(init) { Phase::Running } else { Phase::Created };
        neutral::adopt(&self.directory, init, phase, core).map(Some).map_err(|refusal| refusal.to_string())
    }

    fn reset(&mut self) {
        self.lines.clear();
        self.events.clear();
        self.dead = 0;
        self.told.clear();
        self.whole.clear();
        self.ends = false;
        let _ = std::fs::remove_dir_all(self.directory.join("c"));
    }

    fn why(&self) -> String {
        let unread: Vec<_> = self.streams.values().flatten().filter(|stream| !stream.lost.get()).collect();
        let calls: Vec<_> = self.lines.iter().map(|line| &line.calls).collect();
        format!("calls {calls:?}, told {:?}, streams {unread:?}", self.told)
    }
}

/// Checks that the record has the reported end.
fn same(told: &Value, record: &Record) -> Result<(), String> {
    let members = json!({"code": record.exit.code, "signal": record.exit.signal});
    let equal = ["code", "signal"].iter().all(|name| told[name] == members[name]);
    if equal { Ok(()) } else { Err(format!("{told} was told, and the record is {record:?}")) }
}

impl Daemon for Neutral {
    fn act(&mut self, outside: &SimulatedWorld) -> (u64, Vec<Happens>) {
        let mut happens = Vec::new();
        if let Some(pause) = requests::absence(&self.plan, &mut self.random, outside) {
            self.lines.clear();
            return (pause, Vec::new());
        }
        if self.lines.len() < 3 && self.random.chance(60) {
            self.lines.extend(self.connect());
        }
        if let Err(why) = self.listen(outside, &mut happens) {
            kernel::fault(why);
        }
        requests::turn(self, outside, happens)
    }
}

impl Requests for Neutral {
    fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    fn remaining(&mut self) -> &mut u64 {
        &mut self.left
    }

    fn ask_something(&mut self, happens: &mut Vec<Happens>) {
        let execs: Vec<String> = self.told.keys().filter(|name| !name.is_empty()).cloned().collect();
        let exec = match execs.len() {
            0 => String::new(),
            n => execs[self.random.below(n as u64) as usize].clone(),
        };
        let any = if self.random.chance(50) { exec.clone() } else { String::new() };
        match self.random.below(20) {
            0 => self.ask("hello", "", json!({})),
            1 => self.ask("status", "", json!({})),
            2..=4 if self.plan.has("execs") => self.exec(happens),
            5 => self.ask("start", "", json!({})),
            6 if self.plan.has("kills") => {
                let all = any.is_empty() && self.random.chance(30);
                self.ask("kill", &any, json!({"signal": "KILL", "all": all}));
            }
            7 | 8 => self.ask("wait", &any, json!({})),
            9 | 10 if self.plan.has("clients") => self.ask("attach", &any, json!({"end": true})),
            11 => self.ask("resize", &any, json!({"rows": 24, "columns": 80})),
            12 => self.ask("close-stdin", &any, json!({})),
            13 => self.ask("reopen-logs", &any, json!({})),
            14 | 15 => {
                let from = if self.random.chance(30) { json!(1) } else { Value::Null };
                self.ask("subscribe", "", json!({"from": from}));
            }
            16 => {
                let event = self.random.below(self.events.len() as u64 + 1);
                self.ask("ack", "", json!({"event": event}));
            }
            17 if !exec.is_empty() => {
                self.told.get_mut(&exec).into_iter().for_each(|told| told.given_up = true);
                self.ask("delete", &exec, json!({}));
            }
            18 if self.random.chance(30) => {
                // Frames follow an attach, and an invalid frame ends the connection.
                if let Some(line) = self.lines.iter_mut().find(|line| !line.attaches()) {
                    line.unsent.extend(b"nonsense\n");
                }
            }
            19 if self.random.chance(30) => self.end(),
            _ => {}
        }
    }

    fn finish(&mut self, _happens: &mut Vec<Happens>) {
        let waits = |call: &Call| call.op == "wait";
        if self.lines.is_empty() || !self.lines.iter().all(|line| line.calls.values().all(waits)) {
            return;
        }
        if !self.lines.iter().any(|line| line.subscribed) {
            return self.ask("subscribe", "", json!({"from": 1}));
        }
        let init = self.told.get("");
        if init.is_some_and(|init| init.exited.is_none()) {
            return self.ask("kill", "", json!({"signal": "KILL", "all": true}));
        }
        let names: Vec<String> =
            self.told.keys().map(|name| if name.is_empty() { INIT.into() } else { name.clone() }).collect();
        let whole = init.is_none() || names.iter().all(|name| self.is_logged(name));
        // The output of a process that outlives another has to arrive first; see Stream::held.
        if whole || self.random.chance(2) {
            self.end();
        }
    }
}

impl Line {
    /// Whether the client has asked to be attached.
    fn attaches(&self) -> bool {
        self.calls.values().any(|call| call.op == "attach" || call.op == "exec-attached")
    }

    fn flush(&mut self, most: usize) {
        while let Ok(n @ 1..) = socket::send_now(self.socket.as_fd(), &self.unsent[..self.unsent.len().min(most)]) {
            self.unsent.drain(..n);
        }
    }

    /// The lines that have arrived. `None`: the shim has closed the connection.
    fn receive(&mut self) -> Option<()> {
        let mut buffer = [0; 65_536];
        loop {
            match socket::receive_now(self.socket.as_fd(), &mut buffer) {
                Ok(0) => return None,
                Ok(n) => self.unread.extend_from_slice(&buffer[..n]),
                Err(errno) => return (errno == nix::errno::Errno::EAGAIN).then_some(()),
            }
        }
    }

    fn line(&mut self) -> Option<String> {
        let end = self.unread.iter().position(|&byte| byte == b'\n')?;
        let line: Vec<u8> = self.unread.drain(..=end).collect();
        Some(String::from_utf8_lossy(&line).trim_end().to_owned())
    }
}

impl Neutral {
    /// The arguments of the next `run`.
    fn wanted(&mut self, outside: &RefCell<SimulatedWorld>) -> RunRequest {
        let terminal = self.plan.has("terminals") && self.random.chance(15);
        let log = self.new_streams(INIT, if terminal { 1 } else { 2 });
        outside.borrow_mut().streams.insert(INIT.into(), self.streams[INIT].clone());
        RunRequest {
            terminal,
            keep: !terminal && self.random.chance(50),
            create_only: self.random.chance(50),
            kill_on_exit: self.random.chance(50),
            stdin: self.random.chance(50),
            log,
        }
    }

    fn connect(&self) -> Option<Line> {
        let socket = socket::connect_now(&self.directory.join("c/shim.sock")).ok()?;
        let _ = stream::never_block(socket.as_fd());
        let (unread, unsent, calls) = (Vec::new(), Vec::new(), BTreeMap::new());
        Some(Line { socket, unread, unsent, calls, read: kernel::now(), next: None, subscribed: false })
    }

    /// Makes the streams of the next process. Returns its log.
    fn new_streams(&mut self, name: &str, count: u64) -> String {
        let streams: Vec<Rc<Stream>> = (0..count)
            .map(|at| Rc::new(Stream::new(self.plan.seed * 64 + 16 * self.names + at, PathBuf::new(), false)))
            .collect();
        self.names += 1;
        self.streams.insert(name.into(), streams);
        format!("k8s:{}", self.log(name).display())
    }

    fn log(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.{}.log", self.streams[name][0].key))
    }

    fn listen(&mut self, outside: &SimulatedWorld, happens: &mut Vec<Happens>) -> Result<(), String> {
        let mut kept = Vec::new();
        for mut line in std::mem::take(&mut self.lines) {
            // Requests are sent in pieces.
            let most = if self.random.chance(20) { self.random.below(200) as usize } else { usize::MAX };
            line.flush(most);
            let before = std::mem::replace(&mut line.read, kernel::now());
            let open = line.receive();
            let mut attached = None;
            while let Some(text) = line.line() {
                let value: Value = serde_json::from_str(&text).map_err(|error| format!("{text:?}: {error}"))?;
                if let Some(event) = value["event"].as_u64() {
                    self.event(&mut line, event, &text, &value, outside)?;
                } else if let Some(streams) = self.answer(&mut line, &value)? {
                    attached = Some(streams);
                    break;
                }
            }
            match (attached, open) {
                (Some(streams), _) => {
                    let Line { socket, unread, .. } = line;
                    happens.push(Happens::Client(Client::new(socket, Framing::Marked, (unread, before), streams)));
                }
                (None, Some(())) => kept.push(line),
                (None, None) => {}
            }
        }
        self.lines = kept;
        Ok(())
    }

    fn event(
        &mut self,
        line: &mut Line,
        number: u64,
        text: &str,
        value: &Value,
        outside: &SimulatedWorld,
    ) -> Result<(), String> {
        if !line.subscribed || line.next.is_some_and(|next| next != number) {
            return Err(format!("{text} comes where event {:?} was to come", line.next));
        }
        line.next = Some(number + 1);
        match self.events.get(number as usize - 1) {
            Some(before) if before == text => return Ok(()),
            Some(before) => return Err(format!("event {number} was {before}, and is {text}")),
            None if number as usize == self.events.len() + 1 => self.events.push(text.to_owned()),
            None => return Err(format!("{text} follows {:?}", self.events.last())),
        }
        let exec = value["exec"].as_str().unwrap_or_default().to_owned();
        let wrong = |what: &str| Err(format!("{text}: {what}"));
        match value["type"].as_str().unwrap_or_default() {
            "created" if self.told.contains_key("") => wrong("created twice"),
            "created" => {
                self.told.insert(String::new(), Observed::default());
                Ok(())
            }
            "started" => {
                let lost = !exec.is_empty() && number <= self.dead;
                let told = self.told.entry(exec).or_default();
                told.lost = lost;
                let again = std::mem::replace(&mut told.started, true);
                if again || told.exited.is_some() { wrong("it is not in order") } else { Ok(()) }
            }
            "exited" => self.exited(&exec, (number, text), value, outside),
            "deleted" => {
                let told = self.told.entry(exec).or_default();
                told.deleted = true;
                if told.started && told.exited.is_none() && !told.lost { wrong("its end was not told") } else { Ok(()) }
            }
            _ => Ok(()),
        }
    }

    fn exited(
        &mut self,
        exec: &str,
        (number, text): (u64, &str),
        value: &Value,
        outside: &SimulatedWorld,
    ) -> Result<(), String> {
        let late = |(name, told): &(&String, &Observed)| {
            !name.is_empty() && told.started && told.exited.is_none() && !told.lost
        };
        if exec.is_empty()
            && let Some(late) = self.told.iter().find(late)
        {
            return Err(format!("{text} comes before the end of {late:?}"));
        }
        let dead = self.dead;
        let told = self.told.get_mut(exec).filter(|told| told.exited.is_none() && (!told.lost || number <= dead));
        let told = told.ok_or_else(|| format!("{text}: it is told twice, or not known"))?;
        told.exited = Some(value.clone());
        let given_up = told.given_up || self.ends;
        let pid = value["pid"].as_i64().unwrap_or(0) as i32;
        let (exit, ended) = outside.ends.get(&pid).copied().ok_or_else(|| format!("{text}: it has not ended"))?;
        let right = match exit {
            Exit::Code(code) => value["code"] == json!(code),
            Exit::Signal(signal) => value["signal"] == json!(signal),
        };
        if !right {
            return Err(format!("{text}: it has ended with {exit:?}"));
        }
        let file = if exec.is_empty() { "c/exit.json".into() } else { format!("c/execs/{exec}.exit.json") };
        match Record::read(&self.directory.join(file)) {
            Some(record) => same(value, &record)?,
            // A `run` that fails removes its container.
            None if given_up || outside.failures >= 5 || !self.directory.join("c").exists() => {}
            None => return Err(format!("{text}: there is no record")),
        }
        let name = if exec.is_empty() { INIT } else { exec };
        // The shim waits for no process longer than ten seconds.
        let soon = kernel::now() < ended + 9 * SECOND;
        self.logged(name, soon)
    }

    /// Checks that all output is in the log; unless `whole`, that the log is a beginning of it.
    fn logged(&self, name: &str, whole: bool) -> Result<(), String> {
        let streams = &self.streams[name];
        let found = output::logged(&self.log(name), streams)?;
        let lacks = |(stream, length): &(&Rc<Stream>, &u64)| {
            whole && !stream.held.get() && !stream.lost.get() && **length != stream.written.get()
        };
        match streams.iter().zip(&found).find(lacks) {
            Some((stream, length)) => Err(format!("{length} bytes of {stream:?} are in the log")),
            None => Ok(()),
        }
    }

    /// Whether all output is in the log. Large logs are read once.
    fn is_logged(&mut self, name: &str) -> bool {
        if self.whole.iter().any(|known| known == name) {
            return true;
        }
        let length = std::fs::metadata(self.log(name)).map_or(0, |log| log.len());
        let streams = &self.streams[name];
        let known = streams.iter().filter(|stream| !stream.lost.get() && !stream.held.get());
        let written: u64 = known.map(|stream| stream.written.get()).sum();
        let whole = length >= written && self.logged(name, true).is_ok();
        self.whole.extend(whole.then(|| name.to_owned()));
        whole
    }

    /// Takes an answer. Returns the streams of the process whose output follows.
    fn answer(&mut self, line: &mut Line, value: &Value) -> Result<Option<Attached>, String> {
        let seq = value["seq"].as_u64().unwrap_or(0);
        if seq == 0 {
            // The answer to an invalid line.
            return Ok(None);
        }
        let call = line.calls.remove(&seq).ok_or_else(|| format!("{value} was not asked for, or is the second"))?;
        if !value["error"].is_null() {
            return Ok(None);
        }
        let ok = &value["ok"];
        let told = self.told.get(&call.exec).and_then(|told| told.exited.as_ref());
        let exit = match call.op {
            "wait" => Some(ok),
            "delete" => Some(&ok["exit"]),
            "status" => Some(&ok["exit"]).filter(|_| call.exec.is_empty()),
            _ => None,
        };
        if let (Some(told), Some(exit)) = (told, exit.filter(|exit| !exit.is_null()))
            && ["code", "signal", "at"].iter().any(|name| told[name] != exit[name])
        {
            return Err(format!("{call:?}: {ok}, and the event was {told}"));
        }
        let name = if call.exec.is_empty() { INIT } else { &call.exec };
        let streams = |at| self.streams[name].iter().map(|stream| (stream.clone(), at)).collect();
        match call.op {
            "subscribe" => {
                line.next = None;
                Ok(None)
            }
            "attach" => Ok(Some(streams(None))),
            "exec-attached" => Ok(Some(streams(Some(0)))),
            _ => Ok(None),
        }
    }

    /// Sends a request on an open connection.
    fn ask(&mut self, op: &'static str, exec: &str, mut request: Value) {
        let alone = op == "attach" || op == "exec-attached";
        let at = match alone {
            true => {
                self.lines.extend(self.connect());
                self.lines.iter().rposition(|line| line.calls.is_empty() && !line.subscribed && line.unsent.is_empty())
            }
            false => self.lines.iter().position(|line| !line.attaches()),
        };
        let Some(at) = at else { return };
        self.seq += 1;
        request["seq"] = self.seq.into();
        if request["op"].is_null() {
            request["op"] = op.into();
        }
        if !exec.is_empty() {
            request["exec"] = exec.into();
        }
        let line = &mut self.lines[at];
        line.calls.insert(self.seq, Call { op, exec: exec.into() });
        line.unsent.extend(format!("{request}\n").bytes());
        line.subscribed |= op == "subscribe";
    }

    fn exec(&mut self, happens: &mut Vec<Happens>) {
        let name = format!("e{}", self.names);
        let log = self.new_streams(&name, 2);
        happens.push(Happens::Outputs(name.clone(), self.streams[&name].clone()));
        let attach = self.plan.has("clients") && self.random.chance(50);
        let request = json!({"op": "exec", "process": {}, "log": [log], "attach": attach, "end": attach});
        self.ask(if attach { "exec-attached" } else { "exec" }, &name, request);
    }

    fn end(&mut self) {
        self.ends |= !self.lines.is_empty();
        self.ask("delete", "", json!({"force": true}));
    }
}
