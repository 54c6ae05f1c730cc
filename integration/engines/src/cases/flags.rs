//! The flags of `run`: each is looked at from inside.

use super::life::wait_running;
use crate::case::chapter;
use crate::engine::{Engine, post};
use crate::image::NAME;
use crate::session::{Session, until};
use integration::kit::machine::{field, text};
use integration::kit::runtime::RuntimeKind;
use integration::kit::{Need, Verdict};
use integration::{ensure, ensure_eq};
use serde_json::json;
use std::fs;

chapter! { [Docker, Podman] "flags":
    a_sysctl_of_a_namespace_is_set,
    a_sysctl_of_the_whole_host_is_refused_with_a_reason,
    ulimits_are_set,
    the_shared_memory_has_its_size,
    an_init_reaps_and_forwards_signals,
    a_read_only_root_refuses_writes,
    privileged_has_all_capabilities_and_devices [Need::SysResource],
    capabilities_are_added_and_dropped,
    a_device_is_passed_in_and_others_stay_out,
    a_seccomp_profile_is_applied_to_run_and_exec,
    seccomp_can_be_switched_off,
    no_new_privileges_is_set,
    apparmor_confines_by_default_and_not_when_told [Need::AppArmor],
    apparmor_denies_what_a_capability_would_allow [Need::AppArmor],
    an_apparmor_profile_that_is_not_loaded_is_told_about [Need::AppArmor],
    pid_namespaces_of_the_host_and_of_a_container,
    ipc_namespaces_of_the_host_and_of_a_container,
    uts_and_cgroup_namespaces_of_the_host,
    the_user_namespace_of_the_host,
    host_name_user_and_groups,
    the_oom_score_is_adjusted,
    a_restart_policy_starts_again,
    a_health_check_turns_healthy_and_unhealthy,
    entrypoint_environment_labels_and_directory,
    a_stop_signal_of_ones_own,
}

fn a_sysctl_of_a_namespace_is_set(s: &Session) -> Verdict {
    let options = "--sysctl net.ipv4.ip_unprivileged_port_start=80 --sysctl kernel.msgmax=4096";
    let seen = s.inside(options, "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/msgmax")?;
    ensure_eq!(seen, "80\n4096", "values");
    Ok(())
}

fn a_sysctl_of_the_whole_host_is_refused_with_a_reason(s: &Session) -> Verdict {
    let before = text("/proc/sys/vm/max_map_count");
    // The clients refuse these names themselves. A program that uses dockerd's socket reaches the runtime.
    s.run(&format!("run --rm --sysctl vm.max_map_count=262144 {NAME} true"))?
        .fails()?
        .stderr_has("vm.max_map_count")?;
    if s.engine == Engine::Docker {
        let name = s.name();
        let request =
            json!({"Image": NAME, "Cmd": ["true"], "HostConfig": {"Sysctls": {"vm.max_map_count": "262144"}}});
        post(s, &format!("/containers/create?name={name}"), &request)?;
        let ran = s.run(&format!("start {name}"))?.fails()?.stderr_has("vm.max_map_count")?.stderr_has("namespace")?;
        if s.below.kind == RuntimeKind::Windlass {
            ran.stderr_has("set it there: sysctl -w vm.max_map_count=262144")?;
        }
    }
    ensure_eq!(text("/proc/sys/vm/max_map_count"), before, "the host's value");
    Ok(())
}

fn ulimits_are_set(s: &Session) -> Verdict {
    // podman raises the limit of processes by default, which not every root may.
    let seen = s.inside(
        "--ulimit nofile=100:200 --ulimit core=0 --ulimit nproc=1000:1000",
        "ulimit -Sn; ulimit -Hn; ulimit -c",
    )?;
    ensure_eq!(seen, "100\n200\n0", "limits");
    Ok(())
}

fn the_shared_memory_has_its_size(s: &Session) -> Verdict {
    ensure!(s.inside("--shm-size 8m", "df -k /dev/shm | tail -1")?.contains(" 8192 "), "size");
    Ok(())
}

