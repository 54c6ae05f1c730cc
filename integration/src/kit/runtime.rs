//! A runtime binary, and running commands with a limit.

use super::ran::Ran;
use super::stop::{Context, Verdict, fail};
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Seconds after which a command counts as hung.
const LIMIT: Duration = Duration::from_secs(120);

/// The program of a runtime. Peers differ in known ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuntimeKind {
    /// Ours.
    Windlass,
    /// opencontainers/runc.
    Runc,
    /// containers/crun.
    Crun,
    /// Any other.
    Other,
}

impl RuntimeKind {
    /// Asks the binary: the first word of `--version` is the program's name.
    pub fn of(path: &Path) -> RuntimeKind {
        let output = Command::new(path).arg("--version").output();
        let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
        match text.split([' ', ':']).next() {
            Some("runc") if !text.contains("windlass") => RuntimeKind::Runc,
            Some("crun") => RuntimeKind::Crun,
            _ if text.contains("windlass") => RuntimeKind::Windlass,
            _ => RuntimeKind::Other,
        }
    }

    /// The name used in tables.
    pub fn name(self) -> &'static str {
        match self {
            RuntimeKind::Windlass => "windlass",
            RuntimeKind::Runc => "runc",
            RuntimeKind::Crun => "crun",
            RuntimeKind::Other => "other",
        }
    }
}

/// Numbers the capture files of one process.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// The files for the output of a command. A container that outlives the command holds them open, and a pipe would never
/// end.
#[derive(Clone, Debug)]
pub struct Capture {
    /// Standard output.
    pub stdout: PathBuf,
    /// Standard error.
    pub stderr: PathBuf,
}

impl Capture {
    /// Two fresh files in `dir`.
    pub fn new(dir: &Path) -> Capture {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Capture { stdout: dir.join(format!("out.{number}")), stderr: dir.join(format!("err.{number}")) }
    }

    /// Directs a command's output here.
    pub fn attach(&self, command: &mut Command) -> Verdict {
        command.stdout(File::create(&self.stdout).context("capture file")?);
        command.stderr(File::create(&self.stderr).context("capture file")?);
        Ok(())
    }

    /// The output so far.
    pub fn read(&self) -> (String, String) {
        let text = |path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
        (text(&self.stdout), text(&self.stderr))
    }
}

/// Runs a command to its end, capturing its output in files below `dir`.
pub fn run(command: Command, dir: &Path) -> Verdict<(Ran, Capture)> {
    run_within(LIMIT, command, dir)
}

/// As [`run`], for commands that may take up to `limit`.
pub fn run_within(limit: Duration, mut command: Command, dir: &Path) -> Verdict<(Ran, Capture)> {
    let capture = Capture::new(dir);
    capture.attach(&mut command)?;
    let shown = shown(&command);
    let start = Instant::now();
    let mut child = command.spawn().context(&shown)?;
    let status = wait(&mut child, limit, &shown);
    let (stdout, stderr) = capture.read();
    match status {
        Ok(status) => Ok((Ran { command: shown, code: code(status), stdout, stderr, took: start.elapsed() }, capture)),
        Err(hung) => fail(format!("{hung}\nstdout: {stdout}\nstderr: {stderr}")),
    }
}

/// Waits for a child; kills it and fails when it takes longer than `limit`.
pub fn wait(child: &mut Child, limit: Duration, shown: &str) -> Result<ExitStatus, String> {
    let start = Instant::now();
    let mut nap = Duration::from_micros(300);
    loop {
        if let Some(status) = child.try_wait().map_err(|e| e.to_string())? {
            return Ok(status);
        }
        if start.elapsed() > limit {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("hung for {limit:?}: {shown}"));
        }
        sleep(nap);
        nap = (nap * 2).min(Duration::from_millis(5));
    }
}

/// The exit code, or minus the signal.
pub fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| -status.signal().unwrap_or(0))
}

/// The command as a person would type it.
pub fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// Standard input from a file holding these bytes.
pub fn stdin_of(dir: &Path, bytes: &[u8]) -> Verdict<Stdio> {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = dir.join(format!("in.{number}"));
    fs::write(&path, bytes).context("stdin file")?;
    Ok(File::open(&path).context("stdin file")?.into())
}
