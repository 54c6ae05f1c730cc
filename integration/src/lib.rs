//! Runs real containers as root, on windlass and on its peers, and compares.
//!
//! ```text
//! integration            prints results, asks for harnesses          (report, args)
//!  ├─ harness::host      private namespaces, cgroup2 only  ─┐
//!  └─ harness::uml       a User-Mode Linux kernel          ─┴─ PID 1 (harness::init)
//!                                                               └─ runner: one process a case
//!                                                                   └─ cases::*  through kit::*
//! ```
//!
//! A case that the host cannot run (a controller or capability is missing) is deferred to the User-Mode Linux harness;
//! a case that no harness can run is reported as skipped, with the reason.
//!
//! The harnesses and the kit serve the suite of engines too (`engines/`).

mod args;
mod bench;
mod cases;
mod census;
pub mod event;
mod expected;
mod fake_criu;
pub mod harness;
pub mod kit;
mod payload;
mod progress;
mod report;
mod runner;
#[cfg_attr(not(target_arch = "x86_64"), path = "no_sweep.rs")]
mod sweep;
// Without the sweep, the functions that only it calls are unused.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
mod sys;
mod without;

use std::process::ExitCode;

/// The program: the command for the user, and each of its own processes.
pub fn main() -> ExitCode {
    if std::env::var_os(harness::init::WORKDIR).is_some() {
        return harness::uml::as_pid_1();
    }
    let argv: Vec<String> = std::env::args().skip(1).collect();
    let rest = argv.get(1..).unwrap_or_default();
    match argv.first().map(String::as_str) {
        Some("@host-enter") => harness::host::enter(rest),
        Some("@host-pid-1") => harness::host::as_pid_1(rest),
        Some("@runner") if rest.first().is_some_and(|word| word == "@sweep") => sweep::worker::main(rest),
        Some("@runner") if rest.first().is_some_and(|word| word == "@peers") => sweep::peers::main(rest),
        Some("@runner") => runner::main(rest),
        Some("@case") => runner::case_main(rest),
        Some("@payload") => payload::main(rest),
        Some("@criu") => fake_criu::main(rest),
        _ => report::main(&argv),
    }
}
