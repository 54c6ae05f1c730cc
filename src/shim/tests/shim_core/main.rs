//! The supervisor of the shim with a runtime that is a shell script: no privileges, no protocol.
//!
//! A supervisor takes its process's signals and reaps its children, so each test has its own process.
//! `shim_core NAME...` runs the tests whose names contain one of the words; with `--nocapture`, what they say is shown
//! at once.

/// Tests with their names.
macro_rules! tests {
    ($($name:ident),* $(,)?) => { &[$((stringify!($name), $name)),*] };
}

mod harness;
mod life;
mod rig;
mod spool;
mod stdio;

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use harness::{ALONE, Wishes};

type Test = (&'static str, fn());

/// Before a program: it is started on a terminal, whose other end goes to the socket named first.
const TERMINAL: &str = "--terminal";

/// Before a program: it is started and its process id written to the file named first. A shell would reap a program
/// that ends at once.
const DETACHED: &str = "--detached";

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
    let names: Vec<_> = tests().map(|(name, _)| *name).collect();
    if harness::run(&names, &Wishes::of(words)) { ExitCode::SUCCESS } else { ExitCode::from(harness::FAILED) }
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
