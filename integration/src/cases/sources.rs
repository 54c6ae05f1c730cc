//! The sources of mounts, and what a container in a user namespace can do with them.

use crate::kit::machine::{self, kernel, text};
use crate::kit::race::{Swapper, exchange};
use crate::kit::snapshot::snapshot;
use crate::kit::stop::skip;
use crate::kit::{Bundle, Need, Ran, T, Verdict};
use crate::{chapter, ensure, ensure_eq};
use serde_json::json;
use std::fs;
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

chapter! { "sources":
    an_earlier_mount_makes_the_source_of_a_later_one,
    mounts_stand_in_the_order_of_the_configuration,
    more_binds_than_descriptors_are_made,
    too_many_sources_at_once_are_named [Need::Windlass],
    a_source_that_is_exchanged_is_mounted_as_asked [Need::Slow],
    destinations_that_are_exchanged_touch_nothing_outside [Need::Slow],
    a_user_namespace_takes_what_its_user_cannot_reach,
    many_out_of_reach_are_taken_together [Need::Windlass],
    an_earlier_mount_makes_a_source_that_the_user_cannot_reach,
    the_root_may_be_out_of_reach,
    a_missing_source_out_of_reach_is_named,
    relative_sources_out_of_reach_begin_at_the_bundle,
    a_bind_without_what_is_mounted_below_is_refused_with_a_hint [Need::Windlass],
    a_shared_volume_reaches_the_host_without_a_user_namespace,
    mountinfo_has_the_mounts_in_their_order,
    sources_are_those_of_a_joined_mount_namespace,
    hooks_run_in_the_hosts_mount_namespace,
    a_joined_user_namespace_maps_the_ids_of_a_mount,
    each_mount_has_its_own_mappings,
    a_runtime_that_cannot_return_ends [Need::Windlass],
}

/// A user namespace with 0 mapped to 100000, and a root filesystem that belongs to its root.
pub(super) fn user_namespace(t: &T) -> Verdict<Bundle> {
    let mapping = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    let bundle = t.bundle()?.namespace("user", Some(json!({"type": "user"})));
    give(&bundle.rootfs())?;
    for dir in bundle.dir.ancestors().take(3) {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
    }
    Ok(bundle.set("/linux/uidMappings", mapping.clone()).set("/linux/gidMappings", mapping))
}

/// Gives a tree to root of the user namespace, except for busybox, which all bundles share.
pub(super) fn give(path: &Path) -> Verdict {
    if path.file_name().is_some_and(|name| name == "busybox") {
        return Ok(());
    }
    lchown(path, Some(100_000), Some(100_000))?;
    if path.symlink_metadata()?.is_dir() {
        for entry in fs::read_dir(path)?.flatten() {
            give(&entry.path())?;
        }
    }
    Ok(())
}

/// A directory with a file `content`, below a directory that only the host's root may search.
pub(super) fn out_of_reach(t: &T, name: &str) -> Verdict<PathBuf> {
    let closed = t.path("closed");
    let dir = closed.join(name);
    fs::create_dir_all(dir.join("sub"))?;
    fs::write(dir.join("content"), name)?;
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700))?;
    Ok(dir)
}

fn an_earlier_mount_makes_the_source_of_a_later_one(t: &T) -> Verdict {
    for bundle in [t.bundle()?, user_namespace(t)?] {
        let data = t.path("data");
        fs::create_dir_all(data.join("inner"))?;
        fs::write(data.join("inner/content"), "made")?;
        let inside = bundle.rootfs().join("mnt");
        let bundle = bundle
            .mount(json!({"destination": "/mnt", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]}))
            .bind(&data, "/mnt/data", &["bind"])
            .bind(&inside.join("data/inner"), "/var", &["bind"]);
        t.run(&bundle.args(&["/bin/cat", "/var/content"]))?.ok()?.stdout_is("made")?;
    }
    Ok(())
}

