//! The upgrade of `windlass-shim` in place, below real containers and engines: a copy of the program replaces it, and
//! then the original again.

use super::shim_podman::podman;
use crate::kit::containerd::Engine;
use crate::kit::machine::text;
use crate::kit::shim::{self, Shimmed};
use crate::kit::stop::Context;
use crate::kit::traced::Traced;
use crate::kit::wait::eventually;
use crate::kit::{Need, T, Verdict};
use crate::{chapter, ensure, ensure_eq};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

chapter! { "shim_upgrade":
    a_container_in_any_state_has_another_program_above_it,
    whichever_call_fails_the_shim_serves_on [Need::Slow],
    a_terminal_that_is_awaited_goes_over [Need::Slow],
    a_record_on_a_slow_disk_goes_over [Need::Slow],
    below_containerd_forward_and_back [Need::Slow],
    below_podman_forward_and_back [Need::Slow],
}

/// Another file with the same program.
fn another(t: &T) -> Verdict<PathBuf> {
    let path = t.path("another-shim");
    if !path.exists() {
        std::fs::copy(&t.shim, &path).context("a copy of the shim")?;
    }
    Ok(path)
}

/// Upgrades to the other program and back.
fn upgrade(t: &T, c: &Shimmed<'_>) -> Verdict<Value> {
    c.line("upgrade", &["--binary", &another(t)?.display().to_string()])?;
    c.line("upgrade", &["--binary", &t.shim.display().to_string()])
}

fn a_container_in_any_state_has_another_program_above_it(t: &T) -> Verdict {
    let bundle = t.bundle()?.sh("trap 'exit 7' TERM; read -r line; echo got $line; while :; do sleep 0.05; done");
    let c = shim::run(t, &bundle, &["--create-only", "--stdin"])?;
    upgrade(t, &c)?;
    ensure_eq!(c.line("status", &[])?["state"], json!("created"), "the state");
    c.verb("start", &[])?.ok()?;
    let mut attached = c.connect()?;
    attached.call("attach", json!({}))?;
    let mut client = c.connect()?;
    let exec = c.exec_in(&mut client, "sleep 1; exit 5")?;
    upgrade(t, &c)?;
    attached.give("hello\n")?;
    c.verb("pause", &[])?.ok()?;
    upgrade(t, &c)?;
    ensure_eq!(c.line("status", &[])?["state"], json!("paused"), "the state");
    c.verb("resume", &[])?.ok()?;
    ensure_eq!(client.call("wait", json!({"exec": exec}))?["code"], json!(5), "the exec");
    c.verb("kill", &["TERM"])?.ok()?;
    upgrade(t, &c)?;
    ensure_eq!(c.line("wait", &[])?["code"], json!(7), "the end");
    ensure_eq!(attached.frames()?.0, "got hello\n".to_owned(), "what was attached");
    ensure_eq!(upgrade(t, &c)?["upgrades"], json!(10), "how often");
    let events = c.verb("events", &["--from", "1"])?.ok()?.stdout;
    ensure_eq!(events.matches("\"exited\"").count(), 2, "ends among the events: {events}");
    ensure_eq!(c.line("delete", &[])?["exit"]["code"], json!(7), "delete tells it again");
    Ok(())
}

fn a_terminal_that_is_awaited_goes_over(t: &T) -> Verdict {
    // The runtime sends the terminal after its hooks.
    let hook = json!([{"path": "/bin/sh", "args": ["sh", "-c", format!("touch {0}; while [ ! -e {1} ]; do sleep 0.05; done",
        t.path("hooked").display(), t.path("go").display())]}]);
    let bundle = t.bundle()?.sh("stty size; read -r line; echo got $line; exit 6").set("/hooks/createRuntime", hook);
    let bundle = bundle.set("/process/terminal", json!(true));
    let id = t.id();
    let mut running = shim::run_command(t, &bundle, &id)?.arg("--tty").arg("--stdin").stdout(Stdio::null()).spawn()?;
    eventually("the hook", || t.path("hooked").exists().then_some(()))?;
    let c = Shimmed::existing(t, &id, &bundle)?;
    c.verb("resize", &["31", "71"])?.ok()?;
    let mut attached = c.connect()?;
    attached.call("attach", json!({}))?;
    attached.give("early\n")?;
    upgrade(t, &c)?;
    std::fs::write(t.path("go"), "")?;
    ensure!(running.wait()?.success(), "run");
    upgrade(t, &c)?;
    ensure_eq!(c.line("wait", &[])?["code"], json!(6), "the end");
    let said = attached.frames()?.0;
    ensure!(said.contains("31 71") && said.contains("got early"), "what the terminal said: {said:?}");
    Ok(())
}

fn a_record_on_a_slow_disk_goes_over(t: &T) -> Verdict {
    let c = shim::run(t, &t.bundle()?.sh("read -r line; exit 6"), &["--stdin"])?;
    let mut waiting = c.connect()?;
    waiting.ask("wait", json!({}))?;
    let mut attached = c.connect()?;
    attached.call("attach", json!({}))?;
    let traced = Traced::start(
        c.pid(),
        Path::new("/dev/null"),
        &["-f", "-e", "trace=fsync", "-e", "inject=fsync:delay_enter=3s:when=1"],
    )?;
    attached.give("go\n")?;
    eventually("the child that writes the record", || {
        let children = text(format!("/proc/{0}/task/{0}/children", c.pid()));
        (!children.trim().is_empty() && !c.file("exit.json").exists()).then_some(())
    })?;
    upgrade(t, &c)?;
    ensure!(!c.file("exit.json").exists(), "the record is not on disk yet");
    let told = waiting.line()?;
    ensure_eq!(told["ok"]["code"], json!(6), "the end");
    let record: Value = serde_json::from_str(&text(c.file("exit.json")))?;
    ensure_eq!(record["code"], json!(6), "the record was there before it was told");
    drop(traced);
    let events = c.verb("events", &["--from", "1"])?.ok()?.stdout;
    ensure_eq!(events.matches("\"exited\"").count(), 1, "the end among the events: {events}");
    Ok(())
}

