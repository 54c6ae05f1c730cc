//! Compares the claims of images with the configuration of their container.
//!
//! Images may come from anybody. Their processes may be anything, but the configuration decides how they are separated
//! from the host. A claim that would give them more is a fault, with the element that it contradicts.

use std::collections::BTreeSet;
use std::rc::Rc;

use windlass_base::capability::CapabilitySet;
use windlass_base::error::Diagnostic;
use windlass_base::mount::MountAttributes;
use windlass_base::namespaces::Namespaces;
use windlass_base::spec::{IdMapping, Spec};

use crate::checkpoint::{NULL, is_below};
use crate::create::Plan;
use crate::explain::kind_names;
use crate::mount::{MountKind, Source};
use crate::step::{Action, Identity};

/// The claims of the images.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// The number of processes.
    pub processes: usize,
    /// For each process the namespaces that are not CRIU's own.
    pub namespaces: Vec<Namespaces>,
    /// Every thread.
    pub threads: Vec<Thread>,
    /// The mounts of all mount namespaces, those of init first.
    pub mounts: Vec<ClaimedMount>,
    /// The id maps, in the user namespace of init.
    pub maps: Option<[Vec<IdMapping>; 2]>,
}

/// The claims of a thread.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Thread {
    /// Its id in the container.
    pub tid: u32,
    /// Real, effective, saved and filesystem user id.
    pub uids: [u32; 4],
    /// Real, effective, saved and filesystem group id.
    pub gids: [u32; 4],
    /// All capabilities in any of its sets.
    pub capabilities: CapabilitySet,
    /// `no_new_privs`.
    pub no_new_privileges: bool,
    /// Whether it has seccomp filters.
    pub filtered: bool,
    /// These filters, if they are known. Most threads have the same.
    pub filters: Rc<Vec<Rc<[u8]>>>,
}

/// The claims of a mount.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClaimedMount {
    /// Its id.
    pub id: u32,
    /// Its mount point in the container.
    pub point: String,
    /// The type of its filesystem.
    pub kind: String,
    /// A number that mounts of one filesystem share.
    pub device: u32,
    /// The path in the filesystem that is mounted.
    pub root: String,
    /// Its attributes: read-only, `nosuid`, `nodev` and `noexec`, whose bits are the same in mount(2).
    pub flags: MountAttributes,
    /// Its name, if it comes from outside.
    pub external: Option<String>,
    /// Whether a plugin makes it.
    pub plugin: bool,
    /// The options of the filesystem.
    pub options: String,
    /// The number of its mount namespace. That of init is 0.
    pub namespace: usize,
}

impl ClaimedMount {
    /// Whether it is in another mount namespace than that of init.
    pub fn nested(&self) -> bool {
        self.namespace > 0
    }
}

/// Kinds of namespaces that every restored container may have for itself.
const FREE: Namespaces = Namespaces::TIME;

/// The flags that restrict a container.
pub const RESTRICTING: MountAttributes =
    MountAttributes::RDONLY.union(MountAttributes::NOSUID).union(MountAttributes::NODEV).union(MountAttributes::NOEXEC);

/// Filesystems that a process with CAP_SYS_ADMIN may have mounted itself. An overlay is not among them, since CRIU
/// looks its layers up on the host, and neither is binfmt_misc, through which CRIU would change how the host executes
/// programs.
pub(crate) const OWN: &[&str] = &["proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup2"];

/// Finds the claims that contradict the configuration. `there` tells whether a path of procfs or sysfs exists.
pub fn contradictions(plan: &Plan, spec: &Spec, claims: &Claims, there: &dyn Fn(&str) -> bool) -> Vec<Diagnostic> {
    let mut faults = Vec::new();
    check_limits(plan, spec, claims, &mut faults);
    check_tasks(plan, claims, &mut faults);
    check_mounts(plan, claims, there, &mut faults);
    one_of_each(faults)
}

