//! HOME of the container's user, from the container's `/etc/passwd` (passwd(5)).
//!
//! The file is hostile. So no link of procfs is followed to it, it must be a regular file, and it is read line by
//! line, which bounds the memory.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsFd;

use nix::fcntl::{OFlag, ResolveFlag};

use windlass_sys::fd;

/// The longest line, in bytes. Reading stops at a longer one: a file of zeros would be one endless line.
const LONGEST_LINE: u64 = 64 * 1024;

/// The home directory of a user; `None` if the file has none for it.
pub(super) fn home_directory(uid: u32) -> Option<String> {
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK;
    let found = fd::openat2(fd::CWD, "/etc/passwd", flags, 0, ResolveFlag::RESOLVE_NO_MAGICLINKS).ok()?;
    let stat = fd::stat(found.as_fd()).ok()?;
    let plain = stat.st_mode & libc::S_IFMT == libc::S_IFREG;
    plain.then(|| home_in(BufReader::new(File::from(found)), uid)).flatten()
}

/// The home directory in the first entry of `uid`, as getpwuid(3) takes the first.
fn home_in(mut passwd: impl BufRead, uid: u32) -> Option<String> {
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = passwd.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line).ok()?;
        if read == 0 || read as u64 == LONGEST_LINE {
            return None;
        }
        let text = String::from_utf8_lossy(&line);
        let mut fields = text.trim_end_matches(['\n', '\r']).split(':');
        if fields.nth(2).and_then(number) == Some(uid) {
            return fields.nth(2).filter(|home| !home.is_empty()).map(str::to_owned);
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
        home_in(passwd.as_bytes(), uid)
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
        assert_eq!(home_in(endless, 8), None);
    }
}
