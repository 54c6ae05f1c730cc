//! What `Stats` answers: the numbers of a container's cgroup, in the message of the version of
//! cgroups that the host has (containerd/cgroups: `cgroup2/stats/metrics.proto`,
//! `cgroup1/stats/metrics.proto`).
//!
//! The numbers are read from their files and written as fields at once. A file that is not
//! there, because its controller is not enabled, leaves its numbers out.

mod field;
mod v1;
mod v2;

use std::os::fd::AsFd;
use std::path::Path;

use nix::fcntl::OFlag;

use super::message::Any;
use windlass_sys::fd;

/// The magic number of cgroup2 (linux/magic.h).
const CGROUP2: i64 = 0x6367_7270;

/// The numbers of the container whose init is `pid` and whose cgroup is `cgroup`.
pub fn read(cgroup: &Path, pid: i32) -> Any {
    // As containerd decides it: by what is mounted at the usual place.
    let root = fd::open("/sys/fs/cgroup", OFlag::O_PATH | OFlag::O_DIRECTORY);
    if root.and_then(|root| fd::filesystem(root.as_fd())).is_ok_and(|magic| magic == CGROUP2) {
        Any { type_url: "io.containerd.cgroups.v2.Metrics".into(), value: v2::metrics(cgroup) }
    } else {
        Any { type_url: "io.containerd.cgroups.v1.Metrics".into(), value: v1::metrics(&v1::Places::of(pid)) }
    }
}
