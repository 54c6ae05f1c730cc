//! Files of the host that must not be touched, and a check of that.

use super::stop::{Context, Verdict};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The name of a file in the canary.
pub const FILE: &str = "precious";

/// The directory of the canary in which each name given to `new` is a directory.
pub const DIRECTORIES: &str = "directories";

/// The directory of the canary in which each name given to `new` is a file.
pub const FILES: &str = "files";

/// A directory tree under watch.
pub struct Canary {
    /// The top directory.
    pub dir: PathBuf,
    ids: BTreeSet<(u64, u64)>,
    before: Vec<String>,
    watch: Inotify,
}

impl Canary {
    /// Makes a canary at `dir`, whose two directories hold entries of these names: a lookup that is led there finds its
    /// next component.
    pub fn new(dir: PathBuf, names: &[&str]) -> Verdict<Canary> {
        fs::create_dir_all(dir.join(FILES)).context(dir.display())?;
        fs::write(dir.join(FILE), "precious")?;
        for name in names {
            fs::create_dir_all(dir.join(DIRECTORIES).join(name))?;
            fs::write(dir.join(FILES).join(name), "precious")?;
        }
        let watch = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let mut ids = BTreeSet::new();
        for path in everything(&dir) {
            let meta = fs::symlink_metadata(&path)?;
            ids.insert((meta.dev(), meta.ino()));
            if meta.is_dir() {
                watch.add_watch(&path, AddWatchFlags::IN_ALL_EVENTS)?;
            }
        }
        let before = facts(&dir);
        let canary = Canary { dir, ids, before, watch };
        canary.events();
        Ok(canary)
    }

    /// Whether this device and inode belong to the canary.
    pub fn has(&self, id: (u64, u64)) -> bool {
        self.ids.contains(&id)
    }

    /// The changes to the canary since the last call; `None` if there are none.
    pub fn complaint(&self) -> Option<String> {
        let events = self.events();
        let now = facts(&self.dir);
        // Reading the directories is an event as well.
        self.events();
        let changed: Vec<_> = now.iter().filter(|line| !self.before.contains(line)).collect();
        let gone: Vec<_> = self.before.iter().filter(|line| !now.contains(line)).collect();
        let quiet = events.is_empty() && changed.is_empty() && gone.is_empty();
        (!quiet).then(|| format!("events {events:?}, there now {changed:?}, no longer {gone:?}"))
    }

    /// [`complaint`](Self::complaint) about changes only: opening and reading are allowed.
    pub fn change(&self) -> Option<String> {
        self.events();
        let now = facts(&self.dir);
        self.events();
        (now != self.before).then(|| format!("{:?} has become {now:?}", self.before))
    }

    fn events(&self) -> Vec<String> {
        let mut seen = Vec::new();
        while let Ok(events) = self.watch.read_events() {
            seen.extend(events.into_iter().map(|event| format!("{:?} {:?}", event.mask, event.name)));
        }
        seen
    }
}

/// A directory and all below it.
fn everything(dir: &Path) -> Vec<PathBuf> {
    let (mut found, mut todo) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(path) = todo.pop() {
        if path.is_dir() && !path.is_symlink() {
            todo.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
        }
        found.push(path);
    }
    found.sort();
    found
}

/// A line for each entry. The time of the last change covers content, mode, owner and extended attributes.
fn facts(dir: &Path) -> Vec<String> {
    let line = |path: PathBuf| {
        let mut line = path.display().to_string();
        if let Ok(m) = fs::symlink_metadata(&path) {
            let times = (m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec());
            let _ = write!(
                line,
                " {:o} {}:{} {} {} {} {times:?}",
                m.mode(),
                m.uid(),
                m.gid(),
                m.size(),
                m.nlink(),
                m.ino()
            );
        }
        line
    };
    everything(dir).into_iter().map(line).collect()
}
