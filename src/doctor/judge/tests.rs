//! A host that has all, and hosts where one thing each is missing.

use super::*;
use crate::doctor::facts::{Cgroups, Kernel, SecurityModules, SystemdInstance, User, UserNamespaces};
use crate::doctor::{can_run, document, text};

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|name| (*name).to_owned()).collect()
}

fn root() -> Facts {
    Facts {
        kernel: Kernel {
            release: "6.1.0".into(),
            missing_calls: Vec::new(),
            missing_namespaces: Vec::new(),
            missing_filesystems: Vec::new(),
            seccomp: true,
            seccomp_listener: true,
            device_filter: None,
            exit_not_kept: None,
        },
        user: User {
            uid: 0,
            name: "root".into(),
            rootless: false,
            nested: false,
            subordinate_uids: 0,
            subordinate_gids: 0,
            newuidmap: Helper::Works,
            newgidmap: Helper::Works,
        },
        user_namespaces: UserNamespaces {
            refused: None,
            max: Some(15_000),
            debian_switch: None,
            apparmor_switch: None,
        },
        cgroups: Cgroups {
            unified: Some("/sys/fs/cgroup".into()),
            v1: Vec::new(),
            all: names(&["cpu", "cpuset", "io", "memory", "pids"]),
            own: "/user.slice/user-0.slice/session-1.scope".into(),
            usable: true,
            delegated: names(&["cpu", "cpuset", "io", "memory", "pids"]),
        },
        security_modules: SecurityModules { apparmor: true, selinux: None },
        systemd: SystemdInstance {
            booted: true,
            reached: Ok(252),
            controllers: names(&["cpu", "cpuset", "io", "memory", "pids"]),
            runtime_dir: None,
            lingers: false,
        },
        state_root: ("/run/windlass".into(), true),
    }
}

fn user() -> Facts {
    let mut facts = root();
    facts.user = User {
        uid: 1000,
        name: "ann".into(),
        rootless: true,
        subordinate_uids: 65536,
        subordinate_gids: 65536,
        ..facts.user
    };
    facts.systemd.runtime_dir = Some("/run/user/1000".into());
    facts.systemd.lingers = true;
    facts.state_root.0 = "/run/user/1000/windlass".into();
    facts
}

/// Findings other than `ok`.
fn bad(facts: &Facts) -> Vec<Finding> {
    judge(facts).into_iter().filter(|finding| finding.level != Level::Ok).collect()
}

/// Takes one thing away: exactly one finding says so, with these words and this remedy.
fn lacks(mut facts: Facts, take: impl FnOnce(&mut Facts), level: Level, name: &str, says: &str, remedy: &str) {
    assert_eq!(bad(&facts), [], "nothing was wrong before");
    take(&mut facts);
    let found = bad(&facts);
    let [finding] = &found[..] else { panic!("{name}: {found:#?}") };
    assert_eq!((finding.name, finding.level), (name, level), "{finding:?}");
    assert!(finding.says.contains(says), "{finding:?}");
    let shown = finding.remedy.as_deref().unwrap_or_default();
    assert!(shown.contains(remedy), "{finding:?}");
    assert_eq!(can_run(&found), level != Level::Missing);
    let page = text(&facts, &judge(&facts));
    assert!(page.contains(says) && page.contains(remedy), "{page}");
}

#[test]
fn a_host_with_all_is_well() {
    assert_eq!(bad(&root()), []);
    assert_eq!(bad(&user()), []);
    assert!(text(&root(), &judge(&root())).ends_with("describes it can run here\n"));
    assert_eq!(document(&user(), &judge(&user()))["ok"], true);
}

