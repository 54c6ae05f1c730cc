//! A run of a verb, with or without an injection, and its observable results.

use super::census::Census;
use super::life::{self, Life};
use super::oracle::{self, Allowed, Outcome, Seen};
use super::point::{Action, Point};
use super::stage::{LIMIT, Stage};
use super::stdio::Stdio;
use super::tracer::{self, Request, Session, Trace};
use super::verbs::{Before, Scene, Verb};
use crate::kit::stop::Verdict;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::Path;

/// The reference for runs with an injection.
pub struct Base {
    /// The census without any container.
    pub empty: Census,
    /// The results without an injection. `None` during that run.
    pub seen: Option<Seen>,
}

/// The subject of a sweep: a verb of the runtime, or a life of the shim.
#[derive(Clone, Copy)]
pub enum Subject {
    /// A verb.
    Verb(&'static Verb),
    /// A life.
    Life(&'static Life),
}

impl Subject {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Subject::Verb(verb) => verb.name,
            Subject::Life(life) => life.name,
        }
    }

    /// Runs it once.
    pub fn run(self, stage: &mut Stage, base: &Base, at: Option<(Point, Action)>) -> Verdict<(Seen, Trace)> {
        let done = match self {
            Subject::Verb(verb) => observe(stage, verb, base, at),
            Subject::Life(life) => life::observe(stage, life, base, at),
        };
        let is_bad = match &done {
            Ok((seen, _)) => seen.code.is_none() || !seen.left.is_empty() || seen.delete.is_some(),
            Err(_) => true,
        };
        if is_bad {
            clear(stage)?;
        }
        done
    }

    /// Judges a run with an injection.
    pub fn judge(self, base: &Seen, seen: &Seen, point: &Point, action: Action) -> Outcome {
        match self {
            Subject::Verb(verb) => {
                let main_killed = action == Action::Kill && point.process == "main";
                oracle::judge(base, seen, &point.call, action, main_killed, &Allowed { status: verb.failed })
            }
            Subject::Life(_) => life::judge::judge(base, seen, &point.call, action),
        }
    }

    /// Why this run without an injection cannot be the reference; `None` if it can.
    pub fn is_wrong(self, seen: &Seen) -> Option<String> {
        let is_right = match self {
            Subject::Verb(_) => [Some(0), Some(42)].contains(&seen.code),
            Subject::Life(_) => seen
                .facts
                .iter()
                .all(|(_, value)| !["error", "hangs", "closed"].iter().any(|word| value.starts_with(word))),
        };
        let is_clean = seen.delete.is_none() && seen.left.is_empty() && seen.changed.is_empty();
        (!is_right || !is_clean).then(|| format!("a run without an injection: {seen:?}"))
    }
}

fn observe(stage: &Stage, verb: &Verb, base: &Base, at: Option<(Point, Action)>) -> Verdict<(Seen, Trace)> {
    let mut scene = Scene::set(stage, verb)?;
    let before = stage.census(&scene.id);
    let mut command = stage.traced(&verb.words(&scene));
    let bundle = stage.bundle(verb.payload).to_owned();
    let stdio = Stdio::new((verb.stdio)(stage), &stage.dir, &mut command, vec![bundle])?;
    let partner = if verb.partner { Some((scene.init()?, "init")) } else { None };
    let programs = match stage.tested.is_empty() {
        true => vec![tracer::identity(&stage.runtime)?],
        false => stage.tested.clone(),
    };
    let killed = at.as_ref().is_some_and(|(point, action)| *action == Action::Kill && point.process == "main");
    let mut session = Session::start(Request { command, partner, programs, at })?;
    let mut seen = Seen { code: session.wait(LIMIT), ..Seen::default() };
    if seen.code.is_none() {
        kill_all();
        session.collect();
        return Ok((seen, session.finish()?));
    }
    let trace = session.finish()?;
    seen.error = stdio.errors() + &if verb.speaks { stdio.output() } else { String::new() };
    let succeeded = base.seen.as_ref().is_none_or(|base| base.code == seen.code);
    if succeeded && verb.ends {
        scene.await_end();
    }
    let after = match &base.seen {
        _ if killed => stage.census(&scene.id),
        Some(base) if succeeded => Census::settle(&stage.places(&scene.id), |now| {
            now.beyond(&before) == base.new && before.beyond(now) == base.gone
        }),
        _ => Census::settle(&stage.places(&scene.id), |now| now.beyond(&before).is_empty()),
    };
    (seen.new, seen.gone) = (after.beyond(&before), before.beyond(&after));
    seen.facts.push(("status".to_owned(), stage.status(&scene.id)));
    if succeeded {
        // The terminal is read first: after a successful create, the payload waits for `start` alone.
        if verb.before == Before::Nothing {
            scene.take_terminal()?;
        }
        seen.facts.extend(verb.facts(&scene, &stdio.output())?);
    }
    seen.changed = stdio.changed();
    seen.delete = stage.delete(&scene.id);
    let places = stage.places(&scene.id);
    seen.left = Census::settle(&places, |now| now.beyond(&base.empty).is_empty()).beyond(&base.empty);
    Ok((seen, trace))
}

/// Kills all processes but the harness.
fn kill_all() {
    for name in crate::census::cgroups() {
        let _ = std::fs::write(Path::new(&name).join("cgroup.freeze"), "0");
    }
    let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
}

/// Clears up after a fault, so that it does not disturb the next run.
fn clear(stage: &mut Stage) -> Verdict {
    kill_all();
    let root = stage.root();
    for entry in std::fs::read_dir(&root).into_iter().flatten().flatten() {
        let path = entry.path();
        let _ = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
    }
    crate::runner::unmount_below(&stage.dir);
    for _ in 0..200 {
        let left: Vec<String> = crate::census::cgroups().into_iter().filter(|name| name.contains("/sweep")).collect();
        if left.is_empty() {
            break;
        }
        left.iter().for_each(|name| crate::harness::host::remove_tree(Path::new(name)));
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    stage.revive()
}
