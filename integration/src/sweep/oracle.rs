//! Decides whether a run with an injection is correct. The oracle knows neither verbs nor calls, only the results of a
//! run without an injection.

use super::point::Action;
use nix::errno::Errno;

/// The observations of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The exit code, or the signal as a negative number. `None` if the command did not end in time.
    pub code: Option<i32>,
    /// The text on standard error or in the log.
    pub error: String,
    /// The output and the effect, by name. After a failure there is `status` alone.
    pub facts: Vec<(String, String)>,
    /// The objects that exist only after the run.
    pub new: Vec<String>,
    /// The objects that existed only before the run.
    pub gone: Vec<String>,
    /// The changes to objects of the caller.
    pub changed: Vec<String>,
    /// Why `delete --force` failed, if it did.
    pub delete: Option<String>,
    /// The objects that exist after `delete --force` and did not before the run.
    pub left: Vec<String>,
}

impl Seen {
    /// A fact by its name.
    pub fn fact(&self, name: &str) -> &str {
        self.facts.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }
}

/// The kinds of fault of a verb.
pub const KINDS: &[&str] = &[
    "hangs",
    "delete --force fails",
    "left after delete --force",
    "the caller's things are changed",
    "ends by a signal",
    "succeeds without its work",
    "fails without a word",
    "fails and leaves something",
    "fails and has done it",
    "the error is not named",
];

/// How an injection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The verb has done its work.
    Tolerated,
    /// The run has taken another way, as this row of `answers` says.
    Answered(String),
    /// The verb has failed and reported it. The flag is whether it named the call.
    Failed(bool),
    /// The command was killed, and everything could be removed.
    Killed,
    /// The call was not made in this run.
    Unreached,
    /// A fault: its kind, and the details.
    Fault(&'static str, String),
}

/// The statuses that the container may have after a failed verb.
pub struct Allowed<'a> {
    /// Values of the fact `status`.
    pub status: &'a [&'a str],
}

/// Judges one run against the one without an injection.
pub fn judge(base: &Seen, seen: &Seen, call: &str, action: Action, main_killed: bool, allowed: &Allowed) -> Outcome {
    let fault = |kind, text: String| Outcome::Fault(kind, text);
    let Some(code) = seen.code else {
        return fault("hangs", String::new());
    };
    if let Some(error) = &seen.delete {
        return fault("delete --force fails", error.clone());
    }
    if !seen.left.is_empty() {
        return fault("left after delete --force", seen.left.join("; "));
    }
    // After a kill no process restores the terminal. It also stays changed if the call that restores it is the one
    // that fails.
    let is_excused = |line: &&String| line.contains(": terminal ") && (main_killed || call.starts_with("ioctl:TCSETS"));
    let changed: Vec<&str> = seen.changed.iter().filter(|line| !is_excused(line)).map(String::as_str).collect();
    if !changed.is_empty() {
        return fault("the caller's things are changed", changed.join("; "));
    }
    if main_killed {
        return Outcome::Killed;
    }
    if code < 0 && !(out_of_memory(call, action) && code == -(libc::SIGABRT)) {
        return fault("ends by a signal", format!("signal {}", -code));
    }
    if Some(code) == base.code {
        let is_said = matches!(action, Action::Fail(errno) if names_errno(&seen.error, errno));
        return match difference(base, seen) {
            // The exit code is that of the program, or the command has warned about work that it left out. The work of
            // the verb itself must be done, except for objects that could not be removed.
            Some(text) if is_said && (text.starts_with("output: ") || removes(call)) => {
                Outcome::Failed(names_call(&seen.error, call))
            }
            Some(text) => fault("succeeds without its work", text),
            None => Outcome::Tolerated,
        };
    }
    // Init was killed, and the exit code reports that as a shell's would.
    let as_killed = action == Action::Kill && code == 128 + libc::SIGKILL;
    if seen.error.trim().is_empty() && !as_killed {
        return fault("fails without a word", format!("exit code {code}"));
    }
    if !seen.new.is_empty() && !removes(call) {
        return fault("fails and leaves something", seen.new.join("; "));
    }
    let status = seen.fact("status");
    if !allowed.status.contains(&status) && !removes(call) {
        return fault("fails and has done it", format!("status {status}"));
    }
    match action {
        Action::Kill => Outcome::Killed,
        Action::Fail(errno) => {
            if !names_errno(&seen.error, errno) && !out_of_memory(call, action) {
                return fault("the error is not named", seen.error.clone());
            }
            Outcome::Failed(names_call(&seen.error, call))
        }
    }
}

