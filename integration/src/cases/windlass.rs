//! Features that only windlass has: it explains itself.

use crate::kit::Need::{Controller, Windlass};
use crate::kit::{Bundle, Ran, T, Verdict};
use crate::{chapter, ensure, ensure_eq};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

chapter! { "windlass":
    explain_prints_the_plan_and_does_nothing [Windlass],
    explain_json_has_steps_with_pointers [Windlass],
    explain_works_without_the_right_to_act [Windlass],
    check_passes_a_good_bundle [Windlass],
    check_names_every_fault [Windlass],
    check_names_what_would_be_ignored [Windlass],
    an_error_has_its_kind_and_pointer [Windlass],
    an_error_of_the_kernel_has_its_call_and_errno [Windlass],
    an_error_has_a_hint_where_one_is_known [Windlass],
    several_faults_are_one_line [Windlass],
    warnings_are_a_key_of_the_error [Windlass],
    warnings_without_an_error_are_one_line_each [Windlass],
    debug_logs_the_steps_with_their_durations [Windlass],
    state_of_a_stopped_container_has_its_exit_code [Windlass],
    state_of_a_stopped_container_has_its_signal [Windlass],
    the_exit_record_tells_of_an_out_of_memory_kill [Windlass, Controller("memory")],
    an_out_of_memory_kill_is_told_though_somebody_else_reaped_init [Windlass, Controller("memory")],
    run_tells_of_an_out_of_memory_kill [Windlass, Controller("memory")],
    a_memory_limit_too_low_for_init_is_explained [Windlass, Controller("memory")],
    a_program_starts_in_very_little_memory [Windlass, Controller("memory")],
    a_killed_init_is_reported_with_its_step [Windlass],
    a_newer_state_version_is_a_clear_error [Windlass],
    the_default_root_is_run_windlass [Windlass],
    a_missing_bundle_names_the_path [Windlass],
    a_log_that_nobody_reads_is_not_waited_for [Windlass],
    a_state_root_by_another_users_link_is_refused [Windlass],
    another_users_devpts_is_named [Windlass],
    create_needs_no_writable_host_besides_its_root [Windlass],
}

/// The one error line of a failed `create`.
fn error_of(t: &T, bundle: &Bundle) -> Verdict<Value> {
    bundle.write()?;
    let log = t.path(&format!("log-{}.json", t.id()));
    let dir = bundle.dir.display().to_string();
    let words = ["--log", &log.display().to_string(), "--log-format", "json", "create", "--bundle", &dir, &t.id()];
    t.runtime(&words)?.code_is(1)?;
    let content = fs::read_to_string(&log)?;
    ensure_eq!(content.lines().count(), 1, "lines in {content}");
    Ok(serde_json::from_str(&content)?)
}

fn missing_source(t: &T) -> Verdict<Bundle> {
    Ok(t.bundle()?.bind(std::path::Path::new("/no/such/source"), "/mnt/target", &["bind"]))
}

fn explain(t: &T, bundle: &Bundle, options: &[&str]) -> Verdict<Ran> {
    bundle.write()?;
    let dir = bundle.dir.display().to_string();
    t.runtime(&[&["explain"], options, &["--bundle", &dir]].concat())
}

fn check(t: &T, bundle: &Bundle) -> Verdict<Ran> {
    bundle.write()?;
    t.runtime(&["check", "--bundle", &bundle.dir.display().to_string()])
}

fn explain_prints_the_plan_and_does_nothing(t: &T) -> Verdict {
    let ran = explain(t, &t.bundle()?, &[])?.ok()?;
    ran.clone().stdout_has("/dev/shm")?.stdout_has("pivot")?;
    ensure!(ran.stdout.contains("/mounts/0") || ran.stdout.contains("/mounts/"), "no pointers: {}", ran.stdout);
    ensure_eq!(fs::read_dir(t.root()).map_or(0, Iterator::count), 0, "entries in the state directory");
    Ok(())
}

fn explain_json_has_steps_with_pointers(t: &T) -> Verdict {
    let plan = explain(t, &t.bundle()?, &["--format", "json"])?.ok()?.json()?;
    let text = plan.to_string();
    for pointer in ["/mounts/0", "/linux/maskedPaths/0", "/hostname", "/process"] {
        ensure!(text.contains(pointer), "no step with {pointer}");
    }
    Ok(())
}

fn explain_works_without_the_right_to_act(t: &T) -> Verdict {
    let bundle = t.bundle()?;
    bundle.write()?;
    for dir in bundle.dir.ancestors().take(3) {
        fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    }
    let mut command = std::process::Command::new("setpriv");
    command
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .arg(&t.runtime)
        .args(["explain", "--bundle"])
        .arg(&bundle.dir);
    t.finish(command)?.ok()?;
    Ok(())
}

