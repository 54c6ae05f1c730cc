//! Finds what a dump of a container could not store, by looking at its processes. Nothing is changed or stopped, so
//! changes meanwhile may be missed; if the dump itself fails, CRIU's log tells why.

mod apart;
mod files;
mod judge;
mod settings;

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use windlass_base::error::{Diagnostic, Error, Kind, Result, WithContext};
use windlass_base::mount::MountAttributes;
use windlass_base::mountinfo::Mounted;
use windlass_base::namespaces::Namespaces;
use windlass_cgroup::AnyCgroup;
use windlass_criu::flags::Flags;
use windlass_plan::mount_audit::{Shows, View, flags_of, views};
use windlass_plan::restore::{ClaimedMount, Claims, mount_contradictions};
use windlass_plan::{Action, Plan};
use windlass_store::{Container, process_stat};
use windlass_sys::{diag, fd, process, sched, socket, status};

use super::elements::{self, Elements};
use super::{THAW_INNER, group_of, lost};
use crate::namespaces::JoinedNamespaces;
use crate::tasks::Tasks;
use apart::Reporter;
use files::{Known, named, protocol_of};
use judge::{NETWORK, Sockets, finding};

pub use judge::{CheckpointObstacle, Loss};

/// The namespaces that CRIU does not dump if a process has one of its own, by their names in `/proc/PID/ns`.
const NESTED: [&str; 8] = ["pid", "pid_for_children", "net", "ipc", "uts", "user", "cgroup", "time_for_children"];

/// Checks a running container. `old` tells whether CRIU is older than 4.2.
pub fn check(
    container: &Container,
    plan: &Plan,
    flags: &Flags,
    old: &dyn Fn() -> bool,
) -> Result<Vec<CheckpointObstacle>> {
    apart::look(&|reporter, findings| look(Subject { container, plan, flags, old }, reporter, findings))
}

/// What is checked, and for which dump.
struct Subject<'a> {
    container: &'a Container,
    plan: &'a Plan,
    flags: &'a Flags,
    old: &'a dyn Fn() -> bool,
}

fn look(subject: Subject<'_>, reporter: &Reporter, findings: &mut Vec<CheckpointObstacle>) -> Result<()> {
    let Subject { container, plan, flags, old } = subject;
    of_configuration(plan, findings);
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
    let inner = group.as_ref().and_then(|group| group.frozen_below().ok().flatten());
    findings.extend(inner.map(|inner| finding(format!("the container has frozen its cgroup {inner}"), THAW_INNER)));
    let paused = group.as_ref().is_some_and(|group| group.is_frozen().unwrap_or(false));
    let pids = group.as_ref().map_or(Ok(vec![init.pid]), AnyCgroup::pids)?;
    let executed = lost::executed(init.pid, &pids);
    findings.extend(executed.iter().map(|pid| CheckpointObstacle {
        what: lost::remark(*pid).msg,
        loss: Loss::Part,
        help: "end it first, or start it anew after the restore".into(),
        pointer: String::new(),
    }));
    of_owners(plan, init.pid, findings);
    reporter.at("a mount of the container", findings);
    let elements = elements::look(init.pid, pidfd.as_fd(), &pids, plan)?;
    of_mounts(plan, &elements, findings);
    for mount in elements.mounted.iter().filter(|mount| files::has_queue(init.pid, mount)) {
        let what = format!("the mount {} has message queues", mount.point);
        findings.push(finding(what, "remove them (mq_unlink(3)): CRIU dumps an empty one alone"));
    }
    // Other processes may have the streams open as well.
    let known = Known::of(init.pid, &pids, elements.stdio.map(|stream| stream.key));
    let sockets = sockets(init.pid, pidfd.as_fd(), &pids, old)?;
    session(init.pid, flags, findings);
    let restored = settings::restored(plan, cpus_of(group.as_ref(), init.pid));
    let configured = plan.init.iter().any(|step| matches!(step.action, Action::MemoryPolicy(..)));
    let mut tasks = Tasks::new(plan, "")?;
    // Processes that are not dumped are not judged.
    for pid in pids.iter().filter(|pid| !executed.contains(pid)) {
        reporter.at(&named(*pid), findings);
        of_process(*pid, init.pid, paused, findings);
        files::look(*pid, &known, &sockets, flags, reporter, findings);
        let lost = settings::lost(&settings::of(*pid), &restored, configured);
        findings.extend(lost.into_iter().map(|what| CheckpointObstacle {
            loss: Loss::Part,
            ..finding(
                format!("{} loses {what}", named(*pid)),
                "the images do not have it: set it again after the restore",
            )
        }));
        // A process that has ended meanwhile is left out.
        let _ = tasks.look(*pid);
    }
    findings.extend(tasks.contradictions().into_iter().map(unrestorable));
    Ok(())
}

/// The finding for a fault by which the restore would refuse the images.
fn unrestorable(fault: Diagnostic) -> CheckpointObstacle {
    let help = "the restore refuses what config.json does not give";
    CheckpointObstacle { loss: Loss::Restore, pointer: fault.pointer, ..finding(fault.msg, help) }
}