#[test]
fn what_the_kernel_lacks_is_named_with_its_version() {
    let calls = |facts: &mut Facts| facts.kernel.missing_calls = vec![("openat2", "5.6")];
    lacks(root(), calls, Level::Missing, "kernel", "openat2 (Linux 5.6)", "newer kernel");
    let kind = |facts: &mut Facts| facts.kernel.missing_namespaces = vec!["cgroup"];
    lacks(root(), kind, Level::Missing, "namespaces", "no cgroup", "CONFIG_");
    let time = |facts: &mut Facts| facts.kernel.missing_namespaces = vec!["time"];
    lacks(root(), time, Level::Limited, "namespaces", "no time", "CONFIG_");
    lacks(user(), time, Level::Limited, "namespaces", "no time", "CONFIG_");
    let own = |facts: &mut Facts| facts.kernel.missing_namespaces = vec!["user"];
    lacks(root(), own, Level::Limited, "namespaces", "no user", "CONFIG_");
    lacks(user(), own, Level::Missing, "namespaces", "no user", "CONFIG_");
    let mqueue = |facts: &mut Facts| facts.kernel.missing_filesystems = vec!["mqueue"];
    lacks(root(), mqueue, Level::Missing, "filesystems", "mqueue", "modprobe mqueue");
    let filter = |facts: &mut Facts| facts.kernel.device_filter = Some("bpf: EPERM".into());
    lacks(root(), filter, Level::Missing, "device filter", "EPERM", "CAP_BPF");
    let exit = |facts: &mut Facts| facts.kernel.exit_not_kept = Some("ioctl(3, PIDFD_GET_INFO): ENOTTY".into());
    lacks(root(), exit, Level::Limited, "exit status", "ENOTTY", "Linux 6.15");
    lacks(user(), exit, Level::Limited, "exit status", "ENOTTY", "a shim");
    let seccomp = |facts: &mut Facts| facts.kernel.seccomp = false;
    lacks(root(), seccomp, Level::Limited, "seccomp", "no filters", "CONFIG_SECCOMP_FILTER");
    let listener = |facts: &mut Facts| facts.kernel.seccomp_listener = false;
    lacks(root(), listener, Level::Limited, "seccomp", "no listeners", "5.0");
}

#[test]
fn the_reason_that_user_namespaces_are_refused_is_found() {
    let refused = |change: fn(&mut UserNamespaces)| {
        move |facts: &mut Facts| {
            facts.user_namespaces.refused = Some("operation not permitted".into());
            change(&mut facts.user_namespaces);
        }
    };
    let name = "user namespaces";
    let none = refused(|found| found.max = Some(0));
    lacks(user(), none, Level::Missing, name, "max_user_namespaces is 0", "user.max_user_namespaces=");
    let debian = refused(|found| found.debian_switch = Some(0));
    lacks(user(), debian, Level::Missing, name, "unprivileged_userns_clone is 0", "unprivileged_userns_clone=1");
    let ubuntu = refused(|found| found.apparmor_switch = Some(1));
    lacks(user(), ubuntu, Level::Missing, name, "AppArmor", "apparmor_restrict_unprivileged_userns=0");
    let unknown = refused(|_| {});
    lacks(user(), unknown, Level::Missing, name, "operation not permitted", "seccomp filter");
    lacks(root(), refused(|_| {}), Level::Limited, name, "operation not permitted", "security module");
}

#[test]
fn subordinate_ids_are_missed_by_ordinary_users_alone() {
    let name = "subordinate ids";
    let absent = |facts: &mut Facts| facts.user.newgidmap = Helper::Absent;
    lacks(user(), absent, Level::Limited, name, "not in PATH", "package uidmap");
    let powerless = |facts: &mut Facts| facts.user.newuidmap = Helper::Powerless;
    lacks(user(), powerless, Level::Limited, name, "neither set-user-id bit", "setcap");
    let ungranted = |facts: &mut Facts| facts.user.subordinate_gids = 0;
    lacks(user(), ungranted, Level::Limited, name, "no line for ann", "usermod --add-subuids");
    let mut root = root();
    root.user.newuidmap = Helper::Absent;
    assert_eq!(bad(&root), []);
}

