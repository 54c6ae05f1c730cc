//! The processes of a plan, the namespaces that they make, and those that they join.
//!
//! Usually there are two processes: the runtime, and init, which clone3(2) makes in all its new namespaces at once.
//!
//! Init joins the other namespaces. Some of them it cannot join, so the runtime joins them before the clone and
//! leaves them after it: a PID namespace, because setns(2) into one takes effect only for children, and every
//! namespace when init is in a new user namespace, which has no power over those of the host.
//!
//! An intermediate process is needed for a *joined* user namespace together with a *new* PID namespace, which the
//! joined one must own. An ordinary user has no power over a namespace before entering the user namespace that owns it.
//! So the user namespace is joined first, and the intermediate process joins what the runtime cannot.

use windlass_base::error::{Diagnostic, Origin};
use windlass_base::hint::NOT_IN_THE_HOSTS;
use windlass_base::namespaces::{KINDS, Namespaces};
use windlass_base::spec::{IdMapping, Linux, Spec, TimeOffset, escape};

use crate::builder::{PlanBuilder, unknown};
use crate::host::{Host, Maps};
use crate::mount::{Mount, MountKind};
use crate::options::Options;
use crate::step::{Action, JoinId, Step};

/// The process that joins a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joiner {
    /// The runtime joins it before the clone, and returns afterwards.
    Runtime,
    /// Init joins it.
    Init,
}

/// A namespace to join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    /// The kind of the namespace.
    pub kind: Namespaces,
    /// Its file on the host.
    pub path: String,
    /// JSON Pointer of the entry.
    pub pointer: String,
    /// The process that joins it.
    pub joiner: Joiner,
}

/// The processes and namespaces of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// Namespaces that the clone makes.
    pub clone: Namespaces,
    /// All new namespaces, however they are made.
    pub new: Namespaces,
    /// Namespaces to join.
    pub joined: Vec<Join>,
    /// Whether an intermediate process joins the user namespace and makes init from there.
    pub intermediate: bool,
    /// User ids of a new user namespace, which the runtime maps; empty without one.
    pub uid_mappings: Vec<IdMapping>,
    /// Group ids of that user namespace.
    pub gid_mappings: Vec<IdMapping>,
    /// How the runtime writes the id maps.
    pub maps: Maps,
    /// Offsets of a new time namespace.
    pub time_offsets: Vec<(String, TimeOffset)>,
}

impl Topology {
    /// Whether init ends up in a user namespace that is not the runtime's.
    pub fn user_namespace(&self) -> bool {
        self.all().contains(Namespaces::USER)
    }

    /// Whether the container has this namespace for itself, new or joined.
    pub fn has(&self, kind: Namespaces) -> bool {
        self.all().contains(kind)
    }

    /// The user and the group that init becomes first in its user namespace: the lowest that a new one has, and 0 in
    /// one that is joined.
    pub fn first_ids(&self) -> (u32, u32) {
        let first = |mappings: &[IdMapping]| mappings.iter().map(|m| m.container_id).min().unwrap_or(0);
        (first(&self.uid_mappings), first(&self.gid_mappings))
    }

    /// The host's id for a user id of the container. `None` if the container joins a user namespace, whose
    /// mapping is not known here.
    pub fn host_uid(&self, uid: u32) -> Option<u32> {
        if !self.user_namespace() {
            return Some(uid);
        }
        mapped(&self.uid_mappings, uid)
    }

    /// The host's id for a group id of the container, as in [`Topology::host_uid`].
    pub fn host_gid(&self, gid: u32) -> Option<u32> {
        if self.user_namespace() { mapped(&self.gid_mappings, gid) } else { Some(gid) }
    }

    /// Whether the container joins a namespace of this kind.
    pub fn joins(&self, kind: Namespaces) -> bool {
        self.joined_kinds().contains(kind)
    }

    /// The namespaces that the container has for itself, new or joined.
    pub fn all(&self) -> Namespaces {
        self.new | self.joined_kinds()
    }

    fn joined_kinds(&self) -> Namespaces {
        self.joined.iter().map(|join| join.kind).collect()
    }
}

