//! The output of the program: texts that callers compare, exit codes, and the JSON log. The tests need no root, because
//! the containers are records of processes that the tests start themselves.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use windlass_store::{InitProcess, State, Store, VERSION, process_stat};

/// A directory of one test, with a state root and a bundle in it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("windlass-messages-{}-{name}", std::process::id()));
        fs::create_dir_all(path.join("bundle/rootfs/bin")).expect("a scratch directory");
        let shell = path.join("bundle/rootfs/bin/sh");
        fs::write(&shell, "#!/bin/sh\n").expect("room for a file");
        fs::set_permissions(&shell, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("a mode");
        Scratch(path)
    }

    fn root(&self) -> PathBuf {
        self.0.join("root")
    }

    fn bundle(&self) -> PathBuf {
        self.0.join("bundle")
    }

    fn config(&self, text: &str) -> &Scratch {
        fs::write(self.bundle().join("config.json"), text).expect("the bundle is there");
        self
    }

    /// Runs `windlass --root ROOT WORDS`; `BUNDLE` stands for the bundle.
    fn run(&self, words: &str) -> Answer {
        self.run_with(words, &[])
    }

    fn run_with(&self, words: &str, input: &[u8]) -> Answer {
        let bundle = self.bundle().display().to_string();
        let mut child = Command::new(env!("CARGO_BIN_EXE_windlass"))
            .arg("--root")
            .arg(self.root())
            .args(words.split_whitespace().map(|word| word.replace("BUNDLE", &bundle)))
            .env_remove("LISTEN_FDS")
            .current_dir(&self.0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary is built");
        // The command may end without reading its input.
        let _ = child.stdin.take().expect("piped").write_all(input);
        let output = child.wait_with_output().expect("it ends");
        Answer {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).expect("UTF-8"),
            err: String::from_utf8(output.stderr).expect("UTF-8"),
        }
    }

    /// The lines of the JSON log of one command, and its answer.
    fn log_of(&self, words: &str) -> (Answer, Vec<Value>) {
        let path = self.0.join("log.json");
        let answer = self.run(&format!("--log {} --log-format json {words}", path.display()));
        let text = fs::read_to_string(&path).unwrap_or_default();
        let _ = fs::remove_file(&path);
        (answer, text.lines().map(|line| serde_json::from_str(line).expect("each line is an object")).collect())
    }

    /// Records `pid` as the init of a container, as create does at its end.
    fn record(&self, id: &str, init: Option<InitProcess>) {
        let store = Store::make(&self.root()).expect("a state root");
        let reservation = store.reserve(id).expect("a free id");
        let state = State {
            version: VERSION,
            id: id.into(),
            oci_version: "1.2.0".into(),
            bundle: self.bundle().display().to_string(),
            rootfs: self.bundle().join("rootfs").display().to_string(),
            annotations: Default::default(),
            cgroup: None,
            unit: None,
            cgroup_v1: Vec::new(),
            namespaces: windlass_base::namespaces::Namespaces::empty(),
            owner: "me".into(),
            created: "2026-01-02T03:04:05.000000006Z".into(),
            intel_rdt: None,
            resctrl: None,
            chroot: false,
            no_new_keyring: false,
            keyring: ".0123456789abcdef".into(),
            held: false,
        };
        reservation.record(&state, GOOD.as_bytes(), false).expect("room for a file");
        if let Some(init) = &init {
            reservation.record_init(init).expect("room for a line");
        }
        drop(reservation.commit(state, init.unwrap_or(InitProcess { pid: 1, start_time: 0 }), Default::default()));
    }

    fn stopped(&self, id: &str) {
        self.record(id, Some(InitProcess { pid: 1, start_time: u64::MAX }));
    }

    fn running(&self, id: &str) -> Sleeper {
        let child = Command::new("sleep").arg("600").spawn().expect("sleep(1)");
        let pid = child.id() as i32;
        let start_time = process_stat(pid).expect("readable").expect("it lives").start_time;
        self.record(id, Some(InitProcess { pid, start_time }));
        Sleeper(child)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A process that stands in for a container's init.
struct Sleeper(Child);

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[derive(Debug)]
struct Answer {
    code: i32,
    out: String,
    err: String,
}

impl Answer {
    /// The message: without a log, the text after `error: `.
    fn first_line(&self) -> &str {
        let line = self.err.lines().next().unwrap_or("");
        line.strip_prefix("error: ").unwrap_or(line)
    }
}

const GOOD: &str = r#"{
    "ociVersion": "1.2.0",
    "root": { "path": "rootfs" },
    "process": { "user": { "uid": 0, "gid": 0 }, "args": ["sh"], "cwd": "/" },
    "linux": { "namespaces": [{ "type": "mount" }] }
}"#;