/// The CPUs of the cpuset of the container, as bits; `None` if the cpuset cannot be found.
fn cpus_of(group: Option<&AnyCgroup>, init: i32) -> Option<Vec<u64>> {
    let path = match group {
        Some(AnyCgroup::Unified(cgroup)) => cgroup.path().to_owned(),
        _ => String::new(),
    };
    let above = std::path::Path::new(&path).ancestors().filter(|dir| dir.is_absolute());
    let above = above.map(|dir| dir.join("cpuset.cpus.effective"));
    let own = above.into_iter().find_map(|file| std::fs::read_to_string(file).ok());
    let list = own.or_else(|| {
        let whole = std::fs::read_to_string(format!("/proc/{init}/cpuset")).is_ok_and(|path| path.trim() == "/");
        whole.then(|| std::fs::read_to_string("/sys/devices/system/cpu/online").ok())?
    });
    windlass_base::abi::bits_of_list(list?.trim())
}

/// Finds elements of the configuration that no restore can make.
fn of_configuration(plan: &Plan, findings: &mut Vec<CheckpointObstacle>) {
    for step in &plan.init {
        if let Action::Seccomp(seccomp) = &step.action
            && !seccomp.listener_path.is_empty()
        {
            let what = "the container has a seccomp agent".to_string();
            let help = "SCMP_ACT_NOTIFY cannot be dumped";
            findings.push(CheckpointObstacle { pointer: step.origin.to_string(), ..finding(what, help) });
        }
    }
    for join in &plan.topology.joined {
        if join.kind.intersects(Namespaces::USER | Namespaces::MOUNT | Namespaces::CGROUP) {
            let what = format!("the container joins the namespace {}", join.path);
            let found = finding(what, "user, mount and cgroup namespaces by path cannot be restored");
            findings.push(CheckpointObstacle { loss: Loss::Restore, pointer: join.pointer.clone(), ..found });
        }
    }
}

/// Finds joined namespaces that the container's user namespace does not own. CRIU enters them from there.
fn of_owners(plan: &Plan, init: i32, findings: &mut Vec<CheckpointObstacle>) {
    let open = |kind: Namespaces| fd::open(format!("/proc/{init}/ns/{}", kind.proc_name()), OFlag::O_RDONLY);
    let inode = |namespace: OwnedFd| fd::stat(namespace.as_fd()).map(|stat| stat.st_ino);
    let Ok(own) = open(Namespaces::USER).and_then(inode) else { return };
    for join in plan.topology.joined.iter().filter(|_| plan.topology.new.contains(Namespaces::USER)) {
        let owner = open(join.kind).and_then(|namespace| process::owner_of(namespace.as_fd())).and_then(inode);
        if owner.is_ok_and(|owner| owner != own) {
            let what = format!("the container's user namespace does not own the namespace {}", join.path);
            let found = finding(what, "CRIU dumps a user namespace only with namespaces that were made in it");
            findings.push(CheckpointObstacle { pointer: join.pointer.clone(), ..found });
        }
    }
}

/// Finds mounts that the restore would refuse: external mounts without a known source, and others as it judges images.
fn of_mounts(plan: &Plan, elements: &Elements, findings: &mut Vec<CheckpointObstacle>) {
    if elements.mounted.is_empty() {
        findings.push(finding("init has another root directory".into(), "CRIU finds no mounts below it"));
        return;
    }
    for mount in elements.mounts.iter().filter(|mount| !mount.declared) {
        let what = format!("the mount {} ({}) comes from outside and is not in config.json", mount.point, mount.kind);
        let found = finding(what, "add it to the mounts, or unmount it before the dump");
        // CRIU leaves a tracefs out.
        let loss = if mount.kind == "tracefs" { Loss::Part } else { Loss::Restore };
        findings.push(CheckpointObstacle { loss, pointer: "/mounts".into(), ..found });
    }
    let asked = |mount: &Mounted| {
        let set =
            |view: &View| matches!(view.shows, Shows::Flags(flags) if flags.contains(MountAttributes::NOSYMFOLLOW));
        views(plan).iter().any(|view| view.path.is(&mount.point) && set(view))
    };
    let forbids = |mount: &&Mounted| mount.flags.split(',').any(|flag| flag == "nosymfollow");
    for mount in elements.mounted.iter().filter(forbids).filter(|mount| !asked(mount)) {
        let found = finding(format!("the mount {} loses nosymfollow", mount.point), "CRIU does not know the flag");
        findings.push(CheckpointObstacle { loss: Loss::Part, ..found });
    }
    for mount in elements.mounted.iter().filter(|mount| mount.root.ends_with("//deleted")) {
        let found = finding(format!("the source of the mount {} was removed", mount.point), "unmount it first");
        findings.push(CheckpointObstacle { loss: Loss::Restore, pointer: "/mounts".into(), ..found });
    }
    let external = |mount: &Mounted| elements.mounts.iter().find(|it| it.point == mount.point);
    let known = elements.mounted.iter().filter(|mount| external(mount).is_none_or(|it| it.declared));
    let claim = |mount: &Mounted| ClaimedMount {
        point: mount.point.clone(),
        kind: mount.kind.clone(),
        device: device_of(&mount.device),
        // The images have the path alone.
        root: mount.root.trim_end_matches("//deleted").into(),
        flags: flags_of(&mount.flags),
        external: external(mount).map(|it| it.name.clone()),
        ..ClaimedMount::default()
    };
    let claims = Claims { mounts: known.map(claim).collect(), ..Claims::default() };
    let there = |path: &str| std::fs::symlink_metadata(path).is_ok();
    findings.extend(mount_contradictions(plan, &claims, &there).into_iter().map(unrestorable));
}