fn an_init_reaps_and_forwards_signals(s: &Session) -> Verdict {
    let name = s.up("--init", "(sleep 0.1 &) ; trap 'exit 6' TERM; echo $$; while :; do sleep 0.05; done")?;
    let first = s.ok(&format!("exec {name} cat /proc/1/comm"))?;
    ensure!(first.contains("init"), "the first process is {first}");
    s.ok(&format!("stop {name}"))?;
    ensure_eq!(s.inspect(&name, "{{.State.ExitCode}}")?, "6", "exit code");
    Ok(())
}

fn a_read_only_root_refuses_writes(s: &Session) -> Verdict {
    s.try_inside("--read-only", "touch /x")?.fails()?.stderr_has("Read-only file system").map(drop)
}

fn privileged_has_all_capabilities_and_devices(s: &Session) -> Verdict {
    let seen = s.inside(
        "--privileged",
        "grep CapEff /proc/self/status; ls /dev/kmsg; mount -t tmpfs none /tmp && echo mounted",
    )?;
    // dockerd 20.10 knows those up to CAP_AUDIT_READ.
    const KNOWN: u64 = (1 << 38) - 1;
    let effective = u64::from_str_radix(&field(&seen, "CapEff"), 16).unwrap_or(0);
    ensure_eq!(effective & KNOWN, KNOWN, "capabilities: {seen}");
    ensure!(seen.contains("kmsg") && seen.ends_with("mounted"), "{seen}");
    Ok(())
}

fn capabilities(s: &Session, options: &str) -> Verdict<u64> {
    let seen = s.inside(options, "cat /proc/self/status")?;
    Ok(u64::from_str_radix(&field(&seen, "CapEff"), 16).unwrap_or(u64::MAX))
}

fn capabilities_are_added_and_dropped(s: &Session) -> Verdict {
    const NET_ADMIN: u64 = 1 << 12;
    const CHOWN: u64 = 1;
    let default = capabilities(s, "")?;
    ensure!(default & NET_ADMIN == 0 && default & CHOWN != 0, "the default set is {default:x}");
    ensure_eq!(capabilities(s, "--cap-add NET_ADMIN --cap-drop CHOWN")?, (default | NET_ADMIN) & !CHOWN, "set");
    ensure_eq!(capabilities(s, "--cap-drop ALL")?, 0, "set after dropping all");
    s.inside("--cap-add NET_ADMIN", "ip link add d0 type dummy || ip link set lo mtu 1400").map(drop)
}

fn a_device_is_passed_in_and_others_stay_out(s: &Session) -> Verdict {
    ensure_eq!(s.inside("--device /dev/loop-control", "ls /dev/loop-control")?, "/dev/loop-control", "node");
    s.inside("--device /dev/zero:/dev/nothing:r", "head -c 1 /dev/nothing | od")?;
    // Major 1, minor 1 is the memory of the machine.
    let ran = s.try_inside("--cap-add MKNOD", "mknod /tmp/mem c 1 1 && head -c 1 /tmp/mem")?;
    ran.fails()?.stderr_has("Operation not permitted").map(drop)
}

fn profile(s: &Session) -> Verdict<String> {
    let path = s.path("seccomp.json");
    let profile = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}]}"#;
    fs::write(&path, profile)?;
    Ok(format!("--security-opt seccomp={}", path.display()))
}

fn a_seccomp_profile_is_applied_to_run_and_exec(s: &Session) -> Verdict {
    let name = s.sleeper(&profile(s)?)?;
    s.run(&format!("exec {name} mkdir /tmp/x"))?.fails()?.stderr_has("Permission denied")?;
    s.try_inside(&profile(s)?, "mkdir /tmp/x")?.fails()?.stderr_has("Permission denied")?;
    let seen = s.inside("", "grep -w Seccomp /proc/self/status")?;
    ensure!(seen.ends_with('2'), "the default profile: {seen}");
    Ok(())
}

