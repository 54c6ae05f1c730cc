//! `pause`, `resume` and `update`.

use crate::cli;
use windlass_base::error::{Diagnostic, Error, Kind, Result};
use windlass_base::spec::{Resources, Version};
use windlass_cgroup::{AnyCgroup, Cgroup, Filters, Hierarchy, Systemd, require_cgroup2, v1};
use windlass_plan::cgroup::{Limits, MemoryInForce, complete_memory};
use windlass_plan::device_rules::v1::Rules;
use windlass_plan::unit;
use windlass_store::{Container, Status};

use super::session::Session;

fn wrong_status(msg: impl Into<String>) -> Error {
    Error::new(Kind::WrongStatus, msg)
}

fn group(container: &Container, what: &str) -> Result<AnyCgroup> {
    let missing = || Error::new(Kind::Unsupported, format!("cannot {what} a container without a cgroup"));
    container.any_cgroup()?.ok_or_else(missing)
}

pub(super) fn pause(id: &str, session: &mut Session<'_>) -> Result<()> {
    let mut container = session.store()?.load(id)?;
    container.lock()?;
    match container.status()? {
        Status::Running | Status::Created => group(&container, "pause")?.freeze(),
        status => Err(wrong_status(format!("container not running or created: {status}"))),
    }
}

pub(super) fn resume(id: &str, session: &mut Session<'_>) -> Result<()> {
    let mut container = session.store()?.load(id)?;
    container.lock()?;
    match container.status()? {
        Status::Paused => group(&container, "resume")?.thaw(),
        _ => Err(wrong_status("container not paused")),
    }
}

pub(super) fn update(update: &cli::Update, session: &mut Session<'_>) -> Result<()> {
    let mut container = session.store()?.load(&update.id)?;
    let document = update.resources.as_ref().map(cli::Source::read).transpose()?;
    let mut warnings = Vec::new();
    let mut resources = update.to_resources(document.as_deref(), &mut warnings)?;
    container.lock()?;
    if container.status()? == Status::Stopped {
        return Err(wrong_status("cannot update a stopped container"));
    }
    let mut limits = plan_limits(&container, &mut resources, &mut warnings)?;
    let hierarchy = Hierarchy::find()?;
    let share = match container.state.cgroup_v1.first().and_then(|place| below_root(&hierarchy, place)) {
        Some(path) => v1::Limits::take(&hierarchy, &path, &resources, &mut limits, &mut warnings)?,
        None => None,
    };
    session.warn(warnings)?;
    require_cgroup2(&hierarchy, &limits.needs())?;
    let group = group(&container, "update")?;
    if let Some(check) = &limits.memory_check {
        container.cgroup_v1()?.check_memory(check)?;
    }
    if let Some(share) = share {
        share.refuse_others(&container.state.cgroup_v1)?;
        move_in(&share.make()?, &group)?;
    }
    if let AnyCgroup::Unified(cgroup) = group {
        update_unified(&container, &cgroup, &resources, &limits)?;
    } else if !resources.devices.is_empty() {
        container.cgroup_v1()?.change_devices(Rules::of(&resources.devices).as_ref())?;
    }
    update_resctrl(update, &container)
}

/// Plans the writes that change the limits of a container. A limit that shares a file with another is completed by the
/// other's present value.
fn plan_limits(container: &Container, resources: &mut Resources, warnings: &mut Vec<Diagnostic>) -> Result<Limits> {
    if let (Some(cpu), Some(cgroup)) = (&mut resources.cpu, container.cgroup()?)
        && cpu.quota.unwrap_or(0) == 0
    {
        // Quota and period share a file, so a new period alone would lift the quota.
        cpu.quota = cpu.period.and_then(|_| cgroup.cpu_quota());
    }
    let limit_stands = match &mut resources.memory {
        Some(memory) => complete_memory(memory, memory_in_force(container)?),
        None => false,
    };
    // The `ociVersion` of the container's configuration decides what a limit means.
    let version = Version::read(&container.state.oci_version);
    let mut faults = Vec::new();
    let mut limits = windlass_plan::cgroup::limits(resources, version, &mut faults, warnings);
    if !faults.is_empty() {
        return Err(Error::faults(faults));
    }
    if let (true, Some(check)) = (limit_stands, &mut limits.memory_check) {
        check.limit = None;
    }
    Ok(limits)
}

/// Sets the limits in cgroup v2. systemd learns of them first, so that it does not write its own values over them.
fn update_unified(container: &Container, cgroup: &Cgroup, resources: &Resources, limits: &Limits) -> Result<()> {
    if let Some(check) = &limits.memory_check {
        cgroup.check_memory(check)?;
    }
    if let Some(unit) = &container.state.unit {
        let mut properties = unit::of_limits(&limits.writes);
        if !resources.devices.is_empty() && !unit.user {
            properties.push(unit::no_devices());
            properties.extend(unit::of_devices(&resources.devices));
        }
        if !properties.is_empty() {
            Systemd::connect(unit.user)?.set_properties(&unit.name, &properties)?;
        }
    }
    cgroup.apply(&limits.writes)?;
    let filters = if container.state.unit.is_some() { Filters::Ours } else { Filters::All };
    match &limits.devices {
        Some(devices) if devices.asked => cgroup.replace_devices(Some(devices), filters),
        None if !resources.devices.is_empty() => cgroup.replace_devices(None, filters),
        // An update without device rules leaves the filter as it is.
        _ => Ok(()),
    }
}

/// The memory limits that a container has now, in cgroup v2 or else in v1.
fn memory_in_force(container: &Container) -> Result<MemoryInForce> {
    let unified = container.cgroup()?.map(|cgroup| cgroup.memory_in_force()).unwrap_or_default();
    if unified.limit.is_some() { Ok(unified) } else { Ok(container.cgroup_v1()?.memory_in_force()) }
}

/// The path of a directory of cgroup v1 below the root of its hierarchy.
fn below_root(hierarchy: &Hierarchy, place: &str) -> Option<String> {
    hierarchy.v1().iter().find_map(|v1| place.strip_prefix(&format!("{}/", v1.mount))).map(str::to_owned)
}

/// Moves the container's processes into cgroups that a first limit has just made. As always in cgroup v1, memory
/// that they use already stays charged to their former cgroup.
fn move_in(cgroup: &v1::Cgroups, group: &AnyCgroup) -> Result<()> {
    // A process that was forked meanwhile may be in the former cgroup.
    while cgroup.add_missing(&group.pids()?)? {}
    Ok(())
}

/// `--l3-cache-schema` and `--mem-bw-schema`.
fn update_resctrl(update: &cli::Update, container: &Container) -> Result<()> {
    let lines: Vec<&str> =
        [&update.l3_cache_schema, &update.mem_bw_schema].into_iter().flatten().map(String::as_str).collect();
    if lines.is_empty() {
        return Ok(());
    }
    windlass_apply::update_resctrl(container.state.resctrl.as_deref(), &lines)
}
