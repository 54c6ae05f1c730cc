//! `checkpoint` and `restore` by a real CRIU.

use crate::chapter;
use crate::kit::Need::{Criu, Slow, TimeNamespace, Windlass};
use crate::kit::console::{FdSocket, wait_readable};
use crate::kit::criu::{COUNTING, Images, count, counts_on, dumped_at_terminal, echoes, start};
use crate::kit::machine::text;
use crate::kit::stop::{Context, skip};
use crate::kit::wait::eventually;
use crate::kit::{Bundle, Container, Stop, T, Verdict, cgroup};
use crate::{ensure, ensure_eq};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

chapter! { "checkpoint":
    a_container_counts_on_after_two_rounds [Windlass, Criu, Slow],
    a_container_that_is_left_running_goes_on [Windlass, Criu, Slow],
    a_dumped_container_is_gone [Windlass, Criu],
    binds_are_the_host_s_again [Windlass, Criu, Slow],
    a_read_only_root_is_read_only_again [Windlass, Criu, Slow],
    a_user_namespace_with_its_cgroup_mount_comes_back [Windlass, Criu, Slow],
    mounts_on_mounts_come_back_in_a_user_namespace [Windlass, Criu, Slow],
    images_are_read_by_two_user_namespaces_at_once [Windlass, Criu, Slow],
    isolation_is_the_same_afterwards [Windlass, Criu, Slow],
    a_pipe_of_the_caller_is_replaced_by_the_next_one [Windlass, Criu, Slow],
    a_terminal_comes_back_at_the_console_socket [Windlass, Criu, Slow],
    in_the_foreground_its_exit_code_is_ours [Windlass, Criu, Slow],
    a_process_that_nobody_waited_for_comes_back [Windlass, Criu, Slow],
    three_processes_and_their_memory_come_back [Windlass, Criu, Slow],
    a_tcp_connection_goes_on_if_it_is_asked_for [Windlass, Criu, Slow],
    what_exec_leaves_behind_in_a_restored_container_comes_back [Windlass, Criu, Slow],
    what_exec_has_started_is_named_and_left_out [Windlass, Criu, Slow],
    namespaces_by_path_are_those_of_now [Windlass, Criu, Slow],
    clocks_of_a_time_namespace_go_on [Windlass, Criu, Slow, TimeNamespace],
    locks_of_files_need_their_flag [Windlass, Criu, Slow],
    an_idmapped_bind_is_mapped_again [Windlass, Criu, Slow],
    check_names_what_cannot_be_dumped [Windlass, Slow],
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

/// Dumps and restores a container twice. It goes on counting each time.
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
    let _restored = images.restore(&bundle, &[])?;
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
    // Its own filesystem: the harness has single files of its tmpfs below /dev, which are peers of the whole.
    let disk = t.path("disk");
    fs::create_dir_all(&disk).context("disk")?;
    t.host("mount", &["-t", "tmpfs", "disk", &disk.display().to_string()])?;
    let (data, file) = (disk.join("data"), disk.join("file"));
    fs::create_dir_all(data.join("sub")).context("data")?;
    fs::write(&file, "of the host").context("file")?;
    let shown = disk.join("shown");
    let below = shown.join("below").display().to_string();
    fs::create_dir_all(&below).context("below")?;
    t.host("mount", &["-t", "tmpfs", "below", &below])?;
    let bundle = counting(t)?
        .bind(&data, "/real/data", &["bind"])
        .bind(&file, "/link/file", &["bind", "ro"])
        .bind(Path::new("/sys/kernel"), "/kernel", &["rbind", "ro"])
        .mount(json!({"destination": "/run", "type": "tmpfs", "source": "tmpfs"}))
        .bind(&data, "/run/data", &["bind", "ro"])
        // CRIU takes the two mounts for one, and a filesystem below them keeps its flags.
        .bind(&shown, "/one", &["rbind", "ro"])
        .bind(&shown, "/other", &["rbind", "ro"]);
    fs::create_dir_all(bundle.rootfs().join("real")).context("rootfs")?;
    std::os::unix::fs::symlink("/real", bundle.rootfs().join("link")).context("link")?;
    let container = comes_back(t, &bundle, &[])?;
    container.exec_sh("echo inside >/real/data/sub/x; cat /link/file /run/data/sub/x")?.stdout_has("of the host")?;
    ensure_eq!(text(data.join("sub/x")).trim(), "inside", "what the container writes");
    container.try_exec(&[], &["/bin/touch", "/run/data/y"])?.fails()?;
    for path in ["/link/file", "/one/x", "/other/x"] {
        container.try_exec(&[], &["/bin/touch", path])?.fails().context(path)?;
    }
    container.exec(&["/bin/touch", "/one/below/x"])?;
    container.verb("delete", &["--force"], &[])?.ok()?;
    t.host("umount", &[&below, &disk.display().to_string()])?;
    Ok(())
}

