//! config-linux.md, "Namespaces" and "User namespace mappings".

use crate::kit::console::FdSocket;
use crate::kit::machine::{field, text};
use crate::kit::stop::Context;
use crate::kit::wait::eventually;
use crate::kit::{Bundle, Need, T, Verdict};
use crate::{chapter, ensure, ensure_eq};
use serde_json::json;
use std::fs;

chapter! { "namespaces":
    listed_namespaces_are_new,
    unlisted_namespaces_are_the_callers,
    a_namespace_is_joined_by_its_path,
    every_kind_is_joined_by_its_path,
    a_pid_namespace_joined_by_path_has_another_init,
    a_path_of_another_kind_is_refused,
    a_missing_path_is_refused,
    a_duplicate_namespace_is_refused,
    an_unknown_namespace_is_refused,
    no_namespaces_but_mount_works,
    loopback_is_up_in_a_new_network_namespace,
    a_user_namespace_has_its_mappings,
    a_user_namespace_with_all_others,
    a_user_namespace_of_a_user_process,
    a_user_namespace_without_mappings_is_refused,
    mappings_without_a_user_namespace_are_refused,
    a_user_namespace_is_joined_by_its_path,
    sysctls_are_set_without_a_procfs_of_ones_own,
    terminals_work_without_a_procfs_of_ones_own,
    devices_work_in_a_user_namespace,
    bound_devices_are_for_nothing_else,
    exec_enters_the_user_namespace,
    setgroups_stays_allowed_for_root_made_namespaces,
    the_callers_groups_stay_out_of_a_user_namespace_that_denies_setgroups [Need::Windlass],
    a_network_namespace_of_another_user_namespace_is_joined,
    time_offsets_apply [Need::TimeNamespace],
    time_offsets_apply_to_exec [Need::TimeNamespace],
    time_offsets_without_a_time_namespace_are_refused [Need::TimeNamespace],
}

const KINDS: [(&str, &str); 6] =
    [("pid", "pid"), ("network", "net"), ("ipc", "ipc"), ("uts", "uts"), ("mount", "mnt"), ("cgroup", "cgroup")];

fn own(file: &str) -> Verdict<String> {
    Ok(fs::read_link(format!("/proc/self/ns/{file}"))?.display().to_string())
}

fn listed_namespaces_are_new(t: &T) -> Verdict {
    let ran = t.run_sh("ls -l /proc/self/ns")?.ok()?;
    for (kind, file) in KINDS {
        ensure!(!ran.stdout.contains(&own(file)?), "the {kind} namespace is the caller's");
    }
    Ok(())
}

fn unlisted_namespaces_are_the_callers(t: &T) -> Verdict {
    for kind in ["network", "ipc", "uts", "cgroup"] {
        let mut bundle = t.bundle()?.namespace(kind, None);
        if kind == "uts" {
            bundle = bundle.unset("/hostname");
        }
        let file = KINDS.iter().find(|(name, _)| *name == kind).map_or("", |(_, file)| file);
        let ran = t.run(&bundle.args(&["/bin/readlink", &format!("/proc/self/ns/{file}")]))?.ok().context(kind)?;
        ensure_eq!(ran.stdout.trim(), own(file)?, "{kind}");
    }
    Ok(())
}

fn join(bundle: Bundle, kind: &str, path: &str) -> Bundle {
    bundle.namespace(kind, Some(json!({"type": kind, "path": path})))
}

fn a_namespace_is_joined_by_its_path(t: &T) -> Verdict {
    let other = t.running()?;
    let path = format!("/proc/{}/ns/net", other.pid()?);
    let wanted = fs::read_link(&path)?.display().to_string();
    let ran = t.run(&join(t.bundle()?, "network", &path).args(&["/bin/readlink", "/proc/self/ns/net"]))?.ok()?;
    ensure_eq!(ran.stdout.trim(), wanted, "network namespace");
    Ok(())
}

