//! A containerd that sends the shim any call at any time, dies, comes back, and checks what the shim reports.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::engine;
use super::life::{self, Clients};
use super::output::{self, Stream};
use super::plan::Plan;
use super::random::Random;
use super::requests::{self, Requests};
use super::world::{Daemon, Happens, SimulatedWorld};
use crate::Supervisor;
use crate::exit::Record;
use crate::frontend::containerd;
use crate::frontend::containerd::message::event::{Envelope, Forward, TaskExec, TaskExit, TaskNamed};
use crate::frontend::containerd::message::options::Runc;
use crate::frontend::containerd::message::task::{CloseIo, Create, Deleted, Exec, Exited, Kill, Name};
use crate::frontend::containerd::message::{Any, Empty};
use crate::frontend::containerd::ttrpc::{FrameKind, Request, Response, code, next_frame, put_frame};
use windlass_base::protobuf::Message;
use windlass_sys::{fd, kernel, socket, stream};

/// A ttrpc connection, of a client or a server.
#[derive(Debug)]
struct Link {
    socket: OwnedFd,
    unread: Vec<u8>,
    unsent: Vec<u8>,
}

impl Link {
    fn new(socket: OwnedFd) -> Link {
        let _ = stream::never_block(socket.as_fd());
        Link { socket, unread: Vec::new(), unsent: Vec::new() }
    }

    /// The frames that have arrived. `None`: the other side is gone.
    fn frames(&mut self) -> Option<Vec<(u32, Vec<u8>)>> {
        let mut buffer = [0; 65_536];
        let open = loop {
            match socket::receive_now(self.socket.as_fd(), &mut buffer) {
                Ok(0) => break false,
                Ok(n) => self.unread.extend_from_slice(&buffer[..n]),
                Err(errno) => break errno == nix::errno::Errno::EAGAIN,
            }
        };
        let mut frames = Vec::new();
        while let Ok(Some((frame, length))) = next_frame(&self.unread) {
            frames.push((frame.stream, frame.body.to_vec()));
            self.unread.drain(..length);
        }
        (open || !frames.is_empty()).then_some(frames)
    }

    fn send(&mut self, stream: u32, kind: FrameKind, message: &impl Message) {
        put_frame(&mut self.unsent, stream, kind, message);
        self.flush();
    }

    fn flush(&mut self) {
        while let Ok(n @ 1..) = socket::send_now(self.socket.as_fd(), &self.unsent) {
            self.unsent.drain(..n);
        }
    }
}

/// A call that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Call {
    method: &'static str,
    exec: String,
}

/// The events and answers about a process.
#[derive(Debug, Default)]
struct Observed {
    started: bool,
    exited: Option<TaskExit>,
    /// The deletion was requested while faults occur: the answer may be lost, and with it the unread output.
    given_up: bool,
    /// The deletion was answered. Events of the process may still arrive.
    deleted: bool,
}

/// The daemon.
pub(super) struct Containerd {
    plan: Plan,
    random: Random,
    directory: PathBuf,
    /// That directory, open.
    held: OwnedFd,
    /// The bundle of the present shim, and the name of its socket.
    bundle: PathBuf,
    shim: String,
    events: OwnedFd,
    /// How many children of the shim have failed.
    failures: u64,
    inbox: Option<Link>,
    link: Option<Link>,
    calls: BTreeMap<u32, Call>,
    stream: u32,
    names: u64,
    left: u64,
    /// Whether the shim may drop the oldest output.
    drops: bool,
    /// Whether containerd wants the shim to end.
    ends: bool,
    /// Whether containerd has requested the deletion of the task.
    gives_up: bool,
    created: bool,
    deleted: bool,
    told: BTreeMap<String, Observed>,
    last: Vec<u8>,
    streams: BTreeMap<String, Vec<Rc<Stream>>>,
}

const ID: &str = "c";
const SERVICE: &str = "containerd.task.v2.Task";

/// Runs a plan. An error describes the fault.
pub(super) fn run(plan: &Plan, directory: &Path) -> Result<(), String> {
    let held = fd::open(directory, nix::fcntl::OFlag::O_RDONLY | nix::fcntl::OFlag::O_DIRECTORY);
    let held = held.map_err(|failed| failed.to_string())?;
    let events = socket::listen_stream_at(held.as_fd(), "events", 0o600).map_err(|failed| failed.to_string())?;
    life::live(plan, directory, Containerd::new(plan, directory, events, held))
}

