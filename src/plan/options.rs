//! What a plan depends on besides the configuration.

use crate::host::Host;
use crate::path::RootPath;
use crate::unit;

/// What the command line adds to the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The root filesystem's absolute path on the host, where that is not `/`. A destination that begins with it
    /// is meant from there, as with runc.
    pub root_on_host: Option<RootPath>,
    /// `--no-pivot`.
    pub no_pivot: bool,
    /// `--no-new-keyring`.
    pub no_new_keyring: bool,
    /// The end of the session keyring's name. A process that knows the whole name can make the keyring first
    /// (keyctl(2), KEYCTL_JOIN_SESSION_KEYRING), so `create` takes one that nobody can guess.
    pub keyring: String,
    /// What the host's kernel has, as far as planning depends on it.
    pub host: Host,
    /// Which systemd makes the cgroup, if one does.
    pub systemd: Option<unit::Systemd>,
}
