//! No input makes the runtime panic, and a refusal names the place in the input.
//!
//! The bodies are those of the fuzz targets (`fuzz/`, for nightly). Here they get documents that are almost valid,
//! which reach more code than random bytes.

#[path = "support/bodies.rs"]
mod bodies;
#[path = "../src/plan/tests/support/mod.rs"]
mod support;

use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::Value;

fn cases(number: u32) -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(number) }
}

/// An edited document as text.
fn edited(seeds: Vec<Value>) -> impl Strategy<Value = String> {
    (any::<Index>(), support::edits()).prop_map(move |(seed, edits)| {
        let mut document = seeds[seed.index(seeds.len())].clone();
        support::apply(&mut document, &edits);
        document.to_string()
    })
}

/// The element at `pointer` of every seed that has one.
fn parts(pointer: &str) -> Vec<Value> {
    support::seeds().iter().filter_map(|seed| seed.pointer(pointer).cloned()).collect()
}

/// A text with one byte changed, removed or inserted.
fn damaged(text: String, at: Index, byte: u8, how: u8) -> Vec<u8> {
    let mut bytes = text.into_bytes();
    if bytes.is_empty() {
        return vec![byte];
    }
    let at = at.index(bytes.len());
    match how % 4 {
        0 => bytes[at] = byte,
        1 => drop(bytes.remove(at)),
        2 => bytes.insert(at, byte),
        _ => bytes.truncate(at),
    }
    bytes
}

proptest! {
    #![proptest_config(cases(2000))]

    #[test]
    fn edited_configurations(text in edited(support::seeds())) {
        bodies::config(text.as_bytes());
    }

    #[test]
    fn edited_processes(text in edited(parts("/process"))) {
        bodies::process(text.as_bytes());
    }

    #[test]
    fn edited_resources(text in edited(parts("/linux/resources"))) {
        bodies::resources(text.as_bytes());
    }

    #[test]
    fn edited_profiles(text in edited(parts("/linux/seccomp"))) {
        bodies::seccomp(text.as_bytes());
    }
}

proptest! {
    #![proptest_config(cases(500))]

    #[test]
    fn damaged_configurations(text in edited(support::seeds()), at in any::<Index>(), byte in any::<u8>(), how in any::<u8>()) {
        bodies::config(&damaged(text, at, byte, how));
    }

    #[test]
    fn damaged_states(edits in support::edits(), at in any::<Index>(), byte in any::<u8>(), how in any::<u8>()) {
        let mut document = state();
        support::apply(&mut document, &edits);
        bodies::state(document.to_string().as_bytes());
        bodies::state(&damaged(document.to_string(), at, byte, how));
    }

    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for body in [bodies::config, bodies::process, bodies::state, bodies::resources, bodies::seccomp, bodies::arguments, bodies::message, bodies::dbus] {
            body(&bytes);
        }
    }

    #[test]
    fn messages_of_init(kind in proptest::sample::select(b"PMNHSRFL".to_vec()), rest in proptest::collection::vec(any::<u8>(), 0..40)) {
        let bytes: Vec<u8> = std::iter::once(kind).chain(rest).collect();
        bodies::message(&bytes);
    }

    #[test]
    fn damaged_messages_of_dbus(edits in proptest::collection::vec((any::<Index>(), any::<u8>()), 0..5)) {
        let mut bytes = signal();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bodies::dbus(&bytes);
    }

    #[test]
    fn command_lines(words in proptest::collection::vec(word(), 0..12)) {
        bodies::arguments(words.join("\0").as_bytes());
    }
}

