//! config.md, "Mounts".

use crate::kit::stop::{Context, fail, skip};
use crate::kit::{Bundle, T, Verdict};
use crate::{chapter, ensure, ensure_eq};
use serde_json::json;
use std::fs;
use std::path::PathBuf;

chapter! { "mounts":
    mounts_happen_in_order,
    missing_destinations_are_made,
    a_bind_of_a_file_makes_a_file,
    a_directory_on_a_file_is_told_in_the_words_that_dockerd_knows,
    a_relative_destination_is_taken_from_the_root,
    a_relative_source_is_taken_from_the_bundle,
    a_missing_source_names_the_destination,
    every_option_of_the_specification_is_accepted,
    flag_options_arrive,
    clearing_options_undo_earlier_ones,
    a_bind_keeps_the_flags_of_its_source_or_clears_them_when_asked,
    a_read_only_bind_is_read_only_at_the_top_only,
    recursive_attributes_reach_submounts,
    every_recursive_option_is_accepted,
    rbind_takes_submounts_along_and_bind_does_not,
    propagation_is_set_per_mount,
    tmpfs_data_is_applied,
    a_tmpfs_without_a_mode_has_that_of_its_directory,
    a_bad_option_names_the_mount,
    tmpcopyup_copies_the_content,
    tmpcopyup_leaves_the_mode_and_owner_that_were_asked_for,
    overlay_by_its_data_string,
    overlay_with_escaped_characters,
    an_idmapped_bind_shifts_owners,
    ridmap_shifts_submounts_too,
    an_idmapped_mount_that_is_no_bind_is_refused,
    a_cgroup_mount_shows_the_own_cgroup,
    a_read_only_cgroup_mount_is_read_only,
    mqueue_and_devpts_are_mounted,
    nested_binds_reach_through_earlier_mounts,
    a_symlink_in_the_destination_stays_inside,
    an_absolute_symlink_as_destination_stays_inside,
    a_link_that_leads_nowhere_says_where_the_mount_point_is_made,
    dotdot_in_the_destination_stays_inside,
    proc_must_be_a_directory,
    a_bind_over_a_proc_file_is_judged_by_the_allow_list,
    a_destination_may_begin_with_the_roots_path_on_the_host,
    flags_that_a_user_namespace_locks_stay_unless_an_option_clears_them,
    mounts_do_not_show_on_the_host,
}

/// The mount options of `point` in `/proc/self/mountinfo` text.
fn options(mountinfo: &str, point: &str) -> Vec<String> {
    let line = mountinfo.lines().rfind(|line| line.split(' ').nth(4) == Some(point)).unwrap_or_default();
    line.split(' ').nth(5).unwrap_or_default().split(',').map(str::to_owned).collect()
}

/// The optional fields (propagation) of `point`.
fn propagation(mountinfo: &str, point: &str) -> String {
    let line = mountinfo.lines().rfind(|line| line.split(' ').nth(4) == Some(point)).unwrap_or_default();
    line.split(" - ").next().unwrap_or_default().split(' ').skip(6).collect::<Vec<_>>().join(" ")
}

fn tmpfs(options: &[&str]) -> serde_json::Value {
    json!({"destination": "/mnt", "type": "tmpfs", "source": "tmpfs", "options": options})
}

/// The container's mountinfo with one more tmpfs at `/mnt`.
fn mountinfo_with(t: &T, options: &[&str]) -> Verdict<String> {
    Ok(t.run(&t.bundle()?.mount(tmpfs(options)).args(&["/bin/cat", "/proc/self/mountinfo"]))?
        .ok()
        .context(format!("{options:?}"))?
        .stdout)
}

/// A directory with a file `content`, below the case's directory.
fn source(t: &T, name: &str) -> Verdict<PathBuf> {
    let dir = t.path(name);
    fs::create_dir_all(dir.join("sub"))?;
    fs::write(dir.join("content"), name)?;
    Ok(dir)
}

/// Mounts a tmpfs on the host side, removed with the case.
fn host_tmpfs(t: &T, at: &std::path::Path, options: &str) -> Verdict {
    t.host("mount", &["-t", "tmpfs", "-o", options, "tmpfs", &at.display().to_string()])?;
    Ok(())
}

