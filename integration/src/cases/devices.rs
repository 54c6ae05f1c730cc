//! config-linux.md, "Devices" and "Allowed Device list".

use crate::kit::stop::Context;
use crate::kit::{Bundle, Need, Ran, T, Verdict};
use crate::{chapter, ensure, ensure_eq};
use serde_json::{Value, json};

chapter! { "devices":
    nodes_are_made_with_mode_and_owner,
    nodes_that_the_host_lacks_are_made_for_a_user_namespace,
    nothing_is_made_in_the_hosts_dev,
    nodes_may_stand_anywhere,
    fifos_may_be_made,
    an_existing_file_of_another_type_is_refused,
    an_existing_node_of_the_same_kind_is_accepted,
    an_existing_node_of_another_device_is_refused,
    a_link_is_no_place_for_a_device_of_the_host [Need::Windlass],
    a_node_without_a_directory_makes_it,
    the_allow_list_denies_what_it_does_not_name,
    the_allow_list_permits_what_it_names,
    read_and_write_are_judged_apart,
    later_rules_win,
    default_devices_work_under_deny_all,
    no_rules_at_all_still_permit_the_default_devices,
    exec_is_judged_by_the_same_list,
    an_update_keeps_the_list,
    an_update_replaces_the_list [Need::Windlass],
    a_wildcard_minor_matches_all,
}

fn device(path: &str, kind: &str, major: i64, minor: i64) -> Value {
    json!({"path": path, "type": kind, "major": major, "minor": minor, "fileMode": 0o640, "uid": 12, "gid": 34})
}

fn nodes_that_the_host_lacks_are_made_for_a_user_namespace(t: &T) -> Verdict {
    if crate::kit::machine::kernel() < (6, 15) {
        return crate::kit::stop::skip("before Linux 6.15 nobody can copy a mount that is attached nowhere");
    }
    let bundle = super::namespaces::user_namespace(t)?.privileged().set(
        "/linux/devices",
        json!([device("/dev/not-of-the-host", "c", 1, 3), device("/elsewhere/zero", "c", 1, 5)]),
    );
    let script = "cd /dev; stat -c '%F %a %u:%g %t:%T' not-of-the-host /elsewhere/zero; \
                  echo x >not-of-the-host && head -c 2 /elsewhere/zero | od -An -tx1; \
                  grep -c ' /dev/not-of-the-host .*nosuid,noexec' /proc/self/mountinfo";
    let bundle = bundle.sh(script);
    let ran = t.run(&bundle)?.ok()?;
    let node = |minor: u32| format!("character special file 640 12:34 1:{minor}\n");
    ran.stdout_is(&format!("{}{} 00 00\n1\n", node(3), node(5)))?;
    let unmapped = json!([{"path": "/dev/not-of-the-host", "type": "c", "major": 1, "minor": 3, "uid": 4000000}]);
    t.run(&bundle.set("/linux/devices", unmapped))?.fails()?.stderr_has("/linux/devices/0")?;
    Ok(())
}

/// Runs the command where `/dev` is a copy of the host's, and then lists the nodes there.
fn with_a_dev_of_its_own(t: &T, bundle: &Bundle) -> Verdict<Ran> {
    bundle.write()?;
    let dev = t.path("dev");
    std::fs::create_dir_all(&dev)?;
    let script = "mount -t tmpfs dev \"$0\" && cd \"$0\" || exit 99; \
                  for node in null zero full random urandom tty ptmx; do cp -a /dev/$node . || exit 98; done; \
                  mkdir pts && mount --rbind /dev/pts pts && mount --move \"$0\" /dev || exit 97; \
                  \"$@\" || exit; cd /dev; ls -A | sort | tr '\\n' ' '; stat -c %F ptmx";
    let mut command = std::process::Command::new("unshare");
    command.args(["-m", "sh", "-c", script]).arg(dev);
    let own = t.command();
    command.arg(own.get_program()).args(own.get_args()).args(["run", &t.id(), "--bundle"]).arg(&bundle.dir);
    command.stdin(std::process::Stdio::null());
    t.finish(command)
}

fn nothing_is_made_in_the_hosts_dev(t: &T) -> Verdict {
    const UNTOUCHED: &str = "full null ptmx pts random tty urandom zero character special file\n";
    let bind =
        |at: &std::path::Path| json!({"destination": at, "type": "bind", "source": "/dev", "options": ["rbind"]});
    let devices = json!([device("/dev/not-of-the-host", "c", 1, 3)]);
    let bundle = || Ok::<_, crate::kit::stop::Stop>(t.bundle()?.set("/mounts", json!([])).sh("true"));

    let by_its_path_on_the_host = bundle()?;
    let at = by_its_path_on_the_host.rootfs().join("dev");
    let by_its_path_on_the_host =
        by_its_path_on_the_host.set("/mounts", json!([bind(&at)])).set("/linux/devices", devices);
    with_a_dev_of_its_own(t, &by_its_path_on_the_host)?.ok()?.stdout_is(UNTOUCHED)?;

    let by_a_link = bundle()?;
    let root = by_a_link.rootfs();
    std::fs::remove_dir_all(root.join("dev"))?;
    std::fs::create_dir(root.join("volume"))?;
    std::os::unix::fs::symlink("volume", root.join("dev"))?;
    let by_a_link = by_a_link.set("/mounts", json!([bind("/volume".as_ref())]));
    with_a_dev_of_its_own(t, &by_a_link)?.ok()?.stdout_is(UNTOUCHED)?;
    let more = by_a_link.set("/linux/devices", json!([device("/dev/not-of-the-host", "c", 1, 3)]));
    with_a_dev_of_its_own(t, &more)?.fails()?.stderr_has("in which nothing is made")?;
    Ok(())
}

