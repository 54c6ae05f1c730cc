//! `exec`: a further process in a running container.

use crate::kit::machine::{field, text};
use crate::kit::stop::{Context, skip};
use crate::kit::wait::eventually;
use crate::kit::{Need, T, Verdict, cgroup};
use crate::{chapter, ensure, ensure_eq};
use serde_json::json;
use std::fs;

chapter! { "exec":
    a_process_runs_in_the_namespaces_of_the_container,
    a_process_is_in_the_cgroup_of_the_container,
    a_process_is_where_init_is_when_the_cgroup_is_gone,
    a_container_with_all_the_processes_it_may_have_is_entered [Need::Controller("pids")],
    the_environment_is_the_containers_with_additions,
    the_working_directory_is_the_containers_or_as_given,
    the_user_is_as_given,
    user_values_are_parsed_exactly,
    additional_gids_are_added,
    capabilities_are_added,
    no_new_privs_is_set,
    a_process_file_is_used_whole,
    a_process_file_with_limits_and_oom_score,
    a_process_of_another_user_has_its_limits,
    a_bad_process_file_is_an_error,
    detach_returns_at_once_and_leaves_a_pid,
    standard_input_is_passed,
    standard_output_and_error_stay_apart,
    preserve_fds_are_passed,
    only_the_standard_descriptors_are_open,
    ignore_paused_enters_a_paused_container,
    exec_in_a_created_container_works_or_is_refused_clearly,
    exec_enters_a_user_namespace_whose_init_is_closed_to_it,
    exec_without_a_command_is_an_error,
    nothing_but_the_process_is_in_the_cgroup_afterwards,
    a_sub_cgroup_is_entered,
    a_cgroup_outside_is_refused,
    why_a_sub_cgroup_is_not_entered_is_told_in_runcs_words [Need::Windlass],
    a_command_beside_a_process_file_is_ignored,
    debug_names_the_first_cpus [Need::Windlass],
    a_program_is_looked_up_in_the_path_of_the_container,
    options_of_the_command_are_left_alone,
    exec_after_a_change_of_the_bundle_uses_the_snapshot,
    exec_when_init_has_moved_its_root_works,
    many_execs_in_a_row_leave_no_process,
}

fn a_process_runs_in_the_namespaces_of_the_container(t: &T) -> Verdict {
    let container = t.running()?;
    let pid = container.pid()?;
    let ran = container.exec(&["/bin/ls", "-l", "/proc/self/ns"])?;
    for file in ["pid", "net", "ipc", "uts", "mnt", "cgroup", "user"] {
        let wanted = fs::read_link(format!("/proc/{pid}/ns/{file}"))?.display().to_string();
        ensure!(ran.stdout.contains(&wanted), "{file}: {wanted} is not in {}", ran.stdout);
    }
    Ok(())
}

fn a_process_is_in_the_cgroup_of_the_container(t: &T) -> Verdict {
    let container = t.running()?;
    let file = t.path("pid");
    container.try_exec(&["--detach", "--pid-file", &file.display().to_string()], &["/bin/sleep", "1000"])?.ok()?;
    let pid = fs::read_to_string(&file)?.parse()?;
    ensure_eq!(cgroup::of_pid(pid)?, cgroup::of(&container)?, "cgroups of exec and init");
    Ok(())
}

fn the_environment_is_the_containers_with_additions(t: &T) -> Verdict {
    let bundle =
        t.bundle()?.args(&["/bin/sleep", "1000"]).set("/process/env", json!(["PATH=/bin", "A=old", "HOME=/root"]));
    let container = t.start(&bundle)?;
    let ran = container.try_exec(&["--env", "A=new", "--env", "B=2"], &["/bin/sh", "-c", "echo $A $B $PATH"])?.ok()?;
    ran.stdout_is("new 2 /bin\n")?;
    Ok(())
}

fn the_working_directory_is_the_containers_or_as_given(t: &T) -> Verdict {
    let container = t.start(&t.bundle()?.args(&["/bin/sleep", "1000"]).set("/process/cwd", json!("/tmp")))?;
    container.exec(&["/bin/pwd"])?.stdout_is("/tmp\n")?;
    container.try_exec(&["--cwd", "/etc"], &["/bin/pwd"])?.ok()?.stdout_is("/etc\n")?;
    container.try_exec(&["--cwd", "relative"], &["/bin/pwd"])?.fails()?;
    Ok(())
}

