//! What the supervisor learns by inotify(7): readers that come to fifos, memory that ran out, and the removal
//! of a directory.

use std::path::Path;
use std::time::Instant;

use super::Event;
use super::notifier::Change;
use super::oom::{self, OomWatch};
use super::supervisor::Supervisor;

impl Supervisor {
    /// From now on [`Event::Removal`] tells when something is removed from this directory.
    pub fn watch_directory(&mut self, directory: &Path) {
        // Without inotify the removal is not noticed; everything else works.
        self.directory = self.poll.notify(directory, Change::Removal).ok();
    }

    /// Handles what inotify has reported.
    pub(super) fn news(&mut self) {
        let news = self.poll.news();
        if news.content {
            (0..self.containers.len()).for_each(|at| self.look_for_oom(at));
        }
        if news.reader {
            self.look_for_readers(None);
        }
        if news.removal {
            self.events.push_back(Event::Removal);
        }
    }

    /// Goes on with the fifos that wait for a reader: all, or those whose time has come.
    pub(super) fn look_for_readers(&mut self, due: Option<Instant>) {
        let mut moved = Vec::new();
        for process in &mut self.processes {
            let alive = process.is_alive();
            let Some(streams) = &mut process.streams else { continue };
            let waits = match due {
                None => streams.waits_for_readers(),
                Some(now) => streams.look_at().is_some_and(|at| at <= now),
            };
            if waits {
                streams.look_for_readers(&self.poll, &mut self.scratch, alive);
                moved.extend((!alive).then_some(process.serial));
            }
        }
        moved.into_iter().for_each(|serial| self.drained(serial));
    }

    /// Takes the news of the container's memory into account.
    pub(super) fn look_for_oom(&mut self, at: usize) {
        let known = &mut self.containers[at];
        if known.oom.as_mut().is_some_and(|watch| watch.news() > 0) {
            known.oom_killed = true;
            self.events.push_back(Event::OutOfMemory { container: known.container.id.clone() });
        }
    }

    /// Begins to watch a container's memory; without a controller there is nothing to watch.
    pub(super) fn watch_memory(&mut self, container: &str, pid: i32) {
        let Some(at) = self.containers.iter().position(|known| &*known.container.id == container) else { return };
        self.containers[at].cgroup = oom::directory(pid);
        if self.containers[at].oom.is_some() {
            return;
        }
        self.containers[at].oom = OomWatch::of(pid);
        if let Some(watch) = &mut self.containers[at].oom {
            watch.notify(&self.poll);
        }
    }
}
