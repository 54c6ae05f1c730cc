//! Hostile root file systems. Each case builds a possible image of an attacker and checks the host afterwards.

use crate::kit::machine::{self, field, text};
use crate::kit::race::{Swapper, duration, rounds};
use crate::kit::snapshot::snapshot;
use crate::kit::stop::Context;
use crate::kit::wait::eventually;
use crate::kit::{Bundle, Need, T, Verdict};
use crate::{chapter, ensure, ensure_eq};
use serde_json::json;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;

chapter! { "security":
    dev_as_a_symlink_to_the_host_changes_nothing_there,
    device_names_as_symlinks_are_not_followed,
    device_names_as_symlinks_below_a_tmpfs_free_dev,
    dev_console_as_a_symlink_is_not_followed,
    dev_pts_as_a_symlink_is_not_followed,
    proc_as_a_symlink_is_refused_or_stays_inside,
    sys_as_a_symlink_is_refused_or_stays_inside,
    proc_as_a_file_is_refused,
    proc_as_a_bind_of_a_directory_takes_no_writes,
    a_tmpfs_over_proc_self_attr_is_refused,
    sysctls_reach_only_the_real_procfs,
    cwd_in_a_descriptor_of_the_runtime_does_not_lead_out,
    a_working_directory_that_leaves_its_volume_meanwhile_does_not_lead_out [Need::Windlass],
    exec_cwd_in_a_descriptor_of_the_runtime_does_not_lead_out,
    nested_destinations_raced_create_nothing_outside [Need::Slow],
    mount_destinations_raced_between_two_containers [Need::Slow],
    masked_paths_raced_stay_masked_or_fail [Need::Slow],
    masked_paths_through_symlinks_stay_inside,
    readonly_paths_through_symlinks_stay_inside,
    dev_null_replaced_does_not_unmask,
    a_rootfs_that_is_a_symlink_is_refused_or_resolved,
    a_symlinked_state_directory_is_not_followed,
    a_cgroup_path_with_systemd_properties_is_text,
    etc_passwd_as_a_symlink_or_fifo_does_not_hang,
    a_hostile_etc_group_does_not_give_groups,
    the_pid_file_does_not_follow_into_the_container,
    the_payload_sees_no_mount_of_the_host,
    a_device_node_destination_as_symlink_stays_inside,
    cwd_as_a_symlink_outside_stays_inside,
    a_volumes_mounts_stay_on_their_side_of_a_user_namespace,
    the_flags_of_a_volume_cannot_be_cleared_in_a_user_namespace,
    what_covers_a_part_of_a_volume_stays_in_a_user_namespace,
}

/// A directory on the host that must not be touched, with one file.
fn outside(t: &T) -> Verdict<PathBuf> {
    let dir = t.path("outside");
    fs::create_dir_all(dir.join("x"))?;
    fs::write(dir.join("precious"), "precious")?;
    Ok(dir)
}

/// Runs the bundle, with any outcome, and checks that `dir` has not changed.
fn untouched(t: &T, dir: &Path, bundle: &Bundle) -> Verdict<crate::kit::Ran> {
    let before = (snapshot(dir), text("/proc/sys/kernel/core_pattern"));
    let ran = t.run(bundle)?;
    ensure_eq!(snapshot(dir), before.0, "the host's directory after {ran}");
    ensure_eq!(text("/proc/sys/kernel/core_pattern"), before.1, "core_pattern after {ran}");
    Ok(ran)
}

/// Replaces a directory of the root file system by a symlink.
fn relink(bundle: &Bundle, name: &str, target: impl AsRef<Path>) -> Verdict {
    let path = bundle.rootfs().join(name);
    if path.is_dir() && !path.is_symlink() {
        fs::remove_dir_all(&path)?;
    } else {
        let _ = fs::remove_file(&path);
    }
    symlink(target, path)?;
    Ok(())
}

/// Takes the mounts at and below `/dev` out of the configuration.
fn without_dev_mounts(bundle: Bundle) -> Bundle {
    bundle.edit(|spec| {
        if let Some(mounts) = spec["mounts"].as_array_mut() {
            mounts.retain(|mount| !mount["destination"].as_str().unwrap_or_default().starts_with("/dev"));
        }
    })
}

