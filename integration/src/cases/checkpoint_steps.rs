//! `checkpoint` and `restore` with a CRIU that plays every order of steps, failures and ends.

use crate::chapter;
use crate::kit::Need::{Criu, Slow, Windlass};
use crate::kit::criu::{COUNTING, Images, count, counts_on, needs_lazy_pages, start};
use crate::kit::machine::text;
use crate::kit::stop::Context;
use crate::kit::wait::eventually;
use crate::kit::{Bundle, Container, Ran, T, Verdict, cgroup};
use crate::{ensure, ensure_eq};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

chapter! { "checkpoint_steps":
    a_dump_that_fails_anywhere_leaves_the_container_as_it_was [Windlass, Slow],
    a_dump_whose_runtime_is_killed_leaves_a_container_to_go_on_with [Windlass, Slow],
    a_dump_that_is_done_removes_the_container [Windlass],
    a_restore_goes_through_every_step [Windlass],
    a_restore_that_fails_anywhere_leaves_nothing [Windlass, Slow],
    a_restore_whose_runtime_is_killed_can_be_deleted [Windlass, Slow],
    a_dump_that_is_killed_at_a_step_of_criu_loses_nothing [Windlass, Criu, Slow],
    a_restore_that_is_killed_at_a_step_of_criu_leaves_nothing [Windlass, Criu, Slow],
    a_restore_of_lazy_pages_that_is_killed_leaves_nothing [Windlass, Criu, Slow],
    a_criu_that_is_missing_or_too_old_is_named [Windlass],
    a_criu_that_does_not_end_holds_nobody_up [Windlass, Slow],
    the_guard_of_lazy_pages_does_not_keep_criu_from_its_end [Windlass, Slow],
    lazy_pages_wait_with_a_held_restore [Windlass, Slow],
    the_directory_of_the_images_is_not_changed [Windlass],
    a_file_of_criu_does_not_ask_for_cgroups [Windlass],
    a_link_of_another_user_does_not_lead_to_the_images [Windlass],
    below_a_frozen_cgroup_no_criu_is_started [Windlass],
    what_cannot_be_checkpointed_is_refused_in_the_words_of_runc [Windlass],
}

/// A CRIU that plays a script.
fn playing(t: &T, script: &str) -> Verdict<PathBuf> {
    let path = t.path(&format!("criu{}", t.number()));
    let program = std::env::current_exe().context("/proc/self/exe")?;
    let text = format!("#!/bin/sh\nexec '{}' @criu '{script}' \"$@\"\n", program.display());
    fs::write(&path, text).context(path.display())?;
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).context(path.display())?;
    Ok(path)
}

fn dump(t: &T, container: &Container, script: &str) -> Verdict<Ran> {
    let images = Images::of(t, playing(t, script)?);
    images.try_dump(container, &[])
}

fn sleeping(t: &T) -> Verdict<Bundle> {
    Ok(t.bundle()?.args(&["/bin/sleep", "1000"]))
}

const FAILING_DUMPS: &[&str] = &[
    "eof",
    "fail",
    "garbage",
    "other",
    "pre-dump eof",
    "pre-dump fail",
    "pre-dump garbage",
    "pre-dump network-lock eof",
    "pre-dump network-lock query-ext-files fail",
    "pre-dump network-lock query-ext-files post-dump eof",
    "pre-dump network-lock query-ext-files post-dump fail",
    "post-dump post-dump network-unlock fail",
    "no-such-step fail",
    "setup-namespaces orphan-pts-master fail",
];

fn a_dump_that_fails_anywhere_leaves_the_container_as_it_was(t: &T) -> Verdict {
    let container = start(t, &sleeping(t)?)?;
    let goes_on = |paused: bool| {
        container.status_is(if paused { "paused" } else { "running" })?;
        ensure_eq!(text(cgroup::of(&container)?.join("cgroup.freeze")).trim() == "1", paused, "frozen");
        Ok(())
    };
    for script in FAILING_DUMPS {
        dump(t, &container, script)?.code_is(1)?;
        goes_on(false).context(script)?;
    }
    container.exec(&["/bin/true"])?;
    // The runtime fails at a step, because a file is in its way.
    let images = Images::of(t, playing(t, "pre-dump post-dump network-unlock done")?);
    fs::create_dir_all(images.dir.join("windlass.json/in-the-way")).context("images")?;
    fs::set_permissions(&images.dir, std::os::unix::fs::PermissionsExt::from_mode(0o700)).context("images")?;
    images.try_dump(&container, &[])?.code_is(1)?.stderr_has("windlass.json")?;
    goes_on(false)?;
    container.verb("pause", &[], &[])?.ok()?;
    dump(t, &container, "pre-dump network-lock post-dump fail")?.code_is(1)?;
    goes_on(true)?;
    container.verb("resume", &[], &[])?.ok()?;
    Ok(())
}

