//! Names, places and properties of scopes.

use super::*;

const SYSTEM: Systemd = Systemd { user: false, prefix: "windlass" };
const USER: Systemd = Systemd { user: true, prefix: "windlass" };

fn write(file: &'static str, value: &str) -> Write {
    Write {
        controller: "any".into(),
        file: file.into(),
        value: value.into(),
        pointer: "/linux/resources/x".into(),
        absent: Absent::Fails,
    }
}

fn properties(writes: &[Write]) -> Vec<(String, Value)> {
    of_limits(writes).into_iter().map(|property| (property.name.into_owned(), property.value)).collect()
}

fn set(name: &str, value: u64) -> (String, Value) {
    (name.into(), Value::U64(value))
}

#[test]
fn a_slice_has_a_level_for_each_dash() {
    for (slice, path) in [
        ("-.slice", ""),
        ("a.slice", "/a.slice"),
        ("a-b.slice", "/a.slice/a-b.slice"),
        ("kubepods-burstable-pod1_2.slice", "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice"),
    ] {
        assert_eq!(expand(slice).unwrap_or_else(|error| panic!("{slice}: {error}")), path);
    }
    for slice in ["", "a", ".slice", "a--b.slice", "-a.slice", "a-.slice", "a/b.slice", "../a.slice", "a\n.slice"] {
        assert!(expand(slice).is_err(), "{slice:?}");
    }
}

#[test]
fn a_scope_is_named_as_engines_expect() {
    let place = |path: &str, systemd| {
        place(path, "id", systemd).map(|(slice, name)| format!("{slice} {name}")).map_err(|error| error.to_string())
    };
    assert_eq!(place("", SYSTEM).as_deref(), Ok("system.slice windlass-id.scope"));
    assert_eq!(place("", USER).as_deref(), Ok("user.slice windlass-id.scope"));
    assert_eq!(place("system.slice:docker:abc", SYSTEM).as_deref(), Ok("system.slice docker-abc.scope"));
    assert_eq!(place(":cri:abc", SYSTEM).as_deref(), Ok("system.slice cri-abc.scope"));
    assert_eq!(place("a-b.slice::abc", SYSTEM).as_deref(), Ok("a-b.slice abc.scope"));
    for wrong in ["/a/b", "a:b", "a:b:c:d", "x.slice:a:", "nonsense:a:b", "x.slice:a:b/c", "x.slice:a:b c"] {
        assert!(place(wrong, SYSTEM).is_err(), "{wrong}");
    }
    assert!(place("/a/b", SYSTEM).is_err_and(|msg| msg.contains("slice:prefix:name")));
}

#[test]
fn limits_become_properties() {
    let writes = [
        write("memory.swap.max", "0"),
        write("memory.max", "1048576"),
        write("memory.low", "max"),
        write("pids.max", "12"),
        write("cpu.weight", "79"),
        write("hugetlb.2MB.max", "0"),
    ];
    let wanted = [
        set("MemorySwapMax", 0),
        set("MemoryMax", 1 << 20),
        set("MemoryLow", u64::MAX),
        set("TasksMax", 12),
        set("CPUWeight", 79),
    ];
    assert_eq!(properties(&writes), wanted);
}

#[test]
fn the_last_of_two_writes_holds() {
    assert_eq!(properties(&[write("pids.max", "1"), write("pids.max", "max")]), [set("TasksMax", u64::MAX)]);
}

#[test]
fn a_quota_is_rounded_up_to_a_percent() {
    let quota = |value: &str| properties(&[write("cpu.max", value)]);
    let both = |quota, period| vec![set("CPUQuotaPerSecUSec", quota), set("CPUQuotaPeriodUSec", period)];
    assert_eq!(quota("20000 100000"), both(200_000, 100_000));
    assert_eq!(quota("12345 100000"), both(130_000, 100_000));
    assert_eq!(quota("1 3"), both(340_000, 3));
    assert_eq!(quota("50000"), [set("CPUQuotaPerSecUSec", 500_000)]);
    assert_eq!(quota("max 50000"), both(u64::MAX, 50_000));
    assert_eq!(quota("18446744073709551615 1"), []);
}

#[test]
fn cpus_are_a_mask_of_bytes() {
    let mask = |list: &str| match properties(&[write("cpuset.cpus", list)]).pop() {
        Some((name, Value::Array(of, bytes))) => {
            assert_eq!((name.as_str(), of.as_str()), ("AllowedCPUs", "y"));
            bytes.iter().map(|byte| if let Value::Byte(byte) = byte { *byte } else { 0 }).collect()
        }
        _ => Vec::new(),
    };
    assert_eq!(mask("0-3,9"), [0x0f, 0x02]);
    assert_eq!(mask("64"), [0, 0, 0, 0, 0, 0, 0, 0, 1]);
    assert!(mask("0-31:2/4").is_empty(), "a form that only the kernel knows is only written");
}

