//! Limits of the cost of an idle `windlass-shim`. Measured on the static build of the packages.

use crate::kit::machine::{field, text};
use crate::kit::shim::{self, Shimmed};
use crate::kit::{Need, T, Verdict};
use crate::{chapter, ensure, ensure_eq};
use serde_json::json;
use std::thread::sleep;
use std::time::Duration;

chapter! { "shim_gates":
    idle_shims_are_small [Need::Slow],
    a_thousand_execs_leave_no_memory_behind [Need::Slow],
}

/// Idle instances over which means are taken.
const INSTANCES: usize = 10;

/// Kilobytes.
const PSS: u64 = 250;
const PRIVATE_DIRTY: u64 = 150;
const GROWTH: u64 = 64;

/// Descriptors of an instance, and of each process in its container.
const DESCRIPTORS: usize = 16 + 4;

/// How long an idle shim takes to free memory, and some more.
const SETTLED: Duration = Duration::from_millis(1500);

fn kilobytes(c: &Shimmed<'_>, name: &str) -> u64 {
    let rollup = text(format!("/proc/{}/smaps_rollup", c.pid()));
    field(&rollup, name).trim_end_matches(" kB").parse().unwrap_or(u64::MAX)
}

fn idle_shims_are_small(t: &T) -> Verdict {
    let bundle = t.bundle()?.args(&["/bin/sleep", "1000"]);
    let all = (0..INSTANCES).map(|_| shim::run(t, &bundle, &[])).collect::<Verdict<Vec<_>>>()?;
    sleep(SETTLED);
    let mean = |name: &str| all.iter().map(|c| kilobytes(c, name)).sum::<u64>() / INSTANCES as u64;
    let (pss, dirty) = (mean("Pss"), mean("Private_Dirty"));
    ensure!(pss <= PSS && dirty <= PRIVATE_DIRTY, "PSS {pss} kB, private dirty {dirty} kB");
    for c in &all {
        ensure_eq!(field(&text(format!("/proc/{}/status", c.pid())), "Threads"), "1", "threads");
        let open = std::fs::read_dir(format!("/proc/{}/fd", c.pid()))?.count();
        ensure!(open <= DESCRIPTORS, "{open} descriptors");
    }
    Ok(())
}

fn a_thousand_execs_leave_no_memory_behind(t: &T) -> Verdict {
    let c = shim::run(t, &t.bundle()?.args(&["/bin/sleep", "1000"]), &[])?;
    let mut client = c.connect()?;
    sleep(SETTLED);
    let before = (kilobytes(&c, "Private_Dirty"), std::fs::read_dir(format!("/proc/{}/fd", c.pid()))?.count());
    for _ in 0..1000 {
        let exec = c.exec_in(&mut client, "exit 0")?;
        client.call("wait", json!({"exec": exec}))?;
        client.call("delete", json!({"exec": exec}))?;
    }
    sleep(SETTLED);
    let after = (kilobytes(&c, "Private_Dirty"), std::fs::read_dir(format!("/proc/{}/fd", c.pid()))?.count());
    let grown = after.0.saturating_sub(before.0);
    ensure!(grown <= GROWTH, "private dirty grew by {grown} kB from {}", before.0);
    ensure_eq!(after.1, before.1, "descriptors");
    Ok(())
}
