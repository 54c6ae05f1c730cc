//! How long systemd itself takes for a scope: the floor below every runtime with `--systemd-cgroup`.
//!
//! `scope COUNT [BUNDLE]`: connects, has a scope started around a sleeping child, waits for the job,
//! and stops it again; COUNT times. Its properties are the slice alone, or those that a container of
//! the bundle has. Prints the least and the middle of the times, in microseconds.

use std::time::Instant;

use windlass::cgroup::Systemd;
use windlass::error::{Doing, Result};
use windlass::plan::unit::{Property, Unit};
use windlass::plan::{Host, Options};
use windlass::spec::Spec;
use windlass::sys::process::{self, Forked, SingleThreaded};

fn main() -> Result<()> {
    let count: u32 = std::env::args().nth(1).and_then(|count| count.parse().ok()).unwrap_or(50);
    let proof = SingleThreaded::check()?;
    let properties = match std::env::args().nth(2) {
        Some(bundle) => of_bundle(&bundle)?,
        None => Vec::new(),
    };
    let (mut starts, mut stops) = (Vec::new(), Vec::new());
    for number in 0..count {
        let child = match process::fork(nix::sched::CloneFlags::empty(), None, &proof)? {
            Forked::Parent(child) => child,
            Forked::Child => loop {
                nix::unistd::pause();
            },
        };
        let name = format!("bare-{}-{number}.scope", std::process::id());
        let unit = Unit { name, slice: "system.slice".into(), user: false, properties: properties.clone() };
        let begun = Instant::now();
        let mut systemd = Systemd::connect(false)?;
        let serial = systemd.begin(&unit, &child)?;
        systemd.finish(serial, &unit)?;
        starts.push(begun.elapsed().as_micros());
        child.kill();
        child.wait()?;
        let begun = Instant::now();
        Systemd::connect(false)?.stop(&unit.name)?;
        stops.push(begun.elapsed().as_micros());
    }
    for (what, times) in [("start", &mut starts), ("stop", &mut stops)] {
        times.sort_unstable();
        println!("{what}: least {} us, middle {} us", times[0], times[times.len() / 2]);
    }
    Ok(())
}

/// The properties of the scope of a container.
fn of_bundle(bundle: &str) -> Result<Vec<Property>> {
    let text = std::fs::read(format!("{bundle}/config.json")).doing(|| "cannot read config.json")?;
    let spec: Spec = windlass::spec::parse(&text, "config.json")?;
    let host = Host { capabilities: u64::MAX, ..Host::default() };
    let systemd = Some(windlass::plan::unit::Systemd { user: false, prefix: "bare" });
    let plan = windlass::plan::create("bare", &spec, &Options { host, systemd, ..Options::default() })?;
    Ok(plan.unit.map(|unit| unit.properties).unwrap_or_default())
}
