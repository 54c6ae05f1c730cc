//! The process: its limits, and the order in which it gives up its powers.
//!
//! The bounding set is dropped while CAP_SETPCAP is still there, the ids change with the
//! capabilities kept, and the sets are put down last. The seccomp filter goes in as late as
//! possible, after the word of `start`: a profile is written for the program, and may lack
//! whatever the runtime itself calls below it. Without `noNewPrivileges` the kernel wants
//! CAP_SYS_ADMIN of whoever installs a filter, so this one capability is kept until then, and
//! given up next. Only a filter with a listener goes in before the runtime is told that all is
//! prepared, since it is the runtime that hands the listener on. tests/plans.rs holds this order.

use std::borrow::Cow;
use std::path::PathBuf;

use windlass_seccomp::Profile;

use windlass_base::abi::{SchedulerAttributes, bits_of_list};
use windlass_base::capability::CapabilitySet;
use windlass_base::error::Fault;
use windlass_base::spec::{Capabilities, IoPriority, Linux, MemoryPolicy, Process, Rlimit, Scheduler, Spec, User};

use super::{Action, Draft, Maps, Options, Topology, unknown};

/// Ids and capability sets to take.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups: exactly these.
    pub groups: Vec<u32>,
    /// Capability sets; none at all where the configuration has none.
    pub capabilities: ProcessCapabilities,
    /// Capabilities that are in force as well until [`Action::Capabilities`]: what installing a
    /// filter needs.
    pub until_filtered: CapabilitySet,
}

/// The five capability sets of a process (capabilities(7)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessCapabilities {
    /// Bounding set.
    pub bounding: CapabilitySet,
    /// Effective set.
    pub effective: CapabilitySet,
    /// Permitted set.
    pub permitted: CapabilitySet,
    /// Inheritable set.
    pub inheritable: CapabilitySet,
    /// Ambient set.
    pub ambient: CapabilitySet,
}

/// A compiled seccomp filter and where its listener goes.
#[derive(Clone)]
pub struct Seccomp {
    /// The program and its flags.
    pub filter: std::rc::Rc<windlass_seccomp::Filter>,
    /// `listenerPath`.
    pub listener_path: String,
    /// `listenerMetadata`.
    pub listener_metadata: String,
}

impl std::fmt::Debug for Seccomp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Seccomp({} instructions, listener {:?})", self.filter.program.len(), self.listener_path)
    }
}

/// Adds the steps of `create`'s process, up to its execution.
pub(super) fn process(spec: &Spec, linux: &Linux, topology: &Topology, options: &Options, draft: &mut Draft) {
    let Some(process) = &spec.process else {
        // It is needed by start alone, which then says so.
        draft.always("the runtime reports, and `start` begins", Action::Ready);
        draft.config("/process", Action::Execute);
        return;
    };
    let hooks = spec.hooks.as_ref().is_some_and(|hooks| !hooks.start_container.is_empty());
    limits(process, linux, "/process", draft);
    if let Some(adj) = process.oom_score_adj.filter(|adj| !(-1000..=1000).contains(adj)) {
        draft.fault("/process/oomScoreAdj", format!("oomScoreAdj {adj} is not between -1000 and 1000"));
    }
    if let Some(affinity) = &process.exec_cpu_affinity {
        for (name, list) in [("initial", &affinity.initial), ("final", &affinity.last)] {
            if bits_of_list(list).is_none() {
                draft.fault(format!("/process/execCPUAffinity/{name}"), format!("invalid CPU list {list:?}"));
            }
        }
    }
    let seccomp = seccomp(linux, draft);
    credentials(process, &process.user, seccomp, topology, options, "/process", hooks, draft);
}

