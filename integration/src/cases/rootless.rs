//! Containers of an ordinary user without a systemd of their own: the user's rights in the kernel, and cgroups that
//! root has delegated by hand.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};

use crate::kit::machine::text;
use crate::kit::stop::Context;
use crate::kit::{Bundle, Need, Ran, T, Verdict, cgroup};
use crate::{chapter, ensure, ensure_eq};

chapter! { "rootless":
    a_user_runs_a_container_with_their_own_id_alone,
    a_user_runs_a_container_in_the_background,
    subordinate_ids_are_mapped_by_the_helpers,
    ids_that_are_not_granted_are_an_error_that_says_where [Need::Windlass],
    the_network_is_the_hosts_or_the_containers_own,
    filesystems_of_the_hosts_namespaces_are_bound [Need::Windlass],
    cgroups_below_a_bound_sysfs_cannot_be_changed [Need::Windlass],
    exec_joins_and_delete_clears_away,
    exec_reads_nothing_that_stands_where_proc_was [Need::Windlass],
    devices_are_the_hosts,
    a_terminal_works_without_the_group_tty,
    without_delegation_a_limit_is_an_error_that_names_the_controller [Need::Windlass, Need::Controller("pids")],
    a_delegated_cgroup_is_found_and_limits_hold [Need::Windlass, Need::Controller("pids")],
    root_of_a_user_namespace_runs_containers,
    root_of_a_user_namespace_has_a_terminal_in_exec,
    a_user_without_a_user_namespace_is_told_so [Need::Windlass],
    the_doctor_sees_what_a_user_lacks [Need::Windlass],
}

/// A user id that is not in use on this machine.
pub(super) const UID: u32 = 47_123;
const SUBORDINATE: u32 = 500_000;

/// The user, for as long as a case runs.
pub(super) struct User<'t> {
    t: &'t T,
    home: PathBuf,
    covered: Vec<&'static str>,
}

impl<'t> User<'t> {
    /// Makes the user known to newuidmap(1), with `lines` in `/etc/subuid` and `/etc/subgid`.
    pub(super) fn new(t: &'t T, granted: bool) -> Verdict<User<'t>> {
        let home = t.path("home");
        fs::create_dir_all(home.join("state")).context("home")?;
        let mut user = User { t, home, covered: Vec::new() };
        let line = if granted { format!("wlcase:{SUBORDINATE}:65536\n") } else { String::new() };
        user.cover("/etc/passwd", &format!("{}\nwlcase:x:{UID}:{UID}::/:/bin/sh\n", text("/etc/passwd")))?;
        user.cover("/etc/subuid", &line)?;
        user.cover("/etc/subgid", &line)?;
        // The program may be in a directory of root alone, and so may the case's directory.
        fs::copy(&t.runtime, user.runtime()).context("the runtime")?;
        for dir in t.dir.ancestors().take_while(|dir| dir.starts_with("/run/windlass-integration")) {
            fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).context(dir.display())?;
        }
        user.own(&user.home)?;
        Ok(user)
    }

    /// Covers a file of the host, in this mount namespace.
    fn cover(&mut self, path: &'static str, content: &str) -> Verdict {
        let file = self.t.path(&path.replace('/', "_"));
        fs::write(&file, content).context(path)?;
        if !Path::new(path).exists() {
            return crate::kit::stop::skip(format!("{path} does not exist"));
        }
        mount(Some(&file), path, None::<&str>, MsFlags::MS_BIND, None::<&str>).context(path)?;
        self.covered.push(path);
        Ok(())
    }

    fn runtime(&self) -> PathBuf {
        self.home.join(self.t.runtime.file_name().unwrap_or_default())
    }

    /// Gives the user a directory and those below it. Files keep their owners, because they are shared with others.
    fn own(&self, dir: &Path) -> Verdict {
        chown(dir, Some(UID), Some(UID)).context(dir.display())?;
        let entries = fs::read_dir(dir).context(dir.display())?.flatten();
        let dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        dirs.map(|entry| entry.path()).try_for_each(|dir| self.own(&dir))
    }

