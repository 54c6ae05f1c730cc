//! Answers about a container whose shim is dead, from its records, and its deletion.
//!
//! A container is not killed when its shim is. PR_SET_PDEATHSIG cannot do that, because the container's parent at the
//! fork was the runtime. An end that the shim has recorded is reported. Otherwise `shim_lost` is reported, and `delete`
//! kills the container.

use std::os::fd::OwnedFd;
use std::path::Path;

use serde_json::{Value, json};

use super::adopt::runtime_state;
use super::container_dir::{ContainerConfig, ContainerDir};
use super::event_log::{EventLog, Marks};
use super::wire::{event_members, exit_members, lost_exit, phase_name};
use crate::command;
use crate::exit::Record;
use crate::gone;
use crate::refusal::{Refusal, Result};
use crate::runtime_state::RuntimeState;
use crate::{Code, Phase, ProcessId};
use windlass_sys::fd;
use windlass_sys::poll::Deadline;

/// The answer to `status`, with the members of a living shim's answer and `shim_lost`.
pub(super) fn status(dir: &ContainerDir) -> Result<Value> {
    let config = dir.config()?;
    let (exit, state) = end_or_state(dir, &config);
    let (phase, pid) = match (&exit, &state) {
        (Some(record), _) => (Phase::Stopped, record.pid),
        (None, Some(state)) => state.phase().map_or((Phase::Stopped, 0), |phase| (phase, state.pid)),
        (None, None) => (Phase::Stopped, 0),
    };
    let marks = Marks::read(&dir.file("events.log"))?;
    Ok(json!({
        "id": config.id,
        "state": phase_name(phase),
        "pid": pid,
        "shim_pid": 0,
        "exit": exit.as_ref().map(ended),
        "bundle": config.bundle,
        "tty": config.tty,
        "logs": config.logs,
        "dropped_bytes": exit.as_ref().map_or(0, |record| record.dropped_bytes),
        "unsent_bytes": exit.as_ref().map_or(0, |record| record.unsent_bytes),
        "execs": [],
        "last_event": marks.last,
        "acknowledged": marks.acknowledged,
        "shim_lost": exit.is_none(),
    }))
}

/// The record of the end, or else the runtime's state. If only the runtime knows how the container ended, because the
/// kernel has kept that, the record is written now.
fn end_or_state(dir: &ContainerDir, config: &ContainerConfig) -> (Option<Record>, Option<RuntimeState>) {
    if let Some(record) = dir.exit() {
        return (Some(record), None);
    }
    let state = runtime_state(config);
    let Some(end) = state.as_ref().and_then(RuntimeState::end) else { return (None, state) };
    let record = Record::of(&ProcessId::init(&config.id), pid(dir).unwrap_or(0), &end, (0, 0));
    // Best effort: without this record, the next command asks the runtime again. A new shim writes its own.
    if let Ok(Some(_lock)) = dir.lock() {
        let _ = record.write(&dir.file("exit.json"));
    }
    (Some(record), state)
}

/// The process id of init, if it was started.
fn pid(dir: &ContainerDir) -> Option<i32> {
    number(&dir.file("pid"))
}

/// The process id that the runtime has written there.
fn number(file: &Path) -> Option<i32> {
    let text = fd::document(file).ok()?;
    String::from_utf8(text).ok()?.trim().parse().ok()
}

fn ended(record: &Record) -> Value {
    exit_members(&record.status())
}

/// The answer to `wait` for init.
pub(super) fn exit(dir: &ContainerDir) -> Result<Value> {
    // A container that never existed is another error.
    let end =
        dir.exit().map_or_else(|| dir.config().map(|config| end_or_state(dir, &config).0), |end| Ok(Some(end)))?;
    let lost = || Refusal::new(Code::NotFound, "the shim was lost before it had recorded an end");
    end.map(|record| ended(&record)).ok_or_else(lost)
}

/// The answer to `wait` for an exec.
pub(super) fn exit_of_exec(dir: &ContainerDir, exec: &str) -> Result<Value> {
    windlass_base::id::check_id(exec).map_err(|error| Refusal::new(Code::Invalid, error.to_string()))?;
    let record = Record::read(&dir.exec_file(exec, "exit.json")).filter(|record| is_of_last(dir, exec, record.pid));
    match record {
        Some(record) => Ok(ended(&record)),
        None => {
            dir.config()?;
            Err(Refusal::new(Code::NotFound, format!("the shim was lost, and has no record of exec {exec:?}")))
        }
    }
}

