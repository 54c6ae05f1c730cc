//! Shared by the tests: random profiles, and the meaning of a profile, worked out for one call at a time directly from
//! its rules.

#![allow(dead_code)] // each test file uses a part of this

use std::borrow::Cow;

use proptest::prelude::*;
use proptest::sample::select;
use windlass_seccomp::{Arch, Arg, Data, Profile, Rule};

pub const KILL_THREAD: u32 = 0;
pub const KILL_PROCESS: u32 = 0x8000_0000;
pub const TRAP: u32 = 0x0003_0000;
pub const ERRNO: u32 = 0x0005_0000;
pub const NOTIFY: u32 = 0x7fc0_0000;
pub const TRACE: u32 = 0x7ff0_0000;
pub const LOG: u32 = 0x7ffc_0000;
pub const ALLOW: u32 = 0x7fff_0000;
pub const ENOSYS: u32 = 38;

/// The return value that an action stands for.
pub fn action_value(name: &str, errno: Option<u32>) -> u32 {
    let errno = errno.unwrap_or(1);
    match name {
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => KILL_THREAD,
        "SCMP_ACT_KILL_PROCESS" => KILL_PROCESS,
        "SCMP_ACT_TRAP" => TRAP,
        "SCMP_ACT_ERRNO" => ERRNO + errno,
        "SCMP_ACT_NOTIFY" => NOTIFY,
        "SCMP_ACT_TRACE" => TRACE + errno,
        "SCMP_ACT_LOG" => LOG,
        "SCMP_ACT_ALLOW" => ALLOW,
        other => panic!("{other}"),
    }
}

fn lets_pass(value: u32) -> bool {
    value == ALLOW || value == LOG || (TRACE..TRACE + 0x1_0000).contains(&value)
}

/// Calls inside socketcall(2) and ipc(2) which the random profiles use.
const INNER: [(&str, &str, u32); 6] = [
    ("socket", "socketcall", 1),
    ("connect", "socketcall", 3),
    ("accept", "socketcall", 5),
    ("sendmmsg", "socketcall", 20),
    ("semop", "ipc", 1),
    ("shmctl", "ipc", 24),
];

/// The answers of a profile to calls.
pub struct Oracle<'a> {
    archs: Vec<Arch>,
    default: u32,
    rules: Vec<&'a Rule<'a>>,
    /// The numbers of the names of each rule, by ABI; also of rules like the default.
    numbers: Vec<(Arch, Vec<Vec<u32>>)>,
}

impl<'a> Oracle<'a> {
    pub fn new(profile: &'a Profile<'a>, native: Arch) -> Self {
        let listed = profile.architectures.iter().map(|name| Arch::from_name(name).unwrap());
        let archs: Vec<Arch> = std::iter::once(native).chain(listed).collect();
        let default = action_value(&profile.default_action, profile.default_errno_ret);
        let rules: Vec<&Rule<'_>> = profile.syscalls.iter().collect();
        let numbers = archs.iter().map(|arch| {
            let of = |rule: &&Rule<'_>| rule.names.iter().filter_map(|name| arch.syscall(name)).collect();
            (*arch, rules.iter().map(of).collect())
        });
        let numbers = numbers.collect();
        Oracle { archs, default, rules, numbers }
    }

    pub fn answer(&self, data: &Data) -> u32 {
        let Some(arch) = self.abi(data) else {
            return KILL_THREAD;
        };
        let numbers = &self.numbers.iter().find(|(of, _)| *of == arch).unwrap().1;
        let rules = || self.rules.iter().zip(numbers).filter(|(rule, _)| value(rule) != self.default);
        let names_it = |numbers: &[u32]| numbers.contains(&data.nr);
        if let Some((rule, _)) = rules().find(|(rule, nrs)| rule.args.is_empty() && names_it(nrs)) {
            return value(rule);
        }
        for (rule, numbers) in rules() {
            if names_it(numbers) && self.matches(rule, data, arch) {
                return value(rule);
            }
            for (inner, outer, number) in INNER {
                let call = data.args[0] as u32 & if outer == "ipc" { 0xffff } else { u32::MAX };
                let outer = arch.syscall(outer) == Some(data.nr);
                if outer && call == number && self.reaches(rule, inner) {
                    return value(rule);
                }
            }
        }
        self.unnamed(data, arch, numbers)
    }

    /// The ABI of a call, if the profile has it.
    fn abi(&self, data: &Data) -> Option<Arch> {
        let marked = data.nr >= 0x4000_0000;
        let x32 = self.archs.contains(&Arch::X32) && marked;
        self.archs.iter().copied().find(|arch| {
            arch.audit() == data.arch
                && match arch {
                    Arch::X86_64 => !marked || (data.nr == u32::MAX && !x32),
                    Arch::X32 => marked,
                    _ => true,
                }
        })
    }

