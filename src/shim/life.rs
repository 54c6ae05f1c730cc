//! The life of a process, as a state machine.
//!
//! ```text
//! Added ─> Launching ─> Alive ─> Draining ─> Recording ─> Recorded ─> Reported ─> Leaving ─> (forgotten)
//!              │                               │    ^
//!              └─> NeverRan                    └─> Retrying
//! ```
//!
//! Each transition takes what has happened and returns what is to be done about it, as [`Effect`]s.
//! Nothing here reads a clock, opens a descriptor or makes a process. The state is plain data that
//! can be written down and read back; the descriptors that belong to it are kept beside it
//! (`processes`), and the supervisor carries the effects out.

use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use super::refusal::{Refusal, Result};
use super::{Code, Event, ExitStatus, Phase, ProcessId, ProcessState, Reply, WaitToken, serialized};
use windlass_sys::process::Exit;

/// How long attached clients and the readers of fifos may take, after the end, to read what was written before it. Those
/// of containerd stop reading when the end is reported to them.
pub(super) const CLIENTS: Duration = Duration::from_secs(10);

/// How long the only reader of an exec may take. No other client waits for it.
pub(super) const ONLY_READER: Duration = Duration::from_secs(60 * 60);

/// How long the parent of an adopted process may take to reap it.
const PARENT: Duration = Duration::from_secs(5);

/// How often a record is written before the end is reported without one, and the pause between two tries.
/// To wait for ever would not help the engine, and a broken disk may never get better.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_secs(1);

/// Where a process is in its life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Life {
    /// It is known, and nothing runs. `stdin_closed`: it is to get no input.
    Added { stdin_closed: bool },
    /// The runtime makes it.
    Launching,
    /// It runs, or is a zombie that has not been reaped.
    Alive { pid: i32, phase: Phase, parent: Parent },
    /// It was reaped. Its output is read until `output`, and attached clients may read until `clients`.
    Draining {
        end: End,
        #[serde(with = "serialized::moment")]
        output: Instant,
        #[serde(with = "serialized::moment")]
        clients: Instant,
    },
    /// A child writes the exit record. `failures` tries have failed before.
    Recording { end: End, failures: u32 },
    /// Writing the record has failed, and is tried again at `at`.
    Retrying {
        end: End,
        failures: u32,
        #[serde(with = "serialized::moment")]
        at: Instant,
    },
    /// The record is on disk. The end is reported when it is this process's turn.
    Recorded { end: End },
    /// The end was reported.
    Reported { end: End },
    /// It is to be forgotten as soon as a reader has taken its output, or at `until`.
    Leaving {
        end: End,
        #[serde(with = "serialized::moment")]
        until: Instant,
    },
    /// The runtime could not make it. It cannot be tried again, because its stdio is used up.
    NeverRan,
}

/// The parent of a process, which alone can reap it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Parent {
    /// This shim.
    Shim,
    /// Another process. The shim has adopted the container of a dead one.
    Other,
    /// Another process. This one has ended, and its parent may reap it until then.
    OtherUntil(#[serde(with = "serialized::moment")] Instant),
}

/// A process that was reaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct End {
    pub(super) pid: i32,
    /// The phase that is shown until the end is reported.
    pub(super) phase: Phase,
    pub(super) status: ExitStatus,
}

/// What a request leads to. Its outcome is the answer, or brings the answer later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// Open the stdio and run the runtime, which makes the process.
    Launch { stdin_closed: bool },
    /// Run the runtime's `start`.
    Start,
    /// Run the runtime's `kill`.
    Kill { signal: i32, all: bool },
    /// Run the runtime's `delete`.
    Delete { force: bool },
    /// Send a signal through the pidfd.
    Signal(i32),
    /// Forget the process, as soon as no reader is about to take its output.
    Forget,
}

/// What is to be done about something that has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Notify the front end.
    Notify(Event),
    /// Answer a request that waits.
    Answer(WaitToken, Result<Reply>),
    /// Do something with its descriptors.
    Descriptors(DescriptorEffect),
    /// Init has ended: kill what it leaves behind, and wait less for what is being started.
    EndContainer,
    /// End its logs and fifos, and write its exit record.
    Record,
    /// A process of its container may be next to have its end reported.
    TakeTurns,
    /// See whether a reader is about to take its output, for [`Process::leave`].
    LookForReader,
    /// Take it out of the table: it was never made.
    Remove,
    /// Take it out of the table, and with init its container: it was deleted.
    Forget,
}