fn dev_as_a_symlink_to_the_host_changes_nothing_there(t: &T) -> Verdict {
    let outside = outside(t)?;
    for with_mounts in [true, false] {
        for target in [
            PathBuf::from("../../outside"),
            PathBuf::from("../../../../../../../../..").join(outside.strip_prefix("/")?),
            outside.clone(),
        ] {
            let bundle =
                t.bundle()?.set("/linux/devices", json!([{"path": "/dev/extra", "type": "c", "major": 1, "minor": 5}]));
            relink(&bundle, "dev", &target)?;
            let bundle = if with_mounts { bundle } else { without_dev_mounts(bundle) };
            untouched(t, &outside, &bundle)?;
        }
    }
    Ok(())
}

/// `/dev` entries that a runtime makes or opens.
const NAMES: [&str; 10] = ["null", "zero", "full", "random", "tty", "ptmx", "console", "fd", "stdin", "stdout"];

fn device_names_as_symlinks_are_not_followed(t: &T) -> Verdict {
    let outside = outside(t)?;
    for readonly in [true, false] {
        for target in ["../../../outside/precious", "/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger"] {
            let bundle = without_dev_mounts(t.bundle()?).set("/root/readonly", json!(readonly));
            for name in NAMES {
                symlink(target, bundle.rootfs().join("dev").join(name))?;
            }
            untouched(t, &outside, &bundle)?;
            ensure_eq!(text(outside.join("precious")), "precious", "the file outside");
        }
    }
    Ok(())
}

fn device_names_as_symlinks_below_a_tmpfs_free_dev(t: &T) -> Verdict {
    // One at a time, so that an early refusal of one does not hide the next.
    let outside = outside(t)?;
    for name in NAMES {
        let bundle = without_dev_mounts(t.bundle()?);
        symlink(outside.join("made-by-runtime"), bundle.rootfs().join("dev").join(name))?;
        untouched(t, &outside, &bundle).context(name)?;
    }
    Ok(())
}