    /// The runtime as this user.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(self.runtime());
        command.arg("--root").arg(self.home.join("state")).stdin(Stdio::null()).current_dir(&self.home);
        command.env("XDG_RUNTIME_DIR", &self.home).env_remove("NOTIFY_SOCKET").env_remove("DBUS_SESSION_BUS_ADDRESS");
        command.uid(UID).gid(UID);
        command
    }

    fn runs(&self, words: &[&str]) -> Verdict<Ran> {
        let mut command = self.command();
        command.args(words);
        self.t.finish(command)
    }

    /// A bundle as `spec --rootless` would write it.
    pub(super) fn bundle(&self) -> Verdict<Bundle> {
        let own = json!([{"containerID": 0, "hostID": UID, "size": 1}]);
        let sys = json!({"destination": "/sys", "type": "none", "source": "/sys",
            "options": ["rbind", "nosuid", "noexec", "nodev", "ro"]});
        let pts = json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]});
        let bundle = self.t.bundle()?;
        Ok(bundle
            .set("/linux/namespaces", kinds(&["pid", "ipc", "uts", "mount", "cgroup", "user"]))
            .set("/linux/uidMappings", own.clone())
            .set("/linux/gidMappings", own)
            .set("/mounts/4", sys)
            .set("/mounts/2", pts))
    }

    fn run(&self, bundle: &Bundle) -> Verdict<Ran> {
        let dir = self.written(bundle)?;
        self.runs(&["run", "--bundle", &dir, &self.t.id()])
    }

    fn written(&self, bundle: &Bundle) -> Verdict<String> {
        bundle.write()?;
        self.own(&bundle.dir)?;
        Ok(bundle.dir.display().to_string())
    }
}

impl Drop for User<'_> {
    fn drop(&mut self) {
        for path in self.covered.drain(..) {
            let _ = umount2(path, MntFlags::MNT_DETACH);
        }
    }
}

fn kinds(names: &[&str]) -> Value {
    names.iter().map(|name| json!({"type": name})).collect()
}

fn subordinate() -> Value {
    json!([{"containerID": 0, "hostID": UID, "size": 1}, {"containerID": 1, "hostID": SUBORDINATE, "size": 1000}])
}

fn a_user_runs_a_container_in_the_background(t: &T) -> Verdict {
    let user = User::new(t, false)?;
    let bundle = user.bundle()?.args(&["/bin/sleep", "1000"]);
    bundle.write()?;
    let (id, dir) = (t.id(), bundle.dir.display().to_string());
    let ran = user.runs(&["run", "--detach", "--bundle", &dir, &id]);
    let state = user.runs(&["state", &id]);
    user.runs(&["delete", "--force", &id])?.ok()?;
    ran?.ok()?;
    state?.ok()?.stdout_has("running")?;
    Ok(())
}

fn a_user_runs_a_container_with_their_own_id_alone(t: &T) -> Verdict {
    let user = User::new(t, false)?;
    let script = "cat /proc/self/uid_map; id -u; id -g; cat /proc/self/setgroups; touch /tmp/made";
    let ran = user.run(&user.bundle()?.sh(script))?.ok()?;
    let map: Vec<&str> = ran.stdout.split_whitespace().collect();
    ensure_eq!(map, ["0", UID.to_string().as_str(), "1", "0", "0", "deny"], "what the container sees");
    Ok(())
}

fn subordinate_ids_are_mapped_by_the_helpers(t: &T) -> Verdict {
    let user = User::new(t, true)?;
    let bundle = user
        .bundle()?
        .set("/linux/uidMappings", subordinate())
        .set("/linux/gidMappings", subordinate())
        .set("/process/user", json!({"uid": 33, "gid": 34, "additionalGids": [7]}));
    user.run(&bundle.clone().sh("id -u; id -g; id -G; touch /tmp/made"))?.ok()?.stdout_is("33\n34\n34 7\n")?;
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(bundle.dir.join("rootfs/tmp/made")).context("made")?);
    ensure_eq!(owner, SUBORDINATE + 32, "the owner on the host");
    Ok(())
}

fn ids_that_are_not_granted_are_an_error_that_says_where(t: &T) -> Verdict {
    let user = User::new(t, false)?;
    let bundle = user.bundle()?.set("/linux/uidMappings", subordinate()).set("/linux/gidMappings", subordinate());
    user.run(&bundle)?.fails()?.stderr_has("newuidmap")?.stderr_has("/etc/subuid")?;
    Ok(())
}

