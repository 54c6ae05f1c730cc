//! The effects of single features of a profile, and refused profiles.

mod support;

use serde_json::{Value, json};
use support::*;
use windlass_seccomp::{Arch, Data, Filter, Problem, Profile, compile};

fn compiled(profile: &Value) -> Result<Filter, Vec<Problem>> {
    compile_for(profile, Arch::X86_64)
}

fn compile_for(profile: &Value, native: Arch) -> Result<Filter, Vec<Problem>> {
    let text = profile.to_string();
    compile(&serde_json::from_str::<Profile<'_>>(&text).expect("a profile"), native)
}

fn filter(profile: &Value) -> Filter {
    compiled(profile).expect("a valid profile")
}

fn call(filter: &Filter, arch: Arch, nr: u32, args: &[u64]) -> u32 {
    let mut all = [0; 6];
    all[..args.len()].copy_from_slice(args);
    filter.program.simulate(&Data { arch: arch.audit(), nr, args: all, instruction_pointer: 0 })
}

fn answer(filter: &Filter, name: &str, args: &[u64]) -> u32 {
    let nr = Arch::X86_64.syscall(name).expect("a call of x86_64");
    call(filter, Arch::X86_64, nr, args)
}

fn faults(profile: &Value) -> Vec<(String, String)> {
    let problems = compiled(profile).expect_err("a faulty profile");
    problems.into_iter().map(|problem| (problem.pointer, problem.message)).collect()
}

#[test]
fn each_action_has_its_return_value() {
    let errno = |action| matches!(action, "SCMP_ACT_ERRNO" | "SCMP_ACT_TRACE");
    for action in windlass_seccomp::actions() {
        let mut rule = json!({"names": ["read"], "action": action});
        let default = if action == "SCMP_ACT_ALLOW" { "SCMP_ACT_LOG" } else { "SCMP_ACT_ALLOW" };
        let mut profile = json!({"defaultAction": default, "listenerPath": "/a", "syscalls": [rule]});
        assert_eq!(answer(&filter(&profile), "read", &[]), action_value(action, None), "{action}");
        if errno(action) {
            rule["errnoRet"] = json!(4095);
            profile["syscalls"][0] = rule;
            assert_eq!(answer(&filter(&profile), "read", &[]), action_value(action, Some(4095)));
        }
    }
}

#[test]
fn the_default_action_has_the_default_errno() {
    let profile = json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 13});
    assert_eq!(answer(&filter(&profile), "read", &[]), ERRNO + 13);
    let profile = json!({"defaultAction": "SCMP_ACT_ERRNO"});
    assert_eq!(answer(&filter(&profile), "read", &[]), ERRNO + 1);
    let profile = json!({"defaultAction": "SCMP_ACT_TRACE", "defaultErrnoRet": 0xffff});
    assert_eq!(answer(&filter(&profile), "read", &[]), TRACE + 0xffff);
}

#[test]
fn each_operator_compares_all_64_bits() {
    let v = 0x1_0000_0005_u64;
    let yes_and_no: [(&str, &[u64], &[u64]); 7] = [
        ("NE", &[5, v + 1, v - 1], &[v]),
        ("LT", &[0, 5, 6, 0xffff_ffff, v - 1], &[v, v + 1, 2 << 32, u64::MAX]),
        ("LE", &[0, 6, v - 1, v], &[v + 1, 2 << 32, u64::MAX]),
        ("EQ", &[v], &[5, v + 1, 2 << 32 | 5]),
        ("GE", &[v, v + 1, 2 << 32], &[0, 6, v - 1]),
        ("GT", &[v + 1, 2 << 32], &[0, 6, v - 1, v]),
        ("MASKED_EQ", &[5, 7, 0xfff0_0000_0000_0005], &[4, v, 0xffff_fffe]),
    ];
    for (op, yes, no) in yes_and_no {
        let (value, two) = if op == "MASKED_EQ" { (v, 5) } else { (v, 0) };
        let profile = json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{
            "names": ["read"], "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 3, "value": value, "valueTwo": two, "op": format!("SCMP_CMP_{op}")}],
        }]});
        let filter = filter(&profile);
        for (values, expected) in [(yes, ALLOW), (no, ERRNO + 1)] {
            for value in values {
                let args = [v, v, v, *value, v, v];
                assert_eq!(answer(&filter, "read", &args), expected, "{op} {value:#x}");
            }
        }
    }
}

