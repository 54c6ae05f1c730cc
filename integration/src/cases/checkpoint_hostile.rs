//! `restore` from images that contradict the configuration, and from directories that are not what they claim. Each
//! restore is refused, and nothing of the container is left. The last case is a container with a filesystem that never
//! answers.

use crate::chapter;
use crate::kit::Need::{Criu, Slow, Windlass};
use crate::kit::criu::{COUNTING, Images, counts_on, start};
use crate::kit::images::{self, File};
use crate::kit::machine::{has_version_1, text};
use crate::kit::stop::{Context, skip};
use crate::kit::wait::eventually;
use crate::kit::{Bundle, T, Verdict};
use crate::{ensure, ensure_eq};
use serde_json::json;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

chapter! { "checkpoint_hostile":
    what_contradicts_the_configuration_is_refused_with_its_element [Windlass, Criu, Slow],
    mounts_of_the_images_never_reach_the_host [Windlass, Criu, Slow],
    what_is_not_an_image_is_refused [Windlass, Criu, Slow],
    files_of_the_images_are_those_of_the_container [Windlass, Criu, Slow],
    a_link_in_the_root_filesystem_leads_to_no_file_of_the_host [Windlass, Criu, Slow],
    no_file_without_a_name_is_made_or_removed_elsewhere [Windlass, Criu, Slow],
    signals_of_files_stay_in_the_container [Windlass, Criu, Slow],
    a_dump_before_is_no_way_out [Windlass, Criu, Slow],
    images_are_checked_before_a_user_namespace_sees_them [Windlass, Criu, Slow],
    memory_is_in_the_images_of_the_dump_before [Windlass, Criu, Slow],
    limits_are_those_of_the_configuration_at_most [Windlass, Criu, Slow],
    scheduling_is_that_of_the_configuration [Windlass, Criu, Slow],
    cgroups_of_the_images_stay_in_that_of_the_container [Windlass, Criu, Slow],
    layers_of_an_overlay_are_not_looked_up_on_the_host [Windlass, Criu, Slow],
    a_filesystem_that_never_answers_is_named [Windlass, Slow],
}

/// The configuration of the dumped container.
pub(super) fn dumped(t: &T) -> Verdict<Bundle> {
    let data = t.path("data");
    fs::create_dir_all(&data).context("data")?;
    let filter =
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]});
    Ok(t.bundle()?
        .sh(COUNTING)
        .bind(&data, "/data", &["bind", "rprivate"])
        .mount(json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue"}))
        .set("/linux/seccomp", filter))
}

/// The directory of its images.
pub(super) fn dump<'t>(t: &'t T, bundle: &Bundle) -> Verdict<Images<'t>> {
    let container = start(t, bundle)?;
    counts_on(bundle, 1)?;
    let images = Images::new(t);
    images.dump(&container, &[])?;
    Ok(images)
}

/// Checks that `restore` is refused with these words.
pub(super) fn refused(images: &Images, bundle: &Bundle, words: &str) -> Verdict {
    let (ran, container) = images.try_restore(bundle, &[])?;
    ran.code_is(1)?.stderr_has(words)?;
    container.verb("state", &[], &[])?.code_is(1)?.stderr_has("does not exist")?;
    Ok(())
}

/// A change of a configuration.
type Change = fn(Bundle) -> Bundle;

