//! config-linux.md, "Control groups"; `pause`, `resume`, `update`, `events`. Cases that need a controller run in a
//! harness that has it: mostly in User-Mode Linux.

use crate::kit::machine::text;
use crate::kit::stop::{Context, skip};
use crate::kit::wait::eventually;
use crate::kit::{Bundle, Container, Need, T, Verdict, cgroup};
use crate::{chapter, ensure, ensure_eq};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

const MEMORY: Need = Need::Controller("memory");
const CPU: Need = Need::Controller("cpu");
const PIDS: Need = Need::Controller("pids");
const IO: Need = Need::Controller("io");
const CPUSET: Need = Need::Controller("cpuset");
const HUGETLB: Need = Need::Controller("hugetlb");

chapter! { "cgroups":
    the_path_is_used_and_removed,
    nested_paths_are_made,
    the_default_path_names_the_container,
    a_path_with_dotdot_stays_below_the_mount,
    an_existing_cgroup_with_processes_is_refused,
    the_cgroup_of_a_container_that_has_ended_is_refused [Need::Windlass],
    an_existing_frozen_cgroup_is_refused,
    an_existing_empty_cgroup_is_used,
    sub_cgroups_of_the_container_are_removed,
    pause_freezes_and_resume_thaws,
    a_paused_container_is_paused_in_state_and_list,
    a_paused_container_can_be_killed_and_deleted,
    kill_of_a_paused_container_by_delete_force,
    pause_of_a_stopped_container_is_refused,
    a_limit_without_its_controller_names_both,
    zero_limits_ask_for_no_controller,
    nothing_unasked_is_written [MEMORY],
    memory_limits_are_written [MEMORY],
    memory_unlimited_is_max [MEMORY],
    swap_below_the_limit_is_refused [MEMORY],
    a_limit_below_the_use_is_refused_when_checked [MEMORY],
    an_out_of_memory_kill_ends_the_payload [MEMORY],
    a_tiny_memory_limit_is_enough_for_the_start [MEMORY],
    memory_settings_of_v1_only_are_no_error [MEMORY],
    cpu_shares_become_a_weight [CPU],
    cpu_quota_and_period_become_max [CPU],
    cpu_burst_and_idle_are_written [CPU],
    cpu_is_limited [CPU],
    cpuset_is_written [CPUSET],
    pids_are_limited [PIDS],
    pids_zero_and_minus_one [PIDS],
    io_limits_are_written [IO],
    io_weight_of_a_device_that_is_missing_is_an_error_or_skipped [IO],
    huge_page_limits_are_written [HUGETLB],
    unified_is_written [MEMORY, PIDS],
    unified_refuses_paths,
    unified_of_an_unknown_file_is_an_error,
    unified_of_a_file_that_the_controller_lacks_is_no_such_file [HUGETLB],
    update_by_flags [MEMORY, CPU, PIDS],
    update_by_resources [MEMORY, CPU, PIDS],
    update_of_one_value_leaves_the_others [MEMORY, CPU],
    update_limits_what_had_no_limits [MEMORY, CPU, PIDS],
    update_of_a_stopped_container_is_refused,
    events_report_what_the_kernel_counts [MEMORY, PIDS],
    events_report_an_out_of_memory_kill [MEMORY],
    limits_are_as_an_independent_reader_sees_them [MEMORY, CPU, PIDS],
    exec_is_charged_to_the_container [PIDS],
}

fn sleeping(t: &T) -> Verdict<Bundle> {
    Ok(t.bundle()?.args(&["/bin/sleep", "1000"]))
}

fn resources(t: &T, resources: Value) -> Verdict<Bundle> {
    Ok(sleeping(t)?.set("/linux/resources", resources))
}

fn at(t: &T, path: &str) -> Verdict<Bundle> {
    Ok(sleeping(t)?.set("/linux/cgroupsPath", json!(path)))
}

