//! `checkpoint` and `restore` by a real CRIU.

use crate::chapter;
use crate::kit::Need::{Criu, Slow, Windlass};
use crate::kit::console::FdSocket;
use crate::kit::criu::{COUNTING, Images, count, counts_on, start};
use crate::kit::machine::text;
use crate::kit::stop::Context;
use crate::kit::wait::eventually;
use crate::kit::{Bundle, Container, T, Verdict, cgroup};
use crate::{ensure, ensure_eq};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

chapter! { "checkpoint":
    a_container_counts_on_after_two_rounds [Windlass, Criu, Slow],
    a_container_that_is_left_running_goes_on [Windlass, Criu, Slow],
    a_dumped_container_is_gone [Windlass, Criu],
    binds_are_the_host_s_again [Windlass, Criu, Slow],
    a_user_namespace_with_its_cgroup_mount_comes_back [Windlass, Criu, Slow],
    isolation_is_the_same_afterwards [Windlass, Criu, Slow],
}

/// A container that counts.
fn counting(t: &T) -> Verdict<Bundle> {
    Ok(t.bundle()?.sh(COUNTING))
}

/// Starts a container, lets it count, and dumps it.
fn dumped<'t>(t: &'t T, bundle: &Bundle, options: &[&str]) -> Verdict<(Images<'t>, u32)> {
    let container = start(t, bundle)?;
    counts_on(bundle, 1)?;
    let images = Images::new(t);
    images.dump(&container, options)?;
    Ok((images, count(bundle)))
}

/// Dumps and restores a container twice; it counts on each time.
fn comes_back<'t>(t: &'t T, bundle: &Bundle, options: &[&str]) -> Verdict<Container<'t>> {
    let (images, at) = dumped(t, bundle, options)?;
    let container = images.restore(bundle, options)?;
    container.status_is("running")?;
    let at = counts_on(bundle, at)?;
    let again = Images::new(t);
    again.dump(&container, options).context("the second dump")?;
    let container = again.restore(bundle, options).context("the second restore")?;
    counts_on(bundle, at)?;
    container.exec(&["/bin/true"])?;
    Ok(container)
}

fn a_container_counts_on_after_two_rounds(t: &T) -> Verdict {
    let bundle = counting(t)?;
    let container = comes_back(t, &bundle, &[])?;
    container.stop()?;
    container.delete()?;
    Ok(())
}

fn a_container_that_is_left_running_goes_on(t: &T) -> Verdict {
    let bundle = counting(t)?;
    let container = start(t, &bundle)?;
    let at = counts_on(&bundle, 1)?;
    let images = Images::new(t);
    images.dump(&container, &["--leave-running"])?;
    container.status_is("running")?;
    counts_on(&bundle, at)?;
    container.verb("pause", &[], &[])?.ok()?;
    Images::new(t).dump(&container, &["--leave-running"])?;
    container.status_is("paused")?;
    container.verb("resume", &[], &[])?.ok()?;
    container.stop()?;
    container.delete()?;
    images.restore(&bundle, &[])?;
    counts_on(&bundle, at)?;
    Ok(())
}

fn a_dumped_container_is_gone(t: &T) -> Verdict {
    let bundle = counting(t)?;
    let container = start(t, &bundle)?;
    counts_on(&bundle, 1)?;
    let dir = cgroup::of(&container)?;
    let images = Images::new(t);
    images.dump(&container, &["--work-path", &t.path("work").display().to_string()])?;
    for name in ["inventory.img", "pstree.img", "descriptors.json"] {
        ensure!(images.dir.join(name).exists(), "there is no {name}");
    }
    for name in ["dump.log", "stats-dump"] {
        ensure!(t.path("work").join(name).exists(), "there is no {name} in the work directory");
    }
    ensure!(!dir.exists(), "the cgroup is still there");
    container.verb("state", &[], &[])?.code_is(1)?.stderr_has("container does not exist")?;
    container.verb("delete", &[], &[])?.code_is(1)?.stderr_has("does not exist")?;
    container.verb("delete", &["--force"], &[])?.ok()?;
    Ok(())
}

