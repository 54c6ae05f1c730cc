//! The feature `cgroup-v1`: limits in hierarchies of version 1, and cgroups-rs as the
//! independent reader of what was written to version 2.
//!
//! Needs root. A test that lacks something else says so.
#![cfg(feature = "cgroup-v1")]

use std::process::Command;

use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::hierarchies::V2;
use cgroups_rs::fs::hugetlb::HugeTlbController;
use cgroups_rs::fs::memory::MemController;
use cgroups_rs::fs::pid::PidController;
use cgroups_rs::fs::{Cgroup as Independent, MaxValue};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use windlass_base::error::{Diagnostic, Origin, Result};
use windlass_base::spec::Resources;
use windlass_cgroup::{Cgroup, Hierarchy, Kill, v1};
use windlass_plan::cgroup::{Limits, limits};
use windlass_plan::device_rules::v1::Rules;

fn root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("NOT RUN: making cgroups needs root");
    }
    root
}

fn hierarchy_with(controllers: &[&str]) -> Option<Hierarchy> {
    if !root() {
        return None;
    }
    let hierarchy = Hierarchy::find().expect("the hierarchies of this host");
    if let Some(missing) = controllers.iter().find(|one| hierarchy.v1_of(one).is_none()) {
        eprintln!("NOT RUN: the {missing} controller is not in cgroup v1 here");
        return None;
    }
    Some(hierarchy)
}

struct Scratch<'a> {
    hierarchy: &'a Hierarchy,
    path: String,
}

impl<'a> Scratch<'a> {
    fn new(hierarchy: &'a Hierarchy, name: &str) -> Scratch<'a> {
        Scratch { hierarchy, path: format!("/windlass-v1-{}-{name}", std::process::id()) }
    }

    fn create(&self, json: &str) -> Result<(Option<v1::Cgroups>, Limits, Vec<Diagnostic>)> {
        let resources: Resources = serde_json::from_str(json).expect("resources");
        let (mut faults, mut warnings) = (Vec::new(), Vec::new());
        let mut limits = limits(&resources, None, &mut faults, &mut warnings);
        assert_eq!(faults, []);
        let share = v1::Limits::take(self.hierarchy, &self.path, &resources, &mut limits, &mut warnings)?;
        let cgroup = share.map(|share| share.make()).transpose()?.filter(|cgroup| !cgroup.is_empty());
        Ok((cgroup, limits, warnings))
    }

    fn read(&self, controller: &str, file: &str) -> String {
        let mount = &self.hierarchy.v1_of(controller).expect(controller).mount;
        std::fs::read_to_string(format!("{mount}{}/{file}", self.path)).expect(file).trim().to_owned()
    }

    fn exists(&self, controller: &str) -> bool {
        let mount = &self.hierarchy.v1_of(controller).expect(controller).mount;
        std::path::Path::new(&format!("{mount}{}", self.path)).exists()
    }
}

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        let places: Vec<String> = self.hierarchy.v1().iter().map(|v1| format!("{}{}", v1.mount, self.path)).collect();
        v1::remove(&places, Kill::Yes).expect("the test's cgroups can be removed");
    }
}

