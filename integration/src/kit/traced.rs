//! strace(1) on a running process.

use super::machine::{field, text};
use super::stop::{Verdict, skip};
use super::wait::eventually;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// strace attached to a process. Dropping it detaches.
pub struct Traced(Child);

impl Traced {
    /// Attaches to the process; the calls are written to `file`. `words` are further options. Without strace the case
    /// is skipped.
    pub fn start(pid: i32, file: &Path, words: &[&str]) -> Verdict<Traced> {
        let mut strace = Command::new("strace");
        strace.args(["-p", &pid.to_string(), "-o"]).arg(file).args(words).stdin(Stdio::null()).stderr(Stdio::null());
        let Ok(strace) = strace.spawn() else { return skip("strace is not installed") };
        let traced = Traced(strace);
        let attached = || field(&text(format!("/proc/{pid}/status")), "TracerPid") != "0";
        eventually("strace has attached", || attached().then_some(()))?;
        Ok(traced)
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        // strace writes its buffer when it is interrupted.
        let _ = kill(Pid::from_raw(self.0.id() as i32), Signal::SIGINT);
        let _ = self.0.wait();
    }
}
