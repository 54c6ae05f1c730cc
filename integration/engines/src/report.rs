//! The output for the user: a line for each case, the differences with their reasons, the sum.

use crate::args::Args;
use crate::cases;
use crate::engine::Engine;
use crate::expected;
use crate::results::{Cell, Results, Table};
use crate::runner::Request;
use crate::session::Below;
use integration::event::{CaseOutcome, Event};
use integration::harness;
use integration::kit::runtime::RuntimeKind;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::thread;

/// The program as the user calls it.
pub fn main(argv: &[String]) -> ExitCode {
    let args = match Args::parse(argv) {
        Ok(args) => args,
        Err(text) => {
            print!("{text}");
            return ExitCode::from(if argv.iter().any(|word| word == "--help" || word == "-h") { 0 } else { 2 });
        }
    };
    let asked: Vec<(Engine, Vec<String>)> = Engine::ALL
        .into_iter()
        .filter(|engine| args.wants_engine(*engine))
        .map(|engine| (engine, cases::names(engine).filter(|name| args.wants(name)).collect()))
        .filter(|(_, names): &(_, Vec<String>)| !names.is_empty())
        .collect();
    if args.list {
        asked.iter().flat_map(|(_, names)| names).for_each(|name| println!("{name}"));
        return ExitCode::SUCCESS;
    }
    if asked.is_empty() {
        println!("no case matches {:?}", args.filters);
        return ExitCode::from(2);
    }
    let results = Mutex::new(Results::default());
    for (engine, names) in &asked {
        if args.again {
            run(&Args { peer: None, ..args.clone() }, *engine, names.clone(), &results);
            let failed = failed(&results, *engine);
            if !failed.is_empty() {
                println!("once more, beside the peer: {}", failed.join(" "));
                run(&args, *engine, failed, &results);
            }
        } else {
            run(&args, *engine, names.clone(), &results);
        }
    }
    let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    let unexplained = print_differences(&results.table, &args.release, args.again);
    println!("{}", sum(&results.table));
    if let Some(path) = &args.results {
        let engines: Vec<Engine> = asked.iter().map(|(engine, _)| *engine).collect();
        if let Err(error) = results.save(path, &args, &engines) {
            println!("{}: {error}", path.display());
            return ExitCode::FAILURE;
        }
    }
    if unexplained > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Runs these cases of an engine with every runtime and shim.
fn run(args: &Args, engine: Engine, cases: Vec<String>, results: &Mutex<Results>) {
    // The runtimes run side by side, because most of the time they wait.
    thread::scope(|scope| {
        for below in combinations(args, engine) {
            let request = Request { engine, below, long: args.long, cases: cases.clone() };
            scope.spawn(move || everywhere(args, request, results));
        }
    });
}

/// The cases of an engine that failed on any column.
fn failed(results: &Mutex<Results>, engine: Engine) -> Vec<String> {
    let results = results.lock().unwrap_or_else(PoisonError::into_inner);
    let prefix = format!("{}::", engine.name());
    let of_engine = results.table.iter().filter(|(case, _)| case.starts_with(&prefix));
    of_engine
        .filter(|(_, row)| row.values().any(|cell| cell.outcome == CaseOutcome::Fail))
        .map(|(case, _)| case.clone())
        .collect()
}

/// Each runtime, below the engine's own shim and below ours.
fn combinations(args: &Args, engine: Engine) -> Vec<Below> {
    let shims: Vec<Option<PathBuf>> = match &args.shim {
        Some(shim) if engine.has_shim() => vec![None, Some(shim.clone())],
        _ => vec![None],
    };
    let runtimes: Vec<&PathBuf> = args.peer.iter().chain([&args.runtime]).collect();
    let below = |runtime: &PathBuf, shim: &Option<PathBuf>| Below {
        runtime: runtime.clone(),
        kind: RuntimeKind::of(runtime),
        shim: shim.clone(),
    };
    shims.iter().flat_map(|shim| runtimes.iter().map(move |runtime| below(runtime, shim))).collect()
}

/// Runs the host first, then one User-Mode Linux boot for the deferred cases.
fn everywhere(args: &Args, mut request: Request, results: &Mutex<Results>) {
    let mut run = Run { results, deferred: Vec::new(), done: Vec::new(), label: request.below.label() };
    let order: &[&str] = match args.harness.as_deref() {
        Some("host") => &["host"],
        Some(_) => &["uml"],
        None => &["host", "uml"],
    };
    let mut reasons = Vec::new();
    for harness in order {
        if request.cases.is_empty() {
            break;
        }
        let mut take = |line: &str| Event::from_line(line).map(|event| run.take(harness, event)).is_some();
        let done = harness::run(harness, &request.to_words(), &mut take);
        reasons = std::mem::take(&mut run.deferred);
        if let Err(error) = done {
            run.lost(harness, &request.cases, &reasons, &error);
        }
        request.cases = reasons.iter().map(|(case, _)| case.clone()).collect();
    }
    for (case, text) in reasons {
        run.invent("-", case, CaseOutcome::Skip, text);
    }
}

/// The cases of one combination, which run in one harness after the other.
struct Run<'r> {
    results: &'r Mutex<Results>,
    deferred: Vec<(String, String)>,
    done: Vec<String>,
    label: String,
}

