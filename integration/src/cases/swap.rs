//! Entries of hostile root file systems and volumes are exchanged between any two lookups of a
//! command: nothing outside is touched, opened or changed.
//!
//! The command is stopped at each system call with a path (`kit::follow`). `exchange` defines the exchanges and their
//! moments. A lookup without a component of the name of an entry cannot reach it, so each exchange begins at the
//! lookups that have one.

mod exchange;
mod watch;

use self::exchange::{Exchange, Form, KINDS, Replacement, TARGETS, Target};
use self::watch::Watch;
use super::sources;
use crate::kit::canary::Canary;
use crate::kit::follow::{Followed, Lookup, follow};
use crate::kit::machine::text;
use crate::kit::stop::{Context, fail};
use crate::kit::{Bundle, Need, Ran, T, Verdict};
use crate::{chapter, ensure, ensure_eq};
use nix::mount::{MntFlags, umount2};
use nix::unistd::Pid;
use serde_json::json;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

chapter! { "swap":
    create_touches_nothing_outside [Need::Slow, Need::Windlass],
    create_without_a_tmpfs_at_dev_touches_nothing_outside [Need::Slow, Need::Windlass],
    create_with_a_user_namespace_touches_nothing_outside [Need::Slow, Need::Windlass],
    create_in_the_callers_mount_namespace_touches_nothing_outside [Need::Slow, Need::Windlass],
    run_touches_nothing_outside [Need::Slow, Need::Windlass],
    start_touches_nothing_outside [Need::Slow, Need::Windlass],
    exec_touches_nothing_outside [Need::Slow, Need::Windlass],
    exec_below_mounts_of_the_container_touches_nothing_outside [Need::Slow, Need::Windlass],
    delete_touches_nothing_outside [Need::Slow, Need::Windlass],
    a_command_that_follows_names_is_caught [Need::Slow],
}

/// The number of exchanges that are tried for each verb. With `--long` all are.
const SAMPLES: usize = 100;

/// Which bundle.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flavour {
    Plain,
    OwnDev,
    UserNamespace,
    CallersMounts,
}

/// The subject of a sweep: the kind of bundle, the verb, and the process that makes the exchange.
#[derive(Clone, Copy)]
struct SwapSubject {
    flavour: Flavour,
    verb: &'static str,
    /// Makes a mount in the container instead of an exchange by the host.
    mounts: bool,
}

fn subject(verb: &'static str, flavour: Flavour) -> SwapSubject {
    SwapSubject { flavour, verb, mounts: false }
}

fn create_touches_nothing_outside(t: &T) -> Verdict {
    sweep(t, subject("create", Flavour::Plain))
}

fn create_without_a_tmpfs_at_dev_touches_nothing_outside(t: &T) -> Verdict {
    sweep(t, subject("create", Flavour::OwnDev))
}

fn create_with_a_user_namespace_touches_nothing_outside(t: &T) -> Verdict {
    sweep(t, subject("create", Flavour::UserNamespace))
}

fn create_in_the_callers_mount_namespace_touches_nothing_outside(t: &T) -> Verdict {
    sweep(t, subject("create", Flavour::CallersMounts))
}

fn run_touches_nothing_outside(t: &T) -> Verdict {
    sweep(t, subject("run", Flavour::Plain))
}

fn start_touches_nothing_outside(t: &T) -> Verdict {
    sweep(t, subject("start", Flavour::Plain))
}

fn exec_touches_nothing_outside(t: &T) -> Verdict {
    sweep(t, subject("exec", Flavour::Plain))
}

fn exec_below_mounts_of_the_container_touches_nothing_outside(t: &T) -> Verdict {
    sweep(t, SwapSubject { mounts: true, ..subject("exec", Flavour::Plain) })
}

fn delete_touches_nothing_outside(t: &T) -> Verdict {
    sweep(t, subject("delete", Flavour::Plain))
}

