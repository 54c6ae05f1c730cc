//! runtime.md, "Lifecycle" and "Operations".

use crate::kit::machine::{self, text};
use crate::kit::stop::{Context, fail};
use crate::kit::wait::eventually;
use crate::kit::{Container, Need, Ran, T, Verdict};
use crate::{chapter, ensure, ensure_eq};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

chapter! { "lifecycle":
    create_leaves_the_payload_waiting_for_start,
    start_runs_what_create_prepared,
    a_started_container_runs_and_its_payload_ends_as_stopped,
    later_edits_of_the_configuration_have_no_effect,
    start_of_a_running_container_is_refused,
    start_of_a_stopped_container_is_refused,
    start_of_an_unknown_container_is_refused,
    a_program_cannot_seem_not_to_be_started [Need::Windlass],
    create_with_an_id_in_use_is_refused,
    create_without_an_id_is_refused,
    delete_of_a_running_container_is_refused,
    delete_of_a_created_container_needs_no_force,
    delete_force_ends_a_running_container,
    delete_force_of_an_unknown_container_is_silent,
    delete_of_an_unknown_container_is_refused,
    an_id_can_be_used_again_after_delete,
    a_failed_create_leaves_nothing,
    kill_reaches_the_payload,
    kill_of_a_created_container_ends_it,
    a_start_whose_answer_is_lost_ends_the_program [Need::Windlass],
    what_outlives_its_parent_is_reaped_while_run_waits [Need::Windlass],
    sigterm_ends_a_container_that_was_never_started,
    sigterm_ends_a_container_as_soon_as_it_is_created [Need::Windlass],
    sigkill_reaches_what_init_has_left_behind,
    sigkill_reaches_what_init_has_started [Need::Windlass],
    a_process_that_nobody_has_reaped_is_not_running,
    kill_of_a_stopped_container_is_refused,
    kill_all_of_a_stopped_container_is_silent,
    kill_takes_names_with_and_without_sig_and_numbers,
    kill_refuses_an_unknown_signal,
    kill_defaults_to_sigterm,
    kill_all_reaches_every_process,
    run_returns_the_exit_code_of_the_payload,
    run_returns_128_plus_the_signal_of_the_payload,
    run_forwards_signals_to_the_payload,
    run_keep_leaves_the_container_stopped,
    run_detach_returns_while_the_payload_runs,
    run_deletes_the_container_afterwards,
    run_of_a_payload_that_ends_at_once_never_hangs,
    a_dead_init_makes_the_container_stopped,
    processes_of_a_dead_init_are_gone_after_delete,
    unknown_properties_are_ignored,
    a_newer_minor_version_is_accepted,
    another_major_version_is_refused,
    a_missing_args_is_refused,
    another_time_namespace_sees_the_same_container [Need::Windlass, Need::TimeNamespace],
    a_procfs_of_another_pid_namespace_is_refused [Need::Windlass],
    a_container_runs_until_its_last_thread_has_ended [Need::Windlass],
    processes_without_a_main_thread_are_killed [Need::Windlass],
}

fn create_leaves_the_payload_waiting_for_start(t: &T) -> Verdict {
    let container = t.create(&t.bundle()?.sh("echo started; sleep 100"))?;
    container.status_is("created")?;
    std::thread::sleep(Duration::from_millis(30));
    ensure_eq!(container.output(), "", "the payload has run before start");
    Ok(())
}

fn start_runs_what_create_prepared(t: &T) -> Verdict {
    let container = t.start(&t.bundle()?.sh("echo started; sleep 100"))?;
    container.wait_for_output("started")?;
    container.status_is("running")
}

fn a_started_container_runs_and_its_payload_ends_as_stopped(t: &T) -> Verdict {
    let container = t.start(&t.bundle()?.args(&["/bin/true"]))?;
    container.wait_for("stopped")?;
    container.delete()?;
    container.verb("state", &[], &[])?.fails()?.stderr_has("does not exist")?;
    Ok(())
}

