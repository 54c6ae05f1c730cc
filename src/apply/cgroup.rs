//! The container's cgroups: where they will be, and how they are made.

use std::cell::{Cell, OnceCell, RefCell};

use nix::errno::Errno;

use windlass_base::error::{Diagnostic, Error, Kind, Origin, Result};
use windlass_base::namespaces::Namespaces;
use windlass_base::spec::{Resources, Spec};
use windlass_cgroup::{self as cgroup, Cgroup, Hierarchy, Kill, Manager, Systemd, delegated, v1};
use windlass_plan::device_rules::v1::Rules;
use windlass_plan::unit::Unit;
use windlass_plan::{Plan, Topology};
use windlass_store::Store;
use windlass_sys::fd;
use windlass_sys::process::Child;

/// Where the cgroups will be.
pub struct CgroupPlacement {
    /// `None` if there will be no cgroup.
    hierarchy: Option<Hierarchy>,
    /// The path of the cgroup below the root of the hierarchy.
    path: String,
    /// Whether the cgroup will be below the runtime's own, with controllers.
    make_room: bool,
    /// The connection over which systemd is asked to make the cgroup, if we do not make it ourselves.
    systemd: Cell<Option<Systemd>>,
    v1: Option<v1::Limits>,
    /// The devices controller of version 1, which enforces the device rules where there is no cgroup2.
    devices: Option<v1::Devices>,
}

/// Whether the container must have a cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delegation {
    /// It must have one; the lack is an error.
    Required,
    /// It must have one only for a limit: many ordinary users have no delegated cgroup.
    Optional,
}

impl CgroupPlacement {
    /// Decides before anything is made. Limits that version 1 applies move from the plan to the placement, and the
    /// plan's warnings are adapted to what this host can do.
    ///
    /// Without cgroup2, a limit that nothing can apply is an error.
    pub fn decide(
        manager: Option<Manager>,
        systemd: Option<Result<Systemd>>,
        delegation: Delegation,
        resources: Option<&Resources>,
        plan: &mut Plan,
    ) -> Result<CgroupPlacement> {
        let place = |hierarchy, path| CgroupPlacement {
            hierarchy,
            path,
            make_room: false,
            systemd: Cell::new(None),
            v1: None,
            devices: None,
        };
        let none = place(None, String::new());
        if manager.is_none() {
            return Ok(none);
        }
        let hierarchy = Hierarchy::find()?;
        if let (Some(systemd), Some(unit)) = (systemd, &plan.unit) {
            if hierarchy.unified().is_none() {
                return Err(Error::new(
                    Kind::Unsupported,
                    "systemd makes cgroups of version 1 here, and those are not used",
                )
                .with_origin(Origin::Flag("--systemd-cgroup".into()))
                .with_hint("boot with systemd.unified_cgroup_hierarchy=1, or leave --systemd-cgroup out"));
            }
            let mut systemd = systemd?;
            let path = systemd.scope_path(unit)?;
            return Ok(CgroupPlacement { systemd: Cell::new(Some(systemd)), ..place(Some(hierarchy), path) });
        }
        if delegation == Delegation::Optional && hierarchy.unified().is_some() {
            let needs = plan.limits.needs();
            return match (delegated::find(&hierarchy, &plan.cgroups_path, &plan.id)?, needs.first()) {
                (Some(found), need) => {
                    let make_room = found.below_own && need.is_some();
                    Ok(CgroupPlacement { make_room, ..place(Some(hierarchy), found.path) })
                }
                (None, None) => Ok(none),
                (None, Some(need)) => Err(delegated::not_delegated(need)),
            };
        }
        let path = cgroup::path(&plan.cgroups_path, &plan.id)?;
        let resources = resources.cloned().unwrap_or_default();
        let v1 = v1::Limits::take(&hierarchy, &path, &resources, &mut plan.limits, &mut plan.warnings)?;
        let mut devices = None;
        if hierarchy.unified().is_none() {
            cgroup::require_cgroup2(&hierarchy, &plan.limits.needs())?;
            devices = devices_without_cgroup2(&hierarchy, &path, &resources, plan)?;
            if v1.is_none() && devices.is_none() {
                return Ok(none);
            }
        }
        Ok(CgroupPlacement { v1, devices, ..place(Some(hierarchy), path) })
    }

