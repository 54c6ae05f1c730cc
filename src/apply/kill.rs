//! Signals to a container's init, or to all its processes.

use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;

use windlass_base::error::{Error, Kind, Result, WithContext};
use windlass_base::namespaces::Namespaces;
use windlass_cgroup::{AnyCgroup, signal_each};
use windlass_store::Container;
use windlass_sys::poll::{self, Deadline};
use windlass_sys::{process, waiting};

fn not_running() -> Error {
    Error::new(Kind::WrongStatus, "container not running")
}

/// Sends `signal` to init, or to every process.
pub fn kill(container: &Container, signal: i32, all: bool) -> Result<()> {
    let group = container.any_cgroup()?;
    if all {
        // Another container may have taken the id, and the cgroup's path, before the cgroup was opened.
        // The check comes now, because an open directory never becomes another cgroup's.
        if !container.exists()? {
            return Err(Error::new(Kind::NotFound, "container does not exist"));
        }
    }
    let shared = !container.state.namespaces.contains(Namespaces::PID);
    let pidfd = container.open_init()?;
    let group = match group {
        Some(group) if pidfd.is_none() && container.cgroup_was_replaced(&group)? => None,
        group => group,
    };
    let pidfd = match (pidfd, &group) {
        (_, Some(group)) if all => return signal_all(group, signal),
        (Some(pidfd), _) => pidfd,
        // Engines expect no error for a container that has ended.
        (None, _) if all => return Ok(()),
        // Without a PID namespace of its own, the processes that init has started outlive it.
        (None, Some(group)) if shared && signal == libc::SIGKILL && !group.pids()?.is_empty() => {
            return kill_all(group);
        }
        (None, _) => return Err(not_running()),
    };
    match process::send_signal(pidfd.as_fd(), signal) {
        Err(failed) if failed.errno == Errno::ESRCH => return Err(not_running().caused_by(failed)),
        other => other.with_context(|| format!("cannot send signal {signal}"))?,
    }
    if signal == libc::SIGKILL {
        // In a shared PID namespace init's death leaves others behind, and a frozen process does not die.
        if let Some(group) = &group {
            return if shared { kill_all(group) } else { group.thaw_nowait() };
        }
    }
    Ok(())
}

fn signal_all(group: &AnyCgroup, signal: i32) -> Result<()> {
    match signal {
        libc::SIGKILL => kill_all(group),
        _ => signal_each(&group.pids()?, signal, &|| group.pids()),
    }
}

fn kill_all(group: &AnyCgroup) -> Result<()> {
    group.kill()?;
    group.kill_leaderless()
}

/// Kills all processes of the container and waits until init is gone. With `unlocked`, another container may have taken
/// the id, and a cgroup at the same path, meanwhile; then nothing is killed. Processes of a later container in a cgroup
/// with the same path are not killed either. The check comes after the cgroup is opened, because an open directory
/// never becomes another cgroup's.
pub(super) fn kill_everything(container: &Container, unlocked: bool) -> Result<()> {
    let group = container.any_cgroup()?;
    if unlocked && !container.exists()? {
        return Ok(());
    }
    let pidfd = container.open_init()?;
    if let Some(group) = group
        && (pidfd.is_some() || !container.cgroup_was_replaced(&group)?)
    {
        group.kill()?;
    }
    let Some(pidfd) = pidfd else { return Ok(()) };
    let _ = process::send_signal(pidfd.as_fd(), libc::SIGKILL);
    wait_for_end(container, pidfd.as_fd())
}

/// Locks a container whose processes were killed. A create that hangs releases the lock when its init is dead.
pub(super) fn lock_killed(container: &mut Container) -> Result<()> {
    if container.lock_until(Deadline::after(KILL_TIMEOUT))? {
        return Ok(());
    }
    // The other command waits for processes in state D, perhaps for ever.
    match processes(container) {
        pids if !pids.is_empty() => Err(still_running(&pids)),
        // The other command may run a hook, which may take its time.
        _ => container.lock(),
    }
}

/// How long to wait for the end after SIGKILL: enough for a machine under load. A process in state D may take longer.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

fn wait_for_end(container: &Container, pidfd: std::os::fd::BorrowedFd<'_>) -> Result<()> {
    if poll::readable(pidfd, Deadline::after(KILL_TIMEOUT)).with_context(|| "cannot wait for the container's end")? {
        return Ok(());
    }
    Err(still_running(&processes(container)))
}

/// The container's init, and the other processes of its cgroup. Init of a PID namespace ends after all others, so
/// another process may be the one that does not end.
fn processes(container: &Container) -> Vec<i32> {
    let init = container.open_init().ok().flatten().and(container.init).map(|init| init.pid);
    let others = container.any_cgroup().ok().flatten().and_then(|group| group.pids().ok()).unwrap_or_default();
    init.into_iter().chain(others.into_iter().filter(|pid| Some(*pid) != init)).collect()
}

fn still_running(pids: &[i32]) -> Error {
    let what = waiting::describe_all(pids);
    Error::new(Kind::Kernel, format!("container init still running after SIGKILL: {what}")).with_hint(waiting::HINT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;
    use windlass_base::spec::Hooks;
    use windlass_store::{InitProcess, State, Store, VERSION, process_stat};

    /// Another container may have taken its id by then, and have a cgroup at its path.
    #[test]
    fn a_container_that_was_deleted_meanwhile_is_not_killed() {
        let root = std::env::temp_dir().join(format!("windlass-kill-{}", std::process::id()));
        let store = Store::make(&root).expect("a state root");
        let mut process = Command::new("sleep").arg("1000").spawn().expect("a process");
        let pid = process.id().cast_signed();
        let start_time = process_stat(pid).expect("readable").expect("it runs").started().expect("known");
        let state = serde_json::json!({
            "version": VERSION, "id": "web", "ociVersion": "1.2.0", "bundle": "/", "rootfs": "/", "owner": "root",
            "created": "2026-01-01T00:00:00Z",
        });
        let state: State = serde_json::from_value(state).expect("a state");
        let init = InitProcess { pid, start_time };
        let reservation = store.reserve("web").expect("free");
        reservation.record(&state, b"{}", false).expect("recorded");
        reservation.record_init(&init).expect("recorded");
        let container = reservation.commit(state, init, Hooks::default()).expect("kept");
        std::fs::remove_file(root.join("web")).expect("deleted");
        kill_everything(&container, true).expect("left alone");
        let refused = kill(&container, libc::SIGKILL, true).expect_err("refused");
        assert_eq!(refused.kind(), Kind::NotFound);
        assert!(process.try_wait().expect("waited").is_none(), "it was killed");
        // Who holds the lock knows that it is the one.
        kill_everything(&container, false).expect("killed");
        assert_eq!(process.wait().expect("its end").signal(), Some(libc::SIGKILL));
        std::fs::remove_dir_all(root).expect("removed");
    }
}
