//! The cost of windlass-shim below containerd, beside containerd's own shim in the same run.
//!
//! The gates hold for the static build that is shipped; of another build the figures are shown.

use crate::kit::containerd::Engine;
use crate::kit::machine::{field, text};
use crate::kit::shim;
use crate::kit::stop::{Context, fail};
use crate::kit::traced::Traced;
use crate::kit::{Need, T, Verdict};
use crate::{chapter, ensure};
use nix::sys::stat::Mode;
use serde_json::json;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

chapter! { "shim_measures":
    ten_idle_shims_are_small [Need::Slow],
    a_thousand_execs_leave_nothing [Need::Slow],
    an_exec_takes_few_system_calls_of_the_shim [Need::Slow],
    what_a_probe_costs_is_shown [Need::Slow],
    a_hundred_probes_a_second_leave_nothing [Need::Slow],
    output_to_a_fifo_is_not_copied [Need::Slow],
    an_upgrade_stands_still_for_milliseconds [Need::Slow],
}

/// Means of some shims.
struct Cost {
    pss: u64,
    dirty: u64,
    threads: u64,
    fds: usize,
}

/// Whether the shim is a static build, for which the gates hold.
fn is_static(pid: i32) -> bool {
    !text(format!("/proc/{pid}/maps")).contains("ld-linux")
}

fn kilobytes(text: &str, name: &str) -> u64 {
    field(text, name).trim_end_matches(" kB").parse().unwrap_or(0)
}

fn cost(pids: &[i32]) -> Cost {
    let n = pids.len().max(1) as u64;
    let mut cost = Cost { pss: 0, dirty: 0, threads: 0, fds: 0 };
    for pid in pids {
        let memory = text(format!("/proc/{pid}/smaps_rollup"));
        cost.pss += kilobytes(&memory, "Pss");
        cost.dirty += kilobytes(&memory, "Private_Dirty");
        cost.threads = cost.threads.max(field(&text(format!("/proc/{pid}/status")), "Threads").parse().unwrap_or(0));
        cost.fds = cost.fds.max(std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().count());
    }
    Cost { pss: cost.pss / n, dirty: cost.dirty / n, ..cost }
}

fn idle(engine: &Engine<'_>, name: &str) -> Verdict<(Cost, bool)> {
    let ids: Vec<String> = (0..10).map(|n| format!("{name}{n}")).collect();
    for id in &ids {
        engine.run(&["-d"], id, &["sleep", "1000"])?.ok()?;
    }
    // The memory of the start is freed.
    std::thread::sleep(std::time::Duration::from_secs(1));
    let shims = engine.shims();
    ensure!(shims.len() == 10, "{} shims", shims.len());
    let (cost, gates) = (cost(&shims), is_static(shims[0]));
    println!(
        "{name}: PSS {} kB, private dirty {} kB, {} threads, {} descriptors",
        cost.pss, cost.dirty, cost.threads, cost.fds
    );
    for id in &ids {
        stop(engine, id)?;
    }
    engine.is_clean()?;
    Ok((cost, gates))
}

fn stop(engine: &Engine<'_>, id: &str) -> Verdict {
    engine.ctr(&["tasks", "kill", "-s", "KILL", id])?.ok()?;
    engine.wait_for(id, "STOPPED")?;
    engine.remove(id, 137)
}

fn ten_idle_shims_are_small(t: &T) -> Verdict {
    let theirs = Engine::start_with_theirs(t).and_then(|engine| idle(&engine, "theirs"));
    if let Err(stop) = theirs {
        println!("theirs: {stop}");
    }
    let (ours, gates) = idle(&Engine::start(t)?, "ours")?;
    ensure!(ours.threads == 1, "{} threads", ours.threads);
    // Each of the containers has one process.
    ensure!(ours.fds <= 16 + 5, "{} descriptors", ours.fds);
    ensure!(!gates || (ours.pss <= 250 && ours.dirty <= 150), "more than 250 kB of PSS or 150 kB of private dirty");
    Ok(())
}

fn a_thousand_execs_leave_nothing(t: &T) -> Verdict {
    let engine = Engine::start(t)?;
    engine.run(&["-d"], "a", &["sleep", "1000"])?.ok()?;
    let exec = |n: u32| engine.ctr(&["tasks", "exec", "--exec-id", &format!("e{n}"), "a", "true"])?.ok();
    let measure = || {
        std::thread::sleep(std::time::Duration::from_secs(1));
        cost(&engine.shims())
    };
    // The first few execs load the memory that all others use again.
    (0..20).try_for_each(|n| exec(n).map(drop))?;
    let before = measure();
    let count = if t.long { 1000 } else { 200 };
    (20..20 + count).try_for_each(|n| exec(n).map(drop))?;
    let after = measure();
    println!("private dirty {} kB, after {count} more execs {} kB", before.dirty, after.dirty);
    ensure!(after.dirty <= before.dirty + 64, "it has grown");
    ensure!(after.fds <= before.fds, "{} descriptors became {}", before.fds, after.fds);
    stop(&engine, "a")?;
    engine.is_clean()
}

