//! seccompiler's own compiler as a second opinion, for profiles that it can express: one architecture, one action
//! beside the default, no call newer than the profile.
#![cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]

mod support;

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::sample::select;
use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};
use support::{arg, argument};
use windlass_seccomp::{Arch, Arg, Data, Profile, Program, Rule, compile};

const NAMES: [&str; 10] =
    ["read", "write", "close", "ioctl", "readv", "personality", "clone", "socket", "statx", "file_setattr"];

/// Rules of one condition for each argument, as two would be alternatives in OCI only.
fn rule() -> impl Strategy<Value = Rule<'static>> {
    let args = prop::collection::vec(arg(), 0..4).prop_map(|mut args| {
        args.sort_by_key(|arg| arg.index);
        args.dedup_by_key(|arg| arg.index);
        args
    });
    (select(&NAMES[..]), args).prop_map(|(name, args)| Rule {
        names: vec![name.into()],
        action: "SCMP_ACT_ERRNO".into(),
        errno_ret: Some(5),
        args,
    })
}

fn condition(arg: &Arg<'_>) -> SeccompCondition {
    let (op, value) = match &*arg.op {
        "SCMP_CMP_NE" => (SeccompCmpOp::Ne, arg.value),
        "SCMP_CMP_LT" => (SeccompCmpOp::Lt, arg.value),
        "SCMP_CMP_LE" => (SeccompCmpOp::Le, arg.value),
        "SCMP_CMP_EQ" => (SeccompCmpOp::Eq, arg.value),
        "SCMP_CMP_GE" => (SeccompCmpOp::Ge, arg.value),
        "SCMP_CMP_GT" => (SeccompCmpOp::Gt, arg.value),
        "SCMP_CMP_MASKED_EQ" => (SeccompCmpOp::MaskedEq(arg.value), arg.value_two),
        other => panic!("{other}"),
    };
    SeccompCondition::new(arg.index as u8, SeccompCmpArgLen::Qword, op, value).unwrap()
}

fn theirs(profile: &Profile<'_>) -> Program {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    let mut always = Vec::new();
    for rule in &profile.syscalls {
        let nr = i64::from(Arch::native().syscall(&rule.names[0]).unwrap());
        let conditions: Vec<SeccompCondition> = rule.args.iter().map(condition).collect();
        let rules = rules.entry(nr).or_default();
        match SeccompRule::new(conditions) {
            Ok(rule) => rules.push(rule),
            Err(_) => always.push(nr),
        }
    }
    // seccompiler has no empty rule: without any rule, the call always matches.
    for nr in always {
        rules.insert(nr, Vec::new());
    }
    let arch = TargetArch::try_from(std::env::consts::ARCH).unwrap();
    let (default, action) = (SeccompAction::Allow, SeccompAction::Errno(5));
    let filter = SeccompFilter::new(rules, default, action, arch).unwrap();
    Program::from(seccompiler::BpfProgram::try_from(filter).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn seccompiler_agrees(
        syscalls in prop::collection::vec(rule(), 1..10),
        args in prop::collection::vec(prop::array::uniform6(argument()), 20),
    ) {
        let profile = Profile { default_action: "SCMP_ACT_ALLOW".into(), syscalls, ..Profile::default() };
        let ours = compile(&profile, Arch::native()).unwrap().program;
        let theirs = theirs(&profile);
        for nr in 0..500 {
            for &args in &args {
                let data = Data { arch: Arch::native().audit(), nr, args, instruction_pointer: 0 };
                prop_assert_eq!(ours.simulate(&data), theirs.simulate(&data), "{:x?}", data);
            }
        }
        prop_assert!(ours.len() <= theirs.len(), "{} {}", ours.len(), theirs.len());
    }
}
