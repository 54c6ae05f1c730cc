//! The inputs of a plan besides the configuration.

use crate::host::Host;
use crate::path::RootPath;
use crate::unit;

/// The command line's additions to the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The root filesystem's absolute path on the host, unless it is `/`. It is removed from a destination that begins
    /// with it, as by runc.
    pub root_on_host: Option<RootPath>,
    /// `--no-pivot`.
    pub no_pivot: bool,
    /// `--no-new-keyring`.
    pub no_new_keyring: bool,
    /// The end of the session keyring's name. A process that knows the whole name can make the keyring first
    /// (keyctl(2), KEYCTL_JOIN_SESSION_KEYRING), so `create` takes an end that nobody can guess.
    pub keyring: String,
    /// The facts about the host that planning depends on.
    pub host: Host,
    /// The systemd that makes the cgroup, if one does.
    pub systemd: Option<unit::Systemd>,
}