fn host_umount(t: &T, at: &std::path::Path) -> Verdict {
    t.host("umount", &["-l", &at.display().to_string()])?;
    Ok(())
}

fn mounts_happen_in_order(t: &T) -> Verdict {
    let bundle =
        t.bundle()?.bind(&source(t, "first")?, "/mnt", &["bind"]).bind(&source(t, "second")?, "/mnt", &["bind"]);
    t.run(&bundle.args(&["/bin/cat", "/mnt/content"]))?.ok()?.stdout_is("second")?;
    Ok(())
}

fn missing_destinations_are_made(t: &T) -> Verdict {
    let bundle = t.bundle()?.bind(&source(t, "data")?, "/a/b/c", &["bind"]).args(&["/bin/cat", "/a/b/c/content"]);
    t.run(&bundle)?.ok()?.stdout_is("data")?;
    Ok(())
}

fn a_directory_on_a_file_is_told_in_the_words_that_dockerd_knows(t: &T) -> Verdict {
    let (directory, file) = (t.path("directory"), t.path("file"));
    fs::create_dir(&directory)?;
    fs::write(&file, "")?;
    for (source, destination) in [(&directory, "/etc/passwd"), (&file, "/etc")] {
        t.run(&t.bundle()?.bind(source, destination, &["bind"]))?.code_is(1)?.stderr_has("not a directory")?;
    }
    Ok(())
}

fn a_bind_of_a_file_makes_a_file(t: &T) -> Verdict {
    let file = source(t, "data")?.join("content");
    t.run(&t.bundle()?.bind(&file, "/x/y/file", &["bind"]).args(&["/bin/cat", "/x/y/file"]))?
        .ok()?
        .stdout_is("data")?;
    Ok(())
}

fn a_relative_destination_is_taken_from_the_root(t: &T) -> Verdict {
    let bundle = t.bundle()?.bind(&source(t, "data")?, "mnt/here", &["bind"]).args(&["/bin/cat", "/mnt/here/content"]);
    t.run(&bundle)?.ok()?.stdout_is("data")?;
    Ok(())
}

fn a_relative_source_is_taken_from_the_bundle(t: &T) -> Verdict {
    let bundle = t.bundle()?;
    fs::create_dir(bundle.dir.join("near"))?;
    fs::write(bundle.dir.join("near/content"), "near")?;
    let bundle = bundle.bind(std::path::Path::new("near"), "/mnt", &["bind"]).args(&["/bin/cat", "/mnt/content"]);
    t.run(&bundle)?.ok()?.stdout_is("near")?;
    Ok(())
}

fn a_missing_source_names_the_destination(t: &T) -> Verdict {
    let bundle = t.bundle()?.bind(std::path::Path::new("/no/such/source"), "/mnt/target", &["bind"]);
    t.run(&bundle)?
        .code_is(1)?
        .stderr_has("/no/such/source")?
        .stderr_has("/mnt/target")?
        .stderr_has("no such file or directory")?;
    Ok(())
}

fn every_option_of_the_specification_is_accepted(t: &T) -> Verdict {
    let list = [
        "async",
        "atime",
        "defaults",
        "dev",
        "diratime",
        "dirsync",
        "exec",
        "iversion",
        "lazytime",
        "loud",
        "noatime",
        "nodev",
        "nodiratime",
        "noexec",
        "noiversion",
        "nolazytime",
        "norelatime",
        "nostrictatime",
        "nosuid",
        "nosymfollow",
        "relatime",
        "ro",
        "rw",
        "silent",
        "strictatime",
        "suid",
        "symfollow",
        "sync",
        "nomand",
        "mand",
    ];
    for option in list.into_iter().chain(["acl", "noacl"]) {
        mountinfo_with(t, &[option])?;
    }
    Ok(())
}

fn flag_options_arrive(t: &T) -> Verdict {
    for option in ["nosuid", "nodev", "noexec", "noatime", "nodiratime", "nosymfollow", "ro"] {
        let found = options(&mountinfo_with(t, &[option])?, "/mnt");
        ensure!(found.iter().any(|flag| flag == option), "{option} is not among {found:?}");
    }
    let found = options(&mountinfo_with(t, &["strictatime"])?, "/mnt");
    ensure!(!found.iter().any(|flag| flag == "relatime" || flag == "noatime"), "strictatime gave {found:?}");
    Ok(())
}

