//! Faults around `windlass-shim`: kills at its own system calls, storms, full disks, peers that sleep.

use crate::kit::machine::text;
use crate::kit::shim::{self, Connection};
use crate::kit::stop::{Context, fail};
use crate::kit::traced::Traced;
use crate::kit::wait::eventually;
use crate::kit::{Need, T, Verdict};
use crate::{chapter, ensure, ensure_eq};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

chapter! { "shim_faults":
    what_was_told_is_on_disk_wherever_the_shim_is_killed [Need::Slow],
    an_exec_storm_and_the_death_of_init_lose_no_exit [Need::Slow],
    process_ids_that_come_again_are_told_apart [Need::Slow],
    a_full_disk_stops_no_container_and_is_counted,
    the_end_is_recorded_on_a_full_disk,
    a_stalled_client_stops_no_log,
    a_stopped_shim_catches_up [Need::Slow],
    a_stopped_shim_is_named_and_can_be_deleted [Need::Slow],
    a_record_is_on_the_disk_before_it_has_its_name,
    who_writes_a_record_has_nothing_else_open,
    a_record_that_comes_late_is_no_new_container_s,
    a_grandchild_that_holds_the_pipe_is_waited_for_but_not_for_ever,
}

/// The calls of the shim itself at which it is killed, and their largest numbers around the container's end.
const OWN: [(&str, u32); 4] = [("sendto", 6), ("write", 6), ("waitid", 12), ("clone3", 2)];

/// The calls of its child that writes the record. The shim is killed together with the child.
const OF_THE_WRITER: [(&str, u32); 3] = [("fsync", 5), ("fdatasync", 1), ("rename,renameat,renameat2", 2)];

fn what_was_told_is_on_disk_wherever_the_shim_is_killed(t: &T) -> Verdict {
    if Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_err() {
        return crate::kit::stop::skip("strace is not installed");
    }
    let stride = if t.long { 1 } else { 2 };
    for (of_the_writer, list) in [(false, &OWN[..]), (true, &OF_THE_WRITER)] {
        for (calls, times) in list {
            let mut killed = 0;
            for when in (1..=*times).step_by(stride) {
                let done = killed_at(t, calls, when, of_the_writer);
                killed += u32::from(done.context(format!("killed at {calls} number {when}"))?);
            }
            ensure!(killed > 0, "no {calls} was met");
        }
    }
    Ok(())
}

/// Kills a shim at one of its own calls while a container ends and a client waits. Returns true if it died.
fn killed_at(t: &T, calls: &str, when: u32, of_the_writer: bool) -> Verdict<bool> {
    let c = shim::run(t, &t.bundle()?.sh("read -r _; exit 42"), &["--stdin"])?;
    let mut waiting = c.connect()?;
    let mut events = c.connect()?;
    events.call("subscribe", json!({"from": 3}))?;
    waiting.ask("wait", json!({}))?;
    let mut input = c.connect()?;
    input.call("attach", json!({}))?;
    let inject = format!("inject={calls}:signal=KILL:when={when}");
    let pid = c.pid().to_string();
    let log = t.path(&format!("strace-{}", t.id()));
    let mut strace = Command::new("strace")
        .args(of_the_writer.then_some("-f"))
        .args(["-p", &pid, "-e", &format!("trace={calls}"), "-e", &inject, "-o"])
        .arg(&log)
        .stderr(Stdio::null())
        .spawn()?;
    let traced =
        || text(format!("/proc/{pid}/status")).lines().any(|l| l.starts_with("TracerPid:") && !l.ends_with("\t0"));
    eventually("strace has attached", || traced().then_some(()))?;
    input.give("go\n")?;
    if of_the_writer {
        let seen = || text(&log).contains("killed by SIGKILL") || c.file("exit.json").exists();
        eventually("the writer is killed, or done", || seen().then_some(()))?;
        if text(&log).contains("killed by SIGKILL") {
            // Before it is tried again.
            c.kill_shim()?;
        }
    }
    // Either the shim dies, and both connections end, or it lives and both get the end.
    let reported = waiting.line().ok();
    let event = events.event().ok();
    let is_dead = || {
        let stat = text(format!("/proc/{pid}/stat"));
        stat.is_empty() || stat.contains(") Z ")
    };
    let all_reported = reported.is_some() && event.is_some();
    if !all_reported {
        eventually("a shim that does not tell is dead", || is_dead().then_some(()))?;
    }
    let _ = strace.kill();
    strace.wait()?;
    let record = text(c.file("exit.json"));
    if reported.is_some() || event.is_some() {
        let code = serde_json::from_str::<Value>(&record)
            .context(format!("reported without a record: {reported:?} {event:?}"))?;
        ensure_eq!(code["code"], json!(42), "the record");
    }
    for line in reported.iter().map(|line| &line["ok"]).chain(&event) {
        ensure_eq!(line["code"], json!(42), "what was reported");
    }
    if all_reported && !is_dead() {
        return Ok(false);
    }
    // The files must report the exit: the records and the event log.
    if !record.is_empty() {
        let events = c.verb("events", &[])?.ok()?.stdout;
        ensure_eq!(events.matches("\"exited\"").count(), 1, "the exit among the events: {events}");
    }
    let deleted = c.line("delete", &[])?;
    // Without a record the kernel may still have the exit (the chapter `exits` tests when).
    let known = deleted["exit"]["code"] == json!(42);
    ensure!(known || record.is_empty() && deleted["exit"]["code"].is_null(), "delete: {deleted}");
    ensure_eq!(deleted["shim_lost"], json!(!known), "delete: {deleted}");
    Ok(true)
}

