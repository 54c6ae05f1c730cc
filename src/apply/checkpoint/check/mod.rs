//! What a dump of a container would not take, found by looking at its processes. Nothing is changed and nothing is
//! stopped, so what changes meanwhile may be missed; a dump that fails says so by CRIU's log.

mod judge;
mod settings;

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use nix::fcntl::OFlag;

use windlass_base::error::{Diagnostic, Error, Kind, Result, WithContext};
use windlass_base::mountinfo::{self, Mounted};
use windlass_base::namespaces::Namespaces;
use windlass_cgroup::AnyCgroup;
use windlass_criu::flags::Flags;
use windlass_plan::mount_audit::flags_of;
use windlass_plan::restore::{ClaimedMount, Claims, mount_contradictions};
use windlass_plan::{Action, Plan, RootPath};
use windlass_store::{Container, process_stat};
use windlass_sys::attributes;
use windlass_sys::mount;
use windlass_sys::{diag, fd, process, socket, status};

use super::elements::{self, Elements};
use super::{group_of, lost};
use crate::namespaces::JoinedNamespaces;
use crate::resolve;
use crate::tasks::Tasks;
use judge::{Descriptor, NETWORK, Sockets};

pub use judge::{Finding, Loss};

/// The namespaces that CRIU does not dump if a process has one of its own, by their names in `/proc/PID/ns`.
const NESTED: [&str; 8] = ["pid", "pid_for_children", "net", "ipc", "uts", "user", "cgroup", "time_for_children"];

/// Looks at a container that runs. `old` tells whether CRIU is older than 4.2.
pub fn check(container: &Container, plan: &Plan, flags: &Flags, old: &dyn Fn() -> bool) -> Result<Vec<Finding>> {
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
        loss: Loss::Part,
        help: "end it first, or start it anew after the restore",
        pointer: String::new(),
    }));
    let elements = elements::look(init.pid, pidfd.as_fd(), &pids, plan)?;
    of_mounts(plan, &elements, &mut findings);
    // Other processes may have them open as well.
    let replaced = elements.stdio.map(|stream| stream.key);
    let sockets = sockets(init.pid, pidfd.as_fd(), &pids, old)?;
    session(init.pid, flags, &mut findings);
    let restored = settings::restored(plan, cpus_of(group.as_ref(), init.pid));
    let configured = plan.init.iter().any(|step| matches!(step.action, Action::MemoryPolicy(..)));
    let mut tasks = Tasks::new(plan, "")?;
    // What is not dumped may have anything.
    for pid in pids.iter().filter(|pid| !executed.contains(pid)) {
        of_process(*pid, init.pid, flags, &mut findings);
        of_files(*pid, &replaced, &sockets, flags, &mut findings);
        let lost = settings::lost(&settings::of(*pid), &restored, configured);
        findings.extend(lost.into_iter().map(|what| Finding {
            loss: Loss::Part,
            ..finding(
                format!("{} loses {what}", named(*pid)),
                "the images do not have it: set it again after the restore",
            )
        }));
        // One that has ended meanwhile is none.
        let _ = tasks.look(*pid);
    }
    findings.extend(tasks.contradictions().into_iter().map(unrestorable));
    Ok(findings)
}

/// What the restore would refuse of the images.
fn unrestorable(fault: Diagnostic) -> Finding {
    let help = "the restore refuses what config.json does not give";
    Finding { loss: Loss::Restore, pointer: fault.pointer, ..finding(fault.msg, help) }
}

/// The CPUs of the cpuset of the container, as bits; `None` where the cpuset cannot be found.
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

fn finding(what: String, help: &'static str) -> Finding {
    Finding { what, loss: Loss::Dump, help, pointer: String::new() }
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
            findings.push(Finding { loss: Loss::Restore, pointer: join.pointer.clone(), ..found });
        }
    }
}

