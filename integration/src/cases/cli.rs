//! The command line as a contract: what engines send and read.

use crate::kit::{Container, Need, Ran, T, Verdict, stop::Context};
use crate::{chapter, ensure, ensure_eq};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

chapter! { "cli":
    version_names_the_program_and_the_spec,
    help_goes_to_stdout_and_succeeds,
    every_verb_has_help_that_fits_a_screen [Need::Windlass],
    an_unknown_command_is_an_error_without_output,
    an_unknown_flag_is_an_error,
    options_may_follow_the_id,
    long_options_may_have_one_dash,
    values_may_follow_an_equals_sign,
    the_engines_argv_of_containerd_works,
    the_engines_argv_of_podman_works,
    a_pid_file_holds_digits_only,
    exec_writes_a_pid_file_in_the_foreground_too,
    a_failed_create_logs_exactly_one_json_line,
    a_failed_exec_logs_exactly_one_json_line,
    a_failed_create_says_the_same_on_stderr,
    the_text_log_format_is_the_default,
    the_log_is_appended_to,
    a_successful_create_logs_nothing,
    a_missing_executable_is_worded_as_engines_expect,
    a_program_in_the_path_that_may_not_be_executed_is_refused [Need::Windlass],
    a_missing_executable_path_is_worded_as_engines_expect,
    a_file_without_execute_permission_is_worded_as_engines_expect,
    a_directory_as_executable_is_worded_as_engines_expect,
    exec_failure_exits_with_255,
    exec_returns_the_code_of_the_process,
    exec_in_a_stopped_container_is_worded_as_engines_expect,
    exec_in_a_paused_container_is_worded_as_engines_expect,
    kill_of_an_unknown_container_is_worded_as_engines_expect,
    create_with_an_id_in_use_is_worded_as_engines_expect,
    resume_of_a_running_container_is_worded_as_engines_expect,
    state_has_the_keys_of_the_spec_and_of_runc,
    state_of_an_unknown_container_is_an_error,
    list_is_null_or_an_empty_array_without_containers,
    list_shows_the_table_header,
    list_json_and_quiet_name_the_containers,
    ps_json_is_an_array_of_host_pids,
    ps_table_passes_options_to_ps,
    events_stats_have_the_envelope,
    features_is_pure_json,
    features_lists_what_engines_switch_on_by,
    features_names_every_hook_and_namespace,
    spec_writes_a_configuration_that_runs,
    spec_refuses_to_overwrite,
    checkpoint_and_restore_have_their_help [Need::Windlass],
    the_pod_restore_probe_finds_support [Need::Windlass],
    the_default_bundle_is_the_working_directory,
    ids_with_bad_characters_are_refused,
    the_state_directory_is_private,
    the_name_runc_behaves_the_same [Need::Windlass],
    rootless_takes_its_values,
}

/// Runs the runtime with no flags of ours before `words`.
fn bare(t: &T, words: &[&str]) -> Verdict<Ran> {
    let mut command = std::process::Command::new(&t.runtime);
    command.args(words).stdin(std::process::Stdio::null()).current_dir(&t.dir);
    t.finish(command)
}

fn version_names_the_program_and_the_spec(t: &T) -> Verdict {
    let ran = bare(t, &["--version"])?.ok()?;
    let first = ran.lines().first().copied().unwrap_or_default().to_owned();
    ensure!(first.contains(" version "), "dockerd reads the word after `version` in {first:?}");
    ensure!(ran.lines().iter().any(|line| line.starts_with("spec: 1.")), "no spec line in {}", ran.stdout);
    ensure_eq!(bare(t, &["-v"])?.ok()?.stdout, ran.stdout, "-v");
    Ok(())
}

fn help_goes_to_stdout_and_succeeds(t: &T) -> Verdict {
    for flag in ["--help", "-h"] {
        let ran = bare(t, &[flag])?;
        ran.ok()?.stdout_has("create")?.stdout_has("delete")?;
    }
    Ok(())
}

