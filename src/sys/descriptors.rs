//! The table of this process's open descriptors: what it inherited, what it passes on, what it closes.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use nix::fcntl::OFlag;

use super::{Result, SyscallError, check, directory, fd, fd_name};

/// The first descriptor that is neither stdio nor one of the `preserved` after it (`--preserve-fds`).
pub fn first_not_preserved(preserved: u32) -> RawFd {
    3 + RawFd::try_from(preserved).unwrap_or(RawFd::MAX - 3)
}

/// Marks every descriptor from `first` on close-on-exec (close_range(2), Linux 5.11).
pub fn close_from_on_exec(first: RawFd) -> Result<()> {
    // SAFETY: the call takes no pointers; marking close-on-exec takes no descriptor from an owner.
    let returned = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    check(returned, || format!("close_range({first}, ~0, CLOSE_RANGE_CLOEXEC)")).map(drop)
}

/// Closes every descriptor from `first` on except those in `kept`. A process that enters a container should hold
/// nothing of the host that it does not need.
///
/// No owner of a closed descriptor may be used or dropped afterwards. The forked children that call this never
/// return to the runtime's frames, where the owners are.
pub fn close_all_but(first: RawFd, kept: &[BorrowedFd<'_>]) {
    let mut kept: Vec<RawFd> = kept.iter().map(AsRawFd::as_raw_fd).filter(|fd| *fd >= first).collect();
    kept.sort_unstable();
    let mut from = first;
    for stop in kept.into_iter().chain([RawFd::MAX]) {
        if from < stop {
            // SAFETY: the caller promises not to use the owners, see above.
            unsafe { close_range(from, stop - 1) };
        }
        from = stop.saturating_add(1);
    }
}

/// The highest number that is tried if the kernel refuses to close a range at once.
const HIGHEST: RawFd = 1 << 16;

/// Closes the descriptors from `first` to `last`. Even if a filter refuses the call, they must not stay open: one of
/// them may be the lock for which another command waits.
///
/// # Safety
///
/// Nothing may use or drop an owner of them afterwards.
unsafe fn close_range(first: RawFd, last: RawFd) {
    // SAFETY: the call takes no pointers; for the owners see above.
    if unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } == -1 {
        for raw in first..=last.min(HIGHEST) {
            // SAFETY: the same.
            unsafe { libc::close(raw) };
        }
    }
}

/// Closes many descriptors, with one call for each run of consecutive numbers.
pub fn close_many(fds: Vec<OwnedFd>) {
    let mut raw: Vec<RawFd> = fds.into_iter().map(IntoRawFd::into_raw_fd).collect();
    raw.sort_unstable();
    for run in raw.chunk_by(|a, b| a + 1 == *b) {
        // SAFETY: the run has only descriptors that were ours to close.
        unsafe { close_range(run[0], run[run.len() - 1]) };
    }
}

/// The descriptor `raw` that this process inherited by number (`--preserve-fds`, LISTEN_FDS), which stays
/// open for as long as the process lives; `None` when no such descriptor is open.
pub fn borrow_inherited(raw: RawFd) -> Option<BorrowedFd<'static>> {
    // SAFETY: F_GETFD reads a flag and takes no pointer.
    let open = unsafe { libc::fcntl(raw, libc::F_GETFD) } != -1;
    // SAFETY: the descriptor is open, as just seen, and belongs to the caller's caller: this
    // process has no owner for it that could close it.
    open.then(|| unsafe { BorrowedFd::borrow_raw(raw) })
}

/// The descriptors from 3 on that this process was started with, by their numbers, as its own:
/// marked close-on-exec. Only for the beginning of `main`, and only once: it takes whatever is open.
pub fn inherited() -> Result<BTreeMap<RawFd, OwnedFd>> {
    let directory = fd::open("/proc/self/fd", OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
    let names = directory::names(directory.as_fd())?;
    drop(directory);
    let numbers = names.iter().filter_map(|name| name.to_str()?.parse().ok());
    let numbers: Vec<RawFd> = numbers.filter(|raw| *raw > 2).collect();
    let open = |raw: &RawFd| {
        // SAFETY: F_SETFD changes a flag and takes no pointer. The descriptor of the directory that
        // was read just now is closed again, so it is refused.
        unsafe { libc::fcntl(*raw, libc::F_SETFD, libc::FD_CLOEXEC) != -1 }
    };
    // SAFETY: the descriptor is open, as just seen, and came from whoever started this process, so
    // nothing in it has an owner for it yet.
    Ok(numbers.into_iter().filter(open).map(|raw| (raw, unsafe { OwnedFd::from_raw_fd(raw) })).collect())
}

/// Puts a copy of `fd` at the number `at`, which is 0, 1 or 2 (dup2(2)), without close-on-exec. Another
/// number is EBADF.
pub fn install_at(fd: BorrowedFd<'_>, at: RawFd) -> Result<()> {
    if !(0..=2).contains(&at) {
        return Err(SyscallError {
            call: format!("dup2({}, {at})", fd_name(fd)).into(),
            errno: nix::errno::Errno::EBADF,
        });
    }
    // SAFETY: dup2 takes no pointers; `at` is 0, 1 or 2, as just seen, which no owner in this process holds.
    let returned = unsafe { libc::dup2(fd.as_raw_fd(), at) };
    check(returned.into(), || format!("dup2({}, {at})", fd_name(fd))).map(drop)
}
