//! How a process ended, as the runtime and the shim write it down.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// The file in a bundle that says where a shim has not written the exit status of its container yet: a JSON array of
/// paths. A command that learns the status in place of the shim writes it there, as a decimal number.
pub const UNWRITTEN: &str = ".windlass-exit-files";

/// How it ended. Written by the first that learns it: the `run` that waited, a shim,
/// or a `state` that still found the zombie.
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
    /// When that was seen, RFC 3339.
    pub at: String,
}

impl ExitRecord {
    /// The record of an end that was seen at `at`. Without `code` and `signal` it is not known how it ended.
    pub fn new(code: Option<i32>, signal: Option<i32>, oom_killed: bool, at: SystemTime) -> ExitRecord {
        ExitRecord { code, signal, oom_killed, at: crate::rfc3339::nanoseconds(at) }
    }
}
