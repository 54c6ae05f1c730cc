//! containerd by `ctr`.

use super::upgrade::{programs, upgrade};
use crate::case::chapter;
use crate::engine::start_containerd;
use crate::image::NAME;
use crate::session::{Background, Session, until};
use integration::kit::runtime::RuntimeKind;
use integration::kit::stop::skip;
use integration::kit::{Need, Verdict};
use integration::{ensure, ensure_eq};
use nix::sys::signal::Signal;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

chapter! { [Containerd] "tasks":
    run_prints_and_passes_the_exit_code_on,
    run_of_a_missing_program_names_it,
    run_at_a_terminal_has_one,
    a_task_is_listed_paused_resumed_and_killed,
    exec_prints_and_passes_the_exit_code_on,
    exec_at_a_terminal_has_one,
    the_processes_of_a_task_are_listed,
    metrics_are_there [Need::Controller("memory")],
    a_memory_limit_is_kept_and_its_kill_is_an_event [Need::Controller("memory")],
    events_tell_the_life_in_order,
    tasks_outlive_a_kill_of_the_daemon,
    an_exit_while_the_daemon_is_away_is_known_afterwards,
    a_task_goes_on_below_another_program_and_back,
    a_task_goes_on_below_another_program_while_the_daemon_is_away,
    checkpoint_says_what_is_missing,
}

/// `ctr run` with the runtime under test.
pub(super) fn run(s: &Session, options: &str, id: &str, words: &str) -> String {
    // ctr sets the default weight of the CPU, which a kernel without that controller refuses.
    let shares = if Need::Controller("cpu").missing().is_some() { "--cpu-shares 0" } else { "" };
    format!("run {shares} --runc-binary {} {options} {NAME} {id} {words}", s.below.runtime.display())
}

/// A task that sleeps. `ctr` waits until it runs.
fn sleeper(s: &Session, options: &str) -> Verdict<String> {
    let id = s.name();
    s.ok(&run(s, &format!("-d {options}"), &id, "sleep 1000"))?;
    Ok(id)
}

/// The status of a task, as `tasks ls` has it.
pub(super) fn status(s: &Session, id: &str) -> Verdict<String> {
    let listed = s.ok("tasks ls")?;
    let line = listed.lines().find(|line| line.starts_with(&format!("{id} "))).unwrap_or_default();
    Ok(line.split_whitespace().nth(2).unwrap_or_default().to_owned())
}

fn run_prints_and_passes_the_exit_code_on(s: &Session) -> Verdict {
    ensure_eq!(s.ok(&run(s, "--rm", &s.name(), "echo hello"))?, "hello", "output");
    for code in [0, 1, 42, 255] {
        s.run_with(&run(s, "--rm", &s.name(), "sh -c"), &format!("exit {code}"))?.code_is(code)?;
    }
    Ok(())
}

fn run_of_a_missing_program_names_it(s: &Session) -> Verdict {
    let ran = s.run(&run(s, "--rm", &s.name(), "no-such-program"))?.fails()?;
    ran.stderr_has("\"no-such-program\": executable file not found in $PATH").map(drop)
}

fn run_at_a_terminal_has_one(s: &Session) -> Verdict {
    sized(s, &run(s, "--rm -t", &s.name(), "sh -c"))
}

/// A script at a terminal of 33 by 77 sees that size, and ends at a signal: `ctr` sets the size some
/// time after the start, and may end before the last output of a script that ends by itself.
fn sized(s: &Session, words: &str) -> Verdict {
    let mut command = s.command(words);
    command.arg("tty; until [ \"$(stty size 2>&1)\" = '33 77' ]; do sleep 0.1; done; echo sized; read line; exit 3");
    let mut at = s.terminal(&command, 33, 77)?;
    at.terminal.read_until("/dev/")?;
    at.terminal.read_until("sized")?;
    at.terminal.write("go\n")?;
    ensure_eq!(at.wait()?, 3, "exit code");
    Ok(())
}

