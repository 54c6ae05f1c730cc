//! A model of the upgrade. Every state is visited: a process writes and ends, an engine sends a request and reads, a
//! caller requests upgrades and may be killed, and the kernel is between them, in every order.
//!
//! The process's life and the image are the real ones (`life`, `image`); descriptors, pipes and programs are the
//! model's. These rules hold in every reachable state (`World::check`):
//!
//! - an end is reported at most once, and never before it is recorded;
//! - the bytes that were read, are in transit, and are still in the pipe are those that were written, in order;
//! - a request has at most one answer;
//! - every descriptor is close-on-exec while a program serves, and the next program has exactly those of the image;
//! - the loop stands still only while it can go on by itself, whatever the others do;
//! - a refused program is not executed, and an executed program has read a field of each kind before;
//!
//! If nothing more can happen, the end was reported once, all bytes have arrived, each request that was sent whole has
//! its answer, and a caller that lives has one for each upgrade.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant, SystemTime};

use crate::image::format::{Content, Context, Encoder, Kinds, Value, table};
use crate::life::{DrainProgress, Effect, Life, Parent, Process, Reaped, Reaping};
use crate::{Phase, ProcessId};
use windlass_sys::process::Exit;

/// How many bytes the process writes, and how many upgrades are requested.
const BYTES: u32 = 2;
const UPGRADES: u32 = 2;

/// The memory of a shim.
#[derive(Debug)]
struct Memory {
    process: Process,
    /// Bytes that were read from the pipe and not written to the engine.
    pending: Vec<u32>,
    /// Pieces of the request that were received.
    received: u32,
    /// Whether a child writes the record.
    recording: bool,
}

table! { Memory { 1 process, 2 pending, 3 received, 4 recording } }

impl Memory {
    fn saved(&self) -> Vec<u8> {
        let mut to = Encoder::default();
        self.write(&mut to);
        to.finish().0
    }

    fn kinds(&self) -> Kinds {
        let mut to = Encoder::default();
        self.write(&mut to);
        std::mem::take(to.kinds())
    }

    fn of(image: &[u8]) -> Memory {
        let context = Context::without_descriptors();
        let memory = Memory::read(Content::of(image, &context));
        assert_eq!(context.finish(), Ok(()));
        memory
    }

    /// The descriptors that belong to this state.
    fn owned(&self) -> u8 {
        let pidfd = if matches!(self.process.life, Life::Alive { .. }) { PIDFD } else { 0 };
        let recorder = if self.recording { RECORDER } else { 0 };
        PIPE | ENGINE | pidfd | recorder
    }
}

/// Most checks by a program for one upgrade. Each check finds a new kind of field, and there are this many.
const LOOKS: usize = 8;

/// Descriptors, as bits.
const PIPE: u8 = 1;
const ENGINE: u8 = 2;
const PIDFD: u8 = 4;
const RECORDER: u8 = 8;
const CALLER: u8 = 16;
const IMAGE: u8 = 32;
const BEFORE: u8 = 64;
const LOOK: u8 = 128;

/// The progress of the upgrade.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Stage {
    Serving,
    Requested,
    /// The program checks an image with these fields while the loop goes on.
    Checking(Kinds),
    Checked(Result<(), ()>),
    /// From here on the loop stands still.
    Imaged(Vec<u8>),
    Cleared(Vec<u8>),
    /// The other program reads the image; or the previous one does, if the image was given back.
    Executed(Vec<u8>, bool),
}