fn clearing_options_undo_earlier_ones(t: &T) -> Verdict {
    for (set, clear) in [
        ("nosuid", "suid"),
        ("nodev", "dev"),
        ("noexec", "exec"),
        ("ro", "rw"),
        ("nosymfollow", "symfollow"),
        ("noatime", "atime"),
    ] {
        let found = options(&mountinfo_with(t, &[set, clear])?, "/mnt");
        ensure!(!found.iter().any(|flag| flag == set), "{set},{clear} left {found:?}");
    }
    Ok(())
}

fn a_bind_keeps_the_flags_of_its_source_or_clears_them_when_asked(t: &T) -> Verdict {
    let dir = source(t, "flagged")?;
    host_tmpfs(t, &dir, "nosuid,nodev,noexec")?;
    let cat = ["/bin/cat", "/proc/self/mountinfo"];
    let run = |options: &[&str]| t.run(&t.bundle()?.bind(&dir, "/mnt", options).args(&cat));
    let all = ["nosuid", "nodev", "noexec"];
    let cases: [(&[&str], &[&str]); 7] = [
        (&["bind"], &all),
        (&["rbind", "rprivate"], &all),
        (&["bind", "ro"], &all),
        (&["bind", "exec", "suid", "dev"], &[]),
        (&["rbind", "rprivate", "rw"], &[]),
        (&["bind", "dev"], &[]),
        (&["bind", "nosuid"], &["nosuid"]),
    ];
    let ran: Vec<_> = cases.iter().map(|(options, _)| run(options)).collect();
    host_umount(t, &dir)?;
    for ((asked, want), ran) in cases.iter().zip(ran) {
        let found = options(&ran?.ok()?.stdout, "/mnt");
        let found: Vec<&str> = all.into_iter().filter(|flag| found.iter().any(|found| found == flag)).collect();
        ensure_eq!(found, *want, "the flags with {asked:?}");
    }
    Ok(())
}

fn flags_that_a_user_namespace_locks_stay_unless_an_option_clears_them(t: &T) -> Verdict {
    let dir = source(t, "locked")?;
    host_tmpfs(t, &dir, "nodev,nosymfollow,mode=755")?;
    let cat = ["/bin/cat", "/proc/self/mountinfo"];
    let run = |options: &[&str]| t.run(&super::sources::user_namespace(t)?.bind(&dir, "/mnt", options).args(&cat));
    let (writable, exec, cleared) = (run(&["bind", "rw"]), run(&["bind", "nosuid"]), run(&["bind", "dev"]));
    host_umount(t, &dir)?;
    for ran in [writable, exec] {
        let found = options(&ran?.ok()?.stdout, "/mnt");
        ensure!(found.iter().any(|flag| flag == "nodev"), "nodev is gone: {found:?}");
        ensure!(!found.iter().any(|flag| flag == "nosymfollow"), "nosymfollow is never locked: {found:?}");
    }
    // In words that callers of runc know.
    cleared?.fails()?.stderr_has("error mounting")?.stderr_has("operation not permitted")?;
    Ok(())
}

fn a_destination_may_begin_with_the_roots_path_on_the_host(t: &T) -> Verdict {
    let dir = source(t, "data")?;
    let bundle = t.bundle()?;
    let destination = bundle.rootfs().join("deep/mnt");
    let destination = destination.display().to_string();
    let ran = t.run(&bundle.bind(&dir, &destination, &["bind"]).args(&["/bin/cat", "/deep/mnt/content"]))?.ok()?;
    ran.stdout_is("data")?.stderr_has("begins with the path of the root")?;
    Ok(())
}

/// A source with a tmpfs mounted on its `sub`, given to `check`.
fn with_submount(t: &T, check: impl Fn(&std::path::Path) -> Verdict) -> Verdict {
    let dir = source(t, "tree")?;
    let sub = dir.join("sub");
    host_tmpfs(t, &sub, "mode=777")?;
    fs::write(sub.join("inner"), "inner")?;
    let done = check(&dir);
    host_umount(t, &sub)?;
    done
}

