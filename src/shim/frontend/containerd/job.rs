//! Work that may wait for a disk or for another process. A child of the shim does it while the loop goes on.

use std::marker::PhantomData;
use std::os::fd::{AsFd, OwnedFd};

use nix::sched::CloneFlags;

use super::answer::Outcome;
use super::connections::Caller;
use super::error::Error;
use super::message::event::TaskEvent;
use crate::table::Table;
use crate::{Interest, NewProcess, Poll, Spooling, WhenFull};
use windlass_sys::process::{self, Child, Exit, Forked, SingleThreaded};
use windlass_sys::stream::{self, Moved};
use windlass_sys::{descriptors, pipe};

/// The result of a child's work. The child writes it to the pipe as words, which never change: the previous program may
/// have forked the child, and the next program may read them.
pub(super) trait JobOutput: Sized {
    fn encode(&self) -> String;
    fn decode(text: &str) -> Option<Self>;
}

/// No result but that the work is done.
impl JobOutput for () {
    fn encode(&self) -> String {
        String::new()
    }

    fn decode(text: &str) -> Option<()> {
        text.is_empty().then_some(())
    }
}

/// The PID namespace of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PidNamespace {
    /// The container has its own: the kernel kills all its processes when init ends.
    Own,
    /// The container shares the namespace of others.
    Shared,
}

/// The result of the child that prepares a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Prepared {
    pub namespace: PidNamespace,
    /// Whether the runtime can hold a restored container until `Start`.
    pub holds: bool,
    pub spooling: Spooling,
}

impl JobOutput for Prepared {
    fn encode(&self) -> String {
        let namespace = if self.namespace == PidNamespace::Own { "own" } else { "shared" };
        let full = if self.spooling.full == WhenFull::Block { "block" } else { "drop" };
        let held = if self.holds { "held" } else { "whole" };
        format!("{namespace} {held} {full} {} {}", self.spooling.max, self.spooling.directory.display())
    }

    fn decode(text: &str) -> Option<Prepared> {
        let mut words = text.splitn(5, ' ');
        let namespace = match words.next()? {
            "own" => PidNamespace::Own,
            "shared" => PidNamespace::Shared,
            _ => return None,
        };
        let holds = words.next()? == "held";
        let full = if words.next()? == "block" { WhenFull::Block } else { WhenFull::DropOldest };
        let spooling = Spooling { full, max: words.next()?.parse().ok()?, directory: words.next()?.into() };
        Some(Prepared { namespace, holds, spooling })
    }
}

/// The exit status of a child whose work has failed. The pipe has the reason.
const FAILED: i32 = 1;

/// Longest reason or output, in bytes. What exceeds the capacity of the pipe is cut off (pipe(7)).
const LONGEST: usize = 16 * 1024;

/// A child at work.
#[derive(Debug)]
pub(super) struct Job<T> {
    pub(super) child: Child,
    /// The pipe with the reason of a failure, or with the output.
    pub(super) report: OwnedFd,
    pub(super) output: PhantomData<T>,
}

impl<T: JobOutput> Job<T> {
    /// Starts `work` in a child, which keeps `kept` open and no other descriptor. The end of the child is reported
    /// under `key`.
    pub(super) fn start(
        key: u64,
        poll: &Poll,
        kept: Option<&OwnedFd>,
        work: impl FnOnce() -> Result<T, Error>,
    ) -> windlass_sys::Result<Job<T>> {
        let (report, end) = pipe::new()?;
        stream::never_block(report.as_fd())?;
        let proof = SingleThreaded::check()?;
        match process::fork(CloneFlags::empty(), None, &proof)? {
            Forked::Parent(child) => {
                poll.watch(&child.pidfd, key, Interest::Read)?;
                Ok(Job { child, report, output: PhantomData })
            }
            Forked::Child => {
                let kept: Vec<_> = kept.iter().map(|fd| fd.as_fd()).chain([end.as_fd()]).collect();
                descriptors::close_all_but(3, &kept);
                let _ = process::die_with_parent();
                let (status, text) = match work() {
                    Ok(output) => (0, output.encode()),
                    Err(error) => (FAILED, error.to_string()),
                };
                let _ = stream::never_block(end.as_fd());
                let _ = stream::write(end.as_fd(), &text.as_bytes()[..text.len().min(LONGEST)]);
                process::exit_now(status)
            }
        }
    }

    /// The result of a child that has ended.
    fn result(&self, exit: windlass_sys::Result<Exit>) -> Result<T, Error> {
        match exit? {
            Exit::Code(FAILED) => Err(Error::Child(self.text())),
            Exit::Code(0) if let Some(output) = T::decode(&self.text()) => Ok(output),
            exit => Err(Error::Child(format!("a child of the shim ended with {exit}"))),
        }
    }

