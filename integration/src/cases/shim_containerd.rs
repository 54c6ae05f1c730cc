//! windlass-shim below containerd, under the name of containerd's own shim: what ctr shows, and what remains when
//! containerd or the shim is killed.

use crate::kit::containerd::Engine;
use crate::kit::criu::{self, COUNTING};
use crate::kit::machine::text;
use crate::kit::stop::Context;
use crate::kit::wait::eventually;
use crate::kit::{Need, T, Verdict};
use crate::{chapter, ensure, ensure_eq};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::Path;
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

chapter! { "shim_containerd":
    output_and_status_are_the_containers [Need::Slow],
    all_verbs_of_a_task_work [Need::Slow],
    a_terminal_is_one [Need::Slow],
    what_cannot_be_run_is_said_in_runcs_words [Need::Slow],
    output_goes_to_files_and_programs [Need::Slow],
    state_is_answered_while_an_exec_hangs [Need::Slow],
    containerd_killed_at_create [Need::Slow],
    containerd_killed_at_start [Need::Slow],
    containerd_killed_while_a_container_runs_and_ends [Need::Slow],
    containerd_killed_when_a_container_ends [Need::Slow],
    containerd_killed_at_delete [Need::Slow],
    the_shim_killed_while_a_container_runs [Need::Slow],
    the_shim_killed_when_a_container_has_ended [Need::Slow],
    many_execs_and_a_kill_of_init [Need::Slow],
    a_checkpoint_is_an_image_that_is_restored [Need::Windlass, Need::Criu, Need::Slow],
    a_kill_for_want_of_memory_is_told [Need::Slow, Need::Controller("memory")],
}

/// How long containerd is away: shorter and much longer than its own shim would try.
fn absences(t: &T) -> &'static [u64] {
    if t.long { &[1, 25, 60] } else { &[1] }
}

fn output_and_status_are_the_containers(t: &T) -> Verdict {
    let engine = Engine::start(t)?;
    let ran = engine.run(&["--rm"], "a", &["sh", "-c", "echo out; echo err >&2; exit 42"])?.code_is(42)?;
    ran.stdout_is("out\n")?.stderr_has("err\n")?;
    engine.expect_events(&["create", "start", "exit", "delete"])?;
    let lines = engine.run(&["--rm"], "b", &["seq", "100000"])?.ok()?.stdout.lines().count();
    ensure_eq!(lines, 100_000, "lines of output");
    engine.is_clean()
}

fn all_verbs_of_a_task_work(t: &T) -> Verdict {
    let engine = Engine::start(t)?;
    engine.run(&["-d"], "a", &["sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.05; done"])?.ok()?;
    ensure_eq!(engine.status("a")?, "RUNNING", "the status");
    let exec = |id: &str, words: &[&str]| engine.ctr(&[&["tasks", "exec", "--exec-id", id, "a"], words].concat());
    exec("e1", &["sh", "-c", "echo in; exit 3"])?.code_is(3)?.stdout_is("in\n")?;
    let mut cat = engine.command(&["tasks", "exec", "--exec-id", "e2", "a", "cat"]);
    cat.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut cat = cat.spawn()?;
    std::io::Write::write_all(cat.stdin.as_mut().ok_or_else(nothing)?, b"typed")?;
    ensure_eq!(String::from_utf8_lossy(&cat.wait_with_output()?.stdout), "typed", "what cat read to its end");
    engine.ctr(&["tasks", "pause", "a"])?.ok()?;
    ensure_eq!(engine.status("a")?, "PAUSED", "the status");
    engine.ctr(&["tasks", "resume", "a"])?.ok()?;
    engine.ctr(&["tasks", "metrics", "a"])?.ok()?.stdout_has("cpu.usage_usec")?;
    ensure!(engine.ctr(&["tasks", "ps", "a"])?.ok()?.lines().len() >= 2, "a process is listed");
    engine.ctr(&["tasks", "checkpoint", "--image-path", "/proc/x", "a"])?.fails()?.stderr_has("checkpoint failed")?;
    engine.ctr(&["tasks", "kill", "a"])?.ok()?;
    engine.wait_for("a", "STOPPED")?;
    engine.remove("a", 7)?;
    let execs = ["exec-added", "exec-started", "exit"];
    let expected: [&[&str]; 4] = [&["create", "start"], &execs[..], &execs[..], &["paused", "resumed"]];
    // ctr pauses around a checkpoint, too.
    let expected = [&expected.concat()[..], &["paused", "resumed", "exit", "delete"]].concat();
    engine.expect_events(&expected)?;
    engine.is_clean()
}

