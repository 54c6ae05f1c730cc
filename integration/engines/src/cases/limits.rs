//! Limits, as the kernel has them, and the report after an OOM kill.

use super::life::logged;
use crate::case::chapter;
use crate::engine::Engine;
use crate::session::{Session, until};
use integration::kit::stop::fail;
use integration::kit::{Need, Verdict};
use integration::{ensure, ensure_eq};

const MEMORY: Need = Need::Controller("memory");
const CPU: Need = Need::Controller("cpu");
const PIDS: Need = Need::Controller("pids");
const IO: Need = Need::Controller("io");

chapter! { [Docker, Podman] "limits":
    memory_is_limited [MEMORY],
    a_kill_for_want_of_memory_is_told [MEMORY],
    a_process_of_exec_that_wants_too_much_is_killed_alone [MEMORY],
    cpu_is_limited_and_weighed [CPU],
    processes_are_limited [PIDS],
    io_is_limited [IO],
    stats_show_use_and_limit [MEMORY],
    update_changes_limits_of_a_running_container [MEMORY, CPU, PIDS],
}

/// Prints files of the container's own cgroup.
fn cgroup(s: &Session, options: &str, files: &str) -> Verdict<String> {
    s.inside(&format!("--cgroupns private {options}"), &format!("cd /sys/fs/cgroup; cat {files}"))
}

/// Takes memory until it is killed.
const HOG: &str = "tail /dev/zero";

fn memory_is_limited(s: &Session) -> Verdict {
    let seen = cgroup(s, "--memory 64m --memory-reservation 32m", "memory.max memory.low")?;
    ensure_eq!(seen, "67108864\n33554432", "memory.max, memory.low");
    Ok(())
}

fn a_kill_for_want_of_memory_is_told(s: &Session) -> Verdict {
    let name = s.up("--memory 24m", &format!("echo up; {HOG}; exit 5"))?;
    ensure_eq!(s.ok(&format!("wait {name}"))?, "5", "the shell lives on and passes its own code on");
    // The engine's shim reports OOM kill and exit in the order in which they come. If the exit is first, dockerd
    // drops the OOM kill.
    for _ in 0..5 {
        let name = s.up("--memory 24m", &format!("exec {HOG}"))?;
        ensure_eq!(s.ok(&format!("wait {name}"))?, "137", "exit code");
        if s.inspect(&name, "{{.State.OOMKilled}} {{.State.ExitCode}}")? == "true 137" {
            return Ok(());
        }
    }
    fail("of five kills none was told")
}

fn a_process_of_exec_that_wants_too_much_is_killed_alone(s: &Session) -> Verdict {
    let name = s.up("--memory 24m", "echo up; trap 'exit 0' TERM; while :; do sleep 0.2; done")?;
    logged(s, &name, "up")?;
    s.run(&format!("exec {name} {HOG}"))?.code_is(137)?;
    ensure_eq!(s.inspect(&name, "{{.State.Status}}")?, "running", "the container");
    Ok(())
}

fn cpu_is_limited_and_weighed(s: &Session) -> Verdict {
    ensure_eq!(cgroup(s, "--cpus 0.5 --cpu-shares 512", "cpu.max")?, "50000 100000", "cpu.max");
    let weight = cgroup(s, "--cpu-shares 512", "cpu.weight")?;
    let weight: u32 = weight.parse().unwrap_or(0);
    // Two conversions exist: runc's first one gives 20, the newer one 59.
    ensure!([20, 59].contains(&weight), "cpu.weight for 512 shares: {weight}");
    Ok(())
}

fn processes_are_limited(s: &Session) -> Verdict {
    ensure_eq!(cgroup(s, "--pids-limit 10", "pids.max")?, "10", "pids.max");
    let ran = s.try_inside("--pids-limit 10", "for i in $(seq 20); do sleep 2 & done; wait")?;
    ensure!(ran.stderr.contains("fork"), "twenty processes under a limit of ten: {ran}");
    Ok(())
}

fn io_is_limited(s: &Session) -> Verdict {
    let seen = cgroup(s, "--device-write-bps /dev/ubda:1mb --device-read-iops /dev/ubda:100", "io.max")?;
    ensure!(seen.contains("wbps=1048576") && seen.contains("riops=100"), "io.max: {seen}");
    Ok(())
}

fn stats_show_use_and_limit(s: &Session) -> Verdict {
    let name = s.sleeper("--memory 64m")?;
    until("a use of memory", || {
        let line = s.ok_with(&format!("stats --no-stream {name} --format"), "{{.MemUsage}}|{{.PIDs}}")?;
        let limit = line.contains("64MiB") || line.contains("67.11MB");
        ensure!(limit, "stats: {line}");
        let pids = line.rsplit('|').next().unwrap_or_default().trim().parse().unwrap_or(0);
        Ok((!line.starts_with("0B") && pids >= 1).then_some(()))
    })
}

fn update_changes_limits_of_a_running_container(s: &Session) -> Verdict {
    let name = s.sleeper("--cgroupns private --memory 64m --memory-swap 64m --cpus 1 --pids-limit 50")?;
    // podman 4.3 cannot change the limit of processes.
    let (pids, processes) = if s.engine == Engine::Docker { ("--pids-limit 60", "60") } else { ("", "50") };
    s.ok(&format!("update --memory 96m --memory-swap 96m --cpus 0.5 {pids} {name}"))?;
    let seen = s.ok_with(&format!("exec {name} sh -c"), "cd /sys/fs/cgroup; cat memory.max cpu.max pids.max")?;
    ensure_eq!(seen, format!("100663296\n50000 100000\n{processes}"), "memory.max, cpu.max, pids.max");
    Ok(())
}