fn the_user_is_as_given(t: &T) -> Verdict {
    let container = t.running()?;
    let ids = ["/bin/sh", "-c", "id -u; id -g"];
    container.try_exec(&["--user", "12"], &ids)?.ok()?.stdout_is("12\n0\n")?;
    container.try_exec(&["-u", "12:34"], &ids)?.ok()?.stdout_is("12\n34\n")?;
    Ok(())
}

fn user_values_are_parsed_exactly(t: &T) -> Verdict {
    let container = t.running()?;
    let ids = ["/bin/sh", "-c", "id -u; id -g"];
    container.try_exec(&["--user", "1"], &ids)?.ok()?.stdout_is("1\n0\n")?;
    container.try_exec(&["--user", "1:0"], &ids)?.ok()?.stdout_is("1\n0\n")?;
    for value in ["4294967295", "4294967296", "1 ", "-1", "1:abc", "abc", "1:", ":1", "1:2:3", "0x1"] {
        let ran = container.verb("exec", &[&format!("--user={value}")], &ids)?;
        ensure!(ran.code != 0, "--user {value:?} was accepted: {:?}", ran.stdout);
    }
    Ok(())
}

fn additional_gids_are_added(t: &T) -> Verdict {
    let container = t.running()?;
    let ran = container.try_exec(&["-g", "7", "-g", "8"], &["/bin/cat", "/proc/self/status"])?.ok()?;
    ensure_eq!(field(&ran.stdout, "Groups"), "7 8", "groups");
    let ran = container.exec(&["/bin/cat", "/proc/self/status"])?;
    ensure_eq!(field(&ran.stdout, "Groups"), "", "groups when unspecified");
    let groups = json!([5, 6]);
    let bundle = t.bundle()?.set("/process/user/additionalGids", groups).args(&["/bin/sleep", "1000"]);
    let container = t.start(&bundle)?;
    let ran = container.try_exec(&["-g", "7"], &["/bin/cat", "/proc/self/status"])?.ok()?;
    ensure_eq!(field(&ran.stdout, "Groups"), "5 6 7", "the container's own groups, and one more");
    Ok(())
}

fn capabilities_are_added(t: &T) -> Verdict {
    let container = t.running()?;
    let ran = container
        .try_exec(&["--cap", "CAP_NET_RAW", "--cap", "CAP_CHOWN"], &["/bin/cat", "/proc/self/status"])?
        .ok()?;
    let effective = u64::from_str_radix(&field(&ran.stdout, "CapEff"), 16)?;
    // The bundle's AUDIT_WRITE, KILL and NET_BIND_SERVICE, and the two more.
    ensure_eq!(effective, 1 << 29 | 1 << 5 | 1 << 10 | 1 << 13 | 1, "CapEff");
    Ok(())
}

fn no_new_privs_is_set(t: &T) -> Verdict {
    let container =
        t.start(&t.bundle()?.args(&["/bin/sleep", "1000"]).set("/process/noNewPrivileges", json!(false)))?;
    let nnp = |options: &[&str]| {
        Ok::<_, crate::kit::Stop>(field(
            &container.try_exec(options, &["/bin/cat", "/proc/self/status"])?.ok()?.stdout,
            "NoNewPrivs",
        ))
    };
    ensure_eq!(nnp(&[])?, "0", "without the flag");
    ensure_eq!(nnp(&["--no-new-privs"])?, "1", "with the flag");
    Ok(())
}

fn a_process_file_is_used_whole(t: &T) -> Verdict {
    let container = t.running()?;
    let process = json!({
        "args": ["/bin/sh", "-c", "pwd; id -u; echo $ONLY; umask; grep -E 'CapBnd|NoNewPrivs' /proc/self/status"],
        "cwd": "/tmp", "env": ["ONLY=this", "PATH=/bin"], "user": {"uid": 5, "gid": 6, "umask": 0o77},
        "noNewPrivileges": true, "capabilities": {"bounding": ["CAP_KILL"]}
    });
    container
        .exec_process(&process, &[])?
        .ok()?
        .stdout_is("/tmp\n5\nthis\n0077\nCapBnd:\t0000000000000020\nNoNewPrivs:\t1\n")?;
    Ok(())
}

fn a_process_file_with_limits_and_oom_score(t: &T) -> Verdict {
    let container = t.running()?;
    let process = json!({
        "args": ["/bin/sh", "-c", "ulimit -n; cat /proc/self/oom_score_adj"], "cwd": "/", "user": {"uid": 0, "gid": 0},
        "env": ["PATH=/bin"], "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 88}], "oomScoreAdj": 99
    });
    container.exec_process(&process, &[])?.ok()?.stdout_is("77\n99\n")?;
    Ok(())
}

