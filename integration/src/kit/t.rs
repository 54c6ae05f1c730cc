//! What a case is given: a runtime, a private directory, and shorthands.

use super::bundle::Bundle;
use super::container::Container;
use super::ran::Ran;
use super::runtime::{self, Capture};
use super::stop::{Context, Verdict, fail};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The context of one case.
pub struct T {
    /// The binary.
    pub runtime: PathBuf,
    /// The shim.
    pub shim: PathBuf,
    /// A directory of the case's own, on tmpfs.
    pub dir: PathBuf,
    /// Whether races and sweeps run at full length.
    pub long: bool,
    next: AtomicU32,
}

impl T {
    /// A context below `dir`, which is made.
    pub fn new((runtime, shim): (PathBuf, PathBuf), dir: PathBuf, long: bool) -> Verdict<T> {
        fs::create_dir_all(&dir).context(dir.display())?;
        Ok(T { runtime, shim, dir, long, next: AtomicU32::new(0) })
    }

    fn number(&self) -> u32 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// A new bundle.
    pub fn bundle(&self) -> Verdict<Bundle> {
        Bundle::new(self.dir.join(format!("bundle{}", self.number())))
    }

    /// A container id that this run has not used yet.
    pub fn id(&self) -> String {
        format!("t{}-{}", std::process::id(), self.number())
    }

    /// A path in the case's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The state directory.
    pub fn root(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// The runtime with its state directory set; arguments follow.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.runtime);
        command.arg("--root").arg(self.root()).stdin(Stdio::null()).current_dir(&self.dir);
        // Variables of the person who runs the tests are no part of a case.
        for name in ["NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "XDG_RUNTIME_DIR"] {
            command.env_remove(name);
        }
        command
    }

    /// Runs the runtime with these arguments.
    pub fn runtime<S: AsRef<OsStr>>(&self, words: &[S]) -> Verdict<Ran> {
        let mut command = self.command();
        command.args(words);
        self.finish(command)
    }

    /// Runs the runtime with these arguments and this standard input.
    pub fn runtime_with_stdin(&self, words: &[&str], stdin: &[u8]) -> Verdict<Ran> {
        let mut command = self.command();
        command.args(words).stdin(runtime::stdin_of(&self.dir, stdin)?);
        self.finish(command)
    }

    /// Runs any command to its end.
    pub fn finish(&self, command: Command) -> Verdict<Ran> {
        runtime::run(command, &self.dir).map(|(ran, _)| ran)
    }

    /// Runs a host command that must succeed; its standard output.
    pub fn host(&self, program: &str, words: &[&str]) -> Verdict<String> {
        let mut command = Command::new(program);
        command.args(words).stdin(Stdio::null());
        Ok(self.finish(command)?.ok()?.stdout)
    }

    /// `run` in the foreground.
    pub fn run(&self, bundle: &Bundle) -> Verdict<Ran> {
        self.run_with(bundle, &[])
    }

    /// `run` in the foreground with further options.
    pub fn run_with(&self, bundle: &Bundle, options: &[&str]) -> Verdict<Ran> {
        bundle.write()?;
        let mut command = self.command();
        command.arg("run").args(options).arg("--bundle").arg(&bundle.dir).arg(self.id());
        self.finish(command)
    }

    /// `run` of a shell script in the default bundle.
    pub fn run_sh(&self, script: &str) -> Verdict<Ran> {
        self.run(&self.bundle()?.sh(script))
    }

    /// `create`, which may fail; the container cleans up after itself.
    pub fn try_create(&self, bundle: &Bundle, options: &[&str]) -> Verdict<(Ran, Container<'_>)> {
        bundle.write()?;
        let id = self.id();
        let mut command = self.command();
        command.arg("create").args(options).arg("--bundle").arg(&bundle.dir).arg(&id);
        self.created(id, bundle, command)
    }

    /// A container made by a command that was built by hand.
    pub fn created(&self, id: String, bundle: &Bundle, command: Command) -> Verdict<(Ran, Container<'_>)> {
        let container = Container::new(self, id, bundle.dir.clone());
        let (ran, capture) = runtime::run(command, &self.dir)?;
        Ok((ran, container.with_output(capture)))
    }

    /// `create`, which must succeed.
    pub fn create(&self, bundle: &Bundle) -> Verdict<Container<'_>> {
        self.create_with(bundle, &[])
    }

    /// `create` with options, which must succeed.
    pub fn create_with(&self, bundle: &Bundle, options: &[&str]) -> Verdict<Container<'_>> {
        let (ran, container) = self.try_create(bundle, options)?;
        ran.ok()?;
        Ok(container)
    }

    /// A running container that sleeps.
    pub fn running(&self) -> Verdict<Container<'_>> {
        self.start(&self.bundle()?.args(&["/bin/sleep", "1000"]))
    }

    /// `create` and `start`, both of which must succeed.
    pub fn start(&self, bundle: &Bundle) -> Verdict<Container<'_>> {
        let container = self.create(bundle)?;
        container.start()?;
        Ok(container)
    }

    /// Capture files, for commands that a case starts itself.
    pub fn capture(&self) -> Capture {
        Capture::new(&self.dir)
    }
}

/// Polls until `done` gives a value, at most ten seconds.
pub fn eventually<V>(what: &str, mut done: impl FnMut() -> Option<V>) -> Verdict<V> {
    let start = Instant::now();
    loop {
        if let Some(value) = done() {
            return Ok(value);
        }
        if start.elapsed() > Duration::from_secs(120) {
            return fail(format!("waited 10 s in vain for: {what}"));
        }
        sleep(Duration::from_millis(2));
    }
}

/// The text of a file, trimmed at the end; empty when it cannot be read.
pub fn text(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).map(|text| text.trim_end().to_owned()).unwrap_or_default()
}

/// A field of a `Name: value` file such as `/proc/PID/status`.
pub fn field(text: &str, name: &str) -> String {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_default().trim().to_owned()
}

/// Major and minor version of the running kernel.
pub fn kernel() -> (u32, u32) {
    let release = text("/proc/sys/kernel/osrelease");
    let mut numbers = release.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Names of the capabilities in our bounding set.
pub fn bounding_capabilities() -> Vec<String> {
    let status = text("/proc/self/status");
    let mask = u64::from_str_radix(&field(&status, "CapBnd"), 16).unwrap_or(0);
    let known = CAPABILITIES.iter().enumerate().filter(|(bit, _)| mask & (1 << bit) != 0);
    known.map(|(_, name)| format!("CAP_{name}")).collect()
}

/// Capability names in the order of their numbers, `linux/capability.h`.
pub const CAPABILITIES: &[&str] = &[
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];
