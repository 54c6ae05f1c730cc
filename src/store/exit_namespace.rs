//! The mount namespace of the exit pins (`exit_pin`).
//!
//! The namespace is separate because every unshare(2) on the host would copy the mounts of the host's namespace: two
//! thousand make it twenty times slower. One bind mount of its file in nsfs keeps the namespace. It has no mounts of
//! the host: a file system that is mounted there could never be unmounted completely.
//!
//! All state roots share one namespace, which the first create after a boot makes. If that fails, the host has no pins.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{OFlag, ResolveFlag};
use nix::sched::CloneFlags;

use windlass_base::error::{Error, Kind, Result, SyscallError, WithContext};
use windlass_base::mount::{MountAttributes, Propagation, PropagationChange};
use windlass_base::namespaces::Namespaces;
use windlass_sys::lock;
use windlass_sys::mount::{self, Attributes, Filesystem};
use windlass_sys::mount_view::MountView;
use windlass_sys::process::{self, Exit, Forked, SingleThreaded};
use windlass_sys::{fd, pidfd_mount, sched, socket};

/// The directory of the bind mount. State roots may be anywhere, but this is one path for the whole host. An id has no
/// `@`, so the directory conflicts with no container of the usual state root.
const DIRECTORY: &str = "/run/windlass/@exits";
const ABOVE: &str = "/run/windlass";
/// The bind mount of the namespace.
const NAMESPACE: &str = "ns";
const NAMESPACE_PATH: &str = "/run/windlass/@exits/ns";
/// A symbolic link whose target names the kernel that cannot keep exits, and the reason.
const REFUSED: &str = "refused";

/// How long to wait for another runtime that makes the namespace.
const PATIENCE: Duration = Duration::from_millis(200);

fn cannot() -> &'static str {
    "cannot keep the exit status in the kernel"
}

/// Enters the namespace, and makes it if it does not exist. This process is in it from here on, and its root and
/// current directory are the directory of the pins.
pub(crate) fn enter_or_make(proof: &SingleThreaded) -> Result<()> {
    if let Ok(file) = open(NAMESPACE_PATH, OFlag::O_NONBLOCK) {
        match process::setns(file.as_fd(), Namespaces::MOUNT) {
            // The file has no mount.
            Err(failed) if failed.errno == Errno::EINVAL => {}
            other => return other.with_context(cannot),
        }
    }
    let namespace = make(proof)?;
    process::setns(namespace.as_fd(), Namespaces::MOUNT).with_context(cannot)
}

/// While this exists, the process is in the namespace.
pub(crate) struct Visit(MountView);

impl Visit {
    /// Enters the namespace. Returns `None` if there is none, or if it is out of reach. This process uses no relative
    /// path afterwards.
    ///
    /// # Errors
    ///
    /// A want of descriptors or memory.
    pub(crate) fn begin() -> Result<Option<Visit>> {
        match enter() {
            Err(failed) if !failed.is_shortage() => Ok(None),
            other => other.map(Some).with_context(|| "cannot look at the exit statuses that the kernel keeps"),
        }
    }
}

fn enter() -> windlass_sys::Result<Visit> {
    let file = open(NAMESPACE_PATH, OFlag::O_NONBLOCK)?;
    let view = MountView::hold_for_absolute_paths()?;
    process::setns(file.as_fd(), Namespaces::MOUNT)?;
    Ok(Visit(view))
}

/// Opens a path without following any link: another user who owns a directory on the way could have put a link to their
/// own namespace there. setns(2) refuses a file that is no namespace.
fn open(path: &str, flags: OFlag) -> windlass_sys::Result<OwnedFd> {
    fd::openat2(fd::CWD, path, OFlag::O_RDONLY | flags, 0, ResolveFlag::RESOLVE_NO_SYMLINKS)
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.0.restore("windlass's own");
    }
}

/// Tests whether this host can keep exits, without changing anything.
pub fn check(proof: &SingleThreaded) -> Result<()> {
    prepare(proof, |_| Ok(()))
}

/// Makes the namespace and keeps it by a bind mount.
fn make(proof: &SingleThreaded) -> Result<OwnedFd> {
    let _lock = lock(directory()?)?;
    // The directory is opened by its path again: another runtime may have mounted something there before it released
    // the lock.
    let directory = directory()?;
    if let Some(made) = open_namespace(directory.as_fd()) {
        return Ok(made);
    }
    let kernel = nix::sys::utsname::uname().map_or_else(|_| "?".into(), |name| name.release().to_owned());
    let kernel = kernel.to_string_lossy();
    let refused = fd::readlinkat(directory.as_fd(), REFUSED).unwrap_or_default().into_string().unwrap_or_default();
    if let Some(why) = refused.strip_prefix(&format!("{kernel}: ")) {
        return Err(Error::new(Kind::Unsupported, why));
    }
    let made = prepare(proof, |namespace| keep(namespace, directory.as_fd()));
    if let Err(error) = &made
        && error.kind() == Kind::Unsupported
    {
        // Best effort: without it, the next create tries again.
        let _ = fd::unlinkat(directory.as_fd(), REFUSED);
        let _ = fd::symlinkat(&format!("{kernel}: {}", error.message()), directory.as_fd(), REFUSED);
    }
    made
}

