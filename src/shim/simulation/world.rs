//! The world around the shim: the runtime, the processes of the container, and the readers of their output.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::client::Client;
use super::output::{self, Reader, Stream, Writer};
use super::plan::Plan;
use super::random::Random;
use windlass_sys::kernel::{self, Release, Started, World};
use windlass_sys::process::Exit;
use windlass_sys::{fd, socket, stream};

pub(super) const MILLISECOND: u64 = 1_000_000;
pub(super) const SECOND: u64 = 1000 * MILLISECOND;

/// A daemon that is part of the world.
pub(super) trait Daemon {
    /// Acts now. Returns the time until its next action, and the effects on the world.
    fn act(&mut self, outside: &SimulatedWorld) -> (u64, Vec<Happens>);
}

/// An effect of a daemon on the world.
#[derive(Debug)]
pub(super) enum Happens {
    /// The streams of a process that is about to be made.
    Streams(String, Vec<Rc<Stream>>),
    /// Streams that are read only through the shim.
    Outputs(String, Vec<Rc<Stream>>),
    /// A client that is attached.
    Client(Client),
    /// A call of the runtime's `start`, without the shim.
    Start,
    /// The kill of init, without the shim.
    Kill,
    /// The kill of every running call of the runtime.
    EndRuntimes,
    /// The end of all faults.
    Kindness,
}

/// An action at its time.
#[derive(Clone, Copy, Debug)]
enum Happening {
    /// A call of the runtime does its work, and ends.
    Runtime(i32),
    /// A process of the container goes on.
    Process(i32),
    /// A forked child goes on.
    Release(i32),
    /// A reader comes, reads or goes.
    Reader(usize),
    /// An attached client reads or leaves.
    Client(usize),
    /// A process that outlives another closes its pipes.
    LetGo(usize),
    /// The daemon goes on.
    Daemon,
}

/// A process of the container.
#[derive(Debug)]
struct Process {
    is_init: bool,
    /// Init does nothing before it is started.
    runs: bool,
    outputs: Vec<Writer>,
    ends_at: u64,
    code: i32,
}

/// The world.
pub(super) struct SimulatedWorld {
    pub(super) random: Random,
    pub(super) plan: Plan,
    /// Whether no faults occur any more, as in the end of a run.
    pub(super) is_kind: bool,
    happenings: BTreeMap<(u64, u64), Happening>,
    count: u64,
    runtimes: BTreeMap<i32, Started>,
    processes: BTreeMap<i32, Process>,
    /// The streams of the processes that are made next, by the names of the processes.
    pub(super) streams: BTreeMap<String, Vec<Rc<Stream>>>,
    pub(super) readers: Vec<Reader>,
    clients: Vec<Client>,
    held: Vec<Vec<Writer>>,
    /// How many children have failed.
    pub(super) failures: u64,
    init: Option<i32>,
    /// How processes of the container have ended, and when.
    pub(super) ends: BTreeMap<i32, (Exit, u64)>,
    /// The daemon, where there is one.
    pub(super) daemon: Option<Rc<RefCell<dyn Daemon>>>,
}

/// The world, for the kernel and for the engine.
pub(super) struct Shared(pub(super) Rc<RefCell<SimulatedWorld>>);

impl World for Shared {
    fn next(&self) -> Option<u64> {
        self.0.borrow().next()
    }

    fn act(&mut self) {
        self.0.borrow_mut().act();
    }

    fn refuses(&mut self) -> Option<Errno> {
        let mut outside = self.0.borrow_mut();
        outside.goes_wrong("forks", 2).then_some(Errno::EAGAIN)
    }
}

impl SimulatedWorld {
    pub(super) fn new(plan: &Plan) -> SimulatedWorld {
        SimulatedWorld {
            random: Random::new(plan.seed ^ 0x5eed),
            plan: plan.clone(),
            is_kind: false,
            happenings: BTreeMap::new(),
            count: 0,
            runtimes: BTreeMap::new(),
            processes: BTreeMap::new(),
            streams: BTreeMap::new(),
            readers: Vec::new(),
            clients: Vec::new(),
            held: Vec::new(),
            failures: 0,
            init: None,
            ends: BTreeMap::new(),
            daemon: None,
        }
    }

    /// Whether a fault of this part of the plan occurs now.
    pub(super) fn goes_wrong(&mut self, part: &str, percent: u64) -> bool {
        !self.is_kind && self.plan.has(part) && self.random.chance(percent)
    }