fn mounts_stand_in_the_order_of_the_configuration(t: &T) -> Verdict {
    let data = t.path("data");
    fs::create_dir_all(&data)?;
    let bundle = t
        .bundle()?
        .mount(json!({"destination": "/mnt", "type": "tmpfs", "source": "tmpfs"}))
        .bind(&data, "/var", &["bind"])
        .mount(json!({"destination": "/usr", "type": "tmpfs", "source": "tmpfs"}));
    let ran = t.run(&bundle.args(&["/bin/cat", "/proc/self/mountinfo"]))?.ok()?;
    let mut ids: Vec<(u32, &str)> = ran.stdout.lines().filter_map(id_and_point).collect();
    ids.sort_unstable();
    let order: Vec<&str> =
        ids.iter().map(|(_, point)| *point).filter(|p| ["/mnt", "/var", "/usr"].contains(p)).collect();
    ensure_eq!(order, ["/mnt", "/var", "/usr"], "mounts by their ids");
    Ok(())
}

fn id_and_point(line: &str) -> Option<(u32, &str)> {
    Some((line.split(' ').next()?.parse().ok()?, line.split(' ').nth(4)?))
}

fn more_binds_than_descriptors_are_made(t: &T) -> Verdict {
    let data = t.path("data");
    fs::create_dir_all(&data)?;
    let mut bundle = t.bundle()?;
    for number in 0..300 {
        bundle = bundle.bind(&data, &format!("/mnt/{number}"), &["bind"]);
    }
    let bundle = bundle.sh("ls /mnt | wc -l");
    with_descriptors(t, &bundle, 128)?.ok()?.stdout_is("300\n")?;
    Ok(())
}

/// `run` by a runtime with this limit of descriptors.
fn with_descriptors(t: &T, bundle: &Bundle, number: u32) -> Verdict<Ran> {
    bundle.write()?;
    let mut command = std::process::Command::new("/bin/sh");
    let runtime = t.command();
    let script = format!("ulimit -n {number} && exec \"$@\"");
    command.args(["-c", &script, "sh"]).arg(runtime.get_program()).args(runtime.get_args());
    command.args(["run", "--bundle", &bundle.dir.display().to_string(), &t.id()]);
    t.finish(command)
}

fn too_many_sources_at_once_are_named(t: &T) -> Verdict {
    let (shared, asked) = (t.path("shared"), out_of_reach(t, "volume")?);
    fs::create_dir_all(&shared)?;
    let many = |bundle: Bundle, source: &Path, option: &str| {
        (0..40).fold(bundle, |bundle, at| bundle.bind(source, &format!("/mnt/{at}"), &["rbind", option]))
    };
    let bundles = [many(t.bundle()?, &shared, "rshared"), many(user_namespace(t)?, &asked, "rprivate")];
    for bundle in bundles {
        let ran = with_descriptors(t, &bundle, 25)?.fails()?;
        ran.stderr_has("too many open files")?.stderr_has("config.json /mounts/")?.stderr_has("RLIMIT_NOFILE")?;
    }
    Ok(())
}

/// A directory of the host that must not be changed, with a directory `sub` in it.
fn precious(t: &T) -> Verdict<PathBuf> {
    let dir = t.path("precious");
    fs::create_dir_all(dir.join("sub"))?;
    fs::write(dir.join("sub/whose"), "precious")?;
    Ok(dir)
}

/// A volume whose `entry`, with `sub` in it, and `link`, a link to `target`, can be exchanged.
fn volume(t: &T, name: &str, target: &Path) -> Verdict<PathBuf> {
    let volume = t.path(name);
    fs::create_dir_all(volume.join("entry/sub"))?;
    fs::write(volume.join("entry/sub/whose"), "own")?;
    symlink(target, volume.join("link"))?;
    Ok(volume)
}

/// How often a container is started while paths are exchanged.
const STARTS: usize = 200;

