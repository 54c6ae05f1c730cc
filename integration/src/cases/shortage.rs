//! Each resource is short, from none up to the amount with which a command succeeds. The command must report the
//! missing resource, in time, and `delete --force` must remove the container; if that needs none of the resource, even
//! while none is left.

mod disk;
mod kernel;
mod limit;
mod shims;
mod verbs;

use self::limit::Limit;
use self::verbs::{ShortageSubject, ShortageVerb, VERBS, truthful};
use crate::kit::stop::{Context, fail};
use crate::kit::{Need, Ran, Stop, T, Verdict, runtime};
use crate::{chapter, ensure};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr};
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::time::Duration;

chapter! { "shortage":
    few_descriptors_are_reported_by_every_verb [Need::Slow, Need::Windlass],
    files_that_may_not_be_large_are_reported_by_every_verb [Need::Slow, Need::Windlass],
    few_processes_of_a_user_are_reported [Need::Slow, Need::Windlass],
    a_state_root_with_ever_more_room [Need::Slow, Need::Windlass],
    a_full_state_root_stops_no_verb_but_those_that_make [Need::Slow, Need::Windlass],
    a_full_log_or_pid_file_is_reported [Need::Slow, Need::Windlass],
    a_full_volume_is_reported [Need::Slow, Need::Windlass],
    few_namespaces_are_reported [Need::Slow, Need::Windlass],
    few_processes_of_the_callers_cgroup_are_reported [Need::Slow, Need::Windlass, Need::Controller("pids")],
    little_memory_of_the_callers_cgroup_leaves_what_can_be_deleted
        [Need::Slow, Need::Windlass, Need::Controller("memory")],
    few_mounts_are_reported [Need::Slow, Need::Windlass, Need::OwnKernel],
    few_keys_are_reported [Need::Slow, Need::Windlass, Need::OwnKernel],
    an_init_without_descriptors_waits_for_start_all_the_same [Need::Windlass],
    a_shim_with_few_descriptors_begins_or_says_why [Need::Slow, Need::Windlass],
    a_shim_with_little_room_begins_or_says_why [Need::Slow, Need::Windlass],
    a_shim_that_has_no_descriptors_left_records_the_end [Need::Windlass],
    a_shim_without_watches_records_the_end [Need::Windlass],
    an_answer_that_says_nothing_of_a_shortage_is_caught [Need::Windlass],
}

use disk::{
    beside as a_full_log_or_pid_file_is_reported,
    filled_state_root as a_full_state_root_stops_no_verb_but_those_that_make,
    growing_state_root as a_state_root_with_ever_more_room, volume as a_full_volume_is_reported,
};
use kernel::{
    keys as few_keys_are_reported, memory as little_memory_of_the_callers_cgroup_leaves_what_can_be_deleted,
    mounts as few_mounts_are_reported, namespaces as few_namespaces_are_reported,
    pids as few_processes_of_the_callers_cgroup_are_reported,
};
use shims::{
    descriptors as a_shim_with_few_descriptors_begins_or_says_why,
    none_left as a_shim_that_has_no_descriptors_left_records_the_end,
    room as a_shim_with_little_room_begins_or_says_why, watches as a_shim_without_watches_records_the_end,
};

/// With this much of a resource every verb must work.
const ENOUGH: u64 = 128;

/// After this many successes in a row, the amount counts as enough.
const IN_A_ROW: u64 = 3;

/// Tries a verb with a growing amount of a resource. Returns the amount that was enough.
fn ever_more(
    subject: &ShortageSubject<'_>,
    verb: &ShortageVerb,
    from: u64,
    limit: impl Fn(u64) -> Limit,
) -> Verdict<u64> {
    let mut succeeded = 0;
    for much in from..=ENOUGH {
        let id = subject.prepare(verb.before)?;
        let done = subject.attempt(verb.words, &id, limit(much));
        subject.clean(&id).context(format!("{} with {much}", verb.words[0]))?;
        let done = done.context(format!("{} with {much}", verb.words[0]))?;
        succeeded = if done { succeeded + 1 } else { 0 };
        if succeeded == IN_A_ROW {
            return Ok(much + 1 - IN_A_ROW);
        }
    }
    crate::kit::stop::fail(format!("{} does not succeed with {ENOUGH}", verb.words[0]))
}

