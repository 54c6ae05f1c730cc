//! ClientRequest can still be said of, and done to, a container whose shim is dead.
//!
//! Nothing kills a container when its shim is killed: the kernel ties a process's life to that
//! of its parent only at the moment of a fork, and the parent then was the runtime. ClientRequest the
//! shim had recorded is told; what it had not is told as lost; and `delete` kills what is left.

use std::os::fd::OwnedFd;

use serde_json::{Value, json};

use super::adopt::runtime_state;
use super::container_dir::{ContainerDir, Facts};
use super::journal::{Journal, Marks};
use super::wire::{Ended, event_members, phase_name};
use crate::Code;
use crate::Phase;
use crate::Refusal;
use crate::command;
use crate::exit::Record;
use windlass_sys::fd;
use windlass_sys::poll::Deadline;

type Result<T> = std::result::Result<T, Refusal>;

/// The status, in the members of a living shim's, and `shim_lost`.
pub fn status(dir: &ContainerDir) -> Result<Value> {
    let facts = dir.facts()?;
    let exit = dir.exit();
    let (phase, pid) = match &exit {
        Some(record) => (Phase::Stopped, record.pid),
        None => runtime_state(&facts).unwrap_or((Phase::Stopped, 0)),
    };
    let marks = Marks::read(&dir.file("events.log"))?;
    Ok(json!({
        "id": facts.id,
        "state": phase_name(phase),
        "pid": pid,
        "shim_pid": 0,
        "exit": exit.as_ref().map(ended),
        "bundle": facts.bundle,
        "tty": facts.tty,
        "logs": facts.logs,
        "dropped_bytes": exit.as_ref().map_or(0, |record| record.dropped_bytes),
        "execs": [],
        "last_event": marks.last,
        "acknowledged": marks.acknowledged,
        "shim_lost": exit.is_none(),
    }))
}

fn ended(record: &Record) -> Ended {
    Ended::of(&record.status())
}

/// How it ended, for `wait`.
pub fn exit(dir: &ContainerDir) -> Result<Value> {
    match dir.exit() {
        Some(record) => Ok(json!(ended(&record))),
        None => {
            // A container that never existed is an error, also with force.
            dir.facts()?;
            Err(Refusal::new(Code::NotFound, "the shim was lost before it had recorded an end"))
        }
    }
}

/// How an exec ended.
pub fn exit_of_exec(dir: &ContainerDir, exec: &str) -> Result<Value> {
    windlass_base::id::check_id(exec).map_err(|error| Refusal::new(Code::Invalid, error.to_string()))?;
    match Record::read(&dir.exec_file(exec, "exit.json")) {
        Some(record) => Ok(json!(ended(&record))),
        None => {
            dir.facts()?;
            Err(Refusal::new(Code::NotFound, format!("the shim was lost, and has no record of exec {exec:?}")))
        }
    }
}

/// Who changes something needs the lock: another shim may adopt the container at any time.
fn lock(dir: &ContainerDir) -> Result<OwnedFd> {
    dir.lock_soon()?.ok_or_else(|| Refusal::new(Code::WrongPhase, "a shim serves this container"))
}

/// Its events, to be read: those that were recorded, and the exit, if the shim died between writing its
/// record and numbering the event.
pub fn journal(dir: &ContainerDir) -> Result<Journal> {
    let lock = lock(dir)?;
    let mut journal = Journal::open(dir.file("events.log"))?;
    if let Some(record) = dir.exit().filter(|_| !journal.has("exited")) {
        let mut members = json!(ended(&record));
        members["pid"] = record.pid.into();
        journal.append(&event_members("exited", &record.id, None, &members));
    }
    drop(lock);
    Ok(journal)
}

/// Everything up to `event` need not be told again.
pub fn acknowledge(dir: &ContainerDir, event: u64) -> Result<()> {
    let _lock = lock(dir)?;
    Journal::open(dir.file("events.log"))?.acknowledge(event);
    Ok(())
}

/// Removes everything. `force` is needed only where the container was to outlive its shim.
pub fn delete(dir: &ContainerDir, force: bool) -> Result<Value> {
    let _lock = match lock(dir) {
        Ok(lock) => lock,
        Err(refusal) if refusal.code == Code::NotFound && dir.remove_rest() => {
            return Ok(json!({"pid": 0, "exit": null, "shim_lost": true}));
        }
        Err(refusal) => return Err(refusal),
    };
    let facts = match dir.facts() {
        Err(refusal) if refusal.code == Code::NotFound && dir.as_path().is_dir() => {
            // A run that was killed before it had written anything.
            dir.remove();
            return Ok(json!({"pid": 0, "exit": null, "shim_lost": true}));
        }
        other => other?,
    };
    let record = dir.exit();
    let runs = runtime_state(&facts).filter(|(phase, _)| *phase != Phase::Stopped);
    if record.is_none() && facts.keep && runs.is_some() && !force {
        return Err(Refusal::new(
            Code::WrongPhase,
            "the container outlived its shim and runs: adopt it, or use --force",
        ));
    }
    let removed = remove_from_runtime(&facts);
    // A runtime that is gone cannot be asked. It need not be, if the container was never made or has ended.
    if removed.is_err() && !(force && !facts.runtime.exists() && is_nothing_left(dir)) {
        removed?;
    }
    let exit = record.as_ref().map_or_else(|| Ended::lost(runs.is_some()), ended);
    let pid = record.as_ref().map(|record| record.pid).or(runs.map(|(_, pid)| pid));
    dir.remove();
    Ok(json!({"pid": pid.unwrap_or(0), "exit": exit, "shim_lost": record.is_none()}))
}

/// Whether no process of the container is there, as far as can be told without its runtime.
fn is_nothing_left(dir: &ContainerDir) -> bool {
    let pid = fd::document(dir.file("pid")).ok().and_then(|text| String::from_utf8(text).ok());
    let pid = pid.and_then(|text| text.trim().parse::<i32>().ok());
    dir.exit().is_some() || pid.is_none_or(|pid| windlass_sys::process::open_pid(pid).is_err())
}

/// Ends the container and removes what the runtime knows of it.
fn remove_from_runtime(facts: &Facts) -> Result<()> {
    let words = facts.words(&["delete", "--force"]);
    let finished = command::run(&facts.runtime, &words, Deadline::after(command::PATIENCE))?;
    let text = finished.complaint();
    // One that is gone already is as good.
    match finished.success() || text.contains("does not exist") {
        true => Ok(()),
        false => Err(Refusal::new(Code::Runtime, text)),
    }
}
