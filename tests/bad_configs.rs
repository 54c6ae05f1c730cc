//! Bad configurations, one for each member and kind of fault (`tests/data/bad_configs.tsv`): reading and
//! planning name the innermost member that is wrong, and so do `check`, `explain` and `run`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use windlass_base::error::Diagnostic;
use windlass_base::spec::Spec;
use windlass_plan::{Host, Options};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Fault,
    Warning,
}

struct Row {
    line: usize,
    outcome: Outcome,
    config: String,
    named: String,
}

/// Sets or removes the element at a JSON Pointer. A missing member is added.
fn change(document: &mut Value, pointer: &str, value: Option<Value>) {
    let (parent, last) = pointer.rsplit_once('/').expect("not the whole document");
    let last = last.replace("~1", "/").replace("~0", "~");
    match (document.pointer_mut(parent), value) {
        (Some(Value::Object(members)), Some(value)) => drop(members.insert(last, value)),
        (Some(Value::Object(members)), None) => drop(members.remove(&last).expect("a member to take away")),
        (Some(Value::Array(elements)), value) => {
            let index: usize = last.parse().expect("an index");
            match value {
                Some(value) if index == elements.len() => elements.push(value),
                Some(value) => elements[index] = value,
                None => drop(elements.remove(index)),
            }
        }
        (other, _) => panic!("nothing to change at {pointer}: {other:?}"),
    }
}

fn data(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect("the data is there")
}

fn base(table: &str) -> Value {
    let mut base: Value = serde_json::from_str(&data("src/plan/tests/data/full.json")).expect("JSON");
    for line in table.lines() {
        if let ["base", pointer, value, _] = line.split('\t').collect::<Vec<_>>()[..] {
            change(&mut base, pointer, (value != "-").then(|| serde_json::from_str(value).expect("JSON")));
        }
    }
    base
}

fn rows() -> Vec<Row> {
    let table = data("tests/data/bad_configs.tsv");
    let base = base(&table);
    let mut rows = Vec::new();
    for (index, line) in table.lines().enumerate().filter(|(_, line)| !line.starts_with('#')) {
        let columns: Vec<&str> = line.split('\t').collect();
        let [outcome, pointer, value, named] = columns[..] else { panic!("line {}: {columns:?}", index + 1) };
        let outcome = match outcome {
            "base" => continue,
            "fault" => Outcome::Fault,
            "warning" => Outcome::Warning,
            other => panic!("line {}: {other}", index + 1),
        };
        let mut config = base.clone();
        change(&mut config, pointer, (value != "-").then(|| serde_json::from_str(value).expect("JSON")));
        let named = if named == "=" { pointer } else { named };
        rows.push(Row { line: index + 1, outcome, config: config.to_string(), named: named.into() });
    }
    rows
}

/// The faults and warnings of reading and planning, as root of the host.
fn planned(config: &str) -> (Vec<Diagnostic>, Vec<Diagnostic>) {
    let read = match windlass_base::spec::read(config.as_bytes(), "config.json") {
        Ok(read) => read,
        Err(error) => return (error.into_faults(), Vec::new()),
    };
    let options = Options {
        host: Host { capabilities: windlass_base::capability::CapabilitySet::all(), ..Host::default() },
        ..Options::default()
    };
    let mut faults = read.faults;
    let mut warnings = read.warnings;
    match windlass_plan::create("box", &read.value, &options) {
        Ok(plan) => warnings.extend(plan.warnings),
        // A fault that only follows from an element that counts as absent is not reported as well.
        Err(error) if faults.is_empty() => faults = error.into_faults(),
        Err(_) => {}
    }
    (faults, warnings)
}

#[test]
fn the_table_is_large_and_its_base_is_good() {
    let table = data("tests/data/bad_configs.tsv");
    let (faults, _) = planned(&base(&table).to_string());
    assert_eq!(faults, [], "the base has no fault");
    let members: BTreeSet<String> = rows().into_iter().map(|row| row.named).collect();
    assert!(rows().len() >= 500 && members.len() >= 200, "{} rows, {} members", rows().len(), members.len());
}