/// A device of mountinfo as one number.
fn device_of(device: &str) -> u32 {
    let number = |text: &str| text.parse::<u32>().unwrap_or(0);
    device.split_once(':').map_or(0, |(major, minor)| number(major) << 20 | number(minor))
}

/// Finds a session that began outside the container.
fn session(init: i32, flags: &Flags, findings: &mut Vec<CheckpointObstacle>) {
    let Some(status) = status::of(init) else { return };
    // Both are ids in the PID namespace of init.
    let innermost = |ids: Option<Vec<i32>>| ids.and_then(|ids| ids.last().copied());
    if !flags.shell_job && innermost(status.nssid) != innermost(status.nspid) {
        findings.push(finding("the session of init began outside the container".into(), "pass --shell-job"));
    }
}

/// Judges a process as a whole. If `paused`, the kernel may show every process as waiting.
fn of_process(pid: i32, init: i32, paused: bool, findings: &mut Vec<CheckpointObstacle>) {
    if status::of(pid).is_some_and(|status| status.tracerpid != 0) {
        findings.push(finding(format!("{} is traced", named(pid)), "detach the debugger first"));
    }
    // CRIU reads all of them. The kernel allows either all or none.
    if sched::hard_limit_of(pid, 0).is_err_and(|error| error.errno == Errno::EPERM) {
        let what = format!("the resource limits of {}, a process of another user, cannot be read", named(pid));
        findings.push(finding(what, "dump with CAP_SYS_RESOURCE"));
    }
    let waits = || !paused && process_stat(pid).is_ok_and(|stat| stat.is_some_and(|stat| stat.state == 'D'));
    if waits() {
        std::thread::sleep(STILL);
        if waits() {
            let what = format!("{} waits in the kernel and cannot be stopped, as after vfork(2)", named(pid));
            findings.push(finding(what, "wait until it goes on"));
        }
    }
    for name in NESTED {
        let (own, of_init) = (files::namespace(pid, name), files::namespace(init, name));
        if own.is_some() && of_init.is_some() && own != of_init {
            let what = format!("{} has a namespace of its own ({name})", named(pid));
            findings.push(finding(what, "nested namespaces cannot be dumped, except mount namespaces"));
        }
    }
    let program = format!("/proc/{pid}/exe");
    let deleted = std::fs::read_link(&program).is_ok_and(|link| link.to_string_lossy().ends_with(" (deleted)"));
    if deleted && std::fs::metadata(&program).is_ok_and(|program| program.nlink() > 0) {
        findings.push(finding(format!("the program of {} was replaced", named(pid)), "pass --link-remap"));
    }
}

/// A process that waits in the kernel for this long is reported. Shorter waits are for a disk.
const STILL: std::time::Duration = std::time::Duration::from_millis(100);

/// The sockets of the network namespace of init, and which of them are the container's.
fn sockets(init: i32, pidfd: std::os::fd::BorrowedFd<'_>, pids: &[i32], old: &dyn Fn() -> bool) -> Result<Sockets> {
    let mut out = Sockets::default();
    for table in ["tcp", "tcp6"] {
        out.connections.extend(judge::connections(&settings::document(init, &format!("net/{table}"))));
    }
    out.unread = judge::unread(&settings::document(init, "net/netlink"));
    let mut of_network = false;
    out.peers = {
        let _visit = JoinedNamespaces::visit(pidfd, Namespaces::NET)?;
        diag::unix_peers().with_context(|| "cannot look at the unix sockets of the container")?
    };
    for pid in pids {
        for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
            let link =
                std::fs::read_link(entry.path()).map(|link| link.to_string_lossy().into_owned()).unwrap_or_default();
            let inode = link.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')?.parse::<u64>().ok());
            of_network |= inode.is_some() && NETWORK.contains(&protocol_of(&entry.path()).as_str());
            out.own.extend(inode);
        }
    }
    process::still_there(pidfd).with_context(|| "cannot look at the container's init")?;
    // CRIU before 4.2 gives up where a socket of the network has no SO_PASSCRED, which is since Linux 6.16.
    out.too_new = of_network && !socket::network_has_passcred() && old();
    Ok(out)
}
