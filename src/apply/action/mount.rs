//! Mounts, made by descriptor: source and target are each looked up once, so that nobody can exchange them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;

use crate::context::{Context, Directory};
use crate::resolve::{self, Make};
use windlass_base::abi::PROC_SUPER_MAGIC;
use windlass_base::error::{Error, Kind, Origin, Result, WithContext};
use windlass_base::mount::{MountAttributes, MsFlags, PropagationChange};
use windlass_plan::{Mount, MountKind, Resolution};
use windlass_sys::mount::{self, Attributes, Filesystem};
use windlass_sys::{self as sys, fd};

use super::copy_up::{Top, copy_up};

/// The longest value that fsconfig(2) takes, in bytes without the final NUL.
const LONGEST_VALUE: usize = 255;

pub(super) fn mount(plan: &Mount, cx: &mut Context<'_>) -> Result<()> {
    match &plan.what {
        MountKind::Bind(source) => {
            let copy = cx.take_source(*source)?;
            attach_copy(plan, copy, cx)
        }
        MountKind::New { kind, source, data, .. } if is_old(plan, data) => mount_old(plan, kind, source, data, cx),
        MountKind::New { kind, source, data, fallback } => match (make(plan, kind, source, data, cx), fallback) {
            (Ok(mount), _) => finish(plan, mount, cx),
            (Err(error), Some(source)) if matches!(error.errno(), Some(Errno::EPERM | Errno::EBUSY)) => {
                // If the host's mount cannot be bound in its place either, the first error counts.
                let copy = cx.take_source(*source).map_err(|_| error)?;
                attach_copy(plan, copy, cx)
            }
            (Err(error), None | Some(_)) => Err(error),
        },
    }
}

/// Attaches a copy of the host's file or directory on a target of the same kind.
fn attach_copy(plan: &Mount, copy: OwnedFd, cx: &mut Context<'_>) -> Result<()> {
    let stat = fd::stat(copy.as_fd()).with_context(|| "cannot look at the source")?;
    let make = if fd::is_dir(&stat) { Make::Directory } else { Make::File };
    let target = target(plan, make, cx)?;
    attach(plan, copy, target, cx)
}

fn target(plan: &Mount, make: Make, cx: &Context<'_>) -> Result<OwnedFd> {
    let resolve = if plan.resolution == Resolution::NoSymlinks { resolve::NO_LINKS } else { resolve::IN_ROOT };
    let path = &plan.destination;
    let target = resolve::find_or_make(cx.root()?, path, make, resolve).map_err(|failed| {
        if failed.errno == Errno::ELOOP && plan.resolution == Resolution::NoSymlinks {
            let msg = format!("filesystem {:?} must be mounted on ordinary directory", path.to_string());
            return Error::new(Kind::Kernel, msg)
                .caused_by(failed)
                .with_hint("a component of the destination is a symbolic link in the root filesystem");
        }
        failed.context(format!("cannot make the mount point {path}"))
    })?;
    let into_proc = path.is("/proc") || windlass_plan::may_cover(path);
    if !into_proc
        && fd::filesystem(target.as_fd()).with_context(|| format!("cannot look at {path}"))? == PROC_SUPER_MAGIC
    {
        let msg = format!("{:?} cannot be mounted because it is inside /proc", path.to_string());
        return Err(
            Error::new(Kind::PermissionDenied, msg).with_hint("a symbolic link in the root filesystem leads there")
        );
    }
    Ok(target)
}

/// Whether only mount(2) can make this mount.
fn is_old(plan: &Mount, data: &[(String, Option<String>)]) -> bool {
    !plan.old_flags.is_empty()
        || data.iter().any(|(_, value)| value.as_ref().is_some_and(|value| value.len() > LONGEST_VALUE))
}