#[test]
fn planning_names_the_innermost_member() {
    let mut missed = Vec::new();
    for row in rows() {
        let (faults, warnings) = planned(&row.config);
        let found = match row.outcome {
            Outcome::Fault => faults.first().is_some_and(|fault| fault.pointer == row.named),
            Outcome::Warning => faults.is_empty() && warnings.iter().any(|warning| warning.pointer == row.named),
        };
        if !found {
            missed.push(format!("line {}: {} is not named: {faults:?} {warnings:?}", row.line, row.named));
        }
        for fault in faults.iter().chain(&warnings) {
            assert!(!fault.msg.contains(['\0', '\n']), "line {}: {fault:?}", row.line);
        }
    }
    assert!(missed.is_empty(), "{} rows:\n{}", missed.len(), missed.join("\n"));
}

struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("windlass-bad-{}-{name}", std::process::id()));
        fs::create_dir_all(path.join("rootfs")).expect("a scratch directory");
        Scratch(path)
    }

    /// Runs a verb on the bundle, and returns the pointers that it names.
    fn named(&self, verb: &[&str], config: &str) -> (Option<i32>, BTreeSet<String>) {
        fs::write(self.0.join("config.json"), config).expect("room for a file");
        let log = self.0.join("log");
        let _ = fs::remove_file(&log);
        let output = Command::new(env!("CARGO_BIN_EXE_windlass"))
            .args(["--root", "root", "--log", "log", "--log-format", "json"])
            .args(verb)
            .current_dir(&self.0)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()
            .expect("the binary is built");
        let said =
            if verb[0] == "check" { String::from_utf8(output.stdout).ok() } else { fs::read_to_string(&log).ok() };
        let said: Value = serde_json::from_str(&said.unwrap_or_default()).unwrap_or_default();
        let lists = ["errors", "faults", "warnings"].into_iter().filter_map(|list| said[list].as_array()).flatten();
        let pointers = lists.map(|fault| &fault["pointer"]).chain([&said["pointer"]]).filter_map(Value::as_str);
        (output.status.code(), pointers.map(str::to_owned).collect())
    }
}

#[test]
fn check_explain_and_run_name_it_as_well() {
    // Two thousand runs of the program; `just quick` takes each n-th row. The test above reads and plans all of them.
    let sample = std::env::var("WINDLASS_SAMPLE").map_or(1, |n| n.parse().expect("WINDLASS_SAMPLE is a number"));
    let rows: Vec<Row> = rows().into_iter().step_by(sample).collect();
    let missed = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|threads| {
        for part in 0..4 {
            let (rows, missed) = (&rows, &missed);
            threads.spawn(move || {
                let scratch = Scratch::new(&part.to_string());
                for row in rows.iter().skip(part).step_by(4) {
                    let mut verbs = vec![vec!["check", "--format", "json"]];
                    if row.outcome == Outcome::Fault {
                        verbs.push(vec!["explain"]);
                        verbs.push(vec!["run", "windlass-bad"]);
                    }
                    for verb in verbs {
                        let (code, named) = scratch.named(&verb, &row.config);
                        let failed = row.outcome == Outcome::Warning || code == Some(1);
                        if !failed || !named.contains(&row.named) {
                            let text = format!("line {}: {verb:?}: {code:?} {} {named:?}", row.line, row.named);
                            missed.lock().expect("no panic").push(text);
                        }
                    }
                }
            });
        }
    });
    let missed = missed.into_inner().expect("no panic");
    assert!(missed.is_empty(), "{} of them:\n{}", missed.len(), missed.join("\n"));
}

#[test]
fn several_faults_are_told_together() {
    let config = r#"{"ociVersion": "1.2.0", "root": {"path": 3}, "mounts": [{"destination": "/a", "type": "bind"}, null],
        "process": {"args": "sh", "cwd": "here", "user": {"uid": -1, "gid": "x"}, "env": ["A=1", 2, null, 3]},
        "linux": {"namespaces": [{"type": "mount"}], "maskedPaths": {}, "seccomp": {"syscalls": [{"names": [1, 2]}]}}}"#;
    let scratch = Scratch::new("several");
    let (code, named) = scratch.named(&["check", "--format", "json"], config);
    assert_eq!(code, Some(1));
    for pointer in [
        "/root/path",
        "/mounts/0/source",
        "/mounts/1",
        "/process/args",
        "/process/cwd",
        "/process/user/uid",
        "/process/user/gid",
        "/process/env/1",
        "/process/env/2",
        "/process/env/3",
        "/linux/maskedPaths",
        "/linux/seccomp/syscalls/0/names/0",
        "/linux/seccomp/syscalls/0/names/1",
    ] {
        assert!(named.contains(pointer), "{pointer}: {named:?}");
    }
}

