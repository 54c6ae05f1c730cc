//! An engine that sends any request at any time, and checks what the shim reports.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use super::client::Client;
use super::life::STARVED;
use super::output::{self, Stream};
use super::plan::Plan;
use super::random::Random;
use super::upgrade;
use super::world::{SECOND, Shared, SimulatedWorld};
use crate::exit::Record;
use crate::frontend::containerd;
use crate::pump::Hold;
use crate::{
    Container, Event, ExitFile, ExitStatus, Framing, Making, NewProcess, Output, ProcessId, Reply, Request, Runtime,
    Spooling, Stdio, Supervisor, Timeouts, WaitToken, WhenFull,
};
use windlass_sys::{kernel, socket, stream};

/// The events and answers about a process.
#[derive(Debug, Default)]
pub(super) struct Observed {
    pub(super) created: bool,
    pub(super) started: bool,
    pub(super) exited: Option<ExitStatus>,
    pub(super) deleted: bool,
}

/// The request that a later answer belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Create,
    Start(ProcessId),
    Wait(ProcessId),
    Delete(ProcessId),
    Other,
}

pub(super) struct Engine {
    pub(super) plan: Plan,
    pub(super) random: Random,
    pub(super) directory: PathBuf,
    /// How many containers there were before this one. Each has its own files.
    pub(super) containers: u32,
    pub(super) outside: Rc<RefCell<SimulatedWorld>>,
    pub(super) pending: BTreeMap<WaitToken, Asked>,
    pub(super) told: BTreeMap<ProcessId, Observed>,
    pub(super) streams: BTreeMap<ProcessId, Vec<Rc<Stream>>>,
    pub(super) names: u64,
    /// When the engine sends its next request, and how many it still sends.
    pub(super) next: u64,
    pub(super) left: u64,
}

/// Longest simulated time of the end, after the last fault.
const END: u64 = 1800 * SECOND;

/// Runs a plan. An error describes the fault.
pub(super) fn run(plan: &Plan, directory: &Path) -> Result<(), String> {
    let outside = Rc::new(RefCell::new(SimulatedWorld::new(plan)));
    kernel::set_world(Rc::new(RefCell::new(Shared(outside.clone()))));
    let before = descriptors();
    let mut core = Supervisor::new().map_err(|failed| failed.to_string())?;
    let mut engine = Engine {
        plan: plan.clone(),
        random: Random::new(plan.seed ^ 0xe),
        directory: directory.into(),
        containers: 0,
        outside,
        pending: BTreeMap::new(),
        told: BTreeMap::new(),
        streams: BTreeMap::new(),
        names: 0,
        next: 0,
        left: plan.requests,
    };
    let done = engine.live(&mut core).and_then(|()| engine.end(&mut core));
    let fault = kernel::take_fault().map_or(done.map(drop), Err);
    drop(core);
    fault?;
    let processes = kernel::processes();
    if !processes.is_empty() {
        return Err(format!("children are left: {processes:?}"));
    }
    kernel::forget();
    left(directory, before)
}

pub(super) fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

/// Checks that no descriptor, child or file is left.
pub(super) fn left(directory: &Path, before: usize) -> Result<(), String> {
    let descriptors = descriptors();
    if descriptors > before {
        return Err(format!("{before} descriptors have become {descriptors}"));
    }
    no_files(directory)
}

/// Checks that the directory of kept output is empty.
pub(super) fn no_files(directory: &Path) -> Result<(), String> {
    let names = std::fs::read_dir(directory.join("work")).into_iter().flatten().flatten();
    let names: Vec<_> = names.map(|entry| entry.file_name()).collect();
    if names.is_empty() { Ok(()) } else { Err(format!("files are left: {names:?}")) }
}

impl Engine {
    /// Sends requests and receives, until enough requests were sent.
    fn live(&mut self, core: &mut Supervisor) -> Result<(), String> {
        self.open(core);
        while self.left > 0 {
            if self.plan.has("starvation") && self.random.chance(1) {
                kernel::starve(self.random.any_size(STARVED));
            }
            let dies = self.plan.has("crashes") && self.random.chance(1);
            let after = dies.then(|| self.random.below(60));
            if self.turn(core, kernel::now() + 24 * 3600 * SECOND, after)? {
                self.crash(core)?;
            }
            if self.next <= kernel::now() {
                self.left -= 1;
                let most = if self.random.chance(10) { 3600 * SECOND } else { 5 * SECOND };
                self.next = kernel::now() + self.random.any_size(most);
                self.ask_something(core);
            }
            if self.plan.has("upgrades") && self.random.chance(2) {
                upgrade::upgrade::<containerd::ContainerdFront>(core, None)?;
            }
        }
        Ok(())
    }

