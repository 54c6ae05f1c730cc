//! The container's cgroups: where they will be, and making them.

use crate::abi::namespace;
use crate::cgroup::{self, Cgroup, Hierarchy, Kill, Manager, delegated, v1};
use crate::error::{Fault, Result};
use crate::plan::{Plan, Topology};
use crate::spec::{Resources, Spec};
use crate::sys::fd;

/// Where the cgroups will be.
pub struct Place {
    /// `None`: there will be none.
    hierarchy: Option<Hierarchy>,
    /// Below the root of the hierarchy.
    path: String,
    /// Whether that is below the runtime's own cgroup, with controllers.
    make_room: bool,
    v1: Option<v1::Share>,
}

/// Whether it is an error that no cgroup can be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undelegated {
    /// It is.
    Refused,
    /// Only where a limit was asked for: an ordinary user often has none.
    Tolerated,
}

impl Place {
    /// Decides before anything is made. Limits of the plan that are for version 1 move from the
    /// plan to the place, and warnings change by what this host can do.
    ///
    /// Without cgroup2, limits that nothing can apply are an error.
    pub fn decide(
        manager: Option<Manager>,
        undelegated: Undelegated,
        resources: Option<&Resources>,
        plan: &mut Plan,
    ) -> Result<Place> {
        let none = Place { hierarchy: None, path: String::new(), make_room: false, v1: None };
        let Some(manager) = manager else { return Ok(none) };
        let hierarchy = Hierarchy::find()?;
        if undelegated == Undelegated::Tolerated && hierarchy.unified().is_some() {
            let needs = plan.limits.needs();
            return match (delegated::find(&hierarchy, &plan.cgroups_path, &plan.id)?, needs.first()) {
                (Some(place), need) => {
                    let make_room = place.inside && need.is_some();
                    Ok(Place { hierarchy: Some(hierarchy), path: place.path, make_room, v1: None })
                }
                (None, None) => Ok(none),
                (None, Some(need)) => Err(delegated::refuse(need)),
            };
        }
        let path = manager.path(&plan.cgroups_path, &plan.id)?;
        let resources = resources.cloned().unwrap_or_default();
        let v1 = v1::Share::take(&hierarchy, &path, &resources, &mut plan.limits, &mut plan.warnings)?;
        if hierarchy.unified().is_none() {
            cgroup::refuse(&hierarchy, &plan.limits.needs())?;
            if plan.limits.devices.take().is_some_and(|devices| devices.asked) {
                plan.warnings.push(Fault {
                    pointer: "/linux/resources/devices".into(),
                    msg: "the device rules are not applied: no cgroup2 file system is mounted".into(),
                });
            }
            if v1.is_none() {
                return Ok(none);
            }
        }
        Ok(Place { hierarchy: Some(hierarchy), path, make_room: false, v1 })
    }

    /// Its path in the file system.
    pub(super) fn full(&self) -> Option<String> {
        let mount = self.hierarchy.as_ref()?.unified()?;
        Some(format!("{}/{}", mount.trim_end_matches('/'), self.path.trim_start_matches('/')))
    }

    /// The directories of version 1 that are the container's.
    pub(super) fn v1(&self) -> Vec<String> {
        self.v1.as_ref().map_or(Vec::new(), |share| share.places().to_vec())
    }

    /// Makes it, with its limits but for the devices. `record` writes its path down: before it is made, so that it
    /// can be found again, but after a look at one that is there already, so that what is
    /// somebody else's is never found by a later `delete --force`.
    pub(super) fn make(&self, plan: &Plan, record: impl FnOnce() -> Result<()>) -> Result<Made> {
        if let Some(share) = &self.v1 {
            share.refuse_in_use()?;
        }
        if self.make_room {
            delegated::make_room()?;
        }
        let mut made = Made { unified: None, v1: None, v1_places: Vec::new() };
        match (&self.hierarchy, self.full()) {
            (Some(hierarchy), Some(full)) => {
                let there = fd::stat_at(fd::CWD, &full).is_ok();
                let make = || Cgroup::create(hierarchy, &self.path, &plan.limits.needs());
                made.unified = Some(if there {
                    let cgroup = make()?;
                    record()?;
                    cgroup
                } else {
                    record()?;
                    make()?
                });
            }
            _ => record()?,
        }
        if let Some(share) = &self.v1 {
            let new = share.places().iter().filter(|place| fd::stat_at(fd::CWD, place).is_err());
            made.v1_places = new.cloned().collect();
            made.v1 = Some(share.make()?);
        }
        if let Some(cgroup) = &made.unified {
            cgroup.apply(&plan.limits.writes)?;
        }
        Ok(made)
    }
}

/// The cgroups of a container in the making: removed with whatever is in them, unless the story
/// ended well.
pub(super) struct Made {
    /// That of version 2.
    pub unified: Option<Cgroup>,
    v1: Option<v1::Cgroup>,
    v1_places: Vec<String>,
}

impl Made {
    pub fn keep(mut self) {
        self.unified.take();
        self.v1_places.clear();
    }

    /// Sets the device filter of the plan; before any program of the container runs.
    pub fn set_devices(&self, plan: &Plan) -> Result<()> {
        match (&self.unified, &plan.limits.devices) {
            (Some(cgroup), Some(devices)) => cgroup.set_devices(devices),
            _ => Ok(()),
        }
    }

    /// For init, which goes in by itself: it must be inside before it has a cgroup namespace.
    pub fn doors(&self) -> Result<v1::Doors> {
        self.v1.as_ref().map_or(Ok(v1::Doors::default()), v1::Cgroup::doors)
    }

    /// Whether the kernel killed a process in it for want of memory.
    pub fn oom_killed(&self) -> bool {
        let unified = self.unified.as_ref().and_then(Cgroup::oom_kills);
        unified.or_else(|| self.v1.as_ref()?.oom_kills()).is_some_and(|n| n > 0)
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        // What cannot be removed now is there for `delete --force`.
        if let Some(cgroup) = self.unified.take().filter(Cgroup::made) {
            let path = cgroup.path().to_string();
            drop(cgroup);
            let _ = cgroup::remove(&path, Kill::Yes);
        }
        let _ = v1::remove(&self.v1_places, Kill::Yes);
    }
}

/// Who is to own the cgroup: the container's user, if the container gets its own cgroup namespace
/// and a cgroup filesystem that it may write to (config-linux.md, "Cgroup ownership").
pub(super) fn owner_of_cgroup(spec: &Spec, topology: &Topology) -> Option<u32> {
    let writable = spec.mounts.iter().any(|mount| {
        matches!(mount.kind.as_str(), "cgroup" | "cgroup2")
            && !mount.options.iter().any(|option| option == "ro" || option == "rro")
    });
    if topology.new & namespace::CGROUP == 0 || !writable {
        return None;
    }
    let uid = spec.process.as_ref().map_or(0, |process| process.user.uid);
    let mapped = topology.uid_mappings.iter().find(|m| uid >= m.container_id && uid - m.container_id < m.size);
    match mapped {
        Some(mapping) => Some(mapping.host_id + (uid - mapping.container_id)),
        None if topology.user_namespace() => None,
        None => (uid != 0).then_some(uid),
    }
}
