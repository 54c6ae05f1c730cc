//! The exit of a container whose init no process has waited for, from its exit pin in the kernel.

use crate::kit::containerd::Engine;
use crate::kit::machine::{self, EXIT_NAMESPACE, text};
use crate::kit::shim::{self, Shimmed};
use crate::kit::stop::{Context, fail};
use crate::kit::wait::eventually;
use crate::kit::{Bundle, Need, Stop, T, Verdict};
use crate::{chapter, ensure, ensure_eq};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

chapter! { "exits":
    an_end_that_nobody_waited_for_is_known [Need::Windlass],
    a_detached_run_keeps_the_end_too [Need::Windlass],
    the_host_has_one_mount_more_and_containers_none [Need::Windlass],
    nothing_of_the_host_is_in_the_namespace [Need::Windlass],
    a_pin_goes_with_the_container [Need::Windlass],
    a_delete_that_is_short_of_descriptors_leaves_no_pin [Need::Windlass],
    a_pin_goes_from_a_directory_that_is_out_of_reach [Need::Windlass],
    a_directory_of_another_user_leads_nowhere [Need::Windlass],
    several_state_roots_share_one_namespace [Need::Windlass],
    creates_at_once_make_one_namespace [Need::Windlass],
    a_shared_run_gets_a_private_directory [Need::Windlass],
    among_two_thousand_pins_the_right_one_is_found [Need::Windlass],
    a_kernel_without_it_is_noticed_once [Need::Windlass],
    neutral_mode_tells_an_end_that_its_shim_has_not_seen [Need::Windlass],
    neutral_mode_tells_an_end_that_its_shim_has_not_recorded [Need::Windlass],
    containerd_is_told_an_end_that_no_shim_has_recorded [Need::Windlass, Need::Slow],
    an_exit_file_that_another_user_names_is_not_written [Need::Windlass],
    a_dead_conmons_exit_file_is_written_by_delete [Need::Windlass],
    exit_files_that_others_may_have_named_are_not_written [Need::Windlass],
}

/// Skips the case where the kernel keeps no exits.
fn supported(t: &T) -> Verdict {
    let report: Value = t.runtime(&["doctor", "--json"])?.json()?;
    let findings = report["findings"].as_array().cloned().unwrap_or_default();
    let finding = findings.into_iter().find(|finding| finding["name"] == "exit status").unwrap_or_default();
    if finding["level"] == "ok" { Ok(()) } else { Err(Stop::Skip(finding["says"].to_string())) }
}

/// Unmounts the namespace, so that the next container makes it anew.
fn forget_namespace() {
    for point in [EXIT_NAMESPACE, "/run/windlass/@exits"] {
        while umount2(point, MntFlags::MNT_DETACH).is_ok() {}
    }
}

/// Runs `work` in the mount namespace of the pins.
fn inside<R: Send>(work: impl FnOnce() -> std::io::Result<R> + Send) -> Verdict<R> {
    match machine::among_exit_pins(work) {
        Some(done) => Ok(done?),
        None => fail("there is no namespace of the pins"),
    }
}

fn ended(t: &T, script: &str) -> Verdict<Value> {
    let container = t.start(&t.bundle()?.sh(script))?;
    container.wait_for("stopped")?;
    let state = container.state()?;
    ensure_eq!(container.state()?["exit"], state["exit"], "the exit when asked again");
    container.delete()?;
    Ok(state["exit"].clone())
}

fn an_end_that_nobody_waited_for_is_known(t: &T) -> Verdict {
    supported(t)?;
    ensure_eq!(ended(t, "exit 7")?["code"], 7, "the exit code");
    ensure_eq!(ended(t, "exit 0")?["code"], 0, "the exit code");
    let container = t.running()?;
    container.stop()?;
    let exit = container.state()?["exit"].clone();
    ensure_eq!(exit["signal"], "SIGKILL", "the signal");
    ensure!(exit["code"].is_null(), "no code beside a signal: {exit}");
    let listed = t.runtime(&["list", "--format", "json"])?.json()?;
    ensure_eq!(listed[0]["exit"], exit, "what list says");
    Ok(())
}