const BROKEN: &str = r#"{
    "ociVersion": "1.2.0",
    "hostname": "x",
    "root": { "path": "rootfs" },
    "process": { "user": { "uid": 0, "gid": 0 }, "args": ["sh"], "cwd": "here" },
    "mounts": [{ "destination": "/data", "type": "bind" }],
    "linux": { "namespaces": [{ "type": "mount" }] }
}"#;

#[test]
fn a_container_that_is_not_there_does_not_exist() {
    let scratch = Scratch::new("missing");
    for verb in ["state ID", "start ID", "kill ID", "kill ID 9", "delete ID", "pause ID", "resume ID", "ps ID"] {
        let answer = scratch.run(&verb.replace("ID", "nobody"));
        assert_eq!(
            (answer.code, answer.err.as_str(), answer.out.as_str()),
            (1, "error: container does not exist\n", ""),
            "{verb}"
        );
    }
    assert_eq!(scratch.run("events --stats nobody").first_line(), "container does not exist");
    assert_eq!(scratch.run("update --pids-limit 3 nobody").first_line(), "container does not exist");
    let exec = scratch.run("exec nobody true");
    assert_eq!((exec.code, exec.first_line()), (255, "container does not exist"));
    let forced = scratch.run("delete --force nobody");
    assert_eq!((forced.code, forced.err.as_str()), (0, ""));
}

#[test]
fn a_container_that_has_stopped_says_so() {
    let scratch = Scratch::new("stopped");
    scratch.stopped("web1");
    for (words, code, text) in [
        ("start web1", 1, "cannot start a container that has stopped"),
        ("kill web1", 1, "container not running"),
        ("exec web1 true", 255, "cannot exec in a stopped container"),
        ("kill --all web1 9", 0, ""),
        ("ps --format json web1", 0, ""),
        ("delete web1", 0, ""),
        ("state web1", 1, "container does not exist"),
    ] {
        let answer = scratch.run(words);
        assert_eq!((answer.code, answer.first_line()), (code, text), "{words}");
    }
}

#[test]
fn a_container_that_runs_says_so() {
    let scratch = Scratch::new("running");
    let mut sleeper = scratch.running("web1");
    for (words, text) in [
        ("start web1", "cannot start an already running container"),
        ("delete web1", "cannot delete container web1 that is not stopped: running"),
        ("resume web1", "container not paused"),
    ] {
        let answer = scratch.run(words);
        assert_eq!((answer.code, answer.first_line()), (1, text), "{words}");
    }
    assert_eq!(scratch.run("kill web1 SIGTERM").code, 0);
    let status = sleeper.0.wait().expect("it is ours to wait for");
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(15));
    assert_eq!(scratch.run("kill web1").first_line(), "container not running");
    assert_eq!(scratch.run("delete web1").code, 0);
}

#[test]
fn delete_by_force_ends_what_runs() {
    let scratch = Scratch::new("force");
    let mut sleeper = scratch.running("web1");
    // The process is a child of the test and stays a zombie until it is waited for, as it would
    // below a shim.
    let answer = scratch.run("delete --force web1");
    assert_eq!((answer.code, answer.err.as_str()), (0, ""));
    let status = sleeper.0.wait().expect("it is ours to wait for");
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
    assert_eq!(scratch.run("list -q").out, "");
}