/// A bundle whose payload may make nodes, with these device rules.
fn with_rules(t: &T, rules: Value) -> Verdict<Bundle> {
    let bundle = t
        .bundle()?
        .set("/process/capabilities", crate::kit::spec::capabilities(&["CAP_MKNOD", "CAP_DAC_OVERRIDE", "CAP_SYSLOG"]));
    Ok(bundle.set("/linux/resources/devices", rules))
}

fn deny_all() -> Value {
    json!({"allow": false, "access": "rwm"})
}

fn nodes_are_made_with_mode_and_owner(t: &T) -> Verdict {
    let bundle = t.bundle()?.set("/linux/devices", json!([device("/dev/mem-like", "c", 1, 5)]));
    t.run(&bundle.args(&["/bin/stat", "-c", "%F %t,%T %a %u %g", "/dev/mem-like"]))?
        .ok()?
        .stdout_is("character special file 1,5 640 12 34\n")?;
    Ok(())
}

fn nodes_may_stand_anywhere(t: &T) -> Verdict {
    let bundle =
        t.bundle()?.set("/linux/devices", json!([device("/var/lib/x/zero", "c", 1, 5), device("/node", "c", 1, 3)]));
    t.run(&bundle.args(&["/bin/stat", "-c", "%t,%T", "/var/lib/x/zero", "/node"]))?.ok()?.stdout_is("1,5\n1,3\n")?;
    Ok(())
}

fn fifos_may_be_made(t: &T) -> Verdict {
    let bundle = t.bundle()?.set("/linux/devices", json!([{"path": "/dev/fifo", "type": "p", "fileMode": 0o600}]));
    t.run(&bundle.args(&["/bin/stat", "-c", "%F", "/dev/fifo"]))?.ok()?.stdout_is("fifo\n")?;
    Ok(())
}

fn an_existing_file_of_another_type_is_refused(t: &T) -> Verdict {
    let bundle = t.bundle()?.set("/linux/devices", json!([device("/etc/passwd", "c", 1, 5)]));
    t.run(&bundle)?.code_is(1)?.stderr_has("/etc/passwd")?;
    Ok(())
}

fn an_existing_node_of_the_same_kind_is_accepted(t: &T) -> Verdict {
    let mut node = device("/dev/null", "c", 1, 3);
    node["fileMode"] = json!(0o666);
    t.run(&t.bundle()?.set("/linux/devices", json!([node])))?.ok()?;
    Ok(())
}

fn an_existing_node_of_another_device_is_refused(t: &T) -> Verdict {
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    let bundle = t.bundle()?.set("/linux/devices", json!([device("/opt-zero", "c", 1, 5)]));
    mknod(&bundle.rootfs().join("opt-zero"), SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(1, 7))?;
    t.run(&bundle)?.code_is(1)?.stderr_has("/opt-zero")?;
    Ok(())
}

