//! Names and numbers of capabilities against the kernel's headers and against this kernel.

use std::collections::BTreeSet;

use caps::Capability;
use windlass_base::capability::CapabilitySet;
use windlass_plan::{Action, Host, Options, Plan};

/// The last capability of this kernel.
fn last_capability() -> u8 {
    let text = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap").expect("procfs");
    text.trim().parse().expect("a number")
}

/// Plans a container whose bounding set has `names`.
fn plan(names: &[String], granted: CapabilitySet) -> Plan {
    let text = serde_json::json!({
        "ociVersion": "1.2.0",
        "root": { "path": "rootfs" },
        "process": { "args": ["sh"], "cwd": "/", "capabilities": { "bounding": names, "permitted": names, "effective": names } },
        "linux": { "namespaces": [{ "type": "mount" }] },
    })
    .to_string();
    let spec = windlass_base::spec::parse(text.as_bytes(), "config.json").expect("valid");
    let options = Options { host: Host { capabilities: granted, ..Host::default() }, ..Options::default() };
    windlass_plan::create("x", &spec, &options).expect("it can be planned")
}

/// The bounding set that a plan takes.
fn bounding(plan: &Plan) -> CapabilitySet {
    let identity = plan.init.iter().find_map(|step| match &step.action {
        Action::Identity(identity) => Some(identity),
        _ => None,
    });
    let sets = identity.expect("every process has ids").capabilities;
    assert_eq!((sets.permitted, sets.effective), (sets.bounding, sets.bounding));
    sets.bounding
}

#[test]
fn every_capability_of_this_kernel_has_a_name_and_its_own_bit() {
    let known: BTreeSet<u8> = caps::all().into_iter().map(|capability| capability.index()).collect();
    for number in 0..=last_capability() {
        assert!(known.contains(&number), "capability {number} has no name yet");
    }
    for capability in caps::all() {
        let plan = plan(&[capability.to_string()], CapabilitySet::all());
        assert_eq!(bounding(&plan).bits(), 1 << capability.index(), "{capability}");
        assert_eq!(plan.warnings, [], "{capability}");
    }
}

#[test]
fn the_numbers_of_capabilities_are_those_of_the_headers() {
    // linux/capability.h; the rest is counted on between these.
    for (name, number) in [
        ("CAP_CHOWN", 0),
        ("CAP_KILL", 5),
        ("CAP_SETPCAP", 8),
        ("CAP_NET_ADMIN", 12),
        ("CAP_SYS_ADMIN", 21),
        ("CAP_SETFCAP", 31),
        ("CAP_MAC_OVERRIDE", 32),
        ("CAP_AUDIT_READ", 37),
        ("CAP_PERFMON", 38),
        ("CAP_BPF", 39),
        ("CAP_CHECKPOINT_RESTORE", 40),
    ] {
        assert_eq!(bounding(&plan(&[name.to_string()], CapabilitySet::all())).bits(), 1 << number, "{name}");
    }
}

#[test]
fn a_capability_that_cannot_be_granted_is_left_out_and_told() {
    let names: Vec<String> = caps::all().iter().map(Capability::to_string).collect();
    // CAP_SYS_ADMIN is one of the two: without it a container needs a user namespace, in which it has all.
    let granted = CapabilitySet::from_bits_retain(1) | CapabilitySet::SYS_ADMIN;
    let plan = plan(&names, granted);
    assert_eq!(bounding(&plan), granted);
    assert_eq!(plan.warnings.len(), names.len() - 2);
}
