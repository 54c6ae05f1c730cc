//! Attacks of a container on the runtime while one of its processes is inside.

use crate::kit::container::Container;
use crate::kit::race::{duration, rounds};
use crate::kit::stop::Context;
use crate::kit::{Bundle, Need, T, Verdict};
use crate::{chapter, ensure, ensure_eq};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{AccessFlags, Pid, access};
use serde_json::json;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

chapter! { "joining":
    no_descriptor_of_the_runtime_is_visible_during_exec [Need::Slow],
    the_runtime_binary_cannot_be_overwritten_by_a_payload_that_is_it [Need::Slow],
    the_runtime_binary_cannot_be_overwritten_while_it_joins [Need::Slow],
    the_runtime_binary_cannot_be_overwritten_by_an_entry_point [Need::Slow],
    a_program_on_a_read_only_mount_is_sealed_too [Need::Windlass],
    the_root_of_the_host_is_not_seen_through_a_joining_process [Need::Slow],
    a_joining_process_is_closed_to_an_ordinary_container [Need::Slow],
    a_joining_process_shows_nothing_of_the_host [Need::Slow],
    an_init_in_a_shared_pid_namespace_shows_no_words_of_the_caller [Need::Windlass, Need::Slow],
    a_detached_exec_outlives_the_runtime,
    a_joining_process_has_the_powers_of_the_container_alone [Need::Slow],
    an_exec_that_the_container_stops_ends_with_the_runtime [Need::Slow],
}

fn no_descriptor_of_the_runtime_is_visible_during_exec(t: &T) -> Verdict {
    // The payload looks at every process that appears beside it, as fast as it can. Its own root is the one directory
    // that a joining process may have open.
    let script = "while :; do for p in /proc/[0-9]*; do case $p in /proc/1) ;; *) for f in $p/fd/*; do [ $f -ef / ] || ls -l $f; done 2>/dev/null | grep -v -E 'pipe:|/dev/null|/dev/pts|anon_inode|socket:|/proc/|total|[.]err|/err[.]|/out[.]' ;; esac; done; done";
    let container = t.start(&t.bundle()?.privileged().sh(script))?;
    rounds(duration(t) / 2, || container.try_exec(&[], &["/bin/true"]).map(|_| ()))?;
    let leaked: Vec<String> =
        container.output().lines().filter(|line| line.contains("->")).map(str::to_owned).collect();
    // Files of the image that a runtime reads to find the user are no secret.
    let own = |line: &String| {
        ["-> /bin/", "-> /tmp", "-> /etc/passwd", "-> /etc/group"].iter().any(|name| line.contains(name))
    };
    let foreign: Vec<&String> = leaked.iter().filter(|line| !own(line)).take(5).collect();
    ensure!(foreign.is_empty(), "descriptors seen: {foreign:?}");
    Ok(())
}

/// A copy of the runtime that may be attacked, and its content.
fn victim(t: &T) -> Verdict<(PathBuf, Vec<u8>)> {
    let copy = t.path("victim");
    fs::copy(&t.runtime, &copy)?;
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
    let content = fs::read(&copy)?;
    Ok((copy, content))
}

/// Opens the program of every process that is not the container's own, keeps it open, and tries to write when no
/// process runs it any more.
const OVERWRITE: &str = "while :; do for p in /proc/[0-9]*; do case $(readlink $p/exe) in */busybox|'') ;; *) (exec 7<$p/exe || exit; echo opened; for i in 1 2 3 4 5 6 7 8 9 10; do (echo broken >/proc/self/fd/7) && echo WROTE && break; usleep 3000; done) & ;; esac; done; done 2>/dev/null";

/// Runs a command of the copied runtime.
fn with_victim(t: &T, copy: &Path, words: &[&str]) -> Verdict<crate::kit::Ran> {
    let mut command = std::process::Command::new(copy);
    command.arg("--root").arg(t.root()).args(words).stdin(std::process::Stdio::null()).current_dir(&t.dir);
    t.finish(command)
}

/// A bundle whose busybox is its own copy, for payloads that write to programs.
fn with_own_busybox(t: &T) -> Verdict<Bundle> {
    let bundle = t.bundle()?.privileged();
    let busybox = bundle.rootfs().join("bin/busybox");
    fs::remove_file(&busybox)?;
    fs::copy(crate::kit::rootfs::MASTER, &busybox)?;
    Ok(bundle)
}

