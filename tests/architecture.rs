//! Rules about the source that the compiler does not check. The dependencies of the crates say which part may use
//! which, and `forbid(unsafe_code)` that only `windlass-sys` has unsafe code.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Pure parts: they use no files, no processes, no environment and no clock.
const PURE: &[&str] = &["base", "plan"];

/// The files outside of `sys` that may have raw descriptor numbers, and why.
const RAW_DESCRIPTORS: &[(&str, &str)] = &[
    ("criu/session.rs", "CRIU opens our descriptors by their numbers below /proc"),
    ("apply/sync.rs", "a listener is named to the runtime by its number"),
    ("apply/action/console.rs", "the path of a terminal is that of a descriptor below /proc/self/fd"),
    ("client/socket.rs", "the client for others uses no crate of ours, and nix takes numbers"),
];

/// Tables, which may be longer than other files.
const TABLES: &[&str] = &["seccomp/src/table/rows.rs"];

const LONGEST_FILE: usize = 600;

/// Types that are the same idea in sibling modules, by crate.
const SAME_IDEA: &[(&str, &[&str])] = &[
    // One is compiled with the feature cgroup-v1 and the other without.
    ("src/cgroup", &["Limits"]),
    // Each front end has its own.
    ("src/shim", &["Arguments", "Connection", "Error"]),
    // Each protocol of the shim has its own.
    ("integration/src", &["Client", "Fact"]),
];

struct Source {
    /// The path below the searched directory.
    path: String,
    /// The text without comments, and without the unit tests at its end.
    code: String,
    lines: usize,
}

impl Source {
    /// The module of the crate that the file belongs to.
    fn module(&self) -> &str {
        let first = self.path.split('/').next().unwrap_or(&self.path);
        first.trim_end_matches(".rs")
    }
}

fn sources(folder: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut out = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("the sources are there") {
            let path = entry.expect("a directory entry").path();
            if path.is_dir() {
                // The tests and examples of a crate follow other rules.
                if !path.ends_with("tests") && !path.ends_with("examples") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                out.push(read(&root, path));
            }
        }
    }
    out.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(!out.is_empty(), "the sources of {folder} are found");
    out
}