fn dev_console_as_a_symlink_is_not_followed(t: &T) -> Verdict {
    let outside = outside(t)?;
    for target in
        [outside.join("console"), outside.join("precious"), PathBuf::from("/proc/self/fd/1"), PathBuf::from("pts/0")]
    {
        let bundle = without_dev_mounts(t.bundle()?).set("/process/terminal", json!(true));
        let bundle = bundle.mount(json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666"]}));
        symlink(&target, bundle.rootfs().join("dev/console"))?;
        let before = snapshot(&outside);
        let _ = fs::remove_file(t.path("console"));
        let socket = crate::kit::console::FdSocket::new(t.path("console"))?;
        let (ran, container) = t.try_create(&bundle, &["--console-socket", socket.arg()])?;
        drop(container);
        ensure_eq!(snapshot(&outside), before, "the host's directory after {ran}");
    }
    Ok(())
}

fn dev_pts_as_a_symlink_is_not_followed(t: &T) -> Verdict {
    let outside = outside(t)?;
    let bundle = t.bundle()?.edit(|spec| {
        if let Some(mounts) = spec["mounts"].as_array_mut() {
            mounts.retain(|mount| mount["destination"] != "/dev");
        }
    });
    relink(&bundle, "dev/pts", "../../../outside/x")?;
    relink(&bundle, "dev/shm", &outside)?;
    untouched(t, &outside, &bundle.sh("touch /dev/shm/x"))?;
    Ok(())
}

fn proc_as_a_symlink_is_refused_or_stays_inside(t: &T) -> Verdict {
    let outside = outside(t)?;
    for target in ["../../outside", "elsewhere", "/sys"] {
        let bundle = t.bundle()?.set("/linux/sysctl", json!({"net.ipv4.ip_forward": "1"}));
        fs::create_dir(bundle.rootfs().join("elsewhere"))?;
        relink(&bundle, "proc", target)?;
        untouched(t, &outside, &bundle)?.fails().context(format!("/proc -> {target}"))?;
    }
    Ok(())
}

fn sys_as_a_symlink_is_refused_or_stays_inside(t: &T) -> Verdict {
    let outside = outside(t)?;
    for target in ["../../outside", "elsewhere", "/proc"] {
        let bundle = t.bundle()?;
        fs::create_dir(bundle.rootfs().join("elsewhere"))?;
        relink(&bundle, "sys", target)?;
        untouched(t, &outside, &bundle)?.fails().context(format!("/sys -> {target}"))?;
    }
    Ok(())
}

fn proc_as_a_file_is_refused(t: &T) -> Verdict {
    let bundle = t.bundle()?;
    fs::remove_dir(bundle.rootfs().join("proc"))?;
    fs::write(bundle.rootfs().join("proc"), "")?;
    t.run(&bundle)?.fails()?;
    Ok(())
}

/// A directory that looks like `/proc` with the files that runtimes write to.
pub(super) fn fake_proc(t: &T) -> Verdict<PathBuf> {
    let dir = t.path("fake-proc");
    for name in [
        "self/attr/apparmor",
        "thread-self/attr/apparmor",
        "self/fd",
        "sys/net/ipv4",
        "sys/kernel",
        "1/attr",
        "self/task/1/attr",
    ] {
        fs::create_dir_all(dir.join(name))?;
    }
    for name in [
        "self/attr/exec",
        "self/attr/current",
        "self/attr/apparmor/exec",
        "thread-self/attr/exec",
        "sys/net/ipv4/ip_forward",
        "sys/kernel/shmmni",
        "self/oom_score_adj",
    ] {
        fs::write(dir.join(name), "")?;
    }
    Ok(dir)
}

fn proc_as_a_bind_of_a_directory_takes_no_writes(t: &T) -> Verdict {
    let fake = fake_proc(t)?;
    let bundle = t.bundle()?.edit(|spec| {
        spec["mounts"][0] = json!({"destination": "/proc", "type": "bind", "source": fake, "options": ["rbind"]})
    });
    let bundle = bundle
        .set("/linux/sysctl", json!({"net.ipv4.ip_forward": "1", "kernel.shmmni": "99"}))
        .set("/process/oomScoreAdj", json!(100));
    let ran = untouched(t, &fake, &bundle.sh("cat /proc/sys/net/ipv4/ip_forward"))?;
    // Either the run was refused, or the writes went to a procfs of the runtime's own.
    ensure!(ran.code != 0 || ran.stdout.is_empty(), "{ran}");
    Ok(())
}

fn a_tmpfs_over_proc_self_attr_is_refused(t: &T) -> Verdict {
    for destination in
        ["/proc/self/attr", "/proc/self", "/proc/1", "/proc/thread-self/attr", "/proc/sys", "/proc/sys/net"]
    {
        let bundle = t.bundle()?.mount(json!({"destination": destination, "type": "tmpfs", "source": "tmpfs"}));
        t.run(&bundle)?.fails().context(destination)?;
    }
    Ok(())
}

fn sysctls_reach_only_the_real_procfs(t: &T) -> Verdict {
    // A link that would turn a harmless sysctl into a dangerous one, if the mount on /proc were trusted.
    let fake = fake_proc(t)?;
    fs::remove_file(fake.join("sys/kernel/shmmni"))?;
    symlink("/proc/sys/kernel/core_pattern", fake.join("sys/kernel/shmmni"))?;
    let bundle = t.bundle()?.edit(|spec| {
        spec["mounts"][0] = json!({"destination": "/proc", "type": "bind", "source": fake, "options": ["rbind"]})
    });
    untouched(t, &fake, &bundle.set("/linux/sysctl", json!({"kernel.shmmni": "99"})))?;
    Ok(())
}

fn cwd_in_a_descriptor_of_the_runtime_does_not_lead_out(t: &T) -> Verdict {
    for fd in 3..=20 {
        for process in ["self", "thread-self"] {
            let cwd = format!("/proc/{process}/fd/{fd}");
            let ran = t.run(&t.bundle()?.set("/process/cwd", json!(cwd)).sh(UPWARDS))?;
            ensure!(!ran.stdout.contains("windlass-integration"), "{cwd} leads out of the container: {ran}");
        }
    }
    Ok(())
}

/// Looks for the harness's directory from the working directory upwards.
const UPWARDS: &str = "for up in . .. ../.. ../../.. ../../../.. ../../../../..; do ls -d $up/run/windlass-integration $up/windlass-integration; done 2>/dev/null; pwd";

/// The directory is moved between its lookup and the change into it.
fn a_working_directory_that_leaves_its_volume_meanwhile_does_not_lead_out(t: &T) -> Verdict {
    if t.host("strace", &["-V"]).is_err() {
        return crate::kit::stop::skip("strace is not installed");
    }
    let (work, outside) = (t.path("volume/work"), t.path("outside"));
    fs::create_dir_all(&work)?;
    fs::create_dir_all(&outside)?;
    let bundle = t.bundle()?.bind(&t.path("volume"), "/vol", &["bind"]).set("/process/cwd", json!("/vol/work"));
    let bundle = bundle.sh("echo it runs");
    bundle.write()?;
    let (id, run) = (t.id(), t.command());
    let mut strace = std::process::Command::new("strace");
    strace.args(["-f", "-o", "/dev/null", "-e", "trace=fchdir", "-e", "inject=fchdir:delay_enter=500000"]);
    strace.arg(run.get_program()).args(run.get_args()).args(["run", "--bundle"]).arg(&bundle.dir).arg(&id);
    let strace = strace.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let file = |path: &Path| fs::metadata(path).ok().map(|file| (file.dev(), file.ino()));
    let wanted = file(&work);
    let has_it_open = || {
        let processes =
            fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| fs::read_dir(entry.path().join("fd")).ok());
        processes.flatten().flatten().find(|entry| file(&entry.path()) == wanted).map(drop)
    };
    eventually("it is looked up", has_it_open)?;
    fs::rename(&work, outside.join("work"))?;
    let ran = strace.wait_with_output()?;
    t.runtime(&["delete", "--force", &id])?.ok()?;
    ensure!(!ran.status.success() && ran.stdout.is_empty(), "it ran outside: {ran:?}");
    Ok(())
}

