//! config.md, "Process": arguments, environment, working directory, user, capabilities, limits, scheduling and the
//! other properties that `execve` inherits.

use crate::kit::machine::{field, text};
use crate::kit::spec::capabilities;
use crate::kit::stop::skip;
use crate::kit::{Need, T, Verdict};
use crate::{chapter, ensure, ensure_eq};
use serde_json::json;

chapter! { "process":
    arguments_arrive_as_given,
    a_program_is_looked_up_in_the_path_of_the_container,
    a_program_with_a_slash_is_relative_to_cwd,
    the_environment_is_exactly_what_was_asked_for,
    home_comes_from_passwd_when_unset,
    a_variable_stands_once_and_the_last_one_counts,
    cwd_is_the_working_directory,
    a_missing_cwd_is_made,
    a_relative_cwd_is_refused,
    a_cwd_that_only_the_user_may_enter_works,
    a_cwd_that_only_the_runtime_may_enter_works,
    uid_and_gid_are_set,
    ids_above_two_to_the_31_are_set,
    additional_gids_are_set,
    no_additional_gids_means_none,
    umask_is_set,
    an_absent_umask_is_0022,
    capabilities_are_exactly_those_asked_for,
    an_unknown_capability_is_a_warning,
    ambient_capabilities_reach_a_user_process,
    capabilities_of_a_user_process_are_dropped,
    inheritable_capabilities_are_empty_unless_asked_for,
    no_new_privileges_is_set_when_true,
    no_new_privileges_is_unset_when_false_or_absent,
    rlimits_are_set,
    a_duplicate_rlimit_is_refused,
    a_raised_hard_rlimit_is_set [Need::SysResource],
    an_unknown_rlimit_is_refused,
    oom_score_adj_is_set,
    a_negative_oom_score_adj_is_set [Need::SysResource],
    an_oom_score_adj_that_is_refused_names_its_member [Need::Windlass, Need::SysResource],
    personality_is_set,
    scheduler_batch_with_nice_is_set,
    scheduler_fifo_with_priority_is_set [Need::SysResource],
    scheduler_applies_to_exec_too,
    io_priority_is_set,
    exec_cpu_affinity_is_set,
    memory_policy_is_set,
    a_new_session_keyring_is_joined,
    the_name_of_the_session_keyring_cannot_be_guessed [Need::Windlass],
    no_new_keyring_keeps_the_callers,
    only_the_standard_descriptors_are_open,
    preserve_fds_passes_exactly_those,
    the_process_is_a_session_leader,
    an_empty_capabilities_object_drops_all,
    a_process_that_is_absent_is_accepted_by_create [Need::Windlass],
    signals_are_not_ignored_nor_blocked,
}

fn arguments_arrive_as_given(t: &T) -> Verdict {
    let bundle = t.bundle()?.args(&["/bin/printf", "[%s]", "a b", "", "ü\n$x"]);
    t.run(&bundle)?.ok()?.stdout_is("[a b][][ü\n$x]")?;
    Ok(())
}

fn a_program_is_looked_up_in_the_path_of_the_container(t: &T) -> Verdict {
    let bundle = t.bundle()?.args(&["own"]).set("/process/env", json!(["PATH=/opt:/bin"]));
    std::fs::create_dir(bundle.rootfs().join("opt"))?;
    let script = bundle.rootfs().join("opt/own");
    std::fs::write(&script, "#!/bin/sh\necho own program\n")?;
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    t.run(&bundle)?.ok()?.stdout_is("own program\n")?;
    Ok(())
}

fn a_program_with_a_slash_is_relative_to_cwd(t: &T) -> Verdict {
    t.run(&t.bundle()?.args(&["./echo", "found"]).set("/process/cwd", json!("/bin")))?.ok()?.stdout_is("found\n")?;
    Ok(())
}

