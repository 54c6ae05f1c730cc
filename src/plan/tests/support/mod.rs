//! Documents that are almost right: edits of a JSON document that keep its structure in mind.

#![allow(dead_code)] // Each test program uses its part.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::{Map, Number, Value};

/// One change of a document. The changed element is a number modulo the number of elements, so that every edit fits
/// every document.
#[derive(Clone, Debug)]
pub enum Edit {
    /// Removes an element.
    Delete(usize),
    /// Replaces an element.
    Replace(usize, Value),
    /// Repeats an element in its list.
    Duplicate(usize),
    /// Puts a copy of one element in the place of another.
    Copy(usize, usize),
}

/// Applies `edits` to `document`, one after the other.
pub fn apply(document: &mut Value, edits: &[Edit]) {
    for edit in edits {
        let places = places(document);
        let place = |n: &usize| places[n % places.len()].clone();
        match edit {
            Edit::Delete(at) => delete(document, &place(at)),
            Edit::Replace(at, value) => {
                if let Some(element) = document.pointer_mut(&place(at)) {
                    *element = value.clone();
                }
            }
            Edit::Duplicate(at) => duplicate(document, &place(at)),
            Edit::Copy(from, to) => {
                let copy = document.pointer(&place(from)).cloned();
                if let (Some(copy), Some(element)) = (copy, document.pointer_mut(&place(to))) {
                    *element = copy;
                }
            }
        }
    }
}

/// The pointers of all elements, the document itself first.
pub fn places(document: &Value) -> Vec<String> {
    fn walk(value: &Value, pointer: &str, out: &mut Vec<String>) {
        out.push(pointer.into());
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    walk(value, &format!("{pointer}/{}", windlass_base::spec::escape(key)), out);
                }
            }
            Value::Array(list) => {
                for (index, value) in list.iter().enumerate() {
                    walk(value, &format!("{pointer}/{index}"), out);
                }
            }
            _ => {}
        }
    }
    let mut out = Vec::new();
    walk(document, "", &mut out);
    out
}

fn parent<'a>(document: &'a mut Value, pointer: &str) -> Option<(&'a mut Value, String)> {
    let (parent, key) = pointer.rsplit_once('/')?;
    Some((document.pointer_mut(parent)?, key.replace("~1", "/").replace("~0", "~")))
}

fn delete(document: &mut Value, pointer: &str) {
    match parent(document, pointer) {
        Some((Value::Object(map), key)) => drop(map.remove(&key)),
        Some((Value::Array(list), index)) => drop(index.parse().ok().map(|index: usize| list.remove(index))),
        _ => {}
    }
}

fn duplicate(document: &mut Value, pointer: &str) {
    if let Some((Value::Array(list), index)) = parent(document, pointer)
        && let Ok(index) = index.parse::<usize>()
    {
        list.push(list[index].clone());
    }
}

/// Edits; most documents stay readable for a few of them.
pub fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let edit = prop_oneof![
        3 => any::<usize>().prop_map(Edit::Delete),
        4 => (any::<usize>(), nasty()).prop_map(|(at, value)| Edit::Replace(at, value)),
        2 => any::<usize>().prop_map(Edit::Duplicate),
        1 => (any::<usize>(), any::<usize>()).prop_map(|(from, to)| Edit::Copy(from, to)),
    ];
    proptest::collection::vec(edit, 0..6)
}

/// Values at the edges of what can be written.
pub fn nasty() -> impl Strategy<Value = Value> {
    let number = prop_oneof![
        Just(0i64),
        Just(-1),
        Just(1),
        Just(i64::MAX),
        Just(i64::MIN),
        Just(i64::from(u32::MAX)),
        Just(i64::from(u32::MAX) + 1),
        Just(i64::from(i32::MAX) + 1),
        Just(65_536),
        Just(1_000_000_000),
        any::<i64>(),
    ];
    prop_oneof![
        6 => number.prop_map(Value::from),
        1 => Just(Value::from(u64::MAX)),
        1 => Just(Value::Number(Number::from_f64(1e300).expect("finite"))),
        8 => text().prop_map(Value::from),
        1 => any::<bool>().prop_map(Value::from),
        1 => Just(Value::Null),
        1 => Just(Value::Array(Vec::new())),
        1 => Just(Value::Object(Map::new())),
        1 => text().prop_map(|key| Value::Object(Map::from_iter([(key, Value::from(1))]))),
        1 => proptest::collection::vec(text(), 0..4).prop_map(|texts| texts.into_iter().map(Value::from).collect()),
    ]
}

/// Texts that break parsers of paths, options, sizes, lists and names.
const TEXTS: &[&str] = &[
    "",
    "/",
    ".",
    "..",
    "../..",
    "/..",
    "/../../etc/passwd",
    "//a//b/",
    "/proc",
    "/proc/1/fd",
    "/dev",
    "/dev/../proc/self",
    "a\0b",
    "\0",
    "\n",
    "a\nb",
    " ",
    "%s",
    "%d",
    "~0",
    "~1",
    "\u{7f}",
    "é",
    "\u{202e}",
    "日本語/文字",
    "0-",
    "-",
    "0-9999",
    "5-1",
    "0,,1",
    ",",
    "0-8191",
    "8192",
    "18446744073709551616",
    "-1",
    "0x10",
    "1e9",
    "bind",
    "rbind",
    "ro",
    "rro",
    "rw",
    "idmap",
    "ridmap",
    "tmpcopyup",
    "shared",
    "size=",
    "=",
    "=x",
    "a=\"b",
    "a\\",
    "context=\"a,b\"",
    "tmpfs",
    "proc",
    "sysfs",
    "cgroup",
    "cgroup2",
    "overlay",
    "mount",
    "user",
    "pid",
    "network",
    "time",
    "cgroup.kill",
    "a.b",
    "hugetlb.2MB.max",
    "CAP_SYS_ADMIN",
    "CAP_",
    "cap_kill",
    "RLIMIT_NOFILE",
    "RLIMIT_",
    "SCHED_DEADLINE",
    "SCMP_ACT_NOTIFY",
    "SCMP_ACT_ALLOW",
    "SCMP_ARCH_X32",
    "SCMP_CMP_MASKED_EQ",
    "MPOL_LOCAL",
    "LINUX32",
    "LINUX",
    "2MB",
    "02MB",
    "99999999999999999999GB",
    "KB",
    "a",
    "c",
    "b",
    "p",
    "rwm",
    "1.0.0",
    "1.",
    "99.9",
];

/// One of [`TEXTS`], a long text, or any text.
pub fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => proptest::sample::select(TEXTS).prop_map(str::to_string),
        1 => Just("x".repeat(70_000)),
        1 => Just("/a".repeat(5_000)),
        2 => any::<String>(),
    ]
}

/// The documents to begin with: one that has everything, and every fixture.
pub fn seeds() -> Vec<Value> {
    // A test of the root package includes this file, too.
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let plan = package.join("src/plan");
    let tests = if plan.exists() { plan } else { package.to_owned() }.join("tests");
    let mut paths: Vec<PathBuf> = fs::read_dir(tests.join("plans"))
        .expect("the fixtures are there")
        .map(|entry| entry.expect("a directory entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    paths.sort();
    paths.insert(0, tests.join("data/full.json"));
    paths.iter().map(|path| serde_json::from_slice(&fs::read(path).expect("readable")).expect("JSON")).collect()
}
