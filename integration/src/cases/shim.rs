//! The engine-neutral mode of `windlass-shim`, with real containers.

use crate::cases::terminal::until;
use crate::kit::console::start_at_terminal;
use crate::kit::criu;
use crate::kit::machine::text;
use crate::kit::runtime::{self, RuntimeKind};
use crate::kit::shim::{self, Shimmed};
use crate::kit::stop::Context;
use crate::kit::wait::eventually;
use crate::kit::{Need, T, Verdict};
use crate::{chapter, ensure, ensure_eq};
use serde_json::{Value, json};
use std::fs::Permissions;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

chapter! { "shim":
    a_container_runs_and_its_end_is_recorded_before_it_is_told,
    a_created_container_can_be_attached_before_it_starts,
    a_terminal_has_a_size_and_takes_input,
    an_exec_has_its_own_stdio_and_exit,
    a_client_at_a_terminal_passes_its_size_on_and_leaves_by_keys,
    a_client_of_another_user_is_turned_away,
    a_pause_is_seen_in_the_status,
    docker_s_log_format_reads_back,
    a_failed_create_leaves_nothing,
    a_killed_engine_misses_no_event_and_no_line [Need::Slow],
    a_killed_shim_is_answered_for_by_its_record,
    a_lost_shim_leaves_nothing_behind_after_delete,
    a_kept_container_is_adopted_with_its_exit_code,
    a_shutdown_and_adopt_change_the_shim_under_a_running_container,
    the_shell_client_of_the_document_works,
    a_container_goes_on_with_its_stdio_and_log_after_a_restore [Need::Windlass, Need::Criu, Need::Slow],
}

fn sleeper(t: &T) -> Verdict<Shimmed<'_>> {
    shim::run(t, &t.bundle()?.args(&["/bin/sleep", "1000"]), &[])
}

fn a_container_runs_and_its_end_is_recorded_before_it_is_told(t: &T) -> Verdict {
    let c = shim::run(t, &t.bundle()?.sh("echo out; echo err >&2; printf partial; exit 7"), &[])?;
    ensure_eq!(c.line("wait", &[])?["code"], json!(7), "the code");
    let record: Value = serde_json::from_str(&text(c.file("exit.json")))?;
    ensure_eq!((&record["code"], &record["pid"]), (&json!(7), &c.made["pid"]), "the record");
    c.verb("logs", &[])?.ok()?.stdout_is("out\npartial")?.stderr_has("err")?;
    // windlass itself knows it too.
    if RuntimeKind::of(&t.runtime) == RuntimeKind::Windlass {
        let own = t.runtime(&["state", &c.id])?.ok()?.json()?;
        ensure_eq!(own["exit"]["code"], json!(7), "the runtime's own record");
    }
    ensure_eq!(c.line("delete", &[])?["exit"]["code"], json!(7), "delete tells it again");
    ensure!(!c.file("").exists() && !t.root().join(&c.id).exists(), "everything is gone");
    Ok(())
}

fn a_created_container_can_be_attached_before_it_starts(t: &T) -> Verdict {
    let c = shim::run(t, &t.bundle()?.sh("read -r line; echo got $line; echo bad >&2"), &["--create-only", "--stdin"])?;
    ensure_eq!(c.made["state"], json!("created"), "the state");
    let mut attached = c.connect()?;
    attached.call("attach", json!({}))?;
    attached.give("hello\n")?;
    c.verb("start", &[])?.ok()?;
    ensure_eq!(attached.frames()?, ("got hello\n".to_owned(), "bad\n".to_owned()), "the frames");
    Ok(())
}

fn a_terminal_has_a_size_and_takes_input(t: &T) -> Verdict {
    let bundle = t.bundle()?.sh("read -r _; stty size; tty").set("/process/terminal", json!(true));
    let c = shim::run(t, &bundle, &["--create-only", "--tty", "--stdin"])?;
    let mut attached = c.connect()?;
    attached.call("attach", json!({}))?;
    c.verb("start", &[])?.ok()?;
    c.verb("resize", &["33", "77"])?.ok()?;
    attached.give("go\n")?;
    let (shown, _) = attached.frames()?;
    ensure!(shown.contains("33 77") && shown.contains("/dev/pts/0"), "the terminal shows {shown:?}");
    Ok(())
}