fn the_environment_is_exactly_what_was_asked_for(t: &T) -> Verdict {
    let bundle = t.bundle()?.args(&["/bin/env"]).set("/process/env", json!(["A=1", "B=x y", "HOME=/here", "EMPTY="]));
    let ran = t.run(&bundle)?.ok()?;
    let mut lines = ran.lines();
    lines.sort_unstable();
    ensure_eq!(lines, ["A=1", "B=x y", "EMPTY=", "HOME=/here"], "environment");
    Ok(())
}

fn home_comes_from_passwd_when_unset(t: &T) -> Verdict {
    let bundle = t
        .bundle()?
        .sh("echo $HOME")
        .set("/process/env", json!(["PATH=/bin"]))
        .set("/process/user", json!({"uid": 1000, "gid": 1000}));
    t.run(&bundle)?.ok()?.stdout_is("/home/user\n")?;
    Ok(())
}

fn a_variable_stands_once_and_the_last_one_counts(t: &T) -> Verdict {
    let twice = json!(["A=1", "HOME=/there", "PATH=/bin", "A=2", "HOME="]);
    let bundle = t.bundle()?.set("/process/env", twice);
    t.run(&bundle.clone().args(&["/bin/env"]))?.ok()?.stdout_is("PATH=/bin\nA=2\nHOME=/root\n")?;
    // A HOME without a value keeps its place.
    let empty = bundle.clone().set("/process/env", json!(["HOME=", "A=1"])).args(&["/bin/env"]);
    t.run(&empty)?.ok()?.stdout_is("HOME=/root\nA=1\n")?;
    let container = t.start(&bundle.args(&["/bin/sleep", "1000"]))?;
    let seen = container.try_exec(&["--env", "A=3"], &["/bin/env"])?.ok()?.stdout;
    ensure_eq!(seen.matches("A=").collect::<Vec<_>>().len(), 1, "{seen}");
    ensure!(seen.contains("A=3\n"), "{seen}");
    Ok(())
}

fn cwd_is_the_working_directory(t: &T) -> Verdict {
    t.run(&t.bundle()?.args(&["/bin/pwd"]).set("/process/cwd", json!("/tmp")))?.ok()?.stdout_is("/tmp\n")?;
    Ok(())
}

fn a_missing_cwd_is_made(t: &T) -> Verdict {
    for readonly in [false, true] {
        let bundle = t.bundle()?.args(&["/bin/pwd"]).set("/root/readonly", json!(readonly));
        t.run(&bundle.set("/process/cwd", json!("/var/made/here")))?.ok()?.stdout_is("/var/made/here\n")?;
    }
    Ok(())
}

fn a_relative_cwd_is_refused(t: &T) -> Verdict {
    t.run(&t.bundle()?.set("/process/cwd", json!("tmp")))?.fails()?;
    Ok(())
}

