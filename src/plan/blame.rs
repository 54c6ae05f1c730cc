//! Finds the innermost member of the configuration that is to blame for a failed call.
//!
//! A step knows only the whole element that asked for it: `/mounts/3`. The failed call shows the member: fsconfig(2)
//! names the option, fsopen(2) the type, a lookup concerns the destination.

use windlass_base::error::Errno;

use windlass_base::error::{Error, Origin};
use windlass_base::spec::{Mount, Spec};

use crate::mount_options;
use crate::mounts::option;

/// The pointer of the member, if the call shows more than the error's own pointer.
pub fn innermost(error: &Error, spec: &Spec) -> Option<String> {
    let Some(Origin::Config(pointer)) = error.origin() else { return None };
    let (call, rest) = error.call()?.split_once('(')?;
    let errno = error.errno();
    if let Some(index) = pointer.strip_prefix("/mounts/").and_then(|index| index.parse::<usize>().ok()) {
        return mount(pointer, spec.mounts.get(index)?, call, rest, errno, spec);
    }
    let list = |name: &str| pointer.as_ref() == name;
    match call {
        // A namespace that cannot be joined is the fault of its path.
        "setns" if pointer.starts_with("/linux/namespaces/") => Some(format!("{pointer}/path")),
        "sched_setattr" if list("/process/scheduler") && errno == Some(Errno::EINVAL) => {
            let deadline = spec.process.as_ref()?.scheduler.as_ref()?.policy == "SCHED_DEADLINE";
            Some(format!("{pointer}/{}", if deadline { "runtime" } else { "priority" }))
        }
        "sched_setattr" if list("/process/scheduler") => Some(format!("{pointer}/policy")),
        "ioprio_set" if list("/process/ioPriority") => Some(format!("{pointer}/class")),
        "set_mempolicy" if list("/linux/memoryPolicy") => Some(format!("{pointer}/nodes")),
        "personality" if list("/linux/personality") => Some(format!("{pointer}/domain")),
        _ => None,
    }
}

fn mount(
    pointer: &str,
    mount: &Mount,
    call: &str,
    arguments: &str,
    errno: Option<Errno>,
    spec: &Spec,
) -> Option<String> {
    let member = |name: &str| Some(format!("{pointer}/{name}"));
    // The arguments are printed as strace does: kind, command, key in quotes, value.
    let key = arguments.split(", ").nth(2).and_then(|key| key.split('"').nth(1));
    match call {
        "fsopen" => member("type"),
        "fsconfig" if arguments.contains("FSCONFIG_SET") => {
            let key = key?;
            let label = spec.linux.as_ref().is_some_and(|linux| !linux.mount_label.is_empty());
            match option(pointer, mount, key) {
                _ if key == "source" => member("source"),
                found if found.ends_with("/options") && key == "context" && label => Some("/linux/mountLabel".into()),
                found => Some(found),
            }
        }
        // The filesystem does not say which of its options it did not like.
        "fsconfig" | "mount" if errno == Some(Errno::EINVAL) => {
            let mut own = mount.options.iter().enumerate().filter(|(_, word)| mount_options::effect(word).is_none());
            match (own.next(), own.next()) {
                (Some((index, _)), None) => Some(format!("{pointer}/options/{index}")),
                (Some(_), Some(_)) => member("options"),
                (None, _) => None,
            }
        }
        "fsconfig" | "mount" if matches!(errno, Some(Errno::ENODEV)) => member("type"),
        "fsconfig" | "mount" if matches!(errno, Some(Errno::ENOENT | Errno::ENOTBLK)) && !mount.source.is_empty() => {
            member("source")
        }
        "openat2" | "openat" | "mkdirat" | "mknodat" | "move_mount" => member("destination"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_base::error::SyscallError;

    fn spec(text: &str) -> Spec {
        windlass_base::spec::parse(text.as_bytes(), "config.json").expect("valid")
    }

    #[test]
    fn a_failed_call_names_the_member_of_the_mount() {
        let spec = spec(
            r#"{"mounts": [{"destination": "/a", "type": "tmpfs", "source": "x", "options": ["nosuid", "mode=8", "uid=0,size=7q"]},
                           {"destination": "/b", "type": "ext9", "options": ["ro", "bogus"]}],
                "linux": {"mountLabel": "l"}}"#,
        );
        for (pointer, call, errno, want) in [
            (
                "/mounts/0",
                "fsconfig(tmpfs, FSCONFIG_SET_STRING, \"size\", \"7q\")",
                Errno::EINVAL,
                "/mounts/0/options/2",
            ),
            (
                "/mounts/0",
                "fsconfig(tmpfs, FSCONFIG_SET_STRING, \"mode\", \"8\")",
                Errno::EINVAL,
                "/mounts/0/options/1",
            ),
            ("/mounts/1", "fsconfig(ext9, FSCONFIG_SET_FLAG, \"bogus\")", Errno::EINVAL, "/mounts/1/options/1"),
            (
                "/mounts/0",
                "fsconfig(tmpfs, FSCONFIG_SET_STRING, \"context\", \"l\")",
                Errno::EINVAL,
                "/linux/mountLabel",
            ),
            ("/mounts/0", "fsconfig(tmpfs, FSCONFIG_SET_STRING, \"source\", \"x\")", Errno::EINVAL, "/mounts/0/source"),
            ("/mounts/1", "fsconfig(ext9, FSCONFIG_CMD_CREATE)", Errno::EINVAL, "/mounts/1/options/1"),
            ("/mounts/0", "fsconfig(tmpfs, FSCONFIG_CMD_CREATE)", Errno::EINVAL, "/mounts/0/options"),
            ("/mounts/1", "fsopen(\"ext9\")", Errno::ENODEV, "/mounts/1/type"),
            ("/mounts/1", "openat2(5, \"b\", O_PATH)", Errno::ELOOP, "/mounts/1/destination"),
            ("/mounts/1", "mkdirat(5, \"b\")", Errno::ENAMETOOLONG, "/mounts/1/destination"),
            ("/mounts/1", "move_mount(5, 6)", Errno::ENOTDIR, "/mounts/1/destination"),
        ] {
            let error = SyscallError { call: call.into(), errno }.context("it").with_origin(Origin::config(pointer));
            assert_eq!(innermost(&error, &spec).as_deref(), Some(want), "{call}");
        }
    }

    #[test]
    fn what_is_named_already_or_not_known_stays() {
        let spec = spec(r#"{"mounts": [{"destination": "/a"}]}"#);
        for (pointer, call) in
            [("/mounts/0/source", "openat2(3)"), ("/mounts/0", "read(3)"), ("/root/path", "openat2(3)")]
        {
            let error = SyscallError { call: call.into(), errno: Errno::ENOENT }
                .context("it")
                .with_origin(Origin::config(pointer));
            assert_eq!(innermost(&error, &spec), None, "{call}");
        }
        assert_eq!(innermost(&Error::usage("no"), &spec), None);
    }
}
