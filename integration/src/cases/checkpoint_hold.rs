//! Containers from images that wait for `start`, by a real CRIU.

use crate::chapter;
use crate::kit::Need::{Criu, Slow, Windlass};
use crate::kit::console::FdSocket;
use crate::kit::criu::{COUNTING, Images, count, counts_on, dumped_at_terminal, echoes, start};
use crate::kit::machine::text;
use crate::kit::stop::Context;
use crate::kit::wait::eventually;
use crate::kit::{Bundle, Container, T, Verdict, cgroup};
use crate::{ensure, ensure_eq};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::fs;
use std::time::Duration;

chapter! { "checkpoint_hold":
    a_restored_container_waits_for_start [Windlass, Criu, Slow],
    one_that_waits_can_be_deleted [Windlass, Criu],
    one_whose_keeper_ends_is_stopped [Windlass, Criu],
    one_whose_criu_ends_is_stopped [Windlass, Criu],
    one_whose_images_are_no_good_fails_at_start [Windlass, Criu],
    its_terminal_comes_with_start [Windlass, Criu, Slow],
    hooks_and_pid_file_come_before_start [Windlass, Criu, Slow],
}

/// The images of a container that has counted.
fn dumped<'t>(t: &'t T, bundle: &Bundle) -> Verdict<(Images<'t>, u32)> {
    let container = start(t, bundle)?;
    counts_on(bundle, 1)?;
    let images = Images::new(t);
    images.dump(&container, &[])?;
    Ok((images, count(bundle)))
}

/// The other processes whose command line contains a word.
fn with_word(word: &str) -> Vec<i32> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let has = |pid: &i32| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.split(|byte| *byte == 0).any(|found| found == word.as_bytes())
    };
    pids.filter(has).filter(|pid| *pid != std::process::id() as i32).collect()
}

/// The process of windlass that waits for `start`.
fn keeper(container: &Container) -> Vec<i32> {
    with_word(&container.id)
}

fn held<'t>(t: &'t T, bundle: &Bundle) -> Verdict<(Images<'t>, Container<'t>, u32)> {
    let (images, at) = dumped(t, bundle)?;
    let container = images.restore(bundle, &["--hold"])?;
    container.status_is("created")?;
    Ok((images, container, at))
}

fn a_restored_container_waits_for_start(t: &T) -> Verdict {
    let bundle = t.bundle()?.sh(COUNTING);
    let (_images, container, at) = held(t, &bundle)?;
    let pid = container.pid()?;
    let network = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net"));
    ensure!(network(&pid.to_string())? != network("self")?, "it is in the host's network namespace");
    ensure_eq!(keeper(&container).len(), 1, "keepers");
    // Init has not changed its root yet.
    container.try_exec(&[], &["/bin/true"])?.code_is(255)?.stderr_has("not restored yet")?;
    std::thread::sleep(Duration::from_millis(500));
    ensure_eq!(count(&bundle), at, "the count before start");
    container.start()?;
    container.status_is("running")?;
    ensure_eq!(container.pid()?, pid, "the pid after start");
    let at = counts_on(&bundle, at)?;
    gone(&container)?;
    container.exec(&["/bin/true"])?;
    container.verb("start", &[], &[])?.code_is(1)?.stderr_has("already running")?;
    // A container that is restored a second time works like the first.
    let again = Images::new(t);
    again.dump(&container, &[])?;
    let container = again.restore(&bundle, &["--hold"])?;
    container.start()?;
    counts_on(&bundle, at)?;
    Ok(())
}

fn gone(container: &Container) -> Verdict {
    eventually("the keeper ends", || keeper(container).is_empty().then_some(()))
}

fn one_that_waits_can_be_deleted(t: &T) -> Verdict {
    let bundle = t.bundle()?.sh(COUNTING);
    for force in [&["--force"][..], &[]] {
        let (_images, container, _) = held(t, &bundle)?;
        let group = cgroup::of(&container)?;
        container.verb("delete", force, &[])?.ok()?;
        container.verb("state", &[], &[])?.code_is(1)?.stderr_has("does not exist")?;
        ensure!(!group.exists(), "its cgroup is still there");
        gone(&container)?;
    }
    Ok(())
}