fn a_cwd_that_only_the_runtime_may_enter_works(t: &T) -> Verdict {
    let bundle = t
        .bundle()?
        .set("/process/cwd", json!("/var/closed"))
        .set("/process/user", json!({"uid": 1000, "gid": 1000}))
        .set("/process/capabilities", capabilities(&[]));
    let closed = bundle.rootfs().join("var/closed");
    std::fs::create_dir(&closed)?;
    std::fs::set_permissions(&closed, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    t.run(&bundle.clone().args(&["/bin/pwd"]))?.ok()?.stdout_is("/var/closed\n")?;
    let container = t.start(&bundle.args(&["/bin/sleep", "1000"]))?;
    container.exec(&["/bin/pwd"])?.stdout_is("/var/closed\n")?;
    Ok(())
}

fn a_cwd_that_only_the_user_may_enter_works(t: &T) -> Verdict {
    let bundle = t
        .bundle()?
        .args(&["/bin/pwd"])
        .set("/process/cwd", json!("/var/own"))
        .set("/process/user", json!({"uid": 1000, "gid": 1000}));
    let bundle = bundle.set("/process/capabilities", capabilities(&[]));
    let own = bundle.rootfs().join("var/own");
    std::fs::create_dir(&own)?;
    std::fs::set_permissions(&own, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    std::os::unix::fs::chown(&own, Some(1000), Some(1000))?;
    t.run(&bundle)?.ok()?.stdout_is("/var/own\n")?;
    Ok(())
}

fn uid_and_gid_are_set(t: &T) -> Verdict {
    let bundle = t.bundle()?.sh("id -u; id -g").set("/process/user", json!({"uid": 1234, "gid": 5678}));
    t.run(&bundle)?.ok()?.stdout_is("1234\n5678\n")?;
    Ok(())
}

fn ids_above_two_to_the_31_are_set(t: &T) -> Verdict {
    let bundle = t
        .bundle()?
        .sh("id -u; id -g")
        .set("/process/user", json!({"uid": 4_000_000_000_u32, "gid": 4_000_000_001_u32}));
    t.run(&bundle)?.ok()?.stdout_is("4000000000\n4000000001\n")?;
    Ok(())
}

fn additional_gids_are_set(t: &T) -> Verdict {
    let bundle = t.bundle()?.args(&["/bin/grep", "Groups", "/proc/self/status"]);
    let bundle = bundle.set("/process/user", json!({"uid": 0, "gid": 0, "additionalGids": [7, 4000]}));
    let ran = t.run(&bundle)?.ok()?;
    ensure_eq!(field(&ran.stdout, "Groups"), "7 4000", "groups");
    Ok(())
}

fn no_additional_gids_means_none(t: &T) -> Verdict {
    let bundle = t.bundle()?.args(&["/bin/grep", "Groups", "/proc/self/status"]);
    bundle.write()?;
    let mut command = std::process::Command::new("setpriv");
    command.args(["--groups", "4,24"]).arg(&t.runtime).arg("--root").arg(t.root());
    command.args(["run", "--bundle"]).arg(&bundle.dir).arg(t.id());
    let ran = t.finish(command)?.ok()?;
    ensure_eq!(field(&ran.stdout, "Groups"), "", "the caller's groups are inside");
    Ok(())
}

fn umask_is_set(t: &T) -> Verdict {
    t.run(&t.bundle()?.sh("umask").set("/process/user/umask", json!(0o027)))?.ok()?.stdout_is("0027\n")?;
    Ok(())
}

/// By the specification the process would inherit the umask. dockerd and its children run with 0, so every runtime that
/// engines use sets 0022 instead.
fn an_absent_umask_is_0022(t: &T) -> Verdict {
    let bundle = t.bundle()?.sh("umask");
    bundle.write()?;
    let mut command = std::process::Command::new("/bin/sh");
    command.args(["-c", "umask 0035; exec \"$@\"", "sh"]).arg(&t.runtime).arg("--root").arg(t.root());
    command.args(["run", "--bundle"]).arg(&bundle.dir).arg(t.id());
    t.finish(command)?.ok()?.stdout_is("0022\n")?;
    Ok(())
}

/// The five capability sets of `/proc/self/status`, as the payload sees them.
fn capability_sets(status: &str) -> [u64; 5] {
    ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]
        .map(|name| u64::from_str_radix(&field(status, name), 16).unwrap_or(u64::MAX))
}

fn capabilities_are_exactly_those_asked_for(t: &T) -> Verdict {
    let bundle = t.bundle()?.args(&["/bin/cat", "/proc/self/status"]).set("/process/capabilities", json!({
        "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID"], "permitted": ["CAP_CHOWN", "CAP_KILL"], "effective": ["CAP_CHOWN"]
    }));
    let ran = t.run(&bundle)?.ok()?;
    // With no_new_privs execve gives root no further capabilities, but makes all of them effective.
    let (permitted, bounding) = (1 | 1 << 5, 1 | 1 << 5 | 1 << 7);
    ensure_eq!(capability_sets(&ran.stdout), [0, permitted, permitted, bounding, 0], "sets inh prm eff bnd amb");
    Ok(())
}