fn every_kind_is_joined_by_its_path(t: &T) -> Verdict {
    let other = t.running()?;
    let pid = other.pid()?;
    for (kind, file) in KINDS.iter().filter(|(kind, _)| !["mount", "pid"].contains(kind)) {
        let path = format!("/proc/{pid}/ns/{file}");
        let wanted = fs::read_link(&path)?.display().to_string();
        let mut bundle = join(t.bundle()?, kind, &path).args(&["/bin/readlink", &format!("/proc/self/ns/{file}")]);
        if *kind == "uts" {
            bundle = bundle.unset("/hostname");
        }
        let ran = t.run(&bundle)?.ok().context(kind)?;
        ensure_eq!(ran.stdout.trim(), wanted, "{kind}");
    }
    Ok(())
}

fn a_pid_namespace_joined_by_path_has_another_init(t: &T) -> Verdict {
    let other = t.running()?;
    let bundle = join(t.bundle()?, "pid", &format!("/proc/{}/ns/pid", other.pid()?))
        .sh("echo $$; tr '\\0' ' ' </proc/1/cmdline");
    let ran = t.run(&bundle)?.ok()?;
    ensure!(!ran.stdout.starts_with("1\n"), "the payload is PID 1: {}", ran.stdout);
    ran.stdout_has("sleep 1000")?;
    Ok(())
}

fn a_path_of_another_kind_is_refused(t: &T) -> Verdict {
    let other = t.running()?;
    t.run(&join(t.bundle()?, "network", &format!("/proc/{}/ns/ipc", other.pid()?)))?.code_is(1)?;
    Ok(())
}

fn a_missing_path_is_refused(t: &T) -> Verdict {
    t.run(&join(t.bundle()?, "network", "/no/such/namespace"))?.code_is(1)?.stderr_has("/no/such/namespace")?;
    Ok(())
}

fn a_duplicate_namespace_is_refused(t: &T) -> Verdict {
    t.run(&t.bundle()?.set("/linux/namespaces/-", json!({"type": "pid"})))?.code_is(1)?.stderr_has("pid")?;
    Ok(())
}

fn an_unknown_namespace_is_refused(t: &T) -> Verdict {
    t.run(&t.bundle()?.set("/linux/namespaces/-", json!({"type": "no-such-kind"})))?.code_is(1)?;
    Ok(())
}

fn no_namespaces_but_mount_works(t: &T) -> Verdict {
    let bundle = t.bundle()?.set("/linux/namespaces", json!([{"type": "mount"}])).unset("/hostname");
    // A new sysfs needs CAP_SYS_ADMIN over its network namespace, which is the host's here. Root of the host has it.
    t.run(&bundle.sh("echo fine"))?.ok()?.stdout_is("fine\n")?;
    Ok(())
}

fn loopback_is_up_in_a_new_network_namespace(t: &T) -> Verdict {
    let ran = t.run(&t.bundle()?.args(&["/bin/ip", "link", "show", "lo"]))?.ok()?;
    ran.stdout_has("UP")?;
    Ok(())
}

/// A user namespace with 0 mapped to 100000.
pub(super) fn user_namespace(t: &T) -> Verdict<Bundle> {
    let mapping = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    let bundle = t.bundle()?.namespace("user", Some(json!({"type": "user"})));
    // The mapped root must be able to reach and own the root file system.
    for entry in walk(&bundle.rootfs()) {
        std::os::unix::fs::lchown(&entry, Some(100_000), Some(100_000))?;
    }
    for dir in bundle.dir.ancestors().take(3) {
        fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    }
    Ok(bundle.set("/linux/uidMappings", mapping.clone()).set("/linux/gidMappings", mapping))
}

/// A directory and its content, without busybox, which all bundles share.
fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = vec![dir.to_owned()];
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(walk(&entry.path()));
        } else if entry.file_name() != "busybox" {
            found.push(entry.path());
        }
    }
    found
}