fn later_edits_of_the_configuration_have_no_effect(t: &T) -> Verdict {
    let bundle = t.bundle()?.sh("echo first; sleep 100");
    let container = t.create(&bundle)?;
    bundle.clone().sh("echo second; sleep 100").write()?;
    container.start()?;
    container.wait_for_output("first")?;
    Ok(())
}

fn start_of_a_running_container_is_refused(t: &T) -> Verdict {
    let container = t.running()?;
    container.verb("start", &[], &[])?.code_is(1)?.stderr_has("cannot start an already running container")?;
    Ok(())
}

fn start_of_a_stopped_container_is_refused(t: &T) -> Verdict {
    let container = t.start(&t.bundle()?)?;
    container.wait_for("stopped")?;
    container.verb("start", &[], &[])?.code_is(1)?.stderr_has("cannot start a container that has stopped")?;
    Ok(())
}

/// A program could take init's name. If a killed `start` has left the socket, it would then look like an init that
/// waits for `start`.
fn a_program_cannot_seem_not_to_be_started(t: &T) -> Verdict {
    let script = "printf windlass:init >/proc/self/comm; echo named; while :; do sleep 1; done";
    let container = t.create(&t.bundle()?.sh(script))?;
    let names: Vec<std::path::PathBuf> = std::fs::read_dir(t.root())?.flatten().map(|entry| entry.path()).collect();
    let Some(socket) = names.into_iter().find(|path| is_socket(path)) else { return fail("there is no start socket") };
    let kept = t.path("socket");
    std::fs::hard_link(&socket, &kept)?;
    container.start()?;
    container.wait_for_output("named")?;
    std::fs::hard_link(&kept, &socket)?;
    container.status_is("running")?;
    container.verb("delete", &[], &[])?.code_is(1)?.stderr_has("not stopped: running")?;
    container.verb("delete", &["--force"], &[])?.ok()?;
    ensure!(!socket.exists(), "the socket is left");
    Ok(())
}

fn is_socket(path: &std::path::Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    path.symlink_metadata().is_ok_and(|found| found.file_type().is_socket())
}

fn start_of_an_unknown_container_is_refused(t: &T) -> Verdict {
    t.runtime(&["start", "nobody"])?.code_is(1)?.stderr_has("does not exist")?;
    Ok(())
}

fn create_with_an_id_in_use_is_refused(t: &T) -> Verdict {
    let container = t.create(&t.bundle()?)?;
    let bundle = container.bundle.display().to_string();
    let again = t.runtime(&["create", "--bundle", &bundle, &container.id])?;
    again.code_is(1)?.stderr_has("already exists")?;
    container.status_is("created")
}

fn create_without_an_id_is_refused(t: &T) -> Verdict {
    let bundle = t.bundle()?;
    bundle.write()?;
    t.runtime(&["create", "--bundle", &bundle.dir.display().to_string()])?.fails()?;
    Ok(())
}

fn delete_of_a_running_container_is_refused(t: &T) -> Verdict {
    let container = t.running()?;
    let refused = container.verb("delete", &[], &[])?.code_is(1)?;
    let wording = format!("cannot delete container {} that is not stopped: running", container.id);
    refused.stderr_has(&wording)?;
    container.status_is("running")
}

fn delete_of_a_created_container_needs_no_force(t: &T) -> Verdict {
    let container = t.create(&t.bundle()?)?;
    container.delete()?;
    container.verb("state", &[], &[])?.fails()?;
    Ok(())
}

fn delete_force_ends_a_running_container(t: &T) -> Verdict {
    let container = t.running()?;
    let pid = container.pid()?;
    container.verb("delete", &["--force"], &[])?.ok()?;
    eventually("the payload is gone", || text(format!("/proc/{pid}/cmdline")).is_empty().then_some(()))
}

fn delete_force_of_an_unknown_container_is_silent(t: &T) -> Verdict {
    let ran = t.runtime(&["delete", "--force", "nobody"])?.ok()?;
    ensure_eq!(ran.stdout + &ran.stderr, "", "delete --force of a missing container said something");
    Ok(())
}

