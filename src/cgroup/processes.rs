//! Listing the processes in a cgroup and below it, and sending them signals.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::directory::{Directory, if_there, to_end};
use windlass_base::error::{self, WithContext};
use windlass_sys::{Result, SyscallError, fd, process, status, tree};

/// The ids of the processes in a cgroup, and with `recursive` in its sub-cgroups: sorted, without duplicates. The tree
/// may be of any depth. A process outside of this PID namespace has no id here and is left out.
///
/// A threaded cgroup does not list processes; the nearest ancestor that is not threaded lists them (cgroup-v2.rst,
/// "Threads"). If that ancestor is above `directory`, the processes are found by their threads.
pub(super) fn pids_of(directory: &Directory, recursive: bool) -> Result<Vec<i32>> {
    let mut pids = Vec::new();
    collect(directory, recursive, &mut pids)?;
    sort(&mut pids);
    Ok(pids)
}

/// Appends the ids that [`pids_of`] finds, unsorted. After an error, `pids` has the ids that were found before.
pub(super) fn collect(directory: &Directory, recursive: bool, pids: &mut Vec<i32>) -> Result<()> {
    let threads = match list(directory, PROCS, pids) {
        Err(failed) if failed.errno == Errno::EOPNOTSUPP => true,
        other => other.map(|()| false)?,
    };
    if threads {
        list(directory, THREADS, pids)?;
    }
    if recursive {
        let file = if threads { THREADS } else { PROCS };
        let below = tree::visit(directory.as_fd(), |dir, depth| match depth {
            0 => Ok(()),
            _ => match list(dir, file, pids) {
                Err(SyscallError { errno: Errno::EOPNOTSUPP, .. }) => Ok(()),
                result => result,
            },
        });
        if_there(below)?;
    }
    if threads {
        *pids = std::mem::take(pids).into_iter().filter_map(|thread| Some(status::of(thread)?.tgid)).collect();
    }
    Ok(())
}

/// Sorts process ids and removes duplicates, and the zeros of processes outside our PID namespace.
pub(super) fn sort(pids: &mut Vec<i32>) {
    pids.retain(|pid| *pid > 0);
    pids.sort_unstable();
    pids.dedup();
}

const PROCS: &str = "cgroup.procs";
const THREADS: &str = "cgroup.threads";

/// Appends the ids in a file of a cgroup; none if the cgroup was removed.
fn list(dir: impl AsFd, file: &str, pids: &mut Vec<i32>) -> Result<()> {
    let read = || to_end(&fd::openat(dir.as_fd(), file, OFlag::O_RDONLY, 0)?, || file.to_owned());
    let text = if_there(read())?.unwrap_or_default();
    pids.extend(text.lines().filter_map(|pid| pid.parse::<i32>().ok()));
    Ok(())
}

/// How many descriptors of processes are open at once, since descriptors are limited.
const AT_ONCE: usize = 256;

/// A process's id and its pidfd.
type Opened = (i32, OwnedFd);

/// Descriptors that a list of the processes takes.
const LIST: usize = 4;

/// Opens the first processes of a list as far as there are descriptors for them and for another list. Returns them, and
/// the others. A process that has ended is left out.
fn open_some(pids: &[i32]) -> Result<(Vec<Opened>, &[i32])> {
    let (mut opened, mut at) = (Vec::new(), 0);
    let _list = (0..LIST).map_while(|_| fd::open("/", OFlag::O_PATH).ok()).collect::<Vec<_>>();
    while let Some(&pid) = pids.get(at).filter(|_| opened.len() < AT_ONCE) {
        match if pid > 0 { process::open_pid(pid).map(Some) } else { Ok(None) } {
            Ok(pidfd) => opened.extend(pidfd.map(|pidfd| (pid, pidfd))),
            // It has ended; or its number is that of a thread by now, which has two answers.
            Err(SyscallError { errno: Errno::ESRCH | Errno::EINVAL | Errno::ENOENT, .. }) => {}
            Err(SyscallError { errno: Errno::EMFILE | Errno::ENFILE, .. }) if !opened.is_empty() => break,
            Err(failed) => return Err(failed),
        }
        at += 1;
    }
    Ok((opened, &pids[at..]))
}

