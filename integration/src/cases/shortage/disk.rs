//! File systems without blocks or without inodes.

use super::limit::{Limit, Missing};
use super::verbs::{ShortageSubject, StatusBefore, VERBS};
use crate::ensure;
use crate::kit::stop::Context;
use crate::kit::{T, Verdict};
use serde_json::json;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The resource that a file system lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// Pages for content.
    Blocks,
    /// Entries.
    Inodes,
}

pub const LACKS: [Lack; 2] = [Lack::Blocks, Lack::Inodes];

/// A small tmpfs, gone when it is dropped.
pub struct Disk<'t> {
    t: &'t T,
    /// Where it is.
    pub at: PathBuf,
}

impl<'t> Disk<'t> {
    /// A file system with this many pages and inodes, the root's included.
    pub fn new(t: &'t T, at: &Path, blocks: u32, inodes: u32) -> Verdict<Disk<'t>> {
        fs::create_dir_all(at).context(at.display())?;
        let options = format!("size={},nr_inodes={inodes},mode=700", u64::from(blocks) * 4096);
        t.host("mount", &["-t", "tmpfs", "-o", &options, "tmpfs", &at.display().to_string()])?;
        Ok(Disk { t, at: at.to_owned() })
    }

    /// A file system with enough room for preparations. It is filled afterwards.
    pub fn roomy(t: &'t T, at: &Path) -> Verdict<Disk<'t>> {
        Disk::new(t, at, 64, 64)
    }

    /// A file system with this much of the scarce resource, and enough of the other.
    pub fn with(t: &'t T, at: &Path, lack: Lack, much: u32) -> Verdict<Disk<'t>> {
        match lack {
            Lack::Blocks => Disk::new(t, at, much, 64),
            Lack::Inodes => Disk::new(t, at, 64, much),
        }
    }

    /// Uses up all free room.
    pub fn fill(&self, lack: Lack) -> Verdict {
        match lack {
            Lack::Blocks => {
                let mut file = File::create(self.at.join(FILLER)).context("the filler")?;
                while file.write_all(&[0; 4096]).is_ok() {}
            }
            Lack::Inodes => {
                fs::create_dir(self.at.join(FILLER)).context("the filler")?;
                for number in 0.. {
                    if File::create(self.at.join(FILLER).join(number.to_string())).is_err() {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// The entries except the file that fills it.
    pub fn entries(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.at).into_iter().flatten().flatten().map(|entry| entry.path());
        entries.filter(|path| !path.ends_with(FILLER)).collect()
    }
}

/// The name of the file that fills a disk.
pub const FILLER: &str = "filler";

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        let _ = self.t.host("umount", &["-l", &self.at.display().to_string()]);
    }
}

/// Verbs that make a container, on a state root with a growing amount of room.
pub fn growing_state_root(t: &T) -> Verdict {
    let subject = ShortageSubject::new(t, |bundle| bundle)?;
    for lack in LACKS {
        for verb in VERBS.iter().filter(|verb| verb.before == StatusBefore::Nothing) {
            let mut enough = None;
            for much in 1..=24 {
                let disk = Disk::with(t, &t.root(), lack, much)?;
                let id = subject.prepare(verb.before)?;
                let (done, left) = (subject.attempt(verb.words, &id, Limit::World(Missing::Space)), disk.entries());
                subject.clean(&id)?;
                let done = done.context(format!("{} with {much} {lack:?}", verb.words[0]))?;
                ensure!(left.is_empty(), "left in the state root of {much} {lack:?}: {left:?}");
                if done {
                    enough = Some(much);
                    break;
                }
            }
            ensure!(enough.is_some(), "{} never succeeds", verb.words[0]);
            println!("{}: {enough:?} {lack:?}", verb.words.join(" "));
        }
    }
    Ok(())
}

/// All other verbs, on a state root that is filled before them.
pub fn filled_state_root(t: &T) -> Verdict {
    let subject = ShortageSubject::new(t, |bundle| bundle)?;
    for lack in LACKS {
        for verb in VERBS.iter().filter(|verb| verb.before != StatusBefore::Nothing) {
            let disk = Disk::roomy(t, &t.root())?;
            let id = subject.prepare(verb.before)?;
            disk.fill(lack)?;
            let done = subject.attempt(verb.words, &id, Limit::World(Missing::Space));
            let left = disk.entries();
            subject.clean(&id)?;
            let done = done.context(format!("{} without {lack:?}", verb.words[0]))?;
            ensure!(left.is_empty(), "left in the state root: {left:?}");
            ensure!(done || verb.before == StatusBefore::Created, "{} needs {lack:?}", verb.words.join(" "));
        }
    }
    Ok(())
}

/// The log and the pid file have no room.
pub fn beside(t: &T) -> Verdict {
    let subject = ShortageSubject::new(t, |bundle| bundle)?;
    for lack in LACKS {
        let disk = Disk::roomy(t, &t.path("small"))?;
        disk.fill(lack)?;
        for verb in VERBS {
            for log in [true, false] {
                let with_log = [&["--log", "DIR/small/log", "--log-format", "json"], verb.words].concat();
                let with_pid_file: Vec<&str> =
                    verb.words.iter().map(|word| if *word == "DIR/pid" { "DIR/small/pid" } else { *word }).collect();
                let words = if log { with_log } else { with_pid_file };
                let id = subject.prepare(verb.before)?;
                let done = subject.attempt(&words, &id, Limit::World(Missing::Space));
                subject.clean(&id)?;
                done.context(format!("{words:?} without {lack:?}"))?;
            }
        }
    }
    Ok(())
}

/// A volume without room, in which mount points, devices and the working directory are to be made.
pub fn volume(t: &T) -> Verdict {
    let at = t.path("small");
    let below = |bundle: crate::kit::Bundle| bundle.bind(&at, "/volume", &["rbind", "rw"]);
    let tmpfs = json!({"destination": "/volume/new/deep", "type": "tmpfs", "source": "tmpfs"});
    let device = json!([{"path": "/volume/node", "type": "c", "major": 1, "minor": 5}]);
    let copied = json!({"destination": "/bin", "type": "tmpfs", "source": "tmpfs",
        "options": ["tmpcopyup", "size=8k"]});
    let changes: [&dyn Fn(crate::kit::Bundle) -> crate::kit::Bundle; 4] = [
        &|bundle| below(bundle).mount(tmpfs.clone()),
        &|bundle| below(bundle).set("/linux/devices", device.clone()),
        &|bundle| below(bundle).set("/process/cwd", json!("/volume/here")),
        &|bundle| bundle.mount(copied.clone()),
    ];
    for (number, change) in changes.iter().enumerate() {
        let disk = Disk::roomy(t, &at)?;
        disk.fill(Lack::Inodes)?;
        let subject = ShortageSubject::new(t, change)?;
        for verb in VERBS.iter().filter(|verb| verb.before == StatusBefore::Nothing) {
            let id = subject.prepare(verb.before)?;
            let done = subject.attempt(verb.words, &id, Limit::World(Missing::Space));
            subject.clean(&id)?;
            let done = done.context(format!("{} with change {number}", verb.words[0]))?;
            ensure!(!done, "{} with change {number} succeeds without room", verb.words[0]);
        }
    }
    Ok(())
}