fn delete_of_an_unknown_container_is_refused(t: &T) -> Verdict {
    t.runtime(&["delete", "nobody"])?.code_is(1)?.stderr_has("does not exist")?;
    Ok(())
}

fn an_id_can_be_used_again_after_delete(t: &T) -> Verdict {
    let container = t.create(&t.bundle()?)?;
    container.delete()?;
    let bundle = container.bundle.display().to_string();
    t.runtime(&["run", "--bundle", &bundle, &container.id])?.ok()?;
    Ok(())
}

fn a_failed_create_leaves_nothing(t: &T) -> Verdict {
    let bundle = t.bundle()?.mount(
        serde_json::json!({"destination": "/mnt", "type": "bind", "source": "/no/such/dir", "options": ["bind"]}),
    );
    let (ran, container) = t.try_create(&bundle, &[])?;
    ran.code_is(1)?;
    container.verb("state", &[], &[])?.fails()?.stderr_has("does not exist")?;
    ensure!(!t.root().join(&container.id).exists(), "a state directory is left");
    Ok(())
}

fn kill_reaches_the_payload(t: &T) -> Verdict {
    let container =
        t.start(&t.bundle()?.sh("trap 'echo got it; exit 0' USR1; echo ready; while :; do sleep 0.01; done"))?;
    container.wait_for_output("ready")?;
    container.kill("USR1")?;
    container.wait_for_output("got it")?;
    container.wait_for("stopped")
}

fn kill_of_a_created_container_ends_it(t: &T) -> Verdict {
    let container = t.create(&t.bundle()?)?;
    container.kill("KILL")?;
    container.wait_for("stopped")?;
    container.delete()?;
    Ok(())
}

/// Installing each of init's handlers is slow here. They must be installed before the status becomes `created`.
fn sigterm_ends_a_container_as_soon_as_it_is_created(t: &T) -> Verdict {
    if Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_err() {
        return crate::kit::stop::skip("strace is not installed");
    }
    let bundle = t.bundle()?.args(&["/bin/sleep", "1000"]);
    bundle.write()?;
    let container = Container::new(t, t.id(), bundle.dir.clone());
    let create = t.command();
    let mut strace = Command::new("strace");
    strace.args(["-f", "-o", "/dev/null", "-e", "trace=rt_sigaction", "-e", "inject=rt_sigaction:delay_enter=50000"]);
    strace.arg(create.get_program()).args(create.get_args()).args(["create", "--bundle"]).arg(&bundle.dir);
    let mut strace = strace.arg(&container.id).stdin(Stdio::null()).current_dir(&t.dir).spawn()?;
    eventually("it is created", || container.status().is_ok_and(|status| status == "created").then_some(()))?;
    container.kill("TERM")?;
    let done = container.wait_for("stopped");
    container.verb("delete", &["--force"], &[])?.ok()?;
    strace.wait()?;
    done
}

/// Without a PID namespace of the container's own, orphans become children of the runtime in the foreground.
fn what_outlives_its_parent_is_reaped_while_run_waits(t: &T) -> Verdict {
    let script = "(sleep 0.2 & echo $!); exec sleep 1000";
    let bundle = t.bundle()?.namespace("pid", None).sh(script);
    bundle.write()?;
    let (id, output) = (t.id(), t.path("orphan"));
    let mut run = t.command();
    run.args(["run", "--bundle"]).arg(&bundle.dir).arg(&id).stdin(Stdio::null());
    let mut run = run.stdout(std::fs::File::create(&output)?).spawn()?;
    let orphan = eventually("its number", || text(&output).trim().parse::<i32>().ok())?;
    let gone = eventually("it is reaped", || (!Path::new(&format!("/proc/{orphan}")).exists()).then_some(()));
    t.runtime(&["delete", "--force", &id])?.ok()?;
    run.wait()?;
    gone
}