/// The container has a user namespace, as engines make it.
/// A program that stays after a restore, which interrupts what it waits for: the sleep of busybox 1.37 ends.
const RESTORABLE: &str = "exec tail -f /dev/null";

fn a_read_only_root_is_read_only_again(t: &T) -> Verdict {
    let read_only = |bundle: Bundle| bundle.sh(RESTORABLE).set("/root/readonly", json!(true));
    let user = in_a_user_namespace(read_only(t.bundle()?));
    chown(&user.rootfs());
    for bundle in [read_only(t.bundle()?), user] {
        let images = Images::new(t);
        images.dump(&start(t, &bundle)?, &[])?;
        for options in [&[][..], &["--trust-images"]] {
            let container = images.restore(&bundle, options)?;
            let seen = container.try_exec(&[], &["/bin/sh", "-c", "echo x >/new"])?;
            ensure!(seen.code != 0, "the root can be written to");
            container.stop()?;
            container.delete()?;
        }
    }
    Ok(())
}

pub(super) fn in_a_user_namespace(bundle: Bundle) -> Bundle {
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    chown(&bundle.rootfs());
    bundle
        .namespace("user", Some(json!({"type": "user"})))
        .set("/linux/uidMappings", map.clone())
        .set("/linux/gidMappings", map)
}

/// Gives the directory to root of the container.
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

/// CRIU copies each mount without those on it, which the kernel refuses in a user namespace. It also has the rights of
/// the container's root alone, who cannot reach every source.
fn mounts_on_mounts_come_back_in_a_user_namespace(t: &T) -> Verdict {
    use std::os::unix::fs::PermissionsExt;
    let hidden = t.path("hidden");
    let (whole, inner, file) = (hidden.join("whole"), hidden.join("whole/inner"), hidden.join("file"));
    fs::create_dir_all(&inner).context("directories")?;
    fs::write(&file, "bound").context("a file")?;
    t.host("mount", &["-t", "tmpfs", "none", &inner.display().to_string()])?;
    fs::write(inner.join("mark"), "inner").context("a file")?;
    fs::set_permissions(&hidden, fs::Permissions::from_mode(0o700)).context("mode")?;
    let bind = |from: &Path, to: &str| json!({"destination": to, "type": "bind", "source": from, "options": ["rbind", "rprivate"]});
    let queue = json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue"});
    let bundle = in_a_user_namespace(counting(t)?)
        .mount(queue)
        .mount(bind(&whole, "/whole"))
        .mount(bind(&file, "/whole/inner/file"))
        .mount(bind(&file, "/bound"));
    let look = "cat /whole/inner/mark /whole/inner/file /bound; ls -d /dev/mqueue";
    let container = start(t, &bundle)?;
    let before = container.exec_sh(look)?.stdout;
    ensure_eq!(before, "innerboundbound/dev/mqueue\n", "before");
    counts_on(&bundle, 1)?;
    let images = Images::new(t);
    images.dump(&container, &[])?;
    let at = count(&bundle);
    let container = images.restore(&bundle, &[])?;
    counts_on(&bundle, at)?;
    ensure_eq!(container.exec_sh(look)?.stdout, before, "afterwards");
    drop(container);
    t.host("umount", &[&inner.display().to_string()])?;
    Ok(())
}

