//! The runtime under test with a private directory.

use super::ran::Ran;
use super::runtime::{self, Capture};
use super::stop::{Context, Verdict};
use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// The programs under test, and a directory for their state and files.
pub struct Workspace {
    /// The runtime's binary.
    pub runtime: PathBuf,
    /// The shim's binary.
    pub shim: PathBuf,
    /// A directory for one case, on tmpfs.
    pub dir: PathBuf,
    /// Whether races and sweeps run at full length.
    pub long: bool,
    next: AtomicU32,
}

impl Workspace {
    /// A workspace in `dir`, which is made.
    pub fn new((runtime, shim): (PathBuf, PathBuf), dir: PathBuf, long: bool) -> Verdict<Workspace> {
        fs::create_dir_all(&dir).context(dir.display())?;
        Ok(Workspace { runtime, shim, dir, long, next: AtomicU32::new(0) })
    }

    /// A number that was not returned before.
    pub fn number(&self) -> u32 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// A container id that this run has not used yet.
    pub fn id(&self) -> String {
        format!("t{}-{}", std::process::id(), self.number())
    }

    /// A path in the directory.
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
        // These variables of the caller would change what a case tests.
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

    /// Capture files, for commands that a case starts itself.
    pub fn capture(&self) -> Capture {
        Capture::new(&self.dir)
    }
}
