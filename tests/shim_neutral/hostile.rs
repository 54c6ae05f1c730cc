//! A shim under attack: a runtime that hangs, too few descriptors, a directory that was replaced.

use super::*;

/// Clock ticks that a process has used, of which there are 100 in a second.
fn ticks(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
    let fields: Vec<&str> = stat.rsplit(") ").next().expect("fields").split(' ').collect();
    let number = |at: usize| fields[at].parse::<u64>().expect("a number");
    number(11) + number(12)
}

#[test]
fn a_shim_whose_runtime_hangs_while_it_takes_a_container_back_answers() {
    let world = World::new("back", FOREVER);
    let hung = world.path("hung");
    let text = "#!/bin/sh\ncase \"$*\" in\n*create*) while [ \"$1\" != --pid-file ]; do shift; done\n\
                printf %s $$ > \"$2\"; echo no >&2; exit 1 ;;\n";
    let runtime = world.script("back", &format!("{text}*) touch {}; exec sleep 1000 ;;\nesac\n", hung.display()));
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&runtime, mode).expect("executable");
    let (bundle, root) = (world.path("bundle"), world.path("root"));
    let mut run = world.shim(&["run", "--id", "c", "--runtime", &runtime]);
    let mut run = run.arg("--bundle").arg(bundle).arg("--root").arg(root).stdout(Stdio::null()).spawn().expect("run");
    until(|| hung.exists());
    let mut client = world.socket();
    client.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
    client.write_all(b"{\"seq\":1,\"op\":\"hello\"}\n").expect("written");
    let mut line = String::new();
    BufReader::new(client).read_line(&mut line).expect("an answer while the runtime hangs");
    let shim = nix::sys::socket::getsockopt(&world.socket(), nix::sys::socket::sockopt::PeerCredentials);
    kill(shim.expect("its credentials").pid(), libc::SIGKILL);
    ended(&mut run);
    fs::remove_dir_all(world.state()).expect("removed");
}

#[test]
fn clients_that_cannot_be_let_in_do_not_keep_the_shim_busy() {
    let world = World::new("full", FOREVER);
    let line = world.run(&[]);
    let shim = line["shim_pid"].as_i64().expect("a pid") as i32;
    let open = |number: &u32| fs::symlink_metadata(format!("/proc/{shim}/fd/{number}")).is_ok();
    let free = (0..).find(|number| !open(number));
    let limited = |limit: &str| {
        let status = Command::new("prlimit").args(["--pid", &shim.to_string(), limit]).status();
        assert!(status.expect("prlimit runs").success());
    };
    limited(&format!("--nofile={}:", free.expect("a number that is free")));
    let mut waiting = world.socket();
    std::thread::sleep(Duration::from_millis(300));
    let before = ticks(shim);
    std::thread::sleep(Duration::from_secs(2));
    let used = ticks(shim) - before;
    limited("--nofile=1024:");
    waiting.write_all(b"{\"seq\":1,\"op\":\"hello\"}\n").expect("written");
    let mut line = String::new();
    BufReader::new(waiting).read_line(&mut line).expect("let in when there is room");
    assert!(line.contains("\"seq\":1"), "{line}");
    assert!(used < 20, "{used} ticks in two seconds");
}

#[test]
fn a_burst_of_clients_is_not_turned_away_by_a_shim_that_is_busy() {
    let world = World::new("burst", FOREVER);
    let shim = world.run(&[])["shim_pid"].as_i64().expect("a pid") as i32;
    kill(shim, libc::SIGSTOP);
    let path = world.state().join("c/shim.sock");
    let clients: Vec<_> = (0..200).map(|_| windlass_sys::socket::connect_now(&path)).collect();
    kill(shim, libc::SIGCONT);
    assert_eq!(clients.iter().filter(|client| client.is_err()).count(), 0);
    drop(clients);
    // The shim has accepted as many clients as it has room for, and notices when they end.
    until(|| world.output(&["kill", "c", "KILL"]).status.success());
}

#[test]
fn who_looks_at_the_records_of_a_shim_leaves_the_line_that_another_writes() {
    let world = World::new("looks", FOREVER);
    world.run(&["--keep-on-shim-death"]);
    world.kill_shim();
    let events = world.state().join("c/events.log");
    let text = fs::read(&events).expect("events");
    fs::write(&events, [&text[..], b"{\"event\":3,\"ty"].concat()).expect("written");
    assert_eq!(world.line(&["status", "c"])["last_event"], 2);
    assert!(fs::read(&events).expect("events").ends_with(b"\"ty"), "it is a half line of a shim that lives");
}

#[test]
fn a_shim_that_is_stopped_does_not_hide_the_others() {
    let world = World::new("stopped", FOREVER);
    let shim = world.run(&[])["shim_pid"].as_i64().expect("a pid") as i32;
    fs::create_dir(world.state().join("dead")).expect("made");
    let facts = fs::read_to_string(world.state().join("c/shim.json")).expect("facts");
    fs::write(world.state().join("dead/shim.json"), facts.replace("\"id\":\"c\"", "\"id\":\"dead\"")).expect("written");
    kill(shim, libc::SIGSTOP);
    let output = world.output(&["list"]);
    kill(shim, libc::SIGCONT);
    let (listed, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(listed.contains("\"id\":\"dead\"") && !listed.contains("\"id\":\"c\""), "{output:?}");
    assert!(said.contains("c: the shim does not answer"), "{output:?}");
}

#[test]
fn a_relative_root_is_the_callers() {
    let world = World::new("relative", FOREVER);
    let mut run = world.shim(&["run", "--id", "c", "--runtime", RUNTIME, "--bundle", "bundle", "--root", "root"]);
    assert!(run.current_dir(&world.dir).stdout(Stdio::null()).status().expect("it runs").success());
    assert!(world.path("root/c").exists());
    world.kill_shim();
    world.line(&["delete", "--force", "c"]);
    assert!(!world.path("root/c").exists());
}

#[test]
fn a_client_that_never_stops_asking_costs_nobody_else_anything() {
    const ASKED: u64 = 300_000;
    let world = World::new("asks", FOREVER);
    world.run(&[]);
    let flooder = world.socket();
    let mut writer = flooder.try_clone().expect("a copy");
    let asking = std::thread::spawn(move || {
        for from in (1..=ASKED).step_by(1000) {
            let lines: String =
                (from..from + 1000).map(|seq| format!("{{\"seq\":{seq},\"op\":\"hello\"}}\n")).collect();
            if writer.write_all(lines.as_bytes()).is_err() {
                return;
            }
        }
    });
    let mut answers = BufReader::new(flooder.try_clone().expect("a copy")).lines();
    answers.by_ref().take(1000).for_each(drop);
    let other = world.socket();
    let asked = std::thread::spawn(move || {
        (&other).write_all(b"{\"seq\":7,\"op\":\"hello\"}\n").expect("written");
        let mut line = String::new();
        BufReader::new(other).read_line(&mut line).expect("an answer");
        assert!(line.contains("\"seq\":7"), "{line}");
    });
    let answered = 1000 + answers.take_while(|_| !asked.is_finished()).take(ASKED as usize - 1001).count() as u64;
    let _ = flooder.shutdown(std::net::Shutdown::Both);
    asked.join().expect("answered");
    asking.join().expect("ended");
    assert!(answered < ASKED - 1, "the other was answered when the first had been, {answered} times");
}
