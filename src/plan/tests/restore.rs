//! Claims of images, compared with a configuration.

use std::rc::Rc;

use serde_json::json;

use windlass_base::abi::SchedulerAttributes;
use windlass_base::capability::CapabilitySet;
use windlass_base::mount::MountAttributes;
use windlass_base::mountinfo::Mounted;
use windlass_base::namespaces::Namespaces;
use windlass_base::spec::{IdMapping, Spec};
use windlass_plan::limit_audit::{exceeds_priority, mislabelled, raised};
use windlass_plan::mount_audit::{Place, Shows, Sources, foreign_mounts, views};
use windlass_plan::restore::{ClaimedMount, Claims, Thread, contradictions, provenance, task_contradictions};
use windlass_plan::{Host, Options, Plan};

fn spec() -> Spec {
    let text = json!({
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs"},
        "process": {
            "args": ["sh"], "cwd": "/", "noNewPrivileges": true, "user": {"uid": 5, "gid": 6},
            "capabilities": {"bounding": ["CAP_KILL"], "permitted": ["CAP_KILL"], "effective": ["CAP_KILL"]}
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid"]},
            {"destination": "/data", "type": "bind", "source": "/srv", "options": ["bind", "ro"]}
        ],
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "network", "path": "/run/netns/a"}],
            "maskedPaths": ["/proc/kcore"],
            "readonlyPaths": ["/proc/sys"],
            "seccomp": {"defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]},
            "resources": {"pids": {"limit": 2}}
        }
    });
    windlass_base::spec::parse(text.to_string().as_bytes(), "config.json").expect("valid")
}

fn plan(spec: &Spec) -> Plan {
    let host = Host { capabilities: CapabilitySet::all(), ..Host::default() };
    windlass_plan::create("box", spec, &Options { host, ..Options::default() }).expect("planned")
}

fn mount(point: &str, kind: &str, device: u32, root: &str, flags: u64) -> ClaimedMount {
    let flags = MountAttributes::from_bits_retain(flags);
    ClaimedMount { point: point.into(), kind: kind.into(), device, root: root.into(), flags, ..ClaimedMount::default() }
}

/// The claims of that container's images.
fn claims(plan: &Plan) -> Claims {
    let filter = plan.init.iter().find_map(|step| match &step.action {
        windlass_plan::Action::Seccomp(seccomp) => Some(seccomp.filter.program.instructions().to_vec()),
        _ => None,
    });
    let word = |it: windlass_seccomp::sock_filter| {
        let [a, b] = it.code.to_ne_bytes();
        let [c, d, e, f] = it.k.to_ne_bytes();
        [a, b, it.jt, it.jf, c, d, e, f]
    };
    let filter = filter.expect("a filter").into_iter().flat_map(word).collect();
    let external = |point: &str, name: &str, flags| ClaimedMount {
        external: Some(name.into()),
        ..mount(point, "ext4", 9, "/x", flags)
    };
    Claims {
        processes: 1,
        namespaces: vec![Namespaces::PID | Namespaces::MOUNT | Namespaces::NET | Namespaces::TIME],
        threads: vec![Thread {
            tid: 1,
            uids: [5; 4],
            gids: [6; 4],
            capabilities: CapabilitySet::from_bits_retain(1 << 5),
            no_new_privileges: true,
            filtered: true,
            filters: Rc::new(vec![Rc::new([]), filter]),
        }],
        mounts: vec![
            mount("/", "ext4", 1, "/b/rootfs", 0),
            mount("/proc", "proc", 2, "/", 0),
            mount("/dev", "tmpfs", 3, "/", 2),
            external("/data", "/data", 1),
            external("/proc/kcore", "/dev/null", 0),
            mount("/proc/sys", "proc", 2, "/sys", 1),
        ],
        maps: None,
    }
}

fn faults(change: impl FnOnce(&mut Claims)) -> Vec<String> {
    let spec = spec();
    let plan = plan(&spec);
    let mut claims = claims(&plan);
    change(&mut claims);
    contradictions(&plan, &spec, &claims, &|_| true).into_iter().map(|fault| fault.pointer).collect()
}