fn a_dump_whose_runtime_is_killed_leaves_a_container_to_go_on_with(t: &T) -> Verdict {
    for script in ["kill", "pre-dump kill", "pre-dump network-lock kill", "pre-dump post-dump kill"] {
        let container = start(t, &sleeping(t)?)?;
        dump(t, &container, script)?.code_is(-9)?;
        if container.status()? == "paused" {
            container.verb("resume", &[], &[])?.ok()?;
        }
        container.status_is("running").context(script)?;
        container.exec(&["/bin/true"])?;
        let dir = cgroup::of(&container)?;
        dump(t, &container, script)?.code_is(-9)?;
        container.verb("delete", &["--force"], &[])?.ok()?;
        ensure!(!dir.exists(), "{script}: the cgroup is still there");
    }
    Ok(())
}

fn a_dump_that_is_done_removes_the_container(t: &T) -> Verdict {
    let stopped = t.path("poststop");
    let hook = json!([{"path": "/bin/sh", "args": ["sh", "-c", format!("echo ran >>{}", stopped.display())]}]);
    let container = start(t, &sleeping(t)?.set("/hooks/poststop", hook))?;
    dump(t, &container, "pre-dump network-lock post-dump done")?.ok()?;
    ensure_eq!(text(&stopped).trim(), "ran", "the poststop hook");
    container.verb("state", &[], &[])?.code_is(1)?.stderr_has("container does not exist")?;
    Ok(())
}

fn restore<'t>(t: &'t T, bundle: &Bundle, script: &str) -> Verdict<(Ran, Container<'t>)> {
    let images = Images::of(t, playing(t, script)?);
    fs::create_dir_all(&images.dir).context("images")?;
    images.try_restore(bundle, &["--trust-images"])
}

const WHOLE: &str = "pre-restore birth post-setup-namespaces post-restore network-unlock pre-resume post-resume done";

fn a_restore_goes_through_every_step(t: &T) -> Verdict {
    let (hooked, pid_file) = (t.path("hooked"), t.path("pid"));
    let hook =
        |name: &str| json!([{"path": "/bin/sh", "args": ["sh", "-c", format!("echo {name} >>{}", hooked.display())]}]);
    let bundle = sleeping(t)?
        .set("/hooks/prestart", hook("prestart"))
        .set("/hooks/createRuntime", hook("createRuntime"))
        .set("/hooks/poststart", hook("poststart"))
        .set("/hooks/poststop", hook("poststop"));
    let images = Images::of(t, playing(t, WHOLE)?);
    fs::create_dir_all(&images.dir).context("images")?;
    let (ran, container) =
        images.try_restore(&bundle, &["--trust-images", "--pid-file", &pid_file.display().to_string()])?;
    ran.ok()?;
    container.status_is("running")?;
    ensure_eq!(text(&pid_file), container.pid()?.to_string(), "the pid file");
    ensure_eq!(text(&hooked).lines().collect::<Vec<_>>(), ["prestart", "createRuntime"], "the hooks that ran");
    container.stop()?;
    container.delete()?;
    ensure_eq!(text(&hooked).lines().last(), Some("poststop"), "the last hook");
    Ok(())
}

const FAILING_RESTORES: &[&str] = &[
    "eof",
    "fail",
    "garbage",
    "other",
    "done",
    "pre-restore eof",
    "pre-restore fail",
    "pre-restore done",
    "birth eof",
    "birth fail",
    "birth garbage",
    "birth done",
    "birth birth fail",
    "birth post-setup-namespaces fail",
    "birth orphan-pts-master fail",
    "birth post-restore eof",
    "birth post-restore fail",
    "birth post-restore network-unlock eof",
    "birth post-restore network-unlock pre-resume fail",
    "foreign done",
    "post-restore done",
    "setup-namespaces done",
];

