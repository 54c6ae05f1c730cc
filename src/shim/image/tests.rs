use std::os::fd::OwnedFd;
use std::time::{Duration, Instant, SystemTime};

use super::fault::Fault;
use super::format::{self, Content, Context, Encoder, Field, Fields, Value, choice, table};
use super::supervisor;
use crate::call::{Call, Operation, Planned};
use crate::client::Client;
use crate::console::Console;
use crate::containers::ManagedContainer;
use crate::input::Input;
use crate::life::{End, Life, Parent, Process};
use crate::log::{Logger, Stream};
use crate::notifier::Watch;
use crate::oom::OomWatch;
use crate::outlet::Outlet;
use crate::processes::ManagedProcess;
use crate::pump::{Backlog, Flow, Hold, Reading, Source};
use crate::sink::{Fifo, Sink};
use crate::spool::{Feeder, Spool, Writer};
use crate::stdio::{JournalFields, LogFile};
use crate::streams::Streams;
use crate::table::Table;
use crate::{
    Container, ExitFile, ExitStatus, Framing, Interest, Log, Making, NewProcess, Output, Phase, ProcessId, Runtime,
    Spooling, Stdin, Stdio, Supervisor, Timeouts, WaitToken, WhenFull,
};
use windlass_sys::process::{Child, Exit};

#[path = "tests/watching.rs"]
mod watching;

