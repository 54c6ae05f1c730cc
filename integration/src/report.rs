//! The output for the user: a line for each case, the differences, the sum.

use crate::args::Args;
use crate::event::{CaseOutcome, Event};
use crate::progress::Progress;
use crate::{cases, expected, harness};
use std::collections::BTreeMap;
use std::process::ExitCode;

/// All events of a run, by case.
struct Results {
    progress: Progress,
    ours: BTreeMap<String, Event>,
    peers: BTreeMap<String, Event>,
    deferred: Vec<(String, String)>,
}

impl Results {
    fn new(progress: Progress) -> Results {
        Results { progress, ours: BTreeMap::new(), peers: BTreeMap::new(), deferred: Vec::new() }
    }

    fn take(&mut self, harness: &str, event: Event) {
        self.progress.take(harness, &event);
        if event.outcome == CaseOutcome::Defer {
            if !event.peer {
                self.deferred.push((event.case, event.text));
            }
            return;
        }
        let table = if event.peer { &mut self.peers } else { &mut self.ours };
        table.insert(event.case.clone(), event);
    }

    fn count(&self, outcome: CaseOutcome) -> usize {
        self.ours.values().filter(|event| event.outcome == outcome).count()
    }

    /// Cases that no harness could serve.
    fn skip(&mut self, harness: &str, case: String, text: String) {
        let event = Event { case, runtime: "-".to_owned(), peer: false, outcome: CaseOutcome::Skip, ms: 0, text };
        self.take(harness, event);
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
    let mut results = run(&args, &names);
    results.progress.finish();
    results.progress.skipped(results.ours.values());
    if args.compare.is_some() {
        print_differences(&results);
    }
    let (passed, failed, skipped) =
        (results.count(CaseOutcome::Pass), results.count(CaseOutcome::Fail), results.count(CaseOutcome::Skip));
    let skips = if skipped > 0 { format!(", {skipped} skipped") } else { String::new() };
    println!("{passed} passed, {failed} failed{skips}");
    if let Some(without) = &args.without {
        println!("{}", without.describe());
    }
    if failed > 0 || passed + failed + skipped < names.len() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Runs the host first, then one User-Mode Linux boot for the deferred cases.
fn run(args: &Args, names: &[&str]) -> Results {
    let mut results = Results::new(Progress::new(names.len(), args.brief));
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

/// Records a harness that ended early: its remaining cases fail, visibly.
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
            outcome: CaseOutcome::Fail,
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
        if ours.outcome != peer.outcome || (reason.is_some() && peer.outcome == CaseOutcome::Pass) {
            let first = |event: &Event| event.text.lines().next().unwrap_or_default().to_owned();
            let why = match (reason, peer.outcome) {
                (Some(reason), CaseOutcome::Pass) => format!("expected to differ, and does no longer: {reason}"),
                (Some(reason), _) => reason.to_owned(),
                (None, CaseOutcome::Pass) => format!("ours: {}", first(ours)),
                (None, CaseOutcome::Skip) => first(peer),
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
