//! Private namespaces on the host in which only cgroup2 is mounted.
//!
//! Three processes: [`run`] stays outside and cleans up; [`enter`] moves itself
//! into a new cgroup and unshares; [`as_pid_1`] is the first process of the new
//! pid namespace, sets up the mounts and starts the runner. When PID 1 ends, the
//! kernel kills what is left, so nothing outlives a run.

use super::{init, serial};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::sys::{prctl, signal::Signal};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Mutex, PoisonError};
use std::{fs, thread, time::Duration};

/// The beginning of the names of the harness's cgroups; the pid follows.
const NAME: &str = "windlass-integration-";

/// Where the harness mounts cgroup2.
const CGROUP: &str = "/sys/fs/cgroup";

/// Runs the runner in private namespaces.
pub fn run(words: &[String], on_line: &mut dyn FnMut(&str) -> bool) -> Result<(), String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("the host harness needs root".to_owned());
    }
    check_prerequisites()?;
    let mount = cgroup2_mount()?;
    remove_stale(&mount);
    let cgroup = mount.join(format!("{NAME}{}-{}", std::process::id(), serial::next()));
    fs::create_dir(&cgroup).map_err(|e| format!("mkdir {}: {e}", cgroup.display()))?;
    let controllers = Controllers::enable(&mount);
    let done = run_below(&cgroup, words, on_line);
    remove_cgroups(&cgroup);
    controllers.leave();
    done
}

/// Checks the needs of every container. Without this check, every case would fail with the error of its first call.
fn check_prerequisites() -> Result<(), String> {
    let mounts = crate::kit::machine::text("/proc/self/mountinfo");
    if !has_root(&mounts) {
        return Err(
            "there is no mount at / (the tree was entered by chroot and is not a mount itself): pivot_root(2) \
            and user namespaces do not work here. Bind the tree on itself first: mount --bind TREE TREE"
                .to_owned(),
        );
    }
    match crate::sys::make_user_namespace() {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            Err("no user namespace can be made here (unshare(CLONE_NEWUSER): EPERM). The kernel refuses it inside a \
                chroot (user_namespaces(7)): enter the tree by pivot_root(2), for example with systemd-nspawn"
                .to_owned())
        }
        Err(error) => Err(format!("no user namespace can be made here: {error}")),
        Ok(()) => Ok(()),
    }
}

/// Whether a mountinfo (proc_pid_mountinfo(5)) has a mount at `/`.
fn has_root(mounts: &str) -> bool {
    mounts.lines().any(|line| line.split(' ').nth(4) == Some("/"))
}

/// Removes the cgroups of earlier runs that were killed. A run in another PID namespace has no process of its number
/// here: what has processes is not removed either.
fn remove_stale(mount: &Path) {
    for entry in fs::read_dir(mount).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(NAME)?.split('-').next());
        let populated = || crate::kit::machine::text(entry.path().join("cgroup.events")).contains("populated 1");
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) && !populated() {
            remove_tree(&entry.path());
        }
    }
}

/// The controllers that are enabled in the root cgroup while a harness runs.
struct Controllers {
    control: PathBuf,
}

/// How many harnesses of this process run, and the controllers that the first of them enabled.
static ENABLED: Mutex<(usize, Vec<String>)> = Mutex::new((0, Vec::new()));

impl Controllers {
    /// Enables all controllers of the cgroup at `top` that are not enabled yet.
    fn enable(top: &Path) -> Controllers {
        let control = top.join("cgroup.subtree_control");
        let mut enabled = ENABLED.lock().unwrap_or_else(PoisonError::into_inner);
        let before = crate::kit::machine::text(&control);
        let offered = crate::kit::machine::text(top.join("cgroup.controllers"));
        let missing = offered.split_whitespace().filter(|name| !before.split_whitespace().any(|other| other == *name));
        // A cgroup that has processes itself refuses. Cases that need the controller then run in another harness.
        let new = missing.filter(|name| fs::write(&control, format!("+{name}")).is_ok()).map(str::to_owned);
        enabled.1.extend(new);
        enabled.0 += 1;
        Controllers { control }
    }