/// A hostile bundle, whose entries are those of [`TARGETS`].
fn hostile(t: &T, flavour: Flavour) -> Verdict<Bundle> {
    let bundle = match flavour {
        Flavour::UserNamespace => sources::user_namespace(t)?,
        Flavour::CallersMounts => t.bundle()?.namespace("mount", None),
        _ => t.bundle()?,
    };
    let (root, volume, trusted) = (bundle.rootfs(), bundle.dir.join("volume"), bundle.dir.join("trusted"));
    for dir in ["race/dir", "copied/sub", "devices", "etc/readonly", "cwd/here", "volume", "taken"] {
        fs::create_dir_all(root.join(dir))?;
    }
    symlink("race", root.join("link"))?;
    fs::hard_link(root.join("bin/busybox"), root.join(&exchange::BUSYBOX[1..]))?;
    for name in exchange::names() {
        fs::create_dir_all(root.join(&exchange::COVER[1..]).join(name))?;
    }
    for file in ["race/file", "copied/plain", "copied/sub/inner", "etc/masked"] {
        fs::write(root.join(file), "of the image")?;
    }
    for dir in ["dir/secret", "dir/kept", "a/b", "src/sub"] {
        fs::create_dir_all(volume.join(dir))?;
    }
    fs::write(volume.join("dir/hidden"), "of the volume")?;
    fs::create_dir(&trusted)?;
    fs::write(trusted.join("file"), "trusted")?;
    let tmpfs = |at: &str| json!({"destination": at, "type": "tmpfs", "source": "tmpfs"});
    let mut bundle = bundle
        .args(&["sleep", "1000"])
        .set("/process/env", json!(["PATH=/usr/bin:/bin"]))
        .set("/process/cwd", json!("/cwd/here"))
        .bind(&volume, "/volume", &["rbind", "rw"])
        .bind(&trusted.join("file"), "/race/file", &["bind", "ro"])
        .bind(&volume.join("src/sub"), "/taken", &["rbind", "ro"])
        .mount(tmpfs("/race/dir/new/deep"))
        .mount(tmpfs("/link/through"))
        .mount(tmpfs("/volume/a/b"))
        .mount(json!({"destination": "/copied", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]}))
        .set("/linux/maskedPaths", json!(["/volume/dir/secret", "/volume/dir/hidden", "/etc/masked", "/proc/keys"]))
        .set("/linux/readonlyPaths", json!(["/volume/dir/kept", "/etc/readonly", "/proc/sys"]))
        .set(
            "/linux/devices",
            json!([{"path": "/devices/under/node", "type": "c", "major": 1, "minor": 5},
                {"path": "/dev/extra", "type": "c", "major": 1, "minor": 5}]),
        );
    if flavour == Flavour::OwnDev {
        bundle = bundle.edit(|spec| {
            if let Some(mounts) = spec["mounts"].as_array_mut() {
                mounts.retain(|mount| mount["destination"] != "/dev" && mount["destination"] != "/dev/shm");
            }
        });
        fs::create_dir_all(root.join("dev/pts"))?;
    }
    if flavour == Flavour::UserNamespace {
        sources::give(&root)?;
    }
    bundle.write()?;
    Ok(bundle)
}

/// An attempt: one exchange.
#[derive(Clone, Copy, Debug)]
struct Try {
    target: Target,
    kind: Replacement,
    form: Form,
}

/// All exchanges at all lookups, or a sample of them.
fn sweep(t: &T, subject: SwapSubject) -> Verdict {
    let canary = Canary::new(t.path("canary"), &exchange::names())?;
    // The first `create` after a boot makes the lasting namespace of exit pins.
    drop(t.running()?);
    let (lookups, bundle) = one(t, subject, None, &canary).context("without an exchange")?;
    let tries = tries(&lookups, &bundle, subject);
    let mut stride = if t.long { 1 } else { (tries.len() / SAMPLES).max(1) };
    // A sample has exchanges of each kind.
    while stride > 1 && (stride % 2 == 0 || stride % 3 == 0) {
        stride += 1;
    }
    let (mut tried, mut reached) = (0, 0);
    for attempt in tries.iter().step_by(stride) {
        let (made, _) = one(t, subject, Some(*attempt), &canary).context(format!("{attempt:?}"))?;
        tried += 1;
        reached += usize::from(!made.is_empty());
    }
    // Some attempts exchange nothing, because the runtime has not made the entry yet.
    ensure!(reached * 2 > tried, "only {reached} of {tried} exchanges were made");
    println!("{} lookups, {} exchanges, of which {tried} were tried and {reached} made", lookups.len(), tries.len());
    Ok(())
}