/// The system calls of an upgrade, and how often each is made to fail: before the point of no return, and in the next
/// program.
const CALLS: [(&str, u32); 10] = [
    ("memfd_create", 3),
    ("clone,clone3,vfork", 2),
    ("execveat", 1),
    ("fcntl", 12),
    ("openat", 6),
    ("pipe2", 2),
    ("epoll_create1", 1),
    ("epoll_ctl", 8),
    ("signalfd4", 1),
    ("prctl", 2),
];

fn whichever_call_fails_the_shim_serves_on(t: &T) -> Verdict {
    let c = shim::run(t, &t.bundle()?.sh("while :; do echo x; sleep 0.01; done"), &["--stdin"])?;
    let (mut refused, mut done) = (0, 0);
    for (calls, times) in CALLS {
        for when in 1..=times {
            let ended = with_failure(t, &c, calls, when).context(format!("{calls} number {when} fails"))?;
            refused += u32::from(!ended);
            done += u32::from(ended);
        }
    }
    ensure!(refused > 5 && done > 5, "{refused} were refused, and {done} done");
    ensure_eq!(c.line("delete", &["--force"])?["exit"]["signal"], json!(9), "the end");
    Ok(())
}

/// An upgrade during which a call of the shim's process fails. Returns whether the upgrade was done.
fn with_failure(t: &T, c: &Shimmed<'_>, calls: &str, when: u32) -> Verdict<bool> {
    let (trace, inject) = (format!("trace={calls}"), format!("inject={calls}:error=ENOMEM:when={when}"));
    let traced = Traced::start(c.pid(), Path::new("/dev/null"), &["-e", &trace, "-e", &inject])?;
    let ran = c.verb("upgrade", &["--binary", &another(t)?.display().to_string()]);
    drop(traced);
    // Both programs have the same container and can be upgraded again.
    ensure_eq!(c.line("status", &[])?["state"], json!("running"), "the state");
    c.line("upgrade", &["--binary", &t.shim.display().to_string()])?;
    Ok(ran?.code == 0)
}

fn below_containerd_forward_and_back(t: &T) -> Verdict {
    let mut engine = Engine::start(t)?;
    let script = "trap 'exit 7' TERM; i=0; while :; do echo line $i; i=$((i + 1)); sleep 0.01; done";
    let log = t.path("log");
    engine.run(&["-d", "--log-uri", &format!("file://{}", log.display())], "up", &["sh", "-c", script])?.ok()?;
    let shims = engine.shims();
    ensure_eq!(shims.len(), 1, "shims");
    let pid = shims[0];
    let replace = |program: &PathBuf| -> Verdict {
        let mut command = Command::new(&t.shim);
        command.args(["upgrade", "up", "--binary"]).arg(program);
        t.finish(command)?.ok()?;
        ensure_eq!(&std::fs::read_link(format!("/proc/{pid}/exe"))?, program, "the program");
        Ok(())
    };
    let programs = [another(t)?, t.shim.clone()];
    for round in 0..6 {
        replace(&programs[round % 2])?;
        let exec =
            engine.ctr(&["tasks", "exec", "--exec-id", &format!("e{round}"), "up", "sh", "-c", "echo in; exit 3"]);
        exec?.code_is(3)?.stdout_is("in\n")?;
    }
    // containerd is stopped for the upgrade, and then meets the other program.
    engine.kill()?;
    replace(&programs[0])?;
    engine.restart()?;
    ensure_eq!(engine.status("up")?, "RUNNING".to_owned(), "the status");
    ensure_eq!(engine.shims(), [pid], "it is the same shim");
    engine.ctr(&["tasks", "kill", "up"])?.ok()?;
    engine.wait_for("up", "STOPPED")?;
    replace(&programs[1])?;
    engine.remove("up", 7)?;
    let execs = ["exec-added", "exec-started", "exit"].repeat(6);
    engine.expect_events(&[&["create", "start"], &execs[..], &["exit", "delete"]].concat())?;
    let lines = text(&log);
    ensure!(lines.lines().enumerate().all(|(n, line)| line == format!("line {n}")), "a line is lost or doubled");
    engine.is_clean()
}

fn below_podman_forward_and_back(t: &T) -> Verdict {
    let (one, two) = (another(t)?, t.shim.clone());
    let script = format!(
        r#"
        pm run -d --name up --network none bb sh -c 'trap "exit 7" TERM; i=0; while :; do echo line $i; i=$((i + 1)); sleep 0.01; done' >up.id
        replace() {{ {two} upgrade $(cat up.id) --binary $1 >said || echo refused; grep -c '"mode":"conmon"' said; }}
        replace {one}
        pm exec up sh -c 'echo in; exit 3'; echo $?
        replace {two}
        pm exec up sh -c 'echo running; sleep 3; exit 4' >said.exec & exec=$!
        until grep -q running said.exec; do sleep 0.1; done
        replace {one} | tail -1
        wait $exec; echo $?
        pm stop -t 5 up >/dev/null; pm wait up
        pm logs up | awk '$2 != n++ {{ bad = 1 }} END {{ print bad + 0, (n > 50) }}'
        pm inspect up --format '{{{{.State.ExitCode}}}} {{{{.State.Status}}}}'"#,
        one = one.display(),
        two = two.display()
    );
    podman(t, &script, "1\nin\n3\n1\n2\n4\n7\n0 1\n7 exited\n")
}