fn a_source_that_is_exchanged_is_mounted_as_asked(t: &T) -> Verdict {
    let precious = precious(t)?;
    let volume = volume(t, "closed/volume", &precious)?;
    fs::set_permissions(t.path("closed"), fs::Permissions::from_mode(0o700))?;
    let script = "cat /mnt/whose; touch /mnt/x /mnt/../mnt/y 2>/dev/null && echo written; true";
    let read_only =
        |bundle: Bundle, source: &str| bundle.bind(&volume.join(source), "/mnt", &["rbind", "ro"]).sh(script);
    let up = "entry/../entry/sub";
    let bundles = [
        read_only(t.bundle()?, "entry/sub"),
        read_only(t.bundle()?, up),
        read_only(t.bundle()?.bind(&volume, "/var", &["rbind", "rshared"]), "entry/sub"),
        // The runtime copies the source for init, which may not search the path.
        read_only(user_namespace(t)?, "entry/sub"),
    ];
    let before = (snapshot(&precious), snapshot(&volume.join("entry/sub")), machine::mounts());
    let swapper = Swapper::start(volume.join("entry"), volume.join("link"));
    let mut seen = std::collections::BTreeSet::new();
    for round in 0..STARTS {
        let ran = t.run(&bundles[round % bundles.len()])?;
        // With a link in its place, the parent is another directory.
        ensure!(ran.code == 0 || ran.stderr.to_lowercase().contains("no such file"), "round {round}: {ran}");
        ensure!(["", "own", "precious"].contains(&ran.stdout.as_str()), "round {round}: {ran}");
        seen.insert(ran.stdout);
    }
    ensure!(swapper.swaps() > 100, "only {} swaps", swapper.swaps());
    drop(swapper);
    ensure!(seen.contains("own") && seen.contains("precious"), "only {seen:?} was seen");
    if fs::symlink_metadata(volume.join("entry"))?.is_symlink() {
        exchange(&volume.join("entry"), &volume.join("link"));
    }
    let after = (snapshot(&precious), snapshot(&volume.join("entry/sub")), machine::mounts());
    ensure_eq!(after, before, "both directories and the mounts of the host");
    Ok(())
}

fn destinations_that_are_exchanged_touch_nothing_outside(t: &T) -> Verdict {
    let precious = precious(t)?;
    let file = t.path("file");
    fs::write(&file, "")?;
    let relative = Path::new("../../../../../../../../../..").join(precious.strip_prefix("/")?);
    let volumes = [volume(t, "one", &precious)?, volume(t, "two", &relative)?];
    let mut bundles = Vec::new();
    for volume in &volumes {
        let bundle = t.bundle()?.bind(volume, "/v", &["rbind"]);
        let tmpfs = |at: &str, options: &[&str]| json!({"destination": at, "type": "tmpfs", "source": "tmpfs", "options": options});
        bundles.extend([
            bundle.clone().mount(tmpfs("/v/entry/a/b", &[])).bind(&file, "/v/entry/c/file", &["bind"]),
            bundle.clone().mount(tmpfs("/v/entry/../d/e", &[])).bind(&file, "/v/entry/sub/../../f/g", &["bind"]),
            bundle
                .clone()
                .mount(tmpfs("/v/entry/sub", &["tmpcopyup"]))
                .set("/linux/maskedPaths", json!(["/v/entry/sub/whose"])),
            bundle.set("/linux/readonlyPaths", json!(["/v/entry/sub"])).set("/process/cwd", json!("/v/entry/h/i")),
        ]);
    }
    let before = (snapshot(&precious), machine::mounts());
    let swappers: Vec<Swapper> = volumes.iter().map(|v| Swapper::start(v.join("entry"), v.join("link"))).collect();
    let mut whole = 0;
    for round in 0..STARTS {
        whole += u32::from(t.run(&bundles[round % bundles.len()])?.code == 0);
    }
    let least = swappers.iter().map(Swapper::swaps).min().unwrap_or(0);
    ensure!(least > 100 && whole > 0, "{least} swaps and {whole} containers that ran");
    drop(swappers);
    ensure_eq!((snapshot(&precious), machine::mounts()), before, "the directory and the mounts of the host");
    Ok(())
}

