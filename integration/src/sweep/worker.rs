//! Inside a harness: sweeps one scenario, one line for each injection.

use super::answers::Answers;
use super::case::{Base, Subject};
use super::errnos::Table;
use super::oracle::Outcome;
use super::plan::{Extent, plan};
use super::point::{Action, Point};
use super::result::Line;
use super::scenario::Scenario;
use super::stage::Stage;
use super::tracer::{self, Trace};
use crate::kit::stop::{Context, Verdict, fail};
use crate::kit::{Stop, rootfs};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

/// The order for a worker, which is passed as arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// The runtime under test.
    pub runtime: PathBuf,
    /// The shim under test.
    pub shim: PathBuf,
    /// `VERB/KIND`.
    pub scenario: String,
    /// The extent of the injections.
    pub extent: Extent,
    /// The index of its part, and the number of parts.
    pub part: (usize, usize),
    /// The file with the results of an earlier run.
    pub progress: PathBuf,
    /// Only injections whose text contains this.
    pub only: String,
    /// The program under test, if the runtime is a script that executes it.
    pub inner: Option<PathBuf>,
}

impl Order {
    /// As arguments.
    pub fn to_words(&self) -> Vec<String> {
        let flag = |on: bool| if on { "1" } else { "0" }.to_owned();
        let path = |path: &Path| path.display().to_string();
        vec![
            "@sweep".to_owned(),
            path(&self.runtime),
            path(&self.shim),
            self.scenario.clone(),
            flag(self.extent.calls) + &flag(self.extent.kills) + &flag(self.extent.short),
            format!("{}/{}", self.part.0, self.part.1),
            path(&self.progress),
            self.only.clone(),
            self.inner.as_deref().map(path).unwrap_or_default(),
        ]
    }

    /// From those arguments.
    pub fn parse(words: &[String]) -> Option<Order> {
        let [mark, runtime, shim, scenario, flags, part, progress, only, inner] = words else {
            return None;
        };
        let flags: Vec<bool> = flags.chars().map(|c| c == '1').collect();
        let (calls, kills, short) = (*flags.first()?, *flags.get(1)?, *flags.get(2)?);
        let (part, parts) = part.split_once('/')?;
        (mark == "@sweep").then_some(Order {
            runtime: runtime.into(),
            shim: shim.into(),
            scenario: scenario.clone(),
            extent: Extent { calls, kills, short },
            part: (part.parse().ok()?, parts.parse().ok()?),
            progress: progress.into(),
            only: only.clone(),
            inner: (!inner.is_empty()).then(|| inner.into()),
        })
    }
}

/// The process of a worker.
pub fn main(words: &[String]) -> ExitCode {
    let Some(order) = Order::parse(words) else {
        return ExitCode::from(125);
    };
    if let Err(stop) = sweep(&order) {
        println!("{}", Line::Broken { scenario: order.scenario, text: stop.to_string() });
    }
    ExitCode::SUCCESS
}

fn sweep(order: &Order) -> Verdict {
    let Some(scenario) = Scenario::named(&order.scenario) else {
        return fail("there is no such scenario");
    };
    rootfs::prepare()?;
    crate::sys::make_usr1_interrupt().context("a handler for SIGUSR1")?;
    let watched = own_tmp(order)?;
    let dir = Path::new(rootfs::MASTER).with_file_name("sweep");
    let mut stage = Stage::new((&order.runtime, &order.shim), &dir, scenario.kind, watched)?;
    if let Some(inner) = &order.inner {
        // The shell of the script is traced until it executes the program.
        stage.tested = vec![tracer::identity(Path::new("/bin/sh"))?, tracer::identity(inner)?];
    }
    let (base, trace) = record(&mut stage, scenario.subject)?;
    let table = Table::load().map_err(Stop::Fail)?;
    let answers = Answers::load().map_err(Stop::Fail)?;
    let plan = plan(&trace, &table, order.extent).map_err(Stop::Fail)?;
    if order.part.0 == 0 {
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let (calls, infallible, points) =
            (count(trace.calls.len()), count(plan.infallible), count(plan.injections.len()));
        println!("{}", Line::Recorded { scenario: order.scenario.clone(), calls, infallible, points });
    }
    let done = done(&order.progress);
    for (point, action) in plan.injections.into_iter().skip(order.part.0).step_by(order.part.1) {
        let key = format!("{} {point} {action}", order.scenario);
        if done.contains(&key) || !key.contains(&order.only) {
            continue;
        }
        let begun = Instant::now();
        let outcome = inject(&mut stage, scenario, &base, &answers, (point, action));
        println!("{}", Line::of(key, outcome, u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX)));
    }
    Ok(())
}