    /// One turn of the loop. Returns whether the shim was killed in it, which happens at the call number `after`.
    fn turn(&mut self, core: &mut Supervisor, until: u64, after: Option<u64>) -> Result<bool, String> {
        self.listen(core)?;
        let deadline = windlass_sys::clock::at(self.next.min(until));
        let turned = kernel::unless_killed(after, || core.turn(Some(deadline)).map(drop));
        let killed = turned.is_none();
        turned.unwrap_or(Ok(())).map_err(|failed| failed.to_string())?;
        if !killed {
            self.listen(core)?;
        }
        kernel::take_fault().map_or(Ok(killed), Err)
    }

    pub(super) fn open(&mut self, core: &mut Supervisor) {
        let container = Container {
            id: "c".into(),
            bundle: self.directory.clone(),
            runtime: Runtime { binary: "/runtime".into(), global: Vec::new(), log: None },
            timeouts: Timeouts::default(),
            drain: Duration::from_secs(10),
            kill_on_exit: self.random.chance(50),
            oom_files: Vec::new(),
            sync: false,
        };
        let _ = core.open(container);
    }

    /// A new process, with fifos that have readers.
    pub(super) fn process(&mut self, exec: Option<u64>) -> NewProcess {
        let name = exec.map_or("init".into(), |number| format!("e{number}"));
        let id = exec.map_or(ProcessId::init("c"), |_| ProcessId::of("c", &name));
        let drops = self.random.chance(30);
        let terminal = self.plan.has("terminals") && self.random.chance(15);
        let streams: Vec<Rc<Stream>> =
            (0..if terminal { 1 } else { 2 }).map(|at| self.stream(&name, at, drops)).collect();
        self.streams.insert(id.clone(), streams.clone());
        let mut outside = self.outside.borrow_mut();
        streams.iter().for_each(|stream| outside.read_from(stream.clone()));
        outside.streams.insert(name.clone(), streams.clone());
        let max = if self.random.chance(20) { 0 } else { self.random.any_size(4 << 20) };
        let full = if drops && max > 0 { WhenFull::DropOldest } else { WhenFull::Block };
        let output = |at: usize| streams.get(at).map_or(Output::None, |stream| Output::Fifo(stream.fifo.clone()));
        let spooling = Spooling { max, full, directory: self.directory.join("work") };
        NewProcess {
            id,
            stdio: Stdio { terminal, stdout: output(0), stderr: output(1), spooling, ..Stdio::default() },
            pid_file: self.directory.join(format!("{name}.pid")),
            process_file: None,
            making: if exec.is_none() { Making::Create } else { Making::Exec },
            arguments: Vec::new(),
            preserve_fds: Vec::new(),
            exit_files: vec![ExitFile::Record(self.record(&name))],
        }
    }

    pub(super) fn record(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.{}.json", self.containers))
    }

