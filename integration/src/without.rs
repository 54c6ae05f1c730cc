//! `--without-calls-since VERSION`: system calls of newer kernels answer ENOSYS.
//!
//! This hides system calls alone. Flags, ioctls, file systems, files in `/proc` and `/sys` and whatever else a
//! newer kernel has stay there, so a suite that passes has shown the fallbacks of calls and no more.

use crate::sys;
use std::process::Command;

/// The option.
pub const OPTION: &str = "--without-calls-since";

/// `number name version`, one a line.
const TABLE: &str = include_str!("../system-calls");

/// The calls that the table has and a kernel of a version has not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Without {
    version: (u32, u32),
    calls: Vec<(u32, &'static str)>,
}

impl Without {
    /// The calls that were added in this version or later: `5.13`. `Err` is the text to print.
    pub fn since(version: &str) -> Result<Without, String> {
        let version = parse(version).ok_or_else(|| format!("{version} is no version of Linux: 5.13"))?;
        let rows = TABLE.lines().filter(|line| !line.starts_with('#'));
        let row = |line: &'static str| {
            let mut words = line.split(' ');
            let (number, name) = (words.next()?.parse().ok()?, words.next()?);
            Some((number, name, parse(words.next()?)?))
        };
        let mut calls = Vec::new();
        for line in rows {
            let (number, name, since) = row(line).ok_or_else(|| format!("a row of the table of calls: {line}"))?;
            if since >= version {
                calls.push((number, name));
            }
        }
        if calls.is_empty() {
            return Err(format!("the table of calls has none since {}.{}", version.0, version.1));
        }
        Ok(Without { version, calls })
    }

    /// The option in the words of a runner.
    pub fn asked_for(words: &[String]) -> Option<Without> {
        let at = words.iter().position(|word| word == OPTION)?;
        Without::since(words.get(at + 1)?).ok()
    }

    /// Hides the calls from a command and all its descendants. The caller must be privileged.
    pub fn apply(&self, command: &mut Command) {
        let numbers: Vec<u32> = self.calls.iter().map(|(number, _)| *number).collect();
        sys::refuse_calls(command, &numbers, libc::ENOSYS as u32);
    }

    /// The description of the option in a report.
    pub fn describe(&self) -> String {
        let names: Vec<&str> = self.calls.iter().map(|(_, name)| *name).collect();
        let (major, minor) = self.version;
        format!(
            "without the {} system calls added in Linux {major}.{minor} or later: {}.\nFlags, ioctls and files of this \
            kernel are not hidden.",
            names.len(),
            names.join(", ")
        )
    }

    /// The version as it is written on the command line.
    pub fn version(&self) -> String {
        format!("{}.{}", self.version.0, self.version.1)
    }
}

fn parse(version: &str) -> Option<(u32, u32)> {
    let (major, minor) = version.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::Without;

    #[test]
    fn the_table_is_whole_and_in_order() {
        let all = Without::since("5.1").expect("all calls");
        let numbers: Vec<u32> = all.calls.iter().map(|(number, _)| *number).collect();
        let first = numbers[0];
        assert_eq!(numbers, (first..first + numbers.len() as u32).collect::<Vec<_>>());
        assert_eq!(first, 424);
    }

    #[test]
    fn the_numbers_are_those_of_the_kernels_headers() {
        let all = Without::since("5.1").expect("all calls");
        let number =
            |name: &str| all.calls.iter().find(|(_, known)| *known == name).map(|(number, _)| i64::from(*number));
        for (name, known) in [
            ("pidfd_send_signal", libc::SYS_pidfd_send_signal),
            ("open_tree", libc::SYS_open_tree),
            ("clone3", libc::SYS_clone3),
            ("openat2", libc::SYS_openat2),
            ("mount_setattr", libc::SYS_mount_setattr),
            ("process_mrelease", libc::SYS_process_mrelease),
            ("fchmodat2", libc::SYS_fchmodat2),
            ("mseal", libc::SYS_mseal),
        ] {
            assert_eq!(number(name), Some(known), "{name}");
        }
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        let names = |since: &str| Without::since(since).expect("a version").calls.len();
        assert!(names("5.2") > names("5.10") && names("5.10") > names("6.1"));
        assert!(Without::since("5").is_err() && Without::since("five.one").is_err() && Without::since("99.0").is_err());
    }
}