fn few_descriptors_are_reported_by_every_verb(t: &T) -> Verdict {
    let subject = ShortageSubject::new(t, |bundle| bundle)?;
    for verb in VERBS {
        // 0, 1 and 2 are open.
        let enough = ever_more(&subject, verb, 3, Limit::Descriptors)?;
        println!("{enough} descriptors: {}", verb.words.join(" "));
    }
    Ok(())
}

/// A created container must not end because descriptors are short at the moment of its start.
fn an_init_without_descriptors_waits_for_start_all_the_same(t: &T) -> Verdict {
    let container = t.create(&t.bundle()?.args(&["/bin/sleep", "1000"]))?;
    let pid = container.pid()?.to_string();
    let limit = |much: &str| t.host("prlimit", &["--pid", &pid, &format!("--nofile={much}:1024")]);
    let name =
        fs::read_dir(t.root())?.flatten().find(|entry| entry.file_name().to_string_lossy().starts_with("@start"));
    let Some(name) = name else { return fail("there is no start socket") };
    limit("0")?;
    // The kernel has reserved the descriptor of the first connection already.
    let died = socket::socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
    socket::connect(died.as_raw_fd(), &UnixAddr::new(&name.path())?)?;
    drop(died);
    let mut start = t.command();
    let mut start = start.args(["start", &container.id]).spawn()?;
    std::thread::sleep(Duration::from_millis(300));
    let early = start.try_wait()?;
    limit("1024")?;
    let status = runtime::wait(&mut start, Duration::from_secs(60), "start").map_err(Stop::Fail)?;
    ensure!(early.is_none() && status.success(), "start ended early with {early:?}, and with {status:?}");
    container.status_is("running")
}

fn files_that_may_not_be_large_are_reported_by_every_verb(t: &T) -> Verdict {
    let subject = ShortageSubject::new(t, |bundle| bundle)?;
    // With less the message has no room in the file that it goes to.
    for (size, verb) in
        [512, 1024, 2048, 4096, 1 << 20].into_iter().flat_map(|size| VERBS.iter().map(move |v| (size, v)))
    {
        let id = subject.prepare(verb.before)?;
        let done = subject.attempt(verb.words, &id, Limit::FileSize(size));
        subject.clean(&id).context(format!("{} with {size} bytes", verb.words[0]))?;
        let done = done.context(format!("{} with {size} bytes", verb.words[0]))?;
        ensure!(done || size < 1 << 20, "{} has failed with {size} bytes", verb.words[0]);
    }
    Ok(())
}

fn few_processes_of_a_user_are_reported(t: &T) -> Verdict {
    let user = super::rootless::User::new(t, false)?;
    let bundle = user.bundle()?;
    bundle.write()?;
    let mut succeeded = 0;
    for much in 1..=ENOUGH {
        let limit = Limit::Processes(much);
        let id = t.id();
        let as_user = |words: &[&str]| {
            let mut command = user.command();
            command.args(words);
            let mut command = limit.apply(&command);
            command.uid(super::rootless::UID).gid(super::rootless::UID);
            t.finish(command)
        };
        let dir = bundle.dir.display().to_string();
        let ran = as_user(&["run", "--bundle", &dir, &id])?;
        truthful(&ran, limit).context(format!("run with {much} processes"))?;
        t.finish({
            let mut command = user.command();
            command.args(["delete", "--force", &id]);
            command
        })?
        .ok()?;
        succeeded = if ran.code == 0 { succeeded + 1 } else { 0 };
        if succeeded == IN_A_ROW {
            ensure!(much > IN_A_ROW, "the limit is not felt");
            println!("{} processes: run", much + 1 - IN_A_ROW);
            return Ok(());
        }
    }
    crate::kit::stop::fail("run never succeeds")
}

/// Tests the oracle of this chapter with wrong answers of a runtime.
fn an_answer_that_says_nothing_of_a_shortage_is_caught(_: &T) -> Verdict {
    let ran = |code, stderr: &str| Ran {
        command: String::new(),
        code,
        stdout: String::new(),
        stderr: stderr.to_owned(),
        took: Duration::ZERO,
    };
    let limit = Limit::Descriptors(5);
    ensure!(truthful(&ran(0, ""), limit).is_ok(), "a success");
    ensure!(truthful(&ran(1, "openat(...) = EMFILE"), limit).is_ok(), "an error that says so");
    for (code, stderr) in [(1, ""), (1, "no such file or directory"), (-9, ""), (101, "panicked at ... EMFILE")] {
        ensure!(truthful(&ran(code, stderr), limit).is_err(), "{code} {stderr:?} is not caught");
    }
    Ok(())
}
