//! What the user sees: a line a case, the differences, the sum.

use crate::args::Args;
use crate::{cases, expected, harness};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::process::ExitCode;

/// Marks the lines that carry an [`Event`].
const MARK: &str = "@event ";

/// How a case ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it must.
    Pass,
    /// Otherwise.
    Fail,
    /// It could not be judged.
    Skip,
    /// Not run: this harness lacks something that another may have.
    Defer,
}

const OUTCOMES: [(Outcome, &str); 4] =
    [(Outcome::Pass, "pass"), (Outcome::Fail, "FAIL"), (Outcome::Skip, "skip"), (Outcome::Defer, "defer")];

impl Outcome {
    /// The word for it in reports.
    pub fn name(self) -> &'static str {
        OUTCOMES.iter().find(|(outcome, _)| *outcome == self).map_or("", |(_, name)| name)
    }

    /// The outcome of this name.
    pub fn named(name: &str) -> Option<Outcome> {
        OUTCOMES.iter().find(|(_, known)| *known == name).map(|(outcome, _)| *outcome)
    }
}

/// One case on one runtime.
#[derive(Clone, Debug)]
pub struct Event {
    /// The case.
    pub case: String,
    /// `runc`, `crun`, `windlass`, …
    pub runtime: String,
    /// Whether this is the peer of a comparison.
    pub peer: bool,
    /// How it ended.
    pub outcome: Outcome,
    /// Milliseconds it took.
    pub ms: u64,
    /// Why it failed or was skipped.
    pub text: String,
}

impl Event {
    /// The line by which an event leaves a harness.
    pub fn to_line(&self) -> String {
        let value = json!([self.case, self.runtime, self.peer, self.outcome.name(), self.ms, self.text]);
        format!("{MARK}{value}")
    }

    /// The event of such a line.
    pub fn from_line(line: &str) -> Option<Event> {
        let value: Value = serde_json::from_str(line.strip_prefix(MARK)?).ok()?;
        let text = |at: usize| value[at].as_str().map(str::to_owned);
        Some(Event {
            case: text(0)?,
            runtime: text(1)?,
            peer: value[2].as_bool()?,
            outcome: Outcome::named(value[3].as_str()?)?,
            ms: value[4].as_u64()?,
            text: text(5)?,
        })
    }
}

/// All events of a run, by case.
#[derive(Default)]
struct Results {
    ours: BTreeMap<String, Event>,
    peers: BTreeMap<String, Event>,
    deferred: Vec<(String, String)>,
}

impl Results {
    fn take(&mut self, harness: &str, event: Event) {
        if event.outcome == Outcome::Defer {
            if !event.peer {
                self.deferred.push((event.case, event.text));
            }
            return;
        }
        print_event(harness, &event);
        let table = if event.peer { &mut self.peers } else { &mut self.ours };
        table.insert(event.case.clone(), event);
    }

    fn count(&self, outcome: Outcome) -> usize {
        self.ours.values().filter(|event| event.outcome == outcome).count()
    }

    /// Cases that no harness could serve.
    fn skip(&mut self, harness: &str, case: String, text: String) {
        let event = Event { case, runtime: "-".to_owned(), peer: false, outcome: Outcome::Skip, ms: 0, text };
        self.take(harness, event);
    }
}

fn print_event(harness: &str, event: &Event) {
    let Event { case, runtime, outcome, ms, text, .. } = event;
    println!("{:4}  {harness:4}  {ms:6} ms  {runtime:8}  {case}", outcome.name());
    // A case that passes may have measured something.
    for line in text.lines() {
        println!("          {line}");
    }
}