/// A small generator of random states: xorshift.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn yes(&mut self) -> bool {
        self.below(2) == 1
    }

    fn maybe<T>(&mut self, make: impl FnOnce(&mut Random) -> T) -> Option<T> {
        self.yes().then(|| make(self))
    }

    fn some<T>(&mut self, mut make: impl FnMut(&mut Random) -> T) -> Vec<T> {
        (0..self.below(3)).map(|_| make(self)).collect()
    }

    fn bytes(&mut self) -> Vec<u8> {
        (0..self.below(6)).map(|_| self.next() as u8).collect()
    }

    fn text(&mut self) -> String {
        (0..self.below(5)).map(|_| char::from(b'a' + self.below(26) as u8)).collect()
    }

    fn number(&mut self) -> u64 {
        let bits = self.below(64);
        self.next() >> bits
    }

    fn fd(&mut self) -> OwnedFd {
        // One that epoll(7) can watch.
        windlass_sys::socket::datagram().expect("a descriptor")
    }

    fn moment(&mut self) -> Instant {
        Instant::now() + Duration::from_nanos(self.below(1 << 40))
    }

    fn phase(&mut self) -> Phase {
        [Phase::Added, Phase::Created, Phase::Running, Phase::Paused, Phase::Stopped][self.below(5) as usize]
    }

    fn id(&mut self) -> ProcessId {
        ProcessId::of(&self.text(), &self.text())
    }

    fn exit(&mut self) -> Exit {
        let number = self.next() as i32;
        if self.yes() { Exit::Code(number) } else { Exit::Signal(number) }
    }

    fn child(&mut self) -> Child {
        Child { pid: self.next() as i32, pidfd: self.fd() }
    }

    fn end(&mut self) -> End {
        let at = SystemTime::UNIX_EPOCH + Duration::from_nanos(self.number());
        let status = ExitStatus { exit: self.maybe(Random::exit), oom_killed: self.yes(), at };
        End { pid: self.next() as i32, phase: self.phase(), status }
    }

    fn life(&mut self) -> Life {
        match self.below(10) {
            0 => Life::Added { stdin_closed: self.yes() },
            1 => Life::Launching,
            2 => {
                let parent = [Parent::Shim, Parent::Other, Parent::OtherUntil(self.moment())][self.below(3) as usize];
                Life::Alive { pid: self.next() as i32, phase: self.phase(), parent }
            }
            3 => Life::Draining { end: self.end(), output_until: self.moment(), clients_until: self.moment() },
            4 => Life::Recording { end: self.end(), failures: self.next() as u32 },
            5 => Life::Retrying { end: self.end(), failures: self.below(5) as u32, at: self.moment() },
            6 => Life::Recorded { end: self.end() },
            7 => Life::Reported { end: self.end() },
            8 => Life::Leaving { end: self.end(), until: self.moment() },
            _ => Life::NeverRan,
        }
    }

    fn runtime(&mut self) -> Runtime {
        let log = self.maybe(Random::text).map(Into::into);
        Runtime { binary: self.text().into(), global: self.some(|r| r.text().into()), log }
    }

    fn container(&mut self) -> Box<ManagedContainer> {
        let container = Container {
            id: self.text().into(),
            bundle: self.text().into(),
            runtime: self.runtime(),
            timeouts: Timeouts { long: Duration::from_nanos(self.number()), short: Duration::ZERO },
            drain: Duration::from_nanos(self.number()),
            kill_on_exit: self.yes(),
            oom_files: self.some(|r| r.text().into()),
            sync: self.yes(),
        };
        let oom = self.maybe(|r| OomWatch {
            file: r.text().into(),
            reported: r.number(),
            watch: r.maybe(|_| Watch::ended()),
        });
        Box::new(ManagedContainer { container, oom, oom_killed: self.yes(), cgroup: self.maybe(|r| r.text().into()) })
    }

    fn log_file(&mut self) -> LogFile {
        LogFile {
            path: "/dev/null".into(),
            below: self.some(|r| r.text().into()),
            max_size: self.maybe(Random::number),
            max_files: self.next() as u32,
            max_total: self.maybe(Random::number),
            sync: self.yes(),
        }
    }

    fn log(&mut self) -> Log {
        match self.below(4) {
            0 => Log::K8s(self.log_file()),
            1 => Log::Json(self.log_file()),
            2 => Log::Raw(self.log_file()),
            _ => Log::Journald(JournalFields {
                id: self.text(),
                name: self.text(),
                tag: self.text(),
                labels: self.some(Random::text),
                partial: self.yes(),
            }),
        }
    }

    fn output(&mut self) -> Output {
        match self.below(6) {
            0 => Output::None,
            1 => Output::Attach,
            2 => Output::Fifo(self.text().into()),
            3 => Output::File(self.text().into()),
            4 => Output::Fd(self.fd()),
            _ => Output::Inherit,
        }
    }

    fn stdin(&mut self) -> Stdin {
        match self.below(4) {
            0 => Stdin::Null,
            1 => Stdin::Fifo(self.text().into()),
            2 => Stdin::Attach { leave_open: self.yes() },
            _ => Stdin::Inherit,
        }
    }

    fn new_process(&mut self) -> NewProcess {
        let stdio = Stdio {
            terminal: self.yes(),
            stdin: self.stdin(),
            stdout: self.output(),
            stderr: self.output(),
            spooling: self.spooling(),
            logs: self.some(Random::log),
            owner: self.maybe(|r| (r.next() as u32, 0)),
            fifos: self.maybe(|r| (r.text().into(), r.text())),
        };
        NewProcess {
            id: self.id(),
            stdio,
            pid_file: self.text().into(),
            process_file: self.maybe(|r| r.text().into()),
            making: [Making::Create, Making::Restore, Making::Exec][self.below(3) as usize],
            arguments: self.some(|r| r.text().into()),
            preserve_fds: self.some(|r| r.next() as i32),
            exit_files: self.some(|r| match r.below(3) {
                0 => ExitFile::Record(r.text().into()),
                1 => ExitFile::Decimal(r.text().into()),
                _ => ExitFile::RuntimeState(r.text().into()),
            }),
        }
    }

    fn sink(&mut self) -> Sink {
        match self.below(4) {
            0 => Sink::None,
            1 => Sink::Pipe(self.fd()),
            2 => Sink::File(self.fd()),
            _ => Sink::Fifo(Fifo {
                end: self.fd(),
                without_reader: self.yes(),
                had_reader: self.yes(),
                untouched: self.yes(),
                watch: self.maybe(|_| Watch::ended()),
                next_retry: self.maybe(Random::moment),
                left: self.next(),
                since: self.maybe(Random::moment),
            }),
        }
    }

    fn spooling(&mut self) -> Spooling {
        let full = if self.yes() { WhenFull::Block } else { WhenFull::DropOldest };
        Spooling { max: self.number(), full, directory: self.text().into() }
    }

    fn spool(&mut self) -> Spool {
        let mut spool = Spool::new(self.spooling(), self.number());
        spool.memory = self.bytes().into();
        spool.file = self.maybe(Random::fd);
        (spool.start, spool.end) = (3, 3 + self.below(1 << 40));
        spool.writer =
            self.maybe(|r| Writer { answer: r.fd(), bytes: r.number() as usize, taken: r.below(7) as usize });
        spool.feeder =
            self.maybe(|r| Feeder { pipe: r.fd(), until: r.number(), has_moved: r.yes(), is_watched: r.yes() });
        (spool.has_failed, spool.lost, spool.dropped) = (self.yes(), self.number(), self.number());
        (spool.credit, spool.warning) = (self.number() as usize, self.maybe(Random::text));
        (spool.failures, spool.again) = (self.below(5) as u32, self.maybe(Random::moment));
        spool
    }

    fn outlet(&mut self) -> Outlet {
        Outlet {
            stream: if self.yes() { Stream::Stdout } else { Stream::Stderr },
            source: self.maybe(Random::source),
            source_key: self.number(),
            sink: self.sink(),
            sink_key: self.number(),
            sink_watched: self.yes(),
            pending: self.bytes(),
            spool: self.maybe(|r| Box::new(r.spool())),
            backlog: if self.yes() { Backlog::Room } else { Backlog::None },
            hold: if self.yes() { Hold::Held(self.bytes()) } else { Hold::Released { message: self.bytes() } },
            over: self.yes(),
            dropped: self.number(),
            warning: self.maybe(Random::text),
            flow: Flow { since_pause: self.number() as usize, last_move: self.number() as usize },
        }
    }

    fn source(&mut self) -> Source {
        let readings = [Reading::Watched, Reading::Paused, Reading::AwaitsClients, Reading::HungUp];
        Source { fd: self.fd(), terminal: self.yes(), reading: readings[self.below(4) as usize] }
    }

    fn client(&mut self) -> Client {
        Client {
            number: self.next() as u16,
            key: self.number(),
            socket: self.fd(),
            framing: [Framing::Packet, Framing::Stream, Framing::Marked][self.below(3) as usize],
            queue: self.some(|r| r.bytes().into()).into(),
            queued: self.number() as usize,
            sent: self.number() as usize,
            is_awaited: self.yes(),
            since: (self.moment(), self.number() as usize),
            waited: Duration::from_nanos(self.number()),
            reading: self.yes(),
            unread: self.bytes(),
            ended: self.yes(),
            watched: [Interest::Nothing, Interest::Read, Interest::Write, Interest::Both][self.below(4) as usize],
        }
    }

    fn logger(&mut self) -> Logger {
        let mut spec = self.log();
        if let Log::K8s(file) | Log::Json(file) | Log::Raw(file) = &mut spec {
            file.below.clear();
        }
        let mut logger = Logger::open(&spec).expect("a log");
        match &mut logger {
            Logger::K8s(file) | Logger::Raw(file) => (file.size, file.total) = (self.number(), self.number()),
            Logger::Json(log) => log.begun = [self.bytes(), self.bytes()],
            Logger::Journald(journal) => journal.cut = [self.maybe(|r| b'0' + r.below(8) as u8), None],
        }
        logger
    }

    fn streams(&mut self) -> Streams {
        let input = self.maybe(|r| Input {
            sink: r.fd(),
            terminal: r.yes(),
            fifo: r.maybe(Random::fd),
            pending: r.bytes(),
            blocked: r.yes(),
            close_when_empty: r.yes(),
            unwatched: r.yes(),
        });
        Streams {
            serial: self.next() as u32,
            terminal: self.yes(),
            stdin: self.stdin(),
            outlets: self.some(Random::outlet),
            input,
            logs: self.some(Random::logger),
            clients: self.some(Random::client),
            next_client: self.next() as u16,
            early: self.maybe(Random::bytes),
            size: self.maybe(|r| (r.next() as u16, r.next() as u16)),
        }
    }

    fn supervised(&mut self, serial: u32) -> Box<ManagedProcess> {
        let process = Process {
            id: ProcessId::of("c", &serial.to_string()),
            life: self.life(),
            waiters: self.some(|r| WaitToken(r.number())),
            deleters: self.some(|r| WaitToken(r.number())),
            reported_exit: self.maybe(Random::exit),
        };
        let console = self.maybe(|r| Console {
            listener: r.fd(),
            peer: r.maybe(Random::fd),
            directory: r.fd(),
            name: r.text(),
            path: r.text().into(),
            private: r.maybe(|_| "/nowhere/at/all".into()),
            again: r.maybe(Random::moment),
        });
        Box::new(ManagedProcess {
            serial,
            process,
            new: self.new_process(),
            pidfd: self.maybe(Random::fd),
            streams: self.maybe(Random::streams),
            console,
            recorder: self.maybe(Random::child),
            is_told: self.yes(),
        })
    }

    fn operation(&mut self) -> Operation {
        match self.below(6) {
            0 => Operation::Create,
            1 => Operation::Start,
            2 => Operation::Exec,
            3 => Operation::Kill,
            4 => Operation::Delete,
            5 => Operation::Checkpoint,
            _ => Operation::Other(self.maybe(Random::phase)),
        }
    }

    fn call(&mut self) -> Box<Call> {
        Box::new(Call {
            operation: self.operation(),
            process: self.id(),
            token: WaitToken(self.number()),
            child: self.child(),
            output: self.maybe(Random::fd),
            errors: self.maybe(Random::fd),
            stdout: self.bytes(),
            stderr: self.bytes(),
            unwatched: self.yes(),
            deadline: self.moment(),
            timed_out: self.yes(),
            log_length: self.number(),
        })
    }

    fn planned(&mut self) -> Planned {
        let arguments = self.some(|r| r.text().into());
        Planned { operation: self.operation(), process: self.id(), arguments, token: WaitToken(self.number()) }
    }

    fn supervisor(&mut self) -> Supervisor {
        let mut core = Supervisor::new().expect("a supervisor");
        core.oom_score_adj = self.maybe(Random::text);
        core.listen_pid = self.yes();
        core.wait_for_only_reader = self.yes();
        core.reserved_descriptors = self.some(Random::fd);
        self.some(Random::container).into_iter().for_each(|container| core.containers.put(container));
        for serial in 0..self.below(4) {
            core.processes.put(self.supervised(serial as u32));
        }
        let mut running = Table::default();
        (0..self.below(3)).for_each(|serial| running.insert(serial as u32, self.call()));
        core.calls = crate::calls::Calls { running, waiting: self.some(Random::planned) };
        core.children = self.some(|r| r.next() as i32);
        core.serial = self.next() as u32;
        core.token = self.number();
        core.upgrades = self.below(3);
        core
    }
}

