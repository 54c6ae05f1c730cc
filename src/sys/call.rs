//! The text of a failed call, as strace prints it, beside its errno.

use std::fmt::Debug;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use windlass_base::error::SyscallError;

/// The result of every call of this crate.
pub type Result<T> = std::result::Result<T, SyscallError>;

/// The raw return value of a system call made through libc as a result.
///
/// `call` is evaluated only on failure.
pub(crate) fn check(returned: libc::c_long, call: impl FnOnce() -> String) -> Result<libc::c_long> {
    if returned != -1 {
        return Ok(returned);
    }
    // The errno is read before the text is made: naming a descriptor makes a call of its own.
    let errno = Errno::last();
    Err(SyscallError { call: call().into(), errno })
}

/// Adds the text of the call to an error of nix or the standard library.
pub trait Called<T> {
    /// `call` is evaluated only on failure.
    fn called(self, call: impl FnOnce() -> String) -> Result<T>;
}

/// Returns `None` if nothing is at the path, without an error on the way: its text would name the descriptor, which
/// costs a system call.
pub(crate) fn unless_missing<T>(found: nix::Result<T>, call: impl FnOnce() -> String) -> Result<Option<T>> {
    match found {
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
        other => other.called(call).map(Some),
    }
}

impl<T> Called<T> for nix::Result<T> {
    fn called(self, call: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|errno| SyscallError { call: call().into(), errno })
    }
}

impl<T> Called<T> for std::io::Result<T> {
    fn called(self, call: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| SyscallError {
            call: call().into(),
            errno: error.raw_os_error().map_or(Errno::EIO, Errno::from_raw),
        })
    }
}

/// Flags as strace prints them: `O_CREAT|O_WRONLY`, and 0 for no flag.
pub(crate) fn flag_names(flags: &dyn Debug) -> String {
    let shown = format!("{flags:?}");
    let inner = shown.split_once('(').map_or(shown.as_str(), |(_, rest)| rest.trim_end_matches(')'));
    if inner == "0x0" { "0".into() } else { inner.replace(" | ", "|") }
}

/// Whether [`fd_name`] may read `/proc/self/fd`.
static PATHS: AtomicBool = AtomicBool::new(true);

/// Makes errors show descriptors only as numbers from now on. A process calls this before a container's files become
/// its own, because a container can put anything at `/proc`, and before a seccomp filter, which may kill it for the
/// call.
pub fn hide_fd_paths() {
    PATHS.store(false, Ordering::Relaxed);
}

/// A descriptor as strace -y prints it, `[5]</rootfs/proc>`, or its number if it has no path. This costs a call, so it
/// is only for the text of an error.
pub(crate) fn fd_name(fd: impl AsFd) -> String {
    raw_fd_name(fd.as_fd().as_raw_fd())
}

fn raw_fd_name(raw: RawFd) -> String {
    if raw == libc::AT_FDCWD {
        return "AT_FDCWD".into();
    }
    let known = PATHS.load(Ordering::Relaxed);
    let path = known.then(|| std::fs::read_link(format!("/proc/self/fd/{raw}")).ok()).flatten();
    match path.filter(|path| path.is_absolute()) {
        Some(path) => format!("[{raw}]<{}>", path.to_string_lossy().escape_debug()),
        None => raw.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use nix::fcntl::OFlag;

    use super::*;

    #[test]
    fn flags_are_shown_as_strace_shows_them() {
        assert_eq!(flag_names(&(OFlag::O_CREAT | OFlag::O_WRONLY)), "O_CREAT|O_WRONLY");
        assert_eq!(flag_names(&OFlag::empty()), "0");
    }

    #[test]
    fn a_descriptor_is_shown_with_its_path() {
        let dir: OwnedFd = std::fs::File::open("/proc/1").expect("a procfs").into();
        assert_eq!(fd_name(&dir), format!("[{}]</proc/1>", dir.as_raw_fd()));
        assert_eq!(fd_name(nix::fcntl::AT_FDCWD), "AT_FDCWD");
        let (socket, _other) = std::os::unix::net::UnixStream::pair().expect("a pair");
        assert_eq!(fd_name(&socket), socket.as_raw_fd().to_string());
    }

    #[test]
    fn naming_a_descriptor_leaves_the_errno() {
        Errno::EXDEV.set();
        let failed = check(-1, || raw_fd_name(RawFd::MAX)).expect_err("-1");
        assert_eq!((failed.errno, failed.call.as_ref()), (Errno::EXDEV, "2147483647"));
    }
}