/// A message with nested values, as in systemd's signals about units.
fn signal() -> Vec<u8> {
    use windlass_base::variant::Value;
    let pair = Value::Struct(vec![Value::text("Slice"), Value::Variant(Box::new(Value::U64(7)))]);
    let arguments = [Value::text("a.scope"), Value::Array("(sv)".into(), vec![pair.clone(), pair]), Value::Bool(true)];
    let call = windlass_dbus::Call {
        destination: "org.freedesktop.systemd1",
        path: "/org/freedesktop/systemd1",
        interface: "org.freedesktop.systemd1.Manager",
        member: "JobRemoved",
        arguments: &arguments,
        fds: 0,
        reply_expected: false,
    };
    windlass_dbus::encode(&call, 3)
}

fn state() -> Value {
    serde_json::json!({
        "version": 1, "id": "web1", "ociVersion": "1.2.0", "bundle": "/b", "rootfs": "/b/rootfs",
        "annotations": {"a": "b"}, "cgroup": "/sys/fs/cgroup/web1", "namespaces": 131_072, "owner": "root",
        "created": "2026-01-02T03:04:05.000000006Z", "intelRdt": "/sys/fs/resctrl/x", "resctrl": "/sys/fs/resctrl/x",
        "chroot": true, "noNewKeyring": true,
    })
}

/// Verbs, flags and values in any order.
fn word() -> impl Strategy<Value = String> {
    let verbs = windlass::cli::table::VERBS.iter().map(|verb| verb.name.to_string());
    let flags = windlass::cli::table::VERBS.iter().flat_map(|verb| verb.flags).chain(windlass::cli::table::GLOBAL);
    let flags =
        flags.flat_map(|flag| [format!("--{}", flag.long), format!("-{}", flag.long), format!("--{}=", flag.long)]);
    let words: Vec<String> = verbs.chain(flags).collect();
    prop_oneof![
        5 => proptest::sample::select(words),
        1 => support::text(),
        1 => any::<u64>().prop_map(|n| n.to_string()),
    ]
}

#[test]
fn every_prefix_of_a_configuration_is_refused_with_a_place() {
    let text = support::seeds()[0].to_string();
    for end in 0..text.len() {
        if text.is_char_boundary(end) {
            bodies::config(&text.as_bytes()[..end]);
        }
    }
}

#[test]
fn every_element_is_tried_with_every_kind_of_value() {
    let values = [
        Value::Null,
        false.into(),
        0.into(),
        (-1).into(),
        u64::MAX.into(),
        i64::MIN.into(),
        1.5.into(),
        "".into(),
        "\0".into(),
        "/../..".into(),
        "x".repeat(5000).into(),
        serde_json::json!([]),
        serde_json::json!({}),
        serde_json::json!([null]),
    ];
    let full = &support::seeds()[0];
    for place in support::places(full) {
        for value in &values {
            let mut document = full.clone();
            *document.pointer_mut(&place).expect("it is there") = value.clone();
            bodies::config(document.to_string().as_bytes());
        }
    }
}

#[test]
fn numbers_of_elements_do_not_matter() {
    let list = |text: &str| format!("[{}]", vec![text; 20_000].join(","));
    let parts = [
        ("mounts", list(r#"{"destination": "/a", "type": "tmpfs"}"#)),
        ("linux", format!(r#"{{"maskedPaths": {}}}"#, list("\"/a\""))),
        ("linux", format!(r#"{{"devices": {}}}"#, list(r#"{"path": "/dev/a", "type": "c"}"#))),
        (
            "linux",
            format!(r#"{{"resources": {{"devices": {}}}}}"#, list(r#"{"allow": true, "type": "c", "major": 1}"#)),
        ),
        ("process", format!(r#"{{"args": {}, "cwd": "/"}}"#, list("\"x\""))),
    ];
    for (key, text) in parts {
        bodies::config(format!(r#"{{"ociVersion": "1.2.0", "root": {{"path": "r"}}, "{key}": {text}}}"#).as_bytes());
    }
}

#[test]
fn deep_nesting_is_refused() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let text = format!("{{\"unknown\": {}1{}}}", open.repeat(100_000), close.repeat(100_000));
        bodies::config(text.as_bytes());
    }
}
