//! The flags of `checkpoint` and `restore`, one by one: those of runc (its man pages of version 1.4) and of crun 1.29.

use crate::chapter;
use crate::kit::Need::{Criu, Slow, Windlass};
use crate::kit::criu::{COUNTING, Images, counts_on, start};
use crate::kit::machine::{has_version_1, text};
use crate::kit::stop::{Context, skip};
use crate::kit::wait::eventually;
use crate::kit::{Bundle, T, Verdict, cgroup};
use crate::{ensure, ensure_eq};
use serde_json::json;
use std::fs;

chapter! { "checkpoint_flags":
    every_flag_of_the_peers_is_taken [Windlass],
    what_no_flag_may_say_is_refused_in_the_words_of_runc [Windlass],
    each_mode_of_cgroups_dumps_and_restores [Windlass, Criu, Slow],
    flags_that_change_nothing_here_do_no_harm [Windlass, Criu, Slow],
    a_shell_job_may_join_namespaces [Windlass, Criu, Slow],
    a_name_of_an_unlinked_file_needs_its_flag [Windlass, Criu, Slow],
    links_are_not_followed_afterwards_where_they_were_not [Windlass, Criu, Slow],
}

const FLAGS: &[(&str, &[&str])] = &[
    (
        "checkpoint",
        &[
            "--image-path /nowhere",
            "--work-path /nowhere",
            "--parent-path ../before",
            "--leave-running",
            "--tcp-established",
            "--tcp-skip-in-flight",
            "--link-remap",
            "--ext-unix-sk",
            "--shell-job",
            "--lazy-pages --page-server 127.0.0.1:99",
            "--status-fd -1",
            "--page-server 127.0.0.1:99",
            "--file-locks",
            "--pre-dump",
            "--manage-cgroups-mode soft",
            "--manage-cgroups-mode full",
            "--manage-cgroups-mode strict",
            "--manage-cgroups-mode ignore",
            "--empty-ns network",
            "--auto-dedup",
            "--network-lock iptables",
            "--network-lock nftables",
            "--network-lock skip",
        ],
    ),
    (
        "restore",
        &[
            "--console-socket /nowhere",
            "--image-path /nowhere",
            "--work-path /nowhere",
            "--tcp-established",
            "--tcp-close",
            "--ext-unix-sk",
            "--shell-job",
            "--file-locks",
            "--manage-cgroups-mode soft",
            "--manage-cgroups-mode full",
            "--manage-cgroups-mode strict",
            "--manage-cgroups-mode ignore",
            "--bundle /nowhere",
            "-b /nowhere",
            "--detach",
            "-d",
            "--pid-file /nowhere",
            "--no-subreaper",
            "-no-subreaper",
            "--no-pivot",
            "--no-new-keyring",
            "--empty-ns network",
            "--auto-dedup",
            "--lazy-pages",
            "--lsm-profile selinux:system_u:system_r:container_t:s0:c82,c137",
            "--lsm-profile apparmor:docker-default",
            "--lsm-mount-context system_u:object_r:container_file_t:s0",
            "--parent-path ../before",
            "--network-lock skip",
        ],
    ),
];

fn every_flag_of_the_peers_is_taken(t: &T) -> Verdict {
    for (verb, flags) in FLAGS {
        for flag in *flags {
            let words: Vec<&str> = [*verb].into_iter().chain(flag.split(' ')).chain(["nowhere"]).collect();
            // The error after the flags were read.
            let next = if *verb == "checkpoint" { "container does not exist" } else { "restore failed" };
            t.runtime(&words)?.code_is(1)?.stderr_has(next).context(flag)?;
        }
    }
    Ok(())
}

fn what_no_flag_may_say_is_refused_in_the_words_of_runc(t: &T) -> Verdict {
    for (words, says) in [
        ("checkpoint --manage-cgroups-mode cgroup x", "invalid manage-cgroups-mode value"),
        ("restore --manage-cgroups-mode cgroup x", "invalid manage-cgroups-mode value"),
        ("checkpoint --page-server x x", "Use --page-server ADDRESS:PORT to specify page server"),
        ("checkpoint --page-server 127.0.0.1:x x", "Invalid port number"),
        ("checkpoint --empty-ns pid x", "namespace \"pid\" is not supported"),
        ("restore --empty-ns pid x", "namespace \"pid\" is not supported"),
        ("restore --lsm-mount-context", "flag needs an argument"),
        ("checkpoint --lazy-pages x", "--page-server"),
        ("restore --lsm-profile docker-default x", "--lsm-profile"),
        ("checkpoint --network-lock other x", "--network-lock"),
    ] {
        let ran = t.runtime(&words.split(' ').collect::<Vec<_>>())?.fails()?;
        let said = format!("{}{}", ran.stdout, ran.stderr);
        ensure!(said.contains(says), "{words}: {said}");
    }
    Ok(())
}

