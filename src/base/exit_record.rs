//! The record of how a process ended, which the runtime and the shim write.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// The file in a bundle that lists the exit files which a shim has not written yet: a JSON array of paths. A command
/// that learns the exit status in place of the shim writes it there, as a decimal number.
pub const UNWRITTEN: &str = ".windlass-exit-files";

/// How a process ended. The first process that learns it writes it: the `run` that waited, or a command that finds the
/// zombie or the exit pin. A shim, which has waited for the process, writes its own over that of a command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExitRecord {
    /// Exit code, if it exited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    /// Signal, if one ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Whether its cgroup saw the OOM killer.
    #[serde(default)]
    pub oom_killed: bool,
    /// The time at which the end was seen, in RFC 3339.
    pub at: String,
}

impl ExitRecord {
    /// The record of an end that was seen at `at`. Without `code` and `signal` it is not known how it ended.
    pub fn new(code: Option<i32>, signal: Option<i32>, oom_killed: bool, at: SystemTime) -> ExitRecord {
        ExitRecord { code, signal, oom_killed, at: crate::rfc3339::nanoseconds(at) }
    }
}