fn the_path_is_used_and_removed(t: &T) -> Verdict {
    let container = t.start(&at(t, "/wl-given")?)?;
    ensure_eq!(cgroup::of(&container)?, Path::new("/sys/fs/cgroup/wl-given"), "cgroup");
    container.stop()?;
    container.delete()?;
    ensure!(!Path::new("/sys/fs/cgroup/wl-given").exists(), "the cgroup is left");
    Ok(())
}

fn nested_paths_are_made(t: &T) -> Verdict {
    fs::create_dir("/sys/fs/cgroup/wl-parent")?;
    let container = t.start(&at(t, "/wl-parent/inner/leaf")?)?;
    let found = cgroup::of(&container)?;
    container.stop()?;
    container.delete()?;
    crate::harness::host::remove_tree(Path::new("/sys/fs/cgroup/wl-parent"));
    ensure_eq!(found, Path::new("/sys/fs/cgroup/wl-parent/inner/leaf"), "cgroup");
    Ok(())
}

fn the_default_path_names_the_container(t: &T) -> Verdict {
    let container = t.running()?;
    ensure!(cgroup::of(&container)?.ends_with(&container.id), "cgroup {:?}", cgroup::of(&container)?);
    Ok(())
}

fn a_path_with_dotdot_stays_below_the_mount(t: &T) -> Verdict {
    // The directory to which these paths would lead from the mount, if `..` were not removed first.
    let escaped = Path::new("/tmp/wl-dots");
    let _ = fs::remove_dir(escaped);
    for path in ["/../../wl-dots", "../../../../tmp/wl-dots", "/a/../../../wl-dots", "wl\nline"] {
        let (ran, container) = t.try_create(&at(t, path)?, &[])?;
        let left = escaped.exists();
        let _ = fs::remove_dir(escaped);
        ensure!(!left, "{path:?} left the mount");
        if ran.code == 0 {
            let found = cgroup::of(&container)?;
            let inside = found.starts_with("/sys/fs/cgroup") && !found.to_string_lossy().contains("..");
            ensure!(inside, "{path:?} gave {found:?}");
            container.verb("delete", &["--force"], &[])?.ok()?;
        }
    }
    crate::harness::host::remove_tree(Path::new("/sys/fs/cgroup/tmp"));
    crate::harness::host::remove_tree(Path::new("/sys/fs/cgroup/a"));
    Ok(())
}

/// A process in a cgroup of this name.
fn occupy(name: &str) -> Verdict<std::process::Child> {
    let dir = Path::new("/sys/fs/cgroup").join(name);
    fs::create_dir_all(&dir)?;
    let child = std::process::Command::new("sleep").arg("1000").spawn()?;
    fs::write(dir.join("cgroup.procs"), child.id().to_string())?;
    Ok(child)
}

fn an_existing_cgroup_with_processes_is_refused(t: &T) -> Verdict {
    let mut child = occupy("wl-busy")?;
    let (ran, _container) = t.try_create(&at(t, "/wl-busy")?, &[])?;
    let alive = child.try_wait()?.is_none();
    let _ = child.kill();
    child.wait()?;
    let _ = fs::remove_dir("/sys/fs/cgroup/wl-busy");
    ran.code_is(1)?;
    ensure!(alive, "the stranger's process was killed");
    Ok(())
}

fn the_cgroup_of_a_container_that_has_ended_is_refused(t: &T) -> Verdict {
    let bundle = at(t, "/wl-ended")?.args(&["/bin/sleep", "1000"]);
    let ended = t.start(&bundle)?;
    ended.stop()?;
    let (ran, _second) = t.try_create(&bundle, &[])?;
    ran.code_is(1)?.stderr_has(&format!("belongs to container {:?}, which is not deleted", ended.id))?;
    ended.delete()?;
    t.start(&bundle)?.status_is("running")
}

fn an_existing_frozen_cgroup_is_refused(t: &T) -> Verdict {
    let dir = Path::new("/sys/fs/cgroup/wl-frozen");
    fs::create_dir(dir)?;
    fs::write(dir.join("cgroup.freeze"), "1")?;
    let tried = t.try_create(&at(t, "/wl-frozen")?, &[]);
    fs::write(dir.join("cgroup.freeze"), "0").or_else(|e| if dir.exists() { Err(e) } else { Ok(()) })?;
    let (ran, container) = tried?;
    drop(container);
    let _ = fs::remove_dir(dir);
    ran.code_is(1)?;
    Ok(())
}