#[test]
fn conditions_on_several_arguments_must_all_hold() {
    let profile = json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{
        "names": ["read"], "action": "SCMP_ACT_ALLOW",
        "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}, {"index": 5, "value": 2, "op": "SCMP_CMP_EQ"}],
    }]});
    let filter = filter(&profile);
    assert_eq!(answer(&filter, "read", &[1, 0, 0, 0, 0, 2]), ALLOW);
    assert_eq!(answer(&filter, "read", &[1]), ERRNO + 1);
    assert_eq!(answer(&filter, "read", &[0, 0, 0, 0, 0, 2]), ERRNO + 1);
}

#[test]
fn conditions_on_one_argument_are_alternatives() {
    let profile = json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{
        "names": ["read"], "action": "SCMP_ACT_ALLOW",
        "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}, {"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}],
    }]});
    let filter = filter(&profile);
    let answers = [0, 1, 2, 3].map(|arg| answer(&filter, "read", &[arg]));
    assert_eq!(answers, [ERRNO + 1, ALLOW, ALLOW, ERRNO + 1]);
}

#[test]
fn a_rule_without_conditions_beats_those_with_and_the_first_such_wins() {
    let profile = json!({"defaultAction": "SCMP_ACT_KILL", "syscalls": [
        {"names": ["read"], "action": "SCMP_ACT_TRAP", "args": [{"index": 0, "value": 0, "op": "SCMP_CMP_GE"}]},
        {"names": ["read"], "action": "SCMP_ACT_ALLOW"},
        {"names": ["read"], "action": "SCMP_ACT_LOG"},
    ]});
    assert_eq!(answer(&filter(&profile), "read", &[]), ALLOW);
}

#[test]
fn a_rule_that_repeats_the_default_changes_nothing() {
    let profile = json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 5, "syscalls": [
        {"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5},
        {"names": ["read"], "action": "SCMP_ACT_ALLOW"},
    ]});
    assert_eq!(answer(&filter(&profile), "read", &[]), ALLOW);
}

#[test]
fn calls_newer_than_the_profile_are_not_there() {
    let profile = |default: &str| {
        json!({"defaultAction": default, "syscalls": [
            {"names": ["read", "openat2"], "action": "SCMP_ACT_TRAP"},
        ]})
    };
    for (default, newer) in [
        ("SCMP_ACT_ERRNO", ERRNO + ENOSYS),
        ("SCMP_ACT_KILL", ERRNO + ENOSYS),
        ("SCMP_ACT_KILL_PROCESS", ERRNO + ENOSYS),
        ("SCMP_ACT_ALLOW", ALLOW),
        ("SCMP_ACT_LOG", LOG),
        ("SCMP_ACT_TRACE", TRACE + 1),
    ] {
        let filter = filter(&profile(default));
        let openat2 = Arch::X86_64.syscall("openat2").unwrap();
        assert_eq!(call(&filter, Arch::X86_64, openat2, &[]), TRAP, "{default}");
        assert_eq!(call(&filter, Arch::X86_64, openat2 - 1, &[]), action_value(default, None));
        assert_eq!(call(&filter, Arch::X86_64, openat2 + 1, &[]), newer, "{default}");
        assert_eq!(call(&filter, Arch::X86_64, 0x3fff_ffff, &[]), newer, "{default}");
    }
}

#[test]
fn the_newest_call_is_known_for_each_architecture_by_itself() {
    let profile = json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [{"names": ["ptrace", "read"], "action": "SCMP_ACT_ALLOW"}],
    });
    let filter = filter(&profile);
    for (arch, ptrace) in [(Arch::X86_64, 101), (Arch::X86, 26), (Arch::X32, 0x4000_0209)] {
        assert_eq!(call(&filter, arch, ptrace, &[]), ALLOW);
        assert_eq!(call(&filter, arch, ptrace - 1, &[]), ERRNO + 1);
        assert_eq!(call(&filter, arch, ptrace + 1, &[]), ERRNO + ENOSYS);
    }
}