fn a_user_namespace_takes_what_its_user_cannot_reach(t: &T) -> Verdict {
    let bundle = user_namespace(t)?.bind(&out_of_reach(t, "volume")?, "/mnt", &["rbind"]);
    t.run(&bundle.args(&["/bin/cat", "/mnt/content"]))?.ok()?.stdout_is("volume")?;
    Ok(())
}

/// How often the runtime enters another mount namespace and comes back.
fn changes_of_namespace(t: &T, bundle: &Bundle) -> Verdict<usize> {
    if t.host("strace", &["-V"]).is_err() {
        return skip("strace is not installed");
    }
    bundle.write()?;
    let log = t.path("strace");
    let runtime = t.command();
    let mut command = std::process::Command::new("strace");
    command.args(["-f", "-e", "trace=setns", "-o"]).arg(&log);
    command.arg(runtime.get_program()).args(runtime.get_args());
    command.args(["run", "--bundle", &bundle.dir.display().to_string(), &t.id()]);
    t.finish(command)?.ok()?;
    Ok(text(&log).lines().filter(|line| line.contains("setns(") && line.contains("CLONE_NEWNS")).count())
}

fn many_out_of_reach_are_taken_together(t: &T) -> Verdict {
    let dir = out_of_reach(t, "volume")?;
    let with = |number: usize| -> Verdict<Bundle> {
        let points = 0..number;
        Ok(points.fold(user_namespace(t)?, |bundle, at| bundle.bind(&dir, &format!("/mnt/{at}"), &["rbind"])))
    };
    ensure_eq!(changes_of_namespace(t, &with(0)?)?, 0, "without a source that is out of reach");
    ensure_eq!(changes_of_namespace(t, &with(50)?)?, 2, "there and back for 50");
    ensure_eq!(changes_of_namespace(t, &with(100)?)?, 4, "twice there and back for 100");
    Ok(())
}

fn an_earlier_mount_makes_a_source_that_the_user_cannot_reach(t: &T) -> Verdict {
    let first = out_of_reach(t, "first")?;
    fs::create_dir_all(first.join("closed/inner"))?;
    fs::write(first.join("closed/inner/content"), "inner")?;
    fs::set_permissions(first.join("closed"), fs::Permissions::from_mode(0o700))?;
    let bundle = user_namespace(t)?;
    let inner = bundle.rootfs().join("mnt/closed/inner");
    let bundle = bundle.bind(&first, "/mnt", &["rbind"]).bind(&inner, "/var", &["rbind"]);
    t.run(&bundle.args(&["/bin/cat", "/var/content"]))?.ok()?.stdout_is("inner")?;
    Ok(())
}

fn the_root_may_be_out_of_reach(t: &T) -> Verdict {
    let bundle = user_namespace(t)?.sh("echo ran");
    fs::set_permissions(&bundle.dir, fs::Permissions::from_mode(0o700))?;
    t.run(&bundle)?.ok()?.stdout_is("ran\n")?;
    Ok(())
}

fn a_missing_source_out_of_reach_is_named(t: &T) -> Verdict {
    let missing = out_of_reach(t, "volume")?.join("missing");
    let ran = t.run(&user_namespace(t)?.bind(&missing, "/mnt", &["rbind"]))?.code_is(1)?;
    ran.stderr_has("no such file or directory")?.stderr_has(&missing.display().to_string())?;
    Ok(())
}

fn relative_sources_out_of_reach_begin_at_the_bundle(t: &T) -> Verdict {
    let bundle = user_namespace(t)?.bind(Path::new("closed/data"), "/mnt", &["rbind"]);
    let data = bundle.dir.join("closed/data");
    fs::create_dir_all(&data)?;
    fs::write(data.join("content"), "relative")?;
    fs::set_permissions(bundle.dir.join("closed"), fs::Permissions::from_mode(0o700))?;
    t.run(&bundle.args(&["/bin/cat", "/mnt/content"]))?.ok()?.stdout_is("relative")?;
    Ok(())
}

