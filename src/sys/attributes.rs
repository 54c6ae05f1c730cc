//! Extended attributes (xattr(7)).

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

use super::{Result, SyscallError, check, fd_name};

/// Copies the extended attributes of `from` to `to`. Attributes that the filesystem of `to` does not support, or that
/// this user may not set, are left out.
pub fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    let names = match list(from) {
        Err(failed) if failed.errno == Errno::EOPNOTSUPP => return Ok(()),
        other => other?,
    };
    for name in names {
        let value = match get(from, &name) {
            // The attribute was removed meanwhile.
            Err(failed) if failed.errno == Errno::ENODATA => continue,
            other => other?,
        };
        match set(to, &name, &value) {
            Err(failed) if matches!(failed.errno, Errno::EOPNOTSUPP | Errno::EPERM) => {}
            other => other?,
        }
    }
    Ok(())
}

/// Sets the SELinux label of a file.
pub fn set_selinux_label(file: BorrowedFd<'_>, label: &str) -> Result<()> {
    set(file, c"security.selinux", label.as_bytes())
}

/// An extended attribute of a file of the host, up to 64 bytes; `None` if it has none.
pub fn read(path: &str, name: &str) -> Option<Vec<u8>> {
    let (path, name) = (CString::new(path).ok()?, CString::new(name).ok()?);
    let mut value = vec![0u8; 64];
    // SAFETY: path and name are NUL-terminated and outlive the call; the length is the buffer's.
    let length = unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    value.truncate(usize::try_from(length).ok()?);
    Some(value)
}

/// Sets an extended attribute of an open file (fsetxattr(2)): `trusted.NAME` for root, which every tmpfs has, and
/// `user.NAME` for other users (on a tmpfs since Linux 6.6).
pub fn store(fd: BorrowedFd<'_>, name: &str, value: &[u8]) -> Result<()> {
    let mut failed = None;
    for space in SPACES {
        let Ok(full) = CString::new(format!("{space}.{name}")) else { continue };
        // SAFETY: the name is NUL-terminated, the length is the value's; both outlive the call.
        let returned = unsafe { libc::fsetxattr(fd.as_raw_fd(), full.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
        match check(returned.into(), || format!("fsetxattr({}, {full:?})", fd_name(fd))) {
            Ok(_) => return Ok(()),
            Err(other) => failed = Some(other),
        }
    }
    Err(failed.expect("there is a name space"))
}

const SPACES: [&str; 2] = ["trusted", "user"];

/// The value that [`store`] has set, up to 64 KiB; `None` without one.
pub fn load(fd: BorrowedFd<'_>, name: &str) -> Option<Vec<u8>> {
    SPACES.iter().find_map(|space| {
        let full = CString::new(format!("{space}.{name}")).ok()?;
        let mut value = vec![0u8; 64 * 1024];
        // SAFETY: the name is NUL-terminated, the length is the buffer's; both outlive the call.
        let length = unsafe { libc::fgetxattr(fd.as_raw_fd(), full.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
        value.truncate(usize::try_from(length).ok()?);
        Some(value)
    })
}

/// The names of the attributes; flistxattr(2).
fn list(file: BorrowedFd<'_>) -> Result<Vec<CString>> {
    // SAFETY: the length given is that of the buffer, which outlives the call.
    let call =
        |buffer: &mut [u8]| unsafe { libc::flistxattr(file.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
    let text = whole(call, || format!("flistxattr({})", fd_name(file)))?;
    let names = text.split_inclusive(|byte| *byte == 0).filter_map(|name| CStr::from_bytes_with_nul(name).ok());
    Ok(names.map(CStr::to_owned).collect())
}

/// The value of an attribute; fgetxattr(2).
fn get(file: BorrowedFd<'_>, name: &CStr) -> Result<Vec<u8>> {
    // SAFETY: `name` is NUL-terminated, the length given is that of the buffer, and both outlive the call.
    let call = |buffer: &mut [u8]| unsafe {
        libc::fgetxattr(file.as_raw_fd(), name.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len())
    };
    whole(call, || format!("fgetxattr({}, {name:?})", fd_name(file)))
}

/// Sets an attribute; fsetxattr(2).
fn set(file: BorrowedFd<'_>, name: &CStr, value: &[u8]) -> Result<()> {
    // SAFETY: `name` is NUL-terminated, the length given is that of the value, and both outlive the call.
    let returned = unsafe { libc::fsetxattr(file.as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    check(returned.into(), || format!("fsetxattr({}, {name:?})", fd_name(file))).map(drop)
}

/// All bytes that `call` returns. The first call has no buffer, since most files have no attributes. The second has
/// room for the most that the kernel returns (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX`: 64 KiB).
fn whole(call: impl Fn(&mut [u8]) -> isize, text: impl Fn() -> String) -> Result<Vec<u8>> {
    let needed = check(call(&mut []) as libc::c_long, &text)?;
    if needed == 0 {
        return Ok(Vec::new());
    }
    let mut buffer = vec![0; 64 * 1024];
    let length = check(call(&mut buffer) as libc::c_long, &text)?;
    buffer.truncate(usize::try_from(length).map_err(|_| SyscallError { call: text().into(), errno: Errno::EIO })?);
    Ok(buffer)
}