/// Whether this is the process id of the last exec of this name. Below an adopted container, the shim of before may
/// have recorded the end of an earlier one, and a child of it may do so late.
fn is_of_last(dir: &ContainerDir, exec: &str, pid: i32) -> bool {
    match number(&dir.exec_file(exec, "pid")) {
        Some(last) => last == pid,
        None => !dir.exec_file(exec, "process.json").exists(),
    }
}

/// Takes the lock for a change, because another shim may adopt the container at any time.
fn lock(dir: &ContainerDir) -> Result<OwnedFd> {
    dir.lock_soon()?.ok_or_else(|| Refusal::new(Code::WrongPhase, "a shim serves this container"))
}

/// The recorded events. The exit is added if the shim died between writing the exit record and the event.
pub(super) fn event_log(dir: &ContainerDir) -> Result<EventLog> {
    // Before the lock, because this call takes the lock itself.
    let _ = dir.config().map(|config| end_or_state(dir, &config));
    let lock = lock(dir)?;
    let mut event_log = EventLog::open(dir.file("events.log"))?;
    if let Some(record) = dir.exit().filter(|_| !event_log.has("exited")) {
        let mut members = ended(&record);
        members["pid"] = record.pid.into();
        event_log.append(&event_members("exited", &record.id, None, &members));
    }
    drop(lock);
    Ok(event_log)
}

/// Acknowledges all events up to `event`.
pub(super) fn acknowledge(dir: &ContainerDir, event: u64) -> Result<()> {
    let _lock = lock(dir)?;
    EventLog::open(dir.file("events.log"))?.acknowledge(event);
    Ok(())
}

/// Removes the container. `force` is needed only for a running one that was created with --keep-on-shim-death.
pub(super) fn delete(dir: &ContainerDir, force: bool) -> Result<Value> {
    let _lock = match lock(dir) {
        Ok(lock) => lock,
        Err(refusal) if refusal.code == Code::NotFound && dir.remove_rest() => {
            return Ok(json!({"pid": 0, "exit": null, "shim_lost": true}));
        }
        Err(refusal) => return Err(refusal),
    };
    let config = match dir.config() {
        Err(refusal) if refusal.code == Code::NotFound && dir.as_path().is_dir() => {
            // `run` was killed before it had written anything.
            dir.remove();
            return Ok(json!({"pid": 0, "exit": null, "shim_lost": true}));
        }
        other => other?,
    };
    let (record, state) = end_or_state(dir, &config);
    let runs = state.filter(|state| state.phase().is_some_and(|phase| phase != Phase::Stopped));
    if record.is_none() && config.keep && runs.is_some() && !force {
        return Err(Refusal::new(
            Code::WrongPhase,
            "the container outlived its shim and runs: adopt it, or use --force",
        ));
    }
    let removed = remove_from_runtime(&config);
    // The runtime's binary may be gone. It is not needed if the container was never created or has ended.
    if removed.is_err() && !(force && !config.runtime.exists() && is_nothing_left(dir)) {
        removed?;
    }
    let exit = record.as_ref().map_or_else(|| lost_exit(runs.is_some()), ended);
    let pid = record.as_ref().map(|record| record.pid).or(runs.map(|state| state.pid));
    dir.remove();
    Ok(json!({"pid": pid.unwrap_or(0), "exit": exit, "shim_lost": record.is_none()}))
}

/// Whether init was never started or has ended, according to its files.
fn is_nothing_left(dir: &ContainerDir) -> bool {
    dir.exit().is_some() || pid(dir).is_none_or(|pid| windlass_sys::process::open_pid(pid).is_err())
}

/// Kills the container and deletes it by the runtime.
fn remove_from_runtime(config: &ContainerConfig) -> Result<()> {
    let words = config.words(&["delete", "--force"]);
    let finished = command::run(&config.runtime, &words, Deadline::after(command::TIMEOUT))?;
    let text = finished.message();
    // If the container does not exist, it is gone too.
    match finished.success() || gone::is_container(&text) {
        true => Ok(()),
        false => Err(Refusal::new(Code::Runtime, text)),
    }
}
