//! The engine-neutral mode through the built program, above a runtime that is a shell script.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use windlass_client::{Error, Frame, RefusalCode};

use shims::{FOREVER, RUNTIME, alive, kill, until};
use world::World;

mod example;
mod hostile;
#[path = "../support/shims.rs"]
mod shims;
mod world;

fn ended(child: &mut Child) -> i32 {
    child.wait().expect("waited").code().expect("a code")
}

#[test]
fn a_run_prints_one_line_and_the_end_is_recorded_before_it_is_told() {
    let world = World::new("run", "echo out\necho err >&2\nprintf partial\nexit 7\n");
    let made = world.run(&[]);
    assert_eq!((&made["v"], &made["id"], &made["error"]), (&json!(1), &json!("c"), &Value::Null));
    let exit = world.line(&["wait", "c"]);
    assert_eq!((&exit["code"], &exit["status"]), (&json!(7), &json!(7)));
    let record: Value =
        serde_json::from_slice(&fs::read(world.state().join("c/exit.json")).expect("a record")).expect("JSON");
    assert_eq!((&record["version"], &record["code"], &record["pid"]), (&json!(1), &json!(7), &made["pid"]));
    let logs = world.output(&["logs", "c"]);
    assert_eq!(String::from_utf8_lossy(&logs.stdout), "out\npartial");
    assert_eq!(String::from_utf8_lossy(&logs.stderr), "err\n");
    let deleted = world.line(&["delete", "c"]);
    assert_eq!(deleted["exit"]["code"], 7);
    assert!(!world.state().join("c").exists() && !world.path("root/c").exists(), "nothing stays");
}

#[test]
fn a_failed_create_leaves_nothing_and_says_why() {
    let world = World::new("create-fails", "exit 0\n");
    fs::write(world.path("root/fail/create"), "no room").expect("written");
    let error = &world.run(&[])["error"];
    assert_eq!((&error["code"], &error["message"]), (&json!("runtime"), &json!("no room")));
    assert!(!world.state().join("c").exists(), "the directory of the container is still there");
}

#[test]
fn a_failed_start_takes_the_container_back() {
    let world = World::new("start-fails", FOREVER);
    fs::write(world.path("root/fail/start"), "not today").expect("written");
    assert_eq!(world.run(&[])["error"]["message"], "not today");
    assert!(!world.state().join("c").exists() && !world.path("root/c").exists());
}

#[test]
fn a_run_that_fails_early_leaves_nothing() {
    let world = World::new("early", "exit 0\n");
    let bundle = world.path("bundle");
    let bundle = bundle.to_str().expect("text");
    let text = world.path("init.sh");
    let no_log = format!("k8s:{}/no/such/log", world.dir.display());
    for words in [
        ["--runtime", "/no/such", "--log", "none"],
        ["--runtime", text.to_str().expect("text"), "--log", "none"],
        ["--runtime", RUNTIME, "--log", &no_log],
    ] {
        let line = world.line(&[&["run", "--id", "c", "--bundle", bundle][..], &words].concat());
        assert!(line["error"]["message"].is_string(), "{line}");
        assert_eq!(fs::read_dir(world.state()).map_or(0, Iterator::count), 0, "{words:?}");
    }
}

/// With any number of descriptors, either the container is recorded, or no process of it is left.
#[test]
fn a_run_that_is_short_of_descriptors_leaves_no_container() {
    let (mut ran, mut failed) = (0, 0);
    for limit in 8..=36 {
        let world = World::new(&format!("short-{limit}"), FOREVER);
        let run = format!(
            "ulimit -n {limit}; exec {} run --id c --state-dir {} --bundle {} --root {} --runtime {} --stdin",
            env!("CARGO_BIN_EXE_windlass-shim"),
            world.state().display(),
            world.path("bundle").display(),
            world.path("root").display(),
            RUNTIME,
        );
        let output = Command::new("sh").args(["-c", &run]).output().expect("a shell");
        if world.state().join("c").exists() {
            ran += usize::from(output.status.success());
            continue;
        }
        failed += 1;
        assert!(!output.status.success(), "expected a failure, saw {output:?}");
        let pid = fs::read_to_string(world.path("root/c/pid")).ok().and_then(|pid| pid.trim().parse().ok());
        assert!(!pid.is_some_and(alive), "{limit} descriptors: {output:?}");
    }
    assert!(ran > 0 && failed > 0, "{ran} ran, {failed} failed");
}

