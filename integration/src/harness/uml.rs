//! A User-Mode Linux kernel with every controller that Debian built into it.
//!
//! The kernel runs as an ordinary process on the host's file tree (hostfs, mounted read-only) with this program as its
//! init. The request is a file in a work directory. Result lines come back over the console, so a boot that dies
//! half-way does not lose them.

use super::init::{self, WORKDIR};
use super::serial;
use nix::mount::{MsFlags, mount};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::{env, fs};

/// Seconds after which a boot is given up.
const TIMEOUT: &str = "900";

/// Memory of the guest; backed by a file in `/dev/shm`.
const MEMORY: &str = "mem=1G";

/// Boots a kernel whose init starts the runner with `words`.
pub fn run(words: &[String], on_line: &mut dyn FnMut(&str) -> bool) -> Result<(), String> {
    let work = env::temp_dir().join(format!("windlass-uml-{}-{}", std::process::id(), serial::next()));
    fs::create_dir_all(&work).map_err(|e| format!("mkdir {}: {e}", work.display()))?;
    let done = boot(&work, words, on_line);
    let _ = fs::remove_dir_all(&work);
    done
}

fn boot(work: &Path, words: &[String], on_line: &mut dyn FnMut(&str) -> bool) -> Result<(), String> {
    fs::write(work.join("args"), words.join("\n")).map_err(|e| format!("request: {e}"))?;
    let disk = work.join("disk");
    fs::File::create(&disk).and_then(|file| file.set_len(16 << 20)).map_err(|e| format!("disk: {e}"))?;
    let me = env::current_exe().map_err(|e| format!("/proc/self/exe: {e}"))?;
    let mut child = Command::new("timeout")
        .args(["-k", "1", TIMEOUT, "setpriv", "--pdeathsig", "KILL", "linux.uml", MEMORY])
        .args(["root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", "panic=-1", "quiet"])
        .args(["con=null", "con0=fd:0,fd:1", "apparmor=1", "lsm=capability,yama,apparmor"])
        .arg(format!("init={}", me.display()))
        .arg(format!("ubd0={}", disk.display()))
        .arg(format!("{WORKDIR}={}", work.display()))
        .env("TMPDIR", "/dev/shm")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| format!("cannot start User-Mode Linux: {e}"))?;
    let stdout = child.stdout.take().ok_or("no pipe to the kernel")?;
    let (mut ended, mut console) = (None, Vec::new());
    for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        match line.strip_prefix("@end ") {
            Some(code) => ended = Some(code.to_owned()),
            None if on_line(&line) => {}
            None => console.push(line),
        }
    }
    let status = child.wait().map_err(|e| e.to_string())?;
    match ended.as_deref() {
        Some("0") => Ok(()),
        Some(code) => Err(format!("the runner in User-Mode Linux ended with {code}: {}", tail(&console))),
        None => Err(format!("User-Mode Linux ended early ({status}): {}", tail(&console))),
    }
}

fn tail(console: &[String]) -> String {
    console[console.len().saturating_sub(12)..].join(" | ")
}

/// Init of the guest: file systems, the runner, power off.
pub fn as_pid_1() -> ExitCode {
    let work = env::var(WORKDIR).unwrap_or_default();
    let code = match set_up() {
        Ok(()) => {
            let words = fs::read_to_string(Path::new(&work).join("args")).unwrap_or_default();
            let words: Vec<String> = words.lines().map(str::to_owned).collect();
            init::supervise(&words, Stdio::inherit())
        }
        Err(error) => {
            println!("{error}");
            125
        }
    };
    println!("@end {code}");
    let _ = nix::sys::reboot::reboot(nix::sys::reboot::RebootMode::RB_POWER_OFF);
    ExitCode::FAILURE
}

fn set_up() -> Result<(), String> {
    // As on a host with systemd.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SHARED, None::<&str>)
        .map_err(|e| format!("propagation of /: {e}"))?;
    let table = [
        ("proc", "/proc", ""),
        ("sysfs", "/sys", ""),
        ("devtmpfs", "/dev", ""),
        ("devpts", "/dev/pts", "gid=5,mode=620,ptmxmode=666"),
        ("tmpfs", "/dev/shm", ""),
        ("mqueue", "/dev/mqueue", ""),
        ("tmpfs", "/run", "mode=755"),
        ("cgroup2", "/sys/fs/cgroup", "nsdelegate"),
        ("securityfs", "/sys/kernel/security", ""),
    ];
    for (kind, at, data) in table {
        // Every case needs only the three below; cases that use the others look for them.
        let _ = fs::create_dir_all(at);
        if let Err(error) = mount(Some(kind), at, Some(kind), MsFlags::empty(), Some(data))
            && ["proc", "tmpfs", "cgroup2"].contains(&kind)
        {
            return Err(format!("mount {kind} at {at}: {error}"));
        }
    }
    for (target, link) in
        [("pts/ptmx", "ptmx"), ("/proc/self/fd", "fd"), ("/proc/self/fd/0", "stdin"), ("/proc/self/fd/1", "stdout")]
    {
        let _ = fs::remove_file(Path::new("/dev").join(link));
        let _ = symlink(target, Path::new("/dev").join(link));
    }
    let _ = Command::new("/sbin/ip").args(["link", "set", "lo", "up"]).status();
    nix::unistd::sethostname("uml").map_err(|e| format!("sethostname: {e}"))
}