fn images_are_read_by_two_user_namespaces_at_once(t: &T) -> Verdict {
    use std::os::unix::fs::PermissionsExt;
    let bundle = in_a_user_namespace(counting(t)?);
    let (images, at) = dumped(t, &bundle, &[])?;
    // As with a caller whose new files nobody else may read.
    for image in fs::read_dir(&images.dir).context("images")?.flatten() {
        fs::set_permissions(image.path(), fs::Permissions::from_mode(0o600)).context("images")?;
    }
    let mut both = Vec::new();
    for _ in 0..2 {
        let id = t.id();
        let bundle = in_a_user_namespace(counting(t)?);
        bundle.write()?;
        let work = t.path(&format!("work{}", t.number()));
        let mut command = images.command();
        command.args(["restore", "--detach", "--bundle"]).arg(&bundle.dir).arg("--image-path").arg(&images.dir);
        command.arg("--work-path").arg(&work).arg(&id);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().context("restore")?;
        both.push((child, work, Container::new(t, id, bundle.dir.clone()), bundle));
    }
    for (child, work, ..) in &mut both {
        let ended = child.wait().context("restore")?;
        ensure!(ended.success(), "{ended}: {}", text(work.join("restore.log")));
    }
    for (.., bundle) in &both {
        counts_on(bundle, at)?;
    }
    let mode = fs::metadata(&images.dir).context("images")?.permissions().mode() & 0o7777;
    ensure_eq!(mode, 0o700, "the mode of the directory");
    Ok(())
}

/// The isolation of a container from the host, as the host sees it.
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
        // The propagation is left out, because it shows the number of a peer group, which the host assigns.
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
        // By now the shell has had its first child, and has only the descriptors that it keeps between children.
        let before = eventually("a quiet moment", || isolation(&container).ok())?;
        let images = Images::new(t);
        images.dump(&container, &[])?;
        let container = images.restore(&bundle, &[])?;
        ensure_eq!(isolation(&container)?, before, "what separates the container");
    }
    Ok(())
}

/// Starts a container with this script. Returns the read end of the pipe that is its standard output.
fn started_on_a_pipe<'t>(
    t: &'t T,
    bundle: &Bundle,
    words: &[&str],
    images: Option<&Images<'t>>,
) -> Verdict<(Container<'t>, fs::File)> {
    bundle.write()?;
    let (read_end, write_end) = nix::unistd::pipe().context("pipe")?;
    let id = t.id();
    let mut command = images.map_or_else(|| t.command(), Images::command);
    command.arg("--log").arg(t.path("log")).args(words).arg("--bundle").arg(&bundle.dir).arg(&id);
    command.stdin(Stdio::null()).stdout(write_end).stderr(Stdio::null());
    let status = command.status().context("the runtime")?;
    ensure!(status.success(), "{words:?}: {}", text(t.path("log")));
    Ok((Container::new(t, id, bundle.dir.clone()), read_end.into()))
}

/// Reads lines up to the first that ends with `end`.
fn read_up_to(pipe: &fs::File, end: &str) -> Verdict<String> {
    let mut seen = String::new();
    let mut lines = BufReader::new(pipe);
    while !seen.trim_end().ends_with(end) {
        wait_readable(pipe, Duration::from_secs(60)).context(format!("read {seen:?} so far"))?;
        if lines.read_line(&mut seen).context("pipe")? == 0 {
            break;
        }
    }
    Ok(seen)
}

fn a_pipe_of_the_caller_is_replaced_by_the_next_one(t: &T) -> Verdict {
    let bundle = t.bundle()?.sh("i=0; while :; do i=$((i+1)); echo line $i; sleep 0.1; done");
    let (container, first) = started_on_a_pipe(t, &bundle, &["create"], None)?;
    container.start()?;
    read_up_to(&first, "line 2")?;
    let images = Images::new(t);
    images.dump(&container, &[])?;
    let dir = images.dir.display().to_string();
    let (_container, second) = started_on_a_pipe(t, &bundle, &["restore", "-d", "--image-path", &dir], Some(&images))?;
    let seen = read_up_to(&second, "line 20")?;
    ensure!(!seen.contains("line 1\n"), "it began anew: {seen:?}");
    Ok(())
}

