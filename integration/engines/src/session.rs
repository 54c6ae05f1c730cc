//! An engine on a runtime: the context of every case.

use crate::engine::Engine;
use crate::image;
use integration::kit::console::Terminal;
use integration::kit::ran::Ran;
use integration::kit::runtime::{self, Capture, RuntimeKind};
use integration::kit::stop::{Context, fail};
use integration::kit::{Stop, Verdict};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::cell::{Cell, RefCell};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a command of an engine may take, even on the slow kernel of User-Mode Linux.
const LIMIT: Duration = Duration::from_secs(90);

/// The runtime and shim below an engine.
#[derive(Clone, Debug)]
pub struct Below {
    /// The runtime's binary.
    pub runtime: PathBuf,
    /// Which one it is.
    pub kind: RuntimeKind,
    /// The shim in place of the engine's own.
    pub shim: Option<PathBuf>,
}

impl Below {
    /// The column of a report: `runc`, `windlass`, `windlass+shim`, …
    pub fn label(&self) -> String {
        let shim = if self.shim.is_some() { "+shim" } else { "" };
        format!("{}{shim}", self.kind.name())
    }
}

/// A started engine with its client.
pub struct Session {
    /// Which engine.
    pub engine: Engine,
    /// The runtime and shim below the engine.
    pub below: Below,
    /// Scratch space of the session, on tmpfs.
    pub dir: PathBuf,
    /// The command line of the client.
    pub client: Vec<String>,
    daemon: RefCell<Option<Daemon>>,
    next: Cell<u32>,
}

impl Session {
    /// A session in `dir`, which is made, before its engine is started.
    pub fn new(engine: Engine, below: Below, dir: &Path) -> Verdict<Session> {
        fs::create_dir_all(dir.join("bin")).context(dir.display())?;
        image::busybox(&dir.join("bb"))?;
        Ok(Session {
            engine,
            below,
            dir: dir.to_owned(),
            client: Vec::new(),
            daemon: RefCell::new(None),
            next: Cell::new(0),
        })
    }

    /// A name that this session has not used yet.
    pub fn name(&self) -> String {
        self.next.set(self.next.get() + 1);
        format!("c{}-{}", std::process::id(), self.next.get())
    }

    /// A path in the session's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A new empty directory on the host.
    pub fn scratch(&self) -> Verdict<PathBuf> {
        let dir = self.path(&self.name());
        fs::create_dir(&dir).context(dir.display())?;
        Ok(dir)
    }

    /// A command for any program, in the environment of the session: with a PATH of Debian's directories, and without
    /// the variables of the suite's caller.
    pub fn host(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env_clear().current_dir(&self.dir).stdin(Stdio::null());
        command.env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", self.path("bin").display()));
        command.env("HOME", &self.dir).env("DOCKER_BUILDKIT", "0").env("TMPDIR", &self.dir).env("LANG", "C");
        command.env("CONTAINERS_CONF", self.path("containers.conf"));
        command
    }

    /// Runs a program of the host to its end, in a shell.
    pub fn host_sh(&self, script: &str) -> Verdict<Ran> {
        let mut command = self.host("sh");
        command.args(["-c", script]);
        self.finish(command)
    }

    /// Runs a shell script of the host that may take as long as this; what it prints, trimmed.
    pub fn host_sh_within(&self, limit: Duration, script: &str) -> Verdict<String> {
        let mut command = self.host("sh");
        command.args(["-c", script]);
        let (ran, _) = runtime::run_within(limit, command, &self.dir)?;
        Ok(ran.ok()?.stdout.trim().to_owned())
    }

    /// The engine's client; arguments follow.
    pub fn client(&self) -> Command {
        let mut command = self.host(&self.client[0]);
        command.args(&self.client[1..]);
        command
    }

    /// A command for the client with these words, which blanks separate.
    pub fn command(&self, words: &str) -> Command {
        let mut command = self.client();
        command.args(words.split_whitespace());
        command
    }