    fn at(&mut self, delay: u64, happening: Happening) {
        self.count += 1;
        self.happenings.insert((kernel::now() + delay, self.count), happening);
    }

    /// Applies the effects of what the shim has done since the last call.
    fn take_in(&mut self) {
        for started in kernel::take_started() {
            let delay = self.random.any_size(if self.plan.has("hangs") { 30 * SECOND } else { 40 * MILLISECOND });
            let hangs = self.goes_wrong("hangs", 4);
            let pid = started.pid;
            self.runtimes.insert(pid, started);
            if !hangs {
                self.at(delay, Happening::Runtime(pid));
            }
        }
        for pid in kernel::take_forked() {
            // A slow disk delays the child for minutes.
            let slow = self.goes_wrong("slowness", 3);
            let most = if slow {
                600 * SECOND
            } else if self.random.chance(10) {
                20 * SECOND
            } else {
                5 * MILLISECOND
            };
            let delay = self.random.any_size(most);
            self.at(delay, Happening::Release(pid));
        }
        for (pid, signal) in kernel::take_signals() {
            if signal == libc::SIGKILL {
                self.kill(pid);
            }
        }
    }

    fn next(&self) -> Option<u64> {
        let pending = kernel::has_news().then(kernel::now);
        pending.into_iter().chain(self.happenings.keys().next().map(|(at, _)| *at)).min()
    }

    fn act(&mut self) {
        self.take_in();
        let due = self.happenings.first_key_value().filter(|((at, _), _)| *at <= kernel::now()).map(|(key, _)| *key);
        match due.and_then(|key| self.happenings.remove(&key)) {
            None => {}
            Some(Happening::Runtime(pid)) => self.run(pid),
            Some(Happening::Process(pid)) => self.go_on(pid),
            Some(Happening::Release(pid)) => self.release(pid),
            Some(Happening::Reader(at)) => self.read(at),
            Some(Happening::Client(at)) => self.serve_client(at),
            Some(Happening::LetGo(at)) => self.held[at].clear(),
            Some(Happening::Daemon) => self.daemon_acts(),
        }
    }

    /// Schedules the daemon's next action after `delay`.
    pub(super) fn wake_daemon(&mut self, delay: u64) {
        self.at(delay, Happening::Daemon);
    }

    fn daemon_acts(&mut self) {
        let Some(daemon) = self.daemon.clone() else { return };
        let (delay, happens) = daemon.borrow_mut().act(self);
        for happens in happens {
            match happens {
                Happens::Streams(name, streams) => {
                    streams.iter().for_each(|stream| self.read_from(stream.clone()));
                    self.streams.insert(name, streams);
                }
                Happens::Outputs(name, streams) => drop(self.streams.insert(name, streams)),
                Happens::Client(client) => self.attach(client),
                Happens::Start => drop(self.start()),
                Happens::EndRuntimes => self.end_runtimes(),
                Happens::Kill => self.init.into_iter().for_each(|init| self.kill(init)),
                Happens::Kindness => self.be_kind(),
            }
        }
        self.wake_daemon(delay);
    }

    fn release(&mut self, pid: i32) {
        let how = match (self.goes_wrong("disk", 10), self.goes_wrong("forks", 3)) {
            (true, _) => Release::FullDisk,
            (_, true) => Release::Killed,
            _ => Release::Go,
        };
        self.failures += u64::from(how != Release::Go);
        kernel::release(pid, how);
    }

    // The runtime.

    fn run(&mut self, pid: i32) {
        let Some(started) = self.runtimes.remove(&pid).filter(|_| kernel::is_alive(pid)) else { return };
        let code = match self.goes_wrong("runtime", 10) {
            true => {
                let _ = stream::write(started.stdio[2].as_fd(), b"the runtime says no\n");
                1
            }
            false => self.carry_out(&started),
        };
        drop(started);
        kernel::end(pid, Exit::Code(code));
    }

