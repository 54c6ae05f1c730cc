//! The simulation: the shim on a simulated kernel, among engines, runtimes, readers and disks that act and fail at any
//! time.
//!
//! A seed determines a run, so a run that has found a fault can be repeated. Each run has its own process.
//! These rules are checked: The end of each process is reported once, after its record is on disk, in the order
//! created, started, exited, deleted, with the true exit, and that of init last. Each request is answered once. Every
//! byte that was written arrives in order, unless a mark counts the dropped ones, and before the end is reported if a
//! reader is attached. A client that gets the end of the output has everything. In the end no descriptor, child or file
//! is left. The loop never waits for anything but its descriptors and its clock. A shim that is killed at any call
//! leaves on disk what it has reported.

mod client;
mod conmon;
mod containerd;
mod crash;
mod engine;
mod life;
mod neutral;
mod output;
mod plan;
mod random;
mod requests;
mod upgrade;
mod world;

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use plan::{Mode, Plan};

/// Before a plan: run it in this process.
const ONE: &str = "--one";

/// How long a run may take. A longer run hangs.
const RUN: Duration = Duration::from_secs(180);

/// Runs one seed after the other. The arguments are the first seed and the number of seconds.
pub fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|word| word == ONE) {
        return match Plan::read(&words[1..]) {
            Some(plan) => one(&plan),
            None => ExitCode::from(2),
        };
    }
    // The arguments are a plan that was printed.
    if words.len() > 2 || words.get(1).is_some_and(|word| word.contains('=')) {
        let Some(plan) = Plan::read(&words) else { return ExitCode::from(2) };
        return report(&plan, failure(&plan).map(|why| (plan.clone(), why)));
    }
    let number = |at: usize, usual: u64| words.get(at).map_or(Some(usual), |word| word.parse().ok());
    let (Some(first), Some(seconds)) = (number(0, 1), number(1, 60)) else {
        eprintln!("usage: simulate [SEED] [SECONDS], or simulate PLAN");
        return ExitCode::from(2);
    };
    many(first, Duration::from_secs(seconds))
}

fn many(first: u64, time: Duration) -> ExitCode {
    let begin = Instant::now();
    let mut seeds = 0;
    for seed in first.. {
        if seeds > 0 && begin.elapsed() >= time {
            break;
        }
        let plan = Plan::of(seed);
        if let Some(why) = failure(&plan) {
            return report(&plan, Some(shrunk(plan.clone(), why)));
        }
        seeds += 1;
    }
    let hour = 3600.0 / begin.elapsed().as_secs_f64();
    println!("{seeds} seeds from {first} on, {:.0} an hour", seeds as f64 * hour);
    ExitCode::SUCCESS
}

fn report(plan: &Plan, found: Option<(Plan, String)>) -> ExitCode {
    let Some((smallest, why)) = found else {
        println!("{}: nothing was wrong", plan.words());
        return ExitCode::SUCCESS;
    };
    println!("seed {} fails. The smallest plan that fails: simulate {}\n{why}", plan.seed, smallest.words());
    ExitCode::FAILURE
}

/// The smallest plan that still fails, found by leaving out parts.
fn shrunk(mut plan: Plan, mut why: String) -> (Plan, String) {
    while let Some((smaller, found)) =
        plan.smaller().into_iter().find_map(|smaller| failure(&smaller).map(|found| (smaller, found)))
    {
        (plan, why) = (smaller, found);
    }
    (plan, why)
}

/// Runs a plan in its own process. Returns the fault, if there was one.
fn failure(plan: &Plan) -> Option<String> {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.arg(ONE).args(plan.words().split(' '));
    let errors = std::env::temp_dir().join(format!("windlass-simulate-{}.err", std::process::id()));
    command.stderr(std::fs::File::create(&errors).expect("a file"));
    // The server reports on standard output, and closes it.
    command.stdout(std::process::Stdio::null());
    let mut child = command.spawn().expect("it starts");
    let deadline = Instant::now() + RUN;
    let why = loop {
        match child.try_wait().expect("waited for") {
            Some(status) if status.success() => break None,
            Some(status) => break Some(status.to_string()),
            None if Instant::now() >= deadline => {
                let stack = std::fs::read_to_string(format!("/proc/{}/stack", child.id())).unwrap_or_default();
                let _ = child.kill();
                let _ = child.wait();
                break Some(format!("it takes longer than {} s: it waits, or does not end: {stack}", RUN.as_secs()));
            }
            None => std::thread::sleep(Duration::from_micros(500)),
        }
    };
    let said = std::fs::read_to_string(&errors).unwrap_or_default();
    let _ = std::fs::remove_file(&errors);
    let _ = std::fs::remove_dir_all(directory(child.id()));
    why.map(|status| format!("{}({status})", said))
}

fn directory(pid: u32) -> PathBuf {
    std::env::temp_dir().join(format!("windlass-simulate-{pid}"))
}

fn one(plan: &Plan) -> ExitCode {
    let directory = directory(std::process::id());
    std::fs::create_dir_all(directory.join("work")).expect("a directory");
    let result = match plan.mode() {
        Mode::Supervisor => engine::run(plan, &directory),
        Mode::Containerd => containerd::run(plan, &directory),
        Mode::Conmon => conmon::run(plan, &directory),
        Mode::Neutral => neutral::run(plan, &directory),
    };
    let _ = std::fs::remove_dir_all(&directory);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}