#[test]
fn images_of_the_same_container_contradict_nothing() {
    assert_eq!(faults(|_| {}), Vec::<String>::new());
    // A joined namespace may be the host's, and a tmpfs shows nothing of the host.
    assert!(faults(|claims| claims.namespaces[0] -= Namespaces::NET).is_empty());
    assert!(faults(|claims| claims.mounts.push(mount("/tmp", "tmpfs", 7, "/", 0))).is_empty());
    assert!(faults(|claims| claims.mounts.push(mount("/etc/copy", "ext4", 1, "/b/rootfs/etc", 0))).is_empty());
}

#[test]
fn only_what_is_mounted_needs_to_be_covered() {
    let masked = "/linux/maskedPaths".to_owned();
    assert!(faults(|claims| claims.mounts.retain(|mount| mount.point != "/proc/kcore")).contains(&masked));
    assert!(!faults(|claims| claims.mounts.retain(|mount| !mount.point.starts_with("/proc"))).contains(&masked));
}

#[test]
fn whatever_gives_more_is_a_fault_of_its_element() {
    type Change = fn(&mut Claims);
    let cases: &[(&str, Change)] = &[
        ("/process/capabilities/bounding", |it| it.threads[0].capabilities |= CapabilitySet::SYS_ADMIN),
        ("/process/noNewPrivileges", |it| it.threads[0].no_new_privileges = false),
        ("/process/user/uid", |it| it.threads[0].uids[2] = 0),
        ("/process/user/gid", |it| it.threads[0].gids[0] = 0),
        ("/linux/seccomp", |it| it.threads[0].filtered = false),
        ("/linux/seccomp", |it| drop(Rc::make_mut(&mut it.threads[0].filters).pop())),
        ("/linux/namespaces", |it| it.namespaces[0] -= Namespaces::PID),
        ("/linux/namespaces", |it| it.namespaces[0] |= Namespaces::USER),
        ("/linux/namespaces", |it| it.namespaces.push(Namespaces::empty())),
        ("/linux/resources/pids/limit", |it| it.threads.extend(vec![it.threads[0].clone(); 2])),
        ("/mounts/0", |it| it.mounts[1].kind = "sysfs".into()),
        ("/mounts/1", |it| it.mounts[2].flags = MountAttributes::empty()),
        ("/mounts/2", |it| it.mounts[3].flags = MountAttributes::empty()),
        ("/mounts/2", |it| it.mounts[3].external = Some("/dev".into())),
        ("/mounts", |it| it.mounts.push(mount("/again", "proc", 8, "/", 0))),
        ("/mounts", |it| it.mounts.push(mount("/disk", "xfs", 8, "/", 0))),
        ("/mounts", |it| it.mounts.push(mount("/host", "ext4", 1, "/b", 0))),
        ("/mounts", |it| it.mounts.push(mount("/disk", "ext4", 8, "/b/rootfs/etc", 0))),
        ("/mounts", |it| it.mounts.push(mount("/host", "ext4", 1, "/b/rootfs/../../etc", 0))),
        ("/mounts", |it| it.mounts.push(mount("/a/../host", "tmpfs", 7, "/", 0))),
        ("/mounts", |it| it.mounts.push(mount("/part", "proc", 2, "/sys", 0))),
        ("/mounts", |it| it.mounts.push(mount("/layers", "overlay", 8, "/", 0))),
        ("/mounts", |it| it.mounts.push(ClaimedMount { namespace: 1, ..mount("/x", "tmpfs", 8, "/", 0) })),
        ("/root/path", |it| it.mounts.push(mount("/", "ext4", 1, "/b/rootfs", 0))),
        ("/mounts", |it| it.mounts.push(ClaimedMount { plugin: true, ..mount("/x", "tmpfs", 8, "/", 0) })),
        ("/linux/maskedPaths", |it| drop(it.mounts.remove(4))),
        ("/linux/readonlyPaths", |it| drop(it.mounts.remove(5))),
        ("/linux/readonlyPaths", |it| it.mounts[5].flags = MountAttributes::empty()),
    ];
    for (number, (pointer, change)) in cases.iter().enumerate() {
        assert_eq!(faults(change), [*pointer], "case {number}");
    }
}