fn every_verb_has_help_that_fits_a_screen(t: &T) -> Verdict {
    let verbs = [
        "create", "start", "run", "exec", "kill", "delete", "state", "list", "ps", "pause", "resume", "update",
        "events", "spec", "features", "explain", "check",
    ];
    for verb in verbs {
        let ran = bare(t, &[verb, "--help"])?.ok()?;
        let lines = ran.lines().len();
        ensure!((3..=50).contains(&lines), "{verb} --help has {lines} lines");
    }
    let lines = bare(t, &["--help"])?.ok()?.lines().len();
    ensure!((5..=50).contains(&lines), "--help has {lines} lines");
    Ok(())
}

fn an_unknown_command_is_an_error_without_output(t: &T) -> Verdict {
    let ran = bare(t, &["no-such-command"])?.fails()?;
    ensure_eq!(ran.stdout, "", "stdout of an unknown command");
    Ok(())
}

fn an_unknown_flag_is_an_error(t: &T) -> Verdict {
    t.runtime(&["state", "--no-such-flag", "x"])?.fails()?;
    Ok(())
}

fn options_may_follow_the_id(t: &T) -> Verdict {
    let container = t.running()?;
    container.verb("delete", &[], &["--force"])?.ok()?;
    container.verb("state", &[], &[])?.fails()?.stderr_has("does not exist")?;
    Ok(())
}

fn long_options_may_have_one_dash(t: &T) -> Verdict {
    let bundle = t.bundle()?;
    bundle.write()?;
    t.runtime(&["run", "-no-subreaper", "-bundle", &bundle.dir.display().to_string(), "dashes"])?.ok()?;
    Ok(())
}

fn values_may_follow_an_equals_sign(t: &T) -> Verdict {
    let bundle = t.bundle()?;
    bundle.write()?;
    t.runtime(&["run", &format!("--bundle={}", bundle.dir.display()), "equals"])?.ok()?;
    Ok(())
}

fn the_engines_argv_of_containerd_works(t: &T) -> Verdict {
    let bundle = t.bundle()?.args(&["/bin/sleep", "1000"]);
    bundle.write()?;
    let (dir, log) = (bundle.dir.display().to_string(), t.path("log.json").display().to_string());
    let pid_file = format!("{dir}/init.pid");
    let global = ["--log", &log, "--log-format", "json"];
    let call = |words: &[&str], stdin: &[u8]| t.runtime_with_stdin(&[&global[..], words].concat(), stdin)?.ok();
    let container = Container::new(t, t.id(), bundle.dir.clone());
    let id = container.id.as_str();
    call(&["create", "--bundle", &dir, "--pid-file", &pid_file, id], b"")?;
    call(&["start", id], b"")?;
    let pids: Vec<i64> = serde_json::from_str(&call(&["ps", "--format", "json", id], b"")?.stdout)?;
    ensure_eq!(vec![fs::read_to_string(&pid_file)?.parse::<i64>()?], pids, "ps and the pid file");
    call(&["pause", id], b"")?;
    call(&["resume", id], b"")?;
    call(&["update", "--resources=-", id], b"{}")?;
    let process = json!({"args": ["/bin/true"], "cwd": "/", "user": {"uid": 0, "gid": 0}});
    let file = t.path("runc-process1").display().to_string();
    fs::write(&file, process.to_string())?;
    call(&["exec", "--process", &file, "--detach", "--pid-file", &format!("{dir}/e.pid"), id], b"")?;
    call(&["kill", "--all", id, "9"], b"")?;
    container.wait_for("stopped")?;
    call(&["delete", id], b"")?;
    Ok(())
}

fn the_engines_argv_of_podman_works(t: &T) -> Verdict {
    let bundle = t.bundle()?.args(&["/bin/sleep", "1000"]);
    bundle.write()?;
    let log = t.path("oci-log").display().to_string();
    let dir = bundle.dir.display().to_string();
    let container = Container::new(t, t.id(), bundle.dir.clone());
    let pid_file = t.path("pidfile").display().to_string();
    let words =
        ["--log-format=json", "--log", &log, "create", "--bundle", &dir, "--pid-file", &pid_file, &container.id];
    t.runtime(&words)?.ok()?;
    container.start()?;
    container.kill("15")?;
    container.kill("9")?;
    container.wait_for("stopped")?;
    container.verb("delete", &["--force"], &[])?.ok()?;
    Ok(())
}

