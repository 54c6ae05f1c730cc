//! Configurations that are invalid on this host only: `run` names the innermost wrong member, and so does `check`
//! beforehand.

use crate::kit::Need::{Controller, Windlass};
use crate::kit::{Bundle, T, Verdict, cgroup};
use crate::{chapter, ensure, ensure_eq};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;

chapter! { "bad_configs":
    run_and_check_name_the_innermost_member [Windlass],
    programs_that_cannot_be_executed_are_named [Windlass],
    what_only_the_lookup_in_the_root_shows_is_named_by_run [Windlass],
    all_missing_sources_are_told_together [Windlass],
    a_container_without_a_process_is_known_to_check [Windlass],
    explain_shows_the_program [Windlass],
    a_pids_limit_of_zero_is_none_before_1_3 [Windlass],
    an_update_of_the_pids_limit_to_zero_goes_by_the_edition [Windlass, Controller("pids")],
}

/// The answer of a verb about a bundle: its exit code, the pointer of the failure, and the pointers of all faults.
fn said(t: &T, verb: &str, bundle: &Bundle) -> Verdict<(i32, String, BTreeSet<String>)> {
    bundle.write()?;
    let (dir, log) = (bundle.dir.display().to_string(), t.path("bad.log").display().to_string());
    let _ = fs::remove_file(&log);
    let before = ["--log", log.as_str(), "--log-format", "json", verb];
    let ran = match verb {
        "check" => t.runtime(&["check", "--format", "json", "--bundle", &dir])?,
        _ => t.runtime(&[&before[..], &["--bundle", &dir, "bad"]].concat())?,
    };
    let text = if verb == "check" { ran.stdout.clone() } else { fs::read_to_string(&log).unwrap_or_default() };
    let said: Value = serde_json::from_str(&text).unwrap_or_default();
    let first = said["pointer"].as_str().unwrap_or_default().to_owned();
    let lists = ["errors", "faults"].into_iter().filter_map(|list| said[list].as_array()).flatten();
    let all = lists.filter_map(|fault| fault["pointer"].as_str()).chain([first.as_str()]).map(str::to_owned);
    Ok((ran.code, first.clone(), all.collect()))
}

type Change = fn(&T, Bundle) -> Verdict<Bundle>;

fn tmpfs(bundle: Bundle, options: &[&str]) -> Bundle {
    bundle.mount(json!({"destination": "/mnt", "type": "tmpfs", "source": "tmpfs", "options": options}))
}

/// A bundle whose program has this text and mode.
fn program(bundle: Bundle, text: &[u8], mode: u32) -> Verdict<Bundle> {
    let path = bundle.rootfs().join("program");
    fs::write(&path, text)?;
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode))?;
    Ok(bundle.args(&["/program"]))
}