fn a_bind_without_what_is_mounted_below_is_refused_with_a_hint(t: &T) -> Verdict {
    let closed = out_of_reach(t, "volume")?;
    let open = t.path("open");
    fs::create_dir_all(open.join("sub"))?;
    for dir in [closed, open] {
        let sub = dir.join("sub").display().to_string();
        t.host("mount", &["-t", "tmpfs", "tmpfs", &sub])?;
        let ran = t.run(&user_namespace(t)?.bind(&dir, "/mnt", &["bind"]));
        t.host("umount", &["-l", &sub])?;
        ran?.code_is(1)?.stderr_has("use rbind")?;
    }
    Ok(())
}

/// A tmpfs whose mounts are shared, at a path of the host, which `use_it` gets.
pub(super) fn with_shared(t: &T, dir: &Path, use_it: impl FnOnce() -> Verdict) -> Verdict {
    let at = dir.display().to_string();
    t.host("mount", &["-t", "tmpfs", "-o", "mode=755", "tmpfs", &at])?;
    t.host("mount", &["--make-shared", &at])?;
    fs::create_dir_all(dir.join("sub"))?;
    let done = use_it();
    while t.host("umount", &["-R", "-l", &at]).is_ok() {}
    done
}

fn a_shared_volume_reaches_the_host_without_a_user_namespace(t: &T) -> Verdict {
    let dir = t.path("shared");
    fs::create_dir_all(&dir)?;
    with_shared(t, &dir, || {
        for option in ["shared", "rshared"] {
            let bundle = t.bundle()?.privileged().bind(&dir, "/mnt", &["rbind", option]);
            let container = t.start(&bundle.sh("mount -t tmpfs inside /mnt/sub && echo mounted; sleep 1000"))?;
            container.wait_for_output("mounted")?;
            let seen = text("/proc/self/mountinfo").contains(&dir.join("sub").display().to_string());
            ensure!(seen, "{option}: the host does not see it");
            container.stop()?;
            t.host("umount", &[&dir.join("sub").display().to_string()])?;
        }
        Ok(())
    })
}

fn mountinfo_has_the_mounts_in_their_order(t: &T) -> Verdict {
    if kernel() < (6, 15) {
        return skip("before Linux 6.15 nobody can copy a mount that is attached nowhere");
    }
    let dir = t.path("shared");
    fs::create_dir_all(&dir)?;
    with_shared(t, &dir, || {
        let tmpfs = |at: &str| json!({"destination": at, "type": "tmpfs", "source": "tmpfs"});
        let bundle = t.bundle()?.mount(tmpfs("/order1")).bind(&dir, "/order2", &["rbind", "shared"]);
        let ran = t.run(&bundle.mount(tmpfs("/order3")).sh("cut -d' ' -f5 /proc/self/mountinfo | grep order"))?;
        ran.ok()?.stdout_is("/order1\n/order2\n/order3\n")?;
        Ok(())
    })
}

fn sources_are_those_of_a_joined_mount_namespace(t: &T) -> Verdict {
    let dir = t.path("data");
    fs::create_dir_all(&dir)?;
    // A namespace that has a file at this path, which the host has not.
    let mut child = std::process::Command::new("unshare")
        .args(["-m", "sh", "-c", "mount -t tmpfs tmpfs \"$0\" && echo there > \"$0/content\" && echo ready && cat"])
        .arg(&dir)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    let mut ready = [0; 6];
    if let Some(out) = &mut child.stdout {
        std::io::Read::read_exact(out, &mut ready)?;
    }
    let join = json!({"type": "mount", "path": format!("/proc/{}/ns/mnt", child.id())});
    let bundle = t.bundle()?.namespace("mount", Some(join)).bind(&dir, "/mnt", &["bind"]);
    let ran = t.run(&bundle.args(&["/bin/cat", "/mnt/content"]));
    let _ = child.kill();
    child.wait()?;
    ran?.ok()?.stdout_is("there\n")?;
    Ok(())
}