fn a_client_at_a_terminal_passes_its_size_on_and_leaves_by_keys(t: &T) -> Verdict {
    let script =
        format!("{} read -r line; echo \"$line\" | od -c; sleep 1000", [until("11 22"), until("33 77")].concat());
    let bundle = t.bundle()?.sh(&script).set("/process/terminal", json!(true));
    let c = shim::run(t, &bundle, &["--create-only", "--tty", "--stdin"])?;
    let mut command = shim::command(t, "attach");
    command.arg(&c.id);
    let (mut child, mut terminal) = start_at_terminal(&command, 11, 22)?;
    eventually("the client at the terminal", || terminal.is_raw().then_some(()))?;
    c.verb("start", &[])?.ok()?;
    terminal.read_until("11 22 at last")?;
    terminal.resize(33, 77)?;
    terminal.read_until("33 77 at last")?;
    // The first key is input if the second one does not follow.
    terminal.write("\u{10}k\n")?;
    terminal.read_until("020   k")?;
    terminal.write("\u{10}\u{11}")?;
    let status = runtime::wait(&mut child, Duration::from_secs(60), "attach");
    ensure!(status.is_ok(), "the keys have not ended the client");
    ensure_eq!(c.line("status", &[])?["state"], json!("running"), "the container that was left");
    Ok(())
}

/// The case opens the permissions of the directories and of the socket, which otherwise keep other users out.
fn a_client_of_another_user_is_turned_away(t: &T) -> Verdict {
    const USER: i64 = 47_123;
    let c = sleeper(t)?;
    let socket = c.file("shim.sock");
    for path in socket.ancestors().take_while(|path| path.starts_with("/run/windlass-integration")) {
        let mode = std::fs::metadata(path)?.permissions().mode();
        std::fs::set_permissions(path, Permissions::from_mode(mode | if path == socket { 0o666 } else { 0o111 }))?;
    }
    let answer = |user: i64| -> Verdict<usize> {
        let socket = socket.clone();
        let asked = std::thread::spawn(move || -> std::io::Result<usize> {
            // The raw call changes the user id of this thread alone.
            crate::sys::syscall(libc::SYS_setresuid, [-1, user, -1, 0, 0, 0])?;
            let mut stream = UnixStream::connect(socket)?;
            stream.set_read_timeout(Some(Duration::from_secs(60)))?;
            let _ = stream.write_all(b"{\"seq\":1,\"op\":\"status\"}\n");
            match stream.read(&mut [0; 4096]) {
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(0),
                other => other,
            }
        });
        asked.join().map_err(|_| crate::kit::Stop::Fail("the client panicked".to_owned()))?.context("a client")
    };
    ensure!(answer(0)? > 0, "root has no answer");
    ensure_eq!(answer(USER)?, 0, "bytes that another user was given");
    Ok(())
}

fn an_exec_has_its_own_stdio_and_exit(t: &T) -> Verdict {
    let c = sleeper(t)?;
    c.verb("exec", &["/bin/sh", "-c", "echo out; echo err >&2; exit 9"])?.code_is(9)?.stdout_is("out\n")?;
    c.verb("exec", &["/bin/no-such-program"])?.fails()?.stderr_has("no-such-program")?;
    let detached = c.line("exec", &["--detach", "--exec-id", "e", "/bin/sleep", "1000"])?;
    ensure_eq!(detached["exec"], json!("e"), "the id that was asked for");
    c.verb("kill", &["--exec", "e", "KILL"])?.ok()?;
    ensure_eq!(c.line("wait", &["--exec", "e"])?["signal"], json!(9), "the killed exec");
    let mut client = c.connect()?;
    let exec = c.exec_in(&mut client, "exit 4")?;
    ensure_eq!(client.call("wait", json!({"exec": exec}))?["code"], json!(4), "the exec's code");
    ensure_eq!(client.call("delete", json!({"exec": exec}))?["exit"]["code"], json!(4), "the deleted exec's");
    Ok(())
}

