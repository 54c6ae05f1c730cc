//! A process of its own for the check, because file systems may keep it waiting for ever: a FUSE server in the
//! container answers when it likes, and a process cannot be killed while it waits for an answer that was begun.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::sched::CloneFlags;

use windlass_base::error::{Error, Kind, Result, WithContext};
use windlass_sys::poll::{self, Deadline};
use windlass_sys::process::{self, Child, Forked, SingleThreaded};
use windlass_sys::{descriptors, fd, socket, waiting};

use super::judge::{CheckpointObstacle, finding};

/// How long the check may stand still: longer than a busy disk takes.
const FILE: Duration = Duration::from_secs(10);

/// How long the check may take altogether.
const WHOLE: Duration = Duration::from_secs(300);

/// Bytes of the longest message: a path, and words around it.
const LONGEST: usize = 64 << 10;

/// What the process sends, by the first byte of a message.
const AT: u8 = b'A';
const FOUND: u8 = b'F';
const FAILED: u8 = b'E';
const DONE: u8 = b'D';

/// The end of the process that looks.
pub(crate) struct Reporter {
    socket: OwnedFd,
}

impl Reporter {
    /// Sends what was found, and what is looked at next.
    pub(crate) fn at(&self, what: &str, findings: &mut Vec<CheckpointObstacle>) {
        self.found(findings);
        self.send(AT, what.as_bytes());
    }

    fn found(&self, findings: &mut Vec<CheckpointObstacle>) {
        for finding in findings.drain(..) {
            self.send(FOUND, &serde_json::to_vec(&finding).expect("plain data"));
        }
    }

    fn send(&self, kind: u8, bytes: &[u8]) {
        // A text that is too long is no path.
        let bytes = &bytes[..bytes.len().min(LONGEST - 1)];
        // Without its runtime nobody hears it.
        if socket::send(self.socket.as_fd(), &[&[kind], bytes].concat(), &[]).is_err() {
            process::exit_now(1);
        }
    }
}

/// Runs `look` in a process of its own. `look` appends its findings. If a file keeps it waiting, a finding names the
/// file.
pub(crate) fn look(
    look: &dyn Fn(&Reporter, &mut Vec<CheckpointObstacle>) -> Result<()>,
) -> Result<Vec<CheckpointObstacle>> {
    let context = || "cannot check the container";
    let proof = SingleThreaded::check().with_context(context)?;
    let (ours, theirs) = socket::pair().with_context(context)?;
    match process::fork(CloneFlags::empty(), None, &proof).with_context(context)? {
        Forked::Child => {
            drop(ours);
            run(Reporter { socket: theirs }, look)
        }
        Forked::Parent(child) => {
            drop(theirs);
            listen(&ours, &child)
        }
    }
}

/// The process that looks.
fn run(reporter: Reporter, look: &dyn Fn(&Reporter, &mut Vec<CheckpointObstacle>) -> Result<()>) -> ! {
    let _ = process::die_with_parent();
    // A reader of the caller's output does not wait for this process.
    let null = fd::open("/dev/null", OFlag::O_RDWR);
    let left = null.and_then(|null| (0..3).try_for_each(|number| descriptors::install_at(null.as_fd(), number)));
    let mut findings = Vec::new();
    let looked =
        left.with_context(|| "cannot leave the caller's streams").and_then(|()| look(&reporter, &mut findings));
    reporter.found(&mut findings);
    match looked {
        Ok(()) => reporter.send(DONE, &[]),
        Err(error) => reporter.send(FAILED, &serde_json::to_vec(&error.shortened(1024)).expect("plain data")),
    }
    process::exit_now(0)
}

fn listen(from: &OwnedFd, child: &Child) -> Result<Vec<CheckpointObstacle>> {
    let broken = || Error::new(Kind::Protocol, "the process that checks the container has ended");
    let (mut findings, mut at, mut buffer) = (Vec::new(), "the container".to_owned(), vec![0; LONGEST]);
    let whole = Deadline::after(WHOLE);
    loop {
        if !poll::readable(from.as_fd(), Deadline::after(FILE)).with_context(|| "cannot wait for the check")? {
            // What takes long and runs is the check of a large process.
            if !whole.has_passed() && waiting::describe(child.pid).is_some_and(|child| child.state == 'R') {
                continue;
            }
            findings.push(unanswered(&at, child.pid));
            child.kill();
            return Ok(findings);
        }
        let (length, _) = socket::receive(from.as_fd(), &mut buffer).with_context(|| "cannot hear of the check")?;
        let (kind, text) = buffer[..length].split_first().ok_or_else(broken)?;
        match *kind {
            AT => at = String::from_utf8_lossy(text).into_owned(),
            FOUND => findings.push(serde_json::from_slice(text).map_err(|_| broken())?),
            FAILED => return Err(serde_json::from_slice(text).unwrap_or_else(|_| broken())),
            _ => {
                let _ = child.wait();
                return Ok(findings);
            }
        }
    }
}

fn unanswered(at: &str, pid: i32) -> CheckpointObstacle {
    let waits = waiting::describe(pid).map_or(String::new(), |process| format!(": {}", process.text));
    let what = format!("{at} was not looked at, nor what comes after, because it does not answer{waits}");
    finding(what, "end the server of its file system (FUSE), or unmount it: the dump would wait, too")
}
