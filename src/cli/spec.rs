//! `spec`: a config.json to start from, equivalent to the one that `runc spec` writes.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use windlass_base::error::{Error, Kind, Result, WithContext};

/// The user that the configuration is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpecUser {
    /// root of the host.
    Root,
    /// A user without privileges, who is root of the container's user namespace.
    User { uid: u32, gid: u32 },
}

/// The text of config.json; `name` becomes the hostname.
pub fn text(name: &str, user: SpecUser) -> String {
    match user {
        SpecUser::Root => include_str!("config.json").replace("@NAME@", name),
        SpecUser::User { uid, gid } => include_str!("config-rootless.json")
            .replace("@NAME@", name)
            .replace("@UID@", &uid.to_string())
            .replace("@GID@", &gid.to_string()),
    }
}

/// Writes config.json into `bundle`. Fails if there is one.
pub fn write(bundle: &Path, text: &str) -> Result<()> {
    let path = bundle.join("config.json");
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o666).open(&path);
    if opened.as_ref().is_err_and(|error| error.kind() == ErrorKind::AlreadyExists) {
        return Err(Error::new(Kind::AlreadyExists, "File config.json exists. Remove it first"));
    }
    opened.and_then(|mut file| file.write_all(text.as_bytes())).with_context(|| format!("cannot write {path:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_base::spec::Spec;

    fn parsed(user: SpecUser) -> Spec {
        windlass_base::spec::parse(text("windlass", user).as_bytes(), "config.json").expect("valid")
    }

    #[test]
    fn both_variants_are_valid_and_differ_where_they_must() {
        let (root, user) = (parsed(SpecUser::Root), parsed(SpecUser::User { uid: 1000, gid: 100 }));
        let kinds = |spec: &Spec| -> Vec<String> {
            spec.linux.iter().flat_map(|linux| &linux.namespaces).map(|it| it.kind.clone()).collect()
        };
        assert_eq!(kinds(&root), ["pid", "network", "ipc", "uts", "mount", "cgroup"]);
        assert_eq!(kinds(&user), ["pid", "ipc", "uts", "mount", "cgroup", "user"]);
        let linux = user.linux.expect("there");
        assert_eq!((linux.uid_mappings[0].host_id, linux.gid_mappings[0].host_id), (1000, 100));
        assert!(linux.resources.is_none());
        assert_eq!(root.hostname, "windlass");
        assert_eq!(root.process.expect("there").args, ["sh"]);
    }

    #[test]
    fn no_capability_is_inheritable() {
        let capabilities = parsed(SpecUser::Root).process.expect("there").capabilities.expect("there");
        assert_eq!((capabilities.inheritable, capabilities.ambient), (None, None));
    }

    #[test]
    fn an_existing_file_is_left_alone() {
        let dir = std::env::temp_dir().join(format!("windlass-spec-{}", std::process::id()));
        std::fs::create_dir(&dir).expect("fresh");
        write(&dir, "one").expect("empty directory");
        let error = write(&dir, "two").expect_err("taken");
        let text = std::fs::read_to_string(dir.join("config.json")).expect("there");
        std::fs::remove_dir_all(&dir).expect("ours");
        assert_eq!(error.message(), "File config.json exists. Remove it first");
        assert_eq!(text, "one");
    }
}
