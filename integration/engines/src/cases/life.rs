//! The life of a container, verb by verb, and the exit codes of `run`.

use crate::case::chapter;
use crate::engine::Engine;
use crate::image::NAME;
use crate::session::{Session, until};
use integration::kit::Verdict;
use integration::{ensure, ensure_eq};
use nix::sys::signal::Signal;
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

chapter! { [Docker, Podman] "life":
    run_prints_what_the_program_prints,
    run_passes_the_exit_code_on,
    run_that_the_engine_refuses_exits_with_125,
    run_of_a_missing_program_exits_with_127,
    run_of_a_file_that_is_no_program_exits_with_126,
    run_of_a_killed_program_exits_with_137_and_of_a_terminated_one_with_143,
    run_reads_standard_input,
    run_keeps_standard_output_and_standard_error_apart,
    run_at_a_terminal_has_its_size_and_follows_a_resize,
    run_in_the_background_leaves_a_running_container,
    create_start_stop_and_start_again,
    stop_of_a_deaf_program_kills_it_after_the_time,
    restart_gives_a_new_process,
    kill_sends_any_signal,
    pause_freezes_and_unpause_thaws,
    wait_returns_the_exit_code,
    attach_shows_the_output_and_passes_signals_on,
    cp_goes_both_ways,
    top_lists_the_processes,
    stats_have_a_line_for_the_container,
    rename_keeps_the_container,
    rm_refuses_a_running_container_unless_forced,
    rm_with_v_removes_the_anonymous_volume,
    ps_shows_states_and_codes,
    inspect_tells_the_state_of_a_running_and_an_ended_container,
    events_tell_the_life_in_order,
    a_program_that_ends_at_once_is_told_about,
    a_configuration_that_cannot_be_had_is_told_about,
}