    /// Whether the rule is in force for a call made through another one.
    fn reaches(&self, rule: &Rule<'_>, inner: &str) -> bool {
        let names_it = |rule: &Rule<'_>| rule.names.iter().any(|name| name == inner);
        let always = |rule: &&&Rule<'_>| value(rule) != self.default && rule.args.is_empty() && names_it(rule);
        match self.rules.iter().find(always) {
            Some(first) => std::ptr::eq(*first, rule),
            None => {
                let denies = lets_pass(self.default) && !lets_pass(value(rule));
                value(rule) != self.default && denies && names_it(rule)
            }
        }
    }

    fn matches(&self, rule: &Rule<'_>, data: &Data, arch: Arch) -> bool {
        let indices: Vec<u32> = rule.args.iter().map(|arg| arg.index).collect();
        let twice = (0..6).any(|i| indices.iter().filter(|index| **index == i).count() > 1);
        let mut holds = rule.args.iter().map(|arg| condition(arg, data, narrow(arch)));
        if twice { holds.any(|held| held) } else { holds.all(|held| held) }
    }

    /// The answer to a call without a rule.
    fn unnamed(&self, data: &Data, arch: Arch, numbers: &[Vec<u32>]) -> u32 {
        let outer = INNER.iter().filter(|(inner, ..)| self.rules.iter().any(|rule| self.reaches(rule, inner)));
        let outer = outer.filter_map(|(_, outer, _)| arch.syscall(outer));
        let numbers = numbers.iter().flatten().copied().chain(outer);
        let newest = numbers.filter(|nr| arch != Arch::Arm || *nr < 0xf0000).max();
        let Some(newest) = newest.filter(|_| !lets_pass(self.default)) else {
            return self.default;
        };
        let private = arch == Arch::Arm && data.nr >= 0xf0000;
        let unknown_to_s390 = matches!(arch, Arch::S390 | Arch::S390x) && data.nr == 0;
        if (data.nr > newest && !private) || unknown_to_s390 { ERRNO + ENOSYS } else { self.default }
    }
}

fn value(rule: &Rule<'_>) -> u32 {
    action_value(&rule.action, rule.errno_ret)
}

/// Whether arguments of this ABI are 32 bits wide.
fn narrow(arch: Arch) -> bool {
    matches!(arch, Arch::X86 | Arch::X32 | Arch::Arm | Arch::Mips | Arch::Mips64n32 | Arch::Ppc | Arch::S390)
}

fn condition(arg: &Arg<'_>, data: &Data, narrow: bool) -> bool {
    let cut = |value: u64| {
        if narrow { u64::from(value as u32) } else { value }
    };
    let actual = cut(data.args[arg.index as usize]);
    let value = cut(arg.value);
    match &*arg.op {
        "SCMP_CMP_NE" => actual != value,
        "SCMP_CMP_LT" => actual < value,
        "SCMP_CMP_LE" => actual <= value,
        "SCMP_CMP_EQ" => actual == value,
        "SCMP_CMP_GE" => actual >= value,
        "SCMP_CMP_GT" => actual > value,
        "SCMP_CMP_MASKED_EQ" => actual & value == cut(arg.value_two) & value,
        other => panic!("{other}"),
    }
}

/// Call names for random profiles: neighbours in number, calls that few ABIs have, calls
/// of a special number in x32, private calls of ARM, calls within others.
pub const NAMES: [&str; 36] = [
    "read",
    "write",
    "open",
    "close",
    "stat",
    "fstat",
    "lstat",
    "poll",
    "mmap",
    "rt_sigaction",
    "ioctl",
    "readv",
    "ptrace",
    "execve",
    "personality",
    "clone",
    "clone3",
    "keyctl",
    "socket",
    "connect",
    "accept",
    "sendmmsg",
    "socketcall",
    "semop",
    "shmctl",
    "ipc",
    "set_tls",
    "arm_fadvise64_64",
    "sync_file_range2",
    "arm_sync_file_range",
    "statx",
    "openat2",
    "futex_waitv",
    "file_getattr",
    "uretprobe",
    "no_such_call",
];

const VALUES: [u64; 14] = [
    0,
    1,
    2,
    7,
    38,
    0x0002_0008,
    0x7e02_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    0x1_0000_0007,
    0x8000_0000_0000_0000,
    u64::MAX,
];