fn one_whose_keeper_ends_is_stopped(t: &T) -> Verdict {
    let bundle = t.bundle()?.sh(COUNTING);
    let (_images, container, _) = held(t, &bundle)?;
    for pid in keeper(&container) {
        kill(Pid::from_raw(pid), Signal::SIGKILL).context("the keeper")?;
    }
    container.wait_for("stopped")?;
    container.verb("start", &[], &[])?.code_is(1)?.stderr_has("cannot start a container that has stopped")?;
    container.delete()?;
    Ok(())
}

fn one_whose_criu_ends_is_stopped(t: &T) -> Verdict {
    let bundle = t.bundle()?.sh(COUNTING);
    let (_images, container, _) = held(t, &bundle)?;
    let init = container.pid()?;
    // Before `start` the others in the cgroup are those of CRIU.
    let pids = text(cgroup::of(&container)?.join("cgroup.procs"));
    let criu: Vec<i32> = pids.lines().filter_map(|pid| pid.parse().ok()).filter(|pid| *pid != init).collect();
    ensure!(!criu.is_empty(), "init is alone in {pids:?}");
    for pid in criu {
        kill(Pid::from_raw(pid), Signal::SIGKILL).context("CRIU")?;
    }
    gone(&container)?;
    container.wait_for("stopped")?;
    container.verb("start", &[], &[])?.code_is(1)?.stderr_has("cannot start a container that has stopped")?;
    container.delete()?;
    Ok(())
}

fn one_whose_images_are_no_good_fails_at_start(t: &T) -> Verdict {
    let bundle = t.bundle()?.sh(COUNTING);
    let (images, container, _) = held(t, &bundle)?;
    for entry in fs::read_dir(&images.dir)?.flatten() {
        // CRIU reads this image after init is made.
        if entry.file_name().to_string_lossy().starts_with("mm-") {
            fs::File::create(entry.path())?;
        }
    }
    let ran = container.verb("start", &[], &[])?;
    ran.code_is(1)?.stderr_has("criu failed: type RESTORE")?.stderr_has("restore.log")?;
    container.wait_for("stopped")?;
    gone(&container)?;
    container.delete()?;
    Ok(())
}

fn its_terminal_comes_with_start(t: &T) -> Verdict {
    let (bundle, images, _terminal) = dumped_at_terminal(t)?;
    let second = FdSocket::new(t.path("second"))?;
    let container = images.restore(&bundle, &["--hold", "--console-socket", second.arg()])?;
    container.start()?;
    echoes(&mut second.terminal()?, "two")
}

fn hooks_and_pid_file_come_before_start(t: &T) -> Verdict {
    let seen = t.path("seen");
    let hook = |name: &str| {
        let script = format!("echo {name} >>{}", seen.display());
        json!([{ "path": "/bin/sh", "args": ["sh", "-c", script] }])
    };
    let hooks = ["createRuntime", "poststart", "poststop"].map(|name| (name.to_owned(), hook(name)));
    let bundle = t.bundle()?.sh(COUNTING).set("/hooks", Value::Object(hooks.into_iter().collect()));
    let (images, _) = dumped(t, &bundle)?;
    fs::remove_file(&seen)?;
    let pid_file = t.path("pid");
    let container = images.restore(&bundle, &["--hold", "--pid-file", &pid_file.display().to_string()])?;
    ensure_eq!(text(&pid_file).trim(), container.pid()?.to_string(), "the pid file");
    ensure_eq!(text(&seen), "createRuntime", "the hooks so far");
    container.start()?;
    ensure_eq!(text(&seen), "createRuntime", "the hooks so far");
    container.verb("delete", &["--force"], &[])?.ok()?;
    ensure_eq!(text(&seen), "createRuntime\npoststop", "all hooks");
    Ok(())
}