impl Stage {
    fn serves(&self) -> bool {
        matches!(self, Stage::Serving | Stage::Requested | Stage::Checking(_) | Stage::Checked(_))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Child {
    Running,
    Zombie,
    Reaped,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    /// The state of the shim that serves; empty while there is only an image.
    memory: Vec<u8>,
    stage: Stage,
    open: u8,
    /// The open descriptors that are close-on-exec.
    closing: u8,
    /// The kinds of fields that the program has checked, and how often it did since the request.
    seen: Kinds,
    looks: usize,
    child: Child,
    written: u32,
    pipe: Vec<u32>,
    got: Vec<u32>,
    recorder_ended: bool,
    recorded: bool,
    told: u32,
    /// Pieces of the request: how many were sent, and how many of these were not received.
    sent: u32,
    unread: u32,
    answers: u32,
    asked: u32,
    caller_lives: bool,
    caller_answers: u32,
    /// Refused since the last request.
    refused: bool,
}

impl World {
    fn new(base: Instant) -> World {
        let mut process = Process::new(ProcessId::init("c"));
        process.start(false, false).expect("it is new");
        process.made(7, Parent::Shim, true, false);
        assert!(matches!(process.life, Life::Alive { phase: Phase::Running, .. }), "{base:?}");
        let memory = Memory { process, pending: Vec::new(), received: 0, recording: false };
        World {
            open: memory.owned() | CALLER,
            closing: memory.owned() | CALLER,
            memory: memory.saved(),
            stage: Stage::Serving,
            seen: Kinds::default(),
            looks: 0,
            child: Child::Running,
            written: 0,
            pipe: Vec::new(),
            got: Vec::new(),
            recorder_ended: false,
            recorded: false,
            told: 0,
            sent: 0,
            unread: 0,
            answers: 0,
            asked: 0,
            caller_lives: true,
            caller_answers: 0,
            refused: false,
        }
    }

    fn changed(&self, change: &dyn Fn(&mut World)) -> World {
        let mut world = self.clone();
        change(&mut world);
        world
    }

    /// The next steps of the others, which are possible at any time.
    fn of_others(&self) -> Vec<World> {
        let mut next = Vec::new();
        let mut step = |change: &dyn Fn(&mut World)| next.push(self.changed(change));
        if self.child == Child::Running {
            step(&|world| world.child = Child::Zombie);
            if self.written < BYTES {
                step(&|world| {
                    world.pipe.push(world.written);
                    world.written += 1;
                });
            }
        }
        if self.sent < 2 {
            step(&|world| (world.sent, world.unread) = (world.sent + 1, world.unread + 1));
        }
        if self.is_recording() && !self.recorder_ended {
            step(&|world| world.recorder_ended = true);
        }
        if self.caller_lives {
            step(&|world| world.caller_lives = false);
            if self.stage == Stage::Serving && self.asked < UPGRADES && self.caller_answers == self.asked {
                step(&|world| (world.stage, world.asked, world.refused) = (Stage::Requested, world.asked + 1, false));
            }
        }
        next
    }

    fn is_recording(&self) -> bool {
        self.kept().recording
    }

    /// The next steps of the shim, one action each.
    fn of_shim(&self, base: Instant) -> Vec<World> {
        if self.stage.serves() { [self.serve(base), self.prepare()].concat() } else { self.hand_over() }
    }

    fn serve(&self, base: Instant) -> Vec<World> {
        let mut next = Vec::new();
        let mut step = |change: &dyn Fn(&mut World, &mut Memory)| {
            let (mut world, mut memory) = (self.clone(), Memory::of(&self.memory));
            change(&mut world, &mut memory);
            let before = Memory::of(&self.memory).owned();
            let (closed, opened) = (before & !memory.owned(), memory.owned() & !before);
            world.open = world.open & !closed | opened;
            world.closing = world.closing & !closed | opened;
            world.memory = memory.saved();
            next.push(world);
        };
        let memory = Memory::of(&self.memory);
        if !self.pipe.is_empty() && memory.pending.is_empty() {
            step(&|world, memory| memory.pending.push(world.pipe.remove(0)));
        }
        if !memory.pending.is_empty() {
            step(&|world, memory| world.got.append(&mut memory.pending));
        }
        if self.unread > 0 {
            step(&|world, memory| {
                world.unread -= 1;
                memory.received += 1;
                world.answers += u32::from(memory.received == 2);
            });
        }
        if self.child == Child::Zombie && matches!(memory.process.life, Life::Alive { .. }) {
            step(&|world, memory| {
                world.child = Child::Reaped;
                let how = Reaping {
                    now: base,
                    at: SystemTime::UNIX_EPOCH,
                    oom_killed: false,
                    drain: Duration::from_secs(1),
                    clients: Duration::ZERO,
                };
                memory.process.reaped(Reaped::Ended(Some(Exit::Code(3))), &how);
            });
        }
        let drained = self.pipe.is_empty() && memory.pending.is_empty();
        if drained && matches!(memory.process.life, Life::Draining { .. }) {
            step(&|world, memory| {
                let output = DrainProgress { read: true, held_back: false, taken: true };
                let effects = memory.process.drained(output, base);
                assert!(matches!(effects[..], [Effect::Record]), "{effects:?}");
                (memory.recording, world.recorder_ended) = (true, false);
            });
        }
        if memory.recording && self.recorder_ended {
            step(&|world, memory| {
                (memory.recording, world.recorded) = (false, true);
                memory.process.recorded(true, base);
                let told = memory.process.report();
                world.told += told.iter().filter(|effect| matches!(effect, Effect::Notify(_))).count() as u32;
            });
        }
        next
    }

    /// The upgrade, while the loop goes on.
    fn prepare(&self) -> Vec<World> {
        let mut next = Vec::new();
        let mut step = |change: &dyn Fn(&mut World)| next.push(self.changed(change));
        match &self.stage {
            Stage::Requested => {
                step(&|world| {
                    world.stage = Stage::Checking(Memory::of(&world.memory).kinds());
                    world.looks += 1;
                    world.open |= LOOK | BEFORE;
                    world.closing |= LOOK | BEFORE;
                });
                // No child can be made, for want of memory.
                step(&World::refuse);
            }
            Stage::Checking(kinds) => {
                step(&|world| {
                    world.stage = Stage::Checked(Ok(()));
                    world.seen.add_all(kinds);
                    world.open &= !LOOK;
                });
                step(&|world| {
                    world.stage = Stage::Checked(Err(()));
                    world.open &= !LOOK;
                });
            }
            Stage::Checked(Err(())) => step(&World::refuse),
            Stage::Checked(Ok(())) => step(&|world| {
                if !world.seen.contain(&Memory::of(&world.memory).kinds()) {
                    world.stage = Stage::Requested;
                    return;
                }
                world.stage = Stage::Imaged(world.memory.clone());
                world.open |= IMAGE;
                world.closing |= IMAGE;
            }),
            _ => {}
        }
        next
    }

    /// The upgrade, while the loop stands still.
    fn hand_over(&self) -> Vec<World> {
        let mut next = Vec::new();
        let mut step = |change: &dyn Fn(&mut World)| next.push(self.changed(change));
        match &self.stage {
            Stage::Imaged(image) => {
                step(&|world| {
                    world.stage = Stage::Cleared(image.clone());
                    world.closing = world.open & !(Memory::of(image).owned() | CALLER | IMAGE | BEFORE);
                });
                step(&World::refuse);
            }
            Stage::Cleared(image) => {
                step(&|world| {
                    world.open &= !world.closing;
                    (world.closing, world.memory) = (0, Vec::new());
                    world.stage = Stage::Executed(image.clone(), false);
                });
                // execveat(2) fails, and all descriptors are close-on-exec again.
                step(&|world| {
                    world.closing = world.open;
                    world.refuse();
                });
            }
            Stage::Executed(image, back) => {
                step(&|world| {
                    world.memory = image.clone();
                    let owned = Memory::of(image).owned() | CALLER;
                    assert_eq!(world.open, owned | IMAGE | BEFORE, "exactly what is in the image");
                    (world.open, world.closing) = (owned, owned);
                    world.stage = Stage::Serving;
                    (world.seen, world.looks) = (Kinds::default(), 0);
                    world.caller_answers += u32::from(world.caller_lives);
                });
                if !back {
                    step(&|world| world.stage = Stage::Executed(image.clone(), true));
                }
            }
            _ => {}
        }
        next
    }

    fn refuse(&mut self) {
        self.open &= !(LOOK | IMAGE | BEFORE);
        self.closing = self.open;
        self.stage = Stage::Serving;
        (self.seen, self.looks) = (Kinds::default(), 0);
        self.refused = true;
        self.caller_answers += u32::from(self.caller_lives);
    }

    /// The state of the shim, from its memory or from the image.
    fn kept(&self) -> Memory {
        match &self.stage {
            Stage::Executed(image, _) => Memory::of(image),
            _ => Memory::of(&self.memory),
        }
    }

    fn check(&self, of_shim: usize) {
        let memory = self.kept();
        assert!(self.told <= 1 && (self.told == 0 || self.recorded), "{self:?}");
        let bytes = [&self.got[..], &memory.pending, &self.pipe].concat();
        assert_eq!(bytes, (0..self.written).collect::<Vec<_>>(), "{self:?}");
        assert!(self.answers <= 1, "{self:?}");
        assert!(self.sent == memory.received + self.unread, "{self:?}");
        if self.stage.serves() {
            assert_eq!(self.closing & self.open, self.open, "all are close-on-exec: {self:?}");
        } else {
            assert!(of_shim > 0, "it goes on by itself: {self:?}");
            assert!(!self.refused, "a refused program is not executed: {self:?}");
            assert!(self.seen.contain(&memory.kinds()), "it is executed for what it has read: {self:?}");
        }
        assert!(self.looks <= LOOKS, "{self:?}");
    }

    fn check_end(&self) {
        let all: Vec<u32> = (0..self.written).collect();
        assert!(self.told == 1 && self.recorded && self.got == all && self.answers == 1, "{self:?}");
        assert!(!self.caller_lives || self.caller_answers == self.asked, "{self:?}");
    }
}

#[test]
fn in_every_order_of_events_nothing_is_lost_doubled_or_waited_for() {
    let base = Instant::now();
    let first = World::new(base);
    let mut known: HashSet<World> = HashSet::from([first.clone()]);
    let mut next = VecDeque::from([first]);
    let (mut ends, mut upgraded) = (0, 0);
    while let Some(world) = next.pop_front() {
        let of_shim = world.of_shim(base);
        world.check(of_shim.len());
        let all: Vec<World> = world.of_others().into_iter().chain(of_shim).collect();
        if all.is_empty() {
            world.check_end();
            ends += 1;
        }
        upgraded += usize::from(matches!(world.stage, Stage::Executed(..)));
        next.extend(all.into_iter().filter(|world| known.insert(world.clone())));
    }
    assert!(known.len() > 10_000 && ends > 0 && upgraded > 1000, "{} states, {ends} ends, {upgraded}", known.len());
}
