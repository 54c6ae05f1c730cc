//! A container changes a cgroup that it owns, and its cgroup has a place in the tree of the host.

use crate::kit::machine::text;
use crate::kit::stop::skip;
use crate::kit::wait::eventually;
use crate::kit::{Bundle, Container, Need, T, Verdict, cgroup};
use crate::{chapter, ensure, ensure_eq};
use serde_json::json;
use std::fs;
use std::path::Path;

const MEMORY: Need = Need::Controller("memory");

chapter! { "cgroup_trees":
    the_container_may_manage_its_cgroup_when_delegated,
    a_tree_that_the_container_has_made_is_deleted,
    a_tree_that_grows_is_deleted_by_force,
    ps_lists_each_process_once_where_threads_are_apart,
    a_cgroup_that_was_made_anew_is_not_the_ended_container_s [Need::Windlass],
    a_path_is_taken_as_text_and_its_components_may_be_long,
    without_limits_every_controller_is_there [MEMORY],
    an_update_of_memory_alone_keeps_the_sum_with_swap [MEMORY],
    an_update_of_swap_alone_keeps_the_memory [MEMORY],
    the_containers_user_may_read_its_cgroup_whatever_the_umask,
    a_cgroup_mount_shows_the_source_that_it_was_given,
}

fn the_container_may_manage_its_cgroup_when_delegated(t: &T) -> Verdict {
    // config-linux.md: with a cgroup namespace and a writable mount, the cgroup belongs to the container's root.
    let mapping = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    let mut bundle = t.bundle()?.args(&["/bin/sleep", "1000"]).namespace("user", Some(json!({"type": "user"})));
    bundle = bundle.set("/linux/uidMappings", mapping.clone()).set("/linux/gidMappings", mapping);
    bundle =
        bundle.mount(json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["rw"]}));
    for dir in bundle.rootfs().ancestors().take(4) {
        fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    }
    let container = t.start(&bundle)?;
    let dir = cgroup::of(&container)?;
    for name in ["", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"] {
        let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(dir.join(name))?);
        ensure_eq!(owner, 100_000, "owner of {name:?}");
    }
    container
        .exec_sh("mkdir /sys/fs/cgroup/sub && echo 1 >/sys/fs/cgroup/sub/cgroup.procs && cat /proc/1/cgroup")?
        .stdout_has("0::/sub\n")?;
    Ok(())
}

fn a_cgroup_that_was_made_anew_is_not_the_ended_container_s(t: &T) -> Verdict {
    let bundle = t.bundle()?.args(&["/bin/sleep", "1000"]).set("/linux/cgroupsPath", json!("/wl-anew"));
    let ended = t.start(&bundle)?;
    let dir = cgroup::of(&ended)?;
    ended.stop()?;
    fs::remove_dir(&dir)?;
    let new = t.start(&bundle)?;
    ensure_eq!(cgroup::of(&new)?, dir, "the new container's cgroup");
    ended.verb("ps", &[], &[])?.ok()?.stdout_lacks("sleep")?;
    ended.verb("kill", &["--all"], &["KILL"])?.ok()?;
    new.status_is("running")?;
    ended.delete()?;
    new.status_is("running")?;
    // By force, too.
    new.stop()?;
    fs::remove_dir(&dir)?;
    let third = t.start(&bundle)?;
    new.verb("delete", &["--force"], &[])?.ok()?;
    third.status_is("running")?;
    third.exec_sh("cat /proc/1/comm")?.stdout_is("sleep\n")?;
    // The processes that a later container leaves are its own, and not those of an earlier one with the same path.
    third.stop()?;
    fs::remove_dir(&dir)?;
    let last = t.start(&bundle.namespace("pid", None).sh("sleep 1000 & sleep 0.1"))?;
    eventually("its init ends", || last.status_is("stopped").ok())?;
    ensure!(!text(dir.join("cgroup.procs")).is_empty(), "it has left no process");
    last.verb("delete", &["--force"], &[])?.ok()?;
    ensure!(!dir.exists(), "its cgroup is there");
    third.delete().map(drop)
}