fn a_pid_file_holds_digits_only(t: &T) -> Verdict {
    let file = t.path("init.pid");
    let container = t.create_with(&t.bundle()?, &["--pid-file", &file.display().to_string()])?;
    ensure_eq!(fs::read_to_string(&file)?, container.pid()?.to_string(), "the pid file");
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&file)?.permissions());
    ensure_eq!(mode & 0o7777, 0o644, "its mode");
    Ok(())
}

fn exec_writes_a_pid_file_in_the_foreground_too(t: &T) -> Verdict {
    let container = t.running()?;
    let file = t.path("exec.pid");
    container.try_exec(&["--pid-file", &file.display().to_string()], &["/bin/true"])?.ok()?;
    let content = fs::read_to_string(&file)?;
    ensure!(content.parse::<u32>().is_ok(), "the pid file holds {content:?}");
    Ok(())
}

/// The lines of a JSON log, each parsed and checked for its keys.
fn json_log(file: &std::path::Path) -> Verdict<Vec<Value>> {
    let content = fs::read_to_string(file).context(file.display())?;
    let mut lines = Vec::new();
    for line in content.lines() {
        let value: Value = serde_json::from_str(line).context(format!("log line {line:?}"))?;
        ensure!(value["level"].is_string() && value["msg"].is_string(), "keys of {value}");
        let time = value["time"].as_str().unwrap_or_default();
        ensure!(time.len() >= 20 && time.as_bytes()[10] == b'T', "time of {value} is not RFC 3339");
        lines.push(value);
    }
    Ok(lines)
}

/// Runs the runtime with a JSON log. Returns the path of the log, too.
fn with_json_log(t: &T, words: &[&str]) -> Verdict<(PathBuf, Ran)> {
    let log = t.path("log.json");
    let path = log.display().to_string();
    let ran = t.runtime(&[&["--log", &path, "--log-format", "json"], words].concat())?;
    Ok((log, ran))
}

fn failed_create(t: &T) -> Verdict<(PathBuf, Ran)> {
    let bundle = t.bundle()?.args(&["no-such-program"]);
    bundle.write()?;
    with_json_log(t, &["create", "--bundle", &bundle.dir.display().to_string(), "bad"])
}

fn a_failed_create_logs_exactly_one_json_line(t: &T) -> Verdict {
    let (log, ran) = failed_create(t)?;
    ran.code_is(1)?;
    let lines = json_log(&log)?;
    ensure_eq!(lines.len(), 1, "podman reads the log as one object; lines {lines:?}");
    ensure_eq!(lines[0]["level"], "error", "level");
    let text = lines[0]["msg"].as_str().unwrap_or_default();
    ensure!(text.contains("executable file not found"), "msg {text:?}");
    Ok(())
}

fn a_failed_exec_logs_exactly_one_json_line(t: &T) -> Verdict {
    let container = t.running()?;
    let (log, ran) = with_json_log(t, &["exec", &container.id, "no-such-program"])?;
    ran.code_is(255)?;
    let lines = json_log(&log)?;
    ensure_eq!(lines.len(), 1, "lines {lines:?}");
    ensure_eq!(lines[0]["level"], "error", "level");
    Ok(())
}

fn a_failed_create_says_the_same_on_stderr(t: &T) -> Verdict {
    let (_, ran) = failed_create(t)?;
    ensure_eq!(ran.stdout, "", "stdout");
    ran.code_is(1)?.stderr_has("executable file not found")?;
    Ok(())
}

