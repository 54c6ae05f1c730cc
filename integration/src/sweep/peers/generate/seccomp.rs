//! Seccomp profiles under which a program can still run, and the calls with which the payload tests them.

use super::super::rng::Rng;
use serde_json::{Value, json};

/// Calls that no runtime needs and that change nothing if they are allowed: they fail or only read.
pub const CALLS: &[(&str, i64)] = &[
    ("sched_get_priority_min", libc::SYS_sched_get_priority_min),
    ("timerfd_gettime", libc::SYS_timerfd_gettime),
    ("clock_getres", libc::SYS_clock_getres),
    ("getsid", libc::SYS_getsid),
    ("sched_getscheduler", libc::SYS_sched_getscheduler),
    ("inotify_rm_watch", libc::SYS_inotify_rm_watch),
    ("kcmp", libc::SYS_kcmp),
    ("getitimer", libc::SYS_getitimer),
    ("sched_get_priority_max", libc::SYS_sched_get_priority_max),
    ("io_uring_enter", libc::SYS_io_uring_enter),
];

/// Arguments at the boundaries of comparisons.
pub const ARGUMENTS: &[u64] =
    &[0, 1, 2, 3, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 1 << 32, (1 << 32) + 1, i64::MAX as u64];

/// Adds `linux.seccomp`.
pub fn add(rng: &mut Rng, spec: &mut Value) {
    // Each name has one action, because the specification does not define which of two matching rules counts.
    let mut names: Vec<&str> = CALLS.iter().map(|(name, _)| *name).collect();
    let mut rules = Vec::new();
    for _ in 0..=rng.below(4) {
        let mut chosen = rng.some(&names, 25);
        if chosen.is_empty() {
            chosen.push(rng.pick(&names));
        }
        names.retain(|name| !chosen.contains(name));
        let first = rule(rng, &chosen);
        if rng.chance(30) && first["args"].is_array() {
            let mut second = first.clone();
            second["args"] = conditions(rng);
            rules.push(second);
        }
        rules.push(first);
        if names.is_empty() {
            break;
        }
    }
    let mut profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules});
    if rng.chance(60) {
        let all = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"];
        let number = 1 + rng.below(3) as usize;
        profile["architectures"] = json!(&all[..number]);
    }
    if rng.chance(15) {
        profile["flags"] = json!(["SECCOMP_FILTER_FLAG_LOG"]);
    }
    spec["linux"]["seccomp"] = profile;
}

fn rule(rng: &mut Rng, names: &[&str]) -> Value {
    let actions = [
        "SCMP_ACT_ERRNO",
        "SCMP_ACT_ERRNO",
        "SCMP_ACT_ERRNO",
        "SCMP_ACT_KILL",
        "SCMP_ACT_KILL_PROCESS",
        "SCMP_ACT_KILL_THREAD",
        "SCMP_ACT_TRAP",
        "SCMP_ACT_TRACE",
        "SCMP_ACT_LOG",
    ];
    let action = rng.pick(&actions);
    let mut rule = json!({"names": names, "action": action});
    if action == "SCMP_ACT_ERRNO" && rng.chance(70) {
        rule["errnoRet"] = rng.pick(&[1, 2, 38, 95, 133]).into();
    }
    if rng.chance(55) {
        rule["args"] = conditions(rng);
    }
    rule
}

fn conditions(rng: &mut Rng) -> Value {
    let number = 1 + rng.below(2);
    (0..number).map(|index| condition(rng, index)).collect()
}

fn condition(rng: &mut Rng, index: u64) -> Value {
    let operators = [
        "SCMP_CMP_EQ",
        "SCMP_CMP_NE",
        "SCMP_CMP_LT",
        "SCMP_CMP_LE",
        "SCMP_CMP_GT",
        "SCMP_CMP_GE",
        "SCMP_CMP_MASKED_EQ",
    ];
    let operator = rng.pick(&operators);
    let mut condition = json!({"index": index, "value": rng.pick(ARGUMENTS), "op": operator});
    if operator == "SCMP_CMP_MASKED_EQ" {
        // The mask, and the value that is expected under it.
        condition["valueTwo"] = json!(rng.pick(ARGUMENTS) & condition["value"].as_u64().unwrap_or(0));
    }
    condition
}
