//! The life of a shim: it makes a container, runs another program in it, passes on their output, reports their ends,
//! and ends itself. The sweep talks to it as an engine does, whatever fails meanwhile.

mod checkpoint;
mod client;
mod conmon;
mod containerd;
pub mod judge;
mod neutral;
mod ttrpc;

use super::case::Base;
use super::census::Census;
use super::oracle::Seen;
use super::point::{Action, Point};
use super::stage::{LIMIT, Stage};
use super::stdio::{Kind, Stdio};
use super::tracer::{self, Request, Session, Trace};
use crate::kit::stop::{Context, Verdict};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A way in which a shim is used.
pub struct Life {
    /// The name in reports.
    pub name: &'static str,
    /// Prepares it, and returns its command.
    prepare: fn(&Stage, &str) -> Verdict<Command>,
    /// The engine's part.
    live: fn(&Stage, &str, &Session, &Stdio) -> Vec<Fact>,
    /// Removes everything.
    delete: fn(&Stage, &str) -> Option<String>,
}

/// The name of an operation, and its outcome: `ok …`, `error …`, `closed` or `hangs`.
pub type Fact = (String, String);

/// All lives.
pub const LIVES: &[Life] = &[
    Life { name: "shim-neutral", prepare: neutral::prepare, live: neutral::live, delete: neutral::delete },
    Life { name: "shim-containerd", prepare: containerd::prepare, live: containerd::live, delete: containerd::delete },
    Life { name: "shim-conmon", prepare: conmon::prepare, live: conmon::live, delete: conmon::delete },
    Life { name: "shim-conmon-exec", prepare: conmon::prepare_exec, live: conmon::live_exec, delete: conmon::delete },
    Life { name: "shim-checkpoint", prepare: checkpoint::prepare, live: checkpoint::live, delete: neutral::delete },
    Life {
        name: "shim-restore",
        prepare: checkpoint::prepare_restore,
        live: checkpoint::live_restore,
        delete: neutral::delete,
    },
];

/// Runs one life.
pub fn observe(stage: &Stage, life: &Life, base: &Base, at: Option<(Point, Action)>) -> Verdict<(Seen, Trace)> {
    let id = stage.id();
    let mut command = (life.prepare)(stage, &id)?;
    let before = stage.census(&id);
    let stdio = Stdio::new(Kind::Files, &stage.dir, &mut command, Vec::new())?;
    let programs = vec![tracer::identity(&stage.shim)?];
    let mut session = Session::start(Request { command, partner: None, programs, at })?;
    let mut seen = Seen { facts: (life.live)(stage, &id, &session, &stdio), ..Seen::default() };
    // If its caller has died, the shim may need a moment to notice.
    let trace = session.finish()?;
    seen.code = Some(0);
    seen.error = stdio.errors();
    seen.changed = stdio.changed();
    let begun = Instant::now();
    let places = stage.places(&id);
    loop {
        seen.delete = (life.delete)(stage, &id);
        seen.left = Census::settle(&places, |now| now.beyond(&base.empty).is_empty()).beyond(&base.empty);
        let is_clear = seen.left.is_empty() && seen.delete.is_none();
        if is_clear || begun.elapsed() > Duration::from_secs(5) {
            break;
        }
    }
    seen.new = stage.census(&id).beyond(&before);
    Ok((seen, trace))
}

/// The fifo of the current life, kept open.
static KEPT: Mutex<Option<File>> = Mutex::new(None);

/// Makes a fifo and keeps it open until the next life. The last output of a shim would be lost if no descriptor of the
/// fifo were open.
fn kept_fifo(path: &Path) -> Verdict {
    mkfifo(path, Mode::from_bits_truncate(0o600)).context("mkfifo")?;
    let fifo = File::options().read(true).write(true).open(path).context(path.display())?;
    *KEPT.lock().unwrap_or_else(PoisonError::into_inner) = Some(fifo);
    Ok(())
}

/// Waits for the end of the traced command: `ok` with its output, or `error` with its errors.
fn ended(session: &Session, stdio: &Stdio) -> String {
    match session.wait(LIMIT) {
        None => "hangs".to_owned(),
        Some(0) => format!("ok {}", stdio.output()),
        Some(code) if code < 0 => format!("closed by signal {}", -code),
        Some(_) => format!("error {} {}", stdio.output(), stdio.errors()),
    }
}

/// Waits for a value.
fn until<V>(limit: Duration, mut look: impl FnMut() -> Option<V>) -> Option<V> {
    let begun = Instant::now();
    loop {
        if let Some(value) = look() {
            return Some(value);
        }
        if begun.elapsed() > limit {
            return None;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A log in the CRI's format, without its times.
fn log(stage: &Stage) -> String {
    let text = crate::kit::machine::text(stage.dir.join("life.log"));
    let entries = text.lines().filter_map(|line| line.split_once(' ').map(|(_, rest)| rest.to_owned()));
    entries.collect::<Vec<_>>().join("\n")
}
