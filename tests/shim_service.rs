//! windlass-shim as containerd starts it from 2.3 on, and the client that containerd-shim-protos generates for version
//! 3 of the task service.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::ttrpc::{self, Client, Code, context};
use containerd_shim_protos::{TaskClient, api};

struct Bundle(PathBuf);

impl Bundle {
    fn new(name: &str, config: &str) -> Bundle {
        let dir = std::env::temp_dir().join(format!("windlass-service-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        std::fs::write(dir.join("config.json"), config).expect("written");
        Bundle(dir)
    }

    /// Runs `start` with this standard input, and returns its output.
    fn start(&self, id: &str, sockets: &Path, bootstrap: bool) -> Vec<u8> {
        let params = BootstrapParams {
            instance_id: id.into(),
            namespace: "ns".into(),
            containerd_ttrpc_address: "/nonexistent".into(),
            socket_dir: Some(sockets.display().to_string()),
            ..BootstrapParams::default()
        };
        let mut child = Command::new(env!("CARGO_BIN_EXE_windlass-shim"))
            .arg0("containerd-shim-windlass-v2")
            .args(["-namespace", "ns", "-id", id, "-address", "/nonexistent", "start"])
            .current_dir(&self.0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("started");
        let input = if bootstrap { params.write_to_bytes().expect("written") } else { Vec::new() };
        child.stdin.take().expect("a pipe").write_all(&input).expect("written");
        // The pipes end only when no process has them any more, so the lasting shim must have closed them.
        let output = child.wait_with_output().expect("ended");
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        output.stdout
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn address(printed: &[u8]) -> String {
    let result = BootstrapResult::parse_from_bytes(printed).expect("a result");
    assert_eq!((result.version, result.protocol.as_str()), (3, "ttrpc"));
    result.address
}

fn patience() -> context::Context {
    context::with_timeout(10_000_000_000)
}

fn refusal<T: std::fmt::Debug>(result: ttrpc::Result<T>) -> (Code, String) {
    match result {
        Err(ttrpc::Error::RpcStatus(status)) => (status.code(), status.message),
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_pod_shares_a_shim_that_speaks_both_versions() {
    let pod = r#"{"annotations": {"io.kubernetes.cri.sandbox-id": "pod"}}"#;
    let (sandbox, other) = (Bundle::new("pod", pod), Bundle::new("other", pod));
    let sockets = sandbox.0.join("s");
    let first = address(&sandbox.start("pod", &sockets, true));
    assert_eq!(address(&other.start("other", &sockets, true)), first, "one shim for a pod");
    for bundle in [&sandbox, &other] {
        assert_eq!(std::fs::read_to_string(bundle.0.join("address")).expect("written"), first);
    }
    let path = first.strip_prefix("unix://").expect("a path");
    let mode = |path: &Path| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::metadata(path).expect("there").permissions().mode() & 0o777
    };
    assert_eq!((mode(Path::new(path)), mode(&sockets)), (0o600, 0o700));

    let client = Client::connect(&first).expect("connected");
    let task = TaskClient::new(client.clone());
    let request = api::ConnectRequest { id: "pod".into(), ..Default::default() };
    let connected = task.connect(patience(), &request).expect("answered before there is a task");
    assert!(connected.shim_pid > 1 && connected.task_pid == 0);
    let request = api::StateRequest { id: "pod".into(), ..Default::default() };
    assert_eq!(refusal(task.state(patience(), &request)).0, Code::NOT_FOUND);
    both_versions_are_answered(&client);
    garbage_is_refused(&client, path);
    let request = api::ShutdownRequest { id: "pod".into(), ..Default::default() };
    task.shutdown(patience(), &request).expect("answered");
    let start = Instant::now();
    while Path::new(path).exists() {
        assert!(start.elapsed() < Duration::from_secs(120), "the shim ends and removes its socket");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The services of both versions answer, and refuse unknown methods with the code for that.
fn both_versions_are_answered(client: &Client) {
    for (service, method, code) in [
        ("containerd.task.v2.Task", "Connect", None),
        ("containerd.task.v3.Task", "Connect", None),
        ("containerd.task.v4.Task", "Connect", Some(Code::UNIMPLEMENTED)),
        ("containerd.task.v3.Task", "Events", Some(Code::UNIMPLEMENTED)),
        ("containerd.runtime.sandbox.v1.Sandbox", "Ping", Some(Code::UNIMPLEMENTED)),
    ] {
        let request = ttrpc::Request {
            service: service.into(),
            method: method.into(),
            timeout_nano: 10_000_000_000,
            ..Default::default()
        };
        match (client.request(request), code) {
            (Ok(_), None) => {}
            (result, Some(code)) => assert_eq!(refusal(result).0, code, "{service}/{method}"),
            (result, None) => panic!("{service}/{method}: {result:?}"),
        }
    }
}

/// A message that cannot be decoded is refused. A frame that cannot be decoded ends its own connection and no other.
fn garbage_is_refused(client: &Client, path: &str) {
    let garbage = ttrpc::Request {
        service: "containerd.task.v3.Task".into(),
        method: "State".into(),
        payload: vec![0xff],
        timeout_nano: 10_000_000_000,
        ..Default::default()
    };
    assert_eq!(refusal(client.request(garbage)).0, Code::INVALID_ARGUMENT);
    for bytes in [&b"\xff\xff\xff\xff\0\0\0\x01\x01\0"[..], b"\0\0\0\0\0\0\0\x02\x01\0", b"GET / HTTP/1.1\r\n\r\n"] {
        let mut stranger = UnixStream::connect(path).expect("connected");
        stranger.write_all(bytes).expect("written");
        stranger.set_read_timeout(Some(Duration::from_secs(120))).expect("set");
        assert_eq!(stranger.read(&mut [0; 16]).expect("closed, not forgotten"), 0, "{bytes:?}");
    }
}

/// A shim with this script as the runtime.
fn with_runtime(bundle: &Bundle, id: &str, script: &str) -> (TaskClient, api::CreateTaskRequest) {
    let runtime = bundle.0.join("fake-runtime");
    std::fs::write(&runtime, script).expect("written");
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&runtime, executable).expect("executable");
    let task = TaskClient::new(Client::connect(&address(&bundle.start(id, &bundle.0, true))).expect("connected"));
    let mut options = Any::new();
    options.type_url = "containerd.runc.v1.Options".into();
    // Field 6, the runtime's path.
    let path = runtime.to_str().expect("UTF-8").as_bytes();
    options.value = [&[6 << 3 | 2, path.len() as u8], path].concat();
    let mut create = api::CreateTaskRequest { id: id.into(), ..Default::default() };
    create.bundle = bundle.0.to_str().expect("UTF-8").into();
    create.options = Some(options).into();
    (task, create)
}

#[test]
fn a_size_is_taken_by_a_process_without_a_terminal() {
    const RUNTIME: &str = r#"#!/bin/sh
case " $* " in
  *" create "*)
    while [ "$1" != --pid-file ]; do shift; done
    sleep 1000 & echo $! >"$2"; echo $! >"$0.pid" ;;
  *" kill "*) kill -9 "$(cat "$0.pid")" ;;
esac
"#;
    let bundle = Bundle::new("plain", "{}");
    let (task, create) = with_runtime(&bundle, "plain", RUNTIME);
    task.create(patience(), &create).expect("created");
    let size = |id: &str| api::ResizePtyRequest { id: id.into(), width: 80, height: 24, ..Default::default() };
    task.resize_pty(patience(), &size("plain")).expect("nothing to set");
    assert_eq!(refusal(task.resize_pty(patience(), &size("other"))).0, Code::NOT_FOUND);
    end(&task, "plain");
}

/// Ends a task, and its shim.
fn end(task: &TaskClient, id: &str) {
    let kill = api::KillRequest { id: id.into(), signal: 9, all: true, ..Default::default() };
    task.kill(patience(), &kill).expect("killed");
    let name = api::WaitRequest { id: id.into(), ..Default::default() };
    assert_eq!(task.wait(patience(), &name).expect("ended").exit_status, 137);
    task.delete(patience(), &api::DeleteRequest { id: id.into(), ..Default::default() }).expect("deleted");
    task.shutdown(patience(), &api::ShutdownRequest { id: id.into(), ..Default::default() }).expect("answered");
}

#[test]
fn an_id_whose_create_has_failed_can_be_used_again() {
    const RUNTIME: &str = r#"#!/bin/sh
case " $* " in
  *" create "*)
    test -e "$0.works" || { echo not yet >&2; exit 1; }
    while [ "$1" != --pid-file ]; do shift; done
    sleep 1000 & echo $! >"$2"; echo $! >"$0.pid" ;;
  *" kill "*) kill -9 "$(cat "$0.pid")" ;;
esac
"#;
    let bundle = Bundle::new("again", "{}");
    let (task, create) = with_runtime(&bundle, "again", RUNTIME);
    for _ in 0..2 {
        let message = refusal(task.create(patience(), &create)).1;
        assert!(message.contains("not yet"), "{message}");
    }
    std::fs::write(bundle.0.join("fake-runtime.works"), "").expect("written");
    task.create(patience(), &create).expect("created");
    end(&task, "again");
}

/// A runtime that restores, and can hold a container if there is a file `holds` beside it.
const RESTORING: &str = r#"#!/bin/sh
echo "$*" >>"$0.calls"
case " $* " in
  *" --help "*) test -e "$0.holds"; exit ;;
  *" restore "*)
    while [ "$1" != --pid-file ]; do shift; done
    sleep 1000 & echo $! >"$2"; echo $! >"$0.pid" ;;
  *" checkpoint "*) ! test -e "$0.full" || { echo no room >&2; exit 1; } ;;
  *" kill "*) kill -9 "$(cat "$0.pid")" ;;
