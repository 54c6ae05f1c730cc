//! config.md, "POSIX-platform Hooks"; runtime.md, "Lifecycle", steps 4 to 13.

use crate::kit::machine::{field, text};
use crate::kit::stop::Context;
use crate::kit::wait::eventually;
use crate::kit::{Bundle, Container, Need, T, Verdict};
use crate::{chapter, ensure, ensure_eq};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

chapter! { "hooks":
    hooks_run_in_the_order_of_the_lifecycle,
    hooks_get_the_state_on_stdin,
    hooks_get_args_and_env,
    hooks_of_the_runtime_run_in_the_runtimes_namespaces,
    create_container_hooks_run_in_the_container_namespaces,
    start_container_hooks_run_inside,
    a_hook_without_an_environment_has_the_one_around_it,
    create_container_hooks_begin_in_the_root_filesystem,
    a_failing_prestart_hook_fails_the_create,
    a_failing_create_runtime_hook_fails_the_create,
    a_failing_create_container_hook_fails_the_create,
    a_failing_start_container_hook_fails_the_start,
    a_failing_poststart_hook_stops_the_container,
    a_failing_poststart_hook_destroys_the_container [Need::Windlass],
    a_failing_poststop_hook_lets_the_others_run,
    the_text_of_a_failing_hook_is_reported,
    a_hook_that_takes_too_long_is_killed,
    a_hook_whose_child_keeps_the_pipes_open_is_given_up_in_time,
    a_missing_hook_program_fails,
    several_hooks_run_one_after_the_other,
    poststop_hooks_run_after_a_failed_create,
    a_relative_hook_path_is_refused,
    hooks_see_the_pid_of_the_container,
    hooks_have_no_descriptor_of_the_runtime [Need::Windlass],
    hooks_have_the_umask_of_the_caller,
    a_hook_need_not_read_its_state,
    a_delete_that_dies_in_a_poststop_hook_can_be_repeated [Need::Windlass],
    a_run_that_is_killed_during_a_hook_leaves_nothing_running [Need::Windlass],
}

const KINDS: [&str; 6] = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// Where hooks on the host side write.
fn record(t: &T) -> PathBuf {
    t.path("record")
}

/// A hook that runs a shell script.
fn hook(script: &str) -> Value {
    json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]})
}

/// A hook that writes a word to the record.
fn note(t: &T, word: &str) -> Value {
    hook(&format!("echo {word} >>{}", record(t).display()))
}

fn with(bundle: Bundle, kind: &str, hooks: Value) -> Bundle {
    bundle.set(&format!("/hooks/{kind}"), hooks)
}

fn recorded(t: &T) -> String {
    fs::read_to_string(record(t)).unwrap_or_default()
}

fn hooks_run_in_the_order_of_the_lifecycle(t: &T) -> Verdict {
    // startContainer runs inside, so it writes to a bind of the case's directory.
    let mut bundle = t.bundle()?.bind(&t.dir, "/mnt", &["bind"]);
    for kind in KINDS {
        let script = match kind {
            "startContainer" => format!("echo {kind} >>/mnt/record"),
            _ => format!("echo {kind} >>{}", record(t).display()),
        };
        bundle = with(bundle, kind, json!([hook(&script)]));
    }
    let container = t.create(&bundle.sh("echo payload >>/mnt/record; sleep 1000"))?;
    ensure_eq!(recorded(t), "prestart\ncreateRuntime\ncreateContainer\n", "after create");
    container.start()?;
    eventually("the payload's line", || recorded(t).contains("payload").then_some(()))?;
    let mut after: Vec<String> = recorded(t).lines().skip(3).map(str::to_owned).collect();
    ensure_eq!(after[0], "startContainer", "first after start");
    after.sort();
    ensure_eq!(after, ["payload", "poststart", "startContainer"], "after start");
    container.stop()?;
    ensure!(!recorded(t).contains("poststop"), "poststop before delete");
    container.delete()?;
    ensure!(recorded(t).ends_with("poststop\n"), "after delete: {:?}", recorded(t));
    Ok(())
}