fn nothing() -> std::io::Error {
    std::io::ErrorKind::NotFound.into()
}

fn a_terminal_is_one(t: &T) -> Verdict {
    let engine = Engine::start(t)?;
    let command = engine.run_command(&["--rm", "-t"], "a", &["sh", "-c", "'test -t 0 && test -t 1 && tty'"]);
    let words: Vec<String> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let said = t.host("script", &["-qec", &words.join(" "), "/dev/null"])?;
    ensure!(said.contains("/dev/pts/0"), "the terminal's name in {said:?}");
    engine.is_clean()
}

fn what_cannot_be_run_is_said_in_runcs_words(t: &T) -> Verdict {
    let engine = Engine::start(t)?;
    let ran = engine.run(&["--rm"], "a", &["/nonexistent"])?.fails()?;
    ran.stderr_has("OCI runtime create failed")?.stderr_has("no such file or directory")?;
    engine.run(&["-d"], "b", &["sleep", "1000"])?.ok()?;
    let ran = engine.ctr(&["tasks", "exec", "--exec-id", "e", "b", "/nonexistent"])?.fails()?;
    ran.stderr_has("OCI runtime exec failed")?.stderr_has("no such file or directory")?;
    engine.ctr(&["tasks", "kill", "-s", "KILL", "b"])?.ok()?;
    engine.wait_for("b", "STOPPED")?;
    engine.ctr(&["tasks", "kill", "b"])?.fails()?.stderr_has("not found")?;
    let late = engine.ctr(&["tasks", "exec", "--exec-id", "late", "b", "true"])?.fails()?;
    late.stderr_has("cannot exec in a stopped state")?;
    engine.remove("b", 137)?;
    engine.is_clean()
}

