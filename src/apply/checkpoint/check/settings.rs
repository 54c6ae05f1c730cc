//! Settings of a process that are not in the images. A restored process has CRIU's settings instead.

use std::collections::BTreeSet;

use windlass_base::abi::bits_of_list;
use windlass_plan::{Action, Plan};
use windlass_sys::{fd, sched};

/// Settings of a process that CRIU does not dump, as far as others can read them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    /// CPUs, as bits; `None` if they are not known.
    cpus: Option<Vec<u64>>,
    /// Class << 13 | level (ioprio_get(2)).
    io_priority: u32,
    /// ns; a process with a real-time policy has none.
    timer_slack: u64,
    /// The content of a core dump (core(5)).
    coredump_filter: String,
    /// personality(2).
    personality: u64,
    /// The nice value of its autogroup (sched(7)).
    autogroup_nice: i32,
    /// The memory policies of its memory (set_mempolicy(2)).
    memory_policies: BTreeSet<String>,
    /// Whether equal pages are merged (`PR_SET_MEMORY_MERGE`).
    merges: bool,
    /// Whether memory is sealed (mseal(2)).
    sealed: bool,
    /// Whether memory may be dropped (mmap(2), `MAP_DROPPABLE`).
    droppable: bool,
}

/// The default timer slack, in ns (prctl(2), `PR_SET_TIMERSLACK`).
const TIMER_SLACK: u64 = 50_000;

/// The settings of a process. A setting that cannot be read counts as the default.
pub(crate) fn of(pid: i32) -> Settings {
    let read = |name: &str| {
        let text = fd::read_small(fd::CWD, format!("/proc/{pid}/{name}")).unwrap_or_default();
        String::from_utf8_lossy(&text).trim().to_owned()
    };
    let maps = document(pid, "numa_maps");
    let policy = |line: &str| line.split(' ').nth(1).filter(|policy| *policy != "default").map(str::to_owned);
    let (sealed, droppable) = memory_flags(&document(pid, "smaps"));
    let status = read("status");
    let cpus = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    Settings {
        cpus: cpus.and_then(bits_of_list),
        io_priority: sched::io_priority_of(pid).unwrap_or(0),
        timer_slack: read("timerslack_ns").parse().ok().filter(|slack| *slack != 0).unwrap_or(TIMER_SLACK),
        coredump_filter: read("coredump_filter"),
        personality: u64::from_str_radix(&read("personality"), 16).unwrap_or(0),
        autogroup_nice: read("autogroup").rsplit_once(' ').and_then(|(_, nice)| nice.parse().ok()).unwrap_or(0),
        memory_policies: maps.lines().filter_map(policy).collect(),
        merges: read("ksm_stat").contains("ksm_merge_any: yes"),
        sealed,
        droppable,
    }
}

/// A file of a process that may be long; nothing if it cannot be read.
pub(crate) fn document(pid: i32, name: &str) -> String {
    String::from_utf8_lossy(&fd::document(format!("/proc/{pid}/{name}")).unwrap_or_default()).into_owned()
}

/// Whether memory is sealed, and whether memory may be dropped, by a text of `smaps`. Mappings with a name in brackets
/// do not count: the kernel's own, which are restored, and the heap and stacks.
fn memory_flags(smaps: &str) -> (bool, bool) {
    let (mut sealed, mut droppable, mut own) = (false, false, false);
    for line in smaps.lines() {
        match line.strip_prefix("VmFlags:") {
            Some(flags) => {
                sealed |= !own && flags.split(' ').any(|flag| flag == "sl");
                droppable |= !own && flags.split(' ').any(|flag| flag == "dp");
            }
            // The line that begins a mapping has addresses, others a name.
            None if line.split(' ').next().is_some_and(|word| !word.ends_with(':')) => own = line.ends_with(']'),
            None => {}
        }
    }
    (sealed, droppable)
}

/// The settings of every process after a restore by this process. `cpus` is the container's cpuset, if it is known.
pub(crate) fn restored(plan: &Plan, cpus: Option<Vec<u64>>) -> Settings {
    let filter = fd::read_small(fd::CWD, "/proc/self/coredump_filter").unwrap_or_default();
    let mut settings = Settings {
        cpus,
        // Before Linux 5.19 the default is not 0.
        io_priority: sched::io_priority_of(std::process::id() as i32).unwrap_or(0),
        timer_slack: TIMER_SLACK,
        coredump_filter: String::from_utf8_lossy(&filter).trim().to_owned(),
        ..Settings::default()
    };
    for step in &plan.init {
        match &step.action {
            Action::IoPriority(priority) => settings.io_priority = *priority,
            Action::Personality(domain) => settings.personality = *domain,
            Action::Affinity(_) => settings.cpus = None,
            _ => {}
        }
    }
    settings
}

