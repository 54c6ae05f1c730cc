//! The output of a container while the daemon is away, which is more than the shim keeps.

use super::containerd::{run, status};
use crate::case::chapter;
use crate::engine::{CONTAINERD_SOCKET, DOCKER_SOCKET, Engine, start_containerd, start_dockerd};
use crate::session::{Session, until, until_within};
use integration::kit::stop::skip;
use integration::kit::{Need, Verdict};
use integration::{ensure, ensure_eq};
use nix::sys::signal::Signal;
use std::thread::sleep;
use std::time::Duration;

chapter! { [Docker, Containerd] "outage":
    output_of_seconds_without_the_daemon_is_whole,
    output_of_a_minute_without_the_daemon_is_whole [Need::Slow],
}

/// Bytes of a line: a number, a blank, padding, and a newline.
const LINE: u64 = 4096;

/// How long it may take to write and to read some hundred MiB on a busy machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(600);

/// What a container writes.
pub(super) struct Lines {
    pub(super) count: u64,
    /// MiB a second.
    rate: u64,
}

impl Lines {
    /// `rate` MiB a second during an absence of the daemon, and for some seconds after it.
    pub(super) fn during(absence: Duration, rate: u64) -> Lines {
        Lines { count: (absence.as_secs() + 4) * rate * (1 << 20) / LINE, rate }
    }

    /// A script that prints the lines from `$i` to before `$to`.
    fn print() -> String {
        format!(
            "pad=$(head -c {} /dev/zero | tr '\\0' x); lines() {{ awk -v from=$i -v to=$to -v pad=$pad \
             'BEGIN {{ for (i = from; i < to; i++) printf \"%9d %s\\n\", i, pad }}'; }}",
            LINE - 11
        )
    }

    /// The container's script.
    pub(super) fn script(&self) -> String {
        let Lines { count, rate } = self;
        let tenth = rate * (1 << 20) / LINE / 10;
        format!(
            "{}; i=0; while [ $i -lt {count} ]; do to=$((i + {tenth})); [ $to -lt {count} ] || to={count}; lines; i=$to; \
             sleep 0.1; done; exit 5",
            Lines::print()
        )
    }

    /// The sum of all of them.
    pub(super) fn sum(&self, s: &Session) -> Verdict<String> {
        s.host_sh_within(PATIENCE, &format!("{}; i=0 to={}; lines | sha256sum", Lines::print(), self.count))
    }
}

fn output_of_seconds_without_the_daemon_is_whole(s: &Session) -> Verdict {
    is_whole(s, Duration::from_secs(5), 8)
}

fn output_of_a_minute_without_the_daemon_is_whole(s: &Session) -> Verdict {
    is_whole(s, Duration::from_secs(60), 5)
}

/// A container writes `rate` MiB a second during an absence of the daemon and after it. The container may have to wait,
/// and no line is lost.
fn is_whole(s: &Session, absence: Duration, rate: u64) -> Verdict {
    if s.below.shim.is_none() {
        return skip("it is the engine's own shim");
    }
    let lines = Lines::during(absence, rate);
    let found = match s.engine {
        Engine::Containerd => below_containerd(s, &lines, absence)?,
        _ => below_docker(s, &lines, absence)?,
    };
    let expected = lines.sum(s)?;
    ensure!(!expected.is_empty(), "there is no sum");
    ensure_eq!(found, expected, "the sum of {} lines", lines.count);
    Ok(())
}

/// The sum of what dockerd has, which reads the output.
fn below_docker(s: &Session, lines: &Lines, absence: Duration) -> Verdict<String> {
    let name = s.up("", &lines.script())?;
    sleep(Duration::from_secs(1));
    s.end_daemon(Signal::SIGKILL)?;
    sleep(absence);
    start_dockerd(s, &[])?;
    until_within(PATIENCE, "its end", || {
        Ok(s.inspect(&name, "{{.State.Status}} {{.State.ExitCode}}")?.starts_with("exited 5").then_some(()))
    })?;
    let sum = s.host_sh_within(PATIENCE, &format!("docker --host unix://{DOCKER_SOCKET} logs {name} | sha256sum"))?;
    s.ok(&format!("rm {name}"))?;
    Ok(sum)
}

/// The sum of what a client of containerd gets, which reads the output. The client before it has died with the daemon,
/// before anything was written: what a client that is killed has read is lost.
fn below_containerd(s: &Session, lines: &Lines, absence: Duration) -> Verdict<String> {
    let (id, signal) = (s.name(), s.scratch()?);
    let mount = format!("--mount type=bind,src={},dst=/signal,options=rbind:ro", signal.display());
    let mut command = s.command(&run(s, &mount, &id, "sh -c"));
    command.arg(format!("until [ -e /signal/go ]; do sleep 0.05; done; {}", lines.script()));
    let client = s.background(command)?;
    until("a task that runs", || Ok((status(s, &id)? == "RUNNING").then_some(())))?;
    drop(client);
    s.end_daemon(Signal::SIGKILL)?;
    std::fs::write(signal.join("go"), "")?;
    sleep(absence);
    start_containerd(s)?;
    ensure_eq!(status(s, &id)?, "RUNNING", "the task afterwards");
    let said = s.path("attached");
    let sum = s.host_sh_within(
        PATIENCE,
        &format!("{{ ctr --address {CONTAINERD_SOCKET} tasks attach {id}; echo $? >{}; }} | sha256sum", said.display()),
    )?;
    ensure_eq!(std::fs::read_to_string(said)?.trim(), "5", "the exit code that the client passes on");
    s.ok(&format!("containers rm {id}"))?;
    Ok(sum)
}