#[test]
fn what_a_container_may_mount_itself_gives_it_nothing_of_the_host() {
    let mut spec = spec();
    let process = spec.process.as_mut().expect("there");
    process.capabilities.as_mut().expect("there").bounding = Some(vec!["CAP_SYS_ADMIN".into(), "CAP_KILL".into()]);
    let plan = plan(&spec);
    let found = |added: ClaimedMount| {
        let mut claims = claims(&plan);
        claims.mounts.push(added);
        contradictions(&plan, &spec, &claims, &|_| true).len()
    };
    assert_eq!(found(mount("/again", "proc", 8, "/", 0)), 0);
    assert_eq!(found(ClaimedMount { namespace: 1, ..mount("/again", "sysfs", 8, "/", 0) }), 0);
    assert_eq!(
        found(ClaimedMount { namespace: 1, ..mount("/", "ext4", 1, "/b/rootfs", 0) }),
        0,
        "the root of another namespace"
    );
    for kind in ["overlay", "binfmt_misc", "ext4", ""] {
        assert_eq!(found(mount("/again", kind, 8, "/", 0)), 1, "{kind}");
    }
    assert_eq!(found(ClaimedMount { namespace: 1, ..mount("/host", "ext4", 1, "/b/rootfs/..", 0) }), 1);
}

#[test]
fn no_process_has_higher_limits_than_the_configuration_gives() {
    let mut spec = spec();
    let process = spec.process.as_mut().expect("there");
    process.oom_score_adj = Some(100);
    let limit = json!([{"type": "RLIMIT_NOFILE", "soft": 5, "hard": 10}]);
    process.rlimits = serde_json::from_value(limit).expect("valid");
    let found = |spec: &Spec, oom, hard| -> Vec<String> {
        // 7 is RLIMIT_NOFILE.
        let hard = |number| (number == 7).then_some(hard);
        raised(&plan(spec), oom, &hard).into_iter().map(|fault| fault.pointer).collect()
    };
    assert!(found(&spec, [100, 0], 10).is_empty() && found(&spec, [1000, 0], 3).is_empty());
    assert_eq!(found(&spec, [99, 0], 10), ["/process/oomScoreAdj"]);
    assert_eq!(found(&spec, [100, 0], u64::MAX), ["/process/rlimits/0"]);
    let process = spec.process.as_mut().expect("there");
    (process.oom_score_adj, process.rlimits) = (None, Vec::new());
    assert!(found(&spec, [5, 5], u64::MAX).is_empty(), "what the runtime has");
    assert_eq!(found(&spec, [-1000, 5], 0), ["/process/oomScoreAdj"]);
    let bounding = &mut spec.process.as_mut().expect("there").capabilities.as_mut().expect("there").bounding;
    *bounding = Some(vec!["CAP_SYS_RESOURCE".into(), "CAP_KILL".into()]);
    assert!(found(&spec, [-1000, 5], 0).is_empty(), "it may do so itself");
}

#[test]
fn id_maps_must_be_the_same() {
    let mut spec = spec();
    let ours = IdMapping { container_id: 0, host_id: 100_000, size: 65536 };
    let linux = spec.linux.as_mut().expect("there");
    linux.namespaces.push(windlass_base::spec::Namespace { kind: "user".into(), ..Default::default() });
    linux.uid_mappings = vec![ours.clone()];
    linux.gid_mappings = vec![ours.clone()];
    let plan = plan(&spec);
    let mut claims = claims(&plan);
    claims.namespaces[0] |= Namespaces::USER;
    let found = |claims: &Claims| {
        let faults = contradictions(&plan, &spec, claims, &|_| true);
        faults.into_iter().map(|fault| fault.pointer).collect::<Vec<_>>()
    };
    assert_eq!(found(&claims), ["/linux/uidMappings"]);
    claims.maps = Some([vec![ours.clone()], vec![ours.clone()]]);
    assert!(found(&claims).is_empty());
    claims.maps = Some([vec![ours], Vec::new()]);
    assert_eq!(found(&claims), ["/linux/gidMappings"]);
}

#[test]
fn of_running_tasks_the_filters_themselves_are_not_known() {
    let spec = spec();
    let plan = plan(&spec);
    let mut claims = claims(&plan);
    claims.mounts.clear();
    claims.threads[0].filters = Rc::default();
    assert!(task_contradictions(&plan, &claims).is_empty());
    claims.threads[0].filtered = false;
    assert_eq!(task_contradictions(&plan, &claims)[0].pointer, "/linux/seccomp");
}