fn exec_cwd_in_a_descriptor_of_the_runtime_does_not_lead_out(t: &T) -> Verdict {
    let container = t.running()?;
    for fd in 3..=20 {
        let cwd = format!("/proc/self/fd/{fd}");
        let ran = container.try_exec(&["--cwd", &cwd], &["/bin/sh", "-c", UPWARDS])?;
        ensure!(!ran.stdout.contains("windlass-integration"), "{cwd} leads out of the container: {ran}");
    }
    Ok(())
}

fn nested_destinations_raced_create_nothing_outside(t: &T) -> Verdict {
    let outside = outside(t)?;
    let mut bundle = t.bundle()?;
    let race = bundle.rootfs().join("race");
    fs::create_dir_all(race.join("dir"))?;
    symlink(&outside, race.join("link"))?;
    for number in 0..6 {
        bundle = bundle
            .mount(json!({"destination": format!("/race/dir/a{number}/b/c"), "type": "tmpfs", "source": "tmpfs"}));
    }
    let before = snapshot(&outside);
    let swapper = Swapper::start(race.join("dir"), race.join("link"));
    rounds(duration(t), || t.run(&bundle).map(|_| ()))?;
    ensure!(swapper.swaps() > 100, "only {} swaps", swapper.swaps());
    drop(swapper);
    ensure_eq!(snapshot(&outside), before, "the host's directory");
    Ok(())
}

fn mount_destinations_raced_between_two_containers(t: &T) -> Verdict {
    // A volume shared by two containers; the path below it flips between a directory and a link to /proc or to the
    // host.
    let outside = outside(t)?;
    let volume = t.path("volume");
    fs::create_dir_all(volume.join("a/b"))?;
    symlink("/proc", volume.join("link"))?;
    symlink(&outside, volume.join("link2"))?;
    let payload = "grep -c . /proc/self/mountinfo >/dev/null; ls /proc/sysrq-trigger; cat /proc/self/mountinfo | grep ' /proc[ /]' ";
    let bundle = t.bundle()?.bind(&volume, "/volume", &["rbind", "rw"]);
    let bundle = bundle.mount(json!({"destination": "/volume/a/b", "type": "tmpfs", "source": "tmpfs"})).sh(payload);
    let other = t.bundle()?.bind(&volume, "/volume", &["rbind", "rw"]).bind(&outside, "/volume/a/c", &["bind"]);
    let before = snapshot(&outside);
    let swapper = Swapper::start(volume.join("a"), volume.join("link"));
    let second = Swapper::start(volume.join("a"), volume.join("link2"));
    rounds(duration(t), || {
        let ran = t.run(&bundle)?;
        let on_proc = ran.stdout.lines().filter(|line| line.contains(" - tmpfs ") && line.contains(" /proc ")).count();
        ensure_eq!(on_proc, 0, "a tmpfs landed on /proc: {}", ran.stdout);
        t.run(&other).map(|_| ())
    })?;
    drop((swapper, second));
    ensure_eq!(snapshot(&outside), before, "the host's directory");
    Ok(())
}