fn a_read_only_bind_is_read_only_at_the_top_only(t: &T) -> Verdict {
    with_submount(t, |dir| {
        let script = "touch /mnt/x 2>/dev/null && echo top; touch /mnt/sub/x 2>/dev/null && echo sub";
        t.run(&t.bundle()?.bind(dir, "/mnt", &["rbind", "ro"]).sh(script))?.stdout_is("sub\n")?;
        Ok(())
    })
}

fn recursive_attributes_reach_submounts(t: &T) -> Verdict {
    with_submount(t, |dir| {
        let cat = ["/bin/cat", "/proc/self/mountinfo"];
        for (option, flag) in [
            ("rro", "ro"),
            ("rnosuid", "nosuid"),
            ("rnodev", "nodev"),
            ("rnoexec", "noexec"),
            ("rnoatime", "noatime"),
            ("rnosymfollow", "nosymfollow"),
        ] {
            let ran = t.run(&t.bundle()?.bind(dir, "/mnt", &["rbind", option]).args(&cat))?.ok().context(option)?;
            for point in ["/mnt", "/mnt/sub"] {
                let found = options(&ran.stdout, point);
                ensure!(found.iter().any(|f| f == flag), "{option} at {point} gave {found:?}");
            }
        }
        Ok(())
    })
}

fn every_recursive_option_is_accepted(t: &T) -> Verdict {
    let list = [
        "rro",
        "rrw",
        "rnosuid",
        "rsuid",
        "rnodev",
        "rdev",
        "rnoexec",
        "rexec",
        "rnodiratime",
        "rdiratime",
        "rrelatime",
        "rnorelatime",
        "rnoatime",
        "ratime",
        "rstrictatime",
        "rnostrictatime",
        "rnosymfollow",
        "rsymfollow",
    ];
    let dir = source(t, "data")?;
    for option in list {
        t.run(&t.bundle()?.bind(&dir, "/mnt", &["rbind", option]))?.ok().context(option)?;
    }
    Ok(())
}

fn rbind_takes_submounts_along_and_bind_does_not(t: &T) -> Verdict {
    with_submount(t, |dir| {
        let ls = ["/bin/ls", "/mnt/sub"];
        t.run(&t.bundle()?.bind(dir, "/mnt", &["rbind"]).args(&ls))?.ok()?.stdout_is("inner\n")?;
        t.run(&t.bundle()?.bind(dir, "/mnt", &["bind"]).args(&ls))?.ok()?.stdout_is("")?;
        Ok(())
    })
}

fn propagation_is_set_per_mount(t: &T) -> Verdict {
    for (option, expected) in [
        ("shared", "shared:"),
        ("rshared", "shared:"),
        ("private", ""),
        ("rprivate", ""),
        ("unbindable", "unbindable"),
        ("runbindable", "unbindable"),
    ] {
        let found = propagation(&mountinfo_with(t, &[option])?, "/mnt");
        let right = if expected.is_empty() { found.is_empty() } else { found.starts_with(expected) };
        ensure!(right, "{option} gave {found:?}");
    }
    let dir = source(t, "data")?;
    host_tmpfs(t, &dir, "mode=755")?;
    let ran = t.run(&t.bundle()?.bind(&dir, "/mnt", &["rbind", "rslave"]).args(&["/bin/cat", "/proc/self/mountinfo"]));
    host_umount(t, &dir)?;
    let found = propagation(&ran?.ok()?.stdout, "/mnt");
    ensure!(found.contains("master:"), "rslave gave {found:?}");
    Ok(())
}

fn a_tmpfs_without_a_mode_has_that_of_its_directory(t: &T) -> Verdict {
    for options in [&[][..], &["silent"]] {
        let bundle = t.bundle()?.mount(tmpfs(options)).args(&["/bin/stat", "-c", "%a", "/mnt"]);
        fs::set_permissions(bundle.rootfs().join("mnt"), std::os::unix::fs::PermissionsExt::from_mode(0o710))?;
        t.run(&bundle)?.ok()?.stdout_is("710\n").context(format!("{options:?}"))?;
    }
    let new = json!({"destination": "/new", "type": "tmpfs", "source": "tmpfs"});
    t.run(&t.bundle()?.mount(new).args(&["/bin/stat", "-c", "%a", "/new"]))?.ok()?.stdout_is("1777\n")?;
    Ok(())
}

