//! `ociVersion`: the version of the specification that a configuration follows.

/// The numbers of a version that decide the meaning of a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// First number.
    pub major: u32,
    /// Second number.
    pub minor: u32,
}

impl Version {
    /// From this version on a `pids.limit` of 0 is a limit; before it, 0 means no limit.
    pub const PIDS_LIMIT_OF_ZERO: Version = Version { major: 1, minor: 3 };

    /// Reads SemVer 2.0.0, which the specification requires, also with the `v` that some programs put before it.
    /// Returns `None` if it does not begin with two numbers.
    pub fn read(text: &str) -> Option<Version> {
        let mut numbers = text.strip_prefix('v').unwrap_or(text).splitn(3, '.').map(|part| {
            let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
            part[..digits].parse::<u32>().ok()
        });
        Some(Version { major: numbers.next()??, minor: numbers.next()?? })
    }
}

#[cfg(test)]
mod tests {
    use super::Version;

    #[test]
    fn two_numbers_make_a_version() {
        let version = |major, minor| Some(Version { major, minor });
        for (text, want) in [
            ("1.0.2", version(1, 0)),
            ("v1.0.2", version(1, 0)),
            ("1.2.0-rc.1+dev", version(1, 2)),
            ("1.3", version(1, 3)),
            ("2.0.0", version(2, 0)),
            ("1", None),
            ("", None),
            ("v", None),
            ("vv1.0.0", None),
            ("one.two", None),
            ("99999999999.0.0", None),
        ] {
            assert_eq!(Version::read(text), want, "{text:?}");
        }
        assert!(version(1, 10) > version(1, 3) && version(1, 2) < Some(Version::PIDS_LIMIT_OF_ZERO));
    }
}