/// The image of a state, with every descriptor as the same number.
fn image(core: &Supervisor) -> Vec<u8> {
    let mut to = Encoder::anonymous();
    supervisor::save(core, &mut to);
    to.finish().0
}

fn restored(body: &[u8]) -> (Supervisor, Result<(), Fault>) {
    let context = Context::without_descriptors();
    let mut core = Supervisor::new().expect("a supervisor");
    supervisor::restore(&mut core, Content::of(body, &context));
    core.upgrades -= 1;
    (core, context.finish())
}

#[test]
fn a_supervisor_that_was_read_back_has_the_same_image() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..100 {
        let core = random.supervisor();
        let mut to = Encoder::default();
        supervisor::save(&core, &mut to);
        let (again, read) = restored(&to.finish().0);
        assert_eq!(read, Ok(()));
        assert_eq!(image(&again), image(&core));
        // What is lost in writing is lost in both images.
        assert_eq!((again.serial, again.token, again.upgrades), (core.serial, core.token, core.upgrades));
    }
}

#[test]
fn an_image_that_was_cut_or_changed_is_refused_and_never_half_believed() {
    let mut random = Random(7);
    let mut to = Encoder::default();
    supervisor::save(&random.supervisor(), &mut to);
    let whole = format::with_header("0.1.0", &to.finish().0);
    let header = format::header(&whole).expect("an image");
    assert_eq!((header.format, header.version.as_str()), (format::FORMAT, "0.1.0"));
    for length in 0..whole.len() {
        assert!(format::header(&whole[..length]).is_err(), "{length}");
    }
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 0x10;
        // The format and the version are for people.
        let body = format::header(&changed).map(|header| header.body.to_vec());
        assert!(body.is_err() || body.as_deref() == Ok(header.body), "{at}");
    }
    // A wrong body behind a correct header: reading ends, with a fault or a state.
    for _ in 0..300 {
        let mut body = header.body.to_vec();
        let at = random.below(body.len() as u64) as usize;
        body[at] = random.next() as u8;
        let context = Context::without_descriptors();
        let mut core = Supervisor::new().expect("a supervisor");
        supervisor::restore(&mut core, Content::of(&body, &context));
    }
}

