//! A new shim for a container whose shim has died (`--keep-on-shim-death`).
//!
//! The container's init is not a child of the new shim. Its pidfd reports its end, and since Linux 6.15 its exit
//! status. Its output is in the fifos of the container's directory. Its standard input and the running execs are lost.

use nix::sched::CloneFlags;
use serde_json::{Value, json};

use super::container_dir::{ContainerConfig, ContainerDir};
use super::report::Report;
use super::wire::phase_name;
use crate::command;
use crate::refusal::{Refusal, Result};
use crate::runtime_state::RuntimeState;
use crate::{Code, NewProcess, Phase, Supervisor};
use windlass_sys::fd;
use windlass_sys::poll::Deadline;
use windlass_sys::process::{self, Exit, Forked, SingleThreaded};

/// The container, according to the runtime.
pub(super) fn runtime_state(config: &ContainerConfig) -> Option<RuntimeState> {
    let finished = command::run(&config.runtime, &config.words(&["state"]), Deadline::after(command::TIMEOUT)).ok()?;
    RuntimeState::parse(&finished.stdout)
}

/// Adopts the container and reports it.
pub(super) fn adopt(
    dir: &ContainerDir,
    config: &ContainerConfig,
    new: NewProcess,
    core: &mut Supervisor,
) -> Result<()> {
    let ended = || Refusal::new(Code::WrongPhase, "the container has ended: ask for its status, and delete it");
    if dir.exit().is_some() {
        return Err(ended());
    }
    if !config.keep {
        return Err(Refusal::new(Code::WrongPhase, "it was not made with --keep-on-shim-death: its output is lost"));
    }
    let text = fd::read_small(fd::CWD, dir.file("pid")).map_err(|_| ended())?;
    let pid: i32 = std::str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok()).ok_or_else(ended)?;
    // The pidfd is opened before the runtime is asked. The runtime compares start times, so if it still reports the
    // process id, the pidfd is init's.
    let pidfd = process::open_pid(pid).map_err(|_| ended())?;
    let state = runtime_state(config).filter(|state| state.pid == pid);
    let phase = state.and_then(|state| state.phase()).filter(|phase| *phase != Phase::Stopped).ok_or_else(ended)?;
    core.adopt(new, pid, pidfd, phase)?;
    Report::write(&json!({
        "v": 1,
        "id": config.id,
        "pid": pid,
        "shim_pid": std::process::id(),
        "socket": dir.path("shim.sock"),
        "state": phase_name(phase),
        "adopted": true,
        "guarantees": guarantees(),
    }));
    Ok(())
}

/// The abilities of a shim for an adopted container.
fn guarantees() -> Value {
    json!({"exit_reported": true, "exit_code": exit_codes_of_others(), "output": true, "stdin": false, "execs": false})
}

/// Whether the kernel reports the exit status of another's child. Tried with a child that was already reaped.
fn exit_codes_of_others() -> bool {
    let Ok(proof) = SingleThreaded::check() else { return false };
    match process::fork(CloneFlags::empty(), None, &proof) {
        Ok(Forked::Child) => process::exit_now(42),
        Ok(Forked::Parent(child)) => {
            use std::os::fd::AsFd;
            let _ = child.wait();
            process::exit_of_other(child.pidfd.as_fd()) == Ok(Some(Exit::Code(42)))
        }
        Err(_) => false,
    }
}
