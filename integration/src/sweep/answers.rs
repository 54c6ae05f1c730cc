//! Injections that are answers, `integration/sweep/answers`.

use super::oracle::KINDS;
use super::peers::glob;
use super::point::{Action, Point};

const TEXT: &str = include_str!("../../sweep/answers");

/// The rows of the file.
pub struct Answers(Vec<Answer>);

/// An injection from which a verb learns a fact, and continues in another way.
struct Answer {
    /// The row without its reason, with single spaces.
    row: String,
    call: String,
    /// The text of an [`Action`]; `*` is any error.
    action: String,
    scenario: String,
    kind: String,
    text: String,
    /// Whether a complete sweep may lack this answer.
    perhaps: bool,
}

impl Answers {
    /// Reads the file.
    pub fn load() -> Result<Answers, String> {
        Answers::parse(TEXT)
    }

    /// The rows `CALL INJECTION | SCENARIO | KIND | TEXT | REASON`.
    fn parse(text: &str) -> Result<Answers, String> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let answer = |line: &str| {
            let parts: Vec<&str> = line.split('|').map(str::trim).collect();
            let [what, scenario, kind, text, reason] = parts[..] else {
                return Err(format!("not five columns: {line}"));
            };
            if parts.contains(&"") {
                return Err(format!("an empty column: {line}"));
            }
            let (call, action) = what.split_once(' ').ok_or(format!("no injection: {line}"))?;
            let action = action.trim();
            if action != "*" {
                action.parse::<Action>()?;
            }
            if !KINDS.contains(&kind) {
                return Err(format!("{kind:?} is no kind of fault: {line}"));
            }
            let row = format!("{call} {action} | {scenario} | {kind} | {text}");
            let [call, action, scenario, kind, text] = [call, action, scenario, kind, text].map(str::to_owned);
            Ok(Answer { row, call, action, scenario, kind, text, perhaps: reason.starts_with("perhaps:") })
        };
        lines.map(answer).collect::<Result<_, _>>().map(Answers)
    }

    /// The row that excuses this fault.
    pub fn find(&self, scenario: &str, point: &Point, action: Action, fault: (&str, &str)) -> Option<&str> {
        let does = |answer: &Answer| match action {
            Action::Fail(_) if answer.action == "*" => true,
            _ => answer.action == action.to_string(),
        };
        let is_it = |answer: &&Answer| {
            does_match(&answer.call, point)
                && does(answer)
                && glob(&answer.scenario, scenario)
                && answer.kind == fault.0
                && glob(&answer.text, fault.1)
        };
        self.0.iter().find(is_it).map(|answer| answer.row.as_str())
    }

    /// The rows that a whole sweep uses.
    pub fn expected(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter(|answer| !answer.perhaps).map(|answer| answer.row.as_str())
    }
}

/// Whether a point is at this call, or is this call of its process.
fn does_match(call: &str, point: &Point) -> bool {
    match call.contains('#') {
        true => glob(call, &format!("{}#{}", point.call, point.nth)),
        false => glob(call, &point.call),
    }
}

#[cfg(test)]
mod tests {
    use super::{Action, Answers, Point};
    use nix::errno::Errno;

    const WORKS: &str = "succeeds without its work";

    #[test]
    fn the_file_is_well_formed() {
        assert!(Answers::load().expect("the file").expected().count() > 10);
    }

    #[test]
    fn an_answer_is_one_for_what_is_seen_by_it() {
        let text = "# a comment\nmknodat EPERM | run/* | succeeds without its work | */dev/* | it is bound\n\
            * * | list/* | hangs | * | slow\n* SIGKILL | ps/* | hangs | * | killed\n\
            mmap#2 ENOSPC | ps/* | hangs | * | perhaps: slow";
        let answers = Answers::parse(text).expect("rows");
        let is_answer = |scenario, call: &str, action, fault| {
            let point = Point { process: "main".to_owned(), call: call.to_owned(), nth: 2 };
            answers.find(scenario, &point, action, fault).is_some()
        };
        let (eperm, enospc) = (Action::Fail(Errno::EPERM), Action::Fail(Errno::ENOSPC));
        assert!(is_answer("run/plain", "mknodat", eperm, (WORKS, "new /dev/null")));
        assert!(is_answer("list/plain", "read", enospc, ("hangs", "")));
        assert!(is_answer("ps/plain", "read", Action::Kill, ("hangs", "")));
        assert!(is_answer("ps/plain", "mmap", enospc, ("hangs", "")));
        assert_eq!(answers.expected().count(), 3);
        for (scenario, call, action, fault) in [
            ("ps/plain", "mmap2", enospc, ("hangs", "")),
            ("run/plain", "mknodat", eperm, (WORKS, "new /proc")),
            ("run/plain", "mknodat", eperm, ("left after delete --force", "/dev/null")),
            ("create/plain", "mknodat", eperm, (WORKS, "new /dev/null")),
            ("run/plain", "mknodat", enospc, (WORKS, "new /dev/null")),
            ("run/plain", "mknodat", Action::Kill, (WORKS, "new /dev/null")),
            ("run/plain", "mkdirat", eperm, (WORKS, "new /dev/null")),
            ("list/plain", "read", Action::Kill, ("hangs", "")),
            ("ps/plain", "read", eperm, ("hangs", "")),
        ] {
            assert!(!is_answer(scenario, call, action, fault), "{scenario} {call} {action} {fault:?}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (row, part) in [
            ("mknodat EPERM | a | hangs | b", "five columns"),
            ("mknodat | a | hangs | b | c", "no injection"),
            ("mknodat EPERM | | hangs | b | c", "empty"),
            ("mknodat EMOON | a | hangs | b | c", "EMOON"),
            ("mknodat EPERM | a | sings | b | c", "sings"),
        ] {
            assert!(Answers::parse(row).err().is_some_and(|error| error.contains(part)), "{row}");
        }
    }
}