fn the_text_log_format_is_the_default(t: &T) -> Verdict {
    let log = t.path("log.txt");
    t.runtime(&["--log", &log.display().to_string(), "state", "nobody"])?.fails()?;
    let content = fs::read_to_string(&log)?;
    ensure!(content.contains("level=error") && content.contains("does not exist"), "the log holds {content:?}");
    Ok(())
}

fn the_log_is_appended_to(t: &T) -> Verdict {
    let log = t.path("log.json");
    for _ in 0..2 {
        t.runtime(&["--log", &log.display().to_string(), "--log-format", "json", "state", "nobody"])?.fails()?;
    }
    ensure_eq!(json_log(&log)?.len(), 2, "lines after two failed commands");
    Ok(())
}

fn a_successful_create_logs_nothing(t: &T) -> Verdict {
    let bundle = t.bundle()?;
    bundle.write()?;
    let (log, ran) = with_json_log(t, &["run", "--bundle", &bundle.dir.display().to_string(), "good"])?;
    ran.ok()?;
    ensure_eq!(fs::read_to_string(&log).unwrap_or_default(), "", "the log of a successful run");
    Ok(())
}

/// runc does not tell it from a program that does not exist.
fn a_program_in_the_path_that_may_not_be_executed_is_refused(t: &T) -> Verdict {
    let bundle = t.bundle()?.set("/process/env", json!(["PATH=/mine:/bin"])).args(&["closed"]);
    fs::create_dir(bundle.rootfs().join("mine"))?;
    fs::write(bundle.rootfs().join("mine/closed"), "")?;
    t.run(&bundle)?.code_is(1)?.stderr_has("exec: \"closed\": permission denied")?;
    Ok(())
}

fn a_missing_executable_is_worded_as_engines_expect(t: &T) -> Verdict {
    t.run(&t.bundle()?.args(&["no-such-program"]))?.code_is(1)?.stderr_has("executable file not found in $PATH")?;
    let container = t.running()?;
    container.try_exec(&[], &["no-such-program"])?.fails()?.stderr_has("executable file not found in $PATH")?;
    Ok(())
}

fn a_missing_executable_path_is_worded_as_engines_expect(t: &T) -> Verdict {
    t.run(&t.bundle()?.args(&["/no/such/program"]))?.code_is(1)?.stderr_has("no such file or directory")?;
    Ok(())
}

fn a_file_without_execute_permission_is_worded_as_engines_expect(t: &T) -> Verdict {
    let bundle = t.bundle()?.args(&["/etc/passwd"]);
    t.run(&bundle)?.code_is(1)?.stderr_has("permission denied")?;
    Ok(())
}

fn a_directory_as_executable_is_worded_as_engines_expect(t: &T) -> Verdict {
    t.run(&t.bundle()?.args(&["/etc"]))?.code_is(1)?.stderr_has_any(&["is a directory", "permission denied"])?;
    Ok(())
}

fn exec_failure_exits_with_255(t: &T) -> Verdict {
    let container = t.running()?;
    container.try_exec(&[], &["no-such-program"])?.code_is(255)?;
    t.runtime(&["exec", "nobody", "true"])?.code_is(255)?.stderr_has("does not exist")?;
    Ok(())
}

fn exec_returns_the_code_of_the_process(t: &T) -> Verdict {
    let container = t.running()?;
    container.try_exec(&[], &["/bin/sh", "-c", "exit 42"])?.code_is(42)?;
    container.try_exec(&[], &["/bin/sh", "-c", "kill -KILL $$"])?.code_is(137)?;
    Ok(())
}

fn exec_in_a_stopped_container_is_worded_as_engines_expect(t: &T) -> Verdict {
    let container = t.running()?;
    container.stop()?;
    container.try_exec(&[], &["/bin/true"])?.code_is(255)?.stderr_has("cannot exec in a stopped container")?;
    Ok(())
}

fn exec_in_a_paused_container_is_worded_as_engines_expect(t: &T) -> Verdict {
    let container = t.running()?;
    container.verb("pause", &[], &[])?.ok()?;
    let ran = container.try_exec(&[], &["/bin/true"])?;
    container.verb("resume", &[], &[])?.ok()?;
    ran.code_is(255)?.stderr_has("cannot exec in a paused container (use --ignore-paused to override)")?;
    Ok(())
}

