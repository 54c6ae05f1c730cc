//! What a dump of a container would not take, found by looking at its processes. Nothing is changed and nothing is
//! stopped, so what changes meanwhile may be missed; a dump that fails says so by CRIU's log.

mod judge;

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use nix::fcntl::OFlag;

use windlass_base::error::{Error, Kind, Result, WithContext};
use windlass_base::mountinfo;
use windlass_base::namespaces::Namespaces;
use windlass_cgroup::AnyCgroup;
use windlass_criu::flags::Flags;
use windlass_plan::checkpoint::is_below;
use windlass_plan::{Action, MountKind, Plan};
use windlass_store::{Container, process_stat};
use windlass_sys::{diag, fd, process, status};

use super::{elements, group_of, lost};
use crate::namespaces::JoinedNamespaces;
use judge::{Descriptor, Sockets, TABLES};

pub use judge::Finding;

/// The namespaces that CRIU does not dump if a process has one of its own, by their names in `/proc/PID/ns`.
const NESTED: [&str; 8] = ["pid", "pid_for_children", "net", "ipc", "uts", "user", "cgroup", "time_for_children"];

/// Looks at a container that runs.
pub fn check(container: &Container, plan: &Plan, flags: &Flags) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    of_configuration(plan, &mut findings);
    let not_running = || Error::new(Kind::WrongStatus, "Container cannot be checkpointed in stopped state");
    let (pidfd, init) = container.open_init()?.zip(container.init).ok_or_else(not_running)?;
    let group = match group_of(container) {
        Err(error) if error.kind() == Kind::WrongStatus => {
            let what = error.message().to_owned();
            findings.push(finding(what, "thaw the ancestor first"));
            container.any_cgroup()?
        }
        other => other?,
    };
    let pids = group.as_ref().map_or(Ok(vec![init.pid]), AnyCgroup::pids)?;
    let executed = lost::executed(init.pid, &pids);
    findings.extend(executed.iter().map(|pid| Finding {
        what: lost::remark(*pid).msg,
        fails: false,
        help: "end it first, or start it anew after the restore",
        pointer: String::new(),
    }));
    let elements = elements::look(init.pid, pidfd.as_fd(), &pids, plan)?;
    of_mounts(plan, &elements.mounts, &mut findings);
    // Other processes may have them open as well.
    let replaced = elements.stdio.map(|stream| stream.key);
    let sockets = sockets(init.pid, pidfd.as_fd(), &pids)?;
    session(init.pid, flags, &mut findings);
    // What is not dumped may have anything.
    for pid in pids.iter().filter(|pid| !executed.contains(pid)) {
        of_process(*pid, init.pid, &mut findings);
        of_files(*pid, &replaced, &sockets, flags, &mut findings);
    }
    Ok(findings)
}

fn finding(what: String, help: &'static str) -> Finding {
    Finding { what, fails: true, help, pointer: String::new() }
}

/// What the configuration asks for and no restore can make.
fn of_configuration(plan: &Plan, findings: &mut Vec<Finding>) {
    for step in &plan.init {
        if let Action::Seccomp(seccomp) = &step.action
            && !seccomp.listener_path.is_empty()
        {
            let what = "the container has a seccomp agent".to_string();
            let help = "SCMP_ACT_NOTIFY cannot be dumped";
            findings.push(Finding { pointer: step.origin.to_string(), ..finding(what, help) });
        }
    }
    for join in &plan.topology.joined {
        if join.kind.intersects(Namespaces::USER | Namespaces::MOUNT | Namespaces::CGROUP) {
            let what = format!("the container joins the namespace {}", join.path);
            let found = finding(what, "user, mount and cgroup namespaces by path cannot be restored");
            findings.push(Finding { fails: false, pointer: join.pointer.clone(), ..found });
        }
    }
}

/// Mounts from outside that the configuration does not have: nobody knows their source at the restore.
fn of_mounts(plan: &Plan, external: &[windlass_plan::checkpoint::ExternalMount], findings: &mut Vec<Finding>) {
    let known = |point: &str| {
        plan.init.iter().any(|step| match &step.action {
            Action::Mount(mount) => match &mount.what {
                MountKind::Bind(_) => is_below(point, &mount.destination.to_string()),
                MountKind::New { kind, .. } => kind == "cgroup2" && mount.destination.is(point),
            },
            Action::Node(node) => node.path.is(point),
            Action::Mask(path) => path.is(point),
            _ => false,
        })
    };
    // A destination may lead through links of the root filesystem, and is then at another place.
    let names: BTreeSet<&str> = external.iter().map(|mount| mount.point.as_str()).collect();
    let linked = plan.init.iter().any(|step| match &step.action {
        Action::Mount(mount) => {
            let destination = mount.destination.to_string();
            matches!(mount.what, MountKind::Bind(_)) && !names.contains(destination.as_str())
        }
        _ => false,
    });
    for mount in external.iter().filter(|mount| !linked && !known(&mount.point)) {
        let what = format!("the mount {} comes from outside and is not in config.json", mount.point);
        findings.push(Finding { fails: false, pointer: "/mounts".into(), ..finding(what, "add it to the mounts") });
    }
}

