//! The cgroup manager: it makes and removes cgroups.

/// The cgroup manager: it makes and removes cgroups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Manager {
    /// The runtime itself, in the file system.
    #[default]
    Cgroupfs,
    /// systemd, as a transient scope.
    Systemd,
}
