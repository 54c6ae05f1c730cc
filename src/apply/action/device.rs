//! Device nodes and the links of `/dev`, made below the descriptor of their directory.

use std::cell::OnceCell;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::FileStat;

use crate::context::{Context, Directory, MountNamespace};
use crate::resolve;
use windlass_base::error::{Error, Kind, Result, WithContext};
use windlass_base::mount::Propagation;
use windlass_plan::{BOUND, Node};
use windlass_sys::mount::{self, Attributes};
use windlass_sys::{SyscallError, fd};

/// The directory `path` of the root, found or made. The last one is kept open, because many nodes have the same.
pub(super) fn directory<'a>(path: &Path, cx: &'a mut Context<'_>) -> Result<BorrowedFd<'a>> {
    kept(path, cx).map(|directory| directory.fd.as_fd())
}

/// Like [`directory`], with what is known of the directory.
pub(super) fn kept<'a>(path: &Path, cx: &'a mut Context<'_>) -> Result<&'a Directory> {
    if cx.directory.as_ref().is_none_or(|kept| kept.path != path) {
        let context = || format!("cannot open the directory /{}", path.display());
        let fd = resolve::directory(cx.root()?, path, resolve::IN_ROOT).with_context(context)?;
        let callers = is_callers(fd.as_fd(), &cx.callers_dev).with_context(context)?;
        cx.directory = Some(Directory { path: path.into(), fd, fresh: false, callers });
    }
    Ok(cx.directory.as_ref().expect("just set"))
}

/// Whether a directory is the caller's own `/dev`: a link of the image may lead to a volume, and the root itself may be
/// `/`.
fn is_callers(dir: BorrowedFd<'_>, dev: &OnceCell<Option<(u64, u64)>>) -> windlass_sys::Result<bool> {
    let id = |stat: FileStat| (stat.st_dev, stat.st_ino);
    let found = id(fd::stat(dir)?);
    Ok(*dev.get_or_init(|| fd::stat_at(fd::CWD, "/dev").ok().map(id)) == Some(found))
}

fn split(path: &Path) -> (PathBuf, &OsStr) {
    (path.parent().unwrap_or(Path::new("")).into(), path.file_name().unwrap_or(OsStr::new(".")))
}

pub(super) fn node(node: &Node, cx: &mut Context<'_>) -> Result<()> {
    let (parent, name) = split(node.path.as_path());
    let context = || format!("cannot make the device {}", node.path);
    if let Some(source) = node.source {
        let host = cx.take_source(source)?;
        let dir = directory(&parent, cx)?;
        return bind(node, name, dir, host.as_fd());
    }
    let may_bind = !matches!(cx.mounts, MountNamespace::Callers);
    let kept = kept(&parent, cx)?;
    let dir = kept.fd.as_fd();
    if kept.callers {
        return verify(node, name, dir)
            .map_err(|error| error.with_hint("this directory is the host's /dev, in which nothing is made"));
    }
    let device = libc::makedev(node.major, node.minor);
    match fd::mknodat(dir, name, node.mode, device) {
        Ok(()) => {
            if (node.uid, node.gid) != (0, 0) {
                fd::chown_at(dir, name, node.uid, node.gid).with_context(context)?;
            }
            Ok(())
        }
        Err(failed) if failed.errno == Errno::EEXIST => {
            verify(node, name, dir).map_err(|error| error.caused_by(failed))
        }
        // A device cgroup or a user namespace around the runtime forbids it. The host's node can be bound instead.
        Err(failed) if failed.errno == Errno::EPERM && may_bind => {
            let host =
                mount::clone_tree(fd::CWD, node.path.to_string(), false).map_err(|_| failed.context(context()))?;
            let attributes =
                Attributes { set: BOUND, propagation: Some(Propagation::Private), ..Attributes::default() };
            mount::set_attributes(host.as_fd(), attributes, false, None).with_context(context)?;
            bind(node, name, dir, host.as_fd())
        }
        Err(failed) => Err(failed.context(context())),
    }
}

/// Accepts a file that exists already only if it is the device that was asked for (config-linux.md, "Devices").
fn verify(node: &Node, name: &OsStr, dir: BorrowedFd<'_>) -> Result<()> {
    let stat = fd::stat_at(dir, name).with_context(|| format!("cannot look at {}", node.path))?;
    let kind = node.mode & libc::S_IFMT;
    let fifo = kind == libc::S_IFIFO;
    if stat.st_mode & libc::S_IFMT == kind && (fifo || stat.st_rdev == libc::makedev(node.major, node.minor)) {
        return Ok(());
    }
    let msg = format!("cannot make the device {}: there is another file of that name", node.path);
    Err(Error::new(Kind::InvalidConfig, msg).with_hint("a tmpfs on /dev hides what the root filesystem has there"))
}

/// Binds the host's node on an empty file, if it is the device that was asked for.
fn bind(node: &Node, name: &OsStr, dir: BorrowedFd<'_>, host: BorrowedFd<'_>) -> Result<()> {
    let context = || format!("cannot bind the host's {}", node.path);
    let stat = fd::stat(host).with_context(context)?;
    if stat.st_mode & libc::S_IFMT != node.mode & libc::S_IFMT || stat.st_rdev != libc::makedev(node.major, node.minor)
    {
        let msg = format!("cannot bind the host's {}: it is not the device {}:{}", node.path, node.major, node.minor);
        return Err(Error::new(Kind::InvalidConfig, msg));
    }
    let target = empty_file(dir, name).with_context(context)?;
    mount::attach(host, target.as_fd()).with_context(context)
}

/// Makes or opens an empty file to mount on; never follows a link.
pub(super) fn empty_file(dir: BorrowedFd<'_>, name: &OsStr) -> windlass_sys::Result<std::os::fd::OwnedFd> {
    match fd::openat(dir, name, OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW, 0o666) {
        Err(failed) if failed.errno != Errno::EEXIST => return Err(failed),
        _ => {}
    }
    let found = fd::openat(dir, name, OFlag::O_PATH | OFlag::O_NOFOLLOW, 0)?;
    match fd::stat(found.as_fd())?.st_mode & libc::S_IFMT {
        libc::S_IFLNK | libc::S_IFDIR => {
            Err(SyscallError { call: format!("openat({name:?}, O_NOFOLLOW)").into(), errno: Errno::ELOOP })
        }
        _ => Ok(found),
    }
}

const LINKS: &[(&str, &str)] = &[
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

pub(super) fn links(cx: &mut Context<'_>) -> Result<()> {
    let kcore = fd::stat_at(fd::CWD, "/proc/kcore").is_ok();
    let kept = kept(Path::new("dev"), cx)?;
    if kept.callers {
        return Ok(());
    }
    let dir = kept.fd.as_fd();
    let core = kcore.then_some(("core", "/proc/kcore"));
    for (name, target) in LINKS.iter().copied().chain(core) {
        match fd::symlinkat(target, dir, name) {
            // The image has a file of that name.
            Err(failed) if failed.errno == Errno::EEXIST => {}
            other => other.with_context(|| format!("cannot make the link /dev/{name}"))?,
        }
    }
    match fd::symlinkat("pts/ptmx", dir, "ptmx") {
        Err(failed) if failed.errno == Errno::EEXIST => {
            // A node of that name would lead to the host's pseudoterminals.
            fd::unlinkat(dir, "ptmx").with_context(|| "cannot replace /dev/ptmx")?;
            fd::symlinkat("pts/ptmx", dir, "ptmx")
        }
        other => other,
    }
    .with_context(|| "cannot make the link /dev/ptmx")
}
