//! A point of a recording, and the action there.

use super::errnos;
use nix::errno::Errno;
use std::fmt::{self, Display};
use std::str::FromStr;

/// A system call of a process of a command, described so that it is found in another run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point {
    /// The process: `main`, and `main.n` for its n-th child. A process that existed before has its given name.
    pub process: String,
    /// The name of the call.
    pub call: String,
    /// The number of the call among the calls of its name in this process, from 1.
    pub nth: u32,
}

impl Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}#{}", self.process, self.call, self.nth)
    }
}

impl FromStr for Point {
    type Err = String;

    fn from_str(text: &str) -> Result<Point, String> {
        let parts = text.split_once('/').and_then(|(process, rest)| Some((process, rest.rsplit_once('#')?)));
        let (process, (call, nth)) = parts.ok_or_else(|| format!("{text} is no point"))?;
        let nth = nth.parse().map_err(|_| format!("{text} is no point"))?;
        Ok(Point { process: process.to_owned(), call: call.to_owned(), nth })
    }
}

/// The injection at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The call is not made and returns this.
    Fail(Errno),
    /// The process gets SIGKILL before the call is made.
    Kill,
}

impl Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Fail(errno) => write!(f, "{errno:?}"),
            Action::Kill => f.write_str("SIGKILL"),
        }
    }
}

impl FromStr for Action {
    type Err = String;

    fn from_str(text: &str) -> Result<Action, String> {
        if text == "SIGKILL" { Ok(Action::Kill) } else { errnos::errno(text).map(Action::Fail) }
    }
}

#[cfg(test)]
mod tests {
    use super::{Action, Point};
    use nix::errno::Errno;

    #[test]
    fn a_point_survives_its_text() {
        for text in ["main/openat#3", "main.1.2/fcntl:F_GETFD#1", "init/prctl:PR_CAPBSET_DROP#41"] {
            assert_eq!(text.parse::<Point>().expect("a point").to_string(), text);
        }
        for text in ["main", "main/openat", "main/openat#x"] {
            assert!(text.parse::<Point>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_action_survives_its_text() {
        for action in [Action::Kill, Action::Fail(Errno::EMFILE)] {
            assert_eq!(action.to_string().parse::<Action>(), Ok(action));
        }
    }
}
