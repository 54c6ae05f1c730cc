//! Stopping all processes of a cgroup, and knowing that they have stopped.
//!
//! Freezing is asynchronous: the kernel tells of its end in cgroup.events, which can be polled.

use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags};
use nix::sys::uio::pread;

use super::directory::{Directory, if_there, number_after, read_file};
use super::v2::Cgroup;
use windlass_base::error::{Doing, Error, Kind, Result};
use windlass_sys::poll::{self, Deadline};
use windlass_sys::{Called, fd, waiting};

/// How long processes may take to stop. They stop on their way back to user space, so only a
/// process that waits uninterruptibly takes longer than milliseconds.
pub(super) const WITHIN: Duration = Duration::from_secs(10);

impl Cgroup {
    /// Stops every process in it and below, and waits until they have stopped. If they do not,
    /// those that have are let go again.
    pub fn freeze(&self) -> Result<()> {
        self.set_frozen("1")?;
        let mut empty = false;
        let over = self.wait_until(|events| {
            let frozen = number_after(events, "frozen") == Some(1);
            // What was killed meanwhile has left, and the kernel need not call the rest frozen.
            empty = !frozen && number_after(events, "populated") == Some(0);
            frozen || empty
        })?;
        if empty {
            self.let_go()?;
            return Err(Error::new(
                Kind::WrongStatus,
                "container not running: its processes ended while it was paused",
            ));
        }
        if over {
            return Ok(());
        }
        let running = not_stopped(&self.pids(true).unwrap_or_default());
        self.set_frozen("0")?;
        Err(Error::new(
            Kind::Kernel,
            format!("cannot freeze cgroup {:?} within {} s: {running}", self.path(), WITHIN.as_secs()),
        )
        .hint(waiting::HINT))
    }

    /// Lets its processes go on, and waits until they can.
    pub fn thaw(&self) -> Result<()> {
        self.set_frozen("0")?;
        if let Some(ancestor) = self.frozen_ancestor() {
            let msg = format!("cannot thaw cgroup {:?}: its ancestor {ancestor:?} is frozen", self.path());
            return Err(Error::new(Kind::WrongStatus, msg).hint(format!("echo 0 > {ancestor}/cgroup.freeze")));
        }
        if self.wait_until(|events| number_after(events, "frozen") == Some(0))? {
            return Ok(());
        }
        Err(Error::new(Kind::Kernel, format!("cannot thaw cgroup {:?}", self.path())))
    }

    /// Whether it was told to be frozen, itself and not by an ancestor.
    pub fn is_frozen(&self) -> Result<bool> {
        let text = if_there(self.directory.read("cgroup.freeze")).doing(|| self.cannot("read the state of"))?;
        Ok(text.is_some_and(|text| text.trim() == "1"))
    }

    /// For what was killed while frozen: it dies frozen, but its cgroup stays so. Does not wait;
    /// that the cgroup is gone is no error.
    pub fn let_go(&self) -> Result<()> {
        if !self.is_frozen()? {
            return Ok(());
        }
        if_there(self.directory.write("cgroup.freeze", "0")).map(drop).doing(|| self.cannot("thaw"))
    }

    /// Whether an ancestor keeps it frozen, though it was not told to be: it cannot be thawed,
    /// and whoever enters it stops.
    pub fn is_frozen_from_above(&self) -> Result<bool> {
        let events = if_there(self.directory.read("cgroup.events")).doing(|| self.cannot("read the state of"))?;
        Ok(events.is_some_and(|events| number_after(&events, "frozen") == Some(1)) && !self.is_frozen()?)
    }

    /// The nearest ancestor that was told to be frozen.
    fn frozen_ancestor(&self) -> Option<&str> {
        let path = self.path();
        let ancestors = path.match_indices('/').map(|(end, _)| &path[..end]).rev();
        let frozen = |path: &&str| read_file(&format!("{path}/cgroup.freeze")).is_ok_and(|text| text.trim() == "1");
        ancestors.take_while(|path| !path.is_empty()).find(frozen)
    }

    fn set_frozen(&self, value: &str) -> Result<()> {
        self.directory.write("cgroup.freeze", value).map_err(|failed| {
            let errno = failed.errno;
            let error = failed.doing(self.cannot(if value == "1" { "freeze" } else { "thaw" }));
            if errno == Errno::ENOENT { error.hint("the freezer of cgroup v2 needs Linux 5.2") } else { error }
        })
    }

    fn wait_until(&self, holds: impl FnMut(&str) -> bool) -> Result<bool> {
        wait_until(&self.directory, WITHIN, holds).doing(|| self.cannot("watch"))
    }
}

/// Whether the cgroup at a path in the file system was told to be frozen; one that is gone was not.
/// As [`Cgroup::is_frozen`], without opening its directory.
pub fn is_frozen(path: &str) -> Result<bool> {
    let text = if_there(fd::read_small(fd::CWD, format!("{path}/cgroup.freeze")));
    Ok(text.doing(|| format!("cannot read the state of cgroup {path:?}"))?.is_some_and(|text| text == b"1\n"))
}

/// Those of `pids` that keep a freeze from ending, in words.
pub(super) fn not_stopped(pids: &[i32]) -> String {
    let runs = |text: &String| text.contains(" in state D") || text.contains(" in state R");
    let running: Vec<String> = pids.iter().filter_map(|pid| waiting::describe(*pid)).filter(runs).collect();
    if running.is_empty() {
        return format!("one of the processes {pids:?} has not stopped");
    }
    format!("{} has not stopped", running.join(", "))
}

/// The cgroup.events of a cgroup that is gone.
const GONE: &str = "populated 0\nfrozen 0\n";

/// Waits until something holds of the text of cgroup.events; false if it does not within the time.
pub(super) fn wait_until(
    directory: &Directory,
    within: Duration,
    mut holds: impl FnMut(&str) -> bool,
) -> windlass_sys::Result<bool> {
    let Some(fd) = if_there(directory.open_file("cgroup.events", OFlag::O_RDONLY))? else { return Ok(holds(GONE)) };
    let deadline = Deadline::after(within);
    let (mut buffer, mut over) = ([0; 512], false);
    loop {
        // Reading is what arms the next wake-up.
        let read = pread(&fd, &mut buffer, 0).called(|| format!("pread({:?})", directory.path_of("cgroup.events")));
        let Some(length) = if_there(read)? else { return Ok(holds(GONE)) };
        if holds(&String::from_utf8_lossy(&buffer[..length])) {
            return Ok(true);
        }
        if over {
            return Ok(false);
        }
        over = !poll::poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLPRI)], deadline)?;
    }
}