fn tries(lookups: &[Lookup], bundle: &Path, subject: SwapSubject) -> Vec<Try> {
    let mut tries = Vec::new();
    for &target in TARGETS {
        let on: Vec<_> = lookups.iter().filter(|lookup| target.is_on(lookup, bundle)).collect();
        let mut forms = vec![Form::Always, Form::Flip(0), Form::Flip(1)];
        for lookup in on {
            forms.extend([Form::From(lookup.process, lookup.index), Form::During(lookup.process, lookup.index)]);
        }
        let kinds = if subject.mounts { &KINDS[..1] } else { &KINDS[..] };
        if subject.mounts && !target.path.starts_with("rootfs/") {
            continue;
        }
        tries.extend(forms.iter().flat_map(|&form| kinds.iter().map(move |&kind| Try { target, kind, form })));
    }
    tries
}

/// Runs the verb once, with at most one exchange. Returns the lookups (if there was no exchange, or it was made) and
/// the path of the bundle's directory, which is removed.
fn one(t: &T, subject: SwapSubject, attempt: Option<Try>, canary: &Canary) -> Verdict<(Vec<Lookup>, PathBuf)> {
    let bundle = hostile(t, subject.flavour)?;
    let id = t.id();
    let pid_file = bundle.dir.join("pid");
    let command = prepare(t, subject, &bundle, &id, &pid_file)?;
    let exchange = match attempt {
        Some(a) if subject.mounts => pid(&pid_file).and_then(|container| Exchange::mount(&a.target, container)),
        Some(a) => Some(Exchange::new(t, &bundle.dir, &a.target, a.kind, canary)?),
        None => None,
    };
    let form = attempt.map_or(Form::Never, |a| a.form);
    let host = host(t, &bundle)?;
    let mounts = text("/proc/self/mountinfo");
    let mut watch = Watch { exchange, form, canary, host: &host, lookups: Vec::new(), wrong: Vec::new() };
    if matches!(form, Form::Always | Form::Flip(1))
        && let Some(exchange) = &mut watch.exchange
    {
        exchange.there();
    }
    let other = (subject.verb == "start").then(|| pid(&pid_file)).flatten();
    let capture = t.capture();
    let ran = follow(&Followed { command: &command, own: &t.runtime, other, capture: &capture }, &mut watch)?;
    let is_source = attempt.is_some_and(|a| a.target.is_source);
    let judged = judge(&ran, &watch, is_source, &mounts).and_then(|()| received(&pid_file, canary, is_source));
    t.runtime(&["delete", "--force", &id])?.ok()?;
    judged.context(&ran)?;
    ensure!(attempt.is_some() || ran.code == 0, "{ran}");
    let complaint = if is_source { canary.change() } else { canary.complaint() };
    ensure!(complaint.is_none(), "after delete: {complaint:?}");
    for file in [capture.stdout, capture.stderr] {
        let _ = fs::remove_file(file);
    }
    fs::remove_dir_all(&bundle.dir)?;
    let made = watch.exchange.as_ref().is_none_or(|exchange| exchange.made > 0);
    Ok((if made { watch.lookups } else { Vec::new() }, bundle.dir))
}

/// Prepares the verb, and returns its command.
fn prepare(t: &T, subject: SwapSubject, bundle: &Bundle, id: &str, pid_file: &Path) -> Verdict<Command> {
    let (dir, file) = (bundle.dir.display().to_string(), pid_file.display().to_string());
    let before: &[&str] = match subject.verb {
        "start" => &["create"],
        "exec" | "delete" => &["create", "start"],
        _ => &[],
    };
    for verb in before {
        let words = [verb, "--bundle", &dir, "--pid-file", &file, id];
        let words = if *verb == "create" { &words[..] } else { &["start", id] };
        t.runtime(words)?.ok()?;
    }
    let words: &[&str] = match subject.verb {
        "create" => &["create", "--bundle", &dir, "--pid-file", &file, id],
        "run" => &["run", "--detach", "--bundle", &dir, "--pid-file", &file, id],
        "exec" => &["exec", "--detach", "--pid-file", &file, id, "sleep", "1000"],
        "delete" => &["delete", "--force", id],
        _ => &["start", id],
    };
    let mut command = t.command();
    command.args(words);
    Ok(command)
}

fn pid(file: &Path) -> Option<Pid> {
    text(file).parse().ok().map(Pid::from_raw)
}