/// A value that comparisons are likely to treat differently from its neighbours.
pub fn argument() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => (select(&VALUES[..]), -1_i64..=1).prop_map(|(value, by)| value.wrapping_add_signed(by)),
        1 => any::<u64>(),
    ]
}

fn text(text: &'static str) -> Cow<'static, str> {
    Cow::Borrowed(text)
}

/// An action and its errno.
pub fn action(notify: bool) -> impl Strategy<Value = (&'static str, Option<u32>)> {
    let errno = prop_oneof![Just(None), Just(Some(0)), Just(Some(38)), Just(Some(4095))];
    let plain = [
        "SCMP_ACT_ALLOW",
        "SCMP_ACT_LOG",
        "SCMP_ACT_TRAP",
        "SCMP_ACT_KILL",
        "SCMP_ACT_KILL_THREAD",
        "SCMP_ACT_KILL_PROCESS",
    ];
    let notify = if notify { "SCMP_ACT_NOTIFY" } else { "SCMP_ACT_ALLOW" };
    prop_oneof![
        2 => Just(("SCMP_ACT_ALLOW", None)),
        2 => select(plain.to_vec()).prop_map(|name| (name, None)),
        1 => Just((notify, None)),
        3 => (select(vec!["SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"]), errno),
    ]
}

pub fn arg() -> impl Strategy<Value = Arg<'static>> {
    let operators = vec![
        "SCMP_CMP_NE",
        "SCMP_CMP_LT",
        "SCMP_CMP_LE",
        "SCMP_CMP_EQ",
        "SCMP_CMP_GE",
        "SCMP_CMP_GT",
        "SCMP_CMP_MASKED_EQ",
    ];
    let plain = (0..6_u32, argument(), argument(), select(operators));
    let plain = plain.prop_map(|(index, value, value_two, op)| Arg { index, value, value_two, op: text(op) });
    // The compiler writes several `==` on one argument in a special way.
    let equal = (argument(), any::<bool>()).prop_map(|(value, masked)| Arg {
        index: 0,
        value: if masked { 0xff00_00ff } else { value },
        value_two: value & 0xff00_00ff,
        op: text(if masked { "SCMP_CMP_MASKED_EQ" } else { "SCMP_CMP_EQ" }),
    });
    prop_oneof![plain, equal]
}

pub fn rule() -> impl Strategy<Value = Rule<'static>> {
    let names = prop::collection::vec(select(&NAMES[..]), 1..6);
    let args = prop_oneof![
        2 => Just(Vec::new()),
        3 => prop::collection::vec(arg(), 1..4),
    ];
    (names, action(true), args).prop_map(|(names, (action, errno_ret), args)| {
        // A rule names at least one call, and write(2) must not be notified about.
        let allowed = |name| if action == "SCMP_ACT_NOTIFY" && name == "write" { "read" } else { name };
        let names = names.into_iter().map(|name| text(allowed(name))).collect();
        Rule { names, action: text(action), errno_ret, args }
    })
}

/// A valid profile, and the architecture to compile it for.
pub fn profile() -> impl Strategy<Value = (Profile<'static>, Arch)> {
    let families: Vec<&'static [Arch]> = vec![
        &[Arch::X86_64, Arch::X86, Arch::X32],
        &[Arch::Aarch64, Arch::Arm],
        &[Arch::S390x, Arch::S390],
        &[Arch::Mips64, Arch::Mips, Arch::Mips64n32],
        &[Arch::Ppc64, Arch::Ppc],
    ];
    let archs = select(families).prop_flat_map(|family| (select(family), prop::collection::vec(select(family), 0..4)));
    let rules = prop::collection::vec(rule(), 0..16);
    (archs, action(false), rules).prop_map(|((native, archs), (action, errno), syscalls)| {
        let profile = Profile {
            default_action: text(action),
            default_errno_ret: errno,
            architectures: archs.into_iter().map(|arch| text(arch.name())).collect(),
            listener_path: text("/run/agent.sock"),
            syscalls,
            ..Profile::default()
        };
        (profile, native)
    })
}

/// Call numbers at which the answers of a profile change.
pub fn numbers(profile: &Profile<'_>, archs: &[Arch]) -> Vec<u32> {
    let mut numbers = vec![0, 1, 599, 1023, 4000, 0xf_0000, 0x3fff_ffff, 0x4000_0000, u32::MAX - 1, u32::MAX];
    let names = profile.syscalls.iter().flat_map(|rule| &rule.names);
    for name in names.map(|name| &**name).chain(["socketcall", "ipc"]) {
        for number in archs.iter().filter_map(|arch| arch.syscall(name)) {
            numbers.extend([number.wrapping_sub(1), number, number + 1]);
        }
    }
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}