/// Fails unless nothing of the container is left.
fn nothing_is_left(t: &T, container: &Container) -> Verdict {
    container.verb("state", &[], &[])?.code_is(1)?.stderr_has("does not exist")?;
    let dir = Path::new("/sys/fs/cgroup").join(&container.id);
    eventually("the cgroup is gone", || (!dir.exists()).then_some(()))?;
    let named = fs::read_dir(t.root()).context("the state root")?.flatten();
    let named = named.filter(|entry| entry.file_name().to_string_lossy().contains(&container.id)).count();
    ensure_eq!(named, 0, "files of it in the state root");
    Ok(())
}

fn a_restore_that_fails_anywhere_leaves_nothing(t: &T) -> Verdict {
    let stopped = t.path("poststop");
    let hook = json!([{"path": "/bin/sh", "args": ["sh", "-c", format!("echo ran >>{}", stopped.display())]}]);
    let bundle = sleeping(t)?.set("/hooks/poststop", hook);
    for script in FAILING_RESTORES {
        let (ran, container) = restore(t, &bundle, script)?;
        ran.code_is(1).context(script)?;
        nothing_is_left(t, &container).context(script)?;
    }
    ensure_eq!(text(&stopped).lines().count(), FAILING_RESTORES.len(), "poststop hooks that ran");
    Ok(())
}

fn a_restore_whose_runtime_is_killed_can_be_deleted(t: &T) -> Verdict {
    let bundle = sleeping(t)?;
    for script in
        ["kill", "pre-restore kill", "birth kill", "birth post-restore kill", "birth post-restore network-unlock kill"]
    {
        let (ran, container) = restore(t, &bundle, script)?;
        ran.code_is(-9)?;
        container.verb("delete", &["--force"], &[])?.ok()?;
        nothing_is_left(t, &container).context(script)?;
    }
    Ok(())
}

/// The processes below a process, by their directories in /proc.
fn below(pid: u32) -> Vec<PathBuf> {
    let processes: Vec<PathBuf> =
        fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    let parent = |process: &Path| {
        let status = text(process.join("status"));
        status.lines().find_map(|line| line.strip_prefix("PPid:\t")?.parse::<u32>().ok())
    };
    let mut found: Vec<PathBuf> = vec![Path::new("/proc").join(pid.to_string())];
    let mut next = 0;
    while let Some(above) = found.get(next).and_then(|process| process.file_name()?.to_str()?.parse::<u32>().ok()) {
        found.extend(processes.iter().filter(|process| parent(process) == Some(above)).cloned());
        next += 1;
    }
    found.split_off(1)
}

/// When a process began, in ticks since the machine started. `None`: it has ended.
fn began(process: &Path) -> Option<String> {
    let stat = text(process.join("stat"));
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    let state = fields.next()?;
    (!matches!(state, "Z" | "X")).then(|| fields.nth(18).map(str::to_owned))?
}

/// Runs a command of the runtime until its log has a step, and kills it then. Returns when CRIU has ended, too: its
/// processes end or undo their work when they learn of it.
fn killed_at(t: &T, images: &Images, words: &[&str], step: &str) -> Verdict {
    let log = t.path(&format!("log{}", t.number()));
    let mut command = images.command();
    command.arg("--debug").arg("--log").arg(&log).args(words);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().context("the runtime")?;
    while !text(&log).contains(step) && child.try_wait().context("the runtime")?.is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    // While it is stopped it starts no other process. It may have ended by itself.
    let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGSTOP);
    let is_criu = |process: &PathBuf| fs::read_link(process.join("exe")).is_ok_and(|program| program.ends_with("criu"));
    let criu = below(child.id()).into_iter().filter(is_criu);
    let criu: Vec<_> = criu.map(|process| (began(&process), process)).collect();
    child.kill().context("kill")?;
    child.wait().context("the runtime")?;
    ensure!(text(&log).contains(step), "{step} was not reached: {}", text(&log));
    // CRIU changes its command line. What it forks holds the images' directory, which itself opens late.
    let runs = || criu.iter().any(|(begun, process)| begun.is_some() && began(process) == *begun);
    eventually("that CRIU has ended", || (!runs() && !is_open(&images.dir)).then_some(())).context(step)
}

