//! Containers without a mount namespace of their own.

use crate::kit::console::FdSocket;
use crate::kit::machine;
use crate::kit::stop::Context;
use crate::kit::wait::eventually;
use crate::kit::{Bundle, Need, T, Verdict};
use crate::{chapter, ensure, ensure_eq};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use serde_json::json;
use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Child, Command};

chapter! { "callers_mounts":
    what_a_container_mounts_is_there_for_it_alone [Need::Windlass],
    a_container_without_any_namespace_has_its_mounts [Need::Windlass],
    paths_are_masked_and_the_root_is_read_only [Need::Windlass],
    nobody_inside_can_unmount_what_hides_a_path [Need::Windlass],
    exec_sees_what_the_container_sees [Need::Windlass],
    a_console_is_no_mount_of_the_callers [Need::Windlass],
    delete_unmounts_nothing_where_the_root_was [Need::Windlass],
    without_mounts_the_container_is_in_the_callers_tree [Need::Windlass],
    in_a_user_namespace_mounts_are_refused [Need::Windlass],
    propagation_is_refused_for_the_root_and_has_no_effect_elsewhere [Need::Windlass],
}

/// A container in the caller's mount namespace, with the mounts of every container and a volume on `/data`.
fn bundle(t: &T) -> Verdict<Bundle> {
    let data = t.path("data");
    fs::create_dir_all(&data)?;
    fs::write(data.join("content"), "volume")?;
    let bundle = t.bundle()?.namespace("mount", None).bind(&data, "/data", &["rbind"]);
    Ok(bundle.mount(json!({"destination": "/data/new", "type": "tmpfs", "source": "tmpfs"})))
}

/// A process in a copy of this mount namespace, whose mounts are peers of ours.
struct Peer(Child);

impl Peer {
    /// Makes all mounts of this process shared, in a mount namespace of its own.
    fn start() -> Verdict<Peer> {
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SHARED, None::<&str>)?;
        let words = ["--mount", "--propagation", "unchanged", "/bin/sleep", "1000"];
        let peer = Peer(Command::new("unshare").args(words).spawn().context("unshare")?);
        let own = fs::read_link("/proc/self/ns/mnt")?;
        let theirs = || fs::read_link(format!("/proc/{}/ns/mnt", peer.0.id())).ok();
        eventually("a mount namespace", || theirs().filter(|theirs| *theirs != own))?;
        Ok(peer)
    }

    /// All mounts of both.
    fn mounts(&self) -> String {
        machine::mounts() + &machine::mounts_of(self.0.id())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn what_a_container_mounts_is_there_for_it_alone(t: &T) -> Verdict {
    let peer = Peer::start()?;
    let before = peer.mounts();
    let own = fs::read_link("/proc/self/ns/mnt")?.display().to_string();
    let script = "cat /data/content; echo x > /data/new/file && ls /data/new; stat -f -c %T /data/new; ls -d /proc/1; \
                  readlink /proc/self/ns/mnt; exec sleep 1000";
    let container = t.create(&bundle(t)?.sh(script))?;
    ensure_eq!(peer.mounts(), before, "mounts after create");
    container.start()?;
    container.wait_for_output(&own)?;
    ensure_eq!(container.output(), format!("volumefile\ntmpfs\n/proc/1\n{own}\n"), "what the container saw");
    ensure_eq!(
        fs::read_link(format!("/proc/{}/ns/mnt", container.pid()?))?.display().to_string(),
        own,
        "the namespace"
    );
    ensure_eq!(peer.mounts(), before, "mounts while it runs");
    ensure!(!t.path("data/new/file").exists(), "the file is on the host");
    container.stop()?;
    container.delete()?;
    ensure_eq!(peer.mounts(), before, "mounts after delete");
    Ok(())
}

fn a_container_without_any_namespace_has_its_mounts(t: &T) -> Verdict {
    let bundle = bundle(t)?.set("/linux/namespaces", json!([])).unset("/hostname");
    let bundle = bundle
        .mount(json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue"}))
        .mount(json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]}))
        .set("/hooks/createRuntime", json!([{"path": "/bin/true"}]))
        .sh("stat -f -c %T /proc /sys /dev/pts; test -d /dev/mqueue; test -e /sys/fs/cgroup/cgroup.procs; sleep 1000");
    let container = t.start(&bundle)?;
    container.wait_for_output("proc\nsysfs\ndevpts\n")?;
    for name in ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"] {
        let of = |who: &str| fs::read_link(format!("/proc/{who}/ns/{name}"));
        ensure_eq!(of(&container.pid()?.to_string())?, of("self")?, "the namespace {name}");
    }
    container.stop()?;
    container.delete()?;
    Ok(())
}