fn a_user_namespace_has_its_mappings(t: &T) -> Verdict {
    let bundle = user_namespace(t)?.sh("id -u; awk '{print $1,$2,$3}' /proc/self/uid_map /proc/self/gid_map");
    t.run(&bundle)?.ok()?.stdout_is("0\n0 100000 65536\n0 100000 65536\n")?;
    Ok(())
}

fn a_user_namespace_with_all_others(t: &T) -> Verdict {
    let container = t.start(&user_namespace(t)?.sh("touch /tmp/made && hostname && echo ready; sleep 1000"))?;
    container.wait_for_output("inside\nready")?;
    let status = crate::kit::machine::text(format!("/proc/{}/status", container.pid()?));
    ensure!(crate::kit::machine::field(&status, "Uid").starts_with("100000"), "host's view of the uid");
    let owner = fs::read_link(format!("/proc/{}/ns/user", container.pid()?))?.display().to_string();
    ensure!(owner != own("user")?, "the user namespace is the caller's");
    Ok(())
}

fn a_user_namespace_of_a_user_process(t: &T) -> Verdict {
    let bundle = user_namespace(t)?.set("/process/user", json!({"uid": 1000, "gid": 1000, "additionalGids": [5]}));
    t.run(&bundle.sh("id -u; id -g; grep Groups /proc/self/status"))?.ok()?.stdout_has("1000\n1000\nGroups:\t5")?;
    Ok(())
}

fn a_user_namespace_without_mappings_is_refused(t: &T) -> Verdict {
    t.run(&t.bundle()?.namespace("user", Some(json!({"type": "user"}))))?.code_is(1)?;
    Ok(())
}

fn mappings_without_a_user_namespace_are_refused(t: &T) -> Verdict {
    let mapping = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    t.run(&t.bundle()?.set("/linux/uidMappings", mapping.clone()).set("/linux/gidMappings", mapping))?.code_is(1)?;
    Ok(())
}

fn a_user_namespace_is_joined_by_its_path(t: &T) -> Verdict {
    let other = t.start(&user_namespace(t)?.args(&["/bin/sleep", "1000"]))?;
    let path = format!("/proc/{}/ns/user", other.pid()?);
    let bundle = user_namespace(t)?.unset("/linux/uidMappings").unset("/linux/gidMappings");
    let bundle = join(bundle, "user", &path).sh("readlink /proc/self/ns/user; id -u");
    let ran = t.run(&bundle)?.ok()?;
    ensure_eq!(ran.stdout, format!("{}\n0\n", fs::read_link(&path)?.display()), "namespace and uid");
    Ok(())
}

/// A user namespace in the caller's PID namespace, which may not mount a procfs: with nothing on `/proc`, or with
/// something else there.
fn without_proc(t: &T) -> Verdict<Vec<Bundle>> {
    let bundle = super::sources::user_namespace(t)?.namespace("pid", None);
    let bundle = bundle.set("/linux/sysctl", json!({"net.ipv4.ping_group_range": "0 7"}));
    let fake = super::security::fake_proc(t)?;
    let none = bundle.clone().edit(|spec| {
        spec["mounts"].as_array_mut().into_iter().for_each(|mounts| mounts.retain(|m| m["destination"] != "/proc"))
    });
    let another = none.clone().bind(&fake, "/proc", &["rbind"]);
    Ok(vec![bundle, none, another])
}

fn sysctls_are_set_without_a_procfs_of_ones_own(t: &T) -> Verdict {
    for bundle in without_proc(t)? {
        let bundle = bundle.args(&["/bin/sleep", "1000"]);
        let container = t.start(&bundle)?;
        let pid = container.pid()?.to_string();
        let range = t.host("nsenter", &["-t", &pid, "-n", "cat", "/proc/sys/net/ipv4/ping_group_range"])?;
        ensure_eq!(range, "100000\t100007\n", "the parameter");
    }
    Ok(())
}