/// Most system calls of the shim, without its children, for one `ctr task exec`.
const CALLS_OF_AN_EXEC: usize = 100;

fn an_exec_takes_few_system_calls_of_the_shim(t: &T) -> Verdict {
    let engine = Engine::start(t)?;
    engine.run(&["-d"], "a", &["sleep", "1000"])?.ok()?;
    let exec = |n: u32| engine.ctr(&["tasks", "exec", "--exec-id", &format!("e{n}"), "a", "true"])?.ok();
    (0..5).try_for_each(|n| exec(n).map(drop))?;
    let shim = match engine.shims()[..] {
        [shim] => shim,
        _ => return fail("not one shim"),
    };
    let file = t.path("calls");
    let traced = Traced::start(shim, &file, &[])?;
    let count = 10;
    (5..5 + count).try_for_each(|n| exec(n).map(drop))?;
    drop(traced);
    let mut calls = std::collections::BTreeMap::<String, usize>::new();
    // A debug build checks each descriptor that it closes.
    for line in text(&file).lines().filter(|line| !line.contains("F_GETFD")) {
        if let Some((name, _)) = line.split_once('(').filter(|(name, _)| !name.contains(' ')) {
            *calls.entry(name.to_owned()).or_default() += 1;
        }
    }
    let each = calls.values().sum::<usize>() / count as usize;
    println!("{each} system calls of the shim for an exec: {calls:?}");
    stop(&engine, "a")?;
    engine.is_clean()?;
    ensure!(each <= CALLS_OF_AN_EXEC, "{each} system calls for an exec, at most {CALLS_OF_AN_EXEC}");
    Ok(())
}

/// CPU time in nanoseconds: of a process with one thread, and of all threads with the children that the process has
/// reaped, which is counted in hundredths of a second.
fn cpu(pid: i32) -> (u64, u64) {
    let own = text(format!("/proc/{pid}/schedstat"));
    let own = own.split(' ').next().and_then(|time| time.parse().ok()).unwrap_or(0);
    let stat = text(format!("/proc/{pid}/stat"));
    let fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let ticks: u64 = fields.split(' ').skip(11).take(4).filter_map(|field| field.parse::<u64>().ok()).sum();
    (own, ticks * 10_000_000)
}

/// A probe: a process in a container.
type Probe<'a> = dyn FnMut(u32) -> Verdict + 'a;

/// Runs this many probes, at this rate in a second or without a pause.
fn probe(count: u32, a_second: u32, probe: &mut Probe<'_>) -> Verdict<f64> {
    let begin = Instant::now();
    for n in 0..count {
        let turn = begin + std::time::Duration::from_secs(1) * n / a_second;
        std::thread::sleep(turn.saturating_duration_since(Instant::now()));
        probe(n)?;
    }
    Ok(f64::from(count) / begin.elapsed().as_secs_f64())
}

/// The shim, the runtime and the process are counted; containerd and ctr are not.
fn what_a_probe_costs_is_shown(t: &T) -> Verdict {
    let count = if t.long { 600 } else { 50 };
    for runtime in ["runc", "crun"] {
        let program =
            ["/usr/sbin", "/usr/bin", "/usr/local/bin", "/usr/local/sbin"].map(|dir| Path::new(dir).join(runtime));
        let Some(program) = program.into_iter().find(|path| path.is_file()) else { continue };
        if let Ok(engine) = Engine::start_with_theirs_on(t, program) {
            let name = if runtime == "runc" { "containerd's shim and runc" } else { "containerd's shim and crun" };
            if let Err(stop) = cost_of_a_probe(&engine, name, count) {
                println!("{name}: {stop}");
            }
        }
    }
    cost_of_a_probe(&Engine::start(t)?, "windlass-shim and windlass", count)
}