fn check_passes_a_good_bundle(t: &T) -> Verdict {
    check(t, &t.bundle()?)?.ok()?;
    Ok(())
}

fn check_names_every_fault(t: &T) -> Verdict {
    let bundle =
        missing_source(t)?.set("/process/cwd", json!("relative")).set("/linux/namespaces/-", json!({"type": "pid"}));
    let ran = check(t, &bundle)?.code_is(1)?;
    let all = format!("{}{}", ran.stdout, ran.stderr);
    for word in ["/no/such/source", "/process/cwd", "/linux/namespaces"] {
        ensure!(all.contains(word), "check does not say {word}: {all}");
    }
    Ok(())
}

fn check_names_what_would_be_ignored(t: &T) -> Verdict {
    let bundle = t.bundle()?.set("/process/capabilities/bounding", json!(["CAP_NO_SUCH_THING"]));
    let ran = check(t, &bundle)?.ok()?;
    ensure!(format!("{}{}", ran.stdout, ran.stderr).contains("CAP_NO_SUCH_THING"), "{ran}");
    Ok(())
}

fn an_error_has_its_kind_and_pointer(t: &T) -> Verdict {
    let error = error_of(t, &missing_source(t)?)?;
    ensure!(error["kind"].is_string(), "kind of {error}");
    ensure!(error["pointer"].as_str().is_some_and(|p| p.starts_with("/mounts/5")), "pointer of {error}");
    ensure!(error["step"].is_string(), "step of {error}");
    Ok(())
}

fn an_error_of_the_kernel_has_its_call_and_errno(t: &T) -> Verdict {
    let bundle = t
        .bundle()?
        .mount(json!({"destination": "/mnt", "type": "tmpfs", "source": "tmpfs", "options": ["size=nonsense"]}));
    let error = error_of(t, &bundle)?;
    ensure!(error["call"].as_str().is_some_and(|call| call.contains('(')), "call of {error}");
    ensure_eq!(error["errno"], "EINVAL", "errno of {error}");
    Ok(())
}

fn an_error_has_a_hint_where_one_is_known(t: &T) -> Verdict {
    if crate::kit::machine::text("/sys/fs/cgroup/cgroup.controllers").contains("memory") {
        return crate::kit::stop::skip("the memory controller is there");
    }
    let error = error_of(t, &t.bundle()?.set("/linux/resources/memory/limit", json!(10_000_000)))?;
    ensure!(error["hint"].is_string(), "hint of {error}");
    Ok(())
}

fn several_faults_are_one_line(t: &T) -> Verdict {
    let bundle = t.bundle()?.set("/process/cwd", json!("relative")).set("/linux/namespaces/-", json!({"type": "pid"}));
    let error = error_of(t, &bundle)?;
    ensure!(error["faults"].as_array().is_some_and(|faults| faults.len() >= 2), "faults of {error}");
    Ok(())
}

fn with_unknown_capability(bundle: Bundle) -> Bundle {
    bundle.set("/process/capabilities/bounding", json!(["CAP_NO_SUCH_THING"]))
}

fn warnings_are_a_key_of_the_error(t: &T) -> Verdict {
    let error = error_of(t, &with_unknown_capability(missing_source(t)?))?;
    ensure!(error["warnings"].to_string().contains("CAP_NO_SUCH_THING"), "warnings of {error}");
    Ok(())
}

/// The JSON log of a `run` that succeeds.
fn log_of_run(t: &T, bundle: &Bundle, flags: &[&str]) -> Verdict<String> {
    bundle.write()?;
    let log = t.path("log.json");
    let (file, dir, id) = (log.display().to_string(), bundle.dir.display().to_string(), t.id());
    let words = [&["--log", &file, "--log-format", "json", "run", "--bundle", &dir], flags, &[&id]].concat();
    t.runtime(&words)?.ok()?;
    Ok(fs::read_to_string(&log)?)
}

fn warnings_without_an_error_are_one_line_each(t: &T) -> Verdict {
    for line in log_of_run(t, &with_unknown_capability(t.bundle()?), &[])?.lines() {
        let value: Value = serde_json::from_str(line)?;
        ensure_eq!(value["level"], "warning", "level of {value}");
    }
    Ok(())
}

fn debug_logs_the_steps_with_their_durations(t: &T) -> Verdict {
    let content = log_of_run(t, &t.bundle()?, &["--debug"])?;
    let debug = content.lines().filter(|line| line.contains("\"debug\"")).count();
    ensure!(debug >= 5, "{debug} debug lines");
    ensure!(content.contains("/dev/shm"), "no step of init in {content}");
    // The last two are runc's, and its own tests look for them.
    let lines = [
        "runtime: wait for init ",
        "runtime: record it ",
        "runtime: all of it ",
        "nsexec container setup",
        "child process in init()",
    ];
    for line in lines {
        ensure!(content.contains(line), "no {line:?} in {content}");
    }
    Ok(())
}