fn kill_of_an_unknown_container_is_worded_as_engines_expect(t: &T) -> Verdict {
    t.runtime(&["kill", "nobody", "9"])?.code_is(1)?.stderr_has("does not exist")?;
    Ok(())
}

fn create_with_an_id_in_use_is_worded_as_engines_expect(t: &T) -> Verdict {
    let container = t.create(&t.bundle()?)?;
    let again = t.runtime(&["create", "--bundle", &container.bundle.display().to_string(), &container.id])?;
    again.code_is(1)?.stderr_has("container with given ID already exists")?;
    Ok(())
}

fn resume_of_a_running_container_is_worded_as_engines_expect(t: &T) -> Verdict {
    let container = t.running()?;
    container.verb("resume", &[], &[])?.code_is(1)?.stderr_has("container not paused")?;
    Ok(())
}

fn state_has_the_keys_of_the_spec_and_of_runc(t: &T) -> Verdict {
    let bundle = t.bundle()?.set("/annotations", json!({"org.example.key": "value"}));
    let container = t.create(&bundle)?;
    let state = container.state()?;
    ensure_eq!(state["id"], container.id.as_str(), "id");
    ensure_eq!(state["status"], "created", "status");
    ensure_eq!(state["bundle"], bundle.dir.display().to_string(), "bundle");
    ensure_eq!(state["rootfs"], bundle.rootfs().display().to_string(), "rootfs");
    ensure_eq!(state["annotations"]["org.example.key"], "value", "annotations");
    ensure!(state["ociVersion"].as_str().is_some_and(|v| v.starts_with("1.")), "ociVersion of {state}");
    ensure!(state["created"].as_str().is_some_and(|v| v.contains('T') && v.ends_with('Z')), "created of {state}");
    ensure!(state["owner"].is_string(), "owner of {state}");
    Ok(())
}

fn state_of_an_unknown_container_is_an_error(t: &T) -> Verdict {
    let ran = t.runtime(&["state", "nobody"])?.code_is(1)?.stderr_has("container does not exist")?;
    ensure_eq!(ran.stdout, "", "stdout");
    Ok(())
}

fn list_is_null_or_an_empty_array_without_containers(t: &T) -> Verdict {
    let ran = t.runtime(&["list", "--format", "json"])?.ok()?;
    let value = ran.json()?;
    ensure!(value.is_null() || value.as_array().is_some_and(Vec::is_empty), "list printed {value}");
    ensure_eq!(t.runtime(&["list", "--quiet"])?.ok()?.stdout, "", "list --quiet");
    Ok(())
}