    /// Runs a command to its end.
    pub fn finish(&self, command: Command) -> Verdict<Ran> {
        runtime::run_within(LIMIT, command, &self.dir).map(|(ran, _)| ran)
    }

    /// Runs the client with these words.
    pub fn run(&self, words: &str) -> Verdict<Ran> {
        self.finish(self.command(words))
    }

    /// Runs the client with these words, which must succeed, and returns its trimmed standard output.
    pub fn ok(&self, words: &str) -> Verdict<String> {
        Ok(self.run(words)?.ok()?.stdout.trim().to_owned())
    }

    /// Runs the client with these words and a last one that may have blanks.
    pub fn run_with(&self, words: &str, last: &str) -> Verdict<Ran> {
        let mut command = self.command(words);
        command.arg(last);
        self.finish(command)
    }

    /// [`Session::run_with`], which must succeed. Returns the trimmed standard output.
    pub fn ok_with(&self, words: &str, last: &str) -> Verdict<String> {
        Ok(self.run_with(words, last)?.ok()?.stdout.trim().to_owned())
    }

    /// `run --rm` of a shell script, which may fail.
    pub fn try_inside(&self, options: &str, script: &str) -> Verdict<Ran> {
        self.run_with(&format!("run --rm {options} {} sh -c", image::NAME), script)
    }

    /// Runs a shell script with `run --rm`, which must succeed. Returns its trimmed output.
    pub fn inside(&self, options: &str, script: &str) -> Verdict<String> {
        Ok(self.try_inside(options, script)?.ok()?.stdout.trim().to_owned())
    }

    /// `run -d` of a shell script; the container's name.
    pub fn up(&self, options: &str, script: &str) -> Verdict<String> {
        let name = self.name();
        self.ok_with(&format!("run -d --name {name} {options} {} sh -c", image::NAME), script)?;
        Ok(name)
    }

    /// A container that sleeps, and ends on SIGTERM.
    pub fn sleeper(&self, options: &str) -> Verdict<String> {
        self.up(options, "trap 'exit 0' TERM; while :; do sleep 0.05; done")
    }

    /// A field of `inspect`, by a Go template.
    pub fn inspect(&self, name: &str, template: &str) -> Verdict<String> {
        self.ok_with(&format!("inspect {name} --format"), template)
    }

    /// Starts the client and does not wait for it.
    pub fn background(&self, mut command: Command) -> Verdict<Background> {
        let capture = Capture::new(&self.dir);
        capture.attach(&mut command)?;
        let shown = runtime::shown(&command);
        let child = command.spawn().context(&shown)?;
        Ok(Background { child, capture, shown })
    }