fn the_network_is_the_hosts_or_the_containers_own(t: &T) -> Verdict {
    let user = User::new(t, false)?;
    let host = fs::read_link("/proc/self/ns/net").context("ns/net")?;
    let script = "readlink /proc/self/ns/net; ip link show lo | grep -c UP";
    let shared = user.run(&user.bundle()?.sh(script))?.ok()?;
    ensure_eq!(shared.lines()[0], host.display().to_string(), "the shared namespace");
    let own = user.bundle()?.set("/linux/namespaces", kinds(&["pid", "ipc", "uts", "mount", "network", "user"]));
    let own = user.run(&own.sh(script))?.ok()?;
    ensure!(own.lines()[0] != shared.lines()[0] && own.lines()[1] == "1", "its own, with lo up: {own}");
    Ok(())
}

/// The container does not own the network namespace of its sysfs, nor the IPC namespace of its mqueue.
fn filesystems_of_the_hosts_namespaces_are_bound(t: &T) -> Verdict {
    let user = User::new(t, false)?;
    let sys = json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]});
    let bundle = user.bundle()?.set("/mounts/4", sys).set("/linux/namespaces", kinds(&["pid", "uts", "mount", "user"]));
    let ran = user.run(&bundle.clone().sh("ls /sys; grep ' /sys ' /proc/self/mounts"))?.ok()?;
    ran.stdout_has("kernel")?.stdout_has("sysfs /sys sysfs ro")?;
    let explained = user.runs(&["explain", "--bundle", &bundle.dir.display().to_string()])?.ok()?;
    explained.stdout_has("or bind the host's")?.stdout_has("deny setgroups and write the id maps")?;
    Ok(())
}

fn cgroups_below_a_bound_sysfs_cannot_be_changed(t: &T) -> Verdict {
    let user = User::new(t, false)?;
    let ours = delegate("wl-delegated")?;
    let sys =
        json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev"]});
    let bundle = user.bundle()?.set("/mounts/4", sys).set("/linux/namespaces", kinds(&["pid", "uts", "mount", "user"]));
    let ran = user.run(&bundle.sh("mkdir /sys/fs/cgroup/wl-delegated/escaped 2>&1"))?;
    let made = ours.join("escaped").exists();
    fs::remove_dir(&ours).context("cgroup")?;
    ensure!(!made && ran.stdout.contains("Read-only"), "CVE-2023-25809: {ran}");
    Ok(())
}

fn exec_joins_and_delete_clears_away(t: &T) -> Verdict {
    let user = User::new(t, false)?;
    let dir = user.written(&user.bundle()?.args(&["/bin/sleep", "1000"]))?;
    let id = t.id();
    user.runs(&["create", "--bundle", &dir, &id])?.ok()?;
    user.runs(&["start", &id])?.ok()?;
    let script = "id -u; hostname; tr '\\0' ' ' </proc/1/cmdline";
    user.runs(&["exec", &id, "sh", "-c", script])?.ok()?.stdout_is("0\ninside\n/bin/sleep 1000 ")?;
    user.runs(&["exec", &id, "/no/such/program"])?.fails()?;
    user.runs(&["kill", &id, "KILL"])?.ok()?;
    crate::kit::wait::eventually("the end of the container", || {
        let ran = user.runs(&["state", &id]).ok()?;
        ran.stdout.contains("stopped").then_some(())
    })?;
    user.runs(&["delete", &id])?.ok()?;
    user.runs(&["state", &id])?.fails()?.stderr_has("does not exist")?;
    Ok(())
}

/// With a single id the kernel denies setgroups(2), and procfs shows that. But `/proc` belongs to the container.
fn exec_reads_nothing_that_stands_where_proc_was(t: &T) -> Verdict {
    let user = User::new(t, false)?;
    let script = "mount -t tmpfs tmpfs /proc && mkdir /proc/self && mkfifo /proc/self/setgroups && echo 1 >/tmp/made; sleep 1000";
    let powers = crate::kit::spec::capabilities(&["CAP_SYS_ADMIN", "CAP_SETGID", "CAP_SETUID"]);
    let bundle = user.bundle()?.sh(script).set("/process/capabilities", powers);
    let dir = user.written(&bundle)?;
    let id = t.id();
    user.runs(&["run", "--detach", "--bundle", &dir, &id])?.ok()?;
    let made = crate::kit::wait::eventually("a fifo", || {
        fs::read(bundle.rootfs().join("tmp/made")).ok().filter(|text| !text.is_empty())
    });
    // The reader of a fifo waits for a writer.
    let ran = made.and_then(|_| user.runs(&["exec", &id, "/bin/echo", "inside"]));
    user.runs(&["delete", "--force", &id])?.ok()?;
    ran?.ok()?.stdout_has("inside")?;
    Ok(())
}

