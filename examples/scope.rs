//! Measures the cost of systemd for a container, pair by pair. The goal is at most a fifth more than systemd's own
//! work.
//!
//! `scope COUNT BUNDLE RUNTIME...`: a round has a bare scope with the properties of the bundle's container
//! started around a sleeping child and stopped again, and then each runtime create, start and delete that
//! container, once in a scope and once in a cgroup of its own making. Prints the middle of the times and
//! of their ratios within a round. The bundle's process must wait for its end; needs root.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use windlass_base::error::{Error, Kind, Result, WithContext};
use windlass_base::spec::Spec;
use windlass_cgroup::Systemd;
use windlass_plan::unit::Unit;
use windlass_plan::{Host, Options};
use windlass_sys::process::{self, Forked, SingleThreaded};

/// The cost of one run.
#[derive(Clone, Copy)]
struct Cost {
    wall: Duration,
    /// Processor time of the program and its children.
    cpu: Duration,
}

/// Each measured command, and its cost in each round.
type Costs = BTreeMap<String, Vec<Cost>>;

fn main() -> Result<()> {
    let usage = || Error::usage("scope COUNT BUNDLE RUNTIME...");
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [count, bundle, runtimes @ ..] = words.as_slice() else { return Err(usage()) };
    let count: u32 = count.parse().map_err(|_| usage())?;
    let proof = SingleThreaded::check()?;
    let mut costs = Costs::new();
    for round in 0..count {
        bare(&of_bundle(bundle, &format!("bare-{round}"))?, &proof, &mut costs)?;
        for runtime in runtimes {
            for manager in ["--systemd-cgroup", ""] {
                container(runtime, manager, bundle, round, &mut costs)?;
            }
        }
    }
    for (what, rounds) in &costs {
        let (wall, cpu) = (middle(rounds, |cost| cost.wall), middle(rounds, |cost| cost.cpu));
        println!("{what:<44} {wall:7.2} ms wall {cpu:7.2} ms CPU");
    }
    for runtime in runtimes {
        let name = |verb: &str, manager: &str| format!("{} {manager} {verb}", base(runtime));
        for (verb, part) in [("create", "start"), ("delete", "stop")] {
            let scope = &costs[&name(verb, "--systemd-cgroup")];
            let (alone, bare) = (&costs[&name(verb, "")], &costs[&format!("bare {part}")]);
            println!(
                "{} {verb} in a scope: {:.2} x the bare {part}, {:.2} x that and the same without systemd",
                base(runtime),
                ratio(scope, |round| bare[round].wall),
                ratio(scope, |round| bare[round].wall + alone[round].wall)
            );
        }
    }
    Ok(())
}

fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Measures a scope around a child of this process.
fn bare(unit: &Unit, proof: &SingleThreaded, costs: &mut Costs) -> Result<()> {
    let child = match process::fork(nix::sched::CloneFlags::empty(), None, proof)? {
        Forked::Parent(child) => child,
        Forked::Child => loop {
            nix::unistd::pause();
        },
    };
    timed(costs, "bare start", || {
        let mut systemd = Systemd::connect(false)?;
        let serial = systemd.request_scope(unit, &child)?;
        systemd.await_scope(serial, unit)
    })?;
    child.kill();
    child.wait()?;
    timed(costs, "bare stop", || Systemd::connect(false)?.stop(&unit.name))
}

/// Measures the life of a container.
fn container(runtime: &str, manager: &str, bundle: &str, round: u32, costs: &mut Costs) -> Result<()> {
    let id = format!("c{round}");
    let command = |words: &[&str]| {
        let mut command = Command::new(runtime);
        command.args(["--root", "/run/scope-bench"]).args(Some(manager).filter(|flag| !flag.is_empty()));
        command.args(words).stdin(Stdio::null()).stderr(Stdio::inherit());
        command
    };
    let run = |costs: &mut Costs, words: &[&str]| {
        timed(costs, &format!("{} {manager} {}", base(runtime), words[0]), || {
            let status =
                command(words).stdout(Stdio::null()).status().with_context(|| format!("cannot start {runtime}"))?;
            match status.success() {
                true => Ok(()),
                false => Err(Error::new(Kind::Kernel, format!("{runtime} {words:?} failed"))),
            }
        })
    };
    run(costs, &["create", "--bundle", bundle, &id])?;
    run(costs, &["start", &id])?;
    run(costs, &["kill", &id, "KILL"])?;
    // `kill` does not wait for the end, and the measurement of `delete` must not include it.
    let stopped = || {
        let output = command(&["state", &id]).output();
        output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("\"stopped\""))
    };
    while !stopped() {
        std::thread::sleep(Duration::from_millis(5));
    }
    run(costs, &["delete", &id])
}

fn timed(costs: &mut Costs, what: &str, mut work: impl FnMut() -> Result<()>) -> Result<()> {
    // A process that moves into a cgroup waits for a grace period of the kernel, unless another process has just done
    // so. This pause makes all runs wait alike.
    std::thread::sleep(Duration::from_millis(40));
    let (before, begun) = (cpu(), Instant::now());
    work()?;
    let cost = Cost { wall: begun.elapsed(), cpu: cpu() - before };
    costs.entry(what.to_owned()).or_default().push(cost);
    Ok(())
}

/// Processor time of this process and its reaped children.
fn cpu() -> Duration {
    let of = |who| {
        getrusage(who).map_or(0, |usage| usage.user_time().num_microseconds() + usage.system_time().num_microseconds())
    };
    Duration::from_micros((of(UsageWho::RUSAGE_SELF) + of(UsageWho::RUSAGE_CHILDREN)).unsigned_abs())
}

/// The median in milliseconds.
fn middle(rounds: &[Cost], of: impl Fn(&Cost) -> Duration) -> f64 {
    median(rounds.iter().map(|cost| of(cost).as_secs_f64() * 1e3).collect())
}

fn ratio(rounds: &[Cost], to: impl Fn(usize) -> Duration) -> f64 {
    median(rounds.iter().enumerate().map(|(at, cost)| cost.wall.as_secs_f64() / to(at).as_secs_f64()).collect())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The scope of a container.
fn of_bundle(bundle: &str, name: &str) -> Result<Unit> {
    let text = std::fs::read(format!("{bundle}/config.json")).with_context(|| "cannot read config.json")?;
    let spec: Spec = windlass_base::spec::parse(&text, "config.json")?;
    let host = Host { capabilities: windlass_base::capability::CapabilitySet::all(), ..Host::default() };
    let systemd = Some(windlass_plan::unit::Systemd { user: false, prefix: "bare" });
    let plan = windlass_plan::create(name, &spec, &Options { host, systemd, ..Options::default() })?;
    plan.unit.ok_or_else(|| Error::usage("the container has no scope"))
}
