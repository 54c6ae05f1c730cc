//! inotify(7): memory counters that change, fifos that are opened or read, and directories that lose entries.

use std::cell::RefCell;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::rc::Rc;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

use windlass_sys::{Called, Result};

/// The change that a watch waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// The file has new content.
    Content,
    /// A fifo was opened or read, or a reader has left.
    Reader,
    /// An entry was removed from a directory, or the directory was moved.
    Removal,
}

impl Change {
    fn flags(self) -> AddWatchFlags {
        match self {
            Change::Content => AddWatchFlags::IN_MODIFY,
            Change::Reader => AddWatchFlags::IN_OPEN | AddWatchFlags::IN_ACCESS | AddWatchFlags::IN_CLOSE_NOWRITE,
            Change::Removal => AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVE_SELF,
        }
    }
}

/// The changes since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) content: bool,
    pub(super) reader: bool,
    pub(super) removal: bool,
}

/// The inotify instance of the loop. There is only one, because a user can have few (`max_user_instances`).
#[derive(Debug)]
pub(super) struct Notifier {
    inotify: Inotify,
    /// How many users each watch has. The kernel has only one watch for an inode.
    used: RefCell<Vec<(WatchDescriptor, usize)>>,
}

impl Notifier {
    pub(super) fn new() -> Result<Notifier> {
        let inotify =
            Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).called(|| "inotify_init1()".into())?;
        Ok(Notifier { inotify, used: RefCell::default() })
    }

    /// Readable when something has changed.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }

    /// Begins to watch the inode at `path`.
    pub(super) fn watch(self: &Rc<Self>, path: &Path, change: Change) -> Result<Watch> {
        let flags = change.flags() | AddWatchFlags::from_bits_retain(libc::IN_MASK_ADD);
        let descriptor = self.inotify.add_watch(path, flags).called(|| format!("inotify_add_watch({path:?})"))?;
        let mut used = self.used.borrow_mut();
        match used.iter_mut().find(|(known, _)| *known == descriptor) {
            Some((_, count)) => *count += 1,
            None => used.push((descriptor, 1)),
        }
        Ok(Watch(Some((Rc::clone(self), descriptor))))
    }

    /// The changes, which are taken out of the kernel's queue.
    pub(super) fn take_changes(&self) -> Changes {
        let mut changes = Changes::default();
        while let Ok(events) = self.inotify.read_events() {
            for event in &events {
                let lost = event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW);
                changes.content |= lost || event.mask.intersects(Change::Content.flags());
                changes.reader |= lost || event.mask.intersects(Change::Reader.flags());
                changes.removal |= lost || event.mask.intersects(Change::Removal.flags());
            }
        }
        changes
    }
}

/// A watch. The kernel's watch ends when the last `Watch` of the same inode is dropped.
#[derive(Debug)]
pub(super) struct Watch(Option<(Rc<Notifier>, WatchDescriptor)>);

impl Watch {
    /// A watch that has ended with the previous program. The next one replaces it.
    pub(super) fn ended() -> Watch {
        Watch(None)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let Some((notifier, descriptor)) = self.0.take() else { return };
        let mut used = notifier.used.borrow_mut();
        let Some(at) = used.iter().position(|(known, _)| *known == descriptor) else { return };
        used[at].1 -= 1;
        if used[at].1 == 0 {
            used.swap_remove(at);
            // EINVAL: the file was removed, and the kernel's watch with it.
            let _ = notifier.inotify.rm_watch(descriptor);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_watches_of_one_file_end_apart() {
        let path = std::env::temp_dir().join(format!("windlass-notifier-{}", std::process::id()));
        std::fs::write(&path, "").expect("a file");
        let notifier = Rc::new(Notifier::new().expect("inotify"));
        let one = notifier.watch(&path, Change::Content).expect("watched");
        let two = notifier.watch(&path, Change::Content).expect("watched");
        drop(one);
        std::fs::write(&path, "x").expect("written");
        assert_eq!(notifier.take_changes(), Changes { content: true, ..Changes::default() });
        drop(two);
        std::fs::write(&path, "y").expect("written");
        assert_eq!(notifier.take_changes(), Changes::default());
        std::fs::remove_file(path).expect("removed");
    }
}