fn terminals_work_without_a_procfs_of_ones_own(t: &T) -> Verdict {
    for bundle in without_proc(t)? {
        let socket = FdSocket::new(t.path(&t.id()))?;
        let bundle = bundle.set("/process/terminal", json!(true)).sh("echo first; exec sleep 1000");
        let container = t.create_with(&bundle, &["--console-socket", socket.arg()])?;
        let mut terminal = socket.terminal()?;
        container.start()?;
        terminal.read_until("first")?;
        let options = ["--detach", "--tty", "--console-socket", socket.arg()];
        container.try_exec(&options, &["/bin/sh", "-c", "echo second; exec sleep 1000"])?.ok()?;
        socket.terminal()?.read_until("second")?;
    }
    Ok(())
}

fn devices_work_in_a_user_namespace(t: &T) -> Verdict {
    let script = "echo x >/dev/null && head -c 4 /dev/zero | wc -c; stat -c %t,%T /dev/null";
    t.run(&user_namespace(t)?.sh(script))?.ok()?.stdout_is("4\n1,3\n")?;
    Ok(())
}

fn bound_devices_are_for_nothing_else(t: &T) -> Verdict {
    let ran = t.run(&user_namespace(t)?.args(&["/bin/cat", "/proc/self/mountinfo"]))?.ok()?;
    for device in ["/dev/null", "/dev/tty"] {
        let line = ran.stdout.lines().find(|line| line.split(' ').nth(4) == Some(device)).unwrap_or_default();
        let options = line.split(' ').nth(5).unwrap_or_default();
        ensure!(["nosuid", "noexec"].iter().all(|flag| options.split(',').any(|o| o == *flag)), "{device}: {line}");
    }
    Ok(())
}

fn exec_enters_the_user_namespace(t: &T) -> Verdict {
    let container = t.start(&user_namespace(t)?.args(&["/bin/sleep", "1000"]))?;
    container.exec_sh("id -u; awk '{print $2}' /proc/self/uid_map")?.stdout_is("0\n100000\n")?;
    container.try_exec(&["--user", "7:8"], &["/bin/sh", "-c", "id -u; id -g"])?.ok()?.stdout_is("7\n8\n")?;
    // One without an id 0.
    let mapping = json!([{"containerID": 1000, "hostID": 100_000, "size": 1}]);
    let bundle = user_namespace(t)?.set("/linux/uidMappings", mapping.clone()).set("/linux/gidMappings", mapping);
    let bundle = bundle.set("/process/user", json!({"uid": 1000, "gid": 1000})).args(&["/bin/sleep", "1000"]);
    let container = t.start(&bundle)?;
    container.exec_sh("id -u; id -g")?.stdout_is("1000\n1000\n")?;
    Ok(())
}

fn setgroups_stays_allowed_for_root_made_namespaces(t: &T) -> Verdict {
    t.run(&user_namespace(t)?.args(&["/bin/cat", "/proc/self/setgroups"]))?.ok()?.stdout_is("allow\n")?;
    Ok(())
}