fn a_dump_that_is_killed_at_a_step_of_criu_loses_nothing(t: &T) -> Verdict {
    let steps = ["start CRIU", "freeze the container", "up to pre-dump", "up to network-lock", "up to post-dump"];
    for step in steps {
        let bundle = t.bundle()?.sh(COUNTING);
        let container = start(t, &bundle)?;
        counts_on(&bundle, 1)?;
        let images = Images::new(t);
        let dir = images.dir.display().to_string();
        killed_at(t, &images, &["checkpoint", "--image-path", &dir, &container.id], step)?;
        // CRIU has undone its work, and leaves the container frozen, as it found it.
        match container.status().unwrap_or_default().as_str() {
            // All was written, and the runtime had only to clear up.
            "stopped" if step.ends_with("post-dump") => {
                let restored = images.restore(&bundle, &[]).context(step)?;
                counts_on(&bundle, count(&bundle)).context(step)?;
                drop(restored);
            }
            status => {
                if status == "paused" {
                    container.verb("resume", &[], &[])?.ok()?;
                }
                counts_on(&bundle, count(&bundle)).context(step)?;
                container.exec(&["/bin/true"]).context(step)?;
            }
        }
        container.verb("delete", &["--force"], &[])?.ok()?;
        nothing_is_left(t, &container).context(step)?;
    }
    Ok(())
}

/// Kills restores of one dump at these steps. Nothing may be left.
fn kills_restores_at(t: &T, steps: &[&str], flags: &[&str]) -> Verdict {
    let bundle = t.bundle()?.sh(COUNTING);
    let container = start(t, &bundle)?;
    counts_on(&bundle, 1)?;
    let images = Images::new(t);
    images.dump(&container, &[])?;
    let (dir, place) = (images.dir.display().to_string(), bundle.dir.display().to_string());
    for step in steps {
        let id = t.id();
        let words = ["restore", "--detach", "--bundle", &place, "--image-path", &dir];
        // CRIU's processes end with the killed runtime, before anybody deletes the container.
        killed_at(t, &images, &[&words[..], flags, &[id.as_str()]].concat(), step)?;
        let container = Container::new(t, id, bundle.dir.clone());
        container.verb("delete", &["--force"], &[])?.ok()?;
        nothing_is_left(t, &container).context(step)?;
    }
    Ok(())
}

fn a_restore_that_is_killed_at_a_step_of_criu_leaves_nothing(t: &T) -> Verdict {
    let steps = ["start CRIU", "pre-restore", "up to setup-namespaces", "up to post-restore", "up to pre-resume"];
    kills_restores_at(t, &steps, &[])
}

fn a_restore_of_lazy_pages_that_is_killed_leaves_nothing(t: &T) -> Verdict {
    needs_lazy_pages()?;
    // CRIU connects to the process soon after it was started, and seldom before it is killed itself.
    let started = ["start the process that fetches memory"; 6];
    kills_restores_at(t, &started, &["--lazy-pages"])?;
    kills_restores_at(t, &["up to pre-restore", "up to setup-namespaces"], &["--lazy-pages"])
}

fn a_criu_that_is_missing_or_too_old_is_named(t: &T) -> Verdict {
    let container = start(t, &sleeping(t)?)?;
    let missing = Images::of(t, "/nowhere/criu".into());
    missing.try_dump(&container, &[])?.code_is(1)?.stderr_has("/nowhere/criu: executable file not found in $PATH")?;
    dump(t, &container, "old done")?.code_is(1)?.stderr_has("CRIU version 3.17.1 must be 4.1 or higher")?;
    dump(t, &container, "mute")?.code_is(1)?.stderr_has("criu failed: type VERSION")?;
    container.status_is("running")?;
    let bundle = sleeping(t)?;
    let (ran, left) = restore(t, &bundle, "old done")?;
    ran.code_is(1)?.stderr_has("must be 4.1 or higher")?;
    nothing_is_left(t, &left)?;
    Ok(())
}

