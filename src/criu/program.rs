//! The program CRIU: how it is found, and its supported versions.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use windlass_base::error::{Error, Kind, Origin, Result};

use crate::message::Version;

/// The oldest version that is supported, as [`Version::number`].
const OLDEST: i32 = 40_100;

/// Finds CRIU. `named` is `--criu`: a path, or a name to look for; without it the name is `criu`. `path` is PATH.
/// Relative entries are left out, since they mean another program in each directory.
pub fn find(named: Option<&OsStr>, path: Option<&OsStr>) -> Result<PathBuf> {
    let name = Path::new(named.unwrap_or(OsStr::new("criu")));
    let found = if name.components().count() > 1 {
        std::path::absolute(name).ok().filter(|path| is_program(path))
    } else {
        let directories = std::env::split_paths(path.unwrap_or_default());
        directories.filter(|directory| directory.is_absolute()).map(|it| it.join(name)).find(|path| is_program(path))
    };
    found.ok_or_else(|| {
        let name = name.display();
        let error = Error::new(Kind::Unsupported, format!("{name}: executable file not found in $PATH"));
        let error = if named.is_some() { error.with_origin(Origin::Flag("--criu".into())) } else { error };
        error.with_hint(
            "checkpoint and restore need the program of the package criu, 4.1 or later; --criu says where it is",
        )
    })
}

fn is_program(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// Refuses a version that is too old.
pub fn check_version(version: &Version) -> Result<()> {
    if version.number() >= OLDEST {
        return Ok(());
    }
    let msg = format!("CRIU version {version} must be 4.1 or higher");
    Err(Error::new(Kind::Unsupported, msg).with_hint("install a newer criu, or name one by --criu"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_program_at_an_absolute_place_is_found() {
        let path = OsStr::new("usr/bin:/nowhere:/usr/bin:/bin");
        let found = find(Some(OsStr::new("sh")), Some(path)).expect("there is a shell");
        assert!(found.is_absolute() && found.ends_with("sh"), "{found:?}");
        assert_eq!(find(Some(OsStr::new("/bin/sh")), None).expect("by its path"), Path::new("/bin/sh"));
        for (named, path) in [(None, Some("/nowhere")), (Some("/etc/passwd"), None), (Some("/etc"), None)] {
            let error = find(named.map(OsStr::new), path.map(OsStr::new)).expect_err("not there");
            assert!(error.message().ends_with(": executable file not found in $PATH"), "{error}");
            assert!(error.hint().is_some());
        }
    }

    #[test]
    fn an_old_version_is_refused_by_its_number() {
        let version = |major, minor, sublevel| Version {
            major: Some(major),
            minor: Some(minor),
            sublevel: Some(sublevel),
            ..Version::default()
        };
        assert!(check_version(&version(4, 1, 0)).is_ok() && check_version(&version(5, 0, 0)).is_ok());
        let error = check_version(&version(3, 17, 1)).expect_err("too old");
        assert_eq!(error.message(), "CRIU version 3.17.1 must be 4.1 or higher");
        assert!(check_version(&version(4, 0, 9)).is_err());
    }
}