fn a_detached_run_keeps_the_end_too(t: &T) -> Verdict {
    supported(t)?;
    let bundle = t.bundle()?.sh("sleep 0.1; exit 9");
    bundle.write()?;
    let id = t.id();
    let mut command = t.command();
    command.args(["run", "--detach", "--bundle"]).arg(&bundle.dir).arg(&id);
    let (ran, container) = t.created(id, &bundle, command)?;
    ran.ok()?;
    container.wait_for("stopped")?;
    ensure_eq!(container.state()?["exit"]["code"], 9, "the exit code");
    Ok(())
}

fn the_host_has_one_mount_more_and_containers_none(t: &T) -> Verdict {
    supported(t)?;
    let before = eventually("the namespace of earlier cases is unmounted", || {
        forget_namespace();
        Some(text("/proc/self/mountinfo")).filter(|mounts| !mounts.contains(EXIT_NAMESPACE))
    })?;
    let bundle = t.bundle()?.sh("cat /proc/self/mountinfo; ls -l /proc/self/fd /proc/1/fd; exec sleep 1000");
    bundle.write()?;
    let (id, mut command) = (t.id(), t.command());
    command.args(["--debug", "create", "--bundle"]).arg(&bundle.dir).arg(&id);
    let (made, container) = t.created(id, &bundle, command)?;
    let log = made.ok()?.stderr;
    container.start()?;
    let output = container.wait_for_output("/proc/1/fd")?;
    ensure!(!output.contains("@exits") && !output.contains("pidfs") && !output.contains("nsfs"), "{output}");
    let after = text("/proc/self/mountinfo");
    let new: Vec<&str> = after.lines().filter(|line| !before.lines().any(|old| old == *line)).collect();
    // Its directory, too, where other mount namespaces follow this one.
    ensure!(new.iter().filter(|line| line.contains(EXIT_NAMESPACE)).count() == 1, "{new:?}; create said: {log}");
    ensure!(new.iter().all(|line| line.contains(" /run/windlass/@exits")), "{new:?}");
    let second = t.running()?;
    ensure_eq!(text("/proc/self/mountinfo"), after, "the mounts with a second container");
    let modes = ["/run/windlass/@exits"].map(|path| {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(path).map(|meta| meta.mode() & 0o7777).unwrap_or_default()
    });
    ensure_eq!(modes, [0o700], "the mode of the directory");
    second.stop()?;
    container.stop()
}

fn nothing_of_the_host_is_in_the_namespace(t: &T) -> Verdict {
    supported(t)?;
    let container = t.running()?;
    let mounts = inside(|| {
        fs::create_dir("/proc-of-test")?;
        mount(Some("proc"), "/proc-of-test", Some("proc"), MsFlags::empty(), None::<&str>)?;
        let mounts = fs::read_to_string("/proc-of-test/thread-self/mountinfo");
        umount2("/proc-of-test", MntFlags::MNT_DETACH)?;
        fs::remove_dir("/proc-of-test")?;
        mounts
    })?;
    let kinds: Vec<&str> = mounts.lines().filter_map(|line| line.split(" - ").nth(1)?.split(' ').next()).collect();
    ensure!(kinds.iter().filter(|kind| **kind == "tmpfs").count() == 1, "{mounts}");
    ensure!(kinds.iter().all(|kind| matches!(*kind, "tmpfs" | "pidfs" | "proc")), "{mounts}");
    container.stop()
}