fn mounted(point: &str, kind: &str, device: &str, root: &str, flags: &str) -> Mounted {
    let [point, kind, device, root, flags] = [point, kind, device, root, flags].map(str::to_owned);
    Mounted { point, kind, device, root, flags, ..Mounted::default() }
}

#[test]
fn a_mount_is_known_by_what_it_shows_and_not_by_its_path() {
    let place = |device: &str, root: &str| Place { device: device.into(), root: root.into() };
    let sources = Sources {
        rootfs: place("8:1", "/b/rootfs"),
        external: vec![
            (place("8:1", "/srv"), MountAttributes::RDONLY),
            (place("8:1", "/mapped"), MountAttributes::IDMAP),
        ],
        hosts: ["8:1", "0:5"].map(str::to_owned).into(),
        cgroup: None,
    };
    let plan = plan(&spec());
    let is_known = |mount| foreign_mounts(&plan, &sources, &[mount]).is_empty();
    assert!(is_known(mounted("/", "ext4", "8:1", "/b/rootfs", "rw")));
    assert!(is_known(mounted("/data", "ext4", "8:1", "/srv", "ro,relatime")));
    assert!(is_known(mounted("/proc", "proc", "0:40", "/", "rw")));
    assert!(!is_known(mounted("/mnt", "ext4", "8:1", "/etc", "ro")), "what is the host's");
    assert!(!is_known(mounted("/mnt", "ext4", "8:1", "/b/rootfs2", "ro")), "what only begins like it");
    assert!(!is_known(mounted("/data", "ext4", "8:1", "/srv", "rw,relatime")), "with fewer restrictions");
    assert!(is_known(mounted("/home", "ext4", "8:1", "/mapped", "rw,relatime,idmapped")));
    assert!(!is_known(mounted("/home", "ext4", "8:1", "/mapped", "rw,relatime")), "with the ids of the host");
    assert!(!is_known(mounted("/proc", "proc", "0:5", "/", "rw")), "the host's own");
    assert!(!is_known(mounted("/mnt", "xfs", "0:40", "/", "ro")), "a filesystem that no container mounts");
}

#[test]
fn what_paths_must_show_follows_the_order_of_the_mounts() {
    let shown = |spec: &Spec| -> Vec<(String, Shows)> {
        views(&plan(spec)).into_iter().map(|view| (view.path.to_string(), view.shows)).collect()
    };
    let mut spec = spec();
    let sys = ("/proc/sys".to_owned(), Shows::Flags(MountAttributes::RDONLY));
    let kcore = ("/proc/kcore".to_owned(), Shows::Nothing);
    let dev = ("/dev".to_owned(), Shows::Flags(MountAttributes::NOSUID));
    let data = ("/data".to_owned(), Shows::Flags(MountAttributes::RDONLY));
    let found = shown(&spec);
    for view in [sys, kcore, dev.clone(), data] {
        assert!(found.contains(&view), "{view:?} in {found:?}");
    }
    // A later mount hides the earlier ones.
    let over = json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs"});
    spec.mounts.push(serde_json::from_value(over).expect("valid"));
    assert!(!shown(&spec).contains(&dev));
}

