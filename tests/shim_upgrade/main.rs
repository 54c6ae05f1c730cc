//! The upgrade in place of shims of all modes, through the built program, above runtimes that are shell scripts.
//!
//! The shim is replaced by a copy of its program, which is another file with the same code. `WINDLASS_UPGRADES` is the
//! number of upgrades under load.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use shims::{FOREVER, RUNTIME, alive, kill, until};
use windlass_client::{Client, Error, Frame, RefusalCode};
use world::World;

mod conmon;
mod containerd;
mod formats;
#[path = "../support/shims.rs"]
mod shims;
#[path = "../shim_neutral/world.rs"]
#[allow(dead_code)] // Others use more of it.
mod world;

/// How often a shim is replaced under load.
fn many() -> usize {
    std::env::var("WINDLASS_UPGRADES").ok().and_then(|text| text.parse().ok()).unwrap_or(20)
}

/// Another file with the same program.
fn another(world: &World) -> PathBuf {
    let path = world.path("another");
    if !path.exists() {
        fs::copy(env!("CARGO_BIN_EXE_windlass-shim"), &path).expect("copied");
    }
    path
}

fn opened(path: &Path) -> OwnedFd {
    windlass_sys::fd::open(path, nix::fcntl::OFlag::O_PATH).expect("a program")
}

/// The program that a process runs.
fn program(pid: i32) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/exe")).expect("it runs")
}

/// The control socket of a shim whose protocol has none. It exists after the endpoints of the protocol.
fn control(pid: i32) -> Client {
    let path = windlass_args::Environment::current().shims().join("@control").join(pid.to_string());
    let mut client = None;
    until(|| {
        client = Client::open(&path).ok();
        client.is_some()
    });
    client.expect("it was awaited")
}

/// Upgrades over a connection. If a busy machine gives the program no time for seconds, the shim refuses, and we retry.
fn upgraded(client: &mut Client, program: &OwnedFd) {
    let busy = |error: &Error| matches!(error, Error::Refused { message, .. } if message.contains("takes too long"));
    let mut tries = 0;
    while let Err(error) = client.upgrade(program.as_fd()) {
        tries += 1;
        assert!(busy(&error) && tries < 20, "it goes on, at try {tries}: {error}");
    }
}

/// Upgrades by the verb, which must succeed.
fn upgrade(world: &World) -> Value {
    let path = another(world);
    let line = world.line(&["upgrade", "c", "--binary", path.to_str().expect("text")]);
    assert_eq!(program(world.shim_pid()), path, "{line}");
    line
}

fn descriptors(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").count()
}

#[test]
fn another_program_goes_on_in_the_process_and_the_first_again() {
    let world = World::new("upgrade", "read -r word\necho got $word\nexit 4\n");
    let made = world.run(&["--stdin"]);
    let pid = made["shim_pid"].as_i64().expect("a number") as i32;
    let mut open = world.client();
    open.call("hello", json!({})).expect("answered");
    let comm = || fs::read_to_string(format!("/proc/{pid}/comm")).expect("it runs");
    let (name, before) = (comm(), descriptors(pid));
    for round in 1..=3u64 {
        let line = upgrade(&world);
        assert_eq!((&line["shim_pid"], &line["upgrades"]), (&made["shim_pid"], &json!(2 * round - 1)));
        let line = world.line(&["upgrade", "c", "--binary", env!("CARGO_BIN_EXE_windlass-shim")]);
        assert_eq!(line["upgrades"], json!(2 * round));
        assert_eq!(comm(), name);
    }
    until(|| descriptors(pid) == before);
    let words = fs::read(format!("/proc/{pid}/cmdline")).expect("it runs");
    assert_eq!(words.split(|&byte| byte == 0).filter(|word| *word == b"@resume").count(), 1, "{words:?}");
    // An old connection still works, and a client attaches as before.
    assert_eq!(open.call("hello", json!({})).expect("answered")["upgrades"], json!(6));
    open.attach(None).expect("attached");
    open.input().expect("input").write(b"hello\n").expect("written");
    assert_eq!(open.frame().expect("a frame"), Some(Frame::Stdout(b"got hello\n".to_vec())));
    assert_eq!(open.frame().expect("the end"), None);
    assert_eq!(world.line(&["wait", "c"])["code"], json!(4));
    let said = fs::read_to_string(world.state().join("c/shim.err")).expect("read");
    let logged = said.lines().filter(|line| line.contains("upgraded from version ") && line.contains(" to version "));
    assert_eq!((logged.count(), said.lines().count()), (6, 6), "each upgrade is logged with both versions: {said}");
}