impl Clients for Containerd {
    type Front = containerd::ContainerdFront;

    fn begin(
        &mut self,
        _outside: &RefCell<SimulatedWorld>,
        core: &mut Supervisor,
    ) -> Result<containerd::ContainerdFront, String> {
        let text = |failed: windlass_sys::SyscallError| failed.to_string();
        // Each shim has its own paths: a child of a killed shim may still write to a slow disk.
        self.bundle = self.directory.join(format!("bundle.{}", self.names));
        self.shim = format!("shim.{}", self.names);
        self.names += 1;
        for directory in ["rootfs", "work"] {
            std::fs::create_dir_all(self.bundle.join(directory)).map_err(|error| error.to_string())?;
        }
        std::fs::write(self.bundle.join("config.json"), self.config()).map_err(|error| error.to_string())?;
        let listener = socket::listen_stream_at(self.held.as_fd(), &self.shim, 0o600).map_err(text)?;
        stream::never_block(listener.as_fd()).map_err(text)?;
        let events = self.directory.join("events");
        containerd::simulated(listener, self.bundle.clone(), &events.to_string_lossy(), core).map_err(text)
    }

    fn is_over(&self) -> bool {
        self.left == 0
    }

    fn left(&mut self, status: i32, _outside: &SimulatedWorld) -> Result<(), String> {
        // A shim that had nothing to do for half a minute ends by itself.
        match (status, self.ends || !self.created || self.deleted) {
            (0, true) => engine::no_files(&self.bundle),
            _ => Err(format!("the shim leaves with {status}, and has a task")),
        }
    }

    fn killed(
        &mut self,
        _init: Option<i32>,
        outside: &SimulatedWorld,
        _core: &mut Supervisor,
    ) -> Result<Option<containerd::ContainerdFront>, String> {
        self.streams.values().flatten().for_each(|stream| stream.lost.set(true));
        let told = self.told.get(ID).and_then(|told| told.exited.as_ref()).filter(|_| !self.deleted);
        let recorded = containerd::recorded(&self.bundle, ID);
        match (told, &recorded) {
            (Some(told), Some(record)) if record.status().code() as u32 != told.exit_status => {
                Err(format!("{told:?} was told, and \"delete\" says {record:?}"))
            }
            // If the deletion was requested, the file of the process id may be gone.
            (Some(told), None) if outside.failures < 5 && !self.gives_up => {
                Err(format!("{told:?} was told, and \"delete\" knows nothing"))
            }
            // containerd has every container of a dead shim deleted.
            _ => Ok(None),
        }
    }

    fn reset(&mut self) {
        (self.inbox, self.link) = (None, None);
        // The messages of a dead shim concern its own task.
        while let Ok(Some(_)) = socket::accept_now(self.events.as_fd()) {}
        self.calls.clear();
        self.told.clear();
        self.last.clear();
        self.streams.clear();
        (self.created, self.deleted, self.ends, self.gives_up) = (false, false, false, false);
    }

    fn why(&self) -> String {
        let unread: Vec<_> = self.streams.values().flatten().filter(|stream| !output::is_whole(stream)).collect();
        format!("calls {:?}, told {:?}, not read {unread:?}", self.calls, self.told)
    }
}

impl Daemon for Containerd {
    fn act(&mut self, outside: &SimulatedWorld) -> (u64, Vec<Happens>) {
        self.failures = outside.failures;
        if let Some(pause) = requests::absence(&self.plan, &mut self.random, outside) {
            // containerd dies, and with it all messages in transit.
            (self.inbox, self.link) = (None, None);
            self.calls.clear();
            return (pause, Vec::new());
        }
        self.listen();
        self.answers();
        if self.link.is_none() {
            let path = self.directory.join(&self.shim);
            self.link = socket::connect_now(&path).ok().map(Link::new);
        }
        requests::turn(self, outside, Vec::new())
    }
}

impl Requests for Containerd {
    fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    fn remaining(&mut self) -> &mut u64 {
        &mut self.left
    }