impl Run<'_> {
    fn take(&mut self, harness: &str, event: Event) {
        if event.outcome == CaseOutcome::Defer {
            self.deferred.push((event.case, event.text));
            return;
        }
        let Event { case, runtime, outcome, ms, text, .. } = event;
        let mut shown = format!("{:4}  {harness:4}  {ms:6} ms  {runtime:13}  {case}\n", outcome.name());
        for line in text.lines().filter(|_| outcome != CaseOutcome::Pass) {
            shown += &format!("          {line}\n");
        }
        print!("{shown}");
        self.done.push(case.clone());
        let mut results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        let cell = Cell { outcome, text, harness: harness.to_owned() };
        results.table.entry(case).or_default().insert(runtime, cell);
    }

    /// Records a harness that ended early: its remaining cases fail, visibly.
    fn lost(&mut self, harness: &str, asked: &[String], deferred: &[(String, String)], error: &str) {
        for case in asked {
            if !self.done.contains(case) && !deferred.iter().any(|(name, _)| name == case) {
                self.invent(harness, case.clone(), CaseOutcome::Fail, format!("not run: {error}"));
            }
        }
    }

    fn invent(&mut self, harness: &str, case: String, outcome: CaseOutcome, text: String) {
        self.take(harness, Event { case, runtime: self.label.clone(), peer: false, outcome, ms: 0, text });
    }
}

/// Prints where runtimes differ and which cases fail on all. Returns how many of these have no reason listed.
/// `machine`: a failure on all is a fault of the machine.
fn print_differences(table: &Table, release: &str, machine: bool) -> usize {
    let mut lines = Vec::new();
    let mut unexplained = 0;
    for (case, row) in table {
        let failed: Vec<&String> =
            row.iter().filter(|(_, cell)| cell.outcome == CaseOutcome::Fail).map(|(label, _)| label).collect();
        let known = expected::about(case, release);
        let all = failed.len() == row.len();
        let why = match known {
            Some(known)
                if row.values().all(|cell| cell.outcome == CaseOutcome::Pass)
                    && row.keys().any(|label| known.is_about(label)) =>
            {
                format!("expected to fail, and does no longer: {}", known.reason)
            }
            _ if failed.is_empty() => continue,
            Some(known) if known.covers(&failed, all) => known.reason.to_owned(),
            _ if machine && all && row.keys().any(|label| !label.starts_with("windlass")) => {
                "the engine's or the machine's".to_owned()
            }
            _ => {
                unexplained += 1;
                let texts = failed.iter().filter_map(|label| row.get(*label)).map(|cell| &cell.text);
                format!(
                    "not explained: {}",
                    texts.flat_map(|text| text.lines().take(3)).collect::<Vec<_>>().join(" | ")
                )
            }
        };
        let cells: Vec<String> = row.iter().map(|(label, cell)| format!("{label} {}", cell.outcome.name())).collect();
        lines.push(format!("  {case}: {}: {why}", cells.join(", ")));
    }
    println!("\n{} differences and failures", lines.len());
    lines.iter().for_each(|line| println!("{line}"));
    unexplained
}

/// How many passed, by column.
fn sum(table: &Table) -> String {
    let mut columns: BTreeMap<&str, [usize; 3]> = BTreeMap::new();
    for (label, cell) in table.values().flatten() {
        let column = columns.entry(label).or_default();
        match cell.outcome {
            CaseOutcome::Pass => column[0] += 1,
            CaseOutcome::Fail => column[1] += 1,
            CaseOutcome::Skip | CaseOutcome::Defer => column[2] += 1,
        }
    }
    let line = |(label, [pass, fail, skip]): (&&str, &[usize; 3])| {
        format!("{label}: {pass} passed, {fail} failed, {skip} skipped")
    };
    columns.iter().map(line).collect::<Vec<_>>().join("\n")
}