/// Without the answer it is not known whether the program runs. A container whose `start` has failed must not run.
fn a_start_whose_answer_is_lost_ends_the_program(t: &T) -> Verdict {
    if t.host("strace", &["-V"]).is_err() {
        return crate::kit::stop::skip("strace is not installed");
    }
    for errno in ["ENOMEM", "ECONNRESET"] {
        let container = t.create(&t.bundle()?.args(&["/bin/sleep", "1000"]))?;
        let start = t.command();
        let inject = format!("inject=recvmsg:error={errno}");
        let mut strace = Command::new("strace");
        strace.args(["-o", "/dev/null", "-e", "trace=recvmsg", "-e", &inject]);
        strace.arg(start.get_program()).args(start.get_args()).args(["start", &container.id]);
        t.finish(strace)?.code_is(1)?;
        container.status_is("stopped").context(errno)?;
        container.delete()?.ok()?;
    }
    Ok(())
}

fn sigterm_ends_a_container_that_was_never_started(t: &T) -> Verdict {
    for signal in ["TERM", "INT"] {
        let container = t.create(&t.bundle()?.args(&["/bin/sleep", "1000"]))?;
        container.kill(signal)?.ok()?;
        container.wait_for("stopped")?;
    }
    Ok(())
}

/// Without a PID namespace of the container's own, its processes do not end with init.
fn sigkill_reaches_what_init_has_left_behind(t: &T) -> Verdict {
    let script = "sleep 1000 & echo left $!; exec sleep 1000";
    let container = t.start(&t.bundle()?.namespace("pid", None).sh(script))?;
    let said = container.wait_for_output("\n")?;
    let left: i32 = said.trim().trim_start_matches("left ").parse()?;
    t.host("kill", &["-KILL", &container.pid()?.to_string()])?;
    container.wait_for("stopped")?;
    container.verb("kill", &[], &["TERM"])?.fails()?;
    container.kill("KILL")?.ok()?;
    eventually("the end of the process left behind", || {
        let state = machine::field(&text(format!("/proc/{left}/status")), "State");
        (state.is_empty() || state.starts_with('Z')).then_some(())
    })?;
    container.verb("kill", &[], &["KILL"])?.fails()?;
    Ok(())
}

/// Init is alive in this case, and the processes that it has started must end with it.
fn sigkill_reaches_what_init_has_started(t: &T) -> Verdict {
    let script = "sleep 1000 & echo left $!; exec sleep 1000";
    let container = t.start(&t.bundle()?.namespace("pid", None).sh(script))?;
    let said = container.wait_for_output("\n")?;
    let started: i32 = said.trim().trim_start_matches("left ").parse()?;
    container.kill("KILL")?.ok()?;
    eventually("the end of the process that init has started", || {
        let state = machine::field(&text(format!("/proc/{started}/status")), "State");
        (state.is_empty() || state.starts_with('Z')).then_some(())
    })?;
    Ok(())
}

/// The runtime of a `run` in the foreground is stopped and does not reap init.
fn a_process_that_nobody_has_reaped_is_not_running(t: &T) -> Verdict {
    let bundle = t.bundle()?.args(&["/bin/sleep", "1000"]);
    bundle.write()?;
    let container = Container::new(t, t.id(), bundle.dir.clone());
    let mut command = t.command();
    command.args(["run", "--bundle"]).arg(&bundle.dir).arg(&container.id);
    let mut run = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    eventually("it runs", || container.status().is_ok_and(|status| status == "running").then_some(()))?;
    let init = container.pid()?;
    t.host("kill", &["-STOP", &run.id().to_string()])?;
    t.host("kill", &["-KILL", &init.to_string()])?;
    let seen = container.wait_for("stopped").and_then(|()| {
        container.verb("kill", &[], &["TERM"])?.code_is(1)?.stderr_has("container not running")?;
        container.try_exec(&[], &["/bin/true"])?.fails().map(drop)
    });
    t.host("kill", &["-CONT", &run.id().to_string()])?;
    run.wait()?;
    seen
}

