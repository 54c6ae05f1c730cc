//! Signals to a container, and its removal.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;

use crate::cgroup::{self, Group, Kill, Systemd, v1};
use crate::error::{Doing, Error, Fault, Kind, Result};
use crate::sys::poll::{self, Deadline};
use crate::sys::{process, waiting};

use super::state::Status;
use super::store::{Container, Store};

fn not_running() -> Error {
    Error::new(Kind::WrongStatus, "container not running")
}

/// Sends `signal` to init, or to every process.
pub fn kill(container: &Container, signal: i32, all: bool) -> Result<()> {
    let group = container.group()?;
    if all {
        // Another container may have taken the id, and the cgroup's path, before the cgroup was opened.
        // The check comes now, because an open directory never becomes another cgroup's.
        if !container.still_there() {
            return Err(Error::new(Kind::NotFound, "container does not exist"));
        }
        // As engines expect, a container that has ended is no error.
        if let Some(group) = &group {
            return signal_all(group, signal);
        }
        if container.open_init()?.is_none() {
            return Ok(());
        }
    }
    let shared = container.state.namespaces & crate::abi::namespace::PID == 0;
    let Some(pidfd) = container.open_init()? else {
        // Without a PID namespace of its own, what it has started lives on.
        return match &group {
            Some(group) if shared && signal == libc::SIGKILL && !group.pids()?.is_empty() => group.kill(),
            _ => Err(not_running()),
        };
    };
    match process::send_signal(pidfd.as_fd(), signal) {
        Err(failed) if failed.errno == Errno::ESRCH => return Err(not_running().failed(failed)),
        other => other.doing(|| format!("cannot send signal {signal}"))?,
    }
    if signal == libc::SIGKILL {
        // A process in a shared PID namespace leaves others behind, and a frozen one does not die.
        if let Some(group) = &group {
            return if shared { group.kill() } else { group.let_go() };
        }
    }
    Ok(())
}

/// So many processes are held at once: descriptors are limited.
const HANDLES: usize = 256;

fn signal_all(group: &Group, signal: i32) -> Result<()> {
    if signal == libc::SIGKILL {
        return group.kill();
    }
    for pids in group.pids()?.chunks(HANDLES) {
        let handles: Vec<_> = pids.iter().filter_map(|pid| Some((pid, process::open_pid(*pid).ok()?))).collect();
        // Between the list and the handle the pid may have been given to another process: only
        // one that is still in the cgroup afterwards is signalled. The list is sorted.
        let there = group.pids()?;
        for (pid, pidfd) in handles.iter().filter(|(pid, _)| there.binary_search(pid).is_ok()) {
            match process::send_signal(pidfd.as_fd(), signal) {
                Err(failed) if failed.errno != Errno::ESRCH => {
                    return Err(failed.doing(format!("cannot send signal {signal} to {pid}")));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// Removes a container. With `force` a running one is killed first, and one that does not exist
/// is no error. Returns what went wrong without stopping the removal.
pub fn delete(store: &Store, id: &str, force: bool) -> Result<Vec<Fault>> {
    let mut warnings = Vec::new();
    let mut container = match force {
        true => match store.load_to_remove(id, &mut warnings)? {
            Some(container) => container,
            None => return Ok(warnings),
        },
        false => store.load(id)?,
    };
    if force {
        // Before the lock: a create that hangs holds it, and lets go when its init dies.
        kill_everything(&container, true)?;
    }
    container.lock()?;
    if !container.still_there() {
        return if force { Ok(Vec::new()) } else { Err(Error::new(Kind::NotFound, "container does not exist")) };
    }
    if force {
        kill_everything(&container, false)?;
    } else {
        match container.status()? {
            Status::Stopped => {}
            // De facto: engines delete what they never started.
            Status::Created => kill_everything(&container, false)?,
            status => {
                let msg = format!("cannot delete container {id} that is not stopped: {status}");
                return Err(Error::new(Kind::WrongStatus, msg).hint("`kill` it first, or use `delete --force`"));
            }
        }
    }
    warnings.extend(finish(&container)?);
    Ok(warnings)
}

/// Kills all processes of the container and waits until init is gone. With `unlocked`, another container may have
/// taken the id, and a cgroup at the same path, meanwhile; then nothing is killed. The check comes after the
/// cgroup is opened, because an open directory never becomes another cgroup's.
fn kill_everything(container: &Container, unlocked: bool) -> Result<()> {
    let group = container.group()?;
    if unlocked && !container.still_there() {
        return Ok(());
    }
    if let Some(group) = group {
        group.kill()?;
    }
    let Some(pidfd) = container.open_init()? else { return Ok(()) };
    let _ = process::send_signal(pidfd.as_fd(), libc::SIGKILL);
    wait_for_end(container, pidfd.as_fd())
}

/// Kills all processes of a container and removes it, as `delete --force` does. For who holds the lock.
pub fn destroy(container: &Container) -> Result<Vec<Fault>> {
    kill_everything(container, false)?;
    finish(container)
}

/// Long enough for a machine under load; a process in state D may outlast it.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

fn wait_for_end(container: &Container, pidfd: std::os::fd::BorrowedFd<'_>) -> Result<()> {
    if poll::readable(pidfd, Deadline::after(KILL_PATIENCE)).doing(|| "cannot wait for the container's end")? {
        return Ok(());
    }
    // Init of a PID namespace ends after all others in it, so another one may be the one that is stuck.
    let mut pids: Vec<i32> = container.init.map(|init| init.pid).into_iter().collect();
    let others = container.group().ok().flatten().and_then(|group| group.pids().ok()).unwrap_or_default();
    pids.extend(others.into_iter().filter(|pid| Some(*pid) != container.init.map(|init| init.pid)));
    let what = waiting::describe_all(&pids);
    Err(Error::new(Kind::Kernel, format!("container init still running after SIGKILL: {what}")).hint(waiting::HINT))
}

/// The end of a container whose processes are gone: cgroup, hooks, state.
pub fn finish(container: &Container) -> Result<Vec<Fault>> {
    // A record for whoever asks during the hooks, while the cgroup can still tell.
    let mut warnings = Vec::new();
    if let Some(path) = &container.state.cgroup {
        // systemd clears an empty scope away by itself, sooner or later than this. Of a create that
        // died it may not even have heard yet.
        let scope = container.state.unit.as_ref().filter(|_| container.init.is_none() || Path::new(path).exists());
        // It lets us in while we clear away ourselves.
        let systemd = scope.map(|unit| (unit, Systemd::connect(unit.user)));
        cgroup::remove(path, Kill::Yes)?;
        let stop = |systemd: &mut Systemd, unit: &str| match container.init {
            Some(_) => systemd.release(unit),
            None => systemd.stop(unit),
        };
        let stopped = systemd.map(|(unit, systemd)| systemd.and_then(|mut systemd| stop(&mut systemd, &unit.name)));
        if let Some(Err(error)) = stopped {
            warnings.push(Fault { pointer: String::new(), msg: error.message().into() });
        }
    }
    // Where there is a cgroup2, it knew all that was to be killed.
    let kill = if container.state.cgroup.is_some() { Kill::No } else { Kill::Yes };
    v1::remove(&container.state.cgroup_v1, kill)?;
    if let Some(group) = &container.state.intel_rdt {
        crate::apply::remove_resctrl(group)?;
    }
    let hooks = &container.hooks()?.poststop;
    if !hooks.is_empty() {
        let state = super::state_document(container, Status::Stopped, 0)?;
        warnings.extend(crate::apply::run_poststop(hooks, &state));
    }
    container.remove()?;
    Ok(warnings)
}
