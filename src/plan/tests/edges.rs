//! Edge cases of planning: the last id of a mapping, a flag that is asked for twice, a name that is just too long. A
//! slightly different condition in the code would fail each.

use serde_json::{Value, json};

use windlass_base::capability::CapabilitySet;
use windlass_base::mount::{MountAttributes, MsFlags};
use windlass_base::namespaces::Namespaces;
use windlass_base::spec::Spec;
use windlass_plan::exec::Request;
use windlass_plan::restore::required_of;
use windlass_plan::unit::{Systemd, Unit};
use windlass_plan::{Action, BOUND, Findings, Host, Mount, Node, Options, Plan, Resolution, Source, check};

fn document() -> Value {
    json!({
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs"},
        "process": {"args": ["sh"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"}
        ],
        "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}]}
    })
}

fn spec(change: impl FnOnce(&mut Value)) -> Spec {
    let mut document = document();
    change(&mut document);
    windlass_base::spec::parse(document.to_string().as_bytes(), "config.json").expect("valid")
}

fn options() -> Options {
    let host = Host { capabilities: CapabilitySet::all(), selinux: true, ..Host::default() };
    Options { host, ..Options::default() }
}

fn plan(change: impl FnOnce(&mut Value)) -> Plan {
    windlass_plan::create("box", &spec(change), &options()).expect("planned")
}

/// The pointers of the faults, in order.
fn faults(change: impl FnOnce(&mut Value)) -> Vec<String> {
    check(&spec(change), &options()).errors.into_iter().map(|fault| fault.pointer).collect()
}

fn mounted<'p>(plan: &'p Plan, at: &str) -> &'p Mount {
    let mount = plan.init.iter().find_map(|step| match &step.action {
        Action::Mount(mount) if mount.destination.is(at) => Some(mount),
        _ => None,
    });
    mount.unwrap_or_else(|| panic!("nothing is mounted on {at}"))
}

/// A user namespace with the ids 0 and 10 to 14 of users, and 0 to 4 and 20 to 24 of groups.
fn with_user_namespace(document: &mut Value) {
    let namespaces = document["linux"]["namespaces"].as_array_mut().expect("a list");
    namespaces.push(json!({"type": "user"}));
    document["linux"]["uidMappings"] = json!([
        {"containerID": 0, "hostID": 1000, "size": 1}, {"containerID": 10, "hostID": 100_000, "size": 5}
    ]);
    document["linux"]["gidMappings"] = json!([
        {"containerID": 0, "hostID": 200_000, "size": 5}, {"containerID": 20, "hostID": 300_000, "size": 5}
    ]);
}

#[test]
fn an_id_is_mapped_up_to_the_last_of_its_range() {
    let topology = plan(with_user_namespace).topology;
    for (id, host) in
        [(0, Some(1000)), (1, None), (9, None), (10, Some(100_000)), (14, Some(100_004)), (15, None), (u32::MAX, None)]
    {
        assert_eq!(topology.host_uid(id), host, "user {id}");
    }
    for (id, host) in [(0, Some(200_000)), (4, Some(200_004)), (5, None)] {
        assert_eq!(topology.host_gid(id), host, "group {id}");
    }
    let host = plan(|_| {}).topology;
    assert_eq!((host.host_uid(7), host.host_gid(8)), (Some(7), Some(8)));
}

#[test]
fn the_first_ids_are_the_lowest_in_whatever_order_the_mappings_are() {
    assert_eq!(plan(with_user_namespace).topology.first_ids(), (0, 0));
    let turned = plan(|document| {
        with_user_namespace(document);
        document["linux"]["uidMappings"].as_array_mut().expect("a list").reverse();
        document["linux"]["gidMappings"] = json!([
            {"containerID": 9, "hostID": 200_000, "size": 5}, {"containerID": 3, "hostID": 300_000, "size": 5}
        ]);
        document["process"]["user"] = json!({"uid": 0, "gid": 3});
    });
    assert_eq!(turned.topology.first_ids(), (0, 3));
}

#[test]
fn a_user_must_be_in_the_mappings() {
    let user = |uid: u32, gid: u32, groups: Value| {
        faults(|document| {
            with_user_namespace(document);
            document["process"]["user"] = json!({"uid": uid, "gid": gid, "additionalGids": groups});
        })
    };
    assert!(user(14, 4, json!([1, 4])).is_empty() && user(10, 0, json!([])).is_empty());
    assert_eq!(user(15, 0, json!([])), ["/process/user/uid"]);
    assert_eq!(user(9, 0, json!([])), ["/process/user/uid"]);
    assert_eq!(user(0, 5, json!([4, 5])), ["/process/user/gid", "/process/user/additionalGids/1"]);
    assert_eq!(faults(|document| document["process"]["user"]["uid"] = json!(u32::MAX)), ["/process/user/uid"]);
}

