//! The progress of a run: a line for each chapter with its counts and time, a bar on a terminal, and at the end the
//! skipped cases with the reasons.

use crate::event::{CaseOutcome, Event};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};

/// Columns of the bar.
const WIDTH: usize = 40;

/// The cases of one chapter in one harness.
#[derive(Default)]
struct Chapter {
    harness: String,
    name: String,
    /// Passed, failed, skipped, left to another harness.
    counts: [usize; 4],
    ms: u64,
}

impl Chapter {
    fn line(&self) -> String {
        const WORDS: [(CaseOutcome, &str); 4] = [
            (CaseOutcome::Pass, "passed"),
            (CaseOutcome::Fail, "failed"),
            (CaseOutcome::Skip, "skipped"),
            (CaseOutcome::Defer, "left to User-Mode Linux"),
        ];
        let counts: Vec<String> = WORDS
            .iter()
            .zip(self.counts)
            .filter(|(_, count)| *count > 0)
            .map(|((_, word), count)| format!("{count} {word}"))
            .collect();
        let word = if self.counts[CaseOutcome::Fail as usize] > 0 { "FAIL" } else { "ok" };
        let seconds = self.ms / 1000;
        let tenths = self.ms % 1000 / 100;
        format!("{word:4}  {:4}  {seconds:4}.{tenths} s  {:<20}  {}", self.harness, self.name, counts.join(", "))
    }
}

/// A run in progress.
pub struct Progress {
    /// Whether chapters are shown in place of cases.
    brief: bool,
    terminal: bool,
    total: usize,
    done: usize,
    chapter: Option<Chapter>,
}

impl Progress {
    /// The progress of a run of this many cases. With `brief` there is a line for each chapter and not for each case.
    pub fn new(total: usize, brief: bool) -> Progress {
        let terminal = brief && std::io::stdout().is_terminal();
        Progress { brief, terminal, total, done: 0, chapter: None }
    }

    /// Shows a case that has ended.
    pub fn take(&mut self, harness: &str, event: &Event) {
        if !self.brief {
            if event.outcome != CaseOutcome::Defer {
                print_event(harness, event);
            }
            return;
        }
        let name = event.case.split("::").next().unwrap_or_default();
        if self.chapter.as_ref().is_some_and(|chapter| chapter.name != name || chapter.harness != harness) {
            self.finish();
        }
        if event.outcome == CaseOutcome::Fail {
            self.wipe();
            print_event(harness, event);
        }
        let chapter = self.chapter.get_or_insert_with(|| Chapter {
            harness: harness.to_owned(),
            name: name.to_owned(),
            ..Chapter::default()
        });
        chapter.counts[event.outcome as usize] += 1;
        chapter.ms += event.ms;
        if event.outcome != CaseOutcome::Defer && !event.peer {
            self.done += 1;
        }
        self.draw();
    }

    /// Ends the current chapter.
    pub fn finish(&mut self) {
        self.wipe();
        if let Some(chapter) = self.chapter.take() {
            println!("{}", chapter.line());
        }
    }

    /// Lists the skipped cases by reason. If each case has a line, it lists nothing.
    pub fn skipped<'a>(&mut self, events: impl Iterator<Item = &'a Event>) {
        if self.brief {
            print!("{}", reasons(events));
        }
    }

    fn draw(&self) {
        if self.terminal {
            let name = self.chapter.as_ref().map_or("", |chapter| chapter.name.as_str());
            let bar = "#".repeat(WIDTH * self.done.min(self.total) / self.total.max(1));
            print!("\r\x1b[K[{bar:-<WIDTH$}] {}/{} {name}", self.done, self.total);
            let _ = std::io::stdout().flush();
        }
    }

    fn wipe(&self) {
        if self.terminal {
            print!("\r\x1b[K");
        }
    }
}

/// The skipped cases: each reason, and below it the names.
fn reasons<'a>(events: impl Iterator<Item = &'a Event>) -> String {
    let mut by_reason = BTreeMap::<&str, Vec<&str>>::new();
    for event in events.filter(|event| event.outcome == CaseOutcome::Skip) {
        by_reason.entry(event.text.lines().next().unwrap_or_default()).or_default().push(&event.case);
    }
    let mut text = String::new();
    for (reason, names) in by_reason {
        let _ = writeln!(text, "skipped: {reason}");
        names.iter().for_each(|name| text += &format!("    {name}\n"));
    }
    text
}

fn print_event(harness: &str, event: &Event) {
    let Event { case, runtime, outcome, ms, text, .. } = event;
    println!("{:4}  {harness:4}  {ms:6} ms  {runtime:8}  {case}", outcome.name());
    // A case that passes may have measured something.
    for line in text.lines() {
        println!("          {line}");
    }
}

#[cfg(test)]
mod tests {
    use super::{Chapter, Progress, reasons};
    use crate::event::{CaseOutcome, Event};

    fn event(case: &str, outcome: CaseOutcome, text: &str) -> Event {
        Event { case: case.into(), runtime: "windlass".into(), peer: false, outcome, ms: 150, text: text.into() }
    }

    #[test]
    fn a_chapter_has_its_counts_and_its_time() {
        let chapter = Chapter { harness: "host".into(), name: "mounts".into(), counts: [7, 0, 2, 1], ms: 12_345 };
        let line = chapter.line();
        assert!(line.starts_with("ok ") && line.contains("12.3 s"), "{line}");
        assert!(line.ends_with("7 passed, 2 skipped, 1 left to User-Mode Linux"), "{line}");
        let failed = Chapter { counts: [7, 1, 0, 0], ..chapter };
        assert!(failed.line().starts_with("FAIL"), "{}", failed.line());
    }

    #[test]
    fn a_case_is_counted_where_it_was_judged() {
        let mut progress = Progress::new(3, true);
        progress.take("host", &event("a::x", CaseOutcome::Pass, ""));
        progress.take("host", &event("a::y", CaseOutcome::Defer, "no memory"));
        assert_eq!(progress.done, 1);
        assert_eq!(progress.chapter.as_ref().map(|chapter| (chapter.counts, chapter.ms)), Some(([1, 0, 0, 1], 300)));
        progress.take("uml", &event("a::y", CaseOutcome::Pass, ""));
        assert_eq!(progress.chapter.as_ref().map(|chapter| chapter.counts), Some([1, 0, 0, 0]));
        assert_eq!(progress.done, 2);
    }

    #[test]
    fn what_was_skipped_is_listed_by_its_reason() {
        let events = [
            event("a::x", CaseOutcome::Skip, "no CRIU\nmore"),
            event("a::y", CaseOutcome::Pass, "no CRIU"),
            event("b::z", CaseOutcome::Skip, "no CRIU"),
        ];
        assert_eq!(reasons(events.iter()), "skipped: no CRIU\n    a::x\n    b::z\n");
    }
}