fn below_a_frozen_cgroup_no_criu_is_started(t: &T) -> Verdict {
    let above = Path::new("/sys/fs/cgroup/wl-above-checkpoint");
    fs::create_dir_all(above).context("cgroup")?;
    let bundle = sleeping(t)?.set("/linux/cgroupsPath", json!("/wl-above-checkpoint/inner"));
    let container = start(t, &bundle)?;
    fs::write(above.join("cgroup.freeze"), "1").context("cgroup.freeze")?;
    let begun = std::time::Instant::now();
    let refused = dump(t, &container, "pre-dump eof")?;
    fs::write(above.join("cgroup.freeze"), "0").context("cgroup.freeze")?;
    refused.code_is(1)?.stderr_has("an ancestor of the container's cgroup is frozen")?;
    ensure!(begun.elapsed().as_secs() < 60, "it waited");
    container.verb("delete", &["--force"], &[])?.ok()?;
    fs::remove_dir(above).context("cgroup")?;
    Ok(())
}

fn what_cannot_be_checkpointed_is_refused_in_the_words_of_runc(t: &T) -> Verdict {
    let created = t.create(&sleeping(t)?)?;
    dump(t, &created, "done")?.code_is(1)?.stderr_has("Container cannot be checkpointed in created state")?;
    created.start()?;
    created.stop()?;
    dump(t, &created, "done")?.code_is(1)?.stderr_has("Container cannot be checkpointed in stopped state")?;
    let images = Images::of(t, playing(t, "done")?);
    let running = start(t, &sleeping(t)?)?;
    for (parent, words) in [("/x", "--parent-path must be relative"), ("../none", "invalid --parent-path")] {
        images.try_dump(&running, &["--parent-path", parent])?.code_is(1)?.stderr_has(words)?;
    }
    images
        .try_dump(&running, &["--status-fd", "0"])?
        .code_is(1)?
        .stderr_has("invalid --status-fd argument 0: not writable")?;
    fs::set_permissions(&images.dir, std::os::unix::fs::PermissionsExt::from_mode(0o777)).context("images")?;
    images.try_dump(&running, &[])?.code_is(1)?.stderr_has("can be written by others")?;
    running.status_is("running")?;
    Ok(())
}

fn a_criu_that_does_not_end_holds_nobody_up(t: &T) -> Verdict {
    let container = start(t, &sleeping(t)?)?;
    dump(t, &container, "endless")?.code_is(1)?.stderr_has("CRIU reports steps without end")?;
    container.status_is("running")?;
    let ran = dump(t, &container, "stay")?.code_is(1)?;
    ensure!(ran.took.as_secs() < 14, "it waited {:?}", ran.took);
    eventually("that CRIU has ended", || (!runs("@criu\0stay")).then_some(()))?;
    container.status_is("running")?;
    container.exec(&["/bin/true"])?;
    let (ran, left) = restore(t, &sleeping(t)?, "endless")?;
    ran.code_is(1)?.stderr_has("CRIU reports steps without end")?;
    nothing_is_left(t, &left)?;
    Ok(())
}

fn the_guard_of_lazy_pages_does_not_keep_criu_from_its_end(t: &T) -> Verdict {
    let endless = playing(t, "endless")?;
    let script = text(&endless).replace("\nexec", "\n[ \"$1\" != lazy-pages ] || { echo >&3; exec sleep 1000; }\nexec");
    fs::write(&endless, script).context(endless.display())?;
    let images = Images::of(t, endless);
    fs::create_dir_all(&images.dir).context("images")?;
    let (ran, left) = images.try_restore(&sleeping(t)?, &["--trust-images", "--lazy-pages"])?;
    let ran = ran.code_is(1)?.stderr_has("CRIU reports steps without end")?;
    // CRIU ends when it learns of the failure, and otherwise it is killed after ten seconds.
    ensure!(ran.took.as_secs() < 8, "it waited {:?}", ran.took);
    nothing_is_left(t, &left)
}