#[test]
fn a_container_whose_runtime_is_gone_can_be_deleted() {
    let world = World::new("gone", "exit 0\n");
    let runtime = world.path("copy");
    fs::copy(RUNTIME, &runtime).expect("copied");
    let line = world.run_with(runtime.to_str().expect("text"), &[]);
    assert_eq!(line["error"], Value::Null);
    world.line(&["wait", "c"]);
    world.kill_shim();
    fs::remove_file(&runtime).expect("removed");
    assert!(!world.output(&["delete", "c"]).status.success(), "its runtime may come back");
    assert!(world.output(&["delete", "--force", "c"]).status.success());
    assert!(!world.state().join("c").exists(), "the directory of the container is still there");
}

#[test]
fn a_container_that_never_was_is_not_found() {
    let world = World::new("never", "exit 0\n");
    for words in [&["wait", "c"][..], &["wait", "--exec", "e", "c"], &["status", "c"], &["delete", "c"]] {
        let output = world.output(words);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && !text.contains("the shim was lost"), "{words:?}: {text}");
    }
}

#[test]
fn a_shim_whose_directory_was_removed_ends_with_its_container() {
    let world = World::new("homeless", FOREVER);
    let line = world.run(&[]);
    let (shim, pid) = (line["shim_pid"].as_i64().expect("a pid") as i32, line["pid"].as_i64().expect("a pid") as i32);
    fs::remove_dir_all(world.state().join("c")).expect("removed");
    std::thread::sleep(Duration::from_millis(200));
    assert!(alive(shim) && alive(pid), "the container is not the directory");
    kill(pid, libc::SIGKILL);
    until(|| !alive(shim));
    assert!(!world.path("root/c").exists(), "the runtime was told");
}

/// By the time the shim looks, another container may have the id.
#[test]
fn a_shim_whose_directory_was_replaced_ends_with_its_container() {
    let world = World::new("replaced", FOREVER);
    let line = world.run(&[]);
    let (shim, pid) = (line["shim_pid"].as_i64().expect("a pid") as i32, line["pid"].as_i64().expect("a pid") as i32);
    let directory = world.state().join("c");
    kill(shim, libc::SIGSTOP);
    fs::remove_dir_all(&directory).expect("removed");
    fs::create_dir(&directory).expect("made");
    for name in ["shim.json", "shim.lock"] {
        fs::write(directory.join(name), "{}").expect("written");
    }
    kill(shim, libc::SIGCONT);
    kill(pid, libc::SIGKILL);
    until(|| !alive(shim));
    assert!(!world.path("root/c").exists(), "the runtime was told");
    let mut left: Vec<_> =
        fs::read_dir(&directory).expect("it stays").flatten().map(|entry| entry.file_name()).collect();
    left.sort();
    assert_eq!(left, ["shim.json", "shim.lock"], "what is another's stays as it is");
}