/// The first difference between two successful runs.
fn difference(base: &Seen, seen: &Seen) -> Option<String> {
    for (name, value) in &base.facts {
        let other = seen.fact(name);
        if other != value {
            return Some(format!("{name}: {}", first_difference(value, other)));
        }
    }
    let differs = |what: &str, base: &[String], seen: &[String]| {
        let more = seen.iter().filter(|name| !base.contains(name)).map(|name| format!("+{name}"));
        let less = base.iter().filter(|name| !seen.contains(name)).map(|name| format!("-{name}"));
        let all: Vec<String> = more.chain(less).collect();
        (!all.is_empty()).then(|| format!("{what}: {}", all.join("; ")))
    };
    differs("new", &base.new, &seen.new).or_else(|| differs("gone", &base.gone, &seen.gone))
}

fn first_difference(base: &str, other: &str) -> String {
    let lines = base.lines().zip(other.lines()).find(|(one, two)| one != two);
    match lines {
        Some((one, two)) => format!("{one:?} has become {two:?}"),
        None => format!("{} lines have become {}: {other:?}", base.lines().count(), other.lines().count()),
    }
}

/// Something could not be removed, and the error says so.
fn removes(call: &str) -> bool {
    ["unlink", "unlinkat", "rmdir", "umount2"].contains(&call)
}

/// A failed allocation aborts the process, by design of the language.
pub fn out_of_memory(call: &str, action: Action) -> bool {
    action == Action::Fail(Errno::ENOMEM) && ["mmap", "mremap", "brk", "mprotect"].contains(&call)
}

/// Whether a text contains the name of the error or its description.
pub fn names_errno(text: &str, errno: Errno) -> bool {
    let text = text.to_lowercase();
    let words = errno.desc().to_lowercase();
    text.contains(&format!("{errno:?}").to_lowercase()) || text.contains(&words) || text.contains(other_words(errno))
}

/// The descriptions of some errors in Go, which differ from strerror(3).
fn other_words(errno: Errno) -> &'static str {
    match errno {
        Errno::EIO => "i/o error",
        Errno::EAGAIN => "resource temporarily unavailable",
        Errno::EDQUOT => "disk quota exceeded",
        Errno::ENOSYS => "not implemented",
        Errno::EBUSY => "resource busy",
        Errno::ENOENT => "does not exist",
        Errno::ESRCH => "no such process",
        _ => "\0",
    }
}

