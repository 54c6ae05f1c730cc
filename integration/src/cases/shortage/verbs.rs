//! The verbs, their needs beforehand, and the judgement of a verb that lacks a resource.

use super::limit::{Limit, Missing};
use crate::cases::crash::traces;
use crate::ensure;
use crate::kit::stop::{Context, fail};
use crate::kit::wait::eventually;
use crate::kit::{Bundle, Ran, T, Verdict, runtime};
use serde_json::json;
use std::process::Command;
use std::time::Duration;

/// The time limit of a command when a resource is short.
const TIME: Duration = Duration::from_secs(30);

/// The status of the container before the verb.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusBefore {
    Nothing,
    Created,
    Running,
    Paused,
    Stopped,
}

/// A verb that runs into a shortage.
#[derive(Clone, Copy, Debug)]
pub struct ShortageVerb {
    pub before: StatusBefore,
    /// The arguments. `ID`, `DIR` and the bundles `LONG` and `BRIEF` are replaced.
    pub words: &'static [&'static str],
}

const fn verb(before: StatusBefore, words: &'static [&'static str]) -> ShortageVerb {
    ShortageVerb { before, words }
}

/// All verbs that touch a container.
pub const VERBS: &[ShortageVerb] = &[
    verb(StatusBefore::Nothing, &["create", "--bundle", "LONG", "--pid-file", "DIR/pid", "ID"]),
    verb(StatusBefore::Nothing, &["run", "--bundle", "BRIEF", "ID"]),
    verb(StatusBefore::Nothing, &["run", "--detach", "--bundle", "LONG", "ID"]),
    verb(StatusBefore::Created, &["start", "ID"]),
    verb(StatusBefore::Running, &["exec", "ID", "/bin/true"]),
    verb(StatusBefore::Running, &["exec", "--detach", "--pid-file", "DIR/pid", "ID", "/bin/sleep", "1000"]),
    verb(StatusBefore::Running, &["state", "ID"]),
    verb(StatusBefore::Running, &["list"]),
    verb(StatusBefore::Running, &["ps", "--format", "json", "ID"]),
    verb(StatusBefore::Running, &["events", "--stats", "ID"]),
    verb(StatusBefore::Running, &["update", "--resources", "DIR/resources.json", "ID"]),
    verb(StatusBefore::Running, &["kill", "ID", "KILL"]),
    verb(StatusBefore::Running, &["pause", "ID"]),
    verb(StatusBefore::Paused, &["resume", "ID"]),
    verb(StatusBefore::Stopped, &["delete", "ID"]),
    verb(StatusBefore::Running, &["delete", "--force", "ID"]),
];

/// Bundles, and how attempts are made.
#[derive(Clone)]
pub struct ShortageSubject<'t> {
    t: &'t T,
    long: Bundle,
    brief: Bundle,
    /// A script that makes a resource short and then executes its arguments.
    below: Option<String>,
}

impl<'t> ShortageSubject<'t> {
    /// Makes two bundles. The program of the first ends soon, the program of the second late.
    pub fn new(t: &'t T, change: impl Fn(Bundle) -> Bundle) -> Verdict<ShortageSubject<'t>> {
        let (long, brief) = (change(t.bundle()?.args(&["/bin/sleep", "1000"])), change(t.bundle()?));
        long.write()?;
        brief.write()?;
        std::fs::write(t.path("resources.json"), json!({}).to_string())?;
        Ok(ShortageSubject { t, long, brief, below: None })
    }

    /// The subject with a script that makes the attempts.
    pub fn below(&self, script: String) -> ShortageSubject<'t> {
        ShortageSubject { below: Some(script), ..self.clone() }
    }

    /// The verb's command.
    pub fn command(&self, words: &[&str], id: &str) -> Command {
        let mut command = self.t.command();
        for word in words {
            match *word {
                "ID" => command.arg(id),
                "LONG" => command.arg(&self.long.dir),
                "BRIEF" => command.arg(&self.brief.dir),
                _ => command.arg(word.replace("DIR", &self.t.dir.display().to_string())),
            };
        }
        command
    }

