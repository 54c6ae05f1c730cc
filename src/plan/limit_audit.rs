//! Compares the limits and the scheduling of restored processes, as the kernel has them, with the configuration: CRIU
//! sets the values of the images, and may raise any.

use windlass_base::abi::SchedulerAttributes;
use windlass_base::capability::CapabilitySet;
use windlass_base::error::Diagnostic;
use windlass_base::namespaces::Namespaces;

use crate::create::Plan;
use crate::step::Action;

/// `SCHED_FIFO` (sched(7)).
const FIFO: u32 = 1;
/// `SCHED_RR`.
const ROUND_ROBIN: u32 = 2;
/// `SCHED_DEADLINE`, which no limit grants.
const DEADLINE: u32 = 6;
/// The nice value that a process may give itself is 20 minus this limit (getrlimit(2)).
const RLIMIT_NICE: u32 = 13;
/// The highest real-time priority that a process may give itself.
const RLIMIT_RTPRIO: u32 = 14;

/// Finds the limits of a process that are above the configured ones. `oom` has its `oom_score_adj` and the runtime's,
/// which holds if none is configured. `hard` returns its hard limit by number, if that can be read.
pub fn raised(plan: &Plan, oom: [i64; 2], hard: &dyn Fn(u32) -> Option<u64>) -> Vec<Diagnostic> {
    if may(plan, CapabilitySet::SYS_RESOURCE) {
        return Vec::new();
    }
    let [found, own] = oom;
    let least = plan.oom_score_adj.unwrap_or(own);
    let protected = (found < least).then(|| Diagnostic {
        pointer: "/process/oomScoreAdj".into(),
        msg: format!("a process of the images has oom_score_adj {found}, below {least}"),
    });
    let limits = plan.init.iter().filter_map(|step| {
        let Action::Limit(limit) = &step.action else { return None };
        let found = hard(limit.resource).filter(|found| *found > limit.hard)?;
        let msg = format!("a process of the images has the hard limit {found} of {}, above {}", limit.name, limit.hard);
        Some(Diagnostic { pointer: step.origin.to_string(), msg })
    });
    protected.into_iter().chain(limits).collect()
}

/// Whether a task has a higher scheduling priority than the configuration permits. `own` is the scheduling of the
/// runtime, which holds if none is configured, and `own_limit` returns a hard limit of the runtime.
pub fn exceeds_priority(
    plan: &Plan,
    found: &SchedulerAttributes,
    own: &SchedulerAttributes,
    own_limit: &dyn Fn(u32) -> u64,
) -> Option<Diagnostic> {
    if may(plan, CapabilitySet::SYS_NICE) {
        return None;
    }
    let configured = plan.init.iter().find_map(|step| match &step.action {
        Action::Scheduler(attributes) => Some(attributes),
        _ => None,
    });
    let expected = configured.unwrap_or(own);
    let limit = |number: u32| {
        let configured = plan.init.iter().find_map(|step| match &step.action {
            Action::Limit(limit) if limit.resource == number => Some(limit.hard),
            _ => None,
        });
        configured.unwrap_or_else(|| own_limit(number))
    };
    let msg = if is_real_time(found.policy) {
        let least = if is_real_time(expected.policy) { expected.priority } else { 0 };
        // A task with a deadline runs before all others, and has no priority.
        let as_strong = found.policy != DEADLINE || expected.policy == DEADLINE;
        let granted = is_real_time(expected.policy) && as_strong && found.priority <= least;
        let limited = found.policy != DEADLINE && u64::from(found.priority) <= limit(RLIMIT_RTPRIO);
        let (policy, priority) = (found.policy, found.priority);
        (!granted && !limited).then(|| format!("a task of the images has the policy {policy} and priority {priority}"))
    } else {
        // Without a configured value the nice value is that of the creator, which is unknown here. It is unlikely to
        // have been negative.
        let least = configured.map_or(own.nice.min(0), |configured| configured.nice);
        let allowed = 20 - i64::try_from(limit(RLIMIT_NICE)).unwrap_or(40).min(40);
        (found.nice < least && i64::from(found.nice) < allowed)
            .then(|| format!("a task of the images has the nice value {}, below {least}", found.nice))
    };
    msg.map(|msg| Diagnostic { pointer: "/process/scheduler".into(), msg })
}

/// Whether a policy runs before all ordinary ones.
fn is_real_time(policy: u32) -> bool {
    [FIFO, ROUND_ROBIN, DEADLINE].contains(&policy)
}

/// Whether a task has a wrong label of the security module. `given` is `--lsm-profile`, as `selinux:LABEL` or
/// `apparmor:PROFILE`. `found` is the label of the task; it is empty without a module.
pub fn mislabelled(plan: &Plan, given: &str, found: &str) -> Option<Diagnostic> {
    let found = found.trim_end_matches(['\0', '\n']);
    // The mode of a profile follows it: `docker-default (enforce)`.
    let profile = found.rsplit_once(" (").map_or(found, |(profile, _)| profile);
    let is_profile =
        |wanted: &str| profile == wanted || profile.strip_prefix(wanted).is_some_and(|rest| rest.starts_with("//"));
    let (pointer, wanted, has) = match given.split_once(':') {
        Some(("selinux", label)) => ("--lsm-profile", label, found == label),
        Some((_, wanted)) => ("--lsm-profile", wanted, is_profile(wanted)),
        None => plan.init.iter().find_map(|step| match &step.action {
            Action::SeLinux(label) => Some(("/process/selinuxLabel", label.as_str(), found == label)),
            Action::AppArmor(wanted) => {
                let has = wanted == "unconfined" || is_profile(wanted);
                Some(("/process/apparmorProfile", wanted.as_str(), has))
            }
            _ => None,
        })?,
    };
    let msg = || format!("a task of the images has the label {found:?}, and not {wanted:?}");
    (!has).then(|| Diagnostic { pointer: pointer.into(), msg: msg() })
}

/// Whether the processes of the container have a capability on the host, where the kernel demands it.
fn may(plan: &Plan, capability: CapabilitySet) -> bool {
    let has = plan.init.iter().any(|step| match &step.action {
        Action::Identity(identity) => identity.capabilities.bounding.contains(capability),
        _ => false,
    });
    has && !plan.topology.new.contains(Namespaces::USER)
}