fn hooks_get_the_state_on_stdin(t: &T) -> Verdict {
    let expected = [
        ("prestart", "creating"),
        ("createRuntime", "creating"),
        ("createContainer", "creating"),
        ("poststart", "running"),
        ("poststop", "stopped"),
    ];
    let mut bundle = t.bundle()?.set("/annotations", json!({"a": "b"})).args(&["/bin/sleep", "1000"]);
    for (kind, _) in expected {
        bundle = with(bundle, kind, json!([hook(&format!("cat >{}", t.path(kind).display()))]));
    }
    let container = t.start(&bundle)?;
    let pid = container.pid()?;
    container.stop()?;
    container.delete()?;
    for (kind, status) in expected {
        let state: Value = serde_json::from_str(&fs::read_to_string(t.path(kind))?).context(kind)?;
        ensure_eq!(state["id"], container.id.as_str(), "{kind}: id");
        ensure_eq!(state["bundle"], bundle.dir.display().to_string(), "{kind}: bundle");
        ensure_eq!(state["annotations"]["a"], "b", "{kind}: annotations");
        ensure_eq!(state["status"], status, "{kind}: status");
        if kind != "poststop" && kind != "createContainer" {
            ensure_eq!(state["pid"], pid, "{kind}: pid");
        }
    }
    Ok(())
}

fn hooks_get_args_and_env(t: &T) -> Verdict {
    let script = t.path("script");
    fs::write(
        &script,
        format!("#!/bin/sh\necho \"$0 $1 $WORD\" >{}; env | wc -l >>{}\n", record(t).display(), record(t).display()),
    )?;
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let hooks = json!([{"path": script, "args": ["zero", "one"], "env": ["WORD=word", "PATH=/bin:/usr/bin"]}]);
    t.run(&with(t.bundle()?, "createRuntime", hooks))?.ok()?;
    let text = recorded(t);
    ensure!(text.contains("one word"), "the hook wrote {text:?}");
    let variables: u32 = text.lines().last().unwrap_or_default().trim().parse()?;
    ensure!(variables <= 5, "the hook inherited an environment of {variables} variables");
    // For a program that is no script, the first is its name.
    let script = format!("echo $0 $1 >{}", record(t).display());
    let hooks = json!([{"path": "/bin/sh", "args": ["called", "-c", script]}]);
    t.run(&with(t.bundle()?, "createRuntime", hooks))?.ok()?;
    ensure_eq!(recorded(t), "called\n", "the name of the hook");
    Ok(())
}

fn hooks_of_the_runtime_run_in_the_runtimes_namespaces(t: &T) -> Verdict {
    let own = fs::read_link("/proc/self/ns/mnt")?.display().to_string();
    for kind in ["prestart", "createRuntime", "poststart", "poststop"] {
        let script = format!("readlink /proc/self/ns/mnt >{}", record(t).display());
        t.run(&with(t.bundle()?, kind, json!([hook(&script)])))?.ok().context(kind)?;
        ensure_eq!(recorded(t).trim(), own, "{kind}");
    }
    Ok(())
}

fn create_container_hooks_run_in_the_container_namespaces(t: &T) -> Verdict {
    let script = format!(
        "readlink /proc/self/ns/mnt /proc/self/ns/uts >{}; [ -d {}/bundle0/rootfs ] && echo host paths >>{}",
        record(t).display(),
        t.dir.display(),
        record(t).display()
    );
    t.run(&with(t.bundle()?, "createContainer", json!([hook(&script)])))?.ok()?;
    let text = recorded(t);
    for file in ["mnt", "uts"] {
        let own = fs::read_link(format!("/proc/self/ns/{file}"))?.display().to_string();
        ensure!(!text.contains(&own), "createContainer ran in the runtime's {file} namespace");
    }
    ensure!(text.contains("host paths"), "createContainer runs before pivot_root, with paths of the runtime: {text:?}");
    Ok(())
}