    fn ask_something(&mut self, happens: &mut Vec<Happens>) {
        let execs: Vec<String> = self.told.keys().filter(|name| *name != ID).cloned().collect();
        let exec = match execs.len() {
            0 => String::new(),
            n => execs[self.random.below(n as u64) as usize].clone(),
        };
        match self.random.below(14) {
            0..=2 if !self.created || self.deleted => {
                let [stdout, stderr] = self.fifos("init", happens);
                let options = Runc { binary_name: "/runtime".into(), ..Runc::default() };
                let options = Some(Any { type_url: "containerd.runc.v1.Options".into(), value: options.encode() });
                let bundle = self.bundle.to_string_lossy().into_owned();
                self.ask("Create", "", &Create { id: ID.into(), bundle, stdout, stderr, options, ..Create::default() });
            }
            3 | 4 => self.ask("Start", "", &Containerd::name("")),
            5 | 6 if self.plan.has("execs") => {
                self.names += 1;
                let exec_id = format!("e{}", self.names);
                let [stdout, stderr] = self.fifos(&format!("exec-{exec_id}"), happens);
                let spec = Some(Any { type_url: "process".into(), value: b"{}".to_vec() });
                let exec = Exec { id: ID.into(), exec_id: exec_id.clone(), stdout, stderr, spec, ..Exec::default() };
                self.ask("Exec", &exec_id, &exec);
            }
            7 => self.ask("Start", &exec, &Containerd::name(&exec)),
            8 => self.ask("Wait", &exec, &Containerd::name(&exec)),
            9 => self.ask("State", &exec, &Containerd::name(&exec)),
            10 if self.plan.has("kills") => {
                let all = self.random.chance(30);
                let kill =
                    Kill { id: ID.into(), exec_id: if all { String::new() } else { exec.clone() }, signal: 9, all };
                self.ask("Kill", &exec, &kill);
            }
            11 if !exec.is_empty() => {
                self.told.get_mut(&exec).into_iter().for_each(|told| told.given_up = true);
                self.ask("Delete", &exec, &Containerd::name(&exec));
            }
            12 => self.ask("CloseIO", &exec, &CloseIo { id: ID.into(), exec_id: exec.clone(), stdin: true }),
            13 => self.ask("Shutdown", "", &Containerd::name("")),
            _ => {}
        }
    }

    fn finish(&mut self, _happens: &mut Vec<Happens>) {
        if self.link.is_none() || !self.calls.values().all(|call| call.method == "Wait") {
            return;
        }
        if self.created && !self.deleted {
            let running: Vec<String> =
                self.told.iter().filter(|(_, told)| told.exited.is_none()).map(|(name, _)| name.clone()).collect();
            if running.contains(&ID.to_owned()) {
                return self.ask("Kill", "", &Kill { id: ID.into(), signal: 9, all: true, ..Kill::default() });
            }
            let next = self.told.iter().find(|(name, told)| *name != ID && !told.deleted);
            let key = next.map_or("init".to_owned(), |(exec, _)| format!("exec-{exec}"));
            let whole = |streams: &Vec<Rc<Stream>>| streams.iter().all(|stream| output::is_whole(stream));
            if next.is_some_and(|(_, told)| told.given_up) || self.streams.get(&key).is_none_or(whole) {
                let exec = next.map(|(exec, _)| exec.clone()).unwrap_or_default();
                self.gives_up |= exec.is_empty();
                self.ask("Delete", &exec, &Containerd::name(&exec));
            }
            return;
        }
        self.ends = true;
        self.ask("Shutdown", "", &Containerd::name(""));
    }
}

impl Containerd {
    fn new(plan: &Plan, directory: &Path, events: OwnedFd, held: OwnedFd) -> Containerd {
        let _ = stream::never_block(events.as_fd());
        Containerd {
            plan: plan.clone(),
            random: Random::new(plan.seed ^ 0xc0),
            directory: directory.into(),
            held,
            bundle: PathBuf::new(),
            shim: String::new(),
            events,
            failures: 0,
            inbox: None,
            link: None,
            calls: BTreeMap::new(),
            stream: 1,
            names: 0,
            left: plan.requests,
            drops: false,
            ends: false,
            gives_up: false,
            created: false,
            deleted: false,
            told: BTreeMap::new(),
            last: Vec::new(),
            streams: BTreeMap::new(),
        }
    }

