//! libseccomp as a second opinion, for profiles of the shape that engines write:
//! `cargo test --features libseccomp-check` (needs libseccomp-dev).
//!
//! Random rules on several arguments are not compared: libseccomp 2.5.4 gets some of these wrong. Neither are calls
//! that this libseccomp does not know, nor calls newer than the profile, which runc and we treat in our own way.
#![cfg(feature = "libseccomp-check")]

mod support;

use std::io::{Read, Seek};

use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use support::{ENOSYS, ERRNO, argument};
use windlass_seccomp::{Arch, Arg, BpfProgram, Data, Profile, Program, Rule, compile, sock_filter};

fn scmp_action(name: &str, errno: Option<u32>) -> ScmpAction {
    let errno = errno.unwrap_or(1);
    match name {
        "SCMP_ACT_ALLOW" => ScmpAction::Allow,
        "SCMP_ACT_LOG" => ScmpAction::Log,
        "SCMP_ACT_TRAP" => ScmpAction::Trap,
        "SCMP_ACT_NOTIFY" => ScmpAction::Notify,
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => ScmpAction::KillThread,
        "SCMP_ACT_KILL_PROCESS" => ScmpAction::KillProcess,
        "SCMP_ACT_ERRNO" => ScmpAction::Errno(errno as i32),
        "SCMP_ACT_TRACE" => ScmpAction::Trace(errno as u16),
        other => panic!("{other}"),
    }
}

fn scmp_condition(arg: &Arg<'_>) -> ScmpArgCompare {
    let (op, datum) = match &*arg.op {
        "SCMP_CMP_NE" => (ScmpCompareOp::NotEqual, arg.value),
        "SCMP_CMP_LT" => (ScmpCompareOp::Less, arg.value),
        "SCMP_CMP_LE" => (ScmpCompareOp::LessOrEqual, arg.value),
        "SCMP_CMP_EQ" => (ScmpCompareOp::Equal, arg.value),
        "SCMP_CMP_GE" => (ScmpCompareOp::GreaterEqual, arg.value),
        "SCMP_CMP_GT" => (ScmpCompareOp::Greater, arg.value),
        "SCMP_CMP_MASKED_EQ" => (ScmpCompareOp::MaskedEqual(arg.value), arg.value_two),
        other => panic!("{other}"),
    };
    ScmpArgCompare::new(arg.index, op, datum)
}

/// The same profile by libseccomp; `None` if it refuses a rule.
fn theirs(profile: &Profile<'_>) -> Option<Program> {
    let default = scmp_action(&profile.default_action, profile.default_errno_ret);
    let mut context = ScmpFilterContext::new(default).unwrap();
    for arch in &profile.architectures {
        context.add_arch(arch.parse::<ScmpArch>().unwrap()).unwrap();
    }
    for rule in &profile.syscalls {
        let action = scmp_action(&rule.action, rule.errno_ret);
        if action == default {
            continue;
        }
        let conditions: Vec<ScmpArgCompare> = rule.args.iter().map(scmp_condition).collect();
        for name in &rule.names {
            let Ok(call) = ScmpSyscall::from_name(name) else {
                continue;
            };
            match conditions.is_empty() {
                true => context.add_rule(action, call).ok()?,
                false => context.add_rule_conditional(action, call, &conditions).ok()?,
            };
        }
    }
    let mut file = tempfile::tempfile().unwrap();
    context.export_bpf(&mut file).unwrap();
    file.rewind().unwrap();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    let instructions = bytes.chunks_exact(8).map(|raw| sock_filter {
        code: u16::from_ne_bytes([raw[0], raw[1]]),
        jt: raw[2],
        jf: raw[3],
        k: u32::from_ne_bytes([raw[4], raw[5], raw[6], raw[7]]),
    });
    Some(Program::from(instructions.collect::<BpfProgram>()))
}

/// Both programs give the same answer to every call that libseccomp knows.
fn compare(profile: &Profile<'_>, args: &[[u64; 6]]) -> Result<(), TestCaseError> {
    let ours = compile(profile, Arch::X86_64).unwrap().program;
    let Some(theirs) = theirs(profile) else {
        return Ok(());
    };
    for (arch, base, scmp) in
        [(Arch::X86_64, 0, ScmpArch::X8664), (Arch::X86, 0, ScmpArch::X86), (Arch::X32, 0x4000_0000, ScmpArch::X32)]
    {
        for nr in base..base + 460 {
            if ScmpSyscall::from(nr as i32).get_name_by_arch(scmp).is_err() {
                continue;
            }
            for &args in args {
                let data = Data { arch: arch.audit(), nr, args, instruction_pointer: 0 };
                let (ours, theirs) = (ours.simulate(&data), theirs.simulate(&data));
                if ours == ERRNO + ENOSYS && theirs != ours {
                    continue; // newer than the profile
                }
                prop_assert_eq!(ours, theirs, "{:x} {:x}: {:x?}", ours, theirs, data);
            }
        }
    }
    Ok(())
}

#[test]
fn libseccomp_agrees_about_a_profile_of_ordinary_shape_and_needs_more_instructions() {
    let text = include_str!("data/engine.json");
    let profile: Profile<'_> = serde_json::from_str(text).unwrap();
    let values = [0, 1, 15, 16, 17, 0xffff_ffff, 0x1000_0000, 0x1_0000_0000, u64::MAX];
    let args: Vec<[u64; 6]> = values.iter().map(|value| [*value; 6]).collect();
    compare(&profile, &args).unwrap();
    let (ours, theirs) = (compile(&profile, Arch::X86_64).unwrap().program, theirs(&profile).unwrap());
    assert!(ours.len() < theirs.len(), "{} {}", ours.len(), theirs.len());
}