fn tmpfs_data_is_applied(t: &T) -> Verdict {
    let bundle = t.bundle()?.mount(tmpfs(&["nosuid", "size=64k", "mode=1750", "uid=7", "gid=8"]));
    let ran = t.run(&bundle.sh("stat -c '%a %u %g' /mnt; df -k /mnt | tail -1 | awk '{print $2}'"))?.ok()?;
    ran.stdout_is("1750 7 8\n64\n")?;
    Ok(())
}

fn a_bad_option_names_the_mount(t: &T) -> Verdict {
    t.run(&t.bundle()?.mount(tmpfs(&["no-such-option"])))?
        .code_is(1)?
        .stderr_has("/mnt")?
        .stderr_has("no-such-option")?;
    Ok(())
}

fn tmpcopyup_leaves_the_mode_and_owner_that_were_asked_for(t: &T) -> Verdict {
    let bundle = t.bundle()?;
    fs::create_dir(bundle.rootfs().join("seed"))?;
    fs::write(bundle.rootfs().join("seed/file"), "")?;
    let mount = json!({"destination": "/seed", "type": "tmpfs", "source": "tmpfs",
        "options": ["tmpcopyup", "mode=1775", "uid=7", "gid=8"]});
    t.run(&bundle.mount(mount).sh("stat -c '%a %u %g' /seed; ls /seed"))?.ok()?.stdout_is("1775 7 8\nfile\n").map(drop)
}

fn tmpcopyup_copies_the_content(t: &T) -> Verdict {
    let bundle = t.bundle()?;
    fs::create_dir_all(bundle.rootfs().join("mnt/deep"))?;
    fs::write(bundle.rootfs().join("mnt/deep/file"), "copied")?;
    std::os::unix::fs::chown(bundle.rootfs().join("mnt/deep/file"), Some(3), Some(4))?;
    std::os::unix::fs::symlink("deep/file", bundle.rootfs().join("mnt/link"))?;
    let script = "cat /mnt/link; stat -c ' %u %g' /mnt/deep/file; echo changed >/mnt/deep/file; grep -c ' /mnt .* tmpfs ' /proc/self/mountinfo";
    let bundle = bundle.mount(tmpfs(&["tmpcopyup"])).sh(script);
    t.run(&bundle)?.ok()?.stdout_is("copied 3 4\n1\n")?;
    ensure_eq!(
        fs::read_to_string(bundle.rootfs().join("mnt/deep/file"))?,
        "copied",
        "the file in the root file system"
    );
    Ok(())
}

/// An overlay mount of two directories, whose names contain `odd`.
fn overlay(t: &T, odd: &str) -> Verdict<Bundle> {
    // If overlay is a module, this loads it.
    let _ = t.host("modprobe", &["overlay"]);
    if !crate::kit::machine::text("/proc/filesystems").contains("overlay") {
        return skip("this kernel has no overlay file system");
    }
    let escaped = odd.replace(':', "\\:").replace(',', "\\,");
    for name in ["lower", "upper", "work"] {
        fs::create_dir_all(t.path(&format!("{odd}{name}")))?;
    }
    fs::write(t.path(&format!("{odd}lower")).join("file"), "below")?;
    let dir = |name: &str| format!("{}/{escaped}{name}", t.dir.display());
    let data = [
        format!("lowerdir={}", dir("lower")),
        format!("upperdir={}", dir("upper")),
        format!("workdir={}", dir("work")),
    ];
    Ok(t.bundle()?.mount(json!({"destination": "/mnt", "type": "overlay", "source": "overlay", "options": data})))
}

fn overlay_by_its_data_string(t: &T) -> Verdict {
    t.run(&overlay(t, "")?.sh("cat /mnt/file; echo above >/mnt/new"))?.ok()?.stdout_is("below")?;
    ensure_eq!(fs::read_to_string(t.path("upper/new"))?, "above\n", "the upper directory");
    Ok(())
}

fn overlay_with_escaped_characters(t: &T) -> Verdict {
    t.run(&overlay(t, "a:b")?.sh("cat /mnt/file"))?.ok()?.stdout_is("below")?;
    Ok(())
}