fn what_contradicts_the_configuration_is_refused_with_its_element(t: &T) -> Verdict {
    let bundle = dumped(t)?;
    let images = dump(t, &bundle)?;
    let changes: &[(&str, Change)] = &[
        ("/process/capabilities/bounding", |b| {
            b.set("/process/capabilities", crate::kit::spec::capabilities(&["CAP_KILL"]))
        }),
        ("/process/capabilities/bounding", |b| b.unset("/process/capabilities")),
        ("/process/user/uid", |b| b.set("/process/user/uid", json!(7))),
        ("/process/user/gid", |b| b.set("/process/user/gid", json!(7))),
        ("/linux/seccomp", |b| {
            let call = json!({"names": ["mkdir", "rmdir"], "action": "SCMP_ACT_ERRNO"});
            b.set("/linux/seccomp/syscalls", json!([call]))
        }),
        ("/linux/namespaces", |b| b.namespace("time", Some(json!({"type": "time"}))).namespace("ipc", None)),
        ("/linux/namespaces", |b| b.namespace("uts", None).unset("/hostname")),
        ("the images have another namespace", |b| {
            b.namespace("network", Some(json!({"type": "network", "path": "/proc/1/ns/net"})))
        }),
        ("/linux/namespaces", |b| {
            let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
            b.namespace("user", Some(json!({"type": "user"})))
                .set("/linux/uidMappings", map.clone())
                .set("/linux/gidMappings", map)
        }),
        ("/root/readonly", |b| b.set("/root/readonly", json!(true))),
        ("/linux/maskedPaths", |b| b.set("/linux/maskedPaths/-", json!("/proc/meminfo"))),
        ("/linux/readonlyPaths", |b| b.set("/linux/readonlyPaths/-", json!("/proc/tty"))),
        ("/linux/resources/pids/limit", |b| b.set("/linux/resources/pids/limit", json!(1))),
        ("/mounts", |b| without(b, "/data")),
        ("/mounts", |b| without(b, "/dev/mqueue")),
        ("/mounts", |b| with_options(b, "/data", json!(["bind", "ro"]))),
        ("/mounts", |b| with_options(b, "/data", json!(["bind", "nosuid"]))),
        ("/mounts", |b| with_options(b, "/dev/shm", json!(["nosuid", "noexec", "nodev", "ro"]))),
    ];
    for (pointer, change) in changes {
        refused(&images, &change(bundle.clone()), pointer).context(pointer)?;
    }
    explained(t, &images, &bundle)?;
    // Elements of a configuration that engines change may differ.
    let cgroup = format!("/checkpoint-elsewhere-{}", std::process::id());
    let rewritten = bundle
        .clone()
        .set("/annotations", json!({"a": "b"}))
        .set("/linux/cgroupsPath", json!(cgroup))
        .set("/hostname", json!("inside"));
    let container = images.restore(&rewritten, &[])?;
    let group = format!("0::{cgroup}");
    ensure_eq!(
        crate::kit::machine::text(format!("/proc/{}/cgroup", container.pid()?)).lines().last(),
        Some(group.as_str()),
        "cgroup"
    );
    Ok(())
}

/// `explain --restore` says the same and makes nothing.
fn explained(t: &T, images: &Images, bundle: &Bundle) -> Verdict {
    let explain = |bundle: &Bundle| {
        bundle.write()?;
        let dir = [&bundle.dir, &images.dir].map(|dir| dir.display().to_string());
        t.runtime(&["explain", "--restore", "--bundle", &dir[0], "--image-path", &dir[1]])?.ok()
    };
    let data = t.path("data").display().to_string();
    explain(bundle)?
        .stdout_has(&format!("the host's {data} /mounts/"))?
        .stdout_has("the host's /dev/null /linux/maskedPaths")?
        .stdout_lacks("refused")?;
    explain(&without(bundle.clone(), "/data"))?.stdout_has("nowhere: config.json has no such mount")?;
    explain(&bundle.clone().set("/root/readonly", json!(true)))?.stdout_has("refused: /root/readonly")?;
    Ok(())
}

fn without(bundle: Bundle, destination: &str) -> Bundle {
    bundle.edit(|spec| {
        if let Some(mounts) = spec["mounts"].as_array_mut() {
            mounts.retain(|mount| mount["destination"] != destination);
        }
    })
}

pub(super) fn with_options(bundle: Bundle, destination: &str, options: serde_json::Value) -> Bundle {
    bundle.edit(|spec| {
        for mount in spec["mounts"].as_array_mut().into_iter().flatten() {
            if mount["destination"] == destination {
                mount["options"] = options.clone();
            }
        }
    })
}

