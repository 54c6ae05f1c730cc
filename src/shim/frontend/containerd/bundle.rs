//! The files in a bundle: the members of `config.json` that a shim needs, and the files in which the shim stores its
//! options for `delete`.
//!
//! `runtime` and `options.json` have the names and the content that containerd's own shim gives them, so that the
//! `delete` of each shim cleans up after the other.

use std::path::{Path, PathBuf};

use super::error::Error;
use super::message::options::Options;
use crate::Runtime;
use crate::exit;
use windlass_base::spec::Outline;
use windlass_sys::fd;
use windlass_sys::fd::Durability;

/// The default directory of the runtime's state, with a directory for each namespace.
const ROOT: &str = "/run/containerd/runc";

/// The exit record of init.
pub(super) fn exit_file(bundle: &Path) -> PathBuf {
    bundle.join("exit.json")
}

/// The file into which the runtime writes the process id of init.
pub(super) fn pid_file(bundle: &Path) -> PathBuf {
    bundle.join("init.pid")
}

/// The file into which the runtime of a living shim logs its errors.
pub(super) fn log_file(bundle: &Path) -> PathBuf {
    bundle.join("log.json")
}

/// The mount point of the root filesystem.
pub(super) fn rootfs(bundle: &Path) -> PathBuf {
    bundle.join("rootfs")
}

/// The annotations that name the pod of a container. The first that exists counts.
const GROUPS: [&str; 2] = ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"];

/// Reads the bundle's `config.json`.
pub(super) fn config(bundle: &Path) -> Result<Outline, Error> {
    let path = bundle.join("config.json");
    let named = |failed: windlass_base::error::SyscallError| Error::from(failed).context(path.display().to_string());
    let text = fd::document(&path).map_err(named)?;
    Outline::read(&text).map_err(|error| Error::Document(path, error))
}

/// The id of the pod of the container `id`, or `id` itself.
pub(super) fn group<'a>(config: &'a Outline, id: &'a str) -> &'a str {
    GROUPS.iter().find_map(|name| config.annotation(name)).unwrap_or(id)
}

/// The state root of the runtime.
pub(super) fn root(options: &Options, namespace: &str) -> PathBuf {
    let root = if options.root.is_empty() { ROOT } else { &options.root };
    Path::new(root).join(namespace)
}

/// The runtime that the options ask for. Without a `log`, its errors are read from standard error alone.
pub(super) fn runtime(options: &Options, namespace: &str, log: Option<PathBuf>) -> Result<Runtime, Error> {
    let binary = match options.binary_name.as_str() {
        "" => Runtime::find().ok_or_else(|| Error::Invalid("neither windlass nor runc is in PATH".into()))?,
        name => Runtime::lookup(name.as_ref())
            .ok_or_else(|| Error::Invalid(format!("{name:?}: executable file not found in $PATH")))?,
    };
    let mut global = vec!["--root".into(), root(options, namespace).into_os_string()];
    if let Some(log) = &log {
        global.extend(["--log".into(), log.into(), "--log-format".into(), "json".into()]);
    }
    if options.systemd_cgroup {
        global.push("--systemd-cgroup".into());
    }
    Ok(Runtime { binary, global, log })
}

/// Stores the options for `delete`.
pub(super) fn remember(bundle: &Path, options: &Options, runtime: &Runtime) -> Result<(), Error> {
    let path = bundle.join("options.json");
    let text = serde_json::to_vec(options).map_err(|error| Error::Document(path.clone(), error))?;
    exit::put(&path, &text, Durability::Cached)?;
    Ok(exit::put(&bundle.join("runtime"), runtime.binary.as_os_str().as_encoded_bytes(), Durability::Cached)?)
}

/// The runtime of a container whose shim is gone, according to the stored options. It has no log, because the bundle may
/// be gone too.
pub(super) fn remembered(bundle: &Path, namespace: &str) -> Result<Runtime, Error> {
    let text = fd::document(bundle.join("options.json")).unwrap_or_default();
    let mut options: Options = serde_json::from_slice(&text).unwrap_or_default();
    let binary = fd::document(bundle.join("runtime")).unwrap_or_default();
    if let Ok(binary) = String::from_utf8(binary)
        && !binary.is_empty()
    {
        options.binary_name = binary;
    }
    runtime(&options, namespace, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_found_by_either_annotation() {
        let group_of = |text: &str| {
            let config = Outline::read(text.as_bytes()).expect("a configuration");
            group(&config, "web").to_owned()
        };
        assert_eq!(group_of("{}"), "web");
        let kubernetes = r#"{"annotations": {"io.kubernetes.cri.sandbox-id": "pod"}}"#;
        assert_eq!(group_of(kubernetes), "pod");
        let both = r#"{"annotations": {"io.kubernetes.cri.sandbox-id": "pod", "io.containerd.runc.v2.group": "g"}}"#;
        assert_eq!(group_of(both), "g");
    }

    #[test]
    fn what_is_remembered_makes_the_same_runtime_without_its_log() {
        let bundle = std::env::temp_dir().join(format!("windlass-bundle-{}", std::process::id()));
        std::fs::create_dir_all(&bundle).expect("a directory");
        let options =
            Options { binary_name: "sh".into(), systemd_cgroup: true, root: "/r".into(), ..Options::default() };
        let made = runtime(&options, "ns", Some(log_file(&bundle))).expect("sh is in PATH");
        assert!(made.global.starts_with(&["--root".into(), "/r/ns".into(), "--log".into()]));
        remember(&bundle, &options, &made).expect("written");
        let global = ["--root", "/r/ns", "--systemd-cgroup"].map(Into::into).to_vec();
        let expected = Runtime { global, log: None, ..made };
        assert_eq!(remembered(&bundle, "ns").ok(), Some(expected));
        std::fs::remove_dir_all(&bundle).expect("removed");
    }
}