    fn text(&self) -> String {
        let mut text = vec![0; LONGEST];
        let length = match stream::read(self.report.as_fd(), &mut text) {
            Ok(Moved::Bytes(n)) => n,
            _ => 0,
        };
        String::from_utf8_lossy(&text[..length]).into_owned()
    }
}

/// A job, and the step after its end.
#[derive(Debug)]
pub(super) enum JobKind {
    /// The root filesystem is mounted, and the logger awaited; then the container is created.
    Prepare(Job<Prepared>, Box<NewProcess>),
    /// The logger of an exec is awaited; then the exec is made known.
    AwaitLogger(Job<()>, Box<NewProcess>),
    /// The root filesystem is unmounted; then the call is answered, and the event sent.
    Unmount(Job<()>, Outcome, Option<TaskEvent>),
}

impl JobKind {
    pub(super) fn child(&self) -> &Child {
        match self {
            JobKind::Prepare(job, _) => &job.child,
            JobKind::AwaitLogger(job, _) | JobKind::Unmount(job, ..) => &job.child,
        }
    }
}

/// A job that has ended.
#[derive(Debug)]
pub(super) enum JobResult {
    /// See [`JobKind::Prepare`].
    Prepared(Box<NewProcess>, Result<Prepared, Error>),
    /// See [`JobKind::AwaitLogger`].
    LoggerReady(Box<NewProcess>, Result<(), Error>),
    /// See [`JobKind::Unmount`].
    Unmounted(Outcome, Option<TaskEvent>, Result<(), Error>),
}

/// The jobs, by the serial numbers of their keys.
#[derive(Debug, Default)]
pub(super) struct Jobs(pub(super) Table<u64, Box<(Caller, JobKind)>>);

impl Jobs {
    /// Adds a job, whose end answers `caller`. Returns the process id of its child.
    pub(super) fn insert(&mut self, serial: u64, caller: Caller, work: JobKind) -> i32 {
        let pid = work.child().pid;
        self.0.insert(serial, Box::new((caller, work)));
        pid
    }

    /// Takes out a job that has ended, with the process id of its child. Returns `None` while it runs.
    pub(super) fn ended(&mut self, serial: u64) -> Option<(i32, Caller, JobResult)> {
        let exit = self.0.get(&serial)?.1.child().try_wait().transpose()?;
        let (caller, work) = *self.0.remove(&serial)?;
        let pid = work.child().pid;
        let ended = match work {
            JobKind::Prepare(job, process) => JobResult::Prepared(process, job.result(exit)),
            JobKind::AwaitLogger(job, process) => JobResult::LoggerReady(process, job.result(exit)),
            JobKind::Unmount(job, outcome, event) => JobResult::Unmounted(outcome, event, job.result(exit)),
        };
        Some((pid, caller, ended))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_is_read_as_it_was_written() {
        let cases = [(PidNamespace::Own, WhenFull::DropOldest, true), (PidNamespace::Shared, WhenFull::Block, false)];
        for (namespace, full, holds) in cases {
            let output =
                Prepared { namespace, holds, spooling: Spooling { max: 7, full, directory: "/a b/work".into() } };
            assert_eq!(Prepared::decode(&output.encode()), Some(output));
        }
        assert_eq!((Prepared::decode(""), Prepared::decode("own held block 7"), <()>::decode("x")), (None, None, None));
        assert_eq!(<()>::decode(&().encode()), Some(()));
    }

    /// The result of a child with this exit status, after it wrote this reason.
    fn result<T: JobOutput>(exit: Exit, reason: &str) -> Result<T, Error> {
        let (read_end, write_end) = pipe::new().expect("a pipe");
        stream::write(write_end.as_fd(), reason.as_bytes()).expect("written");
        stream::never_block(read_end.as_fd()).expect("set");
        let child = Child { pid: 0, pidfd: write_end };
        Job { child, report: read_end, output: PhantomData }.result(Ok(exit))
    }

    #[test]
    fn a_child_that_ends_in_another_way_has_failed() {
        let output = result::<Prepared>(Exit::Code(0), "shared whole block 0 /work").expect("an output");
        assert_eq!(output.namespace, PidNamespace::Shared);
        result::<Prepared>(Exit::Code(0), "").expect_err("it wrote nothing");
        let text = |exit| result::<()>(exit, "no such device").expect_err("it failed").to_string();
        assert_eq!(text(Exit::Code(FAILED)), "no such device");
        assert_eq!(text(Exit::Signal(9)), "a child of the shim ended with signal 9 (SIGKILL)");
        assert_eq!(text(Exit::Code(2)), "a child of the shim ended with exit status 2");
    }
}
