//! The verbs, what they need to be there, and how one that lacks something is judged.

use super::limit::{Limit, Missing};
use crate::cases::crash::traces;
use crate::ensure;
use crate::kit::stop::{Context, fail};
use crate::kit::wait::eventually;
use crate::kit::{Bundle, Ran, T, Verdict, runtime};
use serde_json::json;
use std::process::Command;
use std::time::Duration;

/// Longest time that a command may take when something is short.
const TIME: Duration = Duration::from_secs(30);

/// What a container is before the verb.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    Nothing,
    Created,
    Running,
    Paused,
    Stopped,
}

/// One verb.
#[derive(Clone, Copy, Debug)]
pub struct Verb {
    pub before: Before,
    /// `ID`, `LONG`, `BRIEF` (bundles) and `DIR` stand for what they say.
    pub words: &'static [&'static str],
}

const fn verb(before: Before, words: &'static [&'static str]) -> Verb {
    Verb { before, words }
}

/// All verbs that touch a container.
pub const VERBS: &[Verb] = &[
    verb(Before::Nothing, &["create", "--bundle", "LONG", "--pid-file", "DIR/pid", "ID"]),
    verb(Before::Nothing, &["run", "--bundle", "BRIEF", "ID"]),
    verb(Before::Nothing, &["run", "--detach", "--bundle", "LONG", "ID"]),
    verb(Before::Created, &["start", "ID"]),
    verb(Before::Running, &["exec", "ID", "/bin/true"]),
    verb(Before::Running, &["exec", "--detach", "--pid-file", "DIR/pid", "ID", "/bin/sleep", "1000"]),
    verb(Before::Running, &["state", "ID"]),
    verb(Before::Running, &["list"]),
    verb(Before::Running, &["ps", "--format", "json", "ID"]),
    verb(Before::Running, &["events", "--stats", "ID"]),
    verb(Before::Running, &["update", "--resources", "DIR/resources.json", "ID"]),
    verb(Before::Running, &["kill", "ID", "KILL"]),
    verb(Before::Running, &["pause", "ID"]),
    verb(Before::Paused, &["resume", "ID"]),
    verb(Before::Stopped, &["delete", "ID"]),
    verb(Before::Running, &["delete", "--force", "ID"]),
];

/// What the verbs are tried on.
#[derive(Clone)]
pub struct Subject<'t> {
    t: &'t T,
    long: Bundle,
    brief: Bundle,
    /// A script that makes something short and then becomes its arguments.
    below: Option<String>,
}

impl<'t> Subject<'t> {
    /// Two bundles, whose programs end soon and late.
    pub fn new(t: &'t T, change: impl Fn(Bundle) -> Bundle) -> Verdict<Subject<'t>> {
        let (long, brief) = (change(t.bundle()?.args(&["/bin/sleep", "1000"])), change(t.bundle()?));
        long.write()?;
        brief.write()?;
        std::fs::write(t.path("resources.json"), json!({}).to_string())?;
        Ok(Subject { t, long, brief, below: None })
    }

    /// The same, whose attempts are made by a script.
    pub fn below(&self, script: String) -> Subject<'t> {
        Subject { below: Some(script), ..self.clone() }
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

    /// A container as the verb needs it.
    pub fn prepare(&self, before: Before) -> Verdict<String> {
        let id = self.t.id();
        if before == Before::Nothing {
            return Ok(id);
        }
        self.must(&["create", "--bundle", "LONG", "ID"], &id)?;
        if before != Before::Created {
            self.must(&["start", "ID"], &id)?;
        }
        match before {
            Before::Paused => self.must(&["pause", "ID"], &id)?,
            Before::Stopped => {
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

    /// Runs a verb while something is short, and judges it. True: it has succeeded.
    pub fn attempt(&self, words: &[&str], id: &str, limit: Limit) -> Verdict<bool> {
        let ran = match self.limited(words, id, limit) {
            // The kernel may read a program's pages again and again, rather than kill: then we do.
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

    /// Removes the container when nothing is short any more; nothing of it may be left.
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

/// Whether a command has succeeded or has said what is short.
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