#[test]
fn a_state_root_that_cannot_be_written_is_told_apart_from_a_missing_login() {
    let unwritable = |facts: &mut Facts| facts.state_root.1 = false;
    lacks(root(), unwritable, Level::Missing, "state", "/run/windlass cannot be written", "--root");
    let no_login = |facts: &mut Facts| {
        facts.state_root = ("/run/windlass".into(), false);
        facts.systemd.runtime_dir = None;
    };
    lacks(user(), no_login, Level::Missing, "state", "XDG_RUNTIME_DIR is not set", "log in");
}

#[test]
fn cgroups_that_are_not_there_or_not_ours() {
    let v1 = |facts: &mut Facts| (facts.cgroups.unified, facts.cgroups.v1) = (None, names(&["devices"]));
    lacks(root(), v1, Level::Limited, "cgroups", "no cgroup2", "unified_cgroup_hierarchy=1");
    let mut none = root();
    v1(&mut none);
    none.cgroups.v1.clear();
    assert!(!can_run(&bad(&none)), "nothing keeps the device rules");
    let read_only = |facts: &mut Facts| facts.cgroups.usable = false;
    lacks(root(), read_only, Level::Missing, "cgroups", "below /sys/fs/cgroup", "read-only");
    lacks(user(), read_only, Level::Limited, "cgroups", "without limits", "--systemd-cgroup");
    let mut alone = user();
    alone.cgroups.usable = false;
    alone.systemd.reached = Err("no socket".into());
    alone.systemd.controllers.clear();
    let found = bad(&alone);
    let remedies: Vec<&str> = found.iter().filter_map(|finding| finding.remedy.as_deref()).collect();
    assert!(remedies[0].contains("enable-linger"), "{found:#?}");
    assert!(can_run(&found), "a container without limits needs no cgroup");
}

#[test]
fn controllers_that_are_not_delegated_are_named_with_the_command_that_does() {
    let name = "controllers";
    let few = |facts: &mut Facts| facts.cgroups.delegated = names(&["cpu", "memory", "pids"]);
    lacks(user(), few, Level::Limited, name, "cpuset, io here", "Delegate=cpu cpuset io memory pids");
    let kernel = |facts: &mut Facts| {
        facts.cgroups.all = names(&["cpu", "io", "memory", "pids"]);
        facts.cgroups.delegated = facts.cgroups.all.clone();
    };
    lacks(user(), kernel, Level::Limited, name, "cpuset here", "this kernel does not have cpuset");
    let hybrid = |facts: &mut Facts| {
        facts.cgroups.all = names(&["hugetlb"]);
        facts.cgroups.v1 = names(&["blkio", "cpu", "cpuset", "memory", "pids"]);
        facts.cgroups.delegated = facts.cgroups.all.clone();
    };
    lacks(root(), hybrid, Level::Limited, name, "memory", "cgroup_no_v1=all");
}

#[test]
fn systemd_that_cannot_be_asked() {
    let name = "systemd";
    let other = |facts: &mut Facts| {
        facts.systemd.booted = false;
        facts.systemd.reached = Err("no socket".into());
    };
    lacks(root(), other, Level::Limited, name, "did not boot", "without it");
    let broken = |facts: &mut Facts| facts.systemd.reached = Err("no socket".into());
    lacks(root(), broken, Level::Limited, name, "no socket", "systemctl status dbus");
    lacks(user(), broken, Level::Limited, name, "no socket", "enable-linger");
    let leaves = |facts: &mut Facts| facts.systemd.lingers = false;
    lacks(user(), leaves, Level::Limited, name, "logs out", "enable-linger");
}

#[test]
fn security_modules_are_told() {
    let mut facts = root();
    facts.security_modules.selinux = Some(true);
    facts.security_modules.apparmor = false;
    let page = text(&facts, &judge(&facts));
    assert!(page.contains("enforces") && page.contains("AppArmor         is not enabled"), "{page}");
}
