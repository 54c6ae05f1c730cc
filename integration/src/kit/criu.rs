//! Checkpoints and restores with CRIU.

use super::bundle::Bundle;
use super::console::{FdSocket, Terminal};
use super::container::Container;
use super::ran::Ran;
use super::stop::{Context, Verdict, skip};
use super::t::T;
use super::wait::eventually;
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// CRIU's program: `WINDLASS_CRIU`, or the one that `criu.sh` has built.
pub fn program() -> Option<PathBuf> {
    let made = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/criu/criu");
    let named = std::env::var_os("WINDLASS_CRIU").map(PathBuf::from);
    named.or_else(|| fs::canonicalize(made).ok()).filter(|path| path.is_file())
}

/// Links CRIU as `criu` into a directory, for programs that look for it in PATH.
pub fn link_into(dir: &Path) -> Verdict {
    let Some(program) = program() else { return Ok(()) };
    std::os::unix::fs::symlink(program, dir.join("criu")).context("the name of CRIU")
}

/// Skips where CRIU or the kernel has no means to fetch memory later.
pub fn needs_lazy_pages() -> Verdict {
    let mut command = Command::new(program().unwrap_or_default());
    let asked = command.args(["check", "--feature", "uffd-noncoop"]).stdin(Stdio::null()).output().context("CRIU")?;
    match asked.status.success() {
        true => Ok(()),
        false => skip("this kernel, or this CRIU, cannot fetch memory later (criu check --feature uffd-noncoop)"),
    }
}

/// Why checkpoints are impossible here; `None` if they are possible.
pub fn missing() -> Option<String> {
    // The file is there with CONFIG_CHECKPOINT_RESTORE.
    if !Path::new("/proc/sys/kernel/ns_last_pid").exists() {
        return Some("the kernel has no CONFIG_CHECKPOINT_RESTORE".to_owned());
    }
    program().is_none().then(|| "NO CRIU: integration/criu.sh target/criu makes one".to_owned())
}

/// A directory of images, and the CRIU that fills it.
pub struct Images<'t> {
    t: &'t T,
    pub dir: PathBuf,
    program: PathBuf,
}

impl<'t> Images<'t> {
    /// A new directory, without images.
    pub fn new(t: &'t T) -> Images<'t> {
        Images::of(t, program().unwrap_or_default())
    }

    /// A directory for images of another CRIU.
    pub fn of(t: &'t T, program: PathBuf) -> Images<'t> {
        Images { t, dir: t.path(&format!("images{}", t.number())), program }
    }

    /// A copy of the directory, under this name.
    pub fn copy(&self, name: &str) -> Verdict<Images<'t>> {
        let dir = self.t.path(name);
        self.t.host("cp", &["-a", &self.dir.display().to_string(), &dir.display().to_string()])?;
        Ok(Images { t: self.t, dir, program: self.program.clone() })
    }

    /// The runtime with its CRIU; the verb follows.
    pub fn command(&self) -> Command {
        let mut command = self.t.command();
        command.arg("--criu").arg(&self.program);
        command
    }

    /// `checkpoint` of a container.
    pub fn try_dump(&self, container: &Container, options: &[&str]) -> Verdict<Ran> {
        let mut command = self.command();
        command.arg("checkpoint").arg("--image-path").arg(&self.dir).args(options).arg(&container.id);
        self.t.finish(command)
    }

    /// Dumps the container, which must succeed.
    pub fn dump(&self, container: &Container, options: &[&str]) -> Verdict<Ran> {
        self.try_dump(container, options)?.ok().context(self.log("dump.log"))
    }

    /// `restore --detach` under a new id.
    pub fn try_restore(&self, bundle: &Bundle, options: &[&str]) -> Verdict<(Ran, Container<'t>)> {
        self.restore_with(bundle, options, |_| {})
    }

    /// Restores with changes to the command.
    pub fn restore_with(
        &self,
        bundle: &Bundle,
        options: &[&str],
        change: impl FnOnce(&mut Command),
    ) -> Verdict<(Ran, Container<'t>)> {
        bundle.write()?;
        let id = self.t.id();
        let mut command = self.command();
        command.args(["restore", "--detach", "--bundle"]).arg(&bundle.dir).arg("--image-path").arg(&self.dir);
        command.args(options).arg(&id);
        change(&mut command);
        let ran = self.finish_with_null(command)?;
        Ok((ran, Container::new(self.t, id, bundle.dir.clone())))
    }

    /// Restores the container, which must succeed.
    pub fn restore(&self, bundle: &Bundle, options: &[&str]) -> Verdict<Container<'t>> {
        let (ran, container) = self.try_restore(bundle, options)?;
        ran.ok().context(self.log("restore.log"))?;
        Ok(container)
    }

