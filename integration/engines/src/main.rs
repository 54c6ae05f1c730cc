//! Runs docker, containerd, podman, buildah and a CRI client on windlass and on runc, and compares.
//!
//! ```text
//! engines                    a line a case, the differences, the results   (report, results, table)
//!  ├─ host harness           one set of private namespaces ─┐
//!  └─ User-Mode Linux        one boot                      ─┴─ for each engine on each runtime:
//!      └─ runner ── Session (a daemon, a client, an image) ── cases
//! ```
//!
//! The harnesses and the kit are those of the integration suite. Cases that the host cannot run (a limit without its
//! controller) are run once more in User-Mode Linux.

mod args;
mod case;
mod cases;
#[cfg(feature = "cri")]
mod cri;
mod engine;
mod expected;
mod image;
mod report;
mod results;
mod runner;
mod session;
mod table;

use integration::harness;
use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::var_os(harness::init::WORKDIR).is_some() {
        return harness::uml::as_pid_1();
    }
    let argv: Vec<String> = std::env::args().skip(1).collect();
    let rest = argv.get(1..).unwrap_or_default();
    match argv.first().map(String::as_str) {
        Some("@host-enter") => harness::host::enter(rest),
        Some("@host-pid-1") => harness::host::as_pid_1(rest),
        Some("@runner") => runner::main(rest),
        Some("table") => table::main(rest),
        _ => report::main(&argv),
    }
}
