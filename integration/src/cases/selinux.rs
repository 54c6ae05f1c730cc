//! `process.selinuxLabel` and `linux.mountLabel` where SELinux enforces the policy of `guests/selinux.cil`:
//! `just guest-selinux`.

use crate::kit::Need::{SeLinux, Windlass};
use crate::kit::stop::Context;
use crate::kit::{Bundle, T, Verdict};
use crate::{chapter, ensure_eq};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};

chapter! { "selinux":
    the_process_has_its_label_and_so_have_its_mounts [SeLinux],
    exec_gets_the_label_of_the_container_or_its_own [SeLinux],
    the_session_keyring_has_the_label_of_the_process [SeLinux],
    a_container_reads_relabelled_volumes_alone [SeLinux],
    containers_of_other_categories_are_kept_apart [SeLinux],
    a_label_that_the_policy_does_not_know_is_an_error [SeLinux, Windlass],
    a_label_is_never_written_to_a_false_procfs [SeLinux],
    a_user_namespace_has_labels_too [SeLinux],
}

/// The label of a process with these categories.
fn process(categories: &str) -> String {
    format!("system_u:system_r:container_t:s0:{categories}")
}

/// The label of files for these categories; without categories, of files for all containers.
fn files(categories: &str) -> String {
    let between = if categories.is_empty() { "" } else { ":" };
    format!("system_u:object_r:container_file_t:s0{between}{categories}")
}

fn label(t: &T, path: &Path, label: &str) -> Verdict {
    t.host("chcon", &["-R", label, &path.display().to_string()]).map(drop)
}

/// A bundle with the labels of an engine. All bundles share the inode of busybox, whose label has no categories, so
/// that all may execute it.
fn labelled(t: &T, categories: &str) -> Verdict<Bundle> {
    let bundle = t.bundle()?;
    label(t, &bundle.rootfs(), &files(""))?;
    let bundle = bundle.set("/process/selinuxLabel", json!(process(categories)));
    Ok(bundle.set("/linux/mountLabel", json!(files(categories))))
}

/// A directory of the host with a file.
fn volume(t: &T, name: &str, text: &str) -> Verdict<PathBuf> {
    let dir = t.path(name);
    fs::create_dir(&dir).context(name)?;
    fs::write(dir.join("file"), text).context(name)?;
    Ok(dir)
}

fn the_process_has_its_label_and_so_have_its_mounts(t: &T) -> Verdict {
    let bundle = labelled(t, "c1,c2")?.args(&["/bin/sleep", "1000"]);
    let queues = json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue"});
    let container = t.start(&bundle.mount(queues))?;
    let shown =
        container.exec(&["/bin/sh", "-c", "cat /proc/self/attr/current; touch /dev/mqueue/queue /dev/shm/new"])?;
    ensure_eq!(shown.stdout.trim_end_matches(['\0', '\n']), process("c1,c2"), "the label that the process has");
    let root = format!("/proc/{}/root", container.pid()?);
    for path in ["dev", "dev/shm", "dev/pts", "dev/mqueue", "dev/null", "dev/shm/new"] {
        let found = t.host("stat", &["-c", "%C", &format!("{root}/{path}")])?;
        ensure_eq!(found.trim_end(), files("c1,c2"), "the label of /{path}");
    }
    Ok(())
}

fn exec_gets_the_label_of_the_container_or_its_own(t: &T) -> Verdict {
    let container = t.start(&labelled(t, "c1,c2")?.args(&["/bin/sleep", "1000"]))?;
    let show = ["/bin/cat", "/proc/self/attr/current"];
    let of = |ran: crate::kit::Ran| ran.stdout.trim_end_matches(['\0', '\n']).to_owned();
    ensure_eq!(of(container.exec(&show)?), process("c1,c2"), "without a label");
    let own = process("c1,c2,c4");
    ensure_eq!(of(container.try_exec(&["--process-label", &own], &show)?.ok()?), own, "with --process-label");
    let document = json!({
        "args": show, "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}, "selinuxLabel": own,
    });
    ensure_eq!(of(container.exec_process(&document, &[])?.ok()?), own, "with --process");
    Ok(())
}

fn the_session_keyring_has_the_label_of_the_process(t: &T) -> Verdict {
    // KEYCTL_CLEAR (7) needs the right to write, which a process does not have on a keyring with the label of the
    // runtime.
    let calls = format!("{},7,-3", libc::SYS_keyctl);
    let bundle = labelled(t, "c1,c2")?.helper()?.args(&["/helper", "@payload", "syscalls", &calls]);
    let cleared = format!("{}=0\n", libc::SYS_keyctl);
    t.run(&bundle)?.ok()?.stdout_is(&cleared)?;
    let container = t.start(&bundle.args(&["/bin/sleep", "1000"]))?;
    container.exec(&["/helper", "@payload", "syscalls", &calls])?.stdout_is(&cleared)?;
    Ok(())
}

