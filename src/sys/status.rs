//! `/proc/PID/status` (proc_pid_status(5)), if time does not matter: the crate procfs parses all of it.

use procfs_core::FromBufRead;
pub use procfs_core::process::Status;

use super::fd;

/// The status of a process or a thread; `None` if it has ended. The ids in it are those of the caller's procfs.
pub fn of(pid: i32) -> Option<Status> {
    parse(&fd::read_small(fd::CWD, format!("/proc/{pid}/status")).ok()?)
}

fn parse(text: &[u8]) -> Option<Status> {
    // A process names itself, with any bytes but a line break, while procfs accepts only text.
    Status::from_buf_read(String::from_utf8_lossy(text).as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_its_status_whatever_its_name_is() {
        let own = std::process::id() as i32;
        assert_eq!(of(own).expect("it lives").tgid, own);
        let text = fd::read_small(fd::CWD, "/proc/self/status").expect("a procfs");
        let end = text.iter().position(|byte| *byte == b'\n').expect("a line");
        for name in [&b"\xff\xfe"[..], b"a:b", b"Tgid:\t7", b"", b"x\\nTgid:\t7"] {
            let text = [b"Name:\t", name, &text[end..]].concat();
            assert_eq!(parse(&text).map(|status| status.tgid), Some(own), "{name:?}");
        }
        assert!(parse(b"Name:\tx\n").is_none());
        assert!(of(-1).is_none());
    }
}
