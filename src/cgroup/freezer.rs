//! Freezing and thawing all processes of a cgroup.
//!
//! The kernel freezes asynchronously and reports the end in `cgroup.events`.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;

use super::directory::{if_there, number_after, read_file};
use super::events;
use super::v2::Cgroup;
use windlass_base::error::{Error, Kind, Result, WithContext};
use windlass_sys::{fd, tree, waiting};

/// How long freezing may take. A process freezes on its way back to user space, so only one in an
/// uninterruptible wait takes longer than milliseconds.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);

impl Cgroup {
    /// Freezes every process in the cgroup and below, and waits until they are frozen. If they do not freeze in time,
    /// all are thawed again.
    pub fn freeze(&self) -> Result<()> {
        self.set_frozen(true)?;
        let mut empty = false;
        let frozen_or_empty = self.wait_until(&mut |events| {
            let frozen = number_after(events, "frozen") == Some(1);
            // The kernel need not report a cgroup as frozen whose processes were all killed meanwhile.
            empty = !frozen && number_after(events, "populated") == Some(0);
            frozen || empty
        });
        let frozen_or_empty = frozen_or_empty.inspect_err(|_| {
            // A container whose pause has failed is not paused.
            let _ = self.thaw_nowait();
        })?;
        if empty {
            self.thaw_nowait()?;
            return Err(Error::new(
                Kind::WrongStatus,
                "container not running: its processes ended while it was paused",
            ));
        }
        if frozen_or_empty {
            return Ok(());
        }
        let running = not_frozen(&self.pids(true).unwrap_or_default());
        self.set_frozen(false)?;
        Err(Error::new(
            Kind::Kernel,
            format!("cannot freeze cgroup {:?} within {} s: {running}", self.path(), TIMEOUT.as_secs()),
        )
        .with_hint(waiting::HINT))
    }

    /// Begins to freeze every process in the cgroup and below, and does not wait.
    pub fn begin_freeze(&self) -> Result<()> {
        self.set_frozen(true)
    }

    /// Thaws every process in the cgroup and below, and waits until they run.
    pub fn thaw(&self) -> Result<()> {
        self.set_frozen(false)?;
        if let Some(ancestor) = self.frozen_ancestor() {
            let msg = format!("cannot thaw cgroup {:?}: its ancestor {ancestor:?} is frozen", self.path());
            return Err(Error::new(Kind::WrongStatus, msg).with_hint(format!("echo 0 > {ancestor}/cgroup.freeze")));
        }
        if self.wait_until(&mut |events| number_after(events, "frozen") == Some(0))? {
            return Ok(());
        }
        Err(Error::new(Kind::Kernel, format!("cannot thaw cgroup {:?}", self.path())))
    }

    /// Whether its own `cgroup.freeze` is set, whatever its ancestors have.
    pub fn is_frozen(&self) -> Result<bool> {
        let text = if_there(self.directory.read("cgroup.freeze")).with_context(|| self.cannot("read the state of"))?;
        Ok(text.is_some_and(|text| text.trim() == "1"))
    }

    /// Thaws the cgroup and does not wait: a process that is killed while it is frozen dies, but its cgroup stays
    /// frozen. Succeeds if the cgroup does not exist any more. A cgroup whose state cannot be read is thawed, too.
    pub fn thaw_nowait(&self) -> Result<()> {
        if let Ok(false) = self.is_frozen() {
            return Ok(());
        }
        if_there(self.directory.write("cgroup.freeze", "0")).map(drop).with_context(|| self.cannot("thaw"))
    }

    /// Whether the cgroup is frozen only by an ancestor. Then it cannot be thawed, and every process that enters it
    /// freezes.
    pub fn is_frozen_by_ancestor(&self) -> Result<bool> {
        let events =
            if_there(self.directory.read("cgroup.events")).with_context(|| self.cannot("read the state of"))?;
        Ok(events.is_some_and(|events| number_after(&events, "frozen") == Some(1)) && !self.is_frozen()?)
    }

    /// The nearest ancestor whose `cgroup.freeze` is set.
    fn frozen_ancestor(&self) -> Option<&str> {
        let path = self.path();
        let ancestors = path.match_indices('/').map(|(end, _)| &path[..end]).rev();
        let frozen = |path: &&str| read_file(&format!("{path}/cgroup.freeze")).is_ok_and(|text| text.trim() == "1");
        ancestors.take_while(|path| !path.is_empty()).find(frozen)
    }

    /// A sub-cgroup with processes whose own `cgroup.freeze` is set: thawing this cgroup does not thaw it.
    pub fn frozen_below(&self) -> Result<Option<String>> {
        let mut found = None;
        let is_frozen = |dir: BorrowedFd<'_>| -> windlass_sys::Result<bool> {
            let freeze = if_there(fd::read_small(dir, "cgroup.freeze"))?;
            let events = if_there(fd::read_small(dir, "cgroup.events"))?.unwrap_or_default();
            let events = String::from_utf8_lossy(&events);
            Ok(freeze.is_some_and(|text| text == b"1\n") && number_after(&events, "populated") == Some(1))
        };
        let visited = tree::visit(self.directory.fd.as_fd(), |dir, depth| {
            if depth > 0 && found.is_none() && is_frozen(dir)? {
                found = Some(fd::path_of(dir)?.to_string_lossy().into_owned());
            }
            Ok(())
        });
        if_there(visited).with_context(|| self.cannot("look below")).map(|_| found)
    }

    fn set_frozen(&self, frozen: bool) -> Result<()> {
        let (value, what) = if frozen { ("1", "freeze") } else { ("0", "thaw") };
        self.directory.write("cgroup.freeze", value).map_err(|failed| {
            let errno = failed.errno;
            let error = failed.context(self.cannot(what));
            if errno == Errno::ENOENT { error.with_hint("the freezer of cgroup v2 needs Linux 5.2") } else { error }
        })
    }

    fn wait_until(&self, holds: &mut dyn FnMut(&str) -> bool) -> Result<bool> {
        events::wait_until(&self.directory, TIMEOUT, holds).with_context(|| self.cannot("watch"))
    }
}

/// [`Cgroup::is_frozen`] for the cgroup at `path` in the file system, without opening its directory. A cgroup
/// that was removed is not frozen.
pub fn is_frozen(path: &str) -> Result<bool> {
    let text = if_there(fd::read_small(fd::CWD, format!("{path}/cgroup.freeze")));
    Ok(text.with_context(|| format!("cannot read the state of cgroup {path:?}"))?.is_some_and(|text| text == b"1\n"))
}

/// Describes the processes of `pids` that still run or wait for the kernel, as the end of an error message.
pub(super) fn not_frozen(pids: &[i32]) -> String {
    let processes = pids.iter().filter_map(|pid| waiting::describe(*pid));
    let running: Vec<String> =
        processes.filter(|process| matches!(process.state, 'D' | 'R')).map(|process| process.text).collect();
    if running.is_empty() {
        return format!("one of the processes {pids:?} has not stopped");
    }
    format!("{} has not stopped", running.join(", "))
}