/// A bind with id mappings; the source's file belongs to 0:0.
fn idmapped(t: &T, dir: &std::path::Path, options: &[&str]) -> Verdict<Bundle> {
    if crate::kit::machine::kernel() < (6, 3) {
        return skip("the harness's tmpfs can be mapped from Linux 6.3 on");
    }
    let mapping = json!([{"containerID": 0, "hostID": 50000, "size": 1000}]);
    Ok(t.bundle()?.mount(json!({
        "destination": "/mnt", "type": "bind", "source": dir, "options": options,
        "uidMappings": mapping, "gidMappings": mapping
    })))
}

fn an_idmapped_bind_shifts_owners(t: &T) -> Verdict {
    let dir = source(t, "data")?;
    for options in [&["bind", "idmap"][..], &["bind"]] {
        let ran = t.run(&idmapped(t, &dir, options)?.args(&["/bin/stat", "-c", "%u %g", "/mnt/content"]))?;
        ran.ok()?.stdout_is("50000 50000\n")?;
    }
    Ok(())
}

fn ridmap_shifts_submounts_too(t: &T) -> Verdict {
    with_submount(t, |dir| {
        let stat = ["/bin/stat", "-c", "%u", "/mnt/content", "/mnt/sub/inner"];
        t.run(&idmapped(t, dir, &["rbind", "idmap"])?.args(&stat))?.ok()?.stdout_is("50000\n0\n")?;
        t.run(&idmapped(t, dir, &["rbind", "ridmap"])?.args(&stat))?.ok()?.stdout_is("50000\n50000\n")?;
        Ok(())
    })
}

fn an_idmapped_mount_that_is_no_bind_is_refused(t: &T) -> Verdict {
    let mut mount = tmpfs(&[]);
    mount["uidMappings"] = json!([{"containerID": 0, "hostID": 50000, "size": 1000}]);
    mount["gidMappings"] = mount["uidMappings"].clone();
    t.run(&t.bundle()?.mount(mount))?.code_is(1)?;
    Ok(())
}

fn cgroup_mount(options: &[&str]) -> serde_json::Value {
    json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": options})
}

fn a_cgroup_mount_shows_the_own_cgroup(t: &T) -> Verdict {
    let bundle = t.bundle()?.mount(cgroup_mount(&["nosuid", "noexec", "nodev", "relatime", "rw"]));
    let script = "grep 0:: /proc/self/cgroup; grep -q '^1$' /sys/fs/cgroup/cgroup.procs && echo me; mkdir /sys/fs/cgroup/below && rmdir /sys/fs/cgroup/below && echo writable";
    t.run(&bundle.sh(script))?.ok()?.stdout_is("0::/\nme\nwritable\n")?;
    Ok(())
}

fn a_read_only_cgroup_mount_is_read_only(t: &T) -> Verdict {
    for cgroupns in [true, false] {
        let mut bundle = t.bundle()?.mount(cgroup_mount(&["nosuid", "noexec", "nodev", "relatime", "ro"]));
        if !cgroupns {
            bundle = bundle.namespace("cgroup", None);
        }
        let script =
            "mkdir /sys/fs/cgroup/below 2>/dev/null && echo writable; [ -f /sys/fs/cgroup/cgroup.procs ] && echo there";
        t.run(&bundle.sh(script))?.stdout_is("there\n").context(format!("cgroup namespace: {cgroupns}"))?;
    }
    Ok(())
}

fn mqueue_and_devpts_are_mounted(t: &T) -> Verdict {
    let bundle = t.bundle()?.mount(json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]}));
    let ran = t.run(&bundle.sh(
        "grep -c ' - mqueue ' /proc/mounts /proc/self/mountinfo; stat -c %t,%T -L /dev/ptmx; readlink /dev/ptmx",
    ))?;
    ran.stdout_has("mountinfo:1")?.stdout_has("5,2\n")?.stdout_has("pts/ptmx")?;
    Ok(())
}

fn nested_binds_reach_through_earlier_mounts(t: &T) -> Verdict {
    let bundle = t.bundle()?.mount(tmpfs(&["mode=755"])).bind(&source(t, "inner")?, "/mnt/a/b", &["bind"]);
    t.run(&bundle.clone().args(&["/bin/cat", "/mnt/a/b/content"]))?.ok()?.stdout_is("inner")?;
    ensure!(!bundle.rootfs().join("mnt/a").exists(), "the destination was made below the tmpfs");
    Ok(())
}