/// CRIU makes the mounts of the images, and each case adds one (see [`images::add_mount`]).
fn mounts_of_the_images_never_reach_the_host(t: &T) -> Verdict {
    let bundle = dumped(t)?;
    symlink("/etc", bundle.rootfs().join("link")).context("link")?;
    fs::create_dir_all(bundle.rootfs().join("mnt")).context("mnt")?;
    let whole = dump(t, &bundle)?;
    let cases: &[(&str, [&str; 4])] = &[
        ("mount with the path", ["/", "/../../../../etc", "/mnt", "/"]),
        ("/etc", ["/", "/link/apt", "/mnt", "/"]),
        ("of type", ["/proc", "sys", "/mnt", "/"]),
        ("lacks restrictions", ["/proc", "", "/proc", "/proc"]),
        ("/proc/./sys", ["/proc", "sys", "/proc/./sys", "/proc"]),
        ("more than one root", ["/", "", "/", "/"]),
    ];
    for (number, (words, [source, below, point, parent])) in cases.iter().enumerate() {
        let images = whole.copy(&format!("mounts{number}"))?;
        images::add_mount(&images.dir, source, below, point, parent).context(words)?;
        refused(&images, &bundle, words).context(words)?;
    }
    ensure!(whole.restore(&bundle, &[]).is_ok(), "the images themselves are restored");
    Ok(())
}

/// A change of a directory of images.
type Damage = fn(&Path) -> std::io::Result<()>;