/// Finds the claims about running tasks that contradict the configuration.
pub fn task_contradictions(plan: &Plan, claims: &Claims) -> Vec<Diagnostic> {
    let mut faults = Vec::new();
    check_tasks(plan, claims, &mut faults);
    one_of_each(faults)
}

/// Finds the claims about mounts that contradict the configuration.
pub fn mount_contradictions(plan: &Plan, claims: &Claims, there: &dyn Fn(&str) -> bool) -> Vec<Diagnostic> {
    let mut faults = Vec::new();
    check_mounts(plan, claims, there, &mut faults);
    one_of_each(faults)
}

/// Keeps one fault for each element, since a hostile image could cause any number.
pub fn one_of_each(mut faults: Vec<Diagnostic>) -> Vec<Diagnostic> {
    let mut known = BTreeSet::new();
    faults.retain(|fault| known.insert(fault.pointer.clone()));
    faults
}

fn check_tasks(plan: &Plan, claims: &Claims, faults: &mut Vec<Diagnostic>) {
    check_namespaces(plan, claims, faults);
    check_threads(plan, claims, faults);
}

fn fault(faults: &mut Vec<Diagnostic>, pointer: impl Into<String>, msg: String) {
    faults.push(Diagnostic { pointer: pointer.into(), msg });
}

fn check_limits(plan: &Plan, spec: &Spec, claims: &Claims, faults: &mut Vec<Diagnostic>) {
    let resources = spec.linux.as_ref().and_then(|linux| linux.resources.as_ref());
    let limit = resources.and_then(|resources| resources.pids.as_ref()).and_then(|pids| pids.limit);
    if limit.is_some_and(|limit| limit > 0 && claims.threads.len() as u64 > limit as u64) {
        let msg = format!("the images have {} tasks, more than the limit", claims.threads.len());
        fault(faults, "/linux/resources/pids/limit", msg);
    }
    if let (Some([uids, gids]), true) = (&claims.maps, plan.topology.new.contains(Namespaces::USER)) {
        for (claimed, ours, pointer) in [
            (uids, &plan.topology.uid_mappings, "/linux/uidMappings"),
            (gids, &plan.topology.gid_mappings, "/linux/gidMappings"),
        ] {
            if claimed != ours {
                fault(faults, pointer, "the images have other id mappings".into());
            }
        }
    } else if plan.topology.new.contains(Namespaces::USER) {
        fault(faults, "/linux/uidMappings", "the images have no id mappings".into());
    }
}

fn check_namespaces(plan: &Plan, claims: &Claims, faults: &mut Vec<Diagnostic>) {
    for claimed in &claims.namespaces {
        let (missing, more) = (plan.topology.new - *claimed - FREE, *claimed - plan.topology.all() - FREE);
        if !missing.is_empty() {
            let msg = format!("a process of the images is in the host's {} namespace", kind_names(missing));
            fault(faults, "/linux/namespaces", msg);
        } else if !more.is_empty() {
            let msg = format!("a process of the images has a {} namespace", kind_names(more));
            fault(faults, "/linux/namespaces", msg);
        }
    }
}

