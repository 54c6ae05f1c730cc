//! New filesystems, and files that are made in and over them: config.md, "Mounts", and config-linux.md,
//! "Masked Paths" and "Readonly Paths".

use crate::kit::machine::text;
use crate::kit::stop::{Context, skip};
use crate::kit::{Need, T, Verdict};
use crate::{chapter, ensure, ensure_eq};
use serde_json::{Value, json};
use std::fs;

chapter! { "filesystems":
    a_cgroup_mount_leaves_the_options_of_the_hosts [Need::FirstCgroupNamespace],
    a_read_only_filesystem_takes_what_is_made_in_it_first,
    what_covers_a_read_only_filesystem_stays_writable,
    a_mount_point_is_not_made_below_a_read_only_bind,
    a_bind_on_the_root_is_the_root,
    a_later_bind_leaves_rbind_recursive,
    words_for_access_times_add_up,
    words_that_only_mount_2_knows_leave_the_others_as_they_are [Need::Windlass],
    paths_named_twice_are_restricted_once,
    tmpcopyup_keeps_extended_attributes,
    tmpcopyup_keeps_the_capabilities_of_a_file_that_is_not_roots,
    tmpcopyup_copies_nothing_of_mounts_below [Need::Windlass],
}

fn tmpfs(at: &str, options: &[&str]) -> Value {
    json!({"destination": at, "type": "tmpfs", "source": "tmpfs", "options": options})
}

fn a_read_only_filesystem_takes_what_is_made_in_it_first(t: &T) -> Verdict {
    let data = t.path("data");
    fs::create_dir_all(&data)?;
    fs::write(data.join("content"), "content")?;
    for option in ["ro", "rro"] {
        let bundle = t
            .bundle()?
            .mount(tmpfs("/mnt", &[option, "mode=755", "tmpcopyup"]))
            .mount(tmpfs("/mnt/deeper", &["mode=755"]))
            .bind(&data, "/mnt/bound", &["bind"])
            .set("/linux/devices/-", json!({"path": "/mnt/zero", "type": "c", "major": 1, "minor": 5}))
            .set("/process/cwd", json!("/mnt/work"))
            .sh("pwd; cat /mnt/copied /mnt/bound/content; [ -c /mnt/zero ] && touch /mnt/deeper/x && echo made; \
                 touch /mnt/x 2>/dev/null || echo read-only");
        fs::write(bundle.rootfs().join("mnt/copied"), "copied\n")?;
        t.run(&bundle)?.ok().context(option)?.stdout_is("/mnt/work\ncopied\ncontentmade\nread-only\n")?;
    }
    Ok(())
}

fn what_covers_a_read_only_filesystem_stays_writable(t: &T) -> Verdict {
    let bundle = t.bundle()?.mount(tmpfs("/mnt", &["ro"])).mount(tmpfs("/mnt", &["mode=755"]));
    t.run(&bundle.sh("touch /mnt/x && echo done"))?.ok()?.stdout_is("done\n")?;
    Ok(())
}

fn a_mount_point_is_not_made_below_a_read_only_bind(t: &T) -> Verdict {
    let data = t.path("data");
    fs::create_dir_all(&data)?;
    let bundle = t.bundle()?.bind(&data, "/mnt", &["bind", "ro"]).mount(tmpfs("/mnt/missing", &[]));
    t.run(&bundle)?.code_is(1)?;
    ensure!(!data.join("missing").exists(), "the host's directory was written to");
    Ok(())
}

fn a_bind_on_the_root_is_the_root(t: &T) -> Verdict {
    let other = t.bundle()?;
    fs::write(other.rootfs().join("mark"), "other")?;
    let bundle = t
        .bundle()?
        .edit(|spec| {
            let root = json!({"destination": "/", "type": "bind", "source": other.rootfs(), "options": ["rbind"]});
            if let Some(mounts) = spec["mounts"].as_array_mut() {
                mounts.insert(0, root);
            }
        })
        .sh("cat /mark; touch /new && [ -d /proc/self ] && echo done");
    t.run(&bundle)?.ok()?.stdout_is("otherdone\n")?;
    ensure!(other.rootfs().join("new").exists() && !bundle.rootfs().join("new").exists(), "written to the other root");
    let read_only = bundle.set("/root/readonly", json!(true)).sh("touch /new2 2>/dev/null || echo read-only");
    t.run(&read_only)?.ok()?.stdout_is("read-only\n")?;
    Ok(())
}