fn the_runtime_binary_cannot_be_overwritten_by_a_payload_that_is_it(t: &T) -> Verdict {
    let (copy, content) = victim(t)?;
    let container = t.start(&with_own_busybox(t)?.sh(OVERWRITE))?;
    // The image's /tmp/sh runs /proc/self/exe: at that moment, the runtime.
    let shell = container.bundle.join("rootfs/tmp/sh");
    fs::write(&shell, "#!/proc/self/exe --help\n")?;
    fs::set_permissions(&shell, fs::Permissions::from_mode(0o755))?;
    let done = rounds(duration(t), || with_victim(t, &copy, &["exec", &container.id, "/tmp/sh"]).map(|_| ()));
    ensure!(fs::read(&copy)? == content, "the runtime's binary was changed");
    done?;
    Ok(())
}

fn the_runtime_binary_cannot_be_overwritten_while_it_joins(t: &T) -> Verdict {
    let (copy, content) = victim(t)?;
    let container = t.start(&with_own_busybox(t)?.sh(OVERWRITE))?;
    let done = rounds(duration(t), || with_victim(t, &copy, &["exec", &container.id, "/bin/true"]).map(|_| ()));
    ensure!(fs::read(&copy)? == content, "the runtime's binary was changed");
    done?;
    Ok(())
}

fn the_runtime_binary_cannot_be_overwritten_by_an_entry_point(t: &T) -> Verdict {
    // Two containers of one pid namespace: the second one's entry point is the runtime, the first one attacks it.
    let (copy, content) = victim(t)?;
    let attacker = t.start(&with_own_busybox(t)?.sh(OVERWRITE))?;
    let join = json!({"type": "pid", "path": format!("/proc/{}/ns/pid", attacker.pid()?)});
    let bundle = t.bundle()?.namespace("pid", Some(join)).args(&["/proc/self/exe", "--help"]);
    bundle.write()?;
    let dir = bundle.dir.display().to_string();
    let done = rounds(duration(t), || with_victim(t, &copy, &["run", "--bundle", &dir, &t.id()]).map(|_| ()));
    ensure!(fs::read(&copy)? == content, "the runtime's binary was changed");
    done?;
    Ok(())
}

/// The host may make the mount writable for an update while a container has the program open.
fn a_program_on_a_read_only_mount_is_sealed_too(t: &T) -> Verdict {
    let (copy, _) = victim(t)?;
    let remount = |flags: MsFlags| {
        mount(None::<&str>, &copy, None::<&str>, MsFlags::MS_REMOUNT | MsFlags::MS_BIND | flags, None::<&str>)
    };
    let bundle = t.bundle()?.args(&["/bin/true"]);
    bundle.write()?;
    mount(Some(&copy), &copy, None::<&str>, MsFlags::MS_BIND, None::<&str>).context("bind")?;
    remount(MsFlags::MS_RDONLY).context("read-only")?;
    let (id, null) = (t.id(), std::process::Stdio::null);
    let mut command = std::process::Command::new(&copy);
    command.arg("--root").arg(t.root()).args(["create", "--bundle"]).arg(&bundle.dir).arg(&id);
    let made = command.stdin(null()).stdout(null()).stderr(null()).status().context("create");
    let container = Container::new(t, id, bundle.dir.clone());
    let found = container
        .pid()
        .map(|pid| remount(MsFlags::empty()).map(|()| access(format!("/proc/{pid}/exe").as_str(), AccessFlags::W_OK)));
    let deleted = container.verb("delete", &["--force"], &[]);
    umount2(&copy, MntFlags::MNT_DETACH).context("unmount")?;
    deleted?;
    ensure!(made?.success(), "create");
    ensure_eq!(found?.context("writable")?, Err(Errno::EROFS), "writing to the program of init");
    Ok(())
}

