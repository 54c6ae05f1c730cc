//! A cgroup of version 2 on the kernel that runs the tests.
//!
//! Needs root and a cgroup2 mount, wherever it is. A test that lacks a controller says so.

use std::io::Write as _;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use windlass_base::error::{Kind, Origin};
use windlass_cgroup::{Cgroup, Filters, Hierarchy, Kill, WatchEvent, remove};
use windlass_plan::cgroup::{Limits, MemoryCheck, Need, limits};

/// The hierarchy, or `None` with the reason on stderr.
fn hierarchy() -> Option<Hierarchy> {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("NOT RUN: making cgroups needs root");
        return None;
    }
    let hierarchy = Hierarchy::find().expect("the hierarchies of this host");
    if hierarchy.unified().is_none() {
        eprintln!("NOT RUN: no cgroup2 file system is mounted");
        return None;
    }
    Some(hierarchy)
}

fn controllers(hierarchy: &Hierarchy) -> String {
    let file = format!("{}/cgroup.controllers", hierarchy.unified().expect("mounted"));
    std::fs::read_to_string(file).expect("controllers")
}

fn has(hierarchy: &Hierarchy, controller: &str) -> bool {
    let has = controllers(hierarchy).split_whitespace().any(|one| one == controller);
    if !has {
        eprintln!("NOT RUN: the {controller} controller is not in cgroup2 here");
    }
    has
}