#[test]
fn libseccomp_agrees_about_numbers_and_architectures_that_are_not_listed() {
    let mut profile = profile(("SCMP_ACT_ALLOW", None), Vec::new());
    profile.architectures.clear();
    profile.syscalls.push(Rule { names: vec!["read".into()], action: "SCMP_ACT_TRAP".into(), ..Rule::default() });
    let ours = compile(&profile, Arch::X86_64).unwrap().program;
    let theirs = theirs(&profile).unwrap();
    for arch in [Arch::X86_64, Arch::X86, Arch::Aarch64, Arch::S390x] {
        for nr in [0, 1, 0x3fff_ffff, 0x4000_0000, 0x4000_0001, 0x8000_0000, u32::MAX - 1, u32::MAX] {
            let data = Data { arch: arch.audit(), nr, ..Data::default() };
            assert_eq!(ours.simulate(&data), theirs.simulate(&data), "{data:x?}");
        }
    }
}

#[test]
fn libseccomp_has_the_same_numbers() {
    for (arch, name) in [
        (Arch::X86_64, ScmpArch::X8664),
        (Arch::X86, ScmpArch::X86),
        (Arch::X32, ScmpArch::X32),
        (Arch::Aarch64, ScmpArch::Aarch64),
        (Arch::Arm, ScmpArch::Arm),
        (Arch::Mips, ScmpArch::Mips),
        (Arch::Mips64, ScmpArch::Mips64),
        (Arch::Mips64n32, ScmpArch::Mips64N32),
        (Arch::Ppc, ScmpArch::Ppc),
        (Arch::Ppc64le, ScmpArch::Ppc64Le),
        (Arch::S390, ScmpArch::S390),
        (Arch::S390x, ScmpArch::S390X),
        (Arch::Riscv64, ScmpArch::Riscv64),
        (Arch::Parisc, ScmpArch::Parisc),
        (Arch::Parisc64, ScmpArch::Parisc64),
    ] {
        let first = arch.syscall("read").unwrap() & !0xff;
        let mut compared = 0;
        for nr in (first..first + 1024).chain(0xf_0000..0xf_0010) {
            let Ok(call) = ScmpSyscall::from(nr as i32).get_name_by_arch(name) else {
                continue;
            };
            if let Some(ours) = arch.syscall(&call) {
                assert_eq!(ours, nr, "{arch:?} {call}");
                compared += 1;
            } else {
                println!("{arch:?}: {call} {nr} is known to libseccomp only");
            }
        }
        assert!(compared > 250, "{arch:?}: {compared}");
    }
}

const NAMES: [&str; 16] = [
    "read",
    "write",
    "open",
    "close",
    "mmap",
    "ioctl",
    "readv",
    "ptrace",
    "execve",
    "personality",
    "clone",
    "keyctl",
    "statx",
    "socketcall",
    "ipc",
    "connect",
];

fn action() -> impl Strategy<Value = (&'static str, Option<u32>)> {
    let errno = prop_oneof![Just(None), (0..4096_u32).prop_map(Some)];
    prop_oneof![
        select(vec!["SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRAP", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS"])
            .prop_map(|name| (name, None)),
        (Just("SCMP_ACT_ERRNO"), errno),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn libseccomp_agrees_about_unconditional_rules(
        default in action(),
        rules in prop::collection::vec((subsequence(&NAMES[..], 1..6), action()), 1..6),
    ) {
        let syscalls = rules.into_iter().map(|(names, (action, errno_ret))| Rule {
            names: names.into_iter().map(Into::into).collect(),
            action: action.into(),
            errno_ret,
            args: Vec::new(),
        });
        compare(&profile(default, syscalls.collect()), &[[0; 6], [3; 6], [1; 6]])?;
    }

    #[test]
    fn libseccomp_agrees_about_one_condition_for_each_call(
        default in action(),
        rules in prop::collection::vec((action(), support::arg()), 10),
        args in prop::collection::vec(prop::array::uniform6(argument()), 10),
    ) {
        let syscalls = rules.into_iter().zip(NAMES).map(|(((action, errno_ret), arg), name)| Rule {
            names: vec![name.into()],
            action: action.into(),
            errno_ret,
            args: vec![arg],
        });
        compare(&profile(default, syscalls.collect()), &args)?;
    }

    #[test]
    fn libseccomp_agrees_about_alternatives_of_one_action(
        default in action(),
        alternatives in prop::collection::vec(argument(), 1..6),
        args in prop::collection::vec(prop::array::uniform6(argument()), 20),
    ) {
        let syscalls = alternatives.into_iter().map(|value| Rule {
            names: vec!["personality".into()],
            action: "SCMP_ACT_TRACE".into(),
            errno_ret: Some(7),
            args: vec![Arg { index: 0, value, value_two: 0, op: "SCMP_CMP_EQ".into() }],
        });
        compare(&profile(default, syscalls.collect()), &args)?;
    }
}

fn profile(default: (&'static str, Option<u32>), syscalls: Vec<Rule<'static>>) -> Profile<'static> {
    Profile {
        default_action: default.0.into(),
        default_errno_ret: default.1,
        architectures: vec!["SCMP_ARCH_X86".into(), "SCMP_ARCH_X32".into()],
        syscalls,
        ..Profile::default()
    }
}