fn kill_of_a_stopped_container_is_refused(t: &T) -> Verdict {
    let container = t.running()?;
    container.stop()?;
    container.verb("kill", &[], &["TERM"])?.code_is(1)?.stderr_has("container not running")?;
    Ok(())
}

fn kill_all_of_a_stopped_container_is_silent(t: &T) -> Verdict {
    let container = t.running()?;
    container.stop()?;
    let ran = container.verb("kill", &["--all"], &["9"])?.ok()?;
    ensure_eq!(ran.stderr, "", "kill --all of a stopped container complained");
    Ok(())
}

fn kill_takes_names_with_and_without_sig_and_numbers(t: &T) -> Verdict {
    for signal in ["SIGKILL", "KILL", "9"] {
        let container = t.running()?;
        container.kill(signal)?;
        container.wait_for("stopped").context(signal)?;
    }
    Ok(())
}

fn kill_refuses_an_unknown_signal(t: &T) -> Verdict {
    let container = t.running()?;
    for signal in ["SIGNOTHING", "99999", "KILLED"] {
        container.verb("kill", &[], &[signal])?.fails()?;
    }
    container.status_is("running")
}

fn kill_defaults_to_sigterm(t: &T) -> Verdict {
    let container =
        t.start(&t.bundle()?.sh("trap 'echo terminated; exit 0' TERM; echo ready; while :; do sleep 0.01; done"))?;
    container.wait_for_output("ready")?;
    container.verb("kill", &[], &[])?.ok()?;
    container.wait_for_output("terminated")?;
    Ok(())
}

fn kill_all_reaches_every_process(t: &T) -> Verdict {
    // Without a PID namespace the other processes do not end with init.
    let script = "sh -c \"trap '' HUP; sleep 1000\" & echo $! ready; sleep 1000";
    let container = t.start(&t.bundle()?.namespace("pid", None).sh(script))?;
    let pid = container.wait_for_output("ready")?;
    let pid = pid.split(' ').next().unwrap_or_default().to_owned();
    container.verb("kill", &["--all"], &["KILL"])?.ok()?;
    eventually("the other process is gone", || text(format!("/proc/{pid}/cmdline")).is_empty().then_some(()))
}

fn run_returns_the_exit_code_of_the_payload(t: &T) -> Verdict {
    for code in [0, 1, 42, 255] {
        t.run_sh(&format!("exit {code}"))?.code_is(code)?;
    }
    Ok(())
}

fn run_returns_128_plus_the_signal_of_the_payload(t: &T) -> Verdict {
    // PID 1 of a PID namespace ignores its own signals, so the container has no PID namespace of its own.
    t.run(&t.bundle()?.namespace("pid", None).sh("kill -KILL $$"))?.code_is(137)?;
    t.run(&t.bundle()?.namespace("pid", None).sh("kill -TERM $$"))?.code_is(143)?;
    Ok(())
}

fn run_forwards_signals_to_the_payload(t: &T) -> Verdict {
    let bundle = t.bundle()?.sh("trap 'echo forwarded; exit 7' TERM; echo ready; while :; do sleep 0.01; done");
    bundle.write()?;
    let capture = t.capture();
    let mut command = t.command();
    command.args(["run", "--bundle"]).arg(&bundle.dir).arg(t.id());
    capture.attach(&mut command)?;
    let mut child = command.spawn()?;
    eventually("ready", || capture.read().0.contains("ready").then_some(()))?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id().cast_signed()), nix::sys::signal::Signal::SIGTERM)?;
    let status = crate::kit::runtime::wait(&mut child, Duration::from_secs(120), "run").context("after SIGTERM")?;
    ensure_eq!(status.code(), Some(7), "exit code of run; output {:?}", capture.read());
    Ok(())
}

fn run_keep_leaves_the_container_stopped(t: &T) -> Verdict {
    let bundle = t.bundle()?.sh("exit 3");
    bundle.write()?;
    let container = crate::kit::Container::new(t, t.id(), bundle.dir.clone());
    let ran = t.runtime(&["run", "--keep", "--bundle", &bundle.dir.display().to_string(), &container.id])?;
    ran.code_is(3)?;
    container.status_is("stopped")?;
    container.delete()?;
    Ok(())
}

