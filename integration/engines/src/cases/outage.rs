//! The output of a container while the daemon is away, which is more than the shim keeps.

use crate::case::chapter;
use crate::session::{Session, until_within};
use integration::kit::stop::skip;
use integration::kit::{Need, Verdict};
use integration::{ensure, ensure_eq};
use nix::sys::signal::Signal;
use std::thread::sleep;
use std::time::Duration;

chapter! { [Docker] "outage":
    output_of_seconds_without_the_daemon_is_whole,
    output_of_a_minute_without_the_daemon_is_whole [Need::Slow],
}

/// Bytes of a line: a number, a blank, padding, and a newline.
const LINE: u64 = 4096;

fn output_of_seconds_without_the_daemon_is_whole(s: &Session) -> Verdict {
    is_whole(s, Duration::from_secs(5), 8)
}

fn output_of_a_minute_without_the_daemon_is_whole(s: &Session) -> Verdict {
    is_whole(s, Duration::from_secs(60), 5)
}

/// A container writes `rate` MiB a second before, during and after an absence of the daemon. The container may have to
/// wait, and no line is lost.
fn is_whole(s: &Session, absence: Duration, rate: u64) -> Verdict {
    if s.below.shim.is_none() {
        return skip("it is the engine's own shim");
    }
    let lines = (absence.as_secs() + 4) * rate * (1 << 20) / LINE;
    let tenth = rate * (1 << 20) / LINE / 10;
    let write =
        "awk -v from=$i -v to=$to -v pad=$pad 'BEGIN { for (i = from; i < to; i++) printf \"%9d %s\\n\", i, pad }'";
    let script = format!(
        "pad=$(head -c {} /dev/zero | tr '\\0' x); i=0; while [ $i -lt {lines} ]; do to=$((i + {tenth})); \
         [ $to -lt {lines} ] || to={lines}; {write}; i=$to; sleep 0.1; done; exit 5",
        LINE - 11
    );
    let name = s.up("", &script)?;
    sleep(Duration::from_secs(1));
    s.end_daemon(Signal::SIGKILL)?;
    sleep(absence);
    crate::engine::start_dockerd(s, &[])?;
    until_within(Duration::from_secs(240), "its end", || {
        Ok(s.inspect(&name, "{{.State.Status}} {{.State.ExitCode}}")?.starts_with("exited 5").then_some(()))
    })?;
    let sums = s.host_sh(&format!(
        "docker --host unix://{} logs {name} | sha256sum; pad=$(head -c {} /dev/zero | tr '\\0' x); \
         awk -v to={lines} -v pad=$pad 'BEGIN {{ for (i = 0; i < to; i++) printf \"%9d %s\\n\", i, pad }}' | sha256sum",
        crate::engine::DOCKER_SOCKET,
        LINE - 11
    ))?;
    let sums = sums.ok()?.stdout;
    let mut sums = sums.lines();
    let (found, expected) = (sums.next().unwrap_or_default(), sums.next().unwrap_or_default());
    ensure!(!expected.is_empty(), "there is no sum");
    ensure_eq!(found, expected, "the sum of {lines} lines");
    s.ok(&format!("rm {name}")).map(drop)
}
