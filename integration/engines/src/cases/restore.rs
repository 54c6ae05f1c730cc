//! Containers outlive their daemon.

use super::network::{answers, server};
use crate::case::chapter;
use crate::engine::start_dockerd;
use crate::session::{Session, until};
use integration::kit::Verdict;
use integration::kit::stop::Context;
use integration::{ensure, ensure_eq};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::Path;

chapter! { [Docker] "live_restore":
    containers_outlive_a_stop_of_the_daemon,
    containers_outlive_a_kill_of_the_daemon,
    containers_outlive_a_daemon_that_comes_back_with_other_flags,
}

fn containers_outlive_a_stop_of_the_daemon(s: &Session) -> Verdict {
    survive(s, Signal::SIGTERM, &[])
}

fn containers_outlive_a_kill_of_the_daemon(s: &Session) -> Verdict {
    survive(s, Signal::SIGKILL, &[])
}

fn containers_outlive_a_daemon_that_comes_back_with_other_flags(s: &Session) -> Verdict {
    survive(s, Signal::SIGTERM, &["--debug", "--max-concurrent-downloads", "1", "--label", "upgraded=yes"])?;
    ensure!(s.ok("info")?.contains("upgraded=yes"), "the daemon runs without its new flags");
    s.end_daemon(Signal::SIGTERM)?;
    start_dockerd(s, &[])
}

/// Ends the daemon, looks at its containers, starts it with `options`, and looks again.
fn survive(s: &Session, signal: Signal, options: &[&str]) -> Verdict {
    let web = server(s, "-p 18090:80")?;
    let ticker = s.up("", "i=0; while :; do i=$((i + 1)); echo $i; sleep 0.05; done")?;
    let ends = s.up("", "sleep 1.5; exit 42")?;
    let killed = s.up("", "exec sleep 1000")?;
    let pid = |name: &str| s.inspect(name, "{{.State.Pid}}");
    let (web_pid, ends_pid, killed_pid) = (pid(&web)?, pid(&ends)?, pid(&killed)?);
    let place = "{{.NetworkSettings.IPAddress}} {{.NetworkSettings.Gateway}}";
    let networks = s.inspect(&web, place)?;
    let (address, gateway) = networks.split_once(' ').unwrap_or_default();

    s.end_daemon(signal)?;
    answers(s, address)?;
    // The daemon's proxy, which serves the loopback, may be gone; the kernel's rules are not.
    answers(s, &format!("{gateway}:18090"))?;
    kill(Pid::from_raw(killed_pid.parse()?), Signal::SIGKILL).context("kill a container")?;
    let gone = |pid: &str| !Path::new("/proc").join(pid).exists();
    until("the end of what ends meanwhile", || Ok((gone(&ends_pid) && gone(&killed_pid)).then_some(())))?;

    start_dockerd(s, options)?;
    ensure_eq!(pid(&web)?, web_pid, "the process of the server");
    answers(s, "127.0.0.1:18090")?;
    s.ok(&format!("exec {web} true"))?;
    for (name, expected) in [(&ends, "exited 42"), (&killed, "exited 137")] {
        ensure_eq!(s.inspect(name, "{{.State.Status}} {{.State.ExitCode}}")?, expected, "what ended meanwhile");
    }
    let count = || Ok::<_, integration::kit::Stop>(s.ok(&format!("logs {ticker}"))?.lines().count());
    let before = count()?;
    until("a log that grows", || Ok((count()? > before + 3).then_some(())))?;
    s.ok(&format!("stop -t 0 {ticker}"))?;
    let logs = s.ok(&format!("logs {ticker}"))?;
    let numbers: Vec<usize> = logs.lines().filter_map(|line| line.parse().ok()).collect();
    ensure!(numbers.is_sorted_by(|before, after| before < after), "the log repeats or mixes lines: {numbers:?}");
    // The lines that the daemon had read and not written were lost with it.
    let lost = numbers.last().copied().unwrap_or(0) - numbers.len();
    ensure!(lost <= 3, "{lost} lines are lost: {numbers:?}");
    s.ok(&format!("restart {web}"))?;
    answers(s, "127.0.0.1:18090")?;
    s.ok(&format!("rm -f {web}")).map(drop)
}