fn run_detach_returns_while_the_payload_runs(t: &T) -> Verdict {
    let bundle = t.bundle()?.args(&["/bin/sleep", "1000"]);
    bundle.write()?;
    let container = crate::kit::Container::new(t, t.id(), bundle.dir.clone());
    t.runtime(&["run", "-d", "--bundle", &bundle.dir.display().to_string(), &container.id])?.ok()?;
    container.status_is("running")
}

fn run_deletes_the_container_afterwards(t: &T) -> Verdict {
    let bundle = t.bundle()?;
    bundle.write()?;
    t.runtime(&["run", "--bundle", &bundle.dir.display().to_string(), "once"])?.ok()?;
    t.runtime(&["state", "once"])?.fails()?.stderr_has("does not exist")?;
    Ok(())
}

fn run_of_a_payload_that_ends_at_once_never_hangs(t: &T) -> Verdict {
    let bundle = t.bundle()?.args(&["/bin/true"]);
    for _ in 0..10 {
        t.run(&bundle)?.ok()?;
    }
    Ok(())
}

fn a_dead_init_makes_the_container_stopped(t: &T) -> Verdict {
    let container = t.running()?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(container.pid()?), nix::sys::signal::Signal::SIGKILL)?;
    container.wait_for("stopped")?;
    let state = container.state()?;
    ensure!(state["pid"].as_i64().unwrap_or(0) == 0, "a pid in the state of a stopped container: {state}");
    Ok(())
}

fn processes_of_a_dead_init_are_gone_after_delete(t: &T) -> Verdict {
    let script = "sh -c 'sleep 1000' & echo $! ready; sleep 1000";
    let container = t.start(&t.bundle()?.namespace("pid", None).sh(script))?;
    let output = container.wait_for_output("ready")?;
    let pid = output.split(' ').next().unwrap_or_default().to_owned();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(container.pid()?), nix::sys::signal::Signal::SIGKILL)?;
    container.wait_for("stopped")?;
    container.delete()?;
    eventually("the orphan is gone", || text(format!("/proc/{pid}/cmdline")).is_empty().then_some(()))
}

fn unknown_properties_are_ignored(t: &T) -> Verdict {
    let bundle = t
        .bundle()?
        .set("/noSuchProperty", serde_json::json!({"a": 1}))
        .set("/linux/noSuchEither", serde_json::json!([]));
    t.run(&bundle)?.ok()?;
    Ok(())
}

fn a_newer_minor_version_is_accepted(t: &T) -> Verdict {
    for version in ["1.0.0", "1.1.0", "1.2.1", "1.3.0"] {
        t.run(&t.bundle()?.set("/ociVersion", version.into()))?.ok().context(version)?;
    }
    Ok(())
}

fn another_major_version_is_refused(t: &T) -> Verdict {
    t.run(&t.bundle()?.set("/ociVersion", "2.0.0".into()))?.fails()?;
    Ok(())
}

fn a_missing_args_is_refused(t: &T) -> Verdict {
    t.run(&t.bundle()?.unset("/process/args"))?.fails()?;
    t.run(&t.bundle()?.args(&[]))?.fails()?;
    Ok(())
}

/// A command of the runtime in other namespaces of the host, by unshare(1) with these options.
fn elsewhere(t: &T, options: &[&str], words: &[&str]) -> Verdict<Ran> {
    let own = t.command();
    let mut command = Command::new("unshare");
    command.args(options).arg("--fork").arg("--").arg(own.get_program()).args(own.get_args()).args(words);
    command.current_dir(&t.dir).stdin(std::process::Stdio::null());
    t.finish(command)
}