/// A message in an earlier and in a later version.
#[derive(Debug, Default, PartialEq)]
struct Earlier {
    kept: u32,
    dropped: String,
}

#[derive(Debug, Default, PartialEq)]
struct Later {
    kept: u32,
    told: Option<u32>,
    needed: Vec<u8>,
}

table! {
    Earlier { 1 kept, 2 @hint dropped }
    Later { 1 kept, 3 @hint told, 4 needed; retired 2 }
}

#[derive(Debug, PartialEq)]
enum Kind {
    One,
    Two(u32),
}

choice! { Kind { 1 One {}, 2 Two { 1 number: 0 } } }

fn read<T: Value>(body: &[u8]) -> (T, Result<(), Fault>) {
    let context = Context::without_descriptors();
    let value = T::read(Content::of(body, &context));
    (value, context.finish())
}

fn written(value: &impl Value) -> Vec<u8> {
    let mut to = Encoder::default();
    value.write(&mut to);
    to.finish().0
}

#[test]
fn a_field_that_is_not_known_is_skipped_or_refused_as_its_writer_says() {
    let later = |told, needed: &[u8]| Later { kept: 5, told, needed: needed.into() };
    let earlier = Earlier { kept: 5, dropped: "x".into() };
    // Forward: a removed field is skipped, and a new field is empty.
    assert_eq!(read(&written(&earlier)), (later(None, b""), Ok(())));
    // Back: a hint is skipped, and an essential field refused where it is in use.
    let back = Earlier { kept: 5, dropped: String::new() };
    assert_eq!(read(&written(&later(Some(7), b""))), (back, Ok(())));
    let (_, refused) = read::<Earlier>(&written(&later(None, b"in use")));
    assert_eq!(refused, Err(Fault::UnknownField(4, "Earlier")));
}