    fn listen(&mut self) {
        while let Ok(Some(socket)) = socket::accept_now(self.events.as_fd()) {
            self.inbox = Some(Link::new(socket));
        }
        let Some(mut inbox) = self.inbox.take() else { return };
        let Some(frames) = inbox.frames() else { return };
        for (stream, body) in frames {
            // containerd may die after it has taken an event and before it acknowledges that.
            let dies = self.plan.has("outages") && self.left > 0 && self.random.chance(3);
            let Ok(request) = Request::decode(&body) else { return kernel::fault("an event is no request".into()) };
            if let Err(why) = self.take(&request.payload) {
                return kernel::fault(why);
            }
            if dies {
                return;
            }
            inbox.send(stream, FrameKind::Response, &Response { payload: Empty {}.encode(), ..Response::default() });
        }
        self.inbox = Some(inbox);
    }

    fn take(&mut self, payload: &[u8]) -> Result<(), String> {
        // A repeated event is the same in every byte.
        if self.last == payload {
            return Ok(());
        }
        self.last = payload.to_vec();
        let envelope: Envelope = Forward::decode(payload).ok().and_then(|forward| forward.envelope).unwrap_or_default();
        let value = envelope.event.unwrap_or_default().value;
        let wrong = |what: &str| Err(format!("{} is not in order: {what}", envelope.topic));
        match envelope.topic.as_str() {
            "/tasks/create" => {
                if std::mem::replace(&mut self.created, true) && !self.deleted {
                    return wrong("created twice");
                }
                self.deleted = false;
                self.told = BTreeMap::from([(ID.to_owned(), Observed::default())]);
            }
            "/tasks/start" => {
                return self.tell(ID, |told| !std::mem::replace(&mut told.started, true) && told.exited.is_none());
            }
            "/tasks/exec-added" => {
                let exec = TaskExec::decode(&value).unwrap_or_default().exec_id;
                self.told.insert(exec, Observed::default());
            }
            "/tasks/exec-started" => {
                let exec = TaskExec::decode(&value).unwrap_or_default().exec_id;
                return self.tell(&exec, |told| !std::mem::replace(&mut told.started, true) && told.exited.is_none());
            }
            "/tasks/exit" => return self.exited(TaskExit::decode(&value).unwrap_or_default()),
            "/tasks/delete" => {
                let named = TaskNamed::decode(&value).unwrap_or_default();
                let init = self.told.get(ID);
                if named.container_id != ID || init.is_some_and(|init| init.started && init.exited.is_none()) {
                    return wrong("deleted before its end is told");
                }
                self.deleted = true;
                self.streams.remove("init");
            }
            _ => {}
        }
        Ok(())
    }

    fn tell(&mut self, name: &str, tell: impl FnOnce(&mut Observed) -> bool) -> Result<(), String> {
        let told = self.told.get_mut(name).ok_or_else(|| format!("{name:?} is told of and not known"))?;
        if tell(told) { Ok(()) } else { Err(format!("an event of {name:?} is not in order: {told:?}")) }
    }

    fn exited(&mut self, exit: TaskExit) -> Result<(), String> {
        let name = exit.id.clone();
        if name == ID {
            let late = |(id, told): &(&String, &Observed)| *id != ID && told.started && told.exited.is_none();
            if let Some(exec) = self.told.iter().find(late) {
                return Err(format!("the end of init is told before that of {exec:?}"));
            }
            let record = Record::read(&self.bundle.join("exit.json"));
            match record {
                Some(record) if record.status().code() as u32 == exit.exit_status => {}
                None if self.failures >= 5 => {}
                record => return Err(format!("an end was told, {exit:?}, and its record is {record:?}")),
            }
        }
        let key = if name == ID { "init".to_owned() } else { format!("exec-{name}") };
        let at = exit.exited_at.clone().unwrap_or_default();
        let ended = std::time::UNIX_EPOCH + std::time::Duration::new(at.seconds as u64, at.nanos as u32);
        let ended = windlass_sys::clock::since_wall(ended);
        self.streams.get(&key).into_iter().flatten().try_for_each(|stream| stream.is_told(ended))?;
        let fresh = self.told.get(&name).is_some_and(|told| told.exited.is_none());
        if !fresh {
            return Err(format!("the end of {name:?} is told twice, or it is not known"));
        }
        self.tell(&name, |told| {
            told.exited = Some(exit);
            true
        })
    }

