//! `explain` prints what `create` would do, and `check` prints the faults of a bundle. Neither changes anything.

use std::fmt::Write as _;
use std::os::fd::AsFd;
use std::path::Path;

use nix::fcntl::OFlag;

use crate::cli::{self, Format};
use windlass_apply::read_images;
use windlass_args::print;
use windlass_base::capability::CapabilitySet;
use windlass_base::error::{Diagnostic, Kind, Result, WithContext, printable};
use windlass_plan::restore::{contradictions, provenance};
use windlass_plan::{Host, Plan};
use windlass_sys::fd;

use super::bundle::{Bundle, absolute};
use super::host_check;
use super::planning;
use super::session::Session;

pub(super) fn explain(options: &cli::Explain, session: &Session<'_>) -> Result<()> {
    let id = options.id.clone().unwrap_or_else(|| name_of(&options.bundle));
    let mut planning = planning::options(session.global, options.no_pivot, options.no_new_keyring)?;
    let images = options.images.as_deref().map(absolute).transpose()?;
    let bundle = Bundle::read(&options.bundle, options.config.as_deref())?;
    let namespaces = bundle.spec.linux.iter().flat_map(|linux| &linux.namespaces);
    if !planning.host.administers() && !namespaces.into_iter().any(|namespace| namespace.kind == "user") {
        // Only root can run a container without a user namespace, so show what `create` by root would do.
        planning.host = Host { capabilities: CapabilitySet::all(), ..Host::default() };
    }
    bundle.prepare(&mut planning)?;
    let plan = bundle.plan(&id, &planning)?;
    if let Some(images) = images {
        return explain_restore(&images, &plan, &bundle, options.format);
    }
    let program = bundle.spec.process.as_ref().map_or(&[][..], |process| &process.args);
    let text = match options.format {
        Format::Table => plan.text(program),
        Format::Json => {
            let document = serde_json::json!({
                "id": id,
                "processes": if plan.topology.intermediate { 3 } else { 2 },
                "program": program,
                "steps": plan.lines(program),
                "warnings": plan.warnings,
            });
            format!("{document:#}\n")
        }
    };
    print(&text)
}

/// Prints the sources of a restored container's mounts and namespaces, and the contradictions to the configuration.
fn explain_restore(images: &Path, plan: &Plan, bundle: &Bundle, format: Format) -> Result<()> {
    let directory = fd::open(images, OFlag::O_RDONLY | OFlag::O_DIRECTORY);
    let directory = directory.with_context(|| format!("cannot open the directory {images:?}"))?;
    let claims = read_images(directory.as_fd())?;
    let there = |path: &str| std::fs::symlink_metadata(path).is_ok();
    let faults = contradictions(plan, &bundle.spec, &claims, &there);
    let rows = provenance(plan, &claims);
    let text = match format {
        Format::Json => {
            let rows: Vec<_> = rows
                .iter()
                .map(|row| serde_json::json!({ "what": row.what, "from": row.from, "origin": row.origin }))
                .collect();
            format!("{:#}\n", serde_json::json!({ "tasks": claims.threads.len(), "from": rows, "errors": faults }))
        }
        Format::Table => {
            let mut out = String::new();
            for row in &rows {
                let _ = writeln!(out, "{:<40} {} {}", printable(&row.what), printable(&row.from), row.origin);
            }
            for fault in &faults {
                let _ = writeln!(out, "{:<40} {}", format!("refused: {}", fault.pointer), printable(&fault.msg));
            }
            out
        }
    };
    print(&text)
}

/// A container id for a bundle: the name of its directory.
fn name_of(bundle: &Path) -> String {
    let absolute = std::path::absolute(bundle).unwrap_or_default();
    absolute.file_name().map_or("container".into(), |name| name.to_string_lossy().into_owned())
}

/// Lists every fault of a bundle, and the elements that would be ignored. The exit code is 1 if it would not run.
pub(super) fn check(bundle: &Path, config: Option<&Path>, format: Format, session: &mut Session<'_>) -> Result<u8> {
    let read = match Bundle::read(bundle, config) {
        Err(error) if error.kind() == Kind::InvalidConfig => Err(error),
        other => Ok(other?),
    };
    let (errors, warnings) = match read {
        Err(error) => (error.into_faults(), Vec::new()),
        Ok(bundle) => judge(&bundle, &name_of(&bundle.path), session)?,
    };
    let text = match format {
        Format::Json => format!("{:#}\n", serde_json::json!({ "errors": errors, "warnings": warnings })),
        Format::Table => listed(&errors, &warnings),
    };
    print(&text)?;
    Ok(u8::from(!errors.is_empty()))
}

/// The faults of a configuration, by the specification and on this host, and its warnings.
fn judge(bundle: &Bundle, id: &str, session: &Session<'_>) -> Result<(Vec<Diagnostic>, Vec<Diagnostic>)> {
    let mut planning = planning::options(session.global, false, false)?;
    bundle.prepare(&mut planning)?;
    let (mut errors, warnings) = match bundle.plan(id, &planning) {
        Ok(plan) => {
            let mut errors = host_check::filesystems(&plan, &bundle.spec);
            errors.extend(without_controllers(&plan, session));
            (errors, plan.warnings)
        }
        Err(error) => (error.into_faults(), bundle.warnings.clone()),
    };
    if bundle.spec.process.is_none() && !errors.iter().any(|fault| fault.pointer.starts_with("/process")) {
        let msg = "process is missing: it is needed to start a container";
        errors.push(Diagnostic { pointer: "/process".into(), msg: msg.into() });
    }
    let known: Vec<String> = errors.iter().map(|fault| fault.pointer.clone()).collect();
    errors.extend(host_check::faults(&bundle.spec).into_iter().filter(|fault| !known.contains(&fault.pointer)));
    Ok((errors, warnings))
}

fn listed(errors: &[Diagnostic], warnings: &[Diagnostic]) -> String {
    let mut out = String::new();
    for (word, faults) in [("error", errors), ("warning", warnings)] {
        for fault in faults {
            let _ = writeln!(out, "{word:<8} {:<40} {}", fault.pointer, fault.msg);
        }
    }
    if errors.is_empty() {
        out.push_str("the bundle would run here\n");
    }
    out
}

/// Limits whose controller is not in cgroup v2 here, and device rules that nothing here can enforce.
fn without_controllers(plan: &windlass_plan::Plan, session: &Session<'_>) -> Vec<Diagnostic> {
    if session.global.cgroup_manager != cli::CgroupManager::Cgroupfs {
        return Vec::new();
    }
    let Ok(hierarchy) = windlass_cgroup::Hierarchy::find() else { return Vec::new() };
    let available = hierarchy
        .unified()
        .and_then(|mount| std::fs::read_to_string(format!("{mount}/cgroup.controllers")).ok())
        .unwrap_or_default();
    let missing =
        |need: &windlass_plan::cgroup::Need| !available.split_whitespace().any(|name| name == need.controller);
    let mut faults = Vec::new();
    if hierarchy.unified().is_none()
        && hierarchy.v1_of("devices").is_none()
        && !plan.topology.user_namespace()
        && let Some(devices) = &plan.limits.devices
    {
        faults.extend(windlass_cgroup::v1::devices_unavailable(devices.asked).into_faults());
    }
    let needs = plan.limits.needs();
    let limits = needs.into_iter().filter(missing).map(|need| Diagnostic {
        pointer: need.pointer.clone(),
        msg: format!("the cgroup controller {} is not available in cgroup v2 on this host", need.controller),
    });
    faults.extend(limits);
    faults
}