fn an_existing_empty_cgroup_is_used(t: &T) -> Verdict {
    fs::create_dir("/sys/fs/cgroup/wl-empty")?;
    let container = t.start(&at(t, "/wl-empty")?)?;
    ensure_eq!(cgroup::of(&container)?, Path::new("/sys/fs/cgroup/wl-empty"), "cgroup");
    Ok(())
}

fn sub_cgroups_of_the_container_are_removed(t: &T) -> Verdict {
    let container = t.running()?;
    let dir = cgroup::of(&container)?;
    fs::create_dir_all(dir.join("a/b"))?;
    container.stop()?;
    container.delete()?;
    ensure!(!dir.exists(), "{} is left", dir.display());
    Ok(())
}

fn pause_freezes_and_resume_thaws(t: &T) -> Verdict {
    let container = t.running()?;
    let dir = cgroup::of(&container)?;
    container.verb("pause", &[], &[])?.ok()?;
    ensure_eq!(cgroup::entry(&dir, "cgroup.events", "frozen"), "1", "frozen when pause has returned");
    container.verb("resume", &[], &[])?.ok()?;
    ensure_eq!(cgroup::entry(&dir, "cgroup.events", "frozen"), "0", "frozen when resume has returned");
    container.status_is("running")
}

fn a_paused_container_is_paused_in_state_and_list(t: &T) -> Verdict {
    let container = t.running()?;
    container.verb("pause", &[], &[])?.ok()?;
    container.status_is("paused")?;
    t.runtime(&["list"])?.ok()?.stdout_has("paused")?;
    container.verb("resume", &[], &[])?.ok()?;
    Ok(())
}

fn a_paused_container_can_be_killed_and_deleted(t: &T) -> Verdict {
    let container = t.running()?;
    container.verb("pause", &[], &[])?.ok()?;
    let dir = cgroup::of(&container)?;
    container.kill("KILL")?;
    container.wait_for("stopped")?;
    cgroup::holds(&dir, "cgroup.freeze", "0")?;
    container.delete()?;
    Ok(())
}

fn kill_of_a_paused_container_by_delete_force(t: &T) -> Verdict {
    let container = t.running()?;
    container.verb("pause", &[], &[])?.ok()?;
    container.verb("delete", &["--force"], &[])?.ok()?;
    Ok(())
}

fn pause_of_a_stopped_container_is_refused(t: &T) -> Verdict {
    let container = t.running()?;
    container.stop()?;
    container.verb("pause", &[], &[])?.code_is(1)?;
    Ok(())
}

fn a_limit_without_its_controller_names_both(t: &T) -> Verdict {
    if text("/sys/fs/cgroup/cgroup.controllers").contains("memory") {
        return skip("the memory controller is there");
    }
    let ran = t.run(&resources(t, json!({"memory": {"limit": 10_000_000}}))?)?.code_is(1)?;
    ran.stderr_has("memory")?;
    Ok(())
}

fn zero_limits_ask_for_no_controller(t: &T) -> Verdict {
    let zero = json!({"memory": {"limit": 0}, "cpu": {"shares": 0, "quota": 0, "period": 0}, "blockIO": {"weight": 0}});
    t.run(&resources(t, zero)?.args(&["/bin/true"]))?.ok()?;
    Ok(())
}

fn nothing_unasked_is_written(t: &T) -> Verdict {
    let container = t.start(&resources(t, json!({}))?)?;
    let dir = cgroup::of(&container)?;
    for (file, value) in [
        ("memory.max", "max"),
        ("memory.low", "0"),
        ("cpu.weight", "100"),
        ("cpu.max", "max 100000"),
        ("pids.max", "max"),
    ] {
        if dir.join(file).exists() {
            cgroup::holds(&dir, file, value)?;
        }
    }
    Ok(())
}