#[test]
fn a_state_of_a_newer_version_is_not_guessed_at() {
    let scratch = Scratch::new("version");
    scratch.stopped("web1");
    let path = scratch.root().join("web1");
    let text = fs::read_to_string(&path).expect("recorded").replace("\"version\":2", "\"version\":77");
    fs::write(&path, text).expect("ours");
    let answer = scratch.run("delete web1");
    assert_eq!(answer.code, 1);
    assert_eq!(
        answer.first_line(),
        format!("the state of \"web1\" has version 77, and this windlass knows versions up to {VERSION}")
    );
    assert_eq!(scratch.run("delete --force web1").code, 1, "what cannot be read is not cleared away half");
    assert!(path.exists());
}

#[test]
fn damaged_state_is_told_and_cleared_away_by_force() {
    let scratch = Scratch::new("damaged");
    scratch.stopped("web1");
    let path = scratch.root().join("web1");
    let text = fs::read_to_string(&path).expect("recorded").replacen("\"owner\"", "", 1);
    fs::write(&path, text).expect("ours");
    let answer = scratch.run("state web1");
    assert_eq!(answer.code, 1);
    assert!(answer.first_line().starts_with("the state of \"web1\" is damaged: "), "{answer:?}");
    assert_eq!(scratch.run("delete --force web1").code, 0);
    assert_eq!(scratch.run("list -q").out, "");
}

#[test]
fn state_is_one_document_with_what_callers_read() {
    let scratch = Scratch::new("state");
    let sleeper = scratch.running("web1");
    let answer = scratch.run("state web1");
    let value: Value = serde_json::from_str(&answer.out).expect("JSON");
    assert_eq!(value["ociVersion"], "1.2.0");
    assert_eq!(value["id"], "web1");
    assert_eq!(value["status"], "running");
    assert_eq!(value["pid"], sleeper.0.id());
    assert_eq!(value["bundle"], scratch.bundle().display().to_string());
    assert_eq!(value["owner"], "me");
    assert_eq!(value["created"], "2026-01-02T03:04:05.000000006Z");
    assert!(!answer.out.ends_with('\n'), "as runc has it");
    drop(sleeper);
    let value: Value = serde_json::from_str(&scratch.run("state web1").out).expect("JSON");
    assert_eq!((&value["status"], &value["pid"]), (&"stopped".into(), &0.into()));
}

#[test]
fn lists_are_a_table_one_line_of_json_or_ids() {
    let scratch = Scratch::new("list");
    assert_eq!(scratch.run("list --format json").out.trim_end(), "null");
    assert_eq!(
        scratch.run("list").out.split_whitespace().collect::<Vec<_>>(),
        ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
    );
    scratch.stopped("b");
    scratch.stopped("a");
    assert_eq!(scratch.run("list -q").out, "a\nb\n");
    let json = scratch.run("list --format json").out;
    assert_eq!(json.lines().count(), 1);
    let value: Value = serde_json::from_str(&json).expect("JSON");
    let ids: Vec<_> = value.as_array().expect("a list").iter().map(|row| row["id"].clone()).collect();
    assert_eq!(ids, ["a", "b"]);
}

#[test]
fn wrong_command_lines_have_the_words_and_codes_of_runc() {
    let scratch = Scratch::new("usage");
    for (words, code, text) in [
        ("bogus", 3, "No help topic for 'bogus'"),
        ("create", 1, "windlass: \"create\" requires exactly 1 argument(s)"),
        ("state --nope x", 1, "flag provided but not defined: -nope"),
        ("restore --lsm-mount-context", 1, "flag needs an argument: -lsm-mount-context"),
        ("checkpoint x", 1, "container does not exist"),
        ("checkpoint", 1, "windlass: \"checkpoint\" requires exactly 1 argument(s)"),
        ("kill x SIGNOPE", 1, "unknown signal \"SIGNOPE\""),
        ("create a/b", 1, "invalid container ID format: \"a/b\": invalid character `/` in the ID"),
        ("create ..", 1, "invalid container ID format: \"..\""),
    ] {
        let answer = scratch.run(words);
        assert_eq!((answer.code, answer.first_line(), answer.out.as_str()), (code, text, ""), "{words}");
    }
}