#[test]
fn limits_are_applied_where_their_controllers_are() {
    let Some(hierarchy) = hierarchy_with(&["memory", "pids", "cpu", "cpuset", "io"]) else { return };
    let scratch = Scratch::new(&hierarchy, "limits");
    let json = r#"{
        "memory": {"limit": 16777216, "swap": 33554432, "reservation": 8388608, "swappiness": 10},
        "cpu": {"shares": 512, "quota": 20000, "period": 50000, "burst": 1000, "cpus": "0"},
        "pids": {"limit": 20}}"#;
    let (cgroup, limits, warnings) = scratch.create(json).expect("create");
    assert_eq!((limits.writes, warnings), (vec![], vec![]), "all of it is for version 1");
    assert_eq!(limits.devices.is_some(), hierarchy.unified().is_some(), "devices stay with cgroup2 where there is one");
    assert_eq!(scratch.read("memory", "memory.limit_in_bytes"), "16777216");
    assert_eq!(scratch.read("memory", "memory.memsw.limit_in_bytes"), "33554432");
    assert_eq!(scratch.read("memory", "memory.soft_limit_in_bytes"), "8388608");
    assert_eq!(scratch.read("memory", "memory.swappiness"), "10");
    assert_eq!(scratch.read("cpu", "cpu.shares"), "512");
    assert_eq!(scratch.read("cpu", "cpu.cfs_quota_us"), "20000");
    assert_eq!(scratch.read("cpu", "cpu.cfs_period_us"), "50000");
    assert_eq!(scratch.read("cpu", "cpu.cfs_burst_us"), "1000");
    assert_eq!(scratch.read("cpuset", "cpuset.cpus"), "0");
    assert_eq!(scratch.read("pids", "pids.max"), "20");
    assert!(!scratch.exists("io"), "no limit asked for it");

    let cgroup = cgroup.expect("a part for version 1");
    let mut child = Command::new("sleep").arg("1000").spawn().expect("sleep");
    cgroup.add_process(child.id() as i32).expect("join");
    assert_eq!(cgroup.pids().expect("pids"), [child.id() as i32]);
    assert_eq!(scratch.read("pids", "cgroup.procs"), child.id().to_string());
    assert_eq!(scratch.read("memory", "cgroup.procs"), child.id().to_string());
    child.kill().expect("kill");
    child.wait().expect("wait");

    for limit in [67_108_864, 4_194_304] {
        scratch.create(&format!(r#"{{"memory": {{"limit": {limit}, "swap": {limit}}}}}"#)).expect("up and down");
        assert_eq!(scratch.read("memory", "memory.limit_in_bytes"), limit.to_string());
        assert_eq!(scratch.read("memory", "memory.memsw.limit_in_bytes"), limit.to_string());
    }
}

/// exec enters a container that has all the processes it may have: the intermediate process forks outside.
#[test]
fn a_full_cgroup_is_left_for_the_callers_and_lets_in_who_comes_back() {
    let Some(hierarchy) = hierarchy_with(&["pids"]) else { return };
    let scratch = Scratch::new(&hierarchy, "full");
    let (cgroup, _, _) = scratch.create(r#"{"pids": {"limit": 1}}"#).expect("made");
    let cgroup = cgroup.expect("the pids controller");
    let mut sleepers: Vec<_> = (0..2).map(|_| Command::new("sleep").arg("1000").spawn().expect("a process")).collect();
    let of = |id: u32| {
        let text = std::fs::read_to_string(format!("/proc/{id}/cgroup")).expect("cgroups");
        text.lines().find(|line| line.contains(":pids:")).expect("a hierarchy").to_owned()
    };
    let callers = of(std::process::id());
    for sleeper in &sleepers {
        cgroup.add_process(sleeper.id() as i32).expect("let in");
        assert!(of(sleeper.id()).ends_with(&scratch.path));
    }
    let own = cgroup.of_caller().expect("there is one");
    own.add_process(sleepers[1].id() as i32).expect("let in");
    assert_eq!(of(sleepers[1].id()), callers);
    cgroup.add_process(sleepers[1].id() as i32).expect("let in once more");
    for sleeper in &mut sleepers {
        sleeper.kill().expect("killed");
        sleeper.wait().expect("reaped");
    }
}

#[test]
fn a_limit_that_the_kernel_refuses_names_its_element() {
    let Some(hierarchy) = hierarchy_with(&["cpuset"]) else { return };
    let scratch = Scratch::new(&hierarchy, "refused");
    let error = scratch.create(r#"{"cpu": {"cpus": "5000"}}"#).expect_err("no such CPU");
    assert!(error.message().starts_with("cannot apply cpu.cpus in cgroup v1: "), "{}", error.message());
    assert_eq!(error.origin(), Some(&Origin::config("/linux/resources/cpu/cpus")));
    assert!(error.errno().is_some(), "{error:?}");
    assert!(!scratch.exists("cpuset"), "a failed create leaves nothing");
}

#[test]
fn unified_cannot_be_applied_to_version_1() {
    let Some(hierarchy) = hierarchy_with(&["memory"]) else { return };
    let scratch = Scratch::new(&hierarchy, "unified");
    let error = scratch.create(r#"{"unified": {"memory.high": "1"}}"#).expect_err("not of version 1");
    assert_eq!(error.origin(), Some(&Origin::config("/linux/resources/unified/memory.high")));
    assert!(error.message().contains("cgroup v1"), "{}", error.message());
}

#[test]
fn without_limits_nothing_is_made() {
    let Some(hierarchy) = hierarchy_with(&["memory", "pids"]) else { return };
    if hierarchy.unified().is_none() {
        return eprintln!("NOT RUN: without cgroup2 devices and freezer are always made");
    }
    let scratch = Scratch::new(&hierarchy, "nothing");
    assert!(scratch.create("{}").expect("create").0.is_none());
}

#[test]
fn a_cgroup_of_somebody_else_is_refused_and_left_alone() {
    let Some(hierarchy) = hierarchy_with(&["pids", "memory"]) else { return };
    let scratch = Scratch::new(&hierarchy, "else");
    let mount = &hierarchy.v1_of("pids").expect("pids").mount;
    std::fs::create_dir(format!("{mount}{}", scratch.path)).expect("mkdir");
    let mut child = Command::new("sleep").arg("1000").spawn().expect("sleep");
    std::fs::write(format!("{mount}{}/cgroup.procs", scratch.path), child.id().to_string()).expect("join");
    let take = |json: &str| {
        let resources: Resources = serde_json::from_str(json).expect("resources");
        let mut limits = limits(&resources, None, &mut Vec::new(), &mut Vec::new());
        let share = v1::Limits::take(&hierarchy, &scratch.path, &resources, &mut limits, &mut Vec::new());
        share.expect("share").expect("something of version 1")
    };
    let error = take(r#"{"pids": {"limit": 7}}"#).refuse_in_use().expect_err("in use");
    assert_eq!(error.message(), "container's cgroup is not empty: 1 process(es) found");
    let other = take(r#"{"memory": {"limit": 16777216}}"#);
    other.refuse_in_use().expect("memory has none");
    assert!(!other.paths().iter().any(|path| path.starts_with(mount)), "{:?}", other.paths());
    child.kill().expect("kill");
    child.wait().expect("wait");
}

/// Runs a test on a thread that may mount what it likes.
fn with_own_mounts(body: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).expect("private");
        body();
    });
    thread.join().expect("the test on its own thread");
}

#[test]
fn without_cgroup2_the_rules_go_to_the_devices_controller() {
    let Some(hierarchy) = hierarchy_with(&["devices", "freezer"]) else { return };
    let Some(unified) = hierarchy.unified().map(str::to_owned) else { return };
    with_own_mounts(move || {
        umount2(unified.as_str(), MntFlags::MNT_DETACH).expect("umount");
        let hierarchy = Hierarchy::find().expect("the hierarchies");
        assert_eq!(hierarchy.unified(), None);
        let scratch = Scratch::new(&hierarchy, "devices");
        let json = r#"{"devices": [{"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"}]}"#;
        let (cgroup, _, _) = scratch.create(json).expect("create");
        let mut cgroup = cgroup.expect("one for the freezer");
        assert!(scratch.exists("freezer"));
        let resources: Resources = serde_json::from_str(json).expect("resources");
        let rules = Rules::of(&resources.devices).expect("not everything is allowed");
        let devices = v1::Devices::find(&hierarchy, &scratch.path, rules).expect("the devices hierarchy");
        cgroup.add(devices.make().expect("made"));
        let list = scratch.read("devices", "devices.list");
        assert!(list.contains("c 10:229 rw") && list.contains("c 1:3 rwm") && list.contains("b *:* m"), "{list}");
        assert!(!list.contains("a *:* rwm"), "{list}");

        let mut child = Command::new("sleep").arg("1000").spawn().expect("sleep");
        cgroup.add_process(child.id() as i32).expect("join");
        cgroup.freeze().expect("freeze");
        assert!(cgroup.is_frozen().expect("state"));
        assert_eq!(scratch.read("freezer", "freezer.state"), "FROZEN");
        cgroup.thaw().expect("thaw");
        assert!(!cgroup.is_frozen().expect("state"));
        cgroup.freeze().expect("freeze");
        cgroup.kill().expect("kill");
        let status = child.wait().expect("a frozen process dies as well");
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
    });
}

#[test]
fn an_independent_reader_finds_in_version_2_what_was_asked() {
    if !root() {
        return;
    }
    with_own_mounts(|| {
        // cgroups-rs knows only this place.
        if Hierarchy::find().expect("the hierarchies").unified() != Some("/sys/fs/cgroup") {
            mount(Some("none"), "/sys/fs/cgroup", Some("cgroup2"), MsFlags::empty(), None::<&str>).expect("cgroup2");
        }
        let hierarchy = Hierarchy::find().expect("the hierarchies");
        let has = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").expect("controllers");
        let mut resources = Resources::default();
        let known = [
            ("memory", r#"{"memory": {"limit": 33554432, "reservation": 16777216}}"#),
            ("cpu", r#"{"cpu": {"shares": 2048, "quota": 20000, "period": 50000}}"#),
            ("pids", r#"{"pids": {"limit": 20}}"#),
            ("hugetlb", r#"{"hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}]}"#),
        ];
        for (controller, json) in known {
            let one: Resources = serde_json::from_str(json).expect("resources");
            match has.split_whitespace().any(|name| name == controller).then_some(controller) {
                Some("memory") => resources.memory = one.memory,
                Some("cpu") => resources.cpu = one.cpu,
                Some("pids") => resources.pids = one.pids,
                Some(_) => resources.hugepage_limits = one.hugepage_limits,
                None => eprintln!("NOT RUN in part: the {controller} controller is not in cgroup2 here"),
            }
        }
        let limits = limits(&resources, None, &mut Vec::new(), &mut Vec::new());
        let path = format!("/windlass-cross-{}", std::process::id());
        let cgroup = Cgroup::create(&hierarchy, &path, &limits.needs()).expect("create");
        cgroup.apply(&limits.writes).expect("apply");

        let reader = Independent::load(Box::new(V2::new()), path.trim_start_matches('/'));
        if resources.memory.is_some() {
            let memory = reader.controller_of::<MemController>().expect("memory").get_mem().expect("limits");
            assert_eq!(memory.max, Some(MaxValue::Value(33_554_432)));
            assert_eq!(memory.low, Some(MaxValue::Value(16_777_216)));
        }
        if resources.cpu.is_some() {
            let cpu: &CpuController = reader.controller_of().expect("cpu");
            assert_eq!(cpu.shares().expect("weight"), 174);
            assert_eq!(cpu.cfs_quota().expect("quota"), 20_000);
            assert_eq!(cpu.cfs_period().expect("period"), 50_000);
        }
        if resources.pids.is_some() {
            let pids: &PidController = reader.controller_of().expect("pids");
            assert_eq!(pids.get_pid_max().expect("limit"), MaxValue::Value(20));
        }
        if !resources.hugepage_limits.is_empty() {
            let pages: &HugeTlbController = reader.controller_of().expect("hugetlb");
            assert_eq!(pages.limit_in_bytes("2MB").expect("limit"), 4_194_304);
        }
        cgroup.remove(Kill::Yes).expect("remove");
    });
}
