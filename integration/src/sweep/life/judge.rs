//! Decides whether a life with an injection went right.

use super::super::oracle::{Outcome, Seen, names_call, names_errno, out_of_memory};
use super::super::point::Action;

/// Judges a life against the one without an injection.
pub fn judge(base: &Seen, seen: &Seen, call: &str, action: Action) -> Outcome {
    let fault = |kind, text: String| Outcome::Fault(kind, text);
    if let Some((name, _)) = seen.facts.iter().find(|(_, value)| value.starts_with("hangs")) {
        return fault("hangs", name.clone());
    }
    if !seen.left.is_empty() {
        return fault("left after delete --force", seen.left.join("; "));
    }
    if let Some(error) = &seen.delete {
        return fault("delete --force fails", error.clone());
    }
    if !seen.changed.is_empty() {
        return fault("the caller's things are changed", seen.changed.join("; "));
    }
    if let Some(text) = doubled(seen) {
        return fault("an exit is told twice", text);
    }
    let was_killed = !seen.fact("killed").is_empty();
    if let Some(text) = untrue(base, seen, was_killed) {
        return fault("an exit is not true", text);
    }
    if action == Action::Kill
        && let Some(text) = undurable(base, seen)
    {
        return fault("an exit is told before it is recorded", text);
    }
    match action {
        Action::Kill => Outcome::Killed,
        Action::Fail(_) if out_of_memory(call, action) => Outcome::Killed,
        Action::Fail(errno) => {
            let Some((name, was, other)) = difference(base, seen) else {
                return Outcome::Tolerated;
            };
            if let Some(text) = lost(seen) {
                return fault("an exit is lost", text);
            }
            let said: String =
                seen.facts.iter().map(|(_, value)| format!("{value}\n")).collect::<String>() + &seen.error;
            // An engine connects again to a living shim, and reads how many bytes were dropped.
            let is_told = seen.facts.iter().any(|(_, value)| value.starts_with("closed")) && is_alive(seen);
            if is_told || drops(seen) || loses_log(base, seen) {
                return Outcome::Failed(false);
            }
            if !names_errno(&said, errno) {
                return fault("the error is not named", format!("{name}: {was:?} has become {other:?}"));
            }
            Outcome::Failed(names_call(&said, call))
        }
    }
}

/// The facts that say how a process has ended.
const ENDS: &[&str] = &["exec wait", "wait", "record", "exit"];

/// The first fact that differs.
fn difference<'a>(base: &'a Seen, seen: &'a Seen) -> Option<(&'a str, &'a str, &'a str)> {
    let facts = base.facts.iter().filter(|(name, _)| name != "shim's errors");
    let mut pairs = facts.map(|(name, value)| (name.as_str(), value.as_str(), seen.fact(name)));
    pairs.find(|(_, value, other)| value != other)
}

/// Whether the shim has answered after the end of the container, or as conmon has done the work that follows the end.
fn is_alive(seen: &Seen) -> bool {
    let answers = |name: &&str| seen.fact(name).starts_with("ok") || seen.fact(name).starts_with("error");
    ["status", "delete", "delete again"].iter().any(answers) || is_over(seen)
}

/// Whether conmon has written the exit file and ended.
fn is_over(seen: &Seen) -> bool {
    seen.fact("record").starts_with("ok") && seen.fact("conmon ends") == "ok"
}

/// Whether conmon could not write its log and everything else is right. conmon reports that to syslog(3) alone.
fn loses_log(base: &Seen, seen: &Seen) -> bool {
    let names =
        base.facts.iter().map(|(name, _)| name.as_str()).filter(|name| *name != "log" && *name != "shim's errors");
    is_over(seen) && names.into_iter().all(|name| base.fact(name) == seen.fact(name))
}

/// Whether the shim reports that it could not write all output.
fn drops(seen: &Seen) -> bool {
    let status = seen.fact("status");
    status.starts_with("ok") && !status.contains("\"dropped_bytes\":0")
}

/// An exit event or an exit command that came twice.
fn doubled(seen: &Seen) -> Option<String> {
    let events = seen.fact("events").lines().filter(|line| line.starts_with("exited"));
    let mut whose: Vec<&str> = events.map(|line| line.split(' ').nth(1).unwrap_or_default()).collect();
    let count = whose.len();
    whose.dedup();
    let commands = seen.fact("exit command").lines().count();
    (whose.len() < count || commands > 1).then(|| format!("{}\n{commands} exit commands", seen.fact("events")))
}

/// A reported end of init that no record has.
fn undurable(base: &Seen, seen: &Seen) -> Option<String> {
    let by_event = |line: &str| line.starts_with("exited  ") || line.starts_with("exited init ");
    let is_told = ["wait", "exit"].iter().any(|name| seen.fact(name).starts_with("ok"))
        || !seen.fact("exit command").is_empty()
        || seen.fact("events").lines().any(by_event);
    let has_record = |seen: &Seen| seen.fact("record").starts_with("ok");
    (is_told && has_record(base) && !has_record(seen)).then(|| format!("{:?}", seen.facts))
}