/// Mounts that the restore would not make: those from outside whose source nobody knows, and others as the images are
/// judged then.
fn of_mounts(plan: &Plan, elements: &Elements, findings: &mut Vec<Finding>) {
    if elements.mounted.is_empty() {
        findings.push(finding("init has another root directory".into(), "CRIU finds no mounts below it"));
        return;
    }
    for mount in elements.mounts.iter().filter(|mount| !mount.declared) {
        let what = format!("the mount {} ({}) comes from outside and is not in config.json", mount.point, mount.kind);
        let found = finding(what, "add it to the mounts, or unmount it before the dump");
        // CRIU leaves it out.
        let loss = if mount.kind == "tracefs" { Loss::Part } else { Loss::Restore };
        findings.push(Finding { loss, pointer: "/mounts".into(), ..found });
    }
    let external = |mount: &Mounted| elements.mounts.iter().find(|it| it.point == mount.point);
    let known = elements.mounted.iter().filter(|mount| external(mount).is_none_or(|it| it.declared));
    let claim = |mount: &Mounted| ClaimedMount {
        point: mount.point.clone(),
        kind: mount.kind.clone(),
        device: device_of(&mount.device),
        root: mount.root.clone(),
        flags: flags_of(&mount.flags).bits(),
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

fn of_process(pid: i32, init: i32, flags: &Flags, findings: &mut Vec<Finding>) {
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
    let maps = fd::document(format!("/proc/{pid}/maps"));
    let maps = String::from_utf8_lossy(&maps.unwrap_or_default()).into_owned();
    for (part, what) in
        [("anon_inode:[io_uring]", "io_uring"), ("/secretmem", "secret memory"), ("[uprobes]", "uprobes")]
    {
        if maps.contains(part) {
            findings.push(finding(format!("{} has {what} in its memory", named(pid)), "CRIU cannot dump it"));
        }
    }
    for line in maps.lines().filter(|line| line.ends_with(" (deleted)")) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [range, _, _, _, _, path, ..] = words[..] else { continue };
        // CRIU makes shared memory without a name anew.
        if ["/memfd:", "/dev/zero", "/SYSV", "/secretmem"].iter().any(|shared| path.starts_with(shared)) {
            continue;
        }
        // `maps` fills addresses up with zeros, and `map_files` does not.
        let ends: Vec<&str> = range.split('-').map(|end| end.trim_start_matches('0')).collect();
        let Ok(found) = std::fs::metadata(format!("/proc/{pid}/map_files/{}", ends.join("-"))) else { continue };
        let file = Descriptor {
            link: format!("{path} (deleted)"),
            mode: found.mode(),
            names: found.nlink(),
            size: found.blocks() * 512,
            ..Descriptor::default()
        };
        let whose = format!("the memory {range} of {}", named(pid));
        findings.extend(judge::descriptor(&whose, &file, &Sockets::default(), flags));
    }
    let program = format!("/proc/{pid}/exe");
    let deleted = std::fs::read_link(&program).is_ok_and(|link| link.to_string_lossy().ends_with(" (deleted)"));
    if deleted && std::fs::metadata(&program).is_ok_and(|program| program.nlink() > 0) {
        findings.push(finding(format!("the program of {} was replaced", named(pid)), "pass --link-remap"));
    }
}

fn of_files(pid: i32, streams: &[String; 3], sockets: &Sockets, flags: &Flags, findings: &mut Vec<Finding>) {
    let mounts = fd::document(format!("/proc/{pid}/mountinfo"));
    let root = fd::open(format!("/proc/{pid}/root"), OFlag::O_PATH | OFlag::O_DIRECTORY).ok();
    let hidden = |link: &std::path::Path, found: &std::fs::Metadata| {
        let root = root.as_ref()?;
        let path = link.to_str().filter(|link| link.starts_with('/') && !link.ends_with(" (deleted)"))?;
        let path = RootPath::new(path).filter(|_| found.nlink() > 0)?;
        let Some(shown) = resolve::find_if_exists(root.as_fd(), &path, resolve::IN_ROOT).ok()? else {
            return Some(true);
        };
        let shown = fd::stat(shown.as_fd()).ok()?;
        Some((shown.st_dev, shown.st_ino) != (found.dev(), found.ino()))
    };
    let mounts: BTreeSet<u32> = mountinfo::parse(&mounts.unwrap_or_default()).iter().map(|mount| mount.id).collect();
    let own = format!("/proc/{pid}/cwd");
    if let (Ok(link), Ok(found)) = (std::fs::read_link(&own), std::fs::metadata(&own))
        && hidden(&link, &found) == Some(true)
    {
        let what = format!("the current directory of {} is not what its path shows: {}", named(pid), link.display());
        findings.push(finding(what, "leave it, or unmount what covers it"));
    }
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
        let (Ok(link), Ok(found)) = (std::fs::read_link(entry.path()), std::fs::metadata(entry.path())) else {
            continue;
        };
        let number = entry.file_name().to_string_lossy().into_owned();
        let info = fd::read_small(fd::CWD, format!("/proc/{pid}/fdinfo/{number}")).unwrap_or_default();
        let mount = mount::id_in(&info);
        let key = mount.map(|mount| elements::file_key(mount, found.ino()));
        let file = Descriptor {
            link: link.to_string_lossy().into_owned(),
            mode: found.mode(),
            device: (libc::major(found.rdev()), libc::minor(found.rdev())),
            names: found.nlink(),
            size: found.blocks() * 512,
            huge: link.to_string_lossy().starts_with("/memfd:")
                && fd::open(entry.path(), OFlag::O_PATH)
                    .and_then(|file| fd::filesystem(file.as_fd()))
                    .is_ok_and(|kind| kind == HUGETLBFS),
            // Another file's attributes may be those of a file system that never answers.
            protocol: if found.file_type().is_socket() { protocol_of(&entry.path()) } else { String::new() },
            foreign: link.is_absolute() && mount.is_some_and(|mount| !mounts.contains(&mount)),
            hidden: (found.is_file() || found.is_dir()) && hidden(&link, &found).unwrap_or(false),
            replaced: key.is_some_and(|key| streams.contains(&key)),
            locked: String::from_utf8_lossy(&info).lines().any(|line| line.starts_with("lock:")),
        };
        let whose = format!("descriptor {number} of {}", named(pid));
        findings.extend(judge::descriptor(&whose, &file, sockets, flags));
    }
}

/// The magic number of the filesystem of huge pages (statfs(2)).
const HUGETLBFS: i64 = 0x9584_58f6;

/// The protocol of a socket by its name in `/proc/PID/fd`; nothing for other files.
fn protocol_of(path: &std::path::Path) -> String {
    let name = attributes::read(&path.to_string_lossy(), "system.sockprotoname").unwrap_or_default();
    String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned()
}

/// The sockets of the network namespace of init, and which of them are the container's.
fn sockets(init: i32, pidfd: std::os::fd::BorrowedFd<'_>, pids: &[i32], old: &dyn Fn() -> bool) -> Result<Sockets> {
    let mut out = Sockets::default();
    for table in ["tcp", "tcp6"] {
        let text = fd::document(format!("/proc/{init}/net/{table}")).unwrap_or_default();
        out.connections.extend(judge::connections(&String::from_utf8_lossy(&text)));
    }
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