fn an_exec_storm_and_the_death_of_init_lose_no_exit(t: &T) -> Verdict {
    const STORM: u64 = 500;
    let c = shim::run(t, &t.bundle()?.args(&["/bin/sleep", "1000"]), &[])?;
    let mut events = c.connect()?;
    events.call("subscribe", json!({}))?;
    let mut client = c.connect()?;
    let process = json!({"args": ["/bin/sh", "-c", "exit 3"], "cwd": "/", "user": {"uid": 0, "gid": 0}});
    for n in 0..STORM {
        client.ask("exec", json!({"exec": format!("e{n}"), "process": process}))?;
    }
    sleep(Duration::from_millis(700));
    let begun = Instant::now();
    let mut other = c.connect()?;
    ensure_eq!(other.call("status", json!({}))?["state"], json!("running"), "status in the storm");
    ensure!(begun.elapsed() < Duration::from_secs(60), "status took {:?} in the storm", begun.elapsed());
    other.call("kill", json!({"signal": "KILL"}))?;
    let (mut started, mut exited) = (0u64, 0u64);
    loop {
        let event = events.event()?;
        match (event["type"].as_str().unwrap_or_default(), event["exec"].is_string()) {
            ("started", true) => started += 1,
            ("exited", true) => exited += 1,
            ("exited", false) => break,
            _ => {}
        }
    }
    ensure_eq!(started, exited, "every exec that started has ended before init was reported to have");
    // Each of the requests has an answer, whichever.
    for _ in 0..STORM {
        client.line()?;
    }
    ensure_eq!(c.line("wait", &[])?["signal"], json!(9), "init");
    Ok(())
}

fn process_ids_that_come_again_are_told_apart(t: &T) -> Verdict {
    let limit = Path::new("/proc/sys/kernel/pid_max");
    let before = text(limit);
    // Since Linux 6.14 each PID namespace has its own pid_max. In older kernels the host's must not be changed.
    if crate::kit::machine::kernel() < (6, 14) || fs::write(limit, "400").is_err() {
        return crate::kit::stop::skip("pid_max is not of the namespace");
    }
    let done = reuse(t, if t.long { 5000 } else { 800 });
    fs::write(limit, before)?;
    done
}

fn reuse(t: &T, execs: u32) -> Verdict {
    let c = shim::run(t, &t.bundle()?.args(&["/bin/sleep", "1000"]), &[])?;
    let mut client = c.connect()?;
    for n in 0..execs {
        let code = n % 120;
        let exec = c.exec_in(&mut client, &format!("exit {code}"))?;
        let ended = client.call("wait", json!({"exec": exec}))?;
        ensure_eq!(ended["code"], json!(code), "exec {n}");
        client.call("delete", json!({"exec": exec}))?;
    }
    Ok(())
}