/// Limits and scheduling, which need the powers that are given up next.
pub(super) fn limits(process: &Process, linux: &Linux, pointer: &str, draft: &mut Draft) {
    let mut seen: Vec<u32> = Vec::new();
    for (index, limit) in process.rlimits.iter().enumerate() {
        let pointer = format!("{pointer}/rlimits/{index}");
        match rlimit(limit) {
            Err((field, msg)) => draft.fault(format!("{pointer}{field}"), msg),
            Ok(resource) if seen.contains(&resource) => {
                draft.fault(pointer, format!("duplicate rlimit {:?}", limit.kind))
            }
            Ok(resource) => {
                seen.push(resource);
                draft.config(pointer, Action::Limit(resource, limit.kind.clone(), limit.soft, limit.hard));
            }
        }
    }
    if let Some(wanted) = &process.scheduler {
        match scheduler(wanted) {
            Ok(attributes) => draft.config(format!("{pointer}/scheduler"), Action::Scheduler(attributes)),
            Err((field, msg)) => draft.fault(format!("{pointer}/scheduler{field}"), msg),
        }
    }
    if let Some(wanted) = &process.io_priority {
        match io_priority(wanted) {
            Ok(priority) => draft.config(format!("{pointer}/ioPriority"), Action::IoPriority(priority)),
            Err((field, msg)) => draft.fault(format!("{pointer}/ioPriority{field}"), msg),
        }
    }
    if let Some(policy) = &linux.memory_policy {
        match memory_policy(policy) {
            Ok((mode, nodes)) => draft.config("/linux/memoryPolicy", Action::MemoryPolicy(mode, nodes)),
            Err((field, msg)) => draft.fault(format!("/linux/memoryPolicy{field}"), msg),
        }
    }
    if let Some(wanted) = &linux.personality {
        match wanted.domain.as_str() {
            "LINUX" => draft.config("/linux/personality", Action::Personality(0)),
            "LINUX32" => draft.config("/linux/personality", Action::Personality(0x8)),
            other => draft.fault("/linux/personality/domain", unknown("personality domain", other)),
        }
        if !wanted.flags.is_empty() {
            draft.fault(
                "/linux/personality/flags/0",
                "personality flags are not supported: the specification defines none",
            );
        }
    }
}

/// The order of credentials; see the module's documentation.
#[allow(clippy::too_many_arguments)] // One call for create, one for exec; a struct would only rename them.
pub(super) fn credentials(
    process: &Process,
    user: &User,
    seccomp: Option<Seccomp>,
    topology: &Topology,
    options: &Options,
    pointer: &str,
    start_hooks: bool,
    draft: &mut Draft,
) {
    let field = |name: &str| format!("{pointer}/{name}");
    if process.cwd.is_empty() {
        draft.fault(field("cwd"), "Cwd property must not be empty");
    } else if !process.cwd.starts_with('/') {
        draft.fault(field("cwd"), format!("Cwd must be an absolute path (is {:?})", process.cwd));
    }
    match process.args.first().map(String::as_str) {
        None => draft.fault(field("args"), "args must not be empty"),
        Some("") => draft.fault(field("args/0"), "args must not be empty: the first of them is the program"),
        Some(_) => {}
    }
    for (name, list) in [("args", &process.args), ("env", &process.env)] {
        for (index, _) in list.iter().enumerate().filter(|(_, text)| text.contains('\0')) {
            draft.fault(format!("{pointer}/{name}/{index}"), format!("{name} must not have a NUL byte"));
        }
    }
    if let Some(umask) = user.umask {
        draft.config(field("user/umask"), Action::Umask(umask & 0o777));
    } else {
        draft.always("init worked with an umask of 0", Action::Umask(0o022));
    }
    if !process.apparmor_profile.is_empty() {
        draft.config(field("apparmorProfile"), Action::AppArmor(process.apparmor_profile.clone()));
    }
    if !process.selinux_label.is_empty() {
        draft.config(field("selinuxLabel"), Action::SeLinux(process.selinux_label.clone()));
    }
    // In a user namespace of its own init has every capability, whatever we have.
    let grantable = if topology.user_namespace() { CapabilitySet::all() } else { options.host.capabilities };
    let capabilities = process
        .capabilities
        .as_ref()
        .map(|sets| capabilities(sets, grantable, &field("capabilities"), draft))
        .unwrap_or_default();
    check_ids(user, topology, pointer, draft);
    let until_filtered = match seccomp {
        Some(_) if !process.no_new_privileges => CapabilitySet::SYS_ADMIN & grantable & !capabilities.effective,
        _ => CapabilitySet::empty(),
    };
    draft.config(field("cwd"), Action::WorkingDirectory(PathBuf::from(&process.cwd)));
    let groups = user.additional_gids.clone();
    let identity = Identity { uid: user.uid, gid: user.gid, groups, capabilities, until_filtered };
    draft.config(field("user"), Action::Identity(identity));
    draft.config(field("cwd"), Action::WorkingDirectoryAsUser(PathBuf::from(&process.cwd)));
    if process.no_new_privileges {
        draft.config(field("noNewPrivileges"), Action::NoNewPrivileges);
    }
    draft.config(field("args/0"), Action::FindExecutable);
    let listened = seccomp.as_ref().is_some_and(|seccomp| seccomp.filter.needs_listener);
    if !listened {
        draft.always("the runtime reports, and `start` begins", Action::Ready);
    }
    if let Some(seccomp) = seccomp {
        refused(&seccomp.filter, !until_filtered.is_empty(), draft);
        draft.config("/linux/seccomp", Action::Seccomp(seccomp));
        if !until_filtered.is_empty() {
            draft.config(field("capabilities"), Action::Capabilities(capabilities));
        }
    }
    if listened {
        draft.always("the runtime reports, and `start` begins", Action::Ready);
    }
    if start_hooks {
        draft.config("/hooks/startContainer", Action::StartContainerHooks);
    }
    draft.config(field("args"), Action::Execute);
}