fn a_process_of_another_user_has_its_limits(t: &T) -> Verdict {
    let container = t.running()?;
    let limits =
        json!([{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 88}, {"type": "RLIMIT_NPROC", "soft": 66, "hard": 99}]);
    let process = json!({
        "args": ["/bin/sh", "-c", "cat /proc/self/limits"], "cwd": "/", "user": {"uid": 12, "gid": 34},
        "env": ["PATH=/bin"], "rlimits": limits
    });
    let shown = container.exec_process(&process, &[])?.ok()?.stdout;
    for (name, soft, hard) in [("Max open files", "77", "88"), ("Max processes", "66", "99")] {
        let row = shown.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        let words: Vec<&str> = row.split_whitespace().collect();
        ensure!(words.starts_with(&[soft, hard]), "{name}: {row:?}");
    }
    Ok(())
}

fn a_bad_process_file_is_an_error(t: &T) -> Verdict {
    let container = t.running()?;
    container.try_exec(&["--process", "/no/such/file"], &[])?.code_is(255)?.stderr_has("/no/such/file")?;
    container.exec_process(&json!({"args": [], "cwd": "/"}), &[])?.fails()?;
    container.exec_process(&json!({"args": ["/bin/true"], "cwd": ""}), &[])?.fails()?;
    Ok(())
}

fn detach_returns_at_once_and_leaves_a_pid(t: &T) -> Verdict {
    let container = t.running()?;
    let file = t.path("pid");
    let ran = container.try_exec(&["-d", "--pid-file", &file.display().to_string()], &["/bin/sleep", "555"])?.ok()?;
    ensure!(ran.took.as_secs() < 5, "took {:?}", ran.took);
    let pid = fs::read_to_string(&file)?;
    ensure!(text(format!("/proc/{pid}/cmdline")).contains("555"), "pid {pid} is not the process");
    Ok(())
}

fn standard_input_is_passed(t: &T) -> Verdict {
    let container = t.running()?;
    t.runtime_with_stdin(&["exec", &container.id, "/bin/cat"], b"through exec\n")?.ok()?.stdout_is("through exec\n")?;
    Ok(())
}

fn standard_output_and_error_stay_apart(t: &T) -> Verdict {
    let container = t.running()?;
    let ran = container.exec_sh("echo out; echo err >&2")?;
    ensure_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("out\n", "err\n"), "stdout and stderr");
    Ok(())
}

/// The descriptors that an exec started with 3 and 4 open has.
fn descriptors(t: &T, options: &str) -> Verdict<Vec<String>> {
    let container = t.start(&t.bundle()?.helper()?.args(&["/bin/sleep", "1000"]))?;
    let mut command = std::process::Command::new("/bin/sh");
    command
        .args(["-c", "exec \"$@\" 3</dev/null 4</dev/null 7</dev/null", "sh"])
        .arg(&t.runtime)
        .arg("--root")
        .arg(t.root())
        .arg("exec");
    command.args(options.split_whitespace()).arg(&container.id).args(["/helper", "@payload", "fds"]);
    let ran = t.finish(command)?.ok()?;
    Ok(ran.lines().iter().map(|line| line.split(' ').next().unwrap_or_default().to_owned()).collect())
}

fn preserve_fds_are_passed(t: &T) -> Verdict {
    ensure_eq!(descriptors(t, "--preserve-fds 1")?, ["0", "1", "2", "3"], "descriptors");
    Ok(())
}

fn only_the_standard_descriptors_are_open(t: &T) -> Verdict {
    ensure_eq!(descriptors(t, "")?, ["0", "1", "2"], "descriptors");
    Ok(())
}

fn ignore_paused_enters_a_paused_container(t: &T) -> Verdict {
    let container = t.running()?;
    container.verb("pause", &[], &[])?.ok()?;
    let mut command = t.command();
    command.args(["exec", "--ignore-paused", &container.id, "/bin/echo", "thawed"]);
    let capture = t.capture();
    capture.attach(&mut command)?;
    let mut child = command.spawn()?;
    std::thread::sleep(std::time::Duration::from_millis(100));
    container.verb("resume", &[], &[])?.ok()?;
    let status = crate::kit::runtime::wait(&mut child, std::time::Duration::from_secs(120), "exec").context("exec")?;
    ensure_eq!((status.code(), capture.read().0), (Some(0), "thawed\n".to_owned()), "exec after resume");
    Ok(())
}

