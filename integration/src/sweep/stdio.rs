//! The stdio of a command under test: files or a terminal. The sweep keeps the other ends and examines them afterwards.

use super::witness::Witness;
use crate::kit::stop::{Context, Verdict};
use nix::pty::openpty;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The files at a command's descriptors 0, 1 and 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Three files, the first of which is empty. A pipe would change its owner to the container's user.
    Files,
    /// A terminal at 0 and 1, and a file.
    Terminal,
}

/// The stdio of one command.
pub struct Stdio {
    out: PathBuf,
    err: PathBuf,
    terminal: Option<Drain>,
    witness: Witness,
}

impl Stdio {
    /// Gives a command stdio whose files are in `dir`. `trees` are examined too.
    pub fn new(kind: Kind, dir: &Path, command: &mut Command, trees: Vec<PathBuf>) -> Verdict<Stdio> {
        let (out, err) = (dir.join("command.out"), dir.join("command.err"));
        let err_file = File::create(&err).context("a file for errors")?;
        let (stdin, stdout, terminal) = match kind {
            Kind::Files => {
                let input = dir.join("command.in");
                fs::write(&input, "").context("a file for input")?;
                (File::open(&input)?, File::create(&out).context("a file for output")?, None)
            }
            Kind::Terminal => {
                let pty = openpty(None, None).context("openpty")?;
                let slave = File::from(pty.slave);
                (slave.try_clone()?, slave, Some(Drain::new(pty.master)))
            }
        };
        command.stdin(stdin.try_clone()?).stdout(stdout.try_clone()?).stderr(err_file.try_clone()?);
        let descriptors = vec![("stdin", stdin), ("stdout", stdout), ("stderr", err_file)];
        let witness = Witness::new(descriptors, trees);
        Ok(Stdio { out, err, terminal, witness })
    }

    /// The output. On a terminal, `END` may arrive late, so this waits for it.
    pub fn output(&self) -> String {
        match &self.terminal {
            Some(drain) => drain.until("END", Duration::from_secs(10)),
            None => text(&self.out),
        }
    }

    /// The text on standard error.
    pub fn errors(&self) -> String {
        text(&self.err)
    }

    /// The changes that the command has made to them.
    pub fn changed(&self) -> Vec<String> {
        self.witness.changed()
    }
}

fn text(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

/// Reads from the master of a terminal until the last descriptor of its slave is closed.
pub struct Drain(Arc<Mutex<Vec<u8>>>);

impl Drain {
    /// Starts reading.
    pub fn new(master: OwnedFd) -> Drain {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (mut master, into) = (File::from(master), seen.clone());
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count) = master.read(&mut buffer) {
                if count == 0 {
                    break;
                }
                into.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&buffer[..count]);
            }
        });
        Drain(seen)
    }

    /// The bytes up to `end`, or the bytes so far at the time limit.
    pub fn until(&self, end: &str, limit: Duration) -> String {
        let begun = Instant::now();
        loop {
            let text = String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned();
            if text.contains(end) || begun.elapsed() > limit {
                return text.replace('\r', "");
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}