/// Mounts a new /tmp, unless a program is in it. Files that are left there or in /run are then noticed.
fn own_tmp(order: &Order) -> Verdict<Vec<PathBuf>> {
    if [&order.runtime, &order.shim, &order.progress].iter().any(|path| path.starts_with("/tmp")) {
        return Ok(vec!["/run".into()]);
    }
    mount(Some("tmpfs"), "/tmp", Some("tmpfs"), MsFlags::empty(), Some("mode=1777")).context("a tmpfs at /tmp")?;
    Ok(vec!["/run".into(), "/tmp".into()])
}

/// The results in the file of an earlier run.
fn done(progress: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(progress).unwrap_or_default();
    let keys = text.lines().filter_map(super::result::parse).filter_map(|line| match line {
        Line::Injected { key, .. } => Some(key),
        _ => None,
    });
    keys.collect()
}

/// The attempts to reach a point. On a busy machine, a process waits in fewer or more calls than in the recording.
const ATTEMPTS: usize = 8;

/// Runs the subject without an injection: two runs must agree, and the points are the calls that three runs make.
fn record(stage: &mut Stage, subject: Subject) -> Verdict<(Base, Trace)> {
    // The first run makes the lasting files: mount points in the root filesystem, directories of the programs.
    let mut base = Base { empty: stage.census(""), seen: None };
    subject.run(stage, &base, None)?;
    base.empty = stage.census("");
    let (seen, first) = subject.run(stage, &base, None)?;
    if let Some(why) = subject.is_wrong(&seen) {
        return fail(why);
    }
    base.seen = Some(seen.clone());
    let (again, mut trace) = subject.run(stage, &base, None)?;
    let (_, last) = subject.run(stage, &base, None)?;
    trace.keep_common(&[first, last]);
    let nowhere = Point { process: String::new(), call: String::new(), nth: 0 };
    match subject.judge(&seen, &again, &nowhere, Action::Fail(Errno::EIO)) {
        Outcome::Tolerated => Ok((base, trace)),
        other => fail(format!("two runs without an injection differ: {other:?}\n{again:?}")),
    }
}

/// Makes one injection. A point that is not reached is tried again, and a fault twice.
fn inject(
    stage: &mut Stage,
    scenario: Scenario,
    base: &Base,
    answers: &Answers,
    (point, action): (Point, Action),
) -> Outcome {
    let subject = scenario.subject;
    let mut outcome = Outcome::Unreached;
    for _ in 0..ATTEMPTS {
        outcome = once(stage, subject, base, &point, action);
        if outcome != Outcome::Unreached {
            break;
        }
    }
    let Outcome::Fault(kind, text) = &outcome else {
        return outcome;
    };
    if let Some(row) = answers.find(&scenario.name(), &point, action, (*kind, text.as_str())) {
        return Outcome::Answered(row.to_owned());
    }
    match once(stage, subject, base, &point, action) {
        Outcome::Fault(again, _) if again == *kind => outcome,
        other => Outcome::Fault(kind, format!("{text}\n(in one of two runs; the other: {other:?})")),
    }
}

fn once(stage: &mut Stage, subject: Subject, base: &Base, point: &Point, action: Action) -> Outcome {
    let (seen, trace) = match subject.run(stage, base, Some((point.clone(), action))) {
        Ok(done) => done,
        Err(stop) => return Outcome::Fault("the sweep itself", stop.to_string()),
    };
    if !trace.reached {
        return Outcome::Unreached;
    }
    let Some(right) = &base.seen else {
        return Outcome::Fault("the sweep itself", "nothing to compare with".to_owned());
    };
    subject.judge(right, &seen, point, action)
}

#[cfg(test)]
mod tests {
    use super::{Extent, Order};

    #[test]
    fn an_order_survives_its_words() {
        let order = Order {
            runtime: "/r".into(),
            shim: "/s".into(),
            scenario: "run/plain".to_owned(),
            extent: Extent { calls: true, kills: false, short: true },
            part: (1, 3),
            progress: "/p".into(),
            only: String::new(),
            inner: Some("/i".into()),
        };
        assert_eq!(Order::parse(&order.to_words()), Some(order));
        assert_eq!(Order::parse(&["@sweep".to_owned()]), None);
    }
}