    /// Starts the client at its own terminal with `rows` and `columns`.
    pub fn terminal(&self, command: &Command, rows: u16, columns: u16) -> Verdict<AtTerminal> {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).context("openpty")?;
        let mut wrapped = self.host("setsid");
        wrapped.args(["--ctty", "--wait"]).arg(command.get_program()).args(command.get_args());
        wrapped.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?)))).env("TERM", "dumb");
        let side = || pty.slave.try_clone().context("the terminal");
        let child = wrapped.stdin(side()?).stdout(side()?).stderr(side()?).spawn().context("setsid")?;
        Ok(AtTerminal { terminal: Terminal::new(pty.master), child: Some(child) })
    }

    /// Starts the daemon of the engine and waits until `probe` succeeds.
    pub fn start_daemon(&self, mut command: Command, probe: &dyn Fn() -> Command) -> Verdict {
        let log = self.path("daemon.log");
        let file = File::options().create(true).append(true).open(&log).context(log.display())?;
        let shown = runtime::shown(&command);
        command.stdout(file.try_clone().context("log")?).stderr(file);
        let mut child = command.spawn().context(&shown)?;
        let start = Instant::now();
        loop {
            let mut probe = probe();
            if probe.stdout(Stdio::null()).stderr(Stdio::null()).status().context("probe")?.success() {
                break;
            }
            let ended = child.try_wait().context("wait")?;
            if ended.is_some() || start.elapsed() > LIMIT {
                let _ = child.kill();
                let _ = child.wait();
                let text = fs::read_to_string(&log).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                let tail = lines[lines.len().saturating_sub(5)..].join("\n");
                return fail(format!("the daemon did not come up ({ended:?}): {shown}\n{tail}"));
            }
            sleep(Duration::from_millis(30));
        }
        *self.daemon.borrow_mut() = Some(Daemon { child });
        Ok(())
    }

    /// Sends the daemon a signal and waits until it has ended.
    pub fn end_daemon(&self, signal: Signal) -> Verdict {
        let Some(mut daemon) = self.daemon.borrow_mut().take() else {
            return Ok(());
        };
        kill(Pid::from_raw(daemon.child.id().cast_signed()), signal).context("kill the daemon")?;
        runtime::wait(&mut daemon.child, LIMIT, "the daemon").map_err(Stop::Fail)?;
        Ok(())
    }
}

struct Daemon {
    child: Child,
}

/// A command that runs in the background. It is killed on drop.
pub struct Background {
    child: Child,
    capture: Capture,
    shown: String,
}

impl Background {
    /// Standard output so far.
    pub fn stdout(&self) -> String {
        self.capture.read().0
    }

    /// Standard error so far.
    pub fn stderr(&self) -> String {
        self.capture.read().1
    }

    /// Waits for its end; the exit code.
    pub fn wait(&mut self) -> Verdict<i32> {
        let status = runtime::wait(&mut self.child, LIMIT, &self.shown);
        status.map(runtime::code).map_err(|hung| Stop::Fail(format!("{hung}\n{}{}", self.stdout(), self.stderr())))
    }

    /// Waits until its standard output contains `text`.
    pub fn until(&self, text: &str) -> Verdict {
        let what = format!("{text:?} in the output of {}", self.shown);
        until(&what, || Ok(self.stdout().contains(text).then_some(())))
            .map_err(|stop| Stop::Fail(format!("{stop}\nit wrote: {}{}", self.stdout(), self.stderr())))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Verdict {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).context("kill")
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client at a terminal.
pub struct AtTerminal {
    /// The terminal of the command.
    pub terminal: Terminal,
    child: Option<Child>,
}

impl AtTerminal {
    /// Changes the size, as a person does some time after the start: clients set up their handler for
    /// SIGWINCH after they have set the first size.
    pub fn resize(&self, rows: u16, columns: u16) -> Verdict {
        sleep(Duration::from_millis(500));
        self.terminal.resize(rows, columns)
    }

    /// Waits for the end of the client; its exit code.
    pub fn wait(mut self) -> Verdict<i32> {
        match self.child.take() {
            Some(mut child) => {
                runtime::wait(&mut child, LIMIT, "a client at a terminal").map(runtime::code).map_err(Stop::Fail)
            }
            None => fail("waited for twice"),
        }
    }
}

impl Drop for AtTerminal {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Polls until `done` gives a value, for at most 30 seconds.
pub fn until<V>(what: &str, done: impl FnMut() -> Verdict<Option<V>>) -> Verdict<V> {
    until_within(Duration::from_secs(30), what, done)
}

/// Polls until `done` gives a value, for at most `limit`.
pub fn until_within<V>(limit: Duration, what: &str, mut done: impl FnMut() -> Verdict<Option<V>>) -> Verdict<V> {
    let start = Instant::now();
    loop {
        if let Some(value) = done()? {
            return Ok(value);
        }
        if start.elapsed() > limit {
            return fail(format!("waited in vain for: {what}"));
        }
        sleep(Duration::from_millis(20));
    }
}