/// The program as the user calls it.
pub fn main(argv: &[String]) -> ExitCode {
    let args = match Args::parse(argv) {
        Ok(args) => args,
        Err(text) => {
            print!("{text}");
            return ExitCode::from(if argv.iter().any(|a| a == "--help" || a == "-h") { 0 } else { 2 });
        }
    };
    if args.bench || args.growth {
        return crate::bench::main(&args);
    }
    if args.sweep.is_some() {
        return crate::sweep::main(&args);
    }
    let names: Vec<&str> = cases::all().map(|case| case.name).filter(|name| args.wants(name)).collect();
    if args.list {
        names.iter().for_each(|name| println!("{name}"));
        return ExitCode::SUCCESS;
    }
    if names.is_empty() {
        println!("no case matches {:?}", args.filters);
        return ExitCode::from(2);
    }
    let results = run(&args, &names);
    if args.compare.is_some() {
        print_differences(&results);
    }
    let (passed, failed, skipped) =
        (results.count(Outcome::Pass), results.count(Outcome::Fail), results.count(Outcome::Skip));
    let skips = if skipped > 0 { format!(", {skipped} skipped") } else { String::new() };
    println!("{passed} passed, {failed} failed{skips}");
    if let Some(without) = &args.without {
        println!("{}", without.describe());
    }
    if failed > 0 || passed + failed + skipped < names.len() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Runs the host first, then one User-Mode Linux boot for what it deferred.
fn run(args: &Args, names: &[&str]) -> Results {
    let mut results = Results::default();
    let order: &[&str] = match args.harness.as_deref() {
        Some("host") => &["host"],
        Some(_) => &["uml"],
        None => &["host", "uml"],
    };
    let mut left: Vec<(String, String)> = names.iter().map(|name| ((*name).to_owned(), String::new())).collect();
    for harness in order {
        if left.is_empty() {
            break;
        }
        let request =
            Args { only: left.iter().map(|(name, _)| name.clone()).collect(), filters: Vec::new(), ..args.clone() };
        let mut take = |line: &str| Event::from_line(line).map(|event| results.take(harness, event)).is_some();
        let done = harness::run(harness, &request.to_words(), &mut take);
        let deferred = std::mem::take(&mut results.deferred);
        if let Err(error) = done {
            lost(&mut results, harness, &left, &deferred, &error);
        }
        left = deferred;
    }
    let last = order.last().copied().unwrap_or("-");
    for (case, reason) in left {
        results.skip(last, case, reason);
    }
    results
}

/// A harness that ended early: its remaining cases fail, visibly.
fn lost(results: &mut Results, harness: &str, asked: &[(String, String)], deferred: &[(String, String)], error: &str) {
    println!("{harness}: {error}");
    for (case, _) in asked {
        if results.ours.contains_key(case) || deferred.iter().any(|(name, _)| name == case) {
            continue;
        }
        let event = Event {
            case: case.clone(),
            runtime: "-".to_owned(),
            peer: false,
            outcome: Outcome::Fail,
            ms: 0,
            text: "not run: the harness ended early, see above".to_owned(),
        };
        results.take(harness, event);
    }
}

fn print_differences(results: &Results) {
    let mut lines = Vec::new();
    for (case, ours) in &results.ours {
        let Some(peer) = results.peers.get(case) else {
            continue;
        };
        let reason = expected::reason(&peer.runtime, case);
        if ours.outcome != peer.outcome || (reason.is_some() && peer.outcome == Outcome::Pass) {
            let first = |event: &Event| event.text.lines().next().unwrap_or_default().to_owned();
            let why = match (reason, peer.outcome) {
                (Some(reason), Outcome::Pass) => format!("expected to differ, and does no longer: {reason}"),
                (Some(reason), _) => reason.to_owned(),
                (None, Outcome::Pass) => format!("ours: {}", first(ours)),
                (None, Outcome::Skip) => first(peer),
                (None, _) => format!("not explained: {}", first(peer)),
            };
            lines.push(format!(
                "  {case}: ours {}, {} {}: {why}",
                ours.outcome.name(),
                peer.runtime,
                peer.outcome.name()
            ));
        }
    }
    println!("\n{} differences", lines.len());
    lines.iter().for_each(|line| println!("{line}"));
    println!();
}

#[cfg(test)]
mod tests {
    use super::{Event, Outcome};

    #[test]
    fn an_event_survives_its_line() {
        let event = Event {
            case: "a::b".to_owned(),
            runtime: "runc".to_owned(),
            peer: true,
            outcome: Outcome::Fail,
            ms: 12,
            text: "two\nlines \"quoted\"".to_owned(),
        };
        let line = event.to_line();
        assert!(!line.contains('\n'));
        let back = Event::from_line(&line).expect("our own line");
        assert_eq!((back.case, back.outcome, back.ms, back.text), (event.case, event.outcome, event.ms, event.text));
    }

    #[test]
    fn other_lines_are_no_events() {
        assert!(Event::from_line("Linux version 6.1").is_none());
        assert!(Event::from_line("@event [1,2]").is_none());
    }
}