/// Directories of the host that the container must not reach.
fn host(t: &T, bundle: &Bundle) -> Verdict<Vec<(u64, u64)>> {
    let dirs = [Path::new("/"), Path::new("/run"), Path::new("/sys/fs/cgroup"), &t.dir, &bundle.dir];
    let mut found = Vec::new();
    for dir in dirs {
        let meta = fs::metadata(dir).context(dir.display())?;
        found.push((meta.dev(), meta.ino()));
    }
    Ok(found)
}

fn judge(ran: &Ran, watch: &Watch<'_>, is_source: bool, mounts: &str) -> Verdict {
    ensure!(is_source || watch.wrong.is_empty(), "{}", watch.wrong.join("; "));
    let complaint = if is_source { watch.canary.change() } else { watch.canary.complaint() };
    ensure!(complaint.is_none(), "the canary: {complaint:?}");
    ensure_eq!(text("/proc/self/mountinfo"), mounts, "the host's mounts");
    ensure!(ran.code >= 0, "it was killed by a signal");
    ensure!(ran.code == 0 || !ran.stderr.is_empty(), "it failed without a word");
    Ok(())
}

/// Checks the descriptors and directories of the container or of the process in it.
fn received(pid_file: &Path, canary: &Canary, is_source: bool) -> Verdict {
    let Some(pid) = pid(pid_file) else {
        return Ok(());
    };
    let top = canary.dir.file_name().unwrap_or_default().to_string_lossy();
    for line in text(format!("/proc/{pid}/mountinfo")).lines() {
        let root = line.split(' ').nth(3).unwrap_or_default();
        if !is_source && root.split('/').any(|part| part == top) {
            return fail(format!("a mount of the canary: {line}"));
        }
    }
    for name in ["cwd", "root", "exe"] {
        if let Ok(meta) = fs::metadata(format!("/proc/{pid}/{name}")) {
            ensure!(!canary.has((meta.dev(), meta.ino())), "{name} is of the canary");
        }
    }
    Ok(())
}

/// Does what a runtime with paths in place of descriptors would do. Each such use must be caught.
fn a_command_that_follows_names_is_caught(t: &T) -> Verdict {
    for what in ["write", "read", "list", "chmod", "chdir", "mount"] {
        let canary = Canary::new(t.path(&format!("canary-{what}")), &exchange::names())?;
        let (lookups, bundle) = by_name(t, what, None, &canary)?.0;
        let tries = tries(&lookups, &bundle, subject(what, Flavour::Plain));
        let mut caught = false;
        // A FIFO would be caught too, but only by the time limit.
        let one_by_one = |a: &Try| matches!(a.form, Form::During(..)) && !matches!(a.kind, Replacement::Fifo);
        for attempt in tries.into_iter().filter(one_by_one) {
            caught |= by_name(t, what, Some(attempt), &canary)?.1.is_err();
        }
        ensure!(caught, "nothing was noticed of {what}");
    }
    Ok(())
}

type Lookups = ((Vec<Lookup>, PathBuf), Verdict);

/// Runs the payload's command that uses paths.
fn by_name(t: &T, what: &str, attempt: Option<Try>, canary: &Canary) -> Verdict<Lookups> {
    let bundle = hostile(t, Flavour::Plain)?;
    let exchange = attempt.map(|a| Exchange::new(t, &bundle.dir, &a.target, a.kind, canary)).transpose()?;
    let form = attempt.map_or(Form::Never, |a| a.form);
    let mut watch = Watch { exchange, form, canary, host: &[], lookups: Vec::new(), wrong: Vec::new() };
    let me = std::env::current_exe().context("/proc/self/exe")?;
    let mut command = Command::new(&me);
    command.args(["@payload", "by-name", what]).arg(bundle.rootfs());
    let (capture, mounts) = (t.capture(), text("/proc/self/mountinfo"));
    let what = Followed { command: &command, own: &me, other: None, capture: &capture };
    let ran = follow(&what, &mut watch)?;
    let judged = judge(&ran, &watch, false, &mounts);
    for line in text("/proc/self/mountinfo").lines().filter(|line| !mounts.contains(line)) {
        let _ = umount2(line.split(' ').nth(4).unwrap_or_default(), MntFlags::MNT_DETACH);
    }
    fs::remove_dir_all(&bundle.dir)?;
    Ok(((watch.lookups, bundle.dir), judged))
}
