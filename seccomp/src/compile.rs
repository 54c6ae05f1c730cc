//! Reads a profile, collects all problems in it, and compiles it.

use std::fmt;

use crate::arch::Arch;
use crate::emit::{self, Condition};
use crate::profile::{Arg, Profile, Rule};
use crate::program::{Data, Program};
use crate::resolve::{self, Clause, Rules};
use crate::table;
use crate::words::{self, EPERM, MAX_DATA, MAX_ERRNO, Operator, flag, ret};

/// The limit of clauses with conditions. No program can hold as many.
const MAX_CONDITIONAL: usize = 4 * Program::MAX_LEN;

/// An error in a profile, or a warning about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// A JSON pointer from the seccomp object, such as `/syscalls/3/action`.
    pub pointer: String,
    /// The description, which does not repeat the pointer.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.pointer, self.message)
    }
}

impl std::error::Error for Problem {}

/// A compiled profile, with the arguments of seccomp(2) that load it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Filter {
    /// The program.
    pub program: Program,
    /// `SECCOMP_FILTER_FLAG_*`, in a combination that the kernel accepts.
    pub flags: u32,
    /// Whether a rule has `SCMP_ACT_NOTIFY`, so that seccomp(2) returns a listener.
    pub needs_listener: bool,
    /// The parts of the profile that have no effect.
    pub warnings: Vec<Problem>,
}

impl Filter {
    /// Whether a call of this ABI fails, or ends the process, both with arguments whose bits are all 0 and with
    /// arguments whose bits are all 1.
    ///
    /// Other arguments are not tried: a profile that allows the call for a few arguments only counts as one that
    /// refuses it. A call that the ABI does not have is not refused.
    pub fn refuses(&self, arch: Arch, call: &str) -> bool {
        let refused = |nr, args| {
            let data = Data { arch: arch.audit(), nr, args, ..Data::default() };
            let action = self.program.simulate(&data) & !MAX_DATA;
            matches!(action, ret::KILL_PROCESS | ret::KILL_THREAD | ret::TRAP | ret::ERRNO)
        };
        arch.syscall(call).is_some_and(|nr| [[0; 6], [u64::MAX; 6]].into_iter().all(|args| refused(nr, args)))
    }

    /// Whether a call of this ABI with these arguments has the action `SCMP_ACT_ALLOW`. This is true for a call that
    /// the ABI does not have.
    pub fn allows(&self, arch: Arch, call: &str, args: [u64; 6]) -> bool {
        arch.syscall(call).is_none_or(|nr| {
            let data = Data { arch: arch.audit(), nr, args, ..Data::default() };
            self.program.simulate(&data) & !MAX_DATA == ret::ALLOW
        })
    }
}

/// Compiles a profile for a kernel whose native ABI is `native`.
///
/// The [documentation of the crate](crate) describes what the filter does.
///
/// # Errors
///
/// All errors in the profile: an unknown action, architecture, operator or flag,
/// an errno that is too large or given to an action without one, an argument index above
/// 5, a listener without a rule for it or the reverse, a program longer than
/// [`Program::MAX_LEN`].
pub fn compile(profile: &Profile<'_>, native: Arch) -> Result<Filter, Vec<Problem>> {
    let mut reader = Reader::default();
    let archs = reader.architectures(profile, native);
    let rules = reader.rules(profile);
    let flags = reader.flags(profile);
    reader.listener(profile);
    if !reader.problems.is_empty() {
        return Err(reader.problems);
    }
    let (sections, chains) = resolve::resolve(&rules, &archs);
    let program = emit::program(&sections, &chains, resolve::BAD_ARCH, native.little_endian());
    let Some(program) = program else {
        let message = format!("the rules need more than the {} instructions that the kernel allows", Program::MAX_LEN);
        return Err(vec![Problem { pointer: "/syscalls".into(), message }]);
    };
    Ok(Filter { program, flags, needs_listener: reader.notifies, warnings: reader.warnings })
}

/// Reads a profile and collects its problems and rules.
#[derive(Default)]
struct Reader {
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
    /// Whether a rule has the action `SCMP_ACT_NOTIFY`.
    notifies: bool,
}