fn run_and_check_name_the_innermost_member(t: &T) -> Verdict {
    let rows: &[(&str, &str, Change)] = &[
        ("a root that is a file", "/root/path", |t, bundle| {
            fs::write(t.path("file"), "")?;
            Ok(bundle.set("/root/path", json!(t.path("file"))))
        }),
        ("a root that is not there", "/root/path", |_, bundle| Ok(bundle.set("/root/path", json!("nowhere")))),
        ("a namespace of another type", "/linux/namespaces/0/path", |_, bundle| {
            Ok(bundle.set("/linux/namespaces/0", json!({"type": "pid", "path": "/proc/self/ns/net"})))
        }),
        ("a file that is no namespace", "/linux/namespaces/0/path", |_, bundle| {
            Ok(bundle.set("/linux/namespaces/0", json!({"type": "pid", "path": "/etc/passwd"})))
        }),
        ("a namespace that is gone", "/linux/namespaces/0/path", |_, bundle| {
            Ok(bundle.set("/linux/namespaces/0", json!({"type": "pid", "path": "/proc/0/ns/pid"})))
        }),
        ("an unknown option", "LAST/options/1", |_, bundle| Ok(tmpfs(bundle, &["nosuid", "no-such-option"]))),
        ("a value that is none", "LAST/options/2", |_, bundle| Ok(tmpfs(bundle, &["nosuid", "mode=755", "size=much"]))),
        ("an unknown filesystem", "LAST/type", |_, bundle| {
            Ok(bundle.mount(json!({"destination": "/mnt", "type": "nosuchfs", "source": "x"})))
        }),
        ("a hook that is not there", "/hooks/createRuntime/0/path", |_, bundle| {
            Ok(bundle.set("/hooks", json!({"createRuntime": [{"path": "/no/such/hook"}]})))
        }),
        ("a hook that is no program", "/hooks/createRuntime/0/path", |t, bundle| {
            fs::write(t.path("hook"), "")?;
            Ok(bundle.set("/hooks", json!({"createRuntime": [{"path": t.path("hook")}]})))
        }),
        ("a device of the network that is not there", "/linux/netDevices/no-such-dev", |_, bundle| {
            let bundle = bundle.namespace("network", Some(json!({"type": "network"})));
            Ok(bundle.set("/linux/netDevices", json!({"no-such-dev": {}})))
        }),
        ("too many open files", "/process/rlimits/0/hard", |_, bundle| {
            let most = u64::MAX;
            Ok(bundle.set("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 64, "hard": most}])))
        }),
    ];
    are_named(t, rows)
}

fn programs_that_cannot_be_executed_are_named(t: &T) -> Verdict {
    let rows: &[(&str, &str, Change)] = &[
        ("a program that is not there", "/process/args/0", |_, bundle| Ok(bundle.args(&["/no/such/program"]))),
        ("a program that is nowhere in PATH", "/process/args/0", |_, bundle| Ok(bundle.args(&["no-such-program"]))),
        ("a program that is a directory", "/process/args/0", |_, bundle| Ok(bundle.args(&["/bin"]))),
        ("a program that nobody may execute", "/process/args/0", |_, bundle| program(bundle, b"#!/bin/sh\n", 0o644)),
        ("a program that is none", "/process/args/0", |_, bundle| program(bundle, b"echo\n", 0o755)),
        ("a program for another processor", "/process/args/0", |_, bundle| {
            // A head of elf(5) with a machine that no kernel knows.
            let order = if cfg!(target_endian = "big") { 2 } else { 1 };
            let mut head = [0x7f, b'E', b'L', b'F', 2, order, 1].to_vec();
            head.resize(64, 0xff);
            program(bundle, &head, 0o755)
        }),
        ("a script without its interpreter", "/process/args/0", |_, bundle| {
            program(bundle, b"#!/no/such/interpreter -x\n", 0o755)
        }),
    ];
    are_named(t, rows)
}

/// Fails unless `check` and `run` name the pointers of these faults.
fn are_named(t: &T, rows: &[(&str, &str, Change)]) -> Verdict {
    for (what, pointer, change) in rows {
        let bundle = change(t, t.bundle()?.sh("true"))?;
        let last = bundle.spec["mounts"].as_array().map_or(0, Vec::len).saturating_sub(1);
        let pointer = pointer.replace("LAST", &format!("/mounts/{last}"));
        for verb in ["check", "run"] {
            let (code, first, all) = said(t, verb, &bundle)?;
            ensure!(code != 0, "{what}: {verb} passes");
            ensure!(all.contains(&pointer), "{what}: {verb} names {first:?}, {all:?} and not {pointer}");
            if verb == "run" {
                ensure!(first.starts_with(&pointer) || pointer.starts_with(&first), "{what}: the first is {first}");
            }
        }
    }
    Ok(())
}

fn what_only_the_lookup_in_the_root_shows_is_named_by_run(t: &T) -> Verdict {
    let source = t.path("source");
    fs::create_dir(&source)?;
    let rows: &[(&str, &str)] =
        &[("/loop/x", "a loop of links"), ("/plain/x", "a file on the way"), ("/plain", "a directory on a file")];
    for (destination, what) in rows {
        let bundle = t.bundle()?.bind(&source, destination, &["bind"]);
        let _ = fs::remove_file(bundle.rootfs().join("loop"));
        std::os::unix::fs::symlink("loop", bundle.rootfs().join("loop"))?;
        fs::write(bundle.rootfs().join("plain"), "")?;
        let last = bundle.spec["mounts"].as_array().map_or(0, Vec::len).saturating_sub(1);
        let (_, first, _) = said(t, "run", &bundle)?;
        ensure_eq!(first, format!("/mounts/{last}/destination"), "{what}");
    }
    let bundle = t.bundle()?.bind(&source, &format!("/mnt/{}", "n".repeat(300)), &["bind"]);
    let last = bundle.spec["mounts"].as_array().map_or(0, Vec::len).saturating_sub(1);
    ensure_eq!(said(t, "run", &bundle)?.1, format!("/mounts/{last}/destination"), "a name that is too long");
    Ok(())
}

fn all_missing_sources_are_told_together(t: &T) -> Verdict {
    let mut bundle = t.bundle()?;
    let first = bundle.spec["mounts"].as_array().map_or(0, Vec::len);
    for name in ["one", "two", "three"] {
        bundle = bundle.bind(&t.path(name), &format!("/mnt/{name}"), &["bind"]);
    }
    for verb in ["check", "run"] {
        let (_, _, all) = said(t, verb, &bundle)?;
        for index in first..first + 3 {
            ensure!(all.contains(&format!("/mounts/{index}/source")), "{verb}: {all:?} lacks {index}");
        }
    }
    Ok(())
}

fn a_container_without_a_process_is_known_to_check(t: &T) -> Verdict {
    let bundle = t.bundle()?.unset("/process");
    let (code, _, all) = said(t, "check", &bundle)?;
    ensure!(code == 1 && all.contains("/process"), "{code}: {all:?}");
    Ok(())
}

fn explain_shows_the_program(t: &T) -> Verdict {
    let bundle = t.bundle()?.args(&["/bin/echo", "a b", "c"]);
    bundle.write()?;
    let dir = bundle.dir.display().to_string();
    t.runtime(&["explain", "--bundle", &dir])?.ok()?.stdout_has(r#"["/bin/echo", "a b", "c"]"#)?;
    Ok(())
}

fn a_pids_limit_of_zero_is_none_before_1_3(t: &T) -> Verdict {
    let bundle = t.bundle()?.set("/ociVersion", json!("1.2.0")).set("/linux/resources/pids", json!({"limit": 0}));
    t.run(&bundle.sh("(echo forked); echo done"))?.ok()?.stdout_is("forked\ndone\n")?;
    Ok(())
}

fn an_update_of_the_pids_limit_to_zero_goes_by_the_edition(t: &T) -> Verdict {
    for (edition, value) in [("1.2.0", "max"), ("1.3.0", "1")] {
        let bundle = t.bundle()?.set("/ociVersion", json!(edition)).set("/linux/resources/pids", json!({"limit": 20}));
        let container = t.start(&bundle.args(&["/bin/sleep", "1000"]))?;
        container.verb("update", &["--pids-limit", "0"], &[])?.ok()?;
        cgroup::holds(&cgroup::of(&container)?, "pids.max", value)?;
    }
    Ok(())
}
