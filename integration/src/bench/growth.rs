//! How times grow with the number of mounts, containers and processes, with the size of the configuration, and with
//! how many containers are made at once.

use super::rounds::{Bench, BenchCase, DIR, reap, sleeping};
use super::spec;
use crate::kit::{Verdict, stop::fail};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant};

/// The cases by name.
pub(super) const ALL: &[(&str, BenchCase)] = &[
    ("mounts", mounts),
    ("config", config),
    ("containers", containers),
    ("processes", processes),
    ("concurrent", concurrent),
];

/// Containers for a figure of throughput, independent of how many run at once.
const MADE: usize = 64;

fn runs(bench: &mut Bench, case: &str, name: &str, spec: &dyn Fn() -> Value) -> Verdict {
    for round in 0..bench.rounds {
        for who in 0..bench.runtimes.len() {
            let bundle = bench.runtimes[who].bundle(name, spec)?;
            let id = bench.runtimes[who].id(&format!("g{round}"));
            bench.verb(case, who, &["run", "--bundle", &bundle, &id])?;
            reap();
        }
    }
    Ok(())
}

fn mounts(bench: &mut Bench) -> Verdict {
    let source = format!("{}/source", DIR);
    fs::create_dir_all(&source)?;
    for n in [10, 100, 1000] {
        let spec = || {
            let mut spec = spec::a();
            spec["root"]["readonly"] = json!(false);
            let more = (0..n).map(
                |i| json!({"destination": format!("/mnt/{i}"), "type": "bind", "source": source, "options": ["bind", "ro"]}),
            );
            if let Some(mounts) = spec["mounts"].as_array_mut() {
                mounts.extend(more);
            }
            spec
        };
        runs(bench, &format!("run, {n} bind mounts"), &format!("mounts{n}"), &spec)?;
    }
    Ok(())
}

fn config(bench: &mut Bench) -> Verdict {
    for kib in [10, 100, 1000] {
        let spec = || {
            let mut spec = spec::a();
            // 16 to a KiB.
            let notes = (0..kib * 16).map(|i| (format!("com.example.note/{i:06}"), json!("x".repeat(34))));
            spec["annotations"] = Value::Object(notes.collect());
            spec
        };
        runs(bench, &format!("run, config of {kib} KiB"), &format!("config{kib}"), &spec)?;
    }
    Ok(())
}

fn containers(bench: &mut Bench) -> Verdict {
    let mut there = 0;
    for n in [1, 10, 100, 1000] {
        for runtime in &bench.runtimes {
            let bundle = runtime.bundle("A-sleep", || sleeping(spec::a()))?;
            for i in there..n {
                runtime.must(&["create", "--bundle", &bundle, &runtime.id(&format!("c{i}"))])?;
            }
        }
        there = n;
        for round in 0..bench.rounds.div_ceil(3) {
            for who in 0..bench.runtimes.len() {
                bench.verb(&format!("state, {n} containers"), who, &["state", &bench.runtimes[who].id("c0")])?;
                bench.verb(&format!("list, {n} containers"), who, &["list"])?;
                let runtime = &bench.runtimes[who];
                let (bundle, id) = (runtime.bundle("A", spec::a)?, runtime.id(&format!("n{round}")));
                bench.verb(&format!("run, {n} containers"), who, &["run", "--bundle", &bundle, &id])?;
            }
        }
    }
    for runtime in &bench.runtimes {
        for i in 0..there {
            runtime.must(&["delete", "--force", &runtime.id(&format!("c{i}"))])?;
        }
    }
    reap();
    Ok(())
}

fn processes(bench: &mut Bench) -> Verdict {
    for n in [1, 10, 100, 1000] {
        for runtime in &bench.runtimes {
            let spec = || {
                let mut spec = spec::a();
                let script =
                    format!("i=1; while [ $i -lt {n} ]; do sleep 100000 & i=$((i+1)); done; exec sleep 100000");
                spec["process"]["args"] = json!(["/bin/sh", "-c", script]);
                spec
            };
            let bundle = runtime.bundle(&format!("processes{n}"), spec)?;
            let id = runtime.id("p");
            runtime.must(&["create", "--bundle", &bundle, &id])?;
            runtime.must(&["start", &id])?;
            let deadline = Instant::now() + Duration::from_secs(20);
            while runtime
                .command(&["ps", "--format", "json", &id])
                .stdout(std::process::Stdio::piped())
                .output()?
                .stdout
                .split(|byte| *byte == b',')
                .count()
                < n
            {
                if Instant::now() > deadline {
                    return fail(format!("{n} processes have not come"));
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        for _ in 0..bench.rounds {
            for who in 0..bench.runtimes.len() {
                let id = bench.runtimes[who].id("p");
                bench.verb(&format!("ps, {n} processes"), who, &["ps", "--format", "json", &id])?;
                bench.verb(&format!("kill --all, {n} processes"), who, &["kill", "--all", &id, "CONT"])?;
                bench.verb(&format!("exec, {n} processes"), who, &["exec", &id, "/bin/true"])?;
            }
        }
        for who in 0..bench.runtimes.len() {
            let id = bench.runtimes[who].id("p");
            bench.verb(&format!("delete --force, {n} proc."), who, &["delete", "--force", &id])?;
        }
        reap();
    }
    Ok(())
}

fn concurrent(bench: &mut Bench) -> Verdict {
    for at_once in [1, 2, 8, 32] {
        for runtime in &bench.runtimes {
            let bundle = runtime.bundle("A", spec::a)?;
            let begun = Instant::now();
            let done: Vec<Verdict> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..at_once)
                    .map(|thread| {
                        let bundle = &bundle;
                        scope.spawn(move || {
                            (thread..MADE).step_by(at_once).try_for_each(|i| {
                                runtime.must(&["create", "--bundle", bundle, &runtime.id(&format!("t{i}"))])
                            })
                        })
                    })
                    .collect();
                threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| fail("a thread panicked"))).collect()
            });
            let took = begun.elapsed().as_secs_f64();
            done.into_iter().collect::<Verdict<Vec<()>>>()?;
            let _ = writeln!(
                bench.notes,
                "create, {at_once:>2} at once: {:<12}{:>7.0} a second",
                runtime.name,
                MADE as f64 / took
            );
            for i in 0..MADE {
                runtime.must(&["delete", "--force", &runtime.id(&format!("t{i}"))])?;
            }
            reap();
        }
    }
    Ok(())
}