/// Opens the directory, and makes it if it does not exist.
fn directory() -> Result<OwnedFd> {
    let if_missing = |made: windlass_sys::Result<()>| match made {
        Err(failed) if failed.errno == Errno::EEXIST => Ok(()),
        other => other,
    };
    let open_or_make = |path: &str, mode: u32| -> Result<OwnedFd> {
        let opened = match open(path, OFlag::O_DIRECTORY) {
            Err(failed) if failed.errno == Errno::ENOENT => {
                if_missing(fd::mkdirat(fd::CWD, path, mode)).and_then(|()| open(path, OFlag::O_DIRECTORY))
            }
            other => other,
        };
        let opened = opened.with_context(cannot)?;
        match fd::why_untrusted(&fd::stat(opened.as_fd()).with_context(cannot)?) {
            Some(wrong) => Err(Error::new(Kind::PermissionDenied, format!("{}: {path:?} {wrong}", cannot()))),
            None => Ok(opened),
        }
    };
    // The mode is that of a state root, which this directory usually is.
    open_or_make(ABOVE, 0o1700)?;
    open_or_make(DIRECTORY, 0o700)
}

/// Locks the directory until the result is dropped. The process that makes the namespace holds the lock for some
/// milliseconds, but may have been stopped.
fn lock(directory: OwnedFd) -> Result<OwnedFd> {
    let deadline = windlass_sys::poll::Deadline::after(PATIENCE);
    loop {
        match lock::exclusive(directory.as_fd(), false) {
            Err(failed) if failed.errno == Errno::EWOULDBLOCK && !deadline.has_passed() => {
                std::thread::sleep(Duration::from_millis(1));
            }
            other => return other.map(|()| directory).with_context(cannot),
        }
    }
}

/// The file of the namespace, if a namespace is mounted there.
fn open_namespace(directory: BorrowedFd<'_>) -> Option<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = fd::openat(directory, NAMESPACE, flags, 0).ok()?;
    process::namespace_kind(file.as_fd()).is_ok_and(|kind| kind == Namespaces::MOUNT).then_some(file)
}

/// Has a child make the namespace and try a pin in it, then calls `then` while the child keeps the namespace.
fn prepare<T>(proof: &SingleThreaded, then: impl FnOnce(OwnedFd) -> Result<T>) -> Result<T> {
    let (ours, theirs) = socket::pair().with_context(cannot)?;
    let child = match process::fork(CloneFlags::empty(), None, proof).with_context(cannot)? {
        Forked::Parent(child) => child,
        Forked::Child => {
            drop(ours);
            // If the report could not be sent, this process ends, so that its parent does not wait for ever.
            if report(theirs.as_fd(), in_child(proof)).is_ok() {
                // The child waits until the parent has done its part, or has died.
                let _ = socket::receive(theirs.as_fd(), &mut [0; 1]);
            }
            process::exit_now(0)
        }
    };
    drop(theirs);
    let done = receive(ours.as_fd()).and_then(then);
    drop(ours);
    let _ = child.wait();
    done
}

/// The stage in which a call of the child failed, as it is sent.
#[derive(Clone, Copy)]
enum Stage {
    /// The child made the namespace.
    Namespace = b'n' as isize,
    /// The child tried a pin.
    Pin = b'p' as isize,
}

/// Sends the namespace, or the stage, the errno and the call that failed.
fn report(socket: BorrowedFd<'_>, made: Result<OwnedFd, (Stage, SyscallError)>) -> windlass_sys::Result<()> {
    match made {
        Ok(namespace) => socket::send(socket, b"made", &[namespace.as_fd()]),
        Err((stage, failed)) => {
            let errno = (failed.errno as i32).to_ne_bytes();
            let text: Vec<u8> = [stage as u8].into_iter().chain(errno).chain(failed.call.bytes()).collect();
            socket::send(socket, &text, &[])
        }
    }
}

fn receive(socket: BorrowedFd<'_>) -> Result<OwnedFd> {
    let mut buffer = [0; 1024];
    let (n, namespace) = socket::receive(socket, &mut buffer).with_context(cannot)?;
    if let Some(namespace) = namespace {
        return Ok(namespace);
    }
    let Some((stage, [a, b, c, d, call @ ..])) = buffer[..n].split_first() else {
        return Err(Error::new(Kind::Kernel, format!("{}: the process that tried it has died", cannot())));
    };
    let errno = Errno::from_raw(i32::from_ne_bytes([*a, *b, *c, *d]));
    let failed = SyscallError { call: String::from_utf8_lossy(call).into_owned().into(), errno };
    // A kernel that does not know such a mount, or the ioctl, returns these.
    let lacks = matches!(errno, Errno::ENOSYS | Errno::ENOTTY | Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENXIO);
    let kind = if lacks && *stage == Stage::Pin as u8 { Kind::Unsupported } else { Kind::Kernel };
    Err(Error::new(kind, format!("{}: {failed}", cannot())).caused_by(failed))
}