fn check_threads(plan: &Plan, claims: &Claims, faults: &mut Vec<Diagnostic>) {
    let none = Identity::default();
    let identity = plan.init.iter().find_map(|step| match &step.action {
        Action::Identity(identity) => Some(identity),
        _ => None,
    });
    let identity = identity.unwrap_or(&none);
    let bounding = identity.capabilities.bounding;
    let confined = plan.init.iter().any(|step| matches!(step.action, Action::NoNewPrivileges));
    let filter = plan.init.iter().find_map(|step| match &step.action {
        Action::Seccomp(seccomp) => Some(bytes(seccomp.filter.program.instructions())),
        _ => None,
    });
    for thread in &claims.threads {
        let tid = thread.tid;
        let more = thread.capabilities - bounding;
        if !more.is_empty() {
            let msg = format!("task {tid} of the images has capabilities {:#x} besides the bounding set", more.bits());
            fault(faults, "/process/capabilities/bounding", msg);
        }
        if confined && !thread.no_new_privileges {
            fault(faults, "/process/noNewPrivileges", format!("task {tid} of the images has no no_new_privs"));
        }
        // A set-user-id program or a capability may have changed the ids.
        for (ids, id, capability, pointer) in [
            (thread.uids, identity.uid, CapabilitySet::SETUID, "/process/user/uid"),
            (thread.gids, identity.gid, CapabilitySet::SETGID, "/process/user/gid"),
        ] {
            if confined && !bounding.contains(capability) && ids.iter().any(|claimed| *claimed != id) {
                fault(faults, pointer, format!("task {tid} of the images has the ids {ids:?}"));
            }
        }
        let has = |filter: &[u8]| {
            thread.filtered && (thread.filters.is_empty() || thread.filters.iter().any(|it| it[..] == *filter))
        };
        if filter.as_ref().is_some_and(|filter| !has(filter)) {
            let msg = format!("task {tid} of the images does not have the filter of the configuration");
            fault(faults, "/linux/seccomp", msg);
        }
    }
}

/// The instructions as the kernel has them (`struct sock_filter`).
fn bytes(instructions: &[windlass_seccomp::sock_filter]) -> Vec<u8> {
    let word = |it: &windlass_seccomp::sock_filter| {
        let mut out = [0; 8];
        out[..2].copy_from_slice(&it.code.to_ne_bytes());
        (out[2], out[3]) = (it.jt, it.jf);
        out[4..].copy_from_slice(&it.k.to_ne_bytes());
        out
    };
    instructions.iter().flat_map(word).collect()
}

fn check_mounts(plan: &Plan, claims: &Claims, there: &dyn Fn(&str) -> bool, faults: &mut Vec<Diagnostic>) {
    let is_root = |mount: &&ClaimedMount| !mount.nested() && mount.point == "/";
    if claims.mounts.iter().filter(is_root).count() > 1 {
        fault(faults, "/root/path", "the images have more than one root filesystem".into());
    }
    for mount in claims.mounts.iter().filter(|mount| !is_root(mount)) {
        if let Some(msg) = contradiction(plan, claims, mount) {
            fault(faults, pointer_of(plan, &mount.point).unwrap_or_else(|| "/mounts".into()), msg);
        }
    }
    for mount in &claims.mounts {
        let missing = required(plan, &mount.point) - mount.flags;
        if !missing.is_empty() {
            let pointer = pointer_of(plan, &mount.point).unwrap_or_else(|| "/linux/readonlyPaths".into());
            let pointer = if mount.point == "/" { "/root/readonly".into() } else { pointer };
            let (point, missing) = (&mount.point, missing.bits());
            fault(faults, pointer, format!("the mount {point} of the images lacks flags: {missing:#x}"));
        }
    }
    let of_init = || claims.mounts.iter().filter(|mount| !mount.nested());
    let covered = |path: &str| of_init().any(|mount| mount.point == path);
    // A path below no mount is in the root filesystem, which has no files of the kernel.
    let mounted =
        |path: &str| of_init().any(|mount| path.strip_prefix(&mount.point).is_some_and(|rest| rest.starts_with('/')));
    for step in &plan.init {
        let (path, list) = match &step.action {
            Action::Mask(path) => (path.to_string(), "/linux/maskedPaths"),
            Action::ReadonlyPath(path) => (path.to_string(), "/linux/readonlyPaths"),
            _ => continue,
        };
        let kernels = path.starts_with("/proc/") || path.starts_with("/sys/");
        if kernels && mounted(&path) && !covered(&path) && there(&path) {
            fault(faults, list, format!("the images do not cover {path}"));
        }
    }
}