    /// The cgroup's path below the root of the hierarchy.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// The cgroup's path in the file system.
    pub(super) fn full(&self) -> Option<String> {
        let mount = self.hierarchy.as_ref()?.unified()?;
        Some(format!("{}/{}", mount.trim_end_matches('/'), self.path.trim_start_matches('/')))
    }

    /// The directories of version 1 that are the container's.
    pub(super) fn v1(&self) -> Vec<String> {
        let mut places = self.v1.as_ref().map_or(Vec::new(), |limits| limits.paths().to_vec());
        if let Some(place) = self.devices.as_ref().map(v1::Devices::full_path)
            && !places.contains(&place)
        {
            places.push(place);
        }
        places
    }

    /// Makes the cgroup with all limits except the device rules ([`NewCgroup::set_devices`]), and gives it to `owner`.
    ///
    /// `record` writes its path into the container's state. A new cgroup is recorded before it is made, so that it can
    /// always be found again. An existing cgroup is recorded after it was found to be free, so that a later `delete
    /// --force` never removes somebody else's. A cgroup that an ended container in `store` has is not free: the
    /// `delete` of that container would kill the new one.
    ///
    /// systemd makes a scope only around a process, see [`NewCgroup::begin`].
    pub(super) fn make(
        &self,
        plan: &Plan,
        owner: Option<u32>,
        store: &Store,
        record: impl FnOnce() -> Result<()>,
    ) -> Result<NewCgroup> {
        if let Some(limits) = &self.v1 {
            limits.refuse_in_use()?;
        }
        if let Some(devices) = &self.devices {
            devices.refuse_in_use()?;
        }
        if self.make_room {
            delegated::leave_own_cgroup()?;
        }
        let mut made = NewCgroup { unified: OnceCell::new(), scope: None, owner, v1: None, v1_places: Vec::new() };
        if let (Some(systemd), Some(unit), Some(path)) = (self.systemd.take(), &plan.unit, self.full()) {
            Scope::refuse_in_use(&path)?;
            record()?;
            made.scope = Some(RefCell::new(Scope { systemd, unit: unit.clone(), path, serial: None }));
            return Ok(made);
        }
        match (&self.hierarchy, self.full()) {
            (Some(hierarchy), Some(full)) => {
                let there = exists(&full);
                let full = [full];
                let make = || Cgroup::create(hierarchy, &self.path, &plan.limits.needs());
                made.unified = OnceCell::from(if there {
                    let cgroup = make()?;
                    refuse_of_another(store, &full)?;
                    record()?;
                    cgroup
                } else {
                    record()?;
                    make()?
                });
            }
            _ => {
                let there: Vec<String> = self.v1().into_iter().filter(|place| exists(place)).collect();
                if !there.is_empty() {
                    refuse_of_another(store, &there)?;
                }
                record()?;
            }
        }
        if self.v1.is_some() || self.devices.is_some() {
            made.v1_places = self.v1();
            made.v1_places.retain(|place| !exists(place));
            let mut all = v1::Cgroups::default();
            if let Some(limits) = &self.v1 {
                all.add(limits.make()?);
            }
            if let Some(devices) = &self.devices {
                all.add(devices.make()?);
            }
            made.v1 = Some(all);
        }
        made.apply_limits_and_owner(plan)?;
        Ok(made)
    }
}

fn exists(path: &str) -> bool {
    fd::stat_at(fd::CWD, path).is_ok()
}

/// Refuses the cgroups of a container that is not deleted yet.
fn refuse_of_another(store: &Store, paths: &[String]) -> Result<()> {
    let Some(other) = store.of_cgroup(paths, None)? else { return Ok(()) };
    let id = &other.state.id;
    Err(Error::new(Kind::WrongStatus, format!("the cgroup belongs to container {id:?}, which is not deleted"))
        .with_origin(Origin::config("/linux/cgroupsPath"))
        .with_hint("its `delete` would kill this one: delete it first, or give one of them another cgroupsPath"))
}

