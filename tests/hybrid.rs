//! Containers on a host with cgroups of version 1, with and without a cgroup2. The program is built with or without the
//! feature `cgroup-v1`.
//!
//! Needs root, unshare(1), and /bin/busybox. A test that lacks one of these reports that.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

const WINDLASS: &str = env!("CARGO_BIN_EXE_windlass");
const FEATURE: bool = cfg!(feature = "cgroup-v1");

/// Which cgroup file systems the program finds.
#[derive(Clone, Copy, PartialEq)]
enum Host {
    AsIs,
    WithoutCgroup2,
}

/// Whether the tests can run. Reports why not.
fn can_run(host: Host, controllers: &[&str]) -> bool {
    let reason = if !nix::unistd::geteuid().is_root() {
        Some("containers need root".to_owned())
    } else if !Path::new("/bin/busybox").exists() {
        Some("no /bin/busybox".to_owned())
    } else {
        let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
        let has = |name: &&&str| {
            mounts.lines().any(|line| {
                let fields: Vec<&str> = line.split(' ').collect();
                fields[2] == "cgroup" && fields[3].split(',').any(|option| option == **name)
            })
        };
        let missing = controllers.iter().find(|name| !has(name));
        let none = host == Host::AsIs && !mounts.lines().any(|line| line.contains(" cgroup2 "));
        missing
            .map(|name| format!("the {name} controller is not in cgroup v1 here"))
            .or(none.then(|| "no cgroup2 file system is mounted".to_owned()))
    };
    if let Some(reason) = &reason {
        eprintln!("NOT RUN: {reason}");
    }
    reason.is_none()
}

struct Bundle {
    dir: PathBuf,
    id: String,
    host: Host,
    /// Shell commands that run before the program, in its mount namespace.
    before: &'static str,
}