    fn carry_out(&mut self, started: &Started) -> i32 {
        let words: Vec<&str> = started.words.iter().map(String::as_str).collect();
        let after = |flag: &str| words.iter().position(|word| *word == flag).and_then(|at| words.get(at + 1).copied());
        let verbs = ["create", "start", "exec", "kill", "delete"];
        let verb = words.iter().skip(1).copied().find(|word| verbs.contains(word)).unwrap_or_default();
        let init_runs = self.init.is_some_and(kernel::is_alive);
        match verb {
            "create" | "exec" => {
                if verb == "exec" && !init_runs {
                    return complain(started, "container not running");
                }
                let file = after("--pid-file").unwrap_or_default().to_owned();
                let name = std::path::Path::new(&file).file_stem().unwrap_or_default().to_string_lossy().into_owned();
                let terminal = after("--console-socket").map(send_terminal);
                let made = self.make(verb == "create", &name, &started.stdio, terminal);
                i32::from(std::fs::write(file, made.to_string()).is_err())
            }
            "start" => self.start().map_or_else(|why| complain(started, why), |()| 0),
            "kill" => {
                if !init_runs && !words.contains(&"--all") {
                    return complain(started, "container not running");
                }
                let all: Vec<i32> = if words.contains(&"--all") {
                    self.processes.keys().copied().collect()
                } else {
                    self.init.into_iter().collect()
                };
                all.into_iter().for_each(|pid| self.kill(pid));
                0
            }
            "delete" => {
                if init_runs && !words.contains(&"--force") {
                    return complain(started, "container is not stopped");
                }
                self.delete();
                0
            }
            _ => 0,
        }
    }