fn a_pause_is_seen_in_the_status(t: &T) -> Verdict {
    let c = sleeper(t)?;
    c.verb("pause", &[])?.ok()?;
    ensure_eq!(c.line("status", &[])?["state"], json!("paused"), "after pause");
    c.verb("resume", &[])?.ok()?;
    ensure_eq!(c.line("status", &[])?["state"], json!("running"), "after resume");
    Ok(())
}

fn docker_s_log_format_reads_back(t: &T) -> Verdict {
    let script = "printf 'grü\"ße\\t\\\\\\n'; echo err >&2; printf last";
    let c = shim::run(t, &t.bundle()?.sh(script), &["--log", "json:,max=1m,files=2"])?;
    c.line("wait", &[])?;
    let log = text(c.file("log"));
    let entries = log.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
    let of = |stream: &str| -> String {
        entries.iter().filter(|entry| entry["stream"] == stream).filter_map(|entry| entry["log"].as_str()).collect()
    };
    ensure_eq!((of("stdout"), of("stderr")), ("grü\"ße\t\\\nlast".to_owned(), "err\n".to_owned()), "the texts");
    c.verb("logs", &[])?.ok()?.stdout_is("grü\"ße\t\\\nlast")?;
    Ok(())
}

fn a_failed_create_leaves_nothing(t: &T) -> Verdict {
    let bundle = t.bundle()?.args(&["/bin/true"]).mount(json!({"destination": "/x", "type": "bind",
        "source": "/no/such/source", "options": ["bind"]}));
    let id = t.id();
    let ran = t.finish(shim::run_command(t, &bundle, &id)?)?.fails()?;
    ensure!(ran.json()?["error"]["message"].as_str().is_some_and(|m| m.contains("no/such")), "{ran}");
    ensure!(!shim::state_dir(t).join(&id).exists() && !t.root().join(&id).exists(), "something is left");
    Ok(())
}

/// Numbered lines for about two seconds, and how many.
const NUMBERS: &str =
    "n=0; while [ $n -lt 2000 ]; do n=$((n+1)); echo $n; [ $((n % 20)) = 0 ] && usleep 20000; done; exit 5";

fn a_killed_engine_misses_no_event_and_no_line(t: &T) -> Verdict {
    let bundle = t.bundle()?.sh(NUMBERS);
    let id = t.id();
    // The engine is killed with the command that makes the container.
    let mut engine = shim::run_command(t, &bundle, &id)?.stdout(Stdio::piped()).spawn()?;
    eventually("the container's directory", || shim::state_dir(t).join(&id).join("shim.sock").exists().then_some(()))?;
    engine.kill()?;
    engine.wait()?;
    let c = Shimmed::existing(t, &id, &bundle)?;
    let mut kinds = Vec::new();
    let mut next = 1;
    // A subscriber that acknowledges what it has received and is then killed, repeatedly.
    while kinds.last().is_none_or(|(kind, _)| kind != "exited") {
        let mut client = c.connect()?;
        client.call("subscribe", json!({}))?;
        let event = client.event()?;
        ensure_eq!(event["event"], json!(next), "events come in order, none twice once acknowledged");
        client.call("ack", json!({"event": next}))?;
        kinds.push((event["type"].as_str().unwrap_or_default().to_owned(), event["code"].clone()));
        next += 1;
    }
    let expected = [("created", Value::Null), ("started", Value::Null), ("exited", json!(5))];
    ensure_eq!(kinds, expected.map(|(kind, code)| (kind.to_owned(), code)), "the events");
    let logs = c.verb("logs", &[])?.ok()?.stdout;
    ensure_eq!(logs, (1..=2000).map(|n| format!("{n}\n")).collect::<String>(), "no gap, no double");
    Ok(())
}