#[test]
fn a_program_that_cannot_go_on_is_refused_and_the_shim_serves_on() {
    let world = World::new("refused", FOREVER);
    let made = world.run(&[]);
    let write = |name: &str, bytes: &[u8], mode: u32| {
        let path = world.path(name);
        fs::write(&path, bytes).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set");
        path
    };
    let own = fs::read(env!("CARGO_BIN_EXE_windlass-shim")).expect("read");
    let mut foreign = own.clone();
    // e_machine: another architecture.
    foreign[18] ^= 0x40;
    let cases = [
        (write("cut", &own[..200_000], 0o755), ""),
        (write("foreign", &foreign, 0o755), "cannot be executed: Exec format error"),
        (write("plain", &own, 0o644), "cannot be executed: Permission denied"),
        (write("writable", &own, 0o777), "can be written by others"),
        (write("script", b"#!/bin/sh\necho no; exit 3\n", 0o755), ""),
        (write("text", b"no program", 0o755), "cannot be executed: Exec format error"),
        ("/bin/true".into(), "it is not a shim that can read the state"),
        ("/bin/false".into(), "it ends with exit status 1"),
        ("/dev/null".into(), "is not a regular file"),
        (world.dir.clone(), "is not a regular file"),
    ];
    for (path, reason) in cases {
        let output = world.output(&["upgrade", "c", "--binary", path.to_str().expect("text")]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && said.contains(reason), "{path:?}: {said}");
    }
    // The loop goes on while a program hangs, which is killed in the end.
    let hangs = PathBuf::from("/usr/bin/yes");
    let under_way = |error: &Error| matches!(error, Error::Refused { message, .. } if message.contains("under way"));
    let mut client = world.client();
    let waiting = std::thread::spawn(move || {
        // Refused while another upgrade runs, which is over at once.
        loop {
            match client.upgrade(opened(&hangs).as_fd()) {
                Err(error) if under_way(&error) => {}
                other => return other,
            }
        }
    });
    let mut other = world.client();
    until(|| other.upgrade(opened(Path::new("/bin/true")).as_fd()).is_err_and(|error| under_way(&error)));
    assert_eq!(other.call("status", json!({})).expect("answered")["state"], json!("running"));
    match waiting.join().expect("no panic") {
        Err(Error::Refused { code, message: said }) => {
            assert!(code == RefusalCode::TimedOut && said.contains("takes too long"), "{code:?}: {said}")
        }
        other => panic!("a program that hangs is refused, not {other:?}"),
    }
    // A request without a descriptor names no program.
    assert!(matches!(other.call("upgrade", json!({})), Err(Error::Refused { code: RefusalCode::Invalid, .. })));
    let status = world.line(&["status", "c"]);
    assert_eq!((&status["shim_pid"], &status["pid"]), (&made["shim_pid"], &made["pid"]));
    assert_eq!(program(world.shim_pid()), Path::new(env!("CARGO_BIN_EXE_windlass-shim")));
    upgrade(&world);
}

#[test]
fn what_the_runtime_is_doing_goes_on() {
    let world = World::new("calls", FOREVER);
    // The create hangs, and `run` waits for its line.
    fs::write(world.path("root/hang/create"), "").expect("written");
    let (bundle, root) = (world.path("bundle"), world.path("root"));
    let mut running = world
        .shim(&["run", "--id", "c", "--runtime", RUNTIME, "--bundle", bundle.to_str().expect("text")])
        .arg("--root")
        .arg(&root)
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    until(|| root.join("hung").exists());
    upgrade(&world);
    fs::remove_file(world.path("root/hang/create")).expect("removed");
    let mut line = String::new();
    running.stdout.take().expect("a pipe").read_to_string(&mut line).expect("read");
    assert!(running.wait().expect("waited").success(), "{line}");
    let made: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(made["state"], json!("running"));
    // An exec, a kill that waits for it, and a pause that hang; their answers come over the old connection.
    for verb in ["exec", "pause", "kill"] {
        let _ = fs::remove_file(root.join("hung"));
        fs::write(world.path(&format!("root/hang/{verb}")), "").expect("written");
        let mut client = world.client();
        let members = if verb == "exec" { world.exec("e", "sleep 0.5\nexit 6\n") } else { json!({"signal": "CONT"}) };
        let asked = std::thread::spawn(move || client.call(verb, members));
        until(|| root.join("hung").exists());
        upgrade(&world);
        fs::remove_file(world.path(&format!("root/hang/{verb}"))).expect("removed");
        let answer = asked.join().expect("no panic");
        assert!(answer.is_ok() || verb == "pause", "{verb}: {answer:?}");
    }
    assert_eq!(world.line(&["wait", "c", "--exec", "e"])["code"], json!(6));
    world.line(&["delete", "c", "--force"]);
    until(|| !alive(made["pid"].as_i64().expect("a number") as i32));
}