fn list_shows_the_table_header(t: &T) -> Verdict {
    let container = t.running()?;
    let ran = t.runtime(&["list"])?.ok()?;
    let header: Vec<&str> = ran.lines().first().copied().unwrap_or_default().split_whitespace().collect();
    ensure_eq!(header, ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"], "header");
    ran.stdout_has(&container.id)?.stdout_has("running")?;
    Ok(())
}

fn list_json_and_quiet_name_the_containers(t: &T) -> Verdict {
    let (one, other) = (t.running()?, t.create(&t.bundle()?)?);
    let value = t.runtime(&["list", "-f", "json"])?.ok()?.json()?;
    let entries = value.as_array().cloned().unwrap_or_default();
    let status = |id: &str| entries.iter().find(|e| e["id"] == id).map(|e| e["status"].clone());
    ensure_eq!(status(&one.id), Some(json!("running")), "status of the first in {value}");
    ensure_eq!(status(&other.id), Some(json!("created")), "status of the second in {value}");
    let quiet = t.runtime(&["list", "-q"])?.ok()?;
    let mut names = quiet.lines();
    names.sort_unstable();
    let mut expected = [one.id.as_str(), other.id.as_str()];
    expected.sort_unstable();
    ensure_eq!(names, expected, "list -q");
    Ok(())
}

fn ps_json_is_an_array_of_host_pids(t: &T) -> Verdict {
    let container = t.start(&t.bundle()?.sh("sleep 1000 & echo ready; wait"))?;
    container.wait_for_output("ready")?;
    let pids = container.verb("ps", &["--format", "json"], &[])?.ok()?.json()?;
    let pids = pids.as_array().cloned().unwrap_or_default();
    ensure_eq!(pids.len(), 2, "pids {pids:?}");
    ensure!(pids.contains(&json!(container.pid()?)), "init's pid in {pids:?}");
    Ok(())
}

fn ps_table_passes_options_to_ps(t: &T) -> Verdict {
    if let Err(stop) = t.host("ps", &["-e"]) {
        return crate::kit::stop::skip(format!("ps does not work on this kernel: {stop}"));
    }
    let container = t.running()?;
    container.verb("ps", &[], &[])?.ok()?.stdout_has("PID")?.stdout_has("sleep")?;
    container.verb("ps", &[], &["-o", "pid,comm"])?.ok()?.stdout_has("COMMAND")?.stdout_has("sleep")?;
    Ok(())
}

fn events_stats_have_the_envelope(t: &T) -> Verdict {
    let container = t.running()?;
    let value = container.verb("events", &["--stats"], &[])?.ok()?.json()?;
    ensure_eq!(value["type"], "stats", "type");
    ensure_eq!(value["id"], container.id.as_str(), "id");
    ensure!(value["data"]["cpu"].is_object() && value["data"]["memory"].is_object(), "data of {value}");
    ensure!(value["data"]["intel_rdt"].is_object(), "intel_rdt of {value}");
    ensure!(value["data"].get("network_interfaces").is_some(), "network_interfaces of {value}");
    container.stop()?;
    container.verb("events", &["--stats"], &[])?.fails()?.stderr_has("is not running")?;
    Ok(())
}

fn features_is_pure_json(t: &T) -> Verdict {
    let ran = bare(t, &["features"])?.ok()?;
    ensure_eq!(ran.stderr, "", "CRI-O reads stdout and stderr together");
    let value = ran.json()?;
    ensure!(value["ociVersionMin"].is_string() && value["ociVersionMax"].is_string(), "versions of {value}");
    Ok(())
}

fn features_lists_what_engines_switch_on_by(t: &T) -> Verdict {
    let value = bare(t, &["features"])?.ok()?.json()?;
    let options = value["mountOptions"].to_string();
    for option in ["rro", "rbind", "rshared", "nosymfollow", "tmpcopyup", "idmap", "ridmap"] {
        ensure!(options.contains(&format!("\"{option}\"")), "mountOptions lacks {option}");
    }
    ensure_eq!(value["linux"]["mountExtensions"]["idmap"]["enabled"], true, "idmap");
    ensure_eq!(value["linux"]["seccomp"]["enabled"], true, "seccomp");
    ensure_eq!(value["linux"]["cgroup"]["v2"], true, "cgroup v2");
    for list in ["actions", "operators", "archs", "supportedFlags"] {
        ensure!(value["linux"]["seccomp"][list].as_array().is_some_and(|l| !l.is_empty()), "seccomp.{list}");
    }
    Ok(())
}

fn features_names_every_hook_and_namespace(t: &T) -> Verdict {
    let value = bare(t, &["features"])?.ok()?.json()?;
    for hook in ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"] {
        ensure!(value["hooks"].as_array().is_some_and(|l| l.contains(&json!(hook))), "hooks lacks {hook}");
    }
    for namespace in ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"] {
        ensure!(
            value["linux"]["namespaces"].as_array().is_some_and(|l| l.contains(&json!(namespace))),
            "namespaces lacks {namespace}"
        );
    }
    Ok(())
}