impl Bundle {
    fn new(host: Host, name: &str, script: &str, resources: Value) -> Bundle {
        let id = format!("windlass-hybrid-{}-{name}", std::process::id());
        let dir = std::env::temp_dir().join(&id);
        let rootfs = dir.join("rootfs");
        for sub in ["bin", "proc", "dev", "sys"] {
            std::fs::create_dir_all(rootfs.join(sub)).expect("rootfs");
        }
        std::fs::copy("/bin/busybox", rootfs.join("bin/busybox")).expect("busybox");
        for applet in ["sh", "sleep", "cat", "true", "dd", "mknod", "rm"] {
            let _ = std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(applet));
        }
        std::fs::set_permissions(&rootfs, std::fs::Permissions::from_mode(0o755)).expect("mode");
        let capabilities = ["CAP_MKNOD", "CAP_SYSLOG"];
        let config = json!({
            "ociVersion": "1.2.0",
            "root": {"path": "rootfs"},
            "process": {"cwd": "/", "args": ["/bin/sh", "-c", script], "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0},
                "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities}},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
            ],
            "linux": {
                "cgroupsPath": format!("/{id}"),
                "resources": resources,
                "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, {"type": "cgroup"}],
            },
        });
        std::fs::write(dir.join("config.json"), config.to_string()).expect("config.json");
        Bundle { dir, id, host, before: "" }
    }

    fn before(mut self, before: &'static str) -> Bundle {
        self.before = before;
        self
    }

    /// The program on this host: `VERB … ID …`, where `ID` is replaced.
    fn windlass(&self, words: &str) -> Output {
        let root = self.dir.join("state");
        let words = words.replace("ID", &self.id).replace("BUNDLE", &self.dir.to_string_lossy());
        let log = self.dir.join("log");
        let _ = std::fs::remove_file(&log);
        let command = format!("{WINDLASS} --root {} --log {} {words}", root.display(), log.display());
        let script = match self.host {
            Host::AsIs => command,
            Host::WithoutCgroup2 => format!(
                "awk '$3 == \"cgroup2\" {{ print $2 }}' /proc/self/mounts | while read -r at; do umount -l \"$at\"; done; {}{command}",
                self.before
            ),
        };
        let run = Command::new("unshare").args(["-m", "sh", "-c", &script]).stdin(std::process::Stdio::null()).output();
        run.expect("unshare")
    }

    /// Runs the program, which must succeed. Returns its standard output.
    fn ok(&self, words: &str) -> String {
        let output = self.windlass(words);
        assert!(output.status.success(), "{words}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn fails(&self, words: &str) -> String {
        let output = self.windlass(words);
        assert!(!output.status.success(), "{words} succeeded");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// The log of the last command.
    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// Runs create and start, with the output in files, since pipes would be held open.
    fn start(&self) {
        self.ok("create --bundle BUNDLE ID >/dev/null 2>&1");
        self.ok("start ID");
    }

    fn v1(&self, controller: &str, file: &str) -> Option<String> {
        let text = std::fs::read_to_string(format!("/sys/fs/cgroup/{controller}/{}/{file}", self.id));
        text.ok().map(|text| text.trim().to_owned())
    }

    fn status(&self) -> String {
        let state: Value = serde_json::from_str(&self.ok("state ID")).expect("state");
        state["status"].as_str().expect("status").to_owned()
    }

    fn pid(&self) -> String {
        let state: Value = serde_json::from_str(&self.ok("state ID")).expect("state");
        state["pid"].to_string()
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        self.windlass("delete --force ID");
        let left: Vec<_> = std::fs::read_dir("/sys/fs/cgroup")
            .expect("cgroups")
            .flatten()
            .map(|hierarchy| hierarchy.path().join(&self.id))
            .filter(|path| path.exists())
            .collect();
        let _ = std::fs::remove_dir_all(&self.dir);
        if !std::thread::panicking() {
            assert_eq!(left, [] as [PathBuf; 0], "left behind by delete");
        }
    }
}

fn wait_for(what: &str, done: impl Fn() -> bool) {
    let start = std::time::Instant::now();
    while !done() {
        assert!(start.elapsed().as_secs() < 120, "waited in vain for: {what}");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[test]
fn without_limits_a_container_runs_with_and_without_cgroup2() {
    for (host, name) in [(Host::AsIs, "as-is"), (Host::WithoutCgroup2, "without")] {
        if can_run(host, &[]) {
            let bundle = Bundle::new(host, name, "echo it runs", json!({}));
            let output = bundle.windlass("run --bundle BUNDLE ID");
            assert_eq!(String::from_utf8_lossy(&output.stdout), "it runs\n", "{output:?}");
            assert_eq!(bundle.log(), "");
        }
    }
}

#[test]
fn a_container_without_limits_has_its_whole_life_without_cgroup2() {
    if !can_run(Host::WithoutCgroup2, &["freezer"]) {
        return;
    }
    let bundle = Bundle::new(Host::WithoutCgroup2, "life", "sleep 1000 & sleep 1000", json!({}));
    bundle.start();
    assert_eq!(bundle.status(), "running");
    assert_eq!(bundle.ok("exec ID /bin/sh -c 'echo inside'"), "inside\n");
    if FEATURE {
        wait_for("two processes", || bundle.ok("ps --format json ID").contains(','));
        bundle.ok("pause ID");
        assert_eq!((bundle.status(), bundle.v1("freezer", "freezer.state")), ("paused".into(), Some("FROZEN".into())));
        bundle.ok("resume ID");
        assert_eq!(bundle.status(), "running");
        bundle.ok("pause ID");
    } else {
        assert!(bundle.ok("ps --format json ID").contains(&bundle.pid()));
        let said = bundle.fails("pause ID");
        assert!(said.contains("the container has no cgroup that can be frozen"), "{said}");
    }
    bundle.ok("kill ID KILL");
    wait_for("the end of a paused container", || bundle.status() == "stopped");
    bundle.ok("delete ID");
}

#[test]
fn limits_of_version_1_are_applied_or_refused_by_name() {
    for (host, name) in [(Host::AsIs, "limit"), (Host::WithoutCgroup2, "limit-without")] {
        if !can_run(host, &["pids", "memory"]) {
            continue;
        }
        let resources = json!({"pids": {"limit": 33}, "memory": {"limit": 67108864, "swappiness": 7}});
        let bundle = Bundle::new(host, name, "sleep 1000", resources);
        if !FEATURE {
            let said = bundle.fails("create --bundle BUNDLE ID");
            assert!(said.contains("controller is mounted as cgroup v1 at"), "{said}");
            assert!(said.contains("/linux/resources/"), "{said}");
            continue;
        }
        bundle.ok("create --bundle BUNDLE ID >/dev/null 2>&1");
        assert_eq!(bundle.log(), "", "swappiness exists in version 1");
        bundle.ok("start ID");
        assert_eq!(bundle.v1("pids", "pids.max").as_deref(), Some("33"));
        assert_eq!(bundle.v1("memory", "memory.limit_in_bytes").as_deref(), Some("67108864"));
        assert_eq!(bundle.v1("memory", "cgroup.procs"), Some(bundle.pid()));
        let cgroup = bundle.ok("exec ID /bin/cat /proc/self/cgroup");
        assert!(
            cgroup.lines().any(|line| line.ends_with(":pids:/")),
            "exec is not in, or not below its root: {cgroup}"
        );
    }
}

#[test]
fn an_update_may_bring_the_first_limit_of_version_1() {
    if !can_run(Host::AsIs, &["pids", "cpu"]) {
        return;
    }
    let bundle = Bundle::new(Host::AsIs, "update", "sleep 1000 & sleep 1000", json!({}));
    bundle.start();
    if !FEATURE {
        let said = bundle.fails("update --pids-limit 44 ID");
        assert!(said.contains("the pids controller is mounted as cgroup v1 at"), "{said}");
        return;
    }
    assert_eq!(bundle.v1("pids", "pids.max"), None, "nothing was asked for");
    wait_for("two processes", || bundle.ok("ps --format json ID").contains(','));
    bundle.ok("update --pids-limit 44 ID");
    assert_eq!(bundle.v1("pids", "pids.max").as_deref(), Some("44"));
    assert!(bundle.v1("pids", "cgroup.procs").expect("list").lines().count() >= 2, "all processes are moved in");
    bundle.ok("update --pids-limit 45 --cpu-share 512 ID");
    assert_eq!(bundle.v1("pids", "pids.max").as_deref(), Some("45"));
    assert_eq!(bundle.v1("cpu", "cpu.shares").as_deref(), Some("512"));
}

/// Makes and reads 1:11, kmsg, which a container may read only if its rules name it, and 1:5, zero.
const TRY: &str = "mknod /dev/kmsg c 1 11; dd if=/dev/kmsg of=/dev/null bs=9999 count=1 2>/dev/null && echo kmsg; \
    dd if=/dev/zero of=/dev/null bs=1 count=1 2>/dev/null && echo zero";

fn deny_all() -> Value {
    json!({"devices": [{"allow": false, "access": "rwm"}]})
}

/// Unmounts every cgroup file system by which the use of devices could be limited.
const NO_DEVICES: &str = "awk '$3 == \"cgroup\" && $4 ~ /devices/ { print $2 }' /proc/self/mounts | while read -r at; do umount -l \"$at\"; done; ";

#[test]
fn device_rules_without_cgroup2_are_kept_in_the_devices_hierarchy() {
    if !can_run(Host::WithoutCgroup2, &["devices"]) {
        return;
    }
    let named = json!({"devices": [{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"}]});
    let cases = [("denied", deny_all(), "zero\n"), ("default", json!({}), "zero\n"), ("named", named, "kmsg\nzero\n")];
    for (name, rules, expected) in cases {
        let bundle = Bundle::new(Host::WithoutCgroup2, name, TRY, rules);
        let output = bundle.windlass("run --bundle BUNDLE ID");
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{name}: {output:?}");
        assert_eq!(bundle.log(), "", "{name}");
    }
}

#[test]
fn a_container_has_its_whole_life_in_the_devices_hierarchy() {
    if !can_run(Host::WithoutCgroup2, &["devices"]) {
        return;
    }
    let bundle = Bundle::new(Host::WithoutCgroup2, "devices-life", "sleep 1000 & sleep 1000", deny_all());
    bundle.start();
    let list = bundle.v1("devices", "devices.list").expect("a directory");
    assert!(list.contains("c 1:3 rwm") && !list.contains("a *:*"), "{list}");
    wait_for("two processes", || bundle.ok("ps --format json ID").contains(','));
    assert_eq!(bundle.ok(&format!("exec ID /bin/sh -c '{TRY}'")), "zero\n", "exec is judged alike");
    let file = bundle.dir.join("resources.json");
    let rules = json!({"devices": [{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"}]});
    std::fs::write(&file, rules.to_string()).expect("resources");
    bundle.ok(&format!("update --resources {} ID", file.display()));
    assert_eq!(bundle.ok(&format!("exec ID /bin/sh -c 'rm /dev/kmsg; {TRY}'")), "kmsg\nzero\n", "after the update");
    bundle.ok("kill --all ID KILL");
    wait_for("the end of all", || bundle.v1("devices", "cgroup.procs").as_deref() == Some(""));
    bundle.ok("delete ID");
    assert_eq!(bundle.v1("devices", "devices.list"), None);
}

#[test]
fn delete_by_force_and_a_failed_create_leave_nothing_in_the_devices_hierarchy() {
    if !can_run(Host::WithoutCgroup2, &["devices"]) {
        return;
    }
    let bundle = Bundle::new(Host::WithoutCgroup2, "devices-force", "sleep 1000 & sleep 1000", deny_all());
    bundle.start();
    assert!(bundle.v1("devices", "devices.list").is_some());
    bundle.ok("delete --force ID");
    assert_eq!(bundle.v1("devices", "devices.list"), None);
    std::fs::remove_dir_all(bundle.dir.join("rootfs")).expect("no root");
    bundle.fails("create --bundle BUNDLE ID");
    assert_eq!(bundle.v1("devices", "devices.list"), None);
}

#[test]
fn exec_goes_where_init_is_when_the_directory_of_the_rules_is_gone() {
    if !can_run(Host::WithoutCgroup2, &["devices"]) {
        return;
    }
    let bundle = Bundle::new(Host::WithoutCgroup2, "devices-moved", "sleep 1000", deny_all());
    bundle.start();
    let place = |name: &str| format!("/sys/fs/cgroup/devices/{name}");
    let other = format!("{}-other", bundle.id);
    std::fs::create_dir(place(&other)).expect("mkdir");
    for pid in bundle.v1("devices", "cgroup.procs").expect("a directory").lines() {
        std::fs::write(format!("{}/cgroup.procs", place(&other)), pid).expect("moved");
    }
    std::fs::remove_dir(place(&bundle.id)).expect("rmdir");
    let inside = bundle.windlass("exec ID /bin/cat /proc/self/cgroup");
    bundle.windlass("delete --force ID");
    wait_for("the end of all", || std::fs::remove_dir(place(&other)).is_ok());
    let inside = String::from_utf8_lossy(&inside.stdout).into_owned();
    assert!(inside.lines().any(|line| line.contains(":devices:") && line.ends_with(&other)), "{inside}");
}

#[test]
fn a_directory_of_somebody_else_is_not_taken_for_the_rules() {
    if !can_run(Host::WithoutCgroup2, &["devices"]) {
        return;
    }
    let bundle = Bundle::new(Host::WithoutCgroup2, "devices-else", "true", deny_all());
    let place = format!("/sys/fs/cgroup/devices/{}", bundle.id);
    std::fs::create_dir(&place).expect("mkdir");
    let mut other = Command::new("sleep").arg("1000").spawn().expect("sleep");
    std::fs::write(format!("{place}/cgroup.procs"), other.id().to_string()).expect("join");
    let said = bundle.fails("run --bundle BUNDLE ID");
    bundle.windlass("delete --force ID");
    assert!(other.try_wait().expect("status").is_none(), "it was killed");
    other.kill().expect("kill");
    other.wait().expect("wait");
    std::fs::remove_dir(&place).expect("rmdir");
    assert!(said.contains("container's cgroup is not empty: 1 process(es) found"), "{said}");
}

#[test]
fn without_any_way_to_keep_the_device_rules_a_container_is_refused() {
    if !can_run(Host::WithoutCgroup2, &[]) {
        return;
    }
    let run = |name: &str, resources: Value, change: &dyn Fn(&mut Value), words: &str| {
        let bundle = Bundle::new(Host::WithoutCgroup2, name, "echo it runs", resources).before(NO_DEVICES);
        let file = bundle.dir.join("config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&file).expect("read")).expect("json");
        change(&mut config);
        std::fs::write(&file, config.to_string()).expect("write");
        let output = bundle.windlass(words);
        (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let same = |_: &mut Value| {};
    let words = "run --bundle BUNDLE ID";
    for (name, resources) in [("no-way", deny_all()), ("no-way-default", json!({}))] {
        let (stdout, stderr) = run(name, resources, &same, words);
        assert_eq!(stdout, "", "{stderr}");
        assert!(stderr.contains("cannot apply the device rules: neither cgroup2 nor"), "{stderr}");
    }
    let (_, stderr) = run("no-way-pointer", deny_all(), &same, words);
    assert!(stderr.contains("/linux/resources/devices"), "{stderr}");
    let (stdout, _) = run("no-way-check", deny_all(), &same, "check --bundle BUNDLE");
    assert!(stdout.contains("cannot apply the device rules"), "{stdout}");

    let all = json!({"devices": [{"allow": true, "access": "rwm"}]});
    assert_eq!(run("all", all, &same, words).0, "it runs\n", "everything is allowed");
    let disabled = format!("--cgroup-manager disabled {words}");
    assert_eq!(run("disabled", deny_all(), &same, &disabled).0, "it runs\n", "the caller wants no cgroup");
    let user_namespace = |config: &mut Value| {
        config["linux"]["namespaces"].as_array_mut().expect("namespaces").push(json!({"type": "user"}));
        for ids in ["uidMappings", "gidMappings"] {
            config["linux"][ids] = json!([{"containerID": 0, "hostID": 0, "size": 65536}]);
        }
    };
    let (stdout, stderr) = run("userns", deny_all(), &user_namespace, words);
    assert_eq!(stdout, "it runs\n", "nobody can make a device there: {stderr}");
}

#[test]
fn kill_all_reaches_every_process_without_cgroup2() {
    if !can_run(Host::WithoutCgroup2, &["freezer"]) || !FEATURE {
        return;
    }
    let bundle = Bundle::new(Host::WithoutCgroup2, "kill-all", "sleep 1000 & sleep 1000", json!({}));
    // Without a PID namespace the other processes survive the end of init.
    let file = bundle.dir.join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&file).expect("read")).expect("json");
    config["linux"]["namespaces"] = json!([{"type": "mount"}]);
    std::fs::write(&file, config.to_string()).expect("write");
    bundle.start();
    wait_for("two processes", || bundle.ok("ps --format json ID").contains(','));
    bundle.ok("kill --all ID KILL");
    wait_for("the end of all", || bundle.v1("freezer", "cgroup.procs").as_deref() == Some(""));
    bundle.ok("delete ID");
}

#[test]
fn a_failed_create_leaves_no_cgroup_of_version_1() {
    if !can_run(Host::AsIs, &["cpuset"]) || !FEATURE {
        return;
    }
    for (name, resources) in
        [("refused", json!({"pids": {"limit": 3}, "cpu": {"cpus": "5000"}})), ("later", json!({"pids": {"limit": 3}}))]
    {
        let bundle = Bundle::new(Host::AsIs, name, "true", resources);
        if name == "later" {
            std::fs::remove_dir_all(bundle.dir.join("rootfs")).expect("no root");
        }
        bundle.fails("create --bundle BUNDLE ID");
        for controller in ["pids", "cpuset", "unified"] {
            assert!(!Path::new(&format!("/sys/fs/cgroup/{controller}/{}", bundle.id)).exists(), "{controller}");
        }
    }
}