fn a_full_disk_stops_no_container_and_is_counted(t: &T) -> Verdict {
    let disk = t.path("small");
    fs::create_dir(&disk)?;
    t.host("mount", &["-t", "tmpfs", "-o", "size=64k", "tmpfs", disk.to_str().unwrap_or_default()])?;
    let done = full_disk(t, &disk);
    t.host("umount", &["-l", disk.to_str().unwrap_or_default()])?;
    done
}

fn full_disk(t: &T, disk: &Path) -> Verdict {
    let log = format!("k8s:{}", disk.join("log").display());
    let script = "n=0; while [ $n -lt 5000 ]; do n=$((n+1)); echo line number $n; done; touch /written; read -r _; echo last; exit 4";
    let bundle = t.bundle()?.sh(script);
    let c = shim::run(t, &bundle, &["--stdin", "--log", &log])?;
    eventually("all is written", || bundle.rootfs().join("written").exists().then_some(()))?;
    let dropped = || c.line("status", &[]).ok().and_then(|status| status["dropped_bytes"].as_u64());
    eventually("bytes are dropped", || dropped().filter(|&n| n > 0))?;
    fs::remove_file(disk.join("log"))?;
    c.verb("reopen-logs", &[])?.ok()?;
    let mut client = c.connect()?;
    client.call("attach", json!({}))?;
    client.give("\n")?;
    ensure_eq!(c.line("wait", &[])?["code"], json!(4), "the container's code");
    let log = text(disk.join("log"));
    ensure!(
        log.lines().last().is_some_and(|line| line.ends_with(" F last")),
        "with room again it goes on, not with {:?}",
        log.lines().last()
    );
    Ok(())
}

/// The container's output and another program fill the file system of the shim's directory.
fn the_end_is_recorded_on_a_full_disk(t: &T) -> Verdict {
    let disk = shim::state_dir(t);
    fs::create_dir_all(&disk)?;
    t.host("mount", &["-t", "tmpfs", "-o", "size=96k,mode=700", "tmpfs", disk.to_str().unwrap_or_default()])?;
    let done = recorded_on(t, &disk);
    t.host("umount", &["-l", disk.to_str().unwrap_or_default()])?;
    done
}

fn recorded_on(t: &T, disk: &Path) -> Verdict {
    let script = "n=0; while [ $n -lt 2000 ]; do n=$((n+1)); echo line number $n; done; read -r _; exit 6";
    let c = shim::run(t, &t.bundle()?.sh(script), &["--stdin"])?;
    let dropped = || c.line("status", &[]).ok().and_then(|status| status["dropped_bytes"].as_u64());
    eventually("bytes are dropped", || dropped().filter(|&n| n > 0))?;
    ensure!(fs::write(disk.join("more"), vec![0; 1 << 20]).is_err(), "the disk is full");
    let mut client = c.connect()?;
    client.call("attach", json!({}))?;
    client.give("\n")?;
    ensure_eq!(c.line("wait", &[])?["code"], json!(6), "what the shim tells");
    // The runtime may have the exit too, so the shim's own files are examined.
    let record: Value = serde_json::from_str(&text(c.file("exit.json"))).context("exit.json")?;
    ensure_eq!(record["code"], json!(6), "what the shim has recorded");
    c.kill_shim()?;
    ensure_eq!(c.line("wait", &[])?["code"], json!(6), "what is on disk when the shim is gone");
    Ok(())
}

fn a_stalled_client_stops_no_log(t: &T) -> Verdict {
    let script = "read -r _; n=0; while [ $n -lt 30000 ]; do n=$((n+1)); echo line number $n; done";
    let c = shim::run(t, &t.bundle()?.sh(script), &["--stdin"])?;
    let mut stalled = c.connect()?;
    stalled.call("attach", json!({}))?;
    let mut subscriber: Connection = c.connect()?;
    subscriber.ask("subscribe", json!({}))?;
    stalled.give("\n")?;
    c.line("wait", &[])?;
    let logs = c.verb("logs", &[])?.ok()?.stdout;
    ensure_eq!(logs.lines().count(), 30_000, "lines in the log");
    Ok(())
}

