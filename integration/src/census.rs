//! The objects on the machine before and after a case, in all places where a container or a shim could leave some.

use crate::harness;
use crate::kit::machine::{self, text};
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

/// The time limit for objects that go away by themselves: a process to be reaped, a cgroup to lose its last process,
/// the keys of a process that the kernel killed for want of memory.
const PATIENCE: Duration = Duration::from_secs(5);

/// The remains of other programs: the notes of mount(8), which cases use, and the FIFOs of a containerd or a ctr that a
/// case has killed.
const OF_OTHERS: [&str; 2] = ["/run/mount", "/run/containerd/fifo"];

/// The beginning of the line for an open file of the harness's first process.
const FIRST_PROCESS: &str = "descriptor of process 1: ";

/// A sorted line for each mount, cgroup, file and process. An object that exists several times has as many lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostCensus(Vec<String>);

/// The directories with the files of a case.
#[derive(Clone, Copy, Debug)]
pub struct CaseFiles<'a> {
    /// The directory of all cases. Files that a case leaves there are removed, except in the two below.
    pub work: &'a Path,
    /// The directories of this case in which containers and shims keep their states.
    pub states: &'a [PathBuf],
    /// Whether an empty directory in a state root counts. crun keeps some for its own use.
    pub directories: bool,
}

impl HostCensus {
    /// Counts now.
    pub fn take(places: &CaseFiles<'_>) -> HostCensus {
        let mut lines = Vec::new();
        // The whole line, because its options and its peer group must not change either.
        lines.extend(machine::mounts().lines().map(|line| format!("mount {line}")));
        lines.extend(machine::exit_pins().into_iter().map(|name| format!("exit pin {name}")));
        lines.extend(cgroups().into_iter().map(|path| format!("cgroup {path}")));
        lines.extend(processes());
        lines.extend(descriptors());
        lines.extend(text("/proc/net/unix").lines().skip(1).map(socket));
        lines.extend(
            text("/proc/net/dev").lines().filter_map(|line| Some(format!("interface {}", line.split_once(':')?.0))),
        );
        for kind in ["msg", "sem", "shm"] {
            lines.extend(text(format!("/proc/sysvipc/{kind}")).lines().skip(1).map(|line| format!("{kind} {line}")));
        }
        lines.extend(keys());
        lines.extend(files(Path::new("/run"), places.work, false));
        for root in places.states {
            lines.extend(files(root, Path::new(""), places.directories));
        }
        lines.sort();
        HostCensus(lines)
    }

    /// The names that exist only now, or only in this census. Objects that are about to go get a moment.
    pub fn difference(&self, places: &CaseFiles<'_>) -> Vec<String> {
        let mut waited = Duration::ZERO;
        let mut nap = Duration::from_millis(2);
        loop {
            let now = HostCensus::take(places);
            let mut differences = beyond(&now.0, &self.0);
            // The harness's first process may have had a file open for a moment, while it started this one.
            let gone = beyond(&self.0, &now.0).into_iter().filter(|line| !line.starts_with(FIRST_PROCESS));
            differences.extend(gone.map(|line| format!("no more: {line}")));
            if differences.is_empty() || waited > PATIENCE {
                return differences;
            }
            sleep(nap);
            waited += nap;
            nap = (nap * 2).min(Duration::from_millis(50));
        }
    }
}

/// The lines that one sorted list has more often than the other.
fn beyond(here: &[String], there: &[String]) -> Vec<String> {
    let mut rest = there.iter().peekable();
    let mut found = Vec::new();
    for line in here {
        while rest.peek().is_some_and(|other| *other < line) {
            rest.next();
        }
        if rest.peek().is_some_and(|other| *other == line) {
            rest.next();
        } else {
            found.push(line.clone());
        }
    }
    found
}

/// Every cgroup but the root's.
pub fn cgroups() -> Vec<String> {
    let mut found = Vec::new();
    let mut todo = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(dir) = todo.pop() {
        let entries = fs::read_dir(&dir).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            found.push(entry.path().display().to_string());
            todo.push(entry.path());
        }
    }
    found
}

/// Every process but kernel threads, with its namespaces.
fn processes() -> Vec<String> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_string_lossy().parse::<u32>().ok());
    let mut lines = Vec::new();
    for pid in pids {
        let line = text(format!("/proc/{pid}/cmdline")).replace('\0', " ");
        let is_zombie = || text(format!("/proc/{pid}/stat")).contains(") Z ");
        if !line.is_empty() {
            let links = fs::read_dir(format!("/proc/{pid}/ns")).into_iter().flatten().flatten();
            let links = links.filter_map(|entry| fs::read_link(entry.path()).ok());
            lines.extend(links.map(|link| format!("namespace {} of process {pid}", link.display())));
            lines.push(format!("process {pid} {line}"));
        } else if is_zombie() {
            lines.push(format!("zombie {pid}"));
        }
    }
    lines
}