#[test]
fn a_task_runs_before_others_only_if_the_configuration_lets_it() {
    let task =
        |policy, nice, priority| SchedulerAttributes { policy, nice, priority, ..SchedulerAttributes::default() };
    let with = |scheduler: serde_json::Value, limits: serde_json::Value, capabilities: &str| {
        let mut spec = spec();
        let process = spec.process.as_mut().expect("a process");
        process.scheduler = serde_json::from_value(scheduler).expect("valid");
        process.rlimits = serde_json::from_value(limits).expect("valid");
        let list = json!({"bounding": [capabilities]});
        process.capabilities = serde_json::from_value(list).expect("valid");
        plan(&spec)
    };
    let own = task(0, -3, 0);
    let no_limit = |_| 0;
    let refused = |plan: &Plan, found| exceeds_priority(plan, &found, &own, &no_limit).is_some();
    let plain = with(json!(null), json!([]), "CAP_KILL");
    for (found, expected) in [
        (task(0, 0, 0), false),
        (task(3, 19, 0), false),
        (task(0, -3, 0), false),
        (task(0, -4, 0), true),
        (task(1, 0, 1), true),
        (task(2, 0, 1), true),
        (task(6, 0, 0), true),
    ] {
        assert_eq!(refused(&plain, found), expected, "{found:?}");
    }
    assert!(
        exceeds_priority(&plain, &task(1, 0, 1), &own, &|number| u64::from(number == 14)).is_none(),
        "the runtime may"
    );
    let fifo = with(json!({"policy": "SCHED_FIFO", "priority": 5}), json!([]), "CAP_KILL");
    assert!(!refused(&fifo, task(1, 0, 5)) && !refused(&fifo, task(0, 0, 0)));
    assert!(refused(&fifo, task(1, 0, 6)) && refused(&fifo, task(6, 0, 0)));
    let nice = with(json!({"policy": "SCHED_OTHER", "nice": 4}), json!([]), "CAP_KILL");
    assert!(refused(&nice, task(0, 3, 0)) && !refused(&nice, task(0, 4, 0)));
    let limits =
        json!([{"type": "RLIMIT_NICE", "soft": 30, "hard": 30}, {"type": "RLIMIT_RTPRIO", "soft": 2, "hard": 2}]);
    let limited = with(json!(null), limits, "CAP_KILL");
    assert!(!refused(&limited, task(0, -10, 0)) && refused(&limited, task(0, -11, 0)));
    assert!(!refused(&limited, task(2, 0, 2)) && refused(&limited, task(2, 0, 3)));
    assert!(!refused(&with(json!(null), json!([]), "CAP_SYS_NICE"), task(1, -20, 99)), "it may anyway");
}

#[test]
fn a_label_is_that_of_the_configuration_or_of_the_flag() {
    let with = |change: fn(&mut windlass_base::spec::Process)| {
        let mut spec = spec();
        change(spec.process.as_mut().expect("a process"));
        plan(&spec)
    };
    let none = plan(&spec());
    let apparmor = with(|process| process.apparmor_profile = "docker-default".into());
    let selinux = with(|process| process.selinux_label = "system_u:system_r:container_t:s0:c1".into());
    let free = with(|process| process.apparmor_profile = "unconfined".into());
    for (plan, given, found, has) in [
        (&none, "", "", true),
        (&none, "", "unconfined\n", true),
        (&none, "apparmor:mine", "mine (enforce)\n", true),
        (&none, "selinux:u:r:t:s0", "u:r:other:s0\0", false),
        (&none, "selinux:u:r:t:s0", "u:r:t:s0\0", true),
        (&apparmor, "", "docker-default (enforce)\n", true),
        (&apparmor, "", "docker-default//child (complain)\n", true),
        (&apparmor, "", "docker-default2 (enforce)\n", false),
        (&apparmor, "", "unconfined\n", false),
        (&apparmor, "", "", false),
        (&apparmor, "apparmor:mine", "docker-default (enforce)\n", false),
        (&free, "", "", true),
        (&selinux, "", "system_u:system_r:container_t:s0:c1\0", true),
        (&selinux, "", "system_u:system_r:spc_t:s0\0", false),
    ] {
        assert_eq!(mislabelled(plan, given, found).is_none(), has, "{given:?} {found:?}");
    }
    assert_eq!(mislabelled(&selinux, "", "x").expect("another").pointer, "/process/selinuxLabel");
}

#[test]
fn a_mount_from_outside_is_where_it_comes_from_or_hides_a_path() {
    let external =
        |point: &str, name: &str| ClaimedMount { external: Some(name.into()), ..mount(point, "ext4", 9, "/x", 1) };
    let found = |point: &str, name: &str| faults(|claims| claims.mounts.push(external(point, name))).len();
    assert_eq!(found("/proc/kcore", "/dev/null"), 0);
    assert_eq!(found("/proc/kcore", "/data"), 1, "another file over a masked path");
    assert_eq!(found("/etc/passwd", "/dev/null"), 1, "a path that is not masked");
    assert_eq!(found("/data", "/data"), 0);
}