impl Reader {
    fn problem(&mut self, pointer: impl Into<String>, message: impl Into<String>) {
        self.problems.push(Problem { pointer: pointer.into(), message: message.into() });
    }

    fn warning(&mut self, pointer: impl Into<String>, message: impl Into<String>) {
        self.warnings.push(Problem { pointer: pointer.into(), message: message.into() });
    }

    /// The native architecture and the listed ones, each once.
    fn architectures(&mut self, profile: &Profile<'_>, native: Arch) -> Vec<Arch> {
        let mut archs = vec![native];
        for (at, name) in profile.architectures.iter().enumerate() {
            let pointer = || format!("/architectures/{at}");
            match Arch::from_name(name) {
                None => self.problem(pointer(), format!("unknown architecture {name:?}")),
                Some(arch) if arch.little_endian() != native.little_endian() => {
                    self.problem(pointer(), format!("{name} has not the byte order of {}", native.name()))
                }
                Some(arch) if archs.contains(&arch) => {}
                Some(arch) => archs.push(arch),
            }
        }
        archs
    }

    fn flags(&mut self, profile: &Profile<'_>) -> u32 {
        let mut bits = 0;
        match &profile.flags {
            // As in runc and crun, a profile without `flags` does not request the costly mitigation of
            // speculative stores.
            None => bits |= flag::SPEC_ALLOW,
            Some(flags) => {
                for (at, name) in flags.iter().enumerate() {
                    match words::flag(name) {
                        Some(bit) => bits |= bit,
                        None => self.problem(format!("/flags/{at}"), format!("unknown flag {name:?}")),
                    }
                }
            }
        }
        if self.notifies {
            bits |= flag::NEW_LISTENER;
            if bits & flag::TSYNC != 0 {
                // Both flags use the return value of seccomp(2); this flag leaves it to the listener.
                bits |= flag::TSYNC_ESRCH;
            }
        } else if bits & flag::WAIT_KILLABLE_RECV != 0 {
            bits &= !flag::WAIT_KILLABLE_RECV;
            self.warning("/flags", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV has no effect: no rule has SCMP_ACT_NOTIFY");
        }
        bits
    }

    fn listener(&mut self, profile: &Profile<'_>) {
        let path = !profile.listener_path.is_empty();
        if self.notifies && !path {
            self.problem("/listenerPath", "SCMP_ACT_NOTIFY needs a listenerPath");
        }
        if !path && !profile.listener_metadata.is_empty() {
            self.problem("/listenerMetadata", "listenerMetadata without a listenerPath");
        }
        if path && !self.notifies {
            self.warning("/listenerPath", "has no effect: no rule has SCMP_ACT_NOTIFY");
        }
    }

    fn rules(&mut self, profile: &Profile<'_>) -> Rules {
        let default = self.action(&profile.default_action, profile.default_errno_ret, |field| match field {
            Field::Action => "/defaultAction".into(),
            Field::Errno => "/defaultErrnoRet".into(),
        });
        if default == Some(ret::USER_NOTIF) {
            self.problem("/defaultAction", "SCMP_ACT_NOTIFY cannot be the default action");
        }
        let mut rules = Rules::new(default.unwrap_or(ret::KILL_THREAD));
        for (at, rule) in profile.syscalls.iter().enumerate() {
            self.rule(at, rule, default, &mut rules);
        }
        rules
    }

    fn rule(&mut self, at: usize, rule: &Rule<'_>, default: Option<u32>, rules: &mut Rules) {
        let value = self.action(&rule.action, rule.errno_ret, |field| match field {
            Field::Action => format!("/syscalls/{at}/action"),
            Field::Errno => format!("/syscalls/{at}/errnoRet"),
        });
        let notifies = value == Some(ret::USER_NOTIF);
        self.notifies |= notifies;
        let first = rules.clauses.len() as u32 + 1;
        // A rule with the default action has one effect: its calls count as known to the profile.
        let clauses = match value {
            Some(value) if Some(value) != default => self.clauses(at, rule, value, rules),
            _ => {
                self.conditions(at, rule, &mut Vec::new());
                0
            }
        };
        if rule.names.is_empty() {
            self.problem(format!("/syscalls/{at}/names"), "at least one call must be named");
        }
        for (name_at, name) in rule.names.iter().enumerate() {
            let pointer = || format!("/syscalls/{at}/names/{name_at}");
            if notifies && name == "write" {
                // The runtime writes the listener's number to its parent after the filter is loaded.
                self.problem(pointer(), "SCMP_ACT_NOTIFY cannot be used for the write syscall");
            }
            let Some(call) = table::find(name) else {
                match name.is_empty() {
                    true => self.problem(pointer(), "an empty name is not a system call"),
                    false => self.warning(pointer(), format!("unknown system call {name:?}")),
                }
                continue;
            };
            rules.named[call] = true;
            if clauses == 0 {
                continue;
            }
            if !rule.args.is_empty() {
                let numbers = first..first + clauses;
                rules.sometimes.extend(numbers.map(|clause| (call as u16, clause)));
            } else if rules.always[call] == 0 {
                rules.always[call] = first;
            }
            if rules.sometimes.len() > MAX_CONDITIONAL {
                rules.sometimes.clear();
                let message = format!("more than {MAX_CONDITIONAL} calls in rules with conditions");
                self.problem("/syscalls", message);
            }
        }
    }

    /// Adds the clauses of a rule, and returns their number.
    fn clauses(&mut self, at: usize, rule: &Rule<'_>, value: u32, rules: &mut Rules) -> u32 {
        let start = rules.conditions.len();
        self.conditions(at, rule, &mut rules.conditions);
        let end = rules.conditions.len();
        // As in runc: if two conditions are on one argument, all conditions of the rule are alternatives.
        // Older profiles rely on that.
        let mut seen = 0_u8;
        let mut alternatives = false;
        for condition in &rules.conditions[start..end] {
            alternatives |= seen & (1 << condition.index) != 0;
            seen |= 1 << condition.index;
        }
        if !alternatives {
            rules.clauses.push(Clause { conditions: start..end, value });
            return 1;
        }
        let each = (start..end).map(|at| Clause { conditions: at..at + 1, value });
        rules.clauses.extend(each);
        (end - start) as u32
    }

    fn conditions(&mut self, at: usize, rule: &Rule<'_>, conditions: &mut Vec<Condition>) {
        for (arg_at, arg) in rule.args.iter().enumerate() {
            if let Some(condition) = self.condition(at, arg_at, arg) {
                conditions.push(condition);
            }
        }
    }

    fn condition(&mut self, at: usize, arg_at: usize, arg: &Arg<'_>) -> Option<Condition> {
        let pointer = |field| format!("/syscalls/{at}/args/{arg_at}/{field}");
        let operator = words::operator(&arg.op);
        if operator.is_none() {
            self.problem(pointer("op"), format!("unknown operator {:?}", arg.op));
        }
        if arg.index > 5 {
            self.problem(pointer("index"), format!("{} is not in 0..=5", arg.index));
            return None;
        }
        let operator = operator?;
        let (value, mask) = match operator {
            // As in libseccomp, bits outside of the mask are ignored in both values.
            Operator::MaskedEq => (arg.value_two & arg.value, arg.value),
            _ => (arg.value, u64::MAX),
        };
        Some(Condition { index: arg.index, operator, value, mask })
    }

    /// The return value of an action with its errno.
    fn action(&mut self, name: &str, errno: Option<u32>, pointer: impl Fn(Field) -> String) -> Option<u32> {
        let Some(value) = words::action(name) else {
            let message = match name {
                "" => "an action is required".into(),
                name => format!("unknown action {name:?}"),
            };
            self.problem(pointer(Field::Action), message);
            return None;
        };
        let largest = match value {
            ret::ERRNO => MAX_ERRNO,
            ret::TRACE => MAX_DATA,
            _ => {
                if errno.is_some() {
                    self.problem(pointer(Field::Errno), format!("{name} takes no errno"));
                }
                return Some(value);
            }
        };
        let errno = errno.unwrap_or(EPERM);
        if errno > largest {
            self.problem(pointer(Field::Errno), format!("{errno} is above {largest}"));
            return None;
        }
        Some(value | errno)
    }
}

/// The fields of an action.
enum Field {
    Action,
    Errno,
}
