//! containerd's protocol.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::ttrpc::{Client, context};
use containerd_shim_protos::{TaskClient, api};
use serde_json::json;

use super::{Lines, control, opened, program, until, upgraded};

/// Init waits for `go`; execs run the script `SPEC.sh`; both read nothing.
const RUNTIME: &str = r#"#!/bin/sh
dir=${0%/*}
while [ $# -gt 0 ]; do
  case $1 in
    --pid-file) pid_file=$2; shift ;;
    --process) process=$2; shift ;;
    --root|--log|--log-format|--bundle) shift ;;
    --detach|--all) ;;
    *) [ -n "$verb" ] || verb=$1 ;;
  esac
  shift
done
while [ -e "$dir/hang-$verb" ]; do sleep 0.02; done
case $verb in
  create) ( read -r _ <"$dir/go"; exec sh "$dir/init.sh" ) & echo $! >"$pid_file"; echo $! >"$dir/init.is" ;;
  start) echo >"$dir/go" ;;
  exec)
    text=$(sed -n 's/.*"script": *"\([^"]*\)".*/\1/p' "$process")
    # It waits until this shell has ended, which would reap it otherwise.
    mkfifo "$pid_file.gate"; exec 4<>"$pid_file.gate" 5<"$pid_file.gate"; rm "$pid_file.gate"
    ( exec 4>&-; read -r _ <&5; exec sh "$text" 5<&- ) & echo $! >"$pid_file" ;;
  kill|delete) kill -9 "$(cat "$dir/init.is")" 2>/dev/null; : ;;
esac
"#;

/// A shim of containerd, and a receiver of its events.
struct Shim {
    dir: PathBuf,
    pid: i32,
    task: TaskClient,
    told: Arc<Mutex<Vec<String>>>,
}

fn patience() -> context::Context {
    context::with_timeout(100_000_000_000)
}

impl Shim {
    fn start(name: &str, init: &str) -> Shim {
        let dir = std::env::temp_dir().join(format!("windlass-upgraded-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).expect("a directory");
        fs::write(dir.join("config.json"), "{}").expect("written");
        fs::write(dir.join("init.sh"), init).expect("written");
        fs::write(dir.join("fake-runtime"), RUNTIME).expect("written");
        fs::set_permissions(dir.join("fake-runtime"), fs::Permissions::from_mode(0o755)).expect("set");
        fs::copy(env!("CARGO_BIN_EXE_windlass-shim"), dir.join("another")).expect("copied");
        for fifo in ["go", "out"] {
            assert!(Command::new("mkfifo").arg(dir.join(fifo)).status().expect("mkfifo").success());
        }
        let params = BootstrapParams {
            instance_id: "c".into(),
            namespace: "ns".into(),
            containerd_ttrpc_address: dir.join("events").display().to_string(),
            socket_dir: Some(dir.display().to_string()),
            ..BootstrapParams::default()
        };
        let mut child = Command::new(env!("CARGO_BIN_EXE_windlass-shim"))
            .arg0("containerd-shim-windlass-v2")
            .args(["-namespace", "ns", "-id", "c", "-address", "/nonexistent", "start"])
            .current_dir(&dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        child.stdin.take().expect("a pipe").write_all(&params.write_to_bytes().expect("written")).expect("written");
        let output = child.wait_with_output().expect("ended");
        let result = BootstrapResult::parse_from_bytes(&output.stdout).expect("a result");
        let task = TaskClient::new(Client::connect(&result.address).expect("connected"));
        let pid = task.connect(patience(), &api::ConnectRequest::default()).expect("answered").shim_pid as i32;
        Shim { dir, pid, task, told: Arc::default() }
    }

    /// Takes events from now on, as containerd does.
    fn listen(&self) {
        let listener = UnixListener::bind(self.dir.join("events")).expect("bound");
        let told = self.told.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let told = told.clone();
                std::thread::spawn(move || take_events(stream, &told));
            }
        });
    }

    fn create(&self) -> u32 {
        let mut options = Any::new();
        options.type_url = "containerd.runc.v1.Options".into();
        let path = self.dir.join("fake-runtime").display().to_string();
        // Field 6, the runtime's path.
        options.value = [&[6 << 3 | 2, path.len() as u8], path.as_bytes()].concat();
        let mut create = api::CreateTaskRequest { id: "c".into(), ..Default::default() };
        create.bundle = self.dir.display().to_string();
        create.stdout = self.dir.join("out").display().to_string();
        create.options = Some(options).into();
        self.task.create(patience(), &create).expect("created").pid
    }

    fn upgrade(&self) {
        let path = self.dir.join("another");
        let mut client = control(self.pid);
        assert_eq!(client.call("hello", json!({})).expect("answered")["mode"], json!("containerd"));
        upgraded(&mut client, &opened(&path));
        assert_eq!(program(self.pid), path);
    }