fn the_root_of_the_host_is_not_seen_through_a_joining_process(t: &T) -> Verdict {
    // Root of the container with CAP_SYS_PTRACE looks through every newcomer's /proc/PID/root and cwd.
    let script = "while :; do for p in /proc/[0-9]*; do for link in root cwd; do [ -d $p/$link/run/windlass-integration ] && echo seen through $p/$link; done; done; done 2>/dev/null";
    let capabilities = crate::kit::spec::capabilities(&["CAP_SYS_PTRACE", "CAP_KILL", "CAP_DAC_OVERRIDE"]);
    let container = t.start(&t.bundle()?.set("/process/capabilities", capabilities).sh(script))?;
    rounds(duration(t) / 2, || container.try_exec(&[], &["/bin/true"]).map(|_| ()))?;
    let seen = container.output().lines().count();
    ensure!(seen == 0, "the host's root was seen {seen} times");
    Ok(())
}

fn a_joining_process_is_closed_to_an_ordinary_container(t: &T) -> Verdict {
    // Without CAP_SYS_PTRACE, a joining process is protected because it is not dumpable.
    let script = "while :; do for p in /proc/[0-9]*; do case $p in /proc/1) ;; *) readlink $p/root $p/cwd $p/exe | grep -v -E '^(/|/bin/busybox)$'; for f in $p/fd/*; do [ $f -ef / ] || ls -l $f; done 2>/dev/null | grep -v -E '/(out|err)[.]' | grep -E 'cgroup|state|windlass' ;; esac; done; done 2>/dev/null";
    let container = t.start(&t.bundle()?.sh(script))?;
    rounds(duration(t) / 2, || container.try_exec(&[], &["/bin/true"]).map(|_| ()))?;
    let seen: Vec<String> = container.output().lines().take(5).map(str::to_owned).collect();
    ensure!(seen.is_empty(), "seen: {seen:?}");
    Ok(())
}

/// Watches the newcomers of a container from inside: processes that do not run its program yet.
const NEWCOMERS: &str = "cat /proc/self/mountinfo >/tmp/own; while :; do for p in /proc/[0-9]*; do read n <$p/comm; case $n in windlass*) WATCH ;; esac; done; done 2>/dev/null";

fn watched(t: &T, bundle: Bundle, watch: &str) -> Verdict<Vec<String>> {
    let container = t.start(&bundle.sh(&NEWCOMERS.replace("WATCH", watch)))?;
    let options = ["--env", "SECRET=of-the-caller"];
    rounds(duration(t) / 2, || container.try_exec(&options, &["/bin/true"])?.ok().map(drop))?;
    Ok(container.output().lines().take(5).map(str::to_owned).collect())
}

fn a_joining_process_shows_nothing_of_the_host(t: &T) -> Verdict {
    // Mounts that are not the container's, interfaces other than its loopback, the words of the caller.
    let watch = "grep -v -x -F -f /tmp/own $p/mountinfo; grep : $p/net/dev | grep -v ' lo:'; grep -a -E 'of-the-caller|/run/|--' $p/cmdline";
    for bundle in [t.bundle()?, super::namespaces::user_namespace(t)?] {
        let seen = watched(t, bundle, watch)?;
        ensure!(seen.is_empty(), "seen: {seen:?}");
    }
    Ok(())
}

fn an_init_in_a_shared_pid_namespace_shows_no_words_of_the_caller(t: &T) -> Verdict {
    let watch = "grep -a -E 'bundle|/run/|--' $p/cmdline && echo";
    let watcher = t.start(&t.bundle()?.sh(&NEWCOMERS.replace("WATCH", watch)))?;
    let shared = json!({"type": "pid", "path": format!("/proc/{}/ns/pid", watcher.pid()?)});
    let bundle = t.bundle()?.namespace("pid", Some(shared)).args(&["/bin/true"]);
    rounds(duration(t) / 2, || {
        let container = t.create(&bundle)?;
        let words = fs::read(format!("/proc/{}/cmdline", container.pid()?))?;
        ensure!(words.starts_with(b"windlass init\0"), "a waiting init shows {:?}", String::from_utf8_lossy(&words));
        container.verb("delete", &["--force"], &[])?.ok().map(drop)
    })?;
    let seen: Vec<String> = watcher.output().lines().take(5).map(str::to_owned).collect();
    ensure!(seen.is_empty(), "seen: {seen:?}");
    Ok(())
}

