//! config.md, "Root"; config-linux.md, rootfs propagation, masked and
//! read-only paths, mount label.

use crate::kit::Need::Windlass;
use crate::kit::spec::capabilities;
use crate::kit::stop::{Context, skip};
use crate::kit::{Bundle, T, Verdict};
use crate::{chapter, ensure, ensure_eq};
use serde_json::json;
use std::fs;

chapter! { "rootfs":
    an_absolute_path_is_accepted,
    a_missing_root_is_refused,
    a_file_as_root_is_refused,
    read_only_makes_the_root_read_only,
    mounts_on_a_read_only_root_stay_writable,
    the_old_root_is_gone,
    no_pivot_works,
    no_pivot_works_beside_mount_points_of_any_name,
    no_pivot_leaves_no_procfs_of_the_host,
    no_pivot_leaves_no_sysfs_of_the_host,
    propagation_is_applied,
    a_shared_propagation_lets_mounts_out,
    a_mount_keeps_its_propagation_below_another_root,
    default_symlinks_and_devices_are_in_dev,
    masked_files_are_empty_and_masked_directories_too,
    missing_masked_paths_are_ignored,
    read_only_paths_are_read_only,
    mounts_below_a_read_only_path_are_read_only [Windlass],
    missing_read_only_paths_are_ignored,
    masked_paths_cannot_be_unmounted_or_written,
    masked_directories_share_one_superblock_and_are_read_only,
    a_mount_label_without_selinux_is_ignored_with_a_warning,
    hostname_and_domainname_are_set,
}

fn an_absolute_path_is_accepted(t: &T) -> Verdict {
    let bundle = t.bundle()?;
    let root = bundle.rootfs();
    t.run(&bundle.set("/root/path", json!(root)))?.ok()?;
    Ok(())
}

fn a_missing_root_is_refused(t: &T) -> Verdict {
    t.run(&t.bundle()?.set("/root/path", json!("no-such-root")))?
        .code_is(1)?
        .stderr_has("no such file or directory")?;
    t.run(&t.bundle()?.unset("/root"))?.code_is(1)?;
    Ok(())
}

fn a_file_as_root_is_refused(t: &T) -> Verdict {
    let bundle = t.bundle()?;
    fs::write(bundle.dir.join("file"), "")?;
    t.run(&bundle.set("/root/path", json!("file")))?.code_is(1)?;
    Ok(())
}

fn read_only_makes_the_root_read_only(t: &T) -> Verdict {
    let bundle = t.bundle()?.set("/root/readonly", json!(true)).sh("touch /x 2>&1; touch /tmp/x 2>&1");
    let ran = t.run(&bundle)?.fails()?;
    ensure_eq!(ran.stdout.matches("Read-only file system").count(), 2, "touch said {:?}", ran.stdout);
    Ok(())
}

fn mounts_on_a_read_only_root_stay_writable(t: &T) -> Verdict {
    let tmpfs = json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"});
    let bundle = t.bundle()?.set("/root/readonly", json!(true)).mount(tmpfs);
    t.run(&bundle.sh("touch /tmp/x && touch /dev/shm/x && echo fine"))?.ok()?.stdout_is("fine\n")?;
    Ok(())
}

fn the_old_root_is_gone(t: &T) -> Verdict {
    let ran = t.run_sh("cat /proc/self/mountinfo")?.ok()?;
    let roots = ran.lines().iter().filter(|line| line.split(' ').nth(4) == Some("/")).count();
    ensure_eq!(roots, 1, "mounts at / in {}", ran.stdout);
    ran.stdout_lacks(" /run/")?;
    Ok(())
}

fn no_pivot_works(t: &T) -> Verdict {
    t.run_with(&t.bundle()?.sh("ls /"), &["--no-pivot"])?.ok()?.stdout_has("bin\n")?.stdout_lacks("boot\n")?;
    Ok(())
}