    fn stream(&mut self, name: &str, at: u64, drops: bool) -> Rc<Stream> {
        self.names += 1;
        let fifo = self.directory.join(format!("{name}.{at}.{}", self.names));
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o600)).expect("a fifo");
        Rc::new(Stream::new(self.plan.seed * 64 + self.names, fifo, drops))
    }

    fn known(&mut self) -> Vec<ProcessId> {
        let mut known: Vec<ProcessId> = self.told.keys().cloned().collect();
        known.sort();
        known
    }

    fn ask_something(&mut self, core: &mut Supervisor) {
        let init = ProcessId::init("c");
        if !self.told.contains_key(&init) {
            let new = self.process(None);
            self.told.insert(init, Observed::default());
            return self.ask(core, Request::Create(new), Asked::Create);
        }
        let known = self.known();
        let process = known[self.random.below(known.len() as u64) as usize].clone();
        match self.random.below(14) {
            0 | 1 => self.ask(core, Request::Start(init), Asked::Start(ProcessId::init("c"))),
            2..=4 if self.plan.has("execs") && known.len() < 8 => {
                self.names += 1;
                let new = self.process(Some(self.names));
                let id = new.id.clone();
                if core.request(Request::AddExec(new)).is_ok() {
                    self.told.insert(id, Observed::default());
                }
            }
            5 | 6 => self.ask(core, Request::Start(process.clone()), Asked::Start(process)),
            7 => self.ask(core, Request::Wait(process.clone()), Asked::Wait(process)),
            8 if self.plan.has("kills") => {
                let all = self.random.chance(30) && process.is_init();
                self.ask(core, Request::Kill { process, signal: libc::SIGKILL, all }, Asked::Other);
            }
            9 if !process.is_init() => self.delete(core, process, false),
            10 => self.ask(core, Request::CloseStdin(process), Asked::Other),
            12 if self.plan.has("clients") => self.attach(core, &process),
            13 => self.ask(core, Request::Resize { process, rows: 24, columns: 80 }, Asked::Other),
            11 => {
                let (arguments, then) = (vec!["update".into()], None);
                self.ask(core, Request::Call { container: "c".into(), arguments, then }, Asked::Other);
            }
            _ => {}
        }
    }

    fn attach(&mut self, core: &mut Supervisor, process: &ProcessId) {
        let Ok((ours, theirs)) = socket::stream_pair() else { return };
        // Bytes that are still in the pipe, or held back until the runtime has ended, come after the client.
        let streams = core.processes.find(process).ok().and_then(|managed| managed.streams.as_ref());
        let Some(outlets) = streams.map(|streams| &streams.outlets) else { return };
        let before = |outlet: &crate::outlet::Outlet| {
            let source = outlet.source.as_ref().map_or(0, |source| stream::waiting(source.fd.as_fd()));
            let held = if let Hold::Held(held) = &outlet.hold { held.len() } else { 0 };
            (source + held) as u64
        };
        let comes: Vec<u64> = outlets.iter().map(before).collect();
        let streams = self.streams[process].iter().zip(comes);
        let streams = streams.map(|(stream, comes)| (stream.clone(), Some(stream.written.get() - comes))).collect();
        let framing = if self.random.chance(50) { Framing::Marked } else { Framing::Stream };
        if core.attach(process, theirs, framing).is_ok() {
            self.outside.borrow_mut().attach(Client::new(ours, framing, (Vec::new(), kernel::now()), streams));
        }
    }

    fn delete(&mut self, core: &mut Supervisor, process: ProcessId, force: bool) {
        self.ask(core, Request::Delete { process: process.clone(), force }, Asked::Delete(process));
    }

    fn ask(&mut self, core: &mut Supervisor, request: Request, asked: Asked) {
        match core.request(request) {
            Ok(Reply::Pending(token)) => {
                if self.pending.insert(token, asked).is_some() {
                    kernel::fault(format!("{token:?} was given twice"));
                }
            }
            Ok(reply) => self.answered(core, &asked, &Ok(reply)),
            Err(refusal) => self.answered(core, &asked, &Err(refusal)),
        }
    }

    fn answered(&mut self, core: &mut Supervisor, asked: &Asked, result: &Result<Reply, crate::Refusal>) {
        match (asked, result) {
            (Asked::Create, Err(_)) if core.state(&ProcessId::init("c")).is_none() => {
                // The container was not made, and may be requested again.
                self.told.remove(&ProcessId::init("c"));
            }
            (Asked::Wait(process), Ok(Reply::Exited(status)))
                if self.told.get(process).is_some_and(|told| told.exited != Some(*status)) =>
            {
                kernel::fault(format!("Wait for {process:?} says {status:?}, and the event another end"));
            }
            (Asked::Delete(process), Ok(Reply::Deleted { status, .. })) => self.forgotten(process, *status),
            _ => {}
        }
    }

    fn forgotten(&mut self, process: &ProcessId, status: Option<ExitStatus>) {
        let Some(told) = self.told.get_mut(process) else { return };
        if told.created | told.started && told.exited.is_none() {
            kernel::fault(format!("{process:?} is deleted before its end is told"));
        }
        if status.is_some() && told.exited != status {
            kernel::fault(format!("the deletion of {process:?} says {status:?}, and the event {:?}", told.exited));
        }
        told.deleted = true;
    }

    /// Checks the events of the shim.
    pub(super) fn listen(&mut self, core: &mut Supervisor) -> Result<(), String> {
        while let Some(event) = core.next_event() {
            match event {
                Event::Created { process, .. } => self.tell(&process, |told| {
                    let right = !(told.created || told.started || told.exited.is_some());
                    told.created = true;
                    right
                })?,
                Event::Started { process, .. } => {
                    let exec = !process.is_init();
                    self.tell(&process, |told| {
                        let right = (told.created || exec) && !told.started && told.exited.is_none();
                        told.started = true;
                        right
                    })?;
                }
                Event::Exited { process, status, .. } => self.exited(&process, status)?,
                Event::Finished { token, result } => {
                    let asked = self.pending.remove(&token);
                    let asked = asked.ok_or_else(|| format!("{token:?} is answered twice, or was never given"))?;
                    self.answered(core, &asked, &result);
                }
                Event::OutOfMemory { .. } | Event::Unrecorded { .. } => {}
                Event::Warning(_) | Event::Removal | Event::Signal(_) => {}
            }
        }
        Ok(())
    }

    fn tell(&mut self, process: &ProcessId, tell: impl FnOnce(&mut Observed) -> bool) -> Result<(), String> {
        let told = self.told.get_mut(process).ok_or_else(|| format!("{process:?} is told of and not known"))?;
        if tell(told) { Ok(()) } else { Err(format!("an event of {process:?} is not in order: {told:?}")) }
    }

    fn exited(&mut self, process: &ProcessId, status: ExitStatus) -> Result<(), String> {
        if process.is_init() {
            let late = |(id, told): (&ProcessId, &Observed)| !id.is_init() && told.started && told.exited.is_none();
            if let Some(exec) = self.told.iter().find(|(id, told)| late((id, told))) {
                return Err(format!("the end of init is told before that of {exec:?}"));
            }
        }
        self.tell(process, |told| {
            let right = (told.created || told.started) && told.exited.is_none();
            told.exited = Some(status);
            right
        })?;
        let ended = windlass_sys::clock::since_wall(status.at);
        self.streams.get(process).into_iter().flatten().try_for_each(|stream| stream.is_told(ended))?;
        // A reported end is on disk, unless the disk was full five times.
        let name = process.exec.as_deref().unwrap_or("init");
        match Record::read(&self.record(name)) {
            Some(record) if record.status() == status => Ok(()),
            None if self.outside.borrow().failures >= 5 => Ok(()),
            record => Err(format!("the end of {process:?} was told, and its record is {record:?}")),
        }
    }

    /// Ends the run without further faults: everything ends, is read and is deleted.
    fn end(&mut self, core: &mut Supervisor) -> Result<(), String> {
        self.outside.borrow_mut().be_kind();
        let until = kernel::now() + END;
        self.next = kernel::now();
        self.ask(core, Request::Kill { process: ProcessId::init("c"), signal: libc::SIGKILL, all: true }, Asked::Other);
        while !self.is_over() {
            self.turn(core, until, None)?;
            if kernel::now() >= until {
                let streams: Vec<_> =
                    self.streams.values().flatten().filter(|stream| !output::is_whole(stream)).collect();
                let states: Vec<_> = self.told.keys().map(|process| core.state(process)).collect();
                let told = &self.told;
                return Err(format!("it does not end: {told:?}; {states:?}; not read: {streams:?}"));
            }
            if self.next <= kernel::now() {
                self.next = kernel::now() + 60 * SECOND;
                self.finish(core);
            }
        }
        self.outside.borrow_mut().leave();
        core.close("c");
        // Orphans are reaped, and memory is freed.
        let rest = kernel::now() + 300 * SECOND;
        self.next = rest;
        while kernel::now() < rest {
            self.turn(core, rest, None)?;
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.pending.is_empty() && self.told.values().all(|told| told.deleted)
    }

    fn finish(&mut self, core: &mut Supervisor) {
        for process in self.known() {
            let told = &self.told[&process];
            let ran = told.created || told.started;
            if told.deleted || self.pending.values().any(|asked| *asked == Asked::Delete(process.clone())) {
                continue;
            }
            if core.state(&process).is_none() {
                self.told.get_mut(&process).into_iter().for_each(|told| told.deleted = true);
                continue;
            }
            if ran && told.exited.is_none() {
                self.ask(core, Request::Kill { process, signal: libc::SIGKILL, all: false }, Asked::Other);
                continue;
            }
            // No output is dropped while a reader is attached.
            let whole = self.streams[&process].iter().all(|stream| output::is_whole(stream));
            if !ran || whole || core.state(&process).is_some_and(|state| state.dropped > 0) {
                self.delete(core, process, true);
            }
        }
    }
}