fn a_container_reads_relabelled_volumes_alone(t: &T) -> Verdict {
    let plain = volume(t, "plain", "the host's\n")?;
    let shared = volume(t, "shared", "for all\n")?;
    label(t, &shared, &files(""))?;
    let own = volume(t, "own", "its own\n")?;
    label(t, &own, &files("c1,c2"))?;
    let bundle = labelled(t, "c1,c2")?
        .sh("cat /plain/file; cat /shared/file /own/file && echo more > /own/file && cat /own/file")
        .bind(&plain, "/plain", &["bind"])
        .bind(&shared, "/shared", &["bind"])
        .bind(&own, "/own", &["bind"]);
    let ran = t.run(&bundle)?.ok()?;
    ran.stdout_is("for all\nits own\nmore\n")?.stderr_has("/plain/file")?.stderr_has("Permission denied")?;
    Ok(())
}

fn containers_of_other_categories_are_kept_apart(t: &T) -> Verdict {
    let own = volume(t, "own", "its own\n")?;
    label(t, &own, &files("c1,c2"))?;
    let script = "cat /own/file; echo more > /own/new; ls /own; echo done";
    for (categories, reads) in [("c1,c2", true), ("c1,c3", false), ("c3,c4", false)] {
        let ran = t.run(&labelled(t, categories)?.sh(script).bind(&own, "/own", &["bind"]))?.ok()?;
        let expected = if reads { "its own\nfile\nnew\ndone\n" } else { "done\n" };
        ran.stdout_is(expected).context(categories)?;
    }
    Ok(())
}

fn a_label_that_the_policy_does_not_know_is_an_error(t: &T) -> Verdict {
    let unknown = "system_u:system_r:nobody_knows_t:s0";
    let bundle = labelled(t, "c1")?.sh("echo ran");
    let ran = t.run(&bundle.clone().set("/process/selinuxLabel", json!(unknown)))?.fails()?;
    ran.stdout_lacks("ran")?.stderr_has(unknown)?.stderr_has("/process/selinuxLabel")?.stderr_has("policy")?;
    let ran = t.run(&bundle.clone().set("/linux/mountLabel", json!("system_u:object_r:nobody_knows_t:s0")))?.fails()?;
    ran.stdout_lacks("ran")?.stderr_has("/linux/mountLabel")?.stderr_has("policy")?;
    // A label that the policy knows, and that no process may get by this program.
    let ran = t.run(&bundle.set("/process/selinuxLabel", json!("system_u:object_r:host_t:s0")))?.fails()?;
    ran.stdout_lacks("ran")?;
    Ok(())
}

fn a_label_is_never_written_to_a_false_procfs(t: &T) -> Verdict {
    let fake = super::security::fake_proc(t)?;
    for name in ["self/attr/keycreate", "thread-self/attr/keycreate"] {
        fs::write(fake.join(name), "").context(name)?;
    }
    label(t, &fake, &files(""))?;
    for (from, at) in
        [(fake.join("self/attr"), "/proc/self/attr"), (fake.join("self"), "/proc/self"), (fake.clone(), "/proc")]
    {
        let volume = volume(t, &format!("host{}", at.replace('/', "-")), "the host's\n")?;
        let bundle = labelled(t, "c1")?.sh("cat /volume/file; echo ran").bind(&volume, "/volume", &["bind"]);
        t.run(&bundle.bind(&from, at, &["rbind"]))?.stdout_lacks("the host's").context(at)?;
        for name in ["self/attr/exec", "self/attr/keycreate"] {
            ensure_eq!(fs::read_to_string(fake.join(name))?, "", "{name} of the false procfs");
        }
    }
    Ok(())
}

fn a_user_namespace_has_labels_too(t: &T) -> Verdict {
    let bundle = super::sources::user_namespace(t)?;
    label(t, &bundle.rootfs(), &files(""))?;
    let bundle =
        bundle.set("/process/selinuxLabel", json!(process("c1"))).args(&["/bin/cat", "/proc/self/attr/current"]);
    let ran = t.run(&bundle)?.ok()?;
    ensure_eq!(ran.stdout.trim_end_matches(['\0', '\n']), process("c1"), "the label that the process has");
    Ok(())
}