fn exec_in_a_created_container_works_or_is_refused_clearly(t: &T) -> Verdict {
    let container = t.create(&t.bundle()?)?;
    let ran = container.try_exec(&[], &["/bin/echo", "in created"])?;
    if ran.code == 0 {
        ran.stdout_is("in created\n")?;
    } else {
        ran.code_is(255)?.stderr_has("exec")?;
    }
    container.status_is("created")
}

/// The kernel does not let the container's own root look at an init that has not executed a program yet, nor at an init
/// whose program is not readable.
fn exec_enters_a_user_namespace_whose_init_is_closed_to_it(t: &T) -> Verdict {
    let bundle = super::namespaces::user_namespace(t)?.args(&["/opt/sleep", "1000"]);
    // The host's root owns the program, so the container's root may execute and not read it.
    let program = bundle.rootfs().join("opt/sleep");
    fs::create_dir_all(bundle.rootfs().join("opt"))?;
    fs::copy(crate::kit::rootfs::MASTER, &program)?;
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o711))?;
    let container = t.create(&bundle)?;
    container.exec(&["/bin/echo", "in created"])?.stdout_is("in created\n")?;
    container.status_is("created")?;
    container.start()?;
    container.exec(&["/bin/echo", "in running"])?.stdout_is("in running\n")?;
    Ok(())
}

fn exec_without_a_command_is_an_error(t: &T) -> Verdict {
    let container = t.running()?;
    container.try_exec(&[], &[])?.fails()?;
    Ok(())
}

fn a_sub_cgroup_is_entered(t: &T) -> Verdict {
    let container = t.running()?;
    let dir = cgroup::of(&container)?;
    fs::create_dir(dir.join("sub"))?;
    let file = t.path("pid");
    container
        .try_exec(&["--cgroup", "sub", "--detach", "--pid-file", &file.display().to_string()], &["/bin/sleep", "1000"])?
        .ok()?;
    ensure_eq!(cgroup::of_pid(fs::read_to_string(&file)?.parse()?)?, dir.join("sub"), "cgroup of the process");
    Ok(())
}

fn nothing_but_the_process_is_in_the_cgroup_afterwards(t: &T) -> Verdict {
    let container = t.running()?;
    let dir = cgroup::of(&container)?;
    for round in 0..40 {
        let sub = format!("sub{round}");
        fs::create_dir(dir.join(&sub))?;
        container.try_exec(&["--cgroup", &sub, "--detach"], &["/bin/sleep", "1000"])?.ok()?;
        let procs = text(dir.join(&sub).join("cgroup.procs").display().to_string());
        ensure_eq!(procs.lines().count(), 1, "processes in {sub} in round {round}");
    }
    Ok(())
}

fn a_cgroup_outside_is_refused(t: &T) -> Verdict {
    let container = t.running()?;
    for path in ["../..", "/../..", "no-such-sub", "a\nb", "sub/../../.."] {
        container.try_exec(&["--cgroup", path], &["/bin/true"])?.fails().context(format!("--cgroup {path:?}"))?;
    }
    Ok(())
}

fn why_a_sub_cgroup_is_not_entered_is_told_in_runcs_words(t: &T) -> Verdict {
    let container = t.running()?;
    let refused = |path: &str| container.try_exec(&["--cgroup", path], &["/bin/true"])?.code_is(255);
    refused("..")?.stderr_has(" .. is not a sub cgroup path")?;
    let absent = refused("no-such-sub")?.stderr_has(" adding pid ")?.stderr_has(" to cgroups: ")?;
    absent.stderr_has("/no-such-sub/cgroup.procs: no such file or directory")?;
    // Init is in a sub-cgroup, and the container's cgroup enables a controller for its sub-cgroups.
    let dir = cgroup::of(&container)?;
    let controllers = text(dir.join("cgroup.controllers").display().to_string());
    let Some(controller) = controllers.split_whitespace().next() else { return skip("no controller is delegated") };
    fs::create_dir(dir.join("sub"))?;
    fs::write(dir.join("sub/cgroup.procs"), container.pid()?.to_string())?;
    fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"))?;
    let full = refused("/")?.stderr_has(" adding pid ")?.stderr_has(" to cgroups: ")?;
    full.stderr_has("/cgroup.procs: device or resource busy")?;
    Ok(())
}

