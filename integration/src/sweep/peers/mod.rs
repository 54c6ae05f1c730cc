//! Compares windlass with runc and crun: random configurations, and the payload's report with each runtime.
//!
//! ```text
//! generate ── sample ──> observe (one run a runtime; probe is the payload) ── normal ──> fields
//!                                                              known: each difference is explained, or shrunk
//! ```

mod generate;
mod known;
mod normal;
mod observe;
pub mod probe;
mod rng;
mod shrink;
mod world;

use crate::args::Args;
use crate::ensure;
use crate::harness;
use crate::kit::runtime::RuntimeKind;
use crate::kit::{Stop, Verdict, stop::fail, stop::skip};
pub use known::glob;
use known::{Difference, Known, differences};
use observe::{Runtime, observe};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use world::World;

/// The directory of the sweep's files, on a tmpfs of the harness.
const DIR: &str = "/run/windlass-peers";

/// How long the short form lasts.
const SHORT: Duration = Duration::from_secs(60);

/// The time in which the short form shrinks one difference.
const SHRINK: Duration = Duration::from_secs(20);

/// The most samples that are run to shrink one difference.
const MOST: usize = 150;

/// The sweep ends after this many unexplained differences, because each takes a while to shrink.
const ENOUGH: usize = 20;

/// After this many samples, entries of the list of known differences that explained nothing are reported.
const MANY: u64 = 2000;

/// Runs the sweep in a harness. Returns whether all differences are explained.
pub fn start(args: &Args) -> bool {
    let mut words = vec!["@peers".to_owned()];
    words.extend(args.to_words());
    let name = args.harness.as_deref().unwrap_or("host");
    let ended = harness::run(name, &words, &mut |_| false);
    ended.inspect_err(|error| println!("peers: {error}")).is_ok()
}

/// The sweep itself, inside the harness. `words` are `@peers` and the rest of the command line.
pub fn main(words: &[String]) -> ExitCode {
    let args = match Args::parse(words.get(1..).unwrap_or_default()) {
        Ok(args) => args,
        Err(text) => {
            println!("peers: {text}");
            return ExitCode::from(125);
        }
    };
    match sweep(&args) {
        Ok(text) => {
            println!("peers: {text}");
            ExitCode::SUCCESS
        }
        Err(Stop::Skip(reason)) => {
            println!("peers: SKIPPED: {reason}");
            ExitCode::SUCCESS
        }
        Err(Stop::Fail(text)) => {
            println!("peers: FAILED: {text}");
            ExitCode::FAILURE
        }
    }
}

/// The runtimes, the known differences, and the counts.
struct Sweep {
    world: World,
    ours: Runtime,
    peers: Vec<Runtime>,
    known: Known,
    samples: u64,
    fields: usize,
    explained: usize,
    refused: usize,
    unexplained: usize,
    hung: usize,
    short: bool,
}

/// A difference that nothing explains.
struct Finding {
    peer: Runtime,
    difference: Difference,
    /// The error of the runtime that refused.
    said: String,
}

fn sweep(args: &Args) -> Verdict<String> {
    let peers = peers(args.compare.as_deref());
    if peers.is_empty() {
        return skip("NO PEER IS INSTALLED (runc, crun): nothing was compared");
    }
    let mut sweep = Sweep {
        world: World::new(Path::new(DIR))?,
        ours: Runtime { path: args.runtime.clone(), kind: RuntimeKind::of(&args.runtime) },
        peers,
        known: Known::list().map_err(Stop::Fail)?,
        samples: 0,
        fields: 0,
        explained: 0,
        refused: 0,
        unexplained: 0,
        hung: 0,
        short: args.short,
    };
    let ground = generate::Ground::here(sweep.world.sources.clone());
    let start = Instant::now();
    for seed in args.seed..args.seed.saturating_add(args.count) {
        if (args.short && start.elapsed() > SHORT) || sweep.unexplained >= ENOUGH {
            break;
        }
        let sample = generate::sample(seed, &ground);
        sweep.samples += 1;
        for finding in sweep.compare(&sample)? {
            println!("{}", sweep.shown(seed, &sample, &finding));
            sweep.unexplained += 1;
        }
    }
    let text = sweep.sum(args.seed, start.elapsed());
    if sweep.unexplained == 0 { Ok(text) } else { fail(text) }
}