/// Sends a signal to those of `pids` that `listed` still has. That a process has ended is no error.
///
/// Between the list and its use, a number may have been given to another process. So the processes are opened first,
/// and only those whose numbers are listed afterwards get the signal. Numbers below 1 are left out: to kill(2) they are
/// process groups, 0 that of the caller.
pub fn signal_each(pids: &[i32], signal: i32, listed: &dyn Fn() -> error::Result<Vec<i32>>) -> error::Result<()> {
    let mut left = pids;
    while !left.is_empty() {
        let (opened, rest) = open_some(left).with_context(|| format!("cannot send signal {signal}"))?;
        left = rest;
        let mut listed = listed()?;
        listed.sort_unstable();
        for (pid, pidfd) in opened.iter().filter(|(pid, _)| listed.binary_search(pid).is_ok()) {
            match process::send_signal(pidfd.as_fd(), signal) {
                Err(failed) if failed.errno != Errno::ESRCH => {
                    return Err(failed.context(format!("cannot send signal {signal} to {pid}")));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;
    use windlass_sys::poll;

    const SIGKILL: i32 = nix::sys::signal::Signal::SIGKILL as i32;

    /// A directory that looks like a cgroup.
    struct Fake(PathBuf);

    impl Fake {
        fn new(name: &str) -> Fake {
            let path = std::env::temp_dir().join(format!("windlass-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).expect("made");
            Fake(path)
        }

        fn procs(&self, below: &str, text: &str) {
            let dir = self.0.join(below);
            std::fs::create_dir_all(&dir).expect("made");
            std::fs::write(dir.join(PROCS), text).expect("written");
        }

        fn pids(&self, recursive: bool) -> Vec<i32> {
            let directory = Directory::open(self.0.to_str().expect("text")).expect("open");
            pids_of(&directory, recursive).expect("listed")
        }
    }

    impl Drop for Fake {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn every_process_is_listed_once_and_none_without_a_number() {
        let fake = Fake::new("procs");
        fake.procs("", "7\n0\n3\n");
        fake.procs("a/b", "12\n3\n0\n");
        fake.procs("c", "5\n");
        assert_eq!(fake.pids(false), [3, 7]);
        assert_eq!(fake.pids(true), [3, 5, 7, 12]);
    }

    #[test]
    fn nothing_is_killed_by_a_number_that_names_no_process() {
        // 0 and -1 would end this test, and everything.
        let none = [0, -1, i32::MIN];
        signal_each(&none, SIGKILL, &|| Ok(none.to_vec())).expect("left out");
    }

    /// In a process of its own, since its descriptors are limited.
    #[test]
    fn a_signal_needs_few_descriptors() {
        const INNER: &str = "WINDLASS_TEST_FEW_DESCRIPTORS";
        if std::env::var_os(INNER).is_none() {
            let name = "processes::tests::a_signal_needs_few_descriptors";
            let inner = std::process::Command::new("sh")
                .args(["-c", "ulimit -n 16; exec \"$@\"", "sh"])
                .arg(std::env::current_exe().expect("a program"))
                .args(["--exact", name, "--test-threads=1"])
                .env(INNER, "1")
                .output()
                .expect("started");
            let told = String::from_utf8_lossy(&inner.stdout);
            assert!(inner.status.success() && told.contains("1 passed"), "{told}");
            return;
        }
        let sleep = || std::process::Command::new("sleep").arg("1000").spawn().expect("a process");
        let mut children: Vec<_> = (0..40).map(|_| sleep()).collect();
        let pids: Vec<i32> = children.iter().map(|child| child.id() as i32).collect();
        signal_each(&pids, SIGKILL, &|| {
            // A list takes some.
            let taken: std::io::Result<Vec<_>> = (0..3).map(|_| std::fs::File::open("/")).collect();
            Ok(taken.map(|_| pids.clone()).expect("descriptors"))
        })
        .expect("killed");
        assert!(children.iter_mut().all(|child| !child.wait().expect("its end").success()));
    }

    #[test]
    fn what_is_not_listed_any_more_is_not_killed() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().expect("a process");
        let pid = child.id() as i32;
        // As if the number had become another's.
        signal_each(&[pid], SIGKILL, &|| Ok(Vec::new())).expect("left alone");
        let pidfd = process::open_pid(pid).expect("it runs");
        let soon = poll::Deadline::after(std::time::Duration::from_millis(500));
        assert!(!poll::readable(pidfd.as_fd(), soon).expect("waited"), "it was killed");
        signal_each(&[i32::MAX, pid], SIGKILL, &|| Ok(vec![pid])).expect("killed");
        assert!(!child.wait().expect("its end").success());
    }
}
