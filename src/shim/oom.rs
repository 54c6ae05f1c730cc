//! Whether the kernel has killed processes of a container for want of memory.
//!
//! In cgroup v2 the count is in `memory.events`, and inotify reports its changes. In cgroup v1 it is in
//! `memory.oom_control`, which is read when a process has ended.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use super::notifier::{Change, Watch};
use super::poll::Poll;
use windlass_sys::{fd, tree};

/// The counter of OOM kills of a container's cgroup.
#[derive(Debug)]
pub struct OomWatch {
    file: PathBuf,
    told: u64,
    watch: Option<Watch>,
}

impl OomWatch {
    /// The counter of the cgroup of `pid`. `None`: it has no memory controller.
    pub fn of(pid: i32) -> Option<OomWatch> {
        let file = file_of(pid)?;
        let told = kills(&file)?;
        Some(OomWatch { file, told, watch: None })
    }

    /// Has changes reported from now on. In cgroup v1 the kernel reports none.
    pub(super) fn notify(&mut self, poll: &Poll) {
        self.watch = poll.notify(&self.file, Change::Content).ok();
    }

    /// How many more processes were killed since the last call.
    pub fn news(&mut self) -> u64 {
        let now = kills(&self.file).unwrap_or(self.told);
        let news = now.saturating_sub(self.told);
        self.told = self.told.max(now);
        news
    }
}

/// The directory of the cgroup of a process: in the unified hierarchy, or in one of version 1. `None`: the process
/// is in the root cgroup.
pub fn directory(pid: i32) -> Option<PathBuf> {
    if let Some(dir) = unified(pid) {
        return Some(dir);
    }
    let text = fd::read_small(fd::CWD, format!("/proc/{pid}/cgroup")).ok()?;
    let text = String::from_utf8_lossy(&text);
    text.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(":/")?;
        let dir = Path::new("/sys/fs/cgroup").join(controllers).join(path);
        (!path.is_empty() && dir.join("cgroup.procs").exists()).then_some(dir)
    })
}

/// The processes in a cgroup and in those below it, however deep the tree is that the container has made.
pub fn members(dir: &Path) -> Vec<i32> {
    let mut pids = Vec::new();
    let walked = fd::open(dir, OFlag::O_PATH | OFlag::O_DIRECTORY).and_then(|top| {
        tree::visit(top.as_fd(), |dir, _| {
            // A threaded cgroup lists no processes, and one that is removed meanwhile has none.
            let text =
                fd::openat(dir, "cgroup.procs", OFlag::O_RDONLY, 0).and_then(|file| fd::read_all(file, fd::DOCUMENT));
            let text = text.unwrap_or_default();
            pids.extend(String::from_utf8_lossy(&text).lines().filter_map(|line| line.parse::<i32>().ok()));
            Ok(())
        })
    });
    // If the container moves a directory during the walk, the result is what was found before.
    if let Err(failed) = walked {
        ::log::debug!("cannot list all processes below {dir:?}: {failed}");
    }
    pids
}

/// The directory of the cgroup of a process in the unified hierarchy. `None`: it is in the root cgroup.
pub fn unified(pid: i32) -> Option<PathBuf> {
    let text = fd::read_small(fd::CWD, format!("/proc/{pid}/cgroup")).ok()?;
    let text = String::from_utf8_lossy(&text);
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .iter()
        .find(|root| !path.is_empty() && Path::new(root).join("cgroup.procs").exists())
        .map(|root| Path::new(root).join(path))
}

fn file_of(pid: i32) -> Option<PathBuf> {
    if let Some(file) = unified(pid).map(|dir| dir.join("memory.events")).filter(|file| file.exists()) {
        return Some(file);
    }
    let text = fd::read_small(fd::CWD, format!("/proc/{pid}/cgroup")).ok()?;
    let text = String::from_utf8_lossy(&text);
    let path = text.lines().find_map(|line| line.split_once(":memory:/").map(|(_, path)| path))?;
    let file = Path::new("/sys/fs/cgroup/memory").join(path).join("memory.oom_control");
    file.exists().then_some(file)
}

fn kills(file: &Path) -> Option<u64> {
    let text = fd::read_small(fd::CWD, file).ok()?;
    count(&String::from_utf8_lossy(&text))
}

/// The value of `oom_kill`, which both files have.
fn count(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")).and_then(|n| n.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_found_at_any_depth() {
        let top = std::env::temp_dir().join(format!("windlass-members-{}", std::process::id()));
        std::fs::create_dir(&top).expect("made");
        let mut at = fd::open(&top, OFlag::O_RDONLY).expect("opened");
        // The path is longer than PATH_MAX.
        let name = "d".repeat(200);
        for pid in 1..=60 {
            fd::mkdirat(at.as_fd(), &name, 0o700).expect("made");
            at = fd::openat(at.as_fd(), &name, OFlag::O_RDONLY, 0).expect("opened");
            let file = fd::make_new(at.as_fd(), "cgroup.procs", 0o600).expect("made");
            fd::write_once(file.as_fd(), format!("{pid}\n").as_bytes()).expect("written");
        }
        let found = members(&top);
        tree::remove(fd::CWD, &top, tree::Files::Unlink).expect("removed");
        assert_eq!(found, (1..=60).collect::<Vec<i32>>());
    }

    #[test]
    fn both_versions_count_kills_by_the_same_word() {
        assert_eq!(count("low 0\nhigh 0\nmax 3\noom 2\noom_kill 1\noom_group_kill 0\n"), Some(1));
        assert_eq!(count("oom_kill_disable 0\nunder_oom 0\noom_kill 4\n"), Some(4));
        assert_eq!(count("oom_kill_disable 0\nunder_oom 0\n"), None);
    }
}
