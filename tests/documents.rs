//! The documents: their links lead somewhere, and the tests and files that they name exist.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files below a directory of the project whose names end with `end`, without those of builds.
fn files(directory: &Path, end: &str) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            out.extend(files(&path, end));
        } else if name.ends_with(end) {
            out.push(path);
        }
    }
    out
}

/// The text of a document without its blocks of code.
fn prose(path: &Path) -> String {
    let text = fs::read_to_string(path).expect("a document");
    text.split("```").step_by(2).collect()
}

/// The anchors of a document's headings, as forges make them.
fn anchors(path: &Path) -> HashSet<String> {
    let text = prose(path);
    let headings = text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    headings.map(|heading| heading.to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-")).collect()
}

#[test]
fn every_link_leads_to_a_file_and_to_a_heading_of_it() {
    let mut wrong = Vec::new();
    for document in files(root(), ".md") {
        let text = prose(&document);
        for target in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path = match file {
                "" => document.clone(),
                file => document.parent().expect("a parent").join(file),
            };
            if !path.exists() || !(anchor.is_empty() || anchors(&path).contains(anchor)) {
                wrong.push(format!("{}: {target}", document.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "links that lead nowhere:\n{}", wrong.join("\n"));
}

#[test]
fn every_test_that_a_document_names_exists() {
    let mut functions = HashSet::new();
    for source in files(root(), ".rs") {
        let text = fs::read_to_string(source).expect("a source");
        let names = text.split("fn ").skip(1).filter_map(|rest| rest.split(['(', '<']).next());
        functions.extend(names.map(str::to_owned));
    }
    let mut missing = Vec::new();
    for document in files(root(), ".md") {
        // The conformance documents name the tests of other projects.
        if document.file_name().is_some_and(|name| name.to_string_lossy().starts_with("conformance")) {
            continue;
        }
        // A sentence in one word is the name of a test.
        let text = prose(&document);
        let names = text.split('`').skip(1).step_by(2).filter(|name| name.matches('_').count() > 3);
        for name in names.map(|name| name.rsplit("::").next().unwrap_or(name)) {
            let is_name = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
            if is_name && !functions.contains(name) {
                missing.push(format!("{}: {name}", document.display()));
            }
        }
    }
    assert!(missing.is_empty(), "no such test:\n{}", missing.join("\n"));
}

#[test]
fn every_file_that_a_document_names_exists() {
    const FOLDERS: [&str; 8] = ["src", "integration", "tests", "seccomp", "fuzz", "contrib", "examples", "docs"];
    let mut missing = Vec::new();
    for document in files(root(), ".md") {
        // The conformance documents name the files of other projects, and `*` stands for several files.
        if document.file_name().is_some_and(|name| name.to_string_lossy().starts_with("conformance")) {
            continue;
        }
        let directory = document.parent().expect("a parent");
        let text = prose(&document);
        let is_of_name = |c: char| c.is_ascii_alphanumeric() || "/._-*@".contains(c);
        for name in text.split(|c| !is_of_name(c)).map(|word| word.trim_end_matches(['.', '/'])) {
            let in_a_folder = name.split_once('/').is_some_and(|(first, _)| FOLDERS.contains(&first));
            if !in_a_folder || name.contains(['*', '@']) || name.starts_with("fuzz/corpus") {
                continue;
            }
            if ![root(), directory].iter().any(|base| base.join(name).exists()) {
                missing.push(format!("{}: {name}", document.display()));
            }
        }
    }
    assert!(missing.is_empty(), "no such file:\n{}", missing.join("\n"));
}