    /// Disables these controllers again, if this is the last harness.
    fn leave(self) {
        let mut enabled = ENABLED.lock().unwrap_or_else(PoisonError::into_inner);
        enabled.0 -= 1;
        if enabled.0 == 0 {
            for name in std::mem::take(&mut enabled.1) {
                let _ = fs::write(&self.control, format!("-{name}"));
            }
        }
    }
}

fn run_below(cgroup: &Path, words: &[String], on_line: &mut dyn FnMut(&str) -> bool) -> Result<(), String> {
    let mut child = Command::new("/proc/self/exe")
        .arg("@host-enter")
        .arg(cgroup)
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| format!("cannot start the harness: {e}"))?;
    let stdout = child.stdout.take().ok_or("no pipe to the harness")?;
    for line in BufReader::new(stdout).lines().map_while(Result::ok) {
        if !on_line(&line) {
            println!("{line}");
        }
    }
    let status = child.wait().map_err(|e| e.to_string())?;
    if status.success() { Ok(()) } else { Err(format!("the host harness ended with {status}")) }
}

/// The second process: joins the cgroup, unshares the namespaces and starts PID 1.
pub fn enter(words: &[String]) -> ExitCode {
    let (Some(cgroup), rest) = (words.first().map(PathBuf::from), words.get(1..).unwrap_or_default()) else {
        return ExitCode::from(125);
    };
    match unshare_below(&cgroup) {
        Ok(()) => spawn_pid_1(rest),
        Err(error) => {
            eprintln!("host harness: {error}");
            ExitCode::from(125)
        }
    }
}

fn unshare_below(cgroup: &Path) -> Result<(), String> {
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(|e| format!("PR_SET_PDEATHSIG: {e}"))?;
    let join = |dir: &Path| fs::write(dir.join("cgroup.procs"), "0").map_err(|e| format!("{}: {e}", dir.display()));
    join(cgroup)?;
    let flags = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWCGROUP;
    unshare(flags).map_err(|e| format!("unshare: {e}"))?;
    // The root of the cgroup namespace must hold no process, or enabling a
    // controller below it fails with EBUSY.
    let init = cgroup.join("init");
    fs::create_dir(&init).map_err(|e| format!("mkdir {}: {e}", init.display()))?;
    join(&init)
}

fn spawn_pid_1(words: &[String]) -> ExitCode {
    let status = Command::new("/proc/self/exe").arg("@host-pid-1").args(words).status();
    match status {
        Ok(status) => ExitCode::from(u8::try_from(status.code().unwrap_or(125)).unwrap_or(125)),
        Err(error) => {
            eprintln!("host harness: {error}");
            ExitCode::from(125)
        }
    }
}

/// The first process of the PID namespace.
pub fn as_pid_1(words: &[String]) -> ExitCode {
    if let Err(error) = private_mounts() {
        eprintln!("host harness: {error}");
        return ExitCode::from(125);
    }
    let code = init::supervise(words, Stdio::inherit());
    ExitCode::from(u8::try_from(code).unwrap_or(125))
}

fn private_mounts() -> Result<(), String> {
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(|e| format!("PR_SET_PDEATHSIG: {e}"))?;
    let propagate = |flags: MsFlags| {
        mount(None::<&str>, "/", None::<&str>, flags | MsFlags::MS_REC, None::<&str>)
            .map_err(|e| format!("propagation of /: {e}"))
    };
    propagate(MsFlags::MS_PRIVATE)?;
    // A new peer group, since systemd makes the root mount shared on a host that it boots.
    propagate(MsFlags::MS_SHARED)?;
    mount_fs("proc", "/proc", "")?;
    mount_fs("tmpfs", "/run", "mode=755")?;
    own_null_device()?;
    mount_fs("sysfs", "/sys", "")?;
    // The directories are there where the kernel has the security module.
    if Path::new("/sys/fs/selinux").exists() {
        mount_fs("selinuxfs", "/sys/fs/selinux", "")?;
    }
    if Path::new("/sys/module/apparmor").exists() {
        mount_fs("securityfs", "/sys/kernel/security", "")?;
    }
    mount_fs("cgroup2", CGROUP, "")?;
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
    up.map_err(|e| format!("ip: {e}"))?;
    nix::unistd::sethostname("harness").map_err(|e| format!("sethostname: {e}"))
}

