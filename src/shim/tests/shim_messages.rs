//! The hand-written codecs of containerd's protocol against the types that the crate
//! containerd-shim-protos generates, and against bytes that containerd sent.

#[path = "support/frames.rs"]
mod frames;

use containerd_shim_protos::protobuf::{Enum, Message as _};
use containerd_shim_protos::{api, bootstrap_api, events, shim, ttrpc as generated, types};
use proptest::prelude::*;
use windlass_base::protobuf::Message;
use windlass_shim::frontend::containerd::message::{Any, Mount, Status, Timestamp, event, options, start, task};
use windlass_shim::frontend::containerd::ttrpc::{self, FrameKind, Request, Response};

/// Each codec reads what the other writes, to the byte, and each named field is the same.
macro_rules! agree {
    ($theirs:ty, $ours:expr; $($mine:ident = $other:ident),* $(,)?) => {{
        let ours = $ours;
        let bytes = ours.encode();
        let theirs = <$theirs>::parse_from_bytes(&bytes).expect("the oracle reads it");
        assert_eq!(theirs.special_fields.unknown_fields().iter().count(), 0, "a field that is none: {theirs:?}");
        assert_eq!(theirs.write_to_bytes().expect("written"), bytes);
        assert_eq!(Message::decode(&bytes), Ok(ours.clone()));
        $(assert_eq!(ours.$mine, theirs.$other, stringify!($mine));)*
        theirs
    }};
}

fn blob() -> Option<Any> {
    Some(Any { type_url: "type".into(), value: vec![1, 0xff] })
}

fn time() -> Option<Timestamp> {
    Some(Timestamp { seconds: 1_700_000_000, nanos: 999_999_999 })
}

fn mount() -> Mount {
    Mount { kind: "overlay".into(), source: "s".into(), target: "t".into(), options: vec!["a".into(), "b=c".into()] }
}

fn text(text: &str) -> String {
    text.into()
}

#[test]
fn requests_are_those_of_the_task_service() {
    let create = task::Create {
        id: text("id"),
        bundle: text("bundle"),
        rootfs: vec![mount()],
        terminal: true,
        stdin: text("in"),
        stdout: text("out"),
        stderr: text("err"),
        checkpoint: text("checkpoint"),
        options: blob(),
    };
    let theirs = agree!(api::CreateTaskRequest, create; id = id, bundle = bundle, terminal = terminal, stdin = stdin,
        stdout = stdout, stderr = stderr, checkpoint = checkpoint);
    let their_mount = &theirs.rootfs[0];
    assert_eq!((their_mount.type_.as_str(), their_mount.source.as_str()), ("overlay", "s"));
    assert_eq!((their_mount.target.as_str(), their_mount.options.len()), ("t", 2));
    assert_eq!((theirs.options.type_url.as_str(), &theirs.options.value[..]), ("type", &[1, 0xff][..]));
    let name = task::Name { id: text("id"), exec_id: text("exec") };
    agree!(api::StartRequest, name.clone(); id = id, exec_id = exec_id);
    agree!(api::DeleteRequest, name.clone(); id = id, exec_id = exec_id);
    agree!(api::StateRequest, name.clone(); id = id, exec_id = exec_id);
    agree!(api::WaitRequest, name; id = id, exec_id = exec_id);
    let name = task::Name { id: text("id"), exec_id: text("") };
    agree!(api::PidsRequest, name.clone(); id = id);
    agree!(api::PauseRequest, name.clone(); id = id);
    agree!(api::ResumeRequest, name.clone(); id = id);
    agree!(api::StatsRequest, name.clone(); id = id);
    agree!(api::ConnectRequest, name.clone(); id = id);
    agree!(api::ShutdownRequest, name; id = id);
    let exec = task::Exec {
        id: text("id"),
        exec_id: text("exec"),
        terminal: true,
        stdin: text("in"),
        stdout: text("out"),
        stderr: text("err"),
        spec: blob(),
    };
    agree!(api::ExecProcessRequest, exec; id = id, exec_id = exec_id, terminal = terminal, stdin = stdin,
        stdout = stdout, stderr = stderr);
    let resize = task::ResizePty { id: text("id"), exec_id: text("exec"), width: 80, height: 24 };
    agree!(api::ResizePtyRequest, resize; id = id, exec_id = exec_id, width = width, height = height);
    let kill = task::Kill { id: text("id"), exec_id: text("exec"), signal: 15, all: true };
    agree!(api::KillRequest, kill; id = id, exec_id = exec_id, signal = signal, all = all);
    let close = task::CloseIo { id: text("id"), exec_id: text("exec"), stdin: true };
    agree!(api::CloseIORequest, close; id = id, exec_id = exec_id, stdin = stdin);
    let checkpoint = task::Checkpoint { id: text("id"), path: text("path"), options: blob() };
    agree!(api::CheckpointTaskRequest, checkpoint; id = id, path = path);
    agree!(api::UpdateTaskRequest, task::Update { id: text("id"), resources: blob() }; id = id);
}