fn a_symlink_in_the_destination_stays_inside(t: &T) -> Verdict {
    let bundle = t.bundle()?;
    std::os::unix::fs::symlink("../../../../../../tmp", bundle.rootfs().join("var/up"))?;
    let bundle = bundle.bind(&source(t, "data")?, "/var/up/made", &["bind"]).args(&["/bin/cat", "/tmp/made/content"]);
    t.run(&bundle)?.ok()?.stdout_is("data")?;
    ensure!(!std::path::Path::new("/tmp/made").exists(), "made on the host");
    Ok(())
}

fn a_link_that_leads_nowhere_says_where_the_mount_point_is_made(t: &T) -> Verdict {
    let bundle = t.bundle()?;
    let link = |target: &str, name: &str| std::os::unix::fs::symlink(target, bundle.rootfs().join(name));
    link("../run/made/file", "var/relative")?;
    link("/run/made2", "var/directory")?;
    link("../../../../../run/made3", "var/far")?;
    link("loop", "var/loop")?;
    let data = source(t, "data")?.join("content");
    let bundle = ["/var/relative", "/var/directory/file", "/var/far"]
        .iter()
        .fold(bundle.clone(), |bundle, target| bundle.bind(&data, target, &["bind"]));
    let script = "cmp /var/relative /run/made/file && cmp /var/directory/file /run/made2/file && cmp /var/far /run/made3 && readlink /var/far";
    t.run(&bundle.clone().sh(script))?.ok()?.stdout_is("../../../../../run/made3\n")?;
    t.run(&bundle.bind(&data, "/var/loop", &["bind"]))?.fails()?;
    Ok(())
}

fn an_absolute_symlink_as_destination_stays_inside(t: &T) -> Verdict {
    let bundle = t.bundle()?;
    std::os::unix::fs::symlink("/tmp/dest", bundle.rootfs().join("var/link"))?;
    fs::create_dir(bundle.rootfs().join("tmp/dest"))?;
    let bundle = bundle.bind(&source(t, "data")?, "/var/link", &["bind"]).args(&["/bin/cat", "/tmp/dest/content"]);
    t.run(&bundle)?.ok()?.stdout_is("data")?;
    Ok(())
}

fn dotdot_in_the_destination_stays_inside(t: &T) -> Verdict {
    let bundle = t.bundle()?.bind(&source(t, "data")?, "/../../../mnt/../tmp/dots", &["bind"]);
    let ran = t.run(&bundle.args(&["/bin/cat", "/tmp/dots/content"]))?;
    ensure!(!std::path::Path::new("/tmp/dots").exists(), "made on the host");
    ran.ok()?.stdout_is("data")?;
    Ok(())
}

fn proc_must_be_a_directory(t: &T) -> Verdict {
    let bundle = t.bundle()?;
    fs::remove_dir(bundle.rootfs().join("proc"))?;
    fs::create_dir(bundle.rootfs().join("elsewhere"))?;
    std::os::unix::fs::symlink("elsewhere", bundle.rootfs().join("proc"))?;
    t.run(&bundle)?.code_is(1)?;
    Ok(())
}

fn a_bind_over_a_proc_file_is_judged_by_the_allow_list(t: &T) -> Verdict {
    let file = source(t, "data")?.join("content");
    let cat =
        |path: &str| Ok::<_, crate::kit::Stop>(t.bundle()?.bind(&file, path, &["bind"]).args(&["/bin/cat", path]));
    t.run(&cat("/proc/uptime")?)?.ok()?.stdout_is("data")?;
    for path in ["/proc/self/attr/current", "/proc/sys/kernel/hostname", "/proc/1/status"] {
        let ran = t.run(&cat(path)?)?;
        if ran.code == 0 {
            return fail(format!("a bind over {path} was accepted"));
        }
    }
    Ok(())
}

fn mounts_do_not_show_on_the_host(t: &T) -> Verdict {
    let before = crate::kit::machine::mounts();
    let _container = t.running()?;
    ensure_eq!(crate::kit::machine::mounts(), before, "the host's mounts");
    Ok(())
}