fn a_pin_goes_with_the_container(t: &T) -> Verdict {
    supported(t)?;
    let before = machine::exit_pins();
    for words in [&["delete"][..], &["delete", "--force"]] {
        let container = t.running()?;
        ensure_eq!(machine::exit_pins().len(), before.len() + 1, "pins while it runs");
        if words.len() == 1 {
            container.stop()?;
        }
        t.runtime(&[words, &[&container.id]].concat())?.ok()?;
        ensure_eq!(machine::exit_pins(), before, "pins after the deletion");
    }
    // The record is lost; only its name is known.
    let container = t.running()?;
    container.stop()?;
    for file in container.state_files()? {
        fs::remove_file(file)?;
    }
    fs::remove_dir(format!("/sys/fs/cgroup/{}", container.id))?;
    t.runtime(&["delete", "--force", &container.id])?.ok()?;
    ensure_eq!(machine::exit_pins(), before, "pins of a container without a record");
    Ok(())
}

/// A command of the runtime, executed by another program.
fn below(t: &T, program: &[&str], words: &[&str]) -> Command {
    let (runtime, mut command) = (t.command(), Command::new(program[0]));
    command.args(&program[1..]).arg(runtime.get_program()).args(runtime.get_args()).args(words);
    command
}

/// Without the state file nothing would refer to the pin.
fn a_delete_that_is_short_of_descriptors_leaves_no_pin(t: &T) -> Verdict {
    supported(t)?;
    let before = machine::exit_pins();
    let mut failed = 0;
    for limit in 4..=16 {
        let container = t.running()?;
        container.stop()?;
        let limited = ["prlimit", &format!("--nofile={limit}"), "--"];
        let state = t.finish(below(t, &limited, &["state", &container.id]))?;
        ensure!(state.code != 0 || state.clone().json()?["exit"]["signal"] == "SIGKILL", "{limit}: {state:?}");
        let deleted = t.finish(below(t, &limited, &["delete", &container.id]))?;
        if deleted.code != 0 {
            failed += 1;
            t.runtime(&["delete", &container.id])?.ok().context(format!("again, after one with {limit}"))?;
        }
        ensure_eq!(machine::exit_pins(), before, "pins after a delete with {limit} descriptors");
    }
    ensure!((1..13).contains(&failed), "{failed} of 13 failed");
    Ok(())
}

