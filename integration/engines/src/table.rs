//! The table of the README: a row a chapter, a column an engine.

use crate::engine::Engine;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::ExitCode;

/// The lines between which the table stands.
const MARKERS: [&str; 2] = ["<!-- engines: begin -->", "<!-- engines: end -->"];

/// `table RESULTS README`.
pub fn main(words: &[String]) -> ExitCode {
    let [results, readme] = words else {
        println!("usage: engines table RESULTS README");
        return ExitCode::from(2);
    };
    match rewrite(results.as_ref(), readme.as_ref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("engines table: {error}");
            ExitCode::FAILURE
        }
    }
}

fn rewrite(results: &Path, readme: &Path) -> Result<(), String> {
    let read = |path: &Path| fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()));
    let results = serde_json::from_str(&read(results)?).map_err(|e| format!("{}: {e}", results.display()))?;
    let text = between_markers(&read(readme)?, &render(&results)).ok_or("the README has no markers for the table")?;
    fs::write(readme, text).map_err(|e| format!("{}: {e}", readme.display()))
}

/// `text` with `table` in place of what stands between the markers.
fn between_markers(text: &str, table: &str) -> Option<String> {
    let (before, rest) = text.split_once(MARKERS[0])?;
    let (_, after) = rest.split_once(MARKERS[1])?;
    Some(format!("{before}{}\n{table}{}{after}", MARKERS[0], MARKERS[1]))
}

/// Passed and judged cases, by column of the run: `windlass`, `windlass+shim`, `runc`, …
type Count = BTreeMap<String, [usize; 2]>;

/// The table as Markdown, with its legend.
fn render(results: &Value) -> String {
    let mut rows: BTreeMap<String, BTreeMap<Engine, Count>> = BTreeMap::new();
    let mut legend: Vec<&str> = Vec::new();
    let mut dates = BTreeSet::new();
    let mut engines = Vec::new();
    for engine in Engine::ALL {
        let Some(run) = results.get(engine.name()) else {
            continue;
        };
        engines.push(engine);
        dates.extend(run["date"].as_str());
        for version in run["versions"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !legend.contains(&version) {
                legend.push(version);
            }
        }
        for (case, row) in run["cases"].as_object().into_iter().flatten() {
            let chapter = case.split("::").next().unwrap_or(case).replace('_', " ");
            let count = rows.entry(chapter).or_default().entry(engine).or_default();
            for (label, outcome) in row.as_object().into_iter().flatten() {
                let cell = count.entry(label.clone()).or_default();
                cell[0] += usize::from(outcome == "pass");
                cell[1] += usize::from(outcome != "skip");
            }
        }
    }
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let names = engines.iter().map(|engine| engine.name().to_owned());
    let mut out = line(std::iter::once(String::new()).chain(names).collect());
    out += &line(vec!["---".to_owned(); engines.len() + 1]);
    for (chapter, counts) in &rows {
        let cells = engines.iter().map(|engine| counts.get(engine).map_or_else(String::new, cell));
        out += &line(std::iter::once(chapter.clone()).chain(cells).collect());
    }
    let dates: Vec<&str> = dates.into_iter().collect();
    format!("{out}\n{}: {}.\n", dates.join(", "), legend.join("; "))
}

/// `12/12` of the column `windlass`, and which others have something else: `12/12 (runc 11/12)`.
fn cell(count: &Count) -> String {
    let judged = || count.iter().filter(|(_, [_, judged])| *judged > 0);
    let fraction = |[passed, judged]: &[usize; 2]| format!("{passed}/{judged}");
    let Some((first, ours)) = judged().find(|(label, _)| *label == "windlass").or_else(|| judged().next()) else {
        return "—".to_owned();
    };
    let name = if first == "windlass" { String::new() } else { format!("{first} ") };
    let others = judged().filter(|(_, other)| *other != ours);
    let others: Vec<String> = others.map(|(label, other)| format!("{label} {}", fraction(other))).collect();
    let others = if others.is_empty() { String::new() } else { format!(" ({})", others.join(", ")) };
    format!("{name}{}{others}", fraction(ours))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn the_table_counts_what_was_judged() {
        let results = json!({"podman": {"date": "2026-01-02", "versions": ["podman 4"], "cases": {
            "life::a": {"runc": "pass", "windlass": "pass"},
            "life::b": {"runc": "FAIL", "windlass": "pass"},
            "exec::c": {"runc": "skip", "windlass": "skip"},
        }}});
        let table = super::render(&results);
        assert!(table.contains("| life | 2/2 (runc 1/2) |"), "{table}");
        assert!(table.contains("| exec | — |"), "{table}");
        assert!(table.ends_with("\n2026-01-02: podman 4.\n"), "{table}");
    }

    #[test]
    fn only_what_stands_between_the_markers_changes() {
        let text = format!("a\n{}\nold\n{}\nb\n", super::MARKERS[0], super::MARKERS[1]);
        let new = super::between_markers(&text, "new\n").expect("there are markers");
        assert_eq!(new, format!("a\n{}\nnew\n{}\nb\n", super::MARKERS[0], super::MARKERS[1]));
        assert!(super::between_markers("no markers", "new").is_none());
    }
}
