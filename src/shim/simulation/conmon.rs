//! A podman that has conmon make one container after the other, attaches, writes to the fifos, moves the log away, and
//! relies on the files.

use std::cell::RefCell;
use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::fcntl::OFlag;
use serde_json::Value;

use super::client::Client;
use super::life::{self, Clients};
use super::output::{self, Stream};
use super::plan::Plan;
use super::random::Random;
use super::requests::{self, Requests};
use super::world::{Daemon, Happens, SECOND, SimulatedWorld};
use crate::frontend::conmon;
use crate::{Framing, Supervisor};
use windlass_base::exit_record;
use windlass_sys::process::Exit;
use windlass_sys::stream::{self, Moved};
use windlass_sys::{fd, kernel, socket};

/// podman.
pub(super) struct Podman {
    plan: Plan,
    random: Random,
    directory: PathBuf,
    /// The bundle of the present conmon, and the files of its log, the oldest first.
    bundle: PathBuf,
    logs: Vec<PathBuf>,
    streams: Vec<Rc<Stream>>,
    sync: Option<OwnedFd>,
    said: Vec<u8>,
    /// The reported process id, or -1 for a failure.
    told: Option<i64>,
    started: bool,
    /// Whether conmon ends the container after some time.
    times_out: bool,
    /// The rest of a line that is half written to the control fifo.
    half: Vec<u8>,
    names: u64,
    left: u64,
}

const ID: &str = "fedcba9876543210";

/// Runs a plan. An error describes the fault.
pub(super) fn run(plan: &Plan, directory: &Path) -> Result<(), String> {
    let podman = Podman {
        plan: plan.clone(),
        random: Random::new(plan.seed ^ 0xca),
        directory: directory.into(),
        bundle: PathBuf::new(),
        logs: Vec::new(),
        streams: Vec::new(),
        sync: None,
        said: Vec::new(),
        told: None,
        started: false,
        times_out: false,
        half: Vec::new(),
        names: 0,
        left: plan.requests,
    };
    life::live(plan, directory, podman)
}

impl Clients for Podman {
    type Front = conmon::ConmonFront;

    fn begin(
        &mut self,
        outside: &RefCell<SimulatedWorld>,
        core: &mut Supervisor,
    ) -> Result<conmon::ConmonFront, String> {
        // Each container has its own paths: a child of a killed shim may still write to a slow disk.
        self.bundle = self.directory.join(format!("bundle.{}", self.names));
        std::fs::create_dir_all(self.bundle.join("exits")).map_err(|error| error.to_string())?;
        let terminal = self.plan.has("terminals") && self.random.chance(15);
        self.streams = (0..if terminal { 1 } else { 2 })
            .map(|at| Rc::new(Stream::new(self.plan.seed * 64 + 16 * self.names + at, PathBuf::new(), false)))
            .collect();
        self.names += 1;
        outside.borrow_mut().streams.insert("init".into(), self.streams.clone());
        self.logs = vec![self.bundle.join("log")];
        self.times_out = self.random.chance(10);
        let here = self.bundle.display();
        let mut words = format!(
            "--api-version --full-attach -c {ID} -u {ID} -n web -r /bin/true -b {here} -p {here}/init.pid \
             --exit-dir {here}/exits -l k8s-file:{here}/log"
        );
        for (part, wanted) in [(" -i", self.random.chance(50)), (" -t", terminal), (" -T 60", self.times_out)] {
            words += if wanted { part } else { "" };
        }
        let words = words.split(' ').filter(|word| !word.is_empty()).map(OsString::from).collect();
        let (ours, theirs) = socket::stream_pair().map_err(|failed| failed.to_string())?;
        stream::never_block(ours.as_fd()).map_err(|failed| failed.to_string())?;
        self.sync = Some(ours);
        conmon::simulated(words, theirs, core)
    }

    fn is_over(&self) -> bool {
        self.left == 0
    }