    /// The errors in a log of CRIU.
    pub fn log(&self, name: &str) -> String {
        let text = fs::read_to_string(self.dir.join(name)).unwrap_or_default();
        text.lines().filter(|line| line.contains("Error")).collect::<Vec<_>>().join("\n")
    }

    /// Runs a command whose container gets the null device. An output file that grows meanwhile would not be the dumped
    /// one.
    pub fn finish_with_null(&self, command: Command) -> Verdict<Ran> {
        finish_with_null(self.t, command)
    }
}

impl Drop for Images<'_> {
    fn drop(&mut self) {
        // The file in which CRIU caches the features of the kernel.
        let _ = fs::remove_file("/run/criu.kdat");
    }
}

/// See [`Images::finish_with_null`]. The runtime's messages go to its log.
pub fn finish_with_null(t: &T, command: Command) -> Verdict<Ran> {
    let log = t.path(&format!("log{}", t.number()));
    let mut words: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    words.splice(0..0, ["--log".into(), log.clone().into_os_string()]);
    let mut quiet = t.command();
    // `command` begins with the root of the state, as `quiet` does: the last one counts.
    quiet.args(words).stdout(Stdio::null()).stderr(Stdio::null()).stdin(Stdio::null());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => quiet.env(name, value),
            None => quiet.env_remove(name),
        };
    }
    let shown = super::runtime::shown(&quiet);
    let start = std::time::Instant::now();
    let mut child = quiet.spawn().context(&shown)?;
    let status = super::runtime::wait(&mut child, std::time::Duration::from_secs(120), &shown);
    let stderr = fs::read_to_string(&log).unwrap_or_default();
    let status = status.map_err(super::Stop::Fail)?;
    Ok(Ran { command: shown, code: super::runtime::code(status), stdout: String::new(), stderr, took: start.elapsed() })
}

/// A running container whose standard streams are the null device.
pub fn start<'t>(t: &'t T, bundle: &Bundle) -> Verdict<Container<'t>> {
    bundle.write()?;
    let id = t.id();
    let mut command = t.command();
    command.arg("create").arg("--bundle").arg(&bundle.dir).arg(&id);
    finish_with_null(t, command)?.ok()?;
    let container = Container::new(t, id, bundle.dir.clone());
    container.start()?;
    Ok(container)
}

/// Dumps a container that echoes lines at a terminal. Returns its bundle, its images and its terminal.
pub fn dumped_at_terminal(t: &T) -> Verdict<(Bundle, Images<'_>, Terminal)> {
    let bundle = t.bundle()?.sh("while read line; do echo \"got $line\"; done").set("/process/terminal", json!(true));
    let socket = FdSocket::new(t.path("first"))?;
    let container = t.create_with(&bundle, &["--console-socket", socket.arg()])?;
    let mut terminal = socket.terminal()?;
    container.start()?;
    echoes(&mut terminal, "one")?;
    let images = Images::new(t);
    images.dump(&container, &[])?;
    Ok((bundle, images, terminal))
}

/// Checks that the program at a terminal echoes a line.
pub fn echoes(terminal: &mut Terminal, line: &str) -> Verdict {
    terminal.write(&format!("{line}\n"))?;
    terminal.read_until(&format!("got {line}\r\n"))?;
    Ok(())
}

/// A script that writes a growing number to `/count` of its container, ten times a second.
pub const COUNTING: &str = "i=0; while :; do i=$((i+1)); echo $i >/count.new; mv /count.new /count; sleep 0.1; done";

/// The number that a container has counted up to.
pub fn count(bundle: &Bundle) -> u32 {
    fs::read_to_string(bundle.rootfs().join("count")).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// Waits until a container has counted beyond `from`. Returns the number.
pub fn counts_on(bundle: &Bundle, from: u32) -> Verdict<u32> {
    eventually(&format!("a count above {from}"), || Some(count(bundle)).filter(|count| *count > from))
}
