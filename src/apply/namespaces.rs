//! Namespaces: those that the runtime opens and joins for init, and the id maps of a new one.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Stdio;

use nix::errno::Errno;
use nix::fcntl::OFlag;

use windlass_base::error::{Error, Kind, Origin, Result, WithContext};
use windlass_base::namespaces::Namespaces;
use windlass_base::spec::IdMapping;
use windlass_plan::explain::kind_names;
use windlass_plan::{Join, Joiner, Maps, Topology, map_text};
use windlass_sys::mount_view::MountView;
use windlass_sys::{credentials, fd, process};

use super::sources::{CONTAINERS_NAMESPACE, hold_view};

/// Writes the id maps of init's new user namespace, in the planned way.
pub(crate) fn map_ids(pid: i32, topology: &Topology) -> Result<()> {
    let (uids, gids) = (&topology.uid_mappings, &topology.gid_mappings);
    match topology.maps {
        Maps::Direct => write_maps(pid, &map_text(uids), &map_text(gids)),
        Maps::Own => {
            fd::openat(fd::CWD, format!("/proc/{pid}/setgroups"), OFlag::O_WRONLY, 0)
                .and_then(|file| fd::write_once(file.as_fd(), b"deny"))
                .with_context(|| "cannot deny setgroups")
                .map_err(|error| error.with_origin(Origin::config("/linux/gidMappings")))?;
            write_maps(pid, &map_text(uids), &map_text(gids))
        }
        Maps::Helpers => {
            helper("newuidmap", "/etc/subuid", pid, uids, "/linux/uidMappings")?;
            helper("newgidmap", "/etc/subgid", pid, gids, "/linux/gidMappings")
        }
    }
}

/// Has newuidmap(1) or newgidmap(1) write a map. The program allows what the file `grants` grants.
fn helper(program: &str, grants: &str, pid: i32, mappings: &[IdMapping], pointer: &'static str) -> Result<()> {
    let numbers = mappings.iter().flat_map(|m| [m.container_id, m.host_id, m.size]).map(|number| number.to_string());
    let output = windlass_sys::spawn::command(program).arg(pid.to_string()).args(numbers).stdin(Stdio::null()).output();
    let error = match output {
        Ok(output) if output.status.success() => return Ok(()),
        Ok(output) => {
            let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Error::new(Kind::PermissionDenied, format!("{program} did not map the ids: {stderr}")).with_hint(format!(
                "{grants} says which ids are whose, as in \"USER:100000:65536\"; see `windlass doctor`"
            ))
        }
        Err(error) => Err::<(), _>(error)
            .with_context(|| format!("cannot run {program}"))
            .expect_err("an error stays one")
            .with_hint("it is in the package uidmap or shadow-utils; without it only one's own two ids can be mapped"),
    };
    Err(error.with_origin(Origin::config(pointer)))
}

/// Writes the id maps of a process's new user namespace.
fn write_maps(pid: i32, uids: &str, gids: &str) -> Result<()> {
    for (file, map) in [("uid_map", uids), ("gid_map", gids)] {
        fd::openat(fd::CWD, format!("/proc/{pid}/{file}"), OFlag::O_WRONLY, 0)
            .and_then(|file| fd::write_once(file.as_fd(), map.as_bytes()))
            .with_context(|| format!("cannot write {file}"))
            .map_err(|error| {
                error.with_origin(Origin::config(if file == "uid_map" {
                    "/linux/uidMappings"
                } else {
                    "/linux/gidMappings"
                }))
            })?;
    }
    Ok(())
}

/// Opens every namespace to join, and verifies its type.
pub(crate) fn open_joins(joins: &[Join]) -> Result<Vec<Option<OwnedFd>>> {
    joins.iter().map(|join| open_join(join).map(Some)).collect()
}