#[test]
fn limits_of_devices_stand_beside_each_other() {
    let writes = [write("io.max", "8:0 rbps=100"), write("io.max", "8:16 rbps=max"), write("io.max", "8:0 wiops=5")];
    let entry = |path: &str, limit| Value::Struct(vec![Value::text(path), Value::U64(limit)]);
    let list = |entries| Value::Array("(st)".into(), entries);
    let wanted = [
        ("IOReadBandwidthMax".into(), list(vec![entry("/dev/block/8:0", 100), entry("/dev/block/8:16", u64::MAX)])),
        ("IOWriteIOPSMax".into(), list(vec![entry("/dev/block/8:0", 5)])),
    ];
    assert_eq!(properties(&writes), wanted);
}

fn rule(allow: bool, kind: &str, major: Option<i64>, minor: Option<i64>, access: &str) -> DeviceRule {
    DeviceRule { allow, kind: Some(kind.into()), major, minor, access: Some(access.into()) }
}

#[test]
fn systemd_lets_through_what_our_filter_may() {
    let policy = |rules: &[DeviceRule]| -> (Value, Vec<String>) {
        let properties = of_devices(rules);
        let entries = match properties.last().map(|last| &last.value) {
            Some(Value::Array(_, entries)) => entries.iter().map(ToString::to_string).collect(),
            _ => Vec::new(),
        };
        (properties[0].value.clone(), entries)
    };
    let (strict, entries) = policy(&[rule(false, "a", None, None, "rwm"), rule(true, "b", Some(8), Some(1), "r")]);
    assert_eq!(strict, Value::text("strict"));
    for entry in [
        "(\"/dev/block/8:1\", \"r\")",
        "(\"char-*\", \"m\")",
        "(\"char-136\", \"rwm\")",
        "(\"/dev/char/1:3\", \"rwm\")",
    ] {
        assert!(entries.iter().any(|other| other == entry), "{entry} in {entries:?}");
    }
    assert_eq!(policy(&[rule(true, "a", None, None, "rwm")]), (Value::text("auto"), vec![]));
    let (narrow, _) = policy(&[rule(true, "a", None, None, "rwm"), rule(false, "c", Some(1), Some(1), "w")]);
    assert_eq!(narrow, Value::text("auto"), "ours alone can take one away from all");
}

#[test]
fn annotations_are_properties_and_faults_name_them() {
    let long = format!("({})", vec!["true"; 300].join(", "));
    let texts = [
        ("org.systemd.property.Long", long.as_str()),
        ("org.systemd.property.TimeoutStopSec", "5"),
        ("org.systemd.property.RuntimeMaxSec", "1.5"),
        ("org.systemd.property.BindsTo", "['a.service']"),
        ("org.systemd.property.Bad-Name", "true"),
        ("org.systemd.property.OOMPolicy", "stop"),
        ("org.systemd.property.StartSec", "'x'"),
        ("org.example", "5"),
    ];
    let map = texts.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let (mut properties, mut faults) = (Vec::new(), Vec::new());
    annotations(&map, &mut properties, &mut faults);
    let found: Vec<String> =
        properties.iter().map(|property| format!("{}={}", property.name, property.value)).collect();
    assert_eq!(found, ["BindsTo=[\"a.service\"]", "RuntimeMaxUSec=1500000", "TimeoutStopUSec=5000000"]);
    let pointers: Vec<&str> = faults.iter().map(|fault| fault.pointer.as_str()).collect();
    let wanted =
        ["Bad-Name", "Long", "OOMPolicy", "StartSec"].map(|name| format!("/annotations/org.systemd.property.{name}"));
    assert_eq!(pointers, wanted);
}

#[test]
fn seconds_of_every_type_become_microseconds() {
    let of = |value: &Value| microseconds(value).map(|value| format!("{value:?}"));
    let two = Some(format!("{:?}", Value::U64(2_000_000)));
    for value in [Value::I16(2), Value::U16(2), Value::I32(2), Value::U32(2), Value::I64(2), Value::U64(2)] {
        assert_eq!(of(&value), two, "{value:?}");
    }
    assert_eq!(of(&Value::Double(0.5)), Some(format!("{:?}", Value::U64(500_000))));
    assert_eq!(of(&Value::Double(0.0)), Some(format!("{:?}", Value::U64(0))));
    for value in [Value::I64(-1), Value::U64(u64::MAX), Value::Double(-0.5), Value::Double(1e12)] {
        assert_eq!(of(&value), None, "{value:?}");
    }
}

#[test]
fn a_cgroup_that_is_not_idle_has_the_weight_that_it_is_given() {
    assert_eq!(properties(&[write("cpu.idle", "1")]), [set("CPUWeight", 0)]);
    assert!(properties(&[write("cpu.idle", "0")]).is_empty());
}
