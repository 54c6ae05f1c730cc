//! The supervisor's part of inotify(7): readers that come to fifos, OOM kills, and the removal of a directory.

use std::path::Path;
use std::time::Instant;

use super::Event;
use super::notifier::{Change, Changes};
use super::supervisor::Supervisor;

impl Supervisor {
    /// Reports as [`Event::Removal`] from now on when an entry of this directory is removed.
    pub fn watch_directory(&mut self, directory: &Path) {
        // Without inotify the removal is not noticed, and everything else works.
        self.directory = self.poll.notify(directory, Change::Removal).ok();
    }

    /// Handles what inotify has reported.
    pub(super) fn inotify_ready(&mut self) {
        let changes = self.poll.take_changes();
        self.handle(changes);
    }

    /// Looks at everything that inotify watches, because its events may be lost.
    pub(super) fn rescan_watches(&mut self) {
        self.handle(Changes { content: true, reader: true, removal: self.directory.is_some() });
    }

    fn handle(&mut self, changes: Changes) {
        if changes.content {
            for container in self.containers.iter_mut() {
                if container.look_for_oom() {
                    self.events.push_back(Event::OutOfMemory { container: container.container.id.clone() });
                }
            }
        }
        if changes.reader {
            self.poll_fifo_readers(None);
        }
        if changes.removal {
            self.events.push_back(Event::Removal);
        }
    }

    /// Looks at the fifos that wait for a reader: at all, or with `due` at those whose pause is over.
    pub(super) fn poll_fifo_readers(&mut self, due: Option<Instant>) {
        let mut ended = Vec::new();
        for managed in self.processes.iter_mut() {
            let alive = managed.process.is_alive();
            let Some(streams) = &mut managed.streams else { continue };
            let waits = match due {
                None => streams.waits_for_readers(),
                Some(now) => streams.next_retry().is_some_and(|at| at <= now),
            };
            if waits {
                streams.poll_fifo_readers(&self.poll, &mut self.scratch, alive);
                ended.extend((!alive).then_some(managed.serial));
            }
        }
        ended.into_iter().for_each(|serial| self.continue_drain(serial));
    }
}