#[test]
fn more_clients_than_the_document_says_are_turned_away() {
    let world = World::new("many", FOREVER);
    let shim = world.run(&[])["shim_pid"].as_i64().expect("a pid") as i32;
    let attached = |world: &World| {
        let mut client = world.socket();
        // A client that is turned away may be so before it has written.
        let _ = client.write_all(b"{\"seq\":1,\"op\":\"attach\"}\n");
        let mut line = String::new();
        let read = BufReader::new(client.try_clone().expect("a copy")).read_line(&mut line);
        (read.is_ok_and(|n| n > 0)).then_some(client)
    };
    let held: Vec<UnixStream> = (0..64).map(|n| attached(&world).unwrap_or_else(|| panic!("client {n}"))).collect();
    assert!(attached(&world).is_none());
    // Clients that have left do not count, even if the shim sees their end and the next connection at the same time.
    let idle = |world: &World| (0..64).map(|_| world.socket()).collect::<Vec<_>>();
    let mut held: Box<dyn std::any::Any> = Box::new(held);
    for _ in 0..4 {
        kill(shim, libc::SIGSTOP);
        drop(held);
        let next = std::thread::scope(|scope| {
            let next = scope.spawn(|| attached(&world));
            std::thread::sleep(Duration::from_millis(50));
            kill(shim, libc::SIGCONT);
            next.join().expect("no panic")
        });
        assert!(next.is_some(), "the limit counts clients that have left");
        drop(next);
        held = Box::new(idle(&world));
    }
}

#[test]
fn a_second_server_leaves_the_directory_of_the_first_alone() {
    let world = World::new("second", FOREVER);
    let line = world.run(&[]);
    let directory = world.state().join("c");
    let second = Command::new(env!("CARGO_BIN_EXE_windlass-shim")).args(["@serve", "run"]).arg(&directory).output();
    let second = second.expect("it runs");
    assert!(!second.status.success(), "expected a failure, saw {second:?}");
    assert!(directory.join("shim.json").exists());
    assert_eq!(world.line(&["status", "c"])["shim_pid"], line["shim_pid"]);
}

/// The exit is recorded even if the log has filled the file system.
#[test]
fn room_for_the_record_of_the_end_is_kept() {
    let world = World::new("reserve", "exit 5\n");
    assert_eq!(world.run(&["--create-only"])["state"], "created");
    let reserve = world.state().join("c/.exit.json.reserve");
    assert_eq!(fs::metadata(&reserve).expect("it is there").len(), 8192);
    assert!(world.output(&["start", "c"]).status.success());
    assert_eq!(world.line(&["wait", "c"])["code"], 5);
}

#[test]
fn an_id_is_taken_until_it_is_deleted() {
    let world = World::new("taken", FOREVER);
    assert_eq!(world.run(&[])["error"], Value::Null);
    assert_eq!(world.run(&[])["error"]["code"], "already-exists");
    let killed = world.line(&["delete", "--force", "c"]);
    assert_eq!(killed["exit"]["signal"], 9);
    assert_eq!(world.run(&[])["error"], Value::Null);
}

#[test]
fn a_created_container_waits_for_its_start() {
    let world = World::new("created", "echo begun\nexit 0\n");
    assert_eq!(world.run(&["--create-only"])["state"], "created");
    let mut client = world.client();
    client.attach(None).expect("attached");
    assert_eq!(world.line(&["start", "c"])["error"], Value::Null);
    assert_eq!(client.frame().expect("read"), Some(Frame::Stdout(b"begun\n".to_vec())));
    assert_eq!(client.frame().expect("read"), None, "the end is told");
}

#[test]
fn an_exec_has_its_own_stdio_and_its_own_exit() {
    let world = World::new("exec", FOREVER);
    world.run(&[]);
    let mut exec = world.exec("e", "read -r line\necho \"got $line\"\necho bad >&2\nexit 9\n");
    exec["attach"] = true.into();
    exec["stdin"] = true.into();
    let mut client = world.client();
    assert_eq!(client.call("exec", exec).expect("started")["exec"], "e");
    client.input().expect("an input").write(b"hello\n").expect("given");
    let mut frames = Vec::new();
    while let Some(frame) = client.frame().expect("read") {
        frames.push(frame);
    }
    frames.sort_by_key(|frame| matches!(frame, Frame::Stderr(_)));
    assert_eq!(frames, [Frame::Stdout(b"got hello\n".to_vec()), Frame::Stderr(b"bad\n".to_vec())]);
    let mut other = world.client();
    assert_eq!(other.call("wait", json!({"exec": "e"})).expect("ended")["code"], 9);
    assert!(world.state().join("c/execs/e.exit.json").exists());
    other.call("delete", json!({"exec": "e"})).expect("deleted");
    assert!(!world.state().join("c/execs/e.exit.json").exists());
    assert!(matches!(
        other.call("wait", json!({"exec": "e"})),
        Err(Error::Refused { code: RefusalCode::NotFound, .. })
    ));
    assert_eq!(world.line(&["status", "c"])["execs"], json!([]));
}