fn a_terminal_comes_back_at_the_console_socket(t: &T) -> Verdict {
    let (bundle, images, terminal) = dumped_at_terminal(t)?;
    drop(terminal);
    let (ran, left) = images.try_restore(&bundle, &[])?;
    ran.code_is(1)?.stderr_has("console socket")?;
    left.verb("state", &[], &[])?.code_is(1)?;
    let second = FdSocket::new(t.path("second"))?;
    let _restored = images.restore(&bundle, &["--console-socket", second.arg()])?;
    echoes(&mut second.terminal()?, "two")
}

fn in_the_foreground_its_exit_code_is_ours(t: &T) -> Verdict {
    let bundle = t.bundle()?.sh("while [ ! -e /go ]; do sleep 0.1; done; exit 7");
    let container = start(t, &bundle)?;
    let images = Images::new(t);
    images.dump(&container, &[])?;
    fs::write(bundle.rootfs().join("go"), "").context("go")?;
    let id = t.id();
    let mut command = images.command();
    command.arg("restore").arg("--bundle").arg(&bundle.dir).arg("--image-path").arg(&images.dir).arg(&id);
    images.finish_with_null(command)?.code_is(7)?;
    Container::new(t, id, bundle.dir.clone()).verb("state", &[], &[])?.code_is(1)?.stderr_has("does not exist")?;
    Ok(())
}

/// A zombie has no namespaces to look at.
fn a_process_that_nobody_waited_for_comes_back(t: &T) -> Verdict {
    let bundle = t.bundle()?.sh(&format!("sleep 0.05 & {RESTORABLE}"));
    let container = start(t, &bundle)?;
    let child_of = |pid: i32| text(format!("/proc/{pid}/task/{pid}/children")).trim().to_owned();
    let has_ended = |pid: i32| text(format!("/proc/{}/stat", child_of(pid))).contains(") Z ");
    let pid = container.pid()?;
    eventually("the child has ended", || has_ended(pid).then_some(()))?;
    let images = Images::new(t);
    images.dump(&container, &[])?;
    let restored = images.restore(&bundle, &[])?;
    ensure!(has_ended(restored.pid()?), "the child still waits for its parent");
    Ok(())
}

fn three_processes_and_their_memory_come_back(t: &T) -> Verdict {
    let script = format!(
        "x=$(head -c 30000000 /dev/zero | tr '\\0' x); head -c 5000000 /dev/urandom >/dev/shm/big; busybox md5sum </dev/shm/big >/sum\n\
         (while :; do echo ${{#x}} >/length.new; mv /length.new /length; sleep 0.2; done) & sleep 1000 & {COUNTING}"
    );
    let bundle = t.bundle()?.sh(&script);
    let (images, at) = dumped(t, &bundle, &[])?;
    fs::write(bundle.rootfs().join("length"), "").context("length")?;
    let container = images.restore(&bundle, &[])?;
    counts_on(&bundle, at)?;
    let length = || Some(text(bundle.rootfs().join("length"))).filter(|length| length.trim() == "30000000");
    eventually("the length of the variable", length)?;
    let procs = text(cgroup::of(&container)?.join("cgroup.procs"));
    ensure!(procs.lines().count() >= 3, "processes: {procs:?}");
    let sum = container.exec_sh("busybox md5sum </dev/shm/big")?.stdout;
    ensure_eq!(sum.trim(), text(bundle.rootfs().join("sum")).trim(), "what was in /dev/shm");
    Ok(())
}

fn a_tcp_connection_goes_on_if_it_is_asked_for(t: &T) -> Verdict {
    let bundle = t.bundle()?.sh(
        "nc -ll -p 99 -e cat & sleep 0.5; (i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done) | nc 127.0.0.1 99 | \
         while read i; do echo $i >/count.new; mv /count.new /count; done",
    );
    let container = start(t, &bundle)?;
    counts_on(&bundle, 1)?;
    let images = Images::new(t);
    let refused = images.try_dump(&container, &[])?.code_is(1)?;
    if refused.stderr.contains("cannot dump the sockets of this kernel") {
        return skip("CRIU 4.1 cannot dump the sockets of this kernel");
    }
    refused.stderr_has("a process has an open TCP connection")?.stderr_has("pass --tcp-established")?;
    container.status_is("running")?;
    let at = counts_on(&bundle, count(&bundle))?;
    let options = ["--tcp-established", "--network-lock", "skip"];
    images.dump(&container, &options)?;
    let _restored = images.restore(&bundle, &options)?;
    counts_on(&bundle, at)?;
    Ok(())
}