    fn must(&self, words: &[&str], id: &str) -> Verdict {
        self.t.finish(self.command(words, id))?.ok().map(drop)
    }

    /// Makes the container that the verb needs.
    pub fn prepare(&self, before: StatusBefore) -> Verdict<String> {
        let id = self.t.id();
        if before == StatusBefore::Nothing {
            return Ok(id);
        }
        self.must(&["create", "--bundle", "LONG", "ID"], &id)?;
        if before != StatusBefore::Created {
            self.must(&["start", "ID"], &id)?;
        }
        match before {
            StatusBefore::Paused => self.must(&["pause", "ID"], &id)?,
            StatusBefore::Stopped => {
                self.must(&["kill", "ID", "KILL"], &id)?;
                let container = crate::kit::Container::new(self.t, id.clone(), self.long.dir.clone());
                container.wait_for("stopped")?;
                // The caller deletes it.
                std::mem::forget(container);
            }
            _ => {}
        }
        Ok(id)
    }

    /// Runs a verb while a resource is short, and judges it. Returns whether it has succeeded.
    pub fn attempt(&self, words: &[&str], id: &str, limit: Limit) -> Verdict<bool> {
        let ran = match self.limited(words, id, limit) {
            // The kernel may read a program's pages repeatedly rather than kill it. Then the test kills it.
            Err(_) if matches!(limit, Limit::World(Missing::Memory)) => return Ok(false),
            ran => ran?,
        };
        let deleted = self.limited(&["delete", "--force", "ID"], id, limit)?;
        truthful(&ran, limit)?;
        truthful(&deleted, limit).context("delete --force meanwhile")?;
        let needs_none = matches!(limit, Limit::World(Missing::Space | Missing::Quota));
        ensure!(!needs_none || deleted.code == 0, "delete --force meanwhile: {deleted}");
        Ok(ran.code == 0)
    }

    /// Removes the container without any shortage. Nothing of it may be left.
    pub fn clean(&self, id: &str) -> Verdict {
        self.must(&["delete", "--force", "ID"], id).context("delete --force afterwards")?;
        gone(self.t, id)
    }

    fn limited(&self, words: &[&str], id: &str, limit: Limit) -> Verdict<Ran> {
        let mut command = self.command(words, id);
        if let Some(script) = &self.below {
            let mut shell = Command::new("/bin/sh");
            shell.args(["-c", script, "sh"]).arg(command.get_program()).args(command.get_args());
            shell.current_dir(&self.t.dir);
            command = shell;
        }
        let (ran, capture) = runtime::run_within(TIME, limit.apply(&command), &self.t.dir)?;
        for file in [capture.stdout, capture.stderr] {
            let _ = std::fs::remove_file(file);
        }
        Ok(ran)
    }
}

/// Waits until nothing of a container is left. The small disks of this chapter do not count.
pub fn gone(t: &T, id: &str) -> Verdict {
    let of_a_disk = |line: &String| line.contains(",nr_inodes=") || line.ends_with(super::disk::FILLER);
    let left = || traces(t, id).into_iter().filter(|line| !of_a_disk(line)).collect::<Vec<_>>();
    eventually("everything of the container is gone", || left().is_empty().then_some(()))
        .context(format!("left: {:?}", left()))
}

/// Checks that a command has succeeded, or has reported which resource is short.
pub fn truthful(ran: &Ran, limit: Limit) -> Verdict {
    let said = ran.stderr.to_lowercase();
    let names_it = limit.words().iter().any(|word| said.contains(&word.to_lowercase()));
    match ran.code {
        0 => Ok(()),
        -9 if matches!(limit, Limit::World(Missing::Memory)) => Ok(()),
        ..0 => fail(format!("killed by a signal\n{ran}")),
        _ if said.contains("panicked") => fail(format!("it panicked\n{ran}")),
        _ if names_it => Ok(()),
        _ => fail(format!("no word of {:?}\n{ran}", limit.words())),
    }
}
