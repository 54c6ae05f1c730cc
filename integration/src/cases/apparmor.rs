//! `process.apparmorProfile` where AppArmor is enforced.

use super::security::fake_proc;
use crate::kit::Need::{AppArmor, Windlass};
use crate::kit::stop::{Context, skip};
use crate::kit::{Bundle, T, Verdict};
use crate::{chapter, ensure_eq};
use serde_json::json;
use std::fs;

chapter! { "apparmor":
    a_profile_is_applied_with_and_without_no_new_privileges [AppArmor],
    exec_gets_the_profile_of_the_container [AppArmor],
    exec_gets_the_profile_of_its_own [AppArmor],
    a_profile_that_is_not_loaded_is_an_error [AppArmor],
    a_profile_that_is_not_loaded_is_an_error_of_exec [AppArmor],
    the_error_names_the_element_and_what_to_do [AppArmor, Windlass],
    a_profile_is_never_written_to_a_false_procfs [AppArmor],
    a_profile_is_applied_without_a_procfs_of_ones_own [AppArmor, Windlass],
}

const PROFILES: &str = "
profile windlass-test flags=(attach_disconnected) { file, capability, mount, signal, ptrace, deny /etc/passwd r, }
profile windlass-other flags=(attach_disconnected) { file, capability, signal, deny /etc/group r, }
";

/// Shows the profile, and whether it is enforced.
const SHOW: &str = "cat /proc/self/attr/current; cat /etc/passwd >/dev/null 2>&1 && echo passwd; \
                    cat /etc/group >/dev/null 2>&1 && echo group; true";

fn load(t: &T) -> Verdict {
    let file = t.path("profiles");
    fs::write(&file, PROFILES).context("profiles")?;
    match t.host("apparmor_parser", &["-r", "--skip-cache", &file.display().to_string()]) {
        Ok(_) => Ok(()),
        Err(stop) => skip(format!("apparmor_parser cannot load a profile: {stop}")),
    }
}

fn confined(t: &T, profile: &str) -> Verdict<Bundle> {
    let bundle = t.bundle()?.sh(SHOW).set("/process/apparmorProfile", json!(profile));
    // Both files can be read.
    for name in ["passwd", "group"] {
        fs::write(bundle.rootfs().join("etc").join(name), "root:x:0:\n").context(name)?;
    }
    Ok(bundle)
}

fn a_profile_is_applied_with_and_without_no_new_privileges(t: &T) -> Verdict {
    load(t)?;
    for no_new_privileges in [true, false] {
        let bundle = confined(t, "windlass-test")?.set("/process/noNewPrivileges", json!(no_new_privileges));
        let ran = t.run(&bundle)?.ok()?;
        ensure_eq!(ran.stdout, "windlass-test (enforce)\ngroup\n", "noNewPrivileges {no_new_privileges}");
    }
    Ok(())
}

fn exec_gets_the_profile_of_the_container(t: &T) -> Verdict {
    load(t)?;
    for no_new_privileges in [true, false] {
        let bundle = confined(t, "windlass-test")?.set("/process/noNewPrivileges", json!(no_new_privileges));
        let container = t.start(&bundle.args(&["/bin/sleep", "1000"]))?;
        let ran = container.exec(&["/bin/sh", "-c", SHOW])?;
        ensure_eq!(ran.stdout, "windlass-test (enforce)\ngroup\n", "noNewPrivileges {no_new_privileges}");
    }
    Ok(())
}

fn exec_gets_the_profile_of_its_own(t: &T) -> Verdict {
    load(t)?;
    let container = t.start(&confined(t, "windlass-test")?.args(&["/bin/sleep", "1000"]))?;
    let words = ["/bin/sh", "-c", SHOW];
    let ran = container.try_exec(&["--apparmor", "windlass-other"], &words)?.ok()?;
    ensure_eq!(ran.stdout, "windlass-other (enforce)\npasswd\n", "with --apparmor");
    let process = json!({
        "args": words, "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0},
        "apparmorProfile": "windlass-other",
    });
    let ran = container.exec_process(&process, &[])?.ok()?;
    ensure_eq!(ran.stdout, "windlass-other (enforce)\npasswd\n", "with --process");
    Ok(())
}