fn a_killed_shim_is_answered_for_by_its_record(t: &T) -> Verdict {
    let c = shim::run(t, &t.bundle()?.sh("exit 42"), &[])?;
    c.line("wait", &[])?;
    c.kill_shim()?;
    let status = c.line("status", &[])?;
    ensure_eq!((&status["exit"]["code"], &status["shim_lost"]), (&json!(42), &json!(false)), "the status");
    let deleted = c.line("delete", &[])?;
    ensure_eq!((&deleted["exit"]["code"], &deleted["shim_lost"]), (&json!(42), &json!(false)), "the delete");
    ensure!(!t.root().join(&c.id).exists(), "the runtime has forgotten it");
    Ok(())
}

fn a_lost_shim_leaves_nothing_behind_after_delete(t: &T) -> Verdict {
    let c = shim::run(t, &t.bundle()?.sh("sleep 1000 & sleep 1000"), &[])?;
    let pid = c.made["pid"].as_i64().unwrap_or(0);
    c.kill_shim()?;
    let status = c.line("status", &[])?;
    ensure_eq!((&status["shim_lost"], &status["state"]), (&json!(true), &json!("running")), "the status");
    let deleted = c.line("delete", &[])?;
    ensure_eq!((&deleted["shim_lost"], &deleted["exit"]["status"]), (&json!(true), &json!(137)), "the delete");
    eventually("the container's process is gone", || {
        (!std::path::Path::new(&format!("/proc/{pid}")).exists()).then_some(())
    })
}

fn a_kept_container_is_adopted_with_its_exit_code(t: &T) -> Verdict {
    let script = "trap 'exit 6' TERM; n=0; while :; do n=$((n+1)); echo $n; usleep 2000; done";
    let log = t.path("kept.log").display().to_string();
    let mut c = shim::run(t, &t.bundle()?.sh(script), &["--keep-on-shim-death", "--log", &format!("k8s:{log}")])?;
    let pid = c.made["pid"].clone();
    for _ in 0..3 {
        sleep(Duration::from_millis(100));
        c.kill_shim()?;
        ensure!(c.verb("delete", &[])?.code != 0, "a running container is not deleted without force");
        sleep(Duration::from_millis(100));
        c.made = c.line("adopt", &[])?;
        ensure_eq!((&c.made["pid"], &c.made["state"]), (&pid, &json!("running")), "the adopted container");
    }
    // On a busy machine the program may not have come far.
    eventually("some lines", || (c.verb("logs", &[]).ok()?.stdout.lines().count() > 50).then_some(()))?;
    c.verb("kill", &["TERM"])?.ok()?;
    let known = c.made["guarantees"]["exit_code"] == true;
    let exit = c.line("wait", &[])?;
    ensure_eq!(exit["status"], if known { json!(6) } else { json!(255) }, "the exit code of another's child");
    let logs = c.verb("logs", &[])?.ok()?.stdout;
    let n = logs.lines().count();
    ensure_eq!(logs, (1..=n).map(|n| format!("{n}\n")).collect::<String>(), "no gap, no double");
    let events = c.verb("events", &[])?.ok()?.stdout;
    let kinds: Vec<Value> = events
        .lines()
        .map(|line| serde_json::from_str(line).map(|event: Value| event["type"].clone()))
        .collect::<Result<_, _>>()?;
    ensure_eq!(kinds, ["created", "started", "exited"], "numbered on over the shims");
    Ok(())
}

fn a_shutdown_and_adopt_change_the_shim_under_a_running_container(t: &T) -> Verdict {
    let bundle = t.bundle()?.sh("trap 'exit 8' TERM; while :; do usleep 10000; done");
    let c = shim::run(t, &bundle, &["--keep-on-shim-death"])?;
    c.verb("shutdown", &[])?.ok()?;
    let adopted =
        eventually("the old shim is gone", || c.line("adopt", &[]).ok().filter(|line| line["error"].is_null()))?;
    ensure_eq!(adopted["pid"], c.made["pid"], "the same container");
    ensure!(adopted["shim_pid"] != c.made["shim_pid"], "another shim");
    c.verb("kill", &["TERM"])?.ok()?;
    let exit = c.line("wait", &[])?;
    ensure!([json!(8), json!(255)].contains(&exit["status"]), "{exit}");
    Ok(())
}

