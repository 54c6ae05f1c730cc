//! The table of the runtime's calls: those that run, and those that wait for their turn.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Instant;

use super::call::{self, Call, Operation, Planned, SpawnOptions};
use super::key::{Kind, key};
use super::poll::{Interest, Poll};
use super::table::Table;
use super::{Code, Container, ProcessId, Refusal, WaitToken};
use windlass_sys::clock;
use windlass_sys::process::Exit;

/// The token of a call that no request asked for.
pub(super) const NO_REQUEST: WaitToken = WaitToken(0);

/// The descriptors of a call.
pub(super) struct Descriptors<'a> {
    pub(super) stdio: [BorrowedFd<'a>; 3],
    /// Numbers of descriptors that the runtime passes on.
    pub(super) preserve: &'a [i32],
    /// The read ends of its standard output and error, unless they are the container's.
    pub(super) output: Option<OwnedFd>,
    pub(super) errors: Option<OwnedFd>,
}

/// The settings of all calls.
pub(super) struct CallEnvironment<'a> {
    pub(super) oom_score_adj: Option<&'a str>,
    pub(super) listen_pid: bool,
    pub(super) poll: &'a Poll,
}

/// The calls of the runtime.
#[derive(Debug, Default)]
pub(super) struct Calls {
    pub(super) running: Table<u32, Box<Call>>,
    /// In the order in which they were asked for.
    pub(super) waiting: Vec<Planned>,
}

impl Calls {
    /// Adds a call, which starts in its turn.
    pub(super) fn plan(&mut self, planned: Planned) {
        self.waiting.push(planned);
    }

    /// Takes out the next call whose turn it is.
    pub(super) fn next(&mut self) -> Option<Planned> {
        let at = (0..self.waiting.len()).find(|&at| {
            let next = &self.waiting[at];
            let running = self.running.values().filter(|call| call.process == next.process);
            let mut earlier = self.waiting[..at].iter().filter(|earlier| earlier.process == next.process);
            running.map(|call| call.operation).all(|running| runs_beside(running, next.operation))
                && (next.operation == Operation::Kill || earlier.next().is_none())
        })?;
        Some(self.waiting.remove(at))
    }

    /// Starts the runtime.
    pub(super) fn start(
        &mut self,
        serial: u32,
        planned: &Planned,
        descriptors: Descriptors<'_>,
        container: &Container,
        environment: &CallEnvironment<'_>,
    ) -> Result<(), Refusal> {
        let (runtime, timeouts) = (&container.runtime, container.timeouts);
        // Another call that runs may have logged why it fails.
        let alone = !self.running.values().any(|call| call.process.container == planned.process.container);
        let log_length = runtime.log_length_before_call(alone);
        let options = SpawnOptions {
            binary: &runtime.binary,
            arguments: &planned.arguments,
            stdio: descriptors.stdio,
            preserve: descriptors.preserve,
            oom_score_adj: environment.oom_score_adj,
            listen_pid: environment.listen_pid,
        };
        // Pipes are watched first: ending a runtime does not undo what it has begun to make.
        let pipes = [(&descriptors.output, Kind::CallOutput), (&descriptors.errors, Kind::CallErrors)];
        for (pipe, kind) in pipes {
            if let Some(pipe) = pipe {
                environment.poll.watch(pipe, key(kind, serial, 0), Interest::Read)?;
            }
        }
        let child = call::start(&options)
            .map_err(|failed| Refusal::new(Code::Runtime, format!("cannot run {:?}: {failed}", runtime.binary)))?;
        let unwatched = environment.poll.watch(&child.pidfd, key(Kind::Call, serial, 0), Interest::Read).is_err();
        let Descriptors { output, errors, .. } = descriptors;
        let short = matches!(planned.operation, Operation::Kill | Operation::Delete);
        let call = Call {
            operation: planned.operation,
            process: planned.process.clone(),
            token: planned.token,
            child,
            output,
            errors,
            stdout: Vec::new(),
            stderr: Vec::new(),
            deadline: clock::now() + if short { timeouts.short } else { timeouts.long },
            timed_out: false,
            log_length,
            unwatched,
        };
        self.running.insert(serial, Box::new(call));
        Ok(())
    }

    /// Reads the output of a call.
    pub(super) fn read_output(&mut self, serial: u32, kind: Kind) {
        if let Some(call) = self.running.get_mut(&serial) {
            call.read(kind);
        }
    }

    /// The calls whose end only SIGCHLD reports.
    pub(super) fn unwatched(&self) -> Vec<u32> {
        self.running.entries().iter().filter(|(_, call)| call.unwatched).map(|(serial, _)| *serial).collect()
    }

    /// Takes out a call that has ended. Returns `None` while it runs.
    pub(super) fn ended(&mut self, serial: u32) -> Option<(Call, Exit)> {
        let exit = match self.running.get(&serial)?.child.try_wait() {
            Ok(None) => return None,
            Ok(Some(exit)) => exit,
            Err(_) => Exit::Code(255),
        };
        let mut call = self.running.remove(&serial)?;
        call.read(Kind::CallOutput);
        call.read(Kind::CallErrors);
        Some((*call, exit))
    }