#[test]
fn number_0_of_s390_stands_for_calls_that_the_kernel_does_not_know() {
    let profile = json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
        {"names": ["exit", "read"], "action": "SCMP_ACT_ALLOW"},
    ]});
    let filter = compile_for(&profile, Arch::S390x).unwrap();
    let answers = [0, 1, 2, 3, 4].map(|nr| call(&filter, Arch::S390x, nr, &[]));
    assert_eq!(answers, [ERRNO + ENOSYS, ALLOW, ERRNO + 1, ALLOW, ERRNO + ENOSYS]);
}

#[test]
fn architectures_that_are_not_listed_are_killed() {
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW"});
    let filter = filter(&profile);
    assert_eq!(call(&filter, Arch::X86_64, 0, &[]), ALLOW);
    assert_eq!(call(&filter, Arch::X86, 3, &[]), KILL_THREAD);
    assert_eq!(call(&filter, Arch::Aarch64, 3, &[]), KILL_THREAD);
    assert_eq!(call(&filter, Arch::X32, 0x4000_0000, &[]), KILL_THREAD);
    // A tracer sets this number to have a call skipped. Its bits look like x32, but it is no call at all.
    assert_eq!(call(&filter, Arch::X86_64, u32::MAX, &[]), ALLOW);
}

#[test]
fn a_call_inside_socketcall_gets_the_answer_of_its_own_rule() {
    let profile = |default: &str, action: &str, args: Value| {
        json!({
            "defaultAction": default, "architectures": ["SCMP_ARCH_X86"],
            "syscalls": [{"names": ["connect", "shmat"], "action": action, "args": args}],
        })
    };
    let (socketcall, ipc) = (102, 117);
    let open = filter(&profile("SCMP_ACT_ERRNO", "SCMP_ACT_ALLOW", Value::Null));
    assert_eq!(call(&open, Arch::X86, socketcall, &[3]), ALLOW);
    assert_eq!(call(&open, Arch::X86, socketcall, &[4]), ERRNO + 1);
    assert_eq!(call(&open, Arch::X86, ipc, &[21]), ALLOW);
    assert_eq!(call(&open, Arch::X86, ipc, &[1 << 16 | 21]), ALLOW);
    assert_eq!(call(&open, Arch::X86, ipc, &[22]), ERRNO + 1);

    // The filter cannot see the arguments: a denial then covers every call, and a permission covers none.
    let condition = json!([{"index": 0, "value": 9, "op": "SCMP_CMP_EQ"}]);
    let deny = filter(&profile("SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", condition.clone()));
    assert_eq!(call(&deny, Arch::X86, socketcall, &[3]), ERRNO + 1);
    let allow = filter(&profile("SCMP_ACT_ERRNO", "SCMP_ACT_ALLOW", condition));
    assert_ne!(call(&allow, Arch::X86, socketcall, &[3]), ALLOW);
}

#[test]
fn flags_become_bits() {
    let flags = |flags: Value| filter(&json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": flags})).flags;
    assert_eq!(flags(json!([])), 0);
    assert_eq!(flags(json!(["SECCOMP_FILTER_FLAG_TSYNC"])), 1);
    assert_eq!(flags(json!(["SECCOMP_FILTER_FLAG_LOG"])), 2);
    assert_eq!(flags(json!(["SECCOMP_FILTER_FLAG_SPEC_ALLOW"])), 4);
    assert_eq!(flags(Value::Null), 4, "absent flags mean SPEC_ALLOW");
}

#[test]
fn a_listener_brings_the_flags_that_the_kernel_wants_with_it() {
    let mut profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/agent", "listenerMetadata": "x",
        "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", "SECCOMP_FILTER_FLAG_TSYNC"],
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}],
    });
    let with = filter(&profile);
    assert!(with.needs_listener && with.warnings.is_empty());
    assert_eq!(with.flags, 0x39, "TSYNC, NEW_LISTENER, TSYNC_ESRCH, WAIT_KILLABLE_RECV");
    assert_eq!(answer(&with, "mkdir", &[]), NOTIFY);

    profile["syscalls"][0]["action"] = json!("SCMP_ACT_LOG");
    let without = filter(&profile);
    assert!(!without.needs_listener);
    assert_eq!(without.flags, 1, "the kernel refuses WAIT_KILLABLE_RECV alone");
    let pointers: Vec<&str> = without.warnings.iter().map(|warning| &*warning.pointer).collect();
    assert_eq!(pointers, ["/flags", "/listenerPath"]);
}

