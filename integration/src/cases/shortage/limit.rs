//! The scarce resource, and how it is limited for a command.

use std::process::{Command, Stdio};

/// A resource that is limited for a command.
#[derive(Clone, Copy, Debug)]
pub enum Limit {
    /// RLIMIT_NOFILE.
    Descriptors(u64),
    /// RLIMIT_FSIZE, in bytes.
    FileSize(u64),
    /// RLIMIT_NPROC, which holds for an ordinary user.
    Processes(u64),
    /// The command has no limit; the resource itself is scarce.
    World(Missing),
}

/// The kernel's error for a shortage.
#[derive(Clone, Copy, Debug)]
pub enum Missing {
    /// ENOSPC: blocks, inodes, namespaces, mounts, watches.
    Space,
    /// EDQUOT: keys.
    Quota,
    /// EAGAIN: processes.
    Processes,
    /// ENOMEM, or the process is killed.
    Memory,
}

impl Limit {
    /// The command with the limit.
    pub fn apply(self, command: &Command) -> Command {
        let option = match self {
            Limit::Descriptors(value) => format!("--nofile={value}"),
            Limit::FileSize(value) => format!("--fsize={value}"),
            Limit::Processes(value) => format!("--nproc={value}"),
            Limit::World(_) => return again(command, Command::new(command.get_program())),
        };
        let mut prlimit = Command::new("prlimit");
        prlimit.arg(option).arg("--").arg(command.get_program());
        again(command, prlimit)
    }

    /// The texts of which an error about it has one.
    pub fn words(self) -> &'static [&'static str] {
        match self {
            Limit::Descriptors(_) => &["EMFILE", "too many open files"],
            Limit::FileSize(_) => &["EFBIG", "file too large"],
            Limit::Processes(_) | Limit::World(Missing::Processes) => &["EAGAIN", "resource temporarily unavailable"],
            Limit::World(Missing::Space) => &["ENOSPC", "no space left on device"],
            Limit::World(Missing::Quota) => &["EDQUOT", "disk quota exceeded"],
            Limit::World(Missing::Memory) => &["ENOMEM", "cannot allocate memory", "EAGAIN", "killed"],
        }
    }
}

/// Another program with the arguments, directory and environment of a command.
fn again(command: &Command, mut other: Command) -> Command {
    other.args(command.get_args()).stdin(Stdio::null());
    if let Some(dir) = command.get_current_dir() {
        other.current_dir(dir);
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => other.env(name, value),
            None => other.env_remove(name),
        };
    }
    other
}
