//! Lets every system call of a command fail once, and kills its processes before every call.
//!
//! ```text
//! main ── for each scenario a harness ── worker: record ─> plan ─> case::run, oracle::judge for each injection
//!                                                 (tracer)         (stage, verbs, census, witness)
//! ```
//!
//! A scenario is a verb on a kind of bundle. Its run without an injection, under ptrace(2), gives the list of points
//! for injections, and the reference for every other run.

mod answers;
mod bundles;
mod calls;
mod case;
mod census;
mod errnos;
mod life;
mod oracle;
pub mod peers;
mod plan;
mod point;
mod report;
mod result;
mod scenario;
mod self_test;
mod stage;
mod stdio;
mod tracer;
mod verbs;
mod witness;
pub mod worker;

use crate::args::Args;
use crate::harness;
use answers::Answers;
use plan::Extent;
use report::Report;
use result::Line;
use std::collections::VecDeque;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::thread;
use worker::Order;

/// Number of harnesses at once. They mostly wait for an end, or to see that nothing changes.
const WORKERS: usize = 6;

/// The kinds of sweeps, by name.
pub const MODES: &[&str] = &["calls", "kills", "peers", "self-test"];

/// The entry of the command line.
pub fn main(args: &Args) -> ExitCode {
    let modes: Vec<&str> = args.sweep.iter().flat_map(|modes| modes.split(',')).collect();
    let has = |mode: &str| modes.contains(&mode) || modes.contains(&"all");
    let extent = Extent { calls: has("calls"), kills: has("kills"), short: args.short };
    let others = || {
        let finds = !has("self-test") || self_test::run(&args.runtime, &args.shim);
        (!has("peers") || peers::start(args)) && finds
    };
    let calls = || match sweep(args, extent) {
        Ok(report) => {
            print!("{report}");
            report.is_good()
        }
        Err(error) => {
            println!("sweep: {error}");
            false
        }
    };
    // Each sweep has its own harnesses, whose workers mostly wait.
    let is_good = if extent.calls || extent.kills {
        thread::scope(|scope| {
            let others = scope.spawn(others);
            let calls = calls();
            others.join().unwrap_or(false) && calls
        })
    } else {
        others()
    };
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The scenarios whose names contain one of the filters, each cut into as many parts as there are workers.
fn orders(args: &Args, extent: Extent, progress: &Path) -> VecDeque<Order> {
    let wanted = |name: &str| args.filters.is_empty() || args.filters.iter().any(|part| name.contains(part.as_str()));
    let scenarios = scenario::all(args.short).into_iter().filter(|scenario| wanted(&scenario.name()));
    let parts = |scenario: scenario::Scenario| {
        (0..WORKERS).map(move |part| Order {
            runtime: args.runtime.clone(),
            shim: args.shim.clone(),
            scenario: scenario.name(),
            extent,
            part: (part, WORKERS),
            progress: progress.to_owned(),
            only: args.only.first().cloned().unwrap_or_default(),
            inner: None,
        })
    };
    scenarios.flat_map(parts).collect()
}

fn sweep(args: &Args, extent: Extent) -> Result<Report, String> {
    let progress = match &args.resume {
        Some(path) => path.clone(),
        None => std::env::current_dir().map_err(|e| e.to_string())?.join("target/sweep.progress"),
    };
    let report = begin(&progress, args)?;
    let orders = Mutex::new(orders(args, extent, &progress));
    let report = Mutex::new(report);
    let file = OpenOptions::new().append(true).open(&progress).map_err(|e| format!("{}: {e}", progress.display()))?;
    let next = || orders.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let take = |line: Line| {
        // One write(2), because other workers write to the file too.
        let _ = (&file).write_all(format!("{line}\n").as_bytes());
        report.lock().unwrap_or_else(PoisonError::into_inner).take(line, true);
    };
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some(order) = next() {
                    let mut on_line = |text: &str| result::parse(text).map(&take).is_some();
                    if let Err(text) = harness::run("host", &order.to_words(), &mut on_line) {
                        take(Line::Broken { scenario: order.scenario, text });
                    }
                }
            });
        }
    });
    let mut report = report.into_inner().unwrap_or_else(PoisonError::into_inner);
    let is_whole = extent.calls && extent.kills && !extent.short && args.filters.is_empty() && args.only.is_empty();
    if is_whole {
        report.expect(Answers::load()?.expected());
    }
    Ok(report)
}

/// Opens the file of results. Results of the same programs are continued; others are begun anew.
fn begin(progress: &Path, args: &Args) -> Result<Report, String> {
    let text = fs::read_to_string(progress).unwrap_or_default();
    let stamp = |path: &Path| fs::metadata(path).map(|meta| format!("{} {}", meta.len(), meta.mtime()));
    let programs = [&args.runtime, &args.shim].map(|path| stamp(path).unwrap_or_default()).join(" ");
    let mut report = Report::default();
    if args.resume.is_some() && text.lines().next() == Some(&programs) {
        text.lines().filter_map(result::parse).for_each(|line| report.take(line, false));
        return Ok(report);
    }
    if let Some(dir) = progress.parent() {
        fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    }
    fs::write(progress, format!("{programs}\n")).map_err(|e| format!("{}: {e}", progress.display()))?;
    Ok(report)
}
