//! The removal of a container.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;

use windlass_base::error::{Diagnostic, Error, Kind, Result, WithContext};
use windlass_base::exit_record;
use windlass_cgroup::{self as cgroup, Kill, Systemd, v1};
use windlass_store::{Container, Status, Store};
use windlass_sys::fd;

use super::hooks::run_poststop;
use super::kill::{kill_everything, lock_killed};
use super::resctrl::remove_resctrl;

/// Removes a container. With `force`, kills a running container first, and succeeds if none exists. Returns what went
/// wrong without stopping the removal.
pub fn delete(store: &Store, id: &str, force: bool) -> Result<Vec<Diagnostic>> {
    let mut warnings = Vec::new();
    let mut container = match force {
        true => match store.load_to_remove(id, &mut warnings)? {
            Some(container) => container,
            None => return Ok(warnings),
        },
        false => store.load(id)?,
    };
    if force {
        // The kill comes before the lock: a create that hangs holds the lock, and releases it when its init dies.
        kill_everything(&container, true)?;
        lock_killed(&mut container)?;
    } else {
        container.lock()?;
    }
    if !container.exists()? {
        return if force { Ok(Vec::new()) } else { Err(Error::new(Kind::NotFound, "container does not exist")) };
    }
    if force {
        kill_everything(&container, false)?;
    } else {
        match container.status()? {
            Status::Stopped => {}
            // Engines delete containers that they never started.
            Status::Created => kill_everything(&container, false)?,
            status => {
                let msg = format!("cannot delete container {id} that is not stopped: {status}");
                return Err(Error::new(Kind::WrongStatus, msg).with_hint("`kill` it first, or use `delete --force`"));
            }
        }
    }
    warnings.extend(finish(&container)?);
    Ok(warnings)
}

/// Kills all processes of a container and removes it, as `delete --force` does. The caller holds the lock.
pub fn destroy(container: &Container) -> Result<Vec<Diagnostic>> {
    kill_everything(container, false)?;
    finish(container)
}

/// Removes a container whose processes have ended: its cgroups, then poststop hooks, then its state.
pub fn finish(container: &Container) -> Result<Vec<Diagnostic>> {
    let mut warnings = Vec::new();
    if let Err(error) = write_exit_files(container) {
        warnings.push(Diagnostic { pointer: String::new(), msg: error.message().into() });
    }
    remove_cgroups(container, &mut warnings)?;
    if let Some(group) = &container.state.intel_rdt {
        remove_resctrl(group)?;
    }
    let hooks = &container.hooks()?.poststop;
    if !hooks.is_empty() {
        let state = container.document(Status::Stopped, 0)?;
        warnings.extend(run_poststop(hooks, &state));
    }
    container.remove()?;
    Ok(warnings)
}

/// Removes the container's cgroups, unless they have become another container's.
fn remove_cgroups(container: &Container, warnings: &mut Vec<Diagnostic>) -> Result<()> {
    let lost = || container.any_cgroup()?.map_or(Ok(false), |group| container.cgroup_was_replaced(&group));
    let Some(path) = &container.state.cgroup else {
        return if lost()? { Ok(()) } else { v1::remove(&container.state.cgroup_v1, Kill::Yes) };
    };
    // systemd removes an empty scope by itself, before or after this. If create died early, it may not even
    // have been asked for the scope yet.
    let scope = container.state.unit.as_ref().filter(|_| container.init.is_none() || Path::new(path).exists());
    // Connecting takes systemd some time, in which we remove the cgroup.
    let systemd = scope.map(|unit| (unit, Systemd::connect(unit.user)));
    if !cgroup::remove_unused(path)? {
        if lost()? {
            return Ok(());
        }
        cgroup::remove(path, Kill::Yes)?;
    }
    let stop = |systemd: &mut Systemd, unit: &str| match container.init {
        Some(_) => systemd.stop_nowait(unit),
        None => systemd.stop(unit),
    };
    let stopped = systemd.map(|(unit, systemd)| systemd.and_then(|mut systemd| stop(&mut systemd, &unit.name)));
    if let Some(Err(error)) = stopped {
        warnings.push(Diagnostic { pointer: String::new(), msg: error.message().into() });
    }
    // With cgroup2, all processes were killed by that cgroup.
    v1::remove(&container.state.cgroup_v1, Kill::No)
}

