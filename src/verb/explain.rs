//! `explain` and `check`: what would be done, and what is wrong; nothing is done.

use std::fmt::Write as _;
use std::path::Path;

use nix::errno::Errno;

use crate::cli::{self, Format, output};
use crate::error::{Error, Fault, Kind, Origin, Result, describe};
use crate::plan::{Host, What};
use crate::spec::Spec;

use super::Session;
use super::create::{Read, planning, read_config};

pub(super) fn explain(options: &cli::Explain, session: &Session<'_>) -> Result<()> {
    let id = options.id.clone().unwrap_or_else(|| name_of(&options.bundle));
    let mut planning = planning(session.global, options.no_pivot, options.no_new_keyring)?;
    let read = read_config(&options.bundle, options.config.as_deref())?;
    let namespaces = read.spec.linux.iter().flat_map(|linux| &linux.namespaces);
    if !planning.host.administers() && !namespaces.into_iter().any(|namespace| namespace.kind == "user") {
        // Only root could run it: what root's `create` would do.
        planning.host = Host { capabilities: u64::MAX, ..Host::default() };
    }
    let plan = crate::plan::create(&id, &read.spec, &planning)?;
    let text = match options.format {
        Format::Table => plan.text(),
        Format::Json => {
            let document = serde_json::json!({
                "id": id,
                "processes": if plan.topology.intermediate { 3 } else { 2 },
                "steps": plan.lines(),
                "warnings": plan.warnings,
            });
            format!("{document:#}\n")
        }
    };
    output::print(&text)
}

/// The bundle's own name, as a container id.
fn name_of(bundle: &Path) -> String {
    let absolute = std::path::absolute(bundle).unwrap_or_default();
    absolute.file_name().map_or("container".into(), |name| name.to_string_lossy().into_owned())
}

/// Says all that is wrong with a bundle or would be ignored; 1 if it would not run.
pub(super) fn check(bundle: &Path, config: Option<&Path>, format: Format, session: &mut Session<'_>) -> Result<u8> {
    let read = match read_config(bundle, config) {
        Err(error) if error.kind() == Kind::InvalidConfig => Err(error),
        other => Ok(other?),
    };
    let (errors, warnings) = match read {
        Err(error) => (faults_of(error), Vec::new()),
        Ok(read) => judge(&read, &name_of(&read.bundle), session)?,
    };
    let text = match format {
        Format::Json => format!("{:#}\n", serde_json::json!({ "errors": errors, "warnings": warnings })),
        Format::Table => listed(&errors, &warnings),
    };
    output::print(&text)?;
    Ok(u8::from(!errors.is_empty()))
}

/// What is wrong with a configuration: by itself, and on this host.
fn judge(read: &Read, id: &str, session: &Session<'_>) -> Result<(Vec<Fault>, Vec<Fault>)> {
    let planning = planning(session.global, false, false)?;
    let mut errors = missing(&read.spec);
    match crate::plan::create(id, &read.spec, &planning) {
        Ok(plan) => {
            errors.extend(unknown_filesystems(&plan));
            errors.extend(limits_without_controllers(&plan, session));
            Ok((errors, plan.warnings))
        }
        Err(error) => {
            let mut all = faults_of(error);
            all.extend(errors);
            Ok((all, Vec::new()))
        }
    }
}

fn listed(errors: &[Fault], warnings: &[Fault]) -> String {
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

fn faults_of(error: Error) -> Vec<Fault> {
    if !error.all_faults().is_empty() {
        return error.all_faults().to_vec();
    }
    let pointer = match error.asked_by() {
        Some(Origin::Config(pointer)) => pointer.to_string(),
        _ => String::new(),
    };
    vec![Fault { pointer, msg: error.message().to_string() }]
}

/// What the configuration counts on and this host does not have: looked at, not opened.
fn missing(spec: &Spec) -> Vec<Fault> {
    let mut out = Vec::new();
    let mut exists = |pointer: String, path: &str| {
        if !path.is_empty()
            && let Err(error) = std::fs::metadata(path)
        {
            let text = error.raw_os_error().map_or(error.to_string(), |raw| describe(Errno::from_raw(raw)));
            out.push(Fault { pointer, msg: format!("{path:?}: {text}") });
        }
    };
    if let Some(root) = &spec.root {
        exists("/root/path".into(), &root.path);
    }
    for (index, mount) in spec.mounts.iter().enumerate() {
        if mount.kind == "bind" || mount.options.iter().any(|option| option == "bind" || option == "rbind") {
            exists(format!("/mounts/{index}/source"), &mount.source);
        }
    }
    for (index, namespace) in spec.linux.iter().flat_map(|linux| &linux.namespaces).enumerate() {
        exists(format!("/linux/namespaces/{index}/path"), &namespace.path);
    }
    for (name, hooks) in spec.hooks.iter().flat_map(|hooks| hooks.all()) {
        // Those of the container's own namespaces are of its root filesystem.
        for (index, hook) in hooks.iter().enumerate().filter(|_| name != "startContainer") {
            exists(format!("/hooks/{name}/{index}/path"), &hook.path);
        }
    }
    out
}

fn unknown_filesystems(plan: &crate::plan::Plan) -> Vec<Fault> {
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let is_known =
        |kind: &str| known.is_empty() || known.lines().any(|line| line.split('\t').next_back() == Some(kind));
    let steps = plan.init.iter().filter_map(|step| match (&step.action, &step.origin) {
        (crate::plan::Action::Mount(mount), Origin::Config(pointer)) => match &mount.what {
            What::New { kind, .. } if !is_known(kind) => Some((pointer, kind)),
            _ => None,
        },
        _ => None,
    });
    steps
        .map(|(pointer, kind)| Fault {
            pointer: format!("{pointer}/type"),
            msg: format!("this kernel does not know the filesystem {kind:?}, unless a module brings it"),
        })
        .collect()
}

fn limits_without_controllers(plan: &crate::plan::Plan, session: &Session<'_>) -> Vec<Fault> {
    if session.global.cgroup_manager != cli::CgroupManager::Cgroupfs {
        return Vec::new();
    }
    let Ok(hierarchy) = crate::cgroup::Hierarchy::find() else { return Vec::new() };
    let available = hierarchy
        .unified()
        .and_then(|mount| std::fs::read_to_string(format!("{mount}/cgroup.controllers")).ok())
        .unwrap_or_default();
    let missing = |need: &crate::plan::cgroup::Need| !available.split_whitespace().any(|name| name == need.controller);
    let needs = plan.limits.needs();
    needs
        .into_iter()
        .filter(missing)
        .map(|need| Fault {
            pointer: need.pointer.clone(),
            msg: format!("the cgroup controller {} is not available in cgroup v2 on this host", need.controller),
        })
        .collect()
}