/// What is to be done with the descriptors of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DescriptorEffect {
    /// Kill it through its pidfd.
    Kill,
    /// Watch its pidfd for the hang-up alone, which comes when its parent has reaped it.
    AwaitParent,
    /// Close its pidfd, and read the output that is left.
    Drain,
    /// Disconnect its clients, which have read everything.
    Disconnect,
    /// Close its stdio, which is used up.
    CloseStdio,
}

/// What a look at the pidfd of a process has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reaped {
    /// It has not ended.
    NotYet,
    /// It has ended. The kernel tells others how only when its parent has reaped it.
    ByItsParent,
    /// It has ended; `None` where it is not known how.
    Ended(Option<Exit>),
}

/// What is known when a process is reaped.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reaping {
    pub(super) now: Instant,
    pub(super) at: SystemTime,
    pub(super) oom_killed: bool,
    /// How long its output may be read.
    pub(super) drain: Duration,
    /// How long its clients may read, at least.
    pub(super) clients: Duration,
}

/// How far the output of a process that was reaped has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DrainProgress {
    /// Everything was read.
    pub(super) read: bool,
    /// Reading waits for a client that is full.
    pub(super) held_back: bool,
    /// Every client, and every reader of a fifo that is there, has taken everything.
    pub(super) taken: bool,
}

/// The state of a process, and the requests that wait for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Process {
    pub(super) id: ProcessId,
    pub(super) life: Life,
    /// The requests that are answered when its end is reported.
    pub(super) waiters: Vec<WaitToken>,
    /// The requests that are answered when it is forgotten.
    pub(super) deleters: Vec<WaitToken>,
    /// What is reported in place of how it ended.
    #[serde(with = "serialized::exit")]
    pub(super) instead: Option<Exit>,
}

impl Process {
    pub(super) fn new(id: ProcessId) -> Process {
        let life = Life::Added { stdin_closed: false };
        Process { id, life, waiters: Vec::new(), deleters: Vec::new(), instead: None }
    }

    /// The process id; 0 before there is one.
    pub(super) fn pid(&self) -> i32 {
        match &self.life {
            Life::Alive { pid, .. } => *pid,
            _ => self.end().map_or(0, |end| end.pid),
        }
    }

    fn end(&self) -> Option<&End> {
        match &self.life {
            Life::Added { .. } | Life::Launching | Life::Alive { .. } | Life::NeverRan => None,
            Life::Draining { end, .. }
            | Life::Recording { end, .. }
            | Life::Retrying { end, .. }
            | Life::Recorded { end }
            | Life::Reported { end }
            | Life::Leaving { end, .. } => Some(end),
        }
    }

    /// How it ended, from the moment when it is reaped.
    pub(super) fn status(&self) -> Option<ExitStatus> {
        self.end().map(|end| end.status)
    }

    /// Whether its end is still to come.
    pub(super) fn is_alive(&self) -> bool {
        matches!(self.life, Life::Added { .. } | Life::Launching | Life::Alive { .. })
    }

    /// Whether it was made, and its end was not reported.
    pub(super) fn is_pending(&self) -> bool {
        self.pid() != 0 && !self.is_reported()
    }

    fn is_reported(&self) -> bool {
        matches!(self.life, Life::Reported { .. } | Life::Leaving { .. })
    }

    /// Whether an effect of its end is under way.
    pub(super) fn is_ending(&self) -> bool {
        matches!(self.life, Life::Draining { .. } | Life::Recording { .. })
    }

    /// The phase that the front end sees: until its end is reported, that in which it ended.
    fn phase(&self) -> Phase {
        match &self.life {
            Life::Added { .. } | Life::Launching => Phase::Added,
            Life::Alive { phase, .. } => *phase,
            Life::Draining { end, .. }
            | Life::Recording { end, .. }
            | Life::Retrying { end, .. }
            | Life::Recorded { end } => end.phase,
            Life::Reported { .. } | Life::Leaving { .. } | Life::NeverRan => Phase::Stopped,
        }
    }