/// Writes the exit files that a shim in the role of conmon has listed and could not write. Keeps files that others have
/// written meanwhile.
fn write_exit_files(container: &Container) -> Result<()> {
    let list = Path::new(&container.state.bundle).join(exit_record::UNWRITTEN);
    // A FIFO must not be waited for.
    let Ok(file) = fd::open(&list, OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK) else { return Ok(()) };
    // The list names files that are written with the caller's rights, and an engine may have given the bundle to
    // another user.
    if !fd::stat(file.as_fd()).is_ok_and(|stat| fd::why_untrusted(&stat).is_none()) {
        return Ok(());
    }
    let Ok(text) = fd::read_all(file, fd::DOCUMENT) else { return Ok(()) };
    // A container whose root contains the bundle could have written the list.
    let real = |path: &str| Path::new(path).canonicalize().ok();
    if real(&container.state.bundle).zip(real(&container.state.rootfs)).is_none_or(|(b, root)| b.starts_with(root)) {
        return Ok(());
    }
    let status = container.exit()?.and_then(|exit| exit.code.or(exit.signal.map(|signal| 128 + signal)));
    let paths: Vec<PathBuf> = serde_json::from_slice(&text).unwrap_or_default();
    if let Some(status) = status {
        write_missing(&paths, status)?;
    }
    fd::unlinkat(fd::CWD, &list).with_context(|| format!("cannot remove {list:?}"))
}

/// Writes the status to those of the files that do not exist. Each has its own readers, so a file that cannot be
/// written does not stop the others. Returns the first error.
fn write_missing(paths: &[PathBuf], status: i32) -> Result<()> {
    let (mut failed, mut gone, mut is_told) = (None, None, false);
    for path in paths {
        let write = || fd::replace(fd::CWD, path, 0o644, status.to_string().as_bytes(), fd::Durability::Cached);
        match if path.exists() { Ok(()) } else { write() } {
            Ok(()) => is_told = true,
            Err(error) if error.errno == Errno::ENOENT => drop(gone.get_or_insert((path, error))),
            Err(error) => drop(failed.get_or_insert((path, error))),
        }
    }
    // An engine removes the directory of a file once it has learnt of the end from another one.
    let gone = gone.filter(|_| !is_told);
    failed
        .or(gone)
        .map_or(Ok(()), |(path, error)| Err(error).with_context(|| format!("cannot write the exit status to {path:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;
    use windlass_base::spec::Hooks;
    use windlass_store::{InitProcess, State, VERSION};

    /// The files a and b, and c in a directory that is gone. d/exit cannot be made, because d is a file.
    #[test]
    fn an_exit_file_that_cannot_be_written_does_not_stop_the_others() {
        let dir = std::env::temp_dir().join(format!("windlass-missing-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let text = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap_or_default();
        let write = |names: &[&str]| {
            let paths: Vec<PathBuf> = names.iter().map(|name| dir.join(name)).collect();
            write_missing(&paths, 137).map_err(|error| error.message().to_owned())
        };
        std::fs::write(dir.join("a"), "3").expect("written");
        std::fs::write(dir.join("d"), "").expect("written");
        assert_eq!(write(&["c/exit", "a", "b"]), Ok(()), "the engine has removed what it does not need");
        assert_eq!([text("a"), text("b")], ["3", "137"], "what another has written stays");
        std::fs::remove_file(dir.join("b")).expect("removed");
        let failed = write(&["d/exit", "c/exit", "b"]).expect_err("d is no directory");
        assert!(failed.contains("d/exit"), "{failed}");
        assert_eq!(text("b"), "137");
        let failed = write(&["c/exit"]).expect_err("no engine learns the status");
        assert!(failed.contains("c/exit"), "{failed}");
        std::fs::remove_dir_all(&dir).expect("removed");
    }

    #[test]
    fn what_create_has_made_beside_the_cgroups_goes_with_the_container() {
        let root = std::env::temp_dir().join(format!("windlass-delete-{}", std::process::id()));
        let store = Store::make(&root).expect("a state root");
        let group = root.join("@group");
        std::fs::create_dir(&group).expect("a directory");
        let mut ended = Command::new("true").spawn().expect("a process");
        let init = InitProcess { pid: ended.id().cast_signed(), start_time: 1 };
        ended.wait().expect("its end");
        let state: State = serde_json::from_value(serde_json::json!({
            "version": VERSION, "id": "web", "ociVersion": "1.2.0", "bundle": "/", "rootfs": "/", "owner": "root",
            "created": "2026-01-01T00:00:00Z", "intelRdt": group, "resctrl": group,
        }))
        .expect("a state");
        let make = || {
            let reservation = store.reserve("web").expect("free");
            reservation.record(&state, b"{}", false).expect("recorded");
            reservation.record_init(&init).expect("recorded");
            let socket = root.join(reservation.start_socket());
            drop(std::os::unix::net::UnixListener::bind(&socket).expect("a socket"));
            drop(reservation.commit(state.clone(), init, Hooks::default()).expect("kept"));
        };
        for force in [false, true] {
            // The second time somebody else has removed the group.
            make();
            assert!(delete(&store, "web", force).expect("deleted").is_empty());
            assert!(!group.exists(), "the resource control group is left");
            assert_eq!(std::fs::read_dir(&root).expect("the state root").count(), 0, "something is left");
        }
        std::fs::remove_dir_all(root).expect("removed");
    }
}