#[test]
fn a_kind_that_is_not_known_is_refused() {
    assert_eq!(read(&written(&Kind::Two(9))), (Kind::Two(9), Ok(())));
    assert_eq!(read(&written(&Kind::One)), (Kind::One, Ok(())));
    assert_eq!(read::<Kind>(&[3 << 1 | 1, 0]).1, Err(Fault::UnknownKind(3, "Kind")));
    assert_eq!(read::<Kind>(&[]).1, Err(Fault::MissingKind("Kind")));
}

#[test]
fn numbers_of_all_sizes_are_read_back() {
    for number in [0, 1, -1, 63, -64, i64::from(i32::MAX), i64::from(i32::MIN), i64::MAX, i64::MIN] {
        assert_eq!(read(&written(&number)), (number, Ok(())));
        if let Ok(number) = i32::try_from(number) {
            assert_eq!(read(&written(&number)), (number, Ok(())));
        }
    }
    for number in [0, 1, 127, 128, u64::from(u32::MAX), u64::MAX] {
        assert_eq!(read(&written(&number)), (number, Ok(())));
    }
    assert!(read::<u16>(&written(&70_000u64)).1.is_err());
    assert!(read::<u64>(&[0xff; 11]).1.is_err());
}

#[test]
fn a_descriptor_has_one_owner() {
    let fd = crate::pipe::null().expect("a descriptor");
    let mut to = Encoder::default();
    fd.put(1, true, &mut to);
    fd.put(2, true, &mut to);
    let (body, descriptors) = to.finish();
    assert_eq!(descriptors.len(), 2);
    let context = Context::without_descriptors();
    let mut fields = Fields::of(Content::of(&body, &context), "two");
    let _both: [OwnedFd; 2] = [fields.get(1), fields.get(2)];
    assert_eq!(context.finish(), Err(Fault::SharedDescriptor(descriptors[0])));
}

#[test]
fn another_value_is_of_the_same_kind_and_another_field_is_not() {
    let kinds = |write: &dyn Fn(&mut Encoder)| {
        let mut to = Encoder::default();
        write(&mut to);
        std::mem::take(to.kinds())
    };
    let ended = |exit| ExitStatus { exit: Some(exit), oom_killed: true, at: SystemTime::UNIX_EPOCH };
    let one = kinds(&|to| to.put(1, true, &ended(Exit::Code(3))));
    assert_eq!(one, kinds(&|to| to.put(1, true, &ended(Exit::Code(255)))));
    for other in [
        kinds(&|to| to.put(2, true, &ended(Exit::Code(3)))),
        kinds(&|to| to.put(1, false, &ended(Exit::Code(3)))),
        kinds(&|to| to.put(1, true, &ended(Exit::Signal(9)))),
    ] {
        assert!(one.contain(&one) && !one.contain(&other), "{one:?}, {other:?}");
        let mut both = one.clone();
        both.add_all(&other);
        assert!(both.contain(&one) && both.contain(&other));
    }
}
