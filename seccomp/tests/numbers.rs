//! Compares the numbers of the table with the crate `syscalls`, which others have made from the kernel's own tables.

use windlass_seccomp::Arch;

fn compare(arch: Arch, first: u32, calls: impl Iterator<Item = (&'static str, i32)>) {
    let (mut compared, mut missing) = (0, Vec::new());
    for (name, number) in calls {
        // `break` is a word of Rust.
        let name = name.trim_start_matches("r#");
        // `syscalls` gives aarch64 the calls that only 32-bit ABIs have, and one macro of the
        // headers, which names no call.
        if arch == Arch::Aarch64 && ((403..=423).contains(&number) || name == "fstatat") {
            continue;
        }
        let Some(ours) = arch.syscall(name) else {
            missing.push(format!("{arch:?} {name} {number}"));
            continue;
        };
        assert_eq!(ours, first + number as u32 % 1000, "{arch:?} {name}");
        compared += 1;
    }
    assert!(missing.is_empty(), "{missing:?}");
    assert!(compared > 250, "{arch:?}: {compared} calls");
}

macro_rules! compare {
    ($arch:expr, $first:expr, $module:ident) => {
        let calls = syscalls::$module::Sysno::iter().map(|call| (call.name(), call.id()));
        // MIPS has names for holes.
        let hole = |name: &str| name.starts_with("unused") || name.starts_with("reserved");
        compare($arch, $first, calls.filter(|(name, _)| !hole(name)));
    };
}

#[test]
fn every_call_has_the_number_that_others_know() {
    compare!(Arch::X86_64, 0, x86_64);
    compare!(Arch::X86, 0, x86);
    compare!(Arch::Aarch64, 0, aarch64);
    compare!(Arch::Arm, 0, arm);
    compare!(Arch::Riscv64, 0, riscv64);
    compare!(Arch::S390x, 0, s390x);
    compare!(Arch::Ppc, 0, powerpc);
    compare!(Arch::Ppc64le, 0, powerpc64);
    compare!(Arch::Mips, 4000, mips);
    compare!(Arch::Mips64, 5000, mips64);
}
