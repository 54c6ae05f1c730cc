//! The table of errors by system call, `integration/sweep/errnos`, and which of them are answers,
//! `integration/sweep/answers`.

use super::calls;
use super::peers::glob;
use nix::errno::Errno;
use std::collections::BTreeMap;

const TEXT: &str = include_str!("../../sweep/errnos");

const ANSWERS: &str = include_str!("../../sweep/answers");

/// The errors of each call, or the reason why it has none; and which errors are answers.
pub struct Table {
    rows: BTreeMap<String, Result<Vec<Errno>, String>>,
    answers: Vec<Answer>,
}

/// An error by which a verb learns something, and goes another way.
struct Answer {
    /// The call, or `*`.
    call: String,
    /// `None`: whatever it is.
    errno: Option<Errno>,
    /// A pattern of what is then seen.
    seen: String,
}

impl Table {
    /// Reads the table.
    pub fn load() -> Result<Table, String> {
        Ok(Table { answers: answers(ANSWERS)?, ..Table::parse(TEXT)? })
    }

    fn parse(text: &str) -> Result<Table, String> {
        let mut rows = BTreeMap::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (call, rest) = line.split_once(' ').ok_or(format!("a row with one word: {line}"))?;
            let row = match rest.trim().strip_prefix('-') {
                Some(reason) if !reason.trim().is_empty() => Err(reason.trim().to_owned()),
                Some(_) => return Err(format!("no reason: {line}")),
                None => Ok(rest.split_whitespace().map(errno).collect::<Result<Vec<_>, _>>()?),
            };
            if rows.insert(call.to_owned(), row).is_some() {
                return Err(format!("{call} has two rows"));
            }
        }
        Ok(Table { rows, answers: Vec::new() })
    }

    /// Whether what was seen after this error, `SCENARIO KIND OF FAULT: TEXT`, is the other way that the verb goes by it.
    /// What cannot be removed never is.
    pub fn is_answer(&self, call: &str, errno: Errno, seen: &str) -> bool {
        if seen.contains(" left after delete --force: ") {
            return false;
        }
        let is_it = |answer: &Answer| {
            glob(&answer.call, call) && answer.errno.is_none_or(|known| known == errno) && glob(&answer.seen, seen)
        };
        self.answers.iter().any(is_it)
    }

    /// The errors of a call; empty if it cannot fail. `Err` if the call has no row.
    pub fn errors(&self, call: &str) -> Result<&[Errno], String> {
        let row = self.rows.get(call).or_else(|| self.rows.get(calls::base(call)));
        match row {
            Some(Ok(errors)) => Ok(errors),
            Some(Err(_)) => Ok(&[]),
            None => Err(format!("{call} has no row in integration/sweep/errnos")),
        }
    }
}

/// The rows `CALL ERRNO | SEEN | REASON`.
fn answers(text: &str) -> Result<Vec<Answer>, String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let answer = |line: &str| {
        let parts: Vec<&str> = line.split('|').map(str::trim).collect();
        let [what, seen, reason] = parts[..] else { return Err(format!("not three columns: {line}")) };
        let (call, name) = what.split_once(' ').ok_or(format!("no error: {line}"))?;
        if seen.is_empty() || reason.is_empty() {
            return Err(format!("an empty column: {line}"));
        }
        let error = if name.trim() == "*" { None } else { Some(errno(name.trim())?) };
        Ok(Answer { call: call.to_owned(), errno: error, seen: format!("*{seen}*") })
    };
    lines.map(answer).collect()
}

/// The error of this name.
pub fn errno(name: &str) -> Result<Errno, String> {
    let known = (1..134).map(Errno::from_raw).find(|errno| format!("{errno:?}") == name);
    known.ok_or_else(|| format!("{name} is no errno"))
}

#[cfg(test)]
mod tests {
    use super::{Table, answers};
    use nix::errno::Errno;

    #[test]
    fn the_file_is_well_formed() {
        let table = Table::load().expect("the table");
        assert!(table.errors("close").expect("a row").is_empty());
        assert_eq!(table.errors("openat").expect("a row")[0], Errno::EMFILE);
    }

    #[test]
    fn a_request_without_a_row_has_that_of_its_call() {
        let table = Table::parse("fcntl EAGAIN\nfcntl:F_GETFD - never").expect("a table");
        assert_eq!(table.errors("fcntl:F_SETFL").expect("a row"), [Errno::EAGAIN]);
        assert!(table.errors("fcntl:F_GETFD").expect("a row").is_empty());
        assert!(table.errors("ioctl:1").is_err());
    }

    #[test]
    fn mistakes_are_named() {
        for (text, part) in [("open", "one word"), ("open -", "no reason"), ("open EMOON", "EMOON")] {
            assert!(Table::parse(text).err().is_some_and(|error| error.contains(part)), "{text}");
        }
        assert!(Table::parse("a EIO\na EIO").err().is_some_and(|error| error.contains("two rows")));
    }

    #[test]
    fn an_answer_is_one_for_what_is_seen_by_it() {
        let mut table = Table::parse("mknodat ENOSPC EPERM").expect("a table");
        table.answers = answers("# a comment\nmknodat EPERM | run/*: * /dev/ | it is bound").expect("an answer");
        let is_answer = |call, errno, seen| table.is_answer(call, errno, seen);
        assert!(is_answer("mknodat", Errno::EPERM, "run/plain succeeds: new /dev/null"));
        for (call, errno, seen) in [
            ("mknodat", Errno::EPERM, "run/plain succeeds: new /proc"),
            ("mknodat", Errno::EPERM, "create/plain succeeds: new /dev/null"),
            ("mknodat", Errno::ENOSPC, "run/plain succeeds: new /dev/null"),
            ("mkdirat", Errno::EPERM, "run/plain succeeds: new /dev/null"),
        ] {
            assert!(!is_answer(call, errno, seen), "{call} {errno} {seen}");
        }
        for text in ["mknodat EPERM", "mknodat | a | b", "mknodat EPERM | | b", "mknodat EMOON | a | b"] {
            assert!(answers(text).is_err(), "{text}");
        }
    }
}