/// Decides processes and namespaces.
pub(crate) fn topology(linux: &Linux, host: &Host, builder: &mut PlanBuilder) -> Topology {
    let mut out = Topology::default();
    let mut seen = Namespaces::empty();
    for (index, entry) in linux.namespaces.iter().enumerate() {
        let pointer = format!("/linux/namespaces/{index}");
        let Some((_, _, kind)) = KINDS.iter().find(|row| row.0 == entry.kind) else {
            builder.fault(format!("{pointer}/type"), unknown("namespace type", &entry.kind));
            continue;
        };
        if seen.contains(*kind) {
            builder.fault(pointer, format!("duplicate namespace {:?}", entry.kind));
            continue;
        }
        seen |= *kind;
        if entry.path.is_empty() {
            out.new |= *kind;
        } else if !entry.path.starts_with('/') {
            builder.fault(format!("{pointer}/path"), format!("the namespace path {:?} is not absolute", entry.path));
        } else {
            out.joined.push(Join { kind: *kind, path: entry.path.clone(), pointer, joiner: Joiner::Init });
        }
    }
    check_mappings(linux, &out, builder);
    let joins_user = out.joined_kinds().contains(Namespaces::USER);
    for join in &mut out.joined {
        let early = join.kind == Namespaces::PID && (host.administers() || !joins_user);
        if early || out.new.contains(Namespaces::USER) {
            join.joiner = Joiner::Runtime;
        }
    }
    // The user namespace is joined last: until then init has the host's rights, which the others may need. If init has
    // no such rights, it is joined first.
    out.joined.sort_by_key(|join| (join.kind == Namespaces::USER) == host.administers());
    let later = out.joined.iter().any(|join| join.kind == Namespaces::PID && join.joiner == Joiner::Init);
    out.intermediate = joins_user && (out.new.contains(Namespaces::PID) || later);
    out.clone = match joins_user {
        true => Namespaces::empty(),
        // The cgroup namespace is made by init when it is in its cgroup; the time namespace by
        // the runtime, for its offsets can be set only while it is empty.
        false => out.new & !(Namespaces::CGROUP | Namespaces::TIME),
    };
    if out.new.contains(Namespaces::USER) {
        out.uid_mappings = linux.uid_mappings.clone();
        out.gid_mappings = linux.gid_mappings.clone();
        out.maps = host.maps(&out.uid_mappings, &out.gid_mappings);
    }
    out.time_offsets = linux.time_offsets.iter().map(|(clock, offset)| (clock.clone(), offset.clone())).collect();
    for (clock, offset) in &out.time_offsets {
        let pointer = format!("/linux/timeOffsets/{}", escape(clock));
        if !matches!(clock.as_str(), "monotonic" | "boottime") {
            builder.fault(&pointer, format!("unknown clock {clock:?}: only monotonic and boottime have an offset"));
        } else if offset.nanosecs > 999_999_999 {
            builder.fault(format!("{pointer}/nanosecs"), "nanosecs must be less than 1000000000");
        }
    }
    if !out.time_offsets.is_empty() && !out.new.contains(Namespaces::TIME) {
        builder.fault(
            "/linux/timeOffsets",
            "time namespace offsets specified, but time namespace isn't enabled in the config",
        );
    }
    out
}

fn check_mappings(linux: &Linux, topology: &Topology, builder: &mut PlanBuilder) {
    if topology.new.contains(Namespaces::USER) {
        for (name, mappings) in [("uid", &linux.uid_mappings), ("gid", &linux.gid_mappings)] {
            let pointer = format!("/linux/{name}Mappings");
            if mappings.is_empty() {
                builder.fault(pointer, format!("user namespaces enabled, but no {name} mappings found"));
            } else {
                check_ranges(&pointer, mappings, builder);
            }
        }
    } else if !topology.user_namespace() {
        for (name, mappings) in [("uid", &linux.uid_mappings), ("gid", &linux.gid_mappings)] {
            if !mappings.is_empty() {
                let msg = "user namespace mappings specified, but user namespace isn't enabled in the config";
                builder.fault(format!("/linux/{name}Mappings"), msg);
            }
        }
    }
}

