//! The table of the README: a row an engine, a column a Debian release.

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

/// `text` with `table` between the markers.
fn between_markers(text: &str, table: &str) -> Option<String> {
    let (before, rest) = text.split_once(MARKERS[0])?;
    let (_, after) = rest.split_once(MARKERS[1])?;
    Some(format!("{before}{}\n{table}{}{after}", MARKERS[0], MARKERS[1]))
}

/// Passed and judged cases, by column of the run: `windlass`, `windlass+shim`, `runc`, …
type Count = BTreeMap<String, [usize; 2]>;

/// The Debian releases, in the order of the columns.
const RELEASES: [&str; 3] = ["bookworm", "trixie", "sid"];

/// The table as Markdown, with its legend: a row an engine, a column a release.
fn render(results: &Value) -> String {
    let releases: Vec<&str> = RELEASES.into_iter().filter(|release| results.get(release).is_some()).collect();
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let mut out = line(std::iter::once(String::new()).chain(releases.iter().map(|name| (*name).to_owned())).collect());
    out += &line(vec!["---".to_owned(); releases.len() + 1]);
    for engine in Engine::ALL {
        let run = |release: &&str| results.get(release).and_then(|engines| engines.get(engine.name()));
        let cells: Vec<String> =
            releases.iter().map(|release| run(release).map_or_else(String::new, |run| cell(&count(run)))).collect();
        if cells.iter().any(|text| !text.is_empty()) {
            out += &line(std::iter::once(engine.name().to_owned()).chain(cells).collect());
        }
    }
    out += "\n";
    releases.iter().for_each(|release| out += &legend(release, &results[release]));
    out
}

/// The versions of a release's engines, the days, and how many cases did not run on the host.
fn legend(release: &str, engines: &Value) -> String {
    let (mut versions, mut dates, mut elsewhere, mut all): (Vec<&str>, BTreeSet<&str>, usize, usize) =
        Default::default();
    for run in Engine::ALL.into_iter().filter_map(|engine| engines.get(engine.name())) {
        dates.extend(run["date"].as_str().into_iter().flat_map(|days| days.split(", ")));
        for version in run["versions"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !versions.contains(&version) {
                versions.push(version);
            }
        }
        let ours = |row: &Value| row.get("windlass").and_then(Value::as_str).map(str::to_owned);
        let cells = run["cases"].as_object().into_iter().flatten().filter_map(|(_, row)| ours(row));
        for text in cells.filter(|text| text != "skip") {
            all += 1;
            elsewhere += usize::from(text.ends_with(" uml"));
        }
    }
    let dates: Vec<&str> = dates.into_iter().collect();
    let place = if elsewhere == 0 { String::new() } else { format!("; {elsewhere} of {all} cases in User-Mode Linux") };
    format!("- {release}, {}: {}{place}.\n", dates.join(", "), versions.join("; "))
}

/// The numbers of passed and judged cases in the run of an engine.
fn count(run: &Value) -> Count {
    let mut count = Count::new();
    for (label, outcome) in
        run["cases"].as_object().into_iter().flatten().flat_map(|(_, row)| row.as_object()).flatten()
    {
        let cell = count.entry(label.clone()).or_default();
        let outcome = outcome.as_str().and_then(|text| text.split(' ').next()).unwrap_or_default();
        cell[0] += usize::from(outcome == "pass");
        cell[1] += usize::from(outcome != "skip");
    }
    count
}

/// `12/12` of the column `windlass`, and the columns that differ: `12/12 (runc 11/12)`.
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
        let podman = json!({"date": "2026-01-02", "versions": ["podman 4"], "cases": {
            "life::a": {"runc": "pass host", "windlass": "pass host"},
            "life::b": {"runc": "FAIL host", "windlass": "pass uml"},
            "exec::c": {"runc": "skip", "windlass": "skip"},
        }});
        let docker =
            json!({"date": "2026-01-03", "versions": ["dockerd 9"], "cases": {"life::a": {"windlass": "skip"}}});
        let table =
            super::render(&json!({"sid": {"podman": podman, "docker": docker}, "bookworm": {"podman": podman}}));
        assert!(table.contains("|  | bookworm | sid |"), "{table}");
        assert!(table.contains("| docker |  | — |"), "{table}");
        assert!(table.contains("| podman | 2/2 (runc 1/2) | 2/2 (runc 1/2) |"), "{table}");
        let legend = "- sid, 2026-01-02, 2026-01-03: dockerd 9; podman 4; 1 of 2 cases in User-Mode Linux.\n";
        assert!(table.ends_with(legend), "{table}");
    }

    #[test]
    fn only_what_stands_between_the_markers_changes() {
        let text = format!("a\n{}\nold\n{}\nb\n", super::MARKERS[0], super::MARKERS[1]);
        let new = super::between_markers(&text, "new\n").expect("there are markers");
        assert_eq!(new, format!("a\n{}\nnew\n{}\nb\n", super::MARKERS[0], super::MARKERS[1]));
        assert!(super::between_markers("no markers", "new").is_none());
    }
}
