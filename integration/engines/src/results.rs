//! The outcome of a run as a file, from which the table of the README is made.

use crate::args::Args;
use crate::engine::Engine;
use integration::event::CaseOutcome;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::{fs, io};

/// How a case ended on one column.
pub struct Cell {
    /// The outcome.
    pub outcome: CaseOutcome,
    /// Why it failed or was skipped.
    pub text: String,
    /// The harness of the case: `host`, `uml`, or `-` for none.
    pub harness: String,
}

/// The outcomes by case and column.
pub type Table = BTreeMap<String, BTreeMap<String, Cell>>;

/// All outcomes of a run.
#[derive(Default)]
pub struct Results {
    /// The outcomes.
    pub table: Table,
}

impl Results {
    /// Writes the outcome of these engines of a Debian release to `path`. Other outcomes in the file stay, and after a
    /// run of chosen cases those of its other cases, if they are of the same programs.
    pub fn save(&self, path: &Path, args: &Args, engines: &[Engine]) -> io::Result<()> {
        let mut file: Value = match fs::read_to_string(path) {
            Ok(text) => serde_json::from_str(&text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => json!({}),
            Err(error) => return Err(error),
        };
        let date = first_line(Command::new("date").args(["-u", "+%F"]));
        for engine in engines {
            let prefix = format!("{}::", engine.name());
            let rows = self.table.iter().filter_map(|(case, row)| Some((case.strip_prefix(&prefix)?, row)));
            let cases: BTreeMap<&str, Value> = rows.map(|(case, row)| (case, cells(row))).collect();
            let version = |name: &str, path: &Path| {
                format!("{name} {}", number(&first_line(Command::new(path).arg("--version"))))
            };
            let programs = engine.programs().iter().copied().chain(["runc"]);
            let mut versions: Vec<String> = programs.map(|name| version(name, name.as_ref())).collect();
            versions.push(version("windlass", &args.runtime));
            versions.push(format!("Linux {}", number(&integration::kit::machine::text("/proc/sys/kernel/osrelease"))));
            let known = &mut file[&args.release][engine.name()];
            let run = json!({"date": date, "versions": versions, "cases": cases});
            *known = if args.filters.is_empty() { run } else { joined(known.take(), run) };
        }
        fs::write(path, serde_json::to_string_pretty(&file)? + "\n")
    }
}

/// A run of a part of the cases over an earlier one of the same programs, with the days of both.
fn joined(mut known: Value, part: Value) -> Value {
    if known["versions"] != part["versions"] {
        return part;
    }
    let day = part["date"].as_str().unwrap_or_default();
    let days = known["date"].as_str().unwrap_or_default();
    if !days.split(", ").any(|other| other == day) {
        known["date"] = format!("{days}, {day}").into();
    }
    for (case, row) in part["cases"].as_object().into_iter().flatten() {
        for (label, cell) in row.as_object().into_iter().flatten() {
            known["cases"][case][label] = cell.clone();
        }
    }
    known
}

/// By column, the outcome and the harness.
fn cells(row: &BTreeMap<String, Cell>) -> Value {
    let text = |cell: &Cell| match cell.outcome {
        CaseOutcome::Pass | CaseOutcome::Fail => format!("{} {}", cell.outcome.name(), cell.harness),
        CaseOutcome::Skip | CaseOutcome::Defer => cell.outcome.name().to_owned(),
    };
    row.iter().map(|(label, cell)| (label.clone(), Value::from(text(cell)))).collect()
}

/// The first number with a dot in it: containerd 2 names its module, which ends in "v2", before its version.
fn number(text: &str) -> String {
    let mut numbers = text.split(|letter: char| !letter.is_ascii_digit() && letter != '.');
    let dotted = |number: &&str| !number.starts_with('.') && number.contains('.');
    numbers.find(dotted).unwrap_or_default().to_owned()
}

fn first_line(command: &mut Command) -> String {
    let output = command.output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::{joined, number};
    use serde_json::{Value, json};

    #[test]
    fn a_part_of_the_cases_is_written_over_those_of_the_same_programs() {
        let run =
            |date: &str, version: &str, cases: Value| json!({"date": date, "versions": [version], "cases": cases});
        let known = || run("2026-01-02", "podman 5", json!({"life::a": {"runc": "pass"}, "life::b": {"runc": "FAIL"}}));
        let part = |version: &str| run("2026-01-03", version, json!({"life::b": {"crun": "pass"}}));
        let both = joined(known(), part("podman 5"));
        let cases = json!({"life::a": {"runc": "pass"}, "life::b": {"crun": "pass", "runc": "FAIL"}});
        assert_eq!(both, run("2026-01-02, 2026-01-03", "podman 5", cases));
        assert_eq!(joined(both.clone(), part("podman 5")), both, "a day is named once");
        assert_eq!(joined(known(), part("podman 6")), part("podman 6"));
        assert_eq!(joined(Value::Null, part("podman 6")), part("podman 6"));
    }

    #[test]
    fn the_version_is_found_in_what_a_program_says_of_itself() {
        for (said, version) in [
            ("containerd github.com/containerd/containerd/v2 2.1.9~ds1-1 2.1.9~ds1-1+b1", "2.1.9"),
            ("containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u1", "1.6.20"),
            ("Docker version 20.10.24+dfsg1, build 297e128", "20.10.24"),
            ("podman version 5.8.6", "5.8.6"),
            ("", ""),
        ] {
            assert_eq!(number(said), version, "{said:?}");
        }
    }
}