fn a_command_beside_a_process_file_is_ignored(t: &T) -> Verdict {
    let container = t.running()?;
    let process = json!({"args": ["/bin/echo", "of the file"], "cwd": "/", "user": {"uid": 0, "gid": 0}});
    let file = t.path("process.json");
    fs::write(&file, process.to_string())?;
    let ran = container.try_exec(&["--process", &file.display().to_string()], &["/bin/echo", "of the words"])?;
    ran.ok()?.stdout_is("of the file\n")?;
    Ok(())
}

fn debug_names_the_first_cpus(t: &T) -> Verdict {
    let container = t.running()?;
    let process = json!({
        "args": ["/bin/true"], "cwd": "/", "user": {"uid": 0, "gid": 0}, "execCPUAffinity": {"initial": "0"}
    });
    let ran = container.exec_process(&process, &["--debug"])?.ok()?.stderr_has("nsexec: affinity: 0x1\"")?;
    ran.stderr_has("setns_init: about to exec")?;
    Ok(())
}

fn a_program_is_looked_up_in_the_path_of_the_container(t: &T) -> Verdict {
    let container = t.running()?;
    container.exec(&["echo", "found"])?.stdout_is("found\n")?;
    Ok(())
}

fn options_of_the_command_are_left_alone(t: &T) -> Verdict {
    let container = t.running()?;
    container.exec(&["/bin/echo", "-e", "--user", "x", "-d"])?.stdout_is("--user x -d\n")?;
    container.try_exec(&[], &["--", "/bin/echo", "a"])?;
    Ok(())
}

fn exec_after_a_change_of_the_bundle_uses_the_snapshot(t: &T) -> Verdict {
    let bundle = t.bundle()?.args(&["/bin/sleep", "1000"]).set("/process/env", json!(["PATH=/bin", "FROM=create"]));
    let container = t.start(&bundle)?;
    fs::remove_file(bundle.dir.join("config.json"))?;
    container.exec_sh("echo $FROM")?.stdout_is("create\n")?;
    Ok(())
}

fn exec_when_init_has_moved_its_root_works(t: &T) -> Verdict {
    let container = t.start(
        &t.bundle()?.privileged().sh("mkdir /tmp/r; mount -t tmpfs x /tmp/r; cd /tmp/r; echo moved; exec sleep 1000"),
    )?;
    container.wait_for_output("moved")?;
    container.exec(&["/bin/pwd"])?.stdout_is("/\n")?;
    Ok(())
}

fn many_execs_in_a_row_leave_no_process(t: &T) -> Verdict {
    let container = t.running()?;
    for _ in 0..10 {
        container.exec(&["/bin/true"])?;
    }
    let dir = cgroup::of(&container)?;
    eventually("one process is left", || (text(dir.join("cgroup.procs")).lines().count() == 1).then_some(()))
}

fn a_process_is_where_init_is_when_the_cgroup_is_gone(t: &T) -> Verdict {
    let container = t.running()?;
    let own = cgroup::of(&container)?;
    let other = own.with_extension("moved");
    fs::create_dir(&other)?;
    fs::write(other.join("cgroup.procs"), container.pid()?.to_string())?;
    fs::remove_dir(&own)?;
    let pid_file = t.path("pid").display().to_string();
    let ran = container.try_exec(&["--detach", "--pid-file", &pid_file], &["/bin/sleep", "1000"])?.ok();
    let pids = fs::read_to_string(other.join("cgroup.procs"))?;
    let pid = fs::read_to_string(&pid_file).unwrap_or_default();
    let _ = fs::write(other.join("cgroup.kill"), "1");
    eventually("the cgroup can be removed", || fs::remove_dir(&other).ok())?;
    ran?;
    ensure!(pids.lines().any(|line| line == pid), "{pid} is not among {pids}");
    Ok(())
}

fn a_container_with_all_the_processes_it_may_have_is_entered(t: &T) -> Verdict {
    let script = "for i in 1 2 3 4; do sleep 1000 & done; wait";
    let bundle = t.bundle()?.set("/linux/resources/pids", json!({"limit": 5})).sh(script);
    let container = t.start(&bundle)?;
    let full = || fs::read_to_string(cgroup::of(&container).ok()?.join("pids.current")).ok().filter(|n| n == "5\n");
    eventually("the container is full", full)?;
    for options in [&[][..], &["--env", "A=b"]] {
        let ran = container.try_exec(options, &["/bin/cat", "/proc/self/cgroup"])?.ok()?;
        // It counts as the container's: the path is that of its cgroup namespace.
        ensure!(ran.lines().contains(&"0::/"), "the process is in another cgroup: {}", ran.stdout);
    }
    Ok(())
}
