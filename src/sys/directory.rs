//! The entries of directories, by descriptor.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::fcntl::OFlag;
use nix::unistd::Whence;

use super::{Called, Result, check, fd, fd_name};

/// One entry; never `.` or `..`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: OsString,
    /// Whether it is a directory; `None` if the file system does not tell (`DT_UNKNOWN`).
    pub is_dir: Option<bool>,
    /// The position after it (`d_off`), for [`Entries::seek`].
    pub next: i64,
}

/// The size of the buffer in bytes. The longest entry must fit: a name in a cgroup file system may have 4095 bytes.
const BUFFER: usize = 8192;

/// Reads entries with getdents64(2). An error is the last item, so that a loop over a broken directory ends.
pub struct Entries<D> {
    dir: D,
    buffer: [u8; BUFFER],
    at: usize,
    filled: usize,
    ended: bool,
}

/// The entries of `dir` from the first one on. The position of `dir` itself does not change.
pub fn entries(dir: BorrowedFd<'_>) -> Result<Entries<OwnedFd>> {
    fd::openat(dir, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY, 0).map(Entries::of)
}

/// The names in `dir`.
pub fn names(dir: BorrowedFd<'_>) -> Result<Vec<OsString>> {
    entries(dir)?.map(|entry| entry.map(|entry| entry.name)).collect()
}

impl<D: AsFd> Entries<D> {
    /// The entries of `dir` from its position on, which moves.
    pub fn of(dir: D) -> Entries<D> {
        Entries { dir, buffer: [0; BUFFER], at: 0, filled: 0, ended: false }
    }

    /// The directory.
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Continues at a position of [`Entry::next`], or at the beginning: 0.
    pub fn seek(&mut self, position: i64) -> Result<()> {
        let fd = self.dir.as_fd();
        nix::unistd::lseek(fd, position, Whence::SeekSet).called(|| format!("lseek({}, {position})", fd_name(fd)))?;
        (self.at, self.filled, self.ended) = (0, 0, false);
        Ok(())
    }

    fn fill(&mut self) -> Result<()> {
        let fd = self.dir.as_fd().as_raw_fd();
        // SAFETY: the kernel writes at most BUFFER bytes into the buffer, which outlives the call.
        let returned = unsafe { libc::syscall(libc::SYS_getdents64, fd, self.buffer.as_mut_ptr(), BUFFER) };
        (self.at, self.filled) = (0, 0);
        self.filled = check(returned, || format!("getdents64({fd})"))? as usize;
        Ok(())
    }

    /// The entry at `at`, a `struct linux_dirent64` (getdents(2)): inode and `d_off` of 64 bits each, its
    /// length of 16, its type of 8 and its name, which ends with a NUL.
    fn parse(&mut self) -> Option<Entry> {
        let bytes = &self.buffer[self.at..self.filled];
        let length = usize::from(u16::from_ne_bytes(bytes.get(16..18)?.try_into().ok()?));
        let bytes = bytes.get(..length)?;
        self.at += length;
        let name = bytes.get(19..)?;
        let name = &name[..name.iter().position(|byte| *byte == 0)?];
        Some(Entry {
            name: OsStr::from_bytes(name).to_os_string(),
            is_dir: (bytes[18] != libc::DT_UNKNOWN).then_some(bytes[18] == libc::DT_DIR),
            next: i64::from_ne_bytes(bytes[8..16].try_into().ok()?),
        })
    }
}

impl<D: AsFd> Iterator for Entries<D> {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Result<Entry>> {
        while !self.ended {
            if self.at == self.filled {
                if let Err(failed) = self.fill() {
                    self.ended = true;
                    // A directory that was removed while it was read has no entries (getdents(2)).
                    return (failed.errno != nix::errno::Errno::ENOENT).then_some(Err(failed));
                }
                self.ended = self.filled == 0;
                continue;
            }
            match self.parse() {
                Some(entry) if matches!(entry.name.as_bytes(), b"." | b"..") => {}
                Some(entry) => return Some(Ok(entry)),
                None => {
                    self.ended = true;
                    let call = format!("getdents64({}): an entry without an end", fd_name(self.dir.as_fd()));
                    return Some(Err(super::SyscallError { call: call.into(), errno: nix::errno::Errno::EIO }));
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn temporary(name: &str) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("windlass-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory");
        path
    }

    #[test]
    fn every_entry_is_given_once_and_can_be_returned_to() {
        let path = temporary("entries");
        for n in 0..500 {
            std::fs::write(path.join(format!("{n:0>60}")), "").expect("written");
        }
        std::fs::create_dir(path.join("d")).expect("made");
        let dir = fd::open(&path, OFlag::O_RDONLY | OFlag::O_DIRECTORY).expect("open");
        let mut all: Vec<Entry> = entries(dir.as_fd()).expect("open").collect::<Result<_>>().expect("read");
        assert_eq!(all.iter().filter(|entry| entry.is_dir == Some(true)).count(), 1);
        let mut again = entries(dir.as_fd()).expect("open");
        again.seek(all[249].next).expect("seek");
        assert_eq!(again.next(), Some(Ok(all[250].clone())));
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all.dedup();
        assert_eq!(all.len(), 501);
        std::fs::remove_dir_all(&path).expect("removed");
    }

    #[test]
    fn an_error_is_given_once_and_ends_the_entries() {
        let file = fd::open("/proc/self/stat", OFlag::O_RDONLY).expect("open");
        let found: Vec<_> = Entries::of(file).take(10).collect();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].as_ref().expect_err("no directory").errno, nix::errno::Errno::ENOTDIR);
    }

    #[test]
    fn a_directory_that_is_gone_is_empty() {
        let path = temporary("gone");
        let dir = fd::open(&path, OFlag::O_RDONLY | OFlag::O_DIRECTORY).expect("open");
        std::fs::remove_dir(&path).expect("removed");
        assert_eq!(Entries::of(dir).next(), None);
    }
}