/// Whether a text contains the name of the call, as a user knows it.
pub fn names_call(text: &str, call: &str) -> bool {
    let base = call.split(':').next().unwrap_or(call);
    let stem = base.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches("at");
    let stem = if stem == "newfst" { "stat" } else { stem };
    [base, stem].iter().any(|name| text.contains(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAIL: Action = Action::Fail(Errno::EMFILE);

    fn seen(code: i32) -> Seen {
        Seen { code: Some(code), facts: vec![("status".to_owned(), "running".to_owned())], ..Seen::default() }
    }

    fn kind(base: &Seen, seen: &Seen, action: Action) -> String {
        match judge(base, seen, "openat", action, false, &Allowed { status: &["stopped"] }) {
            Outcome::Fault(kind, _) => kind.to_owned(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn a_success_must_be_one() {
        let mut other = seen(0);
        assert_eq!(kind(&seen(0), &other, FAIL), "Tolerated");
        other.facts[0].1 = "created".to_owned();
        assert_eq!(kind(&seen(0), &other, FAIL), "succeeds without its work");
        other.error = "warning: too many open files".to_owned();
        assert_eq!(kind(&seen(0), &other, FAIL), "succeeds without its work");
        let mut base = seen(0);
        base.facts.push(("output".to_owned(), "two\nlines".to_owned()));
        let mut less = Seen { facts: base.facts.clone(), ..other };
        less.facts[0] = base.facts[0].clone();
        less.facts[1].1 = "one".to_owned();
        assert_eq!(kind(&base, &less, FAIL), "Failed(true)");
        let more = Seen { new: vec!["mount /x".to_owned()], ..seen(0) };
        assert_eq!(kind(&seen(0), &more, FAIL), "succeeds without its work");
        let less = Seen { gone: vec!["cgroup /x".to_owned()], ..seen(0) };
        assert_eq!(kind(&seen(0), &less, FAIL), "succeeds without its work");
    }

    #[test]
    fn a_failure_says_why_and_leaves_nothing() {
        let mut failed = seen(1);
        failed.facts[0].1 = "stopped".to_owned();
        assert_eq!(kind(&seen(0), &failed, FAIL), "fails without a word");
        failed.error = "it did not work".to_owned();
        assert_eq!(kind(&seen(0), &failed, FAIL), "the error is not named");
        failed.error = "cannot use x: too many descriptors, EMFILE".to_owned();
        assert_eq!(kind(&seen(0), &failed, FAIL), "Failed(false)");
        failed.error = "open(\"x\") = EMFILE".to_owned();
        assert_eq!(kind(&seen(0), &failed, FAIL), "Failed(true)");
        failed.new = vec!["cgroup /x".to_owned()];
        assert_eq!(kind(&seen(0), &failed, FAIL), "fails and leaves something");
        failed.new.clear();
        failed.facts[0].1 = "running".to_owned();
        assert_eq!(kind(&seen(0), &failed, FAIL), "fails and has done it");
    }

    #[test]
    fn what_cannot_be_removed_is_left() {
        let error = "unlink(\"x\") = EACCES".to_owned();
        let failed = Seen { error, new: vec!["cgroup /x".to_owned()], ..seen(1) };
        let (allowed, action) = (Allowed { status: &["absent"] }, Action::Fail(Errno::EACCES));
        assert_eq!(judge(&seen(0), &failed, "unlinkat", action, false, &allowed), Outcome::Failed(true));
    }

    #[test]
    fn whatever_happens_all_can_be_removed_in_time() {
        let hung = Seen { code: None, ..seen(0) };
        assert_eq!(kind(&seen(0), &hung, Action::Kill), "hangs");
        let left = Seen { left: vec!["process x".to_owned()], ..seen(0) };
        assert_eq!(kind(&seen(0), &left, Action::Kill), "left after delete --force");
        let refused = Seen { delete: Some("no".to_owned()), ..seen(0) };
        assert_eq!(kind(&seen(0), &refused, FAIL), "delete --force fails");
        let changed = Seen { changed: vec!["stdout".to_owned()], ..seen(0) };
        assert_eq!(kind(&seen(0), &changed, FAIL), "the caller's things are changed");
        assert_eq!(kind(&seen(0), &seen(-11), FAIL), "ends by a signal");
    }

    #[test]
    fn a_terminal_is_restored_by_who_lives() {
        let changed = Seen { changed: vec!["stdin: terminal raw".to_owned()], ..seen(-9) };
        let judged = |call: &str, action, main_killed| {
            judge(&seen(0), &changed, call, action, main_killed, &Allowed { status: &[] })
        };
        assert_eq!(judged("poll", Action::Kill, true), Outcome::Killed);
        assert!(matches!(judged("poll", FAIL, false), Outcome::Fault("the caller's things are changed", _)));
    }

    #[test]
    fn who_is_killed_says_nothing() {
        let killed = Seen { new: vec!["cgroup /x".to_owned()], ..seen(-9) };
        let allowed = Allowed { status: &[] };
        assert_eq!(judge(&seen(0), &killed, "openat", Action::Kill, true, &allowed), Outcome::Killed);
        // If the call of a child fails, the command must report it.
        assert_eq!(kind(&seen(0), &seen(1), Action::Kill), "fails without a word");
        let mut init = seen(137);
        init.facts[0].1 = "stopped".to_owned();
        assert_eq!(kind(&seen(0), &init, Action::Kill), "Killed");
        assert_eq!(kind(&seen(0), &init, FAIL), "fails without a word");
    }

    #[test]
    fn calls_are_known_by_their_usual_names() {
        assert!(names_call("cannot open /x", "openat2") && names_call("mkdir(\"/x\")", "mkdirat"));
        assert!(names_call("stat /x", "newfstatat") && !names_call("cannot open /x", "mkdirat"));
    }
}