#[test]
fn what_a_process_leaves_open_is_drained_on_and_its_end_is_told_once() {
    let world = World::new("draining", "sleep 2 &\necho last\nexit 9\n");
    world.run(&["--drain", "60"]);
    until(|| String::from_utf8_lossy(&world.output(&["logs", "c"]).stdout).contains("last"));
    let mut client = world.client();
    let waiting = std::thread::spawn(move || client.call("wait", json!({})));
    for _ in 0..5 {
        upgrade(&world);
    }
    assert_eq!(waiting.join().expect("no panic").expect("answered")["code"], json!(9));
    let events = world.output(&["events", "c", "--from", "1"]);
    let events = String::from_utf8_lossy(&events.stdout).into_owned();
    assert_eq!(events.matches("\"exited\"").count(), 1, "{events}");
}

/// Numbered lines, so that a test notices missing, repeated and swapped ones.
struct Lines(u64);

impl Lines {
    fn take(&mut self, bytes: &[u8], rest: &mut Vec<u8>) {
        rest.extend_from_slice(bytes);
        let mut from = 0;
        while let Some(length) = rest[from..].iter().position(|&byte| byte == b'\n') {
            let line = &rest[from..=from + length];
            assert_eq!(String::from_utf8_lossy(line), format!("line {}\n", self.0));
            self.0 += 1;
            from += length + 1;
        }
        rest.drain(..from);
    }
}

/// Takes the whole lines. A reader may have been attached within a line.
fn take_whole(lines: &mut Option<Lines>, rest: &mut Vec<u8>) {
    if lines.is_none()
        && let Some((from, number)) = first_whole(rest)
    {
        rest.drain(..from);
        *lines = Some(Lines(number));
    }
    lines.iter_mut().for_each(|lines| lines.take(&[], rest));
}

/// The output that a reader has got.
struct Got {
    /// The number of the line after the last.
    lines: u64,
    /// The text on standard error.
    errors: String,
    /// Whether the reader got the end, and was not disconnected because the machine gave it no time for seconds.
    whole: bool,
}

/// Reads the output of a container from any position on, with a pause after each frame.
fn read_lines(mut client: Client, pause: Duration) -> Got {
    let (mut lines, mut rest, mut errors) = (None, Vec::new(), Vec::new());
    let whole = loop {
        let frame = match client.frame() {
            Ok(Some(frame)) => frame,
            Ok(None) => break true,
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof, "{error}");
                break false;
            }
        };
        match (frame, &mut lines) {
            (Frame::Stderr(bytes), _) => errors.extend(bytes),
            (Frame::Stdout(bytes), lines) => {
                rest.extend_from_slice(&bytes);
                take_whole(lines, &mut rest);
            }
        }
        std::thread::sleep(pause);
    };
    Got { lines: lines.map_or(0, |lines| lines.0), errors: String::from_utf8(errors).expect("text"), whole }
}

fn came(whole: bool) -> &'static str {
    if whole { "has come" } else { "was left behind, and told so, before it came" }
}

/// The number after `end `.
fn last(text: &str) -> u64 {
    text.trim().strip_prefix("end ").and_then(|number| number.parse().ok()).expect("the end")
}

/// Checks that the log has each line once. The end may be anywhere, since it came on standard error.
fn log_is_whole(log: &[u8]) {
    let at = log.windows(4).rposition(|window| window == b"end ").expect("the end");
    let end = at + log[at..].iter().position(|&byte| byte == b'\n').expect("a line") + 1;
    let mut lines = Lines(0);
    lines.take(&[&log[..at], &log[end..]].concat(), &mut Vec::new());
    assert_eq!(lines.0, last(&String::from_utf8_lossy(&log[at..end])));
}