/// The devices controller that enforces the device rules on a host without cgroup2. Returns `None` if everything is
/// allowed, or if the container has a user namespace, in which nobody can make a device.
///
/// Rules that nothing can enforce are an error: they keep a container from the host's disks.
fn devices_without_cgroup2(
    hierarchy: &Hierarchy,
    path: &str,
    resources: &Resources,
    plan: &mut Plan,
) -> Result<Option<v1::Devices>> {
    // An ordinary user's plan has no device rules: its containers can only use what that user can use anyway.
    let Some(rules) = plan.limits.devices.take().and_then(|_| Rules::of(&resources.devices)) else { return Ok(None) };
    let asked = rules.asked;
    match v1::Devices::find(hierarchy, path, rules) {
        None if !plan.topology.user_namespace() => Err(v1::devices_unavailable(asked)),
        None if asked => {
            plan.warnings.push(Diagnostic {
                pointer: "/linux/resources/devices".into(),
                msg: "the device rules are not applied: no cgroup file system that could is mounted".into(),
            });
            Ok(None)
        }
        devices => Ok(devices),
    }
}

/// The cgroups of a container that is being made. Dropping them kills their processes and removes them, unless they are
/// kept.
pub(super) struct NewCgroup {
    /// The cgroup of version 2, once it exists.
    unified: OnceCell<Cgroup>,
    scope: Option<RefCell<Scope>>,
    owner: Option<u32>,
    v1: Option<v1::Cgroups>,
    v1_places: Vec<String>,
}

impl NewCgroup {
    /// The cgroup of version 2, if init can be cloned into it.
    pub(crate) fn unified(&self) -> Option<&Cgroup> {
        self.unified.get()
    }

    /// Asks systemd to make the scope around init, and does not wait for the answer.
    pub(crate) fn begin(&self, init: &Child) -> Result<()> {
        self.scope.as_ref().map_or(Ok(()), |scope| scope.borrow_mut().begin(init))
    }

    /// Waits until init is in the scope, and sets the limits that systemd does not set.
    pub(crate) fn finish(&self, plan: &Plan, init: &Child) -> Result<()> {
        let Some(scope) = &self.scope else { return Ok(()) };
        let mut scope = scope.borrow_mut();
        scope.finish(init)?;
        let cgroup = Cgroup::of_scope(&scope.path)?;
        if self.unified.set(cgroup).is_err() {
            return Err(Error::new(Kind::Protocol, "init asked twice for its scope"));
        }
        self.apply_limits_and_owner(plan)?;
        self.set_devices(plan)
    }

    fn apply_limits_and_owner(&self, plan: &Plan) -> Result<()> {
        let Some(cgroup) = self.unified.get() else { return Ok(()) };
        cgroup.apply(&plan.limits.writes)?;
        match self.owner.map(|uid| cgroup.delegate(uid, None)) {
            // An ordinary user may not change owners, and need not: the container's root is that user.
            Some(Err(_)) if plan.rootless => Ok(()),
            Some(other) => other,
            None => Ok(()),
        }
    }

    pub(crate) fn keep(mut self) {
        self.unified.take();
        self.scope.take();
        self.v1_places.clear();
    }

    /// Sets the plan's device filter, before any program of the container runs. Does nothing if the cgroup does
    /// not exist yet.
    pub(crate) fn set_devices(&self, plan: &Plan) -> Result<()> {
        match (self.unified.get(), &plan.limits.devices) {
            (Some(cgroup), Some(devices)) => cgroup.set_devices(devices),
            _ => Ok(()),
        }
    }

    /// The files through which init joins the cgroups of version 1. It must be inside before its cgroup namespace
    /// is made.
    pub(crate) fn open_procs(&self) -> Result<v1::Procs> {
        self.v1.as_ref().map_or(Ok(v1::Procs::default()), v1::Cgroups::open_procs)
    }