/// A name is bytes, and need not be UTF-8.
fn no_pivot_works_beside_mount_points_of_any_name(t: &T) -> Verdict {
    let name = r#"at="$1/$(printf 'caf\351')"; "#;
    let host =
        |script: &str| t.host("sh", &["-c", &format!("{name}{script}"), "sh", &t.path("").display().to_string()]);
    host(r#"mkdir -p "$at" && mount -t tmpfs tmpfs "$at""#)?;
    let ran = t.bundle().and_then(|bundle| t.run_with(&bundle.sh("ls /"), &["--no-pivot"]));
    host(r#"umount "$at""#)?;
    ran?.ok()?.stdout_has("bin\n")?;
    Ok(())
}

/// Shows that the container may make a user namespace and map ids in it.
const MAPPED: &str = "unshare -U -r true && echo mapped;";

fn may_map_ids(bundle: Bundle) -> Bundle {
    // Root's own id is mapped by who has CAP_SETFCAP (user_namespaces(7)).
    bundle.set("/process/capabilities", capabilities(&["CAP_SETFCAP", "CAP_SETUID", "CAP_SETGID"]))
}

/// A user namespace may mount a procfs only where there is one that nothing covers. The container must not have the
/// host's.
fn no_pivot_leaves_no_procfs_of_the_host(t: &T) -> Verdict {
    let script = format!("{MAPPED} unshare -U -r -m -p -f mount -t proc proc /proc && echo mounted || echo refused");
    // In a user namespace the host's mounts are locked, and can only be covered.
    for bundle in [t.bundle()?, super::namespaces::user_namespace(t)?] {
        let bundle = may_map_ids(bundle.sh(&script));
        for options in [&[][..], &["--no-pivot"]] {
            t.run_with(&bundle, options)?.ok()?.stdout_is("mapped\nrefused\n").context(options.concat())?;
        }
    }
    Ok(())
}

/// A user namespace may mount a sysfs only where there is one that nothing covers. The container has none.
fn no_pivot_leaves_no_sysfs_of_the_host(t: &T) -> Verdict {
    let mount = "unshare -U -r -m -n mount -t sysfs -o ro,nosuid,nodev,noexec sysfs /sys";
    let script = format!("{MAPPED} {mount} && echo mounted || echo refused");
    for options in [&[][..], &["--no-pivot"]] {
        let bundle = may_map_ids(t.bundle()?.sh(&script)).edit(|spec| {
            let mounts = spec["mounts"].as_array_mut().expect("a list");
            mounts.retain(|mount| !mount["destination"].as_str().unwrap_or_default().starts_with("/sys"));
        });
        fs::create_dir_all(bundle.rootfs().join("sys"))?;
        t.run_with(&bundle, options)?.ok()?.stdout_is("mapped\nrefused\n").context(options.concat())?;
    }
    Ok(())
}

fn propagation_is_applied(t: &T) -> Verdict {
    // A slave without a master is private: the runtime may have detached the root from its peers before.
    for (value, expected) in [
        ("private", ""),
        ("slave", "master:"),
        ("shared", "shared:"),
        ("unbindable", "unbindable"),
        ("rprivate", ""),
        ("rslave", "master:"),
        ("rshared", "shared:"),
    ] {
        let bundle = t.bundle()?.set("/linux/rootfsPropagation", json!(value));
        let ran = t.run(&bundle.args(&["/bin/cat", "/proc/self/mountinfo"]))?.ok().context(value)?;
        let root = ran.stdout.lines().rfind(|line| line.split(' ').nth(4) == Some("/")).unwrap_or_default().to_owned();
        let fields = root.split(" - ").next().unwrap_or_default().split(' ').skip(6).collect::<Vec<_>>().join(" ");
        let right = match expected {
            "" => fields.is_empty(),
            "master:" => !fields.contains("shared:") && !fields.contains("unbindable"),
            other => fields.contains(other),
        };
        ensure!(right, "{value} gave {root:?}");
    }
    Ok(())
}

fn a_shared_propagation_lets_mounts_out(t: &T) -> Verdict {
    // A bind of a shared mount under a shared root: mounts of the payload there appear on the host.
    let dir = t.path("meeting");
    fs::create_dir(&dir)?;
    t.host("mount", &["-t", "tmpfs", "tmpfs", &dir.display().to_string()])?;
    fs::create_dir(dir.join("point"))?;
    let bundle = t
        .bundle()?
        .privileged()
        .bind(&dir, "/mnt", &["rbind", "rshared"])
        .set("/linux/rootfsPropagation", json!("shared"));
    let bundle = bundle.sh("mount -t tmpfs inside /mnt/point && echo mounted; sleep 100");
    let container = t.start(&bundle)?;
    container.wait_for_output("mounted")?;
    let seen = fs::read_to_string("/proc/self/mountinfo")?.contains("meeting/point");
    container.stop()?;
    t.host("umount", &["-R", "-l", &dir.display().to_string()])?;
    ensure!(seen, "the payload's mount did not propagate");
    Ok(())
}

fn a_mount_keeps_its_propagation_below_another_root(t: &T) -> Verdict {
    for (root, mount, has, lacks) in [("slave", "shared", "shared:", "master:"), ("shared", "private", "", "shared:")] {
        let bundle = t
            .bundle()?
            .set("/linux/rootfsPropagation", json!(root))
            .mount(json!({"destination": "/mnt", "type": "tmpfs", "source": "tmpfs", "options": [mount]}));
        let ran = t.run(&bundle.args(&["/bin/grep", " /mnt ", "/proc/self/mountinfo"]))?.ok()?;
        ensure!(ran.stdout.contains(has) && !ran.stdout.contains(lacks), "{mount} below {root}: {:?}", ran.stdout);
    }
    Ok(())
}

fn default_symlinks_and_devices_are_in_dev(t: &T) -> Verdict {
    let script = "for l in fd stdin stdout stderr; do readlink /dev/$l; done; for d in null zero full random urandom tty; do stat -c '%n %t,%T %a' /dev/$d; done; echo x >/dev/null && echo writable";
    let ran = t.run_sh(script)?.ok()?;
    ran.stdout_is("/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\n/dev/null 1,3 666\n/dev/zero 1,5 666\n/dev/full 1,7 666\n/dev/random 1,8 666\n/dev/urandom 1,9 666\n/dev/tty 5,0 666\nwritable\n")?;
    Ok(())
}

fn masked_files_are_empty_and_masked_directories_too(t: &T) -> Verdict {
    let bundle = t.bundle()?;
    fs::create_dir_all(bundle.rootfs().join("secret/inner"))?;
    fs::write(bundle.rootfs().join("secret-file"), "hidden")?;
    let bundle = bundle.set("/linux/maskedPaths", json!(["/secret", "/secret-file", "/proc/keys"]));
    t.run(&bundle.sh("ls -A /secret; cat /secret-file /proc/keys; stat -c %F /secret-file"))?
        .ok()?
        .stdout_is("character special file\n")?;
    Ok(())
}

fn missing_masked_paths_are_ignored(t: &T) -> Verdict {
    t.run(&t.bundle()?.set("/linux/maskedPaths", json!(["/no/such/path", "/proc/no-such-file", "/etc/passwd/below"])))?
        .ok()?;
    Ok(())
}

fn mounts_below_a_read_only_path_are_read_only(t: &T) -> Verdict {
    let below = json!({"destination": "/fixed/below", "type": "tmpfs", "source": "tmpfs"});
    let bundle = t.bundle()?.privileged().set("/mounts/-", below).set("/linux/readonlyPaths", json!(["/fixed"]));
    t.run(&bundle.sh("touch /fixed/below/x 2>/dev/null && echo written; touch /free && echo free"))?
        .ok()?
        .stdout_is("free\n")?;
    Ok(())
}

fn read_only_paths_are_read_only(t: &T) -> Verdict {
    let bundle = t.bundle()?;
    fs::create_dir(bundle.rootfs().join("fixed"))?;
    fs::write(bundle.rootfs().join("fixed-file"), "old")?;
    let bundle = bundle.privileged().set("/linux/readonlyPaths", json!(["/fixed", "/fixed-file", "/proc/sys"]));
    let script = "touch /fixed/x 2>/dev/null && echo 1; echo new 2>/dev/null >/fixed-file && echo 2; echo x 2>/dev/null >/proc/sys/kernel/domainname && echo 3; touch /free && echo free";
    t.run(&bundle.sh(script))?.ok()?.stdout_is("free\n")?;
    Ok(())
}

fn missing_read_only_paths_are_ignored(t: &T) -> Verdict {
    t.run(&t.bundle()?.set("/linux/readonlyPaths", json!(["/no/such/path", "/proc/no-such-file"])))?.ok()?;
    Ok(())
}

fn masked_paths_cannot_be_unmounted_or_written(t: &T) -> Verdict {
    let bundle = t.bundle()?.set("/linux/maskedPaths", json!(["/proc/keys", "/sys/firmware"]));
    t.run(&bundle.sh(
        "umount /proc/keys 2>/dev/null && echo unmounted; touch /sys/firmware/x 2>/dev/null && echo written; echo end",
    ))?
    .ok()?
    .stdout_is("end\n")?;
    Ok(())
}

fn masked_directories_share_one_superblock_and_are_read_only(t: &T) -> Verdict {
    let bundle = t.bundle()?.privileged();
    for name in ["one", "two"] {
        fs::create_dir(bundle.rootfs().join(name))?;
    }
    let bundle = bundle.set("/linux/maskedPaths", json!(["/one", "/two"]));
    let ran = t
        .run(&bundle.sh("touch /one/x 2>/dev/null && echo written; chmod 777 /one /two 2>/dev/null && echo written; \
             grep ' /one \\| /two ' /proc/self/mountinfo"))?
        .ok()?;
    ran.clone().stdout_lacks("written")?;
    ensure_eq!(ran.lines().len(), 2, "mounts {}", ran.stdout);
    Ok(())
}

fn a_mount_label_without_selinux_is_ignored_with_a_warning(t: &T) -> Verdict {
    if std::path::Path::new("/sys/fs/selinux/enforce").exists() {
        return skip("SELinux is there");
    }
    let label = "system_u:object_r:container_file_t:s0:c1,c2";
    let bundle = t.bundle()?.set("/linux/mountLabel", json!(label));
    t.run(&bundle)?.ok()?.stderr_has("/linux/mountLabel")?;
    // The label of a process would confine it.
    t.run(&bundle.set("/process/selinuxLabel", json!(label)))?.fails()?;
    Ok(())
}

fn hostname_and_domainname_are_set(t: &T) -> Verdict {
    let bundle = t.bundle()?.set("/hostname", json!("some-host")).set("/domainname", json!("some.domain"));
    let ran = t.run(&bundle.sh("hostname; cat /proc/sys/kernel/domainname"))?.ok()?;
    ran.stdout_is("some-host\nsome.domain\n")?;
    Ok(())
}