    /// What the front end sees. `terminal`, `dropped` and `unsent` are known to its stdio.
    pub(super) fn state(&self, terminal: bool, dropped: u64, unsent: u64) -> ProcessState {
        let exit = self.status().filter(|_| self.is_reported());
        ProcessState { phase: self.phase(), pid: self.pid(), terminal, exit, dropped, unsent }
    }

    /// When time alone changes its state.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        match &self.life {
            Life::Alive { parent: Parent::OtherUntil(at), .. } | Life::Retrying { at, .. } => Some(*at),
            Life::Draining { output, clients, .. } => Some(if *output > now { *output } else { *clients }),
            Life::Leaving { until, .. } => Some(*until),
            _ => None,
        }
    }

    // Requests.

    /// `Start`. `busy`: the runtime is doing something with it. `init_ended`: its container's init has ended.
    pub(super) fn start(&mut self, busy: bool, init_ended: bool) -> Result<Command> {
        let wrong = |text| Err(Refusal::new(Code::WrongPhase, text));
        match (&self.life, self.id.is_init()) {
            (Life::Added { .. }, false) if !busy && init_ended => wrong(INIT_ENDED),
            (Life::Added { stdin_closed }, _) if !busy => {
                let stdin_closed = *stdin_closed;
                self.life = Life::Launching;
                Ok(Command::Launch { stdin_closed })
            }
            (Life::Alive { phase: Phase::Created, .. }, true) => Ok(Command::Start),
            (_, true) => wrong("the container is not in the phase created"),
            (_, false) => wrong("the process is already started"),
        }
    }

    /// `Kill`.
    pub(super) fn kill(&self, signal: i32, all: bool) -> Result<Command> {
        match &self.life {
            _ if self.id.is_init() && (all || self.is_alive()) => Ok(Command::Kill { signal, all }),
            Life::Alive { .. } => Ok(Command::Signal(signal)),
            Life::Added { .. } | Life::Launching => Err(Refusal::new(Code::WrongPhase, "the process is not started")),
            _ => Err(finished()),
        }
    }

    /// `Wait`.
    pub(super) fn wait(&mut self, token: WaitToken) -> Result<Reply> {
        match &self.life {
            Life::Reported { end } | Life::Leaving { end, .. } => Ok(Reply::Exited(end.status)),
            Life::NeverRan => Err(Refusal::new(Code::WrongPhase, "the process never ran")),
            _ => {
                self.waiters.push(token);
                Ok(Reply::Pending(token))
            }
        }
    }

    /// `CloseStdin`, before the stdio is opened. False: it is open, and to be closed.
    pub(super) fn close_stdin(&mut self) -> bool {
        match &mut self.life {
            Life::Added { stdin_closed } => {
                *stdin_closed = true;
                true
            }
            _ => false,
        }
    }

    /// `Delete`: init is deleted by the runtime first, an exec is only forgotten.
    pub(super) fn delete(&self, force: bool) -> Result<Command> {
        let wrong = |text| Err(Refusal::new(Code::WrongPhase, text));
        match (self.id.is_init(), self.is_pending()) {
            (false, true) => wrong("cannot delete a running process"),
            (false, false) if self.life == Life::Launching => wrong("cannot delete a running process"),
            (false, false) => Ok(Command::Forget),
            (true, false) => Ok(Command::Delete { force }),
            (true, true) if force || self.phase() == Phase::Created => Ok(Command::Delete { force: true }),
            (true, true) => wrong("cannot delete a running container"),
        }
    }

    /// From now on its end is reported as this, however it ends.
    pub(super) fn report_as(&mut self, exit: Exit) {
        self.instead = Some(exit);
    }

    // What the runtime has done.

    /// The runtime was not started. Init can be tried again.
    pub(super) fn not_launched(&mut self, refusal: &Refusal) -> Vec<Effect> {
        if self.id.is_init() {
            self.life = Life::Added { stdin_closed: false };
            return vec![Effect::Descriptors(DescriptorEffect::CloseStdio)];
        }
        self.not_made(refusal)
    }

    /// The runtime has failed to make it. A container that was not made is not known any more.
    pub(super) fn not_made(&mut self, refusal: &Refusal) -> Vec<Effect> {
        if self.id.is_init() {
            return vec![Effect::Remove];
        }
        self.life = Life::NeverRan;
        let answers = self.waiters.drain(..).map(|token| Effect::Answer(token, Err(refusal.clone())));
        std::iter::once(Effect::Descriptors(DescriptorEffect::CloseStdio)).chain(answers).collect()
    }

    /// The runtime has made it. `runs`: it does not wait for `start`. `unwanted`: its container has ended, and
    /// nobody but the shim would kill it.
    pub(super) fn made(&mut self, pid: i32, parent: Parent, runs: bool, unwanted: bool) -> Vec<Effect> {
        let process = self.id.clone();
        let started = Effect::Notify(Event::Started { process: process.clone(), pid });
        let phase = if runs { Phase::Running } else { Phase::Created };
        self.life = Life::Alive { pid, phase, parent };
        let created = process.is_init().then_some(Effect::Notify(Event::Created { process, pid }));
        let kill = unwanted.then_some(Effect::Descriptors(DescriptorEffect::Kill));
        kill.into_iter().chain(created).chain(runs.then_some(started)).collect()
    }

    /// Another shim has made it, and has died.
    pub(super) fn adopted(&mut self, pid: i32, parent: Parent, phase: Phase) {
        self.life = Life::Alive { pid, phase, parent };
    }

    /// `start` has succeeded. The process may have ended meanwhile.
    pub(super) fn started(&mut self) -> Vec<Effect> {
        match &mut self.life {
            Life::Alive { phase, .. } => *phase = Phase::Running,
            Life::Draining { end, .. }
            | Life::Recording { end, .. }
            | Life::Retrying { end, .. }
            | Life::Recorded { end } => end.phase = Phase::Running,
            _ => {}
        }
        vec![Effect::Notify(Event::Started { process: self.id.clone(), pid: self.pid() })]
    }

    /// The runtime has paused or resumed its container. One that has ended meanwhile stays so.
    pub(super) fn enter(&mut self, new: Phase) {
        if let Life::Alive { phase, .. } = &mut self.life {
            *phase = new;
        }
    }

    /// The runtime has deleted the container. One that was killed for it is forgotten when its end is reported.
    pub(super) fn deleted(&mut self, token: WaitToken) -> Vec<Effect> {
        self.deleters.push(token);
        (!self.is_pending()).then_some(Effect::LookForReader).into_iter().collect()
    }

    // Its end.

    /// Its pidfd was looked at.
    pub(super) fn reaped(&mut self, found: Reaped, how: &Reaping) -> Vec<Effect> {
        let Life::Alive { pid, phase, parent } = &mut self.life else { return Vec::new() };
        let exit = match (found, *parent) {
            (Reaped::NotYet, _) => return Vec::new(),
            (Reaped::ByItsParent, Parent::OtherUntil(until)) if until > how.now => return Vec::new(),
            (Reaped::ByItsParent, Parent::OtherUntil(_)) => None,
            (Reaped::ByItsParent, _) => {
                *parent = Parent::OtherUntil(how.now + PARENT);
                return vec![Effect::Descriptors(DescriptorEffect::AwaitParent)];
            }
            (Reaped::Ended(exit), _) => exit,
        };
        let status = ExitStatus { exit: self.instead.or(exit), oom_killed: how.oom_killed, at: how.at };
        self.life = Life::Draining {
            end: End { pid: *pid, phase: *phase, status },
            output: how.now + how.drain,
            clients: how.now + how.clients.max(how.drain),
        };
        let container = self.id.is_init().then_some(Effect::EndContainer);
        std::iter::once(Effect::Descriptors(DescriptorEffect::Drain)).chain(container).collect()
    }

    /// Its output was looked at, or the pause after a failed record is over.
    pub(super) fn drained(&mut self, found: DrainProgress, now: Instant) -> Vec<Effect> {
        let (end, failures) = match &self.life {
            Life::Draining { end, output, clients } => {
                let read = found.read || (*output <= now && !found.held_back);
                if !(read && found.taken) && *clients > now {
                    return Vec::new();
                }
                (*end, 0)
            }
            Life::Retrying { end, failures, at } if *at <= now => (*end, *failures),
            _ => return Vec::new(),
        };
        self.life = Life::Recording { end, failures };
        vec![Effect::Record]
    }

    /// The exit record was written, or could not be.
    pub(super) fn recorded(&mut self, written: bool, now: Instant) -> Vec<Effect> {
        let Life::Recording { end, failures } = self.life else { return Vec::new() };
        let failures = failures + 1;
        if !written && failures < TRIES {
            self.life = Life::Retrying { end, failures, at: now + PAUSE };
            return Vec::new();
        }
        self.life = Life::Recorded { end };
        vec![Effect::TakeTurns]
    }

    /// It is its turn to have its end reported.
    pub(super) fn report(&mut self) -> Vec<Effect> {
        let Life::Recorded { end } = self.life else { return Vec::new() };
        self.life = Life::Reported { end };
        let mut effects = vec![Effect::Descriptors(DescriptorEffect::Disconnect)];
        effects.push(Effect::Notify(Event::Exited { process: self.id.clone(), pid: end.pid, status: end.status }));
        let answers = self.waiters.drain(..);
        effects.extend(answers.map(|token| Effect::Answer(token, Ok(Reply::Exited(end.status)))));
        effects.extend((!self.deleters.is_empty()).then_some(Effect::LookForReader));
        effects
    }

    // Forgetting it.

    /// It is to be forgotten. `wanted`: a reader is about to take its output, and may do so until `until`.
    pub(super) fn leave(&mut self, wanted: bool, until: Instant, now: Instant) -> Vec<Effect> {
        match &self.life {
            Life::Reported { end } if wanted => {
                self.life = Life::Leaving { end: *end, until };
                Vec::new()
            }
            Life::Leaving { until, .. } if wanted && *until > now => Vec::new(),
            _ => vec![Effect::Forget],
        }
    }

    /// A request to delete it that is answered when it is forgotten.
    pub(super) fn answer_when_forgotten(&mut self, token: WaitToken) {
        self.deleters.push(token);
    }

    /// It was taken out of the table, because it was deleted.
    pub(super) fn forgotten(&mut self) -> Vec<Effect> {
        let reply = self.deletion();
        let answers: Vec<Effect> =
            self.deleters.drain(..).map(|token| Effect::Answer(token, Ok(reply.clone()))).collect();
        answers.into_iter().chain(self.closed()).collect()
    }

    /// It was taken out of the table. Requests that still wait for it are refused.
    pub(super) fn closed(&mut self) -> Vec<Effect> {
        let gone = not_found(self.id.name());
        let tokens = self.waiters.drain(..).chain(self.deleters.drain(..));
        tokens.map(|token| Effect::Answer(token, Err(gone.clone()))).collect()
    }

    /// The answer to its deletion.
    pub(super) fn deletion(&self) -> Reply {
        Reply::Deleted { pid: self.pid(), status: self.status() }
    }
}

/// Why nothing more can be started in a container.
pub(super) const INIT_ENDED: &str = "container not running: its init has ended";

/// The refusal of a signal to a process that has ended. Engines look for these words.
pub(super) fn finished() -> Refusal {
    Refusal::new(Code::NotFound, "process already finished")
}

/// The refusal of a request for something that is not known.
pub(super) fn not_found(name: &str) -> Refusal {
    Refusal::new(Code::NotFound, format!("{name:?} does not exist"))
}

/// Which process of a container is next to have its end reported: not before its start was answered, and init
/// not before all its execs. `starting`: the runtime's `start` or `checkpoint` runs.
pub(super) fn next_to_report<'a>(
    processes: impl Iterator<Item = (u32, &'a Process)> + Clone,
    starting: bool,
) -> Option<u32> {
    let waits = |process: &Process| process.is_pending() || process.life == Life::Launching;
    let execs = processes.clone().any(|(_, process)| !process.id.is_init() && waits(process));
    let mut ready = processes.filter(|(_, process)| matches!(process.life, Life::Recorded { .. }));
    ready.find(|(_, process)| !(process.id.is_init() && (execs || starting))).map(|(serial, _)| serial)
}

#[cfg(test)]
mod tests;