/// Which settings a process loses. `configured`: the configuration has a memory policy, which is set again.
pub(crate) fn lost(found: &Settings, restored: &Settings, configured: bool) -> Vec<&'static str> {
    let set =
        |cpus: &[u64]| (0..cpus.len() * 64).filter(|cpu| cpus[cpu / 64] >> (cpu % 64) & 1 == 1).collect::<Vec<_>>();
    let differs = found.cpus.as_ref().zip(restored.cpus.as_ref()).is_some_and(|(own, then)| set(own) != set(then));
    [
        (differs, "the CPUs that it may use"),
        (found.io_priority != restored.io_priority, "its I/O priority"),
        (found.timer_slack != restored.timer_slack, "its timer slack"),
        // A process that has ended has no filter.
        (!["", &restored.coredump_filter].contains(&found.coredump_filter.as_str()), "what its core dumps have"),
        (found.personality != restored.personality, "its personality"),
        (found.autogroup_nice != restored.autogroup_nice, "the nice value of its autogroup"),
        (!configured && !found.memory_policies.is_empty(), "its memory policy"),
        (found.merges, "that its equal pages are merged"),
        (found.sealed, "the seals of its memory"),
        (found.droppable, "that its memory may be dropped"),
    ]
    .into_iter()
    .filter_map(|(is, what)| is.then_some(what))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_as_after_a_restore_is_not_lost() {
        let plain = Settings { cpus: Some(vec![3, 0]), timer_slack: TIMER_SLACK, ..Settings::default() };
        assert_eq!(lost(&plain, &plain, false), [""; 0]);
        let cases: [(Settings, &str); 10] = [
            (Settings { cpus: Some(vec![1]), ..plain.clone() }, "CPUs"),
            (Settings { io_priority: 2 << 13 | 6, ..plain.clone() }, "I/O priority"),
            (Settings { timer_slack: 1, ..plain.clone() }, "timer slack"),
            (Settings { coredump_filter: "7f".into(), ..plain.clone() }, "core dumps"),
            (Settings { personality: 0x40000, ..plain.clone() }, "personality"),
            (Settings { autogroup_nice: 5, ..plain.clone() }, "autogroup"),
            (Settings { memory_policies: BTreeSet::from(["bind:0".into()]), ..plain.clone() }, "memory policy"),
            (Settings { merges: true, ..plain.clone() }, "merged"),
            (Settings { sealed: true, ..plain.clone() }, "seals"),
            (Settings { droppable: true, ..plain.clone() }, "dropped"),
        ];
        for (found, what) in cases {
            let named = lost(&found, &plain, false);
            assert!(named.len() == 1 && named[0].contains(what), "{named:?} for {what}");
        }
        assert_eq!(lost(&Settings { cpus: Some(vec![3]), ..plain.clone() }, &plain, false), [""; 0], "the same CPUs");
        assert_eq!(
            lost(&Settings { cpus: Some(vec![1]), ..plain.clone() }, &Settings { cpus: None, ..plain }, false),
            [""; 0]
        );
    }

    #[test]
    fn flags_of_memory_are_those_of_the_program() {
        let mapping =
            |name: &str, flags: &str| format!("7f00-7f01 rw-p 00 00:00 0 {name}\nSize: 4 kB\nVmFlags: rd{flags} \n");
        let of = |name: &str, flags: &str| memory_flags(&(mapping(name, flags) + &mapping("/x", "")));
        assert_eq!([of("/x", ""), of("[vdso]", " sl")], [(false, false); 2]);
        assert_eq!([of("", " sl"), of("", " mr dp")], [(true, false), (false, true)]);
    }

    #[test]
    fn a_process_of_ours_has_what_it_was_given() {
        let pid = std::process::id() as i32;
        let own = of(pid);
        assert!(own.cpus.is_some_and(|cpus| cpus.iter().any(|bits| *bits != 0)));
        assert!(own.timer_slack > 0 && !own.coredump_filter.is_empty());
    }
}