fn a_joining_process_has_the_powers_of_the_container_alone(t: &T) -> Verdict {
    let profile =
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["swapon"], "action": "SCMP_ACT_ERRNO"}]});
    let watch = "grep -E '^(CapPrm|CapEff|CapBnd|Uid)' $p/status";
    let capabilities = crate::kit::spec::capabilities(&["CAP_SYS_PTRACE"]);
    let bundle =
        t.bundle()?.set("/process/capabilities", capabilities).set("/process/user", json!({"uid": 7, "gid": 7}));
    let filtered = t.bundle()?.set("/process/capabilities", crate::kit::spec::capabilities(&["CAP_SYS_PTRACE"]));
    let filtered = filtered.set("/process/noNewPrivileges", json!(false)).set("/linux/seccomp", profile);
    for (bundle, uid) in [(bundle, "Uid:\t7\t7\t7\t7"), (filtered, "Uid:\t0\t0\t0\t0")] {
        let own = ["CapPrm:\t0000000000080000", "CapEff:\t0000000000080000", "CapBnd:\t0000000000080000", uid];
        let seen = watched(t, bundle, watch)?;
        // A program of another user than root has no capabilities (capabilities(7), "execve").
        let fewer = ["CapPrm:\t0000000000000000", "CapEff:\t0000000000000000"];
        let known = |line: &&String| own.contains(&line.as_str()) || fewer.contains(&line.as_str());
        let more: Vec<&String> = seen.iter().filter(|line| !known(line)).collect();
        ensure!(more.is_empty(), "seen: {more:?}");
    }
    Ok(())
}

fn a_detached_exec_outlives_the_runtime(t: &T) -> Verdict {
    for bundle in [t.bundle()?, super::namespaces::user_namespace(t)?] {
        let container = t.start(&bundle.sh("sleep 1000"))?;
        for user in ["0", "7"] {
            let file = t.path("pid");
            let words = ["--detach", "--user", user, "--pid-file", &file.display().to_string()];
            container.try_exec(&words, &["/bin/sleep", "1000"])?.ok()?;
            let pid = fs::read_to_string(&file)?;
            // A kill would come at once.
            std::thread::sleep(std::time::Duration::from_millis(50));
            let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            ensure!(state.contains("(sleep) S"), "user {user}: {state:?}");
        }
    }
    Ok(())
}

fn an_exec_that_the_container_stops_ends_with_the_runtime(t: &T) -> Verdict {
    let script = NEWCOMERS.replace("WATCH", "kill -STOP ${p#/proc/} && echo stopped ${p#/proc/}");
    let container = t.start(&t.bundle()?.privileged().sh(&script))?;
    let of = |pid: i32, file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let cgroup = of(container.pid()?, "cgroup");
    ensure!(cgroup.contains(&container.id), "the container is in no cgroup of its own: {cgroup:?}");
    // The intermediate process, which the container cannot stop, has the same cgroup.
    let processes = || {
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        pids.filter(|pid| of(*pid, "cgroup") == cgroup).collect::<Vec<_>>()
    };
    let is_ours = |pid: &i32| of(*pid, "comm").starts_with("windlass");
    let is_stopped = |pid: &i32| of(*pid, "stat").contains(") T ");
    let mut stopped = 0;
    rounds(duration(t) / 2, || -> Verdict {
        let mut command = t.command();
        command
            .args(["exec", &container.id, "/bin/true"])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null());
        let mut child = command.spawn()?;
        let mut ended = || child.try_wait().map_or(Some(None), |status| status.map(|_| None));
        let found = || processes().into_iter().find(is_stopped).map(Some);
        let what = "the exec ends or is stopped";
        let Some(pid) = crate::kit::wait::eventually(what, || ended().or_else(found))? else {
            return Ok(());
        };
        if !is_ours(&pid) {
            // The signal came after execve(2). The program of the container does not end with the runtime.
            kill(Pid::from_raw(pid), Signal::SIGKILL).context("kill")?;
            child.wait()?;
            return Ok(());
        }
        stopped += 1;
        child.kill()?;
        child.wait()?;
        let is_gone = || (!processes().iter().any(is_ours)).then_some(());
        crate::kit::wait::eventually("the stopped process is gone", is_gone)
    })?;
    // Otherwise nothing was tried.
    ensure!(stopped > 0, "no exec was stopped");
    Ok(())
}
