//! Work that may wait for a disk or for another process. A child of the shim does it while the loop goes on.

use std::marker::PhantomData;
use std::os::fd::{AsFd, OwnedFd};

use nix::sched::CloneFlags;

use super::answer::Outcome;
use super::connections::Caller;
use super::error::Error;
use super::message::event::TaskEvent;
use crate::table::Table;
use crate::{Interest, NewProcess, Poll};
use windlass_sys::process::{self, Child, Exit, Forked, SingleThreaded};
use windlass_sys::stream::{self, Moved};
use windlass_sys::{descriptors, socket};

/// What a child can find out. It is the exit status of the child, which is never [`FAILED`].
pub(super) trait Finding: Sized {
    /// Its exit status.
    fn status(self) -> i32;
    /// The finding with this exit status.
    fn of(status: i32) -> Option<Self>;
}

/// Nothing but that the work is done.
impl Finding for () {
    fn status(self) -> i32 {
        0
    }

    fn of(status: i32) -> Option<()> {
        (status == 0).then_some(())
    }
}

/// The PID namespace of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PidNamespace {
    /// Its own: the kernel kills all its processes when init ends.
    Own,
    /// That of others.
    Shared,
}

impl Finding for PidNamespace {
    fn status(self) -> i32 {
        match self {
            PidNamespace::Own => 0,
            PidNamespace::Shared => 2,
        }
    }

    fn of(status: i32) -> Option<PidNamespace> {
        match status {
            0 => Some(PidNamespace::Own),
            2 => Some(PidNamespace::Shared),
            _ => None,
        }
    }
}

/// The exit status of a child whose work has failed. The pipe has the reason.
const FAILED: i32 = 1;

/// Longest reason, in bytes. A pipe holds as much without being read.
const LONGEST: usize = 4096;

/// A child that works.
#[derive(Debug)]
pub(super) struct Job<T> {
    pub(super) child: Child,
    pub(super) reason: OwnedFd,
    pub(super) finds: PhantomData<T>,
}

impl<T: Finding> Job<T> {
    /// Starts `work` in a child, which keeps `kept` open and no other descriptor. Its end is reported under
    /// `key`.
    pub(super) fn start(
        key: u64,
        poll: &Poll,
        kept: Option<&OwnedFd>,
        work: impl FnOnce() -> Result<T, Error>,
    ) -> windlass_sys::Result<Job<T>> {
        let (reason, end) = socket::pipe()?;
        stream::never_block(reason.as_fd())?;
        let proof = SingleThreaded::check()?;
        match process::fork(CloneFlags::empty(), None, &proof)? {
            Forked::Parent(child) => {
                poll.watch(&child.pidfd, key, Interest::Read)?;
                Ok(Job { child, reason, finds: PhantomData })
            }
            Forked::Child => {
                let kept: Vec<_> = kept.iter().map(|fd| fd.as_fd()).chain([end.as_fd()]).collect();
                descriptors::close_all_but(3, &kept);
                let _ = process::die_with_parent();
                let status = work().map(T::status).unwrap_or_else(|error| {
                    let text = error.to_string();
                    let _ = stream::write(end.as_fd(), &text.as_bytes()[..text.len().min(LONGEST)]);
                    FAILED
                });
                process::exit_now(status)
            }
        }
    }

    /// The result of a child that has ended.
    fn result(&self, exit: windlass_sys::Result<Exit>) -> Result<T, Error> {
        match exit? {
            Exit::Code(FAILED) => {
                let mut text = vec![0; LONGEST];
                let length = match stream::read(self.reason.as_fd(), &mut text) {
                    Ok(Moved::Bytes(n)) => n,
                    _ => 0,
                };
                Err(Error::Child(String::from_utf8_lossy(&text[..length]).into_owned()))
            }
            Exit::Code(status) if let Some(found) = T::of(status) => Ok(found),
            exit => Err(Error::Child(format!("a child of the shim ended with {exit}"))),
        }
    }
}