fn an_unknown_capability_is_a_warning(t: &T) -> Verdict {
    let bundle = t.bundle()?.set("/process/capabilities", capabilities(&["CAP_KILL", "CAP_NO_SUCH_THING"]));
    bundle.write()?;
    let log = t.path("log");
    let words = ["--log", &log.display().to_string(), "run", "--bundle", &bundle.dir.display().to_string(), &t.id()];
    let ran = t.runtime(&words)?.ok()?;
    let said = text(&log) + &ran.stderr;
    ensure!(said.contains("CAP_NO_SUCH_THING"), "neither the log nor stderr names it: {said:?}");
    Ok(())
}

fn ambient_capabilities_reach_a_user_process(t: &T) -> Verdict {
    let names = json!(["CAP_NET_BIND_SERVICE"]);
    let bundle =
        t.bundle()?.args(&["/bin/cat", "/proc/self/status"]).set("/process/user", json!({"uid": 1000, "gid": 1000}));
    let bundle = bundle.set(
        "/process/capabilities",
        json!({
            "bounding": names, "permitted": names, "effective": names, "inheritable": names, "ambient": names
        }),
    );
    let ran = t.run(&bundle)?.ok()?;
    ensure_eq!(capability_sets(&ran.stdout), [1 << 10; 5], "sets inh prm eff bnd amb");
    Ok(())
}

fn capabilities_of_a_user_process_are_dropped(t: &T) -> Verdict {
    let bundle =
        t.bundle()?.args(&["/bin/cat", "/proc/self/status"]).set("/process/user", json!({"uid": 1000, "gid": 1000}));
    let ran = t.run(&bundle)?.ok()?;
    let [inheritable, permitted, effective, _, ambient] = capability_sets(&ran.stdout);
    ensure_eq!([inheritable, permitted, effective, ambient], [0; 4], "sets inh prm eff amb");
    Ok(())
}

fn inheritable_capabilities_are_empty_unless_asked_for(t: &T) -> Verdict {
    let container = t.running()?;
    let status = container.exec(&["/bin/cat", "/proc/1/status"])?.stdout;
    ensure_eq!(capability_sets(&status)[0], 0, "inheritable set of init");
    let status = container.try_exec(&["--cap", "CAP_NET_RAW"], &["/bin/cat", "/proc/self/status"])?.ok()?.stdout;
    ensure_eq!(capability_sets(&status)[0], 0, "inheritable set of exec --cap");
    Ok(())
}

fn an_empty_capabilities_object_drops_all(t: &T) -> Verdict {
    let bundle = t.bundle()?.args(&["/bin/cat", "/proc/self/status"]).set("/process/capabilities", json!({}));
    let ran = t.run(&bundle)?.ok()?;
    ensure_eq!(capability_sets(&ran.stdout), [0; 5], "sets inh prm eff bnd amb");
    Ok(())
}

fn no_new_privileges_is_set_when_true(t: &T) -> Verdict {
    let ran = t.run(&t.bundle()?.args(&["/bin/cat", "/proc/self/status"]))?.ok()?;
    ensure_eq!(field(&ran.stdout, "NoNewPrivs"), "1", "NoNewPrivs");
    Ok(())
}

fn no_new_privileges_is_unset_when_false_or_absent(t: &T) -> Verdict {
    let status = ["/bin/cat", "/proc/self/status"];
    for bundle in
        [t.bundle()?.set("/process/noNewPrivileges", json!(false)), t.bundle()?.unset("/process/noNewPrivileges")]
    {
        let ran = t.run(&bundle.args(&status))?.ok()?;
        ensure_eq!(field(&ran.stdout, "NoNewPrivs"), "0", "NoNewPrivs");
    }
    Ok(())
}