fn what_is_not_an_image_is_refused(t: &T) -> Verdict {
    let bundle = dumped(t)?;
    let whole = dump(t, &bundle)?;
    let damages: &[(&str, Damage)] = &[
        ("pstree.img is not an ordinary file", |dir| {
            fs::rename(dir.join("pstree.img"), dir.join("other.img"))?;
            symlink("other.img", dir.join("pstree.img"))
        }),
        ("pages-1.img is not an ordinary file", |dir| {
            fs::remove_file(dir.join("pages-1.img"))?;
            symlink("/etc/shadow", dir.join("pages-1.img"))
        }),
        ("has another name", |dir| fs::hard_link(dir.join("core-1.img"), dir.join("again.img"))),
        ("is not an ordinary file", |dir| {
            fs::remove_file(dir.join("core-1.img"))?;
            fifo(&dir.join("core-1.img"))
        }),
        ("pages-1.img is shorter than its page map", |dir| cut(&dir.join("pages-1.img"), 4096)),
        ("pages-1.img is shorter than its page map", |dir| fs::remove_file(dir.join("pages-1.img"))),
        ("inventory.img is missing", |dir| fs::remove_file(dir.join("inventory.img"))),
        ("pstree.img is missing", |dir| fs::remove_file(dir.join("pstree.img"))),
        ("core-1.img is missing", |dir| fs::remove_file(dir.join("core-1.img"))),
        ("ids-1.img is missing", |dir| fs::remove_file(dir.join("ids-1.img"))),
        ("seccomp", |dir| fs::remove_file(dir.join("seccomp.img"))),
        ("pstree.img is damaged", |dir| cut(&dir.join("pstree.img"), 9)),
        ("core-1.img is damaged", |dir| cut(&dir.join("core-1.img"), 40)),
        ("inventory.img is damaged", |dir| fs::write(dir.join("inventory.img"), [0; 64])),
        ("inventory.img has not one entry", |dir| {
            let text = fs::read(dir.join("inventory.img"))?;
            fs::write(dir.join("inventory.img"), [&text[..], &text[4..]].concat())
        }),
        ("pstree.img is damaged", |dir| {
            let mut text = fs::read(dir.join("pstree.img"))?;
            text[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
            fs::write(dir.join("pstree.img"), text)
        }),
        ("pstree.img in the images: file too large", |dir| fs::File::create(dir.join("pstree.img"))?.set_len(1 << 40)),
        ("windlass.json", |dir| fs::write(dir.join("windlass.json"), r#"{"version":1,"stdio":["socket:[1]","",""]}"#)),
        ("windlass.json", |dir| fs::write(dir.join("windlass.json"), vec![b' '; 1 << 20])),
        ("the images are refused: windlass.json is not an ordinary file", |dir| {
            fs::remove_file(dir.join("windlass.json"))?;
            symlink("/dev/zero", dir.join("windlass.json"))
        }),
        ("the images are refused: windlass.json is not an ordinary file", |dir| {
            fs::remove_file(dir.join("windlass.json"))?;
            zero(&dir.join("windlass.json"))
        }),
        ("can be written by others", |dir| fs::set_permissions(dir, fs::Permissions::from_mode(0o777))),
        ("belongs to user", |dir| std::os::unix::fs::chown(dir, Some(1000), Some(1000))),
        // The owner of the image could change it after the check.
        ("core-1.img belongs to user 1000", |dir| {
            std::os::unix::fs::chown(dir.join("core-1.img"), Some(1000), Some(1000))
        }),
        ("core-1.img can be written by others", |dir| {
            fs::set_permissions(dir.join("core-1.img"), fs::Permissions::from_mode(0o620))
        }),
    ];
    all_refused(&whole, &bundle, damages)
}

/// CRIU opens files as root, and its processes have descriptors of the host.
fn files_of_the_images_are_those_of_the_container(t: &T) -> Verdict {
    let bundle = dumped(t)?;
    let whole = dump(t, &bundle)?;
    let truncate = u64::from(libc::O_TRUNC.unsigned_abs() | libc::O_WRONLY.unsigned_abs());
    let cases = [
        ("/proc/self/exe", File::Regular("/proc/self/exe", 0)),
        ("names the file", File::Regular("/proc/1/root/etc/passwd", 0)),
        ("names the file", File::Regular("/proc/1/task/1/fd/70", 0)),
        ("names the file", File::Regular("/proc/self/fd/70/etc/passwd", 0)),
        ("names the file", File::Regular("/../etc/passwd", 0)),
        ("names the file", File::Regular("//etc/passwd", 0)),
        ("names the file", File::Regular("xetc/passwd", 0)),
        ("makes or empties a file", File::Regular("/etc/passwd", truncate)),
        ("names the file", File::Socket("/proc/self/cwd/socket", "")),
        ("names the file", File::Socket("socket", "/proc/1/root/run")),
        ("names the file", File::Socket("../proc/1/./cwd/socket", "/tmp")),
        ("watches a file without a path", File::Watch),
        ("a fanotify group that takes CAP_SYS_ADMIN", File::Group(0)),
        ("a fanotify group that takes CAP_SYS_ADMIN", File::Group(0x200)),
    ];
    for (number, (words, file)) in cases.iter().enumerate() {
        let images = whole.copy(&format!("files{number}"))?;
        images::add_file(&images.dir, file, images::mount_on(&images.dir, "/")?).context(words)?;
        refused(&images, &bundle, words).context(format!("case {number}"))?;
    }
    let ordinary = whole.copy("ordinary")?;
    let root = images::mount_on(&ordinary.dir, "/")?;
    for (at, path) in (50..).zip(["/etc/passwd", "/proc/1/fd", "/proc/self/status", "/"]) {
        let number = images::add_file(&ordinary.dir, &File::Regular(path, 0), root).context(path)?;
        images::hold(&ordinary.dir, number, at).context(path)?;
    }
    ordinary.restore(&bundle, &[]).context("files of the container")?;
    let missing = whole.copy("missing")?;
    fs::remove_file(missing.dir.join("files.img")).context("files.img")?;
    refused(&missing, &bundle, "files.img is missing")
}

/// The path is ordinary, but the root filesystem has changed since the dump.
fn a_link_in_the_root_filesystem_leads_to_no_file_of_the_host(t: &T) -> Verdict {
    let bundle = dumped(t)?;
    let whole = dump(t, &bundle)?;
    symlink("/proc/self", bundle.rootfs().join("link")).context("link")?;
    let images = whole.copy("link")?;
    let root = images::mount_on(&images.dir, "/")?;
    let file = images::add_file(&images.dir, &File::Regular("/link/exe", 0), root).context("CRIU's program")?;
    images::hold(&images.dir, file, 9).context("CRIU's program")?;
    refused(&images, &bundle, "which is not the container's")
}

/// CRIU sets the owner as root, and only a PID namespace of its own keeps a container from naming others.
fn signals_of_files_stay_in_the_container(t: &T) -> Verdict {
    let bundle = dumped(t)?.namespace("pid", None);
    let images = dump(t, &bundle)?;
    let root = images::mount_on(&images.dir, "/")?;
    let file = images::add_file(&images.dir, &File::Owned("/etc/passwd", 1), root).context("a file")?;
    images::hold(&images.dir, file, 9).context("a file")?;
    refused(&images, &bundle, "a file whose signals another process gets")
}

fn no_file_without_a_name_is_made_or_removed_elsewhere(t: &T) -> Verdict {
    let readonly = t.path("readonly");
    fs::create_dir_all(&readonly).context("readonly")?;
    let bundle = dumped(t)?.bind(&readonly, "/readonly", &["bind", "ro", "rprivate"]);
    let whole = dump(t, &bundle)?;
    let kept = readonly.join("link_remap.1");
    fs::write(&kept, "content").context("kept")?;
    let up = format!("/../../../../../../../..{}", kept.display());
    // The file, its content, the mount and how it is made.
    let cases = [
        ("names the file", "/file", up.as_str(), "/", 0),
        ("names the file", "/file", "/etc/passwd", "/", 0),
        ("read-only", "/readonly/file", "/readonly/link_remap.1", "/readonly", 0),
        ("names the file", up.as_str(), "", "/", 1),
        ("read-only", "/readonly/file", "", "/readonly", 1),
        ("a file without a name at", "/link/file", "", "/", 1),
        ("a file without a name at", "/file", "/link/link_remap.1", "/", 0),
    ];
    // CRIU resolves it in the host's root.
    symlink(&readonly, bundle.rootfs().join("link")).context("link")?;
    for (number, (words, path, content, mount, kind)) in cases.into_iter().enumerate() {
        let images = whole.copy(&format!("unlinked{number}"))?;
        let mount = images::mount_on(&images.dir, mount)?;
        let add = |path| images::add_file(&images.dir, &File::Regular(path, 0), mount);
        let file = add(path).context(path)?;
        let content = if kind == 0 { add(content).context(content)? } else { 5 };
        images::unlinked(&images.dir, file, content, kind).context(path)?;
        refused(&images, &bundle, words).context(format!("case {number}"))?;
        ensure_eq!(text(&kept), "content".to_owned(), "the file of the host");
    }
    let images = whole.copy("ghost")?;
    let file = File::Regular("/tmp/ghost", 0);
    let file = images::add_file(&images.dir, &file, images::mount_on(&images.dir, "/")?).context("ghost")?;
    images::unlinked(&images.dir, file, 5, 1).context("ghost")?;
    images::hold(&images.dir, file, 9).context("ghost")?;
    images.restore(&bundle, &[]).context("a file without a name")?;
    Ok(())
}

/// A restore reads memory from the images of earlier dumps, too.
fn a_dump_before_is_no_way_out(t: &T) -> Verdict {
    let bundle = dumped(t)?;
    let whole = dump(t, &bundle)?;
    let damages: &[(&str, Damage)] = &[
        ("parent is not a relative link", |dir| symlink("/", dir.join("parent"))),
        ("parent is not a relative link", |dir| symlink("../../../../../../../../../../tmp", dir.join("parent"))),
        ("parent is not a relative link", |dir| symlink("sub/before", dir.join("parent"))),
        ("the images of the dump before", |dir| fs::write(dir.join("parent"), "")),
        ("the images of the dump before", |dir| symlink("../other", dir.join("parent"))),
        ("the dump before belongs to user", |dir| {
            fs::create_dir(dir.join("parent"))?;
            std::os::unix::fs::chown(dir.join("parent"), Some(1000), Some(1000))
        }),
        ("pages-1.img can be written by others", |dir| {
            fs::create_dir(dir.join("parent"))?;
            fs::write(dir.join("parent/pages-1.img"), "")?;
            fs::set_permissions(dir.join("parent/pages-1.img"), fs::Permissions::from_mode(0o666))
        }),
        ("pages-1.img is not an ordinary file", |dir| {
            fs::create_dir(dir.join("parent"))?;
            symlink("../../../../../../../../../../etc/shadow", dir.join("parent/pages-1.img"))
        }),
        ("pages-1.img is not an ordinary file", |dir| {
            fs::create_dir(dir.join("sub"))?;
            symlink("sub", dir.join("parent"))?;
            fifo(&dir.join("sub/pages-1.img"))
        }),
        ("parent is not a relative link", |dir| {
            fs::create_dir(dir.join("parent"))?;
            symlink("/", dir.join("parent/parent"))
        }),
        ("too many directories", |dir| {
            fs::create_dir(dir.join("sub"))?;
            symlink("sub", dir.join("parent"))?;
            symlink("../sub", dir.join("sub/parent"))
        }),
        ("pages-1.img is shorter than its page map", |dir| {
            fs::create_dir(dir.join("parent"))?;
            fs::copy(dir.join("pagemap-1.img"), dir.join("parent/pagemap-1.img"))?;
            Ok(())
        }),
    ];
    all_refused(&whole, &bundle, damages)
}

/// The images are copied for the user namespace and shown to it before CRIU starts.
fn images_are_checked_before_a_user_namespace_sees_them(t: &T) -> Verdict {
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    let bundle = t
        .bundle()?
        .sh(COUNTING)
        .namespace("user", Some(json!({"type": "user"})))
        .set("/linux/uidMappings", map.clone())
        .set("/linux/gidMappings", map);
    std::os::unix::fs::chown(bundle.rootfs(), Some(100_000), Some(100_000)).context("chown")?;
    let whole = dump(t, &bundle)?;
    let images = whole.copy("after")?;
    images::without_pages(&images.dir).context("pages")?;
    whole.copy("before")?;
    symlink("../before", images.dir.join("parent")).context("parent")?;
    images.restore(&bundle, &[]).context("with a dump before")?;
    let not_files: &[(&str, Damage)] = &[
        ("timens-0 is not an ordinary file", |dir| fifo(&dir.join("timens-0"))),
        ("timens-0 is not an ordinary file", |dir| symlink("/dev/zero", dir.join("timens-0"))),
        ("timens-0 is not an ordinary file", |dir| zero(&dir.join("timens-0"))),
    ];
    let too_much: &[(&str, Damage)] = &[
        ("timens-0 in the images: file too large", |dir| fs::write(dir.join("timens-0"), [0; 4097])),
        ("too many with offsets of clocks", |dir| {
            (0..17).try_for_each(|number| fs::write(dir.join(format!("timens-{number}")), ""))
        }),
    ];
    let leads_away: &[(&str, Damage)] = &[
        ("parent is not a relative link", |dir| symlink("/", dir.join("parent"))),
        ("parent is not a relative link", |dir| symlink("/proc", dir.join("parent"))),
        ("parent is not a relative link", |dir| symlink(".", dir.join("parent"))),
        ("parent is not a relative link", |dir| {
            fs::create_dir(dir.join("parent"))?;
            symlink("/proc", dir.join("parent/parent"))
        }),
    ];
    // Trusted images are not compared, and no device is opened for them either.
    for (number, (words, damage)) in not_files.iter().chain(too_much).enumerate() {
        let images = whole.copy(&format!("trusted{number}"))?;
        damage(&images.dir).context(words)?;
        let (ran, _) = images.try_restore(&bundle, &["--trust-images"])?;
        ran.code_is(1)?.stderr_has(words).context("--trust-images")?;
    }
    all_refused(&whole, &bundle, &[not_files, too_much, leads_away].concat())
}

fn fifo(path: &Path) -> std::io::Result<()> {
    nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRUSR).map_err(Into::into)
}

/// Makes a device that can be read without an end.
fn zero(path: &Path) -> std::io::Result<()> {
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    mknod(path, SFlag::S_IFCHR, Mode::S_IRUSR, makedev(1, 5)).map_err(Into::into)
}

/// Checks that damaged images are refused, and undamaged ones restored.
fn all_refused(whole: &Images, bundle: &Bundle, damages: &[(&str, Damage)]) -> Verdict {
    for (number, (words, damage)) in damages.iter().enumerate() {
        let images = whole.copy(&format!("damaged{number}"))?;
        damage(&images.dir).context(words)?;
        refused(&images, bundle, words).context(words)?;
    }
    ensure!(whole.restore(bundle, &[]).is_ok(), "the images themselves are restored");
    Ok(())
}

/// Images as after `checkpoint --parent-path`, for which not all kernels can report which pages were written.
fn memory_is_in_the_images_of_the_dump_before(t: &T) -> Verdict {
    let bundle = dumped(t)?;
    let before = dump(t, &bundle)?;
    for (name, parent) in [("beside", "../before"), ("among", "inner/")] {
        let images = before.copy(name)?;
        images::without_pages(&images.dir).context("pages")?;
        refused(&images, &bundle, "restore failed").context("without the dump before")?;
        before.copy(if name == "beside" { "before" } else { "among/inner" })?;
        symlink(parent, images.dir.join("parent")).context("parent")?;
        images.restore(&bundle, &[]).context(name)?;
        counts_on(&bundle, 1)?;
    }
    Ok(())
}

fn limits_are_those_of_the_configuration_at_most(t: &T) -> Verdict {
    let limit = |bundle: Bundle, hard: u32| {
        bundle.set("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 64, "hard": hard}]))
    };
    let bundle = limit(dumped(t)?, 512).set("/process/oomScoreAdj", json!(200));
    let images = dump(t, &bundle)?;
    refused(&images, &limit(bundle.clone(), 511), "/process/rlimits/0")?;
    refused(&images, &bundle.clone().set("/process/oomScoreAdj", json!(201)), "/process/oomScoreAdj")?;
    images.restore(&limit(bundle, 513), &[])?;
    Ok(())
}

fn scheduling_is_that_of_the_configuration(t: &T) -> Verdict {
    let scheduled = |bundle: Bundle, scheduler: serde_json::Value| bundle.set("/process/scheduler", scheduler);
    for (dumped_with, more) in [
        (json!({"policy": "SCHED_FIFO", "priority": 3}), json!({"policy": "SCHED_FIFO", "priority": 2})),
        (json!({"policy": "SCHED_OTHER", "nice": -20}), json!({"policy": "SCHED_OTHER", "nice": -19})),
    ] {
        let bundle = scheduled(dumped(t)?, dumped_with);
        let images = dump(t, &bundle)?;
        refused(&images, &bundle.clone().unset("/process/scheduler"), "/process/scheduler")?;
        refused(&images, &scheduled(bundle.clone(), more), "/process/scheduler")?;
        images.restore(&bundle, &[])?;
    }
    Ok(())
}

/// CRIU makes cgroups by the names in the images, if it is asked to manage cgroups.
fn cgroups_of_the_images_stay_in_that_of_the_container(t: &T) -> Verdict {
    if has_version_1() {
        return skip("this host has cgroups of version 1, which is refused");
    }
    let script = format!("mkdir /sys/fs/cgroup/inner; echo 0 >/sys/fs/cgroup/inner/cgroup.procs; {COUNTING}");
    let bundle = t.bundle()?.sh(&script).mount(json!({"destination": "/sys/fs/cgroup", "type": "cgroup",
        "source": "cgroup", "options": ["rw"]}));
    let soft = ["--manage-cgroups-mode", "soft"];
    let container = start(t, &bundle)?;
    let at = counts_on(&bundle, 1)?;
    let whole = Images::new(t);
    whole.dump(&container, &soft)?;
    let image = |images: &Images| images.dir.join("cgroup.img");
    let inside = format!("/{}", container.id);
    let outside = format!("/x{}", &container.id[1..]);
    let host = Path::new("/sys/fs/cgroup").join(&outside[1..]).join("inner");
    fs::create_dir_all(&host).context("a cgroup of the host")?;
    for (number, (old, new, words)) in [
        ("inner", "../ab", "cgroup.img has the path"),
        ("cgroup.freeze", "/../../freeze", "cgroup.img has the path"),
        (&format!("{inside}/inner"), &format!("{outside}/inner"), "restore failed"),
    ]
    .into_iter()
    .enumerate()
    {
        let images = whole.copy(&format!("cgroups{number}"))?;
        let changed = replaced(&fs::read(image(&images)).context("cgroup.img")?, old, new);
        fs::write(image(&images), changed).context("cgroup.img")?;
        let (ran, container) = images.try_restore(&bundle, &soft)?;
        ran.code_is(1)?.stderr_has(words).context(words)?;
        container.verb("state", &[], &[])?.code_is(1)?.stderr_has("does not exist")?;
    }
    fs::remove_dir(&host).and_then(|()| fs::remove_dir(host.parent().unwrap_or(&host))).context("nobody is in it")?;
    let (ran, container) = whole.try_restore(&bundle, &soft)?;
    ran.ok()?;
    counts_on(&bundle, at)?;
    container.exec(&["/bin/cat", "/proc/1/cgroup"])?.stdout_has("/inner")?;
    Ok(())
}

/// All of `old` replaced by as many bytes.
fn replaced(text: &[u8], old: &str, new: &str) -> Vec<u8> {
    let mut out = text.to_vec();
    for at in 0..text.len().saturating_sub(old.len()) {
        if text[at..].starts_with(old.as_bytes()) {
            out[at..at + new.len()].copy_from_slice(new.as_bytes());
        }
    }
    out
}

/// The layers of an overlay that a container has mounted are paths in its own root filesystem, and CRIU would look them
/// up on the host.
fn layers_of_an_overlay_are_not_looked_up_on_the_host(t: &T) -> Verdict {
    let script = format!("mount -t overlay overlay -o lowerdir=/etc:/bin /mnt || exit 1\n{COUNTING}");
    let powers = crate::kit::spec::capabilities(&["CAP_SYS_ADMIN"]);
    let bundle = t.bundle()?.sh(&script).set("/process/capabilities", powers);
    let images = dump(t, &bundle)?;
    refused(&images, &bundle, "the images have /mnt from outside")
}

/// Cuts an image to this many bytes.
fn cut(path: &Path, length: u64) -> std::io::Result<()> {
    fs::OpenOptions::new().write(true).open(path)?.set_len(length)
}

/// The container has a FUSE server that never reads a request.
fn a_filesystem_that_never_answers_is_named(t: &T) -> Verdict {
    let mount = "exec 7<>/dev/fuse; mount -t fuse -o fd=7,rootmode=40000,user_id=0,group_id=0 none /mnt || exit 3";
    let open = format!("{},-100,'/mnt,{},0", libc::SYS_openat, libc::O_PATH);
    let script = format!("mkdir -p /mnt; mknod /dev/fuse c 10 229; {mount}; exec /helper @payload hold \"{open}\"");
    let all = json!({"devices": [{"allow": true, "access": "rwm"}]});
    let bundle = t.bundle()?.privileged().set("/linux/resources", all).set("/root/readonly", json!(false));
    let bundle = bundle.helper()?.sh(&script);
    let container = t.start(&bundle)?;
    let ready = bundle.rootfs().join("ready");
    let failed = || (container.status_is("stopped").is_ok()).then_some(false);
    if !eventually("it is ready", || ready.exists().then_some(true).or_else(failed))? {
        return skip("this kernel has no FUSE");
    }
    ensure_eq!(text(&ready), String::new(), "what could not be opened");
    container.try_exec(&["--detach"], &["/bin/sleep", "1000"])?.ok()?;
    let begun = std::time::Instant::now();
    let said = container.verb("checkpoint", &["--check"], &[])?.code_is(1)?;
    // What was found before is not lost.
    said.stdout_has("exec has made it")?.stdout_has("does not answer: process ")?.stdout_has("FUSE")?;
    ensure!(begun.elapsed().as_secs() < 60, "it took {:?}", begun.elapsed());
    container.verb("delete", &["--force"], &[])?.ok()?;
    Ok(())
}