fn a_stopped_shim_catches_up(t: &T) -> Verdict {
    let stopped = Duration::from_secs(if t.long { 30 } else { 10 });
    let script = "n=0; while [ $n -lt 3000 ]; do n=$((n+1)); echo $n; usleep 1000; done; exit 5";
    let c = shim::run(t, &t.bundle()?.sh(script), &[])?;
    let mut waiting = c.connect()?;
    waiting.ask("wait", json!({}))?;
    t.host("kill", &["-STOP", &c.pid().to_string()])?;
    sleep(stopped);
    t.host("kill", &["-CONT", &c.pid().to_string()])?;
    ensure_eq!(waiting.line()?["ok"]["code"], json!(5), "the code");
    let logs = c.verb("logs", &[])?.ok()?.stdout;
    ensure_eq!(logs, (1..=3000).map(|n| format!("{n}\n")).collect::<String>(), "no gap, no double");
    Ok(())
}

fn a_stopped_shim_is_named_and_can_be_deleted(t: &T) -> Verdict {
    let c = shim::run(t, &t.bundle()?.args(&["/bin/sleep", "1000"]), &[])?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(c.pid()), nix::sys::signal::Signal::SIGSTOP)?;
    let named = format!("the shim does not answer: process {} (", c.pid());
    for (verb, words) in
        [("status", &[][..]), ("kill", &["KILL"]), ("exec", &["true"]), ("events", &[]), ("delete", &[])]
    {
        let begun = Instant::now();
        c.verb(verb, words)?.code_is(1)?.stderr_has(&named)?.stderr_has(") in state T")?;
        ensure!(begun.elapsed() < Duration::from_secs(60), "{verb} took {:?}", begun.elapsed());
    }
    ensure_eq!(c.line("delete", &["--force"])?["shim_lost"], json!(true), "what delete --force says");
    ensure!(!c.file("").exists(), "its directory is there");
    // The process has ended; when it is reaped depends on the host's init.
    let process = format!("/proc/{}", c.made["pid"]);
    eventually("its process is gone", || (!Path::new(&process).exists()).then_some(()))?;
    t.runtime(&["state", &c.id])?.fails()?;
    Ok(())
}

/// After a power failure a name has its old content or its whole new one, and a reported end is still there (fsync(2),
/// "NOTES").
fn a_record_is_on_the_disk_before_it_has_its_name(t: &T) -> Verdict {
    let log = t.path("log");
    let bundle = t.bundle()?.args(&["/bin/sleep", "1000"]);
    let c = shim::run(t, &bundle, &["--log", &format!("k8s:{}", log.display())])?;
    let trace = t.path("trace");
    let words = ["-f", "-y", "-e", "trace=fsync,fdatasync,rename,renameat,renameat2"];
    let traced = Traced::start(c.pid(), &trace, &words)?;
    t.runtime(&["kill", &c.id, "KILL"])?.ok()?;
    eventually("the record", || c.file("exit.json").exists().then_some(()))?;
    drop(c.line("delete", &["--force"])?);
    drop(traced);
    let told = text(&trace);
    let name = |line: &&str| line.contains("fsync(") || line.contains("exit.json\"");
    let call = |line: &str| Some(line.split_whitespace().nth(1)?.split('(').next()?.to_owned());
    let calls: Vec<String> = told.lines().filter(name).filter_map(call).collect();
    let Some(at) = calls.iter().position(|call| call.starts_with("rename")) else {
        return fail(format!("no rename in {told}"));
    };
    ensure!(at > 0 && calls[at - 1] == "fsync", "before the rename: {told}");
    // Who has learnt of the end reads the log.
    let of_log = |line: &str| line.contains("fdatasync(") && line.contains(&format!("<{}>", log.display()));
    let (synced, renamed) = (told.lines().position(of_log), told.lines().position(|line| line.contains("rename")));
    ensure!(synced.is_some_and(|synced| Some(synced) < renamed), "the log before the record: {told}");
    ensure!(calls.get(at + 1).is_some_and(|call| call == "fsync"), "after the rename: {told}");
    // The runtime answers for a container whose shim and record are lost.
    let state = format!("<{}>", t.root().join(&c.id).display());
    let of_state = |line: &str| line.contains("fdatasync(") && line.contains(&state);
    ensure!(told.lines().any(of_state), "the state of the runtime: {told}");
    Ok(())
}