fn what_exec_leaves_behind_in_a_restored_container_comes_back(t: &T) -> Verdict {
    let bundle = counting(t)?;
    let (images, at) = dumped(t, &bundle, &[])?;
    let container = images.restore(&bundle, &[])?;
    let pid = container.exec_sh("tail -f /dev/null </dev/null >/dev/null 2>&1 & echo $!")?.stdout;
    let sleeps = format!("grep -q tail /proc/{}/cmdline", pid.trim());
    // Until then it has the stdio of exec.
    eventually("it sleeps", || container.exec_sh(&sleeps).ok().map(drop))?;
    let again = Images::new(t);
    again.dump(&container, &[])?;
    let container = again.restore(&bundle, &[])?;
    counts_on(&bundle, at)?;
    container.exec_sh(&sleeps)?;
    Ok(())
}

fn what_exec_has_started_is_named_and_left_out(t: &T) -> Verdict {
    let bundle = counting(t)?;
    let container = start(t, &bundle)?;
    container.try_exec(&["--detach"], &["/bin/sleep", "999"])?.ok()?;
    let at = counts_on(&bundle, 1)?;
    let images = Images::new(t);
    images.dump(&container, &[])?.stderr_has("(sleep) is not in the images: exec has made it")?;
    let container = images.restore(&bundle, &[])?;
    counts_on(&bundle, at)?;
    container.verb("ps", &["--format", "json"], &[])?.ok()?;
    Ok(())
}

fn namespaces_by_path_are_those_of_now(t: &T) -> Verdict {
    let names = [format!("wl-cr-a{}", std::process::id()), format!("wl-cr-b{}", std::process::id())];
    for name in &names {
        t.host("ip", &["netns", "add", name])?;
    }
    let in_namespace = |bundle: Bundle, name: &str| {
        bundle.namespace("network", Some(json!({"type": "network", "path": format!("/run/netns/{name}")})))
    };
    let bundle = counting(t)?;
    let (images, at) = dumped(t, &in_namespace(bundle.clone(), &names[0]), &[])?;
    let container = images.restore(&in_namespace(bundle.clone(), &names[1]), &[])?;
    counts_on(&bundle, at)?;
    use std::os::unix::fs::MetadataExt;
    let inode = |path: String| fs::metadata(&path).context(path).map(|found| found.ino());
    let (own, named) =
        (inode(format!("/proc/{}/ns/net", container.pid()?))?, inode(format!("/run/netns/{}", names[1]))?);
    ensure_eq!(own, named, "the network namespace");
    container.verb("delete", &["--force"], &[])?.ok()?;
    for name in &names {
        t.host("ip", &["netns", "delete", name])?;
    }
    t.host("umount", &["/run/netns"])?;
    fs::remove_dir("/run/netns").context("/run/netns")?;
    Ok(())
}

fn clocks_of_a_time_namespace_go_on(t: &T) -> Verdict {
    let bundle = counting(t)?
        .namespace("time", Some(json!({"type": "time"})))
        .set("/linux/timeOffsets", json!({"boottime": {"secs": 1_000_000}}));
    let container = comes_back(t, &bundle, &[])?;
    let uptime = container.exec(&["/bin/cat", "/proc/uptime"])?.stdout;
    let seconds: f64 = uptime.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0.0);
    ensure!((1_000_000.0..).contains(&seconds), "uptime {uptime:?}");
    Ok(())
}

/// A container whose program holds a file lock and runs this script.
fn locking(t: &T, script: &str) -> Verdict<Bundle> {
    // The lock belongs to the open file, which the shell has.
    let lock = format!("exec 9>/lock; /helper @payload syscalls {},9,{}; {script}", libc::SYS_flock, libc::LOCK_EX);
    t.bundle()?.sh(&lock).helper()
}