/// Init may enter a user namespace of its own making, and deny setgroups(2) in it.
fn the_callers_groups_stay_out_of_a_user_namespace_that_denies_setgroups(t: &T) -> Verdict {
    const NUMBERS: &str = "4,24,4242";
    let bundle = user_namespace(t)?.set("/process/user", json!({"uid": 1000, "gid": 1000}));
    let init = t.start(&bundle.args(&["/bin/unshare", "-r", "/bin/sleep", "1000"]))?;
    let denies = || (text(format!("/proc/{}/setgroups", init.pid().ok()?)) == "deny").then_some(());
    eventually("init has denied setgroups", denies)?;
    let with_groups = |words: &[&std::ffi::OsStr]| {
        let mut command = std::process::Command::new("setpriv");
        command.args(["--groups", NUMBERS]).arg(&t.runtime).arg("--root").arg(t.root()).args(words);
        command.stdin(std::process::Stdio::null());
        t.finish(command)
    };
    let words = ["exec", "--user", "0:0", &init.id, "/bin/grep", "Groups", "/proc/self/status"];
    let ran = with_groups(&words.map(std::ffi::OsStr::new))?.ok()?;
    ensure_eq!(field(&ran.stdout, "Groups"), "", "the caller's groups are in the exec");
    // As does a new container that joins such a namespace.
    let mut other = std::process::Command::new("unshare").args(["-r", "sleep", "1000"]).spawn()?;
    let denies = || (text(format!("/proc/{}/setgroups", other.id())) == "deny").then_some(());
    let denied = eventually("the other has denied setgroups", denies);
    let bundle = join(t.bundle()?, "user", &format!("/proc/{}/ns/user", other.id()));
    // The group of its devpts is not mapped.
    let bundle = bundle.edit(|spec| {
        spec["mounts"].as_array_mut().into_iter().for_each(|mounts| mounts.retain(|m| m["destination"] != "/dev/pts"))
    });
    let bundle = bundle.args(&["/bin/grep", "Groups", "/proc/self/status"]);
    bundle.write()?;
    let id = t.id();
    let ran = with_groups(&["run".as_ref(), "--bundle".as_ref(), bundle.dir.as_ref(), id.as_ref()]);
    other.kill()?;
    other.wait()?;
    denied?;
    ensure_eq!(field(&ran?.ok()?.stdout, "Groups"), "", "the caller's groups are in the container");
    Ok(())
}

fn a_network_namespace_of_another_user_namespace_is_joined(t: &T) -> Verdict {
    // As in a pod, the first container owns both namespaces, and the second joins both.
    let other = t.start(&user_namespace(t)?.args(&["/bin/sleep", "1000"]))?;
    let pid = other.pid()?;
    let bundle = user_namespace(t)?.unset("/linux/uidMappings").unset("/linux/gidMappings");
    let bundle = join(join(bundle, "user", &format!("/proc/{pid}/ns/user")), "network", &format!("/proc/{pid}/ns/net"));
    let ran = t.run(&bundle.args(&["/bin/readlink", "/proc/self/ns/net"]))?.ok()?;
    ensure_eq!(
        ran.stdout.trim(),
        fs::read_link(format!("/proc/{pid}/ns/net"))?.display().to_string(),
        "network namespace"
    );
    Ok(())
}

fn time_namespace(t: &T) -> Verdict<Bundle> {
    let offsets = json!({"monotonic": {"secs": 1_000_000, "nanosecs": 5}, "boottime": {"secs": 2_000_000}});
    Ok(t.bundle()?.namespace("time", Some(json!({"type": "time"}))).set("/linux/timeOffsets", offsets))
}

/// The offsets as the kernel shows them, blanks squeezed.
const OFFSETS: &str = "awk '{print $1,$2,$3}' /proc/self/timens_offsets; cut -d. -f1 /proc/uptime";

fn check_offsets(stdout: &str) -> Verdict {
    ensure!(stdout.contains("monotonic 1000000 5\nboottime 2000000 0\n"), "offsets {stdout:?}");
    let uptime: u64 = stdout.lines().last().unwrap_or_default().parse().unwrap_or(0);
    ensure!(uptime >= 2_000_000, "uptime {uptime}");
    Ok(())
}

fn time_offsets_apply(t: &T) -> Verdict {
    check_offsets(&t.run(&time_namespace(t)?.sh(OFFSETS))?.ok()?.stdout)
}

fn time_offsets_apply_to_exec(t: &T) -> Verdict {
    let container = t.start(&time_namespace(t)?.args(&["/bin/sleep", "1000"]))?;
    check_offsets(&container.exec_sh(OFFSETS)?.stdout)
}

fn time_offsets_without_a_time_namespace_are_refused(t: &T) -> Verdict {
    t.run(&time_namespace(t)?.namespace("time", None))?.code_is(1)?;
    Ok(())
}