#[test]
fn an_exec_that_cannot_start_says_so_to_whoever_waits() {
    let world = World::new("exec-fails", FOREVER);
    world.run(&[]);
    fs::write(world.path("root/fail/exec"), "no such program").expect("written");
    let mut client = world.client();
    let refused = client.call("exec", world.exec("e", "exit 0\n"));
    assert!(matches!(refused, Err(Error::Refused { message, .. }) if message == "no such program"));
    let mut exec = world.exec("f", "exit 0\n");
    exec["attach"] = true.into();
    client.call("exec", exec).expect("it is answered before it is started");
    assert_eq!(client.frame().expect("read"), None);
    let refused = world.client().call("wait", json!({"exec": "f"}));
    assert!(matches!(refused, Err(Error::Refused { message, .. }) if message == "no such program"));
}

#[test]
fn a_hanging_exec_holds_nobody_up() {
    let world = World::new("hang", FOREVER);
    world.run(&[]);
    fs::write(world.path("root/hang/exec"), "").expect("written");
    let mut socket = world.socket();
    writeln!(socket, "{}", json!({"seq": 1, "op": "exec", "process": {"script": "x"}})).expect("sent");
    let mut hung = String::new();
    until(|| {
        hung = fs::read_to_string(world.path("root/hung")).unwrap_or_default();
        hung.ends_with('\n')
    });
    assert_eq!(world.line(&["status", "c"])["state"], "running");
    assert!(world.output(&["kill", "c", "CONT"]).status.success());
    let mut waiting = world.client();
    let mut second = world.exec("second", "exit 2\n");
    second["attach"] = true.into();
    waiting.call("exec", second).expect("answered");
    // The runtime of the second exec hangs too, and writes the file anew.
    assert!(alive(hung.trim().parse().expect("a number")), "it was waited for");
    fs::remove_file(world.path("root/hang/exec")).expect("removed");
}

#[test]
fn events_are_numbered_and_told_again_until_they_are_acknowledged() {
    let world = World::new("events", FOREVER);
    world.run(&[]);
    let mut client = world.client();
    client.subscribe(None).expect("subscribed");
    let kinds: Vec<Value> = (0..2).map(|_| client.event().expect("an event")["type"].clone()).collect();
    assert_eq!(kinds, ["created", "started"]);
    // An engine that dies here and comes back gets the events again, except those that it has acknowledged.
    drop(client);
    world.client().call("ack", json!({"event": 1})).expect("acknowledged");
    let mut client = world.client();
    client.subscribe(None).expect("subscribed");
    assert_eq!(client.event().expect("an event")["event"], 2);
    let mut exec = world.client();
    exec.call("exec", world.exec("e", "exit 1\n")).expect("started");
    let rest: Vec<(Value, Value)> = (0..2)
        .map(|_| client.event().expect("an event"))
        .map(|event| (event["event"].clone(), event["type"].clone()))
        .collect();
    assert_eq!(rest, [(json!(3), json!("started")), (json!(4), json!("exited"))]);
    let mut again = world.client();
    again.subscribe(Some(4)).expect("subscribed");
    assert_eq!(again.event().expect("an event")["exec"], "e");
}