/// In a child: makes a mount namespace, removes everything from it, and tries a pin there.
fn in_child(proof: &SingleThreaded) -> Result<OwnedFd, (Stage, SyscallError)> {
    let namespace = empty_namespace().map_err(|failed| (Stage::Namespace, failed))?;
    try_pin(proof).map_err(|failed| (Stage::Pin, failed))?;
    Ok(namespace)
}

/// Goes into a new mount namespace that has one mount, a tmpfs.
fn empty_namespace() -> windlass_sys::Result<OwnedFd> {
    let namespace = younger_namespace()?;
    mount::propagate_root(PropagationChange::of_tree(Propagation::Private))?;
    let tmpfs = Filesystem::open("tmpfs")?;
    tmpfs.set("mode", Some("0700"))?;
    let tmpfs = tmpfs.mount(MountAttributes::NOSUID | MountAttributes::NODEV | MountAttributes::NOEXEC)?;
    // The place does not matter, since the tmpfs becomes the root.
    mount::attach_over(tmpfs.as_fd(), "/proc")?;
    mount::change_directory(tmpfs.as_fd())?;
    mount::pivot_to_current()?;
    mount::detach(".")?;
    Ok(namespace)
}

/// Goes into a new mount namespace that may be mounted in the present one. The kernel refuses a namespace with a
/// smaller id, to prevent loops, and gives each CPU a range of ids. Only the host's own namespace precedes all others.
fn younger_namespace() -> windlass_sys::Result<OwnedFd> {
    let present = || fd::open("/proc/self/ns/mnt", OFlag::O_RDONLY);
    // A kernel without readable ids gives them in order.
    let id = |namespace: &OwnedFd| process::mount_namespace_id(namespace.as_fd()).ok();
    let old = id(&present()?);
    let renew = || {
        process::unshare(Namespaces::MOUNT)?;
        present().map(|new| (old.is_none() || old < id(&new)).then_some(new))
    };
    if let Some(new) = renew()? {
        return Ok(new);
    }
    let refused = || SyscallError { call: "unshare(CLONE_NEWNS): no younger one".into(), errno: Errno::ELOOP };
    sched::on_each_cpu(renew)?.ok_or_else(refused)
}

/// The exit status with which a pin is tried.
const TRIED: i32 = 42;

/// Pins a child in the current directory and reads how it ended.
fn try_pin(proof: &SingleThreaded) -> windlass_sys::Result<()> {
    const NAME: &str = "try";
    let child = match process::fork(CloneFlags::empty(), None, proof)? {
        Forked::Child => process::exit_now(TRIED),
        Forked::Parent(child) => child,
    };
    let added = pidfd_mount::add(NAME, child.pidfd.as_fd());
    child.wait()?;
    added?;
    // From here on only the pin has the exit of the child.
    drop(child);
    let exit = pidfd_mount::exit(NAME);
    let _ = pidfd_mount::remove(NAME);
    match exit? {
        Some(Exit::Code(TRIED)) => Ok(()),
        _ => Err(SyscallError { call: "ioctl(PIDFD_GET_INFO): no exit status".into(), errno: Errno::EOPNOTSUPP }),
    }
}

/// Mounts the namespace on its file.
fn keep(namespace: OwnedFd, directory: BorrowedFd<'_>) -> Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    fd::openat(directory, NAMESPACE, flags, 0o600).with_context(cannot)?;
    let tree = mount::clone_tree(namespace.as_fd(), "", false).with_context(cannot)?;
    match mount::attach_at(tree.as_fd(), directory, NAMESPACE) {
        // The kernel makes no copies of such a mount, so it refuses a place whose mounts propagate to other mount
        // namespaces, such as those of systemd's services: the directory becomes a private mount first.
        Err(failed) if failed.errno == Errno::EINVAL => {
            let private = private_mount(directory).with_context(cannot)?;
            mount::attach_at(tree.as_fd(), private.as_fd(), NAMESPACE).with_context(cannot)?;
        }
        other => other.with_context(cannot)?,
    }
    Ok(namespace)
}

/// Mounts the directory on itself, unless it is a mount, and makes that private.
fn private_mount(directory: BorrowedFd<'_>) -> windlass_sys::Result<OwnedFd> {
    let private = Attributes { propagation: Some(Propagation::Private), ..Attributes::default() };
    // The directory may be a mount already: another mount namespace has made it one, and the mount has propagated here.
    if mount::set_attributes(directory, private, false, None).is_ok() {
        return fd::duplicate(directory);
    }
    let copy = mount::clone_tree(directory, "", false)?;
    mount::attach(copy.as_fd(), directory)?;
    mount::set_attributes(copy.as_fd(), private, false, None)?;
    Ok(copy)
}