fn seccomp_can_be_switched_off(s: &Session) -> Verdict {
    let seen = s.inside("--security-opt seccomp=unconfined", "grep -w Seccomp /proc/self/status")?;
    ensure!(seen.ends_with('0'), "{seen}");
    Ok(())
}

fn no_new_privileges_is_set(s: &Session) -> Verdict {
    let flag = |options: &str| {
        Ok::<_, integration::kit::Stop>(field(&s.inside(options, "cat /proc/self/status")?, "NoNewPrivs"))
    };
    ensure_eq!((flag("")?, flag("--security-opt no-new-privileges")?), ("0".into(), "1".into()), "NoNewPrivs");
    Ok(())
}

fn apparmor_confines_by_default_and_not_when_told(s: &Session) -> Verdict {
    let default = s.inside("", "cat /proc/self/attr/current")?;
    ensure!(default.ends_with("(enforce)"), "the default is {default:?}");
    let told = s.inside("--security-opt apparmor=unconfined", "cat /proc/self/attr/current")?;
    ensure_eq!(told, "unconfined", "when told");
    Ok(())
}

fn apparmor_denies_what_a_capability_would_allow(s: &Session) -> Verdict {
    const MOUNT: &str = "cat /proc/self/attr/current; mount -t tmpfs t /tmp && echo mounted";
    let options = "--cap-add SYS_ADMIN";
    s.try_inside(options, MOUNT)?.fails()?.stdout_has("(enforce)")?.stderr_has("denied")?;
    let free = s.inside(&format!("{options} --security-opt apparmor=unconfined"), MOUNT)?;
    ensure_eq!(free, "unconfined\nmounted", "the same without a profile");
    let name = s.sleeper(options)?;
    s.run_with(&format!("exec {name} sh -c"), MOUNT)?.fails()?.stdout_has("(enforce)")?.stderr_has("denied")?;
    if s.engine == Engine::Docker {
        // docker has the profile stay.
        s.run_with(&format!("exec --privileged {name} sh -c"), MOUNT)?.fails()?.stdout_has("(enforce)")?;
    }
    Ok(())
}

fn an_apparmor_profile_that_is_not_loaded_is_told_about(s: &Session) -> Verdict {
    let ran = s.try_inside("--security-opt apparmor=not-loaded", "true")?.fails()?;
    ensure!(ran.stderr.to_lowercase().contains("apparmor"), "{}", ran.stderr);
    Ok(())
}

fn pid_namespaces_of_the_host_and_of_a_container(s: &Session) -> Verdict {
    let host = fs::read_link("/proc/self/ns/pid")?;
    ensure_eq!(s.inside("--pid host", "readlink /proc/self/ns/pid")?, host.to_string_lossy(), "the host's");
    let name = s.up("", "exec sleep 1234")?;
    let seen = s.inside(&format!("--pid container:{name}"), "ps")?;
    ensure!(seen.contains("sleep 1234"), "{seen}");
    Ok(())
}

fn ipc_namespaces_of_the_host_and_of_a_container(s: &Session) -> Verdict {
    let host = fs::read_link("/proc/self/ns/ipc")?;
    ensure_eq!(s.inside("--ipc host", "readlink /proc/self/ns/ipc")?, host.to_string_lossy(), "the host's");
    let name = s.sleeper("--ipc shareable")?;
    s.ok_with(&format!("exec {name} sh -c"), "echo shared > /dev/shm/x")?;
    ensure_eq!(s.inside(&format!("--ipc container:{name}"), "cat /dev/shm/x")?, "shared", "/dev/shm");
    Ok(())
}

fn uts_and_cgroup_namespaces_of_the_host(s: &Session) -> Verdict {
    for (option, kind) in [("--uts host", "uts"), ("--cgroupns host", "cgroup")] {
        let host = fs::read_link(format!("/proc/self/ns/{kind}"))?;
        ensure_eq!(s.inside(option, &format!("readlink /proc/self/ns/{kind}"))?, host.to_string_lossy(), "{kind}");
    }
    let seen = s.inside("--cgroupns private", "cat /proc/self/cgroup")?;
    ensure!(seen.lines().any(|line| line == "0::/"), "cgroup in a namespace of its own: {seen}");
    Ok(())
}