fn devices_are_the_hosts(t: &T) -> Verdict {
    let user = User::new(t, false)?;
    let script =
        "echo x >/dev/null; head -c 4 /dev/zero | wc -c; head -c 4 /dev/urandom | wc -c; [ -c /dev/full ]; echo $?";
    user.run(&user.bundle()?.sh(script))?.ok()?.stdout_is("4\n4\n0\n")?;
    Ok(())
}

fn a_terminal_works_without_the_group_tty(t: &T) -> Verdict {
    let user = User::new(t, false)?;
    let dir = user.written(&user.bundle()?.args(&["/bin/sleep", "1000"]))?;
    let id = t.id();
    user.runs(&["run", "--detach", "--bundle", &dir, &id])?.ok()?;
    let shown = user.runs(&["exec", "--tty", &id, "tty"]);
    user.runs(&["delete", "--force", &id])?.ok()?;
    shown?.ok()?.stdout_has("/dev/pts/0")?;
    Ok(())
}

/// Makes a cgroup and delegates it to the user, as cgroups(7) describes.
fn delegate(name: &str) -> Verdict<PathBuf> {
    let dir = Path::new("/sys/fs/cgroup").join(name);
    fs::create_dir(&dir).context(dir.display())?;
    for file in [".", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
        chown(dir.join(file), Some(UID), Some(UID)).context(file)?;
    }
    Ok(dir)
}

fn without_delegation_a_limit_is_an_error_that_names_the_controller(t: &T) -> Verdict {
    let user = User::new(t, false)?;
    let limited = user.bundle()?.set("/linux/resources", json!({"pids": {"limit": 7}}));
    let ran = user.run(&limited)?.fails()?.stderr_has("the controller pids")?;
    ran.stderr_has("/linux/resources/pids/limit")?.stderr_has("Delegate=yes")?;
    Ok(())
}

/// The user's shell is in a cgroup below the delegated one; containers get cgroups beside it.
fn a_delegated_cgroup_is_found_and_limits_hold(t: &T) -> Verdict {
    let user = User::new(t, false)?;
    let top = delegate("wl-delegated")?;
    fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+pids").context("pids for it")?;
    let shell = top.join("shell");
    fs::create_dir(&shell).context("shell")?;
    for file in [".", "cgroup.procs"] {
        chown(shell.join(file), Some(UID), Some(UID)).context(file)?;
    }
    let limited = user.bundle()?.set("/linux/resources", json!({"pids": {"limit": 7}}));
    let dir = user.written(&limited.args(&["/bin/sleep", "1000"]))?;
    let id = t.id();
    // Acts like a login: the process is moved before its ids change.
    let login = format!("echo 0 >$0 && exec setpriv --reuid {UID} --regid {UID} --clear-groups \"$@\"");
    let inside = |words: &[&str]| -> Verdict<Ran> {
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(&login).arg(shell.join("cgroup.procs")).arg(user.runtime());
        command.arg("--root").arg(user.home.join("state")).args(words).stdin(Stdio::null()).current_dir(&user.home);
        t.finish(command)
    };
    inside(&["run", "--detach", "--bundle", &dir, &id])?.ok()?;
    let pid: i32 = inside(&["state", &id])?.json()?["pid"].as_i64().unwrap_or_default().try_into().unwrap_or(0);
    let own = cgroup::of_pid(pid)?;
    let held = text(own.join("pids.max"));
    let exec = inside(&["exec", &id, "cat", "/proc/self/cgroup"])?;
    let outside = user.runs(&["exec", &id, "true"])?;
    inside(&["pause", &id])?.ok()?;
    inside(&["delete", "--force", &id])?.ok()?;
    fs::remove_dir(&shell).and_then(|()| fs::remove_dir(&top)).context("cgroups")?;
    ensure_eq!(own, top.join(&id), "the container's cgroup");
    ensure_eq!(held, "7", "pids.max");
    exec.ok()?;
    outside.fails()?.stderr_has("no cgroup above both")?;
    Ok(())
}