/// The kernel shows the start times of processes by the boot clock of the reader.
fn another_time_namespace_sees_the_same_container(t: &T) -> Verdict {
    let moved = ["--time", "--boottime", "100000"];
    let container = t.running()?;
    let ran = elsewhere(t, &moved, &["state", &container.id])?.ok()?;
    ensure_eq!(ran.json()?["status"], "running", "status of the host's container");
    elsewhere(t, &moved, &["exec", &container.id, "/bin/true"])?.ok()?;

    let bundle = t.bundle()?.args(&["/bin/sleep", "1000"]);
    bundle.write()?;
    let made_there = Container::new(t, t.id(), bundle.dir.clone());
    let dir = bundle.dir.display().to_string();
    elsewhere(t, &moved, &["run", "--detach", "--bundle", &dir, &made_there.id])?.ok()?;
    made_there.status_is("running")?;
    let ran = elsewhere(t, &["--time", "--boottime", "50000"], &["state", &made_there.id])?.ok()?;
    ensure_eq!(ran.json()?["status"], "running", "status from a third namespace");
    made_there.verb("delete", &["--force"], &[])?.ok()?;
    Ok(())
}

/// The numbers in such a procfs are those of other processes, which the runtime would change.
fn a_procfs_of_another_pid_namespace_is_refused(t: &T) -> Verdict {
    let bundle = t.bundle()?.args(&["/bin/true"]);
    bundle.write()?;
    let dir = bundle.dir.display().to_string();
    let id = t.id();
    let ran = elsewhere(t, &["--pid"], &["run", "--bundle", &dir, &id])?.code_is(1)?;
    ran.stderr_has("/proc shows another PID namespace")?.stderr_has("mount -t proc")?;
    ensure!(!t.root().join(&id).exists(), "a state is left");
    let proc = ["--pid", "--mount-proc"];
    elsewhere(t, &proc, &["run", "--bundle", &dir, &id])?.ok()?;
    Ok(())
}

fn a_container_runs_until_its_last_thread_has_ended(t: &T) -> Verdict {
    let leaderless = ["/helper", "@payload", "leaderless"];
    let main_thread_ends = |container: &Container| {
        container.wait_for_output("leaderless")?;
        let pid = container.pid()?;
        eventually("the end of the main thread", || {
            machine::field(&text(format!("/proc/{pid}/status")), "State").starts_with('Z').then_some(())
        })
    };
    let container = t.start(&t.bundle()?.helper()?.args(&leaderless))?;
    main_thread_ends(&container)?;
    container.status_is("running")?;
    container.kill("KILL")?.ok()?;
    container.wait_for("stopped")?;
    ensure_eq!(container.state()?["exit"]["signal"], "SIGKILL", "how it has ended");
    container.delete()?;
    for namespaces in [&["pid"][..], &[]] {
        let bundle = t.bundle()?.helper()?.args(&leaderless);
        let container = t.start(&namespaces.iter().fold(bundle, |bundle, kind| bundle.namespace(kind, None)))?;
        main_thread_ends(&container)?;
        container.verb("delete", &["--force"], &[])?.ok()?;
    }
    Ok(())
}

/// In a shared PID namespace such processes do not end with init.
fn processes_without_a_main_thread_are_killed(t: &T) -> Verdict {
    let script = "/helper @payload leaderless & exec sleep 1000";
    for how in [&["delete", "--force"][..], &["kill", "--all", "KILL"], &["kill", "KILL"]] {
        let container = t.start(&t.bundle()?.helper()?.namespace("pid", None).sh(script))?;
        let said = container.wait_for_output("\n")?;
        let pid = said.trim().trim_start_matches("leaderless ").to_owned();
        let state = || machine::field(&text(format!("/proc/{pid}/status")), "State");
        eventually("the end of the main thread", || state().starts_with('Z').then_some(()))?;
        let (flags, signal) = match how {
            ["kill", flags @ .., signal] => (flags, vec![*signal]),
            [_, flags @ ..] => (flags, Vec::new()),
            [] => continue,
        };
        container.verb(how[0], flags, &signal)?.ok()?;
        eventually("the end of the other thread", || {
            let threads = std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
            (threads <= 1).then_some(())
        })
        .context(how.join(" "))?;
    }
    Ok(())
}