fn memory_limits_are_written(t: &T) -> Verdict {
    let container = t.start(&resources(
        t,
        json!({"memory": {"limit": 104_857_600, "reservation": 52_428_800, "swap": 157_286_400}}),
    )?)?;
    let dir = cgroup::of(&container)?;
    cgroup::holds(&dir, "memory.max", "104857600")?;
    cgroup::holds(&dir, "memory.low", "52428800")?;
    if dir.join("memory.swap.max").exists() {
        cgroup::holds(&dir, "memory.swap.max", "52428800")?;
    }
    Ok(())
}

fn memory_unlimited_is_max(t: &T) -> Verdict {
    let container = t.start(&resources(t, json!({"memory": {"limit": -1, "swap": -1}}))?)?;
    cgroup::holds(&cgroup::of(&container)?, "memory.max", "max")
}

fn swap_below_the_limit_is_refused(t: &T) -> Verdict {
    t.run(&resources(t, json!({"memory": {"limit": 104_857_600, "swap": 52_428_800}}))?)?.code_is(1)?;
    Ok(())
}

fn a_limit_below_the_use_is_refused_when_checked(t: &T) -> Verdict {
    let bundle = resources(t, json!({"memory": {"limit": 104_857_600}}))?
        .sh("dd if=/dev/zero of=/dev/shm/ballast bs=1M count=20 2>/dev/null; echo full; sleep 1000");
    let container = t.start(&bundle)?;
    container.wait_for_output("full")?;
    let update = json!({"memory": {"limit": 4_194_304, "checkBeforeUpdate": true}}).to_string();
    t.runtime_with_stdin(&["update", "--resources", "-", &container.id], update.as_bytes())?.code_is(1)?;
    container.status_is("running")?;
    cgroup::holds(&cgroup::of(&container)?, "memory.max", "104857600")
}

fn an_out_of_memory_kill_ends_the_payload(t: &T) -> Verdict {
    let bundle =
        resources(t, json!({"memory": {"limit": 20_971_520, "swap": 20_971_520}}))?.args(&["/bin/tail", "/dev/zero"]);
    t.run(&bundle)?.code_is(137)?;
    Ok(())
}

fn a_tiny_memory_limit_is_enough_for_the_start(t: &T) -> Verdict {
    // The memory of the runtime itself must not be charged to the container.
    let bundle = resources(t, json!({"memory": {"limit": 2_097_152}}))?.args(&["/bin/true"]);
    t.run(&bundle)?.ok()?;
    Ok(())
}

fn memory_settings_of_v1_only_are_no_error(t: &T) -> Verdict {
    t.run(
        &resources(t, json!({"memory": {"limit": 104_857_600, "swappiness": 60, "kernel": 1000}}))?
            .args(&["/bin/true"]),
    )?
    .ok()?;
    Ok(())
}

/// The weight for shares by the formula of runc since 1.3.2: quadratic in the
/// logarithm, with 1024 giving 100.
fn weight(shares: f64) -> u64 {
    let log = shares.log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    // Between 1 and 10000 a float is exact enough.
    10_f64.powf(exponent).ceil() as u64
}

fn cpu_shares_become_a_weight(t: &T) -> Verdict {
    for (shares, expected) in [(2, 1), (1024, 100), (2048, weight(2048.0)), (262_144, 10_000)] {
        let container = t.start(&resources(t, json!({"cpu": {"shares": shares}}))?)?;
        cgroup::holds(&cgroup::of(&container)?, "cpu.weight", &expected.to_string())
            .context(format!("shares {shares}"))?;
    }
    Ok(())
}

fn cpu_quota_and_period_become_max(t: &T) -> Verdict {
    for (cpu, expected) in [
        (json!({"quota": 50_000, "period": 200_000}), "50000 200000"),
        (json!({"quota": 50_000}), "50000 100000"),
        (json!({"period": 200_000}), "max 200000"),
        (json!({"quota": -1, "period": 200_000}), "max 200000"),
    ] {
        let container = t.start(&resources(t, json!({"cpu": cpu}))?)?;
        cgroup::holds(&cgroup::of(&container)?, "cpu.max", expected).context(cpu)?;
    }
    Ok(())
}