fn output_goes_to_files_and_programs(t: &T) -> Verdict {
    let engine = Engine::start(t)?;
    let both = ["sh", "-c", "echo out; echo err >&2"];
    let file = t.path("logs/file");
    engine.run(&["-d", "--log-uri", &format!("file://{}", file.display())], "a", &both)?.ok()?;
    engine.wait_for("a", "STOPPED")?;
    let lines = text(&file);
    ensure!(lines.contains("out") && lines.contains("err"), "both streams in the file: {lines:?}");
    engine.remove("a", 0)?;
    let logger = t.path("logger");
    let script = "#!/bin/sh\nexec 5>&-\n{ echo $1 $2 $CONTAINER_ID $CONTAINER_NAMESPACE; cat <&3; cat <&4; } >$2\n";
    std::fs::write(&logger, script)?;
    std::fs::set_permissions(&logger, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let to = t.path("logged");
    let uri = format!("binary://{}?to={}", logger.display(), to.display());
    engine.run(&["-d", "--log-uri", &uri], "b", &both)?.ok()?;
    engine.wait_for("b", "STOPPED")?;
    let expected = format!("to {} b default\nout\nerr", to.display());
    eventually("the program has written all", || (text(&to) == expected).then_some(()))?;
    engine.remove("b", 0)?;
    engine.is_clean()
}

fn state_is_answered_while_an_exec_hangs(t: &T) -> Verdict {
    let mut engine = Engine::start(t)?;
    engine.wrap("[ $verb != exec ] || sleep 20")?;
    engine.run(&["-d"], "a", &["sleep", "1000"])?.ok()?;
    let mut exec = engine.command(&["tasks", "exec", "--exec-id", "e", "a", "true"]).spawn()?;
    sleep(Duration::from_millis(300));
    ensure_eq!(engine.status("a")?, "RUNNING", "the status");
    engine.ctr(&["tasks", "ps", "a"])?.ok()?;
    ensure!(exec.try_wait()?.is_none(), "State and Pids waited for an exec that hung");
    ensure!(exec.wait()?.success(), "the exec goes on");
    end(&engine, "a")
}

/// Kills and removes a running container; nothing may be left.
fn end(engine: &Engine<'_>, id: &str) -> Verdict {
    engine.ctr(&["tasks", "kill", "-s", "KILL", id])?.ok()?;
    engine.wait_for(id, "STOPPED")?;
    engine.remove(id, 137)?;
    engine.is_clean()
}

/// A script that makes the verb slow, and makes a file when it is in progress.
fn slow(t: &T, verb: &str) -> (String, std::path::PathBuf) {
    let mark = t.path(&format!("{verb}-under-way"));
    let _ = std::fs::remove_file(&mark);
    (format!("[ $verb != {verb} ] || {{ touch {}; sleep 0.5; }}", mark.display()), mark)
}

/// Kills containerd and the client when the file appears. containerd comes back after some seconds.
fn kill_when(engine: &mut Engine<'_>, mark: &Path, mut client: std::process::Child, absence: u64) -> Verdict {
    eventually("the runtime is called", || mark.exists().then_some(()))?;
    engine.kill()?;
    client.kill()?;
    client.wait()?;
    sleep(Duration::from_secs(absence));
    engine.restart()
}

fn containerd_killed_at_create(t: &T) -> Verdict {
    let mut engine = Engine::start(t)?;
    for absence in absences(t) {
        let (before, mark) = slow(t, "create");
        engine.wrap(&before)?;
        let client = engine.run_command(&["-d"], "a", &["sleep", "1000"]).spawn()?;
        kill_when(&mut engine, &mark, client, *absence).context(format!("away for {absence} s"))?;
        // No answer has shown whether the task exists. In both cases it must be possible to remove it.
        let status = engine.status("a")?;
        ensure!(["", "CREATED", "STOPPED"].contains(&status.as_str()), "status {status:?}");
        if !status.is_empty() {
            engine.ctr(&["tasks", "rm", "--force", "a"])?.ok()?;
        }
        engine.ctr(&["containers", "rm", "a"])?.ok()?;
        engine.is_clean()?;
    }
    Ok(())
}

fn containerd_killed_at_start(t: &T) -> Verdict {
    for absence in absences(t) {
        let mut engine = Engine::start(t)?;
        let (before, mark) = slow(t, "start");
        engine.wrap(&before)?;
        let go = "while ! test -e /go; do sleep 0.05; done; exit 42";
        let client = engine.run_command(&["-d"], "a", &["sh", "-c", go]).spawn()?;
        kill_when(&mut engine, &mark, client, *absence).context(format!("away for {absence} s"))?;
        engine.wait_for("a", "RUNNING")?;
        engine.ctr(&["tasks", "exec", "--exec-id", "e", "a", "touch", "/go"])?.ok()?;
        engine.wait_for("a", "STOPPED")?;
        engine.remove("a", 42)?;
        let expected = ["create", "start", "exec-added", "exec-started", "exit", "exit", "delete"];
        engine.expect_events(&expected).context(format!("away for {absence} s"))?;
        engine.is_clean()?;
    }
    Ok(())
}

/// The process id of a task.
fn pid(engine: &Engine<'_>, id: &str) -> Verdict<i32> {
    let ran = engine.ctr(&["tasks", "ls"])?.ok()?;
    let mut lines = ran.stdout.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let pid = lines.find(|words| words.first() == Some(&id)).and_then(|words| words.get(1)?.parse().ok());
    pid.ok_or_else(nothing).context("the task's process id")
}

fn containerd_killed_while_a_container_runs_and_ends(t: &T) -> Verdict {
    for absence in absences(t) {
        let mut engine = Engine::start(t)?;
        engine.run(&["-d"], "a", &["sh", "-c", "sleep 0.5; exit 42"])?.ok()?;
        engine.kill()?;
        sleep(Duration::from_secs(*absence));
        engine.restart()?;
        engine.wait_for("a", "STOPPED")?;
        engine.expect_events(&["create", "start", "exit"]).context(format!("away for {absence} s"))?;
        engine.remove("a", 42)?;
        engine.expect_events(&["create", "start", "exit", "delete"])?;
        engine.is_clean()?;
    }
    Ok(())
}

fn containerd_killed_when_a_container_ends(t: &T) -> Verdict {
    for round in 0..if t.long { 6 } else { 4 } {
        let mut engine = Engine::start(t)?;
        engine.run(&["-d"], "a", &["sleep", "1000"])?.ok()?;
        let init = Pid::from_raw(pid(&engine, "a")?);
        kill(init, Signal::SIGKILL)?;
        // The delays begin before the shim has reaped the process and end after containerd has acknowledged the event.
        sleep(Duration::from_millis(round * 2));
        engine.kill()?;
        sleep(Duration::from_secs(if t.long { *absences(t).get(round as usize % 3).unwrap_or(&1) } else { 1 }));
        engine.restart()?;
        engine.wait_for("a", "STOPPED")?;
        let _ = eventually("the exit is told", || engine.events().contains(&"exit".to_owned()).then_some(()));
        // At least once: if containerd is killed between taking an event and acknowledging it, it gets the event again,
        // with the same time. It cannot get it more than twice.
        let exits = engine.events().iter().filter(|topic| *topic == "exit").count();
        ensure!((1..=2).contains(&exits), "round {round}: {:?}", engine.events());
        engine.remove("a", 137)?;
        engine.is_clean()?;
    }
    Ok(())
}

fn containerd_killed_at_delete(t: &T) -> Verdict {
    let mut engine = Engine::start(t)?;
    for absence in absences(t) {
        let (before, mark) = slow(t, "delete");
        engine.wrap(&before)?;
        engine.run(&["-d"], "a", &["sh", "-c", "exit 42"])?.ok()?;
        engine.wait_for("a", "STOPPED")?;
        let client = engine.command(&["tasks", "rm", "a"]).stderr(Stdio::null()).spawn()?;
        kill_when(&mut engine, &mark, client, *absence).context(format!("away for {absence} s"))?;
        // The shim has deleted the task meanwhile, which containerd finds out.
        eventually("the task is gone", || engine.status("a").ok().filter(String::is_empty))?;
        engine.ctr(&["containers", "rm", "a"])?.ok()?;
        // containerd 1.6 keeps the connection and sends no request: the shim ends after half a
        // minute. The short form kills it, which has the same effect.
        match t.long {
            true => sleep(Duration::from_secs(31)),
            false => engine.kill_shims()?,
        }
        engine.is_clean()?;
    }
    Ok(())
}

fn the_shim_killed_while_a_container_runs(t: &T) -> Verdict {
    let engine = Engine::start(t)?;
    engine.run(&["-d"], "a", &["sh", "-c", "sleep 1000 & sleep 1000"])?.ok()?;
    let init = pid(&engine, "a")?;
    engine.kill_shims()?;
    eventually("the container is gone", || (!Path::new(&format!("/proc/{init}")).exists()).then_some(()))?;
    // containerd itself publishes the exit, from the answer of `delete`.
    eventually("the task is gone", || engine.status("a").ok().filter(String::is_empty))?;
    let log = text(t.path("ours/containerd.log"));
    ensure!(!log.contains("failed to clean up after shim disconnected"), "delete failed: {log}");
    engine.ctr(&["containers", "rm", "a"])?.ok()?;
    engine.is_clean()
}

fn the_shim_killed_when_a_container_has_ended(t: &T) -> Verdict {
    let mut engine = Engine::start(t)?;
    let mut events = engine.command(&["events"]).stdout(std::fs::File::create(t.path("events"))?).spawn()?;
    engine.wrap("")?;
    engine.run(&["-d"], "a", &["sh", "-c", "exit 42"])?.ok()?;
    engine.wait_for("a", "STOPPED")?;
    engine.kill_shims()?;
    eventually("the task is gone", || engine.status("a").ok().filter(String::is_empty))?;
    let exits = || {
        let events = text(t.path("events"));
        events.lines().filter(|line| line.contains("/tasks/exit ")).map(str::to_owned).collect::<Vec<_>>()
    };
    // The shim reports the end, and containerd reports it again on the shim's behalf: both with the true exit.
    eventually("the end is told", || (!exits().is_empty()).then_some(()))?;
    sleep(Duration::from_millis(200));
    events.kill()?;
    events.wait()?;
    ensure!(exits().iter().all(|line| line.contains("\"exit_status\":42")), "{:?}", exits());
    engine.ctr(&["containers", "rm", "a"])?.ok()?;
    engine.is_clean()
}

fn many_execs_and_a_kill_of_init(t: &T) -> Verdict {
    let mut engine = Engine::start(t)?;
    let count = if t.long { 500 } else { 40 };
    engine.wrap("[ $verb != exec ] || sleep 0.2")?;
    engine.run(&["-d"], "a", &["sleep", "1000"])?.ok()?;
    let mut execs = Vec::new();
    for n in 0..count {
        let mut exec = engine.command(&["tasks", "exec", "--exec-id", &format!("e{n}"), "a", "true"]);
        execs.push(exec.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
    }
    kill(Pid::from_raw(pid(&engine, "a")?), Signal::SIGKILL)?;
    engine.wait_for("a", "STOPPED")?;
    for mut exec in execs {
        exec.wait()?;
    }
    engine.remove("a", 137)?;
    // The shim reports the ends one after the other, and nobody waits for that.
    let told = || engine.events().last().is_some_and(|topic| topic == "delete").then_some(());
    eventually("the deletion is told", told)?;
    let events = engine.events();
    let last = events.iter().rposition(|topic| topic == "exit");
    let started = events.iter().filter(|topic| *topic == "exec-started").count();
    let exits = events.iter().filter(|topic| *topic == "exit").count();
    ensure_eq!(exits, started + 1, "each exec that was started ended once, and init once");
    ensure!(events.iter().rposition(|topic| topic == "exec-started") < last, "none starts after the end: {events:?}");
    ensure_eq!(events.last().map(String::as_str), Some("delete"), "the last event");
    engine.is_clean()
}

fn a_kill_for_want_of_memory_is_told(t: &T) -> Verdict {
    let engine = Engine::start(t)?;
    engine.run(&["-d", "--memory-limit", "16777216"], "a", &["sh", "-c", "sleep 1; tail /dev/zero"])?.ok()?;
    engine.ctr(&["tasks", "metrics", "a"])?.ok()?.stdout_has("memory.usage_limit")?.stdout_has("16777216")?;
    engine.wait_for("a", "STOPPED")?;
    engine.remove("a", 137)?;
    engine.expect_events(&["create", "start", "oom", "exit", "delete"])?;
    engine.is_clean()
}

/// The number that the container has counted up to.
fn counted(engine: &Engine<'_>, id: &str, exec: &str) -> Verdict<u32> {
    let ran = engine.ctr(&["tasks", "exec", "--exec-id", exec, id, "cat", "/count"])?.ok()?;
    ran.stdout.trim().parse().context("a number")
}

fn a_checkpoint_is_an_image_that_is_restored(t: &T) -> Verdict {
    // Removes CRIU's cache of the kernel's features.
    let _forgetting = criu::Images::new(t);
    let engine = Engine::start(t)?;
    engine.run(&["-d"], "a", &["sh", "-c", COUNTING])?.ok()?;
    eventually("it counts", || counted(&engine, "a", "e").ok().filter(|count| *count > 1))?;
    let images = t.path("images").display().to_string();
    engine.ctr(&["tasks", "checkpoint", "--image-path", &images, "a"])?.ok()?;
    ensure!(t.path("images/inventory.img").exists(), "there are no images");
    ensure_eq!(engine.status("a")?, "RUNNING", "the status");
    engine.ctr(&["containers", "checkpoint", "--task", "--rw", "a", "localhost/dumped:1"])?.ok()?;
    let at = counted(&engine, "a", "e2")?;
    engine.ctr(&["tasks", "kill", "-s", "KILL", "a"])?.ok()?;
    engine.wait_for("a", "STOPPED")?;
    engine.remove("a", 137)?;
    let mut restore = engine.command(&["containers", "restore", "--live", "--rw", "b", "localhost/dumped:1"]);
    let mut restored = restore.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let goes_on = eventually("it counts on", || {
        counted(&engine, "b", "e").ok().filter(|count| *count + 5 > at)?;
        Some(())
    });
    let killed = engine.ctr(&["tasks", "kill", "-s", "KILL", "b"]);
    restored.wait()?;
    goes_on?;
    killed?.ok()?;
    engine.wait_for("b", "STOPPED")?;
    engine.remove("b", 137)?;
    // The exit is reported after the checkpoint that causes it.
    engine.run(&["-d"], "c", &["sh", "-c", COUNTING])?.ok()?;
    engine.ctr(&["tasks", "checkpoint", "--exit", "c"])?.ok()?;
    engine.wait_for("c", "STOPPED")?;
    engine.remove("c", 137)?;
    let all = engine.events();
    let dumped: Vec<&str> = all.iter().map(String::as_str).filter(|topic| *topic == "checkpointed").collect();
    ensure_eq!(dumped.len(), 3, "checkpoints among {all:?}");
    engine.is_clean()
}
