//! Functions that check any bytes from outside: the property tests on stable and the fuzz targets on nightly call the
//! same functions.
//!
//! No input may cause a panic in the code under test, and a refusal must name the place of the fault.

#![allow(dead_code)] // Each fuzz target uses one.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use windlass::cli::Update;
use windlass_args::Environment;
use windlass_base::capability::CapabilitySet;
use windlass_base::error::{Diagnostic, Error, Kind, Origin};
use windlass_base::exit_record::ExitRecord;
use windlass_base::spec::Spec;
use windlass_plan::cgroup::Limits;
use windlass_plan::exec::Request;
use windlass_plan::unit::Systemd;
use windlass_plan::{Action, Host, MountKind, Options, Plan, RootPath};
use windlass_store::{InitProcess, State};

/// The longest program that seccomp(2) takes (`BPF_MAXINSNS`).
const LONGEST_PROGRAM: usize = 4096;

/// `config.json` is read, and planned for create and for exec.
pub fn config(bytes: &[u8]) {
    let spec: Spec = match windlass_base::spec::parse(bytes, "config.json") {
        Ok(spec) => spec,
        Err(error) => return refused_text(&error),
    };
    for (no_pivot, capabilities) in [(false, CapabilitySet::all()), (true, CapabilitySet::from_bits_retain(1))] {
        let systemd = no_pivot.then_some(Systemd { user: false, prefix: "fuzz" });
        let host = Host { capabilities, ..Host::default() };
        let options = Options { no_pivot, no_new_keyring: no_pivot, host, systemd, ..Options::default() };
        match windlass_plan::create("fuzz", &spec, &options) {
            Ok(plan) => planned(&plan),
            Err(error) => refused(&error),
        }
        let request = Request { args: vec!["true".into()], ..Request::default() };
        match windlass_plan::exec::exec("fuzz", &spec, &request, None, &options) {
            Ok(plan) => pointed(&plan.warnings),
            Err(error) => refused(&error),
        }
    }
}

/// The document of `exec --process`.
pub fn process(bytes: &[u8]) {
    let text = br#"{"ociVersion": "1.2.0", "root": {"path": "rootfs"}, "linux": {"namespaces": [{"type": "mount"}]}}"#;
    let spec: Spec = windlass_base::spec::parse(text, "config.json").expect("a valid document");
    let request = Request::default();
    let options =
        Options { host: Host { capabilities: CapabilitySet::all(), ..Default::default() }, ..Options::default() };
    match windlass_plan::exec::exec("fuzz", &spec, &request, Some(bytes), &options) {
        Ok(plan) => {
            assert!(plan.process.cwd.starts_with('/') && !plan.process.args.is_empty());
            pointed(&plan.warnings);
        }
        // The place is the whole document if it is not JSON at all.
        Err(error) => refused_text(&error),
    }
}

/// The lines of a container's state. They are written again as they were read, except for the annotations, which only
/// version 1 has there.
pub fn state(bytes: &[u8]) {
    if let Ok(mut state) = serde_json::from_slice::<State>(bytes) {
        state.annotations.clear();
        let text = serde_json::to_string(&state).expect("plain data");
        let again: State = serde_json::from_str(&text).expect("what was written can be read");
        assert_eq!(format!("{state:?}"), format!("{again:?}"));
    }
    let _ = serde_json::from_slice::<InitProcess>(bytes);
    let _ = serde_json::from_slice::<ExitRecord>(bytes);
}

/// The document of `update --resources`.
pub fn resources(bytes: &[u8]) {
    let update = Update { pids_limit: Some(3), cpu_share: Some(u64::MAX), ..Update::default() };
    let resources = match update.to_resources(Some(bytes), &mut Vec::new()) {
        Ok(resources) => resources,
        Err(error) => return refused_text(&error),
    };
    let (mut faults, mut warnings) = (Vec::new(), Vec::new());
    let limits = windlass_plan::cgroup::limits(&resources, None, &mut faults, &mut warnings);
    pointed(&faults);
    pointed(&warnings);
    written(&limits);
}

/// A seccomp profile.
pub fn seccomp(bytes: &[u8]) {
    let Ok(profile) = serde_json::from_slice::<windlass_seccomp::Profile<'_>>(bytes) else { return };
    match windlass_seccomp::compile(&profile, windlass_seccomp::Arch::native()) {
        Ok(filter) => assert!((1..=LONGEST_PROGRAM).contains(&filter.program.len())),
        Err(problems) => assert!(!problems.is_empty()),
    }
}