/// The options of the mount at `point` in the text of mountinfo.
fn options(mountinfo: &str, point: &str) -> Vec<String> {
    let line = mountinfo.lines().rfind(|line| line.split(' ').nth(4) == Some(point)).unwrap_or_default();
    line.split(' ').nth(5).unwrap_or_default().split(',').map(str::to_owned).collect()
}

fn a_later_bind_leaves_rbind_recursive(t: &T) -> Verdict {
    let data = t.path("data");
    fs::create_dir_all(data.join("sub"))?;
    t.host("mount", &["-t", "tmpfs", "tmpfs", &data.join("sub").display().to_string()])?;
    fs::write(data.join("sub/inner"), "inner")?;
    let bundle = t.bundle()?.bind(&data, "/mnt", &["rbind", "rprivate", "ro", "bind"]);
    let ran = t.run(&bundle.args(&["/bin/cat", "/mnt/sub/inner"]));
    t.host("umount", &["-l", &data.join("sub").display().to_string()])?;
    ran?.ok()?.stdout_is("inner")?;
    Ok(())
}

fn words_for_access_times_add_up(t: &T) -> Verdict {
    let cat = ["/bin/cat", "/proc/self/mountinfo"];
    let ran = t.run(&t.bundle()?.mount(tmpfs("/mnt", &["noatime", "relatime"])).args(&cat))?.ok()?;
    ensure!(options(&ran.stdout, "/mnt").contains(&"noatime".to_owned()), "{}", ran.stdout);
    let data = t.path("data");
    fs::create_dir_all(&data)?;
    t.host("mount", &["-t", "tmpfs", "-o", "noatime,nodiratime", "tmpfs", &data.display().to_string()])?;
    let ran = t.run(&t.bundle()?.bind(&data, "/mnt", &["bind", "atime", "diratime"]).args(&cat));
    t.host("umount", &["-l", &data.display().to_string()])?;
    let kept = options(&ran?.ok()?.stdout, "/mnt");
    ensure!(kept.iter().filter(|flag| ["noatime", "nodiratime"].contains(&flag.as_str())).count() == 2, "{kept:?}");
    Ok(())
}

/// `silent` is a flag of mount(2) alone, so the whole filesystem is mounted by that call.
fn words_that_only_mount_2_knows_leave_the_others_as_they_are(t: &T) -> Verdict {
    let of_the_mount = ["nosuid", "nodev", "noexec", "noatime", "nodiratime", "nosymfollow"];
    let of_the_filesystem = ["sync", "dirsync", "lazytime"];
    for (word, field) in of_the_mount.map(|word| (word, 0)).into_iter().chain(of_the_filesystem.map(|word| (word, 1))) {
        let bundle = t.bundle()?.mount(tmpfs("/mnt", &["silent", word])).args(&["/bin/cat", "/proc/self/mountinfo"]);
        let ran = t.run(&bundle)?.ok().context(word)?;
        let line = ran.stdout.lines().rfind(|line| line.split(' ').nth(4) == Some("/mnt")).unwrap_or_default();
        let fields = [line.split(' ').nth(5), line.split(' ').next_back()];
        let shown = fields[field].is_some_and(|words| words.split(',').any(|shown| shown == word));
        ensure!(shown, "{word} is not in {line:?}");
    }
    Ok(())
}

fn paths_named_twice_are_restricted_once(t: &T) -> Verdict {
    let bundle = t
        .bundle()?
        .set("/linux/maskedPaths", json!(["/etc", "/./etc", "/etc"]))
        .set("/linux/readonlyPaths", json!(["/proc/bus", "/proc/bus/", "/proc/bus"]))
        .args(&["/bin/cat", "/proc/self/mountinfo"]);
    let ran = t.run(&bundle)?.ok()?;
    for path in ["/etc", "/proc/bus"] {
        let times = ran.stdout.lines().filter(|line| line.split(' ').nth(4) == Some(path)).count();
        ensure!(times == 1, "{path} is mounted {times} times");
    }
    Ok(())
}