fn hooks_run_in_the_hosts_mount_namespace(t: &T) -> Verdict {
    let seen = t.path("seen");
    let script = format!("readlink /proc/self/ns/mnt >> {0}; pwd >> {0}; ls -di / >> {0}", seen.display());
    let hook = json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}]);
    let volume = out_of_reach(t, "volume")?;
    let bundle = user_namespace(t)?.set("/hooks", json!({"createRuntime": hook, "poststart": hook}));
    t.run(&bundle.bind(&volume, "/mnt", &["rbind"]))?.ok()?;
    let host = fs::read_link("/proc/self/ns/mnt")?.display().to_string();
    let lines = text(&seen);
    let lines: Vec<&str> = lines.lines().collect();
    ensure_eq!(lines.len(), 6, "{lines:?}");
    ensure!(lines[0] == host && lines[3] == host, "{lines:?} and not {host}");
    ensure!(lines[1] == lines[4] && lines[2] == lines[5], "another directory: {lines:?}");
    Ok(())
}

fn a_joined_user_namespace_maps_the_ids_of_a_mount(t: &T) -> Verdict {
    let dir = t.path("data");
    fs::create_dir_all(&dir)?;
    fs::write(dir.join("file"), "")?;
    let other = t.start(&user_namespace(t)?.args(&["/bin/sleep", "1000"]))?;
    let join = json!({"type": "user", "path": format!("/proc/{}/ns/user", other.pid()?)});
    let bundle =
        user_namespace(t)?.unset("/linux/uidMappings").unset("/linux/gidMappings").namespace("user", Some(join));
    let bundle = bundle.bind(&dir, "/mnt", &["bind", "idmap"]).args(&["/bin/stat", "-c", "%u %g", "/mnt/file"]);
    t.run(&bundle)?.ok()?.stdout_is("0 0\n")?;
    Ok(())
}

/// Mounts with equal mappings share a user namespace, and no others do.
fn each_mount_has_its_own_mappings(t: &T) -> Verdict {
    if kernel() < (6, 3) {
        return skip("the harness's tmpfs can be mapped from Linux 6.3 on");
    }
    let dir = t.path("data");
    fs::create_dir_all(&dir)?;
    fs::write(dir.join("file"), "")?;
    let to = |host: u32| json!([{"containerID": 0, "hostID": host, "size": 1000}]);
    let mut bundle = t.bundle()?;
    for (at, uid, gid) in [("/a", 50_000, 60_000), ("/b", 50_000, 70_000), ("/c", 80_000, 60_000)] {
        bundle = bundle.mount(json!({
            "destination": at, "type": "bind", "source": dir, "options": ["bind"],
            "uidMappings": to(uid), "gidMappings": to(gid)
        }));
    }
    t.run(&bundle.args(&["/bin/stat", "-c", "%u %g", "/a/file", "/b/file", "/c/file"]))?
        .ok()?
        .stdout_is("50000 60000\n50000 70000\n80000 60000\n")?;
    Ok(())
}

fn a_runtime_that_cannot_return_ends(t: &T) -> Verdict {
    if t.host("strace", &["-V"]).is_err() {
        return skip("strace is not installed");
    }
    let hook = t.path("hook");
    let script = format!("touch {}", hook.display());
    let hooks = json!({"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]});
    let bundle = user_namespace(t)?.bind(&out_of_reach(t, "volume")?, "/mnt", &["rbind"]).set("/hooks", hooks);
    bundle.write()?;
    let id = t.id();
    let runtime = t.command();
    let mut command = std::process::Command::new("strace");
    command.args(["-o", "/dev/null", "-e", "trace=setns", "-e", "inject=setns:error=EPERM:when=2"]);
    command.arg(runtime.get_program()).args(runtime.get_args());
    command.args(["run", "--bundle", &bundle.dir.display().to_string(), &id]);
    t.finish(command)?.code_is(1)?.stderr_has("cannot leave the container's mount namespace")?;
    ensure!(!hook.exists(), "a hook ran in the container's mount namespace");
    t.runtime(&["delete", "--force", &id])?.ok()?;
    Ok(())
}