    fn told(&self) -> Vec<String> {
        self.told.lock().expect("whole").clone()
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        for pid in [fs::read_to_string(self.dir.join("init.is")).unwrap_or_default(), self.pid.to_string()] {
            let _ = Command::new("kill").args(["-9", pid.trim()]).stderr(Stdio::null()).status();
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Acknowledges each frame, and records the topics.
fn take_events(mut stream: UnixStream, told: &Mutex<Vec<String>>) {
    let mut head = [0; 10];
    while stream.read_exact(&mut head).is_ok() {
        let length = u32::from_be_bytes(head[..4].try_into().expect("four bytes"));
        let mut body = vec![0; length as usize];
        if stream.read_exact(&mut body).is_err() {
            return;
        }
        let text = String::from_utf8_lossy(&body).into_owned();
        let at = text.find("/tasks/").expect("a topic") + "/tasks/".len();
        let topic = text[at..].chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect();
        told.lock().expect("whole").push(topic);
        std::thread::sleep(Duration::from_millis(5));
        let answer = [&[0, 0, 0, 0], &head[4..8], &[2, 0]].concat();
        if stream.write_all(&answer).is_err() {
            return;
        }
    }
}

#[test]
fn the_events_of_a_daemon_that_is_away_go_over_and_come_once_and_in_order() {
    let shim = Shim::start("away", "exit 7\n");
    shim.create();
    let waiting = {
        let task = shim.task.clone();
        std::thread::spawn(move || task.wait(patience(), &api::WaitRequest { id: "c".into(), ..Default::default() }))
    };
    shim.upgrade();
    shim.task.start(patience(), &api::StartRequest { id: "c".into(), ..Default::default() }).expect("started");
    assert_eq!(waiting.join().expect("no panic").expect("answered by the other program").exit_status, 7);
    shim.upgrade();
    assert_eq!(shim.told(), [""; 0]);
    shim.listen();
    // An event may have been sent and not acknowledged.
    until(|| !shim.told().is_empty());
    shim.upgrade();
    shim.task.delete(patience(), &api::DeleteRequest { id: "c".into(), ..Default::default() }).expect("deleted");
    until(|| shim.told().len() >= 4);
    shim.upgrade();
    assert_eq!(shim.told(), ["create", "start", "exit", "delete"]);
    shim.task.shutdown(patience(), &api::ShutdownRequest { id: "c".into(), ..Default::default() }).expect("answered");
    until(|| !Path::new(&format!("/proc/{}", shim.pid)).exists());
}

#[test]
fn execs_streams_and_calls_go_on_under_many_upgrades() {
    let shim = Shim::start("many", "i=0; while [ ! -e \"${0%/*}/stop\" ]; do echo line $i; i=$((i+1)); done; exit 3\n");
    shim.listen();
    shim.create();
    let out = shim.dir.join("out");
    let reader = std::thread::spawn(move || {
        let mut out = fs::File::open(out).expect("a reader");
        let (mut lines, mut rest, mut buffer) = (Lines(0), Vec::new(), vec![0; 65536]);
        while let Ok(n @ 1..) = out.read(&mut buffer) {
            lines.take(&buffer[..n], &mut rest);
        }
        (lines.0, rest.len())
    });
    shim.task.start(patience(), &api::StartRequest { id: "c".into(), ..Default::default() }).expect("started");
    let upgrades = super::many();
    for round in 0..upgrades {
        let exec_id = format!("e{round}");
        let script = shim.dir.join(format!("{exec_id}.sh"));
        fs::write(&script, format!("sleep 0.3\nexit {}\n", round % 100 + 1)).expect("written");
        let mut spec = Any::new();
        spec.value = json!({"script": script}).to_string().into_bytes();
        let mut exec = api::ExecProcessRequest { id: "c".into(), exec_id: exec_id.clone(), ..Default::default() };
        exec.spec = Some(spec).into();
        shim.task.exec(patience(), &exec).expect("added");
        let hang = shim.dir.join("hang-exec");
        if round % 2 == 0 {
            fs::write(&hang, "").expect("written");
        }
        let name = || api::StartRequest { id: "c".into(), exec_id: exec_id.clone(), ..Default::default() };
        let (task, start) = (shim.task.clone(), name());
        let starting = std::thread::spawn(move || task.start(patience(), &start));
        shim.upgrade();
        let _ = fs::remove_file(&hang);
        assert!(starting.join().expect("no panic").expect("started").pid > 0);
        let wait = api::WaitRequest { id: "c".into(), exec_id: exec_id.clone(), ..Default::default() };
        assert_eq!(shim.task.wait(patience(), &wait).expect("ended").exit_status, (round % 100 + 1) as u32);
        let delete = api::DeleteRequest { id: "c".into(), exec_id, ..Default::default() };
        shim.task.delete(patience(), &delete).expect("deleted");
    }
    fs::write(shim.dir.join("stop"), "").expect("written");
    let wait = api::WaitRequest { id: "c".into(), ..Default::default() };
    assert_eq!(shim.task.wait(patience(), &wait).expect("ended").exit_status, 3);
    // Like containerd's client, the test does not wait for ever for a reader that gets no time.
    let (lines, rest) = reader.join().expect("no line is lost or doubled");
    shim.task.delete(patience(), &api::DeleteRequest { id: "c".into(), ..Default::default() }).expect("deleted");
    assert!(lines > 0 && rest == 0, "{lines} lines, {rest} bytes");
    until(|| shim.told().last().is_some_and(|topic| topic == "delete"));
    let told = shim.told();
    let count = |topic: &str| told.iter().filter(|of| *of == topic).count();
    let counts = ["exec-added", "exec-started", "exit", "delete"].map(count);
    assert_eq!(counts, [upgrades, upgrades, upgrades + 1, 1], "each once");
    shim.task.shutdown(patience(), &api::ShutdownRequest { id: "c".into(), ..Default::default() }).expect("answered");
}

/// The image of a shim whose daemon is away, with a call that waits.
pub fn image() -> Vec<u8> {
    let shim = Shim::start("image", "sleep 60\n");
    shim.create();
    let task = shim.task.clone();
    std::thread::spawn(move || task.wait(patience(), &api::WaitRequest { id: "c".into(), ..Default::default() }));
    shim.task.start(patience(), &api::StartRequest { id: "c".into(), ..Default::default() }).expect("started");
    super::formats::image_of(shim.pid, control(shim.pid))
}