#[test]
fn help_and_version_go_to_stdout_alone() {
    let scratch = Scratch::new("help");
    for words in ["--help", "--version", "create --help", "features", "help exec"] {
        let answer = scratch.run(words);
        assert_eq!((answer.code, answer.err.as_str()), (0, ""), "{words}");
        assert!(!answer.out.is_empty(), "{words}");
    }
    let version = scratch.run("--version").out;
    assert!(version.starts_with("windlass version "), "{version}");
    assert!(version.lines().any(|line| line.starts_with("commit: ")), "{version}");
    assert!(version.lines().any(|line| line.starts_with("spec: 1.")), "{version}");
    serde_json::from_str::<Value>(&scratch.run("features").out).expect("pure JSON");
}

#[test]
fn a_broken_configuration_is_one_line_with_all_faults() {
    let scratch = Scratch::new("one-line");
    let (answer, lines) = scratch.config(BROKEN).log_of("create --bundle BUNDLE web1");
    assert_eq!(answer.code, 1);
    let [line] = lines.as_slice() else { panic!("exactly one line: {lines:?}") };
    let keys: Vec<&String> = line.as_object().expect("an object").keys().collect();
    for key in ["level", "msg", "time"] {
        assert!(keys.iter().any(|known| *known == key), "{key} is missing: {keys:?}");
    }
    assert_eq!(line["level"], "error");
    assert_eq!(line["kind"], "invalid-config");
    assert_eq!(line["msg"], "windlass create failed: unable to set hostname without a private UTS namespace");
    assert_eq!(line["pointer"], "/hostname");
    let pointers: Vec<&Value> = line["faults"].as_array().expect("all of them").iter().map(|f| &f["pointer"]).collect();
    assert_eq!(pointers, ["/hostname", "/mounts/0/source", "/process/cwd"]);
    assert_eq!(answer.err.lines().next(), line["msg"].as_str(), "with a log, stderr has the same first line");
    assert!(!scratch.root().join("web1").exists(), "nothing stays");
}

#[test]
fn the_time_of_a_line_is_rfc_3339_in_utc() {
    let scratch = Scratch::new("time");
    let (_, lines) = scratch.log_of("state nobody");
    let time = lines[0]["time"].as_str().expect("text").to_string();
    assert_eq!(time.len(), "2026-11-24T02:34:45Z".len());
    assert!(time.ends_with('Z') && time.as_bytes()[10] == b'T', "{time}");
}

#[test]
fn a_success_leaves_no_line() {
    let scratch = Scratch::new("silence");
    scratch.stopped("web1");
    let (answer, lines) = scratch.config(GOOD).log_of("state web1");
    assert_eq!((answer.code, lines.len()), (0, 0));
}