#[test]
fn responses_are_those_of_the_task_service() {
    agree!(api::CreateTaskResponse, task::Pid { pid: 7 }; pid = pid);
    agree!(api::StartResponse, task::Pid { pid: u32::MAX }; pid = pid);
    let deleted = task::Deleted { pid: 7, exit_status: 137, exited_at: time() };
    let theirs = agree!(api::DeleteResponse, deleted; pid = pid, exit_status = exit_status);
    assert_eq!((theirs.exited_at.seconds, theirs.exited_at.nanos), (1_700_000_000, 999_999_999));
    let state = task::State {
        id: text("id"),
        bundle: text("bundle"),
        pid: 7,
        status: task::status::PAUSED,
        stdin: text("in"),
        stdout: text("out"),
        stderr: text("err"),
        terminal: true,
        exit_status: 42,
        exited_at: time(),
        exec_id: text("exec"),
    };
    let theirs = agree!(api::StateResponse, state; id = id, bundle = bundle, pid = pid, stdin = stdin, stdout = stdout,
        stderr = stderr, terminal = terminal, exit_status = exit_status, exec_id = exec_id);
    assert_eq!(theirs.status.enum_value(), Ok(api::Status::PAUSED));
    for (ours, theirs) in [
        (task::status::CREATED, api::Status::CREATED),
        (task::status::RUNNING, api::Status::RUNNING),
        (task::status::STOPPED, api::Status::STOPPED),
    ] {
        assert_eq!(ours, theirs.value());
    }
    let info = task::ProcessInfo { pid: 9, info: blob() };
    let theirs = agree!(api::PidsResponse, task::Pids { processes: vec![info] };);
    assert_eq!(theirs.processes[0].pid, 9);
    agree!(shim::oci::ProcessDetails, task::ProcessDetails { exec_id: text("exec") }; exec_id = exec_id);
    agree!(api::WaitResponse, task::Exited { exit_status: 42, exited_at: time() }; exit_status = exit_status);
    agree!(api::StatsResponse, task::Stats { stats: blob() };);
    let connected = task::Connected { shim_pid: 1, task_pid: 2, version: text("3") };
    agree!(api::ConnectResponse, connected; shim_pid = shim_pid, task_pid = task_pid, version = version);
}