#[test]
fn nothing_is_lost_or_doubled_by_many_upgrades_under_load() {
    let upgrades = many() as u64;
    let world = World::new("load", "");
    let stop = world.path("stop");
    let script = "i=0; while [ ! -e STOP ]; do echo line $i; i=$((i+1)); done; echo end $i >&2\nexit 5\n";
    world.script("init", &script.replace("STOP", stop.to_str().expect("text")));
    world.run(&["--log", &format!("raw:{}", world.path("log").display())]);
    // One client reads at once, and one is slow.
    let readers = [Duration::ZERO, Duration::from_millis(2)].map(|pause| {
        let mut client = world.client();
        client.attach(None).expect("attached");
        std::thread::spawn(move || read_lines(client, pause))
    });
    let mut client = world.client();
    let mut programs = [opened(&another(&world)), opened(Path::new(env!("CARGO_BIN_EXE_windlass-shim")))];
    let code = |round: u64| round % 200 + 1;
    for round in 0..upgrades {
        // The shell that plays the runtime reaps a process that ends at once.
        let exec = world.exec(&format!("e{round}"), &format!("sleep 0.3\nexit {}\n", code(round)));
        client.call("exec", exec).unwrap_or_else(|error| panic!("exec {round}: {error}"));
        upgraded(&mut client, &programs[0]);
        programs.swap(0, 1);
    }
    for round in 0..upgrades {
        let exit = client.call("wait", json!({"exec": format!("e{round}")})).expect("it has ended");
        assert_eq!(exit["code"], json!(code(round)));
    }
    fs::write(stop, "").expect("written");
    assert_eq!(world.line(&["wait", "c"])["code"], json!(5));
    let [fast, slow] = readers.map(|reader| reader.join().expect("no line is missing or doubled"));
    for reader in [&fast, &slow].into_iter().filter(|reader| reader.whole) {
        assert_eq!(reader.lines, last(&reader.errors), "the reader has got all lines to the last");
    }
    println!("the reader {} to the end, the slow one {}", came(fast.whole), came(slow.whole));
    assert!(fast.lines > 0 && slow.lines > 0, "both have got lines");
    log_is_whole(&fs::read(world.path("log")).expect("the log"));
    let events = world.output(&["events", "c", "--from", "1"]).stdout;
    let events: Vec<Value> =
        events.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
    let numbers: Vec<u64> = events.iter().filter_map(|event| event["event"].as_u64()).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{numbers:?}");
    let exited = events.iter().filter(|event| event["type"] == "exited").count() as u64;
    assert_eq!(exited, upgrades + 1, "one end for each process");
}

/// The position of the first whole line, and its number.
fn first_whole(bytes: &[u8]) -> Option<(usize, u64)> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut from = 0;
    loop {
        let line = &text[from..];
        let end = line.find('\n')?;
        match line[..end].strip_prefix("line ").and_then(|n| n.parse().ok()) {
            Some(number) if from > 0 || number == 0 => return Some((from, number)),
            _ => from += end + 1,
        }
    }
}

#[test]
fn a_half_sent_request_and_a_half_sent_frame_go_over() {
    let world = World::new("half", "cat; exit 2\n");
    world.run(&["--stdin"]);
    let mut half = world.socket();
    half.write_all(b"{\"seq\":9,\"op\":\"sta").expect("written");
    let mut attached = BufReader::new(world.socket());
    attached.get_mut().write_all(b"{\"seq\":1,\"op\":\"attach\"}\n").expect("written");
    let mut line = String::new();
    attached.read_line(&mut line).expect("answered");
    // The head of a frame of input, and three of its five bytes.
    attached.get_mut().write_all(b"\0\0\0\0\x05hel").expect("written");
    until(|| world.client().call("hello", json!({})).is_ok());
    upgrade(&world);
    half.write_all(b"tus\"}\n").expect("written");
    let mut line = String::new();
    BufReader::new(half).read_line(&mut line).expect("answered");
    assert!(line.contains("\"seq\":9") && line.contains("running"), "{line}");
    attached.get_mut().write_all(b"lo\0\0\0\0\0").expect("written");
    let mut frames = Vec::new();
    attached.read_to_end(&mut frames).expect("the end");
    assert_eq!(frames, b"\x01\0\0\0\x05hello");
    assert_eq!(world.line(&["wait", "c"])["code"], json!(2));
}

#[test]
fn a_caller_that_dies_at_any_moment_leaves_a_shim_that_serves() {
    let world = World::new("caller", FOREVER);
    let made = world.run(&[]);
    let pid = made["shim_pid"].as_i64().expect("a number") as i32;
    let path = another(&world);
    let before = descriptors(pid);
    for delay in 0..40u64 {
        let words = ["upgrade", "c", "--binary", path.to_str().expect("text")];
        let mut caller = world.shim(&words).stdout(Stdio::null()).spawn().expect("started");
        std::thread::sleep(Duration::from_micros(delay * 500));
        caller.kill().expect("killed");
        caller.wait().expect("reaped");
        let mut client = world.client();
        client.set_timeout(Duration::from_secs(60)).expect("set");
        assert_eq!(client.call("hello", json!({})).expect("it serves")["shim_pid"], made["shim_pid"]);
    }
    until(|| descriptors(pid) <= before + 1);
    assert_eq!(zombies(pid), 0);
    world.terminate();
    assert_eq!(world.line(&["wait", "c"])["code"], json!(3));
}

/// Children of a process that have ended and were not reaped.
fn zombies(parent: i32) -> usize {
    let marks = format!(" Z {parent} ");
    let processes = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(&marks))).count()
}