fn paths_are_masked_and_the_root_is_read_only(t: &T) -> Verdict {
    let script = "touch /tmp/x || echo read-only; cat /proc/keys | wc -c; touch /data/x || echo no volume; \
                  echo x > /proc/sys/kernel/domainname || echo no sysctl";
    let bundle = bundle(t)?.set("/root/readonly", json!(true)).sh(script);
    for options in [&[][..], &["--no-pivot"]] {
        t.run_with(&bundle, options)?.ok()?.stdout_is("read-only\n0\nno sysctl\n")?;
    }
    ensure!(t.path("data/x").exists(), "the volume cannot be written to");
    fs::write(bundle.rootfs().join("tmp/y"), "").context("the host's own root filesystem")?;
    Ok(())
}

fn nobody_inside_can_unmount_what_hides_a_path(t: &T) -> Verdict {
    let masked = json!(["/proc/keys"]);
    let bundle = bundle(t)?.privileged().set("/linux/maskedPaths", masked);
    let bundle =
        bundle.sh("umount /proc/keys || umount -l /proc/keys; mount -o remount,rw /data; cat /proc/keys | wc -c");
    t.run(&bundle)?.ok()?.stdout_is("0\n")?;
    Ok(())
}

fn exec_sees_what_the_container_sees(t: &T) -> Verdict {
    let container = t.start(&bundle(t)?.args(&["/bin/sleep", "1000"]))?;
    container.exec_sh("cat /data/content; touch /data/new/y; ls /data/new")?.stdout_is("volumey\n")?;
    container.exec_sh("ls /; cd /..; ls -d bin")?.stdout_has("\nbin\n")?;
    Ok(())
}

fn a_console_is_no_mount_of_the_callers(t: &T) -> Verdict {
    let peer = Peer::start()?;
    let before = peer.mounts();
    let socket = FdSocket::new(t.path("console"))?;
    let bundle = bundle(t)?.set("/process/terminal", json!(true)).sh("tty; echo seen > /dev/console; exec sleep 1000");
    let container = t.create_with(&bundle, &["--console-socket", socket.arg()])?;
    let mut terminal = socket.terminal()?;
    container.start()?;
    terminal.read_until("seen")?;
    ensure_eq!(peer.mounts(), before, "mounts while it runs");
    Ok(())
}

fn delete_unmounts_nothing_where_the_root_was(t: &T) -> Verdict {
    let bundle = bundle(t)?.args(&["/bin/sleep", "1000"]);
    let container = t.start(&bundle)?;
    // The caller mounts a filesystem over the root, and later replaces the root by a link to a mount.
    let (place, volume) = (bundle.rootfs(), t.path("mounted"));
    fs::create_dir(&volume)?;
    for point in [&volume, &place] {
        mount(Some("tmpfs"), point, Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
    }
    let mounts = machine::mounts;
    let before = mounts();
    container.stop()?;
    container.delete()?;
    ensure_eq!(mounts(), before, "mounts after delete");
    umount2(&place, MntFlags::MNT_DETACH)?;
    let container = t.start(&bundle)?;
    fs::rename(&place, bundle.dir.join("moved"))?;
    symlink(&volume, &place)?;
    let before = mounts();
    container.verb("delete", &["--force"], &[])?.ok()?;
    ensure_eq!(mounts(), before, "mounts after delete --force");
    umount2(&volume, MntFlags::MNT_DETACH)?;
    Ok(())
}

fn without_mounts_the_container_is_in_the_callers_tree(t: &T) -> Verdict {
    let bundle = t.bundle()?.namespace("mount", None).privileged().set("/mounts", json!([]));
    let bundle = bundle.sh("mount -t tmpfs tmpfs /mnt && echo mounted");
    t.run(&bundle)?.ok()?.stdout_is("mounted\n")?;
    umount2(&bundle.rootfs().join("mnt"), MntFlags::MNT_DETACH).context("what the program mounted for the caller")?;
    Ok(())
}

fn in_a_user_namespace_mounts_are_refused(t: &T) -> Verdict {
    let bundle = super::sources::user_namespace(t)?.namespace("mount", None).set("/root/readonly", json!(true));
    let message = |what: &str| format!("unable to {what} without a private MNT namespace");
    let ran = t.run(&bundle)?.fails()?;
    for what in ["mount filesystems", "restrict sys entries", "make the root read-only"] {
        ensure!(ran.stderr.contains(&message(what)), "{what} is not refused: {ran}");
    }
    Ok(())
}

fn propagation_is_refused_for_the_root_and_has_no_effect_elsewhere(t: &T) -> Verdict {
    for word in ["shared", "rslave", "unbindable"] {
        let bundle = bundle(t)?.set("/linux/rootfsPropagation", json!(word));
        t.run(&bundle)?.fails()?.stderr_has("unable to set the root's propagation without a private MNT namespace")?;
    }
    let bundle = bundle(t)?.set("/linux/rootfsPropagation", json!("rprivate"));
    let bundle = bundle.bind(&t.path("data"), "/mnt", &["rbind", "rslave"]).args(&["/bin/cat", "/mnt/content"]);
    let ran = t.run(&bundle)?.ok()?.stdout_is("volume")?;
    ran.stderr_has("option \"rslave\" has no effect without a private MNT namespace")?;
    Ok(())
}
