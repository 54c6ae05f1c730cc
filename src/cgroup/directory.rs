//! A directory of the cgroup file system, and reading and writing its files.
//!
//! Each access is openat, one read or write, and close. The paths are kept for error messages.

use std::os::fd::{AsFd, OwnedFd};

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::{read, write};

use windlass_sys::{Called, Result, SyscallError};

/// The size of the first read, in bytes. Only lists of processes and large tables are longer.
const SHORT: usize = 4096;

#[derive(Debug)]
pub(super) struct Directory {
    pub path: String,
    pub fd: OwnedFd,
}

const DIRECTORY: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC).union(OFlag::O_NOFOLLOW);

impl Directory {
    pub(crate) fn open(path: &str) -> Result<Directory> {
        let fd = openat(AT_FDCWD, path, DIRECTORY, Mode::empty())
            .called(|| format!("open({path:?}, O_RDONLY|O_DIRECTORY)"))?;
        Ok(Directory { path: path.to_owned(), fd })
    }

    /// Opens a directory below this one. `name` may have several components; if it is empty, it means the directory
    /// itself.
    pub(crate) fn open_below(&self, name: &str) -> Result<Directory> {
        let path = self.path_of(name);
        let name = if name.is_empty() { "." } else { name };
        let fd = openat(&self.fd, name, DIRECTORY, Mode::empty())
            .called(|| format!("openat({path:?}, O_RDONLY|O_DIRECTORY)"))?;
        Ok(Directory { path, fd })
    }

    pub(crate) fn path_of(&self, name: &str) -> String {
        if name.is_empty() { self.path.clone() } else { format!("{}/{name}", self.path) }
    }

    /// Reads a file of at most [`SHORT`] bytes, in one read.
    pub(crate) fn read(&self, name: &str) -> Result<String> {
        let fd = self.open_file(name, OFlag::O_RDONLY)?;
        let mut buffer = [0; SHORT];
        let length = read(&fd, &mut buffer).called(|| format!("read({:?})", self.path_of(name)))?;
        Ok(text(buffer[..length].to_vec()))
    }

    /// Reads a file of any length.
    pub(crate) fn read_all(&self, name: &str) -> Result<String> {
        let fd = self.open_file(name, OFlag::O_RDONLY)?;
        to_end(&fd, || self.path_of(name))
    }

    /// Writes a value in one write, which the kernel accepts as a whole or refuses.
    pub(crate) fn write(&self, name: &str, value: &str) -> Result<()> {
        let fd = self.open_file(name, OFlag::O_WRONLY)?;
        write(&fd, value.as_bytes()).called(|| format!("write({:?}, {value:?})", self.path_of(name)))?;
        Ok(())
    }

    pub(crate) fn open_file(&self, name: &str, flags: OFlag) -> Result<OwnedFd> {
        openat(&self.fd, name, flags | OFlag::O_CLOEXEC, Mode::empty()).called(|| {
            let flags = if flags == OFlag::O_RDONLY { "O_RDONLY" } else { "O_WRONLY" };
            format!("openat({:?}, {flags})", self.path_of(name))
        })
    }

    /// Names of the entries for which `keep` holds.
    pub(crate) fn names(&self, keep: impl Fn(Option<Type>, &str) -> bool) -> Result<Vec<String>> {
        let call = || format!("getdents64({:?})", self.path);
        let mut dir = Dir::openat(&self.fd, ".", DIRECTORY, Mode::empty()).called(call)?;
        let mut names = Vec::new();
        for entry in dir.iter() {
            let entry = entry.called(call)?;
            if let Ok(name) = entry.file_name().to_str()
                && !matches!(name, "." | "..")
                && keep(entry.file_type(), name)
            {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Reads a file by its path. std would begin with a read of 32 bytes, and so make more calls.
pub(super) fn read_file(path: &str) -> Result<String> {
    let fd = openat(AT_FDCWD, path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
        .called(|| format!("open({path:?})"))?;
    to_end(&fd, || path.to_owned())
}

pub(super) fn to_end(fd: &OwnedFd, path: impl Fn() -> String) -> Result<String> {
    let (mut buffer, mut length) = (vec![0; SHORT], 0);
    loop {
        match read(fd, &mut buffer[length..]).called(|| format!("read({:?})", path()))? {
            0 => break,
            more => length += more,
        }
        if length == buffer.len() {
            buffer.resize(2 * length, 0);
        }
    }
    buffer.truncate(length);
    Ok(text(buffer))
}

/// The number after `key` in a text of lines `key number`.
pub(super) fn number_after(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// `Ok(None)` if the file or the cgroup does not exist.
pub(super) fn if_there<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        // ENODEV: the cgroup was removed while its file was open.
        Err(SyscallError { errno: Errno::ENOENT | Errno::ENODEV, .. }) => Ok(None),
        Err(failed) => Err(failed),
    }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}
