//! The exit of a container: the first command that asks finds it out and writes it once.

use std::os::fd::{AsFd, BorrowedFd};

use nix::fcntl::OFlag;

use windlass_base::error::Result;
use windlass_base::exit_record::ExitRecord;
use windlass_sys::fd;
use windlass_sys::lock;
use windlass_sys::process::{Exit, SingleThreaded};

use super::container::Container;
use super::record;

impl Container {
    /// The exit, if it was written or can be found out now.
    pub fn exit(&self) -> Result<Option<ExitRecord>> {
        if let Some(known) = &self.exit {
            return Ok(Some(known.clone()));
        }
        // A zombie still has its exit status. After init was reaped, the pin has the status, and the cgroup still
        // counts an OOM kill.
        let exit = match self.init_stat()? {
            Some(stat) => stat.has_ended().then(|| Exit::of_status(stat.exit_code)),
            None => self.exit_pin().map_or(Ok(None), |pin| pin.read())?,
        };
        let found = Some(self.exit_record(exit)).filter(|found| exit.is_some() || found.oom_killed);
        Ok(found.map(|found| self.settle_exit(found)))
    }

    /// Writes `found`, unless an exit was written meanwhile, and returns the written exit. Later calls report the same,
    /// unless a shim writes its own over it.
    pub(super) fn settle_exit(&self, found: ExitRecord) -> ExitRecord {
        let was_locked = self.locked.get();
        // Another holder of the lock writes the exit, or removes the container.
        if !was_locked && lock::exclusive(self.file.as_fd(), false).is_err() {
            return found;
        }
        let text = fd::read_head(self.file.as_fd(), record::FIXED).ok();
        let known = text.and_then(|text| record::parse(&text).ok().flatten()?.exit);
        let record = known.unwrap_or_else(|| self.write_exit(found));
        if !was_locked {
            self.unlock();
        }
        record
    }

    /// Has the kernel keep the exit of init until [`Container::remove`]. `pidfd` is init's. This process is in another
    /// mount namespace afterwards, with another root. The caller holds the lock.
    pub fn keep_exit(&self, pidfd: BorrowedFd<'_>, proof: &SingleThreaded) -> Result<()> {
        let Some(pin) = self.exit_pin() else { return Ok(()) };
        // The pin counts as made even if the call fails: the file may exist.
        self.pinned.set(true);
        pin.make(pidfd, proof)
    }

    /// Writes the exit of init, unless one was written meanwhile. The caller holds the lock.
    pub fn record_exit(&self, exit: Exit) -> ExitRecord {
        self.settle_exit(self.exit_record(Some(exit)))
    }

    fn write_exit(&self, record: ExitRecord) -> ExitRecord {
        // Best effort: a caller that may only read still gets the record.
        let _ = fd::reopen(self.file.as_fd(), OFlag::O_WRONLY)
            .and_then(|file| fd::write_at(file.as_fd(), &record::exit_line(&record), self.layout.exit()));
        record
    }

    fn exit_record(&self, exit: Option<Exit>) -> ExitRecord {
        let (code, signal) = (exit.and_then(Exit::code), exit.and_then(Exit::signal));
        // A later container may have been killed for want of memory in a cgroup at the same path.
        let oom_killed = self.oom_kills().is_some_and(|n| n > 0) && !self.has_successor().unwrap_or(false);
        ExitRecord::new(code, signal, oom_killed, std::time::SystemTime::now())
    }
}
