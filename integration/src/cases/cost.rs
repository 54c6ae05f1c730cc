//! Costs that do not depend on the load of the machine: calls, memory, size, instructions. The limits are in
//! `limits.json`: a change that costs more fails, and a change that saves lowers the limit.

use crate::bench::spec;
use crate::kit::Need::{Slow, Windlass};
use crate::kit::wait::eventually;
use crate::kit::{Bundle, Container, T, Verdict, inject, stop::fail, stop::skip};
use crate::{chapter, ensure, sys};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

chapter! { "cost":
    run_makes_few_system_calls [Windlass],
    run_needs_little_memory [Windlass],
    a_waiting_init_keeps_little_memory [Windlass],
    annotations_take_no_memory_of_a_waiting_init [Windlass],
    annotations_take_no_time_of_delete [Windlass],
    the_program_is_small [Windlass],
    planning_takes_few_instructions [Windlass, Slow],
}

/// The allowed values.
const LIMITS: &str = include_str!("../../limits.json");

/// Fails if `value` is above the limit of this name, or so far below it that the limit has no effect any more.
fn judge(name: &str, value: u64) -> Verdict {
    let limits: Value = serde_json::from_str(LIMITS)?;
    let Some(limit) = limits[name].as_u64() else { return fail(format!("limits.json has no {name:?}")) };
    ensure!(value <= limit, "{name}: {value} is above {limit}");
    ensure!(value * 2 > limit, "{name}: {value} is not even half of {limit}: lower the limit");
    Ok(())
}

/// Skips unless the program is the static build, for which the limits hold.
fn shipped(t: &T) -> Verdict {
    let program = fs::read(&t.runtime)?;
    let has = |text: &[u8]| program.windows(text.len()).any(|window| window == text);
    if has(b"/ld-linux") || has(b"GNU C Library") {
        return skip("not the static build with musl");
    }
    Ok(())
}

fn bundle(t: &T, spec: Value) -> Verdict<Bundle> {
    let mut bundle = t.bundle()?;
    bundle.spec = spec;
    bundle.write()?;
    Ok(bundle)
}

fn counted(t: &T, spec: Value) -> Verdict<inject::Counted> {
    shipped(t)?;
    let bundle = bundle(t, spec)?;
    let mut command = t.command();
    command.args(["run", "--bundle", &bundle.dir.display().to_string(), &t.id()]);
    inject::count(command)
}

/// How often something is measured that other processes can only make larger: a wait that is interrupted is begun
/// again, and a page may lie on either side of a boundary.
const ROUNDS: usize = 5;

/// The least of some rounds.
fn least(measure: impl Fn() -> Verdict<u64>) -> Verdict<u64> {
    (1..ROUNDS).try_fold(measure()?, |least, _| Ok(least.min(measure()?)))
}

fn run_makes_few_system_calls(t: &T) -> Verdict {
    judge("system calls of run", least(|| Ok(u64::from(counted(t, spec::a())?.calls)))?)
}

/// Linux 6.18 maps the page cache in large pieces, so that nearly all of the program counts as resident. Only its
/// private memory is the cost of `run`.
fn run_needs_little_memory(t: &T) -> Verdict {
    let counted = counted(t, spec::b())?;
    judge("private memory of run in KiB", counted.private_kib)?;
    judge("peak RSS of run in KiB", counted.peak_kib)
}

fn a_waiting_init_keeps_little_memory(t: &T) -> Verdict {
    shipped(t)?;
    let bundle = bundle(t, spec::a())?;
    judge("memory of init in created in KiB", least(|| memory_of_init(t, &bundle))?)
}

/// KiB of anonymous memory of an init that waits for `start`.
fn memory_of_init(t: &T, bundle: &Bundle) -> Verdict<u64> {
    let container = Container::new(t, t.id(), bundle.dir.clone());
    t.runtime(&["create", "--bundle", &bundle.dir.display().to_string(), &container.id])?.ok()?;
    let pid = container.state()?["pid"].clone();
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok());
    t.runtime(&["delete", "--force", &container.id])?.ok()?;
    match kib {
        Some(kib) => Ok(kib),
        None => fail(format!("smaps_rollup: {rollup}")),
    }
}