/// In a user namespace, devices of the host are bound.
fn a_link_is_no_place_for_a_device_of_the_host(t: &T) -> Verdict {
    let bundle = super::namespaces::user_namespace(t)?.edit(|spec| {
        let mounts = spec["mounts"].as_array_mut().into_iter();
        mounts.for_each(|mounts| mounts.retain(|m| !m["destination"].as_str().unwrap_or_default().starts_with("/dev")));
    });
    let dev = bundle.rootfs().join("dev");
    std::fs::set_permissions(&dev, std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
    std::os::unix::fs::symlink("../etc/passwd", dev.join("null"))?;
    t.run(&bundle)?.code_is(1)?.stderr_has("/dev/null")?;
    Ok(())
}

fn a_node_without_a_directory_makes_it(t: &T) -> Verdict {
    let bundle = t.bundle()?.set("/linux/devices", json!([device("/dev/a/b/c", "c", 1, 5)]));
    t.run(&bundle.args(&["/bin/stat", "-c", "%t,%T", "/dev/a/b/c"]))?.ok()?.stdout_is("1,5\n")?;
    Ok(())
}

fn the_allow_list_denies_what_it_does_not_name(t: &T) -> Verdict {
    // 1:11 is kmsg, which every host has, and which is not among the default devices.
    let bundle = with_rules(t, json!([deny_all()]))?
        .sh("mknod /tmp/kmsg c 1 11; echo x >/tmp/kmsg; head -c1 /tmp/kmsg; echo end");
    let ran = t.run(&bundle)?;
    ensure_eq!(ran.stderr.matches("peration not permitted").count(), 2, "stderr {:?}", ran.stderr);
    ran.stdout_is("end\n")?;
    Ok(())
}

fn the_allow_list_permits_what_it_names(t: &T) -> Verdict {
    let bundle =
        with_rules(t, json!([deny_all(), {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "rwm"}]))?;
    let ran = t.run(&bundle.sh("mknod /tmp/kmsg c 1 11; dd if=/tmp/kmsg of=/dev/null count=0 && echo opened"))?;
    ran.stdout_is("opened\n")?;
    Ok(())
}

fn read_and_write_are_judged_apart(t: &T) -> Verdict {
    let bundle =
        with_rules(t, json!([deny_all(), {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "rm"}]))?;
    let ran = t.run(&bundle.sh("mknod /tmp/kmsg c 1 11; dd if=/tmp/kmsg of=/dev/null count=0 2>/dev/null && echo read; (echo x >/tmp/kmsg) 2>/dev/null && echo written; echo end"))?;
    ran.stdout_is("read\nend\n")?;
    Ok(())
}

fn later_rules_win(t: &T) -> Verdict {
    let bundle = with_rules(
        t,
        json!([{"allow": true, "access": "rwm"}, {"allow": false, "type": "c", "major": 1, "minor": 11, "access": "w"}]),
    )?;
    let ran = t.run(&bundle.sh("mknod /tmp/kmsg c 1 11; dd if=/tmp/kmsg of=/dev/null count=0 2>/dev/null && echo read; (echo x >/tmp/kmsg) 2>/dev/null && echo written; echo end"))?;
    ran.stdout_is("read\nend\n")?;
    Ok(())
}

fn default_devices_work_under_deny_all(t: &T) -> Verdict {
    let script = "for d in null zero full random urandom; do dd if=/dev/$d of=/dev/null bs=1 count=1 2>/dev/null && echo $d; done; : >/dev/null && echo write";
    t.run(&with_rules(t, json!([deny_all()]))?.sh(script))?
        .ok()?
        .stdout_is("null\nzero\nfull\nrandom\nurandom\nwrite\n")?;
    Ok(())
}

fn no_rules_at_all_still_permit_the_default_devices(t: &T) -> Verdict {
    t.run_sh("head -c1 /dev/zero >/dev/null && echo fine")?.ok()?.stdout_is("fine\n")?;
    Ok(())
}

/// A script that reports whether it can open kmsg for reading.
const TRY_KMSG: &str = "[ -e /tmp/kmsg ] || mknod /tmp/kmsg c 1 11; dd if=/tmp/kmsg of=/dev/null count=0 2>/dev/null && echo opened || echo denied";

fn exec_is_judged_by_the_same_list(t: &T) -> Verdict {
    let container = t.start(&with_rules(t, json!([deny_all()]))?.args(&["/bin/sleep", "1000"]))?;
    container.exec_sh(TRY_KMSG)?.stdout_is("denied\n")?;
    Ok(())
}

fn an_update_keeps_the_list(t: &T) -> Verdict {
    let container = t.start(&with_rules(t, json!([deny_all()]))?.args(&["/bin/sleep", "1000"]))?;
    for resources in ["{}", "{\"unified\":{}}"] {
        let words = ["update", "--resources", "-", &container.id];
        t.runtime_with_stdin(&words, resources.as_bytes())?.ok().context(resources)?;
        container.exec_sh(TRY_KMSG)?.stdout_is("denied\n").context(resources)?;
    }
    Ok(())
}

/// A list that permits everything needs no filter, and the one of before must go.
fn an_update_replaces_the_list(t: &T) -> Verdict {
    let container = t.start(&with_rules(t, json!([deny_all()]))?.args(&["/bin/sleep", "1000"]))?;
    let all = json!({"allow": true, "access": "rwm"});
    let kmsg = json!({"allow": false, "type": "c", "major": 1, "minor": 11, "access": "rwm"});
    for (rules, seen) in [(json!([all]), "opened\n"), (json!([all, kmsg]), "denied\n"), (json!([all]), "opened\n")] {
        let resources = json!({"devices": rules}).to_string();
        t.runtime_with_stdin(&["update", "--resources", "-", &container.id], resources.as_bytes())?.ok()?;
        container.exec_sh(TRY_KMSG)?.stdout_is(seen).context(&resources)?;
    }
    Ok(())
}

fn a_wildcard_minor_matches_all(t: &T) -> Verdict {
    let bundle = with_rules(t, json!([deny_all(), {"allow": true, "type": "c", "major": 1, "access": "rwm"}]))?;
    let ran = t.run(&bundle.sh(TRY_KMSG))?.ok()?;
    ensure!(ran.stdout == "opened\n", "{ran}");
    Ok(())
}