    fn start(&mut self) -> Result<(), &'static str> {
        let init = self.init.filter(|init| kernel::is_alive(*init)).ok_or("container not running")?;
        let process = self.processes.get_mut(&init).filter(|process| !process.runs);
        process.ok_or("cannot start a container that runs")?.runs = true;
        self.at(MILLISECOND, Happening::Process(init));
        Ok(())
    }

    /// Whether init lives and was started.
    pub(super) fn runs(&self, init: i32) -> bool {
        self.processes.get(&init).is_some_and(|process| process.runs)
    }

    fn make(&mut self, is_init: bool, name: &str, stdio: &[OwnedFd; 3], mut terminal: Option<Option<OwnedFd>>) -> i32 {
        let pid = kernel::make();
        let size = self.plan.size;
        let mut outputs = Vec::new();
        for (at, stream) in self.streams.get(name).cloned().unwrap_or_default().into_iter().enumerate() {
            let pipe = || fd::reopen(stdio[at + 1].as_fd(), OFlag::O_WRONLY | OFlag::O_NONBLOCK).ok();
            let end = terminal.as_mut().map_or_else(pipe, Option::take);
            let left = self.random.any_size(1 << size);
            outputs.extend(end.map(|end| Writer { end, left, stream }));
        }
        // Many processes end when they have written everything, while their readers still read.
        let lives = if self.random.chance(40) { 0 } else { self.random.any_size(600 * SECOND) };
        let code = self.random.below(200) as i32;
        let ends_at = kernel::now() + lives;
        self.processes.insert(pid, Process { is_init, runs: !is_init, outputs, ends_at, code });
        self.init = if is_init { Some(pid) } else { self.init };
        let delay = if self.random.chance(10) { 0 } else { self.random.any_size(50 * MILLISECOND) };
        self.at(delay, Happening::Process(pid));
        pid
    }

    /// Kills every call of the runtime, as the kernel does when the shim is killed. Returns init, if it lives.
    pub(super) fn lose_shim(&mut self) -> Option<i32> {
        self.take_in();
        self.end_runtimes();
        kernel::orphan_all();
        self.init.filter(|init| kernel::is_alive(*init))
    }

    fn end_runtimes(&mut self) {
        self.runtimes.keys().copied().collect::<Vec<_>>().into_iter().for_each(|pid| self.kill(pid));
    }

    /// Acts as the runtime's `delete --force`, without the shim.
    pub(super) fn delete(&mut self) {
        self.processes.keys().copied().collect::<Vec<_>>().into_iter().for_each(|pid| self.kill(pid));
        self.init = None;
    }

    // The processes of the container.

    fn go_on(&mut self, pid: i32) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        if !process.runs {
            return;
        }
        let most = 1 + self.random.any_size(512 * 1024);
        let wrote =
            process.outputs.iter_mut().map(|output| output.left > 0 && output.write(most)).fold(false, |a, b| a | b);
        let done = process.outputs.iter().all(|output| output.left == 0);
        let late = process.ends_at <= kernel::now();
        if done && late {
            return self.ends(pid, None);
        }
        let delay = match (done, wrote) {
            (true, _) => process.ends_at.saturating_sub(kernel::now()),
            (false, true) => self.random.any_size(100 * MILLISECOND),
            // The pipes of the process are full.
            (false, false) => self.random.any_size(5 * SECOND),
        };
        self.at(delay, Happening::Process(pid));
    }

    fn kill(&mut self, pid: i32) {
        if self.runtimes.remove(&pid).is_some() {
            kernel::end(pid, Exit::Signal(libc::SIGKILL));
        } else if self.processes.contains_key(&pid) {
            self.ends(pid, Some(libc::SIGKILL));
        } else {
            kernel::end(pid, Exit::Signal(libc::SIGKILL));
        }
    }

    fn ends(&mut self, pid: i32, signal: Option<i32>) {
        let Some(process) = self.processes.remove(&pid) else { return };
        // Another process may have the pipes open for a while longer.
        if self.goes_wrong("holders", 20) {
            process.outputs.iter().for_each(|output| output.stream.held.set(true));
            self.held.push(process.outputs);
            let delay = self.random.any_size(30 * SECOND);
            self.at(delay, Happening::LetGo(self.held.len() - 1));
        }
        let exit = signal.map_or(Exit::Code(process.code), Exit::Signal);
        self.ends.insert(pid, (exit, kernel::now()));
        kernel::end(pid, exit);
        if process.is_init && self.random.chance(50) {
            // The container has its own PID namespace.
            let others: Vec<i32> = self.processes.keys().copied().collect();
            others.into_iter().for_each(|pid| self.kill(pid));
        }
    }

    // The readers.

    /// Gives a fifo a reader, which comes at any time.
    pub(super) fn read_from(&mut self, stream: Rc<Stream>) {
        self.readers.push(Reader::new(stream));
        let delay = if self.plan.has("readers") { self.random.any_size(3600 * SECOND) } else { 0 };
        self.at(delay, Happening::Reader(self.readers.len() - 1));
    }

    fn read(&mut self, at: usize) {
        let away = !self.is_kind && self.plan.has("readers");
        let reader = &mut self.readers[at];
        if !reader.is_open() {
            reader.open();
        }
        let most = output::portion(&mut self.random);
        let came = reader.read(most);
        let mut delay = self.random.any_size(20 * MILLISECOND);
        if away && self.random.chance(20) {
            // The reader pauses, or leaves.
            if self.random.chance(60) {
                reader.close();
            }
            let most = if self.random.chance(10) { 3600 * SECOND } else { 10 * SECOND };
            delay = self.random.any_size(most);
        } else if came == 0 {
            delay = self.random.within(MILLISECOND, 5 * SECOND);
        }
        self.at(delay, Happening::Reader(at));
    }

    // The clients.

    /// Adds an attached client.
    pub(super) fn attach(&mut self, client: Client) {
        self.clients.push(client);
        self.at(0, Happening::Client(self.clients.len() - 1));
    }

    fn serve_client(&mut self, at: usize) {
        let away = !self.is_kind && self.plan.has("readers");
        let most = output::portion(&mut self.random);
        let came = self.clients[at].read(most);
        if away && self.random.chance(3) {
            self.clients[at].leave();
        }
        if !self.clients[at].is_open() {
            return;
        }
        let most = if away && self.random.chance(10) { 10 * SECOND } else { 20 * MILLISECOND };
        let delay = if came { self.random.any_size(most) } else { self.random.within(MILLISECOND, SECOND) };
        self.at(delay, Happening::Client(at));
    }

    /// Ends all faults.
    pub(super) fn be_kind(&mut self) {
        self.is_kind = true;
        let readers = 0..self.readers.len();
        readers.for_each(|at| self.at(0, Happening::Reader(at)));
    }

    /// Ends every reader, process and call of the runtime.
    pub(super) fn leave(&mut self) {
        self.readers.iter_mut().for_each(Reader::close);
        self.readers.clear();
        self.clients.clear();
        self.held.clear();
        self.daemon = None;
        let leaves = |happening: &Happening| {
            matches!(happening, Happening::Reader(_) | Happening::Client(_) | Happening::LetGo(_))
        };
        self.happenings.retain(|_, happening| !leaves(happening));
    }
}

/// Makes a terminal and sends it to this socket. Returns the side of the process. A pair of sockets stands in for it.
fn send_terminal(path: &str) -> Option<OwnedFd> {
    let (process, shim) = socket::stream_pair().ok()?;
    stream::never_block(process.as_fd()).ok()?;
    let socket = socket::connect(path.as_ref()).ok()?;
    socket::send(socket.as_fd(), b"/dev/ptmx", &[shim.as_fd()]).ok()?;
    Some(process)
}

fn complain(started: &Started, text: &str) -> i32 {
    let _ = stream::write(started.stdio[2].as_fd(), text.as_bytes());
    1
}