/// Init keeps no large annotations, not even those read for a hook of the host: the kernel would free them at `start`.
fn annotations_take_no_memory_of_a_waiting_init(t: &T) -> Verdict {
    let annotated = |annotations: Value, hooks: Value| -> Verdict<u64> {
        let mut spec = spec::a();
        spec["annotations"] = annotations;
        spec["hooks"] = hooks;
        memory_of_init(t, &bundle(t, spec)?)
    };
    let large: serde_json::Map<_, _> = (0..8).map(|n| (format!("k{n}"), "x".repeat(1 << 20).into())).collect();
    for hooks in [json!({}), json!({"createRuntime": [{"path": "/bin/true"}]})] {
        let (without, with) = (annotated(json!({}), hooks.clone())?, annotated(large.clone().into(), hooks.clone())?);
        ensure!(with < without + 512, "{with} KiB with 8 MiB of annotations, {without} without, hooks {hooks}");
    }
    Ok(())
}

/// Compares processor time, the least of some rounds, so that the load of the machine does not count. Freeing 16 MiB
/// takes as long as the rest of `delete`, so a thread of the kernel does it.
fn annotations_take_no_time_of_delete(t: &T) -> Verdict {
    let delete = |bundle: &Bundle| -> Verdict<Duration> {
        let (id, pid_file) = (t.id(), t.path("pid"));
        let (dir, file) = (bundle.dir.display().to_string(), pid_file.display().to_string());
        t.runtime(&["create", "--bundle", &dir, "--pid-file", &file, &id])?.ok()?;
        let init = Path::new("/proc").join(fs::read_to_string(&pid_file)?);
        t.runtime(&["kill", &id, "KILL"])?.ok()?;
        // `state` is not used: its answer would make this process large, and the fork below slow.
        eventually("the container's end", || (!init.exists()).then_some(()))?;
        let child = t.command().args(["delete", &id]).stdin(Stdio::null()).spawn()?;
        let (status, time) = sys::wait_with_times(child.id())?;
        ensure!(status == 0, "delete: status {status}");
        Ok(time)
    };
    let mut spec = spec::a();
    let without = bundle(t, spec.clone())?;
    spec["annotations"] = (0..16).map(|n| (format!("k{n}"), json!("x".repeat(1 << 20)))).collect();
    let with = bundle(t, spec)?;
    let mut least = [Duration::MAX; 2];
    for _ in 0..7 {
        for (bundle, least) in [&without, &with].into_iter().zip(&mut least) {
            *least = delete(bundle)?.min(*least);
        }
    }
    ensure!(least[1] < least[0].mul_f64(1.5), "{:?} without annotations, {:?} with 16 MiB", least[0], least[1]);
    Ok(())
}

fn the_program_is_small(t: &T) -> Verdict {
    shipped(t)?;
    judge("size of the program in bytes", fs::metadata(&t.runtime)?.len())
}

fn planning_takes_few_instructions(t: &T) -> Verdict {
    shipped(t)?;
    if Command::new("valgrind").arg("--version").stdout(Stdio::null()).status().is_err() {
        return skip("valgrind is not installed");
    }
    let bundle = bundle(t, spec::b())?;
    let out = t.path("callgrind.out");
    let ran = Command::new("valgrind")
        .args(["--tool=callgrind", &format!("--callgrind-out-file={}", out.display())])
        .arg(&t.runtime)
        .args(["explain", "--bundle", &bundle.dir.display().to_string()])
        .output()?;
    ensure!(ran.status.success(), "valgrind: {}", String::from_utf8_lossy(&ran.stderr));
    let counts = fs::read_to_string(&out)?;
    let total = counts.lines().find_map(|line| line.strip_prefix("totals: ")?.trim().parse().ok());
    match total {
        Some(total) => judge("instructions of parse and plan", total),
        None => fail("callgrind has not counted"),
    }
}
