//! Waiting for OOM kills in a cgroup, and for its last process to end.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags};
use nix::sys::uio::pread;

use super::directory::{if_there, number_after};
use super::v2::Cgroup;
use windlass_base::error::{Result, WithContext};
use windlass_sys::Called;
use windlass_sys::poll::{self, Deadline};

/// Watches `memory.events` and `cgroup.events` of one cgroup.
#[derive(Debug)]
pub struct OomWatch {
    /// `memory.events`; `None` without the memory controller.
    memory: Option<OwnedFd>,
    /// `cgroup.events`.
    cgroup: OwnedFd,
    /// The kills that were reported.
    seen: u64,
}

/// The event that ended a wait for a watched cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchEvent {
    /// The OOM killer has killed this number of processes since the last event.
    OomKills(u64),
    /// The last process has ended.
    Empty,
    /// The other descriptor is readable.
    OtherReadable,
    /// The time is over, or the kernel reported another event.
    Timeout,
}

impl Cgroup {
    /// Begins to watch the cgroup. Kills before this call are not reported.
    pub fn watch_oom(&self) -> Result<OomWatch> {
        let what = || self.cannot("watch");
        let memory = if_there(self.directory.open_file("memory.events", OFlag::O_RDONLY)).with_context(what)?;
        let cgroup = self.directory.open_file("cgroup.events", OFlag::O_RDONLY).with_context(what)?;
        let mut watch = OomWatch { memory, cgroup, seen: 0 };
        watch.seen = watch.kills()?.unwrap_or(0);
        Ok(watch)
    }
}

impl OomWatch {
    /// Waits for the next event. OOM kills are reported before the end of the last process, which they may cause.
    pub fn wait(&mut self, within: Duration) -> Result<WatchEvent> {
        self.wait_beside(None, within)
    }

    /// [`OomWatch::wait`] for the events and for another descriptor to be readable. Events of the cgroup are reported
    /// first.
    pub fn wait_beside(&mut self, other: Option<BorrowedFd<'_>>, within: Duration) -> Result<WatchEvent> {
        let mut last = None;
        loop {
            let kills = self.kills()?.unwrap_or(self.seen);
            if kills > self.seen {
                let more = kills - self.seen;
                self.seen = kills;
                return Ok(WatchEvent::OomKills(more));
            }
            if read(&self.cgroup)?.is_none_or(|text| number_after(&text, "populated") == Some(0)) {
                return Ok(WatchEvent::Empty);
            }
            if let Some(last) = last {
                return Ok(last);
            }
            let mut fds = vec![PollFd::new(self.cgroup.as_fd(), PollFlags::POLLPRI)];
            fds.extend(self.memory.iter().map(|memory| PollFd::new(memory.as_fd(), PollFlags::POLLPRI)));
            fds.extend(other.map(|other| PollFd::new(other, PollFlags::POLLIN)));
            // Other events, such as `high`, end the wait like the deadline: the caller has its own clock.
            poll::poll(&mut fds, Deadline::after(within)).with_context(|| "cannot wait")?;
            let read = other.is_some() && fds.last().is_some_and(|fd| fd.any().unwrap_or(false));
            last = Some(if read { WatchEvent::OtherReadable } else { WatchEvent::Timeout });
        }
    }

    fn kills(&self) -> Result<Option<u64>> {
        let Some(memory) = &self.memory else { return Ok(None) };
        Ok(read(memory)?.and_then(|text| number_after(&text, "oom_kill")))
    }
}

/// Reads an events file. Returns `None` if the cgroup was removed.
fn read(fd: &OwnedFd) -> Result<Option<String>> {
    let mut buffer = [0; 512];
    let length = pread(fd, &mut buffer, 0).called(|| "pread(cgroup.events)".into());
    let length = if_there(length).with_context(|| "cannot read the state of a cgroup")?;
    Ok(length.map(|length| String::from_utf8_lossy(&buffer[..length]).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> OwnedFd {
        let flags = nix::sys::memfd::MFdFlags::MFD_CLOEXEC;
        let file = nix::sys::memfd::memfd_create(c"events", flags).expect("a file");
        windlass_sys::fd::write_once(file.as_fd(), text.as_bytes()).expect("written");
        file
    }

    /// The kernel counts the kill before the process that waits for another's end can see that end.
    #[test]
    fn a_kill_that_ends_the_other_is_told_before_that_end() {
        let memory = file("oom_kill 0\n");
        let copy = windlass_sys::fd::duplicate(memory.as_fd()).expect("a copy");
        let (other, end) = windlass_sys::pipe::new().expect("a pipe");
        let mut watch = OomWatch { memory: Some(memory), cgroup: file("populated 1\n"), seen: 0 };
        let kill = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            nix::sys::uio::pwrite(&copy, b"oom_kill 1\n", 0).expect("counted");
            drop(end);
        });
        let mut next = || watch.wait_beside(Some(other.as_fd()), Duration::from_secs(60)).expect("waited");
        assert_eq!(next(), WatchEvent::OomKills(1));
        kill.join().expect("counted");
        assert_eq!(next(), WatchEvent::OtherReadable);
    }

    #[test]
    fn a_shortage_that_killed_nobody_is_no_kill() {
        let memory = |kills: u32| Some(file(&format!("max 9\noom 5\noom_kill {kills}\noom_group_kill 7\n")));
        let mut watch = OomWatch { memory: memory(0), cgroup: file("populated 1\n"), seen: 0 };
        assert_eq!(watch.wait(Duration::ZERO).expect("waited"), WatchEvent::Timeout);
        watch.memory = memory(2);
        assert_eq!(watch.wait(Duration::ZERO).expect("waited"), WatchEvent::OomKills(2));
        watch.cgroup = file("populated 0\n");
        assert_eq!(watch.wait(Duration::ZERO).expect("waited"), WatchEvent::Empty, "told once");
    }
}