fn the_containers_user_may_read_its_cgroup_whatever_the_umask(t: &T) -> Verdict {
    let mount = json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]});
    let bundle = t.bundle()?.mount(mount).set("/process/user", json!({"uid": 1000, "gid": 1000}));
    let bundle = bundle.set("/linux/cgroupsPath", json!("/umask/below")).sh("cat /sys/fs/cgroup/cgroup.type");
    bundle.write()?;
    let mut command = std::process::Command::new("/bin/sh");
    command.args(["-c", "umask 077; exec \"$@\"", "sh"]).arg(&t.runtime).arg("--root").arg(t.root());
    command.arg("run").arg("--bundle").arg(&bundle.dir).arg(t.id()).stdin(std::process::Stdio::null());
    let ran = t.finish(command);
    crate::harness::host::remove_tree(Path::new("/sys/fs/cgroup/umask"));
    ran?.ok()?.stdout_is("domain\n")?;
    Ok(())
}

fn a_cgroup_mount_shows_the_source_that_it_was_given(t: &T) -> Verdict {
    let mount = json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "its-source"});
    let ran = t.run(&t.bundle()?.mount(mount).args(&["/bin/grep", " /sys/fs/cgroup ", "/proc/mounts"]))?.ok()?;
    ensure!(ran.stdout.starts_with("its-source /sys/fs/cgroup cgroup2 "), "{ran}");
    Ok(())
}

/// A container whose root may make cgroups below its own.
fn owner(t: &T) -> Verdict<Bundle> {
    let mount = json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["rw"]});
    Ok(t.bundle()?.mount(mount).namespace("cgroup", Some(json!({"type": "cgroup"}))).args(&["/bin/sleep", "1000"]))
}

/// Shell commands that make `times` times the cgroups `path`, each inside the one before.
fn nested(path: &str, times: usize) -> String {
    format!(
        "cd /sys/fs/cgroup; p={path}; i=0; while [ $i -lt {times} ]; do mkdir -p $p && cd -P $p || exit 1; i=$((i+1)); done"
    )
}

fn a_tree_that_the_container_has_made_is_deleted(t: &T) -> Verdict {
    let deep = nested(&["levels"; 40].join("/"), 20);
    let long = nested(&vec!["n".repeat(200); 10].join("/"), 30);
    let name = format!("cd /sys/fs/cgroup && mkdir {}", "x".repeat(4000));
    for script in [deep, long, name] {
        for force in [false, true] {
            let container = t.start(&owner(t)?)?;
            let dir = cgroup::of(&container)?;
            container.exec_sh(&script)?;
            let listed = container.verb("ps", &["--format", "json"], &[])?.ok()?.stdout;
            ensure_eq!(listed.trim(), format!("[{}]", container.pid()?), "processes");
            container.verb("pause", &[], &[])?.ok()?;
            container.verb("resume", &[], &[])?.ok()?;
            if force {
                container.verb("delete", &["--force"], &[])?.ok()?;
            } else {
                container.stop()?;
                container.delete()?;
            }
            ensure!(!dir.exists(), "{} is left", dir.display());
        }
    }
    Ok(())
}

fn a_tree_that_grows_is_deleted_by_force(t: &T) -> Verdict {
    let script =
        "cd /sys/fs/cgroup; n=0; while :; do n=$((n+1)); mkdir -p $1$n/a/b; echo 0 >$1$n/a/b/cgroup.procs; done";
    let all = format!("for who in p q r; do sh -c '{script}' sh $who & done; sleep 1000");
    let container = t.start(&owner(t)?.args(&["/bin/sh", "-c", &all]))?;
    let dir = cgroup::of(&container)?;
    eventually("cgroups of its own making", || dir.join("p9").exists().then_some(()))?;
    container.verb("delete", &["--force"], &[])?.ok()?;
    ensure!(!dir.exists(), "{} is left", dir.display());
    Ok(())
}

