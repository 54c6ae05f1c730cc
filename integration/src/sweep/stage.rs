//! The directories, the state root and the user of a sweep of one verb on one bundle.

use super::bundles::{self, Around, USER};
use super::census::{Census, Places};
use super::tracer;
use crate::kit::stop::{Context, Verdict, fail};
use crate::kit::{Bundle, Ran, runtime};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// A command that takes longer hangs. A traced command takes a tenth of a second, and a busy machine makes it a hundred
/// times slower, but not a thousand times.
pub const LIMIT: Duration = Duration::from_secs(120);

/// Which program a container runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// A program that reports its observations.
    Probe,
    /// A program that sleeps.
    Sleep,
    /// A program that reads a line and ends with 42.
    Life,
}

/// The surroundings of a scenario.
pub struct Stage {
    /// The kind of the bundle.
    pub kind: &'static str,
    /// The directory of all its files.
    pub dir: PathBuf,
    /// The runtime that is executed.
    pub runtime: PathBuf,
    /// Device and inode of each program under test; empty if only the runtime is.
    pub tested: Vec<(u64, u64)>,
    /// The shim that is executed.
    pub shim: PathBuf,
    /// Files around the bundles.
    pub around: Around,
    probe: Bundle,
    sleep: Bundle,
    life: Bundle,
    /// Directories in which nothing may be left.
    watched: Vec<PathBuf>,
    numbers: AtomicU32,
}

impl Stage {
    /// Makes the stage in a new directory.
    pub fn new(programs: (&Path, &Path), dir: &Path, kind: &'static str, watched: Vec<PathBuf>) -> Verdict<Stage> {
        let _ = fs::remove_dir_all(dir);
        fs::create_dir_all(dir.join("state/shims")).context(dir.display())?;
        let around = Around::new(dir, kind)?;
        let bundle = |name: &str, words: &[&str]| -> Verdict<Bundle> {
            let mut bundle = Bundle::new(dir.join(name))?;
            bundle.spec = bundles::config(kind, &around);
            bundle = bundle.args(words);
            bundles::give(&bundle.rootfs(), kind)?;
            bundle.write()?;
            Ok(bundle)
        };
        let (probe, sleep) = (bundle("probe", &bundles::probe())?, bundle("sleep", &["/bin/sleep", "1000"])?);
        let life = bundle("life", &["/bin/sh", "-c", "read -r line; echo got $line; exit 42"])?;
        let mut stage = Stage {
            kind,
            dir: dir.to_owned(),
            runtime: programs.0.to_owned(),
            tested: Vec::new(),
            shim: programs.1.to_owned(),
            around,
            probe,
            sleep,
            life,
            watched,
            numbers: AtomicU32::new(0),
        };
        if stage.is_rootless() {
            stage.give_to_user()?;
        }
        Ok(stage)
    }

    fn is_rootless(&self) -> bool {
        self.kind == "rootless"
    }

    /// Makes the program and the directory accessible to an ordinary user.
    fn give_to_user(&mut self) -> Verdict {
        let own = self.dir.join("windlass");
        fs::copy(&self.runtime, &own).context("the runtime")?;
        fs::set_permissions(&own, fs::Permissions::from_mode(0o755))?;
        self.runtime = own;
        for dir in self.dir.ancestors().take_while(|dir| dir.starts_with("/run/windlass-integration")) {
            fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).context(dir.display())?;
        }
        chown(self.root(), Some(USER), Some(USER)).context("state")
    }

    /// Restarts the programs beside the containers, after all processes were killed.
    pub fn revive(&mut self) -> Verdict {
        let kind = self.kind;
        fs::create_dir_all(self.dir.join("state/shims")).context("state")?;
        self.around.hold(kind)?;
        for bundle in [&mut self.probe, &mut self.sleep, &mut self.life] {
            let args = bundle.spec["process"]["args"].clone();
            bundle.spec = bundles::config(kind, &self.around);
            bundle.spec["process"]["args"] = args;
            bundle.write()?;
        }
        Ok(())
    }

    /// The state root.
    pub fn root(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// A new id. All ids have the same length.
    pub fn id(&self) -> String {
        format!("sweep-{:05}", self.numbers.fetch_add(1, Ordering::Relaxed))
    }

    /// The directory of a bundle.
    pub fn bundle(&self, payload: Payload) -> &Path {
        match payload {
            Payload::Probe => &self.probe.dir,
            Payload::Sleep => &self.sleep.dir,
            Payload::Life => &self.life.dir,
        }
    }

    /// The places of a census.
    pub fn places(&self, id: &str) -> Places {
        Places { roots: vec![self.root()], directories: self.watched.clone(), id: id.to_owned() }
    }

    /// A census.
    pub fn census(&self, id: &str) -> Census {
        Census::take(&self.places(id))
    }

    /// The runtime with these arguments.
    pub fn command(&self, words: &[&str]) -> Command {
        self.dressed(Command::new(&self.runtime), words)
    }

    /// The command, stopped before its program is executed.
    pub fn traced(&self, words: &[String]) -> Command {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.dressed(tracer::stopped(&self.runtime), &words)
    }

    fn dressed(&self, mut command: Command, words: &[&str]) -> Command {
        command.arg("--root").arg(self.root()).args(words).current_dir(&self.dir);
        for name in ["NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS"] {
            command.env_remove(name);
        }
        if self.is_rootless() {
            command.env("XDG_RUNTIME_DIR", &self.dir).uid(USER).gid(USER);
        }
        command.stdin(std::process::Stdio::null());
        command
    }

    /// Runs the runtime untraced.
    pub fn run(&self, words: &[&str]) -> Verdict<Ran> {
        let (ran, capture) = runtime::run_within(LIMIT, self.command(words), &self.dir)?;
        // The log would grow by thousands of runs.
        let _ = (fs::remove_file(capture.stdout), fs::remove_file(capture.stderr));
        Ok(ran)
    }

    /// The status of a container, `absent` if there is none.
    pub fn status(&self, id: &str) -> String {
        let said = |ran: Ran| match (ran.code, ran.json()) {
            (0, Ok(state)) => state["status"].as_str().unwrap_or_default().to_owned(),
            _ if ran.stderr.contains("does not exist") => "absent".to_owned(),
            _ => format!("unknown: {ran}"),
        };
        self.run(&["state", id]).map_or_else(|stop| stop.to_string(), said)
    }

    /// The process of a container's init.
    pub fn pid(&self, id: &str) -> Verdict<i32> {
        let state = self.run(&["state", id])?.ok()?.json()?;
        match state["pid"].as_i64().map(i32::try_from) {
            Some(Ok(pid)) if pid > 0 => Ok(pid),
            _ => fail(format!("no pid in {state}")),
        }
    }

    /// `delete --force`; the reason if it fails.
    pub fn delete(&self, id: &str) -> Option<String> {
        match self.run(&["delete", "--force", id]) {
            Ok(ran) if ran.code == 0 => None,
            Ok(ran) => Some(ran.to_string()),
            Err(stop) => Some(stop.to_string()),
        }
    }
}