/// Runs a program as podman does: the engine has made the user namespace, and the runtime is root in it.
fn below_an_engine(t: &T, user: &User<'_>, words: &[&str]) -> Verdict<Ran> {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "--propagation", "slave"]).args(words);
    command.stdin(Stdio::null()).current_dir(&user.home).uid(UID).gid(UID).env("XDG_RUNTIME_DIR", &user.home);
    t.finish(command)
}

/// A bundle for it, with these namespaces.
fn bundle_below_an_engine(user: &User<'_>, namespaces: &[&str]) -> Verdict<Bundle> {
    let bundle = user.bundle()?.set("/linux/namespaces", kinds(namespaces));
    Ok(bundle.unset("/linux/uidMappings").unset("/linux/gidMappings"))
}

fn root_of_a_user_namespace_runs_containers(t: &T) -> Verdict {
    let user = User::new(t, false)?;
    let bundle = bundle_below_an_engine(&user, &["pid", "ipc", "uts", "mount", "network"])?;
    let dir = user.written(&bundle.sh("id -u; [ -c /dev/null ]; echo $?"))?;
    let (runtime, root) = (user.runtime().display().to_string(), user.home.join("state").display().to_string());
    let ran = below_an_engine(t, &user, &[&runtime, "--root", &root, "run", "--bundle", &dir, &t.id()])?;
    ran.ok()?.stdout_is("0\n0\n")?;
    Ok(())
}

/// The user namespace does not own the PID namespace of the runtime, so the runtime may not mount a procfs of that
/// namespace.
fn root_of_a_user_namespace_has_a_terminal_in_exec(t: &T) -> Verdict {
    let user = User::new(t, true)?;
    let (runtime, root) = (user.runtime().display().to_string(), user.home.join("state").display().to_string());
    // With its own PID namespace, and in that of the host.
    for namespaces in [&["pid", "ipc", "uts", "mount", "network"][..], &["ipc", "uts", "mount", "network"]] {
        let mut bundle = bundle_below_an_engine(&user, namespaces)?.args(&["/bin/sleep", "1000"]);
        if !namespaces.contains(&"pid") {
            // A procfs of the host's PID namespace cannot be mounted either.
            bundle = bundle.edit(|spec| {
                let mounts = spec["mounts"].as_array_mut().into_iter();
                mounts.for_each(|mounts| mounts.retain(|mount| mount["destination"] != "/proc"));
            });
        }
        let dir = user.written(&bundle)?;
        let script = "w=\"$0 --root $1\"; $w run --detach --bundle \"$2\" \"$3\" && $w exec --tty \"$3\" sh -c '[ -t 0 ] && echo a terminal'; \
            code=$?; \
            $w delete --force \"$3\"; exit $code";
        // With many ids, and with a single one, where the kernel denies setgroups(2).
        for ids in ["--map-auto", "--map-root-user"] {
            let ran = below_an_engine(t, &user, &[ids, "sh", "-c", script, &runtime, &root, &dir, &t.id()])?;
            ran.ok()?.stdout_has("a terminal")?;
        }
    }
    Ok(())
}

fn a_user_without_a_user_namespace_is_told_so(t: &T) -> Verdict {
    let user = User::new(t, false)?;
    let bundle = user.bundle()?.unset("/linux/uidMappings").unset("/linux/gidMappings");
    let bundle = bundle.set("/linux/namespaces", kinds(&["pid", "mount"]));
    user.run(&bundle)?.fails()?.stderr_has("requires user namespaces")?.stderr_has("/linux/namespaces")?;
    Ok(())
}

fn the_doctor_sees_what_a_user_lacks(t: &T) -> Verdict {
    let user = User::new(t, false)?;
    let ran = user.runs(&["doctor"])?.ok()?;
    ran.stdout_has("limited  subordinate ids")?.stdout_has("usermod --add-subuids")?;
    let mut command = user.command();
    command.args(["--root", "/proc/no", "doctor", "--json"]).env_remove("XDG_RUNTIME_DIR");
    let ran = t.finish(command)?.code_is(1)?;
    ensure_eq!(ran.json()?["ok"], json!(false), "its verdict");
    Ok(())
}
