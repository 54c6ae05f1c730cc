//! The configurations that are swept.

use crate::bench::spec::{self, FIRST_ID};
use crate::kit::bundle::put;
use crate::kit::stop::{Context, Verdict};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::lchown;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// All kinds, and whether the short sweep has them.
pub const KINDS: &[(&str, bool)] = &[
    ("plain", true),
    ("engine", true),
    ("userns", true),
    ("rootless", false),
    ("hooks", false),
    ("terminal", false),
    ("joined", false),
    ("joined-user", false),
    ("docker", false),
    ("podman", false),
    ("cri", false),
];

/// The ordinary user of the rootless kind.
pub const USER: u32 = 47_123;

/// The fixtures of the plan tests: configurations as engines write them.
const DOCKER: &str = include_str!("../../../src/plan/tests/plans/docker.json");
const CRI: &str = include_str!("../../../src/plan/tests/plans/kubernetes.json");

/// Reports what a program sees in the container, and ends with 42. The report is one write(2), so that a relay makes
/// the same calls in each run.
const PROBE: &str = r#"
told=$(echo == status; grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp:|SigBlk|SigIgn|SigCgt|Cpus_allowed_list)' /proc/self/status
echo == mountinfo; cat /proc/self/mountinfo
echo == rest; cat /proc/self/limits /proc/self/cgroup /proc/self/oom_score_adj /proc/self/uid_map /proc/self/gid_map
stat -c '%n %F %a %u %g %t %T' / /dev /dev/*; hostname; env; pwd; umask; ls /proc/self/fd; echo END)
echo "$told"; exit 42
"#;

/// The arguments that run the probe.
pub fn probe() -> [&'static str; 3] {
    ["/bin/sh", "-c", PROBE]
}

/// Stand-ins for other containers and for the preparations of engines.
pub struct Around {
    /// A directory with sources of mounts.
    pub sources: std::path::PathBuf,
    /// The file to which hooks add a line.
    pub hooks: std::path::PathBuf,
    holder: Option<Child>,
}

impl Around {
    /// Makes them in a directory.
    pub fn new(dir: &Path, kind: &str) -> Verdict<Around> {
        let sources = dir.join("sources");
        for name in ["volume", "shm", "token"] {
            fs::create_dir_all(sources.join(name)).context(name)?;
        }
        fs::write(sources.join("resolv.conf"), "nameserver 10.0.0.1\n")?;
        for parent in ["docker", "libpod_parent", "kubepods/burstable/podp1"] {
            fs::create_dir_all(Path::new("/sys/fs/cgroup").join(parent)).context(parent)?;
        }
        let mut around = Around { sources, hooks: dir.join("hooks.log"), holder: None };
        around.hold(kind)?;
        Ok(around)
    }

    /// Starts the process whose namespaces are joined, if the kind of bundle has one.
    pub fn hold(&mut self, kind: &str) -> Verdict {
        let flags: &[&str] = match kind {
            "joined" | "cri" => &["--net", "--ipc", "--uts"],
            "joined-user" => &["--user", "--map-root-user", "--net", "--ipc", "--uts"],
            _ => return Ok(()),
        };
        self.release();
        let mut command = Command::new("unshare");
        command.args(flags).args(["sleep", "1000000"]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().context("unshare")?;
        let link = |name: &str| fs::read_link(format!("/proc/{name}/ns/uts")).ok();
        let pid = child.id().to_string();
        self.holder = Some(child);
        crate::kit::wait::eventually("the namespaces to join", || {
            // A census identifies it by its command line, which a process has some time after the name of its program.
            let line = crate::kit::machine::text(format!("/proc/{pid}/cmdline"));
            (link(&pid) != link("self") && line.starts_with("sleep\0")).then_some(())
        })
    }

    fn release(&mut self) {
        if let Some(mut child) = self.holder.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn joined(&self, kind: &str) -> Value {
        let pid = self.holder.as_ref().map_or(0, Child::id);
        json!({"type": kind, "path": format!("/proc/{pid}/ns/{}", if kind == "network" { "net" } else { kind })})
    }
}

impl Drop for Around {
    fn drop(&mut self) {
        self.release();
    }
}

/// The configuration of a kind.
pub fn config(kind: &str, around: &Around) -> Value {
    let mut config = match kind {
        "engine" => spec::b(),
        "userns" => spec::c(),
        "rootless" => rootless(),
        "docker" => docker(around),
        "podman" => podman(around),
        "cri" => cri(around),
        _ => spec::a(),
    };
    match kind {
        "hooks" => config["hooks"] = hooks(&around.hooks),
        "terminal" => put(&mut config, "/process/terminal", json!(true)),
        "joined" => join(&mut config, around, &["network", "ipc", "uts"]),
        "joined-user" => {
            join(&mut config, around, &["user", "network", "ipc", "uts"]);
            // The namespace maps one id, so it has no group tty.
            config["mounts"][2]["options"] = json!(["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]);
        }
        _ => {}
    }
    if kind.starts_with("joined") {
        config.as_object_mut().map(|config| config.remove("hostname"));
    }
    config
}

fn namespaces(config: &mut Value) -> Option<&mut Vec<Value>> {
    config.pointer_mut("/linux/namespaces")?.as_array_mut()
}

fn join(config: &mut Value, around: &Around, kinds: &[&str]) {
    if let Some(list) = namespaces(config) {
        list.retain(|entry| !kinds.iter().any(|kind| entry["type"] == *kind));
        list.extend(kinds.iter().map(|kind| around.joined(kind)));
    }
}

/// All hooks. Each adds its name to a file, except for the one in the container's namespaces, which only runs.
fn hooks(log: &Path) -> Value {
    let host = |name: &str| {
        let script = format!("cat >/dev/null; echo {name} >> {}", log.display());
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}])
    };
    json!({
        "prestart": host("prestart"), "createRuntime": host("createRuntime"), "poststart": host("poststart"),
        "createContainer": [{"path": "/bin/true", "args": ["true"]}],
        "startContainer": [{"path": "/bin/true", "args": ["true"]}],
        "poststop": host("poststop")
    })
}

/// As `spec --rootless` writes it.
fn rootless() -> Value {
    let mut config = crate::kit::spec::default();
    let own = json!([{"containerID": 0, "hostID": USER, "size": 1}]);
    let kinds = ["pid", "ipc", "uts", "mount", "cgroup", "user"].map(|kind| json!({"type": kind}));
    config["linux"]["namespaces"] = json!(kinds);
    config["linux"]["uidMappings"] = own.clone();
    config["linux"]["gidMappings"] = own;
    config["mounts"][4] = json!({"destination": "/sys", "type": "none", "source": "/sys",
        "options": ["rbind", "nosuid", "noexec", "nodev", "ro"]});
    config["mounts"][2]["options"] = json!(["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]);
    config
}

/// A fixture without the elements that depend on the host where it was recorded.
fn adapted(text: &str, around: &Around) -> Value {
    let mut config: Value = serde_json::from_str(text).expect("the fixture is JSON");
    config["root"] = json!({"path": "rootfs"});
    config["process"]["cwd"] = json!("/");
    config["process"].as_object_mut().map(|process| process.remove("apparmorProfile"));
    // The host may not allow a value below its own.
    config["process"].as_object_mut().map(|process| process.remove("oomScoreAdj"));
    let devices = config["linux"]["resources"]["devices"].clone();
    config["linux"]["resources"] = json!({"devices": devices});
    config["hooks"] = json!({"prestart": [{"path": "/bin/true", "args": ["true"]}]});
    let source = |name: &str| json!(around.sources.join(name));
    for mount in config["mounts"].as_array_mut().into_iter().flatten() {
        match mount["destination"].as_str() {
            Some("/etc/resolv.conf") => mount["source"] = source("resolv.conf"),
            Some("/dev/shm") if mount["type"] == "bind" => mount["source"] = source("shm"),
            _ if mount["type"] == "bind" => mount["source"] = source("volume"),
            _ => {}
        }
    }
    config
}

fn docker(around: &Around) -> Value {
    let mut config = adapted(DOCKER, around);
    config["linux"]["cgroupsPath"] = json!("/docker/sweep");
    config["linux"]["seccomp"] = spec::b()["linux"]["seccomp"].clone();
    config
}

/// podman's additions: its own files, a cgroup below its parent, annotations.
fn podman(around: &Around) -> Value {
    let mut config = spec::b();
    config["linux"]["cgroupsPath"] = json!("/libpod_parent/sweep");
    config["annotations"] = json!({"io.container.manager": "libpod", "io.podman.annotations.autoremove": "FALSE"});
    let options = ["bind", "rprivate", "nosuid", "noexec", "nodev"];
    for (source, destination) in [("resolv.conf", "/etc/resolv.conf"), ("shm", "/dev/shm"), ("volume", "/data")] {
        put(
            &mut config,
            "/mounts/-",
            json!({"destination": destination, "type": "bind", "source": around.sources.join(source), "options": options}),
        );
    }
    config
}

fn cri(around: &Around) -> Value {
    let mut config = adapted(CRI, around);
    join(&mut config, around, &["network", "ipc", "uts"]);
    config["linux"]["cgroupsPath"] = json!("/kubepods/burstable/podp1/sweep");
    config
}

/// Gives a root filesystem to the user of this kind of bundle.
pub fn give(rootfs: &Path, kind: &str) -> Verdict {
    let owner = match kind {
        "userns" => FIRST_ID,
        "rootless" => USER,
        _ => return Ok(()),
    };
    let mut todo = vec![rootfs.to_owned()];
    while let Some(path) = todo.pop() {
        // Other trees share this program.
        if path.ends_with("busybox") && !path.is_symlink() {
            continue;
        }
        lchown(&path, Some(owner), Some(owner)).context(path.display())?;
        if path.is_dir() && !path.is_symlink() {
            todo.extend(fs::read_dir(&path)?.flatten().map(|entry| entry.path()));
        }
    }
    Ok(())
}