fn read(root: &Path, path: PathBuf) -> Source {
    let text = fs::read_to_string(&path).expect("a readable file");
    let path = path.strip_prefix(root).expect("found below it").to_string_lossy().into_owned();
    let tests = text.find("\n#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    let code = if path.ends_with("tests.rs") { String::new() } else { without_comments(&text[..tests]) };
    Source { path, lines: text.lines().count(), code }
}

/// Removes comments, line by line. A string with `//` in it is cut short as well. That hides nothing that these tests
/// look for: by rustfmt's rules the code after a string is short, or on lines of its own.
fn without_comments(text: &str) -> String {
    let code = |line: &str| match line.find("//") {
        Some(at) if !line[..at].contains('"') => line[..at].to_string(),
        _ => line.to_string(),
    };
    text.lines().map(|line| code(line) + "\n").collect()
}

/// The names after each `prefix` in the code: `crate::{a, b::c}` gives `a` and `b`.
fn names_after(code: &str, prefix: &str) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    let name = |text: &str| text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect::<String>();
    for (at, _) in code.match_indices(prefix) {
        let rest = &code[at + prefix.len()..];
        match rest.strip_prefix('{') {
            None => drop(out.insert(name(rest))),
            Some(group) => {
                let mut depth = 0;
                let mut start = true;
                for (index, c) in group.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => start = true,
                        c if start && !c.is_whitespace() => {
                            out.insert(name(&group[index..]));
                            start = false;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    out
}

#[test]
fn planning_looks_at_nothing() {
    let outside = ["fs", "process", "env", "net", "time", "thread", "os", "io"];
    for source in sources("src").iter().filter(|source| PURE.contains(&source.module())) {
        let used: Vec<String> =
            names_after(&source.code, "std::").into_iter().filter(|name| outside.contains(&name.as_str())).collect();
        let error = source.path == "base/error.rs" && used == ["io"];
        let clock = ["base/rfc3339.rs", "base/exit_record.rs"].contains(&source.path.as_str()) && used == ["time"];
        assert!(used.is_empty() || error || clock, "{} uses std::{used:?}", source.path);
        for word in ["SystemTime::now", "Instant::now", "File::open", "libc::", "nix::unistd", "nix::fcntl"] {
            // The numbers of system calls differ between architectures.
            let number = source.path == "base/abi.rs" && word == "libc::";
            assert!(number || !source.code.contains(word), "{} uses {word}", source.path);
        }
    }
}

#[test]
fn every_crate_but_sys_forbids_unsafe_code() {
    for folder in ["src", "seccomp/src"] {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        let own_crate = |path: &str| path.ends_with("lib.rs") || path.starts_with("bin/");
        for source in sources(folder).iter().filter(|source| own_crate(&source.path) && source.module() != "sys") {
            let text = fs::read_to_string(root.join(&source.path)).expect("readable");
            assert!(text.contains("\n#![forbid(unsafe_code)]\n"), "{folder}/{} allows unsafe code", source.path);
        }
    }
}

#[test]
fn every_unsafe_block_says_why_it_is_sound() {
    // Clippy checks this for blocks. This checks all of sys, whatever options clippy is run with.
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for source in sources("src").iter().filter(|source| source.module() == "sys") {
        let text = fs::read_to_string(root.join(&source.path)).expect("readable");
        let lines: Vec<&str> = text.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or("");
            if code.contains("unsafe {") {
                let before = &lines[index.saturating_sub(6)..index];
                assert!(before.iter().any(|line| line.contains("SAFETY:")), "{}:{}", source.path, index + 1);
            }
        }
    }
}

#[test]
fn raw_descriptors_stay_below_sys() {
    for source in sources("src").iter().filter(|source| source.module() != "sys") {
        let used = ["RawFd", "as_raw_fd", "into_raw_fd"].iter().any(|word| source.code.contains(word));
        let listed = RAW_DESCRIPTORS.iter().any(|(path, _)| *path == source.path);
        assert!(!used || listed, "{} uses raw descriptors", source.path);
        assert!(used || !listed, "{} uses raw descriptors no more", source.path);
    }
}

#[test]
fn no_file_is_too_long() {
    let tests = ["plan", "dbus", "cgroup", "apply", "sys", "store", "shim"].map(|name| format!("src/{name}/tests"));
    let folders = ["src", "seccomp/src", "integration/src", "tests"].map(str::to_owned);
    for folder in folders.into_iter().chain(tests) {
        for source in sources(&folder) {
            let path = format!("{folder}/{}", source.path);
            assert!(
                source.lines <= LONGEST_FILE || TABLES.contains(&path.as_str()),
                "{path} has {} lines",
                source.lines
            );
        }
    }
}

#[test]
fn a_name_is_one_type_in_its_crate() {
    let crates = ["args", "base", "cgroup", "client", "criu", "dbus", "plan", "shim", "store", "sys", "apply"];
    let crates = crates.map(|name| format!("src/{name}"));
    let root = ["src/cli", "src/doctor", "src/verb", "seccomp/src", "integration/src", "integration/engines/src"];
    for folder in crates.into_iter().chain(root.map(str::to_owned)) {
        let mut places = BTreeMap::<String, Vec<String>>::new();
        for source in sources(&folder).iter().filter(|source| !source.path.starts_with("simulation/")) {
            for name in source.code.lines().filter_map(exported_type) {
                places.entry(name.to_owned()).or_default().push(source.path.clone());
            }
        }
        let same_idea = SAME_IDEA.iter().filter(|(crate_, _)| *crate_ == folder).flat_map(|(_, names)| names.iter());
        for name in same_idea {
            let found = places.remove(*name).unwrap_or_default();
            assert!(found.len() > 1, "{folder}: {name} is no longer in several modules");
        }
        for (name, found) in places {
            assert!(found.len() == 1, "{folder}: {name} is a type in each of {found:?}");
        }
    }
}

/// The name of the type that this line declares, if other modules can see it.
fn exported_type(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("pub")?;
    let rest = match rest.strip_prefix('(') {
        Some(scope) => scope.split_once(") ")?.1,
        None => rest.strip_prefix(' ')?,
    };
    let declared = ["struct ", "enum ", "trait ", "type ", "union "].iter().find_map(|word| rest.strip_prefix(word))?;
    declared.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next()
}

#[test]
fn nothing_is_left_for_later_and_nothing_unwrapped() {
    for folder in ["src", "seccomp/src", "integration/src"] {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        for source in sources(folder) {
            let text = fs::read_to_string(root.join(&source.path)).expect("readable");
            for word in ["TODO", "FIXME", "XXX", "HACK"] {
                assert!(
                    !text.split(|c: char| !c.is_ascii_alphanumeric()).any(|part| part == word),
                    "{folder}/{}: {word}",
                    source.path
                );
            }
            for word in ["todo!(", "unimplemented!(", ".unwrap()", "dbg!("] {
                assert!(!source.code.contains(word), "{folder}/{}: {word}", source.path);
            }
        }
    }
}

#[test]
fn every_module_begins_with_what_it_is_for() {
    for folder in ["src", "seccomp/src"] {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        for source in sources(folder).iter().filter(|source| !source.path.ends_with("tests.rs")) {
            let text = fs::read_to_string(root.join(&source.path)).expect("readable");
            assert!(
                text.starts_with("//!") || text.starts_with("#![doc = include_str!"),
                "{folder}/{} has no words at its top",
                source.path
            );
        }
    }
}

#[test]
fn the_reader_of_uses_sees_groups_and_paths() {
    let code = "use crate::{abi::x, error::{A, B}, plan};\ncrate::sys::fd();\nuse crate::spec;";
    let names: Vec<String> = names_after(code, "crate::").into_iter().collect();
    assert_eq!(names, ["abi", "error", "plan", "spec", "sys"]);
    assert_eq!(exported_type("pub(super) struct Frame<'a> {"), Some("Frame"));
    assert_eq!(["pub enum Kind {", "pub fn kind()", "struct Own;"].map(exported_type), [Some("Kind"), None, None]);
    assert_eq!(without_comments("a // b\n\"//\" c\n"), "a \n\"//\" c\n");
}
