//! Names and numbers of the kernel, as we know them, against crates that know them independently
//! and against this kernel.

use std::collections::BTreeSet;

use caps::{CapSet, Capability};
use procfs::process::Process;
use windlass_plan::{Action, Host, Options, Plan};
use windlass_store::process_stat;
use windlass_sys::credentials;

/// The last capability of this kernel.
fn last_capability() -> u8 {
    let text = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap").expect("procfs");
    text.trim().parse().expect("a number")
}

/// Plans a container whose bounding set has `names`.
fn plan(names: &[String], granted: u64) -> Plan {
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
fn bounding(plan: &Plan) -> u64 {
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
        let plan = plan(&[capability.to_string()], u64::MAX);
        assert_eq!(bounding(&plan), 1 << capability.index(), "{capability}");
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
        assert_eq!(bounding(&plan(&[name.to_string()], u64::MAX)), 1 << number, "{name}");
    }
}

#[test]
fn a_capability_that_cannot_be_granted_is_left_out_and_told() {
    let names: Vec<String> = caps::all().iter().map(Capability::to_string).collect();
    // CAP_SYS_ADMIN is one of the two: without it a container needs a user namespace, and has all in that.
    let granted = 1 | Capability::CAP_SYS_ADMIN.bitmask();
    let plan = plan(&names, granted);
    assert_eq!(bounding(&plan), granted);
    assert_eq!(plan.warnings.len(), names.len() - 2);
}

#[test]
fn our_reading_of_our_own_capabilities_is_that_of_caps() {
    let bits = |set: CapSet| -> u64 {
        caps::read(None, set).expect("readable").iter().fold(0, |all, capability| all | capability.bitmask())
    };
    let kernel = if last_capability() == 63 { u64::MAX } else { (1 << (last_capability() + 1)) - 1 };
    let ours = credentials::capabilities().expect("readable");
    assert_eq!(ours.effective & kernel, bits(CapSet::Effective));
    assert_eq!(ours.permitted & kernel, bits(CapSet::Permitted));
    assert_eq!(ours.inheritable & kernel, bits(CapSet::Inheritable));
    let bounding = (0..64).filter(|n| credentials::is_bounding(*n)).fold(0u64, |all, n| all | 1 << n);
    assert_eq!(bounding, bits(CapSet::Bounding));
}

/// Field by field as procfs reads `/proc/PID/stat`.
fn assert_same(pid: i32) {
    // The state may change between two looks: not the rest.
    let ours = process_stat(pid).expect("it lives");
    let theirs = Process::new(pid).and_then(|process| process.stat()).expect("it lives");
    assert_eq!(ours.name, theirs.comm);
    assert_eq!(ours.start_time, theirs.starttime);
    assert_eq!(Some(ours.exit_code), theirs.exit_code);
}

#[test]
fn a_process_is_read_as_procfs_reads_it() {
    assert_same(std::process::id() as i32);
    let mut child = std::process::Command::new("sleep").arg("600").spawn().expect("sleep(1)");
    let pid = child.id() as i32;
    assert_same(pid);
    child.kill().expect("ours");
    // It is a zombie until it is waited for, and its exit status is there to be read.
    while process_stat(pid).expect("not reaped yet").state != 'Z' {
        std::thread::yield_now();
    }
    assert_same(pid);
    assert_eq!(process_stat(pid).expect("not reaped yet").exit_code, 9);
    child.wait().expect("ours");
    assert_eq!(process_stat(pid), None);
}

#[test]
fn a_thread_with_a_name_made_to_confuse_is_read_as_procfs_reads_it() {
    for name in ["a b", ") R 1 (", "((((", "))))", "\n) Z 0", "é) S"] {
        let (started, wait) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::Builder::new()
            .name(name.into())
            .spawn(move || {
                started.send(nix::unistd::gettid().as_raw()).expect("the test waits");
                let _ = ended.recv();
            })
            .expect("a thread");
        let tid = wait.recv().expect("it starts");
        let ours = process_stat(tid).expect("it lives");
        let theirs =
            Process::myself().and_then(|me| me.task_from_tid(tid)).and_then(|task| task.stat()).expect("it lives");
        assert_eq!((ours.name.as_str(), ours.start_time), (theirs.comm.as_str(), theirs.starttime));
        assert_eq!(ours.name, name);
        drop(end);
        thread.join().expect("it ends");
    }
}
