//! The role of conmon.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use windlass_sys::socket;

use super::{Lines, control, last, many, opened, program, until, upgraded};

const ID: &str = "fedcba9876543210";

struct Conmon {
    dir: PathBuf,
    sync: File,
}

impl Conmon {
    fn start(name: &str, process: &str, more: &[&str]) -> Conmon {
        let dir = std::env::temp_dir().join(format!("windlass-upgraded-conmon-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(dir.join("exits")).expect("a directory");
        fs::write(dir.join("process"), process).expect("written");
        fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/runtime.sh"), dir.join("runtime"))
            .expect("copied");
        fs::copy(env!("CARGO_BIN_EXE_windlass-shim"), dir.join("another")).expect("copied");
        symlink(env!("CARGO_BIN_EXE_windlass-shim"), dir.join("conmon")).expect("a link");
        assert!(Command::new("mkfifo").arg(dir.join("sync")).status().expect("mkfifo").success());
        let sync = fs::OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(dir.join("sync"));
        let here = dir.display();
        let words = format!(
            "exec ./conmon --api-version -c {ID} -u {ID} -n web --full-attach --log-level info -r {here}/runtime \
             -b {here} -p {here}/pidfile --conmon-pidfile {here}/conmon.pid --exit-dir {here}/exits \
             --exit-command /bin/sh --exit-command-arg -c --exit-command-arg 'cat exits/{ID} >after' \"$@\" 3<>sync 2>said"
        );
        let mut command = Command::new("sh");
        command.args(["-c", &words, "sh"]).args(more).current_dir(&dir).env("_OCI_SYNCPIPE", "3").stdin(Stdio::null());
        assert!(command.status().expect("a shell").success());
        Conmon { dir, sync: sync.expect("a fifo") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn pid(&self) -> i32 {
        let mut pid = None;
        until(|| {
            pid = self.text("conmon.pid").parse().ok();
            pid.is_some()
        });
        pid.expect("it was awaited")
    }

    fn answer(&mut self) -> Value {
        let mut said = Vec::new();
        let mut byte = [0];
        until(|| {
            while matches!(self.sync.read(&mut byte), Ok(1)) {
                said.push(byte[0]);
                if byte[0] == b'\n' {
                    return true;
                }
            }
            false
        });
        serde_json::from_slice(&said).expect("JSON")
    }

    fn upgrade(&self) {
        let path = self.path("another");
        let mut client = control(self.pid());
        let before = client.call("hello", json!({})).expect("answered");
        assert_eq!((&before["mode"], &before["ids"]), (&json!("conmon"), &json!([ID])));
        upgraded(&mut client, &opened(&path));
        let after = client.call("hello", json!({})).expect("answered");
        assert_eq!(after["upgrades"].as_u64(), before["upgrades"].as_u64().map(|n| n + 1));
        assert_eq!(program(self.pid()), path);
    }

    fn finish(&self) -> String {
        until(|| !self.text("after").is_empty());
        until(|| !PathBuf::from(format!("/proc/{}", self.pid())).exists());
        self.text("after")
    }
}

impl Drop for Conmon {
    fn drop(&mut self) {
        for file in ["pidfile", "conmon.pid"] {
            if let Ok(pid) = self.text(file).parse::<i32>() {
                let _ = Command::new("kill").args(["-9", &pid.to_string()]).stderr(Stdio::null()).status();
            }
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

#[test]
fn a_conmon_goes_on_with_its_log_its_clients_and_its_exit_command() {
    let script = "read -r line; i=0; while [ $i -lt 3000 ]; do echo \"$line $i\"; i=$((i+1)); done; while [ ! -e stop ]; do sleep 0.05; done; exit 6";
    let log = std::env::temp_dir().join(format!("windlass-upgraded-conmon-life-{}/log", std::process::id()));
    let mut conmon = Conmon::start("life", script, &["-i", "-l", &format!("k8s-file:{}", log.display())]);
    let pid = conmon.answer()["data"].as_i64().expect("a pid");
    assert!(pid > 0);
    let bundle = File::open(&conmon.dir).expect("the bundle");
    let client = socket::connect_at(bundle.as_fd(), "attach").expect("connected");
    conmon.upgrade();
    socket::send(client.as_fd(), b"text\n", &[]).expect("sent");
    for _ in 0..5 {
        conmon.upgrade();
    }
    // A line for the control fifo; the first half of it was sent before.
    let mut control = fs::OpenOptions::new().write(true).open(conmon.path("ctl")).expect("the fifo");
    control.write_all(b"2 0").expect("written");
    fs::rename(&log, conmon.path("log.old")).expect("renamed");
    conmon.upgrade();
    control.write_all(b" 0\n").expect("written");
    until(|| log.exists());
    fs::write(conmon.path("stop"), "").expect("written");
    let mut got = Vec::new();
    let mut buffer = vec![0; 8193];
    while let Ok((n @ 1.., _)) = socket::receive(client.as_fd(), &mut buffer) {
        got.extend_from_slice(&buffer[1..n]);
    }
    let expected: String = (0..3000).map(|n| format!("text {n}\n")).collect();
    assert!(got == expected.as_bytes(), "{} of {} bytes", got.len(), expected.len());
    assert_eq!(conmon.finish(), "6");
    let entries = conmon.text("log.old") + &conmon.text("log");
    let logged: String = entries
        .lines()
        .filter_map(|line| {
            let mut words = line.splitn(4, ' ');
            let (_, _, tag, text) = (words.next()?, words.next()?, words.next()?, words.next()?);
            Some(format!("{text}{}", if tag == "F" { "\n" } else { "" }))
        })
        .collect();
    assert!(logged == expected, "the log has {} of {} bytes", logged.len(), expected.len());
    assert!(!conmon.path("attach").exists(), "its endpoints are removed at the end");
}

#[test]
fn an_exec_of_conmon_is_answered_by_the_program_that_goes_on() {
    let dir = std::env::temp_dir().join(format!("windlass-upgraded-conmon-exec-{}", std::process::id()));
    let spec = dir.join("process").display().to_string();
    let mut conmon = Conmon::start("exec", "sleep 0.5; exit 8", &["-e", "-l", "none", "--exec-process-spec", &spec]);
    assert!(conmon.answer()["data"].as_i64().expect("a pid") > 0);
    conmon.upgrade();
    assert_eq!(conmon.answer()["data"], json!(8));
    assert_eq!(conmon.finish(), "8");
}

#[test]
fn nothing_is_lost_or_doubled_by_many_upgrades_under_load() {
    // With pauses, because everything is kept in a log.
    let script = "i=0; while [ ! -e stop ]; do echo line $i; i=$((i+1)); [ $((i % 500)) -gt 0 ] || sleep 0.01; done; echo end $i >&2; exit 6";
    let log = std::env::temp_dir().join(format!("windlass-upgraded-conmon-many-{}/log", std::process::id()));
    let mut conmon = Conmon::start("many", script, &["-l", &format!("k8s-file:{}", log.display())]);
    let init = conmon.answer()["data"].as_i64().expect("a pid");
    let bundle = File::open(&conmon.dir).expect("the bundle");
    let client = socket::connect_at(bundle.as_fd(), "attach").expect("connected");
    // A client that gets no time for seconds is disconnected, and conmon's protocol cannot report that.
    let reader = std::thread::spawn(move || {
        let (mut lines, mut rest, mut buffer) = (None, Vec::new(), vec![0; 8193]);
        while let Ok((n @ 1.., _)) = socket::receive(client.as_fd(), &mut buffer) {
            if buffer[0] == 2 {
                rest.extend_from_slice(&buffer[1..n]);
                super::take_whole(&mut lines, &mut rest);
            }
        }
        lines.map_or(0, |lines: Lines| lines.0)
    });
    let mut endpoint = fs::OpenOptions::new().write(true).open(conmon.path("ctl")).expect("the fifo");
    let mut client = control(conmon.pid());
    let mut programs = [conmon.path("another"), env!("CARGO_BIN_EXE_windlass-shim").into()];
    let mut parts = vec![];
    for round in 0..many() {
        // A half sent request, and a log that is then replaced by another file.
        endpoint.write_all(b"2 0").expect("written");
        if round % 10 == 9 {
            parts.push(conmon.path(&format!("log.{round}")));
            fs::rename(&log, &parts[parts.len() - 1]).expect("renamed");
        }
        upgraded(&mut client, &opened(&programs[0]));
        assert_eq!(program(conmon.pid()), programs[0]);
        programs.swap(0, 1);
        endpoint.write_all(b" 0\n").expect("written");
        until(|| log.exists());
    }
    assert!(PathBuf::from(format!("/proc/{init}")).exists(), "it is the same container");
    fs::write(conmon.path("stop"), "").expect("written");
    assert_eq!(conmon.finish(), "6");
    assert!(reader.join().expect("no line is missing or doubled") > 0);
    parts.push(log);
    let mut text = [String::new(), String::new()];
    for part in parts {
        for entry in fs::read_to_string(part).expect("a log").lines() {
            let mut words = entry.splitn(4, ' ');
            let mut word = || words.next().expect("a word");
            let (_, stream, tag, rest) = (word(), word(), word(), word());
            let whole = if tag == "F" { "\n" } else { "" };
            text[usize::from(stream == "stderr")] += &format!("{rest}{whole}");
        }
    }
    let mut lines = Lines(0);
    lines.take(text[0].as_bytes(), &mut Vec::new());
    assert_eq!(lines.0, last(&text[1]), "each line is in the log");
}

/// The image of a shim with all its endpoints.
pub fn image() -> Vec<u8> {
    let conmon = Conmon::start("image", "sleep 60", &["-i", "-l", "none", "-T", "1000"]);
    let pid = conmon.pid();
    until(|| conmon.path("attach").exists() && !conmon.text("pidfile").is_empty());
    super::formats::image_of(pid, control(pid))
}