fn the_user_namespace_of_the_host(s: &Session) -> Verdict {
    let host = fs::read_link("/proc/self/ns/user")?;
    ensure_eq!(s.inside("--userns host", "readlink /proc/self/ns/user")?, host.to_string_lossy(), "user namespace");
    Ok(())
}

fn host_name_user_and_groups(s: &Session) -> Verdict {
    let seen =
        s.inside("--hostname web1 --user 1000:1000 --group-add extra --group-add 3000", "hostname; id -u; id -G")?;
    ensure_eq!(seen, "web1\n1000\n1000 2000 3000", "host name, uid, groups");
    Ok(())
}

fn the_oom_score_is_adjusted(s: &Session) -> Verdict {
    ensure_eq!(s.inside("--oom-score-adj 500", "cat /proc/self/oom_score_adj")?, "500", "score");
    Ok(())
}

fn a_restart_policy_starts_again(s: &Session) -> Verdict {
    let name = s.up("--restart on-failure:2", "echo run; exit 3")?;
    until("three runs", || Ok((s.ok(&format!("logs {name}"))? == "run\nrun\nrun").then_some(())))?;
    until("its end", || Ok(s.inspect(&name, "{{.State.Status}}")?.starts_with("exited").then_some(())))?;
    ensure_eq!(s.inspect(&name, "{{.RestartCount}} {{.State.ExitCode}}")?, "2 3", "restarts and code");
    let name = s.up("--restart always", "sleep 0.3")?;
    let first = s.inspect(&name, "{{.State.StartedAt}}")?;
    until("a start after the end", || Ok((s.inspect(&name, "{{.State.StartedAt}}")? != first).then_some(())))
}

fn a_health_check_turns_healthy_and_unhealthy(s: &Session) -> Verdict {
    let name = s.name();
    let mut command = s.command(&format!("run -d --name {name} --health-interval 1s --health-retries 1 --health-cmd"));
    command.arg("test -e /tmp/well").args([NAME, "sh", "-c", "touch /tmp/well; exec sleep 1000"]);
    s.finish(command)?.ok()?;
    wait_running(s, &name)?;
    let becomes = |word: &str| {
        until(&format!("the container to be {word}"), || {
            // podman leaves the timing to systemd timers, which do not run here, so the case runs the check.
            if s.engine == Engine::Podman {
                s.run(&format!("healthcheck run {name}"))?;
            }
            let template =
                if s.engine == Engine::Docker { "{{.State.Health.Status}}" } else { "{{.State.Healthcheck.Status}}" };
            Ok((s.inspect(&name, template)? == word).then_some(()))
        })
    };
    becomes("healthy")?;
    s.ok(&format!("exec {name} rm /tmp/well"))?;
    becomes("unhealthy")
}

fn entrypoint_environment_labels_and_directory(s: &Session) -> Verdict {
    fs::write(s.path("env"), "A=1\nB=two words\n")?;
    let options =
        format!("--env-file {} -e C=3 -w /tmp --label tier=web --entrypoint /bin/sh", s.path("env").display());
    let name = s.name();
    let seen = s.run_with(&format!("run --name {name} {options} {NAME} -c"), "echo $A, $B, $C; pwd")?.ok()?.stdout;
    ensure_eq!(seen, "1, two words, 3\n/tmp\n", "output");
    ensure_eq!(s.inspect(&name, "{{.Config.Labels.tier}}")?, "web", "label");
    Ok(())
}

fn a_stop_signal_of_ones_own(s: &Session) -> Verdict {
    let name = s.up("--stop-signal USR1", "trap 'exit 11' USR1; while :; do sleep 0.05; done")?;
    s.ok(&format!("exec {name} true"))?;
    s.ok(&format!("stop {name}"))?;
    ensure_eq!(s.inspect(&name, "{{.State.ExitCode}}")?, "11", "exit code");
    Ok(())
}