fn masked_paths_raced_stay_masked_or_fail(t: &T) -> Verdict {
    let outside = outside(t)?;
    let bundle = t.bundle()?;
    let volume = t.path("volume");
    fs::create_dir_all(volume.join("dir/secret"))?;
    fs::write(volume.join("dir/file"), "secret")?;
    symlink(&outside, volume.join("link"))?;
    let bundle = bundle.bind(&volume, "/volume", &["rbind"]);
    let bundle = bundle.set("/linux/maskedPaths", json!(["/volume/dir/secret", "/volume/dir/file", "/proc/keys"]));
    let bundle = bundle.set("/linux/readonlyPaths", json!(["/volume/dir", "/proc/sys"])).sh("cat /proc/keys; (echo x >/proc/sys/kernel/domainname) 2>/dev/null && echo written; umount /proc/keys 2>/dev/null && echo unmounted; true");
    let before = snapshot(&outside);
    let swapper = Swapper::start(volume.join("dir"), volume.join("link"));
    rounds(duration(t) / 2, || {
        let ran = t.run(&bundle)?;
        ensure!(ran.code != 0 || ran.stdout.is_empty(), "not masked: {ran}");
        Ok::<_, crate::kit::Stop>(())
    })?;
    drop(swapper);
    ensure_eq!(snapshot(&outside), before, "the host's directory");
    Ok(())
}

fn masked_paths_through_symlinks_stay_inside(t: &T) -> Verdict {
    let outside = outside(t)?;
    let bundle = t.bundle()?;
    symlink(&outside, bundle.rootfs().join("out"))?;
    symlink("../../../outside", bundle.rootfs().join("up"))?;
    symlink("/proc", bundle.rootfs().join("p"))?;
    let bundle = bundle.set("/linux/maskedPaths", json!(["/out/precious", "/up/precious", "/out", "/p/keys"]));
    let before = machine::mounts();
    untouched(t, &outside, &bundle)?;
    ensure_eq!(machine::mounts(), before, "the host's mounts");
    ensure_eq!(text(outside.join("precious")), "precious", "the file outside");
    Ok(())
}

fn readonly_paths_through_symlinks_stay_inside(t: &T) -> Verdict {
    let outside = outside(t)?;
    let bundle = t.bundle()?;
    symlink(&outside, bundle.rootfs().join("out"))?;
    untouched(t, &outside, &bundle.set("/linux/readonlyPaths", json!(["/out", "/out/precious"])))?;
    fs::write(outside.join("still-writable"), "")?;
    Ok(())
}

fn dev_null_replaced_does_not_unmask(t: &T) -> Verdict {
    // The mask of a file is a bind of /dev/null: an image that replaces the device must not choose the source.
    for target in ["/proc/sys/kernel/core_pattern", "../etc/passwd", "/proc/sysrq-trigger", "zero"] {
        let bundle = without_dev_mounts(t.bundle()?);
        symlink(target, bundle.rootfs().join("dev/null"))?;
        let bundle = bundle
            .set("/linux/maskedPaths", json!(["/proc/keys"]))
            .sh("stat -c %t,%T /proc/keys; head -c 20 /proc/keys");
        let ran = t.run(&bundle)?;
        ensure!(ran.code != 0 || ran.stdout == "1,3\n", "/dev/null -> {target}: {ran}");
    }
    Ok(())
}

fn a_rootfs_that_is_a_symlink_is_refused_or_resolved(t: &T) -> Verdict {
    let bundle = t.bundle()?;
    symlink("rootfs", bundle.dir.join("link"))?;
    let ran = t.run(&bundle.set("/root/path", json!("link")).sh("ls /"))?;
    ensure!(ran.code != 0 || ran.stdout.contains("bin"), "{ran}");
    Ok(())
}