#[test]
fn a_malformed_line_closes_that_connection_and_nothing_else() {
    let world = World::new("malformed", FOREVER);
    world.run(&[]);
    let mut good = world.client();
    for bad in [&b"not json\n"[..], b"{\"seq\":1}\n", b"{\"seq\":-1,\"op\":\"status\"}\n", &[b'x'; 300 * 1024]] {
        let mut socket = world.socket();
        // The shim may close the connection before all is sent.
        let _ = socket.write_all(bad);
        let mut rest = Vec::new();
        let _ = socket.read_to_end(&mut rest);
        let text = String::from_utf8_lossy(&rest);
        assert!(text.is_empty() || text.contains("\"invalid\""), "{text}");
    }
    assert_eq!(good.call("hello", json!({})).expect("an answer")["v"], 1);
    let refused = good.call("no-such", json!({}));
    assert!(matches!(refused, Err(Error::Refused { code: RefusalCode::Invalid, .. })));
    assert!(good.call("status", json!({})).is_ok(), "an unknown operation is only refused");
}

#[test]
fn a_client_may_close_its_side_and_still_be_answered() {
    let world = World::new("half", FOREVER);
    world.run(&[]);
    let mut socket = world.socket();
    writeln!(socket, "{}", json!({"seq": 5, "op": "wait"})).expect("sent");
    socket.shutdown(std::net::Shutdown::Write).expect("closed");
    world.terminate();
    let mut text = String::new();
    socket.read_to_string(&mut text).expect("read");
    let answer: Value = serde_json::from_str(&text).expect("one line");
    assert_eq!((&answer["seq"], &answer["ok"]["code"]), (&json!(5), &json!(3)));
}

#[test]
fn a_dead_shim_is_answered_for_by_its_records() {
    let world = World::new("dead", "exit 5\n");
    world.run(&[]);
    world.line(&["wait", "c"]);
    world.kill_shim();
    let status = world.line(&["status", "c"]);
    assert_eq!((&status["state"], &status["exit"]["code"]), (&json!("stopped"), &json!(5)));
    assert_eq!(status["shim_lost"], false);
    assert_eq!(world.line(&["wait", "c"])["code"], 5);
    // This holds even if the shim died between the record and the event.
    let events = world.state().join("c/events.log");
    let text = fs::read_to_string(&events).expect("read");
    let cut: String = text.lines().filter(|line| !line.contains("exited")).map(|line| format!("{line}\n")).collect();
    assert_ne!(cut, text);
    fs::write(&events, cut).expect("written");
    let told = world.output(&["events", "c", "--ack"]);
    let last: Value =
        serde_json::from_slice(told.stdout.split(|&b| b == b'\n').nth(2).expect("a third")).expect("JSON");
    assert_eq!((&last["event"], &last["type"], &last["code"]), (&json!(3), &json!("exited"), &json!(5)));
    assert_eq!(world.output(&["events", "c"]).stdout, b"", "acknowledged");
    let deleted = world.line(&["delete", "c"]);
    assert_eq!((&deleted["exit"]["code"], &deleted["shim_lost"]), (&json!(5), &json!(false)));
}

#[test]
fn a_lost_shim_is_named_and_its_container_is_killed_by_delete() {
    let world = World::new("lost", FOREVER);
    let pid = world.run(&[])["pid"].as_i64().expect("a number") as i32;
    world.kill_shim();
    let status = world.line(&["status", "c"]);
    assert_eq!(
        (&status["shim_lost"], &status["exit"], &status["state"]),
        (&json!(true), &Value::Null, &json!("running"))
    );
    let deleted = world.line(&["delete", "c"]);
    assert_eq!((&deleted["shim_lost"], &deleted["exit"]["status"]), (&json!(true), &json!(137)));
    until(|| !alive(pid));
    assert!(!world.state().join("c").exists(), "the directory of the container is still there");
}

