//! The front end in the process of the simulation.

use std::path::Path;

use super::container_dir::{ContainerConfig, ContainerDir, VERSION};
use super::event_log::Marks;
use super::front::NeutralFront;
use crate::{Phase, Refusal, Supervisor};
use windlass_sys::process;

/// The arguments of a simulated `run`.
pub(crate) struct RunRequest {
    pub(crate) terminal: bool,
    pub(crate) keep: bool,
    pub(crate) create_only: bool,
    pub(crate) kill_on_exit: bool,
    pub(crate) stdin: bool,
    pub(crate) log: String,
}

const ID: &str = "c";

/// Begins as `run` does: makes the container's directory below `state`, and its front end.
pub(crate) fn begin(state: &Path, wanted: RunRequest, core: &mut Supervisor) -> Result<NeutralFront, Refusal> {
    let dir = ContainerDir::of(state, ID)?;
    dir.make()?;
    dir.write_config(&ContainerConfig {
        v: VERSION,
        id: ID.into(),
        bundle: state.into(),
        runtime: "/runtime".into(),
        tty: wanted.terminal,
        stdin: wanted.stdin,
        logs: vec![wanted.log],
        drain_ms: 10_000,
        keep: wanted.keep,
        create_only: wanted.create_only,
        kill_on_exit: wanted.kill_on_exit,
        ..ContainerConfig::default()
    })?;
    let dir = dir.enter()?;
    let begun = NeutralFront::new(dir.clone(), false, core).and_then(|mut front| front.begin(core).map(|()| front));
    begun.inspect_err(|_| dir.remove())
}

/// Whether the container outlives its shim.
pub(crate) fn keeps(state: &Path) -> bool {
    ContainerDir::of(state, ID).and_then(|dir| dir.config()).is_ok_and(|config| config.keep)
}

/// The number of the last event.
pub(crate) fn last_event(state: &Path) -> u64 {
    Marks::read(&state.join(ID).join("events.log")).map_or(0, |marks| marks.last)
}

/// Adopts as `adopt` does, but without asking a runtime, which is not a program here.
pub(crate) fn adopt(state: &Path, pid: i32, phase: Phase, core: &mut Supervisor) -> Result<NeutralFront, Refusal> {
    let mut front = NeutralFront::new(ContainerDir::of(state, ID)?.enter()?, true, core)?;
    let new = front.open(core)?;
    core.adopt(new, pid, process::open_pid(pid)?, phase)?;
    Ok(front)
}
