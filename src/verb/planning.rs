//! The inputs of planning besides the configuration: the facts about this host, and the flags.

use crate::cli::{CgroupManager, Global};
use windlass_base::error::{Result, WithContext};
use windlass_base::spec::IdMapping;
use windlass_cgroup::Manager;
use windlass_plan::unit::Systemd;
use windlass_plan::{Host, Options};
use windlass_sys::{credentials, fd, probe};

/// The facts about this host.
pub(super) fn host() -> Result<Host> {
    let own = credentials::capabilities().with_context(|| "cannot find out the runtime's capabilities")?;
    let mut host = Host {
        capabilities: own.permitted,
        uid: nix::unistd::geteuid().as_raw(),
        gid: nix::unistd::getegid().as_raw(),
        ..Host::default()
    };
    if !probe::in_first_user_namespace() {
        let text = fd::document("/proc/self/gid_map");
        let text = text.with_context(|| "cannot find out the groups of this user namespace")?;
        host.nested = Some(IdMapping::parse_lines(&text));
    }
    if host.rootless() {
        let text = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
        host.oom_score_adj = text.trim().parse().unwrap_or(0);
    }
    Ok(host)
}

/// The cgroup manager that the flags choose; `None` if the container stays in the caller's cgroup.
pub(super) fn manager(global: &Global) -> Option<Manager> {
    match global.cgroup_manager {
        CgroupManager::Cgroupfs => Some(Manager::Cgroupfs),
        CgroupManager::Disabled => None,
        CgroupManager::Systemd => Some(Manager::Systemd),
    }
}

/// The options of a plan, by the flags and this host.
pub(super) fn options(global: &Global, no_pivot: bool, no_new_keyring: bool) -> Result<Options> {
    let host = host()?;
    let systemd = (manager(global) == Some(Manager::Systemd))
        .then(|| Systemd { user: is_rootless(global, &host), prefix: global.name });
    Ok(Options { no_pivot, no_new_keyring, host, systemd, ..Options::default() })
}

/// Whether only delegated cgroups may be used: `--rootless`, or else whether the user is without privileges.
pub(super) fn is_rootless(global: &Global, host: &Host) -> bool {
    global.rootless.unwrap_or(host.rootless())
}
