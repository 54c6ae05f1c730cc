//! Collects the facts. A fact that cannot be found out counts as missing.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::sched::CloneFlags;
use nix::unistd::{AccessFlags, access};

use super::facts::{Cgroups, Facts, Helper, Kernel, SecurityModules, SystemdInstance, User, UserNamespaces};
use windlass_base::error::describe;
use windlass_base::mount::{Propagation, PropagationChange};
use windlass_base::namespaces::KINDS;
use windlass_cgroup::{Hierarchy, Systemd, delegated, own_cgroup};
use windlass_plan::Host;
use windlass_plan::device_rules;
use windlass_sys::attributes;
use windlass_sys::process::{self, Exit, Forked, SingleThreaded};
use windlass_sys::{bpf, fd, mount, probe};

/// Collects the facts for the user of this process. `state_root` is the directory of `--root`.
pub(crate) fn collect(host: &Host, state_root: &Path, proof: &SingleThreaded) -> Facts {
    let user = user(host);
    Facts {
        kernel: kernel(host, proof),
        systemd: systemd(host, &user.name),
        user,
        user_namespaces: user_namespaces(host, proof),
        cgroups: cgroups(host),
        security_modules: SecurityModules {
            apparmor: text("/sys/module/apparmor/parameters/enabled") == "Y",
            selinux: fs::read_to_string("/sys/fs/selinux/enforce").ok().map(|text| text.trim() == "1"),
        },
        state_root: (state_root.display().to_string(), is_writable(state_root)),
    }
}

fn text(path: impl AsRef<Path>) -> String {
    let text = fd::document(path);
    String::from_utf8_lossy(&text.unwrap_or_default()).trim().to_owned()
}

fn words(path: impl AsRef<Path>) -> Vec<String> {
    text(path).split_whitespace().map(str::to_owned).collect()
}

/// Whether a directory, or the nearest ancestor that exists, can be written.
fn is_writable(path: &Path) -> bool {
    let existing = path.ancestors().find(|path| path.exists());
    existing.is_some_and(|path| access(path, AccessFlags::W_OK).is_ok())
}

/// System calls that the runtime has no fallback for, and the version of Linux that added each.
const CALLS: &[(&str, libc::c_long, &str)] = &[
    ("openat2", libc::SYS_openat2, "5.6"),
    ("open_tree", libc::SYS_open_tree, "5.2"),
    ("move_mount", libc::SYS_move_mount, "5.2"),
    ("fsopen", libc::SYS_fsopen, "5.2"),
    ("mount_setattr", libc::SYS_mount_setattr, "5.12"),
    ("clone3", libc::SYS_clone3, "5.3"),
    ("pidfd_open", libc::SYS_pidfd_open, "5.3"),
    ("pidfd_send_signal", libc::SYS_pidfd_send_signal, "5.1"),
    ("pidfd_getfd", libc::SYS_pidfd_getfd, "5.6"),
    ("close_range", libc::SYS_close_range, "5.9"),
];

const FILESYSTEMS: &[&str] = &["cgroup2", "devpts", "mqueue", "proc", "sysfs", "tmpfs"];

fn kernel(host: &Host, proof: &SingleThreaded) -> Kernel {
    let known = text("/proc/filesystems");
    let knows = |kind: &&str| known.lines().any(|line| line.split('\t').next_back() == Some(*kind));
    let lacks = |file: &str| !Path::new("/proc/self/ns").join(file).exists();
    Kernel {
        release: text("/proc/sys/kernel/osrelease"),
        missing_calls: CALLS.iter().filter(|row| !probe::knows_call(row.1)).map(|row| (row.0, row.2)).collect(),
        missing_namespaces: KINDS.iter().filter(|row| lacks(row.1)).map(|row| row.0).collect(),
        missing_filesystems: FILESYSTEMS.iter().filter(|kind| !knows(kind)).copied().collect(),
        seccomp: probe::seccomp_knows(0),
        seccomp_listener: probe::seccomp_knows(libc::SECCOMP_FILTER_FLAG_NEW_LISTENER as u32),
        device_filter: if host.rootless() { None } else { device_filter() },
        exit_not_kept: exit_not_kept(host, proof),
    }
}

fn device_filter() -> Option<String> {
    let program = device_rules::program(&[], &mut Vec::new(), &mut Vec::new())?;
    bpf::load_device_program(&program.instructions).err().map(|failed| failed.to_string())
}

fn exit_not_kept(host: &Host, proof: &SingleThreaded) -> Option<String> {
    if host.rootless() {
        return Some("only root of the host can ask for it".into());
    }
    windlass_store::check_exit_pins(proof).err().map(|error| error.message().to_owned())
}

fn user(host: &Host) -> User {
    let passwd = text("/etc/passwd");
    let entry = passwd.lines().find(|line| line.split(':').nth(2) == Some(host.uid.to_string().as_str()));
    let name = entry.and_then(|line| line.split(':').next()).map_or(format!("#{}", host.uid), str::to_owned);
    User {
        uid: host.uid,
        rootless: host.rootless(),
        nested: host.nested.is_some(),
        subordinate_uids: granted("/etc/subuid", &name, host.uid),
        subordinate_gids: granted("/etc/subgid", &name, host.uid),
        newuidmap: helper("newuidmap"),
        newgidmap: helper("newgidmap"),
        name,
    }
}