fn a_pin_goes_from_a_directory_that_is_out_of_reach(t: &T) -> Verdict {
    supported(t)?;
    let before = machine::exit_pins();
    let directory = t.path("of-another-user");
    fs::create_dir(&directory)?;
    std::os::unix::fs::chown(&directory, Some(1000), Some(1000))?;
    fs::set_permissions(&directory, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    let container = t.running()?;
    container.stop()?;
    // Like a FUSE mount of a user, which is closed to root.
    let lost = "-dac_override,-dac_read_search";
    let unprivileged = ["setpriv", "--bounding-set", lost, "--inh-caps", lost];
    for words in [["state", &container.id], ["delete", &container.id]] {
        let mut command = below(t, &unprivileged, &words);
        command.current_dir(&directory);
        let ran = t.finish(command)?.ok()?;
        ensure!(words[0] == "delete" || ran.stdout.contains("SIGKILL"), "{}", ran.stdout);
    }
    ensure_eq!(machine::exit_pins(), before, "pins after the deletion");
    Ok(())
}

/// In their own directory, users may put links to namespaces, and FIFOs without a writer.
fn a_directory_of_another_user_leads_nowhere(t: &T) -> Verdict {
    supported(t)?;
    forget_namespace();
    let mut other = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sleep", "1000"])
        .uid(1000)
        .gid(1000)
        .spawn()?;
    let theirs = format!("/proc/{}/ns/mnt", other.id());
    let own = fs::read_link("/proc/self/ns/mnt")?;
    eventually("they have a mount namespace", || (fs::read_link(&theirs).ok()? != own).then_some(()))?;
    let directory = "/run/windlass/@exits";
    fs::create_dir_all(directory)?;
    let give = |owner| {
        ["/run/windlass", directory]
            .iter()
            .try_for_each(|path| std::os::unix::fs::chown(path, Some(owner), Some(owner)))
    };
    let checked = give(1000).map_err(Stop::from).and_then(|()| {
        for kind in ["a link", "a fifo"] {
            let _ = fs::remove_file(EXIT_NAMESPACE);
            match kind {
                "a link" => std::os::unix::fs::symlink(&theirs, EXIT_NAMESPACE)?,
                _ => nix::unistd::mkfifo(EXIT_NAMESPACE, nix::sys::stat::Mode::S_IRWXU)?,
            }
            let names = || -> Verdict<Vec<_>> {
                let inside = fs::read_dir(format!("/proc/{}/root", other.id()))?;
                Ok(inside.flatten().map(|entry| entry.file_name()).collect())
            };
            let before = names()?;
            let container = t.running()?;
            ensure_eq!(names()?, before, "what is in the namespace of the other user, behind {kind}");
            container.stop()?;
            container.state().context(kind)?;
            container.delete().context(kind)?;
        }
        Ok(())
    });
    let _ = fs::remove_file(EXIT_NAMESPACE);
    give(0)?;
    let _ = other.kill();
    let _ = other.wait();
    checked
}

fn several_state_roots_share_one_namespace(t: &T) -> Verdict {
    supported(t)?;
    let other = t.path("another root").display().to_string();
    let bundle = t.bundle()?.sh("exit 3").set("/linux/cgroupsPath", "/another".into());
    bundle.write()?;
    let mine = t.start(&t.bundle()?.sh("exit 4"))?;
    let dir = bundle.dir.display().to_string();
    let there = |words: &[&str]| t.runtime(&[&["--root", &other], words].concat());
    there(&["create", "--bundle", &dir, &mine.id])?.ok()?;
    there(&["start", &mine.id])?.ok()?;
    let ended = || Some(there(&["state", &mine.id]).ok()?.json().ok()?["exit"]["code"].clone());
    let exit = eventually("it ends", || ended().filter(|code| !code.is_null()))?;
    mine.wait_for("stopped")?;
    ensure_eq!((exit, mine.state()?["exit"]["code"].clone()), (3.into(), 4.into()), "the exit codes");
    there(&["delete", "--force", &mine.id])?.ok()?;
    // The same id in another root is another container.
    there(&["delete", "--force", &mine.id])?.ok()?;
    ensure_eq!(machine::exit_pins().len(), 1, "pins");
    mine.delete().map(drop)
}

fn creates_at_once_make_one_namespace(t: &T) -> Verdict {
    supported(t)?;
    for _ in 0..if t.long { 50 } else { 5 } {
        forget_namespace();
        let bundle = t.bundle()?.sh("exit 5");
        bundle.write()?;
        let ids: Vec<String> = (0..6).map(|_| t.id()).collect();
        let create = |id: &String| -> Verdict<_> {
            let mut command = t.command();
            command.args(["create", "--bundle"]).arg(&bundle.dir).arg(id);
            Ok(command.stdin(std::process::Stdio::null()).stdout(fs::File::create(t.path(id))?).spawn()?)
        };
        let running = ids.iter().map(create).collect::<Verdict<Vec<_>>>()?;
        for mut child in running {
            ensure!(child.wait()?.success(), "create");
        }
        let mounts = text("/proc/self/mountinfo");
        let mounted: Vec<&str> = mounts.lines().filter(|line| line.contains("@exits/ns")).collect();
        ensure_eq!((mounted.len(), machine::exit_pins().len()), (1, ids.len()), "mounts and pins: {mounted:?}");
        for id in &ids {
            t.runtime(&["start", id])?.ok()?;
            let ended = || Some(t.runtime(&["state", id]).ok()?.json().ok()?["exit"]["code"].clone());
            ensure_eq!(eventually("it ends", || ended().filter(|code| !code.is_null()))?, 5, "the exit code");
            t.runtime(&["delete", id])?.ok()?;
        }
    }
    Ok(())
}

/// The kernel copies no mount of a mount namespace into others, and refuses to mount one where others would get a copy.
fn a_shared_run_gets_a_private_directory(t: &T) -> Verdict {
    supported(t)?;
    forget_namespace();
    let none = None::<&str>;
    let shared = |line: &str| line.split(' ').nth(4) == Some("/run") && line.contains(" shared:");
    let was_shared = text("/proc/self/mountinfo").lines().any(shared);
    mount(none, "/run", none, MsFlags::MS_SHARED, none).context("make /run shared")?;
    let mut follower = Command::new("unshare").args(["-m", "--propagation", "slave", "sleep", "1000"]).spawn()?;
    let checked = eventually("another mount namespace", || {
        let other = fs::read_link(format!("/proc/{}/ns/mnt", follower.id())).ok()?;
        (other != fs::read_link("/proc/self/ns/mnt").ok()?).then_some(())
    })
    .and_then(|()| {
        ensure_eq!(ended(t, "exit 6")?["code"], 6, "the exit code");
        let mounts = text("/proc/self/mountinfo");
        let of_pins: Vec<&str> = mounts.lines().filter(|line| line.contains("@exits")).collect();
        ensure_eq!(of_pins.len(), 2, "the directory and the namespace: {of_pins:?}");
        ensure!(of_pins.iter().all(|line| !line.contains("shared:")), "{of_pins:?}");
        Ok(())
    });
    let _ = follower.kill();
    let _ = follower.wait();
    forget_namespace();
    if !was_shared {
        mount(none, "/run", none, MsFlags::MS_PRIVATE, none).context("make /run private")?;
    }
    checked
}

/// The pidfd of a process that has ended.
fn ended_process() -> Verdict<OwnedFd> {
    let mut child = Command::new("/bin/true").spawn()?;
    let pidfd = crate::sys::open_pid(child.id());
    child.wait()?;
    Ok(pidfd?)
}

/// Makes pins of plain processes, which are cheaper than containers.
fn among_two_thousand_pins_the_right_one_is_found(t: &T) -> Verdict {
    supported(t)?;
    let first = t.start(&t.bundle()?.sh("exit 8"))?;
    let lines = text("/proc/self/mountinfo").lines().count();
    for chunk in 0..20 {
        let ended = (0..100).map(|_| ended_process()).collect::<Verdict<Vec<_>>>()?;
        inside(|| {
            let mut numbered = ended.iter().enumerate();
            numbered.try_for_each(|(n, pidfd)| crate::sys::pin_pidfd(pidfd, &format!("/{chunk}-{n}-0000000000000000")))
        })?;
    }
    let second = t.start(&t.bundle()?.sh("exit 9"))?;
    second.wait_for("stopped")?;
    first.wait_for("stopped")?;
    let codes = (first.state()?["exit"]["code"].clone(), second.state()?["exit"]["code"].clone());
    ensure_eq!(codes, (8.into(), 9.into()), "the exit codes");
    ensure_eq!(text("/proc/self/mountinfo").lines().count(), lines, "mounts of the host");
    first.delete()?;
    t.runtime(&["delete", "--force", &second.id])?.ok()?;
    t.runtime(&["delete", "--force", &second.id])?.ok()?;
    ensure_eq!(machine::exit_pins().len(), 2000, "the pins of others");
    forget_namespace();
    Ok(())
}

fn a_kernel_without_it_is_noticed_once(t: &T) -> Verdict {
    forget_namespace();
    let _ = fs::remove_file(EXIT_NAMESPACE);
    let bundle = t.bundle()?.sh("exit 2");
    bundle.write()?;
    let create = |log: &str| -> Verdict<String> {
        let id = t.id();
        let mut command = t.command();
        command.args(["--debug", "--log", log, "create", "--bundle"]).arg(&bundle.dir).arg(&id);
        // PIDFD_GET_INFO
        crate::sys::refuse_ioctl(&mut command, 0xc040_ff0b, libc::ENOTTY as u32);
        let (ran, container) = t.created(id, &bundle, command)?;
        ran.ok()?;
        container.start()?;
        container.wait_for("stopped")?;
        Ok(text(log))
    };
    let (first, second) = (t.path("first").display().to_string(), t.path("second").display().to_string());
    let said = create(&first)?;
    ensure!(said.contains("cannot keep the exit status in the kernel"), "{said}");
    ensure!(fs::read_link("/run/windlass/@exits/refused").is_ok(), "it is remembered");
    ensure!(create(&second)?.contains("PIDFD_GET_INFO"), "the reason is said again: {}", text(&second));
    ensure!(machine::exit_pins().is_empty(), "no pins");
    fs::remove_file("/run/windlass/@exits/refused")?;
    let mut command = t.command();
    command.args(["doctor", "--json"]);
    crate::sys::refuse_ioctl(&mut command, 0xc040_ff0b, libc::ENOTTY as u32);
    let report: Value = t.finish(command)?.json()?;
    ensure!(report["findings"].to_string().contains("known only to the process that reaps"), "{report}");
    Ok(())
}

/// Waits until a process is gone, even as a zombie.
fn wait_until_gone(pid: &Value) -> Verdict {
    let path = format!("/proc/{pid}");
    eventually("the process is gone", || (!std::path::Path::new(&path).exists()).then_some(()))
}

/// The report of the neutral mode about a container that has ended with this code.
fn tells(c: &Shimmed<'_>, code: i32) -> Verdict {
    let status = c.line("status", &[])?;
    ensure_eq!((&status["exit"]["code"], &status["shim_lost"]), (&json!(code), &json!(false)), "the status");
    ensure_eq!(c.line("wait", &[])?["code"], code, "what wait says");
    let events = c.verb("events", &[])?.ok()?.stdout;
    ensure_eq!(events.matches("\"exited\"").count(), 1, "events of the end");
    ensure_eq!(c.line("delete", &[])?["exit"]["code"], code, "what delete says");
    Ok(())
}

fn neutral_mode_tells_an_end_that_its_shim_has_not_seen(t: &T) -> Verdict {
    supported(t)?;
    let bundle = t.bundle()?.sh("trap 'exit 5' TERM; while :; do usleep 10000; done");
    let c = shim::run(t, &bundle, &["--keep-on-shim-death"])?;
    c.kill_shim()?;
    t.runtime(&["kill", &c.id, "TERM"])?.ok()?;
    wait_until_gone(&c.made["pid"])?;
    tells(&c, 5)
}

fn neutral_mode_tells_an_end_that_its_shim_has_not_recorded(t: &T) -> Verdict {
    supported(t)?;
    let c = shim::run(t, &t.bundle()?.sh("read line; exit 4"), &["--stdin"])?;
    // The container ends while the shim is stopped; the shim then dies.
    let shim = nix::unistd::Pid::from_raw(c.pid());
    nix::sys::signal::kill(shim, nix::sys::signal::Signal::SIGSTOP)?;
    t.runtime(&["kill", &c.id, "KILL"])?.ok()?;
    c.kill_shim()?;
    wait_until_gone(&c.made["pid"])?;
    let status = c.line("status", &[])?;
    ensure_eq!((&status["exit"]["signal"], &status["shim_lost"]), (&json!(9), &json!(false)), "the status");
    ensure_eq!(c.line("delete", &[])?["exit"]["status"], 137, "what delete says");
    Ok(())
}

fn containerd_is_told_an_end_that_no_shim_has_recorded(t: &T) -> Verdict {
    supported(t)?;
    let mut engine = Engine::start(t)?;
    engine.run(&["-d"], "a", &["sh", "-c", "trap 'exit 42' TERM; while :; do sleep 0.05; done"])?.ok()?;
    let tasks = engine.ctr(&["tasks", "ls"])?.ok()?.stdout;
    let pid = tasks.lines().find_map(|line| line.strip_prefix("a ")?.split_whitespace().next());
    let pid: i32 = pid.and_then(|pid| pid.parse().ok()).ok_or_else(|| Stop::Fail(format!("no task in {tasks}")))?;
    // Daemon and shim die, then the container ends.
    engine.kill()?;
    engine.kill_shims()?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM)?;
    wait_until_gone(&pid.into())?;
    let answer = engine.delete_of("a")?;
    // containerd.task.v2.DeleteResponse: the second field, a number.
    ensure!(answer.windows(2).any(|pair| pair == [0x10, 42]), "{answer:?}");
    engine.restart()?;
    engine.ctr(&["containers", "rm", "a"])?.ok()?;
    engine.is_clean()
}

