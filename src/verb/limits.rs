//! `pause`, `resume` and `update`.

use crate::cli;
use windlass_base::error::{Error, Kind, Result};
use windlass_base::spec::Version;
use windlass_cgroup::{Filters, Group, Hierarchy, Systemd, refuse, v1};
use windlass_plan::cgroup::{MemoryInForce, complete_memory};
use windlass_plan::device_rules::v1::Rules;
use windlass_plan::unit;
use windlass_store::{Container, Status};

use super::Session;

fn wrong(msg: impl Into<String>) -> Error {
    Error::new(Kind::WrongStatus, msg)
}

fn group(container: &Container, what: &str) -> Result<Group> {
    let missing = || Error::new(Kind::Unsupported, format!("cannot {what} a container without a cgroup"));
    container.group()?.ok_or_else(missing)
}

pub(super) fn pause(id: &str, session: &mut Session<'_>) -> Result<()> {
    let mut container = session.store()?.load(id)?;
    container.lock()?;
    match container.status()? {
        Status::Running | Status::Created => group(&container, "pause")?.freeze(),
        status => Err(wrong(format!("container not running or created: {status}"))),
    }
}

pub(super) fn resume(id: &str, session: &mut Session<'_>) -> Result<()> {
    let mut container = session.store()?.load(id)?;
    container.lock()?;
    match container.status()? {
        Status::Paused => group(&container, "resume")?.thaw(),
        _ => Err(wrong("container not paused")),
    }
}

pub(super) fn update(update: &cli::Update, session: &mut Session<'_>) -> Result<()> {
    let mut container = session.store()?.load(&update.id)?;
    let document = update.resources.as_ref().map(cli::Source::read).transpose()?;
    let (mut faults, mut warnings) = (Vec::new(), Vec::new());
    let mut resources = update.to_resources(document.as_deref(), &mut warnings)?;
    container.lock()?;
    if container.status()? == Status::Stopped {
        return Err(wrong("cannot update a stopped container"));
    }
    if let (Some(cpu), Some(cgroup)) = (&mut resources.cpu, container.cgroup()?)
        && cpu.quota.unwrap_or(0) == 0
    {
        // They share a file, so a new period alone would lift the quota.
        cpu.quota = cpu.period.and_then(|_| cgroup.cpu_quota());
    }
    let limit_stands = match &mut resources.memory {
        Some(memory) => complete_memory(memory, memory_in_force(&container)?),
        None => false,
    };
    // The `ociVersion` of the container's configuration decides what a limit means.
    let version = Version::read(&container.state.oci_version);
    let mut limits = windlass_plan::cgroup::limits(&resources, version, &mut faults, &mut warnings);
    if !faults.is_empty() {
        return Err(Error::faults(faults));
    }
    if let (true, Some(check)) = (limit_stands, &mut limits.memory_check) {
        check.limit = None;
    }
    let hierarchy = Hierarchy::find()?;
    let share = match container.state.cgroup_v1.first().and_then(|place| below_root(&hierarchy, place)) {
        Some(path) => v1::Share::take(&hierarchy, &path, &resources, &mut limits, &mut warnings)?,
        None => None,
    };
    session.warn(warnings)?;
    refuse(&hierarchy, &limits.needs())?;
    let all = group(&container, "update")?;
    if let Some(check) = &limits.memory_check {
        container.cgroup_v1()?.check_memory(check)?;
    }
    if let Some(share) = share {
        share.refuse_others(&container.state.cgroup_v1)?;
        move_in(&share.make()?, &all)?;
    }
    if let Group::Unified(cgroup) = all {
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
                Systemd::connect(unit.user)?.set(&unit.name, &properties)?;
            }
        }
        cgroup.apply(&limits.writes)?;
        let filters = if container.state.unit.is_some() { Filters::Ours } else { Filters::All };
        // Without rules of their own an update leaves the device filter as it is.
        match limits.devices {
            Some(devices) if devices.asked => cgroup.replace_devices(Some(&devices), filters)?,
            None if !resources.devices.is_empty() => cgroup.replace_devices(None, filters)?,
            _ => {}
        }
    } else if !resources.devices.is_empty() {
        container.cgroup_v1()?.change_devices(Rules::of(&resources.devices).as_ref())?;
    }
    update_resctrl(update, &container)
}

/// The limits of memory that a container has, in whichever version of cgroups.
fn memory_in_force(container: &Container) -> Result<MemoryInForce> {
    let unified = container.cgroup()?.map(|cgroup| cgroup.memory_in_force()).unwrap_or_default();
    if unified.limit.is_some() { Ok(unified) } else { Ok(container.cgroup_v1()?.memory_in_force()) }
}

/// The path of a directory of version 1 below the root of its hierarchy.
fn below_root(hierarchy: &Hierarchy, place: &str) -> Option<String> {
    hierarchy.v1().iter().find_map(|v1| place.strip_prefix(&format!("{}/", v1.mount))).map(str::to_owned)
}

/// Brings the container's processes into cgroups that a first limit has just made. What they use
/// already stays charged to where they were: so version 1 has it.
fn move_in(cgroup: &v1::Cgroup, all: &Group) -> Result<()> {
    // A process that was forked meanwhile may be outside still.
    while cgroup.bring_in(&all.pids()?)? {}
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