fn start_container_hooks_run_inside(t: &T) -> Verdict {
    let hooks = json!([{"path": "/bin/touch", "args": ["touch", "/tmp/from-hook"]}]);
    t.run(&with(t.bundle()?, "startContainer", hooks).sh("ls /tmp"))?.ok()?.stdout_is("from-hook\n")?;
    Ok(())
}

fn a_hook_without_an_environment_has_the_one_around_it(t: &T) -> Verdict {
    let bare = |script: String| json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}]);
    let bundle = t.bundle()?.bind(&t.dir, "/mnt", &["bind"]).set("/process/env", json!(["PATH=/bin", "OF=container"]));
    let bundle = with(bundle, "startContainer", bare("echo $OF >/mnt/inside".into()));
    let bundle = with(bundle, "createRuntime", bare(format!("echo ${{OF-none}} $PATH >{}", record(t).display())));
    t.run(&bundle.args(&["/bin/true"]))?.ok()?;
    ensure_eq!(fs::read_to_string(t.path("inside"))?, "container\n", "startContainer");
    ensure_eq!(recorded(t), format!("none {}\n", std::env::var("PATH").unwrap_or_default()), "createRuntime");
    Ok(())
}

fn create_container_hooks_begin_in_the_root_filesystem(t: &T) -> Verdict {
    let bundle = with(t.bundle()?, "createContainer", json!([hook("echo here >var/mark")]));
    t.run(&bundle.args(&["/bin/cat", "/var/mark"]))?.ok()?.stdout_is("here\n")?;
    Ok(())
}

fn fails_the_create(t: &T, kind: &str) -> Verdict {
    let bundle = with(t.bundle()?.sh("sleep 1000"), kind, json!([hook("exit 3")]));
    let (ran, container) = t.try_create(&bundle, &[])?;
    ran.code_is(1)?.stderr_has("hook")?;
    container.verb("state", &[], &[])?.fails()?.stderr_has("does not exist")?;
    Ok(())
}

fn a_failing_prestart_hook_fails_the_create(t: &T) -> Verdict {
    fails_the_create(t, "prestart")
}

fn a_failing_create_runtime_hook_fails_the_create(t: &T) -> Verdict {
    fails_the_create(t, "createRuntime")
}

fn a_failing_create_container_hook_fails_the_create(t: &T) -> Verdict {
    fails_the_create(t, "createContainer")
}

fn a_failing_start_container_hook_fails_the_start(t: &T) -> Verdict {
    let bundle = with(t.bundle()?.sh("echo payload ran"), "startContainer", json!([hook("exit 3")]));
    let container = t.create(&bundle)?;
    container.verb("start", &[], &[])?;
    container.wait_for("stopped")?;
    ensure!(!container.output().contains("payload ran"), "the payload ran");
    container.delete()?;
    Ok(())
}

fn a_failing_poststart_hook_stops_the_container(t: &T) -> Verdict {
    let container = t.create(&with(t.bundle()?.sh("sleep 1000"), "poststart", json!([hook("exit 3")])))?;
    container.verb("start", &[], &[])?.fails()?;
    eventually("the container has stopped or is gone", || {
        let state = container.verb("state", &[], &[]).ok()?;
        (state.code != 0 || state.stdout.contains("\"stopped\"")).then_some(())
    })
}

fn a_failing_poststart_hook_destroys_the_container(t: &T) -> Verdict {
    let bundle = with(t.bundle()?.sh("sleep 1000"), "poststart", json!([hook("exit 3")]));
    let bundle = with(bundle, "poststop", json!([note(t, "poststop")]));
    let container = t.create(&bundle)?;
    container.verb("start", &[], &[])?.fails()?.stderr_has("poststart")?;
    ensure_eq!(recorded(t), "poststop\n", "after start");
    container.verb("state", &[], &[])?.fails()?;
    t.run(&bundle)?.fails()?.stderr_has("poststart")?;
    ensure_eq!(recorded(t), "poststop\npoststop\n", "after run");
    ensure_eq!(fs::read_dir(t.root())?.count(), 0, "containers left");
    Ok(())
}