#[test]
fn unknown_calls_are_skipped_with_a_warning() {
    let profile = json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
        {"names": ["read", "frobnicate", "cacheflush"], "action": "SCMP_ACT_ALLOW"},
    ]});
    let filter = filter(&profile);
    assert_eq!(answer(&filter, "read", &[]), ALLOW);
    // The call exists in another architecture, so there is no warning.
    assert_eq!(filter.warnings.len(), 1);
    assert_eq!(filter.warnings[0].to_string(), r#"/syscalls/0/names/1: unknown system call "frobnicate""#);
}

#[test]
fn all_problems_are_reported_at_once() {
    let profile = json!({
        "defaultAction": "SCMP_ACT_NOTIFY",
        "defaultErrnoRet": 1,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_PDP11", "SCMP_ARCH_S390X"],
        "flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_FAST"],
        "listenerMetadata": "x",
        "syscalls": [
            {"names": ["read"], "action": "allow"},
            {"names": ["read"]},
            {"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 4096},
            {"names": ["read"], "action": "SCMP_ACT_TRACE", "errnoRet": 65536},
            {"names": ["read"], "action": "SCMP_ACT_ALLOW", "errnoRet": 0},
            {"names": ["close", "write", ""], "action": "SCMP_ACT_NOTIFY"},
            {"names": ["read"], "action": "SCMP_ACT_LOG", "args": [
                {"index": 6, "value": 0, "op": "=="},
                {"index": 5, "value": 0, "op": null},
            ]},
        ],
    });
    let pointers: Vec<String> = faults(&profile).into_iter().map(|(pointer, _)| pointer).collect();
    assert_eq!(
        pointers,
        [
            "/architectures/1",
            "/architectures/2",
            "/defaultErrnoRet",
            "/defaultAction",
            "/syscalls/0/action",
            "/syscalls/1/action",
            "/syscalls/2/errnoRet",
            "/syscalls/3/errnoRet",
            "/syscalls/4/errnoRet",
            "/syscalls/5/names/1",
            "/syscalls/5/names/2",
            "/syscalls/6/args/0/op",
            "/syscalls/6/args/0/index",
            "/syscalls/6/args/1/op",
            "/flags/1",
            "/listenerPath",
            "/listenerMetadata",
        ]
    );
}

#[test]
fn a_profile_that_needs_too_many_instructions_is_refused() {
    let rule = |value: u64| {
        json!({
            "names": ["read"], "action": "SCMP_ACT_ALLOW",
            "args": [{"index": value % 6, "value": value, "op": "SCMP_CMP_GT"}],
        })
    };
    let rules = |count| {
        json!({
            "defaultAction": "SCMP_ACT_ERRNO", "syscalls": (0..count).map(rule).collect::<Vec<_>>(),
        })
    };
    let fits = filter(&rules(800));
    assert!(fits.program.len() > 4000, "{}", fits.program.len());
    let faults = faults(&rules(900));
    assert_eq!(faults.len(), 1);
    assert_eq!(faults[0].0, "/syscalls");
    assert!(faults[0].1.contains("4096"), "{}", faults[0].1);
}

#[test]
fn a_profile_of_ordinary_shape_is_small() {
    let text = include_str!("data/engine.json");
    let profile: Profile<'_> = serde_json::from_str(text).unwrap();
    let filter = compile(&profile, Arch::X86_64).unwrap();
    assert_eq!(filter.warnings, []);
    assert!(filter.program.len() < 350, "{}", filter.program.len());
}

