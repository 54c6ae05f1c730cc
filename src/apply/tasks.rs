//! Compares living tasks, read from procfs, with the configuration: tasks of a restore before they run, and tasks that
//! a dump would store.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::OFlag;

use windlass_base::abi::SchedulerAttributes;
use windlass_base::capability::CapabilitySet;
use windlass_base::error::{Diagnostic, Error, Kind, Result, WithContext};
use windlass_base::namespaces::{KINDS, Namespaces};
use windlass_base::spec::IdMapping;
use windlass_plan::limit_audit;
use windlass_plan::restore::{Claims, Thread, bounding, one_of_each, task_contradictions};
use windlass_plan::{Action, Plan};
use windlass_sys::{directory, fd, sched};

const CONTEXT: &str = "cannot look at the processes of the container";

/// Tasks that are looked at one after the other.
pub(crate) struct Tasks<'a> {
    plan: &'a Plan,
    /// `--lsm-profile`.
    label: &'a str,
    /// Whether tasks must have a label.
    labelled: bool,
    own: SchedulerAttributes,
    own_oom_score_adj: i64,
    claims: Claims,
    faults: Vec<Diagnostic>,
}

impl<'a> Tasks<'a> {
    /// Begins without tasks. `label` is `--lsm-profile`.
    pub(crate) fn new(plan: &'a Plan, label: &'a str) -> Result<Tasks<'a>> {
        let labels = |action: &Action| matches!(action, Action::AppArmor(_) | Action::SeLinux(_));
        Ok(Tasks {
            plan,
            label,
            labelled: !label.is_empty() || plan.init.iter().any(|step| labels(&step.action)),
            own: sched::scheduler_of(0).with_context(|| CONTEXT)?,
            own_oom_score_adj: oom_score_adj("self")?,
            claims: Claims::default(),
            faults: Vec::new(),
        })
    }

    /// Looks at all tasks of a process.
    pub(crate) fn look(&mut self, pid: i32) -> Result<()> {
        self.claims.processes += 1;
        self.claims.namespaces.push(namespaces(pid)?);
        let oom = [oom_score_adj(&pid.to_string())?, self.own_oom_score_adj];
        let hard = |number| sched::hard_limit_of(pid, number).ok();
        self.faults.extend(limit_audit::raised(self.plan, oom, &hard));
        if !bounding(self.plan).contains(CapabilitySet::NET_RAW) && has_raw_socket(pid)? {
            // CRIU makes it with its own capabilities.
            let msg = format!("process {pid} has a raw socket, which the bounding set does not allow");
            self.faults.push(Diagnostic { pointer: "/process/capabilities/bounding".into(), msg });
        }
        let own_limit = |number| sched::hard_limit_of(0, number).unwrap_or(0);
        let tasks = fd::open(format!("/proc/{pid}/task"), OFlag::O_RDONLY | OFlag::O_DIRECTORY);
        for tid in tasks.and_then(|dir| directory::names(dir.as_fd())).with_context(|| CONTEXT)? {
            let task = format!("/proc/{pid}/task/{}", tid.display());
            let status = fd::read_small(fd::CWD, format!("{task}/status")).with_context(|| CONTEXT)?;
            self.claims.threads.push(thread(&String::from_utf8_lossy(&status), self.plan)?);
            let number = tid.to_string_lossy().parse().unwrap_or(pid);
            let found = sched::scheduler_of(number).with_context(|| CONTEXT)?;
            self.faults.extend(limit_audit::exceeds_priority(self.plan, &found, &self.own, &own_limit));
            if self.labelled {
                self.faults.extend(limit_audit::mislabelled(self.plan, self.label, &label_of(&task)));
            }
        }
        Ok(())
    }

    /// The contradictions to the configuration, one fault for each element of it.
    pub(crate) fn contradictions(self) -> Vec<Diagnostic> {
        let mut faults = task_contradictions(self.plan, &self.claims);
        faults.extend(one_of_each(self.faults));
        faults
    }
}

/// The label of a task by its directory in procfs. The first file is AppArmor's own, since Linux 5.8.
fn label_of(task: &str) -> String {
    let read = |name: &str| fd::read_small(fd::CWD, format!("{task}/attr/{name}")).ok();
    let label = read("apparmor/current").or_else(|| read("current")).unwrap_or_default();
    String::from_utf8_lossy(&label).into_owned()
}

fn oom_score_adj(process: &str) -> Result<i64> {
    let text = fd::read_small(fd::CWD, format!("/proc/{process}/oom_score_adj"));
    let text = text.with_context(|| CONTEXT)?;
    let number = std::str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok());
    number.ok_or_else(|| Error::new(Kind::Kernel, "the oom_score_adj of a process is not a number"))
}