/// The calls that follow a filter whatever the container is: one that refuses them never lets a
/// program begin, and may let nobody say so.
fn refused(filter: &windlass_seccomp::Filter, drops: bool, draft: &mut Draft) {
    for (name, needed) in [("execve", true), ("capset", drops)] {
        if needed && filter.refuses(windlass_seccomp::Arch::native(), name) {
            let msg = format!("the seccomp profile refuses {name}, without which no program can be executed below it");
            draft.fault("/linux/seccomp", msg);
        }
    }
}

/// Ids that the user namespace does not have cannot be taken: known before anything is done.
fn check_ids(user: &User, topology: &Topology, pointer: &str, draft: &mut Draft) {
    let mapped = |mappings: &[windlass_base::spec::IdMapping], id: u32| {
        mappings.is_empty() || mappings.iter().any(|m| id >= m.container_id && id - m.container_id < m.size)
    };
    let mut ids = vec![("uid", "uid".to_string(), user.uid), ("gid", "gid".into(), user.gid)];
    for (index, gid) in user.additional_gids.iter().enumerate() {
        ids.push(("gid", format!("additionalGids/{index}"), *gid));
    }
    for (kind, field, id) in ids {
        let mappings = if kind == "uid" { &topology.uid_mappings } else { &topology.gid_mappings };
        let pointer = format!("{pointer}/user/{field}");
        if id == u32::MAX {
            draft.fault(pointer, format!("{id} is not a valid {kind}"));
        } else if !mapped(mappings, id) {
            draft.fault(pointer, format!("{kind} {id} is not mapped in the container's user namespace"));
        } else if topology.maps == Maps::Own && field.starts_with("additionalGids") {
            draft
                .fault(pointer, "supplementary groups need subordinate ids: with one's own alone, setgroups is denied");
        }
    }
}

/// Names to bits. Unknown ones, and ones that this host cannot grant, are warned about: the
/// specification asks for that and not for a failure.
fn capabilities(
    sets: &Capabilities,
    grantable: CapabilitySet,
    pointer: &str,
    draft: &mut Draft,
) -> ProcessCapabilities {
    let mut unknown: Vec<String> = Vec::new();
    let mut missing = CapabilitySet::empty();
    let mut bits = |names: &Option<Vec<String>>, field: &str| {
        let mut out = CapabilitySet::empty();
        for (index, name) in names.iter().flatten().enumerate() {
            match name.parse::<caps::Capability>() {
                Ok(capability) => {
                    let one = CapabilitySet::from_bits_retain(capability.bitmask());
                    missing |= one & !grantable;
                    out |= one & grantable;
                }
                Err(_) if unknown.contains(name) => {}
                Err(_) => {
                    unknown.push(name.clone());
                    draft.warn(format!("{pointer}/{field}/{index}"), format!("ignoring unknown capability {name:?}"));
                }
            }
        }
        out
    };
    let out = ProcessCapabilities {
        bounding: bits(&sets.bounding, "bounding"),
        effective: bits(&sets.effective, "effective"),
        permitted: bits(&sets.permitted, "permitted"),
        inheritable: bits(&sets.inheritable, "inheritable"),
        ambient: bits(&sets.ambient, "ambient"),
    };
    let lists = [
        ("bounding", &sets.bounding),
        ("effective", &sets.effective),
        ("permitted", &sets.permitted),
        ("inheritable", &sets.inheritable),
        ("ambient", &sets.ambient),
    ];
    // The pointer of its place in the first list that names it.
    let place = |lists: &[(&str, &Option<Vec<String>>)], capability: caps::Capability| {
        let at = lists.iter().find_map(|(field, names)| {
            let index = names.iter().flatten().position(|name| name.parse().ok() == Some(capability))?;
            Some(format!("{pointer}/{field}/{index}"))
        });
        at.unwrap_or_else(|| pointer.to_owned())
    };
    for capability in named(missing) {
        draft.warn(place(&lists, capability), format!("ignoring capability {capability}: this host cannot grant it"));
    }
    for capability in named(out.effective & !out.permitted) {
        let msg = format!("the effective capabilities must be permitted as well, and {capability} is not");
        draft.fault(place(&lists[1..2], capability), msg);
    }
    for capability in named(out.ambient & !(out.permitted & out.inheritable)) {
        let msg = format!("can't raise ambient capability {capability}: it must be permitted and inheritable as well");
        draft.warn(place(&lists[4..], capability), msg);
    }
    out
}