/// The sum of the ranges of a user in a file of lines `USER:START:COUNT` (subuid(5)).
fn granted(file: &str, name: &str, uid: u32) -> u64 {
    let uid = uid.to_string();
    let of_line = |line: &str| {
        let mut fields = line.split(':');
        let ours = fields.next().is_some_and(|user| user == name || user == uid);
        fields.nth(1).filter(|_| ours)?.trim().parse::<u64>().ok()
    };
    text(file).lines().filter_map(of_line).sum()
}

fn helper(program: &str) -> Helper {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(OsStr::new(&path)).map(|dir| dir.join(program)).find(|file| file.is_file());
    let Some(found) = found else { return Helper::Absent };
    let set_user_id = fs::metadata(&found).is_ok_and(|meta| meta.permissions().mode() & libc::S_ISUID != 0);
    let capability = found.to_str().is_some_and(|path| attributes::read(path, "security.capability").is_some());
    if set_user_id || capability { Helper::Works } else { Helper::Powerless }
}

fn user_namespaces(host: &Host, proof: &SingleThreaded) -> UserNamespaces {
    let number = |name: &str| text(format!("/proc/sys/{name}")).parse().ok();
    UserNamespaces {
        refused: refused(host, proof),
        max: number("user/max_user_namespaces"),
        debian_switch: number("kernel/unprivileged_userns_clone"),
        apparmor_switch: number("kernel/apparmor_restrict_unprivileged_userns"),
    }
}

/// The reason why a user namespace cannot be used. A child makes one with a mount namespace and mounts in it, because
/// some hosts allow the first and refuse the second.
fn refused(host: &Host, proof: &SingleThreaded) -> Option<String> {
    let child = match process::fork(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS, None, proof) {
        Err(failed) => return Some(describe(failed.errno)),
        Ok(Forked::Parent(child)) => child,
        Ok(Forked::Child) => {
            let mapped = fs::write("/proc/self/setgroups", "deny")
                .and_then(|()| fs::write("/proc/self/uid_map", format!("0 {} 1", host.uid)));
            let errno = match mapped.map(|()| mount::propagate_root(PropagationChange::of_tree(Propagation::Private))) {
                Ok(Ok(())) => 0,
                Ok(Err(failed)) => failed.errno as i32,
                Err(error) => error.raw_os_error().unwrap_or(libc::EIO),
            };
            process::exit_now(errno)
        }
    };
    match child.wait() {
        Ok(Exit::Code(0)) => None,
        Ok(Exit::Code(errno)) => Some(describe(nix::errno::Errno::from_raw(errno))),
        Ok(signal) => Some(format!("the process that tried it has died: {signal}")),
        Err(failed) => Some(failed.to_string()),
    }
}

fn cgroups(host: &Host) -> Cgroups {
    let mut out = Cgroups {
        unified: None,
        v1: Vec::new(),
        all: Vec::new(),
        own: own_cgroup().unwrap_or_default(),
        usable: false,
        delegated: Vec::new(),
    };
    let Ok(hierarchy) = Hierarchy::find() else { return out };
    out.v1 = hierarchy.v1().iter().flat_map(|v1| v1.controllers.clone()).collect();
    let Some(mount) = hierarchy.unified() else { return out };
    out.unified = Some(mount.to_owned());
    out.all = words(format!("{mount}/cgroup.controllers"));
    if !host.rootless() {
        out.usable = access(Path::new(mount), AccessFlags::W_OK).is_ok();
        out.delegated.clone_from(&out.all);
    } else if let Ok(Some(place)) = delegated::find(&hierarchy, "", "doctor") {
        let above = place.path.rsplit_once('/').map_or("", |(above, _)| above);
        out.usable = true;
        out.delegated = words(format!("{mount}{above}/cgroup.controllers"));
    }
    out
}

fn systemd(host: &Host, name: &str) -> SystemdInstance {
    let reached = Systemd::connect(host.rootless()).and_then(|mut systemd| Ok((systemd.version()?, systemd.root()?)));
    let mount = Hierarchy::find().ok().and_then(|hierarchy| hierarchy.unified().map(str::to_owned));
    let controllers = match (&reached, mount) {
        (Ok((_, root)), Some(mount)) => words(format!("{mount}{root}/cgroup.controllers")),
        _ => Vec::new(),
    };
    SystemdInstance {
        booted: Path::new("/run/systemd/system").is_dir(),
        reached: reached.map(|(version, _)| version).map_err(|error| error.message().to_owned()),
        controllers,
        runtime_dir: std::env::var("XDG_RUNTIME_DIR").ok().filter(|dir| !dir.is_empty()),
        // systemd-logind keeps a file for each user who lingers.
        lingers: Path::new("/var/lib/systemd/linger").join(name).exists(),
    }
}