/// An exit that was reported and is not the true one.
fn untrue(base: &Seen, seen: &Seen, was_killed: bool) -> Option<String> {
    let told = ENDS.iter().map(|name| (*name, seen.fact(name), base.fact(name)));
    let mut wrong = told.filter(|(_, value, base)| {
        let by_signal = value.contains("\"signal\":9") || *value == "ok 137";
        // Without a reader of its output the process has died of SIGPIPE, so this exit is true.
        let by_pipe = value.contains("\"signal\":13") || *value == "ok 141";
        value.starts_with("ok") && value != base && !(was_killed && by_signal) && !by_pipe && !is_unknown(value)
    });
    wrong.next().map(|(name, value, base)| format!("{name}: {base:?} has become {value:?}"))
}

/// An exit that is reported as unknown.
fn is_unknown(value: &str) -> bool {
    value.contains("\"status\":255") || value == "ok 255" || value == "ok -1"
}

/// The exit of a container that ran, if nothing reports it.
fn lost(seen: &Seen) -> Option<String> {
    // Every requested process. conmon's first process ends before the container is created; its answer counts.
    let answers = ["run", "sync", "create", "start"].map(|name| seen.fact(name));
    let has_run = !answers[0].is_empty() && answers.iter().all(|answer| answer.is_empty() || answer.starts_with("ok"));
    let is_told = ["wait", "record"].iter().any(|name| seen.fact(name).starts_with("ok"));
    (has_run && !is_told).then(|| format!("wait: {:?}, record: {:?}", seen.fact("wait"), seen.fact("record")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::errno::Errno;

    const FAIL: Action = Action::Fail(Errno::ENOSPC);

    fn seen(facts: &[(&str, &str)]) -> Seen {
        let facts = facts.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Seen { code: Some(0), facts, ..Seen::default() }
    }

    fn base() -> Seen {
        seen(&[
            ("run", "ok"),
            ("exec", "ok"),
            ("wait", "ok {\"code\":42}"),
            ("record", "ok 42"),
            ("events", "exited  42"),
        ])
    }

    fn kind(change: &[(&str, &str)], action: Action) -> String {
        let mut other = base();
        for (name, value) in change {
            other.facts.retain(|(known, _)| known != name);
            other.facts.push(((*name).to_owned(), (*value).to_owned()));
        }
        match judge(&base(), &other, "write", action) {
            Outcome::Fault(kind, _) => kind.to_owned(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn a_life_that_fails_says_why() {
        assert_eq!(kind(&[], FAIL), "Tolerated");
        assert_eq!(kind(&[("exec", "error write: no space left on device")], FAIL), "Failed(true)");
        assert_eq!(kind(&[("exec", "error it did not work")], FAIL), "the error is not named");
        assert_eq!(kind(&[("exec", "hangs")], FAIL), "hangs");
        assert_eq!(kind(&[("exec", "closed")], FAIL), "the error is not named");
        assert_eq!(kind(&[("exec", "closed"), ("status", "ok {\"dropped_bytes\":0}")], FAIL), "Failed(false)");
        assert_eq!(kind(&[("exec", "error x"), ("status", "ok {\"dropped_bytes\":7}")], FAIL), "Failed(false)");
    }

    #[test]
    fn what_conmon_loses_is_its_log_at_most() {
        let conmon = |change: (&str, &str)| {
            let mut facts = vec![("run", "ok"), ("record", "ok 42"), ("exit command", "ended"), ("log", "text")];
            facts.push(("conmon ends", "ok"));
            let base = seen(&facts);
            facts.iter_mut().filter(|(name, _)| *name == change.0).for_each(|fact| fact.1 = change.1);
            judge(&base, &seen(&facts), "write", FAIL)
        };
        assert_eq!(conmon(("log", "")), Outcome::Failed(false));
        for (name, value) in [("exit command", ""), ("record", "closed"), ("conmon ends", "hangs")] {
            assert!(matches!(conmon((name, value)), Outcome::Fault(..)), "{name}");
        }
    }

    #[test]
    fn an_exit_is_told_once_and_truly() {
        assert_eq!(kind(&[("wait", "ok {\"code\":0}")], FAIL), "an exit is not true");
        assert_eq!(kind(&[("wait", "closed"), ("record", "")], FAIL), "an exit is lost");
        assert_eq!(kind(&[("wait", "closed"), ("record", ""), ("events", "")], Action::Kill), "Killed");
        let never_ran = [("sync", "closed"), ("wait", ""), ("record", ""), ("shim's errors", "no space: ENOSPC")];
        assert_eq!(kind(&never_ran, FAIL), "Failed(false)");
        assert_eq!(kind(&[("events", "exited  42\nexited  42")], FAIL), "an exit is told twice");
        assert_eq!(kind(&[("killed", "yes"), ("wait", "ok {\"signal\":9}")], Action::Kill), "Killed");
        assert_eq!(kind(&[("wait", "ok {\"signal\":9}")], Action::Kill), "an exit is not true");
        assert_eq!(kind(&[("exit command", "ended\nended")], Action::Kill), "an exit is told twice");
        let early = "an exit is told before it is recorded";
        assert_eq!(kind(&[("record", "")], Action::Kill), early);
        assert_eq!(kind(&[("record", ""), ("wait", "closed")], Action::Kill), early, "the event has told it");
        let untold = [("record", ""), ("wait", "closed"), ("events", "exited e1 3")];
        assert_eq!(kind(&untold, Action::Kill), "Killed");
    }
}