fn spec_writes_a_configuration_that_runs(t: &T) -> Verdict {
    let bundle = t.bundle()?;
    let dir = bundle.dir.display().to_string();
    t.runtime(&["spec", "--bundle", &dir])?.ok()?;
    let spec: Value = serde_json::from_str(&fs::read_to_string(bundle.dir.join("config.json"))?)?;
    ensure_eq!(spec["process"]["terminal"], true, "the default asks for a terminal");
    let mut bundle = bundle;
    bundle.spec = spec;
    // rlimits stay: they must be such that an ordinary root can set them.
    let bundle = bundle.set("/process/terminal", json!(false)).sh("echo it runs");
    t.run(&bundle)?.ok()?.stdout_is("it runs\n")?;
    Ok(())
}

fn spec_refuses_to_overwrite(t: &T) -> Verdict {
    let bundle = t.bundle()?;
    bundle.write()?;
    let before = fs::read(bundle.dir.join("config.json"))?;
    t.runtime(&["spec", "--bundle", &bundle.dir.display().to_string()])?.fails()?;
    ensure!(before == fs::read(bundle.dir.join("config.json"))?, "config.json was changed");
    Ok(())
}

/// podman and CRI-O find out in this way whether the runtime can checkpoint.
fn checkpoint_and_restore_have_their_help(t: &T) -> Verdict {
    for words in [["checkpoint", "--help"], ["restore", "--help"]] {
        bare(t, &words)?.ok()?.stdout_has("--image-path")?;
    }
    Ok(())
}

fn the_pod_restore_probe_finds_support(t: &T) -> Verdict {
    bare(t, &["restore", "--lsm-mount-context"])?.fails()?.stderr_has("flag needs an argument")?;
    Ok(())
}

fn the_default_bundle_is_the_working_directory(t: &T) -> Verdict {
    let bundle = t.bundle()?.sh("echo here");
    bundle.write()?;
    let mut command = t.command();
    command.current_dir(&bundle.dir).args(["run", "cwd"]);
    t.finish(command)?.ok()?.stdout_is("here\n")?;
    Ok(())
}

fn ids_with_bad_characters_are_refused(t: &T) -> Verdict {
    let bundle = t.bundle()?;
    bundle.write()?;
    let dir = bundle.dir.display().to_string();
    for id in ["..", ".", "a/b", "../a", "a b", "a\nb", "", "ä"] {
        t.runtime(&["create", "--bundle", &dir, id])?.fails().context(format!("id {id:?}"))?;
    }
    let good = t.runtime(&["run", "--bundle", &dir, "A-z0.9_+"])?;
    good.ok()?;
    Ok(())
}

fn the_state_directory_is_private(t: &T) -> Verdict {
    let container = t.create(&t.bundle()?)?;
    for dir in [t.root(), t.root().join(&container.id)] {
        let meta = fs::metadata(&dir).context(dir.display())?;
        ensure_eq!((meta.uid(), meta.mode() & 0o022), (0, 0), "owner and write bits of {}", dir.display());
    }
    let mode = fs::metadata(t.root().join(&container.id))?.mode() & 0o077;
    ensure_eq!(mode & 0o066, 0, "read and write bits of the container's directory for others");
    Ok(())
}

fn the_name_runc_behaves_the_same(t: &T) -> Verdict {
    let link = t.path("runc");
    std::os::unix::fs::symlink(&t.runtime, &link)?;
    let under = |name: &std::path::Path, words: &[&str]| {
        let mut command = std::process::Command::new(name);
        command.arg("--root").arg(t.root()).args(words).current_dir(&t.dir);
        t.finish(command)
    };
    for words in [&["features"][..], &["state", "nobody"], &["list"], &["no-such-command"]] {
        let (ours, theirs) = (under(&t.runtime, words)?, under(&link, words)?);
        ensure_eq!((ours.code, ours.stdout), (theirs.code, theirs.stdout), "{words:?}");
    }
    Ok(())
}

fn rootless_takes_its_values(t: &T) -> Verdict {
    for value in ["true", "false", "auto"] {
        t.runtime(&["--rootless", value, "list", "-q"])?.ok()?;
    }
    Ok(())
}
