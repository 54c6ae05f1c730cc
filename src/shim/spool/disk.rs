//! The children that write to the file of a spool and read from it.
//!
//! Opening, writing, reading and closing a file may take a disk any time, so the loop does none of them. The loop does
//! not wait for the children: a pipe or a socket reports what it has to know, and the reaper finds them among the
//! orphans. The file has no name, so that nothing is left of it when the shim is killed.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::CloneFlags;

use crate::pipe;
use windlass_base::error::SyscallError;
use windlass_sys::poll::Deadline;
use windlass_sys::process::{self, Forked, SingleThreaded};
use windlass_sys::{Result, descriptors, fd, socket, stream};

/// Bytes read from the file at once.
const READ: u64 = 64 * 1024;

/// The ranges in a file of `size` bytes for the positions from `start` to `end`: offset and length.
pub(super) fn ranges(start: u64, end: u64, size: u64) -> Vec<(u64, u64)> {
    let mut ranges = Vec::new();
    let mut at = start;
    while at < end {
        let offset = at % size;
        let length = (end - at).min(size - offset);
        ranges.push((offset, length));
        at += length;
    }
    ranges
}

/// The first `bytes` of two slices, split at the end of the file: offset and bytes.
pub(super) fn pieces(start: u64, size: u64, slices: [&[u8]; 2], bytes: usize) -> Vec<(u64, &[u8])> {
    let (mut pieces, mut at, mut left) = (Vec::new(), start, bytes);
    for slice in slices {
        let mut rest = &slice[..slice.len().min(left)];
        left -= rest.len();
        for (offset, length) in ranges(at, at + rest.len() as u64, size) {
            let (piece, behind) = rest.split_at(length as usize);
            pieces.push((offset, piece));
            (rest, at) = (behind, at + length);
        }
    }
    pieces
}