fn lazy_pages_wait_with_a_held_restore(t: &T) -> Verdict {
    let program = playing(t, WHOLE)?;
    let script =
        text(&program).replace("\nexec", "\n[ \"$1\" != lazy-pages ] || { echo >&3; exec sleep 471147; }\nexec");
    fs::write(&program, script).context(program.display())?;
    let images = Images::of(t, program);
    fs::create_dir_all(&images.dir).context("images")?;
    let flags = ["--trust-images", "--lazy-pages", "--hold"];
    let fetches = || runs("sleep\u{0}471147");
    let restored = |started: bool| -> Verdict {
        let (ran, container) = images.try_restore(&sleeping(t)?, &flags)?;
        ran.ok()?;
        ensure!(fetches(), "nobody fetches the memory of a held restore");
        if started {
            container.start()?;
            container.status_is("running")?;
            ensure!(fetches(), "nobody fetches the memory of a container that was held");
            // CRIU's own process would end with the container's.
            t.host("pkill", &["-f", "^sleep 471147"])?;
        }
        container.verb("delete", &["--force"], &[])?.ok()?;
        eventually("that nobody fetches memory", || (!fetches()).then_some(()))?;
        nothing_is_left(t, &container)
    };
    restored(false)?;
    restored(true)
}

/// Whether a process has these words in its command line.
fn runs(words: &str) -> bool {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes.into_iter().any(|process| text(process.path().join("cmdline")).contains(words))
}

/// Whether a process has a directory open.
fn is_open(dir: &Path) -> bool {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let descriptors =
        processes.flat_map(|process| fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten());
    descriptors.into_iter().any(|descriptor| fs::read_link(descriptor.path()).is_ok_and(|path| path == dir))
}

/// The processes of a user namespace read the images, whose directory belongs to root alone.
fn the_directory_of_the_images_is_not_changed(t: &T) -> Verdict {
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::fs::PermissionsExt;
    let work = t.path("work").display().to_string();
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    let bundle = sleeping(t)?
        .namespace("user", Some(json!({"type": "user"})))
        .set("/linux/uidMappings", map.clone())
        .set("/linux/gidMappings", map);
    for script in ["kill", "pre-restore kill", "fail"] {
        let images = Images::of(t, playing(t, script)?);
        fs::create_dir_all(&images.dir).context("images")?;
        fs::set_permissions(&images.dir, fs::Permissions::from_mode(0o700)).context("images")?;
        let seen = || fs::metadata(&images.dir).map(|it| (it.mode(), it.ctime(), it.ctime_nsec())).context("images");
        let before = seen()?;
        let (ran, container) = images.try_restore(&bundle, &["--trust-images", "--work-path", &work])?;
        ensure!(ran.code != 0, "{script}: it was restored");
        ensure_eq!(seen()?, before, "mode and time of change with {script}");
        container.verb("delete", &["--force"], &[])?.ok()?;
    }
    Ok(())
}

/// CRIU's own file overrides the flags, and windlass checks the cgroups of the images by the flags.
fn a_file_of_criu_does_not_ask_for_cgroups(t: &T) -> Verdict {
    let file = t.path("criu.conf");
    let named = |bundle: Bundle| bundle.set("/annotations", json!({"org.criu.config": file.display().to_string()}));
    for (text, refused) in [("# manage-cgroups\n", false), (" manage-cgroups full\n", true), ("manage=soft\n", true)] {
        fs::write(&file, text).context("criu.conf")?;
        let (ran, container) = restore(t, &named(sleeping(t)?), "pre-restore fail")?;
        let says = if refused { "asks CRIU for cgroups" } else { "criu failed: type RESTORE" };
        ran.code_is(1)?.stderr_has(says).context(text)?;
        nothing_is_left(t, &container)?;
    }
    Ok(())
}

fn a_link_of_another_user_does_not_lead_to_the_images(t: &T) -> Verdict {
    let container = start(t, &sleeping(t)?)?;
    let mut images = Images::of(t, playing(t, "pre-dump fail")?);
    let (real, link) = (t.path("real"), t.path("link"));
    fs::create_dir_all(&real).context("images")?;
    std::os::unix::fs::symlink(&real, &link).context("link")?;
    images.dir = link.join("images");
    images.try_dump(&container, &[])?.code_is(1)?.stderr_has("criu failed: type DUMP")?;
    std::os::unix::fs::lchown(&link, Some(1000), Some(1000)).context("link")?;
    images.try_dump(&container, &[])?.code_is(1)?.stderr_has("is a link that belongs to user 1000")?;
    container.status_is("running")?;
    Ok(())
}