fn a_profile_that_is_not_loaded_is_an_error(t: &T) -> Verdict {
    let bundle = confined(t, "windlass-not-loaded")?;
    // A runtime may fail at create or at start; the program must not run.
    t.run(&bundle)?.fails()?.stdout_lacks("group")?;
    Ok(())
}

fn a_profile_that_is_not_loaded_is_an_error_of_exec(t: &T) -> Verdict {
    let container = t.running()?;
    let ran = container.try_exec(&["--apparmor", "windlass-not-loaded"], &["/bin/echo", "ran"])?;
    ran.code_is(255)?.stdout_lacks("ran")?;
    Ok(())
}

fn the_error_names_the_element_and_what_to_do(t: &T) -> Verdict {
    let ran = t.run(&confined(t, "windlass-not-loaded")?)?.fails()?;
    // The first words are those that engines know from runc.
    let words = "unable to apply apparmor profile: apparmor failed to apply profile \"windlass-not-loaded\"";
    ran.stderr_has(words)?.stderr_has("/process/apparmorProfile")?.stderr_has("apparmor_parser -r")?;
    let container = t.running()?;
    let ran = container.try_exec(&["--apparmor", "windlass-not-loaded"], &["/bin/true"])?.fails()?;
    ran.stderr_has(words)?.stderr_has("apparmor_parser -r")?;
    Ok(())
}

fn a_profile_is_never_written_to_a_false_procfs(t: &T) -> Verdict {
    load(t)?;
    let fake = fake_proc(t)?;
    let tmpfs = |at: &str| json!({"destination": at, "type": "tmpfs", "source": "tmpfs"});
    let bind = |from: std::path::PathBuf, at: &str| json!({"destination": at, "type": "bind", "source": from, "options": ["rbind"]});
    let mounts = [
        tmpfs("/proc/self/attr"),
        tmpfs("/proc/self"),
        tmpfs("/proc/thread-self/attr"),
        bind(fake.join("self/attr"), "/proc/self/attr"),
        bind(fake.join("self"), "/proc/self"),
        bind(fake.join("self/attr/exec"), "/proc/self/attr/exec"),
        bind(fake.join("self/attr/exec"), "/proc/self/attr/apparmor/exec"),
        bind(fake.clone(), "/proc"),
    ];
    for mount in mounts {
        let what = mount.to_string();
        // The false procfs hides the name of the profile, so the test checks an access that the profile denies.
        let bundle = confined(t, "windlass-test")?.sh("cat /etc/passwd >/dev/null && echo unconfined; echo ran");
        let ran = t.run(&bundle.mount(mount))?;
        ran.stdout_lacks("unconfined").context(what)?;
        for name in ["self/attr/exec", "self/attr/apparmor/exec"] {
            ensure_eq!(fs::read_to_string(fake.join(name))?, "", "{name} of the false procfs");
        }
    }
    Ok(())
}

fn a_profile_is_applied_without_a_procfs_of_ones_own(t: &T) -> Verdict {
    load(t)?;
    // A user namespace in the caller's PID namespace may not mount a procfs.
    let bundle = super::sources::user_namespace(t)?.namespace("pid", None);
    let bundle = bundle.set("/process/apparmorProfile", json!("windlass-test")).args(&["/bin/sleep", "1000"]);
    for name in ["passwd", "group"] {
        fs::write(bundle.rootfs().join("etc").join(name), "root:x:0:\n").context(name)?;
    }
    let container = t.start(&bundle)?;
    let profile = fs::read_to_string(format!("/proc/{}/attr/current", container.pid()?))?;
    ensure_eq!(profile, "windlass-test (enforce)\n", "of init");
    let ran = container.exec(&["/bin/sh", "-c", SHOW])?;
    ensure_eq!(ran.stdout, "windlass-test (enforce)\ngroup\n", "of exec");
    let ran = container.try_exec(&["--apparmor", "windlass-other"], &["/bin/sh", "-c", SHOW])?.ok()?;
    ensure_eq!(ran.stdout, "windlass-other (enforce)\npasswd\n", "of exec --apparmor");
    Ok(())
}