fn cpu_burst_and_idle_are_written(t: &T) -> Verdict {
    let container = t.start(&resources(t, json!({"cpu": {"quota": 50_000, "period": 100_000, "burst": 20_000}}))?)?;
    let dir = cgroup::of(&container)?;
    if dir.join("cpu.max.burst").exists() {
        cgroup::holds(&dir, "cpu.max.burst", "20000")?;
    }
    let container = t.start(&resources(t, json!({"cpu": {"idle": 1}}))?)?;
    cgroup::holds(&cgroup::of(&container)?, "cpu.idle", "1")
}

fn cpu_is_limited(t: &T) -> Verdict {
    let bundle = resources(t, json!({"cpu": {"quota": 20_000, "period": 100_000}}))?.sh("while :; do :; done");
    let container = t.start(&bundle)?;
    let dir = cgroup::of(&container)?;
    eventually("throttling", || {
        (cgroup::entry(&dir, "cpu.stat", "nr_throttled").parse().unwrap_or(0) > 2).then_some(())
    })
}

fn cpuset_is_written(t: &T) -> Verdict {
    let container = t.start(&resources(t, json!({"cpu": {"cpus": "0", "mems": "0"}}))?)?;
    let dir = cgroup::of(&container)?;
    cgroup::holds(&dir, "cpuset.cpus", "0")?;
    cgroup::holds(&dir, "cpuset.mems", "0")
}

fn pids_are_limited(t: &T) -> Verdict {
    let script = "for i in 1 2 3 4 5 6 7 8 9; do sleep 100 & done; echo all started";
    let ran = t.run(&resources(t, json!({"pids": {"limit": 4}}))?.sh(script))?;
    ran.check(true, "")?.stdout_lacks("all started")?;
    Ok(())
}

fn pids_zero_and_minus_one(t: &T) -> Verdict {
    let container = t.start(&resources(t, json!({"pids": {"limit": -1}}))?)?;
    cgroup::holds(&cgroup::of(&container)?, "pids.max", "max")
}

/// `major:minor` of a block device that the io controller knows.
fn disk() -> Verdict<(u64, u64)> {
    let mut names = fs::read_dir("/sys/block").context("/sys/block")?.flatten();
    let found = names.find_map(|entry| {
        let id = text(entry.path().join("dev"));
        let (major, minor) = id.split_once(':')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    });
    match found {
        Some(id) => Ok(id),
        None => skip("no block device here"),
    }
}

fn io_limits_are_written(t: &T) -> Verdict {
    let (major, minor) = disk()?;
    let rate = |rate: u64| json!([{"major": major, "minor": minor, "rate": rate}]);
    let container = t.start(&resources(
        t,
        json!({"blockIO": {
            "throttleReadBpsDevice": rate(1_048_576), "throttleWriteBpsDevice": rate(2_097_152),
            "throttleReadIOPSDevice": rate(100), "throttleWriteIOPSDevice": rate(200)
        }}),
    )?)?;
    cgroup::holds(
        &cgroup::of(&container)?,
        "io.max",
        &format!("{major}:{minor} rbps=1048576 wbps=2097152 riops=100 wiops=200"),
    )
}

fn io_weight_of_a_device_that_is_missing_is_an_error_or_skipped(t: &T) -> Verdict {
    let bundle =
        resources(t, json!({"blockIO": {"throttleReadBpsDevice": [{"major": 250, "minor": 250, "rate": 1}]}}))?;
    t.run(&bundle)?.code_is(1)?.stderr_has("io.max")?;
    Ok(())
}

