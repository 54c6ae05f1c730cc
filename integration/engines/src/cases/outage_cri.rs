//! The log of a container while containerd is away, which writes it: more output than the shim keeps.

use super::cri::{plain, pod};
use super::outage::{Lines, PATIENCE};
use crate::case::chapter;
use crate::cri::Client;
use crate::engine::{cri_tables, restart_cri, start_containerd, tables_without_limits};
use crate::session::{Session, until_within};
use integration::kit::stop::skip;
use integration::kit::{Need, Verdict};
use integration::{ensure, ensure_eq};
use k8s_cri::v1::{ContainerState, Mount};
use nix::sys::signal::Signal;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

chapter! { [Cri] "outage":
    a_log_of_seconds_without_the_daemon_is_whole,
    a_log_of_a_minute_without_the_daemon_is_whole [Need::Slow],
}

fn a_log_of_seconds_without_the_daemon_is_whole(s: &Session) -> Verdict {
    is_whole(s, Duration::from_secs(5), 8)
}

fn a_log_of_a_minute_without_the_daemon_is_whole(s: &Session) -> Verdict {
    is_whole(s, Duration::from_secs(60), 5)
}

/// As for the other engines. Where the controllers for a container's usual limits are missing, there are none.
fn is_whole(s: &Session, absence: Duration, rate: u64) -> Verdict {
    if s.below.shim.is_none() {
        return skip("it is the engine's own shim");
    }
    let lines = Lines::during(absence, rate);
    restart_cri(s, &tables_without_limits(s)?)?;
    let found = logged(s, &lines, absence);
    restart_cri(s, &cri_tables(s)?)?;
    let expected = lines.sum(s)?;
    ensure!(!expected.is_empty(), "there is no sum");
    ensure_eq!(found?, expected, "the sum of {} lines", lines.count);
    Ok(())
}

/// The sum of what containerd has logged. Nothing is written before the daemon dies: what it has read and not logged is
/// lost.
fn logged(s: &Session, lines: &Lines, absence: Duration) -> Verdict<String> {
    let (client, pod) = pod(s, plain)?;
    let signal = s.scratch()?;
    let script = format!("until [ -e /signal/go ]; do sleep 0.05; done; {}", lines.script());
    let id = client.container(&pod, "main", &script, |config| {
        let (host_path, container_path) = (signal.display().to_string(), "/signal".to_owned());
        config.mounts = vec![Mount { host_path, container_path, readonly: true, ..Default::default() }];
    })?;
    drop(client);
    s.end_daemon(Signal::SIGKILL)?;
    std::fs::write(signal.join("go"), "")?;
    sleep(absence);
    start_containerd(s)?;
    let client = Client::connect()?;
    let status = until_within(PATIENCE, "its end", || {
        let status = client.status(&id)?;
        Ok((status.state() == ContainerState::ContainerExited).then_some(status))
    })?;
    ensure_eq!(status.exit_code, 5, "its exit code");
    let log = Path::new(&pod.config.log_directory).join("main.log");
    let log = log.display();
    // containerd tells the end of a container before it has written the last lines.
    until_within(PATIENCE, "all lines", || {
        let count = s.host_sh_within(PATIENCE, &format!("grep -c ' stdout F ' {log} || true"))?;
        Ok((count.parse::<u64>()? >= lines.count).then_some(()))
    })?;
    s.host_sh_within(PATIENCE, &format!("cut -d ' ' -f 4- {log} | sha256sum"))
}