fn binds_are_the_host_s_again(t: &T) -> Verdict {
    // A filesystem of its own: the harness has single files of its tmpfs below /dev, which are peers of the whole.
    let disk = t.path("disk");
    fs::create_dir_all(&disk).context("disk")?;
    t.host("mount", &["-t", "tmpfs", "disk", &disk.display().to_string()])?;
    let (data, file) = (disk.join("data"), disk.join("file"));
    fs::create_dir_all(data.join("sub")).context("data")?;
    fs::write(&file, "of the host").context("file")?;
    let bundle = counting(t)?
        .bind(&data, "/real/data", &["bind"])
        .bind(&file, "/link/file", &["bind", "ro"])
        .bind(Path::new("/sys/kernel"), "/kernel", &["rbind", "ro"])
        .mount(json!({"destination": "/run", "type": "tmpfs", "source": "tmpfs"}))
        .bind(&data, "/run/data", &["bind", "ro"]);
    fs::create_dir_all(bundle.rootfs().join("real")).context("rootfs")?;
    std::os::unix::fs::symlink("/real", bundle.rootfs().join("link")).context("link")?;
    let container = comes_back(t, &bundle, &[])?;
    container.exec_sh("echo inside >/real/data/sub/x; cat /link/file /run/data/sub/x")?.stdout_has("of the host")?;
    ensure_eq!(text(data.join("sub/x")).trim(), "inside", "what the container writes");
    container.try_exec(&[], &["/bin/touch", "/run/data/y"])?.fails()?;
    container.try_exec(&[], &["/bin/touch", "/link/file"])?.fails()?;
    container.verb("delete", &["--force"], &[])?.ok()?;
    t.host("umount", &[&disk.display().to_string()])?;
    Ok(())
}

/// With a user namespace, as engines make it.
fn in_a_user_namespace(bundle: Bundle) -> Bundle {
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    chown(&bundle.rootfs());
    bundle
        .namespace("user", Some(json!({"type": "user"})))
        .set("/linux/uidMappings", map.clone())
        .set("/linux/gidMappings", map)
}

/// Makes the directory the container's own.
fn chown(dir: &Path) {
    let _ = std::os::unix::fs::chown(dir, Some(100_000), Some(100_000));
}

fn cgroup_mount() -> Value {
    json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "nodev", "noexec"]})
}

fn a_user_namespace_with_its_cgroup_mount_comes_back(t: &T) -> Verdict {
    let bundle = in_a_user_namespace(counting(t)?).mount(cgroup_mount());
    let container = comes_back(t, &bundle, &[])?;
    let seen = container.exec_sh("cat /proc/self/uid_map; cat /proc/self/cgroup; cat /sys/fs/cgroup/cgroup.procs")?;
    seen.stdout_has("100000")?.stdout_has("0::/\n")?.stdout_has("1\n")?;
    Ok(())
}

/// What separates a container from the host, as the host sees it.
fn isolation(container: &Container) -> Verdict<Vec<String>> {
    let pid = container.pid()?;
    let status = text(format!("/proc/{pid}/status"));
    let wanted = ["Uid", "Gid", "Groups", "Cap", "NoNewPrivs", "Seccomp", "CoreDumping", "NSpid"];
    let mut seen: Vec<String> = status
        .lines()
        .filter(|line| wanted.iter().any(|name| line.starts_with(name)) && !line.starts_with("NSpid"))
        .map(str::to_owned)
        .collect();
    for line in text(format!("/proc/{pid}/mountinfo")).lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let kind = words.iter().skip_while(|word| **word != "-").nth(1).copied().unwrap_or_default();
        // Whether it is a slave of the host's shows in a number that the host gives.
        let root = if kind == "cgroup2" { "" } else { words[3] };
        seen.push(format!("{root} on {} {} {kind}", words[4], words[5]));
    }
    seen.sort();
    for kind in ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"] {
        let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap_or_default();
        seen.push(format!("own {kind} namespace: {}", of(&pid.to_string()) != of("self")));
    }
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).context("fd")?.flatten();
    let mut descriptors: Vec<String> = descriptors.map(|it| it.file_name().to_string_lossy().into_owned()).collect();
    descriptors.sort();
    seen.push(format!("descriptors {descriptors:?}"));
    Ok(seen)
}

fn isolation_is_the_same_afterwards(t: &T) -> Verdict {
    let filter = json!({"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]});
    let bundles = [
        counting(t)?.mount(cgroup_mount()).set("/linux/seccomp", filter),
        counting(t)?.unset("/process/noNewPrivileges"),
    ];
    for bundle in bundles {
        fs::set_permissions(bundle.rootfs(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).context("rootfs")?;
        let container = start(t, &bundle)?;
        counts_on(&bundle, 1)?;
        // The shell has made its first child by now, and has no more descriptors open than between two of them.
        let before = eventually("a quiet moment", || isolation(&container).ok())?;
        let images = Images::new(t);
        images.dump(&container, &[])?;
        let container = images.restore(&bundle, &[])?;
        ensure_eq!(isolation(&container)?, before, "what separates the container");
    }
    let _ = FdSocket::new;
    Ok(())
}
