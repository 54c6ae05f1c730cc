//! Resources that the kernel counts for a user, a cgroup or a namespace.

use super::limit::{Limit, Missing};
use super::verbs::{ShortageSubject, ShortageVerb, StatusBefore, VERBS};
use crate::ensure;
use crate::kit::machine::text;
use crate::kit::stop::{Context, skip};
use crate::kit::{T, Verdict};
use std::fs;
use std::path::Path;

/// Verbs that create a resource, executed by a script that makes it scarce.
fn below(t: &T, before: &[StatusBefore], amounts: &[u64], missing: Missing, script: &dyn Fn(u64) -> String) -> Verdict {
    let subject = ShortageSubject::new(t, |bundle| bundle)?;
    let makes =
        |verb: &&ShortageVerb| before.contains(&verb.before) && ["create", "run", "exec"].contains(&verb.words[0]);
    for verb in VERBS.iter().filter(makes) {
        let mut done = false;
        for &amount in amounts {
            let id = subject.prepare(verb.before)?;
            let below = subject.below(script(amount));
            let attempted = below.attempt(verb.words, &id, Limit::World(missing));
            subject.clean(&id).context(format!("{:?} with {amount}", verb.words))?;
            done = attempted.context(format!("{:?} with {amount}", verb.words))?;
        }
        ensure!(done, "{:?} does not succeed with {amounts:?}", verb.words);
    }
    Ok(())
}

const BOTH: [StatusBefore; 2] = [StatusBefore::Nothing, StatusBefore::Running];

/// `user.max_*_namespaces`, in a user namespace in which the runtime is root.
pub fn namespaces(t: &T) -> Verdict {
    for kind in ["pid", "net", "ipc", "uts", "mnt", "cgroup"] {
        let script = |amount: u64| {
            let limit = if amount == 2 { 100 } else { amount };
            format!(
                "exec unshare --user --map-root-user sh -c 'echo {limit} >/proc/sys/user/max_{kind}_namespaces; \
                exec \"$@\"' sh \"$@\""
            )
        };
        below(t, &[StatusBefore::Nothing], &[0, 1, 2], Missing::Space, &script).context(kind)?;
    }
    Ok(())
}

/// A cgroup with a limit for the caller, in which the container's processes count as well.
fn in_a_cgroup(name: &str, file: &str, unit: &str) -> impl Fn(u64) -> String {
    let dir = format!("/sys/fs/cgroup/{name}");
    let _ = fs::create_dir(&dir);
    let (file, unit) = (file.to_owned(), unit.to_owned());
    move |amount| format!("echo {amount}{unit} >{dir}/{file}; echo $$ >{dir}/cgroup.procs; exec \"$@\"")
}

pub fn pids(t: &T) -> Verdict {
    let amounts: Vec<u64> = (1..=4).chain([64]).collect();
    let done = below(t, &BOTH, &amounts, Missing::Processes, &in_a_cgroup("short", "pids.max", ""));
    fs::remove_dir("/sys/fs/cgroup/short")?;
    done
}

pub fn memory(t: &T) -> Verdict {
    let script = in_a_cgroup("short", "memory.max", "K");
    let done = below(t, &BOTH, &[1536, 3072, 65536], Missing::Memory, &script);
    fs::remove_dir("/sys/fs/cgroup/short")?;
    done
}

/// A kernel parameter that is changed for the time of an attempt.
fn with_setting(file: &str, value: u64, tried: impl FnOnce() -> Verdict) -> Verdict {
    let before = text(file);
    if !Path::new(file).exists() {
        return skip(format!("no {file}"));
    }
    fs::write(file, value.to_string()).context(file)?;
    let done = tried();
    fs::write(file, before).context(file)?;
    done
}

/// More mounts or keys than the machine has: the limit outside of attempts.
const ENOUGH: u64 = 100_000;

/// Sets a kernel parameter for one command alone. Containers are prepared and removed without the limit.
fn meanwhile(file: &str, amount: u64) -> String {
    format!("echo {amount} >{file}; \"$@\"; code=$?; echo {ENOUGH} >{file}; exit $code")
}

/// `fs.mount-max`, of a mount namespace.
pub fn mounts(t: &T) -> Verdict {
    let now = text("/proc/self/mountinfo").lines().count() as u64;
    let file = "/proc/sys/fs/mount-max";
    let amounts: Vec<u64> = (0..=16).step_by(4).map(|more| now + more).chain([ENOUGH]).collect();
    let script = |amount: u64| meanwhile(file, amount);
    with_setting(file, ENOUGH, || below(t, &BOTH, &amounts, Missing::Space, &script))
}

/// The number of keys that root may have.
pub fn keys(t: &T) -> Verdict {
    let file = "/proc/sys/kernel/keys/root_maxkeys";
    let now = text("/proc/key-users");
    let root = now.lines().find_map(|line| line.trim().strip_prefix("0:"));
    let used =
        root.and_then(|line| line.split_whitespace().nth(2)?.split('/').next()?.parse::<u64>().ok()).unwrap_or(0);
    let script = |amount: u64| meanwhile(file, amount);
    with_setting(file, ENOUGH, || below(t, &BOTH, &[used, used + 1, ENOUGH], Missing::Quota, &script))
}
