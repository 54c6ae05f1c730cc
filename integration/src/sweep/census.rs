//! The objects on the machine in all places where a container could leave some.

use super::stage::LIMIT;
use crate::kit::machine::text;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Mounts, cgroups, files and processes by name, with the number of each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census(BTreeMap<String, u32>);

/// After this long without a change, the count is taken as final.
const STILL: Duration = Duration::from_secs(1);

/// The places to look at besides the mounts, cgroups and processes of the whole machine.
pub struct Places {
    /// State roots: everything below them counts.
    pub roots: Vec<PathBuf>,
    /// Directories whose entries count.
    pub directories: Vec<PathBuf>,
    /// The container's id, which is written as ID.
    pub id: String,
}

impl Census {
    /// Counts once.
    pub fn take(places: &Places) -> Census {
        let mut census = Census::default();
        for line in text("/proc/self/mountinfo").lines() {
            census.add(places, format!("mount {}", line.split(' ').nth(4).unwrap_or_default()));
        }
        for dir in below(Path::new("/sys/fs/cgroup"), true) {
            census.add(places, format!("cgroup {}", dir.display()));
        }
        for line in processes() {
            census.add(places, format!("process {line}"));
        }
        for path in places.roots.iter().flat_map(|root| below(root, false)) {
            census.add(places, format!("file {}", path.display()));
        }
        for dir in &places.directories {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                census.add(places, format!("file {}", entry.path().display()));
            }
        }
        census
    }

    fn add(&mut self, places: &Places, name: String) {
        *self.0.entry(plain(&name, &places.id)).or_insert(0) += 1;
    }

    /// The objects in this census and not in `other`.
    pub fn beyond(&self, other: &Census) -> Vec<String> {
        let more = self.0.iter().filter(|(name, count)| other.0.get(*name).copied().unwrap_or(0) < **count);
        more.map(|(name, _)| name.clone()).collect()
    }

    /// Counts until `settled`, because killed processes take a moment to go, and at most until nothing has changed for
    /// a second.
    pub fn settle(places: &Places, settled: impl Fn(&Census) -> bool) -> Census {
        let (begun, mut changed) = (Instant::now(), Instant::now());
        let mut nap = Duration::from_micros(500);
        let mut last = Census::default();
        loop {
            let census = Census::take(places);
            if census != last {
                changed = Instant::now();
            }
            if settled(&census) || changed.elapsed() > STILL || begun.elapsed() > LIMIT {
                return census;
            }
            last = census;
            sleep(nap);
            nap = (nap * 2).min(Duration::from_millis(20));
        }
    }
}

/// The line without differences between two runs: the id becomes `ID`; a long number and the number of a start socket
/// become `#`.
pub fn plain(text: &str, id: &str) -> String {
    let text = if id.is_empty() { text.to_owned() } else { text.replace(id, "ID") };
    let mut out = String::with_capacity(text.len());
    let mut digits = String::new();
    for c in text.chars().chain(std::iter::once('\0')) {
        if c.is_ascii_digit() {
            digits.push(c);
            continue;
        }
        // Short numbers are modes, counts and ids of users.
        let is_long = !digits.is_empty() && (digits.len() > 5 || out.ends_with("@start-"));
        out.push_str(if is_long { "#" } else { &digits });
        digits.clear();
        if c != '\0' {
            out.push(c);
        }
    }
    out
}

/// Everything below a directory, or its directories alone.
fn below(top: &Path, directories: bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![top.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_dir {
                todo.push(entry.path());
            }
            if is_dir || !directories {
                found.push(entry.path());
            }
        }
    }
    found
}

/// The command lines of all processes but this one and the harness's first.
fn processes() -> Vec<String> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_string_lossy().parse::<u32>().ok());
    let others = pids.filter(|pid| *pid > 1 && *pid != std::process::id());
    let line = |pid: u32| Some(text(format!("/proc/{pid}/cmdline")).replace('\0', " ")).filter(|line| !line.is_empty());
    others.filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::{Census, Places, plain};

    #[test]
    fn ids_and_long_numbers_are_the_same_in_all_runs() {
        assert_eq!(plain("/run/x/sweep-0017/@start-1234567 0755", "sweep-0017"), "/run/x/ID/@start-# 0755");
        assert_eq!(plain("state/@start-12", ""), "state/@start-#");
    }

    #[test]
    fn what_is_there_twice_is_one_more() {
        let places = Places { roots: Vec::new(), directories: Vec::new(), id: String::new() };
        let (mut one, mut two) = (Census::default(), Census::default());
        one.add(&places, "process a".to_owned());
        two.add(&places, "process a".to_owned());
        two.add(&places, "process a".to_owned());
        assert_eq!(two.beyond(&one), ["process a"]);
        assert!(one.beyond(&two).is_empty());
    }
}