#[test]
fn a_key_twice_and_half_a_surrogate_pair_are_warnings() {
    let config = r#"{"ociVersion": "1.0.0", "ociVersion": "v1.0.2", "root": {"path": "rootfs"}, "hostname": "a\ud800",
        "process": {"args": ["sh"], "cwd": "/", "cwd": "/tmp", "user": {}, "env": ["A=\udc00"]},
        "linux": {"namespaces": [{"type": "mount"}, {"type": "uts"}],
                  "seccomp": {"defaultAction": "SCMP_ACT_ERRNO", "defaultAction": "SCMP_ACT_ALLOW"}}}"#;
    let read = windlass_base::spec::read(config.as_bytes(), "config.json").expect("it can be read");
    assert_eq!(read.faults, []);
    assert_eq!(read.value.oci_version, "v1.0.2");
    assert_eq!(read.value.process.as_ref().map(|process| process.cwd.as_str()), Some("/tmp"));
    assert_eq!(read.value.hostname, "a\u{fffd}");
    let (faults, warnings) = planned(config);
    assert_eq!(faults, []);
    for pointer in ["", "/ociVersion", "/process/cwd", "/linux/seccomp/defaultAction"] {
        assert!(warnings.iter().any(|warning| warning.pointer == pointer), "{pointer}: {warnings:?}");
    }
    // These are faults of the profile, which is read after the rest.
    let config = r#"{"ociVersion": "1.0.2", "root": {"path": "rootfs"}, "process": {"args": ["sh"], "cwd": "/"},
        "linux": {"namespaces": [{"type": "mount"}],
                  "seccomp": {"defaultAction": "SCMP_ACT_ERRNO", "defaultAction": "SCMP_ACT_ALLOW"}}}"#;
    let (faults, warnings) = planned(config);
    assert_eq!(faults, []);
    assert_eq!(
        warnings.iter().map(|warning| warning.pointer.as_str()).collect::<Vec<_>>(),
        ["/linux/seccomp/defaultAction"]
    );
}

#[test]
fn a_text_that_is_no_json_is_told_by_its_line() {
    let faults = planned("{\"process\": {\n  \"args\": [\"sh\",]\n}}").0;
    assert_eq!(faults.len(), 1);
    assert_eq!(faults[0].pointer, "/process/args/1");
    assert!(
        faults[0].msg.starts_with("cannot parse config.json: ") && faults[0].msg.contains("at line 2 column"),
        "{faults:?}"
    );
}

#[test]
fn the_process_of_exec_and_the_resources_of_update_are_read_alike() {
    let pointers = |faults: &[Diagnostic]| faults.iter().map(|fault| fault.pointer.clone()).collect::<Vec<_>>();
    let update = windlass::cli::Update::default();
    let mut warnings = Vec::new();
    let wrong = br#"{"memory": {"limit": "x", "swap": []}, "pids": []}"#;
    let error = update.to_resources(Some(wrong), &mut warnings).expect_err("wrong types");
    assert_eq!(pointers(&error.into_faults()), ["/memory/limit", "/memory/swap", "/pids"]);
    let odd = br#"{"pids": {"limit": 3, "limit": 4}, "CPU": {}}"#;
    let resources = update.to_resources(Some(odd), &mut warnings).expect("the meaning is clear");
    assert_eq!(resources.pids.and_then(|pids| pids.limit), Some(4));
    assert_eq!(pointers(&warnings), ["/pids/limit", "/CPU"]);

    let spec: Spec = serde_json::from_value(base(&data("tests/data/bad_configs.tsv"))).expect("a good base");
    let exec = |process: &str| {
        let options = Options {
            host: Host { capabilities: windlass_base::capability::CapabilitySet::all(), ..Host::default() },
            ..Options::default()
        };
        let request = windlass_plan::exec::Request::default();
        windlass_plan::exec::exec("box", &spec, &request, Some(process.as_bytes()), &options)
    };
    let error = exec(r#"{"args": "sh", "cwd": 3, "user": []}"#).expect_err("wrong types");
    assert_eq!(pointers(&error.into_faults()), ["/args", "/cwd", "/user"]);
    let error = exec(r#"{"args": ["sh"], "cwd": "/", "execCPUAffinity": {"initial": "0", "final": "x"}}"#);
    assert_eq!(pointers(&error.expect_err("no list").into_faults()), ["/execCPUAffinity/final"]);
    let plan = exec(r#"{"args": ["sh"], "cwd": "/", "Terminal": true}"#).expect("the meaning is clear");
    assert!(pointers(&plan.warnings).contains(&"/Terminal".into()), "{:?}", plan.warnings);
}