/// Makes a new filesystem and its unattached mount.
fn make(
    plan: &Mount,
    kind: &str,
    source: &str,
    data: &[(String, Option<String>)],
    cx: &mut Context<'_>,
) -> Result<OwnedFd> {
    let context = || format!("cannot mount {kind} on {}", plan.destination);
    let filesystem = Filesystem::open(kind).with_context(context)?;
    let mode = inherited_mode(plan, kind, data, cx);
    let data = data.iter().map(|(key, value)| (key.as_str(), value.as_deref()));
    for (key, value) in before(plan, source).chain(data).chain(mode.as_deref().map(|mode| ("mode", Some(mode)))) {
        let Err(failed) = filesystem.set(key, value) else { continue };
        let complaint = filesystem.complaint();
        let error = failed.context(context());
        let error = match key == "context" && plan.labelled {
            true => error
                .with_origin(Origin::config("/linux/mountLabel"))
                .with_hint("a mount label needs SELinux, and a label that its policy knows"),
            false => error,
        };
        return Err(match complaint {
            Some(complaint) => error.with_hint(format!("the filesystem says: {complaint}")),
            None => advise(kind, error),
        });
    }
    let mount = filesystem.mount(plan.set).with_context(context).map_err(|error| advise(kind, error))?;
    if let Some(label) = &plan.root_label {
        label_root(mount.as_fd(), label, context)?;
    }
    cx.close_later(filesystem.into_fd());
    Ok(mount)
}

/// Adds what an overlay demands of its layers, which its errno does not tell.
fn advise(kind: &str, error: Error) -> Error {
    if kind != "overlay" || error.errno() != Some(Errno::EINVAL) {
        return error;
    }
    error.with_hint(
        "upperdir and workdir must be on one filesystem that is not itself an overlay, lowerdirs must be directories; \
         the kernel log (dmesg) has the reason",
    )
}

fn label_root(mount: BorrowedFd<'_>, label: &str, context: impl FnOnce() -> String) -> Result<()> {
    fd::openat(mount, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY, 0)
        .and_then(|root| sys::attributes::set_selinux_label(root.as_fd(), label))
        .with_context(context)
        .map_err(|error| {
            error
                .with_origin(Origin::config("/linux/mountLabel"))
                .with_hint("the SELinux policy does not know the label, or refuses it")
        })
}

/// The parameters that a filesystem gets before its own options.
fn before<'a>(plan: &Mount, source: &'a str) -> impl Iterator<Item = (&'a str, Option<&'a str>)> {
    // A disk that is mounted read-only must not be written to at all, not even to replay its journal.
    let disk = plan.set.contains(MountAttributes::RDONLY) && source.starts_with('/');
    let source = (!source.is_empty()).then_some(("source", Some(source)));
    source.into_iter().chain(disk.then_some(("ro", None)))
}

/// The mode of a tmpfs without a `mode` option: the mode of the directory that it covers, if there is one.
fn inherited_mode(plan: &Mount, kind: &str, data: &[(String, Option<String>)], cx: &Context<'_>) -> Option<String> {
    if kind != "tmpfs" || plan.copy_up || data.iter().any(|(key, _)| key == "mode") {
        return None;
    }
    let found = resolve::find(cx.root().ok()?, &plan.destination, resolve::IN_ROOT).ok()?;
    let stat = fd::stat(found.as_fd()).ok().filter(fd::is_dir)?;
    Some(format!("{:o}", stat.st_mode & 0o7777))
}

/// Gives a new mount its last attributes and attaches it.
fn finish(plan: &Mount, mount: OwnedFd, cx: &mut Context<'_>) -> Result<()> {
    let target = match plan.copy_up {
        true => {
            let given = |names: &[&str]| match &plan.what {
                MountKind::New { data, .. } => data.iter().any(|(key, _)| names.contains(&key.as_str())),
                _ => false,
            };
            let top = Top { owner: !given(&["uid", "gid"]), mode: !given(&["mode"]) };
            let target = target(plan, Make::Directory, cx)?;
            copy_up(target.as_fd(), mount.as_fd(), &top)
                .with_context(|| format!("cannot copy {} into its tmpfs", plan.destination))?;
            Some(target)
        }
        false => None,
    };
    for PropagationChange { to, recursive } in &plan.propagation {
        let attributes = Attributes { propagation: Some(*to), ..Attributes::default() };
        mount::set_attributes(mount.as_fd(), attributes, *recursive, None)
            .with_context(|| format!("cannot set the propagation of {}", plan.destination))?;
    }
    if plan.late_readonly {
        keep_for_later(plan, mount.as_fd(), cx)?;
    }
    if target.is_none() && attach_in_fresh(plan, mount.as_fd(), cx)? {
        cx.close_later(mount);
        return Ok(());
    }
    let target = target.map_or_else(|| self::target(plan, Make::Directory, cx), Ok)?;
    attach(plan, mount, target, cx)
}

