//! The few members of `config.json` that a shim needs.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{IdMapping, Namespace};

/// A configuration without the members that only the runtime needs. They are skipped and use no memory.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Outline {
    annotations: Option<BTreeMap<String, String>>,
    process: Option<ProcessOutline>,
    linux: Option<LinuxOutline>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ProcessOutline {
    user: Option<UserOutline>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct UserOutline {
    uid: Option<u32>,
    gid: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct LinuxOutline {
    namespaces: Option<Vec<Namespace>>,
    uid_mappings: Option<Vec<IdMapping>>,
    gid_mappings: Option<Vec<IdMapping>>,
}

impl Outline {
    /// Reads the document.
    pub fn read(text: &[u8]) -> serde_json::Result<Outline> {
        serde_json::from_slice(text)
    }

    /// The annotation of this name.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(name).map(String::as_str)
    }

    /// Whether the container has no PID namespace of its own. Its processes then outlive init.
    pub fn shares_pids(&self) -> bool {
        let own = |namespace: &Namespace| namespace.kind == "pid" && namespace.path.is_empty();
        !self.namespaces().iter().any(own)
    }

    /// The user and the group of the process, as ids of the host. `None` if an id has no mapping.
    pub fn owner(&self) -> Option<(u32, u32)> {
        let user = self.process.as_ref().and_then(|process| process.user.as_ref());
        let linux = self.linux.as_ref();
        let uid = user.and_then(|user| user.uid).unwrap_or(0);
        let gid = user.and_then(|user| user.gid).unwrap_or(0);
        Some((
            self.on_host(uid, linux.and_then(|linux| linux.uid_mappings.as_deref()))?,
            self.on_host(gid, linux.and_then(|linux| linux.gid_mappings.as_deref()))?,
        ))
    }

    fn namespaces(&self) -> &[Namespace] {
        self.linux.as_ref().and_then(|linux| linux.namespaces.as_deref()).unwrap_or_default()
    }

    fn on_host(&self, id: u32, mappings: Option<&[IdMapping]>) -> Option<u32> {
        if !self.namespaces().iter().any(|namespace| namespace.kind == "user") {
            return Some(id);
        }
        mappings?.iter().find_map(|mapping| mapping.to_host(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outline(text: &str) -> Outline {
        Outline::read(text.as_bytes()).expect("a configuration")
    }

    #[test]
    fn a_pid_namespace_is_its_own_when_it_has_no_path() {
        let with = |pid: &str| outline(&format!(r#"{{"linux": {{"namespaces": [{{"type": "mount"}}{pid}]}}}}"#));
        assert!(with("").shares_pids());
        assert!(!with(r#", {"type": "pid"}"#).shares_pids());
        assert!(!with(r#", {"type": "pid", "path": ""}"#).shares_pids());
        assert!(with(r#", {"type": "pid", "path": "/proc/1/ns/pid"}"#).shares_pids());
        assert!(outline(r#"{"annotations": null, "linux": null}"#).shares_pids());
    }

    #[test]
    fn the_owner_is_mapped_only_with_a_user_namespace() {
        let with = |namespaces: &str| {
            outline(&format!(
                r#"{{"process": {{"user": {{"uid": 7, "gid": 1}}}}, "linux": {{"namespaces": [{namespaces}],
                "uidMappings": [{{"containerID": 5, "hostID": 1000, "size": 3}}],
                "gidMappings": [{{"containerID": 0, "hostID": 2000, "size": 2}}]}}}}"#
            ))
        };
        assert_eq!(with("").owner(), Some((7, 1)));
        assert_eq!(with(r#"{"type": "user"}"#).owner(), Some((1002, 2001)));
        assert_eq!(outline("{}").owner(), Some((0, 0)));
        assert_eq!(outline(r#"{"linux": {"namespaces": [{"type": "user"}]}}"#).owner(), None);
    }
}