    fn answers(&mut self) {
        let Some(link) = &mut self.link else { return };
        let Some(frames) = link.frames() else {
            self.link = None;
            self.calls.clear();
            return;
        };
        link.flush();
        for (stream, body) in frames {
            let Some(call) = self.calls.remove(&stream) else {
                return kernel::fault(format!("call {stream} is answered twice, or was never made"));
            };
            let response = Response::decode(&body).unwrap_or_default();
            // The answer to an earlier deletion may have been lost.
            if call.method == "Delete" && response.status.as_ref().is_some_and(|status| status.code == code::NOT_FOUND)
            {
                self.told.get_mut(&call.exec).into_iter().for_each(|told| told.deleted = true);
            }
            if response.status.as_ref().is_none_or(|status| status.code == 0) {
                self.answered(&call, &response.payload);
            }
        }
    }

    fn answered(&mut self, call: &Call, payload: &[u8]) {
        let name = if call.exec.is_empty() { ID } else { &call.exec };
        let told = self.told.get(name).and_then(|told| told.exited.as_ref()).map(|exit| exit.exit_status);
        let status = match call.method {
            "Wait" => Exited::decode(payload).ok().map(|exited| exited.exit_status),
            "Delete" => Deleted::decode(payload)
                .ok()
                .filter(|deleted| deleted.exited_at.is_some())
                .map(|deleted| deleted.exit_status),
            _ => return,
        };
        if let (Some(told), Some(status)) = (told, status)
            && told != status
        {
            kernel::fault(format!("{call:?} says {status}, and the event {told}"));
        }
        if call.method == "Delete" && !call.exec.is_empty() {
            self.told.get_mut(&call.exec).into_iter().for_each(|told| told.deleted = true);
        }
    }

    fn ask(&mut self, method: &'static str, exec: &str, message: &impl Message) {
        let Some(link) = &mut self.link else { return };
        let request = Request { service: SERVICE.into(), method: method.into(), payload: message.encode(), timeout: 0 };
        link.send(self.stream, FrameKind::Request, &request);
        self.calls.insert(self.stream, Call { method, exec: exec.into() });
        self.stream += 2;
    }

    fn name(exec: &str) -> Name {
        Name { id: ID.into(), exec_id: exec.into() }
    }

    fn fifos(&mut self, name: &str, happens: &mut Vec<Happens>) -> [String; 2] {
        // An earlier request for it may have succeeded.
        if !self.streams.contains_key(name) {
            let streams: Vec<Rc<Stream>> = (0..2).map(|at| self.new_stream(name, at)).collect();
            self.streams.insert(name.into(), streams.clone());
            happens.push(Happens::Streams(name.into(), streams));
        }
        let streams = &self.streams[name];
        [0, 1].map(|at: usize| streams[at].fifo.to_string_lossy().into_owned())
    }

    /// A configuration that limits the kept output, mostly to less than the container writes during a long absence.
    fn config(&mut self) -> String {
        let max = if self.random.chance(20) { 0 } else { self.random.any_size(2 << 20) };
        self.drops = max > 0 && self.random.chance(30);
        let full = if self.drops { "drop" } else { "block" };
        let annotations =
            serde_json::json!({"run.windlass.spool-max": max.to_string(), "run.windlass.spool-full": full});
        match self.random.chance(30) {
            true => {
                self.drops = false;
                "{}".into()
            }
            false => serde_json::json!({"annotations": annotations}).to_string(),
        }
    }

    fn new_stream(&mut self, name: &str, at: u64) -> Rc<Stream> {
        self.names += 1;
        let fifo = self.directory.join(format!("{name}.{at}.{}", self.names));
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o600)).expect("a fifo");
        Rc::new(Stream::new(self.plan.seed * 64 + self.names, fifo, self.drops))
    }
}