    fn left(&mut self, status: i32, outside: &SimulatedWorld) -> Result<(), String> {
        self.listen()?;
        if self.bundle.join("attach").exists() {
            return Err("the attach socket is left".into());
        }
        // A child that was killed may have written the file before, and has not told that.
        if self.is_listed() && outside.failures < 5 {
            return Err("a file is listed as unwritten".into());
        }
        let init = self.told.filter(|pid| *pid > 0).or_else(|| self.pid());
        let Some((exit, ended)) = init.and_then(|pid| outside.ends.get(&(pid as i32))).copied() else {
            return if status == 1 { Ok(()) } else { Err(format!("it leaves with {status}, and nothing has run")) };
        };
        if self.told == Some(-1) {
            // The runtime has failed after it made the container.
            return Ok(());
        }
        self.is_recorded(exit, outside.failures)?;
        if status != exit.status() && !self.timed_out(exit, status) {
            return Err(format!("it leaves with {status}, and init with {exit:?}"));
        }
        // The shim waits for no process longer than ten seconds.
        self.is_logged(kernel::now() < ended + 9 * SECOND)
    }

    fn killed(
        &mut self,
        _init: Option<i32>,
        outside: &SimulatedWorld,
        _core: &mut Supervisor,
    ) -> Result<Option<conmon::ConmonFront>, String> {
        self.listen()?;
        self.streams.iter().for_each(|stream| stream.lost.set(true));
        let Some(pid) = self.told.filter(|pid| *pid > 0) else { return Ok(None) };
        match (self.exit_file(), outside.ends.get(&(pid as i32))) {
            (Some(text), None) => Err(format!("{text:?} is in the exit file, and init lives")),
            (Some(_), Some((exit, _))) => self.is_recorded(*exit, 0).map(|()| None),
            (None, _) if self.is_listed() => Ok(None),
            (None, _) => Err("there is neither an exit file nor a word of where it should be".into()),
        }
    }

    fn reset(&mut self) {
        self.sync = None;
        self.said.clear();
        self.half.clear();
        (self.told, self.started) = (None, false);
    }

    fn why(&self) -> String {
        format!("told {:?}, started {}, streams {:?}", self.told, self.started, self.streams)
    }
}

impl Daemon for Podman {
    fn act(&mut self, outside: &SimulatedWorld) -> (u64, Vec<Happens>) {
        if let Err(why) = self.listen() {
            kernel::fault(why);
        }
        requests::turn(self, outside, Vec::new())
    }
}

impl Requests for Podman {
    const END_PAUSE: u64 = 20 * SECOND;

    fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    fn remaining(&mut self) -> &mut u64 {
        &mut self.left
    }

    fn ask_something(&mut self, happens: &mut Vec<Happens>) {
        if self.told.is_some_and(|pid| pid > 0) && !self.started && self.random.chance(60) {
            self.started = true;
            happens.push(Happens::Start);
        }
        match self.random.below(10) {
            0..=2 if self.plan.has("clients") => happens.extend(self.attach()),
            3 => self.control("ctl", "1 24 80\n"),
            4 => self.control("winsz", "24 80\n"),
            5 | 6 => {
                let to = self.bundle.join(format!("log.{}", self.logs.len()));
                let last = self.logs.len() - 1;
                if std::fs::rename(&self.logs[last], &to).is_ok() {
                    let log = std::mem::replace(&mut self.logs[last], to);
                    self.logs.push(log);
                    self.control("ctl", "2 0 0\n");
                }
            }
            7 if self.plan.has("kills") && self.random.chance(30) => happens.push(Happens::Kill),
            8 if self.plan.has("outages") && self.random.chance(10) => self.sync = None,
            9 if self.plan.has("hangs") && self.random.chance(30) => happens.push(Happens::EndRuntimes),
            _ => {}
        }
    }

    fn finish(&mut self, happens: &mut Vec<Happens>) {
        // A caller does not wait for its runtime for ever.
        happens.push(if self.told.is_none() { Happens::EndRuntimes } else { Happens::Kill });
    }

    fn pause(&mut self, outside: &SimulatedWorld) -> u64 {
        if !outside.is_kind && self.random.chance(10) { 600 * SECOND } else { 5 * SECOND }
    }
}