/// Keeps a mount that becomes read-only later, when everything in it is made.
fn keep_for_later(plan: &Mount, mount: BorrowedFd<'_>, cx: &mut Context<'_>) -> Result<()> {
    let kept = fd::duplicate(mount).with_context(|| format!("cannot keep the mount on {}", plan.destination))?;
    cx.late_readonly.push((plan.destination.clone(), kept));
    Ok(())
}

/// Makes a missing target directly below a filesystem that init has made, such as `/dev/shm`, and mounts on it by name.
/// No link can be in the way, and no other process has that filesystem yet.
fn attach_in_fresh(plan: &Mount, mount: BorrowedFd<'_>, cx: &Context<'_>) -> Result<bool> {
    let path = plan.destination.as_path();
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(false) };
    let Some(kept) = cx.directory.as_ref().filter(|kept| kept.fresh && kept.path == parent) else { return Ok(false) };
    // A target that exists is looked up in the ordinary way.
    if fd::mkdirat(kept.fd.as_fd(), name, 0o755).is_err() {
        return Ok(false);
    }
    mount::attach_at(mount, kept.fd.as_fd(), name)
        .with_context(|| format!("cannot attach the mount on {}", plan.destination))?;
    Ok(true)
}

fn attach(plan: &Mount, mount: OwnedFd, target: OwnedFd, cx: &mut Context<'_>) -> Result<()> {
    if let Err(failed) = mount::attach(mount.as_fd(), target.as_fd()) {
        return Err(refused(failed, plan, mount.as_fd(), target.as_fd()));
    }
    cx.close_later(target);
    // The mount may cover the directory that is kept, and the two paths need not show it.
    if let Some(kept) = cx.directory.take() {
        cx.close_later(kept.fd);
    }
    if plan.destination.is_root() {
        // A mount on `/` is the root from here on.
        cx.root = Some(mount);
    } else if matches!(&plan.what, MountKind::New { kind, .. } if kind == "tmpfs") && !plan.copy_up {
        let path = plan.destination.as_path().into();
        cx.directory = Some(Directory { path, fd: mount, fresh: true, callers: false });
    } else {
        cx.close_later(mount);
    }
    Ok(())
}

