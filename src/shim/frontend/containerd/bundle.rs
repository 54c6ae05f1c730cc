//! What a bundle's directory holds for us: the configuration's few facts that a shim needs, and
//! the files by which `delete` knows what the shim knew.
//!
//! `runtime` and `options.json` are named and written as containerd's own shim does, so that
//! either's `delete` cleans up after the other's `start` when one replaces the other.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::error::Error;
use super::message::options::Options;
use crate::Runtime;
use crate::exit;
use windlass_sys::fd;

/// Where the runtime's state is by default, below it a directory for each namespace.
const ROOT: &str = "/run/containerd/runc";

/// The record of init's end.
pub fn exit_file(bundle: &Path) -> PathBuf {
    bundle.join("exit.json")
}

/// Where the runtime writes init's process id.
pub fn pid_file(bundle: &Path) -> PathBuf {
    bundle.join("init.pid")
}

/// Where the root filesystem is mounted.
pub fn rootfs(bundle: &Path) -> PathBuf {
    bundle.join("rootfs")
}

/// The facts of `config.json`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Config {
    annotations: Option<BTreeMap<String, String>>,
    linux: Option<Linux>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Linux {
    namespaces: Option<Vec<Namespace>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Namespace {
    #[serde(rename = "type")]
    kind: String,
    path: Option<String>,
}

/// The annotations that put a container into the shim of its pod: the first that is there counts.
const GROUPS: [&str; 2] = ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"];

impl Config {
    /// Reads it.
    pub fn read(bundle: &Path) -> Result<Config, Error> {
        let path = bundle.join("config.json");
        let named = |failed: windlass_base::error::Failed| Error::from(failed).while_doing(path.display().to_string());
        let text = fd::document(&path).map_err(named)?;
        serde_json::from_slice(&text).map_err(|error| Error::Document(path, error))
    }

    /// The pod that the container belongs to, or itself.
    pub fn group<'a>(&'a self, id: &'a str) -> &'a str {
        let annotation = |key| self.annotations.as_ref().and_then(|all| all.get(key));
        GROUPS.iter().find_map(|&key| annotation(key)).map_or(id, String::as_str)
    }

    /// Whether its processes outlive its init: it has no PID namespace of its own, and so nobody
    /// kills them but us.
    pub fn shares_pids(&self) -> bool {
        let namespaces = self.linux.as_ref().and_then(|linux| linux.namespaces.as_deref()).unwrap_or_default();
        let own = |namespace: &Namespace| namespace.kind == "pid" && namespace.path.as_deref().unwrap_or("").is_empty();
        !namespaces.iter().any(own)
    }
}

/// Where the runtime keeps its state.
pub fn root(options: &Options, namespace: &str) -> PathBuf {
    let root = if options.root.is_empty() { ROOT } else { &options.root };
    Path::new(root).join(namespace)
}

/// The runtime that the options ask for.
pub fn runtime(options: &Options, namespace: &str, bundle: &Path) -> Result<Runtime, Error> {
    let binary = match options.binary_name.as_str() {
        "" => Runtime::find().ok_or_else(|| Error::Invalid("neither windlass nor runc is in PATH".into()))?,
        name => Runtime::lookup(name.as_ref())
            .ok_or_else(|| Error::Invalid(format!("{name:?}: executable file not found in $PATH")))?,
    };
    let log = bundle.join("log.json");
    let mut global = vec!["--root".into(), root(options, namespace).into_os_string()];
    global.extend(["--log".into(), log.clone().into_os_string(), "--log-format".into(), "json".into()]);
    if options.systemd_cgroup {
        global.push("--systemd-cgroup".into());
    }
    Ok(Runtime { binary, global, log: Some(log) })
}

/// Writes down what `delete` needs.
pub fn remember(bundle: &Path, options: &Options, runtime: &Runtime) -> Result<(), Error> {
    let path = bundle.join("options.json");
    let text = serde_json::to_vec(options).map_err(|error| Error::Document(path.clone(), error))?;
    exit::put(&path, &text, false)?;
    Ok(exit::put(&bundle.join("runtime"), runtime.binary.as_os_str().as_encoded_bytes(), false)?)
}

/// The runtime of a container whose shim is gone.
pub fn remembered(bundle: &Path, namespace: &str) -> Result<Runtime, Error> {
    let text = fd::document(bundle.join("options.json")).unwrap_or_default();
    let mut options: Options = serde_json::from_slice(&text).unwrap_or_default();
    let binary = fd::document(bundle.join("runtime")).unwrap_or_default();
    if let Ok(binary) = String::from_utf8(binary)
        && !binary.is_empty()
    {
        options.binary_name = binary;
    }
    runtime(&options, namespace, bundle)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        serde_json::from_str(text).expect("a configuration")
    }

    #[test]
    fn a_pod_is_found_by_either_annotation() {
        assert_eq!(config("{}").group("web"), "web");
        let kubernetes = r#"{"annotations": {"io.kubernetes.cri.sandbox-id": "pod"}}"#;
        assert_eq!(config(kubernetes).group("web"), "pod");
        let both = r#"{"annotations": {"io.kubernetes.cri.sandbox-id": "pod", "io.containerd.runc.v2.group": "g"}}"#;
        assert_eq!(config(both).group("web"), "g");
    }

    #[test]
    fn a_pid_namespace_is_its_own_when_it_has_no_path() {
        let with = |pid: &str| config(&format!(r#"{{"linux": {{"namespaces": [{{"type": "mount"}}{pid}]}}}}"#));
        assert!(with("").shares_pids());
        assert!(!with(r#", {"type": "pid"}"#).shares_pids());
        assert!(with(r#", {"type": "pid", "path": "/proc/1/ns/pid"}"#).shares_pids());
        assert!(config(r#"{"annotations": null, "linux": null}"#).shares_pids());
    }

    #[test]
    fn what_is_remembered_makes_the_same_runtime() {
        let bundle = std::env::temp_dir().join(format!("windlass-bundle-{}", std::process::id()));
        std::fs::create_dir_all(&bundle).expect("a directory");
        let options =
            Options { binary_name: "sh".into(), systemd_cgroup: true, root: "/r".into(), ..Options::default() };
        let made = runtime(&options, "ns", &bundle).expect("sh is in PATH");
        assert!(made.global.starts_with(&["--root".into(), "/r/ns".into()]));
        remember(&bundle, &options, &made).expect("written");
        assert_eq!(remembered(&bundle, "ns").ok(), Some(made));
        std::fs::remove_dir_all(&bundle).expect("removed");
    }
}