#[test]
fn faults_of_the_json_text_have_a_pointer() {
    let scratch = Scratch::new("parse");
    for (text, pointer) in [
        (r#"{"process": {"user": {"uid": "x"}}}"#, "/process/user/uid"),
        (r#"{"mounts": [{}, {"options": 3}]}"#, "/mounts/1/options"),
        (r#"{"process": {"args": ["a", 7]}}"#, "/process/args/1"),
        (r#"{"linux": {"uidMappings": [{"hostID": -1}]}}"#, "/linux/uidMappings/0/hostID"),
        (r#"{"linux": {"resources": {"pids": {"limit": 99999999999999999999}}}}"#, "/linux/resources/pids/limit"),
    ] {
        let (answer, lines) = scratch.config(text).log_of("create --bundle BUNDLE web1");
        assert_eq!(answer.code, 1, "{text}");
        assert_eq!(lines[0]["pointer"], pointer, "{text}");
        assert_eq!(lines[0]["kind"], "invalid-config", "{text}");
    }
}

#[test]
fn check_tells_all_that_is_wrong_and_exits_with_1() {
    let scratch = Scratch::new("check");
    let answer = scratch.config(BROKEN).run("check --bundle BUNDLE");
    assert_eq!(answer.code, 1);
    for part in ["/hostname", "/mounts/0/source", "/process/cwd", "Cwd must be an absolute path"] {
        assert!(answer.out.contains(part), "{part}: {answer:?}");
    }
    let json = scratch.run("check --bundle BUNDLE --format json");
    let value: Value = serde_json::from_str(&json.out).expect("JSON");
    assert_eq!(value["errors"].as_array().map(Vec::len), Some(3));
    let good = scratch.config(GOOD).run("check --bundle BUNDLE");
    assert_eq!((good.code, good.out.as_str()), (0, "the bundle would run here\n"));
}

#[test]
fn check_looks_at_the_host_as_well() {
    let scratch = Scratch::new("check-host");
    let text = GOOD.replace("\"linux\":", "\"mounts\": [{ \"destination\": \"/d\", \"type\": \"none\", \"source\": \"/no/such/dir\", \"options\": [\"bind\"] }],\n\"linux\":");
    let answer = scratch.config(&text).run("check --bundle BUNDLE");
    assert_eq!(answer.code, 1);
    assert!(answer.out.contains("/mounts/0/source"), "{answer:?}");
}

#[test]
fn explain_does_nothing_and_tells_the_plan() {
    let scratch = Scratch::new("explain");
    let answer = scratch.config(GOOD).run("explain --bundle BUNDLE");
    assert_eq!((answer.code, answer.err.as_str()), (0, ""));
    assert!(answer.out.starts_with("bundle: 2 processes (runtime, init), "), "{}", answer.out);
    assert!(answer.out.trim_end().ends_with("/process/args"), "{}", answer.out);
    assert!(!scratch.root().exists(), "not even a state root is made");
    let json = scratch.run("explain --bundle BUNDLE --format json");
    let value: Value = serde_json::from_str(&json.out).expect("JSON");
    assert_eq!(value["processes"], 2);
    let last = value["steps"].as_array().and_then(|steps| steps.last()).expect("steps");
    assert_eq!(last["asked_by"], "/process/args");
    let broken = scratch.config(BROKEN).run("explain --bundle BUNDLE");
    assert_eq!((broken.code, broken.out.as_str()), (1, ""));
    assert_eq!(broken.first_line(), "unable to set hostname without a private UTS namespace");
}

#[test]
fn a_bundle_or_a_configuration_that_is_not_there_is_named() {
    let scratch = Scratch::new("no-bundle");
    let answer = scratch.run("create --bundle /no/such/bundle web1");
    assert_eq!(answer.code, 1);
    assert!(answer.first_line().contains("\"/no/such/bundle\": no such file or directory"), "{answer:?}");
    assert!(answer.err.contains("--bundle"), "{answer:?}");
    let answer = scratch.run("create --bundle BUNDLE web1");
    assert!(answer.first_line().contains("JSON specification file config.json not found"), "{answer:?}");
}

#[test]
fn terminals_and_console_sockets_must_fit() {
    let scratch = Scratch::new("terminal");
    let terminal = GOOD.replace("\"cwd\"", "\"terminal\": true, \"cwd\"");
    let answer = scratch.config(&terminal).run("create --bundle BUNDLE web1");
    assert!(
        answer.first_line().contains("cannot allocate tty if runc will detach without setting console socket"),
        "{answer:?}"
    );
    let path = scratch.0.join("console.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&path).expect("a socket");
    let answer = scratch.config(GOOD).run(&format!("create --bundle BUNDLE --console-socket {} web1", path.display()));
    assert!(
        answer.first_line().contains("cannot use console socket if runc will not detach or allocate tty"),
        "{answer:?}"
    );
}

#[test]
fn descriptors_that_are_not_open_cannot_be_preserved() {
    let scratch = Scratch::new("preserve");
    let answer = scratch.config(GOOD).run("create --bundle BUNDLE --preserve-fds 500 web1");
    assert_eq!(answer.code, 1);
    assert!(answer.first_line().contains("unable to preserve file descriptor"), "{answer:?}");
}

#[test]
fn strict_makes_the_first_warning_an_error() {
    let scratch = Scratch::new("strict");
    let text = GOOD.replace("\"cwd\"", "\"capabilities\": { \"bounding\": [\"CAP_FLY\"] }, \"cwd\"");
    let answer = scratch.config(&text).run("--strict create --bundle BUNDLE web1");
    assert_eq!(answer.code, 1);
    assert!(answer.first_line().contains("ignoring unknown capability \"CAP_FLY\""), "{answer:?}");
    assert!(answer.err.contains("/process/capabilities/bounding/0"), "{answer:?}");
}

#[test]
fn a_taken_id_is_refused_in_the_words_of_runc() {
    let scratch = Scratch::new("taken");
    scratch.stopped("web1");
    let (answer, lines) = scratch.config(GOOD).log_of("create --bundle BUNDLE web1");
    assert_eq!(answer.code, 1);
    assert!(answer.first_line().ends_with("container with given ID already exists"), "{answer:?}");
    assert_eq!(lines[0]["kind"], "already-exists");
    assert_eq!(lines.len(), 1);
    assert!(scratch.root().join("web1").exists(), "the other's state is left alone");
}

#[test]
fn a_log_that_cannot_be_opened_is_told_on_stderr() {
    let scratch = Scratch::new("no-log");
    let answer = scratch.run("--log /no/such/dir/log state web1");
    assert_eq!(answer.code, 1);
    assert_eq!(answer.first_line(), "cannot open the log \"/no/such/dir/log\": no such file or directory");
}

#[test]
fn spec_writes_a_configuration_that_can_be_planned_and_does_not_overwrite() {
    let scratch = Scratch::new("spec");
    for words in ["spec --bundle BUNDLE", "spec --bundle BUNDLE --rootless"] {
        let path = scratch.bundle().join("config.json");
        let _ = fs::remove_file(&path);
        let answer = scratch.run(words);
        assert_eq!((answer.code, answer.err.as_str()), (0, ""), "{words}");
        let spec = windlass_base::spec::parse(&fs::read(&path).expect("written"), "config.json").expect("it parses");
        let options = windlass_plan::Options {
            host: windlass_plan::Host {
                capabilities: windlass_base::capability::CapabilitySet::all(),
                ..Default::default()
            },
            ..Default::default()
        };
        let plan = windlass_plan::create("x", &spec, &options).unwrap_or_else(|error| panic!("{words}: {error}"));
        assert_eq!(plan.warnings, [], "{words}");
        assert_eq!(scratch.run(words).code, 1, "a configuration that is there is kept");
    }
}

#[test]
fn update_reads_its_document_before_it_changes_anything() {
    let scratch = Scratch::new("update");
    let _sleeper = scratch.running("web1");
    let answer = scratch.run_with("update -r - web1", b"{\"memory\": {\"limit\": \"much\"}}");
    assert_eq!(answer.code, 1);
    assert!(answer.err.contains("/memory/limit"), "{answer:?}");
}

#[test]
fn under_the_name_runc_it_calls_itself_so() {
    let scratch = Scratch::new("runc");
    let link: &Path = &scratch.0.join("runc");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_windlass"), link).expect("a link");
    let output = Command::new(link).arg("--version").output().expect("it runs");
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("runc version "));
    let output = Command::new(link).arg("--root").arg(scratch.root()).args(["create", "--bundle", "/no", "x"]).output();
    let text = String::from_utf8(output.expect("it runs").stderr).expect("UTF-8");
    assert!(text.starts_with("error: runc create failed: "), "{text}");
}

#[test]
fn a_log_that_nobody_reads_is_not_waited_for() {
    let scratch = Scratch::new("unread");
    let fifo = scratch.0.join("log");
    assert!(Command::new("mkfifo").arg(&fifo).status().expect("mkfifo").success());
    let mut command = Command::new("timeout");
    command.args(["60", env!("CARGO_BIN_EXE_windlass"), "--root"]).arg(scratch.root());
    let output = command.arg("--log").arg(&fifo).arg("list").output().expect("timeout(1)");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), errors.contains("cannot open the log")), (Some(1), true), "{errors}");
}
