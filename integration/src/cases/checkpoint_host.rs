//! `restore` from images that would have CRIU change something of the host, as root. Each restore is refused, and what
//! it aims at is as before.

use super::checkpoint_hostile::{dump, dumped, refused, with_options};
use crate::chapter;
use crate::kit::Need::{Criu, Slow, Windlass};
use crate::kit::criu::Images;
use crate::kit::images::{self, File, Set};
use crate::kit::machine::text;
use crate::kit::stop::{Context, Stop};
use crate::kit::wait::eventually;
use crate::kit::{T, Verdict};
use crate::{ensure, ensure_eq};
use serde_json::json;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

chapter! { "checkpoint_host":
    a_mount_of_the_images_is_a_new_one [Windlass, Criu, Slow],
    nothing_of_the_host_changes_by_processes_of_the_images [Windlass, Criu, Slow],
    a_socket_is_not_made_or_removed_on_the_host [Windlass, Criu, Slow],
    memory_of_other_processes_is_not_held [Windlass, Criu, Slow],
    parameters_of_joined_namespaces_stay [Windlass, Criu, Slow],
}

/// Fields of a mount, with what they are set to.
type Fields<'a> = Vec<(u64, Set<'a>)>;

/// CRIU passes the flags, the source and the options of a mount to mount(2). A bind mount would show it a directory of
/// the host, where it would unpack what the images have for a tmpfs.
fn a_mount_of_the_images_is_a_new_one(t: &T) -> Verdict {
    let bundle = with_options(dumped(t)?, "/proc", json!(["nosuid", "noexec", "nodev", "hidepid=2"]));
    let whole = dump(t, &bundle)?;
    let victim = t.path("victim");
    fs::create_dir_all(&victim).context("victim")?;
    let packed = t.path("packed");
    fs::create_dir_all(&packed).context("packed")?;
    fs::write(packed.join("planted"), "").context("planted")?;
    let archive = whole.dir.join("tmpfs-dev-7777.tar.gz.img").display().to_string();
    t.host("tar", &["-czf", &archive, "-C", &packed.display().to_string(), "."])?;
    let (path, flags) = (victim.display().to_string(), images::FILESYSTEM_FLAGS);
    let bound = [(images::DEVICE, Set::Number(7777)), (images::SOURCE, Set::Text(&path))];
    let with = |set: &[(u64, Set<'static>)]| set.to_vec();
    let cases: &[(&str, &str, Fields<'_>)] = &[
        ("do not make a mount", "/dev/shm", [&bound[..], &[(flags, Set::Number(libc::MS_BIND))]].concat()),
        ("do not make a mount", "/dev/shm", with(&[(flags, Set::Number(libc::MS_REMOUNT | libc::MS_RDONLY))])),
        ("do not make a mount", "/dev/shm", with(&[(flags, Set::Number(libc::MS_MOVE))])),
        ("do not make a mount", "/dev/shm", with(&[(flags, Set::Number(libc::MS_SHARED | libc::MS_REC))])),
        ("a source that was removed", "/data", with(&[(images::DELETED, Set::Number(1))])),
        ("has the options", "/proc", with(&[(images::OPTIONS, Set::Text("hidepid=2,pidns=/proc/1/ns/pid"))])),
    ];
    for (number, (words, point, fields)) in cases.iter().enumerate() {
        let images = whole.copy(&format!("new{number}"))?;
        images::set_mount(&images.dir, point, fields).context(words)?;
        let refusal = refused(&images, &bundle, words).context(format!("case {number}"));
        ensure!(!victim.join("planted").exists(), "the images have written to a directory of the host");
        refusal?;
    }
    whole.restore(&bundle, &[]).context("with an option of procfs")?;
    Ok(())
}

/// CRIU raises a limit of the host for high ids, and makes namespaces for every process of the images.
fn nothing_of_the_host_changes_by_processes_of_the_images(t: &T) -> Verdict {
    let bundle = dumped(t)?;
    let whole = dump(t, &bundle)?;
    let highest = text("/proc/sys/kernel/pid_max");
    let above = highest.trim().parse::<u64>().context("pid_max")? + 1;
    let with = |name: &str, change: &dyn Fn(&Path) -> std::io::Result<()>, words: &str| {
        let images = whole.copy(name)?;
        change(&images.dir).context(name)?;
        refused(&images, &bundle, words).context(name)
    };
    let high = with("high", &|dir| images::regroup(dir, above), "kernel.pid_max");
    ensure_eq!(text("/proc/sys/kernel/pid_max"), highest, "kernel.pid_max of the host");
    high?;
    with("ended", &|dir| images::add_process(dir, 77, true, 99), "is of a process that has ended")?;
    with("network", &|dir| images::add_process(dir, 77, false, 99), "in another network namespace than init")?;
    with("binfmt", &|dir| fs::write(dir.join("binfmt-misc.img"), ""), "is for the kernel of the host")?;
    let joined = bundle.clone().namespace("network", Some(json!({"type": "network", "path": "/proc/1/ns/net"})));
    let netfilter = whole.copy("netfilter")?;
    fs::write(netfilter.dir.join("netns-ct-9.img"), "x").context("netfilter")?;
    refused(&netfilter, &joined, "is for a network namespace that the container joins")
}

/// CRIU removes what is at the path of a socket, and makes it anew. A link of procfs leads to its descriptors.
fn a_socket_is_not_made_or_removed_on_the_host(t: &T) -> Verdict {
    let bundle = dumped(t)?;
    let whole = dump(t, &bundle)?;
    let victim = t.path("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&victim).context("a socket of the host")?;
    for (name, target) in [("away", "/proc/self/fd"), ("up", "run/../proc/./self/fd"), ("again", "away")] {
        symlink(target, bundle.rootfs().join(name)).context(name)?;
    }
    fs::create_dir_all(bundle.rootfs().join("run/inner")).context("run")?;
    symlink("/run", bundle.rootfs().join("inside")).context("inside")?;
    for (number, name) in ["away", "up", "again"].into_iter().enumerate() {
        let images = whole.copy(&format!("sockets{number}"))?;
        for at in 0..40 {
            let path = format!("/{name}/{at}{}", victim.display());
            hold_socket(&images, &path, "", 50 + at)?;
        }
        let refusal = refused(&images, &bundle, "names the file");
        ensure!(victim.exists(), "the socket of the host was removed by way of {name}");
        refusal.context(name)?;
    }
    let images = whole.copy("inside")?;
    hold_socket(&images, "/inside/inner/../socket", "", 50)?;
    hold_socket(&images, "socket", "/inside/inner", 51)?;
    images.restore(&bundle, &[]).context("sockets of the container")?;
    Ok(())
}

/// Has init hold a unix socket.
fn hold_socket(images: &Images, name: &str, dir: &str, at: u64) -> Verdict {
    let file = images::add_file(&images.dir, &File::Socket(name, dir), 0).context("a socket")?;
    images::hold_socket(&images.dir, file, at).context("a socket")
}

/// The kernel asks whether the memory of a process may be read only when the file is opened.
fn memory_of_other_processes_is_not_held(t: &T) -> Verdict {
    let bundle = dumped(t)?.namespace("pid", None);
    let whole = dump(t, &bundle)?;
    for (number, (path, words)) in [
        (format!("/proc/{}/mem", std::process::id()), Some("which is not the container's")),
        ("/proc/stat".into(), None),
    ]
    .into_iter()
    .enumerate()
    {
        let images = whole.copy(&format!("memory{number}"))?;
        let root = images::mount_on(&images.dir, "/proc")?;
        let file = images::add_file(&images.dir, &File::Regular(&path, 0), root).context("a file")?;
        images::hold(&images.dir, file, 9).context("a file")?;
        match words {
            Some(words) => refused(&images, &bundle, words)?,
            None => drop(images.restore(&bundle, &[])?),
        }
    }
    Ok(())
}

/// CRIU writes the parameters of the images to the namespaces that the container joins, also to those of the host.
fn parameters_of_joined_namespaces_stay(t: &T) -> Verdict {
    let holder = |name: &str| {
        let script = format!("hostname {name}; exec sleep 1000");
        std::process::Command::new("unshare").args(["-u", "sh", "-c", &script]).spawn().context("unshare")
    };
    let mut holders = [holder("first")?, holder("second")?];
    let path = |at: usize| format!("/proc/{}/ns/uts", holders[at].id());
    let name = |at: usize| t.host("nsenter", &[&format!("--uts={}", path(at)), "hostname"]);
    let is = |at: usize, wanted: &str| name(at).is_ok_and(|name| name == wanted);
    eventually("the names are set", || (is(0, "first\n") && is(1, "second\n")).then_some(()))?;
    let joined = |at: usize| {
        let bundle = dumped(t)?.unset("/hostname");
        Ok::<_, Stop>(bundle.namespace("uts", Some(json!({"type": "uts", "path": path(at)}))))
    };
    let images = dump(t, &joined(0)?)?;
    for flags in [&[][..], &["--hold"]] {
        let (ran, container) = images.try_restore(&joined(1)?, flags)?;
        ran.ok()?;
        if !flags.is_empty() {
            container.verb("start", &[], &[])?.ok()?;
        }
        ensure_eq!(name(1)?, "second\n", "the name in the joined namespace");
        container.verb("delete", &["--force"], &[])?.ok()?;
    }
    for holder in &mut holders {
        holder.kill().and_then(|()| holder.wait()).context("unshare")?;
    }
    Ok(())
}