impl Podman {
    /// Reads conmon's report of the start.
    fn listen(&mut self) -> Result<(), String> {
        let Some(sync) = &self.sync else { return Ok(()) };
        let mut buffer = [0; 4096];
        let open = loop {
            match socket::receive_now(sync.as_fd(), &mut buffer) {
                Ok(0) => break false,
                Ok(n) => self.said.extend_from_slice(&buffer[..n]),
                Err(errno) => break errno == nix::errno::Errno::EAGAIN,
            }
        };
        while let Some(end) = self.said.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.said.drain(..=end).collect();
            let value: Value = serde_json::from_slice(&line).map_err(|error| error.to_string())?;
            let number = value["data"].as_i64().ok_or_else(|| format!("{value} is no answer"))?;
            if let Some(before) = self.told.replace(number) {
                return Err(format!("{before} was told, and now {value}"));
            }
        }
        if !open {
            self.sync = None;
        }
        Ok(())
    }

    fn pid(&self) -> Option<i64> {
        std::fs::read_to_string(self.bundle.join("init.pid")).ok()?.trim().parse().ok()
    }

    fn exit_file(&self) -> Option<String> {
        std::fs::read_to_string(self.bundle.join("exits").join(ID)).ok()
    }

    /// Whether a file names the exit files that `windlass delete` has to write.
    fn is_listed(&self) -> bool {
        self.bundle.join(exit_record::UNWRITTEN).exists()
    }

    fn timed_out(&self, exit: Exit, status: i32) -> bool {
        self.times_out && status == -1 && exit == Exit::Signal(libc::SIGKILL)
    }

    /// Checks that the exit file has the exit status of init.
    fn is_recorded(&self, exit: Exit, failures: u64) -> Result<(), String> {
        match self.exit_file().map(|text| text.parse::<i32>()) {
            Some(Ok(status)) if status == exit.status() || self.timed_out(exit, status) => Ok(()),
            None if failures >= 5 && self.is_listed() => Ok(()),
            found => Err(format!("{found:?} is in the exit file, and init has ended with {exit:?}")),
        }
    }

    /// Checks that all output is in the log; unless `whole`, that the log is a beginning of it.
    fn is_logged(&self, whole: bool) -> Result<(), String> {
        let joined = self.bundle.join("all");
        let text: Vec<u8> = self.logs.iter().flat_map(|log| std::fs::read(log).unwrap_or_default()).collect();
        std::fs::write(&joined, text).map_err(|error| error.to_string())?;
        for (stream, length) in self.streams.iter().zip(output::logged(&joined, &self.streams)?) {
            if whole && !stream.held.get() && !stream.lost.get() && length != stream.written.get() {
                return Err(format!("{length} bytes of {stream:?} are in the log"));
            }
        }
        Ok(())
    }

    fn attach(&self) -> Option<Happens> {
        let bundle = fd::open(&self.bundle, OFlag::O_RDONLY | OFlag::O_DIRECTORY).ok()?;
        let socket = socket::connect_at(bundle.as_fd(), "attach").ok()?;
        let streams = self.streams.iter().map(|stream| (stream.clone(), None)).collect();
        Some(Happens::Client(Client::new(socket, Framing::Packet, (Vec::new(), kernel::now()), streams)))
    }

    /// Writes a line to a fifo, sometimes only the first half of it.
    fn control(&mut self, name: &str, line: &str) {
        let Ok(fifo) = fd::open(self.bundle.join(name), OFlag::O_WRONLY | OFlag::O_NONBLOCK) else { return };
        let mut text = line.as_bytes().to_vec();
        if name == "ctl" {
            text = [std::mem::take(&mut self.half), text].concat();
            let whole = if self.random.chance(30) { text.len() - 3 } else { text.len() };
            self.half = text.split_off(whole);
        }
        if !matches!(stream::write(fifo.as_fd(), &text), Ok(Moved::Bytes(n)) if n == text.len()) {
            kernel::fault(format!("{name} is full"));
        }
    }
}