/// The open files of the harness's first process and of this one. A case has its own processes, so a new file here was
/// passed or inherited.
fn descriptors() -> Vec<String> {
    let mut lines = Vec::new();
    for process in ["1", "self"] {
        let entries = fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
        let targets = entries.filter_map(|entry| fs::read_link(entry.path()).ok());
        // Leaves out the descriptor of the directory that is being read.
        let targets = targets.filter(|target| !target.ends_with("fd"));
        lines.extend(targets.map(|target| format!("descriptor of process {process}: {}", target.display())));
    }
    lines
}

/// A socket by its name, and the others by their type alone: their inodes come and go.
fn socket(line: &str) -> String {
    let fields: Vec<&str> = line.split_whitespace().collect();
    format!(
        "socket type {} state {} {}",
        fields.get(4).unwrap_or(&""),
        fields.get(5).unwrap_or(&""),
        fields.get(7).unwrap_or(&"")
    )
}

/// The keyrings that outlive their processes: those of users. If the kernel is our own, the number of all keys too;
/// elsewhere other processes change it.
fn keys() -> Vec<String> {
    let all = text("/proc/keys");
    let of_users = all.lines().filter_map(|line| line.split_once(" keyring ").map(|(_, name)| name));
    let of_users = of_users.filter(|name| name.starts_with("_uid") || name.starts_with("_persistent"));
    let mut lines: Vec<String> = of_users.map(|name| format!("keyring {name}")).collect();
    if std::env::var_os(harness::init::OWN_KERNEL).is_some() {
        let counts = |line: &str| line.split_whitespace().nth(2).map(|counts| format!("keys {counts} of {line}"));
        lines.extend(text("/proc/key-users").lines().filter_map(counts));
    }
    lines
}

/// The paths below a directory, except those below another.
fn files(top: &Path, except: &Path, directories: bool) -> Vec<String> {
    let (mut found, mut todo) = (Vec::new(), vec![top.to_owned()]);
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let (path, is_dir) = (entry.path(), entry.file_type().is_ok_and(|kind| kind.is_dir()));
            if path == except
                || path == Path::new(machine::EXIT_DIRECTORY)
                || OF_OTHERS.iter().any(|other| path == Path::new(other))
            {
                continue;
            }
            if directories || !is_dir {
                found.push(format!("file {}", path.display()));
            }
            if is_dir {
                todo.push(path);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{CaseFiles, HostCensus, beyond};
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener};
    use std::path::{Path, PathBuf};
    use std::{fs, process};

    fn lines(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn what_is_there_more_often_is_seen() {
        assert_eq!(beyond(&lines(&["a", "b", "b", "c"]), &lines(&["b", "c"])), lines(&["a", "b"]));
        assert!(beyond(&lines(&["b"]), &lines(&["a", "b", "b"])).is_empty());
    }

    /// Makes one object of each kind that needs no root. The census must show it, and not show it afterwards.
    #[test]
    fn what_a_case_leaves_is_seen() {
        let dir = std::env::temp_dir().join(format!("windlass-census-{}", process::id()));
        fs::create_dir_all(&dir).expect("a directory");
        let states = [dir.clone()];
        let places = CaseFiles { work: Path::new("/run"), states: &states, directories: true };
        let seen = |before: &HostCensus, what: &str| {
            let now = HostCensus::take(&places);
            let more = beyond(&now.0, &before.0);
            assert!(more.iter().any(|line| line.contains(what)), "{what} is not in {more:?}");
        };
        let before = HostCensus::take(&places);
        fs::create_dir(dir.join("id")).expect("a directory");
        seen(&before, "/id");
        let child = process::Command::new("sleep").arg("1000.25").spawn();
        let mut child = child.expect("a process");
        seen(&before, "sleep 1000.25");
        seen(&before, &format!("of process {}", child.id()));
        child.kill().expect("SIGKILL");
        while !fs::read_to_string(format!("/proc/{}/stat", child.id())).expect("a zombie").contains(") Z ") {}
        seen(&before, &format!("zombie {}", child.id()));
        child.wait().expect("its end");
        let file = fs::File::open("/proc/version").expect("a file");
        seen(&before, "self: /proc/version");
        drop(file);
        let name = SocketAddr::from_abstract_name(format!("census {}", process::id())).expect("a name");
        let socket = UnixListener::bind_addr(&name).expect("a socket");
        seen(&before, "@census");
        drop(socket);
        fs::remove_dir_all(&dir).expect("gone");
        let after = HostCensus::take(&places);
        let ours =
            |line: &String| line.contains("census") || line.contains("1000.25") || line.contains("/proc/version");
        assert!(!beyond(&after.0, &before.0).iter().any(ours));
        let _: PathBuf = dir;
    }
}