fn a_failing_poststop_hook_lets_the_others_run(t: &T) -> Verdict {
    let hooks = json!([note(t, "first"), hook("exit 3"), note(t, "third")]);
    let container = t.start(&with(t.bundle()?, "poststop", hooks))?;
    container.wait_for("stopped")?;
    container.delete()?;
    ensure_eq!(recorded(t), "first\nthird\n", "poststop hooks");
    container.verb("state", &[], &[])?.fails()?;
    Ok(())
}

fn the_text_of_a_failing_hook_is_reported(t: &T) -> Verdict {
    t.run(&with(t.bundle()?, "createRuntime", json!([hook("echo the reason why >&2; exit 3")])))?
        .code_is(1)?
        .stderr_has("the reason why")?;
    Ok(())
}

fn a_hook_that_takes_too_long_is_killed(t: &T) -> Verdict {
    let mut slow = hook("exec sleep 30");
    slow["timeout"] = json!(1);
    let start = Instant::now();
    t.run(&with(t.bundle()?, "createRuntime", json!([slow])))?.code_is(1)?;
    ensure!(start.elapsed() < Duration::from_secs(25), "took {:?}", start.elapsed());
    Ok(())
}

fn a_hook_whose_child_keeps_the_pipes_open_is_given_up_in_time(t: &T) -> Verdict {
    let mut slow = hook("sleep 12 & sleep 12; true");
    slow["timeout"] = json!(1);
    let start = Instant::now();
    t.run(&with(t.bundle()?, "createRuntime", json!([slow])))?.code_is(1)?;
    ensure!(start.elapsed() < Duration::from_secs(11), "took {:?}", start.elapsed());
    std::thread::sleep(Duration::from_secs(12).saturating_sub(start.elapsed()));
    Ok(())
}

fn a_missing_hook_program_fails(t: &T) -> Verdict {
    t.run(&with(t.bundle()?, "createRuntime", json!([{"path": "/no/such/hook"}])))?
        .code_is(1)?
        .stderr_has("/no/such/hook")?;
    Ok(())
}

fn several_hooks_run_one_after_the_other(t: &T) -> Verdict {
    let slow = hook(&format!("sleep 0.05; echo one >>{}", record(t).display()));
    t.run(&with(t.bundle()?, "createRuntime", json!([slow, note(t, "two"), note(t, "three")])))?.ok()?;
    ensure_eq!(recorded(t), "one\ntwo\nthree\n", "order");
    Ok(())
}

fn poststop_hooks_run_after_a_failed_create(t: &T) -> Verdict {
    let bundle = with(t.bundle()?, "createRuntime", json!([hook("exit 3")]));
    let (ran, _container) = t.try_create(&with(bundle, "poststop", json!([note(t, "poststop")])), &[])?;
    ran.code_is(1)?;
    ensure_eq!(recorded(t), "poststop\n", "the record");
    Ok(())
}

fn a_relative_hook_path_is_refused(t: &T) -> Verdict {
    t.run(&with(t.bundle()?, "createRuntime", json!([{"path": "bin/true"}])))?.code_is(1)?;
    Ok(())
}

fn hooks_see_the_pid_of_the_container(t: &T) -> Verdict {
    // Network plugins take the pid from stdin and enter its namespace.
    let script =
        format!("pid=$(sed 's/.*\"pid\": *\\([0-9]*\\).*/\\1/'); readlink /proc/$pid/ns/net >{}", record(t).display());
    let container: Container = t.create(&with(t.bundle()?, "createRuntime", json!([hook(&script)])))?;
    let wanted = fs::read_link(format!("/proc/{}/ns/net", container.pid()?))?.display().to_string();
    ensure_eq!(recorded(t).trim(), wanted, "the network namespace that the hook saw");
    Ok(())
}