fn cost_of_a_probe(engine: &Engine<'_>, name: &str, count: u32) -> Verdict {
    engine.run(&["-d"], "a", &["sleep", "1000"])?.ok()?;
    let [shim] = engine.shims()[..] else { return fail("not one shim") };
    let mut exec = |n: u32| engine.ctr(&["tasks", "exec", "--exec-id", &format!("e{n}"), "a", "true"])?.ok().map(drop);
    (0..5).try_for_each(|n| exec(1_000_000 + n))?;
    let before = cpu(shim);
    let rate = probe(count, 10, &mut exec)?;
    let after = cpu(shim);
    let each = |before: u64, after: u64| (after - before) as f64 / 1e6 / f64::from(count);
    let (own, all) = (each(before.0, after.0), each(before.1, after.1));
    println!("a probe, {rate:.1} a second: {all:.2} ms of CPU, of which the shim's main thread {own:.2}: {name}");
    stop(engine, "a")?;
    engine.is_clean()
}

fn a_hundred_probes_a_second_leave_nothing(t: &T) -> Verdict {
    let seconds = std::env::var("WINDLASS_PROBE_SECONDS").ok().and_then(|text| text.parse().ok());
    let seconds = seconds.unwrap_or(if t.long { 600 } else { 5 });
    let c = shim::run(t, &t.bundle()?.args(&["/bin/sleep", "100000"]), &["--log", "none"])?;
    let (mut asks, mut hears) = (c.connect()?, c.connect()?);
    hears.call("subscribe", json!({"from": 1}))?;
    let mut ends = 0;
    let mut exec = |_: u32| {
        let exec = c.exec_in(&mut asks, "exit 0")?;
        loop {
            let event = hears.event()?;
            asks.call("ack", json!({"event": event["event"]}))?;
            if event["type"] == "exited" && event["exec"] == exec.as_str() {
                ends += 1;
                break;
            }
        }
        asks.call("delete", json!({"exec": exec})).map(drop)
    };
    probe(300, 100, &mut exec)?;
    let settle = || std::thread::sleep(std::time::Duration::from_secs(1));
    settle();
    let (before, spent) = (cost(&[c.pid()]), cpu(c.pid()));
    let count = 100 * seconds;
    let rate = probe(count, 100, &mut exec)?;
    settle();
    let (after, now) = (cost(&[c.pid()]), cpu(c.pid()));
    let each = (now.1 - spent.1) as f64 / 1e6 / f64::from(count);
    println!(
        "{count} probes, {rate:.0} a second: {each:.2} ms of CPU each; private dirty {} kB, then {} kB",
        before.dirty, after.dirty
    );
    ensure!(ends == count + 300, "{ends} ends of {} were told", count + 300);
    ensure!(after.dirty <= before.dirty + 64 && after.fds <= before.fds, "it has grown");
    let zombies = std::fs::read_dir("/proc")?.flatten().filter(|entry| {
        let stat = text(entry.path().join("stat"));
        stat.contains(&format!(") Z {} ", c.pid()))
    });
    ensure!(zombies.count() == 0, "zombies are left");
    Ok(())
}

/// Megabytes per second of a fifo that is filled after `start`.
fn rate(fifo: &Path, start: impl FnOnce() -> Verdict) -> Verdict<f64> {
    let _ = std::fs::remove_file(fifo);
    nix::unistd::mkfifo(fifo, Mode::from_bits_truncate(0o600)).context("mkfifo")?;
    let path = fifo.to_owned();
    let reader = std::thread::spawn(move || -> std::io::Result<(usize, f64)> {
        let mut fifo = File::open(path)?;
        let mut buffer = vec![0; 1 << 16];
        let mut total = fifo.read(&mut buffer)?;
        let begin = Instant::now();
        loop {
            match fifo.read(&mut buffer)? {
                0 => return Ok((total, begin.elapsed().as_secs_f64())),
                n => total += n,
            }
        }
    });
    start()?;
    let (bytes, seconds) = reader.join().map_err(|_| std::io::Error::other("the reader"))??;
    Ok(bytes as f64 / seconds / 1e6)
}

/// Bytes that a process with one thread has read and written by system calls that copy them; a splice(2) copies none.
/// The file of the whole process also counts the bytes of its reaped children (proc_pid_io(5)).
fn copied(pid: i32) -> u64 {
    let io = text(format!("/proc/{pid}/task/{pid}/io"));
    ["rchar", "wchar"].iter().filter_map(|name| field(&io, name).parse::<u64>().ok()).sum()
}

