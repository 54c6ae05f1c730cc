//! After SIGKILL to any process of a command at any system call, `delete --force` removes everything that the command
//! has made.

use crate::chapter;
use crate::kit::inject::{Injection, kill_at};
use crate::kit::stop::Context;
use crate::kit::wait::eventually;
use crate::kit::{Bundle, Need, T, Verdict};
use std::fs;
use std::path::Path;
use std::process::Command;

chapter! { "crash":
    create_killed_anywhere_can_be_deleted [Need::Slow],
    create_in_the_callers_mount_namespace_killed_anywhere_can_be_deleted [Need::Slow, Need::Windlass],
    run_killed_anywhere_can_be_deleted [Need::Slow],
    start_killed_anywhere_can_be_deleted [Need::Slow],
    exec_killed_anywhere_leaves_a_usable_container [Need::Slow],
    delete_killed_anywhere_can_be_repeated [Need::Slow],
    kill_killed_anywhere_leaves_a_deletable_container [Need::Slow],
    a_create_whose_caller_dies_can_be_deleted,
}

/// Kills per command in the default run; with `--long` every call is tried.
const SAMPLES: u32 = 30;

/// Kills a command at its calls. `prepare` returns the id and the command.
fn sweep(t: &T, prepare: impl Fn() -> Verdict<(String, Command)>) -> Verdict {
    let (id, command) = prepare()?;
    let whole = kill_at(command, u32::MAX)?;
    clean(t, &id).context("after the run without a kill")?;
    let stride = if t.long { 1 } else { (whole.calls / SAMPLES).max(1) };
    let mut at = 1;
    while at <= whole.calls {
        let (id, command) = prepare()?;
        let Injection { calls, killed } = kill_at(command, at)?;
        clean(t, &id)
            .context(format!("killed at system call {at} of {} (made {calls}, killed: {killed})", whole.calls))?;
        at += stride;
    }
    Ok(())
}

/// Runs `delete --force`, after which nothing of the container may be left.
fn clean(t: &T, id: &str) -> Verdict {
    t.runtime(&["delete", "--force", id])?.ok().context("delete --force")?;
    eventually("everything of the container is gone", || traces(t, id).is_empty().then_some(()))
        .context(format!("left: {:?}", traces(t, id)))
}

/// Processes, cgroups, mounts and files that name the container or its bundle.
pub(super) fn traces(t: &T, id: &str) -> Vec<String> {
    let mut found = Vec::new();
    let me = std::process::id();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        let Ok(line) = fs::read(entry.path().join("cmdline")) else {
            continue;
        };
        // All processes but PID 1, the runner and this one came from the command.
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if pid > 1 && pid != me && !line.is_empty() && !line.contains(" @runner ") {
            found.push(format!("process {pid} {line}"));
        }
    }
    for name in [format!("/sys/fs/cgroup/{id}"), t.root().join(id).display().to_string()] {
        if Path::new(&name).exists() {
            found.push(name);
        }
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    found.extend(mounts.lines().filter(|line| line.contains("/case/")).map(|line| format!("mount {line}")));
    let stray = fs::read_dir(t.root())
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| fs::read_dir(entry.path()).is_ok_and(|mut d| d.next().is_some()));
    found.extend(stray.map(|entry| format!("file {}", entry.path().display())));
    found
}

fn command(t: &T, words: &[&str]) -> Command {
    let mut command = t.command();
    command.args(words);
    command
}

/// A bundle with most of the elements that leave traces: mounts, a cgroup, a hook.
fn bundle(t: &T) -> Verdict<Bundle> {
    let bundle = t
        .bundle()?
        .args(&["/bin/sleep", "1000"])
        .set("/hooks/createRuntime", serde_json::json!([{"path": "/bin/true"}]));
    bundle.write()?;
    Ok(bundle)
}

fn create_killed_anywhere_can_be_deleted(t: &T) -> Verdict {
    let dir = bundle(t)?.dir.display().to_string();
    sweep(t, || {
        let id = t.id();
        let command = command(t, &["create", "--bundle", &dir, &id]);
        Ok((id, command))
    })
}

fn create_in_the_callers_mount_namespace_killed_anywhere_can_be_deleted(t: &T) -> Verdict {
    let bundle = bundle(t)?.namespace("mount", None).set("/root/readonly", serde_json::json!(true));
    bundle.write()?;
    let dir = bundle.dir.display().to_string();
    sweep(t, || {
        let id = t.id();
        let command = command(t, &["create", "--bundle", &dir, &id]);
        Ok((id, command))
    })
}

fn run_killed_anywhere_can_be_deleted(t: &T) -> Verdict {
    let bundle = bundle(t)?.args(&["/bin/true"]);
    bundle.write()?;
    let dir = bundle.dir.display().to_string();
    sweep(t, || {
        let id = t.id();
        let command = command(t, &["run", "--bundle", &dir, &id]);
        Ok((id, command))
    })
}

/// The id of a container that was just created from this bundle.
fn created(t: &T, dir: &str) -> Verdict<String> {
    let id = t.id();
    t.runtime(&["create", "--bundle", dir, &id])?.ok()?;
    Ok(id)
}

fn start_killed_anywhere_can_be_deleted(t: &T) -> Verdict {
    let dir = bundle(t)?.dir.display().to_string();
    sweep(t, || {
        let id = created(t, &dir)?;
        let command = command(t, &["start", &id]);
        Ok((id, command))
    })
}

fn exec_killed_anywhere_leaves_a_usable_container(t: &T) -> Verdict {
    let dir = bundle(t)?.dir.display().to_string();
    sweep(t, || {
        let id = created(t, &dir)?;
        t.runtime(&["start", &id])?.ok()?;
        let command = command(t, &["exec", &id, "/bin/true"]);
        Ok((id, command))
    })
}

fn delete_killed_anywhere_can_be_repeated(t: &T) -> Verdict {
    let dir = bundle(t)?.dir.display().to_string();
    sweep(t, || {
        let id = created(t, &dir)?;
        let command = command(t, &["delete", "--force", &id]);
        Ok((id, command))
    })
}

fn kill_killed_anywhere_leaves_a_deletable_container(t: &T) -> Verdict {
    let dir = bundle(t)?.dir.display().to_string();
    sweep(t, || {
        let id = created(t, &dir)?;
        let command = command(t, &["kill", &id, "KILL"]);
        Ok((id, command))
    })
}

fn a_create_whose_caller_dies_can_be_deleted(t: &T) -> Verdict {
    // An engine's parent-death signal kills the command at any moment, by the clock.
    let dir = bundle(t)?.dir.display().to_string();
    for delay in [1, 2, 4, 6, 8, 12, 16, 24] {
        let id = t.id();
        let mut child = command(t, &["create", "--bundle", &dir, &id])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()?;
        std::thread::sleep(std::time::Duration::from_millis(delay));
        let _ = child.kill();
        child.wait()?;
        clean(t, &id).context(format!("killed after {delay} ms"))?;
    }
    Ok(())
}
