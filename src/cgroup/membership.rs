//! The cgroups that a process is in, and what a shim reads of them.
//!
//! A shim knows a container by the process id of its init, not by a path: the runtime may be another program. It never
//! looks further than the usual mount points, because it reads these files for each container and each end.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use super::directory::{Directory, number_after};
use super::processes;
use windlass_sys::{Called, Result, directory, fd};

/// Where hosts mount cgroups.
const ROOT: &str = "/sys/fs/cgroup";

/// The content of `/proc/PID/cgroup` (cgroups(7)): lines `hierarchy:controllers:path`.
#[derive(Debug)]
pub struct Membership(String);

impl Membership {
    /// Reads the membership of a process.
    pub fn of(pid: i32) -> Result<Membership> {
        let text = fd::read_small(fd::CWD, format!("/proc/{pid}/cgroup"))?;
        Ok(Membership::parse(&String::from_utf8_lossy(&text)))
    }

    /// Takes the content of the file.
    pub fn parse(text: &str) -> Membership {
        Membership(text.to_owned())
    }

    /// The directory in the unified hierarchy. `None` for the root cgroup, and if cgroup2 is not mounted at a usual
    /// place.
    pub fn unified(&self) -> Option<PathBuf> {
        let path = self.0.lines().find_map(|line| line.strip_prefix("0::/")).filter(|path| !path.is_empty())?;
        let roots = [Path::new(ROOT).to_owned(), Path::new(ROOT).join("unified")];
        roots.into_iter().find(|root| root.join("cgroup.procs").exists()).map(|root| root.join(path))
    }

    /// The hierarchies of version 1, mounted below `root`: their controllers, separated by commas, and the directory in
    /// each.
    pub fn v1(&self, root: &Path) -> impl Iterator<Item = (&str, PathBuf)> {
        let lines = self.0.lines().filter_map(|line| line.split_once(':')?.1.split_once(":/"));
        lines.map(move |(controllers, path)| (controllers, root.join(controllers).join(path)))
    }

    /// A directory that lists the processes: the unified one, or one of version 1. `None` for the root cgroup.
    pub fn directory(&self) -> Option<PathBuf> {
        self.unified().or_else(|| {
            let root = Path::new(ROOT);
            let below_root = |(controllers, dir): &(&str, PathBuf)| *dir != root.join(controllers);
            self.v1(root).filter(below_root).map(|(_, dir)| dir).find(|dir| dir.join("cgroup.procs").exists())
        })
    }

    /// The file that counts OOM kills: `memory.events` of version 2, or `memory.oom_control` of version 1. `None`
    /// without a memory controller.
    pub fn oom_file(&self) -> Option<PathBuf> {
        let unified = self.unified().map(|dir| dir.join("memory.events")).filter(|file| file.exists());
        unified.or_else(|| {
            let (_, dir) = self.v1(Path::new(ROOT)).find(|(controllers, _)| *controllers == "memory")?;
            Some(dir.join("memory.oom_control")).filter(|file| file.exists())
        })
    }
}

/// How many processes the kernel has killed for want of memory, according to [`Membership::oom_file`].
pub fn oom_kills(file: &Path) -> Option<u64> {
    let text = fd::read_small(fd::CWD, file).ok()?;
    number_after(&String::from_utf8_lossy(&text), "oom_kill")
}

/// The processes in the cgroup `dir` and below it. If the container moves a directory meanwhile, the result may be
/// incomplete.
pub fn members(dir: &Path) -> Vec<i32> {
    let Ok(directory) = Directory::open(&dir.to_string_lossy()) else { return Vec::new() };
    let mut pids = Vec::new();
    let _ = processes::collect(&directory, true, &mut pids);
    processes::sort(&mut pids);
    pids
}

/// Moves a process into the cgroup `path`, which is made if it does not exist: in the unified hierarchy if it is the
/// only one, otherwise in every mounted hierarchy.
pub fn add_process(path: &str, pid: i32) -> Result<()> {
    let root = Path::new(ROOT);
    let hierarchies: Vec<PathBuf> = match root.join("cgroup.controllers").exists() {
        true => vec![root.into()],
        false => {
            let names = directory::names(fd::open(root, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?.as_fd())?;
            names.iter().map(|name| root.join(name)).collect()
        }
    };
    for hierarchy in hierarchies.iter().filter(|hierarchy| hierarchy.join("cgroup.procs").exists()) {
        let directory = hierarchy.join(path.trim_start_matches('/'));
        std::fs::create_dir_all(&directory).called(|| format!("mkdir({directory:?})"))?;
        let file = directory.join("cgroup.procs");
        fd::write_once(fd::open(file, OFlag::O_WRONLY)?.as_fd(), pid.to_string().as_bytes())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use windlass_sys::tree;

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
        let count = |text: &str| number_after(text, "oom_kill");
        assert_eq!(count("low 0\nhigh 0\nmax 3\noom 2\noom_kill 1\noom_group_kill 0\n"), Some(1));
        assert_eq!(count("oom_kill_disable 0\nunder_oom 0\noom_kill 4\n"), Some(4));
        assert_eq!(count("oom_kill_disable 0\nunder_oom 0\n"), None);
    }

    #[test]
    fn each_line_of_version_1_is_a_directory() {
        let membership = Membership::parse("4:cpu,cpuacct:/a\n2:name=systemd:/b\n");
        let found: Vec<_> = membership.v1(Path::new("/r")).collect();
        assert_eq!(found, [("cpu,cpuacct", "/r/cpu,cpuacct/a".into()), ("name=systemd", "/r/name=systemd/b".into())]);
    }
}