fn a_symlinked_state_directory_is_not_followed(t: &T) -> Verdict {
    let outside = outside(t)?;
    fs::create_dir_all(t.root())?;
    symlink(&outside, t.root().join("linked"))?;
    let bundle = t.bundle()?;
    bundle.write()?;
    let before = snapshot(&outside);
    t.runtime(&["create", "--bundle", &bundle.dir.display().to_string(), "linked"])?.fails()?;
    t.runtime(&["delete", "--force", "linked"])?;
    t.runtime(&["state", "linked"])?.fails()?;
    ensure_eq!(snapshot(&outside), before, "the directory behind the link");
    let _ = fs::remove_file(t.root().join("linked"));
    Ok(())
}

fn a_cgroup_path_with_systemd_properties_is_text(t: &T) -> Verdict {
    // slice:prefix:name is a systemd path. The cgroupfs manager must not leave the cgroup mount by it.
    let (ran, container) =
        t.try_create(&t.bundle()?.set("/linux/cgroupsPath", json!("system.slice:wl:../../x")), &[])?;
    if ran.code == 0 {
        let dir = crate::kit::cgroup::of(&container)?;
        ensure!(dir.starts_with("/sys/fs/cgroup"), "cgroup {dir:?}");
        container.verb("delete", &["--force"], &[])?;
    }
    crate::harness::host::remove_tree(Path::new("/sys/fs/cgroup/system.slice:wl:.."));
    Ok(())
}

fn etc_passwd_as_a_symlink_or_fifo_does_not_hang(t: &T) -> Verdict {
    for fifo in [true, false] {
        let bundle = t.bundle()?.set("/process/env", json!(["PATH=/bin"])).sh("echo $HOME");
        let passwd = bundle.rootfs().join("etc/passwd");
        fs::remove_file(&passwd)?;
        if fifo {
            nix::unistd::mkfifo(&passwd, nix::sys::stat::Mode::from_bits_truncate(0o644))?;
        } else {
            symlink("/dev/zero", &passwd)?;
        }
        // Any outcome but a hang; the harness limits the time.
        let ran = t.run(&bundle)?;
        ensure!(ran.took.as_secs() < 10, "took {:?}", ran.took);
    }
    Ok(())
}

fn a_hostile_etc_group_does_not_give_groups(t: &T) -> Verdict {
    let bundle = t.bundle()?.set("/process/user", json!({"uid": 1000, "gid": 1000}));
    fs::write(bundle.rootfs().join("etc/group"), "disk:x:6:user\nroot:x:0:user\n")?;
    let ran = t.run(&bundle.args(&["/bin/cat", "/proc/self/status"]))?.ok()?;
    ensure_eq!(field(&ran.stdout, "Groups"), "", "groups");
    Ok(())
}

fn the_pid_file_does_not_follow_into_the_container(t: &T) -> Verdict {
    // The file is replaced as a whole: a link planted there is not written through.
    let outside = outside(t)?;
    let file = t.path("init.pid");
    symlink(outside.join("precious"), &file)?;
    let _container = t.create_with(&t.bundle()?, &["--pid-file", &file.display().to_string()])?;
    ensure_eq!(text(outside.join("precious")), "precious", "the file behind the link");
    Ok(())
}

fn the_payload_sees_no_mount_of_the_host(t: &T) -> Verdict {
    let ran = t.run_sh("cat /proc/self/mountinfo")?.ok()?;
    for line in ran.lines() {
        let point = line.split(' ').nth(4).unwrap_or_default();
        let known = ["/", "/proc", "/dev", "/sys"]
            .iter()
            .any(|top| point == *top || (*top != "/" && point.starts_with(&format!("{top}/"))));
        ensure!(known, "a mount that nobody asked for: {line}");
    }
    Ok(())
}

fn a_device_node_destination_as_symlink_stays_inside(t: &T) -> Verdict {
    let outside = outside(t)?;
    let bundle = t.bundle()?.set("/linux/devices", json!([{"path": "/out/node", "type": "c", "major": 1, "minor": 5}, {"path": "/up/x/node", "type": "c", "major": 1, "minor": 5}]));
    symlink(&outside, bundle.rootfs().join("out"))?;
    symlink("../../../outside", bundle.rootfs().join("up"))?;
    untouched(t, &outside, &bundle)?;
    Ok(())
}