#[test]
fn a_call_is_refused_if_it_fails_with_arguments_of_zeros_and_of_ones() {
    let rules = json!([
        {"names": ["getsid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
        {"names": ["getpgid"], "action": "SCMP_ACT_KILL_PROCESS"},
        {"names": ["getpriority"], "action": "SCMP_ACT_TRAP"},
        {"names": ["getuid"], "action": "SCMP_ACT_LOG"},
        {"names": ["getgid"], "action": "SCMP_ACT_TRACE", "errnoRet": 7},
        {"names": ["lseek"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 0, "op": "SCMP_CMP_EQ"}]},
        {"names": ["fchmod"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 5, "op": "SCMP_CMP_NE"}]},
    ]);
    let architectures = json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]);
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": architectures, "syscalls": rules});
    let filter = filter(&profile);
    for arch in [Arch::X86_64, Arch::X86] {
        for refused in ["getsid", "getpgid", "getpriority", "fchmod"] {
            assert!(filter.refuses(arch, refused), "{refused}");
        }
        for allowed in ["getuid", "getgid", "lseek", "getppid", "no such call"] {
            assert!(!filter.refuses(arch, allowed), "{allowed}");
        }
    }
}

#[test]
fn a_call_is_allowed_by_the_action_allow_alone() {
    let rules = json!([
        {"names": ["getuid"], "action": "SCMP_ACT_LOG"},
        {"names": ["getgid"], "action": "SCMP_ACT_TRACE", "errnoRet": 7},
        {"names": ["lseek"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 1, "value": 5, "op": "SCMP_CMP_EQ"}]},
    ]);
    let architectures = json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]);
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": architectures, "syscalls": rules});
    let filter = filter(&profile);
    for arch in [Arch::X86_64, Arch::X86] {
        assert!(filter.allows(arch, "getppid", [0; 6]) && filter.allows(arch, "no such call", [0; 6]));
        assert!(!filter.allows(arch, "getuid", [0; 6]) && !filter.allows(arch, "getgid", [0; 6]));
        assert!(filter.allows(arch, "lseek", [5, 4, 0, 0, 0, 0]) && !filter.allows(arch, "lseek", [0, 5, 0, 0, 0, 0]));
    }
}

#[test]
fn conditions_on_one_argument_are_alternatives_for_each_argument_and_after_other_rules() {
    let condition = |index: u32, value: u64| json!({"index": index, "value": value, "op": "SCMP_CMP_EQ"});
    for index in 0..6 {
        let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["getsid"], "action": "SCMP_ACT_ERRNO", "args": [condition(0, 9)]},
            {"names": ["lseek"], "action": "SCMP_ACT_ERRNO", "args": [condition(index, 1), condition(index, 2)]},
            {"names": ["getpgid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 9, "args": [condition(0, 3), condition(1, 3)]},
        ]});
        let filter = filter(&profile);
        for (value, refused) in [(1, true), (2, true), (3, false)] {
            let mut args = [0; 6];
            args[index as usize] = value;
            assert_eq!(answer(&filter, "lseek", &args) != ALLOW, refused, "argument {index} is {value}");
        }
        assert_eq!(answer(&filter, "getpgid", &[3, 3]), ERRNO + 9);
        assert_eq!((answer(&filter, "getpgid", &[3, 0]), answer(&filter, "getsid", &[3])), (ALLOW, ALLOW));
    }
}

#[test]
fn a_listener_alone_does_not_ask_for_the_thread_that_could_not_follow() {
    let profile = |flags: &[&str]| {
        let rule = json!({"names": ["getsid"], "action": "SCMP_ACT_NOTIFY"});
        json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/a", "flags": flags, "syscalls": [rule]})
    };
    // SECCOMP_FILTER_FLAG_NEW_LISTENER, _TSYNC and _TSYNC_ESRCH of linux/seccomp.h.
    assert_eq!(filter(&profile(&[])).flags, 1 << 3);
    assert_eq!(filter(&profile(&["SECCOMP_FILTER_FLAG_TSYNC"])).flags, 1 << 3 | 1 | 1 << 4);
}