/// Binds a null device of the harness over the host's. crun gives the files at 0, 1 and 2 to the user of the container,
/// and the host's `/dev/null` would then belong to that user.
fn own_null_device() -> Result<(), String> {
    const NODE: &str = "/run/null";
    let (kind, mode) = (SFlag::S_IFCHR, Mode::from_bits_truncate(0o666));
    let made = mknod(NODE, kind, mode, makedev(1, 3)).and_then(|()| chmod_all(NODE, mode));
    made.map_err(|e| format!("mknod {NODE}: {e}"))?;
    mount(Some(NODE), "/dev/null", None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .map_err(|e| format!("mount {NODE} at /dev/null: {e}"))
}

/// Sets the mode of a path, whatever the umask.
fn chmod_all(path: &str, mode: Mode) -> nix::Result<()> {
    nix::sys::stat::fchmodat(nix::fcntl::AT_FDCWD, path, mode, nix::sys::stat::FchmodatFlags::FollowSymlink)
}

fn mount_fs(kind: &str, at: &str, data: &str) -> Result<(), String> {
    // The mount that is there shows the host's namespaces. It is detached, so that no cgroup v1 mounts stay below the
    // new one.
    if kind != "tmpfs" {
        let _ = umount2(at, MntFlags::MNT_DETACH);
    }
    mount(Some(kind), at, Some(kind), MsFlags::empty(), Some(data)).map_err(|e| format!("mount {kind} at {at}: {e}"))
}

/// The first cgroup2 mount point that mountinfo lists.
fn cgroup2_mount() -> Result<PathBuf, String> {
    let table = fs::read_to_string("/proc/self/mountinfo").map_err(|e| format!("mountinfo: {e}"))?;
    let point = |line: &str| {
        let (mount, filesystem) = line.split_once(" - ")?;
        filesystem.starts_with("cgroup2 ").then(|| mount.split(' ').nth(4).map(PathBuf::from))?
    };
    table.lines().find_map(point).ok_or_else(|| "cgroup2 is not mounted anywhere on this host".to_owned())
}

/// Removes a cgroup tree, waiting a little for dying processes to leave it.
fn remove_cgroups(top: &Path) {
    for _ in 0..100 {
        remove_tree(top);
        if !top.exists() {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
    eprintln!("left behind: {}", top.display());
}

/// Removes a cgroup tree in one pass from the bottom. A cgroup that is busy stays.
pub fn remove_tree(dir: &Path) {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    for entry in entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
        remove_tree(&entry.path());
    }
    let _ = fs::remove_dir(dir);
}

#[cfg(test)]
mod tests {
    use std::fs;

    #[test]
    fn the_cgroups_of_a_run_in_another_pid_namespace_stay() {
        let mount = std::env::temp_dir().join(format!("windlass-stale-{}", std::process::id()));
        let run = |number: u32, events: &str| {
            // No process has this number: they end at PID_MAX_LIMIT, 2^22.
            let cgroup = mount.join(format!("{}{number}-0", super::NAME));
            fs::create_dir_all(cgroup.join("case")).expect("a directory");
            fs::write(cgroup.join("cgroup.events"), events).expect("a file");
            cgroup.join("case")
        };
        let (running, killed) = (run(9_999_998, "populated 1\n"), run(9_999_999, "populated 0\n"));
        super::remove_stale(&mount);
        let left = (running.exists(), killed.exists());
        let _ = fs::remove_dir_all(&mount);
        assert_eq!(left, (true, false));
    }

    #[test]
    fn a_tree_without_a_mount_at_its_root_is_known() {
        let proc = "40 30 0:22 / /proc rw,relatime - proc proc rw";
        assert!(!super::has_root(proc));
        assert!(super::has_root(&format!("30 1 8:1 / / rw - ext4 /dev/sda1 rw\n{proc}")));
    }
}