esac
"#;

#[test]
fn a_checkpoint_is_restored_by_create_where_the_runtime_can_hold_it() {
    for holds in [true, false] {
        let bundle = Bundle::new(if holds { "held" } else { "whole" }, "{}");
        let beside = |name: &str| bundle.0.join(format!("fake-runtime.{name}"));
        if holds {
            std::fs::write(beside("holds"), "").expect("written");
        }
        let (task, mut create) = with_runtime(&bundle, "restored", RESTORING);
        create.checkpoint = "/images".into();
        let created = task.create(patience(), &create).expect("created").pid;
        assert_eq!(created != 0, holds);
        let state = || {
            let id = "restored".into();
            task.state(patience(), &api::StateRequest { id, ..Default::default() }).expect("known")
        };
        assert_eq!((state().status.enum_value(), state().pid), (Ok(api::Status::CREATED), created));
        let mut checkpoint = api::CheckpointTaskRequest { id: "restored".into(), ..Default::default() };
        checkpoint.path = "/to".into();
        assert!(refusal(task.checkpoint(patience(), &checkpoint)).1.contains("in created state"));
        let start = api::StartRequest { id: "restored".into(), ..Default::default() };
        let pid = task.start(patience(), &start).expect("started").pid;
        assert!(pid != 0 && (pid == created) == holds);
        assert_eq!(state().status.enum_value(), Ok(api::Status::RUNNING));
        let mut options = Any::new();
        options.type_url = "containerd.runc.v1.CheckpointOptions".into();
        // exit, open_tcp, cgroups_mode and parent_path.
        options.value = [&[8, 1, 16, 1, 58, 4][..], b"soft", &[82, 6], b"../old"].concat();
        checkpoint.options = Some(options).into();
        task.checkpoint(patience(), &checkpoint).expect("dumped");
        std::fs::write(beside("full"), "").expect("written");
        let message = refusal(task.checkpoint(patience(), &checkpoint)).1;
        let log = bundle.0.join("criu-work/dump.log");
        assert_eq!(message, format!("OCI runtime checkpoint failed: no room path= {}", log.display()));
        let calls = std::fs::read_to_string(beside("calls")).expect("calls");
        let hold = if holds { "--hold " } else { "" };
        let restored = format!("--image-path /images --work-path {}/work {hold}restored", bundle.0.display());
        assert!(calls.lines().any(|call| call.contains(" restore ") && call.ends_with(&restored)), "{calls}");
        let work = bundle.0.join("criu-work");
        let dumped = format!(
            " checkpoint --image-path /to --work-path {} --parent-path ../old --tcp-established \
             --manage-cgroups-mode soft restored",
            work.display()
        );
        assert!(calls.lines().any(|call| call.ends_with(&dumped)), "{calls}");
        end(&task, "restored");
    }
}

