//! The life of a process, as a state machine.
//!
//! ```text
//! Added <─> Launching ─> Alive ─> Draining ─> Recording ─> Recorded ─> Reported ─┬─────────────> (forgotten)
//!               │                               │    ^                           └─> Leaving ───────^
//!               └─> NeverRan                    └─> Retrying
//! ```
//!
//! An adopted process begins as Alive. A process that has never run, or was not started, is forgotten as well.
//!
//! Each transition takes an occurrence and returns its consequences as [`Effect`]s. Nothing here reads a clock, opens a
//! descriptor or makes a process. The state is plain data that can be written down and read back; its descriptors are
//! kept beside it (`processes`), and the supervisor carries out the effects.

use std::time::{Duration, Instant, SystemTime};

use super::refusal::{Refusal, Result};
use super::{Code, Event, ExitStatus, Phase, ProcessId, ProcessState, Reply, WaitToken};
use windlass_sys::process::Exit;

/// How long attached clients and the readers of fifos may take, after the end, to read what was written before it. The
/// clients of containerd stop reading when the end is reported to them.
pub(super) const CLIENT_READ_TIME: Duration = Duration::from_secs(10);

/// How long the only reader of an exec may take. No other client waits for it.
pub(super) const ONLY_READER_TIME: Duration = Duration::from_secs(60 * 60);

/// How long the parent of an adopted process may take to reap it.
const PARENT_REAP_TIME: Duration = Duration::from_secs(5);

/// How often a record is written before the end is reported without one, and the pause between two tries.
/// Waiting for ever would not help the engine, and a broken disk may never recover.
const RECORD_TRIES: u32 = 5;
const RECORD_PAUSE: Duration = Duration::from_secs(1);

/// Where a process is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// The process is known, and the runtime has not been started. `stdin_closed`: it gets no input.
    Added { stdin_closed: bool },
    /// The runtime makes it.
    Launching,
    /// The process runs, or is a zombie that has not been reaped.
    Alive { pid: i32, phase: Phase, parent: Parent },
    /// The process was reaped. Its output is read until `output_until`, and clients may read until `clients_until`.
    Draining { end: End, output_until: Instant, clients_until: Instant },
    /// A child writes the exit record. `failures` tries have failed before.
    Recording { end: End, failures: u32 },
    /// Writing the record has failed. The next attempt is at `at`.
    Retrying { end: End, failures: u32, at: Instant },
    /// The record is on disk, or could not be written. The end is reported when it is this process's turn.
    Recorded { end: End },
    /// The end was reported.
    Reported { end: End },
    /// The process is to be forgotten as soon as a reader has taken its output, or at `until`.
    Leaving { end: End, until: Instant },
    /// The runtime could not make the process. There is no second attempt, because its stdio is used up.
    NeverRan,
}

/// The parent of a process, which alone can reap it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parent {
    /// This shim.
    Shim,
    /// Another process, because this shim has adopted the container of a dead shim.
    Other,
    /// Another process. The supervised process has ended, and its parent has until then to reap it.
    OtherUntil(Instant),
}

/// A process that was reaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    pub(super) pid: i32,
    /// The phase that is shown until the end is reported.
    pub(super) phase: Phase,
    pub(super) status: ExitStatus,
}

/// The work that a request leads to. Its outcome is the answer, or brings the answer later.
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

/// The work that follows from a transition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Notify the front end.
    Notify(Event),
    /// Answer a request that waits.
    Answer(WaitToken, Result<Reply>),
    /// Do something with the descriptors of the process.
    Descriptors(DescriptorEffect),
    /// Init has ended: kill the other processes, and give less time to those that are being started.
    EndContainer,
    /// End the logs and fifos of the process, and write its exit record.
    Record,
    /// A process of the container may be the next whose end is reported.
    ReportInOrder,
    /// Check whether a reader is about to take the output, for [`Process::leave`].
    ForgetUnlessRead,
    /// Take the process out of the table: it was never made.
    Remove,
    /// Take the process out of the table, and with init its container: it was deleted.
    Forget,
}

/// The work on the descriptors of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DescriptorEffect {
    /// Kill the process through its pidfd.
    Kill,
    /// Watch the pidfd for the hang-up alone, which comes when the parent has reaped the process.
    AwaitParent,
    /// Close the pidfd, and read the output that is left.
    Drain,
    /// Disconnect the clients, which have read everything.
    Disconnect,
    /// Close the stdio, which is used up.
    CloseStdio,
}

/// The outcome of a look at the pidfd of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reaped {
    /// The process has not ended.
    NotYet,
    /// The process has ended. The kernel tells others how only when its parent has reaped it.
    ByItsParent,
    /// The process has ended; `None` if it is not known how.
    Ended(Option<Exit>),
}