#[test]
fn a_kept_container_goes_on_and_is_adopted() {
    let script = "trap 'exit 6' TERM\nn=0\nwhile :; do n=$((n+1)); echo $n; sleep 0.002; done\n";
    let world = World::new("adopt", script);
    let log = format!("k8s:{}", world.path("log").display());
    let made = world.run(&["--keep-on-shim-death", "--log", &log]);
    let pid = made["pid"].as_i64().expect("a number") as i32;
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(100));
        world.kill_shim();
        assert!(alive(pid), "{pid} has ended");
        assert!(!world.output(&["delete", "c"]).status.success(), "it runs: not without force");
        let adopted = world.line(&["adopt", "c"]);
        assert_eq!((&adopted["pid"], &adopted["adopted"]), (&made["pid"], &json!(true)), "{adopted}");
        assert_eq!(adopted["guarantees"]["output"], true);
        assert_eq!(world.line(&["adopt", "c"])["error"]["code"], "already-exists", "one shim at a time");
    }
    std::thread::sleep(Duration::from_millis(100));
    world.terminate();
    let exit = world.line(&["wait", "c"]);
    let last = world.line(&["status", "c"]);
    assert_eq!(last["adopted"], true);
    // The exit code of another process's child is known from Linux 6.15 on; that it has ended is always known.
    assert!([json!(6), json!(255)].contains(&exit["status"]), "{exit}");
    let text = String::from_utf8(world.output(&["logs", "c"]).stdout).expect("text");
    let lines = text.lines().map(|line| line.parse().expect("a number"));
    let numbers: Vec<u64> = std::iter::once(0).chain(lines).collect();
    assert!(numbers.len() > 50, "{numbers:?}");
    assert!(numbers.is_sorted_by(|one, next| one < next), "in order, and none twice: {numbers:?}");
    // A killed shim takes along what it had read and not written.
    let gaps = numbers.windows(2).filter(|pair| pair[1] > pair[0] + 1).count();
    assert!(gaps <= 3, "at most a gap for each shim that was killed: {numbers:?}");
    assert_eq!(world.line(&["delete", "c"])["exit"]["status"], exit["status"]);
}

#[test]
fn the_end_of_an_exec_below_a_dead_shim_is_not_told_of_a_later_one_of_its_name() {
    let world = World::new("name", FOREVER);
    world.run(&["--keep-on-shim-death"]);
    let exec = |script: &str| {
        let exec = world.exec("e", script);
        world.client().call("exec", exec).expect("made");
    };
    exec("exit 4\n");
    assert_eq!(world.line(&["wait", "c", "--exec", "e"])["code"], 4);
    let file = world.state().join("c/execs/e.exit.json");
    let record = fs::read(&file).expect("recorded");
    world.kill_shim();
    assert_eq!(world.line(&["wait", "c", "--exec", "e"])["code"], 4, "the record outlives the shim");
    world.line(&["adopt", "c"]);
    exec(FOREVER);
    assert!(!file.exists(), "the record of another exec");
    world.kill_shim();
    // A child of the first shim that was slow.
    fs::write(&file, record).expect("written");
    let told = world.output(&["wait", "c", "--exec", "e"]);
    let said = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(!told.status.success() && said.contains("no record of exec"), "{said}");
    world.line(&["delete", "c", "--force"]);
}

#[test]
fn a_grandchild_that_holds_the_pipe_does_not_hold_up_the_exit() {
    let world = World::new("grandchild", "sleep 30 &\necho $! > pid\necho x\nexit 3\n");
    let begun = Instant::now();
    world.run(&["--drain", "0.3"]);
    assert_eq!(world.line(&["wait", "c"])["code"], 3);
    let waited = begun.elapsed();
    assert!(waited >= Duration::from_millis(300) && waited < Duration::from_secs(60), "{waited:?}");
    assert_eq!(world.output(&["logs", "c"]).stdout, b"x\n");
}