#[test]
fn who_may_mount_may_have_copies_with_the_same_restrictions_elsewhere() {
    let found = |capabilities: &str, copy: ClaimedMount| {
        let mut spec = spec();
        let list = json!({"bounding": [capabilities], "permitted": [capabilities], "effective": [capabilities]});
        spec.process.as_mut().expect("a process").capabilities = serde_json::from_value(list).expect("valid");
        let plan = plan(&spec);
        let mut claims = claims(&plan);
        claims.threads[0].capabilities = CapabilitySet::empty();
        claims.mounts.iter_mut().filter(|mount| mount.point == "/data").for_each(|mount| mount.device = 12);
        claims.mounts.push(ClaimedMount { namespace: 1, ..copy });
        contradictions(&plan, &spec, &claims, &|_| true).len()
    };
    let copy = |device, root: &str, flags| mount("/copy", "ext4", device, root, flags);
    assert_eq!(found("CAP_SYS_ADMIN", copy(12, "/x/below", 1)), 0);
    assert_eq!(found("CAP_SYS_ADMIN", copy(12, "/x/below", 0)), 1, "with fewer restrictions");
    assert_eq!(found("CAP_KILL", copy(12, "/x/below", 1)), 1, "it may not mount");
    assert_eq!(found("CAP_SYS_ADMIN", copy(12, "/y", 1)), 1, "not below what it has");
    assert_eq!(found("CAP_SYS_ADMIN", copy(8, "/x/below", 1)), 1, "another filesystem");
}

#[test]
fn each_mount_of_the_images_has_where_it_comes_from() {
    let plan = plan(&spec());
    let mut claims = claims(&plan);
    let odd = ClaimedMount { external: Some("/odd".into()), ..mount("/odd", "ext4", 9, "/x", 0) };
    let below = ClaimedMount { external: Some("/data/a".into()), ..mount("/data/a", "ext4", 9, "/x/a", 1) };
    claims.mounts.extend([odd, below]);
    let rows = provenance(&plan, &claims);
    let of = |what: &str| {
        let row = rows.iter().find(|row| row.what == what).unwrap_or_else(|| panic!("{what} in {rows:?}"));
        (row.from.clone(), row.origin.clone())
    };
    let pair = |from: &str, origin: &str| (from.to_owned(), origin.to_owned());
    assert_eq!(of("network namespace"), pair("joined: /run/netns/a", "/linux/namespaces/2"));
    assert_eq!(of("mount / (ext4)").1, "/root/path");
    assert!(of("mount / (ext4)").0.contains("rootfs"));
    assert_eq!(of("mount /proc (proc)").0, "made anew from the images");
    assert!(of("mount /proc (proc)").1.contains("/mounts/0"));
    assert_eq!(of("mount /proc/kcore (ext4)"), pair("the host's /dev/null", "/linux/maskedPaths"));
    assert_eq!(of("mount /data (ext4)").0, "the host's /srv");
    assert_eq!(of("mount /data/a (ext4)").0, "the host's /srv");
    assert!(of("mount /odd (ext4)").0.starts_with("nowhere"));
    assert!(rows.iter().any(|row| row.what.ends_with(" namespaces") && row.origin == "/linux/namespaces"));
    let mut spec = spec();
    spec.linux.as_mut().expect("there").namespaces.clear();
    (spec.mounts, spec.root.as_mut().expect("there").readonly) = (Vec::new(), false);
    assert!(!provenance(&self::plan(&spec), &Claims::default()).iter().any(|row| row.what.contains("namespace")));
}

#[test]
fn what_the_kernel_has_once_for_a_shared_namespace_is_the_hosts() {
    let sources = Sources {
        rootfs: Place { device: "8:1".into(), root: "/b/rootfs".into() },
        external: Vec::new(),
        hosts: ["8:1", "0:5"].map(str::to_owned).into(),
        cgroup: Some("/box".into()),
    };
    let is_known = |namespaces: serde_json::Value, mount: Mounted| {
        let mut spec = spec();
        spec.mounts.extend(["sysfs", "mqueue", "cgroup2"].map(|kind| {
            let mount = json!({"destination": format!("/{kind}"), "type": kind, "source": kind});
            serde_json::from_value(mount).expect("valid")
        }));
        spec.linux.as_mut().expect("there").namespaces = serde_json::from_value(namespaces).expect("valid");
        foreign_mounts(&plan(&spec), &sources, &[mount]).is_empty()
    };
    let shared = || json!([{"type": "mount"}, {"type": "pid"}]);
    let own = || json!([{"type": "mount"}, {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "cgroup"}]);
    for kind in ["sysfs", "mqueue"] {
        assert!(is_known(shared(), mounted("/x", kind, "0:5", "/", "rw")), "{kind} of the host");
        assert!(!is_known(own(), mounted("/x", kind, "0:5", "/", "rw")), "{kind} of the host, with an own namespace");
    }
    assert!(!is_known(own(), mounted("/proc", "proc", "0:5", "/", "rw")));
    assert!(is_known(own(), mounted("/x", "cgroup2", "0:5", "/box/a", "rw")));
    assert!(!is_known(own(), mounted("/x", "cgroup2", "0:5", "/other", "rw")), "the cgroup of others");
}