/// Describes what is wrong with a mount other than the root.
fn contradiction(plan: &Plan, claims: &Claims, mount: &ClaimedMount) -> Option<String> {
    let ClaimedMount { point, kind, .. } = mount;
    // CRIU would follow such a path out of the container.
    if let Some(odd) = [point, &mount.root].into_iter().find(|path| !is_canonical(path)) {
        return Some(format!("the images have a mount with the path {odd:?}"));
    }
    if mount.plugin {
        return Some(format!("the mount {point} of the images is made by a plugin"));
    }
    if mount.nested() && !may_mount(plan) {
        return Some(format!("the images have the mount {point} in another mount namespace than that of init"));
    }
    if let Some(name) = &mount.external {
        let hides = |action: &Action| matches!(action, Action::Mask(path) if path.is(point));
        let masks = name == NULL && plan.init.iter().any(|step| hides(&step.action));
        return (name != point && !masks).then(|| format!("the images mount {name:?} on {point}"));
    }
    // A new mount namespace begins with copies of init's external mounts. Their content is checked later.
    let is_copy = |whole: &ClaimedMount| {
        let same = whole.device == mount.device && is_below(&mount.root, &whole.root);
        same && whole.external.is_some() && ((whole.flags & RESTRICTING) - mount.flags).is_empty()
    };
    if mount.nested() && claims.mounts.iter().any(|whole| !whole.nested() && is_copy(whole)) {
        return None;
    }
    // Whether the mount is a part of `whole`, which CRIU makes.
    let is_part = |whole: &ClaimedMount| {
        whole.device == mount.device && whole.external.is_none() && is_below(&mount.root, &whole.root)
    };
    if claims.mounts.iter().find(|mount| mount.point == "/").is_some_and(is_part) {
        let lacks = !may_mount(plan) && !(required(plan, "/") - mount.flags).is_empty();
        return lacks
            .then(|| format!("the images have a part of the root filesystem on {point} with fewer restrictions"));
    }
    // A tmpfs shows nothing of the host, wherever it is mounted. A part of another filesystem could show what is masked
    // or read-only elsewhere.
    let made = mount.root == "/" && expected_kind(plan, point).is_some_and(|made| made == kind);
    let known = made || is_cover(plan, point) || kind == "tmpfs";
    let harmless = OWN.contains(&kind.as_str()) && (known || may_mount(plan));
    (!harmless).then(|| format!("the images have a mount of type {kind:?} on {point}, which the configuration has not"))
}

/// Whether a path is absolute, without `.`, `..` and empty components.
fn is_canonical(path: &str) -> bool {
    let names = |rest: &str| rest.is_empty() || rest.split('/').all(|name| !["", ".", ".."].contains(&name));
    path.strip_prefix('/').is_some_and(names)
}

/// Whether the processes of the container may mount and unmount.
pub fn may_mount(plan: &Plan) -> bool {
    bounding(plan).contains(CapabilitySet::SYS_ADMIN)
}

/// The bounding set of the configuration.
pub fn bounding(plan: &Plan) -> CapabilitySet {
    let identity = plan.init.iter().find_map(|step| match &step.action {
        Action::Identity(identity) => Some(identity.capabilities.bounding),
        _ => None,
    });
    identity.unwrap_or(CapabilitySet::empty())
}

/// The restricting flags that the configuration demands of the last mount on a path.
pub(crate) fn required(plan: &Plan, point: &str) -> MountAttributes {
    let mut flags = MountAttributes::empty();
    for step in &plan.init {
        match &step.action {
            Action::Mount(mount) if mount.destination.is(point) => flags = of_mount(plan, mount),
            Action::Readonly(path) | Action::ReadonlyPath(path) if path.is(point) || path.is_root() && point == "/" => {
                flags |= MountAttributes::RDONLY;
            }
            Action::Rootfs { source: Some(id), .. } if point == "/" => {
                flags |= plan.source(*id).map_or(MountAttributes::empty(), |source| source.set | source.set_all);
            }
            _ => {}
        }
    }
    flags & RESTRICTING
}