fn the_shell_client_of_the_document_works(t: &T) -> Verdict {
    let document = include_str!("../../../docs/shim-protocol.md");
    let script = document.split("```sh\n").nth(1).and_then(|rest| rest.split("\n```").next()).unwrap_or_default();
    let path = t.path("client.sh");
    std::fs::write(&path, script)?;
    let c = shim::run(t, &t.bundle()?.sh("trap 'exit 3' TERM; while :; do usleep 10000; done"), &[])?;
    let dir = c.file("").display().to_string();
    let ask = |words: &[&str]| -> Verdict<Value> {
        let words = [&[path.to_str().unwrap_or_default(), &dir], words].concat();
        serde_json::from_str(&t.host("/bin/sh", &words)?).context("the client's answer")
    };
    ensure_eq!(ask(&["status"])?["ok"]["state"], json!("running"), "the status");
    ensure_eq!(ask(&["kill", "\"signal\":\"TERM\""])?["ok"], json!({}), "the kill");
    ensure_eq!(ask(&["wait"])?["ok"]["code"], json!(3), "the wait");
    c.kill_shim()?;
    ensure_eq!(ask(&["wait"])?["code"], json!(3), "the record of a dead shim");
    Ok(())
}

fn a_container_goes_on_with_its_stdio_and_log_after_a_restore(t: &T) -> Verdict {
    let bundle = t.bundle()?.sh("i=0; while read -r line; do i=$((i+1)); echo $i $line; done; exit 5");
    let criu = criu::program().unwrap_or_default().display().to_string();
    let with_criu = ["--stdin", "--runtime-arg", "--criu", "--runtime-arg", &criu];
    // Removes CRIU's cache of the kernel's features.
    let forgetting = criu::Images::new(t);
    let images = forgetting.dir.display().to_string();
    let c = shim::run(t, &bundle, &with_criu)?;
    let logged = |c: &Shimmed<'_>, line: &str| {
        eventually(line, || c.verb("logs", &[]).ok().filter(|ran| ran.stdout.contains(line)).map(drop))
    };
    let mut client = c.connect()?;
    client.call("attach", json!({}))?;
    client.give("one\n")?;
    logged(&c, "1 one\n")?;
    c.verb("checkpoint", &["--image-path", &images, "--leave-running"])?.ok()?;
    client.give("two\n")?;
    logged(&c, "2 two\n")?;
    c.verb("checkpoint", &["--image-path", &format!("{images}2")])?.ok()?;
    ensure_eq!(c.line("wait", &[])?["signal"], json!(9), "how it ended");
    let events = c.verb("events", &[])?.ok()?.stdout;
    let at = |kind: &str| events.find(&format!("\"type\":\"{kind}\""));
    ensure!(at("checkpointed") < at("exited"), "the order of {events}");
    c.line("delete", &[])?;
    for (images, next) in [(&images, "2 three\n"), (&format!("{images}2"), "3 three\n")] {
        let c = shim::run(t, &bundle, &[&with_criu[..], &["--create-only", "--restore", images]].concat())?;
        ensure!(c.made["state"] == json!("created") && c.pid() > 0, "made: {}", c.made);
        let mut client = c.connect()?;
        client.call("attach", json!({}))?;
        c.verb("start", &[])?.ok()?;
        client.give("three\n")?;
        logged(&c, next)?;
        c.verb("close-stdin", &[])?.ok()?;
        ensure_eq!(c.line("wait", &[])?["code"], json!(5), "the code");
        ensure_eq!(client.frames()?, (next.to_owned(), String::new()), "what the client has read");
        c.line("delete", &[])?;
    }
    Ok(())
}