fn a_task_is_listed_paused_resumed_and_killed(s: &Session) -> Verdict {
    let id = sleeper(s, "")?;
    ensure_eq!(status(s, &id)?, "RUNNING", "after run");
    s.ok(&format!("tasks pause {id}"))?;
    ensure_eq!(status(s, &id)?, "PAUSED", "after pause");
    s.ok(&format!("tasks resume {id}"))?;
    ensure_eq!(status(s, &id)?, "RUNNING", "after resume");
    s.ok(&format!("tasks kill -s KILL {id}"))?;
    until("the end", || Ok((status(s, &id)? == "STOPPED").then_some(())))?;
    removed(s, &id, 137)
}

/// Removes an ended task, which must have this exit code: `ctr` prints it as a warning.
fn removed(s: &Session, id: &str, code: i32) -> Verdict {
    s.run(&format!("tasks rm {id}"))?.ok()?.stderr_has(&format!("exit code {code}")).map(drop)
}

/// `ctr tasks exec` in a task.
pub(super) fn exec(s: &Session, id: &str, options: &str, words: &str) -> String {
    format!("tasks exec {options} --exec-id {} {id} {words}", s.name())
}

fn exec_prints_and_passes_the_exit_code_on(s: &Session) -> Verdict {
    let id = sleeper(s, "")?;
    ensure_eq!(s.ok(&exec(s, &id, "", "echo hi"))?, "hi", "output");
    s.run_with(&exec(s, &id, "", "sh -c"), "exit 42")?.code_is(42)?;
    ensure_eq!(s.ok(&exec(s, &id, "--user 1000 --cwd /tmp", "pwd"))?, "/tmp", "directory");
    s.run(&exec(s, &id, "", "no-such-program"))?.fails()?.stderr_has("executable file not found in $PATH").map(drop)
}

fn exec_at_a_terminal_has_one(s: &Session) -> Verdict {
    let id = sleeper(s, "")?;
    sized(s, &exec(s, &id, "-t", "sh -c"))
}

fn the_processes_of_a_task_are_listed(s: &Session) -> Verdict {
    let id = sleeper(s, "")?;
    let _exec = s.background(s.command(&exec(s, &id, "", "sleep 2000")))?;
    until("two processes", || Ok((s.ok(&format!("tasks ps {id}"))?.lines().count() == 3).then_some(())))
}

fn metrics_are_there(s: &Session) -> Verdict {
    let id = sleeper(s, "")?;
    let metrics = s.ok(&format!("tasks metrics {id}"))?;
    for name in ["pids.current", "memory.usage", "cpu.usage_usec"] {
        let value = metrics.lines().find(|line| line.starts_with(name)).and_then(|line| line.split_whitespace().last());
        ensure!(value.is_some_and(|value| value != "0"), "{name}: {metrics}");
    }
    Ok(())
}

fn events(s: &Session) -> Verdict<Background> {
    let follow = s.background(s.command("events"))?;
    // Only an event shows that the subscription exists.
    until("the subscription", || {
        s.ok(&format!("namespaces create {}", s.name()))?;
        Ok(follow.stdout().contains("/namespaces/create").then_some(()))
    })?;
    Ok(follow)
}

fn a_memory_limit_is_kept_and_its_kill_is_an_event(s: &Session) -> Verdict {
    let follow = events(s)?;
    s.run(&run(s, "--rm --memory-limit 25165824", &s.name(), "tail /dev/zero"))?.code_is(137)?;
    follow.until("/tasks/oom")
}

fn events_tell_the_life_in_order(s: &Session) -> Verdict {
    let follow = events(s)?;
    s.run_with(&run(s, "--rm", &s.name(), "sh -c"), "exit 42")?.code_is(42)?;
    follow.until("/tasks/delete")?;
    let seen = follow.stdout();
    let topics: Vec<&str> =
        seen.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with("/tasks/"))).collect();
    ensure_eq!(topics, ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"], "topics");
    ensure!(seen.contains("\"exit_status\":42"), "the code is not told: {seen}");
    Ok(())
}