/// The peer that was named, or all that are installed.
fn peers(named: Option<&Path>) -> Vec<Runtime> {
    let dirs = ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"];
    let installed = |name: &str| dirs.iter().map(|dir| Path::new(dir).join(name)).find(|path| path.is_file());
    let paths = match named {
        Some(path) => vec![path.to_owned()],
        None => ["runc", "crun"].into_iter().filter_map(installed).collect(),
    };
    let runtime = |path: PathBuf| Runtime { kind: RuntimeKind::of(&path), path };
    paths.into_iter().map(runtime).filter(|peer| matches!(peer.kind, RuntimeKind::Runc | RuntimeKind::Crun)).collect()
}

impl Sweep {
    /// Runs a sample on all runtimes. Returns one unexplained difference for each peer and kind of field.
    fn compare(&mut self, sample: &Value) -> Verdict<Vec<Finding>> {
        let seen = observe(&self.world, &self.ours, sample)?;
        ensure!(!seen.hangs(), "windlass does not end: {sample}");
        let mut findings: Vec<Finding> = Vec::new();
        for peer in &self.peers {
            let theirs = observe(&self.world, peer, sample)?;
            if theirs.hangs() {
                // There is nothing to compare, and the fault is not ours.
                self.hung += 1;
                continue;
            }
            self.fields += seen.fields.len().max(theirs.fields.len());
            for difference in differences(&seen, &theirs) {
                self.refused += usize::from(difference.field == "accepted");
                let said = if difference.ours == "yes" { &theirs.said } else { &seen.said };
                if self.known.explains(peer.kind, &difference, sample, said) {
                    self.explained += 1;
                    continue;
                }
                let finding = Finding { peer: peer.clone(), difference, said: said.clone() };
                if !findings.iter().any(|other| other.group() == finding.group()) {
                    findings.push(finding);
                }
            }
        }
        Ok(findings)
    }

    /// The smallest sample that shows the same.
    fn smallest(&self, sample: &Value, finding: &Finding) -> Value {
        let begun = Instant::now();
        shrink::shrink(sample, MOST, &mut |candidate| {
            if !generate::is_sound(candidate) || (self.short && begun.elapsed() > SHRINK) {
                return false;
            }
            let one = observe(&self.world, &self.ours, candidate);
            let (Ok(one), Ok(other)) = (one, observe(&self.world, &finding.peer, candidate)) else { return false };
            let refused = finding.difference.field == "accepted";
            let same_words = !refused || [&one.said, &other.said].contains(&&finding.said);
            same_words && differences(&one, &other).contains(&finding.difference)
        })
    }

    fn shown(&self, seed: u64, sample: &Value, finding: &Finding) -> String {
        let Difference { field, ours, theirs } = &finding.difference;
        let said = if field == "accepted" { format!("\n  said: {}", finding.said) } else { String::new() };
        let (peer, smallest) = (finding.peer.kind.name(), self.smallest(sample, finding));
        format!("seed {seed}: {field}\n  windlass: {ours}\n  {peer}: {theirs}{said}\n  smallest: {smallest}")
    }

    fn sum(&self, seed: u64, took: Duration) -> String {
        let names: Vec<&str> = self.peers.iter().map(|peer| peer.kind.name()).collect();
        let mut text = format!(
            "{} samples from seed {seed} beside {} in {} s: {} fields compared, {} differences with a known reason, \
             {} refusals by one alone, {} times a peer did not end, {} unexplained",
            self.samples,
            names.join(" and "),
            took.as_secs(),
            self.fields,
            self.explained,
            self.refused,
            self.hung,
            self.unexplained
        );
        if self.samples >= MANY {
            self.known.unused().iter().for_each(|entry| text += &format!("\nexplained nothing: {entry}"));
        }
        text
    }
}

impl Finding {
    /// The peer and the first word of the field. A sample reports each such pair once.
    fn group(&self) -> (RuntimeKind, &str) {
        (self.peer.kind, self.difference.field.split(['/', ' ']).next().unwrap_or_default())
    }
}