/// One of the runtime's descriptors is the lock of the container: a daemon that a hook starts would hold it for ever.
fn hooks_have_no_descriptor_of_the_runtime(t: &T) -> Verdict {
    let kinds = ["prestart", "createRuntime", "poststart", "poststop"];
    let list = || json!([hook(&format!("exec ls /proc/self/fd >>{}", record(t).display()))]);
    let bundle = kinds.iter().fold(t.bundle()?.sh("true"), |bundle, kind| with(bundle, kind, list()));
    t.run(&bundle)?.ok()?;
    // With the directory, and what the caller of this suite has left open.
    let expected = t.host("/bin/sh", &["-c", "exec ls /proc/self/fd"])?;
    ensure_eq!(recorded(t), expected.repeat(kinds.len()), "what the hooks had open");
    Ok(())
}

fn hooks_have_the_umask_of_the_caller(t: &T) -> Verdict {
    let kinds = ["createRuntime", "poststart"];
    let tell = || json!([hook(&format!("umask >>{}", record(t).display()))]);
    let bundle = kinds.iter().fold(t.bundle()?.sh("true"), |bundle, kind| with(bundle, kind, tell()));
    bundle.write()?;
    let mut command = std::process::Command::new("/bin/sh");
    command.args(["-c", "umask 0027; exec \"$@\"", "sh"]).arg(&t.runtime).arg("--root").arg(t.root());
    command.arg("run").arg("--bundle").arg(&bundle.dir).arg(t.id()).stdin(std::process::Stdio::null());
    t.finish(command)?.ok()?;
    ensure_eq!(recorded(t), "0027\n0027\n", "what the hooks had");
    Ok(())
}

/// The state is longer than a pipe, so who writes it is told that nobody will read the rest. In a PID namespace of its
/// own, init is not ended by SIGPIPE.
fn a_hook_need_not_read_its_state(t: &T) -> Verdict {
    let long = "x".repeat(200_000);
    for kind in KINDS {
        let bundle = t.bundle()?.set("/annotations", json!({"long": long})).sh("echo ran");
        let bundle = with(bundle, kind, json!([hook("exit 0")])).namespace("pid", None);
        t.run(&bundle)?.ok().context(kind)?.stdout_is("ran\n").context(kind)?;
    }
    Ok(())
}

fn a_delete_that_dies_in_a_poststop_hook_can_be_repeated(t: &T) -> Verdict {
    let script = format!("echo ran >>{}; [ -e {} ] || kill -9 $PPID", record(t).display(), t.path("again").display());
    let bundle = with(t.bundle()?, "poststop", json!([hook(&script)])).args(&["/bin/sleep", "1000"]);
    let container = t.start(&bundle)?;
    container.stop()?;
    ensure!(container.verb("delete", &[], &[])?.code != 0, "it was killed");
    ensure_eq!(container.state()?["status"], "stopped", "the status");
    fs::write(t.path("again"), "")?;
    container.delete()?;
    ensure_eq!(recorded(t), "ran\nran\n", "the hook");
    Ok(())
}

/// The kernel takes the parent-death signal away when the ids change, and hooks of startContainer run after that.
fn a_run_that_is_killed_during_a_hook_leaves_nothing_running(t: &T) -> Verdict {
    for uid in [0, 1000] {
        let dir = t.path(&format!("of-{uid}"));
        fs::create_dir(&dir)?;
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777))?;
        let bundle = t.bundle()?.bind(&dir, "/mnt", &["bind"]).set("/process/user/uid", json!(uid));
        let bundle = with(bundle, "startContainer", json!([hook("echo >/mnt/runs; sleep 1000")]));
        bundle.write()?;
        let id = t.id();
        let mut command = t.command();
        command.args(["run", "--bundle"]).arg(&bundle.dir).arg(&id).stdin(Stdio::null());
        let mut run = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        eventually("the hook", || dir.join("runs").exists().then_some(()))?;
        let children = text(format!("/proc/{0}/task/{0}/children", run.id()));
        let init: i32 = children.trim().parse().context(format!("the children of run: {children:?}"))?;
        run.kill()?;
        run.wait()?;
        let ended = eventually("the end of init", || {
            let state = field(&text(format!("/proc/{init}/status")), "State");
            (state.is_empty() || state.starts_with('Z')).then_some(())
        });
        t.runtime(&["delete", "--force", &id])?.ok()?;
        ended.context(format!("user {uid}"))?;
    }
    Ok(())
}