fn bind(from: &str, to: &str) {
    nix::mount::mount(Some(from), to, None::<&str>, nix::mount::MsFlags::MS_BIND, None::<&str>).expect("bound");
}

/// Needs root, and a temporary directory on a file system that can be idmapped (Linux 5.19).
#[test]
fn the_files_of_an_idmapped_image_are_the_users_of_the_pod() {
    if !nix::unistd::geteuid().is_root() {
        return eprintln!("skipped: only root may mount");
    }
    let files = nix::sys::statfs::statfs(&std::env::temp_dir()).expect("a filesystem");
    if files.filesystem_type() == nix::sys::statfs::OVERLAYFS_SUPER_MAGIC {
        // The root of a container in which the tests run is one.
        return eprintln!("skipped: files of an overlay cannot be idmapped");
    }
    const RUNTIME: &str = "#!/bin/sh\n        dir=${0%/*}\n        case \" $* \" in *\" create \"*) stat -c %u:%g $dir/rootfs/* >$dir/owners; echo no container >&2; exit 1;; esac\n";
    for kind in ["overlay", "bind"] {
        let bundle = Bundle::new(kind, "{}");
        for (file, owner) in [("lower1/a", None), ("lower2/b", Some((7, 8)))] {
            let file = bundle.0.join(file);
            std::fs::create_dir(file.parent().expect("a directory")).expect("made");
            std::fs::write(&file, "").expect("written");
            let (user, group) = owner.unwrap_or_default();
            std::os::unix::fs::chown(&file, Some(user), Some(group)).expect("root may");
        }
        let (task, mut create) = with_runtime(&bundle, kind, RUNTIME);
        let at = |name: &str| bundle.0.join(name).display().to_string();
        let mut mount = containerd_shim_protos::types::mount::Mount { type_: kind.into(), ..Default::default() };
        mount.options = vec!["uidmap=0:300000:65536".into(), "gidmap=0:400000:65536".into()];
        if kind == "bind" {
            // A mount with another owner below the bound mount.
            std::fs::create_dir(bundle.0.join("lower1/b")).expect("made");
            std::os::unix::fs::chown(at("lower2"), Some(7), Some(8)).expect("root may");
            bind(&at("lower2"), &at("lower1/b"));
            mount.source = at("lower1");
            mount.options.extend(["rbind".into(), "ro".into()]);
        } else {
            for name in ["upper", "work"] {
                std::fs::create_dir(bundle.0.join(name)).expect("made");
                mount.options.push(format!("{name}dir={}", at(name)));
            }
            mount.options.push(format!("lowerdir={}:{}", at("lower1"), at("lower2")));
        }
        create.rootfs = vec![mount];
        let (_, said) = refusal(task.create(patience(), &create));
        if kind == "bind" {
            nix::mount::umount(at("lower1/b").as_str()).expect("unmounted");
        }
        assert!(said.contains("no container"), "the mounts were made: {said}");
        assert_eq!(
            std::fs::read_to_string(bundle.0.join("owners")).expect("looked"),
            "300000:400000\n300007:400008\n",
            "{kind}"
        );
        let left = std::fs::read_to_string("/proc/self/mountinfo").expect("readable");
        assert!(!left.contains(&bundle.0.display().to_string()), "mounts are left: {left}");
        task.shutdown(patience(), &api::ShutdownRequest::default()).expect("answered");
    }
}