fn rlimits_are_set(t: &T) -> Verdict {
    let bundle = t.bundle()?.args(&["/bin/cat", "/proc/self/limits"]).set(
        "/process/rlimits",
        json!([
            {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
            {"type": "RLIMIT_CORE", "soft": 0, "hard": 4096},
            {"type": "RLIMIT_FSIZE", "soft": 1_000_000, "hard": 2_000_000}
        ]),
    );
    let ran = t.run(&bundle)?.ok()?;
    let row = |name: &str| {
        let line = ran.stdout.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>()
    };
    ensure_eq!(row("Max open files"), ["100", "200"], "open files");
    ensure_eq!(row("Max core file size"), ["0", "4096"], "core");
    ensure_eq!(row("Max file size"), ["1000000", "2000000"], "file size");
    Ok(())
}

fn a_duplicate_rlimit_is_refused(t: &T) -> Verdict {
    let limit = json!({"type": "RLIMIT_CORE", "soft": 0, "hard": 0});
    t.run(&t.bundle()?.set("/process/rlimits", json!([limit, limit])))?.fails()?.stderr_has("RLIMIT_CORE")?;
    Ok(())
}

fn a_raised_hard_rlimit_is_set(t: &T) -> Verdict {
    let bundle = t
        .bundle()?
        .sh("ulimit -Hn")
        .set("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 70000, "hard": 70000}]));
    bundle.write()?;
    let mut command = std::process::Command::new("/bin/sh");
    command.args(["-c", "ulimit -n 20000; exec \"$@\"", "sh"]).arg(&t.runtime).arg("--root").arg(t.root());
    command.args(["run", "--bundle"]).arg(&bundle.dir).arg(t.id());
    t.finish(command)?.ok()?.stdout_is("70000\n")?;
    Ok(())
}

fn an_unknown_rlimit_is_refused(t: &T) -> Verdict {
    t.run(&t.bundle()?.set("/process/rlimits", json!([{"type": "RLIMIT_NOTHING", "soft": 1, "hard": 1}])))?.fails()?;
    Ok(())
}

fn oom_score_adj_is_set(t: &T) -> Verdict {
    t.run(&t.bundle()?.sh("cat /proc/self/oom_score_adj").set("/process/oomScoreAdj", json!(321)))?
        .ok()?
        .stdout_is("321\n")?;
    Ok(())
}

fn a_negative_oom_score_adj_is_set(t: &T) -> Verdict {
    t.run(&t.bundle()?.sh("cat /proc/self/oom_score_adj").set("/process/oomScoreAdj", json!(-321)))?
        .ok()?
        .stdout_is("-321\n")?;
    Ok(())
}

fn an_oom_score_adj_that_is_refused_names_its_member(t: &T) -> Verdict {
    let bundle = t.bundle()?.sh("true").set("/process/oomScoreAdj", json!(-321));
    bundle.write()?;
    let mut command = std::process::Command::new("setpriv");
    command
        .args(["--bounding-set=-sys_resource", "--inh-caps=-sys_resource"])
        .arg(&t.runtime)
        .arg("--root")
        .arg(t.root());
    command.arg("run").arg("--bundle").arg(&bundle.dir).arg(t.id()).stdin(std::process::Stdio::null());
    t.finish(command)?
        .code_is(1)?
        .stderr_has("cannot set oom_score_adj to -321")?
        .stderr_has("/process/oomScoreAdj")?;
    Ok(())
}

fn personality_is_set(t: &T) -> Verdict {
    // Debian's kernel for riscv64 is built without CONFIG_COMPAT.
    let other = std::process::Command::new("setarch").args(["linux32", "cat", "/proc/self/personality"]).output()?;
    if other.stdout == b"00000000\n" {
        return skip("this kernel forgets a personality in execve(2)");
    }
    // PER_LINUX32 is 8. On s390x personality(2) does not show it.
    let bundle = t.bundle()?.sh("cat /proc/self/personality").set("/linux/personality", json!({"domain": "LINUX32"}));
    t.run(&bundle)?.ok()?.stdout_is("00000008\n")?;
    Ok(())
}

fn scheduler_batch_with_nice_is_set(t: &T) -> Verdict {
    let bundle = t.bundle()?.helper()?.args(&["/helper", "@payload", "scheduler"]);
    let bundle = bundle.set("/process/scheduler", json!({"policy": "SCHED_BATCH", "nice": 7}));
    t.run(&bundle)?.ok()?.stdout_has("policy=3 nice=7 ")?;
    Ok(())
}

fn scheduler_fifo_with_priority_is_set(t: &T) -> Verdict {
    let bundle = t.bundle()?.helper()?.args(&["/helper", "@payload", "scheduler"]);
    let bundle = bundle.set(
        "/process/scheduler",
        json!({"policy": "SCHED_FIFO", "priority": 9, "flags": ["SCHED_FLAG_RESET_ON_FORK"]}),
    );
    let ran = t.run(&bundle)?;
    let handed_down = text("/sys/fs/cgroup/cgroup.subtree_control");
    if handed_down.split_whitespace().any(|name| name == "cpu") && ran.stderr.contains("CONFIG_RT_GROUP_SCHED") {
        return skip("the kernel refuses realtime processes below the cpu controller");
    }
    ran.ok()?.stdout_has("policy=1 nice=0 priority=9 flags=1")?;
    Ok(())
}

fn scheduler_applies_to_exec_too(t: &T) -> Verdict {
    let bundle = t.bundle()?.helper()?.args(&["/bin/sleep", "1000"]);
    let container = t.start(&bundle)?;
    let process = json!({
        "args": ["/helper", "@payload", "scheduler"], "cwd": "/", "user": {"uid": 0, "gid": 0},
        "scheduler": {"policy": "SCHED_BATCH", "nice": 3}
    });
    container.exec_process(&process, &[])?.ok()?.stdout_has("policy=3 nice=3 ")?;
    Ok(())
}

fn io_priority_is_set(t: &T) -> Verdict {
    // ioprio_get(IOPRIO_WHO_PROCESS, 0) = class << 13 | level.
    let call = format!("{},1,0", libc::SYS_ioprio_get);
    let bundle = t.bundle()?.helper()?.args(&["/helper", "@payload", "syscalls", &call]);
    let bundle = bundle.set("/process/ioPriority", json!({"class": "IOPRIO_CLASS_BE", "priority": 6}));
    t.run(&bundle)?.ok()?.stdout_is(&format!("{}={}\n", libc::SYS_ioprio_get, 2 << 13 | 6))?;
    Ok(())
}

fn exec_cpu_affinity_is_set(t: &T) -> Verdict {
    if text("/sys/devices/system/cpu/online") == "0" {
        return skip("only one CPU");
    }
    let container = t.running()?;
    let process = json!({
        "args": ["/bin/grep", "Cpus_allowed_list", "/proc/self/status"], "cwd": "/", "user": {"uid": 0, "gid": 0},
        "execCPUAffinity": {"initial": "0", "final": "1"}
    });
    container.exec_process(&process, &[])?.ok()?.stdout_is("Cpus_allowed_list:\t1\n")?;
    Ok(())
}

fn memory_policy_is_set(t: &T) -> Verdict {
    if crate::sys::get_mempolicy().is_err() {
        return skip("the kernel has no NUMA support");
    }
    let bundle = t.bundle()?.helper()?.args(&["/helper", "@payload", "mempolicy"]);
    let bundle = bundle.set("/linux/memoryPolicy", json!({"mode": "MPOL_INTERLEAVE", "nodes": "0"}));
    t.run(&bundle)?.ok()?.stdout_is("mode=3 nodes=0x1\n")?;
    Ok(())
}

/// KEYCTL_GET_KEYRING_ID of the session keyring, -3.
fn keyring_call() -> String {
    format!("{},0,-3,0", libc::SYS_keyctl)
}

fn a_new_session_keyring_is_joined(t: &T) -> Verdict {
    let bundle = t.bundle()?.helper()?.args(&["/helper", "@payload", "syscalls", &keyring_call()]);
    let (one, other) = (t.run(&bundle)?.ok()?.stdout, t.run(&bundle)?.ok()?.stdout);
    ensure!(!one.contains('E'), "no session keyring: {one}");
    ensure!(one != other, "two containers share a session keyring: {one}");
    Ok(())
}

fn the_name_of_the_session_keyring_cannot_be_guessed(t: &T) -> Verdict {
    let container = t.start(&t.bundle()?.helper()?.args(&["/bin/sleep", "1000"]))?;
    let call = keyring_call();
    let keyring = || container.exec(&["/helper", "@payload", "syscalls", &call]).map(|ran| ran.stdout);
    ensure_eq!(keyring()?, keyring()?, "session keyrings of two execs");
    let keys = std::fs::read_to_string("/proc/keys")?;
    let (guessed, own) = (format!(" _ses.{}:", container.id), format!(" _ses.{}.", container.id));
    ensure!(!keys.contains(&guessed) && keys.contains(&own), "keys: {keys}");
    // The same user in another container may not write to the keyring, nor change its rights (keyrings(7)).
    let line = keys.lines().find(|line| line.contains(&own)).unwrap_or_default();
    ensure!(line.split_whitespace().nth(4) == Some("3f1b0000"), "rights of the keyring: {line}");
    Ok(())
}

fn no_new_keyring_keeps_the_callers(t: &T) -> Verdict {
    let bundle = t.bundle()?.helper()?.args(&["/helper", "@payload", "syscalls", &keyring_call()]);
    let (one, other) = (
        t.run_with(&bundle, &["--no-new-keyring"])?.ok()?.stdout,
        t.run_with(&bundle, &["--no-new-keyring"])?.ok()?.stdout,
    );
    ensure_eq!(one, other, "session keyrings of two containers that keep the caller's");
    Ok(())
}

fn only_the_standard_descriptors_are_open(t: &T) -> Verdict {
    let bundle = t.bundle()?.helper()?.args(&["/helper", "@payload", "fds"]);
    bundle.write()?;
    let mut command = std::process::Command::new("/bin/sh");
    command.args(["-c", "exec \"$@\" 5</dev/null 9</dev/null", "sh"]).arg(&t.runtime).arg("--root").arg(t.root());
    command.args(["run", "--bundle"]).arg(&bundle.dir).arg(t.id());
    let ran = t.finish(command)?.ok()?;
    let numbers: Vec<&str> = ran.lines().iter().map(|line| line.split(' ').next().unwrap_or_default()).collect();
    ensure_eq!(numbers, ["0", "1", "2"], "descriptors {}", ran.stdout);
    Ok(())
}

fn preserve_fds_passes_exactly_those(t: &T) -> Verdict {
    let bundle = t.bundle()?.helper()?.args(&["/helper", "@payload", "fds"]);
    bundle.write()?;
    let mut command = std::process::Command::new("/bin/sh");
    command
        .args(["-c", "exec \"$@\" 3</dev/null 4</dev/null 5</dev/null", "sh"])
        .arg(&t.runtime)
        .arg("--root")
        .arg(t.root());
    command.args(["run", "--preserve-fds", "2", "--bundle"]).arg(&bundle.dir).arg(t.id());
    let ran = t.finish(command)?.ok()?;
    let numbers: Vec<&str> = ran.lines().iter().map(|line| line.split(' ').next().unwrap_or_default()).collect();
    ensure_eq!(numbers, ["0", "1", "2", "3", "4"], "descriptors {}", ran.stdout);
    Ok(())
}

fn the_process_is_a_session_leader(t: &T) -> Verdict {
    let ran = t.run_sh("cut -d' ' -f1,5,6 /proc/1/stat")?.ok()?;
    ensure_eq!(ran.stdout, "1 1 1\n", "pid, group and session of init");
    Ok(())
}

fn a_process_that_is_absent_is_accepted_by_create(t: &T) -> Verdict {
    let (ran, container) = t.try_create(&t.bundle()?.unset("/process"), &[])?;
    ran.ok()?;
    container.verb("start", &[], &[])?.fails()?;
    Ok(())
}

fn signals_are_not_ignored_nor_blocked(t: &T) -> Verdict {
    let ran = t.run(&t.bundle()?.args(&["/bin/cat", "/proc/self/status"]))?.ok()?;
    for set in ["SigBlk", "SigIgn"] {
        // 32 and 33 belong to the C library.
        let standard = u64::from_str_radix(&field(&ran.stdout, set), 16)? & 0x7fff_ffff;
        ensure_eq!(standard, 0, "{set}");
    }
    Ok(())
}