fn named(pid: i32) -> String {
    let name = process_stat(pid).ok().flatten().map(|stat| stat.name).unwrap_or_default();
    format!("process {pid} ({name})")
}

/// A session that began outside.
fn session(init: i32, flags: &Flags, findings: &mut Vec<Finding>) {
    let Some(status) = status::of(init) else { return };
    // Both are ids in the PID namespace of init.
    let innermost = |ids: Option<Vec<i32>>| ids.and_then(|ids| ids.last().copied());
    if !flags.shell_job && innermost(status.nssid) != innermost(status.nspid) {
        findings.push(finding("the session of init began outside the container".into(), "pass --shell-job"));
    }
}

fn of_process(pid: i32, init: i32, findings: &mut Vec<Finding>) {
    if status::of(pid).is_some_and(|status| status.tracerpid != 0) {
        findings.push(finding(format!("{} is traced", named(pid)), "detach the debugger first"));
    }
    let link = |pid: i32, name: &str| std::fs::read_link(format!("/proc/{pid}/ns/{name}")).ok();
    for name in NESTED {
        let (own, of_init) = (link(pid, name), link(init, name));
        if own.is_some() && of_init.is_some() && own != of_init {
            let what = format!("{} has a namespace of its own ({name})", named(pid));
            findings.push(finding(what, "nested namespaces cannot be dumped, except mount namespaces"));
        }
    }
    let maps = fd::open(format!("/proc/{pid}/maps"), OFlag::O_RDONLY).and_then(|file| fd::read_all(file, fd::DOCUMENT));
    let maps = String::from_utf8_lossy(&maps.unwrap_or_default()).into_owned();
    for (part, what) in
        [("anon_inode:[io_uring]", "io_uring"), ("/secretmem", "secret memory"), ("[uprobes]", "uprobes")]
    {
        if maps.contains(part) {
            findings.push(finding(format!("{} has {what} in its memory", named(pid)), "CRIU cannot dump it"));
        }
    }
    let program = format!("/proc/{pid}/exe");
    let deleted = std::fs::read_link(&program).is_ok_and(|link| link.to_string_lossy().ends_with(" (deleted)"));
    if deleted && std::fs::metadata(&program).is_ok_and(|program| program.nlink() > 0) {
        findings.push(finding(format!("the program of {} was replaced", named(pid)), "pass --link-remap"));
    }
}

fn of_files(pid: i32, streams: &[String; 3], sockets: &Sockets, flags: &Flags, findings: &mut Vec<Finding>) {
    let mounts =
        fd::open(format!("/proc/{pid}/mountinfo"), OFlag::O_RDONLY).and_then(|it| fd::read_all(it, fd::DOCUMENT));
    let mounts: BTreeSet<u32> = mountinfo::parse(&mounts.unwrap_or_default()).iter().map(|mount| mount.id).collect();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
        let (Ok(link), Ok(found)) = (std::fs::read_link(entry.path()), std::fs::metadata(entry.path())) else {
            continue;
        };
        let number = entry.file_name().to_string_lossy().into_owned();
        let info = fd::read_small(fd::CWD, format!("/proc/{pid}/fdinfo/{number}")).unwrap_or_default();
        let mount = fd::mount_id_in(&info);
        let key = mount.map(|mount| elements::file_key(mount, found.ino()));
        let file = Descriptor {
            link: link.to_string_lossy().into_owned(),
            mode: found.mode(),
            device: (libc::major(found.rdev()), libc::minor(found.rdev())),
            names: found.nlink(),
            size: found.size(),
            foreign: link.is_absolute() && mount.is_some_and(|mount| !mounts.contains(&mount)),
            replaced: key.is_some_and(|key| streams.contains(&key)),
            locked: String::from_utf8_lossy(&info).lines().any(|line| line.starts_with("lock:")),
        };
        let whose = format!("descriptor {number} of {}", named(pid));
        findings.extend(judge::descriptor(&whose, &file, sockets, flags));
    }
}

/// The sockets of the network namespace of init, and which of them are the container's.
fn sockets(init: i32, pidfd: std::os::fd::BorrowedFd<'_>, pids: &[i32]) -> Result<Sockets> {
    let table = |name: &&'static str| {
        let text =
            fd::open(format!("/proc/{init}/net/{name}"), OFlag::O_RDONLY).and_then(|it| fd::read_all(it, fd::DOCUMENT));
        Some((*name, String::from_utf8_lossy(&text.ok()?).into_owned()))
    };
    let tables: Vec<(&str, String)> = TABLES.iter().filter_map(table).collect();
    let mut out = judge::sockets(&tables);
    out.peers = {
        let _visit = JoinedNamespaces::visit(pidfd, Namespaces::NET)?;
        diag::unix_peers().with_context(|| "cannot look at the unix sockets of the container")?
    };
    for pid in pids {
        for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
            let link =
                std::fs::read_link(entry.path()).map(|link| link.to_string_lossy().into_owned()).unwrap_or_default();
            out.own.extend(link.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')?.parse::<u64>().ok()));
        }
    }
    process::still_there(pidfd).with_context(|| "cannot look at the container's init")?;
    Ok(out)
}