/// Whether a process has a socket that takes CAP_NET_RAW to make (raw(7), packet(7)).
fn has_raw_socket(pid: i32) -> Result<bool> {
    // The tables of its network namespace, and where the inode is in a line.
    let mut raw = BTreeSet::new();
    for (name, at) in [("packet", 8), ("raw", 9), ("raw6", 9)] {
        let text = match fd::document(format!("/proc/{pid}/net/{name}")) {
            // A kernel without this kind of sockets has no table.
            Err(failed) if failed.errno == Errno::ENOENT => continue,
            other => other.with_context(|| CONTEXT)?,
        };
        let text = String::from_utf8_lossy(&text);
        let inodes = text.lines().skip(1).filter_map(|line| line.split_whitespace().nth(at));
        raw.extend(inodes.map(|inode| format!("socket:[{inode}]")));
    }
    if raw.is_empty() {
        return Ok(false);
    }
    let files = fd::open(format!("/proc/{pid}/fd"), OFlag::O_RDONLY | OFlag::O_DIRECTORY).with_context(|| CONTEXT)?;
    for name in directory::names(files.as_fd()).with_context(|| CONTEXT)? {
        let link = match fd::readlinkat(files.as_fd(), name) {
            // It was closed meanwhile.
            Err(failed) if failed.errno == Errno::ENOENT => continue,
            other => other.with_context(|| CONTEXT)?,
        };
        if link.to_str().is_some_and(|link| raw.contains(link)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The kinds of namespaces that a process does not share with the runtime.
fn namespaces(pid: i32) -> Result<Namespaces> {
    let mut kinds = Namespaces::empty();
    // Older kernels have no time namespaces.
    for &(_, name, kind) in KINDS.iter().filter(|row| row.2 != Namespaces::TIME) {
        let link = |of: &str| std::fs::read_link(format!("/proc/{of}/ns/{name}"));
        let theirs = link(&pid.to_string()).with_context(|| CONTEXT)?;
        if link("self").is_ok_and(|own| own != theirs) {
            kinds |= kind;
        }
    }
    Ok(kinds)
}

fn damaged() -> Error {
    Error::new(Kind::Kernel, "the status of a process lacks a field")
}

fn field<'a>(status: &'a str, name: &str) -> Result<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim).ok_or_else(damaged)
}

/// The capabilities that are in any of a task's five sets.
fn capabilities(status: &str) -> Result<CapabilitySet> {
    let mut all = 0;
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        all |= u64::from_str_radix(field(status, set)?, 16).map_err(|_| damaged())?;
    }
    Ok(CapabilitySet::from_bits_retain(all))
}

/// Parses a task's `/proc/PID/task/TID/status` (proc_pid_status(5)).
fn thread(status: &str, plan: &Plan) -> Result<Thread> {
    let field = |name: &str| field(status, name);
    let ids = |name: &str, maps: &[IdMapping]| -> Result<[u32; 4]> {
        let words: Vec<u32> = field(name)?.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let words: [u32; 4] = words.try_into().map_err(|_| damaged())?;
        Ok(words.map(|id| inside(id, maps, plan.topology.user_namespace())))
    };
    Ok(Thread {
        tid: field("Pid:")?.parse().map_err(|_| damaged())?,
        uids: ids("Uid:", &plan.topology.uid_mappings)?,
        gids: ids("Gid:", &plan.topology.gid_mappings)?,
        capabilities: capabilities(status)?,
        no_new_privileges: field("NoNewPrivs:")? == "1",
        filtered: field("Seccomp:")? == "2",
        filters: Rc::default(),
    })
}

/// The id in the container for an id of the host; `u32::MAX` if it is not mapped.
fn inside(id: u32, maps: &[IdMapping], mapped: bool) -> u32 {
    if !mapped {
        return id;
    }
    maps.iter().find_map(|mapping| mapping.to_container(id)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_raw_socket_is_seen_while_it_is_open() {
        use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
        let own = std::process::id() as i32;
        let _stream = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None);
        assert!(!has_raw_socket(own).expect("readable"));
        for (family, protocol) in
            [(AddressFamily::Packet, SockProtocol::EthAll), (AddressFamily::Inet, SockProtocol::Icmp)]
        {
            // It takes CAP_NET_RAW.
            let Ok(raw) = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol) else { continue };
            assert!(has_raw_socket(own).expect("readable"), "{family:?}");
            drop(raw);
            assert!(!has_raw_socket(own).expect("readable"), "{family:?}");
        }
    }

    #[test]
    fn a_capability_of_any_set_counts() {
        let sets = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];
        let status = |of: Option<&str>| {
            let line = |set: &&str| format!("{set}:\t{:016x}\n", u64::from(of == Some(set)) << 21);
            format!("Name:\tx\n{}NoNewPrivs:\t0\n", sets.iter().map(line).collect::<String>())
        };
        assert_eq!(capabilities(&status(None)).expect("whole"), CapabilitySet::empty());
        for set in sets {
            assert_eq!(capabilities(&status(Some(set))).expect("whole"), CapabilitySet::SYS_ADMIN, "{set}");
            assert!(capabilities(&status(None).replace(set, "Other")).is_err(), "{set} is missing");
        }
    }

    #[test]
    fn an_id_is_that_of_the_container_or_none() {
        let maps = [IdMapping { container_id: 5, host_id: 100_000, size: 10 }];
        assert_eq!([100_000, 100_009, 100_010, 0].map(|id| inside(id, &maps, true)), [5, 14, u32::MAX, u32::MAX]);
        assert_eq!(inside(7, &maps, false), 7);
    }
}
