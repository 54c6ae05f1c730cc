//! Input that is too long, cut off or nonsense: an error, never a crash.

use crate::kit::machine::text;
use crate::kit::stop::Context;
use crate::kit::{T, Verdict};
use crate::{chapter, ensure, ensure_eq};
use serde_json::json;
use std::fs;
use std::path::Path;

chapter! { "input":
    an_environment_above_64_kib_arrives,
    annotations_of_many_kib_arrive_in_state,
    many_mounts_and_long_paths_are_handled,
    a_truncated_configuration_is_an_error,
    a_deeply_nested_configuration_is_an_error_or_ignored,
    garbage_resources_are_an_error,
    a_garbage_state_file_is_an_error,
    ids_that_are_too_long_or_not_utf8_are_refused,
    systemd_property_annotations_are_no_unit_properties,
}

fn an_environment_above_64_kib_arrives(t: &T) -> Verdict {
    let big = "x".repeat(100_000);
    let list = [format!("BIG={big}"), "PATH=/bin".to_owned(), format!("BIG2={big}")];
    let bundle = t.bundle()?.set("/process/env", json!(list)).sh("echo ${#BIG} ${#BIG2}");
    t.run(&bundle)?.ok()?.stdout_is("100000 100000\n")?;
    let container = t.start(&bundle.args(&["/bin/sleep", "1000"]))?;
    container.exec_sh("echo ${#BIG}")?.stdout_is("100000\n")?;
    Ok(())
}

fn annotations_of_many_kib_arrive_in_state(t: &T) -> Verdict {
    let big = "y".repeat(300_000);
    let container = t.create(&t.bundle()?.set("/annotations", json!({"big": big})))?;
    ensure_eq!(container.state()?["annotations"]["big"].as_str().map(str::len), Some(300_000), "length");
    Ok(())
}

fn many_mounts_and_long_paths_are_handled(t: &T) -> Verdict {
    let source = t.path("source");
    fs::create_dir(&source)?;
    let mut bundle = t.bundle()?;
    for number in 0..100 {
        bundle =
            bundle.bind(&source, &format!("/mnt/{}/{number}", "d".repeat(200)), &["bind", "ro", "nosuid", "nodev"]);
    }
    t.run(&bundle.sh("grep -c /mnt/ /proc/self/mountinfo"))?.ok()?.stdout_is("100\n")?;
    let long = format!("/mnt/{}", "d/".repeat(3000));
    t.run(&t.bundle()?.bind(&source, &long, &["bind"]))?.fails()?;
    Ok(())
}

fn a_truncated_configuration_is_an_error(t: &T) -> Verdict {
    let whole = t.bundle()?.spec.to_string();
    for part in 0..8 {
        with_config(t, &whole.as_bytes()[..whole.len() * part / 8])?.code_is(1)?;
    }
    for odd in [&b"null"[..], b"[]", b"7", b"\xff\xfe", b"{\"process\": 3}", b"{\"linux\": []}", b"{}"] {
        with_config(t, odd)?.code_is(1)?;
    }
    Ok(())
}

fn a_deeply_nested_configuration_is_an_error_or_ignored(t: &T) -> Verdict {
    let deep = format!("{{\"x\":{}{}}}", "[".repeat(200_000), "]".repeat(200_000));
    with_config(t, deep.as_bytes())?.fails()?;
    Ok(())
}

fn garbage_resources_are_an_error(t: &T) -> Verdict {
    let container = t.running()?;
    for text in ["", "{", "[]", "{\"memory\": 3}", "\0\0", "{\"memory\":{\"limit\":\"x\"}}"] {
        t.runtime_with_stdin(&["update", "--resources", "-", &container.id], text.as_bytes())?
            .fails()
            .context(format!("{text:?}"))?;
    }
    container.status_is("running")
}

fn a_garbage_state_file_is_an_error(t: &T) -> Verdict {
    let container = t.running()?;
    let pid = container.pid()?;
    let files = container.state_files()?;
    let saved: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap_or_default()).collect();
    for garbage in [&b""[..], b"{", b"null", b"{\"id\": 3}", b"\0\0\0"] {
        for file in &files {
            fs::write(file, garbage)?;
        }
        for verb in ["state", "kill", "start", "ps"] {
            let ran = container.verb(verb, &[], &[])?;
            ensure!(ran.code > 0, "{verb} with the state {garbage:?}: {ran}");
        }
        ensure!(t.runtime(&["list"])?.code >= 0, "list died");
    }
    for (file, content) in files.iter().zip(&saved) {
        fs::write(file, content)?;
    }
    ensure!(!text(format!("/proc/{pid}/cmdline")).is_empty(), "the container was killed");
    container.stop()
}

fn ids_that_are_too_long_or_not_utf8_are_refused(t: &T) -> Verdict {
    use std::os::unix::ffi::OsStrExt;
    let bundle = t.bundle()?;
    bundle.write()?;
    for id in [&[b'a'; 300][..], &[b'a'; 5000], b"\xff\xfe", b"a\xc3", b"..", b"-x/y"] {
        let mut command = t.command();
        command.args(["create", "--bundle"]).arg(&bundle.dir).arg(std::ffi::OsStr::from_bytes(id));
        t.finish(command)?.fails()?;
    }
    ensure_eq!(fs::read_dir(t.root()).map_or(0, Iterator::count), 0, "entries in the state directory");
    Ok(())
}

fn systemd_property_annotations_are_no_unit_properties(t: &T) -> Verdict {
    let bundle =
        t.bundle()?.set("/annotations", json!({"org.systemd.property.ExecStartPre": "'/bin/touch /run/owned'"}));
    t.run(&bundle)?;
    ensure!(!Path::new("/run/owned").exists(), "the annotation was executed");
    Ok(())
}

/// `run` with this text as the configuration must fail without a crash.
fn with_config(t: &T, config: &[u8]) -> Verdict<crate::kit::Ran> {
    let bundle = t.bundle()?;
    fs::write(bundle.dir.join("config.json"), config)?;
    t.runtime(&["run", "--bundle", &bundle.dir.display().to_string(), &t.id()])
}