/// The facts for [`Process::reaped`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Reaping {
    pub(super) now: Instant,
    pub(super) at: SystemTime,
    pub(super) oom_killed: bool,
    /// How long the output may be read.
    pub(super) drain: Duration,
    /// How long clients may read, at least.
    pub(super) clients: Duration,
}

/// How far the output of a process that was reaped has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DrainProgress {
    /// Everything was read.
    pub(super) read: bool,
    /// Reading waits for a client that is full.
    pub(super) held_back: bool,
    /// Every client, and every reader of a fifo, has taken everything.
    pub(super) taken: bool,
}

/// The state of a process, and the requests that wait for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) id: ProcessId,
    pub(super) life: Life,
    /// The requests that are answered when the end is reported.
    pub(super) waiters: Vec<WaitToken>,
    /// The requests that are answered when the process is forgotten.
    pub(super) deleters: Vec<WaitToken>,
    /// The exit that is reported in place of the real one.
    pub(super) reported_exit: Option<Exit>,
}

impl Process {
    pub(super) fn new(id: ProcessId) -> Process {
        let life = Life::Added { stdin_closed: false };
        Process { id, life, waiters: Vec::new(), deleters: Vec::new(), reported_exit: None }
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

    /// How the process ended, from the moment when it is reaped.
    pub(super) fn status(&self) -> Option<ExitStatus> {
        self.end().map(|end| end.status)
    }

    /// Whether the end of the process is still to come.
    pub(super) fn is_alive(&self) -> bool {
        matches!(self.life, Life::Added { .. } | Life::Launching | Life::Alive { .. })
    }

    /// Whether the process was made, and its end was not reported.
    pub(super) fn is_pending(&self) -> bool {
        self.pid() != 0 && !self.is_reported()
    }

    fn is_reported(&self) -> bool {
        matches!(self.life, Life::Reported { .. } | Life::Leaving { .. })
    }

    /// Whether output is drained or the exit recorded. Not during the pause before another try.
    pub(super) fn is_ending(&self) -> bool {
        matches!(self.life, Life::Draining { .. } | Life::Recording { .. })
    }

    /// The phase that the front end sees. Until the end is reported, that is the phase in which the process ended.
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

    /// The state that the front end sees. `terminal`, `dropped` and `unsent` come from the stdio.
    pub(super) fn state(&self, terminal: bool, dropped: u64, unsent: u64) -> ProcessState {
        let exit = self.status().filter(|_| self.is_reported());
        ProcessState { phase: self.phase(), pid: self.pid(), terminal, exit, dropped, unsent }
    }

    /// When time alone changes the state.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        match &self.life {
            Life::Alive { parent: Parent::OtherUntil(at), .. } | Life::Retrying { at, .. } => Some(*at),
            Life::Draining { output_until, clients_until, .. } => {
                Some(if *output_until > now { *output_until } else { *clients_until })
            }
            Life::Leaving { until, .. } => Some(*until),
            _ => None,
        }
    }

    // Requests.

    /// `Start`. `busy`: a call of the runtime for the process runs. `init_ended`: the init of its container has ended.
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

    /// `CloseStdin`, before the stdio is opened. Returns false if it is open, and has to be closed.
    pub(super) fn close_stdin(&mut self) -> bool {
        match &mut self.life {
            Life::Added { stdin_closed } => {
                *stdin_closed = true;
                true
            }
            _ => false,
        }
    }

    /// `Delete`. The runtime deletes init first; an exec is only forgotten.
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

    /// Has the end reported as `exit`, whatever the real one is.
    pub(super) fn report_as(&mut self, exit: Exit) {
        self.reported_exit = Some(exit);
    }

    // What the runtime has done.

    /// The runtime was not started. For init a second attempt is possible.
    pub(super) fn not_launched(&mut self, refusal: &Refusal) -> Vec<Effect> {
        if self.id.is_init() {
            self.life = Life::Added { stdin_closed: false };
            return vec![Effect::Descriptors(DescriptorEffect::CloseStdio)];
        }
        self.not_made(refusal)
    }

    /// The runtime has failed to make the process. With init, the container is not known any more.
    pub(super) fn not_made(&mut self, refusal: &Refusal) -> Vec<Effect> {
        if self.id.is_init() {
            return vec![Effect::Remove];
        }
        self.life = Life::NeverRan;
        let answers = self.waiters.drain(..).map(|token| Effect::Answer(token, Err(refusal.clone())));
        std::iter::once(Effect::Descriptors(DescriptorEffect::CloseStdio)).chain(answers).collect()
    }

    /// The runtime has made the process. `runs`: it does not wait for `start`. `unwanted`: its container has ended, and
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

    /// The process is that of a shim that has died.
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

    /// The runtime has paused or resumed the container. A process that has ended meanwhile keeps its phase.
    pub(super) fn set_phase(&mut self, new: Phase) {
        if let Life::Alive { phase, .. } = &mut self.life {
            *phase = new;
        }
    }

    /// The runtime has deleted the container. A process that was killed for that is forgotten when its end is reported.
    pub(super) fn deleted(&mut self, token: WaitToken) -> Vec<Effect> {
        self.deleters.push(token);
        (!self.is_pending()).then_some(Effect::ForgetUnlessRead).into_iter().collect()
    }

    // The end of the process.

    /// Takes the outcome of a look at the pidfd.
    pub(super) fn reaped(&mut self, found: Reaped, how: &Reaping) -> Vec<Effect> {
        let Life::Alive { pid, phase, parent } = &mut self.life else { return Vec::new() };
        let exit = match (found, *parent) {
            (Reaped::NotYet, _) => return Vec::new(),
            (Reaped::ByItsParent, Parent::OtherUntil(until)) if until > how.now => return Vec::new(),
            (Reaped::ByItsParent, Parent::OtherUntil(_)) => None,
            (Reaped::ByItsParent, _) => {
                *parent = Parent::OtherUntil(how.now + PARENT_REAP_TIME);
                return vec![Effect::Descriptors(DescriptorEffect::AwaitParent)];
            }
            (Reaped::Ended(exit), _) => exit,
        };
        let status = ExitStatus { exit: self.reported_exit.or(exit), oom_killed: how.oom_killed, at: how.at };
        self.life = Life::Draining {
            end: End { pid: *pid, phase: *phase, status },
            output_until: how.now + how.drain,
            clients_until: how.now + how.clients.max(how.drain),
        };
        let container = self.id.is_init().then_some(Effect::EndContainer);
        std::iter::once(Effect::Descriptors(DescriptorEffect::Drain)).chain(container).collect()
    }

    /// Goes on after a look at the output, or after the pause that follows a failed record.
    pub(super) fn drained(&mut self, found: DrainProgress, now: Instant) -> Vec<Effect> {
        let (end, failures) = match &self.life {
            Life::Draining { end, output_until, clients_until } => {
                let read = found.read || (*output_until <= now && !found.held_back);
                if !(read && found.taken) && *clients_until > now {
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
        if !written && failures < RECORD_TRIES {
            self.life = Life::Retrying { end, failures, at: now + RECORD_PAUSE };
            return Vec::new();
        }
        self.life = Life::Recorded { end };
        vec![Effect::ReportInOrder]
    }

    /// Reports the end, in the process's turn.
    pub(super) fn report(&mut self) -> Vec<Effect> {
        let Life::Recorded { end } = self.life else { return Vec::new() };
        self.life = Life::Reported { end };
        let mut effects = vec![Effect::Descriptors(DescriptorEffect::Disconnect)];
        effects.push(Effect::Notify(Event::Exited { process: self.id.clone(), pid: end.pid, status: end.status }));
        let answers = self.waiters.drain(..);
        effects.extend(answers.map(|token| Effect::Answer(token, Ok(Reply::Exited(end.status)))));
        effects.extend((!self.deleters.is_empty()).then_some(Effect::ForgetUnlessRead));
        effects
    }

    // The process is forgotten.

    /// Forgets the process, unless a reader is about to take its output (`wanted`), which it may do until `until`.
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

    /// Has a request to delete the process answered when it is forgotten.
    pub(super) fn answer_when_forgotten(&mut self, token: WaitToken) {
        self.deleters.push(token);
    }

    /// Answers the requests for a process that was deleted and taken out of the table.
    pub(super) fn forgotten(&mut self) -> Vec<Effect> {
        let reply = self.deletion();
        let answers: Vec<Effect> =
            self.deleters.drain(..).map(|token| Effect::Answer(token, Ok(reply.clone()))).collect();
        answers.into_iter().chain(self.closed()).collect()
    }

    /// Refuses the requests that still wait for a process that was taken out of the table.
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

/// Why no process can be started in a container any more.
pub(super) const INIT_ENDED: &str = "container not running: its init has ended";

/// The refusal of a signal to a process that has ended. Engines look for these words.
pub(super) fn finished() -> Refusal {
    Refusal::new(Code::NotFound, "process already finished")
}

/// The refusal of a request for an unknown container or process.
pub(super) fn not_found(name: &str) -> Refusal {
    Refusal::new(Code::NotFound, format!("{name:?} does not exist"))
}

/// The process of a container whose end is reported next: not before its start was answered, and init not before all
/// its execs. `starting`: the runtime's `start` or `checkpoint` runs.
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
