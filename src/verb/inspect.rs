//! `state`, `list`, `ps` and `doctor`, which only read.

use std::collections::BTreeMap;
use std::ffi::OsString;

use crate::cli::{Format, output};
use crate::doctor;
use windlass_args::print;
use windlass_base::error::{Diagnostic, Kind, Result};
use windlass_base::exit_record::ExitRecord;
use windlass_store::{Container, Status};
use windlass_sys::process::SingleThreaded;

use super::planning::host;
use super::session::Session;

pub(super) fn state(id: &str, session: &mut Session<'_>) -> Result<()> {
    let container = session.store()?.load(id)?;
    print(&output::state(&described(&container, true)?))
}

pub(super) fn list(format: Format, quiet: bool, session: &mut Session<'_>) -> Result<()> {
    let store = session.store()?;
    let mut found = Vec::new();
    for id in store.ids()? {
        match store.load(&id).and_then(|container| described(&container, format == Format::Json && !quiet)) {
            Ok(container) => found.push(container),
            // The container was deleted meanwhile, or create has not written it yet.
            Err(error) if error.kind() == Kind::NotFound => {}
            Err(error) => session.warn(vec![Diagnostic { pointer: String::new(), msg: error.to_string() }])?,
        }
    }
    print(&output::list(&found, format, quiet))
}

fn described(container: &Container, annotations: bool) -> Result<output::ContainerState> {
    let status = container.status()?;
    let state = &container.state;
    let exit = if status == Status::Stopped { container.exit()?.map(exit_shown) } else { None };
    Ok(output::ContainerState {
        oci_version: state.oci_version.clone(),
        id: state.id.clone(),
        pid: if status == Status::Stopped { 0 } else { container.init.map_or(0, |init| init.pid) },
        status: status.to_string(),
        bundle: state.bundle.clone(),
        rootfs: state.rootfs.clone(),
        created: state.created.clone(),
        annotations: if annotations { container.annotations()?.clone() } else { BTreeMap::new() },
        owner: state.owner.clone(),
        exit,
    })
}

fn exit_shown(record: ExitRecord) -> output::ExitState {
    let name = |signal: i32| {
        nix::sys::signal::Signal::try_from(signal).map_or(signal.to_string(), |name| name.as_str().to_string())
    };
    output::ExitState {
        code: record.code,
        signal: record.signal.map(name),
        oom_killed: record.oom_killed,
        time: Some(record.at),
    }
}

/// The exit code is 1 if a container as `spec` writes it cannot run here.
pub(super) fn doctor(json: bool, session: &Session<'_>, proof: &SingleThreaded) -> Result<u8> {
    let facts = doctor::collect(&host()?, &session.global.root, proof);
    let findings = doctor::judge(&facts);
    print(&match json {
        true => format!("{:#}\n", doctor::document(&facts, &findings)),
        false => doctor::text(&facts, &findings),
    })?;
    Ok(u8::from(!doctor::can_run(&findings)))
}

pub(super) fn ps(id: &str, format: Format, args: &[OsString], session: &mut Session<'_>) -> Result<()> {
    let container = session.store()?.load(id)?;
    let pids = match container.any_cgroup()? {
        Some(group) if container.open_init()?.is_none() && container.cgroup_was_replaced(&group)? => Vec::new(),
        Some(group) => group.pids()?,
        // Without a cgroup only init is known.
        None => container.init_stat()?.and(container.init).map(|init| vec![init.pid]).unwrap_or_default(),
    };
    print(&output::ps(&pids, format, args)?)
}