/// A job, and what its end is needed for.
#[derive(Debug)]
pub(super) enum Work {
    /// The root filesystem is mounted, and the logger awaited; then the container is created.
    Prepare(Job<PidNamespace>, Box<NewProcess>),
    /// The logger of an exec is awaited; then the exec is made known.
    AwaitLogger(Job<()>, Box<NewProcess>),
    /// The root filesystem is unmounted; then the call is answered, and the event sent.
    Unmount(Job<()>, Outcome, Option<TaskEvent>),
}

impl Work {
    pub(super) fn child(&self) -> &Child {
        match self {
            Work::Prepare(job, _) => &job.child,
            Work::AwaitLogger(job, _) | Work::Unmount(job, ..) => &job.child,
        }
    }
}

/// A job that has ended.
#[derive(Debug)]
pub(super) enum JobResult {
    /// See [`Work::Prepare`].
    Prepared(Box<NewProcess>, Result<PidNamespace, Error>),
    /// See [`Work::AwaitLogger`].
    LoggerReady(Box<NewProcess>, Result<(), Error>),
    /// See [`Work::Unmount`].
    Unmounted(Outcome, Option<TaskEvent>, Result<(), Error>),
}

/// The jobs, by the serial numbers of their keys.
#[derive(Debug, Default)]
pub(super) struct Jobs(pub(super) Table<u64, Box<(Caller, Work)>>);

impl Jobs {
    /// Takes a job in, whose end answers `caller`. Returns the process id of its child.
    pub(super) fn insert(&mut self, serial: u64, caller: Caller, work: Work) -> i32 {
        let pid = work.child().pid;
        self.0.insert(serial, Box::new((caller, work)));
        pid
    }

    /// Takes out a job that has ended, with the process id of its child. `None`: it has not.
    pub(super) fn ended(&mut self, serial: u64) -> Option<(i32, Caller, JobResult)> {
        let exit = self.0.get(&serial)?.1.child().try_wait().transpose()?;
        let (caller, work) = *self.0.remove(&serial)?;
        let pid = work.child().pid;
        let ended = match work {
            Work::Prepare(job, process) => JobResult::Prepared(process, job.result(exit)),
            Work::AwaitLogger(job, process) => JobResult::LoggerReady(process, job.result(exit)),
            Work::Unmount(job, outcome, event) => JobResult::Unmounted(outcome, event, job.result(exit)),
        };
        Some((pid, caller, ended))
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_its_exit_status_and_no_failure_is_one() {
        for found in [PidNamespace::Own, PidNamespace::Shared] {
            assert_eq!(PidNamespace::of(found.status()), Some(found));
        }
        assert_eq!((PidNamespace::of(FAILED), <()>::of(FAILED)), (None, None));
        assert_eq!(<()>::of(().status()), Some(()));
    }

    /// What a child with this exit status has found, after it wrote this reason.
    fn result<T: Finding>(exit: Exit, reason: &str) -> Result<T, Error> {
        let (read_end, write_end) = socket::pipe().expect("a pipe");
        stream::write(write_end.as_fd(), reason.as_bytes()).expect("written");
        let child = Child { pid: 0, pidfd: write_end };
        Job { child, reason: read_end, finds: PhantomData }.result(Ok(exit))
    }

    #[test]
    fn a_child_that_ends_in_another_way_has_failed() {
        assert_eq!(result::<PidNamespace>(Exit::Code(2), "").ok(), Some(PidNamespace::Shared));
        let text = |exit| result::<()>(exit, "no such device").expect_err("it failed").to_string();
        assert_eq!(text(Exit::Code(FAILED)), "no such device");
        assert_eq!(text(Exit::Signal(9)), "a child of the shim ended with signal 9 (SIGKILL)");
        assert_eq!(text(Exit::Code(2)), "a child of the shim ended with exit status 2");
    }
}