/// Finds wrong ranges, since the kernel's EINVAL does not tell which one is wrong. `pointer` is the list's.
pub(crate) fn check_ranges(pointer: &str, mappings: &[IdMapping], builder: &mut PlanBuilder) {
    for (i, a) in mappings.iter().enumerate() {
        if a.size == 0 {
            builder.fault(format!("{pointer}/{i}/size"), format!("mapping {i} is empty"));
            continue;
        }
        if a.container_id.checked_add(a.size).is_none() || a.host_id.checked_add(a.size).is_none() {
            builder.fault(format!("{pointer}/{i}/size"), format!("mapping {i} goes beyond the last id"));
            continue;
        }
        for (j, b) in mappings.iter().enumerate().take(i) {
            let meets = |x: u32, y: u32| {
                u64::from(x) < u64::from(y) + u64::from(b.size) && u64::from(y) < u64::from(x) + u64::from(a.size)
            };
            if meets(a.container_id, b.container_id) || meets(a.host_id, b.host_id) {
                builder.fault(format!("{pointer}/{i}"), format!("mappings {j} and {i} overlap"));
                break;
            }
        }
    }
}

/// Adds the steps by which init enters its namespaces.
pub(crate) fn enter(topology: &Topology, builder: &mut PlanBuilder) {
    if !topology.uid_mappings.is_empty() {
        let (uid, gid) = topology.first_ids();
        builder.config("/linux/uidMappings", Action::MapIds);
        builder.config("/linux/uidMappings", Action::EnterUserNamespace { uid, gid });
    }
    for (index, join) in topology.joined.iter().enumerate() {
        if join.joiner == Joiner::Init && !topology.intermediate {
            builder.config(join.pointer.clone(), Action::Join(JoinId::new(index)));
        }
    }
    let user = topology.joined.iter().find(|join| join.kind == Namespaces::USER);
    if let Some(user) = user {
        builder.config(user.pointer.clone(), Action::EnterUserNamespace { uid: 0, gid: 0 });
        let rest = topology.new & !(Namespaces::CGROUP | Namespaces::TIME);
        if !topology.intermediate && !rest.is_empty() {
            builder.config("/linux/namespaces", Action::Unshare(rest));
        }
    }
}

/// Adds the steps by which init enters its cgroup and cgroup namespace. `at` is the index after the other steps that
/// enter namespaces.
///
/// systemd needs time to make a cgroup, so init works outside meanwhile. Steps that the container must pay for, that
/// show the cgroup or that may leave the host behind are done inside.
pub(crate) fn enter_cgroup(
    at: usize,
    topology: &Topology,
    linux: &Linux,
    options: &Options,
    builder: &mut PlanBuilder,
) {
    let mut steps = Vec::new();
    let mut at = at;
    if options.systemd.is_some() {
        let later = builder.steps[at..].iter().position(|step| needs_cgroup(&step.action));
        at = later.map_or(builder.steps.len(), |later| at + later);
        let origin = Origin::Default("systemd makes the cgroup".into());
        steps.push(Step { origin, action: Action::Scope });
    }
    if topology.new.contains(Namespaces::CGROUP) {
        let index = linux.namespaces.iter().position(|entry| entry.kind == "cgroup").unwrap_or(0);
        let origin = Origin::Config(format!("/linux/namespaces/{index}").into());
        steps.push(Step { origin, action: Action::Unshare(Namespaces::CGROUP) });
    }
    builder.steps.splice(at..at, steps);
}

fn needs_cgroup(action: &Action) -> bool {
    match action {
        Action::Mount(Mount { copy_up: true, .. }) => true,
        Action::Mount(Mount { what: MountKind::New { kind, .. }, .. }) => kind.starts_with("cgroup"),
        Action::NetDevices | Action::RuntimeHooks | Action::CreateContainerHooks | Action::Pivot(_) => true,
        _ => false,
    }
}

/// Most bytes of a host or domain name (`__NEW_UTS_LEN`, linux/utsname.h).
const LONGEST_NAME: usize = 64;

