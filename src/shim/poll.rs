//! The one epoll instance, level-triggered.
//!
//! A descriptor is watched under a key, which identifies it. Keys below 2^56 belong to the front end.

use std::cell::OnceCell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;
use std::time::Instant;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

use super::key::{Kind, key};
use super::notifier::{Change, Changes, Notifier, Watch};
use windlass_sys::{Called, Result, epoll};

/// The events of a descriptor that are reported. The hang-up of its other end is always reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Nothing but the hang-up.
    Nothing,
    /// There is something to read or to accept.
    Read,
    /// There is room to write.
    Write,
    /// Either.
    Both,
}

impl Interest {
    /// Reading, writing, both or neither.
    pub fn of(read: bool, write: bool) -> Interest {
        match (read, write) {
            (true, false) => Interest::Read,
            (true, true) => Interest::Both,
            (false, true) => Interest::Write,
            (false, false) => Interest::Nothing,
        }
    }

    fn flags(self) -> EpollFlags {
        match self {
            Interest::Nothing => EpollFlags::empty(),
            Interest::Read => EpollFlags::EPOLLIN,
            Interest::Write => EpollFlags::EPOLLOUT,
            Interest::Both => EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT,
        }
    }
}

/// The readiness of a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Readable.
    pub read: bool,
    /// Writable.
    pub write: bool,
    /// The other end is gone (`EPOLLHUP` or `EPOLLERR`).
    pub hangup: bool,
}

/// The epoll instance.
#[derive(Debug)]
pub struct Poll {
    epoll: Epoll,
    /// The inotify instance, made when it is first needed.
    notifier: OnceCell<Rc<Notifier>>,
}

/// Most events taken at once.
const BATCH: usize = 16;

impl Poll {
    pub fn new() -> Result<Poll> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).called(|| "epoll_create1(EPOLL_CLOEXEC)".into())?;
        Ok(Poll { epoll, notifier: OnceCell::new() })
    }

    /// Watches a file for a change, which is reported under the key of inotify.
    pub(super) fn notify(&self, path: &Path, change: Change) -> Result<Watch> {
        if self.notifier.get().is_none() {
            let made = Notifier::new()?;
            self.watch(made.fd(), key(Kind::Inotify, 0, 0), Interest::Read)?;
            let _ = self.notifier.set(Rc::new(made));
        }
        self.notifier.get().expect("it was made just now").watch(path, change)
    }

    /// The changes of the watched files since the last call.
    pub(super) fn take_changes(&self) -> Changes {
        self.notifier.get().map(|notifier| notifier.take_changes()).unwrap_or_default()
    }

    /// Watches `fd`, until its last copy is closed.
    pub fn watch(&self, fd: impl AsFd, key: u64, interest: Interest) -> Result<()> {
        self.epoll.add(fd, EpollEvent::new(interest.flags(), key)).called(|| "epoll_ctl(EPOLL_CTL_ADD)".into())
    }

    /// Changes the events for which `fd` is watched.
    pub fn change(&self, fd: impl AsFd, key: u64, interest: Interest) -> Result<()> {
        self.epoll.modify(fd, &mut EpollEvent::new(interest.flags(), key)).called(|| "epoll_ctl(EPOLL_CTL_MOD)".into())
    }

    /// Stops watching. The descriptor need not be watched.
    pub fn forget(&self, fd: impl AsFd) {
        // The only error to expect is ENOENT: it is not watched.
        let _ = self.epoll.delete(fd);
    }

    /// The descriptor of the inotify instance, if there is one.
    pub(super) fn notifier_fd(&self) -> Option<BorrowedFd<'_>> {
        self.notifier.get().map(|notifier| notifier.fd())
    }

    /// An instance over another descriptor, for a test: over one that is no epoll instance, nothing can be watched.
    pub fn over(descriptor: OwnedFd) -> Poll {
        Poll { epoll: Epoll(descriptor), notifier: OnceCell::new() }
    }

    /// The descriptor itself.
    #[cfg(any(test, simulated))]
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }

    /// Waits until something is ready or the deadline has passed.
    pub fn wait(&self, deadline: Option<Instant>, found: &mut Vec<(u64, Ready)>) -> Result<()> {
        let mut events = [EpollEvent::empty(); BATCH];
        let n = epoll::wait(&self.epoll, &mut events, deadline).called(|| "epoll_wait()".into())?;
        found.extend(events.iter().take(n).map(|event| {
            let flags = event.events();
            let ready = Ready {
                read: flags.intersects(EpollFlags::EPOLLIN),
                write: flags.intersects(EpollFlags::EPOLLOUT),
                hangup: flags.intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR),
            };
            (event.data(), ready)
        }));
        Ok(())
    }
}
