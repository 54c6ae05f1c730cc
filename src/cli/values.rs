//! The values of `--user` and `--cgroup` of `exec`.

use windlass_base::error::{Error, Result};
use windlass_plan::exec::User;

/// One `--cgroup` of `exec`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubCgroup {
    /// The controllers of cgroup v1 that it applies to; empty for all of them and for cgroup v2.
    pub controllers: Vec<String>,
    /// Path below the container's cgroup, without a leading slash.
    pub path: String,
}

/// `UID[:GID]`, in decimal. Any other text is an error, and never becomes 0 (CVE-2026-30892). 4294967295 is not an id:
/// for the kernel it means "none".
pub fn user(text: &str) -> Result<User> {
    let invalid = || Error::usage(format!("invalid user {text:?}: it must be UID[:GID] in decimal, below 4294967295"));
    let (uid, gid) = match text.split_once(':') {
        Some((uid, gid)) => (uid, Some(gid)),
        None => (text, None),
    };
    let uid = id(uid).ok_or_else(invalid)?;
    let gid = gid.map(|gid| id(gid).ok_or_else(invalid)).transpose()?;
    Ok(User { uid, gid })
}

/// A user or group id in decimal.
pub fn id(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|id| digits && *id != u32::MAX)
}

/// `[CONTROLLER[,CONTROLLER]:]PATH`. The path may not lead out of the container's cgroup.
pub fn sub_cgroup(text: &str) -> Result<SubCgroup> {
    let (controllers, path) = match text.split_once(':') {
        Some((controllers, path)) => (controllers.split(',').map(str::to_owned).collect(), path),
        None => (Vec::new(), text),
    };
    let path = path.trim_matches('/');
    let leaves = path.split('/').any(|part| part == ".." || part == ".");
    if leaves || path.chars().any(char::is_control) || controllers.iter().any(String::is_empty) {
        return Err(Error::usage(format!(
            "{text} is not a sub cgroup path: it must be [CONTROLLER:]PATH below the container's cgroup"
        )));
    }
    Ok(SubCgroup { controllers, path: path.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_exactly_what_was_written_or_an_error() {
        assert_eq!(user("1").expect("valid"), User { uid: 1, gid: None });
        assert_eq!(user("1:0").expect("valid"), User { uid: 1, gid: Some(0) });
        assert_eq!(user("4294967294:4294967294").expect("valid"), User { uid: u32::MAX - 1, gid: Some(u32::MAX - 1) });
        let wrong = [
            "",
            ":",
            "1:",
            ":1",
            "1 ",
            " 1",
            "-1",
            "+1",
            "1:abc",
            "root",
            "4294967295",
            "4294967296",
            "1:2:3",
            "0x1",
            "1\n",
        ];
        for text in wrong {
            assert!(user(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_sub_cgroup_stays_below_the_container() {
        assert_eq!(sub_cgroup("/a/b").expect("valid"), SubCgroup { controllers: vec![], path: "a/b".into() });
        assert_eq!(
            sub_cgroup("cpu,cpuacct:/a").expect("valid"),
            SubCgroup { controllers: vec!["cpu".into(), "cpuacct".into()], path: "a".into() }
        );
        for text in ["..", "a/../b", "cpu:../..", "a\nb", ":a", "./a"] {
            assert!(sub_cgroup(text).is_err(), "{text:?}");
        }
    }
}