/// Adds the steps that set up the content of the namespaces.
pub(crate) fn configure(topology: &Topology, spec: &Spec, linux: &Linux, builder: &mut PlanBuilder) {
    if topology.new.contains(Namespaces::NET) {
        builder.always("a new network namespace has its loopback interface down", Action::LoopbackUp);
    }
    for (pointer, name, action) in [
        ("/hostname", &spec.hostname, Action::Hostname as fn(String) -> Action),
        ("/domainname", &spec.domainname, Action::Domainname),
    ] {
        if name.is_empty() {
            continue;
        }
        if name.len() > LONGEST_NAME {
            builder.fault(pointer, format!("{} is longer than {LONGEST_NAME} bytes", &pointer[1..]));
        } else if topology.has(Namespaces::UTS) {
            builder.config(pointer, action(name.clone()));
        } else {
            builder.fault(pointer, format!("unable to set {} without a private UTS namespace", &pointer[1..]));
        }
    }
    if !linux.sysctl.is_empty() {
        for (key, value) in &linux.sysctl {
            if let Some(msg) = sysctl_fault(key, value, topology).or_else(|| domainname_fault(key, value, spec)) {
                builder.fault(format!("/linux/sysctl/{}", escape(key)), msg);
            }
        }
    }
}

/// The fault of two different domainnames. The same one may be asked for twice.
fn domainname_fault(key: &str, value: &str, spec: &Spec) -> Option<String> {
    let other = !spec.domainname.is_empty() && spec.domainname != value && key.replace('/', ".") == "kernel.domainname";
    other.then(|| {
        format!("sysctl {key:?} conflicts with the OCI \"domainname\" field, which says {:?}", spec.domainname)
    })
}

/// The fault of setting `key` in this container: only a parameter of the container's own namespaces may be set, or the
/// host's would be changed.
fn sysctl_fault(key: &str, value: &str, topology: &Topology) -> Option<String> {
    let name = key.replace('/', ".");
    if value.contains('\n') || name.split('.').any(str::is_empty) {
        return Some(format!("sysctl {key:?} is not valid"));
    }
    let needs = |kind: Namespaces, what: &str| {
        (!topology.has(kind)).then(|| format!("sysctl {key:?} {NOT_IN_THE_HOSTS} {what} namespace"))
    };
    const IPC: &[&str] = &[
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    if IPC.contains(&name.as_str()) || name.starts_with("fs.mqueue.") {
        return needs(Namespaces::IPC, "ipc");
    }
    if name.starts_with("net.") {
        return needs(Namespaces::NET, "network");
    }
    if name == "kernel.domainname" {
        return needs(Namespaces::UTS, "uts");
    }
    if name == "kernel.hostname" {
        return Some(format!("sysctl {key:?} is not allowed as it conflicts with the OCI \"hostname\" field"));
    }
    if name.starts_with("user.") {
        return needs(Namespaces::USER, "user");
    }
    // Engines pass the message on but not the hint.
    Some(format!(
        "sysctl {key:?} is not in a separate kernel namespace: it is the whole host's, set it there: sysctl -w {name}={value}"
    ))
}

/// The interfaces to move: name on the host, name in the container.
pub(crate) fn net_devices(topology: &Topology, linux: &Linux, builder: &mut PlanBuilder) -> Vec<(String, String)> {
    if !linux.net_devices.is_empty() && !topology.has(Namespaces::NET) {
        builder.fault("/linux/netDevices", "unable to move network devices without a private NET namespace");
    }
    let valid = |name: &str| {
        !name.is_empty() && name.len() < 16 && !matches!(name, "." | "..") && !name.contains(['/', ':', ' ', '%'])
    };
    let mut out: Vec<(String, String)> = Vec::new();
    for (host, device) in &linux.net_devices {
        let inside = if device.name.is_empty() { host } else { &device.name };
        for (name, pointer) in [(host, ""), (inside, "/name")] {
            let good =
                if pointer.is_empty() { valid(name) } else { name.len() < 16 && valid(&name.replacen("%d", "0", 1)) };
            if !good {
                let msg = format!("invalid network device name {name:?}");
                builder
                    .faults
                    .push(Diagnostic { pointer: format!("/linux/netDevices/{}{pointer}", escape(host)), msg });
            }
        }
        if out.iter().any(|(_, taken)| taken == inside) {
            builder.fault(
                format!("/linux/netDevices/{}/name", escape(host)),
                format!("two network devices would be named {inside:?}"),
            );
        }
        out.push((host.clone(), inside.clone()));
    }
    out
}

fn mapped(mappings: &[IdMapping], id: u32) -> Option<u32> {
    mappings.iter().find_map(|mapping| mapping.to_host(id))
}