fn huge_page_limits_are_written(t: &T) -> Verdict {
    let size = ["2MB", "64kB", "1GB"].into_iter().find(|size| {
        // The sizes that the kernel has appear in the files of any non-root cgroup.
        Path::new("/sys/fs/cgroup/init").join(format!("hugetlb.{size}.max")).exists()
            || Path::new(&format!(
                "/sys/kernel/mm/hugepages/hugepages-{}",
                if *size == "2MB" { "2048kB" } else { "none" }
            ))
            .exists()
    });
    let Some(size) = size else {
        return skip("the kernel has no huge pages");
    };
    let limits = json!([{"pageSize": size, "limit": 4_194_304}]);
    let container = t.start(&resources(t, json!({"hugepageLimits": limits}))?)?;
    let dir = cgroup::of(&container)?;
    cgroup::holds(&dir, &format!("hugetlb.{size}.max"), "4194304")?;
    if dir.join(format!("hugetlb.{size}.rsvd.max")).exists() {
        cgroup::holds(&dir, &format!("hugetlb.{size}.rsvd.max"), "4194304")?;
    }
    Ok(())
}

fn unified_is_written(t: &T) -> Verdict {
    let container = t.start(&resources(t, json!({"unified": {"memory.high": "50331648", "pids.max": "77"}}))?)?;
    let dir = cgroup::of(&container)?;
    cgroup::holds(&dir, "memory.high", "50331648")?;
    cgroup::holds(&dir, "pids.max", "77")
}

fn unified_refuses_paths(t: &T) -> Verdict {
    for key in ["../cgroup.freeze", "a/b", "/etc/passwd", "..", "cgroup.procs/../x"] {
        t.run(&resources(t, json!({"unified": {key: "1"}}))?)?.code_is(1).context(key)?;
    }
    Ok(())
}

fn unified_of_an_unknown_file_is_an_error(t: &T) -> Verdict {
    t.run(&resources(t, json!({"unified": {"nosuch.file": "1"}}))?)?.code_is(1)?.stderr_has("nosuch.file")?;
    Ok(())
}

fn unified_of_a_file_that_the_controller_lacks_is_no_such_file(t: &T) -> Verdict {
    let ran = t.run(&resources(t, json!({"unified": {"hugetlb.nosuch": "1"}}))?)?.code_is(1)?;
    ran.stderr_has("hugetlb.nosuch")?.stderr_has("no such file or directory")?;
    Ok(())
}

fn limited(t: &T) -> Verdict<Container<'_>> {
    t.start(&resources(t, json!({"memory": {"limit": 104_857_600}, "cpu": {"shares": 1024, "quota": 50_000, "period": 100_000}, "pids": {"limit": 50}}))?)
}

fn update_by_flags(t: &T) -> Verdict {
    let container = limited(t)?;
    let dir = cgroup::of(&container)?;
    let flags = [
        "--memory",
        "52428800",
        "--memory-swap",
        "52428800",
        "--cpu-quota",
        "30000",
        "--cpu-period",
        "60000",
        "--cpu-share",
        "2",
        "--pids-limit",
        "9",
    ];
    container.verb("update", &flags, &[])?.ok()?;
    for (file, value) in
        [("memory.max", "52428800"), ("cpu.max", "30000 60000"), ("cpu.weight", "1"), ("pids.max", "9")]
    {
        cgroup::holds(&dir, file, value)?;
    }
    container.verb("update", &["--memory", "-1", "--memory-swap", "-1", "--pids-limit", "-1"], &[])?.ok()?;
    cgroup::holds(&dir, "memory.max", "max")?;
    cgroup::holds(&dir, "pids.max", "max")
}

fn update_by_resources(t: &T) -> Verdict {
    let container = limited(t)?;
    let dir = cgroup::of(&container)?;
    let update =
        json!({"memory": {"limit": 52_428_800}, "cpu": {"quota": 30_000, "period": 60_000}, "pids": {"limit": 9}})
            .to_string();
    t.runtime_with_stdin(&["update", "--resources", "-", &container.id], update.as_bytes())?.ok()?;
    for (file, value) in [("memory.max", "52428800"), ("cpu.max", "30000 60000"), ("pids.max", "9")] {
        cgroup::holds(&dir, file, value)?;
    }
    let file = t.path("resources.json");
    fs::write(&file, json!({"pids": {"limit": 11}}).to_string())?;
    container.verb("update", &["-r", &file.display().to_string()], &[])?.ok()?;
    cgroup::holds(&dir, "pids.max", "11")
}