#[test]
fn the_cgroups_of_the_host_are_known_where_the_configuration_mounts_them() {
    let sources = Sources { hosts: ["0:5".to_owned()].into(), cgroup: Some("/box".into()), ..Sources::default() };
    let is_known = |kind: &str| {
        let mut spec = spec();
        let mount = json!({"destination": "/x", "type": kind, "source": kind});
        spec.mounts.push(serde_json::from_value(mount).expect("valid"));
        foreign_mounts(&plan(&spec), &sources, &[mounted("/x", "cgroup2", "0:5", "/other", "rw")]).is_empty()
    };
    assert!(is_known("cgroup2"), "without a namespace of its own it sees all");
    assert!(!is_known("tmpfs"), "nothing mounts it");
}

#[test]
fn a_view_has_the_flags_that_take_something_away() {
    let mut spec = spec();
    let mount = json!({"destination": "/x", "type": "tmpfs", "source": "x", "options": ["noatime", "nodev"]});
    spec.mounts.push(serde_json::from_value(mount).expect("valid"));
    let shown = views(&plan(&spec));
    let view = shown.iter().find(|view| view.path.is("/x")).expect("a view");
    assert_eq!((view.shows, view.external), (Shows::Flags(MountAttributes::NODEV), false));
    assert_eq!(view.pointer, "/mounts/3");
    let mount = json!({"destination": "/y", "type": "tmpfs", "source": "y", "options": ["noatime"]});
    spec.mounts.push(serde_json::from_value(mount).expect("valid"));
    assert!(!views(&plan(&spec)).iter().any(|view| view.path.is("/y")), "it may show anything");
}

#[test]
fn a_read_only_root_says_nothing_of_other_mounts() {
    let mut spec = spec();
    spec.root.as_mut().expect("there").readonly = true;
    let plan = plan(&spec);
    let mut claims = claims(&plan);
    let found = |claims: &Claims| -> Vec<String> {
        let faults = contradictions(&plan, &spec, claims, &|_| true);
        faults.into_iter().map(|fault| fault.pointer).collect()
    };
    assert_eq!(found(&claims), ["/root/readonly"]);
    claims.mounts[0].flags = MountAttributes::RDONLY;
    assert!(found(&claims).is_empty(), "/proc may be written to");
}

#[test]
fn the_terminal_of_the_container_covers_its_console() {
    let found = |terminal: bool, point: &str| {
        let mut spec = spec();
        spec.process.as_mut().expect("there").terminal = terminal;
        let plan = plan(&spec);
        let mut claims = claims(&plan);
        claims.mounts.push(mount(point, "devpts", 8, "/3", 0));
        contradictions(&plan, &spec, &claims, &|_| true).len()
    };
    assert_eq!(found(true, "/dev/console"), 0);
    assert_eq!(found(true, "/dev/tty1"), 1);
    assert_eq!(found(false, "/dev/console"), 1);
}

#[test]
fn a_device_of_the_host_is_one_that_the_configuration_has() {
    let mut spec = spec();
    let map = IdMapping { container_id: 0, host_id: 100_000, size: 65536 };
    let linux = spec.linux.as_mut().expect("there");
    linux.namespaces.push(windlass_base::spec::Namespace { kind: "user".into(), ..Default::default() });
    (linux.uid_mappings, linux.gid_mappings) = (vec![map.clone()], vec![map]);
    let plan = plan(&spec);
    let device = |path: &str| ClaimedMount { external: Some(path.into()), ..mount(path, "devtmpfs", 9, "/x", 0) };
    let claims = Claims { mounts: vec![device("/dev/zero"), device("/odd/sda")], ..Claims::default() };
    let rows = provenance(&plan, &claims);
    let from = |what: &str| rows.iter().find(|row| row.what.starts_with(what)).expect("a row").from.clone();
    assert_eq!(from("mount /dev/zero"), "the host's /dev/zero");
    assert_eq!(from("mount /odd/sda"), "nowhere: config.json has no such mount");
}