/// The rates are only shown (`just bench`); the count is the gate.
fn output_to_a_fifo_is_not_copied(t: &T) -> Verdict {
    let megabytes: u64 = if t.long { 2048 } else { 512 };
    let count = format!("count={}", megabytes * 16);
    let fifo = t.path("fifo");
    let through = |engine: &Engine<'_>, n: u32| {
        let id = format!("a{n}");
        // Without a scheme: the older shim knows no `fifo://`.
        let uri = fifo.display().to_string();
        let mut most = 0;
        let rate = rate(&fifo, || {
            let words = ["dd", "if=/dev/zero", "bs=65536", &count];
            engine.run(&["-d", "--log-uri", &uri], &id, &words)?.ok()?;
            engine.wait_for(&id, "STOPPED")?;
            most = engine.shims().into_iter().map(copied).max().unwrap_or(0);
            engine.remove(&id, 0)
        })?;
        Ok((rate, most))
    };
    let bare = rate(&fifo, || {
        let to = format!("of={}", fifo.display());
        let mut dd = Command::new("dd");
        dd.args(["if=/dev/zero", "bs=65536", &count, &to]).stderr(Stdio::null());
        dd.status().map(drop).context("dd")
    })?;
    let best = |engine: &Engine<'_>| -> Verdict<(f64, u64)> {
        let rates = (0..3).map(|n| through(engine, n)).collect::<Verdict<Vec<_>>>()?;
        Ok(rates.into_iter().fold((0.0, 0), |(rate, most), (r, m)| (rate.max(r), most.max(m))))
    };
    let theirs = match Engine::start_with_theirs(t) {
        Ok(engine) => best(&engine)?.0,
        Err(_) => 0.0,
    };
    let engine = Engine::start(t)?;
    let (ours, most) = best(&engine)?;
    engine.is_clean()?;
    println!("MB/s, best of three: bare fifo {bare:.0}, ours {ours:.0}, theirs {theirs:.0}; copied {most} bytes");
    ensure!(most < megabytes * 1_000_000 / 16, "{most} bytes of {megabytes} MB were copied");
    Ok(())
}

/// The longest pause of the loop for an upgrade, in microseconds: at the 99th percentile on a quiet machine, which is
/// checked with `--long`, and at the median on any machine.
const STANDSTILL: u64 = 20_000;
const STANDSTILL_ON_A_BUSY_MACHINE: u64 = 100_000;

/// Most system calls while the loop stands still for an upgrade: the old program's and the new one's.
const CALLS_OF_AN_UPGRADE: usize = 120;

/// Calls that wait, or that make a process.
const WAITS: [&str; 10] =
    ["poll", "ppoll", "select", "wait4", "waitid", "nanosleep", "clock_nanosleep", "clone", "clone3", "vfork"];

/// The times are shown (`just bench`); the calls made meanwhile are gated.
fn an_upgrade_stands_still_for_milliseconds(t: &T) -> Verdict {
    let rounds = if t.long { 1000 } else { 100 };
    let c = shim::run(t, &t.bundle()?.sh("while :; do echo x; sleep 0.001; done"), &["--log", "none"])?;
    let mut times = Vec::new();
    for _ in 0..rounds {
        times.push(c.line("upgrade", &[])?["stood_still_us"].as_u64().unwrap_or(u64::MAX));
    }
    times.sort_unstable();
    let (median, last) = (times[rounds / 2], times[rounds * 99 / 100]);
    println!("upgrade: the loop stands still for {median} us (median), {last} us (99th percentile)");
    ensure!(median <= STANDSTILL_ON_A_BUSY_MACHINE, "the loop stood still for {median} us");
    ensure!(!t.long || !is_static(c.pid()) || last <= STANDSTILL, "the loop stood still for {last} us");
    let file = t.path("calls");
    {
        let _traced = Traced::start(c.pid(), &file, &[])?;
        (0..10).try_for_each(|_| c.line("upgrade", &[]).map(drop))?;
    }
    let trace = text(&file);
    let mut most = 0;
    // From one wait of the loop to the next; the program is replaced between them.
    for turn in trace.split("epoll_pwait(").filter(|turn| turn.contains("execveat(")) {
        let calls: Vec<&str> = turn.lines().skip(1).filter(|line| line.contains('(')).collect();
        let waits = |call: &&&str| WAITS.contains(&call.split('(').next().unwrap_or_default());
        // The standard library checks at its start whether 0, 1 and 2 are open.
        let only_asks = |call: &&&str| call.contains("WNOHANG") || call.contains("], 3, 0)");
        let waits: Vec<_> = calls.iter().filter(waits).filter(|call| !only_asks(call)).collect();
        ensure!(waits.is_empty(), "the loop waits while it stands still: {waits:?}");
        most = most.max(calls.len());
    }
    println!("upgrade: the loop stands still for at most {most} system calls");
    ensure!((1..=CALLS_OF_AN_UPGRADE).contains(&most), "{most} system calls, at most {CALLS_OF_AN_UPGRADE}");
    Ok(())
}
