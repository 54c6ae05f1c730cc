//! The supervisor of the shim with a runtime that is a shell script: no privileges, no protocol.
//!
//! A supervisor takes its process's signals and reaps its children, so each test has its own process.
//! `shim_core NAME...` runs the tests whose names contain one of the words.

/// Tests with their names.
macro_rules! tests {
    ($($name:ident),* $(,)?) => { &[$((stringify!($name), $name)),*] };
}

mod life;
mod rig;
mod spool;
mod stdio;

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, ExitCode};
use std::time::{Duration, Instant};

type Test = (&'static str, fn());

/// Before a program: it is started on a terminal, whose other end goes to the socket named first.
const TERMINAL: &str = "--terminal";

/// Before a program: it is started and its process id written to the file named first. A shell would reap a program
/// that ends at once.
const DETACHED: &str = "--detached";

/// Before a test's name: the test runs in this process.
const ALONE: &str = "--alone";

/// How long a test may run. It reports itself what it has waited for in vain for two minutes.
const LONGEST: Duration = Duration::from_secs(600);

fn tests() -> impl Iterator<Item = &'static Test> {
    life::TESTS.iter().chain(stdio::TESTS).chain(spool::TESTS)
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [first, name, ..] = &words[..]
        && first == ALONE
    {
        let (_, test) = tests().find(|(known, _)| known == name).expect("a test's name");
        let before = rig::open_files();
        test();
        // Without the supervisor none of its descriptors is open.
        assert_eq!(rig::open_files(), before, "what is open after the test is not what was open before it");
        return ExitCode::SUCCESS;
    }
    if let [first, socket, program @ ..] = &words[..]
        && first == TERMINAL
    {
        on_a_terminal(Path::new(socket), program);
        return ExitCode::SUCCESS;
    }
    if let [first, pid_file, program @ ..] = &words[..]
        && first == DETACHED
    {
        #[allow(clippy::zombie_processes)] // Leaving it to the shim is the point.
        let child = Command::new(&program[0]).args(&program[1..]).spawn().expect("started");
        fs::write(pid_file, child.id().to_string()).expect("written");
        return ExitCode::SUCCESS;
    }
    let words: Vec<&String> = words.iter().filter(|word| !word.starts_with('-')).collect();
    let wanted = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(*word));
    let failed = run(&mut tests().map(|(name, _)| *name).filter(|name| wanted(name)));
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs tests, several at once because they wait for most of their time. Returns how many have failed.
fn run(names: &mut dyn Iterator<Item = &'static str>) -> usize {
    let at_once = 4 * std::thread::available_parallelism().map_or(1, usize::from);
    let program = std::env::current_exe().expect("our own program");
    let (mut running, mut failed) = (Vec::new(), 0);
    loop {
        while running.len() < at_once
            && let Some(name) = names.next()
        {
            let child = Command::new(&program).args([ALONE, name]).env("SHIM_CORE", &program).spawn().expect("started");
            running.push((name, child, Instant::now() + LONGEST));
        }
        if running.is_empty() {
            return failed;
        }
        std::thread::sleep(Duration::from_millis(5));
        running.retain_mut(|(name, child, deadline)| {
            let Some(outcome) = outcome(child, *deadline) else { return true };
            println!(
                "test {name} ... {}",
                outcome.as_ref().map_or_else(|why| format!("FAILED: {why}"), |()| "ok".into())
            );
            failed += usize::from(outcome.is_err());
            false
        });
    }
}

/// The outcome of a test, with the reason if it has failed. `None`: it still runs.
fn outcome(child: &mut Child, deadline: Instant) -> Option<Result<(), String>> {
    if let Some(status) = child.try_wait().expect("waited for") {
        return Some(if status.success() { Ok(()) } else { Err(status.to_string()) });
    }
    if Instant::now() < deadline {
        return None;
    }
    child.kill().expect("killed");
    child.wait().expect("reaped");
    Some(Err("it did not end in ten minutes".into()))
}

/// Plays a runtime with a console socket, and prints the process id.
fn on_a_terminal(socket: &Path, program: &[String]) {
    let pty = nix::pty::openpty(None, None).expect("a terminal");
    let peer = windlass_sys::socket::connect(socket).expect("connected");
    // runc connects when it starts, and sends the terminal that the container's first process has made.
    std::thread::sleep(Duration::from_millis(600));
    windlass_sys::socket::send(peer.as_fd(), b"/dev/ptmx", &[pty.master.as_fd()]).expect("sent");
    let copy = || pty.slave.try_clone().expect("a copy");
    let child = Command::new(&program[0]).args(&program[1..]).stdin(copy()).stdout(copy()).stderr(copy()).spawn();
    println!("{}", child.expect("started").id());
}