fn state_of_a_stopped_container_has_its_exit_code(t: &T) -> Verdict {
    let bundle = t.bundle()?.sh("exit 42");
    bundle.write()?;
    let container = crate::kit::Container::new(t, t.id(), bundle.dir.clone());
    t.runtime(&["run", "--keep", "--bundle", &bundle.dir.display().to_string(), &container.id])?.code_is(42)?;
    let exit = container.state()?["exit"].clone();
    ensure_eq!(exit["code"], 42, "exit {exit}");
    Ok(())
}

fn state_of_a_stopped_container_has_its_signal(t: &T) -> Verdict {
    let bundle = t.bundle()?.namespace("pid", None).sh("kill -KILL $$");
    bundle.write()?;
    let container = crate::kit::Container::new(t, t.id(), bundle.dir.clone());
    t.runtime(&["run", "--keep", "--bundle", &bundle.dir.display().to_string(), &container.id])?.code_is(137)?;
    let exit = container.state()?["exit"].clone();
    ensure!(exit["signal"] == 9 || exit["signal"] == "SIGKILL", "exit {exit}");
    Ok(())
}

fn with_memory(t: &T, limit: u32) -> Verdict<Bundle> {
    Ok(t.bundle()?.set("/linux/resources/memory", json!({"limit": limit, "swap": limit})))
}

fn an_out_of_memory_kill_is_told_though_somebody_else_reaped_init(t: &T) -> Verdict {
    // Init becomes a child of PID 1, which reaps at once.
    let container = t.start(&with_memory(t, 20_971_520)?.args(&["/bin/tail", "/dev/zero"]))?;
    container.wait_for("stopped")?;
    let exit = container.state()?["exit"].clone();
    ensure_eq!(exit["oomKilled"], true, "exit {exit}");
    Ok(())
}

fn run_tells_of_an_out_of_memory_kill(t: &T) -> Verdict {
    let bundle = with_memory(t, 20_971_520)?.args(&["/bin/tail", "/dev/zero"]);
    bundle.write()?;
    let (log, dir) = (t.path("oom.log").display().to_string(), bundle.dir.display().to_string());
    t.runtime(&["--log", &log, "run", "--bundle", &dir, &t.id()])?.code_is(137)?;
    let said = fs::read_to_string(&log)?;
    ensure!(said.contains("want of memory") && said.contains("/linux/resources/memory/limit"), "log {said:?}");
    Ok(())
}

fn a_memory_limit_too_low_for_init_is_explained(t: &T) -> Verdict {
    let error = error_of(t, &with_memory(t, 16384)?)?;
    let msg = error["msg"].as_str().unwrap_or_default();
    ensure!(msg.contains("killed by the kernel for want of memory at step"), "msg of {error}");
    ensure!(error["hint"].as_str().is_some_and(|hint| hint.contains("too low even to start")), "hint of {error}");
    Ok(())
}

fn a_program_starts_in_very_little_memory(t: &T) -> Verdict {
    // The runtime's own memory is not charged to the container: measured, 96 KiB are enough.
    t.run(&with_memory(t, 256 << 10)?.args(&["/bin/true"]))?.ok()?;
    Ok(())
}

fn the_exit_record_tells_of_an_out_of_memory_kill(t: &T) -> Verdict {
    let limits = json!({"limit": 20_971_520, "swap": 20_971_520});
    let bundle = t.bundle()?.set("/linux/resources/memory", limits).args(&["/bin/tail", "/dev/zero"]);
    bundle.write()?;
    let container = crate::kit::Container::new(t, t.id(), bundle.dir.clone());
    t.runtime(&["run", "--keep", "--bundle", &bundle.dir.display().to_string(), &container.id])?.code_is(137)?;
    let exit = container.state()?["exit"].clone();
    ensure_eq!(exit["oomKilled"], true, "exit {exit}");
    Ok(())
}

fn a_killed_init_is_reported_with_its_step(t: &T) -> Verdict {
    // The hook gets init's pid, and runs in the runtime's namespaces.
    let script = "kill -KILL $(sed 's/.*\"pid\": *\\([0-9]*\\).*/\\1/')";
    let hook = json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]}]);
    let error = error_of(t, &t.bundle()?.set("/hooks/createRuntime", hook))?;
    ensure!(error.to_string().contains("KILL") || error.to_string().contains("signal 9"), "{error}");
    ensure!(error["step"].is_string(), "step of {error}");
    Ok(())
}