/// Does `work` in a child that keeps these descriptors.
fn in_child(kept: &[BorrowedFd<'_>], work: impl FnOnce() -> i32) -> Result<()> {
    let proof = SingleThreaded::check()?;
    match process::fork(CloneFlags::empty(), None, &proof)? {
        Forked::Parent(_) => Ok(()),
        Forked::Child => {
            descriptors::close_all_but(0, kept);
            let _ = process::die_with_parent();
            process::exit_now(work())
        }
    }
}

/// Writes pieces to the file, or to a new one in `directory`. The answer comes on the socket that is returned.
pub(super) fn save(directory: &Path, file: Option<&OwnedFd>, pieces: &[(u64, &[u8])]) -> Result<OwnedFd> {
    let (ours, theirs) = socket::pair()?;
    stream::never_block(ours.as_fd())?;
    let kept: Vec<_> = file.iter().map(|file| file.as_fd()).chain([theirs.as_fd()]).collect();
    in_child(&kept, || {
        let made = if file.is_some() { Ok(None) } else { make(directory).map(Some) };
        let done = made.and_then(|made| {
            let file = made.as_ref().or(file).map(AsFd::as_fd).ok_or(missing())?;
            pieces.iter().try_for_each(|(offset, piece)| fd::write_at(file, piece, *offset as usize))?;
            Ok(made)
        });
        let errno = done.as_ref().map_or_else(|failed| failed.errno as i32, |_| 0);
        let made: Vec<_> = done.iter().flatten().map(AsFd::as_fd).collect();
        i32::from(socket::send(theirs.as_fd(), &errno.to_ne_bytes(), &made).is_err())
    })?;
    Ok(ours)
}

fn missing() -> SyscallError {
    SyscallError { call: "the file".into(), errno: Errno::EBADF }
}

/// The answer of the child of [`save`], with the file if it has made one. `None`: no answer yet.
pub(super) fn answer(socket: BorrowedFd<'_>) -> Option<std::result::Result<Option<OwnedFd>, Errno>> {
    let mut errno = [0; 4];
    match socket::receive(socket, &mut errno) {
        Err(failed) if failed.errno == Errno::EAGAIN => None,
        Err(failed) => Some(Err(failed.errno)),
        Ok((4, made)) => Some(match i32::from_ne_bytes(errno) {
            0 => Ok(made),
            errno => Err(Errno::from_raw(errno)),
        }),
        // The child was killed.
        Ok(_) => Some(Err(Errno::ECHILD)),
    }
}

/// An unnamed file in a directory that no other user may write to.
fn make(directory: &Path) -> Result<OwnedFd> {
    let directory = fd::open(directory, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
    if fd::why_untrusted(&fd::stat(directory.as_fd())?).is_some() {
        return Err(SyscallError { call: "the directory can be written by others".into(), errno: Errno::EPERM });
    }
    match fd::openat(directory.as_fd(), ".", OFlag::O_RDWR | OFlag::O_TMPFILE, 0o600) {
        // Not every file system has unnamed files.
        Err(failed) if matches!(failed.errno, Errno::EOPNOTSUPP | Errno::EISDIR | Errno::ENOENT) => {
            let name = format!(".spool-{}", std::process::id());
            // A shim with the same process id may have been killed here.
            let _ = fd::unlinkat(directory.as_fd(), &name);
            let file = fd::make_new(directory.as_fd(), &name, 0o600)?;
            fd::unlinkat(directory.as_fd(), &name)?;
            Ok(file)
        }
        other => other,
    }
}

/// Reads ranges of the file into the pipe that is returned.
pub(super) fn feed(file: BorrowedFd<'_>, ranges: &[(u64, u64)]) -> Result<OwnedFd> {
    let (ours, theirs) = pipe::captured()?;
    in_child(&[file, theirs.as_fd()], || {
        let mut fed = ranges.iter().flat_map(|&(offset, length)| {
            (offset..offset + length).step_by(READ as usize).map(move |at| (at, READ.min(offset + length - at)))
        });
        let done = fed.try_for_each(|(offset, length)| {
            let bytes = fd::read_part(file, offset as usize, length as usize)?;
            fd::write_all(theirs.as_fd(), &bytes, Deadline::NEVER)
        });
        i32::from(done.is_err())
    })?;
    Ok(ours)
}

/// Closes the file in a child. The last close of an unnamed file waits until the disk has freed it, so the child must
/// be the last to close it.
pub(super) fn close(file: OwnedFd) {
    let Ok((ours, theirs)) = windlass_sys::pipe::new() else { return };
    let _ = in_child(&[file.as_fd(), ours.as_fd()], || {
        let _ = stream::read(ours.as_fd(), &mut [0]);
        0
    });
    drop((file, theirs));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_go_round_in_the_file() {
        assert_eq!(ranges(3, 3, 10), []);
        assert_eq!(ranges(3, 10, 10), [(3, 7)]);
        assert_eq!(ranges(13, 23, 10), [(3, 7), (0, 3)]);
        let (one, two) = (&b"abcd"[..], &b"efgh"[..]);
        assert_eq!(pieces(8, 10, [one, two], 7), [(8, &b"ab"[..]), (0, b"cd"), (2, b"efg")]);
        assert_eq!(pieces(0, 10, [one, two], 3), [(0, &b"abc"[..])]);
    }

    #[test]
    fn the_file_has_no_name_and_nobody_else_can_open_it() {
        let directory = std::env::temp_dir().join(format!("windlass-spool-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        let file = make(&directory).expect("a file");
        let stat = fd::stat(file.as_fd()).expect("stat");
        assert_eq!((stat.st_nlink, stat.st_mode & 0o7777), (0, 0o600));
        assert_eq!(std::fs::read_dir(&directory).expect("read").count(), 0);
        let others = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(&directory, others).expect("set");
        assert_eq!(make(&directory).expect_err("others write there").errno, Errno::EPERM);
        std::fs::remove_dir_all(&directory).expect("removed");
    }
}