fn locks_of_files_need_their_flag(t: &T) -> Verdict {
    let bundle = locking(t, COUNTING)?;
    let container = start(t, &bundle)?;
    let at = counts_on(&bundle, 1)?;
    let images = Images::new(t);
    images.try_dump(&container, &[])?.code_is(1)?.stderr_has("pass --file-locks")?;
    let left: Vec<_> = fs::read_dir(&images.dir).context("images")?.flatten().map(|entry| entry.file_name()).collect();
    let (logs, others): (Vec<_>, Vec<_>) =
        left.into_iter().partition(|name| name == "dump.log" || name == "stats-dump");
    ensure!(!logs.is_empty() && others.is_empty(), "a failed dump leaves {logs:?} and {others:?}");
    images.dump(&container, &["--file-locks"])?;
    let _restored = images.restore(&bundle, &["--file-locks"])?;
    counts_on(&bundle, at)?;
    Ok(())
}

fn an_idmapped_bind_is_mapped_again(t: &T) -> Verdict {
    let disk = t.path("disk");
    fs::create_dir_all(&disk).context("disk")?;
    t.host("mount", &["-t", "tmpfs", "disk", &disk.display().to_string()])?;
    fs::write(disk.join("file"), "x").context("file")?;
    std::os::unix::fs::chown(disk.join("file"), Some(5), Some(5)).context("file")?;
    let map = json!([{"containerID": 0, "hostID": 1000, "size": 100}]);
    let mount = json!({"destination": "/data", "type": "bind", "source": disk, "options": ["bind", "rprivate"],
        "uidMappings": map, "gidMappings": map});
    let bundle = counting(t)?.mount(mount);
    let container = comes_back(t, &bundle, &[])?;
    container.exec_sh("stat -c %u /data/file")?.stdout_is("1005\n")?;
    container.verb("delete", &["--force"], &[])?.ok()?;
    t.host("umount", &[&disk.display().to_string()])?;
    Ok(())
}

fn check_names_what_cannot_be_dumped(t: &T) -> Verdict {
    let check = |container: &Container, flags: &[&str]| {
        let options: Vec<&str> = ["--check"].iter().chain(flags).copied().collect();
        container.verb("checkpoint", &options, &[])
    };
    // The script may need a moment to get there.
    let named = |bundle: &Bundle, words: &[&str]| {
        let container = start(t, bundle)?;
        let found = eventually(&format!("{words:?}"), || {
            let ran = check(&container, &[]).ok()?;
            (ran.code == 1 && words.iter().all(|word| ran.stdout.contains(word))).then_some(())
        });
        let state = text(format!("/proc/{}/status", container.pid()?));
        found.context(format!("init: {state}"))?;
        Ok::<_, Stop>(container)
    };
    let plain = start(t, &counting(t)?)?;
    check(&plain, &[])?.ok()?.stdout_is("nothing was found that a dump would not take\n")?;
    let tcp = t.bundle()?.sh("nc -ll -p 99 -e cat & sleep 0.3; sleep 1000 | nc 127.0.0.1 99");
    let container = named(&tcp, &["is an open TCP connection", "--tcp-established"])?;
    check(&container, &["--tcp-established"])?.ok()?;
    let container = named(&locking(t, "sleep 1000")?, &["holds a lock of /lock", "--file-locks"])?;
    check(&container, &["--file-locks"])?.ok()?;
    named(&t.bundle()?.privileged().sh("unshare -u sleep 1000 & sleep 1000"), &["a namespace of its own (uts)"])?;
    let network = json!({"type": "network", "path": "/proc/1/ns/net"});
    let joined = in_a_user_namespace(counting(t)?).namespace("network", Some(network));
    let container = named(&joined, &["does not own the namespace /proc/1/ns/net", "/linux/namespaces/"])?;
    Images::new(t).try_dump(&container, &[])?.code_is(1)?;
    let unlinked = t.bundle()?.sh("head -c 3000000 /dev/zero >/x; exec 9</x; rm /x; sleep 1000");
    named(&unlinked, &["is an unlinked file of 300"])?;
    let gone = "mkdir /tmp/a /tmp/b; mount --bind /tmp/a /tmp/b; rmdir /tmp/a; sleep 1000";
    named(&t.bundle()?.privileged().sh(gone), &["the source of the mount /tmp/b was removed"])?;
    plain.try_exec(&["--detach"], &["/bin/sleep", "999"])?.ok()?;
    check(&plain, &[])?.ok()?.stdout_has("exec has made it")?;
    plain.status_is("running")?;
    Ok(())
}