fn cwd_as_a_symlink_outside_stays_inside(t: &T) -> Verdict {
    let outside = outside(t)?;
    let bundle = t.bundle()?.set("/process/cwd", json!("/up/made"));
    symlink("../../../../../../../../../../run/windlass-integration/case/outside", bundle.rootfs().join("up"))?;
    untouched(t, &outside, &bundle.args(&["/bin/pwd"]))?;
    Ok(())
}

/// The container's root, in a user namespace, tries with every capability.
fn in_a_user_namespace(t: &T, volume: &Path, options: &[&str], script: &str) -> Verdict<crate::kit::Ran> {
    let bundle = super::sources::user_namespace(t)?.privileged().bind(volume, "/mnt", options);
    t.run(&bundle.sh(&format!("{{ {script}; }} 2>&1")))?.ok()
}

fn a_volumes_mounts_stay_on_their_side_of_a_user_namespace(t: &T) -> Verdict {
    for volume in [t.path("open"), super::sources::out_of_reach(t, "volume")?] {
        fs::create_dir_all(&volume)?;
        super::sources::with_shared(t, &volume, || {
            fs::create_dir_all(volume.join("free"))?;
            t.host("mount", &["-t", "tmpfs", "tmpfs", &volume.join("sub").display().to_string()])?;
            for option in ["shared", "rshared"] {
                let before = mounts_at(&volume);
                let script = "mount -t tmpfs inside /mnt/free && echo mounted; umount /mnt/free; umount /mnt/sub; \
                    umount -l /mnt/sub; mount -t tmpfs inside /mnt/free && echo again";
                in_a_user_namespace(t, &volume, &["rbind", option], script)?
                    .stdout_has("mounted")?
                    .stdout_has("again")?;
                ensure_eq!(mounts_at(&volume), before, "{option}: mounts of the host");
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// The host's mounts at and below a directory.
fn mounts_at(dir: &Path) -> Vec<String> {
    let below = |line: &&str| line.split(' ').nth(4).is_some_and(|point| Path::new(point).starts_with(dir));
    text("/proc/self/mountinfo").lines().filter(below).map(str::to_owned).collect()
}

fn the_flags_of_a_volume_cannot_be_cleared_in_a_user_namespace(t: &T) -> Verdict {
    for volume in [t.path("open"), super::sources::out_of_reach(t, "volume")?] {
        fs::create_dir_all(&volume)?;
        let at = volume.display().to_string();
        t.host("mount", &["-t", "tmpfs", "-o", "ro,nosuid,nodev,noexec,noatime", "tmpfs", &at])?;
        let tried = (|| -> Verdict {
            for flag in
                ["rw,nosuid,nodev,noexec", "ro,suid,nodev,noexec", "ro,nosuid,dev,noexec", "ro,nosuid,nodev,exec"]
            {
                let script = format!("mount -o remount,bind,{flag} /mnt && echo cleared");
                in_a_user_namespace(t, &volume, &["rbind"], &format!("{script}; true"))?.stdout_lacks("cleared")?;
            }
            for option in ["rw", "suid", "dev", "exec", "rrw"] {
                let bundle = super::sources::user_namespace(t)?.bind(&volume, "/mnt", &["rbind", option]);
                t.run(&bundle)?.code_is(1)?.stderr_has("operation not permitted")?;
            }
            Ok(())
        })();
        t.host("umount", &["-l", &at])?;
        tried?;
    }
    Ok(())
}

fn what_covers_a_part_of_a_volume_stays_in_a_user_namespace(t: &T) -> Verdict {
    for volume in [t.path("open"), super::sources::out_of_reach(t, "volume")?] {
        fs::create_dir_all(volume.join("sub"))?;
        fs::write(volume.join("sub/secret"), "leaked")?;
        let at = volume.join("sub").display().to_string();
        t.host("mount", &["-t", "tmpfs", "tmpfs", &at])?;
        let script = "umount /mnt/sub; umount -l /mnt/sub; cat /mnt/sub/secret; true";
        let ran = in_a_user_namespace(t, &volume, &["rbind"], script);
        t.host("umount", &["-l", &at])?;
        ran?.stdout_has("Invalid argument")?.stdout_lacks("leaked")?;
    }
    Ok(())
}
