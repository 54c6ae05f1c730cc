//! Resource limits, the scheduler, the memory policy and the execution domain of a process.

use std::borrow::Cow;

use windlass_base::abi::{SchedulerAttributes, bits_of_list};
use windlass_base::spec::{IoPriority, Linux, MemoryPolicy, Process, Rlimit, Scheduler};

use crate::builder::{PlanBuilder, unknown};
use crate::step::{Action, ResourceLimit};

/// Adds limits and scheduling, which need the powers that are given up next.
pub(crate) fn limits(process: &Process, linux: &Linux, pointer: &str, builder: &mut PlanBuilder) {
    let mut seen: Vec<u32> = Vec::new();
    for (index, limit) in process.rlimits.iter().enumerate() {
        let pointer = format!("{pointer}/rlimits/{index}");
        match rlimit(limit) {
            Err((field, msg)) => builder.fault(format!("{pointer}{field}"), msg),
            Ok(resource) if seen.contains(&resource) => {
                builder.fault(pointer, format!("duplicate rlimit {:?}", limit.kind))
            }
            Ok(resource) => {
                seen.push(resource);
                builder.config(
                    pointer,
                    Action::Limit(ResourceLimit {
                        resource,
                        name: limit.kind.clone(),
                        soft: limit.soft,
                        hard: limit.hard,
                    }),
                );
            }
        }
    }
    if let Some(wanted) = &process.scheduler {
        match scheduler(wanted) {
            Ok(attributes) => builder.config(format!("{pointer}/scheduler"), Action::Scheduler(attributes)),
            Err((field, msg)) => builder.fault(format!("{pointer}/scheduler{field}"), msg),
        }
    }
    if let Some(wanted) = &process.io_priority {
        match io_priority(wanted) {
            Ok(priority) => builder.config(format!("{pointer}/ioPriority"), Action::IoPriority(priority)),
            Err((field, msg)) => builder.fault(format!("{pointer}/ioPriority{field}"), msg),
        }
    }
    if let Some(policy) = &linux.memory_policy {
        match memory_policy(policy) {
            Ok((mode, nodes)) => builder.config("/linux/memoryPolicy", Action::MemoryPolicy(mode, nodes)),
            Err((field, msg)) => builder.fault(format!("/linux/memoryPolicy{field}"), msg),
        }
    }
    if let Some(wanted) = &linux.personality {
        match wanted.domain.as_str() {
            "LINUX" => builder.config("/linux/personality", Action::Personality(0)),
            "LINUX32" => builder.config("/linux/personality", Action::Personality(0x8)),
            other => builder.fault("/linux/personality/domain", unknown("personality domain", other)),
        }
        if !wanted.flags.is_empty() {
            builder.fault(
                "/linux/personality/flags/0",
                "personality flags are not supported: the specification defines none",
            );
        }
    }
}

/// A field, relative to the object, and its fault.
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

/// Checks the demands of sched_setattr(2) on a deadline (sched(7), `SCHED_DEADLINE`): runtime <= deadline <= period, a
/// runtime of 1024 ns at least, and 63 bits for each. A period of 0 means the deadline. The messages are crun's.
fn deadline_fault<T>(wanted: &Scheduler) -> Option<Result<T, Wrong>> {
    const LEAST: u64 = 1 << 10;
    const MOST: u64 = i64::MAX as u64;
    let Scheduler { runtime, deadline, period, .. } = *wanted;
    let (field, why) = if runtime == 0 {
        ("/runtime", "requires `runtime`".into())
    } else if deadline == 0 {
        ("/deadline", "requires `deadline`".into())
    } else if !(LEAST..=MOST).contains(&runtime) {
        ("/runtime", format!("runtime {runtime} must be between {LEAST} and {MOST}"))
    } else if deadline > MOST {
        ("/deadline", format!("deadline {deadline} must be <= {MOST}"))
    } else if period > MOST {
        ("/period", format!("period {period} must be <= {MOST}"))
    } else if runtime > deadline {
        ("/runtime", format!("runtime {runtime} must be <= deadline {deadline}"))
    } else if period != 0 && deadline > period {
        ("/deadline", format!("deadline {deadline} must be <= period {period}"))
    } else {
        return None;
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

/// The priority for ioprio_set(2): class in the upper bits, level in the lower 13.
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
        const MOST: u64 = i64::MAX as u64;
        for times in [(1024, 1024, 0), (10_000, 20_000, 20_000), (1024, MOST, 0), (MOST, MOST, MOST)] {
            assert_eq!(fault(times.0, times.1, times.2), None, "{times:?}");
        }
    }

    #[test]
    fn each_flag_that_is_named_is_set() {
        let flags = ["SCHED_FLAG_RESET_ON_FORK", "SCHED_FLAG_KEEP_POLICY"].map(String::from).to_vec();
        let wanted = Scheduler { policy: "SCHED_BATCH".into(), flags, ..Scheduler::default() };
        assert_eq!(scheduler(&wanted).map(|attributes| attributes.flags), Ok(0x09));
    }
}