#[test]
fn older_containerd_gets_the_address_alone() {
    // Below a state directory like containerd's, so that the socket is in it too.
    let state = Bundle::new("state", "{}");
    let dir = state.0.join("io.containerd.runtime.v2.task/ns/web");
    std::fs::create_dir_all(&dir).expect("a directory");
    std::fs::write(dir.join("config.json"), "{}").expect("written");
    let bundle = Bundle(dir);
    let printed = String::from_utf8(bundle.start("web", Path::new(""), false)).expect("text");
    let path = printed.strip_prefix("unix://").expect("an address and nothing else");
    assert!(Path::new(path).starts_with(&state.0), "{path}");
    let task = TaskClient::new(Client::connect(&printed).expect("connected"));
    task.shutdown(patience(), &api::ShutdownRequest::default()).expect("answered");
}

#[test]
fn info_says_what_runs_containers() {
    use containerd_shim_protos::types::introspection::RuntimeInfo;
    let output = Command::new(env!("CARGO_BIN_EXE_windlass-shim"))
        .arg0("containerd-shim-windlass-v2")
        .arg("-info")
        .stdin(Stdio::null())
        .output()
        .expect("run");
    let info = RuntimeInfo::parse_from_bytes(&output.stdout).expect("a message");
    assert_eq!(info.name, "io.containerd.windlass.v2");
    assert!(info.features.type_url.ends_with("features/Features"));
    let features: serde_json::Value = serde_json::from_slice(&info.features.value).expect("JSON");
    assert!(features["ociVersionMax"].is_string(), "{features}");
}