fn an_exit_file_that_another_user_names_is_not_written(t: &T) -> Verdict {
    supported(t)?;
    let target = t.path("named by another user");
    for fifo in [false, true] {
        let container = t.running()?;
        let names = container.bundle.join(".windlass-exit-files");
        match fifo {
            true => nix::unistd::mkfifo(&names, nix::sys::stat::Mode::S_IRWXU)?,
            false => fs::write(&names, serde_json::json!([target]).to_string())?,
        }
        std::os::unix::fs::chown(&names, Some(65534), Some(65534))?;
        container.stop()?;
        container.delete()?;
        ensure!(!target.exists(), "it was written");
    }
    Ok(())
}

fn a_dead_conmons_exit_file_is_written_by_delete(t: &T) -> Verdict {
    supported(t)?;
    let promise = |bundle: &Bundle| bundle.dir.join(".windlass-exit-files").exists();
    let end = |id: &str| -> Verdict<String> {
        t.runtime(&["start", id])?.ok()?;
        let stopped = || t.runtime(&["state", id]).ok()?.json().ok().filter(|state| state["status"] == "stopped");
        eventually("it ends", stopped)?;
        Ok(t.path("exits").join(id).display().to_string())
    };
    // A shim that is alive at the end writes the file itself.
    let (bundle, id) = (t.bundle()?.sh("exit 3"), t.id());
    shim::conmon(t, &id, &bundle)?;
    ensure!(promise(&bundle), "what it has to write is noted");
    let file = end(&id)?;
    eventually("the exit file", || (text(&file) == "3").then_some(()))?;
    eventually("nothing is left to write", || (!promise(&bundle)).then_some(()))?;
    fs::remove_file(&file)?;
    t.runtime(&["delete", &id])?.ok()?;
    ensure!(!std::path::Path::new(&file).exists(), "what was written is not written again");
    // If the shim has died, delete writes the file.
    for (script, status) in [("exit 6", "6"), ("kill -9 $$", "137")] {
        let (bundle, id) = (t.bundle()?.sh(script).namespace("pid", None), t.id());
        let shim = shim::conmon(t, &id, &bundle)?;
        shim::kill(shim)?;
        let file = end(&id)?;
        t.runtime(&["delete", &id])?.ok()?;
        ensure_eq!((text(&file).as_str(), promise(&bundle)), (status, false), "the exit file");
    }
    // The killed shim has left its control socket.
    let mut list = Command::new(&t.shim);
    list.arg("list");
    t.finish(list)?.ok()?;
    Ok(())
}

/// `delete` writes the files with the rights of its caller, and the bundle may be another user's.
fn exit_files_that_others_may_have_named_are_not_written(t: &T) -> Verdict {
    supported(t)?;
    for (owner, mode, written) in [(0, 0o644, true), (1000, 0o644, false), (0, 0o666, false)] {
        let bundle = t.bundle()?.sh("exit 6");
        let container = t.start(&bundle)?;
        container.wait_for("stopped")?;
        let (file, names) = (t.path(&format!("{owner}-{mode:o}")), bundle.dir.join(".windlass-exit-files"));
        fs::write(&names, serde_json::json!([file]).to_string())?;
        fs::set_permissions(&names, std::os::unix::fs::PermissionsExt::from_mode(mode))?;
        std::os::unix::fs::chown(&names, Some(owner), None)?;
        container.delete()?.ok()?;
        ensure_eq!(file.exists(), written, "whether the file of user {owner}, mode {mode:o}, was believed");
    }
    Ok(())
}