/// A limit that this host can apply: its controller, the configuration, the file and its content.
fn any_limit(hierarchy: &Hierarchy) -> Option<[&'static str; 4]> {
    let known = [
        ["pids", r#"{"pids": {"limit": 7}}"#, "pids.max", "7"],
        ["hugetlb", r#"{"hugepageLimits": [{"pageSize": "2MB", "limit": 0}]}"#, "hugetlb.2MB.max", "0"],
    ];
    known.into_iter().find(|limit| has(hierarchy, limit[0]))
}

/// A separate cgroup for each test, removed with its content.
struct Scratch {
    path: String,
    root: String,
}

impl Scratch {
    fn new(hierarchy: &Hierarchy, name: &str) -> Scratch {
        let path = format!("/windlass-test-{}-{name}", std::process::id());
        Scratch { path, root: hierarchy.unified().expect("mounted").to_owned() }
    }

    fn whole(&self) -> String {
        format!("{}{}", self.root, self.path)
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(format!("{}/{file}", self.whole())).expect(file).trim().to_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove(&self.whole(), Kill::Yes).expect("the test's cgroup can be removed");
    }
}

fn sleeper() -> Child {
    Command::new("sleep").arg("1000").spawn().expect("sleep")
}

fn planned(json: &str) -> Limits {
    let resources = serde_json::from_str(json).expect("resources");
    let (mut faults, mut warnings) = (Vec::new(), Vec::new());
    let limits = limits(&resources, None, &mut faults, &mut warnings);
    assert_eq!((faults, warnings), (vec![], vec![]));
    limits
}

/// Makes the cgroup and applies the limits, as create does.
fn limited(hierarchy: &Hierarchy, scratch: &Scratch, json: &str) -> windlass_base::error::Result<Cgroup> {
    let limits = planned(json);
    let cgroup = Cgroup::create(hierarchy, &scratch.path, &limits.needs())?;
    cgroup.apply(&limits.writes)?;
    Ok(cgroup)
}

#[test]
fn a_cgroup_is_made_with_its_ancestors_and_removed() {
    let Some(hierarchy) = hierarchy() else { return };
    let scratch = Scratch::new(&hierarchy, "made");
    let cgroup = Cgroup::create(&hierarchy, &format!("{}/a/b", scratch.path), &[]).expect("create");
    assert!(cgroup.was_created());
    assert_eq!(cgroup.path(), format!("{}/a/b", scratch.whole()));
    assert!(!cgroup.is_populated().expect("state"));
    let offered = std::fs::read_to_string(format!("{}/cgroup.controllers", hierarchy.unified().expect("mounted")));
    for controller in offered.expect("the root has the file").split_whitespace() {
        let enabled = scratch.read("a/cgroup.subtree_control");
        assert!(enabled.contains(controller), "{controller}: for `events`, and for `update`: {enabled}");
    }
    let path = cgroup.path().to_owned();
    cgroup.remove(Kill::No).expect("remove");
    assert!(!std::path::Path::new(&path).exists());
    remove(&path, Kill::No).expect("what is gone already is no error");
}

#[test]
fn an_empty_cgroup_that_exists_is_used() {
    let Some(hierarchy) = hierarchy() else { return };
    let scratch = Scratch::new(&hierarchy, "reused");
    std::fs::create_dir(scratch.whole()).expect("mkdir");
    let cgroup = Cgroup::create(&hierarchy, &scratch.path, &[]).expect("create");
    assert!(!cgroup.was_created());
}

#[test]
fn a_cgroup_with_processes_is_refused_in_the_words_of_runc() {
    let Some(hierarchy) = hierarchy() else { return };
    let scratch = Scratch::new(&hierarchy, "used");
    let below = Cgroup::create(&hierarchy, &format!("{}/sub", scratch.path), &[]).expect("create");
    let mut child = sleeper();
    below.add_process(child.id() as i32).expect("join");
    let error = Cgroup::create(&hierarchy, &scratch.path, &[]).expect_err("not empty");
    assert_eq!(error.message(), "container's cgroup is not empty: 1 process(es) found");
    below.kill().expect("kill");
    child.wait().expect("wait");
}

#[test]
fn a_frozen_cgroup_is_refused_in_the_words_of_runc() {
    let Some(hierarchy) = hierarchy() else { return };
    let scratch = Scratch::new(&hierarchy, "frozen");
    Cgroup::create(&hierarchy, &scratch.path, &[]).expect("create").freeze().expect("freeze");
    let error = Cgroup::create(&hierarchy, &scratch.path, &[]).expect_err("frozen");
    assert_eq!(error.message(), "container's cgroup unexpectedly frozen");
}

#[test]
fn a_failed_create_leaves_nothing() {
    let Some(hierarchy) = hierarchy() else { return };
    let scratch = Scratch::new(&hierarchy, "undone");
    let need = Need { controller: "frobnicate".into(), pointer: "/linux/resources/unified/frobnicate.max".into() };
    let error = Cgroup::create(&hierarchy, &format!("{}/a", scratch.path), &[need]).expect_err("no such controller");
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(error.message().contains("controller \"frobnicate\" not available"), "{}", error.message());
    assert_eq!(error.origin(), Some(&Origin::config("/linux/resources/unified/frobnicate.max")));
    assert!(error.hint().is_some_and(|hint| hint.contains("/cgroup.controllers")), "{error:?}");
    assert!(!std::path::Path::new(&scratch.whole()).exists());
}

#[test]
fn a_limit_whose_controller_sits_in_v1_says_so() {
    let Some(hierarchy) = hierarchy() else { return };
    let Some(v1) = hierarchy.v1_of("memory") else {
        return eprintln!("NOT RUN: no memory controller of version 1 here");
    };
    let scratch = Scratch::new(&hierarchy, "hybrid");
    let error = limited(&hierarchy, &scratch, r#"{"memory": {"limit": 9000000}}"#).expect_err("in v1");
    assert!(error.message().contains("memory.limit"), "{}", error.message());
    assert!(error.message().contains("cgroup v1"), "{}", error.message());
    assert!(error.message().contains(&v1.mount), "{}", error.message());
    assert_eq!(error.origin(), Some(&Origin::config("/linux/resources/memory/limit")));
    assert!(error.hint().is_some_and(|hint| hint.contains("cgroup-v1")));
    limited(&hierarchy, &scratch, r#"{"memory": {"limit": -1}, "cpu": {"shares": 1024}, "pids": {"limit": -1}}"#)
        .expect("what limits nothing runs anywhere");
}

#[test]
fn freezing_is_awaited_and_undone() {
    let Some(hierarchy) = hierarchy() else { return };
    let scratch = Scratch::new(&hierarchy, "freeze");
    let cgroup = Cgroup::create(&hierarchy, &scratch.path, &[]).expect("create");
    let mut busy = Command::new("sh").args(["-c", "while :; do :; done"]).spawn().expect("sh");
    cgroup.add_process(busy.id() as i32).expect("join");
    let ticks = |pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
        stat.rsplit(") ").next().expect("fields").split(' ').nth(11).expect("utime").to_owned()
    };
    assert!(!cgroup.is_frozen().expect("state"));
    cgroup.freeze().expect("freeze");
    assert!(cgroup.is_frozen().expect("state"));
    assert!(scratch.read("cgroup.events").contains("frozen 1"), "freeze returned early");
    let before = ticks(busy.id());
    std::thread::sleep(Duration::from_millis(60));
    assert_eq!(ticks(busy.id()), before);
    cgroup.thaw().expect("thaw");
    assert!(scratch.read("cgroup.events").contains("frozen 0"), "thaw returned early");
    cgroup.kill().expect("kill");
    assert_eq!(busy.wait().expect("wait").signal(), Some(9));
}

#[test]
fn a_frozen_cgroup_with_processes_is_found_at_any_depth_below() {
    let Some(hierarchy) = hierarchy() else { return };
    let scratch = Scratch::new(&hierarchy, "below");
    let cgroup = Cgroup::create(&hierarchy, &scratch.path, &[]).expect("create");
    let mut process = sleeper();
    for path in ["a", "b/c"] {
        let below = Cgroup::create(&hierarchy, &format!("{}/{path}", scratch.path), &[]).expect("create");
        below.freeze().expect("freeze");
        assert_eq!(cgroup.frozen_below().expect("looked"), None, "{path} has no process");
        below.add_process(process.id() as i32).expect("join");
        assert_eq!(cgroup.frozen_below().expect("looked").as_deref(), Some(below.path()));
        // The cgroup itself does not count.
        assert_eq!(below.frozen_below().expect("looked"), None);
        below.thaw().expect("thaw");
    }
    process.kill().expect("killed");
    process.wait().expect("its end");
}

#[test]
fn kill_reaches_frozen_sub_cgroups_and_remove_waits_for_the_end() {
    let Some(hierarchy) = hierarchy() else { return };
    let scratch = Scratch::new(&hierarchy, "kill");
    let cgroup = Cgroup::create(&hierarchy, &scratch.path, &[]).expect("create");
    let mut children = [sleeper(), sleeper()];
    // The process joins first: a cgroup that enables controllers for its children takes no process ("no internal
    // processes").
    cgroup.add_process(children[0].id() as i32).expect("join");
    let below = Cgroup::create(&hierarchy, &format!("{}/a/b", scratch.path), &[]).expect("create");
    below.add_process(children[1].id() as i32).expect("join");
    cgroup.freeze().expect("freeze");
    let mut pids = children.each_ref().map(|child| child.id() as i32);
    pids.sort_unstable();
    assert_eq!(cgroup.pids(true).expect("pids"), pids);
    assert_eq!(cgroup.pids(false).expect("pids"), [children[0].id() as i32]);
    assert!(cgroup.is_populated().expect("state"));
    let path = cgroup.path().to_owned();
    cgroup.remove(Kill::Yes).expect("remove");
    assert!(!std::path::Path::new(&path).exists());
    for child in &mut children {
        assert_eq!(child.wait().expect("wait").signal(), Some(9));
    }
}

#[test]
fn a_cgroup_of_threads_is_killed_one_by_one() {
    let Some(hierarchy) = hierarchy() else { return };
    let scratch = Scratch::new(&hierarchy, "threads");
    let process = Cgroup::create(&hierarchy, &scratch.path, &[]).expect("create");
    let mut child = sleeper();
    process.add_process(child.id() as i32).expect("join");
    let threads = Cgroup::create(&hierarchy, &format!("{}/sub", scratch.path), &[]).expect("create");
    std::fs::write(format!("{}/cgroup.type", threads.path()), "threaded").expect("threaded");
    std::fs::write(format!("{}/cgroup.threads", threads.path()), child.id().to_string()).expect("move");
    assert_eq!(threads.pids(false).expect("pids"), [child.id() as i32]);
    threads.kill().expect("cgroup.kill does not work here");
    assert_eq!(child.wait().expect("wait").signal(), Some(9));
    assert!(!threads.is_frozen().expect("state"), "what was frozen for the kill is thawed");
}

#[test]
fn a_cgroup_is_empty_when_its_processes_are_gone() {
    let Some(hierarchy) = hierarchy() else { return };
    let scratch = Scratch::new(&hierarchy, "empty");
    let cgroup = Cgroup::create(&hierarchy, &scratch.path, &[]).expect("create");
    let mut child = Command::new("sleep").arg("0.1").spawn().expect("sleep");
    cgroup.add_process(child.id() as i32).expect("join");
    assert!(!cgroup.wait_until_empty(Duration::from_millis(5)).expect("wait"));
    let start = Instant::now();
    assert!(cgroup.wait_until_empty(Duration::from_secs(240)).expect("wait"));
    assert!(start.elapsed() < Duration::from_secs(120), "woken by the kernel, not by the timeout");
    child.wait().expect("wait");
}

#[test]
fn a_watch_tells_the_end_of_the_last_process() {
    let Some(hierarchy) = hierarchy() else { return };
    let scratch = Scratch::new(&hierarchy, "watch");
    let cgroup = Cgroup::create(&hierarchy, &scratch.path, &[]).expect("create");
    let mut child = sleeper();
    cgroup.add_process(child.id() as i32).expect("join");
    let mut watch = cgroup.watch_oom().expect("watch");
    assert_eq!(watch.wait(Duration::from_millis(5)).expect("wait"), WatchEvent::Timeout);
    cgroup.kill().expect("kill");
    let start = Instant::now();
    while watch.wait(Duration::from_secs(240)).expect("wait") != WatchEvent::Empty {}
    assert!(start.elapsed() < Duration::from_secs(120), "woken by the kernel, not by the timeout");
    child.wait().expect("wait");
    let path = cgroup.path().to_owned();
    remove(&path, Kill::No).expect("remove");
    assert_eq!(watch.wait(Duration::from_secs(240)).expect("a cgroup that is gone is empty"), WatchEvent::Empty);
}

#[test]
fn the_cgroup_of_a_process_is_found() {
    let Some(hierarchy) = hierarchy() else { return };
    let scratch = Scratch::new(&hierarchy, "of");
    let cgroup = Cgroup::create(&hierarchy, &format!("{}/sub", scratch.path), &[]).expect("create");
    let mut child = sleeper();
    cgroup.add_process(child.id() as i32).expect("join");
    let found = Cgroup::of_process(&hierarchy, child.id() as i32).expect("find").expect("mounted");
    assert_eq!(found.path(), cgroup.path());
    let outer = Cgroup::open(&scratch.whole()).expect("open");
    assert_eq!(outer.open_below("/sub/").expect("below").path(), cgroup.path());
    assert_eq!(outer.open_below("../x").expect_err("outside").kind(), Kind::Usage);
    cgroup.kill().expect("kill");
    child.wait().expect("wait");
}

#[test]
fn a_cgroup_can_be_given_to_a_user() {
    use std::os::unix::fs::MetadataExt;
    let Some(hierarchy) = hierarchy() else { return };
    let scratch = Scratch::new(&hierarchy, "owner");
    let cgroup = Cgroup::create(&hierarchy, &scratch.path, &[]).expect("create");
    cgroup.delegate(1234, None).expect("delegate");
    let owner = |file: &str| {
        let meta = std::fs::metadata(format!("{}/{file}", scratch.whole())).expect(file);
        (meta.uid(), meta.gid())
    };
    for file in ["", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"] {
        assert_eq!(owner(file), (1234, 0), "{file}");
    }
    assert_eq!(owner("cgroup.max.depth"), (0, 0), "limits stay with their owner");
}

/// Runs a shell in the cgroup from its first command on; stdout trimmed.
fn shell_in(cgroup: &Cgroup, script: &str) -> String {
    let mut shell =
        Command::new("sh").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("sh");
    cgroup.add_process(shell.id() as i32).expect("join");
    shell.stdin.take().expect("piped").write_all(script.as_bytes()).expect("script");
    String::from_utf8(shell.wait_with_output().expect("wait").stdout).expect("utf-8").trim().to_owned()
}

const TRY_DEVICES: &str = "for d in null zero urandom kmsg; do if true </dev/$d; then echo $d; fi; done
if true >/dev/zero; then echo written; fi";

#[test]
fn devices_are_denied_and_a_replaced_filter_is_the_only_one() {
    let Some(hierarchy) = hierarchy() else { return };
    let scratch = Scratch::new(&hierarchy, "devices");
    let cgroup = Cgroup::create(&hierarchy, &scratch.path, &[]).expect("create");
    let set = |json: &str| planned(json).devices;
    cgroup.set_devices(&set("{}").expect("a filter")).expect("set");
    assert_eq!(shell_in(&cgroup, TRY_DEVICES), "null\nzero\nurandom\nwritten");
    let kmsg = r#"{"devices": [{"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"}]}"#;
    cgroup.replace_devices(set(kmsg).as_ref(), Filters::All).expect("replace");
    assert_eq!(shell_in(&cgroup, TRY_DEVICES), "null\nzero\nurandom\nkmsg\nwritten");
    let no_zero = r#"{"devices": [{"allow": true, "type": "a"},
        {"allow": false, "type": "c", "major": 1, "minor": 11, "access": "rw"}]}"#;
    cgroup.replace_devices(set(no_zero).as_ref(), Filters::Ours).expect("replace");
    assert_eq!(shell_in(&cgroup, TRY_DEVICES), "null\nzero\nurandom\nwritten");
    assert_eq!(windlass_sys::bpf::device_programs(cgroup.dir_fd()).expect("query").len(), 1);
    cgroup.replace_devices(None, Filters::Ours).expect("replace");
    assert_eq!(shell_in(&cgroup, TRY_DEVICES), "null\nzero\nurandom\nkmsg\nwritten");
    assert_eq!(windlass_sys::bpf::device_programs(cgroup.dir_fd()).expect("query").len(), 0);
}

#[test]
fn a_filter_in_a_found_cgroup_is_replaced_not_added() {
    let Some(hierarchy) = hierarchy() else { return };
    let scratch = Scratch::new(&hierarchy, "refilter");
    let filter = planned("{}").devices.expect("a filter");
    for _ in 0..3 {
        Cgroup::create(&hierarchy, &scratch.path, &[]).expect("create").set_devices(&filter).expect("set");
    }
    let cgroup = Cgroup::open(&scratch.whole()).expect("open");
    assert_eq!(windlass_sys::bpf::device_programs(cgroup.dir_fd()).expect("query").len(), 1);
}

#[test]
fn huge_pages_are_limited() {
    let Some(hierarchy) = hierarchy() else { return };
    if !has(&hierarchy, "hugetlb") {
        return;
    }
    let scratch = Scratch::new(&hierarchy, "hugetlb");
    let json = r#"{"hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}]}"#;
    let cgroup = limited(&hierarchy, &scratch, json).expect("limits");
    assert_eq!(scratch.read("hugetlb.2MB.max"), "4194304");
    assert_eq!(scratch.read("hugetlb.2MB.rsvd.max"), "4194304");
    assert_eq!(cgroup.stats().expect("stats")["hugetlb"]["2MB"]["failcnt"], 0);
    let error = Cgroup::open(cgroup.path())
        .expect("open")
        .apply(&planned(r#"{"hugepageLimits": [{"pageSize": "3MB", "limit": 1}]}"#).writes)
        .expect_err("no such size");
    assert!(error.message().contains("hugepageLimits.0.limit"), "{}", error.message());
    assert_eq!(error.origin(), Some(&Origin::config("/linux/resources/hugepageLimits/0/limit")));
}

#[test]
fn a_controller_is_enabled_from_the_nearest_ancestor_that_has_it() {
    let Some(hierarchy) = hierarchy() else { return };
    let Some([controller, json, file, value]) = any_limit(&hierarchy) else { return };
    let scratch = Scratch::new(&hierarchy, "enable");
    let limits = planned(json);
    let cgroup = Cgroup::create(&hierarchy, &format!("{}/a/b", scratch.path), &limits.needs()).expect("create");
    assert!(scratch.read("cgroup.subtree_control").contains(controller));
    assert!(scratch.read("a/cgroup.subtree_control").contains(controller));
    assert_eq!(scratch.read("a/b/cgroup.subtree_control"), "", "below the container is not ours");
    cgroup.apply(&limits.writes).expect("apply");
    assert_eq!(scratch.read(&format!("a/b/{file}")), value);
}

#[test]
fn a_parent_with_processes_of_its_own_is_named() {
    let Some(hierarchy) = hierarchy() else { return };
    // A controller of threads (pids, cpu) could be enabled beside processes.
    let memory = ["memory", r#"{"memory": {"limit": 9000000}}"#];
    let huge_pages = ["hugetlb", r#"{"hugepageLimits": [{"pageSize": "2MB", "limit": 0}]}"#];
    let Some([controller, json]) = [memory, huge_pages].into_iter().find(|one| has(&hierarchy, one[0])) else {
        return;
    };
    let scratch = Scratch::new(&hierarchy, "busy");
    let parent = Cgroup::create(&hierarchy, &scratch.path, &[]).expect("create");
    let mut child = sleeper();
    parent.add_process(child.id() as i32).expect("join");
    let error =
        Cgroup::create(&hierarchy, &format!("{}/x", scratch.path), &planned(json).needs()).expect_err("has processes");
    assert!(error.message().contains(&format!("cannot enable the controller {controller}")), "{}", error.message());
    assert!(error.hint().is_some_and(|hint| hint.contains("has processes of its own")), "{error:?}");
    parent.kill().expect("kill");
    child.wait().expect("wait");
}

#[test]
fn a_limit_applied_without_its_controller_says_where_to_enable_it() {
    let Some(hierarchy) = hierarchy() else { return };
    let Some([controller, json, ..]) = any_limit(&hierarchy) else { return };
    let scratch = Scratch::new(&hierarchy, "later");
    let _parent = Cgroup::create(&hierarchy, &format!("{}/a", scratch.path), &[]).expect("create");
    let below = format!("{}/a/b", scratch.whole());
    std::fs::create_dir(&below).expect("nobody enables controllers for this one");
    let error = Cgroup::open(&below).expect("open").apply(&planned(json).writes).expect_err("not enabled");
    assert!(error.message().contains(&format!("controller \"{controller}\" not available")), "{}", error.message());
    let place = format!("echo +{controller} > {}/a/cgroup.subtree_control", scratch.whole());
    assert!(error.hint().is_some_and(|hint| hint.contains(&place)), "{error:?}");
}

#[test]
fn input_and_output_are_limited() {
    let Some(hierarchy) = hierarchy() else { return };
    if !has(&hierarchy, "io") {
        return;
    }
    let devices = std::fs::read_dir("/sys/block").expect("sysfs").map(|entry| entry.expect("entry").path());
    let Some(device) = devices.filter_map(|path| std::fs::read_to_string(path.join("dev")).ok()).next() else {
        return eprintln!("NOT RUN: there is no block device");
    };
    let (major, minor) = device.trim().split_once(':').expect("numbers");
    let scratch = Scratch::new(&hierarchy, "io");
    let one = |rate: u32| format!(r#"[{{"major": {major}, "minor": {minor}, "rate": {rate}}}]"#);
    let json = format!(
        r#"{{"blockIO": {{"throttleReadBpsDevice": {}, "throttleWriteIOPSDevice": {}}}}}"#,
        one(1_048_576),
        one(100)
    );
    let cgroup = limited(&hierarchy, &scratch, &json).expect("limits");
    let now = || scratch.read("io.max");
    assert_eq!(now(), format!("{major}:{minor} rbps=1048576 wbps=max riops=max wiops=100"));
    let json = format!(r#"{{"blockIO": {{"throttleReadBpsDevice": {}}}}}"#, one(0));
    cgroup.apply(&planned(&json).writes).expect("update");
    assert_eq!(now(), format!("{major}:{minor} rbps=max wbps=max riops=max wiops=100"));
    let json = r#"{"blockIO": {"throttleReadBpsDevice": [{"major": 4000, "minor": 1, "rate": 1}]}}"#;
    let error = cgroup.apply(&planned(json).writes).expect_err("no such device");
    assert!(error.hint().is_some_and(|hint| hint.contains("no block device")), "{error:?}");
    let weight = cgroup.apply(&planned(r#"{"blockIO": {"weight": 500}}"#).writes);
    match (std::fs::read_to_string(format!("{}/io.bfq.weight", scratch.whole())), weight) {
        (Ok(text), Ok(())) => assert_eq!(text.lines().next(), Some("default 500")),
        (Ok(_), Err(error)) => panic!("{error}"),
        (Err(_), Ok(())) => assert_eq!(scratch.read("io.weight"), "default 4950"),
        (Err(_), Err(error)) => {
            eprintln!("NOT RUN: this kernel has no I/O weights");
            assert!(error.message().contains("blockIO.weight"), "{}", error.message());
        }
    }
}

#[test]
fn memory_cpu_and_pids_are_limited() {
    let Some(hierarchy) = hierarchy() else { return };
    if !["memory", "cpu", "pids"].iter().all(|controller| has(&hierarchy, controller)) {
        return;
    }
    let scratch = Scratch::new(&hierarchy, "limits");
    let json = r#"{
        "memory": {"limit": 33554432, "reservation": 16777216},
        "cpu": {"shares": 2048, "quota": 20000, "period": 50000},
        "pids": {"limit": 20}, "unified": {"memory.high": "25165824"}}"#;
    let cgroup = limited(&hierarchy, &scratch, json).expect("limits");
    assert_eq!(scratch.read("memory.max"), "33554432");
    assert_eq!(scratch.read("memory.low"), "16777216");
    assert_eq!(scratch.read("memory.high"), "25165824");
    assert_eq!(scratch.read("cpu.weight"), "174");
    assert_eq!(scratch.read("cpu.max"), "20000 50000");
    assert_eq!(scratch.read("pids.max"), "20");
    cgroup.apply(&planned(r#"{"cpu": {"quota": 10000}}"#).writes).expect("update");
    assert_eq!(scratch.read("cpu.max"), "10000 50000", "the period was not asked to change");
    cgroup.apply(&planned(r#"{"memory": {"limit": -1}, "pids": {"limit": -1}}"#).writes).expect("update");
    assert_eq!((scratch.read("memory.max"), scratch.read("pids.max")), ("max".into(), "max".into()));
    assert_eq!(cgroup.oom_kills(), Some(0));
    let stats = cgroup.stats().expect("stats");
    assert_eq!(stats["memory"]["usage"]["limit"], u64::MAX);
}

#[test]
fn burst_and_quota_are_changed_in_either_direction() {
    let Some(hierarchy) = hierarchy() else { return };
    if !has(&hierarchy, "cpu") {
        return;
    }
    let scratch = Scratch::new(&hierarchy, "burst");
    let big = r#"{"cpu": {"quota": 80000, "period": 100000, "burst": 60000}}"#;
    let small = r#"{"cpu": {"quota": 20000, "period": 100000, "burst": 10000}}"#;
    let cgroup = limited(&hierarchy, &scratch, big).expect("limits");
    for (json, quota, burst) in [(small, "20000 100000", "10000"), (big, "80000 100000", "60000")] {
        cgroup.apply(&planned(json).writes).expect("update");
        assert_eq!((scratch.read("cpu.max"), scratch.read("cpu.max.burst")), (quota.into(), burst.into()));
    }
    let error = cgroup.apply(&planned(r#"{"cpu": {"burst": 90000}}"#).writes).expect_err("above the quota");
    assert_eq!(error.origin(), Some(&Origin::config("/linux/resources/cpu/burst")));
    assert!(error.hint().is_some(), "{error:?}");
}

#[test]
fn a_pids_limit_stops_forks_and_memory_beyond_its_limit_is_killed_and_counted() {
    let Some(hierarchy) = hierarchy() else { return };
    if !["memory", "pids"].iter().all(|controller| has(&hierarchy, controller)) {
        return;
    }
    let scratch = Scratch::new(&hierarchy, "oom");
    let json = r#"{"memory": {"limit": 16777216, "swap": 16777216}, "pids": {"limit": 2}}"#;
    let cgroup = limited(&hierarchy, &scratch, json).expect("limits");
    assert_eq!(shell_in(&cgroup, "(sleep 1 & sleep 1 & wait; echo forked)"), "");
    cgroup.apply(&planned(r#"{"pids": {"limit": 20}}"#).writes).expect("update");
    let mut watch = cgroup.watch_oom().expect("watch");
    assert_eq!(shell_in(&cgroup, "head -c 64M /dev/zero | tail; echo $?"), "137");
    assert_eq!(watch.wait(Duration::from_secs(240)).expect("wait"), WatchEvent::OomKills(1));
    assert_eq!(watch.wait(Duration::from_secs(240)).expect("wait"), WatchEvent::Empty);
    assert_eq!(cgroup.oom_kills(), Some(1));
    assert_eq!(cgroup.stats().expect("stats")["memory"]["events"]["oom_kill"], 1);
}

#[test]
fn a_limit_below_what_is_in_use_is_refused_when_asked_to_check() {
    let Some(hierarchy) = hierarchy() else { return };
    if !has(&hierarchy, "memory") {
        return;
    }
    let scratch = Scratch::new(&hierarchy, "check");
    let cgroup = limited(&hierarchy, &scratch, r#"{"memory": {"limit": 33554432}}"#).expect("limits");
    let mut child = sleeper();
    cgroup.add_process(child.id() as i32).expect("join");
    shell_in(&cgroup, "head -c 4M /dev/zero | tail > /dev/null");
    cgroup.check_memory(&MemoryCheck { limit: Some(33_554_432), swap: None }).expect("above");
    let check = planned(r#"{"memory": {"limit": 1, "checkBeforeUpdate": true}}"#).memory_check.expect("asked");
    let error = cgroup.check_memory(&check).expect_err("below");
    assert!(error.message().starts_with("rejecting memory limit 1 <= usage "), "{}", error.message());
    cgroup.kill().expect("kill");
    child.wait().expect("wait");
}