#[test]
fn the_group_of_a_terminal_is_left_out_if_it_is_not_mapped() {
    let warned = |gid: u32| {
        let plan = plan(|document| {
            with_user_namespace(document);
            let options = json!([format!("gid={gid}")]);
            let pts = json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": options});
            document["mounts"].as_array_mut().expect("a list").push(pts);
        });
        plan.warnings.len()
    };
    assert_eq!((warned(4), warned(5), warned(24), warned(25)), (0, 1, 0, 1));
}

#[test]
fn the_name_of_a_network_device_is_one_that_the_kernel_takes() {
    let device = |host: &str, inside: &str| {
        faults(|document| {
            document["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "network"}]);
            document["linux"]["netDevices"] = json!({host: {"name": inside}});
        })
    };
    assert!(device("eth0", "").is_empty() && device("eth0", "fifteen-letters").is_empty());
    assert!(device("eth0", "eth%d").is_empty(), "the kernel numbers it");
    assert_eq!(device("sixteen-letters-", "eth0"), ["/linux/netDevices/sixteen-letters-"]);
    for odd in ["a b", "a:b", "a%d", ".", ".."] {
        assert_eq!(device(odd, "eth0"), [format!("/linux/netDevices/{odd}")], "{odd}");
    }
    for odd in ["sixteen-letters-", "a/b", "a b", "%d%d", "..", "fourteen-let_s%d"] {
        assert_eq!(device("eth0", odd), ["/linux/netDevices/eth0/name"], "{odd}");
    }
    assert!(faults(|_| {}).is_empty(), "without devices no network namespace is needed");
}

#[test]
fn a_path_that_is_named_twice_is_hidden_once() {
    let plan = plan(|document| {
        document["linux"]["maskedPaths"] = json!(["/proc/kcore", "/proc/keys", "/proc/kcore"]);
        document["linux"]["readonlyPaths"] = json!(["/proc/sys", "/proc/sys"]);
    });
    let count = |wanted: fn(&Action) -> bool| plan.init.iter().filter(|step| wanted(&step.action)).count();
    assert_eq!(count(|action| matches!(action, Action::Mask(_))), 2);
    assert_eq!(count(|action| matches!(action, Action::ReadonlyPath(_))), 1);
}

#[test]
fn only_what_the_kernel_makes_is_never_mounted_through_a_link() {
    let bind = json!({"destination": "/data", "type": "proc", "source": "/srv", "options": ["bind"]});
    let plan = plan(|document| document["mounts"].as_array_mut().expect("a list").push(bind));
    assert_eq!(mounted(&plan, "/proc").resolution, Resolution::NoSymlinks);
    assert_eq!(mounted(&plan, "/tmp").resolution, Resolution::InRoot);
    assert_eq!(mounted(&plan, "/data").resolution, Resolution::InRoot);
}

#[test]
fn only_a_new_tmpfs_is_filled_from_below() {
    let with = |mount: Value| faults(|document| document["mounts"] = json!([mount]));
    let mount =
        |kind: &str, options: Value| json!({"destination": "/x", "type": kind, "source": "a", "options": options});
    assert!(with(mount("tmpfs", json!(["tmpcopyup"]))).is_empty());
    for (refused, at) in [
        (mount("proc", json!(["tmpcopyup"])), 0),
        (mount("tmpfs", json!(["bind", "tmpcopyup"])), 1),
        (mount("bind", json!(["tmpcopyup"])), 0),
    ] {
        assert_eq!(with(refused), [format!("/mounts/0/options/{at}")]);
    }
}

#[test]
fn a_mount_is_labelled_if_there_is_a_label_and_no_context_of_its_own() {
    let labelled = |label: &str, options: Value| {
        let plan = plan(|document| {
            document["linux"]["mountLabel"] = json!(label);
            document["mounts"][1]["options"] = options;
        });
        mounted(&plan, "/tmp").labelled
    };
    assert!(!labelled("", json!([])));
    assert!(labelled("u:r:t:s0", json!([])));
    assert!(!labelled("u:r:t:s0", json!(["context=\"u:r:t:s0\""])));
}

#[test]
fn a_restriction_that_is_asked_for_twice_is_one() {
    let source = |set, set_all| Source { set, set_all, ..Source::default() };
    let (ro, nosuid) = (MountAttributes::RDONLY, MountAttributes::NOSUID);
    assert_eq!(required_of(Some(&source(ro, ro))), ro);
    assert_eq!(required_of(Some(&source(ro, nosuid))), ro | nosuid);
    assert!(required_of(None).is_empty());
    let plan = plan(|document| {
        let bind = json!({"destination": "/data", "type": "bind", "source": "/srv", "options": ["bind", "ro", "rro"]});
        document["mounts"].as_array_mut().expect("a list").push(bind);
    });
    assert!(mounted(&plan, "/data").set.contains(ro));
}

/// Mount points and devices are made in it before.
#[test]
fn a_new_filesystem_is_read_only_at_the_end_however_often_that_is_asked_for() {
    for options in [json!(["ro"]), json!(["rro"]), json!(["ro", "rro"])] {
        let plan = plan(|document| document["mounts"][1]["options"] = options.clone());
        let mount = mounted(&plan, "/tmp");
        assert!(mount.late_readonly && !mount.set.contains(MountAttributes::RDONLY), "{options}");
        assert!(plan.init.iter().any(|step| matches!(&step.action, Action::Readonly(path) if path.is("/tmp"))));
    }
}

#[test]
fn a_check_tells_what_create_would_refuse_and_what_it_would_ignore() {
    let found = check(&spec(|document| document["process"]["cwd"] = json!("relative")), &options());
    assert_eq!(found.errors.len(), 1, "{found:?}");
    let odd = json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"});
    assert_eq!(check(&spec(|document| document["mounts"][1] = odd), &options()), Findings::default());
    let reservation = json!({"memory": {"kernel": 5}});
    let found = check(&spec(|document| document["linux"]["resources"] = reservation), &options());
    assert!(found.errors.is_empty() && !found.warnings.is_empty(), "{found:?}");
}

#[test]
fn an_exec_adds_ambient_capabilities_only_beside_inheritable_ones() {
    let ambient = |inheritable: Value| {
        let spec = spec(|document| {
            document["process"]["capabilities"] = json!({"bounding": ["CAP_KILL"], "inheritable": inheritable});
        });
        let request = Request { args: vec!["true".into()], caps: vec!["CAP_CHOWN".into()], ..Request::default() };
        let plan = windlass_plan::exec::exec("box", &spec, &request, None, &options()).expect("planned");
        let sets = plan.process.capabilities.expect("capabilities");
        assert_eq!(sets.bounding.expect("a list"), ["CAP_KILL", "CAP_CHOWN"]);
        sets.ambient.unwrap_or_default()
    };
    assert!(ambient(json!([])).is_empty());
    assert_eq!(ambient(json!(["CAP_KILL"])), ["CAP_CHOWN"]);
}

#[test]
fn an_exec_has_an_intermediate_process_for_the_pid_namespace() {
    let intermediate = |namespaces: Value| {
        let spec = spec(|document| document["linux"]["namespaces"] = namespaces);
        let request = Request { args: vec!["true".into()], ..Request::default() };
        let plan = windlass_plan::exec::exec("box", &spec, &request, None, &options()).expect("planned");
        let at = |wanted: fn(&Action) -> bool| plan.steps.iter().position(|step| wanted(&step.action));
        let find = at(|action| matches!(action, Action::FindExecutable));
        let fork = at(|action| matches!(action, Action::Fork { .. }));
        // The steps after the fork need the program to be found, and the filter is installed after that.
        assert!(fork.is_none_or(|fork| find.is_some_and(|find| find < fork)));
        plan.has_intermediate()
    };
    assert!(intermediate(json!([{"type": "pid"}, {"type": "mount"}])));
    assert!(!intermediate(json!([{"type": "mount"}])));
}

#[test]
fn an_exec_sets_its_limit_of_processes_by_itself_if_the_runtime_may_not() {
    let spec = spec(|document| {
        document["process"]["rlimits"] = json!([{"type": "RLIMIT_NPROC", "soft": 5, "hard": 10}]);
    });
    let request = Request { args: vec!["true".into()], ..Request::default() };
    let plan = |capabilities| {
        let mut options = options();
        options.host.capabilities = capabilities;
        let plan = windlass_plan::exec::exec("box", &spec, &request, None, &options).expect("planned");
        let at = |wanted: fn(&Action) -> bool| plan.steps.iter().position(|step| wanted(&step.action));
        let fork = at(|action| matches!(action, Action::Fork { .. })).expect("a PID namespace is joined");
        // 6 is RLIMIT_NPROC.
        let limit = at(|action| matches!(action, Action::Limit(limit) if limit.resource == 6 && limit.hard == 10));
        (plan.process_limit.map(|limit| limit.hard), limit.map(|limit| fork < limit))
    };
    assert_eq!(plan(CapabilitySet::all()), (Some(10), None));
    assert_eq!(plan(CapabilitySet::all() - CapabilitySet::SYS_RESOURCE), (None, Some(true)));
}

#[test]
fn a_name_of_the_host_may_have_64_bytes() {
    let name = |length: usize| {
        faults(|document| {
            document["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "uts"}]);
            document["hostname"] = json!("h".repeat(length));
        })
    };
    assert!(name(64).is_empty());
    assert_eq!(name(65), ["/hostname"]);
}

#[test]
fn an_exec_has_the_processors_of_its_process() {
    let spec = spec(|document| document["process"]["execCPUAffinity"] = json!({"initial": "0", "final": "0-1"}));
    let request = Request { args: vec!["true".into()], ..Request::default() };
    let plan = windlass_plan::exec::exec("box", &spec, &request, None, &options()).expect("planned");
    assert!(plan.steps.iter().any(|step| matches!(&step.action, Action::Affinity(last) if *last == [3])));
    let spec = spec_with_initial();
    let plan = windlass_plan::exec::exec("box", &spec, &request, None, &options()).expect("planned");
    assert!(!plan.steps.iter().any(|step| matches!(step.action, Action::Affinity(_))));
}

/// A configuration that names only the first processors.
fn spec_with_initial() -> Spec {
    spec(|document| document["process"]["execCPUAffinity"] = json!({"initial": "0"}))
}

#[test]
fn nanoseconds_are_less_than_a_second() {
    let offset = |nanoseconds: u32| {
        faults(|document| {
            document["linux"]["namespaces"].as_array_mut().expect("a list").push(json!({"type": "time"}));
            document["linux"]["timeOffsets"] = json!({"boottime": {"secs": 1, "nanosecs": nanoseconds}});
        })
    };
    assert!(offset(999_999_999).is_empty());
    assert_eq!(offset(1_000_000_000), ["/linux/timeOffsets/boottime/nanosecs"]);
}

#[test]
fn an_option_takes_back_its_opposite_and_no_other() {
    let flags =
        |options: Value| mounted(&plan(|document| document["mounts"][1]["options"] = options), "/tmp").old_flags;
    let iversion = MsFlags::MS_I_VERSION;
    assert_eq!(flags(json!(["iversion", "silent", "loud"])), iversion);
    assert_eq!(flags(json!(["loud", "iversion"])), iversion);
    assert!(flags(json!(["iversion", "noiversion"])).is_empty());
}

#[test]
fn the_properties_of_a_bound_device_are_those_of_its_node() {
    let plan = plan(|document| {
        with_user_namespace(document);
        document["linux"]["devices"] = json!([
            {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}, {"path": "/dev/pipe", "type": "p"}
        ]);
    });
    let node = |path: &str| -> Node {
        let found = plan.init.iter().find_map(|step| match &step.action {
            Action::Node(node) if node.path.is(path) => Some(node.clone()),
            _ => None,
        });
        found.unwrap_or_else(|| panic!("no node {path}"))
    };
    for (path, pointer) in [("/dev/null", "/linux/devices"), ("/dev/fuse", "/linux/devices/0")] {
        let source = plan.source(node(path).source.expect("it is bound")).expect("a source");
        assert_eq!((source.path.as_str(), source.target.as_str(), source.pointer.as_str()), (path, path, pointer));
        assert_eq!(source.set, BOUND);
    }
    assert_eq!(node("/dev/pipe").source, None, "anybody may make a fifo");
}

#[test]
fn the_root_filesystem_is_copied_with_the_mounts_below_it() {
    let plan = plan(|_| {});
    let source = plan.init.iter().find_map(|step| match &step.action {
        Action::Rootfs { source: Some(id), .. } => plan.source(*id),
        _ => None,
    });
    assert!(source.expect("a copy").recursive);
}

/// Nothing that is mounted may appear among the mounts of the caller.
#[test]
fn whoever_mounts_in_the_callers_namespace_leaves_it_for_that() {
    let leaves = |options: &Options, change: fn(&mut Value)| {
        let spec = spec(|document| {
            document["linux"]["namespaces"] = json!([{"type": "pid"}]);
            document["mounts"] = json!([]);
            change(document);
        });
        let plan = windlass_plan::create("box", &spec, options).expect("planned");
        let count = |wanted: fn(&Action) -> bool| plan.init.iter().filter(|step| wanted(&step.action)).count();
        let left = count(|action| matches!(action, Action::LeaveMounts));
        assert_eq!(left, count(|action| matches!(action, Action::ReturnToMounts)), "it comes back");
        left == 1
    };
    let plain = options();
    assert!(!leaves(&plain, |_| {}));
    let mounts: [fn(&mut Value); 5] = [
        |it| it["mounts"] = json!([{"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"}]),
        |it| it["root"]["readonly"] = json!(true),
        |it| it["process"]["terminal"] = json!(true),
        |it| it["linux"]["maskedPaths"] = json!(["/proc/kcore"]),
        |it| it["linux"]["readonlyPaths"] = json!(["/proc/sys"]),
    ];
    for (number, change) in mounts.into_iter().enumerate() {
        assert!(leaves(&plain, change), "case {number}");
    }
    // The nodes of a nested container are mounts of those of the host.
    let host = Host { nested: Some(Vec::new()), ..plain.host.clone() };
    assert!(leaves(&Options { host, ..plain }, |_| {}));
}

/// A copy of a slave would be a slave (mount_namespaces(7)).
#[test]
fn a_shared_source_is_copied_before_all_mounts_become_slaves() {
    let order = |propagation: &str, user: bool| -> Vec<&'static str> {
        let bind = json!({"destination": "/data", "type": "bind", "source": "/srv", "options": ["bind", propagation]});
        let plan = plan(|document| {
            if user {
                with_user_namespace(document);
            }
            document["mounts"].as_array_mut().expect("a list").push(bind);
        });
        let name = |action: &Action| match action {
            Action::Copy(_) => Some("copy"),
            Action::Propagation(_) => Some("slaves"),
            _ => None,
        };
        plan.init.iter().filter_map(|step| name(&step.action)).collect()
    };
    assert_eq!(order("shared", false), ["copy", "slaves"]);
    assert_eq!(order("slave", false), ["slaves"]);
    assert_eq!(order("shared", true), ["slaves"], "there they are slaves from the beginning");
}

#[test]
fn a_list_of_processors_has_no_character_that_the_kernel_has_no_use_for() {
    let list = |text: &str| faults(|document| document["linux"]["resources"] = json!({"cpu": {"cpus": text}}));
    assert!(list("0-3,5").is_empty() && list("0-31:2/4").is_empty() && list("all").is_empty());
    for odd in ["0;1", "0_1", "0\n1"] {
        assert_eq!(list(odd), ["/linux/resources/cpu/cpus"], "{odd:?}");
    }
}

/// The kernel counts the intermediate process too, so the limit is not set before the fork.
#[test]
fn the_limit_of_processes_is_set_from_outside_in_an_exec() {
    let spec = spec(|document| {
        document["process"]["rlimits"] = json!([
            {"type": "RLIMIT_NPROC", "soft": 3, "hard": 4}, {"type": "RLIMIT_NOFILE", "soft": 5, "hard": 6}
        ]);
    });
    let request = Request { args: vec!["true".into()], ..Request::default() };
    let plan = windlass_plan::exec::exec("box", &spec, &request, None, &options()).expect("planned");
    let limit = plan.process_limit.expect("it is set by the runtime");
    assert_eq!((limit.soft, limit.hard), (3, 4));
    let names: Vec<&str> = plan.steps.iter().filter_map(|step| limit_of(&step.action)).collect();
    assert_eq!(names, ["RLIMIT_NOFILE"]);
}

fn limit_of(action: &Action) -> Option<&str> {
    if let Action::Limit(limit) = action { Some(&limit.name) } else { None }
}

/// Until then init does what it can elsewhere.
#[test]
fn init_is_in_its_scope_before_what_shows_the_cgroup_or_fills_memory() {
    let before = |mount: Value| -> bool {
        let spec = spec(|document| document["mounts"] = json!([mount]));
        let systemd = Some(Systemd { user: false, prefix: "windlass" });
        let plan = windlass_plan::create("box", &spec, &Options { systemd, ..options() }).expect("planned");
        let at = |wanted: fn(&Action) -> bool| plan.init.iter().position(|step| wanted(&step.action)).expect("there");
        at(|action| matches!(action, Action::Scope)) < at(|action| matches!(action, Action::Mount(_)))
    };
    let mount =
        |kind: &str, options: Value| json!({"destination": "/x", "type": kind, "source": "x", "options": options});
    assert!(before(mount("cgroup", json!([]))) && before(mount("tmpfs", json!(["tmpcopyup"]))));
    assert!(!before(mount("tmpfs", json!([]))) && !before(mount("proc", json!([]))));
}

#[test]
fn a_dev_of_the_host_gets_no_devices() {
    let nodes = |kind: &str, options: Value| {
        let mount = json!({"destination": "/dev", "type": kind, "source": "/dev", "options": options});
        let plan = plan(|document| document["mounts"] = json!([mount]));
        plan.init.iter().filter(|step| matches!(step.action, Action::Node(_) | Action::DevLinks)).count()
    };
    for (kind, options) in
        [("bind", json!([])), ("none", json!(["bind"])), ("", json!(["rbind"])), ("devtmpfs", json!([]))]
    {
        assert_eq!(nodes(kind, options), 0, "{kind}");
    }
    assert_ne!(nodes("tmpfs", json!([])), 0);
}

#[test]
fn a_limit_of_version_1_alone_is_a_warning_unless_it_changes_nothing() {
    let warned = |weight: u16| {
        let device = json!({"major": 8, "minor": 0, "weight": 100, "leafWeight": weight});
        plan(|document| document["linux"]["resources"] = json!({"blockIO": {"weightDevice": [device]}})).warnings.len()
    };
    assert_eq!((warned(0), warned(7)), (0, 1));
}

#[test]
fn systemd_knows_the_limits_that_unified_sets() {
    let spec = spec(|document| {
        document["linux"]["resources"] = json!({"unified": {"memory.high": "1048576", "memory.min": "4096"}});
    });
    let systemd = Some(Systemd { user: false, prefix: "windlass" });
    let plan = windlass_plan::create("box", &spec, &Options { systemd, ..options() }).expect("planned");
    let unit = plan.unit.expect("a scope");
    let value = |name: &str| {
        let property = unit.properties.iter().find(|property| property.name == name);
        format!("{:?}", property.unwrap_or_else(|| panic!("no {name}")).value)
    };
    assert!(value("MemoryHigh").contains("1048576") && value("MemoryMin").contains("4096"));
}

#[test]
fn what_only_stands_in_may_be_missing() {
    let plan = plan(|document| {
        with_user_namespace(document);
        let sys = json!({"destination": "/sys", "type": "sysfs", "source": "sysfs"});
        document["mounts"].as_array_mut().expect("a list").push(sys);
    });
    let source = plan.sources.iter().find(|source| source.path == "/sys").expect("a source");
    assert!(source.fallback && source.set_all.contains(MountAttributes::RDONLY));
}

#[test]
fn a_source_that_is_added_is_found_by_its_number() {
    let mut plan = plan(|_| {});
    for path in ["/a", "/b"] {
        let id = plan.add_source(Source { path: path.into(), ..Source::default() });
        assert_eq!(plan.source(id).expect("there").path, path);
    }
}

/// The cgroup namespace is made when init is in its cgroup, so that this cgroup is its root (cgroup_namespaces(7)).
#[test]
fn the_cgroup_namespace_is_not_made_with_the_others_in_a_joined_user_namespace() {
    let plan = plan(|document| {
        let user = json!({"type": "user", "path": "/proc/7/ns/user"});
        document["linux"]["namespaces"] = json!([user, {"type": "mount"}, {"type": "ipc"}, {"type": "cgroup"}]);
    });
    let made = plan.init.iter().filter_map(|step| match step.action {
        Action::Unshare(kinds) => Some(kinds),
        _ => None,
    });
    let made: Vec<Namespaces> = made.collect();
    assert_eq!(made, [Namespaces::MOUNT | Namespaces::IPC, Namespaces::CGROUP]);
}

/// systemd.slice(5): each dash is a level.
#[test]
fn the_cgroup_of_a_scope_is_below_all_levels_of_its_slice() {
    let unit = |slice: &str| Unit { name: "a.scope".into(), slice: slice.into(), user: false, properties: Vec::new() };
    assert_eq!(unit("x-y.slice").path().trim_start_matches('/'), "x.slice/x-y.slice/a.scope");
    assert_eq!(unit("system.slice").path().trim_start_matches('/'), "system.slice/a.scope");
}