    /// Kills the calls that take too long.
    pub(super) fn kill_late(&mut self, now: Instant) {
        for call in self.running.values_mut().filter(|call| !call.timed_out && call.deadline <= now) {
            call.timed_out = true;
            call.child.kill();
        }
    }

    /// When the next call is killed.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.running.values().filter(|call| !call.timed_out).map(|call| call.deadline).min()
    }

    /// Gives the calls in a container whose init has ended less time. They cannot succeed any more, and the end is not
    /// reported before they fail.
    pub(super) fn shorten_deadlines(&mut self, container: &str, until: Instant) {
        let here = self.running.values_mut().filter(|call| &*call.process.container == container);
        for call in here.filter(|call| matches!(call.operation, Operation::Start | Operation::Exec)) {
            call.deadline = call.deadline.min(until);
        }
    }

    /// A call that runs for a process.
    pub(super) fn of(&self, process: &ProcessId) -> Option<&Call> {
        self.running.values().find(|call| call.process == *process).map(Box::as_ref)
    }

    /// Whether the `start` of a container runs, or a `checkpoint`, which may end it.
    pub(super) fn is_starting(&self, container: &str) -> bool {
        let mut here = self.running.values().filter(|call| &*call.process.container == container);
        here.any(|call| matches!(call.operation, Operation::Start | Operation::Checkpoint))
    }

    /// Whether a call runs that makes a process.
    pub(super) fn is_making(&self) -> bool {
        self.running.values().any(|call| matches!(call.operation, Operation::Create | Operation::Exec))
    }

    /// Whether `pid` is a runtime.
    pub(super) fn has_child(&self, pid: i32) -> bool {
        self.running.values().any(|call| call.child.pid == pid)
    }

    /// Whether no call runs.
    pub(super) fn is_idle(&self) -> bool {
        self.running.is_empty()
    }
}

/// Whether a call may start while another runs for the same process. Calls run one after the other. But a kill starts
/// beside everything except a create, because a call that hangs may have to be killed; and while a
/// kill runs everything starts except a delete.
fn runs_beside(running: Operation, next: Operation) -> bool {
    (next == Operation::Kill && running != Operation::Create)
        || (running == Operation::Kill && next != Operation::Delete)
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_sys::process::Child;

    fn plan(calls: &mut Calls, operation: Operation, exec: &str) {
        calls.plan(Planned { operation, process: ProcessId::of("c", exec), arguments: Vec::new(), token: NO_REQUEST });
    }

    #[test]
    fn the_calls_of_a_process_run_one_after_the_other_but_for_kills() {
        let all = [Operation::Create, Operation::Start, Operation::Exec, Operation::Delete, Operation::Other(None)];
        for running in all {
            for next in all {
                assert!(!runs_beside(running, next), "{running:?} {next:?}");
            }
            assert_eq!(runs_beside(running, Operation::Kill), running != Operation::Create);
            assert_eq!(runs_beside(Operation::Kill, running), running != Operation::Delete);
        }
        assert!(runs_beside(Operation::Kill, Operation::Kill));
    }

    /// A call that runs as far as the table knows.
    fn run(calls: &mut Calls, serial: u32, planned: Planned) {
        let child = Child { pid: 0, pidfd: super::super::pipe::null().expect("a descriptor") };
        let Planned { operation, process, token, .. } = planned;
        let (deadline, timed_out, log_length) = (Instant::now(), false, 0);
        let (output, errors, stdout, stderr) = (None, None, Vec::new(), Vec::new());
        let call = Call {
            operation,
            process,
            token,
            child,
            output,
            errors,
            stdout,
            stderr,
            deadline,
            timed_out,
            log_length,
            unwatched: false,
        };
        calls.running.insert(serial, Box::new(call));
    }

    #[test]
    fn a_kill_overtakes_and_a_delete_waits_for_it() {
        let mut calls = Calls::default();
        for operation in [Operation::Start, Operation::Delete, Operation::Kill] {
            plan(&mut calls, operation, "");
        }
        plan(&mut calls, Operation::Exec, "e");
        for (serial, expected) in (1..).zip([Operation::Start, Operation::Kill, Operation::Exec]) {
            let planned = calls.next().expect("it is its turn");
            assert_eq!(planned.operation, expected);
            run(&mut calls, serial, planned);
        }
        assert!(calls.next().is_none() && calls.is_starting("c") && calls.is_making());
        calls.running.remove(&1);
        assert!(calls.next().is_none(), "the kill still runs");
        calls.running.remove(&2);
        assert_eq!(calls.next().map(|planned| planned.operation), Some(Operation::Delete));
        assert!(calls.of(&ProcessId::of("c", "e")).is_some() && !calls.is_starting("c"));
    }
}