/// The capabilities of a set. Only for one that has any is the table of all made.
fn named(set: CapabilitySet) -> impl Iterator<Item = caps::Capability> {
    let all = (!set.is_empty()).then(caps::all);
    all.into_iter().flatten().filter(move |capability| set.bits() & capability.bitmask() != 0)
}

fn seccomp(linux: &Linux, draft: &mut Draft) -> Option<Seccomp> {
    let text = linux.seccomp.as_ref()?.get().as_bytes();
    let mended;
    let (profile, misspelt) = match windlass_base::spec::borrow::<Profile<'_>>(text) {
        Some(read) => read,
        None => {
            mended = mend_seccomp(text, draft)?;
            windlass_base::spec::borrow::<Profile<'_>>(&mended)?
        }
    };
    draft.warnings.extend(misspelt.into_iter().map(below_seccomp));
    if profile.is_empty() {
        return None;
    }
    match windlass_seccomp::compile(&profile, windlass_seccomp::Arch::native()) {
        Ok(filter) => {
            for problem in &filter.warnings {
                draft.warn(format!("{SECCOMP}{}", problem.pointer), problem.message.clone());
            }
            Some(Seccomp {
                filter: std::rc::Rc::new(filter),
                listener_path: profile.listener_path.to_string(),
                listener_metadata: profile.listener_metadata.to_string(),
            })
        }
        Err(problems) => {
            for problem in problems {
                draft.fault(format!("{SECCOMP}{}", problem.pointer), problem.message);
            }
            None
        }
    }
}

const SECCOMP: &str = "/linux/seccomp";

fn below_seccomp(fault: Fault) -> Fault {
    Fault { pointer: format!("{SECCOMP}{}", fault.pointer), ..fault }
}

/// The text of a profile without the elements that cannot be read; each of these is a fault.
fn mend_seccomp(text: &[u8], draft: &mut Draft) -> Option<Vec<u8>> {
    let what = "the seccomp profile";
    match windlass_base::spec::mend(text, what, &|text| windlass_base::spec::fault_of::<Profile<'_>>(text, what)) {
        Ok(mended) => {
            draft.warnings.extend(mended.warnings.into_iter().map(below_seccomp));
            draft.faults.extend(mended.faults.into_iter().map(below_seccomp));
            Some(mended.text)
        }
        Err(error) => {
            draft.faults.extend(error.into_faults().into_iter().map(below_seccomp));
            None
        }
    }
}

/// The filter of `linux.seccomp`, for exec.
pub(super) fn seccomp_of(linux: &Linux, draft: &mut Draft) -> Option<Seccomp> {
    seccomp(linux, draft)
}

