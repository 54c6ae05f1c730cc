//! The answer to `Stats`: the statistics of a container's cgroup. The message depends on the host's version of cgroups
//! (containerd/cgroups: `cgroup2/stats/metrics.proto`, `cgroup1/stats/metrics.proto`).
//!
//! Each number is encoded as soon as it is read. A controller that is not enabled has no files, and its numbers are
//! left out.

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

/// The statistics of the container whose init is `pid` and whose cgroup is `cgroup`.
pub(super) fn read(cgroup: &Path, pid: i32) -> Any {
    // The file system at the usual mount point decides, as in containerd.
    let root = fd::open("/sys/fs/cgroup", OFlag::O_PATH | OFlag::O_DIRECTORY);
    if root.and_then(|root| fd::filesystem(root.as_fd())).is_ok_and(|magic| magic == CGROUP2) {
        Any { type_url: "io.containerd.cgroups.v2.Metrics".into(), value: v2::metrics(cgroup) }
    } else {
        Any { type_url: "io.containerd.cgroups.v1.Metrics".into(), value: v1::metrics(&v1::Places::of(pid)) }
    }
}