    /// Whether the kernel killed a process in the cgroup because memory ran out.
    pub(crate) fn oom_killed(&self) -> bool {
        let unified = self.unified.get().and_then(Cgroup::oom_kills);
        unified.or_else(|| self.v1.as_ref()?.oom_kills()).is_some_and(|n| n > 0)
    }
}

impl Drop for NewCgroup {
    fn drop(&mut self) {
        // `delete --force` removes what cannot be removed now.
        let cgroup = self.unified.take();
        if let Some(scope) = self.scope.take() {
            drop(cgroup);
            scope.into_inner().undo();
        } else if let Some(cgroup) = cgroup.filter(Cgroup::was_created) {
            let path = cgroup.path().to_string();
            drop(cgroup);
            let _ = cgroup::remove(&path, Kill::Yes);
        }
        let _ = v1::remove(&self.v1_places, Kill::Yes);
    }
}

/// A scope that systemd is making, or has made.
struct Scope {
    systemd: Systemd,
    unit: Unit,
    /// The path of its cgroup in the file system.
    path: String,
    /// The serial number of the D-Bus call that starts it, once it was sent.
    serial: Option<u32>,
}

/// How often a dead unit of the same name is removed before the start counts as failed.
const TRIES: usize = 3;

impl Scope {
    /// Refuses a cgroup that has processes, which are somebody else's.
    fn refuse_in_use(path: &str) -> Result<()> {
        match Cgroup::open(path) {
            Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(()),
            Err(error) => Err(error),
            Ok(cgroup) if cgroup.is_populated()? => {
                let pids = cgroup.pids(true)?;
                let msg = format!("container's cgroup is not empty: {} process(es) found", pids.len());
                Err(Error::new(Kind::WrongStatus, msg).with_origin(Origin::config("/linux/cgroupsPath")))
            }
            Ok(_) => Ok(()),
        }
    }

    fn begin(&mut self, init: &Child) -> Result<()> {
        self.serial = Some(self.systemd.request_scope(&self.unit, init)?);
        Ok(())
    }

    fn finish(&mut self, init: &Child) -> Result<()> {
        for tries in 0.. {
            let begun = || Error::new(Kind::Protocol, "systemd was not asked for the scope");
            match self.systemd.await_scope(self.serial.ok_or_else(begun)?, &self.unit) {
                Err(error) if error.kind() == Kind::AlreadyExists => {
                    // The unit that is there is not ours, so undoing must not stop it.
                    self.serial = None;
                    if tries == TRIES || Scope::refuse_in_use(&self.path).is_err() {
                        return Err(error);
                    }
                    // The unit is left over from a container that has ended.
                    self.systemd.stop(&self.unit.name)?;
                    self.begin(init)?;
                }
                other => return other,
            }
        }
        Ok(())
    }

    fn undo(mut self) {
        if self.serial.is_some() {
            let _ = cgroup::remove(&self.path, Kill::Yes);
            let _ = self.systemd.stop(&self.unit.name);
        }
    }
}

/// The user who is to own the cgroup: the container's, if the container gets its own cgroup namespace
/// and a cgroup filesystem that it may write to (config-linux.md, "Cgroup ownership").
pub(super) fn owner_of_cgroup(spec: &Spec, topology: &Topology) -> Option<u32> {
    let writable = spec.mounts.iter().any(|mount| {
        matches!(mount.kind.as_str(), "cgroup" | "cgroup2")
            && !mount.options.iter().any(|option| option == "ro" || option == "rro")
    });
    if !topology.new.contains(Namespaces::CGROUP) || !writable {
        return None;
    }
    let uid = spec.process.as_ref().map_or(0, |process| process.user.uid);
    match topology.uid_mappings.iter().find_map(|mapping| mapping.to_host(uid)) {
        Some(uid) => Some(uid),
        None if topology.user_namespace() => None,
        None => (uid != 0).then_some(uid),
    }
}