fn update_of_one_value_leaves_the_others(t: &T) -> Verdict {
    let container = limited(t)?;
    container.verb("update", &["--pids-limit", "20"], &[])?.ok()?;
    let dir = cgroup::of(&container)?;
    cgroup::holds(&dir, "memory.max", "104857600")?;
    for (flag, value, whole) in [("--cpu-period", "200000", "50000 200000"), ("--cpu-quota", "60000", "60000 200000")] {
        container.verb("update", &[flag, value], &[])?.ok()?;
        cgroup::holds(&dir, "cpu.max", whole)?;
    }
    Ok(())
}

fn update_limits_what_had_no_limits(t: &T) -> Verdict {
    let place = format!("/{}-parent/child", t.id());
    let container = t.start(&t.bundle()?.set("/linux/cgroupsPath", json!(place)).args(&["/bin/sleep", "1000"]))?;
    let dir = cgroup::of(&container)?;
    container.verb("update", &["--cpu-period", "50000", "--pids-limit", "9"], &[])?.ok()?;
    cgroup::holds(&dir, "cpu.max", "max 50000")?;
    cgroup::holds(&dir, "pids.max", "9")?;
    let events = container.verb("events", &["--stats"], &[])?.ok()?;
    ensure!(events.stdout.starts_with(&format!("{{\"type\":\"stats\",\"id\":\"{}\",", container.id)), "{events:?}");
    container.verb("delete", &["--force"], &[])?.ok()?;
    Ok(fs::remove_dir(dir.parent().expect("below the root"))?)
}

fn update_of_a_stopped_container_is_refused(t: &T) -> Verdict {
    let container = t.running()?;
    container.stop()?;
    container.verb("update", &["--pids-limit", "20"], &[])?.code_is(1)?;
    Ok(())
}

fn events_report_what_the_kernel_counts(t: &T) -> Verdict {
    let container = limited(t)?;
    let stats = container.verb("events", &["--stats"], &[])?.ok()?.json()?;
    let data = &stats["data"];
    ensure_eq!(data["pids"]["current"], 1, "pids.current in {data}");
    ensure_eq!(data["pids"]["limit"], 50, "pids.limit");
    ensure_eq!(data["memory"]["usage"]["limit"], 104_857_600, "memory.usage.limit");
    ensure!(data["memory"]["usage"]["usage"].as_u64().unwrap_or(0) > 0, "memory.usage.usage");
    ensure!(data["cpu"]["usage"]["total"].as_u64().unwrap_or(0) > 0, "cpu.usage.total");
    Ok(())
}

fn events_report_an_out_of_memory_kill(t: &T) -> Verdict {
    let bundle = resources(t, json!({"memory": {"limit": 20_971_520, "swap": 20_971_520}}))?;
    let container = t.create(&bundle.sh("sleep 0.5; tail /dev/zero; sleep 1000"))?;
    let mut command = t.command();
    // The event comes at once, not at the next interval.
    command.args(["events", "--interval", "1h", &container.id]);
    let capture = t.capture();
    capture.attach(&mut command)?;
    let mut watcher = command.spawn()?;
    container.start()?;
    let seen = eventually("an oom event", || capture.read().0.contains("\"type\":\"oom\"").then_some(()));
    let _ = watcher.kill();
    watcher.wait()?;
    seen
}

fn limits_are_as_an_independent_reader_sees_them(t: &T) -> Verdict {
    let container = limited(t)?;
    crate::kit::reader::check(&container.id, &cgroup::of(&container)?)
}

fn exec_is_charged_to_the_container(t: &T) -> Verdict {
    let container = t.start(&resources(t, json!({"pids": {"limit": 3}}))?)?;
    container
        .try_exec(&[], &["/bin/sh", "-c", "sleep 9 & sleep 9 & sleep 9 & sleep 9 & echo all"])?
        .stdout_lacks("all")?;
    Ok(())
}