fn each_mode_of_cgroups_dumps_and_restores(t: &T) -> Verdict {
    let options = json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["rw"]});
    let script = format!("mkdir /sys/fs/cgroup/inner; echo 0 >/sys/fs/cgroup/inner/cgroup.procs; {COUNTING}");
    for (mode, place) in [("ignore", ""), ("soft", "/inner"), ("full", "/inner"), ("strict", "/inner")] {
        let limit = |bundle: Bundle, tasks: u32| match has_version_1() {
            true => bundle,
            false => bundle.set("/linux/resources/pids", json!({"limit": tasks})),
        };
        let bundle = limit(t.bundle()?.sh(&script).mount(options.clone()), 100);
        let flags = ["--manage-cgroups-mode", mode];
        let container = start(t, &bundle)?;
        let at = counts_on(&bundle, 1)?;
        let images = Images::new(t);
        images.dump(&container, &flags).context(mode)?;
        let bundle = limit(bundle, 200);
        let (ran, container) = images.try_restore(&bundle, &flags)?;
        if mode != "ignore" && has_version_1() {
            ran.code_is(1)?.stderr_has("this host has cgroups of version 1")?.stderr_has("--manage-cgroups-mode")?;
            return skip("this host has cgroups of version 1, which is refused");
        }
        ran.ok().context(mode)?;
        counts_on(&bundle, at)?;
        let own = text(format!("/proc/{}/cgroup", container.pid()?));
        let expected = format!("0::/{}{place}", container.id);
        ensure_eq!(own.lines().last().unwrap_or_default(), expected.as_str(), "the cgroup in mode {mode}");
        // The limits of the images are not written to the container's cgroup.
        if !has_version_1() {
            let own = cgroup::of(&container)?;
            let own = if place.is_empty() { own.join(".") } else { own.join("..") };
            ensure_eq!(text(own.join("pids.max")).trim(), "200", "the limit of config.json in mode {mode}");
        }
        container.verb("delete", &["--force"], &[])?.ok()?;
    }
    Ok(())
}

fn flags_that_change_nothing_here_do_no_harm(t: &T) -> Verdict {
    let both = ["--empty-ns", "network", "--auto-dedup", "--file-locks", "--ext-unix-sk", "--shell-job"];
    let bundle = t.bundle()?.sh(COUNTING);
    let container = start(t, &bundle)?;
    let at = counts_on(&bundle, 1)?;
    let images = Images::new(t);
    let more = ["--tcp-skip-in-flight", "--link-remap", "--leave-running"];
    images.dump(&container, &[&both[..], &more].concat())?;
    container.verb("delete", &["--force"], &[])?.ok()?;
    let more = ["--no-pivot", "-no-subreaper", "--no-new-keyring", "--tcp-close"];
    let _container = images.restore(&bundle, &[&both[..], &more].concat())?;
    counts_on(&bundle, at)?;
    Ok(())
}

fn a_shell_job_may_join_namespaces(t: &T) -> Verdict {
    let owner = start(t, &t.bundle()?.sh(COUNTING))?;
    let of = |kind: &str| -> Verdict<serde_json::Value> {
        let name = if kind == "network" { "net" } else { kind };
        Ok(json!({"type": kind, "path": format!("/proc/{}/ns/{name}", owner.pid()?)}))
    };
    let joined = |kinds: &[&str]| -> Verdict<Bundle> {
        let bundle = t.bundle()?.sh(COUNTING);
        kinds.iter().try_fold(bundle, |bundle, kind| Ok(bundle.namespace(kind, Some(of(kind)?))))
    };
    for kinds in [&["network"][..], &["pid"], &["network", "pid"]] {
        let bundle = joined(kinds)?;
        let container = start(t, &bundle)?;
        let at = counts_on(&bundle, 1)?;
        let images = Images::new(t);
        images.dump(&container, &["--shell-job"])?;
        let restored = images.restore(&bundle, &["--shell-job"]).context(kinds.join(" and "))?;
        counts_on(&bundle, at)?;
        for kind in kinds.iter().map(|kind| if *kind == "network" { "net" } else { kind }) {
            let link = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/{kind}")).context(kind);
            ensure_eq!(link(restored.pid()?)?, link(owner.pid()?)?, "the namespace {kind}");
        }
        restored.verb("delete", &["--force"], &[])?.ok()?;
    }
    Ok(())
}

fn a_name_of_an_unlinked_file_needs_its_flag(t: &T) -> Verdict {
    let script = format!("echo kept >/a; ln /a /b; exec 9</a; rm /a; {COUNTING}");
    let bundle = t.bundle()?.sh(&script);
    let container = start(t, &bundle)?;
    let at = counts_on(&bundle, 1)?;
    let images = Images::new(t);
    images.try_dump(&container, &[])?.code_is(1)?.stderr_has("pass --link-remap")?;
    images.dump(&container, &["--link-remap"])?;
    let container = images.restore(&bundle, &[])?;
    counts_on(&bundle, at)?;
    let open = || fs::read_link(format!("/proc/{}/fd/9", container.pid().ok()?)).ok();
    eventually("the file is open", open)?;
    Ok(())
}

fn links_are_not_followed_afterwards_where_they_were_not(t: &T) -> Verdict {
    let bound = t.path("bound");
    fs::create_dir(&bound).context("a directory")?;
    let tmpfs = json!({"destination": "/new", "type": "tmpfs", "source": "tmpfs", "options": ["nosymfollow"]});
    let bundle =
        t.bundle()?.sh(COUNTING).mount(tmpfs).bind(&bound, "/bound", &["rbind", "rprivate", "nosymfollow", "nodev"]);
    let look =
        "for d in /new /bound; do echo in >$d/file; ln -sf file $d/link; cat $d/link 2>/dev/null || echo no; done";
    let container = start(t, &bundle)?;
    ensure_eq!(container.exec_sh(look)?.stdout, "no\nno\n", "before");
    let images = Images::new(t);
    let mut command = t.command();
    command.args(["checkpoint", "--check", &container.id]);
    ensure!(!t.finish(command)?.stdout.contains("nosymfollow"), "nothing of it is lost");
    images.dump(&container, &[])?;
    let container = images.restore(&bundle, &[])?;
    ensure_eq!(container.exec_sh(look)?.stdout, "no\nno\n", "afterwards");
    Ok(())
}