/// Prints the size of the terminal whenever it changes, and ends at 12 by 34.
pub const WATCH_SIZE: &str = "while :; do now=$(stty size 2>/dev/null); [ \"$now\" = \"$old\" ] || echo $now; old=$now
    [ \"$now\" != '12 34' ] || exit 7; sleep 0.05; done";

fn run_prints_what_the_program_prints(s: &Session) -> Verdict {
    ensure_eq!(s.inside("", "echo hello")?, "hello", "output");
    Ok(())
}

fn run_passes_the_exit_code_on(s: &Session) -> Verdict {
    for code in [0, 1, 42, 255] {
        s.try_inside("", &format!("exit {code}"))?.code_is(code)?;
    }
    Ok(())
}

fn run_that_the_engine_refuses_exits_with_125(s: &Session) -> Verdict {
    let name = s.sleeper("")?;
    s.run(&format!("run --name {name} {NAME} true"))?.code_is(125)?.stderr_has("in use").map(drop)
}

fn run_of_a_missing_program_exits_with_127(s: &Session) -> Verdict {
    s.run(&format!("run --rm {NAME} no-such-program"))?.code_is(127)?.stderr_has("no-such-program")?;
    s.run(&format!("run --rm {NAME} /no/such/program"))?.code_is(127)?;
    Ok(())
}

fn run_of_a_file_that_is_no_program_exits_with_126(s: &Session) -> Verdict {
    s.run(&format!("run --rm {NAME} /bin/not-executable"))?.code_is(126)?;
    s.run(&format!("run --rm {NAME} /etc"))?.code_is(126)?;
    Ok(())
}

fn run_of_a_killed_program_exits_with_137_and_of_a_terminated_one_with_143(s: &Session) -> Verdict {
    for (signal, code) in [("KILL", 137), ("TERM", 143)] {
        let name = s.name();
        // The first process of a PID namespace ignores signals that it does not handle; one in the host's does not.
        let mut running = s.background(s.command(&format!("run --rm --name {name} --pid host {NAME} sleep 1000")))?;
        wait_running(s, &name)?;
        s.ok(&format!("kill -s {signal} {name}"))?;
        ensure_eq!(running.wait()?, code, "exit code after SIG{signal}");
    }
    Ok(())
}

fn run_reads_standard_input(s: &Session) -> Verdict {
    fs::write(s.path("input"), "a\nb\nc\n")?;
    let mut command = s.command(&format!("run --rm -i {NAME} wc -l"));
    command.stdin(fs::File::open(s.path("input"))?);
    ensure_eq!(s.finish(command)?.ok()?.stdout.trim(), "3", "lines");
    Ok(())
}

fn run_keeps_standard_output_and_standard_error_apart(s: &Session) -> Verdict {
    let ran = s.try_inside("", "echo out; echo err >&2")?.ok()?;
    ensure_eq!((ran.stdout.trim(), ran.stderr.trim()), ("out", "err"), "streams");
    Ok(())
}

fn run_at_a_terminal_has_its_size_and_follows_a_resize(s: &Session) -> Verdict {
    let mut command = s.command(&format!("run --rm -it {NAME} sh -c"));
    command.arg(WATCH_SIZE);
    let mut at = s.terminal(&command, 33, 77)?;
    at.terminal.read_until("33 77\r\n")?;
    at.resize(12, 34)?;
    at.terminal.read_until("12 34\r\n")?;
    ensure_eq!(at.wait()?, 7, "exit code");
    let mut at = s.terminal(&s.command(&format!("run --rm -it {NAME} sh")), 24, 80)?;
    at.terminal.write("echo $((40 + 2))\n")?;
    at.terminal.read_until("42")?;
    at.terminal.write("exit 3\n")?;
    ensure_eq!(at.wait()?, 3, "exit code of a shell that was typed at");
    Ok(())
}

fn run_in_the_background_leaves_a_running_container(s: &Session) -> Verdict {
    let name = s.sleeper("")?;
    ensure_eq!(s.inspect(&name, "{{.State.Status}}")?, "running", "status");
    Ok(())
}

fn create_start_stop_and_start_again(s: &Session) -> Verdict {
    let name = s.name();
    let script = "trap 'exit 5' TERM; while :; do sleep 0.05; done";
    s.ok_with(&format!("create --name {name} {NAME} sh -c"), script)?;
    ensure_eq!(s.inspect(&name, "{{.State.Status}}")?, "created", "status");
    for _ in 0..2 {
        s.ok(&format!("start {name}"))?;
        s.ok(&format!("exec {name} true"))?;
        s.ok(&format!("stop {name}"))?;
        ensure_eq!(s.inspect(&name, "{{.State.Status}} {{.State.ExitCode}}")?, "exited 5", "after stop");
    }
    Ok(())
}

fn stop_of_a_deaf_program_kills_it_after_the_time(s: &Session) -> Verdict {
    let name = s.up("", "trap '' TERM; while :; do sleep 0.05; done")?;
    let ran = s.run(&format!("stop -t 1 {name}"))?.ok()?;
    ensure!(ran.took.as_millis() >= 1000, "stopped after {:?}, before its time", ran.took);
    ensure_eq!(s.inspect(&name, "{{.State.ExitCode}}")?, "137", "exit code");
    Ok(())
}

fn restart_gives_a_new_process(s: &Session) -> Verdict {
    let name = s.sleeper("")?;
    let before = s.inspect(&name, "{{.State.Pid}}")?;
    s.ok(&format!("restart {name}"))?;
    let after = s.inspect(&name, "{{.State.Pid}} {{.State.Status}}")?;
    ensure!(after.ends_with(" running") && !after.starts_with(&format!("{before} ")), "pid {before}, then {after}");
    Ok(())
}

fn kill_sends_any_signal(s: &Session) -> Verdict {
    let name = s.up("", "trap 'echo got usr1' USR1; echo ready; while :; do sleep 0.05; done")?;
    logged(s, &name, "ready")?;
    s.ok(&format!("kill -s USR1 {name}"))?;
    logged(s, &name, "got usr1")?;
    s.ok(&format!("kill {name}"))?;
    ensure_eq!(s.ok(&format!("wait {name}"))?, "137", "exit code");
    Ok(())
}

fn pause_freezes_and_unpause_thaws(s: &Session) -> Verdict {
    let name = s.up("", "while :; do echo tick; sleep 0.02; done")?;
    logged(s, &name, "tick")?;
    s.ok(&format!("pause {name}"))?;
    ensure_eq!(s.inspect(&name, "{{.State.Status}}")?, "paused", "status");
    let count = || Ok::<_, integration::kit::Stop>(s.ok(&format!("logs {name}"))?.lines().count());
    let before = until("a log that stands still", || {
        let first = count()?;
        std::thread::sleep(std::time::Duration::from_millis(200));
        Ok((count()? == first).then_some(first))
    })?;
    s.run(&format!("exec {name} true"))?.fails()?;
    s.ok(&format!("unpause {name}"))?;
    until("a log that grows", || Ok((count()? > before).then_some(())))
}

fn wait_returns_the_exit_code(s: &Session) -> Verdict {
    let name = s.up("", "sleep 0.5; exit 42")?;
    ensure_eq!(s.ok(&format!("wait {name}"))?, "42", "exit code");
    Ok(())
}

fn attach_shows_the_output_and_passes_signals_on(s: &Session) -> Verdict {
    let script = "trap 'echo bye; exit 9' TERM; while :; do echo here; sleep 0.1; done";
    let name = s.up("", script)?;
    let mut attached = s.background(s.command(&format!("attach {name}")))?;
    attached.until("here")?;
    attached.signal(Signal::SIGTERM)?;
    // podman's attach ends with 0, whatever the exit code of the container is.
    let code = if s.engine == Engine::Docker { 9 } else { 0 };
    ensure_eq!(attached.wait()?, code, "exit code of attach");
    ensure_eq!(s.ok(&format!("wait {name}"))?, "9", "exit code of the container");
    ensure!(attached.stdout().contains("bye"), "the last word is missing: {}", attached.stdout());
    Ok(())
}

fn cp_goes_both_ways(s: &Session) -> Verdict {
    let name = s.sleeper("")?;
    fs::write(s.path("up"), "up\n")?;
    s.ok(&format!("cp {} {name}:/tmp/up", s.path("up").display()))?;
    ensure_eq!(s.ok(&format!("exec {name} cat /tmp/up"))?, "up", "what was copied in");
    s.ok(&format!("cp {name}:/data/seed {}", s.path("down").display()))?;
    ensure_eq!(fs::read_to_string(s.path("down"))?, crate::image::SEED.1, "what was copied out");
    Ok(())
}

fn top_lists_the_processes(s: &Session) -> Verdict {
    let name = s.up("", "sleep 1000 & sleep 2000")?;
    until("both in top", || {
        let top = s.run(&format!("top {name}"))?.ok()?.stdout;
        Ok((top.contains("sleep 1000") && top.contains("sleep 2000")).then_some(()))
    })
}

fn stats_have_a_line_for_the_container(s: &Session) -> Verdict {
    let name = s.sleeper("")?;
    let line = s.ok_with(&format!("stats --no-stream {name} --format"), "{{.Name}}|{{.PIDs}}")?;
    ensure!(line.contains(&name), "stats: {line}");
    Ok(())
}

fn rename_keeps_the_container(s: &Session) -> Verdict {
    let (name, other) = (s.sleeper("")?, s.name());
    s.ok(&format!("rename {name} {other}"))?;
    s.ok(&format!("exec {other} true"))?;
    s.run(&format!("inspect {name}"))?.fails()?;
    Ok(())
}

fn rm_refuses_a_running_container_unless_forced(s: &Session) -> Verdict {
    let name = s.sleeper("")?;
    let pid = s.inspect(&name, "{{.State.Pid}}")?;
    s.run(&format!("rm {name}"))?.fails()?.stderr_has("running")?;
    s.ok(&format!("rm -f {name}"))?;
    ensure!(!std::path::Path::new("/proc").join(&pid).exists(), "process {pid} is still there");
    Ok(())
}

fn rm_with_v_removes_the_anonymous_volume(s: &Session) -> Verdict {
    let name = s.up("-v /data", "true")?;
    s.ok(&format!("wait {name}"))?;
    ensure_eq!(s.ok("volume ls -q")?.lines().count(), 1, "volumes");
    s.ok(&format!("rm -v {name}"))?;
    ensure_eq!(s.ok("volume ls -q")?, "", "volumes after rm -v");
    Ok(())
}

fn ps_shows_states_and_codes(s: &Session) -> Verdict {
    let running = s.sleeper("")?;
    let ended = s.up("", "exit 42")?;
    s.ok(&format!("wait {ended}"))?;
    let listed = s.ok_with("ps -a --format", "{{.Names}} {{.Status}}")?;
    let line = |name: &str| listed.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
    ensure!(line(&running).contains("Up "), "ps -a: {listed}");
    ensure!(line(&ended).contains("Exited (42)"), "ps -a: {listed}");
    ensure_eq!(s.ok("ps -q")?.lines().count(), 1, "ps without -a");
    Ok(())
}

fn inspect_tells_the_state_of_a_running_and_an_ended_container(s: &Session) -> Verdict {
    // The container ends when it is told to, and not after a time: on a busy machine the first look may come late.
    let name = s.up("", "trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done")?;
    logged(s, &name, "ready")?;
    let pid = s.inspect(&name, "{{.State.Pid}}")?;
    ensure!(std::path::Path::new("/proc").join(&pid).exists(), "no process {pid}");
    s.ok(&format!("kill -s TERM {name}"))?;
    s.ok(&format!("wait {name}"))?;
    let state = s.inspect(&name, "{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}} {{.State.Pid}}")?;
    ensure_eq!(state, "exited 3 false 0", "state");
    Ok(())
}

fn events_tell_the_life_in_order(s: &Session) -> Verdict {
    let name = s.name();
    s.run_with(&format!("run --name {name} {NAME} sh -c"), "exit 4")?.code_is(4)?;
    s.ok(&format!("rm {name}"))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() + 1;
    // podman may stop reading at that time before it has begun.
    let end = if s.engine == Engine::Docker { format!("--until {now}") } else { "--stream=false".to_owned() };
    let words = format!("events --since 1m {end} --filter container={name} --format");
    let seen = s.ok_with(&words, "{{.Status}}")?;
    let expected = if s.engine == Engine::Docker {
        ["create", "start", "die", "destroy"]
    } else {
        ["create", "start", "died", "remove"]
    };
    let told: Vec<&str> = seen.lines().filter(|word| expected.contains(word)).collect();
    ensure_eq!(told, expected, "events: {seen}");
    Ok(())
}

fn a_program_that_ends_at_once_is_told_about(s: &Session) -> Verdict {
    let name = s.up("", "echo 'config: no such option `listen_on` in line 3' >&2; exit 78")?;
    s.ok(&format!("wait {name}"))?;
    let listed = s.ok_with(&format!("ps -a --filter name={name} --format"), "{{.Status}}")?;
    ensure!(listed.contains("Exited (78)"), "ps -a: {listed}");
    s.run(&format!("logs {name}"))?.ok()?.stderr_has("no such option `listen_on`")?;
    Ok(())
}

fn a_configuration_that_cannot_be_had_is_told_about(s: &Session) -> Verdict {
    let (name, file) = (s.name(), s.path("not-a-directory"));
    fs::write(&file, "")?;
    s.ok(&format!("create --name {name} -v {}:/data {NAME} true", file.display()))?;
    // docker looks for these words, and then adds its advice.
    s.run(&format!("start {name}"))?.fails()?.stderr_has("/data")?.stderr_has("not a directory")?;
    let listed = s.ok_with(&format!("ps -a --filter name={name} --format"), "{{.Status}}")?;
    ensure!(listed.contains("Created"), "ps -a: {listed}");
    if s.engine == Engine::Docker {
        let told = s.inspect(&name, "{{.State.Error}}")?;
        ensure!(told.contains("/data"), "inspect does not say why: {told}");
    }
    Ok(())
}

/// Waits until a container of this name runs.
pub fn wait_running(s: &Session, name: &str) -> Verdict {
    until(&format!("container {name} to run"), || {
        let mut command = s.command(&format!("inspect {name} --format"));
        command.arg("{{.State.Status}}");
        Ok((s.finish(command)?.stdout.trim() == "running").then_some(()))
    })
}

/// Waits until the log of a container has this text.
pub fn logged(s: &Session, name: &str, text: &str) -> Verdict {
    until(&format!("{text:?} in the log of {name}"), || {
        let ran = s.run(&format!("logs {name}"))?;
        Ok((ran.stdout.contains(text) || ran.stderr.contains(text)).then_some(()))
    })
}