#[test]
fn a_stalled_client_stops_neither_the_log_nor_the_others() {
    let world = World::new(
        "stalled",
        "read -r _\nn=0\nwhile [ $n -lt 20000 ]; do n=$((n+1)); echo \"line $n\"; done\nexit 0\n",
    );
    world.run(&["--stdin"]);
    let mut stalled = world.client();
    stalled.attach(None).expect("attached");
    stalled.input().expect("an input").write(b"go\n").expect("given");
    assert_eq!(world.line(&["wait", "c"])["code"], 0);
    let logs = String::from_utf8(world.output(&["logs", "c"]).stdout).expect("text");
    assert_eq!(logs.lines().count(), 20_000);
    assert_eq!(logs.lines().last(), Some("line 20000"));
    // The slow client gets the output that was in transit, and can tell that this is not all.
    let cut = loop {
        match stalled.frame() {
            Ok(Some(_)) => {}
            other => break other,
        }
    };
    assert_eq!(cut.expect_err("not the end").kind(), std::io::ErrorKind::UnexpectedEof);
}

#[test]
fn logs_follow_ends_with_the_container_and_since_leaves_out_the_old() {
    let world = World::new("follow", "echo one\nread -r _\necho two\nexit 0\n");
    world.run(&["--stdin", "--log", "json:,max=1k,files=3"]);
    let mut follow = world.shim(&["logs", "--follow", "c"]).stdout(Stdio::piped()).spawn().expect("started");
    let mut lines = BufReader::new(follow.stdout.take().expect("piped")).lines();
    assert_eq!(lines.next().expect("a line").expect("text"), "one");
    std::thread::sleep(Duration::from_millis(1100));
    let mut client = world.client();
    client.attach(None).expect("attached");
    client.input().expect("an input").write(b"\n").expect("given");
    assert_eq!(lines.next().expect("a line").expect("text"), "two");
    let more = lines.next();
    assert!(more.is_none(), "expected the end, saw {more:?}");
    assert_eq!(ended(&mut follow), 0);
    // The record may be on disk before the shim reports the end: `wait` waits for that, `status` does not.
    let exit = world.line(&["wait", "c"]);
    let at = exit["at"].as_str().expect("a time").to_owned();
    let since = world.output(&["logs", "--since", "1000", "c"]);
    assert_eq!(since.stdout, b"one\ntwo\n");
    assert_eq!(world.output(&["logs", "--since", &at, "c"]).stdout, b"");
}

#[test]
fn a_shim_shuts_down_when_the_container_has_ended() {
    let world = World::new("shutdown", FOREVER);
    world.run(&[]);
    assert!(!world.output(&["shutdown", "c"]).status.success(), "it runs");
    let pid = world.shim_pid();
    world.terminate();
    world.line(&["wait", "c"]);
    assert!(world.output(&["shutdown", "c"]).status.success());
    until(|| !alive(pid));
    assert_eq!(world.line(&["status", "c"])["exit"]["code"], 3);
    let listed = world.line(&["list"]);
    assert_eq!((&listed["id"], &listed["shim_lost"]), (&json!("c"), &json!(false)));
}

#[test]
fn the_example_engine_survives_its_own_death() {
    let world = World::new("engine", "echo one\nread -r _\necho two\nexit 4\n");
    let engine = || {
        let mut command = Command::new(example("engine"));
        command.arg(world.state()).arg("c").stdout(Stdio::piped());
        command.env("WINDLASS_SHIM", env!("CARGO_BIN_EXE_windlass-shim"));
        command
    };
    world.run(&["--stdin"]);
    let mut first = engine().spawn().expect("started");
    let mut lines = BufReader::new(first.stdout.take().expect("piped")).lines();
    assert_eq!(lines.next().expect("a line").expect("text"), "one");
    first.kill().expect("killed");
    first.wait().expect("waited");
    let mut client = world.client();
    client.attach(None).expect("attached");
    client.input().expect("an input").write(b"\n").expect("given");
    let second = engine().output().expect("ran");
    assert_eq!(String::from_utf8_lossy(&second.stdout), "one\ntwo\n");
    assert_eq!(second.status.code(), Some(4));
}

/// A built example. cargo builds it unless it was asked for this test alone.
fn example(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_BIN_EXE_windlass-shim")).with_file_name("examples").join(name);
    if !path.exists() {
        let built = Command::new(env!("CARGO")).args(["build", "--quiet", "--example", name]).status();
        assert!(built.expect("cargo runs").success());
    }
    path
}