/// The error for a mount that cannot be attached. For a directory on a file, or a file on a directory, move_mount(2)
/// fails only with EINVAL; the message has mount(2)'s words, which dockerd recognises and explains.
fn refused(failed: sys::SyscallError, plan: &Mount, mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Error {
    let context = format!("cannot attach the mount on {}", plan.destination);
    let is_directory = |file| fd::stat(file).map(|stat| fd::is_dir(&stat));
    match (failed.errno, is_directory(mount), is_directory(target)) {
        (Errno::EINVAL, Ok(source), Ok(destination)) if source != destination => {
            let hint = match source {
                true => "the source is a directory, and the root filesystem has a file at the destination",
                false => "the source is a file, and the root filesystem has a directory at the destination",
            };
            Error::new(Kind::Kernel, format!("{context}: not a directory")).caused_by(failed).with_hint(hint)
        }
        _ => failed.context(context),
    }
}

/// `MS_NOSYMFOLLOW` of linux/mount.h, which nix does not have.
const MS_NOSYMFOLLOW: MsFlags = MsFlags::from_bits_retain(1 << 8);

/// The flags of mount(2) for attributes.
const OLD_ATTRIBUTES: &[(MountAttributes, MsFlags)] = &[
    (MountAttributes::RDONLY, MsFlags::MS_RDONLY),
    (MountAttributes::NOSUID, MsFlags::MS_NOSUID),
    (MountAttributes::NODEV, MsFlags::MS_NODEV),
    (MountAttributes::NOEXEC, MsFlags::MS_NOEXEC),
    (MountAttributes::NOSYMFOLLOW, MS_NOSYMFOLLOW),
    (MountAttributes::NOATIME, MsFlags::MS_NOATIME),
    (MountAttributes::NODIRATIME, MsFlags::MS_NODIRATIME),
    (MountAttributes::STRICTATIME, MsFlags::MS_STRICTATIME),
];

/// The flags of mount(2) for options of the superblock.
const OLD_OPTIONS: &[(&str, MsFlags)] = &[
    ("sync", MsFlags::MS_SYNCHRONOUS),
    ("mand", MsFlags::MS_MANDLOCK),
    ("dirsync", MsFlags::MS_DIRSYNC),
    ("lazytime", MsFlags::MS_LAZYTIME),
];

/// Options that only say that a flag of mount(2) is not set.
const OLD_DEFAULTS: &[&str] = &["async", "nomand", "nolazytime"];

/// Calls mount(2) on the target's descriptor. The new mount is then looked up by its path.
fn mount_old(
    plan: &Mount,
    kind: &str,
    source: &str,
    data: &[(String, Option<String>)],
    cx: &mut Context<'_>,
) -> Result<()> {
    let context = || format!("cannot mount {kind} on {}", plan.destination);
    let mut flags = plan.old_flags;
    flags.extend(OLD_ATTRIBUTES.iter().filter(|(attribute, _)| plan.set.intersects(*attribute)).map(|(_, flag)| *flag));
    let mut options = Vec::new();
    for (key, value) in data {
        match (OLD_OPTIONS.iter().find(|row| row.0 == key), value) {
            (Some((_, flag)), None) => flags |= *flag,
            (None, None) if OLD_DEFAULTS.contains(&key.as_str()) => {}
            (_, None) => options.push(key.clone()),
            (_, Some(value)) => options.push(format!("{key}={value}")),
        }
    }
    options.extend(inherited_mode(plan, kind, data, cx).map(|mode| format!("mode={mode}")));
    let root = cx.root()?;
    let below = target(plan, Make::Directory, cx)?;
    if plan.copy_up {
        return Err(Error::new(Kind::Unsupported, "tmpcopyup does not go together with iversion and silent"));
    }
    mount::mount_old(source, below.as_fd(), kind, flags, &options.join(","))
        .with_context(context)
        .map_err(|error| advise(kind, error))?;
    let top = resolve::find(root, &plan.destination, resolve::NO_LINKS).with_context(context)?;
    for PropagationChange { to, recursive } in &plan.propagation {
        let attributes = Attributes { propagation: Some(*to), ..Attributes::default() };
        mount::set_attributes(top.as_fd(), attributes, *recursive, None).with_context(context)?;
    }
    if plan.late_readonly {
        cx.late_readonly.push((plan.destination.clone(), top));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(kind: &str, source: &str, option: &str) -> Mount {
        let document = serde_json::json!({
            "ociVersion": "1.2.0",
            "root": {"path": "rootfs"},
            "process": {"args": ["sh"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
            "mounts": [{"destination": "/mnt", "type": kind, "source": source, "options": [option]}],
            "linux": {"namespaces": [{"type": "mount"}]},
        });
        let spec = windlass_base::spec::parse(document.to_string().as_bytes(), "config.json").expect("valid");
        let capabilities = windlass_base::capability::CapabilitySet::all();
        let host = windlass_plan::Host { capabilities, ..windlass_plan::Host::default() };
        let options = windlass_plan::Options { host, ..windlass_plan::Options::default() };
        let plan = windlass_plan::create("box", &spec, &options).expect("planned");
        let mounts = plan.init.into_iter().filter_map(|step| match step.action {
            windlass_plan::Action::Mount(mount) if mount.destination.is("/mnt") => Some(mount),
            _ => None,
        });
        mounts.last().expect("planned")
    }

    /// Otherwise the kernel would write to it, to replay its journal, before the mount is read-only.
    #[test]
    fn a_disk_that_is_mounted_read_only_is_so_for_its_filesystem_too() {
        let given = |kind: &str, source, option| {
            before(&planned(kind, source, option), source).any(|given| given == ("ro", None))
        };
        assert!(given("ext4", "/dev/sdb1", "ro"));
        assert!(!given("ext4", "/dev/sdb1", "rw"));
        // Files are made in it first.
        assert!(!given("tmpfs", "tmpfs", "ro"));
    }

    #[test]
    fn an_overlay_is_told_from_other_filesystems() {
        let failed = |errno| sys::SyscallError { call: "fsconfig(x, FSCONFIG_CMD_CREATE)".into(), errno }.context("it");
        let is_about_layers = |error: Error| error.hint().is_some_and(|hint| hint.contains("upperdir"));
        assert!(is_about_layers(advise("overlay", failed(Errno::EINVAL))));
        assert!(!is_about_layers(advise("overlay", failed(Errno::ENODEV))));
        assert!(!is_about_layers(advise("tmpfs", failed(Errno::EINVAL))));
        assert!(!is_about_layers(advise("overlay", failed(Errno::EINVAL).with_hint("the filesystem says: no"))));
    }
}