/// fsetxattr(2) and fgetxattr(2) by path, as the host's root.
fn attribute(path: &std::path::Path, name: &std::ffi::CStr, value: Option<&[u8]>) -> Verdict<Vec<u8>> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    let (path, name) = (path.as_ptr() as i64, name.as_ptr() as i64);
    match value {
        Some(value) => {
            let length = i64::try_from(value.len())?;
            crate::sys::syscall(libc::SYS_setxattr, [path, name, value.as_ptr() as i64, length, 0, 0])?;
            Ok(Vec::new())
        }
        None => {
            let mut buffer = vec![0_u8; 64];
            let length = crate::sys::syscall(libc::SYS_getxattr, [path, name, buffer.as_mut_ptr() as i64, 64, 0, 0])?;
            buffer.truncate(usize::try_from(length)?);
            Ok(buffer)
        }
    }
}

fn tmpcopyup_keeps_extended_attributes(t: &T) -> Verdict {
    let bundle = t.bundle()?.mount(tmpfs("/mnt", &["tmpcopyup"])).args(&["/bin/sleep", "1000"]);
    let mnt = bundle.rootfs().join("mnt");
    fs::create_dir(mnt.join("sub"))?;
    fs::write(mnt.join("file"), "")?;
    let names = ["", "sub", "file"];
    for name in names {
        attribute(&mnt.join(name), c"trusted.note", Some(b"kept"))?;
    }
    let container = t.start(&bundle)?;
    for name in names {
        let path = format!("/proc/{}/root/mnt/{name}", container.pid()?);
        ensure_eq!(attribute(path.as_ref(), c"trusted.note", None)?, b"kept", "{name:?}");
    }
    Ok(())
}

/// A change of the owner removes the capabilities (capabilities(7)), so the owner is set first.
fn tmpcopyup_keeps_the_capabilities_of_a_file_that_is_not_roots(t: &T) -> Verdict {
    let bundle = t.bundle()?.mount(tmpfs("/mnt", &["tmpcopyup"])).args(&["/bin/sleep", "1000"]);
    let file = bundle.rootfs().join("mnt/file");
    fs::write(&file, "")?;
    std::os::unix::fs::chown(&file, Some(3), Some(4))?;
    // `struct vfs_cap_data` of revision 2, effective, with CAP_NET_BIND_SERVICE (linux/capability.h).
    let mut capability = [0; 20];
    (capability[0], capability[3], capability[5]) = (1, 2, 4);
    attribute(&file, c"security.capability", Some(&capability))?;
    let container = t.start(&bundle)?;
    let copy = format!("/proc/{}/root/mnt/file", container.pid()?);
    ensure_eq!(attribute(copy.as_ref(), c"security.capability", None)?, capability, "its capabilities");
    Ok(())
}

/// A mount below the directory is not a part of it, and its files may be endless.
fn tmpcopyup_copies_nothing_of_mounts_below(t: &T) -> Verdict {
    let data = t.path("data");
    fs::create_dir_all(data.join("deep"))?;
    fs::write(data.join("deep/file"), "of the mount")?;
    let bundle = t.bundle()?.bind(&data, "/mnt/bound", &["bind"]).mount(tmpfs("/mnt", &["tmpcopyup"]));
    fs::create_dir_all(bundle.rootfs().join("mnt/own"))?;
    fs::write(bundle.rootfs().join("mnt/own/file"), "own")?;
    t.run(&bundle.sh("cd /mnt; find . | sort"))?.ok()?.stdout_is(".\n./bound\n./own\n./own/file\n")?;
    Ok(())
}

/// The line of the first cgroup2 mount in /proc/self/mounts.
fn cgroup2() -> Option<String> {
    text("/proc/self/mounts").lines().find(|line| line.split(' ').nth(2) == Some("cgroup2")).map(str::to_owned)
}

fn a_cgroup_mount_leaves_the_options_of_the_hosts(t: &T) -> Verdict {
    let Some(before) = cgroup2() else { return skip("there is no cgroup2") };
    let at = before.split(' ').nth(1).unwrap_or_default();
    let delegated = before.contains("nsdelegate");
    if !delegated {
        t.host("mount", &["-o", "remount,nsdelegate", at])?;
    }
    let mount = json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]});
    let ran = t.run(&t.bundle()?.namespace("cgroup", None).mount(mount));
    let after = cgroup2();
    if !delegated {
        t.host("mount", &["-o", "remount", at])?;
    }
    ran?.ok()?;
    ensure!(after.as_ref().is_some_and(|line| line.contains("nsdelegate")), "the options are now those of {after:?}");
    Ok(())
}