fn tasks_outlive_a_kill_of_the_daemon(s: &Session) -> Verdict {
    let id = sleeper(s, "")?;
    let pid = |s: &Session| s.ok("tasks ls").map(|listed| listed.lines().nth(1).unwrap_or_default().to_owned());
    let before = pid(s)?;
    s.end_daemon(Signal::SIGKILL)?;
    start_containerd(s)?;
    ensure_eq!(pid(s)?, before, "task, pid and status");
    ensure_eq!(s.ok(&exec(s, &id, "", "echo hi"))?, "hi", "exec afterwards");
    s.ok(&format!("tasks kill -s KILL {id}"))?;
    until("the end", || Ok((status(s, &id)? == "STOPPED").then_some(())))?;
    removed(s, &id, 137)
}

fn an_exit_while_the_daemon_is_away_is_known_afterwards(s: &Session) -> Verdict {
    let id = s.name();
    s.ok_with(&run(s, "-d", &id, "sh -c"), "sleep 0.7; exit 42")?;
    s.end_daemon(Signal::SIGKILL)?;
    std::thread::sleep(std::time::Duration::from_millis(1500));
    start_containerd(s)?;
    ensure_eq!(status(s, &id)?, "STOPPED", "status");
    removed(s, &id, 42)
}

/// A task that writes a number a line to a file, and ends with 7 at SIGTERM: its id, and the file.
fn counter(s: &Session) -> Verdict<(String, PathBuf)> {
    let (id, output) = (s.name(), s.path("counted"));
    let words = run(s, &format!("-d --log-uri file://{}", output.display()), &id, "sh -c");
    s.ok_with(&words, "trap 'exit 7' TERM; i=0; while :; do echo $i; i=$((i + 1)); sleep 0.01; done")?;
    Ok((id, output))
}

/// Ends a counting task, and checks that it has written each number once.
fn is_whole(s: &Session, id: &str, output: &Path) -> Verdict {
    s.ok(&format!("tasks kill {id}"))?;
    until("the end", || Ok((status(s, id)? == "STOPPED").then_some(())))?;
    let lines = std::fs::read_to_string(output)?;
    std::fs::remove_file(output)?;
    let whole = lines.lines().enumerate().all(|(n, line)| line == n.to_string());
    ensure!(whole && lines.lines().count() > 100, "a line is lost or doubled: {lines}");
    removed(s, id, 7)
}

fn a_task_goes_on_below_another_program_and_back(s: &Session) -> Verdict {
    let programs = programs(s)?;
    let (id, output) = counter(s)?;
    for round in 0..6 {
        let mut command = s.command(&exec(s, &id, "", "sh -c"));
        command.arg("sleep 1; exit 4");
        let mut long = s.background(command)?;
        upgrade(s, &id, &programs[round % 2])?;
        ensure_eq!(s.ok(&exec(s, &id, "", "echo in"))?, "in", "an exec afterwards");
        ensure_eq!(long.wait()?, 4, "an exec from before");
    }
    is_whole(s, &id, &output)
}

fn a_task_goes_on_below_another_program_while_the_daemon_is_away(s: &Session) -> Verdict {
    let [another, shim] = programs(s)?;
    let (id, output) = counter(s)?;
    let listed = s.ok("tasks ls")?;
    s.end_daemon(Signal::SIGKILL)?;
    upgrade(s, &id, &another)?;
    sleep(Duration::from_secs(1));
    start_containerd(s)?;
    ensure_eq!(s.ok("tasks ls")?, listed, "task, pid and status");
    ensure_eq!(s.ok(&exec(s, &id, "", "echo in"))?, "in", "an exec afterwards");
    upgrade(s, &id, &shim)?;
    ensure_eq!(s.ok(&exec(s, &id, "", "echo back"))?, "back", "an exec below the first program again");
    is_whole(s, &id, &output)
}

fn checkpoint_says_what_is_missing(s: &Session) -> Verdict {
    let id = sleeper(s, "")?;
    let ran = s.run(&format!("tasks checkpoint --image-path {} {id}", s.path("checkpoint").display()))?;
    if s.below.kind == RuntimeKind::Windlass {
        // This is the case of a machine without CRIU.
        if Command::new("criu").arg("--version").output().is_ok() {
            return skip("criu is installed");
        }
        ran.fails()?.stderr_has("criu")?;
        ensure_eq!(status(s, &id)?, "RUNNING", "the task afterwards");
    }
    Ok(())
}
