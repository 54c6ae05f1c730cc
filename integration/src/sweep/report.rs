//! The summary: a row for each scenario, and the faults.

use super::result::{ANSWERED, FAILED, KILLED, Line, TOLERATED, UNNAMED, UNREACHED};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display};

/// The counts of a scenario.
#[derive(Clone, Debug, Default)]
struct Row {
    calls: u64,
    infallible: u64,
    counts: BTreeMap<String, u64>,
    faults: u64,
    /// Milliseconds.
    took: u64,
}

impl Row {
    fn count(&self, outcome: &str) -> u64 {
        self.counts.get(outcome).copied().unwrap_or(0)
    }

    fn points(&self) -> u64 {
        self.counts.values().sum::<u64>() + self.faults
    }

    fn reached(&self) -> u64 {
        self.points() - self.count(UNREACHED)
    }

    /// The share that was reached, in thousandths.
    fn share(&self) -> u64 {
        (self.reached() * 1000).checked_div(self.points()).unwrap_or(0)
    }

    fn add(&mut self, other: &Row) {
        self.calls += other.calls;
        self.infallible += other.infallible;
        self.faults += other.faults;
        self.took += other.took;
        for (name, count) in &other.counts {
            *self.counts.entry(name.clone()).or_insert(0) += count;
        }
    }
}

/// The results of a sweep.
#[derive(Default)]
pub struct Report {
    rows: BTreeMap<String, Row>,
    faults: Vec<Line>,
    unreached: Vec<String>,
    slow: Vec<(u64, String)>,
    /// The rows of `answers` that were used.
    answers: BTreeSet<String>,
}

/// Milliseconds after which an injection is slow, and the number of slow ones that are shown.
const SLOW: (u64, usize) = (1000, 20);

/// The percentage of points that must be reached.
const REACHED: u64 = 99;

/// Prefixes of scenario names for which the reached share is reported: all, some verbs, the shim.
const GROUPS: &[&str] = &["", "run/", "exec", "delete", "shim-"];

impl Report {
    /// Adds a line, and shows it if it is new and worth reading.
    pub fn take(&mut self, line: Line, show: bool) {
        let row = self.rows.entry(line.scenario().to_owned()).or_default();
        if let Line::Injected { key, took, .. } = &line {
            row.took += took;
            if *took > SLOW.0 {
                self.slow.push((*took, key.clone()));
            }
        }
        match &line {
            Line::Recorded { calls, infallible, points, scenario } => {
                (row.calls, row.infallible) = (*calls, *infallible);
                if show {
                    println!("      {scenario}: {calls} calls, {points} injections");
                }
                return;
            }
            Line::Injected { outcome, key, text, .. } if !line.is_fault() => {
                *row.counts.entry(outcome.clone()).or_insert(0) += 1;
                if outcome == ANSWERED {
                    self.answers.insert(text.clone());
                }
                if outcome == UNREACHED {
                    self.unreached.push(key.clone());
                }
                return;
            }
            _ => row.faults += 1,
        }
        if show {
            show_fault(&line);
        }
        self.faults.push(line);
    }

    /// Adds a fault for each of these rows of `answers` that no injection has used.
    pub fn expect<'a>(&mut self, rows: impl Iterator<Item = &'a str>) {
        let unused: Vec<&str> = rows.filter(|row| !self.answers.contains(*row)).collect();
        for row in unused {
            self.take(Line::Broken { scenario: "answers".to_owned(), text: format!("no injection used: {row}") }, true);
        }
    }

    /// Whether there is no fault, and nearly all points of each group were reached.
    pub fn is_good(&self) -> bool {
        // In a small group, one point is more than a hundredth.
        let is_reached = |row: Row| row.count(UNREACHED) <= 1 || row.reached() * 100 >= row.points() * REACHED;
        self.faults.is_empty() && self.sum().points() > 0 && GROUPS.iter().all(|group| is_reached(self.group(group)))
    }

    /// The sum over the scenarios with this prefix.
    fn group(&self, prefix: &str) -> Row {
        let mut sum = Row::default();
        self.rows.iter().filter(|(name, _)| name.starts_with(prefix)).for_each(|(_, row)| sum.add(row));
        sum
    }

    fn sum(&self) -> Row {
        self.group("")
    }
}

