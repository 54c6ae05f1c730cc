//! The mounts of the restored processes, as the kernel has them while CRIU still holds the processes.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;

use windlass_base::error::{Diagnostic, Result, WithContext};
use windlass_base::mount::MountAttributes;
use windlass_base::mountinfo::{self, Mounted};
use windlass_base::namespaces::Namespaces;
use windlass_plan::Plan;
use windlass_plan::mount_audit::{Shows, Sources, View, foreign_mounts, views};
use windlass_plan::restore::{RESTRICTING, may_mount};
use windlass_sys::mount::{self, Attributes};
use windlass_sys::process::{self, Child};
use windlass_sys::{fd, stdio};

use super::descendants::{has_ended, with_descendants};
use super::held::Allowed;
use super::stage::Stage;
use crate::namespaces::JoinedNamespaces;
use crate::resolve;

/// The magic number of a tmpfs (statfs(2)).
const TMPFS: i64 = 0x0102_1994;

const CONTEXT: &str = "cannot look at the mounts of the restored processes";

/// Sets the flags that the configuration demands on mounts that CRIU has made without them. CRIU does not know
/// nosymfollow, and makes the root without any flags. Of two bind mounts with the same source and the same flags, it
/// makes the second as a copy of the host's mount, which need not have these flags.
pub(crate) fn restrict(init: &Child, plan: &Plan) -> Result<()> {
    let _visit = JoinedNamespaces::visit(init.pidfd.as_fd(), Namespaces::MOUNT)?;
    let root = fd::open("/", OFlag::O_PATH | OFlag::O_DIRECTORY).with_context(|| CONTEXT)?;
    for View { path, shows, external, .. } in views(plan) {
        let Shows::Flags(flags) = shows else { continue };
        let set = if external { flags } else { flags & MountAttributes::NOSYMFOLLOW };
        if set.is_empty() {
            continue;
        }
        let context = || format!("cannot restrict the restored mount {path}");
        let found = resolve::find_if_exists(root.as_fd(), &path, resolve::IN_ROOT).with_context(context)?;
        let Some(mount) = found else { continue };
        match mount::set_attributes(mount.as_fd(), Attributes { set, ..Attributes::default() }, false, None) {
            // The processes of the container may have moved or unmounted it.
            Err(failed) if failed.errno == Errno::EINVAL => {}
            done => done.with_context(context)?,
        }
    }
    Ok(())
}

/// Compares the mounts of init and of its descendants with the configuration and with what CRIU was given. `cgroup` is
/// the container's, below the root of the hierarchy. Their files must be on these mounts, or among those in `passed`.
pub(crate) fn check(
    init: &Child,
    plan: &Plan,
    stage: &Stage,
    passed: &BTreeSet<(u64, u64)>,
    cgroup: Option<String>,
) -> Result<()> {
    let own = fd::open("/proc/self/mountinfo", OFlag::O_RDONLY).with_context(|| CONTEXT)?;
    let own = read(own)?;
    let mut files = Allowed::new(&own, passed, plan.topology.new.contains(Namespaces::PID));
    let external = stage.sources.iter().map(|it| (it.is.clone(), it.flags));
    let sources = Sources {
        rootfs: stage.rootfs.clone(),
        external: external.collect(),
        hosts: own.into_iter().map(|mount| mount.device).collect(),
        cgroup,
    };
    let mut faults = Vec::new();
    let mut known = BTreeSet::new();
    let pids = with_descendants(init.pid)?;
    for &pid in &pids {
        let link = match std::fs::read_link(format!("/proc/{pid}/ns/mnt")) {
            Err(failed) if failed.kind() == ErrorKind::NotFound && has_ended(pid) => continue,
            other => other.with_context(|| CONTEXT)?,
        };
        let is_new = known.insert(link);
        if is_new && pid != init.pid && !may_mount(plan) {
            let msg = format!("process {pid} is in another mount namespace than init");
            faults.push(Diagnostic { pointer: "/linux/namespaces".into(), msg });
        }
        let process = process::open_pid(pid).with_context(|| CONTEXT)?;
        let seen = process::open_of(pid, process.as_fd(), "mountinfo", OFlag::O_RDONLY).with_context(|| CONTEXT)?;
        if read(seen)?.iter().filter(|mount| mount.point == "/").count() > 1 {
            faults.push(Diagnostic {
                pointer: "/root/path".into(),
                msg: format!("process {pid} has a root that another mount hides"),
            });
        }
        if is_new {
            let (root, mounts) = look(process.as_fd())?;
            faults.extend(foreign_mounts(plan, &sources, &mounts));
            files.mounts.extend(mounts.into_iter().map(|mount| (mount.id, mount)));
            for view in views(plan).iter().filter(|_| pid == init.pid && !may_mount(plan)) {
                faults.extend(judge(root.as_fd(), view)?);
            }
        }
    }
    faults.extend(files.foreign(&pids)?);
    match faults.is_empty() {
        true => Ok(()),
        false => Err(super::audit::refused(faults)),
    }
}

/// The root of a process's mount namespace, and its mounts. A process with another root may see fewer of them.
pub(super) fn look(process: BorrowedFd<'_>) -> Result<(OwnedFd, Vec<Mounted>)> {
    let proc = fd::open("/proc", OFlag::O_PATH | OFlag::O_DIRECTORY).with_context(|| CONTEXT)?;
    let _visit = JoinedNamespaces::visit(process, Namespaces::MOUNT)?;
    let root = fd::open("/", OFlag::O_PATH | OFlag::O_DIRECTORY).with_context(|| CONTEXT)?;
    let mounts = fd::openat(proc.as_fd(), "self/mountinfo", OFlag::O_RDONLY, 0).with_context(|| CONTEXT)?;
    Ok((root, read(mounts)?))
}

fn read(mountinfo: OwnedFd) -> Result<Vec<Mounted>> {
    fd::read_all(mountinfo, fd::DOCUMENT).with_context(|| CONTEXT).map(|text| mountinfo::parse(&text))
}

/// Returns what is wrong with the file that a path leads to.
fn judge(root: BorrowedFd<'_>, view: &View) -> Result<Option<Diagnostic>> {
    let View { path, shows, pointer, .. } = view;
    let context = || format!("cannot look at {path} of the restored processes");
    let found = resolve::find_if_exists(root, path, resolve::IN_ROOT).with_context(context)?;
    let Some(shown) = found else { return Ok(None) };
    let flags = mount::flags_of(shown.as_fd()).with_context(context)?;
    let wrong = match shows {
        Shows::Flags(needed) => (!flags.contains(*needed & RESTRICTING)).then_some("lacks restrictions"),
        Shows::Nothing => {
            let stat = fd::stat(shown.as_fd()).with_context(context)?;
            let empty = match fd::is_dir(&stat) {
                true => {
                    let is_tmpfs = fd::filesystem(shown.as_fd()).with_context(context)? == TMPFS;
                    is_tmpfs && flags.contains(MountAttributes::RDONLY)
                }
                false => stdio::is_null(&stat),
            };
            (!empty).then_some("is not masked")
        }
    };
    Ok(wrong.map(|wrong| Diagnostic { pointer: pointer.clone(), msg: format!("{path} {wrong}") }))
}
