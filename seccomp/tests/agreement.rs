//! The program answers every call according to the profile, for random profiles.

mod support;

use proptest::prelude::*;
use support::{Oracle, argument, numbers, profile};
use windlass_seccomp::{Arch, Data, Program, compile};

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_program_answers_like_its_profile(
        (profile, native) in profile(),
        args in prop::collection::vec(prop::array::uniform6(argument()), 6),
        inner in prop::collection::vec(0..26_u64, 4),
    ) {
        let filter = compile(&profile, native).expect("the profile is valid");
        prop_assert!(filter.program.len() <= Program::MAX_LEN);
        let oracle = Oracle::new(&profile, native);
        let inner = inner.into_iter().map(|call| [call, 0, 0, 0, 0, 0]);
        let args: Vec<[u64; 6]> = args.into_iter().chain(inner).collect();
        let family = family(native);
        for nr in numbers(&profile, family) {
            for arch in family {
                for &args in &args {
                    let data = Data { arch: arch.audit(), nr, args, instruction_pointer: 0 };
                    let (is, should) = (filter.program.simulate(&data), oracle.answer(&data));
                    prop_assert_eq!(is, should, "{:x} instead of {:x}: {:x?}", is, should, data);
                }
            }
        }
    }

}

proptest! {
    // A case takes long, as the direct evaluation goes through all rules for each call.
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_long_program_answers_like_its_profile(
        (profile, native) in profile(),
        repeat in 8_u64..24,
        args in prop::collection::vec(prop::array::uniform6(argument()), 2),
    ) {
        // The same rules are repeated with other values, until a jump is too far for one instruction.
        let mut long = profile.clone();
        long.syscalls.clear();
        for round in 0..repeat {
            for rule in &profile.syscalls {
                let mut rule = rule.clone();
                for arg in &mut rule.args {
                    arg.value = arg.value.wrapping_add(round << (round % 40));
                }
                long.syscalls.push(rule);
            }
        }
        let filter = match compile(&long, native) {
            Ok(filter) => filter,
            Err(problems) => {
                prop_assert!(problems[0].message.contains("4096"), "{:?}", problems);
                return Ok(());
            }
        };
        let oracle = Oracle::new(&long, native);
        for nr in numbers(&profile, &[native]) {
            for &args in &args {
                let data = Data { arch: native.audit(), nr, args, instruction_pointer: 0 };
                prop_assert_eq!(filter.program.simulate(&data), oracle.answer(&data), "{:x?}", data);
            }
        }
    }
}

/// The ABIs of one kernel.
fn family(native: Arch) -> &'static [Arch] {
    match native {
        Arch::X86_64 | Arch::X86 | Arch::X32 => &[Arch::X86_64, Arch::X86, Arch::X32],
        Arch::Aarch64 | Arch::Arm => &[Arch::Aarch64, Arch::Arm],
        Arch::S390x | Arch::S390 => &[Arch::S390x, Arch::S390],
        Arch::Ppc64 | Arch::Ppc => &[Arch::Ppc64, Arch::Ppc],
        _ => &[Arch::Mips64, Arch::Mips, Arch::Mips64n32],
    }
}