fn of_mount(plan: &Plan, mount: &crate::mount::Mount) -> MountAttributes {
    match &mount.what {
        MountKind::Bind(id) => required_of(plan.source(*id)),
        MountKind::New { .. } => mount.set,
    }
}

/// The restricting flags that the configuration demands of a copy of a mount.
pub fn required_of(source: Option<&Source>) -> MountAttributes {
    source.map_or(MountAttributes::empty(), |source| (source.set | source.set_all) & RESTRICTING)
}

/// The source of a part of a restored container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provenance {
    /// The namespace or mount.
    pub what: String,
    /// Its source.
    pub from: String,
    /// The element of the configuration that names it.
    pub origin: String,
}

/// The sources of the namespaces and mounts of a container that is restored from these images.
pub fn provenance(plan: &Plan, claims: &Claims) -> Vec<Provenance> {
    let row = |what: String, from: String, origin: String| Provenance { what, from, origin };
    let mut out = Vec::new();
    for join in &plan.topology.joined {
        let what = format!("{} namespace", kind_names(join.kind));
        out.push(row(what, format!("joined: {}", join.path), join.pointer.clone()));
    }
    if !plan.topology.new.is_empty() {
        let what = format!("{} namespaces", kind_names(plan.topology.new));
        out.push(row(what, "made anew from the images".into(), "/linux/namespaces".into()));
    }
    out.extend(claims.mounts.iter().map(|mount| {
        let (from, origin) = source_of(plan, mount);
        row(format!("mount {} ({})", mount.point, mount.kind), from, origin)
    }));
    out
}

fn source_of(plan: &Plan, mount: &ClaimedMount) -> (String, String) {
    let origin = pointer_of(plan, &mount.point).unwrap_or_default();
    if mount.point == "/" {
        return (format!("the root filesystem {}", plan.root), "/root/path".into());
    }
    let Some(name) = &mount.external else { return ("made anew from the images".into(), origin) };
    if name == NULL {
        return ("the host's /dev/null".into(), "/linux/maskedPaths".into());
    }
    let found = plan.init.iter().rev().find_map(|step| match &step.action {
        Action::Mount(made) if is_below(&mount.point, &made.destination.to_string()) => match &made.what {
            MountKind::Bind(id) => plan.source(*id).map(|source| format!("the host's {}", source.path)),
            MountKind::New { .. } => Some("the cgroup of the container".into()),
        },
        Action::Node(node) if node.path.is(&mount.point) => Some(format!("the host's {}", node.path)),
        _ => None,
    });
    (found.unwrap_or_else(|| "nowhere: config.json has no such mount".into()), origin)
}

/// The type of the filesystem that the configuration mounts at a path.
fn expected_kind<'p>(plan: &'p Plan, point: &str) -> Option<&'p str> {
    let mut kinds = plan.init.iter().filter_map(|step| match &step.action {
        Action::Mount(mount) if mount.destination.is(point) => match &mount.what {
            MountKind::New { kind, .. } => Some(kind.as_str()),
            MountKind::Bind(_) => None,
        },
        _ => None,
    });
    kinds.next_back()
}

/// Whether windlass itself covers the path, with a directory or with what is below it.
fn is_cover(plan: &Plan, point: &str) -> bool {
    plan.init.iter().any(|step| match &step.action {
        Action::Mask(path) | Action::ReadonlyPath(path) => path.is(point),
        Action::Console { device, .. } => *device && point == "/dev/console",
        _ => false,
    })
}

/// The element of the configuration that mounts something at a path.
pub(crate) fn pointer_of(plan: &Plan, point: &str) -> Option<String> {
    let step =
        plan.init.iter().rfind(|step| matches!(&step.action, Action::Mount(mount) if mount.destination.is(point)));
    step.map(|step| step.origin.to_string())
}