fn show_fault(line: &Line) {
    let (what, outcome, text) = match line {
        Line::Injected { key, outcome, text, .. } => (key, outcome.as_str(), text),
        Line::Broken { scenario, text } => (scenario, "not swept", text),
        Line::Recorded { .. } => return,
    };
    println!("FAULT {what}: {outcome}");
    text.lines().for_each(|line| println!("          {line}"));
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\n{:<22}{:>7}{:>9}{:>9}{:>9}{:>11}{:>10}{:>8}{:>9}{:>8}{:>8}{:>7}",
            "",
            "calls",
            "cannot",
            "points",
            "reached",
            "tolerated",
            "answered",
            "failed",
            "unnamed",
            "killed",
            "faults",
            "s"
        )?;
        let row = |f: &mut fmt::Formatter<'_>, name: &str, row: &Row| {
            let points = row.points();
            writeln!(
                f,
                "{name:<22}{:>7}{:>9}{points:>9}{:>9}{:>11}{:>10}{:>8}{:>9}{:>8}{:>8}{:>7}",
                row.calls,
                row.infallible,
                row.reached(),
                row.count(TOLERATED),
                row.count(ANSWERED),
                row.count(FAILED),
                row.count(UNNAMED),
                row.count(KILLED),
                row.faults,
                row.took / 1000
            )
        };
        for (name, of) in &self.rows {
            row(f, name, of)?;
        }
        row(f, "all", &self.sum())?;
        let mut slow: Vec<_> = self.slow.iter().collect();
        slow.sort_by_key(|(took, _)| std::cmp::Reverse(*took));
        let all: u64 = slow.iter().map(|(took, _)| took / 1000).sum();
        if all > 0 {
            writeln!(f, "{} injections took more than a second, and {all} s in all", slow.len())?;
        }
        for (took, key) in slow.iter().take(SLOW.1) {
            writeln!(f, "slow: {}.{} s {key}", took / 1000, took % 1000 / 100)?;
        }
        for key in self.unreached.iter().take(20) {
            writeln!(f, "not reached: {key}")?;
        }
        for group in GROUPS.iter().filter(|group| self.group(group).points() > 0) {
            let (row, name) =
                (self.group(group), if group.is_empty() { "all" } else { group.trim_end_matches(['/', '-']) });
            writeln!(f, "reached of {name}: {}.{} %", row.share() / 10, row.share() % 10)?;
        }
        let sum = self.sum();
        writeln!(f, "{} faults, {} of {} points reached", self.faults.len(), sum.reached(), sum.points())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sweep::oracle::Outcome;

    fn injected(outcome: Outcome) -> Line {
        Line::of("run/plain main/openat#1 EMFILE".to_owned(), outcome, 1200)
    }

    #[test]
    fn a_sweep_is_good_without_faults_and_nearly_all_reached() {
        let mut report = Report::default();
        assert!(!report.is_good(), "nothing was swept");
        (0..99).for_each(|_| report.take(injected(Outcome::Failed(true)), false));
        report.take(injected(Outcome::Unreached), false);
        assert!(report.is_good());
        report.take(injected(Outcome::Unreached), false);
        assert!(!report.is_good());
        assert!(report.to_string().contains("reached of run: 98.0 %"), "{report}");
        let many = |name: &str| Line::of(format!("{name} main/openat#1 EMFILE"), Outcome::Tolerated, 0);
        (0..9000).for_each(|_| report.take(many("list/plain"), false));
        assert!(!report.is_good(), "one group by itself");
    }

    #[test]
    fn a_row_that_nothing_used_is_a_fault() {
        let mut report = Report::default();
        report.take(injected(Outcome::Answered("one".to_owned())), false);
        report.expect(["one"].into_iter());
        assert!(report.is_good());
        report.expect(["one", "two"].into_iter());
        assert!(!report.is_good());
    }

    #[test]
    fn a_fault_is_counted_and_a_scenario_that_breaks_is_one() {
        let mut report = Report::default();
        report.take(injected(Outcome::Tolerated), false);
        report.take(Line::Broken { scenario: "run/plain".to_owned(), text: "no".to_owned() }, false);
        assert!(!report.is_good());
        assert!(report.to_string().contains("1 faults, 2 of 2 points"), "{report}");
        assert!(report.to_string().contains("slow: 1.2 s run/plain main/openat#1 EMFILE"), "{report}");
    }
}