/// A command line: words that end with NUL bytes.
pub fn arguments(bytes: &[u8]) {
    let words = bytes.split(|byte| *byte == 0).map(|word| OsString::from_vec(word.to_vec()));
    let environment = Environment { euid: 1000, runtime_dir: None, borrowed_root: false };
    if let Err(rejected) = windlass::cli::parse_in(std::iter::once("windlass".into()).chain(words), &environment) {
        assert!(!rejected.error.message().is_empty() && rejected.exit != 0);
    }
}

/// A message of init.
pub fn message(bytes: &[u8]) {
    if let Err(error) = windlass_apply::sync::decode(bytes, None) {
        assert_eq!(error.kind(), Kind::Protocol);
    }
}

/// A message of D-Bus. It has no more values than bytes, and a call with the same arguments is read as it was written.
pub fn dbus(bytes: &[u8]) {
    let Some(message) = windlass_dbus::decode(bytes) else { return };
    let shown = format!("{:?}", message.arguments);
    let call = windlass_dbus::Call {
        destination: "a.b",
        path: "/a",
        interface: "a.b",
        member: "C",
        arguments: &message.arguments,
        fds: 0,
        reply_expected: true,
    };
    // A signature has at most 255 bytes.
    let signature: usize = message.arguments.iter().map(|argument| argument.signature().len()).sum();
    if signature < 256 {
        let again = windlass_dbus::decode(&windlass_dbus::encode(&call, 1)).expect("what was written can be read");
        assert_eq!(format!("{:?}", again.arguments), shown);
    }
}

/// Checks the refusal of a parsed document: every fault has a place.
fn refused(error: &Error) {
    assert_eq!(error.kind(), Kind::InvalidConfig, "{error}");
    assert!(!error.message().is_empty());
    pointed(error.all_faults());
    match error.origin() {
        Some(Origin::Config(pointer)) => assert!(pointer.starts_with('/'), "{pointer:?}: {error}"),
        other => panic!("{other:?} asked for {error}"),
    }
}

/// Checks the refusal of a text: its fault may be the whole text.
fn refused_text(error: &Error) {
    assert_eq!(error.kind(), Kind::InvalidConfig, "{error}");
    match error.origin() {
        Some(Origin::Config(pointer)) => {
            assert!(pointer.is_empty() || pointer.starts_with('/'), "{pointer:?}: {error}")
        }
        other => panic!("{other:?} asked for {error}"),
    }
}

fn pointed(faults: &[Diagnostic]) {
    for fault in faults {
        assert!(fault.pointer.starts_with('/'), "{fault:?}");
        assert!(!fault.msg.is_empty() && !fault.msg.contains('\0'), "{fault:?}");
    }
}

fn planned(plan: &Plan) {
    pointed(&plan.warnings);
    written(&plan.limits);
    assert!(matches!(plan.init.last().map(|step| &step.action), Some(Action::Execute)));
    for step in &plan.init {
        match &step.action {
            Action::Mount(mount) => {
                // A mount may be on the root, and then replaces it.
                in_the_root(&mount.destination);
                if let MountKind::Bind(source) = mount.what {
                    assert!(plan.source(source).is_some());
                }
            }
            Action::Node(node) => below_the_root(&node.path),
            Action::Mask(path) | Action::ReadonlyPath(path) => below_the_root(path),
            Action::Join(id) => assert!(id.index() < plan.topology.joined.len()),
            _ => {}
        }
    }
    assert!(plan.text(&[]).lines().count() > plan.init.len(), "every step is explained");
}

/// Checks that a path does not lead upwards.
fn in_the_root(path: &RootPath) {
    let text = path.to_string();
    assert!(text.starts_with('/') && !text.contains('\0'), "{text:?}");
    assert!(!text.split('/').any(|part| part == ".."), "{text:?}");
}

/// Checks that a path does not lead upwards, and is not the root itself.
fn below_the_root(path: &RootPath) {
    in_the_root(path);
    assert!(path.to_string().len() > 1, "{path}");
}

/// Checks that each write is one line into a file of the cgroup itself.
fn written(limits: &Limits) {
    for write in &limits.writes {
        assert!(!write.file.contains('/') && !write.file.contains('\0') && write.file.contains('.'), "{write:?}");
        assert!(!write.value.contains('\n'), "{write:?}");
        assert!(write.pointer.starts_with("/linux/resources/"), "{write:?}");
    }
}
