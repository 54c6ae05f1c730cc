//! The facts about the host and the user of the runtime that planning depends on.
//!
//! An ordinary user has no power over the host's mounts and may map few ids. Root of a user namespace, such as
//! podman makes, has power only over what this namespace owns. The plan takes both into account, so `explain`
//! shows the consequences.

use windlass_base::capability::CapabilitySet;
use windlass_base::spec::IdMapping;

/// Facts about the host, which the caller looks up once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// Capabilities that the runtime can grant to the container.
    pub capabilities: CapabilitySet,
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// If the runtime is itself in a user namespace, the group ids of that namespace.
    pub nested: Option<Vec<IdMapping>>,
    /// The runtime's own `oom_score_adj`. Needed only for ordinary users, who cannot set a lower one.
    pub oom_score_adj: i64,
    /// Whether SELinux is enabled. Needed only for a configuration with `linux.mountLabel`.
    pub selinux: bool,
    /// Options of the host's cgroup2 superblock (`nsdelegate`). Needed only for a container that mounts it without
    /// a cgroup namespace of its own.
    pub cgroup2: Vec<String>,
}

/// The writer of the id maps of a new user namespace, as user_namespaces(7) allows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Maps {
    /// The runtime writes them.
    #[default]
    Direct,
    /// The runtime maps only its own user and group id; setgroups(2) must be denied first.
    Own,
    /// newuidmap(1) and newgidmap(1) write what `/etc/subuid` and `/etc/subgid` grant.
    Helpers,
}

impl Host {
    /// Whether the runtime may copy mounts and join namespaces of the host, or of the user namespace in which it
    /// is root.
    pub fn administers(&self) -> bool {
        self.capabilities.contains(CapabilitySet::SYS_ADMIN)
    }

    /// Whether the runtime runs without the power of the host's root.
    pub fn rootless(&self) -> bool {
        !self.administers() || self.nested.is_some()
    }

    /// The writer of these id maps.
    pub fn maps(&self, uids: &[IdMapping], gids: &[IdMapping]) -> Maps {
        let both = CapabilitySet::SETUID | CapabilitySet::SETGID;
        let own = |mappings: &[IdMapping], id: u32| matches!(mappings, [only] if only.host_id == id && only.size == 1);
        if self.capabilities.contains(both) {
            Maps::Direct
        } else if own(uids, self.uid) && own(gids, self.gid) {
            Maps::Own
        } else {
            Maps::Helpers
        }
    }
}

/// A mapping as a line of `/proc/PID/uid_map`.
pub fn map_text(mappings: &[IdMapping]) -> String {
    mappings.iter().map(|m| format!("{} {} {}\n", m.container_id, m.host_id, m.size)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(host_id: u32, size: u32) -> IdMapping {
        IdMapping { container_id: 0, host_id, size }
    }

    #[test]
    fn only_ones_own_two_ids_can_be_mapped_without_help() {
        let user = Host { uid: 1000, gid: 100, ..Host::default() };
        assert_eq!(user.maps(&[map(1000, 1)], &[map(100, 1)]), Maps::Own);
        for (uids, gids) in [
            (vec![map(1000, 2)], vec![map(100, 1)]),
            (vec![map(1000, 1)], vec![map(1000, 1)]),
            (vec![map(1000, 1), map(100_000, 1)], vec![map(100, 1)]),
        ] {
            assert_eq!(user.maps(&uids, &gids), Maps::Helpers);
        }
        let root = Host { capabilities: CapabilitySet::SETUID | CapabilitySet::SETGID, ..user };
        assert_eq!(root.maps(&[map(0, 65536)], &[map(0, 65536)]), Maps::Direct);
    }

    #[test]
    fn root_of_a_user_namespace_is_rootless_but_administers_it() {
        let nested = Host { capabilities: CapabilitySet::all(), nested: Some(Vec::new()), ..Host::default() };
        assert!(nested.administers() && nested.rootless());
        assert!(!Host { capabilities: CapabilitySet::all(), ..Host::default() }.rootless());
        assert!(Host { uid: 1000, ..Host::default() }.rootless());
    }
}
