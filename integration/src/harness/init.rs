//! PID 1 of a harness: starts the runner and reaps whatever is orphaned.
//!
//! Containers outlive the command that created them, so their init becomes a
//! child of PID 1. The runner cannot be PID 1 itself: it waits for commands by
//! their pid, and a reaper waits for any.

use crate::without::Without;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use std::process::{Command, Stdio};

/// The kernel parameter with the work directory of a User-Mode Linux harness. The kernel passes it to init as an
/// environment variable.
pub const WORKDIR: &str = "WINDLASS_INTEGRATION_UML";

/// Set for the runner and its cases if the kernel is the harness's own, so that all its counters are the cases'.
pub const OWN_KERNEL: &str = "WINDLASS_INTEGRATION_OWN_KERNEL";

/// Starts the runner with `words`, reaps until it ends, returns its exit code.
pub fn supervise(words: &[String], stdout: Stdio) -> i32 {
    let mut runner = Command::new("/proc/self/exe");
    if std::env::var_os(WORKDIR).is_some() {
        runner.env(OWN_KERNEL, "1");
    }
    if let Some(without) = Without::asked_for(words) {
        without.apply(&mut runner);
    }
    let runner = runner
        .arg("@runner")
        .args(words)
        .env_remove(WORKDIR)
        // The kernel starts its init without a PATH.
        .env(
            "PATH",
            std::env::var("PATH")
                .unwrap_or_else(|_| "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
        )
        .stdin(Stdio::null())
        .stdout(stdout)
        .spawn();
    let runner = match runner {
        Ok(child) => Pid::from_raw(child.id().cast_signed()),
        Err(error) => {
            eprintln!("cannot start the runner: {error}");
            return 125;
        }
    };
    loop {
        match waitpid(None::<Pid>, None) {
            Ok(WaitStatus::Exited(pid, code)) if pid == runner => return code,
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == runner => {
                return 128 + signal as i32;
            }
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(_) => return 125,
        }
    }
}