#[test]
fn events_are_containerds() {
    let io = event::TaskIo { stdin: text("in"), stdout: text("out"), stderr: text("err"), terminal: true };
    let create = event::TaskCreate {
        container_id: text("id"),
        bundle: text("bundle"),
        rootfs: vec![mount()],
        io: Some(io),
        checkpoint: text("checkpoint"),
        pid: 7,
    };
    let theirs = agree!(events::task::TaskCreate, create; container_id = container_id, bundle = bundle,
        checkpoint = checkpoint, pid = pid);
    assert_eq!((theirs.io.stdin.as_str(), theirs.io.stderr.as_str(), theirs.io.terminal), ("in", "err", true));
    let start = event::TaskStart { container_id: text("id"), pid: 7 };
    agree!(events::task::TaskStart, start; container_id = container_id, pid = pid);
    let exit = event::TaskExit { container_id: text("c"), id: text("e"), pid: 7, exit_status: 42, exited_at: time() };
    agree!(events::task::TaskExit, exit; container_id = container_id, id = id, pid = pid, exit_status = exit_status);
    let delete = event::TaskDelete { container_id: text("c"), pid: 7, exit_status: 42, exited_at: time() };
    agree!(events::task::TaskDelete, delete; container_id = container_id, pid = pid, exit_status = exit_status);
    let named = event::TaskNamed { container_id: text("c") };
    agree!(events::task::TaskOOM, named.clone(); container_id = container_id);
    agree!(events::task::TaskPaused, named.clone(); container_id = container_id);
    agree!(events::task::TaskResumed, named; container_id = container_id);
    let exec = event::TaskExec { container_id: text("c"), exec_id: text("e"), pid: 0 };
    agree!(events::task::TaskExecAdded, exec.clone(); container_id = container_id, exec_id = exec_id);
    let exec = event::TaskExec { pid: 7, ..exec };
    agree!(events::task::TaskExecStarted, exec; container_id = container_id, exec_id = exec_id, pid = pid);
    let checkpointed = event::TaskCheckpointed { container_id: text("c"), checkpoint: text("p") };
    agree!(events::task::TaskCheckpointed, checkpointed; container_id = container_id, checkpoint = checkpoint);
    let envelope =
        event::Envelope { timestamp: time(), namespace: text("n"), topic: text("/tasks/exit"), event: blob() };
    let theirs = agree!(api::ForwardRequest, event::Forward { envelope: Some(envelope) };);
    assert_eq!((theirs.envelope.namespace.as_str(), theirs.envelope.topic.as_str()), ("n", "/tasks/exit"));
}

#[test]
fn options_and_the_start_are_containerds() {
    let runc = options::Runc {
        no_pivot_root: true,
        no_new_keyring: true,
        shim_cgroup: text("cgroup"),
        io_uid: 1,
        io_gid: 2,
        binary_name: text("binary"),
        root: text("root"),
        systemd_cgroup: true,
        criu_image_path: text("image"),
        criu_work_path: text("work"),
    };
    agree!(shim::oci::Options, runc; no_pivot_root = no_pivot_root, no_new_keyring = no_new_keyring,
        shim_cgroup = shim_cgroup, io_uid = io_uid, io_gid = io_gid, binary_name = binary_name, root = root,
        systemd_cgroup = systemd_cgroup, criu_image_path = criu_image_path, criu_work_path = criu_work_path);
    let checkpoint = options::Checkpoint {
        exit: true,
        open_tcp: true,
        external_unix_sockets: true,
        terminal: true,
        file_locks: true,
        empty_namespaces: vec![text("network")],
        cgroups_mode: text("soft"),
        image_path: text("image"),
        work_path: text("work"),
        // A field that is newer than the generated types.
        parent_path: String::new(),
    };
    agree!(shim::oci::CheckpointOptions, checkpoint; exit = exit, open_tcp = open_tcp,
        external_unix_sockets = external_unix_sockets, terminal = terminal, file_locks = file_locks,
        empty_namespaces = empty_namespaces, cgroups_mode = cgroups_mode, image_path = image_path,
        work_path = work_path);
    let params = start::Params {
        instance_id: text("id"),
        namespace: text("ns"),
        log_level: -4,
        ttrpc_address: text("/run/t"),
        extensions: vec![start::Extension { value: blob() }],
        socket_dir: text("/run/s"),
    };
    let theirs = agree!(bootstrap_api::BootstrapParams, params; instance_id = instance_id, namespace = namespace,
        ttrpc_address = containerd_ttrpc_address);
    assert_eq!(theirs.log_level.value(), -4);
    assert_eq!(theirs.socket_dir.as_deref(), Some("/run/s"));
    let outcome = start::Outcome { version: 3, address: text("unix:///s"), protocol: text("ttrpc") };
    agree!(bootstrap_api::BootstrapResult, outcome; version = version, address = address, protocol = protocol);
    let info = start::Info {
        name: text("io.containerd.windlass.v2"),
        version: Some(start::Version { version: text("1"), revision: text("2") }),
        options: blob(),
        features: blob(),
    };
    let theirs = agree!(types::introspection::RuntimeInfo, info; name = name);
    assert_eq!((theirs.version.version.as_str(), theirs.version.revision.as_str()), ("1", "2"));
}