/// A field, relative to the object, and what is wrong with it.
type Wrong = (Cow<'static, str>, String);

fn wrong<T>(field: impl Into<Cow<'static, str>>, msg: impl Into<String>) -> Result<T, Wrong> {
    Err((field.into(), msg.into()))
}

/// `RLIMIT_*` by name (setrlimit(2)); the numbers are the kernel's on every architecture here.
const RLIMITS: &[&str] = &[
    "CPU",
    "FSIZE",
    "DATA",
    "STACK",
    "CORE",
    "RSS",
    "NPROC",
    "NOFILE",
    "MEMLOCK",
    "AS",
    "LOCKS",
    "SIGPENDING",
    "MSGQUEUE",
    "NICE",
    "RTPRIO",
    "RTTIME",
];

fn rlimit(limit: &Rlimit) -> Result<u32, Wrong> {
    let name = limit.kind.strip_prefix("RLIMIT_").unwrap_or("");
    let Some(number) = RLIMITS.iter().position(|known| *known == name) else {
        let kind = &limit.kind;
        let msg =
            if kind.is_empty() { "an rlimit needs a type".into() } else { format!("invalid rlimit type: {kind}") };
        return wrong("/type", msg);
    };
    if limit.soft > limit.hard {
        let msg = format!("the soft limit {} of {} is above its hard limit {}", limit.soft, limit.kind, limit.hard);
        return wrong("/soft", msg);
    }
    Ok(number as u32)
}

const POLICIES: &[(&str, u32)] = &[
    ("SCHED_OTHER", 0),
    ("SCHED_FIFO", 1),
    ("SCHED_RR", 2),
    ("SCHED_BATCH", 3),
    ("SCHED_ISO", 4),
    ("SCHED_IDLE", 5),
    ("SCHED_DEADLINE", 6),
];

const SCHEDULER_FLAGS: &[(&str, u64)] = &[
    ("SCHED_FLAG_RESET_ON_FORK", 0x01),
    ("SCHED_FLAG_RECLAIM", 0x02),
    ("SCHED_FLAG_DL_OVERRUN", 0x04),
    ("SCHED_FLAG_KEEP_POLICY", 0x08),
    ("SCHED_FLAG_KEEP_PARAMS", 0x10),
    ("SCHED_FLAG_UTIL_CLAMP_MIN", 0x20),
    ("SCHED_FLAG_UTIL_CLAMP_MAX", 0x40),
];

/// What sched_setattr(2) demands of a deadline (sched(7), `SCHED_DEADLINE`): runtime <= deadline <= period, a
/// runtime of 1024 ns at least, and 63 bits for each. A period of 0 is that of the deadline. crun's words.
fn deadline_fault<T>(wanted: &Scheduler) -> Option<Result<T, Wrong>> {
    const LEAST: u64 = 1 << 10;
    const MOST: u64 = i64::MAX as u64;
    let Scheduler { runtime, deadline, period, .. } = *wanted;
    let (field, why) = match () {
        () if runtime == 0 => ("/runtime", "requires `runtime`".into()),
        () if deadline == 0 => ("/deadline", "requires `deadline`".into()),
        () if !(LEAST..=MOST).contains(&runtime) => {
            ("/runtime", format!("runtime {runtime} must be between {LEAST} and {MOST}"))
        }
        () if deadline > MOST => ("/deadline", format!("deadline {deadline} must be <= {MOST}")),
        () if period > MOST => ("/period", format!("period {period} must be <= {MOST}")),
        () if runtime > deadline => ("/runtime", format!("runtime {runtime} must be <= deadline {deadline}")),
        () if period != 0 && deadline > period => {
            ("/deadline", format!("deadline {deadline} must be <= period {period}"))
        }
        () => return None,
    };
    Some(wrong(field, format!("sched_setattr: `SCHED_DEADLINE` {why}")))
}

fn scheduler(wanted: &Scheduler) -> Result<SchedulerAttributes, Wrong> {
    let Some((_, policy)) = POLICIES.iter().find(|row| row.0 == wanted.policy) else {
        return wrong("/policy", unknown("scheduler policy", &wanted.policy));
    };
    let mut flags = 0;
    for (index, flag) in wanted.flags.iter().enumerate() {
        match SCHEDULER_FLAGS.iter().find(|row| row.0 == flag) {
            Some((_, bit)) => flags |= bit,
            None => return wrong(format!("/flags/{index}"), format!("invalid scheduler flag {flag:?}")),
        }
    }
    if !(-20..=19).contains(&wanted.nice) {
        return wrong("/nice", format!("invalid scheduler.nice: {} is not between -20 and 19", wanted.nice));
    }
    if wanted.priority != 0 && !matches!(policy, 1 | 2) {
        return wrong("/priority", "scheduler.priority can only be specified for SchedFIFO or SchedRR policy");
    }
    let deadline = [("/runtime", wanted.runtime), ("/deadline", wanted.deadline), ("/period", wanted.period)];
    if let Some((field, _)) = deadline.into_iter().find(|(_, value)| *value != 0 && *policy != 6) {
        return wrong(field, "scheduler runtime/deadline/period can only be specified for SchedDeadline policy");
    }
    if *policy == 6
        && let Some(fault) = deadline_fault(wanted)
    {
        return fault;
    }
    let Ok(priority) = u32::try_from(wanted.priority) else {
        return wrong("/priority", format!("invalid priority {}", wanted.priority));
    };
    Ok(SchedulerAttributes {
        size: 0,
        policy: *policy,
        flags,
        nice: wanted.nice,
        priority,
        runtime: wanted.runtime,
        deadline: wanted.deadline,
        period: wanted.period,
    })
}

/// ioprio_set(2): class in the upper bits, level in the lower 13.
fn io_priority(wanted: &IoPriority) -> Result<u32, Wrong> {
    let class = match wanted.class.as_str() {
        "IOPRIO_CLASS_RT" => 1,
        "IOPRIO_CLASS_BE" => 2,
        "IOPRIO_CLASS_IDLE" => 3,
        other => return wrong("/class", unknown("ioPriority.class", other)),
    };
    match u32::try_from(wanted.priority) {
        Ok(level @ 0..=7) => Ok(class << 13 | level),
        _ => wrong("/priority", format!("invalid ioPriority.priority: {} is not between 0 and 7", wanted.priority)),
    }
}

/// `MPOL_*` (linux/mempolicy.h).
pub const MEMORY_MODES: &[(&str, i32)] = &[
    ("MPOL_DEFAULT", 0),
    ("MPOL_PREFERRED", 1),
    ("MPOL_BIND", 2),
    ("MPOL_INTERLEAVE", 3),
    ("MPOL_LOCAL", 4),
    ("MPOL_PREFERRED_MANY", 5),
    ("MPOL_WEIGHTED_INTERLEAVE", 6),
];

/// `MPOL_F_*` that set_mempolicy(2) takes.
pub const MEMORY_FLAGS: &[(&str, i32)] =
    &[("MPOL_F_NUMA_BALANCING", 1 << 13), ("MPOL_F_RELATIVE_NODES", 1 << 14), ("MPOL_F_STATIC_NODES", 1 << 15)];

fn memory_policy(policy: &MemoryPolicy) -> Result<(i32, Vec<u64>), Wrong> {
    let Some((_, mode)) = MEMORY_MODES.iter().find(|row| row.0 == policy.mode) else {
        return wrong("/mode", unknown("memory policy mode", &policy.mode));
    };
    let Some(nodes) = bits_of_list(&policy.nodes) else {
        return wrong("/nodes", format!("invalid memory policy node list {:?}", policy.nodes));
    };
    match (mode, nodes.is_empty()) {
        (0 | 4, false) => {
            let count: u32 = nodes.iter().map(|word| word.count_ones()).sum();
            return wrong("/nodes", format!("{} mode requires 0 nodes but got {count}", policy.mode));
        }
        (2 | 3 | 5 | 6, true) => return wrong("/nodes", format!("{} needs nodes", policy.mode)),
        _ => {}
    }
    let mut flags = 0;
    for (index, flag) in policy.flags.iter().enumerate() {
        match MEMORY_FLAGS.iter().find(|row| row.0 == flag) {
            Some((_, bit)) => flags |= bit,
            None => return wrong(format!("/flags/{index}"), format!("invalid memory policy flag {flag:?}")),
        }
    }
    Ok((mode | flags, nodes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_that_no_kernel_takes_is_the_fault_of_its_member() {
        let fault = |runtime, deadline, period| {
            let policy = "SCHED_DEADLINE".into();
            scheduler(&Scheduler { policy, runtime, deadline, period, ..Scheduler::default() }).err()
        };
        for (times, field) in [
            ((0, 20_000, 0), "/runtime"),
            ((10_000, 0, 20_000), "/deadline"),
            ((1023, 20_000, 0), "/runtime"),
            ((30_000, 20_000, 40_000), "/runtime"),
            ((10_000, 30_000, 20_000), "/deadline"),
            ((1 << 63, u64::MAX, 0), "/runtime"),
            ((1024, 1 << 63, 0), "/deadline"),
            ((1024, 1024, 1 << 63), "/period"),
        ] {
            assert_eq!(fault(times.0, times.1, times.2).map(|fault| fault.0), Some(field.into()), "{times:?}");
        }
        for times in [(1024, 1024, 0), (10_000, 20_000, 20_000)] {
            assert_eq!(fault(times.0, times.1, times.2), None, "{times:?}");
        }
    }
}