/// Writing a record may take long. If the writer had a copy of a pipe that the shim closes, readers of the pipe would
/// wait for the writer.
fn who_writes_a_record_has_nothing_else_open(t: &T) -> Verdict {
    let c = shim::run(t, &t.bundle()?.args(&["/bin/sleep", "1000"]), &["--stdin"])?;
    let _client = c.connect()?;
    let slow = ["-f", "-e", "trace=fsync", "-e", "inject=fsync:delay_enter=60s:when=1"];
    let traced = Traced::start(c.pid(), Path::new("/dev/null"), &slow)?;
    t.runtime(&["kill", &c.id, "KILL"])?.ok()?;
    let shim = c.pid();
    let program = |pid: i32| fs::read_link(format!("/proc/{pid}/exe")).ok();
    let open = |pid: i32| -> Vec<String> {
        let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        entries.filter_map(|entry| Some(fs::read_link(entry.path()).ok()?.display().to_string())).collect()
    };
    let of_record = |path: &String| path.contains("exit.json");
    let writer = || {
        let children = text(format!("/proc/{shim}/task/{shim}/children"));
        let mut children = children.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok());
        children.find(|pid| program(*pid) == program(shim) && open(*pid).iter().any(of_record))
    };
    let writer = eventually("the child that writes the record", writer)?;
    let mut more = open(writer);
    // It syncs the log first.
    more.retain(|path| !of_record(path) && !path.ends_with("/log"));
    drop(traced);
    ensure!(more.is_empty(), "it has these open too: {more:?}");
    Ok(())
}

/// When the record is written late, another container may have the name of the exit file, for example one that podman
/// starts again.
fn a_record_that_comes_late_is_no_new_container_s(t: &T) -> Verdict {
    let (bundle, id) = (t.bundle()?.sh("exit 6"), t.id());
    let shim = shim::conmon(t, &id, &bundle)?;
    let slow = ["-f", "-e", "trace=fsync", "-e", "inject=fsync:delay_enter=60s:when=1"];
    let traced = Traced::start(shim, Path::new("/dev/null"), &slow)?;
    t.runtime(&["start", &id])?.ok()?;
    let writes = || text(format!("/proc/{shim}/task/{shim}/children")).split_whitespace().last()?.parse::<i32>().ok();
    let ended = || t.runtime(&["state", &id]).ok()?.json().ok().filter(|state| state["status"] == "stopped");
    eventually("it ends", ended)?;
    let writer = eventually("the child that writes the record", writes)?;
    shim::kill(shim)?;
    eventually("that child is gone", || (!Path::new(&format!("/proc/{writer}")).exists()).then_some(()))?;
    drop(traced);
    ensure!(!t.path("exits").join(&id).exists(), "the record was written when the shim was dead");
    // `delete` writes the exit file in place of the dead shim.
    t.runtime(&["delete", &id])?.ok()?;
    // The killed shim has left its control socket.
    let mut list = Command::new(&t.shim);
    list.arg("list");
    t.finish(list)?.ok()?;
    Ok(())
}

fn a_grandchild_that_holds_the_pipe_is_waited_for_but_not_for_ever(t: &T) -> Verdict {
    let c = shim::run(t, &t.bundle()?.args(&["/bin/sleep", "1000"]), &["--drain", "1"])?;
    let mut client = c.connect()?;
    let begun = Instant::now();
    let exec = c.exec_in(&mut client, "sleep 30 & echo x; exit 3")?;
    let ended = client.call("wait", json!({"exec": exec}))?;
    let took = begun.elapsed();
    ensure_eq!(ended["code"], json!(3), "the exec's code");
    if took < Duration::from_secs(1) || took > Duration::from_secs(28) {
        return fail(format!("reported after {took:?}"));
    }
    Ok(())
}
