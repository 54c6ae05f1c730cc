//! HOME of the container's user, from the container's `/etc/passwd` (passwd(5)).
//!
//! The file is hostile. So no link of procfs is followed to it, it must be a regular file, and it is read line by
//! line, which bounds the memory.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::fcntl::{OFlag, ResolveFlag};

use windlass_base::error::{Result, WithContext};
use windlass_sys::fd;

/// The longest line, in bytes. Reading stops at a longer line: a file of zeros would be one endless line.
const LONGEST_LINE: u64 = 64 * 1024;

/// The home directory of a user; `None` if the file has none for it, or cannot be read because of its content or type.
/// A lack of resources is an error: otherwise the user would silently get another directory.
pub(super) fn home_directory(uid: u32) -> Result<Option<String>> {
    let context = || "cannot look for the user's home directory in /etc/passwd";
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK;
    let found = match fd::openat2(fd::CWD, "/etc/passwd", flags, 0, ResolveFlag::RESOLVE_NO_MAGICLINKS) {
        Err(failed) if !is_ours(failed.errno) => return Ok(None),
        other => other.with_context(context)?,
    };
    if fd::stat(found.as_fd()).with_context(context)?.st_mode & libc::S_IFMT != libc::S_IFREG {
        return Ok(None);
    }
    match home_in(BufReader::new(File::from(found)), uid) {
        Err(error) if error.raw_os_error().is_some_and(|code| !is_ours(Errno::from_raw(code))) => Ok(None),
        other => other.with_context(context),
    }
}

/// Whether an error does not depend on what the container's root filesystem holds.
fn is_ours(errno: Errno) -> bool {
    matches!(errno, Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::EIO)
}

/// The home directory in the first entry of `uid`, as getpwuid(3) takes the first.
fn home_in(mut passwd: impl BufRead, uid: u32) -> std::io::Result<Option<String>> {
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = passwd.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line)?;
        if read == 0 || read as u64 == LONGEST_LINE {
            return Ok(None);
        }
        let text = String::from_utf8_lossy(&line);
        let mut fields = text.trim_end_matches(['\n', '\r']).split(':');
        if fields.nth(2).and_then(number) == Some(uid) {
            return Ok(fields.nth(2).filter(|home| !home.is_empty()).map(str::to_owned));
        }
    }
}

/// An id: digits only. Rust's parser would accept a sign too.
fn number(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home(passwd: &str, uid: u32) -> Option<String> {
        home_in(passwd.as_bytes(), uid).expect("readable")
    }

    #[test]
    fn a_file_that_cannot_be_read_is_no_file_without_the_user() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
                Err(std::io::Error::from_raw_os_error(libc::EIO))
            }
        }
        let error = home_in(BufReader::new(Broken), 8).expect_err("it is broken");
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
        assert!(is_ours(Errno::EIO) && is_ours(Errno::EMFILE));
        // A root filesystem can cause these errors.
        assert!(![Errno::ENOENT, Errno::ELOOP, Errno::EACCES, Errno::ENXIO].into_iter().any(is_ours));
    }

    #[test]
    fn the_home_directory_is_the_users_own() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken\na:x:10:10::/home/a:\nb:x:11:11:::\nc:x:12:12::/c";
        assert_eq!(home(passwd, 0).as_deref(), Some("/root"));
        assert_eq!(home(passwd, 10).as_deref(), Some("/home/a"));
        assert_eq!(home(passwd, 11), None);
        assert_eq!(home(passwd, 12).as_deref(), Some("/c"));
        assert_eq!(home(passwd, 13), None);
    }

    #[test]
    fn an_id_is_digits_alone() {
        let passwd = "plus:x:+1000:1::/plus:\nminus:x:-1:1::/minus:\nempty:x::1::/empty:\nreal:x:1000:1::/real:\n";
        assert_eq!(home(passwd, 1000).as_deref(), Some("/real"));
        assert_eq!(home(passwd, 0), None);
    }

    #[test]
    fn a_long_file_is_read_to_its_end_and_a_long_line_is_not() {
        let mut passwd = "someone:x:7:7::/home/someone:/bin/sh\n".repeat(100_000);
        passwd.push_str("last:x:8:8::/home/last:/bin/sh\n");
        assert!(passwd.len() > 3 << 20);
        assert_eq!(home(&passwd, 8).as_deref(), Some("/home/last"));
        let endless = BufReader::new(std::io::repeat(0));
        assert_eq!(home_in(endless, 8).expect("readable"), None);
    }
}
