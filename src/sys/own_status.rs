//! `/proc/self/status` (proc_pid_status(5)).

use nix::errno::Errno;

use super::{Result, SyscallError, fd};

/// The status of this process in its own procfs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnStatus {
    /// Its process id (`Pid`). It differs from getpid(2) if the procfs is of another PID namespace: then its numbers
    /// mean other processes.
    pub pid: i32,
    /// The signals that it ignores (`SigIgn`), bit n - 1 for signal n. The parent may have ignored some, and children
    /// inherit that.
    pub ignored: u64,
}

impl OwnStatus {
    /// Reads the status.
    pub fn read() -> Result<OwnStatus> {
        let text = fd::read_small(fd::CWD, "/proc/self/status")?;
        OwnStatus::parse(&String::from_utf8_lossy(&text))
            .ok_or(SyscallError { call: "read(\"/proc/self/status\")".into(), errno: Errno::EIO })
    }

    fn parse(text: &str) -> Option<OwnStatus> {
        let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        Some(OwnStatus { pid: value("Pid:")?.parse().ok()?, ignored: u64::from_str_radix(value("SigIgn:")?, 16).ok()? })
    }

    /// Whether the procfs at `/proc` is of this process's PID namespace.
    pub fn is_of_own_namespace(self) -> bool {
        self.pid == std::process::id() as i32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_procfs_of_another_namespace_is_told_by_its_numbers() {
        let own = std::process::id();
        let read =
            |pid: u32| OwnStatus::parse(&format!("Name:\tx\nPPid:\t1\nPid:\t{pid}\nSigIgn:\t0000000000001002\n"));
        let status = read(own).expect("complete");
        assert_eq!(status.ignored, 0x1002);
        assert!(status.is_of_own_namespace());
        assert!(!read(own + 1).expect("complete").is_of_own_namespace());
        assert_eq!(OwnStatus::parse("Name:\tx\n"), None);
        assert!(OwnStatus::read().expect("a procfs").is_of_own_namespace());
    }
}
