//! The table of errors by system call, `integration/sweep/errnos`.

use super::calls;
use nix::errno::Errno;
use std::collections::BTreeMap;

const TEXT: &str = include_str!("../../sweep/errnos");

/// The errors of each call, or the reason why it has none.
pub struct Table {
    rows: BTreeMap<String, Result<Vec<Errno>, String>>,
}

impl Table {
    /// Reads the table.
    pub fn load() -> Result<Table, String> {
        Table::parse(TEXT)
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
        Ok(Table { rows })
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

/// The error of this name.
pub fn errno(name: &str) -> Result<Errno, String> {
    let known = (1..134).map(Errno::from_raw).find(|errno| format!("{errno:?}") == name);
    known.ok_or_else(|| format!("{name} is no errno"))
}

#[cfg(test)]
mod tests {
    use super::Table;
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
}