fn ps_lists_each_process_once_where_threads_are_apart(t: &T) -> Verdict {
    let container = t.start(&owner(t)?)?;
    let dir = cgroup::of(&container)?;
    let below = dir.join("threads");
    fs::create_dir(&below)?;
    fs::write(below.join("cgroup.type"), "threaded")?;
    let pid = container.pid()?;
    fs::write(below.join("cgroup.threads"), pid.to_string())?;
    let listed = container.verb("ps", &["--format", "json"], &[])?.ok()?.stdout;
    ensure_eq!(listed.trim(), format!("[{pid}]"), "processes");
    container.verb("delete", &["--force"], &[])?.ok()?;
    ensure!(!dir.exists(), "{} is left", dir.display());
    Ok(())
}

fn a_path_is_taken_as_text_and_its_components_may_be_long(t: &T) -> Verdict {
    let id = t.id();
    let long = "l".repeat(300);
    for (path, stands) in
        [(format!("/{id}-a/../{id}-b"), format!("{id}-b")), (format!("/../{id}-{long}"), format!("{id}-{long}"))]
    {
        let container = t.start(&t.bundle()?.set("/linux/cgroupsPath", json!(path)).args(&["/bin/sleep", "1000"]))?;
        let dir = cgroup::of(&container)?;
        ensure_eq!(dir, Path::new("/sys/fs/cgroup").join(&stands), "cgroup");
        container.verb("delete", &["--force"], &[])?.ok()?;
        ensure!(!dir.exists(), "{} is left", dir.display());
    }
    Ok(())
}

fn without_limits_every_controller_is_there(t: &T) -> Verdict {
    let parent = format!("{}-parent", t.id());
    let bundle = t.bundle()?.set("/linux/resources", json!({}));
    let bundle = bundle.set("/linux/cgroupsPath", json!(format!("/{parent}/child"))).args(&["/bin/sleep", "1000"]);
    let container = t.start(&bundle)?;
    let all = text("/sys/fs/cgroup/cgroup.controllers");
    let dir = cgroup::of(&container)?;
    cgroup::holds(&dir, "cgroup.controllers", &all)?;
    container.verb("delete", &["--force"], &[])?.ok()?;
    let parent = Path::new("/sys/fs/cgroup").join(parent);
    for above in [Path::new("/sys/fs/cgroup"), &parent] {
        cgroup::holds(above, "cgroup.subtree_control", &all)?;
    }
    cgroup::holds(&parent, "memory.max", "max")?;
    Ok(fs::remove_dir(parent)?)
}

const MIB: u64 = 1 << 20;

/// A container with these limits in MiB, of memory, and of memory and swap together.
fn swapping(t: &T, memory: u64, both: u64) -> Verdict<Container<'_>> {
    let limits = json!({"memory": {"limit": memory * MIB, "swap": both * MIB}});
    let container = t.start(&t.bundle()?.set("/linux/resources", limits).args(&["/bin/sleep", "1000"]))?;
    match cgroup::of(&container)?.join("memory.swap.max").exists() {
        true => Ok(container),
        false => skip("this kernel does not account swap"),
    }
}

fn has(container: &Container, memory: u64, swap: u64) -> Verdict {
    let dir = cgroup::of(container)?;
    cgroup::holds(&dir, "memory.max", &(memory * MIB).to_string())?;
    cgroup::holds(&dir, "memory.swap.max", &(swap * MIB).to_string())
}

fn an_update_of_memory_alone_keeps_the_sum_with_swap(t: &T) -> Verdict {
    let container = swapping(t, 48, 80)?;
    for (memory, swap) in [(60, 20), (100, 0), (50, 0)] {
        container.verb("update", &["--memory", &format!("{memory}M")], &[])?.ok()?;
        has(&container, memory, swap)?;
    }
    Ok(())
}

fn an_update_of_swap_alone_keeps_the_memory(t: &T) -> Verdict {
    let container = swapping(t, 48, 80)?;
    container.verb("update", &["--memory-swap", "64M"], &[])?.ok()?;
    has(&container, 48, 16)?;
    let ran = container.verb("update", &["--memory-swap", "40M"], &[])?.code_is(1)?;
    ran.stderr_has("memory+swap limit should be >= memory limit")?;
    has(&container, 48, 16)
}