fn open_join(join: &Join) -> Result<OwnedFd> {
    let kind = kind_names(join.kind);
    let origin = |error: Error| error.with_origin(Origin::Config(format!("{}/path", join.pointer).into()));
    let file = fd::open(&join.path, OFlag::O_RDONLY)
        .with_context(|| format!("cannot open the {kind} namespace {:?}", join.path))
        .map_err(origin)?;
    match process::namespace_kind(file.as_fd()) {
        Ok(found) if found == join.kind => Ok(file),
        // ENOTTY means that the file is no namespace.
        Err(failed) if failed.errno != Errno::ENOTTY => {
            Err(origin(failed.context(format!("cannot look at the {kind} namespace {:?}", join.path))))
        }
        _ => Err(origin(Error::new(Kind::InvalidConfig, format!("{:?} is not a {kind} namespace", join.path)))),
    }
}

/// Leaves the caller's groups before a user namespace that somebody else has made: it may deny setgroups(2), which init
/// can have brought about, and then they would stay. They are groups of the host.
pub(crate) fn leave_groups() -> Result<()> {
    credentials::leave_groups().with_context(|| "cannot leave the caller's supplementary groups")
}

/// The namespaces that the runtime has joined for the clone. Dropping this returns to its own.
pub(crate) struct JoinedNamespaces {
    others: Vec<(OwnedFd, Namespaces)>,
    mounts: Option<MountView>,
}

impl JoinedNamespaces {
    /// Joins the namespaces that init cannot join itself, and makes the time namespace with its offsets.
    pub(crate) fn enter(topology: &Topology, joins: &[Option<OwnedFd>]) -> Result<JoinedNamespaces> {
        let mut out = JoinedNamespaces { others: Vec::new(), mounts: None };
        for (join, file) in topology.joined.iter().zip(joins) {
            let (Joiner::Runtime, Some(file)) = (join.joiner, file) else { continue };
            out.remember(join.kind)?;
            process::setns(file.as_fd(), join.kind)
                .with_context(|| format!("cannot join the {} namespace {:?}", kind_names(join.kind), join.path))
                .map_err(|error| error.with_origin(Origin::Config(join.pointer.clone().into())))?;
        }
        if topology.new.contains(Namespaces::TIME) {
            out.remember(Namespaces::TIME)?;
            let origin = |error: Error| error.with_origin(Origin::config("/linux/timeOffsets"));
            process::unshare(Namespaces::TIME).with_context(|| "cannot make a time namespace").map_err(origin)?;
            let offsets: String = topology
                .time_offsets
                .iter()
                .map(|(clock, by)| format!("{clock} {} {}\n", by.secs, by.nanosecs))
                .collect();
            if !offsets.is_empty() {
                fd::open("/proc/self/timens_offsets", OFlag::O_WRONLY)
                    .and_then(|file| fd::write_once(file.as_fd(), offsets.as_bytes()))
                    .with_context(|| "cannot set the clock offsets")
                    .map_err(origin)?;
            }
        }
        Ok(out)
    }

    /// Joins a namespace of the process behind `pidfd`.
    pub(crate) fn visit(pidfd: BorrowedFd<'_>, kind: Namespaces) -> Result<JoinedNamespaces> {
        let mut out = JoinedNamespaces { others: Vec::new(), mounts: None };
        out.remember(kind)?;
        process::setns(pidfd, kind)
            .with_context(|| format!("cannot join the {} namespace of init", kind_names(kind)))?;
        Ok(out)
    }

    fn remember(&mut self, kind: Namespaces) -> Result<()> {
        if kind == Namespaces::MOUNT {
            self.mounts = Some(hold_view()?);
            return Ok(());
        }
        let own = fd::open(format!("/proc/self/ns/{}", kind.proc_name()), OFlag::O_RDONLY)
            .with_context(|| "cannot open the runtime's own namespace")?;
        self.others.push((own, kind));
        Ok(())
    }
}

impl Drop for JoinedNamespaces {
    fn drop(&mut self) {
        if let Some(view) = self.mounts.take() {
            view.restore(CONTAINERS_NAMESPACE);
        }
        for (own, kind) in self.others.drain(..).rev() {
            if let Err(failed) = process::setns(own.as_fd(), kind) {
                process::cannot_leave("the container's", &failed);
            }
        }
    }
}
