//! The parts that the tests of shims share.

use std::fs;
use std::time::{Duration, Instant};

/// A runtime that is a shell script.
pub const RUNTIME: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/fake-runtime.sh");

/// A process that runs until it is told to end.
pub const FOREVER: &str = "trap 'exit 3' TERM\nwhile :; do sleep 0.02; done\n";

pub fn kill(pid: i32, signal: i32) {
    let signal = nix::sys::signal::Signal::try_from(signal).expect("a signal");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).expect("killed");
}

pub fn alive(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

pub fn until(mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(120);
    while !done() {
        assert!(Instant::now() < end, "it did not come to pass");
        std::thread::sleep(Duration::from_millis(10));
    }
}