#[test]
fn frames_are_those_of_ttrpc() {
    let request = Request { service: text("s"), method: text("m"), payload: vec![1, 2], timeout: 5 };
    agree!(generated::proto::Request, request; service = service, method = method, payload = payload,
        timeout = timeout_nano);
    let status = Status { code: ttrpc::code::UNIMPLEMENTED, message: text("no") };
    let theirs =
        agree!(generated::proto::Response, Response { status: Some(status), payload: vec![3] }; payload = payload);
    assert_eq!(theirs.status().code(), generated::proto::Code::UNIMPLEMENTED);
    assert_eq!(theirs.status().message, "no");
}

/// The bytes that containerd 1.6.20 and 2.1.9 sent to a shim, as hexadecimal, a frame a line.
const RECORDED: &str = include_str!("data/frames.hex");

fn recorded() -> Vec<Vec<u8>> {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("text"), 16).expect("hexadecimal");
    RECORDED.lines().map(|line| line.as_bytes().chunks(2).map(byte).collect()).collect()
}

#[test]
fn what_containerd_sent_is_read() {
    let mut methods = Vec::new();
    for bytes in recorded() {
        let (frame, length) = ttrpc::next_frame(&bytes).expect("a frame").expect("whole");
        assert_eq!((length, frame.kind), (bytes.len(), FrameKind::Request));
        let request = Request::decode(frame.body).expect("a request");
        assert!(request.service.starts_with("containerd.task.v"), "{request:?}");
        if request.method == "Create" {
            let create = task::Create::decode(&request.payload).expect("a message");
            assert!(create.bundle.ends_with(&create.id) && create.rootfs[0].kind == "overlay", "{create:?}");
            assert_eq!(options::Options::read(create.options.as_ref()).expect("options").binary_name, "windlass");
        }
        frames::check(&bytes);
        methods.push(request.method);
    }
    for method in ["Create", "Start", "Wait", "Exec", "Kill", "Delete", "Shutdown", "State", "Connect"] {
        assert!(methods.iter().any(|seen| seen == method), "{method} among {methods:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn what_we_read_the_oracle_reads_alike(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
        if let Ok(ours) = task::Deleted::decode(&bytes) {
            let theirs = match api::DeleteResponse::parse_from_bytes(&bytes) {
                Ok(theirs) => theirs,
                // A number that is too large for its field: Go's reader and ours truncate it, the oracle refuses it.
                Err(error) if format!("{error:?}").contains("IncorrectVarint") => return Ok(()),
                Err(error) => panic!("what we take the oracle takes: {error:?}"),
            };
            prop_assert_eq!((ours.pid, ours.exit_status), (theirs.pid, theirs.exit_status));
            prop_assert_eq!(ours.exited_at.unwrap_or_default().seconds, theirs.exited_at.seconds);
        }
    }

    #[test]
    fn damaged_frames_are_refused_or_read(which in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), byte: u8) {
        let mut bytes = which.get(&recorded()).clone();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        frames::check(&bytes);
        frames::check(&bytes[..at]);
    }

    #[test]
    fn any_bytes_are_refused_or_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        frames::check(&bytes);
    }
}