fn a_newer_state_version_is_a_clear_error(t: &T) -> Verdict {
    let container = t.running()?;
    let mut changed = Vec::new();
    for file in container.state_files()? {
        let content = fs::read_to_string(&file)?;
        let newer = content.replacen("\"version\":2,", "\"version\":999999,", 1);
        if newer != content {
            fs::write(&file, newer)?;
            changed.push((file, content));
        }
    }
    ensure!(!changed.is_empty(), "no state file with a version");
    let ran = container.verb("state", &[], &[])?;
    for (path, content) in changed {
        fs::write(path, content)?;
    }
    ran.code_is(1)?.stderr_has("version")?.stderr_has("999999")?;
    Ok(())
}

fn the_default_root_is_run_windlass(t: &T) -> Verdict {
    let bundle = t.bundle()?;
    bundle.write()?;
    let id = t.id();
    let bare = |words: &[&str]| {
        let mut command = std::process::Command::new(&t.runtime);
        command.args(words).stdin(std::process::Stdio::null()).current_dir(&t.dir);
        t.finish(command)
    };
    bare(&["create", "--bundle", &bundle.dir.display().to_string(), &id])?.ok()?;
    let there = std::path::Path::new("/run/windlass").join(&id).exists();
    bare(&["delete", "--force", &id])?.ok()?;
    ensure!(there, "no state in /run/windlass");
    Ok(())
}

fn a_missing_bundle_names_the_path(t: &T) -> Verdict {
    t.runtime(&["create", "--bundle", "/no/such/bundle", &t.id()])?.code_is(1)?.stderr_has("/no/such/bundle")?;
    let empty = t.path("empty");
    fs::create_dir(&empty)?;
    t.runtime(&["create", "--bundle", &empty.display().to_string(), &t.id()])?.code_is(1)?.stderr_has("config.json")?;
    Ok(())
}

fn create_needs_no_writable_host_besides_its_root(t: &T) -> Verdict {
    let before = fs::read_dir("/run")?.count();
    t.run(&t.bundle()?)?.ok()?;
    ensure_eq!(fs::read_dir("/run")?.count(), before, "entries in /run");
    Ok(())
}

fn a_log_that_nobody_reads_is_not_waited_for(t: &T) -> Verdict {
    let fifo = t.path("log");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU)?;
    let name = fifo.display().to_string();
    let ran = t.runtime(&["--log", &name, "list"])?.code_is(1)?;
    ran.stderr_has(&format!("cannot open the log {name:?}"))?.stderr_has("a FIFO that nobody reads")?;
    // If a reader reads nothing, a line waits for it for a limited time.
    let reader = fs::OpenOptions::new().read(true).write(true).open(&fifo)?;
    let full = [b'x'; 4096];
    let flags = nix::fcntl::OFlag::O_NONBLOCK;
    nix::fcntl::fcntl(&reader, nix::fcntl::FcntlArg::F_SETFL(flags))?;
    while nix::unistd::write(&reader, &full).is_ok() {}
    let begun = std::time::Instant::now();
    t.runtime(&["--log", &name, "state", "none"])?.code_is(1)?;
    ensure!(begun.elapsed() < std::time::Duration::from_secs(60), "it took {:?}", begun.elapsed());
    Ok(())
}

fn a_state_root_by_another_users_link_is_refused(t: &T) -> Verdict {
    use std::os::unix::fs::{PermissionsExt, lchown, symlink};
    let common = t.path("common");
    fs::create_dir(&common)?;
    fs::set_permissions(&common, PermissionsExt::from_mode(0o777))?;
    let link = common.join("link");
    symlink(t.root(), &link)?;
    let list = || {
        let mut command = std::process::Command::new(&t.runtime);
        command.arg("--root").arg(&link).arg("list");
        t.finish(command)
    };
    list()?.ok()?;
    lchown(&link, Some(65534), Some(65534))?;
    list()?.code_is(1)?.stderr_has("permission denied")?.stderr_has("of user 65534")?;
    Ok(())
}

fn another_users_devpts_is_named(t: &T) -> Verdict {
    let ids = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    let bundle = t.bundle()?.set("/mounts", json!([{"destination": "/proc", "type": "proc", "source": "proc"}]));
    let bundle = bundle.bind(Path::new("/dev"), "/dev", &["rbind", "rprivate"]);
    let bundle = bundle.namespace("user", Some(json!({"type": "user"}))).set("/linux/uidMappings", ids.clone());
    let bundle = bundle.set("/linux/gidMappings", ids).set("/process/terminal", json!(true));
    for dir in bundle.rootfs().ancestors().take(4) {
        fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    }
    t.run(&bundle)?.code_is(1)?.stderr_has("the devpts on /dev/pts is that of another user namespace")?;
    Ok(())
}
